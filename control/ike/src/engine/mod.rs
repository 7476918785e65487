//! The IKE engine: datagrams, commands, finished jobs and the time in; datagrams, timers, jobs and events out.
//!
//! ```text
//!   handle_datagram ─┐                      ┌─ poll_transmit
//!   handle_command  ─┤  Engine (no sockets, ├─ poll_timeout
//!   handle_job      ─┤  clocks, threads)    ├─ poll_job
//!   handle_timeout  ─┘                      └─ poll_event
//! ```
//!
//! After any `handle_*`, poll everything until it returns `None`.
//!
//! Start at `state`, which draws the states of an IKE SA (`sa` is what it has in all of them). Each state is a type that
//! is consumed by the message, job or timer that it awaits; `transitions` lists what may follow what. One file per
//! exchange and role: `ike_sa_init`, `ike_intermediate`, `ike_auth`, `create_child_sa`, `rekey_ike`, `ike_followup_ke`,
//! `informational`, `mobike`, `redirect`; `established` decides whose turn it is, `crossing` what may go on beside what,
//! `agenda` what is begun next. `channel` is what they share of message IDs and encryption, `childless` whether IKE_AUTH
//! makes a child, `addresses` what a peer is given out of our pools and what it gives us, `child` how a CHILD SA is
//! agreed on and installed, `children` what becomes of it. What the engine does of its own accord is in `upkeep` (who
//! brings a lost tunnel up again), `lifetime` (when SAs are replaced) and `replacement` (IKE SAs that take the place of
//! others), `reauthentication` (how long an end has proved itself for), `resumption` (IKE SAs that were lost); what an
//! operator asks in `commands`, what he is told in `failure`; that an end has lost its state is found by `crash`; another
//! configuration comes by `reconfigure`, and of several engines that share the work tells `shard`. New peers come in by
//! `admission`. Nothing looks at all IKE SAs: `index` finds the one that is meant.
//!
//! Where RFC 7296 leaves a choice:
//!
//! - An unauthenticated error does not end an IKE_SA_INIT at once (`ike_sa_init::initiator`).
//! - The responder computes the shared secret when IKE_AUTH arrives, not before (`ike_sa_init::responder`).
//! - A refused child leaves its IKE SA up, the first one too; only the command fails (`ike_auth::initiator`).
//! - The last answer of an IKE SA outlives it, for [`EngineConfig::half_open_timeout`], so that a peer whose copy
//!   was lost is not left to time out.
//! - Two IKE SAs whose initiations cross are treated as rekeyings that cross are (`replacement`).
//! - INITIAL_CONTACT ends the IKE SAs of the same two identities that were established before the one that it came
//!   with was begun; those established since may be the peer's own, crossing it.

mod actions;
mod addresses;
mod admission;
mod agenda;
mod api;
mod channel;
mod child;
mod childless;
mod children;
mod commands;
mod connections;
mod context;
mod crash;
mod create_child_sa;
mod crossing;
mod established;
mod failure;
mod half_open;
mod ike_auth;
mod ike_followup_ke;
mod ike_intermediate;
mod ike_sa_init;
mod index;
mod informational;
mod lifetime;
mod liveness;
mod mobike;
mod negotiation;
mod own_keys;
mod path;
mod reassembly;
mod reauthentication;
mod reconfigure;
mod redirect;
mod rekey_ike;
mod replacement;
mod resources;
mod resumption;
mod sa;
mod selectors;
mod shard;
mod state;
#[cfg(test)]
mod tests;
mod timers;
mod transitions;
mod upkeep;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portcullis_ipsec::Spi;

pub use crate::auth::Authorization;
pub use addresses::any_or_exactly;
pub use api::*;
pub use channel::exchange_name;
pub use failure::notify_name;
pub use path::Transport;
pub use reconfigure::{Change, Fate, changes};
pub use shard::{
    Answer, Claim, Claimed, Common, Load, MAX_SHARDS, Note, Order, Peer, Question, Reach, Registry, Routes,
    Shard, Word,
};

