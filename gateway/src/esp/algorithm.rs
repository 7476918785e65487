//! Which of the engine's algorithms is which of ESP's.

use portcullis_aead::{Aes, Algorithm, Engine, Hmac, Key};
use portcullis_ipsec::{Cipher, EspAlgorithm, EspKey, Integrity};
use zeroize::Zeroizing;

/// The key as the engine wants it; `None` if the engine has no such algorithm.
pub(crate) fn expand(engine: &Engine, key: &EspKey) -> Option<Key> {
    let algorithm = algorithm(key.algorithm())?;
    if key.integrity_key().is_empty() {
        return engine.key(algorithm, key.key());
    }
    let mut both = Zeroizing::new([0; 96]);
    both.iter_mut().zip(key.key().iter().chain(key.integrity_key())).for_each(|(to, from)| *to = *from);
    engine.key(algorithm, both.get(..algorithm.key_len())?)
}

fn algorithm(esp: EspAlgorithm) -> Option<Algorithm> {
    let hmac = match esp.integrity() {
        None => None,
        Some(Integrity::HmacSha1) => Some(Hmac::Sha1),
        Some(Integrity::HmacSha256) => Some(Hmac::Sha256),
        Some(Integrity::HmacSha384) => Some(Hmac::Sha384),
        Some(Integrity::HmacSha512) => Some(Hmac::Sha512),
    };
    let aes = match esp.key_len() {
        16 => Some(Aes::Aes128),
        24 => Some(Aes::Aes192),
        32 => Some(Aes::Aes256),
        _ => None,
    };
    Some(match (esp.cipher(), aes, hmac) {
        (Cipher::AesGcm16, Some(Aes::Aes128), None) => Algorithm::Aes128Gcm,
        (Cipher::AesGcm16, Some(Aes::Aes256), None) => Algorithm::Aes256Gcm,
        (Cipher::AesGcm12, Some(Aes::Aes128), None) => Algorithm::Aes128Gcm12,
        (Cipher::AesGcm12, Some(Aes::Aes256), None) => Algorithm::Aes256Gcm12,
        (Cipher::AesGcm8, Some(Aes::Aes128), None) => Algorithm::Aes128Gcm8,
        (Cipher::AesGcm8, Some(Aes::Aes256), None) => Algorithm::Aes256Gcm8,
        (Cipher::AesGmac, Some(Aes::Aes128), None) => Algorithm::Aes128Gmac,
        (Cipher::AesGmac, Some(Aes::Aes256), None) => Algorithm::Aes256Gmac,
        (Cipher::ChaCha20Poly1305, _, None) => Algorithm::ChaCha20Poly1305,
        (Cipher::AesCbc, Some(aes), Some(hmac)) => Algorithm::AesCbc(aes, hmac),
        (Cipher::AesCtr, Some(aes), Some(hmac)) => Algorithm::AesCtr(aes, hmac),
        (Cipher::Null, None, Some(hmac)) => Algorithm::Null(hmac),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_vocabularies_agree_on_every_algorithm() {
        let engine = Engine::select(None).unwrap();
        for esp in EspAlgorithm::ALL.iter().copied() {
            let algorithm = algorithm(esp).unwrap();
            assert_eq!(algorithm.tag_len(), esp.icv_len(), "{esp}");
            assert_eq!(algorithm.iv_len(), if esp.covers_iv() { esp.iv_len() } else { 0 }, "{esp}");
            let key = EspKey::from_keymat(esp, &vec![7; esp.keymat_len()]).unwrap();
            assert_eq!(expand(&engine, &key).unwrap().algorithm(), algorithm);
        }
    }
}
