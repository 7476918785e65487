//! An authenticated IKE SA: what it does of its own accord (children that are wanted, deletes, liveness, NAT
//! keepalives), and which exchange a message, job or timer belongs to.
//!
//! The window is one both ways: at most one exchange of ours and one of the peer's are under way. What else is to
//! be done waits in [`Base::deletes`], [`Base::goals`] and the schedules of the IKE SA and its children, and
//! [`Established::pump`] starts the next.

use std::time::Instant;

use portcullis_ipsec::Spi;

use super::actions::Loss;
use super::addresses::Assigning;
use super::api::*;
use super::channel::{Channel, Incoming, Retransmitted};
use super::child::{Agreed, ChildPayloads, Installing, Refusal, Standing};
use super::childless;
use super::children::Doomed;
use super::context::{Context, Effect};
use super::create_child_sa::initiator::{Creating, Purpose};
use super::create_child_sa::responder::Answering;
use super::ike_sa_init::notification;
use super::informational::{self, Deleting};
use super::lifetime::{PATIENCE_WITH_BUSY_PEERS, Schedule};
use super::liveness::Liveness;
use super::mobike;
use super::rekey_ike;
use super::rekey_ike::initiator::Rekeying;
use super::sa::{Base, Closed, Done, Inbound, Next};
use super::state::State;
use crate::message::{ExchangeType, MessageError, Payload, notify};

/// An authenticated IKE SA.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) channel: Box<Channel>,
    pub(super) ours: Ours,
    /// A peer's request that waits for jobs.
    pub(super) theirs: Option<Theirs>,
    /// When it is rekeyed.
    pub(super) schedule: Schedule,
    /// Children are not asked for before.
    pub(super) hold_until: Option<Instant>,
    /// Since when the peer has answered TEMPORARY_FAILURE and nothing else.
    pub(super) peer_is_busy_since: Option<Instant>,
    /// The child that the peer has given us last, until it asks for something itself: if that is the same child, the
    /// requests have crossed.
    pub(super) just_made: Option<usize>,
    /// When the peer last showed that it lives.
    pub(super) heard: Instant,
    pub(super) liveness: Liveness,
    /// The data plane is asked whether children are idle.
    pub(super) idling: Option<JobId>,
    pub(super) next_keepalive: Option<Instant>,
}

/// Our exchange under way, and what follows it until the next may begin.
#[derive(Debug)]
pub(super) enum Ours {
    Idle,
    Creating(Box<Creating>),
    Installing(Box<Installing>, Purpose),
    RekeyingIke(Box<Rekeying>),
    /// Awaits the answer to a Delete of these.
    Deleting(Vec<Doomed>),
    /// Awaits the answer to an INFORMATIONAL request that asks nothing but whether the peer lives.
    Probing,
    /// Awaits the answer to what MOBIKE says or asks.
    Mobike(mobike::Exchange),
}

/// A peer's exchange that waits for jobs.
#[derive(Debug)]
pub(super) enum Theirs {
    /// It has asked for inner addresses, and perhaps for a child, in IKE_AUTH.
    Addresses(Box<Assigning>),
    /// It asks for a child.
    Child(Box<Answering>),
    /// It rekeys the IKE SA.
    Ike(Box<rekey_ike::responder::Answering>),
}

impl Established {
    /// Both ends are authenticated.
    pub(super) fn begin(cx: &mut Context, base: &mut Base, now: Instant, mut channel: Box<Channel>) -> Self {
        channel.settle();
        base.established = Some(now);
        cx.sa_established(base.connection);
        let lifetime = cx.connection(base.connection).map(|c| c.lifetime).unwrap_or_default();
        base.authentication = Schedule::of_authentication(cx, now, &lifetime);
        base.session_end = base.authorization.session_timeout.and_then(|timeout| now.checked_add(timeout));
        let established = Self::new(cx, base, now, channel);
        cx.event(Event::IkeEstablished { ike: base.status(cx, IkeState::Established) });
        cx.effects.push_back(Effect::Authenticated { id: base.id });
        established
    }

