//! IKE_AUTH as the responder. Until the request decrypts, nothing that arrives changes anything; once it does, it
//! ends in an established IKE SA or in an answer that says why not, kept a while for the peer's retransmissions.

use std::collections::VecDeque;
use std::time::Instant;

use super::claiming::{Claiming, Company};
use super::eap_responder::EapSession;
use super::rounds::{self, Rounds};
use super::{
    AuthPayloads, announces_eap_only, auth_data, check_null, is_signature, method_name, null_auth_data,
    signed_octets, verify, verify_request,
};
use super::{certificates, ppk, puzzle};
use crate::auth::method::{NULL, SHARED_KEY_MIC};
use crate::auth::{Authorization, Proven, SignRequest, Signature, VerifyRequest};
use crate::config::{ConnectionConfig, Identity, LocalMethod, RemoteMethod, Unique};
use crate::crypto::{KdfInput, KeMethod, KeSecret, Puzzle, SharedSecret, derive_ike_keys};
use crate::engine::api::{Event, Failure, JobId, JobResult};
use crate::engine::channel::{self, Channel, Incoming};
use crate::engine::connections;
use crate::engine::context::{Context, Effect};
use crate::engine::crash;
use crate::engine::established::Established;
use crate::engine::failure::{About, Claims};
use crate::engine::ike_intermediate::responder::AnsweringIntermediate;
use crate::engine::ike_sa_init::{InitRecord, notification, notifications};
use crate::engine::mobike;
use crate::engine::negotiation;
use crate::engine::path::Path;
use crate::engine::redirect;
use crate::engine::resumption;
use crate::engine::sa::{Base, Closed, Done, Inbound, Next, Role};
use crate::engine::state::State;
use crate::message::{ExchangeType, IdPayload, MessageError, Payload, Received, notify};
use crate::proposal::IkeSuite;

/// Awaits the first message that could be an IKE_AUTH request; only then is the shared secret worth computing.
#[derive(Debug)]
pub(in crate::engine) struct AwaitingFirstAuth {
    pub(in crate::engine) suite: IkeSuite,
    pub(in crate::engine) secret: KeSecret,
    pub(in crate::engine) peer_public: Vec<u8>,
    pub(in crate::engine) record: InitRecord,
    /// What has to be solved first.
    pub(in crate::engine) puzzle: Option<Puzzle>,
}

impl AwaitingFirstAuth {
    pub(in crate::engine) fn handle_message(
        self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        inbound: Inbound<'_>,
    ) -> Next {
        let found = inbound.header();
        let first = match self.suite.additional().next() {
            Some(_) => ExchangeType::IkeIntermediate,
            None => ExchangeType::IkeAuth,
        };
        let plausible = found.exchange == first
            && found.initiator
            && !found.response
            && found.message_id == 1
            && found.spi_i == base.spi_i
            && inbound.received.encrypted.is_some();
        if !plausible {
            return Ok(State::AwaitingFirstAuth(self));
        }
        // RFC 8019 §7.2.4: what does not show the solution never was.
        let shown = &inbound.received.message.payloads;
        if self.puzzle.is_some_and(|puzzle| !puzzle::is_solved(puzzle, &self.record, base, shown)) {
            let detail = "an IKE_AUTH request without the solution of its puzzle".to_owned();
            cx.event(Event::Rejected { remote: inbound.path.remote, label: "puzzle", detail });
            return Ok(State::AwaitingFirstAuth(self));
        }
        let Self { suite, secret, peer_public, record, .. } = *self;
        let job = cx.derive_ke(base.id, secret, peer_public);
        cx.is_admission(job);
        let deriving = DerivingForAuth { job, suite, record, held: Vec::new() };
        Ok(State::DerivingForAuth(deriving.hold(inbound)))
    }

    pub(in crate::engine) fn init_response(&self) -> &[u8] {
        &self.record.response
    }
}

/// A message that waits for keys.
#[derive(Debug)]
struct Held {
    path: Path,
    octets: Vec<u8>,
    received: Received,
}

/// Awaits the shared secret.
#[derive(Debug)]
pub(in crate::engine) struct DerivingForAuth {
    job: JobId,
    suite: IkeSuite,
    record: InitRecord,
    /// The request, or fragments of it.
    held: Vec<Held>,
}

/// Octets that are held before anything is known to be authentic: a request in fragments has some thousands.
const MOST_HELD: usize = 16 * 1024;

