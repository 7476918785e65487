//! The UDP sockets of IKE: ports 500 and 4500, both families, on all addresses.
//!
//! Each datagram comes with the address that it was sent to, and leaves from the address that the engine names
//! (`IP_PKTINFO`). Everything carries the gateway's firewall mark, so that the protected routes do not catch it.
//! IKE_SA_INIT requests have sockets of their own, which are read when nothing else is there ([`steer`]): a flood of them
//! keeps nothing from those whose IKE SA is up.
//! On the NAT port the non-ESP marker (RFC 3948 §2.2) is added and stripped here, and what comes without it, ESP that the
//! kernel has put together from fragments, is left to [`esp`].

pub(super) mod esp;
mod inbox;
mod steer;

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::task::Poll;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    self, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn,
    SockaddrIn6, SockaddrStorage, sockopt,
};
use portcullis_ike::engine::{Datagram, DatagramPayload};
use tokio::io::Interest;
use tokio::net::UdpSocket;

pub(super) use inbox::Inbox;

/// Four zero octets before an IKE message on the NAT port.
const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// RFC 3948 §2.3.
const NAT_KEEPALIVE: [u8; 1] = [0xff];
/// Octets that the kernel may queue for IKE SAs that are up: the answers of all peers to a DPD at once.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Larger than any UDP payload.
const BUFFER: usize = 65_536;
/// Datagrams that are taken at once from a socket of IKE SAs that are up, or come up.
const AT_ONCE: usize = 16;
/// IKE_SA_INIT requests that are taken at once: what comes for IKE SAs waits behind no more than these.
const INITS_AT_ONCE: usize = 8;

/// A socket that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot open UDP port {port} for {family}: {error}{}", hint(.error))]
pub(super) struct SocketError {
    /// The port.
    port: u16,
    /// `IPv4` or `IPv6`.
    family: &'static str,
    /// Why.
    error: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => " (does another IKE daemon, such as strongSwan, run here?)",
        Some(libc::EPERM | libc::EACCES) => " (run as root, or with CAP_NET_ADMIN and CAP_NET_BIND_SERVICE)",
        _ => "",
    }
}

/// One socket of a family and port.
struct Endpoint {
    socket: UdpSocket,
    ipv4: bool,
    port: u16,
    nat: bool,
    /// Datagrams that are taken by one call.
    at_once: usize,
}

/// All sockets of the daemon.
pub(super) struct Sockets {
    endpoints: Vec<Endpoint>,
    /// For IKE_SA_INIT requests.
    inits: Vec<Endpoint>,
    /// For ESP, on the NAT port.
    esp: Vec<OwnedFd>,
    mark: u32,
}

impl Sockets {
    /// Opens both ports for both families. Where the host has no IPv6, IPv4 alone will do.
    pub(super) fn open(port: u16, nat_port: u16, mark: u32) -> Result<Self, SocketError> {
        let (mut endpoints, mut inits, mut esp) = (Vec::new(), Vec::new(), Vec::new());
        let mut add = |port, nat, addr: IpAddr| {
            let group = Group::open(addr, port, nat, mark)?;
            let endpoint = |socket, at_once| Endpoint { socket, ipv4: addr.is_ipv4(), port, nat, at_once };
            endpoints.push(endpoint(group.most, AT_ONCE));
            inits.push(endpoint(group.inits, INITS_AT_ONCE));
            esp.extend(group.esp);
            Ok(())
        };
        for (port, nat) in [(port, false), (nat_port, true)] {
            add(port, nat, Ipv4Addr::UNSPECIFIED.into()).map_err(|error| SocketError {
                port,
                family: "IPv4",
                error,
            })?;
            match add(port, nat, Ipv6Addr::UNSPECIFIED.into()) {
                Ok(()) => {}
                Err::<(), io::Error>(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                    tracing::warn!(port, "this host has no IPv6: IKE listens on IPv4 alone");
                }
                Err(error) => return Err(SocketError { port, family: "IPv6", error }),
            }
        }
        Ok(Self { endpoints, inits, esp, mark })
    }

