//! Against scapy, an independent ESP, live: packets of random sizes sealed by one and opened by the other, both
//! ways, all four combinations of address families, raw and in UDP, with and without ESN, with every algorithm; in tunnel
//! mode with every option of the outer header, and in transport mode with IPv4 options and IPv6 extension headers.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "where a test cannot go on it fails"
)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};

use common::{Child, INSIDE, OUTSIDE, Packet, Rig, between_hosts, outside_address};
use portcullis_gateway::pipeline::Ingress;
use portcullis_gateway::wire::{Ipv4, Ipv6};
use portcullis_ipsec::{Cipher, CopyDf, CopyDscp, EspAlgorithm, Mode, SaOptions, Spi, TfcPadding};
use serde_json::{Value, json};

/// Our number and scapy's.
const US: u8 = 1;
const SCAPY: u8 = 2;
const PACKETS: usize = 24;
/// Octets of the largest packets: what fits any of the tunnels.
const LARGEST: u64 = 1376;
/// The SPI on which scapy receives.
const SCAPY_SPI: u32 = 0xc0de_0000;

struct Scapy {
    process: Process,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Scapy {
    fn start(sas: &[Value]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scapy_esp.py");
        let mut process = Command::new("/usr/bin/python3")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("/usr/bin/python3 with scapy (Debian package python3-scapy)");
        let mut stdin = process.stdin.take().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        writeln!(stdin, "{}", json!(sas)).unwrap();
        Self { process, stdin, stdout }
    }

    fn ask(&mut self, verb: &str, sa: usize, number: u64, packet: &[u8]) -> Vec<u8> {
        let hex: String = packet.iter().map(|octet| format!("{octet:02x}")).collect();
        writeln!(self.stdin, "{verb} {sa} {number} {hex}").unwrap();
        let mut line = String::new();
        assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "scapy has gone");
        let line = line.trim();
        assert!(!line.starts_with("error"), "{verb} with SA {sa}: {line}");
        (0..line.len()).step_by(2).map(|i| u8::from_str_radix(&line[i..i + 2], 16).unwrap()).collect()
    }
}

impl Drop for Scapy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Every way to carry packets with AES-GCM, and the other algorithms with ways that take turns and with both ways of
/// counting; each with its own gateway.
fn children() -> Vec<Child> {
    let child =
        |algorithm, outer_v6, udp, esn| Child { algorithm, esn, udp, outer_v6, ..Child::between(US, SCAPY) };
    // What the receiver must not mind: scapy sees padding behind the inner packet, and any outer header.
    let padded = SaOptions { tfc_padding: TfcPadding::To(900), copy_df: CopyDf::No, ..SaOptions::default() };
    let marked = SaOptions { copy_dscp: CopyDscp::No, dscp: 46, copy_ecn: false, ..SaOptions::default() };
    let options = [SaOptions::default(), padded, marked];
    let mut children: Vec<Child> = Vec::new();
    for (at, algorithm) in EspAlgorithm::ALL.iter().copied().enumerate() {
        for ways in 0..8 {
            let (outer_v6, udp, esn) = (ways & 1 != 0, ways & 2 != 0, ways & 4 != 0);
            if algorithm.cipher() == Cipher::AesGcm16 || at % 4 == ways & 3 {
                let options = options[children.len() % options.len()];
                children.push(Child { options, ..child(algorithm, outer_v6, udp, esn) });
            }
        }
    }
    children
}

/// An SA as the script takes it: from rig `src` to rig `dst`.
fn describe(child: &Child, spi: Spi, src: u8, dst: u8, direction: u8) -> Value {
    let keymat: String = child.keymat(direction).iter().map(|octet| format!("{octet:02x}")).collect();
    json!({
        "algorithm": child.algorithm.name(),
        "spi": spi.get(),
        "keymat": keymat,
        "src": outside_address(src, child.outer_v6),
        "dst": outside_address(dst, child.outer_v6),
        "udp": child.udp.then_some([4500, 4500]),
        "esn": child.esn,
        "transport": child.options.mode == Mode::Transport,
    })
}

