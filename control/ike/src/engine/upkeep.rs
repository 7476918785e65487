//! Who brings a lost tunnel up again.
//!
//! A child with `start_action = "start"` is *wanted* from the first [`Command::Initiate`] that covers it (the shell
//! sends one at start-up) until a [`Command::Terminate`] that covers it. While it is wanted and not up, because
//! an attempt failed, the peer fell silent, or the peer deleted it, the engine tries again by itself: after 1 second, then
//! after twice as long each time, up to 64 seconds; after a refusal (wrong key, no proposal, no selectors), which
//! will hardly change by itself, first after 16 seconds. A quarter of each delay is random, so that tunnels lost
//! together do not return together. Children of any other start action are never retried: a trap's next packet or
//! an operator asks again; but for those that the configuration wants back after a loss (`actions`): these are wanted until
//! they are up. Nobody else retries; a command is answered with the outcome of the attempt that it
//! started or joined.
//!
//! [`Command::Initiate`]: super::Command::Initiate
//! [`Command::Terminate`]: super::Command::Terminate

use std::collections::HashMap;
use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const FIRST_AFTER_REFUSAL: Duration = Duration::from_secs(16);
const LONGEST: Duration = Duration::from_secs(64);

/// The children that are kept up, by connection and child, each with the delay before the next attempt.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    wanted: HashMap<(usize, usize), Wish>,
}

#[derive(Debug)]
struct Wish {
    /// Before the next attempt.
    delay: Duration,
    /// It is wanted until it is up, and no longer.
    once: bool,
}

impl Upkeep {
    pub(super) fn want(&mut self, connection: usize, child: usize) {
        self.wanted.entry((connection, child)).or_insert(Wish { delay: FIRST, once: false }).once = false;
    }

    /// It was lost, and is wanted until it is up again.
    pub(super) fn want_once(&mut self, connection: usize, child: usize) {
        self.wanted.entry((connection, child)).or_insert(Wish { delay: FIRST, once: true });
    }

    /// Whether it was wanted.
    pub(super) fn unwant(&mut self, connection: usize, child: usize) -> bool {
        self.wanted.remove(&(connection, child)).is_some()
    }

    /// No child of a connection is wanted any more.
    pub(super) fn unwant_all(&mut self, connection: usize) {
        self.wanted.retain(|(wanted, _), _| *wanted != connection);
    }

    pub(super) fn is_wanted(&self, connection: usize, child: usize) -> bool {
        self.wanted.contains_key(&(connection, child))
    }

    /// It is up: the next loss is retried quickly, if it is still wanted then.
    pub(super) fn up(&mut self, connection: usize, child: usize) {
        self.wanted.retain(|wanted, wish| *wanted != (connection, child) || !wish.once);
        if let Some(wish) = self.wanted.get_mut(&(connection, child)) {
            wish.delay = FIRST;
        }
    }

    /// It is down: how long to wait before the next attempt, if it is wanted. `dice` is random.
    pub(super) fn down(
        &mut self,
        connection: usize,
        child: usize,
        refused: bool,
        dice: u8,
    ) -> Option<Duration> {
        let delay = &mut self.wanted.get_mut(&(connection, child))?.delay;
        if refused {
            *delay = (*delay).max(FIRST_AFTER_REFUSAL);
        }
        let now = *delay;
        *delay = (now * 2).min(LONGEST);
        Some(now - now * u32::from(dice) / 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_once_is_wanted_until_it_is_up() {
        let mut upkeep = Upkeep::default();
        upkeep.want_once(0, 0);
        assert_eq!(upkeep.down(0, 0, false, 0), Some(FIRST));
        assert_eq!(upkeep.down(0, 0, false, 0), Some(FIRST * 2));
        upkeep.up(0, 0);
        assert_eq!(upkeep.down(0, 0, false, 0), None);
        upkeep.want(0, 0);
        upkeep.want_once(0, 0);
        upkeep.up(0, 0);
        assert_eq!(upkeep.down(0, 0, false, 0), Some(FIRST));
    }

    #[test]
    fn attempts_become_rarer_up_to_a_bound_until_one_succeeds() {
        let mut upkeep = Upkeep::default();
        assert_eq!(upkeep.down(0, 0, false, 0), None);
        upkeep.want(0, 0);
        let delays: Vec<u64> = (0..8).map(|_| upkeep.down(0, 0, false, 0).unwrap().as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64, 64]);
        upkeep.up(0, 0);
        assert_eq!(upkeep.down(0, 0, false, 0), Some(FIRST));
        assert_eq!(upkeep.down(0, 0, true, 0), Some(FIRST_AFTER_REFUSAL));
        let jittered = upkeep.down(0, 0, false, 255).unwrap();
        assert!(Duration::from_secs(24) < jittered && jittered < Duration::from_secs(32));
        assert!(upkeep.unwant(0, 0));
        assert_eq!(upkeep.down(0, 0, false, 0), None);
    }
}