    /// The sockets that ESP comes to; none when they were taken before.
    pub(super) fn take_esp(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.esp)
    }

    /// The firewall mark of everything that is sent.
    pub(super) fn mark(&self) -> u32 {
        self.mark
    }

    /// The next datagram from any socket. Keepalives are answered with nothing and skipped (counted by the caller
    /// through `None`).
    pub(super) async fn receive(&self, inbox: &mut Inbox) -> io::Result<Option<Datagram>> {
        loop {
            match self.receive_now(inbox) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            // Of those where the reactor thinks that something is; where nothing is, it is to say when something comes.
            for endpoint in self.all() {
                match endpoint.socket.try_io(Interest::READABLE, || inbox.fill(endpoint)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                    Ok(()) => break,
                }
            }
            if let Some(datagram) = inbox.next() {
                return Ok(datagram);
            }
            self.readable().await?;
        }
    }

    /// The same, of what is there by now; `WouldBlock` where nothing is.
    pub(super) fn receive_now(&self, inbox: &mut Inbox) -> io::Result<Option<Datagram>> {
        if let Some(datagram) = inbox.next() {
            return Ok(datagram);
        }
        // All are asked by one call, without the reactor: it would not know yet.
        let mut fds: Vec<_> =
            self.all().map(|endpoint| PollFd::new(endpoint.socket.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut fds, PollTimeout::ZERO)?;
        for (endpoint, _) in self.all().zip(&fds).filter(|(_, fd)| fd.any() == Some(true)) {
            match inbox.fill(endpoint) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        inbox.next().ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    /// In the order in which they are read: an IKE_SA_INIT request only when there is nothing else.
    fn all(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().chain(&self.inits)
    }

    async fn readable(&self) -> io::Result<()> {
        std::future::poll_fn(|context| {
            // Every one of them, so that any wakes us.
            let ready = self.all().filter_map(|endpoint| match endpoint.socket.poll_recv_ready(context) {
                Poll::Ready(result) => Some(result),
                Poll::Pending => None,
            });
            ready.fold(Poll::Pending, |_, result| Poll::Ready(result))
        })
        .await
    }

    /// Sends a datagram from the address and port that it names, at once. A full socket buffer loses it, as a full
    /// queue on the way would: IKE retransmits.
    pub(super) fn send(&self, datagram: &Datagram) -> io::Result<()> {
        let wanted = |endpoint: &&Endpoint| {
            endpoint.port == datagram.local.port() && endpoint.ipv4 == datagram.local.is_ipv4()
        };
        let no_socket =
            || io::Error::new(io::ErrorKind::AddrNotAvailable, format!("no socket for {}", datagram.local));
        self.endpoints.iter().find(wanted).ok_or_else(no_socket)?.send(datagram)
    }
}

impl Endpoint {
    fn send(&self, datagram: &Datagram) -> io::Result<()> {
        let marker: &[u8] = if self.nat { &NON_ESP_MARKER } else { &[] };
        let slices = match &datagram.payload {
            DatagramPayload::Ike(message) => [IoSlice::new(marker), IoSlice::new(message)],
            // Those of streams do not come here.
            DatagramPayload::Stream(_) => return Err(io::ErrorKind::InvalidInput.into()),
            DatagramPayload::NatKeepalive => [IoSlice::new(&[]), IoSlice::new(&NAT_KEEPALIVE)],
        };
        let fd = self.socket.as_raw_fd();
        let to = SockaddrStorage::from(datagram.remote);
        match datagram.local.ip() {
            IpAddr::V4(local) => {
                let source = libc::in_addr { s_addr: u32::from_ne_bytes(local.octets()) };
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: source,
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let control = [ControlMessage::Ipv4PacketInfo(&info)];
                socket::sendmsg(fd, &slices, &control, MsgFlags::empty(), Some(&to))?;
            }
            IpAddr::V6(local) => {
                let source = libc::in6_addr { s6_addr: local.octets() };
                let info = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: 0 };
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                socket::sendmsg(fd, &slices, &control, MsgFlags::empty(), Some(&to))?;
            }
        }
        Ok(())
    }
}

/// The address that a datagram was sent to, if that is what the control message says.
fn sent_to(control: &ControlMessageOwned) -> Option<IpAddr> {
    match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(IpAddr::from(u32::from_be(info.ipi_addr.s_addr).to_be_bytes()))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    }
}

/// The sockets of one port.
struct Group {
    /// For everything else, and to send from.
    most: UdpSocket,
    /// For IKE_SA_INIT requests.
    inits: UdpSocket,
    /// For ESP, on the NAT port.
    esp: Option<OwnedFd>,
}

impl Group {
    fn open(addr: IpAddr, port: u16, nat: bool, mark: u32) -> io::Result<Self> {
        // In the order that `steer` counts them by.
        let [most, inits] = [open(addr, port, mark)?, open(addr, port, mark)?].map(UdpSocket::from_std);
        let esp = if nat { Some(esp::open(addr, port, mark)?) } else { None };
        let most = most?;
        // Where the kernel does not let us have it, less has to do.
        if let Err(error) = socket::setsockopt(&most, sockopt::RcvBufForce, &RECEIVE_BUFFER) {
            tracing::warn!(port, %error, "the receive buffer stays small");
        }
        steer::attach(&most, if nat { NON_ESP_MARKER.len() as u32 } else { 0 })?;
        Ok(Self { most, inits: inits?, esp })
    }
}

fn open(addr: IpAddr, port: u16, mark: u32) -> io::Result<std::net::UdpSocket> {
    let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd: OwnedFd = socket::socket(family, SockType::Datagram, flags, None)?;
    socket::setsockopt(&fd, sockopt::Mark, &mark)?;
    socket::setsockopt(&fd, sockopt::ReusePort, &true)?;
    match addr {
        IpAddr::V4(addr) => {
            socket::setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
            socket::bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(addr, port)))?;
        }
        IpAddr::V6(addr) => {
            socket::setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
            socket::setsockopt(&fd, sockopt::Ipv6RecvPacketInfo, &true)?;
            socket::bind(fd.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(addr, port, 0, 0)))?;
        }
    }
    Ok(fd.into())
}

