//! Inbound SPIs: a keyed permutation of slot and generation, so that finding an SA is an index and not a search.
//!
//! Four Feistel rounds over 32 bits. It keeps whoever knows some SPIs from naming the next one, and spreads them
//! over the whole space, as RFC 7296 §2.6 wishes for; it is not a cipher and need not be, for SPIs travel in clear
//! and what arrives under a guessed one still has to pass the ICV.

use portcullis_ipsec::Spi;

use super::table::Handle;

/// Translates between SPIs and handles.
#[derive(Debug, Clone)]
pub struct SpiCodec {
    rounds: [(u64, u64); 4],
    slot_bits: u32,
}

/// Most slots a codec can name: leaves ten bits of generation.
pub const MAX_SLOTS: u32 = 1 << 22;

impl SpiCodec {
    /// For `slots` slots (at most [`MAX_SLOTS`]), with a random key of this boot.
    pub fn new(slots: u32, key: [u8; 16]) -> Self {
        let slot_bits = slots.clamp(2, MAX_SLOTS).next_power_of_two().trailing_zeros();
        let key = u128::from_le_bytes(key);
        let mut seeds = [key as u64, (key >> 64) as u64];
        // Round keys by the SplitMix64 generator from both halves of the key.
        let mut next = || {
            seeds = seeds.map(|seed| seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
            let [a, b] = seeds.map(splitmix);
            a ^ b.rotate_left(32)
        };
        let rounds = std::array::from_fn(|_| (next(), next() | 1));
        Self { rounds, slot_bits }
    }

    /// Bits of generation in an SPI: a slot's names come again after `2^bits` uses.
    pub fn generation_bits(&self) -> u32 {
        32 - self.slot_bits
    }

    /// The SPI of that handle; `None` if it falls among the reserved ones, 0 to 255.
    pub fn encode(&self, handle: Handle) -> Option<Spi> {
        let index = handle.generation << self.slot_bits | handle.slot;
        let (mut left, mut right) = ((index >> 16) as u16, index as u16);
        for key in self.rounds {
            (left, right) = (right, left ^ round(right, key));
        }
        Spi::new(u32::from(left) << 16 | u32::from(right))
    }

    /// The handle that would have this SPI. Every SPI has one; whether it is live, the table knows.
    #[inline]
    pub fn decode(&self, spi: u32) -> Handle {
        let (mut left, mut right) = ((spi >> 16) as u16, spi as u16);
        for &key in self.rounds.iter().rev() {
            (left, right) = (right ^ round(left, key), left);
        }
        let index = u32::from(left) << 16 | u32::from(right);
        Handle { slot: index & ((1 << self.slot_bits) - 1), generation: index >> self.slot_bits }
    }
}

#[inline]
fn round(half: u16, (add, multiply): (u64, u64)) -> u16 {
    let product = u128::from(u64::from(half) ^ add) * u128::from(multiply);
    let folded = (product >> 64) as u64 ^ product as u64;
    (folded >> 32) as u16 ^ folded as u16
}

fn splitmix(seed: u64) -> u64 {
    let z = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_handle_comes_back_from_its_spi(
            key: [u8; 16], slots in 1..=MAX_SLOTS, slot: u32, generation: u32,
        ) {
            let codec = SpiCodec::new(slots, key);
            let generation = generation & (u32::MAX >> (32 - codec.generation_bits()));
            let handle = Handle { slot: slot % slots, generation };
            if let Some(spi) = codec.encode(handle) {
                prop_assert!(spi.get() > 255);
                prop_assert_eq!(codec.decode(spi.get()), handle);
            }
        }

        #[test]
        fn every_spi_that_could_arrive_has_a_handle_of_its_own(key: [u8; 16], spi in 256_u32..) {
            let codec = SpiCodec::new(1000, key);
            prop_assert_eq!(codec.encode(codec.decode(spi)).map(Spi::get), Some(spi));
        }
    }

    #[test]
    fn the_reserved_spis_belong_to_handles_that_get_none() {
        let codec = SpiCodec::new(1 << 16, [7; 16]);
        for reserved in 0..=255 {
            assert_eq!(codec.encode(codec.decode(reserved)), None);
        }
    }

    /// A permutation that let the next SPI be told from the last would have few distinct steps between neighbours.
    #[test]
    fn neighbouring_handles_have_unrelated_spis() {
        let codec = SpiCodec::new(1 << 12, *b"a key for tests.");
        let spi = |slot, generation| codec.encode(Handle { slot, generation }).map_or(0, Spi::get);
        for step in [(1, 0), (0, 1)] {
            let mut steps: Vec<u32> =
                (0..4000).map(|n| spi(n + step.0, 1 + step.1).wrapping_sub(spi(n, 1))).collect();
            steps.sort_unstable();
            steps.dedup();
            assert!(steps.len() > 3990, "{} distinct steps", steps.len());
            let bits: u32 = (0..4000).map(|n| (spi(n + step.0, 1 + step.1) ^ spi(n, 1)).count_ones()).sum();
            assert!((15 * 4000..17 * 4000).contains(&bits), "{bits} bits change in 4000 steps");
        }
    }

    #[test]
    fn another_key_gives_other_spis() {
        let handles = (0..1000).map(|slot| Handle { slot, generation: 1 });
        let (a, b) = (SpiCodec::new(1000, [1; 16]), SpiCodec::new(1000, [2; 16]));
        assert!(handles.filter(|&handle| a.encode(handle) == b.encode(handle)).count() < 3);
    }
}
