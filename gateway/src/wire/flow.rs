//! An IP packet's selectors (RFC 4301 §4.4.1.1) and the few header fields that forwarding needs or changes.

use std::fmt;

use portcullis_ipsec::Flow;

use super::key::Ports;
use super::{FlowKey, IPV4_HEADER_LEN, Ipv4, Ipv6, protocol, replace_word};
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

/// What the pipeline needs of an IP header, whatever its version: one word, since every packet carries it through all
/// phases.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct L3Info(u64);

impl L3Info {
    const HEADER_LEN: u32 = 24;
    const TOS: u32 = 40;
    const TTL: u32 = 48;
    const FRAGMENT: u32 = 56;
    const DONT_FRAGMENT: u64 = 1 << 60;

    /// Of these parts; see the functions of the same names.
    #[inline(always)]
    pub fn new(
        total_len: usize,
        header_len: usize,
        tos: u8,
        ttl: u8,
        dont_fragment: bool,
        fragment: Fragment,
    ) -> Self {
        let lens = total_len as u64 & 0xff_ffff | (header_len as u64 & 0xffff) << Self::HEADER_LEN;
        let octets = u64::from(tos) << Self::TOS | u64::from(ttl) << Self::TTL;
        let flags = (fragment as u64) << Self::FRAGMENT | u64::from(dont_fragment) << 60;
        Self(lens | octets | flags)
    }

    /// Of a whole packet's IPv4 header without options, by its first two words of 64 bits.
    #[inline(always)]
    fn plain(first: u64, second: u64) -> Self {
        const TOTAL_LEN: u64 = 0xffff;
        let header_len = (IPV4_HEADER_LEN as u64) << Self::HEADER_LEN;
        // The TOS is eight bits above where it is to be, the TTL likewise; DF is bit 14.
        let octets = first >> 8 & 0xff << Self::TOS | second >> 8 & 0xff << Self::TTL;
        Self(first >> 32 & TOTAL_LEN | header_len | octets | first << 46 & Self::DONT_FRAGMENT)
    }

    /// Octets of the packet by its own header; octets behind are padding.
    #[inline(always)]
    pub fn total_len(self) -> usize {
        (self.0 & 0xff_ffff) as usize
    }

    /// Where the upper layer starts: octets of the IPv4 header with options, or of the IPv6 header with its
    /// extension headers.
    #[inline(always)]
    pub fn header_len(self) -> usize {
        usize::from((self.0 >> Self::HEADER_LEN) as u16)
    }

    /// DSCP (upper six bits) and ECN (lower two).
    #[inline(always)]
    pub fn tos(self) -> u8 {
        (self.0 >> Self::TOS) as u8
    }

    /// TTL or hop limit.
    #[inline(always)]
    pub fn ttl(self) -> u8 {
        (self.0 >> Self::TTL) as u8
    }

    /// IPv4's DF; true for IPv6, which routers never fragment.
    #[inline(always)]
    pub fn dont_fragment(self) -> bool {
        self.0 & Self::DONT_FRAGMENT != 0
    }

    /// Which piece.
    #[inline(always)]
    pub fn fragment(self) -> Fragment {
        match self.0 >> Self::FRAGMENT & 3 {
            0 => Fragment::Whole,
            1 => Fragment::First,
            _ => Fragment::Later,
        }
    }

    /// The same with another total length.
    #[inline(always)]
    pub fn with_total_len(self, total_len: usize) -> Self {
        Self(self.0 & !0xff_ffff | total_len as u64 & 0xff_ffff)
    }

    /// The same with another ECN field (two bits).
    #[inline(always)]
    pub fn with_ecn(self, ecn: u8) -> Self {
        Self(self.0 & !(3 << Self::TOS) | u64::from(ecn & 3) << Self::TOS)
    }
}

impl L3Info {
    /// The same with another DSCP (the upper six bits of `tos`).
    pub fn with_dscp(self, tos: u8) -> Self {
        Self(self.0 & !(0xfc << Self::TOS) | u64::from(tos & 0xfc) << Self::TOS)
    }
}

impl fmt::Debug for L3Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("L3Info")
            .field("total_len", &self.total_len())
            .field("header_len", &self.header_len())
            .field("tos", &self.tos())
            .field("ttl", &self.ttl())
            .field("dont_fragment", &self.dont_fragment())
            .field("fragment", &self.fragment())
            .finish()
    }
}

