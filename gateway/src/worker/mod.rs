//! A worker: one thread, pinned to one core, that owns a queue of every interface and takes packets from ring to ring
//! through its [`Pipeline`]. Start at [`Worker::run`]; `running` has the rounds that it makes.
//!
//! It sleeps in `poll` when there is nothing to do (`spin` says when), offline for the SA table's reclamation, so that it
//! delays nobody. It is woken by packets, by the slow path, by other workers that hand packets over
//! ([`handover`](crate::handover)), by [`Orders`] about its interfaces, and by a new route table (a held packet's neighbour
//! may have answered).
//!
//! A panic costs the packets that the worker has in its hands, and nothing else: whatever they lie in is thrown away, the
//! frames are found again (a [`Ledger`] says which the worker answers for, another for each socket what the kernel was
//! lent), and it goes on with a new pipeline. What is shared with others is whole after every step: sequence numbers were
//! reserved, windows moved, or not; never back.

mod fault;
mod held;
mod orders;
mod running;
mod spin;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::drop::{DropReason, WorkerCounters};
use crate::frame::Frame;
use crate::handover::Exchange;
use crate::io::{FrameMemory, FramePool, Ledger, QueueSocket};
use crate::pipeline::{BATCH, Pipeline};
use crate::route::{PortIndex, RouteTable};
use crate::slowpath::WorkerEnd;

#[cfg(feature = "fault-injection")]
pub use fault::Fault;
pub use fault::Faults;
pub use orders::{Order, Orders};
use running::Running;

/// Of a worker's frames, one in so many is for receiving into.
const RECEIVING: usize = 2;

/// How long a worker that panicked keeps still before it goes on, so that a packet that makes it panic again and again
/// leaves the core, and the log, to others: doubled from panic to panic, back to the first after a minute of peace.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const PEACE: Duration = Duration::from_secs(60);

/// The sockets of one interface that a worker owns, one for each of its queues.
#[derive(Debug)]
pub struct PortSockets {
    /// The interface.
    pub index: PortIndex,
    /// Its sockets; none while the interface is away. The first one sends.
    pub sockets: Vec<QueueSocket>,
}

/// What a worker lets others see of itself.
#[derive(Debug, Default)]
pub struct WorkerGauges {
    /// Frames that are free.
    pub free: AtomicU64,
    /// In the rings, with the kernel.
    pub in_kernel: AtomicU64,
    /// In the rings from other workers.
    pub handed: AtomicU64,
    /// Rounds that the worker has made: what shows that it lives.
    pub rounds: AtomicU64,
    /// Packets that came and went nowhere, or less than none: what is not 0 is a mistake in the packet balance. Between two
    /// rounds a worker has nothing in its hands but what it holds, so that this is exact.
    pub unaccounted: AtomicI64,
    /// How often it has gone to sleep.
    pub sleeps: AtomicU64,
    /// How often it has panicked and was started anew.
    pub restarts: AtomicU64,
}

/// Makes a worker's pipeline: the first one, and after a panic another. None while there is no place for its reader.
pub type MakePipeline = Box<dyn FnMut() -> Option<Pipeline> + Send>;

/// A worker before it runs.
pub struct Worker {
    /// Its interfaces, by port index.
    pub ports: Vec<PortSockets>,
    /// The memory of all.
    pub memory: Arc<FrameMemory>,
    /// Its frames.
    pub frames: Vec<Frame>,
    /// What it does with packets.
    pub pipeline: MakePipeline,
    /// Its counts.
    pub counters: Arc<WorkerCounters>,
    /// Its state, for others to see.
    pub gauges: Arc<WorkerGauges>,
    /// Its end of the slow path, with what wakes it.
    pub slow: WorkerEnd,
    /// What it shares with the other workers.
    pub exchange: Exchange,
    /// What it is told about its interfaces.
    pub orders: Arc<Orders>,
    /// Next hops.
    pub routes: Arc<ArcSwap<RouteTable>>,
    /// The clock's origin.
    pub since: Instant,
    /// For how long it looks for more before it sleeps, at most.
    pub spin: Duration,
    /// Set to end it.
    pub stop: Arc<AtomicBool>,
    /// What tests have it suffer.
    pub faults: Arc<Faults>,
}

