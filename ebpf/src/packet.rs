//! Ethernet, VLAN tags, IPv4 and IPv6 down to the upper layer's header, for both programs. Nothing is believed
//! about a length that was not compared with what is there.

use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use aya_ebpf::programs::{TcContext, XdpContext};

use crate::address::Address;
use crate::maps::{V4, V6};

/// IP protocol numbers.
pub mod protocol {
    pub const HOP_BY_HOP: u8 = 0;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const ESP: u8 = 50;
    pub const ICMPV6: u8 = 58;
    pub const DESTINATION_OPTIONS: u8 = 60;
}

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;

const ETHERNET_LEN: usize = 14;
const VLAN_TAG_LEN: usize = 4;
const MAX_VLAN_TAGS: usize = 2;
const IPV4_MIN_LEN: usize = 20;
const IPV6_LEN: usize = 40;
/// Further IPv6 extension headers hide the upper layer from the rules, which then go by the addresses.
const MAX_EXTENSION_HEADERS: usize = 5;

/// A type that any octets are a value of, aligned to at most two.
///
/// # Safety
///
/// Integers and arrays of them, or `repr(C)` structures of such without padding, with alignment of at most 2.
pub unsafe trait Octets: Copy {}

// SAFETY: integers.
unsafe impl Octets for u16 {}
// SAFETY: integers.
unsafe impl Octets for [u8; 2] {}
// SAFETY: integers.
unsafe impl Octets for [u16; 2] {}

/// A frame, from its Ethernet header on.
pub trait Frame {
    /// Whether lengths in headers must fit the frame: not so before segmentation offload.
    const IN_FINAL_FORM: bool;

    /// Its octets.
    fn len(&self) -> usize;

    /// The value at `offset`, if the frame reaches that far.
    fn load<T: Octets>(&self, offset: usize) -> Option<T>;
}

impl Frame for XdpContext {
    const IN_FINAL_FORM: bool = true;

    #[inline(always)]
    fn len(&self) -> usize {
        self.data_end() - self.data()
    }

    #[inline(always)]
    fn load<T: Octets>(&self, offset: usize) -> Option<T> {
        let start = self.data() + offset;
        if start + size_of::<T>() > self.data_end() {
            return None;
        }
        // SAFETY: within the frame, as just compared. Frames start at even addresses, and all headers before an
        // even offset are of even length.
        Some(unsafe { *(start as *const T) })
    }
}

/// A frame whose octets may lie in several buffers. Headers are read in the first of them, where drivers put them.
pub struct Chain<'a>(pub &'a XdpContext);

impl Frame for Chain<'_> {
    const IN_FINAL_FORM: bool = true;

    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: the context of this program's call.
        unsafe { bpf_xdp_get_buff_len(self.0.ctx) as usize }
    }

    // Read anew each time: pointers that the compiler keeps are moved as words of 32 bits, which the verifier takes for numbers.
    #[inline(always)]
    fn load<T: Octets>(&self, offset: usize) -> Option<T> {
        let ctx = self.0.ctx;
        // SAFETY: the context of this program's call.
        let (data, end) = unsafe {
            ((&raw const (*ctx).data).read_volatile(), (&raw const (*ctx).data_end).read_volatile())
        };
        let start = data as usize + offset;
        if start + size_of::<T>() > end as usize {
            return None;
        }
        // SAFETY: as in a frame of one buffer.
        Some(unsafe { *(start as *const T) })
    }
}

impl Frame for TcContext {
    const IN_FINAL_FORM: bool = false;

    #[inline(always)]
    fn len(&self) -> usize {
        self.len() as usize
    }

    // By a helper: the socket buffer need not be linear.
    #[inline(always)]
    fn load<T: Octets>(&self, offset: usize) -> Option<T> {
        self.load(offset).ok()
    }
}

/// What a frame carries, and where it starts.
pub enum Network {
    Ipv4(usize),
    Ipv6(usize),
    Other,
    /// More VLAN tags than are looked behind.
    TooDeep,
}