    /// The IKE SA takes the place of another.
    pub(super) fn succeeding(cx: &mut Context, base: &Base, now: Instant, channel: Box<Channel>) -> Self {
        Self::new(cx, base, now, channel)
    }

    fn new(cx: &mut Context, base: &Base, now: Instant, channel: Box<Channel>) -> Self {
        let lifetime = cx.connection(base.connection).map(|c| c.lifetime).unwrap_or_default();
        let mut established = Self {
            channel,
            ours: Ours::Idle,
            theirs: None,
            schedule: Schedule::of_ike(cx, now, &lifetime),
            hold_until: None,
            peer_is_busy_since: None,
            just_made: None,
            heard: now,
            liveness: Liveness::Quiet,
            idling: None,
            next_keepalive: None,
        };
        established.schedule_keepalive(cx, base, now);
        established
    }

    /// Installs a child that we asked for; nothing else of ours happens until that is done.
    pub(super) fn install(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        purpose: Purpose,
        agreed: Agreed,
        keymat: &[u8],
    ) {
        let (pair, name) = (agreed.pair, agreed.name.clone());
        match Installing::begin(cx, base, agreed, keymat) {
            Ok(installing) => self.ours = Ours::Installing(Box::new(installing), purpose),
            Err(error) => {
                let failure = base.about(cx).not_installed(&name, &error);
                self.child_refused(cx, base, now, purpose, Some(pair), Refusal { failure, delete: true });
            }
        }
    }

    /// The child that we asked for is not to be had. `pair` is the SPI that it would have had.
    pub(super) fn child_refused(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        purpose: Purpose,
        pair: Option<Spi>,
        refusal: Refusal,
    ) {
        self.ours = Ours::Idle;
        if let Some(pair) = pair {
            base.release(cx, pair);
            if refusal.delete {
                base.doom(Doomed { pair, peer: None });
            }
        }
        match purpose {
            Purpose::Goal => {
                base.no_more_beside(now);
                base.fail_goal(cx, refusal.failure);
            }
            Purpose::Rekey(rekey) => {
                cx.event(Event::Failed(refusal.failure));
                let schedule = base.child(rekey.old).map(|old| old.schedule);
                if let (Some(mut schedule), Some(old)) = (schedule, base.child_mut(rekey.old)) {
                    schedule.put_off(cx, now);
                    old.schedule = schedule;
                }
            }
        }
    }

    /// The peer could not do what we asked for (RFC 7296 §2.25).
    pub(super) fn peer_is_busy(&mut self, cx: &mut Context, base: &mut Base, now: Instant) {
        let since = *self.peer_is_busy_since.get_or_insert(now);
        if now.saturating_duration_since(since) > PATIENCE_WITH_BUSY_PEERS {
            cx.event(Event::Failed(base.about(cx).always_busy()));
            base.doomed = true;
        }
    }

    /// Answers the child part of an IKE_AUTH request; `answer` is the part that authenticates us, `nonces` are the
    /// initiator's and the responder's.
    pub(super) fn answer_child(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        answer: Vec<Payload>,
        payloads: &[Payload],
        nonces: (Vec<u8>, Vec<u8>),
    ) {
        match ChildPayloads::parse(payloads) {
            Ok(None) => match childless::check_none(cx, base) {
                Ok(()) => self.channel.respond(cx, base, answer),
                Err(failure) => {
                    base.doomed = true;
                    self.refuse_child(cx, base, answer, notify::INVALID_SYNTAX, failure);
                }
            },
            Ok(Some(found)) => {
                if let Err(failure) = childless::check_child(cx, base) {
                    return self.refuse_child(cx, base, answer, notify::NO_ADDITIONAL_SAS, failure);
                }
                let theirs = Answering::begin_first(cx, base, &mut self.channel, answer, &found, nonces);
                self.theirs = theirs.map(|theirs| Theirs::Child(Box::new(theirs)));
            }
            Err(missing) => {
                let failure = base.about(cx).missing("IKE_AUTH", missing);
                self.refuse_child(cx, base, answer, notify::INVALID_SYNTAX, failure);
            }
        }
    }

