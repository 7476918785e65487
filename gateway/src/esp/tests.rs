//! Against packets made by scapy (`tests/vectors/make_esp.py`), and against everything that may go wrong with one.

use std::sync::{Arc, LazyLock};

use portcullis_aead::{Engine, Key};
use portcullis_ipsec::{Encapsulation, EspAlgorithm, EspKey, TunnelEndpoints};
use serde_json::Value;

use super::{EspPacket, Template, decapsulate, header_len, max_inner_len};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::sa::endpoints::MovableEndpoints;
use crate::wire::{self, Checksum, FlowKey, Ipv6};

const NAT_PORT: u16 = 4500;

fn parse(packet: &[u8], nat_port: u16) -> Result<EspPacket, DropReason> {
    let (flow, info) = wire::read(packet)?;
    super::parse(packet, &flow, &info, nat_port)
}

/// An outbound SA.
#[derive(Clone)]
struct Outer {
    endpoints: TunnelEndpoints,
    spi: u32,
    algorithm: EspAlgorithm,
    salt: [u8; 4],
    esn: bool,
}

impl Outer {
    fn template(&self) -> Template {
        Template::new(&self.endpoints, self.spi, self.algorithm, self.salt, self.esn).unwrap()
    }
}

#[derive(Clone)]
struct Case {
    name: String,
    outer: Outer,
    sequence: u64,
    key: Arc<Key>,
    inner: Vec<u8>,
    sealed: Vec<u8>,
}

fn engine() -> Engine {
    static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::select(None).unwrap());
    *ENGINE
}

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn cases() -> Vec<Case> {
    let file: Vec<Value> = serde_json::from_str(include_str!("../../tests/vectors/esp_scapy.json")).unwrap();
    let cases: Vec<Case> = file.iter().map(case).collect();
    for algorithm in EspAlgorithm::ALL {
        assert!(cases.iter().any(|case| case.outer.algorithm == *algorithm), "no packets of {algorithm}");
    }
    cases
}

fn case(case: &Value) -> Case {
    let keymat = hex(&case["keymat"]);
    let name = case["algorithm"].as_str().unwrap();
    let algorithm = *EspAlgorithm::ALL.iter().find(|algorithm| algorithm.name() == name).unwrap();
    let key = EspKey::from_keymat(algorithm, &keymat).unwrap();
    let address = |field: &str| case[field].as_str().unwrap().parse().unwrap();
    let port = |i: usize| case["udp"][i].as_u64().map(|port| port as u16);
    let encapsulation = match (port(0), port(1)) {
        (Some(local_port), Some(remote_port)) => Encapsulation::Udp { local_port, remote_port },
        _ => Encapsulation::None,
    };
    let endpoints = TunnelEndpoints { local: address("local"), remote: address("remote"), encapsulation };
    let spi = case["spi"].as_u64().unwrap() as u32;
    Case {
        name: case["name"].as_str().unwrap().to_owned(),
        outer: Outer { endpoints, spi, algorithm, salt: key.salt(), esn: case["esn"].as_bool().unwrap() },
        sequence: case["sequence"].as_u64().unwrap(),
        key: Arc::new(super::expand(&engine(), &key).unwrap()),
        inner: hex(&case["inner"]),
        sealed: hex(&case["outer"]),
    }
}

fn frame_of(packet: &[u8]) -> Frame {
    let mut frame = Frame::leaked(2048, 128);
    assert!(frame.push_back(packet.len()));
    frame.packet_mut().copy_from_slice(packet);
    frame
}

fn seal(case: &Case, inner: &[u8]) -> Frame {
    let mut frame = frame_of(inner);
    let (flow, info) = wire::flow(inner).unwrap();
    let template = case.outer.template();
    let parameters = template.encapsulate(&mut frame, &info, flow.src.is_ipv6(), case.sequence).unwrap();
    engine().seal(&mut [parameters.packet(&case.key, &mut frame)]);
    assert!(frame.pull_front(14));
    frame
}

/// The peer's view of a case, as a receiver whose window says that the sequence number is the case's.
fn open(case: &Case, sealed: &[u8]) -> Result<(EspPacket, Frame), DropReason> {
    let Encapsulation::Udp { remote_port, .. } = case.outer.endpoints.encapsulation else {
        return open_at(case, sealed, NAT_PORT);
    };
    open_at(case, sealed, remote_port)
}

