//! From an outer packet to the SPI and sequence number that lead to its SA, and, once the engine has opened it, to
//! the inner packet.

use portcullis_ipsec::{Encapsulation, EspAlgorithm, TunnelEndpoints};

use super::{AeadParameters, ESP_HEADER_LEN, NONCE_IV_LEN, TRAILER_LEN, ecn, text_len};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::wire::{self, FlowKey, Fragment, L3Info, UDP_HEADER_LEN, Udp, protocol, set_ecn};

/// What the outer headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EspPacket {
    /// The SPI.
    pub spi: u32,
    /// The outer addresses, and the ports if it came in UDP.
    pub flow: FlowKey,
    tos: u8,
    pub(super) esp: u16,
    own: Own,
}

/// What in the headers is a packet's own, even in a train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Own {
    /// The sequence number's lower 32 bits.
    pub(crate) sequence_low: u32,
    /// What follows the ESP header: IV, or as much of it as reaches the nonce.
    pub(super) iv: [u8; NONCE_IV_LEN],
    /// Where the ESP packet ends in the frame, octets: what lies behind is padding of lower layers.
    pub(crate) end: u16,
}

impl EspPacket {
    /// What the engine needs to open the packet, given its whole sequence number. The packet's length must be one
    /// that [`EspPacket::suits`] the algorithm.
    #[inline(always)]
    pub fn parameters(
        &self,
        algorithm: EspAlgorithm,
        salt: [u8; 4],
        sequence: u64,
        esn: bool,
    ) -> AeadParameters {
        AeadParameters::new(algorithm, salt, self.own.iv, self.spi, sequence, esn, self.iv_at())
    }

    /// The sequence number's lower 32 bits.
    pub fn sequence_low(&self) -> u32 {
        self.own.sequence_low
    }

    /// Whether the packet's length is one that the algorithm can have.
    #[inline(always)]
    pub fn suits(&self, algorithm: EspAlgorithm) -> bool {
        text_len(algorithm, self.payload()).is_some()
    }

    /// What is the own of the packet in that frame, which is one of so many of a train that this one begins. Packets of a
    /// train with several came without UDP, and end where their frames' packets do.
    #[inline(always)]
    pub(crate) fn own_of(&self, frame: &Frame, packets: usize) -> Own {
        let packet = frame.packet();
        let esp = packet.get(self.esp.into()..).unwrap_or_default();
        match esp.first_chunk::<{ ESP_HEADER_LEN + NONCE_IV_LEN }>().map(|esp| esp.as_chunks::<8>().0) {
            Some(&[header, iv]) if packets > 1 => {
                Own { sequence_low: u64::from_be_bytes(header) as u32, iv, end: packet.len() as u16 }
            }
            _ => self.own,
        }
    }

    /// The whole of it.
    pub(crate) fn with(&self, own: Own) -> Self {
        Self { own, ..*self }
    }

    /// The least octets of the packets in its train, if it can be one of several.
    #[inline(always)]
    pub(crate) fn least_of_train(&self) -> Option<usize> {
        let least = usize::from(self.esp) + ESP_HEADER_LEN + NONCE_IV_LEN;
        (self.flow.protocol() == protocol::ESP).then_some(least)
    }

    /// Where the ESP packet ends in the frame, octets: what lies behind is padding of lower layers.
    #[inline(always)]
    pub fn end(&self) -> usize {
        self.own.end.into()
    }

    /// Octets behind the ESP header: IV, text and ICV.
    #[inline(always)]
    pub(crate) fn payload(&self) -> usize {
        self.end().saturating_sub(self.iv_at())
    }

    /// The flow of what has been opened, if it is what nearly every packet is: see [`wire::read_plain`].
    #[inline]
    pub(crate) fn peek(&self, frame: &Frame, algorithm: EspAlgorithm) -> Option<FlowKey> {
        let inner = frame.packet().get(self.iv_at() + algorithm.iv_len()..)?;
        wire::read_plain(inner).map(|(flow, _)| flow)
    }

    /// Whether it came in UDP.
    #[inline(always)]
    pub fn is_udp(&self) -> bool {
        self.flow.protocol() == protocol::UDP
    }

    /// From where to where it came, as the receiver sees it: `local` is us.
    pub fn endpoints(&self) -> TunnelEndpoints {
        let encapsulation = match (self.flow.protocol(), self.flow.src_port(), self.flow.dst_port()) {
            (protocol::UDP, Some(remote_port), Some(local_port)) => {
                Encapsulation::Udp { local_port, remote_port }
            }
            (protocol::TCP, Some(remote_port), Some(local_port)) => {
                Encapsulation::Tcp { local_port, remote_port }
            }
            _ => Encapsulation::None,
        };
        TunnelEndpoints { local: self.flow.dst(), remote: self.flow.src(), encapsulation }
    }

