//! IKE_INTERMEDIATE as the initiator.

use std::collections::VecDeque;
use std::time::Instant;

use crate::crypto::{KeMethod, KeSecret};
use crate::engine::api::{JobId, JobResult};
use crate::engine::channel::{Channel, Incoming, Retransmitted};
use crate::engine::context::Context;
use crate::engine::ike_auth;
use crate::engine::ike_sa_init::{InitRecord, error_notification, public_of};
use crate::engine::sa::{Base, Closed, Done, Inbound, Next, State};
use crate::message::{ExchangeType, Payload};

/// An additional key exchange under way.
#[derive(Debug)]
pub(in crate::engine) struct Exchanging {
    channel: Box<Channel>,
    record: InitRecord,
    /// Those that follow it.
    left: VecDeque<KeMethod>,
    step: Step,
}

/// What it awaits.
#[derive(Debug)]
enum Step {
    /// Our public value.
    GeneratingKe { job: JobId, method: KeMethod },
    /// The response.
    AwaitingResponse { method: KeMethod, secret: KeSecret },
    /// The shared secret.
    DerivingKe { job: JobId },
}

/// Begins the next additional key exchange, or IKE_AUTH if there is none.
pub(in crate::engine) fn proceed(
    cx: &mut Context,
    base: &mut Base,
    now: Instant,
    channel: Box<Channel>,
    record: InitRecord,
    mut left: VecDeque<KeMethod>,
) -> Next {
    let Some(method) = left.pop_front() else {
        return ike_auth::initiator::begin(cx, base, now, channel, record);
    };
    let step = Step::GeneratingKe { job: cx.generate_ke(base.id, method), method };
    Ok(State::Exchanging(Exchanging { channel, record, left, step }))
}

impl Exchanging {
    /// What it is called in `transitions`.
    pub(in crate::engine) fn name(&self) -> &'static str {
        match self.step {
            Step::GeneratingKe { .. } => "Exchanging: generating our public value",
            Step::AwaitingResponse { .. } => "Exchanging: awaiting the response",
            Step::DerivingKe { .. } => "Exchanging: deriving the shared secret",
        }
    }

    pub(in crate::engine) fn handle_job(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        done: Done,
    ) -> Next {
        match (self.step, done.result) {
            (Step::GeneratingKe { job, method }, JobResult::KeGenerated(made)) if job == done.id => {
                let (secret, public) =
                    made.map_err(|error| Closed::failed(base.about(cx).key_exchange(&error)))?;
                let payloads = vec![Payload::Ke { method: method.id(), data: public }];
                self.channel.request(cx, base, now, ExchangeType::IkeIntermediate, payloads);
                self.step = Step::AwaitingResponse { method, secret };
                Ok(State::Exchanging(self))
            }
            (Step::DerivingKe { job }, JobResult::KeDerived(made)) if job == done.id => {
                let shared = made.map_err(|error| Closed::failed(base.about(cx).key_exchange(&error)))?;
                self.channel.renew_keys(base, &self.record, shared);
                proceed(cx, base, now, self.channel, self.record, self.left)
            }
            (step, result) => {
                self.step = step;
                cx.discard(base.id, done.leaves, result);
                Ok(State::Exchanging(self))
            }
        }
    }

    pub(in crate::engine) fn handle_message(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        inbound: &Inbound<'_>,
    ) -> Next {
        let Step::AwaitingResponse { method, secret } = self.step else { return Ok(State::Exchanging(self)) };
        match self.channel.receive(cx, base, inbound) {
            Incoming::Response(payloads) => {
                let Some(public) = public_of(&payloads, method).map(<[u8]>::to_vec) else {
                    let about = base.about(cx);
                    let missing = "a KE payload of the method that was agreed on";
                    return Err(Closed::failed(match error_notification(&payloads) {
                        Some(error) => about.refused("IKE_INTERMEDIATE", error.notify_type),
                        None => about.missing("IKE_INTERMEDIATE", missing),
                    }));
                };
                let job = cx.derive_ke(base.id, secret, public);
                self.step = Step::DerivingKe { job };
                Ok(State::Exchanging(self))
            }
            Incoming::BadResponse(error) => {
                Err(Closed::failed(base.about(cx).malformed("IKE_INTERMEDIATE", &error)))
            }
            _ => {
                self.step = Step::AwaitingResponse { method, secret };
                Ok(State::Exchanging(self))
            }
        }
    }

    pub(in crate::engine) fn handle_timeout(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
    ) -> Next {
        match self.channel.retransmit(cx, base, now) {
            (Retransmitted::GivenUp(request), exchange) => {
                Err(Closed::failed(base.about(cx).silent(exchange, request, base)))
            }
            _ => Ok(State::Exchanging(self)),
        }
    }

    pub(in crate::engine) fn deadline(&self) -> Option<Instant> {
        self.channel.due()
    }
}
