//! Another configuration for a running engine: what is the same in both keeps its SAs, and everything else gets what the
//! new one says.
//!
//! IKE SAs name their connection and its children by number. So a connection or child that is there no longer keeps its
//! number, out of force, for as long as an IKE SA may still go by it; then another one may have it.
//! [`Roster`] says which numbers are in force.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::context::Context;
use super::resumption::tickets::Tickets;
use super::sa::Goal;
use super::state::State;
use super::{Engine, IkeSaId, ike_sa_init};
use crate::auth::Trust;
use crate::config::{ChildConfig, ConnectionConfig, EngineConfig, LocalMethod, RemoteMethod, StartAction};

/// What another configuration means for a connection or a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The connection.
    pub connection: String,
    /// The child; `None`: all of the connection.
    pub child: Option<String>,
    /// What becomes of it.
    pub fate: Fate,
}

/// What becomes of a connection or a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is new.
    Added,
    /// It is there no longer: its SAs are closed.
    Removed,
    /// Its SAs do not fit it any more: they are closed, and negotiated anew.
    Replaced,
    /// Its SAs stay; what has changed counts from their next rekeying or authentication.
    Adjusted,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.connection)?;
        if let Some(child) = &self.child {
            write!(f, "/{child}")?;
        }
        f.write_str(match self.fate {
            Fate::Added => ": added",
            Fate::Removed => ": removed; its SAs are closed",
            Fate::Replaced => ": changed; its SAs are closed and negotiated anew",
            Fate::Adjusted => {
                ": changed; its SAs stay, and follow from their next rekeying or authentication"
            }
        })
    }
}

/// What `new` means for what runs with `old`, in the order of `new`; what was removed comes last.
pub fn changes(old: &[ConnectionConfig], new: &[ConnectionConfig]) -> Vec<Change> {
    compare(old.iter(), new)
}

fn compare<'a>(old: impl Iterator<Item = &'a ConnectionConfig>, new: &[ConnectionConfig]) -> Vec<Change> {
    let mut known: HashMap<&str, &ConnectionConfig> =
        old.map(|connection| (connection.name.as_str(), connection)).collect();
    let mut changes = Vec::new();
    for connection in new {
        let mut change = |child: Option<&ChildConfig>, fate| {
            let child = child.map(|child| child.name.clone());
            changes.push(Change { connection: connection.name.clone(), child, fate });
        };
        let Some(before) = known.remove(connection.name.as_str()) else {
            change(None, Fate::Added);
            continue;
        };
        if connection == before {
            continue;
        }
        if !stays(before, connection) {
            change(None, Fate::Replaced);
            continue;
        }
        let same_children = connection.children == before.children;
        if !same_children {
            for child in &connection.children {
                match before.children.iter().find(|known| known.name == child.name) {
                    None => change(Some(child), Fate::Added),
                    Some(known) if known == child => {}
                    Some(known) if child_stays(known, child) => change(Some(child), Fate::Adjusted),
                    Some(_) => change(Some(child), Fate::Replaced),
                }
            }
            let gone =
                |known: &&ChildConfig| !connection.children.iter().any(|child| child.name == known.name);
            before.children.iter().filter(gone).for_each(|child| change(Some(child), Fate::Removed));
        }
        let apart_from_children =
            ConnectionConfig { children: before.children.clone(), ..connection.clone() };
        if apart_from_children != *before {
            change(None, Fate::Adjusted);
        }
    }
    let mut removed: Vec<&str> = known.into_keys().collect();
    removed.sort_unstable();
    changes.extend(removed.into_iter().map(|name| Change {
        connection: name.to_owned(),
        child: None,
        fate: Fate::Removed,
    }));
    changes
}

