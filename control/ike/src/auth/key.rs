//! Public and private keys of signatures: RSA, ECDSA on the NIST curves, Ed25519, Ed448.
//!
//! The mathematics is aws-lc-rs's, but for Ed448 ([`super::ed448`]). It is constant-time where it must be, kept by a team with formal proofs
//! of its field arithmetic, and has all of these algorithms behind one interface. The `rsa` crate of RustCrypto is
//! not an option: RUSTSEC-2023-0071 (Marvin, a timing side channel of private-key operations) names no fixed version. `ring`
//! has no P-521 and signs with RSA keys of at most 4096 bits. Neither has Ed448.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature as lc;
use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair, UnparsedPublicKey};
use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier};
use der::{Decode as _, Encode as _, Reader as _, SliceReader};
use sha1::{Digest as _, Sha1};
use x509_cert::spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

use super::ed448;
use super::scheme::{HashAlgorithm, Scheme};

/// Curves of ECDSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Curve {
    /// secp256r1.
    P256,
    /// secp384r1.
    P384,
    /// secp521r1.
    P521,
}

impl Curve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// The hash of the curve's strength, the only one of RFC 4754.
    pub fn hash(self) -> HashAlgorithm {
        match self {
            Self::P256 => HashAlgorithm::Sha256,
            Self::P384 => HashAlgorithm::Sha384,
            Self::P521 => HashAlgorithm::Sha512,
        }
    }

    /// Bits of its order.
    pub fn bits(self) -> u32 {
        match self {
            Self::P256 => 256,
            Self::P384 => 384,
            Self::P521 => 521,
        }
    }

    /// Octets of a coordinate.
    pub(super) fn octets(self) -> usize {
        self.bits().div_ceil(8) as usize
    }

    fn oid(self) -> ObjectIdentifier {
        match self {
            Self::P256 => ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"),
            Self::P384 => ObjectIdentifier::new_unwrap("1.3.132.0.34"),
            Self::P521 => ObjectIdentifier::new_unwrap("1.3.132.0.35"),
        }
    }

    fn signing(self) -> &'static lc::EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &lc::ECDSA_P256_SHA256_ASN1_SIGNING,
            Self::P384 => &lc::ECDSA_P384_SHA384_ASN1_SIGNING,
            Self::P521 => &lc::ECDSA_P521_SHA512_ASN1_SIGNING,
        }
    }
}

/// What kind of key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// RSA, with the bits of its modulus.
    Rsa(u32),
    /// ECDSA.
    Ecdsa(Curve),
    /// Ed25519.
    Ed25519,
    /// Ed448.
    Ed448,
}

impl KeyKind {
    /// Whether a scheme can be used with such a key.
    pub fn fits(self, scheme: Scheme) -> bool {
        matches!(
            (self, scheme),
            (Self::Rsa(_), Scheme::RsaPkcs1(_) | Scheme::RsaPss(_))
                | (Self::Ecdsa(_), Scheme::Ecdsa(_))
                | (Self::Ed25519, Scheme::Ed25519)
                | (Self::Ed448, Scheme::Ed448)
        )
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "RSA {bits}"),
            Self::Ecdsa(curve) => write!(f, "ECDSA P-{}", curve.bits()),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Ed448 => f.write_str("Ed448"),
        }
    }
}

/// A key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not the structure that it should be.
    #[error("it is not a {0}")]
    Malformed(&'static str),
    /// Of a kind that we do not have.
    #[error(
        "it is a key of algorithm {found} (supported: RSA, ECDSA P-256, P-384 and P-521, Ed25519, Ed448)"
    )]
    Unsupported {
        /// The algorithm, by name or number.
        found: String,
    },
    /// An RSA key of another size than we take.
    #[error("it is an RSA key of {bits} bits (supported: 2048 to 8192)")]
    RsaSize {
        /// Bits of its modulus.
        bits: u32,
    },
    /// Well-formed, but not a key.
    #[error("it is not a valid {0} key")]
    Invalid(&'static str),
}

