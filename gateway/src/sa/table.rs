//! A table of fixed capacity whose lookup is an index: a slot and the generation that it must be in.
//!
//! Workers look up without a lock ([`SlotTable::get`]); everything else goes through the one [`SlotWriter`]. A slot
//! goes round: free, reserved (it has a name, but no value), live, leaving (unpublished, perhaps still looked at),
//! free again in the next generation. Free slots are used oldest first, so that a name comes again as late as can
//! be. Entries lie inline and are touched only when used: a large table costs address space, not memory, and
//! nothing depends on where it lies as long as its entries hold no pointers.

#![expect(unsafe_code, reason = "entries that readers look at while the writer goes round the slots")]

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::fmt;
use std::mem::MaybeUninit;

use zeroize::Zeroize;

use super::reclaim::{Guard, Horizon, Limbo, Reclaimer};
use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, lock};

/// Names an entry: stale as soon as the slot moves on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle {
    /// Index of the slot.
    pub slot: u32,
    /// Counts the uses of the slot.
    pub generation: u32,
}

const FREE: u64 = 0;
const RESERVED: u64 = 1;
const LIVE: u64 = 2;
const LEAVING: u64 = 3;

/// A slot's state word: generation above, phase in the lowest two bits.
const fn word(generation: u32, phase: u64) -> u64 {
    (generation as u64) << 2 | phase
}

type Entry<T> = UnsafeCell<MaybeUninit<T>>;

/// The table.
pub struct SlotTable<T> {
    /// Written by the writer alone. An entry is initialised exactly while its phase is LIVE or LEAVING.
    states: Box<[AtomicU64]>,
    entries: Box<[Entry<T>]>,
    reclaimer: Reclaimer,
    generation_mask: u32,
    writer: Mutex<WriterState>,
}

struct WriterState {
    free: VecDeque<u32>,
    leaving: Limbo<u32>,
}

// SAFETY: readers get `&T` on any thread (`T: Sync`), the writer makes and drops `T` on any thread (`T: Send`);
// the cells are written only by the lock's holder, and only while no reader can reach them (see the blocks below).
unsafe impl<T: Send + Sync> Sync for SlotTable<T> {}
// SAFETY: the table owns its entries.
unsafe impl<T: Send> Send for SlotTable<T> {}

impl<T> SlotTable<T> {
    /// A table of `capacity` slots, whose generations count from 1 modulo `2^generation_bits` (at most 32).
    pub fn new(capacity: u32, generation_bits: u32, reclaimer: Reclaimer) -> Self {
        let entries = Box::<[Entry<T>]>::new_uninit_slice(capacity as usize);
        // SAFETY: an `UnsafeCell<MaybeUninit<T>>` needs no initialisation.
        let entries = unsafe { entries.assume_init() };
        let leaving = Limbo::new(reclaimer.clone());
        Self {
            states: (0..capacity).map(|_| AtomicU64::new(word(0, FREE))).collect(),
            entries,
            reclaimer,
            generation_mask: u32::MAX.checked_shr(32 - generation_bits.min(32)).unwrap_or(0),
            writer: Mutex::new(WriterState { free: (0..capacity).collect(), leaving }),
        }
    }

    /// How many slots there are.
    pub fn capacity(&self) -> usize {
        self.states.len()
    }

    /// The live entry of that name. `None` if there is none, or if the guard is another table's.
    #[inline]
    pub fn get<'g>(&'g self, guard: &Guard<'g>, handle: Handle) -> Option<&'g T> {
        // Acquire: pairs with the release in `publish`, so that the whole entry is visible.
        let state = self.states.get(handle.slot as usize)?.load(Ordering::Acquire);
        if state != word(handle.generation, LIVE) || !guard.is_of(&self.reclaimer) {
            return None;
        }
        let entry = self.entries.get(handle.slot as usize)?;
        // SAFETY: LIVE, so initialised. The writer frees an entry only after it stored LEAVING and every reader
        // passed a quiescent point after that; the guard, of this table's reclaimer, borrows this reader, which still
        // saw LIVE, so that it cannot before 'g ends. Nothing else takes `&mut` to it, and 'g is within the table's
        // own life.
        Some(unsafe { (*entry.get()).assume_init_ref() })
    }

    /// Asks the processor for an entry that will be looked up soon. Any slot number will do.
    #[inline]
    pub fn prefetch(&self, slot: u32) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if let (Some(state), Some(entry)) = (self.states.get(slot as usize), self.entries.get(slot as usize))
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch reads nothing; SSE is part of x86_64.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(state).cast());
                _mm_prefetch::<_MM_HINT_T0>(entry.get().cast_const().cast());
            }
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = slot;
    }

    /// The one writer; waits for another thread's to go.
    pub fn writer(&self) -> SlotWriter<'_, T> {
        SlotWriter { table: self, state: lock(&self.writer) }
    }
}

/// The exclusive right to change the table.
pub struct SlotWriter<'t, T> {
    table: &'t SlotTable<T>,
    state: MutexGuard<'t, WriterState>,
}

