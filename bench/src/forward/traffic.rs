//! Generator and sink in one loop on one core: what is due is built, stamped and sent, what has arrived is looked at. The
//! clock is read once per turn, so a stamp is at most one burst older than its packet, and an arrival is noted at most
//! one turn late; that the one core also carries the kernel's part of both ends is within what is measured.
//!
//! For latencies every packet goes through the sink's socket, and what is sealed is opened. Where only the rate matters
//! the sink's XDP program counts the packets and looks at their order: a socket would cost the ends' core, and so the
//! generator, about as much as sending does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use hdrhistogram::Histogram;
use nix::net::if_::if_nametoindex;
use portcullis_ebpf_common::sink::Look;
use portcullis_gateway::frame::Frame;
use portcullis_gateway::io::{CopyMode, FrameMemory, FramePool, QueueSocket, RING};
use portcullis_gateway::pipeline::FrameSource;

use super::cpu;
use super::packets::{BURST, Expected, Seen, Source};
use super::program::Sink;

/// Frames for both ends: the sink's ring full, the generator's ring full, and a burst.
const FRAMES: u32 = 3 * RING;
/// Received in one step.
const STEP: usize = 64;
/// A trial that sends less than this share of what it should has not offered its rate.
const OFFERED: f64 = 0.99;

/// An interface with its socket, and the program that decides what comes to it.
struct End {
    socket: QueueSocket,
    sink: Sink,
}

/// Both ends.
pub(crate) struct Ends {
    tx: End,
    rx: End,
    pool: FramePool,
    /// Sent and received by turns, so that neither allocates.
    scratch: Vec<Frame>,
    core: usize,
    /// Whether to ask for real-time priority.
    urgent: bool,
}

/// What a trial does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// Packets per second; `None`: as many as the generator can.
    pub(crate) rate: Option<f64>,
    /// How long it sends.
    pub(crate) time: Duration,
    /// Most packets.
    pub(crate) packets: u64,
    /// How long the last ones are waited for.
    pub(crate) patience: Duration,
}

/// Where what arrives is looked at.
#[derive(Debug)]
pub(crate) enum Receiver<'a> {
    /// At the sink's socket, packet by packet, for their latencies.
    Socket(&'a mut Expected),
    /// In the sink's program, which counts them.
    Program { look: Look, flows: u32 },
}

/// What has to be done beside the traffic: called at every multiple of `every`.
pub(crate) struct Chore<'a> {
    pub(crate) every: Duration,
    pub(crate) work: &'a mut (dyn FnMut(&mut Source) -> anyhow::Result<()> + Send),
}

/// What a trial has seen.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) sent: u64,
    /// Of those that were sent; each is counted once as long as none comes twice.
    pub(crate) received: u64,
    /// Behind one that was sent later.
    pub(crate) reordered: u64,
    /// Sealed packets that do not open.
    pub(crate) broken: u64,
    /// Anything that is not of this trial.
    pub(crate) other: u64,
    /// Packets that reached the sink's socket and found its ring full.
    pub(crate) overrun: u64,
    /// How long it has sent.
    pub(crate) sending: Duration,
    /// Whether the generator has kept its rate.
    pub(crate) offered: bool,
    /// Share of the time in which neither end had anything to do.
    pub(crate) idle: f64,
    /// Nanoseconds from stamp to arrival, of what came to the socket.
    pub(crate) latency: Histogram<u64>,
}

impl Trial {
    /// Packets that were sent and have not arrived.
    pub(crate) fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// Of those sent, 0 to 1.
    pub(crate) fn loss(&self) -> f64 {
        self.lost() as f64 / self.sent.max(1) as f64
    }

    /// Packets per second that came through.
    pub(crate) fn throughput(&self) -> f64 {
        self.received as f64 / self.sending.as_secs_f64().max(1e-9)
    }
}

