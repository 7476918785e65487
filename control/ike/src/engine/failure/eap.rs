//! EAP and AAA servers.

use super::{About, Fix, Place, Reason, Verdict};
use crate::auth::eap::Rejection;
use crate::verdict::{quoted, toml_list};

impl About {
    /// A client of ours was not authenticated.
    pub(in crate::engine) fn client_rejected(&self, rejection: &Rejection) -> Verdict {
        let (section, peer) = (self.section(), self.peer());
        let (remote, local) = (format!("{section}.remote"), format!("{section}.local"));
        let verdict = self
            .fail(rejection.reason(), format!("{peer} was not authenticated by EAP: {rejection}"))
            .fact_of_user(rejection);
        let user_of_strongswan =
            |text: &str| Fix::line(Place::Strongswan, "secrets.eap-<name>", "secret", quoted(text));
        match rejection {
            Rejection::OtherUser { user, wanted } => verdict
                .fact("expected", wanted)
                .fix(Fix::here(remote, "eap_id", quoted(user)))
                .fix(Fix::strongswan("local", "eap_id", quoted("<a name that is expected>"))),
            Rejection::UnknownUser { user } => verdict
                .fix(Fix::here("secrets.eap-<name>", "id", toml_list([user])))
                .fix(Fix::here("secrets.eap-<name>", "secret", quoted("<the user's password>")))
                .fix(Fix::strongswan("local", "eap_id", quoted("<the name that is known here>"))),
            Rejection::WrongPassword { secret, .. } => {
                let ours = format!("secrets.{}", super::toml_key(secret));
                verdict
                    .fact("our password", format!("[{ours}]"))
                    .fix(Fix::here(ours, "secret", quoted("<the same as at the user's>")))
                    .fix(user_of_strongswan("<the same as here>"))
                    .fix(Fix::step(Place::Peer, "type it anew: mind case, spaces and the keyboard's layout"))
            }
            Rejection::OtherMethod { .. } => verdict
                .fix(Fix::here(remote, "auth", quoted("<a method that the peer names>")))
                .fix(Fix::strongswan("local", "auth", "eap")),
            Rejection::Certificate { why } => self.judged(verdict, why),
            Rejection::OtherCertificate { names, .. } => verdict
                .fact("certificate is for", names)
                .fix(Fix::here(remote, "eap_id", quoted("<one of these names>")))
                .fix(Fix::strongswan("local", "eap_id", quoted("<one of these names>"))),
            Rejection::NoCertificate => verdict
                .fix(Fix::strongswan("local", "certs", "<file of its certificate>"))
                .fix(Fix::strongswan("local", "auth", "eap-tls")),
            Rejection::TlsAlert { .. } => verdict
                .fix(Fix::step(Place::Peer, "give it the CA that has issued our certificate, and compare our name in that with the one that it expects of us"))
                .fix(Fix::here(local, "certs", toml_list(["<a certificate that the peer accepts>"]))),
            Rejection::TlsMismatch { .. } => verdict.fix(tls_of_the_peer()),
            Rejection::AaaRefused { .. } => verdict
                .fix(Fix::step(
                    Place::Peer,
                    "read the AAA server's log: the user, the password or certificate, or a policy of its own",
                )),
            Rejection::AaaUnreachable { .. } => verdict
                .fix(Fix::here("[radius.servers]", "secret", quoted("<the one that the server has for our address>")))
                .fix(Fix::step(
                    Place::Network,
                    "see whether the server runs, whether UDP passes to it and back, and whether it has us as a client",
                )),
            Rejection::NotMutual { .. } => verdict
                .fix(Fix::step(
                    Place::Peer,
                    "have the AAA server run a method that proves it as well: EAP-TLS, EAP-TTLS or EAP-PWD",
                ))
                .fix(Fix::here(local, "auth", quoted("pubkey"))),
            Rejection::NoKey { .. } => verdict.fix(Fix::step(
                Place::Peer,
                "have the AAA server use a method that makes a key (EAP-TLS, PEAP, EAP-TTLS, EAP-MSCHAPv2), and send it \
                 in MS-MPPE-Recv-Key and MS-MPPE-Send-Key",
            )),
            _ => verdict.fix(Fix::step(Place::Peer, "update it, or report it to its maker")),
        }
    }

