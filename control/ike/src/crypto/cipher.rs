//! Encryption of an IKE SA's messages (transform type 1): AEADs (RFC 5282, RFC 7634), and AES-CBC and AES-CTR (RFC 5930),
//! which need an integrity algorithm beside them.

use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt};
use aes::cipher::{InnerIvInit, StreamCipherCore, typenum::consts};
use aes::{Aes128, Aes128Dec, Aes128Enc, Aes192, Aes192Dec, Aes192Enc, Aes256, Aes256Dec, Aes256Enc};
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, AesGcm, KeyInit};
use chacha20poly1305::ChaCha20Poly1305;

/// Octets of a nonce, of which packets carry all but the salt.
pub(super) const NONCE_LEN: usize = 12;

/// Octets of an AES key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AesKey {
    /// 128 bits.
    Aes128 = 16,
    /// 192 bits.
    Aes192 = 24,
    /// 256 bits.
    Aes256 = 32,
}

/// Encryption of the IKE SA itself (transform type 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IkeEncr {
    /// ENCR_AES_CBC (RFC 3602).
    AesCbc(AesKey),
    /// ENCR_AES_CTR (RFC 5930).
    AesCtr(AesKey),
    /// AES-GCM with an 8-octet ICV (RFC 5282).
    AesGcm8(AesKey),
    /// AES-GCM with a 12-octet ICV.
    AesGcm12(AesKey),
    /// AES-GCM with a 16-octet ICV.
    AesGcm16(AesKey),
    /// ENCR_CHACHA20_POLY1305 (RFC 7634).
    ChaCha20Poly1305,
}

impl IkeEncr {
    /// Every one that is supported.
    pub fn all() -> impl Iterator<Item = Self> {
        let of_aes = [Self::AesGcm16, Self::AesGcm12, Self::AesGcm8, Self::AesCbc, Self::AesCtr];
        let keys = [AesKey::Aes256, AesKey::Aes192, AesKey::Aes128];
        let aes = of_aes.into_iter().flat_map(move |cipher| keys.into_iter().map(cipher));
        aes.chain([Self::ChaCha20Poly1305])
    }

    /// The transform ID.
    pub fn id(self) -> u16 {
        match self {
            Self::AesCbc(_) => 12,
            Self::AesCtr(_) => 13,
            Self::AesGcm8(_) => 18,
            Self::AesGcm12(_) => 19,
            Self::AesGcm16(_) => 20,
            Self::ChaCha20Poly1305 => 28,
        }
    }

    /// Bits of the Key Length attribute; `None` where there is but one length, which is not stated.
    pub fn key_bits(self) -> Option<u16> {
        self.aes_key().map(|key| key as u16 * 8)
    }

    /// Whether it brings its own integrity.
    pub fn is_aead(self) -> bool {
        self.icv_len() > 0
    }

    /// Octets of `SK_e`: key and salt.
    pub fn key_len(self) -> usize {
        let key = self.aes_key().map_or(32, |key| key as usize);
        key + NONCE_LEN - self.explicit_nonce_len()
    }

    fn aes_key(self) -> Option<AesKey> {
        match self {
            Self::AesCbc(key)
            | Self::AesCtr(key)
            | Self::AesGcm8(key)
            | Self::AesGcm12(key)
            | Self::AesGcm16(key) => Some(key),
            Self::ChaCha20Poly1305 => None,
        }
    }

    /// Octets of the nonce that no salt gives.
    fn explicit_nonce_len(self) -> usize {
        if matches!(self, Self::AesCbc(_)) { NONCE_LEN } else { 8 }
    }

    /// Octets of IV in a message.
    pub(super) fn iv_len(self) -> usize {
        if matches!(self, Self::AesCbc(_)) { BLOCK } else { 8 }
    }

    /// What the octets of the text must be a multiple of.
    pub(super) fn block_len(self) -> usize {
        if matches!(self, Self::AesCbc(_)) { BLOCK } else { 1 }
    }

    /// Octets of ICV; zero if it has none of its own.
    pub(super) fn icv_len(self) -> usize {
        match self {
            Self::AesCbc(_) | Self::AesCtr(_) => 0,
            Self::AesGcm8(_) => 8,
            Self::AesGcm12(_) => 12,
            Self::AesGcm16(_) | Self::ChaCha20Poly1305 => 16,
        }
    }

