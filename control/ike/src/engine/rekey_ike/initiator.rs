//! Rekeying an IKE SA of our own accord.

use std::collections::VecDeque;
use std::time::Instant;

use super::{Agreed, born, spi_of, succeed, successor, with_spi};
use crate::crypto::{KeMethod, KeSecret, SharedSecret};
use crate::engine::api::{Event, Failure, IkeSaId, JobId, JobResult};
use crate::engine::context::{Context, Effect};
use crate::engine::crash;
use crate::engine::create_child_sa::collision::Lowest;
use crate::engine::established::{Established, Ours, Theirs};
use crate::engine::ike_followup_ke::{self, Link, followed_up};
use crate::engine::ike_sa_init::{InitPayloads, error_notification};
use crate::engine::informational::Deleting;
use crate::engine::negotiation;
use crate::engine::sa::{Base, Done, Next, Role};
use crate::engine::state::State;
use crate::message::{ExchangeType, Payload, notify};
use crate::proposal::accepted_ike;

/// The exchange.
#[derive(Debug)]
pub(in crate::engine) struct Rekeying {
    step: Step,
    rival: Option<Rival>,
    /// Secrets of the key exchanges that are done.
    shared: Vec<SharedSecret>,
    /// Additional key exchanges that are not.
    left: VecDeque<KeMethod>,
}

/// The IKE SA that the peer has made to the same end.
#[derive(Debug)]
pub(in crate::engine) struct Rival {
    pub(in crate::engine) id: IkeSaId,
    pub(in crate::engine) nonces: Lowest,
}

/// What is awaited.
#[derive(Debug)]
enum Step {
    /// Our public value.
    GeneratingKe { job: JobId, method: KeMethod, tried: Vec<KeMethod> },
    /// The response.
    AwaitingResponse(AwaitingResponse),
    /// The shared secret. `link`: what the next IKE_FOLLOWUP_KE has to show.
    DerivingKe { job: JobId, agreed: Agreed, link: Link },
    /// Our public value of an additional key exchange.
    GeneratingFollowup { job: JobId, agreed: Agreed, link: Link, method: KeMethod },
    /// The IKE_FOLLOWUP_KE response.
    AwaitingFollowup { agreed: Agreed, method: KeMethod, secret: KeSecret },
}

#[derive(Debug)]
struct AwaitingResponse {
    spi: [u8; 8],
    nonce: Vec<u8>,
    method: KeMethod,
    secret: KeSecret,
    tried: Vec<KeMethod>,
    /// The response, until the peer's own request is answered: what it means depends on that.
    held: Option<Vec<Payload>>,
}