/// Reads a packet that starts with its IP header. [`FlowKey::src_port`] and [`FlowKey::dst_port`] are those of TCP, UDP,
/// UDP-Lite, SCTP and DCCP. For ICMP both hold `type << 8 | code`, and for the mobility header both hold
/// `type << 8`, since selectors name these on either side (RFC 7296 §3.13.1). They are `None` for every other
/// protocol (ESP and AH among them), for fragments but the first, and where the packet ends before them.
#[inline]
pub fn read(packet: &[u8]) -> Result<(FlowKey, L3Info), DropReason> {
    match read_plain(packet) {
        Some(read) => Ok(read),
        None => read_any(packet),
    }
}

/// The same with the selectors as a [`Flow`].
pub fn flow(packet: &[u8]) -> Result<(Flow, L3Info), DropReason> {
    read(packet).map(|(key, info)| (key.flow(), info))
}

/// What [`read`] says of what nearly every packet is: whole, IPv4 without options, with four octets behind its header, of TCP, UDP or
/// ESP. Read in three words; of anything else, and of whatever is wrong,
/// [`read_any`] finds out what it is.
#[inline(always)]
pub fn read_plain(packet: &[u8]) -> Option<(FlowKey, L3Info)> {
    const LEN: usize = IPV4_HEADER_LEN + 4;
    /// MF and the offset.
    const FRAGMENT: u64 = 0x3fff;
    let (octets, _) = packet.first_chunk::<LEN>()?.as_chunks::<8>();
    let &[w0, w1, w2] = octets else { return None };
    let [w0, w1, w2] = [w0, w1, w2].map(u64::from_be_bytes);
    // Version, header length, TOS, total length; identification, flags and offset.
    let total_len = (w0 >> 32) as usize & 0xffff;
    // TTL, protocol, checksum; source. Destination, then ports.
    let (protocol, src, dst) = ((w1 >> 48) as u8, w1 as u32, (w2 >> 32) as u32);
    let halves = (w0 >> 32) + (w0 & 0xffff_ffff) + (w1 >> 32) + (w1 & 0xffff_ffff) + (w2 >> 32);
    let sum = (halves >> 16) + (halves & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let plain =
        w0 >> 56 == 0x45 && w0 & FRAGMENT == 0 && (LEN..=packet.len()).contains(&total_len) && sum == 0xffff;
    let ports = match protocol {
        protocol::TCP | protocol::UDP => Ports::of(w2 as u32),
        protocol::ESP => Ports::UNSEEN,
        _ => return None,
    };
    if !plain {
        return None;
    }
    Some((FlowKey::v4(src, dst, protocol, ports), L3Info::plain(w0, w1)))
}

/// What [`read`] says of any packet, one field after another.
#[inline(never)]
pub fn read_any(packet: &[u8]) -> Result<(FlowKey, L3Info), DropReason> {
    match packet.first() {
        Some(0x45..=0x4f) => read_v4(packet),
        Some(0x60..=0x6f) => read_v6(packet),
        _ => Err(DropReason::Malformed),
    }
}

fn read_v4(packet: &[u8]) -> Result<(FlowKey, L3Info), DropReason> {
    let header = Ipv4::parse(packet)?;
    let fragment = match (header.fragment_offset, header.more_fragments) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    };
    let Ipv4 { total_len, header_len, tos, ttl, dont_fragment, .. } = header;
    let info = L3Info::new(total_len, header_len, tos, ttl, dont_fragment, fragment);
    let upper = packet.get(info.header_len()..info.total_len()).unwrap_or_default();
    let ports = ports(header.protocol, fragment, upper);
    Ok((FlowKey::v4(header.src.to_bits(), header.dst.to_bits(), header.protocol, ports), info))
}

fn read_v6(packet: &[u8]) -> Result<(FlowKey, L3Info), DropReason> {
    let header = Ipv6::parse(packet)?;
    let upper = header.upper_layer(packet)?;
    let (tos, ttl) = (header.traffic_class, header.hop_limit);
    let info = L3Info::new(header.total_len(), upper.offset, tos, ttl, true, upper.fragment);
    let octets = packet.get(info.header_len()..info.total_len()).unwrap_or_default();
    let ports = ports(upper.protocol, upper.fragment, octets);
    Ok((FlowKey::v6(header.src.to_bits(), header.dst.to_bits(), upper.protocol, ports), info))
}

