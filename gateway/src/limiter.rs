//! Rates: token buckets that belong to policies, so that a rekey begins none anew, and that SAs name by number, having no
//! pointers in them. Those of a tenant's device lie above those of its policies: what a policy's bucket has room for must
//! find room in its device's too.
//!
//! A bucket is one word: until when what has passed is paid for (the generic cell rate algorithm's theoretical arrival
//! time). So workers share one without a lock, and a changed rate is two stores. The clock is read at most once a batch, and
//! only where a packet's SA has a rate.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use portcullis_ipsec::{InstallError, RateLimit, RateLimits};

use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Line, Ordering};

/// A moment: 64ths of a nanosecond since some origin. An octet at 100 Gbit/s takes 5.12 of them; they last for 9 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Ticks(u64);

impl Ticks {
    /// So many nanoseconds after the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos.saturating_mul(64))
    }
}

/// Ticks in a second, and bits in an octet.
const TICKS: u128 = 64_000_000_000;
const OCTET: u128 = 8;
/// The time of an octet is kept in fractions of a tick, so many bits of them.
const FRACTION: u32 = 20;

/// Names a limiter in an SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LimiterIndex(NonZeroU32);

impl LimiterIndex {
    /// From [`LimiterIndex::word`].
    #[inline]
    pub(crate) fn from_word(word: u32) -> Option<Self> {
        NonZeroU32::new(word).map(Self)
    }

    /// As a word that is never 0.
    pub(crate) fn word(self) -> u32 {
        self.0.get()
    }

    fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// One direction's bucket.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// Until when what has passed is paid for, in ticks. A bucket is full when that has gone by.
    paid: AtomicU64,
    /// Ticks of an octet, with [`FRACTION`]; 0 is no limit.
    octet: AtomicU64,
    /// How far ahead of now it may be paid for, in ticks: the burst.
    ahead: AtomicU64,
    /// Packets that found too little in it.
    refused: AtomicU64,
}

impl Bucket {
    /// Has another rate from now on, and is full. The same rate changes nothing.
    fn set(&self, limit: Option<RateLimit>) {
        let (octet, ahead) = limit.map_or((0, 0), |limit| {
            let octet = ((TICKS * OCTET) << FRACTION) / u128::from(limit.bits_per_second.get());
            let octet = u64::try_from(octet).unwrap_or(u64::MAX).max(1);
            (octet, cost(octet, limit.burst.get().into()))
        });
        let known = (self.octet.load(Ordering::Relaxed), self.ahead.load(Ordering::Relaxed));
        if known != (octet, ahead) {
            // A worker that sees half of it lets one batch more or less through.
            self.ahead.store(ahead, Ordering::Relaxed);
            self.octet.store(octet, Ordering::Relaxed);
            self.paid.store(0, Ordering::Relaxed);
        }
    }

    /// Takes the octets of a packet out, if there are as many; whether there were.
    pub(crate) fn take(&self, octets: usize, now: Ticks) -> bool {
        let octet = self.octet.load(Ordering::Relaxed);
        if octet == 0 {
            return true;
        }
        let until = now.0.saturating_add(self.ahead.load(Ordering::Relaxed));
        let pay = |paid: u64| {
            let paid = paid.max(now.0).saturating_add(cost(octet, octets as u64));
            (paid <= until).then_some(paid)
        };
        // Relaxed: the word stands for itself.
        let taken = self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).is_ok();
        if !taken {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Puts back what was taken and did not pass after all.
    fn give_back(&self, octets: usize) {
        let cost = cost(self.octet.load(Ordering::Relaxed), octets as u64);
        let _ = self
            .paid
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid| Some(paid.saturating_sub(cost)));
    }

    /// Takes out what has passed already, there or not.
    fn charge(&self, octets: u64, now: Ticks) {
        let octet = self.octet.load(Ordering::Relaxed);
        let pay = |paid: u64| Some(paid.max(now.0).saturating_add(cost(octet, octets)));
        let _ = self.paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
    }
}

