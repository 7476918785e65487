//! One packet after another, whatever their keys and lengths.
//!
//! A packet is a row of slots of sixteen octets, four to a vector. In the cipher's row, slot s holds counter block
//! s + 1: slot 0 makes the mask of the tag, slot 1 meets the first sixteen octets of text. In GHASH's row, slot 0
//! holds the AAD, the next ones the ciphertext and the one after it the lengths. So both rows run side by side,
//! without a seam, and the text of vector v starts 64 v - 16 octets into the buffer. Of the first and the last
//! two vectors some octets are masked off, in registers and in memory: nothing is copied.
//!
//! A packet of up to eight vectors (480 octets) is enciphered in one go; a longer one four vectors at a time, until
//! five to eight are left. GHASH runs one step behind AES, **also from one packet to the next**: what is left of a
//! packet ([`Pending`]) is completed after the next one's first AES has been issued. Without that, the processor's
//! reorder window (512 operations here) is full of instructions that wait for a packet's own results, and 64 octets
//! take 12.7 ns in place of 10.3. Interleaving the rounds of several packets by hand was measured, too, and gains
//! nothing over what the processor does by itself, since no packet waits for another.
#![expect(unsafe_code, reason = "masked loads and stores in packet buffers")]
#![expect(clippy::indexing_slicing, reason = "indices are constants of unrolled loops")]

use std::arch::x86_64::*;

use super::super::block::{REVERSE, load};
use super::super::job::{Job, class};
use super::super::other;
use super::hash::{Sum, reverse};
use super::picked::Picked;
use super::{LANES, round_key, unroll};
use crate::Key;
use crate::key::POWERS;

/// Vectors of a packet that is enciphered in one go.
const SHORT: usize = 8;

/// Vectors that GHASH takes in one pass: as many as there are powers of H.
const PASS: usize = POWERS / LANES;

/// The counters of sixteen slots in a row, big-endian in the last word of each.
#[repr(align(64))]
struct Counters([u128; POWERS]);

static COUNTERS: Counters = {
    let mut counters = [0; POWERS];
    let mut slot = 0;
    while slot < POWERS {
        counters[slot] = (slot as u128 + 1) << 120;
        slot += 1;
    }
    Counters(counters)
};

/// Where the words of a vector come from when one of its slots takes the lengths: word w of the vector itself is w,
/// of the lengths (text in word 0, AAD in word 1, zero above) 16 + w.
#[repr(align(64))]
struct LengthsInto([[i32; 16]; LANES]);

static LENGTHS_INTO: LengthsInto = {
    let mut words = [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]; LANES];
    let mut slot = 0;
    while slot < LANES {
        words[slot][4 * slot] = 16;
        words[slot][4 * slot + 1] = 18;
        words[slot][4 * slot + 2] = 17;
        words[slot][4 * slot + 3] = 18;
        slot += 1;
    }
    LengthsInto(words)
};

/// Seals or opens packets.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
pub(super) fn run<const SEAL: bool>(mut packets: Picked<'_, '_>) {
    while let Some(packet) = packets.peek() {
        match class(packet).map(|(rounds, slots)| (rounds, split(slots).1)) {
            Some((10, 1)) => alike::<1, 10, SEAL>(&mut packets),
            Some((10, 2)) => alike::<2, 10, SEAL>(&mut packets),
            Some((10, 3)) => alike::<3, 10, SEAL>(&mut packets),
            Some((10, 4)) => alike::<4, 10, SEAL>(&mut packets),
            Some((10, 5)) => alike::<5, 10, SEAL>(&mut packets),
            Some((10, 6)) => alike::<6, 10, SEAL>(&mut packets),
            Some((10, 7)) => alike::<7, 10, SEAL>(&mut packets),
            Some((10, _)) => alike::<8, 10, SEAL>(&mut packets),
            Some((_, 1)) => alike::<1, 14, SEAL>(&mut packets),
            Some((_, 2)) => alike::<2, 14, SEAL>(&mut packets),
            Some((_, 3)) => alike::<3, 14, SEAL>(&mut packets),
            Some((_, 4)) => alike::<4, 14, SEAL>(&mut packets),
            Some((_, 5)) => alike::<5, 14, SEAL>(&mut packets),
            Some((_, 6)) => alike::<6, 14, SEAL>(&mut packets),
            Some((_, 7)) => alike::<7, 14, SEAL>(&mut packets),
            Some((_, _)) => alike::<8, 14, SEAL>(&mut packets),
            None => {
                if let Some(packet) = packets.next() {
                    other::<SEAL>(packet);
                }
            }
        }
    }
}

/// Steps of sixteen slots that come first, and vectors of the step that comes last.
#[inline]
fn split(slots: usize) -> (usize, usize) {
    let vectors = slots.div_ceil(LANES);
    let steps = vectors.saturating_sub(SHORT).div_ceil(PASS);
    (steps, vectors - PASS * steps)
}

