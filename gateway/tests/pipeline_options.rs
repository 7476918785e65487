//! What the options of an SA change, from one gateway in memory to another: fields of the outer header, padding, transport
//! mode, fragmentation after encryption, TCP's segment size.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "where a test cannot go on it fails")]

mod common;

use common::{Child, INSIDE, OUTSIDE, Packet, Pair, Rig, connect, outside_address, pair};
use portcullis_gateway::drop::DropReason;
use portcullis_gateway::pipeline::Ingress;
use portcullis_gateway::route::NextHop;
use portcullis_gateway::wire::{Checksum, Ipv4, Ipv6, decrement_ttl, flow, set_ecn, set_tos};
use portcullis_ipsec::{CopyDf, CopyDscp, EspAlgorithm, Fragmentation, MssClamp, SaOptions, TfcPadding};

const FAMILIES: [bool; 2] = [false, true];

fn child(outer_v6: bool, options: SaOptions) -> Child {
    Child { outer_v6, options, ..Child::between(1, 2) }
}

/// The packet behind both gateways.
fn arrived(packet: &Packet) -> Vec<u8> {
    Packet { ttl: packet.ttl - 2, ..packet.clone() }.octets()
}

fn tos(packet: &[u8]) -> u8 {
    flow(packet).unwrap().1.tos()
}

/// Seals one packet with these options.
fn sealed(options: SaOptions, outer_v6: bool, packet: &Packet) -> Vec<u8> {
    let Pair { mut a, .. } = pair(&child(outer_v6, options));
    a.inside(&[packet.octets()]).only_sent(OUTSIDE).remove(0)
}

#[test]
fn dscp_and_ecn_are_copied_or_set_as_the_options_say() {
    const INNER: u8 = 46 << 2 | 2;
    let plain = SaOptions::default();
    for (options, outer) in [
        (plain, INNER),
        (SaOptions { copy_dscp: CopyDscp::Yes, ..plain }, INNER),
        (SaOptions { copy_dscp: CopyDscp::No, ..plain }, 2),
        (SaOptions { copy_dscp: CopyDscp::In, ..plain }, 2),
        (SaOptions { copy_dscp: CopyDscp::No, dscp: 8, ..plain }, 8 << 2 | 2),
        (SaOptions { copy_ecn: false, ..plain }, 46 << 2),
        (SaOptions { copy_ecn: false, copy_dscp: CopyDscp::No, dscp: 63, ..plain }, 63 << 2),
    ] {
        for (v6, outer_v6) in FAMILIES.into_iter().flat_map(|v6| FAMILIES.map(|outer| (v6, outer))) {
            let packet = Packet { tos: INNER, ..Packet::between(1, 2, v6, 200) };
            assert_eq!(tos(&sealed(options, outer_v6, &packet)), outer, "{options:?}, {v6} in {outer_v6}");
        }
    }
}

/// RFC 6040 §4.1: CE too, which RFC 3168 would have hidden.
#[test]
fn all_four_values_of_the_ecn_field_are_copied_or_none() {
    for (ecn, copy_ecn) in (0..4).flat_map(|ecn| [(ecn, true), (ecn, false)]) {
        let options = SaOptions { copy_ecn, ..SaOptions::default() };
        let packet = Packet { tos: 40 << 2 | ecn, ..Packet::between(1, 2, false, 200) };
        let expected = if copy_ecn { ecn } else { 0 };
        assert_eq!(tos(&sealed(options, false, &packet)), 40 << 2 | expected, "{copy_ecn}");
    }
}

#[test]
fn df_is_copied_cleared_or_set_as_the_options_say() {
    for (copy_df, expected) in
        [(CopyDf::Yes, [false, true]), (CopyDf::No, [false, false]), (CopyDf::Set, [true, true])]
    {
        let options = SaOptions { copy_df, ..SaOptions::default() };
        let outer = |packet: &Packet| Ipv4::parse(&sealed(options, false, packet)).unwrap().dont_fragment;
        let v4 = Packet::between(1, 2, false, 200);
        let found = [false, true].map(|dont_fragment| outer(&Packet { dont_fragment, ..v4.clone() }));
        assert_eq!(found, expected, "{copy_df:?}");
        assert_eq!(outer(&Packet::between(1, 2, true, 200)), expected[1], "{copy_df:?}, IPv6");
    }
}

