//! Judges a peer's proof: its certificate or raw public key, that its identity is in it, its signature.

use std::sync::Arc;

use super::certificate::{Certificate, UnixTime};
use super::constraint::Constraint;
use super::key::PublicKey;
use super::method::Proof;
use super::path::Validation;
use super::proven::{CertificateName, Proven};
use super::rejection::Rejection;
use super::revocation::{Brought, Revocation, RevocationSource, StatusSource};
use super::scheme::{HashAlgorithm, Scheme};
use crate::identity::Identity;

/// X.509 certificates taken from one peer; what follows is not looked at.
const MAX_CERTIFICATES: usize = 16;

/// Encodings of CERT and CERTREQ payloads (RFC 7296 §3.6, RFC 7670).
pub(crate) mod encoding {
    pub(crate) const X509_SIGNATURE: u8 = 4;
    pub(crate) const HASH_AND_URL_CERTIFICATE: u8 = 12;
    pub(crate) const HASH_AND_URL_BUNDLE: u8 = 13;
    /// OCSP Content (RFC 4806).
    pub(crate) const OCSP: u8 = 14;
    pub(crate) const RAW_PUBLIC_KEY: u8 = 15;
}

/// Whom a connection trusts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trust {
    /// CAs that vouch for peers.
    pub authorities: Vec<Arc<Certificate>>,
    /// Further certificates to build paths with, not trusted by themselves.
    pub intermediates: Vec<Arc<Certificate>>,
    /// If there are any: the peer's certificate must be one of them, and needs no CA.
    pub certificates: Vec<Arc<Certificate>>,
    /// Raw public keys, which need no certificate either.
    pub public_keys: Vec<PublicKey>,
    /// What is asked of the status of certificates.
    pub revocation: Revocation,
    /// The peer itself is asked for OCSP responses, and believed where they may be (RFC 4806).
    pub asks_peer: bool,
    /// Whom else than a certificate names it is asked of.
    pub status_sources: Arc<[StatusSource]>,
    /// Keys and signatures that are accepted.
    pub constraint: Constraint,
}

impl Trust {
    /// The hashes of CA keys that a CERTREQ names.
    pub fn authority_hashes(&self) -> impl Iterator<Item = [u8; 20]> {
        self.authorities.iter().map(|authority| authority.key().hash())
    }
}

/// A CERT payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertPayload {
    /// Its encoding.
    pub encoding: u8,
    /// Its data.
    pub data: Vec<u8>,
}

/// A proof to be judged.
#[derive(Debug, Clone)]
pub struct VerifyRequest {
    /// Whom we trust.
    pub trust: Arc<Trust>,
    /// Who the peer says it is.
    pub id: Identity,
    /// Its CERT payloads in order.
    pub certificates: Vec<CertPayload>,
    /// The AUTH method.
    pub method: u8,
    /// The AUTH data.
    pub auth: Vec<u8>,
    /// What must have been signed (RFC 7296 §2.15).
    pub octets: Vec<u8>,
}

/// Judges a proof. Takes up to milliseconds, and longer where `source` has to fetch.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn verify(
    request: &VerifyRequest,
    now: UnixTime,
    source: &dyn RevocationSource,
) -> Result<Proven, Box<Rejection>> {
    let wanted = || format!("a signature ({})", request.trust.constraint);
    let proof = Proof::parse(request.method, &request.auth)
        .map_err(|found| Rejection::Method { found, wanted: wanted() })?;
    // Who was not asked may not choose what is believed: an old answer, where a responder knows better.
    let asked = request.certificates.iter().filter(|_| request.trust.asks_peer);
    let asked = asked.filter(|payload| payload.encoding == encoding::OCSP).take(MAX_CERTIFICATES);
    let source = &Brought { responses: asked.map(|payload| payload.data.as_slice()).collect(), source };
    let keys = keys(request, now, source)?;
    let mut rejection = None;
    for Candidate { key, certificate } in keys {
        match check(request, &proof, &key) {
            Ok(scheme) => return Ok(Proven::Signature { scheme, key: key.kind(), certificate }),
            Err(why) => _ = rejection.get_or_insert(why),
        }
    }
    Err(Box::new(rejection.unwrap_or_else(|| Rejection::NoCertificate { id: request.id.clone() })))
}

/// A key that may have signed.
struct Candidate {
    key: PublicKey,
    certificate: Option<Box<CertificateName>>,
}

impl From<&Certificate> for Candidate {
    fn from(certificate: &Certificate) -> Self {
        Self { key: certificate.key().clone(), certificate: Some(Box::new(certificate.into())) }
    }
}

impl From<PublicKey> for Candidate {
    fn from(key: PublicKey) -> Self {
        Self { key, certificate: None }
    }
}

/// How it was signed.
fn check(request: &VerifyRequest, proof: &Proof, key: &PublicKey) -> Result<Scheme, Rejection> {
    let kind = key.kind();
    if !proof.fits(kind) {
        let found = format!("{}, but its key is {kind}", schemes(&proof.schemes));
        return Err(Rejection::Method { found, wanted: format!("a signature of an {kind} key") });
    }
    let signed = proof.schemes.iter().find(|scheme| key.verify(**scheme, &request.octets, &proof.signature));
    let constraint = &request.trust.constraint;
    let refused = |scheme: &Scheme| {
        let found = format!("{scheme} by an {kind} key");
        let wanted = match scheme.hash() {
            HashAlgorithm::Sha1 => "SHA2-256 or better; `sha1` has to be named in remote.auth".to_owned(),
            _ => format!("remote.auth is {constraint}"),
        };
        Rejection::Hash { found, wanted }
    };
    match (signed, proof.schemes.as_slice()) {
        (Some(scheme), _) if constraint.allows(kind, *scheme) => Ok(*scheme),
        (Some(scheme), _) => Err(refused(scheme)),
        // A scheme that is never accepted, however good the signature.
        (None, [scheme]) if !constraint.allows(kind, *scheme) => Err(refused(scheme)),
        (None, _) => Err(Rejection::Signature { found: schemes(&proof.schemes), key: kind }),
    }
}

