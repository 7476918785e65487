//! What an engine that is one of several asks and tells the registry, and what it does when it is told something.

use std::sync::Arc;
use std::time::Instant;

use portcullis_ipsec::{Encapsulation, TunnelEndpoints};

use super::{Answer, Load, Note, Order, Peer, Question};
use crate::config::{EngineConfig, Unique};
use crate::engine::Engine;
use crate::engine::admission::too_large;
use crate::engine::api::{Command, Datagram, IkeSaId, JobId, JobResult};
use crate::engine::half_open::InitKey;
use crate::engine::ike_sa_init::puzzle::Demand;
use crate::engine::ike_sa_init::responder::{Admission, admit};
use crate::engine::index::Identities;
use crate::engine::path::Path;
use crate::engine::replacement::HANDOVER;
use crate::engine::sa::{Base, Inbound, Role};
use crate::message::{ExchangeType, Message};

/// Requests that may wait for the registry's word.
const ASKING: usize = 256;

/// A request that makes an IKE SA, if there is room for it.
#[derive(Debug)]
pub(in crate::engine) struct Asking {
    key: InitKey,
    path: Path,
    octets: Vec<u8>,
}

impl Base {
    /// Whose IKE SA it is, once both ends are authenticated.
    pub(in crate::engine) fn peer(&self) -> Option<Peer> {
        let unproven = self.is_unauthenticated();
        Some(Peer { identities: Arc::new(self.identities()?), unproven })
    }
}

impl Engine {
    /// The registry has something to say.
    pub fn handle_order(&mut self, now: Instant, order: Order) {
        match order {
            Order::InitialContact { number, peer, before } => {
                self.initial_contact(now, None, &peer.identities, before);
                self.settle(now);
                self.cx.tell(Note::Settled(number));
            }
            Order::Superseded { peer, connection, by } => {
                self.superseded_elsewhere(now, &peer.identities, &connection, by);
            }
            Order::Elsewhere { peer, elsewhere: true } => _ = self.cx.elsewhere.insert(peer.identities),
            Order::Elsewhere { peer, elsewhere: false } => _ = self.cx.elsewhere.remove(&peer.identities),
            Order::Hint { from, spi } => self.heed_hint(now, from, spi),
            Order::Stray(datagram) => self.handle_relayed(now, datagram),
        }
        self.settle(now);
    }

    /// Whether an IKE SA here is what a command is about that is for whoever has one.
    pub fn is_concerned(&self, command: &Command) -> bool {
        match command {
            Command::Initiate { connection, .. } | Command::Acquire { connection, .. } => {
                let found = self.cx.live_connections().find(|(_, config)| config.name == *connection);
                found.is_some_and(|(index, _)| {
                    let sas = self.cx.index.of_connection(index);
                    sas.iter().any(|id| self.sas.get(id).is_some_and(|sa| sa.serves(index)))
                })
            }
            Command::UnknownSpi { seen, .. } => self.serving(seen).is_some(),
            _ => false,
        }
    }

    /// The youngest IKE SA with a peer that ESP has come from.
    pub(in crate::engine) fn serving(&self, seen: &TunnelEndpoints) -> Option<IkeSaId> {
        let is_there = |base: &Base| match seen.encapsulation {
            Encapsulation::None => base.remote.ip() == seen.remote,
            Encapsulation::Udp { remote_port, .. } => {
                base.remote.ip() == seen.remote && base.remote.port() == remote_port
            }
            Encapsulation::Tcp { local_port, remote_port } => {
                base.path() == Path::tcp((seen.local, local_port).into(), (seen.remote, remote_port).into())
            }
        };
        let serves = |id: &IkeSaId| {
            let sa = self.sas.get(id);
            sa.is_some_and(|sa| sa.serves(sa.base.connection) && is_there(&sa.base))
        };
        self.cx.index.of_address(seen.remote).into_iter().rev().find(serves)
    }

    /// A request that makes an IKE SA: who is not let in as far as is known here takes no more of anybody's time; for the others
    /// the registry knows whether there is room.
    pub(in crate::engine) fn ask_for_room(&mut self, now: Instant, inbound: &Inbound<'_>, key: InitKey) {
        let remote = inbound.path.remote;
        if self.asking.values().any(|asking| asking.key == key) {
            return;
        }
        if let Some(detail) = too_large(inbound) {
            return self.reject(remote, "oversized", detail);
        }
        if self.asking.len() >= ASKING {
            return self.reject(remote, "busy", format!("{ASKING} requests wait for their turn"));
        }
        let EngineConfig { half_open_limit, cookie_threshold, .. } = *self.cx.config;
        let mut below = half_open_limit;
        if inbound.header().exchange != ExchangeType::IkeSessionResume {
            let demand = Demand::of(&self.cx.config, self.load.half_open, self.cx.admissions());
            match admit(&mut self.cx, &mut self.cookies, demand, now, inbound) {
                Admission::Admitted(_) if demand.is_none() => below = below.min(cookie_threshold),
                Admission::Admitted(_) => {}
                refused => return self.not_admitted(inbound, refused),
            }
        }
        self.ask(inbound, key, below);
    }

