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
//!
//! So it is with the algorithms of `interop`: their cipher key is where the first round keys would be, and where the
//! powers would be are the two states of an HMAC that has absorbed its key.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::TAG_LEN;

/// How packets are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// AES-128-GCM with a 16-octet tag (RFC 4106). For this and the next, every engine has code of its own; all
    /// others are the same code in every engine, there for interoperability.
    Aes128Gcm,
    /// AES-256-GCM with a 16-octet tag (RFC 4106).
    Aes256Gcm,
    /// AES-128-GCM with a 12-octet tag (RFC 4106).
    Aes128Gcm12,
    /// AES-256-GCM with a 12-octet tag (RFC 4106).
    Aes256Gcm12,
    /// AES-128-GCM with an 8-octet tag (RFC 4106).
    Aes128Gcm8,
    /// AES-256-GCM with an 8-octet tag (RFC 4106).
    Aes256Gcm8,
    /// AES-128-GMAC without encryption (RFC 4543).
    Aes128Gmac,
    /// AES-256-GMAC without encryption (RFC 4543).
    Aes256Gmac,
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
    /// AES-CBC (RFC 3602), then an HMAC.
    AesCbc(Aes, Hmac),
    /// AES in counter mode (RFC 3686), then an HMAC.
    AesCtr(Aes, Hmac),
    /// No encryption (RFC 2410), and an HMAC.
    Null(Hmac),
}

/// AES by the length of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Aes {
    /// 16 octets.
    Aes128,
    /// 24 octets.
    Aes192,
    /// 32 octets.
    Aes256,
}

/// HMAC, cut to a tag (RFC 4868, RFC 2404).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hmac {
    /// HMAC-SHA1-96.
    Sha1,
    /// HMAC-SHA-256-128.
    Sha256,
    /// HMAC-SHA-384-192.
    Sha384,
    /// HMAC-SHA-512-256.
    Sha512,
}

impl Algorithm {
    /// Octets of key: those of the cipher, then those of the HMAC.
    pub const fn key_len(self) -> usize {
        match self.hmac() {
            Some(hmac) => self.cipher_key_len() + hmac.key_len(),
            None => self.cipher_key_len(),
        }
    }

    /// Octets of tag: 8, 12, 16, 24 or 32.
    pub const fn tag_len(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm | Self::ChaCha20Poly1305 => TAG_LEN,
            Self::Aes128Gmac | Self::Aes256Gmac => TAG_LEN,
            Self::Aes128Gcm12 | Self::Aes256Gcm12 => 12,
            Self::Aes128Gcm8 | Self::Aes256Gcm8 => 8,
            Self::AesCbc(_, hmac) | Self::AesCtr(_, hmac) | Self::Null(hmac) => hmac.tag_len(),
        }
    }

    /// Octets of IV with which each buffer begins, as the tag covers it: 8 or 16. 0 for the AEADs, whose nonce is
    /// covered already, and where there is none.
    pub const fn iv_len(self) -> usize {
        match self {
            Self::AesCbc(..) => 16,
            Self::AesCtr(..) | Self::Aes128Gmac | Self::Aes256Gmac => 8,
            _ => 0,
        }
    }

    pub(crate) const fn hmac(self) -> Option<Hmac> {
        match self {
            Self::AesCbc(_, hmac) | Self::AesCtr(_, hmac) | Self::Null(hmac) => Some(hmac),
            _ => None,
        }
    }

    pub(crate) const fn cipher_key_len(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes128Gcm12 | Self::Aes128Gcm8 | Self::Aes128Gmac => 16,
            Self::Aes256Gcm | Self::Aes256Gcm12 | Self::Aes256Gcm8 | Self::Aes256Gmac => 32,
            Self::ChaCha20Poly1305 => 32,
            Self::AesCbc(aes, _) | Self::AesCtr(aes, _) => aes.key_len(),
            Self::Null(_) => 0,
        }
    }
}

impl Aes {
    const fn key_len(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::Aes192 => 24,
            Self::Aes256 => 32,
        }
    }
}

impl Hmac {
    const fn key_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    const fn tag_len(self) -> usize {
        match self {
            Self::Sha1 => 12,
            _ => self.key_len() / 2,
        }
    }
}

/// What an engine finds in a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only fast engines expand keys"))]
pub(crate) enum Schedule {
    /// AES-128-GCM, the cipher key alone.
    Raw128,
    /// AES-256-GCM, the cipher key alone.
    Raw256,
    /// AES-128-GCM with all the powers and round keys.
    Aes128,
    /// AES-256-GCM with all the powers and round keys.
    Aes256,
    /// Another algorithm: for `interop`.
    Interop,
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
    #[zeroize(skip)]
    algorithm: Algorithm,
}

const _: () = assert!(size_of::<Key>() == 512 && align_of::<Key>() == 64);

impl Key {
    /// Holds the cipher key, and that of an HMAC prepared. `None` if the length does not fit the algorithm.
    pub(crate) fn raw(algorithm: Algorithm, key: &[u8]) -> Option<Self> {
        if key.len() != algorithm.key_len() {
            return None;
        }
        let schedule = match algorithm {
            Algorithm::Aes128Gcm => Schedule::Raw128,
            Algorithm::Aes256Gcm => Schedule::Raw256,
            _ => Schedule::Interop,
        };
        let (cipher, hmac) = key.split_at_checked(algorithm.cipher_key_len())?;
        let mut whole = Self { powers: [0; POWERS], rounds: [0; 15], schedule, algorithm };
        for (word, octets) in whole.rounds.iter_mut().zip(cipher.chunks(16)) {
            let mut padded = Zeroizing::new([0; 16]);
            padded.iter_mut().zip(octets).for_each(|(to, from)| *to = *from);
            *word = u128::from_ne_bytes(*padded);
        }
        if let Some(kind) = algorithm.hmac() {
            crate::hmac::prepare(kind, hmac, &mut whole.powers);
        }
        Some(whole)
    }

    /// Which of its octets a packet of AES-GCM with so much text needs, in whole cache lines: its powers of H lie at the end
    /// of the others.
    #[inline]
    pub fn needed(text: usize) -> std::ops::Range<usize> {
        // AAD and lengths besides.
        let powers = (text.div_ceil(size_of::<u128>()) + 2).min(POWERS);
        let unneeded = (POWERS - powers) * size_of::<u128>();
        unneeded / align_of::<Self>() * align_of::<Self>()..size_of::<Self>()
    }

    /// What it is for.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The cipher key, and zeros where it is shorter.
    pub(crate) fn cipher_key(&self) -> Zeroizing<[u8; 32]> {
        let [first, second, ..] = self.rounds;
        let words = Zeroizing::new([first.to_ne_bytes(), second.to_ne_bytes()]);
        let mut whole = Zeroizing::new([0; 32]);
        whole.iter_mut().zip(words.as_flattened()).for_each(|(to, from)| *to = *from);
        whole
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?}, …)", self.algorithm())
    }
}
