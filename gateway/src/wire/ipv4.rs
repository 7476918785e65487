//! IPv4 headers (RFC 791).

use std::net::Ipv4Addr;

use super::Checksum;
use crate::drop::DropReason;

/// Octets of a header without options.
pub const IPV4_HEADER_LEN: usize = 20;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// An IPv4 header. Options stay in the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4 {
    /// Octets of the header with its options: 20 to 60.
    pub header_len: usize,
    /// Octets of the whole packet.
    pub total_len: usize,
    /// DSCP (upper six bits) and ECN (lower two).
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// DF.
    pub dont_fragment: bool,
    /// MF.
    pub more_fragments: bool,
    /// Offset of this fragment's data in the original's, in octets.
    pub fragment_offset: usize,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub protocol: u8,
    /// From whom.
    pub src: Ipv4Addr,
    /// To whom.
    pub dst: Ipv4Addr,
}

impl Ipv4 {
    /// Reads the header, which must be whole and its checksum right (RFC 1812 §5.2.2). Octets behind the packet,
    /// such as Ethernet's padding, are ignored.
    pub fn parse(packet: &[u8]) -> Result<Self, DropReason> {
        let &header = packet.first_chunk::<IPV4_HEADER_LEN>().ok_or(DropReason::Malformed)?;
        let [first, tos, len @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = header;
        let [_, _, _, _, i0, i1, f0, f1, ttl, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = header;
        let header_len = usize::from(first & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes(len));
        let consistent = first >> 4 == 4
            && header_len >= IPV4_HEADER_LEN
            && total_len >= header_len
            && total_len <= packet.len();
        if !consistent {
            return Err(DropReason::Malformed);
        }
        let options = packet.get(IPV4_HEADER_LEN..header_len).ok_or(DropReason::Malformed)?;
        if !Checksum::default().octets(&header).octets(options).is_valid() {
            return Err(DropReason::HeaderChecksum);
        }
        let flags = u16::from_be_bytes([f0, f1]);
        Ok(Self {
            header_len,
            total_len,
            tos,
            id: u16::from_be_bytes([i0, i1]),
            dont_fragment: flags & DONT_FRAGMENT != 0,
            more_fragments: flags & MORE_FRAGMENTS != 0,
            fragment_offset: usize::from(flags & OFFSET_MASK) * 8,
            ttl,
            protocol,
            src: Ipv4Addr::new(s0, s1, s2, s3),
            dst: Ipv4Addr::new(d0, d1, d2, d3),
        })
    }

    /// Whether the packet is a piece of a larger one.
    pub fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }

    /// The header with its checksum; `options` (a multiple of four octets) count into the length and the checksum,
    /// and the caller puts them behind it. `header_len` is not used.
    pub fn write(&self, options: &[u8]) -> [u8; IPV4_HEADER_LEN] {
        let words = ((IPV4_HEADER_LEN + options.len()) / 4) as u8;
        let [l0, l1] = (self.total_len as u16).to_be_bytes();
        let [i0, i1] = self.id.to_be_bytes();
        let mut flags = (self.fragment_offset / 8) as u16 & OFFSET_MASK;
        flags |= if self.dont_fragment { DONT_FRAGMENT } else { 0 };
        flags |= if self.more_fragments { MORE_FRAGMENTS } else { 0 };
        let [f0, f1] = flags.to_be_bytes();
        let [s0, s1, s2, s3] = self.src.octets();
        let [d0, d1, d2, d3] = self.dst.octets();
        let header = |c0, c1| {
            let (ttl, protocol) = (self.ttl, self.protocol);
            let first = 0x40 | (words & 0x0f);
            [first, self.tos, l0, l1, i0, i1, f0, f1, ttl, protocol, c0, c1, s0, s1, s2, s3, d0, d1, d2, d3]
        };
        let [c0, c1] = Checksum::default().octets(&header(0, 0)).octets(options).finish().to_be_bytes();
        header(c0, c1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header whose checksum is worked out in many textbooks: 0xb861.
    const KNOWN: [u8; 20] = [
        0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0,
        0xa8, 0x00, 0xc7,
    ];

    fn known_packet() -> Vec<u8> {
        let mut packet = KNOWN.to_vec();
        packet.resize(0x73, 0);
        packet
    }

    #[test]
    fn a_known_header_is_read_and_written_back_bit_for_bit() {
        let header = Ipv4::parse(&known_packet()).unwrap();
        assert_eq!(header.src, Ipv4Addr::new(192, 168, 0, 1));
        assert_eq!(header.dst, Ipv4Addr::new(192, 168, 0, 199));
        assert_eq!((header.total_len, header.ttl, header.protocol), (0x73, 64, 17));
        assert!(header.dont_fragment && !header.is_fragment());
        assert_eq!(header.write(&[]), KNOWN);
    }

    #[test]
    fn a_flipped_bit_in_the_header_is_caught_by_its_checksum() {
        for bit in 8..160 {
            let mut packet = known_packet();
            packet[bit / 8] ^= 1 << (bit % 8);
            assert!(Ipv4::parse(&packet).is_err(), "bit {bit}");
        }
        let mut packet = known_packet();
        packet[8] -= 1;
        assert_eq!(Ipv4::parse(&packet), Err(DropReason::HeaderChecksum));
    }

    #[test]
    fn lengths_that_contradict_each_other_are_malformed() {
        let packet = known_packet();
        for len in 0..packet.len() {
            assert_eq!(Ipv4::parse(&packet[..len]), Err(DropReason::Malformed), "{len} octets");
        }
        for first in [0x44, 0x4f, 0x65] {
            let mut short = KNOWN;
            short[0] = first;
            short[3] = 20;
            assert_eq!(Ipv4::parse(&short), Err(DropReason::Malformed), "{first:x}");
        }
    }

    #[test]
    fn options_are_covered_by_length_and_checksum() {
        let mut header = Ipv4::parse(&known_packet()).unwrap();
        header.total_len = 24;
        let options = [7, 4, 4, 0];
        let packet = [header.write(&options).as_slice(), &options].concat();
        assert_eq!(Ipv4::parse(&packet).unwrap().header_len, 24);
    }
}
