//! Packets looked at one by one while somebody asks: their path for `portcullis trace`, their octets for
//! `portcullis capture`.
//!
//! A [`Session`] says which packets ([`Filter`]), how many a second, and whether their octets are wanted; the [`Hub`] holds
//! those that are open. A worker asks the hub once a batch, by one relaxed load, whether there are any. Only then, and only
//! for packets that a session may want, it takes them through its pipeline singly and reports what became of each:
//! `gateway/src/pipeline/traced.rs`. The pipeline itself knows nothing of it.

mod filter;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use crossbeam::queue::ArrayQueue;
use portcullis_ipsec::{Flow, Spi, TenantId};

pub use filter::{Filter, FilterError};

use crate::coarse::Coarse;
use crate::drop::DropReason;

/// Records that wait to be read.
const QUEUE: usize = 1024;
/// Sessions open at a time.
const MOST_SESSIONS: usize = 8;

/// The open sessions, for all workers to see.
#[derive(Debug, Default)]
pub struct Hub {
    on: AtomicBool,
    sessions: ArcSwap<Vec<Arc<Session>>>,
    /// Packets reported so far: each has a number of its own.
    numbers: AtomicU64,
}

impl Hub {
    /// Whether any session is open.
    #[inline(always)]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Opens a session; `None` if there are too many.
    pub fn open(&self, filter: Filter, per_second: u32, octets: Octets) -> Option<Arc<Session>> {
        let session = Arc::new(Session {
            filter,
            per_second,
            octets,
            records: ArrayQueue::new(QUEUE),
            missed: AtomicU64::new(0),
            window: AtomicU64::new(0),
        });
        let before = self.sessions.rcu(|sessions| {
            let mut sessions = Vec::clone(sessions);
            if sessions.len() < MOST_SESSIONS {
                sessions.push(Arc::clone(&session));
            }
            sessions
        });
        self.on.store(true, Ordering::Relaxed);
        (before.len() < MOST_SESSIONS).then_some(session)
    }

    /// Closes a session.
    pub fn close(&self, session: &Arc<Session>) {
        self.sessions.rcu(|sessions| {
            let mut sessions = Vec::clone(sessions);
            sessions.retain(|other| !Arc::ptr_eq(other, session));
            sessions
        });
        self.on.store(!self.sessions.load().is_empty(), Ordering::Relaxed);
    }

    /// The sessions now.
    pub(crate) fn sessions(&self) -> arc_swap::Guard<Arc<Vec<Arc<Session>>>> {
        self.sessions.load()
    }

    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Which octets a session gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Octets {
    /// None.
    None,
    /// Of what is in clear by policy, and of ESP, sealed.
    Outer,
    /// Of what is in ESP too.
    Decrypted,
}

/// One question, and the answers that have not been read yet.
#[derive(Debug)]
pub struct Session {
    filter: Filter,
    per_second: u32,
    octets: Octets,
    records: ArrayQueue<Arc<Record>>,
    missed: AtomicU64,
    /// The second (high half) and how many were reported in it.
    window: AtomicU64,
}

impl Session {
    /// What it looks for.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Which octets it gets.
    pub fn octets(&self) -> Octets {
        self.octets
    }

    /// The next record.
    pub fn next(&self) -> Option<Arc<Record>> {
        self.records.pop()
    }

