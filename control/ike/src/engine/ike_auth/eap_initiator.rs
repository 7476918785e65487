//! IKE_AUTH as the initiator where EAP authenticates us (RFC 7296 §2.16): the responder has proven itself, and now asks
//! for our EAP packets one by one.

use std::time::Instant;

use super::eap_responder::secret;
use super::initiator::AwaitingAuthResponse;
use super::rounds::announce_another;
use super::{AuthPayloads, auth_data, ppk, verify};
use crate::auth::eap::{Client, ClientSettings, Conversation, Msk, Step, secret_of};
use crate::auth::method::SHARED_KEY_MIC;
use crate::config::{IdentityMatch, LocalMethod, Secret};
use crate::engine::api::{Failure, JobId, JobResult};
use crate::engine::channel::{Channel, Incoming, Retransmitted};
use crate::engine::connections;
use crate::engine::context::Context;
use crate::engine::crash;
use crate::engine::ike_sa_init::error_notification;
use crate::engine::informational::Deleting;
use crate::engine::sa::{Base, Closed, Done, Inbound, Next, Role};
use crate::engine::state::State;
use crate::message::{ExchangeType, IdPayload, MessageError, Payload, notify};

/// We are being authenticated.
#[derive(Debug)]
pub(in crate::engine) struct EapSession {
    awaiting: Box<AwaitingAuthResponse>,
    /// The responder's ID payload, as its AUTH covers it.
    id_r: IdPayload,
}

impl EapSession {
    /// The responder has proven itself, and sent its first EAP packet.
    pub(super) fn begin(
        cx: &mut Context,
        base: &mut Base,
        awaiting: Box<AwaitingAuthResponse>,
        id_r: IdPayload,
        packet: Vec<u8>,
    ) -> Next {
        let config = cx.config.clone();
        let connection = config.connections.get(base.connection);
        let local = connection.and_then(|connection| connection.local.get(awaiting.rounds.local));
        let local = local.map(|round| &round.auth);
        let Some(LocalMethod::Eap { method, eap_id, aaa_id, .. }) = local else {
            return Err(Closed::because("it is not configured any more"));
        };
        let user = eap_id.clone().unwrap_or_else(|| awaiting.id.identity.to_string());
        let password = match method.has_password() {
            true => secret_of(&config.users, &user).map(|user| user.secret.clone()),
            false => Some(Secret(Vec::new())),
        };
        let Some(password) = password else {
            return Err(Closed::failed(base.about(cx).no_password(&user)));
        };
        let client = Client::new(ClientSettings {
            method: *method,
            user,
            password,
            tls: connections::tls_settings(local, connection.map(connections::remote_method)),
            server: aaa_id.clone().unwrap_or_else(|| IdentityMatch::Exactly(id_r.identity.clone())),
        });
        Ok(Box::new(Self { awaiting, id_r }).turn(cx, base, Box::new(client), packet))
    }

    fn turn(self: Box<Self>, cx: &mut Context, base: &Base, client: Box<Client>, packet: Vec<u8>) -> State {
        let job = cx.turn_eap(base.id, Conversation::Client(client), packet);
        State::AnsweringEap(AnsweringEap { job, session: self })
    }

