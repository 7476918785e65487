//! A peer's wish for a child: the second half of IKE_AUTH, and CREATE_CHILD_SA. The inbound SA is in the data plane
//! before the answer leaves, because the answer lets the peer send.

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
use crate::engine::ike_sa_init::{notification, notifications};
use crate::engine::rekey_ike::patience;
use crate::engine::sa::{Base, Done};
use crate::message::{Notify, Payload, Protocol, notify};

/// A request about a CHILD SA that waits for jobs.
#[derive(Debug)]
pub(in crate::engine) struct Answering {
    /// It is the IKE_AUTH request.
    first: bool,
    /// IDr and AUTH of the IKE_AUTH response.
    authentication: Vec<Payload>,
    /// Our KE payload.
    ke: Option<Payload>,
    choice: Choice,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
    shared: Option<SharedSecret>,
    /// Our SPI of the child that is rekeyed.
    replaces: Option<Spi>,
    /// Our own exchange to the same end has prevailed over it.
    redundant: bool,
    /// The child was terminated meanwhile: it is deleted as soon as the request is answered.
    unwanted: bool,
    step: Step,
}

/// What it awaits.
#[derive(Debug)]
enum Step {
    GeneratingKe { job: JobId, peer_public: Vec<u8> },
    DerivingKe(JobId),
    AllocatingSpi(JobId),
    Installing(Installing),
}

