//! AVX2 with VAES and VPCLMULQDQ: two blocks to a vector, twelve blocks at a time.
#![expect(unsafe_code, reason = "vectors are read from and written to packet buffers")]
#![expect(clippy::indexing_slicing, reason = "indices are constants of unrolled loops, or at most 16")]

use std::arch::x86_64::*;

use super::block::{Product, REVERSE, load};
use super::job::{Job, class};
use super::narrow::{COUNTER_ORDER, TEXT_MASKS, engine};
use crate::key::POWERS;
use crate::{Key, Packet, TAG_LEN};

type Vector = __m256i;
const LANES: usize = 2;
const STEP: usize = 6;
const STEP_LEN: usize = 16 * LANES * STEP;

engine!("avx2,vaes,vpclmulqdq,aes,pclmulqdq", 1 2 3 4 5 6);

/// # Safety
/// A vector may be read there.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn read(place: *const u8) -> Vector {
    // SAFETY: by contract.
    unsafe { _mm256_loadu_si256(place.cast()) }
}

/// # Safety
/// A vector may be written there.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn write(place: *mut u8, value: Vector) {
    // SAFETY: by contract.
    unsafe { _mm256_storeu_si256(place.cast(), value) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn xor(a: Vector, b: Vector) -> Vector {
    _mm256_xor_si256(a, b)
}

#[target_feature(enable = "avx2,vaes")]
#[inline]
fn enc(blocks: Vector, key: Vector) -> Vector {
    _mm256_aesenc_epi128(blocks, key)
}

#[target_feature(enable = "avx2,vaes")]
#[inline]
fn enc_last(blocks: Vector, key: Vector) -> Vector {
    _mm256_aesenclast_epi128(blocks, key)
}

#[target_feature(enable = "avx2,vpclmulqdq")]
#[inline]
fn multiply<const HALVES: i32>(a: Vector, b: Vector) -> Vector {
    _mm256_clmulepi64_epi128::<HALVES>(a, b)
}

#[target_feature(enable = "avx2")]
#[inline]
fn reverse(blocks: Vector) -> Vector {
    _mm256_shuffle_epi8(blocks, spread(&REVERSE))
}

/// Counters as they stand in a block.
#[target_feature(enable = "avx2")]
#[inline]
fn in_words(counters: Vector) -> Vector {
    _mm256_shuffle_epi8(counters, spread(&COUNTER_ORDER))
}

/// The first counters of the text.
#[target_feature(enable = "avx2")]
#[inline]
fn count_from(nonce: __m128i) -> Vector {
    _mm256_set_m128i(_mm_insert_epi32::<3>(nonce, 3), _mm_insert_epi32::<3>(nonce, 2))
}

#[target_feature(enable = "avx2")]
#[inline]
fn plus<const BLOCKS: usize>(counters: Vector) -> Vector {
    let more = BLOCKS as i32;
    _mm256_add_epi32(counters, _mm256_set_epi32(more, 0, 0, 0, more, 0, 0, 0))
}

/// The same block in each lane.
#[target_feature(enable = "avx2")]
#[inline]
fn spread(block: &u128) -> Vector {
    _mm256_broadcastsi128_si256(load(block))
}

/// A vector of which only the first lane is not zero.
#[target_feature(enable = "avx2")]
#[inline]
fn lowest(block: __m128i) -> Vector {
    _mm256_zextsi128_si256(block)
}

#[target_feature(enable = "avx2")]
#[inline]
fn lanes(blocks: Vector) -> [__m128i; LANES] {
    [_mm256_castsi256_si128(blocks), _mm256_extracti128_si256::<1>(blocks)]
}

/// The sum of all lanes.
#[target_feature(enable = "avx2")]
#[inline]
fn total(blocks: Vector) -> __m128i {
    let [low, high] = lanes(blocks);
    _mm_xor_si128(low, high)
}
