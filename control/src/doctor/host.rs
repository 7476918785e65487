//! The machine as the checks see it.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

/// What is asked of the kernel by other means than files, because files show another network namespace or nothing.
pub trait Kernel: Debug {
    /// The interface of that name in this network namespace.
    fn link(&self, interface: &str) -> Option<LinkState>;
    /// What its driver tells.
    fn ethtool(&self, interface: &str) -> Ethtool;
    /// Whether something keeps the clock right; `None`: the kernel does not tell.
    fn clock_synchronised(&self) -> Option<bool>;
    /// The version of Landlock's interface; `None`: it has none, or it is switched off.
    fn landlock(&self) -> Option<u32>;
}

/// An interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// Octets of its largest IP packet.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether its cable has a link.
    pub carrier: bool,
    /// Receive queues in use.
    pub queues: u32,
}

/// What a driver tells through `ethtool`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ethtool {
    /// The driver's name.
    pub driver: Option<String>,
    /// Offloads that are on.
    pub on: Vec<Offload>,
    /// Which fields of ESP over IPv4 choose the receive queue: the kernel's `RXH_` bits; `None`: not told.
    pub esp_hash: Option<u64>,
}

/// An offload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// Checksums on transmission.
    TxChecksum,
    /// Segmentation of TCP on transmission.
    Tso,
    /// Segmentation in software on transmission.
    Gso,
    /// Merging on reception, in software.
    Gro,
    /// Merging on reception, in hardware.
    Lro,
    /// VLAN tags are taken off on reception, in hardware.
    RxVlan,
}

/// Reads the machine.
#[derive(Debug)]
pub struct Host {
    root: PathBuf,
    kernel: Box<dyn Kernel>,
}

impl Host {
    /// `root`: below which `/proc`, `/sys` and `/dev` are.
    pub fn new(root: impl Into<PathBuf>, kernel: Box<dyn Kernel>) -> Self {
        Self { root: root.into(), kernel }
    }

    /// This machine.
    pub fn live() -> Self {
        Self::new("/", Box::new(super::Live))
    }

    pub(super) fn kernel(&self) -> &dyn Kernel {
        self.kernel.as_ref()
    }

    /// Where a file is; `path` without the leading slash.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A file's text without white space at its ends; `None` if it cannot be read.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    /// A file that holds one number.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// A kernel variable, named as `sysctl` names it.
    pub(super) fn sysctl(&self, name: &str) -> Option<u64> {
        self.number(&format!("proc/sys/{}", name.replace('.', "/")))
    }

    /// The names in a directory.
    pub(super) fn names(&self, path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Numbers of `0-3,5` in a file such as `/sys/devices/system/cpu/online`.
    pub(super) fn list(&self, path: &str) -> Option<Vec<u64>> {
        self.read(path).map(|text| parse_list(&text))
    }
}

fn parse_list(text: &str) -> Vec<u64> {
    let ranges = text.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<u64>().ok()?..=last.trim().parse().ok()?)
    });
    // A range from a file is never believed to be long.
    ranges.flat_map(|range| range.take(8192)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_cores_has_single_ones_and_ranges() {
        assert_eq!(parse_list("0-3,5"), [0, 1, 2, 3, 5]);
        assert_eq!(parse_list(""), [0_u64; 0]);
    }
}
