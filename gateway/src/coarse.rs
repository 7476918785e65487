//! Time for what needs no precision: idle times and rate limits.

use std::time::Duration;

/// Whole seconds of one monotonic clock, whose origin is the data plane's affair. Read once per batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Coarse(pub u32);

impl Coarse {
    /// Time from `earlier` to this; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(u64::from(self.0.saturating_sub(earlier.0)))
    }
}
