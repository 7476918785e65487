//! The maps, typed, and how they are brought up to date without an instant in which less is protected than before
//! and after.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray, XskMap};
use ipnet::IpNet;
use portcullis_ebpf_common::{
    Config, Interface, MAX_ADDRESSES, MAX_INTERFACES, MAX_PREFIXES, MAX_QUEUES, Outcome, Role, address, map,
    xsk_index,
};

use super::error::errno;
use super::{AddressUse, LoadError, MapShape, Protection, Side, UpdateError};

/// Handles to all maps.
pub(super) struct Maps {
    config: Array<MapData, Config>,
    interfaces: HashMap<MapData, u32, Interface>,
    sockets: XskMap<MapData>,
    counters: PerCpuArray<MapData, u64>,
    addresses_v4: HashMap<MapData, [u8; 4], u32>,
    addresses_v6: HashMap<MapData, [u8; 16], u32>,
    /// By [`Side`].
    tries: [Tries; Side::ALL.len()],
}

/// The prefixes of one side.
struct Tries {
    v4: Trie<[u8; 4]>,
    v6: Trie<[u8; 16]>,
}

type Trie<A> = LpmTrie<MapData, A, u32>;

/// The maps of one side: IPv4, IPv6.
const fn names(side: Side) -> (&'static str, &'static str) {
    match side {
        Side::Local => (map::LOCAL_V4, map::LOCAL_V6),
        Side::Remote => (map::REMOTE_V4, map::REMOTE_V6),
        Side::PassLocal => (map::PASS_LOCAL_V4, map::PASS_LOCAL_V6),
        Side::PassRemote => (map::PASS_REMOTE_V4, map::PASS_REMOTE_V6),
    }
}

/// Refuses pins that another build has left in the same place: the kernel would not.
pub(super) fn check_pins(directory: &Path) -> Result<(), LoadError> {
    for name in map::ALL {
        let path = directory.join(name);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).map_err(aya::EbpfError::from)?;
        let found = MapShape { key: info.key_size(), value: info.value_size(), entries: info.max_entries() };
        let expected = shape(name);
        if found != expected {
            return Err(LoadError::IncompatiblePin { path, found, expected });
        }
    }
    Ok(())
}

fn shape(name: &str) -> MapShape {
    let (key, value, entries) = match name {
        map::CONFIG => (4, size_of::<Config>(), 1),
        map::INTERFACES => (4, size_of::<Interface>(), MAX_INTERFACES),
        map::SOCKETS => (4, 4, MAX_INTERFACES * MAX_QUEUES),
        map::COUNTERS => (4, 8, Outcome::ALL.len() as u32),
        map::ADDRESSES_V4 => (4, 4, MAX_ADDRESSES),
        map::ADDRESSES_V6 => (16, 4, MAX_ADDRESSES),
        map::LOCAL_V4 | map::REMOTE_V4 | map::PASS_LOCAL_V4 | map::PASS_REMOTE_V4 => {
            (size_of::<Key<[u8; 4]>>(), 4, MAX_PREFIXES)
        }
        _ => (size_of::<Key<[u8; 16]>>(), 4, MAX_PREFIXES),
    };
    MapShape { key: key as u32, value: value as u32, entries }
}

fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, LoadError> {
    let missing = || MapError::InvalidName { name: name.to_owned() };
    let taken = ebpf.take_map(name).ok_or_else(missing).and_then(M::try_from);
    taken.map_err(|source| UpdateError::Map { map: name, source: Box::new(source) }.into())
}

impl Tries {
    fn take_from(ebpf: &mut Ebpf, side: Side) -> Result<Self, LoadError> {
        let (v4, v6) = names(side);
        Ok(Self { v4: take(ebpf, v4)?, v6: take(ebpf, v6)? })
    }
}

