//! What a trace says of packets, and that it changes nothing about them.

mod common;

use std::sync::Arc;

use common::{Child, INSIDE, OUTSIDE, Packet, Pair, Rig, pair, ts};
use portcullis_gateway::drop::DropReason;
use portcullis_gateway::trace::{Class, Fate, Octets, Place, Record, Session};
use portcullis_ipsec::PolicyAction;

fn session(rig: &Rig, filter: &str, octets: Octets) -> Arc<Session> {
    let Ok(filter) = filter.parse() else { unreachable!("a filter of this test") };
    let Some(session) = rig.trace.open(filter, 1000, octets) else { unreachable!("the first session") };
    session
}

fn records(session: &Session) -> Vec<Arc<Record>> {
    std::iter::from_fn(|| session.next()).collect()
}

fn packets(count: u16) -> Vec<Vec<u8>> {
    let packet = |n| Packet { ports: (1000 + n, 2000), ..Packet::between(1, 2, false, 100) };
    (0..count).map(|n| packet(n).octets()).collect()
}

#[test]
fn a_packet_is_followed_into_the_tunnel_and_out_of_it() {
    let Pair { mut a, mut b, a_spi, b_spi, .. } = pair(&Child::between(1, 2));
    let (at_a, at_b) = (session(&a, "host 10.1.0.9", Octets::None), session(&b, "port 1001", Octets::None));
    let sealed = a.inside(&packets(3)).only_sent(OUTSIDE);
    let seen = records(&at_a);
    assert_eq!(seen.len(), 3);
    let first = &seen[0];
    assert_eq!(
        (first.received_on.as_deref(), first.class, first.sealed),
        (Some("inside"), Class::Clear, true)
    );
    assert_eq!(first.policy, Some(("connection/child".to_owned(), PolicyAction::Protect)));
    assert_eq!((first.spi_in, first.spi_out), (None, Some(b_spi)));
    assert_eq!(first.fate, Fate::Sent("outside".to_owned()));
    assert!(seen[0].number < seen[1].number && seen[1].number < seen[2].number);
    assert!(first.octets.is_empty(), "nobody asked for them");

    let opened = b.outside(&sealed).only_sent(INSIDE);
    assert_eq!(opened.len(), 3, "looking on changes nothing");
    let seen = records(&at_b);
    let [second] = seen.as_slice() else { panic!("{seen:?}") };
    assert_eq!((second.class, second.spi_in, second.sealed), (Class::Esp, Some(b_spi), false));
    assert_eq!(second.inner.map(|inner| inner.src_port), Some(Some(1001)));
    assert_eq!(second.policy, Some(("connection/child".to_owned(), PolicyAction::Protect)));
    assert_eq!((second.spi_out, &second.fate), (Some(a_spi), &Fate::Sent("inside".to_owned())));
    // Not opened twice as far as the SA goes.
    b.outside(&sealed).only_dropped(DropReason::Replayed, 3);
    assert_eq!(records(&at_b)[0].dropped(), Some(DropReason::Replayed));
}

#[test]
fn a_drop_is_traced_with_its_reason_and_whether_the_sender_was_told() {
    let Pair { mut a, .. } = pair(&Child::between(1, 2));
    let trace = session(&a, "dropped", Octets::None);
    let fine = Packet::between(1, 2, false, 100).octets();
    let ended = Packet { ttl: 1, ..Packet::between(1, 2, false, 100) }.octets();
    let stranger = Packet { dst: common::ip("10.9.0.1"), ..Packet::between(1, 2, false, 100) }.octets();
    let outcome = a.inside(&[fine.clone(), ended, stranger, fine]);
    assert_eq!(outcome.sent(OUTSIDE).len(), 2);
    let seen = records(&trace);
    let drops: Vec<_> = seen.iter().map(|record| (record.dropped(), record.answered)).collect();
    assert_eq!(drops, [(Some(DropReason::TtlExpired), true), (Some(DropReason::NoPolicy), false)]);
    assert_eq!(seen[1].policy, None);
}

#[test]
fn a_filter_by_policy_or_spi_finds_its_own_packets_alone() {
    let Pair { mut a, b_spi, .. } = pair(&Child::between(1, 2));
    a.policy_to(PolicyAction::Bypass, &[ts("10.1.0.0/16")], &[ts("10.2.0.0/16[udp/53]")]);
    let (by_policy, by_spi) =
        (session(&a, "policy other", Octets::None), session(&a, &format!("spi {b_spi}"), Octets::None));
    let dns = Packet { ports: (1000, 53), ..Packet::between(1, 2, false, 100) };
    a.inside(&[dns.octets(), Packet::between(1, 2, false, 100).octets()]);
    assert!(records(&by_policy).is_empty());
    let seen = records(&by_spi);
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].flow.and_then(|flow| flow.dst_port), Some(2000));
}

#[test]
fn octets_are_kept_for_each_place_and_marked_where_esp_protects_them() {
    let Pair { mut a, mut b, .. } = pair(&Child::between(1, 2));
    let (at_a, at_b) = (session(&a, "", Octets::Decrypted), session(&b, "", Octets::Outer));
    let packet = Packet::between(1, 2, false, 100);
    let sealed = a.inside(&[packet.octets()]).only_sent(OUTSIDE);
    let seen = records(&at_a);
    let places: Vec<_> =
        seen[0].octets.iter().map(|piece| (piece.place, piece.ethernet, piece.protected)).collect();
    assert_eq!(places, [(Place::Received, true, true), (Place::Sent, true, false)]);
    assert_eq!(seen[0].octets[0].octets[14..], packet.octets());
    assert_eq!(seen[0].octets[1].octets[14..], sealed[0]);

    b.outside(&sealed);
    let seen = records(&at_b);
    let places: Vec<_> = seen[0].octets.iter().map(|piece| (piece.place, piece.protected)).collect();
    assert_eq!(
        places,
        [(Place::Received, false), (Place::Sent, true)],
        "nobody asked for what was decrypted"
    );
    b.trace.close(&at_b);
    let decrypted = session(&b, "", Octets::Decrypted);
    let again = a.inside(&[packet.octets()]).only_sent(OUTSIDE);
    b.outside(&again);
    let seen = records(&decrypted);
    let inner = seen[0].octets.iter().find(|piece| piece.place == Place::Decrypted);
    assert_eq!(inner.map(|piece| piece.octets.as_slice()), Some(packet.forwarded().as_slice()));
}

#[test]
fn without_a_session_nothing_is_kept_and_a_closed_one_gets_nothing_more() {
    let Pair { mut a, .. } = pair(&Child::between(1, 2));
    let trace = session(&a, "", Octets::None);
    a.trace.close(&trace);
    a.inside(&packets(2));
    assert!(records(&trace).is_empty() && trace.missed() == 0);
}
