//! A peer's wish for a child: the second half of IKE_AUTH, and CREATE_CHILD_SA. The inbound SA is in the data plane
//! before the answer leaves, because the answer lets the peer send.

use std::collections::VecDeque;
use std::time::Instant;

use portcullis_ipsec::{InstallError, Spi};

use super::collision::Lowest;

use crate::crypto::{KeMethod, SharedSecret};
use crate::engine::api::{Event, Failure, JobId, JobResult};
use crate::engine::channel::Channel;
use crate::engine::child::{self, Agreed, ChildPayloads, Choice, Installing, Standing};
use crate::engine::children::Doomed;
use crate::engine::context::Context;
use crate::engine::established::{Established, Ours, Theirs};
use crate::engine::ike_followup_ke::Expected;
use crate::engine::ike_sa_init::{notification, notifications};
use crate::engine::rekey_ike::patience;
use crate::engine::sa::{Base, Done};
use crate::message::{Notify, Payload, Protocol, notify};

/// A request about a CHILD SA that waits for jobs.
#[derive(Debug)]
pub(in crate::engine) struct Answering {
    request: Request,
    step: Step,
}

/// What it asks for, and how far we are.
#[derive(Debug)]
struct Request {
    /// It is the IKE_AUTH request.
    first: bool,
    /// IDr and AUTH of the IKE_AUTH response.
    authentication: Vec<Payload>,
    /// Our KE payload of the key exchange under way.
    ke: Option<Payload>,
    choice: Choice,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
    /// Secrets of the key exchanges that are done.
    shared: Vec<SharedSecret>,
    /// Additional key exchanges that are not.
    left: VecDeque<KeMethod>,
    /// The inbound SPI, once we have told it to the peer: only IKE_FOLLOWUP_KE is left to be answered.
    told: Option<Spi>,
    /// Our SPI of the child that is rekeyed.
    replaces: Option<Spi>,
    /// Our own exchange to the same end has prevailed over it.
    redundant: bool,
    /// The child was terminated meanwhile: it is deleted as soon as the request is answered.
    unwanted: bool,
}

/// What it awaits.
#[derive(Debug)]
enum Step {
    GeneratingKe { job: JobId, method: KeMethod, peer_public: Vec<u8> },
    DerivingKe(JobId),
    AllocatingSpi(JobId),
    AwaitingFollowup(Expected),
    Installing(Installing),
}

