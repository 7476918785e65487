//! The memory of a table: one piece, zeroed, as large as the table may ever get, of which the system gives only what
//! is touched; in huge pages where there are any, so that a random entry of a large table costs one short walk of the
//! page tables or none.
//!
//! Asked for in this order: pages of 2 MiB from the system's pool (`vm.nr_hugepages`), which are ours from the start
//! but zeroed when touched; pages that the kernel makes huge by itself (`transparent_hugepage`: `madvise` or `always`);
//! ordinary ones. It holds keys, so it is left out of core dumps.

#![expect(unsafe_code, reason = "a mapping that is read as a slice")]

use std::fmt;
use std::io;
use std::ops::Deref;

/// What a table's memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// Of 2 MiB, from the pool that the system set aside.
    Huge,
    /// Of 2 MiB as far as the kernel finds some when they are first touched.
    Transparent,
    /// Of the processor's ordinary size.
    Ordinary,
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Huge => "huge pages",
            Self::Transparent => "transparent huge pages",
            Self::Ordinary => "ordinary pages",
        })
    }
}

/// What octets of zero are a value of.
///
/// # Safety
/// If all octets are zero, that is a valid value, and the same as [`Zeroed::zero`] makes.
pub(super) unsafe trait Zeroed {
    /// That value.
    #[cfg_attr(not(any(loom, miri)), expect(dead_code, reason = "the system makes zeros itself"))]
    fn zero() -> Self;
}

/// A slice of its own memory.
pub(super) struct Slab<T> {
    memory: Memory<T>,
    pages: Pages,
}

impl<T: Zeroed> Slab<T> {
    /// So many zeros.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let (memory, pages) = Memory::new(len)?;
        Ok(Self { memory, pages })
    }
}

impl<T> Slab<T> {
    /// What was got.
    pub(super) fn pages(&self) -> Pages {
        self.pages
    }
}

impl<T> Deref for Slab<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        self.memory.as_slice()
    }
}

/// Room for values that are not written yet, in huge pages where the kernel makes any: for what is looked at in no order and
/// is no table.
pub(crate) fn room_for<T>(values: usize) -> Vec<T> {
    let room = Vec::with_capacity(values);
    #[cfg(not(any(loom, miri)))]
    mapped::make_huge(&room);
    room
}

#[cfg(any(loom, miri))]
use boxed::Memory;
#[cfg(not(any(loom, miri)))]
use mapped::Memory;

/// By the system's calls.
#[cfg(not(any(loom, miri)))]
mod mapped {
    use std::io;
    use std::num::NonZeroUsize;
    use std::ptr::NonNull;
    use std::slice;

    use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

    use super::{Pages, Zeroed};

    const HUGE: usize = 2 << 20;

    pub(super) struct Memory<T> {
        start: NonNull<T>,
        len: usize,
        _mapping: Mapping,
    }

    // SAFETY: it owns its values, as a box would.
    unsafe impl<T: Send> Send for Memory<T> {}
    // SAFETY: it gives out shared references alone.
    unsafe impl<T: Sync> Sync for Memory<T> {}

    struct Mapping {
        start: NonNull<std::ffi::c_void>,
        octets: NonZeroUsize,
    }

    impl<T: Zeroed> Memory<T> {
        pub(super) fn new(len: usize) -> io::Result<(Self, Pages)> {
            const { assert!(align_of::<T>() <= 4096, "no more than a page's") };
            let octets = len.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
            let (mapping, pages, offset) = map(octets.max(1))?;
            // SAFETY: `map` left room for `octets` behind the offset.
            let start = unsafe { mapping.start.byte_add(offset) }.cast();
            Ok((Self { start, len, _mapping: mapping }, pages))
        }
    }

    impl<T> Memory<T> {
        #[inline]
        pub(super) fn as_slice(&self) -> &[T] {
            // SAFETY: `len` values lie there, page-aligned at least, zeroed by the system, which is a value of a
            // `Zeroed`; the mapping is ours alone and lives as long as `self`.
            unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: mapped with this length, and nothing refers into it any more: what did borrowed the slab.
            // It cannot fail for a mapping of ours.
            let _ = unsafe { munmap(self.start, self.octets.get()) };
        }
    }

    /// Room for `octets`, how it was got, and where it begins in the mapping.
    fn map(octets: usize) -> io::Result<(Mapping, Pages, usize)> {
        if octets < HUGE {
            return Ok((anonymous(octets, MapFlags::MAP_NORESERVE)?, Pages::Ordinary, 0));
        }
        let whole = octets.checked_next_multiple_of(HUGE).ok_or(io::ErrorKind::OutOfMemory)?;
        // Reserved now: a page that the pool lacks later would end the process.
        if let Ok(mapping) = anonymous(whole, MapFlags::MAP_HUGETLB | MapFlags::MAP_HUGE_2MB) {
            return Ok((mapping, Pages::Huge, 0));
        }
        // Where it begins is for us to align.
        let mapping = anonymous(whole + HUGE, MapFlags::MAP_NORESERVE)?;
        let address = mapping.start.addr().get();
        let offset = address.next_multiple_of(HUGE) - address;
        // SAFETY: advice about the whole of a mapping of ours, which changes nothing in it.
        let advised = unsafe { madvise(mapping.start, whole + HUGE, MmapAdvise::MADV_HUGEPAGE) };
        let pages = if advised.is_ok() && !switched_off() { Pages::Transparent } else { Pages::Ordinary };
        Ok((mapping, pages, offset))
    }

