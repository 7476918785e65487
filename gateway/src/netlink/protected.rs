//! Routes and rules that lead what the host itself sends to protected networks into the TUN device.
//!
//! For each protected remote prefix the gateway's own routing table (220 unless configured) holds a route into the TUN
//! device, and behind it, with a worse metric, an `unreachable` one. The kernel asks that table by three rules, which,
//! like the device and the routes, outlive the daemon:
//!
//! - 219: what carries the daemon's firewall mark (IKE) follows the main table, so that it never enters a tunnel;
//! - 220: the table's routes, but for those of length 0, concern everybody;
//! - 221: a route of length 0 concerns only what comes *from* a protected local prefix (and not one of length 0 either), so
//!   that a tunnel for everything leaves the host's own management traffic alone.
//!
//! A local prefix inside a remote one gets a `throw` route: the way to our own networks stays what it was.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;

use super::{Connection, NetlinkError};

const TABLE_MAIN: u32 = 254;
const RULE_MARKED: u32 = 219;
const RULE_ALL: u32 = 220;
const RULE_FROM_LOCAL: u32 = 221;
const METRIC_TUN: u32 = 100;
const METRIC_UNREACHABLE: u32 = 200;

/// What is protected, as far as the host's own traffic goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Prefixes of the policies' `local_ts`.
    pub local: BTreeSet<IpNet>,
    /// Prefixes of the policies' `remote_ts`.
    pub remote: BTreeSet<IpNet>,
    /// The host's own addresses, to send from.
    pub addresses: BTreeSet<IpAddr>,
}

impl Wanted {
    /// Whether a route to that prefix may lie around one to our own networks.
    fn has_local_within(&self, net: &IpNet) -> bool {
        self.local.iter().any(|local| net.contains(local))
    }
}

/// A route of our table: its prefix and what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Throw,
    Tun,
    Unreachable,
}

impl Kind {
    fn metric(self) -> u32 {
        match self {
            Self::Throw | Self::Tun => METRIC_TUN,
            Self::Unreachable => METRIC_UNREACHABLE,
        }
    }
}

type Routes = BTreeMap<(IpNet, Kind), Option<IpAddr>>;
/// Priority, whether IPv6, and the source that a rule is for.
type Rules = BTreeSet<(u32, bool, Option<IpNet>)>;

/// The routes and rules of one gateway.
#[derive(Debug)]
pub struct ProtectedRoutes {
    connection: Connection,
    table: u32,
    mark: u32,
    tun: u32,
    routes: Routes,
    rules: Rules,
}

impl ProtectedRoutes {
    /// Takes over what an earlier daemon has left in `table`. `tun` is the TUN device's interface index, 0 if only to
    /// [`ProtectedRoutes::clear`].
    pub fn open(table: u32, mark: u32, tun: u32) -> Result<Self, NetlinkError> {
        let mut connection = Connection::open()?;
        let routes = read_routes(&mut connection, table, tun)?;
        let rules = read_rules(&mut connection, table, mark)?;
        Ok(Self { connection, table, mark, tun, routes, rules })
    }

    /// Finds out what is there by now: routes go with a device that was down, and others may have changed them.
    pub fn refresh(&mut self) -> Result<(), NetlinkError> {
        self.routes = read_routes(&mut self.connection, self.table, self.tun)?;
        self.rules = read_rules(&mut self.connection, self.table, self.mark)?;
        Ok(())
    }

    /// Brings routes and rules up to date: what is new comes first, what is no longer wanted goes last.
    ///
    /// Where IPv6 is switched off, its routes into the device cannot be; the unreachable ones still are.
    pub fn apply(&mut self, wanted: &Wanted) -> Result<(), NetlinkError> {
        let (routes, rules) = (desired_routes(wanted), desired_rules(wanted));
        for (&(net, kind), &source) in &routes {
            self.put_route(net, kind, source)?;
        }
        self.put_rules(&rules)?;
        self.remove_other_rules(&rules)?;
        for (net, kind) in
            self.routes.keys().filter(|key| !routes.contains_key(key)).copied().collect::<Vec<_>>()
        {
            self.remove_route(net, kind)?;
        }
        Ok(())
    }

