//! Asks the processor for memory that a batch will need, so that it waits for all of it at once.
//!
//! How a batch should be walked through, in passes of which each only touches what the one before has asked for:
//!
//! 1. As soon as a packet's SPI or policy is known: [`SaTable::locate`](crate::sa::SaTable::locate) (inbound; outbound, the
//!    policy's handle names the [`OutboundRef`](crate::sa::OutboundRef)) and
//!    [`prefetch_inbound`](crate::sa::SaTable::prefetch_inbound) or
//!    [`prefetch_outbound`](crate::sa::SaTable::prefetch_outbound): one line, the SA's head.
//! 2. When the whole batch has done that: look every SA up ([`inbound_at`](crate::sa::SaTable::inbound_at),
//!    [`outbound`](crate::sa::SaTable::outbound)), which touches that line alone, and ask for what the packet needs of the body
//!    ([`Inbound::prefetch`](crate::sa::Inbound::prefetch), [`Outbound::prefetch`](crate::sa::Outbound::prefetch)): addresses,
//!    of the key what its length takes, and the start of what else every packet needs.
//! 3. Then what reads them: replay windows, selectors, the engine.
//!
//! A processor has some dozen misses under way at a time, so that ten lines for each of 32 packets take their time
//! however they are asked for; what counts is that something is always asked for and nothing waited for.
//!
//! **Where an address may lie in a page whose translation the processor does not have at hand, ask for the whole batch in a
//! loop of nothing else.** Zen 4 holds such a prefetch until the page tables have been walked, and everything behind it:
//! one among the instructions of a packet's other work costs 25 to 40 ns, one behind the other 5 to 10. Heads of SAs
//! lie side by side for that reason: theirs are at hand.

#![expect(unsafe_code, reason = "prefetch instructions")]

use std::ops::Range;

/// Octets of a cache line.
pub const LINE: usize = 64;

/// More would only push each other out.
const MOST: usize = 16 * LINE;

/// Asks for the lines of a value, sixteen at most.
#[inline]
pub fn value<T>(value: &T) {
    lines(std::ptr::from_ref(value).cast(), size_of::<T>().min(MOST));
}

/// Asks for the line that a value begins in.
#[inline(always)]
pub fn start<T>(value: &T) {
    lines(std::ptr::from_ref(value).cast(), 1);
}

/// Asks for the lines of these octets of a value.
#[inline(always)]
pub(crate) fn part<T>(value: &T, octets: Range<usize>) {
    let start = std::ptr::from_ref(value).cast::<u8>().wrapping_add(octets.start);
    lines(start, octets.len().min(MOST));
}

/// Asks for the lines of that many octets from `start`, which begins one. Any address will do.
#[inline]
pub(crate) fn lines(start: *const u8, octets: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for offset in (0..octets).step_by(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch accesses nothing, whatever the address; SSE is part of x86_64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(offset).cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = (start, octets);
}