    /// A client of ours does not go on.
    pub(in crate::engine) fn client_gave_up(&self, user: &str) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::EapGivenUp,
            format!("{peer} broke EAP off for user `{user}`: it does not take our proof or the method, or was stopped"),
        )
        .fact("user", user)
        .fix(Fix::step(Place::Peer, "read its log for this moment: it names the cause, which the protocol keeps from us"))
    }

    /// We were not authenticated as a client.
    pub(in crate::engine) fn server_rejected(&self, rejection: &Rejection) -> Verdict {
        let (section, peer) = (self.section(), self.peer());
        let local = format!("{section}.local");
        let verdict = self
            .fail(rejection.reason(), format!("EAP with {peer} failed: {rejection}"))
            .fact_of_user(rejection);
        match rejection {
            Rejection::Refused { .. } => verdict
                .fix(Fix::here("secrets.eap-<name>", "secret", quoted("<the password that the peer has>")))
                .fix(Fix::here(local, "eap_id", quoted("<the name that the peer has>")))
                .fix(Fix::step(Place::Peer, "read its log for this moment: it names the cause")),
            Rejection::Certificate { why } => self.judged(verdict, why),
            Rejection::OtherCertificate { names, .. } => verdict
                .fact("certificate is for", names)
                .fix(Fix::here(local, "aaa_id", quoted("<one of these names, if it is an AAA server's>")))
                .fix(Fix::here(
                    format!("{section}.remote"),
                    "id",
                    quoted("<one of these names, if it is the gateway's>"),
                )),
            Rejection::TlsAlert { .. } => verdict
                .fix(Fix::here(local, "certs", toml_list(["<a certificate that the server accepts>"])))
                .fix(Fix::step(
                    Place::Peer,
                    "give it the CA that has issued our certificate; its log says what it misses",
                )),
            Rejection::TlsMismatch { .. } => verdict.fix(tls_of_the_peer()),
            Rejection::MethodNotOurs { .. } | Rejection::OtherMethod { .. } => verdict
                .fix(Fix::here(local, "auth", quoted("eap-mschapv2")))
                .fix(Fix::strongswan("remote", "auth", "eap-mschapv2")),
            Rejection::ServerNotProven { .. } => verdict
                .fix(Fix::here("secrets.eap-<name>", "secret", quoted("<the password that the peer has>")))
                .fix(Fix::step(Place::Peer, "if the passwords are the same, somebody pretends to be it")),
            _ => verdict.fix(Fix::step(Place::Peer, "update it, or report it to its maker")),
        }
    }

    /// We have no password to be authenticated with.
    pub(in crate::engine) fn no_password(&self, user: &str) -> Verdict {
        let section = self.section();
        self.fail(
            Reason::EapNoPassword,
            format!("no password is configured for user `{user}`, as whom we authenticate by EAP"),
        )
        .fix(Fix::here("secrets.eap-<name>", "id", toml_list([user])))
        .fix(Fix::here("secrets.eap-<name>", "secret", quoted("<the password>")))
        .fix(Fix::here(format!("{section}.local"), "eap_id", quoted("<another name>")))
    }

    /// EAP has succeeded, but the peer does not take the AUTH payload that we made of it.
    pub(in crate::engine) fn eap_key_refused(&self, user: &str) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::AuthenticationFailed,
            format!("EAP with {peer} succeeded for user `{user}`, but then it refused us: by a policy of its own, or because both ends derive EAP's key differently"),
        )
        .fix(Fix::step(Place::Peer, "read its log for this moment: it names the cause, which the protocol keeps from us"))
    }

    /// Our identity or the connection was refused before EAP began.
    pub(in crate::engine) fn refused_before_eap(&self) -> Verdict {
        let (section, peer) = (self.section(), self.peer());
        self.fail(
            Reason::AuthenticationFailed,
            format!("{peer} refused us before EAP began and must not say why: it expects another identity of one of us, or does not authenticate us by EAP"),
        )
        .fix(Fix::step(Place::Peer, "read its log for this moment: it names the cause, which the protocol keeps from us"))
        .fix(Fix::strongswan("remote", "auth", "eap-mschapv2"))
        .fix(Fix::here(format!("{section}.local"), "id", quoted("<what the peer expects>")))
    }

    /// The connection that the peer has asked for authenticates us by EAP, which only the end that initiates can do.
    pub(in crate::engine) fn eap_needs_initiator(&self) -> Verdict {
        let (section, peer) = (self.section(), self.peer());
        self.fail(
            Reason::AuthMethodMismatch,
            format!("{peer} asked for {section}, where we authenticate by EAP, which only the end that initiates can do"),
        )
        .fix(Fix::step(Place::Here, "initiate it from here: portcullis initiate <connection>"))
        .fix(Fix::here(format!("{section}.local"), "auth", quoted("pubkey")))
    }

    /// We are to be proven by an AAA server, which only the end that is called can have (RFC 5998).
    pub(in crate::engine) fn aaa_needs_responder(&self) -> Verdict {
        let section = self.section();
        self.fail(
            Reason::AuthMethodMismatch,
            format!("{section}.local.auth is \"eap-radius\": an AAA server proves us to those who begin an IKE SA, but we were to begin one"),
        )
        .fix(Fix::step(Place::Peer, "have it begin the IKE SA"))
        .fix(Fix::here(format!("{section}.local"), "auth", quoted("pubkey")))
    }

    /// EAP is to prove us, and the peer does not take that (RFC 5998).
    pub(in crate::engine) fn eap_only_not_offered(&self) -> Verdict {
        let (section, peer) = (self.section(), self.peer());
        self.fail(
            Reason::AuthMethodMismatch,
            format!("{section} has EAP alone prove both ends, but {peer} does not take that (it sent no EAP_ONLY_AUTHENTICATION)"),
        )
        .fix(Fix::here(format!("{section}.local"), "auth", quoted("pubkey")))
        .fix(Fix::strongswan("remote", "auth", "eap-tls"))
    }

    /// EAP alone is to prove the peer, and it proves itself otherwise.
    pub(in crate::engine) fn eap_only_refused(&self, found: &str) -> Verdict {
        let (section, peer) = (self.section(), self.peer());
        self.fail(
            Reason::AuthMethodMismatch,
            format!("{section} has EAP alone prove both ends, but {peer} proves itself with {found}"),
        )
        .fact("the peer's method", found)
        .fix(Fix::here(format!("{section}.remote"), "auth", quoted("pubkey")))
        .fix(Fix::strongswan("local", "auth", "eap-tls"))
    }

    /// The peer has fewer or more rounds of authentication than we want (RFC 4739). `round`: the one that it has just passed, from
    /// one; `follows`: it says that there is another.
    pub(in crate::engine) fn other_rounds(&self, round: usize, follows: bool, wanted: usize) -> Verdict {
        let (section, peer) = (self.section(), self.peer());
        let found = match follows {
            true => format!("more than {round}"),
            false => round.to_string(),
        };
        self.fail(
            Reason::AuthMethodMismatch,
            format!(
                "{peer} proves itself {found} time(s), but {section}.remote wants it to {wanted} time(s)"
            ),
        )
        .fact("rounds of the peer", found)
        .fact("expected", wanted)
        .fix(Fix::here(section, "remote", "one table, or an array of as many as the peer has `local`"))
        .fix(Fix::step(
            Place::Strongswan,
            "give it a section `local-<n>` for each round, all of them with `auth`",
        ))
    }

    /// The peer does not know several rounds of authentication.
    pub(in crate::engine) fn rounds_not_supported(&self) -> Verdict {
        let (section, peer) = (self.section(), self.peer());
        self.fail(
            Reason::AuthMethodMismatch,
            format!("{section} has several rounds of authentication, but {peer} does not know them (it sent no MULTIPLE_AUTH_SUPPORTED)"),
        )
        .fix(Fix::step(Place::Strongswan, "set charon.multiple_authentication = yes in strongswan.conf"))
        .fix(Fix::here(section, "local", "one table, not an array"))
    }

    /// The peer has said that another round follows, and does not go on.
    pub(in crate::engine) fn next_round_missing(&self) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::AuthenticationFailed,
            format!("{peer} did not go on to its next round of authentication: it does not take our proof, or was stopped"),
        )
        .fix(Fix::step(Place::Peer, "read its log for this moment: it names the cause, which the protocol keeps from us"))
    }

    /// We want to be authenticated by EAP, and the peer takes us without it.
    pub(in crate::engine) fn eap_not_wanted(&self) -> Verdict {
        let (section, peer) = (self.section(), self.peer());
        self.fail(Reason::AuthMethodMismatch, format!("we asked {peer} for EAP, but it did not begin it"))
            .fix(Fix::strongswan("remote", "auth", "eap-mschapv2"))
            .fix(Fix::here(format!("{section}.local"), "auth", quoted("<what the peer wants>")))
    }

    /// An AUTH payload after EAP does not fit the key that EAP has made.
    pub(in crate::engine) fn eap_key_mismatch(&self, user: &str) -> Verdict {
        let peer = self.peer();
        self.fail(
            Reason::EapKeyMismatch,
            format!("EAP with {peer} succeeded for user `{user}`, but its AUTH payload was not made with the key that came of it"),
        )
        .fact("user", user)
        .fix(Fix::step(
            Place::Network,
            "see whether somebody sits between the two who ran EAP: whoever only passes it on does not have the key",
        ))
        .fix(Fix::step(Place::Peer, "update it, or the AAA server: one of them may derive the key differently"))
    }
}

/// What is to be compared where TLS finds nothing in common.
fn tls_of_the_peer() -> Fix {
    Fix::step(
        Place::Peer,
        "have it do TLS 1.2 with ECDHE and AES-GCM or ChaCha20-Poly1305, or TLS 1.3 (strongSwan: charon.tls in strongswan.conf)",
    )
}

impl Verdict {
    /// Whom it was about.
    fn fact_of_user(self, rejection: &Rejection) -> Self {
        match rejection.user() {
            Some(user) => self.fact("user", user),
            None => self,
        }
    }
}
