//! The first round of AES, computed ahead for all packets of a key.
//!
//! Counter blocks of a packet differ only in the counter, and 256 in a row only in its last octet. One round of AES
//! spreads an octet over one column, by a sum: the first round of a counter block is that of the block without its
//! last octet, plus what the last octet contributes. The former is the packet's ([`Ahead::base`]), and the same for 256
//! blocks; the latter depends on the key and the counter alone, so that all packets of a key share it
//! ([`Table`]). Adding up takes the place of adding the counter, which was to be done anyway, and one round in
//! ten or fourteen is saved (Bernstein and Schwabe, "New AES software speed records", 2008, §4.2, save more, but not with
//! instructions that work on whole blocks).
//!
//! Which counters are looked up is public; the key only ever goes through VAESENC.
#![expect(unsafe_code, reason = "a table that is filled as far as it is used")]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::super::block::load;
use super::{LANES, round_key};
use crate::Key;

/// Vectors of counters before their last octet comes round.
pub(super) const TURN: usize = 256 / LANES;

/// What SubBytes takes to zero, which contributes nothing to a column.
const NOTHING: u8 = 0x52;

/// The counters of the first four blocks of text, in the last octet of each.
static FIRST: [u128; LANES] = [2 << 120, 3 << 120, 4 << 120, 5 << 120];

/// What the last octets of counters contribute, from counter 2 on.
pub(super) struct Table([MaybeUninit<__m512i>; TURN]);

impl Table {
    /// Without any.
    #[inline]
    pub(super) fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; TURN])
    }
}

pub(super) struct Ahead<'k> {
    key: &'k Key,
    /// The first round key, but with [`NOTHING`] for its last octet.
    start: __m512i,
    /// What the first counter contributes: the one that masks the tag.
    first: __m512i,
    table: &'k Table,
}

impl<'k> Ahead<'k> {
    /// For packets of so many whole vectors of text, and one more.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn new(key: &'k Key, vectors: usize, table: &'k mut Table) -> Self {
        let last = _mm512_broadcast_i32x4(load(&(0xff << 120)));
        let nothing = _mm512_set1_epi8(NOTHING.cast_signed());
        let first_key = round_key(key, 0);
        // Bitwise: where `last` has ones the one, else the other.
        let start = _mm512_ternarylogic_epi64::<0xca>(last, nothing, first_key);
        let octet_of_key = _mm512_ternarylogic_epi64::<0xca>(last, first_key, nothing);
        let one = _mm512_broadcast_i32x4(load(&(1 << 120)));
        // SAFETY: a vector of the table.
        let mut counters = unsafe { _mm512_loadu_si512(FIRST.as_ptr().cast()) };
        let more = _mm512_broadcast_i32x4(load(&((LANES as u128) << 120)));
        for octets in table.0.iter_mut().take(vectors + 1) {
            octets.write(contribution(_mm512_xor_si512(counters, octet_of_key)));
            counters = _mm512_add_epi8(counters, more);
        }
        Self { key, start, first: contribution(_mm512_xor_si512(one, octet_of_key)), table }
    }

    /// The first round of blocks with these nonces and that counter, except for its last octet.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn base(&self, nonces: __m512i, counter: usize) -> __m512i {
        let nonces = _mm512_xor_si512(_mm512_maskz_mov_epi32(0x7777, nonces), self.start);
        let higher = (counter as u32 & !0xff).swap_bytes();
        let higher = _mm512_maskz_set1_epi32(0x8888, higher.cast_signed());
        _mm512_aesenc_epi128(_mm512_xor_si512(nonces, higher), round_key(self.key, 1))
    }

    /// The same with counters below 256.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn first_base(&self, nonces: __m512i) -> __m512i {
        let nonces = _mm512_xor_si512(_mm512_maskz_mov_epi32(0x7777, nonces), self.start);
        _mm512_aesenc_epi128(nonces, round_key(self.key, 1))
    }

    /// What the last octets of the counters of that vector of text contribute.
    ///
    /// # Safety
    /// At most as many vectors as the table was made for.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) unsafe fn of_vector(&self, vector: usize) -> __m512i {
        // SAFETY: by contract it is filled so far, or all of it.
        unsafe { self.table.0.get_unchecked(vector % TURN).assume_init_read() }
    }

    /// The same of one block, for each lane.
    ///
    /// # Safety
    /// As above, of the vector that the block is in.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) unsafe fn of_block(&self, block: usize) -> __m512i {
        // SAFETY: by contract it is filled so far, or all of it.
        let block = unsafe { &*self.table.0.as_ptr().cast::<u128>().add(block % (LANES * TURN)) };
        _mm512_broadcast_i32x4(load(block))
    }

    /// The same of the first counter, which makes the mask of the tag.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn of_mask(&self) -> __m512i {
        self.first
    }
}

/// The first round of what is [`NOTHING`] but for the last octet of each block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn contribution(octets: __m512i) -> __m512i {
    _mm512_aesenc_epi128(octets, _mm512_setzero_si512())
}
