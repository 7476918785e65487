//! From an outer packet to the SPI and sequence number that lead to its SA, and, once the engine has opened it, to
//! the inner packet.

use std::net::IpAddr;

use portcullis_ipsec::{Encapsulation, EspAlgorithm, Flow, TunnelEndpoints};

use super::{AeadParameters, ESP_HEADER_LEN, NONCE_IV_LEN, TRAILER_LEN, ecn, text_len};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::wire::{self, Fragment, L3Info, UDP_HEADER_LEN, Udp, protocol, set_ecn};

/// What the outer headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EspPacket {
    /// The SPI.
    pub spi: u32,
    /// The sequence number's lower 32 bits.
    pub sequence_low: u32,
    /// From where to where it came, as the receiver sees it: `local` is us.
    pub endpoints: TunnelEndpoints,
    /// What follows the ESP header: IV, or as much of it as reaches the nonce.
    iv: [u8; NONCE_IV_LEN],
    tos: u8,
    esp: usize,
    end: usize,
}

impl EspPacket {
    /// What the engine needs to open the packet, given its whole sequence number. The packet's length must be one
    /// that the algorithm can have.
    pub fn parameters(
        &self,
        algorithm: EspAlgorithm,
        salt: [u8; 4],
        sequence: u64,
        esn: bool,
    ) -> Result<AeadParameters, DropReason> {
        text_len(algorithm, self.end - self.iv_at()).ok_or(DropReason::EspTruncated)?;
        Ok(AeadParameters::new(algorithm, salt, self.iv, self.spi, sequence, esn, self.iv_at()))
    }

    /// Where the ESP packet ends in the frame, octets: what lies behind is padding of lower layers.
    pub fn end(&self) -> usize {
        self.end
    }

    fn iv_at(&self) -> usize {
        self.esp + ESP_HEADER_LEN
    }
}

/// Reads a packet, whose outer IP header [`wire::flow`] has read, that carries ESP: raw, or in UDP to `nat_port`.
/// Anything else is [`DropReason::Unexpected`], such as IKE (whose first four octets are zero) and NAT keepalives
/// (RFC 3948 §2.2, §2.3): the XDP program leaves none of them to the workers. Whether the length is a possible one
/// depends on the SA, and is for [`EspPacket::parameters`] to say.
pub fn parse(packet: &[u8], flow: &Flow, info: &L3Info, nat_port: u16) -> Result<EspPacket, DropReason> {
    if !matches!(flow.protocol, protocol::ESP | protocol::UDP) {
        return Err(DropReason::Unexpected);
    }
    if info.fragment != Fragment::Whole {
        return Err(DropReason::OuterFragment);
    }
    let payload = packet.get(info.header_len..info.total_len).ok_or(DropReason::Malformed)?;
    let (encapsulation, esp, esp_at) = match flow.protocol {
        protocol::UDP => {
            let udp = Udp::parse(payload)?;
            let esp = payload.get(UDP_HEADER_LEN..udp.len).ok_or(DropReason::Malformed)?;
            if udp.dst_port != nat_port || esp.starts_with(&[0; 4]) || esp == [0xff] {
                return Err(DropReason::Unexpected);
            }
            let encapsulation = Encapsulation::Udp { local_port: udp.dst_port, remote_port: udp.src_port };
            (encapsulation, esp, info.header_len + UDP_HEADER_LEN)
        }
        _ => (Encapsulation::None, payload, info.header_len),
    };
    let &[s0, s1, s2, s3, q0, q1, q2, q3] = esp.first_chunk().ok_or(DropReason::EspTruncated)?;
    let &iv = esp.get(ESP_HEADER_LEN..).and_then(<[u8]>::first_chunk).ok_or(DropReason::EspTruncated)?;
    Ok(EspPacket {
        spi: u32::from_be_bytes([s0, s1, s2, s3]),
        sequence_low: u32::from_be_bytes([q0, q1, q2, q3]),
        endpoints: TunnelEndpoints { local: flow.dst, remote: flow.src, encapsulation },
        iv,
        tos: info.tos,
        esp: esp_at,
        end: esp_at + esp.len(),
    })
}

impl EspPacket {
    /// Whether the packet came the way that an SA with these endpoints is used: to the same address of ours, and in
    /// UDP where a NAT makes that necessary. UDP is taken on every SA (RFC 7296 §2.23).
    pub fn fits(&self, endpoints: &TunnelEndpoints) -> bool {
        let raw = self.endpoints.encapsulation == Encapsulation::None;
        let wants_raw = endpoints.encapsulation == Encapsulation::None;
        self.endpoints.local == endpoints.local && (wants_raw || !raw)
    }

    /// Whether the peer's address, or in UDP its port, is another than the SA's. Encapsulation is not compared.
    pub fn moved_from(&self, endpoints: &TunnelEndpoints) -> bool {
        let port = |e: &TunnelEndpoints| match e.encapsulation {
            Encapsulation::Udp { remote_port, .. } => Some(remote_port),
            Encapsulation::None => None,
        };
        let ports_differ = match (port(&self.endpoints), port(endpoints)) {
            (Some(seen), Some(known)) => seen != known,
            _ => false,
        };
        self.endpoints.remote != endpoints.remote || ports_differ
    }
}

/// Takes everything off an opened packet: the frame then holds the inner packet, without TFC padding
/// (RFC 4303 §2.7), and with the congestion that was met on the way (RFC 6040).
pub fn decapsulate(
    frame: &mut Frame,
    outer: &EspPacket,
    algorithm: EspAlgorithm,
) -> Result<(Flow, L3Info), DropReason> {
    let text_at = outer.iv_at() + algorithm.iv_len();
    let text_end = outer.end.saturating_sub(algorithm.icv_len());
    let text = frame.packet().get(text_at..text_end).ok_or(DropReason::EspTruncated)?;
    let (text, &[pad_len, next_header]) =
        text.split_last_chunk::<TRAILER_LEN>().ok_or(DropReason::BadPadding)?;
    let inner_end = text.len().checked_sub(usize::from(pad_len)).ok_or(DropReason::BadPadding)?;
    let (inner, padding) = text.split_at_checked(inner_end).ok_or(DropReason::BadPadding)?;
    if !padding.iter().zip(1..=u8::MAX).all(|(&octet, expected)| octet == expected) {
        return Err(DropReason::BadPadding);
    }
    let is_ipv6 = match next_header {
        protocol::IPV4 => false,
        protocol::IPV6 => true,
        protocol::NO_NEXT_HEADER => return Err(DropReason::Dummy),
        _ => return Err(DropReason::BadNextHeader),
    };
    let (flow, mut info) = wire::flow(inner).map_err(|_| DropReason::InnerMalformed)?;
    if matches!(flow.src, IpAddr::V6(_)) != is_ipv6 {
        return Err(DropReason::InnerMalformed);
    }
    let combined = ecn::combine(info.tos, outer.tos).ok_or(DropReason::EcnNotCapable)?;
    if !(frame.pull_front(text_at) && frame.truncate(info.total_len)) {
        return Err(DropReason::InnerMalformed);
    }
    if combined != info.tos & 3 {
        set_ecn(frame.packet_mut(), combined);
        info.tos = (info.tos & !3) | combined;
    }
    Ok((flow, info))
}
