//! Why an EAP conversation failed: each variant a cause, with what was found and what was wanted.

use super::packet::kind_name;
use crate::auth;
use crate::config::IdentityMatch;
use crate::verdict::Reason;

/// A conversation that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say what each field is")]
pub enum Rejection {
    #[error("it sent {what}")]
    Malformed { what: String },
    #[error("user `{user}` is not the one that is wanted (remote.eap_id is {wanted})")]
    OtherUser { user: String, wanted: Box<IdentityMatch> },
    #[error("no password of user `{user}` is configured here")]
    UnknownUser { user: String },
    #[error("user `{user}` gave another password than [secrets] `{secret}`")]
    WrongPassword { user: String, secret: String },
    #[error("it does not want {offered}{}", wanted_text(.wanted))]
    OtherMethod { offered: String, wanted: Vec<u8> },
    #[error("the server offers {offered}, and {ours} is what we may do")]
    MethodNotOurs { offered: String, ours: &'static str },
    #[error("the server refused user `{user}`: {said}")]
    Refused { user: String, said: String },
    #[error(
        "the server does not know the password of user `{user}` either: it is not the one that it says it is"
    )]
    ServerNotProven { user: String },
    #[error("the server ended EAP with success before it had proven anything")]
    Premature,
    #[error("the AAA server refused user `{user}`{}", said_text(.said))]
    AaaRefused { user: String, said: String },
    #[error("{why}")]
    AaaUnreachable { why: String },
    #[error(
        "the AAA server accepted user `{user}` without the key of the EAP method (MS-MPPE-Recv-Key and MS-MPPE-Send-Key)"
    )]
    NoKey { user: String },
    #[error(
        "the AAA server runs {method} with user `{user}`, which does not prove us well enough (RFC 5998 §4), and nothing else is to"
    )]
    NotMutual { user: String, method: String },
    #[error("its certificate was not accepted: {why}")]
    Certificate { why: Box<auth::Rejection> },
    #[error("its certificate is for {names}, and {wanted} is wanted")]
    OtherCertificate { names: String, wanted: Box<IdentityMatch> },
    #[error("it sent no certificate in TLS")]
    NoCertificate,
    #[error("it broke TLS off: {alert}")]
    TlsAlert { alert: String },
    #[error("there is no TLS that both ends do: {what}")]
    TlsMismatch { what: String },
    #[error("{packets} EAP packets did not bring it to an end")]
    TooLong { packets: u32 },
}

fn wanted_text(wanted: &[u8]) -> String {
    // RFC 3748 §5.3.1: a Nak with type 0 has no alternative.
    let names: Vec<String> = wanted.iter().filter(|kind| **kind != 0).map(|kind| kind_name(*kind)).collect();
    if names.is_empty() {
        " and names nothing else".to_owned()
    } else {
        format!(", but {}", names.join(" or "))
    }
}

fn said_text(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(" and says `{said}`") }
}

impl From<auth::Rejection> for Rejection {
    fn from(why: auth::Rejection) -> Self {
        Self::Certificate { why: Box::new(why) }
    }
}

impl Rejection {
    /// Its reason code.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Malformed { .. } | Self::Premature | Self::TooLong { .. } => Reason::PeerMisbehaved,
            Self::OtherUser { .. } => Reason::IdUnexpected,
            Self::UnknownUser { .. } => Reason::EapUnknownUser,
            Self::WrongPassword { .. } => Reason::EapWrongPassword,
            Self::OtherMethod { .. } | Self::MethodNotOurs { .. } | Self::NotMutual { .. } => {
                Reason::EapMethodMismatch
            }
            Self::Refused { .. } => Reason::EapRefused,
            Self::ServerNotProven { .. } => Reason::EapServerNotProven,
            Self::AaaRefused { .. } => Reason::AaaRefused,
            Self::AaaUnreachable { .. } => Reason::AaaUnreachable,
            Self::NoKey { .. } => Reason::AaaNoKey,
            Self::Certificate { why } => why.reason(),
            Self::OtherCertificate { .. } => Reason::IdNotInCertificate,
            Self::NoCertificate => Reason::CertMissing,
            Self::TlsAlert { .. } => Reason::EapTlsAlert,
            Self::TlsMismatch { .. } => Reason::EapTlsMismatch,
        }
    }

    /// The user that it is about, where one is known.
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::OtherUser { user, .. }
            | Self::UnknownUser { user }
            | Self::WrongPassword { user, .. }
            | Self::Refused { user, .. }
            | Self::ServerNotProven { user }
            | Self::AaaRefused { user, .. }
            | Self::NotMutual { user, .. }
            | Self::NoKey { user } => Some(user),
            _ => None,
        }
    }

    /// The code, for tests.
    #[cfg(test)]
    pub(super) fn code(&self) -> &'static str {
        self.reason().code()
    }
}
