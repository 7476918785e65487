//! The algorithms of ESP and what each of them asks of packets and keys, as one table; and the keys themselves.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// What makes the text unreadable: an encryption transform of IKE without its key length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cipher {
    /// AES-GCM with a 16-octet ICV (RFC 4106).
    AesGcm16,
    /// AES-GCM with a 12-octet ICV (RFC 4106).
    AesGcm12,
    /// AES-GCM with an 8-octet ICV (RFC 4106).
    AesGcm8,
    /// Integrity by AES-GMAC and no encryption (ENCR_NULL_AUTH_AES_GMAC, RFC 4543).
    AesGmac,
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
    /// AES-CBC (RFC 3602).
    AesCbc,
    /// AES in counter mode (RFC 3686).
    AesCtr,
    /// No encryption (RFC 2410).
    Null,
}

impl Cipher {
    /// The encryption transform's number in IKE (RFC 7296 §3.3.2 and IANA's registry).
    pub const fn transform_id(self) -> u16 {
        match self {
            Self::Null => 11,
            Self::AesCbc => 12,
            Self::AesCtr => 13,
            Self::AesGcm8 => 18,
            Self::AesGcm12 => 19,
            Self::AesGcm16 => 20,
            Self::AesGmac => 21,
            Self::ChaCha20Poly1305 => 28,
        }
    }

    /// Whether IKE states the key's length in an attribute of the transform. Otherwise there is but one.
    pub const fn has_key_length(self) -> bool {
        !matches!(self, Self::Null | Self::ChaCha20Poly1305)
    }

    /// Octets of salt: the part of the nonce that packets do not carry.
    const fn salt_len(self) -> u8 {
        match self {
            Self::AesCbc | Self::Null => 0,
            _ => 4,
        }
    }

    const fn iv_len(self) -> u8 {
        match self {
            Self::AesCbc => 16,
            Self::Null => 0,
            _ => 8,
        }
    }

    /// Octets of ICV, of those that bring their own integrity.
    const fn icv_len(self) -> u8 {
        match self {
            Self::AesGcm16 | Self::AesGmac | Self::ChaCha20Poly1305 => 16,
            Self::AesGcm12 => 12,
            Self::AesGcm8 => 8,
            Self::AesCbc | Self::AesCtr | Self::Null => 0,
        }
    }

    const fn alignment(self) -> u8 {
        if matches!(self, Self::AesCbc) { 16 } else { 4 }
    }

    const fn packet_limit(self) -> u64 {
        match self {
            // Their advantage to a distinguisher grows with the square of the blocks under one key: at 1500 octets
            // a packet, 2^42.6 blocks of 2^128, an advantage of about 2^-44.
            Self::AesGcm16 | Self::AesGcm12 | Self::AesGcm8 | Self::AesGmac | Self::AesCbc | Self::AesCtr => {
                1 << 36
            }
            // No block cipher, no such limit: the sequence numbers' own.
            Self::ChaCha20Poly1305 | Self::Null => u64::MAX,
        }
    }
}

/// An integrity transform of its own: HMAC over the encrypted packet (RFC 4868, RFC 2404).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Integrity {
    /// HMAC-SHA1-96 (RFC 2404). For old peers: only where it is named.
    HmacSha1,
    /// HMAC-SHA2-256-128.
    HmacSha256,
    /// HMAC-SHA2-384-192.
    HmacSha384,
    /// HMAC-SHA2-512-256.
    HmacSha512,
}

impl Integrity {
    /// The integrity transform's number in IKE.
    pub const fn transform_id(self) -> u16 {
        match self {
            Self::HmacSha1 => 2,
            Self::HmacSha256 => 12,
            Self::HmacSha384 => 13,
            Self::HmacSha512 => 14,
        }
    }

    /// Octets of key, which are those of the hash's whole output (RFC 4868 §2.1.1, RFC 2404 §3).
    pub const fn key_len(self) -> usize {
        match self {
            Self::HmacSha1 => 20,
            Self::HmacSha256 => 32,
            Self::HmacSha384 => 48,
            Self::HmacSha512 => 64,
        }
    }

    /// Octets of ICV: half of the output (RFC 4868 §2.3), of SHA-1 96 bits (RFC 2404 §2).
    pub const fn icv_len(self) -> usize {
        match self {
            Self::HmacSha1 => 12,
            _ => self.key_len() / 2,
        }
    }
}

/// What an algorithm is made of, precomputed because packets ask for it.
struct Properties {
    name: &'static str,
    cipher: Cipher,
    integrity: Option<Integrity>,
    key_len: u8,
    iv_len: u8,
    icv_len: u8,
    alignment: u8,
    covers_iv: bool,
}

