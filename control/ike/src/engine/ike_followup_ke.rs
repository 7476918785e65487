//! IKE_FOLLOWUP_KE (RFC 9370 §2.2.4): the additional key exchanges that a CREATE_CHILD_SA exchange has agreed on, one each.
//! What the responder puts into its answer, if another is to follow, ties the next request to it. What becomes of the
//! secrets is up to whoever made the first exchange: [`super::rekey_ike`] and [`super::create_child_sa`].

use std::collections::VecDeque;
use std::time::Instant;

use super::context::Context;
use super::established::{Established, Theirs};
use super::failure::About;
use super::ike_sa_init::{data_of, error_notification, notification, public_of};
use super::rekey_ike::patience;
use super::sa::Base;
use crate::crypto::KeMethod;
use crate::engine::api::{Failure, JobId};
use crate::message::{ExchangeType, Payload, notify};

/// What ties a request to the answer before it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Link(Vec<u8>);

impl Link {
    /// Of an answer.
    pub(super) fn of(payloads: &[Payload]) -> Option<Self> {
        Some(Self(data_of(payloads, notify::ADDITIONAL_KEY_EXCHANGE)?.to_vec()))
    }

    /// Of the answer to CREATE_CHILD_SA, where additional key exchanges are `left`.
    pub(super) fn of_first(about: About, payloads: &[Payload], left: bool) -> Result<Self, Failure> {
        match Self::of(payloads) {
            None if left => Err(about.missing("CREATE_CHILD_SA", "an ADDITIONAL_KEY_EXCHANGE notification")),
            link => Ok(link.unwrap_or_default()),
        }
    }

    fn notification(&self) -> Payload {
        notification(notify::ADDITIONAL_KEY_EXCHANGE, self.0.clone())
    }
}

/// Sends a request.
pub(super) fn request(
    cx: &mut Context,
    base: &Base,
    now: Instant,
    established: &mut Established,
    (method, public): (KeMethod, Vec<u8>),
    link: &Link,
) {
    let payloads = vec![Payload::Ke { method: method.id(), data: public }, link.notification()];
    established.channel.request(cx, base, now, ExchangeType::IkeFollowupKe, payloads);
}

/// The peer's public value of an answer, and the link of the next request, if there is one.
pub(super) fn followed_up(
    about: About,
    payloads: &[Payload],
    method: KeMethod,
    more: bool,
) -> Result<(Vec<u8>, Link), Failure> {
    if let Some(error) = error_notification(payloads) {
        return Err(about.refused("IKE_FOLLOWUP_KE", error.notify_type));
    }
    let missing = |what| about.missing("IKE_FOLLOWUP_KE", what);
    let public = public_of(payloads, method);
    let public = public.ok_or_else(|| missing("a KE payload of the method that was agreed on"))?;
    match Link::of(payloads) {
        None if more => Err(missing("an ADDITIONAL_KEY_EXCHANGE notification")),
        link => Ok((public.to_vec(), link.unwrap_or_default())),
    }
}

/// A responder's wait for the next request.
#[derive(Debug)]
pub(super) struct Expected {
    link: Link,
    /// No longer than this.
    pub(super) until: Instant,
}

impl Expected {
    /// Makes the link, and the notification that tells it to the peer.
    pub(super) fn next(cx: &mut Context, now: Instant) -> (Self, Payload) {
        let link = Link(cx.random::<LINK_LEN>().to_vec());
        let notification = link.notification();
        (Self { link, until: now + patience(&cx.config.retransmission) }, notification)
    }

    /// Takes the request, which is for the next of the methods that are `left`: that method, the job that answers it, and
    /// the peer's public value. `None`, and nothing has changed, if it is another request.
    pub(super) fn take(
        &self,
        cx: &mut Context,
        base: &Base,
        payloads: &[Payload],
        left: &mut VecDeque<KeMethod>,
    ) -> Option<(KeMethod, JobId, Vec<u8>)> {
        let method = left.front().copied()?;
        Link::of(payloads).filter(|link| *link == self.link)?;
        let peer_public = public_of(payloads, method)?.to_vec();
        left.pop_front();
        let job = cx.answer_ke(base.id, method, peer_public.clone());
        Some((method, job, peer_public))
    }
}

const LINK_LEN: usize = 16;

impl Established {
    /// A peer's additional key exchange.
    pub(super) fn handle_followup(&mut self, cx: &mut Context, base: &Base, payloads: &[Payload]) {
        let followed = match &mut self.theirs {
            Some(Theirs::Ike(answering)) => answering.follow_up(cx, base, payloads),
            Some(Theirs::Child(answering)) => answering.follow_up(cx, base, payloads),
            Some(Theirs::Addresses(_)) | None => false,
        };
        if !followed {
            self.channel.respond(cx, base, vec![notification(notify::STATE_NOT_FOUND, Vec::new())]);
        }
    }

    /// When a peer that owes us an additional key exchange has thought better of it.
    pub(super) fn followup_deadline(&self) -> Option<Instant> {
        match &self.theirs {
            Some(Theirs::Ike(theirs)) => theirs.deadline(),
            Some(Theirs::Child(theirs)) => theirs.deadline(),
            Some(Theirs::Addresses(_)) | None => None,
        }
    }

    /// What the peer has begun and not followed up is not waited for any more: it asks for something else, or for nothing.
    pub(super) fn forget_followup(&mut self, cx: &mut Context, base: &mut Base) {
        if self.followup_deadline().is_some()
            && let Some(Theirs::Child(theirs)) = self.theirs.take()
        {
            theirs.abandon(cx, base);
        }
    }
}