    /// Octets of IP header, extension headers included.
    pub(super) fn header_len(&self) -> usize {
        usize::from(self.esp) - if self.flow.protocol() == protocol::ESP { 0 } else { UDP_HEADER_LEN }
    }

    /// Octets of the packet in it, once it is opened, as SAs count them: in transport mode with the IP header. `None` for a
    /// dummy packet, and for what cannot be unpacked.
    pub(crate) fn inner_len(&self, frame: &Frame, algorithm: EspAlgorithm, transport: bool) -> Option<usize> {
        let (_, inner, _) = text(frame, self, algorithm).ok()?;
        if transport {
            return Some(self.header_len() + inner.len());
        }
        wire::read(inner).ok().map(|(_, info)| info.total_len())
    }

    /// The outer header's DSCP (upper six bits) and ECN (lower two).
    pub fn tos(&self) -> u8 {
        self.tos
    }

    #[inline(always)]
    fn iv_at(&self) -> usize {
        usize::from(self.esp) + ESP_HEADER_LEN
    }
}

/// Reads a packet, whose outer IP header [`wire::read`] has read, that carries ESP: raw, or in UDP to `nat_port`.
/// Anything else is [`DropReason::Unexpected`], such as IKE (whose first four octets are zero) and NAT keepalives
/// (RFC 3948 §2.2, §2.3): the XDP program leaves none of them to the workers. Whether the length is a possible one
/// depends on the SA, and is for [`EspPacket::suits`] to say.
#[inline(always)]
pub fn parse(packet: &[u8], flow: &FlowKey, info: &L3Info, nat_port: u16) -> Result<EspPacket, DropReason> {
    let is_udp = match flow.protocol() {
        protocol::ESP => false,
        protocol::UDP => true,
        _ => return Err(DropReason::Unexpected),
    };
    if info.fragment() != Fragment::Whole {
        return Err(DropReason::OuterFragment);
    }
    let payload = packet.get(info.header_len()..info.total_len()).ok_or(DropReason::Malformed)?;
    let (esp, esp_at) = if is_udp {
        let udp = Udp::parse(payload)?;
        let esp = payload.get(UDP_HEADER_LEN..udp.len).ok_or(DropReason::Malformed)?;
        if udp.dst_port != nat_port || esp.starts_with(&[0; 4]) || esp == [0xff] {
            return Err(DropReason::Unexpected);
        }
        (esp, info.header_len() + UDP_HEADER_LEN)
    } else {
        (payload, info.header_len())
    };
    read(esp, esp_at, flow, info)
}

/// The same of what [`crate::inlet`] has put together, and no network: ESP that came in a TCP stream as well. In front of that
/// is a header like UDP's.
pub fn parse_from_socket(
    packet: &[u8],
    flow: &FlowKey,
    info: &L3Info,
    nat_port: u16,
) -> Result<EspPacket, DropReason> {
    if flow.protocol() != protocol::TCP {
        return parse(packet, flow, info, nat_port);
    }
    let esp_at = info.header_len() + UDP_HEADER_LEN;
    let esp = packet.get(esp_at..info.total_len()).ok_or(DropReason::Malformed)?;
    read(esp, esp_at, flow, info)
}

/// Reads an ESP packet that starts `esp_at` octets into the whole one.
#[inline(always)]
fn read(esp: &[u8], esp_at: usize, flow: &FlowKey, info: &L3Info) -> Result<EspPacket, DropReason> {
    let (header, _) =
        esp.first_chunk::<{ ESP_HEADER_LEN + NONCE_IV_LEN }>().ok_or(DropReason::EspTruncated)?.as_chunks();
    let &[header, iv] = header else { return Err(DropReason::EspTruncated) };
    let header = u64::from_be_bytes(header);
    // An IPv6 packet may be a little longer than 16 bits can count, and is more than any frame holds.
    let in_frame = |at: usize| u16::try_from(at).map_err(|_| DropReason::TooBig);
    Ok(EspPacket {
        spi: (header >> 32) as u32,
        flow: *flow,
        tos: info.tos(),
        esp: in_frame(esp_at)?,
        own: Own { sequence_low: header as u32, iv, end: in_frame(esp_at + esp.len())? },
    })
}

impl EspPacket {
    /// Whether the peer's address, or in UDP its port, is another than the SA's, or the TCP stream is. Encapsulation is not
    /// compared.
    pub fn moved_from(&self, endpoints: &TunnelEndpoints) -> bool {
        let seen = self.endpoints();
        let ports_differ = match (seen.encapsulation, endpoints.encapsulation) {
            (Encapsulation::Udp { remote_port: seen, .. }, Encapsulation::Udp { remote_port: known, .. })
            | (Encapsulation::Tcp { remote_port: seen, .. }, Encapsulation::Tcp { remote_port: known, .. }) => {
                seen != known
            }
            _ => false,
        };
        seen.remote != endpoints.remote || ports_differ
    }
}

