//! Bindings on disk: one JSON object a line, appended as identities get addresses, the last of an address counts. The
//! file is written anew at start and when most of its lines are outdated.
//!
//! A line reaches the kernel before the peer is told of its address, so that it survives the daemon however that ends;
//! after a power failure the last few may be missing, and with them their SAs. A line that was cut short is skipped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use portcullis_ike::pools::Binding;
use serde::{Deserialize, Serialize};

/// Outdated lines that are not worth writing the file anew.
const SPARE_LINES: usize = 1024;

/// The file.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
    /// The last line may lack its end.
    torn: bool,
}

/// A line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    pool: String,
    address: std::net::IpAddr,
    identity: String,
}

impl Journal {
    /// What is in the file, in order; nothing if there is none. A line that makes no sense is counted and skipped.
    pub(super) fn read(path: &Path) -> io::Result<(Vec<Binding>, usize)> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), 0)),
            Err(error) => return Err(error),
        };
        let (mut bindings, mut broken) = (Vec::new(), 0);
        for line in BufReader::new(file).split(b'\n') {
            let line = line?;
            if line.is_empty() {
                continue;
            }
            match serde_json::from_slice::<Line>(&line) {
                Ok(Line { pool, address, identity }) => bindings.push(Binding { pool, address, identity }),
                Err(_) => broken += 1,
            }
        }
        Ok((bindings, broken))
    }

    /// Makes the file hold `bindings` and nothing else, in place of what it held, all or nothing.
    pub(super) fn write(path: &Path, bindings: &[Binding]) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let new = path.with_extension("new");
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        let mut writer = BufWriter::new(file);
        for binding in bindings {
            writer.write_all(&line(binding)?)?;
        }
        writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&new, path)?;
        let file = OpenOptions::new().append(true).open(path)?;
        Ok(Self { path: path.to_owned(), file, lines: bindings.len(), torn: false })
    }

    /// Adds a line.
    pub(super) fn append(&mut self, binding: &Binding) -> io::Result<()> {
        let mut octets = line(binding)?;
        if self.torn {
            octets.insert(0, b'\n');
        }
        let written = self.file.write_all(&octets);
        self.torn = written.is_err();
        self.lines += 1;
        written
    }

    /// Whether most lines are outdated when so many bindings are left.
    pub(super) fn is_mostly_outdated(&self, bindings: usize) -> bool {
        self.lines > 2 * bindings + SPARE_LINES
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn line(binding: &Binding) -> io::Result<Vec<u8>> {
    let Binding { pool, address, identity } = binding.clone();
    let mut octets = serde_json::to_vec(&Line { pool, address, identity })?;
    octets.push(b'\n');
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(number: u8, identity: &str) -> Binding {
        let address = std::net::Ipv4Addr::new(10, 3, 0, number).into();
        Binding { pool: "ra".to_owned(), address, identity: identity.to_owned() }
    }

    #[test]
    fn what_was_written_is_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/leases.jsonl");
        assert_eq!(Journal::read(&path).unwrap(), (vec![], 0));
        let mut journal = Journal::write(&path, &[binding(1, "a")]).unwrap();
        // An identity may hold anything.
        let hostile = binding(2, "CN=\"x\"\n{\"pool\":\"ra\"}");
        journal.append(&hostile).unwrap();
        journal.append(&binding(1, "b")).unwrap();
        let expected = vec![binding(1, "a"), hostile, binding(1, "b")];
        assert_eq!(Journal::read(&path).unwrap(), (expected, 0));
    }

    #[test]
    fn a_file_that_was_cut_anywhere_gives_every_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases.jsonl");
        let bindings: Vec<Binding> = (1..=3).map(|number| binding(number, "someone")).collect();
        Journal::write(&path, &bindings).unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let (found, broken) = Journal::read(&path).unwrap();
            // A line whose end alone is missing is whole.
            let ends = whole[..cut].iter().filter(|octet| **octet == b'\n').count();
            assert!(found.len() == ends || found.len() == ends + 1, "cut at {cut}");
            assert!(found.len() + broken <= ends + 1);
            assert_eq!(found, bindings[..found.len()]);
        }
    }

    #[test]
    fn what_follows_a_torn_line_is_not_lost_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases.jsonl");
        let mut journal = Journal::write(&path, &[binding(1, "a")]).unwrap();
        journal.file.write_all(b"{\"pool\":\"ra\",\"addr").unwrap();
        journal.torn = true;
        journal.append(&binding(2, "b")).unwrap();
        assert_eq!(Journal::read(&path).unwrap(), (vec![binding(1, "a"), binding(2, "b")], 1));
    }

    #[test]
    fn the_file_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases.jsonl");
        Journal::write(&path, &[]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
