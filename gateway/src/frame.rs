//! A packet buffer: one chunk of the UMEM, with exactly one owner at any time.
//!
//! A [`Frame`] is neither `Copy` nor `Clone`: who holds it owns the chunk, and gives it on by value (to a ring, a
//! queue, a free list). Where the chunk lies is settled when the frame is made; everything else is safe code.

#![expect(unsafe_code, reason = "turns a chunk's pointer into the slice that its one owner may use")]

use std::fmt;
use std::ptr::NonNull;

use crate::prefetch;

/// Octets of a page, on which a UMEM begins.
const PAGE: usize = 4096;
/// Octets of a large frame, which lies in no UMEM and holds what comes in several frames. The others are of a page at most.
pub const LARGE_FRAME: usize = 16_384;

/// A chunk and the packet in it: octets `start..end`, with headroom before and tailroom behind.
pub struct Frame {
    chunk: NonNull<[u8]>,
    address: u64,
    start: u32,
    end: u32,
}

// SAFETY: a frame is the only access to its chunk, so it may move between threads as a `Box<[u8]>` may.
unsafe impl Send for Frame {}

impl Frame {
    /// Takes ownership of a chunk, with an empty packet at `start` (at most its length).
    ///
    /// # Safety
    /// `chunk` points to initialised memory that outlives every frame made from it, and no other reference or
    /// frame to any part of it exists until this one is given up.
    pub unsafe fn from_raw(chunk: NonNull<[u8]>, address: u64, start: usize) -> Self {
        let start = start.min(chunk.len()) as u32;
        Self { chunk, address, start, end: start }
    }

    /// A frame of memory outside any UMEM, for tests and tools: a chunk of `size` octets that is never given back,
    /// with an empty packet at `start`.
    pub fn leaked(size: usize, start: usize) -> Self {
        let chunk = NonNull::from(Box::leak(vec![0; size].into_boxed_slice()));
        // SAFETY: the memory is initialised and never freed, and the only reference to it was just given up.
        unsafe { Self::from_raw(chunk, chunk.as_ptr().addr() as u64, start) }
    }

    /// As many frames of one piece of memory, side by side as the chunks of a UMEM are; otherwise as
    /// [`Frame::leaked`].
    pub fn leaked_side_by_side(count: usize, size: usize, start: usize) -> Vec<Self> {
        let memory = Box::leak(vec![0; count * size + PAGE].into_boxed_slice());
        let from = memory.as_ptr().align_offset(PAGE);
        let chunks = memory.get_mut(from..).unwrap_or_default().chunks_exact_mut(size.max(1)).take(count);
        let frame = |chunk: &'static mut [u8]| {
            let chunk = NonNull::from(chunk);
            // SAFETY: the memory is initialised and never freed, and the only reference to it was just given up.
            unsafe { Self::from_raw(chunk, chunk.as_ptr().addr() as u64, start) }
        };
        chunks.map(frame).collect()
    }

    /// Whether it is a large one, which no ring takes.
    #[inline]
    pub fn is_large(&self) -> bool {
        self.chunk.len() >= LARGE_FRAME
    }

    /// The chunk's offset in its UMEM, octets.
    #[inline]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The packet.
    #[inline]
    pub fn packet(&self) -> &[u8] {
        // SAFETY: start <= end <= the chunk's length: `from_raw` begins so, and whatever changes them checks it.
        unsafe { self.chunk().get_unchecked(self.start as usize..self.end as usize) }
    }

    /// The packet, to be changed.
    #[inline]
    pub fn packet_mut(&mut self) -> &mut [u8] {
        let range = self.start as usize..self.end as usize;
        // SAFETY: as in `packet`.
        unsafe { self.chunk_mut().get_unchecked_mut(range) }
    }

    /// Asks the processor for the packet's start, which will be read soon.
    #[inline]
    pub fn prefetch(&self) {
        prefetch::lines(self.chunk.cast::<u8>().as_ptr().wrapping_add(self.start as usize), 1);
    }

    /// Where the packet starts in the chunk.
    #[inline]
    pub fn start(&self) -> usize {
        self.start as usize
    }

    /// Octets of the packet.
    #[inline]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether the packet is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Octets free before the packet.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.start as usize
    }

    /// Octets free behind the packet.
    #[inline]
    pub fn tailroom(&self) -> usize {
        self.chunk.len() - self.end as usize
    }

    /// Says where the packet lies. Returns false, and changes nothing, if `start..end` is not within the chunk.
    #[must_use]
    #[inline]
    pub fn set_range(&mut self, start: usize, end: usize) -> bool {
        let fits = start <= end && end <= self.chunk.len();
        if fits {
            (self.start, self.end) = (start as u32, end as u32);
        }
        fits
    }

    /// Grows the packet by `n` octets at the front, or says that there is no room.
    #[must_use]
    #[inline]
    pub fn push_front(&mut self, n: usize) -> bool {
        let fits = n <= self.headroom();
        if fits {
            self.start -= n as u32;
        }
        fits
    }

    /// Grows the packet by `n` octets at the end, or says that there is no room.
    #[must_use]
    #[inline]
    pub fn push_back(&mut self, n: usize) -> bool {
        let fits = n <= self.tailroom();
        if fits {
            self.end += n as u32;
        }
        fits
    }

    /// Cuts `n` octets off the front, or says that the packet is shorter.
    #[must_use]
    #[inline]
    pub fn pull_front(&mut self, n: usize) -> bool {
        let fits = n <= self.len();
        if fits {
            self.start += n as u32;
        }
        fits
    }

    /// Leaves `len` octets of the packet from its octet `skip`, or says that it has not got as many.
    #[must_use]
    #[inline]
    pub fn narrow(&mut self, skip: usize, len: usize) -> bool {
        let fits = skip <= self.len() && len <= self.len() - skip;
        if fits {
            self.start += skip as u32;
            self.end = self.start + len as u32;
        }
        fits
    }

    /// Shortens the packet to `len` octets, or says that it is shorter.
    #[must_use]
    #[inline]
    pub fn truncate(&mut self, len: usize) -> bool {
        let fits = len <= self.len();
        if fits {
            self.end = self.start + len as u32;
        }
        fits
    }

    /// Grows the packet by `headers` at its front and `behind` octets at its end, and shows what it has grown by: the last
    /// `N` octets in front of what was there, `headers` of which are the packet's now, and everything from there to the
    /// new end. `None`, and nothing changed, if there is no room for that.
    #[inline(always)]
    pub fn wrap<const N: usize>(
        &mut self,
        headers: usize,
        behind: usize,
    ) -> Option<(&mut [u8; N], &mut [u8])> {
        let (start, end) = (self.start as usize, self.end as usize + behind);
        if start < N || headers > N || end > self.chunk.len() {
            return None;
        }
        (self.start, self.end) = ((start - headers) as u32, end as u32);
        let (front, text) = self.chunk_mut().get_mut(..end)?.split_at_mut_checked(start)?;
        Some((front.last_chunk_mut()?, text))
    }

    /// The whole chunk.
    #[inline]
    pub fn chunk(&self) -> &[u8] {
        // SAFETY: by `from_raw`, the chunk is initialised, alive, and reached through this frame alone.
        unsafe { self.chunk.as_ref() }
    }

    /// The whole chunk, to be changed.
    #[inline]
    pub fn chunk_mut(&mut self) -> &mut [u8] {
        // SAFETY: by `from_raw`, and `&mut self` makes this the only reference.
        unsafe { self.chunk.as_mut() }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("address", &self.address)
            .field("start", &self.start)
            .field("end", &self.end)
            .finish()
    }
}
