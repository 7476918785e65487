//! One place of a table: its state word, and the value that the word lies in. Both in the same cache line, so that a
//! lookup in a large table waits for memory once.

#![expect(unsafe_code, reason = "a value that comes and goes around a word that stays")]

use std::cell::UnsafeCell;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::ops::Range;

use zeroize::Zeroize;

use super::slab::Zeroed;
use crate::prefetch;
use crate::sync::AtomicU64;

/// Room for a slot's state, at the start of what a table holds.
#[derive(Debug)]
#[repr(transparent)]
pub(super) struct SlotState(AtomicU64);

impl SlotState {
    /// For a value that is not in a table; the table has its own.
    pub(super) fn outside() -> Self {
        Self(AtomicU64::new(0))
    }
}

/// What a table can hold.
///
/// # Safety
/// It is `repr(C)` and its first field is a [`SlotState`], which it never uses; nor does its end: it does not
/// implement [`Drop`] (its other fields may). [`Slotted::BLANK`] and [`Slotted::written`] tell the truth.
pub unsafe trait Slotted {
    /// Octets that are zero in every value that comes into a table. They are neither copied in nor, where they stayed
    /// so, wiped: most of a replay window, whose cold lines would cost more than all the rest of an install.
    const BLANK: Range<usize> = 0..0;

    /// How many of them, from the first, may have been written since. The others are zero still.
    fn written(&self) -> usize {
        Self::BLANK.len()
    }
}

/// A place. Its state word always exists; of the value around it, the table keeps account.
pub(super) struct Place<T>(UnsafeCell<MaybeUninit<T>>);

// SAFETY: of zeros is a place whose word is 0 and that holds no value.
unsafe impl<T: Slotted> Zeroed for Place<T> {
    fn zero() -> Self {
        let mut place = MaybeUninit::<T>::zeroed();
        // SAFETY: by the contract of `Slotted`, the word comes first. (A model's is not made of zeros.)
        unsafe { place.as_mut_ptr().cast::<SlotState>().write(SlotState::outside()) };
        Self(UnsafeCell::new(place))
    }
}

impl<T: Slotted> Place<T> {
    const STATE: usize = size_of::<SlotState>();

    /// The word. 0 at first.
    #[inline]
    pub(super) fn state(&self) -> &AtomicU64 {
        // SAFETY: by the contract of `Slotted`, a word lies here; it is there from the beginning (`Zeroed`), and
        // `fill` and `wipe` leave it alone.
        let state = unsafe { &*self.0.get().cast::<SlotState>() };
        &state.0
    }

    /// The address, to prefetch it.
    #[inline]
    pub(super) fn address(&self) -> *const u8 {
        self.0.get().cast_const().cast()
    }

    /// Asks for all the lines that filling it will write.
    pub(super) fn prefetch(&self) {
        for Range { start, end } in Self::parts(T::BLANK) {
            prefetch::lines(self.address().wrapping_add(start), end - start);
        }
    }

    /// The value.
    ///
    /// # Safety
    /// There is one, and it stays while the reference lives.
    #[inline]
    pub(super) unsafe fn value(&self) -> &T {
        // SAFETY: by this function's contract; the word in it is atomic.
        unsafe { (*self.0.get()).assume_init_ref() }
    }

    /// Puts a value in, all but its word.
    ///
    /// # Safety
    /// There is none, and no other thread calls anything but [`Place::state`] and [`Place::address`] meanwhile.
    pub(super) unsafe fn fill(&self, value: T) {
        let value = ManuallyDrop::new(value);
        let source = (&raw const value).cast::<MaybeUninit<u8>>();
        for Range { start, end } in Self::parts(T::BLANK) {
            // SAFETY: octets of two values of one type, of which one is ours and the other uninitialised; readers look
            // at the word alone, which is left out. What is blank in the value is so here: the system's zeros, or
            // what `wipe` left.
            unsafe {
                let target = self.0.get().cast::<MaybeUninit<u8>>().add(start);
                source.add(start).copy_to_nonoverlapping(target, end - start);
            }
        }
    }

    /// Drops the value, then overwrites its octets, all but the word: keys among them leave nothing behind.
    ///
    /// # Safety
    /// There is one, nothing refers to it, and no other thread calls anything but [`Place::state`] and
    /// [`Place::address`] meanwhile.
    pub(super) unsafe fn wipe(&self) {
        // SAFETY: by this function's contract.
        let written = unsafe { self.value() }.written();
        let blank = T::BLANK.start + written.min(T::BLANK.len())..T::BLANK.end;
        // SAFETY: initialised, and dropped once; the word is no part of that, by the contract of `Slotted`.
        unsafe { self.0.get().cast::<T>().drop_in_place() };
        for Range { start, end } in Self::parts(blank) {
            // SAFETY: octets of the value behind the word, which nobody reads now. Those left out are zero.
            let octets = unsafe {
                let first = self.0.get().cast::<MaybeUninit<u8>>().add(start);
                std::slice::from_raw_parts_mut(first, end - start)
            };
            octets.zeroize();
        }
    }

    /// What there is beside the word and what is blank.
    fn parts(blank: Range<usize>) -> [Range<usize>; 2] {
        const { assert!(T::BLANK.start <= T::BLANK.end && T::BLANK.end <= size_of::<T>()) };
        if blank.is_empty() {
            return [Self::STATE..size_of::<T>(), 0..0];
        }
        [Self::STATE..blank.start.max(Self::STATE), blank.end..size_of::<T>()]
    }
}

/// Anything, as a table can hold it.
#[cfg(test)]
#[derive(Debug)]
#[repr(C)]
pub(super) struct Plain<V> {
    state: SlotState,
    value: V,
}

#[cfg(test)]
// SAFETY: laid out like this; it has no `Drop` of its own.
unsafe impl<V> Slotted for Plain<V> {}

#[cfg(test)]
impl<V> Plain<V> {
    pub(super) fn new(value: V) -> Self {
        Self { state: SlotState::outside(), value }
    }
}

#[cfg(test)]
impl<V> std::ops::Deref for Plain<V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.value
    }
}
