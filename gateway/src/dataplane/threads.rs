//! The workers' threads, the housekeeper's and the watchdog's, which end together: when told, or when whoever holds them
//! goes.
//!
//! A worker that panics goes on by itself ([`Worker::run`]). One that makes no rounds any more cannot be helped: the watchdog
//! aborts the process, its supervisor starts the next, and what is protected stays blocked meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::drop::WorkerCounters;
use crate::installer::Installer;
use crate::io::QueueSocket;
use crate::slowpath::Waker;
use crate::worker::{Faults, Finished, Orders, Worker, WorkerGauges};

/// Looks at the workers within the time in which one of them has to make a round.
const LOOKS: u32 = 4;

/// How often removed SAs are looked after when nothing else is installed or removed.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often to look whether a worker that is being started has made its first round.
const FIRST_ROUND: Duration = Duration::from_micros(200);

/// Threads that run.
#[derive(Default)]
pub(super) struct Threads {
    /// Set to end them.
    stop: Arc<AtomicBool>,
    workers: Vec<RunningWorker>,
    /// Housekeeper and watchdog.
    others: Vec<JoinHandle<()>>,
}

/// A worker's thread, and what it lets others see.
pub(super) struct RunningWorker {
    thread: JoinHandle<Finished>,
    pub(super) waker: Waker,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) gauges: Arc<WorkerGauges>,
    pub(super) orders: Arc<Orders>,
    #[cfg_attr(not(feature = "fault-injection"), expect(dead_code, reason = "for tests"))]
    pub(super) faults: Arc<Faults>,
}

impl Threads {
    /// What ends a worker that is still to be started here.
    pub(super) fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    pub(super) fn workers(&self) -> &[RunningWorker] {
        &self.workers
    }

    /// Starts a worker, pinned to a core.
    pub(super) fn start_worker(&mut self, worker: Worker, core: usize) -> std::io::Result<()> {
        let index = self.workers.len();
        let (counters, gauges) = (Arc::clone(&worker.counters), Arc::clone(&worker.gauges));
        let (orders, faults) = (Arc::clone(&worker.orders), Arc::clone(&worker.faults));
        let waker = worker.slow.waker().clone();
        let run = move || {
            if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
                tracing::warn!(
                    worker = index,
                    core,
                    "there is no such core to pin the worker to; it runs wherever it is put"
                );
            }
            // A panic that the worker itself does not survive: nothing is certain any more.
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.run())).unwrap_or_else(|_| {
                tracing::error!(
                    worker = index,
                    "a worker cannot go on; protected traffic stays blocked until the restart"
                );
                std::process::abort()
            })
        };
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)?;
        self.workers.push(RunningWorker { thread, waker, counters, gauges, orders, faults });
        Ok(())
    }

    /// Returns when every worker has made a round, and so has given the kernel frames to receive into: what comes after that
    /// is taken.
    pub(super) fn await_first_rounds(&self) {
        for worker in &self.workers {
            while worker.gauges.rounds.load(Ordering::Relaxed) == 0 && !worker.thread.is_finished() {
                std::thread::sleep(FIRST_ROUND);
            }
        }
    }

    /// Starts the thread that frees, and wipes, what was removed.
    pub(super) fn start_housekeeper(&mut self, installer: Arc<Installer>) -> std::io::Result<()> {
        let stop = self.stop_flag();
        let run = move || {
            while !stop.load(Ordering::Acquire) {
                std::thread::park_timeout(HOUSEKEEPING);
                installer.collect();
            }
        };
        self.others.push(std::thread::Builder::new().name("housekeeper".to_owned()).spawn(run)?);
        Ok(())
    }

    /// Starts the thread that aborts the process when a worker has made no round for so long.
    pub(super) fn start_watchdog(&mut self, stall: Duration) -> std::io::Result<()> {
        let stop = self.stop_flag();
        let watched = self.workers.iter().map(|worker| (worker.waker.clone(), Arc::clone(&worker.gauges)));
        let watched: Vec<(Waker, Arc<WorkerGauges>)> = watched.collect();
        let run = move || {
            let mut patience = Patience::new(stall, watched.len());
            while !stop.load(Ordering::Acquire) {
                // One that sleeps is woken to make a round.
                watched.iter().for_each(|(waker, _)| waker.wake());
                std::thread::park_timeout(stall / LOOKS);
                let rounds = watched.iter().map(|(_, gauges)| gauges.rounds.load(Ordering::Relaxed));
                if let Some(worker) = patience.exhausted_by(Instant::now(), rounds)
                    && !stop.load(Ordering::Acquire)
                {
                    tracing::error!(
                        worker,
                        ?stall,
                        "a worker has stalled: the process is aborted; protected traffic stays blocked until the restart"
                    );
                    std::process::abort();
                }
            }
        };
        self.others.push(std::thread::Builder::new().name("watchdog".to_owned()).spawn(run)?);
        Ok(())
    }

    /// Ends them all, and says how many frames the workers had, in their pools and in their sockets' rings.
    pub(super) fn end(&mut self) -> usize {
        self.stop.store(true, Ordering::Release);
        self.workers.iter().for_each(|worker| worker.waker.wake());
        // A worker that could not go on has ended the process already.
        let finished: Vec<Finished> =
            self.workers.drain(..).filter_map(|worker| worker.thread.join().ok()).collect();
        // Only now does none of them hand anything over any more.
        let frames = finished.iter().map(|Finished { ports, pool, exchange, orders }| {
            let sockets = ports.iter().flat_map(|port| &port.sockets);
            let in_kernel: usize = sockets.map(QueueSocket::in_kernel).sum();
            pool.len() + in_kernel + exchange.waiting() + orders.left()
        });
        let frames = frames.sum();
        for other in self.others.drain(..) {
            other.thread().unpark();
            let _ = other.join();
        }
        frames
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end();
    }
}

