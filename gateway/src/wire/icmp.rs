//! ICMP errors about a packet that could not be forwarded (RFC 792, RFC 1191, RFC 4443): which packets may be
//! answered, and the answer's octets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_ipsec::Flow;

use super::{Checksum, Fragment, IPV4_HEADER_LEN, IPV6_HEADER_LEN, Ipv4, Ipv6, L3Info, protocol};

/// Octets of the longest ICMPv4 error, IP header included (RFC 1812 §4.3.2.3).
pub const MAX_ICMPV4_ERROR: usize = 576;

/// Octets of the longest ICMPv6 error, IP header included: the minimum MTU (RFC 4443 §2.4 (c)).
pub const MAX_ICMPV6_ERROR: usize = 1280;

const ICMP_HEADER_LEN: usize = 8;
const TTL: u8 = 64;
/// Internetwork control, as routers mark their errors (RFC 1812 §4.3.2.5).
const TOS: u8 = 0xc0;

/// What is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IcmpError {
    /// ICMPv4 type 3 code 4 (RFC 1191), ICMPv6 packet too big: the largest packet that will pass, in octets.
    PacketTooBig {
        /// The MTU.
        mtu: usize,
    },
    /// TTL or hop limit exceeded in transit.
    TimeExceeded,
}

impl IcmpError {
    /// Whether an error about this packet may be sent at all (RFC 1812 §4.3.2.7, RFC 4443 §2.4 (e)): not about ICMP
    /// errors and redirects, not to or about multicast and broadcast, not about fragments but the first.
    pub fn may_answer(flow: &Flow, info: &L3Info) -> bool {
        if info.fragment() == Fragment::Later {
            return false;
        }
        match (flow.src, flow.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let answerable = |kind: u8| matches!(kind, 0 | 8 | 9 | 10 | 13..=18);
                is_host_v4(src)
                    && is_host_v4(dst)
                    && (flow.protocol != protocol::ICMP || icmp_type(flow, answerable))
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                // Types below 128 are errors; 137 is a redirect.
                let answerable = |kind: u8| kind >= 128 && kind != 137;
                is_host_v6(src)
                    && !dst.is_multicast()
                    && (flow.protocol != protocol::ICMPV6 || icmp_type(flow, answerable))
            }
            _ => false,
        }
    }

    /// Writes the error about `packet`, from `src` to the packet's source, into `buffer`: a whole IP packet, which
    /// quotes as much as its limit (and the buffer) allows. Returns its length in octets, or `None` if the buffer
    /// is too small for any quotation or the families do not fit.
    pub fn write(self, packet: &[u8], flow: &Flow, src: IpAddr, buffer: &mut [u8]) -> Option<usize> {
        match (src, flow.src) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.write_v4(packet, src, dst, buffer),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.write_v6(packet, src, dst, buffer),
            _ => None,
        }
    }

    fn write_v4(self, packet: &[u8], src: Ipv4Addr, dst: Ipv4Addr, buffer: &mut [u8]) -> Option<usize> {
        let (kind, code, mtu) = match self {
            Self::PacketTooBig { mtu } => (3, 4, u16::try_from(mtu).unwrap_or(u16::MAX)),
            Self::TimeExceeded => (11, 0, 0),
        };
        let [m0, m1] = mtu.to_be_bytes();
        let quoted = quote(packet, MAX_ICMPV4_ERROR.min(buffer.len()), IPV4_HEADER_LEN)?;
        let header = |c0, c1| [kind, code, c0, c1, 0, 0, m0, m1];
        let [c0, c1] = Checksum::default().octets(&header(0, 0)).octets(quoted).finish().to_be_bytes();
        let ip = Ipv4 {
            header_len: IPV4_HEADER_LEN,
            total_len: IPV4_HEADER_LEN + ICMP_HEADER_LEN + quoted.len(),
            tos: TOS,
            id: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: TTL,
            protocol: protocol::ICMP,
            src,
            dst,
        };
        emit(buffer, &ip.write(&[]), &header(c0, c1), quoted)
    }

    fn write_v6(self, packet: &[u8], src: Ipv6Addr, dst: Ipv6Addr, buffer: &mut [u8]) -> Option<usize> {
        let (kind, mtu) = match self {
            Self::PacketTooBig { mtu } => (2, u32::try_from(mtu).unwrap_or(u32::MAX)),
            Self::TimeExceeded => (3, 0),
        };
        let [m0, m1, m2, m3] = mtu.to_be_bytes();
        let quoted = quote(packet, MAX_ICMPV6_ERROR.min(buffer.len()), IPV6_HEADER_LEN)?;
        let payload_len = ICMP_HEADER_LEN + quoted.len();
        let header = |c0, c1| [kind, 0, c0, c1, m0, m1, m2, m3];
        let sum =
            Checksum::default().pseudo_header(src.into(), dst.into(), protocol::ICMPV6, payload_len as u32);
        let [c0, c1] = sum.octets(&header(0, 0)).octets(quoted).finish().to_be_bytes();
        let ip = Ipv6 {
            traffic_class: TOS,
            flow_label: 0,
            payload_len,
            next_header: protocol::ICMPV6,
            hop_limit: TTL,
            src,
            dst,
        };
        emit(buffer, &ip.write(), &header(c0, c1), quoted)
    }
}

