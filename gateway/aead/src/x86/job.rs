//! A packet taken apart into what the engines of this architecture work with.
#![expect(unsafe_code, reason = "vectors are read from packets and buffers")]
#![expect(clippy::indexing_slicing, reason = "the table of masks is as long as an AAD can be")]

use std::arch::x86_64::*;
use std::mem::offset_of;

use super::block::load;
use crate::key::Schedule;
use crate::{Key, MAX_AAD, MAX_BUFFER, Packet, TAG_LEN};

/// Which of sixteen octets belong to an AAD of that length.
static AAD_MASKS: [u128; MAX_AAD + 1] = {
    let mut masks = [0; MAX_AAD + 1];
    let mut len = 1;
    while len <= MAX_AAD {
        masks[len] = u128::MAX >> (128 - 8 * len);
        len += 1;
    }
    masks
};

// Sixteen octets can be read at the nonce and at the AAD without leaving the packet.
const _: () = assert!(offset_of!(Packet<'_>, nonce) + 16 <= size_of::<Packet<'_>>());
const _: () = assert!(offset_of!(Packet<'_>, aad) + 16 <= size_of::<Packet<'_>>());

/// Rounds of AES, and slots of the packet: AAD, text and lengths. `None` if it has no room for a tag, or its key was
/// not expanded by an engine of this architecture.
#[inline]
pub(super) fn class(packet: &Packet<'_>) -> Option<(usize, usize)> {
    let octets = packet.buffer.len();
    if !(TAG_LEN..=MAX_BUFFER).contains(&octets) {
        return None;
    }
    let slots = (octets - 1) / 16 + 2;
    match packet.key.schedule {
        Schedule::Raw128 | Schedule::Raw256 | Schedule::Interop => None,
        Schedule::Aes128 => Some((10, slots)),
        Schedule::Aes256 => Some((14, slots)),
    }
}

/// A packet of which [`class`] knows.
pub(super) struct Job<'p> {
    pub(super) key: &'p Key,
    /// The nonce; the last four octets are to be ignored.
    pub(super) nonce: __m128i,
    /// The AAD and zeros.
    pub(super) aad: __m128i,
    aad_len: usize,
    /// Text and tag: at least [`TAG_LEN`] octets.
    buffer: &'p mut [u8],
    /// The tag that came with the packet.
    claimed: __m128i,
    authentic: &'p mut bool,
}

impl<'p> Job<'p> {
    #[target_feature(enable = "sse2")]
    #[inline]
    pub(super) fn new(packet: &'p mut Packet<'_>) -> Self {
        let aad_len = packet.aad_len.min(MAX_AAD);
        let whole = std::ptr::from_mut(packet).cast::<u8>();
        // SAFETY: inside the packet, as asserted above.
        let (nonce, aad) = unsafe {
            (
                _mm_loadu_si128(whole.add(offset_of!(Packet<'_>, nonce)).cast()),
                _mm_loadu_si128(whole.add(offset_of!(Packet<'_>, aad)).cast()),
            )
        };
        let aad = _mm_and_si128(aad, load(&AAD_MASKS[aad_len]));
        // Now, and not when it is compared: a load waits for masked stores next to it.
        // SAFETY: the last sixteen octets of the buffer, which is that long.
        let claimed =
            unsafe { _mm_loadu_si128(packet.buffer.as_ptr().add(packet.buffer.len() - TAG_LEN).cast()) };
        Self {
            key: packet.key,
            nonce,
            aad,
            aad_len,
            buffer: packet.buffer,
            claimed,
            authentic: &mut packet.authentic,
        }
    }

    /// Octets of text and tag. So many there are, too, from slot 0 to the end of the text.
    #[inline]
    pub(super) fn octets(&self) -> usize {
        self.buffer.len()
    }

    /// AAD, text and lengths.
    #[inline]
    pub(super) fn slots(&self) -> usize {
        (self.octets() - 1) / 16 + 2
    }

    #[inline]
    pub(super) fn text(&mut self) -> *mut u8 {
        self.buffer.as_mut_ptr()
    }

    /// In bits: of the text below, of the AAD in the upper half.
    #[inline]
    pub(super) fn lengths(&self) -> i64 {
        ((self.aad_len << 35) | ((self.octets() - TAG_LEN) << 3)) as i64
    }

    /// Writes the tag; or compares it, says so, and wipes the buffer if it is wrong.
    #[target_feature(enable = "sse4.1")]
    #[inline]
    pub(super) fn finish<const SEAL: bool>(self, tag: __m128i) {
        if SEAL {
            // SAFETY: the last sixteen octets of the buffer, which is that long.
            unsafe {
                _mm_storeu_si128(self.buffer.as_mut_ptr().add(self.buffer.len() - TAG_LEN).cast(), tag)
            };
            return;
        }
        // All of it at once, and only whether it was right goes on from here.
        // Where a partial block was written whole, the tag no longer stands.
        // SAFETY: as above.
        unsafe {
            _mm_storeu_si128(self.buffer.as_mut_ptr().add(self.buffer.len() - TAG_LEN).cast(), self.claimed)
        };
        let difference = _mm_xor_si128(tag, self.claimed);
        let right = _mm_testz_si128(difference, difference) == 1;
        *self.authentic = right;
        if !right {
            wipe(self.buffer);
        }
    }
}

#[cold]
#[inline(never)]
pub(super) fn wipe(buffer: &mut [u8]) {
    buffer.fill(0);
}