impl Maps {
    pub(super) fn take_from(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            config: take(ebpf, map::CONFIG)?,
            interfaces: take(ebpf, map::INTERFACES)?,
            sockets: take(ebpf, map::SOCKETS)?,
            counters: take(ebpf, map::COUNTERS)?,
            addresses_v4: take(ebpf, map::ADDRESSES_V4)?,
            addresses_v6: take(ebpf, map::ADDRESSES_V6)?,
            tries: [
                Tries::take_from(ebpf, Side::Local)?,
                Tries::take_from(ebpf, Side::Remote)?,
                Tries::take_from(ebpf, Side::PassLocal)?,
                Tries::take_from(ebpf, Side::PassRemote)?,
            ],
        })
    }

    /// What the maps hold.
    pub(super) fn read(&self) -> Result<Protection, UpdateError> {
        let Config { ike_port, nat_t_port, firewall, .. } =
            self.config.get(&0, 0).map_err(|e| UpdateError::map(map::CONFIG, 1, e))?;
        let mut found = Protection { ike_port, nat_t_port, firewall: firewall != 0, ..Protection::default() };
        for side in Side::ALL {
            let (v4, v6) = names(side);
            read_trie(&self.tries(side).v4, v4, found.prefixes_mut(side))?;
            read_trie(&self.tries(side).v6, v6, found.prefixes_mut(side))?;
        }
        for entry in self.addresses_v4.iter() {
            let (addr, flags) = entry.map_err(|e| UpdateError::map(map::ADDRESSES_V4, MAX_ADDRESSES, e))?;
            found.addresses.insert(addr.into(), from_flags(flags));
        }
        for entry in self.addresses_v6.iter() {
            let (addr, flags) = entry.map_err(|e| UpdateError::map(map::ADDRESSES_V6, MAX_ADDRESSES, e))?;
            found.addresses.insert(addr.into(), from_flags(flags));
        }
        Ok(found)
    }

    /// Turns what the maps hold, `from`, into `to`. On failure everything counts as protected.
    ///
    /// Prefixes are added first and removed last, so that at each instant at least as much is protected as is both
    /// before and after.
    pub(super) fn change(&mut self, from: &Protection, to: &Protection) -> Result<(), UpdateError> {
        let changed = self.try_change(from, to);
        let whole = changed.is_ok();
        let config = config(whole, to);
        let written = self.config.set(0, config, 0).map_err(|e| UpdateError::map(map::CONFIG, 1, e));
        changed.and(written)
    }

    fn try_change(&mut self, from: &Protection, to: &Protection) -> Result<(), UpdateError> {
        for side in Side::ALL {
            for net in to.prefixes(side).difference(from.prefixes(side)) {
                self.insert_prefix(side, *net)?;
            }
        }
        let stale: Vec<_> =
            from.addresses.keys().filter(|addr| !to.addresses.contains_key(*addr)).copied().collect();
        for addr in stale {
            self.remove_address(addr)?;
        }
        for (addr, used) in changed_addresses(&from.addresses, &to.addresses) {
            self.insert_address(addr, used)?;
        }
        for side in Side::ALL {
            for net in from.prefixes(side).difference(to.prefixes(side)) {
                self.remove_prefix(side, *net)?;
            }
        }
        Ok(())
    }

    /// Writes the configuration as not whole.
    pub(super) fn distrust(&mut self, protection: &Protection) -> Result<(), UpdateError> {
        self.config.set(0, config(false, protection), 0).map_err(|e| UpdateError::map(map::CONFIG, 1, e))
    }

    pub(super) fn insert_prefix(&mut self, side: Side, net: IpNet) -> Result<(), UpdateError> {
        let (length, (v4, v6)) = (u32::from(net.prefix_len()), names(side));
        let Tries { v4: trie_v4, v6: trie_v6 } = self.tries_mut(side);
        let (name, done) = match net.network() {
            IpAddr::V4(a) => (v4, trie_v4.insert(&Key::new(length, a.octets()), length, 0)),
            IpAddr::V6(a) => (v6, trie_v6.insert(&Key::new(length, a.octets()), length, 0)),
        };
        done.map_err(|e| UpdateError::map(name, MAX_PREFIXES, e))
    }

    pub(super) fn remove_prefix(&mut self, side: Side, net: IpNet) -> Result<(), UpdateError> {
        let (length, (v4, v6)) = (u32::from(net.prefix_len()), names(side));
        let Tries { v4: trie_v4, v6: trie_v6 } = self.tries_mut(side);
        let (name, done) = match net.network() {
            IpAddr::V4(a) => (v4, trie_v4.remove(&Key::new(length, a.octets()))),
            IpAddr::V6(a) => (v6, trie_v6.remove(&Key::new(length, a.octets()))),
        };
        absent_is_removed(done).map_err(|e| UpdateError::map(name, MAX_PREFIXES, e))
    }

    fn tries(&self, side: Side) -> &Tries {
        let [local, remote, pass_local, pass_remote] = &self.tries;
        match side {
            Side::Local => local,
            Side::Remote => remote,
            Side::PassLocal => pass_local,
            Side::PassRemote => pass_remote,
        }
    }

    fn tries_mut(&mut self, side: Side) -> &mut Tries {
        let [local, remote, pass_local, pass_remote] = &mut self.tries;
        match side {
            Side::Local => local,
            Side::Remote => remote,
            Side::PassLocal => pass_local,
            Side::PassRemote => pass_remote,
        }
    }

    pub(super) fn insert_address(&mut self, addr: IpAddr, used: AddressUse) -> Result<(), UpdateError> {
        let flags = to_flags(used);
        let (name, done) = match addr {
            IpAddr::V4(a) => (map::ADDRESSES_V4, self.addresses_v4.insert(a.octets(), flags, 0)),
            IpAddr::V6(a) => (map::ADDRESSES_V6, self.addresses_v6.insert(a.octets(), flags, 0)),
        };
        done.map_err(|e| UpdateError::map(name, MAX_ADDRESSES, e))
    }

    pub(super) fn remove_address(&mut self, addr: IpAddr) -> Result<(), UpdateError> {
        let (name, done) = match addr {
            IpAddr::V4(a) => (map::ADDRESSES_V4, self.addresses_v4.remove(&a.octets())),
            IpAddr::V6(a) => (map::ADDRESSES_V6, self.addresses_v6.remove(&a.octets())),
        };
        absent_is_removed(done).map_err(|e| UpdateError::map(name, MAX_ADDRESSES, e))
    }

    /// Every interface that has a role.
    pub(super) fn interfaces(&self) -> Result<BTreeMap<u32, Interface>, UpdateError> {
        let entries: Result<_, _> = self.interfaces.iter().collect();
        entries.map_err(|e| UpdateError::map(map::INTERFACES, MAX_INTERFACES, e))
    }

    pub(super) fn set_interface(&mut self, ifindex: u32, role: Role, slot: u32) -> Result<(), UpdateError> {
        let value = Interface { role: role as u32, slot };
        let done = self.interfaces.insert(ifindex, value, 0);
        done.map_err(|e| UpdateError::map(map::INTERFACES, MAX_INTERFACES, e))
    }

    /// Takes the interface's role and its sockets.
    pub(super) fn remove_interface(&mut self, ifindex: u32) -> Result<(), UpdateError> {
        if let Ok(Interface { slot, .. }) = self.interfaces.get(&ifindex, 0) {
            for queue in 0..MAX_QUEUES {
                self.clear_socket(slot, queue)?;
            }
        }
        let done = absent_is_removed(self.interfaces.remove(&ifindex));
        done.map_err(|e| UpdateError::map(map::INTERFACES, MAX_INTERFACES, e))
    }

    pub(super) fn set_socket(
        &mut self,
        ifindex: u32,
        queue: u32,
        socket: BorrowedFd<'_>,
    ) -> Result<(), UpdateError> {
        let index = self.socket_index(ifindex, queue)?;
        let done = self.sockets.set(index, socket.as_raw_fd(), 0);
        done.map_err(|e| UpdateError::map(map::SOCKETS, MAX_INTERFACES * MAX_QUEUES, e))
    }

    pub(super) fn unset_socket(&mut self, ifindex: u32, queue: u32) -> Result<(), UpdateError> {
        let index = self.socket_index(ifindex, queue)?;
        let done = absent_is_removed(self.sockets.unset(index));
        done.map_err(|e| UpdateError::map(map::SOCKETS, MAX_INTERFACES * MAX_QUEUES, e))
    }

    fn clear_socket(&mut self, slot: u32, queue: u32) -> Result<(), UpdateError> {
        let Some(index) = xsk_index(slot, queue) else { return Ok(()) };
        let done = absent_is_removed(self.sockets.unset(index));
        done.map_err(|e| UpdateError::map(map::SOCKETS, MAX_INTERFACES * MAX_QUEUES, e))
    }

    fn socket_index(&self, ifindex: u32, queue: u32) -> Result<u32, UpdateError> {
        let Interface { slot, .. } =
            self.interfaces.get(&ifindex, 0).map_err(|_| UpdateError::NotAttached { ifindex })?;
        xsk_index(slot, queue).ok_or(UpdateError::NoSuchQueue { queue, max: MAX_QUEUES })
    }

    /// The counter of each outcome, summed over all CPUs.
    pub(super) fn counters(&self) -> Result<BTreeMap<Outcome, u64>, UpdateError> {
        let read = |outcome: Outcome| {
            let values = self.counters.get(&(outcome as u32), 0)?;
            Ok((outcome, values.iter().fold(0, |sum: u64, value| sum.wrapping_add(*value))))
        };
        let counters: Result<_, MapError> = Outcome::ALL.into_iter().map(read).collect();
        counters.map_err(|e| UpdateError::map(map::COUNTERS, Outcome::ALL.len() as u32, e))
    }
}

