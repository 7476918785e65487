//! An authenticated IKE SA: what it does of its own accord (children that are wanted, deletes, liveness, NAT
//! keepalives), and which exchange a message, job or timer belongs to.
//!
//! The window is one both ways: at most one exchange of ours and one of the peer's are under way. What else is to
//! be done waits in `deletes` and [`Base::goals`], and [`Established::pump`] starts the next.

use std::time::Instant;

use portcullis_ipsec::Spi;

use super::api::*;
use super::channel::{Channel, Incoming, Retransmitted};
use super::child::{Agreed, ChildPayloads, Installing, Refusal};
use super::context::Context;
use super::create_child_sa::initiator::Creating;
use super::create_child_sa::responder::Answering;
use super::ike_sa_init::{InitRecord, notification};
use super::informational::{self, Deleting};
use super::sa::{Base, Closed, Done, Inbound, Next, State};
use crate::message::{ExchangeType, MessageError, Payload, notify};

/// An authenticated IKE SA.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) channel: Channel,
    pub(super) ours: Ours,
    /// A peer's request for a child that waits for jobs.
    pub(super) theirs: Option<Answering>,
    /// Our SPIs of CHILD SAs that are gone here and to be deleted at the peer.
    pub(super) deletes: Vec<Spi>,
    /// When the peer last showed that it lives.
    heard: Instant,
    liveness: Liveness,
    next_keepalive: Option<Instant>,
}

/// Our exchange under way, and what follows it until the next may begin.
#[derive(Debug)]
pub(super) enum Ours {
    Idle,
    Creating(Creating),
    Installing(Installing),
    /// Awaits the answer to a Delete.
    Deleting,
    /// Awaits the answer to an empty INFORMATIONAL request.
    Probing,
}

/// Dead-peer detection (RFC 7296 §2.4).
#[derive(Debug)]
enum Liveness {
    /// The peer was heard of not long ago.
    Quiet,
    /// Nothing came by IKE; the data plane is asked whether ESP did.
    Counting(JobId),
    /// Nothing came at all: an empty request is due.
    Suspect,
}

impl Established {
    /// Both ends are authenticated.
    pub(super) fn begin(cx: &mut Context, base: &mut Base, now: Instant, channel: Channel) -> Self {
        base.established = Some(now);
        cx.sa_established(base.connection);
        let mut established = Self {
            channel,
            ours: Ours::Idle,
            theirs: None,
            deletes: Vec::new(),
            heard: now,
            liveness: Liveness::Quiet,
            next_keepalive: None,
        };
        established.schedule_keepalive(cx, base, now);
        cx.event(Event::IkeEstablished { ike: base.status(cx, IkeState::Established) });
        established
    }

    /// Installs a child that we asked for; nothing else of ours happens until that is done.
    pub(super) fn install(&mut self, cx: &mut Context, base: &mut Base, agreed: Agreed, keymat: &[u8]) {
        let (pair, name) = (agreed.pair, agreed.name.clone());
        match Installing::begin(cx, base, agreed, keymat) {
            Ok(installing) => self.ours = Ours::Installing(installing),
            Err(error) => {
                let failure = base.about(cx).not_installed(&name, &error);
                self.child_refused(cx, base, pair, Refusal { failure, delete: true });
            }
        }
    }

    /// The child that we asked for is not to be had.
    pub(super) fn child_refused(&mut self, cx: &mut Context, base: &mut Base, pair: Spi, refusal: Refusal) {
        self.ours = Ours::Idle;
        base.release(cx, pair);
        base.fail_goal(cx, refusal.failure);
        if refusal.delete {
            self.deletes.push(pair);
        }
    }