    /// Answers an IKE_AUTH request with an error beside our own authentication.
    fn refuse_child(
        &mut self,
        cx: &mut Context,
        base: &Base,
        mut answer: Vec<Payload>,
        notify_type: u16,
        failure: Failure,
    ) {
        cx.event(Event::Failed(failure));
        answer.push(notification(notify_type, Vec::new()));
        self.channel.respond(cx, base, answer);
    }

    pub(super) fn handle_message(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        inbound: &Inbound<'_>,
    ) -> Next {
        if let Some(closed) = Self::lost_by_peer(cx, base, inbound) {
            base.loss = Some(Loss::Silent);
            return Err(closed);
        }
        let incoming = self.channel.receive(cx, base, inbound);
        if !matches!(incoming, Incoming::Nothing) {
            self.alive(now);
        }
        if matches!(incoming, Incoming::Request(..) | Incoming::BadRequest(..)) {
            // Its window is one: it has our answer to the last.
            base.children.iter_mut().for_each(|child| child.unconfirmed = None);
        }
        match &incoming {
            // Those of a rekeying are of the IKE SA that it makes.
            Incoming::Request(_, payloads) if !rekey_ike::is_about_ike(payloads) => {
                base.keep_tokens(payloads)
            }
            Incoming::Response(payloads) if !matches!(self.ours, Ours::RekeyingIke(_)) => {
                base.keep_tokens(payloads);
                base.keep_ticket(cx, now, &self.channel, payloads);
            }
            _ => {}
        }
        match incoming {
            // The peer knows already that this is the IKE SA that prevails; what it asks is perhaps about children that
            // come with our own knowing.
            Incoming::Request(_, payloads) if base.expectant && !informational::deletes_ike(&payloads) => {
                self.channel.put_off_request();
            }
            Incoming::Request(ExchangeType::CreateChildSa, payloads) => {
                // The window is one: a peer that owes us an additional key exchange for a child has given it up.
                if matches!(self.theirs, Some(Theirs::Child(_))) {
                    self.forget_followup(cx, base);
                }
                if rekey_ike::is_about_ike(&payloads) {
                    rekey_ike::responder::Answering::begin(cx, base, &mut self, &payloads);
                } else {
                    Answering::begin(cx, base, &mut self, &payloads);
                }
                self.just_made = None;
            }
            Incoming::Request(ExchangeType::IkeFollowupKe, payloads) => {
                self.handle_followup(cx, base, &payloads);
            }
            Incoming::Request(ExchangeType::Informational, payloads) => {
                return self.handle_informational(cx, base, now, &payloads);
            }
            // RFC 7296 §2.21.3: an authentic request that makes no sense is answered so.
            Incoming::Request(exchange, _) => {
                let error =
                    MessageError::Invalid { what: "the exchange type", found: exchange.number().into() };
                return self.handle_bad_request(cx, base, exchange, &error);
            }
            Incoming::BadRequest(exchange, error) => {
                return self.handle_bad_request(cx, base, exchange, &error);
            }
            Incoming::Response(payloads) => match std::mem::replace(&mut self.ours, Ours::Idle) {
                Ours::Mobike(exchange) => {
                    let answered = self.mobike_answered(cx, base, now, inbound, exchange, &payloads);
                    if let Err(mobike::CookieDiffers) = answered {
                        let failure = base.about(cx).cookie_differs();
                        return Ok(Deleting::reject(cx, base, now, self.channel, failure, None));
                    }
                }
                ours => {
                    self.ours = ours;
                    self.handle_response(cx, base, now, payloads);
                }
            },
            Incoming::BadResponse(error) => {
                let failure = base.about(cx).malformed("answering", &error);
                return Ok(Deleting::reject(cx, base, now, self.channel, failure, None));
            }
            Incoming::Nothing => {}
        }
        self.pump(cx, base, now)
    }