/// RFC 6040 figure 4, whole: the inner ECN field after decapsulation, by inner (rows) and outer field (columns) Not-ECT,
/// ECT(1), ECT(0), CE; `None` is a drop.
const DECAPSULATED: [[Option<u8>; 4]; 4] = [
    [Some(0), Some(0), Some(0), None],
    [Some(1), Some(1), Some(1), Some(3)],
    [Some(2), Some(1), Some(2), Some(3)],
    [Some(3), Some(3), Some(3), Some(3)],
];

#[test]
fn what_comes_out_has_the_ecn_field_that_rfc_6040_says() {
    for (v6, outer_v6) in FAMILIES.into_iter().flat_map(|v6| FAMILIES.map(|outer| (v6, outer))) {
        for (inner, row) in DECAPSULATED.into_iter().enumerate() {
            for (outer, expected) in row.into_iter().enumerate() {
                let Pair { mut a, mut b, .. } = pair(&child(outer_v6, SaOptions::default()));
                let packet = Packet { tos: 40 << 2 | inner as u8, ..Packet::between(1, 2, v6, 99) };
                let mut sealed = a.inside(&[packet.octets()]).only_sent(OUTSIDE).remove(0);
                set_ecn(&mut sealed, outer as u8);
                let outcome = b.outside(&[sealed]);
                match expected {
                    Some(ecn) => assert_eq!(tos(&outcome.only_sent(INSIDE)[0]), 40 << 2 | ecn),
                    None => outcome.only_dropped(DropReason::EcnNotCapable, 1),
                }
            }
        }
    }
}

#[test]
fn the_outer_dscp_reaches_the_inner_header_only_where_it_shall() {
    for (copy_dscp, expected) in
        [(CopyDscp::Out, 10), (CopyDscp::No, 10), (CopyDscp::In, 33), (CopyDscp::Yes, 33)]
    {
        for v6 in FAMILIES {
            let options = SaOptions { copy_dscp, ..SaOptions::default() };
            let Pair { mut a, mut b, .. } = pair(&child(false, options));
            let packet = Packet { tos: 10 << 2 | 1, ..Packet::between(1, 2, v6, 99) };
            let mut sealed = a.inside(&[packet.octets()]).only_sent(OUTSIDE).remove(0);
            set_tos(&mut sealed, 33 << 2 | 3);
            let opened = b.outside(&[sealed]).only_sent(INSIDE);
            assert_eq!(tos(&opened[0]), expected << 2 | 3, "{copy_dscp:?}");
        }
    }
}

#[test]
fn padding_hides_the_length_of_every_packet_and_comes_off_again() {
    for algorithm in [EspAlgorithm::Aes256Gcm16, EspAlgorithm::Aes128CbcSha256, EspAlgorithm::NullSha256] {
        for (tfc_padding, outer_v6) in
            [(TfcPadding::To(700), false), (TfcPadding::Mtu, true), (TfcPadding::To(9000), false)]
        {
            let options = SaOptions { tfc_padding, ..SaOptions::default() };
            let Pair { mut a, mut b, .. } = pair(&Child { algorithm, ..child(outer_v6, options) });
            let packets: Vec<_> = [48, 100, 699, 700].map(|len| Packet::between(1, 2, true, len)).into();
            let octets: Vec<_> = packets.iter().map(Packet::octets).collect();
            let sealed = a.inside(&octets).only_sent(OUTSIDE);
            assert!(sealed.iter().all(|packet| packet.len() == sealed[0].len()), "{tfc_padding:?}");
            let fills_the_link = sealed[0].len() > 1500 - 16;
            assert_eq!(fills_the_link, tfc_padding != TfcPadding::To(700), "{}", sealed[0].len());
            let opened = b.outside(&sealed).only_sent(INSIDE);
            assert_eq!(opened, packets.iter().map(arrived).collect::<Vec<_>>());
        }
    }
    let larger = Packet::between(1, 2, false, 900);
    let padded =
        sealed(SaOptions { tfc_padding: TfcPadding::To(700), ..SaOptions::default() }, false, &larger);
    assert_eq!(padded.len(), sealed(SaOptions::default(), false, &larger).len());
}

