//! IKE_INTERMEDIATE as the responder. The answer leaves under the keys that the request came under; the new ones hold
//! from the next exchange on (RFC 9370 §2.2.2).

use crate::crypto::KeMethod;
use crate::engine::api::{Failure, JobId, JobResult};
use crate::engine::context::Context;
use crate::engine::ike_auth::responder::AwaitingAuthRequest;
use crate::engine::ike_sa_init::public_of;
use crate::engine::sa::{Base, Done, Next, State};
use crate::message::{Payload, notify};

/// An additional key exchange that waits for jobs.
#[derive(Debug)]
pub(in crate::engine) struct AnsweringIntermediate {
    request: AwaitingAuthRequest,
    method: KeMethod,
    step: Step,
}

/// What it awaits.
#[derive(Debug)]
enum Step {
    /// Our public value.
    GeneratingKe { job: JobId, peer_public: Vec<u8> },
    /// The shared secret.
    DerivingKe { job: JobId, public: Vec<u8> },
}

impl AnsweringIntermediate {
    /// What it is called in `transitions`.
    pub(in crate::engine) fn name(&self) -> &'static str {
        match self.step {
            Step::GeneratingKe { .. } => "AnsweringIntermediate: generating our public value",
            Step::DerivingKe { .. } => "AnsweringIntermediate: deriving the shared secret",
        }
    }

    /// Takes a request, which is to be about `method`.
    pub(in crate::engine) fn begin(
        cx: &mut Context,
        base: &Base,
        mut request: AwaitingAuthRequest,
        method: KeMethod,
        payloads: &[Payload],
    ) -> Next {
        let Some(peer_public) = public_of(payloads, method).map(<[u8]>::to_vec) else {
            let failure =
                base.about(cx).missing("IKE_INTERMEDIATE", "a KE payload of the method that was agreed on");
            return Err(request.refuse(cx, base, notify::INVALID_SYNTAX, Vec::new(), failure));
        };
        let job = cx.answer_ke(base.id, method, peer_public.clone());
        let step = Step::GeneratingKe { job, peer_public };
        Ok(State::AnsweringIntermediate(Self { request, method, step }))
    }

    pub(in crate::engine) fn handle_job(mut self, cx: &mut Context, base: &mut Base, done: Done) -> Next {
        match (self.step, done.result) {
            (Step::GeneratingKe { job, peer_public }, JobResult::KeGenerated(made)) if job == done.id => {
                let (secret, public) = match made {
                    Ok(made) => made,
                    Err(error) => {
                        let failure = base.about(cx).key_exchange(&error);
                        return refuse(cx, base, self.request, failure);
                    }
                };
                let job = cx.derive_ke(base.id, secret, peer_public);
                self.step = Step::DerivingKe { job, public };
                Ok(State::AnsweringIntermediate(self))
            }
            (Step::DerivingKe { job, public }, JobResult::KeDerived(made)) if job == done.id => {
                let shared = match made {
                    Ok(shared) => shared,
                    Err(error) => {
                        let failure = base.about(cx).key_exchange(&error);
                        return refuse(cx, base, self.request, failure);
                    }
                };
                let answer = vec![Payload::Ke { method: self.method.id(), data: public }];
                self.request.answer_intermediate(cx, base, answer, shared);
                Ok(State::AwaitingAuthRequest(self.request))
            }
            (step, result) => {
                self.step = step;
                cx.discard(base.id, done.leaves, result);
                Ok(State::AnsweringIntermediate(self))
            }
        }
    }

    pub(in crate::engine) fn init_response(&self) -> &[u8] {
        self.request.init_response()
    }
}

/// RFC 9370 §2.2.2 leaves open what answers a public value that is of no use; the IKE SA ends with it.
fn refuse(cx: &mut Context, base: &Base, mut request: AwaitingAuthRequest, failure: Failure) -> Next {
    Err(request.refuse(cx, base, notify::INVALID_SYNTAX, Vec::new(), failure))
}
