//! Four packets of one key and one length side by side.
//!
//! AES takes a step of four vectors, one of each packet. What is not a whole vector of text is put together from all
//! four, a lane each: a vector of the blocks that mask the tags, and one for each block behind the whole vectors. So
//! every lane of every vector has work, whatever the length.
//!
//! GHASH has a lane for each packet all the way: the four vectors of a step are transposed, 4 x 4 blocks, so that a
//! vector holds the same block of all four packets. That costs two shuffles a vector, and saves the additions across
//! lanes at the end; one set of sums and one reduction serve four packets, and AAD and tags are vectors, too. The
//! lengths' part of GHASH is the same for all ([`Frame::closing`]).
//!
//! GHASH runs one step behind AES, also from four packets to the next four ([`Pending`]): what waits for results would
//! otherwise fill the processor's scheduler, and keep it from the next AES.
#![expect(unsafe_code, reason = "vectors are read from packets and read and written in their buffers")]

use std::arch::x86_64::*;

use super::ahead::{Ahead, TURN, Table};
use super::apart::{Apart, Frame, finish_block, finish_tags, spread};
use super::hash::{Sum, reverse, xor3};
use super::picked::Picked;
use super::{LANES, long, pin, power, round_key, unroll};
use crate::key::{POWERS, Schedule};
use crate::{Key, Packet, TAG_LEN};

/// Longest buffer: counters keep to three octets.
pub(super) const LONGEST: usize = 1 << 16;

/// Seals or opens packets four by four. Leaves those that remain, or all if they are not for this. `akin`: whether their
/// nonces have the octets of [`super::ahead::AKIN`] in common.
///
/// # Safety
/// The packets have one key, and their buffers and AADs one length; or the first buffer is longer than [`LONGEST`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
pub(super) unsafe fn run<const SEAL: bool>(packets: &mut Picked<'_, '_>, akin: bool) {
    let Some(first) = packets.peek() else { return };
    let rounds = match first.key.schedule {
        Schedule::Aes128 => 10,
        Schedule::Aes256 => 14,
        Schedule::Raw128 | Schedule::Raw256 | Schedule::Interop => return,
    };
    let octets = first.buffer.len();
    if !(TAG_LEN..=LONGEST).contains(&octets) {
        return;
    }
    let len = octets - TAG_LEN;
    if long::takes::<SEAL>(packets.count(), len) {
        // SAFETY: by contract.
        return unsafe { long::run::<SEAL>(packets, akin) };
    }
    macro_rules! dispatch {
        ($($blocks:literal)*) => {
            match (rounds, len >= 64, (len % 64).div_ceil(16)) {
                $((10, false, $blocks) => alike::<false, $blocks, 10, SEAL>(packets, akin),
                (10, true, $blocks) => alike::<true, $blocks, 10, SEAL>(packets, akin),
                (_, false, $blocks) => alike::<false, $blocks, 14, SEAL>(packets, akin),
                (_, true, $blocks) => alike::<true, $blocks, 14, SEAL>(packets, akin),)*
                _ => {}
            }
        };
    }
    // SAFETY: by contract, and the constants are those of the length.
    unsafe { dispatch!(0 1 2 3 4) }
}

/// The same, where BLOCKS are behind the whole vectors of text, if there are any such: VECTORS.
///
/// # Safety
/// The same, and the constants are those of the length.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
unsafe fn alike<const VECTORS: bool, const BLOCKS: usize, const ROUNDS: usize, const SEAL: bool>(
    packets: &mut Picked<'_, '_>,
    akin: bool,
) {
    let mut next = packets.next_four();
    let Some([first, ..]) = &next else { return };
    let (key, octets) = (first.key, first.buffer.len());
    let mut table = Table::new();
    let run = Run::<VECTORS, BLOCKS, ROUNDS, SEAL>::new(first, akin, key, octets - TAG_LEN, &mut table);
    let mut pending = None;
    while let Some(four) = next {
        debug_assert!(
            four.iter().all(|packet| std::ptr::eq(packet.key, key) && packet.buffer.len() == octets)
        );
        // SAFETY: by contract, their text is as long as the run was told.
        pending = Some(unsafe { run.encipher(four, pending) });
        next = packets.next_four();
    }
    if let Some(last) = pending {
        run.complete::<1>(last);
    }
}

/// What packets have in common that are alike.
struct Run<'k, const VECTORS: bool, const BLOCKS: usize, const ROUNDS: usize, const SEAL: bool> {
    key: &'k Key,
    ahead: Ahead<'k>,
    /// Whole vectors of text in each packet.
    vectors: usize,
    /// So many of the last can go in one pass of GHASH with what is behind them.
    together: usize,
    /// The power of H for the AAD, and how many vectors follow it in the first pass.
    opening: (usize, usize),
    frame: Frame<BLOCKS>,
}

