//! CREATE_CHILD_SA as the initiator: one more child, or the successor of one.

use std::collections::VecDeque;
use std::time::Instant;

use portcullis_ipsec::Spi;

use super::collision::Lowest;
use crate::crypto::{KeMethod, KeSecret, SharedSecret};
use crate::engine::api::{Failure, JobId, JobResult};
use crate::engine::child::{self, Agreed, ChildPayloads, Offer, Refusal, Standing};
use crate::engine::children::Doomed;
use crate::engine::context::Context;
use crate::engine::established::{Established, Ours};
use crate::engine::ike_followup_ke::{self, Link, followed_up};
use crate::engine::ike_sa_init::{error_notification, notifications};
use crate::engine::resources;
use crate::engine::sa::{Base, Done};
use crate::message::{ExchangeType, Notify, Payload, Protocol, notify};

/// Unknown SPIs in Deletes that are remembered for the sake of a response that may be under way.
const MOST_DELETED: usize = 16;

/// What the exchange is for.
#[derive(Debug)]
pub(in crate::engine) enum Purpose {
    /// The child that is [`Base::goal`].
    Goal,
    Rekey(Rekey),
}

/// A CHILD SA that is to have a successor.
#[derive(Debug)]
pub(in crate::engine) struct Rekey {
    /// Our SPI of it.
    pub(in crate::engine) old: Spi,
    /// The child was terminated meanwhile: the successor is deleted as soon as it is up.
    pub(in crate::engine) unwanted: bool,
}

impl Purpose {
    pub(in crate::engine) fn rekey(old: Spi) -> Self {
        Self::Rekey(Rekey { old, unwanted: false })
    }

    /// The CHILD SA that is to be replaced.
    pub(in crate::engine) fn old(&self) -> Option<Spi> {
        match self {
            Self::Goal => None,
            Self::Rekey(rekey) => Some(rekey.old),
        }
    }

    /// The child is no longer wanted.
    pub(in crate::engine) fn terminate(&mut self) {
        if let Self::Rekey(rekey) = self {
            rekey.unwanted = true;
        }
    }
}

/// The exchange.
#[derive(Debug)]
pub(in crate::engine) struct Creating {
    pub(in crate::engine) purpose: Purpose,
    /// What the peer has deleted that we do not know: perhaps what its delayed response is about.
    deleted: Vec<Spi>,
    /// The nonces of the peer's own exchange to the same end.
    rival: Option<Lowest>,
    step: Step,
}

/// What it awaits.
#[derive(Debug)]
enum Step {
    /// Our inbound SPI.
    AllocatingSpi { job: JobId },
    /// Our public value.
    GeneratingKe { job: JobId, spi: Spi, method: KeMethod, tried: Vec<KeMethod> },
    /// The response.
    AwaitingResponse(AwaitingResponse),
    /// The shared secret. `link`: what the next IKE_FOLLOWUP_KE has to show.
    DerivingKe { job: JobId, keying: Keying, link: Link },
    /// Our public value of an additional key exchange.
    GeneratingFollowup { job: JobId, keying: Keying, link: Link, method: KeMethod },
    /// The IKE_FOLLOWUP_KE response.
    AwaitingFollowup { keying: Keying, method: KeMethod, secret: KeSecret },
}

/// What both ends have agreed on, whose keys are being made.
#[derive(Debug)]
struct Keying {
    agreed: Agreed,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
    /// Secrets of the key exchanges that are done.
    shared: Vec<SharedSecret>,
    /// Additional key exchanges that are not.
    left: VecDeque<KeMethod>,
}

#[derive(Debug)]
struct AwaitingResponse {
    offer: Offer,
    nonce: Vec<u8>,
    ke: Option<(KeMethod, KeSecret)>,
    tried: Vec<KeMethod>,
}