impl Rekeying {
    /// What it is called in `transitions`.
    pub(in crate::engine) fn name(&self) -> &'static str {
        match self.step {
            Step::GeneratingKe { .. } => "RekeyingIke: generating our public value",
            Step::AwaitingResponse(_) => "RekeyingIke: awaiting the response",
            Step::DerivingKe { .. } => "RekeyingIke: deriving the shared secret",
            Step::GeneratingFollowup { .. } => "RekeyingIke: generating a further public value",
            Step::AwaitingFollowup { .. } => "RekeyingIke: awaiting the follow-up response",
        }
    }

    /// Begins; `None` without a proposal to make.
    pub(in crate::engine) fn begin(cx: &mut Context, base: &Base) -> Option<Self> {
        let method = *cx.connection(base.connection)?.proposals.first()?.ke.first()?;
        Some(Self::generate(cx, base, method, Vec::new(), None))
    }

    fn generate(
        cx: &mut Context,
        base: &Base,
        method: KeMethod,
        mut tried: Vec<KeMethod>,
        rival: Option<Rival>,
    ) -> Self {
        tried.push(method);
        let job = cx.generate_ke(base.id, method);
        let step = Step::GeneratingKe { job, method, tried };
        Self { step, rival, shared: Vec::new(), left: VecDeque::new() }
    }

    /// Whether the peer may know of it.
    pub(in crate::engine) fn has_left(&self) -> bool {
        !matches!(self.step, Step::GeneratingKe { .. })
    }

    pub(in crate::engine) fn awaits(&self, id: JobId) -> bool {
        match &self.step {
            Step::GeneratingKe { job, .. }
            | Step::DerivingKe { job, .. }
            | Step::GeneratingFollowup { job, .. } => *job == id,
            Step::AwaitingResponse(_) | Step::AwaitingFollowup { .. } => false,
        }
    }

    /// The SPI that the new IKE SA will have here.
    pub(in crate::engine) fn offered_spi(&self) -> Option<[u8; 8]> {
        match &self.step {
            Step::GeneratingKe { .. } => None,
            Step::AwaitingResponse(awaiting) => Some(awaiting.spi),
            Step::DerivingKe { agreed, .. }
            | Step::GeneratingFollowup { agreed, .. }
            | Step::AwaitingFollowup { agreed, .. } => Some(agreed.spi_i),
        }
    }

    /// The peer's own exchange has made another IKE SA.
    pub(in crate::engine) fn crosses(&mut self, rival: Rival) {
        self.rival = Some(rival);
    }

    /// The IKE SA that the peer's own exchange has made.
    pub(in crate::engine) fn rival(&self) -> Option<IkeSaId> {
        self.rival.as_ref().map(|rival| rival.id)
    }

    /// The response that waits for the peer's own request to be answered.
    pub(in crate::engine) fn held(&mut self) -> Option<Vec<Payload>> {
        match &mut self.step {
            Step::AwaitingResponse(state) => state.held.take(),
            _ => None,
        }
    }

    /// Takes the job that this awaits.
    pub(in crate::engine) fn handle_job(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        mut established: Box<Established>,
        done: Done,
    ) -> Next {
        match (self.step, done.result) {
            (Step::GeneratingKe { method, tried, .. }, JobResult::KeGenerated(Ok((secret, public)))) => {
                self.step = request(cx, base, now, &mut established, method, secret, public, tried);
                established.ours = Ours::RekeyingIke(self);
                established.pump(cx, base, now)
            }
            (
                Step::GeneratingKe { .. } | Step::GeneratingFollowup { .. },
                JobResult::KeGenerated(Err(error)),
            )
            | (Step::DerivingKe { .. }, JobResult::KeDerived(Err(error))) => {
                let failure = base.about(cx).key_exchange(&error);
                established.ike_not_rekeyed(cx, base, now, self.rival, Some(failure));
                established.pump(cx, base, now)
            }
            (Step::DerivingKe { agreed, link, .. }, JobResult::KeDerived(Ok(shared))) => {
                self.shared.push(shared);
                let Some(method) = self.left.pop_front() else {
                    return conclude(cx, base, now, established, &agreed, &self.shared, self.rival);
                };
                let job = cx.generate_ke(base.id, method);
                self.step = Step::GeneratingFollowup { job, agreed, link, method };
                established.ours = Ours::RekeyingIke(self);
                established.pump(cx, base, now)
            }
            (
                Step::GeneratingFollowup { agreed, link, method, .. },
                JobResult::KeGenerated(Ok((secret, public))),
            ) => {
                ike_followup_ke::request(cx, base, now, &mut established, (method, public), &link);
                self.step = Step::AwaitingFollowup { agreed, method, secret };
                established.ours = Ours::RekeyingIke(self);
                established.pump(cx, base, now)
            }
            (step, result) => {
                self.step = step;
                established.ours = Ours::RekeyingIke(self);
                cx.discard(base.id, done.leaves, result);
                Ok(State::Established(established))
            }
        }
    }

    /// Takes the response.
    pub(in crate::engine) fn handle_response(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        established: &mut Established,
        payloads: Vec<Payload>,
    ) {
        let mut state = match self.step {
            Step::AwaitingResponse(state) => state,
            Step::AwaitingFollowup { agreed, method, secret } => {
                match followed_up(base.about(cx), &payloads, method, !self.left.is_empty()) {
                    Ok((public, link)) => {
                        let job = cx.derive_ke(base.id, secret, public);
                        self.step = Step::DerivingKe { job, agreed, link };
                        established.ours = Ours::RekeyingIke(self);
                    }
                    Err(failure) => established.ike_not_rekeyed(cx, base, now, self.rival, Some(failure)),
                }
                return;
            }
            step => {
                self.step = step;
                established.ours = Ours::RekeyingIke(self);
                return;
            }
        };
        if matches!(established.theirs, Some(Theirs::Ike(_))) {
            state.held = Some(payloads);
            self.step = Step::AwaitingResponse(state);
            established.ours = Ours::RekeyingIke(self);
            return;
        }
        if let Some(error) = error_notification(&payloads) {
            let proposals = cx.connection(base.connection).map(|c| c.proposals.clone()).unwrap_or_default();
            let failure = match error.notify_type {
                notify::INVALID_KE_PAYLOAD => {
                    let wanted = error.data.as_slice().try_into().map_or(0, u16::from_be_bytes);
                    let offered = || proposals.iter().flat_map(|proposal| proposal.ke.iter().copied());
                    let method = offered().find(|method| method.id() == wanted);
                    if let (Some(method), None) =
                        (method.filter(|method| !state.tried.contains(method)), &self.rival)
                    {
                        let again = Self::generate(cx, base, method, state.tried, self.rival);
                        established.ours = Ours::RekeyingIke(Box::new(again));
                        return;
                    }
                    Some(base.about(cx).group_refused(wanted, &proposals))
                }
                notify::TEMPORARY_FAILURE => {
                    established.peer_is_busy(cx, base, now);
                    None
                }
                notify::NO_PROPOSAL_CHOSEN => Some(base.about(cx).ike_proposal_refused(&proposals)),
                // RFC 7296 §4: a peer that cannot rekey at all takes a new IKE SA in its place.
                notify::NO_ADDITIONAL_SAS => {
                    if base.original_initiator {
                        base.authentication.bring_forward(now);
                    }
                    None
                }
                other => Some(base.about(cx).refused("CREATE_CHILD_SA", other)),
            };
            return established.ike_not_rekeyed(cx, base, now, self.rival, failure);
        }
        established.peer_is_busy_since = None;
        match state.accept(cx, base, &payloads) {
            Ok((agreed, peer_public)) => {
                self.left = agreed.suite.additional().collect();
                match Link::of_first(base.about(cx), &payloads, !self.left.is_empty()) {
                    Ok(link) => {
                        let job = cx.derive_ke(base.id, state.secret, peer_public);
                        self.step = Step::DerivingKe { job, agreed, link };
                        established.ours = Ours::RekeyingIke(self);
                    }
                    Err(failure) => established.ike_not_rekeyed(cx, base, now, self.rival, Some(failure)),
                }
            }
            Err(failure) => established.ike_not_rekeyed(cx, base, now, self.rival, Some(failure)),
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "an exchange's whole state")]
fn request(
    cx: &mut Context,
    base: &Base,
    now: Instant,
    established: &mut Established,
    method: KeMethod,
    secret: KeSecret,
    public: Vec<u8>,
    tried: Vec<KeMethod>,
) -> Step {
    let (spi, nonce) = (cx.fresh_spi(), cx.random::<32>().to_vec());
    let offer = cx.connection(base.connection).map(|c| negotiation::offer_ike(&c.proposals));
    let payloads = vec![
        Payload::Sa(with_spi(offer.unwrap_or_default(), spi)),
        Payload::Nonce(nonce.clone()),
        Payload::Ke { method: method.id(), data: public },
    ];
    established.channel.request(cx, base, now, ExchangeType::CreateChildSa, payloads);
    Step::AwaitingResponse(AwaitingResponse { spi, nonce, method, secret, tried, held: None })
}