    /// Asks for huge pages where room has been made.
    pub(super) fn make_huge<T>(room: &Vec<T>) {
        let octets = room.capacity().saturating_mul(size_of::<T>());
        let start = room.as_ptr().addr().next_multiple_of(HUGE);
        let end = (room.as_ptr().addr() + octets) & !(HUGE - 1);
        let first = NonNull::new(room.as_ptr().with_addr(start).cast_mut().cast());
        if let (Some(first), Some(octets)) = (first, end.checked_sub(start).filter(|&octets| octets > 0)) {
            // SAFETY: advice about memory that is ours, which changes nothing in it. Without it, it is slower.
            let _ = unsafe { madvise(first, octets, MmapAdvise::MADV_HUGEPAGE) };
        }
    }

    fn anonymous(octets: usize, flags: MapFlags) -> io::Result<Mapping> {
        let octets = NonZeroUsize::new(octets).ok_or(io::ErrorKind::InvalidInput)?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS | flags;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, wherever the system has room for it.
        let start = unsafe { mmap_anonymous(None, octets, protection, flags) }?;
        let mapping = Mapping { start, octets };
        // SAFETY: as above. A kernel that cannot do it dumps more than we like, and nothing else.
        let _ = unsafe { madvise(mapping.start, octets.get(), MmapAdvise::MADV_DONTDUMP) };
        Ok(mapping)
    }

    /// Whether the kernel makes no huge pages whatever the advice.
    fn switched_off() -> bool {
        let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        setting.map_or(true, |setting| setting.contains("[never]"))
    }
}

/// For model checkers and interpreters, which know boxes better than mappings.
#[cfg(any(loom, miri))]
mod boxed {
    use std::io;

    use super::{Pages, Zeroed};

    pub(super) struct Memory<T>(Box<[T]>);

    impl<T: Zeroed> Memory<T> {
        pub(super) fn new(len: usize) -> io::Result<(Self, Pages)> {
            Ok((Self((0..len).map(|_| T::zero()).collect()), Pages::Ordinary))
        }
    }

    impl<T> Memory<T> {
        pub(super) fn as_slice(&self) -> &[T] {
            &self.0
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    // SAFETY: an integer.
    unsafe impl Zeroed for AtomicU64 {
        fn zero() -> Self {
            Self::new(0)
        }
    }

    #[test]
    fn memory_is_zeroed_aligned_and_keeps_what_is_written() {
        for len in [0, 1, 511, 1 << 18, (1 << 18) + 1] {
            let slab = Slab::<AtomicU64>::new(len).unwrap();
            assert_eq!(slab.len(), len);
            assert_eq!(slab.as_ptr().addr() % if len >= 1 << 18 { 2 << 20 } else { 8 }, 0);
            for index in [0, len / 2, len.saturating_sub(1)].into_iter().filter(|&index| index < len) {
                slab[index].store(index as u64 + 1, Ordering::Relaxed);
            }
            let touched: Vec<u64> =
                slab.iter().map(|word| word.load(Ordering::Relaxed)).filter(|&word| word != 0).collect();
            let mut expected = vec![1, len as u64 / 2 + 1, len as u64];
            expected.dedup();
            expected.retain(|&word| word != 0 && word <= len as u64);
            assert_eq!(touched, expected, "of {len}");
        }
    }

    #[test]
    #[cfg(not(miri))]
    fn only_what_is_touched_takes_memory() {
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap();
            text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        let before = resident();
        let slab = Slab::<AtomicU64>::new(1 << 32).unwrap();
        slab[1 << 31].store(1, Ordering::Relaxed);
        // Other tests allocate meanwhile, but not a thirty-second of this.
        assert!(resident().saturating_sub(before) < 1 << 30);
    }

    /// The system's pool of huge pages, larger for as long as this lives.
    #[cfg(not(miri))]
    struct Pool(u64);

    #[cfg(not(miri))]
    impl Pool {
        const SETTING: &str = "/proc/sys/vm/nr_hugepages";

        /// With so many free pages, or why not.
        fn with(pages: u64) -> Result<Self, String> {
            let read = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
            let before = read(Self::SETTING)?.trim().parse().map_err(|error| format!("{error}"))?;
            let pool = Self(before);
            std::fs::write(Self::SETTING, (before + pages).to_string())
                .map_err(|error| format!("{}: {error}", Self::SETTING))?;
            let free = read("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")?;
            match free.trim().parse::<u64>() {
                Ok(free) if free >= pages => Ok(pool),
                _ => Err(format!("the system has {} huge pages to give, not {pages}", free.trim())),
            }
        }
    }

    #[cfg(not(miri))]
    impl Drop for Pool {
        fn drop(&mut self) {
            // What is left over goes with the test's machine.
            let _ = std::fs::write(Self::SETTING, self.0.to_string());
        }
    }

    #[test]
    #[cfg(not(miri))]
    fn where_the_system_has_huge_pages_they_are_taken_and_given_back() {
        const WORDS: usize = 3 << 18;
        let pool = match Pool::with(4) {
            Ok(pool) => pool,
            Err(why) => return eprintln!("skipped: {why}"),
        };
        for _ in 0..2 {
            let slab = Slab::<AtomicU64>::new(WORDS).unwrap();
            assert_eq!(slab.pages(), Pages::Huge);
            assert_eq!(slab.as_ptr().addr() % (2 << 20), 0);
            assert!(
                slab.iter().all(|word| word.swap(7, Ordering::Relaxed) == 0),
                "zeroed, also when used before"
            );
        }
        drop(pool);
        // More than any pool has: the next best.
        let slab = Slab::<AtomicU64>::new(1 << 34).unwrap();
        assert_ne!(slab.pages(), Pages::Huge);
    }

    #[test]
    fn more_than_the_address_space_is_an_error() {
        assert!(Slab::<AtomicU64>::new(1 << 60).is_err());
        assert!(Slab::<AtomicU64>::new(usize::MAX).is_err());
    }
}
