//! X.509 certificates (RFC 5280), read once into what path validation and name matching ask for.

use std::fmt;
use std::time::Duration;

use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier};
use der::oid::AssociatedOid;
use der::{DateTime, Decode, Encode as _, Reader as _, SliceReader, Tag, Tagged as _};
use x509_cert::TbsCertificate;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::{DistributionPointName, GeneralName};
use x509_cert::ext::pkix::{
    AuthorityInfoAccessSyntax, AuthorityKeyIdentifier, BasicConstraints, CertificatePolicies,
    CrlDistributionPoints, ExtendedKeyUsage, InhibitAnyPolicy, KeyUsage, NameConstraints, PolicyMappings,
    SubjectAltName, SubjectKeyIdentifier,
};
use x509_cert::spki::AlgorithmIdentifierRef;

use super::dn::DistinguishedName;
use super::key::{KeyError, PublicKey};
use super::scheme::Scheme;

/// A moment: seconds since 1970, UTC. What the wall clock said when a job was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixTime(pub u64);

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_unix_duration(Duration::from_secs(self.0)) {
            Ok(time) => time.fmt(f),
            Err(_) => write!(f, "{} s after 1970", self.0),
        }
    }
}

/// Octets that are no certificate, or one that we cannot use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not DER of a certificate.
    #[error("it is not an X.509 certificate: {0}")]
    Malformed(String),
    /// An extension that does not hold what it should.
    #[error("its extension {0} is malformed")]
    Extension(ObjectIdentifier),
    /// An extension that occurs twice (RFC 5280 §4.2).
    #[error("it has the extension {0} twice")]
    Repeated(ObjectIdentifier),
    /// Its public key cannot be used.
    #[error("its public key: {0}")]
    Key(#[from] KeyError),
}

/// An X.509 certificate. Equal if the DER is.
#[derive(Clone)]
pub struct Certificate {
    der: Vec<u8>,
    signed: Signed,
    pub(super) serial: Vec<u8>,
    subject: DistinguishedName,
    issuer: DistinguishedName,
    not_before: UnixTime,
    not_after: UnixTime,
    key: PublicKey,
    pub(super) ext: Extensions,
}

/// What an issuer has signed, in a certificate, a CRL or an OCSP response.
#[derive(Clone)]
pub(super) struct Signed {
    pub(super) content: Vec<u8>,
    pub(super) scheme: Result<Scheme, String>,
    signature: Vec<u8>,
}

impl Signed {
    /// `SEQUENCE { content, AlgorithmIdentifier, BIT STRING }`, taken apart without re-encoding anything.
    pub(super) fn parse(der: &[u8]) -> der::Result<Self> {
        let whole = AnyRef::from_der(der)?;
        if whole.tag() != Tag::Sequence {
            return Err(Tag::Sequence.value_error().into());
        }
        let mut fields = SliceReader::new(whole.value())?;
        let signed = Self::decode(&mut fields)?;
        fields.finish()?;
        Ok(signed)
    }

    /// The three fields, which others may follow.
    pub(super) fn decode(fields: &mut SliceReader<'_>) -> der::Result<Self> {
        let content = fields.tlv_bytes()?.to_vec();
        let algorithm = AlgorithmIdentifierRef::decode(fields)?;
        let signature = BitStringRef::decode(fields)?;
        let signature = signature.as_bytes().ok_or_else(|| Tag::BitString.value_error())?.to_vec();
        Ok(Self { content, scheme: Scheme::from_algorithm(&algorithm), signature })
    }

    /// Whether it was signed with a key.
    pub(super) fn verify(&self, key: &PublicKey) -> bool {
        self.scheme.as_ref().is_ok_and(|scheme| key.verify(*scheme, &self.content, &self.signature))
    }
}

/// The extensions that we understand.
#[derive(Clone, Default)]
pub(super) struct Extensions {
    pub(super) basic_constraints: Option<BasicConstraints>,
    pub(super) key_usage: Option<KeyUsage>,
    pub(super) extended_key_usage: Option<ExtendedKeyUsage>,
    pub(super) alt_names: Vec<GeneralName>,
    pub(super) name_constraints: Option<NameConstraints>,
    pub(super) subject_key_id: Option<Vec<u8>>,
    pub(super) authority_key_id: Option<Vec<u8>>,
    pub(super) crl_uris: Vec<String>,
    pub(super) ocsp_uris: Vec<String>,
    /// Critical ones that we do not understand: nothing may be done with the certificate (RFC 5280 §4.2).
    pub(super) unknown_critical: Vec<ObjectIdentifier>,
}

