//! Ethernet II headers, with up to two VLAN tags.

use crate::drop::DropReason;

/// Octets of an Ethernet header without VLAN tags.
pub const ETHERNET_HEADER_LEN: usize = 14;

/// A MAC address.
pub type Mac = [u8; 6];

const VLAN_TAG_LEN: usize = 4;

/// What an Ethernet frame carries, as far as the data plane cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtherType {
    /// 0x0800.
    Ipv4,
    /// 0x86dd.
    Ipv6,
    /// Anything else.
    Other(u16),
}

impl EtherType {
    /// The number on the wire.
    pub const fn number(self) -> u16 {
        match self {
            Self::Ipv4 => 0x0800,
            Self::Ipv6 => 0x86dd,
            Self::Other(number) => number,
        }
    }

    /// The type for an IP packet, by the version in its first octet.
    pub fn of_packet(packet: &[u8]) -> Self {
        match packet.first().map(|first| first >> 4) {
            Some(6) => Self::Ipv6,
            _ => Self::Ipv4,
        }
    }
}

impl From<u16> for EtherType {
    fn from(number: u16) -> Self {
        match number {
            0x0800 => Self::Ipv4,
            0x86dd => Self::Ipv6,
            other => Self::Other(other),
        }
    }
}

/// An Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ethernet {
    /// To whom.
    pub dst: Mac,
    /// From whom.
    pub src: Mac,
    /// What follows the last VLAN tag.
    pub ether_type: EtherType,
    /// Octets of the header with its VLAN tags.
    pub header_len: usize,
}

impl Ethernet {
    /// Reads a frame's header, and steps over up to two VLAN tags (802.1Q, 802.1ad).
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Self, DropReason> {
        let &[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, high, low] =
            frame.first_chunk().ok_or(DropReason::Malformed)?;
        let whole = Self {
            dst: [d0, d1, d2, d3, d4, d5],
            src: [s0, s1, s2, s3, s4, s5],
            ether_type: u16::from_be_bytes([high, low]).into(),
            header_len: ETHERNET_HEADER_LEN,
        };
        if whole.is_tagged() { whole.untag(frame) } else { Ok(whole) }
    }

    #[inline]
    fn is_tagged(&self) -> bool {
        matches!(self.ether_type, EtherType::Other(0x8100 | 0x88a8))
    }

    #[cold]
    fn untag(mut self, frame: &[u8]) -> Result<Self, DropReason> {
        for _ in 0..2 {
            if !self.is_tagged() {
                break;
            }
            let rest = frame.get(self.header_len..).unwrap_or_default();
            let &[_, _, high, low] = rest.first_chunk().ok_or(DropReason::Malformed)?;
            self.ether_type = u16::from_be_bytes([high, low]).into();
            self.header_len += VLAN_TAG_LEN;
        }
        Ok(self)
    }

    /// A header without VLAN tags.
    #[inline(always)]
    pub fn write(dst: Mac, src: Mac, ether_type: EtherType) -> [u8; ETHERNET_HEADER_LEN] {
        let mut header = [0; ETHERNET_HEADER_LEN];
        let (addresses, number) = header.split_at_mut(2 * dst.len());
        let (to, from) = addresses.split_at_mut(dst.len());
        to.copy_from_slice(&dst);
        from.copy_from_slice(&src);
        number.copy_from_slice(&ether_type.number().to_be_bytes());
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DST: Mac = [1, 2, 3, 4, 5, 6];
    const SRC: Mac = [7, 8, 9, 10, 11, 12];

    #[test]
    fn a_written_header_is_read_back() {
        let frame = Ethernet::write(DST, SRC, EtherType::Ipv6);
        let read = Ethernet::parse(&frame).unwrap();
        assert_eq!(read, Ethernet { dst: DST, src: SRC, ether_type: EtherType::Ipv6, header_len: 14 });
    }

    #[test]
    fn up_to_two_vlan_tags_are_stepped_over() {
        let tagged = |tags: &[u8]| {
            let mut frame = Ethernet::write(DST, SRC, EtherType::Ipv4)[..12].to_vec();
            frame.extend(tags);
            Ethernet::parse(&frame).map(|e| (e.ether_type, e.header_len))
        };
        assert_eq!(tagged(&[0x81, 0, 0, 5, 8, 0]), Ok((EtherType::Ipv4, 18)));
        assert_eq!(tagged(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x86, 0xdd]), Ok((EtherType::Ipv6, 22)));
        let three = [0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 0x81, 0, 0, 7, 8, 0];
        assert_eq!(tagged(&three), Ok((EtherType::Other(0x8100), 22)));
        assert_eq!(tagged(&[0x81, 0, 0, 5, 8]), Err(DropReason::Malformed));
    }

    #[test]
    fn a_frame_shorter_than_its_header_is_malformed() {
        let frame = Ethernet::write(DST, SRC, EtherType::Ipv4);
        for len in 0..frame.len() {
            assert_eq!(Ethernet::parse(&frame[..len]), Err(DropReason::Malformed));
        }
    }
}
