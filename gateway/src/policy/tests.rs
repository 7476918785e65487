//! The tables against a linear search that knows nothing of tries, and how policies come and go.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use portcullis_ipsec::{
    Flow, InstallError, Policy, PolicyAction, PolicyOrigin, PortRange, TenantId, TrafficSelector,
};
use proptest::prelude::*;

use super::*;
use crate::wire::FlowKey;

fn ts(text: &str) -> TrafficSelector {
    text.parse().unwrap()
}

fn policy(local: &[&str], remote: &[&str], origin: PolicyOrigin) -> Policy {
    Policy {
        name: format!("{local:?} to {remote:?}"),
        tenant: TenantId(0),
        local_ts: local.iter().map(|text| ts(text)).collect(),
        remote_ts: remote.iter().map(|text| ts(text)).collect(),
        origin,
        action: PolicyAction::Protect,
        priority: None,
        per_worker: false,
    }
}

const TRAP: PolicyOrigin = PolicyOrigin::Configured { acquire: true };

fn flow(src: &str, dst: &str, protocol: u8, dst_port: Option<u16>) -> Flow {
    Flow { src: src.parse().unwrap(), dst: dst.parse().unwrap(), protocol, src_port: dst_port, dst_port }
}

fn found(table: &PolicyTable, flow: &Flow) -> Option<PolicyId> {
    match table.snapshot().lookup(TenantId(0), flow) {
        Verdict::Covered(entry) => Some(entry.id()),
        Verdict::NoMatch => None,
    }
}

/// Precedence as the documentation of [`Snapshot::lookup`] words it, searched from end to end.
fn naive(policies: &[(PolicyId, Policy)], tenant: TenantId, flow: &Flow) -> Option<PolicyId> {
    let ports = |range: PortRange| (u64::from(range.end) + 1).saturating_sub(u64::from(range.start));
    let length = |selector: &TrafficSelector, addr: IpAddr| {
        let covering = selector.addrs.prefixes().into_iter().filter(|net| net.contains(&addr));
        covering.map(|net| net.prefix_len()).max()
    };
    let mut candidates = Vec::new();
    for (order, (id, policy)) in policies.iter().enumerate().filter(|(_, (_, p))| p.tenant == tenant) {
        for local in &policy.local_ts {
            for remote in &policy.remote_ts {
                if flow.matches(std::slice::from_ref(local), std::slice::from_ref(remote)) {
                    candidates.push((
                        policy.precedence(),
                        policy.origin != PolicyOrigin::Negotiated,
                        Reverse(length(remote, flow.dst)),
                        Reverse(length(local, flow.src)),
                        local.protocol == 0 && remote.protocol == 0,
                        ports(local.ports) * ports(remote.ports),
                        order,
                        *id,
                    ));
                }
            }
        }
    }
    candidates.into_iter().min().map(|best| best.7)
}

/// Few addresses, ports and protocols, so that everything overlaps.
fn any_addr(v6: bool) -> impl Strategy<Value = IpAddr> {
    (0..32_u32).prop_map(move |bits| {
        if v6 {
            Ipv6Addr::from_bits(u128::from(bits & 3) << 64 | u128::from(bits >> 2)).into()
        } else {
            Ipv4Addr::from_bits((bits & 3) << 24 | bits >> 2).into()
        }
    })
}

