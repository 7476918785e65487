//! What is sent: UDP datagrams whose payload begins with a number and a time, in clear or sealed as a peer would.
//!
//! Sizes are octets of the IP packet in clear. Addresses are those of [`super::lab`]: flow `i` is the host
//! `10.128.0.0 + i` behind the peer, one SA each. Every SA has the same key, so that the generator's and the sink's part
//! does not grow with their number; the gateway expands and fetches each one's own copy.

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;
use portcullis_aead::{self as aead, Algorithm, Engine, Key};
use portcullis_ebpf_common::sink::{FIRST_SPI, GENERATIONS, Look, PORT, SHORTEST_FOREIGN, flow_of, in_order};
use portcullis_gateway::frame::Frame;
use portcullis_gateway::wire::{EtherType, Ethernet, Ipv4, Mac, Udp};

use super::lab::{FAR_GATEWAY, FAR_HOST, NEAR_HOST};

/// Packets built and sealed together, and sent in one step: fewer than the 256 that a link of veth holds.
pub(crate) const BURST: usize = 192;
/// Where a packet begins in its frame: as far in as the gateway's own encapsulation needs.
const START: usize = 256;
/// Where in a frame of raw ESP the text starts: behind Ethernet, IPv4, SPI, sequence number and IV.
const ESP_TEXT: usize = 14 + 20 + 8 + 8;
/// Octets of number and time.
const STAMP: usize = 16;
/// The smallest packet with a stamp.
pub(crate) const SMALLEST: usize = 20 + 8 + STAMP;
/// Cipher key and salt of every SA.
pub(crate) const KEYMAT: [u8; 36] = *b"known to both ends of the bench salt";

/// The first remote host; flow `i` is the `i`th after it.
pub(crate) const FIRST_REMOTE: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);

/// The remote host of a flow.
pub(crate) fn remote(flow: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_REMOTE.to_bits() + flow)
}

/// The SPI that the gateway sends with on a flow's SA of that generation.
pub(crate) fn spi_of(flow: u32, generation: u32) -> u32 {
    FIRST_SPI + flow * GENERATIONS + generation % GENERATIONS
}

/// Number and time of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) number: u64,
    /// Nanoseconds of the bench's clock.
    pub(crate) time: u64,
}

/// The keys of every SA.
#[derive(Debug)]
pub(crate) struct Keys {
    engine: Engine,
    key: Key,
    salt: [u8; 4],
}

impl Keys {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let engine = Engine::select(None)?;
        let (key, salt) = KEYMAT.split_at(32);
        let key = engine.key(Algorithm::Aes256Gcm, key);
        let salt = salt.try_into()?;
        Ok(Self { engine, key: key.ok_or_else(|| anyhow::anyhow!("a key of 32 octets"))?, salt })
    }
}

impl Keys {
    fn packet<'a>(&'a self, spi: u32, sequence: u64, buffer: &'a mut [u8]) -> aead::Packet<'a> {
        let mut nonce = [0; 12];
        lay(&mut nonce, &[&self.salt, &sequence.to_be_bytes()]);
        let mut aad = [0; 12];
        lay(&mut aad, &[&spi.to_be_bytes(), &sequence.to_be_bytes()]);
        aead::Packet { key: &self.key, nonce, aad, aad_len: aad.len(), buffer, authentic: false }
    }
}

/// An SA that the generator seals with, as the peer of the gateway.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerSa {
    pub(crate) spi: u32,
    /// The next packet's sequence number.
    pub(crate) next: u64,
}

/// Makes packets.
#[derive(Debug)]
pub(crate) struct Source {
    /// Sizes, in the order in which they come.
    sizes: Vec<usize>,
    flows: u32,
    ethernet: [u8; 14],
    /// By flow, for sealed packets.
    pub(crate) peers: Option<(Keys, Vec<PeerSa>)>,
    next: u64,
    random: u64,
    /// The packet of this number has a TTL that ends at the gateway.
    pub(crate) spoilt: Option<u64>,
}

impl Source {
    /// For packets from `src` to the gateway's interface `dst`. With `peers`, each is sealed for its flow's SA.
    pub(crate) fn new(
        (src, dst): (Mac, Mac),
        sizes: &[usize],
        flows: u32,
        peers: Option<(Keys, Vec<PeerSa>)>,
    ) -> Self {
        let ethernet = Ethernet::write(dst, src, EtherType::Ipv4);
        let sizes = sizes.iter().map(|size| (*size).max(SMALLEST)).collect();
        Self { sizes, flows, ethernet, peers, next: 0, random: 0x9e37_79b9_7f4a_7c15, spoilt: None }
    }

    /// The SAs as they are now, for whoever sends next.
    pub(crate) fn into_peers(self) -> Vec<PeerSa> {
        self.peers.map(|(_, peers)| peers).unwrap_or_default()
    }

