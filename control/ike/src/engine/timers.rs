//! One heap of deadlines for everything that waits, however many tunnels there are.
//!
//! Nothing is cancelled: an owner whose deadline moves later is woken at the old one, finds nothing due and is
//! armed again. So a message that pushes DPD back costs no heap operation.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::Hash;
use std::time::Instant;

use super::own_keys::OwnMap;

/// Deadlines of owners `K`, at most one live deadline each.
#[derive(Debug)]
pub(super) struct Timers<K> {
    heap: BinaryHeap<Reverse<(Instant, K)>>,
    armed: OwnMap<K, Instant>,
}

impl<K: Copy + Ord + Hash> Timers<K> {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), armed: OwnMap::default() }
    }

    /// Wakes `owner` at `at` or earlier.
    pub(super) fn arm(&mut self, owner: K, at: Instant) {
        if self.armed.get(&owner).is_some_and(|armed| *armed <= at) {
            return;
        }
        self.armed.insert(owner, at);
        self.heap.push(Reverse((at, owner)));
    }

    /// Forgets `owner`.
    pub(super) fn disarm(&mut self, owner: K) {
        self.armed.remove(&owner);
        self.prune();
    }

    /// The next owner whose deadline has come; it is no longer armed.
    pub(super) fn expire(&mut self, now: Instant) -> Option<K> {
        self.prune();
        let Reverse((at, owner)) = *self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop();
        self.armed.remove(&owner);
        Some(owner)
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Drops entries that a later `arm` or `disarm` has outdated, as far as they lie on top.
    fn prune(&mut self) {
        while let Some(Reverse((at, owner))) = self.heap.peek() {
            if self.armed.get(owner) == Some(at) {
                break;
            }
            self.heap.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn owners_are_woken_in_order_of_their_deadlines_and_once() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut timers = Timers::new();
        timers.arm(1, at(5));
        timers.arm(2, at(3));
        timers.arm(1, at(9));
        timers.arm(3, at(4));
        timers.disarm(3);
        assert_eq!(timers.next(), Some(at(3)));
        assert_eq!(timers.expire(at(2)), None);
        assert_eq!(timers.expire(at(6)), Some(2));
        assert_eq!(timers.expire(at(6)), Some(1));
        assert_eq!(timers.expire(at(60)), None);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn an_earlier_deadline_replaces_a_later_one() {
        let start = Instant::now();
        let mut timers = Timers::new();
        timers.arm(1, start + Duration::from_secs(5));
        timers.arm(1, start + Duration::from_secs(2));
        assert_eq!(timers.expire(start + Duration::from_secs(2)), Some(1));
        assert_eq!(timers.expire(start + Duration::from_secs(9)), None);
    }
}
