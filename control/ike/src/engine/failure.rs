//! Failures in plain words: what the peer asked for, what we would have taken, the difference, what to change.
//! One function a cause, so that every text is found in one place.

use std::fmt::{Display, Write as _};
use std::net::SocketAddr;

use portcullis_ipsec::{InstallError, TrafficSelector};

use super::api::Failure;
use crate::auth::{HashAlgorithm, Rejection};
use crate::config::{ConnectionConfig, Identity, IdentityMatch, RemoteMethod};
use crate::crypto::KeyExchangeError;
use crate::message::{MessageError, notify};

/// The code of a peer that does not answer.
const PEER_SILENT: &str = "PEER_SILENT";
/// The code of what ended for a reason that has nothing to do with it.
const CLOSED_EARLY: &str = "CLOSED_EARLY";

/// Whether somebody said no, so that trying again soon is hardly worth while.
pub(super) fn is_refusal(failure: &Failure) -> bool {
    !matches!(failure.code, PEER_SILENT | CLOSED_EARLY)
}

/// Whom a failure is about.
#[derive(Debug, Clone)]
pub(super) struct About {
    pub(super) connection: Option<String>,
    pub(super) remote: Option<SocketAddr>,
}

impl About {
    fn fail(&self, code: &'static str, explanation: String) -> Failure {
        Failure { code, connection: self.connection.clone(), remote: self.remote, explanation }
    }

    fn line(&self) -> String {
        match &self.connection {
            Some(name) => format!("connections.{name}"),
            None => "connections.NAME".to_owned(),
        }
    }

    fn peer(&self) -> String {
        self.remote.map_or_else(|| "the peer".to_owned(), |remote| format!("{}", remote.ip()))
    }

    pub(super) fn unknown_connection(&self, name: &str) -> Failure {
        self.fail(
            "UNKNOWN_CONNECTION",
            format!("no connection is called `{name}`; see [connections.*] in the configuration"),
        )
    }

    pub(super) fn unknown_child(&self, child: &str, children: &str) -> Failure {
        let line = self.line();
        self.fail("UNKNOWN_CHILD", format!("{line} has no child `{child}`; it has {children}"))
    }

    pub(super) fn nothing_to_terminate(&self) -> Failure {
        self.fail("NOTHING_TO_TERMINATE", format!("{} has no SA that could be terminated", self.line()))
    }

    pub(super) fn nothing_to_rekey(&self) -> Failure {
        self.fail("NOTHING_TO_REKEY", format!("{} has no SA that could be rekeyed from here", self.line()))
    }

    pub(super) fn no_remote_address(&self) -> Failure {
        let line = self.line();
        self.fail("NO_REMOTE_ADDRESS", format!("{line}.remote_addrs names no single address, so the connection can only be initiated by the peer; add the peer's address"))
    }

    pub(super) fn no_source_address(&self) -> Failure {
        let peer = self.peer();
        let line = self.line();
        self.fail("NO_ROUTE", format!("the kernel has no route to {peer}, so there is no source address to send from; add a route, or set {line}.local_addrs"))
    }

    pub(super) fn no_connection_for(&self, local: SocketAddr) -> Failure {
        let peer = self.peer();
        self.fail("NO_CONFIG_FOR_ADDRESS", format!("{peer} asked for an IKE SA with {}, but no connection has both addresses in local_addrs and remote_addrs; add {peer} to remote_addrs of the connection that is meant for it", local.ip()))
    }

    pub(super) fn ike_proposal_mismatch(&self, mismatch: &dyn Display) -> Failure {
        let line = self.line();
        self.fail(
            "PROPOSAL_MISMATCH",
            format!(
                "the IKE proposals have nothing in common: {mismatch}; change {line}.proposals, or the peer's"
            ),
        )
    }

    pub(super) fn ike_proposal_refused(&self, ours: &dyn Display) -> Failure {
        let line = self.line();
        let peer = self.peer();
        self.fail("PROPOSAL_MISMATCH", format!("{peer} accepts none of our IKE proposals ({ours}), or has no connection for our address; compare {line}.proposals with the peer's proposals and addresses"))
    }