    /// How many that fitted were not reported, for being too many a second, or because nobody read.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Reports a record that fits.
    pub(crate) fn report(&self, now: Coarse, record: &Arc<Record>) {
        if !self.admits(now) || self.records.push(Arc::clone(record)).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts packets that were not even looked at.
    pub(crate) fn miss(&self) {
        self.missed.fetch_add(1, Ordering::Relaxed);
    }

    fn admits(&self, now: Coarse) -> bool {
        let second = u64::from(now.0) << 32;
        let counted = self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |window| {
            let count =
                if window & !u64::from(u32::MAX) == second { window & u64::from(u32::MAX) } else { 0 };
            (count < u64::from(self.per_second)).then_some(second | (count + 1))
        });
        counted.is_ok()
    }
}

/// What was seen of one packet.
#[derive(Debug, Clone)]
pub struct Record {
    /// Of its own.
    pub number: u64,
    /// When.
    pub at: SystemTime,
    /// The interface by which it came; `None`: from the host, through the TUN device.
    pub received_on: Option<String>,
    /// Whose inner addresses it has, as the device says by which it came from the host or, of ESP, its SA.
    pub tenant: TenantId,
    /// As it was received: of ESP, the outer addresses. `None` if it cannot be read.
    pub flow: Option<Flow>,
    /// What it was taken for.
    pub class: Class,
    /// Of ESP, the SPI that it came with.
    pub spi_in: Option<Spi>,
    /// What was in the ESP packet, if it is authentic.
    pub inner: Option<Flow>,
    /// The policy that covers it (of ESP, what is in it): its name, and what it does. `None`: no policy.
    pub policy: Option<(String, portcullis_ipsec::PolicyAction)>,
    /// The SA that the policy has for it now.
    pub spi_out: Option<Spi>,
    /// What became of it.
    pub fate: Fate,
    /// Whether it was sealed.
    pub sealed: bool,
    /// Whether its sender was told by an ICMP error.
    pub answered: bool,
    /// Its octets at the places that it passed, if any session wants them.
    pub octets: Vec<Piece>,
}

impl Record {
    /// Why it was dropped, if it was.
    pub fn dropped(&self) -> Option<DropReason> {
        match self.fate {
            Fate::Dropped(reason) => Some(reason),
            _ => None,
        }
    }
}

/// What a packet was taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// ESP for us, raw or in UDP.
    Esp,
    /// Clear text by an inside interface or from the host.
    Clear,
    /// Clear text by an outside interface.
    ClearOutside,
    /// Nothing that can be read.
    Unreadable,
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Sent by this interface.
    Sent(String),
    /// Given to the host.
    ToHost,
    /// Waits for its next hop's link-layer address.
    AwaitsNeighbour,
    /// Waits for an SA that it has asked for.
    AwaitsSa,
    /// Given to the worker that owns its SA, where it is not followed.
    HandedOver,
    /// Dropped.
    Dropped(DropReason),
    /// Something else: for instance cut into fragments.
    Other,
}

/// Where octets were seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// As received: a whole Ethernet frame, or from the host a bare IP packet.
    Received,
    /// Out of ESP: a bare IP packet.
    Decrypted,
    /// As sent: a whole Ethernet frame, or to the host a bare IP packet.
    Sent,
}

/// Octets of a packet at one place.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Which place.
    pub place: Place,
    /// The interface; `None`: the TUN device or, for what was decrypted, none.
    pub interface: Option<String>,
    /// Whether they begin with an Ethernet header.
    pub ethernet: bool,
    /// Whether they are what ESP protects on the wire.
    pub protected: bool,
    /// The octets.
    pub octets: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Arc<Record> {
        Arc::new(Record {
            number: 1,
            at: SystemTime::UNIX_EPOCH,
            received_on: None,
            tenant: TenantId::default(),
            flow: None,
            class: Class::Unreadable,
            spi_in: None,
            inner: None,
            policy: None,
            spi_out: None,
            fate: Fate::Dropped(DropReason::Malformed),
            sealed: false,
            answered: false,
            octets: Vec::new(),
        })
    }

    #[test]
    fn a_session_gets_so_many_records_a_second_and_counts_the_others() {
        let hub = Hub::default();
        assert!(!hub.is_on());
        let session = hub.open(Filter::default(), 3, Octets::None).unwrap();
        assert!(hub.is_on());
        for _ in 0..5 {
            session.report(Coarse(7), &record());
        }
        assert_eq!((std::iter::from_fn(|| session.next()).count(), session.missed()), (3, 2));
        session.report(Coarse(8), &record());
        assert_eq!((std::iter::from_fn(|| session.next()).count(), session.missed()), (1, 2));
        hub.close(&session);
        assert!(!hub.is_on());
    }

    #[test]
    fn what_nobody_reads_takes_no_more_room_than_it_may() {
        let session = Hub::default().open(Filter::default(), u32::MAX, Octets::None).unwrap();
        for _ in 0..QUEUE + 10 {
            session.report(Coarse(7), &record());
        }
        assert_eq!(session.missed(), 10);
    }

    #[test]
    fn there_are_so_many_sessions_at_a_time_and_no_more() {
        let hub = Hub::default();
        let open = || hub.open(Filter::default(), 1, Octets::None);
        let sessions: Vec<_> = (0..MOST_SESSIONS).map(|_| open().unwrap()).collect();
        assert!(open().is_none());
        hub.close(&sessions[3]);
        assert!(hub.is_on() && open().is_some());
    }
}
