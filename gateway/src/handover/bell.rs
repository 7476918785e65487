//! Wakes a worker that sleeps, and costs nothing (no system call, no written line) while it does not.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crate::slowpath::Waker;
use crate::sync::{AtomicBool, Line, Ordering, fence};

/// One worker's. Clones ring the same.
#[derive(Debug, Clone)]
pub struct Bell {
    sleeps: Arc<Line<AtomicBool>>,
    waker: Waker,
}

impl Bell {
    /// For the worker that polls this waker.
    pub fn new(waker: Waker) -> Self {
        Self { sleeps: Arc::new(Line(AtomicBool::new(false))), waker }
    }

    /// Says that something was put where the worker will find it.
    #[inline]
    pub fn ring(&self) {
        if must_wake(&self.sleeps.0) {
            self.waker.wake();
        }
    }

    /// The worker is about to sleep. It has to look once more at everything that this bell is rung for, and must not sleep
    /// if it finds anything.
    pub fn going_to_sleep(&self) {
        going_to_sleep(&self.sleeps.0);
    }

    /// The worker is awake.
    pub fn awake(&self) {
        // Relaxed: whoever rings in vain only wakes it once too often.
        self.sleeps.0.store(false, Ordering::Relaxed);
        self.waker.lower();
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}

/// Either the sleeper, who looks after its fence, sees what was put in before this one, or this sees that it sleeps: of two
/// sequentially consistent fences one is first.
fn must_wake(sleeps: &AtomicBool) -> bool {
    fence(Ordering::SeqCst);
    sleeps.load(Ordering::Relaxed) && sleeps.swap(false, Ordering::Relaxed)
}

fn going_to_sleep(sleeps: &AtomicBool) {
    sleeps.store(true, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use super::*;
    use crate::handover::ring::ring;

    #[test]
    fn nobody_sleeps_over_something_that_was_put_in() {
        loom::model(|| {
            let sleeps = Arc::new(AtomicBool::new(false));
            let woken = Arc::new(AtomicBool::new(false));
            let (mut producer, consumer) = ring(2);
            let ringer = {
                let (sleeps, woken) = (Arc::clone(&sleeps), Arc::clone(&woken));
                loom::thread::spawn(move || {
                    producer.push_all(&mut vec![1]);
                    if must_wake(&sleeps) {
                        woken.store(true, Ordering::SeqCst);
                    }
                })
            };
            going_to_sleep(&sleeps);
            let stays_awake = consumer.len() > 0;
            ringer.join().unwrap();
            assert!(stays_awake || woken.load(Ordering::SeqCst), "it sleeps, and something is there");
        });
    }
}