/// The packets from the first on whose last step has N vectors, up to one that has not.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
fn alike<const N: usize, const ROUNDS: usize, const SEAL: bool>(packets: &mut Picked<'_, '_>) {
    let mut pending: Option<Pending<'_, N>> = None;
    // Lengths are known long before any result: where this ends the loop, the processor finds out in time.
    while packets
        .peek()
        .and_then(class)
        .is_some_and(|(rounds, slots)| rounds == ROUNDS && split(slots).1 == N)
        && let Some(packet) = packets.next()
    {
        pending = Some(encipher::<N, ROUNDS, SEAL>(Job::new(packet), pending));
    }
    if let Some(last) = pending {
        last.complete::<SEAL, 2>();
    }
}

/// A packet whose text is done. Left to do: GHASH of the last N vectors, and the tag.
struct Pending<'p, const N: usize> {
    job: Job<'p>,
    /// Slots of those vectors that are in use.
    slots: usize,
    /// What GHASH takes next, each block reversed; the state of GHASH so far is added to the first.
    hash: [__m512i; N],
    /// What hides the tag.
    mask: __m128i,
}

impl<const N: usize> Pending<'_, N> {
    /// Hashes what is left and writes or checks the tag. COPY: as OF in [`Row::step`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn complete<const SEAL: bool, const COPY: u8>(self) {
        let Self { job, mut slots, hash, mask } = self;
        let mut sum = Sum::none();
        for (v, mut blocks) in hash.into_iter().enumerate() {
            if v == PASS {
                blocks = _mm512_xor_si512(blocks, _mm512_zextsi128_si512(sum.total()));
                sum = Sum::none();
                slots -= POWERS;
            }
            let whole_pass = N > PASS && v < PASS;
            sum.add(blocks, powers(job.key, if whole_pass { POWERS } else { slots }, v % PASS));
        }
        let tag = _mm_xor_si128(_mm_shuffle_epi8(sum.total(), load(&REVERSE)), mask);
        job.finish::<SEAL>(tag);
    }
}

/// Enciphers a packet, and hashes all but its last N vectors. Completes the one `before` it as soon as the first AES
/// is under way.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn encipher<'p, const N: usize, const ROUNDS: usize, const SEAL: bool>(
    mut job: Job<'p>,
    before: Option<Pending<'p, N>>,
) -> Pending<'p, N> {
    let slots = job.slots();
    let start = _mm512_xor_si512(_mm512_maskz_broadcast_i32x4(0x7777, job.nonce), round_key(job.key, 0));
    let mut row =
        Row { start, base: start, counter: 0, place: job.text().wrapping_sub(16), octets: job.octets() };
    let aad = _mm512_zextsi128_si512(_mm_shuffle_epi8(job.aad, load(&REVERSE)));
    let steps = if N > PASS { split(slots).0 } else { 0 };
    if steps == 0 {
        // SAFETY: `place` and `octets` are the packet's own, from slot 0 on; the packet has N vectors.
        let (mut hash, mask, _) =
            unsafe { row.step::<N, N, ROUNDS, SEAL, true, true>(job.key, &[aad; PASS]) };
        hash[N - 1] = with_lengths(hash[N - 1], (slots - 1) % LANES, &job);
        hash[0] = _mm512_xor_si512(hash[0], aad);
        if let Some(before) = before {
            before.complete::<SEAL, 0>();
        }
        return Pending { job, slots, hash, mask };
    }
    // SAFETY: as above; before each of the steps, more than eight vectors are left.
    let (mut hash, mask, _) =
        unsafe { row.step::<PASS, N, ROUNDS, SEAL, true, false>(job.key, &[aad; PASS]) };
    hash[0] = _mm512_xor_si512(hash[0], aad);
    if let Some(before) = before {
        before.complete::<SEAL, 1>();
    }
    for _ in 1..steps {
        // SAFETY: as above.
        let (next, _, state) = unsafe { row.step::<PASS, N, ROUNDS, SEAL, false, false>(job.key, &hash) };
        hash = next;
        hash[0] = _mm512_xor_si512(hash[0], state);
    }
    // SAFETY: as above; N vectors are left.
    let (mut last, _, state) = unsafe { row.step::<N, N, ROUNDS, SEAL, false, true>(job.key, &hash) };
    last[N - 1] = with_lengths(last[N - 1], (slots - 1) % LANES, &job);
    last[0] = _mm512_xor_si512(last[0], state);
    Pending { job, slots: slots - POWERS * steps, hash: last, mask }
}

/// Where the work on a packet stands.
struct Row {
    /// The nonce and the first round key in each slot.
    start: __m512i,
    /// The same with the counter of the slot before the next sixteen, a multiple of 16.
    base: __m512i,
    counter: u32,
    /// Where the text of the next slot lies (of slot 0: sixteen octets before the buffer).
    place: *mut u8,
    /// Octets from there to the end of the text.
    octets: usize,
}

