//! IKE_AUTH as the initiator.
//!
//! A child that the peer refuses leaves the IKE SA up, as RFC 7296 §1.2 has it; the command that asked for the
//! child fails. A peer that does not prove its identity is told so in an INFORMATIONAL request (§2.21.2), because
//! it believes the IKE SA to be up.

use std::time::Instant;

use portcullis_ipsec::Spi;
use subtle::ConstantTimeEq as _;

use super::eap_initiator::EapSession;
use super::rounds::{self, Rounds};
use super::{
    AuthPayloads, auth_data, check_null, is_signature, method_name, null_auth_data, signed_octets, verify,
    verify_request,
};
use super::{certificates, ppk};
use crate::auth::method::{NULL, SHARED_KEY_MIC};
use crate::auth::{Proven, SignRequest, Signature, VerifyRequest};
use crate::config::{Identity, IdentityMatch, LocalMethod, RemoteAuth, RemoteMethod, Unique};
use crate::engine::addresses;
use crate::engine::api::{Failure, JobId, JobResult};
use crate::engine::channel::{self, Channel, Incoming, Retransmitted};
use crate::engine::child::{self, Offer};
use crate::engine::connections;
use crate::engine::context::{Context, Effect};
use crate::engine::crash;
use crate::engine::create_child_sa::initiator::Purpose;
use crate::engine::established::Established;
use crate::engine::ike_sa_init::{InitRecord, error_notification, notification};
use crate::engine::informational::Deleting;
use crate::engine::mobike;
use crate::engine::redirect;
use crate::engine::resumption;
use crate::engine::sa::{Base, Closed, Done, Inbound, Next, Role};
use crate::engine::state::State;
use crate::message::{ExchangeType, IdPayload, Payload, notify};

/// Awaits the inbound SPI of the first child.
#[derive(Debug)]
pub(in crate::engine) struct AllocatingFirstSpi {
    job: JobId,
    channel: Box<Channel>,
    record: InitRecord,
}

/// Begins IKE_AUTH.
pub(in crate::engine) fn begin(
    cx: &mut Context,
    base: &mut Base,
    now: Instant,
    channel: Box<Channel>,
    record: InitRecord,
) -> Next {
    if base.childless {
        return request(cx, base, now, channel, record, None);
    }
    let job = cx.allocate_spi(base.id);
    Ok(State::AllocatingFirstSpi(AllocatingFirstSpi { job, channel, record }))
}

impl AllocatingFirstSpi {
    pub(in crate::engine) fn handle_job(
        self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        done: Done,
    ) -> Next {
        match done.result {
            JobResult::SpiAllocated(Ok(spi)) if done.id == self.job => {
                base.reserved.push(spi);
                request(cx, base, now, self.channel, self.record, Some(spi))
            }
            JobResult::SpiAllocated(Err(error)) if done.id == self.job => {
                let child = base
                    .goal
                    .as_ref()
                    .map(|goal| cx.child_name(base.connection, goal.child))
                    .unwrap_or_default();
                Err(Closed::failed(base.about(cx).not_installed(&child, &error)))
            }
            _ => {
                done.discard(cx, base.id);
                Ok(State::AllocatingFirstSpi(self))
            }
        }
    }
}

