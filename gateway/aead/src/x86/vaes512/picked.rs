//! Which packets of a batch go side by side.
//!
//! Traffic mixes sizes and SAs; what can be worked on together is alike in key, length and AAD. [`run`] looks at the
//! batch as vectors of lengths and of keys, so that finding all packets like a given one takes a few comparisons, and
//! gives up where nothing is alike. Packets stay where they are: a set of them is a bit mask ([`Picked`]).
#![expect(unsafe_code, reason = "packets are borrowed by the bits of a mask")]
#![expect(
    clippy::indexing_slicing,
    reason = "indices are below the length of a batch, which is at most MOST"
)]

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::mem::offset_of;

use super::ahead::AKIN;
use super::{LANES, four, single};
use crate::{Key, MAX_AAD, Packet};

/// Packets that are looked at together.
const MOST: usize = 64;

/// Kinds of packets of which there are too few, before it is no longer worth the search.
const PATIENCE: u32 = 3;

/// Those packets of a batch that have their bit in a mask, each to be taken once.
pub(super) struct Picked<'p, 'q> {
    batch: *mut Packet<'q>,
    mask: u64,
    lives: PhantomData<&'p mut Packet<'q>>,
}

impl<'p, 'q> Picked<'p, 'q> {
    /// The next one, still to be taken.
    #[inline]
    pub(super) fn peek(&self) -> Option<&Packet<'q>> {
        // SAFETY: the bit's packet is in the batch, and nobody else has it.
        (self.mask != 0).then(|| unsafe { &*self.batch.add(self.mask.trailing_zeros() as usize) })
    }

    /// How many are left.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.mask.count_ones() as usize
    }

    /// Whether all have the octets of [`AKIN`] in common.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn akin(&self) -> bool {
        let Some(first) = self.peek() else { return true };
        let like = first_octets(first);
        let (mut mask, mut differ) = (self.mask, _mm256_setzero_si256());
        while mask != 0 {
            // SAFETY: the bit's packet is in the batch, and nobody else has it.
            let packet = unsafe { &*self.batch.add(mask.trailing_zeros() as usize) };
            mask &= mask - 1;
            differ = also_differ(differ, first_octets(packet), like);
        }
        _mm256_testz_si256(differ, load_octets(&NONCES)) == 1
    }

    #[inline]
    pub(super) fn next(&mut self) -> Option<&'p mut Packet<'q>> {
        let at = self.mask.trailing_zeros() as usize;
        if self.mask == 0 {
            return None;
        }
        self.mask &= self.mask - 1;
        // SAFETY: the bit's packet is in the batch; the bit is gone, so that nobody else gets it.
        Some(unsafe { &mut *self.batch.add(at) })
    }

    #[inline]
    pub(super) fn next_four(&mut self) -> Option<[&'p mut Packet<'q>; LANES]> {
        if self.count() < LANES {
            return None;
        }
        Some([self.next()?, self.next()?, self.next()?, self.next()?])
    }
}

