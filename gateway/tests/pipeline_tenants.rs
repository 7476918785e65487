//! Tenants: tunnels with a device of their own, by which the kernel gives them packets and gets them. The same inner addresses
//! may be behind each of them.

mod common;

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use common::{Child, OUTSIDE, Packet, Rig, connect, outside_address, ts};
use portcullis_gateway::drop::DropReason;
use portcullis_gateway::pipeline::{Ingress, TrapLimits};
use portcullis_gateway::wire;
use portcullis_ipsec::{
    InstallError, Policy, PolicyAction, PolicyOrigin, RateLimit, RateLimits, SaInstaller, TenantId,
};

const RED: TenantId = TenantId(1);
const BLUE: TenantId = TenantId(2);

/// The tunnel of a spoke, whose network is 10.1.0.0/16, to the hub, where it is a tenant's.
fn connect_to(hub: &Rig, spoke: &Rig, tenant: TenantId) {
    let child = Child::between(1, 2);
    let mirrored = Child { tenant, ..child.mirrored() };
    let spoke_spi = spoke.install_inbound(&child, hub.number, 0);
    let hub_spi = hub.install_inbound(&mirrored, spoke.number, 1);
    let spoke_policy = spoke.policy(&child.local_ts, &child.remote_ts);
    let hub_policy = hub.install(policy(&mirrored, PolicyAction::Protect));
    spoke.activate(&child, hub.number, spoke_policy, spoke_spi, hub_spi, 1);
    hub.activate(&mirrored, spoke.number, hub_policy, hub_spi, spoke_spi, 0);
}

fn policy(child: &Child, action: PolicyAction) -> Policy {
    Policy {
        name: format!("{}/net", child.tenant.0),
        tenant: child.tenant,
        local_ts: child.local_ts.clone(),
        remote_ts: child.remote_ts.clone(),
        origin: PolicyOrigin::Configured { acquire: true },
        action,
        // What is dropped goes first.
        priority: NonZeroU32::new(u32::from(action == PolicyAction::Discard)),
        per_worker: false,
    }
}

/// A hub with two spokes that have the same addresses.
fn world() -> (Rig, [Rig; 2]) {
    let (hub, spokes) = (Rig::new(2), [Rig::new(1), Rig::new(3)]);
    connect_to(&hub, &spokes[0], RED);
    connect_to(&hub, &spokes[1], BLUE);
    (hub, spokes)
}

#[test]
fn a_device_leads_into_its_own_tunnels_alone() {
    let (mut hub, _) = world();
    for v6 in [false, true] {
        let packet = Packet::between(2, 1, v6, 200).octets();
        for (tenant, spoke) in [(RED, 1), (BLUE, 3), (RED, 1)] {
            let sealed = hub.feed(Ingress::Device(tenant), std::slice::from_ref(&packet)).only_sent(OUTSIDE);
            let (outer, _) = wire::flow(&sealed[0]).unwrap();
            assert_eq!((sealed.len(), outer.dst), (1, outside_address(spoke, false)));
        }
        // Of the same addresses, but of nobody's tunnel.
        for ingress in [Ingress::Device(TenantId(3)), Ingress::Kernel] {
            hub.feed(ingress, std::slice::from_ref(&packet)).only_dropped(DropReason::NoPolicy, 1);
        }
        hub.inside(&[packet]).only_dropped(DropReason::NoPolicy, 1);
        let elsewhere = Packet::between(2, 4, v6, 200).octets();
        hub.feed(Ingress::Device(RED), &[elsewhere]).only_dropped(DropReason::NoPolicy, 1);
    }
}

