//! What both ends prove themselves with: one secret for all, or a certificate for each, of one CA.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use portcullis_ike::auth::{Certificate, Constraint, Credential, PrivateKey, Trust};
use portcullis_ike::config::{LocalMethod, RemoteMethod};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};

use super::client::{RESPONDER, name};

/// How both ends authenticate.
#[derive(Debug)]
pub(crate) enum Credentials {
    /// By pre-shared key.
    Secret,
    /// By ECDSA on P-256.
    Certificates(Box<Authority>),
}

/// A CA.
#[derive(Debug)]
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
    certificate: Arc<Certificate>,
}

impl Authority {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Bench Root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let root = params.self_signed(&key)?;
        let certificate = Arc::new(Certificate::from_der(root.der())?);
        Ok(Self { params, key, pem: root.pem(), certificate })
    }

    /// A key, and its certificate.
    fn issue(&self, name: &str) -> anyhow::Result<(KeyPair, rcgen::Certificate)> {
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key))?;
        Ok((key, certificate))
    }
}

impl Credentials {
    /// Puts the responder's files where swanctl and we look for them.
    pub(crate) fn enroll(&self, directory: &Path) -> anyhow::Result<()> {
        let Self::Certificates(authority) = self else { return Ok(()) };
        let (key, certificate) = authority.issue(RESPONDER)?;
        for (file, content) in [
            ("x509/own.pem", certificate.pem()),
            ("x509ca/root.pem", authority.pem.clone()),
            ("private/own.pem", key.serialize_pem()),
        ] {
            let path = directory.join(file);
            let parent = path.parent().context("a file in a directory")?;
            fs::create_dir_all(parent)?;
            fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
            // Ours wants keys to be kept as they should be.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        }
        Ok(())
    }

    /// A client's side.
    pub(crate) fn of_client(&self, number: u32) -> anyhow::Result<(LocalMethod, RemoteMethod)> {
        let Self::Certificates(authority) = self else { return Ok((LocalMethod::Psk, RemoteMethod::Psk)) };
        let (key, certificate) = authority.issue(&name(number))?;
        let key = PrivateKey::from_der(&key.serialize_der())?;
        let certificate = Arc::new(Certificate::from_der(certificate.der())?);
        let credential = Credential::certified(key, certificate, &[Arc::clone(&authority.certificate)])?;
        let local = LocalMethod::Pubkey {
            credentials: vec![Arc::new(credential)],
            constraint: Constraint::default(),
        };
        let trust = Trust { authorities: vec![Arc::clone(&authority.certificate)], ..Trust::default() };
        Ok((local, RemoteMethod::Pubkey(Arc::new(trust))))
    }

    /// In the names of cases.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Secret => "psk-x25519",
            Self::Certificates(_) => "ecdsa-x25519",
        }
    }

    /// A responder's `auth`, ours and the clients', in its own words.
    pub(crate) fn pick<'a>(&self, secret: &'a str, certificates: &'a str) -> &'a str {
        match self {
            Self::Secret => secret,
            Self::Certificates(_) => certificates,
        }
    }
}
