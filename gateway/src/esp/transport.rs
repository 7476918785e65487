//! ESP in transport mode: between a packet's own IP header and what it carries (RFC 4303 §3.1.1), with a UDP header in front
//! of it where there is a NAT (RFC 3948 §3.1).
//!
//! The IP header moves by as many octets as come in between: what is to be encrypted stays where it is.

use portcullis_ipsec::{Encapsulation, EspAlgorithm, TunnelEndpoints};

use super::template::{Template, put, write_trailer};
use super::{AeadParameters, ESP_HEADER_LEN, EspPacket, MAX_HEADROOM, STREAM_LEN, TRAILER_LEN, decapsulate};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::wire::{
    self, Checksum, ETHERNET_HEADER_LEN, FlowKey, Fragment, IPV6_HEADER_LEN, L3Info, UDP_HEADER_LEN, protocol,
};

/// The largest packet, in octets, that is not larger than `mtu` when it is sealed in transport mode, however long its IP
/// header is; 0 if none is.
pub fn max_transport_len(mtu: usize, endpoints: &TunnelEndpoints, algorithm: EspAlgorithm) -> usize {
    let udp = match endpoints.encapsulation {
        Encapsulation::None => 0,
        Encapsulation::Udp { .. } => UDP_HEADER_LEN,
        Encapsulation::Tcp { .. } => STREAM_LEN,
    };
    // IP headers are multiples of four octets: what a shorter one leaves to align may be lost with a longer one.
    let unaligned = algorithm.alignment() - 4;
    let room =
        mtu.saturating_sub(udp + ESP_HEADER_LEN + algorithm.iv_len() + algorithm.icv_len() + unaligned);
    (room & !3).saturating_sub(TRAILER_LEN)
}

impl Template {
    /// Puts ESP header, trailer and Ethernet header into and around the IP packet that the frame holds. On success the frame
    /// holds the whole frame to send, whose text the engine has yet to seal with what is returned. On failure it is
    /// unchanged. A fragment is no packet that transport mode could protect (RFC 4303 §3.1.1).
    #[cold]
    pub fn insert(
        &self,
        frame: &mut Frame,
        info: &L3Info,
        sequence: u64,
    ) -> Result<AeadParameters, DropReason> {
        if info.fragment() != Fragment::Whole {
            return Err(DropReason::TransportFragment);
        }
        let upper = wire::end_to_end(frame.packet()).ok_or(DropReason::Malformed)?;
        let (start, len) = (frame.start(), frame.len());
        let (link, shim) = self.around_ip();
        let text_len = len.checked_sub(upper.at).ok_or(DropReason::Malformed)?;
        let pad = (text_len + TRAILER_LEN).wrapping_neg() & (self.algorithm.alignment() - 1);
        let behind = pad + TRAILER_LEN + self.algorithm.icv_len();
        let total = len + shim.len() + behind;
        if total > usize::from(u16::MAX) {
            return Err(DropReason::TooBig);
        }
        let ip_at = start.checked_sub(shim.len()).ok_or(DropReason::NoHeadroom)?;
        let link_at = ip_at.checked_sub(link.len()).ok_or(DropReason::NoHeadroom)?;
        if !frame.set_range(link_at, start + len + behind) {
            return Err(DropReason::NoHeadroom);
        }
        let chunk = frame.chunk_mut();
        chunk.copy_within(start..start + upper.at, ip_at);
        put(chunk, link_at, link);
        put(chunk, ip_at + upper.at, shim);
        write_trailer(chunk.get_mut(start + len..).unwrap_or_default(), pad, upper.protocol);
        let esp = start + upper.at - self.algorithm.iv_len() - ESP_HEADER_LEN;
        let iv = sequence.to_be_bytes();
        put(chunk, esp + 4, &(sequence as u32).to_be_bytes());
        if self.algorithm.iv_len() > 0 {
            put(chunk, esp + ESP_HEADER_LEN, &iv);
        }
        let outer = if self.udp { protocol::UDP } else { protocol::ESP };
        if self.udp {
            let udp_len = (UDP_HEADER_LEN + start + len + behind - esp) as u16;
            put(chunk, esp - UDP_HEADER_LEN + 4, &udp_len.to_be_bytes());
        }
        let ip = chunk.get_mut(ip_at..ip_at + upper.at).unwrap_or_default();
        rewrite_header(ip, upper.named_at, outer, total);
        let iv_at = esp + ESP_HEADER_LEN - link_at;
        Ok(AeadParameters::new(self.algorithm, self.salt, iv, self.spi, sequence, self.esn, iv_at))
    }

