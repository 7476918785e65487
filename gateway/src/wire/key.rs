//! A packet's selectors in five words: what workers carry, hash and compare in place of a [`Flow`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_ipsec::{Flow, TenantId};

/// The same as a [`Flow`]. Addresses are numbers, the higher half first.
#[derive(Debug, Clone, Copy, Eq)]
pub struct FlowKey {
    /// Family, which ports there are, protocol (bits 32 to 39), source port (16 to 31) and destination port.
    head: u64,
    src: [u64; 2],
    dst: [u64; 2],
}

const V6: u64 = 1 << 63;
const SRC_PORT: u64 = 1 << 62;
const DST_PORT: u64 = 1 << 61;
const PROTOCOL_SHIFT: u32 = 32;

impl FlowKey {
    #[inline]
    pub(super) fn v4(src: u32, dst: u32, protocol: u8, ports: Ports) -> Self {
        let head = u64::from(protocol) << PROTOCOL_SHIFT | ports.0;
        Self { head, src: [0, u64::from(src)], dst: [0, u64::from(dst)] }
    }

    #[inline]
    pub(super) fn v6(src: u128, dst: u128, protocol: u8, ports: Ports) -> Self {
        let head = V6 | u64::from(protocol) << PROTOCOL_SHIFT | ports.0;
        Self { head, src: words(src), dst: words(dst) }
    }

    /// Whether it is a flow of IPv6.
    #[inline]
    pub fn is_ipv6(&self) -> bool {
        self.head & V6 != 0
    }

    /// IP protocol number of the upper layer.
    #[inline]
    pub fn protocol(&self) -> u8 {
        (self.head >> PROTOCOL_SHIFT) as u8
    }

    /// Source port, or ICMP type and code; `None` where it cannot be seen.
    #[inline]
    pub fn src_port(&self) -> Option<u16> {
        (self.head & SRC_PORT != 0).then_some((self.head >> 16) as u16)
    }

    /// Destination port, likewise.
    #[inline]
    pub fn dst_port(&self) -> Option<u16> {
        (self.head & DST_PORT != 0).then_some(self.head as u16)
    }

    /// The source address as a number.
    #[inline]
    pub fn src_bits(&self) -> u128 {
        bits(self.src)
    }

    /// The destination address as a number.
    #[inline]
    pub fn dst_bits(&self) -> u128 {
        bits(self.dst)
    }

    /// Source address.
    pub fn src(&self) -> IpAddr {
        self.addr(self.src)
    }

    /// Destination address.
    pub fn dst(&self) -> IpAddr {
        self.addr(self.dst)
    }

    fn addr(&self, words: [u64; 2]) -> IpAddr {
        if self.is_ipv6() {
            IpAddr::V6(Ipv6Addr::from_bits(bits(words)))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(bits(words) as u32))
        }
    }

    /// As the other parts of the program know it.
    pub fn flow(&self) -> Flow {
        Flow {
            src: self.src(),
            dst: self.dst(),
            protocol: self.protocol(),
            src_port: self.src_port(),
            dst_port: self.dst_port(),
        }
    }

    /// For storing it as words.
    pub(crate) fn to_words(self) -> [u64; 5] {
        let ([s0, s1], [d0, d1]) = (self.src, self.dst);
        [self.head, s0, s1, d0, d1]
    }

    /// From such words.
    pub(crate) fn from_words([head, s0, s1, d0, d1]: [u64; 5]) -> Self {
        Self { head, src: [s0, s1], dst: [d0, d1] }
    }

    /// Spread over 64 bits, in a way that nobody can foresee who does not know `seed`.
    #[inline(always)]
    pub fn hash(&self, seed: u64, tenant: TenantId) -> u64 {
        let ([s0, s1], [d0, d1]) = (self.src, self.dst);
        let mut addresses = fold(s1 ^ seed, d1 ^ !seed);
        if self.is_ipv6() {
            addresses ^= fold(s0 ^ K0 ^ seed, d0 ^ K1);
        }
        fold(addresses ^ K2, self.head ^ seed ^ u64::from(tenant.0) << 40)
    }
}

