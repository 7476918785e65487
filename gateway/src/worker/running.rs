//! The rounds of a worker, and what it has in its hands meanwhile.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::fault::Point;
use super::held::Held;
use super::spin::Spin;
use super::{Order, PortSockets, Worker};
use crate::coarse::Coarse;
use crate::drop::{DropReason, WorkerCounters};
use crate::frame::Frame;
use crate::io::{FramePool, Ledger, QueueSocket};
use crate::pipeline::{BATCH, FrameSource, Handed, Ingress, Output, Pipeline};
use crate::route::Vlan;
use crate::slowpath::WorkerEnd;

/// Where a packet of the host starts in its frame: leaves room for any encapsulation.
const KERNEL_START: usize = 256;

/// A worker that never sleeps checks its packet balance once in so many rounds: some fifty counters.
const CHECK_BALANCE: u64 = 1024;

/// A running worker. A panic takes all of it but what it borrows.
pub(super) struct Running<'w> {
    worker: &'w mut Worker,
    /// The frames that this worker answers for.
    mine: &'w mut Ledger,
    pipeline: Pipeline,
    pool: FramePool,
    out: Output,
    /// Held packets whose neighbour has answered.
    answered: Output,
    batch: Vec<Frame>,
    /// Packets that others have handed over.
    handed: Vec<Handed>,
    /// By port: frames to send.
    outgoing: Vec<Vec<Frame>>,
    held: Held,
    spin: Spin,
    fill_target: usize,
    /// How many frames it has when nobody owes any.
    total: usize,
}

impl<'w> Running<'w> {
    /// With its frames, of which there are `total` when all are back.
    pub(super) fn new(
        worker: &'w mut Worker,
        mine: &'w mut Ledger,
        pipeline: Pipeline,
        pool: FramePool,
        total: usize,
    ) -> Self {
        Self {
            pipeline,
            pool,
            out: Output::default(),
            answered: Output::default(),
            batch: Vec::with_capacity(BATCH),
            handed: Vec::with_capacity(BATCH),
            outgoing: worker.ports.iter().map(|_| Vec::new()).collect(),
            held: Held::new(total),
            spin: Spin::new(worker.spin),
            fill_target: worker.fill_target(total),
            total,
            worker,
            mine,
        }
    }

    /// Makes rounds until told to stop.
    pub(super) fn run(&mut self) {
        while !self.worker.stop.load(Ordering::Acquire) {
            while let Some(order) = self.worker.orders.next() {
                self.obey(order);
            }
            let now = self.now();
            let busy = self.round(now);
            self.publish();
            if busy {
                self.spin.busy();
            } else if !self.spin.goes_on(Instant::now()) {
                self.sleep();
            }
        }
    }

    /// Gives up what is held, and gives back the free frames.
    pub(super) fn finish(mut self) -> FramePool {
        for frame in self.held.take_all() {
            give_up(&self.worker.counters, &mut self.pool, frame, DropReason::NeighbourUnresolved);
        }
        for frame in self.pipeline.give_up_trapped() {
            give_up(&self.worker.counters, &mut self.pool, frame, DropReason::TrapTimeout);
        }
        self.publish();
        self.pool
    }

    /// Drops all that it holds, after a panic. The frames are found otherwise.
    pub(super) fn abandon(mut self) {
        // Others are told how many wait.
        drop(self.pipeline.give_up_trapped());
    }

    fn now(&self) -> Coarse {
        Coarse(u32::try_from(self.worker.since.elapsed().as_secs()).unwrap_or(u32::MAX))
    }

    fn obey(&mut self, order: Order) {
        let Self { worker, mine, pool, .. } = self;
        match order {
            Order::Serve(new) => {
                if let Some(port) = worker.ports.get_mut(usize::from(new.index.0)) {
                    port.sockets = new.sockets;
                }
            }
            Order::Release(index) => {
                let port = worker.ports.get_mut(usize::from(index.0));
                let sockets = port.map(|port| std::mem::take(&mut port.sockets)).unwrap_or_default();
                sockets.iter().for_each(|socket| mine.strike_all(socket.lent()));
                worker.orders.release(index, sockets);
            }
            Order::Keep(mut frames) => {
                frames.iter().for_each(|frame| mine.enter(frame));
                pool.put_all(&mut frames);
            }
        }
        self.fill_target = self.worker.fill_target(self.total);
    }