fn open_at(case: &Case, sealed: &[u8], nat_port: u16) -> Result<(EspPacket, Frame), DropReason> {
    let mut frame = frame_of(sealed);
    let outer = parse(frame.packet(), nat_port)?;
    assert!(frame.truncate(outer.end()));
    assert_eq!((outer.spi, outer.sequence_low()), (case.outer.spi, case.sequence as u32));
    let Outer { algorithm, salt, esn, .. } = case.outer;
    if !outer.suits(algorithm) {
        return Err(DropReason::EspTruncated);
    }
    let parameters = outer.parameters(algorithm, salt, case.sequence, esn);
    let mut batch = [parameters.packet(&case.key, &mut frame)];
    engine().open(&mut batch);
    if !batch[0].authentic {
        let payload = &case.inner[case.inner.len() - 8..];
        let text_at = header_len(&case.outer.endpoints) + algorithm.iv_len();
        assert!(frame.packet()[text_at..].iter().all(|octet| *octet == 0), "{}", case.name);
        assert!(!frame.chunk().windows(8).any(|octets| octets == payload), "plaintext left behind");
        return Err(DropReason::IntegrityFailed);
    }
    decapsulate(&mut frame, &outer, algorithm)?;
    Ok((outer, frame))
}

/// Seals a text of one's own, trailer included, as a peer that follows no rules.
fn seal_text(case: &Case, text: &[u8]) -> Vec<u8> {
    let mut frame = seal(case, &case.inner);
    let algorithm = case.outer.algorithm;
    let header = header_len(&case.outer.endpoints);
    let parameters = super::AeadParameters::new(
        algorithm,
        case.outer.salt,
        case.sequence.to_be_bytes(),
        case.outer.spi,
        case.sequence,
        case.outer.esn,
        header,
    );
    let text_at = header + algorithm.iv_len();
    assert!(frame.truncate(text_at) && frame.push_back(text.len() + algorithm.icv_len()));
    frame.packet_mut()[text_at..text_at + text.len()].copy_from_slice(text);
    engine().seal(&mut [parameters.packet(&case.key, &mut frame)]);
    let mut sealed = frame.packet().to_vec();
    let total = sealed.len() as u16;
    sealed[2..4].copy_from_slice(&total.to_be_bytes());
    sealed[10..12].fill(0);
    let checksum = Checksum::default().octets(&sealed[..20]).finish();
    sealed[10..12].copy_from_slice(&checksum.to_be_bytes());
    sealed
}

/// Inner and outer IPv4, raw: the case whose octets are easiest to change.
fn plain_case() -> Case {
    cases().into_iter().find(|case| case.name == "inner v4, outer v4, raw, no esn, aes128gcm16").unwrap()
}

/// The same with every algorithm.
fn plain_cases() -> impl Iterator<Item = Case> {
    cases().into_iter().filter(|case| case.name.starts_with("inner v4, outer v4, raw, no esn"))
}

#[test]
fn packets_of_scapy_are_opened() {
    for case in cases() {
        let (outer, frame) = open(&case, &case.sealed).unwrap_or_else(|e| panic!("{}: {e:?}", case.name));
        assert_eq!(frame.packet(), case.inner, "{}", case.name);
        assert_eq!(outer.endpoints().remote, case.outer.endpoints.local);
    }
}

#[test]
fn our_packets_equal_those_of_scapy() {
    for case in cases() {
        assert_eq!(seal(&case, &case.inner).packet(), case.sealed, "{}", case.name);
    }
}

#[test]
fn udp_over_ipv6_gets_a_checksum_and_nothing_else_changes() {
    for case in cases() {
        let mut frame = seal(&case, &case.inner);
        assert!(frame.push_front(14));
        case.outer.template().finish(&mut frame);
        assert!(frame.pull_front(14));
        let udp = case.outer.endpoints.encapsulation != Encapsulation::None;
        if !(udp && case.outer.endpoints.local.is_ipv6()) {
            assert_eq!(frame.packet(), case.sealed, "{}", case.name);
            continue;
        }
        let ip = Ipv6::parse(frame.packet()).unwrap();
        let sum = Checksum::default()
            .pseudo_header(ip.src.into(), ip.dst.into(), 17, ip.payload_len as u32)
            .octets(&frame.packet()[40..]);
        assert!(sum.is_valid(), "{}", case.name);
        frame.packet_mut()[46..48].fill(0);
        assert_eq!(frame.packet(), case.sealed, "{}", case.name);
    }
}

