//! IKE_SA_INIT as the responder. A request costs nothing that lasts until it is known to be well-formed, to be
//! for one of our connections, and, under load, to come from where it says ([`super::cookie`]). The shared secret
//! is computed only when an IKE_AUTH request shows that the initiator got our answer.

use std::borrow::Cow;
use std::time::Instant;

use super::cookie::Cookies;
use super::puzzle::{self, Demand};
use super::{InitPayloads, InitRecord, NONCE_LEN, learn_way, nat, notification, notifications};
use crate::crypto::{KeMethod, Puzzle};
use crate::engine::api::{Failure, JobId, JobResult};
use crate::engine::channel::{header, send};
use crate::engine::childless;
use crate::engine::connections;
use crate::engine::context::Context;
use crate::engine::failure::About;
use crate::engine::ike_auth::responder::AwaitingFirstAuth;
use crate::engine::ike_auth::{SignatureSupport, certificates, ppk, rounds};
use crate::engine::ike_intermediate;
use crate::engine::negotiation;
use crate::engine::redirect;
use crate::engine::sa::{Base, Closed, Done, Inbound, Next};
use crate::engine::state::State;
use crate::message::{ExchangeType, Header, Message, Payload, notify};
use crate::proposal::IkeSuite;

/// What becomes of a request without an IKE SA.
#[derive(Debug)]
pub(in crate::engine) enum Admission {
    /// It makes one, if there is room for it.
    Admitted(Admitted),
    /// It is answered without leaving a trace: another group or a cookie is wanted, or it is to go elsewhere.
    Answered(Vec<u8>),
    /// It is answered with an error.
    Refused(Vec<u8>, Failure),
    /// It is not for us: a label and the reason.
    Dropped(&'static str, String),
}

/// A request that makes an IKE SA.
#[derive(Debug)]
pub(in crate::engine) struct Admitted {
    /// Index of the connection that fits best so far.
    pub(in crate::engine) connection: usize,
    suite: IkeSuite,
    number: u8,
    peer_public: Vec<u8>,
    nonce_i: Vec<u8>,
    /// What the initiator said about signatures.
    peer: SignatureSupport,
    /// Both ends could use a post-quantum pre-shared key.
    ppk: bool,
    /// What we say about signatures and certificates.
    authentication: Vec<Payload>,
    /// What we say about IKE SAs without a child.
    childless: Option<Payload>,
    /// What is to be solved before its IKE_AUTH request costs anything.
    puzzle: Option<Puzzle>,
}

/// Judges a request that belongs to no IKE SA yet, of which `demand` says what it must show.
pub(in crate::engine) fn admit(
    cx: &mut Context,
    cookies: &mut Cookies,
    demand: Option<Demand>,
    now: Instant,
    inbound: &Inbound<'_>,
) -> Admission {
    let found = inbound.header();
    let about = About { connection: None, remote: Some(inbound.path.remote) };
    let well_formed =
        found.initiator && found.message_id == 0 && found.spi_i != [0; 8] && found.spi_r == [0; 8];
    if !well_formed || inbound.received.encrypted.is_some() {
        return Admission::Dropped(
            "malformed",
            "an IKE_SA_INIT request with impossible header fields".to_owned(),
        );
    }
    let payloads = &inbound.received.message.payloads;
    let init = match InitPayloads::parse(payloads) {
        Ok(init) => init,
        Err(missing) => {
            return Admission::Dropped("malformed", format!("an IKE_SA_INIT request without {missing}"));
        }
    };
    let (local, overloaded) = (inbound.path.local.ip(), demand.is_some());
    let candidates = connections::candidates(cx, local, inbound.path.remote.ip());
    if let Some(redirect) = redirect::at_once(cx, &candidates, local, overloaded, payloads, init.nonce) {
        return Admission::Answered(respond(found, vec![redirect]));
    }
    let demand = demand.filter(|demand| demand.concerns(inbound.path));
    if let Some(unmet) = demand.and_then(|demand| demand.unmet(cx, cookies, now, inbound, &init)) {
        return unmet;
    }
    let intermediate = ike_intermediate::is_announced(notifications(payloads));
    match choose(cx, &candidates, &init, intermediate) {
        None => {
            let octets = answer(found, notify::NO_PROPOSAL_CHOSEN, Vec::new());
            let connections: Vec<_> = cx.live_connections().map(|(_, connection)| connection).collect();
            Admission::Refused(octets, about.no_connection_for(inbound.path.local, &connections))
        }
        Some(Choice::Suite { connection, suite, number }) => Admission::Admitted(Admitted {
            connection,
            suite,
            number,
            peer_public: init.ke_public.to_vec(),
            nonce_i: init.nonce.to_vec(),
            peer: SignatureSupport::parse(payloads),
            ppk: !cx.config.ppks.is_empty() && ppk::is_announced(payloads),
            authentication: authentication(cx, &candidates, payloads),
            childless: childless::announce(cx, &candidates),
            puzzle: demand.and_then(|demand| demand.in_auth(&cx.config, suite, payloads)),
        }),
        Some(Choice::OtherGroup(method)) => {
            let wanted = method.id().to_be_bytes().to_vec();
            Admission::Answered(answer(found, notify::INVALID_KE_PAYLOAD, wanted))
        }
        Some(Choice::Nothing { connection }) => {
            let about = About { connection: Some(cx.connection_name(connection)), ..about };
            let octets = answer(found, notify::NO_PROPOSAL_CHOSEN, Vec::new());
            let ours = cx.connection(connection).map(|c| c.proposals.as_slice()).unwrap_or_default();
            Admission::Refused(octets, about.ike_proposal_mismatch(ours, init.proposals))
        }
    }
}

/// Several rounds; hash algorithms, to an initiator that has told us its own (RFC 7427 §4), and CAs, for whichever connection it may
/// turn out to mean.
fn authentication(cx: &Context, candidates: &[usize], payloads: &[Payload]) -> Vec<Payload> {
    let connections = || candidates.iter().filter_map(|index| cx.connection(*index));
    let asked = notifications(payloads).any(|found| found.notify_type == notify::SIGNATURE_HASH_ALGORITHMS);
    let hashes = if asked { certificates::announce_hashes(connections()) } else { None };
    let several = rounds::announce(connections());
    hashes.into_iter().chain(certificates::requests(connections())).chain(several).collect()
}

enum Choice {
    Suite {
        connection: usize,
        suite: IkeSuite,
        number: u8,
    },
    /// A suite could be had with a public value of this group.
    OtherGroup(KeMethod),
    Nothing {
        connection: usize,
    },
}

/// The first candidate whose proposals go with the public value that came; else the first whose proposals go with
/// the offer. Without `intermediate` there can be no additional key exchanges.
fn choose(cx: &Context, candidates: &[usize], init: &InitPayloads<'_>, intermediate: bool) -> Option<Choice> {
    let mut other_group = None;
    let mut mismatch = None;
    for &connection in candidates {
        let Some(config) = cx.connection(connection) else { continue };
        let ours = if intermediate {
            Cow::Borrowed(config.proposals.as_slice())
        } else {
            negotiation::without_additional(&config.proposals)
        };
        match negotiation::choose_ike(&ours, init.proposals, init.ke_method) {
            Ok((suite, number)) if suite.ke.id() == init.ke_method => {
                return Some(Choice::Suite { connection, suite, number });
            }
            Ok((suite, _)) => _ = other_group.get_or_insert(Choice::OtherGroup(suite.ke)),
            Err(_) => _ = mismatch.get_or_insert(Choice::Nothing { connection }),
        }
    }
    other_group.or(mismatch)
}

/// A response that carries one notification and belongs to no IKE SA.
pub(crate) fn answer(request: &Header, notify_type: u16, data: Vec<u8>) -> Vec<u8> {
    respond(request, vec![notification(notify_type, data)])
}

/// A response that belongs to no IKE SA.
pub(super) fn respond(request: &Header, payloads: Vec<Payload>) -> Vec<u8> {
    let header = Header {
        spi_i: request.spi_i,
        spi_r: request.spi_r,
        major: 2,
        minor: 0,
        exchange: request.exchange,
        initiator: false,
        response: true,
        message_id: request.message_id,
    };
    Message { header, payloads }.emit()
}

/// Awaits our public value.
#[derive(Debug)]
pub(in crate::engine) struct Answering {
    job: JobId,
    admitted: Admitted,
    request: Vec<u8>,
}

impl Answering {
    pub(in crate::engine) fn begin(
        cx: &mut Context,
        base: &mut Base,
        admitted: Admitted,
        inbound: &Inbound<'_>,
    ) -> Self {
        base.suite = Some(admitted.suite);
        learn_way(cx, base, inbound, [0; 8]);
        base.takes_redirects = redirect::is_announced(&inbound.received.message.payloads);
        let job = cx.answer_ke(base.id, admitted.suite.ke, admitted.peer_public.clone());
        cx.is_admission(job);
        Self { job, admitted, request: inbound.octets.to_vec() }
    }

