//! IKE messages out of a capture file, whatever they were wrapped in.

use std::collections::HashMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::{EtherType, NetSlice, SlicedPacket, TransportSlice, UdpSlice};
use pcap_parser::traits::PcapNGPacketBlock as _;
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};

/// Octets that are read of a file at once; a block may not be longer.
const BUFFER: usize = 1 << 20;
/// Messages that are looked at.
const MOST: usize = 100_000;
/// Packets of which fragments are kept at once.
const MOST_FRAGMENTED: usize = 256;

/// Why a file tells nothing.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// It is something else.
    #[error("is no pcap or pcapng file: {0}")]
    Format(String),
    /// It is one, without IKE.
    #[error(
        "has {packets} packets and no IKE message among them (UDP 500 and 4500 were looked at); capture with: tcpdump -ni IFACE -w FILE 'udp port 500 or udp port 4500 or (ip[6:2] & 0x3fff != 0)'"
    )]
    NoIke {
        /// Packets in it.
        packets: usize,
    },
}

/// An IKE message as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Microseconds since the first packet of the file.
    pub micros: u64,
    /// From where.
    pub src: SocketAddr,
    /// To where.
    pub dst: SocketAddr,
    /// The message, without a non-ESP marker.
    pub octets: Vec<u8>,
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct Reading {
    /// IKE messages, in the order of the file.
    pub messages: Vec<Seen>,
    /// All packets.
    pub packets: usize,
    /// ESP packets between two addresses, plain or in UDP.
    pub esp: HashMap<(IpAddr, IpAddr), usize>,
    /// Between whom packets were seen in fragments of which some are missing.
    pub incomplete: Vec<(IpAddr, IpAddr)>,
}

/// Reads a whole file.
///
/// # Errors
/// [`CaptureError`] says what the file is instead.
pub fn read(file: impl Read + Send + 'static) -> Result<Reading, CaptureError> {
    let format = |error: PcapError<&[u8]>| CaptureError::Format(format!("{error:?}"));
    let mut reader = create_reader(BUFFER, file).map_err(|error| match error {
        PcapError::ReadError => CaptureError::Io(std::io::Error::other("read error")),
        _ => CaptureError::Format("it begins with no magic number of theirs".to_owned()),
    })?;
    let mut collector = Collector::default();
    let mut links: Vec<(Linktype, u64)> = Vec::new();
    let mut stalled = false;
    loop {
        match reader.next() {
            Ok((length, block)) => {
                stalled = false;
                match block {
                    PcapBlockOwned::LegacyHeader(header) => {
                        let per_second =
                            if header.is_nanosecond_precision() { 1_000_000_000 } else { 1_000_000 };
                        links = vec![(header.network, per_second)];
                    }
                    PcapBlockOwned::Legacy(packet) => {
                        let (link, per_second) =
                            links.first().copied().unwrap_or((Linktype::ETHERNET, 1_000_000));
                        let fraction = u64::from(packet.ts_usec) * 1_000_000 / per_second;
                        collector.packet(link, u64::from(packet.ts_sec) * 1_000_000 + fraction, packet.data);
                    }
                    PcapBlockOwned::NG(Block::SectionHeader(_)) => links.clear(),
                    PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                        links.push((interface.linktype, interface.ts_resolution().unwrap_or(1_000_000)));
                    }
                    PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                        let interface = usize::try_from(packet.if_id).unwrap_or(usize::MAX);
                        if let Some((link, per_second)) = links.get(interface).copied() {
                            let ticks = u128::from(packet.ts_high) << 32 | u128::from(packet.ts_low);
                            let micros = ticks * 1_000_000 / u128::from(per_second.max(1));
                            let data = packet.packet_data();
                            collector.packet(link, u64::try_from(micros).unwrap_or_default(), data);
                        }
                    }
                    PcapBlockOwned::NG(Block::SimplePacket(packet)) => {
                        if let Some((link, _)) = links.first().copied() {
                            collector.packet(link, 0, packet.packet_data());
                        }
                    }
                    PcapBlockOwned::NG(_) => {}
                }
                reader.consume(length);
                if collector.reading.messages.len() >= MOST {
                    break;
                }
            }
            Err(PcapError::Eof) => break,
            Err(PcapError::Incomplete(_)) if !stalled => {
                stalled = true;
                reader.refill().map_err(format)?;
            }
            // A file that was cut off while it was written: what came before counts.
            Err(PcapError::Incomplete(_) | PcapError::UnexpectedEof) => break,
            Err(error) => return Err(format(error)),
        }
    }
    collector.done()
}

/// Fragments of one packet: source, destination, identification.
type FragmentKey = (Ipv4Addr, Ipv4Addr, u16);

#[derive(Default)]
struct Collector {
    reading: Reading,
    begun: Option<u64>,
    fragments: HashMap<FragmentKey, Fragments>,
}

