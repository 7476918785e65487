//! Rates of tunnels, by a clock that stands still unless it is told to go on.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "where a test cannot go on it fails")]

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use portcullis_gateway::drop::DropReason;
use portcullis_gateway::pipeline::{Ingress, Output};
use portcullis_ipsec::{PolicyCounters, RateLimit, RateLimits};

use common::{Child, INSIDE, OUTSIDE, Outcome, Packet, Pair, Rig, ethernet, pair, port_mac};

const RATE_OUT: &str = DropReason::RateOut.label();
const RATE_IN: &str = DropReason::RateIn.label();

/// 1000 octets a second, and 5000 at once.
fn slow() -> Option<RateLimit> {
    Some(RateLimit { bits_per_second: 8_000.try_into().unwrap(), burst: 5_000.try_into().unwrap() })
}

fn limit(rig: &Rig, inbound: Option<RateLimit>, outbound: Option<RateLimit>) {
    let limits = RateLimits { inbound, outbound };
    rig.installer
        .set_rates(BTreeMap::from([("connection/child".to_owned(), limits)]), BTreeMap::new())
        .unwrap();
}

fn wait(rig: &Rig, seconds: u64) {
    rig.nanos.fetch_add(seconds * 1_000_000_000, Ordering::Relaxed);
}

/// So many packets of 1000 octets from `a` to `b`.
fn packets(count: usize) -> Vec<Vec<u8>> {
    vec![Packet::between(1, 2, false, 1000).octets(); count]
}

fn counters(rig: &Rig) -> PolicyCounters {
    rig.installer.policies()[0].counters
}

/// What was sent, and what was dropped for that reason, which is all that happened.
fn split(outcome: &Outcome, reason: &str) -> (usize, u64) {
    let dropped = outcome.drops.get(reason).copied().unwrap_or_default();
    assert_eq!(outcome.drops.values().sum::<u64>(), dropped, "{outcome:?}");
    (outcome.transmit.len(), dropped)
}

#[test]
fn what_is_beyond_the_rate_is_dropped_and_takes_no_sequence_number() {
    let Pair { mut a, mut b, .. } = pair(&Child::between(1, 2));
    limit(&a, None, slow());
    let sealed = a.inside(&packets(8));
    assert_eq!(split(&sealed, RATE_OUT), (5, 3));
    assert_eq!(split(&a.inside(&packets(1)), RATE_OUT), (0, 1));
    wait(&a, 2);
    let later = a.inside(&packets(3));
    assert_eq!(split(&later, RATE_OUT), (2, 1));
    let next = a.installer.list()[0].outbound.as_ref().unwrap().next_sequence;
    assert_eq!(next, 8, "seven were sealed");
    assert_eq!(b.outside(&sealed.sent(OUTSIDE)).only_sent(INSIDE).len(), 5);
    assert_eq!(b.outside(&later.sent(OUTSIDE)).only_sent(INSIDE).len(), 2);
    let counted = counters(&a);
    assert_eq!((counted.packets_out, counted.dropped, counted.limited_out), (7, 5, 5));
    assert_eq!((counted.limited_in, counters(&b).dropped), (0, 0));
}

#[test]
fn what_comes_out_beyond_the_rate_is_dropped_whoever_opens_it() {
    let Pair { mut a, mut b, .. } = pair(&Child::between(1, 2));
    limit(&b, slow(), None);
    let sealed = a.inside(&packets(9)).only_sent(OUTSIDE);
    assert_eq!(split(&b.outside(&sealed[..3]), RATE_IN), (3, 0));
    // Another worker, with the same SA and so the same bucket.
    let mut second = b.second_pipeline();
    let mut out = Output::default();
    let mut batch: Vec<_> = sealed[3..7].iter().map(|packet| frame(&mut b, packet)).collect();
    second.process(b.now, Ingress::Port(OUTSIDE), &mut batch, &mut b.pool, &mut out);
    assert_eq!((out.transmit.len(), out.recycled.len()), (2, 2));
    // What was beyond it does not come again.
    wait(&b, 2);
    let again = b.outside(&[&sealed[5..7], &sealed[7..9]].concat());
    assert_eq!((again.transmit.len(), again.drops["replayed"]), (2, 2));
    let counted = counters(&b);
    assert_eq!((counted.packets_in, counted.dropped, counted.limited_in), (7, 2, 2));
}