    /// Does what our end of the conversation wants done.
    fn follow(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        client: Box<Client>,
        step: Step,
    ) -> Next {
        let failure = match step {
            Step::Send(packet) => {
                let payloads = vec![Payload::Eap(packet)];
                self.awaiting.channel.request(cx, base, now, ExchangeType::IkeAuth, payloads);
                return Ok(State::AwaitingEapRequest(AwaitingEapRequest { session: self, client }));
            }
            Step::Done(outcome) => {
                let has = cx.connection(base.connection).map_or(1, |connection| connection.local.len());
                let config = cx.config.clone();
                let Some(connection) = config.connections.get(base.connection) else {
                    return Err(Closed::because("it is not configured any more"));
                };
                let AwaitingAuthResponse { channel, record, id, rounds, .. } = &mut *self.awaiting;
                let ppk = ppk::of_initiator(&config, connection, record.ppk, &base.about(cx));
                let ppk = ppk.map_err(Closed::failed)?;
                let prove = |channel: &Channel| {
                    let secret = secret(channel, outcome.msk.as_ref(), Role::Initiator);
                    auth_data(channel, record, Role::Initiator, id, &secret)
                };
                let without = (ppk.is_some() && !connection.ppk.required).then(|| prove(channel));
                ppk.into_iter().for_each(|ppk| channel.mix(&ppk.secret));
                let mut payloads = vec![Payload::Auth { method: SHARED_KEY_MIC, data: prove(channel) }];
                payloads.extend(ppk.and(connection.ppk.id.as_ref()).map(ppk::identity));
                payloads.extend(without.map(ppk::without));
                payloads.extend(announce_another(has, rounds.local));
                payloads.extend(crash::announce(cx, base.connection, (base.spi_i, base.spi_r)));
                channel.request(cx, base, now, ExchangeType::IkeAuth, payloads);
                let (msk, user) = (outcome.msk, client.user().to_owned());
                let state = AwaitingLastAuthResponse { session: self, msk, user };
                return Ok(State::AwaitingLastAuthResponse(state));
            }
            Step::Failed { why, .. } => base.about(cx).server_rejected(&why),
            // Clients ask nobody.
            Step::Ask(_) => base.about(cx).missing("IKE_AUTH", "an EAP packet for a client"),
        };
        Ok(self.awaiting.reject(cx, base, now, failure))
    }

    /// The answer to our last request; `None`: it was none.
    fn answer(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        inbound: &Inbound<'_>,
    ) -> Result<Option<Vec<Payload>>, MessageError> {
        if !inbound.header().response {
            // The responder's first request has overtaken its answer: it will come again.
            return Ok(None);
        }
        match self.awaiting.channel.receive(cx, base, inbound) {
            Incoming::Response(payloads) => Ok(Some(payloads)),
            Incoming::BadResponse(error) => Err(error),
            _ => Ok(None),
        }
    }

    fn reject_malformed(
        self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        error: &MessageError,
    ) -> State {
        let failure = base.about(cx).malformed("IKE_AUTH", error);
        Deleting::reject(cx, base, now, self.awaiting.channel, failure, None)
    }

    /// Repeats the request that is under way, or gives up.
    fn retransmit(&mut self, cx: &mut Context, base: &mut Base, now: Instant) -> Result<(), Box<Closed>> {
        match self.awaiting.channel.retransmit(cx, base, now) {
            (Retransmitted::GivenUp(request), exchange) => {
                Err(Closed::failed(base.about(cx).silent(exchange, request, base)))
            }
            _ => Ok(()),
        }
    }
}

/// Awaits our next packet.
#[derive(Debug)]
pub(in crate::engine) struct AnsweringEap {
    job: JobId,
    session: Box<EapSession>,
}

impl AnsweringEap {
    pub(in crate::engine) fn handle_job(
        self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        done: Done,
    ) -> Next {
        match done.result {
            JobResult::EapTurned(turned) if done.id == self.job => match *turned {
                (Conversation::Client(client), step) => self.session.follow(cx, base, now, client, step),
                (Conversation::Server(_), _) => Err(Closed::because("EAP was mistaken for its other end")),
            },
            _ => {
                done.discard(cx, base.id);
                Ok(State::AnsweringEap(self))
            }
        }
    }
}

/// Awaits the server's next packet.
#[derive(Debug)]
pub(in crate::engine) struct AwaitingEapRequest {
    session: Box<EapSession>,
    client: Box<Client>,
}

