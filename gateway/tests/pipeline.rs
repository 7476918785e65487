//! The pipeline as a whole: what goes in by one port comes out where it should, in the state it should, and
//! everything else ends under its own name. Frames and the packet balance are checked after every batch.

mod common;

use common::{
    Child, INSIDE, MTU, NEIGHBOUR, OUTSIDE, Packet, Rig, connect, ethernet, ip, networks, outside_address,
    pair, port_mac, ts,
};
use portcullis_gateway::drop::DropReason;
use portcullis_gateway::pipeline::{Ingress, Output, release};
use portcullis_gateway::route::NextHop;
use portcullis_gateway::wire::{self, Ipv4};
use portcullis_ipsec::{DataplaneEvent, Encapsulation, EspAlgorithm, PolicyAction, SaInstaller};

#[test]
fn packets_go_through_the_tunnel_and_out_at_the_other_end() {
    for bits in 0..16 {
        let (outer_v6, udp, esn) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
        let algorithm = if bits & 8 != 0 { EspAlgorithm::Aes256Gcm16 } else { EspAlgorithm::Aes128Gcm16 };
        let mut pair = pair(&Child { outer_v6, udp, esn, algorithm, ..Child::between(1, 2) });
        for v6 in [false, true] {
            let packets: Vec<_> = (60..160).map(|len| Packet::between(1, 2, v6, len)).collect();
            let octets: Vec<_> = packets.iter().map(Packet::octets).collect();
            let sealed = pair.a.inside(&octets).only_sent(OUTSIDE);
            let opened = pair.b.outside(&sealed).only_sent(INSIDE);
            let expected: Vec<_> =
                packets.iter().map(|packet| Packet { ttl: 63, ..packet.clone() }.forwarded()).collect();
            assert_eq!(opened, expected, "{bits:04b}");
            let back = Packet::between(2, 1, v6, 100);
            let sealed = pair.b.inside(&[back.octets()]).only_sent(OUTSIDE);
            assert_eq!(pair.a.outside(&sealed).only_sent(INSIDE).len(), 1);
        }
        let counters = pair.a.installer.counters(pair.a_spi).unwrap();
        assert_eq!((counters.packets_out, counters.packets_in), (200, 2));
        assert_eq!(counters.bytes_out, 2 * (60..160).sum::<u64>());
    }
}

#[test]
fn sealed_packets_show_nothing_of_the_inner_one_but_what_the_standards_copy() {
    let mut pair = pair(&Child::between(1, 2));
    let packet = Packet { tos: 0xb8 | 2, ..Packet::between(1, 2, false, 200) };
    let sealed = pair.a.inside(&[packet.octets()]);
    assert_eq!(sealed.transmit[0].1[..12], [NEIGHBOUR, port_mac(1, OUTSIDE)].concat());
    let sealed = sealed.only_sent(OUTSIDE).remove(0);
    let outer = Ipv4::parse(&sealed).unwrap();
    assert_eq!((outer.src, outer.dst), ([192, 0, 2, 1].into(), [192, 0, 2, 2].into()));
    assert_eq!((outer.tos, outer.ttl, outer.protocol, outer.dont_fragment), (0xba, 64, 50, true));
    let inner = packet.forwarded();
    assert!(!sealed.windows(8).any(|octets| octets == &inner[30..38]));
    let clear_to_fragment = Packet { dont_fragment: false, ..packet };
    let sealed = pair.a.inside(&[clear_to_fragment.octets()]).only_sent(OUTSIDE);
    assert!(!Ipv4::parse(&sealed[0]).unwrap().dont_fragment);
}