fn any_selector(v6: bool) -> impl Strategy<Value = TrafficSelector> {
    let net = (any_addr(v6), 0..=128_u8).prop_map(|(addr, len)| {
        let longest = if addr.is_ipv6() { 128 } else { 32 };
        TrafficSelector::any(IpNet::new(addr, len % (longest + 1)).unwrap().trunc())
    });
    let range = (any_addr(v6), any_addr(v6)).prop_map(|(a, b)| {
        TrafficSelector::any(portcullis_ipsec::AddressRange::new(a.min(b), a.max(b)).unwrap())
    });
    let ports = prop_oneof![
        4 => Just(PortRange::ANY),
        1 => Just(PortRange::OPAQUE),
        2 => (0..4_u16, 0..4_u16).prop_map(|(a, b)| PortRange { start: a.min(b), end: a.max(b) }),
    ];
    (prop_oneof![4 => net, 1 => range], prop_oneof![2 => Just(0), 1 => 6..8_u8], ports)
        .prop_map(|(addrs, protocol, ports)| TrafficSelector { protocol, ports, ..addrs })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let origin = prop_oneof![
        Just(PolicyOrigin::Negotiated),
        any::<bool>().prop_map(|acquire| PolicyOrigin::Configured { acquire })
    ];
    let sides = prop_oneof![3 => Just(false), 1 => Just(true)].prop_flat_map(|v6| {
        let side = move || prop::collection::vec(any_selector(v6), 1..3);
        (side(), side())
    });
    let action = prop_oneof![
        3 => Just(PolicyAction::Protect),
        1 => Just(PolicyAction::Bypass),
        1 => Just(PolicyAction::Discard)
    ];
    // Among the priorities of the actions, and one that equals an action's.
    let priority = prop_oneof![
        3 => Just(None),
        1 => prop::sample::select(vec![1, 300_000, 400_000, 700_000]).prop_map(NonZeroU32::new)
    ];
    (sides, origin, 0..2_u32, action, priority).prop_map(
        |((local_ts, remote_ts), origin, tenant, action, priority)| Policy {
            name: "any".to_owned(),
            tenant: TenantId(tenant),
            local_ts,
            remote_ts,
            origin,
            // Nothing passes where there is a device.
            action: match action {
                PolicyAction::Bypass if tenant != 0 => PolicyAction::Protect,
                action => action,
            },
            priority,
            per_worker: false,
        },
    )
}

fn any_flow() -> impl Strategy<Value = (TenantId, Flow)> {
    let addrs =
        prop_oneof![3 => Just(false), 1 => Just(true)].prop_flat_map(|v6| (any_addr(v6), any_addr(v6)));
    let port = || prop::option::weighted(0.8, 0..5_u16);
    (addrs, 6..9_u8, port(), port(), 0..3_u32).prop_map(
        |((src, dst), protocol, src_port, dst_port, tenant)| {
            (TenantId(tenant), Flow { src, dst, protocol, src_port, dst_port })
        },
    )
}

proptest! {
    #[test]
    fn lookups_and_caches_agree_with_a_linear_search_while_policies_come_and_go(
        steps in prop::collection::vec((any_policy(), any::<Option<prop::sample::Index>>()), 1..25),
        flows in prop::collection::vec(any_flow(), 40),
    ) {
        let table = PolicyTable::new(16).unwrap();
        // So small that flows push each other out.
        let mut cache = FlowCache::new(8, 1);
        let mut model: Vec<(PolicyId, Policy)> = Vec::new();
        for (policy, removed) in steps {
            match removed {
                Some(index) if !model.is_empty() => {
                    let (id, _) = model.remove(index.index(model.len()));
                    table.control().remove(id).unwrap();
                }
                _ => match table.control().install(policy.clone()) {
                    Ok(id) => model.push((id, policy)),
                    Err(error) => prop_assert!(
                        model.len() == 16 || prefix_pairs(&policy.local_ts, &policy.remote_ts) > MAX_PREFIX_PAIRS,
                        "{}", error
                    ),
                },
            }
            let snapshot = table.snapshot();
            prop_assert_eq!(
                snapshot.bypasses(),
                model.iter().any(|(_, policy)| policy.action == PolicyAction::Bypass)
            );
            for (tenant, flow) in &flows {
                let expected = naive(&model, *tenant, flow);
                let id = match snapshot.lookup(*tenant, flow) {
                    Verdict::Covered(entry) => Some(entry.id()),
                    Verdict::NoMatch => None,
                };
                prop_assert_eq!(id, expected, "{}", flow);
                let key = FlowKey::from(flow);
                let place = cache.locate(*tenant, &key);
                for _ in 0..2 {
                    let cached = cache.lookup(&snapshot, *tenant, &key, place).map(|entry| entry.id());
                    prop_assert_eq!(cached, expected, "cached {}", flow);
                }
            }
        }
        // What protects is exactly what the installed policies say.
        let mut expected = ProtectedPrefixes::default();
        for (_, policy) in model.iter().filter(|(_, policy)| policy.tenant == TenantId(0)) {
            let (local, remote) = prefixes(policy);
            let bypasses = policy.action == PolicyAction::Bypass;
            if bypasses { &mut expected.pass_local } else { &mut expected.local }.extend(local);
            if bypasses { &mut expected.pass_remote } else { &mut expected.remote }.extend(remote);
        }
        let ProtectedPrefixes { local, remote, pass_local, pass_remote } = &mut expected;
        for side in [local, remote, pass_local, pass_remote] {
            side.sort_unstable();
            side.dedup();
        }
        prop_assert_eq!(table.protected(), expected);
        for (id, _) in model {
            table.control().remove(id).unwrap();
        }
        prop_assert!(table.protected().is_empty());
        let emptied = format!("{:?}", **table.snapshot());
        prop_assert!(emptied.ends_with("tenants: {} }"), "left behind: {}", emptied);
    }
}