    /// Answers the child part of an IKE_AUTH request; `answer` is the part that authenticates us.
    pub(super) fn answer_first_child(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        answer: Vec<Payload>,
        payloads: &[Payload],
        record: &InitRecord,
    ) {
        match ChildPayloads::parse(payloads) {
            // An IKE SA without a child: RFC 6023 asks us to say beforehand that we take that, but we do anyway.
            Ok(None) => self.channel.respond(cx, base, answer),
            Ok(Some(found)) => {
                let nonces = (record.nonce_i.clone(), record.nonce_r.clone());
                self.theirs = Answering::begin_first(cx, base, &mut self.channel, answer, &found, nonces);
            }
            Err(missing) => {
                cx.event(Event::Failed(base.about(cx).missing("IKE_AUTH", missing)));
                let mut answer = answer;
                answer.push(notification(notify::INVALID_SYNTAX, Vec::new()));
                self.channel.respond(cx, base, answer);
            }
        }
    }

    pub(super) fn handle_message(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        inbound: &Inbound<'_>,
    ) -> Next {
        let incoming = self.channel.receive(cx, base, inbound);
        if !matches!(incoming, Incoming::Nothing) {
            self.alive(now);
        }
        match incoming {
            Incoming::Request(ExchangeType::CreateChildSa, payloads) => {
                self.theirs = Answering::begin(cx, base, &mut self.channel, &payloads);
            }
            Incoming::Request(ExchangeType::Informational, payloads) => {
                return self.handle_informational(cx, base, now, &payloads);
            }
            // RFC 7296 §2.21.3: an authentic request that makes no sense is answered so.
            Incoming::Request(exchange, _) => {
                let error =
                    MessageError::Invalid { what: "the exchange type", found: exchange_number(exchange) };
                return self.handle_bad_request(cx, base, exchange, &error);
            }
            Incoming::BadRequest(exchange, error) => {
                return self.handle_bad_request(cx, base, exchange, &error);
            }
            Incoming::Response(payloads) => self.handle_response(cx, base, &payloads),
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

    fn handle_response(&mut self, cx: &mut Context, base: &mut Base, payloads: &[Payload]) {
        match std::mem::replace(&mut self.ours, Ours::Idle) {
            Ours::Creating(creating) => creating.handle_response(cx, base, self, payloads),
            Ours::Deleting if self.deletes.is_empty() => base.children_deleted(cx),
            Ours::Deleting | Ours::Probing => {}
            ours @ (Ours::Idle | Ours::Installing(_)) => self.ours = ours,
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
        } else if self.theirs.as_ref().is_some_and(|theirs| theirs.awaits(done.id)) {
            if let Some(theirs) = self.theirs.take() {
                self.theirs = theirs.handle_job(cx, base, now, &mut self.channel, done);
            }
        } else {
            match std::mem::replace(&mut self.ours, Ours::Idle) {
                Ours::Creating(creating) if creating.awaits(done.id) => {
                    creating.handle_job(cx, base, now, &mut self, done);
                }
                Ours::Installing(installing) if installing.job == done.id => {
                    self.installed(cx, base, now, installing, done.result);
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
        result: JobResult,
    ) {
        let (pair, name) = (installing.agreed.pair, installing.agreed.name.clone());
        match result {
            JobResult::ChildInstalled(Ok(policy)) if installing.deleted => {
                cx.remove_child(base.id, pair, Some(policy));
                let failure = base.about(cx).closed_early("the peer deleted the CHILD SA at once");
                base.fail_goal(cx, failure);
            }
            JobResult::ChildInstalled(Ok(policy)) => {
                let unwanted = base.goal.as_ref().is_some_and(|goal| goal.unwanted);
                installing.complete(cx, base, now, policy);
                base.finish_goal(cx, Ok(()));
                if unwanted {
                    base.remove_child(cx, pair, "terminated");
                    self.deletes.push(pair);
                }
            }
            JobResult::ChildInstalled(Err(error)) => {
                let failure = base.about(cx).not_installed(&name, &error);
                self.child_refused(cx, base, pair, Refusal { failure, delete: !installing.deleted });
            }
            _ => self.ours = Ours::Installing(installing),
        }
    }

    pub(super) fn handle_timeout(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
    ) -> Next {
        if let (Retransmitted::GivenUp(times), exchange) = self.channel.retransmit(cx, base, now) {
            return Err(Closed::failed(base.about(cx).silent(exchange, times)));
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
        self.pump(cx, base, now)
    }

    pub(super) fn deadline(&self, cx: &Context, base: &Base) -> Option<Instant> {
        [self.channel.due(), self.next_keepalive, self.dpd_due(cx, base)].into_iter().flatten().min()
    }

    /// When the peer's silence becomes suspicious. While a request of ours is under way, its retransmission finds
    /// a dead peer soon enough.
    fn dpd_due(&self, cx: &Context, base: &Base) -> Option<Instant> {
        let delay = cx.connection(base.connection)?.dpd_delay;
        let watching = matches!(self.liveness, Liveness::Quiet) && self.channel.idle() && !delay.is_zero();
        watching.then(|| self.heard + delay)
    }

    fn alive(&mut self, now: Instant) {
        self.heard = now;
        self.liveness = Liveness::Quiet;
    }

    /// ESP that was opened counts as life like an IKE message does.
    fn counted(&mut self, cx: &Context, base: &Base, now: Instant, result: &JobResult) {
        let idle = match result {
            JobResult::Counters(counters) => {
                counters.iter().filter_map(|(_, counters)| counters.as_ref()?.idle_in).min()
            }
            _ => None,
        };
        let opened = idle.and_then(|idle| now.checked_sub(idle)).filter(|at| *at > self.heard);
        let delay = cx.connection(base.connection).map(|c| c.dpd_delay).unwrap_or_default();
        self.heard = opened.unwrap_or(self.heard);
        self.liveness = if self.heard + delay > now { Liveness::Quiet } else { Liveness::Suspect };
    }

    /// RFC 7296 §2.23: whoever is behind a NAT keeps its mapping open.
    fn schedule_keepalive(&mut self, cx: &Context, base: &Base, now: Instant) {
        let wanted = (base.nat.local || base.nat.forced)
            && !cx.config.nat_keepalive.is_zero()
            && base.local.port() != cx.config.port;
        self.next_keepalive = wanted.then(|| now + cx.config.nat_keepalive);
    }

    /// Starts the next exchange of ours if none is under way.
    pub(super) fn pump(mut self: Box<Self>, cx: &mut Context, base: &mut Base, now: Instant) -> Next {
        // Before IKE_AUTH is answered the peer could not read a request.
        let answering_first = self.theirs.as_ref().is_some_and(Answering::is_first);
        if !matches!(self.ours, Ours::Idle) || !self.channel.idle() || answering_first {
            return Ok(State::Established(self));
        }
        if base.doomed {
            return Ok(Deleting::begin(cx, base, now, self.channel));
        }
        if !self.deletes.is_empty() {
            let delete = informational::delete_children(&std::mem::take(&mut self.deletes));
            self.channel.request(cx, base, now, ExchangeType::Informational, vec![delete]);
            self.ours = Ours::Deleting;
        } else if let Some(goal) = base.goals.pop_front() {
            self.ours = Ours::Creating(Creating::begin(cx, base));
            base.goal = Some(goal);
        } else if matches!(self.liveness, Liveness::Suspect) {
            self.channel.request(cx, base, now, ExchangeType::Informational, Vec::new());
            self.ours = Ours::Probing;
        }
        Ok(State::Established(self))
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
        let pairs: Vec<Spi> = base
            .children
            .iter()
            .filter(|found| found.config == child)
            .map(|found| found.status.spi_in)
            .collect();
        for pair in &pairs {
            base.remove_child(cx, *pair, reason);
        }
        self.deletes.extend(&pairs);
        !pairs.is_empty()
    }
}

fn exchange_number(exchange: ExchangeType) -> u64 {
    match exchange {
        ExchangeType::IkeSaInit => 34,
        ExchangeType::IkeAuth => 35,
        ExchangeType::CreateChildSa => 36,
        ExchangeType::Informational => 37,
        ExchangeType::Other(other) => other.into(),
    }
}
