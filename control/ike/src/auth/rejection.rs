//! Why a peer's proof of identity was not accepted: each variant a cause, with what was found and what was wanted.
//! What the peer is told is always AUTHENTICATION_FAILED and no more.

use super::certificate::UnixTime;
use super::dn::DistinguishedName;
use super::key::KeyKind;
use super::revocation::Responder;
use crate::identity::Identity;
use crate::verdict::Reason;

/// A proof that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say what each field is")]
pub enum Rejection {
    #[error("it sent no certificate, and none for `{id}` is configured")]
    NoCertificate { id: Identity },
    #[error("it sent {found}, which is not supported; have it send X.509 certificates themselves")]
    Encoding { found: String },
    #[error("its certificate cannot be used: {why}")]
    Unusable { why: String },
    #[error("the certificate of `{subject}` expired at {not_after}, and it is {now}")]
    Expired { subject: DistinguishedName, not_after: UnixTime, now: UnixTime },
    #[error("the certificate of `{subject}` is valid only from {not_before}, and it is {now}")]
    NotYetValid { subject: DistinguishedName, not_before: UnixTime, now: UnixTime },
    #[error(
        "the certificate of `{subject}` was issued by `{issuer}`, which is none of the CAs that are trusted here ({trusted}) and was not sent along"
    )]
    NoIssuer { subject: DistinguishedName, issuer: DistinguishedName, trusted: String },
    #[error(
        "the certificate of `{subject}` was issued by `{issuer}` with another key than that of the CA of this name that is trusted here"
    )]
    OtherIssuer { subject: DistinguishedName, issuer: DistinguishedName },
    #[error(
        "the certificate of `{subject}` was not signed with the key of `{issuer}`, which it names as its issuer"
    )]
    ChainSignature { subject: DistinguishedName, issuer: DistinguishedName },
    #[error("the certificate of `{subject}` is signed with {found}, which is not accepted")]
    ChainScheme { subject: DistinguishedName, found: String },
    #[error("the certificate of `{subject}` must not be used: {why}")]
    NotAllowed { subject: DistinguishedName, why: String },
    #[error("the certificate of `{subject}` (serial number {serial}) was revoked at {since}{}", reason_text(.reason.as_deref()))]
    Revoked {
        subject: DistinguishedName,
        serial: String,
        since: UnixTime,
        reason: Option<String>,
        /// Of OCSP; `None`: a CRL says so.
        responder: Option<Responder>,
    },
    #[error("whether the certificate of `{subject}` was revoked cannot be found out: {why}")]
    StatusUnknown { subject: DistinguishedName, why: String },
    #[error("the certificate of `{subject}` is not one of those that are accepted here")]
    NotPinned { subject: DistinguishedName },
    #[error("its {found} key is not one of those that are accepted here")]
    KeyNotPinned { found: KeyKind },
    #[error("it says it is `{id}`, but its certificate is for {names}")]
    IdNotInCertificate { id: Identity, names: String },
    #[error("it authenticates with {found}, and {wanted} was wanted")]
    Method { found: String, wanted: String },
    #[error("it signed with {found}, which is not accepted (expected {wanted})")]
    Hash { found: String, wanted: String },
    #[error(
        "its signature ({found}) does not fit its {key} key: whoever sent it does not have the private key, or the messages were changed on the way"
    )]
    Signature { found: String, key: KeyKind },
}

fn reason_text(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!(" ({reason})"))
}

impl Rejection {
    /// What a verdict calls it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NoCertificate { .. } => Reason::CertMissing,
            Self::Encoding { .. } | Self::Unusable { .. } => Reason::CertUnusable,
            Self::Expired { .. } => Reason::CertExpired,
            Self::NotYetValid { .. } => Reason::ClockSkew,
            Self::NoIssuer { .. } | Self::OtherIssuer { .. } => Reason::CertNoIssuer,
            Self::ChainSignature { .. } | Self::ChainScheme { .. } | Self::NotAllowed { .. } => {
                Reason::CertInvalid
            }
            Self::Revoked { .. } => Reason::CertRevoked,
            Self::StatusUnknown { .. } => Reason::CertStatusUnknown,
            Self::NotPinned { .. } | Self::KeyNotPinned { .. } => Reason::CertNotAccepted,
            Self::IdNotInCertificate { .. } => Reason::IdNotInCertificate,
            Self::Method { .. } => Reason::AuthMethodMismatch,
            Self::Hash { .. } => Reason::HashNotSupported,
            Self::Signature { .. } => Reason::SignatureInvalid,
        }
    }
}