#[test]
fn any_flipped_bit_behind_the_headers_fails_the_check_and_leaves_no_plaintext() {
    for case in plain_cases() {
        // Every bit of one, and of the others enough to meet every octet.
        let step = if case.outer.algorithm == EspAlgorithm::Aes128Gcm16 { 1 } else { 7 };
        for bit in (28 * 8..case.sealed.len() * 8).step_by(step) {
            let mut sealed = case.sealed.clone();
            sealed[bit / 8] ^= 1 << (bit % 8);
            let result = open_at(&case, &sealed, NAT_PORT);
            assert_eq!(result.unwrap_err(), DropReason::IntegrityFailed, "{}, bit {bit}", case.name);
        }
    }
}

#[test]
fn a_wrong_sequence_number_half_fails_the_check() {
    for esn in cases().into_iter().filter(|case| case.outer.esn) {
        let other = Case { sequence: esn.sequence + (1 << 32), ..esn };
        let sealed = other.sealed.clone();
        assert_eq!(open(&other, &sealed).unwrap_err(), DropReason::IntegrityFailed, "{}", other.name);
    }
}

#[test]
fn a_packet_cut_off_anywhere_is_refused() {
    for case in cases() {
        for len in 0..case.sealed.len() {
            let error = open(&case, &case.sealed[..len]).unwrap_err();
            assert_eq!(error, DropReason::Malformed, "{} cut to {len}", case.name);
        }
    }
}

#[test]
fn esp_too_short_or_off_its_alignment_is_truncated() {
    for (case, esp_len) in
        plain_cases().flat_map(|case| (0..case.sealed.len() - 20).map(move |len| (case.clone(), len)))
    {
        let mut sealed = case.sealed[..20 + esp_len].to_vec();
        let total = sealed.len() as u16;
        sealed[2..4].copy_from_slice(&total.to_be_bytes());
        sealed[10..12].fill(0);
        let checksum = Checksum::default().octets(&sealed[..20]).finish();
        sealed[10..12].copy_from_slice(&checksum.to_be_bytes());
        let algorithm = case.outer.algorithm;
        let text_len = esp_len.checked_sub(8 + algorithm.iv_len() + algorithm.icv_len());
        let whole = text_len.is_some_and(|len| len > 0 && len % algorithm.alignment() == 0);
        let expected = if whole { DropReason::IntegrityFailed } else { DropReason::EspTruncated };
        assert_eq!(open(&case, &sealed).unwrap_err(), expected, "{esp_len} octets of ESP, {algorithm}");
    }
}

#[test]
fn padding_of_lower_layers_is_cut_off() {
    let case = plain_case();
    let mut sealed = case.sealed.clone();
    sealed.extend([0xaa; 20]);
    assert_eq!(open(&case, &sealed).unwrap().1.packet(), case.inner);
}

#[test]
fn each_fault_of_the_plaintext_has_its_reason() {
    plain_cases().for_each(check_faults);
}

fn check_faults(case: Case) {
    let block = case.outer.algorithm.alignment();
    let with = |extra: &[u8]| [case.inner.as_slice(), extra].concat();
    let aligned = |mut text: Vec<u8>, next_header: u8| {
        let pad = (text.len() + 2).next_multiple_of(block) - text.len() - 2;
        text.extend(1..=pad as u8);
        text.extend([pad as u8, next_header]);
        text
    };
    let reason = |text: &[u8]| open(&case, &seal_text(&case, text)).map(|_| ()).map_err(DropReason::label);
    assert_eq!(reason(&aligned(case.inner.clone(), 4)), Ok(()));
    assert_eq!(reason(&aligned(with(&[0; 40]), 4)), Ok(()), "TFC padding");
    assert_eq!(reason(&aligned(case.inner.clone(), 59)), Err("dummy"));
    assert_eq!(reason(&aligned(case.inner.clone(), 6)), Err("bad_next_header"));
    assert_eq!(reason(&aligned(case.inner.clone(), 41)), Err("inner_malformed"));
    assert_eq!(reason(&aligned(case.inner[..case.inner.len() - 1].to_vec(), 4)), Err("inner_malformed"));
    assert_eq!(reason(&aligned(vec![0; 40], 4)), Err("inner_malformed"));
    let ending_in = |end: [u8; 4]| [vec![0; block - 4], end.to_vec()].concat();
    assert_eq!(reason(&ending_in([0, 0, 200, 4])), Err("bad_padding"));
    let wrong = [aligned(with(&[]), 4), ending_in([1, 3, 2, 4])].concat();
    assert_eq!(reason(&wrong), Err("bad_padding"));
    let filler = vec![0; (block - (case.inner.len() + 255 + 2) % block) % block];
    let longest = [with(&filler), (1..=255).collect()].concat();
    let text = [longest, vec![255, 4]].concat();
    assert_eq!(text.len() % block, 0);
    assert_eq!(reason(&text), Ok(()), "the longest padding");
}

