//! The first two rounds of AES, computed ahead for all packets of a run.
//!
//! Counter blocks of a packet differ only in the counter, and 256 in a row only in its last octet. One round of AES
//! spreads that over the first column, to which octets 0, 5 and 10 of the block contribute as well, and nothing else. So
//! where packets of a key have those three in common, as where nonces count they do but once in 256 packets, they have
//! the first column in common after the first round. The second round spreads each octet of it over a column, by a
//! sum: it is that of the block without its first column ([`Ahead::base`]), plus what the first column contributes.
//! The former is the packet's, and the same for 256 blocks; the latter depends on the counter alone, so that all packets
//! of the run share it ([`Table`]). Adding up takes the place of adding the counter, which was to be done anyway, and two
//! rounds in ten or fourteen are saved (Bernstein and Schwabe, "New AES software speed records", 2008, §4.2).
//!
//! Where packets do not have those octets in common, the table holds the counters alone, and [`Ahead::catch_up`] does both
//! rounds.
//!
//! Which counters are looked up is public; the key only ever goes through VAESENC.
#![expect(unsafe_code, reason = "a table that is filled as far as it is used")]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::super::block::load;
use super::{LANES, round_key};
use crate::Key;

/// The octets of the nonce that packets must have in common to share a table.
pub(super) const AKIN: [usize; 3] = [0, 5, 10];

/// Vectors of counters before their last octet comes round.
pub(super) const TURN: usize = 256 / LANES;

/// What SubBytes takes to zero, which contributes nothing to a column.
const NOTHING: u8 = 0x52;

/// The lanes' first columns.
const FIRST_COLUMN: __mmask16 = 0x1111;

/// The counters of the first four blocks of text, in the last octet of each.
static FIRST: [u128; LANES] = [2 << 120, 3 << 120, 4 << 120, 5 << 120];

/// Vectors past the turn that the table has, so that [`Ahead::add_to`] finds them in a row.
const MORE: usize = 7;

/// What the last octets of counters contribute, from counter 2 on.
pub(super) struct Table([MaybeUninit<__m512i>; TURN + MORE]);

impl Table {
    /// Without any.
    #[inline]
    pub(super) fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; TURN + MORE])
    }
}

pub(super) struct Ahead<'k> {
    key: &'k Key,
    /// Whether any rounds are computed ahead. If not, states are to [`catch_up`](Self::catch_up).
    pub(super) akin: bool,
    /// What the first counter contributes: the one that masks the tag.
    first: __m512i,
    table: &'k Table,
}

impl<'k> Ahead<'k> {
    /// For packets of so many whole vectors of text, and one more, whose nonces have the octets of [`AKIN`] in common
    /// with this one, if there is one.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn new(key: &'k Key, vectors: usize, common: Option<&[u8; 12]>, table: &'k mut Table) -> Self {
        let start = common.map(|nonce| {
            let mut block = [0; 16];
            block[..12].copy_from_slice(nonce);
            _mm512_xor_si512(_mm512_broadcast_i32x4(load(&u128::from_ne_bytes(block))), round_key(key, 0))
        });
        let one = _mm512_broadcast_i32x4(load(&(1 << 120)));
        // SAFETY: a vector of the table.
        let mut counters = unsafe { _mm512_loadu_si512(FIRST.as_ptr().cast()) };
        let more = _mm512_broadcast_i32x4(load(&((LANES as u128) << 120)));
        for octets in table.0.iter_mut().take(vectors + 1) {
            octets.write(contribution(key, start, counters));
            counters = _mm512_add_epi8(counters, more);
        }
        Self { key, akin: common.is_some(), first: contribution(key, start, one), table }
    }

    /// The first two rounds of blocks with these nonces and that counter, except for what the first column contributes.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn base(&self, nonces: __m512i, counter: usize) -> __m512i {
        let higher = (counter as u32 & !0xff).swap_bytes();
        let higher = _mm512_maskz_set1_epi32(0x8888, higher.cast_signed());
        self.rounds(_mm512_mask_mov_epi32(higher, 0x7777, nonces))
    }

    /// The same with counters below 256; the nonces' last four octets are ignored.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn first_base(&self, nonces: __m512i) -> __m512i {
        self.rounds(_mm512_maskz_mov_epi32(0x7777, nonces))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn rounds(&self, blocks: __m512i) -> __m512i {
        let blocks = _mm512_xor_si512(blocks, round_key(self.key, 0));
        if !self.akin {
            return blocks;
        }
        let blocks = _mm512_aesenc_epi128(blocks, round_key(self.key, 1));
        let blocks = _mm512_mask_mov_epi32(blocks, FIRST_COLUMN, nothing());
        _mm512_aesenc_epi128(blocks, round_key(self.key, 2))
    }

    /// The first two rounds of blocks for which nothing was computed ahead.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn catch_up<const N: usize>(&self, blocks: &mut [__m512i; N]) {
        for block in blocks {
            *block = self.caught_up(*block);
        }
    }

    /// The same of one vector.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn caught_up(&self, blocks: __m512i) -> __m512i {
        let first = _mm512_aesenc_epi128(blocks, round_key(self.key, 1));
        _mm512_aesenc_epi128(first, round_key(self.key, 2))
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

    /// The same of vectors from that one on: of so many as there are states, eight at most. Added to them.
    ///
    /// # Safety
    /// As above.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) unsafe fn add_to<const N: usize>(&self, states: &mut [__m512i; N], vector: usize) {
        const { assert!(N <= MORE + 1) };
        let first = vector % TURN;
        for (v, state) in states.iter_mut().enumerate() {
            // SAFETY: by contract it is filled so far, or all of it.
            let octets = unsafe { self.table.0.get_unchecked(first + v).assume_init_read() };
            *state = _mm512_xor_si512(*state, octets);
        }
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

/// Two rounds of the blocks with these counters, as far as the first column makes them; `start` is what the counters are
/// added to. The counters themselves if there is none.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn contribution(key: &Key, start: Option<__m512i>, counters: __m512i) -> __m512i {
    let Some(start) = start else { return counters };
    let column = _mm512_aesenc_epi128(_mm512_xor_si512(start, counters), round_key(key, 1));
    let column = _mm512_mask_mov_epi32(nothing(), FIRST_COLUMN, column);
    _mm512_aesenc_epi128(column, _mm512_setzero_si512())
}

/// What contributes nothing.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn nothing() -> __m512i {
    _mm512_set1_epi8(NOTHING.cast_signed())
}
