//! The replay window (RFC 4303 §3.4.3, and Appendix A for 64-bit numbers), shared by any number of threads without
//! a lock.
//!
//! Sequence numbers are cut into blocks of 32, and block `b` belongs to word `b mod N`. Seen from one word, the
//! numbers that fall to it form a sequence of their own, here called positions, and the word is a whole little
//! window over them: the highest position seen in the upper half, a bit for each of the last 32 in the lower. It
//! changes by one compare-exchange. Whether a number was accepted before is therefore decided by one word alone,
//! which never forgets more than it calls too old: no other word, no `highest`, no order between them matters for
//! that, and a number is accepted at most once. Advancing clears nothing, so there is nothing to race with.
//!
//! Positions are 32 bits, compared as serial numbers: a word misjudges one only if 2^31 of its own positions (2^34
//! packets or more of the SA) all got lost in between.

use crate::drop::DropReason;
use crate::sync::{AtomicU64, Ordering};

/// Largest window, packets.
pub const MAX_WINDOW: u32 = 8192;
/// Smallest window that is not off, packets (RFC 4303 §3.4.3 recommends it as the default).
pub const MIN_WINDOW: u32 = 64;

const BLOCK: u64 = 32;
const MAX_WORDS: usize = MAX_WINDOW as usize / BLOCK as usize;
/// A cache line of words at least, which also keeps positions far from wrapping.
const MIN_WORDS: u32 = 8;

/// The window. Pointer-free; the memory of the largest, of which a smaller one uses the start.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct ReplayWindow {
    /// The highest number accepted: right edge of the window, and base for inferring the upper half.
    highest: AtomicU64,
    /// Packets; 0 is off.
    window: u32,
    /// Words in use, less one.
    mask: u32,
    words: [AtomicU64; MAX_WORDS],
}

impl ReplayWindow {
    /// Covers `window` packets, 0 for off; `None` unless 0 or 64 to 8192.
    pub fn new(window: u32) -> Option<Self> {
        if window != 0 && !(MIN_WINDOW..=MAX_WINDOW).contains(&window) {
            return None;
        }
        let words = window.div_ceil(BLOCK as u32).next_power_of_two().max(MIN_WORDS);
        Some(Self {
            highest: AtomicU64::new(0),
            window,
            mask: words - 1,
            words: std::array::from_fn(|_| AtomicU64::new(0)),
        })
    }

    /// Packets covered; 0 is off.
    pub fn window(&self) -> u32 {
        self.window
    }

    /// The highest number accepted so far.
    pub fn highest(&self) -> u64 {
        self.highest.load(Ordering::Relaxed)
    }

    /// The full number of a packet from the 32 bits it carries: nearest to the window (RFC 4303 Appendix A2.2).
    /// Only a guess until the ICV has confirmed it.
    #[inline]
    pub fn infer(&self, low: u32, esn: bool) -> u64 {
        if !esn {
            return u64::from(low);
        }
        let highest = self.highest();
        let (top, epoch) = (highest as u32, highest >> 32);
        // A window that is off still needs a notion of what is late.
        let behind = if self.window == 0 { MAX_WINDOW } else { self.window } - 1;
        let bottom = top.wrapping_sub(behind);
        let epoch = match (top >= behind, low >= bottom) {
            // The window lies within one epoch, and numbers below it are of the next.
            (true, true) => epoch,
            (true, false) => epoch.wrapping_add(1),
            // The window reaches back into the last epoch, which the first does not have.
            (false, true) => epoch.saturating_sub(1),
            (false, false) => epoch,
        };
        epoch << 32 | u64::from(low)
    }

    /// Whether a packet with this number is worth opening. Changes nothing.
    #[inline]
    pub fn check(&self, seq: u64) -> Result<(), DropReason> {
        self.in_window(seq)?;
        if self.window == 0 {
            return Ok(());
        }
        let Some((word, position)) = self.place(seq) else { return Ok(()) };
        advance(word.load(Ordering::Relaxed), position).map(|_| ())
    }

    /// Takes note of an authentic packet. Of all callers with the same number, at most one gets `Ok`: it delivers.
    #[inline]
    pub fn accept(&self, seq: u64) -> Result<(), DropReason> {
        self.in_window(seq)?;
        if self.window != 0 {
            let Some((word, position)) = self.place(seq) else { return Err(DropReason::ReplayTooOld) };
            // Relaxed: the word is all that is communicated, and a single location has one order of changes.
            let mut old = word.load(Ordering::Relaxed);
            loop {
                let new = advance(old, position)?;
                match word.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => break,
                    Err(found) => old = found,
                }
            }
        }
        // Mostly in order by one core: a load decides, and the locked instruction is saved for progress.
        if seq > self.highest() {
            self.highest.fetch_max(seq, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Left of the window? Number 0 is never sent (RFC 4303 §3.3.3).
    fn in_window(&self, seq: u64) -> Result<(), DropReason> {
        let too_old = self.window != 0 && seq.saturating_add(u64::from(self.window)) <= self.highest();
        if seq == 0 || too_old { Err(DropReason::ReplayTooOld) } else { Ok(()) }
    }

    /// The word that decides over `seq`, and the position of `seq` in it.
    fn place(&self, seq: u64) -> Option<(&AtomicU64, u32)> {
        let block = seq / BLOCK;
        let word = self.words.get((block & u64::from(self.mask)) as usize)?;
        let turn = block >> self.mask.trailing_ones();
        Some((word, (turn as u32).wrapping_mul(BLOCK as u32) + (seq % BLOCK) as u32))
    }
}

/// The word after `position` has been seen, or why it cannot be.
fn advance(word: u64, position: u32) -> Result<u64, DropReason> {
    let (top, seen) = ((word >> 32) as u32, word as u32);
    let ahead = position.wrapping_sub(top).cast_signed();
    if ahead > 0 {
        let kept = seen.checked_shl(ahead.unsigned_abs()).unwrap_or(0);
        return Ok(u64::from(position) << 32 | u64::from(kept | 1));
    }
    let Some(bit) = 1_u32.checked_shl(ahead.unsigned_abs()) else { return Err(DropReason::ReplayTooOld) };
    if seen & bit != 0 { Err(DropReason::Replayed) } else { Ok(word | u64::from(bit)) }
}
