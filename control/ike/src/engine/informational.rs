//! INFORMATIONAL (RFC 7296 §1.4): deletes both ways, liveness, and errors about what was thought to be good.

use std::time::Instant;

use portcullis_ipsec::Spi;

use super::actions::Loss;
use super::addresses;
use super::api::{Event, Failure};
use super::channel::{Channel, Incoming, Retransmitted};
use super::context::{Context, Effect};
use super::established::{Established, Ours};
use super::failure::notify_name;
use super::ike_sa_init::{error_notification, notification};
use super::resumption;
use super::sa::{Base, Closed, Done, Inbound, Next};
use super::state::State;
use crate::message::{ExchangeType, Payload, Protocol, notify};

/// A Delete of CHILD SAs, by the SPIs that we receive on (RFC 7296 §3.11).
pub(super) fn delete_children(spis: &[Spi]) -> Payload {
    Payload::Delete {
        protocol: Protocol::Esp,
        spis: spis.iter().map(|spi| spi.get().to_be_bytes().to_vec()).collect(),
    }
}

fn delete_ike() -> Payload {
    Payload::Delete { protocol: Protocol::Ike, spis: Vec::new() }
}

pub(super) fn deletes_ike(payloads: &[Payload]) -> bool {
    payloads.iter().any(|payload| matches!(payload, Payload::Delete { protocol: Protocol::Ike, .. }))
}

impl Established {
    /// A peer's request.
    pub(super) fn handle_informational(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        payloads: &[Payload],
    ) -> Next {
        // RFC 7296 §2.21.2: these end the IKE SA without a Delete.
        let rejected = error_notification(payloads)
            .map(|error| error.notify_type)
            .filter(|error| matches!(*error, notify::AUTHENTICATION_FAILED | notify::INVALID_SYNTAX));
        if rejected.is_some() || deletes_ike(payloads) {
            self.channel.respond(cx, base, Vec::new());
            let closed = match rejected {
                Some(error) => Closed::failed(rejection(cx, base, error)),
                None => Closed::because(self.leave_to_rival(cx, base)),
            };
            return Err(closed.lingering(self.channel.linger()));
        }
        let mut deleted = Vec::new();
        for payload in payloads {
            if let Payload::Delete { protocol: Protocol::Esp, spis } = payload {
                deleted.extend(spis.iter().filter_map(|spi| self.delete_child(cx, base, now, spi)));
            }
        }
        self.peer_lacks(cx, base, payloads);
        base.heed_lifetime(cx, now, payloads);
        // RFC 7296 §1.4.1: the answer deletes the other halves; those that we have deleted already are left out.
        let mut answer = if deleted.is_empty() { Vec::new() } else { vec![delete_children(&deleted)] };
        answer.extend(addresses::answer_informational(payloads));
        answer.extend(resumption::answer(cx, base, now, &self.channel, payloads));
        answer.extend(self.answer_mobike(cx, base, now, payloads));
        self.channel.respond(cx, base, answer);
        self.redirected(cx, base, now, payloads);
        self.pump(cx, base, now)
    }

    /// The peer deletes the IKE SA. If it has rekeyed it while we were about to, what it has made prevails (RFC 7296
    /// §2.25.2).
    fn leave_to_rival(&mut self, cx: &mut Context, base: &mut Base) -> &'static str {
        let rival = match &self.ours {
            Ours::RekeyingIke(rekeying) => rekeying.rival(),
            _ => None,
        };
        match rival.filter(|rival| cx.index.has(*rival)) {
            Some(heir) => {
                let estate = Box::new(base.leave());
                cx.effects.push_back(Effect::Inherit { from: base.id, heir, estate });
                "rekeyed"
            }
            None if base.superseded.is_some() => "rekeyed",
            None => {
                base.loss = Some(Loss::Closed);
                "deleted by the peer"
            }
        }
    }

    /// Deletes the CHILD SA that the peer receives on `spi`; gives our own SPI, unless we are deleting it too
    /// (RFC 7296 §1.4.1, §2.25.1).
    fn delete_child(&mut self, cx: &mut Context, base: &mut Base, now: Instant, spi: &[u8]) -> Option<Spi> {
        let spi = Spi::new(u32::from_be_bytes(spi.try_into().ok()?))?;
        if let Ours::Installing(installing, _) = &mut self.ours
            && installing.agreed.peer == spi
        {
            let first = !std::mem::replace(&mut installing.deleted, true);
            return first.then_some(installing.agreed.pair);
        }
        let Some((pair, successor)) =
            base.child_of_peer(spi).map(|child| (child.status.spi_in, child.successor))
        else {
            if let Ours::Creating(creating) = &mut self.ours {
                creating.peer_deletes(spi);
            }
            // Gone here, and about to be deleted by us: it need not be any more.
            let at = base.deletes.iter().position(|doomed| doomed.peer == Some(spi))?;
            return Some(base.deletes.remove(at).pair);
        };
        match successor {
            Some(_) => base.retire_child(cx, pair, "rekeyed"),
            None => {
                base.peer_needs_no(pair, now);
                let before = base.loss.replace(Loss::Closed);
                base.remove_child(cx, pair, "deleted by the peer");
                base.loss = before;
            }
        }
        base.deletes.retain(|doomed| doomed.pair != pair);
        let under_way =
            matches!(&self.ours, Ours::Deleting(doomed) if doomed.iter().any(|doomed| doomed.pair == pair));
        (!under_way).then_some(pair)
    }
}