fn frame(rig: &mut Rig, packet: &[u8]) -> portcullis_gateway::frame::Frame {
    let octets = ethernet(port_mac(rig.number, OUTSIDE), packet);
    let mut frame = rig.pool.free.pop().unwrap();
    assert!(frame.set_range(256, 256 + octets.len()));
    frame.packet_mut().copy_from_slice(&octets);
    frame
}

#[test]
fn a_rekey_begins_no_bucket_anew() {
    let child = Child::between(1, 2);
    let Pair { mut a, mut b, a_policy, .. } = pair(&child);
    limit(&a, None, slow());
    limit(&b, slow(), None);
    b.outside(&a.inside(&packets(4)).only_sent(OUTSIDE)).only_sent(INSIDE);
    let b_policy = b.installer.list()[0].outbound.as_ref().unwrap().policy;
    let mirrored = child.mirrored();
    let (a_spi, b_spi) = (a.install_inbound(&child, 2, 2), b.install_inbound(&mirrored, 1, 3));
    a.activate(&child, 2, a_policy, a_spi, b_spi, 3);
    let sealed = a.inside(&packets(3));
    assert_eq!(split(&sealed, RATE_OUT), (1, 2));
    // The peer uses the new SA before we do: what it carries then is paid for afterwards.
    assert_eq!(split(&b.outside(&sealed.sent(OUTSIDE)), RATE_IN), (1, 0));
    limit(&a, None, None);
    let early = a.inside(&packets(3)).only_sent(OUTSIDE);
    b.outside(&early).only_sent(INSIDE);
    b.activate(&mirrored, 1, b_policy, b_spi, a_spi, 2);
    wait(&b, 3);
    let mut late = a.inside(&packets(2)).only_sent(OUTSIDE).into_iter();
    assert_eq!(split(&b.outside(&[late.next().unwrap()]), RATE_IN), (0, 1));
    wait(&b, 1);
    assert_eq!(split(&b.outside(&[late.next().unwrap()]), RATE_IN), (1, 0));
}

#[test]
fn rates_of_living_tunnels_change_and_end() {
    let Pair { mut a, .. } = pair(&Child::between(1, 2));
    assert_eq!(split(&a.inside(&packets(20)), RATE_OUT), (20, 0));
    limit(&a, None, slow());
    assert_eq!(split(&a.inside(&packets(20)), RATE_OUT), (5, 15));
    // The same once more is no news.
    limit(&a, None, slow());
    assert_eq!(split(&a.inside(&packets(20)), RATE_OUT), (0, 20));
    let faster = RateLimit { burst: 7_000.try_into().unwrap(), ..slow().unwrap() };
    limit(&a, None, Some(faster));
    assert_eq!(split(&a.inside(&packets(20)), RATE_OUT), (7, 13));
    a.installer.set_rates(BTreeMap::new(), BTreeMap::new()).unwrap();
    assert_eq!(split(&a.inside(&packets(20)), RATE_OUT), (20, 0));
}

#[test]
fn a_packet_that_is_cut_is_paid_for_once() {
    let Pair { mut a, .. } = pair(&Child::between(1, 2));
    limit(&a, None, slow());
    // 1500 octets do not fit the tunnel: two pieces of 20 octets of header each.
    let large = Packet { dont_fragment: false, ..Packet::between(1, 2, false, 1500) };
    let outcome = a.inside(&vec![large.octets(); 3]);
    assert_eq!(split(&outcome, RATE_OUT), (6, 0));
    assert_eq!(split(&a.inside(&packets(1)), RATE_OUT), (0, 1));
    // What goes nowhere costs nothing.
    wait(&a, 1);
    let expired = Packet { ttl: 1, ..Packet::between(1, 2, false, 900) };
    let outcome = a.inside(&[expired.octets()]);
    assert_eq!(outcome.drops["ttl_expired"], 1);
    assert_eq!(split(&a.inside(&packets(1)), RATE_OUT), (1, 0));
}

#[test]
fn tunnels_of_one_child_have_a_bucket_each() {
    let (mut a, b, c) = (Rig::new(1), Rig::new(2), Rig::new(3));
    limit(&a, None, slow());
    for other in [&b, &c] {
        common::connect(&Child::between(1, other.number), &a, other);
    }
    let to = |other| Packet::between(1, other, false, 1000).octets();
    // By turns: many runs in one batch.
    let mixed: Vec<_> = (0..14).map(|at| to(2 + at % 2)).collect();
    assert_eq!(split(&a.inside(&mixed), RATE_OUT), (10, 4));
    let counters: Vec<_> = a.installer.policies().iter().map(|info| info.counters.limited_out).collect();
    assert_eq!(counters, [2, 2]);
}
