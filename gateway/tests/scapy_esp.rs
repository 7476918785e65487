//! Against scapy, an independent ESP, live: a thousand packets of random sizes for each SA sealed by one and opened by the other, both
//! ways, all four combinations of address families, raw and in UDP, with and without ESN, with every algorithm; in tunnel
//! mode with every option of the outer header, and in transport mode with IPv4 options and IPv6 extension headers.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "where a test cannot go on it fails"
)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};

use common::{Child, INSIDE, OUTSIDE, Packet, Rig, between_hosts, outside_address};
use portcullis_gateway::pipeline::Ingress;
use portcullis_gateway::wire::{Ipv4, Ipv6, Udp};
use portcullis_ipsec::{Cipher, CopyDf, CopyDscp, EspAlgorithm, Mode, SaOptions, Spi, TfcPadding};
use serde_json::{Value, json};

/// Our number and scapy's.
const US: u8 = 1;
const SCAPY: u8 = 2;
/// Packets of each family, for each SA, that scapy takes whole: with all headers.
const WHOLE: usize = 24;
/// Packets for each SA in each direction. Of most of them scapy sees the ESP packet alone, which is what their random sizes
/// and texts matter to; a thousand with all headers would take it minutes.
const PACKETS: usize = 1000;
/// Packets given to the pipeline at once.
const BATCH: usize = 50;
/// Octets of the largest packets: what fits any of the tunnels.
const LARGEST: u64 = 1376;
/// Extension headers of IPv6.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const OPTIONS: u8 = 60;
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

    /// Asks the same of several packets, each with a sequence number or its upper half.
    fn ask_all(&mut self, verb: &str, sa: usize, packets: &[(u64, Vec<u8>)]) -> Vec<Vec<u8>> {
        let Self { stdin, stdout, .. } = self;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut questions = Vec::new();
                for (number, packet) in packets {
                    writeln!(questions, "{verb} {sa} {number} {}", packet.len()).unwrap();
                    questions.extend_from_slice(packet);
                }
                // The empty line: no more for now.
                questions.push(b'\n');
                stdin.write_all(&questions).unwrap();
            });
            let answer = || {
                let mut line = String::new();
                assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "scapy has gone");
                let len = line.strip_prefix("ok ").unwrap_or_else(|| panic!("{verb} with SA {sa}: {line}"));
                let mut octets = vec![0; len.trim().parse().unwrap()];
                stdout.read_exact(&mut octets).unwrap();
                octets
            };
            std::iter::repeat_with(answer).take(packets.len()).collect()
        })
    }

    fn ask(&mut self, verb: &str, sa: usize, number: u64, packet: &[u8]) -> Vec<u8> {
        self.ask_all(verb, sa, &[(number, packet.to_vec())]).remove(0)
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
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
    json!({
        "algorithm": child.algorithm.name(),
        "spi": spi.get(),
        "keymat": hex(&child.keymat(direction)),
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
    for (number, (rig, child)) in rigs.iter_mut().zip(&children).enumerate() {
        let mut packets = |of_each: usize| -> Vec<_> {
            (0..2 * of_each)
                .map(|at| (at % 2 == 0, sizes.next(at % 2 == 0)))
                .map(|(v6, size)| Packet::between(US, SCAPY, v6, size))
                .collect()
        };
        let whole = packets(WHOLE);
        for (packet, sealed) in whole.iter().zip(seal(rig, &whole)) {
            assert_padded(&scapy.ask("open", number, 0, &sealed), packet);
        }
        for packets in packets(PACKETS / 2 - WHOLE).chunks(BATCH) {
            let esp: Vec<_> =
                seal(rig, packets).iter().map(|sealed| (0, sealed[outer_len(child)..].to_vec())).collect();
            for (packet, opened) in packets.iter().zip(scapy.ask_all("open-esp", number, &esp)) {
                let (next_header, opened) = opened.split_last().unwrap();
                assert_eq!(*next_header, if packet.src.is_ipv6() { 41 } else { 4 });
                assert_padded(opened, packet);
            }
        }
    }
}

/// The packets as one batch after another makes them.
fn seal(rig: &mut Rig, packets: &[Packet]) -> Vec<Vec<u8>> {
    let octets: Vec<_> = packets.iter().map(Packet::octets).collect();
    let sealed = rig.inside(&octets).only_sent(OUTSIDE);
    assert_eq!(sealed.len(), packets.len());
    sealed
}

/// scapy leaves padding against traffic analysis where it is.
fn assert_padded(opened: &[u8], packet: &Packet) {
    let (opened, padding) = opened.split_at(packet.len.min(opened.len()));
    assert!(opened == packet.forwarded() && padding.iter().all(|octet| *octet == 0), "{packet:?}");
}

/// Octets in front of ESP in tunnel mode.
fn outer_len(child: &Child) -> usize {
    (if child.outer_v6 { 40 } else { 20 }) + udp_len(child)
}

fn udp_len(child: &Child) -> usize {
    if child.udp { 8 } else { 0 }
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
        let first = if child.esn { u64::from(u32::MAX) - WHOLE as u64 } else { 0 };
        let numbered: Vec<_> = (1..=PACKETS as u64)
            .map(|at| (at % 2 == 0, sizes.next(at % 2 == 0), first + at))
            .map(|(v6, size, sequence)| (sequence, Packet::between(SCAPY, US, v6, size)))
            .collect();
        let (whole, bare) = numbered.split_at(2 * WHOLE);
        let sealed = whole.iter().map(|(at, packet)| scapy.ask("seal", number, *at, &packet.octets()));
        let sealed: Vec<_> = sealed.collect();
        // In one batch with the first packet ever, the upper half would be guessed from nothing.
        for (numbered, sealed) in whole.chunks(WHOLE).zip(sealed.chunks(WHOLE)) {
            open(rig, numbered, sealed);
        }
        for numbered in bare.chunks(BATCH) {
            let text = |packet: &Packet| {
                let next_header = if packet.src.is_ipv6() { 41 } else { 4 };
                [packet.octets().as_slice(), &[next_header]].concat()
            };
            let texts: Vec<_> = numbered.iter().map(|(at, packet)| (*at, text(packet))).collect();
            let esp = scapy.ask_all("seal-esp", number, &texts);
            let sealed: Vec<_> = esp.iter().map(|esp| behind_outer_header(child, esp)).collect();
            open(rig, numbered, &sealed);
        }
        assert_eq!(child.esn, numbered.last().unwrap().0 > u64::from(u32::MAX));
    }
}

fn open(rig: &mut Rig, expected: &[(u64, Packet)], sealed: &[Vec<u8>]) {
    let expected: Vec<_> = expected.iter().map(|(_, packet)| packet.forwarded()).collect();
    assert_eq!(rig.outside(sealed).only_sent(INSIDE), expected);
}

/// An ESP packet from scapy's address, with the headers that go in front of it.
fn behind_outer_header(child: &Child, esp: &[u8]) -> Vec<u8> {
    let udp = Udp { src_port: 4500, dst_port: 4500, len: 8 + esp.len(), checksum: 0 };
    let esp = if child.udp { [udp.write().as_slice(), esp].concat() } else { esp.to_vec() };
    let packet = Packet {
        src: outside_address(SCAPY, child.outer_v6),
        dst: outside_address(US, child.outer_v6),
        len: outer_len(child) - udp_len(child) + esp.len(),
        ..Packet::between(SCAPY, US, child.outer_v6, 0)
    };
    [packet.header(if child.udp { 17 } else { 50 }), esp].concat()
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
        let mut packet = |src, dst, number| {
            let packet = Packet { src, dst, ..Packet::between(US, SCAPY, false, 100) };
            with_options(&Packet { len: sizes.next(child.outer_v6), ..packet }, number)
        };
        for number in 0..WHOLE {
            let ours = packet(us, them, number);
            let sealed = rig.feed(Ingress::Kernel, std::slice::from_ref(&ours)).only_sent(OUTSIDE).remove(0);
            assert_eq!(scapy.ask("open", 2 * at, 0, &sealed), ours, "{child:?}");
            let theirs = packet(them, us, number);
            let sealed = scapy.ask("seal", 2 * at + 1, number as u64 + 1, &theirs);
            delivered(rig, child, &[theirs], &[sealed]);
        }
        for first in (WHOLE..PACKETS).step_by(BATCH) {
            let numbers = first..PACKETS.min(first + BATCH);
            let ours: Vec<_> = numbers.clone().map(|number| packet(us, them, number)).collect();
            let sealed = rig.feed(Ingress::Kernel, &ours).only_sent(OUTSIDE);
            let esp_at = |packet: &[u8]| esp_at(packet) + udp_len(child);
            let esp: Vec<_> =
                ours.iter().zip(sealed).map(|(ours, sealed)| (0, sealed[esp_at(ours)..].to_vec())).collect();
            let opened = scapy.ask_all("open-esp", 2 * at, &esp);
            let expected: Vec<_> = ours.iter().map(|packet| text(packet)).collect();
            assert_eq!(opened, expected, "{child:?}");

            let theirs: Vec<_> = numbers.clone().map(|number| packet(them, us, number)).collect();
            let texts: Vec<_> =
                numbers.zip(&theirs).map(|(number, theirs)| (number as u64 + 1, text(theirs))).collect();
            let esp = scapy.ask_all("seal-esp", 2 * at + 1, &texts);
            let sealed: Vec<_> =
                theirs.iter().zip(&esp).map(|(packet, esp)| with_esp(packet, child, esp)).collect();
            delivered(rig, child, &theirs, &sealed);
        }
    }
}

