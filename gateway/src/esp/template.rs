//! From an inner packet to everything of the outer one but its ciphertext.
//!
//! What all packets of one SA on one way share is put together once, as a [`Template`]: Ethernet, IP, UDP and ESP
//! headers. A packet gets a copy of it in front, and then the few fields that are its own.

use std::net::IpAddr;

use portcullis_ipsec::{CopyDf, Encapsulation, EspAlgorithm, SaOptions, TunnelEndpoints};

use super::{AeadParameters, ESP_HEADER_LEN, MAX_HEADROOM, TRAILER_LEN};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::wire::{
    self, Checksum, ETHERNET_HEADER_LEN, EtherType, Ethernet, IPV4_HEADER_LEN, IPV6_HEADER_LEN, Ipv4, Ipv6,
    L3Info, Mac, UDP_HEADER_LEN, Udp, protocol,
};

/// TTL or hop limit of the outer header: its journey begins here (RFC 4301 §5.1.2.1).
const OUTER_TTL: u8 = 64;

/// DF in the word of flags and fragment offset.
const DONT_FRAGMENT: u16 = 0x4000;

/// The headers that the packets of one outbound SA have in common on their way to one neighbour.
#[derive(Debug, Clone)]
pub struct Template {
    /// Headers, behind whatever is left over in front: the text follows their last octet.
    pub(super) octets: [u8; MAX_HEADROOM],
    /// Where in `octets` the outer IP header starts; the Ethernet header ends there.
    pub(super) ip: u8,
    /// Whether there is a UDP header. One of a packet for a TCP stream says which, and goes no further.
    pub(super) udp: bool,
    pub(super) stream: bool,
    pub(super) v6: bool,
    pub(super) esn: bool,
    /// What of the inner header's DSCP and ECN is copied.
    pub(super) tos_copied: u8,
    /// What the outer header has of them besides.
    pub(super) tos_set: u8,
    /// Flags of the outer IPv4 header, by the inner packet's DF.
    pub(super) flags: [u16; 2],
    pub(super) algorithm: EspAlgorithm,
    /// What the algorithm asks of the packet: see the functions of the same names of [`EspAlgorithm`].
    pub(super) iv_len: u8,
    pub(super) icv_len: u8,
    /// Its alignment, less one.
    pub(super) align_mask: u8,
    /// Octets of IV that the engine's buffer begins with.
    pub(super) covered_iv_len: u8,
    /// Octets that every inner packet is padded to at least (RFC 4303 §2.7).
    pub(super) least_text: u16,
    /// Of the IPv4 header as far as it is in `octets`, its checksum field zero: not folded.
    pub(super) sum: u32,
    pub(super) salt: [u8; 4],
    pub(super) spi: u32,
}

