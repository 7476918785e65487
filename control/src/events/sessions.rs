//! Who is there: each IKE SA from its authentication to its end, over all rekeyings, with its CHILD SAs, each over all
//! rekeyings of its own, and what they have carried.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use portcullis_ike::engine::{ChildSaStatus, Event, IkeSaId, IkeSaStatus};
use portcullis_ipsec::{SaInstaller, Spi};

use super::audit::ChildEntry;
use super::{Happening, report};
use crate::daemon::{Carried, Traffic};

/// CHILD SAs of a session that are noted.
const NOTED: usize = 32;

/// An IKE SA and its successors.
#[derive(Debug)]
pub(crate) struct Session {
    /// As it is now, but for its children.
    pub(crate) ike: IkeSaStatus,
    /// Both SPIs that it began with.
    pub(crate) name: String,
    /// When that was.
    pub(crate) began: SystemTime,
    since: Instant,
    /// Every CHILD SA that was of another kind than those before, for the record, if there is one.
    pub(crate) had: Vec<ChildEntry>,
    children: Vec<Child>,
    /// Of the children that are gone.
    gone: Tally,
}

/// A CHILD SA and its successors.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its number within this run of the daemon.
    pub(crate) id: u64,
    /// The newest.
    pub(crate) status: ChildSaStatus,
    since: Instant,
    /// Our SPIs of those that are there.
    pairs: Vec<Spi>,
    tally: Tally,
}

/// What pairs have carried.
#[derive(Debug, Default)]
struct Tally {
    /// Those that are gone.
    gone: Carried,
    /// Those that may still carry something.
    kept: Vec<Spi>,
}

impl Tally {
    fn keep(&mut self, pair: Spi, traffic: &Traffic) {
        // An SA of years has many successors.
        let gone = &mut self.gone;
        self.kept.retain(|pair| match traffic.ended(*pair) {
            Some(carried) => {
                gone.add(&carried);
                traffic.forget(*pair);
                false
            }
            None => true,
        });
        traffic.keep(pair);
        add(&mut self.kept, pair);
    }

    fn now(&self, traffic: &Traffic, installer: &dyn SaInstaller) -> Carried {
        let mut carried = self.gone;
        for pair in &self.kept {
            carried.add(&traffic.of_pair(*pair, installer));
        }
        carried
    }

    fn absorb(&mut self, other: Self) {
        self.gone.add(&other.gone);
        self.kept.extend(other.kept);
    }
}

impl Session {
    /// Its connection.
    pub(crate) fn connection(&self) -> &str {
        self.ike.connection.as_deref().unwrap_or_default()
    }

    /// Who the peer is: in EAP, where that is how it was authenticated.
    pub(crate) fn peer(&self) -> Option<String> {
        let id = || self.ike.remote_id.as_ref().map(ToString::to_string);
        self.ike.authorization.eap_id.clone().or_else(id)
    }

    /// How long it has been there.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// A peer that asks for ever other selectors fills no memory.
    fn note(&mut self, child: &ChildSaStatus) {
        let entry = ChildEntry {
            child: child.name.clone(),
            proposal: child.proposal.clone(),
            local_ts: report::selectors(&child.local_ts),
            remote_ts: report::selectors(&child.remote_ts),
        };
        if self.had.len() < NOTED && !self.had.contains(&entry) {
            add(&mut self.had, entry);
        }
    }
}

impl Child {
    /// How long it has been there.
    pub(crate) fn age(&self) -> Duration {
        self.since.elapsed()
    }
}

/// A tunnel has one CHILD SA nearly always, and a list's first growth is to four.
fn add<T>(list: &mut Vec<T>, entry: T) {
    if list.is_empty() {
        list.reserve_exact(1);
    }
    list.push(entry);
}

/// Every session.
pub(crate) struct Sessions {
    traffic: Arc<Traffic>,
    installer: Arc<dyn SaInstaller>,
    sessions: HashMap<IkeSaId, Box<Session>>,
    /// Whose each pair is.
    owners: HashMap<Spi, IkeSaId>,
    next_child: u64,
    /// Somebody keeps a record, and wants to know at the end what each session had.
    recorded: bool,
}

impl Sessions {
    /// Nobody is there.
    pub(crate) fn new(traffic: Arc<Traffic>, installer: Arc<dyn SaInstaller>, recorded: bool) -> Self {
        let (sessions, owners) = (HashMap::new(), HashMap::new());
        Self { traffic, installer, sessions, owners, next_child: 0, recorded }
    }