/// Sends the request, or has it signed. Without an inbound SPI it asks for no child.
fn request(
    cx: &mut Context,
    base: &mut Base,
    now: Instant,
    mut channel: Box<Channel>,
    record: InitRecord,
    spi: Option<Spi>,
) -> Next {
    let config = cx.config.clone();
    let (Some(connection), Some(goal)) = (config.connections.get(base.connection), base.goal.clone()) else {
        return Err(Closed::because("no child is wanted any more"));
    };
    let local_id = connections::local_identity(connection, base.local.ip());
    let offer = match spi {
        None => None,
        Some(spi) => match Offer::new(cx, base, &goal, spi, false) {
            None => return Err(Closed::because("no child is wanted any more")),
            offer => offer,
        },
    };
    let id = IdPayload::from(local_id.clone());
    base.local_id = Some(local_id.clone());
    if let Some(session) = &base.resumed {
        let id = IdPayload::from(session.id_i.clone());
        base.local_id = Some(session.id_i.clone());
        let data = resumption::auth(&channel, &record, Role::Initiator, &id);
        let auth = Payload::Auth { method: SHARED_KEY_MIC, data };
        let request = Request { id, certificates: Vec::new(), offer, key: None, ppk: Vec::new() };
        return Ok(request.send(cx, base, now, channel, record, Some(auth)));
    }
    let ppk = ppk::of_initiator(&config, connection, record.ppk, &base.about(cx));
    let ppk = ppk.map_err(Closed::failed)?;
    let mut of_ppk: Vec<Payload> =
        ppk.and(connection.ppk.id.as_ref()).map(ppk::identity).into_iter().collect();
    // Where it is not required, we prove ourselves without it as well.
    let falls_back = ppk.is_some() && !connection.ppk.required;
    match connections::local_method(connection) {
        LocalMethod::Psk => {
            let wanted = connections::remote_match(connection);
            let keys = &config.shared_keys;
            let Some(key) = connections::shared_key_towards(keys, &local_id, wanted, base.remote.ip()) else {
                let expected = expected_identity(wanted, base);
                return Err(Closed::failed(base.about(cx).no_shared_key(&local_id, &expected)));
            };
            let prove = |channel: &Channel| auth_data(channel, &record, Role::Initiator, &id, &key.secret);
            of_ppk.extend(falls_back.then(|| ppk::without(prove(&channel))));
            ppk.into_iter().for_each(|ppk| channel.mix(&ppk.secret));
            let auth = Payload::Auth { method: SHARED_KEY_MIC, data: prove(&channel) };
            let key = Some(key.name.clone());
            let request = Request { id, certificates: Vec::new(), offer, key, ppk: of_ppk };
            Ok(request.send(cx, base, now, channel, record, Some(auth)))
        }
        // Together with a PPK it is refused in the configuration.
        LocalMethod::Null => {
            let data = null_auth_data(&channel, &record, Role::Initiator, &id);
            let request = Request { id, certificates: Vec::new(), offer, key: None, ppk: Vec::new() };
            Ok(request.send(cx, base, now, channel, record, Some(Payload::Auth { method: NULL, data })))
        }
        // It names the PPK with its AUTH (RFC 8784 §3).
        LocalMethod::Eap { .. } => {
            let (certificates, ppk) = (Vec::new(), Vec::new());
            let request = Request { id, certificates, offer, key: None, ppk };
            Ok(request.send(cx, base, now, channel, record, None))
        }
        LocalMethod::Aaa => Err(Closed::failed(base.about(cx).aaa_needs_responder())),
        LocalMethod::Pubkey { credentials, constraint } => {
            let peer = &record.peer;
            let (credential, scheme) = certificates::choose(credentials, constraint, peer)
                .map_err(|ours| Closed::failed(base.about(cx).no_common_hash(&ours, &peer.hashes)))?;
            let certificates = certificates::sent(&credential, peer);
            let sign = |channel: &Channel| SignRequest {
                credential: credential.clone(),
                scheme,
                octets: signed_octets(channel, &record, Role::Initiator, &id),
                wants_status: peer.wants_status_of(connection),
            };
            let without = falls_back.then(|| SignRequest { wants_status: false, ..sign(&channel) });
            ppk.into_iter().for_each(|ppk| channel.mix(&ppk.secret));
            Ok(State::SigningRequest(Box::new(SigningRequest {
                job: cx.sign(base.id, sign(&channel)),
                without,
                signed: None,
                method: scheme.method(),
                channel,
                record,
                request: Request { id, certificates, offer, key: None, ppk: of_ppk },
            })))
        }
    }
}

/// Whose key was looked for.
fn expected_identity(wanted: &IdentityMatch, base: &Base) -> Identity {
    match wanted {
        IdentityMatch::Exactly(id) => id.clone(),
        IdentityMatch::Pattern(_) | IdentityMatch::Any => connections::address_identity(base.remote.ip()),
    }
}

/// A request that lacks our AUTH.
#[derive(Debug)]
struct Request {
    id: IdPayload,
    certificates: Vec<Payload>,
    offer: Option<Offer>,
    /// The name of the pre-shared key that we prove ourselves with, if it is one.
    key: Option<String>,
    /// What is to be said of a post-quantum pre-shared key.
    ppk: Vec<Payload>,
}

