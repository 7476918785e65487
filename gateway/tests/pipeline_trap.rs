//! Packets that ask for an SA wait for it, a few of them and not for long.

mod common;

use common::{Child, INSIDE, OUTSIDE, Packet, Rig, ts};
use portcullis_gateway::coarse::Coarse;
use portcullis_gateway::drop::DropReason;
use portcullis_gateway::pipeline::TrapLimits;
use portcullis_ipsec::{
    DataplaneEvent, Policy, PolicyAction, PolicyOrigin, SaInstaller, TenantId, TrafficSelector,
};

const LIMITS: TrapLimits = TrapLimits { per_policy: 4, in_all: 6, seconds: 5 };

/// Brings the child up as IKE would: a negotiated policy of its own.
fn come_up(a: &Rig, b: &Rig, child: &Child, remote_ts: &[TrafficSelector]) {
    let narrowed = Child { remote_ts: remote_ts.to_vec(), ..child.clone() };
    let a_spi = a.install_inbound(&narrowed, b.number, 0);
    let b_spi = b.install_inbound(&narrowed.mirrored(), a.number, 1);
    let policy = Policy {
        name: "connection/child".to_owned(),
        tenant: TenantId::default(),
        local_ts: narrowed.local_ts.clone(),
        remote_ts: remote_ts.to_vec(),
        origin: PolicyOrigin::Negotiated,
        action: PolicyAction::Protect,
        priority: None,
        per_worker: false,
    };
    a.activate(&narrowed, b.number, a.install(policy), a_spi, b_spi, 1);
}

fn packets(count: usize) -> Vec<Packet> {
    (0..count)
        .map(|n| Packet { ports: (1000 + n as u16, 2000), ..Packet::between(1, 2, false, 100 + n) })
        .collect()
}

fn octets(packets: &[Packet]) -> Vec<Vec<u8>> {
    packets.iter().map(Packet::octets).collect()
}

#[test]
fn what_asked_for_an_sa_is_sent_in_order_when_it_has_come_up() {
    let (mut a, mut b) = (Rig::with_trap(1, LIMITS), Rig::new(2));
    let child = Child::between(1, 2);
    a.policy(&child.local_ts, &child.remote_ts);
    let sent = packets(3);
    let waiting = a.inside(&octets(&sent));
    assert!(waiting.transmit.is_empty() && waiting.drops.is_empty(), "{waiting:?}");
    let events = a.installer.take_events();
    let [DataplaneEvent::Acquire { flow, .. }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((flow.src, flow.src_port, flow.dst_port), (sent[0].src, Some(1000), Some(2000)));
    assert!(a.release_trapped().transmit.is_empty(), "nothing has come up");

    come_up(&a, &b, &child, &child.remote_ts);
    let sealed = a.release_trapped().only_sent(OUTSIDE);
    let opened = b.outside(&sealed).only_sent(INSIDE);
    let expected: Vec<_> =
        sent.iter().map(|packet| Packet { ttl: 63, ..packet.clone() }.forwarded()).collect();
    assert_eq!(opened, expected);
    assert_eq!(a.pipeline.trapped(), 0);
    assert!(a.release_trapped().transmit.is_empty());
}

#[test]
fn a_policy_and_all_policies_together_hold_no_more_than_they_may() {
    let mut a = Rig::with_trap(1, LIMITS);
    let ours = [ts("10.1.0.0/16")];
    a.policy(&ours, &[ts("10.2.0.0/16")]);
    a.policy(&ours, &[ts("10.3.0.0/16")]);
    a.inside(&octets(&packets(6))).only_dropped(DropReason::TrapQueueFull, 2);
    assert_eq!(a.pipeline.trapped(), LIMITS.per_policy);
    let other: Vec<_> = (0..4).map(|_| Packet::between(1, 3, false, 80).octets()).collect();
    a.inside(&other).only_dropped(DropReason::TrapQueueFull, 2);
    assert_eq!(a.pipeline.trapped(), LIMITS.in_all);
}

#[test]
fn what_waits_too_long_is_given_up_by_name() {
    let mut a = Rig::with_trap(1, LIMITS);
    let child = Child::between(1, 2);
    a.policy(&child.local_ts, &child.remote_ts);
    a.inside(&octets(&packets(2)));
    a.now = Coarse(a.now.0 + 4);
    a.inside(&octets(&packets(1)));
    assert!(a.release_trapped().drops.is_empty());
    a.now = Coarse(a.now.0 + 1);
    // All of the policy's packets: its peer does not answer.
    a.release_trapped().only_dropped(DropReason::TrapTimeout, 3);
    assert_eq!(a.pipeline.trapped(), 0);
}

#[test]
fn what_a_narrower_sa_does_not_take_goes_on_waiting() {
    let (mut a, b) = (Rig::with_trap(1, LIMITS), Rig::new(2));
    let child = Child::between(1, 2);
    let policy = a.policy(&child.local_ts, &child.remote_ts);
    let sent = [packets(1).remove(0), Packet { ports: (1, 53), ..packets(1).remove(0) }];
    a.inside(&octets(&sent));
    come_up(&a, &b, &child, &[ts("10.2.0.0/16[udp/53]")]);
    assert_eq!(a.release_trapped().only_sent(OUTSIDE).len(), 1);
    assert_eq!(a.pipeline.trapped(), 1);
    // Without the policy that made it wait, it is a packet like any other.
    come_up(&a, &b, &child, &[ts("10.2.0.0/16[tcp]")]);
    a.installer.remove_policy(policy).unwrap();
    come_up(&a, &b, &child, &[ts("10.2.0.0/16[udp/54]")]);
    a.release_trapped().only_dropped(DropReason::NoPolicy, 1);
}

#[test]
fn a_policy_that_asks_for_nothing_holds_nothing() {
    let mut a = Rig::with_trap(1, LIMITS);
    let child = Child::between(1, 2);
    let policy = Policy {
        name: "connection/child".to_owned(),
        tenant: TenantId::default(),
        local_ts: child.local_ts.clone(),
        remote_ts: child.remote_ts.clone(),
        origin: PolicyOrigin::Configured { acquire: false },
        action: PolicyAction::Protect,
        priority: None,
        per_worker: false,
    };
    a.install(policy);
    a.inside(&octets(&packets(2))).only_dropped(DropReason::NoSa, 2);
}

#[test]
fn a_worker_that_ends_gives_its_frames_back() {
    let mut a = Rig::with_trap(1, LIMITS);
    let child = Child::between(1, 2);
    a.policy(&child.local_ts, &child.remote_ts);
    a.inside(&octets(&packets(3)));
    assert_eq!(a.pipeline.give_up_trapped().count(), 3);
    assert_eq!(a.pipeline.trapped(), 0);
}
