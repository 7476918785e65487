//! The thread that reads ICMP from raw sockets: few messages a second, however many come.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

use super::{TooBig, read};
use crate::slowpath::Waker;
use crate::wire::IPV4_HEADER_LEN;

/// Messages that are looked at in a second; what comes besides, the sockets' buffers drop.
const PER_SECOND: u32 = 1000;
/// Octets of a message that can matter: ICMP, the quoted headers, SPI and sequence number.
const BUFFER: usize = 512;

/// The running thread; ends when dropped.
#[derive(Debug)]
pub struct Listener {
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Starts it. `tell` is called for every message that could be about an SA.
    pub fn start(tell: impl Fn(TooBig) + Send + 'static) -> io::Result<Self> {
        let sockets = [open(false)?, open(true)?];
        let (stop, waker) = (Arc::new(AtomicBool::new(false)), Waker::new()?);
        let (until, bell) = (Arc::clone(&stop), waker.clone());
        let run = move || listen(&sockets, &until, &bell, &tell);
        let thread = std::thread::Builder::new().name("path-mtu".to_owned()).spawn(run)?;
        Ok(Self { stop, waker, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open(v6: bool) -> io::Result<OwnedFd> {
    let (family, protocol) = match v6 {
        false => (AddressFamily::Inet, SockProtocol::Icmp),
        true => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    Ok(socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)?)
}

fn listen(sockets: &[OwnedFd; 2], stop: &AtomicBool, waker: &Waker, tell: &dyn Fn(TooBig)) {
    let (mut second, mut looked_at) = (Instant::now(), 0);
    while !stop.load(Ordering::Acquire) {
        if second.elapsed() >= Duration::from_secs(1) {
            (second, looked_at) = (Instant::now(), 0);
        }
        // A flood is left in the kernel until the second is over.
        let flooded = looked_at >= PER_SECOND;
        let mut fds = vec![PollFd::new(waker.as_fd(), PollFlags::POLLIN)];
        if !flooded {
            fds.extend(sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        }
        let timeout = if flooded { PollTimeout::from(100_u16) } else { PollTimeout::NONE };
        // Interrupted: what is there is looked at all the same.
        let _ = poll(&mut fds, timeout);
        for (socket, v6) in sockets.iter().zip([false, true]) {
            while looked_at < PER_SECOND
                && let Some(found) = receive(socket, v6)
            {
                looked_at += 1;
                if let Some(too_big) = found {
                    tell(too_big);
                }
            }
        }
    }
}

/// The next message's news, if it has any; `None` once there is no message.
fn receive(socket: &OwnedFd, v6: bool) -> Option<Option<TooBig>> {
    let mut buffer = [0; BUFFER];
    let len = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
        Ok(len) => len,
        Err(Errno::EINTR) => 0,
        Err(_) => return None,
    };
    let message = buffer.get(..len).unwrap_or_default();
    // Of IPv4, a raw socket gives the IP header too.
    let icmp = match message.first() {
        Some(first) if !v6 => message.get((usize::from(first & 0xf) * 4).max(IPV4_HEADER_LEN)..),
        _ => Some(message),
    };
    Some(icmp.and_then(|icmp| read(icmp, v6)))
}