#[test]
fn what_comes_out_of_a_tunnel_goes_to_its_device_whatever_policies_and_routes_say() {
    let (mut hub, mut spokes) = world();
    // Others cover the same addresses both ways, and there are routes.
    hub.policy(&[ts("10.0.0.0/8"), ts("2001:db8::/32")], &[ts("10.0.0.0/8"), ts("2001:db8::/32")]);
    for v6 in [false, true] {
        for (spoke, tenant) in spokes.iter_mut().zip([RED, BLUE]) {
            let packet = Packet { ttl: 1, ..Packet::between(1, 2, v6, 200) }.octets();
            let sealed = spoke.feed(Ingress::Kernel, &[packet.clone(), packet.clone()]).only_sent(OUTSIDE);
            // Also of a flow that is known by now: whether its TTL ends is for the kernel to say.
            for sealed in sealed {
                let outcome = hub.outside(&[sealed]);
                assert_eq!(outcome.to_device, [(tenant, packet.clone())], "{outcome:?}");
                assert!(outcome.transmit.is_empty() && outcome.to_kernel.is_empty(), "{outcome:?}");
            }
        }
    }
}

#[test]
fn in_one_batch_everybody_gets_his_own() {
    let (mut hub, mut spokes) = world();
    let packet = Packet::between(1, 2, false, 200).octets();
    let of = |spoke: &mut Rig| spoke.inside(&vec![packet.clone(); 3]).only_sent(OUTSIDE);
    let (red, blue) = (of(&mut spokes[0]), of(&mut spokes[1]));
    let mixed: Vec<_> = red.into_iter().zip(blue).flat_map(|(red, blue)| [red, blue]).collect();
    let tenants: Vec<_> = hub.outside(&mixed).to_device.into_iter().map(|(tenant, _)| tenant).collect();
    assert_eq!(tenants, [RED, BLUE, RED, BLUE, RED, BLUE]);
}

#[test]
fn esp_out_of_a_tenants_tunnel_is_not_taken_for_ours() {
    let (mut spoke, mut other, mut hub) = (Rig::new(1), Rig::new(3), Rig::new(2));
    connect(&Child::between(3, 2), &other, &hub);
    let esp = other.inside(&[Packet::between(3, 2, false, 200).octets()]).only_sent(OUTSIDE);
    let everything = || vec![ts("0.0.0.0/0")];
    let wide = Child { local_ts: everything(), remote_ts: everything(), ..Child::between(1, 2) };
    let tenants = Child { tenant: RED, ..wide.clone() };
    let (own, hubs) = (spoke.install_inbound(&wide, 2, 4), hub.install_inbound(&tenants, 1, 5));
    let policy = spoke.policy(&wide.local_ts, &wide.remote_ts);
    spoke.activate(&wide, 2, policy, own, hubs, 5);
    let sealed = spoke.feed(Ingress::Kernel, &esp).only_sent(OUTSIDE);
    assert_eq!(hub.outside(&sealed).to_device, [(RED, esp[0].clone())]);
}

#[test]
fn the_device_is_told_what_its_tunnels_do_not_carry() {
    let (mut hub, _) = world();
    for v6 in [false, true] {
        let packet = Packet::between(2, 1, v6, 1500);
        let outcome = hub.feed(Ingress::Device(BLUE), &[packet.octets()]);
        assert_eq!(outcome.drops, [("too_big", 1)].into());
        let [(tenant, answer)] = outcome.to_device.try_into().unwrap();
        let (flow, _) = wire::flow(&answer).unwrap();
        assert_eq!((tenant, flow.src, flow.dst), (BLUE, packet.dst, packet.src));
    }
    // Pieces go where the whole would have gone.
    let packet = Packet { dont_fragment: false, ..Packet::between(2, 1, false, 1500) };
    let pieces = hub.feed(Ingress::Device(BLUE), &[packet.octets()]).only_sent(OUTSIDE);
    let to = |piece: &Vec<u8>| wire::flow(piece).unwrap().0.dst == outside_address(3, false);
    assert!(pieces.len() == 2 && pieces.iter().all(to));
}

