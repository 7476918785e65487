//! Where streams come from: a TCP port, of both families.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, sockopt};
use tokio::net::{TcpListener, TcpStream};

use super::Shared;

/// Connections that the kernel completes before they are taken.
const BACKLOG: i32 = 128;
/// After a failure, such as that there are no descriptors left.
const REST: Duration = Duration::from_millis(100);

/// A port that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on TCP port {port} for {family} (gateway.tcp_port): {error}")]
pub(in crate::daemon) struct ListenError {
    port: u16,
    /// `IPv4` or `IPv6`.
    family: &'static str,
    error: io::Error,
}

/// Listens on that port of all addresses. Where the host has no IPv6, IPv4 alone will do. What comes of it carries the firewall
/// mark, so that the protected routes do not catch it.
pub(super) fn open(port: u16, mark: u32) -> Result<Vec<TcpListener>, ListenError> {
    let error = |family| move |error| ListenError { port, family, error };
    let mut listeners = vec![listen(Ipv4Addr::UNSPECIFIED.into(), port, mark).map_err(error("IPv4"))?];
    match listen(Ipv6Addr::UNSPECIFIED.into(), port, mark) {
        Ok(listener) => listeners.push(listener),
        Err(cause) if cause.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
        Err(cause) => return Err(error("IPv6")(cause)),
    }
    Ok(listeners)
}

fn listen(addr: IpAddr, port: u16, mark: u32) -> io::Result<TcpListener> {
    let fd = bind(addr, port, mark)?;
    socket::listen(&fd, Backlog::new(BACKLOG)?)?;
    TcpListener::from_std(fd.into())
}

/// A socket with the mark, bound.
pub(super) fn bind(addr: IpAddr, port: u16, mark: u32) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket::socket(family, SockType::Stream, flags, None)?;
    socket::setsockopt(&fd, sockopt::Mark, &mark)?;
    socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    match addr {
        IpAddr::V4(addr) => {
            socket::bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(addr, port)))?;
        }
        IpAddr::V6(addr) => {
            socket::setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
            socket::bind(fd.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(addr, port, 0, 0)))?;
        }
    }
    Ok(fd)
}

/// Takes what peers open.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((socket, remote)) => {
                if let Err(error) = shared.welcome(socket)
                    && let Some(unlogged) = shared.may_log()
                {
                    tracing::warn!(%remote, %error, unlogged, "a TCP connection was not taken");
                }
            }
            Err(error) => {
                if let Some(unlogged) = shared.may_log() {
                    tracing::warn!(%error, unlogged, "taking a TCP connection failed");
                }
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Without flow label and scope, which are no part of where a peer is.
fn plain(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip(), addr.port())
}

/// The ends of a stream, ours first.
pub(super) fn ends(socket: &TcpStream) -> io::Result<(SocketAddr, SocketAddr)> {
    Ok((plain(socket.local_addr()?), plain(socket.peer_addr()?)))
}
