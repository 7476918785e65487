//! What workers have to tell the control plane: flags that stay raised until read.
//!
//! One flag of each kind per SA or policy, so that memory is bounded and a flood of causes is one event; no queue,
//! so that nothing is lost. A worker that finds a flag raised has nothing to do. An event that tells an address
//! tells the first one since the flag was last read.

use std::fmt;
use std::net::IpAddr;

use portcullis_ipsec::{Flow, PolicyId, Spi, TunnelEndpoints};

use crate::coarse::Coarse;
use crate::policy::PolicyEntry;
use crate::sa::endpoints::{Packed, pack_endpoints, unpack_endpoints};
use crate::sa::entry::Milestones;
use crate::sa::{Inbound, Outbound};
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::wire::FlowKey;

/// The flags, and the bell that is rung when one is raised.
pub struct EventBoard {
    acquire: Notes,
    /// By policy: workers ask for SAs of their own; which ones, the policy knows.
    workers: Flags,
    moved: Notes,
    first: Flags,
    soft: Flags,
    hard: Flags,
    strays: Strays,
    /// Whether the bell was rung since the flags were last read.
    rung: AtomicBool,
    notify: Box<dyn Fn() + Send + Sync>,
}

/// A flag that was raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Raised {
    Acquire {
        policy: PolicyId,
        flow: Flow,
    },
    /// By the index of the policy.
    WorkersAsk {
        policy: u32,
    },
    /// By the slot of the pair's inbound SA.
    FirstPacket {
        slot: u32,
    },
    SoftLimit {
        slot: u32,
    },
    HardLimit {
        slot: u32,
    },
    Moved {
        pair: Option<Spi>,
        seen: TunnelEndpoints,
    },
    UnknownSpi {
        spi: Option<Spi>,
        seen: TunnelEndpoints,
    },
}

/// Sources of ESP that no SA is there for, told apart by their hash.
const STRAYS: usize = 64;

