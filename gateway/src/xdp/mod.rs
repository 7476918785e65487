//! Loads the XDP program and the egress guard, tells them what is protected, attaches them, and leaves them behind.
//!
//! Start at [`XdpManager`]. The rules of the programs are in `ebpf/src/main.rs`; nothing here looks at packets.
//! [`Protection`] is what they are told, `maps` how it is brought up to date, `links` how programs hold on to
//! interfaces, `bpffs` where all of it is pinned.
//!
//! Everything is pinned under one directory for each gateway, and so outlives the daemon. The next daemon finds
//! the maps as they were left, brings them up to date, and replaces the program on each interface in one step:
//! there is no instant without protection. Maps whose layout has changed are not reused; theirs are filled before
//! the first program is replaced. Dropping an [`XdpManager`] detaches nothing; [`detach_all`] does.

mod bpffs;
mod error;
mod links;
mod maps;
mod protection;
mod sys;
mod trial;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;

use aya::programs::{Program, ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::LinkAddr;
use portcullis_ebpf_common::{MAX_INTERFACES, map, program};

pub use bpffs::ensure_bpffs;
pub use error::{AttachError, LoadError, MapShape, UpdateError};
pub use links::{Guard, Mode, ModeRequest};
pub use portcullis_ebpf_common::{Disposition, MAX_QUEUES, Outcome, Role};
pub use protection::{AddressUse, Protection, Side};
pub use trial::TrialError;

use bpffs::Pins;
use maps::Maps;

/// The programs as built by `ebpf/build.sh`.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/portcullis.bpf.o"));

const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;
/// Also what an interface without a link-layer address counts as.
const ARPHRD_NONE: u16 = 0xfffe;

/// What an interface got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attached {
    /// Where the XDP program runs.
    pub mode: Mode,
    /// Where the egress guard runs; inside interfaces have none.
    pub guard: Option<Guard>,
}

/// The loaded programs and their maps.
pub struct XdpManager {
    ebpf: Ebpf,
    maps: Maps,
    pins: Pins,
    /// What the maps hold; `None` after a failed update, until they have been read again.
    protection: Option<Protection>,
    without_tcx: bool,
    /// Which of the XDP programs it is.
    ingress: &'static str,
}

/// What interfaces give the XDP program, and it the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Buffers {
    /// Packets of one buffer.
    Single,
    /// Chains of buffers too (Linux 5.18).
    Chains,
}

impl XdpManager {
    /// Loads the programs, on the maps that are pinned under `pin_dir` (see [`ensure_bpffs`]) if they are of this
    /// layout, and tells them what is protected. Nothing is attached or replaced yet.
    pub fn load(pin_dir: &Path, protection: &Protection) -> Result<Self, LoadError> {
        Self::load_for(Buffers::Single, pin_dir, protection)
    }

    /// The same for interfaces whose packets come like that.
    pub fn load_for(buffers: Buffers, pin_dir: &Path, protection: &Protection) -> Result<Self, LoadError> {
        let ingress = match buffers {
            Buffers::Single => program::INGRESS,
            Buffers::Chains => program::INGRESS_CHAINS,
        };
        let pins = Pins::create(pin_dir)?;
        let directory = pins.maps();
        maps::check_pins(&directory)?;
        let mut loader = EbpfLoader::new();
        for name in map::ALL {
            loader.map_pin_path(name, directory.join(name));
        }
        let mut ebpf = loader.load(OBJECT)?;
        let maps = Maps::take_from(&mut ebpf)?;
        let mut manager = Self { ebpf, maps, pins, protection: None, without_tcx: false, ingress };
        let loaded = uninterrupted(|| manager.ingress_mut().and_then(Xdp::load));
        loaded.map_err(|e| LoadError::program(ingress, e))?;
        let loaded = uninterrupted(|| manager.egress_mut().and_then(SchedClassifier::load));
        loaded.map_err(|e| LoadError::program(program::EGRESS, e))?;
        manager.update(protection)?;
        manager.pins.remove_other_layouts().map_err(|source| LoadError::Directory {
            action: "removing maps of another layout from",
            path: pin_dir.to_owned(),
            source,
        })?;
        Ok(manager)
    }

    /// Uses clsact for the egress guard of interfaces that have none yet, as on kernels without TCX.
    pub fn without_tcx(&mut self) {
        self.without_tcx = true;
    }