impl Ends {
    /// Binds queue 0 of both interfaces, in the network namespace of the caller.
    pub(crate) fn bind(tx: &str, rx: &str, core: usize, urgent: bool) -> anyhow::Result<Self> {
        let (memory, frames) = FrameMemory::new(FRAMES, 2048)?;
        let bind = |name: &str| -> anyhow::Result<End> {
            let socket = QueueSocket::bind(Arc::clone(&memory), name, 0, CopyMode::Copy)?;
            let sink = Sink::attach(if_nametoindex(name)?, 0, socket.fd())?;
            Ok(End { socket, sink })
        };
        Ok(Self {
            tx: bind(tx)?,
            rx: bind(rx)?,
            pool: FramePool::new(frames),
            scratch: Vec::with_capacity(STEP),
            core,
            urgent,
        })
    }

    /// Whether the drivers run the programs, of the generator's interface and of the sink's.
    pub(crate) fn are_native(&self) -> [bool; 2] {
        [self.tx.sink.is_native(), self.rx.sink.is_native()]
    }

    /// From now on the generator is the sink.
    pub(crate) fn turn_round(&mut self) {
        std::mem::swap(&mut self.tx, &mut self.rx);
    }

    /// Runs a trial on a thread of its own, pinned and with real-time priority if that can be had.
    pub(crate) fn run(
        &mut self,
        plan: Plan,
        source: &mut Source,
        receiver: Receiver<'_>,
        chore: Option<Chore<'_>>,
    ) -> anyhow::Result<Trial> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("traffic".to_owned()).spawn_scoped(scope, || {
                cpu::take_core(self.core, self.urgent);
                self.clear();
                self.trial(plan, source, receiver, chore)
            });
            match thread.context("starting the traffic's thread")?.join() {
                Ok(trial) => trial,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Takes what earlier trials have left behind.
    fn clear(&mut self) {
        let start = Instant::now();
        while self.receive() > 0 || start.elapsed() < Duration::from_millis(1) {
            self.pool.put_all(&mut self.scratch);
        }
    }

    fn receive(&mut self) -> usize {
        let socket = &mut self.rx.socket;
        let count = socket.receive(STEP, &mut self.scratch, &mut self.pool);
        socket.refill(RING as usize, &mut self.pool);
        socket.wake_receiver();
        count
    }

    fn trial(
        &mut self,
        plan: Plan,
        source: &mut Source,
        mut receiver: Receiver<'_>,
        mut chore: Option<Chore<'_>>,
    ) -> anyhow::Result<Trial> {
        let foreign = matches!(receiver, Receiver::Socket(Expected::Foreign));
        let mut tally = Tally::new(foreign)?;
        match receiver {
            Receiver::Socket(_) => self.rx.sink.begin(Look::HandOver, 0)?,
            Receiver::Program { look, flows } => self.rx.sink.begin(look, flows)?,
        }
        let probe = self.rx.socket.probe();
        let overrun = || {
            probe
                .statistics()
                .map(|counts| counts.rx_dropped + counts.rx_ring_full + counts.rx_fill_ring_empty)
        };
        let before = overrun()?;
        let clock = Instant::now();
        let (mut idle, mut last_turn, mut was_idle) = (Duration::ZERO, Duration::ZERO, false);
        let mut last_arrival = Duration::ZERO;
        let mut chores_done = 0_u32;
        let mut sending = None;
        loop {
            let now = clock.elapsed();
            if was_idle {
                idle += now - last_turn;
            }
            (last_turn, was_idle) = (now, true);
            match &mut receiver {
                Receiver::Socket(expected) => {
                    if self.receive() > 0 {
                        (was_idle, last_arrival) = (false, now);
                        for mut frame in self.scratch.drain(..) {
                            tally.take(expected.see(&mut frame), now.as_nanos() as u64);
                            self.pool.put(frame);
                        }
                    }
                }
                // Until then nobody asks.
                Receiver::Program { .. } if sending.is_some() => {
                    if tally.read(&self.rx.sink)? > 0 {
                        last_arrival = now;
                    }
                }
                Receiver::Program { .. } => {}
            }
            if let Some(sending) = sending {
                let quiet = now.saturating_sub(last_arrival.max(sending)) > plan.patience;
                if quiet || tally.received >= source.made() {
                    break;
                }
                self.finish_sending();
                continue;
            }
            if let Some(chore) = &mut chore
                && now > chore.every * chores_done
            {
                (chore.work)(source)?;
                chores_done += 1;
            }
            let due = plan.rate.map_or(u64::MAX, |rate| (now.as_secs_f64() * rate) as u64 + 1);
            let due = due.min(plan.packets).saturating_sub(source.made());
            if now >= plan.time || source.made() >= plan.packets {
                sending = Some(now);
            } else if due > 0 {
                was_idle = false;
                self.send(due.min(BURST as u64) as usize, source, &mut tally, now.as_nanos() as u64);
            }
            self.tx.socket.complete(&mut self.pool);
        }
        let sending = sending.unwrap_or_default();
        let due = plan.rate.map_or(0.0, |rate| sending.as_secs_f64() * rate).min(plan.packets as f64);
        let sent = source.made();
        Ok(Trial {
            sent,
            received: tally.received,
            reordered: tally.reordered,
            broken: tally.broken,
            other: tally.other,
            overrun: overrun()? - before,
            sending,
            offered: sent as f64 >= due * OFFERED,
            idle: idle.as_secs_f64() / clock.elapsed().as_secs_f64(),
            latency: tally.latency,
        })
    }

    /// Builds and sends so many packets, or fewer if the kernel has not given back the frames of earlier ones.
    fn send(&mut self, count: usize, source: &mut Source, tally: &mut Tally, now: u64) {
        // What the ring does not take now would be lost here and not in the gateway: never more than it takes.
        let room = (RING as usize).saturating_sub(self.tx.socket.in_flight());
        let frames = &mut self.scratch;
        frames.extend(std::iter::from_fn(|| self.pool.take()).take(count.min(room)));
        source.fill(frames, now);
        tally.sent(frames.len(), now);
        let mut left = frames.len();
        while left > 0 {
            left -= self.tx.socket.transmit(frames, &mut self.pool);
            self.tx.socket.kick();
        }
    }

    fn finish_sending(&mut self) {
        self.tx.socket.kick();
        self.tx.socket.complete(&mut self.pool);
    }
}

/// Counts of what arrives.
struct Tally {
    received: u64,
    reordered: u64,
    broken: u64,
    other: u64,
    /// One more than the highest number that has arrived.
    next: u64,
    latency: Histogram<u64>,
    /// With foreign ESP: when each packet was sent, and the sequence number of the first.
    times: Option<Vec<u64>>,
    first: Option<u64>,
}

impl Tally {
    fn new(foreign: bool) -> anyhow::Result<Self> {
        // Up to a minute, of three digits.
        let latency = Histogram::new_with_max(60_000_000_000, 3).context("a histogram of latencies")?;
        let times = foreign.then(Vec::new);
        Ok(Self { received: 0, reordered: 0, broken: 0, other: 0, next: 0, latency, times, first: None })
    }