impl DerivingForAuth {
    /// Keeps one more message for when there are keys, if there is room for it.
    pub(in crate::engine) fn hold(mut self, inbound: Inbound<'_>) -> Self {
        let held: usize = self.held.iter().map(|held| held.octets.len()).sum();
        if held + inbound.octets.len() <= MOST_HELD || self.held.is_empty() {
            self.held.push(Held {
                path: inbound.path,
                octets: inbound.octets.to_vec(),
                received: inbound.received,
            });
        }
        self
    }

    pub(in crate::engine) fn handle_job(
        self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        done: Done,
    ) -> Next {
        match done.result {
            JobResult::KeDerived(Ok(shared)) if done.id == self.job => {
                let input = KdfInput {
                    nonce_i: &self.record.nonce_i,
                    nonce_r: &self.record.nonce_r,
                    spi_i: base.spi_i,
                    spi_r: base.spi_r,
                };
                let keys = derive_ike_keys(self.suite.prf, self.suite.protection, &shared, input);
                let channel = Channel::new(self.suite, keys, Role::Responder);
                let additional = self.suite.additional().collect();
                let awaiting = AwaitingAuthRequest { channel, record: self.record, additional };
                let mut state = State::AwaitingAuthRequest(awaiting);
                for Held { path, octets, received } in self.held {
                    let held = Inbound { path, octets: &octets, received };
                    state = state.handle_message(cx, base, now, held)?;
                }
                Ok(state)
            }
            JobResult::KeDerived(Err(error)) if done.id == self.job => {
                Err(Closed::failed(base.about(cx).key_exchange(&error)))
            }
            _ => {
                done.discard(cx, base.id);
                Ok(State::DerivingForAuth(self))
            }
        }
    }

    pub(in crate::engine) fn init_response(&self) -> &[u8] {
        &self.record.response
    }
}

/// Awaits an IKE_AUTH request that decrypts.
#[derive(Debug)]
pub(in crate::engine) struct AwaitingAuthRequest {
    pub(super) channel: Box<Channel>,
    pub(super) record: InitRecord,
    /// Additional key exchanges that have to come first.
    additional: VecDeque<KeMethod>,
}

impl AwaitingAuthRequest {
    pub(in crate::engine) fn init_response(&self) -> &[u8] {
        &self.record.response
    }

    pub(in crate::engine) fn handle_message(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        inbound: &Inbound<'_>,
    ) -> Next {
        let mut payloads = match self.next_request(cx, base, now, inbound)? {
            Came::Request(payloads) => payloads,
            Came::KeyExchange(method, payloads) => {
                return AnsweringIntermediate::begin(cx, base, self, method, &payloads);
            }
            Came::Nothing => return Ok(State::AwaitingAuthRequest(self)),
            Came::GivingUp => {
                let failure = base.about(cx).missing("first protected", "the IKE_AUTH exchange type");
                return Err(self.refuse(cx, base, notify::INVALID_SYNTAX, Vec::new(), failure));
            }
        };
        if base.resumed.is_some() {
            return self.resume(cx, base, now, &payloads);
        }
        // It is named where it is used: whom EAP authenticates says it with its last request (RFC 8784 §3).
        if AuthPayloads::parse(&payloads).auth.is_some() {
            self.take_ppk(cx, &mut payloads);
        }
        let about = About { connection: None, remote: Some(base.remote) };
        let candidates = self.candidates(cx, base);
        self.handle_request(cx, base, now, Attempt { about, candidates, payloads, rejection: None })
    }