    /// Packets made so far.
    pub(crate) fn made(&self) -> u64 {
        self.next
    }

    /// Numbers begin anew; those of SAs go on.
    pub(crate) fn restart(&mut self) {
        self.next = 0;
    }

    /// Fills the frames, at most [`BURST`] of them.
    pub(crate) fn fill(&mut self, frames: &mut [Frame], time: u64) {
        let Self { sizes, flows, ethernet, peers, next, random, spoilt } = self;
        let mut peers = peers.as_mut().map(|(keys, peers)| (&*keys, peers));
        let mut batch = ArrayVec::<aead::Packet<'_>, BURST>::new();
        for frame in frames {
            let flow = choose(*flows, random);
            let size = sizes.get(*next as usize % sizes.len()).copied().unwrap_or(SMALLEST);
            let ttl = if *spoilt == Some(*next) { 1 } else { 64 };
            let stamp = Stamp { number: *next, time };
            *next += 1;
            match &mut peers {
                None => write_clear(frame, ethernet, &Inner::new(size, ttl, NEAR_HOST, remote(flow)), stamp),
                Some((keys, peers)) => {
                    let Some(peer) = peers.get_mut(flow as usize) else { continue };
                    let inner = Inner::new(size, ttl, remote(flow), NEAR_HOST);
                    batch.extend(write_sealed(frame, ethernet, &inner, stamp, keys, peer));
                }
            }
        }
        if let Some((keys, _)) = peers {
            keys.engine.seal(&mut batch);
        }
    }
}

/// Flows in random order, so that no SA is in the cache only because it comes next.
fn choose(flows: u32, random: &mut u64) -> u32 {
    if flows == 1 {
        return 0;
    }
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    (((*random >> 32) * u64::from(flows)) >> 32) as u32
}

/// Headers of a packet in clear.
pub(crate) struct Inner {
    size: usize,
    pub(crate) headers: [u8; 28],
}

impl Inner {
    /// Of a UDP datagram to the discard port, in a packet of so many octets.
    pub(crate) fn new(size: usize, ttl: u8, src: Ipv4Addr, dst: Ipv4Addr) -> Self {
        let mut headers = [0; 28];
        let udp = Udp { src_port: PORT, dst_port: PORT, len: size - 20, checksum: 0 };
        let (at_ip, at_udp) = headers.split_at_mut(20);
        at_ip.copy_from_slice(&ip(size, ttl, 17, src, dst));
        at_udp.copy_from_slice(&udp.write());
        Self { size, headers }
    }
}

fn ip(total_len: usize, ttl: u8, protocol: u8, src: Ipv4Addr, dst: Ipv4Addr) -> [u8; 20] {
    let header = Ipv4 {
        header_len: 20,
        total_len,
        tos: 0,
        id: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl,
        protocol,
        src,
        dst,
    };
    header.write(&[])
}

/// Writes parts one after the other.
pub(crate) fn lay(mut to: &mut [u8], parts: &[&[u8]]) {
    for part in parts {
        let Some((start, rest)) = to.split_at_mut_checked(part.len()) else { return };
        start.copy_from_slice(part);
        to = rest;
    }
}

/// Headers and stamp; the rest of the payload is whatever the frame holds.
fn write_clear(frame: &mut Frame, ethernet: &[u8; 14], inner: &Inner, stamp: Stamp) {
    if frame.set_range(START, START + 14 + inner.size) {
        let (number, time) = (stamp.number.to_be_bytes(), stamp.time.to_be_bytes());
        lay(frame.packet_mut(), &[ethernet, &inner.headers, &number, &time]);
    }
}

/// The same in ESP (RFC 4303) with AES-256-GCM (RFC 4106) and ESN, yet to be sealed.
fn write_sealed<'a>(
    frame: &'a mut Frame,
    ethernet: &[u8; 14],
    inner: &Inner,
    stamp: Stamp,
    keys: &'a Keys,
    peer: &mut PeerSa,
) -> Option<aead::Packet<'a>> {
    /// The next header that says that IPv4 is inside.
    const IPV4: u8 = 4;
    let padding = (inner.size + 2).next_multiple_of(4) - (inner.size + 2);
    let text = inner.size + padding + 2;
    let total = ESP_TEXT + text + aead::TAG_LEN;
    if !frame.set_range(START, START + total) {
        return None;
    }
    let sequence = peer.next;
    peer.next += 1;
    let (spi, iv) = (peer.spi.to_be_bytes(), sequence.to_be_bytes());
    let outer = ip(total - 14, 64, 50, FAR_HOST, FAR_GATEWAY);
    let low = (sequence as u32).to_be_bytes();
    let (number, time) = (stamp.number.to_be_bytes(), stamp.time.to_be_bytes());
    let packet = frame.packet_mut();
    lay(packet, &[ethernet, &outer, &spi, &low, &iv, &inner.headers, &number, &time]);
    let trailer = (1..=padding as u8).chain([padding as u8, IPV4]);
    packet.get_mut(ESP_TEXT + inner.size..)?.iter_mut().zip(trailer).for_each(|(to, octet)| *to = octet);
    Some(keys.packet(peer.spi, sequence, packet.get_mut(ESP_TEXT..)?))
}