/// Random enough, and the same in every run.
struct Sizes(u64);

impl Sizes {
    fn next(&mut self, v6: bool) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let least = if v6 { 48 } else { 28 };
        least + (self.0 % (LARGEST - least as u64 + 1)) as usize
    }
}

#[test]
fn scapy_opens_what_we_seal() {
    let children = children();
    let mut rigs = Vec::new();
    let mut sas = Vec::new();
    for (number, child) in children.iter().enumerate() {
        let rig = Rig::new(US);
        let spi = Spi::new(SCAPY_SPI + number as u32).unwrap();
        let pair = rig.install_inbound(child, SCAPY, 0);
        let policy = rig.policy(&child.local_ts, &child.remote_ts);
        rig.activate(child, SCAPY, policy, pair, spi, 1);
        sas.push(describe(child, spi, US, SCAPY, 1));
        rigs.push(rig);
    }
    let mut scapy = Scapy::start(&sas);
    let mut sizes = Sizes(4303);
    for (number, rig) in rigs.iter_mut().enumerate() {
        for v6 in [false, true] {
            let packets: Vec<_> =
                (0..PACKETS).map(|_| Packet::between(US, SCAPY, v6, sizes.next(v6))).collect();
            let octets: Vec<_> = packets.iter().map(Packet::octets).collect();
            let sealed = rig.inside(&octets).only_sent(OUTSIDE);
            assert_eq!(sealed.len(), PACKETS);
            for (packet, sealed) in packets.iter().zip(sealed) {
                let opened = scapy.ask("open", number, 0, &sealed);
                // scapy leaves padding against traffic analysis where it is.
                let (opened, padding) = opened.split_at(packet.len.min(opened.len()));
                assert!(
                    opened == packet.forwarded() && padding.iter().all(|octet| *octet == 0),
                    "{packet:?}"
                );
            }
        }
    }
}

#[test]
fn we_open_what_scapy_seals() {
    let children = children();
    let mut rigs = Vec::new();
    let mut sas = Vec::new();
    for child in &children {
        let rig = Rig::new(US);
        let spi = rig.install_inbound(child, SCAPY, 0);
        sas.push(describe(child, spi, SCAPY, US, 0));
        rigs.push(rig);
    }
    let mut scapy = Scapy::start(&sas);
    let mut sizes = Sizes(4106);
    for (number, (rig, child)) in rigs.iter_mut().zip(&children).enumerate() {
        // With ESN, across the point where the lower half starts again, which the packet does not say.
        let mut sequence = if child.esn { u64::from(u32::MAX) - PACKETS as u64 } else { 0 };
        for v6 in [false, true] {
            let packets: Vec<_> =
                (0..PACKETS).map(|_| Packet::between(SCAPY, US, v6, sizes.next(v6))).collect();
            let seal = |packet: &Packet| {
                sequence += 1;
                scapy.ask("seal", number, sequence, &packet.octets())
            };
            let sealed: Vec<_> = packets.iter().map(seal).collect();
            let opened = rig.outside(&sealed).only_sent(INSIDE);
            let expected: Vec<_> = packets.iter().map(Packet::forwarded).collect();
            assert_eq!(opened, expected);
        }
        assert_eq!(child.esn, sequence > u64::from(u32::MAX));
    }
}

