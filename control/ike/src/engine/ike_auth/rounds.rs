//! Several rounds of authentication (RFC 4739): each end may prove itself more than once, as somebody else each time, such as a
//! device with its certificate and then its user by EAP. Whoever has another round says so beside its AUTH payload
//! (ANOTHER_AUTH_FOLLOWS), and begins that with its next message.
//!
//! Both ends go on at the same time, so rounds are counted for each. Where one of them is being authenticated by EAP the other
//! has but one round (the configuration sees to that): EAP's messages carry nothing besides.

use super::initiator::AwaitingAuthResponse;
use super::responder::{AwaitingAuthRequest, Came, Identified, check};
use super::{AuthPayloads, auth_data, certificates, signed_octets};
use crate::auth::method::SHARED_KEY_MIC;
use crate::auth::{SignRequest, Signature};
use crate::config::{ConnectionConfig, LocalMethod, RemoteMethod};
use crate::engine::api::{Failure, JobId, JobResult};
use crate::engine::connections;
use crate::engine::context::Context;
use crate::engine::failure::About;
use crate::engine::ike_sa_init::{data_of, notification};
use crate::engine::sa::{Base, Closed, Done, Inbound, Next, Role};
use crate::engine::state::State;
use crate::message::{ExchangeType, IdPayload, Payload, notify};
use std::time::Instant;

/// Which round each end is in, from zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::engine) struct Rounds {
    /// Ours.
    pub(super) local: usize,
    /// The peer's.
    pub(super) remote: usize,
}

/// Whether a connection has more than one round at either end.
fn has_several(connection: &ConnectionConfig) -> bool {
    connection.local.len() > 1 || connection.remote.len() > 1
}

/// That we know several rounds, where one of these connections has them: of a responder in IKE_SA_INIT, of an initiator in
/// IKE_AUTH (RFC 4739 §3.1).
pub(in crate::engine) fn announce<'c>(
    connections: impl IntoIterator<Item = &'c ConnectionConfig>,
) -> Option<Payload> {
    let several = connections.into_iter().any(has_several);
    several.then(|| notification(notify::MULTIPLE_AUTH_SUPPORTED, Vec::new()))
}

/// As initiator: whether the peer knows as many rounds as we have, by its answer to IKE_SA_INIT.
pub(in crate::engine) fn check_announced(
    cx: &Context,
    base: &Base,
    payloads: &[Payload],
) -> Result<(), Failure> {
    let several = cx.connection(base.connection).is_some_and(has_several);
    match several && data_of(payloads, notify::MULTIPLE_AUTH_SUPPORTED).is_none() {
        true => Err(base.about(cx).rounds_not_supported()),
        false => Ok(()),
    }
}

/// That another round of ours follows the one in hand.
pub(super) fn announce_another(has: usize, round: usize) -> Option<Payload> {
    (round + 1 < has).then(|| notification(notify::ANOTHER_AUTH_FOLLOWS, Vec::new()))
}

/// Whether the peer says so.
pub(super) fn is_another_announced(payloads: &[Payload]) -> bool {
    data_of(payloads, notify::ANOTHER_AUTH_FOLLOWS).is_some()
}

impl AwaitingAuthResponse {
    /// The peer has proven itself in a round: whether it has as many as it has to.
    pub(super) fn take_round(
        &mut self,
        cx: &Context,
        base: &Base,
        payloads: &[Payload],
    ) -> Result<(), Failure> {
        let wanted = cx.connection(base.connection).map_or(1, |connection| connection.remote.len());
        let follows = is_another_announced(payloads);
        if follows != (self.rounds.remote + 1 < wanted) {
            return Err(base.about(cx).other_rounds(self.rounds.remote + 1, follows, wanted));
        }
        self.rounds.remote += 1;
        self.peer_is_proven = !follows;
        Ok(())
    }

