//! A peer's wish to rekey the IKE SA.

use std::collections::VecDeque;
use std::time::Instant;

use super::initiator::Rival;
use super::{Agreed, born, patience, spi_of, succeed, successor, with_spi};
use crate::crypto::{KeMethod, SharedSecret};
use crate::engine::api::{JobId, JobResult};
use crate::engine::channel::Channel;
use crate::engine::context::Context;
use crate::engine::crash;
use crate::engine::create_child_sa::collision::Lowest;
use crate::engine::create_child_sa::responder::Refused;
use crate::engine::established::{Established, Ours, Theirs};
use crate::engine::ike_followup_ke::Expected;
use crate::engine::ike_sa_init::InitPayloads;
use crate::engine::negotiation;
use crate::engine::sa::{Base, Done, Role, State};
use crate::message::{Payload, notify};
use crate::proposal::IkeProposal;

/// A request that waits for jobs.
#[derive(Debug)]
pub(in crate::engine) struct Answering {
    agreed: Agreed,
    /// Of the proposal.
    number: u8,
    step: Step,
    /// Secrets of the key exchanges that are done.
    shared: Vec<SharedSecret>,
    /// Additional key exchanges that are not.
    left: VecDeque<KeMethod>,
    /// The method of the one under way.
    method: KeMethod,
}

/// What it awaits.
#[derive(Debug)]
enum Step {
    /// Our public value.
    GeneratingKe { job: JobId, peer_public: Vec<u8> },
    /// The shared secret.
    DerivingKe { job: JobId, public: Vec<u8> },
    /// IKE_FOLLOWUP_KE.
    AwaitingFollowup(Expected),
}

