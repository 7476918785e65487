//! As many powers of H as the packets of a run ask for, in the order in which pairs of vectors meet them.
//!
//! A product of two halves by two halves takes three multiplications in place of four (Karatsuba): low by low, high by
//! high, and the sum of both by the sum of both, from which the other two are taken away at the end ([`Sums::sum`]). Two
//! vectors are multiplied together: their low halves in one vector, their high halves in another, so that what is to be
//! added up is whole vectors.
#![expect(
    unsafe_code,
    reason = "vectors are read from and written to a table that is filled as far as it is used"
)]
#![expect(clippy::indexing_slicing, reason = "indices are constants, or vectors of the table")]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::hash::{Sum, reverse, xor3};
use super::{LANES, pin, power};
use crate::Key;
use crate::key::POWERS;

/// The highest power that there can be: those of eight vectors, of four blocks behind them and of the lengths, and what
/// fills the last vector.
const MOST: usize = LANES * STEP + 8;

/// Vectors that meet their powers together, at most.
pub(super) const STEP: usize = 8;

/// A half of each power, from the highest down, and beside it that of the power four below, which the next vector meets.
type Halves = [MaybeUninit<__m512i>; MOST / LANES];

pub(super) struct Powers {
    low: Halves,
    high: Halves,
    both: Halves,
}

impl Powers {
    /// Without any.
    #[inline]
    pub(super) fn new() -> Self {
        let nothing = const { [const { MaybeUninit::uninit() }; MOST / LANES] };
        Self { low: nothing, high: nothing, both: nothing }
    }

    /// H^`highest` and all below.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn fill(&mut self, key: &Key, highest: usize) {
        let mut below = _mm512_setzero_si512();
        let mut vectors = [below; POWERS / LANES];
        for (at, place) in (0..MOST / LANES).rev().enumerate().take(highest.div_ceil(LANES)) {
            let vector = &mut vectors[at % (POWERS / LANES)];
            *vector = if at < POWERS / LANES {
                // SAFETY: four of the key's sixteen powers.
                unsafe { _mm512_loadu_si512(key.powers.as_ptr().add(POWERS - LANES * (at + 1)).cast()) }
            } else {
                Sum::of(*vector, power(key, POWERS)).reduce()
            };
            let (low, high) = (_mm512_unpacklo_epi64(*vector, below), _mm512_unpackhi_epi64(*vector, below));
            self.low[place].write(low);
            self.high[place].write(high);
            self.both[place].write(_mm512_xor_si512(low, high));
            below = *vector;
        }
    }
}

/// From that power on down.
///
/// # Safety
/// The table was made with that power, and it is at least H^4.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
unsafe fn from(halves: &Halves, power: usize) -> __m512i {
    // SAFETY: by contract, four powers and what is beside them.
    unsafe { _mm512_loadu_si512(halves.as_ptr().cast::<u128>().add(MOST - power).cast()) }
}

/// Sums of products before their reduction, four side by side: of low halves, of high ones, and of the sums of both.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    low: __m512i,
    high: __m512i,
    both: __m512i,
}

/// Two vectors on their way into the sums.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    low: __m512i,
    high: __m512i,
}

impl Pair {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn none() -> Self {
        let zero = _mm512_setzero_si512();
        Self { low: zero, high: zero }
    }

    /// Two in a row, or ONE and zeros; `carry` is GHASH of what comes before.
    ///
    /// # Safety
    /// So many may be read there.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) unsafe fn read(place: *const u8, one: bool, carry: Option<__m128i>) -> Self {
        // SAFETY: by contract.
        let (mut first, second) = unsafe {
            let first = reverse(_mm512_loadu_si512(place.cast()));
            let second =
                if one { _mm512_setzero_si512() } else { reverse(_mm512_loadu_si512(place.add(64).cast())) };
            (first, second)
        };
        if let Some(carry) = carry {
            first = _mm512_xor_si512(first, _mm512_zextsi128_si512(carry));
        }
        Self { low: _mm512_unpacklo_epi64(first, second), high: _mm512_unpackhi_epi64(first, second) }
    }
}

/// Parts of what a pair adds to the sums.
pub(super) const PARTS: usize = 3;

impl Sums {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn none() -> Self {
        let zero = _mm512_setzero_si512();
        Self { low: zero, high: zero, both: zero }
    }

    /// Adds one part of the products of a pair, whose first block meets that power. Of a pair that is only ONE, the
    /// second vector does not count.
    ///
    /// # Safety
    /// The table was made with that power, and there are powers for all blocks.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) unsafe fn add<const PART: usize, const ONE: bool>(
        &mut self,
        pair: &Pair,
        powers: &Powers,
        power: usize,
    ) {
        let (to, halves, table) = match PART {
            0 => (&mut self.low, pair.low, &powers.low),
            1 => (&mut self.high, pair.high, &powers.high),
            _ => (&mut self.both, _mm512_xor_si512(pair.low, pair.high), &powers.both),
        };
        // SAFETY: by contract.
        let powers = unsafe { from(table, power) };
        let first = _mm512_clmulepi64_epi128::<0x00>(halves, powers);
        *to = pin(if ONE {
            _mm512_xor_si512(*to, first)
        } else {
            xor3(*to, first, _mm512_clmulepi64_epi128::<0x11>(halves, powers))
        });
    }

    /// As products are usually written.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn sum(self) -> Sum {
        Sum { low: self.low, middle: xor3(self.both, self.low, self.high), high: self.high }
    }

    /// The sums of four packets, a lane for each, from four with four lanes each to be added up.
    ///
    /// # Safety
    /// All four have been written.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) unsafe fn of_lanes([a, b, c, d]: &[MaybeUninit<Self>; LANES]) -> Self {
        // SAFETY: by contract.
        let (a, b, c, d) =
            unsafe { (a.assume_init_ref(), b.assume_init_ref(), c.assume_init_ref(), d.assume_init_ref()) };
        Self {
            low: across([a.low, b.low, c.low, d.low]),
            high: across([a.high, b.high, c.high, d.high]),
            both: across([a.both, b.both, c.both, d.both]),
        }
    }
}

/// The sum of the lanes of each vector, in the lane of its own.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn across([a, b, c, d]: [__m512i; LANES]) -> __m512i {
    let (ab, cd) = (two(a, b), two(c, d));
    two(ab, cd)
}

/// The halves of both, added up.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn two(one: __m512i, other: __m512i) -> __m512i {
    _mm512_xor_si512(_mm512_shuffle_i32x4::<0x88>(one, other), _mm512_shuffle_i32x4::<0xdd>(one, other))
}