    /// RFC 7296 §2.5, §2.21.2: an unknown critical payload costs the request, a malformed message the IKE SA.
    fn handle_bad_request(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        exchange: ExchangeType,
        error: &MessageError,
    ) -> Next {
        let failure = base.about(cx).malformed(super::channel::exchange_name(exchange), error);
        if let MessageError::UnsupportedCritical { payload_type } = error {
            cx.event(Event::Failed(failure));
            self.channel.respond(
                cx,
                base,
                vec![notification(notify::UNSUPPORTED_CRITICAL_PAYLOAD, vec![*payload_type])],
            );
            return Ok(State::Established(self));
        }
        self.channel.respond(cx, base, vec![notification(notify::INVALID_SYNTAX, Vec::new())]);
        Err(Closed::failed(failure).lingering(self.channel.linger()))
    }

    fn handle_response(&mut self, cx: &mut Context, base: &mut Base, now: Instant, payloads: Vec<Payload>) {
        match std::mem::replace(&mut self.ours, Ours::Idle) {
            Ours::Creating(creating) => creating.handle_response(cx, base, now, self, &payloads),
            Ours::RekeyingIke(rekeying) => rekeying.handle_response(cx, base, now, self, payloads),
            Ours::Deleting(deleted) => {
                // What had a successor is still there, for what was under way.
                for doomed in deleted {
                    base.retire_child(cx, doomed.pair, "rekeyed");
                }
                if base.deletes.is_empty() {
                    base.children_deleted(cx);
                }
            }
            Ours::Probing => Self::compare_mapping(base, &payloads),
            ours @ (Ours::Idle | Ours::Installing(..) | Ours::Mobike(_)) => self.ours = ours,
        }
    }

    pub(super) fn handle_job(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        done: Done,
    ) -> Next {
        if matches!(self.liveness, Liveness::Counting(job) if job == done.id) {
            self.counted(cx, base, now, &done.result);
        } else if self.idling == Some(done.id) {
            self.idling = None;
            self.counted_idle(cx, base, now, &done.result);
        } else if base.awaits_stream(done.id) {
            if let Some(stream) = base.stream_opened(cx, now, done)? {
                self.go_on_by(cx, base, now, stream);
            }
        } else if base.mobility.awaits(done.id) {
            self.mobike_job(cx, base, now, done);
        } else if let Some(pair) = base.activates(done.id) {
            self.activated(cx, base, pair, done.result);
        } else if self.theirs.as_ref().is_some_and(|theirs| theirs.awaits(done.id)) {
            match self.theirs.take() {
                Some(Theirs::Child(theirs)) => {
                    let theirs = theirs.handle_job(cx, base, now, &mut self.channel, done);
                    self.theirs = theirs.map(|theirs| Theirs::Child(Box::new(theirs)));
                }
                Some(Theirs::Addresses(assigning)) => {
                    self.addresses_assigned(cx, base, *assigning, done);
                }
                Some(Theirs::Ike(theirs)) => theirs.handle_job(cx, base, now, &mut self, done),
                None => {}
            }
        } else {
            match std::mem::replace(&mut self.ours, Ours::Idle) {
                Ours::Creating(creating) if creating.awaits(done.id) => {
                    creating.handle_job(cx, base, now, &mut self, done);
                }
                Ours::Installing(installing, purpose) if installing.job == done.id => {
                    self.installed(cx, base, now, *installing, purpose, done.result);
                }
                Ours::RekeyingIke(rekeying) if rekeying.awaits(done.id) => {
                    return rekeying.handle_job(cx, base, now, self, done);
                }
                ours => {
                    self.ours = ours;
                    done.discard(cx, base.id);
                }
            }
        }
        self.pump(cx, base, now)
    }

