//! From an inner packet to everything of the outer one but its ciphertext.

use std::net::IpAddr;

use portcullis_ipsec::{Encapsulation, EspAlgorithm, TunnelEndpoints};

use super::{AeadParameters, TRAILER_LEN, header_len, text_len};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::wire::{
    Checksum, IPV4_HEADER_LEN, IPV6_HEADER_LEN, Ipv4, Ipv6, L3Info, UDP_HEADER_LEN, Udp, protocol,
};

/// TTL or hop limit of the outer header: its journey begins here (RFC 4301 §5.1.2.1).
const OUTER_TTL: u8 = 64;

/// What all packets of one outbound SA share.
#[derive(Debug, Clone, Copy)]
pub struct Outer {
    /// Addresses and encapsulation.
    pub endpoints: TunnelEndpoints,
    /// The peer's SPI.
    pub spi: u32,
    /// How packets are protected.
    pub algorithm: EspAlgorithm,
    /// The key's salt.
    pub salt: [u8; 4],
    /// 64-bit sequence numbers.
    pub esn: bool,
}

/// Puts trailer, ESP header, UDP header and outer IP header around the inner packet that the frame holds. On
/// success the frame holds the outer packet, whose text the engine has yet to seal. On failure the frame's packet
/// is void, and the frame is to be dropped.
///
/// The explicit IV is the sequence number, which never repeats; that of AES-CBC the engine makes of it. DSCP and ECN are copied (RFC 4301 §5.1.2.1,
/// RFC 6040 normal mode), IPv4's DF is copied and set for an inner IPv6 packet.
pub fn encapsulate(
    frame: &mut Frame,
    inner: &L3Info,
    is_ipv6: bool,
    outer: &Outer,
    sequence: u64,
) -> Result<AeadParameters, DropReason> {
    let algorithm = outer.algorithm;
    let next_header = if is_ipv6 { protocol::IPV6 } else { protocol::IPV4 };
    append_trailer(frame, algorithm, inner.total_len, next_header)?;
    // What the engine would not touch must never be sent.
    text_len(algorithm, algorithm.iv_len() + frame.len()).ok_or(DropReason::NoHeadroom)?;
    let iv = sequence.to_be_bytes();
    prepend_esp(frame, algorithm, outer.spi, iv)?;
    let payload_protocol = prepend_udp(frame, &outer.endpoints)?;
    prepend_ip(frame, inner, outer, payload_protocol, sequence)?;
    let iv_at = header_len(&outer.endpoints);
    Ok(AeadParameters::new(algorithm, outer.salt, iv, outer.spi, sequence, outer.esn, iv_at))
}

/// Cuts the frame to the inner packet and appends padding, pad length, next header and room for the ICV.
fn append_trailer(
    frame: &mut Frame,
    algorithm: EspAlgorithm,
    inner_len: usize,
    next_header: u8,
) -> Result<(), DropReason> {
    let pad = (inner_len + TRAILER_LEN).wrapping_neg() & (algorithm.alignment() - 1);
    let room = frame.truncate(inner_len) && frame.push_back(pad + TRAILER_LEN + algorithm.icv_len());
    let tail = frame.packet_mut().get_mut(inner_len..).filter(|_| room).ok_or(DropReason::NoHeadroom)?;
    let octets = (1..=pad as u8).chain([pad as u8, next_header]);
    tail.iter_mut().zip(octets).for_each(|(to, from)| *to = from);
    Ok(())
}

/// SPI, the lower half of the sequence number and, where there is one, the IV: `iv` and zeros.
fn prepend_esp(frame: &mut Frame, algorithm: EspAlgorithm, spi: u32, iv: [u8; 8]) -> Result<(), DropReason> {
    let [s0, s1, s2, s3] = spi.to_be_bytes();
    let [i0, i1, i2, i3, i4, i5, i6, i7] = iv;
    match algorithm.iv_len() {
        8 => prepend(frame, [s0, s1, s2, s3, i4, i5, i6, i7, i0, i1, i2, i3, i4, i5, i6, i7]),
        0 => prepend(frame, [s0, s1, s2, s3, i4, i5, i6, i7]),
        _ => {
            prepend(frame, [i0, i1, i2, i3, i4, i5, i6, i7, 0, 0, 0, 0, 0, 0, 0, 0])?;
            prepend(frame, [s0, s1, s2, s3, i4, i5, i6, i7])
        }
    }
}

fn prepend_udp(frame: &mut Frame, endpoints: &TunnelEndpoints) -> Result<u8, DropReason> {
    let Encapsulation::Udp { local_port, remote_port } = endpoints.encapsulation else {
        return Ok(protocol::ESP);
    };
    let len = frame.len() + UDP_HEADER_LEN;
    // No checksum (RFC 3948 §2.1); over IPv6, which demands one, it follows the sealing.
    let header = Udp { src_port: local_port, dst_port: remote_port, len, checksum: 0 };
    prepend(frame, header.write())?;
    Ok(protocol::UDP)
}

fn prepend_ip(
    frame: &mut Frame,
    inner: &L3Info,
    outer: &Outer,
    protocol: u8,
    sequence: u64,
) -> Result<(), DropReason> {
    let payload_len = frame.len();
    if payload_len + IPV4_HEADER_LEN > usize::from(u16::MAX) {
        return Err(DropReason::TooBig);
    }
    match (outer.endpoints.local, outer.endpoints.remote) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header = Ipv4 {
                header_len: IPV4_HEADER_LEN,
                total_len: IPV4_HEADER_LEN + payload_len,
                tos: inner.tos,
                // Unique among this SA's packets, as far as 16 bits go (RFC 6864 §4.1).
                id: sequence as u16,
                dont_fragment: inner.dont_fragment,
                more_fragments: false,
                fragment_offset: 0,
                ttl: OUTER_TTL,
                protocol,
                src,
                dst,
            };
            prepend(frame, header.write(&[]))
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let header = Ipv6 {
                traffic_class: inner.tos,
                // Lets routers spread SAs over paths without tearing one apart (RFC 6438 §2).
                flow_label: outer.spi & 0xf_ffff,
                payload_len,
                next_header: protocol,
                hop_limit: OUTER_TTL,
                src,
                dst,
            };
            prepend(frame, header.write())
        }
        // Endpoints of two families are no tunnel.
        _ => Err(DropReason::NoSa),
    }
}

fn prepend<const N: usize>(frame: &mut Frame, octets: [u8; N]) -> Result<(), DropReason> {
    if !frame.push_front(N) {
        return Err(DropReason::NoHeadroom);
    }
    *frame.packet_mut().first_chunk_mut().ok_or(DropReason::NoHeadroom)? = octets;
    Ok(())
}

/// Completes a sealed packet whose ESP goes in UDP over IPv6, where the checksum is not optional (RFC 8200 §8.1).
/// Leaves every other packet as it is.
pub fn write_udp_checksum(frame: &mut Frame, endpoints: &TunnelEndpoints) {
    let (IpAddr::V6(_), Encapsulation::Udp { .. }) = (endpoints.local, endpoints.encapsulation) else {
        return;
    };
    let Some(datagram) = frame.packet_mut().get_mut(IPV6_HEADER_LEN..) else { return };
    let sum = Checksum::default()
        .pseudo_header(endpoints.local, endpoints.remote, protocol::UDP, datagram.len() as u32)
        .octets(datagram)
        .finish();
    if let [_, _, _, _, _, _, c0, c1, ..] = datagram {
        // Zero would say "none" (RFC 768).
        [*c0, *c1] = if sum == 0 { u16::MAX } else { sum }.to_be_bytes();
    }
}