    /// What a message is to an IKE SA that awaits IKE_AUTH. An authentic one that makes no sense ends it.
    pub(super) fn next_request(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        inbound: &Inbound<'_>,
    ) -> Result<Came, Box<Closed>> {
        match self.channel.receive(cx, base, inbound) {
            Incoming::Request(ExchangeType::IkeIntermediate, payloads) if !self.additional.is_empty() => {
                Ok(self
                    .additional
                    .pop_front()
                    .map_or(Came::Nothing, |method| Came::KeyExchange(method, payloads)))
            }
            Incoming::Request(ExchangeType::IkeAuth, _) if !self.additional.is_empty() => {
                let failure = base.about(cx).missing("IKE_AUTH", "the IKE_INTERMEDIATE exchanges before it");
                Err(self.refuse(cx, base, notify::INVALID_SYNTAX, Vec::new(), failure))
            }
            Incoming::Request(ExchangeType::IkeAuth, payloads) => {
                base.progress = now;
                Ok(Came::Request(payloads))
            }
            Incoming::Request(ExchangeType::Informational, _) => Ok(Came::GivingUp),
            Incoming::Request(..) => {
                let failure = base.about(cx).missing("first protected", "the IKE_AUTH exchange type");
                Err(self.refuse(cx, base, notify::INVALID_SYNTAX, Vec::new(), failure))
            }
            Incoming::BadRequest(_, error) => {
                let failure = base.about(cx).malformed("IKE_AUTH", &error);
                let (notify_type, data) = match error {
                    MessageError::UnsupportedCritical { payload_type } => {
                        (notify::UNSUPPORTED_CRITICAL_PAYLOAD, vec![payload_type])
                    }
                    _ => (notify::INVALID_SYNTAX, Vec::new()),
                };
                Err(self.refuse(cx, base, notify_type, data, failure))
            }
            Incoming::Response(_) | Incoming::BadResponse(_) | Incoming::Nothing => Ok(Came::Nothing),
        }
    }

    /// Mixes in the post-quantum pre-shared key that the initiator has named, or takes the proof without it.
    pub(super) fn take_ppk(&mut self, cx: &Context, payloads: &mut [Payload]) {
        match ppk::of_responder(&cx.config, payloads).filter(|_| self.record.ppk) {
            Some(key) => self.channel.mix(&key.secret),
            None => ppk::fall_back(payloads),
        }
    }

    /// Connections that the peer may mean. The addresses may have changed since IKE_SA_INIT, and another than the
    /// first guess may be meant: any that would have led to the same IKE SA.
    fn candidates(&self, cx: &Context, base: &Base) -> Vec<usize> {
        let suite = self.channel.suite;
        let (local, remote) = (base.local.ip(), base.remote.ip());
        let allows = |index: &usize| {
            let allows = |connection: &ConnectionConfig| {
                negotiation::allows(&connection.proposals, suite)
                    && !connections::is_for_others_to_prove(cx, connection, local, remote)
            };
            cx.connection(*index).is_some_and(allows)
        };
        connections::candidates(cx, local, remote).into_iter().filter(allows).collect()
    }

    fn handle_request(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        mut attempt: Attempt,
    ) -> Next {
        match self.authenticate(cx, base, &attempt) {
            Ok((identified, None)) => self.prove(cx, base, now, identified, attempt.payloads),
            Ok((identified, Some(request))) => {
                let job = cx.verify_peer(base.id, request);
                attempt.candidates.retain(|candidate| *candidate != identified.connection);
                let state = VerifyingInitiator { job, request: self, attempt, identified };
                Ok(State::VerifyingInitiator(Box::new(state)))
            }
            Err((notify_type, failure)) => {
                // What the connection said that the peer named most exactly.
                let failure = attempt.rejection.take().unwrap_or(failure);
                Err(self.refuse(cx, base, notify_type, Vec::new(), failure))
            }
        }
    }