    pub(super) fn ike_proposal_not_ours(&self, mismatch: &dyn Display) -> Failure {
        let peer = self.peer();
        self.fail(
            "PEER_MISBEHAVED",
            format!("{peer} chose an IKE proposal that we did not make: {mismatch}; the peer is at fault"),
        )
    }

    pub(super) fn child_proposal_mismatch(&self, child: &str, mismatch: &dyn Display) -> Failure {
        let line = self.line();
        self.fail("CHILD_PROPOSAL_MISMATCH", format!("the ESP proposals for child `{child}` have nothing in common: {mismatch}; change {line}.children.{child}.esp_proposals, or the peer's"))
    }

    pub(super) fn child_proposal_refused(&self, child: &str, ours: &dyn Display) -> Failure {
        let line = self.line();
        let peer = self.peer();
        self.fail("CHILD_PROPOSAL_MISMATCH", format!("{peer} accepts none of the ESP proposals of child `{child}` ({ours}); compare {line}.children.{child}.esp_proposals with the peer's esp_proposals"))
    }

    pub(super) fn selectors_do_not_overlap(
        &self,
        asked_local: &[TrafficSelector],
        asked_remote: &[TrafficSelector],
        ours: &str,
    ) -> Failure {
        let line = self.line();
        let peer = self.peer();
        self.fail("TS_NO_OVERLAP", format!("{peer} asked for traffic between {} on our side and {} on its side, but no child overlaps with that on both sides ({ours}); change local_ts or remote_ts under {line}.children, or the peer's", list(asked_local), list(asked_remote)))
    }

    pub(super) fn selectors_refused(
        &self,
        child: &str,
        local: &[TrafficSelector],
        remote: &[TrafficSelector],
    ) -> Failure {
        let line = self.line();
        let peer = self.peer();
        self.fail("TS_NO_OVERLAP", format!("{peer} accepts none of the traffic of child `{child}`: {} on our side to {} on its side; compare {line}.children.{child}.local_ts with the peer's remote_ts, and remote_ts with its local_ts", list(local), list(remote)))
    }

    pub(super) fn selectors_wider_than_asked(
        &self,
        child: &str,
        answered: &[TrafficSelector],
        asked: &[TrafficSelector],
    ) -> Failure {
        let peer = self.peer();
        self.fail("PEER_MISBEHAVED", format!("{peer} answered for child `{child}` with selectors ({}) beyond what we asked for ({}); the peer is at fault", list(answered), list(asked)))
    }

    pub(super) fn no_shared_key(&self, local_id: &Identity, remote_id: &Identity) -> Failure {
        self.fail("NO_SHARED_KEY", format!("no shared key fits us, `{local_id}`, and the peer, `{remote_id}`; add one under [secrets] with these ids"))
    }

    pub(super) fn shared_key_mismatch(
        &self,
        key: &str,
        local_id: &Identity,
        remote_id: &Identity,
    ) -> Failure {
        self.fail("PSK_MISMATCH", format!("the peer `{remote_id}` authenticated with another pre-shared key than ours for it and `{local_id}`; make [secrets] `{key}` the same on both sides (mind spaces and line ends)"))
    }

    /// We have no PPK of that name.
    pub(super) fn no_ppk(&self, id: &str) -> Failure {
        let line = self.line();
        self.fail("NO_PPK", format!("{line}.ppk_id is `{id}`, but no [secrets.ppk-*] has it among its ids; add the post-quantum pre-shared key that the peer has under this name"))
    }

    pub(super) fn ppk_not_supported(&self) -> Failure {
        let (line, peer) = (self.line(), self.peer());
        self.fail("PPK_REQUIRED", format!("{line}.ppk_required is true, but {peer} does not use post-quantum pre-shared keys (RFC 8784), or {line}.ppk_id is missing; configure one on both sides, or set ppk_required to false"))
    }

    pub(super) fn ppk_not_used(&self) -> Failure {
        let (line, peer) = (self.line(), self.peer());
        self.fail("PPK_REQUIRED", format!("{line}.ppk_required is true, but {peer} used no post-quantum pre-shared key that we know of; give both sides the same [secrets.ppk-*] under the same id, or set ppk_required to false"))
    }

