//! Longer packets of one key and one length: eight vectors of one packet at a time.
//!
//! Carry-less multiplication shares the ports of AES, and so do shuffles, half of the time; so multiplications count
//! like rounds of AES do. Here GHASH takes three for each vector in place of four (see `powers`), and vectors are not
//! transposed: the lanes are added up once per four packets. Eight chains of AES hide the latency of each.
//!
//! Four packets still go together for what is not a whole vector of text: the blocks that mask the tags, and those
//! behind the whole vectors, have a lane for each packet, as in `four`. When sealing, GHASH is one packet behind AES,
//! since it needs the ciphertext; when opening, both take the same packet.
#![expect(unsafe_code, reason = "vectors are read from packets and read and written in their buffers")]
#![expect(clippy::indexing_slicing, reason = "indices are lanes, or constants of unrolled loops")]

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::ahead::{Ahead, TURN, Table};
use super::four::{finish_block, finish_tags, gather, spread};
use super::hash::{Sum, reverse, reverse_of, xor3};
use super::picked::Picked;
use super::powers::{PARTS, Pair, Powers, STEP, Sums};
use super::{LANES, pin, power, round_key, unroll};
use crate::key::Schedule;
use crate::{Key, MAX_AAD, Packet, TAG_LEN};

/// Text of so many octets can go this way: two steps at least, since one gains too little for what is done once a run and
/// once a packet, and less than what makes the last octet of a counter come round.
const OCTETS: std::ops::Range<usize> = 2 * 64 * STEP..64 * (TURN - 1);

/// Octets of text in all packets together, from which on more is saved than it costs to prepare the powers of H and to hash
/// the last packet with no AES beside it.
const WORTH: usize = 8192;

/// Whether so many packets, with text of so many octets each, are for this.
#[inline]
pub(super) fn takes(packets: usize, len: usize) -> bool {
    OCTETS.contains(&len) && packets * len >= WORTH
}

/// Seals or opens packets four by four. Leaves those that remain, or all if they are not for this.
///
/// # Safety
/// The packets have one key, and their buffers and AADs one length, such that [`takes`] them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
pub(super) unsafe fn run<const SEAL: bool>(packets: &mut Picked<'_, '_>) {
    let Some(first) = packets.peek() else { return };
    let rounds = match first.key.schedule {
        Schedule::Aes128 => 10,
        Schedule::Aes256 => 14,
        Schedule::Raw128 | Schedule::Raw256 | Schedule::Interop => return,
    };
    let len = first.buffer.len() - TAG_LEN;
    macro_rules! dispatch {
        ($($blocks:literal)*) => {
            match (rounds, (len % 64).div_ceil(16)) {
                $((10, $blocks) => alike::<$blocks, 10, SEAL>(packets),
                (_, $blocks) => alike::<$blocks, 14, SEAL>(packets),)*
                _ => {}
            }
        };
    }
    // SAFETY: by contract, and the constants are those of the length.
    unsafe { dispatch!(0 1 2 3 4) }
}

/// The same, where BLOCKS are behind the whole vectors of text.
///
/// # Safety
/// The same, and the constants are those of the length.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
unsafe fn alike<const BLOCKS: usize, const ROUNDS: usize, const SEAL: bool>(packets: &mut Picked<'_, '_>) {
    let mut next = packets.next_four();
    let Some([first, ..]) = &next else { return };
    let (key, aad_len, octets) = (first.key, first.aad_len, first.buffer.len());
    let mut table = Table::new();
    let run = Run::<BLOCKS, ROUNDS, SEAL>::new(key, aad_len.min(MAX_AAD), octets - TAG_LEN, &mut table);
    let mut sums = [Sums::none(); LANES];
    // These stay where they are: moved, they would be read as a whole just after they were written in pieces.
    let (mut here, mut before) = (Lanes::none(), Lanes::none());
    let (mut here, mut before) = (&mut here, &mut before);
    let mut pending: Option<Pending<'_, '_, BLOCKS>> = None;
    while let Some(four) = next {
        // SAFETY: by contract, their text is as long as the run was told. Only what has been filled is hashed, except
        // beside the first packet that is sealed: that hashes its own text, and the next one replaces the sum.
        unsafe {
            let mut four = Some(run.head(four, here));
            let mut tail = None;
            if !SEAL && let Some(four) = four.take() {
                tail = Some(run.tail(four, here, pending.take(), &sums));
            }
            for lane in 0..LANES {
                let (hashed, from) = match lane {
                    _ if !SEAL => (&*here, lane),
                    0 if pending.is_some() => (&*before, LANES - 1),
                    _ => (&*here, lane.saturating_sub(1)),
                };
                run.rows.pass::<ROUNDS>((here, lane), (hashed, from), &mut sums);
                if SEAL && let Some(four) = four.take() {
                    tail = Some(run.tail(four, here, pending.take(), &sums));
                }
            }
            pending = tail;
        }
        std::mem::swap(&mut here, &mut before);
        next = packets.next_four();
    }
    if let Some(last) = pending {
        if SEAL {
            // SAFETY: the last packet, which has been enciphered.
            sums[LANES - 1] = unsafe { run.rows.absorb(before, LANES - 1) };
        }
        run.complete::<1>(last, &sums);
    }
}