impl Answering {
    /// What it is called in `transitions`.
    pub(in crate::engine) fn name(&self) -> &'static str {
        match self.step {
            Step::GeneratingKe { .. } => "Child: generating our public value",
            Step::DerivingKe(_) => "Child: deriving the shared secret",
            Step::AllocatingSpi(_) => "Child: allocating the SPI",
            Step::AwaitingFollowup(_) => "Child: awaiting a follow-up request",
            Step::Installing(_) => "Child: installing",
        }
    }

    /// The child of an IKE_AUTH request. `None` if it has been answered.
    pub(in crate::engine) fn begin_first(
        cx: &mut Context,
        base: &Base,
        channel: &mut Channel,
        mut authentication: Vec<Payload>,
        found: &ChildPayloads<'_>,
        (nonce_i, nonce_r): (Vec<u8>, Vec<u8>),
    ) -> Option<Self> {
        match child::choose(cx, base, found, false) {
            Ok(choice) => {
                let step = Step::AllocatingSpi(cx.allocate_spi(base.id));
                let request = Request {
                    first: true,
                    authentication,
                    ke: None,
                    choice,
                    nonce_i,
                    nonce_r,
                    shared: Vec::new(),
                    left: VecDeque::new(),
                    told: None,
                    replaces: None,
                    redundant: false,
                    unwanted: false,
                };
                Some(Self { request, step })
            }
            Err((notify_type, failure)) => {
                cx.event(Event::Failed(failure));
                authentication.push(notification(notify_type, Vec::new()));
                channel.respond(cx, base, authentication);
                None
            }
        }
    }

    /// A CREATE_CHILD_SA request about a CHILD SA. It has been answered, or is left in `established.theirs`.
    pub(in crate::engine) fn begin(
        cx: &mut Context,
        base: &Base,
        established: &mut Established,
        payloads: &[Payload],
    ) {
        match Self::judge(cx, base, established, payloads) {
            Ok(answering) => {
                if let Ours::Creating(creating) = &mut established.ours {
                    let nonces = Lowest::of(&answering.request.nonce_i, &answering.request.nonce_r);
                    creating.crosses(base, answering.replaces(), answering.child(), nonces);
                }
                established.theirs = Some(Theirs::Child(Box::new(answering)));
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
        // RFC 7296 §2.25.2: what is being closed or rekeyed gets no more children.
        if base.doomed || base.superseded.is_some() || established.rekeys_ike() {
            return Err(Refused::with(notify::TEMPORARY_FAILURE, Vec::new(), None));
        }
        let syntax = |missing| Refused::lacking(cx, base, missing);
        let found =
            ChildPayloads::parse(payloads).and_then(|found| found.ok_or("an SA payload")).map_err(syntax)?;
        let nonce_i = found.nonce.ok_or("a nonce").map_err(syntax)?.to_vec();
        let replaces = rekeyed_child(base, established, payloads)?;
        let refused =
            |(notify_type, failure)| Refused::with(notify_type, Vec::new(), Some::<Failure>(failure));
        let mut choice = child::choose(cx, base, &found, true).map_err(refused)?;
        if replaces.is_none() && established.has_just_made(choice.child) {
            return Err(Refused::with(notify::TEMPORARY_FAILURE, Vec::new(), None));
        }
        base.choose_resource(cx, &found, replaces, &mut choice).map_err(refused)?;
        let step = match (choice.esp.suite.ke, found.ke) {
            (None, _) => Step::AllocatingSpi(cx.allocate_spi(base.id)),
            (Some(method), Some((group, public))) if group == method.id() => {
                let peer_public = public.to_vec();
                let job = cx.answer_ke(base.id, method, peer_public.clone());
                Step::GeneratingKe { job, method, peer_public }
            }
            (Some(method), _) => {
                let wanted = method.id().to_be_bytes().to_vec();
                return Err(Refused::with(notify::INVALID_KE_PAYLOAD, wanted, None));
            }
        };
        let nonce_r = cx.random::<32>().to_vec();
        let left = choice.esp.suite.additional().collect();
        let request = Request {
            first: false,
            authentication: Vec::new(),
            ke: None,
            choice,
            nonce_i,
            nonce_r,
            shared: Vec::new(),
            left,
            told: None,
            replaces,
            redundant: false,
            unwanted: false,
        };
        Ok(Self { request, step })
    }

    /// The child that is asked for.
    pub(in crate::engine) fn child(&self) -> usize {
        self.request.choice.child
    }

    /// Our SPI of the CHILD SA that is to have a successor.
    pub(in crate::engine) fn replaces(&self) -> Option<Spi> {
        self.request.replaces
    }

    /// The child was terminated.
    pub(in crate::engine) fn terminate(&mut self) {
        self.request.unwanted = true;
    }

    /// Our own exchange to the same end has prevailed.
    pub(in crate::engine) fn gives_way(&mut self) {
        self.request.redundant = true;
        if let Step::Installing(installing) = &mut self.step {
            installing.agreed.standing = Standing::Redundant;
        }
    }

    /// Whether it is the IKE_AUTH request, before whose answer the peer knows nothing of the IKE SA.
    pub(in crate::engine) fn is_first(&self) -> bool {
        self.request.first
    }

    pub(in crate::engine) fn awaits(&self, id: JobId) -> bool {
        match &self.step {
            Step::GeneratingKe { job, .. } | Step::DerivingKe(job) | Step::AllocatingSpi(job) => *job == id,
            Step::AwaitingFollowup(_) => false,
            Step::Installing(installing) => installing.job == id,
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
        let taken = expected.take(cx, base, payloads, &mut self.request.left);
        let Some((method, job, peer_public)) = taken else { return false };
        self.step = Step::GeneratingKe { job, method, peer_public };
        true
    }

    /// The peer has given it up between two key exchanges.
    pub(in crate::engine) fn abandon(self, cx: &mut Context, base: &mut Base) {
        if let Some(pair) = self.request.told {
            base.release(cx, pair);
        }
    }

    /// Takes the job that it awaits. `None` once the request is answered.
    pub(in crate::engine) fn handle_job(
        self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        channel: &mut Channel,
        done: Done,
    ) -> Option<Self> {
        let Self { mut request, step } = self;
        match (step, done.result) {
            (
                Step::GeneratingKe { method, peer_public, .. },
                JobResult::KeGenerated(Ok((secret, public))),
            ) => {
                request.ke = Some(Payload::Ke { method: method.id(), data: public });
                Some(Self { request, step: Step::DerivingKe(cx.derive_ke(base.id, secret, peer_public)) })
            }
            (Step::DerivingKe(_), JobResult::KeDerived(Ok(shared))) => {
                request.shared.push(shared);
                match request.told {
                    Some(pair) => request.go_on(cx, base, now, channel, pair),
                    None => Some(Self { request, step: Step::AllocatingSpi(cx.allocate_spi(base.id)) }),
                }
            }
            (Step::GeneratingKe { .. }, JobResult::KeGenerated(Err(error)))
            | (Step::DerivingKe(_), JobResult::KeDerived(Err(error))) => {
                let (failure, pair) = (base.about(cx).key_exchange(&error), request.told);
                request.refuse(cx, base, channel, pair, notify::INVALID_SYNTAX, failure)
            }
            (Step::AllocatingSpi(_), JobResult::SpiAllocated(Ok(spi))) => {
                base.reserved.push(spi);
                request.go_on(cx, base, now, channel, spi)
            }
            (Step::AllocatingSpi(_), JobResult::SpiAllocated(Err(error))) => {
                request.not_installed(cx, base, channel, None, &error)
            }
            (Step::Installing(installing), JobResult::ChildInstalled(Ok(policy))) => {
                let answer = request.answer(&installing.agreed);
                let pair = installing.agreed.pair;
                installing.complete(cx, base, now, policy);
                // Before it has the answer to IKE_AUTH the peer reads nothing else.
                if let Some(child) = base.child_mut(pair).filter(|_| !request.first) {
                    child.unconfirmed = Some(now + patience(&cx.config.retransmission));
                }
                channel.respond(cx, base, answer);
                if request.unwanted
                    && let Some(child) = base.remove_child(cx, pair, "terminated")
                {
                    base.doom(Doomed { pair, peer: Some(child.status.spi_out) });
                }
                None
            }
            (Step::Installing(installing), JobResult::ChildInstalled(Err(error))) => {
                let pair = installing.agreed.pair;
                request.not_installed(cx, base, channel, Some(pair), &error)
            }
            (step, result) => {
                cx.discard(base.id, done.leaves, result);
                Some(Self { request, step })
            }
        }
    }
}

impl Request {
    /// A key exchange is done: another follows, or the child is installed.
    fn go_on(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        channel: &mut Channel,
        pair: Spi,
    ) -> Option<Answering> {
        let agreed = self.agreed(pair);
        if !self.left.is_empty() {
            let (expected, link) = Expected::next(cx, now);
            let mut answer = self.answer(&agreed);
            answer.push(link);
            channel.respond(cx, base, answer);
            self.told = Some(pair);
            return Some(Answering { request: self, step: Step::AwaitingFollowup(expected) });
        }
        let keymat = child::keymat(channel, &self.shared, &self.nonce_i, &self.nonce_r, &agreed);
        match Installing::begin(cx, base, agreed, &keymat) {
            Ok(installing) => Some(Answering { request: self, step: Step::Installing(installing) }),
            Err(error) => self.not_installed(cx, base, channel, Some(pair), &error),
        }
    }

    /// What both have agreed on.
    fn agreed(&self, pair: Spi) -> Agreed {
        Agreed {
            child: self.choice.child,
            name: self.choice.name.clone(),
            pair,
            peer: self.choice.esp.peer,
            suite: self.choice.esp.suite,
            selectors: self.choice.selectors.clone(),
            options: self.choice.options,
            initiator: false,
            replaces: self.replaces,
            standing: match (self.replaces, self.redundant) {
                (None, _) => Standing::Active,
                (Some(_), false) => Standing::Waiting,
                (Some(_), true) => Standing::Redundant,
            },
            resource: self.choice.resource,
            may_cross: false,
        }
    }

    /// What answers the request under way: everything to CREATE_CHILD_SA and IKE_AUTH, our public value alone to
    /// IKE_FOLLOWUP_KE.
    fn answer(&mut self, agreed: &Agreed) -> Vec<Payload> {
        let mut answer = std::mem::take(&mut self.authentication);
        if self.told.is_some() {
            answer.extend(self.ke.take());
            return answer;
        }
        let (sa, selectors) = child::answer_payloads(agreed, self.choice.esp.number);
        answer.push(sa);
        if !self.first {
            answer.push(Payload::Nonce(self.nonce_r.clone()));
        }
        answer.extend(self.ke.take());
        answer.extend(selectors);
        answer
    }

    /// Answers that the data plane would not have it.
    fn not_installed(
        self,
        cx: &mut Context,
        base: &mut Base,
        channel: &mut Channel,
        pair: Option<Spi>,
        error: &InstallError,
    ) -> Option<Answering> {
        let failure = base.about(cx).not_installed(&self.choice.name, error);
        self.refuse(cx, base, channel, pair, notify::NO_ADDITIONAL_SAS, failure)
    }

    /// Answers with an error: in IKE_AUTH beside our own authentication, else alone.
    fn refuse(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        channel: &mut Channel,
        pair: Option<Spi>,
        notify_type: u16,
        failure: Failure,
    ) -> Option<Answering> {
        if let Some(pair) = pair {
            base.release(cx, pair);
        }
        cx.event(Event::Failed(failure));
        let mut answer = std::mem::take(&mut self.authentication);
        answer.push(notification(notify_type, Vec::new()));
        channel.respond(cx, base, answer);
        None
    }
}

/// Our SPI of the CHILD SA that a REKEY_SA names by the SPI that its sender receives on (RFC 7296 §1.3.3).
fn rekeyed_child(
    base: &Base,
    established: &Established,
    payloads: &[Payload],
) -> Result<Option<Spi>, Box<Refused>> {
    let Some(rekey) = notifications(payloads).find(|notify| notify.notify_type == notify::REKEY_SA) else {
        return Ok(None);
    };
    let spi = rekey.spi.as_slice().try_into().map(u32::from_be_bytes).ok().and_then(Spi::new);
    let temporary = || Err(Refused::with(notify::TEMPORARY_FAILURE, Vec::new(), None));
    match spi.map(|spi| (spi, base.child_of_peer(spi))) {
        Some((_, Some(child))) => match established.may_be_rekeyed(base, child) {
            true => Ok(Some(child.status.spi_in)),
            false => temporary(),
        },
        Some((spi, None)) if established.deletes_half(base, spi) || established.makes_half(spi) => {
            temporary()
        }
        _ => {
            let (spi, notify_type) = (rekey.spi.clone(), notify::CHILD_SA_NOT_FOUND);
            let notify = Notify { protocol: Protocol::Esp, spi, notify_type, data: Vec::new() };
            Err(Box::new(Refused { notify, failure: None }))
        }
    }
}

/// Why a CREATE_CHILD_SA request comes to nothing, for the peer and for us.
pub(in crate::engine) struct Refused {
    notify: Notify,
    failure: Option<Failure>,
}

impl Refused {
    pub(in crate::engine) fn with(notify_type: u16, data: Vec<u8>, failure: Option<Failure>) -> Box<Self> {
        let notify = Notify { protocol: Protocol::Other(0), spi: Vec::new(), notify_type, data };
        Box::new(Self { notify, failure })
    }

    /// For a request that lacks this.
    pub(in crate::engine) fn lacking(cx: &Context, base: &Base, missing: &'static str) -> Box<Self> {
        let failure = base.about(cx).missing("CREATE_CHILD_SA", missing);
        Self::with(notify::INVALID_SYNTAX, Vec::new(), Some(failure))
    }

    /// Answers with it.
    pub(in crate::engine) fn send(self, cx: &mut Context, base: &Base, channel: &mut Channel) {
        if let Some(failure) = self.failure {
            cx.event(Event::Failed(failure));
        }
        channel.respond(cx, base, vec![Payload::Notify(self.notify)]);
    }
}
