//! Next hops: the kernel's routes and neighbours as the workers see them.
//!
//! A [`RouteTable`] is one moment of them, immutable; the mirror (`crate::netlink`) publishes a new one after each change.
//! It knows the main and default tables, asked in this order as the kernel's own rules have it, and the host's own
//! addresses. Rules for policy routing are not mirrored: what should go elsewhere than the main table says must leave by
//! an interface without workers, through the kernel. Each worker remembers what it was told in a [`HopCache`].

mod hops;
mod vlan;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::IpNet;

pub use hops::HopCache;
pub use vlan::Vlan;

use crate::lpm::Lpm;
use crate::wire::VlanTags;
use vlan::Vlans;

/// A gateway's interface: its place in [`RouteTable::ports`], or that of a VLAN device behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PortIndex(pub u16);

/// What lies behind an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The untrusted side: IKE and ESP.
    Outside,
    /// The protected side: clear text.
    Inside,
    /// Both at once ("one-armed"): what policy protects tells the sides apart.
    Both,
}

impl Role {
    /// Whether peers are behind it.
    pub const fn is_outside(self) -> bool {
        matches!(self, Self::Outside | Self::Both)
    }

    /// Whether protected hosts are behind it.
    pub const fn is_inside(self) -> bool {
        matches!(self, Self::Inside | Self::Both)
    }
}

/// An interface that workers send and receive on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortInfo {
    /// Its place.
    pub index: PortIndex,
    /// The kernel's number of it; 0 while there is no such interface.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its side.
    pub role: Role,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Octets of its largest IP packet.
    pub mtu: u32,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// Its addresses with their prefixes.
    pub addresses: Vec<IpNet>,
}

/// Where a packet goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHop {
    /// To the host itself.
    Local,
    /// Out of a port, to this neighbour.
    Port {
        /// The port.
        port: PortIndex,
        /// The port's MAC address.
        src_mac: [u8; 6],
        /// The neighbour's.
        dst_mac: [u8; 6],
        /// Octets of the largest IP packet.
        mtu: u32,
    },
    /// Out of a port, but the neighbour's MAC address is not known yet.
    Unresolved {
        /// The port.
        port: PortIndex,
        /// Its interface.
        ifindex: u32,
        /// The neighbour.
        gateway: IpAddr,
        /// Octets of the largest IP packet.
        mtu: u32,
    },
    /// Out of an interface without workers: the kernel forwards it.
    Kernel,
    /// Out of a port that is down.
    LinkDown,
    /// Nowhere: no route, or one that says so.
    None,
}

/// What a route says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// By this interface, to `gateway` or, without one, to the destination itself.
    Via {
        /// The interface.
        ifindex: u32,
        /// The neighbour.
        gateway: Option<IpAddr>,
        /// The route's own limit, octets.
        mtu: Option<u32>,
    },
    /// In a way that only the kernel can (a route with an encapsulation of its own).
    Kernel,
    /// Blackhole, unreachable or prohibit.
    Refused,
    /// Not by this table: the next one decides.
    Throw,
}

/// A neighbour with a usable MAC address.
#[derive(Debug, Clone)]
struct Neighbour {
    mac: [u8; 6],
    /// Whether a worker has looked it up since [`RouteTable::take_used`]. Shared by all tables that hold it.
    used: Arc<AtomicBool>,
}

/// The kernel's tables at one moment. Cheap to make from another: parts that did not change are shared.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    ports: Vec<PortInfo>,
    vlans: Arc<Vlans>,
    tunnel: Arc<HashSet<IpAddr>>,
    local: Arc<HashSet<IpAddr>>,
    broadcast: Arc<HashSet<IpAddr>>,
    main: Arc<Lpm<Route>>,
    default: Arc<Lpm<Route>>,
    neighbours: Arc<HashMap<(u32, IpAddr), Neighbour>>,
    configuration: u64,
}

impl RouteTable {
    /// The tables with these ports, in order of their index.
    pub fn new(ports: Vec<PortInfo>) -> Self {
        let mut table = Self::default();
        table.set_ports(ports);
        table
    }

    /// Replaces the ports.
    pub fn set_ports(&mut self, mut ports: Vec<PortInfo>) {
        ports.sort_by_key(|port| port.index);
        self.ports = ports;
    }

    /// Replaces the VLAN devices on ports, after the ports. Their places lie behind those of the ports, unless they are ports
    /// themselves, and must be the same in every table for the same tags on the same port.
    pub fn set_vlans(&mut self, vlans: Vec<Vlan>) {
        self.vlans = Arc::new(Vlans::new(self.ports.len(), vlans));
    }

