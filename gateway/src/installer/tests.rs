//! The life of SA pairs and policies as the control plane leads it, with a worker looking on.

use std::sync::atomic::AtomicUsize;

use portcullis_aead::Engine;
use portcullis_ipsec::{Encapsulation, EspKey, Flow, PolicyAction, PolicyOrigin, SaOptions};

use super::*;
use crate::drop::DropReason;
use crate::policy::FlowCache;
use crate::sa::{Guard, Limits, Reader, Reclaimer, Traffic};
use crate::wire::FlowKey;

/// What the sink was told, in order, and whether the policy table already protected it then.
#[derive(Default)]
struct Sink {
    calls: Mutex<Vec<(bool, ProtectedPrefixes)>>,
    refuse: AtomicBool,
}

impl ProtectionSink for Arc<Sink> {
    fn protect(&self, added: &ProtectedPrefixes) -> Result<(), InstallError> {
        if self.refuse.load(Ordering::Relaxed) {
            return Err(InstallError::Stopped);
        }
        lock(&self.calls).push((true, added.clone()));
        Ok(())
    }

    fn unprotect(&self, removed: &ProtectedPrefixes) {
        lock(&self.calls).push((false, removed.clone()));
    }
}

/// An installer, and what a worker has.
struct Gateway {
    installer: Installer,
    sas: Arc<SaTable>,
    policies: Arc<PolicyTable>,
    events: Arc<EventBoard>,
    sink: Arc<Sink>,
    rings: Arc<AtomicUsize>,
    worker: Reader,
}

fn gateway(max_sas: usize) -> Gateway {
    let reclaimer = Reclaimer::new(2);
    let worker = reclaimer.register().unwrap();
    let sas = Arc::new(SaTable::new(max_sas, Engine::select(None).unwrap(), [3; 16], reclaimer).unwrap());
    let policies = Arc::new(PolicyTable::new(4).unwrap());
    let rings = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&rings);
    let ring = Box::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let events = Arc::new(EventBoard::new(max_sas, 4, ring));
    let sink = Arc::new(Sink::default());
    let installer = Installer::new(
        Arc::clone(&sas),
        Arc::clone(&policies),
        Arc::clone(&events),
        Box::new(Arc::clone(&sink)),
        Box::new(|| Coarse(100)),
    );
    Gateway { installer, sas, policies, events, sink, rings, worker }
}

impl Gateway {
    /// A pair with both SAs on the policy.
    fn pair(&self, policy: PolicyId) -> Spi {
        let pair = self.installer.allocate_spi().unwrap();
        self.installer.install_inbound(pair, inbound()).unwrap();
        self.installer.activate_outbound(policy, pair, outbound()).unwrap();
        pair
    }

    fn policy(&self, origin: PolicyOrigin) -> PolicyId {
        self.installer.install_policy(policy("10.2.0.0/16", origin)).unwrap()
    }

    fn outbound<'g>(&'g self, guard: &Guard<'g>, policy: PolicyId) -> Option<&'g crate::sa::Outbound> {
        self.sas.outbound(guard, self.policies.get(policy)?.outbound()?)
    }
}

const TRAP: PolicyOrigin = PolicyOrigin::Configured { acquire: true };

fn key() -> EspKey {
    EspKey::from_keymat(EspAlgorithm::Aes256Gcm16, &[7; 36]).unwrap()
}

fn endpoints(last: u8) -> TunnelEndpoints {
    TunnelEndpoints {
        local: [192, 0, 2, 1].into(),
        remote: [198, 51, 100, last].into(),
        encapsulation: Encapsulation::Udp { local_port: 4500, remote_port: 4500 },
    }
}

fn ts(text: &str) -> Vec<TrafficSelector> {
    vec![text.parse().unwrap()]
}

fn inbound() -> InboundSa {
    InboundSa {
        key: key(),
        esn: true,
        replay_window: 1024,
        endpoints: endpoints(1),
        local_ts: ts("10.1.0.0/16"),
        remote_ts: ts("10.2.0.0/16"),
        tenant: TenantId(0),
        options: SaOptions::default(),
    }
}