    pub(super) fn ppk_mismatch(&self, key: &str, remote_id: &Identity) -> Failure {
        self.fail("PPK_MISMATCH", format!("the peer `{remote_id}` named a post-quantum pre-shared key that we have, but its authentication does not fit: the secrets of [secrets.ppk-*] differ, or those of [secrets] `{key}` do; make both the same on both sides"))
    }

    /// `with`: the name of our pre-shared key, if it was one.
    pub(super) fn authentication_refused(
        &self,
        with: Option<&str>,
        local_id: &Identity,
        asked_remote: &str,
    ) -> Failure {
        let line = self.line();
        let peer = self.peer();
        let proof = match with {
            Some(key) => format!("the pre-shared keys differ ([secrets] `{key}`)"),
            None => format!("it does not trust our certificate or key ({line}.local.certs)"),
        };
        self.fail("AUTHENTICATION_FAILED", format!("{peer} rejected our authentication as `{local_id}` towards {asked_remote}: either {proof}, or the peer expects another identity of us ({line}.local.id) or has another itself ({line}.remote.id); its log says which"))
    }

    pub(super) fn authentication_withdrawn(&self, local_id: &Identity) -> Failure {
        let peer = self.peer();
        self.fail("AUTHENTICATION_FAILED", format!("{peer} began the IKE SA and then rejected our own authentication as `{local_id}`: the pre-shared keys differ, or it does not trust our certificate, or it expects another identity of us; its log says which"))
    }

    /// The peer's proof was judged and found wanting.
    pub(super) fn peer_rejected(&self, rejection: &Rejection) -> Failure {
        let (line, peer) = (self.line(), self.peer());
        let advice = match rejection {
            Rejection::NoCertificate { .. } => {
                format!("have the peer send its certificate, or name it in {line}.remote.certs")
            }
            Rejection::Encoding { .. } | Rejection::Unusable { .. } => {
                "the peer has to send another".to_owned()
            }
            Rejection::Expired { .. } => "the peer needs a new one, unless our clock is wrong".to_owned(),
            Rejection::NotYetValid { .. } => "compare the clocks of both sides".to_owned(),
            Rejection::NoIssuer { .. } => format!(
                "add the CA to {line}.remote.cacerts or gateway.x509ca, or have the peer send its intermediate certificates"
            ),
            Rejection::OtherIssuer { .. } | Rejection::ChainSignature { .. } => {
                "there may be two CAs of one name, an old and a new one: compare them on both sides"
                    .to_owned()
            }
            Rejection::ChainScheme { .. } | Rejection::NotAllowed { .. } => {
                "the CA has to issue another certificate".to_owned()
            }
            Rejection::Revoked { .. } => "the peer needs a new one".to_owned(),
            Rejection::StatusUnknown { .. } => {
                format!("put the CA's current CRL into gateway.x509crl, or relax {line}.remote.revocation")
            }
            Rejection::NotPinned { .. } => format!("add it to {line}.remote.certs if it is meant to be"),
            Rejection::KeyNotPinned { .. } => format!("add it to {line}.remote.pubkeys if it is meant to be"),
            Rejection::IdNotInCertificate { .. } => {
                "give the peer one of these identities, or a certificate with the other in its subjectAltName"
                    .to_owned()
            }
            Rejection::Method { .. } => format!("compare {line}.remote.auth with what the peer does"),
            Rejection::Hash { .. } => format!("change {line}.remote.auth, or the peer's signature scheme"),
            Rejection::Signature { .. } => "compare the peer's private key with its certificate".to_owned(),
        };
        self.fail(rejection.code(), format!("{peer} was not authenticated: {rejection}; {advice}"))
    }

