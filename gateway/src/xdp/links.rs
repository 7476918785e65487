//! Links between programs and interfaces, pinned: a link whose program is replaced never lets go of its
//! interface, and a link that is pinned outlives whoever made it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::pin::PinError;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpError, XdpMode};
use aya::sys::SyscallError;
use nix::net::if_::if_indextoname;

use super::error::is;
use super::{AttachError, sys};

/// Which of the kernel's hooks the XDP program is asked to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ModeRequest {
    /// In the driver if it can, else in the stack.
    #[default]
    Auto,
    /// In the driver or not at all.
    Native,
    /// In the stack, behind the driver; works with any.
    Skb,
}

/// Which hook it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the stack.
    Skb,
}

/// Which hook the egress guard got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// TCX (Linux 6.6), ahead of all other programs.
    Tcx,
    /// A filter of the clsact qdisc.
    Clsact,
}

/// A pin: what it holds to which interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    XdpNative,
    XdpSkb,
    Tcx,
    /// The program itself: a filter is no link, and stays until it is removed.
    Clsact,
}

impl Kind {
    const ALL: [Self; 4] = [Self::XdpNative, Self::XdpSkb, Self::Tcx, Self::Clsact];

    // bpffs reserves names with a dot.
    const fn prefix(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp_native_",
            Self::XdpSkb => "xdp_skb_",
            Self::Tcx => "tcx_",
            Self::Clsact => "clsact_",
        }
    }

    fn path(self, directory: &Path, ifindex: u32) -> PathBuf {
        directory.join(format!("{}{ifindex}", self.prefix()))
    }
}

const CLSACT_PRIORITY: u16 = 1;
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 1);

/// Attaches the XDP program, replacing the one that an earlier process left, in the mode that it left it in: to
/// change that would take an instant without any.
pub(super) fn attach_xdp(
    program: &mut Xdp,
    directory: &Path,
    ifindex: u32,
    request: ModeRequest,
) -> Result<Mode, AttachError> {
    for (kind, mode) in [(Kind::XdpNative, Mode::Native), (Kind::XdpSkb, Mode::Skb)] {
        let path = kind.path(directory, ifindex);
        let Some(pinned) = open(&path)? else { continue };
        // Taken, and dropped: the pin holds it.
        let replaced = pinned.try_into().map_err(link_error).and_then(|link| {
            let id = program.attach_to_link(link)?;
            program.take_link(id)
        });
        match replaced {
            Ok(_link) => return Ok(mode),
            Err(error) => unpin_if_defunct(&path, ifindex, error)?,
        }
    }
    let native = match request {
        ModeRequest::Skb => None,
        ModeRequest::Auto | ModeRequest::Native => {
            Some(create_xdp(program, directory, ifindex, Mode::Native))
        }
    };
    match native {
        Some(Err(AttachError::NativeUnsupported { source, .. })) if request == ModeRequest::Auto => {
            tracing::info!(ifindex, %source, "no native XDP: attaching in SKB mode");
            create_xdp(program, directory, ifindex, Mode::Skb)
        }
        Some(result) => result,
        None => create_xdp(program, directory, ifindex, Mode::Skb),
    }
}

fn create_xdp(program: &mut Xdp, directory: &Path, ifindex: u32, mode: Mode) -> Result<Mode, AttachError> {
    let (kind, flag) = match mode {
        Mode::Native => (Kind::XdpNative, XdpMode::Driver),
        Mode::Skb => (Kind::XdpSkb, XdpMode::Skb),
    };
    let attached = program.attach_to_if_index(ifindex, flag).and_then(|id| program.take_link(id));
    let link = attached.map_err(|error| match io_error(&error) {
        Some(libc::EBUSY | libc::EEXIST) => AttachError::Occupied { ifindex },
        Some(libc::ENODEV) => AttachError::InterfaceGone { ifindex },
        Some(e) if mode == Mode::Native && e != libc::EPERM => {
            AttachError::NativeUnsupported { ifindex, source: io::Error::from_raw_os_error(e) }
        }
        _ => program_error("attaching the XDP program to", ifindex, error),
    })?;
    let link: FdLink = link.try_into().map_err(|e| {
        program_error("attaching the XDP program by a link (Linux 5.9) to", ifindex, link_error(e))
    })?;
    pin(link, kind.path(directory, ifindex))?;
    Ok(mode)
}