/// As much of the packet as fits: at least the 28 octets that name an IPv4 packet without options, if it has them.
fn quote(packet: &[u8], limit: usize, ip_header: usize) -> Option<&[u8]> {
    let room = limit.checked_sub(ip_header + ICMP_HEADER_LEN)?;
    let quoted = packet.get(..packet.len().min(room))?;
    (quoted.len() >= packet.len().min(IPV4_HEADER_LEN + 8)).then_some(quoted)
}

fn emit(buffer: &mut [u8], ip: &[u8], icmp: &[u8], quoted: &[u8]) -> Option<usize> {
    let len = ip.len() + icmp.len() + quoted.len();
    let octets = ip.iter().chain(icmp).chain(quoted);
    buffer.get_mut(..len)?.iter_mut().zip(octets).for_each(|(to, from)| *to = *from);
    Some(len)
}

/// Whether the packet's ICMP type is known and one of these.
fn icmp_type(flow: &Flow, answerable: impl Fn(u8) -> bool) -> bool {
    flow.src_port.is_some_and(|type_and_code| answerable((type_and_code >> 8) as u8))
}

/// Whether the address can be one host's (RFC 1812 §4.3.2.7).
fn is_host_v4(addr: Ipv4Addr) -> bool {
    let [first, ..] = addr.octets();
    first != 0 && first < 224 && !addr.is_loopback()
}