impl Request {
    fn send(
        self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        mut channel: Box<Channel>,
        record: InitRecord,
        auth: Option<Payload>,
    ) -> State {
        let mut payloads = vec![Payload::IdI(self.id.clone())];
        payloads.extend(self.certificates);
        if let Some(session) = &base.resumed {
            payloads.push(Payload::IdR(session.id_r.clone().into()));
        } else if let Some(connection) = cx.connection(base.connection) {
            payloads.extend(certificates::requests([connection]));
            if let IdentityMatch::Exactly(id) = connections::remote_match(connection) {
                payloads.push(Payload::IdR(id.clone().into()));
            }
        }
        // Whom EAP authenticates gives its token with its last message.
        let token = auth.is_some().then(|| crash::announce(cx, base.connection, (base.spi_i, base.spi_r)));
        if let Some(connection) = cx.connection(base.connection) {
            payloads.extend(auth.as_ref().and_then(|_| rounds::announce_another(connection.local.len(), 0)));
            payloads.extend(rounds::announce([connection]));
        }
        payloads.extend(auth);
        payloads.extend(token.flatten());
        payloads.extend(resumption::ask(cx, base));
        payloads.extend(self.ppk);
        if cx.connection(base.connection).is_some_and(connections::is_eap_only) {
            payloads.push(notification(notify::EAP_ONLY_AUTHENTICATION, Vec::new()));
        }
        let unique = cx.connection(base.connection).map(|c| c.unique).unwrap_or_default();
        // Nobody in particular has no other IKE SAs that could go (RFC 7619 §2.3).
        let is_nobody = self.id.identity == Identity::Null;
        if !is_nobody && !cx.has_established(base.connection) && unique != Unique::Never {
            payloads.push(notification(notify::INITIAL_CONTACT, Vec::new()));
        }
        payloads.extend(addresses::request(cx, base));
        if let Some(offer) = &self.offer {
            payloads.push(Payload::Sa(offer.proposals()));
            payloads.extend(offer.selector_payloads());
        }
        payloads.extend(mobike::announce(cx, base));
        payloads.push(channel::synchronisation::announce());
        channel.request(cx, base, now, ExchangeType::IkeAuth, payloads);
        State::AwaitingAuthResponse(Box::new(AwaitingAuthResponse {
            channel,
            record,
            offer: self.offer,
            id: self.id,
            key: self.key,
            rounds: Rounds::default(),
            id_r: None,
            peer_is_proven: false,
        }))
    }
}

/// Awaits our signature.
#[derive(Debug)]
pub(in crate::engine) struct SigningRequest {
    job: JobId,
    /// What is to be signed next: our proof without the PPK.
    without: Option<SignRequest>,
    /// The signature that precedes that one.
    signed: Option<Vec<u8>>,
    method: u8,
    channel: Box<Channel>,
    record: InitRecord,
    request: Request,
}

impl SigningRequest {
    pub(in crate::engine) fn handle_job(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        done: Done,
    ) -> Next {
        match done.result {
            JobResult::Signed(Some(Signature { auth: data, statuses })) if done.id == self.job => {
                self.request.certificates.extend(certificates::statuses(statuses));
                if let Some(without) = self.without.take() {
                    self.job = cx.sign(base.id, without);
                    self.signed = Some(data);
                    return Ok(State::SigningRequest(self));
                }
                let data = match self.signed.take() {
                    None => data,
                    Some(signed) => {
                        self.request.ppk.push(ppk::without(data));
                        signed
                    }
                };
                let auth = Payload::Auth { method: self.method, data };
                Ok(self.request.send(cx, base, now, self.channel, self.record, Some(auth)))
            }
            JobResult::Signed(None) if done.id == self.job => {
                Err(Closed::failed(base.about(cx).not_signed()))
            }
            _ => {
                done.discard(cx, base.id);
                Ok(State::SigningRequest(self))
            }
        }
    }
}

