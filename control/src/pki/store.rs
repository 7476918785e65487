//! The directory of a certificate authority: which file is what, the list of what was issued, and how files are
//! written: whole or not at all, for the owner alone, and never over another unless that was asked for.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::PkiError;

const AUTHORITY: &str = "ca";
const INDEX: &str = "index.json";
const LOCK: &str = ".lock";

/// A locked directory. Two commands at once wait for each other.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    _lock: Flock<File>,
}

/// Everything that was issued, and what revocation lists need to go on counting.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Index {
    /// Number of the last revocation list.
    pub(super) crl_number: u64,
    /// Where peers fetch the revocation list; written into every certificate.
    pub(super) crl_url: Option<String>,
    pub(super) issued: Vec<Entry>,
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Hexadecimal.
    pub serial: String,
    /// The first of its names, which is its common name too.
    pub name: String,
    /// `server` or `client`.
    pub profile: String,
    /// RFC 3339.
    pub not_after: String,
    /// When and why it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revoked>,
}

/// A revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// RFC 3339.
    pub at: String,
    /// RFC 5280 §5.3.1, with dashes.
    pub reason: String,
}

/// A file that is about to be written.
pub(super) struct Pending {
    pub(super) path: PathBuf,
    pub(super) octets: zeroize::Zeroizing<Vec<u8>>,
}

impl Store {
    /// Makes the directory if there is none, and locks it.
    pub(super) fn open(dir: &Path) -> Result<Self, PkiError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |error| PkiError::Io { what, path, error }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("make", dir))?;
        let path = dir.join(LOCK);
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(io("open", &path))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| io("lock", &path)(io::Error::from(errno)))?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    pub(super) fn authority(&self, extension: &str) -> PathBuf {
        self.of(AUTHORITY, extension)
    }

    pub(super) fn of(&self, stem: &str, extension: &str) -> PathBuf {
        // Not `Path::with_extension`: a stem has dots of its own.
        self.dir.join(format!("{stem}.{extension}"))
    }

    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>, PkiError> {
        fs::read(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => PkiError::NoAuthority(self.dir.clone()),
            _ => PkiError::Io { what: "read", path: path.to_owned(), error },
        })
    }

    pub(super) fn index(&self) -> Result<Index, PkiError> {
        let path = self.dir.join(INDEX);
        serde_json::from_slice(&self.read(&path)?).map_err(|error| PkiError::Broken {
            path,
            wanted: "the list of issued certificates",
            problem: error.to_string(),
        })
    }

    /// The list, ready to be written.
    pub(super) fn pending_index(&self, index: &Index) -> Result<Pending, PkiError> {
        let octets = serde_json::to_vec_pretty(index)
            .map_err(|error| PkiError::Crypto { what: "list", problem: error.to_string() })?;
        Ok(Pending { path: self.dir.join(INDEX), octets: octets.into() })
    }

    /// Fails on the first of the files that is there already.
    pub(super) fn must_be_new<'p>(files: impl IntoIterator<Item = &'p PathBuf>) -> Result<(), PkiError> {
        match files.into_iter().find(|path| path.exists()) {
            Some(path) => Err(PkiError::Exists(path.clone())),
            None => Ok(()),
        }
    }

    /// Writes files in the given order. Without `replace` the last word on whether one is there already is the
    /// kernel's.
    pub(super) fn write(&self, files: &[Pending], replace: bool) -> Result<(), PkiError> {
        for file in files {
            let io = |error| PkiError::Io { what: "write", path: file.path.clone(), error };
            let dir = file.path.parent().unwrap_or(&self.dir);
            // Made with mode 0600.
            let mut temporary = NamedTempFile::new_in(dir).map_err(io)?;
            temporary.write_all(&file.octets).map_err(io)?;
            temporary.as_file().sync_all().map_err(io)?;
            let persisted =
                if replace { temporary.persist(&file.path) } else { temporary.persist_noclobber(&file.path) };
            persisted.map_err(|failed| match failed.error.kind() {
                io::ErrorKind::AlreadyExists => PkiError::Exists(file.path.clone()),
                _ => io(failed.error),
            })?;
        }
        let synced = File::open(&self.dir).and_then(|dir| dir.sync_all());
        synced.map_err(|error| PkiError::Io { what: "write", path: self.dir.clone(), error })
    }
}