impl Row {
    /// Enciphers the next N vectors; unless they are the FIRST, hashes the sixteen slots before them meanwhile.
    /// Returns what GHASH takes of the new ones (each block reversed), the keystream of the first slot (meaningful if
    /// it is the packet's) and GHASH so far.
    ///
    /// OF and the like only make instances that are called from one place each: those are what gets inlined.
    ///
    /// # Safety
    /// `octets` octets at `place` may be read and written, but of the FIRST not the first sixteen. There are at least
    /// 64 N of them, or of the LAST more than 64 N - 80.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    unsafe fn step<
        const N: usize,
        const OF: usize,
        const ROUNDS: usize,
        const SEAL: bool,
        const FIRST: bool,
        const LAST: bool,
    >(
        &mut self,
        key: &Key,
        hash: &[__m512i; PASS],
    ) -> ([__m512i; N], __m128i, __m512i) {
        let of = key;
        let mut sum = Sum::none();
        let mut hashed = _mm_setzero_si128();
        let mut state = self.counters::<N>();
        unroll!(ROUND in [1 2 3 4 5 6 7 8 9 10 11 12 13] {
            if ROUND < ROUNDS {
                let key = round_key(key, ROUND);
                for block in &mut state {
                    *block = _mm512_aesenc_epi128(*block, key);
                }
                if !FIRST && let Some(blocks) = hash.get(ROUND - 1) {
                    sum.add(*blocks, powers(of, POWERS, ROUND - 1));
                }
                if !FIRST && ROUND == 6 {
                    hashed = sum.total();
                }
            }
        });
        let key = round_key(key, ROUNDS);
        let mut taken = state;
        for v in 0..N {
            let place = self.place.wrapping_add(64 * v).cast::<i8>();
            let partial = LAST && v + 2 >= N;
            let (before, after);
            if partial || (v == 0 && FIRST) {
                let mask = if partial {
                    _bzhi_u64(!0, self.octets.saturating_sub(64 * v).min(64) as u32)
                } else {
                    !0
                };
                let mask = if v == 0 && FIRST { mask & !0xffff } else { mask };
                // SAFETY: the mask leaves only octets of text.
                before = unsafe { _mm512_maskz_loadu_epi8(mask, place) };
                state[v] = _mm512_aesenclast_epi128(state[v], _mm512_xor_si512(before, key));
                // SAFETY: as above.
                unsafe { _mm512_mask_storeu_epi8(place, mask, state[v]) };
                after = if SEAL { _mm512_maskz_mov_epi8(mask, state[v]) } else { state[v] };
            } else {
                // SAFETY: all of the vector is text.
                before = unsafe { _mm512_loadu_si512(place.cast()) };
                after = _mm512_aesenclast_epi128(state[v], _mm512_xor_si512(before, key));
                // SAFETY: as above.
                unsafe { _mm512_storeu_si512(place.cast(), after) };
            }
            taken[v] = reverse(if SEAL { after } else { before });
        }
        self.place = self.place.wrapping_add(64 * N);
        self.octets = self.octets.saturating_sub(64 * N);
        (taken, _mm512_castsi512_si128(state[0]), _mm512_zextsi128_si512(hashed))
    }

    /// The next N vectors of counter blocks, the first round key already added.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn counters<const N: usize>(&mut self) -> [__m512i; N] {
        let mut blocks = [_mm512_setzero_si512(); N];
        for (v, block) in blocks.iter_mut().enumerate() {
            // SAFETY: a vector of the table, which is aligned to vectors.
            let counters = unsafe { _mm512_load_si512(COUNTERS.0.as_ptr().add(LANES * (v % PASS)).cast()) };
            // No carry: the lowest four bits of the base are zero. Only the sixteenth slot has those of the next.
            *block = _mm512_xor_si512(self.base, counters);
            if v % PASS == PASS - 1 {
                self.counter += POWERS as u32;
                let counter = _mm512_maskz_set1_epi32(0x8888, self.counter.swap_bytes().cast_signed());
                self.base = _mm512_xor_si512(self.start, counter);
                *block = _mm512_mask_mov_epi64(*block, 0xc0, self.base);
            }
        }
        blocks
    }
}

/// The powers of H for that vector of a row of `slots` (at most sixteen) that ends at H^1.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn powers(key: &Key, slots: usize, vector: usize) -> __m512i {
    let first = (POWERS - slots.min(POWERS)) + LANES * vector.min(PASS - 1);
    // SAFETY: at most 31 + 4 blocks into the key, which is 32 long: the vector is one that has a slot of the row, so
    // that it begins at H^1 at the latest. What it holds past H^1 is of the round keys, and meets empty slots: zeros.
    unsafe { _mm512_loadu_si512(std::ptr::from_ref(key).cast::<u128>().add(first).cast()) }
}

/// The block of lengths put into that lane of a vector of reversed blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn with_lengths(blocks: __m512i, lane: usize, job: &Job<'_>) -> __m512i {
    let lengths = _mm512_zextsi128_si512(_mm_cvtsi64_si128(job.lengths()));
    // SAFETY: a vector of the table, which is aligned to vectors.
    let words = unsafe { _mm512_load_si512(LENGTHS_INTO.0[lane].as_ptr().cast()) };
    _mm512_permutex2var_epi32(blocks, words, lengths)
}
