//! Quiescent-state reclamation: what a reader may still see is not freed, and nobody waits for anybody.
//!
//! A writer unpublishes a value, takes a [`Stamp`], and keeps the value in [`Limbo`]. Each reader says now and then
//! that it holds no reference ([`Reader::quiescent`]: one plain store). Once every reader has said so after the
//! stamp, or is [`Reader::offline`], the value can go. Nobody spins: a writer that finds a stamp not passed yet
//! looks again later.
//!
//! Why it holds. A reader that stores an epoch `e >= stamp` has loaded it with acquire from the writer's release
//! increment, which came after the unpublishing: what it looks up from then on, it finds unpublished. Its store is
//! a release that the writer's load acquires: what it looked at before happened before the freeing. A reader that
//! comes online stores, then fences, then reads; a writer unpublishes, then fences, then looks at the readers. Of
//! two sequentially consistent fences one is first: either the writer sees the reader online with an old epoch, or
//! the reader sees the value unpublished.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::sync::{AtomicBool, AtomicU64, Line, Ordering, fence};

/// What [`ReaderState::seen`] holds while its reader is offline or the slot is free. Epochs start above.
const OFFLINE: u64 = 0;

/// The readers and the epoch. Clones are handles to the same.
#[derive(Debug, Clone)]
pub struct Reclaimer {
    domain: Arc<Domain>,
}

#[derive(Debug)]
struct Domain {
    epoch: Line<AtomicU64>,
    readers: Box<[Line<ReaderState>]>,
}

#[derive(Debug)]
struct ReaderState {
    /// The epoch at the last quiescent point, or [`OFFLINE`]. Written by the reader alone.
    seen: AtomicU64,
    taken: AtomicBool,
}

/// A moment: everything unpublished before it was taken is unreachable for readers that come online or pass a
/// quiescent point after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(u64);

impl Reclaimer {
    /// For at most `max_readers` threads at a time.
    pub fn new(max_readers: usize) -> Self {
        let reader = || Line(ReaderState { seen: AtomicU64::new(OFFLINE), taken: AtomicBool::new(false) });
        let readers = (0..max_readers).map(|_| reader()).collect();
        Self { domain: Arc::new(Domain { epoch: Line(AtomicU64::new(OFFLINE + 1)), readers }) }
    }

    /// A reader for one thread, offline at first; `None` if `max_readers` are registered.
    pub fn register(&self) -> Option<Reader> {
        let free = |state: &Line<ReaderState>| {
            state.0.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        };
        let index = self.domain.readers.iter().position(free)?;
        Some(Reader { domain: Arc::clone(&self.domain), index, online: Cell::new(false) })
    }

    /// Now. Taken after unpublishing, by the thread that did or one synchronised with it.
    pub fn stamp(&self) -> Stamp {
        // Release: a reader that acquires the new epoch also sees what was unpublished before.
        Stamp(self.domain.epoch.0.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// How far every reader has come. Good for deciding about whatever was stamped before, by anyone.
    pub fn horizon(&self) -> Horizon<'_> {
        // Acquire: what was unpublished for the stamps up to this one was so before the fence. Later stamps are
        // higher, so that an old horizon decides nothing about them.
        let epoch = self.domain.epoch.0.load(Ordering::Acquire);
        // Pairs with the fence in `Reader::come_online`.
        fence(Ordering::SeqCst);
        let seen = self.domain.readers.iter().map(|reader| reader.0.seen.load(Ordering::Acquire));
        let oldest = seen.filter(|&seen| seen != OFFLINE).fold(epoch, u64::min);
        Horizon { domain: &self.domain, passed: Stamp(oldest) }
    }
}

/// What every reader of one reclaimer had passed at some moment.
#[derive(Debug, Clone, Copy)]
pub struct Horizon<'r> {
    domain: &'r Arc<Domain>,
    passed: Stamp,
}

/// One thread's leave to look at shared values. Not to be shared between threads, but may move.
#[derive(Debug)]
pub struct Reader {
    domain: Arc<Domain>,
    index: usize,
    online: Cell<bool>,
}

impl Reader {
    /// Leave to hold references, until the guard goes. Comes online if offline.
    pub fn guard(&self) -> Guard<'_> {
        if !self.online.get() {
            self.come_online();
        }
        Guard { domain: &self.domain }
    }

    /// Says that no reference is held now: the guard's borrow sees to it. One load and one store.
    pub fn quiescent(&mut self) {
        if self.online.get() {
            // Acquire: what was unpublished before this epoch began is not found after this.
            let epoch = self.domain.epoch.0.load(Ordering::Acquire);
            // Release: every access through earlier guards comes before.
            self.store(epoch);
        }
    }

    /// Says that none will be held until [`Reader::online`] or the next guard, e.g. before sleeping in poll.
    pub fn offline(&mut self) {
        self.online.set(false);
        self.store(OFFLINE);
    }

    /// Ends [`Reader::offline`]. A guard does it too.
    pub fn online(&mut self) {
        if !self.online.get() {
            self.come_online();
        }
    }

    fn come_online(&self) {
        // An epoch that is already old only delays reclamation until the next quiescent point.
        self.store(self.domain.epoch.0.load(Ordering::Acquire));
        // The store must be visible before anything is looked up. Pairs with `Reclaimer::horizon`.
        fence(Ordering::SeqCst);
        self.online.set(true);
    }

    fn store(&self, seen: u64) {
        if let Some(state) = self.domain.readers.get(self.index) {
            state.0.seen.store(seen, Ordering::Release);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.store(OFFLINE);
        if let Some(state) = self.domain.readers.get(self.index) {
            // Release: the next owner of the slot comes after.
            state.0.taken.store(false, Ordering::Release);
        }
    }
}

