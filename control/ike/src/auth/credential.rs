//! What we prove ourselves with, and how: a private key, its certificate with the chain above it, the AUTH method
//! that the peer can verify.

use std::sync::Arc;

use super::certificate::{Certificate, UnixTime};
use super::constraint::Constraint;
use super::key::{KeyKind, PrivateKey};
use super::method::AuthScheme;
use super::revocation::{self, RevocationSource, StatusSource};
use super::scheme::{HashAlgorithm, Scheme};

/// Certificates of a chain that are followed upwards.
const MAX_CHAIN: usize = 8;

/// A key of ours and what certifies it.
#[derive(Debug)]
pub struct Credential {
    key: PrivateKey,
    certificate: Option<Arc<Certificate>>,
    /// Every authority above the certificate, in order.
    chain: Vec<Arc<Certificate>>,
    /// Where the status of these certificates is to be had, besides what they say themselves.
    status_sources: Arc<[StatusSource]>,
}

/// A certificate that is for another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the certificate is for another key than the private key's")]
pub struct KeyMismatch;

impl Credential {
    /// A key with its certificate; the chain above it is found among `pool`.
    pub fn certified(
        key: PrivateKey,
        certificate: Arc<Certificate>,
        pool: &[Arc<Certificate>],
    ) -> Result<Self, KeyMismatch> {
        if key.public() != certificate.key() {
            return Err(KeyMismatch);
        }
        let mut chain: Vec<Arc<Certificate>> = Vec::new();
        let mut last = Arc::clone(&certificate);
        while !last.is_self_issued() && chain.len() < MAX_CHAIN {
            let issues = |above: &&Arc<Certificate>| {
                above.is_authority() && last.names_issuer(above) && last.is_signed_by(above.key())
            };
            let Some(above) = pool.iter().find(issues).cloned() else { break };
            chain.push(Arc::clone(&above));
            last = above;
        }
        Ok(Self { key, certificate: Some(certificate), chain, status_sources: Arc::default() })
    }

    /// With further places where the status of its certificates is to be had.
    pub fn with_status_sources(self, status_sources: Arc<[StatusSource]>) -> Self {
        Self { status_sources, ..self }
    }

    /// A key alone, whose public half the peer knows.
    pub fn raw(key: PrivateKey) -> Self {
        Self { key, certificate: None, chain: Vec::new(), status_sources: Arc::default() }
    }

    /// The certificate; `None` of a raw public key.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_deref()
    }

    /// What is sent along with the certificate, the nearest first: everything above it but a self-signed root.
    pub fn intermediates(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.chain.iter().filter(|above| !above.is_self_issued())
    }

    /// The key.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Whether one of these authorities, by the hashes of a CERTREQ, vouches for it.
    pub fn is_vouched_for_by(&self, hashes: &[[u8; 20]]) -> bool {
        self.chain.iter().any(|authority| hashes.contains(&authority.key().hash()))
    }

    /// How to sign for a peer that announced these hashes (SIGNATURE_HASH_ALGORITHMS; empty: none, so that it knows
    /// only the older methods). `Err` names what we could sign with.
    pub fn choose(&self, constraint: &Constraint, announced: &[HashAlgorithm]) -> Result<AuthScheme, String> {
        let kind = self.key.public().kind();
        let candidates = candidates(kind, constraint);
        if announced.is_empty() {
            let older = candidates.iter().find_map(|scheme| match (kind, scheme) {
                (KeyKind::Rsa(_), Scheme::RsaPkcs1(hash)) => Some(AuthScheme::Rsa(*hash)),
                (KeyKind::Ecdsa(curve), _) => Some(AuthScheme::Ecdsa(curve)),
                _ => None,
            });
            return older.ok_or_else(|| format!("{} (RFC 7427)", list(&candidates, kind)));
        }
        let common = candidates.iter().find(|scheme| announced.contains(&scheme.hash()));
        match (common, kind) {
            (Some(scheme), _) => Ok(AuthScheme::Digital(*scheme)),
            // These need no announcement.
            (None, KeyKind::Ecdsa(curve)) if !candidates.is_empty() => Ok(AuthScheme::Ecdsa(curve)),
            (None, _) => Err(list(&candidates, kind)),
        }
    }
}

impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        self.certificate == other.certificate
            && self.key.public() == other.key.public()
            && self.status_sources == other.status_sources
    }
}

impl Eq for Credential {}

fn list(candidates: &[Scheme], kind: KeyKind) -> String {
    let names: Vec<String> = candidates.iter().map(Scheme::to_string).collect();
    if names.is_empty() { format!("nothing that is allowed with an {kind} key") } else { names.join(" or ") }
}

/// What a key can sign with under a constraint, the best first: RSA with hashes of its strength, as strongSwan has
/// it, ECDSA with its curve's own.
fn candidates(kind: KeyKind, constraint: &Constraint) -> Vec<Scheme> {
    use HashAlgorithm::{Sha1, Sha256, Sha384, Sha512};
    let schemes: Vec<Scheme> =
        match kind {
            KeyKind::Rsa(bits) => {
                let by_strength = match bits {
                    0..=3072 => [Sha256, Sha384, Sha512],
                    3073..=7680 => [Sha384, Sha512, Sha256],
                    _ => [Sha512, Sha384, Sha256],
                };
                let named = constraint.hashes();
                let hashes = if named.is_empty() { &by_strength[..] } else { named };
                let hashes = hashes.iter().filter(|hash| **hash != Sha1 && **hash != HashAlgorithm::Identity);
                hashes
                    .map(|hash| {
                        if constraint.prefers_pss() { Scheme::RsaPss(*hash) } else { Scheme::RsaPkcs1(*hash) }
                    })
                    .collect()
            }
            KeyKind::Ecdsa(curve) => vec![Scheme::Ecdsa(curve.hash())],
            KeyKind::Ed25519 => vec![Scheme::Ed25519],
            KeyKind::Ed448 => vec![Scheme::Ed448],
        };
    schemes.into_iter().filter(|scheme| constraint.allows(kind, *scheme)).collect()
}

/// A signature to be made.
#[derive(Debug, Clone)]
pub struct SignRequest {
    /// With what.
    pub credential: Arc<Credential>,
    /// How.
    pub scheme: AuthScheme,
    /// What (RFC 7296 §2.15).
    pub octets: Vec<u8>,
    /// Whether the peer asks for the status of our certificates (RFC 4806).
    pub wants_status: bool,
}

/// A signature of ours, and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The data of an AUTH payload.
    pub auth: Vec<u8>,
    /// OCSP responses about the certificates that are sent, as far as they are to be had.
    pub statuses: Vec<Vec<u8>>,
}

impl SignRequest {
    /// Signs, and gets the status of our certificates where it is wanted; `None` if the key refuses. Takes up to milliseconds,
    /// and longer where `source` has to ask.
    pub fn perform(&self, now: UnixTime, source: &dyn RevocationSource) -> Option<Signature> {
        let auth = sign(self)?;
        let statuses = if self.wants_status { self.credential.statuses(now, source) } else { Vec::new() };
        Some(Signature { auth, statuses })
    }
}

impl Credential {
    fn statuses(&self, now: UnixTime, source: &dyn RevocationSource) -> Vec<Vec<u8>> {
        let certificates = self.certificate.iter().chain(&self.chain);
        let pairs = certificates.zip(&self.chain).filter(|(certificate, _)| !certificate.is_self_issued());
        let ask = |(certificate, issuer): (&Arc<Certificate>, &Arc<Certificate>)| {
            revocation::response(certificate, issuer, &self.status_sources, now, source)
        };
        pairs.filter_map(ask).collect()
    }
}

/// Makes the data of an AUTH payload; `None` if the key refuses. Takes up to milliseconds.
pub fn sign(request: &SignRequest) -> Option<Vec<u8>> {
    let signature = request.credential.key.sign(request.scheme.scheme(), &request.octets)?;
    request.scheme.encode(signature)
}