/// What octets cost, in ticks, rounded up.
fn cost(octet: u64, octets: u64) -> u64 {
    let fractions = u128::from(octet) * u128::from(octets);
    u64::try_from(fractions.div_ceil(1 << FRACTION)).unwrap_or(u64::MAX)
}

/// Both buckets of a policy, each on lines of its own.
#[derive(Debug)]
pub(crate) struct Limiter {
    inbound: Line<Bucket>,
    outbound: Line<Bucket>,
    /// What limits it and others together, as a word; 0 is nothing.
    above: AtomicU32,
    taken: AtomicBool,
}

impl Limiter {
    fn empty() -> Self {
        let bucket = || Line(Bucket::default());
        let (above, taken) = (AtomicU32::new(0), AtomicBool::new(false));
        Self { inbound: bucket(), outbound: bucket(), above, taken }
    }

    /// Of what comes out of the tunnel.
    fn inbound(&self) -> &Bucket {
        &self.inbound.0
    }

    /// Of what goes into it.
    fn outbound(&self) -> &Bucket {
        &self.outbound.0
    }
}

/// One direction of what limits an SA: its policy's bucket, and the one above.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Buckets<'l> {
    own: &'l Bucket,
    above: Option<&'l Bucket>,
}

impl Buckets<'_> {
    /// Takes the octets of a packet out of both, if there are as many; whether there were.
    pub(crate) fn take(&self, octets: usize, now: Ticks) -> bool {
        if !self.own.take(octets, now) {
            return false;
        }
        let taken = self.above.is_none_or(|above| above.take(octets, now));
        if !taken {
            self.own.give_back(octets);
            self.own.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }
}

/// The time in [`Ticks`].
type Clock = Box<dyn Fn() -> Ticks + Send + Sync>;

/// The limiters of all policies that have rates. Their memory is taken when the first one is wanted.
pub struct Limiters {
    limiters: OnceLock<Box<[Limiter]>>,
    capacity: usize,
    /// Where the next free one is looked for.
    next: AtomicU64,
    clock: Clock,
}

impl Limiters {
    pub(crate) fn new(capacity: usize) -> Self {
        let since = Instant::now();
        let clock = move || Ticks::from_nanos(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX));
        Self { limiters: OnceLock::new(), capacity, next: AtomicU64::new(0), clock: Box::new(clock) }
    }

    /// With a clock that does not go back.
    pub(crate) fn with_clock(self, clock: impl Fn() -> Ticks + Send + Sync + 'static) -> Self {
        Self { clock: Box::new(clock), ..self }
    }

    /// The time now.
    pub(crate) fn now(&self) -> Ticks {
        (self.clock)()
    }

    /// What limits what comes out of the tunnel of an SA that names this limiter.
    pub(crate) fn inbound(&self, index: LimiterIndex) -> Option<Buckets<'_>> {
        self.buckets(index, Limiter::inbound)
    }

    /// The same of what goes into it.
    pub(crate) fn outbound(&self, index: LimiterIndex) -> Option<Buckets<'_>> {
        self.buckets(index, Limiter::outbound)
    }

    fn buckets(&self, index: LimiterIndex, side: fn(&Limiter) -> &Bucket) -> Option<Buckets<'_>> {
        let own = self.get(index)?;
        let above = LimiterIndex::from_word(own.above.load(Ordering::Relaxed));
        Some(Buckets { own: side(own), above: above.and_then(|above| self.get(above)).map(side) })
    }

    fn get(&self, index: LimiterIndex) -> Option<&Limiter> {
        self.limiters.get()?.get(index.place())
    }

    /// A free one, without a limit. Callers take turns: they hold the installer's lock.
    fn allocate(self: &Arc<Self>) -> Option<LimiterOwner> {
        let empty = || (0..self.capacity).map(|_| Limiter::empty()).collect();
        let limiters = self.limiters.get_or_init(empty);
        let first = self.next.load(Ordering::Relaxed) as usize;
        let mut places = (first..limiters.len()).chain(0..first);
        // Acquire: whoever had it before does not use it any more.
        let is_free = |limiter: &Limiter| !limiter.taken.swap(true, Ordering::Acquire);
        let place = places.find(|place| limiters.get(*place).is_some_and(is_free))?;
        self.next.store(place as u64 + 1, Ordering::Relaxed);
        let limiter = limiters.get(place)?;
        for bucket in [limiter.inbound(), limiter.outbound()] {
            bucket.set(None);
            bucket.refused.store(0, Ordering::Relaxed);
        }
        limiter.above.store(0, Ordering::Relaxed);
        let index = NonZeroU32::new(u32::try_from(place).ok()?.checked_add(1)?)?;
        Some(LimiterOwner { limiters: Arc::clone(self), index: LimiterIndex(index) })
    }
}

