//! How long it takes to bring an IKE SA up: from its first IKE_SA_INIT message, seen on the wire in either direction,
//! to its establishment. Only headers are looked at (RFC 7296 §3.1), and as much is remembered as a flood leaves.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Handshakes under way that are remembered. Of more, the oldest are forgotten, and not measured.
const REMEMBERED: usize = 16_384;
/// RFC 7296 §3.1.
const IKE_SA_INIT: u8 = 34;
const EXCHANGE_TYPE_AT: usize = 18;

/// Upper bounds of the histogram's buckets, in seconds.
pub(crate) const BOUNDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Handshakes under way, by the initiator's SPI.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    begun: HashMap<[u8; 8], Instant>,
    order: VecDeque<[u8; 8]>,
}

impl Handshakes {
    /// An IKE message went by.
    pub(super) fn saw(&mut self, now: Instant, message: &[u8]) {
        let Some(spi) = message.first_chunk::<8>() else { return };
        if message.get(EXCHANGE_TYPE_AT) != Some(&IKE_SA_INIT) || self.begun.contains_key(spi) {
            return;
        }
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.begun.remove(&oldest);
        }
        self.begun.insert(*spi, now);
        self.order.push_back(*spi);
    }

    /// The IKE SA of that initiator's SPI is up: how long it took. `None` if it did not begin with IKE_SA_INIT, or too
    /// long ago.
    pub(super) fn established(&mut self, now: Instant, spi: [u8; 8]) -> Option<Duration> {
        // Its place in the order goes when it is the oldest.
        self.begun.remove(&spi).map(|begun| now.duration_since(begun))
    }
}

/// Durations by bucket; what Prometheus calls a histogram.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    /// By upper bound, each for itself; the last one is beyond all bounds.
    buckets: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Histogram {
    pub(super) fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.sum += duration;
    }

    /// Adds what others have seen.
    pub(super) fn add(&mut self, other: &Self) {
        for (count, more) in self.buckets.iter_mut().zip(other.buckets) {
            *count += more;
        }
        self.sum += other.sum;
    }

    /// Sum in seconds, count, and buckets with their upper bounds.
    pub(crate) fn parts(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets = bounds.zip(self.buckets);
        (self.sum.as_secs_f64(), self.buckets.iter().sum(), buckets.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(spi: u64) -> Vec<u8> {
        let mut message = spi.to_be_bytes().to_vec();
        message.resize(28, 0);
        message[EXCHANGE_TYPE_AT] = IKE_SA_INIT;
        message
    }

    #[test]
    fn a_handshake_is_measured_from_its_first_message_however_often_that_is_sent() {
        let (mut handshakes, start) = (Handshakes::default(), Instant::now());
        handshakes.saw(start, &init(7));
        handshakes.saw(start + Duration::from_secs(4), &init(7));
        let established = handshakes.established(start + Duration::from_secs(5), 7_u64.to_be_bytes());
        assert_eq!(established, Some(Duration::from_secs(5)));
        assert_eq!(handshakes.established(start, 7_u64.to_be_bytes()), None, "once");
    }

    #[test]
    fn other_exchanges_and_stumps_begin_nothing() {
        let (mut handshakes, now) = (Handshakes::default(), Instant::now());
        let mut auth = init(7);
        auth[EXCHANGE_TYPE_AT] = 35;
        handshakes.saw(now, &auth);
        handshakes.saw(now, &[1; 7]);
        handshakes.saw(now, &[1; 18]);
        assert!(handshakes.begun.is_empty());
    }

    #[test]
    fn a_flood_takes_bounded_memory() {
        let (mut handshakes, now) = (Handshakes::default(), Instant::now());
        for spi in 0..100_000 {
            handshakes.saw(now, &init(spi));
            handshakes.established(now, (spi / 2).to_be_bytes());
        }
        assert!(handshakes.begun.len() <= REMEMBERED && handshakes.order.len() <= REMEMBERED);
    }

    #[test]
    fn what_two_have_seen_is_what_one_would_have() {
        let mut histograms = [Histogram::default(), Histogram::default(), Histogram::default()];
        for (number, millis) in [3, 700, 40_000].into_iter().enumerate() {
            histograms[number % 2].observe(Duration::from_millis(millis));
            histograms[2].observe(Duration::from_millis(millis));
        }
        let [mut one, other, all] = histograms;
        one.add(&other);
        assert_eq!(one.parts(), all.parts());
    }

    #[test]
    fn every_duration_is_in_one_bucket() {
        let mut histogram = Histogram::default();
        for millis in [1, 5, 6, 40_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let (sum, count, buckets) = histogram.parts();
        assert_eq!((sum, count), (40.012, 4));
        assert_eq!(buckets[..2], [(0.005, 2), (0.01, 1)]);
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, 1)));
    }
}
