//! An initiator that has proved itself, where others may know it: another shard's IKE SAs of the same peer count for `unique`, and
//! go with INITIAL_CONTACT before it is let in.

use std::time::Instant;

use super::responder::AwaitingAuthRequest;
use crate::config::Unique;
use crate::engine::api::{JobId, JobResult};
use crate::engine::context::Context;
use crate::engine::sa::{Base, Done, Next};
use crate::engine::shard::{Answer, Claim, Question};
use crate::engine::state::State;
use crate::message::Payload;

/// Who else is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Company {
    /// The peer has other IKE SAs.
    pub(super) others: bool,
    /// One more that proves nothing may come in.
    pub(super) has_room: bool,
}

/// Awaits the registry's word.
#[derive(Debug)]
pub(in crate::engine) struct Claiming {
    job: JobId,
    request: AwaitingAuthRequest,
    answer: Vec<Payload>,
    payloads: Vec<Payload>,
}

impl Claiming {
    /// `initial`: the peer says that it has no other IKE SA.
    pub(super) fn begin(
        cx: &mut Context,
        base: &Base,
        request: AwaitingAuthRequest,
        (answer, payloads): (Vec<Payload>, &[Payload]),
        (unique, initial): (Unique, bool),
    ) -> Option<State> {
        let claim = Claim {
            peer: base.peer()?,
            ike: base.id,
            connection: cx.connection_name(base.connection),
            unique,
            before: initial.then_some(base.created),
        };
        let job = cx.ask(Some(base.id), Question::Claim(claim));
        Some(State::Claiming(Box::new(Self { job, request, answer, payloads: payloads.to_vec() })))
    }

    pub(in crate::engine) fn handle_job(
        self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        done: Done,
    ) -> Next {
        if done.id != self.job {
            done.discard(cx, base.id);
            return Ok(State::Claiming(self));
        }
        let JobResult::Registry(answer) = done.result else { return Ok(State::Claiming(self)) };
        let Answer::Claimed(claimed) = *answer else { return Ok(State::Claiming(self)) };
        let has_room = claimed.unproven < cx.config.unauthenticated_limit;
        let company = Company { others: claimed.others, has_room };
        base.claim = Some(claimed.peer);
        let Self { request, answer, payloads, .. } = *self;
        request.welcome(cx, base, now, answer, &payloads, company)
    }
}
