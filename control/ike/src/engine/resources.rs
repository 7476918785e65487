//! CHILD SAs of single workers (RFC 9611): beside a first one, which all workers share, those that seal the packets of one
//! worker each, so that a tunnel is not the work of one core.
//!
//! The first one is called the fallback. Those beside it have its selectors and its algorithms, and its policy; a worker that
//! would rather not hand its packets to another asks for one ([`Base::worker_asks`]), the peer asks for those of its own. Who
//! has asked does not matter afterwards: either end puts each to a worker of its own.

use std::time::{Duration, Instant};

use portcullis_ipsec::{InstallError, Spi};

use super::api::{ChildSaStatus, Failure, Resource};
use super::child::{Agreed, ChildPayloads, Choice};
use super::children::{Child, Doomed};
use super::context::Context;
use super::ike_sa_init::notification;
use super::negotiation;
use super::sa::{Base, Goal};
use super::selectors::Selectors;
use crate::config::ChildConfig;
use crate::message::{Payload, notify};
use crate::proposal::EspProposal;

/// After so long without traffic those beside a fallback are closed, if the child names no time of its own: their worker asks
/// again when it needs one (RFC 9611 §3: either end may delete those whose resource is idle).
pub(super) const IDLE: Duration = Duration::from_secs(300);

/// For how long no more are asked for once the peer has refused one.
const REFUSED: Duration = Duration::from_secs(300);
/// The same once it has deleted one, so that the two ends do not take turns (RFC 9611 §6).
const DELETED: Duration = Duration::from_secs(30);

/// One more CHILD SA like another, for one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beside {
    /// Our SPI of the one that all share, when this was asked for.
    fallback: Spi,
    pub(super) worker: u16,
}

/// SA_RESOURCE_INFO, in what makes a CHILD SA: that it is one of several, or may become so. It names no resource: which worker
/// has which packets is nobody else's affair (RFC 9611 §7).
pub(super) fn notification_of(resource: Resource) -> Option<Payload> {
    (resource != Resource::None).then(|| notification(notify::SA_RESOURCE_INFO, Vec::new()))
}

/// What is proposed for one more like that: its algorithms alone (RFC 9611 §3).
pub(super) fn proposals(config: &ChildConfig, like: &ChildSaStatus) -> Vec<EspProposal> {
    let mut proposals = negotiation::offered_esp(&config.esp_proposals, Some(like.algorithm));
    proposals.retain_mut(|proposal| {
        let has = proposal.encr.contains(&like.algorithm) && proposal.esn.contains(&like.esn);
        (proposal.encr, proposal.esn) = (vec![like.algorithm], vec![like.esn]);
        has
    });
    proposals
}

impl Child {
    pub(super) fn selectors(&self) -> Selectors {
        Selectors { local: self.status.local_ts.clone(), remote: self.status.remote_ts.clone() }
    }

    /// Whether the two are, or would be, of one group.
    fn goes_with(&self, config: usize, like: &ChildSaStatus) -> bool {
        self.config == config
            && self.status.local_ts == like.local_ts
            && self.status.remote_ts == like.remote_ts
    }

    fn is_fallback(&self) -> bool {
        self.status.resource == Resource::Fallback
    }
}

impl Base {
    /// The CHILD SA that all workers share, perhaps rekeyed since.
    pub(super) fn fallback(&self, beside: Beside) -> Option<&Child> {
        let named = self.child(beside.fallback);
        let heir = match named.and_then(|named| named.successor) {
            Some(successor) => self.child(successor),
            None => {
                named.or_else(|| self.children.iter().find(|child| child.replaces == Some(beside.fallback)))
            }
        };
        heir.filter(|child| child.is_fallback())
    }

    /// Those beside it, without those that have a successor.
    fn beside<'a>(&'a self, fallback: &'a Child) -> impl Iterator<Item = &'a Child> {
        let additional = self.children.iter().filter(|child| {
            child.status.resource.is_additional() && child.goes_with(fallback.config, &fallback.status)
        });
        additional.filter(|child| child.successor.is_none())
    }

