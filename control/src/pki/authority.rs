//! The certificate authority: made, opened, and asked to issue, revoke and sign revocation lists.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevocationReason, RevokedCertParams, SerialNumber, SignatureAlgorithm,
};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use super::name::AltName;
use super::store::{Entry, Index, Pending, Revoked, Store};
use super::{PkiError, bundle};

/// Peers whose clocks are slow by less find a certificate valid at once.
const CLOCK_SLACK: Duration = Duration::minutes(5);
/// RFC 4945 §5.1.3.12: id-kp-ipsecIKE.
const IPSEC_IKE: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 17];
/// What Windows and macOS looked for before: iKEIntermediate.
const IKE_INTERMEDIATE: &[u64] = &[1, 3, 6, 1, 5, 5, 8, 2, 2];

/// A key's algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyKind {
    /// ECDSA with P-256 and SHA-256: every peer knows it.
    #[value(name = "ecdsa-p256")]
    EcdsaP256,
    /// ECDSA with P-384 and SHA-384.
    #[value(name = "ecdsa-p384")]
    EcdsaP384,
    /// Ed25519 (RFC 8420): strongSwan and libreswan know it, Windows and iOS do not.
    #[value(name = "ed25519")]
    Ed25519,
}

impl KeyKind {
    fn algorithm(self) -> &'static SignatureAlgorithm {
        match self {
            Self::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }
}

/// What an end does, which decides the extended key usages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Answers: a gateway.
    Server,
    /// Asks: a user or a branch office.
    Client,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }

    fn usages(self) -> Vec<ExtendedKeyUsagePurpose> {
        let ike = ExtendedKeyUsagePurpose::Other(IPSEC_IKE.to_vec());
        match self {
            // Windows and Apple's clients refuse a gateway that is no TLS server too.
            Self::Server => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ike,
                ExtendedKeyUsagePurpose::Other(IKE_INTERMEDIATE.to_vec()),
            ],
            Self::Client => vec![ExtendedKeyUsagePurpose::ClientAuth, ike],
        }
    }
}

/// A CA that is to be made.
#[derive(Debug, Clone)]
pub struct NewAuthority {
    /// Common name.
    pub name: String,
    /// Its key.
    pub key: KeyKind,
    /// Validity.
    pub days: u32,
    /// Validity of the first, empty, revocation list.
    pub crl_days: u32,
    /// Where peers will fetch the revocation list; written into every certificate.
    pub crl_url: Option<String>,
}

/// A certificate that is to be issued.
#[derive(Debug, Clone)]
pub struct Issue {
    /// What the end does.
    pub profile: Profile,
    /// Its names; the first is the common name as well, and what its files are called. Never empty.
    pub names: Vec<AltName>,
    /// Its key.
    pub key: KeyKind,
    /// Validity.
    pub days: u32,
    /// Whether a PKCS#12 bundle is wanted.
    pub bundle: bool,
    /// The file with the bundle's password; `None`: one is made up, and written beside the bundle.
    pub password_file: Option<PathBuf>,
    /// Whether files of that name may be replaced.
    pub replace: bool,
}

/// A file, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// What it is, and who may have it.
    pub what: String,
}

/// A certificate that was issued.
#[derive(Debug, Clone)]
pub struct Issued {
    /// What was written.
    pub files: Vec<Written>,
    /// What is on the list of the CA.
    pub entry: Entry,
    /// Certificates of that name that are still valid.
    pub former: Vec<Entry>,
}

/// Why a certificate is revoked (RFC 5280 §5.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Revocation {
    /// Not said.
    Unspecified,
    /// Somebody else has the private key, or may have it.
    KeyCompromise,
    /// The names are not the owner's any more.
    AffiliationChanged,
    /// There is a newer certificate.
    Superseded,
    /// The end is gone.
    CessationOfOperation,
    /// The owner may not do any more what the certificate allows.
    PrivilegeWithdrawn,
}

