//! Secrets of our own that outlive the process: files in `gateway.state_dir` of 32 random octets, which only we can read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use portcullis_ike::config::Secret;
use zeroize::Zeroizing;

/// Octets of a secret.
const LEN: usize = 32;

/// The secret in a file; a new one, if there is no file. One that others can read, or that is of another length, is refused:
/// whoever has it can make up what only we should.
pub(super) fn load_or_make(path: &Path) -> io::Result<Secret> {
    match File::open(path) {
        Ok(file) => load(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path),
        Err(error) => Err(error),
    }
}

fn load(file: File) -> io::Result<Secret> {
    let mode = file.metadata()?.mode();
    if mode & 0o077 != 0 {
        let message = format!("others may read it (mode {:03o}, expected 600)", mode & 0o777);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    let mut octets = Zeroizing::new(Vec::with_capacity(LEN + 1));
    file.take(LEN as u64 + 1).read_to_end(&mut octets)?;
    if octets.len() != LEN {
        let message = format!("it does not hold {LEN} octets; remove it, and a new one is made");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(Secret(std::mem::take(&mut *octets)))
}

/// Written beside its place and then put there, so that it is whole or not there.
fn make(path: &Path) -> io::Result<Secret> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut octets = vec![0; LEN];
    getrandom::fill(&mut octets).map_err(io::Error::other)?;
    let secret = Secret(octets);
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(&secret.0)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_made_once_and_found_again_and_only_we_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep").join("qcd.secret");
        let made = load_or_make(&path).unwrap();
        assert_eq!(load_or_make(&path).unwrap(), made);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let other = load_or_make(&dir.path().join("other.secret")).unwrap();
        assert_ne!(other, made);
    }

    #[test]
    fn a_secret_that_others_can_read_or_that_is_cut_short_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qcd.secret");
        load_or_make(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(load_or_make(&path).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, [0; 31]).unwrap();
        assert_eq!(load_or_make(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