impl fmt::Debug for Limiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Limiters(of {})", self.capacity)
    }
}

/// What a policy holds for as long as it, or an SA of it, is there.
struct LimiterOwner {
    limiters: Arc<Limiters>,
    index: LimiterIndex,
}

impl Drop for LimiterOwner {
    /// Also on a worker, if it held the last snapshot with the policy: nothing here waits.
    fn drop(&mut self) {
        if let Some(limiter) = self.limiters.get(self.index) {
            limiter.taken.store(false, Ordering::Release);
        }
    }
}

/// A policy's limiter, if it ever had a rate.
#[derive(Default)]
pub(crate) struct PolicyLimiter(OnceLock<LimiterOwner>);

impl PolicyLimiter {
    /// Puts rates in force, below what limits this and others together, and says what SAs call the limiter.
    pub(crate) fn set(
        &self,
        limiters: &Arc<Limiters>,
        limits: RateLimits,
        above: Option<LimiterIndex>,
    ) -> Result<Option<LimiterIndex>, InstallError> {
        if self.0.get().is_none() {
            if limits == RateLimits::default() && above.is_none() {
                return Ok(None);
            }
            let owner = limiters.allocate().ok_or(InstallError::TableFull { capacity: limiters.capacity })?;
            // Nobody else sets it meanwhile.
            let _ = self.0.set(owner);
        }
        let Some(limiter) = self.limiter() else { return Ok(None) };
        limiter.inbound().set(limits.inbound);
        limiter.outbound().set(limits.outbound);
        limiter.above.store(above.map_or(0, LimiterIndex::word), Ordering::Relaxed);
        Ok(self.0.get().map(|owner| owner.index))
    }

    /// An SA has carried octets before it was known whose it is.
    pub(crate) fn charge_inbound(&self, octets: u64) {
        if let (Some(owner), Some(limiter)) = (self.0.get(), self.limiter()) {
            limiter.inbound().charge(octets, owner.limiters.now());
        }
    }

    /// Packets that were refused, inbound and outbound.
    pub(crate) fn refused(&self) -> (u64, u64) {
        let refused = |bucket: &Bucket| bucket.refused.load(Ordering::Relaxed);
        let limiter = self.limiter();
        limiter.map_or((0, 0), |limiter| (refused(limiter.inbound()), refused(limiter.outbound())))
    }

    fn limiter(&self) -> Option<&Limiter> {
        let owner = self.0.get()?;
        owner.limiters.get(owner.index)
    }
}

