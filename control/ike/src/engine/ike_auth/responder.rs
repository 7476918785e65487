//! IKE_AUTH as the responder. Until the request decrypts, nothing that arrives changes anything; once it does, it
//! ends in an established IKE SA or in an answer that says why not, kept a while for the peer's retransmissions.

use std::net::SocketAddr;
use std::time::Instant;

use super::{AuthPayloads, SHARED_KEY_MIC, auth_data, method_name, verify};
use crate::config::Unique;
use crate::crypto::{KdfInput, KeSecret, derive_ike_keys};
use crate::engine::api::{Failure, JobId, JobResult};
use crate::engine::channel::{Channel, Incoming};
use crate::engine::connections;
use crate::engine::context::{Context, Effect};
use crate::engine::established::Established;
use crate::engine::failure::About;
use crate::engine::ike_sa_init::{InitRecord, notification, notifications};
use crate::engine::negotiation;
use crate::engine::sa::{Base, Closed, Done, Inbound, Next, Role, State};
use crate::message::{ExchangeType, IdPayload, MessageError, Payload, Received, notify};
use crate::proposal::IkeSuite;

/// Awaits the first message that could be an IKE_AUTH request; only then is the shared secret worth computing.
#[derive(Debug)]
pub(in crate::engine) struct AwaitingFirstAuth {
    pub(in crate::engine) suite: IkeSuite,
    pub(in crate::engine) secret: KeSecret,
    pub(in crate::engine) peer_public: Vec<u8>,
    pub(in crate::engine) record: InitRecord,
}

impl AwaitingFirstAuth {
    pub(in crate::engine) fn handle_message(
        self,
        cx: &mut Context,
        base: &mut Base,
        inbound: Inbound<'_>,
    ) -> Next {
        let found = inbound.header();
        let plausible = found.exchange == ExchangeType::IkeAuth
            && found.initiator
            && !found.response
            && found.message_id == 1
            && found.spi_i == base.spi_i
            && inbound.received.encrypted.is_some();
        if !plausible {
            return Ok(State::AwaitingFirstAuth(self));
        }
        let held = Held {
            local: inbound.local,
            remote: inbound.remote,
            octets: inbound.octets.to_vec(),
            received: inbound.received,
        };
        let job = cx.derive_ke(base.id, self.secret, self.peer_public);
        Ok(State::DerivingForAuth(DerivingForAuth { job, suite: self.suite, record: self.record, held }))
    }

    pub(in crate::engine) fn init_response(&self) -> &[u8] {
        &self.record.response
    }
}

/// A message that waits for keys.
#[derive(Debug)]
struct Held {
    local: SocketAddr,
    remote: SocketAddr,
    octets: Vec<u8>,
    received: Received,
}

/// Awaits the shared secret.
#[derive(Debug)]
pub(in crate::engine) struct DerivingForAuth {
    job: JobId,
    suite: IkeSuite,
    record: InitRecord,
    held: Held,
}

