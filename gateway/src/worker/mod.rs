//! A worker: one thread, pinned to one core, that owns a queue of every interface and takes packets from ring to ring
//! through its [`Pipeline`]. Start at [`Worker::run`].
//!
//! It sleeps in `poll` when there is nothing to do, offline for the SA table's reclamation, so that it delays nobody. It
//! is woken by packets, by the slow path, and by a new route table (a held packet's neighbour may have answered).
//! A panic of a worker ends the process: what it protected stays blocked until the supervisor has started the next.

mod held;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::coarse::Coarse;
use crate::drop::{DropReason, WorkerCounters};
use crate::frame::Frame;
use crate::io::{FramePool, QueueSocket, RING};
use crate::pipeline::{BATCH, FrameSource, Ingress, Output, Pipeline};
use crate::route::{PortIndex, RouteTable};
use crate::slowpath::WorkerEnd;

use held::Held;

/// Where a packet of the host starts in its frame: leaves room for any encapsulation.
const KERNEL_START: usize = 256;

/// The sockets of one interface that a worker owns, one for each of its queues.
#[derive(Debug)]
pub struct PortSockets {
    /// The interface.
    pub index: PortIndex,
    /// Its sockets; never empty. The first one sends.
    pub sockets: Vec<QueueSocket>,
}

/// What a worker lets others see of its frames.
#[derive(Debug, Default)]
pub struct FrameGauges {
    /// Free.
    pub free: AtomicU64,
    /// In the rings, with the kernel.
    pub in_kernel: AtomicU64,
    /// Rounds that the worker has made: what shows that it lives.
    pub rounds: AtomicU64,
}

/// A worker before it runs.
#[derive(Debug)]
pub struct Worker {
    /// Its interfaces, by port index.
    pub ports: Vec<PortSockets>,
    /// Its free frames.
    pub pool: FramePool,
    /// What it does with packets.
    pub pipeline: Pipeline,
    /// Its counts.
    pub counters: Arc<WorkerCounters>,
    /// Its frames, for others to see.
    pub gauges: Arc<FrameGauges>,
    /// Its end of the slow path, with what wakes it.
    pub slow: WorkerEnd,
    /// Next hops.
    pub routes: Arc<ArcSwap<RouteTable>>,
    /// The clock's origin.
    pub since: Instant,
    /// Set to end it.
    pub stop: Arc<AtomicBool>,
}

impl Worker {
    /// Runs until told to stop, and gives back what it owns.
    pub fn run(self) -> Finished {
        let mut running = Running {
            fill_target: fill_target(&self),
            outgoing: self.ports.iter().map(|_| Vec::new()).collect(),
            held: Held::new(self.pool.len()),
            worker: self,
            out: Output::default(),
            batch: Vec::with_capacity(BATCH),
        };
        while !running.worker.stop.load(Ordering::Acquire) {
            let now = running.now();
            let busy = running.round(now);
            running.publish();
            if !busy {
                running.sleep();
            }
        }
        running.finish()
    }
}

/// Of a worker's frames, one in so many is for receiving into.
const RECEIVING: usize = 2;

/// How many frames each socket may have to receive into: half of the worker's frames, shared out evenly.
fn fill_target(worker: &Worker) -> usize {
    let sockets: usize = worker.ports.iter().map(|port| port.sockets.len()).sum();
    (worker.pool.len() / RECEIVING / sockets.max(1)).min(RING as usize)
}

/// The fewest frames that a worker with so many sockets can do with: each receives a whole batch at a time.
pub fn frames_needed(sockets: usize) -> usize {
    sockets * BATCH * RECEIVING
}

/// What a worker gives back: its frames are in the pool or still in its sockets' rings.
#[derive(Debug)]
pub struct Finished {
    /// Its interfaces.
    pub ports: Vec<PortSockets>,
    /// Its free frames.
    pub pool: FramePool,
}

struct Running {
    worker: Worker,
    out: Output,
    batch: Vec<Frame>,
    /// By port: frames to send.
    outgoing: Vec<Vec<Frame>>,
    held: Held,
    fill_target: usize,
}

