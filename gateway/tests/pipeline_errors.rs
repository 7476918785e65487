//! What becomes of packets that are too big or whose TTL ends: ICMP errors with the right numbers to the right place,
//! or fragments.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "where a test cannot go on it fails")]

mod common;

use common::{Child, INSIDE, MTU, NEIGHBOUR, OUTSIDE, Packet, Rig, host, inside_address, pair, port_mac, ts};
use portcullis_gateway::drop::DropReason;
use portcullis_gateway::pipeline::Ingress;
use portcullis_gateway::route::NextHop;
use portcullis_gateway::wire::{self, Checksum, IcmpError, Ipv4};
use portcullis_ipsec::TrafficSelector;

#[test]
fn the_largest_packet_passes_and_a_larger_one_is_told_so() {
    for (outer_v6, udp, largest) in
        [(false, false, 1446), (false, true, 1438), (true, false, 1426), (true, true, 1418)]
    {
        let mut pair = pair(&Child { outer_v6, udp, ..Child::between(1, 2) });
        for v6 in [false, true] {
            let fits = Packet::between(1, 2, v6, largest);
            let sealed = pair.a.inside(&[fits.octets()]).only_sent(OUTSIDE);
            assert!(sealed[0].len() <= MTU as usize && sealed[0].len() + 4 > MTU as usize);
            let too_big = Packet::between(1, 2, v6, largest + 1);
            let outcome = pair.a.inside(&[too_big.octets()]);
            assert_eq!(outcome.drops, [("too_big", 1)].into());
            assert_eq!(outcome.transmit[0].1[..12], [NEIGHBOUR, port_mac(1, INSIDE)].concat());
            let [answer] = outcome.sent(INSIDE).try_into().unwrap();
            let (flow, info) = wire::flow(&answer).unwrap();
            assert_eq!((flow.src, flow.dst), (inside_address(1, v6), host(1, v6)));
            let icmp = &answer[info.header_len()..];
            if v6 {
                assert_eq!(
                    (icmp[0], icmp[1], &icmp[4..8]),
                    (2, 0, (largest as u32).to_be_bytes().as_slice())
                );
                let sum = Checksum::default().pseudo_header(flow.src, flow.dst, 58, icmp.len() as u32);
                assert!(sum.octets(icmp).is_valid());
            } else {
                assert_eq!(
                    (icmp[0], icmp[1], &icmp[6..8]),
                    (3, 4, (largest as u16).to_be_bytes().as_slice())
                );
                assert!(Checksum::default().octets(icmp).is_valid());
            }
            assert_eq!(icmp[8..], too_big.octets()[..icmp.len() - 8], "quoted as it came");
        }
    }
}

#[test]
fn no_smaller_mtu_than_1280_is_told_over_ipv6() {
    let mut pair = pair(&Child::between(1, 2));
    let narrow =
        NextHop::Port { port: OUTSIDE, src_mac: port_mac(1, OUTSIDE), dst_mac: NEIGHBOUR, mtu: 1280 };
    pair.a.set_routes(&[("192.0.2.0/24", narrow)]);
    let outcome = pair.a.inside(&[Packet::between(1, 2, true, 1300).octets()]);
    assert_eq!(outcome.sent(INSIDE)[0][44..48], 1280u32.to_be_bytes());
    // What is no larger than that cannot be helped by any message: it goes in pieces (RFC 2473 §7.1).
    let pieces = pair.a.inside(&[Packet::between(1, 2, true, 1280).octets()]).only_sent(OUTSIDE);
    assert_eq!(pieces.len(), 2);
}

#[test]
fn a_packet_that_may_be_fragmented_goes_through_in_pieces() {
    let mut pair = pair(&Child::between(1, 2));
    let packet = Packet { dont_fragment: false, ..Packet::between(1, 2, false, 3300) };
    let sealed = pair.a.inside(&[packet.octets()]).only_sent(OUTSIDE);
    assert_eq!(sealed.len(), 3);
    assert!(sealed.iter().all(|sealed| sealed.len() <= MTU as usize));
    let pieces = pair.b.outside(&sealed).only_sent(INSIDE);
    let mut payload = Vec::<u8>::new();
    for (number, piece) in pieces.iter().enumerate() {
        let header = Ipv4::parse(piece).unwrap();
        assert_eq!((header.fragment_offset, header.more_fragments), (payload.len(), number < 2));
        assert_eq!((header.ttl, header.id), (62, 0x1234), "counted down once by each gateway");
        payload.extend(&piece[20..]);
    }
    assert_eq!(payload, packet.octets()[20..]);
    pair.a.pool.free.truncate(2);
    let outcome = pair.a.inside(&[packet.octets()]);
    assert_eq!(outcome.drops, [("no_frame", 1)].into(), "one frame holds the packet, one is not enough");
}

