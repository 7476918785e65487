//! What an SA keeps in memory: 512 octets, in a layout that every engine shares.
//!
//! | octets | |
//! |---|---|
//! | 0..256 | H^16 down to H^1, one after another, each times x and in the byte order of the multiplier, so that a packet of n blocks reads its powers in one run that ends at H^1 |
//! | 256..496 | the round keys, 11 (AES-128) or 15 (AES-256) of them |
//! | 496..512 | the algorithm, and whether the above has been computed |
//!
//! Eight cache lines; a packet of 64 octets touches six. The first round keys are the cipher key itself
//! (FIPS 197 §5.2), which is all that the portable engine needs or fills in.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A cipher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Algorithm {
    /// AES-128-GCM with a 16-octet tag.
    Aes128Gcm,
    /// AES-256-GCM with a 16-octet tag.
    Aes256Gcm,
}

impl Algorithm {
    /// Octets of key.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm => 32,
        }
    }
}

/// The algorithm, and whether all the powers and round keys are there or only the cipher key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only fast engines expand keys"))]
pub(crate) enum Schedule {
    Raw128,
    Raw256,
    Aes128,
    Aes256,
}

/// Powers of H that a key holds: one multiplication pass covers that many blocks.
pub(crate) const POWERS: usize = 16;

/// A key, expanded once per SA. Pointer-free, zeroized on drop, never printed.
#[derive(Zeroize, ZeroizeOnDrop)]
#[repr(C, align(64))]
pub struct Key {
    pub(crate) powers: [u128; POWERS],
    pub(crate) rounds: [u128; 15],
    #[zeroize(skip)]
    pub(crate) schedule: Schedule,
}

const _: () = assert!(size_of::<Key>() == 512 && align_of::<Key>() == 64);

impl Key {
    /// Holds the cipher key alone. `None` if its length does not fit the algorithm.
    pub(crate) fn raw(algorithm: Algorithm, key: &[u8]) -> Option<Self> {
        if key.len() != algorithm.key_len() {
            return None;
        }
        let schedule = match algorithm {
            Algorithm::Aes128Gcm => Schedule::Raw128,
            Algorithm::Aes256Gcm => Schedule::Raw256,
        };
        let mut rounds = [0; 15];
        for (word, octets) in rounds.iter_mut().zip(key.as_chunks().0) {
            *word = u128::from_ne_bytes(*octets);
        }
        Some(Self { powers: [0; POWERS], rounds, schedule })
    }

    /// The cipher.
    pub fn algorithm(&self) -> Algorithm {
        match self.schedule {
            Schedule::Raw128 | Schedule::Aes128 => Algorithm::Aes128Gcm,
            Schedule::Raw256 | Schedule::Aes256 => Algorithm::Aes256Gcm,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?}, …)", self.algorithm())
    }
}