impl Creating {
    /// What it is called in `transitions`.
    pub(in crate::engine) fn name(&self) -> &'static str {
        match self.step {
            Step::AllocatingSpi { .. } => "Creating: allocating the SPI",
            Step::GeneratingKe { .. } => "Creating: generating our public value",
            Step::AwaitingResponse(_) => "Creating: awaiting the response",
            Step::DerivingKe { .. } => "Creating: deriving the shared secret",
            Step::GeneratingFollowup { .. } => "Creating: generating a further public value",
            Step::AwaitingFollowup { .. } => "Creating: awaiting the follow-up response",
        }
    }

    /// Begins. A child that is about to become [`Base::goal`] is [`Purpose::Goal`].
    pub(in crate::engine) fn begin(cx: &mut Context, base: &Base, purpose: Purpose) -> Self {
        let step = Step::AllocatingSpi { job: cx.allocate_spi(base.id) };
        Self { purpose, deleted: Vec::new(), rival: None, step }
    }

    pub(in crate::engine) fn awaits(&self, id: JobId) -> bool {
        match &self.step {
            Step::AllocatingSpi { job }
            | Step::GeneratingKe { job, .. }
            | Step::DerivingKe { job, .. }
            | Step::GeneratingFollowup { job, .. } => *job == id,
            Step::AwaitingResponse(_) | Step::AwaitingFollowup { .. } => false,
        }
    }

    /// Whether that half of the peer's is, or may be, what both have agreed on: the response may be under way.
    pub(in crate::engine) fn makes_half(&self, spi: Spi) -> bool {
        match &self.step {
            Step::AwaitingResponse(_) => true,
            Step::DerivingKe { keying, .. }
            | Step::GeneratingFollowup { keying, .. }
            | Step::AwaitingFollowup { keying, .. } => keying.agreed.peer == spi,
            Step::AllocatingSpi { .. } | Step::GeneratingKe { .. } => false,
        }
    }

    /// The peer has deleted something that we do not know.
    pub(in crate::engine) fn peer_deletes(&mut self, spi: Spi) {
        if self.deleted.len() < MOST_DELETED {
            self.deleted.push(spi);
        }
    }

    /// The peer rekeys the same CHILD SA, or asks for the same child, with these nonces. No rekeying crosses if our
    /// request has not left yet: then it never does.
    pub(in crate::engine) fn crosses(&mut self, base: &Base, old: Option<Spi>, child: usize, theirs: Lowest) {
        let has_left = !matches!(self.step, Step::AllocatingSpi { .. } | Step::GeneratingKe { .. });
        let same = match &self.purpose {
            Purpose::Goal => {
                let goal = base.goal.as_ref().filter(|goal| goal.flow.is_none() && goal.beside.is_none());
                old.is_none() && goal.is_some_and(|goal| goal.child == child)
            }
            Purpose::Rekey(rekey) => has_left && old == Some(rekey.old),
        };
        if same {
            self.rival = Some(theirs);
        }
    }

    /// Takes the job that this awaits; what follows is left in `established.ours`.
    pub(in crate::engine) fn handle_job(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        established: &mut Established,
        done: Done,
    ) {
        match (self.step, done.result) {
            (Step::AllocatingSpi { .. }, JobResult::SpiAllocated(Ok(spi))) => {
                base.reserved.push(spi);
                let method = first_method(cx, base, &self.purpose);
                let what = (self.purpose, self.rival);
                match method {
                    Some(method) => generate(cx, base, established, what, spi, method, Vec::new()),
                    None => request(cx, base, now, established, what, spi, None, Vec::new()),
                }
            }
            (Step::AllocatingSpi { .. }, JobResult::SpiAllocated(Err(error))) => {
                let failure = base.about(cx).not_installed(&name(cx, base, &self.purpose), &error);
                let refusal = Refusal { failure, delete: false };
                established.child_refused(cx, base, now, self.purpose, None, refusal);
            }
            (Step::GeneratingKe { spi, method, tried, .. }, JobResult::KeGenerated(Ok((secret, public)))) => {
                let ke = Some((method, secret, public));
                let what = (self.purpose, self.rival);
                request(cx, base, now, established, what, spi, ke, tried);
            }
            (Step::GeneratingKe { spi, .. }, JobResult::KeGenerated(Err(error))) => {
                let refusal = Refusal { failure: base.about(cx).key_exchange(&error), delete: false };
                established.child_refused(cx, base, now, self.purpose, Some(spi), refusal);
            }
            (Step::DerivingKe { mut keying, link, .. }, JobResult::KeDerived(Ok(shared))) => {
                keying.shared.push(shared);
                if let Some(method) = keying.left.pop_front() {
                    let job = cx.generate_ke(base.id, method);
                    self.step = Step::GeneratingFollowup { job, keying, link, method };
                    established.ours = Ours::Creating(self);
                } else {
                    let deleted = self.deleted.contains(&keying.agreed.peer);
                    conclude(cx, base, now, established, (self.purpose, self.rival), keying, deleted);
                }
            }
            (
                Step::GeneratingFollowup { keying, link, method, .. },
                JobResult::KeGenerated(Ok((secret, public))),
            ) => {
                ike_followup_ke::request(cx, base, now, established, (method, public), &link);
                self.step = Step::AwaitingFollowup { keying, method, secret };
                established.ours = Ours::Creating(self);
            }
            (Step::GeneratingFollowup { keying, .. }, JobResult::KeGenerated(Err(error))) => {
                let refusal = Refusal { failure: base.about(cx).key_exchange(&error), delete: false };
                keying.fail(cx, base, now, established, self.purpose, refusal);
            }
            (Step::DerivingKe { keying, .. }, JobResult::KeDerived(Err(error))) => {
                // The peer has it if it has answered the last key exchange.
                let delete = keying.left.is_empty();
                let refusal = Refusal { failure: base.about(cx).key_exchange(&error), delete };
                keying.fail(cx, base, now, established, self.purpose, refusal);
            }
            (step, result) => {
                self.step = step;
                established.ours = Ours::Creating(self);
                cx.discard(base.id, done.leaves, result);
            }
        }
    }

    /// Takes the response; what follows is left in `established.ours`.
    pub(in crate::engine) fn handle_response(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        established: &mut Established,
        payloads: &[Payload],
    ) {
        let state = match self.step {
            Step::AwaitingResponse(state) => state,
            Step::AwaitingFollowup { keying, method, secret } => {
                match followed_up(base.about(cx), payloads, method, !keying.left.is_empty()) {
                    Ok((public, link)) => {
                        let job = cx.derive_ke(base.id, secret, public);
                        self.step = Step::DerivingKe { job, keying, link };
                        established.ours = Ours::Creating(self);
                    }
                    // Whoever answers with an error has made nothing.
                    Err(failure) => {
                        let done = keying.left.is_empty() && error_notification(payloads).is_none();
                        keying.fail(
                            cx,
                            base,
                            now,
                            established,
                            self.purpose,
                            Refusal { failure, delete: done },
                        );
                    }
                }
                return;
            }
            step => {
                self.step = step;
                established.ours = Ours::Creating(self);
                return;
            }
        };
        let spi = state.offer.spi;
        if let Some(method) = state.other_group(cx, base, payloads) {
            let what = (self.purpose, None);
            return generate(cx, base, established, what, spi, method, state.tried);
        }
        if let Some(error) = refusal_of_the_moment(payloads) {
            base.release(cx, spi);
            return established.not_now(cx, base, now, self.purpose, error);
        }
        established.peer_is_busy_since = None;
        let method = state.ke.as_ref().map(|(method, _)| method.id());
        let agreed = match child::accept(cx, base, &state.offer, payloads, method) {
            Ok(agreed) => agreed,
            Err(refusal) => {
                return established.child_refused(cx, base, now, self.purpose, Some(spi), refusal);
            }
        };
        let found = ChildPayloads::parse(payloads).ok().flatten();
        let Some(nonce_r) = found.as_ref().and_then(|found| found.nonce) else {
            let failure = base.about(cx).missing("CREATE_CHILD_SA", "a nonce");
            let refusal = Refusal { failure, delete: true };
            return established.child_refused(cx, base, now, self.purpose, Some(spi), refusal);
        };
        let public = found.as_ref().and_then(|found| found.ke).map(|(_, public)| public.to_vec());
        let (nonce_i, nonce_r) = (state.nonce, nonce_r.to_vec());
        let left = agreed.suite.additional().collect();
        let keying = Keying { agreed, nonce_i, nonce_r, shared: Vec::new(), left };
        match (state.ke, public) {
            (Some((_, secret)), Some(public)) => {
                match Link::of_first(base.about(cx), payloads, !keying.left.is_empty()) {
                    Ok(link) => {
                        let job = cx.derive_ke(base.id, secret, public);
                        self.step = Step::DerivingKe { job, keying, link };
                        established.ours = Ours::Creating(self);
                    }
                    Err(failure) => {
                        let refusal = Refusal { failure, delete: false };
                        keying.fail(cx, base, now, established, self.purpose, refusal);
                    }
                }
            }
            _ => {
                let deleted = self.deleted.contains(&keying.agreed.peer);
                conclude(cx, base, now, established, (self.purpose, self.rival), keying, deleted);
            }
        }
    }
}

