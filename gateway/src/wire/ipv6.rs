//! IPv6 headers, and the walk over extension headers to the upper layer (RFC 8200).

use std::net::Ipv6Addr;

use super::{Fragment, protocol};
use crate::drop::DropReason;

/// Octets of the fixed header.
pub const IPV6_HEADER_LEN: usize = 40;

/// The MTU that every IPv6 link has at least (RFC 8200 §5).
pub const IPV6_MIN_MTU: usize = 1280;

/// More extension headers than any honest packet has; bounds the work that one packet can cause.
const MAX_EXTENSION_HEADERS: usize = 8;

/// The fixed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6 {
    /// DSCP (upper six bits) and ECN (lower two).
    pub traffic_class: u8,
    /// Flow label, 20 bits.
    pub flow_label: u32,
    /// Octets behind the fixed header.
    pub payload_len: usize,
    /// Protocol or extension header that follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// From whom.
    pub src: Ipv6Addr,
    /// To whom.
    pub dst: Ipv6Addr,
}

/// Where the extension headers end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UpperLayer {
    /// Its protocol; in a later fragment, what the fragment header names.
    pub(super) protocol: u8,
    /// Where it starts in the packet, octets.
    pub(super) offset: usize,
    /// Whether the packet is a piece of a larger one.
    pub(super) fragment: Fragment,
}

impl Ipv6 {
    /// Reads the fixed header; the payload must be whole. Jumbograms (RFC 2675) are not taken. Octets behind the
    /// packet, such as Ethernet's padding, are ignored.
    pub fn parse(packet: &[u8]) -> Result<Self, DropReason> {
        let (&[f0, f1, f2, f3, l0, l1, next_header, hop_limit], rest) =
            packet.split_first_chunk().ok_or(DropReason::Malformed)?;
        let (&src, rest) = rest.split_first_chunk::<16>().ok_or(DropReason::Malformed)?;
        let (&dst, payload) = rest.split_first_chunk::<16>().ok_or(DropReason::Malformed)?;
        let first = u32::from_be_bytes([f0, f1, f2, f3]);
        let payload_len = usize::from(u16::from_be_bytes([l0, l1]));
        if first >> 28 != 6 || payload_len > payload.len() {
            return Err(DropReason::Malformed);
        }
        Ok(Self {
            traffic_class: (first >> 20) as u8,
            flow_label: first & 0xf_ffff,
            payload_len,
            next_header,
            hop_limit,
            src: src.into(),
            dst: dst.into(),
        })
    }

    /// Octets of the whole packet.
    pub fn total_len(&self) -> usize {
        IPV6_HEADER_LEN + self.payload_len
    }

    /// The header's octets.
    pub fn write(&self) -> [u8; IPV6_HEADER_LEN] {
        let first = 6 << 28 | u32::from(self.traffic_class) << 20 | (self.flow_label & 0xf_ffff);
        let mut header = [0; IPV6_HEADER_LEN];
        let (fixed, addresses) = header.split_at_mut(8);
        let fields = first.to_be_bytes().into_iter().chain((self.payload_len as u16).to_be_bytes());
        let fields = fields.chain([self.next_header, self.hop_limit]);
        fixed.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        let octets = self.src.octets().into_iter().chain(self.dst.octets());
        addresses.iter_mut().zip(octets).for_each(|(to, from)| *to = from);
        header
    }