/// The two gateways as hosts that talk to each other in transport mode.
fn hosts(outer_v6: bool, udp: bool, algorithm: EspAlgorithm) -> (Rig, Rig) {
    let (a, b) = (Rig::new(1), Rig::new(2));
    let child = Child { algorithm, udp, ..child(outer_v6, SaOptions::default()) };
    connect(&common::between_hosts(&child, &a, &b), &a, &b);
    (a, b)
}

fn between_hosts(v6: bool, len: usize) -> Packet {
    let (src, dst) = (outside_address(1, v6), outside_address(2, v6));
    Packet { src, dst, ..Packet::between(1, 2, v6, len) }
}

/// With IPv4 options, or with hop-by-hop options in front and destination options behind.
fn with_options(packet: &Packet) -> Vec<u8> {
    let octets = packet.octets();
    if packet.src.is_ipv6() {
        let hop_by_hop = [60, 0, 1, 4, 0, 0, 0, 0];
        let destination = [17, 0, 1, 4, 0, 0, 0, 0];
        let mut header = Ipv6::parse(&octets).unwrap();
        (header.next_header, header.payload_len) = (0, header.payload_len + 16);
        return [header.write().as_slice(), &hop_by_hop, &destination, &octets[40..]].concat();
    }
    let router_alert = [0x94, 4, 0, 0];
    let mut header = Ipv4::parse(&octets).unwrap();
    header.total_len += 4;
    [header.write(&router_alert).as_slice(), &router_alert, &octets[20..]].concat()
}

#[test]
fn transport_mode_leaves_the_header_in_front_and_gives_the_host_back_what_was_sent() {
    for algorithm in [EspAlgorithm::Aes128Gcm16, EspAlgorithm::Aes256CbcSha512, EspAlgorithm::NullSha256] {
        for (v6, udp) in FAMILIES.into_iter().flat_map(|v6| FAMILIES.map(|udp| (v6, udp))) {
            let (mut a, mut b) = hosts(v6, udp, algorithm);
            let packets: Vec<_> = (60..160)
                .map(|len| between_hosts(v6, len))
                .flat_map(|packet| [packet.octets(), with_options(&packet)])
                .collect();
            for batch in packets.chunks(64) {
                let sealed = a.feed(Ingress::Kernel, batch).only_sent(OUTSIDE);
                for (sealed, packet) in sealed.iter().zip(batch) {
                    let ((outer, info), (inner, _)) = (flow(sealed).unwrap(), flow(packet).unwrap());
                    assert_eq!((outer.src, outer.dst), (inner.src, inner.dst));
                    assert_eq!(outer.protocol, if udp { 17 } else { 50 });
                    // Options and hop-by-hop options are in front of ESP, destination options behind.
                    let in_front = match (v6, packet[6] == 0 || packet[0] == 0x46) {
                        (true, true) => 48,
                        (true, false) => 40,
                        (false, true) => 24,
                        (false, false) => 20,
                    };
                    assert_eq!(info.header_len(), in_front);
                }
                let outcome = b.outside(&sealed);
                assert!(outcome.drops.is_empty() && outcome.transmit.is_empty(), "{outcome:?}");
                let given: Vec<_> = outcome.to_kernel;
                for (given, packet) in given.iter().zip(batch) {
                    match udp {
                        false => assert_eq!(given, packet),
                        // The checksum is made anew behind a NAT, and was none: it stays so over IPv4.
                        true => assert_eq!(without_checksum(given), without_checksum(packet)),
                    }
                }
                assert_eq!(given.len(), batch.len());
            }
        }
    }
}

fn without_checksum(packet: &[u8]) -> Vec<u8> {
    let at = flow(packet).unwrap().1.header_len() + 6;
    let mut packet = packet.to_vec();
    packet[at..at + 2].fill(0);
    packet
}