/// How long each worker has made no round.
struct Patience {
    stall: Duration,
    /// Of each worker: its rounds when they were last more than before, and when that was.
    seen: Vec<Option<(u64, Instant)>>,
    looked: Option<Instant>,
}

impl Patience {
    fn new(stall: Duration, workers: usize) -> Self {
        Self { stall, seen: vec![None; workers], looked: None }
    }

    /// A worker that has made no round for too long, given the rounds that each has made.
    fn exhausted_by(&mut self, now: Instant, rounds: impl Iterator<Item = u64>) -> Option<usize> {
        // Where we ourselves did not run for long (the machine was suspended), neither did the workers.
        let overslept =
            self.looked.is_some_and(|looked| now.saturating_duration_since(looked) > self.stall / 2);
        self.looked = Some(now);
        let mut exhausted = None;
        for (worker, (seen, rounds)) in self.seen.iter_mut().zip(rounds).enumerate() {
            match seen {
                Some((before, since)) if *before == rounds && !overslept => {
                    if now.saturating_duration_since(*since) >= self.stall {
                        exhausted = exhausted.or(Some(worker));
                    }
                }
                seen => *seen = Some((rounds, now)),
            }
        }
        exhausted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_secs(4);

    #[test]
    fn a_worker_that_makes_no_round_for_too_long_is_told_and_no_other() {
        let (mut patience, start) = (Patience::new(STALL, 2), Instant::now());
        for second in 0..4 {
            let now = start + Duration::from_secs(second);
            assert_eq!(patience.exhausted_by(now, [second, 7].into_iter()), None);
        }
        assert_eq!(patience.exhausted_by(start + STALL, [4, 7].into_iter()), Some(1));
        assert_eq!(patience.exhausted_by(start + STALL, [5, 8].into_iter()), None, "it came back");
    }

    #[test]
    fn a_machine_that_was_suspended_accuses_nobody() {
        let (mut patience, start) = (Patience::new(STALL, 1), Instant::now());
        assert_eq!(patience.exhausted_by(start, [7].into_iter()), None);
        assert_eq!(patience.exhausted_by(start + STALL * 100, [7].into_iter()), None);
        assert_eq!(patience.exhausted_by(start + STALL * 100 + STALL / 4, [7].into_iter()), None);
    }
}