fn is_host_v6(addr: Ipv6Addr) -> bool {
    !addr.is_unspecified() && !addr.is_multicast() && !addr.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::flow;

    fn udp_v4(src: [u8; 4], dst: [u8; 4], len: usize) -> Vec<u8> {
        let header = Ipv4 {
            header_len: 20,
            total_len: len,
            tos: 0,
            id: 1,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 64,
            protocol: 17,
            src: src.into(),
            dst: dst.into(),
        };
        let mut packet = header.write(&[]).to_vec();
        packet.resize(len, 0xee);
        packet
    }

    fn v6(src: &str, dst: &str, next_header: u8, payload: &[u8]) -> Vec<u8> {
        let header = Ipv6 {
            traffic_class: 0,
            flow_label: 0,
            payload_len: payload.len(),
            next_header,
            hop_limit: 64,
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
        };
        [header.write().as_slice(), payload].concat()
    }

    fn answerable(packet: &[u8]) -> bool {
        let (flow, info) = flow(packet).unwrap();
        IcmpError::may_answer(&flow, &info)
    }

    #[test]
    fn fragmentation_needed_names_the_mtu_and_quotes_the_packet() {
        let packet = udp_v4([10, 0, 0, 1], [10, 9, 0, 1], 1500);
        let mut buffer = [0; 2048];
        let about = flow(&packet).unwrap().0;
        let error = IcmpError::PacketTooBig { mtu: 1438 };
        let len = error.write(&packet, &about, "10.0.0.254".parse().unwrap(), &mut buffer).unwrap();
        assert_eq!(len, 576);
        let ip = Ipv4::parse(&buffer[..len]).unwrap();
        assert_eq!((ip.protocol, ip.dst, ip.src), (1, [10, 0, 0, 1].into(), [10, 0, 0, 254].into()));
        let icmp = &buffer[20..len];
        assert_eq!(icmp[..2], [3, 4]);
        assert_eq!(icmp[4..8], [0, 0, 0x05, 0x9e]);
        assert_eq!(icmp[8..], packet[..548]);
        assert!(Checksum::default().octets(icmp).is_valid());
    }

    #[test]
    fn packet_too_big_names_the_mtu_and_stays_within_1280() {
        let packet = v6("2001:db8::1", "2001:db8:1::1", 17, &[0x5a; 1460]);
        let mut buffer = [0; 2048];
        let about = flow(&packet).unwrap().0;
        let error = IcmpError::PacketTooBig { mtu: 1406 };
        let len = error.write(&packet, &about, "2001:db8::ff".parse().unwrap(), &mut buffer).unwrap();
        assert_eq!(len, 1280);
        let ip = Ipv6::parse(&buffer[..len]).unwrap();
        assert_eq!((ip.next_header, ip.payload_len), (58, 1240));
        let icmp = &buffer[40..len];
        assert_eq!(icmp[..2], [2, 0]);
        assert_eq!(icmp[4..8], 1406u32.to_be_bytes());
        assert_eq!(icmp[8..], packet[..1232]);
        let sum = Checksum::default().pseudo_header(ip.src.into(), ip.dst.into(), 58, 1240);
        assert!(sum.octets(icmp).is_valid());
    }

    #[test]
    fn time_exceeded_has_its_own_type_in_both_versions() {
        let mut buffer = [0; 2048];
        let packet = udp_v4([10, 0, 0, 1], [10, 9, 0, 1], 60);
        let about = flow(&packet).unwrap().0;
        let len =
            IcmpError::TimeExceeded.write(&packet, &about, [10, 0, 0, 254].into(), &mut buffer).unwrap();
        assert_eq!((len, &buffer[20..22]), (88, [11, 0].as_slice()));
        let packet = v6("2001:db8::1", "2001:db8:1::1", 17, &[0; 8]);
        let about = flow(&packet).unwrap().0;
        let src = "2001:db8::ff".parse().unwrap();
        let len = IcmpError::TimeExceeded.write(&packet, &about, src, &mut buffer).unwrap();
        assert_eq!((len, &buffer[40..42]), (96, [3, 0].as_slice()));
    }

    #[test]
    fn what_must_not_be_answered_is_not() {
        assert!(answerable(&udp_v4([10, 0, 0, 1], [10, 9, 0, 1], 60)));
        for (src, dst) in [
            ([0, 0, 0, 0], [10, 9, 0, 1]),
            ([127, 0, 0, 1], [10, 9, 0, 1]),
            ([224, 0, 0, 5], [10, 9, 0, 1]),
            ([255, 255, 255, 255], [10, 9, 0, 1]),
            ([10, 0, 0, 1], [239, 1, 1, 1]),
            ([10, 0, 0, 1], [255, 255, 255, 255]),
        ] {
            assert!(!answerable(&udp_v4(src, dst, 60)), "{src:?} > {dst:?}");
        }
        let icmp_v4 = |kind| {
            let mut packet = udp_v4([10, 0, 0, 1], [10, 9, 0, 1], 60);
            let mut header = Ipv4::parse(&packet).unwrap();
            header.protocol = 1;
            packet[..20].copy_from_slice(&header.write(&[]));
            packet[20] = kind;
            packet
        };
        assert!(answerable(&icmp_v4(8)) && answerable(&icmp_v4(0)));
        assert!(![3, 4, 5, 11, 12].into_iter().any(|kind| answerable(&icmp_v4(kind))));
        let (host, other) = ("2001:db8::1", "2001:db8:1::1");
        assert!(answerable(&v6(host, other, 58, &[128, 0, 0, 0])));
        assert!(![1, 2, 3, 4, 137].into_iter().any(|kind| answerable(&v6(
            host,
            other,
            58,
            &[kind, 0, 0, 0]
        ))));
        assert!(
            !answerable(&v6("::", other, 17, &[0; 8])) && !answerable(&v6("ff02::1", other, 17, &[0; 8]))
        );
        assert!(!answerable(&v6(host, "ff0e::1", 17, &[0; 8])));
        assert!(!answerable(&v6(host, other, 44, &[17, 0, 0, 9, 0, 0, 0, 1, 0, 0])));
    }

    #[test]
    fn a_buffer_without_room_gives_no_error() {
        let packet = udp_v4([10, 0, 0, 1], [10, 9, 0, 1], 60);
        let about = flow(&packet).unwrap().0;
        for len in 0..56 {
            let written =
                IcmpError::TimeExceeded.write(&packet, &about, [10, 0, 0, 2].into(), &mut vec![0; len]);
            assert_eq!(written, None);
        }
    }
}