/// Whether the IKE SAs of a connection are still what it asks for. Whatever is not known here to be harmless is not.
fn stays(old: &ConnectionConfig, new: &ConnectionConfig) -> bool {
    let mut new = new.clone();
    new.children.clone_from(&old.children);
    (new.dpd_delay, new.lifetime, new.unique) = (old.dpd_delay, old.lifetime, old.unique);
    // Whoever has an address keeps it.
    if !new.pools.is_empty() && !old.pools.is_empty() {
        new.pools.clone_from(&old.pools);
    }
    new.quick_crash_detection = old.quick_crash_detection;
    new.session_resumption = old.session_resumption;
    if covers(&new.proposals, &old.proposals) {
        new.proposals.clone_from(&old.proposals);
    }
    // Another certificate of ours proves the same.
    for (new, old) in new.local.iter_mut().zip(&old.local) {
        if matches!((&new.auth, &old.auth), (LocalMethod::Pubkey { .. }, LocalMethod::Pubkey { .. })) {
            new.auth = old.auth.clone();
        }
    }
    for (new, old) in new.remote.iter_mut().zip(&old.remote) {
        if let (RemoteMethod::Pubkey(wider), RemoteMethod::Pubkey(trust)) = (&new.auth, &old.auth)
            && trusts_as_much(wider, trust)
        {
            new.auth = old.auth.clone();
        }
    }
    new == *old
}

/// The same of the CHILD SAs of a child.
fn child_stays(old: &ChildConfig, new: &ChildConfig) -> bool {
    let mut new = new.clone();
    (new.lifetime, new.start_action) = (old.lifetime, old.start_action);
    if covers(&new.esp_proposals, &old.esp_proposals) {
        new.esp_proposals.clone_from(&old.esp_proposals);
    }
    new == *old
}

fn covers<T: PartialEq>(new: &[T], old: &[T]) -> bool {
    old.iter().all(|each| new.contains(each))
}

/// Whether nobody is trusted less. Pinned certificates and keys are alternatives: none of them means any, by a CA.
fn trusts_as_much(new: &Trust, old: &Trust) -> bool {
    let pins = |trust: &Trust| !(trust.certificates.is_empty() && trust.public_keys.is_empty());
    covers(&new.authorities, &old.authorities)
        && covers(&new.certificates, &old.certificates)
        && covers(&new.public_keys, &old.public_keys)
        && pins(new) == pins(old)
        && (new.revocation, &new.constraint) == (old.revocation, &old.constraint)
}

/// Which of the numbers of connections and children are in force.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// Connections in the order of the configuration; `None` until the first change: all, as they stand.
    order: Option<Vec<usize>>,
    /// Connections that are not in force, with the youngest IKE SA that there was when they went.
    retired: HashMap<usize, IkeSaId>,
    /// Children that are not, of connections that are.
    retired_children: HashMap<(usize, usize), IkeSaId>,
}

impl Context {
    /// The connections in force, in the order of the configuration.
    pub(super) fn live_connections(&self) -> impl Iterator<Item = (usize, &ConnectionConfig)> {
        let all = self.roster.order.is_none().then_some(0..self.config.connections.len());
        let ordered = self.roster.order.iter().flatten().copied();
        let numbers = all.into_iter().flatten().chain(ordered);
        numbers.filter_map(|number| Some((number, self.connection(number)?)))
    }

    /// The children in force of a connection.
    pub(super) fn live_children(&self, connection: usize) -> impl Iterator<Item = (usize, &ChildConfig)> {
        let children = self.connection(connection).map(|config| config.children.as_slice());
        let numbered = children.unwrap_or_default().iter().enumerate();
        numbered.filter(move |(child, _)| !self.roster.retired_children.contains_key(&(connection, *child)))
    }

    pub(super) fn is_live(&self, connection: usize) -> bool {
        !self.roster.retired.contains_key(&connection)
    }

    fn is_live_child(&self, connection: usize, child: usize) -> bool {
        self.is_live(connection) && !self.roster.retired_children.contains_key(&(connection, child))
    }
}

/// A configuration being put in force.
struct Transition {
    slots: Vec<ConnectionConfig>,
    order: Vec<usize>,
    retired_children: HashSet<(usize, usize)>,
    /// Connections whose SAs are to be closed.
    closing: Vec<usize>,
    /// Children whose SAs are to be closed.
    closing_children: Vec<(usize, usize)>,
    /// Children that may now be kept up, if their `start_action` says so.
    starting: Vec<(usize, usize)>,
}