impl Worker {
    /// Runs until told to stop, and gives back what it owns.
    pub fn run(mut self) -> Finished {
        let mut frames = std::mem::take(&mut self.frames);
        let mut mine = self.memory.ledger();
        frames.iter().for_each(|frame| mine.enter(frame));
        // Large ones are for what comes in several frames: the kernel is lent none.
        let total = frames.iter().filter(|frame| !frame.is_large()).count();
        let mut last: Option<(Instant, Duration)> = None;
        loop {
            let Some(pipeline) = (self.pipeline)() else {
                // The reader of the pipeline that went holds its place until then.
                std::thread::yield_now();
                continue;
            };
            let mut running = Running::new(&mut self, &mut mine, pipeline, FramePool::new(frames), total);
            // What a panic leaves behind half-done, `recover` throws away.
            match catch_unwind(AssertUnwindSafe(|| running.run())) {
                Ok(()) => {
                    let pool = running.finish();
                    let Self { ports, exchange, orders, .. } = self;
                    return Finished { ports, pool, exchange, orders };
                }
                Err(_) => running.abandon(),
            }
            frames = self.recover(&mine);
            let pause = match last {
                Some((when, pause)) if when.elapsed() < PEACE => (pause * 2).min(LONGEST_PAUSE),
                _ => FIRST_PAUSE,
            };
            last = Some((Instant::now(), pause));
            std::thread::sleep(pause);
        }
    }

    /// The frames that it has, after a panic: all that it answers for and has not lent to the kernel.
    #[expect(unsafe_code, reason = "only the worker knows that it holds no frame any more")]
    fn recover(&mut self, mine: &Ledger) -> Vec<Frame> {
        // Nothing is held any more, and what was in its hands is lost: packets that came and have gone nowhere.
        self.counters.held.store(0, Ordering::Relaxed);
        let packets = u64::try_from(self.counters.in_hands()).unwrap_or(0);
        self.counters.count_drops(DropReason::WorkerPanic, packets);
        WorkerCounters::add(&self.gauges.restarts, 1);
        WorkerCounters::add(&self.gauges.rounds, 1);
        // What has begun to come, which sockets hold, is found below with the rest.
        for socket in self.ports.iter_mut().flat_map(|port| &mut port.sockets) {
            let _found_below = socket.take_begun();
        }
        let sockets = self.ports.iter().flat_map(|port| &port.sockets);
        // SAFETY: the worker's frames were in `Running`, which was dropped, on the stack that the panic has unwound, or with
        // the kernel. What was handed to another worker, or released with a socket, is not in `mine` any more.
        let frames = unsafe { self.memory.recover(mine, sockets) };
        tracing::error!(
            packets,
            frames = frames.len(),
            "a worker has panicked: its packets are lost, it goes on"
        );
        frames
    }

    /// How many frames each socket may have to receive into: half of the worker's frames, shared out evenly.
    fn fill_target(&self, frames: usize) -> usize {
        let sockets: usize = self.ports.iter().map(|port| port.sockets.len()).sum();
        (frames / RECEIVING / sockets.max(1)).min(crate::io::RING as usize)
    }
}

/// The fewest frames that a worker with so many sockets can do with: each receives a whole batch at a time.
pub fn frames_needed(sockets: usize) -> usize {
    sockets * BATCH * RECEIVING
}

/// What a worker gives back: its frames are in the pool, still in its sockets' rings, or on their way between workers.
#[derive(Debug)]
pub struct Finished {
    /// Its interfaces.
    pub ports: Vec<PortSockets>,
    /// Its free frames.
    pub pool: FramePool,
    /// What others have handed it since, or may yet.
    pub exchange: Exchange,
    /// What it has not been told any more.
    pub orders: Arc<Orders>,
}
