//! Which connection a peer belongs to, by addresses, proposals and identities, and which pre-shared key.

use std::net::IpAddr;

use super::context::Context;
use crate::auth::eap::TlsSettings;
use crate::config::{
    AddressMatch, ConnectionConfig, Identity, IdentityMatch, LocalAuth, LocalMethod, RemoteMethod, SharedKey,
};

/// Connections that allow both addresses, the most specific first; among equals the order of the configuration.
pub(super) fn candidates(cx: &Context, local: IpAddr, remote: IpAddr) -> Vec<usize> {
    let mut fitting: Vec<_> = cx
        .live_connections()
        .filter_map(|(index, connection)| {
            let local = specificity(&connection.local_addrs, local)?;
            let remote = specificity(&connection.remote_addrs, remote)?;
            Some((remote, local, index))
        })
        .collect();
    fitting.sort_by_key(|(remote, local, _)| std::cmp::Reverse((*remote, *local)));
    fitting.into_iter().map(|(_, _, index)| index).collect()
}

/// How exactly a list names an address: bits that are fixed, one more for a single address; `None` if not at all.
fn specificity(allowed: &[AddressMatch], addr: IpAddr) -> Option<u16> {
    if allowed.is_empty() {
        return Some(0);
    }
    allowed
        .iter()
        .filter_map(|allowed| match allowed {
            AddressMatch::Any => Some(0),
            AddressMatch::Address(own) if *own == addr => Some(u16::MAX),
            AddressMatch::Network(net) if net.contains(&addr) => Some(u16::from(net.prefix_len())),
            _ => None,
        })
        .max()
}

/// The identity of an address.
pub(super) fn address_identity(addr: IpAddr) -> Identity {
    match addr {
        IpAddr::V4(addr) => Identity::Ipv4(addr),
        IpAddr::V6(addr) => Identity::Ipv6(addr),
    }
}

/// Who we are on a connection: what is configured, the subject of our certificate, or our address.
pub(super) fn local_identity(connection: &ConnectionConfig, local: IpAddr) -> Identity {
    connection.local.first().map_or_else(|| address_identity(local), |round| identity_of(round, local))
}

/// Who we are in a round.
pub(super) fn identity_of(round: &LocalAuth, local: IpAddr) -> Identity {
    if round.auth == LocalMethod::Null {
        return Identity::Null;
    }
    let subject = || {
        let subject = round.auth.credentials().first()?.certificate()?.subject();
        (!subject.is_empty()).then(|| Identity::Dn(subject.clone()))
    };
    round.id.clone().or_else(subject).unwrap_or_else(|| address_identity(local))
}

/// How a connection's peer must authenticate.
pub(super) fn remote_method(connection: &ConnectionConfig) -> &RemoteMethod {
    connection.remote.first().map_or(&RemoteMethod::Psk, |auth| &auth.auth)
}

/// How we authenticate ourselves on a connection.
pub(super) fn local_method(connection: &ConnectionConfig) -> &LocalMethod {
    connection.local.first().map_or(&LocalMethod::Psk, |auth| &auth.auth)
}

/// Whether a peer of that method may say that it is `found`. Nobody in particular is only who need prove nothing: with any
/// other method all such peers would be one (RFC 7619 §2.2).
pub(super) fn accepts(method: &RemoteMethod, wanted: &IdentityMatch, found: &Identity) -> bool {
    wanted.accepts(found) && (*method == RemoteMethod::Null || *found != Identity::Null)
}

/// Whether a connection lets anybody in, and the peer is at an address that another one names more exactly, of whose peers
/// it wants proof: whoever is there must not pass by it (RFC 7619 §2.4).
pub(super) fn is_for_others_to_prove(
    cx: &Context,
    connection: &ConnectionConfig,
    local: IpAddr,
    remote: IpAddr,
) -> bool {
    let own = specificity(&connection.remote_addrs, remote);
    let is_narrower = |other: &ConnectionConfig| {
        wants_proof(other)
            && specificity(&other.local_addrs, local).is_some()
            && specificity(&other.remote_addrs, remote) > own
    };
    !wants_proof(connection) && cx.live_connections().any(|(_, other)| is_narrower(other))
}

/// Whether a connection's peer has to prove itself.
pub(super) fn wants_proof(connection: &ConnectionConfig) -> bool {
    *remote_method(connection) != RemoteMethod::Null
}

