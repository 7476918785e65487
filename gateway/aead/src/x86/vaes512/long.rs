//! Packets of one key and one length, from 256 octets on: eight vectors at a time, of one packet, or of two that are short.
//!
//! Carry-less multiplication shares the ports of AES, and so do shuffles, half of the time; so multiplications count
//! like rounds of AES do. Here GHASH takes three for each vector in place of four (see `powers`), and vectors are not
//! transposed: the lanes are added up once per four packets. Eight chains of AES hide the latency of each.
//!
//! Up to 32 packets go through four phases together, so that in each the processor finds work that does not wait:
//! [`Run::begin`] takes them apart by fours; [`Run::ends`] enciphers what is not a whole vector of text, the blocks that
//! mask the tags and those behind the whole vectors, with a lane for each packet, as in `four`; [`Rows::pass`] does the whole vectors
//! of one packet after the other; [`Run::complete`] hashes what is behind and does the tags. When sealing, GHASH is a packet
//! (or two) behind AES, since it needs the ciphertext; when opening, both take the same packet.
#![expect(unsafe_code, reason = "vectors are read from packets and read and written in their buffers")]
#![expect(
    clippy::indexing_slicing,
    reason = "indices are lanes, packets of a phase, or constants of unrolled loops"
)]

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::block::load;
use super::ahead::{Ahead, TURN, Table};
use super::apart::{Apart, Frame, finish_block, finish_tags};
use super::four::LONGEST;
use super::hash::{Sum, reverse, xor3};
use super::picked::Picked;
use super::powers::{PARTS, Pair, Powers, STEP, Sums};
use super::{LANES, pin, power, round_key, unroll};
use crate::key::Schedule;
use crate::{Key, Packet, TAG_LEN};

/// Text of so many octets can go this way, when it is sealed: a step at least, since the last packets are hashed with no
/// AES beside it.
const SEALED: Range<usize> = 64 * STEP..LONGEST;

/// The same when it is opened: half a step.
const OPENED: Range<usize> = 64 * SHORT..LONGEST;

/// Vectors of packets that go by twos.
const SHORT: usize = STEP / 2;

/// Octets of text in all packets together, from which on more is saved than it costs to prepare the powers of H and to hash
/// the last packet with no AES beside it.
const WORTH: usize = 8192;

/// Fours that go through the phases together.
const FOURS: usize = 8;

/// Whether so many packets, with text of so many octets each, are for this.
#[inline]
pub(super) fn takes<const SEAL: bool>(packets: usize, len: usize) -> bool {
    (if SEAL { SEALED } else { OPENED }).contains(&len) && packets * len >= WORTH
}

/// Seals or opens packets four by four. Leaves those that remain, or all if they are not for this.
///
/// # Safety
/// The packets have one key, and their buffers and AADs one length, such that [`takes`] them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
pub(super) unsafe fn run<const SEAL: bool>(packets: &mut Picked<'_, '_>, akin: bool) {
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
                $((10, $blocks) => alike::<$blocks, 10, SEAL>(packets, akin),
                (_, $blocks) => alike::<$blocks, 14, SEAL>(packets, akin),)*
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
#[inline(never)]
unsafe fn alike<const BLOCKS: usize, const ROUNDS: usize, const SEAL: bool>(
    packets: &mut Picked<'_, '_>,
    akin: bool,
) {
    let Some(first) = packets.peek() else { return };
    let (mut table, mut powers) = (Table::new(), Powers::new());
    let (key, len) = (first.key, first.buffer.len() - TAG_LEN);
    let (vectors, behind) = (len / 64, BLOCKS + 1);
    powers.fill(key, LANES * vectors.min(STEP) + behind);
    let ahead = Ahead::new(key, vectors, akin.then_some(&first.nonce), &mut table);
    let run = Run::<BLOCKS, ROUNDS, SEAL> {
        rows: Rows { key, ahead, powers: &powers, vectors, behind },
        frame: Frame::new(key, first.aad_len, len),
    };
    while packets.count() >= LANES {
        // SAFETY: by contract, their text is as long as the run was told.
        unsafe { run.phases(packets) };
    }
}

/// What packets have in common that are alike.
struct Run<'k, const BLOCKS: usize, const ROUNDS: usize, const SEAL: bool> {
    rows: Rows<'k>,
    frame: Frame<BLOCKS>,
}

/// What whole vectors of text need.
struct Rows<'k> {
    key: &'k Key,
    ahead: Ahead<'k>,
    powers: &'k Powers,
    /// Whole vectors of text in each packet: half a step of them at least.
    vectors: usize,
    /// Blocks that GHASH takes behind them.
    behind: usize,
}