impl Revocation {
    const ALL: [(Self, &'static str, RevocationReason); 6] = [
        (Self::Unspecified, "unspecified", RevocationReason::Unspecified),
        (Self::KeyCompromise, "key-compromise", RevocationReason::KeyCompromise),
        (Self::AffiliationChanged, "affiliation-changed", RevocationReason::AffiliationChanged),
        (Self::Superseded, "superseded", RevocationReason::Superseded),
        (Self::CessationOfOperation, "cessation-of-operation", RevocationReason::CessationOfOperation),
        (Self::PrivilegeWithdrawn, "privilege-withdrawn", RevocationReason::PrivilegeWithdrawn),
    ];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(reason, ..)| *reason == self).map_or("unspecified", |(_, name, _)| name)
    }

    /// RFC 5280 §5.3.1: an unspecified reason is better left out.
    fn code(name: &str) -> Option<RevocationReason> {
        let code = Self::ALL.iter().find(|(_, known, _)| *known == name).map(|(.., code)| *code)?;
        (code != RevocationReason::Unspecified).then_some(code)
    }
}

/// An open CA.
pub struct Authority {
    store: Store,
    index: Index,
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
    not_after: OffsetDateTime,
}

impl Authority {
    /// Makes a CA, with an empty revocation list. `replace` forgets the one that was there, and everything that it
    /// issued.
    pub fn create(dir: &Path, new: &NewAuthority, replace: bool) -> Result<Vec<Written>, PkiError> {
        let store = Store::open(dir)?;
        let files = ["crt", "key", "crl"].map(|extension| store.authority(extension));
        if !replace {
            Store::must_be_new(&files)?;
        }
        let [certificate_path, key_path, crl_path] = files;
        let key = generate(new.key)?;
        let (not_before, not_after) = validity(new.days)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&new.name);
        params.not_before = not_before;
        params.not_after = not_after;
        params.serial_number = Some(random_serial()?);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(crypto("CA's certificate"))?;
        let pem = Zeroizing::new(key.serialize_pem());
        let issuer = Issuer::new(params, key);
        let mut index = Index { crl_url: new.crl_url.clone(), ..Index::default() };
        let crl = revocation_list(&issuer, &mut index, new.crl_days)?;
        let until = date(not_after);
        store.write(
            &[
                store.pending_index(&index)?,
                Pending { path: key_path.clone(), octets: pem.as_bytes().to_vec().into() },
                Pending { path: crl_path.clone(), octets: crl.into() },
                Pending { path: certificate_path.clone(), octets: certificate.pem().into_bytes().into() },
            ],
            replace,
        )?;
        let name = &new.name;
        Ok(vec![
            Written {
                path: certificate_path,
                what: format!("certificate of the CA `{name}`, valid until {until}; every peer needs it"),
            },
            Written {
                path: key_path,
                what: "its private key: whoever has it can be anyone; no gateway needs it".to_owned(),
            },
            Written { path: crl_path, what: "its revocation list (DER), empty yet".to_owned() },
        ])
    }

    /// Opens a CA.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        if !dir.is_dir() {
            return Err(PkiError::NoAuthority(dir.to_owned()));
        }
        let store = Store::open(dir)?;
        let path = store.authority("crt");
        let broken = |wanted, path: &Path, problem: &dyn std::fmt::Display| PkiError::Broken {
            path: path.to_owned(),
            wanted,
            problem: problem.to_string(),
        };
        const CERTIFICATE: &str = "a CA's certificate in PEM";
        let pem = store.read(&path)?;
        let (_, pem) =
            x509_parser::pem::parse_x509_pem(&pem).map_err(|error| broken(CERTIFICATE, &path, &error))?;
        let parsed = pem.parse_x509().map_err(|error| broken(CERTIFICATE, &path, &error))?;
        let not_after = parsed.validity().not_after.to_datetime();
        let key_path = store.authority("key");
        let key = Zeroizing::new(store.read(&key_path)?);
        let key = std::str::from_utf8(&key)
            .map_err(|error| broken("a private key in PEM", &key_path, &error))
            .and_then(|pem| {
                KeyPair::from_pem(pem).map_err(|error| broken("a private key in PEM", &key_path, &error))
            })?;
        if rcgen::PublicKeyData::subject_public_key_info(&key) != parsed.public_key().raw {
            let problem = "it belongs to another certificate";
            return Err(broken("the private key of this CA", &key_path, &problem));
        }
        let certificate = pem.contents.clone();
        let issuer = Issuer::from_ca_cert_der(&certificate.as_slice().into(), key)
            .map_err(|error| broken(CERTIFICATE, &path, &error))?;
        let index = store.index()?;
        Ok(Self { store, index, issuer, certificate, not_after })
    }

    /// Everything that was issued, in that order.
    pub fn issued(&self) -> &[Entry] {
        &self.index.issued
    }

    /// Issues a certificate with a new key.
    pub fn issue(&mut self, issue: &Issue) -> Result<Issued, PkiError> {
        let Some(name) = issue.names.first() else { return Err(PkiError::Unknown { wanted: String::new() }) };
        let stem = name.file_stem();
        let path = |extension: &str| self.store.of(&stem, extension);
        let (certificate_path, key_path) = (path("crt"), path("key"));
        let (bundle_path, password_path) = (path("p12"), path("p12.password"));
        let mut targets = vec![certificate_path.clone(), key_path.clone()];
        if issue.bundle {
            targets.push(bundle_path.clone());
        }
        if issue.bundle && issue.password_file.is_none() {
            targets.push(password_path.clone());
        }
        if !issue.replace {
            Store::must_be_new(&targets)?;
        }
        let key = generate(issue.key)?;
        let (certificate, entry) = self.sign(issue, &key)?;
        let pem = Zeroizing::new(key.serialize_pem());
        let mut pending = vec![
            Pending { path: key_path.clone(), octets: pem.as_bytes().to_vec().into() },
            Pending { path: certificate_path.clone(), octets: certificate.pem().into_bytes().into() },
        ];
        let what = |what: &str| format!("{what} of `{name}`");
        let mut files = vec![
            Written {
                path: certificate_path,
                what: format!(
                    "{}, serial {}, valid until {}",
                    what("certificate"),
                    entry.serial,
                    entry.not_after
                ),
            },
            Written { path: key_path, what: what("private key") },
        ];
        if issue.bundle {
            let (password, made_up) = match &issue.password_file {
                Some(file) => (read_password(file)?, false),
                None => (random_password()?, true),
            };
            let der = Zeroizing::new(key.serialize_der());
            let bundle = bundle::make(&stem, &der, certificate.der(), &self.certificate, &password)?;
            pending.push(Pending { path: bundle_path.clone(), octets: bundle.into() });
            files.push(Written { path: bundle_path, what: what("PKCS#12 bundle with key and CA") });
            if made_up {
                let octets = format!("{}\n", password.as_str()).into_bytes().into();
                pending.push(Pending { path: password_path.clone(), octets });
                files.push(Written {
                    path: password_path,
                    what: "the bundle's password; send it another way".to_owned(),
                });
            }
        }
        let now = OffsetDateTime::now_utc();
        let valid =
            |former: &&Entry| former.name == entry.name && former.revoked.is_none() && !expired(former, now);
        let former = self.index.issued.iter().filter(valid).cloned().collect();
        self.index.issued.push(entry.clone());
        // The list first: a certificate that is not on it could not be revoked.
        self.store.write(&[self.store.pending_index(&self.index)?], true)?;
        self.store.write(&pending, issue.replace)?;
        Ok(Issued { files, entry, former })
    }

    fn sign(&self, issue: &Issue, key: &KeyPair) -> Result<(Certificate, Entry), PkiError> {
        let (not_before, not_after) = validity(issue.days)?;
        let left = (self.not_after - OffsetDateTime::now_utc()).whole_days();
        if left < 1 {
            return Err(PkiError::AuthorityExpired(date(self.not_after)));
        }
        if not_after > self.not_after {
            let (wanted, authority) = (date(not_after), date(self.not_after));
            return Err(PkiError::OutlivesAuthority { wanted, authority, most: left });
        }
        let name = issue.names.first().map(ToString::to_string).unwrap_or_default();
        let serial = random_serial()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&name);
        params.not_before = not_before;
        params.not_after = not_after;
        params.subject_alt_names = issue.names.iter().map(AltName::san).collect::<Result<_, _>>()?;
        params.serial_number = Some(serial.clone());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = issue.profile.usages();
        params.use_authority_key_identifier_extension = true;
        let points = self.index.crl_url.iter().map(|url| CrlDistributionPoint { uris: vec![url.clone()] });
        params.crl_distribution_points = points.collect();
        let certificate = params.signed_by(key, &self.issuer).map_err(crypto("certificate"))?;
        let entry = Entry {
            serial: data_encoding::HEXLOWER.encode(&serial.to_bytes()),
            name,
            profile: issue.profile.name().to_owned(),
            not_after: date(not_after),
            revoked: None,
        };
        Ok((certificate, entry))
    }

    /// Revokes the certificate with that serial number, that name, or in that file, and signs a new revocation list.
    pub fn revoke(
        &mut self,
        wanted: &str,
        reason: Revocation,
        crl_days: u32,
    ) -> Result<(Entry, Written), PkiError> {
        let at = self.find(wanted)?;
        let now = date(OffsetDateTime::now_utc());
        let Some(entry) = self.index.issued.get_mut(at) else {
            return Err(PkiError::Unknown { wanted: wanted.to_owned() });
        };
        if let Some(revoked) = &entry.revoked {
            let (serial, at) = (entry.serial.clone(), revoked.at.clone());
            return Err(PkiError::AlreadyRevoked { serial, at });
        }
        entry.revoked = Some(Revoked { at: now, reason: reason.name().to_owned() });
        let entry = entry.clone();
        Ok((entry, self.sign_revocation_list(crl_days)?))
    }

    /// Signs a new revocation list, valid for so many days.
    pub fn sign_revocation_list(&mut self, days: u32) -> Result<Written, PkiError> {
        let crl = revocation_list(&self.issuer, &mut self.index, days)?;
        let path = self.store.authority("crl");
        // The number first: it must never be used twice (RFC 5280 §5.2.3).
        let files =
            [self.store.pending_index(&self.index)?, Pending { path: path.clone(), octets: crl.into() }];
        self.store.write(&files, true)?;
        let revoked = self.index.issued.iter().filter(|entry| entry.revoked.is_some()).count();
        let number = self.index.crl_number;
        Ok(Written {
            path,
            what: format!(
                "revocation list {number} (DER) with {revoked} certificates, valid for {days} days"
            ),
        })
    }

    /// Which of the issued certificates.
    fn find(&self, wanted: &str) -> Result<usize, PkiError> {
        let unknown = || PkiError::Unknown { wanted: wanted.to_owned() };
        let from_file = match std::fs::read(wanted) {
            Ok(octets) => {
                let parsed = x509_parser::pem::parse_x509_pem(&octets).ok();
                let serial = parsed.as_ref().and_then(|(_, pem)| {
                    Some(data_encoding::HEXLOWER.encode(pem.parse_x509().ok()?.raw_serial()))
                });
                Some(serial.ok_or_else(|| PkiError::Broken {
                    path: wanted.into(),
                    wanted: "a certificate in PEM",
                    problem: "it cannot be read as one".to_owned(),
                })?)
            }
            Err(_) => None,
        };
        let plain =
            |text: &str| text.to_ascii_lowercase().replace(':', "").trim_start_matches('0').to_owned();
        let serial = plain(from_file.as_deref().unwrap_or(wanted));
        if let Some(at) = self.index.issued.iter().position(|entry| plain(&entry.serial) == serial) {
            return Ok(at);
        }
        let named: Vec<(usize, &Entry)> =
            self.index.issued.iter().enumerate().filter(|(_, entry)| entry.name == wanted).collect();
        let live: Vec<&(usize, &Entry)> = named.iter().filter(|(_, entry)| entry.revoked.is_none()).collect();
        match live.as_slice() {
            [(at, _)] => Ok(*at),
            // The caller says when it was revoked.
            [] => named.last().map(|(at, _)| *at).ok_or_else(unknown),
            several => {
                let serials: Vec<&str> = several.iter().map(|(_, entry)| entry.serial.as_str()).collect();
                Err(PkiError::Ambiguous { wanted: wanted.to_owned(), serials: serials.join(", ") })
            }
        }
    }
}