impl Running {
    fn now(&self) -> Coarse {
        Coarse(u32::try_from(self.worker.since.elapsed().as_secs()).unwrap_or(u32::MAX))
    }

    /// One look at everything; whether there was something to do.
    fn round(&mut self, now: Coarse) -> bool {
        let mut busy = false;
        for port in 0..self.worker.ports.len() {
            busy |= self.receive(now, port);
        }
        busy |= self.receive_from_host(now);
        self.release_trapped(now);
        self.release_held(now);
        self.transmit();
        busy
    }

    /// Takes what came in on a port through the pipeline.
    fn receive(&mut self, now: Coarse, port: usize) -> bool {
        let mut busy = false;
        let Some(sockets) = self.worker.ports.get(port).map(|port| port.sockets.len()) else { return false };
        for socket in 0..sockets {
            let Some(PortSockets { index, sockets }) = self.worker.ports.get_mut(port) else { return busy };
            let (index, Some(socket)) = (*index, sockets.get_mut(socket)) else { return busy };
            socket.complete(&mut self.worker.pool);
            let count = socket.receive(BATCH, &mut self.batch);
            socket.refill(self.fill_target, &mut self.worker.pool);
            socket.wake_receiver();
            if count == 0 {
                continue;
            }
            busy = true;
            WorkerCounters::add(&self.worker.counters.received, count as u64);
            self.process(now, Ingress::Port(index));
        }
        busy
    }

    /// Takes what the host sends through the pipeline.
    fn receive_from_host(&mut self, now: Coarse) -> bool {
        while self.batch.len() < BATCH {
            let Some(packet) = self.worker.slow.take_from_kernel() else { break };
            WorkerCounters::add(&self.worker.counters.from_kernel, 1);
            match framed(&packet, &mut self.worker.pool) {
                Ok(frame) => self.batch.push(frame),
                Err(reason) => self.worker.counters.count_drop(reason),
            }
        }
        let busy = !self.batch.is_empty();
        if busy {
            self.process(now, Ingress::Kernel);
        }
        busy
    }

    fn process(&mut self, now: Coarse, ingress: Ingress) {
        let Self { worker, out, batch, .. } = self;
        worker.pipeline.process(now, ingress, batch, &mut worker.pool, out);
        self.deliver(now);
    }

    /// Takes every frame where the pipeline wants it.
    fn deliver(&mut self, now: Coarse) {
        let Self { worker, out, outgoing, held, .. } = self;
        for port in out.transmit.ports() {
            let frames = out.transmit.of(port);
            match outgoing.get_mut(usize::from(port.0)) {
                Some(outgoing) => outgoing.append(frames),
                None => frames.drain(..).for_each(|frame| give_up(worker, frame, DropReason::NoEgress)),
            }
        }
        let mut woken = false;
        for frame in out.to_kernel.drain(..) {
            if worker.slow.to_kernel(frame.packet()) {
                woken = true;
                WorkerCounters::add(&worker.counters.to_kernel, 1);
                worker.pool.put(frame);
            } else {
                give_up(worker, frame, DropReason::KernelQueueFull);
            }
        }
        for (waiting, frame) in out.held.drain(..) {
            match held.hold(now, waiting, frame) {
                Ok(first) if first => {
                    worker.slow.resolve(waiting.ifindex, waiting.gateway);
                    woken = true;
                }
                Ok(_) => {}
                Err(frame) => give_up(worker, frame, DropReason::NeighbourUnresolved),
            }
        }
        if woken {
            worker.slow.flush();
        }
        worker.pool.put_all(&mut out.recycled);
    }

    /// Sends what waited for an SA that has come up, and gives up what has waited too long.
    fn release_trapped(&mut self, now: Coarse) {
        if self.worker.pipeline.trapped() > 0 {
            let Self { worker, out, .. } = self;
            worker.pipeline.release_trapped(now, &mut worker.pool, out);
            self.deliver(now);
        }
    }

    /// Sends what waited for a neighbour that has answered, and gives up what has waited too long.
    fn release_held(&mut self, now: Coarse) {
        if self.held.is_empty() {
            return;
        }
        let Self { worker, out, held, .. } = self;
        held.release(&worker.routes.load(), out);
        let mut expired = Vec::new();
        held.expire(now, &mut expired);
        for frame in expired {
            give_up(worker, frame, DropReason::NeighbourUnresolved);
        }
        self.deliver(now);
    }