/// Attaches the egress guard, replacing the one that an earlier process left.
pub(super) fn attach_guard(
    program: &mut SchedClassifier,
    directory: &Path,
    ifindex: u32,
    without_tcx: bool,
) -> Result<Guard, AttachError> {
    let path = Kind::Tcx.path(directory, ifindex);
    if let Some(pinned) = open(&path)? {
        let replaced = pinned.try_into().map_err(link_error).and_then(|link| {
            let id = program.attach_to_link(link)?;
            program.take_link(id)
        });
        match replaced {
            Ok(_link) => return Ok(Guard::Tcx),
            Err(error) => unpin_if_defunct(&path, ifindex, error)?,
        }
    }
    if Kind::Clsact.path(directory, ifindex).exists() || without_tcx {
        return attach_clsact(program, directory, ifindex);
    }
    let name = name(ifindex)?;
    // First: a program ahead of it could decide that it is not asked.
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let attached = program.attach_with_options(&name, TcAttachType::Egress, first);
    match attached.and_then(|id| program.take_link(id)) {
        Ok(link) => {
            let link: FdLink = link
                .try_into()
                .map_err(|e| program_error("attaching the egress guard to", ifindex, link_error(e)))?;
            pin(link, path)?;
            Ok(Guard::Tcx)
        }
        // What kernels before 6.6 say to an unknown type of link.
        Err(error) if matches!(io_error(&error), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            attach_clsact(program, directory, ifindex)
        }
        Err(error) => Err(program_error("attaching the egress guard to", ifindex, error)),
    }
}

fn attach_clsact(
    program: &mut SchedClassifier,
    directory: &Path,
    ifindex: u32,
) -> Result<Guard, AttachError> {
    let failed = |error| program_error("attaching the egress guard (clsact) to", ifindex, error);
    let name = name(ifindex)?;
    let marker = Kind::Clsact.path(directory, ifindex);
    let replaced = match marker.exists() {
        true => {
            let replaced = clsact_link(&name).and_then(|link| program.attach_to_link(link));
            replaced.and_then(|id| program.take_link(id)).ok()
        }
        false => {
            program.pin(&marker).map_err(|error| pin_error("pinning", &marker, error))?;
            None
        }
    };
    let link = match replaced {
        Some(link) => link,
        // None yet, or it went with its interface or qdisc.
        None => create_clsact(program, &name).map_err(failed)?,
    };
    // Dropped, it would detach.
    std::mem::forget(link);
    Ok(Guard::Clsact)
}

fn create_clsact(program: &mut SchedClassifier, name: &str) -> Result<SchedClassifierLink, ProgramError> {
    match qdisc_add_clsact(name) {
        Err(TcError::NetlinkError(e)) if e.raw_os_error() == Some(libc::EEXIST) => {}
        added => added?,
    }
    let options = NlOptions { priority: CLSACT_PRIORITY, handle: CLSACT_HANDLE, classid: None };
    let id = program.attach_with_options(name, TcAttachType::Egress, TcAttachOptions::Netlink(options))?;
    program.take_link(id)
}

fn clsact_link(name: &str) -> Result<SchedClassifierLink, ProgramError> {
    Ok(SchedClassifierLink::attached(name, TcAttachType::Egress, CLSACT_PRIORITY, CLSACT_HANDLE, None)?)
}

/// Lets go of the interface.
pub(super) fn detach(directory: &Path, ifindex: u32) -> Result<(), AttachError> {
    Kind::ALL.into_iter().try_for_each(|kind| remove(directory, kind, ifindex))
}

