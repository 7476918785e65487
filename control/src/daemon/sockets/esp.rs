//! ESP in UDP that came in fragments: the kernel has put it together, and the data plane takes it from here
//! ([`portcullis_gateway::inlet`]). A thread of its own, so that whoever floods it takes nothing from IKE.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, ControlMessageOwned, MsgFlags, SockaddrStorage, sockopt};
use portcullis_gateway::inlet::{EspDatagram, EspInlet};

use super::{BUFFER, sent_to, to_std};

/// Datagrams taken from one socket before the other is looked at.
const AT_ONCE: usize = 64;

/// A socket that also says how its datagrams were marked on the way.
pub(super) fn open(addr: IpAddr, port: u16, mark: u32) -> io::Result<OwnedFd> {
    let socket = super::open(addr, port, mark)?;
    match addr {
        IpAddr::V4(_) => socket::setsockopt(&socket, sockopt::IpRecvTos, &true)?,
        IpAddr::V6(_) => socket::setsockopt(&socket, sockopt::Ipv6RecvTClass, &true)?,
    }
    Ok(socket.into())
}

/// Gives the data plane what comes to these sockets of the port, for as long as the process lives.
pub(in crate::daemon) fn serve(sockets: Vec<OwnedFd>, port: u16, inlet: EspInlet) -> io::Result<()> {
    let run = move || {
        let mut buffer = vec![0; BUFFER];
        loop {
            let mut fds: Vec<_> =
                sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
            // Interrupted: what is there is looked at all the same.
            let _ = poll(&mut fds, PollTimeout::NONE);
            for socket in &sockets {
                for _ in 0..AT_ONCE {
                    match receive(socket, port, &mut buffer, &inlet) {
                        Ok(()) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => {
                            tracing::debug!(%error, "receiving ESP failed");
                            break;
                        }
                    }
                }
            }
        }
    };
    std::thread::Builder::new().name("esp-sockets".to_owned()).spawn(run).map(drop)
}

/// Takes one datagram.
fn receive(socket: &OwnedFd, port: u16, buffer: &mut [u8], inlet: &EspInlet) -> io::Result<()> {
    let mut space = nix::cmsg_space!(libc::in6_pktinfo, libc::c_int);
    let (mut local, mut tos) = (None, 0);
    let (len, remote) = {
        let mut slices = [IoSliceMut::new(buffer)];
        let message = socket::recvmsg::<SockaddrStorage>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::empty(),
        )?;
        for control in message.cmsgs()? {
            match control {
                ControlMessageOwned::Ipv4Tos(octet) => tos = octet,
                ControlMessageOwned::Ipv6TClass(class) => tos = class as u8,
                other => local = local.or(sent_to(&other)),
            }
        }
        (message.bytes, message.address)
    };
    let (Some(local), Some(remote)) = (local, remote.as_ref().and_then(to_std)) else { return Ok(()) };
    let payload = buffer.get(..len).unwrap_or_default();
    inlet.give(&EspDatagram { local: SocketAddr::new(local, port), remote, tos, stream: false, payload });
    Ok(())
}
