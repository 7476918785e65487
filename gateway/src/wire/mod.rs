//! Octets of the wire: Ethernet, IPv4, IPv6, UDP, ESP and ICMP headers as plain values, and what writes them.
//!
//! Every `parse` looks at each octet once, trusts no length, and returns a `Copy` value that the rest of the
//! pipeline uses instead of the octets; every `write` returns an array of exactly the header's size. Nothing here
//! keeps state or knows an SA. Start at [`read`], which turns an IP packet into its selectors.
//!
//! All integers in the values are in host byte order.

mod alike;
mod chain;
mod checksum;
mod ethernet;
mod flow;
mod icmp;
mod ipv4;
mod ipv6;
mod key;
mod tcp;
mod udp;

pub use alike::PlainHeader;
pub use chain::{Link, chain, end_to_end};
pub use checksum::{Checksum, replace_word};
pub use ethernet::{ETHERNET_HEADER_LEN, EtherType, Ethernet, Mac, TagProtocol, VlanTags};
pub(crate) use flow::decrement_ttl_v4;
pub use flow::{Fragment, L3Info, decrement_ttl, flow, quoted, read, read_any, read_plain, set_ecn, set_tos};
pub use icmp::{IcmpError, MAX_ICMPV4_ERROR, MAX_ICMPV6_ERROR};
pub use ipv4::{IPV4_HEADER_LEN, Ipv4};
pub use ipv6::{IPV6_HEADER_LEN, IPV6_MIN_MTU, Ipv6};
pub use key::FlowKey;
pub use tcp::{clamp_mss, headers_of_segment};
pub use udp::{UDP_HEADER_LEN, Udp};

/// IP protocol numbers that the data plane tells apart.
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP: the next header of an ESP tunnel that carries IPv4.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// IPv6 in IP: the next header of an ESP tunnel that carries IPv6.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// ESP.
    pub const ESP: u8 = 50;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// Nothing follows; in ESP, a dummy packet (RFC 4303 §2.6).
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// Mobility header (RFC 6275).
    pub const MOBILITY: u8 = 135;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
}
