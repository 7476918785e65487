//! IKE_SESSION_RESUME as the gateway. A request costs one decryption, and leaves a trace only if its ticket is good; the
//! ticket is used up when IKE_AUTH shows that whoever has it has its keys as well, so that one who has merely seen it
//! keeps nobody out.

use std::time::Instant;

use subtle::ConstantTimeEq as _;

use super::{Session, auth, tickets};
use crate::auth::method::SHARED_KEY_MIC;
use crate::auth::{Authorization, Proven};
use crate::crypto::{KdfInput, derive_resumed_ike_keys};
use crate::engine::Engine;
use crate::engine::IkeSa;
use crate::engine::api::Failure;
use crate::engine::channel::{Channel, digest, header, send};
use crate::engine::connections;
use crate::engine::context::{Context, Effect};
use crate::engine::ike_auth::AuthPayloads;
use crate::engine::ike_auth::SignatureSupport;
use crate::engine::ike_auth::responder::{AwaitingAuthRequest, Identified};
use crate::engine::ike_auth::rounds::Rounds;
use crate::engine::ike_sa_init::responder::answer;
use crate::engine::ike_sa_init::{InitRecord, NONCE_LEN, announce_fragmentation, data_of, learn_way, nat};
use crate::engine::sa::{Base, Inbound, Role};
use crate::engine::shard::Load;
use crate::engine::state::State;
use crate::message::{ExchangeType, Message, Payload, notify};

impl Engine {
    /// An IKE_SESSION_RESUME request that is no repetition, and that there is room for.
    pub(in crate::engine) fn resume(&mut self, now: Instant, inbound: &Inbound<'_>, load: Load) {
        let found = inbound.header();
        let payloads = &inbound.received.message.payloads;
        let nonce = payloads.iter().find_map(|payload| match payload {
            Payload::Nonce(nonce) => Some(nonce.as_slice()),
            _ => None,
        });
        let well_formed = found.message_id == 0
            && found.spi_i != [0; 8]
            && found.spi_r == [0; 8]
            && inbound.received.encrypted.is_none();
        let (Some(nonce_i), Some(ticket), true) =
            (nonce, data_of(payloads, notify::TICKET_OPAQUE), well_formed)
        else {
            let detail = "an IKE_SESSION_RESUME request without a nonce or a ticket".to_owned();
            return self.reject(inbound.path.remote, "malformed", detail);
        };
        let path = inbound.path;
        let (local, remote) = path.between();
        // RFC 9329 §6.3: the source of a TCP stream has proved that it is there.
        if load.half_open >= self.cx.config.cookie_threshold && !path.is_stream() {
            let shown = data_of(payloads, notify::COOKIE);
            let (cookies, cx) = (&mut self.cookies, &mut self.cx);
            let good = shown.and_then(|shown| cookies.check(cx, now, shown, nonce_i, remote, found.spi_i));
            if good.is_none() {
                let cookie = cookies.make(cx, now, nonce_i, remote, found.spi_i, None);
                return send(cx, path, &[answer(found, notify::COOKIE, cookie)]);
            }
        }
        let allowed = connections::candidates(&self.cx, local.ip(), remote.ip());
        if allowed.is_empty() {
            return self.reject(remote, "ticket", "a ticket from an address of no connection".to_owned());
        }
        let session = tickets::open(&self.cx, now, ticket);
        let Some(session) = session.filter(|session| allowed.contains(&session.connection)) else {
            self.reject(remote, "ticket", "a ticket that is not ours, was used, or is too old".to_owned());
            return send(&mut self.cx, path, &[answer(found, notify::TICKET_NACK, Vec::new())]);
        };
        let (spis, nonce_i) = ((found.spi_i, self.cx.fresh_spi()), nonce_i.to_vec());
        let id = self.cx.fresh_id();
        let mut base = Base::new(id, Role::Responder, spis, path, session.connection, now);
        let state = begin(&mut self.cx, &mut base, session, inbound, nonce_i);
        let key = (remote, digest(inbound.octets));
        self.half_open.insert(key, base.id);
        self.insert(now, IkeSa::boxed(base, state, Some(key)));
    }
}