    /// One look at everything; whether there was something to do.
    fn round(&mut self, now: Coarse) -> bool {
        let mut busy = false;
        for port in 0..self.worker.ports.len() {
            busy |= self.receive(now, port);
        }
        busy |= self.receive_from_host(now, Ingress::Kernel, WorkerEnd::take_from_kernel);
        busy |= self.receive_from_host(now, Ingress::Socket, WorkerEnd::take_from_socket);
        busy |= self.receive_handed(now);
        self.release_trapped(now);
        self.release_held(now);
        self.transmit();
        self.balance_frames();
        self.worker.exchange.ring();
        busy
    }

    /// Takes what came in on a port through the pipeline.
    fn receive(&mut self, now: Coarse, port: usize) -> bool {
        let mut busy = false;
        let Some(sockets) = self.worker.ports.get(port).map(|port| port.sockets.len()) else { return false };
        for socket in 0..sockets {
            let Some(PortSockets { index, sockets }) = self.worker.ports.get_mut(port) else { return busy };
            let (index, Some(socket)) = (*index, sockets.get_mut(socket)) else { return busy };
            socket.complete(&mut self.pool);
            let count = socket.receive(BATCH, &mut self.batch);
            socket.refill(self.fill_target, &mut self.pool);
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

    /// Takes what the host sends, or its sockets have received, through the pipeline.
    fn receive_from_host(
        &mut self,
        now: Coarse,
        ingress: Ingress,
        next: impl Fn(&WorkerEnd) -> Option<Box<[u8]>>,
    ) -> bool {
        while self.batch.len() < BATCH {
            let Some(packet) = next(&self.worker.slow) else { break };
            WorkerCounters::add(&self.worker.counters.from_kernel, 1);
            match framed(&packet, &mut self.pool) {
                Ok(frame) => self.batch.push(frame),
                Err(reason) => self.worker.counters.count_drop(reason),
            }
        }
        let busy = !self.batch.is_empty();
        if busy {
            self.process(now, ingress);
        }
        busy
    }

    /// Takes what other workers have handed over through the pipeline.
    fn receive_handed(&mut self, now: Coarse) -> bool {
        let Self { worker, mine, pipeline, pool, out, handed, .. } = self;
        let count = worker.exchange.take(BATCH, handed, mine);
        if count == 0 {
            return false;
        }
        WorkerCounters::add(&worker.counters.taken_over, count as u64);
        pipeline.resume(now, handed, pool, out);
        self.deliver(now);
        true
    }

    /// Takes back frames that others owe, and gives back what is owed.
    fn balance_frames(&mut self) {
        let Self { worker, mine, pool, .. } = self;
        worker.exchange.take_frames(pool, mine);
        if worker.exchange.owed() > 0 {
            worker.exchange.give_back(pool, mine);
        }
    }

    fn process(&mut self, now: Coarse, ingress: Ingress) {
        let Self { worker, pipeline, pool, out, batch, .. } = self;
        worker.faults.strike(Point::Received);
        pipeline.process(now, ingress, batch, pool, out);
        worker.faults.strike(Point::Processed);
        self.deliver(now);
    }

    /// Takes every frame where the pipeline wants it.
    fn deliver(&mut self, now: Coarse) {
        let Self { worker, mine, pool, out, answered, outgoing, held, .. } = self;
        let counters = &worker.counters;
        if !held.is_empty() {
            // Before what came after them, for which the pipeline may have known the neighbour already.
            held.release(&worker.routes.load(), answered);
        }
        for transmit in [&mut answered.transmit, &mut out.transmit] {
            for port in transmit.ports() {
                let frames = transmit.of(port);
                match outgoing.get_mut(usize::from(port.0)) {
                    Some(outgoing) => outgoing.append(frames),
                    None if frames.is_empty() => {}
                    None => {
                        let routes = worker.routes.load();
                        let refused = onto_port(routes.vlan(port), frames, outgoing);
                        refused.for_each(|(reason, frame)| give_up(counters, pool, frame, reason));
                    }
                }
            }
        }
        for (owner, packets) in out.handed.each() {
            let count = worker.exchange.hand(owner, packets, mine);
            WorkerCounters::add(&counters.handed_over, count as u64);
            packets
                .drain(..)
                .for_each(|packet| give_up(counters, pool, packet.into_frame(), DropReason::HandoverFull));
        }
        let mut woken = false;
        for frame in out.to_kernel.drain(..) {
            if worker.slow.to_kernel(frame.packet()) {
                woken = true;
                WorkerCounters::add(&counters.to_kernel, 1);
                pool.put(frame);
            } else {
                give_up(counters, pool, frame, DropReason::KernelQueueFull);
            }
        }
        for (waiting, frame) in out.held.drain(..) {
            match held.hold(now, waiting, frame) {
                Ok(first) if first => {
                    worker.slow.resolve(waiting.ifindex, waiting.gateway);
                    woken = true;
                }
                Ok(_) => {}
                Err(frame) => give_up(counters, pool, frame, DropReason::NeighbourUnresolved),
            }
        }
        if woken {
            worker.slow.flush();
        }
        pool.put_all(&mut out.recycled);
    }

    /// Sends what waited for an SA that has come up, and gives up what has waited too long.
    fn release_trapped(&mut self, now: Coarse) {
        if self.pipeline.trapped() > 0 {
            let Self { pipeline, pool, out, .. } = self;
            pipeline.release_trapped(now, pool, out);
            self.deliver(now);
        }
    }

    /// Sends what waited for a neighbour that has answered, and gives up what has waited too long.
    fn release_held(&mut self, now: Coarse) {
        if self.held.is_empty() {
            return;
        }
        self.deliver(now);
        let Self { worker, pool, held, .. } = self;
        let mut expired = Vec::new();
        held.expire(now, &mut expired);
        for frame in expired {
            give_up(&worker.counters, pool, frame, DropReason::NeighbourUnresolved);
        }
    }

    /// Puts frames into the TX rings and makes the kernel send them.
    fn transmit(&mut self) {
        let Self { worker, pool, outgoing, .. } = self;
        let Worker { ports, counters, .. } = &mut **worker;
        for (port, frames) in ports.iter_mut().zip(outgoing) {
            let Some(socket) = port.sockets.first_mut() else {
                // The interface is gone, or not served yet.
                frames.drain(..).for_each(|frame| give_up(counters, pool, frame, DropReason::LinkDown));
                continue;
            };
            while !frames.is_empty() {
                let sent = socket.transmit(frames);
                WorkerCounters::add(&counters.transmitted, sent as u64);
                socket.kick();
                socket.complete(pool);
                if sent == 0 {
                    // Either the ring is full, and stayed so after a kick, or it does not take such a packet.
                    let reason = match frames.first() {
                        Some(frame) if !socket.fits(frame) => DropReason::TooBig,
                        _ => DropReason::TxFull,
                    };
                    give_up(counters, pool, frames.remove(0), reason);
                }
            }
            if socket.unsent() {
                socket.kick();
            }
        }
    }

    fn publish(&self) {
        let gauges = &self.worker.gauges;
        gauges.free.store(self.pool.len() as u64, Ordering::Relaxed);
        let sockets = self.worker.ports.iter().flat_map(|port| &port.sockets);
        let in_kernel: usize = sockets.map(QueueSocket::in_kernel).sum();
        gauges.in_kernel.store(in_kernel as u64, Ordering::Relaxed);
        gauges.handed.store(self.worker.exchange.waiting() as u64, Ordering::Relaxed);
        let held = self.held.len() + self.pipeline.trapped();
        self.worker.counters.held.store(held as u64, Ordering::Relaxed);
        WorkerCounters::add(&gauges.rounds, 1);
        if gauges.rounds.load(Ordering::Relaxed).is_multiple_of(CHECK_BALANCE) {
            self.check_balance();
        }
    }

    /// Says how many packets are neither held nor counted where they went. After [`Running::publish`].
    fn check_balance(&self) {
        let counters = &self.worker.counters;
        let held = counters.held.load(Ordering::Relaxed).cast_signed();
        self.worker.gauges.unaccounted.store(counters.in_hands() - held, Ordering::Relaxed);
    }

    /// Waits in `poll` for something to do.
    fn sleep(&mut self) {
        // Milliseconds. What the kernel would not take to send does not become sendable by an event.
        const AGAIN: u8 = 1;
        // Frames that the driver sends come back without an event; held packets grow too old without one.
        const MORE_TO_COME: u8 = 100;
        self.check_balance();
        self.pipeline.offline();
        let Self { worker, pipeline, held, spin, .. } = self;
        let bell = worker.exchange.bell().clone();
        bell.going_to_sleep();
        if worker.exchange.waiting() > 0 {
            return bell.awake();
        }
        let waiting = !held.is_empty() || pipeline.trapped() > 0;
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
        fds.push(PollFd::new(bell.as_fd(), PollFlags::POLLIN));
        WorkerCounters::add(&worker.gauges.sleeps, 1);
        let from = Instant::now();
        // Interrupted: the next round looks at everything.
        let _ = poll(&mut fds, longest.map_or(PollTimeout::NONE, PollTimeout::from));
        bell.awake();
        spin.slept(from.elapsed());
    }
}

/// Takes what leaves by a VLAN device to the port below it, with its tags; says what cannot be sent, and why.
fn onto_port(
    vlan: Option<&Vlan>,
    frames: &mut Vec<Frame>,
    outgoing: &mut [Vec<Frame>],
) -> impl Iterator<Item = (DropReason, Frame)> {
    let mut below = vlan.and_then(|vlan| Some((vlan.tags, outgoing.get_mut(usize::from(vlan.on.0))?)));
    frames.drain(..).filter_map(move |mut frame| match &mut below {
        Some((tags, outgoing)) if tags.put_into(&mut frame) => {
            outgoing.push(frame);
            None
        }
        Some(_) => Some((DropReason::NoHeadroom, frame)),
        // The device has gone meanwhile.
        None => Some((DropReason::LinkDown, frame)),
    })
}

fn give_up(counters: &WorkerCounters, pool: &mut FramePool, frame: Frame, reason: DropReason) {
    counters.count_drop(reason);
    pool.put(frame);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{PortIndex, PortInfo, Role};
    use crate::wire::{EtherType, Ethernet, TagProtocol, VlanTags};

    #[test]
    fn what_leaves_by_a_vlan_device_is_tagged_and_goes_by_its_port_or_not_at_all() {
        let mac = [2, 0, 0, 0, 0, 5];
        let device = PortInfo {
            index: PortIndex(7),
            ifindex: 20,
            name: "outside0.5".to_owned(),
            role: Role::Outside,
            mac,
            mtu: 1500,
            up: true,
            addresses: Vec::new(),
        };
        let tags = VlanTags::NONE.with_inner(TagProtocol::Customer, 5).unwrap();
        let vlan = |on| Vlan { device: device.clone(), on: PortIndex(on), tags };
        let header = Ethernet::write([9; 6], mac, EtherType::Ipv4);
        let frames = || {
            let frame = |start: usize| {
                let mut frame = Frame::leaked(64, start);
                assert!(frame.push_back(header.len()));
                frame.packet_mut().copy_from_slice(&header);
                frame
            };
            vec![frame(4), frame(3), frame(50)]
        };
        let mut outgoing = vec![Vec::new(), Vec::new()];
        let refused: Vec<_> = onto_port(Some(&vlan(1)), &mut frames(), &mut outgoing).collect();
        assert_eq!(refused.iter().map(|(reason, _)| *reason).collect::<Vec<_>>(), [DropReason::NoHeadroom]);
        assert!(outgoing[0].is_empty());
        for frame in &outgoing[1] {
            assert_eq!(frame.packet(), [&header[..12], &[0x81, 0, 0, 5], &header[12..]].concat());
        }
        assert_eq!(outgoing[1].len(), 2);
        for gone in [None, Some(&vlan(2))] {
            let mut frames = frames();
            let refused = onto_port(gone, &mut frames, &mut outgoing);
            assert!(refused.map(|(reason, _)| reason).eq([DropReason::LinkDown; 3]));
        }
    }
}
