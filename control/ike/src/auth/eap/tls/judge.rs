//! Certificates and signatures of TLS: the other end's are judged as IKE's are, ours are made with the same credentials.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, danger};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureAlgorithm,
    SignatureScheme,
};

use super::Circumstances;
use crate::auth::eap::Rejection;
use crate::auth::peer::{accepted, names_of};
use crate::auth::{self, Certificate, Credential, Curve, HashAlgorithm, KeyKind, Scheme, Trust};
use crate::config::{Identity, IdentityMatch};

/// Signatures, the best first. ECDSA's are those of each curve's own hash in TLS 1.3; in TLS 1.2 any hash goes with any curve.
const SCHEMES: [(SignatureScheme, Scheme); 11] = [
    (SignatureScheme::ED25519, Scheme::Ed25519),
    (SignatureScheme::ED448, Scheme::Ed448),
    (SignatureScheme::ECDSA_NISTP256_SHA256, Scheme::Ecdsa(HashAlgorithm::Sha256)),
    (SignatureScheme::ECDSA_NISTP384_SHA384, Scheme::Ecdsa(HashAlgorithm::Sha384)),
    (SignatureScheme::ECDSA_NISTP521_SHA512, Scheme::Ecdsa(HashAlgorithm::Sha512)),
    (SignatureScheme::RSA_PSS_SHA256, Scheme::RsaPss(HashAlgorithm::Sha256)),
    (SignatureScheme::RSA_PSS_SHA384, Scheme::RsaPss(HashAlgorithm::Sha384)),
    (SignatureScheme::RSA_PSS_SHA512, Scheme::RsaPss(HashAlgorithm::Sha512)),
    (SignatureScheme::RSA_PKCS1_SHA256, Scheme::RsaPkcs1(HashAlgorithm::Sha256)),
    (SignatureScheme::RSA_PKCS1_SHA384, Scheme::RsaPkcs1(HashAlgorithm::Sha384)),
    (SignatureScheme::RSA_PKCS1_SHA512, Scheme::RsaPkcs1(HashAlgorithm::Sha512)),
];

/// Whom the other end's certificate has to be for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::auth::eap) enum Claim {
    /// The one that it says it is.
    Named(Identity),
    /// It does not say: anyone of these.
    OneOf(IdentityMatch),
}

/// Judges the other end's certificate, and remembers what it found.
pub(super) struct Judge {
    trust: Arc<Trust>,
    claim: Claim,
    hints: Vec<DistinguishedName>,
    /// Only while a step is taken.
    circumstances: Mutex<Option<Circumstances>>,
    found: Mutex<Option<Result<Identity, Rejection>>>,
}

impl Judge {
    pub(super) fn new(trust: Arc<Trust>, claim: Claim) -> Self {
        let subjects = trust.authorities.iter().map(|authority| authority.subject().der().to_vec());
        let hints = subjects.map(DistinguishedName::from).collect();
        Self { trust, claim, hints, circumstances: Mutex::default(), found: Mutex::default() }
    }

    /// What certificates are judged by from now on.
    pub(super) fn set(&self, circumstances: Option<Circumstances>) {
        *lock(&self.circumstances) = circumstances;
    }

    /// Who the other end is, or why it is nobody; `None` before its certificate came.
    pub(super) fn found(&self) -> Option<Result<Identity, Rejection>> {
        lock(&self.found).clone()
    }

    fn judge(&self, leaf: &CertificateDer<'_>, further: &[CertificateDer<'_>]) -> Result<(), Error> {
        let judged = self.identify(leaf, further);
        let error = judged.as_ref().err().map(alert_for);
        *lock(&self.found) = Some(judged);
        error.map_or(Ok(()), |error| Err(Error::InvalidCertificate(error)))
    }

    fn identify(
        &self,
        leaf: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
    ) -> Result<Identity, Rejection> {
        let Some(Circumstances { now, source }) = lock(&self.circumstances).clone() else {
            return Err(Rejection::Malformed { what: "a certificate when none was awaited".to_owned() });
        };
        let leaf = Certificate::from_der(leaf)
            .map_err(|error| auth::Rejection::Unusable { why: error.to_string() })?;
        accepted(&self.trust, &leaf, further.iter().map(AsRef::as_ref), now, source.as_ref())?;
        match &self.claim {
            Claim::Named(id) if leaf.contains(id) => Ok(id.clone()),
            Claim::Named(id) => {
                Err(auth::Rejection::IdNotInCertificate { id: id.clone(), names: names_of(&leaf) }.into())
            }
            Claim::OneOf(IdentityMatch::Exactly(id)) if leaf.contains(id) => Ok(id.clone()),
            Claim::OneOf(wanted) => {
                let found = leaf.identities().into_iter().find(|id| wanted.accepts(id));
                found.ok_or_else(|| Rejection::OtherCertificate {
                    names: names_of(&leaf),
                    wanted: Box::new(wanted.clone()),
                })
            }
        }
    }

    fn verify_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
        is_tls13: bool,
    ) -> Result<HandshakeSignatureValid, Error> {
        let incompatible = Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon);
        let bad = |error| Error::InvalidCertificate(error);
        let key = Certificate::from_der(certificate).map_err(|_| bad(CertificateError::BadEncoding))?;
        let key = key.key();
        let scheme = SCHEMES.iter().find(|(scheme, _)| *scheme == signed.scheme).map(|(_, scheme)| *scheme);
        let scheme = match (scheme, key.kind()) {
            // RFC 8446 §4.2.3.
            (Some(Scheme::RsaPkcs1(_)), _) if is_tls13 => None,
            (Some(Scheme::Ecdsa(hash)), KeyKind::Ecdsa(curve)) if is_tls13 && hash != curve.hash() => None,
            (scheme, _) => scheme,
        };
        let scheme = scheme.ok_or(incompatible)?;
        if !self.trust.constraint.allows(key.kind(), scheme) {
            let found = format!("{scheme} by an {} key", key.kind());
            let wanted = self.trust.constraint.to_string();
            *lock(&self.found) = Some(Err(auth::Rejection::Hash { found, wanted }.into()));
            return Err(bad(CertificateError::ApplicationVerificationFailure));
        }
        match key.verify(scheme, message, signed.signature()) {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => {
                let (found, key) = (scheme.to_string(), key.kind());
                *lock(&self.found) = Some(Err(auth::Rejection::Signature { found, key }.into()));
                Err(bad(CertificateError::BadSignature))
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("claim", &self.claim).finish_non_exhaustive()
    }
}