impl AwaitingResponse {
    /// What was agreed on, and the peer's public value.
    fn accept(&self, cx: &Context, base: &Base, payloads: &[Payload]) -> Result<(Agreed, Vec<u8>), Failure> {
        let about = base.about(cx);
        let missing = |what| about.missing("CREATE_CHILD_SA", what);
        let found = InitPayloads::parse(payloads).map_err(missing)?;
        let ours = cx.connection(base.connection).map(|c| c.proposals.as_slice()).unwrap_or_default();
        let suite = accepted_ike(ours, found.proposals).map_err(|why| about.ike_proposal_not_ours(&why))?;
        if suite.ke != self.method || found.ke_method != suite.ke.id() {
            return Err(about.ike_proposal_not_ours(&"its KE payload is of another group"));
        }
        let number = found.proposals.first().map_or(0, |proposal| proposal.number);
        let spi_r = spi_of(found.proposals, number).ok_or("a responder's SPI").map_err(missing)?;
        let agreed = Agreed {
            role: Role::Initiator,
            suite,
            spi_i: self.spi,
            spi_r,
            nonce_i: self.nonce.clone(),
            nonce_r: found.nonce.to_vec(),
            tokens: crash::found(payloads).collect(),
        };
        Ok((agreed, found.ke_public.to_vec()))
    }
}

