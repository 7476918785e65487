//! OCSP (RFC 6960): what is asked of a responder about one certificate, and whether its answer may be believed.
//!
//! A [`Question`] is put by whoever can reach the responder. It judges the answer too, so that only what a responder of
//! the issuer's has signed is ever kept.

use std::fmt;

use der::asn1::{AnyRef, GeneralizedTime, IntRef, ObjectIdentifier, OctetStringRef};
use der::{Decode, Encode, Reader, Sequence, SliceReader, Tag, TagNumber, Tagged as _};
use sha1::{Digest as _, Sha1};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::CrlReason;
use x509_cert::spki::AlgorithmIdentifierRef;

use super::certificate::{Certificate, Signed, UnixTime};
use super::scheme::HashAlgorithm;

/// The media type of a request.
pub const REQUEST_TYPE: &str = "application/ocsp-request";
/// Octets of a nonce: what RFC 9654 §2.1 recommends.
pub const NONCE_LEN: usize = 32;

/// Seconds by which a responder's clock may be ahead of ours, or behind.
const SKEW: u64 = 300;
/// Seconds for which an answer without nextUpdate, which says that newer ones are always to be had, is believed.
const UNDATED: u64 = 3600;
/// Certificates of an answer that are looked at.
const MAX_CERTIFICATES: usize = 4;

const ID_PKIX_OCSP_BASIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.1");
const ID_PKIX_OCSP_NONCE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.2");
const ID_KP_OCSP_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.9");
const ID_SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");

/// Which certificate: SHA-1 of its issuer's name and key, and its serial number (RFC 6960 §4.1.1). Every responder
/// knows these by SHA-1, which need not withstand collisions here.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CertId {
    issuer_name: [u8; 20],
    issuer_key: [u8; 20],
    serial: Vec<u8>,
}

/// What is asked: the status of one certificate, of a responder that its issuer answers for.
#[derive(Debug)]
pub struct Question<'a> {
    issuer: &'a Certificate,
    id: CertId,
}

/// What a responder has answered, and may be believed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What it says.
    pub status: Status,
    /// Until when it counts.
    pub until: UnixTime,
}

/// The status of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Not revoked.
    Good,
    /// Revoked.
    Revoked {
        /// When.
        since: UnixTime,
        /// Why, if that is said.
        reason: Option<String>,
    },
    /// The responder does not know the certificate.
    Unknown,
}

#[derive(Sequence)]
struct CertIdDer<'a> {
    algorithm: AlgorithmIdentifierRef<'a>,
    issuer_name: &'a OctetStringRef,
    issuer_key: &'a OctetStringRef,
    serial: IntRef<'a>,
}

impl CertId {
    fn to_der(&self) -> der::Result<Vec<u8>> {
        let id = CertIdDer {
            algorithm: AlgorithmIdentifierRef { oid: ID_SHA1, parameters: Some(AnyRef::NULL) },
            issuer_name: OctetStringRef::new(&self.issuer_name)?,
            issuer_key: OctetStringRef::new(&self.issuer_key)?,
            serial: IntRef::new(&self.serial)?,
        };
        id.to_der()
    }

    fn is(&self, found: &CertIdDer<'_>) -> bool {
        found.algorithm.oid == ID_SHA1
            && found.issuer_name.as_bytes() == self.issuer_name
            && found.issuer_key.as_bytes() == self.issuer_key
            && found.serial.as_bytes() == self.serial
    }
}

impl fmt::Debug for CertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertId({})", data_encoding::HEXLOWER.encode(&self.serial))
    }
}

impl<'a> Question<'a> {
    /// About a certificate that `issuer` has issued.
    pub fn about(certificate: &Certificate, issuer: &'a Certificate) -> Self {
        let id = CertId {
            issuer_name: Sha1::digest(certificate.issuer().der()).into(),
            issuer_key: Sha1::digest(issuer.key().bits()).into(),
            serial: certificate.serial.clone(),
        };
        Self { issuer, id }
    }

    /// Which certificate it is about.
    pub fn id(&self) -> &CertId {
        &self.id
    }

    /// An OCSPRequest, in DER; with a nonce, where the answer is for us and not to be passed on.
    ///
    /// # Errors
    /// A serial number that DER cannot hold.
    pub fn to_der(&self, nonce: Option<&[u8; NONCE_LEN]>) -> Result<Vec<u8>, String> {
        let encode = || {
            let requests = sequence(&sequence(&self.id.to_der()?)?)?;
            let Some(nonce) = nonce else { return sequence(&sequence(&requests)?) };
            let value = OctetStringRef::new(nonce)?.to_der()?;
            let content = [ID_PKIX_OCSP_NONCE.to_der()?, OctetStringRef::new(&value)?.to_der()?].concat();
            let extensions = wrapped(tag(2), &sequence(&sequence(&content)?)?)?;
            sequence(&sequence(&[requests, extensions].concat())?)
        };
        encode().map_err(|error: der::Error| error.to_string())
    }

