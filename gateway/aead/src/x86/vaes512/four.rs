//! Four packets of one key side by side: as many whole vectors of text in each, and as many blocks behind them.
//!
//! AES takes a step of four vectors, one of each packet. What is not a whole vector of text is put together from all
//! four, a lane each: a vector of the blocks that mask the tags, and one for each block behind the whole vectors. So
//! every lane of every vector has work, whatever the length.
//!
//! GHASH has a lane for each packet all the way: the four vectors of a step are transposed, 4 x 4 blocks, so that a
//! vector holds the same block of all four packets. That costs two shuffles a vector, and saves the additions across
//! lanes at the end; one set of sums and one reduction serve four packets, and AAD, lengths and tags are vectors, too.
//! GHASH runs one step behind AES, and the last of it (the blocks behind, the lengths and the reduction) is done
//! after the first step of the next four packets has been issued ([`Pending`]).
#![expect(unsafe_code, reason = "vectors are read from packets and read and written in their buffers")]
#![expect(clippy::indexing_slicing, reason = "indices are constants of unrolled loops")]

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::super::block::load;
use super::super::job::wipe;
use super::ahead::{Ahead, TURN};
use super::hash::{Sum, reverse};
use super::{LANES, round_key, unroll};
use crate::key::{POWERS, Schedule};
use crate::{Key, MAX_AAD, Packet, TAG_LEN};

/// Longest text: its counters keep to three octets.
const LONGEST: usize = 1 << 16;

/// What four packets have in common, besides their key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Whole vectors of text in each.
    vectors: usize,
    /// Blocks behind them, the last of which may be partial: at most [`LANES`].
    blocks: usize,
}

impl Shape {
    #[inline]
    fn of(packet: &Packet<'_>) -> Option<Self> {
        let len = packet.buffer.len().checked_sub(TAG_LEN).filter(|len| *len <= LONGEST)?;
        Some(Self { vectors: len / 64, blocks: (len % 64).div_ceil(16) })
    }
}

