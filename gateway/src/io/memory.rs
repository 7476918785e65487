//! Packet memory: one UMEM, shared by the sockets of all workers and interfaces.

use std::num::NonZeroU32;
use std::ptr::NonNull;
use std::sync::Arc;

use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};
use xsk_rs::{FrameDesc, Umem};

use super::descriptor::AddressField;
use super::ledger::Ledger;
use super::socket::QueueSocket;
use crate::frame::{Frame, LARGE_FRAME};

/// Octets of a huge page.
const HUGE_PAGE: u64 = 2 << 20;

/// Entries of each ring.
pub const RING: u32 = 2048;

/// Octets before received packets, beside those that the kernel keeps for XDP programs (256): with them, room for any
/// encapsulation.
const HEADROOM: u32 = 0;
/// What the kernel keeps for XDP programs in front of received packets.
const XDP_HEADROOM: usize = 256;

/// Why there is no packet memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Frames of such a size, or so many, cannot be.
    #[error("{frames} frames of {frame_size} octets cannot be made: {problem}")]
    Layout {
        /// How many.
        frames: u32,
        /// Octets of each.
        frame_size: u32,
        /// Why.
        problem: String,
    },
    /// The kernel does not register it.
    #[error(
        "cannot register {frames} frames of {frame_size} octets as packet memory: {source} (locked memory may be limited: \
         `LimitMEMLOCK=infinity`; fewer: `gateway.frames`)"
    )]
    Register {
        /// How many.
        frames: u32,
        /// Octets of each.
        frame_size: u32,
        /// Why.
        source: std::io::Error,
    },
    /// xsk-rs has changed.
    #[error("descriptors of this build of xsk-rs have no address that can be written")]
    Descriptors,
}

/// The memory. Lives as long as anything holds it; frames made from it must not outlive it, which the worker sees to
/// by owning both.
#[derive(Debug)]
pub struct FrameMemory {
    umem: Umem,
    /// By frame: starts where received data is put.
    descriptors: Vec<FrameDesc>,
    base: NonNull<u8>,
    frame_size: usize,
    /// Of the frame size, a power of two.
    shift: u32,
    huge_pages: bool,
    address_field: AddressField,
    /// Memory of large frames, which no ring knows.
    large: NonNull<[u8]>,
}

// SAFETY: `base` points to the memory that `umem` keeps mapped, `large` to memory of `self`; through them only frames are made,
// each of which is the only access to its part.
unsafe impl Send for FrameMemory {}
// SAFETY: as above; nothing here changes after it was made.
unsafe impl Sync for FrameMemory {}

impl FrameMemory {
    /// So many frames (at least 2), each of `frame_size` octets (2048 or 4096), given out here once. Call it in the network
    /// namespace of the interfaces: the first socket is made here already, and looks its interface up where it was made.
    pub fn new(frames: u32, frame_size: u32) -> Result<(Arc<Self>, Vec<Frame>), MemoryError> {
        Self::with_large(frames, frame_size, 0)
    }

    /// The same, and so many large frames besides, behind the others, for packets that come and go in several frames.
    pub fn with_large(
        frames: u32,
        frame_size: u32,
        large: usize,
    ) -> Result<(Arc<Self>, Vec<Frame>), MemoryError> {
        let layout = |problem: String| MemoryError::Layout { frames, frame_size, problem };
        let count = NonZeroU32::new(frames).ok_or_else(|| layout("none is too few".to_owned()))?;
        let size = FrameSize::new(frame_size).map_err(|error| layout(error.to_string()))?;
        let ring = QueueSize::new(RING).map_err(|error| layout(error.to_string()))?;
        let config = UmemConfig::builder()
            .frame_size(size)
            .fill_queue_size(ring)
            .comp_queue_size(ring)
            .frame_headroom(HEADROOM)
            .build()
            .map_err(|error| layout(error.to_string()))?;
        // Of huge pages the processor remembers more, and the kernel pins fewer. Only a whole number of them can be unmapped.
        let octets = u64::from(frames) * u64::from(frame_size);
        let huge = octets.is_multiple_of(HUGE_PAGE).then(|| Umem::new(config, count, true).ok()).flatten();
        let huge_pages = huge.is_some();
        let made = huge.map_or_else(|| Umem::new(config, count, false), Ok);
        let (umem, descriptors) =
            made.map_err(|error| MemoryError::Register { frames, frame_size, source: source(&error) })?;
        tracing::info!(frames, frame_size, huge_pages, "packet memory");
        let address_field = AddressField::find(&descriptors).ok_or(MemoryError::Descriptors)?;
        let first = descriptors.first().ok_or(MemoryError::Descriptors)?;
        // SAFETY: a descriptor of this UMEM, whose frame nobody uses yet.
        let data = unsafe { umem.data(first) };
        let start = data.contents().as_ptr().cast_mut().wrapping_sub(first.addr());
        let base = NonNull::new(start).ok_or(MemoryError::Descriptors)?;
        let (frame_size, shift) = (frame_size as usize, frame_size.trailing_zeros());
        let zeros = vec![0; large * LARGE_FRAME].into_boxed_slice();
        let zeros = NonNull::from(Box::leak(zeros));
        let memory =
            Self { umem, descriptors, base, frame_size, shift, huge_pages, address_field, large: zeros };
        let memory = Arc::new(memory);
        let addresses = (0..frames as usize).map(|index| index * frame_size);
        let large = (0..large).map(|index| memory.large_from() + index * LARGE_FRAME);
        let frames = addresses.chain(large).filter_map(|address| {
            // SAFETY: each frame is given out here once, before any ring knows it.
            unsafe { memory.frame(address, 0) }
        });
        let frames = frames.collect();
        Ok((memory, frames))
    }

