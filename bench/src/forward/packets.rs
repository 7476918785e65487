//! What is sent: UDP datagrams whose payload begins with a number and a time, in clear or sealed as a peer would.
//!
//! Sizes are octets of the IP packet in clear. Addresses are those of [`super::lab`]: flow `i` is the host
//! `10.128.0.0 + i` behind the peer, one SA each. Every SA has the same key, so that the generator's and the sink's part
//! does not grow with their number; the gateway expands and fetches each one's own copy.

use std::net::{IpAddr, Ipv4Addr};

use arrayvec::ArrayVec;
use portcullis_aead::{Algorithm, Engine, Key};
use portcullis_gateway::esp::{self, AeadParameters, Outer};
use portcullis_gateway::frame::Frame;
use portcullis_gateway::wire::{EtherType, Ethernet, Fragment, Ipv4, L3Info, Mac, Udp};
use portcullis_ipsec::{Encapsulation, TunnelEndpoints};

use super::lab::{FAR_GATEWAY, FAR_HOST, NEAR_HOST};

/// Packets built and sealed together, and sent in one step.
pub(crate) const BURST: usize = 32;
/// Where a packet begins in its frame: as far in as the gateway's own encapsulation needs.
const START: usize = 256;
const HEADERS: usize = 14 + 20 + 8;
/// Octets of number and time.
const STAMP: usize = 16;
/// The smallest packet with a stamp.
pub(crate) const SMALLEST: usize = 20 + 8 + STAMP;
/// UDP's discard port: what else arrives is not ours.
const PORT: u16 = 9;
/// Cipher key and salt of every SA.
pub(crate) const KEYMAT: [u8; 36] = *b"known to both ends of the bench salt";
/// SPIs are chosen by the receiver: this bench, for what the gateway seals.
const FIRST_SPI: u32 = 1 << 28;
/// SPIs of one slot are so far apart; a slot's come again after 1,024 rekeys.
const GENERATIONS: u32 = 1 << 10;

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

fn flow_of(spi: u32) -> Option<(u32, u32)> {
    let index = spi.checked_sub(FIRST_SPI)?;
    Some((index / GENERATIONS, index % GENERATIONS))
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
        let mut sealing = ArrayVec::<AeadParameters, BURST>::new();
        for frame in frames.iter_mut() {
            let flow = self.flow();
            let size = self.sizes.get(self.next as usize % self.sizes.len()).copied().unwrap_or(SMALLEST);
            let ttl = if self.spoilt == Some(self.next) { 1 } else { 64 };
            let stamp = Stamp { number: self.next, time };
            self.next += 1;
            match &mut self.peers {
                None => write(frame, &self.ethernet, size, ttl, NEAR_HOST, remote(flow), stamp),
                Some((keys, peers)) => {
                    write(frame, &self.ethernet, size, ttl, remote(flow), NEAR_HOST, stamp);
                    let Some(peer) = peers.get_mut(flow as usize) else { continue };
                    sealing.extend(encapsulate(keys, peer, frame, size));
                }
            }
        }
        let Some((keys, _)) = &self.peers else { return };
        let mut batch = ArrayVec::<_, BURST>::new();
        batch.extend(
            frames.iter_mut().zip(&sealing).map(|(frame, parameters)| parameters.packet(&keys.key, frame)),
        );
        keys.engine.seal(&mut batch);
        drop(batch);
        for frame in frames {
            if frame.push_front(14)
                && let Some(start) = frame.packet_mut().first_chunk_mut()
            {
                *start = self.ethernet;
            }
        }
    }

    /// Flows in random order, so that no SA is in the cache only because it comes next.
    fn flow(&mut self) -> u32 {
        if self.flows == 1 {
            return 0;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((self.random >> 32) * u64::from(self.flows) >> 32) as u32
    }
}

/// Writes headers and stamp; the rest of the payload is whatever the frame holds.
fn write(
    frame: &mut Frame,
    ethernet: &[u8; 14],
    size: usize,
    ttl: u8,
    src: Ipv4Addr,
    dst: Ipv4Addr,
    stamp: Stamp,
) {
    let ip = Ipv4 {
        header_len: 20,
        total_len: size,
        tos: 0,
        id: stamp.number as u16,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl,
        protocol: 17,
        src,
        dst,
    };
    let udp = Udp { src_port: PORT, dst_port: PORT, len: size - 20, checksum: 0 };
    if !frame.set_range(START, START + 14 + size) {
        return;
    }
    let Some(start) = frame.packet_mut().first_chunk_mut::<{ HEADERS + STAMP }>() else { return };
    let (at_ethernet, rest) = start.split_at_mut(14);
    let (at_ip, rest) = rest.split_at_mut(20);
    let (at_udp, rest) = rest.split_at_mut(8);
    let (at_number, at_time) = rest.split_at_mut(8);
    at_ethernet.copy_from_slice(ethernet);
    at_ip.copy_from_slice(&ip.write(&[]));
    at_udp.copy_from_slice(&udp.write());
    at_number.copy_from_slice(&stamp.number.to_be_bytes());
    at_time.copy_from_slice(&stamp.time.to_be_bytes());
}