/// What the sink expects at its socket.
#[derive(Debug)]
pub(crate) enum Expected {
    /// Clear packets of a [`Source`].
    Clear,
    /// The gateway's ESP: SPIs and sequence numbers are checked, by flow what [`in_order`] remembers of the last one, and every
    /// packet is opened, for its number and time.
    Sealed(Box<Keys>, Vec<u64>),
    /// ESP of a peer whose keys are not known, in UDP or not, from one SA.
    Foreign,
}

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// As it should be.
    Right(Stamp),
    /// Right, but its ESP sequence number is not above the last one.
    Late,
    /// ESP of a peer whose keys are not known, with its sequence number.
    Foreign(u64),
    /// It does not open.
    Broken,
    /// Not of this bench.
    Other,
}

impl Expected {
    /// As the sink's program is to look for it.
    pub(crate) fn look(&self) -> Look {
        match self {
            Self::Clear => Look::Clear,
            Self::Sealed(..) => Look::Sealed,
            Self::Foreign => Look::Foreign,
        }
    }

    /// Looks at a received frame.
    pub(crate) fn see(&mut self, frame: &mut Frame) -> Seen {
        match self {
            Self::Clear => {
                stamp_of(frame.packet().get(14..).unwrap_or_default()).map_or(Seen::Other, Seen::Right)
            }
            Self::Sealed(keys, last) => {
                let Some((spi, sequence)) = read_esp(frame) else { return Seen::Other };
                let Some((flow, generation)) = flow_of(spi) else { return Seen::Other };
                let Some(last) = last.get_mut(flow as usize) else { return Seen::Other };
                let right;
                (*last, right) = in_order(*last, generation, sequence);
                match open(keys, spi, sequence, frame) {
                    Some(stamp) if right => Seen::Right(stamp),
                    Some(_) => Seen::Late,
                    None => Seen::Broken,
                }
            }
            Self::Foreign => read_foreign(frame).map_or(Seen::Other, Seen::Foreign),
        }
    }
}

/// Number and time of a clear packet of ours.
fn stamp_of(packet: &[u8]) -> Option<Stamp> {
    let start: &[u8; SMALLEST] = packet.first_chunk()?;
    let (ip, rest) = start.split_at(20);
    let (udp, rest) = rest.split_at(8);
    let [p0, p1] = PORT.to_be_bytes();
    if ip.first() != Some(&0x45) || ip.get(9) != Some(&17) || !udp.starts_with(&[p0, p1, p0, p1]) {
        return None;
    }
    let (number, time) = rest.split_at(8);
    Some(Stamp {
        number: u64::from_be_bytes(number.try_into().ok()?),
        time: u64::from_be_bytes(time.try_into().ok()?),
    })
}

/// SPI and sequence number (the IV tells all 64 bits of it) of raw ESP in IPv4.
fn read_esp(frame: &Frame) -> Option<(u32, u64)> {
    let start: &[u8; 14 + 20 + 16] = frame.packet().first_chunk()?;
    if start.get(14) != Some(&0x45) || start.get(23) != Some(&50) {
        return None;
    }
    let spi = start.get(34..38)?.try_into().ok()?;
    let sequence = start.get(42..50)?.try_into().ok()?;
    Some((u32::from_be_bytes(spi), u64::from_be_bytes(sequence)))
}

/// Sequence number of ESP of anybody, raw or in UDP.
fn read_foreign(frame: &Frame) -> Option<u64> {
    let packet = frame.packet().get(14..)?;
    let esp = match (packet.first()?, packet.get(9)?) {
        (0x45, 50) => packet.get(20..)?,
        (0x45, 17) => packet.get(28..)?,
        _ => return None,
    };
    let (spi, rest) = esp.split_first_chunk::<4>()?;
    // Zero would be IKE.
    let is_esp = *spi != [0; 4] && packet.len() > SHORTEST_FOREIGN;
    let sequence = u32::from_be_bytes(*rest.first_chunk()?);
    is_esp.then_some(u64::from(sequence))
}

fn open(keys: &Keys, spi: u32, sequence: u64, frame: &mut Frame) -> Option<Stamp> {
    let text = frame.packet_mut().get_mut(ESP_TEXT..)?;
    let mut batch = [keys.packet(spi, sequence, text)];
    keys.engine.open(&mut batch);
    if !batch.iter().all(|packet| packet.authentic) {
        return None;
    }
    stamp_of(frame.packet().get(ESP_TEXT..)?)
}