/// Whether EAP has to prove both ends, without a signature of the responder's (RFC 5998).
pub(super) fn is_eap_only(connection: &ConnectionConfig) -> bool {
    matches!(local_method(connection), LocalMethod::Eap { .. } | LocalMethod::Aaa)
        && matches!(remote_method(connection), RemoteMethod::Eap { .. })
}

/// What EAP methods over TLS need, where we and the peer prove ourselves so otherwise.
pub(super) fn tls_settings(local: Option<&LocalMethod>, remote: Option<&RemoteMethod>) -> TlsSettings {
    TlsSettings {
        credentials: local.map(LocalMethod::credentials).unwrap_or_default().to_vec(),
        trust: remote.and_then(RemoteMethod::trust).cloned().unwrap_or_default(),
    }
}

/// Whom a connection expects.
pub(super) fn remote_match(connection: &ConnectionConfig) -> &IdentityMatch {
    connection.remote.first().map_or(&IdentityMatch::Any, |auth| &auth.id)
}

/// The candidate that the identities of an IKE_AUTH request choose: one that names the peer before one with a pattern
/// for it, and that before one that takes anyone. `asked` is the IDr that the peer wants us to be, if it says so (RFC 7296 §3.5).
pub(super) fn choose_by_identity(
    cx: &Context,
    candidates: &[usize],
    local: IpAddr,
    peer: &Identity,
    asked: Option<&Identity>,
) -> Option<usize> {
    let fits = |index: usize| {
        let connection = cx.connection(index)?;
        let ours = local_identity(connection, local);
        if asked.is_some_and(|asked| !asked.same(&ours)) {
            return None;
        }
        let wanted = remote_match(connection);
        accepts(remote_method(connection), wanted, peer).then_some(match wanted {
            IdentityMatch::Exactly(_) => 2,
            IdentityMatch::Pattern(_) => 1,
            IdentityMatch::Any => 0,
        })
    };
    (0..=2).rev().find_map(|rank| candidates.iter().find(|index| fits(**index) == Some(rank))).copied()
}

/// The pre-shared key for two identities: the one that names most of them; among equals the first. A key that
/// names identities must name the peer's.
pub(super) fn shared_key<'a>(
    keys: &'a [SharedKey],
    local: &Identity,
    remote: &Identity,
) -> Option<&'a SharedKey> {
    let mut best: Option<(u8, &SharedKey)> = None;
    for key in keys {
        let names = |id: &Identity| key.ids.iter().any(|own| own.same(id));
        let score = match (names(remote), names(local)) {
            (true, true) => 3,
            (true, false) => 2,
            (false, _) if key.ids.is_empty() => 1,
            _ => continue,
        };
        if best.is_none_or(|(so_far, _)| score > so_far) {
            best = Some((score, key));
        }
    }
    best.map(|(_, key)| key)
}

/// The key for an IKE_AUTH request of our own, where the peer's identity may not be known yet. Then a key of any
/// identity other than ours will do.
pub(super) fn shared_key_towards<'a>(
    keys: &'a [SharedKey],
    local: &Identity,
    wanted: &IdentityMatch,
    remote: IpAddr,
) -> Option<&'a SharedKey> {
    match wanted {
        IdentityMatch::Exactly(id) => shared_key(keys, local, id),
        IdentityMatch::Pattern(_) | IdentityMatch::Any => shared_key(keys, local, &address_identity(remote))
            .or_else(|| keys.iter().find(|key| key.ids.iter().any(|id| id.same(local)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn key(name: &str, ids: &[&str]) -> SharedKey {
        let ids = ids.iter().map(|id| Identity::Fqdn((*id).to_owned())).collect();
        SharedKey { name: name.to_owned(), ids, secret: Secret(name.as_bytes().to_vec()) }
    }

    fn chosen(keys: &[SharedKey], local: &str, remote: &str) -> Option<String> {
        let id = |name: &str| Identity::Fqdn(name.to_owned());
        shared_key(keys, &id(local), &id(remote)).map(|key| key.name.clone())
    }

    #[test]
    fn the_key_that_names_most_of_the_two_identities_is_used() {
        let keys =
            [key("any", &[]), key("peer", &["b"]), key("both", &["A", "b"]), key("other", &["a", "c"])];
        assert_eq!(chosen(&keys, "a", "b").as_deref(), Some("both"));
        assert_eq!(chosen(&keys, "x", "b").as_deref(), Some("peer"));
        assert_eq!(chosen(&keys, "a", "c").as_deref(), Some("other"));
        assert_eq!(chosen(&keys, "a", "x").as_deref(), Some("any"));
        assert_eq!(chosen(&keys[1..], "a", "x"), None);
    }
}