/// The shape of the first four packets, if they share one and a key.
#[inline]
pub(super) fn shape(packets: &[Packet<'_>]) -> Option<Shape> {
    let [first, rest @ ..] = packets.first_chunk::<LANES>()?;
    let shape = Shape::of(first)?;
    rest.iter()
        .all(|packet| std::ptr::eq(packet.key, first.key) && Shape::of(packet) == Some(shape))
        .then_some(shape)
}

/// Seals or opens as many packets from the first on as go four by four in one shape. Returns how many those were.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
pub(super) fn run<const SEAL: bool>(packets: &mut [Packet<'_>]) -> usize {
    let Some(shape) = shape(packets) else { return 0 };
    macro_rules! dispatch {
        ($rounds:literal) => {
            match shape.blocks {
                0 => alike::<0, $rounds, SEAL>(packets, shape),
                1 => alike::<1, $rounds, SEAL>(packets, shape),
                2 => alike::<2, $rounds, SEAL>(packets, shape),
                3 => alike::<3, $rounds, SEAL>(packets, shape),
                _ => alike::<4, $rounds, SEAL>(packets, shape),
            }
        };
    }
    match packets[0].key.schedule {
        Schedule::Aes128 => dispatch!(10),
        Schedule::Aes256 => dispatch!(14),
        Schedule::Raw128 | Schedule::Raw256 => 0,
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
fn alike<const BLOCKS: usize, const ROUNDS: usize, const SEAL: bool>(
    packets: &mut [Packet<'_>],
    shape: Shape,
) -> usize {
    let key = packets[0].key;
    let ahead = Ahead::new(key, shape.vectors);
    let mask = ahead.of_mask();
    let mut pending: Option<Pending<'_, '_, BLOCKS>> = None;
    let mut done = 0;
    for four in packets.as_chunks_mut().0 {
        if done > 0 && !(std::ptr::eq(four[0].key, key) && self::shape(four) == Some(shape)) {
            break;
        }
        let four = Four::new(four.each_mut(), &ahead, shape);
        // SAFETY: the packets have that shape.
        pending = Some(unsafe { four.encipher::<BLOCKS, ROUNDS, SEAL>(mask, pending) });
        done += LANES;
    }
    if let Some(last) = pending {
        last.complete::<SEAL, 2>();
    }
    done
}

/// Four packets that are worked on.
struct Four<'p, 'q, 'a> {
    packets: [&'p mut Packet<'q>; LANES],
    ahead: &'a Ahead<'q>,
    shape: Shape,
    texts: [*mut u8; LANES],
    nonces: __m512i,
}

impl<'p, 'q, 'a> Four<'p, 'q, 'a> {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn new(mut packets: [&'p mut Packet<'q>; LANES], ahead: &'a Ahead<'q>, shape: Shape) -> Self {
        let mut texts = [std::ptr::null_mut(); LANES];
        let mut nonces = [std::ptr::null(); LANES];
        for (lane, packet) in packets.iter_mut().enumerate() {
            texts[lane] = packet.buffer.as_mut_ptr();
            nonces[lane] = std::ptr::from_ref::<Packet<'_>>(packet)
                .cast::<u8>()
                .wrapping_add(offset_of!(Packet<'_>, nonce));
        }
        // SAFETY: sixteen octets from there on are inside the packet, as `job` asserts.
        let nonces = unsafe { gather(nonces) };
        Self { packets, ahead, shape, texts, nonces }
    }

    /// Enciphers, and hashes what are whole vectors. Completes the four `before` as soon as the first AES is under way.
    ///
    /// # Safety
    /// The packets have the shape, BLOCKS are its blocks, and `ahead` was made for its vectors.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    unsafe fn encipher<const BLOCKS: usize, const ROUNDS: usize, const SEAL: bool>(
        self,
        mask: __m512i,
        before: Option<Pending<'p, 'q, BLOCKS>>,
    ) -> Pending<'p, 'q, BLOCKS> {
        let vectors = self.shape.vectors;
        let base = self.ahead.first_base(self.nonces);
        let mut hash = Hash::new(self.ahead.key, self.aads(), vectors, BLOCKS);
        let claimed = if SEAL { _mm512_setzero_si512() } else { self.claimed() };
        if vectors == 0 {
            // SAFETY: by contract.
            let (mask, behind) =
                unsafe { self.behind::<BLOCKS, ROUNDS, SEAL, false>(&mut hash, base, mask) };
            if let Some(before) = before {
                before.complete::<SEAL, 0>();
            }
            return Pending { packets: self.packets, key: hash.key, sum: hash.sum, behind, mask, claimed };
        }
        let mut bases = spread(base);
        // SAFETY: by contract.
        unsafe { self.step::<ROUNDS, SEAL, false>(&mut hash, 0, &bases) };
        if let Some(before) = before {
            before.complete::<SEAL, 1>();
        }
        for vector in 1..vectors {
            if (vector + 1) % TURN <= 1 {
                bases = self.turned(vector);
            }
            // SAFETY: by contract.
            unsafe { self.step::<ROUNDS, SEAL, true>(&mut hash, vector, &bases) };
        }
        // SAFETY: by contract.
        let (mask, behind) = unsafe { self.behind::<BLOCKS, ROUNDS, SEAL, true>(&mut hash, base, mask) };
        Pending { packets: self.packets, key: hash.key, sum: hash.sum, behind, mask, claimed }
    }

    /// Enciphers that vector of each packet. Unless they are the first, GHASH takes those before them meanwhile.
    ///
    /// # Safety
    /// There is such a vector.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    unsafe fn step<const ROUNDS: usize, const SEAL: bool, const HASH: bool>(
        &self,
        hash: &mut Hash<'_>,
        vector: usize,
        bases: &[__m512i; LANES],
    ) {
        if HASH {
            hash.begin();
        }
        let key = self.ahead.key;
        // SAFETY: by contract.
        let octets = unsafe { self.ahead.of_vector(vector) };
        let mut blocks = *bases;
        for block in &mut blocks {
            *block = _mm512_xor_si512(*block, octets);
        }
        unroll!(ROUND in [2 3 4 5 6 7 8 9 10 11 12 13] {
            if ROUND < ROUNDS {
                let key = round_key(key, ROUND);
                for block in &mut blocks {
                    *block = _mm512_aesenc_epi128(*block, key);
                }
                if HASH && ROUND == 3 {
                    hash.two([0, 1]);
                }
                if HASH && ROUND == 6 {
                    hash.two([2, 3]);
                }
            }
        });
        let key = round_key(key, ROUNDS);
        for (lane, block) in blocks.iter_mut().enumerate() {
            // SAFETY: by contract, all of the vector is text.
            unsafe {
                let place = self.texts[lane].add(64 * vector).cast();
                let before = _mm512_loadu_si512(place);
                let after = _mm512_aesenclast_epi128(*block, _mm512_xor_si512(before, key));
                _mm512_storeu_si512(place.cast(), after);
                *block = if SEAL { after } else { before };
            }
        }
        hash.columns = transpose(blocks);
    }

    /// Makes the masks of the tags and enciphers the blocks behind the vectors; returns them, for GHASH those latter.
    /// GHASH takes what is left of the vectors meanwhile, if there are any.
    ///
    /// # Safety
    /// There are BLOCKS of them.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    unsafe fn behind<const BLOCKS: usize, const ROUNDS: usize, const SEAL: bool, const HASH: bool>(
        &self,
        hash: &mut Hash<'_>,
        base: __m512i,
        mask: __m512i,
    ) -> (__m512i, [__m512i; BLOCKS]) {
        if HASH {
            hash.begin();
        }
        let key = self.ahead.key;
        let vectors = self.shape.vectors;
        let mut mask = _mm512_xor_si512(base, mask);
        let mut blocks = [base; BLOCKS];
        for (at, block) in blocks.iter_mut().enumerate() {
            let at = LANES * vectors + at;
            if vectors >= TURN - 1 {
                *block = self.ahead.base(self.nonces, at + 2);
            }
            // SAFETY: of the vector behind the last whole one, which the table has.
            *block = _mm512_xor_si512(*block, unsafe { self.ahead.of_block(at) });
        }
        unroll!(ROUND in [2 3 4 5 6 7 8 9 10 11 12 13] {
            if ROUND < ROUNDS {
                let key = round_key(key, ROUND);
                mask = _mm512_aesenc_epi128(mask, key);
                for block in &mut blocks {
                    *block = _mm512_aesenc_epi128(*block, key);
                }
                if HASH && ROUND == 3 {
                    hash.two([0, 1]);
                }
                if HASH && ROUND == 6 {
                    hash.two([2, 3]);
                }
            }
        });
        let key = round_key(key, ROUNDS);
        mask = _mm512_aesenclast_epi128(mask, key);
        for (at, block) in blocks.iter_mut().enumerate() {
            let mut places = self.texts;
            for place in &mut places {
                *place = place.wrapping_add(64 * vectors + 16 * at);
            }
            // SAFETY: each is the place of a block of text. Only the last may be partial, and behind the text is a tag,
            // which is written later.
            unsafe {
                let before = gather(places.map(<*mut u8>::cast_const));
                let after = _mm512_aesenclast_epi128(*block, _mm512_xor_si512(before, key));
                scatter(places, after);
                *block = if SEAL { after } else { before };
            }
            if at + 1 == BLOCKS {
                *block = _mm512_maskz_mov_epi8(self.text_of_last(), *block);
            }
            *block = reverse(*block);
        }
        (mask, blocks)
    }

    /// The bases for that vector and those behind it, where the counter's last octet comes round in it or has just.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[cold]
    #[inline(never)]
    fn turned(&self, vector: usize) -> [__m512i; LANES] {
        let counter = LANES * vector + 2;
        let mut bases = spread(self.ahead.base(self.nonces, counter));
        let behind = spread(self.ahead.base(self.nonces, counter + LANES - 1));
        for (base, behind) in bases.iter_mut().zip(behind) {
            *base = _mm512_mask_mov_epi64(*base, 0xf0, behind);
        }
        bases
    }

    /// The AAD of each, in the octet order of the multiplier.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn aads(&self) -> __m512i {
        let mut places = [std::ptr::null(); LANES];
        let mut mask = 0;
        for (lane, packet) in self.packets.iter().enumerate() {
            places[lane] = std::ptr::from_ref::<Packet<'_>>(packet)
                .cast::<u8>()
                .wrapping_add(offset_of!(Packet<'_>, aad));
            mask |= (0xffff >> (16 - packet.aad_len.min(MAX_AAD))) << (16 * lane);
        }
        // SAFETY: sixteen octets from there on are inside the packet, as `job` asserts.
        reverse(_mm512_maskz_mov_epi8(mask, unsafe { gather(places) }))
    }

    /// The tags that came with the packets.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn claimed(&self) -> __m512i {
        let mut places = [std::ptr::null(); LANES];
        for (place, packet) in places.iter_mut().zip(&self.packets) {
            *place = packet.buffer.as_ptr().wrapping_add(packet.buffer.len() - TAG_LEN);
        }
        // SAFETY: the last sixteen octets of each buffer, which is that long.
        unsafe { gather(places) }
    }

    /// Which octets of the last blocks are text.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn text_of_last(&self) -> u64 {
        let mut mask = 0;
        for (lane, packet) in self.packets.iter().enumerate() {
            // 1 to 16 octets, the text not being empty.
            let octets = (packet.buffer.len() - TAG_LEN + 15) % 16 + 1;
            mask |= (0xffff >> (16 - octets)) << (16 * lane);
        }
        mask
    }
}

/// Four packets whose text is done. Left to do: GHASH of the blocks behind the vectors and of the lengths, and the
/// tags.
struct Pending<'p, 'q, const BLOCKS: usize> {
    packets: [&'p mut Packet<'q>; LANES],
    key: &'q Key,
    sum: Sum,
    behind: [__m512i; BLOCKS],
    /// What hides the tags.
    mask: __m512i,
    /// The tags that came with the packets.
    claimed: __m512i,
}

impl<const BLOCKS: usize> Pending<'_, '_, BLOCKS> {
    /// Hashes what is left and writes or checks the tags. COPY only makes instances that are called from one place
    /// each: those are what gets inlined.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn complete<const SEAL: bool, const COPY: u8>(mut self) {
        for (at, block) in self.behind.into_iter().enumerate() {
            self.sum.add(block, power(self.key, BLOCKS + 1 - at));
        }
        self.sum.add(self.lengths(), power(self.key, 1));
        let tags = _mm512_xor_si512(reverse(self.sum.reduce()), self.mask);
        let mut places = [std::ptr::null_mut(); LANES];
        for (place, packet) in places.iter_mut().zip(&mut self.packets) {
            *place = packet.buffer.as_mut_ptr().wrapping_add(packet.buffer.len() - TAG_LEN);
        }
        if SEAL {
            // SAFETY: the last sixteen octets of each buffer, which is that long.
            unsafe { scatter(places, tags) };
            return;
        }
        if BLOCKS > 0 {
            // Where a partial block was written whole, the tag no longer stands.
            // SAFETY: as above.
            unsafe { scatter(places, self.claimed) };
        }
        // All of it at once, and only whether it was right goes on from here.
        let wrong = _mm512_cmpneq_epi64_mask(tags, self.claimed);
        for (lane, packet) in self.packets.into_iter().enumerate() {
            packet.authentic = (wrong >> (2 * lane)) & 3 == 0;
            if !packet.authentic {
                wipe(packet.buffer);
            }
        }
    }

    /// The blocks of lengths, in the octet order of the multiplier: text in the lower, AAD in the upper half.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn lengths(&self) -> __m512i {
        let bits = self.packets.each_ref().map(|packet| {
            let (aad, text) = (packet.aad_len.min(MAX_AAD), packet.buffer.len() - TAG_LEN);
            ((aad << 35) | (text << 3)) as i64
        });
        let [a, b, c, d] = bits;
        let bits = if a == b && b == c && c == d {
            _mm512_set1_epi64(a)
        } else {
            _mm512_set_epi64(0, d, 0, c, 0, b, 0, a)
        };
        // Text from the first word of each lane, AAD from the second.
        _mm512_maskz_shuffle_epi32::<0b11_01_10_00>(0x5555, bits)
    }
}

