//! Who is who, and whether that is true.

use super::{About, Fix, Place, Reason, Verdict, join};
use crate::auth::{HashAlgorithm, Rejection};
use crate::config::{ConnectionConfig, Identity, IdentityMatch, RemoteMethod};
use crate::engine::connections;
use crate::verdict::{Candidate, Check, quoted, toml_list};

/// What a peer says in its IKE_AUTH request about who is who.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Claims<'a> {
    /// IDi.
    pub(in crate::engine) peer: &'a Identity,
    /// IDr: who it wants us to be, if it says so.
    pub(in crate::engine) asked: Option<&'a Identity>,
    /// Our address.
    pub(in crate::engine) local: std::net::IpAddr,
    /// How it authenticates, in words, and whether a connection takes that.
    pub(in crate::engine) method: &'a str,
}

/// Identities.
impl About {
    /// As initiator: the responder is somebody else.
    pub(in crate::engine) fn unexpected_identity(&self, found: &Identity, wanted: &IdentityMatch) -> Verdict {
        let section = self.section();
        self.fail(
            Reason::IdUnexpected,
            format!("the peer says it is `{found}`, but {section}.remote.id is {wanted}"),
        )
        .fact("the peer's identity (IDr)", found)
        .fact("expected", wanted)
        .fix(Fix::here(format!("{section}.remote"), "id", quoted(found)))
        .fixes(own_id_of_the_peer(wanted))
    }

    /// As responder: no candidate is for these identities. `candidates` is not empty.
    pub(in crate::engine) fn no_connection_for_identity(
        &self,
        claims: Claims<'_>,
        candidates: &[&ConnectionConfig],
        takes: impl Fn(&ConnectionConfig) -> bool,
    ) -> Verdict {
        let Claims { peer, asked, .. } = claims;
        let judged: Vec<Candidate> =
            candidates.iter().map(|connection| judge(connection, claims, &takes)).collect();
        // The one that passes most is the one that is meant.
        let passed = |candidate: &&Candidate| candidate.checks.iter().filter(|check| check.passed).count();
        let meant = judged.iter().rev().max_by_key(passed);
        let about = Self { connection: meant.map(|meant| meant.connection.clone()), ..self.clone() };
        let section = about.section();
        let failed = |option: &str| {
            meant
                .is_some_and(|meant| meant.checks.iter().any(|check| check.option == option && !check.passed))
        };
        let meant = meant.and_then(|meant| candidates.iter().find(|found| found.name == meant.connection));
        let Some(connection) = meant else {
            return self.fail(
                Reason::IdUnexpected,
                format!(
                    "the peer says it is `{peer}`, and no connection for its address takes its proposals"
                ),
            );
        };
        let wanted = connections::remote_match(connection);
        let ours = connections::local_identity(connection, claims.local);
        let mut sentences = Vec::new();
        let mut fixes = Vec::new();
        if failed("remote.id") {
            sentences.push(format!("the peer says it is `{peer}`, but {section}.remote.id is {wanted}"));
            fixes.push(Fix::here(format!("{section}.remote"), "id", quoted(peer)));
            fixes.extend(own_id_of_the_peer(wanted));
        }
        if let (true, Some(asked)) = (failed("local.id"), asked) {
            let here = match connection.local.first().and_then(|auth| auth.id.as_ref()) {
                Some(_) => format!("{section}.local.id is `{ours}`"),
                None => format!("we are `{ours}`, as {section}.local.id is not set"),
            };
            sentences.push(format!("the peer wants us to be `{asked}`, but {here}"));
            fixes.push(Fix::here(format!("{section}.local"), "id", quoted(asked)));
            fixes.push(Fix::strongswan("remote", "id", quoted(&ours)));
            fixes.push(Fix::libreswan("rightid", libreswan_id(&ours)));
        }
        about.fail(Reason::IdUnexpected, sentences.join("; and ")).seen(judged).fixes(fixes)
    }

    pub(in crate::engine) fn not_unique(&self, remote_id: &Identity) -> Verdict {
        let section = self.section();
        self.fail(
            Reason::NotUnique,
            format!("`{remote_id}` has an IKE SA already, and {section}.unique is \"keep\", which lets no second one in"),
        )
        .fix(Fix::here(section, "unique", quoted("replace")))
        .fix(Fix::step(Place::Here, "end the other one first: portcullis terminate <connection>"))
    }
}