    /// What [`ProtectedRoutes::apply`] does, where nothing has changed but that these remote prefixes are new: the routes that
    /// there are already are not looked at.
    pub fn add(&mut self, wanted: &Wanted, nets: &[IpNet]) -> Result<(), NetlinkError> {
        if nets.iter().any(|net| wanted.has_local_within(net)) {
            return self.apply(wanted);
        }
        for net in nets {
            for ((net, kind), source) in routes_to(*net, wanted) {
                self.put_route(net, kind, source)?;
            }
        }
        self.put_rules(&desired_rules(wanted))
    }

    /// The same, where nothing has changed but that these remote prefixes went.
    pub fn remove(&mut self, wanted: &Wanted, nets: &[IpNet]) -> Result<(), NetlinkError> {
        if nets.iter().any(|net| wanted.has_local_within(net)) {
            return self.apply(wanted);
        }
        self.remove_other_rules(&desired_rules(wanted))?;
        for net in nets {
            for kind in [Kind::Tun, Kind::Unreachable] {
                if self.routes.contains_key(&(*net, kind)) {
                    self.remove_route(*net, kind)?;
                }
            }
        }
        Ok(())
    }

    fn put_route(&mut self, net: IpNet, kind: Kind, source: Option<IpAddr>) -> Result<(), NetlinkError> {
        if self.routes.get(&(net, kind)) == Some(&source) {
            return Ok(());
        }
        let what = format!("add the protected route to {net}");
        match self.connection.put(&what, self.route(net, kind, source)) {
            Err(error) if net.addr().is_ipv6() && is_switched_off(&error) => {
                tracing::warn!(%error, "IPv6 is switched off: the host cannot use this route");
            }
            other => other?,
        }
        self.routes.insert((net, kind), source);
        Ok(())
    }

    fn put_rules(&mut self, rules: &Rules) -> Result<(), NetlinkError> {
        for rule in rules.difference(&self.rules).copied().collect::<Vec<_>>() {
            let what = format!("add the routing rule {}", rule.0);
            match self.connection.put(&what, RouteNetlinkMessage::NewRule(self.rule(rule))) {
                Err(error) if error.errno() == Some(libc::EEXIST) || (rule.1 && is_switched_off(&error)) => {}
                other => other?,
            }
            self.rules.insert(rule);
        }
        Ok(())
    }

    fn remove_other_rules(&mut self, rules: &Rules) -> Result<(), NetlinkError> {
        for rule in self.rules.difference(rules).copied().collect::<Vec<_>>() {
            self.remove_rule(rule)?;
        }
        Ok(())
    }

    /// Removes every route and rule: the host's traffic follows its other tables, in clear.
    pub fn clear(&mut self) -> Result<(), NetlinkError> {
        for rule in self.rules.iter().copied().collect::<Vec<_>>() {
            self.remove_rule(rule)?;
        }
        for (net, kind) in self.routes.keys().copied().collect::<Vec<_>>() {
            self.remove_route(net, kind)?;
        }
        Ok(())
    }

    fn remove_rule(&mut self, rule: (u32, bool, Option<IpNet>)) -> Result<(), NetlinkError> {
        let what = format!("remove the routing rule {}", rule.0);
        gone(self.connection.change(&what, RouteNetlinkMessage::DelRule(self.rule(rule))))?;
        self.rules.remove(&rule);
        Ok(())
    }

    fn remove_route(&mut self, net: IpNet, kind: Kind) -> Result<(), NetlinkError> {
        let RouteNetlinkMessage::NewRoute(message) = self.route(net, kind, None) else { return Ok(()) };
        let what = format!("remove the protected route to {net}");
        gone(self.connection.change(&what, RouteNetlinkMessage::DelRoute(message)))?;
        self.routes.remove(&(net, kind));
        Ok(())
    }