/// Awaits the IKE_AUTH response.
#[derive(Debug)]
pub(in crate::engine) struct AwaitingAuthResponse {
    pub(in crate::engine) channel: Box<Channel>,
    pub(super) record: InitRecord,
    /// The child that we asked for, unless the IKE SA is to begin without one.
    pub(in crate::engine) offer: Option<Offer>,
    /// Our own, of our last round.
    pub(super) id: IdPayload,
    /// The name of the pre-shared key that we proved ourselves with, if it was one.
    pub(super) key: Option<String>,
    pub(super) rounds: Rounds,
    /// The peer's, of its last round.
    id_r: Option<IdPayload>,
    /// It has no more rounds before it.
    pub(super) peer_is_proven: bool,
}

impl AwaitingAuthResponse {
    pub(in crate::engine) fn handle_message(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        inbound: &Inbound<'_>,
    ) -> Next {
        if !inbound.header().response {
            // The responder's first request has overtaken its answer: it will come again.
            return Ok(State::AwaitingAuthResponse(self));
        }
        match self.channel.receive(cx, base, inbound) {
            Incoming::Response(payloads) => self.handle_response(cx, base, now, payloads),
            Incoming::BadResponse(error) => {
                let failure = base.about(cx).malformed("IKE_AUTH", &error);
                Ok(Deleting::reject(cx, base, now, self.channel, failure, None))
            }
            _ => Ok(State::AwaitingAuthResponse(self)),
        }
    }

    fn handle_response(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        payloads: Vec<Payload>,
    ) -> Next {
        let found = AuthPayloads::parse(&payloads);
        if let (None, Some(error)) = (found.auth, error_notification(&payloads)) {
            return Err(Closed::failed(self.refusal(cx, base, error.notify_type)));
        }
        if let Err(failure) = self.heed_ppk(cx, base, &payloads) {
            return Ok(self.reject(cx, base, now, failure));
        }
        if self.peer_is_proven {
            return self.turn(cx, base, now, &payloads);
        }
        match self.authenticate(cx, base, &found, &payloads) {
            Ok(None) => {
                let connection = cx.connection(base.connection);
                let wanted = connection.and_then(|connection| connection.remote.get(self.rounds.remote));
                let proven = match wanted.map(|round| &round.auth) {
                    _ if base.resumed.is_some() => Proven::Resumed,
                    // As it will be, or there will be no IKE SA.
                    Some(RemoteMethod::Eap { method, .. }) => Proven::Eap(*method),
                    Some(RemoteMethod::Null) => Proven::Null,
                    _ => Proven::Psk,
                };
                self.proceed(cx, base, now, proven, payloads)
            }
            Ok(Some(request)) => {
                let job = cx.verify_peer(base.id, request);
                Ok(State::VerifyingResponder(VerifyingResponder { job, awaiting: self, payloads }))
            }
            Err(failure) => Ok(self.reject(cx, base, now, failure)),
        }
    }

    /// Takes the PPK out again that the responder does not use, unless there is to be no IKE SA without it.
    pub(super) fn heed_ppk(
        &mut self,
        cx: &Context,
        base: &Base,
        payloads: &[Payload],
    ) -> Result<(), Failure> {
        if self.channel.is_mixed() && !ppk::is_confirmed(payloads) {
            if cx.connection(base.connection).is_some_and(|connection| connection.ppk.required) {
                return Err(base.about(cx).ppk_not_used());
            }
            self.channel.unmix();
        }
        Ok(())
    }

    pub(super) fn reject(
        self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        failure: Failure,
    ) -> State {
        let told = Some(notify::AUTHENTICATION_FAILED);
        Deleting::reject(cx, base, now, self.channel, failure, told)
    }

    /// The peer is who it says it is, in this round.
    fn proceed(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        proven: Proven,
        payloads: Vec<Payload>,
    ) -> Next {
        if let Err(failure) = self.take_round(cx, base, &payloads) {
            return Ok(self.reject(cx, base, now, failure));
        }
        // Whoever keeps record of it wants the first proof, as he wants the first identity.
        let id = AuthPayloads::parse(&payloads).id_r.cloned();
        let remote_id = match &proven {
            // Whatever it says that it is, nothing may follow from it (RFC 7619 §2.2).
            Proven::Null => Some(Identity::Null),
            _ => id.as_ref().map(|id| id.identity.clone()),
        };
        base.proven.get_or_insert(proven);
        base.remote_id = base.remote_id.take().or(remote_id);
        self.id_r = id;
        self.turn(cx, base, now, &payloads)
    }

