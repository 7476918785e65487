//! An IP packet's selectors (RFC 4301 §4.4.1.1) and the few header fields that forwarding needs or changes.

use std::net::IpAddr;

use portcullis_ipsec::Flow;

use super::{Ipv4, Ipv6, protocol, replace_word};
use crate::drop::DropReason;

/// Which piece of a packet this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The first of several: it has the upper layer's header.
    First,
    /// Another one: it has no ports.
    Later,
}

/// What the pipeline needs of an IP header, whatever its version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L3Info {
    /// Octets of the packet by its own header; octets behind are padding.
    pub total_len: usize,
    /// Where the upper layer starts: octets of the IPv4 header with options, or of the IPv6 header with its
    /// extension headers.
    pub header_len: usize,
    /// DSCP (upper six bits) and ECN (lower two).
    pub tos: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4's DF; true for IPv6, which routers never fragment.
    pub dont_fragment: bool,
    /// Which piece.
    pub fragment: Fragment,
}

/// Reads a packet that starts with its IP header. [`Flow::src_port`] and [`Flow::dst_port`] are those of TCP, UDP,
/// UDP-Lite, SCTP and DCCP. For ICMP both hold `type << 8 | code`, and for the mobility header both hold
/// `type << 8`, since selectors name these on either side (RFC 7296 §3.13.1). They are `None` for every other
/// protocol (ESP and AH among them), for fragments but the first, and where the packet ends before them.
pub fn flow(packet: &[u8]) -> Result<(Flow, L3Info), DropReason> {
    match packet.first().map(|first| first >> 4) {
        Some(4) => flow_v4(packet),
        Some(6) => flow_v6(packet),
        _ => Err(DropReason::Malformed),
    }
}

fn flow_v4(packet: &[u8]) -> Result<(Flow, L3Info), DropReason> {
    let header = Ipv4::parse(packet)?;
    let fragment = match (header.fragment_offset, header.more_fragments) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    };
    let info = L3Info {
        total_len: header.total_len,
        header_len: header.header_len,
        tos: header.tos,
        ttl: header.ttl,
        dont_fragment: header.dont_fragment,
        fragment,
    };
    Ok((selectors(packet, header.src.into(), header.dst.into(), header.protocol, &info), info))
}

fn flow_v6(packet: &[u8]) -> Result<(Flow, L3Info), DropReason> {
    let header = Ipv6::parse(packet)?;
    let upper = header.upper_layer(packet)?;
    let info = L3Info {
        total_len: header.total_len(),
        header_len: upper.offset,
        tos: header.traffic_class,
        ttl: header.hop_limit,
        dont_fragment: true,
        fragment: upper.fragment,
    };
    Ok((selectors(packet, header.src.into(), header.dst.into(), upper.protocol, &info), info))
}

fn selectors(packet: &[u8], src: IpAddr, dst: IpAddr, protocol: u8, info: &L3Info) -> Flow {
    let upper = match info.fragment {
        Fragment::Later => &[],
        _ => packet.get(info.header_len..info.total_len).unwrap_or_default(),
    };
    let (src_port, dst_port) = match (protocol, upper) {
        (
            protocol::TCP | protocol::UDP | protocol::SCTP | protocol::DCCP | protocol::UDP_LITE,
            &[s0, s1, d0, d1, ..],
        ) => (Some(u16::from_be_bytes([s0, s1])), Some(u16::from_be_bytes([d0, d1]))),
        (protocol::ICMP | protocol::ICMPV6, &[kind, code, ..]) => {
            let both = Some(u16::from_be_bytes([kind, code]));
            (both, both)
        }
        (protocol::MOBILITY, &[_, _, kind, ..]) => {
            let both = Some(u16::from_be_bytes([kind, 0]));
            (both, both)
        }
        _ => (None, None),
    };
    Flow { src, dst, protocol, src_port, dst_port }
}

/// Counts a packet's TTL or hop limit down by one, as every router does, and keeps IPv4's checksum right. The
/// packet was parsed, and its TTL is not 0.
pub fn decrement_ttl(packet: &mut [u8]) {
    match packet {
        [0x40..=0x4f, _, _, _, _, _, _, _, ttl, protocol, c0, c1, ..] => {
            let old = u16::from_be_bytes([*ttl, *protocol]);
            *ttl = ttl.saturating_sub(1);
            let new = u16::from_be_bytes([*ttl, *protocol]);
            [*c0, *c1] = replace_word(u16::from_be_bytes([*c0, *c1]), old, new).to_be_bytes();
        }
        [0x60..=0x6f, _, _, _, _, _, _, hop_limit, ..] => *hop_limit = hop_limit.saturating_sub(1),
        _ => {}
    }
}

