//! Maps and sets whose keys the engine makes itself: numbers that it counts up, SPIs of its own. Nobody else can choose such
//! keys so that they collide, so their hash need not resist that: it is one multiplication for each word. Whatever a peer has a
//! hand in (addresses, identities, messages) is hashed as the standard library does it.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// By a key of ours.
pub(super) type OwnMap<K, V> = HashMap<K, V, BuildHasherDefault<OwnHasher>>;
/// Of keys of ours.
pub(super) type OwnSet<K> = HashSet<K, BuildHasherDefault<OwnHasher>>;

/// Odd, and its bits as good as random: 2^64 divided by the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OwnHasher(u64);

impl OwnHasher {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    }
}

impl Hasher for OwnHasher {
    fn write(&mut self, octets: &[u8]) {
        for chunk in octets.chunks(8) {
            self.add(chunk.iter().fold(0, |word, octet| word << 8 | u64::from(*octet)));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.add(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.add(word as u64);
    }

    /// Tables look at the lowest bits first, and a product's highest are the ones that depend on all of its factor's.
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher as _, Hash};

    use super::*;
    use crate::engine::{IkeSaId, Owner};

    /// The most keys that have the same lowest twelve bits, which choose the place, or the same highest seven, which tell those in
    /// it apart.
    fn crowded<K: Hash>(keys: impl Iterator<Item = K>) -> [usize; 2] {
        let (mut low, mut high) = (vec![0; 1 << 12], vec![0; 1 << 7]);
        for key in keys {
            let hash = BuildHasherDefault::<OwnHasher>::default().hash_one(&key);
            low[(hash & 0xfff) as usize] += 1;
            high[(hash >> 57) as usize] += 1;
        }
        [low, high].map(|counts| counts.into_iter().max().unwrap())
    }

    #[test]
    fn keys_that_are_counted_up_spread_over_a_table() {
        let of_numbers = crowded(0_u64..1 << 12);
        let of_spis = crowded((0_u32..1 << 12).map(u32::to_be_bytes));
        let of_owners = crowded((0_u64..1 << 12).map(|id| Owner::Ike(IkeSaId(id))));
        for [low, high] in [of_numbers, of_spis, of_owners] {
            // 1 and 32 on average.
            assert!(low <= 8 && high <= 64, "{low} and {high}");
        }
    }
}
