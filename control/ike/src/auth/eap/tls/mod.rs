//! EAP-TLS (type 13): RFC 5216 over TLS 1.2, RFC 9190 over TLS 1.3. Both ends prove themselves with certificates inside
//! TLS, and the key is exported from it.
//!
//! TLS itself is rustls's, fed and drained by hand; certificates are judged by our own code, as they are in IKE: by the same
//! identities, constraints, CRLs and OCSP responders. What rustls draws of randomness it draws in the job, as AWS-LC does
//! for signatures.
//!
//! - [`Server`], [`Client`]: the method;
//! - `fragments`: TLS in EAP packets; `session`: one end of TLS; `judge`: certificates, signatures.

mod client;
mod fragments;
mod judge;
mod server;
mod session;
#[cfg(test)]
pub(super) mod tests;

use std::sync::Arc;

pub(super) use client::Client;
pub(super) use judge::Claim;
pub(super) use server::{Asked, Server};
pub(super) use session::Export;

use crate::auth::{Credential, RevocationSource, Trust, UnixTime};

/// What the TLS of a method needs.
#[derive(Debug, Clone, Default)]
pub struct TlsSettings {
    /// What we prove ourselves with: the first that fits the other end; those without a certificate are not used. A server
    /// has to have one.
    pub credentials: Vec<Arc<Credential>>,
    /// Whose certificates are accepted.
    pub trust: Arc<Trust>,
}

/// Where the status of certificates is learnt; shared, because TLS keeps it for as long as a step takes.
pub type SharedSource = Arc<dyn RevocationSource + Send + Sync>;

/// What certificates are judged by in one step.
#[derive(Clone)]
pub struct Circumstances {
    /// The time.
    pub now: UnixTime,
    /// Where CRLs and OCSP responses come from.
    pub source: SharedSource,
}