const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ID_ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const ID_ED448: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.113");

/// A public key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    kind: KeyKind,
    /// SubjectPublicKeyInfo, DER.
    spki: Vec<u8>,
    /// The key itself: RSAPublicKey, an EC point, 32 octets of Ed25519, 57 of Ed448.
    key: Vec<u8>,
}

impl PublicKey {
    /// From a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let spki = SubjectPublicKeyInfoRef::from_der(der)
            .map_err(|_| KeyError::Malformed("SubjectPublicKeyInfo"))?;
        let key = spki.subject_public_key.as_bytes().ok_or(KeyError::Malformed("SubjectPublicKeyInfo"))?;
        let kind = kind_of(&spki.algorithm, || rsa_bits(key))?;
        Ok(Self { kind, spki: der.to_vec(), key: key.to_vec() })
    }

    /// From the key of a pair.
    fn from_parts(kind: KeyKind, key: &[u8]) -> Result<Self, KeyError> {
        let malformed = |_| KeyError::Malformed("public key");
        let curve = match kind {
            KeyKind::Ecdsa(curve) => curve.oid().to_der().map_err(malformed)?,
            _ => Vec::new(),
        };
        let algorithm = match kind {
            KeyKind::Rsa(_) => AlgorithmIdentifierRef { oid: RSA_ENCRYPTION, parameters: Some(AnyRef::NULL) },
            KeyKind::Ecdsa(_) => AlgorithmIdentifierRef {
                oid: EC_PUBLIC_KEY,
                parameters: Some(AnyRef::try_from(&*curve).map_err(malformed)?),
            },
            KeyKind::Ed25519 => AlgorithmIdentifierRef { oid: ID_ED25519, parameters: None },
            KeyKind::Ed448 => AlgorithmIdentifierRef { oid: ID_ED448, parameters: None },
        };
        let subject_public_key = BitStringRef::from_bytes(key).map_err(malformed)?;
        let spki = SubjectPublicKeyInfoRef { algorithm, subject_public_key }.to_der().map_err(malformed)?;
        Ok(Self { kind, spki, key: key.to_vec() })
    }

    /// What kind of key it is.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The subjectPublicKey itself, without tag, length and unused bits.
    pub(super) fn bits(&self) -> &[u8] {
        &self.key
    }

    /// SHA-1 of the SubjectPublicKeyInfo, by which CERTREQ names authorities (RFC 7296 §3.7).
    pub fn hash(&self) -> [u8; 20] {
        Sha1::digest(&self.spki).into()
    }

    /// Whether `signature` is this key's over `message`. SHA-1 is verified like the others: whether it may be used
    /// is decided elsewhere.
    pub fn verify(&self, scheme: Scheme, message: &[u8], signature: &[u8]) -> bool {
        if (self.kind, scheme) == (KeyKind::Ed448, Scheme::Ed448) {
            return ed448::verify(&self.key, message, signature);
        }
        let Some(algorithm) = verification(self.kind, scheme) else { return false };
        UnparsedPublicKey::new(algorithm, &self.key).verify(message, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({}, {})", self.kind, data_encoding::HEXLOWER.encode(&self.hash()))
    }
}

