//! The slow path: what a worker cannot do alone goes to the kernel through the TUN device, and what the host sends to
//! protected networks comes from it.
//!
//! One thread owns the devices, one for each tenant ([`TenantId`]). Between it and each worker lie two bounded rings, each
//! with one producer and one consumer, and an eventfd to wake the other side. A packet goes with its tenant, by which alone
//! address spaces that overlap are told apart. Packets are copied: this path is not the fast one.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam::queue::ArrayQueue;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use portcullis_ipsec::TenantId;

use crate::netlink::Connection;
use crate::netlink::mirror::resolve;
use crate::tun::Tun;

/// Packets that a ring holds.
const RING: usize = 1024;
/// Larger than any packet of the TUN device.
const BUFFER: usize = 65_536;

/// An eventfd that a sleeper polls.
#[derive(Debug, Clone)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// A new one, not raised.
    pub fn new() -> io::Result<Self> {
        let fd = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self(Arc::new(fd)))
    }

    /// Raises it. It stays raised until [`Waker::lower`].
    pub fn wake(&self) {
        // It can only fail when it is raised 2^64 - 1 times already.
        let _ = self.0.write(1);
    }

    /// Lowers it.
    pub fn lower(&self) {
        let _ = self.0.read();
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The rings between the slow path and one worker.
#[derive(Debug)]
struct Rings {
    to_kernel: ArrayQueue<(TenantId, Box<[u8]>)>,
    from_kernel: ArrayQueue<(TenantId, Box<[u8]>)>,
    /// ESP that came to a socket ([`crate::inlet`]).
    from_socket: ArrayQueue<Box<[u8]>>,
    /// ESP for TCP streams ([`crate::outlet`]).
    to_streams: ArrayQueue<Box<[u8]>>,
    /// Neighbours that the worker asks for.
    resolve: ArrayQueue<(u32, IpAddr)>,
    worker: Waker,
}

/// What the slow path counts of a device.
#[derive(Debug, Default)]
pub struct DeviceCounters {
    /// Packets that the kernel took.
    pub to_kernel: AtomicU64,
    /// Packets of the host that workers took.
    pub from_kernel: AtomicU64,
    /// Whether it cannot be read any more: it was removed.
    pub failed: AtomicBool,
}

/// What the slow path counts.
#[derive(Debug, Default)]
pub struct SlowPathCounters {
    /// By tenant.
    pub devices: Vec<DeviceCounters>,
    /// Packets of the host, and ESP that came to its sockets, that no worker had room for.
    pub dropped_from_kernel: AtomicU64,
    /// Packets that the kernel did not take.
    pub dropped_to_kernel: AtomicU64,
    /// ESP for a TCP stream that takes no more.
    pub dropped_stream_full: AtomicU64,
    /// ESP for a TCP stream that there is not.
    pub dropped_stream_gone: AtomicU64,
}

/// A worker's end of the slow path.
#[derive(Debug, Clone)]
pub struct WorkerEnd {
    rings: Arc<Rings>,
    thread: Waker,
    streams: Waker,
}

impl WorkerEnd {
    /// Gives the host a packet, by a tenant's device; false if the ring is full.
    #[must_use]
    pub fn to_kernel(&self, tenant: TenantId, packet: &[u8]) -> bool {
        self.rings.to_kernel.push((tenant, packet.into())).is_ok()
    }

    /// The next packet of the host, and the tenant by whose device it came.
    pub fn take_from_kernel(&self) -> Option<(TenantId, Box<[u8]>)> {
        self.rings.from_kernel.pop()
    }

    /// Gives the worker ESP that came to a socket; false if the ring is full.
    pub(crate) fn give_esp(&self, packet: Box<[u8]>) -> bool {
        let taken = self.rings.from_socket.push(packet).is_ok();
        self.rings.worker.wake();
        taken
    }

    /// The next ESP packet that came to a socket.
    pub fn take_from_socket(&self) -> Option<Box<[u8]>> {
        self.rings.from_socket.pop()
    }

    /// Gives whoever has the TCP streams a packet for one of them; false if the ring is full.
    #[must_use]
    pub fn to_streams(&self, packet: &[u8]) -> bool {
        self.rings.to_streams.push(packet.into()).is_ok()
    }

    /// The next packet for a TCP stream.
    pub(crate) fn take_for_streams(&self) -> Option<Box<[u8]>> {
        self.rings.to_streams.pop()
    }

    /// Wakes whoever has the TCP streams.
    pub fn flush_streams(&self) {
        self.streams.wake();
    }

    /// Has the kernel look for a neighbour. A full ring forgets it: who still needs it asks again.
    pub fn resolve(&self, ifindex: u32, addr: IpAddr) {
        let _ = self.rings.resolve.push((ifindex, addr));
    }

    /// Wakes the slow path for what was given to it.
    pub fn flush(&self) {
        self.thread.wake();
    }

    /// What wakes the worker.
    pub fn waker(&self) -> &Waker {
        &self.rings.worker
    }
}

/// The running slow path; ends when dropped.
#[derive(Debug)]
pub struct SlowPath {
    workers: Vec<WorkerEnd>,
    counters: Arc<SlowPathCounters>,
    stop: Arc<AtomicBool>,
    waker: Waker,
    streams: Waker,
    thread: Option<JoinHandle<()>>,
}

impl SlowPath {
    /// Starts the thread over open devices, in the order of their tenants, for so many workers.
    pub fn start(tuns: &[Arc<Tun>], connection: Connection, workers: usize) -> io::Result<Self> {
        let (waker, streams) = (Waker::new()?, Waker::new()?);
        let mut ends = Vec::new();
        for _ in 0..workers {
            let rings = Rings {
                to_kernel: ArrayQueue::new(RING),
                from_kernel: ArrayQueue::new(RING),
                from_socket: ArrayQueue::new(RING),
                to_streams: ArrayQueue::new(RING),
                resolve: ArrayQueue::new(RING),
                worker: Waker::new()?,
            };
            let (thread, streams) = (waker.clone(), streams.clone());
            ends.push(WorkerEnd { rings: Arc::new(rings), thread, streams });
        }
        let counters = Arc::new(SlowPathCounters {
            devices: tuns.iter().map(|_| DeviceCounters::default()).collect(),
            ..SlowPathCounters::default()
        });
        let stop = Arc::new(AtomicBool::new(false));
        let mut run = Run {
            tuns: tuns.to_vec(),
            connection,
            workers: ends.clone(),
            counters: Arc::clone(&counters),
            waker: waker.clone(),
            buffer: vec![0; BUFFER],
        };
        let until = Arc::clone(&stop);
        let thread =
            std::thread::Builder::new().name("slow-path".to_owned()).spawn(move || run.run(&until))?;
        Ok(Self { workers: ends, counters, stop, waker, streams, thread: Some(thread) })
    }

    /// The ends of the workers, in order.
    pub fn workers(&self) -> &[WorkerEnd] {
        &self.workers
    }

    /// What workers wake when there is something for a TCP stream.
    pub fn streams(&self) -> &Waker {
        &self.streams
    }

    /// What it counts.
    pub fn counters(&self) -> &Arc<SlowPathCounters> {
        &self.counters
    }
}

impl Drop for SlowPath {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Run {
    /// By tenant.
    tuns: Vec<Arc<Tun>>,
    connection: Connection,
    workers: Vec<WorkerEnd>,
    counters: Arc<SlowPathCounters>,
    waker: Waker,
    buffer: Vec<u8>,
}

impl Run {
    fn run(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Acquire) {
            {
                let mut fds = vec![PollFd::new(self.waker.as_fd(), PollFlags::POLLIN)];
                let working = self.tuns.iter().zip(&self.counters.devices);
                let working = working.filter(|(_, counters)| !counters.failed.load(Ordering::Relaxed));
                fds.extend(working.map(|(tun, _)| PollFd::new(tun.as_fd(), PollFlags::POLLIN)));
                // Interrupted: what is there is looked at all the same.
                let _ = poll(&mut fds, PollTimeout::NONE);
            }
            self.waker.lower();
            self.give_to_kernel();
            for (tenant, tun) in (0..).map(TenantId).zip(self.tuns.clone()) {
                self.serve(tenant, &tun);
            }
        }
    }

    /// Takes what the host sends by a tenant's device, while it works.
    fn serve(&mut self, tenant: TenantId, tun: &Tun) {
        let counters = Arc::clone(&self.counters);
        let Some(device) = counters.devices.get(tenant.0 as usize) else { return };
        if device.failed.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.take_from_kernel(tenant, tun, device) {
            // The others are served, and neighbours still looked for: what others send goes on.
            device.failed.store(true, Ordering::Relaxed);
            tracing::error!(
                %error,
                device = tun.name(),
                "the TUN device failed (was it removed?): what the host sends by it stays blocked until the daemon is restarted"
            );
        }
    }

    fn give_to_kernel(&mut self) {
        for worker in &self.workers {
            while let Some((tenant, packet)) = worker.rings.to_kernel.pop() {
                let at = tenant.0 as usize;
                let written = self.tuns.get(at).is_some_and(|tun| tun.write(&packet).is_ok());
                match self.counters.devices.get(at).filter(|_| written) {
                    Some(device) => device.to_kernel.fetch_add(1, Ordering::Relaxed),
                    None => self.counters.dropped_to_kernel.fetch_add(1, Ordering::Relaxed),
                };
            }
            while let Some((ifindex, addr)) = worker.rings.resolve.pop() {
                if let Err(error) = resolve(&mut self.connection, ifindex, addr) {
                    tracing::debug!(%error, "the kernel does not look for a neighbour");
                }
            }
        }
    }

    fn take_from_kernel(&mut self, tenant: TenantId, tun: &Tun, device: &DeviceCounters) -> io::Result<()> {
        // Bounded, so that what goes the other way is not kept waiting.
        for _ in 0..RING {
            let Some(len) = tun.read(&mut self.buffer)? else { break };
            let packet = self.buffer.get(..len).unwrap_or_default();
            // Routing protocols speak by multicast over a device that routes lead to.
            let idle = if tenant.is_routed() { is_housekeeping(packet) } else { is_link_scope(packet) };
            if idle {
                continue;
            }
            let worker = self.workers.get(flow_hash(packet) % self.workers.len().max(1));
            let taken = worker.is_some_and(|worker| {
                let taken = worker.rings.from_kernel.push((tenant, packet.into())).is_ok();
                worker.rings.worker.wake();
                taken
            });
            let counter = if taken { &device.from_kernel } else { &self.counters.dropped_from_kernel };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// What the kernel says by itself on every interface that knows multicast: which groups it listens to (IGMP; MLD, RFC 3810),
/// and whether there is a router (RFC 4861 §4.1). No peer has asked.
fn is_housekeeping(packet: &[u8]) -> bool {
    const IGMP: u8 = 2;
    const ALL_ROUTERS: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    const MLDV2_ROUTERS: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x16];
    match packet.first().map(|octet| octet >> 4) {
        Some(4) => packet.get(9) == Some(&IGMP),
        Some(6) => {
            let dst = packet.get(24..40);
            dst == Some(&ALL_ROUTERS[..]) || dst == Some(&MLDV2_ROUTERS[..])
        }
        _ => false,
    }
}

/// Multicast and link-local packets that the kernel sends on every interface: they concern nobody behind a tunnel.
fn is_link_scope(packet: &[u8]) -> bool {
    match packet.first().map(|octet| octet >> 4) {
        Some(4) => packet.get(16).is_some_and(|first| first & 0xf0 == 0xe0),
        Some(6) => packet.get(24..26).is_some_and(|first| {
            first.first() == Some(&0xff)
                || (first.first() == Some(&0xfe) && first.get(1).is_some_and(|b| b & 0xc0 == 0x80))
        }),
        _ => false,
    }
}

/// The same for all packets between two addresses, so that their order is kept.
pub(crate) fn flow_hash(packet: &[u8]) -> usize {
    let addresses = match packet.first().map(|octet| octet >> 4) {
        Some(4) => packet.get(12..20),
        _ => packet.get(8..40),
    };
    addresses
        .unwrap_or_default()
        .iter()
        .fold(0, |hash: usize, octet| hash.wrapping_mul(31).wrapping_add(usize::from(*octet)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multicast_and_link_local_destinations_do_not_enter_a_tunnel() {
        let v4 = |dst: [u8; 4]| [&[0x45][..], &[0; 15], &dst].concat();
        assert!(is_link_scope(&v4([224, 0, 0, 22])));
        assert!(!is_link_scope(&v4([10, 2, 0, 1])));
        let v6 = |first: [u8; 2]| [&[0x60][..], &[0; 23], &first, &[0; 14]].concat();
        assert!(is_link_scope(&v6([0xff, 2])));
        assert!(is_link_scope(&v6([0xfe, 0x80])));
        assert!(!is_link_scope(&v6([0x20, 1])));
        assert!(!is_link_scope(&[]));
    }

    #[test]
    fn by_a_routed_device_routing_protocols_speak_and_the_kernel_alone_does_not() {
        let v4 = |protocol: u8| [&[0x45][..], &[0; 8], &[protocol], &[0; 6], &[224, 0, 0, 5]].concat();
        assert!(is_housekeeping(&v4(2)));
        assert!(!is_housekeeping(&v4(89)), "OSPF");
        let v6 = |last: u8| [&[0x60][..], &[0; 23], &[0xff, 2], &[0; 13], &[last]].concat();
        assert!(is_housekeeping(&v6(2)) && is_housekeeping(&v6(0x16)));
        assert!(!is_housekeeping(&v6(5)), "OSPF");
    }

    #[test]
    fn packets_between_two_addresses_stay_together() {
        let packet = |ports: u8| [&[0x45][..], &[0; 11], &[10, 1, 0, 1, 10, 2, 0, 1], &[ports; 4]].concat();
        assert_eq!(flow_hash(&packet(1)), flow_hash(&packet(2)));
    }
}
