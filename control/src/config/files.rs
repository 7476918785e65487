//! Certificates, keys and CRLs in files, PEM or DER. What is wrong with a file is said in words that end a sentence
//! which began with its name.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis_ike::auth::{Certificate, Crl, PrivateKey, PublicKey};
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

/// The private key of a file that nobody but its owner and group may read.
pub(super) fn private_key(path: &Path) -> Result<PrivateKey, String> {
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(format!(
            "holds a private key that everybody on this machine may get at (mode {:04o}, expected 0600)",
            mode & 0o7777
        ));
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

fn parts(path: &Path, limit: u64, kinds: &[SectionKind], expected: &str) -> Result<Vec<Part>, String> {
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > limit {
        return Err(format!("has {size} octets (expected {expected}, at most {limit})"));
    }
    let content = Zeroizing::new(fs::read(path).map_err(unreadable)?);
    const BEGIN: &[u8] = b"-----BEGIN ";
    if !content.windows(BEGIN.len()).any(|window| window == BEGIN) {
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
        const ENCRYPTED: &[u8] = b"ENCRYPTED";
        if content.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED) {
            return Err("is encrypted, which this version does not support (`openssl pkey -in FILE -out FILE` decrypts it)"
                .to_owned());
        }
        return Err(format!("holds PEM, but not {expected}"));
    }
    Ok(found)
}