#[test]
fn congestion_outside_reaches_the_inner_packet_or_drops_it() {
    let case = plain_case();
    let marked = |inner_ecn: u8| {
        let mut inner = case.inner.clone();
        wire::set_ecn(&mut inner, inner_ecn);
        let mut sealed = seal(&case, &inner).packet().to_vec();
        assert_eq!(sealed[1] & 3, inner_ecn);
        wire::set_ecn(&mut sealed, 3);
        open(&case, &sealed).map(|(_, frame)| wire::flow(frame.packet()).unwrap().1.tos() & 3)
    };
    assert_eq!(marked(2).unwrap(), 3);
    assert_eq!(marked(1).unwrap(), 3);
    assert_eq!(marked(0).unwrap_err(), DropReason::EcnNotCapable);
}

#[test]
fn what_is_not_esp_is_unexpected_and_fragments_of_it_are_refused() {
    let case = plain_case();
    let refused = |packet: &[u8]| parse(packet, NAT_PORT).unwrap_err();
    let mut tcp = wire::Ipv4::parse(&case.sealed).unwrap();
    tcp.protocol = 6;
    let with_header = |header: wire::Ipv4, payload: &[u8]| {
        let header = wire::Ipv4 { total_len: 20 + payload.len(), ..header };
        [header.write(&[]).as_slice(), payload].concat()
    };
    assert_eq!(refused(&with_header(tcp, &case.sealed[20..])), DropReason::Unexpected);
    let header = wire::Ipv4::parse(&case.sealed).unwrap();
    let first = wire::Ipv4 { more_fragments: true, ..header };
    assert_eq!(refused(&with_header(first, &case.sealed[20..])), DropReason::OuterFragment);
    let later = wire::Ipv4 { fragment_offset: 1400, ..header };
    assert_eq!(refused(&with_header(later, &case.sealed[20..])), DropReason::OuterFragment);
    let udp = |payload: &[u8], dst_port| {
        let udp = wire::Udp { src_port: 4500, dst_port, len: 8 + payload.len(), checksum: 0 };
        with_header(wire::Ipv4 { protocol: 17, ..header }, &[udp.write().as_slice(), payload].concat())
    };
    assert_eq!(refused(&udp(&[0xff], 4500)), DropReason::Unexpected, "keepalive");
    assert_eq!(refused(&udp(&[0; 40], 4500)), DropReason::Unexpected, "IKE");
    assert_eq!(refused(&udp(&case.sealed[20..], 53)), DropReason::Unexpected);
    assert!(parse(&udp(&case.sealed[20..], 4500), NAT_PORT).is_ok());
}

#[test]
fn an_inner_packet_of_any_length_keeps_the_alignment() {
    for (case, len) in plain_cases().flat_map(|case| (20..120).map(move |len| (case.clone(), len))) {
        let header = wire::Ipv4 { total_len: len, ..wire::Ipv4::parse(&case.inner).unwrap() };
        let mut inner = header.write(&[]).to_vec();
        inner.resize(len, 0x33);
        let frame = seal(&case, &inner);
        let algorithm = case.outer.algorithm;
        assert_eq!((frame.len() - 28 - algorithm.iv_len() - algorithm.icv_len()) % algorithm.alignment(), 0);
        assert_eq!(open(&case, frame.packet()).unwrap().1.packet(), inner);
    }
}

#[test]
fn a_frame_without_room_is_refused() {
    let case = plain_case();
    let (_, info) = wire::flow(&case.inner).unwrap();
    for (size, start) in [(2048, 95), (128 + case.inner.len() + 17, 128)] {
        let mut frame = Frame::leaked(size, start);
        assert!(frame.push_back(case.inner.len()));
        frame.packet_mut().copy_from_slice(&case.inner);
        let result = case.outer.template().encapsulate(&mut frame, &info, false, 1);
        assert_eq!(result, Err(DropReason::NoHeadroom));
    }
}