    /// Walks over hop-by-hop, routing, fragment and destination-options headers. AH and ESP are upper layers here,
    /// as in RFC 4301 §4.4.1.1.
    pub(super) fn upper_layer(&self, packet: &[u8]) -> Result<UpperLayer, DropReason> {
        let packet = packet.get(..self.total_len()).ok_or(DropReason::Malformed)?;
        let mut upper =
            UpperLayer { protocol: self.next_header, offset: IPV6_HEADER_LEN, fragment: Fragment::Whole };
        for _ in 0..=MAX_EXTENSION_HEADERS {
            let rest = packet.get(upper.offset..).ok_or(DropReason::Malformed)?;
            match upper.protocol {
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                    let &[next, len] = rest.first_chunk().ok_or(DropReason::Malformed)?;
                    let len = (usize::from(len) + 1) * 8;
                    if len > rest.len() {
                        return Err(DropReason::Malformed);
                    }
                    (upper.protocol, upper.offset) = (next, upper.offset + len);
                }
                protocol::FRAGMENT => {
                    let &[next, _, f0, f1, _, _, _, _] = rest.first_chunk().ok_or(DropReason::Malformed)?;
                    let (offset, more) = (u16::from_be_bytes([f0, f1]) & !7, f1 & 1 == 1);
                    (upper.protocol, upper.offset) = (next, upper.offset + 8);
                    if offset != 0 {
                        return Ok(UpperLayer { fragment: Fragment::Later, ..upper });
                    }
                    if more {
                        upper.fragment = Fragment::First;
                    }
                }
                _ => return Ok(upper),
            }
        }
        Err(DropReason::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let header = Ipv6 {
            traffic_class: 0xb9,
            flow_label: 0x12345,
            payload_len: payload.len(),
            next_header,
            hop_limit: 3,
            src: "2001:db8::1".parse().unwrap(),
            dst: "2001:db8:ffff::2".parse().unwrap(),
        };
        [header.write().as_slice(), payload].concat()
    }

    fn walk(packet: &[u8]) -> Result<(u8, usize, Fragment), DropReason> {
        let upper = Ipv6::parse(packet)?.upper_layer(packet)?;
        Ok((upper.protocol, upper.offset, upper.fragment))
    }

    #[test]
    fn a_written_header_is_read_back() {
        let packet = packet(17, &[0; 9]);
        let header = Ipv6::parse(&packet).unwrap();
        assert_eq!((header.traffic_class, header.flow_label, header.hop_limit), (0xb9, 0x12345, 3));
        assert_eq!(header.total_len(), packet.len());
        assert_eq!(header.write(), packet[..40]);
        for len in 0..packet.len() {
            assert_eq!(Ipv6::parse(&packet[..len]), Err(DropReason::Malformed), "{len} octets");
        }
    }

    #[test]
    fn the_walk_ends_at_the_upper_layer() {
        assert_eq!(walk(&packet(17, &[0; 8])), Ok((17, 40, Fragment::Whole)));
        let mut payload = vec![60, 0, 0, 0, 0, 0, 0, 0, 6, 1];
        payload.resize(24 + 20, 0);
        assert_eq!(walk(&packet(0, &payload)), Ok((6, 64, Fragment::Whole)));
        assert_eq!(walk(&packet(51, &[6, 4, 0, 0])), Ok((51, 40, Fragment::Whole)));
    }

    #[test]
    fn fragments_are_told_apart() {
        let fragment = |field: u16| {
            let [high, low] = field.to_be_bytes();
            walk(&packet(44, &[17, 0, high, low, 0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8]))
        };
        assert_eq!(fragment(0), Ok((17, 48, Fragment::Whole)));
        assert_eq!(fragment(1), Ok((17, 48, Fragment::First)));
        assert_eq!(fragment(8), Ok((17, 48, Fragment::Later)));
        assert_eq!(fragment(9), Ok((17, 48, Fragment::Later)));
    }

    #[test]
    fn extension_headers_that_run_over_the_end_or_never_end_are_malformed() {
        assert_eq!(walk(&packet(0, &[17, 1, 0, 0, 0, 0, 0, 0])), Err(DropReason::Malformed));
        assert_eq!(walk(&packet(0, &[17])), Err(DropReason::Malformed));
        assert_eq!(walk(&packet(44, &[17, 0, 0])), Err(DropReason::Malformed));
        let endless = [60, 0, 0, 0, 0, 0, 0, 0].repeat(20);
        assert_eq!(walk(&packet(60, &endless)), Err(DropReason::Malformed));
    }
}