    /// How many frames there are, the large ones among them.
    pub fn frames(&self) -> usize {
        self.descriptors.len() + self.large.len() / LARGE_FRAME
    }

    /// Octets of a packet that one descriptor is for.
    pub(super) fn piece(&self) -> usize {
        self.frame_size - XDP_HEADROOM
    }

    /// Whether packets may come and go in several frames: there are large frames.
    pub fn takes_chains(&self) -> bool {
        !self.large.is_empty()
    }

    /// The address of the first large frame: behind all others.
    fn large_from(&self) -> usize {
        self.descriptors.len() << self.shift
    }

    /// Whether it lies in huge pages, which it does if enough were set aside.
    pub fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// A ledger of its frames, empty.
    pub fn ledger(&self) -> Ledger {
        Ledger::new((self.large_from() + self.large.len()) >> self.shift, self.frame_size)
    }

    /// The frames that `mine` has and the kernel was not lent by any of the sockets, after whoever held them has lost them.
    ///
    /// # Safety
    /// No [`Frame`] of those exists any more, and `sockets` are all that frames of `mine` were put into.
    pub unsafe fn recover<'s>(
        &self,
        mine: &Ledger,
        sockets: impl Iterator<Item = &'s QueueSocket>,
    ) -> Vec<Frame> {
        let mut lost = self.ledger();
        lost.enter_all(mine);
        sockets.for_each(|socket| lost.strike_all(socket.lent()));
        // SAFETY: by this function's contract, nobody owns these frames.
        lost.addresses().filter_map(|address| unsafe { self.frame(address, 0) }).collect()
    }

    pub(super) fn umem(&self) -> &Umem {
        &self.umem
    }

    /// The frame in which `address` lies, holding the `len` octets from there on; `None` if they lie in no frame.
    ///
    /// # Safety
    /// Nobody owns that frame, in user space or in the kernel.
    pub(super) unsafe fn frame(&self, address: usize, len: usize) -> Option<Frame> {
        let index = address >> self.shift;
        if index >= self.descriptors.len() {
            // SAFETY: by this function's contract.
            return unsafe { self.large_frame(address, len) };
        }
        let start = index * self.frame_size;
        // SAFETY: `index` is that of a frame, so its octets lie within the mapped region, which starts at `base`.
        let octets = unsafe { self.base.add(start) };
        let chunk = NonNull::slice_from_raw_parts(octets, self.frame_size);
        // SAFETY: mapped memory is initialised (with zeros, at first), stays mapped while `self` lives, and by this
        // function's contract belongs to nobody else.
        let mut frame = unsafe { Frame::from_raw(chunk, start as u64, address - start) };
        frame.set_range(address - start, address - start + len).then_some(frame)
    }

    /// The same of a large frame.
    ///
    /// # Safety
    /// Nobody owns that frame.
    #[cold]
    unsafe fn large_frame(&self, address: usize, len: usize) -> Option<Frame> {
        let from_first = address.checked_sub(self.large_from())?;
        let (index, at) = (from_first / LARGE_FRAME, from_first % LARGE_FRAME);
        if index >= self.large.len() / LARGE_FRAME {
            return None;
        }
        // SAFETY: within the memory of the large frames, as just compared.
        let octets = unsafe { self.large.cast::<u8>().add(index * LARGE_FRAME) };
        let chunk = NonNull::slice_from_raw_parts(octets, LARGE_FRAME);
        // SAFETY: the memory was initialised, is freed with `self` only, and by this function's contract belongs to nobody else.
        let mut frame = unsafe { Frame::from_raw(chunk, (address - at) as u64, at) };
        frame.set_range(at, at + len).then_some(frame)
    }

    /// A descriptor of the frame's packet for the TX ring; `None` if the packet is longer than a ring takes.
    pub(super) fn descriptor(&self, frame: &Frame) -> Option<FrameDesc> {
        let index = frame.address() as usize >> self.shift;
        let mut descriptor = *self.descriptors.get(index)?;
        {
            // SAFETY: the frame is ours (we were lent it), and this descriptor's data lies within it. Only its length
            // is set; no octet is touched.
            let mut data = unsafe { self.umem.data_mut(&mut descriptor) };
            data.cursor().set_pos(frame.len());
        }
        if descriptor.lengths().data() != frame.len() {
            return None;
        }
        self.address_field.write(&mut descriptor, frame.address() as usize + frame.start());
        Some(descriptor)
    }

    /// A descriptor for the fill ring, of which the kernel takes only which frame it is.
    pub(super) fn empty_descriptor(&self, frame: &Frame) -> Option<FrameDesc> {
        self.descriptors.get(frame.address() as usize >> self.shift).copied()
    }
}