    /// Replaces the addresses that ESP comes to.
    pub fn set_tunnel_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.tunnel = Arc::new(addresses.into_iter().collect());
    }

    /// Replaces the host's own addresses, on whatever interface.
    pub fn set_local_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.local = Arc::new(addresses.into_iter().collect());
    }

    /// Replaces the addresses that are for the host although it does not have them: its networks' broadcast addresses,
    /// which a router does not forward to (RFC 2644), and anycast addresses.
    pub fn set_broadcast_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.broadcast = Arc::new(addresses.into_iter().collect());
    }

    /// Replaces the routes of the main table.
    pub fn set_routes(&mut self, routes: impl IntoIterator<Item = (IpNet, Route)>) {
        self.main = Arc::new(lpm(routes));
    }

    /// Replaces the routes of the default table, which is asked where the main table has none.
    pub fn set_default_routes(&mut self, routes: impl IntoIterator<Item = (IpNet, Route)>) {
        self.default = Arc::new(lpm(routes));
    }

    /// Replaces the neighbours with a usable MAC address, by interface and address.
    pub fn set_neighbours(&mut self, neighbours: HashMap<(u32, IpAddr), [u8; 6]>) {
        let known = |key: &(u32, IpAddr)| self.neighbours.get(key).map(|known| Arc::clone(&known.used));
        let neighbours = neighbours
            .into_iter()
            .map(|(key, mac)| (key, Neighbour { mac, used: known(&key).unwrap_or_default() }))
            .collect();
        self.neighbours = Arc::new(neighbours);
    }

    /// A number that is another one whenever anything but neighbours may have changed.
    pub fn configuration(&self) -> u64 {
        self.configuration
    }

    /// Makes [`RouteTable::configuration`] another one.
    pub fn next_configuration(&mut self) {
        self.configuration = self.configuration.wrapping_add(1);
    }

    /// The ports.
    pub fn ports(&self) -> &[PortInfo] {
        &self.ports
    }

    /// The ports, and the VLAN devices on them.
    pub fn devices(&self) -> impl Iterator<Item = &PortInfo> {
        self.ports.iter().chain(self.vlans.iter().map(|vlan| &vlan.device))
    }

    /// The port of that index, or the VLAN device.
    #[inline]
    pub fn port(&self, index: PortIndex) -> Option<&PortInfo> {
        self.ports.get(usize::from(index.0)).or_else(|| Some(&self.vlan(index)?.device))
    }

    /// The VLAN device of that index.
    pub fn vlan(&self, index: PortIndex) -> Option<&Vlan> {
        self.vlans.get(index)
    }

    /// Whose frames with such tags are that come in by a port.
    pub fn receiver(&self, port: PortIndex, tags: VlanTags) -> Option<&PortInfo> {
        if tags.is_empty() { self.port(port) } else { self.port(self.vlans.tagged(port, tags)?) }
    }

    fn of_interface(&self, ifindex: u32) -> Option<&PortInfo> {
        let port = self.ports.iter().find(|port| port.ifindex == ifindex);
        port.or_else(|| Some(&self.vlans.of_interface(ifindex)?.device))
    }

    /// Where a packet to `dst` goes.
    pub fn resolve(&self, dst: IpAddr) -> NextHop {
        if self.is_local(dst) {
            return NextHop::Local;
        }
        let (ifindex, gateway, mtu) = match self.route(dst) {
            Some(Route::Via { ifindex, gateway, mtu }) => (ifindex, gateway, mtu),
            Some(Route::Kernel) => return NextHop::Kernel,
            Some(Route::Refused | Route::Throw) | None => return NextHop::None,
        };
        let Some(port) = self.of_interface(ifindex) else { return NextHop::Kernel };
        if !port.up {
            return NextHop::LinkDown;
        }
        let gateway = gateway.unwrap_or(dst);
        let mtu = mtu.map_or(port.mtu, |mtu| mtu.min(port.mtu));
        match self.neighbour(ifindex, gateway) {
            Some(dst_mac) => NextHop::Port { port: port.index, src_mac: port.mac, dst_mac, mtu },
            None => NextHop::Unresolved { port: port.index, ifindex, gateway, mtu },
        }
    }

    fn route(&self, dst: IpAddr) -> Option<Route> {
        let decided = |table: &Lpm<Route>| {
            let (_, route) = table.lookup(dst)?;
            (*route != Route::Throw).then_some(*route)
        };
        decided(&self.main).or_else(|| decided(&self.default))
    }

    /// The MAC address of a neighbour, which now counts as used.
    pub fn neighbour(&self, ifindex: u32, addr: IpAddr) -> Option<[u8; 6]> {
        let neighbour = self.neighbours.get(&(ifindex, addr))?;
        // Written only if that changes something: all workers share the line.
        if !neighbour.used.load(Ordering::Relaxed) {
            neighbour.used.store(true, Ordering::Relaxed);
        }
        Some(neighbour.mac)
    }

    /// The neighbours that were used since the last call, by interface and address. The kernel does not see what workers
    /// send, and would never check that these are still there.
    pub fn take_used(&self) -> Vec<(u32, IpAddr)> {
        let used =
            self.neighbours.iter().filter(|(_, neighbour)| neighbour.used.swap(false, Ordering::Relaxed));
        used.map(|(key, _)| *key).collect()
    }

    /// Whether packets to this address are for the host.
    pub fn is_local(&self, addr: IpAddr) -> bool {
        self.local.contains(&addr) || self.broadcast.contains(&addr)
    }

    /// The host's own addresses.
    pub fn local_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.local.iter().copied()
    }

    /// Whether ESP comes to this address.
    pub fn is_tunnel_address(&self, addr: IpAddr) -> bool {
        self.tunnel.contains(&addr)
    }

    /// An address of the port to send ICMP errors from: not a link-local one if it has another.
    pub fn address_for(&self, port: PortIndex, v6: bool) -> Option<IpAddr> {
        let addresses =
            self.port(port)?.addresses.iter().map(IpNet::addr).filter(|addr| addr.is_ipv6() == v6);
        addresses.min_by_key(|addr| matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local()))
    }
}

