//! The cipher of the Encrypted payload (RFC 5282).

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm, Nonce, Tag};

const SALT_LEN: usize = 4;
const ICV_LEN: usize = 16;

/// Encryption of the IKE SA itself (transform type 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IkeAead {
    /// AES-GCM with a 16-octet ICV and a 128-bit key (RFC 5282).
    Aes128Gcm16,
    /// AES-GCM with a 16-octet ICV and a 256-bit key.
    Aes256Gcm16,
}

/// The ICV did not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the integrity check of the Encrypted payload failed")]
pub struct IntegrityError;

impl IkeAead {
    /// Octets of `SK_e`: key and salt.
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm16 => 16 + SALT_LEN,
            Self::Aes256Gcm16 => 32 + SALT_LEN,
        }
    }

    /// Bits of the Key Length attribute.
    pub fn key_bits(self) -> u16 {
        match self {
            Self::Aes128Gcm16 => 128,
            Self::Aes256Gcm16 => 256,
        }
    }

    /// Seals in place: `data` gets its ICV appended (RFC 5282). `sk_e` is key and salt, `iv` the explicit IV. Fails
    /// only if `sk_e` is of another length.
    pub fn seal(
        self,
        sk_e: &[u8],
        iv: [u8; 8],
        aad: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), IntegrityError> {
        let (key, nonce) = split(sk_e, iv)?;
        let tag = match self {
            Self::Aes128Gcm16 => {
                cipher::<Aes128Gcm>(key)?.encrypt_inout_detached(&nonce, aad, data.as_mut_slice().into())
            }
            Self::Aes256Gcm16 => {
                cipher::<Aes256Gcm>(key)?.encrypt_inout_detached(&nonce, aad, data.as_mut_slice().into())
            }
        };
        data.extend(tag.map_err(|_| IntegrityError)?);
        Ok(())
    }

    /// Opens in place: `data` is ciphertext and ICV, and becomes the plaintext with the ICV cut off.
    pub fn open(
        self,
        sk_e: &[u8],
        iv: [u8; 8],
        aad: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), IntegrityError> {
        let (key, nonce) = split(sk_e, iv)?;
        let len = data.len().checked_sub(ICV_LEN).ok_or(IntegrityError)?;
        let tag: [u8; ICV_LEN] = data.get(len..).and_then(|tag| tag.try_into().ok()).ok_or(IntegrityError)?;
        let tag = Tag::from(tag);
        data.truncate(len);
        let buffer = data.as_mut_slice().into();
        let opened = match self {
            Self::Aes128Gcm16 => cipher::<Aes128Gcm>(key)?.decrypt_inout_detached(&nonce, aad, buffer, &tag),
            Self::Aes256Gcm16 => cipher::<Aes256Gcm>(key)?.decrypt_inout_detached(&nonce, aad, buffer, &tag),
        };
        opened.map_err(|_| IntegrityError)
    }
}

fn split(sk_e: &[u8], iv: [u8; 8]) -> Result<(&[u8], Nonce<aes_gcm::aead::consts::U12>), IntegrityError> {
    let (key, salt) = sk_e.split_last_chunk::<SALT_LEN>().ok_or(IntegrityError)?;
    let mut nonce = [0; 12];
    nonce.iter_mut().zip(salt.iter().chain(&iv)).for_each(|(to, from)| *to = *from);
    Ok((key, nonce.into()))
}

fn cipher<C: KeyInit>(key: &[u8]) -> Result<C, IntegrityError> {
    C::new_from_slice(key).map_err(|_| IntegrityError)
}