fn ports(protocol: u8, fragment: Fragment, upper: &[u8]) -> Ports {
    match (protocol, upper) {
        _ if fragment == Fragment::Later => Ports::UNSEEN,
        (
            protocol::TCP | protocol::UDP | protocol::SCTP | protocol::DCCP | protocol::UDP_LITE,
            &[s0, s1, d0, d1, ..],
        ) => Ports::new([s0, s1, d0, d1]),
        (protocol::ICMP | protocol::ICMPV6, &[kind, code, ..]) => Ports::both([kind, code]),
        (protocol::MOBILITY, &[_, _, kind, ..]) => Ports::both([kind, 0]),
        _ => Ports::UNSEEN,
    }
}

/// The selectors of the packet that an ICMP error is about, as far as it quotes that packet (RFC 4301 §6.2). `None` for whatever
/// is no ICMP error, or quotes too little. `packet` was read as `flow` and `info`.
#[cold]
pub fn quoted(packet: &[u8], flow: &FlowKey, info: &L3Info) -> Option<FlowKey> {
    const ICMP_HEADER_LEN: usize = 8;
    // Redirects are no errors, and no router sends one further (RFC 1812 §5.2.7.2).
    let is_error = |kind| match flow.protocol() {
        protocol::ICMP => matches!(kind, 3 | 4 | 11 | 12),
        protocol::ICMPV6 => kind < 128,
        _ => false,
    };
    let (kind, _) = flow.src_port()?.to_be_bytes().into();
    let quote = packet.get(info.header_len() + ICMP_HEADER_LEN..info.total_len())?;
    match is_error(kind) {
        true if flow.is_ipv6() => quoted_v6(quote),
        true => quoted_v4(quote),
        false => None,
    }
}

// The lengths in a quotation are those of the packet as it was.
fn quoted_v4(quote: &[u8]) -> Option<FlowKey> {
    let &[first, _, _, _, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] =
        quote.first_chunk()?;
    let upper = quote.get(usize::from(first & 0xf) * 4..)?;
    let later = u16::from_be_bytes([f0, f1]) & 0x1fff != 0;
    let ports = ports(protocol, if later { Fragment::Later } else { Fragment::First }, upper);
    let [src, dst] = [[s0, s1, s2, s3], [d0, d1, d2, d3]].map(u32::from_be_bytes);
    matches!(first, 0x45..=0x4f).then(|| FlowKey::v4(src, dst, protocol, ports))
}

fn quoted_v6(quote: &[u8]) -> Option<FlowKey> {
    let (&[first, _, _, _, _, _, next_header, _], rest) = quote.split_first_chunk()?;
    let (&src, rest) = rest.split_first_chunk::<16>()?;
    let (&dst, payload) = rest.split_first_chunk::<16>()?;
    let (traffic_class, flow_label, hop_limit) = (0, 0, 0);
    let (payload_len, src, dst) = (payload.len(), src.into(), dst.into());
    let header = Ipv6 { traffic_class, flow_label, payload_len, next_header, hop_limit, src, dst };
    let upper = header.upper_layer(quote).ok().filter(|_| first >> 4 == 6)?;
    let ports = ports(upper.protocol, upper.fragment, quote.get(upper.offset..).unwrap_or_default());
    Some(FlowKey::v6(src.to_bits(), dst.to_bits(), upper.protocol, ports))
}

/// Counts a packet's TTL or hop limit down by one, as every router does, and keeps IPv4's checksum right. The
/// packet was parsed, and its TTL is not 0.
#[inline(always)]
pub fn decrement_ttl(packet: &mut [u8]) {
    match packet.first_chunk_mut() {
        Some(header @ [0x40..=0x4f, _, _, _, _, _, _, _, 1..=u8::MAX, _, _, _]) => decrement_ttl_v4(header),
        Some([0x60..=0x6f, _, _, _, _, _, _, hop_limit, _, _, _, _]) => {
            *hop_limit = hop_limit.saturating_sub(1);
        }
        _ => {}
    }
}