impl EventBoard {
    /// For tables of these capacities. `notify` is called, by the worker that raised a flag, when
    /// [`portcullis_ipsec::SaInstaller::take_events`] has something to give again; it must be quick (write an
    /// eventfd).
    pub fn new(max_sas: usize, max_policies: usize, notify: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            acquire: Notes::new(max_policies),
            workers: Flags::new(max_policies),
            moved: Notes::new(max_sas),
            first: Flags::new(max_sas),
            soft: Flags::new(max_sas),
            hard: Flags::new(max_sas),
            strays: Strays::new(),
            rung: AtomicBool::new(false),
            notify,
        }
    }

    /// A packet of `flow` matched a policy that asks for an SA and has none. Does nothing for other policies.
    pub fn acquire(&self, policy: &PolicyEntry, flow: &FlowKey) {
        if policy.wants_sa() && self.acquire.raise(policy.index, policy.id().0, || flow.to_words()) {
            self.ring();
        }
    }

    /// A worker asks for an SA of its own of a policy.
    pub(crate) fn worker_asks(&self, policy: &PolicyEntry) {
        if self.workers.raise(policy.index) {
            self.ring();
        }
    }

    /// An authentic packet came from elsewhere than the SA says. To be called for the newest packet only, that is
    /// if its sequence number became the window's highest (RFC 7296 §2.23).
    pub fn peer_moved(&self, inbound: &Inbound, seen: TunnelEndpoints) {
        if self.moved.raise(inbound.slot, inbound.spi.get(), || pack_endpoints(seen)) {
            self.ring();
        }
    }

    /// ESP came on an SPI that is no SA's. Anybody can send that: it is told once a second of those whose addresses have one
    /// hash.
    #[cold]
    pub fn unknown_spi(&self, now: Coarse, spi: u32, seen: TunnelEndpoints) {
        if self.strays.raise(now, spi, seen) {
            self.ring();
        }
    }

    /// What an SA has carried has come to this.
    #[inline]
    pub(crate) fn milestones(&self, reached: Milestones) {
        let Milestones { slot, first, soft, hard } = reached;
        if first | soft | hard {
            for (reached, flags) in [(first, &self.first), (soft, &self.soft), (hard, &self.hard)] {
                if reached && flags.raise(slot) {
                    self.ring();
                }
            }
        }
    }

    /// The SA should be rekeyed.
    pub(crate) fn soft_limit(&self, outbound: &Outbound) {
        if self.soft.raise(outbound.slot) {
            self.ring();
        }
    }

    /// The SA is used up.
    pub(crate) fn hard_limit(&self, outbound: &Outbound) {
        if self.hard.raise(outbound.slot) {
            self.ring();
        }
    }

    /// Reads and lowers all flags.
    pub(crate) fn take(&self) -> Vec<Raised> {
        let mut raised = Vec::new();
        // Before the flags: one that is raised behind our back rings again. AcqRel: those whose bell this answers
        // are visible below.
        self.rung.swap(false, Ordering::AcqRel);
        self.acquire.take(|note| {
            raised.push(Raised::Acquire {
                policy: PolicyId(note.owner),
                flow: FlowKey::from_words(note.packed).flow(),
            });
        });
        self.workers.take(|policy| raised.push(Raised::WorkersAsk { policy }));
        self.first.take(|slot| raised.push(Raised::FirstPacket { slot }));
        self.soft.take(|slot| raised.push(Raised::SoftLimit { slot }));
        self.hard.take(|slot| raised.push(Raised::HardLimit { slot }));
        self.moved.take(|note| {
            raised.push(Raised::Moved { pair: Spi::new(note.owner), seen: unpack_endpoints(note.packed) });
        });
        self.strays.notes.take(|note| {
            let seen = unpack_endpoints(note.packed);
            raised.push(Raised::UnknownSpi { spi: Spi::new(note.owner), seen });
        });
        raised
    }

    /// Lowers the flags of a slot whose SAs no worker can see any more: the next pair there starts clean.
    pub(crate) fn forget_pair(&self, slot: u32) {
        self.first.lower(slot);
        self.soft.lower(slot);
        self.hard.lower(slot);
        self.moved.lower(slot);
    }

    fn ring(&self) {
        // AcqRel: the flag is raised before. If the bell was rung already, its reader, who answers by a swap of
        // this same flag, comes after this one and sees it.
        if !self.rung.swap(true, Ordering::AcqRel) {
            (self.notify)();
        }
    }
}

impl fmt::Debug for EventBoard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBoard").field("rung", &self.rung).finish_non_exhaustive()
    }
}

/// A bit for each index.
struct Flags {
    words: Box<[AtomicU64]>,
}

