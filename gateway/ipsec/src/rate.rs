//! How much a tunnel may carry in time. Peers are told nothing of it: it belongs to this end alone.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};

/// The rate of one direction: a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// Bits of inner packets in a second.
    pub bits_per_second: NonZeroU64,
    /// Octets that may go at once after a pause.
    pub burst: NonZeroU32,
}

impl fmt::Display for RateLimit {
    /// The rate as the configuration writes it, in the largest unit that leaves a whole number, and the burst.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 3] = [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
        let bits = self.bits_per_second.get();
        let (unit, name) = UNITS.into_iter().find(|(unit, _)| bits.is_multiple_of(*unit)).unwrap_or((1, ""));
        write!(f, "{}{name} bit/s, {} octets at once", bits / unit, self.burst)
    }
}

/// Both directions of a CHILD SA and of those that follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RateLimits {
    /// Of what comes out of the tunnel.
    pub inbound: Option<RateLimit>,
    /// Of what goes into it.
    pub outbound: Option<RateLimit>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_written_in_its_largest_whole_unit() {
        let text = |bits| {
            let (bits, burst) = (NonZeroU64::new(bits).unwrap(), NonZeroU32::new(9000).unwrap());
            RateLimit { bits_per_second: bits, burst }.to_string()
        };
        assert_eq!(text(2_000_000_000), "2G bit/s, 9000 octets at once");
        assert_eq!(text(1_500_000), "1500k bit/s, 9000 octets at once");
        assert_eq!(text(8_001), "8001 bit/s, 9000 octets at once");
    }
}