impl Properties {
    const fn new(name: &'static str, cipher: Cipher, bits: u16, integrity: Option<Integrity>) -> Self {
        let icv_len = match integrity {
            Some(integrity) => integrity.icv_len() as u8,
            None => cipher.icv_len(),
        };
        let (key_len, iv_len, alignment) = ((bits / 8) as u8, cipher.iv_len(), cipher.alignment());
        let covers_iv = integrity.is_some() || matches!(cipher, Cipher::AesGmac);
        Self { name, cipher, integrity, key_len, iv_len, icv_len, alignment, covers_iv }
    }
}

macro_rules! esp_algorithms {
    ($($variant:ident = $name:literal, $cipher:ident $bits:literal $($integrity:ident)?;)*) => {
        /// How ESP is protected: an AEAD, or a cipher with an HMAC. An SA without integrity is not representable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum EspAlgorithm {
            $(#[doc = concat!("`", $name, "`: key bits ", $bits, ".")] $variant,)*
        }

        impl EspAlgorithm {
            /// Every algorithm.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            const fn properties(self) -> &'static Properties {
                match self {
                    $(Self::$variant => {
                        const {
                            let integrity: &[Integrity] = &[$(Integrity::$integrity)?];
                            &Properties::new($name, Cipher::$cipher, $bits, integrity.first().copied())
                        }
                    })*
                }
            }
        }
    };
}

esp_algorithms! {
    Aes128Gcm16 = "aes128gcm16", AesGcm16 128;
    Aes256Gcm16 = "aes256gcm16", AesGcm16 256;
    Aes128Gcm12 = "aes128gcm12", AesGcm12 128;
    Aes256Gcm12 = "aes256gcm12", AesGcm12 256;
    Aes128Gcm8 = "aes128gcm8", AesGcm8 128;
    Aes256Gcm8 = "aes256gcm8", AesGcm8 256;
    Aes128Gmac = "aes128gmac", AesGmac 128;
    Aes256Gmac = "aes256gmac", AesGmac 256;
    ChaCha20Poly1305 = "chacha20poly1305", ChaCha20Poly1305 256;
    Aes128CbcSha256 = "aes128-sha256", AesCbc 128 HmacSha256;
    Aes128CbcSha384 = "aes128-sha384", AesCbc 128 HmacSha384;
    Aes128CbcSha512 = "aes128-sha512", AesCbc 128 HmacSha512;
    Aes192CbcSha256 = "aes192-sha256", AesCbc 192 HmacSha256;
    Aes192CbcSha384 = "aes192-sha384", AesCbc 192 HmacSha384;
    Aes192CbcSha512 = "aes192-sha512", AesCbc 192 HmacSha512;
    Aes256CbcSha256 = "aes256-sha256", AesCbc 256 HmacSha256;
    Aes256CbcSha384 = "aes256-sha384", AesCbc 256 HmacSha384;
    Aes256CbcSha512 = "aes256-sha512", AesCbc 256 HmacSha512;
    Aes128CtrSha256 = "aes128ctr-sha256", AesCtr 128 HmacSha256;
    Aes128CtrSha384 = "aes128ctr-sha384", AesCtr 128 HmacSha384;
    Aes128CtrSha512 = "aes128ctr-sha512", AesCtr 128 HmacSha512;
    Aes192CtrSha256 = "aes192ctr-sha256", AesCtr 192 HmacSha256;
    Aes192CtrSha384 = "aes192ctr-sha384", AesCtr 192 HmacSha384;
    Aes192CtrSha512 = "aes192ctr-sha512", AesCtr 192 HmacSha512;
    Aes256CtrSha256 = "aes256ctr-sha256", AesCtr 256 HmacSha256;
    Aes256CtrSha384 = "aes256ctr-sha384", AesCtr 256 HmacSha384;
    Aes256CtrSha512 = "aes256ctr-sha512", AesCtr 256 HmacSha512;
    NullSha256 = "null-sha256", Null 0 HmacSha256;
    NullSha384 = "null-sha384", Null 0 HmacSha384;
    NullSha512 = "null-sha512", Null 0 HmacSha512;
    Aes128CbcSha1 = "aes128-sha1", AesCbc 128 HmacSha1;
    Aes192CbcSha1 = "aes192-sha1", AesCbc 192 HmacSha1;
    Aes256CbcSha1 = "aes256-sha1", AesCbc 256 HmacSha1;
    Aes128CtrSha1 = "aes128ctr-sha1", AesCtr 128 HmacSha1;
    Aes192CtrSha1 = "aes192ctr-sha1", AesCtr 192 HmacSha1;
    Aes256CtrSha1 = "aes256ctr-sha1", AesCtr 256 HmacSha1;
    NullSha1 = "null-sha1", Null 0 HmacSha1;
}

