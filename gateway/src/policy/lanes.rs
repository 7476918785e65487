//! The SAs of a policy that belong to one worker each (RFC 9611), and which workers have asked for one.
//!
//! A word for each worker: 0, the SA as [`OutboundRef::to_word`], or, below every such word, when the worker asked last. Only
//! the installer puts an SA in and takes it out; a worker changes its own word, and only while there is no SA.

use super::PolicyEntry;
use crate::coarse::Coarse;
use crate::events::EventBoard;
use crate::sa::OutboundRef;
use crate::sync::{AtomicU64, Ordering};

/// Seconds after which a worker that still has packets asks again: the control plane may have had to refuse.
const ASKS_AGAIN: u32 = 5;

/// By worker.
#[derive(Debug)]
pub(crate) struct Lanes(Box<[AtomicU64]>);

/// What a worker's word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Empty,
    /// The worker has asked for an SA, then.
    Asked(Coarse),
    /// The worker needs none, as it saw then.
    Content(Coarse),
    Own(OutboundRef),
}

/// In words that are no SA's: the worker needs none. Below it is the second, and one, of a clock that does not come so far.
const CONTENT: u32 = 1 << 31;

impl Lane {
    fn of(word: u64) -> Self {
        match (u32::try_from(word), OutboundRef::from_word(word)) {
            (Ok(0), _) | (Err(_), None) => Self::Empty,
            (Ok(word), _) => {
                let at = Coarse((word & !CONTENT).saturating_sub(1));
                if word & CONTENT == 0 { Self::Asked(at) } else { Self::Content(at) }
            }
            (Err(_), Some(reference)) => Self::Own(reference),
        }
    }

    fn looked(now: Coarse, asks: bool) -> u64 {
        let at = now.0.saturating_add(1) & !CONTENT;
        u64::from(if asks { at } else { at | CONTENT })
    }
}

impl Lanes {
    /// For so many workers, none of which has an SA.
    pub(super) fn new(workers: u16) -> Self {
        Self((0..workers).map(|_| AtomicU64::new(0)).collect())
    }

    /// Whether there is such a worker.
    pub(super) fn has(&self, worker: u16) -> bool {
        usize::from(worker) < self.0.len()
    }

    /// The worker's own SA.
    #[inline]
    pub(crate) fn own(&self, worker: u16) -> Option<OutboundRef> {
        // Acquire: the SA was published before its name was put in here.
        let word = self.0.get(usize::from(worker))?.load(Ordering::Acquire);
        match Lane::of(word) {
            Lane::Own(reference) => Some(reference),
            Lane::Empty | Lane::Asked(_) | Lane::Content(_) => None,
        }
    }

    /// A worker without an SA of its own has packets. Once in a while it asks for one, if it `needs` it; then true, and the
    /// control plane is to be told.
    pub(super) fn ask(&self, worker: u16, now: Coarse, needs: impl FnOnce() -> bool) -> bool {
        let Some(lane) = self.0.get(usize::from(worker)) else { return false };
        let word = lane.load(Ordering::Relaxed);
        let due = match Lane::of(word) {
            Lane::Empty => true,
            Lane::Asked(before) | Lane::Content(before) => now.0.saturating_sub(before.0) >= ASKS_AGAIN,
            Lane::Own(_) => false,
        };
        if !due {
            return false;
        }
        let asks = needs();
        let looked = Lane::looked(now, asks);
        // Not if an SA was put in meanwhile.
        let asked = lane.compare_exchange(word, looked, Ordering::Relaxed, Ordering::Relaxed);
        asks && asked.is_ok()
    }

    /// The workers that have asked lately.
    pub(crate) fn asking(&self, now: Coarse) -> impl Iterator<Item = u16> {
        (0_u16..).zip(&self.0).filter_map(move |(worker, lane)| {
            match Lane::of(lane.load(Ordering::Relaxed)) {
                Lane::Asked(asked) => (now.0.saturating_sub(asked.0) < ASKS_AGAIN).then_some(worker),
                Lane::Empty | Lane::Content(_) | Lane::Own(_) => None,
            }
        })
    }

    /// Whose SA it is.
    pub(crate) fn worker_of(&self, reference: OutboundRef) -> Option<u16> {
        (0_u16..)
            .zip(&self.0)
            .find(|(_, lane)| lane.load(Ordering::Relaxed) == reference.to_word())
            .map(|(worker, _)| worker)
    }

    /// Gives a worker its SA; false if there is no such worker.
    pub(super) fn put(&self, worker: u16, reference: OutboundRef) -> bool {
        let Some(lane) = self.0.get(usize::from(worker)) else { return false };
        // Release: the SA was published before. A swap, so that it and the worker's own exchange have an order.
        lane.swap(reference.to_word(), Ordering::AcqRel);
        true
    }