#[derive(Default)]
struct Fragments {
    parts: Vec<(usize, Vec<u8>)>,
    length: Option<usize>,
}

impl Collector {
    fn packet(&mut self, link: Linktype, micros: u64, data: &[u8]) {
        self.reading.packets += 1;
        let begun = *self.begun.get_or_insert(micros);
        let micros = micros.saturating_sub(begun);
        // Packets that are cut short, or of a kind that nobody sends IKE in, tell nothing.
        let Some(packet) = slice(link, data) else { return };
        let (src, dst, payload) = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header();
                if header.is_fragmenting_payload() {
                    let offset = usize::from(header.fragments_offset().value()) * 8;
                    let key = (header.source_addr(), header.destination_addr(), header.identification());
                    self.fragment(micros, key, offset, header.more_fragments(), ip.payload().payload);
                    return;
                }
                (IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr()), ip.payload())
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header();
                let ends = (IpAddr::V6(header.source_addr()), IpAddr::V6(header.destination_addr()));
                if ip.payload().fragmented {
                    self.reading.incomplete.push(ends);
                    return;
                }
                (ends.0, ends.1, ip.payload())
            }
            _ => return,
        };
        if payload.ip_number == etherparse::IpNumber::ENCAPSULATING_SECURITY_PAYLOAD {
            *self.reading.esp.entry((src, dst)).or_default() += 1;
        }
        if let Some(TransportSlice::Udp(udp)) = &packet.transport {
            self.udp(micros, src, dst, udp);
        }
    }

    fn udp(&mut self, micros: u64, src: IpAddr, dst: IpAddr, udp: &UdpSlice<'_>) {
        let (from, to) = (udp.source_port(), udp.destination_port());
        let octets = match (from, to) {
            (4500, _) | (_, 4500) => match udp.payload().split_first_chunk() {
                Some(([0, 0, 0, 0], message)) => message,
                // A NAT keepalive is one octet; anything else is ESP (RFC 3948).
                Some(_) => {
                    *self.reading.esp.entry((src, dst)).or_default() += 1;
                    return;
                }
                None => return,
            },
            (500, _) | (_, 500) => udp.payload(),
            _ => return,
        };
        let (src, dst) = (SocketAddr::new(src, from), SocketAddr::new(dst, to));
        self.reading.messages.push(Seen { micros, src, dst, octets: octets.to_vec() });
    }

    fn fragment(&mut self, micros: u64, key: FragmentKey, offset: usize, more: bool, part: &[u8]) {
        if self.fragments.len() >= MOST_FRAGMENTED && !self.fragments.contains_key(&key) {
            return;
        }
        let fragments = self.fragments.entry(key).or_default();
        fragments.parts.push((offset, part.to_vec()));
        if !more {
            fragments.length = Some(offset + part.len());
        }
        if let Some(whole) = fragments.whole() {
            self.fragments.remove(&key);
            if let Ok(udp) = UdpSlice::from_slice(&whole) {
                self.udp(micros, key.0.into(), key.1.into(), &udp);
            }
        }
    }

    fn done(mut self) -> Result<Reading, CaptureError> {
        let left = self.fragments.keys().map(|(src, dst, _)| (IpAddr::V4(*src), IpAddr::V4(*dst)));
        self.reading.incomplete.extend(left);
        match self.reading.messages.is_empty() {
            true => Err(CaptureError::NoIke { packets: self.reading.packets }),
            false => Ok(self.reading),
        }
    }
}

impl Fragments {
    /// The packet's payload, once all of it is there.
    fn whole(&self) -> Option<Vec<u8>> {
        let length = self.length?;
        let mut parts: Vec<_> = self.parts.iter().collect();
        parts.sort_by_key(|(offset, _)| *offset);
        let mut whole: Vec<u8> = Vec::new();
        for (offset, part) in parts {
            let new = part.get(whole.len().checked_sub(*offset)?..).unwrap_or_default();
            whole.extend_from_slice(new);
        }
        (whole.len() == length).then_some(whole)
    }
}

/// A packet without what its link wraps it in.
fn slice(link: Linktype, data: &[u8]) -> Option<SlicedPacket<'_>> {
    match link {
        Linktype::ETHERNET => SlicedPacket::from_ethernet(data).ok(),
        Linktype::LINUX_SLL => SlicedPacket::from_linux_sll(data).ok(),
        Linktype(276) => {
            // LINKTYPE_LINUX_SLL2: the protocol is in the first two of 20 octets.
            let (head, rest) = data.split_first_chunk::<20>()?;
            SlicedPacket::from_ether_type(EtherType(u16::from_be_bytes([head[0], head[1]])), rest).ok()
        }
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 | Linktype(12) => SlicedPacket::from_ip(data).ok(),
        // The family, in the order of octets of whoever captured.
        Linktype::NULL | Linktype::LOOP => SlicedPacket::from_ip(data.get(4..)?).ok(),
        _ => None,
    }
}