    fn sent(&mut self, count: usize, now: u64) {
        if let Some(times) = &mut self.times {
            times.extend(std::iter::repeat_n(now, count));
        }
    }

    /// Takes over what the program has counted; how many packets have come since.
    fn read(&mut self, sink: &Sink) -> anyhow::Result<u64> {
        let counted = sink.tally()?;
        let before = std::mem::replace(&mut self.received, counted.received);
        (self.reordered, self.other) = (counted.reordered, counted.other);
        Ok(counted.received.saturating_sub(before))
    }

    fn take(&mut self, seen: Seen, now: u64) {
        match seen {
            Seen::Right(stamp) => {
                self.received += 1;
                self.arrived(stamp.number, stamp.time, now);
            }
            Seen::Late => {
                self.received += 1;
                self.reordered += 1;
            }
            Seen::Foreign(sequence) => {
                let first = *self.first.get_or_insert(sequence);
                let number = sequence.saturating_sub(first);
                let time = self.times.as_ref().and_then(|times| times.get(number as usize)).copied();
                match time {
                    Some(time) => {
                        self.received += 1;
                        self.arrived(number, time, now);
                    }
                    None => self.other += 1,
                }
            }
            Seen::Broken => self.broken += 1,
            Seen::Other => self.other += 1,
        }
    }

    fn arrived(&mut self, number: u64, time: u64, now: u64) {
        if number < self.next {
            self.reordered += 1;
        }
        self.next = self.next.max(number + 1);
        self.latency.saturating_record(now.saturating_sub(time));
    }
}