/// The same of an IPv4 header that is known to have a TTL.
#[inline(always)]
pub(crate) fn decrement_ttl_v4(header: &mut [u8; 12]) {
    let [_, _, _, _, _, _, _, _, ttl, _, c0, c1] = header;
    *ttl = ttl.wrapping_sub(1);
    // RFC 1141: as much more as the header's sum is less, with the carry brought round.
    let sum = u32::from(u16::from_be_bytes([*c0, *c1])) + 0x0100;
    [*c0, *c1] = ((sum + u32::from(sum >= 0xffff)) as u16).to_be_bytes();
}

/// Sets a packet's ECN field (two bits), and keeps IPv4's checksum right. The packet was parsed.
pub fn set_ecn(packet: &mut [u8], ecn: u8) {
    let old = match *packet {
        [0x40..=0x4f, tos, ..] => tos,
        // The traffic class straddles the first two octets.
        [first @ 0x60..=0x6f, second, ..] => first << 4 | second >> 4,
        _ => return,
    };
    set_tos(packet, old & !3 | ecn & 3);
}

/// Sets a packet's DSCP and ECN field, and keeps IPv4's checksum right. The packet was parsed.
pub fn set_tos(packet: &mut [u8], new: u8) {
    match packet {
        [first @ 0x40..=0x4f, tos, _, _, _, _, _, _, _, _, c0, c1, ..] => {
            let old = u16::from_be_bytes([*first, *tos]);
            *tos = new;
            let new = u16::from_be_bytes([*first, *tos]);
            [*c0, *c1] = replace_word(u16::from_be_bytes([*c0, *c1]), old, new).to_be_bytes();
        }
        [first @ 0x60..=0x6f, second, ..] => {
            *first = 0x60 | new >> 4;
            *second = *second & 0x0f | new << 4;
        }
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
        assert_eq!(flow(&packet).unwrap().1.total_len(), 22);
    }

    #[test]
    fn ttl_and_ecn_change_without_breaking_the_checksum() {
        for mut packet in [v4(17, 0, false, &[0; 8]), v6(17, &[0; 8])] {
            for ecn in [0, 1, 2, 3] {
                set_ecn(&mut packet, ecn);
                let (_, info) = flow(&packet).unwrap();
                assert_eq!(info.tos(), 0x2c | ecn);
            }
            decrement_ttl(&mut packet);
            assert_eq!(flow(&packet).unwrap().1.ttl(), 8);
        }
    }

    proptest! {
        #[test]
        fn a_plain_packet_is_read_as_the_whole_parser_reads_it(
            octets in prop::collection::vec(any::<u8>(), 20..80), len in 0..90_u16, right: bool,
        ) {
            let mut octets = octets;
            octets[0] = 0x45;
            octets[2..4].copy_from_slice(&len.to_be_bytes());
            if right {
                octets[10..12].fill(0);
                let sum = super::super::Checksum::default().octets(&octets[..20]).finish();
                octets[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            if let Some(plain) = read_plain(&octets) {
                prop_assert!(right || read_v4(&octets).is_ok());
                prop_assert_eq!(Ok(plain), read_v4(&octets));
            }
            let any_protocol = octets[9];
            for protocol in [6, 17, 50, any_protocol] {
                octets[9] = protocol;
                octets[6..8].copy_from_slice(&[0x40, 0]);
                octets[10..12].fill(0);
                let sum = super::super::Checksum::default().octets(&octets[..20]).finish();
                octets[10..12].copy_from_slice(&sum.to_be_bytes());
                let plain = read_plain(&octets);
                let readable = (24..=octets.len()).contains(&usize::from(len)) && [6, 17, 50].contains(&protocol);
                prop_assert_eq!(plain.is_some(), readable);
                prop_assert!(plain.is_none() || read_v4(&octets) == Ok(plain.unwrap()));
            }
        }

        #[test]
        fn any_octets_are_read_or_refused(octets in prop::collection::vec(any::<u8>(), 0..200), version in 0u8..2) {
            let mut octets = octets;
            if let Some(first) = octets.first_mut() {
                *first = if version == 0 { 0x45 } else { 0x60 };
            }
            if let Ok((_, info)) = flow(&octets) {
                prop_assert!(info.header_len() <= info.total_len() && info.total_len() <= octets.len());
            }
        }
    }
}
