//! IKE_AUTH as the responder of an initiator that EAP authenticates (RFC 7296 §2.16): we prove ourselves first, then EAP
//! packets go back and forth in further IKE_AUTH exchanges, and what closes it is an AUTH payload of either end made
//! with the key that came of EAP. The first request's CHILD SA is answered last.

use std::time::Instant;

use super::responder::{AwaitingAuthRequest, Came, Identified};
use super::rounds;
use super::{AuthPayloads, auth_data, method_name, verify};
use crate::auth::eap::{Conversation, Msk, Outcome, Server, Step};
use crate::auth::method::SHARED_KEY_MIC;
use crate::config::{RemoteMethod, Secret};
use crate::engine::api::{AaaQuestion, Failure, JobId, JobResult};
use crate::engine::channel::Channel;
use crate::engine::connections;
use crate::engine::context::Context;
use crate::engine::failure::About;
use crate::engine::ike_sa_init::notification;
use crate::engine::sa::{Base, Closed, Done, Inbound, Next, Role};
use crate::engine::state::State;
use crate::message::{IdPayload, Payload, notify};

/// An initiator that is being authenticated.
#[derive(Debug)]
pub(in crate::engine) struct EapSession {
    request: AwaitingAuthRequest,
    identified: Identified,
    /// Of its first request.
    payloads: Vec<Payload>,
}

impl EapSession {
    /// Begins EAP; its first packet goes with `answer`, in which we have proven who we are.
    pub(super) fn begin(
        cx: &mut Context,
        base: &Base,
        request: AwaitingAuthRequest,
        identified: Identified,
        answer: Vec<Payload>,
        payloads: Vec<Payload>,
    ) -> State {
        let connection = cx.connection(identified.connection);
        let remote = connection.and_then(|connection| connection.remote.get(identified.rounds.remote));
        let remote = remote.map(|round| &round.auth);
        let (method, wanted) = match remote {
            Some(RemoteMethod::Eap { method, eap_id, .. }) => (*method, eap_id.clone()),
            _ => (crate::auth::eap::ServerMethod::MsChapV2, None),
        };
        let tls = connections::tls_settings(connection.map(connections::local_method), remote);
        let alone = connection.is_some_and(connections::is_eap_only);
        let server = Server::new(method, wanted, &identified.id.identity, cx.config.users.clone(), tls);
        let server = server.proving_us(alone);
        let job = cx.turn_eap(base.id, Conversation::Server(Box::new(server)), Vec::new());
        let session = Box::new(Self { request, identified, payloads });
        State::TurningEap(TurningEap { job, session, answer })
    }

    fn about(&self, cx: &Context, base: &Base) -> About {
        self.identified.about(cx, base)
    }

    /// Does what the server of the conversation wants done. `answer` goes before its packet.
    fn follow(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        server: Box<Server>,
        step: Step,
        mut answer: Vec<Payload>,
    ) -> Next {
        match step {
            Step::Send(packet) => {
                answer.push(Payload::Eap(packet));
                self.request.channel.respond(cx, base, answer);
                Ok(State::AwaitingEapResponse(AwaitingEapResponse { session: self, server }))
            }
            Step::Ask(request) => {
                let question = AaaQuestion {
                    request: *request,
                    ike: base.id,
                    connection: cx.connection_name(self.identified.connection),
                    local: base.local,
                    remote: base.remote,
                };
                let job = cx.ask_aaa(question);
                Ok(State::AskingAaa(AskingAaa { job, session: self, server, answer }))
            }
            Step::Done(outcome) => {
                let Outcome { packet, msk, authorization, .. } = *outcome;
                answer.extend(packet.map(Payload::Eap));
                self.request.channel.respond(cx, base, answer);
                self.identified.authorization = authorization;
                Ok(State::AwaitingLastAuthRequest(AwaitingLastAuthRequest { session: self, msk }))
            }
            Step::Failed { packet, why } => {
                answer.extend(packet.map(Payload::Eap));
                answer.push(notification(notify::AUTHENTICATION_FAILED, Vec::new()));
                let failure = self.about(cx, base).client_rejected(&why);
                self.request.channel.respond(cx, base, answer);
                Err(Closed::failed(failure).lingering(self.request.channel.linger()))
            }
        }
    }

    fn refuse(&mut self, cx: &mut Context, base: &Base, notify_type: u16, failure: Failure) -> Box<Closed> {
        self.request.refuse(cx, base, notify_type, Vec::new(), failure)
    }

    /// The peer does not go on: that is acknowledged.
    fn let_go(&mut self, cx: &mut Context, base: &Base, failure: Failure) -> Box<Closed> {
        self.request.channel.respond(cx, base, Vec::new());
        Closed::failed(failure).lingering(self.request.channel.linger())
    }
}

/// Awaits the next packet of the server.
#[derive(Debug)]
pub(in crate::engine) struct TurningEap {
    job: JobId,
    session: Box<EapSession>,
    answer: Vec<Payload>,
}

impl TurningEap {
    pub(in crate::engine) fn handle_job(
        self,
        cx: &mut Context,
        base: &mut Base,
        _now: Instant,
        done: Done,
    ) -> Next {
        match done.result {
            JobResult::EapTurned(turned) if done.id == self.job => match *turned {
                (Conversation::Server(server), step) => {
                    self.session.follow(cx, base, server, step, self.answer)
                }
                (Conversation::Client(_), _) => Err(Closed::because("EAP was mistaken for its other end")),
            },
            _ => {
                done.discard(cx, base.id);
                Ok(State::TurningEap(self))
            }
        }
    }
}

