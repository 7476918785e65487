//! Follows the kernel's links, addresses, routes and neighbours into a [`RouteTable`].
//!
//! One thread, one socket for the multicast groups, one for requests. Neighbours are followed message by message; a
//! change of anything else reads links, addresses and routes anew, because the kernel does not announce every route
//! that goes with a link. A socket that overflowed reads everything anew; what could not be read is tried again.
//!
//! The kernel takes a neighbour for idle that only workers send to. So that it finds out when one has gone or moved, it
//! is asked every few seconds to check those that were used ([`RouteTable::take_used`]).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags, RouteType,
    RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use super::vlans::{self, Places};
use super::{Connection, NetlinkError, messages};
use crate::route::{PortIndex, PortInfo, Role, Route, RouteTable};

const TABLE_DEFAULT: u32 = 253;
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;

/// Octets that the kernel may queue for us before it gives up.
const RECEIVE_BUFFER: i32 = 4 << 20;

/// How often the kernel is asked to check used neighbours, and what could not be read is tried again.
const CHECK: Duration = Duration::from_secs(5);

/// What to mirror.
#[derive(Debug, Clone)]
pub struct MirrorConfig {
    /// The gateway's interfaces by name, in order of their port index.
    pub ports: Vec<(String, Role)>,
    /// Addresses that ESP comes to; empty: every address of the outside interfaces.
    pub tunnel_addresses: Vec<IpAddr>,
}

/// Called with each new table, after it was published.
pub type OnChange = Box<dyn FnMut(&RouteTable) + Send>;

/// The running mirror; ends when dropped.
pub struct Mirror {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mirror")
    }
}