impl Drop for FrameMemory {
    fn drop(&mut self) {
        // SAFETY: from a box; whoever has frames of it does not outlive `self`.
        drop(unsafe { Box::from_raw(self.large.as_ptr()) });
    }
}

/// The error number inside one of xsk-rs's errors.
pub(super) fn source(error: &dyn std::error::Error) -> std::io::Error {
    let number = error.source().and_then(|source| source.downcast_ref::<std::io::Error>()?.raw_os_error());
    number.map_or_else(|| std::io::Error::other(error.to_string()), std::io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_frame_is_given_out_once_and_described_where_its_packet_lies() {
        let (memory, frames) = FrameMemory::new(4, 2048).unwrap();
        assert_eq!(frames.iter().map(Frame::address).collect::<Vec<_>>(), [0, 2048, 4096, 6144]);
        for mut frame in frames {
            assert!(frame.set_range(200, 300));
            let mark = (frame.address() / 2048) as u8 ^ 0x5a;
            frame.packet_mut().fill(mark);
            let descriptor = memory.descriptor(&frame).unwrap();
            assert_eq!(descriptor.addr(), frame.address() as usize + 200);
            assert_eq!(descriptor.lengths().data(), 100);
            // SAFETY: `frame` is not used while this one is.
            let same = unsafe { memory.frame(descriptor.addr(), 100) }.unwrap();
            assert_eq!((same.address(), same.packet()), (frame.address(), frame.packet()));
        }
    }

    #[test]
    fn large_frames_lie_behind_the_others_and_are_found_again_like_them() {
        let (memory, mut frames) = FrameMemory::with_large(4, 2048, 2).unwrap();
        assert_eq!((memory.frames(), frames.len(), memory.takes_chains()), (6, 6, true));
        let large = frames.split_off(4);
        assert!(large.iter().all(Frame::is_large) && !frames.iter().any(Frame::is_large));
        assert_eq!(large.iter().map(Frame::address).collect::<Vec<_>>(), [8192, 8192 + LARGE_FRAME as u64]);
        assert!(memory.descriptor(&large[0]).is_none(), "no ring takes it");
        let mut mine = memory.ledger();
        large.iter().chain(&frames).for_each(|frame| mine.enter(frame));
        mine.strike(&large[0]);
        mine.strike(&frames[1]);
        assert_eq!(mine.len(), 4);
        let ends = large.iter().map(|frame| frame.chunk().as_ptr_range());
        let ends: Vec<_> = ends.collect();
        assert!(ends[0].end <= ends[1].start);
        drop((frames, large));
        // SAFETY: all of them are gone, and no socket was lent any.
        let found = unsafe { memory.recover(&mine, std::iter::empty()) };
        let found: Vec<_> = found.iter().map(|frame| (frame.address(), frame.is_large())).collect();
        assert_eq!(found, [(0, false), (4096, false), (6144, false), (8192 + LARGE_FRAME as u64, true)]);
        // SAFETY: beyond all of them, or longer than one, there is none.
        unsafe {
            assert!(memory.frame(8192 + 2 * LARGE_FRAME, 0).is_none());
            assert!(memory.frame(8192, LARGE_FRAME + 1).is_none());
        }
    }

    #[test]
    fn huge_pages_are_taken_where_enough_were_set_aside() {
        let info = std::fs::read_to_string("/proc/meminfo").unwrap();
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
            line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
        };
        let free = field("HugePages_Free:").saturating_sub(field("HugePages_Rsvd:"));
        let (memory, frames) = FrameMemory::new(1024, 4096).unwrap();
        // Others may take them meanwhile, or give some back.
        assert!(memory.huge_pages() || free < 16, "{free} were free");
        assert_eq!(frames.len(), 1024);
        // Half a huge page.
        assert!(!FrameMemory::new(256, 4096).unwrap().0.huge_pages());
    }

    #[test]
    fn what_lies_in_no_frame_is_none() {
        let (memory, frames) = FrameMemory::new(2, 2048).unwrap();
        drop(frames);
        // SAFETY: no frame is in use.
        unsafe {
            assert!(memory.frame(4096, 1).is_none());
            assert!(memory.frame(2000, 100).is_none(), "crosses the end of its frame");
        }
    }

    #[test]
    fn a_layout_that_cannot_be_is_told_why() {
        assert!(FrameMemory::new(0, 2048).unwrap_err().to_string().contains("none is too few"));
        assert!(matches!(FrameMemory::new(2, 100).unwrap_err(), MemoryError::Layout { .. }));
    }
}