/// A refusal that is about the moment, not about what was asked for (RFC 7296 §2.25).
fn refusal_of_the_moment(payloads: &[Payload]) -> Option<u16> {
    notifications(payloads)
        .map(|notify| notify.notify_type)
        .find(|error| matches!(*error, notify::TEMPORARY_FAILURE | notify::CHILD_SA_NOT_FOUND))
}

/// Index of the child that the exchange is about.
fn config(base: &Base, purpose: &Purpose) -> Option<usize> {
    match purpose {
        Purpose::Goal => base.goal.as_ref().map(|goal| goal.child),
        Purpose::Rekey(rekey) => base.child(rekey.old).map(|child| child.config),
    }
}

fn name(cx: &Context, base: &Base, purpose: &Purpose) -> String {
    config(base, purpose).map(|child| cx.child_name(base.connection, child)).unwrap_or_default()
}

/// The group that we try first: that of the preferred proposal, if it has one.
fn first_method(cx: &Context, base: &Base, purpose: &Purpose) -> Option<KeMethod> {
    let child = cx.child(base.connection, config(base, purpose)?)?;
    let beside = match purpose {
        Purpose::Goal => base.goal.as_ref().and_then(|goal| goal.beside),
        Purpose::Rekey(_) => None,
    };
    match beside.and_then(|beside| base.fallback(beside)) {
        Some(like) => resources::proposals(child, &like.status).first()?.ke.first().copied(),
        None => child.esp_proposals.first()?.ke.first().copied(),
    }
}