#[test]
fn a_packet_fits_an_sa_by_our_address_and_encapsulation() {
    let endpoints = |local: &str, remote: &str, port: Option<u16>| TunnelEndpoints {
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        encapsulation: match port {
            Some(remote_port) => Encapsulation::Udp { local_port: 4500, remote_port },
            None => Encapsulation::None,
        },
    };
    let packet = |port: Option<u16>| {
        let case = plain_case();
        let mut outer = parse(&case.sealed, NAT_PORT).unwrap();
        outer.flow = FlowKey::from(&portcullis_ipsec::Flow {
            src: "192.0.2.9".parse().unwrap(),
            dst: "192.0.2.1".parse().unwrap(),
            protocol: if port.is_some() { 17 } else { 50 },
            src_port: port,
            dst_port: port.map(|_| NAT_PORT),
        });
        assert_eq!(outer.endpoints(), endpoints("192.0.2.1", "192.0.2.9", port));
        outer
    };
    let raw_sa = endpoints("192.0.2.1", "192.0.2.9", None);
    let udp_sa = endpoints("192.0.2.1", "192.0.2.9", Some(4500));
    let fits = |packet: EspPacket, sa| MovableEndpoints::new(sa).admit(&packet.flow, packet.is_udp());
    assert!(
        fits(packet(None), raw_sa) && fits(packet(Some(4500)), udp_sa) && fits(packet(Some(4500)), raw_sa)
    );
    assert!(!fits(packet(None), udp_sa));
    assert!(!fits(packet(None), endpoints("192.0.2.2", "192.0.2.9", None)));
    assert!(!fits(packet(None), endpoints("::c000:201", "::c000:209", None)), "the same number in IPv6");
    assert!(!packet(Some(4500)).moved_from(&udp_sa) && !packet(None).moved_from(&raw_sa));
    assert!(packet(Some(4501)).moved_from(&udp_sa) && !packet(Some(4501)).moved_from(&raw_sa));
    assert!(packet(None).moved_from(&endpoints("192.0.2.1", "192.0.2.8", None)));
}

fn ends(local: &str, remote: &str, udp: bool) -> TunnelEndpoints {
    let encapsulation = match udp {
        true => Encapsulation::Udp { local_port: 4500, remote_port: 4500 },
        false => Encapsulation::None,
    };
    TunnelEndpoints { local: local.parse().unwrap(), remote: remote.parse().unwrap(), encapsulation }
}

#[test]
fn the_largest_inner_packet_is_the_one_that_linux_and_strongswan_operators_know() {
    // AES-GCM-16 over Ethernet: 1446 raw and 1438 in UDP over IPv4, 1426 and 1418 over IPv6.
    let largest = |e: TunnelEndpoints| max_inner_len(1500, &e, EspAlgorithm::Aes256Gcm16);
    assert_eq!(largest(ends("192.0.2.1", "192.0.2.2", false)), 1446);
    assert_eq!(largest(ends("192.0.2.1", "192.0.2.2", true)), 1438);
    assert_eq!(largest(ends("2001:db8::1", "2001:db8::2", false)), 1426);
    assert_eq!(largest(ends("2001:db8::1", "2001:db8::2", true)), 1418);
}

#[test]
fn the_largest_inner_packet_fits_and_one_octet_more_does_not() {
    for case in cases() {
        let Outer { endpoints, algorithm, .. } = case.outer;
        let outer_len = |len: usize| {
            let header = wire::Ipv4 { total_len: len, ..wire::Ipv4::parse(&plain_case().inner).unwrap() };
            let mut inner = header.write(&[]).to_vec();
            inner.resize(len, 0x33);
            seal(&case, &inner).len()
        };
        for mtu in [1280, 1281, 1295, 1400, 1492, 1500] {
            let largest = max_inner_len(mtu, &endpoints, algorithm);
            assert!(outer_len(largest) <= mtu && outer_len(largest + 1) > mtu, "{}, {mtu}", case.name);
        }
    }
}

#[test]
fn a_tiny_mtu_leaves_no_room() {
    for mtu in 0..56 {
        let e = ends("192.0.2.1", "192.0.2.2", false);
        assert_eq!(max_inner_len(mtu, &e, EspAlgorithm::Aes128Gcm16), 0, "{mtu}");
    }
}