#[test]
fn a_packet_without_policy_or_sa_is_dropped_and_the_sa_is_asked_for() {
    let mut rig = Rig::new(1);
    let packet = Packet::between(1, 2, false, 100);
    rig.inside(&[packet.octets()]).only_dropped(DropReason::NoPolicy, 1);
    let child = Child::between(1, 2);
    let policy = rig.policy(&child.local_ts, &child.remote_ts);
    rig.inside(&[packet.octets(), packet.octets()]).only_dropped(DropReason::NoSa, 2);
    let events = rig.installer.take_events();
    let [DataplaneEvent::Acquire { policy: asked, flow }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((*asked, flow.src, flow.dst_port), (policy, packet.src, Some(2000)));
    rig.feed(Ingress::Kernel, &[packet.octets()]).only_dropped(DropReason::NoSa, 1);
}

#[test]
fn what_policy_bypasses_leaves_in_clear_and_nothing_else_does() {
    let mut pair = pair(&Child::between(1, 2));
    let rig = &mut pair.a;
    rig.policy_to(PolicyAction::Bypass, &[ts("10.1.0.0/16")], &[ts("10.2.0.0/16[udp/53]")]);
    let sealed = Packet::between(1, 2, false, 100);
    let dns = Packet { ports: (1000, 53), ..sealed.clone() };
    let sent = rig.inside(&[dns.octets(), sealed.octets()]).only_sent(OUTSIDE);
    assert_eq!(sent[0], dns.forwarded());
    assert_eq!(Ipv4::parse(&sent[1]).unwrap().protocol, 50);
    // The host has done a router's work already.
    let from_host = rig.feed(Ingress::Kernel, &[dns.octets()]).only_sent(OUTSIDE);
    assert_eq!(from_host, [dns.octets()]);
    let ended = Packet { ttl: 1, ..dns.clone() };
    assert_eq!(rig.inside(&[ended.octets()]).drops["ttl_expired"], 1);
    // What the kernel gave us does not go back to it, to come again.
    rig.set_routes(&[("10.2.0.0/16", NextHop::Kernel)]);
    rig.feed(Ingress::Kernel, &[dns.octets()]).only_dropped(DropReason::NoEgress, 1);
    assert_eq!(rig.inside(&[dns.octets()]).to_kernel.len(), 1);
}

#[test]
fn what_policy_bypasses_comes_in_clear_from_outside_and_nothing_else_does() {
    let mut pair = pair(&Child::between(1, 2));
    let rig = &mut pair.a;
    let dns = Packet { ports: (53, 1000), ..Packet::between(2, 1, false, 100) };
    rig.outside(&[dns.octets()]).only_dropped(DropReason::ClearInbound, 1);
    let bypass = rig.policy_to(PolicyAction::Bypass, &[ts("10.1.0.0/16")], &[ts("10.2.0.0/16[udp/53]")]);
    assert_eq!(rig.outside(&[dns.octets()]).only_sent(INSIDE), [dns.forwarded()]);
    // Another port is protected, whatever the addresses.
    let other = Packet { ports: (54, 1000), ..dns.clone() };
    rig.outside(&[other.octets()]).only_dropped(DropReason::ClearInbound, 1);
    // The other way round it would be somebody else's.
    rig.outside(&[Packet { src: dns.dst, dst: dns.src, ..dns.clone() }.octets()])
        .only_dropped(DropReason::ClearInbound, 1);
    let ended = rig.outside(&[Packet { ttl: 1, ..dns.clone() }.octets()]);
    assert_eq!((ended.drops["ttl_expired"], ended.sent(OUTSIDE).len()), (1, 1), "its sender is told");
    // Bypassed on its way in, but not on its way on: it goes where a packet out of a tunnel might go.
    rig.set_routes(&[("10.1.0.0/16", NextHop::None)]);
    assert_eq!(rig.outside(&[dns.octets()]).drops["no_route"], 1);
    rig.set_routes(&[("10.1.0.9/32", NextHop::Local)]);
    assert_eq!(rig.outside(&[dns.octets()]).to_kernel, [dns.octets()]);
    rig.installer.remove_policy(bypass).unwrap();
    rig.outside(&[dns.octets()]).only_dropped(DropReason::ClearInbound, 1);
}

#[test]
fn what_a_policy_drops_first_does_not_come_out_of_a_tunnel_either() {
    let mut pair = pair(&Child::between(1, 2));
    let answer = Packet::between(2, 1, false, 100).octets();
    let (ours, theirs) = ([ts("10.1.0.0/16")], [ts("10.2.0.0/16[udp/1000]")]);
    let everything = [ts("0.0.0.0/0")];
    let arrives = |pair: &mut common::Pair| {
        let sealed = pair.b.inside(std::slice::from_ref(&answer)).only_sent(OUTSIDE);
        pair.a.outside(&sealed)
    };
    // Whatever no other policy covers does not mean what came through a tunnel for an inside host.
    pair.a.policy_to(PolicyAction::Discard, &everything, &everything);
    assert_eq!(arrives(&mut pair).only_sent(INSIDE).len(), 1);
    let first = pair.a.policy_with(PolicyAction::Discard, 1, &ours, &theirs);
    arrives(&mut pair).only_dropped(DropReason::Discarded, 1);
    pair.a.installer.remove_policy(first).unwrap();
    assert_eq!(arrives(&mut pair).only_sent(INSIDE).len(), 1);
}

#[test]
fn a_bypassed_packet_too_big_for_the_link_is_cut_or_its_sender_told() {
    let mut rig = Rig::new(1);
    rig.policy_to(PolicyAction::Bypass, &[ts("10.1.0.0/16")], &[ts("10.2.0.0/16")]);
    let packet = Packet { dont_fragment: false, ..Packet::between(1, 2, false, 2000) };
    let pieces = rig.inside(&[packet.octets()]).only_sent(OUTSIDE);
    let headers: Vec<_> = pieces.iter().map(|piece| Ipv4::parse(piece).unwrap()).collect();
    assert_eq!(headers.iter().map(|header| header.total_len - 20).sum::<usize>(), 1980);
    assert!(headers.iter().all(|header| header.ttl == 63 && header.total_len <= MTU as usize));
    let outcome = rig.inside(&[Packet { dont_fragment: true, ..packet }.octets()]);
    assert_eq!(
        (outcome.drops["too_big"], outcome.sent(INSIDE).len(), outcome.sent(OUTSIDE).len()),
        (1, 1, 0)
    );
}

#[test]
fn out_of_a_tunnel_only_what_policy_bypasses_goes_on_to_an_outside_network() {
    let everything = Child { remote_ts: vec![ts("0.0.0.0/0")], ..Child::between(1, 2) };
    let mut pair = pair(&everything);
    let packet = Packet { dst: ip("198.51.100.7"), ..Packet::between(1, 2, false, 100) };
    let through = |pair: &mut common::Pair| {
        let sealed = pair.a.inside(&[packet.octets()]).only_sent(OUTSIDE);
        pair.b.outside(&sealed)
    };
    through(&mut pair).only_dropped(DropReason::ClearToOutside, 1);
    let (from, to) = ([ts("10.1.0.0/16")], [ts("198.51.100.0/24")]);
    let bypass = pair.b.policy_to(PolicyAction::Bypass, &from, &to);
    assert_eq!(through(&mut pair).only_sent(OUTSIDE).len(), 1);
    pair.b.installer.remove_policy(bypass).unwrap();
    through(&mut pair).only_dropped(DropReason::ClearToOutside, 1);
    pair.b.policy_to(PolicyAction::Discard, &from, &to);
    through(&mut pair).only_dropped(DropReason::Discarded, 1);
}

#[test]
fn a_packet_outside_a_narrower_sa_is_dropped() {
    let (mut a, b) = (Rig::new(1), Rig::new(2));
    let wide = Child::between(1, 2);
    let narrow = Child { remote_ts: vec![ts("10.2.0.0/16[udp/53]")], ..wide.clone() };
    let spi = a.install_inbound(&narrow, 2, 0);
    let policy = a.policy(&wide.local_ts, &wide.remote_ts);
    a.activate(&narrow, 2, policy, spi, b.install_inbound(&narrow.mirrored(), 1, 1), 1);
    let packet = Packet::between(1, 2, false, 100);
    a.inside(&[packet.octets()]).only_dropped(DropReason::OutsideSa, 1);
    let dns = Packet { ports: (1000, 53), ..packet };
    assert_eq!(a.inside(&[dns.octets()]).only_sent(OUTSIDE).len(), 1);
}

#[test]
fn a_removed_sa_is_never_used_again() {
    let mut pair = pair(&Child::between(1, 2));
    let packet = Packet::between(1, 2, false, 100).octets();
    let sealed = pair.a.inside(std::slice::from_ref(&packet)).only_sent(OUTSIDE);
    pair.a.installer.remove(pair.a_spi).unwrap();
    pair.a.inside(&[packet]).only_dropped(DropReason::NoSa, 1);
    pair.b.installer.remove(pair.b_spi).unwrap();
    pair.b.outside(&sealed).only_dropped(DropReason::UnknownSpi, 1);
    let events = pair.b.installer.take_events();
    let [DataplaneEvent::UnknownSpi { spi, seen }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((*spi, seen.remote, seen.encapsulation), (pair.b_spi, ip("192.0.2.1"), Encapsulation::None));
}

/// A sealed packet and the tunnel it is for, and a check that the tunnel has taken no harm.
struct Attack {
    pair: common::Pair,
    sealed: Vec<u8>,
}

impl Attack {
    fn new(child: Child) -> Self {
        let mut pair = pair(&child);
        let sealed =
            pair.a.inside(&[Packet::between(1, 2, false, 300).octets()]).only_sent(OUTSIDE).remove(0);
        Self { pair, sealed }
    }

    fn expect(&mut self, packet: Vec<u8>, reason: DropReason) {
        self.pair.b.outside(&[packet]).only_dropped(reason, 1);
    }

    fn lives_on(&mut self) {
        let genuine = self.sealed.clone();
        assert_eq!(self.pair.b.outside(&[genuine]).only_sent(INSIDE).len(), 1);
        let next = self.pair.a.inside(&[Packet::between(1, 2, false, 300).octets()]).only_sent(OUTSIDE);
        assert_eq!(self.pair.b.outside(&next).only_sent(INSIDE).len(), 1);
    }
}

#[test]
fn tampered_packets_are_dropped_and_move_nothing() {
    let mut attack = Attack::new(Child::between(1, 2));
    for at in (28..attack.sealed.len()).step_by(5) {
        let mut tampered = attack.sealed.clone();
        tampered[at] ^= 0x10;
        attack.expect(tampered, DropReason::IntegrityFailed);
    }
    // A forged sequence number far ahead, which must not push the genuine ones out of the window.
    let mut ahead = attack.sealed.clone();
    ahead[24..28].copy_from_slice(&100_000u32.to_be_bytes());
    attack.expect(ahead, DropReason::IntegrityFailed);
    attack.lives_on();
}

#[test]
fn truncated_packets_are_dropped_whatever_their_length() {
    for udp in [false, true] {
        let mut attack = Attack::new(Child { udp, ..Child::between(1, 2) });
        for len in 0..attack.sealed.len() {
            let cut = attack.sealed[..len].to_vec();
            attack.expect(cut, DropReason::Malformed);
        }
        attack.lives_on();
    }
}

#[test]
fn replayed_packets_are_dropped_also_within_one_batch() {
    for esn in [false, true] {
        replay(Attack::new(Child { esn, ..Child::between(1, 2) }));
    }
}

fn replay(mut attack: Attack) {
    let outcome = attack.pair.b.outside(&vec![attack.sealed.clone(); 64]);
    assert_eq!((outcome.sent(INSIDE).len(), &outcome.drops), (1, &[("replayed", 63)].into()));
    let replayed = attack.sealed.clone();
    attack.expect(replayed, DropReason::Replayed);
    let many: Vec<_> = (0..64).map(|_| Packet::between(1, 2, false, 60).octets()).collect();
    let sealed = attack.pair.a.inside(&many).only_sent(OUTSIDE);
    assert_eq!(attack.pair.b.outside(&sealed).only_sent(INSIDE).len(), 64);
    let old = attack.sealed.clone();
    attack.expect(old, DropReason::ReplayTooOld);
}

#[test]
fn wrong_spis_and_wrong_ways_of_coming_are_told_apart() {
    let mut attack = Attack::new(Child::between(1, 2));
    let mut unknown = attack.sealed.clone();
    unknown[20..24].copy_from_slice(&[0xde, 0xad, 0xbe, 0xef]);
    attack.expect(unknown, DropReason::UnknownSpi);
    let mut header = Ipv4::parse(&attack.sealed).unwrap();
    header.dst = [192, 0, 2, 77].into();
    let elsewhere = [header.write(&[]).as_slice(), &attack.sealed[20..]].concat();
    attack.expect(elsewhere, DropReason::EncapsulationMismatch);
    attack.lives_on();

    let mut natted = Attack::new(Child { udp: true, ..Child::between(1, 2) });
    // Of UDP, the kernel gets the fragments, not we.
    let header = Ipv4 { more_fragments: true, ..Ipv4::parse(&natted.sealed).unwrap() };
    let fragment = [header.write(&[]).as_slice(), &natted.sealed[20..]].concat();
    natted.expect(fragment, DropReason::OuterFragment);
    let header = Ipv4::parse(&natted.sealed).unwrap();
    let header = Ipv4 { total_len: header.total_len - 8, protocol: 50, ..header };
    let raw = [header.write(&[]).as_slice(), &natted.sealed[28..]].concat();
    natted.expect(raw, DropReason::EncapsulationMismatch);
    natted.lives_on();
}

#[test]
fn udp_is_taken_on_an_sa_that_was_negotiated_without() {
    let mut attack = Attack::new(Child::between(1, 2));
    let header = Ipv4::parse(&attack.sealed).unwrap();
    let header = Ipv4 { total_len: header.total_len + 8, protocol: 17, ..header };
    let udp = wire::Udp { src_port: 4500, dst_port: 4500, len: attack.sealed.len() - 12, checksum: 0 };
    let wrapped = [header.write(&[]).as_slice(), &udp.write(), &attack.sealed[20..]].concat();
    assert_eq!(attack.pair.b.outside(&[wrapped]).only_sent(INSIDE).len(), 1);
    assert_eq!(attack.pair.b.installer.take_events(), []);
}

/// RFC 3948 §2.1: a sender may compute it, and a NAT may have broken it; what counts is the ICV.
#[test]
fn whatever_the_udp_checksum_of_esp_is_it_is_taken() {
    for checksum in [0, 1, 0x1234, 0xffff] {
        let mut attack = Attack::new(Child { udp: true, ..Child::between(1, 2) });
        attack.sealed[26..28].copy_from_slice(&u16::to_be_bytes(checksum));
        let sealed = attack.sealed.clone();
        assert_eq!(attack.pair.b.outside(&[sealed]).only_sent(INSIDE).len(), 1, "{checksum}");
    }
}

#[test]
fn a_peer_that_moved_is_reported_by_its_newest_authentic_packet_only() {
    let mut attack = Attack::new(Child { udp: true, ..Child::between(1, 2) });
    let move_to = |sealed: &[u8], last: u8, port: u16| {
        let header = Ipv4 { src: [192, 0, 2, last].into(), ..Ipv4::parse(sealed).unwrap() };
        [header.write(&[]).as_slice(), &port.to_be_bytes(), &sealed[22..]].concat()
    };
    let mut forged = move_to(&attack.sealed, 200, 4500);
    *forged.last_mut().unwrap() ^= 1;
    attack.expect(forged, DropReason::IntegrityFailed);
    assert_eq!(attack.pair.b.installer.take_events(), []);
    let next = attack.pair.a.inside(&[Packet::between(1, 2, false, 99).octets()]).only_sent(OUTSIDE);
    let moved = move_to(&next[0], 201, 5000);
    assert_eq!(attack.pair.b.outside(&[moved]).only_sent(INSIDE).len(), 1);
    let events = attack.pair.b.installer.take_events();
    let [DataplaneEvent::PeerMoved { pair, seen }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((*pair, seen.remote), (attack.pair.b_spi, ip("192.0.2.201")));
    assert_eq!(seen.encapsulation, Encapsulation::Udp { local_port: 4500, remote_port: 5000 });
    let late = move_to(&attack.sealed, 202, 6000);
    assert_eq!(attack.pair.b.outside(&[late]).only_sent(INSIDE).len(), 1);
    assert_eq!(attack.pair.b.installer.take_events(), []);
}

#[test]
fn a_decrypted_packet_must_be_what_its_sa_is_for() {
    let child = Child { remote_ts: vec![ts("10.2.0.0/16[udp/2000]")], ..Child::between(1, 2) };
    let (mut a, mut b) = (Rig::new(1), Rig::new(2));
    // A sends more than was agreed.
    let greedy =
        Child { local_ts: vec![ts("10.0.0.0/8")], remote_ts: vec![ts("10.0.0.0/8")], ..child.clone() };
    let (a_spi, b_spi) = (a.install_inbound(&greedy, 2, 0), b.install_inbound(&child.mirrored(), 1, 1));
    let policy = a.policy(&greedy.local_ts, &greedy.remote_ts);
    a.activate(&greedy, 2, policy, a_spi, b_spi, 1);
    let mut try_it = |packet: Vec<u8>| {
        let sealed = a.inside(&[packet]).only_sent(OUTSIDE);
        b.outside(&sealed)
    };
    let agreed = Packet { dont_fragment: false, ..Packet::between(1, 2, false, 100) };
    assert_eq!(try_it(agreed.octets()).only_sent(INSIDE).len(), 1);
    let source = Packet { src: ip("10.99.0.1"), ..agreed.clone() };
    try_it(source.octets()).only_dropped(DropReason::SelectorMismatch, 1);
    let destination = Packet { dst: ip("10.99.0.1"), ..agreed.clone() };
    try_it(destination.octets()).only_dropped(DropReason::SelectorMismatch, 1);
    let port = Packet { ports: (1000, 2001), ..agreed.clone() };
    try_it(port.octets()).only_dropped(DropReason::SelectorMismatch, 1);
    // A later fragment has no port to match.
    let header = Ipv4 { fragment_offset: 800, ..Ipv4::parse(&agreed.octets()).unwrap() };
    let later = [header.write(&[]).as_slice(), &agreed.octets()[20..]].concat();
    try_it(later).only_dropped(DropReason::SelectorMismatch, 1);
}

#[test]
fn spoke_to_spoke_traffic_is_sealed_on_both_legs_or_dropped() {
    let (mut spoke, mut hub, mut other) = (Rig::new(1), Rig::new(2), Rig::new(3));
    let everything = vec![ts("10.0.0.0/8")];
    connect(&Child { remote_ts: everything.clone(), ..Child::between(1, 2) }, &spoke, &hub);
    let (_, hub_spi, _) = connect(&Child { remote_ts: everything, ..Child::between(3, 2) }, &other, &hub);
    let packet = Packet::between(1, 3, false, 400);
    let first = spoke.inside(&[packet.octets()]).only_sent(OUTSIDE);
    let second = hub.outside(&first).only_sent(OUTSIDE);
    assert_eq!(wire::flow(&second[0]).unwrap().0.dst, ip("192.0.2.3"));
    let delivered = other.outside(&second).only_sent(INSIDE);
    assert_eq!(delivered, [Packet { ttl: 61, ..packet.clone() }.octets()]);

    let first = spoke.inside(&[packet.octets()]).only_sent(OUTSIDE);
    hub.installer.remove(hub_spi).unwrap();
    hub.outside(&first).only_dropped(DropReason::NoSa, 1);
}

#[test]
fn what_comes_out_of_a_tunnel_goes_where_the_routes_say_but_never_outside_in_clear() {
    let child = Child { remote_ts: vec![ts("0.0.0.0/0"), ts("::/0")], ..Child::between(1, 2) };
    let mut pair = pair(&child);
    let send = |to: &str, pair: &mut common::Pair| {
        let packet = Packet { dst: ip(to), ..Packet::between(1, 2, ip(to).is_ipv6(), 100) };
        let sealed = pair.a.inside(&[packet.octets()]).only_sent(OUTSIDE);
        (pair.b.outside(&sealed), packet)
    };
    send("203.0.113.5", &mut pair).0.only_dropped(DropReason::ClearToOutside, 1);
    send("2001:db8:99::5", &mut pair).0.only_dropped(DropReason::ClearToOutside, 1);
    let (outcome, packet) = send("10.2.0.1", &mut pair);
    assert!(outcome.transmit.is_empty() && outcome.drops.is_empty());
    assert_eq!(
        outcome.to_kernel,
        [packet.forwarded()],
        "for the host itself, its TTL is not counted down again"
    );

    let gateway = ip("10.2.0.77");
    let unresolved = NextHop::Unresolved { port: INSIDE, ifindex: 11, gateway, mtu: MTU };
    pair.b.set_routes(&[
        ("10.2.1.0/24", NextHop::None),
        ("10.2.2.0/24", NextHop::LinkDown),
        ("10.2.3.0/24", NextHop::Kernel),
        ("10.2.4.0/24", unresolved),
        ("10.2.5.0/24", NextHop::Unresolved { port: OUTSIDE, ifindex: 10, gateway, mtu: MTU }),
    ]);
    send("10.2.1.1", &mut pair).0.only_dropped(DropReason::NoRoute, 1);
    send("10.2.2.1", &mut pair).0.only_dropped(DropReason::LinkDown, 1);
    assert_eq!(send("10.2.3.1", &mut pair).0.to_kernel.len(), 1);
    send("10.2.5.1", &mut pair).0.only_dropped(DropReason::ClearToOutside, 1);
    let held = send("10.2.4.1", &mut pair).0.held;
    let [(waiting, frame)] = held.as_slice() else { panic!("not held") };
    assert_eq!((waiting.port, waiting.ifindex, waiting.gateway), (INSIDE, 11, gateway));
    assert_eq!(frame[..12], [[0; 6], port_mac(2, INSIDE)].concat());
}

#[test]
fn where_the_hosts_firewall_is_asked_everything_out_of_a_tunnel_goes_to_the_host() {
    let (mut spoke, mut hub, other) = (Rig::new(1), Rig::with_firewall(2), Rig::new(3));
    let everything = [networks(1), networks(2), networks(3)].concat();
    connect(&Child { remote_ts: everything, ..Child::between(1, 2) }, &spoke, &hub);
    let both = [networks(1), networks(2)].concat();
    connect(&Child { local_ts: both, remote_ts: networks(3), ..Child::between(2, 3) }, &hub, &other);
    hub.set_routes(&[("10.4.0.0/16", common::hop(2, OUTSIDE))]);
    let to = |other| Packet::between(1, other, false, 200);
    // To a host inside, and to another spoke: for the kernel, which counts the TTL down and routes. The same flow once more.
    for destination in [2, 3, 2] {
        let sealed = spoke.inside(&[to(destination).octets()]).only_sent(OUTSIDE);
        let opened = hub.outside(&sealed);
        assert!(opened.transmit.is_empty() && opened.drops.is_empty(), "{opened:?}");
        assert_eq!(opened.to_kernel, [to(destination).forwarded()], "the spoke alone has counted it down");
    }
    // What the kernel routes back into the TUN device is sealed for the other spoke.
    assert_eq!(hub.feed(Ingress::Kernel, &[to(3).octets()]).only_sent(OUTSIDE).len(), 1);
    // No route of the kernel's leads it outside in clear.
    let child = Child { remote_ts: networks(4), ..Child::between(1, 2) };
    let (mut spoke, mut hub) = (Rig::new(1), Rig::with_firewall(2));
    connect(&child, &spoke, &hub);
    hub.set_routes(&[("10.4.0.0/16", common::hop(2, OUTSIDE))]);
    let sealed = spoke.inside(&[to(4).octets()]).only_sent(OUTSIDE);
    hub.outside(&sealed).only_dropped(DropReason::ClearToOutside, 1);
}

#[test]
fn a_held_frame_is_sent_once_its_neighbour_is_known() {
    let mut pair = pair(&Child::between(1, 2));
    let gateway = ip("192.0.2.254");
    pair.a.set_routes(&[(
        "192.0.2.2/32",
        NextHop::Unresolved { port: OUTSIDE, ifindex: 10, gateway, mtu: MTU },
    )]);
    let outcome = pair.a.inside(&[Packet::between(1, 2, false, 100).octets()]);
    let [(waiting, octets)] = outcome.held.as_slice() else { panic!("not held") };
    let mut frame = pair.a.pool.free.pop().unwrap();
    assert!(frame.set_range(256, 256 + octets.len()));
    frame.packet_mut().copy_from_slice(octets);
    let mut out = Output::default();
    release(waiting, NEIGHBOUR, frame, &mut out);
    let sent: Vec<_> = out.transmit.drain().collect();
    let [(OUTSIDE, frame)] = sent.as_slice() else { panic!("not sent") };
    assert_eq!(frame.packet()[..12], [NEIGHBOUR, port_mac(1, OUTSIDE)].concat());
    assert_eq!(pair.b.outside(&[frame.packet()[14..].to_vec()]).only_sent(INSIDE).len(), 1);
}

#[test]
fn a_sealed_packet_without_a_way_is_dropped_by_the_name_of_the_obstacle() {
    let mut pair = pair(&Child::between(1, 2));
    for (hop, reason) in [
        (NextHop::None, DropReason::NoRoute),
        (NextHop::LinkDown, DropReason::LinkDown),
        (NextHop::Kernel, DropReason::NoEgress),
        (NextHop::Local, DropReason::NoEgress),
    ] {
        pair.a.set_routes(&[("192.0.2.0/24", hop)]);
        pair.a.inside(&[Packet::between(1, 2, false, 100).octets()]).only_dropped(reason, 1);
    }
    // Nothing was sealed in vain: the numbers are still there.
    pair.a.set_routes(&[]);
    let sealed = pair.a.inside(&[Packet::between(1, 2, false, 100).octets()]).only_sent(OUTSIDE);
    assert_eq!(sealed[0][24..28], 1u32.to_be_bytes());
}

#[test]
fn esp_inside_esp_is_opened_once_more_and_no_deeper() {
    // Each child carries the tunnel packets of the one before: all end at the same gateway.
    let outer = vec![ts("192.0.2.0/24")];
    let (mut b, mut layers) = (Rig::new(2), Vec::new());
    for depth in 0..3 {
        let mut child = Child::between(1, 2);
        if depth > 0 {
            (child.local_ts, child.remote_ts) = (outer.clone(), outer.clone());
        }
        let a = Rig::new(1);
        let spi = b.install_inbound(&child.mirrored(), 1, 1);
        let pair = a.install_inbound(&child, 2, 0);
        let policy = a.policy(&child.local_ts, &child.remote_ts);
        a.activate(&child, 2, policy, pair, spi, 1);
        layers.push(a);
    }
    let packet = Packet::between(1, 2, false, 100);
    let once = layers[0].inside(&[packet.octets()]).only_sent(OUTSIDE);
    let twice = layers[1].inside(&once).only_sent(OUTSIDE);
    let opened = b.outside(&twice).only_sent(INSIDE);
    assert_eq!(opened, [Packet { ttl: 62, ..packet.clone() }.octets()]);
    let once = layers[0].inside(&[packet.octets()]).only_sent(OUTSIDE);
    let twice = layers[1].inside(&once).only_sent(OUTSIDE);
    let thrice = layers[2].inside(&twice).only_sent(OUTSIDE);
    b.outside(&thrice).only_dropped(DropReason::Loop, 1);
}

#[test]
fn frames_that_nobody_meant_for_us_are_dropped_by_name() {
    let mut pair = pair(&Child::between(1, 2));
    let packet = Packet::between(1, 2, false, 100).octets();
    let outside = Ingress::Port(OUTSIDE);
    pair.a
        .feed_frames(outside, &[ethernet([2, 9, 9, 9, 9, 9], &packet)])
        .only_dropped(DropReason::OtherHost, 1);
    pair.a.outside(std::slice::from_ref(&packet)).only_dropped(DropReason::ClearInbound, 1);
    let mut arp = ethernet(port_mac(1, INSIDE), &[0; 46]);
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    pair.a.feed_frames(Ingress::Port(INSIDE), &[arp]).only_dropped(DropReason::Unexpected, 1);
    let mut confused = ethernet(port_mac(1, INSIDE), &packet);
    confused[12..14].copy_from_slice(&[0x86, 0xdd]);
    pair.a.feed_frames(Ingress::Port(INSIDE), &[confused]).only_dropped(DropReason::Malformed, 1);
    let mut checksum = packet.clone();
    checksum[8] ^= 1;
    pair.a.inside(&[checksum]).only_dropped(DropReason::HeaderChecksum, 1);
    pair.a.feed_frames(Ingress::Port(INSIDE), &[vec![], vec![1; 13]]).only_dropped(DropReason::Malformed, 2);
}

#[test]
fn congestion_marks_cross_the_tunnel_or_end_the_packet() {
    let mut pair = pair(&Child::between(1, 2));
    let mut marked = |ecn: u8| {
        let packet = Packet { tos: ecn, ..Packet::between(1, 2, false, 100) };
        let mut sealed = pair.a.inside(&[packet.octets()]).only_sent(OUTSIDE);
        wire::set_ecn(&mut sealed[0], 3);
        pair.b.outside(&sealed)
    };
    assert_eq!(wire::flow(&marked(2).only_sent(INSIDE)[0]).unwrap().1.tos(), 3);
    marked(0).only_dropped(DropReason::EcnNotCapable, 1);
}

#[test]
fn esp_of_others_passing_by_is_protected_like_any_packet() {
    let mut pair = pair(&Child::between(1, 2));
    let base = Packet::between(1, 2, false, 120);
    let transit = [base.header(50), vec![7; 100]].concat();
    let sealed = pair.a.inside(&[transit]).only_sent(OUTSIDE);
    assert_eq!(pair.b.outside(&sealed).only_sent(INSIDE).len(), 1);
    // To one of our own addresses it is for us, by whatever port it comes.
    let to_us = Packet { dst: outside_address(1, false), ..base };
    let to_us = [to_us.header(50), vec![7; 100]].concat();
    pair.a.inside(&[to_us]).only_dropped(DropReason::UnknownSpi, 1);
}

#[test]
fn a_run_of_packets_gets_its_sequence_numbers_in_order() {
    let mut pair = pair(&Child::between(1, 2));
    let sealed = pair.a.inside(&vec![Packet::between(1, 2, false, 60).octets(); 150]).only_sent(OUTSIDE);
    let numbers: Vec<_> = sealed.iter().map(|p| u32::from_be_bytes(p[24..28].try_into().unwrap())).collect();
    assert_eq!(numbers, (1..=150).collect::<Vec<_>>());
}

#[test]
fn a_policy_over_everything_does_not_send_back_what_is_for_the_host() {
    let everything = vec![ts("0.0.0.0/0")];
    let child = Child { local_ts: everything.clone(), remote_ts: everything, ..Child::between(1, 2) };
    let mut pair = pair(&child);
    let packet = Packet { dst: ip("10.2.0.1"), ..Packet::between(1, 2, false, 100) };
    let sealed = pair.a.inside(&[packet.octets()]).only_sent(OUTSIDE);
    let outcome = pair.b.outside(&sealed);
    assert!(outcome.transmit.is_empty());
    assert_eq!(outcome.to_kernel, [packet.forwarded()]);
}
