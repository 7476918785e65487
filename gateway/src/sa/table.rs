//! A table of fixed capacity whose lookup is an index: a slot and the generation that it must be in.
//!
//! Workers look up without a lock ([`SlotTable::get`]); everything else goes through the one [`SlotWriter`]. A slot
//! goes round: free, reserved (it has a name, but no value), live, leaving (unpublished, perhaps still looked at),
//! free again in the next generation. Free slots are used oldest first, so that a name comes again as late as can
//! be. Heads lie inline in one [`Slab`], bodies in another (`place` says why), and are touched only when used: a large table
//! costs address space, not memory, and nothing depends on where it lies as long as its entries hold no pointers.

#![expect(unsafe_code, reason = "entries that readers look at while the writer goes round the slots")]

use std::collections::VecDeque;
use std::fmt;
use std::io;

use super::place::{Place, Room, Slotted, Whole};
use super::reclaim::{Guard, Horizon, Limbo, Reclaimer};
use super::slab::{Pages, Slab};
use crate::sync::{Mutex, MutexGuard, Ordering, lock};

/// Names an entry: stale as soon as the slot moves on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle {
    /// Index of the slot.
    pub slot: u32,
    /// Counts the uses of the slot.
    pub generation: u32,
}

impl Handle {
    /// As one number, which is 0 for no handle that is live: generations count from 1.
    #[inline]
    pub(crate) fn to_word(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }
}

const FREE: u64 = 0;
const RESERVED: u64 = 1;
const LIVE: u64 = 2;
const LEAVING: u64 = 3;

/// A slot's state word: generation above, phase in the lowest two bits.
const fn word(generation: u32, phase: u64) -> u64 {
    (generation as u64) << 2 | phase
}

/// Slots that were used once rest until so many rest with them, if there are others: a name comes again late, and
/// still a large table in which few SAs live takes little memory.
const RESTING: usize = 4096;

/// The table.
pub struct SlotTable<T: Slotted> {
    /// States are written by the writer alone. A place holds a value exactly while its phase is LIVE or LEAVING.
    places: Slab<Place<T>>,
    /// Of the same slots.
    rooms: Slab<Room<T::Body>>,
    reclaimer: Reclaimer,
    generation_mask: u32,
    writer: Mutex<WriterState>,
}

struct WriterState {
    /// The first slot that was never used; all behind it were not either.
    fresh: u32,
    /// Used and free again, oldest first.
    free: VecDeque<u32>,
    leaving: Limbo<u32>,
}

// SAFETY: readers get `&T` on any thread (`T: Sync`), the writer makes and drops `T` on any thread (`T: Send`);
// the cells are written only by the lock's holder, and only while no reader can reach them (see the blocks below).
unsafe impl<T: Slotted<Body: Send + Sync> + Send + Sync> Sync for SlotTable<T> {}
// SAFETY: the table owns its entries.
unsafe impl<T: Slotted<Body: Send> + Send> Send for SlotTable<T> {}

impl<T: Slotted> SlotTable<T> {
    /// A table of `capacity` slots, whose generations count from 1 modulo `2^generation_bits` (at most 32). Fails if
    /// the system has no room for it.
    pub fn new(capacity: u32, generation_bits: u32, reclaimer: Reclaimer) -> io::Result<Self> {
        // Room for all, that nothing is copied later; untouched, it takes no memory.
        let free = VecDeque::with_capacity(capacity as usize);
        let leaving = Limbo::new(reclaimer.clone(), capacity as usize);
        Ok(Self {
            places: Slab::new(capacity as usize)?,
            rooms: Slab::new(capacity as usize)?,
            reclaimer,
            generation_mask: u32::MAX.checked_shr(32 - generation_bits.min(32)).unwrap_or(0),
            writer: Mutex::new(WriterState { fresh: 0, free, leaving }),
        })
    }

    /// What the bodies' memory is made of: nearly all of it.
    pub fn pages(&self) -> Pages {
        self.rooms.pages()
    }

