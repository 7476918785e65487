//! How an IKE SA protects its messages: what stands in the body of an Encrypted payload (RFC 7296 §3.14) or of an
//! Encrypted Fragment payload (RFC 7383 §2.5), behind the generic header: IV, encrypted content with padding, ICV.

use subtle::ConstantTimeEq as _;

use super::cipher::IkeEncr;
use super::mac::{HmacSha1, HmacSha256, HmacSha384, HmacSha512, aes_cmac, aes_xcbc, hmac};

/// Integrity algorithms (transform type 3), with their transform IDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum IkeInteg {
    /// AUTH_HMAC_SHA1_96 (RFC 2404). For old peers: only where it is named.
    HmacSha1 = 2,
    /// AUTH_AES_XCBC_96 (RFC 3566).
    AesXcbc = 5,
    /// AUTH_AES_CMAC_96 (RFC 4494).
    AesCmac = 8,
    /// AUTH_HMAC_SHA2_256_128 (RFC 4868).
    HmacSha256 = 12,
    /// AUTH_HMAC_SHA2_384_192.
    HmacSha384 = 13,
    /// AUTH_HMAC_SHA2_512_256.
    HmacSha512 = 14,
}

impl IkeInteg {
    /// Every one that is supported.
    pub const ALL: [Self; 6] =
        [Self::HmacSha256, Self::HmacSha384, Self::HmacSha512, Self::AesXcbc, Self::AesCmac, Self::HmacSha1];

    /// The transform ID.
    pub fn id(self) -> u16 {
        self as u16
    }

    /// Octets of `SK_a`.
    pub fn key_len(self) -> usize {
        match self {
            Self::AesXcbc | Self::AesCmac => 16,
            Self::HmacSha1 => 20,
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }

    fn icv_len(self) -> usize {
        match self {
            Self::HmacSha1 | Self::AesXcbc | Self::AesCmac => 12,
            Self::HmacSha256 => 16,
            Self::HmacSha384 => 24,
            Self::HmacSha512 => 32,
        }
    }

    fn icv(self, sk_a: &[u8], data: &[&[u8]]) -> Vec<u8> {
        let mut code = match self {
            Self::HmacSha1 => hmac::<HmacSha1>(sk_a, data),
            Self::HmacSha256 => hmac::<HmacSha256>(sk_a, data),
            Self::HmacSha384 => hmac::<HmacSha384>(sk_a, data),
            Self::HmacSha512 => hmac::<HmacSha512>(sk_a, data),
            Self::AesXcbc => aes_xcbc(sk_a, data),
            Self::AesCmac => aes_cmac(sk_a, data),
        };
        code.truncate(self.icv_len());
        code
    }
}

/// An AEAD, or a cipher with an integrity algorithm that covers what was encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Protection {
    encr: IkeEncr,
    integ: Option<IkeInteg>,
}

/// The keys of one direction.
#[derive(Clone, Copy)]
pub struct DirectionKeys<'a> {
    /// Encryption: key and salt.
    pub sk_e: &'a [u8],
    /// Integrity; empty with an AEAD.
    pub sk_a: &'a [u8],
}

/// The ICV did not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the integrity check of the Encrypted payload failed")]
pub struct IntegrityError;

impl Protection {
    /// `None` unless they go together: an integrity algorithm for whatever is no AEAD, and for nothing else.
    pub fn new(encr: IkeEncr, integ: Option<IkeInteg>) -> Option<Self> {
        (encr.is_aead() != integ.is_some()).then_some(Self { encr, integ })
    }

    /// The encryption algorithm.
    pub fn encr(self) -> IkeEncr {
        self.encr
    }

    /// The integrity algorithm beside it.
    pub fn integ(self) -> Option<IkeInteg> {
        self.integ
    }

    /// Octets of `SK_e`: key and salt.
    pub fn encr_key_len(self) -> usize {
        self.encr.key_len()
    }

    /// Octets of `SK_a`.
    pub fn integ_key_len(self) -> usize {
        self.integ.map_or(0, IkeInteg::key_len)
    }

    /// Octets that [`Protection::seal`] makes of that many.
    pub fn sealed_len(self, content: usize) -> usize {
        self.encr.iv_len() + (content + 1).next_multiple_of(self.encr.block_len()) + self.icv_len()
    }

    /// The most octets of content that [`Protection::seal`] puts into that many; zero if none fit.
    pub fn content_len(self, sealed: usize) -> usize {
        let text = sealed.saturating_sub(self.encr.iv_len() + self.icv_len());
        (text - text % self.encr.block_len()).saturating_sub(1)
    }

    /// Seals the content of a message whose octets up to here are `head`. `number` must never repeat under these keys.
    /// `None` only if the keys are of another length.
    pub fn seal(self, keys: DirectionKeys<'_>, number: u64, head: &[u8], content: &[u8]) -> Option<Vec<u8>> {
        let len = (content.len() + 1).next_multiple_of(self.encr.block_len());
        let mut text = Vec::with_capacity(len);
        text.extend_from_slice(content);
        text.resize(len - 1, 0);
        text.push((len - 1 - content.len()) as u8);
        self.seal_text(keys, number, head, &text)
    }

    /// The same of content with its padding and pad length.
    pub(crate) fn seal_text(
        self,
        keys: DirectionKeys<'_>,
        number: u64,
        head: &[u8],
        text: &[u8],
    ) -> Option<Vec<u8>> {
        let mut body = self.encr.iv(keys.sk_e, number)?;
        let iv_len = body.len();
        body.reserve_exact(text.len() + self.icv_len());
        body.extend_from_slice(text);
        let (iv, text) = body.split_at_mut_checked(iv_len)?;
        let icv = self.encr.encrypt(keys.sk_e, iv, head, text)?;
        let icv = match self.integ {
            None => icv,
            Some(integ) => integ.icv(keys.sk_a, &[head, &body]),
        };
        body.extend_from_slice(&icv);
        Some(body)
    }

    /// Opens what stands behind `head`: the content, with its padding and pad length.
    pub fn open(self, keys: DirectionKeys<'_>, head: &[u8], body: &[u8]) -> Result<Vec<u8>, IntegrityError> {
        let sealed = body.len().checked_sub(self.icv_len()).and_then(|len| body.split_at_checked(len));
        let (covered, icv) = sealed.ok_or(IntegrityError)?;
        if let Some(integ) = self.integ
            && !bool::from(integ.icv(keys.sk_a, &[head, covered]).ct_eq(icv))
        {
            return Err(IntegrityError);
        }
        let (iv, text) = covered.split_at_checked(self.encr.iv_len()).ok_or(IntegrityError)?;
        let mut text = text.to_vec();
        self.encr.decrypt(keys.sk_e, iv, head, &mut text, icv).ok_or(IntegrityError)?;
        Ok(text)
    }

    fn icv_len(self) -> usize {
        self.integ.map_or(self.encr.icv_len(), IkeInteg::icv_len)
    }
}