/// What the second phase needs to know of packets, by fours. A vector has a lane for each.
struct Lanes {
    texts: Fours<[*mut u8; LANES]>,
    nonces: Fours<__m512i>,
    /// Their counter blocks after two rounds, but for what the counter contributes.
    bases: Fours<__m512i>,
    /// GHASH of the AADs.
    carries: Fours<__m512i>,
}

/// What the last phase needs besides: for GHASH of the blocks behind the whole vectors, and the tags.
struct Rest<'p, 'q, const BLOCKS: usize> {
    packets: Fours<[&'p mut Packet<'q>; LANES]>,
    /// As GHASH takes them.
    blocks: Fours<[__m512i; BLOCKS]>,
    /// What hides the tags.
    masks: Fours<__m512i>,
    /// The tags that came with the packets.
    claimed: Fours<__m512i>,
}

/// Of those that have been begun.
type Fours<T> = [MaybeUninit<T>; FOURS];

impl<const BLOCKS: usize, const ROUNDS: usize, const SEAL: bool> Run<'_, BLOCKS, ROUNDS, SEAL> {
    /// Takes as many packets as it can through the phases.
    ///
    /// # Safety
    /// Their text is as long as the run was told.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    unsafe fn phases(&self, packets: &mut Picked<'_, '_>) {
        let mut lanes = Lanes::new();
        let mut rest = Rest::new();
        let mut count = 0;
        while count < FOURS
            && let Some(four) = packets.next_four()
        {
            // SAFETY: by contract.
            unsafe { self.begin(four, count, &mut lanes, &mut rest) };
            count += 1;
        }
        let mut sums = [const { MaybeUninit::uninit() }; FOURS];
        // SAFETY: by contract; so many were begun, and then passed over.
        unsafe {
            let mut first = 0;
            while first < count {
                // Four chains of AES at least, where there are enough, and twelve at most.
                first += match (BLOCKS, count - first) {
                    (0..=2, 4..) => {
                        self.ends::<4>(first, &lanes, &mut rest);
                        4
                    }
                    (_, 2..) => {
                        self.ends::<2>(first, &lanes, &mut rest);
                        2
                    }
                    _ => {
                        self.ends::<1>(first, &lanes, &mut rest);
                        1
                    }
                };
            }
            self.rows.pass::<ROUNDS, SEAL>(&lanes, count, &mut sums);
            for number in 0..count {
                self.complete(number, &rest, &sums);
            }
        }
    }

    /// Takes the four of that number apart, and hashes their AADs.
    ///
    /// # Safety
    /// Their text is as long as the run was told.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    unsafe fn begin<'p, 'q>(
        &self,
        packets: [&'p mut Packet<'q>; LANES],
        number: usize,
        lanes: &mut Lanes,
        rest: &mut Rest<'p, 'q, BLOCKS>,
    ) {
        let Apart { packets, texts, nonces, aads, claimed } = Apart::of::<SEAL>(packets);
        let aads = Sum::of(self.frame.aads(aads), power(self.rows.key, 1));
        lanes.texts[number].write(texts);
        lanes.nonces[number].write(nonces);
        lanes.bases[number].write(self.rows.ahead.first_base(nonces));
        lanes.carries[number].write(aads.reduce());
        rest.packets[number].write(packets);
        rest.claimed[number].write(claimed);
    }

    /// Enciphers what hides the tags, and what is behind the whole vectors, of N fours side by side.
    ///
    /// # Safety
    /// They have been begun, and their text is as long as the run was told.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    unsafe fn ends<const N: usize>(&self, first: usize, lanes: &Lanes, rest: &mut Rest<'_, '_, BLOCKS>) {
        let Rows { key, ahead, vectors, .. } = &self.rows;
        let mut masks = [_mm512_setzero_si512(); N];
        let mut blocks = [[_mm512_setzero_si512(); BLOCKS]; N];
        for n in 0..N {
            // SAFETY: by contract; of the vector behind the last whole one, which the table has.
            unsafe {
                let mut base = lanes.bases[first + n].assume_init();
                masks[n] = _mm512_xor_si512(base, ahead.of_mask());
                for (at, block) in blocks[n].iter_mut().enumerate() {
                    let at = LANES * vectors + at;
                    if *vectors >= TURN - 1 {
                        base = ahead.base(lanes.nonces[first + n].assume_init(), at + 2);
                    }
                    *block = _mm512_xor_si512(base, ahead.of_block(at));
                }
            }
        }
        if !ahead.akin {
            ahead.catch_up(&mut masks);
            for blocks in &mut blocks {
                ahead.catch_up(blocks);
            }
        }
        unroll!(ROUND in [3 4 5 6 7 8 9 10 11 12 13] {
            if ROUND < ROUNDS {
                let key = round_key(key, ROUND);
                for n in 0..N {
                    masks[n] = pin(_mm512_aesenc_epi128(masks[n], key));
                    for block in &mut blocks[n] {
                        *block = pin(_mm512_aesenc_epi128(*block, key));
                    }
                }
            }
        });
        let last_key = round_key(key, ROUNDS);
        for n in 0..N {
            rest.masks[first + n].write(_mm512_aesenclast_epi128(masks[n], last_key));
            for (at, block) in blocks[n].iter_mut().enumerate() {
                // SAFETY: blocks of text. Only the last may be partial, and behind the text is a tag, which is written
                // later.
                *block = unsafe {
                    let texts = lanes.texts[first + n].assume_init();
                    finish_block::<SEAL>(*block, last_key, texts, 64 * vectors + 16 * at)
                };
                *block = self.frame.block(at, *block);
            }
            rest.blocks[first + n].write(blocks[n]);
        }
    }

    /// Hashes what is behind the whole vectors of the four of that number, and writes or checks the tags.
    ///
    /// # Safety
    /// It is once that this is done, after they were begun and passed over.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    unsafe fn complete(&self, number: usize, rest: &Rest<'_, '_, BLOCKS>, sums: &Fours<Sums>) {
        // SAFETY: by contract.
        let (packets, blocks, mask, claimed, sums) = unsafe {
            (
                rest.packets[number].assume_init_read(),
                rest.blocks[number].assume_init_ref(),
                rest.masks[number].assume_init(),
                rest.claimed[number].assume_init(),
                sums[number].assume_init(),
            )
        };
        let mut sum = sums.sum();
        for (at, block) in blocks.iter().enumerate() {
            sum.add(*block, power(self.rows.key, BLOCKS + 1 - at));
        }
        let tags = xor3(reverse(sum.reduce()), mask, self.frame.closing);
        finish_tags::<SEAL>(packets, tags, claimed, BLOCKS > 0);
    }
}