    fn ask(&mut self, inbound: &Inbound<'_>, key: InitKey, below: usize) {
        let of_source_below = self.cx.config.block_threshold;
        let question = Question::Room { source: key.0.ip(), below, of_source_below };
        let job = self.cx.ask(None, question);
        self.asking.insert(job, Asking { key, path: inbound.path, octets: inbound.octets.to_vec() });
    }

    /// The registry's word about a request; `false` if the job was another.
    pub(in crate::engine) fn room_given(&mut self, now: Instant, id: JobId, result: &JobResult) -> bool {
        if self.asking.is_empty() {
            return false;
        }
        let Some(Asking { key, path, octets }) = self.asking.remove(&id) else { return false };
        let (JobResult::Registry(answer), Ok(received)) = (result, Message::parse(&octets)) else {
            return true;
        };
        let Answer::Room(load, taken) = **answer else { return true };
        self.load = load;
        let inbound = Inbound { path, octets: &octets, received };
        match taken {
            true => self.take_place(now, &inbound, key, load),
            false => self.no_place(now, &inbound, key, load),
        }
        self.settle(now);
        true
    }

    fn take_place(&mut self, now: Instant, inbound: &Inbound<'_>, key: InitKey, load: Load) {
        let places = self.half_open.len();
        self.admit_init(now, inbound, key, load);
        if self.half_open.len() == places {
            self.cx.tell(Note::Left { source: key.0.ip() });
        }
    }

    /// It is too full, or fuller than was known here, so that more has to be shown.
    fn no_place(&mut self, now: Instant, inbound: &Inbound<'_>, key: InitKey, load: Load) {
        if let Some((label, detail)) = self.no_room(inbound, load) {
            return self.reject(inbound.path.remote, label, detail);
        }
        let demand = Demand::of(&self.cx.config, load.half_open, self.cx.admissions());
        match admit(&mut self.cx, &mut self.cookies, demand, now, inbound) {
            // It has shown it.
            Admission::Admitted(_) => self.ask(inbound, key, self.cx.config.half_open_limit),
            refused => self.not_admitted(inbound, refused),
        }
    }

    /// A place is free again.
    pub(in crate::engine) fn leave_half_open(&mut self, key: &InitKey) {
        self.half_open.remove(key);
        self.cx.tell(Note::Left { source: key.0.ip() });
    }

    /// An IKE SA has become its peer's. Of one that was asked about it is known.
    pub(in crate::engine) fn peer_came(&mut self, base: &mut Base) {
        if self.cx.shard.is_alone() {
            return;
        }
        if base.claim.take().is_none()
            && let Some(peer) = base.peer()
        {
            self.cx.tell(Note::Here(peer));
        }
    }

    /// One is gone, or was never let in.
    pub(in crate::engine) fn peer_went(&mut self, base: &mut Base, was_here: bool) {
        if self.cx.shard.is_alone() {
            return;
        }
        let peer = base.claim.take().or_else(|| base.peer().filter(|_| was_here));
        if let Some(peer) = peer {
            self.cx.tell(Note::Gone(peer));
        }
    }

    /// An IKE SA that we have begun takes the place of others, in other shards too.
    pub(in crate::engine) fn supersede_elsewhere(&mut self, new: IkeSaId) {
        if self.cx.shard.is_alone() {
            return;
        }
        let Some(base) = self.sas.get(&new).map(|sa| &sa.base) else { return };
        let config = self.cx.connection(base.connection).filter(|config| config.unique == Unique::Replace);
        let began = base.role == Role::Initiator;
        if let (Some(config), Some(peer), true) = (config, base.peer(), began) {
            let connection = config.name.clone();
            self.cx.tell(Note::Supersede { peer, connection, by: new });
        }
    }

    /// As [`Engine::authenticated`] does for an IKE SA of this shard.
    fn superseded_elsewhere(&mut self, now: Instant, identities: &Identities, connection: &str, by: IkeSaId) {
        let found = self.cx.live_connections().find(|(_, config)| config.name == connection);
        let Some((connection, _)) = found else { return };
        for id in self.cx.index.of_identities(identities) {
            if let Some(old) = self.sas.get_mut(&id).filter(|old| old.serves(connection)) {
                old.base.replaced_by = Some(by);
                old.base.authentication.end = Some(now + HANDOVER);
                self.nudge(now, id);
            }
        }
    }

    /// A message of which another shard does not know either.
    fn handle_relayed(&mut self, now: Instant, datagram: Datagram) {
        let Some((path, octets)) = Path::of(datagram) else { return };
        if let Ok(received) = Message::parse(&octets) {
            self.answer_stray(now, &Inbound { path, octets: &octets, received });
        }
    }
}