/// GHASH of four packets, a lane for each.
struct Hash<'k> {
    key: &'k Key,
    sum: Sum,
    /// Four blocks of each packet that come next.
    columns: [__m512i; LANES],
    /// Vectors of each packet that are left.
    left: usize,
    /// So many of the last can go together with what is behind them.
    last: usize,
    /// The power of H for the next block.
    power: usize,
    /// Vectors that can be added before the sum must be reduced.
    room: usize,
    /// Blocks that follow upon the last vector: those behind, and the lengths.
    behind: usize,
}

impl<'k> Hash<'k> {
    /// Begins with the AAD.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn new(key: &'k Key, aads: __m512i, vectors: usize, blocks: usize) -> Self {
        let behind = blocks + 1;
        let last = vectors.min((POWERS - behind) / LANES);
        let all = 1 + LANES * vectors + behind;
        let (first, room) = if all <= POWERS {
            (all, usize::MAX)
        } else {
            // As many as make what is left whole passes.
            let room = (vectors - last) % LANES;
            (LANES * room + 1, room)
        };
        let sum = Sum::of(aads, power(key, first));
        Self {
            key,
            sum,
            columns: [_mm512_setzero_si512(); LANES],
            left: vectors,
            last,
            power: first - 1,
            room,
            behind,
        }
    }

    /// Before the four blocks: makes room.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn begin(&mut self) {
        if self.room == 0 {
            self.columns[0] = _mm512_xor_si512(self.columns[0], self.sum.reduce());
            self.sum = Sum::none();
            (self.power, self.room) = if self.left <= self.last {
                (LANES * self.left + self.behind, usize::MAX)
            } else {
                (POWERS, LANES)
            };
        }
        self.room -= 1;
        self.left -= 1;
    }

    /// Adds two of the four blocks.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn two(&mut self, which: [usize; 2]) {
        let powers = [power(self.key, self.power), power(self.key, self.power - 1)];
        self.sum.add_two(which.map(|at| self.columns[at]), powers);
        self.power -= 2;
    }
}

