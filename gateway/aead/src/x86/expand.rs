//! The key schedule and the powers of H, computed once per SA with AES-NI and PCLMULQDQ, in the layout that all
//! the engines of this architecture read.
#![expect(clippy::indexing_slicing, reason = "indices are constants of the loops over the sixteen powers")]

use std::arch::x86_64::*;

use super::block::{POLYNOMIAL, load, multiply, store};
use crate::Key;
use crate::key::{POWERS, Schedule};

/// Fills in what [`Key::raw`] left out.
#[target_feature(enable = "aes,pclmulqdq,ssse3")]
pub(super) fn expand(key: &mut Key) {
    let last = match key.schedule {
        Schedule::Raw128 | Schedule::Aes128 => {
            schedule_128(&mut key.rounds);
            key.schedule = Schedule::Aes128;
            10
        }
        Schedule::Raw256 | Schedule::Aes256 => {
            schedule_256(&mut key.rounds);
            key.schedule = Schedule::Aes256;
            14
        }
        Schedule::Interop => return,
    };
    let [first, rest @ ..] = &key.rounds;
    let mut h = load(first);
    for (round, word) in (1..).zip(rest) {
        if round < last {
            h = _mm_aesenc_si128(h, load(word));
        } else if round == last {
            h = _mm_aesenclast_si128(h, load(word));
        }
    }
    powers(h, &mut key.powers);
}

/// One step of FIPS 197 §5.2: the four words of `previous`, each added to all before it, and `assist` to each.
#[target_feature(enable = "sse2")]
#[inline]
fn step(previous: __m128i, assist: __m128i) -> __m128i {
    let sum = _mm_xor_si128(previous, _mm_slli_si128::<4>(previous));
    let sum = _mm_xor_si128(sum, _mm_slli_si128::<8>(sum));
    _mm_xor_si128(sum, assist)
}

/// Which octets make the last word of a key, turned by one octet (RotWord) or not.
const ROTATED: i32 = 0x0c0f_0e0d;
const AS_IT_IS: i32 = 0x0f0e_0d0c;

/// SubWord of that last word, and a round constant, in each word. The last round of AES does that to a block of four
/// equal words: ShiftRows leaves those alone. (It takes the place of AESKEYGENASSIST, which is slower and unknown to Miri.)
#[target_feature(enable = "aes,ssse3")]
#[inline]
fn substituted(key: __m128i, octets: i32, constant: i32) -> __m128i {
    _mm_aesenclast_si128(_mm_shuffle_epi8(key, _mm_set1_epi32(octets)), _mm_set1_epi32(constant))
}

#[target_feature(enable = "aes,ssse3")]
fn schedule_128(rounds: &mut [u128; 15]) {
    let [first, rest @ ..] = rounds;
    let mut key = load(first);
    let mut rest = rest.iter_mut();
    macro_rules! next {
        ($($rcon:literal)*) => {$(
            key = step(key, substituted(key, ROTATED, $rcon));
            if let Some(word) = rest.next() {
                store(word, key);
            }
        )*};
    }
    next!(0x01 0x02 0x04 0x08 0x10 0x20 0x40 0x80 0x1b 0x36);
}

#[target_feature(enable = "aes,ssse3")]
fn schedule_256(rounds: &mut [u128; 15]) {
    let [first, second, rest @ ..] = rounds;
    let (mut even, mut odd) = (load(first), load(second));
    let mut rest = rest.iter_mut();
    macro_rules! next {
        ($($rcon:literal)*) => {$(
            even = step(even, substituted(odd, ROTATED, $rcon));
            if let Some(word) = rest.next() {
                store(word, even);
            }
            // The last odd key has no place: 15 round keys end with an even one.
            odd = step(odd, substituted(even, AS_IT_IS, 0));
            if let Some(word) = rest.next() {
                store(word, odd);
            }
        )*};
    }
    next!(0x01 0x02 0x04 0x08 0x10 0x20 0x40);
}

/// H^16 down to H^1, each times x. `h` is E(0) as the cipher gives it.
#[target_feature(enable = "pclmulqdq,ssse3")]
fn powers(h: __m128i, powers: &mut [u128; POWERS]) {
    let mut octets = 0;
    store(&mut octets, h);
    // Times x: a shift by one bit, and the polynomial added if a bit left at the top.
    let h = u128::from_be(octets);
    let carry = 0u128.wrapping_sub(h >> 127);
    powers[POWERS - 1] = (h << 1) ^ (carry & POLYNOMIAL);
    for exponent in 2..=POWERS {
        // The largest power of two below the exponent, so that most products do not wait for each other.
        let half = exponent.next_power_of_two() / 2;
        let product = multiply(load(&powers[POWERS - half]), load(&powers[POWERS - (exponent - half)]));
        store(&mut powers[POWERS - exponent], product);
    }
}
