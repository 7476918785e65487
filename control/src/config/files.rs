//! Certificates, keys and CRLs in files, PEM or DER. What is wrong with a file is said in words that end a sentence
//! which began with its name.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pkcs8::{EncryptedPrivateKeyInfoRef, SecretDocument};
use portcullis_ike::auth::{Certificate, Crl, PrivateKey, PublicKey};
use portcullis_ike::config::Secret;
use rustls_pki_types::pem::{self, SectionKind};
use zeroize::Zeroizing;

/// A file larger than this holds none of it, except a CRL.
const MAX_SIZE: u64 = 1 << 20;
const MAX_CRL_SIZE: u64 = 64 << 20;

/// All certificates of a file, in order, one at least.
pub(super) fn certificates(path: &Path) -> Result<Vec<Arc<Certificate>>, String> {
    let parts = parts(path, MAX_SIZE, &[SectionKind::Certificate], "an X.509 certificate")?;
    let parse = |(index, (_, der)): (usize, &Part)| {
        Certificate::from_der(der).map(Arc::new).map_err(|error| match parts.len() {
            1 => format!("holds no certificate that can be used: {error}"),
            _ => format!("holds a certificate, number {}, that cannot be used: {error}", index + 1),
        })
    };
    parts.iter().enumerate().map(parse).collect()
}

/// Whether the private key of a file wants a passphrase.
pub(super) fn is_encrypted(path: &Path) -> bool {
    let content = fs::read(path).map(Zeroizing::new).unwrap_or_default();
    contains(&content, ENCRYPTED_BEGIN.as_bytes())
}

/// The private key of a file that nobody but its owner and group may read.
pub(super) fn private_key(path: &Path, passphrase: Option<&Secret>) -> Result<PrivateKey, String> {
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(format!(
            "holds a private key that everybody on this machine may get at (mode {:04o}, expected 0600)",
            mode & 0o7777
        ));
    }
    if let Some(decrypted) = decrypted(path, passphrase)? {
        let key = PrivateKey::from_pkcs8(decrypted.as_bytes());
        // One wrong passphrase of 256 leaves something that ends as it should.
        return key
            .map_err(|error| format!("holds no private key that can be used with this `secret`: {error}"));
    }
    let kinds = [SectionKind::PrivateKey, SectionKind::RsaPrivateKey, SectionKind::EcPrivateKey];
    let parts = parts(path, MAX_SIZE, &kinds, "a private key")?;
    let Some((kind, der)) = parts.first() else { return Err("holds no private key".to_owned()) };
    let key = match kind {
        Some(SectionKind::PrivateKey) => PrivateKey::from_pkcs8(der),
        Some(SectionKind::RsaPrivateKey) => PrivateKey::from_pkcs1(der),
        Some(SectionKind::EcPrivateKey) => PrivateKey::from_sec1(der),
        _ => PrivateKey::from_der(der),
    };
    key.map_err(|error| format!("holds no private key that can be used: {error}"))
}

/// What an EncryptedPrivateKeyInfo (RFC 5958 §3) holds; `None` if the file has none.
fn decrypted(path: &Path, passphrase: Option<&Secret>) -> Result<Option<SecretDocument>, String> {
    let content = content(path, MAX_SIZE, "a private key")?;
    if contains(&content, b"Proc-Type: 4,ENCRYPTED") {
        return Err(
            "is encrypted in OpenSSL's old way (`openssl pkcs8 -topk8 -in FILE -out NEW` makes PKCS#8 of it)"
                .to_owned(),
        );
    }
    if !contains(&content, ENCRYPTED_BEGIN.as_bytes()) {
        return Ok(None);
    }
    let Some(passphrase) = passphrase else {
        return Err(
            "is encrypted (expected a `[secrets.private-NAME]` with it as `file` and its passphrase as \
                    `secret`)"
                .to_owned(),
        );
    };
    let damaged = |error: &dyn std::fmt::Display| format!("is damaged PEM: {error}");
    let text = std::str::from_utf8(&content).map_err(|error| damaged(&error))?;
    // Other things may lie in the file as well.
    let from = text.split_once(ENCRYPTED_BEGIN).map(|(before, _)| before.len()).unwrap_or_default();
    let until = text.split_once(ENCRYPTED_END).map(|(before, _)| before.len() + ENCRYPTED_END.len());
    let text = text.get(from..until.unwrap_or(text.len())).unwrap_or_default();
    let (_, sealed) = SecretDocument::from_pem(text).map_err(|error| damaged(&error))?;
    let another = |error: &dyn std::fmt::Display| {
        format!(
            "is encrypted in a way that is not supported: {error} (expected AES with PBKDF2 and HMAC-SHA2, or \
             scrypt, as `openssl pkcs8 -topk8` makes it)"
        )
    };
    let sealed = EncryptedPrivateKeyInfoRef::try_from(sealed.as_bytes()).map_err(|error| another(&error))?;
    match sealed.decrypt(&passphrase.0) {
        Ok(key) => Ok(Some(key)),
        Err(pkcs8::Error::EncryptedPrivateKey(pkcs8::pkcs5::Error::DecryptFailed)) => {
            Err("is encrypted with another passphrase than this `secret`".to_owned())
        }
        Err(error) => Err(another(&error)),
    }
}

