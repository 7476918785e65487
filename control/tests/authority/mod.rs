//! A certificate authority for the tests, and the files of its certificates on lab hosts, by names that strongSwan and we
//! share.

#![expect(clippy::unwrap_used, reason = "without its certificates there is nothing to try")]
#![allow(dead_code, unreachable_pub, reason = "each test is a crate of its own, and uses some of it")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use portcullis_lab::Host;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationList, CertificateRevocationListParams,
    CrlDistributionPoint, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, SignatureAlgorithm, date_time_ymd,
};

/// A CA of our own.
pub struct Authority {
    /// What its own certificate says.
    pub params: CertificateParams,
    /// Its key.
    pub key: KeyPair,
    /// Its certificate.
    pub pem: String,
    /// Where its CRL is to be had, as its certificates say.
    pub crl_url: Option<String>,
    /// Where its OCSP responder is, as its certificates say.
    pub ocsp_url: Option<String>,
}

impl Authority {
    pub fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        params
    }

    pub fn root() -> Self {
        let (params, key) = (Self::params("Lab Root"), KeyPair::generate().unwrap());
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem, crl_url: None, ocsp_url: None }
    }

    pub fn below(&self, name: &str) -> Self {
        let (params, key) = (Self::params(name), KeyPair::generate().unwrap());
        let pem = params.signed_by(&key, &self.issuer()).unwrap().pem();
        Self { params, key, pem, crl_url: None, ocsp_url: None }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// Gives a host a key, a certificate for `name` and this CA's; the certificate's serial number is `serial`.
    pub fn enroll(&self, host: &Host, algorithm: &'static SignatureAlgorithm, name: &str, serial: u64) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CountryName, "CH");
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.crl_distribution_points =
            self.crl_url.iter().map(|url| CrlDistributionPoint { uris: vec![url.clone()] }).collect();
        params.custom_extensions = self.ocsp_url.iter().map(|url| responder_at(url)).collect();
        let key = KeyPair::generate_for(algorithm).unwrap();
        let pem = params.signed_by(&key, &self.issuer()).unwrap().pem();
        put(host, "x509/own.pem", &pem);
        put(host, "x509ca/root.pem", &self.pem);
        put(host, "private/own.pem", &key.serialize_pem());
        put(host, "pubkey/own.pub", &key.public_key_pem());
    }

    /// A CRL that lists one certificate, in PEM.
    pub fn crl(&self, serial: u64) -> String {
        self.revocation_list(serial).pem().unwrap()
    }

    /// The same in DER, as it goes by HTTP.
    pub fn crl_der(&self, serial: u64) -> Vec<u8> {
        self.revocation_list(serial).der().to_vec()
    }

    fn revocation_list(&self, serial: u64) -> CertificateRevocationList {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer()).unwrap()
    }
}

/// authorityInfoAccess with one OCSP responder.
fn responder_at(url: &str) -> CustomExtension {
    const ID_AD_OCSP: [u8; 10] = [6, 8, 0x2b, 6, 1, 5, 5, 7, 0x30, 1];
    let tlv = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
    let description = [&ID_AD_OCSP[..], &tlv(0x86, url.as_bytes())].concat();
    let content = tlv(0x30, &tlv(0x30, &description));
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], content)
}

/// Puts a file where only root may read it.
pub fn put(host: &Host, name: &str, content: &str) {
    let path = host.dir().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}