    fn installed(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        installing: Installing,
        purpose: Purpose,
        result: JobResult,
    ) {
        let (pair, name) = (installing.agreed.pair, installing.agreed.name.clone());
        match result {
            JobResult::ChildInstalled(Ok(policy)) if installing.deleted => {
                let shares = base.claims.iter().any(|(claimer, _)| *claimer == pair);
                let policy = if shares { base.unclaim(pair) } else { policy };
                cx.remove_child(base.id, pair, policy);
                self.deleted_at_once(cx, base, purpose);
            }
            JobResult::ChildInstalled(Ok(policy)) => {
                let (old, peer) = (installing.agreed.replaces, installing.agreed.peer);
                let redundant = installing.agreed.standing == Standing::Redundant;
                self.just_made = installing.agreed.may_cross.then_some(installing.agreed.child);
                let unwanted = match &purpose {
                    Purpose::Goal => base.goal.as_ref().is_some_and(|goal| goal.unwanted),
                    Purpose::Rekey(rekey) => rekey.unwanted,
                };
                installing.complete(cx, base, now, policy);
                base.finish_goal(cx, Ok(()));
                if unwanted {
                    base.remove_child(cx, pair, "terminated");
                }
                if unwanted || redundant {
                    base.doom(Doomed { pair, peer: Some(peer) });
                } else if let Some(old) = old.and_then(|old| base.child(old)) {
                    let half = Doomed { pair: old.status.spi_in, peer: Some(old.status.spi_out) };
                    base.doom(half);
                }
            }
            JobResult::ChildInstalled(Err(error)) => {
                let refusal = Refusal {
                    failure: base.about(cx).not_installed(&name, &error),
                    delete: !installing.deleted,
                };
                if let Some(policy) = base.unclaim(pair) {
                    cx.remove_child(base.id, pair, Some(policy));
                }
                self.child_refused(cx, base, now, purpose, Some(pair), refusal);
            }
            _ => self.ours = Ours::Installing(Box::new(installing), purpose),
        }
    }

    /// The data plane has, or has not, begun to seal with a child.
    fn activated(&mut self, cx: &mut Context, base: &mut Base, pair: Spi, result: JobResult) {
        if let Err(error) = base.activated(cx, pair, result) {
            let name = base.child(pair).map(|child| child.status.name.clone()).unwrap_or_default();
            cx.event(Event::Failed(base.about(cx).not_installed(&name, &error)));
            self.close(cx, base, pair, "the data plane refused it");
        }
    }

    /// Deletes one CHILD SA, here and, by the next [`Established::pump`], at the peer.
    pub(super) fn close(&mut self, cx: &mut Context, base: &mut Base, pair: Spi, reason: &str) {
        if let Some(child) = base.remove_child(cx, pair, reason) {
            base.doom(Doomed { pair, peer: Some(child.status.spi_out) });
        }
    }

    /// A CHILD SA is to be rekeyed: its limits near, or an operator wants it.
    pub(super) fn rekey_child(&mut self, base: &mut Base, now: Instant, pair: Spi) {
        if let Some(child) = base.child_mut(pair) {
            child.schedule.bring_forward(now);
        }
    }

    /// A CHILD SA has come to its end. If it has a successor, that is used from now on, and the peer, or our Delete that
    /// is waiting, does the rest.
    pub(super) fn expire_child(&mut self, cx: &mut Context, base: &mut Base, pair: Spi) {
        let Some(child) = base.child_mut(pair) else { return };
        child.schedule.end = None;
        if child.successor.is_some() {
            base.retire_child(cx, pair, "its lifetime is over");
        } else {
            self.close(cx, base, pair, "its lifetime is over");
        }
    }

