//! What a peer has proved with that it is who it says it is: for those who keep record of who came and went.

use super::certificate::{Certificate, UnixTime};
use super::eap::ServerMethod;
use super::key::KeyKind;
use super::scheme::Scheme;

/// How a peer was authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proven {
    /// By a pre-shared key.
    Psk,
    /// By a signature.
    Signature {
        /// How it was made.
        scheme: Scheme,
        /// The key's algorithm.
        key: KeyKind,
        /// The certificate that the key is in; `None`: the key was accepted as it is.
        certificate: Option<Box<CertificateName>>,
    },
    /// By EAP.
    Eap(ServerMethod),
    /// By the keys of an IKE SA in which it was, and which this one goes on from (RFC 5723).
    Resumed,
    /// Not at all: it has proved nothing but that it is one peer (RFC 7619).
    Null,
}

/// What names a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateName {
    /// Whose it is.
    pub subject: String,
    /// Who has issued it.
    pub issuer: String,
    /// Its number at the issuer: the octets of the INTEGER.
    pub serial: Vec<u8>,
    /// When it ends.
    pub not_after: UnixTime,
}

impl Proven {
    /// As the configuration writes `remote.auth`, without what is accepted besides.
    pub fn method(&self) -> &'static str {
        match self {
            Self::Psk => "psk",
            Self::Signature { .. } => "pubkey",
            Self::Eap(method) => method.name(),
            Self::Resumed => "ticket",
            Self::Null => "null",
        }
    }
}

impl From<&Certificate> for CertificateName {
    fn from(certificate: &Certificate) -> Self {
        Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            serial: certificate.serial.clone(),
            not_after: certificate.not_after(),
        }
    }
}
