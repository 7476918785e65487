//! Certificate revocation lists (RFC 5280 §5), and what becomes of a certificate by them and by OCSP.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use der::asn1::ObjectIdentifier;
use der::{Decode as _, Encode as _};
use x509_cert::crl::{RevokedCert, TbsCertList};
use x509_cert::ext::pkix::CrlReason;
use x509_cert::ext::pkix::crl::dp::IssuingDistributionPoint;
use x509_cert::time::Time;

use super::certificate::{Certificate, Signed, UnixTime};
use super::dn::DistinguishedName;
use super::ocsp::{Answer, Question, Status};
use super::rejection::Rejection;
use super::scheme::HashAlgorithm;

/// What is asked of the status of certificates, with swanctl's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Revocation {
    /// A certificate of unknown status is refused.
    Strict,
    /// A certificate of unknown status is refused if it says where its status is to be had: names an OCSP responder or a CRL.
    IfUri,
    /// Only what is known to be revoked is refused; it is asked like with [`Self::IfUri`], and whoever gives no answer is
    /// none the worse for it.
    #[default]
    Relaxed,
}

/// Where the status of a CA's certificates is to be had, besides what they say themselves (swanctl's `authorities`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusSource {
    /// The CA.
    pub authority: Arc<Certificate>,
    /// OCSP responders.
    pub ocsp_uris: Vec<String>,
    /// CRLs.
    pub crl_uris: Vec<String>,
}

impl StatusSource {
    /// Whether it speaks for that CA, whichever of its certificates that is.
    fn is_of(&self, issuer: &Certificate) -> bool {
        self.authority.subject().same(issuer.subject()) && self.authority.key() == issuer.key()
    }
}

/// An OCSP responder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Responder {
    /// It was asked, at this URI.
    At(String),
    /// The peer has brought its answer (RFC 4806).
    Brought,
}

impl Responder {
    /// Behind what is wrong with its answer.
    fn from(&self) -> String {
        match self {
            Self::At(uri) => format!(" (from {uri})"),
            Self::Brought => " (the peer brought it)".to_owned(),
        }
    }
}

impl fmt::Display for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(uri) => write!(f, "the OCSP responder at {uri}"),
            Self::Brought => f.write_str("the OCSP response that the peer brought"),
        }
    }
}

/// Where CRLs and the answers of OCSP responders come from. Asked by a job, so it may take its time.
pub trait RevocationSource {
    /// The CRLs of an issuer, those of others not excluded.
    fn crls(&self, issuer: &DistinguishedName) -> Vec<Arc<Crl>>;

    /// The CRL at a URI that a certificate names. It must not be believed that the one who has issued the certificate has
    /// issued the CRL. `None`: this source fetches nothing; `Err` says for people why it cannot be had.
    fn fetch(&self, uri: &str) -> Option<Result<Arc<Crl>, String>> {
        _ = uri;
        None
    }

    /// What the OCSP responder at a URI answers, judged by the question. `None` and `Err`: as with [`Self::fetch`].
    fn ask(&self, uri: &str, question: &Question<'_>, now: UnixTime) -> Option<Result<Answer, String>> {
        _ = (uri, question, now);
        None
    }

    /// What that responder answers as it has signed it, to be passed on; judged likewise, and without a nonce.
    fn response(&self, uri: &str, question: &Question<'_>, now: UnixTime) -> Option<Vec<u8>> {
        _ = (uri, question, now);
        None
    }

    /// What the other end has brought itself of responders' answers (RFC 4806), judged likewise.
    fn brought(&self, question: &Question<'_>, now: UnixTime) -> Option<Result<Answer, String>> {
        _ = (question, now);
        None
    }
}

/// Responses that a peer has brought, before everything that is asked.
pub(super) struct Brought<'a> {
    pub(super) responses: Vec<&'a [u8]>,
    pub(super) source: &'a dyn RevocationSource,
}

impl RevocationSource for Brought<'_> {
    fn crls(&self, issuer: &DistinguishedName) -> Vec<Arc<Crl>> {
        self.source.crls(issuer)
    }

    fn fetch(&self, uri: &str) -> Option<Result<Arc<Crl>, String>> {
        self.source.fetch(uri)
    }

    fn ask(&self, uri: &str, question: &Question<'_>, now: UnixTime) -> Option<Result<Answer, String>> {
        self.source.ask(uri, question, now)
    }

    fn brought(&self, question: &Question<'_>, now: UnixTime) -> Option<Result<Answer, String>> {
        // One about each certificate is enough: a heap of them costs no more signatures.
        let about = self.responses.iter().find(|response| question.is_answered_by(response))?;
        Some(question.judge(about, None, now))
    }
}

/// What a responder of the issuer's has signed about a certificate, to be passed on.
pub(super) fn response(
    certificate: &Certificate,
    issuer: &Certificate,
    sources: &[StatusSource],
    now: UnixTime,
    source: &dyn RevocationSource,
) -> Option<Vec<u8>> {
    let question = Question::about(certificate, issuer);
    responders(certificate, issuer, sources).find_map(|uri| source.response(uri, &question, now))
}

