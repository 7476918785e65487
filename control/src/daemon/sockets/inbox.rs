//! What has been received and not been given to the engine yet. Datagrams are taken from the kernel several at once, by one
//! system call for all of them.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::libc;
use nix::sys::socket::{MsgFlags, MultiHeaders, RecvMsg, SockaddrStorage, recvmmsg};
use portcullis_ike::engine::{Datagram, DatagramPayload};

use super::{BUFFER, Endpoint, NON_ESP_MARKER, sent_to, to_std};

/// Datagrams that one call takes.
const MOST: usize = 16;

/// Datagrams that wait for the engine, in the order in which they came.
pub(in crate::daemon) struct Inbox {
    /// Room for so many of the largest, of which only what was written to lies in memory.
    buffer: Vec<u8>,
    /// `None`: not IKE.
    waiting: VecDeque<Option<Datagram>>,
}

impl Inbox {
    /// Empty.
    pub(in crate::daemon) fn new() -> Self {
        Self { buffer: vec![0; MOST * BUFFER], waiting: VecDeque::with_capacity(MOST) }
    }

    /// The next that waits.
    pub(super) fn next(&mut self) -> Option<Option<Datagram>> {
        self.waiting.pop_front()
    }

    /// Takes what an endpoint has, as far as it goes into one call; `WouldBlock` where nothing is.
    pub(super) fn fill(&mut self, endpoint: &Endpoint) -> io::Result<()> {
        let buffers = self.buffer.chunks_mut(BUFFER).take(endpoint.at_once.min(MOST));
        let mut slices: Vec<_> = buffers.map(|buffer| [IoSliceMut::new(buffer)]).collect();
        // Made anew for each call: what the kernel writes into them is how much room it needed, and the next call would have
        // no more.
        let space = nix::cmsg_space!(libc::in6_pktinfo);
        let mut headers = MultiHeaders::preallocate(slices.len(), Some(space));
        let fd = endpoint.socket.as_raw_fd();
        let received = recvmmsg(fd, &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
        for message in received {
            self.waiting.push_back(datagram(endpoint, &message)?);
        }
        Ok(())
    }
}

/// A datagram with its addresses; `None` if it is not IKE.
fn datagram(endpoint: &Endpoint, message: &RecvMsg<'_, '_, SockaddrStorage>) -> io::Result<Option<Datagram>> {
    let local = message.cmsgs()?.find_map(|control| sent_to(&control));
    let (Some(remote), Some(local)) = (message.address.as_ref().and_then(to_std), local) else {
        return Ok(None);
    };
    let octets = message.iovs().next().unwrap_or_default();
    let payload = if endpoint.nat { octets.strip_prefix(&NON_ESP_MARKER) } else { Some(octets) };
    let local = SocketAddr::new(local, endpoint.port);
    Ok(payload.map(|payload| Datagram { local, remote, payload: DatagramPayload::Ike(payload.to_vec()) }))
}