    /// The IV of the message with that number, which never repeats under a key. CBC's must not be foreseen either: it is
    /// the number encrypted under the same key (NIST SP 800-38A, Appendix C). `None` if `sk_e` is of another length.
    pub(super) fn iv(self, sk_e: &[u8], number: u64) -> Option<Vec<u8>> {
        let Self::AesCbc(key) = self else { return Some(number.to_be_bytes().to_vec()) };
        let mut block = Block::from((u128::from(number) << 64).to_be_bytes());
        match key {
            AesKey::Aes128 => Aes128Enc::new_from_slice(sk_e).ok()?.encrypt_block(&mut block),
            AesKey::Aes192 => Aes192Enc::new_from_slice(sk_e).ok()?.encrypt_block(&mut block),
            AesKey::Aes256 => Aes256Enc::new_from_slice(sk_e).ok()?.encrypt_block(&mut block),
        }
        Some(block.to_vec())
    }

    /// Encrypts in place; gives the ICV of an AEAD, which covers `aad` and the text, else nothing. `None` if key, IV or
    /// text is of an impossible length.
    pub(super) fn encrypt(self, sk_e: &[u8], iv: &[u8], aad: &[u8], text: &mut [u8]) -> Option<Vec<u8>> {
        use AesKey::{Aes128 as K128, Aes192 as K192, Aes256 as K256};
        use consts::{U8, U12, U16};
        let seal = match self {
            Self::AesGcm8(K128) => seal::<Gcm<Aes128, U8>>,
            Self::AesGcm8(K192) => seal::<Gcm<Aes192, U8>>,
            Self::AesGcm8(K256) => seal::<Gcm<Aes256, U8>>,
            Self::AesGcm12(K128) => seal::<Gcm<Aes128, U12>>,
            Self::AesGcm12(K192) => seal::<Gcm<Aes192, U12>>,
            Self::AesGcm12(K256) => seal::<Gcm<Aes256, U12>>,
            Self::AesGcm16(K128) => seal::<Gcm<Aes128, U16>>,
            Self::AesGcm16(K192) => seal::<Gcm<Aes192, U16>>,
            Self::AesGcm16(K256) => seal::<Gcm<Aes256, U16>>,
            Self::ChaCha20Poly1305 => seal::<ChaCha20Poly1305>,
            Self::AesCbc(key) => {
                let encrypt = match key {
                    K128 => cbc_encrypt::<Aes128Enc>,
                    K192 => cbc_encrypt::<Aes192Enc>,
                    K256 => cbc_encrypt::<Aes256Enc>,
                };
                return encrypt(sk_e, iv, text).map(|()| Vec::new());
            }
            Self::AesCtr(key) => return ctr(key, sk_e, iv, text).map(|()| Vec::new()),
        };
        seal(sk_e, iv, aad, text)
    }

    /// Decrypts in place. `None` if an AEAD's ICV is wrong, or a length impossible; the text is of no use then.
    pub(super) fn decrypt(
        self,
        sk_e: &[u8],
        iv: &[u8],
        aad: &[u8],
        text: &mut [u8],
        icv: &[u8],
    ) -> Option<()> {
        use AesKey::{Aes128 as K128, Aes192 as K192, Aes256 as K256};
        use consts::{U8, U12, U16};
        let open = match self {
            Self::AesGcm8(K128) => open::<Gcm<Aes128, U8>>,
            Self::AesGcm8(K192) => open::<Gcm<Aes192, U8>>,
            Self::AesGcm8(K256) => open::<Gcm<Aes256, U8>>,
            Self::AesGcm12(K128) => open::<Gcm<Aes128, U12>>,
            Self::AesGcm12(K192) => open::<Gcm<Aes192, U12>>,
            Self::AesGcm12(K256) => open::<Gcm<Aes256, U12>>,
            Self::AesGcm16(K128) => open::<Gcm<Aes128, U16>>,
            Self::AesGcm16(K192) => open::<Gcm<Aes192, U16>>,
            Self::AesGcm16(K256) => open::<Gcm<Aes256, U16>>,
            Self::ChaCha20Poly1305 => open::<ChaCha20Poly1305>,
            Self::AesCbc(key) => {
                let decrypt = match key {
                    K128 => cbc_decrypt::<Aes128Dec>,
                    K192 => cbc_decrypt::<Aes192Dec>,
                    K256 => cbc_decrypt::<Aes256Dec>,
                };
                return decrypt(sk_e, iv, text);
            }
            Self::AesCtr(key) => return ctr(key, sk_e, iv, text),
        };
        open(sk_e, iv, aad, text, icv)
    }
}