fn generate(
    cx: &mut Context,
    base: &Base,
    established: &mut Established,
    (purpose, rival): (Purpose, Option<Lowest>),
    spi: Spi,
    method: KeMethod,
    mut tried: Vec<KeMethod>,
) {
    tried.push(method);
    let job = cx.generate_ke(base.id, method);
    let step = Step::GeneratingKe { job, spi, method, tried };
    established.ours = Ours::Creating(Box::new(Creating { purpose, deleted: Vec::new(), rival, step }));
}

#[expect(clippy::too_many_arguments, reason = "an exchange's whole state")]
fn request(
    cx: &mut Context,
    base: &mut Base,
    now: Instant,
    established: &mut Established,
    (purpose, rival): (Purpose, Option<Lowest>),
    spi: Spi,
    ke: Option<(KeMethod, KeSecret, Vec<u8>)>,
    tried: Vec<KeMethod>,
) {
    let offer = match &purpose {
        Purpose::Goal if base.goal_is_met() => {
            base.release(cx, spi);
            established.ours = Ours::Idle;
            return base.finish_goal(cx, Ok(()));
        }
        Purpose::Goal => base.goal.as_ref().and_then(|goal| Offer::new(cx, base, goal, spi, true)),
        // Not if the peer has rekeyed or deleted it while our jobs were under way.
        Purpose::Rekey(rekey) => base
            .child(rekey.old)
            .filter(|old| established.may_rekey(base, old))
            .and_then(|old| Offer::rekeying(cx, base, old, spi)),
    };
    let Some(offer) = offer else {
        base.release(cx, spi);
        established.ours = Ours::Idle;
        if matches!(purpose, Purpose::Goal) {
            let failure = base.about(cx).closed_early("no child is wanted any more");
            base.fail_goal(cx, failure);
        }
        return;
    };
    let nonce = cx.random::<32>().to_vec();
    let mut payloads = Vec::new();
    if let Some(old) = purpose.old() {
        payloads.push(Payload::Notify(Notify {
            protocol: Protocol::Esp,
            spi: old.get().to_be_bytes().to_vec(),
            notify_type: notify::REKEY_SA,
            data: Vec::new(),
        }));
    }
    payloads.extend([Payload::Sa(offer.proposals()), Payload::Nonce(nonce.clone())]);
    let ke = ke.map(|(method, secret, public)| {
        payloads.push(Payload::Ke { method: method.id(), data: public });
        (method, secret)
    });
    payloads.extend(offer.selector_payloads());
    established.channel.request(cx, base, now, ExchangeType::CreateChildSa, payloads);
    let step = Step::AwaitingResponse(AwaitingResponse { offer, nonce, ke, tried });
    established.ours = Ours::Creating(Box::new(Creating { purpose, deleted: Vec::new(), rival, step }));
}