    /// One of our rounds is over: the next, if there is one; or what the peer has still to say.
    pub(super) fn go_on(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        payloads: &[Payload],
    ) -> Next {
        let config = cx.config.clone();
        let Some(connection) = config.connections.get(base.connection) else {
            return Err(Closed::because("it is not configured any more"));
        };
        let Some(next) = connection.local.get(self.rounds.local + 1) else {
            if self.peer_is_proven {
                return self.establish(cx, base, now, payloads);
            }
            self.channel.request(cx, base, now, ExchangeType::IkeAuth, Vec::new());
            return Ok(State::AwaitingAuthResponse(self));
        };
        self.rounds.local += 1;
        let local_id = connections::identity_of(next, base.local.ip());
        self.id = IdPayload::from(local_id.clone());
        match &next.auth {
            LocalMethod::Eap { .. } => Ok(self.send(cx, base, now, Vec::new(), None)),
            // Refused in the configuration.
            LocalMethod::Null | LocalMethod::Aaa => Err(Closed::because("it is no further round")),
            LocalMethod::Psk => {
                let peer = base.remote_id.clone();
                let peer = peer.unwrap_or_else(|| connections::address_identity(base.remote.ip()));
                let Some(key) = connections::shared_key(&config.shared_keys, &local_id, &peer) else {
                    let failure = base.about(cx).no_shared_key(&local_id, &peer);
                    return Ok(self.reject(cx, base, now, failure));
                };
                let data = auth_data(&self.channel, &self.record, Role::Initiator, &self.id, &key.secret);
                self.key = Some(key.name.clone());
                let auth = Payload::Auth { method: SHARED_KEY_MIC, data };
                Ok(self.send(cx, base, now, Vec::new(), Some(auth)))
            }
            LocalMethod::Pubkey { credentials, constraint } => {
                let peer = &self.record.peer;
                let (credential, scheme) = match certificates::choose(credentials, constraint, peer) {
                    Ok(chosen) => chosen,
                    Err(ours) => {
                        let failure = base.about(cx).no_common_hash(&ours, &peer.hashes);
                        return Ok(self.reject(cx, base, now, failure));
                    }
                };
                let certificates = certificates::sent(&credential, peer);
                let octets = signed_octets(&self.channel, &self.record, Role::Initiator, &self.id);
                let wants_status = peer.wants_status_of(connection);
                let job = cx.sign(base.id, SignRequest { credential, scheme, octets, wants_status });
                let state = SigningRound { job, method: scheme.method(), certificates, awaiting: self };
                Ok(State::SigningRound(state))
            }
        }
    }

    fn send(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        certificates: Vec<Payload>,
        auth: Option<Payload>,
    ) -> State {
        let has = cx.connection(base.connection).map_or(1, |connection| connection.local.len());
        let another = auth.as_ref().and_then(|_| announce_another(has, self.rounds.local));
        let mut payloads = vec![Payload::IdI(self.id.clone())];
        payloads.extend(certificates.into_iter().chain(auth).chain(another));
        self.channel.request(cx, base, now, ExchangeType::IkeAuth, payloads);
        State::AwaitingAuthResponse(self)
    }
}

/// As initiator: awaits our signature of a further round.
#[derive(Debug)]
pub(in crate::engine) struct SigningRound {
    job: JobId,
    method: u8,
    certificates: Vec<Payload>,
    awaiting: Box<AwaitingAuthResponse>,
}

impl SigningRound {
    pub(in crate::engine) fn handle_job(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        done: Done,
    ) -> Next {
        match done.result {
            JobResult::Signed(Some(Signature { auth: data, statuses })) if done.id == self.job => {
                self.certificates.extend(certificates::statuses(statuses));
                let auth = Payload::Auth { method: self.method, data };
                Ok(self.awaiting.send(cx, base, now, self.certificates, Some(auth)))
            }
            JobResult::Signed(None) if done.id == self.job => {
                let failure = base.about(cx).not_signed();
                Ok(self.awaiting.reject(cx, base, now, failure))
            }
            _ => {
                done.discard(cx, base.id);
                Ok(State::SigningRound(self))
            }
        }
    }
}