#[test]
fn a_negotiated_policy_goes_before_a_longer_configured_one() {
    let table = PolicyTable::new(4).unwrap();
    let trap = table.control().install(policy(&["10.0.0.0/8"], &["10.2.1.0/24"], TRAP)).unwrap();
    let wide = policy(&["10.0.0.0/8"], &["10.2.0.0/16"], PolicyOrigin::Negotiated);
    let negotiated = table.control().install(wide).unwrap();
    let packet = flow("10.1.0.1", "10.2.1.1", 6, Some(80));
    assert_eq!(found(&table, &packet), Some(negotiated));
    table.control().remove(negotiated).unwrap();
    assert_eq!(found(&table, &packet), Some(trap));
}

#[test]
fn what_passes_goes_before_what_is_protected_and_what_is_dropped_comes_last_unless_priorities_say_otherwise()
{
    let table = PolicyTable::new(8).unwrap();
    let install = |action, priority: u32, remote: &str| {
        let policy = policy(&["10.1.0.0/16"], &[remote], PolicyOrigin::Configured { acquire: false });
        let policy = Policy { action, priority: NonZeroU32::new(priority), ..policy };
        table.control().install(policy).unwrap()
    };
    let packet = flow("10.1.0.1", "10.2.1.1", 6, Some(80));
    let narrow_drop = install(PolicyAction::Discard, 0, "10.2.1.0/24");
    assert_eq!(found(&table, &packet), Some(narrow_drop));
    let protect = install(PolicyAction::Protect, 0, "10.2.0.0/16");
    assert_eq!(found(&table, &packet), Some(protect));
    let wide_pass = install(PolicyAction::Bypass, 0, "10.0.0.0/8");
    assert_eq!(found(&table, &packet), Some(wide_pass));
    let first = install(PolicyAction::Discard, 1, "0.0.0.0/0");
    assert_eq!(found(&table, &packet), Some(first));
    // Of one priority, the more specific one.
    let also_first = install(PolicyAction::Bypass, 1, "10.2.1.1/32");
    assert_eq!(found(&table, &packet), Some(also_first));
    table.control().remove(also_first).unwrap();
    table.control().remove(first).unwrap();
    let between = install(PolicyAction::Discard, 399_999, "10.2.0.0/16");
    table.control().remove(wide_pass).unwrap();
    assert_eq!(found(&table, &packet), Some(between));
}

#[test]
fn a_packet_that_a_narrow_rule_refuses_falls_to_a_wider_one() {
    let table = PolicyTable::new(4).unwrap();
    let any = table.control().install(policy(&["0.0.0.0/0"], &["0.0.0.0/0"], TRAP)).unwrap();
    let web = table.control().install(policy(&["10.0.0.0/8"], &["10.2.0.0/16[tcp/443]"], TRAP)).unwrap();
    assert_eq!(found(&table, &flow("10.1.0.1", "10.2.0.1", 6, Some(443))), Some(web));
    assert_eq!(found(&table, &flow("10.1.0.1", "10.2.0.1", 6, Some(80))), Some(any));
    assert_eq!(found(&table, &flow("10.1.0.1", "10.2.0.1", 17, Some(443))), Some(any));
    assert_eq!(found(&table, &flow("192.0.2.1", "10.2.0.1", 6, Some(443))), Some(any));
    assert_eq!(found(&table, &flow("10.1.0.1", "10.2.0.1", 6, None)), Some(any), "a fragment has no ports");
    assert_eq!(found(&table, &flow("2001:db8::1", "2001:db8::2", 6, Some(443))), None);
}