    /// Attaches the programs to an interface of this network namespace, or takes it over from an earlier process,
    /// whose choice of mode then stays. On an outside interface the guard comes first.
    pub fn attach(
        &mut self,
        ifindex: u32,
        role: Role,
        request: ModeRequest,
    ) -> Result<Attached, AttachError> {
        check_link_type(ifindex)?;
        let slot = self.slot(ifindex)?;
        self.maps.set_interface(ifindex, role, slot)?;
        let links = self.pins.links();
        let without_tcx = self.without_tcx;
        let missing = |action| move |e| AttachError::Program { action, ifindex, source: Box::new(e) };
        let guard = match role {
            Role::Inside => None,
            Role::Outside | Role::Both => {
                let program = self.egress_mut().map_err(missing("attaching the egress guard to"))?;
                Some(links::attach_guard(program, &links, ifindex, without_tcx)?)
            }
        };
        let program = self.ingress_mut().map_err(missing("attaching the XDP program to"))?;
        let mode = links::attach_xdp(program, &links, ifindex, request)?;
        tracing::info!(ifindex, ?role, ?mode, ?guard, "attached");
        Ok(Attached { mode, guard })
    }

    /// Lets go of an interface: what comes and goes there is no longer checked.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), AttachError> {
        links::detach(&self.pins.links(), ifindex)?;
        Ok(self.maps.remove_interface(ifindex)?)
    }

    /// Interfaces that are attached, by this or an earlier process. Some may be gone.
    pub fn interfaces(&self) -> Result<BTreeMap<u32, Role>, UpdateError> {
        let interfaces = self.maps.interfaces()?;
        Ok(interfaces
            .into_iter()
            .filter_map(|(ifindex, i)| Some((ifindex, Role::from_raw(i.role)?)))
            .collect())
    }

    /// Hands what is for a worker and received on this queue to this AF_XDP socket, which must be bound to it.
    pub fn set_xsk(&mut self, ifindex: u32, queue: u32, socket: BorrowedFd<'_>) -> Result<(), UpdateError> {
        self.maps.set_socket(ifindex, queue, socket)
    }

    /// Takes the queue's socket away: what is for a worker is dropped. A closed socket is gone by itself.
    pub fn unset_xsk(&mut self, ifindex: u32, queue: u32) -> Result<(), UpdateError> {
        self.maps.unset_socket(ifindex, queue)
    }

    /// What the programs have been told; `None` after a failed update.
    pub fn protection(&self) -> Option<&Protection> {
        self.protection.as_ref()
    }

    /// Tells the programs what is protected, in place of what they were told before. At each instant at least as
    /// much is protected as is both before and after.
    ///
    /// If this fails, everything counts as protected (nothing is forwarded in clear, the host stays reachable)
    /// until it succeeds.
    pub fn update(&mut self, to: &Protection) -> Result<(), UpdateError> {
        let from = match self.protection.take() {
            Some(known) => known,
            None => self.maps.read()?,
        };
        self.maps.change(&from, to)?;
        self.protection = Some(to.clone());
        Ok(())
    }

    /// Adds one prefix. Fails like [`XdpManager::update`].
    pub fn add_prefix(&mut self, side: Side, net: IpNet) -> Result<(), UpdateError> {
        self.change_one(|maps, protection| {
            protection.prefixes_mut(side).insert(net.trunc());
            maps.insert_prefix(side, net.trunc())
        })
    }

    /// Removes one prefix. Fails like [`XdpManager::update`].
    pub fn remove_prefix(&mut self, side: Side, net: IpNet) -> Result<(), UpdateError> {
        self.change_one(|maps, protection| {
            protection.prefixes_mut(side).remove(&net.trunc());
            maps.remove_prefix(side, net.trunc())
        })
    }

    /// Adds or changes one address of the host. Fails like [`XdpManager::update`].
    pub fn set_address(&mut self, addr: IpAddr, used: AddressUse) -> Result<(), UpdateError> {
        self.change_one(|maps, protection| {
            protection.addresses.insert(addr, used);
            maps.insert_address(addr, used)
        })
    }

    /// Removes one address of the host. Fails like [`XdpManager::update`].
    pub fn remove_address(&mut self, addr: IpAddr) -> Result<(), UpdateError> {
        self.change_one(|maps, protection| {
            protection.addresses.remove(&addr);
            maps.remove_address(addr)
        })
    }

    /// How often each outcome was decided, since the maps were made.
    pub fn counters(&self) -> Result<BTreeMap<Outcome, u64>, UpdateError> {
        self.maps.counters()
    }

    /// What the XDP program would do with a frame received on this interface and queue.
    pub fn try_ingress(&self, ifindex: u32, queue: u32, frame: &[u8]) -> Result<Disposition, TrialError> {
        let found: Result<&Xdp, _> = self.program(self.ingress);
        trial::ingress(found.map_err(|e| TrialError::Kernel(Box::new(e)))?, ifindex, queue, frame)
    }

    /// What the egress guard would do with a frame sent on this interface.
    pub fn try_egress(&self, ifindex: u32, frame: &[u8]) -> Result<Disposition, TrialError> {
        let found: Result<&SchedClassifier, _> = self.program(program::EGRESS);
        trial::egress(found.map_err(|e| TrialError::Kernel(Box::new(e)))?, ifindex, frame)
    }

    fn change_one(
        &mut self,
        change: impl FnOnce(&mut Maps, &mut Protection) -> Result<(), UpdateError>,
    ) -> Result<(), UpdateError> {
        let mut protection = match self.protection.take() {
            Some(known) => known,
            None => self.maps.read()?,
        };
        match change(&mut self.maps, &mut protection) {
            Ok(()) => {
                self.protection = Some(protection);
                Ok(())
            }
            Err(error) => {
                self.maps.distrust(&protection)?;
                Err(error)
            }
        }
    }

    /// The interface's own slot, or one that no other interface has.
    fn slot(&mut self, ifindex: u32) -> Result<u32, AttachError> {
        let mut interfaces = self.maps.interfaces()?;
        if let Some(known) = interfaces.get(&ifindex) {
            return Ok(known.slot);
        }
        if interfaces.len() >= MAX_INTERFACES as usize {
            let gone: Vec<_> =
                interfaces.keys().copied().filter(|i| links::interface_name(*i).is_none()).collect();
            for ifindex in gone {
                self.detach(ifindex)?;
            }
            interfaces = self.maps.interfaces()?;
        }
        let free = (0..MAX_INTERFACES).find(|slot| interfaces.values().all(|i| i.slot != *slot));
        free.ok_or(AttachError::TooManyInterfaces { max: MAX_INTERFACES })
    }

    fn program<'a, P>(&'a self, name: &str) -> Result<P, ProgramError>
    where
        P: TryFrom<&'a Program, Error = ProgramError>,
    {
        self.ebpf.program(name).ok_or(ProgramError::NotLoaded)?.try_into()
    }

    fn ingress_mut(&mut self) -> Result<&mut Xdp, ProgramError> {
        self.ebpf.program_mut(self.ingress).ok_or(ProgramError::NotLoaded)?.try_into()
    }

    fn egress_mut(&mut self) -> Result<&mut SchedClassifier, ProgramError> {
        self.ebpf.program_mut(program::EGRESS).ok_or(ProgramError::NotLoaded)?.try_into()
    }
}

