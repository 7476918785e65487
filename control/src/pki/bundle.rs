//! PKCS#12 bundles (RFC 7292): private key, certificate and CA in one file, for the import dialogues of phones and
//! desktops. Encrypted by PBES2 with AES-256, authenticated with HMAC-SHA256, which Windows takes since Server 2019
//! and Android, iOS and macOS since 2022.

use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, LocalKeyId, PrivateKey, PrivateKeyChain};

use super::PkiError;

/// PBKDF2 iterations. A generated password needs none; a chosen one is guessed this many times slower.
const ITERATIONS: u32 = 100_000;

/// Makes a bundle. `key` is PKCS#8, certificates are DER, all under the name `alias`.
pub(super) fn make(
    alias: &str,
    key: &[u8],
    certificate: &[u8],
    authority: &[u8],
    password: &str,
) -> Result<Vec<u8>, PkiError> {
    let failed = |error: p12_keystore::error::Error| PkiError::Crypto {
        what: "PKCS#12 bundle",
        problem: error.to_string(),
    };
    let key = PrivateKey::from_der(key).map_err(failed)?;
    let chain = [certificate, authority].map(Certificate::from_der);
    let [certificate, authority] = chain;
    let chain = [certificate.map_err(failed)?, authority.map_err(failed)?];
    let mut keystore = KeyStore::new();
    let chain = PrivateKeyChain::new(LocalKeyId(vec![1]), key, chain);
    keystore.add_entry(alias, KeyStoreEntry::PrivateKeyChain(chain));
    keystore
        .writer(password)
        .encryption_iterations(ITERATIONS)
        .mac_iterations(ITERATIONS)
        .write()
        .map_err(failed)
}