type Gcm<C, Icv> = AesGcm<C, consts::U12, Icv>;
type Block = Array<u8, consts::U16>;
const BLOCK: usize = 16;

/// The cipher and the nonce: the key's last four octets are the salt (RFC 5282 §4, RFC 7634 §2, RFC 5930 §2).
fn keyed<C: KeyInit>(sk_e: &[u8], iv: &[u8]) -> Option<(C, [u8; NONCE_LEN])> {
    let (key, salt) = sk_e.split_last_chunk::<4>()?;
    let nonce = <[u8; NONCE_LEN]>::try_from([salt, iv].concat()).ok()?;
    Some((C::new_from_slice(key).ok()?, nonce))
}

fn seal<C>(sk_e: &[u8], iv: &[u8], aad: &[u8], text: &mut [u8]) -> Option<Vec<u8>>
where
    C: KeyInit + AeadInOut<NonceSize = consts::U12>,
{
    let (cipher, nonce) = keyed::<C>(sk_e, iv)?;
    let icv = cipher.encrypt_inout_detached((&nonce).into(), aad, InOutBuf::from(text)).ok()?;
    Some(icv.to_vec())
}

fn open<C>(sk_e: &[u8], iv: &[u8], aad: &[u8], text: &mut [u8], icv: &[u8]) -> Option<()>
where
    C: KeyInit + AeadInOut<NonceSize = consts::U12>,
{
    let (cipher, nonce) = keyed::<C>(sk_e, iv)?;
    cipher.decrypt_inout_detached((&nonce).into(), aad, InOutBuf::from(text), icv.try_into().ok()?).ok()
}

fn cbc_encrypt<C>(sk_e: &[u8], iv: &[u8], text: &mut [u8]) -> Option<()>
where
    C: KeyInit + BlockCipherEncrypt<BlockSize = consts::U16>,
{
    let cipher = C::new_from_slice(sk_e).ok()?;
    cbc::Encryptor::inner_iv_init(cipher, iv.try_into().ok()?).encrypt_blocks(blocks(text)?);
    Some(())
}

fn cbc_decrypt<C>(sk_e: &[u8], iv: &[u8], text: &mut [u8]) -> Option<()>
where
    C: KeyInit + BlockCipherDecrypt<BlockSize = consts::U16>,
{
    let cipher = C::new_from_slice(sk_e).ok()?;
    cbc::Decryptor::inner_iv_init(cipher, iv.try_into().ok()?).decrypt_blocks(blocks(text)?);
    Some(())
}

/// The text as whole blocks, if it is.
fn blocks(text: &mut [u8]) -> Option<&mut [Block]> {
    let (blocks, rest) = text.as_chunks_mut();
    rest.is_empty().then(|| Array::cast_slice_from_core_mut(blocks))
}

/// Counter mode works the same both ways.
fn ctr(key: AesKey, sk_e: &[u8], iv: &[u8], text: &mut [u8]) -> Option<()> {
    fn with<C>(sk_e: &[u8], iv: &[u8], text: &mut [u8]) -> Option<()>
    where
        C: KeyInit + BlockCipherEncrypt<BlockSize = consts::U16>,
    {
        let (cipher, nonce) = keyed::<C>(sk_e, iv)?;
        let block = Block::try_from([&nonce[..], &1_u32.to_be_bytes()].concat().as_slice()).ok()?;
        let core = ctr::CtrCore::<C, ctr::flavors::Ctr32BE>::inner_iv_init(cipher, &block);
        core.try_apply_keystream_partial(InOutBuf::from(text)).ok()
    }
    match key {
        AesKey::Aes128 => with::<Aes128Enc>(sk_e, iv, text),
        AesKey::Aes192 => with::<Aes192Enc>(sk_e, iv, text),
        AesKey::Aes256 => with::<Aes256Enc>(sk_e, iv, text),
    }
}