/// OCSP responders for a certificate: those that are configured before those that it names.
fn responders<'a>(
    certificate: &'a Certificate,
    issuer: &'a Certificate,
    sources: &'a [StatusSource],
) -> impl Iterator<Item = &'a String> {
    let configured = sources.iter().filter(|source| source.is_of(issuer));
    configured.flat_map(|source| &source.ocsp_uris).chain(certificate.ocsp_uris())
}

impl RevocationSource for Vec<Arc<Crl>> {
    fn crls(&self, issuer: &DistinguishedName) -> Vec<Arc<Crl>> {
        self.iter().filter(|crl| crl.issuer.same(issuer)).cloned().collect()
    }
}

/// A CRL.
pub struct Crl {
    signed: Signed,
    issuer: DistinguishedName,
    this_update: UnixTime,
    next_update: Option<UnixTime>,
    /// By serial number.
    revoked: HashMap<Vec<u8>, Revoked>,
    scope: Scope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Revoked {
    since: UnixTime,
    reason: Option<CrlReason>,
}

/// Which certificates a CRL speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    All,
    UserCertificates,
    AuthorityCertificates,
    /// It must not be used, for a reason.
    Unusable(String),
}

/// Octets that are no CRL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is not an X.509 CRL: {0}")]
pub struct CrlError(String);

const ISSUING_DISTRIBUTION_POINT: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.28");
const CRL_REASON: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.21");

impl Crl {
    /// From DER.
    pub fn from_der(der: &[u8]) -> Result<Self, CrlError> {
        let malformed = |error: der::Error| CrlError(error.to_string());
        let signed = Signed::parse(der).map_err(malformed)?;
        let list = TbsCertList::from_der(&signed.content).map_err(malformed)?;
        let issuer = DistinguishedName::from_der(&list.issuer.to_der().map_err(malformed)?)
            .ok_or_else(|| CrlError("the issuer's name cannot be read".to_owned()))?;
        let mut scope = scope(&list);
        let mut revoked = HashMap::new();
        for entry in list.revoked_certificates.unwrap_or_default() {
            match entry_reason(&entry) {
                Ok(reason) => {
                    let serial = entry.serial_number.as_bytes().to_vec();
                    revoked.insert(serial, Revoked { since: unix(entry.revocation_date), reason });
                }
                Err(why) => scope = Scope::Unusable(why),
            }
        }
        let (this_update, next_update) = (unix(list.this_update), list.next_update.map(unix));
        Ok(Self { signed, issuer, this_update, next_update, revoked, scope })
    }

    /// Who has issued it.
    pub fn issuer(&self) -> &DistinguishedName {
        &self.issuer
    }

    /// When a newer one was promised.
    pub fn next_update(&self) -> Option<UnixTime> {
        self.next_update
    }

    /// Whether it speaks of a certificate.
    fn covers(&self, certificate: &Certificate) -> Result<(), String> {
        match &self.scope {
            Scope::All => Ok(()),
            Scope::UserCertificates if !certificate.is_authority() => Ok(()),
            Scope::AuthorityCertificates if certificate.is_authority() => Ok(()),
            Scope::UserCertificates => Err("the CRL is about end-entity certificates only".to_owned()),
            Scope::AuthorityCertificates => Err("the CRL is about CA certificates only".to_owned()),
            Scope::Unusable(why) => Err(why.clone()),
        }
    }

    /// Whether the issuer of `certificate` has signed it and may.
    fn is_authentic(&self, issuer: &Certificate) -> Result<(), String> {
        if issuer.ext.key_usage.as_ref().is_some_and(|usage| !usage.crl_sign()) {
            return Err("the CA's certificate is not for signing CRLs (keyUsage lacks cRLSign)".to_owned());
        }
        if self.signed.scheme.as_ref().is_ok_and(|scheme| scheme.hash() == HashAlgorithm::Sha1) {
            return Err("the CRL is signed with SHA-1".to_owned());
        }
        if !self.signed.verify(issuer.key()) {
            return Err("the CRL's signature is not the CA's".to_owned());
        }
        Ok(())
    }
}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crl(\"{}\", {} revoked)", self.issuer, self.revoked.len())
    }
}

fn unix(time: Time) -> UnixTime {
    UnixTime(time.to_unix_duration().as_secs())
}

/// RFC 5280 §5.2: a CRL with a critical extension that is not understood must not be used.
fn scope(list: &TbsCertList) -> Scope {
    let mut scope = Scope::All;
    for extension in list.crl_extensions.iter().flatten() {
        if extension.extn_id == ISSUING_DISTRIBUTION_POINT {
            let Ok(point) = IssuingDistributionPoint::from_der(extension.extn_value.as_bytes()) else {
                return Scope::Unusable("the CRL's issuingDistributionPoint is malformed".to_owned());
            };
            if point.indirect_crl || point.only_some_reasons.is_some() || point.only_contains_attribute_certs
            {
                return Scope::Unusable("the CRL is indirect or of limited scope".to_owned());
            }
            scope = match (point.only_contains_user_certs, point.only_contains_ca_certs) {
                (false, false) => Scope::All,
                (true, false) => Scope::UserCertificates,
                (false, true) => Scope::AuthorityCertificates,
                (true, true) => return Scope::Unusable("the CRL is about nothing".to_owned()),
            };
        } else if extension.critical {
            return Scope::Unusable(format!(
                "the CRL has the critical extension {}, which is not understood",
                extension.extn_id
            ));
        }
    }
    scope
}