fn verification(kind: KeyKind, scheme: Scheme) -> Option<&'static dyn lc::VerificationAlgorithm> {
    use Curve::{P256, P384, P521};
    use HashAlgorithm::{Sha1, Sha256, Sha384, Sha512};
    Some(match (kind, scheme) {
        (KeyKind::Rsa(_), Scheme::RsaPkcs1(Sha1)) => &lc::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        (KeyKind::Rsa(_), Scheme::RsaPkcs1(Sha256)) => &lc::RSA_PKCS1_2048_8192_SHA256,
        (KeyKind::Rsa(_), Scheme::RsaPkcs1(Sha384)) => &lc::RSA_PKCS1_2048_8192_SHA384,
        (KeyKind::Rsa(_), Scheme::RsaPkcs1(Sha512)) => &lc::RSA_PKCS1_2048_8192_SHA512,
        (KeyKind::Rsa(_), Scheme::RsaPss(Sha256)) => &lc::RSA_PSS_2048_8192_SHA256,
        (KeyKind::Rsa(_), Scheme::RsaPss(Sha384)) => &lc::RSA_PSS_2048_8192_SHA384,
        (KeyKind::Rsa(_), Scheme::RsaPss(Sha512)) => &lc::RSA_PSS_2048_8192_SHA512,
        (KeyKind::Ecdsa(P256), Scheme::Ecdsa(Sha256)) => &lc::ECDSA_P256_SHA256_ASN1,
        (KeyKind::Ecdsa(P256), Scheme::Ecdsa(Sha384)) => &lc::ECDSA_P256_SHA384_ASN1,
        (KeyKind::Ecdsa(P256), Scheme::Ecdsa(Sha512)) => &lc::ECDSA_P256_SHA512_ASN1,
        (KeyKind::Ecdsa(P384), Scheme::Ecdsa(Sha256)) => &lc::ECDSA_P384_SHA256_ASN1,
        (KeyKind::Ecdsa(P384), Scheme::Ecdsa(Sha384)) => &lc::ECDSA_P384_SHA384_ASN1,
        (KeyKind::Ecdsa(P384), Scheme::Ecdsa(Sha512)) => &lc::ECDSA_P384_SHA512_ASN1,
        (KeyKind::Ecdsa(P521), Scheme::Ecdsa(Sha256)) => &lc::ECDSA_P521_SHA256_ASN1,
        (KeyKind::Ecdsa(P521), Scheme::Ecdsa(Sha384)) => &lc::ECDSA_P521_SHA384_ASN1,
        (KeyKind::Ecdsa(P521), Scheme::Ecdsa(Sha512)) => &lc::ECDSA_P521_SHA512_ASN1,
        (KeyKind::Ed25519, Scheme::Ed25519) => &lc::ED25519,
        _ => return None,
    })
}

/// Bits of an RSAPublicKey's modulus.
fn rsa_bits(key: &[u8]) -> Option<u32> {
    let sequence = AnyRef::from_der(key).ok()?;
    modulus_bits(&mut SliceReader::new(sequence.value()).ok()?)
}

/// Bits of an RSAPrivateKey's modulus, which follows the version.
fn private_rsa_bits(key: &[u8]) -> Option<u32> {
    let sequence = AnyRef::from_der(key).ok()?;
    let mut fields = SliceReader::new(sequence.value()).ok()?;
    u8::decode(&mut fields).ok()?;
    modulus_bits(&mut fields)
}

fn modulus_bits(fields: &mut SliceReader<'_>) -> Option<u32> {
    let modulus = der::asn1::UintRef::decode(fields).ok()?;
    let first = modulus.as_bytes().first()?;
    u32::try_from(modulus.as_bytes().len()).ok()?.checked_mul(8)?.checked_sub(first.leading_zeros())
}

