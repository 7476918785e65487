//! The directory that pins live in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use portcullis_ebpf_common::LAYOUT_VERSION;

use super::LoadError;

/// Makes `path` a directory on a BPF file system: made there if an ancestor is on one, else made and mounted on.
///
/// Mount it from the host's mount namespace if pins shall outlive the process: a mount made in a namespace that
/// goes with the process (`ip netns exec`, `PrivateMounts=`) takes all protection with it.
pub fn ensure_bpffs(path: &Path) -> Result<(), LoadError> {
    let failed = |action, source: io::Error| LoadError::Directory { action, path: path.to_owned(), source };
    fs::create_dir_all(path).map_err(|e| failed("creating", e))?;
    if is_bpffs(path).map_err(|e| failed("looking at", e))? {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700"))
        .map_err(|e| failed("mounting a BPF file system on", e.into()))
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == BPF_FS_MAGIC)
}

/// Where what is pinned.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    root: PathBuf,
}

const MAPS_PREFIX: &str = "maps_v";

impl Pins {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes the directories.
    pub(super) fn create(root: &Path) -> Result<Self, LoadError> {
        let pins = Self::new(root);
        let failed =
            |path: &Path, source| LoadError::Directory { action: "creating", path: path.to_owned(), source };
        fs::create_dir_all(root).map_err(|e| failed(root, e))?;
        match is_bpffs(root) {
            Ok(true) => {}
            Ok(false) => return Err(LoadError::NotBpffs { path: root.to_owned() }),
            Err(e) => return Err(failed(root, e)),
        }
        for directory in [pins.maps(), pins.links()] {
            fs::create_dir_all(&directory).map_err(|e| failed(&directory, e))?;
        }
        Ok(pins)
    }

    /// Directory of the maps of this layout.
    pub(super) fn maps(&self) -> PathBuf {
        self.root.join(format!("{MAPS_PREFIX}{LAYOUT_VERSION}"))
    }

    /// Directory of the links.
    pub(super) fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Unpins the maps of other layouts. Programs that still use them keep them.
    pub(super) fn remove_other_layouts(&self) -> io::Result<()> {
        let current = self.maps();
        self.remove_maps(|path| path != current)
    }

    /// Unpins all maps, and removes the directories if nothing else is in them.
    pub(super) fn remove(&self) -> io::Result<()> {
        self.remove_maps(|_| true)?;
        for directory in [self.links(), self.root.clone()] {
            match fs::remove_dir(&directory) {
                Ok(()) => {}
                // The root may be the mount itself, or hold what is not ours.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EBUSY | libc::ENOTEMPTY)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn remove_maps(&self, which: impl Fn(&Path) -> bool) -> io::Result<()> {
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let is_maps = entry.file_name().to_str().is_some_and(|name| name.starts_with(MAPS_PREFIX));
            if is_maps && which(&entry.path()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}
