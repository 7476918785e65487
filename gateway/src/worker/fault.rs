//! Faults on demand, for tests of what happens then. Only the feature `fault-injection` makes them possible: no program
//! that is shipped is built with it, and without it there is nothing here that could be triggered.

#[cfg(feature = "fault-injection")]
use std::sync::atomic::{AtomicU8, Ordering};

/// What a worker is to suffer at its next packets.
#[cfg(feature = "fault-injection")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// It panics with received packets in its hands.
    PanicBefore = 1,
    /// It panics with packets in its hands that are ready to be sent.
    PanicAfter = 2,
    /// It never comes back.
    Stall = 3,
}

/// The fault that waits for a worker.
#[derive(Debug, Default)]
pub struct Faults {
    #[cfg(feature = "fault-injection")]
    next: AtomicU8,
}

/// Where in a round a fault may strike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    /// Packets have been received.
    Received,
    /// The pipeline is done with them.
    Processed,
}

#[cfg(not(feature = "fault-injection"))]
impl Faults {
    #[inline(always)]
    pub(super) fn strike(&self, _: Point) {}
}

#[cfg(feature = "fault-injection")]
impl Faults {
    /// Lets it happen.
    pub fn inject(&self, fault: Fault) {
        self.next.store(fault as u8, Ordering::Release);
    }

    #[expect(clippy::panic, reason = "what was asked for")]
    pub(super) fn strike(&self, point: Point) {
        let now = match point {
            Point::Received => [Fault::PanicBefore, Fault::Stall],
            Point::Processed => [Fault::PanicAfter; 2],
        };
        let next = self.next.load(Ordering::Acquire);
        let Some(fault) = now.into_iter().find(|fault| *fault as u8 == next) else { return };
        self.next.store(0, Ordering::Release);
        match fault {
            Fault::PanicBefore | Fault::PanicAfter => panic!("a fault was injected"),
            Fault::Stall => loop {
                std::thread::park();
            },
        }
    }
}