/// What packets have in common that are alike.
struct Run<'k, const BLOCKS: usize, const ROUNDS: usize, const SEAL: bool> {
    rows: Rows<'k>,
    /// The lengths' part of GHASH, as it is added to a tag.
    closing: __m512i,
    /// Which octets of the AADs count, in the order of the multiplier.
    aad: u64,
    /// Which octets of the last blocks are text.
    last: u64,
}

/// What whole vectors of text need.
struct Rows<'k> {
    key: &'k Key,
    ahead: Ahead<'k>,
    powers: Powers,
    /// Whole vectors of text in each packet: a step of them at least.
    vectors: usize,
    /// Blocks that GHASH takes behind them.
    behind: usize,
}

/// The same of four packets.
struct Lanes {
    texts: [*mut u8; LANES],
    /// Their counter blocks after the first round, but for the last octet.
    bases: [__m512i; LANES],
    /// GHASH of the AADs.
    carries: [__m128i; LANES],
}

/// Four packets that were taken apart.
struct Four<'p, 'q> {
    packets: [&'p mut Packet<'q>; LANES],
    /// Their counter blocks, a lane each.
    base: __m512i,
    /// The tags that came with the packets.
    claimed: __m512i,
}

/// Four packets whose text is done. Left to do: GHASH of the blocks behind their whole vectors, and the tags.
struct Pending<'p, 'q, const BLOCKS: usize> {
    packets: [&'p mut Packet<'q>; LANES],
    /// As GHASH takes them.
    blocks: [__m512i; BLOCKS],
    /// What hides the tags.
    mask: __m512i,
    /// The tags that came with the packets.
    claimed: __m512i,
}

impl Lanes {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn none() -> Self {
        let zero = _mm512_setzero_si512();
        Self {
            texts: [std::ptr::null_mut(); LANES],
            bases: [zero; LANES],
            carries: [_mm_setzero_si128(); LANES],
        }
    }
}

impl<'k, const BLOCKS: usize, const ROUNDS: usize, const SEAL: bool> Run<'k, BLOCKS, ROUNDS, SEAL> {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn new(key: &'k Key, aad_len: usize, len: usize, table: &'k mut Table) -> Self {
        let vectors = len / 64;
        let lengths = _mm512_broadcast_i32x4(_mm_set_epi64x(8 * aad_len as i64, 8 * len as i64));
        // In each of four lanes.
        let four_times = |octets: u64| octets * 0x0001_0001_0001_0001;
        Self {
            rows: Rows {
                key,
                ahead: Ahead::new(key, vectors, table),
                powers: Powers::new(key, LANES * STEP + BLOCKS + 1),
                vectors,
                behind: BLOCKS + 1,
            },
            closing: reverse(Sum::of(lengths, power(key, 1)).reduce()),
            aad: four_times(0xffff & !(0xffff >> aad_len)),
            last: four_times(0xffff >> (16 * BLOCKS - (len % 64).min(16 * BLOCKS))),
        }
    }