/// What the other end is told by an alert (RFC 8446 §6.2).
fn alert_for(rejection: &Rejection) -> CertificateError {
    let Rejection::Certificate { why } = rejection else { return CertificateError::NotValidForName };
    match **why {
        auth::Rejection::Expired { .. } => CertificateError::Expired,
        auth::Rejection::NotYetValid { .. } => CertificateError::NotValidYet,
        auth::Rejection::Revoked { .. } => CertificateError::Revoked,
        auth::Rejection::StatusUnknown { .. } => CertificateError::UnknownRevocationStatus,
        auth::Rejection::NoIssuer { .. } | auth::Rejection::OtherIssuer { .. } => {
            CertificateError::UnknownIssuer
        }
        auth::Rejection::IdNotInCertificate { .. } => CertificateError::NotValidForName,
        auth::Rejection::Unusable { .. } => CertificateError::BadEncoding,
        auth::Rejection::NotAllowed { .. } => CertificateError::InvalidPurpose,
        _ => CertificateError::ApplicationVerificationFailure,
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf, further).map(|()| danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signed, false)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signed, true)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.iter().map(|(scheme, _)| *scheme).collect()
    }
}

impl ClientCertVerifier for Judge {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        further: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(leaf, further).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signed, false)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, certificate, signed, true)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.iter().map(|(scheme, _)| *scheme).collect()
    }
}

/// What we prove ourselves with.
#[derive(Debug)]
pub(super) struct Own(Vec<Arc<Credential>>);

impl Own {
    /// Those that have a certificate.
    pub(super) fn new(credentials: &[Arc<Credential>]) -> Self {
        Self(credentials.iter().filter(|own| own.certificate().is_some()).cloned().collect())
    }

    /// One that can sign so, and that one of these authorities vouches for if any is so.
    fn choose(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let able = |own: &&Arc<Credential>| choose_scheme(own, schemes).is_some();
        let hinted = |own: &&Arc<Credential>| {
            let chain = own.certificate().into_iter().chain(own.intermediates().map(AsRef::as_ref));
            chain.into_iter().any(|certificate| hints.contains(&certificate.issuer().der()))
        };
        let able: Vec<_> = self.0.iter().filter(able).collect();
        let chosen = able.iter().copied().find(hinted).or_else(|| able.first().copied())?;
        let chain = chosen.certificate().into_iter().chain(chosen.intermediates().map(AsRef::as_ref));
        let chain = chain.map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect();
        Some(Arc::new(CertifiedKey::new(chain, Arc::new(Key(Arc::clone(chosen))))))
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.choose(hints, schemes)
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(&[], hello.signature_schemes())
    }
}

/// How a credential signs for somebody who takes these.
fn choose_scheme(own: &Credential, offered: &[SignatureScheme]) -> Option<(SignatureScheme, Scheme)> {
    let fits = |scheme: Scheme| match (own.key().public().kind(), scheme) {
        (KeyKind::Ecdsa(curve), Scheme::Ecdsa(hash)) => hash == Curve::hash(curve),
        (kind, scheme) => kind.fits(scheme),
    };
    SCHEMES.into_iter().find(|(theirs, ours)| fits(*ours) && offered.contains(theirs))
}

/// The key of a credential.
#[derive(Debug)]
struct Key(Arc<Credential>);

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let (named, scheme) = choose_scheme(&self.0, offered)?;
        Some(Box::new(Pen { own: Arc::clone(&self.0), named, scheme }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.0.key().public().kind() {
            KeyKind::Rsa(_) => SignatureAlgorithm::RSA,
            KeyKind::Ecdsa(_) => SignatureAlgorithm::ECDSA,
            KeyKind::Ed25519 => SignatureAlgorithm::ED25519,
            KeyKind::Ed448 => SignatureAlgorithm::ED448,
        }
    }
}

/// A key, and how it signs.
#[derive(Debug)]
struct Pen {
    own: Arc<Credential>,
    named: SignatureScheme,
    scheme: Scheme,
}

impl Signer for Pen {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.own.key().sign(self.scheme, message);
        signature.ok_or_else(|| Error::General("our private key refused to sign".to_owned()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.named
    }
}
