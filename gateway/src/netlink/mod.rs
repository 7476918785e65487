//! The kernel's network configuration over rtnetlink (RFC 3549): mirrored for the workers, and changed where protected
//! traffic needs routes.
//!
//! - [`mirror`]: a thread that follows links, addresses, routes and neighbours into a
//!   [`RouteTable`](crate::route::RouteTable).
//! - [`exported`]: routes that a routing daemon tells others of.
//! - [`protected`]: the routes and rules that lead the host's own protected traffic into the TUN device.
//!
//! [`Connection`] is one socket, for one thread.

pub mod addresses;
pub mod exported;
pub mod mirror;
pub mod protected;
mod vlans;

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Octets of `struct nlmsghdr`.
const HEADER_LEN: usize = 16;
/// How often a dump is asked for again that was not of one moment.
const DUMP_TRIES: u32 = 5;

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

    /// Everything that a dump request answers. What changes while it is being read makes it start anew; if that does not
    /// end, the last answer has to do: each change is announced as well.
    pub fn dump(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut tries = 0;
        loop {
            let answer = self.exchange(message.clone(), NLM_F_REQUEST | NLM_F_DUMP);
            let answer = answer.map_err(NetlinkError::new(what))?;
            tries += 1;
            if !answer.interrupted || tries == DUMP_TRIES {
                return Ok(answer.messages);
            }
        }
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

    fn exchange(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Answer> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut octets = vec![0; request.buffer_len()];
        request.serialize(&mut octets);
        self.socket.send(&octets, 0)?;
        let mut answer = Answer::default();
        loop {
            let (octets, _) = self.socket.recv_from_full()?;
            for part in messages(&octets) {
                if part.header.sequence_number != self.sequence {
                    continue;
                }
                answer.interrupted |= part.header.flags & NLM_F_DUMP_INTR != 0;
                match part.payload {
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => return Ok(answer),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answer),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(message) => answer.messages.push(message),
                    _ => {}
                }
            }
        }
    }
}

/// What the kernel answered to one request.
#[derive(Debug, Default)]
struct Answer {
    messages: Vec<RouteNetlinkMessage>,
    /// Whether something changed meanwhile, so that parts may be of different moments.
    interrupted: bool,
}

/// The messages of one datagram. One that cannot be parsed (a newer kernel's, say) is left out.
fn messages(mut octets: &[u8]) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
    let mut messages = Vec::new();
    while let Some(length) = octets.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
        let Some(message) = octets.get(..length).filter(|message| message.len() >= HEADER_LEN) else { break };
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
            Ok(message) => messages.push(message),
            Err(error) => tracing::warn!(%error, "a message of the kernel's cannot be understood"),
        }
        // Messages are aligned to four octets (NLMSG_ALIGN).
        octets = octets.get(length.next_multiple_of(4)..).unwrap_or_default();
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
    /// Receive queues that it could use.
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

/// Removes a TUN device, also one that a process has open. None of that name, or another kind of interface, stays.
pub fn remove_tun(connection: &mut Connection, name: &str) -> Result<(), NetlinkError> {
    let what = format!("remove the TUN device {name}");
    let is_tun = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::LinkInfo(info) => info.contains(&LinkInfo::Kind(InfoKind::Tun)),
        _ => false,
    };
    for message in connection.dump(&what, RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
        let RouteNetlinkMessage::NewLink(found) = message else { continue };
        let named = |attribute: &LinkAttribute| *attribute == LinkAttribute::IfName(name.to_owned());
        if found.attributes.iter().any(named) && found.attributes.iter().any(is_tun) {
            let mut link = LinkMessage::default();
            link.header.index = found.header.index;
            return connection.change(&what, RouteNetlinkMessage::DelLink(link));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkMessage;
    use nix::libc;

    use super::*;

    fn message(index: u32) -> Vec<u8> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewLink(link));
        message.finalize();
        let mut octets = vec![0; message.buffer_len()];
        message.serialize(&mut octets);
        octets
    }

    fn indices(octets: &[u8]) -> Vec<u32> {
        let index = |message: NetlinkMessage<RouteNetlinkMessage>| match message.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => link.header.index,
            other => panic!("{other:?}"),
        };
        messages(octets).into_iter().map(index).collect()
    }

    #[test]
    fn a_message_that_cannot_be_understood_does_not_hide_the_next() {
        let mut broken = message(2);
        // A route, of which so much is missing.
        broken.truncate(20);
        broken[..6].copy_from_slice(&[20, 0, 0, 0, libc::RTM_NEWROUTE as u8, 0]);
        assert_eq!(indices(&[message(1), broken, message(3)].concat()), [1, 3]);
    }

    #[test]
    fn a_length_that_is_a_lie_ends_the_datagram() {
        for length in [0_u8, 3, 15, 200] {
            let mut lying = message(2);
            lying[0] = length;
            assert_eq!(indices(&[message(1), lying].concat()), [1]);
        }
        assert!(indices(&[]).is_empty());
        assert!(indices(&[16, 0]).is_empty());
    }
}
