//! IKE SAs that begin without a child (RFC 6023): IKE_AUTH proves who both ends are and nothing else; children follow in
//! CREATE_CHILD_SA, each with a key exchange of its own where that is configured. What a `childless` of a connection means
//! is strongSwan's: see [`Childless`].

use super::api::Failure;
use super::context::Context;
use super::ike_sa_init::{data_of, notification};
use super::sa::Base;
use crate::config::Childless;
use crate::message::{Payload, notify};

fn mode(cx: &Context, connection: usize) -> Childless {
    cx.connection(connection).map(|connection| connection.childless).unwrap_or_default()
}

/// As responder, that we take one: for whichever of these connections it may turn out to be.
pub(super) fn announce(cx: &Context, candidates: &[usize]) -> Option<Payload> {
    let takes = candidates.iter().any(|connection| mode(cx, *connection) != Childless::Never);
    takes.then(|| notification(notify::CHILDLESS_IKEV2_SUPPORTED, Vec::new()))
}

/// As initiator, whether we make one, given the answer to IKE_SA_INIT.
pub(super) fn is_begun(cx: &Context, base: &Base, payloads: &[Payload]) -> Result<bool, Failure> {
    let announced = || data_of(payloads, notify::CHILDLESS_IKEV2_SUPPORTED).is_some();
    match mode(cx, base.connection) {
        Childless::Allow | Childless::Never => Ok(false),
        Childless::Prefer => Ok(announced()),
        Childless::Force if announced() => Ok(true),
        Childless::Force => Err(base.about(cx).childless_not_supported()),
    }
}

/// As responder, whether an IKE_AUTH request without a child is taken.
pub(super) fn check_none(cx: &Context, base: &Base) -> Result<(), Failure> {
    match mode(cx, base.connection) {
        Childless::Never => Err(base.about(cx).childless_not_allowed()),
        Childless::Allow | Childless::Prefer | Childless::Force => Ok(()),
    }
}

/// As responder, whether a child is made in IKE_AUTH.
pub(super) fn check_child(cx: &Context, base: &Base) -> Result<(), Failure> {
    match mode(cx, base.connection) {
        Childless::Force => Err(base.about(cx).child_in_ike_auth()),
        Childless::Allow | Childless::Prefer | Childless::Never => Ok(()),
    }
}
