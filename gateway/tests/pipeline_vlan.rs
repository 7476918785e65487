//! VLAN devices on the ports of a gateway in memory: whose a tagged frame is, and by which device what is made of it leaves.
//! That the worker puts the tags back is tested where it does so.

#![expect(clippy::unwrap_used, reason = "where a test cannot go on it fails")]

mod common;

use std::sync::Arc;

use common::{Child, INSIDE, NEIGHBOUR, OUTSIDE, Packet, Rig, ethernet, ip, pair};
use portcullis_gateway::drop::DropReason;
use portcullis_gateway::pipeline::Ingress;
use portcullis_gateway::route::{PortIndex, PortInfo, Role, Route, Vlan};
use portcullis_gateway::wire::{Ipv4, Mac, TagProtocol, VlanTags};

/// VLAN 42 on the inside port, VLAN 7 on the outside one.
const INSIDE_42: PortIndex = PortIndex(5);
const OUTSIDE_7: PortIndex = PortIndex(6);
const MAC_42: Mac = [2, 0, 0, 0, 42, 42];
const MAC_7: Mac = [2, 0, 0, 0, 7, 7];

fn tags(id: u16) -> VlanTags {
    VlanTags::NONE.with_inner(TagProtocol::Customer, id).unwrap()
}

/// A frame with this tag.
fn tagged(dst: Mac, tag: [u8; 4], packet: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(dst, packet);
    frame.splice(12..12, tag);
    frame
}

/// Gives the rig its two VLAN devices, and leads routes to both out of them.
fn add_vlans(rig: &Rig, outside_mtu: u32, up: bool) {
    let mut table = (**rig.routes.load()).clone();
    let device = |index, on, role, mac, mtu| {
        let address = if role == Role::Inside { "10.42.0.1/24" } else { "203.0.113.1/24" };
        let device = PortInfo {
            index,
            ifindex: u32::from(index.0) + 100,
            name: format!("vlan{}", index.0),
            role,
            mac,
            mtu,
            up,
            addresses: vec![address.parse().unwrap()],
        };
        Vlan { device, on, tags: tags(if role == Role::Inside { 42 } else { 7 }) }
    };
    table.set_vlans(vec![
        device(INSIDE_42, INSIDE, Role::Inside, MAC_42, 1500),
        device(OUTSIDE_7, OUTSIDE, Role::Outside, MAC_7, outside_mtu),
    ]);
    let via = |index: PortIndex| {
        let gateway = Some(ip(if index == INSIDE_42 { "10.42.0.9" } else { "203.0.113.9" }));
        Route::Via { ifindex: u32::from(index.0) + 100, gateway, mtu: None }
    };
    let net = |text: &str| text.parse().unwrap();
    table.set_routes([
        (net(&format!("10.{}.0.0/16", rig.number)), via(INSIDE_42)),
        (net(&format!("2001:db8:{}::/48", rig.number)), via(INSIDE_42)),
        (net("0.0.0.0/0"), via(OUTSIDE_7)),
    ]);
    table.set_neighbours([((105, ip("10.42.0.9")), NEIGHBOUR), ((106, ip("203.0.113.9")), NEIGHBOUR)].into());
    rig.routes.store(Arc::new(table));
}

#[test]
fn a_tagged_packet_is_sealed_and_opened_and_leaves_by_the_vlan_devices_that_routes_name() {
    let mut pair = pair(&Child::between(1, 2));
    add_vlans(&pair.a, 1500, true);
    add_vlans(&pair.b, 1500, true);
    for v6 in [false, true] {
        let packet = Packet::between(1, 2, v6, 100);
        let frame = tagged(MAC_42, [0x81, 0, 0xe0, 42], &packet.octets());
        let outcome = pair.a.feed_frames(Ingress::Port(INSIDE), &[frame]);
        let sealed = outcome.only_sent(OUTSIDE_7);
        assert_eq!(outcome.transmit[0].1[..12], [NEIGHBOUR, MAC_7].concat());
        let frame = tagged(MAC_7, [0x81, 0, 0, 7], &sealed[0]);
        let outcome = pair.b.feed_frames(Ingress::Port(OUTSIDE), &[frame]);
        let [opened] = outcome.only_sent(INSIDE_42).try_into().unwrap();
        assert_eq!(outcome.transmit[0].1[..12], [NEIGHBOUR, MAC_42].concat());
        assert_eq!(opened.len(), packet.octets().len());
    }
}

