//! IKE_INTERMEDIATE (RFC 9242), between IKE_SA_INIT and IKE_AUTH: one for each additional key exchange that IKE_SA_INIT
//! has agreed on (RFC 9370 §2.2.2). Each makes the IKE SA's keys anew from the old ones and its secret, so that whoever
//! would read what follows has to break every one of them. AUTH covers both messages of each ([`Channel::int_auth`]).
//!
//! [`Channel::int_auth`]: super::channel::Channel::int_auth

pub(super) mod initiator;
pub(super) mod responder;

use super::ike_sa_init::notification;
use crate::crypto::KeMethod;
use crate::message::{Notify, Payload, notify};
use crate::proposal::IkeProposal;

/// That we know the exchange, where what we propose may need it.
pub(super) fn announce(proposals: &[IkeProposal]) -> Option<Payload> {
    let needed =
        proposals.iter().any(|proposal| proposal.additional.iter().any(|methods| !methods.is_empty()));
    needed.then(|| notification(notify::INTERMEDIATE_EXCHANGE_SUPPORTED, Vec::new()))
}

/// Whether the peer says so.
pub(super) fn is_announced<'n>(mut notifications: impl Iterator<Item = &'n Notify>) -> bool {
    notifications.any(|found| found.notify_type == notify::INTERMEDIATE_EXCHANGE_SUPPORTED)
}

/// The public value of a key exchange of that method.
fn public_of(payloads: &[Payload], method: KeMethod) -> Option<Vec<u8>> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Ke { method: found, data } if *found == method.id() => Some(data.clone()),
        _ => None,
    })
}