#[test]
fn pieces_follow_the_policy_of_the_whole_packet() {
    // By itself, a later piece without ports would match only the second policy.
    let child = Child {
        local_ts: vec![ts("10.1.0.0/16[udp]")],
        remote_ts: vec![ts("10.2.0.0/16[udp/2000]")],
        ..Child::between(1, 2)
    };
    let mut pair = pair(&child);
    pair.a.policy(&[ts("10.1.0.0/16")], &[ts("10.2.0.0/16")]);
    let packet = Packet { dont_fragment: false, ..Packet::between(1, 2, false, 2000) };
    let outcome = pair.a.inside(&[packet.octets()]);
    assert_eq!(outcome.sent(OUTSIDE).len(), 1);
    assert_eq!(outcome.drops, [("outside_sa", 1)].into(), "not sent under a policy that it is not of");
}

#[test]
fn a_sender_behind_the_tunnel_is_told_through_the_tunnel() {
    let mut pair = pair(&Child::between(1, 2));
    let narrow = NextHop::Port { port: INSIDE, src_mac: port_mac(2, INSIDE), dst_mac: NEIGHBOUR, mtu: 1300 };
    pair.b.set_routes(&[("10.2.0.0/24", narrow), ("2001:db8:2::/64", narrow)]);
    for v6 in [false, true] {
        let sealed = pair.a.inside(&[Packet::between(1, 2, v6, 1400).octets()]).only_sent(OUTSIDE);
        let outcome = pair.b.outside(&sealed);
        assert_eq!(outcome.drops, [("too_big", 1)].into());
        assert!(outcome.sent(INSIDE).is_empty());
        let answer = pair.a.outside(&outcome.sent(OUTSIDE)).only_sent(INSIDE).remove(0);
        let (flow, info) = wire::flow(&answer).unwrap();
        assert_eq!((flow.src, flow.dst), (inside_address(2, v6), host(1, v6)));
        let mtu = &answer[info.header_len() + 4..info.header_len() + 8];
        assert_eq!(mtu, if v6 { 1300u32.to_be_bytes() } else { [0, 0, 0x05, 0x14] });
    }
    let fragmentable = Packet { dont_fragment: false, ..Packet::between(1, 2, false, 1400) };
    let sealed = pair.a.inside(&[fragmentable.octets()]).only_sent(OUTSIDE);
    let pieces = pair.b.outside(&sealed).only_sent(INSIDE);
    assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [1300, 120]);
}

#[test]
fn the_host_is_told_as_if_by_the_destination() {
    let mut pair = pair(&Child::between(1, 2));
    let packet = Packet { src: inside_address(1, false), ..Packet::between(1, 2, false, 1500) };
    let outcome = pair.a.feed(Ingress::Kernel, &[packet.octets()]);
    let [answer] = outcome.to_kernel.try_into().unwrap();
    let (flow, _) = wire::flow(&answer).unwrap();
    assert_eq!((flow.src, flow.dst, answer[20..22].to_vec()), (packet.dst, packet.src, vec![3, 4]));
}

#[test]
fn the_hosts_own_packets_are_sealed_without_counting_down_their_ttl() {
    let mut pair = pair(&Child::between(1, 2));
    let packet = Packet { src: inside_address(1, false), ttl: 1, ..Packet::between(1, 2, false, 100) };
    let sealed = pair.a.feed(Ingress::Kernel, &[packet.octets()]).only_sent(OUTSIDE);
    let outcome = pair.b.outside(&sealed);
    assert_eq!(outcome.drops, [("ttl_expired", 1)].into());
    let for_the_host = Packet { dst: inside_address(2, false), ..packet };
    let sealed = pair.a.feed(Ingress::Kernel, &[for_the_host.octets()]).only_sent(OUTSIDE);
    assert_eq!(pair.b.outside(&sealed).to_kernel, [for_the_host.octets()]);
}

#[test]
fn an_expired_ttl_is_answered_unless_that_is_forbidden() {
    let mut pair = pair(&Child::between(1, 2));
    for v6 in [false, true] {
        for ttl in [0, 1] {
            let packet = Packet { ttl, ..Packet::between(1, 2, v6, 100) };
            let outcome = pair.a.inside(&[packet.octets()]);
            assert_eq!(outcome.drops, [("ttl_expired", 1)].into());
            let [answer] = outcome.sent(INSIDE).try_into().unwrap();
            let at = if v6 { 40 } else { 20 };
            assert_eq!(answer[at..at + 2], [if v6 { 3 } else { 11 }, 0]);
            assert_eq!(answer[at + 8..], packet.octets());
        }
    }
    let base = Packet { ttl: 1, ..Packet::between(1, 2, false, 100) };
    let unreachable = [base.header(1), vec![3; 80]].concat();
    pair.a.inside(&[unreachable]).only_dropped(DropReason::TtlExpired, 1);
    let header = Ipv4 { fragment_offset: 8, ..Ipv4::parse(&base.octets()).unwrap() };
    let later = [header.write(&[]).as_slice(), &base.octets()[20..]].concat();
    pair.a.inside(&[later]).only_dropped(DropReason::TtlExpired, 1);
}

