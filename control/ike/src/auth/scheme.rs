//! Signature schemes, as certificates (RFC 5280) and IKE's Digital Signature method (RFC 7427) name them: by an
//! AlgorithmIdentifier.

use std::fmt;

use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Decode as _, Encode as _, Sequence};
use x509_cert::spki::AlgorithmIdentifierRef;

/// Hash algorithms by their number in SIGNATURE_HASH_ALGORITHMS (RFC 7427 §4, RFC 8420).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum HashAlgorithm {
    /// SHA1: verified where the configuration names it, never signed with.
    Sha1 = 1,
    /// SHA2-256.
    Sha256 = 2,
    /// SHA2-384.
    Sha384 = 3,
    /// SHA2-512.
    Sha512 = 4,
    /// Identity: the scheme hashes by itself, as Ed25519 and Ed448 do.
    Identity = 5,
}

impl HashAlgorithm {
    /// Those that we announce.
    pub const ANNOUNCED: [Self; 4] = [Self::Sha256, Self::Sha384, Self::Sha512, Self::Identity];

    /// The registered number.
    pub fn id(self) -> u16 {
        self as u16
    }

    /// By its number; `None` for one that we do not know.
    pub fn from_id(id: u16) -> Option<Self> {
        [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512, Self::Identity]
            .into_iter()
            .find(|hash| hash.id() == id)
    }

    /// Octets of its output.
    fn len(self) -> u8 {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 | Self::Identity => 64,
        }
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha1 => "SHA-1",
            Self::Sha256 => "SHA2-256",
            Self::Sha384 => "SHA2-384",
            Self::Sha512 => "SHA2-512",
            Self::Identity => "identity",
        })
    }
}

/// How something is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// RSASSA-PKCS1-v1_5 (RFC 8017 §8.2).
    RsaPkcs1(HashAlgorithm),
    /// RSASSA-PSS (RFC 8017 §8.1), MGF1 with the same hash, a salt as long as the hash.
    RsaPss(HashAlgorithm),
    /// ECDSA, signature as SEQUENCE of `r` and `s`.
    Ecdsa(HashAlgorithm),
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// Ed448 (RFC 8032), with an empty context (RFC 8420 §2).
    Ed448,
}

const SHA1_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.5");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const SHA256_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const SHA384_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const SHA512_WITH_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
const ECDSA_WITH_SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.1");
const ECDSA_WITH_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_WITH_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const ECDSA_WITH_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const ED448: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.113");
const SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");

/// RSASSA-PSS-params (RFC 8017 A.2.3). The trailer field has one value, its default.
#[derive(Debug, Sequence)]
struct PssParams<'a> {
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    hash: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "1", tag_mode = "EXPLICIT", optional = "true")]
    mask: Option<AlgorithmIdentifierRef<'a>>,
    #[asn1(context_specific = "2", tag_mode = "EXPLICIT", optional = "true")]
    salt: Option<u8>,
    #[asn1(context_specific = "3", tag_mode = "EXPLICIT", optional = "true")]
    trailer: Option<u8>,
}

impl Scheme {
    /// By its AlgorithmIdentifier. `Err` says what it is instead, for people.
    pub fn from_algorithm(algorithm: &AlgorithmIdentifierRef<'_>) -> Result<Self, String> {
        use HashAlgorithm::{Sha1, Sha256, Sha384, Sha512};
        Ok(match algorithm.oid {
            SHA1_WITH_RSA => Self::RsaPkcs1(Sha1),
            SHA256_WITH_RSA => Self::RsaPkcs1(Sha256),
            SHA384_WITH_RSA => Self::RsaPkcs1(Sha384),
            SHA512_WITH_RSA => Self::RsaPkcs1(Sha512),
            ECDSA_WITH_SHA1 => Self::Ecdsa(Sha1),
            ECDSA_WITH_SHA256 => Self::Ecdsa(Sha256),
            ECDSA_WITH_SHA384 => Self::Ecdsa(Sha384),
            ECDSA_WITH_SHA512 => Self::Ecdsa(Sha512),
            ED25519 => Self::Ed25519,
            ED448 => Self::Ed448,
            RSASSA_PSS => Self::RsaPss(pss_hash(algorithm.parameters)?),
            other => return Err(format!("the unknown signature algorithm {other}")),
        })
    }