/// Every interface that something is pinned to, even if it is gone.
pub(super) fn attached(directory: &Path) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let file = entry?.file_name();
        let ifindex: Option<u32> =
            Kind::ALL.into_iter().find_map(|kind| file.to_str()?.strip_prefix(kind.prefix())?.parse().ok());
        found.extend(ifindex);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn remove(directory: &Path, kind: Kind, ifindex: u32) -> Result<(), AttachError> {
    let path = kind.path(directory, ifindex);
    if !path.exists() {
        return Ok(());
    }
    if kind != Kind::Clsact {
        sys::detach_pinned_link(&path).map_err(|source| AttachError::Pin {
            action: "detaching",
            path: path.clone(),
            source,
        })?;
    } else if let Ok(name) = name(ifindex) {
        let detached = clsact_link(&name).and_then(aya::programs::links::Link::detach);
        if let Err(error) = detached
            && io_error(&error) != Some(libc::ENOENT)
        {
            return Err(program_error("removing the egress guard (clsact) from", ifindex, error));
        }
    }
    fs::remove_file(&path).map_err(|source| AttachError::Pin { action: "removing", path, source })
}

fn name(ifindex: u32) -> Result<String, AttachError> {
    interface_name(ifindex).ok_or(AttachError::InterfaceGone { ifindex })
}

/// The name of an interface of this network namespace. (nix 0.31 takes no interface for one without a name.)
pub(super) fn interface_name(ifindex: u32) -> Option<String> {
    let name = if_indextoname(ifindex).ok()?.into_string().ok()?;
    (!name.is_empty()).then_some(name)
}

/// The pinned link, if there is one.
fn open(path: &Path) -> Result<Option<FdLink>, AttachError> {
    match PinnedLink::from_pin(path) {
        Ok(pinned) => Ok(Some(pinned.into())),
        Err(LinkError::SyscallError(SyscallError { io_error, .. })) if is(&io_error, libc::ENOENT) => {
            Ok(None)
        }
        Err(error) => {
            let source = match error {
                LinkError::SyscallError(SyscallError { io_error, .. }) => io_error,
                other => io::Error::other(other),
            };
            Err(AttachError::Pin { action: "opening", path: path.to_owned(), source })
        }
    }
}

/// A link whose interface is gone has nothing to hold on to, also if there is a new interface of that index.
fn unpin_if_defunct(path: &Path, ifindex: u32, error: ProgramError) -> Result<(), AttachError> {
    if io_error(&error) != Some(libc::ENOLINK) {
        return Err(program_error("replacing the program on", ifindex, error));
    }
    fs::remove_file(path).map_err(|source| AttachError::Pin {
        action: "removing",
        path: path.to_owned(),
        source,
    })
}

fn pin(link: FdLink, path: PathBuf) -> Result<(), AttachError> {
    link.pin(&path).map(drop).map_err(|error| pin_error("pinning", &path, error))
}

fn pin_error(action: &'static str, path: &Path, error: PinError) -> AttachError {
    let source = match error {
        PinError::SyscallError(SyscallError { io_error, .. }) => io_error,
        other => io::Error::other(other),
    };
    AttachError::Pin { action, path: path.to_owned(), source }
}

fn program_error(action: &'static str, ifindex: u32, error: ProgramError) -> AttachError {
    AttachError::Program { action, ifindex, source: Box::new(error) }
}

fn link_error(error: LinkError) -> ProgramError {
    match error {
        LinkError::SyscallError(error) => ProgramError::SyscallError(error),
        other => ProgramError::IOError(io::Error::other(other)),
    }
}

/// The kernel's answer, wherever aya has put it.
fn io_error(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) | ProgramError::IOError(io_error) => {
            io_error.raw_os_error()
        }
        ProgramError::NetlinkError(error)
        | ProgramError::XdpError(XdpError::NetlinkError(error))
        | ProgramError::TcError(TcError::NetlinkError(error)) => error.raw_os_error(),
        ProgramError::TcError(TcError::IoError(error)) => error.raw_os_error(),
        _ => None,
    }
}