    /// What it has in front of the outer IP header, and what between that and the text.
    fn around_ip(&self) -> (&[u8], &[u8]) {
        let ip = usize::from(self.ip);
        let ip_len = if self.v6 { IPV6_HEADER_LEN } else { wire::IPV4_HEADER_LEN };
        let link = self.octets.get(ip.saturating_sub(ETHERNET_HEADER_LEN)..ip).unwrap_or_default();
        (link, self.octets.get(ip + ip_len..MAX_HEADROOM).unwrap_or_default())
    }
}

/// Takes ESP out of an opened packet: the frame then holds the packet as it was before. Behind a NAT the checksums of TCP and
/// UDP are made anew, as they were made for other addresses (RFC 3948 §3.1.2): the ICV has said more already.
#[cold]
pub fn extract(
    frame: &mut Frame,
    outer: &EspPacket,
    algorithm: EspAlgorithm,
) -> Result<(FlowKey, L3Info), DropReason> {
    let (text_at, text, next_header) = decapsulate::text(frame, outer, algorithm)?;
    let payload_len = text.len();
    let header_len = outer.header_len();
    let named_at = wire::chain(frame.packet())
        .find(|link| link.at == header_len)
        .map(|link| link.named_at)
        .ok_or(DropReason::Malformed)?;
    let between = text_at.checked_sub(header_len).ok_or(DropReason::Malformed)?;
    frame.packet_mut().copy_within(..header_len, between);
    let total = header_len + payload_len;
    if !(frame.pull_front(between) && frame.truncate(total)) {
        return Err(DropReason::InnerMalformed);
    }
    let packet = frame.packet_mut();
    rewrite_header(packet.get_mut(..header_len).unwrap_or_default(), named_at, next_header, total);
    let (flow, info) = wire::read(packet).map_err(|_| DropReason::InnerMalformed)?;
    if info.fragment() != Fragment::Whole {
        return Err(DropReason::InnerMalformed);
    }
    if outer.is_udp() {
        mend_checksum(packet, &flow, &info);
    }
    Ok((flow, info))
}

/// Says in an IP header with its options or extension headers what follows and how long the packet is.
fn rewrite_header(header: &mut [u8], named_at: usize, next: u8, total: usize) {
    if let Some(name) = header.get_mut(named_at) {
        *name = next;
    }
    match header {
        [0x40..=0x4f, _, l0, l1, ..] => {
            [*l0, *l1] = (total as u16).to_be_bytes();
            if let Some(sum) = header.get_mut(10..12) {
                sum.fill(0);
            }
            let sum = Checksum::default().octets(header).finish();
            put(header, 10, &sum.to_be_bytes());
        }
        [0x60..=0x6f, _, _, _, l0, l1, ..] => {
            [*l0, *l1] = (total.saturating_sub(IPV6_HEADER_LEN) as u16).to_be_bytes();
        }
        _ => {}
    }
}

/// Makes the checksum of a TCP segment or UDP datagram anew.
fn mend_checksum(packet: &mut [u8], flow: &FlowKey, info: &L3Info) {
    const TCP_CHECKSUM: usize = 16;
    const UDP_CHECKSUM: usize = 6;
    let Some(upper) = packet.get_mut(info.header_len()..info.total_len()) else { return };
    let (at, len) = match (flow.protocol(), &*upper) {
        (protocol::TCP, _) => (TCP_CHECKSUM, upper.len()),
        // None stays none, where it may be (RFC 768).
        (protocol::UDP, [_, _, _, _, _, _, 0, 0, ..]) if !flow.is_ipv6() => return,
        // What follows the datagram is traffic-flow padding.
        (protocol::UDP, [_, _, _, _, l0, l1, ..]) => (UDP_CHECKSUM, u16::from_be_bytes([*l0, *l1]).into()),
        _ => return,
    };
    let Some(upper) = upper.get_mut(..len).filter(|upper| upper.len() >= at + 2) else { return };
    put(upper, at, &[0, 0]);
    let sum = Checksum::default()
        .pseudo_header(flow.src(), flow.dst(), flow.protocol(), len as u32)
        .octets(upper)
        .finish();
    let sum = if sum == 0 && at == UDP_CHECKSUM { u16::MAX } else { sum };
    put(upper, at, &sum.to_be_bytes());
}