#[test]
fn errors_are_limited_in_number_and_need_a_frame() {
    let mut pair = pair(&Child::between(1, 2));
    let expired = Packet { ttl: 1, ..Packet::between(1, 2, false, 100) }.octets();
    let answers = |rig: &mut Rig| rig.inside(&vec![expired.clone(); 250]).sent(INSIDE).len();
    assert_eq!(answers(&mut pair.a), 200);
    assert_eq!(answers(&mut pair.a), 0);
    pair.a.now.0 += 1;
    pair.a.pool.free.truncate(260);
    assert_eq!(answers(&mut pair.a), 10);
}

#[test]
fn the_hosts_own_packets_are_fragmented_without_counting_down_their_ttl() {
    let mut pair = pair(&Child::between(1, 2));
    let packet = Packet {
        src: inside_address(1, false),
        dst: inside_address(2, false),
        dont_fragment: false,
        ..Packet::between(1, 2, false, 2000)
    };
    let sealed = pair.a.feed(Ingress::Kernel, &[packet.octets()]).only_sent(OUTSIDE);
    let pieces = pair.b.outside(&sealed).to_kernel;
    let ttls: Vec<_> = pieces.iter().map(|piece| Ipv4::parse(piece).unwrap().ttl).collect();
    assert_eq!(ttls, [64, 64]);
}

/// Rig 1 with an SA that takes everything from everywhere, and rig 2 with an SA for the networks of both alone.
fn careless_peer(remote_ts: &[TrafficSelector]) -> (Rig, Rig) {
    let (a, b) = (Rig::new(1), Rig::new(2));
    let broad = Child { local_ts: vec![ts("0.0.0.0/0"), ts("::/0")], ..Child::between(1, 2) };
    let narrow = Child { remote_ts: remote_ts.to_vec(), ..Child::between(2, 1) };
    let b_spi = b.install_inbound(&narrow, 1, 1);
    let a_spi = a.install_inbound(&broad, 2, 0);
    let a_policy = a.policy(&broad.local_ts, &broad.remote_ts);
    a.activate(&broad, 2, a_policy, a_spi, b_spi, 1);
    (a, b)
}

/// A router's error about a packet, sent to `to`.
fn error(router: &str, about: &Packet, to: std::net::IpAddr) -> Vec<u8> {
    let (packet, mut buffer) = (about.octets(), [0; 1280]);
    let (flow, _) = wire::flow(&packet).unwrap();
    let flow = portcullis_ipsec::Flow { src: to, ..flow };
    let len = IcmpError::TimeExceeded.write(&packet, &flow, router.parse().unwrap(), &mut buffer).unwrap();
    buffer[..len].to_vec()
}

#[test]
fn a_router_beyond_the_peer_may_say_what_became_of_our_packets_and_of_no_others() {
    for v6 in [false, true] {
        let (mut a, mut b) = careless_peer(&common::networks(1));
        let router = if v6 { "2001:db8:77::1" } else { "172.16.0.1" };
        let ours = Packet::between(2, 1, v6, 600);
        let others =
            Packet { dst: common::ip(if v6 { "2001:db8:9::9" } else { "10.9.0.9" }), ..ours.clone() };
        for round in 0..2 {
            // What was let in once does not let in what quotes something else.
            let mut through = |error: Vec<u8>| {
                let sealed = a.inside(&[error]).only_sent(OUTSIDE);
                b.outside(&sealed)
            };
            let outcome = through(error(router, &ours, ours.src));
            assert_eq!(outcome.only_sent(INSIDE).len(), 1, "round {round}");
            through(error(router, &others, others.src)).only_dropped(DropReason::SelectorMismatch, 1);
            let elsewhere = host(2, v6);
            let bystander = Packet { src: inside_address(2, v6), ..ours.clone() };
            through(error(router, &bystander, elsewhere)).only_dropped(DropReason::SelectorMismatch, 1);
        }
        // A packet of the same router that is no error.
        let plain = Packet { src: router.parse().unwrap(), ..Packet::between(1, 2, v6, 100) };
        let sealed = a.inside(&[plain.octets()]).only_sent(OUTSIDE);
        b.outside(&sealed).only_dropped(DropReason::SelectorMismatch, 1);
    }
}

#[test]
fn on_an_sa_of_later_fragments_none_reaches_into_the_ports() {
    let opaque: Vec<_> = [ts("10.1.0.0/16[udp/opaque]"), ts("10.1.0.0/16[udp/2000]")].into();
    for (offset, passes) in [(8, false), (16, true), (24, true)] {
        let (mut a, mut b) = careless_peer(&opaque);
        let packet = Packet::between(1, 2, false, 100).octets();
        let header = Ipv4 { fragment_offset: offset, dont_fragment: false, ..Ipv4::parse(&packet).unwrap() };
        let fragment = [header.write(&[]).as_slice(), &packet[20..]].concat();
        let sealed = a.inside(&[fragment]).only_sent(OUTSIDE);
        let outcome = b.outside(&sealed);
        assert_eq!(outcome.sent(INSIDE).len(), usize::from(passes), "{offset} {outcome:?}");
        assert_eq!(outcome.drops.contains_key("selector_mismatch"), !passes);
    }
}