    /// Puts frames into the TX rings and makes the kernel send them.
    fn transmit(&mut self) {
        let Self { worker, outgoing, .. } = self;
        for (port, frames) in worker.ports.iter_mut().zip(outgoing) {
            let Some(socket) = port.sockets.first_mut() else { continue };
            while !frames.is_empty() {
                let sent = socket.transmit(frames);
                WorkerCounters::add(&worker.counters.transmitted, sent as u64);
                socket.kick();
                socket.complete(&mut worker.pool);
                if sent == 0 {
                    // Either the ring is full, and stayed so after a kick, or it does not take such a packet.
                    let reason = match frames.first() {
                        Some(frame) if !socket.fits(frame) => DropReason::TooBig,
                        _ => DropReason::TxFull,
                    };
                    worker.counters.count_drop(reason);
                    worker.pool.put(frames.remove(0));
                }
            }
            if socket.unsent() {
                socket.kick();
            }
        }
    }

    fn publish(&self) {
        let gauges = &self.worker.gauges;
        gauges.free.store(self.worker.pool.len() as u64, Ordering::Relaxed);
        let sockets = self.worker.ports.iter().flat_map(|port| &port.sockets);
        let in_kernel: usize = sockets.map(QueueSocket::in_kernel).sum();
        gauges.in_kernel.store(in_kernel as u64, Ordering::Relaxed);
        let held = self.held.len() + self.worker.pipeline.trapped();
        self.worker.counters.held.store(held as u64, Ordering::Relaxed);
        WorkerCounters::add(&gauges.rounds, 1);
    }

    /// Waits in `poll` for something to do.
    fn sleep(&mut self) {
        // Milliseconds. What the kernel would not take to send does not become sendable by an event.
        const AGAIN: u8 = 1;
        // Frames that the driver sends come back without an event; held packets grow too old without one.
        const MORE_TO_COME: u8 = 100;
        self.worker.pipeline.offline();
        let Self { worker, held, .. } = self;
        let waiting = !held.is_empty() || worker.pipeline.trapped() > 0;
        let mut longest = waiting.then_some(MORE_TO_COME);
        for socket in worker.ports.iter_mut().flat_map(|port| &mut port.sockets) {
            if socket.unsent() {
                longest = Some(AGAIN);
            } else if socket.in_flight() > 0 {
                longest = longest.or(Some(MORE_TO_COME));
            }
        }
        let sockets = worker.ports.iter().flat_map(|port| &port.sockets);
        let mut fds: Vec<PollFd<'_>> =
            sockets.map(|socket| PollFd::new(socket.fd(), PollFlags::POLLIN)).collect();
        fds.push(PollFd::new(worker.slow.waker().as_fd(), PollFlags::POLLIN));
        // Interrupted: the next round looks at everything.
        let _ = poll(&mut fds, longest.map_or(PollTimeout::NONE, PollTimeout::from));
        worker.slow.waker().lower();
    }

    fn finish(mut self) -> Finished {
        for frame in self.held.take_all() {
            give_up(&mut self.worker, frame, DropReason::NeighbourUnresolved);
        }
        for frame in self.worker.pipeline.give_up_trapped() {
            give_up(&mut self.worker, frame, DropReason::TrapTimeout);
        }
        self.publish();
        Finished { ports: self.worker.ports, pool: self.worker.pool }
    }
}

fn give_up(worker: &mut Worker, frame: Frame, reason: DropReason) {
    worker.counters.count_drop(reason);
    worker.pool.put(frame);
}

/// A frame that holds the packet.
fn framed(packet: &[u8], pool: &mut FramePool) -> Result<Frame, DropReason> {
    let mut frame = pool.take().ok_or(DropReason::NoFrame)?;
    if !frame.set_range(KERNEL_START, KERNEL_START + packet.len()) {
        pool.put(frame);
        return Err(DropReason::TooBig);
    }
    frame.packet_mut().copy_from_slice(packet);
    Ok(frame)
}