/// Methods and keys.
impl About {
    pub(in crate::engine) fn other_auth_method(&self, found: &str, wanted: &RemoteMethod) -> Verdict {
        let section = self.section();
        let (wanted, method) = match wanted {
            RemoteMethod::Psk => ("psk".to_owned(), "psk"),
            RemoteMethod::Null => ("null".to_owned(), "null"),
            RemoteMethod::Pubkey(trust) => (trust.constraint.to_string(), "pubkey"),
            RemoteMethod::Eap { method, .. } => (method.name().to_owned(), "eap"),
        };
        let theirs = match found {
            "a pre-shared key" => "psk",
            "EAP" => "eap-mschapv2",
            "NULL authentication" => "null",
            _ => "pubkey",
        };
        let verdict = self
            .fail(
                Reason::AuthMethodMismatch,
                format!("the peer authenticates with {found}, but {section}.remote.auth is \"{wanted}\""),
            )
            .fact("the peer's method", found)
            .fact("expected", &wanted)
            .fix(Fix::here(format!("{section}.remote"), "auth", quoted(theirs)));
        if method == "null" {
            return verdict.fix(Fix::step(Place::Peer, "have it use NULL authentication (RFC 7619)"));
        }
        let verdict = verdict.fix(Fix::strongswan("local", "auth", method));
        match method {
            "psk" => verdict.fix(Fix::libreswan("authby", "secret")),
            "eap" => verdict,
            _ => verdict.fix(Fix::libreswan("authby", "rsasig")),
        }
    }

    pub(in crate::engine) fn no_shared_key(&self, local_id: &Identity, remote_id: &Identity) -> Verdict {
        self.fail(
            Reason::NoSharedKey,
            format!("no pre-shared key is configured for us, `{local_id}`, and the peer, `{remote_id}`"),
        )
        .fix(Fix::here("secrets.<name>", "ids", toml_list([local_id, remote_id])))
        .fix(Fix::here("secrets.<name>", "secret", quoted("<the same as on the peer>")))
    }

    pub(in crate::engine) fn shared_key_mismatch(
        &self,
        key: &str,
        local_id: &Identity,
        remote_id: &Identity,
    ) -> Verdict {
        let section = format!("secrets.{}", super::toml_key(key));
        self.fail(
            Reason::PskMismatch,
            format!("the pre-shared keys differ: `{remote_id}` used another than ours for it and `{local_id}` ([{section}])"),
        )
        .fact("our key", format!("[{section}]"))
        .fact("identities", format!("us `{local_id}`, the peer `{remote_id}`"))
        .fix(Fix::here(section, "secret", quoted("<the same as on the peer; mind spaces and line ends>")))
        .fix(Fix::line(Place::Strongswan, "secrets.ike-<name>", "secret", quoted("<the same as here>")))
        .fix(Fix::step(Place::Libreswan, format!("in ipsec.secrets: {} {} : PSK \"<the same as here>\"", libreswan_id(remote_id), libreswan_id(local_id))))
    }

    /// `with`: the name of our pre-shared key, if it was one.
    pub(in crate::engine) fn authentication_refused(
        &self,
        with: Option<&str>,
        local_id: &Identity,
        asked_remote: &str,
    ) -> Verdict {
        let peer = self.peer();
        let proof = match with {
            Some(key) => format!("the pre-shared keys differ ([secrets.{key}] here)"),
            None => "it does not trust our certificate or key".to_owned(),
        };
        self.fail(
            Reason::AuthenticationFailed,
            format!("{peer} rejected our authentication as `{local_id}` towards {asked_remote} and must not say why: {proof}, or it expects another identity of one of us"),
        )
        .fixes(self.peer_judges_us(with, local_id))
    }

    pub(in crate::engine) fn authentication_withdrawn(&self, local_id: &Identity) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::AuthenticationFailed,
            format!("{peer} began the IKE SA and then rejected our own authentication as `{local_id}`: the pre-shared keys differ, or it does not trust our certificate, or it expects another identity of us"),
        )
        .fixes(self.peer_judges_us(None, local_id))
    }

    /// What to compare where only the peer knows why it has rejected us.
    fn peer_judges_us(&self, with: Option<&str>, local_id: &Identity) -> Vec<Fix> {
        let mut fixes = vec![
            Fix::step(
                Place::Peer,
                "read its log for this moment: it names the cause, which the protocol keeps from us",
            ),
            Fix::strongswan("remote", "id", quoted(local_id)),
            Fix::libreswan("rightid", libreswan_id(local_id)),
            Fix::here(format!("{}.local", self.section()), "id", quoted("<what the peer expects>")),
        ];
        if let Some(key) = with {
            let section = format!("secrets.{}", super::toml_key(key));
            fixes.push(Fix::here(section, "secret", quoted("<the same as on the peer>")));
        }
        fixes
    }
}