    /// The peer is who it says it is: now it is our turn, if there is a round of ours left.
    pub(super) fn prove(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        identified: Identified,
        payloads: Vec<Payload>,
    ) -> Next {
        let config = cx.config.clone();
        let about =
            About { connection: Some(cx.connection_name(identified.connection)), remote: Some(base.remote) };
        let Some(connection) = config.connections.get(identified.connection) else {
            return Err(Closed::because("it is not configured any more"));
        };
        let Some(round) = connection.local.get(identified.rounds.local) else {
            return self.proceed(cx, base, now, identified, Vec::new(), payloads);
        };
        let (local_id, remote_id) = (connections::identity_of(round, base.local.ip()), &identified.remote_id);
        let local_id = &local_id;
        let id = IdPayload::from(local_id.clone());
        let failure = match &round.auth {
            LocalMethod::Psk => match connections::shared_key(&config.shared_keys, local_id, remote_id) {
                Some(key) => {
                    let data = auth_data(&self.channel, &self.record, Role::Responder, &id, &key.secret);
                    let auth = Payload::Auth { method: SHARED_KEY_MIC, data };
                    let answer = vec![Payload::IdR(id), auth];
                    return self.proceed(cx, base, now, identified, answer, payloads);
                }
                None => about.no_shared_key(local_id, remote_id),
            },
            LocalMethod::Pubkey { credentials, constraint } => {
                if identified.rounds.local == 0 {
                    self.record.peer.add(&payloads);
                }
                let peer = &self.record.peer;
                match certificates::choose(credentials, constraint, peer) {
                    Ok((credential, scheme)) => {
                        let mut answer = vec![Payload::IdR(id.clone())];
                        answer.extend(certificates::sent(&credential, peer));
                        let octets = signed_octets(&self.channel, &self.record, Role::Responder, &id);
                        let wants_status = peer.wants_status_of(connection);
                        let request = SignRequest { credential, scheme, octets, wants_status };
                        let job = cx.sign(base.id, request);
                        return Ok(State::SigningResponse(Box::new(SigningResponse {
                            job,
                            method: scheme.method(),
                            request: self,
                            identified,
                            answer,
                            payloads,
                        })));
                    }
                    Err(ours) => about.no_common_hash(&ours, &peer.hashes),
                }
            }
            LocalMethod::Null => {
                let data = null_auth_data(&self.channel, &self.record, Role::Responder, &id);
                let answer = vec![Payload::IdR(id), Payload::Auth { method: NULL, data }];
                return self.proceed(cx, base, now, identified, answer, payloads);
            }
            LocalMethod::Eap { .. } if !connections::is_eap_only(connection) => about.eap_needs_initiator(),
            LocalMethod::Eap { .. } | LocalMethod::Aaa if !announces_eap_only(&payloads) => {
                about.eap_only_not_offered()
            }
            LocalMethod::Eap { .. } | LocalMethod::Aaa => {
                let answer = vec![Payload::IdR(id)];
                return self.proceed(cx, base, now, identified, answer, payloads);
            }
        };
        Err(self.refuse(cx, base, notify::AUTHENTICATION_FAILED, Vec::new(), failure))
    }

    /// We have proven who we are. Whom EAP authenticates has not yet.
    fn proceed(
        self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        identified: Identified,
        answer: Vec<Payload>,
        payloads: Vec<Payload>,
    ) -> Next {
        let round = identified.rounds.remote;
        match cx.connection(identified.connection).is_some_and(|connection| rounds::is_eap(connection, round))
        {
            true => Ok(EapSession::begin(cx, base, self, identified, answer, payloads)),
            false => self.go_on(cx, base, now, identified, answer, payloads),
        }
    }

    /// Both are proven.
    pub(super) fn establish(
        self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        identified: Identified,
        mut answer: Vec<Payload>,
        payloads: &[Payload],
    ) -> Next {
        base.keep_tokens(payloads);
        answer.extend(crash::announce(cx, identified.connection, (base.spi_i, base.spi_r)));
        answer.extend(self.channel.is_mixed().then(ppk::confirmation));
        let Identified { connection, local_id, remote_id, proven, authorization, .. } = identified;
        base.connection = connection;
        base.local_id = Some(local_id);
        base.remote_id = Some(remote_id);
        base.proven = proven;
        base.authorization = authorization;
        let others = base.identities().map(|identities| cx.index.of_identities(&identities));
        let others = others.is_some_and(|others| !others.is_empty());
        let company = Company { others, has_room: cx.has_room_for_unauthenticated() };
        if cx.shard.is_alone() {
            return self.welcome(cx, base, now, answer, payloads, company);
        }
        let policy = contact(cx, base, payloads);
        Claiming::begin(cx, base, self, (answer, payloads), policy)
            .ok_or_else(|| Closed::because("nobody has said who it is"))
    }

    /// It is known who else is there.
    pub(super) fn welcome(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        mut answer: Vec<Payload>,
        payloads: &[Payload],
        Company { others, has_room }: Company,
    ) -> Next {
        let (unique, initial) = contact(cx, base, payloads);
        let identities = base.identities();
        if base.is_unauthenticated() && !has_room {
            let failure = base.about(cx).too_many_unauthenticated(cx.config.unauthenticated_limit);
            return Err(self.refuse(cx, base, notify::AUTHENTICATION_FAILED, Vec::new(), failure));
        }
        if unique == Unique::Keep && !initial && others {
            let failure = base.about(cx).not_unique(base.remote_id.as_ref().unwrap_or(&Identity::Null));
            return Err(self.refuse(cx, base, notify::AUTHENTICATION_FAILED, Vec::new(), failure));
        }
        if let (Some(identities), true) = (identities, initial && unique != Unique::Never) {
            let (kept, before) = (base.id, base.created);
            cx.effects.push_back(Effect::InitialContact { kept, identities, before });
        }
        answer.extend(mobike::answer(cx, base, payloads));
        answer.extend(channel::synchronisation::answer(base, payloads));
        let mut established = Established::begin(cx, base, now, self.channel);
        resumption::responder::resumed(cx, base);
        answer.extend(base.announce_lifetime(now));
        answer.extend(resumption::answer(cx, base, now, &established.channel, payloads));
        match redirect::instead_of_a_child(cx, base, now) {
            Some(redirect) => {
                answer.push(redirect);
                established.channel.respond(cx, base, answer);
            }
            None => established.answer_first_child(cx, base, answer, payloads, &self.record),
        }
        Box::new(established).pump(cx, base, now)
    }

