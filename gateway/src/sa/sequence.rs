//! Outbound sequence numbers, which are the nonces of every cipher (RFC 4106 §3.1): each is given out once, upwards,
//! whatever number of cores ask, and never one past the end.
//!
//! The end is 2^32 - 1 without ESN (RFC 4303 §3.3.3). With ESN the counter would last for 2^64 - 1, which NIST
//! SP 800-38D §8.3 allows for nonces built this way (its 2^32 is for random ones). But an SA ends at its algorithm's
//! [`EspAlgorithm::packet_limit`] as well: with AES at 2^36, at ten million packets a second two hours.

use std::ops::Range;

use portcullis_ipsec::EspAlgorithm;

use crate::sync::{AtomicBool, AtomicU64, Ordering};

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
    /// For a new SA: numbers from 1 to the end of 32 bits, or with ESN of 64, and no further than the algorithm's
    /// limit. The soft limit is at three quarters.
    pub fn new(algorithm: EspAlgorithm, esn: bool) -> Self {
        let last = if esn { u64::MAX } else { u64::from(u32::MAX) };
        Self::starting_at(1, last.min(algorithm.packet_limit()))
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

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_new_sa_begins_with_number_1() {
        let counter = SequenceCounter::new(EspAlgorithm::Aes256Gcm16, true);
        assert_eq!(counter.reserve(64).unwrap().numbers, 1..65);
        assert_eq!(counter.reserve(1).unwrap().numbers, 65..66);
    }

    #[test]
    fn without_esn_the_last_number_is_all_ones_and_is_given_out_once() {
        let mut counter = SequenceCounter::new(EspAlgorithm::Aes256Gcm16, false);
        assert_eq!(counter.last(), 0xffff_ffff);
        counter.next = AtomicU64::new(0xffff_fffe);
        assert_eq!(counter.reserve(3), Err(Exhausted { first: true }));
        assert_eq!(counter.reserve(2).unwrap().numbers, 0xffff_fffe..0x1_0000_0000);
        for _ in 0..100 {
            assert_eq!(counter.reserve(1), Err(Exhausted { first: false }));
        }
        assert_eq!(counter.next(), 0x1_0000_0000);
    }

    #[test]
    fn with_esn_the_key_is_used_up_before_the_counter() {
        let mut counter = SequenceCounter::new(EspAlgorithm::Aes256Gcm16, true);
        let limit = EspAlgorithm::Aes256Gcm16.packet_limit();
        counter.next = AtomicU64::new(limit);
        assert_eq!(counter.reserve(1).unwrap().numbers, limit..limit + 1);
        assert_eq!(counter.reserve(1), Err(Exhausted { first: true }));
    }

    #[test]
    fn even_the_largest_counter_does_not_wrap() {
        let counter = SequenceCounter::starting_at(u64::MAX - 2, u64::MAX);
        assert_eq!(counter.reserve(1).unwrap().numbers, u64::MAX - 2..u64::MAX - 1);
        assert_eq!(counter.reserve(u32::MAX), Err(Exhausted { first: true }));
        assert_eq!(counter.reserve(1).unwrap().numbers, u64::MAX - 1..u64::MAX);
        assert_eq!(counter.reserve(1), Err(Exhausted { first: false }));
    }

    #[test]
    fn the_soft_limit_is_crossed_once() {
        let counter = SequenceCounter::starting_at(1, 1000);
        let crossed: Vec<u64> = (0..100)
            .filter_map(|_| counter.reserve(10).ok())
            .filter(|reservation| reservation.crossed_soft_limit)
            .map(|reservation| reservation.numbers.start)
            .collect();
        assert_eq!(crossed, [741]);
    }

    #[test]
    fn many_cores_never_get_the_same_number() {
        let counter = SequenceCounter::starting_at(1, 40_000);
        let take = || {
            let mut own = Vec::new();
            for n in (1..8).cycle() {
                match counter.reserve(n) {
                    Ok(reservation) => own.extend(reservation.numbers),
                    Err(_) if n == 1 => return own,
                    Err(_) => {}
                }
            }
            own
        };
        let mut all: Vec<u64> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        all.sort_unstable();
        assert_eq!(all, (1..=40_000).collect::<Vec<_>>());
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn two_cores_at_the_end_share_what_is_left_and_one_crosses_each_limit() {
        loom::model(|| {
            // Numbers 1 to 3; the soft limit is at 3.
            let counter = Arc::new(SequenceCounter::starting_at(1, 3));
            let take = |counter: Arc<SequenceCounter>| {
                let mut got = (Vec::new(), 0, 0);
                for _ in 0..2 {
                    match counter.reserve(1) {
                        Ok(reservation) => {
                            got.0.extend(reservation.numbers);
                            got.1 += u32::from(reservation.crossed_soft_limit);
                        }
                        Err(exhausted) => got.2 += u32::from(exhausted.first),
                    }
                }
                got
            };
            let other = {
                let counter = Arc::clone(&counter);
                loom::thread::spawn(move || take(counter))
            };
            let (mut numbers, soft, hard) = take(Arc::clone(&counter));
            let (theirs, their_soft, their_hard) = other.join().unwrap();
            numbers.extend(theirs);
            numbers.sort_unstable();
            assert_eq!((numbers, soft + their_soft, hard + their_hard), (vec![1, 2, 3], 1, 1));
        });
    }
}