#[test]
fn what_waits_for_an_sa_goes_into_its_tenants() {
    let limits = TrapLimits { per_policy: 8, in_all: 8, seconds: 5 };
    let (mut hub, spoke) = (Rig::with_trap(2, limits), Rig::new(3));
    connect_to(&hub, &Rig::new(1), RED);
    let child = Child { tenant: BLUE, ..Child::between(2, 1) };
    let blue = hub.install(policy(&child, PolicyAction::Protect));
    let packet = Packet::between(2, 1, false, 200).octets();
    let outcome = hub.feed(Ingress::Device(BLUE), &[packet]);
    assert!(outcome.transmit.is_empty() && outcome.drops.is_empty(), "{outcome:?}");
    let (pair, spi) = (hub.install_inbound(&child, 3, 0), spoke.install_inbound(&child.mirrored(), 2, 1));
    hub.activate(&child, 3, blue, pair, spi, 1);
    let sent = hub.release_trapped().only_sent(OUTSIDE);
    assert_eq!(wire::flow(&sent[0]).unwrap().0.dst, outside_address(3, false));
}

#[test]
fn a_tenants_policies_protect_no_addresses_but_by_its_device() {
    let (hub, _) = world();
    assert!(hub.installer.policies().len() == 2 && hub.shared.policies.protected().is_empty());
    let child = Child { tenant: RED, ..Child::between(2, 1) };
    let refused = hub.installer.install_policy(policy(&child, PolicyAction::Bypass));
    assert!(matches!(refused, Err(InstallError::InvalidParameter { field: "policy", .. })), "{refused:?}");
}

#[test]
fn what_a_tenant_drops_is_dropped_both_ways() {
    let (mut hub, mut spokes) = world();
    let child = Child { tenant: RED, ..Child::between(2, 1) };
    hub.install(policy(&child, PolicyAction::Discard));
    let packet = Packet::between(2, 1, false, 200).octets();
    hub.feed(Ingress::Device(RED), std::slice::from_ref(&packet)).only_dropped(DropReason::Discarded, 1);
    let back = Packet::between(1, 2, false, 200).octets();
    let sealed = spokes[0].inside(std::slice::from_ref(&back)).only_sent(OUTSIDE);
    hub.outside(&sealed).only_dropped(DropReason::Discarded, 1);
    // The other one's are not touched.
    assert_eq!(hub.feed(Ingress::Device(BLUE), &[packet]).only_sent(OUTSIDE).len(), 1);
    let sealed = spokes[1].feed(Ingress::Kernel, std::slice::from_ref(&back)).only_sent(OUTSIDE);
    assert_eq!(hub.outside(&sealed).to_device, [(BLUE, back)]);
}

#[test]
fn the_rate_of_a_device_holds_for_all_its_tunnels_together() {
    let (mut hub, mut spokes) = world();
    let third = Rig::new(4);
    connect_to(&hub, &third, RED);
    let limit = |burst: u32| {
        Some(RateLimit { bits_per_second: 8_000.try_into().unwrap(), burst: burst.try_into().unwrap() })
    };
    let limits = RateLimits { inbound: limit(4_400), outbound: limit(4_400) };
    hub.installer.set_rates(BTreeMap::new(), BTreeMap::from([(RED, limits)])).unwrap();
    let packets = |len| vec![Packet::between(2, 1, false, len).octets(); 20];
    let outcome = hub.feed(Ingress::Device(RED), &packets(1000));
    assert_eq!((outcome.sent(OUTSIDE).len(), outcome.drops.get("rate_out")), (4, Some(&16)));
    assert_eq!(hub.feed(Ingress::Device(BLUE), &packets(1000)).only_sent(OUTSIDE).len(), 20);
    let inwards = spokes[0].inside(&vec![Packet::between(1, 2, false, 1000).octets(); 20]).only_sent(OUTSIDE);
    let outcome = hub.outside(&inwards);
    assert_eq!((outcome.to_device.len(), outcome.drops.get("rate_in")), (4, Some(&16)));
    assert_eq!(hub.installer.rates_of_devices()[&RED], (limits, (16, 16)));
    // Without the device's rate everything passes, and a policy's own would hold still.
    hub.installer.set_rates(BTreeMap::new(), BTreeMap::new()).unwrap();
    assert_eq!(hub.feed(Ingress::Device(RED), &packets(1000)).only_sent(OUTSIDE).len(), 20);
}