impl EspAlgorithm {
    /// Octets of the longest IV in a packet.
    pub const MAX_IV_LEN: usize = 16;

    /// Octets of the longest ICV.
    pub const MAX_ICV_LEN: usize = 32;

    /// The largest [`EspAlgorithm::alignment`].
    pub const MAX_ALIGNMENT: usize = 16;

    /// The algorithm of these transforms, with a cipher key of that many octets; `None` if there is none such.
    pub fn from_parts(cipher: Cipher, key_len: usize, integrity: Option<Integrity>) -> Option<Self> {
        let parts = (cipher, key_len, integrity);
        Self::ALL.iter().copied().find(|found| (found.cipher(), found.key_len(), found.integrity()) == parts)
    }

    /// The encryption transform.
    pub const fn cipher(self) -> Cipher {
        self.properties().cipher
    }

    /// The integrity transform; `None` for an AEAD.
    pub const fn integrity(self) -> Option<Integrity> {
        self.properties().integrity
    }

    /// Octets of cipher key, without the salt; 0 where nothing is encrypted and an HMAC authenticates.
    pub const fn key_len(self) -> usize {
        self.properties().key_len as usize
    }

    /// Octets of salt that follow the cipher key in the keying material (RFC 4106 §8.1, RFC 3686 §5.1): 4 or none.
    pub const fn salt_len(self) -> usize {
        self.cipher().salt_len() as usize
    }

    /// Octets of the HMAC's key, which comes last in the keying material (RFC 7296 §2.17).
    pub const fn integrity_key_len(self) -> usize {
        match self.integrity() {
            Some(integrity) => integrity.key_len(),
            None => 0,
        }
    }

    /// Octets of keying material for one direction.
    pub const fn keymat_len(self) -> usize {
        self.key_len() + self.salt_len() + self.integrity_key_len()
    }

    /// Octets of IV in each packet, between ESP header and text: 0, 8 or 16.
    #[inline]
    pub const fn iv_len(self) -> usize {
        self.properties().iv_len as usize
    }

    /// Whether the IV is part of what the ICV is computed over. That of an AEAD is not: it is in the nonce.
    #[inline]
    pub const fn covers_iv(self) -> bool {
        self.properties().covers_iv
    }

    /// Octets of integrity check value at the end of each packet: 8, 12, 16, 24 or 32.
    #[inline]
    pub const fn icv_len(self) -> usize {
        self.properties().icv_len as usize
    }

    /// Text and its trailer are together a multiple of so many octets (RFC 4303 §2.4): 4 or the cipher's block, 16,
    /// in any case a power of two.
    #[inline]
    pub const fn alignment(self) -> usize {
        self.properties().alignment as usize
    }

    /// Most packets that may be sealed under one key. The sequence numbers may end before.
    pub const fn packet_limit(self) -> u64 {
        self.cipher().packet_limit()
    }

    /// The name in strongSwan's notation.
    pub const fn name(self) -> &'static str {
        self.properties().name
    }
}

impl fmt::Display for EspAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Keying material of another length than the algorithm takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{algorithm} takes {expected} octets of keying material, not {found}")]
pub struct KeyLengthError {
    /// The algorithm.
    pub algorithm: EspAlgorithm,
    /// [`EspAlgorithm::keymat_len`].
    pub expected: usize,
    /// What was given.
    pub found: usize,
}

/// The keys and salt of one direction. Zeroized on drop, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct EspKey {
    #[zeroize(skip)]
    algorithm: EspAlgorithm,
    key: [u8; 32],
    salt: [u8; 4],
    integrity: [u8; 64],
}

impl EspKey {
    /// Splits keying material as KEYMAT gives it (RFC 7296 §2.17, RFC 4106 §8.1): the cipher key, its salt, the key
    /// of the HMAC.
    pub fn from_keymat(algorithm: EspAlgorithm, keymat: &[u8]) -> Result<Self, KeyLengthError> {
        let expected = algorithm.keymat_len();
        if keymat.len() != expected {
            return Err(KeyLengthError { algorithm, expected, found: keymat.len() });
        }
        let (cipher, rest) = keymat.split_at(algorithm.key_len());
        let (salt, integrity) = rest.split_at(algorithm.salt_len());
        let mut whole = Self { algorithm, key: [0; 32], salt: [0; 4], integrity: [0; 64] };
        let fill = |to: &mut [u8], from: &[u8]| to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        fill(&mut whole.key, cipher);
        fill(&mut whole.salt, salt);
        fill(&mut whole.integrity, integrity);
        Ok(whole)
    }