    /// We have no key that could sign so that the peer can verify it.
    pub(super) fn no_common_hash(&self, ours: &str, announced: &[HashAlgorithm]) -> Failure {
        let (line, peer) = (self.line(), self.peer());
        let theirs = match announced {
            [] => "none at all (it does not know RFC 7427)".to_owned(),
            _ => join(announced.iter()),
        };
        self.fail("HASH_NOT_SUPPORTED", format!("we would sign with {ours}, but of hash algorithms for signatures {peer} announced {theirs}; change {line}.local.auth, use another key, or update the peer"))
    }

    pub(super) fn not_signed(&self) -> Failure {
        let line = self.line();
        self.fail(
            "SIGNING_FAILED",
            format!(
                "our own private key refused to sign; see whether the key of {line}.local.certs is intact"
            ),
        )
    }

    pub(super) fn unexpected_identity(&self, found: &Identity, wanted: &IdentityMatch) -> Failure {
        let line = self.line();
        self.fail(
            "ID_UNEXPECTED",
            format!("the peer says it is `{found}`, but {line}.remote.id is {}; make the two agree", wanted),
        )
    }

    pub(super) fn no_connection_for_identity(
        &self,
        found: &Identity,
        asked: Option<&Identity>,
        candidates: &[&ConnectionConfig],
    ) -> Failure {
        let mut wanted = String::new();
        for connection in candidates {
            let remote =
                connection.remote.first().map_or_else(|| "anyone".to_owned(), |auth| auth.id.to_string());
            let local = match connection.local.first().and_then(|auth| auth.id.as_ref()) {
                Some(id) => format!("`{id}`"),
                None => "our address".to_owned(),
            };
            let separator = if wanted.is_empty() { "" } else { "; " };
            let _ = write!(wanted, "{separator}`{}` is for {remote} and is {local} itself", connection.name);
        }
        let asked = asked.map_or_else(String::new, |id| format!(" and wants `{id}`"));
        self.fail("ID_UNEXPECTED", format!("the peer says it is `{found}`{asked}, but no connection for its address fits ({wanted}); change remote.id or local.id of the right one, or the peer's"))
    }

    pub(super) fn other_auth_method(&self, found: &str, wanted: &RemoteMethod) -> Failure {
        let line = self.line();
        let (wanted, advice) = match wanted {
            RemoteMethod::Psk => ("psk".to_owned(), "configure a pre-shared key on both sides"),
            RemoteMethod::Pubkey(trust) => {
                (trust.constraint.to_string(), "configure a certificate on both sides")
            }
        };
        self.fail("AUTH_METHOD_MISMATCH", format!("the peer authenticates with {found}, but {line}.remote.auth is {wanted}; {advice}, or change {line}.remote.auth"))
    }

    pub(super) fn silent(&self, exchange: &str, tries: u32) -> Failure {
        let peer = self.peer();
        let line = self.line();
        let target = self.remote.map_or_else(String::new, |remote| format!(" at {remote}"));
        self.fail(PEER_SILENT, format!("{peer} did not answer our {exchange} request, sent {tries} times{target}; see whether it runs, whether {line}.remote_addrs is right, and whether UDP 500 and 4500 pass both ways"))
    }

    pub(super) fn half_open_expired(&self) -> Failure {
        let peer = self.peer();
        self.fail(PEER_SILENT, format!("{peer} began an IKE SA but never sent a valid IKE_AUTH request; it may have rejected our IKE_SA_INIT response, or its UDP 4500 does not reach us"))
    }

    pub(super) fn refused(&self, exchange: &str, notify_type: u16) -> Failure {
        let peer = self.peer();
        self.fail(
            "PEER_REFUSED",
            format!(
                "{peer} answered our {exchange} request with {}; its log says why",
                notify_name(notify_type)
            ),
        )
    }

    pub(super) fn key_exchange(&self, error: &KeyExchangeError) -> Failure {
        self.fail("KEY_EXCHANGE_FAILED", format!("the key exchange failed: {error}"))
    }

    pub(super) fn group_refused(&self, wanted: u16, ours: &str) -> Failure {
        let line = self.line();
        let peer = self.peer();
        self.fail("PROPOSAL_KE_MISMATCH", format!("{peer} insists on key exchange group {wanted}, which we did not offer or have tried already (we offered {ours}); change {line}.proposals, or the peer's"))
    }