    /// Judges an OCSPResponse: whether a responder of the issuer's has signed it, it is about this certificate and still
    /// counts, and answers our question, if we asked and it says which.
    ///
    /// # Errors
    /// Why it must not be believed, for people.
    pub fn judge(
        &self,
        der: &[u8],
        nonce: Option<&[u8; NONCE_LEN]>,
        now: UnixTime,
    ) -> Result<Answer, String> {
        let malformed = |error: der::Error| format!("it is no OCSP response: {error}");
        let basic = basic_response(der)?;
        let fields = AnyRef::from_der(&basic).map_err(malformed)?;
        let mut fields = SliceReader::new(fields.value()).map_err(malformed)?;
        let signed = Signed::decode(&mut fields).map_err(malformed)?;
        let sent = optional(&mut fields, 0).map_err(malformed)?;
        fields.finish().map_err(malformed)?;
        let sent: Vec<AnyRef<'_>> = match sent {
            Some(octets) => Decode::from_der(octets).map_err(malformed)?,
            None => Vec::new(),
        };
        self.check_signer(&signed, &sent, now)?;
        let data = ResponseData::parse(&signed.content).map_err(malformed)?;
        let other = |found: &Vec<u8>| nonce.is_some_and(|nonce| found != nonce);
        if data.nonce.as_ref().is_some_and(other) {
            return Err("the OCSP response answers another request (nonce)".to_owned());
        }
        let mut found = Err("the OCSP response is about another certificate".to_owned());
        for single in data.singles {
            let single = Single::parse(single).map_err(malformed)?;
            if self.id.is(&single.id) {
                found = single.answer(now);
                if found.is_ok() {
                    break;
                }
            }
        }
        found
    }

    /// Whether an OCSPResponse is about this certificate, whoever has made it: what somebody else has chosen costs no
    /// signature unless it is.
    pub(super) fn is_answered_by(&self, der: &[u8]) -> bool {
        let about = || {
            let basic = basic_response(der).ok()?;
            let fields = AnyRef::from_der(&basic).ok()?;
            let mut fields = SliceReader::new(fields.value()).ok()?;
            let signed = Signed::decode(&mut fields).ok()?;
            let data = ResponseData::parse(&signed.content).ok()?;
            let singles = data.singles.into_iter().filter_map(|single| Single::parse(single).ok());
            Some(singles.into_iter().any(|single| self.id.is(&single.id)))
        };
        about().unwrap_or(false)
    }

    /// RFC 6960 §4.2.2.2: the issuer itself, or whom it has certified for that and nobody further.
    fn check_signer(&self, signed: &Signed, sent: &[AnyRef<'_>], now: UnixTime) -> Result<(), String> {
        if signed.scheme.as_ref().is_ok_and(|scheme| scheme.hash() == HashAlgorithm::Sha1) {
            return Err("the OCSP response is signed with SHA-1".to_owned());
        }
        if signed.verify(self.issuer.key()) {
            return Ok(());
        }
        let mut why = "the OCSP response's signature is not the CA's".to_owned();
        for der in sent.iter().take(MAX_CERTIFICATES) {
            let Some(responder) = der.to_der().ok().and_then(|der| Certificate::from_der(&der).ok()) else {
                continue;
            };
            match self.delegated(&responder, now) {
                Ok(()) if signed.verify(responder.key()) => return Ok(()),
                Ok(()) => why = "the OCSP response's signature is not its responder's".to_owned(),
                Err(objection) => {
                    why = format!("the OCSP responder `{}` {objection}", responder.subject());
                }
            }
        }
        Err(why)
    }

    fn delegated(&self, responder: &Certificate, now: UnixTime) -> Result<(), String> {
        let weak = responder.scheme().as_ref().is_ok_and(|scheme| scheme.hash() == HashAlgorithm::Sha1);
        if weak || !responder.names_issuer(self.issuer) || !responder.is_signed_by(self.issuer.key()) {
            return Err("was not certified by the CA".to_owned());
        }
        let usages = responder.ext.extended_key_usage.as_ref();
        if !usages.is_some_and(|usages| usages.0.contains(&ID_KP_OCSP_SIGNING)) {
            return Err("is not certified for OCSP (extendedKeyUsage lacks OCSPSigning)".to_owned());
        }
        if now < responder.not_before() || now > responder.not_after() {
            return Err("has a certificate that is not valid now".to_owned());
        }
        match responder.ext.unknown_critical.first() {
            Some(oid) => Err(format!("has the critical extension {oid}, which is not understood")),
            None => Ok(()),
        }
    }
}

