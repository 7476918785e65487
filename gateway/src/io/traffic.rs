//! What went through the queues of an interface.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::drop::WorkerCounters;
use crate::sync::Line;

/// Of one queue. Whoever has its socket alone writes it, once for each batch, on a cache line of its own; it outlives the
/// socket, so that an interface which comes back goes on counting.
#[derive(Debug)]
pub struct QueueTraffic(Line<Counters>);

#[derive(Debug, Default)]
struct Counters {
    packets_in: AtomicU64,
    octets_in: AtomicU64,
    packets_out: AtomicU64,
    octets_out: AtomicU64,
}

/// What a [`QueueTraffic`] has counted. Octets are those of Ethernet frames, without their check sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Packets that the XDP program gave to our socket.
    pub packets_in: u64,
    /// Their octets.
    pub octets_in: u64,
    /// Packets that the kernel has taken to send.
    pub packets_out: u64,
    /// Their octets.
    pub octets_out: u64,
}

impl Default for QueueTraffic {
    fn default() -> Self {
        Self(Line(Counters::default()))
    }
}

impl QueueTraffic {
    pub(super) fn received(&self, packets: usize, octets: usize) {
        WorkerCounters::add(&self.0.0.packets_in, packets as u64);
        WorkerCounters::add(&self.0.0.octets_in, octets as u64);
    }

    pub(super) fn sent(&self, packets: usize, octets: usize) {
        WorkerCounters::add(&self.0.0.packets_out, packets as u64);
        WorkerCounters::add(&self.0.0.octets_out, octets as u64);
    }

    /// What it has counted so far.
    pub fn read(&self) -> QueueCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { packets_in, octets_in, packets_out, octets_out } = &self.0.0;
        QueueCounts {
            packets_in: read(packets_in),
            octets_in: read(octets_in),
            packets_out: read(packets_out),
            octets_out: read(octets_out),
        }
    }
}