fn outbound() -> OutboundSa {
    OutboundSa {
        spi: Spi::new(0x1234_5678).unwrap(),
        key: key(),
        esn: true,
        endpoints: endpoints(1),
        local_ts: ts("10.1.0.0/16"),
        remote_ts: ts("10.2.0.0/16"),
        options: SaOptions::default(),
    }
}

fn policy(remote: &str, origin: PolicyOrigin) -> Policy {
    Policy {
        name: "peer/net".to_owned(),
        tenant: TenantId(0),
        local_ts: ts("10.1.0.0/16"),
        remote_ts: ts(remote),
        origin,
        action: PolicyAction::Protect,
        priority: None,
        per_worker: false,
    }
}

fn flow() -> Flow {
    Flow {
        src: [10, 1, 0, 1].into(),
        dst: [10, 2, 0, 1].into(),
        protocol: 6,
        src_port: Some(40000),
        dst_port: Some(443),
    }
}

#[test]
fn a_pair_is_found_by_spi_and_by_policy() {
    let gateway = gateway(4);
    let policy = gateway.policy(TRAP);
    let pair = gateway.pair(policy);
    let guard = gateway.worker.guard();
    let found = gateway.sas.inbound(&guard, pair.get()).unwrap();
    assert_eq!((found.spi, found.salt(), found.esn, found.replay().window()), (pair, [7; 4], true, 1024));
    assert!(found.permits(&(&Flow { src: flow().dst, dst: flow().src, ..flow() }).into()));
    assert!(!found.permits(&(&flow()).into()));
    let found = gateway.outbound(&guard, policy).unwrap();
    assert_eq!((found.spi, found.pair, found.endpoints.get()), (outbound().spi, pair, endpoints(1)));
    assert!(found.permits(&(&flow()).into()));
    for unknown in [0, 1, 255, 256, pair.get() ^ 1, pair.get().wrapping_add(1), u32::MAX] {
        assert!(gateway.sas.inbound(&guard, unknown).is_none(), "{unknown:08x}");
    }
}