/// BasicOCSPResponse in an OCSPResponse.
fn basic_response(der: &[u8]) -> Result<Vec<u8>, String> {
    let parse = || {
        let whole = AnyRef::from_der(der)?;
        let mut fields = SliceReader::new(whole.value())?;
        let status = AnyRef::decode(&mut fields)?;
        status.tag().assert_eq(Tag::Enumerated)?;
        Ok((status.value().to_vec(), optional(&mut fields, 0)?))
    };
    let (status, bytes) = parse().map_err(|error: der::Error| format!("it is no OCSP response: {error}"))?;
    let name = match *status.as_slice() {
        [0] => None,
        [1] => Some("malformedRequest"),
        [2] => Some("internalError"),
        [3] => Some("tryLater"),
        [5] => Some("sigRequired"),
        [6] => Some("unauthorized"),
        _ => Some("an error"),
    };
    if let Some(name) = name {
        return Err(format!("the OCSP responder answers {name}"));
    }
    let parse = || {
        let bytes = AnyRef::from_der(bytes?).ok()?;
        let mut fields = SliceReader::new(bytes.value()).ok()?;
        let kind = ObjectIdentifier::decode(&mut fields).ok()?;
        let response = <&OctetStringRef>::decode(&mut fields).ok()?;
        (kind == ID_PKIX_OCSP_BASIC).then(|| response.as_bytes().to_vec())
    };
    parse().ok_or_else(|| "the OCSP response is of no kind that is known".to_owned())
}

struct ResponseData<'a> {
    singles: Vec<AnyRef<'a>>,
    nonce: Option<Vec<u8>>,
}

impl<'a> ResponseData<'a> {
    fn parse(der: &'a [u8]) -> der::Result<Self> {
        let whole = AnyRef::from_der(der)?;
        let mut fields = SliceReader::new(whole.value())?;
        // The version.
        optional(&mut fields, 0)?;
        // Who it says it is: the signature says more.
        AnyRef::decode(&mut fields)?;
        GeneralizedTime::decode(&mut fields)?;
        let singles = Vec::decode(&mut fields)?;
        let extensions = extensions(&mut fields)?;
        let nonce = extensions.iter().find(|extension| extension.extn_id == ID_PKIX_OCSP_NONCE);
        let octets = |extension: &Extension| {
            <&OctetStringRef>::from_der(extension.extn_value.as_bytes())
                .map(|nonce| nonce.as_bytes().to_vec())
        };
        Ok(Self { singles, nonce: nonce.map(octets).transpose()? })
    }
}

struct Single<'a> {
    id: CertIdDer<'a>,
    status: Status,
    this_update: UnixTime,
    next_update: Option<UnixTime>,
}

impl<'a> Single<'a> {
    fn parse(single: AnyRef<'a>) -> der::Result<Self> {
        let mut fields = SliceReader::new(single.value())?;
        let id = CertIdDer::decode(&mut fields)?;
        let status = AnyRef::decode(&mut fields)?;
        let status = match status.tag() {
            Tag::ContextSpecific { number: TagNumber(0), constructed: false } => Status::Good,
            Tag::ContextSpecific { number: TagNumber(1), constructed: true } => {
                let mut fields = SliceReader::new(status.value())?;
                let since = moment(GeneralizedTime::decode(&mut fields)?);
                let reason = optional(&mut fields, 0)?.map(CrlReason::from_der).transpose()?;
                Status::Revoked { since, reason: reason.map(|reason| format!("{reason:?}")) }
            }
            _ => Status::Unknown,
        };
        let this_update = moment(GeneralizedTime::decode(&mut fields)?);
        let next_update = optional(&mut fields, 0)?.map(GeneralizedTime::from_der).transpose()?.map(moment);
        // What is critical, and not understood, may change the meaning of the rest (RFC 6960 §4.4).
        let unknown = extensions(&mut fields)?.iter().any(|extension| extension.critical);
        let status = if unknown && status == Status::Good { Status::Unknown } else { status };
        Ok(Self { id, status, this_update, next_update })
    }

    fn answer(self, now: UnixTime) -> Result<Answer, String> {
        let until = self.next_update.unwrap_or(UnixTime(self.this_update.0.saturating_add(UNDATED)));
        if self.this_update.0 > now.0.saturating_add(SKEW) {
            return Err(format!("the OCSP response counts only from {}", self.this_update));
        }
        if until.0.saturating_add(SKEW) < now.0 {
            return Err(format!("the OCSP response has expired at {until}"));
        }
        Ok(Answer { status: self.status, until })
    }
}

fn moment(time: GeneralizedTime) -> UnixTime {
    UnixTime(time.to_unix_duration().as_secs())
}

/// What an explicit tag of the context holds, if the next field has it.
fn optional<'a>(fields: &mut SliceReader<'a>, number: u32) -> der::Result<Option<&'a [u8]>> {
    if fields.is_finished() || Tag::peek(fields)? != tag(number) {
        return Ok(None);
    }
    AnyRef::decode(fields).map(|field| Some(field.value()))
}

/// Extensions as the last field, tagged 1.
fn extensions(fields: &mut SliceReader<'_>) -> der::Result<Vec<Extension>> {
    let found = optional(fields, 1)?.map(Vec::from_der).transpose()?;
    Ok(found.unwrap_or_default())
}

fn tag(number: u32) -> Tag {
    Tag::ContextSpecific { number: TagNumber(number), constructed: true }
}

fn wrapped(tag: Tag, content: &[u8]) -> der::Result<Vec<u8>> {
    AnyRef::new(tag, content)?.to_der()
}

fn sequence(content: &[u8]) -> der::Result<Vec<u8>> {
    wrapped(Tag::Sequence, content)
}