    /// Takes an event of the engine, and tells what that means. [`Traffic::opened`] comes first.
    pub(crate) fn hear(&mut self, event: &Event, tell: &dyn Fn(&Happening<'_>)) {
        match event {
            Event::IkeEstablished { ike } => {
                let hex = |spi: &[u8]| data_encoding::HEXLOWER.encode(spi);
                let session = Box::new(Session {
                    name: format!("{}-{}", hex(&ike.initiator_spi), hex(&ike.responder_spi)),
                    ike: IkeSaStatus { children: Vec::new(), ..ike.clone() },
                    began: SystemTime::now(),
                    since: Instant::now(),
                    had: Vec::new(),
                    children: Vec::new(),
                    gone: Tally::default(),
                });
                tell(&Happening::IkeUp { session: &session });
                self.sessions.insert(ike.id, session);
            }
            Event::IkeRekeyed { ike, replaced } => self.rekeyed(ike, *replaced, tell),
            Event::IkeMoved { ike, from, to, .. } => {
                if let Some(session) = self.sessions.get_mut(ike) {
                    (session.ike.local, session.ike.remote) = *to;
                    tell(&Happening::IkeMoved { session, from: *from });
                }
            }
            Event::IkeClosed { ike, reason, .. } => self.closed(*ike, reason, tell),
            Event::ChildEstablished { ike, child, .. } => self.child(*ike, child, None, tell),
            Event::ChildRekeyed { ike, child, replaced, .. } => {
                self.child(*ike, child, Some(*replaced), tell)
            }
            Event::ChildClosed { pair, reason, .. } => self.child_closed(*pair, reason, tell),
            Event::AddressesAssigned { ike, connection, identity, addresses } => {
                if let Some(session) = self.sessions.get_mut(ike) {
                    session.ike.remote_vips.clone_from(addresses);
                }
                let (session, ike) = (self.sessions.get(ike).map(Box::as_ref), *ike);
                tell(&Happening::AddressesAssigned { session, ike, connection, identity, addresses });
            }
            Event::AddressesReleased { ike, connection, addresses } => {
                tell(&Happening::AddressesReleased { ike: *ike, connection, addresses });
            }
            Event::AddressesAcquired { connection, addresses, .. } => {
                tell(&Happening::AddressesAcquired { connection, addresses });
            }
            Event::AddressesLost { connection, addresses } => {
                tell(&Happening::AddressesLost { connection, addresses });
            }
            Event::Redirected { ike, connection, remote, to, by_us } => {
                let (ike, remote, to, by_us) = (*ike, *remote, *to, *by_us);
                tell(&Happening::Redirected { ike, connection, remote, to, by_us });
            }
            Event::Failed(failure) => tell(&Happening::Failed(failure)),
            Event::CommandDone { .. } | Event::Rejected { .. } => {}
        }
    }

    /// The daemon stops: whoever is still there is gone.
    pub(crate) fn stop(&mut self, tell: &dyn Fn(&Happening<'_>)) {
        let left: Vec<IkeSaId> = self.sessions.keys().copied().collect();
        for ike in left {
            self.closed(ike, "the daemon stops", tell);
        }
    }

    fn rekeyed(&mut self, ike: &IkeSaStatus, replaced: IkeSaId, tell: &dyn Fn(&Happening<'_>)) {
        let Some(mut session) = self.sessions.remove(&replaced) else { return };
        session.ike = IkeSaStatus { children: Vec::new(), ..ike.clone() };
        for pair in session.children.iter().flat_map(|child| &child.pairs) {
            self.owners.insert(*pair, ike.id);
        }
        tell(&Happening::IkeRekeyed { session: &session, replaced });
        self.sessions.insert(ike.id, session);
    }

    fn closed(&mut self, ike: IkeSaId, reason: &str, tell: &dyn Fn(&Happening<'_>)) {
        // One that was rekeyed is there no more: its successor is.
        let Some(mut session) = self.sessions.remove(&ike) else { return };
        for child in std::mem::take(&mut session.children) {
            child.pairs.iter().for_each(|pair| _ = self.owners.remove(pair));
            self.down(&mut session, child, reason, tell);
        }
        let carried = session.gone.now(&self.traffic, self.installer.as_ref());
        tell(&Happening::IkeDown { session: &session, reason, carried });
        session.gone.kept.iter().for_each(|pair| self.traffic.forget(*pair));
    }

    fn child(
        &mut self,
        ike: IkeSaId,
        status: &ChildSaStatus,
        replaced: Option<Spi>,
        tell: &dyn Fn(&Happening<'_>),
    ) {
        let Some(session) = self.sessions.get_mut(&ike) else { return };
        let pair = status.spi_in;
        self.owners.insert(pair, ike);
        if self.recorded {
            session.note(status);
        }
        let heir = |child: &Child| replaced.is_some_and(|replaced| child.pairs.contains(&replaced));
        match (session.children.iter().position(heir), replaced) {
            (Some(at), Some(replaced)) => {
                if let Some(child) = session.children.get_mut(at) {
                    child.tally.keep(pair, &self.traffic);
                    child.pairs.push(pair);
                    child.status = status.clone();
                }
                if let Some(child) = session.children.get(at) {
                    tell(&Happening::ChildRekeyed { session, child, replaced });
                }
            }
            // Or its predecessor is gone already, and that was told.
            _ => {
                let mut tally = Tally::default();
                tally.keep(pair, &self.traffic);
                self.next_child += 1;
                let (id, since) = (self.next_child, Instant::now());
                let child = Child { id, status: status.clone(), since, pairs: vec![pair], tally };
                tell(&Happening::ChildUp { session, child: &child });
                add(&mut session.children, child);
            }
        }
    }

    fn child_closed(&mut self, pair: Spi, reason: &str, tell: &dyn Fn(&Happening<'_>)) {
        let Some(ike) = self.owners.remove(&pair) else { return };
        let Some(mut session) = self.sessions.remove(&ike) else { return };
        if let Some(at) = session.children.iter().position(|child| child.pairs.contains(&pair)) {
            let mut child = session.children.swap_remove(at);
            child.pairs.retain(|other| *other != pair);
            if child.pairs.is_empty() {
                self.down(&mut session, child, reason, tell);
            } else {
                session.children.push(child);
            }
        }
        self.sessions.insert(ike, session);
    }

    fn down(&self, session: &mut Session, child: Child, reason: &str, tell: &dyn Fn(&Happening<'_>)) {
        let carried = child.tally.now(&self.traffic, self.installer.as_ref());
        tell(&Happening::ChildDown { session, child: &child, reason, carried });
        session.gone.absorb(child.tally);
    }
}