/// The next one, in DER (RFC 5280 §5; what a distribution point must serve, §4.2.1.13).
fn revocation_list(issuer: &Issuer<'_, KeyPair>, index: &mut Index, days: u32) -> Result<Vec<u8>, PkiError> {
    let (_, next_update) = validity(days)?;
    index.crl_number += 1;
    let mut revoked_certs = Vec::new();
    for entry in &index.issued {
        let Some(revoked) = &entry.revoked else { continue };
        let (Ok(serial), Ok(at)) = (
            data_encoding::HEXLOWER.decode(entry.serial.as_bytes()),
            OffsetDateTime::parse(&revoked.at, &Rfc3339),
        ) else {
            let problem = format!("the list's entry {} cannot be read", entry.serial);
            return Err(PkiError::Crypto { what: "revocation list", problem });
        };
        revoked_certs.push(RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial),
            revocation_time: at,
            reason_code: Revocation::code(&revoked.reason),
            invalidity_date: None,
        });
    }
    let params = CertificateRevocationListParams {
        this_update: now(),
        next_update,
        crl_number: SerialNumber::from(index.crl_number),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let crl = params.signed_by(issuer).map_err(crypto("revocation list"))?;
    Ok(crl.der().to_vec())
}

fn crypto(what: &'static str) -> impl Fn(rcgen::Error) -> PkiError {
    move |error| PkiError::Crypto { what, problem: error.to_string() }
}