impl Answering {
    /// What it is called in `transitions`.
    pub(in crate::engine) fn name(&self) -> &'static str {
        match self.step {
            Step::GeneratingKe { .. } => "Ike: generating our public value",
            Step::DerivingKe { .. } => "Ike: deriving the shared secret",
            Step::AwaitingFollowup(_) => "Ike: awaiting a follow-up request",
        }
    }

    /// Judges the request. It has been answered, or is left in `established.theirs`.
    pub(in crate::engine) fn begin(
        cx: &mut Context,
        base: &Base,
        established: &mut Established,
        payloads: &[Payload],
    ) {
        match Self::judge(cx, base, established, payloads) {
            Ok(answering) => {
                // Our own request need not leave any more.
                if matches!(&established.ours, Ours::RekeyingIke(rekeying) if !rekeying.has_left()) {
                    established.ours = Ours::Idle;
                }
                established.theirs = Some(Theirs::Ike(Box::new(answering)));
            }
            Err(refused) => refused.send(cx, base, &mut established.channel),
        }
    }

    fn judge(
        cx: &mut Context,
        base: &Base,
        established: &Established,
        payloads: &[Payload],
    ) -> Result<Self, Box<Refused>> {
        // RFC 7296 §2.25.2: not while it is being closed, and not with half-open children.
        if base.doomed || base.superseded.is_some() || established.has_half_open_children() {
            return Err(Refused::with(notify::TEMPORARY_FAILURE, Vec::new(), None));
        }
        let syntax = |missing| Refused::lacking(cx, base, missing);
        let found = InitPayloads::parse(payloads).map_err(syntax)?;
        let ours = cx.connection(base.connection).map(|c| c.proposals.as_slice()).unwrap_or_default();
        let (suite, number) =
            negotiation::choose_ike(ours, found.proposals, found.ke_method).map_err(|_| {
                let failure = base.about(cx).ike_proposal_mismatch(ours, found.proposals);
                Refused::with(notify::NO_PROPOSAL_CHOSEN, Vec::new(), Some(failure))
            })?;
        let spi_i = spi_of(found.proposals, number).ok_or("an initiator's SPI").map_err(syntax)?;
        if suite.ke.id() != found.ke_method {
            let wanted = suite.ke.id().to_be_bytes().to_vec();
            return Err(Refused::with(notify::INVALID_KE_PAYLOAD, wanted, None));
        }
        let wants_more =
            |proposal: &IkeProposal| proposal.additional.iter().any(|methods| !methods.is_empty());
        if matches!(&established.ours, Ours::RekeyingIke(rekeying) if rekeying.has_left())
            && ours.iter().any(wants_more)
        {
            return Err(Refused::with(notify::TEMPORARY_FAILURE, Vec::new(), None));
        }
        let (nonce_i, peer_public) = (found.nonce.to_vec(), found.ke_public.to_vec());
        let agreed = Agreed {
            role: Role::Responder,
            suite,
            spi_i,
            spi_r: cx.fresh_spi(),
            nonce_i,
            nonce_r: cx.random::<32>().to_vec(),
            tokens: Vec::new(),
        };
        let job = cx.answer_ke(base.id, suite.ke, peer_public.clone());
        let step = Step::GeneratingKe { job, peer_public };
        let left = suite.additional().collect();
        Ok(Self { agreed, number, step, shared: Vec::new(), left, method: suite.ke })
    }

    pub(in crate::engine) fn awaits(&self, id: JobId) -> bool {
        match &self.step {
            Step::GeneratingKe { job, .. } | Step::DerivingKe { job, .. } => *job == id,
            Step::AwaitingFollowup(_) => false,
        }
    }

    /// When the peer's next key exchange is no longer waited for.
    pub(in crate::engine) fn deadline(&self) -> Option<Instant> {
        match &self.step {
            Step::AwaitingFollowup(expected) => Some(expected.until),
            _ => None,
        }
    }

    /// Takes an IKE_FOLLOWUP_KE request; false if it is not the one that is awaited.
    pub(in crate::engine) fn follow_up(
        &mut self,
        cx: &mut Context,
        base: &Base,
        payloads: &[Payload],
    ) -> bool {
        let Step::AwaitingFollowup(expected) = &self.step else { return false };
        let taken = expected.take(cx, base, payloads, &mut self.left);
        let Some((method, job, peer_public)) = taken else { return false };
        self.method = method;
        self.step = Step::GeneratingKe { job, peer_public };
        true
    }

    /// Takes the job that it awaits. It has been answered, or is left in `established.theirs`.
    pub(in crate::engine) fn handle_job(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        established: &mut Established,
        done: Done,
    ) {
        match (self.step, done.result) {
            (Step::GeneratingKe { peer_public, .. }, JobResult::KeGenerated(Ok((secret, public)))) => {
                let job = cx.derive_ke(base.id, secret, peer_public);
                self.step = Step::DerivingKe { job, public };
                established.theirs = Some(Theirs::Ike(Box::new(self)));
            }
            (Step::DerivingKe { public, .. }, JobResult::KeDerived(Ok(shared))) => {
                let Agreed { suite, spi_r, .. } = self.agreed;
                let mut answer = Vec::new();
                if self.shared.is_empty() {
                    answer.push(Payload::Sa(with_spi(vec![suite.answer(self.number)], spi_r)));
                    answer.push(Payload::Nonce(self.agreed.nonce_r.clone()));
                }
                answer.push(Payload::Ke { method: self.method.id(), data: public });
                if self.shared.is_empty() {
                    let spis = (self.agreed.spi_i, spi_r);
                    answer.extend(crash::announce(cx, base.connection, spis));
                }
                self.shared.push(shared);
                if !self.left.is_empty() {
                    let (expected, link) = Expected::next(cx, now);
                    answer.push(link);
                    established.channel.respond(cx, base, answer);
                    self.step = Step::AwaitingFollowup(expected);
                    established.theirs = Some(Theirs::Ike(Box::new(self)));
                    return;
                }
                let (new, channel) =
                    successor(cx, base, &established.channel, now, &self.agreed, &self.shared);
                established.channel.respond(cx, base, answer);
                conclude(cx, base, now, established, &self.agreed, new, channel);
            }
            (Step::GeneratingKe { .. }, JobResult::KeGenerated(Err(error)))
            | (Step::DerivingKe { .. }, JobResult::KeDerived(Err(error))) => {
                let failure = base.about(cx).key_exchange(&error);
                let refused = Refused::with(notify::INVALID_SYNTAX, Vec::new(), Some(failure));
                refused.send(cx, base, &mut established.channel);
                established.take_held(cx, base, now);
            }
            (step, result) => {
                self.step = step;
                established.theirs = Some(Theirs::Ike(Box::new(self)));
                cx.discard(base.id, done.leaves, result);
            }
        }
    }
}

/// The request is answered: the new IKE SA has the children, unless our own request may still make another.
fn conclude(
    cx: &mut Context,
    base: &mut Base,
    now: Instant,
    established: &mut Established,
    agreed: &Agreed,
    mut new: Base,
    channel: Box<Channel>,
) {
    if let Ours::RekeyingIke(rekeying) = &mut established.ours {
        let nonces = Lowest::of(&agreed.nonce_i, &agreed.nonce_r);
        rekeying.crosses(Rival { id: new.id, nonces });
        new.superseded = Some(now + patience(&cx.config.retransmission));
        new.expectant = true;
        let state = Established::succeeding(cx, &new, now, channel);
        born(cx, new, State::Established(Box::new(state)), None);
        established.take_held(cx, base, now);
    } else {
        let estate = base.leave();
        succeed(cx, base, new, channel, now, estate);
        established.superseded(cx, base, now);
    }
}

impl Established {
    /// Takes the response to our own request that came while the peer's was being answered.
    fn take_held(&mut self, cx: &mut Context, base: &mut Base, now: Instant) {
        let held = match &mut self.ours {
            Ours::RekeyingIke(rekeying) => rekeying.held(),
            _ => None,
        };
        if let Some(payloads) = held
            && let Ours::RekeyingIke(rekeying) = std::mem::replace(&mut self.ours, Ours::Idle)
        {
            rekeying.handle_response(cx, base, now, self, payloads);
        }
    }
}