/// There are keys: the children go to this IKE SA, or to the peer's.
fn conclude(
    cx: &mut Context,
    base: &mut Base,
    now: Instant,
    mut established: Box<Established>,
    agreed: &Agreed,
    shared: &[SharedSecret],
    rival: Option<Rival>,
) -> Next {
    let (mut new, channel) = successor(cx, base, &established.channel, now, agreed, shared);
    let ours = Lowest::of(&agreed.nonce_i, &agreed.nonce_r);
    let Some(rival) = rival.filter(|rival| !ours.prevails_over(&rival.nonces)) else {
        let estate = base.leave();
        succeed(cx, base, new, channel, now, estate);
        return Ok(Deleting::begin(cx, base, now, established.channel, "rekeyed"));
    };
    let state = Deleting::begin(cx, &mut new, now, channel, "redundant after a collision");
    born(cx, new, state, None);
    if !cx.index.has(rival.id) {
        // It had the children at the peer's end, and was deleted with them.
        let reason = "deleted by the peer";
        base.remove_children(cx, reason);
        base.abandon_goals(cx, &base.about(cx).closed_early(reason));
        base.children_deleted(cx);
    }
    established.yield_to(cx, base, now, rival.id);
    established.pump(cx, base, now)
}

impl Established {
    /// What the peer has made prevails, and has the children from now on.
    fn yield_to(&mut self, cx: &mut Context, base: &mut Base, now: Instant, heir: IkeSaId) {
        self.ours = Ours::Idle;
        if cx.index.has(heir) || cx.is_being_born(heir) {
            base.heir = Some(heir);
            let estate = Box::new(base.leave());
            cx.effects.push_back(Effect::Inherit { from: base.id, heir, estate });
        }
        self.superseded(cx, base, now);
    }

    /// Our request came to nothing: the peer's own has made an IKE SA, or we try again later.
    fn ike_not_rekeyed(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        rival: Option<Rival>,
        failure: Option<Failure>,
    ) {
        self.ours = Ours::Idle;
        match rival.filter(|rival| cx.index.has(rival.id) || cx.is_being_born(rival.id)) {
            Some(rival) => self.yield_to(cx, base, now, rival.id),
            None => {
                self.schedule.put_off(cx, now);
                if let Some(failure) = failure {
                    cx.event(Event::Failed(failure));
                }
            }
        }
    }
}