    /// As [`Scheme::from_algorithm`], from DER.
    pub fn from_der(der: &[u8]) -> Result<Self, String> {
        let algorithm = AlgorithmIdentifierRef::from_der(der)
            .map_err(|_| "a signature algorithm that is not DER".to_owned())?;
        Self::from_algorithm(&algorithm)
    }

    /// The AlgorithmIdentifier's DER, with the parameters that RFC 7427 appendix A has.
    pub fn to_der(self) -> Vec<u8> {
        use HashAlgorithm::{Identity, Sha1, Sha256, Sha384, Sha512};
        let (oid, parameters) = match self {
            Self::RsaPkcs1(Sha1) => (SHA1_WITH_RSA, Some(AnyRef::NULL)),
            Self::RsaPkcs1(Sha256) => (SHA256_WITH_RSA, Some(AnyRef::NULL)),
            Self::RsaPkcs1(Sha384) => (SHA384_WITH_RSA, Some(AnyRef::NULL)),
            Self::RsaPkcs1(Sha512 | Identity) => (SHA512_WITH_RSA, Some(AnyRef::NULL)),
            Self::Ecdsa(Sha1) => (ECDSA_WITH_SHA1, None),
            Self::Ecdsa(Sha256) => (ECDSA_WITH_SHA256, None),
            Self::Ecdsa(Sha384) => (ECDSA_WITH_SHA384, None),
            Self::Ecdsa(Sha512 | Identity) => (ECDSA_WITH_SHA512, None),
            Self::Ed25519 => (ED25519, None),
            Self::Ed448 => (ED448, None),
            Self::RsaPss(hash) => return pss_der(hash),
        };
        // Two fields of known size always encode.
        AlgorithmIdentifierRef { oid, parameters }.to_der().unwrap_or_default()
    }

    /// Its hash, as SIGNATURE_HASH_ALGORITHMS counts it.
    pub fn hash(self) -> HashAlgorithm {
        match self {
            Self::RsaPkcs1(hash) | Self::RsaPss(hash) | Self::Ecdsa(hash) => hash,
            Self::Ed25519 | Self::Ed448 => HashAlgorithm::Identity,
        }
    }
}

fn pss_hash(parameters: Option<AnyRef<'_>>) -> Result<HashAlgorithm, String> {
    let malformed = || "RSASSA-PSS with malformed parameters".to_owned();
    let parameters =
        parameters.ok_or_else(malformed)?.decode_as::<PssParams<'_>>().map_err(|_| malformed())?;
    let hash_of = |algorithm: Option<AlgorithmIdentifierRef<'_>>| match algorithm.map(|found| found.oid) {
        None | Some(SHA1) => Some(HashAlgorithm::Sha1),
        Some(SHA256) => Some(HashAlgorithm::Sha256),
        Some(SHA384) => Some(HashAlgorithm::Sha384),
        Some(SHA512) => Some(HashAlgorithm::Sha512),
        Some(_) => None,
    };
    let hash = hash_of(parameters.hash).ok_or("RSASSA-PSS with an unknown hash")?;
    let mask = match parameters.mask {
        None => Some(HashAlgorithm::Sha1),
        Some(mask) if mask.oid == MGF1 => {
            let inner = mask.parameters.ok_or_else(malformed)?;
            hash_of(Some(inner.decode_as().map_err(|_| malformed())?))
        }
        Some(_) => None,
    };
    if mask != Some(hash) {
        return Err("RSASSA-PSS with another mask than MGF1 of the same hash".to_owned());
    }
    let salt = parameters.salt.unwrap_or(20);
    if salt != hash.len() || parameters.trailer.is_some_and(|trailer| trailer != 1) {
        return Err(format!("RSASSA-PSS with a salt of {salt} octets (expected {})", hash.len()));
    }
    Ok(hash)
}

