//! The cryptography of IKE: key exchange, pseudorandom functions, key derivation (RFC 7296 §2.13 to §2.18), the
//! Encrypted payload's AEAD (RFC 5282). Every function is pure; secrets are zeroized on drop and never printed.

use std::fmt;

use rand_core::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop};

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

/// Pseudorandom functions (transform type 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Prf {
    /// PRF_HMAC_SHA2_256 (RFC 4868).
    HmacSha256 = 5,
    /// PRF_HMAC_SHA2_384.
    HmacSha384 = 6,
    /// PRF_HMAC_SHA2_512.
    HmacSha512 = 7,
}

/// Encryption of the IKE SA itself (transform type 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IkeAead {
    /// AES-GCM with a 16-octet ICV and a 128-bit key (RFC 5282).
    Aes128Gcm16,
    /// AES-GCM with a 16-octet ICV and a 256-bit key.
    Aes256Gcm16,
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

/// Our half of a key exchange. Zeroized on drop.
pub struct KeSecret {}

impl fmt::Debug for KeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeSecret(…)")
    }
}

/// g^ir, in the form that RFC 7296 §2.14 takes. Zeroized on drop.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SharedSecret(pub Vec<u8>);

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(…)")
    }
}

/// Makes a key pair: the secret half and the public value for the KE payload.
pub fn generate(
    _method: KeMethod,
    _rng: &mut dyn CryptoRng,
) -> Result<(KeSecret, Vec<u8>), KeyExchangeError> {
    todo!()
}

/// Makes the shared secret from the peer's public value, which is checked first.
pub fn derive(_secret: &KeSecret, _peer_public: &[u8]) -> Result<SharedSecret, KeyExchangeError> {
    todo!()
}

/// The keys of an IKE SA (RFC 7296 §2.14). `SK_ei` and `SK_er` are key and salt; there is no `SK_a*` with AEADs.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct IkeKeys {
    /// Derives CHILD SA keys.
    pub sk_d: Vec<u8>,
    /// Encryption, initiator to responder.
    pub sk_ei: Vec<u8>,
    /// Encryption, responder to initiator.
    pub sk_er: Vec<u8>,
    /// AUTH of the initiator.
    pub sk_pi: Vec<u8>,
    /// AUTH of the responder.
    pub sk_pr: Vec<u8>,
}

impl fmt::Debug for IkeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IkeKeys(…)")
    }
}

/// Nonces and SPIs of the IKE_SA_INIT exchange, as KDF input.
#[derive(Debug, Clone, Copy)]
pub struct KdfInput<'a> {
    /// Ni, without its payload header.
    pub nonce_i: &'a [u8],
    /// Nr.
    pub nonce_r: &'a [u8],
    /// SPIi.
    pub spi_i: [u8; 8],
    /// SPIr.
    pub spi_r: [u8; 8],
}

impl Prf {
    /// `prf(key, data)`, data given in pieces.
    pub fn compute(self, _key: &[u8], _data: &[&[u8]]) -> Vec<u8> {
        todo!()
    }

    /// `prf+(key, seed)`, `len` octets (RFC 7296 §2.13).
    pub fn plus(self, _key: &[u8], _seed: &[&[u8]], _len: usize) -> Vec<u8> {
        todo!()
    }
}

/// SKEYSEED and the seven keys of a new IKE SA (RFC 7296 §2.14).
pub fn derive_ike_keys(_prf: Prf, _encr: IkeAead, _shared: &SharedSecret, _input: KdfInput<'_>) -> IkeKeys {
    todo!()
}

/// KEYMAT of a CHILD SA (RFC 7296 §2.17): `len` octets, initiator-to-responder key first.
pub fn derive_child_keymat(
    _prf: Prf,
    _sk_d: &[u8],
    _shared: Option<&SharedSecret>,
    _nonce_i: &[u8],
    _nonce_r: &[u8],
    _len: usize,
) -> zeroize::Zeroizing<Vec<u8>> {
    todo!()
}

/// The AUTH octets of a shared key (RFC 7296 §2.15): `prf(prf(key, "Key Pad for IKEv2"), signed octets)`, where
/// the signed octets are `message | nonce | prf(SK_p, ID payload without its header)`.
pub fn psk_auth(
    _prf: Prf,
    _secret: &[u8],
    _init_message: &[u8],
    _peer_nonce: &[u8],
    _sk_p: &[u8],
    _id_payload_body: &[u8],
) -> Vec<u8> {
    todo!()
}

/// The ICV did not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the integrity check of the Encrypted payload failed")]
pub struct IntegrityError;

impl IkeAead {
    /// Octets of `SK_e`: key and salt.
    pub fn key_len(self) -> usize {
        todo!()
    }

    /// Seals in place: `data` gets its ICV appended (RFC 5282). `sk_e` is key and salt, `iv` the explicit IV.
    pub fn seal(
        self,
        _sk_e: &[u8],
        _iv: [u8; 8],
        _aad: &[u8],
        _data: &mut Vec<u8>,
    ) -> Result<(), IntegrityError> {
        todo!()
    }

    /// Opens in place: `data` is ciphertext and ICV, and becomes the plaintext with the ICV cut off.
    pub fn open(
        self,
        _sk_e: &[u8],
        _iv: [u8; 8],
        _aad: &[u8],
        _data: &mut Vec<u8>,
    ) -> Result<(), IntegrityError> {
        todo!()
    }
}