    /// How many slots there are.
    pub fn capacity(&self) -> usize {
        self.places.len()
    }

    /// The live entry of that name. `None` if there is none, or if the guard is another table's.
    #[inline]
    pub fn get<'g>(&'g self, guard: &Guard<'g>, handle: Handle) -> Option<&'g T> {
        // Acquire: pairs with the release in `publish`, so that the whole entry is visible.
        let place = self.places.get(handle.slot as usize)?;
        let state = place.state().load(Ordering::Acquire);
        if state != word(handle.generation, LIVE) || !guard.is_of(&self.reclaimer) {
            return None;
        }
        // SAFETY: LIVE, so there is one. The writer frees an entry only after it stored LEAVING and every reader
        // passed a quiescent point after that; the guard, of this table's reclaimer, borrows this reader, which still
        // saw LIVE, so that it cannot before 'g ends. Nothing else takes `&mut` to it, and 'g is within the table's
        // own life.
        Some(unsafe { place.value() })
    }

    /// Asks the processor for the line that an entry's head lies in, its state with it. Any slot number will do.
    #[inline]
    pub fn prefetch(&self, slot: u32) {
        if let Some(place) = self.places.get(slot as usize) {
            place.prefetch();
        }
    }

    /// Where a slot's head and body lie.
    fn place(&self, slot: u32) -> Option<(&Place<T>, &Room<T::Body>)> {
        self.places.get(slot as usize).zip(self.rooms.get(slot as usize))
    }

    /// The one writer; waits for another thread's to go.
    pub fn writer(&self) -> SlotWriter<'_, T> {
        SlotWriter { table: self, state: lock(&self.writer) }
    }
}

/// The exclusive right to change the table.
pub struct SlotWriter<'t, T: Slotted> {
    table: &'t SlotTable<T>,
    state: MutexGuard<'t, WriterState>,
}