    /// Awaits IKE_AUTH of an IKE SA that is resumed, whose keys there are.
    pub(in crate::engine) fn of_resumed(channel: Box<Channel>, record: InitRecord) -> Self {
        Self { channel, record, additional: VecDeque::new() }
    }

    /// Whoever resumes an IKE SA proves that it has the keys of the old one, and so do we (RFC 5723 §4.3.3).
    fn resume(mut self, cx: &mut Context, base: &mut Base, now: Instant, payloads: &[Payload]) -> Next {
        let Some(session) = base.resumed.take() else {
            return Err(Closed::because("nothing is left to be resumed"));
        };
        let shown = (&*self.channel, &self.record);
        match resumption::responder::judge(cx, base, &session, shown, payloads) {
            Ok(identified) => {
                let id = IdPayload::from(identified.local_id.clone());
                let data = resumption::auth(&self.channel, &self.record, Role::Responder, &id);
                let answer = vec![Payload::IdR(id), Payload::Auth { method: SHARED_KEY_MIC, data }];
                base.resumed = Some(session);
                self.establish(cx, base, now, identified, answer, payloads)
            }
            Err(failure) => Err(self.refuse(cx, base, notify::AUTHENTICATION_FAILED, Vec::new(), failure)),
        }
    }

    /// Answers an additional key exchange, and takes the keys that it has made.
    pub(in crate::engine) fn answer_intermediate(
        &mut self,
        cx: &mut Context,
        base: &Base,
        answer: Vec<Payload>,
        shared: SharedSecret,
    ) {
        self.channel.respond(cx, base, answer);
        self.channel.renew_keys(base, &self.record, shared);
    }

    pub(in crate::engine) fn refuse(
        &mut self,
        cx: &mut Context,
        base: &Base,
        notify_type: u16,
        data: Vec<u8>,
        failure: Failure,
    ) -> Box<Closed> {
        self.channel.respond(cx, base, vec![notification(notify_type, data)]);
        Closed::failed(failure).lingering(self.channel.linger())
    }

