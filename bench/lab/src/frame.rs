//! What a frame on a wire between gateways is: protected, key management, housekeeping, or clear text. A frame
//! that cannot be told is clear text, so that a leak cannot hide behind a malformed header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
/// Local experimental EtherType 1 (IEEE 802): our own marker frames.
pub(crate) const ETHERTYPE_MARKER: u16 = 0x88b5;

const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const IGMP: u8 = 2;
const UDP: u8 = 17;
const ESP: u8 = 50;
const ICMPV6: u8 = 58;

const PORT_IKE: u16 = 500;
const PORT_NAT_T: u16 = 4500;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// ESP directly on IP (RFC 4303).
    Esp,
    /// ESP in UDP port 4500 (RFC 3948).
    UdpEsp,
    /// IKE on UDP port 500, or on 4500 behind the non-ESP marker.
    Ike,
    /// A NAT keepalive: one byte 0xff to UDP port 4500 (RFC 3948 §2.3).
    Keepalive,
    /// Neighbour and group housekeeping: ARP, IPv6 neighbour discovery, IGMP, MLD.
    Neighbour,
    /// ICMP between two of the addresses that were declared as outer.
    IcmpOuter,
    /// Any other IP packet.
    Clear,
    /// Not IP at all (LLDP, spanning tree).
    NotIp,
    /// A frame of the capture's own, see [`Capture::settle`](crate::Capture::settle).
    Marker,
}

/// Which way a frame went, seen from the host that captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Received by this host.
    In,
    /// Sent by this host.
    Out,
}

/// A captured frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// When it was read from the socket.
    pub at: SystemTime,
    /// Which way it went.
    pub direction: Direction,
    /// What it is.
    pub class: Class,
    /// Its length on the wire in bytes; `bytes` may be cut shorter.
    pub length: usize,
    /// The frame from its Ethernet header on.
    pub bytes: Vec<u8>,
}

impl Frame {
    /// The IP header's fields and what follows it, if this is an IP packet.
    pub fn headers(&self) -> Option<Headers<'_>> {
        Headers::parse(&self.bytes)
    }

    /// Whether the frame holds these bytes anywhere: to find a known payload that should have been encrypted.
    pub fn contains(&self, needle: &[u8]) -> bool {
        !needle.is_empty() && self.bytes.windows(needle.len()).any(|window| window == needle)
    }
}

/// The parts of an IP packet that classification needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// The protocol after the IP header (IPv6: after a hop-by-hop header too).
    pub protocol: u8,
    /// Whether this is a fragment other than the first, so that `payload` begins in the middle.
    pub later_fragment: bool,
    /// What follows the IP header.
    pub payload: &'a [u8],
}

