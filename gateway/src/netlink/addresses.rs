//! Addresses on the TUN device: those that a peer has given this host. What the host sends from them goes through the
//! tunnels, and the routes to protected networks prefer them as a source (see [`super::protected`]).

use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;

use super::{Connection, NetlinkError};

/// The addresses of one TUN device. It is ours alone: what an earlier daemon has left on it goes.
#[derive(Debug)]
pub struct TunAddresses {
    connection: Connection,
    ifindex: u32,
}

impl TunAddresses {
    /// Takes the device over, with no addresses but link-local ones.
    pub fn open(ifindex: u32) -> Result<Self, NetlinkError> {
        let mut addresses = Self { connection: Connection::open()?, ifindex };
        for addr in addresses.read()? {
            addresses.remove(addr)?;
        }
        Ok(addresses)
    }

    /// Puts an address on the device; one that is there already stays.
    pub fn add(&mut self, addr: IpAddr) -> Result<(), NetlinkError> {
        let what = format!("put the address {addr} on the TUN device");
        self.connection.put(&what, RouteNetlinkMessage::NewAddress(self.message(addr)))
    }

    /// Takes an address off the device; one that is not there is no trouble.
    pub fn remove(&mut self, addr: IpAddr) -> Result<(), NetlinkError> {
        let what = format!("take the address {addr} off the TUN device");
        match self.connection.change(&what, RouteNetlinkMessage::DelAddress(self.message(addr))) {
            Err(error) if matches!(error.errno(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
            other => other,
        }
    }

    fn message(&self, addr: IpAddr) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = self.ifindex;
        message.header.scope = AddressScope::Universe;
        (message.header.family, message.header.prefix_len) = match addr {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        message.attributes = vec![AddressAttribute::Local(addr), AddressAttribute::Address(addr)];
        message
    }

    fn read(&mut self) -> Result<Vec<IpAddr>, NetlinkError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let all = self.connection.dump("read the TUN device's addresses", request)?;
        let ours = all.into_iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == self.ifindex => {
                let universal = message.header.scope == AddressScope::Universe;
                message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(addr) | AddressAttribute::Address(addr) if universal => {
                        Some(*addr)
                    }
                    _ => None,
                })
            }
            _ => None,
        });
        Ok(ours.collect())
    }
}
