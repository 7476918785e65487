//! A public key infrastructure for tests, made by rcgen on the spot, and the trials of [`super::verify`].

mod certificates;
mod ocsp;
mod proofs;
mod random;

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName as RcgenName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams,
    SanType, SerialNumber, SignatureAlgorithm, date_time_ymd,
};

use super::*;
use crate::identity::Identity;

/// 2030-01-01, when everything happens.
pub(crate) const NOW: UnixTime = UnixTime(1_893_456_000);

/// A CA.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pub(crate) certificate: Arc<Certificate>,
}

/// An end entity.
pub(crate) struct Entity {
    pub(crate) certificate: Arc<Certificate>,
    key: KeyPair,
}

/// Changes a certificate that is about to be made.
type Change = fn(&mut CertificateParams);

pub(crate) fn unchanged(_: &mut CertificateParams) {}

fn read(certificate: &rcgen::Certificate) -> Arc<Certificate> {
    Arc::new(Certificate::from_der(certificate.der()).unwrap())
}

fn name(common_name: &str) -> RcgenName {
    let mut name = RcgenName::new();
    name.push(DnType::CountryName, "CH");
    name.push(DnType::OrganizationName, "Acme");
    name.push(DnType::CommonName, common_name);
    name
}

fn authority_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

impl Authority {
    /// A CA that has signed itself.
    pub(crate) fn root(common_name: &str, change: Change) -> Self {
        let mut params = authority_params(common_name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = read(&params.self_signed(&key).unwrap());
        Self { params, key, certificate }
    }

    /// A CA that this one has certified.
    pub(crate) fn below(&self, common_name: &str, change: Change) -> Self {
        let mut params = authority_params(common_name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = read(&params.signed_by(&key, &self.issuer()).unwrap());
        Self { params, key, certificate }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// A certificate for `common_name` with that also as its dNSName.
    pub(crate) fn issue(&self, common_name: &str, change: Change) -> Entity {
        self.issue_for(&rcgen::PKCS_ECDSA_P256_SHA256, common_name, change)
    }

    /// As [`Authority::issue`], for a key of a certain kind.
    pub(crate) fn issue_for(
        &self,
        algorithm: &'static SignatureAlgorithm,
        common_name: &str,
        change: Change,
    ) -> Entity {
        let mut params = CertificateParams::new([common_name.to_owned()]).unwrap();
        params.distinguished_name = name(common_name);
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = read(&params.signed_by(&key, &self.issuer()).unwrap());
        Entity { certificate, key }
    }

    /// A CRL with these certificates in it, valid through 2030.
    pub(crate) fn crl(
        &self,
        revoked: &[&Certificate],
        change: fn(&mut CertificateRevocationListParams),
    ) -> Arc<Crl> {
        Arc::new(Crl::from_der(&self.crl_der(revoked, change)).unwrap())
    }

    /// As [`Authority::crl`], in DER.
    fn crl_der(&self, revoked: &[&Certificate], change: fn(&mut CertificateRevocationListParams)) -> Vec<u8> {
        let entry = |certificate: &&Certificate| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&certificate.serial),
            revocation_time: date_time_ymd(2029, 6, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let mut params = CertificateRevocationListParams {
            this_update: date_time_ymd(2029, 12, 30),
            next_update: date_time_ymd(2030, 12, 31),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut params);
        params.signed_by(&self.issuer()).unwrap().der().to_vec()
    }
}

impl Entity {
    /// Its private key.
    pub(crate) fn private_key(&self) -> PrivateKey {
        PrivateKey::from_pkcs8(self.key.serialized_der()).unwrap()
    }

    /// As its own credential, with the chain above it.
    pub(crate) fn credential(&self, pool: &[&Authority]) -> Arc<Credential> {
        let pool: Vec<_> = pool.iter().map(|authority| Arc::clone(&authority.certificate)).collect();
        Arc::new(Credential::certified(self.private_key(), Arc::clone(&self.certificate), &pool).unwrap())
    }

    /// A proof of being `id`, for somebody who trusts `trust`: its certificate and those of `chain`, signed as it
    /// would sign for ourselves.
    pub(crate) fn proof(&self, id: &str, trust: Trust, chain: &[&Authority]) -> VerifyRequest {
        let credential = self.credential(chain);
        let scheme = credential.choose(&Constraint::default(), &HashAlgorithm::ANNOUNCED).unwrap();
        self.proof_by(scheme, id, trust, chain)
    }

    /// As [`Entity::proof`], signed in a certain way.
    pub(crate) fn proof_by(
        &self,
        scheme: AuthScheme,
        id: &str,
        trust: Trust,
        chain: &[&Authority],
    ) -> VerifyRequest {
        let octets = b"what both ends know".to_vec();
        let credential = self.credential(chain);
        let sent = std::iter::once(&self.certificate).chain(chain.iter().map(|above| &above.certificate));
        let x509 =
            |certificate: &Arc<Certificate>| CertPayload { encoding: 4, data: certificate.der().to_vec() };
        let certificates = sent.map(x509).collect();
        let request = SignRequest { credential, scheme, octets: octets.clone(), wants_status: false };
        let auth = sign(&request).unwrap();
        VerifyRequest {
            trust: Arc::new(trust),
            id: id.parse::<Identity>().unwrap(),
            certificates,
            method: scheme.method(),
            auth,
            octets,
        }
    }
}

/// Trust in one CA.
pub(crate) fn trust(authority: &Authority) -> Trust {
    Trust { authorities: vec![Arc::clone(&authority.certificate)], ..Trust::default() }
}

/// What becomes of a proof without any CRL.
fn judge(request: &VerifyRequest) -> Result<(), Box<Rejection>> {
    verify(request, NOW, &Vec::new())
}

/// The code and the words of a rejection.
#[track_caller]
/// Whether a proof is good.
fn verify(
    request: &VerifyRequest,
    now: UnixTime,
    source: &dyn RevocationSource,
) -> Result<(), Box<Rejection>> {
    super::verify(request, now, source).map(drop)
}

fn rejected(result: Result<(), Box<Rejection>>, code: &str, words: &[&str]) {
    let rejection = result.expect_err("this proof must not be accepted");
    let text = rejection.to_string();
    assert_eq!(rejection.reason().code(), code, "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

/// One more subjectAltName.
fn mail(params: &mut CertificateParams) {
    params.subject_alt_names.push(SanType::Rfc822Name("admin@example.org".try_into().unwrap()));
    params.subject_alt_names.push(SanType::IpAddress("192.0.2.7".parse().unwrap()));
    params.subject_alt_names.push(SanType::IpAddress("2001:db8::7".parse().unwrap()));
}