    /// The algorithm that the key is for.
    pub fn algorithm(&self) -> EspAlgorithm {
        self.algorithm
    }

    /// The cipher key: [`EspAlgorithm::key_len`] octets.
    pub fn key(&self) -> &[u8] {
        self.key.get(..self.algorithm.key_len()).unwrap_or_default()
    }

    /// The salt: the first four octets of the nonce (RFC 4106 §4). Zeros where the algorithm has none.
    pub fn salt(&self) -> [u8; 4] {
        self.salt
    }

    /// The HMAC's key: [`EspAlgorithm::integrity_key_len`] octets.
    pub fn integrity_key(&self) -> &[u8] {
        self.integrity.get(..self.algorithm.integrity_key_len()).unwrap_or_default()
    }
}

impl fmt::Debug for EspKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EspKey({}, …)", self.algorithm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keying_material_is_as_long_as_the_standards_say() {
        // AES-GCM: RFC 4106 §8.1; AES-CTR: RFC 3686 §5.1; ChaCha20: RFC 7634 §2; HMAC: RFC 4868 §2.1.1,
        // RFC 2404 §3.
        for (algorithm, octets) in [
            (EspAlgorithm::Aes128Gcm16, 20),
            (EspAlgorithm::Aes256Gcm8, 36),
            (EspAlgorithm::Aes256Gmac, 36),
            (EspAlgorithm::ChaCha20Poly1305, 36),
            (EspAlgorithm::Aes128CbcSha256, 16 + 32),
            (EspAlgorithm::Aes192CbcSha384, 24 + 48),
            (EspAlgorithm::Aes256CbcSha512, 32 + 64),
            (EspAlgorithm::Aes256CtrSha256, 32 + 4 + 32),
            (EspAlgorithm::NullSha512, 64),
            (EspAlgorithm::Aes256CbcSha1, 32 + 20),
        ] {
            assert_eq!(algorithm.keymat_len(), octets, "{algorithm}");
        }
    }

    #[test]
    fn keying_material_is_cut_in_the_order_of_the_standards() {
        let keymat: Vec<u8> = (0..68).collect();
        let key = EspKey::from_keymat(EspAlgorithm::Aes256CtrSha256, &keymat).unwrap();
        assert_eq!((key.key(), key.integrity_key()), (&keymat[..32], &keymat[36..]));
        assert_eq!(key.salt(), [32, 33, 34, 35]);
        let key = EspKey::from_keymat(EspAlgorithm::NullSha256, &keymat[..32]).unwrap();
        assert_eq!((key.key(), key.salt(), key.integrity_key()), (&[][..], [0; 4], &keymat[..32]));
        for wrong in [0, 67] {
            let error = EspKey::from_keymat(EspAlgorithm::Aes256CtrSha256, &keymat[..wrong]).unwrap_err();
            assert_eq!((error.expected, error.found), (68, wrong));
        }
    }

    #[test]
    fn every_algorithm_is_found_by_its_parts_and_has_a_name_of_its_own() {
        for algorithm in EspAlgorithm::ALL.iter().copied() {
            let (cipher, integrity) = (algorithm.cipher(), algorithm.integrity());
            assert_eq!(EspAlgorithm::from_parts(cipher, algorithm.key_len(), integrity), Some(algorithm));
            let namesakes = EspAlgorithm::ALL.iter().filter(|other| other.name() == algorithm.name());
            assert_eq!(namesakes.count(), 1, "{algorithm}");
        }
        assert_eq!(EspAlgorithm::from_parts(Cipher::AesCbc, 32, None), None, "no integrity");
        assert_eq!(EspAlgorithm::from_parts(Cipher::AesGcm16, 32, Some(Integrity::HmacSha256)), None);
    }

    #[test]
    fn packets_are_laid_out_within_the_stated_bounds() {
        for algorithm in EspAlgorithm::ALL.iter().copied() {
            assert!(
                [0, 8, 16].contains(&algorithm.iv_len()) && algorithm.iv_len() <= EspAlgorithm::MAX_IV_LEN
            );
            assert!((8..=EspAlgorithm::MAX_ICV_LEN).contains(&algorithm.icv_len()), "{algorithm}");
            assert!([4, EspAlgorithm::MAX_ALIGNMENT].contains(&algorithm.alignment()), "{algorithm}");
        }
    }
}
