//! Ethernet II headers, with up to two VLAN tags (IEEE 802.1Q).

use crate::drop::DropReason;
use crate::frame::Frame;

/// Octets of an Ethernet header without VLAN tags.
pub const ETHERNET_HEADER_LEN: usize = 14;

/// A MAC address.
pub type Mac = [u8; 6];

const VLAN_TAG_LEN: usize = 4;
/// Octets of the addresses, behind which tags stand.
const ADDRESSES_LEN: usize = 12;
/// The bits of a tag that hold the VLAN's number; the others say how urgent the frame is.
const VLAN_ID: u16 = 0x0fff;
/// Numbers from here on are no VLAN's.
const RESERVED_VLAN: u16 = 0x0fff;

/// What a tag begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TagProtocol {
    /// 802.1Q, 0x8100.
    Customer,
    /// 802.1ad, 0x88a8.
    Service,
}

impl TagProtocol {
    const fn number(self) -> u16 {
        match self {
            Self::Customer => 0x8100,
            Self::Service => 0x88a8,
        }
    }
}

/// The VLAN that a frame belongs to, as its tags say, outermost first: two at most. Without priorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct VlanTags {
    octets: [u8; 2 * VLAN_TAG_LEN],
    len: u8,
}

impl VlanTags {
    /// No tags.
    pub const NONE: Self = Self { octets: [0; 2 * VLAN_TAG_LEN], len: 0 };

    /// These, and behind them that of a VLAN in the VLAN; `None` if there are two already, or no VLAN has such a number.
    pub fn with_inner(mut self, protocol: TagProtocol, id: u16) -> Option<Self> {
        if !(1..RESERVED_VLAN).contains(&id) {
            return None;
        }
        let room = self.octets.get_mut(usize::from(self.len)..)?.first_chunk_mut::<VLAN_TAG_LEN>()?;
        let ([p0, p1], [i0, i1]) = (protocol.number().to_be_bytes(), id.to_be_bytes());
        *room = [p0, p1, i0, i1];
        self.len += VLAN_TAG_LEN as u8;
        Some(self)
    }

    /// Their octets in a frame, with priority 0.
    pub fn octets(&self) -> &[u8] {
        self.octets.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts them into an Ethernet frame that has no tags, or says that its chunk has no room in front.
    #[must_use]
    pub fn put_into(&self, frame: &mut Frame) -> bool {
        let tags = self.octets();
        if frame.len() < ADDRESSES_LEN || !frame.push_front(tags.len()) {
            return false;
        }
        let packet = frame.packet_mut();
        packet.copy_within(tags.len()..tags.len() + ADDRESSES_LEN, 0);
        packet.iter_mut().skip(ADDRESSES_LEN).zip(tags).for_each(|(to, tag)| *to = *tag);
        true
    }
}

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

    /// The VLAN that the frame belongs to, whose header this is. A tag with the number 0 says nothing but how urgent it is
    /// (802.1Q §6.9.1, "priority-tagged").
    pub fn vlan(&self, frame: &[u8]) -> VlanTags {
        let tags = frame.get(ADDRESSES_LEN..self.header_len.saturating_sub(2)).unwrap_or_default();
        let (tags, _) = tags.as_chunks::<VLAN_TAG_LEN>();
        let mut vlan = VlanTags::NONE;
        for &[p0, p1, i0, i1] in tags {
            let id = u16::from_be_bytes([i0, i1]) & VLAN_ID;
            let [i0, i1] = id.to_be_bytes();
            let room = vlan.octets.get_mut(usize::from(vlan.len)..).and_then(<[u8]>::first_chunk_mut);
            if let Some(room) = room.filter(|_| id != 0) {
                *room = [p0, p1, i0, i1];
                vlan.len += VLAN_TAG_LEN as u8;
            }
        }
        vlan
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
    fn tags_name_a_vlan_whatever_their_priority_and_are_put_back_as_they_were() {
        let vlan = |tags: &[u8]| {
            let frame = [&Ethernet::write(DST, SRC, EtherType::Ipv4)[..12], tags, &[8, 0, 0x45]].concat();
            Ethernet::parse(&frame).unwrap().vlan(&frame)
        };
        let five = VlanTags::NONE.with_inner(TagProtocol::Customer, 5).unwrap();
        let in_six = VlanTags::NONE.with_inner(TagProtocol::Service, 6).unwrap();
        let both = in_six.with_inner(TagProtocol::Customer, 5).unwrap();
        assert_eq!(vlan(&[]), VlanTags::NONE);
        assert_eq!(vlan(&[0x81, 0, 0, 5]), five);
        assert_eq!(vlan(&[0x81, 0, 0xf0, 5]), five, "priority 7, drop eligible");
        assert_eq!(vlan(&[0x81, 0, 0xe0, 0]), VlanTags::NONE, "priority alone");
        assert_eq!(vlan(&[0x81, 0, 0xe0, 0, 0x81, 0, 0, 5]), five);
        assert_eq!(vlan(&[0x88, 0xa8, 0, 6, 0x81, 0, 0, 5]), both);
        assert_ne!(vlan(&[0x81, 0, 0, 6, 0x81, 0, 0, 5]), both, "another kind of tag");
        assert!(both.with_inner(TagProtocol::Customer, 7).is_none());
        for id in [0, 4095, 4096] {
            assert!(VlanTags::NONE.with_inner(TagProtocol::Customer, id).is_none(), "{id}");
        }
        for tags in [VlanTags::NONE, five, both] {
            let plain = [&Ethernet::write(DST, SRC, EtherType::Ipv4)[..], &[0x45, 1, 2]].concat();
            let mut frame = Frame::leaked(64, 8);
            assert!(frame.push_back(plain.len()));
            frame.packet_mut().copy_from_slice(&plain);
            assert!(tags.put_into(&mut frame));
            assert_eq!(frame.packet(), [&plain[..12], tags.octets(), &plain[12..]].concat());
            let read = Ethernet::parse(frame.packet()).unwrap();
            assert_eq!((read.dst, read.src, read.ether_type), (DST, SRC, EtherType::Ipv4));
            assert_eq!(read.vlan(frame.packet()), tags);
        }
        let mut cramped = Frame::leaked(64, 3);
        assert!(cramped.push_back(20) && !five.put_into(&mut cramped) && cramped.len() == 20);
    }

    #[test]
    fn a_frame_shorter_than_its_header_is_malformed() {
        let frame = Ethernet::write(DST, SRC, EtherType::Ipv4);
        for len in 0..frame.len() {
            assert_eq!(Ethernet::parse(&frame[..len]), Err(DropReason::Malformed));
        }
    }
}