    /// It is our turn: EAP has begun, or the next round.
    fn turn(self: Box<Self>, cx: &mut Context, base: &mut Base, now: Instant, payloads: &[Payload]) -> Next {
        let connection = cx.connection(base.connection);
        let local = connection.and_then(|connection| connection.local.get(self.rounds.local));
        match local.map(|round| &round.auth) {
            Some(LocalMethod::Eap { .. }) => match (self.id_r.clone(), AuthPayloads::parse(payloads).eap) {
                (Some(id), Some(packet)) => EapSession::begin(cx, base, self, id, packet.to_vec()),
                _ => {
                    let failure = base.about(cx).eap_not_wanted();
                    Ok(self.reject(cx, base, now, failure))
                }
            },
            _ => self.go_on(cx, base, now, payloads),
        }
    }

    /// Both are proven.
    pub(super) fn establish(
        self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        payloads: &[Payload],
    ) -> Next {
        let has_child = payloads.iter().any(|payload| matches!(payload, Payload::Sa(_)));
        if let Some(target) = redirect::found(payloads).filter(|_| !has_child) {
            if let Some(offer) = &self.offer {
                base.release(cx, offer.spi);
            }
            return Ok(match base.redirected(cx, now, &target) {
                Ok(redirect) => {
                    cx.redirected(base, redirect.to, false);
                    let goals = base.goal.take().into_iter().chain(base.goals.drain(..)).collect();
                    let connection = base.connection;
                    cx.effects.push_back(Effect::Follow { connection, goals, redirect });
                    Deleting::begin(cx, base, now, self.channel, "the peer has sent us to another gateway")
                }
                Err(failure) => Deleting::reject(cx, base, now, self.channel, failure, None),
            });
        }
        if let Err(failure) = addresses::take(cx, base, payloads) {
            return Ok(Deleting::reject(cx, base, now, self.channel, failure, None));
        }
        let Self { channel, record, offer, .. } = *self;
        base.keep_tokens(payloads);
        mobike::agree(cx, base, payloads);
        channel::synchronisation::agree(base, payloads);
        let mut established = Established::begin(cx, base, now, channel);
        base.heed_lifetime(cx, now, payloads);
        resumption::responder::resumed(cx, base);
        base.keep_ticket(cx, now, &established.channel, payloads);
        let Some(offer) = offer else {
            // The child follows at once, in an exchange of its own.
            base.goals.extend(base.goal.take());
            return Box::new(established).pump(cx, base, now);
        };
        match child::accept(cx, base, &offer, payloads, None) {
            Ok(agreed) => {
                let keymat =
                    child::keymat(&established.channel, &[], &record.nonce_i, &record.nonce_r, &agreed);
                established.install(cx, base, now, Purpose::Goal, agreed, &keymat);
            }
            Err(refusal) => {
                established.child_refused(cx, base, now, Purpose::Goal, Some(offer.spi), refusal);
            }
        }
        Box::new(established).pump(cx, base, now)
    }

    pub(super) fn refusal(&self, cx: &Context, base: &Base, notify_type: u16) -> Failure {
        let about = base.about(cx);
        let local = cx.connection(base.connection).map(connections::local_method);
        match (notify_type, &base.local_id) {
            (notify::AUTHENTICATION_FAILED, Some(id)) if base.resumed.is_some() => about.not_let_resume(id),
            (notify::AUTHENTICATION_FAILED, _) if matches!(local, Some(LocalMethod::Eap { .. })) => {
                about.refused_before_eap()
            }
            (notify::AUTHENTICATION_FAILED, Some(local_id)) => {
                let asked = match cx.connection(base.connection).map(connections::remote_match) {
                    Some(IdentityMatch::Exactly(id)) => format!("`{id}`"),
                    _ => "it".to_owned(),
                };
                about.authentication_refused(self.key.as_deref(), local_id, &asked)
            }
            _ => about.refused("IKE_AUTH", notify_type),
        }
    }

