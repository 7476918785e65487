//! The bench's own measure, against strongSwan: a tunnel counts, and a rekeying of it, once a packet has come through. Needs
//! root.

use portcullis_bench::ike::trial;

/// More than are served at once.
const TUNNELS: u32 = 10;

#[test]
fn every_tunnel_of_strongswan_is_seen_to_carry_packets_before_and_after_its_rekeying() {
    assert_eq!(trial(TUNNELS).unwrap(), [TUNNELS, TUNNELS]);
}
