//! Sixteen octets at a time: what the engines of this architecture share of AES and GHASH.
//!
//! GHASH's bits run the other way than the multiplier's. Blocks are therefore reversed octet by octet, and each
//! power of H is held times x, which makes up for the bit by which a product of reversed operands is short. What is
//! left is a reduction modulo x^128 + x^127 + x^126 + x^121 + 1.
#![expect(unsafe_code, reason = "vectors are read from and written to memory")]

use std::arch::x86_64::*;

/// The polynomial of GHASH, reversed, without its highest term.
pub(super) const POLYNOMIAL: u128 = 0xc200_0000_0000_0000_0000_0000_0000_0001;

/// Reverses the octets of a block.
pub(super) const REVERSE: u128 = 0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f;

#[inline]
pub(super) fn load(word: &u128) -> __m128i {
    // SAFETY: reads the sixteen octets of `word`.
    unsafe { _mm_loadu_si128(std::ptr::from_ref(word).cast()) }
}

#[inline]
pub(super) fn store(word: &mut u128, value: __m128i) {
    // SAFETY: writes the sixteen octets of `word`.
    unsafe { _mm_storeu_si128(std::ptr::from_mut(word).cast(), value) }
}

/// A product, or a sum of products, before its reduction: low, middle (to be added 64 bits up) and high.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub(super) low: __m128i,
    pub(super) middle: __m128i,
    pub(super) high: __m128i,
}

impl Product {
    #[target_feature(enable = "pclmulqdq")]
    #[inline]
    pub(super) fn of(a: __m128i, b: __m128i) -> Self {
        Self {
            low: _mm_clmulepi64_si128::<0x00>(a, b),
            middle: _mm_xor_si128(_mm_clmulepi64_si128::<0x01>(a, b), _mm_clmulepi64_si128::<0x10>(a, b)),
            high: _mm_clmulepi64_si128::<0x11>(a, b),
        }
    }

    /// Folds the lowest 128 bits into the rest, 64 at a time.
    #[target_feature(enable = "pclmulqdq")]
    #[inline]
    pub(super) fn reduce(self) -> __m128i {
        let polynomial = load(&POLYNOMIAL);
        let folded = _mm_clmulepi64_si128::<0x01>(polynomial, self.low);
        let middle = _mm_xor_si128(_mm_xor_si128(self.middle, _mm_shuffle_epi32::<0x4e>(self.low)), folded);
        let folded = _mm_clmulepi64_si128::<0x01>(polynomial, middle);
        _mm_xor_si128(_mm_xor_si128(self.high, _mm_shuffle_epi32::<0x4e>(middle)), folded)
    }
}

/// a · b; one of them times x.
#[target_feature(enable = "pclmulqdq")]
#[inline]
pub(super) fn multiply(a: __m128i, b: __m128i) -> __m128i {
    Product::of(a, b).reduce()
}