#[test]
fn only_a_policy_that_protects_takes_an_sa() {
    let gateway = gateway(4);
    let pair = gateway.installer.allocate_spi().unwrap();
    gateway.installer.install_inbound(pair, inbound()).unwrap();
    for action in [PolicyAction::Bypass, PolicyAction::Discard] {
        let policy = Policy { action, ..policy("10.2.0.0/16", TRAP) };
        let policy = gateway.installer.install_policy(policy).unwrap();
        let refused = gateway.installer.activate_outbound(policy, pair, outbound());
        assert!(
            matches!(refused, Err(InstallError::InvalidParameter { field: "policy", .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn a_reserved_spi_is_not_accepted_before_its_sa_is_installed() {
    let gateway = gateway(4);
    let spi = gateway.installer.allocate_spi().unwrap();
    assert!(gateway.sas.inbound(&gateway.worker.guard(), spi.get()).is_none());
    assert_eq!(gateway.installer.remove(spi), Ok(()));
    assert_eq!(gateway.installer.remove(spi), Err(InstallError::UnknownSpi { spi }));
    assert_eq!(gateway.installer.install_inbound(spi, inbound()), Err(InstallError::UnknownSpi { spi }));
}

#[test]
fn live_spis_are_distinct_and_none_is_reserved_by_the_standard() {
    let gateway = gateway(1000);
    let mut spis: Vec<u32> = (0..1000).map(|_| gateway.installer.allocate_spi().unwrap().get()).collect();
    assert_eq!(gateway.installer.allocate_spi(), Err(InstallError::TableFull { capacity: 1000 }));
    spis.sort_unstable();
    spis.dedup();
    assert_eq!(spis.len(), 1000);
    assert!(spis.iter().all(|&spi| spi > 255));
}

#[test]
fn a_rekey_switches_policy_and_caches_at_once_and_leaves_the_old_sa_until_it_is_removed() {
    let gateway = gateway(4);
    let policy = gateway.policy(TRAP);
    let mut cache = FlowCache::new(16, 0);
    let old = gateway.pair(policy);
    let guard = gateway.worker.guard();
    let current = |cache: &mut FlowCache| {
        let snapshot = gateway.policies.snapshot();
        let key = FlowKey::from(&flow());
        let place = cache.locate(TenantId(0), &key);
        let entry = cache.lookup(&snapshot, TenantId(0), &key, place).unwrap();
        entry.outbound().and_then(|reference| gateway.sas.outbound(&guard, reference)).map(|sa| sa.pair)
    };
    assert_eq!(current(&mut cache), Some(old));
    let new = gateway.pair(policy);
    assert_eq!(current(&mut cache), Some(new));
    let old_info = gateway.installer.list().into_iter().find(|info| info.pair == old).unwrap();
    assert!(!old_info.outbound.unwrap().current);
    assert!(gateway.sas.inbound(&guard, old.get()).is_some(), "late packets still open");
    // Removing the old pair leaves the policy with the new one.
    gateway.installer.remove(old).unwrap();
    assert_eq!(current(&mut cache), Some(new));
    gateway.installer.remove(new).unwrap();
    assert_eq!(current(&mut cache), None);
}

#[test]
fn a_removed_pair_stays_for_the_worker_that_holds_it_and_its_slot_for_nobody_until_then() {
    let mut gateway = gateway(1);
    let policy = gateway.policy(TRAP);
    let pair = gateway.pair(policy);
    let guard = gateway.worker.guard();
    let (held_in, held_out) =
        (gateway.sas.inbound(&guard, pair.get()).unwrap(), gateway.outbound(&guard, policy).unwrap());
    gateway.installer.remove(pair).unwrap();
    assert!(gateway.sas.inbound(&guard, pair.get()).is_none());
    assert!(gateway.outbound(&guard, policy).is_none());
    gateway.installer.collect();
    assert_eq!(gateway.installer.allocate_spi(), Err(InstallError::TableFull { capacity: 1 }));
    assert_eq!((held_in.spi, held_out.pair), (pair, pair));
    assert_eq!(gateway.sas.control().waiting(), 2);
    gateway.worker.quiescent();
    gateway.installer.collect();
    assert_eq!(gateway.sas.control().waiting(), 0);
    // The slot is the same, the name is not, and the whole pair fits again.
    let next = gateway.pair(policy);
    assert_ne!(next, pair);
    assert!(gateway.sas.inbound(&gateway.worker.guard(), pair.get()).is_none());
}

#[test]
fn a_worker_that_sleeps_delays_no_removal() {
    let mut gateway = gateway(1);
    let policy = gateway.policy(TRAP);
    gateway.worker.online();
    for _ in 0..100 {
        let pair = gateway.pair(policy);
        gateway.worker.offline();
        gateway.installer.remove(pair).unwrap();
    }
}

#[test]
fn retiring_stops_sealing_while_opening_goes_on() {
    let mut gateway = gateway(4);
    let policy = gateway.policy(TRAP);
    let pair = gateway.pair(policy);
    {
        let guard = gateway.worker.guard();
        let sa = gateway.outbound(&guard, policy).unwrap();
        sa.traffic().count(sa.limits(), 3, 300, Coarse(40));
        gateway.installer.retire(pair).unwrap();
        assert!(gateway.outbound(&guard, policy).is_none());
        assert!(gateway.sas.inbound(&guard, pair.get()).is_some());
    }
    let counted = |gateway: &Gateway| {
        let counters = gateway.installer.counters(pair).unwrap();
        (counters.packets_out, counters.bytes_out, counters.idle_out.map(|idle| idle.as_secs()))
    };
    assert_eq!(counted(&gateway), (3, 300, Some(60)));
    gateway.worker.quiescent();
    gateway.installer.collect();
    assert_eq!(gateway.sas.control().waiting(), 0);
    assert_eq!(counted(&gateway), (3, 300, Some(60)), "what it carried outlives it");
    // The same pair cannot be activated again: its key's nonces would begin again.
    assert_eq!(gateway.installer.retire(pair), Ok(()));
    let again = gateway.installer.activate_outbound(policy, pair, outbound());
    assert_eq!(again, Err(InstallError::AlreadyInstalled { spi: pair }));
}

#[test]
fn moving_a_pair_changes_addresses_and_never_the_sequence() {
    let gateway = gateway(4);
    let policy = gateway.policy(TRAP);
    let pair = gateway.pair(policy);
    let guard = gateway.worker.guard();
    let (inbound, outbound) =
        (gateway.sas.inbound(&guard, pair.get()).unwrap(), gateway.outbound(&guard, policy).unwrap());
    assert_eq!(outbound.reserve(10, &gateway.events), Ok(1..11));
    inbound.replay().accept(5).unwrap();
    gateway.installer.move_pair(pair, endpoints(9)).unwrap();
    assert_eq!((inbound.endpoints.get(), outbound.endpoints.get()), (endpoints(9), endpoints(9)));
    assert_eq!(gateway.outbound(&guard, policy).unwrap().reserve(1, &gateway.events), Ok(11..12));
    assert_eq!(inbound.replay().accept(5), Err(DropReason::Replayed));
    let mixed = TunnelEndpoints { remote: "2001:db8::1".parse().unwrap(), ..endpoints(1) };
    assert!(gateway.installer.move_pair(pair, mixed).is_err());
    assert_eq!(outbound.endpoints.get(), endpoints(9));
}

#[test]
fn the_sink_knows_of_prefixes_before_the_first_policy_and_until_after_the_last() {
    let gateway = gateway(4);
    let prefixes = |local: &[&str], remote: &[&str]| ProtectedPrefixes {
        local: local.iter().map(|net| net.parse().unwrap()).collect(),
        remote: remote.iter().map(|net| net.parse().unwrap()).collect(),
        ..ProtectedPrefixes::default()
    };
    let first = gateway.policy(TRAP);
    let same = gateway.policy(PolicyOrigin::Negotiated);
    let other = gateway.installer.install_policy(policy("10.3.0.0/16", TRAP)).unwrap();
    gateway.installer.remove_policy(first).unwrap();
    gateway.installer.remove_policy(other).unwrap();
    gateway.installer.remove_policy(same).unwrap();
    let expected = vec![
        (true, prefixes(&["10.1.0.0/16"], &["10.2.0.0/16"])),
        (true, prefixes(&[], &["10.3.0.0/16"])),
        (false, prefixes(&[], &["10.3.0.0/16"])),
        (false, prefixes(&["10.1.0.0/16"], &["10.2.0.0/16"])),
    ];
    assert_eq!(*lock(&gateway.sink.calls), expected);
    gateway.sink.refuse.store(true, Ordering::Relaxed);
    assert_eq!(gateway.installer.install_policy(policy("10.2.0.0/16", TRAP)), Err(InstallError::Stopped));
    assert!(gateway.policies.list().is_empty(), "what cannot be protected is not half installed");
}

#[test]
fn what_bypasses_is_told_apart_from_what_is_protected() {
    let gateway = gateway(4);
    let shunt = Policy { action: PolicyAction::Bypass, ..policy("10.2.0.0/16", TRAP) };
    let passed = ProtectedPrefixes {
        pass_local: vec!["10.1.0.0/16".parse().unwrap()],
        pass_remote: vec!["10.2.0.0/16".parse().unwrap()],
        ..ProtectedPrefixes::default()
    };
    // The same prefixes, once on either side of the line.
    let protects = gateway.policy(TRAP);
    let bypasses = gateway.installer.install_policy(shunt).unwrap();
    gateway.installer.remove_policy(protects).unwrap();
    assert_eq!(gateway.policies.protected(), passed);
    gateway.installer.remove_policy(bypasses).unwrap();
    let calls = lock(&gateway.sink.calls);
    assert_eq!(calls[1], (true, passed.clone()));
    assert_eq!(calls[3], (false, passed));
    assert!(calls[0].1.pass_local.is_empty() && calls[2].1.pass_local.is_empty());
}

#[test]
fn a_removed_policy_is_not_used_by_a_worker_with_an_old_snapshot() {
    let gateway = gateway(4);
    let policy = gateway.policy(TRAP);
    let pair = gateway.pair(policy);
    let old = Arc::clone(&gateway.policies.snapshot());
    gateway.installer.remove_policy(policy).unwrap();
    let crate::policy::Verdict::Covered(entry) = old.lookup(TenantId(0), &flow()) else {
        panic!("the old snapshot still covers the flow")
    };
    assert_eq!(entry.outbound(), None);
    let again = gateway.installer.activate_outbound(policy, pair, outbound());
    assert_eq!(again, Err(InstallError::UnknownPolicy(policy)));
    gateway.installer.remove(pair).unwrap();
}

#[test]
fn an_acquire_is_told_once_until_read_and_only_if_the_policy_asks_and_has_no_sa() {
    let gateway = gateway(4);
    let trap = gateway.policy(TRAP);
    let quiet = PolicyOrigin::Configured { acquire: false };
    let silent = gateway.installer.install_policy(policy("10.3.0.0/16", quiet)).unwrap();
    let entry = gateway.policies.get(trap).unwrap();
    for _ in 0..100 {
        gateway.events.acquire(&entry, &(&flow()).into());
        gateway.events.acquire(&gateway.policies.get(silent).unwrap(), &(&flow()).into());
    }
    assert_eq!(gateway.rings.load(Ordering::Relaxed), 1);
    let expected = DataplaneEvent::Acquire { policy: trap, flow: flow() };
    assert_eq!(gateway.installer.take_events(), [expected]);
    assert_eq!(gateway.installer.take_events(), []);
    gateway.events.acquire(&entry, &(&flow()).into());
    assert_eq!(gateway.rings.load(Ordering::Relaxed), 2);
    gateway.pair(trap);
    assert_eq!(gateway.installer.take_events(), [], "it has got its SA meanwhile");
    gateway.events.acquire(&entry, &(&flow()).into());
    gateway.installer.remove_policy(trap).unwrap();
    assert_eq!(gateway.installer.take_events(), [], "the policy is gone");
}

#[test]
fn limits_are_told_before_and_at_the_end_of_a_key() {
    let gateway = gateway(4);
    let policy = gateway.policy(TRAP);
    let pair = gateway.pair(policy);
    let guard = gateway.worker.guard();
    let sa = gateway.outbound(&guard, policy).unwrap();
    let limit = sa.algorithm().packet_limit();
    let mut sealed = 0;
    let mut told = Vec::new();
    while let Ok(numbers) = sa.reserve(1 << 30, &gateway.events) {
        sealed = numbers.end - 1;
        told.extend(gateway.installer.take_events().into_iter().map(|event| (sealed, event)));
    }
    assert_eq!(told, [(3 * (limit / 4), DataplaneEvent::SoftLimit { pair })]);
    assert_eq!(sealed, limit);
    assert_eq!(gateway.installer.take_events(), [DataplaneEvent::HardLimit { pair }]);
    for _ in 0..3 {
        assert_eq!(sa.reserve(1, &gateway.events), Err(DropReason::SequenceExhausted));
    }
    assert_eq!(gateway.installer.take_events(), []);
}

#[test]
fn a_moved_peer_is_told_until_the_pair_is_moved_or_gone() {
    let gateway = gateway(4);
    let policy = gateway.policy(TRAP);
    let pair = gateway.pair(policy);
    let guard = gateway.worker.guard();
    let sa = gateway.sas.inbound(&guard, pair.get()).unwrap();
    let moved = DataplaneEvent::PeerMoved { pair, seen: endpoints(9) };
    gateway.events.peer_moved(sa, endpoints(9));
    assert_eq!(gateway.installer.take_events(), [moved]);
    gateway.events.peer_moved(sa, endpoints(9));
    gateway.installer.move_pair(pair, endpoints(9)).unwrap();
    assert_eq!(gateway.installer.take_events(), []);
    gateway.events.peer_moved(sa, endpoints(8));
    gateway.installer.remove(pair).unwrap();
    assert_eq!(gateway.installer.take_events(), []);
}

#[test]
fn events_of_a_removed_pair_are_not_laid_at_the_door_of_the_next_in_its_slot() {
    let mut gateway = gateway(1);
    let policy = gateway.policy(TRAP);
    let first = gateway.pair(policy);
    {
        let guard = gateway.worker.guard();
        let (sa, opener) =
            (gateway.outbound(&guard, policy).unwrap(), gateway.sas.inbound(&guard, first.get()).unwrap());
        gateway.installer.remove(first).unwrap();
        // A worker in the middle of its batch still holds them.
        gateway.events.soft_limit(sa);
        gateway.events.hard_limit(sa);
        gateway.events.peer_moved(opener, endpoints(9));
    }
    gateway.worker.quiescent();
    let second = gateway.pair(policy);
    assert_eq!(gateway.installer.take_events(), []);
    let guard = gateway.worker.guard();
    gateway.events.soft_limit(gateway.outbound(&guard, policy).unwrap());
    assert_eq!(gateway.installer.take_events(), [DataplaneEvent::SoftLimit { pair: second }]);
}

#[test]
fn what_cannot_be_used_is_refused_by_name_and_leaves_the_spi_as_it_was() {
    let gateway = gateway(4);
    let policy = gateway.policy(TRAP);
    let spi = gateway.installer.allocate_spi().unwrap();
    let many = || vec![ts("10.2.0.0/16").remove(0); 9];
    let v6 = "2001:db8::1".parse().unwrap();
    let port = |local_port, remote_port| TunnelEndpoints {
        encapsulation: Encapsulation::Udp { local_port, remote_port },
        ..endpoints(1)
    };
    let cases = [
        ("replay_window", InboundSa { replay_window: 63, ..inbound() }),
        ("replay_window", InboundSa { replay_window: 8193, ..inbound() }),
        ("endpoints", InboundSa { endpoints: TunnelEndpoints { local: v6, ..endpoints(1) }, ..inbound() }),
        (
            "endpoints.remote",
            InboundSa { endpoints: TunnelEndpoints { remote: [0; 4].into(), ..endpoints(1) }, ..inbound() },
        ),
        (
            "endpoints.local",
            InboundSa {
                endpoints: TunnelEndpoints { local: [224, 0, 0, 1].into(), ..endpoints(1) },
                ..inbound()
            },
        ),
        ("endpoints.local_port", InboundSa { endpoints: port(0, 4500), ..inbound() }),
        ("endpoints.remote_port", InboundSa { endpoints: port(4500, 0), ..inbound() }),
        ("local_ts", InboundSa { local_ts: vec![], ..inbound() }),
        ("remote_ts", InboundSa { remote_ts: many(), ..inbound() }),
    ];
    for (field, sa) in cases {
        match gateway.installer.install_inbound(spi, sa) {
            Err(InstallError::InvalidParameter { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {other:?}"),
        }
        assert!(gateway.sas.inbound(&gateway.worker.guard(), spi.get()).is_none());
    }
    let early = gateway.installer.activate_outbound(policy, spi, outbound());
    assert!(matches!(early, Err(InstallError::InvalidParameter { field: "pair", .. })));
    gateway.installer.install_inbound(spi, inbound()).unwrap();
    let narrow = OutboundSa { local_ts: many(), ..outbound() };
    assert!(gateway.installer.activate_outbound(policy, spi, narrow).is_err());
    assert!(gateway.policies.get(policy).unwrap().outbound().is_none());
    let twice = gateway.installer.install_inbound(spi, inbound());
    assert_eq!(twice, Err(InstallError::AlreadyInstalled { spi }));
    let stranger = Spi::new(spi.get() ^ 0x100).unwrap_or(spi);
    let unknown = gateway.installer.activate_outbound(policy, stranger, outbound());
    assert_eq!(unknown, Err(InstallError::UnknownSpi { spi: stranger }));
}

#[test]
fn a_stopped_data_plane_takes_nothing_new_but_lets_go() {
    let gateway = gateway(4);
    let policy_id = gateway.policy(TRAP);
    let pair = gateway.pair(policy_id);
    gateway.installer.stop();
    assert_eq!(gateway.installer.allocate_spi(), Err(InstallError::Stopped));
    assert_eq!(gateway.installer.install_inbound(pair, inbound()), Err(InstallError::Stopped));
    assert_eq!(gateway.installer.install_policy(policy("10.9.0.0/16", TRAP)), Err(InstallError::Stopped));
    let activated = gateway.installer.activate_outbound(policy_id, pair, outbound());
    assert_eq!(activated, Err(InstallError::Stopped));
    assert_eq!(gateway.installer.remove(pair), Ok(()));
    assert_eq!(gateway.installer.remove_policy(policy_id), Ok(()));
}

#[test]
fn what_a_pair_has_carried_is_told_when_it_comes_to_its_limits_and_once() {
    let gateway = gateway(4);
    let policy = gateway.policy(TRAP);
    let pair = gateway.installer.allocate_spi().unwrap();
    let limits = UsageLimits {
        soft_packets: Some(10),
        hard_packets: None,
        soft_bytes: Some(5000),
        hard_bytes: Some(10_000),
    };
    assert!(gateway.installer.limit(pair, limits).is_err(), "not before the inbound SA");
    gateway.installer.install_inbound(pair, inbound()).unwrap();
    gateway.installer.limit(pair, limits).unwrap();
    let guard = gateway.worker.guard();
    let opener = gateway.sas.inbound(&guard, pair.get()).unwrap();
    let count = |(traffic, limits): (&Traffic, &Limits), packets, bytes| {
        gateway.events.milestones(traffic.count(limits, packets, bytes, Coarse(1)));
        gateway.installer.take_events()
    };
    assert_eq!(count((opener.traffic(), opener.limits()), 9, 900), [DataplaneEvent::FirstPacket { pair }]);
    gateway.installer.activate_outbound(policy, pair, outbound()).unwrap();
    let sealer = gateway.outbound(&guard, policy).unwrap();
    assert_eq!(count((opener.traffic(), opener.limits()), 1, 100), [DataplaneEvent::SoftLimit { pair }]);
    assert_eq!(count((opener.traffic(), opener.limits()), 9, 900), []);
    // Each SA counts for itself, and the first of a sealing SA is no news.
    assert_eq!(count((sealer.traffic(), sealer.limits()), 1, 4999), []);
    assert_eq!(count((sealer.traffic(), sealer.limits()), 1, 1), [DataplaneEvent::SoftLimit { pair }]);
    assert_eq!(count((sealer.traffic(), sealer.limits()), 2, 5000), [DataplaneEvent::HardLimit { pair }]);
    assert_eq!(count((sealer.traffic(), sealer.limits()), 5, 5000), []);
    assert_eq!(
        count((sealer.traffic(), sealer.limits()), 1, 5000),
        [DataplaneEvent::SoftLimit { pair }],
        "packets, this time"
    );
    assert_eq!(count((sealer.traffic(), sealer.limits()), 20, 50_000), []);
}

#[test]
fn the_list_tells_what_was_installed_and_no_key() {
    let gateway = gateway(4);
    let policy = gateway.policy(TRAP);
    let pair = gateway.pair(policy);
    gateway.installer.allocate_spi().unwrap();
    let guard = gateway.worker.guard();
    let sa = gateway.sas.inbound(&guard, pair.get()).unwrap();
    sa.traffic().count(sa.limits(), 2, 200, Coarse(99));
    let list = gateway.installer.list();
    let [info] = list.as_slice() else { panic!("{list:?}") };
    assert_eq!((info.pair, info.endpoints, info.replay_window), (pair, endpoints(1), 1024));
    assert_eq!((info.counters.packets_in, info.counters.bytes_in), (2, 200));
    let out = info.outbound.as_ref().unwrap();
    assert_eq!((out.spi, out.next_sequence, out.policy, out.current), (outbound().spi, 1, policy, true));
    let (opener, sealer) =
        (gateway.sas.inbound(&guard, pair.get()).unwrap(), gateway.outbound(&guard, policy).unwrap());
    for printed in [format!("{opener:?}"), format!("{sealer:?}"), format!("{list:?}")] {
        assert!(!printed.contains("7, 7, 7"), "{printed}");
    }
}

/// A worker looks flows up, through its cache, while pairs are rekeyed and removed and policies come and go.
#[test]
fn a_worker_never_gets_the_sa_of_another_policy_however_fast_they_change() {
    const ROUNDS: u32 = 3000;
    let gateway = gateway(64);
    let nets = ["10.2.0.0/16", "10.3.0.0/16"];
    let install = |net: &str| gateway.installer.install_policy(policy(net, TRAP)).unwrap();
    /// Lets the worker end even if the test fails.
    struct Finally<'a>(&'a AtomicBool);
    impl Drop for Finally<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }
    let done = AtomicBool::new(false);
    let work = |mut reader: Reader| {
        // One place, so that the two flows also push each other out.
        let mut cache = FlowCache::new(1, 0);
        while !done.load(Ordering::Acquire) {
            {
                let guard = reader.guard();
                let snapshot = gateway.policies.snapshot();
                for dst in [[10, 2, 0, 1], [10, 3, 0, 1]] {
                    let flow = Flow { dst: dst.into(), ..flow() };
                    let key = FlowKey::from(&flow);
                    let place = cache.locate(TenantId(0), &key);
                    let Some(entry) = cache.lookup(&snapshot, TenantId(0), &key, place) else { continue };
                    let reference = entry.outbound();
                    let Some(sa) = reference.and_then(|found| gateway.sas.outbound(&guard, found)) else {
                        continue;
                    };
                    assert!(sa.permits(&key), "{flow} would leave by {sa:?}");
                    let sealed = sa.reserve(3, &gateway.events).unwrap();
                    sa.traffic().count(sa.limits(), sealed.count() as u64, 0, Coarse(0));
                }
            }
            reader.quiescent();
        }
    };
    let pair = |policy, net| loop {
        // All slots may be waiting for a worker that is not running now; but one that is free is a whole pair.
        if let Ok(pair) = gateway.installer.allocate_spi() {
            gateway.installer.install_inbound(pair, inbound()).unwrap();
            let sa = OutboundSa { remote_ts: ts(net), ..outbound() };
            gateway.installer.activate_outbound(policy, pair, sa).unwrap();
            break pair;
        }
        std::thread::yield_now();
    };
    // The fixture's own reader stays offline and delays nobody.
    let reader = gateway.sas.reclaimer().register().unwrap();
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| work(reader));
        let finally = Finally(&done);
        let mut policies = nets.map(install);
        let mut live = std::collections::VecDeque::new();
        for round in 0..ROUNDS {
            let which = (round % 2) as usize;
            if round % 7 == 0 {
                gateway.installer.remove_policy(policies[which]).unwrap();
                policies[which] = install(nets[which]);
            }
            if live.len() > 8 {
                gateway.installer.remove(live.pop_front().unwrap()).unwrap();
            }
            live.push_back(pair(policies[which], nets[which]));
        }
        // To the end that the worker had something to find.
        let pair = pair(policies[0], nets[0]);
        let sealed = || gateway.installer.counters(pair).unwrap().packets_out > 0;
        while !sealed() && !worker.is_finished() {
            std::thread::yield_now();
        }
        drop(finally);
        worker.join().unwrap();
    });
}