impl<'a> Headers<'a> {
    /// Reads an Ethernet frame with any number of VLAN tags; `None` if it is not IP or too short to tell.
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let (ethertype, packet) = ethernet(frame)?;
        match ethertype {
            ETHERTYPE_IPV4 => Self::parse_v4(packet),
            ETHERTYPE_IPV6 => Self::parse_v6(packet),
            _ => None,
        }
    }

    fn parse_v4(packet: &'a [u8]) -> Option<Self> {
        let header_length = usize::from(packet.first()? & 0x0f) * 4;
        let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
        let destination: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
        Some(Self {
            source: Ipv4Addr::from(source).into(),
            destination: Ipv4Addr::from(destination).into(),
            protocol: *packet.get(9)?,
            later_fragment: be16(packet, 6)? & 0x1fff != 0,
            payload: packet.get(header_length..)?,
        })
    }

    fn parse_v6(packet: &'a [u8]) -> Option<Self> {
        let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
        let destination: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
        let mut protocol = *packet.get(6)?;
        let mut payload = packet.get(40..)?;
        if protocol == HOP_BY_HOP {
            protocol = *payload.first()?;
            payload = payload.get((usize::from(*payload.get(1)?) + 1) * 8..)?;
        }
        let mut later_fragment = false;
        if protocol == 44 {
            protocol = *payload.first()?;
            later_fragment = be16(payload, 2)? & 0xfff8 != 0;
            payload = payload.get(8..)?;
        }
        Some(Self {
            source: Ipv6Addr::from(source).into(),
            destination: Ipv6Addr::from(destination).into(),
            protocol,
            later_fragment,
            payload,
        })
    }

    /// Source and destination port of a UDP or TCP packet.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let has_ports = matches!(self.protocol, 6 | UDP) && !self.later_fragment;
        has_ports.then(|| Some((be16(self.payload, 0)?, be16(self.payload, 2)?))).flatten()
    }

    /// The SPI of an ESP packet, on IP or in UDP.
    pub fn spi(&self) -> Option<u32> {
        self.esp().map(|(spi, _)| spi)
    }

    /// The SPI and the sequence number of an ESP packet (of an extended one the lower half), on IP or in UDP.
    pub fn esp(&self) -> Option<(u32, u32)> {
        let esp = match self.protocol {
            ESP if !self.later_fragment => self.payload,
            UDP if self.ports().is_some_and(|(from, to)| from == PORT_NAT_T || to == PORT_NAT_T) => {
                self.payload.get(8..)?
            }
            _ => return None,
        };
        let word = |at: usize| Some(u32::from_be_bytes(esp.get(at..at + 4)?.try_into().ok()?));
        let spi = word(0)?;
        (spi != 0).then_some((spi, word(4)?))
    }
}

/// Tells what an Ethernet frame is; `outer` are the addresses between which ICMP is housekeeping.
pub fn classify(frame: &[u8], outer: &[IpAddr]) -> Class {
    match ethernet(frame) {
        Some((ETHERTYPE_ARP, _)) => Class::Neighbour,
        Some((ETHERTYPE_MARKER, _)) => Class::Marker,
        Some((ETHERTYPE_IPV4 | ETHERTYPE_IPV6, _)) => {
            Headers::parse(frame).map_or(Class::Clear, |headers| classify_ip(&headers, outer))
        }
        Some(_) => Class::NotIp,
        None => Class::Clear,
    }
}

fn classify_ip(headers: &Headers<'_>, outer: &[IpAddr]) -> Class {
    match headers.protocol {
        ESP => Class::Esp,
        IGMP => Class::Neighbour,
        UDP => classify_udp(headers).unwrap_or(Class::Clear),
        ICMPV6 if headers.payload.first().is_some_and(|kind| matches!(kind, 130..=137 | 143)) => {
            Class::Neighbour
        }
        ICMP | ICMPV6 if outer.contains(&headers.source) && outer.contains(&headers.destination) => {
            Class::IcmpOuter
        }
        _ => Class::Clear,
    }
}

fn classify_udp(headers: &Headers<'_>) -> Option<Class> {
    let (from, to) = headers.ports()?;
    if from == PORT_IKE || to == PORT_IKE {
        return Some(Class::Ike);
    }
    if from != PORT_NAT_T && to != PORT_NAT_T {
        return None;
    }
    // The UDP length, not the frame's, bounds the data: a short frame is padded.
    let data = headers.payload.get(8..usize::from(be16(headers.payload, 4)?)).or(headers.payload.get(8..))?;
    match data {
        [0xff] => Some(Class::Keepalive),
        [0, 0, 0, 0, ..] => Some(Class::Ike),
        [_, _, _, _, _, _, _, _, ..] => Some(Class::UdpEsp),
        _ => None,
    }
}