    pub(in crate::engine) fn handle_job(self, cx: &mut Context, base: &mut Base, done: Done) -> Next {
        match done.result {
            JobResult::KeGenerated(Ok((secret, public))) if done.id == self.job => {
                let nonce_r = cx.random::<NONCE_LEN>().to_vec();
                let response = self.response(base, public, nonce_r.clone());
                send(cx, base.path(), std::slice::from_ref(&response));
                let record = InitRecord {
                    request: self.request,
                    response,
                    nonce_i: self.admitted.nonce_i,
                    nonce_r,
                    peer: self.admitted.peer,
                    ppk: self.admitted.ppk,
                };
                base.lowest_nonce = record.lowest_nonce();
                let state = AwaitingFirstAuth {
                    suite: self.admitted.suite,
                    secret,
                    peer_public: self.admitted.peer_public,
                    record,
                    puzzle: self.admitted.puzzle,
                };
                Ok(State::AwaitingFirstAuth(Box::new(state)))
            }
            JobResult::KeGenerated(Err(error)) if done.id == self.job => {
                Err(Closed::failed(base.about(cx).key_exchange(&error)))
            }
            _ => {
                done.discard(cx, base.id);
                Ok(State::Answering(self))
            }
        }
    }

    fn response(&self, base: &Base, public: Vec<u8>, nonce_r: Vec<u8>) -> Vec<u8> {
        let mut payloads = vec![
            Payload::Sa(vec![self.admitted.suite.answer(self.admitted.number)]),
            Payload::Ke { method: self.admitted.suite.ke.id(), data: public },
            Payload::Nonce(nonce_r),
        ];
        let spis = (base.spi_i, base.spi_r);
        payloads.extend(nat::announce(spis, base.local, base.remote, base.nat.forced));
        payloads.extend(self.admitted.authentication.iter().cloned());
        if base.fragmentation {
            payloads.push(notification(notify::IKEV2_FRAGMENTATION_SUPPORTED, Vec::new()));
        }
        payloads.extend(self.admitted.childless.clone());
        payloads.extend(self.admitted.puzzle.map(puzzle::ask));
        payloads.extend(self.admitted.ppk.then(ppk::announce));
        if self.admitted.suite.additional().next().is_some() {
            payloads.push(notification(notify::INTERMEDIATE_EXCHANGE_SUPPORTED, Vec::new()));
        }
        Message { header: header(base, ExchangeType::IkeSaInit, true, 0), payloads }.emit()
    }
}