    /// Takes four packets apart, and hashes their AADs.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn head<'p, 'q>(&self, mut packets: [&'p mut Packet<'q>; LANES], lanes: &mut Lanes) -> Four<'p, 'q> {
        let (mut tags, mut nonces, mut aads) =
            ([std::ptr::null(); LANES], [std::ptr::null(); LANES], [std::ptr::null(); LANES]);
        for (lane, packet) in packets.iter_mut().enumerate() {
            let text = packet.buffer.as_mut_ptr();
            lanes.texts[lane] = text;
            tags[lane] = text.wrapping_add(packet.buffer.len() - TAG_LEN).cast_const();
            let whole = std::ptr::from_ref::<Packet<'_>>(packet).cast::<u8>();
            nonces[lane] = whole.wrapping_add(offset_of!(Packet<'_>, nonce));
            aads[lane] = whole.wrapping_add(offset_of!(Packet<'_>, aad));
        }
        // SAFETY: sixteen octets from there on are inside the packet, as `job` asserts.
        let (nonces, aads) = unsafe { (gather(nonces), gather(aads)) };
        let claimed = if SEAL {
            _mm512_setzero_si512()
        } else {
            // SAFETY: the last sixteen octets of each buffer.
            unsafe { gather(tags) }
        };
        let base = self.rows.ahead.first_base(nonces);
        lanes.bases = spread(base);
        let aads = Sum::of(reverse_of(self.aad, aads), power(self.rows.key, 1)).reduce();
        lanes.carries = [
            _mm512_castsi512_si128(aads),
            _mm512_extracti32x4_epi32::<1>(aads),
            _mm512_extracti32x4_epi32::<2>(aads),
            _mm512_extracti32x4_epi32::<3>(aads),
        ];
        Four { packets, base, claimed }
    }

    /// Enciphers what is behind the whole vectors, and what hides the tags. Completes the four before meanwhile, whose
    /// `sums` are ready.
    ///
    /// # Safety
    /// Their text is as long as the run was told.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    unsafe fn tail<'p, 'q>(
        &self,
        four: Four<'p, 'q>,
        lanes: &Lanes,
        mut before: Option<Pending<'p, 'q, BLOCKS>>,
        sums: &[Sums; LANES],
    ) -> Pending<'p, 'q, BLOCKS> {
        let Four { packets, base, claimed } = four;
        let Rows { key, ahead, vectors, .. } = &self.rows;
        let mut mask = _mm512_xor_si512(base, ahead.of_mask());
        let mut blocks = [base; BLOCKS];
        for (at, block) in blocks.iter_mut().enumerate() {
            // SAFETY: of the vector behind the last whole one, which the table has.
            *block = _mm512_xor_si512(base, unsafe { ahead.of_block(LANES * vectors + at) });
        }
        unroll!(ROUND in [2 3 4 5 6 7 8 9 10 11 12 13] {
            if ROUND < ROUNDS {
                let key = round_key(key, ROUND);
                mask = pin(_mm512_aesenc_epi128(mask, key));
                for block in &mut blocks {
                    *block = pin(_mm512_aesenc_epi128(*block, key));
                }
            }
            if ROUND == 7 && let Some(before) = before.take() {
                self.complete::<0>(before, sums);
            }
        });
        let last_key = round_key(key, ROUNDS);
        mask = _mm512_aesenclast_epi128(mask, last_key);
        for (at, block) in blocks.iter_mut().enumerate() {
            // SAFETY: blocks of text. Only the last may be partial, and behind the text is a tag, which is written later.
            *block = unsafe { finish_block::<SEAL>(*block, last_key, lanes.texts, 64 * vectors + 16 * at) };
            *block = if at + 1 == BLOCKS {
                reverse(_mm512_maskz_mov_epi8(self.last, *block))
            } else {
                reverse(*block)
            };
        }
        Pending { packets, blocks, mask, claimed }
    }

    /// Hashes what is behind the whole vectors and writes or checks the tags. COPY only makes instances that are called
    /// from one place each: those are what gets inlined.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn complete<const COPY: u8>(&self, four: Pending<'_, '_, BLOCKS>, sums: &[Sums; LANES]) {
        let Pending { packets, blocks, mask, claimed } = four;
        let mut sum = Sums::of_lanes(sums).sum();
        for (at, block) in blocks.into_iter().enumerate() {
            sum.add(block, power(self.rows.key, BLOCKS + 1 - at));
        }
        finish_tags::<SEAL>(packets, xor3(reverse(sum.reduce()), mask, self.closing), claimed, BLOCKS > 0);
    }
}

impl Rows<'_> {
    /// Vectors of each step, and whether it is the last: steps are as alike as can be.
    #[inline]
    fn steps(&self) -> impl Iterator<Item = (usize, bool)> + use<> {
        let count = self.vectors.div_ceil(STEP).max(1);
        let (least, longer) = (self.vectors / count, self.vectors % count);
        (0..count).map(move |step| (least + usize::from(step < longer), step + 1 == count))
    }

    /// Enciphers the packet of a lane, and hashes another (or the same, before it is opened). The sums of its
    /// last step take their place among those of four.
    ///
    /// # Safety
    /// Both have as much text as the run was told.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline(never)]
    unsafe fn pass<const ROUNDS: usize>(
        &self,
        (lanes, lane): (&Lanes, usize),
        (hashed, from): (&Lanes, usize),
        all_sums: &mut [Sums; LANES],
    ) {
        let (mut text, mut hashed_text) = (lanes.texts[lane], hashed.texts[from].cast_const());
        let mut carry = hashed.carries[from];
        let mut done = 0;
        for (vectors, last) in self.steps() {
            let power = LANES * vectors + if last { self.behind } else { 0 };
            macro_rules! dispatch {
                ($($n:literal)*) => {
                    match vectors {
                        // SAFETY: by contract, there are so many vectors of text, and the table has as many.
                        $($n => unsafe {
                            self.step::<$n, ROUNDS>(text, lanes.bases[lane], done, hashed_text, carry, power)
                        },)*
                        _ => Sums::none(),
                    }
                };
            }
            // A step of eight at least has no parts below four.
            let sums = dispatch!(4 5 6 7 8);
            if last {
                all_sums[from] = sums;
            } else {
                carry = sums.sum().total();
            }
            text = text.wrapping_add(64 * vectors);
            hashed_text = hashed_text.wrapping_add(64 * vectors);
            done += vectors;
        }
    }