impl Engine {
    /// Takes another configuration. SAs of connections and children that are the same in both stay, and so do those that
    /// the change does not touch ([`changes`] says which); the others are closed, and those with `start_action = "start"`
    /// brought up.
    pub fn handle_config(&mut self, now: Instant, config: EngineConfig) {
        let Transition { slots, order, retired_children, closing, closing_children, starting } =
            self.transition(&config);
        let live: HashSet<usize> = order.iter().copied().collect();
        let proposes_otherwise = |number: &usize| {
            let old = self.cx.connection(*number).map(|old| &old.proposals);
            slots.get(*number).map(|new| &new.proposals) != old
        };
        let outdated: Vec<usize> = order.iter().copied().filter(proposes_otherwise).collect();
        let youngest = self.cx.youngest();
        let old = &self.cx.roster;
        let since = |number: usize| (number, old.retired.get(&number).copied().unwrap_or(youngest));
        let retired = (0..slots.len()).filter(|number| !live.contains(number)).map(since).collect();
        let since = |child| (child, old.retired_children.get(&child).copied().unwrap_or(youngest));
        let retired_children = retired_children.into_iter().map(since).collect();
        self.cx.config = Arc::new(EngineConfig { connections: slots, ..config });
        // Who may come may be another matter now: everybody has to prove himself again.
        self.cx.tickets = Tickets::default();
        self.cx.sessions.clear();
        self.cx.roster = Roster { order: Some(order), retired, retired_children };
        for connection in outdated {
            self.propose_anew(now, connection);
        }
        for connection in closing {
            self.upkeep.unwant_all(connection);
            for sa in self.cx.index.of_connection(connection) {
                self.terminate_sa(now, sa, None);
            }
        }
        for (connection, child) in closing_children {
            self.upkeep.unwant(connection, child);
            for sa in self.cx.index.of_connection(connection) {
                self.terminate_child(now, sa, child, None);
            }
        }
        for (connection, child) in starting {
            let starts = self.cx.child(connection, child).map(|config| config.start_action);
            let home = self.cx.connection(connection).is_some_and(|config| self.cx.shard.is_home_of(config));
            if starts == Some(StartAction::Start) && home {
                self.upkeep.want(connection, child);
                self.bring_up(now, connection, Goal::new(child));
            } else {
                self.upkeep.unwant(connection, child);
            }
        }
        self.settle(now);
    }

    /// Attempts of ours that the peer has not agreed to begin again: what they have offered is offered no longer, and
    /// whoever asks for the child from now on is not told of it.
    fn propose_anew(&mut self, now: Instant, connection: usize) {
        for id in self.cx.index.unanswered(connection) {
            self.step(now, id, |state, cx, base| {
                let proposals = cx.connection(connection).map(|config| config.proposals.as_slice());
                let first = proposals.and_then(|proposals| proposals.first()?.ke.first().copied());
                let Some(method) = first else { return Ok(state) };
                base.spi_i = cx.fresh_spi();
                // A ticket is shown once.
                base.resumed = None;
                Ok(ike_sa_init::initiator::begin(cx, base, now, method))
            });
        }
    }

    /// Both ends of an IKE SA were authenticated for a connection that is out of force since.
    pub(super) fn end_if_outdated(&mut self, now: Instant, id: IkeSaId) {
        let connection = self.sas.get(&id).map(|sa| sa.base.connection);
        if connection.is_some_and(|connection| !self.cx.is_live(connection)) {
            self.terminate_sa(now, id, None);
        }
    }

    /// A CHILD SA came up for a child that is out of force since.
    pub(super) fn end_if_outdated_child(&mut self, now: Instant, connection: usize, child: usize) {
        if !self.cx.is_live_child(connection, child) {
            for sa in self.cx.index.of_connection(connection) {
                self.terminate_child(now, sa, child, None);
            }
        }
    }

    fn transition(&self, config: &EngineConfig) -> Transition {
        let mut transition = Transition {
            slots: self.cx.config.connections.clone(),
            order: Vec::with_capacity(config.connections.len()),
            retired_children: HashSet::new(),
            closing: Vec::new(),
            closing_children: Vec::new(),
            starting: Vec::new(),
        };
        let known: HashMap<&str, usize> = self
            .cx
            .live_connections()
            .map(|(number, connection)| (connection.name.as_str(), number))
            .collect();
        let in_use = self.numbers_in_use();
        let mut free: Vec<usize> = (0..transition.slots.len())
            .rev()
            .filter(|number| {
                let gone = self.cx.roster.retired.get(number);
                gone.is_some_and(|gone| in_use.forgot(*gone)) && !in_use.connections.contains(number)
            })
            .collect();
        for connection in &config.connections {
            let before = known.get(connection.name.as_str()).copied();
            let kept = before.filter(|number| {
                transition.slots.get(*number).is_some_and(|before| stays(before, connection))
            });
            let number = match kept {
                Some(number) => {
                    self.merge(&mut transition, number, connection, &in_use);
                    number
                }
                None => {
                    let number = transition.place(free.pop(), connection.clone());
                    transition.starting.extend((0..connection.children.len()).map(|child| (number, child)));
                    number
                }
            };
            transition.order.push(number);
        }
        let gone = self.cx.live_connections().map(|(number, _)| number);
        let kept: HashSet<usize> = transition.order.iter().copied().collect();
        transition.closing.extend(gone.filter(|number| !kept.contains(number)));
        transition
    }