/// Of a packet's first octets, those of its key's address.
static KEYS: [u8; 32] = {
    let mut octets = [0; 32];
    let mut at = 0;
    while at < size_of::<&Key>() {
        octets[offset_of!(Packet<'_>, key) + at] = 0xff;
        at += 1;
    }
    octets
};

/// The same of its nonce, as far as packets that are akin have it in common.
static NONCES: [u8; 32] = {
    let mut octets = [0; 32];
    let mut at = 0;
    while at < AKIN.len() {
        octets[offset_of!(Packet<'_>, nonce) + AKIN[at]] = 0xff;
        at += 1;
    }
    octets
};

/// Key, nonce and AAD.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn first_octets(packet: &Packet<'_>) -> __m256i {
    const { assert!(offset_of!(Packet<'_>, aad) + MAX_AAD == 32) };
    // SAFETY: those octets are the packet's.
    unsafe { _mm256_loadu_si256(std::ptr::from_ref(packet).cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn load_octets(octets: &[u8; 32]) -> __m256i {
    // SAFETY: as many as are read.
    unsafe { _mm256_loadu_si256(octets.as_ptr().cast()) }
}

/// Bit by bit: what differed already, or differs here.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn also_differ(differ: __m256i, one: __m256i, other: __m256i) -> __m256i {
    _mm256_ternarylogic_epi64::<0xf6>(differ, one, other)
}

/// Seals or opens packets, alike ones four by four.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
pub(in super::super) fn run<const SEAL: bool>(packets: &mut [Packet<'_>]) {
    for batch in packets.chunks_mut(MOST) {
        let mut left = u64::MAX >> (MOST - batch.len());
        let (alike, akin) = all_alike(batch);
        if batch.len() >= LANES && alike {
            let mut picked = Picked { batch: batch.as_mut_ptr(), mask: left, lives: PhantomData };
            // SAFETY: they have one key, and buffers and AADs of one length.
            unsafe { four::run::<SEAL>(&mut picked, akin) };
            left = picked.mask;
        } else if batch.len() >= LANES && is_worth_a_search(batch) {
            let features = Features::of(batch);
            let mut patience = PATIENCE;
            while left != 0 && patience > 0 {
                let alike = features.like(left.trailing_zeros() as usize) & left;
                left &= !alike;
                let mut picked = Picked { batch: batch.as_mut_ptr(), mask: alike, lives: PhantomData };
                if picked.count() < LANES {
                    patience -= 1;
                } else {
                    let akin = akin || picked.akin();
                    // SAFETY: they have one key, and buffers and AADs of one length, unless they are too long for it.
                    unsafe { four::run::<SEAL>(&mut picked, akin) };
                }
                // Now, and not all kinds in the order of the batch: alike ones overlap.
                single::run::<SEAL>(picked);
            }
        }
        single::run::<SEAL>(Picked { batch: batch.as_mut_ptr(), mask: left, lives: PhantomData });
    }
}

/// The simplest case, in which there is nothing to sort: whether all packets are alike, and whether they
/// are akin.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
fn all_alike(batch: &[Packet<'_>]) -> (bool, bool) {
    let Some(first) = batch.first() else { return (true, true) };
    let like = first_octets(first);
    let (mut differ, mut lengths_differ) = (_mm256_setzero_si256(), 0);
    for packet in batch {
        differ = also_differ(differ, first_octets(packet), like);
        lengths_differ |= (packet.buffer.len() ^ first.buffer.len()) | (packet.aad_len ^ first.aad_len);
    }
    let alike = lengths_differ == 0 && _mm256_testz_si256(differ, load_octets(&KEYS)) == 1;
    (alike, _mm256_testz_si256(differ, load_octets(&NONCES)) == 1)
}

/// Whether the first packet's key or the middle one's is that of enough others: where every packet has another key, a
/// search would cost more than what it never finds.
#[inline]
fn is_worth_a_search(batch: &[Packet<'_>]) -> bool {
    let is_frequent = |sample: &Packet<'_>| {
        batch.iter().filter(|packet| std::ptr::eq(packet.key, sample.key)).count() >= LANES
    };
    batch.first().is_some_and(is_frequent) || batch.get(batch.len() / 2).is_some_and(is_frequent)
}

/// What packets must share to be alike, as vectors.
#[repr(align(64))]
struct Features {
    /// Octets of the buffer (those above [`four::LONGEST`] are all the same), and above them those of the AAD.
    lengths: [u32; MOST],
    keys: [u64; MOST],
    len: usize,
}

impl Features {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn of(batch: &[Packet<'_>]) -> Self {
        let mut features = Self { lengths: [0; MOST], keys: [0; MOST], len: batch.len() };
        for ((length, key), packet) in features.lengths.iter_mut().zip(&mut features.keys).zip(batch) {
            *length = (packet.buffer.len().min(four::LONGEST + 1) | packet.aad_len.min(MAX_AAD) << 24) as u32;
            *key = std::ptr::from_ref(packet.key).addr() as u64;
        }
        features
    }

    /// The packets that are like that one.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    fn like(&self, at: usize) -> u64 {
        let length = _mm512_set1_epi32(self.lengths[at].cast_signed());
        let key = _mm512_set1_epi64(self.keys[at].cast_signed());
        let mut alike = 0;
        for sixteen in 0..self.len.div_ceil(16) {
            // SAFETY: sixteen of each, within the arrays.
            unsafe {
                let lengths = _mm512_loadu_si512(self.lengths.as_ptr().add(16 * sixteen).cast());
                let keys = self.keys.as_ptr().add(16 * sixteen);
                let low = _mm512_cmpeq_epi64_mask(key, _mm512_loadu_si512(keys.cast()));
                let high = _mm512_cmpeq_epi64_mask(key, _mm512_loadu_si512(keys.add(8).cast()));
                let both = (u16::from(high) << 8 | u16::from(low)) & _mm512_cmpeq_epi32_mask(length, lengths);
                alike |= u64::from(both) << (16 * sixteen);
            }
        }
        alike
    }
}
