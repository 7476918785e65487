//! Outbound sequence numbers, which are the nonces of AES-GCM (RFC 4106 §3.1): each is given out once, upwards,
//! whatever number of cores ask, and never one past the end.
//!
//! The end is 2^32 - 1 without ESN (RFC 4303 §3.3.3). With ESN the counter would last for 2^64 - 1, which NIST
//! SP 800-38D §8.3 allows for nonces built this way (its 2^32 is for random ones). But one key's advantage to a
//! distinguisher grows with the square of the blocks it has encrypted, so an SA ends at [`USAGE_LIMIT`] packets:
//! at 1500 octets each, 2^42.6 blocks, an advantage of about 2^-44; at ten million packets a second, two hours.

use std::ops::Range;

use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// Most packets sealed under one key.
pub const USAGE_LIMIT: u64 = 1 << 36;

/// The next sequence number, and where they end.
#[derive(Debug)]
pub struct SequenceCounter {
    /// The next number to give out. Only ever raised, by compare-exchange, to at most `last + 1`.
    next: AtomicU64,
    last: u64,
    soft: u64,
    refused: AtomicBool,
}

/// Numbers that belong to whoever holds this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// As many as were asked for, starting at 1 in a new SA.
    pub numbers: Range<u64>,
    /// This reservation, and no other, went past the soft limit: time to rekey.
    pub crossed_soft_limit: bool,
}

/// The counter's end: it will never give out that many again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    /// No earlier reservation was refused.
    pub first: bool,
}

impl SequenceCounter {
    /// For a new SA: numbers from 1 to the end of 32 bits, or with ESN to [`USAGE_LIMIT`]. The soft limit is at
    /// three quarters.
    pub fn new(esn: bool) -> Self {
        Self::starting_at(1, if esn { USAGE_LIMIT } else { u64::from(u32::MAX) })
    }

    /// Numbers from `first` to `last` inclusive.
    pub(crate) fn starting_at(first: u64, last: u64) -> Self {
        // One less than the maximum, so that `last + 1` is representable.
        let last = last.min(u64::MAX - 1);
        let soft = last - last / 4;
        Self { next: AtomicU64::new(first.max(1)), last, soft, refused: AtomicBool::new(false) }
    }

    /// Takes the next `n` numbers. If fewer are left, none is taken: a smaller reservation may still succeed.
    pub fn reserve(&self, n: u32) -> Result<Reservation, Exhausted> {
        // Relaxed: the numbers are all that is communicated, and a single location has one order of changes.
        let mut start = self.next.load(Ordering::Relaxed);
        loop {
            let end = start.checked_add(u64::from(n)).filter(|&end| end <= self.last + 1);
            let Some(end) = end else {
                return Err(Exhausted { first: !self.refused.swap(true, Ordering::Relaxed) });
            };
            match self.next.compare_exchange_weak(start, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    let crossed_soft_limit = start <= self.soft && self.soft < end;
                    return Ok(Reservation { numbers: start..end, crossed_soft_limit });
                }
                Err(found) => start = found,
            }
        }
    }

    /// The next number that would be given out.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// The last number that may be given out.
    pub fn last(&self) -> u64 {
        self.last
    }
}