#[test]
fn a_checksum_that_a_nat_has_broken_is_made_anew() {
    for v6 in FAMILIES {
        let (mut a, mut b) = hosts(v6, true, EspAlgorithm::Aes128Gcm16);
        let mut packet = between_hosts(v6, 80).octets();
        let at = packet.len() - (80 - if v6 { 40 } else { 20 });
        // As made for an address that the NAT has changed since.
        packet[at + 6..at + 8].copy_from_slice(&[0xde, 0xad]);
        let sealed = a.feed(Ingress::Kernel, &[packet]).only_sent(OUTSIDE);
        let given = b.outside(&sealed).to_kernel.remove(0);
        let (about, info) = flow(&given).unwrap();
        let datagram = &given[info.header_len()..];
        let sum = Checksum::default().pseudo_header(about.src, about.dst, 17, datagram.len() as u32);
        assert!(sum.octets(datagram).is_valid(), "IPv6: {v6}");
    }
}

#[test]
fn transport_mode_takes_no_fragments_and_nothing_for_others() {
    let (mut a, _) = hosts(false, false, EspAlgorithm::Aes128Gcm16);
    let mut header = Ipv4::parse(&between_hosts(false, 100).octets()).unwrap();
    (header.more_fragments, header.dont_fragment) = (true, false);
    let mut fragment = header.write(&[]).to_vec();
    fragment.resize(100, 0);
    a.feed(Ingress::Kernel, &[fragment]).only_dropped(DropReason::TransportFragment, 1);
    let elsewhere = Packet { dst: common::host(2, false), ..between_hosts(false, 100) };
    a.feed(Ingress::Kernel, &[elsewhere.octets()]).only_dropped(DropReason::NoPolicy, 1);
}

/// Puts fragments together as the peer's host does.
fn reassemble(pieces: &[Vec<u8>]) -> Vec<u8> {
    let v6 = pieces[0][0] >> 4 == 6;
    let mut payload: Vec<(usize, Vec<u8>)> = pieces
        .iter()
        .map(|piece| match v6 {
            false => (Ipv4::parse(piece).unwrap().fragment_offset, piece[20..].to_vec()),
            true => {
                assert_eq!((piece[6], piece[40]), (44, 50));
                (usize::from(u16::from_be_bytes([piece[42], piece[43]]) & !7), piece[48..].to_vec())
            }
        })
        .collect();
    payload.sort();
    let payload: Vec<u8> = payload.into_iter().flat_map(|(_, octets)| octets).collect();
    if v6 {
        let header = Ipv6::parse(&pieces[0]).unwrap();
        let header = Ipv6 { next_header: 50, payload_len: payload.len(), ..header };
        return [header.write().as_slice(), &payload].concat();
    }
    let header = Ipv4::parse(&pieces[0]).unwrap();
    let whole = Ipv4 { more_fragments: false, total_len: 20 + payload.len(), ..header };
    [whole.write(&[]).as_slice(), &payload].concat()
}

#[test]
fn a_packet_too_big_is_cut_after_encryption_where_the_options_say_so() {
    let after = SaOptions { fragmentation: Fragmentation::After, ..SaOptions::default() };
    let cleared = SaOptions { copy_df: CopyDf::No, ..SaOptions::default() };
    for (options, dont_fragment) in [(after, false), (cleared, true)] {
        for outer_v6 in FAMILIES {
            let Pair { mut a, mut b, .. } = pair(&child(outer_v6, options));
            let packet = Packet { dont_fragment, ..Packet::between(1, 2, false, 1490) };
            let pieces = a.inside(&[packet.octets()]).only_sent(OUTSIDE);
            assert_eq!(pieces.len(), 2);
            assert!(pieces.iter().all(|piece| piece.len() <= 1500));
            let opened = b.outside(&[reassemble(&pieces)]).only_sent(INSIDE);
            assert_eq!(opened, [arrived(&packet)]);
        }
    }
}

