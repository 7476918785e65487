//! Pseudorandom functions and key derivation (RFC 7296 §2.13 to §2.17).

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Sha256, Sha384, Sha512};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{IkeAead, SharedSecret};

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

impl Prf {
    /// Every PRF that is supported.
    pub const ALL: [Self; 3] = [Self::HmacSha256, Self::HmacSha384, Self::HmacSha512];

    /// The transform ID.
    pub fn id(self) -> u16 {
        self as u16
    }

    /// Octets of output, and of the preferred key.
    pub fn len(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }

    /// `prf(key, data)`, data given in pieces.
    pub fn compute(self, key: &[u8], data: &[&[u8]]) -> Vec<u8> {
        match self {
            Self::HmacSha256 => hmac::<Hmac<Sha256>>(key, data),
            Self::HmacSha384 => hmac::<Hmac<Sha384>>(key, data),
            Self::HmacSha512 => hmac::<Hmac<Sha512>>(key, data),
        }
    }

    /// `prf+(key, seed)`, `len` octets, 255 outputs at most (RFC 7296 §2.13).
    pub fn plus(self, key: &[u8], seed: &[&[u8]], len: usize) -> Zeroizing<Vec<u8>> {
        prf_plus(|data| self.compute(key, data), seed, len)
    }
}

fn hmac<M: Mac + KeyInit>(key: &[u8], data: &[&[u8]]) -> Vec<u8> {
    // HMAC takes keys of any length.
    let Ok(mut mac) = <M as KeyInit>::new_from_slice(key) else { return Vec::new() };
    data.iter().for_each(|piece| mac.update(piece));
    mac.finalize().into_bytes().to_vec()
}

fn prf_plus(prf: impl Fn(&[&[u8]]) -> Vec<u8>, seed: &[&[u8]], len: usize) -> Zeroizing<Vec<u8>> {
    let mut stream = Zeroizing::new(Vec::with_capacity(len + 64));
    let mut block = Zeroizing::new(Vec::new());
    for counter in 1..=u8::MAX {
        if stream.len() >= len {
            break;
        }
        let mut data: Vec<&[u8]> = vec![&block];
        data.extend(seed);
        let number = [counter];
        data.push(&number);
        block = Zeroizing::new(prf(&data));
        stream.extend_from_slice(&block);
    }
    stream.truncate(len);
    stream
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

/// SKEYSEED and the seven keys of a new IKE SA (RFC 7296 §2.14).
pub fn derive_ike_keys(prf: Prf, encr: IkeAead, shared: &SharedSecret, input: KdfInput<'_>) -> IkeKeys {
    let nonces = [input.nonce_i, input.nonce_r].concat();
    let skeyseed = Zeroizing::new(prf.compute(&nonces, &[&shared.0]));
    let lens = [prf.len(), encr.key_len(), encr.key_len(), prf.len(), prf.len()];
    let seed: [&[u8]; 4] = [input.nonce_i, input.nonce_r, &input.spi_i, &input.spi_r];
    let keymat = prf.plus(&skeyseed, &seed, lens.iter().sum());
    let mut rest = keymat.as_slice();
    let [sk_d, sk_ei, sk_er, sk_pi, sk_pr] = lens.map(|len| {
        let (key, left) = rest.split_at_checked(len).unwrap_or_default();
        rest = left;
        key.to_vec()
    });
    IkeKeys { sk_d, sk_ei, sk_er, sk_pi, sk_pr }
}

/// KEYMAT of a CHILD SA (RFC 7296 §2.17): `len` octets, initiator-to-responder key first.
pub fn derive_child_keymat(
    prf: Prf,
    sk_d: &[u8],
    shared: Option<&SharedSecret>,
    nonce_i: &[u8],
    nonce_r: &[u8],
    len: usize,
) -> Zeroizing<Vec<u8>> {
    let shared = shared.map_or(&[][..], |shared| &shared.0);
    prf.plus(sk_d, &[shared, nonce_i, nonce_r], len)
}

/// The AUTH octets of a shared key (RFC 7296 §2.15): `prf(prf(key, "Key Pad for IKEv2"), signed octets)`, where
/// the signed octets are `message | nonce | prf(SK_p, ID payload without its header)`.
pub fn psk_auth(
    prf: Prf,
    secret: &[u8],
    init_message: &[u8],
    peer_nonce: &[u8],
    sk_p: &[u8],
    id_payload_body: &[u8],
) -> Vec<u8> {
    let key = Zeroizing::new(prf.compute(secret, &[b"Key Pad for IKEv2"]));
    let maced_id = prf.compute(sk_p, &[id_payload_body]);
    prf.compute(&key, &[init_message, peer_nonce, &maced_id])
}