fn rejection(cx: &Context, base: &Base, error: u16) -> Failure {
    let about = base.about(cx);
    match (error, &base.local_id) {
        (notify::AUTHENTICATION_FAILED, Some(local_id)) => about.authentication_withdrawn(local_id),
        _ => about.refused("last", error),
    }
}

/// Awaits the answer to the Delete of an IKE SA whose children are gone already.
#[derive(Debug)]
pub(super) struct Deleting {
    channel: Box<Channel>,
    reason: String,
}

impl Deleting {
    /// Deletes an IKE SA because we want to. No request of ours may be under way.
    pub(super) fn begin(
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        mut channel: Box<Channel>,
        reason: &str,
    ) -> State {
        base.remove_children(cx, reason);
        base.abandon_goals(cx, &base.about(cx).closed_early(reason));
        channel.request(cx, base, now, ExchangeType::Informational, vec![delete_ike()]);
        State::Deleting(Self { channel, reason: reason.to_owned() })
    }

    /// Deletes an IKE SA because of what the peer sent, naming the error to it if the RFC has one for it.
    pub(super) fn reject(
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        mut channel: Box<Channel>,
        failure: Failure,
        told: Option<u16>,
    ) -> State {
        base.remove_children(cx, &failure.sentence);
        cx.event(Event::Failed(failure.clone()));
        base.abandon_goals(cx, &failure);
        let mut payloads: Vec<Payload> =
            told.map(|error| notification(error, Vec::new())).into_iter().collect();
        payloads.push(delete_ike());
        channel.request(cx, base, now, ExchangeType::Informational, payloads);
        let reason = match told {
            Some(error) => format!("{} ({})", failure.sentence, notify_name(error)),
            None => failure.sentence,
        };
        State::Deleting(Self { channel, reason })
    }

    pub(super) fn handle_message(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        _now: Instant,
        inbound: &Inbound<'_>,
    ) -> Next {
        match self.channel.receive(cx, base, inbound) {
            Incoming::Response(_) | Incoming::BadResponse(_) => Err(Closed::because(&self.reason)),
            // Both ends delete at once: each answers, and both are done (RFC 7296 §1.4.1).
            Incoming::Request(ExchangeType::Informational, payloads) => {
                self.channel.respond(cx, base, Vec::new());
                if deletes_ike(&payloads) {
                    return Err(Closed::because(&self.reason).lingering(self.channel.linger()));
                }
                Ok(State::Deleting(self))
            }
            // RFC 7296 §2.25.2.
            Incoming::Request(..) => {
                self.channel.respond(cx, base, vec![notification(notify::TEMPORARY_FAILURE, Vec::new())]);
                Ok(State::Deleting(self))
            }
            Incoming::BadRequest(..) => {
                self.channel.respond(cx, base, vec![notification(notify::INVALID_SYNTAX, Vec::new())]);
                Err(Closed::because(&self.reason).lingering(self.channel.linger()))
            }
            Incoming::Nothing => Ok(State::Deleting(self)),
        }
    }

    pub(super) fn handle_timeout(mut self, cx: &mut Context, base: &mut Base, now: Instant) -> Next {
        base.reopen_if_due(cx, now);
        match self.channel.retransmit(cx, base, now) {
            (Retransmitted::GivenUp(_), _) => Err(self.unheard()),
            _ => Ok(State::Deleting(self)),
        }
    }

    /// The TCP stream has ended that the Delete went by.
    pub(super) fn stream_closed(self, cx: &mut Context, base: &mut Base, now: Instant) -> Next {
        match base.stream_closed(cx, now) {
            Ok(()) => Ok(State::Deleting(self)),
            Err(_) => Err(self.unheard()),
        }
    }

    /// The Delete goes by another stream, if there is one.
    pub(super) fn handle_job(mut self, cx: &mut Context, base: &mut Base, now: Instant, done: Done) -> Next {
        if !base.awaits_stream(done.id) {
            done.discard(cx, base.id);
            return Ok(State::Deleting(self));
        }
        match base.stream_opened(cx, now, done) {
            Ok(None) => {}
            Ok(Some(stream)) => {
                base.set_path(stream);
                self.channel.hurry(now);
            }
            Err(_) => return Err(self.unheard()),
        }
        Ok(State::Deleting(self))
    }

    fn unheard(&self) -> Box<Closed> {
        Closed::because(&format!("{}; the peer did not answer our Delete", self.reason))
    }

    pub(super) fn deadline(&self, base: &Base) -> Option<Instant> {
        self.channel.due().into_iter().chain(base.reopening_due()).min()
    }
}
