//! `auth = "null"` (RFC 7619): what does not go with an end that proves nothing, and what its children are held to.

use std::num::NonZeroU32;

use portcullis_ike::config::{ConnectionConfig, LocalMethod, RemoteMethod, Unique};

use super::credentials::span_of;
use super::reader::Section;

/// Whether the peer proves nothing.
pub(super) fn lets_anybody_in(connection: &ConnectionConfig) -> bool {
    connection.remote.iter().any(|round| round.auth == RemoteMethod::Null)
}

/// Reports what does not go together. The children of a peer that proves nothing come after all others, so that nobody
/// who proves himself loses traffic to them (RFC 7619 §2.5).
pub(super) fn check(section: &Section<'_>, connection: &mut ConnectionConfig) {
    let we = connection.local.iter().any(|round| round.auth == LocalMethod::Null);
    let peer = lets_anybody_in(connection);
    if !we && !peer {
        return;
    }
    let refuse = |key: &str, message: &str| section.error(section.span(), key, message.to_owned());
    let side = if peer { "remote" } else { "local" };
    if connection.local.len() > 1 || connection.remote.len() > 1 {
        refuse(
            side,
            "has a round with \"null\", which adds nothing to others (expected one round of each end)",
        );
    }
    let eap = connection.local.iter().any(|round| matches!(round.auth, LocalMethod::Eap { .. }))
        || connection.remote.iter().any(|round| matches!(round.auth, RemoteMethod::Eap { .. }));
    if eap {
        refuse(
            side,
            "is \"null\" beside EAP, whose client would give its password to anybody (expected \"pubkey\" or \"psk\")",
        );
    }
    if connection.ppk.id.is_some() || connection.ppk.required {
        refuse(
            "ppk_id",
            "is a secret that both ends share: with it none of them is \"null\" (expected \"psk\")",
        );
    }
    if connection.session_resumption {
        refuse("session_resumption", "needs peers that have proved who they are (expected false)");
    }
    if !peer {
        return;
    }
    if matches!(connection.unique, Unique::Replace | Unique::Keep) {
        let message =
            "is about peers of the same identity, and peers that prove nothing have none (expected \"no\")";
        section.error(span_of(section, "unique"), "unique", message.to_owned());
    }
    let sections = section.named_sections("children");
    for child in &mut connection.children {
        let Some((_, section)) = sections.iter().find(|(name, _)| *name == child.name) else { continue };
        if child.remote_ts.iter().any(Option::is_some) {
            let message = "lets a peer that proves nothing have what is another's (expected \"dynamic\": the address that \
                           it has, or one out of `pools`; RFC 7619 §2.5)";
            section.error(span_of(section, "remote_ts"), "remote_ts", message.to_owned());
        }
        if child.priority.is_some() {
            let message =
                "is of a child whose peer proves nothing, which comes after all others (expected none)";
            section.error(section.span(), "priority", message.to_owned());
        }
        child.priority = Some(NonZeroU32::MAX);
    }
}
