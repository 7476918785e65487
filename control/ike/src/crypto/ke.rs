//! Key exchange (RFC 7296 §2.12): X25519, the ECP groups, the MODP groups.

use std::fmt;

use p256::elliptic_curve::Generate;
use p256::elliptic_curve::sec1::ToSec1Point;
use rand_core::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::modp;

/// Key exchange methods (transform type 4), with their transform IDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum KeMethod {
    /// 2048-bit MODP group (RFC 3526).
    Modp2048 = 14,
    /// 3072-bit MODP group (RFC 3526).
    Modp3072 = 15,
    /// 256-bit random ECP group (RFC 5903).
    Ecp256 = 19,
    /// 384-bit random ECP group (RFC 5903).
    Ecp384 = 20,
    /// Curve25519 (RFC 8031).
    X25519 = 31,
}

impl KeMethod {
    /// Every method that is supported.
    pub const ALL: [Self; 5] = [Self::X25519, Self::Ecp384, Self::Ecp256, Self::Modp3072, Self::Modp2048];

    /// The transform ID.
    pub fn id(self) -> u16 {
        self as u16
    }

    /// The method of that transform ID.
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.id() == id)
    }

    /// Octets of a public value.
    pub fn public_len(self) -> usize {
        match self {
            Self::Modp2048 => modp::MODP_2048.len,
            Self::Modp3072 => modp::MODP_3072.len,
            Self::Ecp256 => 64,
            Self::Ecp384 => 96,
            Self::X25519 => 32,
        }
    }
}

/// Why a key exchange failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyExchangeError {
    /// The public value has another length than the method's.
    #[error("a {method:?} public value has {expected} octets, not {found}")]
    Length {
        /// The method.
        method: KeMethod,
        /// Its length.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// The public value is not a usable element of the group (RFC 6989, RFC 8031 §3).
    #[error("the peer's {method:?} public value is not a usable element of the group")]
    InvalidPublic {
        /// The method.
        method: KeMethod,
    },
}

/// Our half of a key exchange. Each kind zeroizes itself on drop; never printed.
pub struct KeSecret(Half);

enum Half {
    Modp(KeMethod, Zeroizing<[u8; modp::EXPONENT_LEN]>),
    Ecp256(p256::SecretKey),
    Ecp384(p384::SecretKey),
    X25519(x25519_dalek::StaticSecret),
}

impl KeSecret {
    /// The method that it is for.
    pub fn method(&self) -> KeMethod {
        match &self.0 {
            Half::Modp(method, _) => *method,
            Half::Ecp256(_) => KeMethod::Ecp256,
            Half::Ecp384(_) => KeMethod::Ecp384,
            Half::X25519(_) => KeMethod::X25519,
        }
    }
}

impl fmt::Debug for KeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeSecret({:?}, …)", self.method())
    }
}

/// g^ir, in the form that RFC 7296 §2.14 takes. Zeroized on drop, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SharedSecret(pub Vec<u8>);

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(…)")
    }
}

/// Makes a key pair: the secret half and the public value for the KE payload.
pub fn generate(method: KeMethod, rng: &mut dyn CryptoRng) -> Result<(KeSecret, Vec<u8>), KeyExchangeError> {
    let unusable = KeyExchangeError::InvalidPublic { method };
    match method {
        KeMethod::Modp2048 => modp_pair(method, &modp::MODP_2048, rng).ok_or(unusable),
        KeMethod::Modp3072 => modp_pair(method, &modp::MODP_3072, rng).ok_or(unusable),
        KeMethod::Ecp256 => {
            let secret = p256::SecretKey::generate_from_rng(rng);
            let public = secret.public_key().to_sec1_point(false);
            Ok((KeSecret(Half::Ecp256(secret)), without_form(public.as_bytes())))
        }
        KeMethod::Ecp384 => {
            let secret = p384::SecretKey::generate_from_rng(rng);
            let public = secret.public_key().to_sec1_point(false);
            Ok((KeSecret(Half::Ecp384(secret)), without_form(public.as_bytes())))
        }
        KeMethod::X25519 => {
            let mut octets = Zeroizing::new([0; 32]);
            rng.fill_bytes(octets.as_mut());
            let secret = x25519_dalek::StaticSecret::from(*octets);
            let public = x25519_dalek::PublicKey::from(&secret);
            Ok((KeSecret(Half::X25519(secret)), public.to_bytes().to_vec()))
        }
    }
}

/// Makes the shared secret from the peer's public value, which is checked first.
pub fn derive(secret: &KeSecret, peer_public: &[u8]) -> Result<SharedSecret, KeyExchangeError> {
    let method = secret.method();
    let (expected, found) = (method.public_len(), peer_public.len());
    if found != expected {
        return Err(KeyExchangeError::Length { method, expected, found });
    }
    let shared = match &secret.0 {
        Half::Modp(KeMethod::Modp2048, exponent) => modp_shared(&modp::MODP_2048, peer_public, exponent),
        Half::Modp(_, exponent) => modp_shared(&modp::MODP_3072, peer_public, exponent),
        Half::Ecp256(secret) => {
            p256::PublicKey::from_sec1_bytes(&uncompressed(peer_public)).ok().map(|public| {
                let shared = p256::ecdh::diffie_hellman(secret.to_nonzero_scalar(), public.as_affine());
                shared.raw_secret_bytes().to_vec()
            })
        }
        Half::Ecp384(secret) => {
            p384::PublicKey::from_sec1_bytes(&uncompressed(peer_public)).ok().map(|public| {
                let shared = p384::ecdh::diffie_hellman(secret.to_nonzero_scalar(), public.as_affine());
                shared.raw_secret_bytes().to_vec()
            })
        }
        Half::X25519(secret) => <[u8; 32]>::try_from(peer_public).ok().and_then(|public| {
            let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(public));
            // RFC 8031 §3.1: an all-zero result must be refused.
            shared.was_contributory().then(|| shared.to_bytes().to_vec())
        }),
    };
    shared.map(SharedSecret).ok_or(KeyExchangeError::InvalidPublic { method })
}

fn modp_pair(method: KeMethod, group: &modp::Group, rng: &mut dyn CryptoRng) -> Option<(KeSecret, Vec<u8>)> {
    let mut exponent = Zeroizing::new([0; modp::EXPONENT_LEN]);
    rng.fill_bytes(exponent.as_mut());
    let public = group.public(&exponent)?;
    Some((KeSecret(Half::Modp(method, exponent)), public))
}

fn modp_shared(group: &modp::Group, public: &[u8], exponent: &[u8; modp::EXPONENT_LEN]) -> Option<Vec<u8>> {
    group.power(public, exponent).map(|shared| shared.to_vec())
}

/// RFC 5903 §7: x and y, without SEC 1's first octet, which names the form.
fn without_form(point: &[u8]) -> Vec<u8> {
    point.get(1..).unwrap_or_default().to_vec()
}

fn uncompressed(public: &[u8]) -> Vec<u8> {
    const UNCOMPRESSED: u8 = 4;
    let mut point = vec![UNCOMPRESSED];
    point.extend(public);
    point
}