/// Looks behind up to two VLAN tags.
#[inline(always)]
pub fn network<F: Frame>(frame: &F) -> Network {
    let mut offset = ETHERNET_LEN;
    for _ in 0..=MAX_VLAN_TAGS {
        let Some(ethertype) = frame.load::<u16>(offset - 2) else { return Network::Other };
        match u16::from_be(ethertype) {
            ETHERTYPE_IPV4 => return Network::Ipv4(offset),
            ETHERTYPE_IPV6 => return Network::Ipv6(offset),
            ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN => offset += VLAN_TAG_LEN,
            _ => return Network::Other,
        }
    }
    Network::TooDeep
}

/// Which part of its datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The first part, with the upper layer's header.
    First,
    /// Another part.
    Later,
}

/// An IP packet.
#[derive(Clone, Copy)]
pub struct Packet<A> {
    pub src: A,
    pub dst: A,
    /// Time to live, or hop limit.
    pub hop_limit: u8,
    /// Of the upper layer, as far as it could be found.
    pub protocol: u8,
    pub fragment: Fragment,
    /// Offset of the upper layer in the frame.
    pub upper: usize,
    /// Offset of the packet's end in the frame.
    pub end: usize,
}

/// An impossible header.
pub struct Malformed;

#[derive(Clone, Copy)]
#[repr(C)]
struct Ipv4Header {
    version_and_length: u8,
    tos: u8,
    total_length: u16,
    identification: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    src: V4,
    dst: V4,
}

// SAFETY: integers, `repr(C)`, no padding, alignment 2.
unsafe impl Octets for Ipv4Header {}

const IPV4_MORE_FRAGMENTS: u16 = 0x2000;
const IPV4_FRAGMENT_OFFSET: u16 = 0x1fff;

/// RFC 791 §3.1.
#[inline(always)]
pub fn ipv4<F: Frame>(frame: &F, start: usize) -> Result<Packet<V4>, Malformed> {
    let header = frame.load::<Ipv4Header>(start).ok_or(Malformed)?;
    let header_len = usize::from(header.version_and_length & 0xf) * 4;
    if header.version_and_length >> 4 != 4 || header_len < IPV4_MIN_LEN {
        return Err(Malformed);
    }
    let end =
        if F::IN_FINAL_FORM { start + usize::from(u16::from_be(header.total_length)) } else { frame.len() };
    let upper = start + header_len;
    if upper > end || end > frame.len() {
        return Err(Malformed);
    }
    let word = u16::from_be(header.fragment);
    let fragment = if word & IPV4_FRAGMENT_OFFSET != 0 {
        Fragment::Later
    } else if word & IPV4_MORE_FRAGMENTS != 0 {
        Fragment::First
    } else {
        Fragment::Whole
    };
    let Ipv4Header { src, dst, ttl, protocol, .. } = header;
    Ok(Packet { src, dst, hop_limit: ttl, protocol, fragment, upper, end })
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Ipv6Header {
    version_class_flow: V4,
    payload_length: u16,
    next_header: u8,
    hop_limit: u8,
    src: V6,
    dst: V6,
}

// SAFETY: integers, `repr(C)`, no padding, alignment 2.
unsafe impl Octets for Ipv6Header {}

#[derive(Clone, Copy)]
#[repr(C)]
struct FragmentHeader {
    next_header: u8,
    reserved: u8,
    offset_and_more: u16,
    identification: V4,
}

// SAFETY: integers, `repr(C)`, no padding, alignment 2.
unsafe impl Octets for FragmentHeader {}

const IPV6_MORE_FRAGMENTS: u16 = 1;
const IPV6_FRAGMENT_OFFSET: u16 = 0xfff8;

/// RFC 8200 §3 and §4.
#[inline(always)]
pub fn ipv6<F: Frame>(frame: &F, start: usize) -> Result<Packet<V6>, Malformed> {
    let header = frame.load::<Ipv6Header>(start).ok_or(Malformed)?;
    if u16::from_be(header.version_class_flow[0]) >> 12 != 6 {
        return Err(Malformed);
    }
    let mut upper = start + IPV6_LEN;
    let end =
        if F::IN_FINAL_FORM { upper + usize::from(u16::from_be(header.payload_length)) } else { frame.len() };
    if end > frame.len() {
        return Err(Malformed);
    }
    let mut protocol = header.next_header;
    let mut fragment = Fragment::Whole;
    for _ in 0..MAX_EXTENSION_HEADERS {
        match protocol {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                let [next, length] = frame.load::<[u8; 2]>(upper).ok_or(Malformed)?;
                protocol = next;
                upper += (usize::from(length) + 1) * 8;
            }
            protocol::FRAGMENT => {
                let header = frame.load::<FragmentHeader>(upper).ok_or(Malformed)?;
                protocol = header.next_header;
                upper += size_of::<FragmentHeader>();
                let word = u16::from_be(header.offset_and_more);
                if word & IPV6_FRAGMENT_OFFSET != 0 {
                    fragment = Fragment::Later;
                } else if word & IPV6_MORE_FRAGMENTS != 0 {
                    fragment = Fragment::First;
                }
            }
            _ => break,
        }
        if upper > end {
            return Err(Malformed);
        }
        if fragment == Fragment::Later {
            break;
        }
    }
    let Ipv6Header { src, dst, hop_limit, .. } = header;
    Ok(Packet { src, dst, hop_limit, protocol, fragment, upper, end })
}

