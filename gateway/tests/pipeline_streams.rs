//! SAs whose ESP goes in TCP streams (RFC 9329), which the control plane has.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "where a test cannot go on it fails")]

mod common;

use std::net::IpAddr;

use portcullis_gateway::drop::DropReason;
use portcullis_gateway::pipeline::Ingress;
use portcullis_gateway::wire::{self, Ipv4, Ipv6};
use portcullis_ipsec::{DataplaneEvent, Encapsulation, SaInstaller, TunnelEndpoints};

use common::{Child, INSIDE, OUTSIDE, Outcome, Packet, Pair, pair};

/// The peer's end of the stream.
const PORT: u16 = 40_000;

/// A tunnel from A, which has the port 4500 of a stream, to B, which has opened it.
fn tunnel(child: &Child) -> Pair {
    let pair = pair(child);
    let between = |local, remote, ports: (u16, u16)| TunnelEndpoints {
        encapsulation: Encapsulation::Tcp { local_port: ports.0, remote_port: ports.1 },
        ..child.endpoints(local, remote)
    };
    pair.a.installer.move_pair(pair.a_spi, between(1, 2, (4500, PORT))).unwrap();
    pair.b.installer.move_pair(pair.b_spi, between(2, 1, (PORT, 4500))).unwrap();
    pair
}

/// ESP out of the one frame that is for a stream, with nothing but that done.
fn esp_of(outcome: &Outcome, v6: bool) -> Vec<u8> {
    let frame = outcome.to_streams.first().unwrap();
    assert_eq!(outcome.to_streams.len(), 1);
    assert!(outcome.transmit.is_empty() && outcome.drops.is_empty(), "{outcome:?}");
    let header = if v6 { 40 } else { 20 };
    // An Ethernet header, an IP header, and ports.
    let (key, _) = wire::read(&frame[14..]).unwrap();
    assert_eq!((key.src_port(), key.dst_port()), (Some(4500), Some(PORT)));
    frame[14 + header + 8..].to_vec()
}

/// What the inlet makes of ESP that came in a stream from A's port `from`, or of another protocol.
fn arrival(child: &Child, protocol: u8, from: u16, esp: &[u8]) -> Vec<u8> {
    let TunnelEndpoints { local, remote, .. } = child.endpoints(1, 2);
    let ports: &[u8] = match protocol {
        50 => &[],
        _ => &[from.to_be_bytes(), PORT.to_be_bytes(), [0, 0], [0, 0]].concat(),
    };
    let len = ports.len() + esp.len();
    let header = match (local, remote) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let plain = Ipv4::parse(&Packet::between(1, 2, false, 60).octets()).unwrap();
            Ipv4 { src, dst, protocol, total_len: 20 + len, ..plain }.write(&[]).to_vec()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let next_header = protocol;
            let header = Ipv6 {
                traffic_class: 0,
                flow_label: 0,
                payload_len: len,
                next_header,
                hop_limit: 1,
                src,
                dst,
            };
            header.write().to_vec()
        }
        _ => unreachable!("of one family"),
    };
    [&header, ports, esp].concat()
}

#[test]
fn esp_for_a_stream_leaves_by_no_interface_and_what_comes_in_one_is_opened() {
    for outer_v6 in [false, true] {
        let child = Child { outer_v6, ..Child::between(1, 2) };
        let mut pair = tunnel(&child);
        let packet = Packet::between(1, 2, false, 100);
        let esp = esp_of(&pair.a.inside(&[packet.octets()]), outer_v6);
        assert_eq!(esp[..4], pair.b_spi.get().to_be_bytes());
        let opened = pair.b.feed(Ingress::Socket, &[arrival(&child, 6, 4500, &esp)]);
        assert_eq!(opened.only_sent(INSIDE).len(), 1);
        assert_eq!(pair.b.installer.take_events(), []);
    }
}