use crate::config::EngineConfig;
use crate::message::{ExchangeType, Header, Message, MessageError, notify};
use channel::{Linger, digest, send};
use context::{Context, Effect};
use crash::Strays;
use failure::About;
use half_open::{HalfOpen, InitKey};
use ike_sa_init::cookie::Cookies;
#[cfg(test)]
pub(crate) use ike_sa_init::responder::answer as init_answer;
use ike_sa_init::responder::answer;
use index::Keys;
use own_keys::OwnMap;
use path::Path;
use sa::{Base, Closed, Done, Goal, Inbound, Next};
use shard::Asking;
use state::State;
use timers::Timers;
use transitions::{Cause, Position};
use upkeep::Upkeep;

/// The engine. One thread owns it.
pub struct Engine {
    cx: Context,
    /// Boxed, so that the room that the map keeps free is not as large as they are.
    sas: OwnMap<IkeSaId, Box<IkeSa>>,
    /// Half-open IKE SAs by the request that made them and its source (RFC 7296 §2.1).
    half_open: HalfOpen,
    /// Last answers of IKE SAs that have ended, by our SPI, until the peer cannot want them again.
    lingering: HashMap<[u8; 8], Linger>,
    timers: Timers<Owner>,
    cookies: Cookies,
    upkeep: Upkeep,
    /// Children that packets may ask for since they were lost.
    trapped: HashSet<(usize, usize)>,
    strays: Strays,
    /// Requests that wait for the registry's word.
    asking: HashMap<JobId, Asking>,
    /// How full all shards were when that was last heard of.
    load: Load,
}

/// An IKE SA in its place.
#[derive(Debug)]
struct IkeSa {
    base: Base,
    state: State,
    /// Of a responder.
    init_key: Option<InitKey>,
    /// What the index finds it by.
    keys: Option<Keys>,
}

// There are as many as tunnels, and most of them are established: no other state may make all of them larger, and neither
// may an exchange of an established one.
const _: () = assert!(size_of::<State>() <= 264 && size_of::<established::Established>() <= 288);

/// Who waits for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Owner {
    Ike(IkeSaId),
    /// The next attempt at a child, by connection and child.
    Retry(usize, usize),
    Linger([u8; 8]),
    /// A CHILD SA that was replaced, and the IKE SA that it was of.
    Retired(IkeSaId, Spi),
}

impl IkeSa {
    /// One that the index does not know yet.
    fn boxed(base: Base, state: State, init_key: Option<InitKey>) -> Box<Self> {
        Box::new(Self { base, state, init_key, keys: None })
    }

    /// Whether it belongs to a connection: a responder's does once IKE_AUTH has said so.
    fn is_of(&self, connection: usize) -> bool {
        self.base.connection == connection && !self.state.half_open()
    }

    /// Whether it can take one more child of a connection.
    fn serves(&self, connection: usize) -> bool {
        self.is_of(connection)
            && !self.base.doomed
            && self.base.superseded.is_none()
            && self.base.replaced_by.is_none()
            && !matches!(self.state, State::Deleting(_))
    }
}

impl Engine {
    /// An engine without SAs. `rng` is its only source of randomness.
    pub fn new(config: EngineConfig, rng: Box<dyn rand_core::CryptoRng + Send>) -> Self {
        Self::sharded(config, rng, Shard::ALONE, None)
    }

    /// One of several that share the work, with a [`Registry`] beside them. All have the same configuration and the same
    /// `common`.
    pub fn sharded(
        config: EngineConfig,
        rng: Box<dyn rand_core::CryptoRng + Send>,
        shard: Shard,
        common: Option<Common>,
    ) -> Self {
        Self {
            cx: Context::new(config, rng, shard),
            sas: OwnMap::default(),
            half_open: HalfOpen::default(),
            lingering: HashMap::new(),
            timers: Timers::new(),
            cookies: Cookies::new(common),
            upkeep: Upkeep::default(),
            trapped: HashSet::new(),
            strays: Strays::of(shard),
            asking: HashMap::new(),
            load: Load::default(),
        }
    }

