//! Traffic selectors (RFC 7296 §3.13.1), in swanctl's notation: `10.1.0.0/16`, `10.1.0.1-10.1.0.9`,
//! `2001:db8::/32[tcp/443]`, `10.2.0.0/16[udp/1000-2000]`, `10.0.0.1[icmp]`, `10.0.0.1[icmp/8]` (any code of that type),
//! `10.0.0.1[icmp/3(4)]` (a type and a code).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

/// A text that is no traffic selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{found}` is not a traffic selector: {problem} (expected e.g. `10.1.0.0/16`, `10.1.0.1-10.1.0.9` or `2001:db8::/32[tcp/443]`)"
)]
pub struct SelectorError {
    /// The text.
    pub found: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A non-empty inclusive range of addresses of one family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressRange {
    /// IPv4, `start <= end`.
    V4 {
        /// Lowest address.
        start: Ipv4Addr,
        /// Highest address.
        end: Ipv4Addr,
    },
    /// IPv6, `start <= end`.
    V6 {
        /// Lowest address.
        start: Ipv6Addr,
        /// Highest address.
        end: Ipv6Addr,
    },
}

impl AddressRange {
    /// The range, or `None` if the families differ or it is empty.
    pub fn new(start: IpAddr, end: IpAddr) -> Option<Self> {
        match (start, end) {
            (IpAddr::V4(start), IpAddr::V4(end)) if start <= end => Some(Self::V4 { start, end }),
            (IpAddr::V6(start), IpAddr::V6(end)) if start <= end => Some(Self::V6 { start, end }),
            _ => None,
        }
    }

    /// Lowest address.
    pub fn start(self) -> IpAddr {
        match self {
            Self::V4 { start, .. } => start.into(),
            Self::V6 { start, .. } => start.into(),
        }
    }

    /// Highest address.
    pub fn end(self) -> IpAddr {
        match self {
            Self::V4 { end, .. } => end.into(),
            Self::V6 { end, .. } => end.into(),
        }
    }

    /// Whether the address lies in the range.
    pub fn contains(self, addr: IpAddr) -> bool {
        match (self, addr) {
            (Self::V4 { start, end }, IpAddr::V4(a)) => start <= a && a <= end,
            (Self::V6 { start, end }, IpAddr::V6(a)) => start <= a && a <= end,
            _ => false,
        }
    }

    /// The addresses in both.
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::new(self.start().max(other.start()), self.end().min(other.end()))
    }

    /// The fewest prefixes that together are the range.
    pub fn prefixes(self) -> Vec<IpNet> {
        match self {
            Self::V4 { start, end } => Ipv4Subnets::new(start, end, 0).map(IpNet::V4).collect(),
            Self::V6 { start, end } => Ipv6Subnets::new(start, end, 0).map(IpNet::V6).collect(),
        }
    }
}

impl From<IpNet> for AddressRange {
    fn from(net: IpNet) -> Self {
        match net {
            IpNet::V4(net) => Self::V4 { start: net.network(), end: net.broadcast() },
            IpNet::V6(net) => Self::V6 { start: net.network(), end: net.broadcast() },
        }
    }
}

impl From<IpAddr> for AddressRange {
    fn from(addr: IpAddr) -> Self {
        IpNet::from(addr).into()
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefixes().as_slice() {
            [net] => net.fmt(f),
            _ => write!(f, "{}-{}", self.start(), self.end()),
        }
    }
}

impl fmt::Debug for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An inclusive range of ports in host byte order, or of ICMP type and code as `type << 8 | code`
/// (RFC 7296 §3.13.1). [`PortRange::OPAQUE`] (65535 to 0) matches only packets whose ports cannot be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// Lowest port.
    pub start: u16,
    /// Highest port.
    pub end: u16,
}

impl PortRange {
    /// Every port, and packets without any.
    pub const ANY: Self = Self { start: 0, end: u16::MAX };
    /// RFC 7296 §3.13.1: packets whose ports are not to be had, such as fragments.
    pub const OPAQUE: Self = Self { start: u16::MAX, end: 0 };