impl<T: Slotted> SlotWriter<'_, T> {
    /// Takes a free slot to the next generation for which `name` has a name. `None` if no slot is free; then
    /// [`SlotWriter::collect`] may help. A slot for which `name` refuses 1024 generations in a row stays free.
    pub fn reserve<N>(&mut self, name: impl Fn(Handle) -> Option<N>) -> Option<(Handle, N)> {
        let slot = self.take_free()?;
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
    pub fn publish(&mut self, handle: Handle, value: Whole<T>) -> Result<(), Whole<T>> {
        let Some((place, room)) = self.table.place(handle.slot) else { return Err(value) };
        if self.phase(handle) != Some(RESERVED) {
            return Err(value);
        }
        // SAFETY: RESERVED, so empty and unseen: every reader that saw this slot's last value has passed a
        // quiescent point, or it would not be free, and none takes a reference while it is not LIVE. Other writers
        // are kept out by the lock. The table's slabs stay where they are.
        unsafe { place.fill(room, value) };
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
        let WriterState { free, leaving, .. } = &mut *self.state;
        for slot in leaving.release(horizon) {
            if let Some((place, room)) = self.table.place(slot) {
                // SAFETY: the slot is LEAVING, so there is a value, and nothing has `&mut` to it.
                ending(slot, unsafe { place.value() });
                // SAFETY: there is a value, and it is in limbo once. Every reader passed a quiescent point after it
                // was unpublished: no reference is left, and none can be had.
                unsafe { place.wipe(room) };
                let generation = (place.state().load(Ordering::Relaxed) >> 2) as u32;
                place.state().store(word(generation, FREE), Ordering::Relaxed);
                free.push_back(slot);
            }
        }
    }

    /// The entry of that name, live or withdrawn but not freed; it stays while the writer is borrowed.
    pub fn get(&self, handle: Handle) -> Option<&T> {
        if !matches!(self.phase(handle)?, LIVE | LEAVING) {
            return None;
        }
        let place = self.table.places.get(handle.slot as usize)?;
        // SAFETY: LIVE or LEAVING, so there is a value; only the lock's holder ends that, through `&mut self`.
        Some(unsafe { place.value() })
    }

    /// The handle that the slot has now, if it is reserved or live.
    pub fn current(&self, slot: u32) -> Option<Handle> {
        let state = self.table.places.get(slot as usize)?.state().load(Ordering::Relaxed);
        matches!(state & 3, RESERVED | LIVE).then_some(Handle { slot, generation: (state >> 2) as u32 })
    }

    /// Whether the handle is reserved and has no value yet.
    pub fn is_reserved(&self, handle: Handle) -> bool {
        self.phase(handle) == Some(RESERVED)
    }

    /// How many slots can be reserved now.
    pub fn free_slots(&self) -> usize {
        self.state.free.len() + (self.table.capacity() - self.state.fresh as usize)
    }

    /// How many values wait for readers to pass.
    pub fn leaving(&self) -> usize {
        self.state.leaving.len()
    }

    fn take_free(&mut self) -> Option<u32> {
        let WriterState { fresh, free, .. } = &mut *self.state;
        let unused = (*fresh as usize) < self.table.capacity();
        let slot = if unused && free.len() < RESTING {
            *fresh += 1;
            Some(*fresh - 1)
        } else {
            free.pop_front()
        };
        // The next one has not been touched for long: on its way into the cache until it is wanted.
        if let Some((place, room)) = free.front().and_then(|&next| self.table.place(next)) {
            place.prefetch_all(room);
        }
        slot
    }

    fn generation(&self, slot: u32) -> u32 {
        let place = self.table.places.get(slot as usize);
        place.map_or(0, |place| (place.state().load(Ordering::Relaxed) >> 2) as u32)
    }

    /// The phase of the slot if it is in the handle's generation. Relaxed: the lock orders writers.
    fn phase(&self, handle: Handle) -> Option<u64> {
        let state = self.table.places.get(handle.slot as usize)?.state().load(Ordering::Relaxed);
        (state >> 2 == u64::from(handle.generation)).then_some(state & 3)
    }

    fn set(&self, handle: Handle, phase: u64) {
        if let Some(place) = self.table.places.get(handle.slot as usize) {
            place.state().store(word(handle.generation, phase), Ordering::Release);
        }
    }
}

impl<T: Slotted> Drop for SlotTable<T> {
    fn drop(&mut self) {
        // Slots never used hold nothing, and are left untouched.
        let used = lock(&self.writer).fresh as usize;
        for (place, room) in self.places.iter().zip(&*self.rooms).take(used) {
            if matches!(place.state().load(Ordering::Relaxed) & 3, LIVE | LEAVING) {
                // SAFETY: there is a value, by the phase; references borrow the table, which is going.
                unsafe { place.wipe(room) };
            }
        }
    }
}