/// Lets go of every interface and removes all pins: nothing is checked any more. Works without the programs, while
/// the daemon runs, and after it has gone; in the network namespace that it ran in. Returns the interfaces let go.
pub fn detach_all(pin_dir: &Path) -> Result<Vec<u32>, AttachError> {
    let pins = Pins::new(pin_dir);
    let failed = |action| {
        let path = pin_dir.to_owned();
        move |source| AttachError::Pin { action, path, source }
    };
    let attached = links::attached(&pins.links()).map_err(failed("reading"))?;
    for ifindex in &attached {
        links::detach(&pins.links(), *ifindex)?;
    }
    pins.remove().map_err(failed("removing pins under"))?;
    Ok(attached)
}

/// Loads a program, and again if a signal came meanwhile: the kernel's verifier then gives up with EAGAIN.
fn uninterrupted(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    const TRIES: usize = 5;
    let interrupted = |error: &ProgramError| {
        let ProgramError::LoadError { io_error, .. } = error else { return false };
        io_error.raw_os_error() == Some(nix::libc::EAGAIN)
    };
    let mut loaded = load();
    for _ in 1..TRIES {
        match &loaded {
            Err(error) if interrupted(error) => loaded = load(),
            _ => break,
        }
    }
    loaded
}

fn check_link_type(ifindex: u32) -> Result<(), AttachError> {
    if links::interface_name(ifindex).is_none() {
        return Err(AttachError::InterfaceGone { ifindex });
    }
    let link_addresses = getifaddrs().map(|all| all.filter_map(|i| i.address?.as_link_addr().copied()));
    let found = link_addresses.ok().and_then(|mut all| all.find(|link| link.ifindex() == ifindex as usize));
    match found.as_ref().map_or(ARPHRD_NONE, LinkAddr::hatype) {
        ARPHRD_ETHER | ARPHRD_LOOPBACK => Ok(()),
        link_type => Err(AttachError::NotEthernet { ifindex, link_type }),
    }
}