    pub(super) fn not_unique(&self, remote_id: &Identity) -> Failure {
        let line = self.line();
        self.fail("NOT_UNIQUE", format!("`{remote_id}` has an IKE SA already, and {line}.unique is \"keep\"; end that one first, or change unique"))
    }

    pub(super) fn always_busy(&self) -> Failure {
        let peer = self.peer();
        self.fail("PEER_BUSY", format!("{peer} has answered TEMPORARY_FAILURE for minutes, so its view of the IKE SA and ours differ; the IKE SA is closed"))
    }

    pub(super) fn cookie_loop(&self, times: u32) -> Failure {
        let peer = self.peer();
        self.fail("PEER_MISBEHAVED", format!("{peer} asked {times} times for another cookie; something between us may change our source address with every packet"))
    }

    pub(super) fn missing(&self, exchange: &str, what: &str) -> Failure {
        let peer = self.peer();
        self.fail(
            "PEER_MISBEHAVED",
            format!("the {exchange} message of {peer} lacks {what}; the peer is at fault"),
        )
    }

    pub(super) fn malformed(&self, exchange: &str, error: &MessageError) -> Failure {
        let peer = self.peer();
        self.fail("PEER_MISBEHAVED", format!("the {exchange} message of {peer} cannot be read: {error}"))
    }

    pub(super) fn version(&self) -> Failure {
        let peer = self.peer();
        self.fail("VERSION_MISMATCH", format!("{peer} does not speak IKEv2; enable IKEv2 there"))
    }

    pub(super) fn not_installed(&self, child: &str, error: &InstallError) -> Failure {
        self.fail(
            "INSTALL_FAILED",
            format!("child `{child}` was negotiated, but the data plane refused it: {error}"),
        )
    }

    pub(super) fn closed_early(&self, reason: &str) -> Failure {
        self.fail(
            CLOSED_EARLY,
            format!("{} was not up yet when its IKE SA or child ended: {reason}", self.line()),
        )
    }
}

/// Selectors, for people.
pub(super) fn list(selectors: &[TrafficSelector]) -> String {
    join(selectors.iter())
}

/// Anything, separated by commas.
pub(super) fn join(items: impl Iterator<Item = impl Display>) -> String {
    let mut text = String::new();
    for item in items {
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{separator}{item}");
    }
    text
}

/// The RFC's name of an error notification.
pub(super) fn notify_name(notify_type: u16) -> String {
    match notify_type {
        notify::UNSUPPORTED_CRITICAL_PAYLOAD => "UNSUPPORTED_CRITICAL_PAYLOAD",
        notify::INVALID_IKE_SPI => "INVALID_IKE_SPI",
        notify::INVALID_MAJOR_VERSION => "INVALID_MAJOR_VERSION",
        notify::INVALID_SYNTAX => "INVALID_SYNTAX",
        notify::INVALID_MESSAGE_ID => "INVALID_MESSAGE_ID",
        notify::INVALID_SPI => "INVALID_SPI",
        notify::NO_PROPOSAL_CHOSEN => "NO_PROPOSAL_CHOSEN",
        notify::INVALID_KE_PAYLOAD => "INVALID_KE_PAYLOAD",
        notify::AUTHENTICATION_FAILED => "AUTHENTICATION_FAILED",
        notify::SINGLE_PAIR_REQUIRED => "SINGLE_PAIR_REQUIRED",
        notify::NO_ADDITIONAL_SAS => "NO_ADDITIONAL_SAS",
        notify::INTERNAL_ADDRESS_FAILURE => "INTERNAL_ADDRESS_FAILURE",
        notify::FAILED_CP_REQUIRED => "FAILED_CP_REQUIRED",
        notify::TS_UNACCEPTABLE => "TS_UNACCEPTABLE",
        notify::INVALID_SELECTORS => "INVALID_SELECTORS",
        notify::TEMPORARY_FAILURE => "TEMPORARY_FAILURE",
        notify::CHILD_SA_NOT_FOUND => "CHILD_SA_NOT_FOUND",
        other => return format!("error notification {other}"),
    }
    .to_owned()
}