impl Mirror {
    /// Reads everything once, publishes it in `routes`, calls `on_change`, and goes on following.
    pub fn start(
        config: MirrorConfig,
        routes: Arc<ArcSwap<RouteTable>>,
        on_change: OnChange,
    ) -> Result<Self, NetlinkError> {
        let stop =
            Arc::new(EventFd::new().map_err(io::Error::from).map_err(NetlinkError::new("make an eventfd"))?);
        let mut state = State::open(config, routes, on_change)?;
        state.bring_up_to_date()?;
        let until = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("netlink-mirror".to_owned())
            .spawn(move || state.follow(&until))
            .map_err(NetlinkError::new("start the mirror's thread"))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct State {
    config: MirrorConfig,
    events: Socket,
    requests: Connection,
    table: RouteTable,
    neighbours: HashMap<(u32, IpAddr), [u8; 6]>,
    /// Those that the kernel never checks. Told to, it would take them for ones that it has found out itself.
    unchecked: HashSet<(u32, IpAddr)>,
    vlans: Places,
    published: Arc<ArcSwap<RouteTable>>,
    on_change: OnChange,
    pending: Changes,
}

/// What is still to be done.
#[derive(Debug, Clone, Copy, Default)]
struct Changes {
    /// The neighbours are to be published.
    neighbours: bool,
    /// Links, addresses and routes are to be read.
    configuration: bool,
    /// Everything is to be read.
    everything: bool,
    /// The last try failed: the next one is not to come at once.
    failed: bool,
}

impl State {
    fn open(
        config: MirrorConfig,
        published: Arc<ArcSwap<RouteTable>>,
        on_change: OnChange,
    ) -> Result<Self, NetlinkError> {
        const GROUPS: [u32; 6] = [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_NEIGH,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
        ];
        let open = || {
            let mut events = Socket::new(NETLINK_ROUTE)?;
            events.bind(&SocketAddr::new(0, 0))?;
            // A smaller buffer only means that everything is read anew more often.
            let _ = events.set_rx_buf_sz(RECEIVE_BUFFER);
            events.set_non_blocking(true)?;
            GROUPS.iter().try_for_each(|group| events.add_membership(*group))?;
            Ok(events)
        };
        let events = open().map_err(NetlinkError::new("follow the kernel's routes"))?;
        let (requests, pending) = (Connection::open()?, Changes { everything: true, ..Changes::default() });
        let (table, neighbours, unchecked) = (RouteTable::default(), HashMap::new(), HashSet::new());
        let vlans = Places::behind(config.ports.len());
        Ok(Self {
            config,
            events,
            requests,
            table,
            neighbours,
            unchecked,
            vlans,
            published,
            on_change,
            pending,
        })
    }

    fn follow(&mut self, stop: &EventFd) {
        let mut checked = Instant::now();
        loop {
            let mut fds = [
                PollFd::new(self.events.as_fd(), PollFlags::POLLIN),
                PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            ];
            let until_check = CHECK.saturating_sub(checked.elapsed());
            // Interrupted: what is there is looked at all the same.
            let _ = poll(&mut fds, PollTimeout::try_from(until_check).unwrap_or(PollTimeout::MAX));
            if fds[1].any() == Some(true) {
                return;
            }
            self.drain();
            if checked.elapsed() >= CHECK {
                checked = Instant::now();
                self.check_used();
            } else if self.pending.failed {
                continue;
            }
            if let Err(error) = self.bring_up_to_date() {
                tracing::error!(%error, "the kernel's routes could not be read; going on with the last ones");
            }
        }
    }

    /// Takes every message that is there.
    fn drain(&mut self) {
        loop {
            match self.events.recv_from_full() {
                Ok((octets, _)) => {
                    for message in messages(&octets) {
                        if let NetlinkPayload::InnerMessage(message) = message.payload {
                            self.take(message);
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Overflowed: messages were lost.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.pending.everything = true,
                Err(error) => {
                    tracing::error!(%error, "the kernel's changes cannot be followed");
                    self.pending.everything = true;
                    return;
                }
            }
        }
    }

    /// Does what is pending, and publishes the outcome. What fails stays pending.
    fn bring_up_to_date(&mut self) -> Result<(), NetlinkError> {
        let Changes { neighbours, configuration, everything, .. } = self.pending;
        if !(neighbours || configuration || everything) {
            return Ok(());
        }
        self.pending.failed = true;
        if everything {
            self.read_neighbours()?;
        }
        if everything || configuration {
            self.read_configuration()?;
        }
        self.pending = Changes::default();
        self.table.set_neighbours(self.neighbours.clone());
        self.published.store(Arc::new(self.table.clone()));
        (self.on_change)(&self.table);
        Ok(())
    }

    fn check_used(&mut self) {
        for (ifindex, addr) in self.table.take_used() {
            if self.unchecked.contains(&(ifindex, addr)) {
                continue;
            }
            if let Err(error) = resolve(&mut self.requests, ifindex, addr) {
                tracing::debug!(%error, "the kernel does not check a neighbour");
            }
        }
    }

    fn take(&mut self, message: RouteNetlinkMessage) {
        match message {
            RouteNetlinkMessage::NewNeighbour(message) => self.pending.neighbours |= self.neighbour(&message),
            RouteNetlinkMessage::DelNeighbour(message) => {
                if let Some(key) = neighbour_key(&message) {
                    self.unchecked.remove(&key);
                    self.pending.neighbours |= self.neighbours.remove(&key).is_some();
                }
            }
            RouteNetlinkMessage::NewLink(_)
            | RouteNetlinkMessage::DelLink(_)
            | RouteNetlinkMessage::NewAddress(_)
            | RouteNetlinkMessage::DelAddress(_) => self.pending.configuration = true,
            // Not those that the protected routes' own table is full of.
            RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message) => {
                self.pending.configuration |= [TABLE_MAIN, TABLE_DEFAULT].contains(&table_of(&message));
            }
            _ => {}
        }
    }

    /// Whether a neighbour's message changed what workers use.
    fn neighbour(&mut self, message: &NeighbourMessage) -> bool {
        let Some(key) = neighbour_key(message) else { return false };
        if matches!(message.header.state, NeighbourState::Permanent | NeighbourState::Noarp) {
            self.unchecked.insert(key);
        } else {
            self.unchecked.remove(&key);
        }
        match usable_mac(message) {
            Some(mac) => self.neighbours.insert(key, mac) != Some(mac),
            None => self.neighbours.remove(&key).is_some(),
        }
    }

    fn read_neighbours(&mut self) -> Result<(), NetlinkError> {
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let messages = self.requests.dump("read the kernel's neighbours", request)?;
        self.neighbours.clear();
        self.unchecked.clear();
        for message in messages {
            if let RouteNetlinkMessage::NewNeighbour(message) = message {
                self.neighbour(&message);
            }
        }
        Ok(())
    }

    fn read_configuration(&mut self) -> Result<(), NetlinkError> {
        let links = self
            .requests
            .dump("read the kernel's links", RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let addresses = self.requests.dump("read the kernel's addresses", request)?;
        let addresses: Vec<(u32, IpNet)> = addresses.iter().filter_map(address).collect();
        let mut ports: Vec<PortInfo> = Vec::new();
        for (index, (name, role)) in self.config.ports.iter().enumerate() {
            let index = PortIndex(u16::try_from(index).unwrap_or(u16::MAX));
            let link = links.iter().find_map(|message| named_link(message, name));
            ports.push(port(index, name, *role, link, &addresses));
        }
        let vlans = vlans::on_ports(&links, &ports, &addresses, &mut self.vlans);
        let devices = ports.iter().chain(vlans.iter().map(|vlan| &vlan.device));
        let tunnel: Vec<IpAddr> = if self.config.tunnel_addresses.is_empty() {
            let outside = devices.filter(|port| port.role.is_outside());
            outside.flat_map(|port| port.addresses.iter().map(IpNet::addr)).collect()
        } else {
            self.config.tunnel_addresses.clone()
        };
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let request = RouteNetlinkMessage::GetRoute(request);
            routes.extend(self.requests.dump("read the kernel's routes", request)?);
        }
        // Everything has been read.
        self.table.next_configuration();
        self.table.set_ports(ports);
        self.table.set_vlans(vlans);
        self.table.set_tunnel_addresses(tunnel);
        self.table.set_local_addresses(addresses.iter().map(|(_, net)| net.addr()));
        self.table.set_broadcast_addresses(routes.iter().filter_map(broadcast));
        self.table.set_routes(best(routes.iter().filter_map(|message| mirrored(message, TABLE_MAIN))));
        self.table
            .set_default_routes(best(routes.iter().filter_map(|message| mirrored(message, TABLE_DEFAULT))));
        Ok(())
    }
}

fn neighbour_key(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    let addr = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(addr)) => Some(IpAddr::V4(*addr)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(addr)) => Some(IpAddr::V6(*addr)),
        _ => None,
    });
    addr.map(|addr| (message.header.ifindex, addr))
}

/// Stale ones too: the kernel itself goes on using them while it asks again.
fn usable_mac(message: &NeighbourMessage) -> Option<[u8; 6]> {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    if !matches!(message.header.state, Reachable | Stale | Delay | Probe | Permanent | Noarp) {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok(),
        _ => None,
    })
}

