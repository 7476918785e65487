//! Post-quantum pre-shared keys (RFC 8784): a secret that both ends have beforehand is mixed into `SK_d`, `SK_pi` and
//! `SK_pr`, so that whoever breaks the key exchange one day still cannot derive what CHILD SAs are made of. The initiator
//! says which; where it is not required, the initiator proves itself without it as well, for a peer that lacks it.

use crate::config::{ConnectionConfig, EngineConfig, Identity, SharedKey};
use crate::engine::api::Failure;
use crate::engine::failure::About;
use crate::engine::ike_sa_init::{notification, notifications};
use crate::message::{Payload, notify};

/// The kind of PPK_ID that is a fixed octet string (RFC 8784 §5.1).
const FIXED: u8 = 2;

/// That we could use one (RFC 8784 §3).
pub(in crate::engine) fn announce() -> Payload {
    notification(notify::USE_PPK, Vec::new())
}

/// Whether the peer could.
pub(in crate::engine) fn is_announced(payloads: &[Payload]) -> bool {
    notifications(payloads).any(|found| found.notify_type == notify::USE_PPK)
}

/// The one that we begin an IKE SA with; `agreed`: both ends could use one.
pub(super) fn of_initiator<'c>(
    config: &'c EngineConfig,
    connection: &ConnectionConfig,
    agreed: bool,
    about: &About,
) -> Result<Option<&'c SharedKey>, Failure> {
    let ppk = &connection.ppk;
    match (&ppk.id, agreed) {
        (Some(id), true) => match named(config, |known| known == id) {
            Some(key) => Ok(Some(key)),
            None => Err(about.no_ppk(id)),
        },
        (_, false) if ppk.required => Err(about.ppk_not_supported()),
        _ => Ok(None),
    }
}

/// The one that an initiator has named, if we have it.
pub(super) fn of_responder<'c>(config: &'c EngineConfig, payloads: &[Payload]) -> Option<&'c SharedKey> {
    let (kind, id) = named_by(payloads)?.split_first()?;
    named(config, |known| *kind == FIXED && known.to_wire().1 == id)
}

/// The data of PPK_IDENTITY.
fn named_by(payloads: &[Payload]) -> Option<&[u8]> {
    let found = notifications(payloads).find(|found| found.notify_type == notify::PPK_IDENTITY)?;
    Some(&found.data)
}

fn named(config: &EngineConfig, is: impl Fn(&Identity) -> bool) -> Option<&SharedKey> {
    config.ppks.iter().find(|key| key.ids.iter().any(&is))
}

/// The initiator's word of which it uses.
pub(super) fn identity(id: &Identity) -> Payload {
    let mut data = vec![FIXED];
    data.extend(id.to_wire().1);
    notification(notify::PPK_IDENTITY, data)
}

/// The responder's word that it uses it too.
pub(super) fn confirmation() -> Payload {
    notification(notify::PPK_IDENTITY, Vec::new())
}

/// Whether that was said.
pub(super) fn is_confirmed(payloads: &[Payload]) -> bool {
    named_by(payloads).is_some()
}

/// The initiator's AUTH data for a peer that does not use it.
pub(super) fn without(auth: Vec<u8>) -> Payload {
    notification(notify::NO_PPK_AUTH, auth)
}

/// Puts that in the place of the AUTH data, if it was sent.
pub(super) fn fall_back(payloads: &mut [Payload]) {
    let found = notifications(payloads).find(|found| found.notify_type == notify::NO_PPK_AUTH);
    let Some(without) = found.map(|found| found.data.clone()) else { return };
    for payload in payloads {
        if let Payload::Auth { data, .. } = payload {
            data.clone_from(&without);
        }
    }
}