impl Certificate {
    /// From DER.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let malformed = |error: der::Error| CertificateError::Malformed(error.to_string());
        let signed = Signed::parse(der).map_err(malformed)?;
        let tbs = TbsCertificate::from_der(&signed.content).map_err(malformed)?;
        let inner = tbs.signature().to_der().map_err(malformed)?;
        if Scheme::from_der(&inner) != signed.scheme {
            let what = "the signature algorithm inside and outside of what is signed differ";
            return Err(CertificateError::Malformed(what.to_owned()));
        }
        let name = |name: &x509_cert::name::Name| {
            let der = name.to_der().map_err(malformed)?;
            DistinguishedName::from_der(&der)
                .ok_or_else(|| CertificateError::Malformed("a name cannot be read".to_owned()))
        };
        let time = |time: x509_cert::time::Time| UnixTime(time.to_unix_duration().as_secs());
        Ok(Self {
            serial: tbs.serial_number().as_bytes().to_vec(),
            subject: name(tbs.subject())?,
            issuer: name(tbs.issuer())?,
            not_before: time(tbs.validity().not_before),
            not_after: time(tbs.validity().not_after),
            key: PublicKey::from_spki(&tbs.subject_public_key_info().to_der().map_err(malformed)?)?,
            ext: Extensions::parse(tbs.extensions().map(Vec::as_slice).unwrap_or_default())?,
            der: der.to_vec(),
            signed,
        })
    }

    /// DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whom it is for.
    pub fn subject(&self) -> &DistinguishedName {
        &self.subject
    }

    /// Who has issued it.
    pub fn issuer(&self) -> &DistinguishedName {
        &self.issuer
    }

    /// The first second of its validity.
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// The last second of its validity.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// The key that it certifies.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Its serial number in hexadecimal.
    pub fn serial(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.serial)
    }

    /// Whether it may issue certificates (RFC 5280 §4.2.1.9).
    pub fn is_authority(&self) -> bool {
        self.ext.basic_constraints.as_ref().is_some_and(|constraints| constraints.ca)
    }

    /// Whether it names itself as its issuer.
    pub fn is_self_issued(&self) -> bool {
        self.subject.same(&self.issuer)
    }

    /// Where its CRLs are to be had, by its own account.
    pub fn crl_uris(&self) -> &[String] {
        &self.ext.crl_uris
    }

    /// Where its status is to be asked for by OCSP, by its own account.
    pub fn ocsp_uris(&self) -> &[String] {
        &self.ext.ocsp_uris
    }

    /// How it was signed.
    pub(super) fn scheme(&self) -> &Result<Scheme, String> {
        &self.signed.scheme
    }

    /// Whether the names and key identifiers say that `issuer` has issued it.
    pub fn names_issuer(&self, issuer: &Self) -> bool {
        let keys_differ = matches!(
            (&self.ext.authority_key_id, &issuer.ext.subject_key_id),
            (Some(wanted), Some(found)) if wanted != found
        );
        self.issuer.same(&issuer.subject) && !keys_differ
    }

    /// Whether it was signed with a key.
    pub(super) fn is_signed_by(&self, key: &PublicKey) -> bool {
        self.signed.verify(key)
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate(\"{}\", serial {})", self.subject, self.serial())
    }
}

impl Extensions {
    fn parse(extensions: &[Extension]) -> Result<Self, CertificateError> {
        let mut parsed = Self::default();
        let mut seen: Vec<ObjectIdentifier> = Vec::new();
        for extension in extensions {
            if seen.contains(&extension.extn_id) {
                return Err(CertificateError::Repeated(extension.extn_id));
            }
            seen.push(extension.extn_id);
            parsed.take(extension)?;
        }
        Ok(parsed)
    }

    fn take(&mut self, extension: &Extension) -> Result<(), CertificateError> {
        match extension.extn_id {
            BasicConstraints::OID => self.basic_constraints = Some(decode(extension)?),
            KeyUsage::OID => self.key_usage = Some(decode(extension)?),
            ExtendedKeyUsage::OID => self.extended_key_usage = Some(decode(extension)?),
            SubjectAltName::OID => self.alt_names = decode::<SubjectAltName>(extension)?.0,
            NameConstraints::OID => self.name_constraints = Some(decode(extension)?),
            SubjectKeyIdentifier::OID => {
                self.subject_key_id = Some(decode::<SubjectKeyIdentifier>(extension)?.0.as_bytes().to_vec());
            }
            AuthorityKeyIdentifier::OID => {
                let found = decode::<AuthorityKeyIdentifier>(extension)?;
                self.authority_key_id = found.key_identifier.map(|id| id.as_bytes().to_vec());
            }
            AuthorityInfoAccessSyntax::OID => self.ocsp_uris = responders(decode(extension)?),
            CrlDistributionPoints::OID => self.crl_uris = uris(&decode(extension)?),
            // Without policyConstraints, which we refuse, every policy will do, and these decide nothing.
            CertificatePolicies::OID | PolicyMappings::OID | InhibitAnyPolicy::OID => {}
            other if extension.critical => self.unknown_critical.push(other),
            _ => {}
        }
        Ok(())
    }
}

fn decode<'a, T: Decode<'a>>(extension: &'a Extension) -> Result<T, CertificateError> {
    T::from_der(extension.extn_value.as_bytes()).map_err(|_| CertificateError::Extension(extension.extn_id))
}

fn uris(points: &CrlDistributionPoints) -> Vec<String> {
    let names = points.0.iter().filter_map(|point| match &point.distribution_point {
        Some(DistributionPointName::FullName(names)) => Some(names),
        _ => None,
    });
    let uris = names.flatten().filter_map(|name| match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.as_str().to_owned()),
        _ => None,
    });
    uris.collect()
}

/// id-ad-ocsp (RFC 5280 §4.2.2.1).
const ID_AD_OCSP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1");

fn responders(access: AuthorityInfoAccessSyntax) -> Vec<String> {
    let uri = |found: x509_cert::ext::pkix::AccessDescription| match found.access_location {
        GeneralName::UniformResourceIdentifier(uri) if found.access_method == ID_AD_OCSP => {
            Some(uri.as_str().to_owned())
        }
        _ => None,
    };
    access.0.into_iter().filter_map(uri).collect()
}
