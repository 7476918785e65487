//! Certificates for both ends of each case, and what is wrong with some of them.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use portcullis_lab::Host;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    RevokedCertParams, SerialNumber, date_time_ymd,
};

use crate::cases::{Auth, Case, Peer};

/// What is wrong with a certificate of the peer's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    OtherCa,
    Expired,
    NotYetValid,
    Revoked,
    CodeSigning,
    /// Nothing, but it does not fit into one packet.
    Large,
}

struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// A certificate and its key.
    fn issue(
        &self,
        name: &str,
        serial: u64,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (String, String) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        (params.signed_by(&key, &self.issuer()).unwrap().pem(), key.serialize_pem())
    }

    fn crl(&self, serials: &[u64]) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer()).unwrap().pem().unwrap()
    }
}

/// Both CAs, and where the files of the peers lie.
struct Pki {
    root: Authority,
    other: Authority,
    them: PathBuf,
    odd: PathBuf,
}

impl Pki {
    /// Where the peer of a case has its files.
    fn dir(&self, case: &Case) -> &Path {
        if case.peer == Peer::Odd { &self.odd } else { &self.them }
    }
}

thread_local! {
    static PKI: RefCell<Option<Pki>> = const { RefCell::new(None) };
}

fn put(dir: &Path, name: &str, content: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Many names make a certificate that has to be cut into fragments.
fn swell(params: &mut CertificateParams) {
    for n in 0..60 {
        let name = format!("a-name-that-makes-the-certificate-longer-{n}.example");
        params.subject_alt_names.push(rcgen::SanType::DnsName(name.try_into().unwrap()));
    }
}

/// Gives both ends of a case what they need.
pub(crate) fn enroll(us: &Host, them: &Host, odd: &Host, case: &Case) {
    if case.auth != Auth::Certificate {
        return;
    }
    PKI.with_borrow_mut(|pki| {
        let pki = pki.get_or_insert_with(|| begin(us, them, odd));
        let n = case.number;
        let serial = u64::from(n) + 100;
        let name = format!("b{n}.example");
        let authority = if case.flaw == Flaw::OtherCa { &pki.other } else { &pki.root };
        let (certificate, key) = authority.issue(&name, serial, |params| match case.flaw {
            Flaw::Expired => {
                (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1))
            }
            Flaw::NotYetValid => {
                (params.not_before, params.not_after) = (date_time_ymd(2090, 1, 1), date_time_ymd(2099, 1, 1))
            }
            Flaw::CodeSigning => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning],
            Flaw::Large => swell(params),
            Flaw::None | Flaw::OtherCa | Flaw::Revoked => {}
        });
        if case.flaw == Flaw::Revoked {
            put(us.dir(), "x509crl/root.crl", &pki.root.crl(&[serial]));
        }
        put(us.dir(), &format!("x509/peer{n}.pem"), &certificate);
        let (pinned, _) = pki.root.issue(&name, serial + 100, |_| {});
        put(us.dir(), &format!("x509/pinned{n}.pem"), &pinned);
        let dir = pki.dir(case);
        put(dir, &format!("x509/own{n}.pem"), &certificate);
        put(dir, &format!("private/own{n}.pem"), &key);
    });
}

/// Gives the peer of a case a certificate that nothing is wrong with.
pub(crate) fn renew(case: &Case) {
    PKI.with_borrow(|pki| {
        let pki = pki.as_ref().unwrap();
        let n = case.number;
        let (certificate, key) = pki.root.issue(&format!("b{n}.example"), u64::from(n) + 1000, |_| {});
        let dir = pki.dir(case);
        put(dir, &format!("x509/own{n}.pem"), &certificate);
        put(dir, &format!("private/own{n}.pem"), &key);
    });
}

fn begin(us: &Host, them: &Host, odd: &Host) -> Pki {
    let (root, other) = (Authority::new("Lab Root"), Authority::new("Other Root"));
    for host in [us, them, odd] {
        put(host.dir(), "x509ca/root.pem", &root.pem);
        put(host.dir(), "x509ca/other.pem", &other.pem);
    }
    for (file, serial, large) in [("own", 1, false), ("large", 2, true)] {
        let (certificate, key) = root.issue("a.example", serial, |params| {
            if large {
                swell(params);
            }
        });
        put(us.dir(), &format!("x509/{file}.pem"), &certificate);
        put(us.dir(), &format!("private/{file}.pem"), &key);
    }
    Pki { root, other, them: them.dir().to_owned(), odd: odd.dir().to_owned() }
}
