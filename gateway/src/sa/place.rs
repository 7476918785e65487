//! One place of a table: its state word, and the value that the word lies in. What a lookup reads of a value is its head,
//! a cache line that the word is part of; the rest, its body, lies elsewhere.
//!
//! Heads lie side by side, so that those of a million take 64 MB: few enough pages for the processor to know where all
//! of them are. A lookup waits for memory once, and for no page table. Bodies are some KB apart, and each is in a page
//! that was forgotten; they are asked for by whoever has seen from the head that he needs them.
//!
//! How far from its head a body lies stands in the head ([`Anchor`]), so that a value holds no pointer and may lie
//! anywhere.

#![expect(unsafe_code, reason = "a value that comes and goes around a word that stays, in two parts")]

use std::cell::UnsafeCell;
use std::mem::{ManuallyDrop, MaybeUninit, offset_of};
use std::ops::{Deref, Range};
use std::ptr;

use zeroize::Zeroize;

use super::slab::Zeroed;
use crate::prefetch;
use crate::sync::AtomicU64;

/// At the start of every head: room for the slot's state, and the way to the body.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Anchor {
    state: AtomicU64,
    /// Octets from here to the body.
    distance: isize,
}

impl Anchor {
    /// Of a head that has no body yet: [`Whole::new`] gives it one.
    pub(super) fn adrift() -> Self {
        Self { state: AtomicU64::new(0), distance: 0 }
    }
}

/// The head of what a table can hold.
///
/// # Safety
/// It is `repr(C)` and its first field is an [`Anchor`], which it never uses; nor does its end: it does not
/// implement [`Drop`] (its other fields may). [`Slotted::BLANK`] and [`Slotted::written`] tell the truth. It is made
/// for [`Whole::new`] alone, and never taken from where it lies.
pub unsafe trait Slotted: Sized {
    /// What does not lie with it.
    type Body;

    /// Octets of the body that are zero in every value that comes into a table. They are neither copied in nor, where they
    /// stayed so, wiped: most of a replay window, whose cold lines would cost more than all the rest of an install.
    const BLANK: Range<usize> = 0..0;

    /// How many of them, from the first, may have been written since. The others are zero still.
    fn written(&self) -> usize {
        Self::BLANK.len()
    }

    /// What belongs to it and lies elsewhere.
    #[inline(always)]
    fn body(&self) -> &Self::Body {
        let address = body_address(self);
        // SAFETY: by the contract of this trait it lies in a `Whole` or in a table, which have seen to it that its body
        // lies there as long as it does, and that the address may be used.
        unsafe { &*ptr::with_exposed_provenance(address) }
    }
}

/// Where the body of a value lies.
#[inline(always)]
fn body_address<T: Slotted>(head: &T) -> usize {
    let anchor = ptr::from_ref(head).cast::<Anchor>();
    // SAFETY: by the contract of `Slotted`, an anchor comes first, and its distance changes only while nobody has a
    // reference.
    let distance = unsafe { (*anchor).distance };
    anchor.addr().wrapping_add_signed(distance)
}

/// A value that is in no table.
#[repr(C)]
pub struct Whole<T: Slotted> {
    head: T,
    body: T::Body,
}

impl<T: Slotted> Whole<T> {
    /// Of both parts.
    pub(super) fn new(mut head: T, body: T::Body) -> Self {
        let anchor = (&raw mut head).cast::<Anchor>();
        // SAFETY: by the contract of `Slotted`, an anchor comes first.
        unsafe { (*anchor).distance = offset_of!(Self, body).cast_signed() };
        Self { head, body }
    }
}

impl<T: Slotted> Deref for Whole<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // For `Slotted::body`, which comes here by the head.
        (&raw const self.body).expose_provenance();
        &self.head
    }
}

/// A place for a head. Its state word always exists; of the value around it, the table keeps account.
pub(super) struct Place<T>(UnsafeCell<MaybeUninit<T>>);

/// A place for a body.
pub(super) struct Room<B>(UnsafeCell<MaybeUninit<B>>);

// SAFETY: of zeros is a place whose word is 0 and that holds no value.
unsafe impl<T: Slotted> Zeroed for Place<T> {
    fn zero() -> Self {
        let mut place = MaybeUninit::<T>::zeroed();
        // SAFETY: by the contract of `Slotted`, the anchor comes first. (A model's is not made of zeros.)
        unsafe { place.as_mut_ptr().cast::<Anchor>().write(Anchor::adrift()) };
        Self(UnsafeCell::new(place))
    }
}

// SAFETY: it holds no value.
unsafe impl<B> Zeroed for Room<B> {
    fn zero() -> Self {
        Self(UnsafeCell::new(MaybeUninit::zeroed()))
    }
}

impl<B> Room<B> {
    /// Octets of it.
    ///
    /// # Safety
    /// Nobody else looks at them while the result is used, and they hold no value, or one that will not be used again.
    #[expect(clippy::mut_from_ref, reason = "by contract nobody else has it")]
    unsafe fn octets(&self, Range { start, end }: Range<usize>) -> &mut [MaybeUninit<u8>] {
        debug_assert!(start <= end && end <= size_of::<B>());
        // SAFETY: within the value; by contract.
        unsafe {
            std::slice::from_raw_parts_mut(self.0.get().cast::<MaybeUninit<u8>>().add(start), end - start)
        }
    }