/// The kind of key that an AlgorithmIdentifier of a SubjectPublicKeyInfo or a PrivateKeyInfo names.
fn kind_of(
    algorithm: &AlgorithmIdentifierRef<'_>,
    bits: impl FnOnce() -> Option<u32>,
) -> Result<KeyKind, KeyError> {
    match algorithm.oid {
        RSA_ENCRYPTION => {
            let bits = bits().ok_or(KeyError::Invalid("RSA"))?;
            if (2048..=8192).contains(&bits) {
                Ok(KeyKind::Rsa(bits))
            } else {
                Err(KeyError::RsaSize { bits })
            }
        }
        EC_PUBLIC_KEY => {
            let named =
                algorithm.parameters_oid().map_err(|_| KeyError::Malformed("key on a named curve"))?;
            let curve = Curve::ALL.into_iter().find(|curve| curve.oid() == named);
            let unsupported = || KeyError::Unsupported { found: format!("ECDSA on the curve {named}") };
            curve.map(KeyKind::Ecdsa).ok_or_else(unsupported)
        }
        ID_ED25519 => Ok(KeyKind::Ed25519),
        ID_ED448 => Ok(KeyKind::Ed448),
        other => {
            let found = match other.to_string().as_str() {
                "1.2.840.10040.4.1" => "DSA".to_owned(),
                "1.2.840.113549.1.1.10" => "RSASSA-PSS alone".to_owned(),
                number => number.to_owned(),
            };
            Err(KeyError::Unsupported { found })
        }
    }
}

/// A private key. Never printed; wiped when it is freed.
pub struct PrivateKey {
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Ed448(Box<ed448::Pair>),
}

impl PrivateKey {
    /// From a PrivateKeyInfo (RFC 5958), "PRIVATE KEY" in PEM.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let (kind, key) = pkcs8_kind(der)?;
        match kind {
            Pkcs8Kind::Rsa => Self::rsa(RsaKeyPair::from_pkcs8(der).ok()),
            Pkcs8Kind::Ecdsa(curve) => {
                let pair = EcdsaKeyPair::from_pkcs8(curve.signing(), der);
                Self::ecdsa(curve, pair.map_err(|_| KeyError::Invalid("ECDSA"))?)
            }
            Pkcs8Kind::Ed25519 => {
                let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der);
                let pair = pair.map_err(|_| KeyError::Invalid("Ed25519"))?;
                let public = PublicKey::from_parts(KeyKind::Ed25519, pair.public_key().as_ref())?;
                Ok(Self { pair: Pair::Ed25519(pair), public })
            }
            Pkcs8Kind::Ed448 => {
                let pair = ed448::Pair::from_curve_private_key(key).ok_or(KeyError::Invalid("Ed448"))?;
                let public = PublicKey::from_parts(KeyKind::Ed448, &pair.public())?;
                Ok(Self { pair: Pair::Ed448(Box::new(pair)), public })
            }
        }
    }

    /// From an RSAPrivateKey (RFC 8017 A.1.2), "RSA PRIVATE KEY" in PEM.
    pub fn from_pkcs1(der: &[u8]) -> Result<Self, KeyError> {
        Self::rsa(RsaKeyPair::from_der(der).ok())
    }

    /// From an ECPrivateKey with its curve (RFC 5915), "EC PRIVATE KEY" in PEM.
    pub fn from_sec1(der: &[u8]) -> Result<Self, KeyError> {
        let pair = |curve: Curve| {
            let pair = EcdsaKeyPair::from_private_key_der(curve.signing(), der).ok()?;
            Some((curve, pair))
        };
        let (curve, pair) = Curve::ALL.into_iter().find_map(pair).ok_or(KeyError::Invalid("ECDSA"))?;
        Self::ecdsa(curve, pair)
    }

    /// From DER of any of the three forms.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        match Self::from_pkcs8(der) {
            Err(KeyError::Malformed(_)) => {
                Self::from_pkcs1(der).or_else(|_| Self::from_sec1(der)).map_err(|_| {
                    KeyError::Malformed("private key in DER: neither PKCS#8 nor PKCS#1 nor SEC 1 (RFC 5915)")
                })
            }
            result => result,
        }
    }

    fn rsa(pair: Option<RsaKeyPair>) -> Result<Self, KeyError> {
        let pair = pair.ok_or(KeyError::Invalid("RSA (2048 to 8192 bits)"))?;
        let key = pair.public_key().as_ref();
        let bits = rsa_bits(key).ok_or(KeyError::Invalid("RSA"))?;
        let public = PublicKey::from_parts(KeyKind::Rsa(bits), key)?;
        Ok(Self { pair: Pair::Rsa(pair), public })
    }

    fn ecdsa(curve: Curve, pair: EcdsaKeyPair) -> Result<Self, KeyError> {
        let public = PublicKey::from_parts(KeyKind::Ecdsa(curve), pair.public_key().as_ref())?;
        Ok(Self { pair: Pair::Ecdsa(pair), public })
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs; `None` for a scheme that this key cannot be used with: ECDSA signs with its curve's own hash only,
    /// and nothing is signed with SHA-1. AWS-LC takes what randomness a scheme needs from the system.
    pub fn sign(&self, scheme: Scheme, message: &[u8]) -> Option<Vec<u8>> {
        use HashAlgorithm::{Sha256, Sha384, Sha512};
        match (&self.pair, scheme) {
            (Pair::Rsa(pair), Scheme::RsaPkcs1(_) | Scheme::RsaPss(_)) => {
                let encoding: &dyn lc::RsaEncoding = match scheme {
                    Scheme::RsaPkcs1(Sha256) => &lc::RSA_PKCS1_SHA256,
                    Scheme::RsaPkcs1(Sha384) => &lc::RSA_PKCS1_SHA384,
                    Scheme::RsaPkcs1(Sha512) => &lc::RSA_PKCS1_SHA512,
                    Scheme::RsaPss(Sha256) => &lc::RSA_PSS_SHA256,
                    Scheme::RsaPss(Sha384) => &lc::RSA_PSS_SHA384,
                    Scheme::RsaPss(Sha512) => &lc::RSA_PSS_SHA512,
                    _ => return None,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &SystemRandom::new(), message, &mut signature).ok()?;
                Some(signature)
            }
            (Pair::Ecdsa(pair), Scheme::Ecdsa(hash)) => {
                let KeyKind::Ecdsa(curve) = self.public.kind else { return None };
                if hash != curve.hash() {
                    return None;
                }
                Some(pair.sign(&SystemRandom::new(), message).ok()?.as_ref().to_vec())
            }
            (Pair::Ed25519(pair), Scheme::Ed25519) => Some(pair.try_sign(message).ok()?.as_ref().to_vec()),
            (Pair::Ed448(pair), Scheme::Ed448) => Some(pair.sign(message)),
            _ => None,
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, …)", self.public.kind)
    }
}