fn schemes(schemes: &[Scheme]) -> String {
    match schemes {
        [scheme] => scheme.to_string(),
        _ => "RSA PKCS#1".to_owned(),
    }
}

/// The keys, each certified for the identity or accepted as it is, one of which must have signed.
fn keys(
    request: &VerifyRequest,
    now: UnixTime,
    source: &dyn RevocationSource,
) -> Result<Vec<Candidate>, Rejection> {
    let mut certificates = request.certificates.iter().filter(|payload| payload.encoding != encoding::OCSP);
    let Some(first) = certificates.next() else { return known_keys(request, now, source) };
    match first.encoding {
        encoding::X509_SIGNATURE => {
            // RFC 7296 §3.6: the first is that of the key that signs.
            let leaf = Certificate::from_der(&first.data)
                .map_err(|error| Rejection::Unusable { why: error.to_string() })?;
            let further = certificates.filter(|payload| payload.encoding == encoding::X509_SIGNATURE);
            let sent = further.map(|payload| payload.data.as_slice());
            accepted(&request.trust, &leaf, sent, now, source)?;
            // A key that is accepted as it is needs no certificate, whatever that says.
            if !request.trust.public_keys.contains(leaf.key()) {
                certified(&leaf, &request.id)?;
            }
            Ok(vec![Candidate::from(&leaf)])
        }
        encoding::RAW_PUBLIC_KEY => {
            let key = PublicKey::from_spki(&first.data)
                .map_err(|error| Rejection::Unusable { why: error.to_string() })?;
            if !request.trust.public_keys.contains(&key) {
                return Err(Rejection::KeyNotPinned { found: key.kind() });
            }
            Ok(vec![key.into()])
        }
        encoding::HASH_AND_URL_CERTIFICATE | encoding::HASH_AND_URL_BUNDLE => {
            Err(Rejection::Encoding { found: "the hash and URL of a certificate".to_owned() })
        }
        other => Err(Rejection::Encoding { found: format!("a certificate of encoding {other}") }),
    }
}

/// The peer sent none: what is configured for it.
fn known_keys(
    request: &VerifyRequest,
    now: UnixTime,
    source: &dyn RevocationSource,
) -> Result<Vec<Candidate>, Rejection> {
    let mut keys: Vec<Candidate> = request.trust.public_keys.iter().map(|key| key.clone().into()).collect();
    let mut unusable = None;
    for certificate in request.trust.certificates.iter().filter(|known| known.contains(&request.id)) {
        match accepted(&request.trust, certificate, [], now, source) {
            Ok(()) => keys.push(certificate.as_ref().into()),
            // An old one may lie beside its successor.
            Err(rejection) => _ = unusable.get_or_insert(rejection),
        }
    }
    match unusable {
        Some(rejection) if keys.is_empty() => Err(rejection),
        _ => Ok(keys),
    }
}

/// Whether a certificate is one that we accept, whoever it is for. `further`: certificates in DER that came with it.
pub(super) fn accepted<'d>(
    trust: &Trust,
    leaf: &Certificate,
    further: impl IntoIterator<Item = &'d [u8]>,
    now: UnixTime,
    source: &dyn RevocationSource,
) -> Result<(), Rejection> {
    if trust.public_keys.contains(leaf.key()) {
        // The key is accepted as it is; what else the certificate says does not matter.
        return Ok(());
    }
    let sent = further.into_iter().take(MAX_CERTIFICATES);
    // What cannot be read cannot help, but need not be needed.
    let sent: Vec<Certificate> = sent.filter_map(|der| Certificate::from_der(der).ok()).collect();
    let intermediates: Vec<&Certificate> =
        sent.iter().chain(trust.intermediates.iter().map(AsRef::as_ref)).collect();
    let validation = Validation {
        authorities: &trust.authorities,
        intermediates: &intermediates,
        constraint: &trust.constraint,
        revocation: trust.revocation,
        status_sources: &trust.status_sources,
        source,
        now,
    };
    if trust.certificates.is_empty() {
        if trust.authorities.is_empty() && !trust.public_keys.is_empty() {
            return Err(Rejection::KeyNotPinned { found: leaf.key().kind() });
        }
        validation.validate(leaf)
    } else if trust.certificates.iter().any(|known| known.as_ref() == leaf) {
        validation.check_leaf(leaf)
    } else {
        Err(Rejection::NotPinned { subject: leaf.subject().clone() })
    }
}

/// Whether a certificate is for an identity.
pub(super) fn certified(leaf: &Certificate, id: &Identity) -> Result<(), Rejection> {
    if leaf.contains(id) {
        return Ok(());
    }
    Err(Rejection::IdNotInCertificate { id: id.clone(), names: names_of(leaf) })
}

/// Whom a certificate is for, in words.
pub(super) fn names_of(leaf: &Certificate) -> String {
    let names: Vec<String> = leaf.identities().iter().map(|id| format!("`{id}`")).collect();
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}