    /// Who the peer is; with a request if a job has to say whether that is true.
    fn authenticate(
        &self,
        cx: &Context,
        base: &Base,
        attempt: &Attempt,
    ) -> Result<(Identified, Option<VerifyRequest>), (u16, Failure)> {
        let Attempt { about, candidates, payloads, .. } = attempt;
        let found = AuthPayloads::parse(payloads);
        let Some(sent) = found.id_i else {
            return Err((notify::INVALID_SYNTAX, about.missing("IKE_AUTH", "an IDi payload")));
        };
        let refused = |failure| Err((notify::AUTHENTICATION_FAILED, failure));
        let (peer, asked) = (&sent.identity, found.id_r.map(|id| &id.identity));
        let local_ip = base.local.ip();
        let follows = rounds::is_another_announced(payloads);
        // Those that take the peer's method, and as many rounds, first; the others only to say what they would have taken.
        let fits = |index: &&usize| {
            let method = found.auth.map(|(method, _)| method);
            let fits = |connection: &ConnectionConfig| {
                let several = connection.remote.len() > 1;
                takes(connections::remote_method(connection), method)
                    && (method.is_none() || several == follows)
            };
            cx.connection(**index).is_some_and(fits)
        };
        let fitting: Vec<usize> = candidates.iter().filter(fits).copied().collect();
        let chosen = connections::choose_by_identity(cx, &fitting, local_ip, peer, asked)
            .or_else(|| connections::choose_by_identity(cx, candidates, local_ip, peer, asked));
        let Some((index, connection)) = chosen.and_then(|index| Some((index, cx.connection(index)?))) else {
            let all: Vec<_> = candidates.iter().filter_map(|index| cx.connection(*index)).collect();
            let method = method_name(found.auth.map(|(method, _)| method));
            let claims = Claims { peer, asked, local: local_ip, method: &method };
            let takes = |connection: &ConnectionConfig| {
                takes(connections::remote_method(connection), found.auth.map(|(method, _)| method))
            };
            return refused(about.no_connection_for_identity(claims, &all, takes));
        };
        let about = About { connection: Some(connection.name.clone()), ..about.clone() };
        let local_id = connections::local_identity(connection, local_ip);
        let authorization = Authorization::default();
        // Whatever it says that it is, nothing may follow from it (RFC 7619 §2.2).
        let remote_id = match connections::remote_method(connection) {
            RemoteMethod::Null => Identity::Null,
            _ => peer.clone(),
        };
        let (id, rounds) = (sent.clone(), Rounds::default());
        let mut identified = Identified {
            connection: index,
            local_id,
            remote_id,
            id,
            proven: None,
            authorization,
            rounds,
            follows,
        };
        if connection.ppk.required && !self.channel.is_mixed() && found.auth.is_some() {
            return refused(about.ppk_not_used());
        }
        let (wanted, local_id) = (connections::remote_method(connection), &identified.local_id);
        match check(self, cx, &about, wanted, local_id, sent, found.auth, payloads) {
            Ok(request) => {
                identified.proven = match wanted {
                    RemoteMethod::Psk => Some(Proven::Psk),
                    // As it will be, or there will be no IKE SA.
                    RemoteMethod::Eap { method, .. } => Some(Proven::Eap(*method)),
                    RemoteMethod::Null => Some(Proven::Null),
                    RemoteMethod::Pubkey(_) => None,
                };
                Ok((identified, request))
            }
            Err(failure) => refused(failure),
        }
    }

    /// Has a job judge the peer's proof in a further round, where no other connection can be meant.
    pub(super) fn verify(
        self,
        job: JobId,
        about: About,
        identified: Identified,
        payloads: Vec<Payload>,
    ) -> State {
        let attempt = Attempt { about, candidates: Vec::new(), payloads, rejection: None };
        State::VerifyingInitiator(Box::new(VerifyingInitiator { job, request: self, attempt, identified }))
    }
}

/// How many IKE SAs a peer may have, and whether it says that it has no other (INITIAL_CONTACT, RFC 7296 §2.4).
fn contact(cx: &Context, base: &Base, payloads: &[Payload]) -> (Unique, bool) {
    let initial = notifications(payloads).any(|notify| notify.notify_type == notify::INITIAL_CONTACT);
    (cx.connection(base.connection).map(|config| config.unique).unwrap_or_default(), initial)
}

/// Whether the peer, who says that it is `sent`, has proven that as it has to; `Some` if a job has to say so. Whom EAP
/// authenticates has proven nothing yet.
#[expect(clippy::too_many_arguments, reason = "a proof, and everything that it covers")]
pub(super) fn check(
    request: &AwaitingAuthRequest,
    cx: &Context,
    about: &About,
    wanted: &RemoteMethod,
    local_id: &Identity,
    sent: &IdPayload,
    auth: Option<(u8, &[u8])>,
    payloads: &[Payload],
) -> Result<Option<VerifyRequest>, Failure> {
    let (channel, record, peer) = (&request.channel, &request.record, &sent.identity);
    match (wanted, auth) {
        (RemoteMethod::Psk, Some((SHARED_KEY_MIC, data))) => {
            let key = connections::shared_key(&cx.config.shared_keys, local_id, peer)
                .ok_or_else(|| about.no_shared_key(local_id, peer))?;
            if !verify(channel, record, Role::Initiator, sent, &key.secret, data) {
                return Err(match channel.is_mixed() {
                    true => about.ppk_mismatch(&key.name, peer),
                    false => about.shared_key_mismatch(&key.name, local_id, peer),
                });
            }
            Ok(None)
        }
        (RemoteMethod::Pubkey(trust), Some(proof)) if is_signature(proof.0) => {
            Ok(Some(verify_request(channel, record, Role::Initiator, trust, sent, proof, payloads)))
        }
        (RemoteMethod::Eap { .. }, None) => Ok(None),
        (RemoteMethod::Null, Some((NULL, data))) => {
            check_null(about, channel, record, Role::Initiator, sent, data).map(|()| None)
        }
        (wanted, found) => {
            Err(about.other_auth_method(&method_name(found.map(|(method, _)| method)), wanted))
        }
    }
}

