//! What workers have to tell the control plane: flags that stay raised until read.
//!
//! One flag of each kind per SA or policy, so that memory is bounded and a flood of causes is one event; no queue,
//! so that nothing is lost. A worker that finds a flag raised has nothing to do. An event that tells an address
//! tells the first one since the flag was last read.

use std::fmt;

use portcullis_ipsec::{Flow, PolicyId, Spi, TunnelEndpoints};

use crate::policy::PolicyEntry;
use crate::sa::endpoints::{Packed, pack_endpoints, pack_flow, unpack_endpoints, unpack_flow};
use crate::sa::{Inbound, Outbound};
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

/// The flags, and the bell that is rung when one is raised.
pub struct EventBoard {
    acquire: Notes,
    moved: Notes,
    soft: Flags,
    hard: Flags,
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
    /// By the slot of the pair's inbound SA.
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
}

impl EventBoard {
    /// For tables of these capacities. `notify` is called, by the worker that raised a flag, when
    /// [`portcullis_ipsec::SaInstaller::take_events`] has something to give again; it must be quick (write an
    /// eventfd).
    pub fn new(max_sas: usize, max_policies: usize, notify: Box<dyn Fn() + Send + Sync>) -> Self {
        Self {
            acquire: Notes::new(max_policies),
            moved: Notes::new(max_sas),
            soft: Flags::new(max_sas),
            hard: Flags::new(max_sas),
            rung: AtomicBool::new(false),
            notify,
        }
    }

    /// A packet of `flow` matched a policy that asks for an SA and has none. Does nothing for other policies.
    pub fn acquire(&self, policy: &PolicyEntry, flow: &Flow) {
        if policy.wants_sa() && self.acquire.raise(policy.index, policy.id().0, || pack_flow(flow)) {
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
            raised.push(Raised::Acquire { policy: PolicyId(note.owner), flow: unpack_flow(note.packed) });
        });
        self.soft.take(|slot| raised.push(Raised::SoftLimit { slot }));
        self.hard.take(|slot| raised.push(Raised::HardLimit { slot }));
        self.moved.take(|note| {
            raised.push(Raised::Moved { pair: Spi::new(note.owner), seen: unpack_endpoints(note.packed) });
        });
        raised
    }

    /// Lowers the flags of a slot whose SAs no worker can see any more: the next pair there starts clean.
    pub(crate) fn forget_pair(&self, slot: u32) {
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
        word.fetch_and(!bit, Ordering::AcqRel) & bit != 0
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