    /// Takes a datagram, or a message of a TCP stream, from the network.
    pub fn handle_datagram(&mut self, now: Instant, datagram: Datagram) {
        let Some((path, octets)) = Path::of(datagram) else { return };
        match Message::parse(&octets) {
            Ok(received) => {
                let inbound = Inbound { path, octets: &octets, received };
                let header = inbound.header();
                let begins =
                    matches!(header.exchange, ExchangeType::IkeSaInit | ExchangeType::IkeSessionResume);
                if begins && header.initiator && !header.response {
                    self.handle_init_request(now, inbound);
                } else {
                    self.handle_for_sa(now, inbound);
                }
            }
            Err(error) => self.handle_malformed(path, &octets, &error),
        }
        self.settle(now);
    }

    /// Takes a command; its [`Event::CommandDone`] carries the same id.
    pub fn handle_command(&mut self, now: Instant, id: CommandId, command: Command) {
        self.run_command(now, id, command);
        self.settle(now);
    }

    /// Takes the result of a job that [`Engine::poll_job`] gave out.
    pub fn handle_job(&mut self, now: Instant, id: JobId, result: JobResult) {
        if self.room_given(now, id, &result) {
            return;
        }
        let Some((owner, leaves)) = self.cx.job_done(id) else { return };
        let done = Done { id, leaves, result };
        if self.sas.contains_key(&owner) {
            self.step_on(Cause::Job, now, owner, |state, cx, base| state.handle_job(cx, base, now, done));
        } else {
            done.discard(&mut self.cx, owner);
        }
        self.settle(now);
    }

    /// Lets due timers fire.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(owner) = self.timers.expire(now) {
            match owner {
                Owner::Ike(id) => {
                    self.step_on(Cause::Timeout, now, id, |state, cx, base| {
                        state.handle_timeout(cx, base, now)
                    });
                }
                Owner::Retry(connection, child) => {
                    if self.upkeep.is_wanted(connection, child) {
                        self.bring_up(now, connection, Goal::new(child));
                    }
                }
                Owner::Linger(spi) => _ = self.lingering.remove(&spi),
                Owner::Retired(owner, pair) => self.cx.remove_child(owner, pair, None),
            }
            self.settle(now);
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Datagram> {
        self.cx.transmit.pop_front()
    }

    /// When [`Engine::handle_timeout`] must be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// The next job to be done elsewhere.
    pub fn poll_job(&mut self) -> Option<(JobId, Job)> {
        self.cx.poll_job()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.cx.events.pop_front()
    }

    /// Every IKE SA with its children, the oldest first.
    pub fn status(&self) -> Vec<IkeSaStatus> {
        let mut status: Vec<_> =
            self.sas.values().map(|sa| sa.base.status(&self.cx, sa.state.public())).collect();
        status.sort_by_key(|sa| sa.id);
        status
    }

    /// Who goes by the TCP stream between these addresses.
    pub fn stream_use(&self, local: SocketAddr, remote: SocketAddr) -> StreamUse {
        let ids = self.cx.index.of_stream(local, remote);
        let established = |id| match self.sas.get(id) {
            Some(sa) => sa.base.established.is_some(),
            None => false,
        };
        match ids.iter().any(established) {
            true => StreamUse::Established,
            false if ids.is_empty() => StreamUse::Unused,
            false => StreamUse::Connecting,
        }
    }

    /// Half-open IKE SAs that we answer for.
    pub fn half_open(&self) -> usize {
        self.half_open.len()
    }

    /// Any other message: by the SPI that is ours.
    fn handle_for_sa(&mut self, now: Instant, inbound: Inbound<'_>) {
        let header = inbound.header();
        let own_spi = if header.initiator { header.spi_r } else { header.spi_i };
        match self.cx.index.by_spi(&own_spi) {
            Some(id) => {
                let cause = Cause::of(header);
                self.step_on(cause, now, id, |state, cx, base| state.handle_message(cx, base, now, inbound));
            }
            None => match self.lingering.get(&own_spi) {
                Some(linger) if linger.digest == digest(inbound.octets) => {
                    send(&mut self.cx, inbound.path, &linger.datagrams);
                }
                _ => self.handle_stray(now, &inbound),
            },
        }
    }