    /// A connection that keeps its number gets its new settings, and its children theirs.
    fn merge(&self, transition: &mut Transition, number: usize, new: &ConnectionConfig, in_use: &InUse) {
        let Some(slot) = transition.slots.get_mut(number) else { return };
        let known: Vec<(usize, &str)> =
            self.cx.live_children(number).map(|(child, config)| (child, config.name.as_str())).collect();
        let mut children = std::mem::take(&mut slot.children);
        let mut live = HashSet::new();
        let mut places = Vec::new();
        for child in &new.children {
            let before = known.iter().find(|(_, name)| *name == child.name).map(|(before, _)| *before);
            let place =
                before.and_then(|before| children.get_mut(before)).filter(|it| child_stays(it, child));
            if let (Some(before), Some(place)) = (before, place) {
                if place.start_action != child.start_action {
                    transition.starting.push((number, before));
                }
                *place = child.clone();
                live.insert(before);
            } else {
                places.push(child.clone());
            }
        }
        let free = |child: &usize| {
            let gone = self.cx.roster.retired_children.get(&(number, *child));
            gone.is_some_and(|gone| in_use.forgot(*gone)) && !in_use.children.contains(&(number, *child))
        };
        let mut free: Vec<usize> = (0..children.len()).rev().filter(free).collect();
        for child in places {
            let at = free.pop().unwrap_or(children.len());
            match children.get_mut(at) {
                Some(place) => *place = child,
                None => children.push(child),
            }
            live.insert(at);
            transition.starting.push((number, at));
        }
        transition.closing_children.extend(
            known.iter().filter(|(child, _)| !live.contains(child)).map(|(child, _)| (number, *child)),
        );
        transition
            .retired_children
            .extend((0..children.len()).filter(|child| !live.contains(child)).map(|child| (number, child)));
        *slot = ConnectionConfig { children, ..new.clone() };
    }

    /// The numbers that IKE SAs name.
    fn numbers_in_use(&self) -> InUse {
        let mut in_use = InUse::default();
        for sa in self.sas.values() {
            let (base, connection) = (&sa.base, sa.base.connection);
            if sa.state.half_open() {
                // Which connections it has in mind only its state knows.
                in_use.oldest_half_open =
                    Some(in_use.oldest_half_open.map_or(base.id, |old| old.min(base.id)));
            }
            in_use.connections.insert(connection);
            let goals = base.goal.iter().chain(&base.goals).map(|goal| goal.child);
            let named = base.children.iter().map(|child| child.config).chain(goals);
            in_use.children.extend(named.map(|child| (connection, child)));
            if let State::Established(established) = &sa.state {
                in_use.children.extend(established.child_under_way().map(|child| (connection, child)));
            }
        }
        in_use
    }
}

/// Numbers that something still goes by.
#[derive(Default)]
struct InUse {
    connections: HashSet<usize>,
    children: HashSet<(usize, usize)>,
    oldest_half_open: Option<IkeSaId>,
}

impl InUse {
    /// Whether every IKE SA that is not authenticated yet began after something had gone.
    fn forgot(&self, gone: IkeSaId) -> bool {
        self.oldest_half_open.is_none_or(|oldest| oldest > gone)
    }
}

impl Transition {
    /// Gives a connection a number.
    fn place(&mut self, free: Option<usize>, connection: ConnectionConfig) -> usize {
        match free.and_then(|number| Some((number, self.slots.get_mut(number)?))) {
            Some((number, slot)) => {
                *slot = connection;
                number
            }
            None => {
                self.slots.push(connection);
                self.slots.len() - 1
            }
        }
    }
}