/// A packet between the two hosts with IPv4 options, or with hop-by-hop, routing and destination options headers; which of
/// them, `which` says.
fn with_options(packet: &Packet, which: usize) -> Vec<u8> {
    let octets = packet.octets();
    if !packet.src.is_ipv6() {
        let options: &[u8] = [&[][..], &[0x94, 4, 0, 0], &[7, 7, 4, 0, 0, 0, 0, 0]][which % 3];
        let mut header = Ipv4::parse(&octets).unwrap();
        header.total_len += options.len();
        return [header.write(options).as_slice(), options, &octets[20..]].concat();
    }
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const OPTIONS: u8 = 60;
    let chain: &[u8] =
        [&[][..], &[HOP_BY_HOP], &[OPTIONS], &[HOP_BY_HOP, OPTIONS], &[HOP_BY_HOP, ROUTING, OPTIONS]]
            [which % 5];
    let following = chain.iter().skip(1).copied().chain([17]);
    let headers: Vec<u8> = chain
        .iter()
        .zip(following)
        .flat_map(|(kind, next)| match *kind {
            // Nothing left to visit, as is the case at its destination (RFC 8200 §4.4).
            ROUTING => [next, 0, 253, 0, 0, 0, 0, 0],
            _ => [next, 0, 1, 4, 0, 0, 0, 0],
        })
        .collect();
    let mut header = Ipv6::parse(&octets).unwrap();
    header.next_header = chain.first().copied().unwrap_or(17);
    header.payload_len += headers.len();
    [header.write().as_slice(), &headers, &octets[40..]].concat()
}

/// The UDP checksum, which is made anew behind a NAT, left out.
fn comparable(packet: &[u8], behind_nat: bool) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if behind_nat {
        let at = portcullis_gateway::wire::flow(&packet).unwrap().1.header_len() + 6;
        packet[at..at + 2].fill(0);
    }
    packet
}

#[test]
fn scapy_and_we_agree_on_transport_mode_both_ways() {
    const OF_EACH: usize = 40;
    let elsewhere = Rig::new(SCAPY);
    let (mut children, mut rigs, mut sas) = (Vec::new(), Vec::new(), Vec::new());
    let algorithms = EspAlgorithm::ALL.iter().copied();
    for (at, (algorithm, ways)) in
        algorithms.flat_map(|algorithm| [(algorithm, 0), (algorithm, 1)]).enumerate()
    {
        let (outer_v6, udp, esn) = (ways == 1, at % 3 == 0, at % 4 < 2);
        let rig = Rig::new(US);
        let child = Child { algorithm, outer_v6, udp, esn, ..Child::between(US, SCAPY) };
        let child = between_hosts(&child, &rig, &elsewhere);
        let outbound = Spi::new(SCAPY_SPI + at as u32).unwrap();
        let inbound = rig.install_inbound(&child, SCAPY, 0);
        let policy = rig.policy(&child.local_ts, &child.remote_ts);
        rig.activate(&child, SCAPY, policy, inbound, outbound, 1);
        sas.push(describe(&child, outbound, US, SCAPY, 1));
        sas.push(describe(&child, inbound, SCAPY, US, 0));
        children.push(child);
        rigs.push(rig);
    }
    let mut scapy = Scapy::start(&sas);
    let mut sizes = Sizes(2406);
    for (at, (child, rig)) in children.iter().zip(&mut rigs).enumerate() {
        let (us, them) = (outside_address(US, child.outer_v6), outside_address(SCAPY, child.outer_v6));
        for number in 0..OF_EACH {
            let packet = Packet { src: us, dst: them, ..Packet::between(US, SCAPY, false, 100) };
            let packet = Packet { len: sizes.next(child.outer_v6), ..packet };
            let ours = with_options(&packet, number);
            let sealed = rig.feed(Ingress::Kernel, std::slice::from_ref(&ours)).only_sent(OUTSIDE).remove(0);
            assert_eq!(scapy.ask("open", 2 * at, 0, &sealed), ours, "{child:?}");
            let theirs = with_options(&Packet { src: them, dst: us, ..packet }, number);
            let sealed = scapy.ask("seal", 2 * at + 1, number as u64 + 1, &theirs);
            let outcome = rig.outside(&[sealed]);
            assert!(outcome.drops.is_empty() && outcome.transmit.is_empty(), "{outcome:?}, {child:?}");
            assert_eq!(comparable(&outcome.to_kernel[0], child.udp), comparable(&theirs, child.udp));
        }
    }
}