    /// RFC 7296 §2.5: a higher version and an unknown critical payload are answered; everything else that cannot
    /// be read is not (§2.21.1).
    fn handle_malformed(&mut self, path: Path, octets: &[u8], error: &MessageError) {
        let label = match error {
            MessageError::Version { .. } => "version",
            _ => "malformed",
        };
        self.reject(path.remote, label, error.to_string());
        if let MessageError::Version { major: major @ 1, .. } = error {
            self.an_older_version(path.local, path.remote, *major);
        }
        let Ok((header, ..)) = Header::parse(octets) else { return };
        if header.response {
            return;
        }
        match error {
            MessageError::Version { major, .. } if *major > 2 => {
                let answer = answer(&header, notify::INVALID_MAJOR_VERSION, Vec::new());
                send(&mut self.cx, path, &[answer]);
            }
            MessageError::UnsupportedCritical { payload_type }
                if header.exchange == ExchangeType::IkeSaInit =>
            {
                let data = vec![*payload_type];
                send(&mut self.cx, path, &[answer(&header, notify::UNSUPPORTED_CRITICAL_PAYLOAD, data)]);
            }
            _ => {}
        }
    }

    /// It is not answered, but a peer of ours that speaks IKEv1 is a misconfiguration that somebody looks for.
    fn an_older_version(&mut self, local: SocketAddr, remote: SocketAddr, major: u8) {
        let candidates = connections::candidates(&self.cx, local.ip(), remote.ip());
        let Some(connection) = candidates.first().map(|index| self.cx.connection_name(*index)) else {
            return;
        };
        let about = About { connection: Some(connection), remote: Some(remote) };
        self.cx.event(Event::Failed(about.older_version(major)));
    }

    pub(super) fn reject(&mut self, remote: SocketAddr, label: &'static str, detail: String) {
        self.cx.event(Event::Rejected { remote, label, detail });
    }

    /// Lets one IKE SA take a step that we have decided on.
    fn step(&mut self, now: Instant, id: IkeSaId, step: impl FnOnce(State, &mut Context, &mut Base) -> Next) {
        self.step_on(Cause::Decision, now, id, step);
    }

    /// Lets one IKE SA take a step, and puts what it became in its place.
    fn step_on(
        &mut self,
        cause: Cause,
        now: Instant,
        id: IkeSaId,
        step: impl FnOnce(State, &mut Context, &mut Base) -> Next,
    ) {
        let Some(mut place) = self.sas.remove(&id) else { return };
        let IkeSa { mut base, state, init_key, keys } = *place;
        let from = Position::of(&state);
        match step(state, &mut self.cx, &mut base) {
            Ok(state) => {
                from.took(cause, Position::of(&state));
                let half_open = state.half_open();
                if let Some(key) = init_key.as_ref().filter(|_| !half_open) {
                    self.leave_half_open(key);
                }
                let init_key = init_key.filter(|_| half_open);
                // Back into the memory that it was in.
                *place = IkeSa { base, state, init_key, keys };
                self.insert(now, place);
            }
            Err(closed) => {
                from.took(cause, Position::CLOSED);
                if let Some(key) = init_key {
                    self.leave_half_open(&key);
                }
                self.cx.index.update(id, keys.as_ref(), None);
                let was_here = keys.is_some_and(|keys| keys.has_identities());
                // Behind what it leaves to others of the same peer.
                let (base, closed) = (&mut base, *closed);
                self.bury(now, base, closed);
                self.peer_went(base, was_here);
            }
        }
    }

    /// Lets an established IKE SA start what waits.
    fn nudge(&mut self, now: Instant, id: IkeSaId) {
        self.step(now, id, |state, cx, base| match state {
            State::Established(established) => established.pump(cx, base, now),
            state => Ok(state),
        });
    }

    fn insert(&mut self, now: Instant, mut sa: Box<IkeSa>) {
        if let Some(deadline) = sa.state.deadline(&self.cx, &sa.base) {
            // Never in the past: a state that cannot act on its deadline must not keep the engine from all else.
            self.timers.arm(Owner::Ike(sa.base.id), deadline.max(now + TICK));
        }
        if !sa.keys.as_ref().is_some_and(|keys| keys.are_of(&sa.base, &sa.state)) {
            let keys = Keys::of(&sa.base, &sa.state);
            if keys.has_identities() && !sa.keys.as_ref().is_some_and(Keys::has_identities) {
                self.peer_came(&mut sa.base);
            }
            self.cx.index.update(sa.base.id, sa.keys.as_ref(), Some(&keys));
            sa.keys = Some(keys);
        }
        self.sas.insert(sa.base.id, sa);
    }

