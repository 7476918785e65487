//! IKE_AUTH (RFC 7296 §1.2, §2.15): who both ends are, proven with a pre-shared key over the IKE_SA_INIT messages,
//! and the first CHILD SA.

pub(super) mod initiator;
pub(super) mod responder;

use subtle::ConstantTimeEq as _;

use super::channel::Channel;
use super::sa::Role;
use crate::config::Secret;
use crate::crypto::psk_auth;
use crate::engine::ike_sa_init::InitRecord;
use crate::message::{IdPayload, Payload};

/// Auth Method 2, Shared Key Message Integrity Code (RFC 7296 §3.8).
const SHARED_KEY_MIC: u8 = 2;

/// The AUTH data of one end: `signer` sends `id` and shares `secret`.
fn auth_data(
    channel: &Channel,
    record: &InitRecord,
    signer: Role,
    id: &IdPayload,
    secret: &Secret,
) -> Vec<u8> {
    let (message, peer_nonce, sk_p) = match signer {
        Role::Initiator => (&record.request, &record.nonce_r, &channel.keys.sk_pi),
        Role::Responder => (&record.response, &record.nonce_i, &channel.keys.sk_pr),
    };
    psk_auth(channel.suite.prf, &secret.0, message, peer_nonce, sk_p, &id.body())
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

/// The authentication payloads of either message.
#[derive(Debug, Default)]
struct AuthPayloads<'a> {
    id_i: Option<&'a IdPayload>,
    id_r: Option<&'a IdPayload>,
    auth: Option<(u8, &'a [u8])>,
}

impl<'a> AuthPayloads<'a> {
    fn parse(payloads: &'a [Payload]) -> Self {
        let mut found = Self::default();
        for payload in payloads {
            match payload {
                Payload::IdI(id) => found.id_i = found.id_i.or(Some(id)),
                Payload::IdR(id) => found.id_r = found.id_r.or(Some(id)),
                Payload::Auth { method, data } => found.auth = found.auth.or(Some((*method, data))),
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
        Some(1) => "an RSA signature".to_owned(),
        Some(9..=11) => "an ECDSA signature".to_owned(),
        Some(13) => "NULL authentication".to_owned(),
        Some(14) => "a digital signature (RFC 7427)".to_owned(),
        Some(other) => format!("authentication method {other}"),
    }
}