fn generate(kind: KeyKind) -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(kind.algorithm()).map_err(crypto("private key"))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

/// Certificates count whole seconds.
fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now)
}

fn validity(days: u32) -> Result<(OffsetDateTime, OffsetDateTime), PkiError> {
    if !(1..=36_500).contains(&days) {
        return Err(PkiError::Days(days));
    }
    let now = now();
    Ok((now - CLOCK_SLACK, now + Duration::days(days.into())))
}

fn date(when: OffsetDateTime) -> String {
    when.format(&Rfc3339).unwrap_or_else(|_| when.to_string())
}

fn expired(entry: &Entry, now: OffsetDateTime) -> bool {
    OffsetDateTime::parse(&entry.not_after, &Rfc3339).is_ok_and(|end| end < now)
}

/// 127 random bits: positive, and not to be foretold (RFC 5280 §4.1.2.2).
fn random_serial() -> Result<SerialNumber, PkiError> {
    let mut octets: [u8; 16] = random()?;
    if let Some(first) = octets.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(SerialNumber::from_slice(&octets))
}

/// 120 bits, in letters and digits that can be read out over a telephone.
fn random_password() -> Result<Zeroizing<String>, PkiError> {
    let octets: Zeroizing<[u8; 15]> = Zeroizing::new(random()?);
    Ok(Zeroizing::new(data_encoding::BASE32_NOPAD.encode(octets.as_slice()).to_ascii_lowercase()))
}

fn random<const N: usize>() -> Result<[u8; N], PkiError> {
    let mut octets = [0; N];
    getrandom::fill(&mut octets)
        .map_err(|error| PkiError::Crypto { what: "random number", problem: error.to_string() })?;
    Ok(octets)
}

/// The first line of the file.
fn read_password(path: &Path) -> Result<Zeroizing<String>, PkiError> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.map_err(|error| PkiError::Io { what: "read", path: path.to_owned(), error })?;
    let line = text.lines().next().unwrap_or_default();
    let bad = |problem| Err(PkiError::Password { path: path.to_owned(), problem });
    match line {
        "" => bad("is empty"),
        // BMPString knows no other (RFC 7292 §B.1).
        line if !line.chars().all(|c| u32::from(c) < 0x1_0000) => {
            bad("has characters beyond the basic plane")
        }
        line => Ok(Zeroizing::new(line.to_owned())),
    }
}