impl AwaitingAuthRequest {
    /// A request was answered for by both ends, and `answer` says so: whether it was the last, or another round follows.
    pub(super) fn go_on(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        mut identified: Identified,
        mut answer: Vec<Payload>,
        payloads: Vec<Payload>,
    ) -> Next {
        let Some(connection) = cx.connection(identified.connection) else {
            return Err(Closed::because("it is not configured any more"));
        };
        let (has, wanted) = (connection.local.len(), connection.remote.len());
        let Rounds { local, remote } = identified.rounds;
        let more = remote + 1 < wanted;
        if remote < wanted && identified.follows != more {
            let about = identified.about(cx, base);
            let failure = about.other_rounds(remote + 1, identified.follows, wanted);
            return Err(self.refuse(cx, base, notify::AUTHENTICATION_FAILED, Vec::new(), failure));
        }
        let another = announce_another(has, local);
        if !more && another.is_none() {
            return self.establish(cx, base, now, identified, answer, &payloads);
        }
        identified.rounds = Rounds { local: local + 1, remote: remote + 1 };
        answer.extend(another);
        self.channel.respond(cx, base, answer);
        let state = AwaitingNextRound { request: self, identified, payloads };
        Ok(State::AwaitingNextRound(Box::new(state)))
    }
}

/// As responder: awaits the request of the next round, ours or the peer's.
#[derive(Debug)]
pub(in crate::engine) struct AwaitingNextRound {
    request: AwaitingAuthRequest,
    identified: Identified,
    /// Of the first request.
    payloads: Vec<Payload>,
}

impl AwaitingNextRound {
    pub(in crate::engine) fn handle_message(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        inbound: &Inbound<'_>,
    ) -> Next {
        let about = self.identified.about(cx, base);
        let received = match self.request.next_request(cx, base, now, inbound)? {
            Came::Request(payloads) => payloads,
            Came::Nothing => return Ok(State::AwaitingNextRound(self)),
            Came::GivingUp | Came::KeyExchange(..) => {
                let failure = about.next_round_missing();
                self.request.channel.respond(cx, base, Vec::new());
                return Err(Closed::failed(failure).lingering(self.request.channel.linger()));
            }
        };
        let Self { mut request, mut identified, payloads } = *self;
        let config = cx.config.clone();
        let connection = config.connections.get(identified.connection);
        identified.follows = is_another_announced(&received);
        let Some(wanted) = connection.and_then(|connection| connection.remote.get(identified.rounds.remote))
        else {
            // The peer has proven what it has to; it waits for us.
            return request.prove(cx, base, now, identified, payloads);
        };
        let refuse = |request: &mut AwaitingAuthRequest, cx: &mut Context, base: &Base, failure| {
            Err(request.refuse(cx, base, notify::AUTHENTICATION_FAILED, Vec::new(), failure))
        };
        let found = AuthPayloads::parse(&received);
        let Some(sent) = found.id_i else {
            return refuse(&mut request, cx, base, about.missing("IKE_AUTH", "an IDi payload"));
        };
        if !connections::accepts(&wanted.auth, &wanted.id, &sent.identity) {
            return refuse(&mut request, cx, base, about.unexpected_identity(&sent.identity, &wanted.id));
        }
        identified.id = sent.clone();
        let checked =
            check(&request, cx, &about, &wanted.auth, &identified.local_id, sent, found.auth, &received);
        match checked {
            Ok(None) => request.prove(cx, base, now, identified, payloads),
            Ok(Some(proof)) => {
                let job = cx.verify_peer(base.id, proof);
                Ok(request.verify(job, about, identified, payloads))
            }
            Err(failure) => refuse(&mut request, cx, base, failure),
        }
    }
}

/// Whether a peer is authenticated by EAP in a round.
pub(super) fn is_eap(connection: &ConnectionConfig, round: usize) -> bool {
    matches!(connection.remote.get(round).map(|round| &round.auth), Some(RemoteMethod::Eap { .. }))
}

impl Identified {
    pub(super) fn about(&self, cx: &Context, base: &Base) -> About {
        About { connection: Some(cx.connection_name(self.connection)), remote: Some(base.remote) }
    }
}
