//! The bench's own measure: through a gateway that is in no hurry every packet arrives, once and in order, and one that
//! does not is missed. Needs root.

use std::collections::BTreeMap;

use portcullis_bench::forward::{Mode, send};

/// Packets, and how many in a second: far fewer than any gateway takes.
const PACKETS: u64 = 600;
const RATE: f64 = 3000.0;

#[test]
fn every_packet_arrives_in_order_in_every_mode() {
    for mode in Mode::ALL {
        let counts = send(mode, PACKETS, RATE, None).unwrap();
        assert_eq!((counts.sent, counts.received), (PACKETS, PACKETS), "{mode:?} {counts:?}");
        assert_eq!((counts.reordered, counts.broken), (0, 0), "{mode:?} {counts:?}");
        assert_eq!(counts.drops, BTreeMap::new(), "{mode:?}");
    }
}

#[test]
fn a_packet_that_the_gateway_drops_is_counted_as_lost() {
    for mode in Mode::ALL {
        let counts = send(mode, PACKETS, RATE, Some(PACKETS / 2)).unwrap();
        assert_eq!((counts.sent, counts.received), (PACKETS, PACKETS - 1), "{mode:?} {counts:?}");
        assert_eq!((counts.reordered, counts.broken), (0, 0), "{mode:?} {counts:?}");
        assert_eq!(counts.drops, BTreeMap::from([("ttl_expired".to_owned(), 1)]), "{mode:?}");
    }
}