/// Whether a peer may authenticate with that AUTH method.
fn takes(wanted: &RemoteMethod, method: Option<u8>) -> bool {
    match wanted {
        RemoteMethod::Psk => method == Some(SHARED_KEY_MIC),
        RemoteMethod::Pubkey(_) => method.is_some_and(is_signature),
        RemoteMethod::Eap { .. } => method.is_none(),
        RemoteMethod::Null => method == Some(NULL),
    }
}

/// What has come.
#[derive(Debug)]
pub(super) enum Came {
    /// The next IKE_AUTH request, to be answered.
    Request(Vec<Payload>),
    /// An additional key exchange, to be answered. None is left once IKE_AUTH has begun.
    KeyExchange(KeMethod, Vec<Payload>),
    /// An INFORMATIONAL request, to be answered: nothing can be said in one yet but that the peer does not go on.
    GivingUp,
    /// Nothing new.
    Nothing,
}

/// A request that is being judged.
#[derive(Debug)]
struct Attempt {
    about: About,
    /// Connections that it may mean and that have not rejected it yet.
    candidates: Vec<usize>,
    payloads: Vec<Payload>,
    /// What the first connection that rejected it said.
    rejection: Option<Failure>,
}

/// An initiator that a connection was found for.
#[derive(Debug)]
pub(in crate::engine) struct Identified {
    pub(in crate::engine) connection: usize,
    pub(in crate::engine) local_id: Identity,
    pub(in crate::engine) remote_id: Identity,
    /// Its ID payload in this round, as its AUTH covers it.
    pub(in crate::engine) id: IdPayload,
    /// In the first round.
    pub(in crate::engine) proven: Option<Proven>,
    pub(in crate::engine) authorization: Authorization,
    pub(in crate::engine) rounds: Rounds,
    /// Another round of the peer's follows.
    pub(in crate::engine) follows: bool,
}

/// Awaits the judgement of the initiator's proof. A connection that rejects it makes way for the next that the
/// identities fit: they may trust different CAs.
#[derive(Debug)]
pub(in crate::engine) struct VerifyingInitiator {
    job: JobId,
    request: AwaitingAuthRequest,
    attempt: Attempt,
    identified: Identified,
}

impl VerifyingInitiator {
    pub(in crate::engine) fn handle_job(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        done: Done,
    ) -> Next {
        match done.result {
            JobResult::PeerVerified(Ok(proven)) if done.id == self.job => {
                self.identified.proven.get_or_insert(proven);
                self.request.prove(cx, base, now, self.identified, self.attempt.payloads)
            }
            JobResult::PeerVerified(Err(rejection)) if done.id == self.job => {
                let name = cx.connection_name(self.identified.connection);
                let about = About { connection: Some(name), remote: Some(base.remote) };
                self.attempt.rejection.get_or_insert_with(|| about.peer_rejected(&rejection));
                self.request.handle_request(cx, base, now, self.attempt)
            }
            _ => {
                done.discard(cx, base.id);
                Ok(State::VerifyingInitiator(self))
            }
        }
    }
}

/// Awaits our signature.
#[derive(Debug)]
pub(in crate::engine) struct SigningResponse {
    job: JobId,
    method: u8,
    request: AwaitingAuthRequest,
    identified: Identified,
    /// What precedes AUTH.
    answer: Vec<Payload>,
    payloads: Vec<Payload>,
}

impl SigningResponse {
    pub(in crate::engine) fn handle_job(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        done: Done,
    ) -> Next {
        match done.result {
            JobResult::Signed(Some(Signature { auth: data, statuses })) if done.id == self.job => {
                self.answer.extend(certificates::statuses(statuses));
                self.answer.push(Payload::Auth { method: self.method, data });
                self.request.proceed(cx, base, now, self.identified, self.answer, self.payloads)
            }
            JobResult::Signed(None) if done.id == self.job => {
                let failure = base.about(cx).not_signed();
                Err(self.request.refuse(cx, base, notify::AUTHENTICATION_FAILED, Vec::new(), failure))
            }
            _ => {
                done.discard(cx, base.id);
                Ok(State::SigningResponse(self))
            }
        }
    }
}