fn config(whole: bool, protection: &Protection) -> Config {
    let Protection { ike_port, nat_t_port, firewall, .. } = *protection;
    Config { whole: whole.into(), ike_port, nat_t_port, firewall: firewall.into() }
}

fn changed_addresses<'a>(
    from: &'a BTreeMap<IpAddr, AddressUse>,
    to: &'a BTreeMap<IpAddr, AddressUse>,
) -> impl Iterator<Item = (IpAddr, AddressUse)> + 'a {
    to.iter().filter(|(addr, used)| from.get(*addr) != Some(*used)).map(|(addr, used)| (*addr, *used))
}

fn read_trie<A>(trie: &Trie<A>, name: &'static str, prefixes: &mut BTreeSet<IpNet>) -> Result<(), UpdateError>
where
    A: aya::Pod + Into<IpAddr>,
{
    for key in trie.keys() {
        let key = key.map_err(|e| UpdateError::map(name, MAX_PREFIXES, e))?;
        let length = u8::try_from(key.prefix_len()).ok();
        prefixes.extend(length.and_then(|length| IpNet::new(key.data().into(), length).ok()));
    }
    Ok(())
}

fn to_flags(used: AddressUse) -> u32 {
    let mut flags = address::OWN;
    if used.tunnel {
        flags |= address::TUNNEL;
    }
    if used.outside {
        flags |= address::OUTSIDE;
    }
    flags
}

fn from_flags(flags: u32) -> AddressUse {
    AddressUse { tunnel: flags & address::TUNNEL != 0, outside: flags & address::OUTSIDE != 0 }
}

fn absent_is_removed(done: Result<(), MapError>) -> Result<(), MapError> {
    match done {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(()),
        done => done,
    }
}
