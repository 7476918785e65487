//! When a worker that finds nothing to do goes to sleep: at once if nothing has come for long, and not while packets come
//! so close to each other that it would hardly have slept.

use std::time::{Duration, Instant};

/// The shortest time worth spinning for, and the step by which that grows.
const STEP: Duration = Duration::from_micros(5);

/// Decides for one worker.
#[derive(Debug)]
pub(super) struct Spin {
    most: Duration,
    /// For how long it spins now: more after short sleeps, less after long ones.
    budget: Duration,
    /// Since when there has been nothing to do.
    idle: Option<Instant>,
}

impl Spin {
    /// Spins for `most` at most; zero is never.
    pub(super) fn new(most: Duration) -> Self {
        Self { most, budget: Duration::ZERO, idle: None }
    }

    /// There was something to do.
    #[inline]
    pub(super) fn busy(&mut self) {
        self.idle = None;
    }

    /// There was nothing to do; whether to look again at once.
    pub(super) fn goes_on(&mut self, now: Instant) -> bool {
        let idle = *self.idle.get_or_insert(now);
        now.saturating_duration_since(idle) < self.budget
    }

    /// It has slept for so long, and was woken.
    pub(super) fn slept(&mut self, time: Duration) {
        self.idle = None;
        self.budget = if time < self.most {
            (self.budget * 2).max(STEP).min(self.most)
        } else {
            let less = self.budget / 2;
            if less < STEP { Duration::ZERO } else { less }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_micros(50);

    /// For how long it spins now.
    fn spins(spin: &mut Spin) -> Duration {
        let start = Instant::now();
        spin.busy();
        let steps = (0..1000).map(Duration::from_micros).take_while(|after| spin.goes_on(start + *after));
        steps.last().unwrap_or_default()
    }

    #[test]
    fn short_sleeps_make_it_spin_longer_up_to_the_limit_and_long_ones_end_that() {
        let mut spin = Spin::new(MOST);
        assert_eq!(spins(&mut spin), Duration::ZERO, "nothing is known yet: it sleeps at once");
        let mut before = Duration::ZERO;
        for _ in 0..8 {
            spin.slept(Duration::from_micros(10));
            let now = spins(&mut spin);
            assert!(now >= before && now < MOST);
            before = now;
        }
        assert!(before >= Duration::from_micros(49));
        for _ in 0..8 {
            spin.slept(Duration::from_millis(10));
        }
        assert_eq!(spins(&mut spin), Duration::ZERO);
    }

    #[test]
    fn switched_off_it_never_spins() {
        let mut spin = Spin::new(Duration::ZERO);
        spin.slept(Duration::ZERO);
        spin.slept(Duration::ZERO);
        assert_eq!(spins(&mut spin), Duration::ZERO);
    }
}
