//! The workers' threads and the housekeeper's, which end together: when told, or when whoever holds them goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::drop::WorkerCounters;
use crate::installer::Installer;
use crate::io::QueueSocket;
use crate::slowpath::Waker;
use crate::worker::{Finished, FrameGauges, Worker};

/// How often removed SAs are looked after when nothing else is installed or removed.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Threads that run.
#[derive(Default)]
pub(super) struct Threads {
    /// Set to end them.
    stop: Arc<AtomicBool>,
    workers: Vec<RunningWorker>,
    housekeeper: Option<JoinHandle<()>>,
}

/// A worker's thread, and what it lets others see.
pub(super) struct RunningWorker {
    thread: JoinHandle<Finished>,
    pub(super) waker: Waker,
    pub(super) counters: Arc<WorkerCounters>,
    pub(super) gauges: Arc<FrameGauges>,
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
        let waker = worker.slow.waker().clone();
        let run = move || {
            if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
                tracing::warn!(
                    worker = index,
                    core,
                    "there is no such core to pin the worker to; it runs wherever it is put"
                );
            }
            // A worker that dies half-way through a batch may hold frames and a place in the reclaimer: nothing is
            // certain any more, so the process ends, closed, and its supervisor starts the next.
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.run())).unwrap_or_else(|_| {
                tracing::error!(
                    worker = index,
                    "a worker has panicked; protected traffic stays blocked until the restart"
                );
                std::process::abort()
            })
        };
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)?;
        self.workers.push(RunningWorker { thread, waker, counters, gauges });
        Ok(())
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
        self.housekeeper = Some(std::thread::Builder::new().name("housekeeper".to_owned()).spawn(run)?);
        Ok(())
    }

    /// Ends them all, and says how many frames the workers had, in their pools and in their sockets' rings.
    pub(super) fn end(&mut self) -> usize {
        self.stop.store(true, Ordering::Release);
        self.workers.iter().for_each(|worker| worker.waker.wake());
        // A worker that panicked has ended the process already.
        let finished: Vec<Finished> =
            self.workers.drain(..).filter_map(|worker| worker.thread.join().ok()).collect();
        // Only now does none of them hand anything over any more.
        let frames = finished.iter().map(|Finished { ports, pool, exchange }| {
            let sockets = ports.iter().flat_map(|port| &port.sockets);
            pool.len() + sockets.map(QueueSocket::in_kernel).sum::<usize>() + exchange.waiting()
        });
        let frames = frames.sum();
        if let Some(housekeeper) = self.housekeeper.take() {
            housekeeper.thread().unpark();
            let _ = housekeeper.join();
        }
        frames
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end();
    }
}
