//! EAP: `auth = "eap-…"`, `eap_id`, and users' passwords under `[secrets.eap-NAME]`.

use std::sync::Arc;

use portcullis_ike::auth::Constraint;
use portcullis_ike::auth::eap::{ClientMethod, Inner, ServerMethod, UserSecret, secret_of};
use portcullis_ike::config::{
    ConnectionConfig, Identity, IdentityMatch, LocalAuth, LocalMethod, RemoteMethod, Secret, StartAction,
};

use super::credentials::{Store, span_of};
use super::reader::Section;

/// Whether an entry of `[secrets]` is a user's password.
pub(super) fn is_user(name: &str) -> bool {
    name.starts_with("eap-")
}

/// `[secrets.eap-NAME]`: whose password it is.
pub(super) fn user(name: String, section: &Section<'_>, secret: Option<Secret>) -> Option<UserSecret> {
    let ids = section.strings("id", "users' names, e.g. \"carol\" or [\"carol\", \"carol@example.org\"]");
    let ids = match ids {
        Some(ids) => ids.into_iter().map(|id| id.value.to_owned()).collect(),
        None if section.has("id") => return None,
        None => {
            section.missing("id", "the user's name, e.g. \"carol\"");
            return None;
        }
    };
    Some(UserSecret { name, ids, secret: secret? })
}

/// Whether `auth` names a method over TLS, to which certificates belong.
pub(super) fn uses_tls(auth: &str) -> bool {
    matches!(auth, "eap-tls" | "eap-ttls")
}

/// How we are authenticated by EAP.
pub(super) fn local(
    section: &Section<'_>,
    auth: &str,
    store: &Store<'_>,
    id: Option<&Identity>,
) -> Option<LocalMethod> {
    if auth == ServerMethod::Aaa.name() {
        for key in ["eap_id", "certs", "pubkeys"].into_iter().filter(|key| section.has(key)) {
            let message =
                "is not ours to say: the RADIUS server proves us (expected it in `remote`, or none)";
            section.error(section.span(), key, message);
        }
        return Some(LocalMethod::Aaa);
    }
    let methods = [
        ("eap", ClientMethod::MsChapV2),
        ("eap-mschapv2", ClientMethod::MsChapV2),
        ("eap-tls", ClientMethod::Tls),
        ("eap-ttls", ClientMethod::Ttls(Inner::default())),
    ];
    let inner = inner(section)?;
    let method = match known(section, auth, &methods)? {
        ClientMethod::Ttls(_) => ClientMethod::Ttls(inner),
        method => method,
    };
    let eap_id = section.string("eap_id", "our name in EAP, e.g. \"carol\"").map(|id| id.value.to_owned());
    const SERVER: &str = "whom the certificate of EAP's server is for, e.g. \"aaa.example.org\", or \"%any\"";
    let aaa_id = section.parsed::<IdentityMatch>("aaa_id", SERVER).map(|id| id.value);
    if aaa_id.is_none() && section.has("aaa_id") {
        return None;
    }
    // As a client of EAP-TTLS we need none.
    let has_certs = method == ClientMethod::Tls || section.has("certs") || section.has("pubkeys");
    let credentials = match uses_tls(auth) && has_certs {
        false => Vec::new(),
        true => {
            // A name that says nothing of who we are is not in the certificate (RFC 9190 §2.1.7).
            let named = eap_id.as_deref().filter(|id| method == ClientMethod::Tls && !id.starts_with('@'));
            let parsed = named.and_then(|id| id.parse::<Identity>().ok());
            let id = parsed
                .as_ref()
                .or(id.filter(|_| eap_id.is_none() || matches!(method, ClientMethod::Ttls(_))));
            let method = store.local(section, Constraint::default(), id)?;
            if method.credentials().iter().any(|own| own.certificate().is_none()) {
                let message = "holds raw public keys, but TLS needs certificates (expected `certs`)";
                section.error(section.span(), "pubkeys", message);
            }
            method.credentials().to_vec()
        }
    };
    Some(LocalMethod::Eap { method, eap_id, aaa_id, credentials })
}

/// How our password is proven inside EAP-TTLS.
fn inner(section: &Section<'_>) -> Option<Inner> {
    let choices = [
        ("eap-mschapv2", Inner::EapMsChapV2),
        ("mschapv2", Inner::MsChapV2),
        ("mschap", Inner::MsChap),
        ("chap", Inner::Chap),
        ("pap", Inner::Pap),
    ];
    let chosen = section.choice("eap_inner", &choices);
    if chosen.is_none() && section.has("eap_inner") {
        return None;
    }
    Some(chosen.unwrap_or_default())
}

/// How the peer is authenticated by EAP.
pub(super) fn remote(
    section: &Section<'_>,
    auth: &str,
    store: &Store<'_>,
    id: &IdentityMatch,
) -> Option<RemoteMethod> {
    let methods = [
        ("eap-mschapv2", ServerMethod::MsChapV2),
        ("eap-tls", ServerMethod::Tls),
        ("eap-ttls", ServerMethod::Ttls),
        ("eap-radius", ServerMethod::Aaa),
    ];
    let method = known(section, auth, &methods)?;
    const EXPECTED: &str = "\"%any\" to ask for the user's name, or a pattern for it, e.g. \"*@example.org\"";
    let eap_id = section.parsed::<IdentityMatch>("eap_id", EXPECTED).map(|id| id.value);
    if eap_id.is_none() && section.has("eap_id") {
        return None;
    }
    // Users of EAP-TTLS have none; a server that EAP alone proves has one.
    let has_certs = method == ServerMethod::Tls || section.has("certs") || section.has("cacerts");
    let trust = match uses_tls(auth) && has_certs {
        false => Arc::default(),
        true => {
            // Whom a pinned certificate is for is not said by IKE's identity, but by EAP's.
            let id = eap_id.as_ref().unwrap_or(id);
            let method = store.remote(section, Constraint::default(), id, false)?;
            method.trust().cloned().unwrap_or_default()
        }
    };
    Some(RemoteMethod::Eap { method, eap_id, trust })
}