fn encapsulate(keys: &Keys, peer: &mut PeerSa, frame: &mut Frame, size: usize) -> Option<AeadParameters> {
    let info = L3Info {
        total_len: size,
        header_len: 20,
        tos: 0,
        ttl: 64,
        dont_fragment: true,
        fragment: Fragment::Whole,
    };
    let endpoints = TunnelEndpoints {
        local: IpAddr::V4(FAR_HOST),
        remote: IpAddr::V4(FAR_GATEWAY),
        encapsulation: Encapsulation::None,
    };
    let outer = Outer { endpoints, spi: peer.spi, salt: keys.salt, esn: true };
    let sequence = peer.next;
    peer.next += 1;
    if !frame.pull_front(14) {
        return None;
    }
    esp::encapsulate(frame, &info, false, &outer, sequence).ok()
}

/// What the sink expects, and how closely it looks.
#[derive(Debug)]
pub(crate) enum Expected {
    /// Clear packets of a [`Source`].
    Clear,
    /// The gateway's ESP: SPIs and sequence numbers are checked, by flow the last ones seen.
    Sealed(Vec<u64>),
    /// The same, and every packet is opened, for its number and time.
    Opened(Keys, Vec<u64>),
    /// ESP of a peer whose keys are not known, in UDP or not, from one SA.
    Foreign,
}

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// As it should be, with its number if that can be read, and its time.
    Right(Option<Stamp>),
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
    /// Looks at a received frame.
    pub(crate) fn look(&mut self, frame: &mut Frame) -> Seen {
        match self {
            Self::Clear => stamp_of(frame.packet().get(14..).unwrap_or_default())
                .map_or(Seen::Other, |stamp| Seen::Right(Some(stamp))),
            Self::Sealed(last) => match read_esp(frame) {
                Some((spi, sequence)) => in_order(last, spi, sequence),
                None => Seen::Other,
            },
            Self::Opened(keys, last) => {
                let Some((spi, sequence)) = read_esp(frame) else { return Seen::Other };
                let order = in_order(last, spi, sequence);
                match (order, open(keys, frame)) {
                    (Seen::Right(_), Some(stamp)) => Seen::Right(Some(stamp)),
                    (order, Some(_)) => order,
                    (_, None) => Seen::Broken,
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
    let is_esp = *spi != [0; 4] && packet.len() > 60;
    let sequence = u32::from_be_bytes(*rest.first_chunk()?);
    is_esp.then_some(u64::from(sequence))
}

fn in_order(last: &mut [u64], spi: u32, sequence: u64) -> Seen {
    let Some((flow, generation)) = flow_of(spi) else { return Seen::Other };
    let Some(last) = last.get_mut(flow as usize) else { return Seen::Other };
    let before = *last;
    let now = unwrapped(before >> 48, generation) << 48 | sequence;
    *last = before.max(now);
    if now > before { Seen::Right(None) } else { Seen::Late }
}

/// A later SA's packets follow those of an earlier one: the generation that a remainder stands for, next to the last one.
fn unwrapped(last: u64, generation: u32) -> u64 {
    if last == 0 {
        return u64::from(generation);
    }
    let ahead = u64::from(generation).wrapping_sub(last) % u64::from(GENERATIONS);
    if ahead < u64::from(GENERATIONS / 2) {
        last + ahead
    } else {
        (last + ahead).saturating_sub(u64::from(GENERATIONS))
    }
}

fn open(keys: &Keys, frame: &mut Frame) -> Option<Stamp> {
    if !frame.pull_front(14) {
        return None;
    }
    let (flow, info) = portcullis_gateway::wire::flow(frame.packet()).ok()?;
    let outer = esp::parse(frame.packet(), &flow, &info, 4500).ok()?;
    // The IV, which is the whole of it.
    let sequence = u64::from_be_bytes(frame.packet().get(28..36)?.try_into().ok()?);
    if !frame.truncate(outer.end()) {
        return None;
    }
    let parameters = outer.parameters(keys.salt, sequence, true);
    let mut batch = [parameters.packet(&keys.key, frame)];
    keys.engine.open(&mut batch);
    let authentic = batch.iter().all(|packet| packet.authentic);
    if !authentic {
        return None;
    }
    esp::decapsulate(frame, &outer).ok()?;
    stamp_of(frame.packet())
}
