//! Four packets of one key and one length taken apart into vectors with a lane for each, and what becomes of the lanes:
//! what `four` and `long` share.
#![expect(unsafe_code, reason = "vectors are read from packets and read and written in their buffers")]
#![expect(clippy::indexing_slicing, reason = "indices are lanes")]

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::super::job::wipe;
use super::hash::{Sum, reverse, reverse_of};
use super::{LANES, power};
use crate::{Key, MAX_AAD, Packet, TAG_LEN};

/// Four packets as they are read, before anything is written to them.
pub(super) struct Apart<'p, 'q> {
    pub(super) packets: [&'p mut Packet<'q>; LANES],
    pub(super) texts: [*mut u8; LANES],
    /// The last four octets of each lane are to be ignored.
    pub(super) nonces: __m512i,
    /// What is behind the AADs is to be ignored.
    pub(super) aads: __m512i,
    /// The tags that came with the packets, of those that are opened.
    pub(super) claimed: __m512i,
}

impl<'p, 'q> Apart<'p, 'q> {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn of<const SEAL: bool>(mut packets: [&'p mut Packet<'q>; LANES]) -> Self {
        let mut texts = [std::ptr::null_mut::<u8>(); LANES];
        let (mut tags, mut nonces, mut aads) =
            ([std::ptr::null(); LANES], [std::ptr::null(); LANES], [std::ptr::null(); LANES]);
        for (lane, packet) in packets.iter_mut().enumerate() {
            texts[lane] = packet.buffer.as_mut_ptr();
            tags[lane] = texts[lane].wrapping_add(packet.buffer.len() - TAG_LEN).cast_const();
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
        Self { packets, texts, nonces, aads, claimed }
    }
}

/// What GHASH takes besides text, of packets of one length with so many BLOCKS behind the whole vectors.
pub(super) struct Frame<const BLOCKS: usize> {
    /// The lengths' part of GHASH, as it is added to a tag.
    pub(super) closing: __m512i,
    /// Which octets of the AADs count, in the order of the multiplier.
    aad: u64,
    /// Which octets of the last blocks are text.
    last: u64,
}

impl<const BLOCKS: usize> Frame<BLOCKS> {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn new(key: &Key, aad_len: usize, len: usize) -> Self {
        let aad_len = aad_len.min(MAX_AAD);
        let lengths = _mm512_broadcast_i32x4(_mm_set_epi64x(8 * aad_len as i64, 8 * len as i64));
        // In each of four lanes.
        let four_times = |octets: u64| octets * 0x0001_0001_0001_0001;
        Self {
            closing: reverse(Sum::of(lengths, power(key, 1)).reduce()),
            aad: four_times(0xffff & !(0xffff >> aad_len)),
            last: four_times(0xffff >> (16 * BLOCKS - (len % 64).min(16 * BLOCKS))),
        }
    }

    /// The AADs, as GHASH takes them.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn aads(&self, aads: __m512i) -> __m512i {
        reverse_of(self.aad, aads)
    }

    /// A block of each packet, the one of that number behind the whole vectors, as GHASH takes it.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
    #[inline]
    pub(super) fn block(&self, at: usize, block: __m512i) -> __m512i {
        if at + 1 == BLOCKS { reverse(_mm512_maskz_mov_epi8(self.last, block)) } else { reverse(block) }
    }
}

/// Writes the tags; or compares them, says so, and wipes the buffers in which they are wrong. `overwritten`: as far as
/// tags stood behind a partial block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
pub(super) fn finish_tags<const SEAL: bool>(
    mut packets: [&mut Packet<'_>; LANES],
    tags: __m512i,
    claimed: __m512i,
    overwritten: bool,
) {
    let mut places = [std::ptr::null_mut(); LANES];
    for (place, packet) in places.iter_mut().zip(&mut packets) {
        *place = packet.buffer.as_mut_ptr().wrapping_add(packet.buffer.len() - TAG_LEN);
    }
    if SEAL {
        // SAFETY: the last sixteen octets of each buffer, which is that long.
        unsafe { scatter(places, tags) };
        return;
    }
    if overwritten {
        // Where a partial block was written whole, the tag no longer stands.
        // SAFETY: as above.
        unsafe { scatter(places, claimed) };
    }
    // All of it at once, and only whether it was right goes on from here.
    let wrong = _mm512_cmpneq_epi64_mask(tags, claimed);
    for (lane, packet) in packets.into_iter().enumerate() {
        packet.authentic = (wrong >> (2 * lane)) & 3 == 0;
        if !packet.authentic {
            wipe(packet.buffer);
        }
    }
}

/// The last round of a block of each packet, added to the text that far into each. Returns what GHASH takes.
///
/// # Safety
/// There are sixteen octets that may be written.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
pub(super) unsafe fn finish_block<const SEAL: bool>(
    block: __m512i,
    key: __m512i,
    [a, b, c, d]: [*mut u8; LANES],
    offset: usize,
) -> __m512i {
    // SAFETY: by contract.
    unsafe {
        let [a, b, c, d] = [a.add(offset), b.add(offset), c.add(offset), d.add(offset)];
        let before = gather([a, b, c, d]);
        let after = _mm512_aesenclast_epi128(block, _mm512_xor_si512(before, key));
        scatter([a, b, c, d], after);
        if SEAL { after } else { before }
    }
}

/// Each lane to a vector of its own.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1,bmi2")]
#[inline]
pub(super) fn spread(lanes: __m512i) -> [__m512i; LANES] {
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
pub(super) unsafe fn gather([a, b, c, d]: [*const u8; LANES]) -> __m512i {
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
pub(super) unsafe fn scatter([a, b, c, d]: [*mut u8; LANES], lanes: __m512i) {
    // SAFETY: by contract.
    unsafe {
        _mm_storeu_si128(a.cast(), _mm512_castsi512_si128(lanes));
        _mm_storeu_si128(b.cast(), _mm512_extracti32x4_epi32::<1>(lanes));
        _mm_storeu_si128(c.cast(), _mm512_extracti32x4_epi32::<2>(lanes));
        _mm_storeu_si128(d.cast(), _mm512_extracti32x4_epi32::<3>(lanes));
    }
}