fn known<T: Copy>(section: &Section<'_>, auth: &str, methods: &[(&str, T)]) -> Option<T> {
    let method = methods.iter().find(|(name, _)| *name == auth).map(|(_, method)| *method);
    if method.is_none() {
        let names: Vec<String> = methods.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let message = format!(
            "\"{auth}\" is no EAP method that this version does here (expected {})",
            names.join(" or ")
        );
        section.error(span_of(section, "auth"), "auth", message);
    }
    method
}

/// What does not go together, and passwords that are missing.
pub(super) fn check(
    section: &Section<'_>,
    connection: &ConnectionConfig,
    users: Option<&[UserSecret]>,
    has_radius: bool,
) {
    let is_client = |round: &&LocalAuth| matches!(round.auth, LocalMethod::Eap { .. });
    let local = connection.local.iter().find(is_client).or(connection.local.first());
    let by_aaa = connection.local.iter().any(|round| round.auth == LocalMethod::Aaa);
    let goes = matches!(
        (&connection.local[..], &connection.remote[..]),
        ([_], [round]) if matches!(round.auth, RemoteMethod::Eap { method: ServerMethod::Aaa, .. })
    );
    if by_aaa && !goes {
        let message = "is \"eap-radius\", so that the RADIUS server that asks the peer proves us as well (RFC 5998): then \
                       `remote` is that too, and there is one round of each end";
        section.error(section.span(), "local", message);
    }
    let mut remote = connection.remote.iter().map(|round| &round.auth);
    let by_eap = remote.clone().find(|auth| matches!(auth, RemoteMethod::Eap { .. }));
    let remote = by_eap.or(remote.next());
    if let Some(RemoteMethod::Eap { method, .. }) = remote {
        let is_client = matches!(local.map(|round| &round.auth), Some(LocalMethod::Eap { .. }));
        if !is_client && connection.children.iter().any(|child| child.start_action != StartAction::None) {
            let message = "authenticates the peer by EAP, which only an end that initiates can do, but a child is to \
                           be started from here (expected `start_action = \"none\"`)";
            section.error(section.span(), "remote", message);
        }
        match local.map(|round| &round.auth) {
            // RFC 5998 §4.
            Some(LocalMethod::Eap { method: ours, .. })
                if ours.name() != method.name() || !ours.is_mutual() =>
            {
                let message = "and `local` are both EAP, so that EAP alone proves both ends, which only \"eap-tls\" and \
                               \"eap-ttls\" do well enough (expected one of these in both, or \"pubkey\" in `local`, so that the peer \
                               knows to whom it gives its password)";
                section.error(section.span(), "remote", message);
            }
            Some(LocalMethod::Psk) if method.is_over_tls() => {
                let message =
                    "is \"psk\", but a server of TLS needs a certificate (expected \"pubkey\" with `certs`)";
                section.error(section.span(), "local", message);
            }
            Some(LocalMethod::Pubkey { credentials, .. })
                if method.is_over_tls() && credentials.iter().all(|own| own.certificate().is_none()) =>
            {
                let message =
                    "has raw public keys alone, but a server of TLS needs a certificate (expected `certs`)";
                section.error(section.span(), "local", message);
            }
            Some(LocalMethod::Psk) => {
                let message = "proves us with a pre-shared key to users whom EAP authenticates: every one of them \
                               can pass for us (recommended: a certificate)";
                section.warning(section.span(), "local", message);
            }
            _ => {}
        }
        if *method == ServerMethod::Aaa && !has_radius {
            let message =
                "asks a RADIUS server, but there is none (expected `[radius]` with `[[radius.servers]]`)";
            section.error(section.span(), "remote", message);
        }
        if method.has_passwords() && users.is_some_and(<[UserSecret]>::is_empty) {
            let message = "authenticates users by their passwords, but there are none (expected `[secrets.eap-NAME]` \
                           with `id` and `secret`)";
            section.error(section.span(), "remote", message);
        }
    }
    let Some((LocalMethod::Eap { eap_id, method, .. }, id)) = local.map(|round| (&round.auth, &round.id))
    else {
        return;
    };
    let over_tls = matches!(method, ClientMethod::Tls | ClientMethod::Ttls(_));
    if over_tls && matches!(remote, Some(RemoteMethod::Psk)) {
        let message = "is \"psk\", but the server of TLS proves itself with a certificate (expected \"pubkey\" with \
                       `cacerts` that vouch for it)";
        section.error(section.span(), "remote", message);
    }
    if !method.has_password() {
        return;
    }
    let user = eap_id.clone().or_else(|| id.as_ref().map(ToString::to_string));
    match (user, users) {
        (None, _) => {
            let message = "authenticates by EAP, but names no user (expected `eap_id`, or `id`)";
            section.error(section.span(), "local", message);
        }
        (Some(user), Some(users)) if secret_of(users, &user).is_none() => {
            let message = format!(
                "authenticates by EAP as `{user}`, but no `[secrets.eap-NAME]` is for him (expected one with \
                 id = \"{user}\")"
            );
            section.error(section.span(), "local", message);
        }
        _ => {}
    }
}