/// Awaits the answer of an AAA server.
#[derive(Debug)]
pub(in crate::engine) struct AskingAaa {
    job: JobId,
    session: Box<EapSession>,
    server: Box<Server>,
    answer: Vec<Payload>,
}

impl AskingAaa {
    pub(in crate::engine) fn handle_job(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        done: Done,
    ) -> Next {
        match done.result {
            JobResult::AaaAnswered(answer) if done.id == self.job => {
                // The time that the AAA server took is not the peer's.
                base.progress = now;
                let step = self.server.handle_answer(*answer);
                self.session.follow(cx, base, self.server, step, self.answer)
            }
            _ => {
                done.discard(cx, base.id);
                Ok(State::AskingAaa(self))
            }
        }
    }
}

/// Awaits the client's next packet.
#[derive(Debug)]
pub(in crate::engine) struct AwaitingEapResponse {
    session: Box<EapSession>,
    server: Box<Server>,
}

impl AwaitingEapResponse {
    pub(in crate::engine) fn handle_message(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        inbound: &Inbound<'_>,
    ) -> Next {
        let payloads = match self.session.request.next_request(cx, base, now, inbound)? {
            Came::Request(payloads) => payloads,
            Came::Nothing => return Ok(State::AwaitingEapResponse(self)),
            Came::GivingUp | Came::KeyExchange(..) => {
                let about = self.session.about(cx, base);
                let failure = match self.server.refusal() {
                    Some(why) => about.client_rejected(why),
                    None => about.client_gave_up(self.server.user()),
                };
                return Err(self.session.let_go(cx, base, failure));
            }
        };
        let Some(packet) = AuthPayloads::parse(&payloads).eap else {
            let failure = self.session.about(cx, base).missing("IKE_AUTH", "an EAP payload");
            return Err(self.session.refuse(cx, base, notify::INVALID_SYNTAX, failure));
        };
        let job = cx.turn_eap(base.id, Conversation::Server(self.server), packet.to_vec());
        Ok(State::TurningEap(TurningEap { job, session: self.session, answer: Vec::new() }))
    }
}

/// EAP has succeeded: awaits the client's AUTH.
#[derive(Debug)]
pub(in crate::engine) struct AwaitingLastAuthRequest {
    session: Box<EapSession>,
    msk: Option<Msk>,
}

impl AwaitingLastAuthRequest {
    pub(in crate::engine) fn handle_message(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        inbound: &Inbound<'_>,
    ) -> Next {
        let mut received = match self.session.request.next_request(cx, base, now, inbound)? {
            Came::Request(payloads) => payloads,
            Came::Nothing => return Ok(State::AwaitingLastAuthRequest(self)),
            Came::GivingUp | Came::KeyExchange(..) => {
                let user = self.session.identified.authorization.eap_id.clone().unwrap_or_default();
                let failure = self.session.about(cx, base).client_gave_up(&user);
                return Err(self.session.let_go(cx, base, failure));
            }
        };
        let about = self.session.about(cx, base);
        let session = &mut *self.session;
        session.request.take_ppk(cx, &mut received);
        let connection = cx.connection(session.identified.connection);
        let lacks_ppk = connection.is_some_and(|connection| connection.ppk.required)
            && !session.request.channel.is_mixed();
        let refused = match AuthPayloads::parse(&received).auth {
            _ if lacks_ppk => Some(about.ppk_not_used()),
            Some((SHARED_KEY_MIC, data)) => {
                let AwaitingAuthRequest { channel, record, .. } = &session.request;
                let secret = secret(channel, self.msk.as_ref(), Role::Initiator);
                let proven = verify(channel, record, Role::Initiator, &session.identified.id, &secret, data);
                let user = session.identified.authorization.eap_id.as_deref().unwrap_or_default();
                (!proven).then(|| match channel.is_mixed() {
                    true => about.ppk_mismatch_with_eap(user),
                    false => about.eap_key_mismatch(user),
                })
            }
            Some((method, _)) => {
                let what = format!("an AUTH payload with EAP's key: it has {}", method_name(Some(method)));
                Some(about.missing("IKE_AUTH", &what))
            }
            None => Some(about.missing("IKE_AUTH", "an AUTH payload after EAP")),
        };
        if let Some(failure) = refused {
            return Err(session.refuse(cx, base, notify::AUTHENTICATION_FAILED, failure));
        }
        base.keep_tokens(&received);
        let EapSession { request, mut identified, payloads } = *self.session;
        identified.follows = rounds::is_another_announced(&received);
        let own = IdPayload::from(identified.local_id.clone());
        let secret = secret(&request.channel, self.msk.as_ref(), Role::Responder);
        let data = auth_data(&request.channel, &request.record, Role::Responder, &own, &secret);
        let answer = vec![Payload::Auth { method: SHARED_KEY_MIC, data }];
        request.go_on(cx, base, now, identified, answer, payloads)
    }
}

#[cfg(test)]
impl AwaitingLastAuthRequest {
    /// As if EAP had made another key at the client.
    pub(in crate::engine) fn forget_key(&mut self) {
        self.msk = Msk::new(vec![0; Msk::MIN_LEN]);
    }
}

/// What an end's AUTH is made with: EAP's key, or the end's own SK_p if the method makes none (RFC 7296 §2.16).
pub(super) fn secret(channel: &Channel, msk: Option<&Msk>, signer: Role) -> Secret {
    match (msk, signer) {
        (Some(msk), _) => msk.to_secret(),
        (None, Role::Initiator) => Secret(channel.keys.sk_pi.to_vec()),
        (None, Role::Responder) => Secret(channel.keys.sk_pr.to_vec()),
    }
}