impl<T: Slotted> fmt::Debug for SlotTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotTable").field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::{Arc, Barrier};
    use std::thread;

    use super::super::place::Plain;
    use super::*;

    /// Counts its drops.
    struct Canary(u64, Arc<AtomicUsize>);

    impl Drop for Canary {
        fn drop(&mut self) {
            self.1.fetch_add(1, SeqCst);
        }
    }

    fn any(handle: Handle) -> Option<()> {
        (handle.generation != 0).then_some(())
    }

    fn put<V>(table: &SlotTable<Plain<V>>, value: V) -> Handle {
        let mut writer = table.writer();
        let (handle, ()) = writer.reserve(any).unwrap();
        assert!(writer.publish(handle, Plain::new(value)).is_ok());
        handle
    }

    fn found<V: Copy>(table: &SlotTable<Plain<V>>, guard: &Guard<'_>, handle: Handle) -> Option<V> {
        table.get(guard, handle).map(|value| **value)
    }

    fn collect<V>(table: &SlotTable<Plain<V>>, reclaimer: &Reclaimer) {
        table.writer().collect(reclaimer.horizon(), |_, _| {});
    }

    #[test]
    fn a_value_is_found_by_its_own_handle_alone() {
        let reclaimer = Reclaimer::new(1);
        let table = SlotTable::new(4, 8, reclaimer.clone()).unwrap();
        let reader = reclaimer.register().unwrap();
        let handle = put(&table, 7);
        let guard = reader.guard();
        assert_eq!(found(&table, &guard, handle), Some(7));
        for (slot, generation) in [(0, 0), (0, 2), (1, 1), (4, 1), (u32::MAX, 1)] {
            assert_eq!(found(&table, &guard, Handle { slot, generation }), None);
        }
    }

    #[test]
    fn a_guard_of_another_reclaimer_finds_nothing() {
        let table = SlotTable::new(1, 8, Reclaimer::new(1)).unwrap();
        let handle = put(&table, 7);
        let stranger = Reclaimer::new(1).register().unwrap();
        assert_eq!(found(&table, &stranger.guard(), handle), None);
    }

    #[test]
    fn a_withdrawn_value_is_not_found_but_lives_until_its_reader_has_passed() {
        let (reclaimer, drops) = (Reclaimer::new(1), Arc::new(AtomicUsize::new(0)));
        let table = SlotTable::new(1, 8, reclaimer.clone()).unwrap();
        let mut reader = reclaimer.register().unwrap();
        let handle = put(&table, Canary(7, Arc::clone(&drops)));
        let guard = reader.guard();
        let seen = table.get(&guard, handle).unwrap();
        assert!(table.writer().withdraw(handle));
        assert!(table.get(&guard, handle).is_none());
        collect(&table, &reclaimer);
        assert!(table.writer().reserve(any).is_none(), "its slot is not free yet");
        assert_eq!((seen.0, drops.load(SeqCst)), (7, 0));
        reader.quiescent();
        collect(&table, &reclaimer);
        assert_eq!(drops.load(SeqCst), 1);
    }

    #[test]
    fn a_used_slot_does_not_answer_to_its_old_name() {
        let reclaimer = Reclaimer::new(1);
        let table = SlotTable::new(1, 8, reclaimer.clone()).unwrap();
        let reader = reclaimer.register().unwrap();
        let old = put(&table, 1);
        assert!(table.writer().withdraw(old));
        collect(&table, &reclaimer);
        let new = put(&table, 2);
        assert_eq!(new.slot, old.slot);
        let guard = reader.guard();
        assert_eq!((found(&table, &guard, old), found(&table, &guard, new)), (None, Some(2)));
        assert!(!table.writer().withdraw(old), "the old name cannot end the new value");
    }

    #[test]
    fn free_slots_are_used_oldest_first_and_generations_skip_what_has_no_name() {
        let table = SlotTable::<Plain<u8>>::new(2, 2, Reclaimer::new(1)).unwrap();
        let mut order = Vec::new();
        for _ in 0..8 {
            let (handle, ()) = table.writer().reserve(any).unwrap();
            order.push((handle.slot, handle.generation));
            assert!(table.writer().withdraw(handle));
        }
        // Two bits of generation, of which 0 is refused.
        assert_eq!(order, [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3), (0, 1), (1, 1)]);
    }

    #[test]
    fn a_slot_that_gets_no_name_stays_free() {
        let table = SlotTable::<Plain<u8>>::new(1, 2, Reclaimer::new(1)).unwrap();
        assert!(table.writer().reserve(|_| None::<()>).is_none());
        assert!(table.writer().reserve(any).is_some());
    }

    #[test]
    fn nothing_is_published_twice_or_under_a_name_that_was_not_given_out() {
        let table = SlotTable::new(1, 8, Reclaimer::new(1)).unwrap();
        let handle = put(&table, 1);
        let mut writer = table.writer();
        for wrong in [handle, Handle { generation: 9, ..handle }, Handle { slot: 9, ..handle }] {
            assert_eq!(writer.publish(wrong, Plain::new(2)).map_err(|value| **value), Err(2));
        }
        assert_eq!(writer.get(handle).map(|value| **value), Some(1));
    }

    #[test]
    fn a_freed_entry_leaves_no_octet_behind() {
        let reclaimer = Reclaimer::new(1);
        let table = SlotTable::new(1, 8, reclaimer.clone()).unwrap();
        let handle = put(&table, [0xaa_u8; 200]);
        assert!(table.writer().withdraw(handle));
        let octets = |table: &SlotTable<Plain<[u8; 200]>>| {
            // SAFETY: written by `put`, and by the wiping; the writer is not in use.
            *unsafe { table.rooms[0].last() }
        };
        assert_eq!(octets(&table), [0xaa; 200]);
        collect(&table, &reclaimer);
        assert_eq!(octets(&table), [0; 200]);
    }

    #[test]
    fn a_table_that_goes_drops_what_is_live_and_what_was_leaving() {
        let (reclaimer, drops) = (Reclaimer::new(1), Arc::new(AtomicUsize::new(0)));
        let table = SlotTable::new(4, 8, reclaimer.clone()).unwrap();
        let mut reader = reclaimer.register().unwrap();
        reader.online();
        let first = put(&table, Canary(1, Arc::clone(&drops)));
        put(&table, Canary(2, Arc::clone(&drops)));
        assert!(table.writer().withdraw(first));
        drop(table);
        assert_eq!(drops.load(SeqCst), 2);
    }

    /// Readers check that what they hold is what its name promised, while a writer replaces it all the time.
    #[test]
    fn readers_never_see_a_value_under_another_name_while_slots_go_round() {
        const ROUNDS: u64 = 20_000;
        let (reclaimer, drops) = (Reclaimer::new(2), Arc::new(AtomicUsize::new(0)));
        // Roomy enough not to wait for a sleeping reader at every step.
        let table = SlotTable::<Plain<Canary>>::new(64, 20, reclaimer.clone()).unwrap();
        let name = |handle: Handle| u64::from(handle.generation) << 8 | u64::from(handle.slot);
        let (start, current) = (Barrier::new(3), std::sync::atomic::AtomicU64::new(u64::MAX));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut reader = reclaimer.register().unwrap();
                    start.wait();
                    loop {
                        let at = current.load(SeqCst);
                        if at == 0 {
                            return;
                        }
                        for handle in [at, at.wrapping_sub(1 << 8)]
                            .map(|at| Handle { slot: at as u32 & 0xff, generation: (at >> 8) as u32 })
                        {
                            let guard = reader.guard();
                            if let Some(canary) = table.get(&guard, handle) {
                                assert_eq!(canary.0, name(handle));
                            }
                        }
                        reader.quiescent();
                        if at % 64 == 0 {
                            reader.offline();
                        }
                    }
                });
            }
            start.wait();
            let mut live = std::collections::VecDeque::new();
            let mut made = 0;
            while made < ROUNDS {
                let mut writer = table.writer();
                writer.collect(reclaimer.horizon(), |_, _| {});
                if let Some((handle, ())) = writer.reserve(any) {
                    let canary = Canary(name(handle), Arc::clone(&drops));
                    assert!(writer.publish(handle, Plain::new(canary)).is_ok());
                    current.store(name(handle), SeqCst);
                    live.push_back(handle);
                    made += 1;
                }
                if live.len() > 2 {
                    assert!(writer.withdraw(live.pop_front().unwrap()));
                }
                let full = writer.free_slots() == 0;
                drop(writer);
                if full {
                    thread::yield_now();
                }
            }
            current.store(0, SeqCst);
        });
        drop(table);
        assert_eq!(drops.load(SeqCst) as u64, ROUNDS);
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use std::sync::Arc;

    use loom::cell::UnsafeCell;

    use super::super::place::Plain;
    use super::*;

    const DEAD: u32 = 0xdead;

    /// A value whose end loom sees as a write: whoever reads it without being ordered before fails the model.
    struct Canary(UnsafeCell<u32>);

    // SAFETY: loom's cell checks every access itself; that is what the models are for.
    unsafe impl Sync for Canary {}

    impl Canary {
        fn new(value: u32) -> Self {
            Self(UnsafeCell::new(value))
        }

        fn read(&self) -> u32 {
            // SAFETY: loom fails the model if a write is concurrent.
            self.0.with(|value| unsafe { *value })
        }
    }

    impl Drop for Canary {
        fn drop(&mut self) {
            // SAFETY: loom fails the model if any other access is concurrent.
            self.0.with_mut(|value| unsafe { *value = DEAD });
        }
    }

    fn any(handle: Handle) -> Option<()> {
        (handle.generation != 0).then_some(())
    }

    fn put(table: &SlotTable<Plain<Canary>>, value: u32) -> Option<Handle> {
        let mut writer = table.writer();
        let (handle, ()) = writer.reserve(any)?;
        assert!(writer.publish(handle, Plain::new(Canary::new(value))).is_ok());
        Some(handle)
    }

    fn setup() -> (Reclaimer, Arc<SlotTable<Plain<Canary>>>) {
        let reclaimer = Reclaimer::new(1);
        (reclaimer.clone(), Arc::new(SlotTable::new(1, 8, reclaimer).unwrap()))
    }

    #[test]
    fn what_a_reader_found_stays_until_its_quiescent_point() {
        loom::model(|| {
            let (reclaimer, table) = setup();
            let old = put(&table, 1).unwrap();
            let new = Handle { generation: 2, ..old };
            let worker = {
                let (table, reclaimer) = (Arc::clone(&table), reclaimer.clone());
                loom::thread::spawn(move || {
                    let mut reader = reclaimer.register().unwrap();
                    for _ in 0..2 {
                        let guard = reader.guard();
                        let (first, second) = (table.get(&guard, old), table.get(&guard, new));
                        assert!(first.is_none_or(|canary| canary.read() == 1));
                        assert!(second.is_none_or(|canary| canary.read() == 2));
                        assert!(first.is_none_or(|canary| canary.read() == 1));
                        reader.quiescent();
                    }
                })
            };
            assert!(table.writer().withdraw(old));
            table.writer().collect(reclaimer.horizon(), |_, _| {});
            put(&table, 2);
            worker.join().unwrap();
            table.writer().collect(reclaimer.horizon(), |_, _| {});
            assert_eq!(table.writer().leaving(), 0, "nobody is online");
        });
    }

    #[test]
    fn a_reader_that_comes_online_while_a_value_goes_sees_it_whole_or_not_at_all() {
        loom::model(|| {
            let (reclaimer, table) = setup();
            let handle = put(&table, 1).unwrap();
            let worker = {
                let (table, reclaimer) = (Arc::clone(&table), reclaimer.clone());
                loom::thread::spawn(move || {
                    let mut reader = reclaimer.register().unwrap();
                    for _ in 0..2 {
                        let guard = reader.guard();
                        let found = table.get(&guard, handle);
                        assert!(found.is_none_or(|canary| canary.read() == 1));
                        assert!(found.is_none_or(|canary| canary.read() == 1));
                        reader.offline();
                    }
                })
            };
            assert!(table.writer().withdraw(handle));
            table.writer().collect(reclaimer.horizon(), |_, _| {});
            worker.join().unwrap();
        });
    }

    #[test]
    fn a_value_is_complete_when_it_is_found() {
        loom::model(|| {
            let (reclaimer, table) = setup();
            let handle = Handle { slot: 0, generation: 1 };
            let worker = {
                let (table, reclaimer) = (Arc::clone(&table), reclaimer.clone());
                loom::thread::spawn(move || {
                    let reader = reclaimer.register().unwrap();
                    let guard = reader.guard();
                    table.get(&guard, handle).map(|canary| canary.read())
                })
            };
            assert_eq!(put(&table, 1), Some(handle));
            assert!(matches!(worker.join().unwrap(), None | Some(1)));
        });
    }
}