/// Answers, and awaits IKE_AUTH.
fn begin(
    cx: &mut Context,
    base: &mut Base,
    session: Session,
    inbound: &Inbound<'_>,
    nonce_i: Vec<u8>,
) -> State {
    base.suite = Some(session.suite);
    learn_way(cx, base, inbound, [0; 8]);
    let nonce_r = cx.random::<NONCE_LEN>().to_vec();
    let mut said = vec![Payload::Nonce(nonce_r.clone())];
    said.extend(nat::announce((base.spi_i, base.spi_r), base.local, base.remote, base.nat.forced));
    said.extend(
        cx.connection(base.connection).and_then(announce_fragmentation).filter(|_| base.fragmentation),
    );
    let response =
        Message { header: header(base, ExchangeType::IkeSessionResume, true, 0), payloads: said }.emit();
    send(cx, base.path(), std::slice::from_ref(&response));
    let input = KdfInput { nonce_i: &nonce_i, nonce_r: &nonce_r, spi_i: base.spi_i, spi_r: base.spi_r };
    let suite = session.suite;
    let keys = derive_resumed_ike_keys(suite.prf, &session.sk_d.0, suite.protection, input);
    let channel = Channel::new(suite, keys, Role::Responder);
    let (request, peer) = (inbound.octets.to_vec(), SignatureSupport::default());
    let record = InitRecord { request, response, nonce_i, nonce_r, peer, ppk: false };
    base.lowest_nonce = record.lowest_nonce();
    base.resumed = Some(Box::new(session));
    State::AwaitingAuthRequest(AwaitingAuthRequest::of_resumed(channel, record))
}

/// Whether an IKE_AUTH request is of whom the ticket was given to. Then it is used up.
pub(in crate::engine) fn judge(
    cx: &mut Context,
    base: &Base,
    session: &Session,
    (channel, record): (&Channel, &InitRecord),
    payloads: &[Payload],
) -> Result<Identified, Failure> {
    let about = base.about(cx);
    let found = AuthPayloads::parse(payloads);
    let (Some(id), Some((SHARED_KEY_MIC, data))) = (found.id_i, found.auth) else {
        return Err(about.missing("IKE_AUTH", "an IDi payload, or an AUTH payload of a shared key"));
    };
    let asked = found.id_r.is_none_or(|asked| asked.identity.same(&session.id_r));
    if !id.identity.same(&session.id_i) || !asked {
        return Err(about.not_resumed(&id.identity, "its ticket is of other identities"));
    }
    if !bool::from(auth(channel, record, Role::Initiator, id).ct_eq(data)) {
        return Err(
            about.not_resumed(&id.identity, "it does not have the keys of the IKE SA that its ticket is of")
        );
    }
    if cx.tickets.use_up(&session.ticket) {
        return Err(about.not_resumed(&id.identity, "its ticket was used already"));
    }
    Ok(Identified {
        connection: session.connection,
        local_id: session.id_r.clone(),
        remote_id: id.identity.clone(),
        proven: Some(Proven::Resumed),
        id: id.clone(),
        authorization: Authorization::default(),
        rounds: Rounds::default(),
        follows: false,
    })
}

/// The IKE SA is there: it ends when the authentication that it rests on does, and takes the old one's place, which the client
/// has lost.
pub(in crate::engine) fn resumed(cx: &mut Context, base: &mut Base) {
    let Some(session) = base.resumed.take() else { return };
    session.bound(base);
    if let Some(old) = cx.index.by_spi(&session.own_spi).filter(|old| *old != base.id) {
        cx.effects.push_back(Effect::Resumed { old });
    }
}