impl Template {
    /// For an SA's packets. They leave without an Ethernet header until [`Template::set_link`] gives it its
    /// addresses. `None` if the endpoints are of two families, which is no tunnel.
    pub fn new(
        endpoints: &TunnelEndpoints,
        spi: u32,
        algorithm: EspAlgorithm,
        salt: [u8; 4],
        esn: bool,
    ) -> Option<Self> {
        let iv_len = algorithm.iv_len();
        let mut octets = [0; MAX_HEADROOM];
        let mut at = MAX_HEADROOM - iv_len - ESP_HEADER_LEN;
        put(&mut octets, at, &spi.to_be_bytes());
        let mut protocol = protocol::ESP;
        let udp = match endpoints.encapsulation {
            Encapsulation::Udp { local_port, remote_port }
            | Encapsulation::Tcp { local_port, remote_port } => {
                at -= UDP_HEADER_LEN;
                // No checksum (RFC 3948 §2.1); over IPv6, which demands one, it follows the sealing.
                let header = Udp { src_port: local_port, dst_port: remote_port, len: 0, checksum: 0 };
                put(&mut octets, at, &header.write());
                protocol = protocol::UDP;
                true
            }
            Encapsulation::None => false,
        };
        let mut sum = 0;
        let v6 = match (endpoints.local, endpoints.remote) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                at -= IPV4_HEADER_LEN;
                let header = Ipv4 {
                    header_len: IPV4_HEADER_LEN,
                    total_len: 0,
                    tos: 0,
                    id: 0,
                    dont_fragment: false,
                    more_fragments: false,
                    fragment_offset: 0,
                    ttl: OUTER_TTL,
                    protocol,
                    src,
                    dst,
                };
                let header = header.write(&[]);
                put(&mut octets, at, &header);
                let [.., c0, c1, _, _, _, _, _, _, _, _] = header;
                sum = u32::from(!u16::from_be_bytes([c0, c1]));
                false
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                at -= IPV6_HEADER_LEN;
                let header = Ipv6 {
                    traffic_class: 0,
                    // Lets routers spread SAs over paths without tearing one apart (RFC 6438 §2).
                    flow_label: spi & 0xf_ffff,
                    payload_len: 0,
                    next_header: protocol,
                    hop_limit: OUTER_TTL,
                    src,
                    dst,
                };
                put(&mut octets, at, &header.write());
                true
            }
            _ => return None,
        };
        Some(Self {
            octets,
            ip: at as u8,
            udp,
            stream: matches!(endpoints.encapsulation, Encapsulation::Tcp { .. }),
            v6,
            esn,
            tos_copied: u8::MAX,
            tos_set: 0,
            flags: [0, DONT_FRAGMENT],
            algorithm,
            iv_len: iv_len as u8,
            icv_len: algorithm.icv_len() as u8,
            align_mask: (algorithm.alignment() - 1) as u8,
            covered_iv_len: if algorithm.covers_iv() { iv_len as u8 } else { 0 },
            least_text: 0,
            sum,
            salt,
            spi,
        })
    }

    /// Says which of the inner header's fields the outer one takes over (RFC 4301 §5.1.2, RFC 6040 §4.1), and pads inner
    /// packets to at least `least_text` octets. Without it DSCP, ECN and DF are copied and nothing is padded.
    pub fn set_options(&mut self, options: &SaOptions, least_text: u16) {
        const DSCP: u8 = 0xfc;
        const ECN: u8 = 0x03;
        let dscp_copied = options.copy_dscp.outwards();
        self.tos_copied = if dscp_copied { DSCP } else { 0 } | if options.copy_ecn { ECN } else { 0 };
        self.tos_set = if dscp_copied { 0 } else { options.dscp << 2 };
        self.flags = match options.copy_df {
            CopyDf::Yes => [0, DONT_FRAGMENT],
            CopyDf::No => [0, 0],
            CopyDf::Set => [DONT_FRAGMENT, DONT_FRAGMENT],
        };
        self.least_text = least_text;
    }

    /// Sets the Ethernet header's addresses.
    pub fn set_link(&mut self, dst: Mac, src: Mac) {
        let ether_type = if self.v6 { EtherType::Ipv6 } else { EtherType::Ipv4 };
        let at = usize::from(self.ip).saturating_sub(ETHERNET_HEADER_LEN);
        put(&mut self.octets, at, &Ethernet::write(dst, src, ether_type));
    }

    /// Puts trailer, ESP header, UDP header, outer IP header and Ethernet header around the inner packet that the frame
    /// holds. On success the frame holds the whole outer frame, whose text the engine has yet to seal with what is
    /// returned. On failure it is unchanged.
    ///
    /// DSCP, ECN and DF become what [`Template::set_options`] says; an inner IPv6 packet counts as one with DF.
    #[inline(always)]
    pub fn encapsulate(
        &self,
        frame: &mut Frame,
        inner: &L3Info,
        is_ipv6: bool,
        sequence: u64,
    ) -> Result<AeadParameters, DropReason> {
        let packet_len = frame.len();
        let inner_len = packet_len.max(self.least_text.into());
        let pad = (inner_len + TRAILER_LEN).wrapping_neg() & usize::from(self.align_mask);
        let behind = inner_len - packet_len + pad + TRAILER_LEN + usize::from(self.icv_len);
        let ip = usize::from(self.ip);
        let outer_len = MAX_HEADROOM - ip + packet_len + behind;
        if outer_len > usize::from(u16::MAX) {
            return Err(DropReason::TooBig);
        }
        let front = MAX_HEADROOM - ip + ETHERNET_HEADER_LEN;
        let (headers, text) = frame.wrap::<MAX_HEADROOM>(front, behind).ok_or(DropReason::NoHeadroom)?;
        let next_header = if is_ipv6 { protocol::IPV6 } else { protocol::IPV4 };
        if inner_len > packet_len {
            hide_length(text, packet_len, inner_len);
        }
        write_trailer(text.get_mut(inner_len..).unwrap_or_default(), pad, next_header);

        *headers = self.octets;
        let iv = sequence.to_be_bytes();
        let iv_at = MAX_HEADROOM - usize::from(self.iv_len);
        if usize::from(self.iv_len) == iv.len() {
            // Of nearly all algorithms: SPI, sequence number and IV end the headers.
            let [.., esp] = headers.as_chunks_mut::<8>().0 else { return Err(DropReason::NoHeadroom) };
            *esp = iv;
            let esp = u64::from(self.spi) << 32 | u64::from(sequence as u32);
            put(headers, MAX_HEADROOM - iv.len() - ESP_HEADER_LEN, &esp.to_be_bytes());
        } else {
            put(headers, iv_at - 4, &(sequence as u32).to_be_bytes());
            // Where there is an IV, in front of zeros (the engine makes AES-CBC's of it).
            put(headers, iv_at, &iv);
        }
        if self.udp {
            let udp = iv_at - ESP_HEADER_LEN - UDP_HEADER_LEN;
            let len = (MAX_HEADROOM - udp + packet_len + behind) as u16;
            put(headers, udp + 4, &len.to_be_bytes());
        }
        let tos = inner.tos() & self.tos_copied | self.tos_set;
        if self.v6 {
            let payload_len = (outer_len - IPV6_HEADER_LEN) as u32;
            let first = 6 << 28 | u32::from(tos) << 20 | (self.spi & 0xf_ffff);
            put(headers, ip, &first.to_be_bytes());
            put(headers, ip + 4, &(payload_len as u16).to_be_bytes());
        } else {
            // Version and length, TOS, total length; an identification that is unique among this SA's packets, as far as
            // 16 bits go (RFC 6864 §4.1), and flags.
            let first = 0x4500_0000 | u32::from(tos) << 16 | outer_len as u32;
            let [clear, set] = self.flags;
            let flags = u32::from(if inner.dont_fragment() { set } else { clear });
            let second = (sequence as u32) << 16 | flags;
            let sum = self.sum + u32::from(tos) + outer_len as u32 + (second >> 16) + flags;
            let sum = (sum >> 16) + (sum & 0xffff);
            let sum = (sum >> 16) + (sum & 0xffff);
            let header = headers.get_mut(ip..).and_then(<[u8]>::first_chunk_mut::<IPV4_HEADER_LEN>);
            if let Some([h0, h1, h2, h3, h4, h5, h6, h7, _, _, c0, c1, ..]) = header {
                let words = u64::from(first) << 32 | u64::from(second);
                [*h0, *h1, *h2, *h3, *h4, *h5, *h6, *h7] = words.to_be_bytes();
                [*c0, *c1] = (!(sum as u16)).to_be_bytes();
            }
        }
        let salt = self.salt;
        let buffer = front - usize::from(self.covered_iv_len);
        Ok(AeadParameters { salt, iv, spi: self.spi, sequence, esn: self.esn, buffer })
    }

    /// Whether a sealed packet lacks something yet.
    #[inline]
    pub fn needs_finish(&self) -> bool {
        self.udp && self.v6 && !self.stream
    }

    /// Whether sealed packets are for a TCP stream: [`crate::outlet`] takes them out of their headers again.
    #[inline]
    pub(crate) fn is_for_stream(&self) -> bool {
        self.stream
    }

    /// Completes a sealed packet whose ESP goes in UDP over IPv6, where the checksum is not optional (RFC 8200 §8.1).
    /// Leaves every other packet as it is.
    pub fn finish(&self, frame: &mut Frame) {
        if self.needs_finish() {
            write_udp_checksum(frame);
        }
    }
}