impl fmt::Debug for PolicyLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PolicyLimiter").field(&self.limiter()).finish()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn limit(bits: u64, burst: u32) -> Option<RateLimit> {
        Some(RateLimit { bits_per_second: bits.try_into().unwrap(), burst: burst.try_into().unwrap() })
    }

    fn second(seconds: u64) -> Ticks {
        Ticks::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn what_passes_is_the_burst_and_then_the_rate() {
        for (bits, octets) in [(8_000, 100), (100_000_000, 1400), (100_000_000_000, 64)] {
            let bucket = Bucket::default();
            bucket.set(limit(bits, 50_000));
            let start = second(1);
            let passes = |now: Ticks| {
                (0..100_000 / octets).take_while(|_| bucket.take(octets as usize, now)).count() as u64
            };
            // Costs are rounded up: less than one in two hundred is lost by that.
            let burst = 50_000 / octets;
            let about = burst - burst / 200 - 1..=burst;
            assert!(about.contains(&passes(start)), "{bits}");
            // A burst again after a pause of any length, and no more.
            assert!(about.contains(&passes(second(1_000_000))), "{bits}");
        }
    }

    #[test]
    fn a_busy_bucket_lets_the_rate_through() {
        let bucket = Bucket::default();
        bucket.set(limit(10_000_000, 4096));
        // A packet every 100 microseconds: 112 Mbit/s.
        let passed = (0..100_000).filter(|at| bucket.take(1400, Ticks::from_nanos(at * 100_000))).count();
        // 10 s of it, and the burst.
        let most = (12_500_000 + 4096) / 1400;
        assert!((most - 1..=most).contains(&passed), "{passed}");
    }

    #[test]
    fn another_rate_begins_full_and_the_same_one_goes_on() {
        let bucket = Bucket::default();
        bucket.set(limit(8_000, 4096));
        assert!(bucket.take(4096, second(1)));
        bucket.set(limit(8_000, 4096));
        assert!(!bucket.take(4096, second(1)));
        bucket.set(limit(16_000, 4096));
        assert!(bucket.take(4096, second(1)));
        bucket.set(None);
        assert!((0..100).all(|_| bucket.take(4096, second(1))));
    }

    #[test]
    fn a_limiter_is_free_again_when_its_owner_has_gone() {
        let limiters = Arc::new(Limiters::new(2));
        let rates = RateLimits { outbound: limit(8_000, 4096), inbound: None };
        let take = || {
            let policy = PolicyLimiter::default();
            policy.set(&limiters, rates, None).map(|index| (policy, index.unwrap()))
        };
        let (first, _second) = (take().unwrap(), take().unwrap());
        assert_eq!(take().err(), Some(InstallError::TableFull { capacity: 2 }));
        let bucket = limiters.outbound(first.1).unwrap();
        assert!(bucket.take(4096, second(1)) && !bucket.take(4096, second(1)));
        let index = first.1;
        drop(first);
        let third = take().unwrap();
        assert_eq!((third.1, third.0.refused()), (index, (0, 0)));
        assert!(limiters.outbound(index).unwrap().take(4096, second(1)), "it begins full");
    }

    #[test]
    fn what_lies_above_limits_all_below_it_together_and_takes_nothing_from_them() {
        let limiters = Arc::new(Limiters::new(3));
        let rates = |burst| RateLimits { outbound: limit(8_000, burst), inbound: None };
        let (device, first, second_policy) =
            (PolicyLimiter::default(), PolicyLimiter::default(), PolicyLimiter::default());
        let above = device.set(&limiters, rates(4096), None).unwrap();
        let first_index = first.set(&limiters, rates(8192), above).unwrap().unwrap();
        let second_index = second_policy.set(&limiters, RateLimits::default(), above).unwrap().unwrap();
        let take = |index, octets| limiters.outbound(index).unwrap().take(octets, second(1));
        assert!(take(first_index, 2048) && take(second_index, 2048));
        // The device has no more; the policy keeps what it has.
        assert!(!take(first_index, 2048) && !take(second_index, 1));
        assert_eq!((device.refused(), first.refused(), second_policy.refused()), ((0, 2), (0, 1), (0, 1)));
        assert!(limiters.inbound(first_index).unwrap().take(1 << 20, second(1)));
        device.set(&limiters, rates(16_384), None).unwrap();
        assert!(take(first_index, 6144) && !take(first_index, 2048), "what it had, and no more");
        first.set(&limiters, rates(8192), None).unwrap();
        assert!(!take(first_index, 2048), "its own rate goes on");
    }
}