fn to_std(addr: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = addr.as_sockaddr_in().map(|addr| SocketAddr::new(addr.ip().into(), addr.port()));
    v4.or_else(|| addr.as_sockaddr_in6().map(|addr| SocketAddr::new(addr.ip().into(), addr.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_datagram_on_the_nat_port_carries_the_marker_and_arrives_without_it() {
        // Marks need CAP_NET_ADMIN; port 0 would not tell the two sockets apart.
        let sockets = Sockets::open(15_500, 15_501, 1).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let datagram = Datagram {
            local: "127.0.0.2:15501".parse().unwrap(),
            remote: peer.local_addr().unwrap(),
            payload: DatagramPayload::Ike(b"message".to_vec()),
        };
        sockets.send(&datagram).unwrap();
        let mut octets = [0; 64];
        let (len, from) = peer.recv_from(&mut octets).await.unwrap();
        assert_eq!(&octets[..len], b"\0\0\0\0message");
        assert_eq!(from, datagram.local, "the source address is the one that the engine named");

        peer.send_to(&octets[..len], datagram.local).await.unwrap();
        let received = sockets.receive(&mut Inbox::new()).await.unwrap().unwrap();
        assert_eq!((received.local, received.payload), (datagram.local, datagram.payload));

        peer.send_to(&NAT_KEEPALIVE, datagram.local).await.unwrap();
        assert_eq!(sockets.receive(&mut Inbox::new()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_came_together_is_given_one_by_one_with_its_own_addresses() {
        let sockets = Sockets::open(15_530, 15_531, 1).unwrap();
        let mut inbox = Inbox::new();
        // Longer, and from a longer address, than what comes after it by the same inbox.
        for (from, to) in [("[::1]:0", "[::1]:15530"), ("127.0.0.1:0", "127.0.0.3:15530")] {
            let peer = UdpSocket::bind(from).await.unwrap();
            let (local, remote) = (to.parse().unwrap(), peer.local_addr().unwrap());
            let sent: Vec<_> = (0..3 * AT_ONCE).map(|number| vec![number as u8; 100 - number]).collect();
            for payload in &sent {
                peer.send_to(payload, to).await.unwrap();
            }
            for payload in sent {
                let received = sockets.receive(&mut inbox).await.unwrap();
                assert_eq!(
                    received,
                    Some(Datagram { local, remote, payload: DatagramPayload::Ike(payload) })
                );
            }
            assert_eq!(sockets.receive_now(&mut inbox).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }

    /// An IKE header with this exchange type and these flags.
    fn message(exchange: u8, flags: u8) -> Vec<u8> {
        let mut octets = vec![7; 28];
        (octets[18], octets[19]) = (exchange, flags);
        octets
    }

    #[tokio::test]
    async fn esp_on_the_nat_port_has_a_socket_of_its_own() {
        let mut sockets = Sockets::open(15_520, 15_521, 1).unwrap();
        let esp = std::net::UdpSocket::from(sockets.take_esp().remove(0));
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for payload in [&[0, 0, 1, 0, 7, 7][..], &NON_ESP_MARKER, &NAT_KEEPALIVE] {
            peer.send_to(payload, ("127.0.0.1", 15_521)).await.unwrap();
        }
        let mut octets = [0; 64];
        assert_eq!(esp.recv(&mut octets).unwrap(), 6);
        assert_eq!(esp.recv(&mut octets).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn a_flood_of_ike_sa_init_keeps_nothing_else_out() {
        let sockets = Sockets::open(15_510, 15_511, 1).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for (port, marker) in [(15_510, &[][..]), (15_511, &NON_ESP_MARKER[..])] {
            // More than any buffer holds.
            for exchange in [34, 38].into_iter().cycle().take(20_000) {
                peer.send_to(&[marker, &message(exchange, 0x08)].concat(), ("127.0.0.1", port))
                    .await
                    .unwrap();
            }
            // An answer to an IKE_SA_INIT of ours, IKE_AUTH, INFORMATIONAL, and what is too short for a header.
            for late in [message(34, 0x20), message(35, 0x08), message(37, 0x28), vec![1; 5]] {
                peer.send_to(&[marker, &late].concat(), ("127.0.0.1", port)).await.unwrap();
                let received = sockets.receive(&mut Inbox::new()).await.unwrap().unwrap();
                assert_eq!(received.payload, DatagramPayload::Ike(late), "port {port}");
            }
        }
        let init = sockets.receive(&mut Inbox::new()).await.unwrap().unwrap();
        assert_eq!(init.payload, DatagramPayload::Ike(message(34, 0x08)));
    }
}
