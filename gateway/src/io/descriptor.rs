//! Descriptors for the TX ring.
//!
//! xsk-rs makes a descriptor for the place where the kernel puts received data, and offers no way to say that a packet
//! starts elsewhere in its frame, as it does once headers were put in front or taken off. The field is there, but
//! private; so where it lies is found out once, by trial, and a build in which it cannot be found is refused.

use std::mem::size_of;

use xsk_rs::FrameDesc;

/// Where in a [`FrameDesc`] its address lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AddressField {
    offset: usize,
}

impl AddressField {
    /// Finds it with descriptors of different addresses: the one word that is each one's address.
    pub(super) fn find(samples: &[FrameDesc]) -> Option<Self> {
        let (first, rest) = samples.split_first()?;
        // One sample would agree with any word that happens to hold its address.
        if rest.iter().all(|sample| sample.addr() == first.addr()) {
            return None;
        }
        let mut found = (0..size_of::<FrameDesc>() / size_of::<usize>())
            .map(|word| word * size_of::<usize>())
            .filter(|&offset| samples.iter().all(|sample| Self { offset }.read(sample) == sample.addr()));
        match (found.next(), found.next()) {
            (Some(offset), None) => Some(Self { offset }),
            _ => None,
        }
    }

    /// The word at the offset. Descriptors have no padding that a whole word could hit: every field is a word but the
    /// options, whose word is never looked at beyond the trial.
    fn read(self, descriptor: &FrameDesc) -> usize {
        let words = std::ptr::from_ref(descriptor).cast::<u8>();
        let mut octets = [0_u8; size_of::<usize>()];
        for (index, octet) in octets.iter_mut().enumerate() {
            // SAFETY: within the descriptor: the offset is a multiple of a word, below its size. Read as volatile
            // octets, so that nothing is assumed of a padding octet's value.
            *octet = unsafe { words.add(self.offset + index).read_volatile() };
        }
        usize::from_ne_bytes(octets)
    }

    /// Makes the descriptor start at `address`, octets from the start of the UMEM.
    pub(super) fn write(self, descriptor: &mut FrameDesc, address: usize) {
        let words = std::ptr::from_mut(descriptor).cast::<u8>();
        // SAFETY: the field found at this offset is a `usize`, within the descriptor and aligned as it is.
        unsafe { words.add(self.offset).cast::<usize>().write(address) };
        debug_assert_eq!(descriptor.addr(), address);
    }
}
