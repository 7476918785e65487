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
//! packets or more of the SA) all got lost in between. For the same reason a new window takes nothing beyond 2^34,
//! where no new SA begins.

use crate::drop::DropReason;
use crate::sync::{AtomicU64, Ordering};

/// Largest window, packets.
pub const MAX_WINDOW: u32 = 8192;
/// Smallest window that is not off, packets (RFC 4303 §3.4.3 recommends it as the default).
pub const MIN_WINDOW: u32 = 64;

const BLOCK: u64 = 32;
/// Most numbers that go into one change: as many as [`Verdicts`] has bits.
const GROUP: usize = 64;
#[cfg(not(loom))]
const MAX_WORDS: usize = MAX_WINDOW as usize / BLOCK as usize;
/// Models need no more, and pay for each.
#[cfg(loom)]
const MAX_WORDS: usize = MIN_WORDS as usize;
/// A cache line of words at least, which also keeps positions far from wrapping.
const MIN_WORDS: u32 = 8;

/// The window. Pointer-free; the memory of the largest, of which a smaller one uses the start.
#[derive(Debug)]
#[repr(C)]
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

    /// Octets at the start that are not only zeros in a new window.
    pub(super) const HEAD: usize = 64;

    /// Octets from the start that a window of this size ever writes.
    pub(super) fn octets_in_use(&self) -> usize {
        std::mem::offset_of!(Self, words) + (self.mask as usize + 1) * size_of::<AtomicU64>()
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
        if seq > self.highest() {
            return Ok(());
        }
        let Some((word, _)) = self.place(seq) else { return Ok(()) };
        self.step(word.load(Ordering::Relaxed), seq, self.highest()).map(|_| ())
    }

    /// Takes note of an authentic packet. Of all callers with the same number, at most one gets `Ok`: it delivers.
    pub fn accept(&self, seq: u64) -> Result<(), DropReason> {
        let mut verdict = Ok(());
        self.accept_run(&[seq], |_, reason| verdict = Err(reason));
        verdict
    }

    /// Takes note of a run of authentic packets: what [`ReplayWindow::accept`] says of one after another, with one
    /// atomic change per word that they fall to, which for packets in order is one in thirty-two. `refuse` is shown the
    /// index of each that is refused, in order.
    #[inline(always)]
    pub fn accept_run(&self, run: &[u64], mut refuse: impl FnMut(usize, DropReason)) {
        let mut highest = self.highest();
        let mut rest = run;
        let in_order = are_consecutive(run);
        while let Some(&first) = rest.first() {
            let block = first / BLOCK;
            let same = match in_order {
                true => rest.len().min((BLOCK - first % BLOCK) as usize),
                false => rest.iter().take(GROUP).take_while(|&&seq| seq / BLOCK == block).count(),
            };
            let (group, others) = rest.split_at_checked(same).unwrap_or((rest, &[]));
            let verdicts = self.accept_group(group, &mut highest);
            if verdicts.accepted.count_ones() as usize != group.len() {
                for offset in 0..group.len() {
                    if let Err(reason) = verdicts.of(offset) {
                        refuse(run.len() - rest.len() + offset, reason);
                    }
                }
            }
            rest = others;
        }
        // Mostly in order by one core: a load decides, and the locked instruction is saved for progress.
        if highest > self.highest() {
            self.highest.fetch_max(highest, Ordering::Relaxed);
        }
    }

    /// Numbers of one block, and so of one word: together in one change, or none if there is nothing new among them.
    #[inline(always)]
    fn accept_group(&self, group: &[u64], highest: &mut u64) -> Verdicts {
        let place = group.first().and_then(|&first| self.place(first));
        let Some((word, _)) = place else { return Verdicts::default() };
        // Relaxed: the word is all that is communicated, and a single location has one order of changes.
        let mut old = word.load(Ordering::Relaxed);
        loop {
            let (mut new, mut top, mut verdicts) = (old, *highest, Verdicts::default());
            let mut left = group;
            if let Some((next, last)) = self.step_in_order(old, group, top) {
                (new, top, left) = (next, last, &[]);
                verdicts.accepted = u64::MAX >> (GROUP - group.len());
            }
            for (offset, &seq) in left.iter().enumerate() {
                match self.step(new, seq, top) {
                    Ok(next) => {
                        (new, top) = (next, top.max(seq));
                        verdicts.accepted |= 1 << offset;
                    }
                    Err(DropReason::Replayed) => verdicts.replayed |= 1 << offset,
                    Err(_) => {}
                }
            }
            let changed = new == old
                || match word.compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => true,
                    Err(found) => {
                        old = found;
                        false
                    }
                };
            if changed {
                *highest = top;
                return verdicts;
            }
        }
    }

    /// The word after all of a group have been seen, and the last of them, where each number is one more than the one
    /// before, and all are above the highest so far and above what the word has seen: nearly always. `None` if not.
    #[inline]
    fn step_in_order(&self, word: u64, group: &[u64], highest: u64) -> Option<(u64, u64)> {
        let (&first, &last) = (group.first()?, group.last()?);
        let in_order = are_consecutive(group);
        let (_, position) = self.place(last)?;
        let ahead = position.wrapping_sub((word >> 32) as u32).cast_signed();
        // In order, a block has no more than 32; and so many ones has the group in the word, the last's lowest.
        let ones = u32::MAX.checked_shr((BLOCK as u32).checked_sub(group.len() as u32)?)?;
        if !in_order || first <= highest || self.window == 0 || ahead < group.len() as i32 {
            return None;
        }
        let seen = (word as u32).checked_shl(ahead.unsigned_abs()).unwrap_or(0);
        Some((u64::from(position) << 32 | u64::from(seen | ones), last))
    }

    /// The word after `seq` has been seen, given the highest number so far; as it was if the window is off.
    #[inline]
    fn step(&self, word: u64, seq: u64, highest: u64) -> Result<u64, DropReason> {
        self.in_window(seq, highest)?;
        match self.place(seq) {
            Some((_, position)) if self.window != 0 => advance(word, position),
            _ => Ok(word),
        }
    }

    /// Left of the window? Number 0 is never sent (RFC 4303 §3.3.3).
    #[inline]
    fn in_window(&self, seq: u64, highest: u64) -> Result<(), DropReason> {
        let too_old = self.window != 0 && seq.saturating_add(u64::from(self.window)) <= highest;
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

/// Whether each number is one more than the one before.
#[inline(always)]
fn are_consecutive(numbers: &[u64]) -> bool {
    let Some(&first) = numbers.first() else { return true };
    (first..).zip(numbers).fold(0, |wrong, (expected, &seq)| wrong | (expected ^ seq)) == 0
}

/// What became of the numbers of a group, a bit each; what is in neither is too old.
#[derive(Debug, Clone, Copy, Default)]
struct Verdicts {
    accepted: u64,
    replayed: u64,
}

impl Verdicts {
    fn of(self, offset: usize) -> Result<(), DropReason> {
        match (self.accepted >> offset & 1, self.replayed >> offset & 1) {
            (1, _) => Ok(()),
            (_, 1) => Err(DropReason::Replayed),
            _ => Err(DropReason::ReplayTooOld),
        }
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

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// The window as RFC 4303 §3.4.3 describes it, with all the memory in the world.
    struct Model {
        window: u64,
        highest: u64,
        seen: HashSet<u64>,
    }

    impl Model {
        fn accept(&mut self, seq: u64) -> Result<(), DropReason> {
            if seq == 0 || seq + self.window <= self.highest {
                return Err(DropReason::ReplayTooOld);
            }
            self.highest = self.highest.max(seq);
            if self.seen.insert(seq) { Ok(()) } else { Err(DropReason::Replayed) }
        }
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set_of_everything_seen(
            window in prop_oneof![Just(64), Just(8192), MIN_WINDOW..=MAX_WINDOW],
            start in prop_oneof![Just(0), 0..1_u64 << 33],
            steps in prop::collection::vec(
                prop_oneof![8 => -100..100_i64, 3 => -9000..9000_i64, 1 => 0..100_000_i64],
                1..400,
            ),
        ) {
            let real = ReplayWindow::new(window).unwrap();
            let mut model = Model { window: u64::from(window), highest: 0, seen: HashSet::new() };
            let mut at = start;
            for step in steps {
                at = at.saturating_add_signed(step);
                let checked = real.check(at);
                let expected = model.accept(at);
                prop_assert_eq!(checked, expected, "check of {}", at);
                prop_assert_eq!(real.accept(at), expected, "accept of {}", at);
                prop_assert_eq!(real.highest(), model.highest);
                at = if step < -5000 { model.highest } else { at };
            }
        }

        #[test]
        fn a_run_is_accepted_as_its_numbers_one_after_another(
            window in prop_oneof![Just(0), Just(64), Just(1024)],
            start in 0..200_u64,
            runs in prop::collection::vec(prop::collection::vec(prop_oneof![9 => 0..3_i64, 2 => -90..90_i64], 1..90), 1..8),
        ) {
            let (whole, single) = (ReplayWindow::new(window).unwrap(), ReplayWindow::new(window).unwrap());
            let mut at = start;
            for steps in runs {
                let run: Vec<u64> = steps.into_iter().map(|step| { at = at.saturating_add_signed(step); at }).collect();
                let mut refused = Vec::new();
                whole.accept_run(&run, |index, reason| refused.push((index, reason)));
                let expected = run.iter().enumerate().filter_map(|(index, &seq)| Some((index, single.accept(seq).err()?)));
                prop_assert_eq!(refused, expected.collect::<Vec<_>>());
                prop_assert_eq!(whole.highest(), single.highest());
            }
        }

        /// RFC 4303 Appendix A2.2 says which 2^32 numbers a packet may mean: from the bottom of the window up.
        #[test]
        fn inference_finds_every_number_from_the_bottom_of_the_window(
            window in prop_oneof![Just(64_u32), Just(1024), Just(8192)],
            highest in prop_oneof![
                1..1_u64 << 40,
                (1..100_u64, -9000..9000_i64).prop_map(|(epoch, near)| (epoch << 32).saturating_add_signed(near)),
            ],
            ahead in prop_oneof![-8191..8192_i64, Just(0xffff_dfff), 0..0xffff_e000_i64],
        ) {
            let real = ReplayWindow::new(window).unwrap();
            real.highest.store(highest, Ordering::Relaxed);
            let seq = highest.saturating_add_signed(ahead.max(1 - i64::from(window)));
            prop_assert_eq!(real.infer(seq as u32, true), seq);
            prop_assert_eq!(real.infer(seq as u32, false), seq & 0xffff_ffff);
        }
    }

    #[test]
    fn numbers_cross_the_32_bit_boundary_in_both_directions() {
        let window = ReplayWindow::new(64).unwrap();
        window.accept(0xffff_fff0).unwrap();
        assert_eq!(window.infer(5, true), 0x1_0000_0005);
        window.accept(0x1_0000_0005).unwrap();
        assert_eq!(window.infer(0xffff_fff8, true), 0xffff_fff8);
        assert_eq!(window.accept(0xffff_fff8), Ok(()));
        assert_eq!(window.accept(0xffff_fff0), Err(DropReason::Replayed));
    }

    #[test]
    fn in_the_first_epoch_there_is_no_epoch_before() {
        let window = ReplayWindow::new(64).unwrap();
        window.accept(3).unwrap();
        assert_eq!(window.infer(0xffff_fffe, true), 0xffff_fffe);
    }

    #[test]
    fn a_window_that_is_off_takes_everything_but_still_infers() {
        let window = ReplayWindow::new(0).unwrap();
        for seq in [0xffff_fff0, 7, 7, 0xffff_fff0] {
            assert_eq!((window.check(seq), window.accept(seq)), (Ok(()), Ok(())));
        }
        assert_eq!(window.infer(1, true), 0x1_0000_0001);
        assert_eq!(window.accept(0), Err(DropReason::ReplayTooOld));
    }

    #[test]
    fn only_windows_of_64_to_8192_packets_or_none_are_made() {
        for (window, good) in [(0, true), (1, false), (63, false), (64, true), (8192, true), (8193, false)] {
            assert_eq!(ReplayWindow::new(window).is_some(), good, "{window}");
        }
    }

    #[test]
    fn of_many_cores_with_the_same_packets_each_packet_is_delivered_by_one() {
        let window = ReplayWindow::new(8192).unwrap();
        // Each thread goes through all numbers, out of order within blocks of 16.
        let run = |twist: u64| {
            (0..30_000_u64)
                .map(|n| (n ^ (twist * 5 % 16)) + 1)
                .filter(|&seq| window.accept(seq).is_ok())
                .collect()
        };
        let delivered: Vec<u64> = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|twist| scope.spawn(move || -> Vec<u64> { run(twist) })).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let distinct: HashSet<_> = delivered.iter().copied().collect();
        assert_eq!(delivered.len(), distinct.len(), "delivered twice");
        assert_eq!(window.highest(), 30_000);
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use std::sync::Arc;

    use super::*;

    /// Two cores accept these numbers, each in its order; says how often each was delivered.
    fn race(
        mine: &'static [u64],
        theirs: &'static [u64],
        check: impl Fn(&ReplayWindow, &[u64]) + Sync + Send + 'static,
    ) {
        loom::model(move || {
            let window = Arc::new(ReplayWindow::new(64).unwrap());
            let run = |window: &ReplayWindow, numbers: &[u64]| -> Vec<u64> {
                numbers.iter().copied().filter(|&seq| window.accept(seq).is_ok()).collect()
            };
            let other = {
                let window = Arc::clone(&window);
                loom::thread::spawn(move || run(&window, theirs))
            };
            let mut delivered = run(&window, mine);
            delivered.extend(other.join().unwrap());
            delivered.sort_unstable();
            let twice = delivered.windows(2).any(|pair| matches!(pair, [a, b] if a == b));
            assert!(!twice, "delivered twice: {delivered:?}");
            check(&window, &delivered);
        });
    }

    #[test]
    fn a_packet_duplicated_to_two_cores_is_delivered_once() {
        race(&[1, 2], &[2, 1], |_, delivered| assert_eq!(delivered, [1, 2]));
    }

    #[test]
    fn a_duplicate_that_races_with_the_window_moving_past_it_is_not_delivered_again() {
        // 257 lands in the word of 1 and pushes it out; 1 itself comes twice.
        race(&[1, 257], &[1, 257], |window, delivered| {
            assert_eq!(delivered, [1, 257]);
            assert_eq!(window.highest(), 257);
        });
    }

    #[test]
    fn runs_with_numbers_in_common_deliver_each_once() {
        loom::model(|| {
            let window = Arc::new(ReplayWindow::new(64).unwrap());
            let run = |window: &ReplayWindow, numbers: &[u64]| {
                let mut refused = Vec::new();
                window.accept_run(numbers, |at, _| refused.push(at));
                let accepted = numbers.iter().enumerate().filter(|(at, _)| !refused.contains(at));
                accepted.map(|(_, seq)| *seq).collect::<Vec<u64>>()
            };
            let other = {
                let window = Arc::clone(&window);
                loom::thread::spawn(move || run(&window, &[2, 3, 3]))
            };
            let mut delivered = run(&window, &[1, 2, 33]);
            delivered.extend(other.join().unwrap());
            delivered.sort_unstable();
            assert_eq!(delivered, [1, 2, 3, 33]);
            assert_eq!(window.highest(), 33);
        });
    }

    #[test]
    fn neighbours_in_one_word_do_not_lose_each_other() {
        race(&[33, 35], &[34, 36], |_, delivered| assert_eq!(delivered, [33, 34, 35, 36]));
    }
}
