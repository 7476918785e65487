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
