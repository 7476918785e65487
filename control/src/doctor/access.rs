//! Whether the service, which is not root, may read what it is configured by. Root who checks sees no difference.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Findings, Host, Severity};
use crate::config::Config;

const USER: &str = "portcullis";
const UNITS: [&str; 3] = ["etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];

const READ: u32 = 4;
const PASS: u32 = 1;

/// The service's user.
struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// Of a machine that runs us as a service.
    fn of(host: &Host) -> Option<Self> {
        UNITS.iter().find(|dir| host.path(&format!("{dir}/portcullis.service")).exists())?;
        let passwd = host.read("etc/passwd")?;
        let line = passwd.lines().find(|line| line.split(':').next() == Some(USER))?;
        let mut numbers = line.split(':').skip(2).map(str::parse);
        Some(Self { uid: numbers.next()?.ok()?, gid: numbers.next()?.ok()? })
    }

    /// Whether the permissions of a file or directory let it.
    fn may(&self, path: &Path, wanted: u32) -> bool {
        // What cannot be looked at by whoever checks is not judged.
        let Ok(found) = fs::metadata(path) else { return true };
        let shift = match () {
            () if found.uid() == self.uid => 6,
            () if found.gid() == self.gid => 3,
            () => 0,
        };
        found.mode() >> shift & wanted == wanted
    }
}

/// Looks at the configuration and at the directories of certificates and keys, with what lies in them.
pub(super) fn check(host: &Host, file: &Path, config: Option<&Config>, findings: &mut Findings) {
    let Some(user) = User::of(host) else { return };
    let mut closed = Vec::new();
    let mut look = |path: &Path, wanted: u32| {
        let parents = path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty());
        let doors = parents.map(|dir| (dir, PASS)).chain([(path, wanted)]);
        let shut = doors.filter(|(path, wanted)| !user.may(path, *wanted)).map(|(path, _)| path.to_owned());
        closed.extend(shut.filter(|path: &PathBuf| !closed.contains(path)).collect::<Vec<_>>());
    };
    look(file, READ);
    let directories = config.map(|config| &config.gateway.credentials);
    let directories = directories.iter().flat_map(|all| [&all.x509, &all.x509ca, &all.x509crl, &all.private]);
    for directory in directories.filter(|directory| directory.is_dir()) {
        look(directory, READ | PASS);
        for name in host.names(directory) {
            look(&directory.join(name), READ);
        }
    }
    if closed.is_empty() {
        return findings.ok("access", "", "the service may read its configuration, certificates and keys");
    }
    closed.sort();
    let list = closed.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
    findings.add(
        "access",
        Severity::Error,
        "",
        format!("the service runs as the user {USER}, who may not read {list}"),
        "that its group may: it is not root",
        format!("chgrp {USER} {list} && chmod g+rX {list}"),
    );
}