impl Answering {
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
                Some(Self {
                    first: true,
                    authentication,
                    ke: None,
                    choice,
                    nonce_i,
                    nonce_r,
                    shared: None,
                    replaces: None,
                    redundant: false,
                    unwanted: false,
                    step,
                })
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
                    let nonces = Lowest::of(&answering.nonce_i, &answering.nonce_r);
                    creating.crosses(base, answering.replaces, answering.choice.child, nonces);
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
        let choice = child::choose(cx, base, &found, true)
            .map_err(|(notify_type, failure)| Refused::with(notify_type, Vec::new(), Some(failure)))?;
        if replaces.is_none() && established.has_just_made(choice.child) {
            return Err(Refused::with(notify::TEMPORARY_FAILURE, Vec::new(), None));
        }
        let step = match (choice.esp.suite.ke, found.ke) {
            (None, _) => Step::AllocatingSpi(cx.allocate_spi(base.id)),
            (Some(method), Some((group, public))) if group == method.id() => {
                let peer_public = public.to_vec();
                Step::GeneratingKe { job: cx.answer_ke(base.id, method, peer_public.clone()), peer_public }
            }
            (Some(method), _) => {
                let wanted = method.id().to_be_bytes().to_vec();
                return Err(Refused::with(notify::INVALID_KE_PAYLOAD, wanted, None));
            }
        };
        let nonce_r = cx.random::<32>().to_vec();
        Ok(Self {
            first: false,
            authentication: Vec::new(),
            ke: None,
            choice,
            nonce_i,
            nonce_r,
            shared: None,
            replaces,
            redundant: false,
            unwanted: false,
            step,
        })
    }

    /// The child that is asked for.
    pub(in crate::engine) fn child(&self) -> usize {
        self.choice.child
    }

    /// Our SPI of the CHILD SA that is to have a successor.
    pub(in crate::engine) fn replaces(&self) -> Option<Spi> {
        self.replaces
    }

    /// The child was terminated.
    pub(in crate::engine) fn terminate(&mut self) {
        self.unwanted = true;
    }

    /// Our own exchange to the same end has prevailed.
    pub(in crate::engine) fn gives_way(&mut self) {
        self.redundant = true;
        if let Step::Installing(installing) = &mut self.step {
            installing.agreed.standing = Standing::Redundant;
        }
    }

    /// Whether it is the IKE_AUTH request, before whose answer the peer knows nothing of the IKE SA.
    pub(in crate::engine) fn is_first(&self) -> bool {
        self.first
    }

    pub(in crate::engine) fn awaits(&self, id: JobId) -> bool {
        match &self.step {
            Step::GeneratingKe { job, .. } | Step::DerivingKe(job) | Step::AllocatingSpi(job) => *job == id,
            Step::Installing(installing) => installing.job == id,
        }
    }

    /// Takes the job that it awaits. `None` once the request is answered.
    pub(in crate::engine) fn handle_job(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        channel: &mut Channel,
        done: Done,
    ) -> Option<Self> {
        match (self.step, done.result) {
            (Step::GeneratingKe { peer_public, .. }, JobResult::KeGenerated(Ok((secret, public)))) => {
                let method = self.choice.esp.suite.ke.map(KeMethod::id).unwrap_or_default();
                self.ke = Some(Payload::Ke { method, data: public });
                self.step = Step::DerivingKe(cx.derive_ke(base.id, secret, peer_public));
                Some(self)
            }
            (Step::DerivingKe(_), JobResult::KeDerived(Ok(shared))) => {
                self.shared = Some(shared);
                self.step = Step::AllocatingSpi(cx.allocate_spi(base.id));
                Some(self)
            }
            (Step::GeneratingKe { .. }, JobResult::KeGenerated(Err(error)))
            | (Step::DerivingKe(_), JobResult::KeDerived(Err(error))) => {
                let failure = base.about(cx).key_exchange(&error);
                refuse(cx, base, channel, self.authentication, notify::INVALID_SYNTAX, failure)
            }
            (Step::AllocatingSpi(_), JobResult::SpiAllocated(Ok(spi))) => {
                base.reserved.push(spi);
                let agreed = Agreed {
                    child: self.choice.child,
                    name: self.choice.name.clone(),
                    pair: spi,
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
                };
                let keymat =
                    child::keymat(channel, self.shared.as_slice(), &self.nonce_i, &self.nonce_r, &agreed);
                match Installing::begin(cx, base, agreed, &keymat) {
                    Ok(installing) => {
                        self.step = Step::Installing(installing);
                        Some(self)
                    }
                    Err(error) => not_installed(
                        cx,
                        base,
                        channel,
                        self.authentication,
                        &self.choice.name,
                        Some(spi),
                        &error,
                    ),
                }
            }
            (Step::AllocatingSpi(_), JobResult::SpiAllocated(Err(error))) => {
                not_installed(cx, base, channel, self.authentication, &self.choice.name, None, &error)
            }
            (Step::Installing(installing), JobResult::ChildInstalled(Ok(policy))) => {
                let mut answer = self.authentication;
                let (sa, selectors) = child::answer_payloads(&installing.agreed, self.choice.esp.number);
                answer.push(sa);
                if !self.first {
                    answer.push(Payload::Nonce(self.nonce_r));
                }
                answer.extend(self.ke);
                answer.extend(selectors);
                let pair = installing.agreed.pair;
                installing.complete(cx, base, now, policy);
                // Before it has the answer to IKE_AUTH the peer reads nothing else.
                if let Some(child) = base.child_mut(pair).filter(|_| !self.first) {
                    child.unconfirmed = Some(now + patience(&cx.config.retransmission));
                }
                channel.respond(cx, base, answer);
                if self.unwanted
                    && let Some(child) = base.remove_child(cx, pair, "terminated")
                {
                    base.doom(Doomed { pair, peer: Some(child.status.spi_out) });
                }
                None
            }
            (Step::Installing(installing), JobResult::ChildInstalled(Err(error))) => {
                let pair = installing.agreed.pair;
                not_installed(cx, base, channel, self.authentication, &self.choice.name, Some(pair), &error)
            }
            (step, result) => {
                cx.discard(base.id, done.leaves, result);
                self.step = step;
                Some(self)
            }
        }
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

/// Answers that the data plane would not have it.
fn not_installed(
    cx: &mut Context,
    base: &mut Base,
    channel: &mut Channel,
    answer: Vec<Payload>,
    child: &str,
    spi: Option<Spi>,
    error: &InstallError,
) -> Option<Answering> {
    if let Some(spi) = spi {
        base.release(cx, spi);
    }
    let failure = base.about(cx).not_installed(child, error);
    refuse(cx, base, channel, answer, notify::NO_ADDITIONAL_SAS, failure)
}

/// Answers with an error: in IKE_AUTH beside our own authentication, in CREATE_CHILD_SA alone.
fn refuse(
    cx: &mut Context,
    base: &Base,
    channel: &mut Channel,
    mut answer: Vec<Payload>,
    notify_type: u16,
    failure: Failure,
) -> Option<Answering> {
    cx.event(Event::Failed(failure));
    answer.push(notification(notify_type, Vec::new()));
    channel.respond(cx, base, answer);
    None
}