    /// Whether a packet with this port (`None`: not to be seen) matches.
    pub fn contains(self, port: Option<u16>) -> bool {
        match port {
            Some(port) => self.start <= port && port <= self.end,
            None => self == Self::ANY || self == Self::OPAQUE,
        }
    }

    /// The ports in both.
    pub fn intersection(self, other: Self) -> Option<Self> {
        if self == Self::OPAQUE || other == Self::OPAQUE {
            return (self == other || self == Self::ANY || other == Self::ANY).then_some(Self::OPAQUE);
        }
        let both = Self { start: self.start.max(other.start), end: self.end.min(other.end) };
        (both.start <= both.end).then_some(both)
    }
}

/// Addresses, protocol and ports at one end of the protected traffic.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrafficSelector {
    /// Addresses.
    pub addrs: AddressRange,
    /// IP protocol number; 0 is any.
    pub protocol: u8,
    /// Ports.
    pub ports: PortRange,
}

impl TrafficSelector {
    /// Everything to or from these addresses.
    pub fn any(addrs: impl Into<AddressRange>) -> Self {
        Self { addrs: addrs.into(), protocol: 0, ports: PortRange::ANY }
    }

    /// What both match, or `None`.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let protocol = match (self.protocol, other.protocol) {
            (a, 0) => a,
            (0, b) => b,
            (a, b) if a == b => a,
            _ => return None,
        };
        Some(Self {
            addrs: self.addrs.intersection(other.addrs)?,
            protocol,
            ports: self.ports.intersection(other.ports)?,
        })
    }

    /// Whether a packet with this address, protocol and port at this end matches.
    pub fn matches(self, addr: IpAddr, protocol: u8, port: Option<u16>) -> bool {
        self.addrs.contains(addr)
            && (self.protocol == 0 || self.protocol == protocol)
            && self.ports.contains(port)
    }
}

const PROTOCOLS: [(&str, u8); 9] = [
    ("icmp", 1),
    ("ipip", 4),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ipv6-icmp", 58),
    ("icmpv6", 58),
    ("sctp", 132),
];

impl FromStr for TrafficSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let wrong = |problem: String| SelectorError { found: text.to_owned(), problem };
        let (addrs, rest) = match text.split_once('[') {
            Some((addrs, rest)) => match rest.strip_suffix(']') {
                Some(inner) => (addrs, Some(inner)),
                None => return Err(wrong("the `[` is not closed".to_owned())),
            },
            None => (text, None),
        };
        let addrs = parse_addrs(addrs).map_err(wrong)?;
        let (protocol, ports) = match rest {
            None => (0, PortRange::ANY),
            Some(inner) => parse_protocol_ports(inner).map_err(wrong)?,
        };
        Ok(Self { addrs, protocol, ports })
    }
}

fn parse_addrs(text: &str) -> Result<AddressRange, String> {
    if let Some((start, end)) = text.split_once('-') {
        let parse = |t: &str| t.parse::<IpAddr>().map_err(|_| format!("`{t}` is not an IP address"));
        return AddressRange::new(parse(start)?, parse(end)?)
            .ok_or_else(|| "the range is empty or mixes address families".to_owned());
    }
    if let Ok(addr) = text.parse::<IpAddr>() {
        return Ok(addr.into());
    }
    let net = text.parse::<IpNet>().map_err(|_| format!("`{text}` is not an address, prefix or range"))?;
    if net.addr() != net.network() {
        return Err(format!("`{net}` has bits set behind the prefix; did you mean `{}`", net.trunc()));
    }
    Ok(net.into())
}

