//! EAP: `auth = "eap-…"`, `eap_id`, and users' passwords under `[secrets.eap-NAME]`.

use portcullis_ike::auth::eap::{ClientMethod, ServerMethod, UserSecret, secret_of};
use portcullis_ike::config::{
    ConnectionConfig, IdentityMatch, LocalMethod, RemoteMethod, Secret, StartAction,
};

use super::credentials::span_of;
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

/// How we are authenticated by EAP.
pub(super) fn local(section: &Section<'_>, auth: &str) -> Option<LocalMethod> {
    let methods = [("eap", ClientMethod::MsChapV2), ("eap-mschapv2", ClientMethod::MsChapV2)];
    let method = known(section, auth, &methods)?;
    let eap_id = section.string("eap_id", "our name in EAP, e.g. \"carol\"").map(|id| id.value.to_owned());
    Some(LocalMethod::Eap { method, eap_id })
}

/// How the peer is authenticated by EAP.
pub(super) fn remote(section: &Section<'_>, auth: &str) -> Option<RemoteMethod> {
    let methods = [("eap-mschapv2", ServerMethod::MsChapV2), ("eap-radius", ServerMethod::Aaa)];
    let method = known(section, auth, &methods)?;
    const EXPECTED: &str = "\"%any\" to ask for the user's name, or a pattern for it, e.g. \"*@example.org\"";
    let eap_id = section.parsed::<IdentityMatch>("eap_id", EXPECTED).map(|id| id.value);
    if eap_id.is_none() && section.has("eap_id") {
        return None;
    }
    Some(RemoteMethod::Eap { method, eap_id })
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
    let local = connection.local.first();
    let is_eap = connection.remote.iter().any(|round| matches!(round.auth, RemoteMethod::Eap { .. }))
        || connection.local.iter().any(|round| matches!(round.auth, LocalMethod::Eap { .. }));
    if is_eap && (connection.ppk.id.is_some() || connection.ppk.required) {
        let message =
            "and EAP together are not supported by this version (expected no `ppk_id` and `ppk_required`)";
        section.error(section.span(), "ppk_id", message);
    }
    let remote = connection.remote.first().map(|round| &round.auth);
    if let Some(RemoteMethod::Eap { method, .. }) = remote {
        if connection.children.iter().any(|child| child.start_action != StartAction::None) {
            let message = "authenticates the peer by EAP, which only an end that initiates can do, but a child is to \
                           be started from here (expected `start_action = \"none\"`)";
            section.error(section.span(), "remote", message);
        }
        match local.map(|round| &round.auth) {
            Some(LocalMethod::Eap { .. }) => {
                let message = "and `local` are both EAP, which this version does not do (expected \"pubkey\" in \
                               `local`, so that the peer knows to whom it gives its password)";
                section.error(section.span(), "remote", message);
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
        if *method == ServerMethod::MsChapV2 && users.is_some_and(<[UserSecret]>::is_empty) {
            let message = "authenticates users by their passwords, but there are none (expected `[secrets.eap-NAME]` \
                           with `id` and `secret`)";
            section.error(section.span(), "remote", message);
        }
    }
    let Some((LocalMethod::Eap { eap_id, .. }, id)) = local.map(|round| (&round.auth, &round.id)) else {
        return;
    };
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
