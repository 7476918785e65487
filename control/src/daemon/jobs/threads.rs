//! The threads that the engine's mathematics is done on: as many as there are processors. More would only take turns, and
//! be woken for each job; these find the next one waiting when there is much to do.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

type Work = Box<dyn FnOnce() + Send>;

/// The threads. They end when this is dropped, each with what it has in hand.
pub(in crate::daemon) struct JobThreads {
    shared: Arc<Shared>,
    alone: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    /// Threads that wait for some.
    idle: usize,
    closed: bool,
}

impl JobThreads {
    /// Starts one for each processor.
    pub(in crate::daemon) fn start() -> io::Result<Self> {
        Self::start_so_many(thread::available_parallelism().map_or(1, usize::from))
    }

    fn start_so_many(threads: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        for number in 0..threads {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("ike-job-{number}")).spawn(move || shared.serve())?;
        }
        Ok(Self { shared, alone: threads == 1 })
    }

    /// Whether there is but one processor, which they share with all others.
    pub(in crate::daemon) fn alone(&self) -> bool {
        self.alone
    }

    /// Has some work done, after all that was given before was begun.
    pub(in crate::daemon) fn give(&self, work: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.queue();
        queue.work.push_back(Box::new(work));
        // Who is busy looks again by itself.
        if queue.idle > 0 {
            drop(queue);
            self.shared.filled.notify_one();
        }
    }
}

impl Drop for JobThreads {
    fn drop(&mut self) {
        let mut queue = self.shared.queue();
        queue.closed = true;
        queue.work.clear();
        self.shared.filled.notify_all();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        while let Some(work) = self.next() {
            // What panics has no result, and takes no thread with it.
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                tracing::error!("a job of the IKE engine panicked");
            }
        }
    }

    /// Waits for some work; `None` at the end.
    fn next(&self) -> Option<Work> {
        let mut queue = self.queue();
        loop {
            if queue.closed {
                return None;
            }
            if let Some(work) = queue.work.pop_front() {
                return Some(work);
            }
            queue.idle += 1;
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn all_work_is_done_by_few_threads_and_one_that_panics_goes_on() {
        let threads = JobThreads::start_so_many(1).unwrap();
        let (done, results) = mpsc::channel();
        for number in 0..100 {
            let done = done.clone();
            threads.give(move || {
                assert_ne!(number, 50, "one that panics");
                done.send((number, thread::current().id())).unwrap();
            });
        }
        drop(done);
        let results: Vec<_> = results.iter().collect();
        assert_eq!(results.len(), 99);
        assert!(results.iter().all(|(_, thread)| *thread == results[0].1));
        assert!(results.is_sorted_by_key(|(number, _)| *number));
    }

    #[test]
    fn the_threads_end_with_their_owner_and_drop_what_nobody_began() {
        let threads = JobThreads::start_so_many(1).unwrap();
        let (begun, began) = mpsc::channel();
        let (go, gone) = mpsc::channel::<()>();
        threads.give(move || {
            begun.send(()).unwrap();
            // Until the owner is gone.
            let _ = gone.recv();
        });
        began.recv().unwrap();
        let (never, outcome) = mpsc::channel();
        threads.give(move || never.send(()).unwrap());
        drop(threads);
        drop(go);
        // Its only sender was dropped unused.
        assert!(outcome.recv().is_err());
    }
}