impl AwaitingEapRequest {
    pub(in crate::engine) fn handle_message(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        inbound: &Inbound<'_>,
    ) -> Next {
        let payloads = match self.session.answer(cx, base, inbound) {
            Ok(Some(payloads)) => payloads,
            Ok(None) => return Ok(State::AwaitingEapRequest(self)),
            Err(error) => return Ok(self.session.reject_malformed(cx, base, now, &error)),
        };
        match (AuthPayloads::parse(&payloads).eap, error_notification(&payloads)) {
            (Some(packet), _) => Ok(self.session.turn(cx, base, self.client, packet.to_vec())),
            (None, Some(error)) => {
                // The peer has forgotten the IKE SA already.
                Err(Closed::failed(self.refusal(cx, base, error.notify_type)))
            }
            (None, None) => {
                let failure = base.about(cx).missing("IKE_AUTH", "an EAP payload");
                Ok(self.session.awaiting.reject(cx, base, now, failure))
            }
        }
    }

    fn refusal(&self, cx: &Context, base: &Base, notify_type: u16) -> Failure {
        match self.client.refusal() {
            Some(why) => base.about(cx).server_rejected(why),
            None => self.session.awaiting.refusal(cx, base, notify_type),
        }
    }

    pub(in crate::engine) fn handle_timeout(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
    ) -> Next {
        self.session.retransmit(cx, base, now)?;
        Ok(State::AwaitingEapRequest(self))
    }

    pub(in crate::engine) fn deadline(&self) -> Option<Instant> {
        self.session.awaiting.channel.due()
    }
}

/// EAP has succeeded, and our AUTH is on its way: awaits the responder's.
#[derive(Debug)]
pub(in crate::engine) struct AwaitingLastAuthResponse {
    session: Box<EapSession>,
    msk: Option<Msk>,
    user: String,
}

impl AwaitingLastAuthResponse {
    pub(in crate::engine) fn handle_message(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        inbound: &Inbound<'_>,
    ) -> Next {
        let payloads = match self.session.answer(cx, base, inbound) {
            Ok(Some(payloads)) => payloads,
            Ok(None) => return Ok(State::AwaitingLastAuthResponse(self)),
            Err(error) => return Ok(self.session.reject_malformed(cx, base, now, &error)),
        };
        let EapSession { mut awaiting, id_r } = *self.session;
        let answered = AuthPayloads::parse(&payloads).auth.is_some();
        if answered && let Err(failure) = awaiting.heed_ppk(cx, base, &payloads) {
            return Ok(awaiting.reject(cx, base, now, failure));
        }
        let failure = match (AuthPayloads::parse(&payloads).auth, error_notification(&payloads)) {
            (Some((SHARED_KEY_MIC, data)), _) => {
                let secret = secret(&awaiting.channel, self.msk.as_ref(), Role::Responder);
                // Without EAP's key anybody could make it (RFC 5998 §3).
                let only = cx.connection(base.connection).is_some_and(connections::is_eap_only);
                let proves = self.msk.is_some() || !only;
                if proves
                    && verify(&awaiting.channel, &awaiting.record, Role::Responder, &id_r, &secret, data)
                {
                    return awaiting.go_on(cx, base, now, &payloads);
                }
                base.about(cx).eap_key_mismatch(&self.user)
            }
            (None, Some(error)) if error.notify_type == notify::AUTHENTICATION_FAILED => {
                return Err(Closed::failed(base.about(cx).eap_key_refused(&self.user)));
            }
            (None, Some(error)) => {
                return Err(Closed::failed(base.about(cx).refused("IKE_AUTH", error.notify_type)));
            }
            (_, _) => base.about(cx).missing("IKE_AUTH", "an AUTH payload with the key of EAP"),
        };
        Ok(awaiting.reject(cx, base, now, failure))
    }

    pub(in crate::engine) fn handle_timeout(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
    ) -> Next {
        self.session.retransmit(cx, base, now)?;
        Ok(State::AwaitingLastAuthResponse(self))
    }

    pub(in crate::engine) fn deadline(&self) -> Option<Instant> {
        self.session.awaiting.channel.due()
    }
}