fn parse_protocol_ports(text: &str) -> Result<(u8, PortRange), String> {
    let (protocol, ports) = match text.split_once('/') {
        Some((protocol, ports)) => (protocol, Some(ports)),
        None => (text, None),
    };
    let number = PROTOCOLS.iter().find(|(name, _)| *name == protocol).map(|(_, number)| *number);
    let protocol = match number {
        Some(number) => number,
        None if protocol == "any" => 0,
        None => protocol.parse().map_err(|_| format!("`{protocol}` is not a protocol name or number"))?,
    };
    let port = |t: &str| t.parse::<u16>().map_err(|_| format!("`{t}` is not a port (0 to 65535)"));
    let ports = match ports {
        None | Some("any") => PortRange::ANY,
        Some("opaque") => PortRange::OPAQUE,
        Some(text) if is_icmp(protocol) => parse_icmp(text)?,
        Some(text) => match text.split_once('-') {
            Some((start, end)) => PortRange { start: port(start)?, end: port(end)? },
            None => PortRange { start: port(text)?, end: port(text)? },
        },
    };
    if ports != PortRange::OPAQUE && ports.start > ports.end {
        return Err(format!("the port range {}-{} is empty", ports.start, ports.end));
    }
    Ok((protocol, ports))
}

fn is_icmp(protocol: u8) -> bool {
    matches!(protocol, 1 | 58)
}

/// `8`, `3(4)`, `0-18` or `3(0)-3(3)`; and as strongSwan has it, a number from 256 on is a type and a code in one.
fn parse_icmp(text: &str) -> Result<PortRange, String> {
    let one = |text: &str| -> Result<PortRange, String> {
        let octet = |text: &str| {
            text.parse::<u8>().map_err(|_| format!("`{text}` is not an ICMP type or code (0 to 255)"))
        };
        if let Some((kind, code)) = text.split_once('(') {
            let code = code.strip_suffix(')').ok_or("the `(` is not closed")?;
            let both = u16::from_be_bytes([octet(kind)?, octet(code)?]);
            return Ok(PortRange { start: both, end: both });
        }
        match text.parse::<u16>() {
            Ok(both) if both > 255 => Ok(PortRange { start: both, end: both }),
            _ => octet(text).map(|kind| PortRange {
                start: u16::from_be_bytes([kind, 0]),
                end: u16::from_be_bytes([kind, 255]),
            }),
        }
    };
    match text.split_once('-') {
        Some((start, end)) => Ok(PortRange { start: one(start)?.start, end: one(end)?.end }),
        None => one(text),
    }
}

fn write_icmp(f: &mut fmt::Formatter<'_>, PortRange { start, end }: PortRange) -> fmt::Result {
    let ([first, low], [last, high]) = (start.to_be_bytes(), end.to_be_bytes());
    match (low, high) {
        (0, 255) if first == last => write!(f, "/{first}"),
        (0, 255) => write!(f, "/{first}-{last}"),
        _ if start == end => write!(f, "/{first}({low})"),
        _ => write!(f, "/{first}({low})-{last}({high})"),
    }
}

impl fmt::Display for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addrs.fmt(f)?;
        if self.protocol == 0 && self.ports == PortRange::ANY {
            return Ok(());
        }
        f.write_str("[")?;
        match PROTOCOLS.iter().find(|(_, number)| *number == self.protocol) {
            Some((name, _)) => f.write_str(name)?,
            None if self.protocol == 0 => f.write_str("any")?,
            None => self.protocol.fmt(f)?,
        }
        match self.ports {
            PortRange::ANY => {}
            PortRange::OPAQUE => f.write_str("/opaque")?,
            range if is_icmp(self.protocol) => write_icmp(f, range)?,
            PortRange { start, end } if start == end => write!(f, "/{start}")?,
            PortRange { start, end } => write!(f, "/{start}-{end}")?,
        }
        f.write_str("]")
    }
}

impl fmt::Debug for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One packet's selectors (RFC 4301 §4.4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// IP protocol number of the upper layer.
    pub protocol: u8,
    /// Source port, or ICMP type and code as `type << 8 | code`; `None` where it cannot be seen.
    pub src_port: Option<u16>,
    /// Destination port, likewise.
    pub dst_port: Option<u16>,
}

