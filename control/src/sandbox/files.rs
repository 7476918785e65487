//! Landlock: where the daemon may read and write.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, make_bitflags,
};
use portcullis_gateway::xdp;

use super::Part;
use crate::config::Config;

/// What is asked for: kernels before it (Linux 6.12) do a part. Connections are not restricted by port: revocation lists lie
/// at any, and who holds CAP_NET_RAW needs no socket of TCP.
const WANTED: ABI = ABI::V6;

/// What names are resolved with, libraries for that included; threads' times, kernel variables and types; devices. Below
/// `/proc` only the root can be named: directories in it have no lasting identity.
const ALWAYS_READ: [&str; 10] = [
    "/etc",
    "/run/NetworkManager",
    "/run/resolvconf",
    "/run/systemd/resolve",
    "/usr/lib",
    "/lib",
    "/lib64",
    "/proc",
    "/sys",
    "/dev/urandom",
];

/// What the daemon gets at.
#[derive(Debug)]
pub(super) struct Places {
    /// Directories of configuration and credentials.
    sources: BTreeSet<PathBuf>,
    admin: PathBuf,
    state: PathBuf,
    pins: PathBuf,
    /// Of the audit trail.
    audit: Option<PathBuf>,
}

impl Places {
    pub(super) fn of(config: &Config, source: &Path) -> Self {
        let gateway = &config.gateway;
        let beside = |path: &Path| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let dirs = &gateway.credentials;
        let directories = [&dirs.x509, &dirs.x509ca, &dirs.x509crl, &dirs.private, &dirs.pubkey];
        let mut sources = BTreeSet::from([beside(source)]);
        let mut files = vec![source.to_owned()];
        files.extend(config.files.iter().cloned());
        for directory in directories {
            sources.insert(directory.clone());
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            files.extend(entries.map(|entry| entry.path()));
        }
        // A file is replaced by renaming another into its place, and a link leads elsewhere: directories count, those
        // that files really lie in among them.
        sources.extend(config.files.iter().map(|file| beside(file)));
        sources.extend(files.iter().filter_map(|file| Some(beside(&fs::canonicalize(file).ok()?))));
        let sources = sources.iter().map(|path| fs::canonicalize(path).unwrap_or_else(|_| path.clone()));
        Self {
            sources: sources.collect(),
            admin: beside(&gateway.admin_socket),
            state: gateway.state_dir.clone(),
            pins: gateway.pin_dir.clone(),
            audit: config.audit.as_ref().map(|audit| beside(&audit.file)),
        }
    }

    /// Where an operator may put what a configuration names.
    pub(super) fn readable(&self) -> Vec<PathBuf> {
        let mut outer: Vec<PathBuf> = Vec::new();
        for path in self.sources.iter().map(PathBuf::as_path).chain([Path::new("/etc")]) {
            if !outer.iter().any(|known| path.starts_with(known)) {
                outer.retain(|known| !known.starts_with(path));
                outer.push(path.to_owned());
            }
        }
        outer
    }

    /// Makes what the daemon would make later, when it cannot any more. Where that fails, who needs it says so.
    fn prepare(&self) {
        for directory in [&self.admin, &self.state] {
            let _ = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        }
        // Nobody in the sandbox mounts.
        if let Some(parent) = self.pins.parent()
            && xdp::ensure_bpffs(parent).is_ok()
        {
            let _ = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.pins);
        }
    }

    /// Every rule: a place, and what may be done there and below.
    fn rules(&self) -> Vec<(PathBuf, BitFlags<AccessFs>)> {
        let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
        let files = make_bitflags!(AccessFs::{WriteFile | Truncate | MakeReg | RemoveFile});
        let mut rules: Vec<_> = ALWAYS_READ.iter().map(|path| (PathBuf::from(path), read)).collect();
        rules.extend(self.sources.iter().map(|path| (path.clone(), read)));
        rules.push((self.admin.clone(), make_bitflags!(AccessFs::{MakeSock | RemoveFile})));
        rules.push((self.state.clone(), read | files));
        // The file may be moved away, and is made anew then.
        let append = make_bitflags!(AccessFs::{WriteFile | MakeReg});
        rules.extend(self.audit.iter().map(|directory| (directory.clone(), append)));
        rules.push((self.pins.clone(), read | files | make_bitflags!(AccessFs::{MakeDir | RemoveDir})));
        if let Some(parent) = self.pins.parent() {
            // `on_stop = "open"` takes the directory itself away.
            rules.push((parent.to_owned(), AccessFs::RemoveDir.into()));
        }
        rules.push((PathBuf::from("/proc/sys/net"), make_bitflags!(AccessFs::{WriteFile | Truncate})));
        let device = make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev});
        rules.push((PathBuf::from("/dev/net/tun"), device));
        rules.push((PathBuf::from("/dev/null"), make_bitflags!(AccessFs::{ReadFile | WriteFile})));
        rules
    }
}

/// Restricts the calling thread.
pub(super) fn restrict(places: &Places) -> Part {
    places.prepare();
    match enforce(places) {
        Ok(RestrictionStatus { ruleset: RulesetStatus::FullyEnforced, .. }) => Part::Whole,
        Ok(RestrictionStatus { landlock: LandlockStatus::Available { effective_abi, .. }, .. }) => {
            Part::Partly(format!("this kernel's Landlock has version {effective_abi} of {WANTED}"))
        }
        Ok(RestrictionStatus { landlock: LandlockStatus::NotEnabled, .. }) => {
            Part::Missing("Landlock is switched off: boot with `lsm=landlock,…`".to_owned())
        }
        Ok(_) => Part::Missing("this kernel has no Landlock: Linux 5.13".to_owned()),
        Err(error) => Part::Missing(format!("Landlock: {error}")),
    }
}

fn enforce(places: &Places) -> Result<RestrictionStatus, RulesetError> {
    let mut ruleset = Ruleset::default().handle_access(AccessFs::from_all(WANTED))?;
    // The service manager may listen on an abstract socket, which the daemon tells that it lives.
    let told =
        std::env::var_os("NOTIFY_SOCKET").is_some_and(|name| name.as_encoded_bytes().starts_with(b"@"));
    let scope = if told { Scope::Signal.into() } else { Scope::from_all(WANTED) };
    ruleset = ruleset.scope(scope)?;
    let mut created = ruleset.create()?;
    for (path, access) in places.rules() {
        // A place that is not there cannot be got at anyway.
        let Ok(place) = PathFd::new(&path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(WANTED) };
        created = created.add_rule(PathBeneath::new(place, access))?;
    }
    created.restrict_self()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_is_told_to_be_readable_is_short() {
        let sources = ["/etc/portcullis", "/etc/portcullis/x509", "/srv/pki", "/srv/pki/live"];
        let places = Places {
            sources: sources.iter().map(PathBuf::from).collect(),
            admin: "/run/portcullis".into(),
            state: "/var/lib/portcullis".into(),
            pins: "/sys/fs/bpf/portcullis".into(),
            audit: None,
        };
        let mut readable = places.readable();
        readable.sort();
        assert_eq!(readable, [PathBuf::from("/etc"), PathBuf::from("/srv/pki")]);
    }
}
