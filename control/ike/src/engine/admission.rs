//! Requests that begin an IKE SA: whether there is room for one more, and what their senders have to show first.

use std::time::Instant;

use super::api::Event;
use super::channel::{digest, send};
use super::half_open::InitKey;
use super::ike_sa_init::puzzle::Demand;
use super::ike_sa_init::responder::{Admission, Answering, admit};
use super::sa::{Base, Inbound, Role};
use super::shard::Load;
use super::state::State;
use super::{Engine, IkeSa};
use crate::config::EngineConfig;
use crate::message::ExchangeType;

impl Engine {
    /// An IKE_SA_INIT or IKE_SESSION_RESUME request: a retransmission, or a new IKE SA, or neither.
    pub(super) fn handle_init_request(&mut self, now: Instant, inbound: Inbound<'_>) {
        let key = (inbound.path.remote, digest(inbound.octets));
        if let Some(sa) = self.half_open.get(&key).and_then(|id| self.sas.get(&id)) {
            if let Some(response) = sa.state.init_response() {
                send(&mut self.cx, inbound.path, &[response.to_vec()]);
            }
            return;
        }
        if self.cx.shard.is_alone() {
            let of_source = self.half_open.from(inbound.path.remote.ip());
            let load = Load { half_open: self.half_open.len(), of_source };
            self.admit_init(now, &inbound, key, load);
        } else {
            self.ask_for_room(now, &inbound, key);
        }
    }

    /// One that is no repetition. `load` is what all shards have.
    pub(super) fn admit_init(&mut self, now: Instant, inbound: &Inbound<'_>, key: InitKey, load: Load) {
        if let Some((label, detail)) = self.no_room(inbound, load) {
            return self.reject(inbound.path.remote, label, detail);
        }
        if inbound.header().exchange == ExchangeType::IkeSessionResume {
            return self.resume(now, inbound, load);
        }
        let demand = Demand::of(&self.cx.config, load.half_open, self.cx.admissions());
        match admit(&mut self.cx, &mut self.cookies, demand, now, inbound) {
            Admission::Admitted(admitted) => {
                let spis = (inbound.header().spi_i, self.cx.fresh_spi());
                let (id, path) = (self.cx.fresh_id(), inbound.path);
                let mut base = Base::new(id, Role::Responder, spis, path, admitted.connection, now);
                let state = State::Answering(Answering::begin(&mut self.cx, &mut base, admitted, inbound));
                self.half_open.insert(key, base.id);
                self.insert(now, IkeSa::boxed(base, state, Some(key)));
            }
            refused => self.not_admitted(inbound, refused),
        }
    }

    /// A request that makes no IKE SA.
    pub(super) fn not_admitted(&mut self, inbound: &Inbound<'_>, admission: Admission) {
        match admission {
            Admission::Admitted(_) => {}
            Admission::Answered(octets) => send(&mut self.cx, inbound.path, &[octets]),
            Admission::Refused(octets, failure) => {
                send(&mut self.cx, inbound.path, &[octets]);
                self.cx.event(Event::Failed(failure));
            }
            Admission::Dropped(label, detail) => self.reject(inbound.path.remote, label, detail),
        }
    }

    /// Why a new IKE SA cannot be begun now. The initiator will ask again, so that all of them come in at the rate at which
    /// they can be served.
    pub(super) fn no_room(&self, inbound: &Inbound<'_>, load: Load) -> Option<(&'static str, String)> {
        let EngineConfig { half_open_limit, block_threshold, .. } = *self.cx.config;
        let source = inbound.path.remote.ip();
        if let Some(detail) = too_large(inbound) {
            return Some(("oversized", detail));
        }
        if load.half_open >= half_open_limit {
            return Some(("half_open_limit", format!("{half_open_limit} IKE SAs are half-open already")));
        }
        if load.of_source >= block_threshold {
            let detail = format!("{block_threshold} IKE SAs of {source} are half-open already");
            return Some(("half_open_of_source", detail));
        }
        let admissions = self.cx.admissions();
        (admissions >= MAX_ADMISSIONS)
            .then(|| ("busy", format!("{admissions} key exchanges for new peers are under way")))
    }
}

/// Says so if a request is larger than any is kept.
pub(super) fn too_large(inbound: &Inbound<'_>) -> Option<String> {
    let octets = inbound.octets.len();
    (octets > MAX_INIT_LEN).then(|| format!("an IKE_SA_INIT request of {octets} octets"))
}

/// Octets of an IKE_SA_INIT request: several long public values and dozens of proposals fit. It is kept until IKE_AUTH.
pub(super) const MAX_INIT_LEN: usize = 16_384;
/// Key exchanges for peers that are not authenticated that may be under way at once. What is established never waits behind
/// more.
pub(super) const MAX_ADMISSIONS: usize = 256;
