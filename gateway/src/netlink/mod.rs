//! The kernel's network configuration over rtnetlink (RFC 3549): mirrored for the workers, and changed where protected
//! traffic needs routes.
//!
//! - [`mirror`]: a thread that follows links, addresses, routes and neighbours into a
//!   [`RouteTable`](crate::route::RouteTable).
//! - [`protected`]: the routes and rules that lead the host's own protected traffic into the TUN device.
//!
//! [`Connection`] is one socket, for one thread.

pub mod mirror;
pub mod protected;

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// A request that the kernel refused, or a socket that failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct NetlinkError {
    /// What was wanted.
    pub what: String,
    /// Why not.
    pub source: io::Error,
}

impl NetlinkError {
    fn new(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| Self { what, source }
    }

    /// The kernel's error number.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// A socket for requests in the caller's network namespace.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    sequence: u32,
}

impl Connection {
    /// Opens it.
    pub fn open() -> Result<Self, NetlinkError> {
        let failed = NetlinkError::new("open a netlink socket");
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(failed)?, sequence: 0 })
    }

    /// Everything that a dump request answers.
    pub fn dump(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_DUMP).map_err(NetlinkError::new(what))
    }

    /// Makes a change.
    pub fn change(&mut self, what: &str, message: RouteNetlinkMessage) -> Result<(), NetlinkError> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK).map(drop).map_err(NetlinkError::new(what))
    }

    /// Makes a thing, or replaces it.
    pub fn put(&mut self, what: &str, message: RouteNetlinkMessage) -> Result<(), NetlinkError> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.exchange(message, flags).map(drop).map_err(NetlinkError::new(what))
    }

    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut octets = vec![0; request.buffer_len()];
        request.serialize(&mut octets);
        self.socket.send(&octets, 0)?;
        let mut answers = Vec::new();
        loop {
            let (octets, _) = self.socket.recv_from_full()?;
            for answer in messages(&octets) {
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    _ => {}
                }
            }
        }
    }
}

/// The messages of one datagram; what cannot be parsed ends it.
fn messages(mut octets: &[u8]) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
    let mut messages = Vec::new();
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(octets) {
        // Messages are aligned to four octets (NLMSG_ALIGN).
        let length = (message.header.length as usize).next_multiple_of(4);
        messages.push(message);
        match octets.get(length..) {
            Some(rest) if length > 0 && !rest.is_empty() => octets = rest,
            _ => break,
        }
    }
    messages
}

/// What an interface is, as far as it must be known before it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number of it.
    pub ifindex: u32,
    /// Octets of its largest IP packet.
    pub mtu: u32,
    /// Its receive queues.
    pub rx_queues: u32,
}

/// Looks an interface up.
pub fn link(connection: &mut Connection, name: &str) -> Result<Link, NetlinkError> {
    let what = format!("look up the interface {name}");
    let missing =
        || NetlinkError { what: what.clone(), source: io::Error::from_raw_os_error(nix::libc::ENODEV) };
    for message in connection.dump(&what, RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
        let RouteNetlinkMessage::NewLink(message) = message else { continue };
        let mut link = Link { ifindex: message.header.index, mtu: 0, rx_queues: 1 };
        let mut found = false;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(known) => found = known == name,
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::NumRxQueues(queues) => link.rx_queues = (*queues).max(1),
                _ => {}
            }
        }
        if found {
            return Ok(link);
        }
    }
    Err(missing())
}
