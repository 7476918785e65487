//! The clients' UDP ports 500 and 4500, each one socket for the addresses of all clients, and the host that their packets
//! are for.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
};

use super::place::{INSIDE, Place};

/// Octets that the kernel may queue: more than ever are under way.
const RECEIVE_BUFFER: usize = 16 << 20;
/// Larger than any IKE message here.
pub(crate) const BUFFER: usize = 4096;
/// UDP's discard port.
pub(crate) const DISCARD: u16 = 9;

/// A port of all clients.
#[derive(Debug)]
pub(crate) struct Port {
    socket: UdpSocket,
    number: u16,
}

impl Port {
    fn open(number: u16) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, number))?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        Ok(Self { socket, number })
    }

    /// The next datagram, if one is there: whom it is for, and its length.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(Ipv4Addr, usize)>> {
        let mut space = nix::cmsg_space!(libc::in_pktinfo);
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::empty();
        match recvmsg::<SockaddrIn>(self.socket.as_raw_fd(), &mut slices, Some(&mut space), flags) {
            Ok(message) => {
                let to = message.cmsgs()?.find_map(|control| match control {
                    ControlMessageOwned::Ipv4PacketInfo(info) => {
                        Some(Ipv4Addr::from_bits(u32::from_be(info.ipi_addr.s_addr)))
                    }
                    _ => None,
                });
                Ok(Some((to.unwrap_or(Ipv4Addr::UNSPECIFIED), message.bytes)))
            }
            Err(nix::Error::EAGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a datagram from a client's address.
    pub(crate) fn send(&self, from: Ipv4Addr, to: SocketAddrV4, parts: [&[u8]; 2]) -> io::Result<()> {
        let info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(from.octets()) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let (fd, slices) = (self.socket.as_raw_fd(), parts.map(IoSlice::new));
        let control = [ControlMessage::Ipv4PacketInfo(&info)];
        sendmsg(fd, &slices, &control, MsgFlags::empty(), Some(&SockaddrIn::from(to)))?;
        Ok(())
    }

    /// The number, with the address of a client.
    pub(crate) fn of(&self, client: Ipv4Addr) -> SocketAddr {
        SocketAddr::new(client.into(), self.number)
    }
}

/// Everything that is listened on.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) ike: Port,
    pub(crate) nat: Port,
    /// Of the host inside.
    pub(crate) inside: UdpSocket,
}

impl Sockets {
    /// Opens them in their namespaces, where they stay.
    pub(crate) fn open(place: &Place) -> anyhow::Result<Self> {
        let (ike, nat) = place.clients.enter(|| (Port::open(500), Port::open(4500)))?;
        let inside = place.inside.enter(|| UdpSocket::bind((INSIDE, DISCARD)))??;
        inside.set_nonblocking(true)?;
        setsockopt(&inside, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        Ok(Self { ike: ike?, nat: nat?, inside })
    }

    /// Waits until something is there, for a time at most.
    pub(crate) fn wait(&self, time: Duration) -> io::Result<()> {
        let fds = [self.ike.socket.as_fd(), self.nat.socket.as_fd(), self.inside.as_fd()];
        let mut fds = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO)) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