impl<T> SlotWriter<'_, T> {
    /// Takes a free slot to the next generation for which `name` has a name. `None` if no slot is free; then
    /// [`SlotWriter::collect`] may help. A slot for which `name` refuses 1024 generations in a row stays free.
    pub fn reserve<N>(&mut self, name: impl Fn(Handle) -> Option<N>) -> Option<(Handle, N)> {
        let slot = self.state.free.pop_front()?;
        let mut generation = self.generation(slot);
        for _ in 0..1024 {
            generation = generation.wrapping_add(1) & self.table.generation_mask;
            let handle = Handle { slot, generation };
            if let Some(name) = name(handle) {
                self.set(handle, RESERVED);
                return Some((handle, name));
            }
        }
        self.state.free.push_back(slot);
        None
    }

    /// Makes `value` visible under a reserved handle; gives it back if the handle is not reserved.
    pub fn publish(&mut self, handle: Handle, value: T) -> Result<(), T> {
        let Some(entry) = self.table.entries.get(handle.slot as usize) else { return Err(value) };
        if self.phase(handle) != Some(RESERVED) {
            return Err(value);
        }
        // SAFETY: RESERVED, so uninitialised and unseen: every reader that saw this slot's last value has passed a
        // quiescent point, or it would not be free, and none takes a reference while it is not LIVE. Other writers
        // are kept out by the lock.
        unsafe { (*entry.get()).write(value) };
        // Release, in `set`: the value is written before it can be seen.
        self.set(handle, LIVE);
        Ok(())
    }

    /// Ends the handle: it is not found any more. A value that was live goes once no reader can hold it. False if
    /// the handle is neither reserved nor live.
    pub fn withdraw(&mut self, handle: Handle) -> bool {
        match self.phase(handle) {
            Some(RESERVED) => {
                self.set(handle, FREE);
                self.state.free.push_back(handle.slot);
                true
            }
            Some(LIVE) => {
                self.set(handle, LEAVING);
                self.state.leaving.push(handle.slot);
                true
            }
            _ => false,
        }
    }

    /// Drops and wipes the withdrawn values that no reader can hold any more, and frees their slots; `ending` is
    /// shown each before. Never waits.
    pub fn collect(&mut self, horizon: Horizon<'_>, mut ending: impl FnMut(u32, &T)) {
        let WriterState { free, leaving } = &mut *self.state;
        for slot in leaving.release(horizon) {
            if let (Some(entry), Some(state)) =
                (self.table.entries.get(slot as usize), self.table.states.get(slot as usize))
            {
                // SAFETY: the slot is LEAVING, so initialised, and nothing has `&mut` to it.
                ending(slot, unsafe { (*entry.get()).assume_init_ref() });
                // SAFETY: initialised, and in limbo once. Every reader passed a quiescent point after it was
                // unpublished: no reference is left, and none can be had.
                unsafe { wipe(entry) };
                let generation = (state.load(Ordering::Relaxed) >> 2) as u32;
                state.store(word(generation, FREE), Ordering::Relaxed);
                free.push_back(slot);
            }
        }
    }

    /// The entry of that name, live or withdrawn but not freed; it stays while the writer is borrowed.
    pub fn get(&self, handle: Handle) -> Option<&T> {
        if !matches!(self.phase(handle)?, LIVE | LEAVING) {
            return None;
        }
        let entry = self.table.entries.get(handle.slot as usize)?;
        // SAFETY: LIVE or LEAVING, so initialised; only the lock's holder ends that, through `&mut self`.
        Some(unsafe { (*entry.get()).assume_init_ref() })
    }

    /// The handle that the slot has now, if it is reserved or live.
    pub fn current(&self, slot: u32) -> Option<Handle> {
        let state = self.table.states.get(slot as usize)?.load(Ordering::Relaxed);
        matches!(state & 3, RESERVED | LIVE).then_some(Handle { slot, generation: (state >> 2) as u32 })
    }

    /// Whether the handle is reserved and has no value yet.
    pub fn is_reserved(&self, handle: Handle) -> bool {
        self.phase(handle) == Some(RESERVED)
    }

    /// How many slots can be reserved now.
    pub fn free_slots(&self) -> usize {
        self.state.free.len()
    }

    /// How many values wait for readers to pass.
    pub fn leaving(&self) -> usize {
        self.state.leaving.len()
    }

    fn generation(&self, slot: u32) -> u32 {
        let state = self.table.states.get(slot as usize);
        state.map_or(0, |state| (state.load(Ordering::Relaxed) >> 2) as u32)
    }

    /// The phase of the slot if it is in the handle's generation. Relaxed: the lock orders writers.
    fn phase(&self, handle: Handle) -> Option<u64> {
        let state = self.table.states.get(handle.slot as usize)?.load(Ordering::Relaxed);
        (state >> 2 == u64::from(handle.generation)).then_some(state & 3)
    }

    fn set(&self, handle: Handle, phase: u64) {
        if let Some(state) = self.table.states.get(handle.slot as usize) {
            state.store(word(handle.generation, phase), Ordering::Release);
        }
    }
}

/// Drops the value, then overwrites its octets: keys among them leave nothing behind.
///
/// # Safety
/// The entry is initialised, nobody refers to it, and it is not read as a `T` again before it is written.
unsafe fn wipe<T>(entry: &Entry<T>) {
    // SAFETY: by the contract, the only access to an initialised value.
    let value = unsafe { &mut *entry.get() };
    // SAFETY: initialised, and dropped once.
    unsafe { value.assume_init_drop() };
    let octets = std::ptr::from_mut(value).cast::<MaybeUninit<u8>>();
    // SAFETY: the same memory, as octets that may be uninitialised; the exclusive borrow of `value` is not used
    // again.
    let octets = unsafe { std::slice::from_raw_parts_mut(octets, size_of::<T>()) };
    octets.zeroize();
}

impl<T> Drop for SlotTable<T> {
    fn drop(&mut self) {
        for (state, entry) in self.states.iter().zip(&self.entries) {
            if matches!(state.load(Ordering::Relaxed) & 3, LIVE | LEAVING) {
                // SAFETY: initialised, by the phase; references borrow the table, which is going.
                unsafe { wipe(entry) };
            }
        }
    }
}

impl<T> fmt::Debug for SlotTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotTable").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}