    /// Whether the peer is who it says it is; `Some` if a job has to say so.
    fn authenticate(
        &self,
        cx: &Context,
        base: &Base,
        found: &AuthPayloads<'_>,
        payloads: &[Payload],
    ) -> Result<Option<VerifyRequest>, Failure> {
        let about = base.about(cx);
        let (Some(connection), Some(local_id)) = (cx.connection(base.connection), &base.local_id) else {
            return Err(about.closed_early("it is not configured any more"));
        };
        let sent = found.id_r.ok_or_else(|| about.missing("IKE_AUTH", "an IDr payload"))?;
        let id = &sent.identity;
        let (channel, record) = (&self.channel, &self.record);
        if let Some(session) = &base.resumed {
            let right = resumption::auth(channel, record, Role::Responder, sent);
            let shown = matches!(found.auth, Some((SHARED_KEY_MIC, data)) if bool::from(right.ct_eq(data)));
            let proven = shown && id.same(&session.id_r);
            return if proven {
                Ok(None)
            } else {
                Err(about.not_resumed(id, "it is not who gave us the ticket"))
            };
        }
        let Some(RemoteAuth { auth: wanted_auth, id: wanted }) = connection.remote.get(self.rounds.remote)
        else {
            return Err(about.closed_early("it is not configured any more"));
        };
        if !connections::accepts(wanted_auth, wanted, id) {
            return Err(about.unexpected_identity(id, wanted));
        }
        let (method, data) = match found.auth {
            Some(auth) => auth,
            // EAP will prove it, and its last AUTH.
            None if connections::is_eap_only(connection) => return Ok(None),
            None => return Err(about.missing("IKE_AUTH", "an AUTH payload")),
        };
        match wanted_auth {
            RemoteMethod::Psk if method == SHARED_KEY_MIC => {
                let key = connections::shared_key(&cx.config.shared_keys, local_id, id)
                    .ok_or_else(|| about.no_shared_key(local_id, id))?;
                if verify(channel, record, Role::Responder, sent, &key.secret, data) {
                    Ok(None)
                } else {
                    Err(about.shared_key_mismatch(&key.name, local_id, id))
                }
            }
            RemoteMethod::Pubkey(trust) if is_signature(method) => {
                let proof = (method, data);
                Ok(Some(verify_request(channel, record, Role::Responder, trust, sent, proof, payloads)))
            }
            RemoteMethod::Null if method == NULL => {
                check_null(&about, channel, record, Role::Responder, sent, data).map(|()| None)
            }
            RemoteMethod::Eap { .. } => Err(about.eap_only_refused(&method_name(Some(method)))),
            wanted => Err(about.other_auth_method(&method_name(Some(method)), wanted)),
        }
    }

    pub(in crate::engine) fn handle_timeout(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
    ) -> Next {
        match self.channel.retransmit(cx, base, now) {
            (Retransmitted::GivenUp(unanswered), exchange) => {
                Err(Closed::failed(base.about(cx).silent(exchange, unanswered, base)))
            }
            _ => Ok(State::AwaitingAuthResponse(self)),
        }
    }

    pub(in crate::engine) fn deadline(&self) -> Option<Instant> {
        self.channel.due()
    }
}

/// Awaits the judgement of the responder's proof.
#[derive(Debug)]
pub(in crate::engine) struct VerifyingResponder {
    job: JobId,
    awaiting: Box<AwaitingAuthResponse>,
    payloads: Vec<Payload>,
}

impl VerifyingResponder {
    pub(in crate::engine) fn handle_job(
        self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        done: Done,
    ) -> Next {
        match done.result {
            JobResult::PeerVerified(Ok(proven)) if done.id == self.job => {
                self.awaiting.proceed(cx, base, now, proven, self.payloads)
            }
            JobResult::PeerVerified(Err(rejection)) if done.id == self.job => {
                let failure = base.about(cx).peer_rejected(&rejection);
                Ok(self.awaiting.reject(cx, base, now, failure))
            }
            _ => {
                done.discard(cx, base.id);
                Ok(State::VerifyingResponder(self))
            }
        }
    }
}