impl PartialEq for FlowKey {
    /// Without a branch per word: most comparisons are of equals.
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        let ([a0, a1], [b0, b1]) = (self.src, self.dst);
        let ([c0, c1], [d0, d1]) = (other.src, other.dst);
        (self.head ^ other.head) | (a0 ^ c0) | (a1 ^ c1) | (b0 ^ d0) | (b1 ^ d1) == 0
    }
}

impl From<&Flow> for FlowKey {
    fn from(flow: &Flow) -> Self {
        let src = flow.src_port.map_or(0, |port| SRC_PORT | u64::from(port) << 16);
        let dst = flow.dst_port.map_or(0, |port| DST_PORT | u64::from(port));
        let ports = Ports(src | dst);
        match (flow.src, flow.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                Self::v4(src.to_bits(), dst.to_bits(), flow.protocol, ports)
            }
            (src, dst) => Self::v6(number(src), number(dst), flow.protocol, ports),
        }
    }
}

/// The ports of a flow, as its head has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ports(u64);

impl Ports {
    /// Not to be seen.
    pub(super) const UNSEEN: Self = Self(0);

    /// From both, the source's above.
    #[inline(always)]
    pub(super) fn of(both: u32) -> Self {
        Self(SRC_PORT | DST_PORT | u64::from(both))
    }

    /// From the four octets of both.
    #[inline]
    pub(super) fn new(octets: [u8; 4]) -> Self {
        Self::of(u32::from_be_bytes(octets))
    }

    /// ICMP type and code, or what else is the same at both ends.
    #[inline]
    pub(super) fn both([high, low]: [u8; 2]) -> Self {
        Self::new([high, low, high, low])
    }
}

const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xd6e8_feb8_6659_fd93;
const K2: u64 = 0xd134_2543_de82_ef95;

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[inline]
fn words(bits: u128) -> [u64; 2] {
    [(bits >> 64) as u64, bits as u64]
}

#[inline]
fn bits([high, low]: [u64; 2]) -> u128 {
    u128::from(high) << 64 | u128::from(low)
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => addr.to_bits().into(),
        IpAddr::V6(addr) => addr.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_flow() -> impl Strategy<Value = Flow> {
        let addrs = prop_oneof![
            any::<[Ipv4Addr; 2]>().prop_map(|pair| pair.map(IpAddr::V4)),
            any::<[Ipv6Addr; 2]>().prop_map(|pair| pair.map(IpAddr::V6)),
        ];
        (addrs, any::<(u8, Option<u16>, Option<u16>)>()).prop_map(
            |([src, dst], (protocol, src_port, dst_port))| Flow { src, dst, protocol, src_port, dst_port },
        )
    }

    proptest! {
        #[test]
        fn a_flow_survives_its_key(flow in any_flow()) {
            let key = FlowKey::from(&flow);
            prop_assert_eq!(key.flow(), flow);
            prop_assert_eq!(FlowKey::from_words(key.to_words()), key);
        }

        #[test]
        fn keys_are_equal_when_flows_are(a in any_flow(), b in any_flow(), change in 0..6_u8) {
            // Flows that differ in one part at most.
            let mut near = a;
            match change {
                0 => near.src = if a.src.is_ipv6() == b.src.is_ipv6() { b.src } else { a.src },
                1 => near.dst = if a.dst.is_ipv6() == b.dst.is_ipv6() { b.dst } else { a.dst },
                2 => near.protocol = b.protocol,
                3 => near.src_port = b.src_port,
                4 => near.dst_port = b.dst_port,
                _ => {}
            }
            let same = FlowKey::from(&a) == FlowKey::from(&near);
            prop_assert_eq!(same, a == near);
            let hash = |flow: &Flow| FlowKey::from(flow).hash(7, TenantId(1));
            prop_assert_eq!(hash(&a) == hash(&near), same);
        }
    }

    #[test]
    fn an_ipv4_flow_is_not_the_ipv6_flow_of_the_same_numbers() {
        let v4 = Flow {
            src: Ipv4Addr::from_bits(1).into(),
            dst: Ipv4Addr::from_bits(2).into(),
            protocol: 17,
            src_port: None,
            dst_port: None,
        };
        let v6 = Flow { src: Ipv6Addr::from_bits(1).into(), dst: Ipv6Addr::from_bits(2).into(), ..v4 };
        assert_ne!(FlowKey::from(&v4), FlowKey::from(&v6));
    }
}