    fn route(&self, net: IpNet, kind: Kind, source: Option<IpAddr>) -> RouteNetlinkMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family(net.addr().is_ipv6());
        message.header.destination_prefix_length = net.prefix_len();
        message.header.table = u8::try_from(self.table).unwrap_or(0);
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.attributes = vec![
            RouteAttribute::Table(self.table),
            RouteAttribute::Destination(RouteAddress::from(net.network())),
        ];
        message.header.kind = match kind {
            Kind::Tun => {
                message.attributes.push(RouteAttribute::Oif(self.tun));
                message.attributes.extend(source.map(|source| RouteAttribute::PrefSource(source.into())));
                RouteType::Unicast
            }
            Kind::Unreachable => RouteType::Unreachable,
            Kind::Throw => RouteType::Throw,
        };
        message.attributes.push(RouteAttribute::Priority(kind.metric()));
        RouteNetlinkMessage::NewRoute(message)
    }

    fn rule(&self, (priority, v6, from): (u32, bool, Option<IpNet>)) -> RuleMessage {
        let table = if priority == RULE_MARKED { TABLE_MAIN } else { self.table };
        let mut message = RuleMessage::default();
        message.header.family = family(v6);
        message.header.action = RuleAction::ToTable;
        message.header.table = u8::try_from(table).unwrap_or(0);
        message.attributes = vec![RuleAttribute::Priority(priority), RuleAttribute::Table(table)];
        match priority {
            RULE_MARKED => message.attributes.push(RuleAttribute::FwMark(self.mark)),
            RULE_ALL => message.attributes.push(RuleAttribute::SuppressPrefixLen(0)),
            _ => {}
        }
        if let Some(net) = from {
            message.header.src_len = net.prefix_len();
            message.attributes.push(RuleAttribute::Source(net.network()));
        }
        message
    }
}

pub(super) fn family(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// Whether an address family is missing, from the kernel or from the device.
fn is_switched_off(error: &NetlinkError) -> bool {
    matches!(error.errno(), Some(libc::EACCES | libc::EAFNOSUPPORT | libc::EOPNOTSUPP))
}

/// What is gone already has been removed.
pub(super) fn gone(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if matches!(error.errno(), Some(libc::ESRCH | libc::ENOENT | libc::ENODEV)) => Ok(()),
        other => other,
    }
}

fn desired_routes(wanted: &Wanted) -> Routes {
    let mut routes = Routes::new();
    for remote in &wanted.remote {
        routes.extend(routes_to(*remote, wanted));
        for local in &wanted.local {
            let inside = remote.contains(local) && !wanted.remote.contains(local);
            if inside {
                routes.insert((*local, Kind::Throw), None);
            }
        }
    }
    routes
}

/// The two routes of a remote prefix.
fn routes_to(remote: IpNet, wanted: &Wanted) -> [((IpNet, Kind), Option<IpAddr>); 2] {
    let same_family = |addr: &&IpAddr| addr.is_ipv6() == remote.addr().is_ipv6();
    let protected =
        |addr: &&IpAddr| wanted.local.iter().any(|net| net.prefix_len() > 0 && net.contains(*addr));
    let source = wanted.addresses.iter().filter(same_family).find(protected).copied();
    [((remote, Kind::Tun), source), ((remote, Kind::Unreachable), None)]
}

fn desired_rules(wanted: &Wanted) -> Rules {
    let mut rules = Rules::new();
    // IPv4 comes first in order.
    let (first, last) = (wanted.remote.first(), wanted.remote.last());
    for (v6, everything, some) in [
        (false, IpNet::V4(Ipv4Net::default()), first.is_some_and(|net| net.addr().is_ipv4())),
        (true, IpNet::V6(Ipv6Net::default()), last.is_some_and(|net| net.addr().is_ipv6())),
    ] {
        if !some {
            continue;
        }
        rules.insert((RULE_MARKED, v6, None));
        rules.insert((RULE_ALL, v6, None));
        if wanted.remote.contains(&everything) {
            let local = wanted.local.iter().filter(|net| net.addr().is_ipv6() == v6 && net.prefix_len() > 0);
            rules.extend(local.map(|net| (RULE_FROM_LOCAL, v6, Some(*net))));
        }
    }
    rules
}

fn read_routes(connection: &mut Connection, table: u32, tun: u32) -> Result<Routes, NetlinkError> {
    let mut routes = Routes::new();
    for v6 in [false, true] {
        let mut request = RouteMessage::default();
        request.header.address_family = family(v6);
        for message in connection.dump("read the protected routes", RouteNetlinkMessage::GetRoute(request))? {
            let RouteNetlinkMessage::NewRoute(message) = message else { continue };
            routes.extend(own_route(&message, table, tun, v6));
        }
    }
    Ok(routes)
}