    /// Whether it is a fallback that has others beside it.
    pub(super) fn has_beside(&self, child: &Child) -> bool {
        child.is_fallback() && self.beside(child).next().is_some()
    }

    fn has_worker(&self, fallback: &Child, worker: u16) -> bool {
        self.beside(fallback).any(|child| child.status.resource == Resource::Worker(worker))
    }

    /// Whether one more is still wanted: there is a fallback, and the worker has none.
    pub(super) fn is_wanted(&self, beside: Beside) -> bool {
        self.fallback(beside).is_some_and(|fallback| !self.has_worker(fallback, beside.worker))
    }

    /// A worker asks for a CHILD SA of its own beside the one of that pair.
    pub(super) fn worker_asks(&mut self, cx: &Context, now: Instant, pair: Spi, worker: u16) {
        let beside = Beside { fallback: pair, worker };
        let Some(fallback) = self.fallback(beside) else { return };
        let config = fallback.config;
        let Some(limits) = cx.child(self.connection, config).and_then(|config| config.per_worker) else {
            return;
        };
        let refused = fallback.no_more_until.is_some_and(|until| now < until);
        let wishes = self.goal.iter().chain(&self.goals).filter_map(|goal| goal.beside);
        let asked = wishes.clone().any(|wish| wish.worker == worker && self.is_same_group(wish, fallback));
        let under_way = wishes.filter(|wish| self.is_same_group(*wish, fallback)).count();
        let full = self.beside(fallback).count() + under_way >= usize::from(limits.most);
        if worker < limits.workers && !refused && !asked && !full && self.is_wanted(beside) {
            self.goals.push_back(Goal { beside: Some(beside), ..Goal::new(config) });
        }
    }

    fn is_same_group(&self, wish: Beside, fallback: &Child) -> bool {
        self.fallback(wish).is_some_and(|other| other.status.spi_in == fallback.status.spi_in)
    }

    /// The goal in hand has failed: if it was one more beside another, the peer is left alone for a while.
    pub(super) fn no_more_beside(&mut self, now: Instant) {
        let refused =
            self.goal.as_ref().and_then(|goal| goal.beside).and_then(|beside| self.fallback(beside));
        if let Some(pair) = refused.map(|fallback| fallback.status.spi_in) {
            self.hold(pair, now + REFUSED);
        }
    }

    /// The peer deletes a CHILD SA: if it was beside another, it had no use for it.
    pub(super) fn peer_needs_no(&mut self, pair: Spi, now: Instant) {
        let fallback = self.child(pair).filter(|child| child.status.resource.is_additional());
        let fallback = fallback.and_then(|child| self.fallback_of(child.config, &child.status));
        if let Some(pair) = fallback.map(|fallback| fallback.status.spi_in) {
            self.hold(pair, now + DELETED);
        }
    }

    fn hold(&mut self, pair: Spi, until: Instant) {
        if let Some(fallback) = self.child_mut(pair) {
            fallback.no_more_until = fallback.no_more_until.max(Some(until));
        }
        let of_group: Vec<Beside> = self.goals.iter().filter_map(|goal| goal.beside).collect();
        let of_group: Vec<Beside> = of_group
            .into_iter()
            .filter(|wish| self.fallback(*wish).is_some_and(|fallback| fallback.status.spi_in == pair))
            .collect();
        self.goals.retain(|goal| goal.beside.is_none_or(|wish| !of_group.contains(&wish)));
    }

    /// The fallback of a group, the newest if it is being rekeyed.
    fn fallback_of(&self, config: usize, like: &ChildSaStatus) -> Option<&Child> {
        let mut fallbacks = self.children.iter().rev().filter(|child| child.is_fallback());
        fallbacks.find(|child| child.goes_with(config, like))
    }

