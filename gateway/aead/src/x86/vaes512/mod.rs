//! AVX-512 with VAES and VPCLMULQDQ: four blocks to a vector.
//!
//! The processor starts one VAESENC of 512 bits per cycle, on one port; carry-less multiplication has another, which
//! it shares with shuffles; everything else goes to either. So AES is the limit, and time is lost where its port
//! waits or does what another could. Three schedules come of that, and
//! `picked` says which packets go which way:
//!
//! - `four`: four packets of one key and of alike lengths side by side, so that no vector has empty slots, and with
//!   the first two rounds of AES left out where nonces count (`ahead`);
//! - `long`: the same for packets from 256 octets on (512 when they are sealed), eight vectors of one packet or of two at
//!   a time, with the multiplications of GHASH reduced to three quarters (`powers`);
//! - `single`: any packet, with its AES overlapping the GHASH of the one before.
//!
//! `hash` has what they share of GHASH, `apart` what the first two do with four packets. Start at [`run`].
#![expect(unsafe_code, reason = "an empty piece of assembly keeps instructions in order")]
#![expect(clippy::indexing_slicing, reason = "indices are constants of unrolled loops")]

mod ahead;
mod apart;
mod four;
mod hash;
mod long;
mod picked;
mod powers;
mod single;

use std::arch::x86_64::*;

use super::block::load;
use crate::Key;
use crate::key::POWERS;

pub(super) use picked::run;

/// Slots per vector.
const LANES: usize = 4;

/// Unrolls a loop where the optimizer would not, so that vectors stay in registers.
macro_rules! unroll {
    ($name:ident in [$($value:literal)*] $body:block) => {
        $({
            const $name: usize = $value;
            $body
        })*
    };
}
use unroll;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn round_key(key: &Key, round: usize) -> __m512i {
    _mm512_broadcast_i32x4(load(&key.rounds[round]))
}

/// A power of H in each lane.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn power(key: &Key, exponent: usize) -> __m512i {
    _mm512_broadcast_i32x4(load(&key.powers[(POWERS - exponent) % POWERS]))
}

/// Keeps the instruction that makes `vector` in its place among others that are pinned: the optimizer would put one
/// long chain of AES after the other, and the processor does not look far enough ahead to undo that.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn pin(mut vector: __m512i) -> __m512i {
    // SAFETY: nothing but a comment.
    unsafe {
        std::arch::asm!("/* {} */", inout(zmm_reg) vector, options(nomem, nostack, preserves_flags));
    }
    vector
}