#[test]
fn a_frame_is_that_vlan_devices_whose_tags_it_has_or_nobodys() {
    let mut pair = pair(&Child::between(1, 2));
    add_vlans(&pair.a, 1500, true);
    let packet = Packet::between(1, 2, false, 100).octets();
    let port_mac = common::port_mac(1, INSIDE);
    let mut fate = |dst, tag: [u8; 4]| {
        let outcome = pair.a.feed_frames(Ingress::Port(INSIDE), &[tagged(dst, tag, &packet)]);
        (outcome.transmit.len(), outcome.drops.into_keys().next())
    };
    assert_eq!(fate(MAC_42, [0x81, 0, 0, 42]), (1, None));
    assert_eq!(fate(port_mac, [0x81, 0, 0, 42]), (0, Some("other_host")));
    assert_eq!(fate(port_mac, [0x81, 0, 0xa0, 0]), (1, None), "a priority alone makes no VLAN");
    assert_eq!(fate(MAC_42, [0x81, 0, 0, 0]), (0, Some("other_host")));
    // Neither another number, nor another kind of tag, nor the VLAN of another port.
    for tag in [[0x81, 0, 0, 41], [0x88, 0xa8, 0, 42], [0x81, 0, 0, 7]] {
        for mac in [MAC_42, MAC_7, port_mac] {
            assert_eq!(fate(mac, tag), (0, Some("unknown_vlan")), "{tag:?}");
        }
    }
    add_vlans(&pair.a, 1500, false);
    let down = pair.a.feed_frames(Ingress::Port(INSIDE), &[tagged(MAC_42, [0x81, 0, 0, 42], &packet)]);
    down.only_dropped(DropReason::LinkDown, 1);
}

#[test]
fn an_error_goes_back_by_the_vlan_device_from_its_address() {
    let mut pair = pair(&Child::between(1, 2));
    add_vlans(&pair.a, 1500, true);
    let expired = Packet { ttl: 1, ..Packet::between(1, 2, false, 100) };
    for (dst, tag, by, from) in [
        (MAC_42, [0x81, 0, 0, 42], INSIDE_42, "10.42.0.1"),
        (common::port_mac(1, INSIDE), [0x81, 0, 0xe0, 0], INSIDE, "10.1.0.1"),
    ] {
        let frame = tagged(dst, tag, &expired.octets());
        let outcome = pair.a.feed_frames(Ingress::Port(INSIDE), &[frame]);
        let [(port, answer)] = outcome.transmit.try_into().unwrap();
        // The worker puts the device's tags in.
        assert_eq!((port, &answer[..12]), (by, &[NEIGHBOUR, dst].concat()[..]));
        assert_eq!(answer[12..14], [8, 0]);
        assert_eq!(std::net::IpAddr::from(Ipv4::parse(&answer[14..]).unwrap().src), ip(from));
    }
}

#[test]
fn the_mtu_of_the_vlan_device_limits_what_is_sealed() {
    let mut pair = pair(&Child::between(1, 2));
    let largest = |rig: &mut Rig, mtu: u32| {
        add_vlans(rig, mtu, true);
        let fits = |len: &usize| {
            let packet = Packet::between(1, 2, false, *len).octets();
            let frame = tagged(MAC_42, [0x81, 0, 0, 42], &packet);
            let outcome = rig.feed_frames(Ingress::Port(INSIDE), &[frame]);
            let sealed = outcome.sent(OUTSIDE_7);
            assert!(sealed.iter().all(|packet| packet.len() <= mtu as usize));
            rig.now.0 += 1;
            !sealed.is_empty()
        };
        (1300..1480).rev().find(fits).unwrap()
    };
    let (full, narrower) = (largest(&mut pair.a, 1500), largest(&mut pair.a, 1496));
    assert_eq!(full - narrower, 4);
}

#[test]
fn clear_text_that_would_leave_by_a_vlan_of_the_outside_port_is_dropped() {
    let mut pair = pair(&Child::between(1, 2));
    add_vlans(&pair.b, 1500, true);
    let mut table = (**pair.b.routes.load()).clone();
    let gateway = Some(ip("203.0.113.9"));
    table.set_routes([("0.0.0.0/0".parse().unwrap(), Route::Via { ifindex: 106, gateway, mtu: None })]);
    pair.b.routes.store(Arc::new(table));
    let sealed = pair.a.inside(&[Packet::between(1, 2, false, 100).octets()]).only_sent(OUTSIDE);
    pair.b.outside(&sealed).only_dropped(DropReason::ClearToOutside, 1);
    // In clear from outside, tagged or not.
    let clear = Packet::between(1, 2, false, 100).octets();
    let frame = tagged(MAC_7, [0x81, 0, 0, 7], &clear);
    let outcome = pair.b.feed_frames(Ingress::Port(OUTSIDE), &[frame]);
    outcome.only_dropped(DropReason::ClearInbound, 1);
}
