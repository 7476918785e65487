//! IKE_AUTH (RFC 7296 §1.2, §2.15): who both ends are, proven over the IKE_SA_INIT messages with a pre-shared key or a
//! signature, or with EAP, and the first CHILD SA.

pub(super) mod certificates;
pub(super) mod claiming;
pub(super) mod eap_initiator;
pub(super) mod eap_responder;
pub(super) mod initiator;
pub(super) mod ppk;
pub(super) mod puzzle;
pub(super) mod responder;
pub(super) mod rounds;

use std::sync::Arc;

use subtle::ConstantTimeEq as _;

use super::channel::Channel;
use super::sa::Role;
use crate::auth::method;
use crate::auth::{Trust, VerifyRequest};
use crate::config::Secret;
use crate::crypto::psk_auth;
use crate::engine::api::Failure;
use crate::engine::failure::About;
use crate::engine::ike_sa_init::{InitRecord, notifications};
use crate::message::{IdPayload, Payload, notify};

pub(super) use certificates::SignatureSupport;

/// What an end's AUTH covers: its IKE_SA_INIT message, the other end's nonce, its key for this.
fn signer_inputs<'a>(
    channel: &'a Channel,
    record: &'a InitRecord,
    signer: Role,
) -> (&'a [u8], &'a [u8], &'a [u8]) {
    match signer {
        Role::Initiator => (&record.request, &record.nonce_r, &channel.keys.sk_pi),
        Role::Responder => (&record.response, &record.nonce_i, &channel.keys.sk_pr),
    }
}

/// The octets that an end signs (RFC 7296 §2.15).
pub(super) fn signed_octets(channel: &Channel, record: &InitRecord, signer: Role, id: &IdPayload) -> Vec<u8> {
    let (message, peer_nonce, sk_p) = signer_inputs(channel, record, signer);
    let maced_id = channel.suite.prf.compute(sk_p, &[&id.body()]);
    [message, peer_nonce, &maced_id, &channel.int_auth()].concat()
}

/// The AUTH data of one end: `signer` sends `id` and shares `secret`.
fn auth_data(
    channel: &Channel,
    record: &InitRecord,
    signer: Role,
    id: &IdPayload,
    secret: &Secret,
) -> Vec<u8> {
    let (message, peer_nonce, sk_p) = signer_inputs(channel, record, signer);
    psk_auth(channel.suite.prf, &secret.0, message, peer_nonce, sk_p, &id.body(), &channel.int_auth())
}

fn verify(
    channel: &Channel,
    record: &InitRecord,
    signer: Role,
    id: &IdPayload,
    secret: &Secret,
    found: &[u8],
) -> bool {
    auth_data(channel, record, signer, id, secret).ct_eq(found).into()
}

/// The AUTH data of an end that proves nothing: as with a pre-shared key, which its SK_p stands for (RFC 7619 §2.1). It
/// only says that both ends have seen the same messages.
fn null_auth_data(channel: &Channel, record: &InitRecord, signer: Role, id: &IdPayload) -> Vec<u8> {
    let (.., sk_p) = signer_inputs(channel, record, signer);
    auth_data(channel, record, signer, id, &Secret(sk_p.to_vec()))
}

/// A peer's AUTH data where it has to prove nothing.
fn check_null(
    about: &About,
    channel: &Channel,
    record: &InitRecord,
    signer: Role,
    id: &IdPayload,
    found: &[u8],
) -> Result<(), Failure> {
    match null_auth_data(channel, record, signer, id).ct_eq(found).into() {
        true => Ok(()),
        false => Err(about.null_auth_wrong()),
    }
}

/// A peer's signature, to be judged by a job.
fn verify_request(
    channel: &Channel,
    record: &InitRecord,
    signer: Role,
    trust: &Arc<Trust>,
    id: &IdPayload,
    (method, auth): (u8, &[u8]),
    payloads: &[Payload],
) -> VerifyRequest {
    VerifyRequest {
        trust: Arc::clone(trust),
        id: id.identity.clone(),
        certificates: certificates::received(payloads),
        method,
        auth: auth.to_vec(),
        octets: signed_octets(channel, record, signer, id),
    }
}

/// Whether it is the number of a method that signs.
fn is_signature(method: u8) -> bool {
    matches!(
        method,
        method::RSA | method::ECDSA_256 | method::ECDSA_384 | method::ECDSA_521 | method::DIGITAL_SIGNATURE
    )
}

/// Whether an initiator takes a responder that EAP alone proves (RFC 5998 §3).
fn announces_eap_only(payloads: &[Payload]) -> bool {
    notifications(payloads).any(|found| found.notify_type == notify::EAP_ONLY_AUTHENTICATION)
}

/// The authentication payloads of either message.
#[derive(Debug, Default)]
pub(super) struct AuthPayloads<'a> {
    pub(super) id_i: Option<&'a IdPayload>,
    pub(super) id_r: Option<&'a IdPayload>,
    pub(super) auth: Option<(u8, &'a [u8])>,
    eap: Option<&'a [u8]>,
}

impl<'a> AuthPayloads<'a> {
    pub(super) fn parse(payloads: &'a [Payload]) -> Self {
        let mut found = Self::default();
        for payload in payloads {
            match payload {
                Payload::IdI(id) => found.id_i = found.id_i.or(Some(id)),
                Payload::IdR(id) => found.id_r = found.id_r.or(Some(id)),
                Payload::Auth { method, data } => found.auth = found.auth.or(Some((*method, data))),
                Payload::Eap(packet) => found.eap = found.eap.or(Some(packet)),
                _ => {}
            }
        }
        found
    }
}

/// The IANA registry's name of an Auth Method.
fn method_name(method: Option<u8>) -> String {
    match method {
        None => "EAP".to_owned(),
        Some(method::RSA) => "an RSA signature".to_owned(),
        Some(method::SHARED_KEY_MIC) => "a pre-shared key".to_owned(),
        Some(method::ECDSA_256..=method::ECDSA_521) => "an ECDSA signature".to_owned(),
        Some(method::NULL) => "NULL authentication".to_owned(),
        Some(method::DIGITAL_SIGNATURE) => "a digital signature (RFC 7427)".to_owned(),
        Some(other) => format!("authentication method {other}"),
    }
}
