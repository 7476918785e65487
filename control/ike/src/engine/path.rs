//! The way of a message: between which addresses it goes, and what carries it.

use std::net::SocketAddr;

use super::api::{Datagram, DatagramPayload};

/// What carries IKE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Transport {
    /// Datagrams.
    #[default]
    Udp,
    /// A TCP stream (RFC 9329), which the shell has: its addresses and ports say which.
    Tcp,
}

/// Where messages of an IKE SA go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) transport: Transport,
}

impl Path {
    /// The way that a message has come, and the message; `None` for a keepalive.
    pub(super) fn of(Datagram { local, remote, payload }: Datagram) -> Option<(Self, Vec<u8>)> {
        match payload {
            DatagramPayload::Ike(octets) => Some((Self::udp(local, remote), octets)),
            DatagramPayload::Stream(octets) => Some((Self::tcp(local, remote), octets)),
            DatagramPayload::NatKeepalive => None,
        }
    }

    /// By UDP.
    pub(super) fn udp(local: SocketAddr, remote: SocketAddr) -> Self {
        Self { local, remote, transport: Transport::Udp }
    }

    /// By that TCP stream.
    pub(super) fn tcp(local: SocketAddr, remote: SocketAddr) -> Self {
        Self { local, remote, transport: Transport::Tcp }
    }

    /// Its addresses, without what carries it.
    pub(super) fn between(&self) -> (SocketAddr, SocketAddr) {
        (self.local, self.remote)
    }

    /// Whether messages go by a TCP stream.
    pub(super) fn is_stream(&self) -> bool {
        self.transport == Transport::Tcp
    }

    /// A message on its way.
    pub(super) fn carry(&self, message: Vec<u8>) -> Datagram {
        let payload = match self.transport {
            Transport::Udp => DatagramPayload::Ike(message),
            Transport::Tcp => DatagramPayload::Stream(message),
        };
        Datagram { local: self.local, remote: self.remote, payload }
    }
}
