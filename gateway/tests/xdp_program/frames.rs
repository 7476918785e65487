//! Frames written octet by octet, and the addresses that the tests speak of.

use std::net::IpAddr;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ESP: u8 = 50;
pub(crate) const ICMPV6: u8 = 58;

/// One address of each kind, in one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family {
    /// Ours, on the outside interface, for ESP and IKE.
    pub(crate) tunnel: IpAddr,
    /// Ours, on the outside interface, not for ESP.
    pub(crate) outside: IpAddr,
    /// Ours, in the local prefix, on the inside interface.
    pub(crate) inside: IpAddr,
    /// A host in the local prefix.
    pub(crate) local: IpAddr,
    /// A host in the remote prefix.
    pub(crate) remote: IpAddr,
    /// The peer's gateway.
    pub(crate) peer: IpAddr,
    /// A host that no policy knows.
    pub(crate) stranger: IpAddr,
    pub(crate) local_prefix: &'static str,
    pub(crate) remote_prefix: &'static str,
    pub(crate) everything: &'static str,
    pub(crate) multicast: IpAddr,
}

pub(crate) fn families() -> [Family; 2] {
    let ip = |text: &str| text.parse().unwrap();
    [
        Family {
            tunnel: ip("192.0.2.1"),
            outside: ip("192.0.2.9"),
            inside: ip("10.1.0.1"),
            local: ip("10.1.0.5"),
            remote: ip("10.2.0.5"),
            peer: ip("198.51.100.1"),
            stranger: ip("203.0.113.7"),
            local_prefix: "10.1.0.0/16",
            remote_prefix: "10.2.0.0/16",
            everything: "0.0.0.0/0",
            multicast: ip("224.0.0.251"),
        },
        Family {
            tunnel: ip("2001:db8:ffff::1"),
            outside: ip("2001:db8:ffff::9"),
            inside: ip("2001:db8:1::1"),
            local: ip("2001:db8:1::5"),
            remote: ip("2001:db8:2::5"),
            peer: ip("2001:db8:eeee::1"),
            stranger: ip("2001:db8:7777::7"),
            local_prefix: "2001:db8:1::/48",
            remote_prefix: "2001:db8:2::/48",
            everything: "::/0",
            multicast: ip("ff02::fb"),
        },
    ]
}

/// An Ethernet header, VLAN tags (outermost first, 802.1ad outside 802.1Q), and `packet`.
pub(crate) fn tagged(tags: usize, packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in (0..tags).rev() {
        frame.extend(if tag > 0 { [0x88, 0xa8] } else { [0x81, 0x00] });
        frame.extend([0, tag as u8 + 10]);
    }
    frame.extend(if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    frame.extend(packet);
    frame
}

pub(crate) fn frame(packet: &[u8]) -> Vec<u8> {
    tagged(0, packet)
}

/// An IP packet without options or extension headers.
pub(crate) fn packet(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(_), IpAddr::V4(_)) => ipv4(src, dst, protocol, &[], 0, payload),
        _ => ipv6(src, dst, protocol, 64, payload),
    }
}

/// An IPv4 packet; `fragment` is the word of flags and offset.
pub(crate) fn ipv4(
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    options: &[u8],
    fragment: u16,
    payload: &[u8],
) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let header = 20 + options.len();
    let total = (header + payload.len()) as u16;
    let mut packet = vec![0x40 | (header / 4) as u8, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(octets(src));
    packet.extend(octets(dst));
    packet.extend(options);
    packet.extend(payload);
    packet
}

pub(crate) fn ipv6(src: IpAddr, dst: IpAddr, next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, hop_limit]);
    packet.extend(octets(src));
    packet.extend(octets(dst));
    packet.extend(payload);
    packet
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// An IPv6 extension header of `units` times 8 octets in front of `rest`.
pub(crate) fn extension(next: u8, units: u8, rest: &[u8]) -> Vec<u8> {
    let mut header = vec![0; usize::from(units) * 8];
    header[0] = next;
    header[1] = units - 1;
    header.extend(rest);
    header
}

/// An IPv6 fragment header in front of `rest`; `offset` in units of 8 octets.
pub(crate) fn fragment(next: u8, offset: u16, more: bool, rest: &[u8]) -> Vec<u8> {
    let mut header = vec![next, 0];
    header.extend((offset << 3 | u16::from(more)).to_be_bytes());
    header.extend([0, 0, 0, 1]);
    header.extend(rest);
    header
}

/// One fragment of a datagram, in either family; `offset` in units of 8 octets.
pub(crate) fn fragment_of(
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    offset: u16,
    more: bool,
    payload: &[u8],
) -> Vec<u8> {
    match src {
        IpAddr::V4(_) => ipv4(src, dst, protocol, &[], u16::from(more) << 13 | offset, payload),
        IpAddr::V6(_) => ipv6(src, dst, 44, 64, &fragment(protocol, offset, more, payload)),
    }
}

pub(crate) fn udp(src_port: u16, dst_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(src_port.to_be_bytes());
    datagram.extend(dst_port.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// The head of an ESP packet: an SPI, a sequence number, something sealed.
pub(crate) fn esp() -> Vec<u8> {
    let mut esp = vec![0xc0, 0xff, 0xee, 0x01, 0, 0, 0, 1];
    esp.extend([0xa5; 40]);
    esp
}
