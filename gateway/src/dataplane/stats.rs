//! Counts and states of a running data plane.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portcullis_ipsec::{RateLimits, TenantId};

use super::interfaces::Served;
use super::{Dataplane, SocketStatistics, lock};
use crate::drop::{DropReason, WorkerCounters};
use crate::io::QueueCounts;
use crate::route::Role;
use crate::worker::WorkerGauges;
use crate::xdp::{Disposition, Outcome};

/// One worker's packet balance: received + from_kernel + generated + taken_over = transmitted + to_kernel + dropped +
/// handed_over + held, and what is on its way between two reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Frames taken from RX rings.
    pub received: u64,
    /// Packets from the host.
    pub from_kernel: u64,
    /// Packets made here.
    pub generated: u64,
    /// Frames put into TX rings.
    pub transmitted: u64,
    /// Packets for the host, and ESP that its TCP streams are to carry.
    pub to_kernel: u64,
    /// For any reason.
    pub dropped: u64,
    /// Handed to the worker that owns their SA.
    pub handed_over: u64,
    /// Taken over from other workers.
    pub taken_over: u64,
    /// Waiting for a neighbour.
    pub held: u64,
    /// ESP packets opened.
    pub opened: u64,
    /// ESP packets sealed.
    pub sealed: u64,
    /// Packets that came and went nowhere, or less than none; 0 while the balance holds.
    pub unaccounted: i64,
    /// How often the worker has gone to sleep.
    pub sleeps: u64,
    /// How often it has panicked and was started anew.
    pub restarts: u64,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceStats {
    /// Its name.
    pub name: String,
    /// Its side.
    pub role: Role,
    /// What was got: XDP mode and copy mode; "gone" while there is no such interface.
    pub mode: String,
    /// Queues served.
    pub queues: u32,
    /// What the kernel has counted of their sockets.
    pub sockets: SocketStatistics,
    /// What went through its queues, by queue, over all sockets that they have had.
    pub traffic: Vec<QueueCounts>,
}

/// The device of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceStats {
    /// Its name.
    pub name: String,
    /// Whether it can be read; it was removed otherwise.
    pub works: bool,
    /// Packets out of tunnels that the kernel took.
    pub to_kernel: u64,
    /// Packets that the kernel's routes led into it and workers took.
    pub from_kernel: u64,
    /// How much its tunnels may carry in time.
    pub rates: RateLimits,
    /// Packets out of tunnels that were beyond its rate.
    pub limited_in: u64,
    /// The same of those into them.
    pub limited_out: u64,
}

/// Everything.
#[derive(Debug, Clone)]
pub struct DataplaneStats {
    /// The AEAD engine.
    pub engine: &'static str,
    /// Since it was started.
    pub uptime: Duration,
    /// By worker.
    pub workers: Vec<WorkerStats>,
    /// By interface.
    pub interfaces: Vec<InterfaceStats>,
    /// By tenant: devices of connections.
    pub devices: Vec<DeviceStats>,
    /// All reasons of the workers and the slow path, as `socket_NAME` those of the kernel's AF_XDP sockets, and as
    /// `xdp_NAME` all outcomes of the XDP program and the egress guard that drop. Those of the XDP program count since it
    /// was first attached.
    pub drops: BTreeMap<String, u64>,
    /// Frames of packet memory.
    pub frames_total: u64,
    /// Free ones.
    pub frames_free: u64,
    /// Ones in the rings, with the kernel.
    pub frames_in_kernel: u64,
    /// Ones on their way from one worker to another.
    pub frames_handed: u64,
}

pub(super) fn collect(dataplane: &Dataplane) -> DataplaneStats {
    let workers: Vec<WorkerStats> = dataplane
        .threads
        .workers()
        .iter()
        .map(|worker| worker_stats(&worker.counters, &worker.gauges))
        .collect();
    let mut drops: BTreeMap<String, u64> = BTreeMap::new();
    for reason in DropReason::ALL {
        let sum = dataplane.threads.workers().iter().map(|worker| worker.counters.drops(*reason)).sum();
        drops.insert(reason.label().to_owned(), sum);
    }
    let slow = dataplane.slow.counters();
    drops.insert("slow_path_full".to_owned(), load(&slow.dropped_from_kernel));
    drops.insert("slow_path_refused".to_owned(), load(&slow.dropped_to_kernel));
    drops.insert("stream_full".to_owned(), load(&slow.dropped_stream_full));
    drops.insert("stream_gone".to_owned(), load(&slow.dropped_stream_gone));
    let interfaces: Vec<InterfaceStats> = lock(&dataplane.interfaces).iter().map(Served::stats).collect();
    let sockets = interfaces.iter().map(|interface| interface.sockets);
    let sockets = sockets.fold(SocketStatistics::default(), SocketStatistics::plus);
    for (name, count) in [
        ("rx_dropped", sockets.rx_dropped),
        ("rx_ring_full", sockets.rx_ring_full),
        ("rx_fill_ring_empty", sockets.rx_fill_ring_empty),
        ("tx_invalid", sockets.tx_invalid),
    ] {
        drops.insert(format!("socket_{name}"), count);
    }
    let outcomes = dataplane.guards.counters();
    for outcome in Outcome::ALL.iter().filter(|outcome| outcome.disposition() == Disposition::Drop) {
        let count = outcomes.get(outcome).copied().unwrap_or(0);
        drops.insert(format!("xdp_{}", outcome.name()), count);
    }
    let gauge = |pick: fn(&WorkerGauges) -> &AtomicU64| {
        dataplane.threads.workers().iter().map(|worker| load(pick(&worker.gauges))).sum()
    };
    DataplaneStats {
        engine: dataplane.engine.kind().name(),
        uptime: dataplane.since.elapsed(),
        workers,
        interfaces,
        devices: devices(dataplane),
        drops,
        frames_total: dataplane.memory.frames() as u64,
        frames_free: gauge(|gauges| &gauges.free),
        frames_in_kernel: gauge(|gauges| &gauges.in_kernel),
        frames_handed: gauge(|gauges| &gauges.handed),
    }
}

fn devices(dataplane: &Dataplane) -> Vec<DeviceStats> {
    let rates = dataplane.installer.rates_of_devices();
    let counted = dataplane.slow.counters().devices.iter().zip((0..).map(TenantId)).skip(1);
    let named = dataplane.config.devices.iter().zip(counted);
    let stats = named.map(|(name, (counters, tenant))| {
        let (rates, (limited_in, limited_out)) = rates.get(&tenant).copied().unwrap_or_default();
        DeviceStats {
            name: name.clone(),
            works: !counters.failed.load(Ordering::Relaxed),
            to_kernel: load(&counters.to_kernel),
            from_kernel: load(&counters.from_kernel),
            rates,
            limited_in,
            limited_out,
        }
    });
    stats.collect()
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn worker_stats(counters: &WorkerCounters, gauges: &WorkerGauges) -> WorkerStats {
    WorkerStats {
        received: load(&counters.received),
        from_kernel: load(&counters.from_kernel),
        generated: load(&counters.generated),
        transmitted: load(&counters.transmitted),
        to_kernel: load(&counters.to_kernel),
        dropped: counters.total_drops(),
        handed_over: load(&counters.handed_over),
        taken_over: load(&counters.taken_over),
        held: load(&counters.held),
        opened: load(&counters.opened),
        sealed: load(&counters.sealed),
        unaccounted: gauges.unaccounted.load(Ordering::Relaxed),
        sleeps: load(&gauges.sleeps),
        restarts: load(&gauges.restarts),
    }
}
