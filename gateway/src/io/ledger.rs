//! Who has which frames, where it has to be known without looking at the frames themselves: what the kernel was lent, and
//! what a worker answers for.

use crate::frame::Frame;

/// A flag for each frame of a memory.
#[derive(Debug)]
pub struct Ledger {
    has: Box<[bool]>,
    /// Of a frame's size, a power of two.
    shift: u32,
}

impl Ledger {
    /// An empty one, for so many frames.
    pub(super) fn new(frames: usize, frame_size: usize) -> Self {
        Self { has: vec![false; frames].into_boxed_slice(), shift: frame_size.trailing_zeros() }
    }

    /// Enters a frame.
    #[inline]
    pub fn enter(&mut self, frame: &Frame) {
        self.set(frame.address() as usize, true);
    }

    /// Strikes a frame out.
    #[inline]
    pub fn strike(&mut self, frame: &Frame) {
        self.set(frame.address() as usize, false);
    }

    /// Strikes out the frame in which `address` lies; whether it was entered.
    #[inline]
    pub(super) fn take(&mut self, address: usize) -> bool {
        self.has.get_mut(address >> self.shift).is_some_and(std::mem::take)
    }

    /// Enters all that the other one has.
    pub(super) fn enter_all(&mut self, other: &Self) {
        for (has, other) in self.has.iter_mut().zip(&other.has) {
            *has |= other;
        }
    }

    /// Strikes out all that the other one has.
    pub fn strike_all(&mut self, other: &Self) {
        for (has, other) in self.has.iter_mut().zip(&other.has) {
            *has &= !other;
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.has.iter().filter(|has| **has).count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.has.iter().all(|has| !has)
    }

    /// The addresses of the frames, octets from the start of the memory.
    pub(super) fn addresses(&self) -> impl Iterator<Item = usize> {
        let frames = self.has.iter().enumerate().filter(|(_, has)| **has);
        frames.map(|(index, _)| index << self.shift)
    }

    #[inline]
    fn set(&mut self, address: usize, value: bool) {
        if let Some(has) = self.has.get_mut(address >> self.shift) {
            *has = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_known_by_any_address_in_it_and_struck_out_once() {
        let mut ledger = Ledger::new(4, 2048);
        let frames = Frame::leaked_side_by_side(1, 2048, 0);
        // A leaked frame's address lies in no ledger's memory: nothing happens.
        ledger.enter(&frames[0]);
        assert!(ledger.is_empty());
        ledger.set(2048, true);
        ledger.set(6144, true);
        assert_eq!(ledger.addresses().collect::<Vec<_>>(), [2048, 6144]);
        assert!(ledger.take(2048 + 300) && !ledger.take(2048));
        let mut other = Ledger::new(4, 2048);
        other.set(6144, true);
        ledger.strike_all(&other);
        assert_eq!((ledger.len(), other.len()), (0, 1));
    }
}