    fn bury(&mut self, now: Instant, base: &mut Base, closed: Closed) {
        base.close(&mut self.cx, &closed);
        self.replacement_ended(now, base);
        self.timers.disarm(Owner::Ike(base.id));
        if let Some(linger) = closed.linger
            && self.lingering.len() < self.cx.shard.share(self.cx.config.half_open_limit)
        {
            self.lingering.insert(base.own_spi(), linger);
            self.timers.arm(Owner::Linger(base.own_spi()), now + self.cx.config.half_open_timeout);
        }
    }

    /// Carries out what the last step means for others.
    fn settle(&mut self, now: Instant) {
        while let Some(effect) = self.cx.effects.pop_front() {
            match effect {
                Effect::ChildUp { connection, child, remote } => {
                    self.upkeep.up(connection, child);
                    self.give_way(now, connection, child, remote);
                    self.end_if_outdated_child(now, connection, child);
                }
                Effect::ChildDown { connection, child, refused, loss } => {
                    if let Some(loss) = loss {
                        self.lost(connection, child, loss);
                    }
                    let [dice] = self.cx.random();
                    if let Some(delay) = self.upkeep.down(connection, child, refused, dice) {
                        self.timers.arm(Owner::Retry(connection, child), now + delay);
                    }
                }
                Effect::InitialContact { kept, identities, before } => {
                    self.initial_contact(now, Some(kept), &identities, before);
                }
                Effect::AssignAddresses { id } => self.step(now, id, |mut state, cx, base| {
                    if let State::Established(established) = &mut state {
                        established.assign_addresses(cx, base);
                    }
                    Ok(state)
                }),
                Effect::Resumed { old } => {
                    self.step(now, old, |_, _, _| Err(Closed::because("the peer has resumed it")));
                }
                Effect::Authenticated { id } => {
                    self.authenticated(now, id);
                    self.end_if_outdated(now, id);
                }
                Effect::Born { base, state, replaced } => {
                    let id = base.id;
                    self.insert(now, IkeSa::boxed(*base, *state, None));
                    if let Some(replaced) = replaced {
                        self.rename(replaced, id);
                    }
                    self.nudge(now, id);
                }
                Effect::Inherit { from, heir, estate } => self.inherit(now, from, heir, *estate),
                Effect::Probe { id } => {
                    self.step(now, id, |mut state, _, _| {
                        if let State::Established(established) = &mut state {
                            established.suspect();
                        }
                        Ok(state)
                    });
                    self.nudge(now, id);
                }
                Effect::Retired { owner, pair } => {
                    self.timers.arm(Owner::Retired(owner, pair), now + lifetime::GRACE);
                }
                Effect::Reauthenticate { old } => self.reauthenticate(now, old, None),
                Effect::Redirected { old, redirect } => self.reauthenticate(now, old, Some(&redirect)),
                Effect::Follow { connection, goals, redirect } => {
                    self.follow(now, connection, goals, &redirect);
                }
                Effect::Complete { id } => self.replace(now, id),
                Effect::BeginAgain { connection, mut children } => {
                    children.retain(|child| self.upkeep.is_wanted(connection, *child));
                    for child in children {
                        let goal = Goal::new(child);
                        self.bring_up(now, connection, goal);
                    }
                }
            }
        }
    }
}

/// The shortest time that the engine asks to be left alone.
const TICK: Duration = Duration::from_millis(1);

#[cfg(test)]
impl Engine {
    /// Other users of EAP than those of the start.
    fn set_users(&mut self, users: std::sync::Arc<[crate::auth::eap::UserSecret]>) {
        std::sync::Arc::make_mut(&mut self.cx.config).users = users;
    }

    /// The index says what the SAs say.
    fn assert_consistent(&self) {
        let mut index = index::Index::default();
        for (id, sa) in &self.sas {
            index.update(*id, None, Some(&Keys::of(&sa.base, &sa.state)));
            for child in &sa.base.children {
                index.has_pair(child.status.spi_in, *id);
            }
        }
        assert_eq!(self.cx.index, index);
    }
}