impl Flags {
    fn new(len: usize) -> Self {
        Self { words: (0..len.div_ceil(64)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Whether it was not raised before.
    fn raise(&self, index: u32) -> bool {
        let Some(word) = self.words.get(index as usize / 64) else { return false };
        let bit = 1 << (index % 64);
        word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    /// Whether it was raised.
    fn lower(&self, index: u32) -> bool {
        let Some(word) = self.words.get(index as usize / 64) else { return false };
        let bit = 1 << (index % 64);
        word.load(Ordering::Relaxed) & bit != 0 && word.fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    fn take(&self, mut show: impl FnMut(u32)) {
        for (base, word) in (0_u32..).step_by(64).zip(&self.words) {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::AcqRel);
            while bits != 0 {
                show(base + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
    }
}

/// A flag for each index, and what it tells.
struct Notes {
    cells: Box<[Cell]>,
    raised: Flags,
}

struct Cell {
    /// From the moment a worker begins to write until what it wrote has been read.
    busy: AtomicU8,
    owner: AtomicU32,
    packed: [AtomicU64; 5],
}

struct Note {
    owner: u32,
    packed: Packed,
}

impl Notes {
    fn new(len: usize) -> Self {
        let cell = || Cell {
            busy: AtomicU8::new(0),
            owner: AtomicU32::new(0),
            packed: std::array::from_fn(|_| AtomicU64::new(0)),
        };
        Self { cells: (0..len).map(|_| cell()).collect(), raised: Flags::new(len) }
    }

    /// Whether it was not raised before. Then `tell` is what it tells.
    fn raise(&self, index: u32, owner: u32, tell: impl FnOnce() -> Packed) -> bool {
        let Some(cell) = self.cells.get(index as usize) else { return false };
        // Acquire: whoever read the last note has finished.
        if cell.busy.load(Ordering::Relaxed) != 0
            || cell.busy.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return false;
        }
        cell.owner.store(owner, Ordering::Relaxed);
        for (word, value) in cell.packed.iter().zip(tell()) {
            word.store(value, Ordering::Relaxed);
        }
        // Releases what was written.
        self.raised.raise(index)
    }

    fn take(&self, mut show: impl FnMut(Note)) {
        self.raised.take(|index| {
            if let Some(cell) = self.cells.get(index as usize) {
                let mut words = cell.packed.iter().map(|word| word.load(Ordering::Relaxed));
                let packed = std::array::from_fn(|_| words.next().unwrap_or(0));
                let owner = cell.owner.load(Ordering::Relaxed);
                // Release: read before it can be written again.
                cell.busy.store(0, Ordering::Release);
                show(Note { owner, packed });
            }
        });
    }

    fn lower(&self, index: u32) {
        if self.raised.lower(index)
            && let Some(cell) = self.cells.get(index as usize)
        {
            cell.busy.store(0, Ordering::Release);
        }
    }
}

/// A flag for each hash of a source, which is raised once a second at most.
struct Strays {
    notes: Notes,
    /// The second after that in which each was raised last; zero: it was not yet.
    next: [AtomicU32; STRAYS],
}

impl Strays {
    fn new() -> Self {
        Self { notes: Notes::new(STRAYS), next: std::array::from_fn(|_| AtomicU32::new(0)) }
    }

    fn raise(&self, now: Coarse, spi: u32, seen: TunnelEndpoints) -> bool {
        let octets = match seen.remote {
            IpAddr::V4(addr) => u128::from(addr.to_bits()),
            IpAddr::V6(addr) => addr.to_bits(),
        };
        let folded = octets
            .to_be_bytes()
            .into_iter()
            .fold(0_usize, |sum, octet| sum.wrapping_mul(31).wrapping_add(usize::from(octet)));
        let index = folded % STRAYS;
        let Some(next) = self.next.get(index) else { return false };
        if now.0 < next.load(Ordering::Relaxed) {
            return false;
        }
        next.store(now.0.saturating_add(1), Ordering::Relaxed);
        self.notes.raise(index as u32, spi, || pack_endpoints(seen))
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use portcullis_ipsec::Encapsulation;

    use super::*;

    #[test]
    fn every_flag_of_a_large_board_is_read_once() {
        let flags = Flags::new(1000);
        for index in [0, 63, 64, 999, 63] {
            flags.raise(index);
        }
        assert!(!flags.raise(64));
        assert!(!flags.raise(1_000_000), "beyond the board");
        let mut taken = Vec::new();
        flags.take(|index| taken.push(index));
        flags.take(|index| taken.push(index));
        assert_eq!(taken, [0, 63, 64, 999]);
    }

    #[test]
    fn a_note_tells_the_first_cause_until_it_is_read() {
        let notes = Notes::new(2);
        let read = || {
            let mut read = Vec::new();
            notes.take(|note| read.push((note.owner, note.packed)));
            read
        };
        assert!(notes.raise(1, 7, || [1; 5]));
        assert!(!notes.raise(1, 8, || [2; 5]));
        assert_eq!(read(), [(7, [1; 5])]);
        assert!(notes.raise(1, 8, || [2; 5]));
        assert_eq!(read(), [(8, [2; 5])]);
        assert!(notes.raise(1, 9, || [3; 5]));
        notes.lower(1);
        assert_eq!(read(), []);
        assert!(notes.raise(1, 10, || [4; 5]), "lowered, so it can be raised again");
    }

    #[test]
    fn esp_for_no_sa_is_told_once_a_second_of_each_source() {
        let strays = Strays::new();
        let seen = |last: u8| TunnelEndpoints {
            local: "192.0.2.1".parse().unwrap(),
            remote: [192, 0, 2, last].into(),
            encapsulation: Encapsulation::Udp { local_port: 4500, remote_port: 1024 },
        };
        let read = || {
            let mut read = Vec::new();
            strays.notes.take(|note| read.push((note.owner, unpack_endpoints(note.packed))));
            read
        };
        assert!(strays.raise(Coarse(7), 300, seen(2)), "the first");
        assert!(strays.raise(Coarse(7), 300, seen(3)), "another source");
        assert_eq!(read(), [(300, seen(2)), (300, seen(3))]);
        assert!(!strays.raise(Coarse(7), 301, seen(2)), "the same second");
        assert!(strays.raise(Coarse(8), 301, seen(2)));
        assert_eq!(read(), [(301, seen(2))]);
    }

    #[test]
    fn the_bell_rings_once_however_many_flags_are_raised_until_they_are_read() {
        let rings = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&rings);
        let notify = Box::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let board = EventBoard::new(4, 4, notify);
        for _ in 0..3 {
            board.ring();
        }
        assert_eq!(rings.load(Ordering::Relaxed), 1);
        assert!(board.take().is_empty());
        board.ring();
        assert_eq!(rings.load(Ordering::Relaxed), 2);
    }
}

#[cfg(test)]
#[cfg(loom)]
mod loom_tests {
    use std::sync::Arc;

    use loom::sync::atomic::AtomicUsize;

    use super::*;

    /// What is raised is read in the end, by a reader that looks only when the bell has rung.
    #[test]
    fn nothing_raised_is_lost_and_no_note_is_mixed() {
        loom::model(|| {
            let rings = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&rings);
            let notify = Box::new(move || {
                counter.fetch_add(1, Ordering::SeqCst);
            });
            let board = Arc::new(EventBoard::new(1, 1, notify));
            let raise = |board: &EventBoard, n: u64| {
                if board.moved.raise(0, 256 + n as u32, || [n; 5]) {
                    board.ring();
                }
            };
            let worker = {
                let board = Arc::clone(&board);
                loom::thread::spawn(move || {
                    raise(&board, 1);
                    raise(&board, 2);
                })
            };
            let mut told = Vec::new();
            let take = |told: &mut Vec<u64>| {
                board.rung.swap(false, Ordering::AcqRel);
                board.moved.take(|note| {
                    let [first, ..] = note.packed;
                    assert_eq!((note.owner, note.packed), (256 + first as u32, [first; 5]));
                    told.push(first);
                });
            };
            take(&mut told);
            worker.join().unwrap();
            let raised = board.moved.raised.words.iter().any(|word| word.load(Ordering::SeqCst) != 0);
            assert!(!raised || board.rung.load(Ordering::SeqCst), "raised, and the bell did not ring");
            take(&mut told);
            assert!(matches!(told.as_slice(), [1] | [1, 2]), "{told:?}");
            assert!(rings.load(Ordering::SeqCst) > 0);
        });
    }

    #[test]
    fn two_workers_that_raise_one_flag_raise_it_once() {
        loom::model(|| {
            let notes = Arc::new(Notes::new(1));
            let other = {
                let notes = Arc::clone(&notes);
                loom::thread::spawn(move || notes.raise(0, 1, || [1; 5]))
            };
            let mine = notes.raise(0, 2, || [2; 5]);
            let theirs = other.join().unwrap();
            assert!(mine != theirs);
            let mut owners = Vec::new();
            notes.take(|note| owners.push((note.owner, note.packed)));
            assert_eq!(owners, [if mine { (2, [2; 5]) } else { (1, [1; 5]) }]);
        });
    }
}
