//! An SA's traffic selectors as workers check them: inline, and as numbers that a [`FlowKey`] is compared with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use portcullis_ipsec::{AddressRange, InstallError, PortRange, TrafficSelector};

use super::entry::invalid;
use crate::wire::FlowKey;

/// Most selectors on each side of an SA.
pub const MAX_SELECTORS: usize = 8;

/// Which end of the tunnel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Local,
    Remote,
}

/// The first selector of each side lies in front: most SAs have no other.
#[derive(Debug)]
pub(super) struct Selectors {
    places: [[Packed; 2]; MAX_SELECTORS],
    lens: [u8; 2],
}

/// A selector; addresses are numbers, whose family stands beside them.
#[derive(Debug, Clone, Copy)]
struct Packed {
    start: u128,
    end: u128,
    ports: PortRange,
    protocol: u8,
    v6: bool,
    /// Whether addresses alone decide.
    any: bool,
}

impl Selectors {
    /// Octets of the first of each side.
    pub(super) const FIRST: Range<usize> = 0..size_of::<[Packed; 2]>();

    pub(super) fn new(local: &[TrafficSelector], remote: &[TrafficSelector]) -> Result<Self, InstallError> {
        for (field, selectors) in [("local_ts", local), ("remote_ts", remote)] {
            if !(1..=MAX_SELECTORS).contains(&selectors.len()) {
                let found = format_args!("{} selectors", selectors.len());
                return Err(invalid(field, found, "1 to 8 selectors"));
            }
        }
        let nothing = TrafficSelector::any(AddressRange::from(IpAddr::from([0, 0, 0, 0])));
        let packed = |selectors: &[TrafficSelector], at: usize| {
            Packed::new(selectors.get(at).copied().unwrap_or(nothing))
        };
        Ok(Self {
            places: std::array::from_fn(|at| [packed(local, at), packed(remote, at)]),
            lens: [local.len() as u8, remote.len() as u8],
        })
    }

    /// Whether the packet goes from one of `from`'s to one of the other side's.
    #[inline(always)]
    pub(super) fn permit(&self, from: Side, flow: &FlowKey) -> bool {
        let [[local, remote], ..] = &self.places;
        let (src, dst) = match from {
            Side::Local => (local, remote),
            Side::Remote => (remote, local),
        };
        src.covers(flow, flow.src_bits()) & dst.covers(flow, flow.dst_bits()) || self.permit_any(from, flow)
    }

    #[cold]
    fn permit_any(&self, from: Side, flow: &FlowKey) -> bool {
        let to = match from {
            Side::Local => Side::Remote,
            Side::Remote => Side::Local,
        };
        self.of(from).any(|selector| selector.matches(flow, flow.src_bits(), flow.src_port()))
            && self.of(to).any(|selector| selector.matches(flow, flow.dst_bits(), flow.dst_port()))
    }

    /// Whether any of them names ports that cannot be seen: it carries later fragments without the first.
    pub(super) fn any_opaque(&self) -> bool {
        [Side::Local, Side::Remote]
            .into_iter()
            .any(|side| self.of(side).any(|it| it.ports == PortRange::OPAQUE))
    }

    /// As they were installed.
    pub(super) fn list(&self, side: Side) -> Vec<TrafficSelector> {
        self.of(side).map(Packed::unpack).collect()
    }

    fn of(&self, side: Side) -> impl Iterator<Item = &Packed> {
        let [local, remote] = self.lens;
        let len = match side {
            Side::Local => local,
            Side::Remote => remote,
        };
        self.places.iter().take(usize::from(len)).map(move |[local, remote]| match side {
            Side::Local => local,
            Side::Remote => remote,
        })
    }
}

impl Packed {
    fn new(selector: TrafficSelector) -> Self {
        let TrafficSelector { addrs, protocol, ports } = selector;
        let (start, end, v6) = match addrs {
            AddressRange::V4 { start, end } => (start.to_bits().into(), end.to_bits().into(), false),
            AddressRange::V6 { start, end } => (start.to_bits(), end.to_bits(), true),
        };
        Self { start, end, ports, protocol, v6, any: protocol == 0 && ports == PortRange::ANY }
    }