/// Sets a packet's ECN field (two bits), and keeps IPv4's checksum right. The packet was parsed.
pub fn set_ecn(packet: &mut [u8], ecn: u8) {
    match packet {
        [first @ 0x40..=0x4f, tos, _, _, _, _, _, _, _, _, c0, c1, ..] => {
            let old = u16::from_be_bytes([*first, *tos]);
            *tos = (*tos & !3) | (ecn & 3);
            let new = u16::from_be_bytes([*first, *tos]);
            [*c0, *c1] = replace_word(u16::from_be_bytes([*c0, *c1]), old, new).to_be_bytes();
        }
        // The traffic class straddles the first two octets; ECN is bits 5 and 4 of the second.
        [0x60..=0x6f, second, ..] => *second = (*second & !0x30) | ((ecn & 3) << 4),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v4(protocol: u8, fragment_offset: usize, more_fragments: bool, payload: &[u8]) -> Vec<u8> {
        let header = Ipv4 {
            header_len: 20,
            total_len: 20 + payload.len(),
            tos: 0x2e,
            id: 7,
            dont_fragment: false,
            more_fragments,
            fragment_offset,
            ttl: 9,
            protocol,
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
        };
        [header.write(&[]).as_slice(), payload].concat()
    }

    fn v6(next_header: u8, payload: &[u8]) -> Vec<u8> {
        let header = Ipv6 {
            traffic_class: 0x2e,
            flow_label: 0,
            payload_len: payload.len(),
            next_header,
            hop_limit: 9,
            src: "2001:db8::1".parse().unwrap(),
            dst: "2001:db8::2".parse().unwrap(),
        };
        [header.write().as_slice(), payload].concat()
    }

    fn ports(packet: &[u8]) -> (Option<u16>, Option<u16>) {
        let (flow, _) = flow(packet).unwrap();
        (flow.src_port, flow.dst_port)
    }

    #[test]
    fn ports_are_seen_where_the_protocol_has_them() {
        let payload = [0x01, 0x02, 0x03, 0x04, 9, 9];
        for protocol in [6, 17, 33, 132, 136] {
            assert_eq!(ports(&v4(protocol, 0, false, &payload)), (Some(0x0102), Some(0x0304)));
            assert_eq!(ports(&v6(protocol, &payload)), (Some(0x0102), Some(0x0304)));
        }
        for protocol in [47, 50, 51, 4, 41] {
            assert_eq!(ports(&v4(protocol, 0, false, &payload)), (None, None));
        }
        assert_eq!(ports(&v4(1, 0, false, &[8, 0, 0, 0])), (Some(0x0800), Some(0x0800)));
        assert_eq!(ports(&v6(58, &[129, 2, 0, 0])), (Some(0x8102), Some(0x8102)));
        assert_eq!(ports(&v6(135, &[59, 1, 5, 0])), (Some(0x0500), Some(0x0500)));
    }

    #[test]
    fn ports_of_later_fragments_and_cut_off_headers_are_unknown() {
        let payload = [0, 1, 0, 2, 0, 0, 0, 0];
        assert_eq!(ports(&v4(17, 0, true, &payload)), (Some(1), Some(2)));
        assert_eq!(ports(&v4(17, 8, true, &payload)), (None, None));
        assert_eq!(ports(&v4(17, 8, false, &payload)), (None, None));
        assert_eq!(ports(&v4(17, 0, false, &[0, 1, 0])), (None, None));
        assert_eq!(ports(&v6(44, &[17, 0, 0, 9, 0, 0, 0, 0, 0, 1, 0, 2])), (None, None));
        assert_eq!(ports(&v6(44, &[17, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 2])), (Some(1), Some(2)));
    }

    #[test]
    fn octets_behind_the_packet_are_not_its_ports() {
        let mut packet = v4(17, 0, false, &[0, 1]);
        packet.extend([0, 2, 0, 0]);
        assert_eq!(ports(&packet), (None, None));
        assert_eq!(flow(&packet).unwrap().1.total_len, 22);
    }

    #[test]
    fn ttl_and_ecn_change_without_breaking_the_checksum() {
        for mut packet in [v4(17, 0, false, &[0; 8]), v6(17, &[0; 8])] {
            for ecn in [0, 1, 2, 3] {
                set_ecn(&mut packet, ecn);
                let (_, info) = flow(&packet).unwrap();
                assert_eq!(info.tos, 0x2c | ecn);
            }
            decrement_ttl(&mut packet);
            assert_eq!(flow(&packet).unwrap().1.ttl, 8);
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_read_or_refused(octets in prop::collection::vec(any::<u8>(), 0..200), version in 0u8..2) {
            let mut octets = octets;
            if let Some(first) = octets.first_mut() {
                *first = if version == 0 { 0x45 } else { 0x60 };
            }
            if let Ok((_, info)) = flow(&octets) {
                prop_assert!(info.header_len <= info.total_len && info.total_len <= octets.len());
            }
        }
    }
}