#[test]
fn a_packet_too_big_with_df_is_answered_unless_df_is_cleared() {
    for copy_df in [CopyDf::Yes, CopyDf::Set] {
        let options = SaOptions { copy_df, fragmentation: Fragmentation::After, ..SaOptions::default() };
        let Pair { mut a, .. } = pair(&child(false, options));
        let outcome = a.inside(&[Packet::between(1, 2, false, 1490).octets()]);
        assert_eq!(outcome.drops, [(DropReason::TooBig.label(), 1)].into());
        assert_eq!(outcome.sent(INSIDE)[0][20..22], [3, 4]);
    }
}

#[test]
fn an_ipv6_packet_that_no_sender_would_make_smaller_is_cut_after_encryption() {
    let Pair { mut a, mut b, .. } = pair(&child(true, SaOptions::default()));
    let hop = NextHop::Port { port: OUTSIDE, src_mac: [0; 6], dst_mac: [0; 6], mtu: 1280 };
    a.set_routes(&[("2001:db8:ffff::2/128", hop)]);
    let packet = Packet::between(1, 2, true, 1280);
    let pieces = a.inside(&[packet.octets()]).only_sent(OUTSIDE);
    assert!(pieces.len() == 2 && pieces.iter().all(|piece| piece.len() <= 1280));
    assert_eq!(b.outside(&[reassemble(&pieces)]).only_sent(INSIDE), [arrived(&packet)]);
    // One that its sender can make smaller is not.
    let outcome = a.inside(&[Packet::between(1, 2, true, 1281).octets()]);
    assert_eq!(outcome.drops, [(DropReason::TooBig.label(), 1)].into());
    assert_eq!(outcome.sent(INSIDE)[0][44..48], 1280_u32.to_be_bytes());
}

/// A SYN that announces this segment size.
fn syn(packet: &Packet, mss: u16) -> Vec<u8> {
    let header_len = if packet.src.is_ipv6() { 40 } else { 20 };
    let mut segment = vec![0; 24];
    segment[..4].copy_from_slice(&[4, 1, 0, 80]);
    (segment[12], segment[13]) = (0x60, 0x02);
    segment[20..22].copy_from_slice(&[2, 4]);
    segment[22..].copy_from_slice(&mss.to_be_bytes());
    let sum = Checksum::default().pseudo_header(packet.src, packet.dst, 6, 24).octets(&segment).finish();
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let packet = Packet { len: header_len + 24, ..packet.clone() };
    [packet.header(6), segment].concat()
}

#[test]
fn segment_sizes_are_lowered_both_ways_to_what_the_tunnel_takes() {
    for v6 in FAMILIES {
        let clamp = |mss_clamp| SaOptions { mss_clamp, ..SaOptions::default() };
        let largest = ((1500 - 20 - 8 - 8 - 16) & !3) - 2;
        let fits = largest - if v6 { 60 } else { 40 };
        for (here, there, announced, expected) in [
            (MssClamp::Off, MssClamp::Off, 1460, 1460),
            (MssClamp::To(1200), MssClamp::Off, 1460, 1200),
            (MssClamp::To(1200), MssClamp::Off, 1100, 1100),
            (MssClamp::Off, MssClamp::To(900), 1460, 900),
            (MssClamp::Off, MssClamp::Mtu, 1460, fits),
            (MssClamp::Mtu, MssClamp::Off, 1460, fits),
        ] {
            let (mut a, mut b) = (Rig::new(1), Rig::new(2));
            let (at_a, at_b) = (child(false, clamp(here)), child(false, clamp(there)).mirrored());
            let (a_spi, b_spi) = (a.install_inbound(&at_a, 2, 0), b.install_inbound(&at_b, 1, 1));
            let policy = a.policy(&at_a.local_ts, &at_a.remote_ts);
            a.activate(&at_a, 2, policy, a_spi, b_spi, 1);
            let packet = Packet::between(1, 2, v6, 100);
            let sealed = a.inside(&[syn(&packet, announced)]).only_sent(OUTSIDE);
            let opened = b.outside(&sealed).only_sent(INSIDE);
            let mut wanted = syn(&packet, expected);
            (0..2).for_each(|_| decrement_ttl(&mut wanted));
            assert_eq!(opened, [wanted], "{here:?} and {there:?}");
        }
    }
}