    /// Whether it matches by its addresses alone.
    #[inline(always)]
    fn covers(&self, flow: &FlowKey, addr: u128) -> bool {
        self.any & (self.v6 == flow.is_ipv6()) & (self.start <= addr) & (addr <= self.end)
    }

    fn matches(&self, flow: &FlowKey, addr: u128, port: Option<u16>) -> bool {
        (self.v6 == flow.is_ipv6())
            && (self.start..=self.end).contains(&addr)
            && (self.protocol == 0 || self.protocol == flow.protocol())
            && self.ports.contains(port)
    }

    fn unpack(&self) -> TrafficSelector {
        let addrs = if self.v6 {
            AddressRange::V6 { start: Ipv6Addr::from_bits(self.start), end: Ipv6Addr::from_bits(self.end) }
        } else {
            let addr = |bits: u128| Ipv4Addr::from_bits(bits as u32);
            AddressRange::V4 { start: addr(self.start), end: addr(self.end) }
        };
        TrafficSelector { addrs, protocol: self.protocol, ports: self.ports }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use portcullis_ipsec::Flow;
    use proptest::prelude::*;

    use super::*;

    fn any_selector() -> impl Strategy<Value = TrafficSelector> {
        let addrs = prop_oneof![
            any::<[u8; 2]>().prop_map(|[a, b]| {
                let addr = |low| Ipv4Addr::new(10, 0, 0, low);
                AddressRange::V4 { start: addr(a.min(b)), end: addr(a.max(b)) }
            }),
            any::<[u8; 2]>().prop_map(|[a, b]| {
                let addr = |low: u8| Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(low) << 60);
                AddressRange::V6 { start: addr(a.min(b)), end: addr(a.max(b)) }
            }),
        ];
        let ports = prop_oneof![
            3 => Just(PortRange::ANY),
            1 => Just(PortRange::OPAQUE),
            2 => (0..9_u16, 0..9_u16).prop_map(|(a, b)| PortRange { start: a.min(b), end: a.max(b) }),
        ];
        (addrs, prop_oneof![Just(0), Just(6), Just(17)], ports)
            .prop_map(|(addrs, protocol, ports)| TrafficSelector { addrs, protocol, ports })
    }

    fn any_flow() -> impl Strategy<Value = Flow> {
        let parts = (any::<[u8; 2]>(), prop_oneof![Just(6), Just(17)], any::<[Option<bool>; 2]>());
        (parts, any::<bool>()).prop_map(|(([src, dst], protocol, ports), v6)| {
            let addr = |low: u8| match v6 {
                false => IpAddr::from([10, 0, 0, low]),
                true => Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(low) << 60).into(),
            };
            let [src_port, dst_port] = ports.map(|port| port.map(|high| if high { 7 } else { 2 }));
            Flow { src: addr(src), dst: addr(dst), protocol, src_port, dst_port }
        })
    }

    proptest! {
        #[test]
        fn packed_selectors_match_what_the_plain_ones_do(
            local in prop::collection::vec(any_selector(), 1..=MAX_SELECTORS),
            remote in prop::collection::vec(any_selector(), 1..=MAX_SELECTORS),
            flow in any_flow(),
        ) {
            let packed = Selectors::new(&local, &remote).unwrap();
            prop_assert_eq!(packed.list(Side::Local), local.clone());
            prop_assert_eq!(packed.list(Side::Remote), remote.clone());
            let key = FlowKey::from(&flow);
            prop_assert_eq!(packed.permit(Side::Local, &key), flow.matches(&local, &remote));
            prop_assert_eq!(packed.permit(Side::Remote, &key), flow.matches(&remote, &local));
        }
    }

    #[test]
    fn no_selector_and_nine_are_refused() {
        let one = TrafficSelector::any(AddressRange::from(IpAddr::from([10, 0, 0, 1])));
        for count in [0, MAX_SELECTORS + 1] {
            assert!(Selectors::new(&vec![one; count], &[one]).is_err());
            assert!(Selectors::new(&[one], &vec![one; count]).is_err());
        }
    }
}