impl<const BLOCKS: usize> Rest<'_, '_, BLOCKS> {
    #[inline]
    fn new() -> Self {
        Self {
            packets: [const { MaybeUninit::uninit() }; FOURS],
            blocks: [const { MaybeUninit::uninit() }; FOURS],
            masks: [const { MaybeUninit::uninit() }; FOURS],
            claimed: [const { MaybeUninit::uninit() }; FOURS],
        }
    }
}

impl Lanes {
    #[inline]
    fn new() -> Self {
        Self {
            texts: [const { MaybeUninit::uninit() }; FOURS],
            nonces: [const { MaybeUninit::uninit() }; FOURS],
            bases: [const { MaybeUninit::uninit() }; FOURS],
            carries: [const { MaybeUninit::uninit() }; FOURS],
        }
    }

    /// That packet's text, base and GHASH so far.
    ///
    /// # Safety
    /// It has been begun.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    unsafe fn of(&self, packet: usize) -> (*mut u8, __m512i, __m128i) {
        // SAFETY: by contract.
        unsafe {
            let text = *self.texts.as_ptr().cast::<*mut u8>().add(packet);
            (text, _mm512_broadcast_i32x4(lane(&self.bases, packet)), lane(&self.carries, packet))
        }
    }
}

/// That packet's lane.
///
/// # Safety
/// It has been written.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
unsafe fn lane(vectors: &Fours<__m512i>, packet: usize) -> __m128i {
    // SAFETY: by contract.
    load(unsafe { &*vectors.as_ptr().cast::<u128>().add(packet) })
}

