//! AES-NI and PCLMULQDQ: one block to a vector, eight blocks at a time.
#![expect(unsafe_code, reason = "vectors are read from and written to packet buffers")]
#![expect(clippy::indexing_slicing, reason = "indices are constants of unrolled loops, or at most 16")]

use std::arch::x86_64::*;

use super::block::{Product, REVERSE, load};
use super::job::{Job, class};
use super::narrow::{COUNTER_ORDER, TEXT_MASKS, engine};
use crate::key::POWERS;
use crate::{Key, Packet, TAG_LEN};

type Vector = __m128i;
const LANES: usize = 1;
const STEP: usize = 8;
const STEP_LEN: usize = 16 * LANES * STEP;

engine!("aes,pclmulqdq,ssse3,sse4.1", 1 2 3 4 5 6 7 8);

/// # Safety
/// A vector may be read there.
#[inline]
unsafe fn read(place: *const u8) -> Vector {
    // SAFETY: by contract.
    unsafe { _mm_loadu_si128(place.cast()) }
}

/// # Safety
/// A vector may be written there.
#[inline]
unsafe fn write(place: *mut u8, value: Vector) {
    // SAFETY: by contract.
    unsafe { _mm_storeu_si128(place.cast(), value) }
}

#[target_feature(enable = "sse2")]
#[inline]
fn xor(a: Vector, b: Vector) -> Vector {
    _mm_xor_si128(a, b)
}

#[target_feature(enable = "aes")]
#[inline]
fn enc(blocks: Vector, key: Vector) -> Vector {
    _mm_aesenc_si128(blocks, key)
}

#[target_feature(enable = "aes")]
#[inline]
fn enc_last(blocks: Vector, key: Vector) -> Vector {
    _mm_aesenclast_si128(blocks, key)
}

#[target_feature(enable = "pclmulqdq")]
#[inline]
fn multiply<const HALVES: i32>(a: Vector, b: Vector) -> Vector {
    _mm_clmulepi64_si128::<HALVES>(a, b)
}

#[target_feature(enable = "ssse3")]
#[inline]
fn reverse(blocks: Vector) -> Vector {
    _mm_shuffle_epi8(blocks, load(&REVERSE))
}

/// Counters as they stand in a block.
#[target_feature(enable = "ssse3")]
#[inline]
fn in_words(counters: Vector) -> Vector {
    _mm_shuffle_epi8(counters, load(&COUNTER_ORDER))
}

/// The first counters of the text.
#[target_feature(enable = "sse4.1")]
#[inline]
fn count_from(nonce: __m128i) -> Vector {
    _mm_insert_epi32::<3>(nonce, 2)
}

#[target_feature(enable = "sse2")]
#[inline]
fn plus<const BLOCKS: usize>(counters: Vector) -> Vector {
    _mm_add_epi32(counters, _mm_set_epi32(BLOCKS as i32, 0, 0, 0))
}

/// The same block in each lane.
#[inline]
fn spread(block: &u128) -> Vector {
    load(block)
}

/// A vector of which only the first lane is not zero.
#[inline]
fn lowest(block: __m128i) -> Vector {
    block
}

#[inline]
fn lanes(blocks: Vector) -> [__m128i; LANES] {
    [blocks]
}

/// The sum of all lanes.
#[inline]
fn total(blocks: Vector) -> __m128i {
    blocks
}