impl Flow {
    /// The same packet on its way back.
    pub fn reversed(&self) -> Self {
        let Self { src, dst, protocol, src_port, dst_port } = *self;
        Self { src: dst, dst: src, protocol, src_port: dst_port, dst_port: src_port }
    }

    /// Whether the packet goes from one of `sources` to one of `destinations`.
    pub fn matches(&self, sources: &[TrafficSelector], destinations: &[TrafficSelector]) -> bool {
        sources.iter().any(|ts| ts.matches(self.src, self.protocol, self.src_port))
            && destinations.iter().any(|ts| ts.matches(self.dst, self.protocol, self.dst_port))
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.src)?;
        if let Some(port) = self.src_port {
            write!(f, "[{port}]")?;
        }
        write!(f, " > {}", self.dst)?;
        if let Some(port) = self.dst_port {
            write!(f, "[{port}]")?;
        }
        write!(f, " protocol {}", self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(text: &str) -> TrafficSelector {
        text.parse().unwrap()
    }

    #[test]
    fn selectors_are_printed_as_they_are_written() {
        for text in [
            "10.1.0.0/16",
            "10.1.0.1-10.1.0.9",
            "0.0.0.0/0",
            "::/0",
            "2001:db8::/32[tcp/443]",
            "10.2.0.0/16[udp/1000-2000]",
            "10.0.0.1/32[icmp]",
            "10.0.0.1/32[icmp/8]",
            "10.0.0.1/32[icmp/0-18]",
            "10.0.0.1/32[icmp/3(4)]",
            "2001:db8::/64[ipv6-icmp/1(0)-1(3)]",
            "10.0.0.0/8[any/opaque]",
            "10.0.0.0/8[99]",
        ] {
            assert_eq!(ts(text).to_string(), text);
        }
        assert_eq!(ts("10.0.0.1").to_string(), "10.0.0.1/32");
    }

    #[test]
    fn a_wrong_selector_is_told_what_is_wrong() {
        for (text, problem) in [
            ("10.1.0.5/16", "did you mean `10.1.0.0/16`"),
            ("10.1.0.9-10.1.0.1", "range is empty"),
            ("10.1.0.9-::1", "mixes address families"),
            ("banana", "`banana` is not an address"),
            ("10.0.0.0/8[tcp", "not closed"),
            ("10.0.0.0/8[tpc/443]", "`tpc` is not a protocol"),
            ("10.0.0.0/8[tcp/70000]", "`70000` is not a port"),
            ("10.0.0.0/8[tcp/9-1]", "port range 9-1 is empty"),
        ] {
            let error = text.parse::<TrafficSelector>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn intersection_takes_the_narrower_of_each_part() {
        let both = ts("10.0.0.0/8[tcp]").intersection(ts("10.1.0.0/16[any/80]"));
        assert_eq!(both, Some(ts("10.1.0.0/16[tcp/80]")));
        assert_eq!(ts("10.0.0.0/8[tcp]").intersection(ts("10.0.0.0/8[udp]")), None);
        assert_eq!(ts("10.0.0.0/8").intersection(ts("11.0.0.0/8")), None);
        assert_eq!(ts("10.0.0.0/8").intersection(ts("2001:db8::/32")), None);
    }

    #[test]
    fn a_port_that_cannot_be_seen_matches_only_any_and_opaque() {
        assert!(ts("10.0.0.0/8").matches("10.0.0.1".parse().unwrap(), 6, None));
        assert!(ts("10.0.0.0/8[tcp/opaque]").matches("10.0.0.1".parse().unwrap(), 6, None));
        assert!(!ts("10.0.0.0/8[tcp/80]").matches("10.0.0.1".parse().unwrap(), 6, None));
        assert!(!ts("10.0.0.0/8[tcp/opaque]").matches("10.0.0.1".parse().unwrap(), 6, Some(80)));
    }
}
