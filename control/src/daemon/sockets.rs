//! The UDP sockets of IKE: ports 500 and 4500, both families, on all addresses.
//!
//! Each datagram comes with the address that it was sent to, and leaves from the address that the engine names
//! (`IP_PKTINFO`). Everything carries the gateway's firewall mark, so that the protected routes do not catch it.
//! IKE_SA_INIT requests have sockets of their own, which are read when nothing else is there ([`steer`]): a flood of them
//! keeps nothing from those whose IKE SA is up.
//! On the NAT port the non-ESP marker (RFC 3948 §2.2) is added and stripped here, and what comes without it, ESP that the
//! kernel has put together from fragments, is left to [`esp`].

pub(super) mod esp;
mod steer;

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    self, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn,
    SockaddrIn6, SockaddrStorage, sockopt,
};
use portcullis_ike::engine::{Datagram, DatagramPayload};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Four zero octets before an IKE message on the NAT port.
const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// RFC 3948 §2.3.
const NAT_KEEPALIVE: [u8; 1] = [0xff];
/// Octets that the kernel may queue for IKE SAs that are up: the answers of all peers to a DPD at once.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Larger than any UDP payload.
const BUFFER: usize = 65_536;

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
            endpoints.push(Endpoint { socket: group.most, ipv4: addr.is_ipv4(), port, nat });
            inits.push(Endpoint { socket: group.inits, ipv4: addr.is_ipv4(), port, nat });
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
    pub(super) async fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<Option<Datagram>> {
        buffer.resize(BUFFER, 0);
        loop {
            match self.receive_now(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            for endpoint in self.inits.iter().chain(&self.endpoints) {
                match endpoint.try_receive(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    other => return other,
                }
            }
            self.readable().await?;
        }
    }

    /// The same, of what is there by now; `WouldBlock` where nothing is.
    pub(super) fn receive_now(&self, buffer: &mut Vec<u8>) -> io::Result<Option<Datagram>> {
        buffer.resize(BUFFER, 0);
        // Whatever the reactor knows of by now: an IKE_SA_INIT is read only when there is nothing else.
        for endpoint in self.endpoints.iter().chain(&self.inits) {
            match endpoint.receive_now(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                other => return other,
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    async fn readable(&self) -> io::Result<()> {
        let mut waits: Vec<_> = self
            .endpoints
            .iter()
            .chain(&self.inits)
            .map(|endpoint| Box::pin(endpoint.socket.readable()))
            .collect();
        std::future::poll_fn(|context| {
            for wait in &mut waits {
                if let std::task::Poll::Ready(result) = wait.as_mut().poll(context) {
                    return std::task::Poll::Ready(result);
                }
            }
            std::task::Poll::Pending
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
    /// As [`Endpoint::receive_now`]; where nothing is, the reactor is to say when something comes.
    fn try_receive(&self, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
        self.socket.try_io(Interest::READABLE, || self.receive_now(buffer))
    }

    /// What is there, without waiting.
    fn receive_now(&self, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
        let mut space = nix::cmsg_space!(libc::in6_pktinfo);
        let mut slices = [IoSliceMut::new(buffer)];
        let fd = self.socket.as_raw_fd();
        let message =
            socket::recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut space), MsgFlags::empty())?;
        let local = message.cmsgs()?.find_map(|control| sent_to(&control));
        let (len, remote) = (message.bytes, message.address);
        let (Some(remote), Some(local)) = (remote.as_ref().and_then(to_std), local) else {
            return Ok(None);
        };
        let octets = buffer.get(..len).unwrap_or_default();
        let payload = match self.nat {
            false => octets,
            true => match octets.split_first_chunk() {
                Some((&NON_ESP_MARKER, message)) => message,
                _ => return Ok(None),
            },
        };
        let local = SocketAddr::new(local, self.port);
        Ok(Some(Datagram { local, remote, payload: DatagramPayload::Ike(payload.to_vec()) }))
    }

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
        let received = sockets.receive(&mut Vec::new()).await.unwrap().unwrap();
        assert_eq!((received.local, received.payload), (datagram.local, datagram.payload));

        peer.send_to(&NAT_KEEPALIVE, datagram.local).await.unwrap();
        assert_eq!(sockets.receive(&mut Vec::new()).await.unwrap(), None);
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
                let received = sockets.receive(&mut Vec::new()).await.unwrap().unwrap();
                assert_eq!(received.payload, DatagramPayload::Ike(late), "port {port}");
            }
        }
        let init = sockets.receive(&mut Vec::new()).await.unwrap().unwrap();
        assert_eq!(init.payload, DatagramPayload::Ike(message(34, 0x08)));
    }
}