#[derive(Clone, Copy)]
#[repr(C)]
struct UdpHeader {
    src_port: u16,
    dst_port: u16,
    length: u16,
    checksum: u16,
}

// SAFETY: integers, `repr(C)`, no padding, alignment 2.
unsafe impl Octets for UdpHeader {}

/// A UDP header (RFC 768), in host byte order.
#[derive(Clone, Copy)]
pub struct Udp {
    pub src_port: u16,
    pub dst_port: u16,
    /// Octets of header and payload, as stated.
    pub length: usize,
}

/// Octets of a UDP header.
pub const UDP_LEN: usize = size_of::<UdpHeader>();

const ND_ROUTER_SOLICITATION: u8 = 133;
const ND_REDIRECT: u8 = 137;

impl<A: Address> Packet<A> {
    /// The UDP header, if the packet is UDP and has it.
    #[inline(always)]
    pub fn udp<F: Frame>(&self, frame: &F) -> Option<Udp> {
        if self.protocol != protocol::UDP
            || self.fragment == Fragment::Later
            || self.upper + UDP_LEN > self.end
        {
            return None;
        }
        let UdpHeader { src_port, dst_port, length, .. } = frame.load(self.upper)?;
        Some(Udp {
            src_port: u16::from_be(src_port),
            dst_port: u16::from_be(dst_port),
            length: usize::from(u16::from_be(length)),
        })
    }

    /// Whether the packet can concern no network but this link's.
    #[inline(always)]
    pub fn is_link_scope<F: Frame>(&self, frame: &F) -> bool {
        self.dst.is_link_scope_destination()
            || self.src.is_link_scope_source()
            || self.is_neighbour_discovery(frame)
    }

    /// RFC 4861 §4: never forwarded (hop limit 255), never fragmented (RFC 6980 §5).
    #[inline(always)]
    fn is_neighbour_discovery<F: Frame>(&self, frame: &F) -> bool {
        if A::BITS != 128
            || self.protocol != protocol::ICMPV6
            || self.hop_limit != 255
            || self.fragment != Fragment::Whole
            || self.upper + 2 > self.end
        {
            return false;
        }
        match frame.load::<[u8; 2]>(self.upper) {
            Some([kind, code]) => kind >= ND_ROUTER_SOLICITATION && kind <= ND_REDIRECT && code == 0,
            None => false,
        }
    }
}