impl Rows<'_> {
    /// Vectors of each step, and whether it is the last: steps are as alike as can be.
    #[inline]
    fn steps(&self) -> impl Iterator<Item = (usize, bool)> + use<> {
        let count = self.vectors.div_ceil(STEP).max(1);
        let (least, longer) = (self.vectors / count, self.vectors % count);
        (0..count).map(move |step| (least + usize::from(step < longer), step + 1 == count))
    }

    /// Enciphers the whole vectors of so many fours, and leaves the sums of what GHASH takes last of each.
    ///
    /// # Safety
    /// They have been begun, and have as much text as the run was told.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline(never)]
    unsafe fn pass<const ROUNDS: usize, const SEAL: bool>(
        &self,
        lanes: &Lanes,
        count: usize,
        into: &mut Fours<Sums>,
    ) {
        let together = if self.vectors == SHORT { 2 } else { 1 };
        // A step right behind another would wait for what that is still writing.
        let behind = if self.vectors <= STEP { 2 * together } else { together };
        let power = LANES * self.vectors + self.behind;
        let mut sums = [const { MaybeUninit::uninit() }; LANES];
        for packet in (0..LANES * count).step_by(together) {
            // What is sealed first hashes its own text, and the next one replaces the sum.
            let hashed = if SEAL { packet.saturating_sub(behind) } else { packet };
            let lane = hashed % LANES;
            // SAFETY: by contract.
            unsafe {
                if together == 2 {
                    let [(text, base, _), (second_text, second_base, _)] =
                        [lanes.of(packet), lanes.of(packet + 1)];
                    let [(first, _, carry), (second, _, second_carry)] =
                        [lanes.of(hashed), lanes.of(hashed + 1)];
                    let mut done = [Sums::none(); 2];
                    self.step::<2, SHORT, ROUNDS>(
                        ([text, second_text], [base, second_base]),
                        (0, None),
                        ([first, second], [carry, second_carry]),
                        power,
                        &mut done,
                    );
                    sums[lane].write(done[0]);
                    sums[lane + 1].write(done[1]);
                } else {
                    self.one::<ROUNDS>(lanes, packet, hashed, &mut sums[lane]);
                }
                if lane + together == LANES {
                    into[hashed / LANES].write(Sums::of_lanes(&sums));
                }
            }
        }
        if SEAL {
            // SAFETY: the last ones, which have been enciphered, so that all of their four have sums.
            unsafe {
                for (lane, sums) in sums.iter_mut().enumerate().skip(LANES - behind) {
                    sums.write(self.absorb(lanes, LANES * (count - 1) + lane));
                }
                into[count - 1].write(Sums::of_lanes(&sums));
            }
        }
    }

    /// Enciphers a packet, and hashes another (or the same, before it is opened).
    ///
    /// # Safety
    /// As above.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    unsafe fn one<const ROUNDS: usize>(
        &self,
        lanes: &Lanes,
        packet: usize,
        hashed: usize,
        into: &mut MaybeUninit<Sums>,
    ) {
        // SAFETY: by contract.
        let ((mut text, mut base, _), (mut hashed, _, mut carry)) =
            unsafe { (lanes.of(packet), lanes.of(hashed)) };
        let mut done = 0;
        for (vectors, last) in self.steps() {
            let power = LANES * vectors + if last { self.behind } else { 0 };
            let mut sums = [Sums::none()];
            let turn = TURN - 1 - done % TURN;
            let next = if turn < vectors {
                // SAFETY: by contract.
                Some(unsafe { self.next_base(lanes, packet, done + turn) })
            } else {
                None
            };
            macro_rules! dispatch {
                ($($n:literal)*) => {
                    match vectors {
                        // SAFETY: by contract, there are so many vectors of text, and the table has as many.
                        $($n => unsafe {
                            self.step::<1, $n, ROUNDS>(([text], [base]), (done, next), ([hashed], [carry]), power, &mut sums)
                        },)*
                        _ => {}
                    }
                };
            }
            // A step of eight at least has no parts below four.
            dispatch!(4 5 6 7 8);
            let [sums] = sums;
            if last {
                into.write(sums);
                return;
            }
            carry = sums.sum().total();
            text = text.wrapping_add(64 * vectors);
            hashed = hashed.wrapping_add(64 * vectors);
            done += vectors;
            base = next.unwrap_or(base);
        }
    }

    /// The base of a packet behind that vector, in which the counter's last octet comes round.
    ///
    /// # Safety
    /// The packet has been begun.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[cold]
    #[inline(never)]
    unsafe fn next_base(&self, lanes: &Lanes, packet: usize, vector: usize) -> __m512i {
        // SAFETY: by contract.
        let nonce = unsafe { lane(&lanes.nonces, packet) };
        self.ahead.base(_mm512_broadcast_i32x4(nonce), LANES * (vector + 1))
    }

    /// Enciphers N vectors of each of P packets, from vector `done` on, while GHASH takes as many, whose first block meets
    /// that power. `next` is the base after the turn, if there is one among them. `carries` are GHASH of what comes before.
    ///
    /// # Safety
    /// There are so many vectors in all places, and in the tables.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    unsafe fn step<const P: usize, const N: usize, const ROUNDS: usize>(
        &self,
        (texts, bases): ([*mut u8; P], [__m512i; P]),
        (done, next): (usize, Option<__m512i>),
        (hashed, carries): ([*mut u8; P], [__m128i; P]),
        power: usize,
        into: &mut [Sums; P],
    ) {
        let mut states = [[bases[0]; N]; P];
        for (states, base) in states.iter_mut().zip(bases) {
            *states = [base; N];
            // SAFETY: by contract.
            unsafe { self.ahead.add_to(states, done) };
        }
        if let Some(next) = next {
            let turn = TURN - 1 - done % TURN;
            for (v, state) in states[0].iter_mut().enumerate() {
                let lanes = if v < turn {
                    0
                } else if v == turn {
                    0xf0
                } else {
                    0xff
                };
                *state = _mm512_mask_xor_epi64(*state, lanes, *state, _mm512_xor_si512(bases[0], next));
            }
        }
        if !self.ahead.akin {
            for states in &mut states {
                self.ahead.catch_up(states);
            }
        }
        let mut sums = [Sums::none(); P];
        let mut pair = Pair::none();
        let pairs = N.div_ceil(2);
        let parts = P * pairs * PARTS;
        unroll!(ROUND in [3 4 5 6 7 8 9 10 11 12 13] {
            if ROUND < ROUNDS {
                let key = round_key(self.key, ROUND);
                for states in &mut states {
                    for state in states {
                        *state = pin(_mm512_aesenc_epi128(*state, key));
                    }
                }
                // The parts of GHASH, evenly among the rounds. The first pair, which waits for the carry, comes last.
                unroll!(AT in [0 1 2 3 4 5 6 7 8 9 10 11] {
                    let (from, to) = ((ROUND - 3) * parts / (ROUNDS - 3), (ROUND - 2) * parts / (ROUNDS - 3));
                    if (from..to).contains(&AT) {
                        let (p, v) = (AT / PARTS / pairs, 2 * (pairs - 1 - AT / PARTS % pairs));
                        let one = v + 1 == N;
                        // SAFETY: by contract.
                        unsafe {
                            if AT.is_multiple_of(PARTS) {
                                pair = Pair::read(hashed[p].add(64 * v).cast_const(), one, (v == 0).then_some(carries[p]));
                            }
                            let (sums, power) = (&mut sums[p], power - LANES * v);
                            match (AT % PARTS, one) {
                                (0, false) => sums.add::<0, false>(&pair, self.powers, power),
                                (1, false) => sums.add::<1, false>(&pair, self.powers, power),
                                (_, false) => sums.add::<2, false>(&pair, self.powers, power),
                                (0, true) => sums.add::<0, true>(&pair, self.powers, power),
                                (1, true) => sums.add::<1, true>(&pair, self.powers, power),
                                (_, true) => sums.add::<2, true>(&pair, self.powers, power),
                            }
                        }
                    }
                });
            }
        });
        let key = round_key(self.key, ROUNDS);
        for p in 0..P {
            for (v, state) in states[p].iter().enumerate() {
                // SAFETY: by contract.
                unsafe {
                    let place = texts[p].add(64 * v).cast();
                    let before = _mm512_xor_si512(_mm512_loadu_si512(place), key);
                    _mm512_storeu_si512(place.cast(), _mm512_aesenclast_epi128(*state, before));
                }
            }
            into[p] = sums[p];
        }
    }

    /// Hashes a packet, and nothing besides.
    ///
    /// # Safety
    /// It has been begun, and has as much text as the run was told.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline(never)]
    unsafe fn absorb(&self, lanes: &Lanes, packet: usize) -> Sums {
        // SAFETY: by contract.
        let (text, _, mut carry) = unsafe { lanes.of(packet) };
        let mut text = text.cast_const();
        let mut sums = Sums::none();
        for (vectors, last) in self.steps() {
            let power = LANES * vectors + if last { self.behind } else { 0 };
            sums = Sums::none();
            for v in (0..vectors).step_by(2) {
                // SAFETY: by contract. An odd vector's neighbour is zero, and adds nothing.
                unsafe {
                    let pair = Pair::read(text.add(64 * v), v + 1 == vectors, (v == 0).then_some(carry));
                    sums.add::<0, false>(&pair, self.powers, power - LANES * v);
                    sums.add::<1, false>(&pair, self.powers, power - LANES * v);
                    sums.add::<2, false>(&pair, self.powers, power - LANES * v);
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