fn lpm(routes: impl IntoIterator<Item = (IpNet, Route)>) -> Lpm<Route> {
    let mut table = Lpm::new();
    for (net, route) in routes {
        table.insert(net, route);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::TagProtocol;

    const OUTSIDE: PortIndex = PortIndex(0);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn via(ifindex: u32, gateway: Option<&str>) -> Route {
        Route::Via { ifindex, gateway: gateway.map(ip), mtu: None }
    }

    fn table() -> RouteTable {
        let port = PortInfo {
            index: OUTSIDE,
            ifindex: 7,
            name: "outside0".to_owned(),
            role: Role::Outside,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            up: true,
            addresses: vec!["fe80::1/64".parse().unwrap(), "2001:db8::1/64".parse().unwrap()],
        };
        let mut table = RouteTable::new(vec![port]);
        table.set_local_addresses([ip("192.0.2.1")]);
        table.set_routes([
            ("0.0.0.0/0".parse().unwrap(), via(7, Some("192.0.2.254"))),
            ("192.0.2.0/24".parse().unwrap(), via(7, None)),
            ("10.9.0.0/16".parse().unwrap(), via(8, None)),
            ("10.66.0.0/16".parse().unwrap(), Route::Refused),
        ]);
        table.set_neighbours(HashMap::from([((7, ip("192.0.2.254")), [2, 0, 0, 0, 0, 9])]));
        table
    }

    #[test]
    fn a_packet_goes_by_the_longest_prefix_to_its_neighbour() {
        let (src_mac, dst_mac) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9]);
        let out = NextHop::Port { port: OUTSIDE, src_mac, dst_mac, mtu: 1500 };
        assert_eq!(table().resolve(ip("203.0.113.1")), out);
        assert_eq!(table().resolve(ip("192.0.2.254")), out, "on the link, the destination is the neighbour");
        let gateway = ip("192.0.2.7");
        let unresolved = NextHop::Unresolved { port: OUTSIDE, ifindex: 7, gateway, mtu: 1500 };
        assert_eq!(table().resolve(gateway), unresolved);
    }

    #[test]
    fn what_no_worker_sends_is_told_apart() {
        assert_eq!(table().resolve(ip("192.0.2.1")), NextHop::Local);
        assert_eq!(table().resolve(ip("10.9.0.1")), NextHop::Kernel);
        assert_eq!(table().resolve(ip("10.66.0.1")), NextHop::None);
        assert_eq!(table().resolve(ip("2001:db8:7::1")), NextHop::None);
    }

    #[test]
    fn the_default_table_decides_only_where_the_main_table_does_not() {
        let mut table = table();
        table.set_default_routes([
            ("10.66.1.0/24".parse().unwrap(), Route::Kernel),
            ("2001:db8::/32".parse().unwrap(), Route::Kernel),
            ("10.77.0.0/16".parse().unwrap(), Route::Kernel),
        ]);
        assert_eq!(table.resolve(ip("10.66.1.1")), NextHop::None, "a longer prefix, but in the later table");
        assert_eq!(table.resolve(ip("2001:db8:7::1")), NextHop::Kernel);
        let routes =
            [("0.0.0.0/0", via(7, None)), ("10.77.0.0/16", Route::Throw), ("10.78.0.0/16", Route::Throw)];
        table.set_routes(routes.map(|(net, route)| (net.parse().unwrap(), route)));
        assert_eq!(table.resolve(ip("10.77.0.1")), NextHop::Kernel);
        assert_eq!(table.resolve(ip("10.78.0.1")), NextHop::None);
    }

    #[test]
    fn a_neighbour_counts_as_used_until_that_was_taken_note_of() {
        let mut table = table();
        assert_eq!(table.take_used(), []);
        table.resolve(ip("203.0.113.1"));
        // The next table knows too.
        table.set_neighbours(HashMap::from([((7, ip("192.0.2.254")), [2, 0, 0, 0, 0, 8])]));
        assert_eq!(table.take_used(), [(7, ip("192.0.2.254"))]);
        assert_eq!(table.take_used(), []);
    }

    #[test]
    fn a_vlan_device_has_a_place_of_its_own_unless_it_is_a_port_itself() {
        let mut table = table();
        let port = table.ports()[0].clone();
        let tags = |id| VlanTags::NONE.with_inner(TagProtocol::Customer, id).unwrap();
        let vlan = |index, ifindex, id| {
            let (index, mac) = (PortIndex(index), [2, 0, 0, 0, 0, 5]);
            let device = PortInfo { index, ifindex, mac, mtu: 1496, ..port.clone() };
            Vlan { device, on: OUTSIDE, tags: tags(id) }
        };
        table.set_vlans(vec![vlan(4, 20, 5), vlan(0, 7, 6)]);
        table.set_routes([("0.0.0.0/0".parse().unwrap(), via(20, Some("192.0.2.254")))]);
        let (gateway, dst) = (ip("192.0.2.254"), ip("203.0.113.1"));
        let unresolved = NextHop::Unresolved { port: PortIndex(4), ifindex: 20, gateway, mtu: 1496 };
        assert_eq!(table.resolve(dst), unresolved, "the port's neighbour of this address is another");
        table.set_neighbours(HashMap::from([((20, gateway), [9; 6])]));
        let (src_mac, dst_mac) = ([2, 0, 0, 0, 0, 5], [9; 6]);
        let out = NextHop::Port { port: PortIndex(4), src_mac, dst_mac, mtu: 1496 };
        assert_eq!(table.resolve(dst), out);
        assert_eq!(table.devices().map(|port| port.index.0).collect::<Vec<_>>(), [0, 4]);
        let receiver = |tags| table.receiver(OUTSIDE, tags).map(|port| port.index.0);
        assert_eq!(
            [VlanTags::NONE, tags(5), tags(6), tags(7)].map(receiver),
            [Some(0), Some(4), Some(0), None]
        );
        assert!(table.receiver(PortIndex(1), tags(5)).is_none(), "another port");
        table.set_vlans(Vec::new());
        assert_eq!(table.resolve(dst), NextHop::Kernel);
    }

    #[test]
    fn a_port_that_is_down_sends_nothing() {
        let mut table = table();
        let mut ports = table.ports().to_vec();
        ports[0].up = false;
        table.set_ports(ports);
        assert_eq!(table.resolve(ip("203.0.113.1")), NextHop::LinkDown);
    }

    #[test]
    fn a_routes_own_mtu_is_a_lower_limit() {
        let mut table = table();
        let route = |mtu| Route::Via { ifindex: 7, gateway: Some(ip("192.0.2.254")), mtu: Some(mtu) };
        for (mtu, effective) in [(1400, 1400), (9000, 1500)] {
            table.set_routes([("0.0.0.0/0".parse().unwrap(), route(mtu))]);
            let NextHop::Port { mtu, .. } = table.resolve(ip("203.0.113.1")) else { panic!("no port") };
            assert_eq!(mtu, effective);
        }
    }

    #[test]
    fn errors_come_from_a_routable_address_where_there_is_one() {
        assert_eq!(table().address_for(OUTSIDE, true), Some(ip("2001:db8::1")));
        assert_eq!(table().address_for(OUTSIDE, false), None);
    }
}