    /// Takes this one out, wherever it is. The worker asks again when it next has packets.
    pub(super) fn take(&self, reference: OutboundRef) {
        for lane in &self.0 {
            let _ = lane.compare_exchange(reference.to_word(), 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Takes all of them out.
    pub(super) fn clear(&self) {
        self.0.iter().for_each(|lane| lane.store(0, Ordering::Release));
    }
}

/// The SA that seals a worker's packets where workers may have their own: that, or the one that all share, beside which one of
/// its own is asked for: who owns the shared one `needs` no other.
#[inline(never)]
pub(crate) fn of_worker(
    policy: &PolicyEntry,
    lanes: &Lanes,
    (worker, now): (u16, Coarse),
    events: &EventBoard,
    needs: impl FnOnce(OutboundRef) -> bool,
) -> Option<OutboundRef> {
    if let Some(own) = lanes.own(worker) {
        return Some(own);
    }
    let shared = policy.outbound()?;
    if lanes.ask(worker, now, || needs(shared)) {
        events.worker_asks(policy);
    }
    Some(shared)
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn reference(number: u64) -> OutboundRef {
        OutboundRef::from_word(number << 32 | 7).unwrap()
    }

    #[test]
    fn a_worker_asks_again_only_after_a_while_and_not_once_it_has_an_sa() {
        let lanes = Lanes::new(2);
        assert!(lanes.ask(1, Coarse(0), || true), "also in the first second of the clock");
        assert!(!lanes.ask(1, Coarse(ASKS_AGAIN - 1), || true));
        assert_eq!(lanes.asking(Coarse(1)).collect::<Vec<_>>(), [1]);
        assert!(lanes.ask(1, Coarse(ASKS_AGAIN), || true));
        assert!(lanes.put(1, reference(1)));
        assert!(!lanes.ask(1, Coarse(1000), || true));
        assert_eq!(lanes.asking(Coarse(ASKS_AGAIN)).count(), 0);
        assert_eq!((lanes.own(0), lanes.own(1)), (None, Some(reference(1))));
    }

    #[test]
    fn a_worker_that_needs_none_is_not_told_of_when_another_asks() {
        let lanes = Lanes::new(2);
        assert!(!lanes.ask(0, Coarse(9), || false));
        assert!(lanes.ask(1, Coarse(9), || true));
        assert_eq!(lanes.asking(Coarse(9)).collect::<Vec<_>>(), [1]);
        assert!(!lanes.ask(0, Coarse(10), || panic!("it has just looked")));
        assert!(lanes.ask(0, Coarse(9 + ASKS_AGAIN), || true));
    }

    #[test]
    fn an_sa_that_has_a_successor_takes_nothing_out_when_it_ends() {
        let lanes = Lanes::new(1);
        assert!(lanes.put(0, reference(1)) && lanes.put(0, reference(2)));
        lanes.take(reference(1));
        assert_eq!(lanes.own(0), Some(reference(2)));
        lanes.take(reference(2));
        assert_eq!(lanes.own(0), None);
        assert!(lanes.ask(0, Coarse(3), || true), "its worker asks anew at once");
    }

    #[test]
    fn a_worker_beyond_the_last_has_nothing_and_asks_for_nothing() {
        let lanes = Lanes::new(1);
        assert!(!lanes.put(1, reference(1)) && !lanes.ask(1, Coarse(9), || true));
        assert_eq!(lanes.own(1), None);
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use std::sync::Arc;

    use super::*;

    fn reference(number: u64) -> OutboundRef {
        OutboundRef::from_word(number << 32 | 7).unwrap()
    }

    /// A worker that asks at the moment when it is given an SA, whose predecessor goes, has that SA in the end.
    #[test]
    fn a_worker_that_asks_loses_no_sa() {
        loom::model(|| {
            let lanes = Arc::new(Lanes::new(1));
            assert!(lanes.put(0, reference(1)));
            let worker = {
                let lanes = Arc::clone(&lanes);
                loom::thread::spawn(move || {
                    let seen = lanes.own(0);
                    (seen, seen.is_none() && lanes.ask(0, Coarse(8), || true))
                })
            };
            lanes.take(reference(1));
            assert!(lanes.put(0, reference(2)));
            let (seen, _) = worker.join().unwrap();
            assert!(seen.is_none_or(|seen| seen == reference(1) || seen == reference(2)));
            assert_eq!(lanes.own(0), Some(reference(2)));
        });
    }

    /// Who asks after its SA was taken out is told of, or finds the next one.
    #[test]
    fn what_is_taken_out_can_be_asked_for() {
        loom::model(|| {
            let lanes = Arc::new(Lanes::new(1));
            assert!(lanes.put(0, reference(1)));
            let worker = {
                let lanes = Arc::clone(&lanes);
                loom::thread::spawn(move || lanes.own(0).is_none() && lanes.ask(0, Coarse(8), || true))
            };
            lanes.take(reference(1));
            let asked = worker.join().unwrap();
            assert_eq!(lanes.asking(Coarse(8)).count(), usize::from(asked));
        });
    }
}