fn pss_der(hash: HashAlgorithm) -> Vec<u8> {
    let oid = match hash {
        HashAlgorithm::Sha1 => SHA1,
        HashAlgorithm::Sha256 => SHA256,
        HashAlgorithm::Sha384 => SHA384,
        HashAlgorithm::Sha512 | HashAlgorithm::Identity => SHA512,
    };
    let encode = || -> der::Result<Vec<u8>> {
        let hash_id = AlgorithmIdentifierRef { oid, parameters: Some(AnyRef::NULL) };
        let hash_der = hash_id.to_der()?;
        let mask = AlgorithmIdentifierRef { oid: MGF1, parameters: Some(AnyRef::try_from(&*hash_der)?) };
        let params =
            PssParams { hash: Some(hash_id), mask: Some(mask), salt: Some(hash.len()), trailer: None };
        let params = params.to_der()?;
        let parameters = Some(AnyRef::try_from(&*params)?);
        AlgorithmIdentifierRef { oid: RSASSA_PSS, parameters }.to_der()
    };
    encode().unwrap_or_default()
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RsaPkcs1(hash) => write!(f, "RSA with {hash}"),
            Self::RsaPss(hash) => write!(f, "RSA-PSS with {hash}"),
            Self::Ecdsa(hash) => write!(f, "ECDSA with {hash}"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Ed448 => f.write_str("Ed448"),
        }
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    /// RFC 7427 appendix A, RFC 8420 appendix A.
    const PUBLISHED: [(Scheme, &str); 11] = [
        (Scheme::RsaPkcs1(HashAlgorithm::Sha1), "300d06092a864886f70d0101050500"),
        (Scheme::RsaPkcs1(HashAlgorithm::Sha256), "300d06092a864886f70d01010b0500"),
        (Scheme::RsaPkcs1(HashAlgorithm::Sha384), "300d06092a864886f70d01010c0500"),
        (Scheme::RsaPkcs1(HashAlgorithm::Sha512), "300d06092a864886f70d01010d0500"),
        (Scheme::Ecdsa(HashAlgorithm::Sha1), "300906072a8648ce3d0401"),
        (Scheme::Ecdsa(HashAlgorithm::Sha256), "300a06082a8648ce3d040302"),
        (Scheme::Ecdsa(HashAlgorithm::Sha384), "300a06082a8648ce3d040303"),
        (Scheme::Ecdsa(HashAlgorithm::Sha512), "300a06082a8648ce3d040304"),
        (
            Scheme::RsaPss(HashAlgorithm::Sha256),
            "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108\
             300d06096086480165030402010500a203020120",
        ),
        (Scheme::Ed25519, "300506032b6570"),
        (Scheme::Ed448, "300506032b6571"),
    ];

    #[test]
    fn algorithm_identifiers_are_those_of_the_rfc() {
        for (scheme, hex) in PUBLISHED {
            assert_eq!(HEXLOWER.encode(&scheme.to_der()), hex, "{scheme}");
            assert_eq!(Scheme::from_der(&HEXLOWER.decode(hex.as_bytes()).unwrap()), Ok(scheme));
        }
    }

    #[test]
    fn pss_with_default_parameters_is_sha1() {
        let default = HEXLOWER.decode(b"300d06092a864886f70d01010a3000").unwrap();
        assert_eq!(Scheme::from_der(&default), Ok(Scheme::RsaPss(HashAlgorithm::Sha1)));
    }

    #[test]
    fn what_is_not_known_is_named() {
        let x448 = HEXLOWER.decode(b"300506032b656f").unwrap();
        assert!(Scheme::from_der(&x448).unwrap_err().contains("1.3.101.111"));
        assert!(Scheme::from_der(&[0x30]).unwrap_err().contains("not DER"));
    }
}