/// Proof that its reader is between two quiescent points: what is looked up under it borrows the reader, which can
/// neither pass a quiescent point nor go offline before that ends.
#[derive(Debug, Clone, Copy)]
pub struct Guard<'r> {
    domain: &'r Arc<Domain>,
}

impl Guard<'_> {
    /// Whether it keeps alive what `reclaimer` guards.
    pub fn is_of(&self, reclaimer: &Reclaimer) -> bool {
        Arc::ptr_eq(self.domain, &reclaimer.domain)
    }
}

/// Unpublished values that readers may still see, oldest first.
#[derive(Debug)]
pub struct Limbo<T> {
    reclaimer: Reclaimer,
    waiting: VecDeque<(Stamp, T)>,
}

impl<T> Limbo<T> {
    /// For values that readers of this reclaimer look at, with room for so many before it must grow.
    pub fn new(reclaimer: Reclaimer, capacity: usize) -> Self {
        Self { reclaimer, waiting: VecDeque::with_capacity(capacity) }
    }

    /// Keeps `value`, which has just been unpublished.
    pub fn push(&mut self, value: T) {
        self.waiting.push_back((self.reclaimer.stamp(), value));
    }

    /// Takes out what no reader can see any more; nothing if the horizon is another reclaimer's.
    pub fn release(&mut self, horizon: Horizon<'_>) -> impl Iterator<Item = T> {
        let ours = Arc::ptr_eq(horizon.domain, &self.reclaimer.domain);
        let passed = self.waiting.partition_point(|&(stamp, _)| ours && stamp <= horizon.passed);
        self.waiting.drain(..passed).map(|(_, value)| value)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn left(limbo: &mut Limbo<u32>, reclaimer: &Reclaimer) -> Vec<u32> {
        limbo.release(reclaimer.horizon()).collect()
    }

    #[test]
    fn a_value_is_kept_until_every_reader_has_passed() {
        let reclaimer = Reclaimer::new(2);
        let (mut a, mut b) = (reclaimer.register().unwrap(), reclaimer.register().unwrap());
        a.online();
        b.online();
        let mut limbo = Limbo::new(reclaimer.clone(), 0);
        limbo.push(1);
        a.quiescent();
        limbo.push(2);
        assert!(left(&mut limbo, &reclaimer).is_empty());
        b.quiescent();
        assert_eq!(left(&mut limbo, &reclaimer), [1]);
        a.quiescent();
        assert_eq!(left(&mut limbo, &reclaimer), [2]);
    }

    #[test]
    fn a_reader_that_sleeps_or_is_gone_delays_nobody() {
        let reclaimer = Reclaimer::new(2);
        let (mut asleep, gone) = (reclaimer.register().unwrap(), reclaimer.register().unwrap());
        let mut limbo = Limbo::new(reclaimer.clone(), 0);
        let _ = (asleep.guard(), gone.guard());
        limbo.push(1);
        asleep.offline();
        assert!(left(&mut limbo, &reclaimer).is_empty());
        drop(gone);
        assert_eq!(left(&mut limbo, &reclaimer), [1]);
        // Saying that it is quiescent does not wake it.
        asleep.quiescent();
        limbo.push(2);
        assert_eq!(left(&mut limbo, &reclaimer), [2]);
        let _ = asleep.guard();
        limbo.push(3);
        assert!(left(&mut limbo, &reclaimer).is_empty());
    }

    #[test]
    fn an_old_horizon_says_nothing_about_what_came_after_it() {
        let reclaimer = Reclaimer::new(1);
        let mut limbo = Limbo::new(reclaimer.clone(), 0);
        let nobody_online = reclaimer.horizon();
        limbo.push(1);
        assert_eq!(limbo.release(nobody_online).count(), 0);
    }

    #[test]
    fn another_reclaimers_horizon_frees_nothing() {
        let (ours, theirs) = (Reclaimer::new(1), Reclaimer::new(1));
        let mut limbo = Limbo::new(ours.clone(), 0);
        limbo.push(1);
        theirs.stamp();
        assert_eq!(limbo.release(theirs.horizon()).count(), 0);
        assert_eq!(limbo.release(ours.horizon()).count(), 1);
    }

    #[test]
    fn places_for_readers_are_limited_and_come_back() {
        let reclaimer = Reclaimer::new(1);
        let first = reclaimer.register().unwrap();
        assert!(reclaimer.register().is_none());
        drop(first);
        assert!(reclaimer.register().is_some());
    }
}