/// Both ends have agreed, and there are keys. `deleted`: the peer has thought better of it already.
fn conclude(
    cx: &mut Context,
    base: &mut Base,
    now: Instant,
    established: &mut Established,
    (purpose, rival): (Purpose, Option<Lowest>),
    keying: Keying,
    deleted: bool,
) {
    let Keying { mut agreed, nonce_i, nonce_r, shared, .. } = keying;
    if deleted {
        base.release(cx, agreed.pair);
        return established.deleted_at_once(cx, base, purpose);
    }
    let there = purpose.old().is_some() || established.peer_makes(base, agreed.child);
    if let Some(rival) = rival.filter(|_| there) {
        if !Lowest::of(&nonce_i, &nonce_r).prevails_over(&rival) {
            agreed.standing = Standing::Redundant;
        } else if let Some(old) = purpose.old() {
            established.peers_successor_is_redundant(base, old);
        }
    }
    let keymat = child::keymat(&established.channel, &shared, &nonce_i, &nonce_r, &agreed);
    established.install(cx, base, now, purpose, agreed, &keymat);
}

impl Keying {
    /// It comes to nothing.
    fn fail(
        self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        established: &mut Established,
        purpose: Purpose,
        refusal: Refusal,
    ) {
        established.child_refused(cx, base, now, purpose, Some(self.agreed.pair), refusal);
    }
}

impl AwaitingResponse {
    /// The group that an INVALID_KE_PAYLOAD asks for, if we offered it and have not tried it.
    fn other_group(&self, cx: &Context, base: &Base, payloads: &[Payload]) -> Option<KeMethod> {
        let asked =
            notifications(payloads).find(|notify| notify.notify_type == notify::INVALID_KE_PAYLOAD)?;
        let wanted = asked.data.as_slice().try_into().map(u16::from_be_bytes).ok()?;
        let child = cx.child(base.connection, self.offer.child)?;
        let mut offered = child.esp_proposals.iter().flat_map(|proposal| proposal.ke.iter().copied());
        offered.find(|method| method.id() == wanted && !self.tried.contains(method))
    }
}

impl Established {
    /// The peer has deleted what it had just agreed to.
    pub(in crate::engine) fn deleted_at_once(&mut self, cx: &mut Context, base: &mut Base, purpose: Purpose) {
        self.ours = Ours::Idle;
        match purpose {
            Purpose::Goal => {
                let failure = base.about(cx).closed_early("the peer deleted the CHILD SA at once");
                base.fail_goal(cx, failure);
            }
            // At the peer the predecessor is only waiting for our Delete.
            Purpose::Rekey(rekey) => {
                if let Some(old) = base.remove_child(cx, rekey.old, "its successor was deleted by the peer") {
                    base.doom(Doomed { pair: rekey.old, peer: Some(old.status.spi_out) });
                }
            }
        }
    }

    /// The peer cannot do it now, or knows nothing of the CHILD SA (RFC 7296 §2.25).
    fn not_now(&mut self, cx: &mut Context, base: &mut Base, now: Instant, purpose: Purpose, error: u16) {
        self.ours = Ours::Idle;
        let missing = error == notify::CHILD_SA_NOT_FOUND;
        if !missing {
            self.peer_is_busy(cx, base, now);
        }
        match purpose {
            Purpose::Goal => self.try_again(cx, base, now, error),
            Purpose::Rekey(rekey) => {
                // Rekeyed or deleted by the peer meanwhile: then it is all the same.
                let Some(old) = base.child(rekey.old).filter(|old| self.may_rekey(base, old)) else { return };
                let config = old.config;
                if missing {
                    base.remove_child(cx, rekey.old, "the peer does not know it any more");
                    if !rekey.unwanted && !base.children.iter().any(|child| child.config == config) {
                        base.want(config);
                    }
                } else if let Some(mut schedule) = base.child(rekey.old).map(|old| old.schedule) {
                    schedule.put_off(cx, now);
                    if let Some(old) = base.child_mut(rekey.old) {
                        old.schedule = schedule;
                    }
                }
            }
        }
    }

    /// A child that is wanted waits until the peer is ready for it.
    fn try_again(&mut self, cx: &mut Context, base: &mut Base, now: Instant, error: u16) {
        if error == notify::CHILD_SA_NOT_FOUND {
            let failure: Failure = base.about(cx).refused("CHILD SA", error);
            return base.fail_goal(cx, failure);
        }
        self.hold_until = Some(now + crate::engine::lifetime::pause(cx, 0));
        if let Some(goal) = base.goal.take() {
            base.goals.push_front(goal);
        }
    }
}