#[test]
fn an_sa_of_a_stream_takes_udp_but_no_raw_esp_and_one_of_none_takes_no_stream() {
    let child = Child::between(1, 2);
    let mut pair = tunnel(&child);
    let seal = |pair: &mut Pair| esp_of(&pair.a.inside(&[Packet::between(1, 2, false, 100).octets()]), false);
    let esp = seal(&mut pair);
    pair.b.outside(&[arrival(&child, 50, 0, &esp)]).only_dropped(DropReason::EncapsulationMismatch, 1);
    let raw = child.endpoints(2, 1);
    pair.b.installer.move_pair(pair.b_spi, raw).unwrap();
    let in_stream = arrival(&child, 6, 4500, &esp);
    pair.b
        .feed(Ingress::Socket, std::slice::from_ref(&in_stream))
        .only_dropped(DropReason::EncapsulationMismatch, 1);
    let udp =
        TunnelEndpoints { encapsulation: Encapsulation::Udp { local_port: PORT, remote_port: 4500 }, ..raw };
    pair.b.installer.move_pair(pair.b_spi, udp).unwrap();
    pair.b.feed(Ingress::Socket, &[in_stream]).only_dropped(DropReason::EncapsulationMismatch, 1);
}

#[test]
fn a_packet_of_tcp_from_a_network_is_no_esp_whatever_is_in_it() {
    let child = Child::between(1, 2);
    let mut pair = tunnel(&child);
    let esp = esp_of(&pair.a.inside(&[Packet::between(1, 2, false, 100).octets()]), false);
    let outcome = pair.b.outside(&[arrival(&child, 6, 4500, &esp)]);
    assert_eq!(outcome.sent(INSIDE).len(), 0, "{outcome:?}");
    assert_eq!(pair.b.installer.counters(pair.b_spi).unwrap().packets_in, 0);
}

#[test]
fn another_stream_is_reported_by_its_newest_authentic_packet() {
    let child = Child::between(1, 2);
    let mut pair = tunnel(&child);
    let esp = esp_of(&pair.a.inside(&[Packet::between(1, 2, false, 100).octets()]), false);
    let mut forged = esp.clone();
    *forged.last_mut().unwrap() ^= 1;
    pair.b
        .feed(Ingress::Socket, &[arrival(&child, 6, 4501, &forged)])
        .only_dropped(DropReason::IntegrityFailed, 1);
    assert_eq!(pair.b.installer.take_events(), []);
    assert_eq!(pair.b.feed(Ingress::Socket, &[arrival(&child, 6, 4501, &esp)]).only_sent(INSIDE).len(), 1);
    let events = pair.b.installer.take_events();
    let [DataplaneEvent::PeerMoved { pair: moved, seen }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(*moved, pair.b_spi);
    assert_eq!(seen.encapsulation, Encapsulation::Tcp { local_port: PORT, remote_port: 4501 });
}

#[test]
fn a_packet_fits_a_segment_or_its_sender_is_told_and_nothing_is_cut() {
    let child = Child::between(1, 2);
    let mut pair = tunnel(&child);
    // 1500 less IP (20), TCP with timestamps (32), length (2), ESP (8), IV (8), ICV (16), trailer (2), to a multiple of four.
    let most = 1500 - 20 - 32 - 2 - 8 - 8 - 16;
    let most = (most & !3) - 2;
    let sized = |len: usize, dont_fragment| {
        Packet { dont_fragment, len, ..Packet::between(1, 2, false, len) }.octets()
    };
    let fits = esp_of(&pair.a.inside(&[sized(most, true)]), false);
    assert!(fits.len() + 2 + 32 + 20 <= 1500, "{}", fits.len());
    let told = pair.a.inside(&[sized(most + 1, true)]);
    assert_eq!((told.drops.get("too_big"), told.sent(INSIDE).len(), told.to_streams.len()), (Some(&1), 1, 0));
    // One that may be cut is, inside of the tunnel or, for TCP cares, not at all.
    let cut = pair.a.inside(&[sized(most + 1, false)]);
    assert!(!cut.to_streams.is_empty() && cut.sent(OUTSIDE).is_empty(), "{cut:?}");
}
