//! Routes that say which networks can be reached through tunnels just now, for a routing daemon to tell others: in a table
//! that no rule leads to, so that they move no packet, under a protocol number of their own, by which they are told from
//! everybody else's.

use std::collections::BTreeSet;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use super::protected::{family, gone, place};
use super::{Connection, NetlinkError};

/// The routes of one table and protocol number.
#[derive(Debug)]
pub struct ExportedRoutes {
    connection: Connection,
    table: u32,
    protocol: u8,
    tun: u32,
}

impl ExportedRoutes {
    /// Takes the table over: what an earlier daemon has left there goes. `tun` is the TUN device's interface index.
    pub fn open(table: u32, protocol: u8, tun: u32) -> Result<Self, NetlinkError> {
        let mut routes = Self { connection: Connection::open()?, table, protocol, tun };
        routes.clear()?;
        Ok(routes)
    }

    /// Says that a network can be reached.
    pub fn add(&mut self, net: IpNet) -> Result<(), NetlinkError> {
        let what = format!("export the route to {net}");
        self.connection.put(&what, RouteNetlinkMessage::NewRoute(self.route(net)))
    }

    /// Says that it cannot any more; one that is not there is no trouble.
    pub fn remove(&mut self, net: IpNet) -> Result<(), NetlinkError> {
        let what = format!("take the exported route to {net} back");
        gone(self.connection.change(&what, RouteNetlinkMessage::DelRoute(self.route(net))))
    }

    /// Takes all of them back.
    pub fn clear(&mut self) -> Result<(), NetlinkError> {
        self.read()?.into_iter().try_for_each(|net| self.remove(net))
    }

    /// Those that are there.
    pub fn read(&mut self) -> Result<BTreeSet<IpNet>, NetlinkError> {
        let mut found = BTreeSet::new();
        for v6 in [false, true] {
            let mut request = RouteMessage::default();
            request.header.address_family = family(v6);
            let request = RouteNetlinkMessage::GetRoute(request);
            for message in self.connection.dump("read the exported routes", request)? {
                let RouteNetlinkMessage::NewRoute(message) = message else { continue };
                let ours = message.header.protocol == RouteProtocol::from(self.protocol);
                found.extend(
                    place(&message, v6).filter(|(table, _)| ours && *table == self.table).map(|(_, net)| net),
                );
            }
        }
        Ok(found)
    }

    fn route(&self, net: IpNet) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family(net.addr().is_ipv6());
        message.header.destination_prefix_length = net.prefix_len();
        message.header.table = u8::try_from(self.table).unwrap_or(0);
        message.header.protocol = RouteProtocol::from(self.protocol);
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Table(self.table),
            RouteAttribute::Destination(RouteAddress::from(net.network())),
            RouteAttribute::Oif(self.tun),
        ];
        message
    }
}