/// A power of H in each lane.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn power(key: &Key, exponent: usize) -> __m512i {
    _mm512_broadcast_i32x4(load(&key.powers[(POWERS - exponent) % POWERS]))
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

/// Each lane to a vector of its own.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn spread(lanes: __m512i) -> [__m512i; LANES] {
    [
        _mm512_shuffle_i32x4::<0x00>(lanes, lanes),
        _mm512_shuffle_i32x4::<0x55>(lanes, lanes),
        _mm512_shuffle_i32x4::<0xaa>(lanes, lanes),
        _mm512_shuffle_i32x4::<0xff>(lanes, lanes),
    ]
}

/// # Safety
/// Sixteen octets may be read at each place.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
unsafe fn gather([a, b, c, d]: [*const u8; LANES]) -> __m512i {
    // SAFETY: by contract.
    unsafe {
        let low = _mm256_loadu2_m128i(b.cast(), a.cast());
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), _mm256_loadu2_m128i(d.cast(), c.cast()))
    }
}

/// # Safety
/// Sixteen octets may be written at each place.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
unsafe fn scatter([a, b, c, d]: [*mut u8; LANES], lanes: __m512i) {
    // SAFETY: by contract.
    unsafe {
        _mm_storeu_si128(a.cast(), _mm512_castsi512_si128(lanes));
        _mm_storeu_si128(b.cast(), _mm512_extracti32x4_epi32::<1>(lanes));
        _mm_storeu_si128(c.cast(), _mm512_extracti32x4_epi32::<2>(lanes));
        _mm_storeu_si128(d.cast(), _mm512_extracti32x4_epi32::<3>(lanes));
    }
}