/// Demands that the sealed packets come out as these, for the host.
fn delivered(rig: &mut Rig, child: &Child, expected: &[Vec<u8>], sealed: &[Vec<u8>]) {
    let outcome = rig.outside(sealed);
    assert!(outcome.drops.is_empty() && outcome.transmit.is_empty(), "{outcome:?}, {child:?}");
    let comparable =
        |packets: &[Vec<u8>]| packets.iter().map(|packet| comparable(packet, child.udp)).collect::<Vec<_>>();
    assert_eq!(comparable(&outcome.to_kernel), comparable(expected), "{child:?}");
}

/// Where ESP goes in a packet of [`with_options`] (RFC 4303 §3.1.1): behind IPv4 options, hop-by-hop and routing headers, in
/// front of destination options for the last destination.
fn esp_at(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 {
        return usize::from(packet[0] & 15) * 4;
    }
    let (mut next_header, mut at) = (packet[6], 40);
    while matches!(next_header, HOP_BY_HOP | ROUTING) {
        (next_header, at) = (packet[at], at + 8);
    }
    at
}

/// Where the protocol of what [`esp_at`] finds is named.
fn named_at(packet: &[u8]) -> usize {
    match (packet[0] >> 4, esp_at(packet)) {
        (4, _) => 9,
        (_, 40) => 6,
        (_, at) => at - 8,
    }
}