/// Four packets whose text is done. Left to do: GHASH of their last vectors and of the blocks behind, and the tags.
struct Pending<'p, 'q, const BLOCKS: usize> {
    packets: [&'p mut Packet<'q>; LANES],
    hash: Hash,
    /// As GHASH takes them.
    blocks: [__m512i; BLOCKS],
    /// What hides the tags.
    mask: __m512i,
    /// The tags that came with the packets.
    claimed: __m512i,
}

/// GHASH of four packets, a lane for each.
struct Hash {
    sum: Sum,
    /// A vector of each packet, which comes next.
    vectors: [__m512i; LANES],
    /// How many of them are left, these included.
    left: usize,
    /// The power of H for the first block of these.
    power: usize,
    /// How many can be added before the sum must be reduced.
    room: usize,
}

impl<'k, const VECTORS: bool, const BLOCKS: usize, const ROUNDS: usize, const SEAL: bool>
    Run<'k, VECTORS, BLOCKS, ROUNDS, SEAL>
{
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn new(first: &Packet<'_>, akin: bool, key: &'k Key, len: usize, table: &'k mut Table) -> Self {
        let vectors = len / 64;
        let together = vectors.min((POWERS - BLOCKS - 1) / LANES);
        let all = 1 + LANES * vectors + BLOCKS + 1;
        let opening = if all <= POWERS {
            (all, usize::MAX)
        } else {
            // As many as leave whole passes to the rest.
            let first = (vectors - together) % LANES;
            (LANES * first + 1, first)
        };
        Self {
            key,
            ahead: Ahead::new(key, vectors, akin.then_some(&first.nonce), table),
            vectors,
            together,
            opening,
            frame: Frame::new(key, first.aad_len, len),
        }
    }

    /// Enciphers four packets, and hashes what comes before their last vectors. Completes the four `before` while the
    /// first AES is under way.
    ///
    /// # Safety
    /// Their text is as long as the run was told.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    unsafe fn encipher<'p, 'q>(
        &self,
        packets: [&'p mut Packet<'q>; LANES],
        mut before: Option<Pending<'p, 'q, BLOCKS>>,
    ) -> Pending<'p, 'q, BLOCKS> {
        let Apart { packets, texts, nonces, aads, claimed } = Apart::of::<SEAL>(packets);
        let base = self.ahead.first_base(nonces);
        let mut bases = spread(base);

        let mut mask = _mm512_xor_si512(base, self.ahead.of_mask());
        let mut blocks = [base; BLOCKS];
        for (at, block) in blocks.iter_mut().enumerate() {
            let at = LANES * self.vectors + at;
            if VECTORS && self.vectors >= TURN - 1 {
                *block = self.ahead.base(nonces, at + 2);
            }
            // SAFETY: of the vector behind the last whole one, which the table has.
            *block = _mm512_xor_si512(*block, unsafe { self.ahead.of_block(at) });
        }
        let mut vectors = bases;
        if VECTORS {
            for vector in &mut vectors {
                // SAFETY: there is one whole vector at least.
                *vector = _mm512_xor_si512(*vector, unsafe { self.ahead.of_vector(0) });
            }
        }
        if !self.ahead.akin {
            if VECTORS {
                self.ahead.catch_up(&mut vectors);
            }
            mask = self.ahead.caught_up(mask);
            self.ahead.catch_up(&mut blocks);
        }
        unroll!(ROUND in [3 4 5 6 7 8 9 10 11 12 13] {
            if ROUND < ROUNDS {
                let key = round_key(self.key, ROUND);
                if VECTORS {
                    for vector in &mut vectors {
                        *vector = pin(_mm512_aesenc_epi128(*vector, key));
                    }
                }
                mask = pin(_mm512_aesenc_epi128(mask, key));
                for block in &mut blocks {
                    *block = pin(_mm512_aesenc_epi128(*block, key));
                }
            }
            if ROUND == 8 && let Some(before) = before.take() {
                self.complete::<0>(before);
            }
        });
        let last_key = round_key(self.key, ROUNDS);
        mask = _mm512_aesenclast_epi128(mask, last_key);
        if VECTORS {
            // SAFETY: the first vectors of text.
            vectors = unsafe { finish::<SEAL>(vectors, last_key, texts, 0) };
        }
        for (at, block) in blocks.iter_mut().enumerate() {
            // SAFETY: blocks of text. Only the last may be partial, and behind the text is a tag, which is written later.
            *block = unsafe { finish_block::<SEAL>(*block, last_key, texts, 64 * self.vectors + 16 * at) };
            *block = self.frame.block(at, *block);
        }

        let (first, room) = self.opening;
        let sum = Sum::of(self.frame.aads(aads), power(self.key, first));
        let mut hash = Hash { sum, vectors, left: self.vectors, power: first - 1, room };
        for vector in 1..self.vectors {
            if (vector + 1) % TURN <= 1 {
                bases = self.turned(nonces, vector);
            }
            // SAFETY: there are so many whole vectors.
            unsafe { self.step(&mut hash, &bases, texts, vector) };
        }
        Pending { packets, hash, blocks, mask, claimed }
    }

    /// Enciphers that vector of each packet, while GHASH takes those before them.
    ///
    /// # Safety
    /// There is such a vector.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    unsafe fn step(&self, hash: &mut Hash, bases: &[__m512i; LANES], texts: [*mut u8; LANES], vector: usize) {
        // SAFETY: by contract.
        let octets = unsafe { self.ahead.of_vector(vector) };
        let mut vectors = *bases;
        for vector in &mut vectors {
            *vector = _mm512_xor_si512(*vector, octets);
        }
        if !self.ahead.akin {
            self.ahead.catch_up(&mut vectors);
        }
        let mut columns = hash.vectors;
        unroll!(ROUND in [3 4 5 6 7 8 9 10 11 12 13] {
            if ROUND < ROUNDS {
                let key = round_key(self.key, ROUND);
                for vector in &mut vectors {
                    *vector = pin(_mm512_aesenc_epi128(*vector, key));
                }
            }
            match ROUND {
                5 => columns = self.columns(hash),
                7 => hash.add(self.key, [columns[0], columns[1]]),
                10 => hash.add(self.key, [columns[2], columns[3]]),
                _ => {}
            }
        });
        // SAFETY: by contract.
        hash.vectors = unsafe { finish::<SEAL>(vectors, round_key(self.key, ROUNDS), texts, 64 * vector) };
    }

    /// The blocks that GHASH takes next. Reduces the sum if there is no room for them.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn columns(&self, hash: &mut Hash) -> [__m512i; LANES] {
        let mut columns = transpose(hash.vectors);
        if hash.room == 0 {
            columns[0] = _mm512_xor_si512(columns[0], hash.sum.reduce());
            hash.sum = Sum::none();
            (hash.power, hash.room) = if hash.left <= self.together {
                (LANES * hash.left + BLOCKS + 1, usize::MAX)
            } else {
                (POWERS, LANES)
            };
        }
        hash.room -= 1;
        hash.left -= 1;
        columns
    }

    /// The bases for that vector and those behind it, where the counter's last octet comes round in it or has just.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[cold]
    #[inline(never)]
    fn turned(&self, nonces: __m512i, vector: usize) -> [__m512i; LANES] {
        let counter = LANES * vector + 2;
        let mut bases = spread(self.ahead.base(nonces, counter));
        let behind = spread(self.ahead.base(nonces, counter + LANES - 1));
        for (base, behind) in bases.iter_mut().zip(behind) {
            *base = _mm512_mask_mov_epi64(*base, 0xf0, behind);
        }
        bases
    }

    /// Hashes what is left and writes or checks the tags. COPY only makes instances that are called from one place
    /// each: those are what gets inlined.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn complete<const COPY: u8>(&self, pending: Pending<'_, '_, BLOCKS>) {
        let Pending { packets, mut hash, blocks, mask, claimed } = pending;
        if VECTORS {
            let columns = self.columns(&mut hash);
            hash.add(self.key, [columns[0], columns[1]]);
            hash.add(self.key, [columns[2], columns[3]]);
        }
        for (at, block) in blocks.into_iter().enumerate() {
            hash.sum.add(block, power(self.key, BLOCKS + 1 - at));
        }
        let tags = xor3(reverse(hash.sum.reduce()), mask, self.frame.closing);
        finish_tags::<SEAL>(packets, tags, claimed, BLOCKS > 0);
    }
}

