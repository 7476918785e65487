//! `[secrets.NAME]`: pre-shared keys and whom they are for, users' passwords, and where private keys are. Secrets are never echoed, in no error and no `Debug`.

use std::ops::Range;

use portcullis_ike::auth::eap::UserSecret;
use portcullis_ike::config::{Identity, Secret, SharedKey};

use super::credentials::is_private_key;
use super::eap;
use super::reader::Section;

/// What two ends share.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    /// Pre-shared keys.
    pub(super) shared_keys: Vec<SharedKey>,
    /// Post-quantum pre-shared keys: `[secrets.ppk-NAME]`.
    pub(super) ppks: Vec<SharedKey>,
    /// Users' passwords: `[secrets.eap-NAME]`.
    pub(super) users: Vec<UserSecret>,
}

/// All of them; `None` if one cannot be read.
pub(super) fn from_root(root: &Section<'_>) -> Option<Secrets> {
    let sections = root.named_sections("secrets");
    let (private, shared): (Vec<_>, Vec<_>) =
        sections.into_iter().partition(|(name, _)| is_private_key(name));
    for (_, section) in private {
        check_private_key(&section);
    }
    let (ppks, shared): (Vec<_>, Vec<_>) = shared.into_iter().partition(|(name, _)| name.starts_with("ppk-"));
    for (_, section) in ppks.iter().filter(|(_, section)| !section.has("ids")) {
        section.missing("ids", "the names that peers call it by, e.g. [\"ppk-2026\"]");
    }
    let (users, shared): (Vec<_>, Vec<_>) = shared.into_iter().partition(|(name, _)| eap::is_user(name));
    // All of them are looked at before they are given up.
    let users: Vec<Option<UserSecret>> =
        users.into_iter().map(|(name, section)| password(name, &section)).collect();
    let read = |sections: Vec<(String, Section<'_>)>| -> Vec<Option<SharedKey>> {
        sections.into_iter().map(|(name, section)| shared_key(name, &section)).collect()
    };
    let (shared_keys, ppks) = (read(shared), read(ppks));
    Some(Secrets {
        shared_keys: shared_keys.into_iter().collect::<Option<_>>()?,
        ppks: ppks.into_iter().collect::<Option<_>>()?,
        users: users.into_iter().collect::<Option<_>>()?,
    })
}

/// `[secrets.private-NAME]`: where a private key is, and what it is encrypted with; to be read when a connection wants one.
fn check_private_key(section: &Section<'_>) {
    if section.string("file", "a private key's file").is_none() && !section.has("file") {
        section.missing("file", "a private key's file, in `private` or by its path");
    }
    if section.has("secret") {
        octets(section, "the passphrase of an encrypted private key");
    }
    section.finish(&[]);
}

/// The passphrase of a private key; what is wrong with it is told by [`from_root`].
pub(super) fn passphrase(section: &Section<'_>) -> Option<Secret> {
    let text = section.string("secret", "a passphrase")?;
    decode(text.value).ok().map(Secret)
}

fn password(name: String, section: &Section<'_>) -> Option<UserSecret> {
    let secret = octets(section, "the user's password");
    let user = eap::user(name, section, secret.map(|(octets, _)| Secret(octets)));
    section.finish(&["file", "type"]);
    user
}

fn shared_key(name: String, section: &Section<'_>) -> Option<SharedKey> {
    let ids = section.parsed_list::<Identity>("ids", "identities, e.g. \"gw.example\" or \"192.0.2.1\"");
    let secret = octets(section, "the pre-shared key");
    if let Some((octets, span)) = secret.as_ref().filter(|(octets, _)| octets.len() < 16) {
        let message = format!(
            "has {} octets: whoever records one negotiation can try every short secret at leisure \
             (recommended: 32 random octets, `openssl rand -hex 32`)",
            octets.len()
        );
        section.warning(span.clone(), "secret", message);
    }
    section.finish(&["id", "file", "type"]);
    let ids = match section.has("ids") {
        true => ids?.into_iter().map(|id| id.value).collect(),
        false => Vec::new(),
    };
    Some(SharedKey { name, ids, secret: Secret(secret?.0) })
}

/// `secret`, which must not be empty, and where it stands.
pub(super) fn octets(section: &Section<'_>, what: &str) -> Option<(Vec<u8>, Range<usize>)> {
    let Some(text) = section.string("secret", "a text, `0x` and hexadecimal digits, or `0s` and base64")
    else {
        if !section.has("secret") {
            section.missing("secret", what);
        }
        return None;
    };
    match decode(text.value) {
        Ok(octets) if octets.is_empty() => section.error(text.span, "secret", "is empty"),
        Ok(octets) => return Some((octets, text.span)),
        Err(problem) => section.error(text.span, "secret", problem),
    }
    None
}

/// swanctl's notations: plain text, `0x` and hexadecimal digits, `0s` and base64.
fn decode(text: &str) -> Result<Vec<u8>, String> {
    if let Some(hex) = text.strip_prefix("0x") {
        return data_encoding::HEXLOWER_PERMISSIVE
            .decode(hex.as_bytes())
            .map_err(|error| format!("starts with `0x` but is not hexadecimal: {error}"));
    }
    if let Some(base64) = text.strip_prefix("0s") {
        return data_encoding::BASE64
            .decode(base64.as_bytes())
            .map_err(|error| format!("starts with `0s` but is not base64: {error}"));
    }
    Ok(text.as_bytes().to_vec())
}
