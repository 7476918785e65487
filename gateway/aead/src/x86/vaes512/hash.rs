//! GHASH on vectors of four blocks: sums of products, and their reduction.

use std::arch::x86_64::*;

use super::super::block::{POLYNOMIAL, REVERSE, load};
use super::pin;

/// Sums of products before their reduction, four side by side.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    pub(super) low: __m512i,
    pub(super) middle: __m512i,
    pub(super) high: __m512i,
}

impl Sum {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn none() -> Self {
        let zero = _mm512_setzero_si512();
        Self { low: zero, middle: zero, high: zero }
    }

    /// One product.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn of(blocks: __m512i, powers: __m512i) -> Self {
        Self {
            low: _mm512_clmulepi64_epi128::<0x00>(blocks, powers),
            middle: _mm512_xor_si512(
                _mm512_clmulepi64_epi128::<0x01>(blocks, powers),
                _mm512_clmulepi64_epi128::<0x10>(blocks, powers),
            ),
            high: _mm512_clmulepi64_epi128::<0x11>(blocks, powers),
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn add(&mut self, blocks: __m512i, powers: __m512i) {
        self.low = _mm512_xor_si512(self.low, _mm512_clmulepi64_epi128::<0x00>(blocks, powers));
        self.middle = xor3(
            self.middle,
            _mm512_clmulepi64_epi128::<0x01>(blocks, powers),
            _mm512_clmulepi64_epi128::<0x10>(blocks, powers),
        );
        self.high = _mm512_xor_si512(self.high, _mm512_clmulepi64_epi128::<0x11>(blocks, powers));
    }

    /// Two products, with two additions fewer than one after the other.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn add_two(&mut self, blocks: [__m512i; 2], powers: [__m512i; 2]) {
        macro_rules! add {
            ($to:ident, $halves:literal) => {
                self.$to = pin(xor3(
                    self.$to,
                    _mm512_clmulepi64_epi128::<$halves>(blocks[0], powers[0]),
                    _mm512_clmulepi64_epi128::<$halves>(blocks[1], powers[1]),
                ));
            };
        }
        add!(low, 0x00);
        add!(middle, 0x01);
        add!(middle, 0x10);
        add!(high, 0x11);
    }

    /// Reduces each of the four.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn reduce(self) -> __m512i {
        let polynomial = _mm512_broadcast_i32x4(load(&POLYNOMIAL));
        let folded = _mm512_clmulepi64_epi128::<0x01>(polynomial, self.low);
        let middle = xor3(self.middle, folded, _mm512_shuffle_epi32::<0x4e>(self.low));
        let folded = _mm512_clmulepi64_epi128::<0x01>(polynomial, middle);
        xor3(self.high, folded, _mm512_shuffle_epi32::<0x4e>(middle))
    }

    /// Reduces each of the four, then adds them up.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn total(self) -> __m128i {
        let four = self.reduce();
        let two = _mm256_xor_si256(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64::<1>(four));
        _mm_xor_si128(_mm256_castsi256_si128(two), _mm256_extracti128_si256::<1>(two))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
pub(super) fn xor3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0x96>(a, b, c)
}

/// Between the octet orders of memory and of the multiplier.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
pub(super) fn reverse(blocks: __m512i) -> __m512i {
    _mm512_shuffle_epi8(blocks, _mm512_broadcast_i32x4(load(&REVERSE)))
}

/// The same of octets that count; the mask is of the result. The others become zero.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
pub(super) fn reverse_of(octets: u64, blocks: __m512i) -> __m512i {
    _mm512_maskz_shuffle_epi8(octets, blocks, _mm512_broadcast_i32x4(load(&REVERSE)))
}
