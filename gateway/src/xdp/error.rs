//! What can go wrong with the programs, one enum per phase: loading, attaching, updating.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use aya::sys::SyscallError;

/// The programs could not be loaded, or their maps not set up.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel does not let this process.
    #[error(
        "not permitted to load BPF programs: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON \
         (systemd: AmbientCapabilities=)"
    )]
    MissingCapability(#[source] io::Error),
    /// Pins only live on a BPF file system.
    #[error(
        "{} is not on a BPF file system: run `mount -t bpf bpf {}` or set the pin directory to a path on one",
        path.display(), path.display()
    )]
    NotBpffs {
        /// The pin directory.
        path: PathBuf,
    },
    /// The pin directory could not be made, read or mounted.
    #[error("{action} {}", path.display())]
    Directory {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A map that an earlier version left pinned cannot be used.
    #[error(
        "the pinned map {} holds {found}, not {expected}: to start afresh, with a moment of no protection, run \
         `portcullis detach --open`",
        path.display()
    )]
    IncompatiblePin {
        /// The map.
        path: PathBuf,
        /// Its sizes.
        found: MapShape,
        /// The sizes wanted.
        expected: MapShape,
    },
    /// The verifier refused a program.
    #[error("the kernel's verifier refused {program} (is the kernel older than 6.6?):\n{log}")]
    Verifier {
        /// Which program.
        program: &'static str,
        /// The verifier's words.
        log: String,
    },
    /// The object, or the kernel's answer to it.
    #[error("loading the BPF object")]
    Object(#[source] Box<EbpfError>),
    /// What is to be protected could not be written.
    #[error(transparent)]
    Update(#[from] UpdateError),
}

/// Sizes of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapShape {
    /// Octets of a key.
    pub key: u32,
    /// Octets of a value.
    pub value: u32,
    /// Most entries.
    pub entries: u32,
}

impl std::fmt::Display for MapShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} entries of {} + {} octets", self.entries, self.key, self.value)
    }
}

impl From<EbpfError> for LoadError {
    fn from(error: EbpfError) -> Self {
        let denied = match &error {
            EbpfError::MapError(MapError::CreateError { io_error, .. }) => is(io_error, libc::EPERM),
            EbpfError::MapError(error) => errno(error) == Some(libc::EPERM),
            _ => false,
        };
        match denied {
            true => Self::MissingCapability(io::Error::from_raw_os_error(libc::EPERM)),
            false => Self::Object(Box::new(error)),
        }
    }
}

impl LoadError {
    pub(super) fn program(program: &'static str, error: ProgramError) -> Self {
        match error {
            ProgramError::LoadError { io_error, .. } if is(&io_error, libc::EPERM) => {
                Self::MissingCapability(io_error)
            }
            ProgramError::LoadError { io_error, verifier_log } => {
                Self::Verifier { program, log: format!("{io_error}\n{verifier_log}") }
            }
            error => Self::Object(Box::new(error.into())),
        }
    }
}

/// The programs could not be attached to an interface, or detached from it.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// No interface of that index in this network namespace.
    #[error("there is no interface with index {ifindex}: it was removed, or is in another network namespace")]
    InterfaceGone {
        /// The index.
        ifindex: u32,
    },
    /// The programs parse Ethernet.
    #[error(
        "interface {ifindex} is not an Ethernet device (link type {link_type}): packets on it cannot be checked"
    )]
    NotEthernet {
        /// The interface.
        ifindex: u32,
        /// Its `ARPHRD_*` type.
        link_type: u16,
    },
    /// Somebody else's XDP program is there.
    #[error(
        "interface {ifindex} already has another XDP program: find it with `bpftool net show`, remove it with \
         `ip link set dev NAME xdp off` or by stopping what attached it"
    )]
    Occupied {
        /// The interface.
        ifindex: u32,
    },
    /// The driver cannot do it.
    #[error(
        "the driver of interface {ifindex} does not take an XDP program (`xdp_mode = \"skb\"` works on any)"
    )]
    NativeUnsupported {
        /// The interface.
        ifindex: u32,
        /// The driver's answer.
        source: io::Error,
    },
    /// All slots are taken.
    #[error("no more than {max} interfaces can be attached")]
    TooManyInterfaces {
        /// How many.
        max: u32,
    },
    /// The kernel refused.
    #[error("{action} interface {ifindex}")]
    Program {
        /// What was tried.
        action: &'static str,
        /// The interface.
        ifindex: u32,
        /// Why it failed.
        source: Box<ProgramError>,
    },
    /// A pin could not be made, opened or removed.
    #[error("{action} {}", path.display())]
    Pin {
        /// What was tried.
        action: &'static str,
        /// The pin.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A map could not be written.
    #[error(transparent)]
    Update(#[from] UpdateError),
}

/// A map could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The map is full. Until an update succeeds, everything counts as protected.
    #[error("{map} is full: it holds {capacity} entries")]
    Full {
        /// Its name.
        map: &'static str,
        /// Its size.
        capacity: u32,
    },
    /// The interface is not attached.
    #[error("interface {ifindex} is not attached")]
    NotAttached {
        /// Its index.
        ifindex: u32,
    },
    /// Queues are numbered from 0 to one less than `max`.
    #[error("queue {queue} cannot have a socket: queues 0 to {} can (`ethtool -L NAME combined {max}`)", max - 1)]
    NoSuchQueue {
        /// The queue.
        queue: u32,
        /// How many there can be.
        max: u32,
    },
    /// The kernel refused.
    #[error("accessing {map}")]
    Map {
        /// Its name.
        map: &'static str,
        /// Why it failed.
        source: Box<MapError>,
    },
}

impl UpdateError {
    pub(super) fn map(map: &'static str, capacity: u32, error: MapError) -> Self {
        match errno(&error) {
            Some(libc::ENOSPC | libc::E2BIG) => Self::Full { map, capacity },
            _ => Self::Map { map, source: Box::new(error) },
        }
    }
}

pub(super) fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(SyscallError { io_error, .. }) | MapError::IoError(io_error) => {
            io_error.raw_os_error()
        }
        _ => None,
    }
}

pub(super) fn is(error: &io::Error, errno: i32) -> bool {
    error.raw_os_error() == Some(errno)
}