/// The EtherType behind any VLAN tags, and what follows it.
fn ethernet(frame: &[u8]) -> Option<(u16, &[u8])> {
    let mut rest = frame.get(12..)?;
    loop {
        let ethertype = be16(rest, 0)?;
        if !ETHERTYPES_VLAN.contains(&ethertype) {
            return Some((ethertype, rest.get(2..)?));
        }
        rest = rest.get(4..)?;
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTER: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2))];

    /// An Ethernet frame with an IPv4 header; checksums are not looked at.
    fn ipv4(protocol: u8, source: [u8; 4], destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend(ETHERTYPE_IPV4.to_be_bytes());
        frame.extend([0x45, 0]);
        frame.extend(u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
        frame.extend(source);
        frame.extend(destination);
        frame.extend(payload);
        frame
    }

    fn udp(from: u16, to: u16, data: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::new();
        datagram.extend(from.to_be_bytes());
        datagram.extend(to.to_be_bytes());
        datagram.extend(u16::try_from(8 + data.len()).unwrap().to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(data);
        ipv4(UDP, [192, 0, 2, 1], [192, 0, 2, 2], &datagram)
    }

    #[test]
    fn port_4500_tells_esp_ike_and_keepalives_apart() {
        let esp = [0xc0, 0, 0, 1, 0, 0, 0, 1, 9, 9];
        assert_eq!(classify(&udp(4500, 4500, &esp), &[]), Class::UdpEsp);
        assert_eq!(classify(&udp(4500, 4500, &[0, 0, 0, 0, 1, 2, 3, 4]), &[]), Class::Ike);
        assert_eq!(classify(&udp(4500, 4500, &[0xff]), &[]), Class::Keepalive);
        let mut padded = udp(4500, 4500, &[0xff]);
        padded.resize(60, 0);
        assert_eq!(classify(&padded, &[]), Class::Keepalive);
        assert_eq!(classify(&udp(4500, 4500, &[0xff, 0xfe]), &[]), Class::Clear);
    }

    #[test]
    fn icmp_is_clear_text_unless_both_addresses_are_outer() {
        let echo = [8, 0, 0, 0, 0, 1, 0, 1];
        assert_eq!(classify(&ipv4(ICMP, [192, 0, 2, 1], [192, 0, 2, 2], &echo), &OUTER), Class::IcmpOuter);
        assert_eq!(classify(&ipv4(ICMP, [192, 0, 2, 1], [10, 2, 0, 1], &echo), &OUTER), Class::Clear);
        assert_eq!(classify(&ipv4(ICMP, [192, 0, 2, 1], [192, 0, 2, 2], &echo), &[]), Class::Clear);
    }

    #[test]
    fn what_cannot_be_told_is_clear_text() {
        assert_eq!(classify(&udp(1234, 80, b"GET /"), &OUTER), Class::Clear);
        let mut cut = udp(4500, 4500, &[0xc0, 0, 0, 1, 0, 0, 0, 1]);
        cut.truncate(20);
        assert_eq!(classify(&cut, &OUTER), Class::Clear);
        assert_eq!(classify(&[0; 5], &OUTER), Class::Clear);
    }

    #[test]
    fn a_vlan_tag_hides_nothing() {
        let mut frame = ipv4(ESP, [192, 0, 2, 1], [192, 0, 2, 2], &[0xc0, 0, 0, 1, 0, 0, 0, 1]);
        frame.splice(12..12, [0x81, 0, 0, 7]);
        assert_eq!(classify(&frame, &[]), Class::Esp);
        assert_eq!(Headers::parse(&frame).and_then(|headers| headers.spi()), Some(0xc000_0001));
    }

    #[test]
    fn multicast_listener_reports_are_housekeeping() {
        let mut frame = vec![0; 12];
        frame.extend(ETHERTYPE_IPV6.to_be_bytes());
        frame.extend([0x60, 0, 0, 0, 0, 36, HOP_BY_HOP, 1]);
        frame.extend([0; 32]);
        frame.extend([ICMPV6, 0, 5, 2, 0, 0, 1, 0]);
        frame.extend([143, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(classify(&frame, &[]), Class::Neighbour);
    }
}