    /// Enciphers N vectors, from vector `done` of a packet on, while GHASH takes as many, whose first block meets that
    /// power. `carry` is GHASH of what comes before.
    ///
    /// # Safety
    /// There are so many vectors in both places, and in the tables.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    unsafe fn step<const N: usize, const ROUNDS: usize>(
        &self,
        text: *mut u8,
        base: __m512i,
        done: usize,
        hashed: *const u8,
        carry: __m128i,
        power: usize,
    ) -> Sums {
        let mut states = [base; N];
        for (v, state) in states.iter_mut().enumerate() {
            // SAFETY: by contract.
            *state = _mm512_xor_si512(base, unsafe { self.ahead.of_vector(done + v) });
        }
        let mut sums = Sums::none();
        let mut pair = Pair::none();
        let parts = N.div_ceil(2) * PARTS;
        unroll!(ROUND in [2 3 4 5 6 7 8 9 10 11 12 13] {
            if ROUND < ROUNDS {
                let key = round_key(self.key, ROUND);
                for state in &mut states {
                    *state = pin(_mm512_aesenc_epi128(*state, key));
                }
                // The parts of GHASH, evenly among the rounds. The first pair, which waits for the carry, comes last.
                unroll!(AT in [0 1 2 3 4 5 6 7 8 9 10 11] {
                    let (from, to) = ((ROUND - 2) * parts / (ROUNDS - 2), (ROUND - 1) * parts / (ROUNDS - 2));
                    if (from..to).contains(&AT) {
                        let v = 2 * ((parts - 1 - AT) / PARTS);
                        let one = v + 1 == N;
                        // SAFETY: by contract.
                        unsafe {
                            if AT.is_multiple_of(PARTS) {
                                pair = Pair::read(hashed.add(64 * v), one, (v == 0).then_some(carry));
                            }
                            let power = power - LANES * v;
                            match (AT % PARTS, one) {
                                (0, false) => sums.add::<0, false>(&pair, &self.powers, power),
                                (1, false) => sums.add::<1, false>(&pair, &self.powers, power),
                                (_, false) => sums.add::<2, false>(&pair, &self.powers, power),
                                (0, true) => sums.add::<0, true>(&pair, &self.powers, power),
                                (1, true) => sums.add::<1, true>(&pair, &self.powers, power),
                                (_, true) => sums.add::<2, true>(&pair, &self.powers, power),
                            }
                        }
                    }
                });
            }
        });
        let key = round_key(self.key, ROUNDS);
        for (v, state) in states.into_iter().enumerate() {
            // SAFETY: by contract.
            unsafe {
                let place = text.add(64 * v).cast();
                let before = _mm512_loadu_si512(place);
                _mm512_storeu_si512(
                    place.cast(),
                    _mm512_aesenclast_epi128(state, _mm512_xor_si512(before, key)),
                );
            }
        }
        sums
    }

    /// Hashes the packet of a lane, and nothing besides.
    ///
    /// # Safety
    /// It has as much text as the run was told.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline(never)]
    unsafe fn absorb(&self, lanes: &Lanes, lane: usize) -> Sums {
        let mut text = lanes.texts[lane].cast_const();
        let mut carry = lanes.carries[lane];
        let mut sums = Sums::none();
        for (vectors, last) in self.steps() {
            let power = LANES * vectors + if last { self.behind } else { 0 };
            sums = Sums::none();
            for v in (0..vectors).step_by(2) {
                // SAFETY: by contract. An odd vector's neighbour is zero, and adds nothing.
                unsafe {
                    let pair = Pair::read(text.add(64 * v), v + 1 == vectors, (v == 0).then_some(carry));
                    sums.add::<0, false>(&pair, &self.powers, power - LANES * v);
                    sums.add::<1, false>(&pair, &self.powers, power - LANES * v);
                    sums.add::<2, false>(&pair, &self.powers, power - LANES * v);
                }
            }
            if !last {
                carry = sums.sum().total();
            }
            text = text.wrapping_add(64 * vectors);
        }
        sums
    }
}