/// Certificates and signatures.
impl About {
    /// The peer's proof was judged and found wanting.
    pub(in crate::engine) fn peer_rejected(&self, rejection: &Rejection) -> Verdict {
        let sentence = format!("{} was not authenticated: {rejection}", self.peer());
        self.judged(self.fail(rejection.reason(), sentence), rejection)
    }

    /// What is to be done about a certificate or signature that was found wanting.
    pub(super) fn judged(&self, verdict: Verdict, rejection: &Rejection) -> Verdict {
        let remote = format!("{}.remote", self.section());
        let peers_step = |text: &str| Fix::step(Place::Peer, text.to_owned());
        match rejection {
            Rejection::NoCertificate { .. } => verdict
                .fix(Fix::strongswan("", "send_cert", "always"))
                .fix(Fix::libreswan("leftsendcert", "always"))
                .fix(Fix::here(remote, "certs", toml_list(["<file of the peer's certificate>"]))),
            Rejection::Encoding { .. } | Rejection::Unusable { .. } => {
                verdict.fix(peers_step("give it a certificate that is X.509 and well-formed"))
            }
            Rejection::Expired { subject, not_after, now } => verdict
                .fact("certificate", subject)
                .fact("expired", not_after)
                .fact("our clock", now)
                .fix(peers_step("give it a new certificate"))
                .fix(Fix::step(Place::Here, "if our clock is wrong: timedatectl set-ntp true")),
            Rejection::NotYetValid { subject, not_before, now } => verdict
                .fact("certificate", subject)
                .fact("valid from", not_before)
                .fact("our clock", now)
                .fix(Fix::step(Place::Here, "set our clock: timedatectl set-ntp true"))
                .fix(peers_step("if our clock is right, the clock of its CA was ahead: issue the certificate anew")),
            Rejection::NoIssuer { subject, issuer, trusted } => verdict
                .fact("certificate", subject)
                .fact("issued by", issuer)
                .fact("trusted here", trusted)
                .fix(Fix::here(remote, "cacerts", toml_list([format!("<file with the certificate of {issuer}>")])))
                .fix(peers_step(&format!("if `{issuer}` is an intermediate CA: have its certificate sent along (strongSwan: in swanctl/x509ca; libreswan: leftsendca=all)"))),
            Rejection::OtherIssuer { subject, issuer } | Rejection::ChainSignature { subject, issuer } => verdict
                .fact("certificate", subject)
                .fact("issued by", issuer)
                .fix(Fix::here(remote, "cacerts", toml_list([format!("<the current certificate of {issuer}>")])))
                .fix(peers_step("there may be two CAs of this name, an old one and a new one: compare them on both sides")),
            Rejection::ChainScheme { subject, found } => verdict
                .fact("certificate", subject)
                .fact("signed with", found)
                .fix(peers_step("have the CA issue another certificate, signed with SHA-256 or better")),
            Rejection::NotAllowed { subject, why } => verdict
                .fact("certificate", subject)
                .fact("objection", why)
                .fix(peers_step("have the CA issue a certificate without this defect")),
            Rejection::Revoked { subject, serial, since, responder, .. } => verdict
                .fact("certificate", subject)
                .fact("serial number", serial)
                .fact("revoked", since)
                .fact("says", match responder {
                    Some(responder) => responder.to_string(),
                    None => "a CRL".to_owned(),
                })
                .fix(peers_step("give it a new certificate and key"))
                .fix(Fix::step(Place::Here, match responder {
                    Some(_) => "if that was an error, have the CA's OCSP responder say so: its answer is kept for an hour at most",
                    None => "if that was an error, put the CA's new CRL into gateway.x509crl: it is read again by itself",
                })),
            Rejection::StatusUnknown { subject, why } => verdict
                .fact("certificate", subject)
                .fact("because", why)
                .fix(Fix::step(Place::Here, "put the CA's current CRL into gateway.x509crl, which is read again by itself, or let its OCSP responder be reached"))
                .fix(Fix::here(remote, "revocation", quoted("relaxed"))),
            Rejection::NotPinned { subject } => verdict
                .fact("certificate", subject)
                .fix(Fix::here(remote, "certs", toml_list(["<file of the peer's certificate>"]))),
            Rejection::KeyNotPinned { found } => verdict
                .fact("key", found)
                .fix(Fix::here(remote, "pubkeys", toml_list(["<file of the peer's public key>"]))),
            Rejection::IdNotInCertificate { id, names } => verdict
                .fact("claimed", id)
                .fact("certificate is for", names)
                .fix(Fix::here(remote, "id", quoted(first_name(names))))
                .fix(Fix::strongswan("local", "id", quoted(first_name(names))))
                .fix(Fix::libreswan("leftid", quoted(first_name(names))))
                .fix(peers_step(&format!("or give it a certificate with `{id}` in its subjectAltName"))),
            Rejection::Method { found, wanted } => verdict
                .fact("found", found)
                .fact("wanted", wanted)
                .fix(Fix::here(remote, "auth", quoted("pubkey"))),
            Rejection::Hash { found, wanted } => verdict
                .fact("found", found)
                .fact("wanted", wanted)
                .fix(Fix::here(remote, "auth", quoted("pubkey")))
                .fix(Fix::strongswan("local", "auth", "pubkey-sha384")),
            Rejection::Signature { .. } => {
                verdict.fix(peers_step("compare its private key with its certificate: they do not belong together"))
            }
        }
    }

