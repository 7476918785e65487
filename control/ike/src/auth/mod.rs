//! Authentication with public keys: X.509 certificates (RFC 5280, RFC 4945), raw public keys (RFC 7670), signatures
//! (RFC 7296 §3.8, RFC 4754, RFC 7427, RFC 8420). And with passwords, or whatever an AAA server wants: [`eap`].
//!
//! Start at [`sign`] and [`verify`], the two jobs that the engine gives out; everything else serves them. [`verify`]
//! asks, in this order: is the AUTH payload of a kind we know (`method`), does somebody we trust vouch for the
//! certificate (`path`, `revocation`, `ocsp`), is the identity in it (`names`), may such a key and such a scheme be used
//! (`constraint`), is the signature right (`key`). Every no is a [`Rejection`].
//!
//! No files and no clock here: DER and the time are passed in. Nothing panics, whatever a peer sends.

mod authorization;
mod certificate;
mod constraint;
mod credential;
mod dn;
pub mod eap;
mod ed448;
mod key;
pub(crate) mod method;
mod names;
pub mod ocsp;
mod path;
pub(crate) mod peer;
mod proven;
mod rejection;
mod revocation;
mod scheme;
#[cfg(test)]
pub(crate) mod tests;

pub use authorization::Authorization;
pub use certificate::{Certificate, CertificateError, UnixTime};
pub use constraint::{Constraint, ConstraintError};
pub use credential::{Credential, KeyMismatch, SignRequest, Signature, sign};
pub use dn::DistinguishedName;
pub use key::{Curve, KeyError, KeyKind, PrivateKey, PublicKey};
pub use method::AuthScheme;
pub use peer::{CertPayload, Trust, VerifyRequest, verify};
pub use proven::{CertificateName, Proven};
pub use rejection::Rejection;
pub use revocation::{Crl, CrlError, Responder, Revocation, RevocationSource, StatusSource};
pub use scheme::{HashAlgorithm, Scheme};