#[test]
fn a_removed_policy_does_not_come_back_under_its_number() {
    let table = PolicyTable::new(1).unwrap();
    let first = table.control().install(policy(&["10.0.0.0/8"], &["10.2.0.0/16"], TRAP)).unwrap();
    assert!(matches!(
        table.control().install(policy(&["10.0.0.0/8"], &["10.3.0.0/16"], TRAP)),
        Err(InstallError::InvalidParameter { field: "gateway.max_policies", .. })
    ));
    table.control().remove(first).unwrap();
    let second = table.control().install(policy(&["10.0.0.0/8"], &["10.2.0.0/16"], TRAP)).unwrap();
    assert_ne!(first, second);
    assert!(table.get(first).is_none());
    assert_eq!(table.control().remove(first), Err(InstallError::UnknownPolicy(first)));
    assert_eq!(table.get(second).unwrap().id(), second);
}

#[test]
fn policies_that_could_match_nothing_or_far_too_much_are_refused() {
    let table = PolicyTable::new(4).unwrap();
    let ragged = "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe";
    for (local, remote, field) in [
        (vec![], vec!["10.0.0.0/8"], "local_ts"),
        (vec!["10.0.0.0/8"], vec![], "remote_ts"),
        (vec!["10.0.0.0/8"], vec!["2001:db8::/32"], "local_ts and remote_ts"),
        (vec![ragged], vec![ragged], "local_ts and remote_ts"),
    ] {
        match table.control().install(policy(&local, &remote, TRAP)) {
            Err(InstallError::InvalidParameter { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{local:?} to {remote:?}: {other:?}"),
        }
    }
    assert!(table.list().is_empty());
}

/// Installing must not copy the table: what two snapshots have in common, they share.
#[test]
fn a_thousand_policies_more_leave_the_older_snapshots_as_they_were() {
    let table = PolicyTable::new(2000).unwrap();
    let client = |n: u32| policy(&["0.0.0.0/0"], &[&Ipv4Addr::from_bits(0x0a00_0000 + n).to_string()], TRAP);
    for n in 0..1000 {
        table.control().install(client(n)).unwrap();
    }
    let before = Arc::clone(&table.snapshot());
    let late = table.control().install(client(1500)).unwrap();
    let packet = flow("192.0.2.1", "10.0.5.220", 6, Some(80));
    assert!(matches!(before.lookup(TenantId(0), &packet), Verdict::NoMatch));
    assert_eq!(found(&table, &packet), Some(late));
}

#[test]
fn a_change_of_one_policy_among_many_leaves_the_rest_as_it_was() {
    /// Nodes on the way to an IPv4 prefix, and its list of rules.
    const WAY: usize = 8 + 1;
    let table = PolicyTable::new(1 << 13).unwrap();
    // Networks all over the place behind one of ours, hosts side by side, and a hundred of our networks to one of theirs.
    let site = |number: u32| format!("{}/28", Ipv4Addr::from_bits(number.wrapping_mul(0x9e37_79b1) & !0xf));
    let sites = (0..2000).map(|number| policy(&["10.1.0.0/16"], &[&site(number)], TRAP));
    let client = |number: u32| format!("11.0.{}.{}/32", number >> 8, number & 0xff);
    let clients = (0..2000).map(|number| policy(&["0.0.0.0/0"], &[&client(number)], TRAP));
    let ours = |number: u32| format!("10.2.{number}.0/24");
    let ours = (0..100).map(|number| policy(&[&ours(number)], &["198.51.100.0/24"], TRAP));
    let policies: Vec<Policy> = sites.chain(clients).chain(ours).collect();
    let ids: Vec<PolicyId> =
        policies.iter().map(|policy| table.control().install(policy.clone()).unwrap()).collect();
    let all = table.snapshot().places().len();
    assert!(all > policies.len());
    for number in [0, 1, 777, 2000, 3003, 3999, 4000, 4050] {
        for remove in [true, false] {
            let before = Arc::clone(&table.snapshot());
            if remove {
                table.control().remove(ids[number]).unwrap();
            } else {
                table.control().install(policies[number].clone()).unwrap();
            }
            let (before, after) = (before.places(), table.snapshot().places());
            let made = after.difference(&before).count();
            // What is reached by way of a trie of sources is on two ways.
            let most = if number < 4000 { WAY } else { 2 * WAY };
            assert!((1..=most).contains(&made), "{made} of {all} made anew for policy {number}, {remove}");
        }
    }
}