    pub(super) fn handle_timeout(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
    ) -> Next {
        if self.channel.needs_another_way(cx, now) {
            base.seek_stream(cx);
        }
        base.reopen_if_due(cx, now);
        if let (Retransmitted::GivenUp(unanswered), exchange) = self.channel.retransmit(cx, base, now) {
            base.loss = Some(Loss::Silent);
            return Err(Closed::failed(base.about(cx).silent(exchange, unanswered, base)));
        }
        if self.followup_deadline().is_some_and(|until| until <= now) {
            self.forget_followup(cx, base);
        }
        if self.next_keepalive.is_some_and(|due| due <= now) {
            cx.transmit.push_back(Datagram {
                local: base.local,
                remote: base.remote,
                payload: DatagramPayload::NatKeepalive,
            });
            self.schedule_keepalive(cx, base, now);
        }
        if self.dpd_due(cx, base).is_some_and(|due| due <= now) {
            let pairs: Vec<Spi> = base.children.iter().map(|child| child.status.spi_in).collect();
            self.liveness = if pairs.is_empty() {
                Liveness::Suspect
            } else {
                Liveness::Counting(cx.query_counters(base.id, pairs))
            };
        }
        let ended: Vec<Spi> = base
            .children
            .iter()
            .filter(|child| child.schedule.has_ended(now))
            .map(|child| child.status.spi_in)
            .collect();
        for pair in ended {
            self.expire_child(cx, base, pair);
        }
        self.look_for_idle(cx, base, now);
        let over = base.superseded.is_some_and(|until| until <= now);
        // The peer should have deleted it long ago. Perhaps it never had our answer, and knows nothing of the successor.
        if over && let Some(heir) = base.heir.take() {
            cx.effects.push_back(Effect::Probe { id: heir });
        }
        let session_over = base.session_end.is_some_and(|end| end <= now);
        if over || session_over || self.schedule.has_ended(now) || base.authentication.has_ended(now) {
            (self.schedule.end, base.authentication.end, base.session_end) = (None, None, None);
            base.doomed = true;
        }
        self.pump(cx, base, now)
    }

    pub(super) fn deadline(&self, cx: &Context, base: &Base) -> Option<Instant> {
        let ends = base.children.iter().filter_map(|child| child.schedule.end);
        let single = [
            self.channel.due(),
            self.next_keepalive,
            self.dpd_due(cx, base),
            base.superseded.filter(|_| !base.doomed),
            self.schedule.end,
            base.authentication.end,
            base.session_end,
            self.next_of_ours(base),
            self.followup_deadline(),
            base.reopening_due(),
        ];
        let idle = base.children.iter().filter_map(|child| child.idle_check);
        single.into_iter().flatten().chain(ends).chain(idle).min()
    }

    /// Closes the CHILD SAs of one child; the peer is told by the next [`Established::pump`]. False if there is
    /// none.
    pub(super) fn close_child(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        child: usize,
        reason: &str,
    ) -> bool {
        let purpose = match &mut self.ours {
            Ours::Creating(creating) => Some(&mut creating.purpose),
            Ours::Installing(_, purpose) => Some(purpose),
            _ => None,
        };
        if let Some(purpose) = purpose
            && purpose.old().and_then(|old| base.child(old)).is_some_and(|old| old.config == child)
        {
            purpose.terminate();
        }
        if let Some(Theirs::Child(theirs)) = &mut self.theirs
            && theirs.child() == child
        {
            theirs.terminate();
        }
        let pairs: Vec<Spi> = base
            .children
            .iter()
            .filter(|found| found.config == child)
            .map(|found| found.status.spi_in)
            .collect();
        for pair in &pairs {
            self.close(cx, base, *pair, reason);
        }
        !pairs.is_empty()
    }
}

impl Established {
    /// The child that an exchange of the peer's is about, while it is under way.
    pub(super) fn child_under_way(&self) -> Option<usize> {
        match &self.theirs {
            Some(Theirs::Child(theirs)) => Some(theirs.child()),
            Some(Theirs::Ike(_) | Theirs::Addresses(_)) | None => None,
        }
    }
}

impl Theirs {
    fn awaits(&self, id: JobId) -> bool {
        match self {
            Self::Child(theirs) => theirs.awaits(id),
            Self::Ike(theirs) => theirs.awaits(id),
            Self::Addresses(assigning) => assigning.awaits(id),
        }
    }
}