/// The public key of a file.
pub(super) fn public_key(path: &Path) -> Result<PublicKey, String> {
    let parts = parts(path, MAX_SIZE, &[SectionKind::PublicKey], "a public key (SubjectPublicKeyInfo)")?;
    let Some((_, der)) = parts.first() else { return Err("holds no public key".to_owned()) };
    PublicKey::from_spki(der).map_err(|error| format!("holds no public key that can be used: {error}"))
}

/// All CRLs of a file.
fn crls(path: &Path) -> Result<Vec<Arc<Crl>>, String> {
    let parts = parts(path, MAX_CRL_SIZE, &[SectionKind::Crl], "an X.509 CRL")?;
    let parse = |(_, der): &Part| Crl::from_der(der).map(Arc::new).map_err(|error| error.to_string());
    parts.iter().map(parse).collect()
}

/// The CRLs of a directory, and what is wrong with those that could not be read. A directory that is not there has none.
pub(crate) fn crls_in(directory: &Path) -> (Vec<Arc<Crl>>, Vec<(PathBuf, String)>) {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for path in files_in(directory).unwrap_or_default() {
        match crls(&path) {
            Ok(crls) => found.extend(crls),
            Err(problem) => problems.push((path, problem)),
        }
    }
    (found, problems)
}

/// The regular files of a directory by name, those that begin with a dot left out.
pub(crate) fn files_in(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(directory).map_err(unreadable)?;
    let visible = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        !name.starts_with('.') && path.is_file()
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(visible).collect();
    files.sort();
    Ok(files)
}

fn unreadable(error: std::io::Error) -> String {
    format!("cannot be read: {error}")
}

/// What a section of PEM holds; `None` for a file that is DER.
type Part = (Option<SectionKind>, Zeroizing<Vec<u8>>);

const BEGIN: &[u8] = b"-----BEGIN ";
const ENCRYPTED_BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
const ENCRYPTED_END: &str = "-----END ENCRYPTED PRIVATE KEY-----";

fn contains(content: &[u8], part: &[u8]) -> bool {
    content.windows(part.len()).any(|window| window == part)
}

fn content(path: &Path, limit: u64, expected: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > limit {
        return Err(format!("has {size} octets (expected {expected}, at most {limit})"));
    }
    fs::read(path).map(Zeroizing::new).map_err(unreadable)
}

fn parts(path: &Path, limit: u64, kinds: &[SectionKind], expected: &str) -> Result<Vec<Part>, String> {
    let content = content(path, limit, expected)?;
    if !contains(&content, BEGIN) {
        return Ok(vec![(None, content)]);
    }
    let (mut found, mut rest) = (Vec::new(), content.as_slice());
    loop {
        match pem::from_buf(&mut rest) {
            Ok(Some((kind, der))) if kinds.contains(&kind) => found.push((Some(kind), Zeroizing::new(der))),
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(error) => return Err(format!("is damaged PEM: {error}")),
        }
    }
    if found.is_empty() {
        return Err(format!("holds PEM, but not {expected}"));
    }
    Ok(found)
}
