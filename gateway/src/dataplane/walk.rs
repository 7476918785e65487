//! One packet walked through the tables as they are now, for `portcullis explain flow`. Nothing is sent or changed.

use std::net::IpAddr;

use portcullis_ipsec::{
    EspAlgorithm, Flow, Policy, PolicyAction, PolicyId, RateLimit, Spi, TenantId, TrafficSelector,
    TunnelEndpoints,
};

use super::Dataplane;
use crate::esp;
use crate::policy::{PolicyEntry, Verdict};
use crate::route::{NextHop, Role, RouteTable};

/// Policies that fit in part, at most.
const NEAR: usize = 4;

/// What the tables say of a packet.
#[derive(Debug, Clone)]
pub struct Walk {
    /// Where its source is.
    pub from: Hop,
    /// Where its destination is.
    pub to: Hop,
    /// Whether its addresses are ones that policies have, so that workers get it and the kernel does not.
    pub protected: bool,
    /// Whether one of its addresses is among the `remote_ts` of policies: in clear it does not come in from outside.
    pub remote: bool,
    /// The policy that decides.
    pub policy: Option<Policy>,
    /// If none does, those that fit but for one thing.
    pub near: Vec<(Policy, Miss)>,
    /// The policy that the packet would be an answer of.
    pub back: Option<Policy>,
    /// The SA that the policy has.
    pub sa: Option<SaWalk>,
    /// What limits the way into the tunnel.
    pub rate_out: Option<RateWalk>,
    /// What limits the way out of the tunnel that the packet would have come by.
    pub rate_in: Option<RateWalk>,
}

/// The rate of a policy's SAs, and what was beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateWalk {
    /// The rate.
    pub limit: RateLimit,
    /// Packets that were dropped for it.
    pub dropped: u64,
}

/// Why a policy does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// The source is not among its `local_ts`.
    Source,
    /// The destination is not among its `remote_ts`.
    Destination,
    /// The addresses fit, protocol or ports do not.
    Ports,
}

/// The outbound SA, and the way to the peer.
#[derive(Debug, Clone)]
pub struct SaWalk {
    /// The inbound SPI that names the pair.
    pub pair: Spi,
    /// The peer's SPI.
    pub spi_out: Spi,
    /// Its algorithm.
    pub algorithm: EspAlgorithm,
    /// Its outer addresses.
    pub endpoints: TunnelEndpoints,
    /// Our side, as negotiated.
    pub local_ts: Vec<TrafficSelector>,
    /// The peer's side, as negotiated.
    pub remote_ts: Vec<TrafficSelector>,
    /// Whether the packet lies within both.
    pub covers: bool,
    /// The way to the peer.
    pub hop: Hop,
    /// Octets of the largest inner packet in tunnel mode, if the way is known.
    pub largest: Option<usize>,
}

/// The way to an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hop {
    /// It is the host's own.
    Own,
    /// By this interface.
    Interface {
        /// Its name.
        name: String,
        /// Its side.
        role: Role,
        /// Octets of the largest IP packet.
        mtu: u32,
        /// The next hop, if its link-layer address is not known yet.
        unresolved: Option<IpAddr>,
    },
    /// By an interface that no worker serves, or in a way that only the kernel can.
    Kernel,
    /// By an interface that is down.
    Down,
    /// None.
    None,
}