    /// Where it lies, for [`Slotted::body`] to come here.
    fn expose(&self) -> usize {
        self.0.get().expose_provenance()
    }
}

impl<T: Slotted> Place<T> {
    const STATE: usize = size_of::<AtomicU64>();

    /// The word. 0 at first.
    #[inline]
    pub(super) fn state(&self) -> &AtomicU64 {
        // SAFETY: by the contract of `Slotted`, a word lies here; it is there from the beginning (`Zeroed`), and
        // `fill` and `wipe` leave it alone.
        unsafe { &(*self.0.get().cast::<Anchor>()).state }
    }

    /// Asks for its line.
    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch::lines(self.0.get().cast_const().cast(), 1);
    }

    /// Asks for all the lines that filling both will write.
    pub(super) fn prefetch_all(&self, room: &Room<T::Body>) {
        prefetch::lines(self.0.get().cast_const().cast(), size_of::<T>());
        for Range { start, end } in Self::parts(T::BLANK) {
            prefetch::lines(room.0.get().cast_const().cast::<u8>().wrapping_add(start), end - start);
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

    /// Puts a value in, all but its word; its body into that room.
    ///
    /// # Safety
    /// There is none in either, the room is as far away as long as the value stays, and no other thread calls anything but
    /// [`Place::state`] and [`Place::prefetch`] meanwhile.
    pub(super) unsafe fn fill(&self, room: &Room<T::Body>, value: Whole<T>) {
        let mut value = ManuallyDrop::new(value);
        let distance = room.expose().wrapping_sub(self.0.get().addr()).cast_signed();
        // SAFETY: by the contract of `Slotted`, an anchor comes first.
        unsafe { (*(&raw mut value.head).cast::<Anchor>()).distance = distance };
        let head = (&raw const value.head).cast::<MaybeUninit<u8>>();
        let body = (&raw const value.body).cast::<MaybeUninit<u8>>();
        // SAFETY: octets of two values of one type, of which one is ours and the other uninitialised; readers look
        // at the word alone, which is left out. What is blank in the value is so here: the system's zeros, or
        // what `wipe` left.
        unsafe {
            let target = self.0.get().cast::<MaybeUninit<u8>>().add(Self::STATE);
            head.add(Self::STATE).copy_to_nonoverlapping(target, size_of::<T>() - Self::STATE);
            for part in Self::parts(T::BLANK) {
                let target = room.octets(part.clone());
                body.add(part.start).copy_to_nonoverlapping(target.as_mut_ptr(), target.len());
            }
        }
    }

    /// Drops the value, then overwrites its octets, all but the word: keys among them leave nothing behind.
    ///
    /// # Safety
    /// There is one, with its body in that room, nothing refers to it, and no other thread calls anything but
    /// [`Place::state`] and [`Place::prefetch`] meanwhile.
    pub(super) unsafe fn wipe(&self, room: &Room<T::Body>) {
        // SAFETY: by this function's contract.
        let written = unsafe { self.value() }.written();
        let blank = T::BLANK.start + written.min(T::BLANK.len())..T::BLANK.end;
        // SAFETY: both initialised, and dropped once; the word is no part of that, by the contract of `Slotted`. The
        // octets are behind the word, or the body's, and nobody reads them now. Those left out are zero.
        unsafe {
            room.0.get().cast::<T::Body>().drop_in_place();
            self.0.get().cast::<T>().drop_in_place();
            let first = self.0.get().cast::<MaybeUninit<u8>>().add(Self::STATE);
            std::slice::from_raw_parts_mut(first, size_of::<T>() - Self::STATE).zeroize();
            Self::parts(blank).into_iter().for_each(|part| room.octets(part).zeroize());
        }
    }

    /// What there is of the body beside what is blank.
    fn parts(blank: Range<usize>) -> [Range<usize>; 2] {
        const { assert!(T::BLANK.start <= T::BLANK.end && T::BLANK.end <= size_of::<T::Body>()) };
        [0..blank.start, blank.end..size_of::<T::Body>()]
    }
}

/// Anything, as a table can hold it.
#[cfg(test)]
#[derive(Debug)]
#[repr(C)]
pub(super) struct Plain<V> {
    anchor: Anchor,
    value: std::marker::PhantomData<V>,
}

#[cfg(test)]
// SAFETY: laid out like this; it has no `Drop` of its own.
unsafe impl<V> Slotted for Plain<V> {
    type Body = V;
}

#[cfg(test)]
impl<V> Plain<V> {
    pub(super) fn new(value: V) -> Whole<Self> {
        Whole::new(Self { anchor: Anchor::adrift(), value: std::marker::PhantomData }, value)
    }
}

#[cfg(test)]
impl<V> Deref for Plain<V> {
    type Target = V;

    fn deref(&self) -> &V {
        self.body()
    }
}

#[cfg(test)]
impl<V> Room<V> {
    /// What was written there last.
    ///
    /// # Safety
    /// Something was, and it is a value.
    pub(super) unsafe fn last(&self) -> &V {
        // SAFETY: by contract.
        unsafe { (*self.0.get()).assume_init_ref() }
    }
}