impl Hash {
    /// Adds two blocks.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn add(&mut self, key: &Key, blocks: [__m512i; 2]) {
        self.sum.add_two(blocks, [power(key, self.power), power(key, self.power - 1)]);
        self.power -= 2;
    }
}

/// The last round of a vector of each packet, added to the text that far into each. Returns what GHASH takes.
///
/// # Safety
/// There are 64 octets of text.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
unsafe fn finish<const SEAL: bool>(
    mut vectors: [__m512i; LANES],
    key: __m512i,
    texts: [*mut u8; LANES],
    offset: usize,
) -> [__m512i; LANES] {
    for (vector, text) in vectors.iter_mut().zip(texts) {
        // SAFETY: by contract.
        unsafe {
            let place = text.add(offset).cast();
            let before = _mm512_loadu_si512(place);
            let after = _mm512_aesenclast_epi128(*vector, _mm512_xor_si512(before, key));
            _mm512_storeu_si512(place.cast(), after);
            *vector = if SEAL { after } else { before };
        }
    }
    vectors
}

/// From a vector per packet to a vector per block, in the octet order of the multiplier.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn transpose([a, b, c, d]: [__m512i; LANES]) -> [__m512i; LANES] {
    let (low, high) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
    let (low_too, high_too) = (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xee>(c, d));
    [
        reverse(_mm512_shuffle_i32x4::<0x88>(low, low_too)),
        reverse(_mm512_shuffle_i32x4::<0xdd>(low, low_too)),
        reverse(_mm512_shuffle_i32x4::<0x88>(high, high_too)),
        reverse(_mm512_shuffle_i32x4::<0xdd>(high, high_too)),
    ]
}