impl Dataplane {
    /// Walks one packet of a tenant through policy, SA, route and neighbour.
    pub fn walk(&self, tenant: TenantId, flow: &Flow) -> Walk {
        let (policies, routes) = (self.policies.snapshot(), self.routes.load());
        let covering = |flow: &Flow| match policies.lookup(tenant, flow) {
            Verdict::Covered(entry) => Some(entry.as_ref()),
            Verdict::NoMatch => None,
        };
        let decides = covering(flow);
        let back = covering(&flow.reversed());
        let rate = |entry: &PolicyEntry, outward: bool| {
            let (rates, counted) = (self.installer.rates_of(entry), entry.counted());
            let (limit, dropped) = match outward {
                true => (rates.outbound, counted.limited_out),
                false => (rates.inbound, counted.limited_in),
            };
            limit.map(|limit| RateWalk { limit, dropped })
        };
        let protected = self.policies.protected();
        let held = |nets: &[ipnet::IpNet], addr: IpAddr| nets.iter().any(|net| net.contains(&addr));
        Walk {
            from: hop(&routes, flow.src),
            to: hop(&routes, flow.dst),
            protected: held(&protected.local, flow.src) && held(&protected.remote, flow.dst),
            remote: held(&protected.remote, flow.src) || held(&protected.remote, flow.dst),
            policy: decides.map(|entry| entry.policy().clone()),
            near: if decides.is_none() { self.near(tenant, flow) } else { Vec::new() },
            back: back.map(|entry| entry.policy().clone()),
            rate_out: decides.and_then(|entry| rate(entry, true)),
            rate_in: back.and_then(|entry| rate(entry, false)),
            sa: decides.and_then(|entry| self.sa_of(entry, flow, &routes)),
        }
    }

    fn near(&self, tenant: TenantId, flow: &Flow) -> Vec<(Policy, Miss)> {
        let holds = |selectors: &[TrafficSelector], addr| selectors.iter().any(|ts| ts.addrs.contains(addr));
        let miss =
            |policy: &Policy| match (holds(&policy.local_ts, flow.src), holds(&policy.remote_ts, flow.dst)) {
                (true, true) => Some(Miss::Ports),
                (true, false) => Some(Miss::Destination),
                (false, true) => Some(Miss::Source),
                (false, false) => None,
            };
        let mut near: Vec<_> = self
            .policies
            .list()
            .into_iter()
            .filter(|entry| entry.policy().tenant == tenant)
            .filter_map(|entry| Some((entry.policy().clone(), miss(entry.policy())?)))
            .collect();
        // What lacks least comes first.
        near.sort_by_key(|(_, miss)| match miss {
            Miss::Ports => 0,
            Miss::Source => 1,
            Miss::Destination => 2,
        });
        // One that is negotiated has the name of the configured one.
        let mut told = std::collections::HashSet::new();
        near.retain(|(policy, _)| told.insert(policy.name.clone()));
        near.truncate(NEAR);
        near
    }

    fn sa_of(&self, entry: &PolicyEntry, flow: &Flow, routes: &RouteTable) -> Option<SaWalk> {
        let wanted: PolicyId = entry.id();
        if entry.action() != PolicyAction::Protect || entry.outbound().is_none() {
            return None;
        }
        let pairs = self.installer.list();
        let info = pairs.into_iter().find(|info| {
            info.outbound.as_ref().is_some_and(|outbound| {
                outbound.policy == wanted && outbound.current && outbound.worker.is_none()
            })
        })?;
        let outbound = info.outbound.as_ref()?;
        let hop = hop(routes, info.endpoints.remote);
        let largest = match hop {
            Hop::Interface { mtu, .. } => {
                Some(esp::max_inner_len(mtu as usize, &info.endpoints, outbound.algorithm))
            }
            _ => None,
        };
        Some(SaWalk {
            pair: info.pair,
            spi_out: outbound.spi,
            algorithm: outbound.algorithm,
            endpoints: info.endpoints,
            covers: flow.matches(&info.local_ts, &info.remote_ts),
            local_ts: info.local_ts,
            remote_ts: info.remote_ts,
            hop,
            largest,
        })
    }
}

fn hop(routes: &RouteTable, addr: IpAddr) -> Hop {
    let interface = |index, mtu, unresolved| match routes.port(index) {
        Some(port) => Hop::Interface { name: port.name.clone(), role: port.role, mtu, unresolved },
        None => Hop::None,
    };
    match routes.resolve(addr) {
        NextHop::Local => Hop::Own,
        NextHop::Port { port, mtu, .. } => interface(port, mtu, None),
        NextHop::Unresolved { port, mtu, gateway, .. } => interface(port, mtu, Some(gateway)),
        NextHop::Kernel => Hop::Kernel,
        NextHop::LinkDown => Hop::Down,
        NextHop::None => Hop::None,
    }
}