fn named_link<'m>(message: &'m RouteNetlinkMessage, wanted: &str) -> Option<&'m LinkMessage> {
    let RouteNetlinkMessage::NewLink(link) = message else { return None };
    let named =
        |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(name) if name == wanted);
    link.attributes.iter().any(named).then_some(link)
}

/// Without a link the port stays, down, until the interface comes back.
pub(super) fn port(
    index: PortIndex,
    name: &str,
    role: Role,
    link: Option<&LinkMessage>,
    addresses: &[(u32, IpNet)],
) -> PortInfo {
    let mut port = PortInfo {
        index,
        ifindex: 0,
        name: name.to_owned(),
        role,
        mac: [0; 6],
        mtu: 0,
        up: false,
        addresses: Vec::new(),
    };
    let Some(link) = link else { return port };
    port.ifindex = link.header.index;
    // The carrier itself: the kernel's operational state (IFF_RUNNING) follows it up to a second later.
    port.up = link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
    port.addresses =
        addresses.iter().filter(|(ifindex, _)| *ifindex == port.ifindex).map(|(_, net)| *net).collect();
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => port.mtu = *mtu,
            LinkAttribute::Address(mac) => port.mac = mac.as_slice().try_into().unwrap_or_default(),
            _ => {}
        }
    }
    port
}

fn address(message: &RouteNetlinkMessage) -> Option<(u32, IpNet)> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    // On a point-to-point link the local address is ours, and the other the peer's.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(addr) => Some(*addr),
        _ => None,
    });
    let addr = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(addr) => Some(*addr),
            _ => None,
        })
    })?;
    Some((message.header.index, IpNet::new(addr, message.header.prefix_len).ok()?))
}