/// TFC padding: what it holds does not matter (RFC 4303 §2.7).
#[cold]
fn hide_length(text: &mut [u8], from: usize, to: usize) {
    text.get_mut(from..to).unwrap_or_default().fill(0);
}

/// Copies into the middle; what does not fit, which a template's sizes exclude, is left out.
#[inline(always)]
pub(super) fn put(octets: &mut [u8], at: usize, from: &[u8]) {
    if let Some(place) = octets.get_mut(at..at + from.len()) {
        place.copy_from_slice(from);
    }
}

/// Padding 1, 2, 3, … (RFC 4303 §2.4), its length, and the next header.
#[inline(always)]
pub(super) fn write_trailer(tail: &mut [u8], pad: usize, next_header: u8) {
    // Of most algorithms, in one go: what it writes behind is where the ICV will be.
    const SHORT: [u64; 4] = [0x00, 0x01_01, 0x02_02_01, 0x03_03_02_01];
    if let (Some(&short), Some(tail)) = (SHORT.get(pad), tail.first_chunk_mut::<8>()) {
        *tail = (short | u64::from(next_header) << (8 * (pad + 1))).to_le_bytes();
        return;
    }
    let octets = (1..=pad as u8).chain([pad as u8, next_header]);
    tail.iter_mut().zip(octets).for_each(|(to, from)| *to = from);
}

#[cold]
fn write_udp_checksum(frame: &mut Frame) {
    let Some(packet) = frame.packet_mut().get_mut(ETHERNET_HEADER_LEN..) else { return };
    // In transport mode there may be extension headers.
    let Ok((flow, info)) = wire::read(packet) else { return };
    let Some(datagram) = packet.get_mut(info.header_len()..) else { return };
    let sum = Checksum::default()
        .pseudo_header(flow.src(), flow.dst(), protocol::UDP, datagram.len() as u32)
        .octets(datagram)
        .finish();
    if let [_, _, _, _, _, _, c0, c1, ..] = datagram {
        // Zero would say "none" (RFC 768).
        [*c0, *c1] = if sum == 0 { u16::MAX } else { sum }.to_be_bytes();
    }
}