/// What ESP carries of a packet in transport mode, and after it its next header.
fn text(packet: &[u8]) -> Vec<u8> {
    [&packet[esp_at(packet)..], &packet[named_at(packet)..][..1]].concat()
}

/// The packet with ESP in place of what it carries.
fn with_esp(packet: &[u8], child: &Child, esp: &[u8]) -> Vec<u8> {
    let udp = Udp { src_port: 4500, dst_port: 4500, len: 8 + esp.len(), checksum: 0 };
    let mut headers = packet[..esp_at(packet)].to_vec();
    headers[named_at(packet)] = if child.udp { 17 } else { 50 };
    let len = headers.len() + udp_len(child) + esp.len();
    let headers = if child.outer_v6 {
        let header = Ipv6 { payload_len: len - 40, ..Ipv6::parse(packet).unwrap() };
        let next_header = headers[6];
        [Ipv6 { next_header, ..header }.write().as_slice(), &headers[40..]].concat()
    } else {
        let header = Ipv4 { total_len: len, protocol: headers[9], ..Ipv4::parse(packet).unwrap() };
        [header.write(&headers[20..]).as_slice(), &headers[20..]].concat()
    };
    let udp = if child.udp { udp.write().to_vec() } else { Vec::new() };
    [headers, udp, esp.to_vec()].concat()
}
