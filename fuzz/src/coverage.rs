//! Which branches an input took, where the compiler counts them: in the build of `./dev fuzz`, in which LLVM's
//! SanitizerCoverage (`fuzz/instrument`) gives every branch of our crates a counter of eight bits, and calls us with
//! what is compared. Elsewhere nothing is ever new.

#[cfg(not(fuzzing))]
pub(crate) use uncounted::*;

#[cfg(fuzzing)]
pub(crate) use counted::*;

#[cfg(not(fuzzing))]
mod uncounted {
    pub(crate) const COUNTED: bool = false;

    pub(crate) struct Coverage;

    impl Coverage {
        pub(crate) fn new() -> Self {
            Self
        }

        #[expect(clippy::unused_self, reason = "as where they are counted")]
        pub(crate) fn is_new(&mut self) -> bool {
            false
        }

        #[expect(clippy::unused_self, reason = "as where they are counted")]
        pub(crate) fn branches(&self) -> usize {
            0
        }
    }

    pub(crate) fn clear() {}

    pub(crate) fn compared(_: u64) -> Option<(u64, usize)> {
        None
    }
}

#[cfg(fuzzing)]
mod counted {
    #![expect(
        unsafe_code,
        reason = "the compiler hands out its counters as two pointers, and calls functions by name"
    )]

    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

    pub(crate) const COUNTED: bool = true;

    /// Every object file's counters, as they were announced before `main`.
    static COUNTERS: Mutex<Vec<&'static [AtomicU8]>> = Mutex::new(Vec::new());

    /// Constants that something was compared with last: the constant, and its octets in the lowest bits.
    static COMPARED: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];

    fn regions() -> Vec<&'static [AtomicU8]> {
        COUNTERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Called by each object file's constructor.
    #[unsafe(no_mangle)]
    extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
        let len = (stop as usize).saturating_sub(start as usize);
        if start.is_null() || len == 0 {
            return;
        }
        // SAFETY: the counters lie in a section of this program and stay there; the code that counts writes single
        // octets, as an `AtomicU8` does.
        let counters = unsafe { std::slice::from_raw_parts(start.cast::<AtomicU8>(), len) };
        COUNTERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(counters);
    }

    /// A table of addresses that we do not need.
    #[unsafe(no_mangle)]
    extern "C" fn __sanitizer_cov_pcs_init(_: *const usize, _: *const usize) {}

    fn note(value: u64, width: u64) {
        // Small ones are tried anyway.
        if value > 0xff {
            let slot = (value.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54) as usize;
            if let Some(slot) = COMPARED.get(slot) {
                slot.store(value << 8 | width, Ordering::Relaxed);
            }
        }
    }

    macro_rules! compares {
        ($($name:ident: $type:ty, $width:literal;)*) => {$(
            #[unsafe(no_mangle)]
            extern "C" fn $name(constant: $type, _: $type) {
                note(constant.into(), $width);
            }
        )*};
    }

    compares! {
        __sanitizer_cov_trace_const_cmp1: u8, 1;
        __sanitizer_cov_trace_const_cmp2: u16, 2;
        __sanitizer_cov_trace_const_cmp4: u32, 4;
        __sanitizer_cov_trace_const_cmp8: u64, 8;
        __sanitizer_cov_trace_cmp1: u8, 1;
        __sanitizer_cov_trace_cmp2: u16, 2;
        __sanitizer_cov_trace_cmp4: u32, 4;
        __sanitizer_cov_trace_cmp8: u64, 8;
    }

    /// `cases`: their number, the bits of the value, then the cases.
    #[unsafe(no_mangle)]
    extern "C" fn __sanitizer_cov_trace_switch(_: u64, cases: *const u64) {
        // SAFETY: so LLVM documents it.
        let (count, bits) = unsafe { (*cases, *cases.add(1)) };
        for case in 0..count.min(64) {
            // SAFETY: as above; `case` is less than their number.
            note(unsafe { *cases.add(2 + case as usize) }, bits / 8);
        }
    }

    /// What inputs have reached so far: for each counter, the magnitudes that were seen.
    pub(crate) struct Coverage {
        seen: Vec<Vec<u8>>,
    }

    impl Coverage {
        pub(crate) fn new() -> Self {
            Self { seen: Vec::new() }
        }

        /// Whether the last input took a branch for the first time, or more often by an order than any before.
        pub(crate) fn is_new(&mut self) -> bool {
            let regions = regions();
            self.seen.resize_with(regions.len(), Vec::new);
            let mut new = false;
            for (counters, seen) in regions.iter().zip(&mut self.seen) {
                seen.resize(counters.len(), 0);
                for (counter, seen) in counters.iter().zip(seen) {
                    let count = counter.load(Ordering::Relaxed);
                    if count == 0 {
                        continue;
                    }
                    let magnitude = 1_u8 << count.ilog2();
                    new |= *seen & magnitude == 0;
                    *seen |= magnitude;
                }
            }
            new
        }

        pub(crate) fn branches(&self) -> usize {
            self.seen.iter().flatten().filter(|seen| **seen != 0).count()
        }
    }

    pub(crate) fn clear() {
        for counters in regions() {
            counters.iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
        }
    }

    pub(crate) fn compared(dice: u64) -> Option<(u64, usize)> {
        let slot = COMPARED.get((dice >> 54) as usize)?.load(Ordering::Relaxed);
        (slot != 0).then_some((slot >> 8, (slot & 0xff) as usize))
    }
}