    /// As responder: what a CHILD SA is to be that the peer asks for, and whether it may be. `Err` is the notification to answer
    /// with, and the failure.
    pub(super) fn choose_resource(
        &self,
        cx: &Context,
        found: &ChildPayloads<'_>,
        replaces: Option<Spi>,
        choice: &mut Choice,
    ) -> Result<(), (u16, Failure)> {
        let asked = found.selectors_of_responder();
        if let Some(old) = replaces.and_then(|old| self.child(old)) {
            // RFC 9611 §3: bound to what its predecessor is bound to, whether or not the peer says so.
            let same = old.selectors();
            choice.resource = Resource::None;
            if old.config == choice.child && old.status.resource != Resource::None && same.within(&asked) {
                (choice.resource, choice.selectors) = (old.status.resource, same);
            }
            return Ok(());
        }
        if choice.resource != Resource::Fallback {
            return Ok(());
        }
        let mut fallbacks = self.children.iter().rev().filter(|child| child.is_fallback());
        let fallback =
            fallbacks.find(|child| child.config == choice.child && child.selectors().within(&asked));
        let config = cx.child(self.connection, choice.child);
        let (Some(fallback), Some(config)) = (fallback, config) else { return Ok(()) };
        let about = self.about(cx);
        let limits = config.per_worker.map_or((0, 0), |limits| (limits.workers, limits.most));
        let (workers, most) = limits;
        if self.beside(fallback).count() >= usize::from(most) {
            // Not NO_ADDITIONAL_SAS, which is about all children (RFC 9611 §6).
            return Err((notify::TS_MAX_QUEUE, about.too_many_for_workers(&choice.name, most)));
        }
        let status = &fallback.status;
        let suite = choice.esp.suite;
        if (suite.encr, suite.esn, choice.options.mode) != (status.algorithm, status.esn, status.mode) {
            let failure = about.other_algorithms(&choice.name, &status.proposal, &suite.to_string());
            return Err((notify::NO_PROPOSAL_CHOSEN, failure));
        }
        choice.selectors = fallback.selectors();
        choice.resource = self.free_worker(fallback, workers).map_or(Resource::Spare, Resource::Worker);
        Ok(())
    }

    /// A worker for what the peer has asked for: one that wants one, or else one that has none.
    fn free_worker(&self, fallback: &Child, workers: u16) -> Option<u16> {
        let of_group = |goal: &Goal| goal.beside.filter(|wish| self.is_same_group(*wish, fallback));
        let in_hand = self.goal.as_ref().and_then(of_group).map(|wish| wish.worker);
        let waiting = self.goals.iter().filter_map(of_group).map(|wish| wish.worker);
        let mut candidates = waiting.chain(0..workers);
        candidates.find(|worker| Some(*worker) != in_hand && !self.has_worker(fallback, *worker))
    }

    /// What is installed for a worker that has got another one meanwhile is installed for none; and there must be a fallback.
    pub(super) fn settle_resource(&self, agreed: &mut Agreed) -> Result<(), InstallError> {
        if !agreed.resource.is_additional() {
            return Ok(());
        }
        let gone = || InstallError::InvalidParameter {
            field: "the CHILD SA that all workers share",
            found: "none".to_owned(),
            expected: "one with the same selectors",
        };
        let fallback = self.shared_with(agreed).ok_or_else(gone)?;
        if let (Resource::Worker(worker), None) = (agreed.resource, agreed.replaces)
            && self.has_worker(fallback, worker)
        {
            agreed.resource = Resource::Spare;
        }
        Ok(())
    }

    /// The fallback whose policy what both ends have agreed on will have.
    pub(super) fn shared_with(&self, agreed: &Agreed) -> Option<&Child> {
        let Selectors { local, remote } = &agreed.selectors;
        let mut fallbacks = self.children.iter().filter(|child| {
            child.is_fallback() && child.config == agreed.child && agreed.resource.is_additional()
        });
        fallbacks.find(|child| child.status.local_ts == *local && child.status.remote_ts == *remote)
    }

    /// Closes what has no fallback any more: there is none without, and the peer is told.
    pub(super) fn close_orphans(&mut self, cx: &mut Context) {
        let orphan = |child: &&Child| {
            child.status.resource.is_additional() && self.fallback_of(child.config, &child.status).is_none()
        };
        let Some(pair) = self.children.iter().find(orphan).map(|child| child.status.spi_in) else { return };
        // The next one goes with it.
        if let Some(child) = self.remove_child(cx, pair, "the CHILD SA that all workers share is gone") {
            self.doom(Doomed { pair, peer: Some(child.status.spi_out) });
        }
    }
}