enum Pkcs8Kind {
    Rsa,
    Ecdsa(Curve),
    Ed25519,
    Ed448,
}

/// What a PrivateKeyInfo is of, and its privateKey.
fn pkcs8_kind(der: &[u8]) -> Result<(Pkcs8Kind, &[u8]), KeyError> {
    let malformed = |_| KeyError::Malformed("PKCS#8 private key");
    let sequence = AnyRef::from_der(der).map_err(malformed)?;
    let mut fields = SliceReader::new(sequence.value()).map_err(malformed)?;
    u8::decode(&mut fields).map_err(malformed)?;
    let algorithm = AlgorithmIdentifierRef::decode(&mut fields).map_err(malformed)?;
    let key = fields.tlv_bytes().ok().and_then(|octets| <&der::asn1::OctetStringRef>::from_der(octets).ok());
    // An RSAPrivateKey begins with its version, then the modulus, as an RSAPublicKey does without.
    let bits = || private_rsa_bits(key?.as_bytes());
    let kind = match kind_of(&algorithm, bits)? {
        KeyKind::Rsa(_) => Pkcs8Kind::Rsa,
        KeyKind::Ecdsa(curve) => Pkcs8Kind::Ecdsa(curve),
        KeyKind::Ed25519 => Pkcs8Kind::Ed25519,
        KeyKind::Ed448 => Pkcs8Kind::Ed448,
    };
    Ok((kind, key.map(|key| key.as_bytes()).unwrap_or_default()))
}
