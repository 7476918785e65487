//! ESP that goes out in TCP streams (RFC 9329). A worker seals it like ESP in UDP, with the ports of the stream, and gives it to
//! a ring instead of an interface; whoever has the streams takes it out of its headers here. It is copied: the host's TCP is what
//! limits such a tunnel.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::slowpath::{SlowPathCounters, Waker, WorkerEnd};
use crate::wire::{self, ETHERNET_HEADER_LEN, UDP_HEADER_LEN};

/// An ESP packet and the stream that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPacket {
    /// Our end of the stream.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    frame: Box<[u8]>,
    at: usize,
}

impl StreamPacket {
    /// The frame that a worker has sealed: Ethernet, IP and UDP headers, ESP.
    fn read(frame: Box<[u8]>) -> Option<Self> {
        let packet = frame.get(ETHERNET_HEADER_LEN..)?;
        let (key, info) = wire::read(packet).ok()?;
        let local = SocketAddr::new(key.src(), key.src_port()?);
        let remote = SocketAddr::new(key.dst(), key.dst_port()?);
        Some(Self { local, remote, at: ETHERNET_HEADER_LEN + info.header_len() + UDP_HEADER_LEN, frame })
    }

    /// The packet, from its SPI to the end of its ICV.
    pub fn esp(&self) -> &[u8] {
        self.frame.get(self.at..).unwrap_or_default()
    }
}

/// Why a packet did not get into a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotCarried {
    /// There is no such stream.
    Gone,
    /// It takes no more: the peer, or the way, is slower.
    Full,
}

/// The way of such packets from the workers. Readable when there may be any.
#[derive(Debug)]
pub struct EspOutlet {
    workers: Vec<WorkerEnd>,
    waker: Waker,
    counters: Arc<SlowPathCounters>,
}

impl EspOutlet {
    pub(crate) fn new(workers: Vec<WorkerEnd>, waker: Waker, counters: Arc<SlowPathCounters>) -> Self {
        Self { workers, waker, counters }
    }

    /// Gives `carry` all packets that are there, in order as far as one SA goes, and counts those that it does not take
    /// (`stream_gone`, `stream_full`).
    pub fn take(&self, mut carry: impl FnMut(StreamPacket) -> Result<(), NotCarried>) {
        // Before the rings are looked at: what comes meanwhile raises it again.
        self.waker.lower();
        for worker in &self.workers {
            while let Some(frame) = worker.take_for_streams() {
                let carried = StreamPacket::read(frame).ok_or(NotCarried::Gone).and_then(&mut carry);
                let counter = match carried {
                    Ok(()) => continue,
                    Err(NotCarried::Gone) => &self.counters.dropped_stream_gone,
                    Err(NotCarried::Full) => &self.counters.dropped_stream_full,
                };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl AsFd for EspOutlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}