/// A route with its metric, which decides between several of one prefix: lower is better.
type Candidate = (IpNet, u32, Route);

fn best(candidates: impl Iterator<Item = Candidate>) -> impl Iterator<Item = (IpNet, Route)> {
    let mut best: BTreeMap<IpNet, (u32, Route)> = BTreeMap::new();
    for (net, metric, route) in candidates {
        let known = best.entry(net).or_insert((metric, route));
        if metric < known.0 {
            *known = (metric, route);
        }
    }
    best.into_iter().map(|(net, (_, route))| (net, route))
}

/// A route of this table that concerns packets of any source and service.
fn mirrored(message: &RouteNetlinkMessage, table: u32) -> Option<Candidate> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let header = &message.header;
    let metric = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    let special = header.tos != 0 || header.source_prefix_length != 0;
    if table_of(message) != table || special || header.flags.intersects(RouteFlags::Cloned | RouteFlags::Dead)
    {
        return None;
    }
    let route = match header.kind {
        RouteType::Unicast => via(&message.attributes)?,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => Route::Refused,
        RouteType::Throw => Route::Throw,
        _ => return None,
    };
    Some((destination(message)?, metric.unwrap_or(0), route))
}

/// An address that the kernel accepts packets for although no interface has it.
fn broadcast(message: &RouteNetlinkMessage) -> Option<IpAddr> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let host = destination(message).filter(|net| net.prefix_len() == net.max_prefix_len())?;
    let kind = matches!(message.header.kind, RouteType::Broadcast | RouteType::Anycast);
    (kind && table_of(message) == TABLE_LOCAL).then_some(host.addr())
}

fn table_of(message: &RouteMessage) -> u32 {
    let stated = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    stated.unwrap_or(u32::from(message.header.table))
}

fn destination(message: &RouteMessage) -> Option<IpNet> {
    let stated = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(addr) => ip(addr),
        _ => None,
    });
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    IpNet::new(stated.unwrap_or(unspecified), message.header.destination_prefix_length).ok()
}

fn ip(addr: &RouteAddress) -> Option<IpAddr> {
    match addr {
        RouteAddress::Inet(addr) => Some(IpAddr::V4(*addr)),
        RouteAddress::Inet6(addr) => Some(IpAddr::V6(*addr)),
        _ => None,
    }
}

/// Interface and gateway; of several next hops the first that is alive.
fn via(attributes: &[RouteAttribute]) -> Option<Route> {
    let hops = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let mtu = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) => Some(*mtu),
            _ => None,
        }),
        _ => None,
    });
    let encapsulated = |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::EncapType(_));
    if attributes.iter().any(encapsulated) {
        return Some(Route::Kernel);
    }
    if let Some(hops) = hops {
        let dead = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
        let hop = hops.iter().find(|hop| !hop.flags.intersects(dead))?;
        if hop.attributes.iter().any(encapsulated) {
            return Some(Route::Kernel);
        }
        return Some(Route::Via { ifindex: hop.interface_index, gateway: gateway(&hop.attributes), mtu });
    }
    let ifindex = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(ifindex) => Some(*ifindex),
        _ => None,
    });
    Some(Route::Via { ifindex: ifindex?, gateway: gateway(attributes), mtu })
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(addr) => ip(addr),
        RouteAttribute::Via(RouteVia::Inet(addr)) => Some(IpAddr::V4(*addr)),
        RouteAttribute::Via(RouteVia::Inet6(addr)) => Some(IpAddr::V6(*addr)),
        _ => None,
    })
}

/// Asks the kernel to find a neighbour's MAC address, or to check one that it has; the mirror sees the answer.
pub fn resolve(connection: &mut Connection, ifindex: u32, addr: IpAddr) -> Result<(), NetlinkError> {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::None;
    message.header.flags = NeighbourFlags::Use;
    message.header.family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let destination = match addr {
        IpAddr::V4(addr) => NeighbourAddress::Inet(addr),
        IpAddr::V6(addr) => NeighbourAddress::Inet6(addr),
    };
    message.attributes = vec![NeighbourAttribute::Destination(destination)];
    let what = format!("ask for the neighbour {addr}");
    connection.put(&what, RouteNetlinkMessage::NewNeighbour(message))
}