    /// We have no key that could sign so that the peer can verify it.
    pub(in crate::engine) fn no_common_hash(&self, ours: &str, announced: &[HashAlgorithm]) -> Verdict {
        let (section, peer) = (self.section(), self.peer());
        let theirs = match announced {
            [] => "none at all (it does not know RFC 7427)".to_owned(),
            _ => join(announced.iter()),
        };
        self.fail(
            Reason::HashNotSupported,
            format!(
                "we would sign with {ours}, but of hash algorithms for signatures {peer} announced {theirs}"
            ),
        )
        .fact("we sign with", ours)
        .fact("the peer verifies", theirs)
        .fix(Fix::here(format!("{section}.local"), "auth", quoted("pubkey")))
        .fix(Fix::step(Place::Peer, "update it: RFC 7427 has been there since 2015"))
    }

    pub(in crate::engine) fn not_signed(&self) -> Verdict {
        let section = self.section();
        self.fail(Reason::SigningFailed, format!("our private key for {section}.local refused to sign")).fix(
            Fix::step(
                Place::Here,
                "see whether the key is intact: portcullis check /etc/portcullis/portcullis.toml",
            ),
        )
    }
}

/// Why a connection is, or is not, the one that a peer means.
fn judge(
    connection: &ConnectionConfig,
    claims: Claims<'_>,
    takes: impl Fn(&ConnectionConfig) -> bool,
) -> Candidate {
    let wanted = connections::remote_match(connection);
    let ours = connections::local_identity(connection, claims.local);
    let check = |option: &str, found: String, wanted: String, passed: bool| Check {
        option: option.to_owned(),
        found,
        wanted,
        passed,
    };
    let asked = claims.asked.map_or_else(|| "anyone".to_owned(), |id| format!("`{id}`"));
    let asked_passed = claims.asked.is_none_or(|asked| asked.same(&ours));
    let method = match connections::remote_method(connection) {
        RemoteMethod::Psk => "psk".to_owned(),
        RemoteMethod::Null => "null".to_owned(),
        RemoteMethod::Pubkey(trust) => trust.constraint.to_string(),
        RemoteMethod::Eap { method, .. } => method.name().to_owned(),
    };
    let mut checks = vec![
        check("remote.id", format!("`{}`", claims.peer), wanted.to_string(), wanted.accepts(claims.peer)),
        check("local.id", asked, format!("`{ours}`"), asked_passed),
        check("remote.auth", claims.method.to_owned(), method, takes(connection)),
    ];
    if let RemoteMethod::Pubkey(trust) = connections::remote_method(connection) {
        let trusted = trust.authorities.iter().map(|ca| ca.subject().to_string());
        // Looked at only when the rest fits.
        let wanted = join(trusted);
        if !wanted.is_empty() {
            checks.push(check("remote.cacerts", "not looked at".to_owned(), wanted, true));
        }
    }
    Candidate { connection: connection.name.clone(), checks }
}

/// Of names in backticks the first that is no distinguished name, if there is one.
fn first_name(names: &str) -> &str {
    let mut each = names.split('`').skip(1).step_by(2);
    let first = each.clone().next().unwrap_or("<a name of its certificate>");
    each.find(|name| !name.contains('=')).unwrap_or(first)
}

/// The peer's line for its own identity, where we want one and only one.
fn own_id_of_the_peer(wanted: &IdentityMatch) -> Vec<Fix> {
    match wanted {
        IdentityMatch::Exactly(id) => {
            vec![Fix::strongswan("local", "id", quoted(id)), Fix::libreswan("leftid", libreswan_id(id))]
        }
        IdentityMatch::Pattern(_) | IdentityMatch::Any => Vec::new(),
    }
}

/// An identity in libreswan's notation.
fn libreswan_id(id: &Identity) -> String {
    match id {
        Identity::Fqdn(name) => format!("@{name}"),
        Identity::Dn(name) => quoted(name),
        other => other.to_string(),
    }
}