/// A route that [`ProtectedRoutes::route`] has made. Others use the table as well: 220 is strongSwan's too.
fn own_route(
    message: &RouteMessage,
    table: u32,
    tun: u32,
    v6: bool,
) -> Option<((IpNet, Kind), Option<IpAddr>)> {
    let (found, net) = place(message, v6)?;
    let (mut source, mut metric, mut interface) = (None, 0, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Oif(number) => interface = *number,
            RouteAttribute::PrefSource(RouteAddress::Inet(addr)) => source = Some((*addr).into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(addr)) => source = Some((*addr).into()),
            _ => {}
        }
    }
    let kind = match message.header.kind {
        RouteType::Unicast if tun == 0 || interface == tun => Kind::Tun,
        RouteType::Unreachable => Kind::Unreachable,
        RouteType::Throw => Kind::Throw,
        _ => return None,
    };
    (found == table && metric == kind.metric()).then_some(((net, kind), source))
}

/// The table that a route is in, and where it leads.
pub(super) fn place(message: &RouteMessage, v6: bool) -> Option<(u32, IpNet)> {
    let mut table = u32::from(message.header.table);
    let mut destination = if v6 { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(RouteAddress::Inet(addr)) => destination = (*addr).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(addr)) => destination = (*addr).into(),
            _ => {}
        }
    }
    Some((table, IpNet::new(destination, message.header.destination_prefix_length).ok()?))
}

fn read_rules(connection: &mut Connection, table: u32, mark: u32) -> Result<Rules, NetlinkError> {
    let mut rules = Rules::new();
    for v6 in [false, true] {
        let mut request = RuleMessage::default();
        request.header.family = family(v6);
        for message in connection.dump("read the routing rules", RouteNetlinkMessage::GetRule(request))? {
            let RouteNetlinkMessage::NewRule(message) = message else { continue };
            rules.extend(own_rule(&message, table, mark, v6));
        }
    }
    Ok(rules)
}

fn own_rule(message: &RuleMessage, table: u32, mark: u32, v6: bool) -> Option<(u32, bool, Option<IpNet>)> {
    let mut found = u32::from(message.header.table);
    let (mut priority, mut marked, mut from) = (0, None, None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Table(number) => found = *number,
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::FwMark(number) => marked = Some(*number),
            RuleAttribute::Source(addr) => from = IpNet::new(*addr, message.header.src_len).ok(),
            _ => {}
        }
    }
    let ours = match priority {
        RULE_MARKED => found == TABLE_MAIN && marked == Some(mark),
        RULE_ALL | RULE_FROM_LOCAL => found == table,
        _ => false,
    };
    ours.then_some((priority, v6, from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(local: &[&str], remote: &[&str], addresses: &[&str]) -> Wanted {
        Wanted {
            local: local.iter().map(|net| net.parse().unwrap()).collect(),
            remote: remote.iter().map(|net| net.parse().unwrap()).collect(),
            addresses: addresses.iter().map(|addr| addr.parse().unwrap()).collect(),
        }
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn what_the_host_sends_to_a_protected_network_comes_from_a_protected_address() {
        let routes = desired_routes(&wanted(&["10.1.0.0/24"], &["10.2.0.0/24"], &["10.1.0.1", "192.0.2.1"]));
        assert_eq!(routes[&(net("10.2.0.0/24"), Kind::Tun)], Some("10.1.0.1".parse().unwrap()));
        assert_eq!(routes[&(net("10.2.0.0/24"), Kind::Unreachable)], None);
        assert_eq!(routes.len(), 2);
    }

    #[test]
    fn our_own_networks_inside_a_remote_one_stay_reachable() {
        let routes = desired_routes(&wanted(&["10.1.0.0/24"], &["10.0.0.0/8"], &[]));
        assert!(routes.contains_key(&(net("10.1.0.0/24"), Kind::Throw)));
    }

    #[test]
    fn a_tunnel_for_everything_concerns_only_protected_sources() {
        let rules = desired_rules(&wanted(&["10.1.0.0/24", "0.0.0.0/0"], &["0.0.0.0/0"], &[]));
        let expected = [(RULE_MARKED, None), (RULE_ALL, None), (RULE_FROM_LOCAL, Some(net("10.1.0.0/24")))];
        assert_eq!(rules, expected.into_iter().map(|(priority, from)| (priority, false, from)).collect());
        let rules = desired_rules(&wanted(&["10.1.0.0/24"], &["10.2.0.0/24"], &[]));
        assert!(!rules.iter().any(|(priority, ..)| *priority == RULE_FROM_LOCAL));
    }
}