impl DerivingForAuth {
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
                let keys = derive_ike_keys(self.suite.prf, self.suite.encr, &shared, input);
                let channel = Channel::new(self.suite, keys, Role::Responder);
                let Held { local, remote, octets, received } = self.held;
                let held = Inbound { local, remote, octets: &octets, received };
                AwaitingAuthRequest { channel, record: self.record }.handle_message(cx, base, now, &held)
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
    channel: Channel,
    record: InitRecord,
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
        match self.channel.receive(cx, base, inbound) {
            Incoming::Request(ExchangeType::IkeAuth, payloads) => {
                self.handle_request(cx, base, now, &payloads)
            }
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
            Incoming::Response(_) | Incoming::BadResponse(_) | Incoming::Nothing => {
                Ok(State::AwaitingAuthRequest(self))
            }
        }
    }

    fn handle_request(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        payloads: &[Payload],
    ) -> Next {
        let identified = match self.authenticate(cx, base, payloads) {
            Ok(identified) => identified,
            Err((notify_type, failure)) => {
                return Err(self.refuse(cx, base, notify_type, Vec::new(), failure));
            }
        };
        let Identified { connection, local_id, remote_id, auth } = identified;
        let initial = notifications(payloads).any(|notify| notify.notify_type == notify::INITIAL_CONTACT);
        let unique = cx.connection(connection).map(|config| config.unique).unwrap_or_default();
        let others = cx.index.of_identities(&(local_id.clone(), remote_id.clone()));
        if unique == Unique::Keep && !initial && !others.is_empty() {
            let failure = base.about(cx).not_unique(&remote_id);
            return Err(self.refuse(cx, base, notify::AUTHENTICATION_FAILED, Vec::new(), failure));
        }
        base.connection = connection;
        base.local_id = Some(local_id.clone());
        base.remote_id = Some(remote_id.clone());
        if initial && unique != Unique::Never {
            cx.effects.push_back(Effect::InitialContact {
                kept: base.id,
                local_id: local_id.clone(),
                remote_id,
                before: base.created,
            });
        }
        let answer =
            vec![Payload::IdR(local_id.into()), Payload::Auth { method: SHARED_KEY_MIC, data: auth }];
        let mut established = Established::begin(cx, base, now, self.channel);
        established.answer_first_child(cx, base, answer, payloads, &self.record);
        Box::new(established).pump(cx, base, now)
    }

    fn refuse(
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

    fn authenticate(
        &self,
        cx: &Context,
        base: &Base,
        payloads: &[Payload],
    ) -> Result<Identified, (u16, Failure)> {
        let found = AuthPayloads::parse(payloads);
        let about = About { connection: None, remote: Some(base.remote) };
        let Some(sent) = found.id_i else {
            return Err((notify::INVALID_SYNTAX, about.missing("IKE_AUTH", "an IDi payload")));
        };
        let (peer, asked) = (&sent.identity, found.id_r.map(|id| &id.identity));
        // The addresses may have changed since IKE_SA_INIT, and another connection than the first guess may be
        // meant: any that would have led to the same IKE SA.
        let suite = self.channel.suite;
        let candidates: Vec<usize> =
            connections::candidates(&cx.config.connections, base.local.ip(), base.remote.ip())
                .into_iter()
                .filter(|index| {
                    cx.connection(*index).is_some_and(|c| negotiation::allows(&c.proposals, suite))
                })
                .collect();
        let local_ip = base.local.ip();
        let Some(connection) = connections::choose_by_identity(cx, &candidates, local_ip, peer, asked) else {
            let all: Vec<_> = candidates.iter().filter_map(|index| cx.connection(*index)).collect();
            return Err((notify::AUTHENTICATION_FAILED, about.no_connection_for_identity(peer, asked, &all)));
        };
        let about = About { connection: Some(cx.connection_name(connection)), ..about };
        let local_id = cx.connection(connection).map_or_else(
            || connections::address_identity(local_ip),
            |c| connections::local_identity(c, local_ip),
        );
        let Some((SHARED_KEY_MIC, data)) = found.auth else {
            let method = method_name(found.auth.map(|(method, _)| method));
            return Err((notify::AUTHENTICATION_FAILED, about.other_auth_method(&method)));
        };
        let Some(key) = connections::shared_key(&cx.config.shared_keys, &local_id, peer) else {
            return Err((notify::AUTHENTICATION_FAILED, about.no_shared_key(&local_id, peer)));
        };
        if !verify(&self.channel, &self.record, Role::Initiator, sent, &key.secret, data) {
            return Err((
                notify::AUTHENTICATION_FAILED,
                about.shared_key_mismatch(&key.name, &local_id, peer),
            ));
        }
        let id = IdPayload::from(local_id.clone());
        let auth = auth_data(&self.channel, &self.record, Role::Responder, &id, &key.secret);
        Ok(Identified { connection, local_id, remote_id: peer.clone(), auth })
    }
}

/// An authenticated initiator, and our own proof.
struct Identified {
    connection: usize,
    local_id: crate::config::Identity,
    remote_id: crate::config::Identity,
    auth: Vec<u8>,
}