/// Takes everything off an opened packet: the frame then holds the inner packet, without TFC padding
/// (RFC 4303 §2.7), and with the congestion that was met on the way (RFC 6040). On failure the frame is as it was.
pub fn decapsulate(
    frame: &mut Frame,
    outer: &EspPacket,
    algorithm: EspAlgorithm,
) -> Result<(FlowKey, L3Info), DropReason> {
    unwrap(frame, outer, algorithm, wire::read)
}

/// The same for what nearly every packet is: see [`wire::read_plain`]. `None`, and nothing changed, for any other, and for
/// whatever has something wrong with it.
#[inline(always)]
pub(crate) fn decapsulate_plain(
    frame: &mut Frame,
    outer: &EspPacket,
    algorithm: EspAlgorithm,
) -> Option<(FlowKey, L3Info)> {
    unwrap(frame, outer, algorithm, |inner| wire::read_plain(inner).ok_or(DropReason::InnerMalformed)).ok()
}

#[inline(always)]
fn unwrap(
    frame: &mut Frame,
    outer: &EspPacket,
    algorithm: EspAlgorithm,
    read: impl Fn(&[u8]) -> Result<(FlowKey, L3Info), DropReason>,
) -> Result<(FlowKey, L3Info), DropReason> {
    let (text_at, inner, next_header) = text(frame, outer, algorithm)?;
    let is_ipv6 = match next_header {
        protocol::IPV4 => false,
        protocol::IPV6 => true,
        _ => return Err(DropReason::BadNextHeader),
    };
    let (flow, mut info) = read(inner).map_err(|_| DropReason::InnerMalformed)?;
    if flow.is_ipv6() != is_ipv6 {
        return Err(DropReason::InnerMalformed);
    }
    let combined = ecn::combine(info.tos(), outer.tos).ok_or(DropReason::EcnNotCapable)?;
    if !frame.narrow(text_at, info.total_len()) {
        return Err(DropReason::InnerMalformed);
    }
    if combined != info.tos() & 3 {
        set_ecn(frame.packet_mut(), combined);
        info = info.with_ecn(combined);
    }
    Ok((flow, info))
}

/// What an opened packet carries: where it starts in the frame's packet, its octets without padding, and what they are. The
/// padding is what RFC 4303 §2.4 says; a dummy packet (§2.6) ends here.
#[inline(always)]
pub(super) fn text<'f>(
    frame: &'f Frame,
    outer: &EspPacket,
    algorithm: EspAlgorithm,
) -> Result<(usize, &'f [u8], u8), DropReason> {
    let text_at = outer.iv_at() + algorithm.iv_len();
    let text_end = outer.end().saturating_sub(algorithm.icv_len());
    let text = frame.packet().get(text_at..text_end).ok_or(DropReason::EspTruncated)?;
    let &[.., pad_len, next_header] = text else { return Err(DropReason::BadPadding) };
    let inner_end =
        text.len().checked_sub(TRAILER_LEN + usize::from(pad_len)).ok_or(DropReason::BadPadding)?;
    let inner = text.get(..inner_end).ok_or(DropReason::BadPadding)?;
    if !is_padded(text, pad_len) {
        return Err(DropReason::BadPadding);
    }
    if next_header == protocol::NO_NEXT_HEADER {
        return Err(DropReason::Dummy);
    }
    Ok((text_at, inner, next_header))
}

/// Whether a text, whose trailer says that it has so many octets of padding, has padding 1, 2, 3, … (RFC 4303 §2.4).
#[inline(always)]
fn is_padded(text: &[u8], pad_len: u8) -> bool {
    // Of most algorithms, in one go: the last octets of a text with padding of no, one, two, three octets.
    const SHORT: [u64; 4] = [0, 0x01, 0x01_02, 0x01_02_03];
    if let (Some(&short), Some(&last)) = (SHORT.get(usize::from(pad_len)), text.last_chunk()) {
        let differences = u64::from_be_bytes(last) >> (8 * TRAILER_LEN) ^ short;
        return differences & !(u64::MAX << (8 * pad_len)) == 0;
    }
    is_padded_at_length(text, pad_len)
}

#[cold]
fn is_padded_at_length(text: &[u8], pad_len: u8) -> bool {
    let padding = text.iter().rev().skip(TRAILER_LEN).zip((1..=pad_len).rev());
    padding.fold(true, |right, (&octet, expected)| right & (octet == expected))
}
