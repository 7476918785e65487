//! Asking the processor for memory that will be read soon.

/// Brings the start of a value into the nearest cache. Only a hint: it reads nothing and never fails.
#[inline(always)]
pub(crate) fn prefetch<T>(value: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        #![expect(unsafe_code, reason = "an instruction that has no other form")]
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch of any address is allowed; SSE is part of x86_64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(value.cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = value;
}
