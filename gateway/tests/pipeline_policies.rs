//! What policies count: over all SAs that they had, what passes them, and what ends at them.

mod common;

use portcullis_gateway::drop::DropReason;
use portcullis_ipsec::{PolicyAction, PolicyCounters, PolicyId, SaInstaller};

use common::{Child, OUTSIDE, Packet, Pair, Rig, connect, networks, pair};

fn counters(rig: &Rig, policy: PolicyId) -> PolicyCounters {
    let mut policies = rig.installer.policies().into_iter();
    policies.find(|info| info.entry.id() == policy).map(|info| info.counters).unwrap_or_default()
}

#[test]
fn a_policy_counts_what_all_its_sas_have_carried() {
    let child = Child::between(1, 2);
    let Pair { mut a, mut b, a_spi, b_spi, a_policy } = pair(&child);
    let packets = [Packet::between(1, 2, false, 200).octets(), Packet::between(1, 2, false, 300).octets()];
    let sealed = a.inside(&packets).only_sent(OUTSIDE);
    b.outside(&sealed);
    let sent = PolicyCounters { packets_out: 2, bytes_out: 500, ..PolicyCounters::default() };
    let received = PolicyCounters { packets_in: 2, bytes_in: 500, ..PolicyCounters::default() };
    let b_policy = b.installer.list()[0].outbound.as_ref().unwrap().policy;
    assert_eq!((counters(&a, a_policy), counters(&b, b_policy)), (sent, received));
    // Of SAs that have ended, whether their memory is freed yet or not, and with the policy itself.
    a.installer.retire(a_spi).unwrap();
    assert_eq!(counters(&a, a_policy), sent);
    for (rig, pair, policy, counted) in [(&mut a, a_spi, a_policy, sent), (&mut b, b_spi, b_policy, received)]
    {
        let name = rig.installer.policies().remove(0).entry.policy().name.clone();
        rig.installer.remove(pair).unwrap();
        assert_eq!(counters(rig, policy), counted, "removed");
        rig.pipeline.offline();
        rig.installer.collect();
        assert_eq!(counters(rig, policy), counted, "freed");
        rig.installer.remove_policy(policy).unwrap();
        assert_eq!(rig.installer.policy_totals().get(&name), Some(&counted), "the policy is gone");
    }
}

#[test]
fn a_policy_that_goes_before_its_sas_takes_their_counts_along() {
    let child = Child::between(1, 2);
    let (mut a, b) = (Rig::new(1), Rig::new(2));
    let (spi, _, policy) = connect(&child, &a, &b);
    a.inside(&[Packet::between(1, 2, false, 200).octets()]).only_sent(OUTSIDE);
    let before = a.installer.policy_totals();
    a.installer.remove_policy(policy).unwrap();
    assert_eq!(a.installer.policy_totals(), before);
    a.installer.remove(spi).unwrap();
    assert_eq!(a.installer.policy_totals(), before);
    a.pipeline.offline();
    a.installer.collect();
    assert_eq!(a.installer.policy_totals(), before);
}

#[test]
fn what_passes_and_what_ends_is_counted_by_its_own_policy() {
    let mut rig = Rig::new(1);
    let protect = rig.policy(&networks(1), &networks(2));
    let pass = rig.policy_to(PolicyAction::Bypass, &networks(1), &networks(3));
    let drop = rig.policy_to(PolicyAction::Discard, &networks(1), &networks(4));
    let to = |other| Packet::between(1, other, false, 100).octets();
    // Taken by turns, and in runs.
    let outcome = rig.inside(&[to(2), to(3), to(4), to(3), to(3), to(4), to(2), to(2)]);
    assert_eq!(outcome.sent(OUTSIDE).len(), 3);
    assert_eq!(outcome.drops[DropReason::NoSa.label()], 3);
    assert_eq!(outcome.drops[DropReason::Discarded.label()], 2);
    let dropped = |dropped| PolicyCounters { dropped, ..PolicyCounters::default() };
    assert_eq!(counters(&rig, protect), dropped(3));
    assert_eq!(counters(&rig, drop), dropped(2));
    let passed = PolicyCounters { packets_out: 3, bytes_out: 300, ..PolicyCounters::default() };
    assert_eq!(counters(&rig, pass), passed);
}