fn entry_reason(entry: &RevokedCert) -> Result<Option<CrlReason>, String> {
    let mut reason = None;
    for extension in entry.crl_entry_extensions.iter().flatten() {
        if extension.extn_id == CRL_REASON {
            reason = CrlReason::from_der(extension.extn_value.as_bytes()).ok();
        } else if extension.critical {
            return Err(format!(
                "an entry of the CRL has the critical extension {}, which is not understood",
                extension.extn_id
            ));
        }
    }
    Ok(reason)
}

/// Asks the CRLs of `issuer` about a certificate that it has issued: those at hand, and where they have no answer, what the
/// peer has brought, then OCSP responders and then further CRLs: those of `sources`, then those that the certificate names.
pub(super) fn check(
    certificate: &Certificate,
    issuer: &Certificate,
    (policy, sources): (Revocation, &[StatusSource]),
    now: UnixTime,
    source: &dyn RevocationSource,
) -> Result<(), Rejection> {
    let mut doubt = "no CRL of its issuer is at hand".to_owned();
    let mut known_good = false;
    for crl in source.crls(issuer.subject()) {
        match status(certificate, issuer, &crl, now)? {
            Ok(()) => known_good = true,
            Err(why) => doubt = why,
        }
    }
    if known_good {
        return Ok(());
    }
    let configured = sources.iter().filter(|source| source.is_of(issuer));
    let uris: Vec<&String> =
        configured.flat_map(|source| &source.crl_uris).chain(certificate.crl_uris()).collect();
    let responders: Vec<&String> = responders(certificate, issuer, sources).collect();
    let needed = match policy {
        Revocation::Strict => true,
        Revocation::IfUri => !uris.is_empty() || !responders.is_empty(),
        Revocation::Relaxed => false,
    };
    let question = Question::about(certificate, issuer);
    let brought = source.brought(&question, now).map(|answer| (Responder::Brought, answer));
    let ask = |uri: &String| Some((Responder::At(uri.clone()), source.ask(uri, &question, now)?));
    for (responder, answer) in brought.into_iter().chain(responders.into_iter().filter_map(ask)) {
        match answer {
            Ok(Answer { status: Status::Good, .. }) => return Ok(()),
            Ok(Answer { status: Status::Revoked { since, reason }, .. }) => {
                return Err(revoked(certificate, since, reason, Some(responder)));
            }
            Ok(Answer { status: Status::Unknown, .. }) => doubt = format!("{responder} does not know it"),
            Err(why) => doubt = format!("{why}{}", responder.from()),
        }
    }
    for uri in uris {
        match source.fetch(uri) {
            None => {}
            Some(Ok(crl)) => match status(certificate, issuer, &crl, now)? {
                Ok(()) => return Ok(()),
                Err(why) => doubt = format!("{why} (from {uri})"),
            },
            Some(Err(why)) => doubt = format!("its CRL at {uri} cannot be had: {why}"),
        }
    }
    match needed {
        true => Err(Rejection::StatusUnknown { subject: certificate.subject().clone(), why: doubt }),
        false => Ok(()),
    }
}

/// `responder`: of OCSP, if that is who says so and not a CRL.
fn revoked(
    certificate: &Certificate,
    since: UnixTime,
    reason: Option<String>,
    responder: Option<Responder>,
) -> Rejection {
    let (subject, serial) = (certificate.subject().clone(), certificate.serial());
    Rejection::Revoked { subject, serial, since, reason, responder }
}

/// What one CRL says of a certificate: that it is good, or why that is in doubt. `Err`: it was revoked.
fn status(
    certificate: &Certificate,
    issuer: &Certificate,
    crl: &Crl,
    now: UnixTime,
) -> Result<Result<(), String>, Rejection> {
    if let Err(why) = crl.covers(certificate).and_then(|()| crl.is_authentic(issuer)) {
        return Ok(Err(why));
    }
    // Even a stale CRL knows what was revoked.
    if let Some(found) = crl.revoked.get(&certificate.serial) {
        let reason = found.reason.map(|reason| format!("{reason:?}"));
        return Err(revoked(certificate, found.since, reason, None));
    }
    Ok(match crl.next_update {
        _ if crl.this_update > now => {
            Err(format!("the CRL of its issuer begins only at {}", crl.this_update))
        }
        Some(next) if next < now => Err(format!("the CRL of its issuer has expired at {next}")),
        _ => Ok(()),
    })
}
