//! A lab owns hosts and the links between them, and everything they left in the file system. This module also
//! removes what labs of killed processes left behind.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::capture::Capture;
use crate::error::{LabError, Result};
use crate::host::{Host, run_here};
use crate::process::command_of;

/// Begins the name of everything a lab makes; the owner's pid follows.
const PREFIX: &str = "plab-";
const NETNS_DIR: &str = "/run/netns";
const BPF_DIR: &str = "/sys/fs/bpf";

const CARRIER_TIME: Duration = Duration::from_secs(5);

/// Offloads that leave packets unfinished for a receiver that is not the kernel: a checksum still to be
/// written, a segment larger than the wire takes.
const OFFLOADS: [&str; 5] = ["tx", "tso", "gso", "gro", "sg"];

/// A set of hosts and links. Dropping it kills every process in them and removes them.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    dir: PathBuf,
    hosts: Mutex<BTreeMap<String, Host>>,
    macs: AtomicU32,
}

/// How a veth pair is made.
#[derive(Clone, Copy, Debug)]
pub struct LinkOptions {
    /// The largest IP packet, in bytes, on both ends.
    pub mtu: u32,
    /// Receive and transmit queues on both ends.
    pub queues: u32,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self { mtu: 1500, queues: 1 }
    }
}

/// A host that forwards frames between its ports (a bridge): a wire that can be captured without being one of
/// the machines under test, which matters because a packet socket does not see what XDP takes away.
#[derive(Debug)]
pub struct Switch {
    host: Host,
    ports: AtomicU32,
}

impl Lab {
    /// Makes an empty lab; the first one in a process also sweeps. `name` (letters and digits) serves humans
    /// reading `ip netns`.
    ///
    /// # Errors
    /// [`LabError::Io`] when `/tmp` cannot be written or the BPF file system cannot be mounted (not root).
    pub fn new(name: &str) -> Result<Self> {
        static SWEPT: Once = Once::new();
        static LABS: AtomicU32 = AtomicU32::new(0);
        SWEPT.call_once(sweep);
        mount_bpf_file_system()?;
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}-{number}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(&prefix);
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .map_err(LabError::io(format!("make {}", dir.display())))?;
        Ok(Self { prefix, dir, hosts: Mutex::default(), macs: AtomicU32::new(1) })
    }

    /// The directory that holds the hosts' directories; removed with the lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes a host with nothing but loopback.
    pub fn host(&self, name: &str) -> Result<Host> {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).map_err(LabError::io(format!("make {}", dir.display())))?;
        let netns = format!("{}-{name}", self.prefix);
        let pins = Path::new(BPF_DIR).join(&netns);
        let host = Host::create(name, &netns, &dir, &pins);
        if host.is_err() {
            remove_netns(&netns);
        }
        let host = host?;
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into(), host.clone());
        Ok(host)
    }

    /// Joins two hosts by a veth pair: both ends up, hardware addresses counted from `02:00:00:00:00:01` in
    /// the order of linking (`a` before `b`), offloads off.
    pub fn link(&self, a: &Host, a_interface: &str, b: &Host, b_interface: &str) -> Result<()> {
        self.link_with(LinkOptions::default(), a, a_interface, b, b_interface)
    }

    /// As [`Lab::link`], with another MTU or more queues.
    pub fn link_with(
        &self,
        options: LinkOptions,
        a: &Host,
        a_interface: &str,
        b: &Host,
        b_interface: &str,
    ) -> Result<()> {
        let LinkOptions { mtu, queues } = options;
        let shape = format!("mtu {mtu} numtxqueues {queues} numrxqueues {queues}");
        let (a_mac, b_mac) = (self.next_mac(), self.next_mac());
        let (a_netns, b_netns) = (a.netns(), b.netns());
        let words = format!(
            "ip link add {a_interface} netns {a_netns} address {a_mac} {shape} \
             type veth peer name {b_interface} netns {b_netns} address {b_mac} {shape}"
        );
        run_here(&command_of(words.split_whitespace()), a.name())?;
        for (host, interface) in [(a, a_interface), (b, b_interface)] {
            let switches = OFFLOADS.iter().flat_map(|offload| [*offload, "off"]);
            host.run(["ethtool", "-K", interface].into_iter().chain(switches))?;
            host.ip(&format!("link set {interface} up"))?;
        }
        for (host, interface) in [(a, a_interface), (b, b_interface)] {
            await_carrier(host, interface)?;
        }
        Ok(())
    }

    /// Makes a switch without ports.
    pub fn switch(&self, name: &str) -> Result<Switch> {
        let host = self.host(name)?;
        // Its own IPv6 would be heard on the wire under test.
        host.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        // Where the kernel has br_netfilter, it would look into what a wire carries, and drop what it finds wrong.
        for hook in ["arptables", "iptables", "ip6tables"] {
            let variable = format!("bridge-nf-call-{hook}");
            if host.enter(|| Path::new("/proc/sys/net/bridge").join(&variable).exists())? {
                host.sysctl(&format!("net.bridge.{variable}"), "0")?;
            }
        }
        host.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0")?;
        host.ip("link set br0 up")?;
        Ok(Switch { host, ports: AtomicU32::new(0) })
    }

    /// Plugs an interface of a host into a switch; the name of the switch's port is returned.
    pub fn plug(&self, switch: &Switch, host: &Host, interface: &str) -> Result<String> {
        self.plug_with(LinkOptions::default(), switch, host, interface)
    }

    /// As [`Lab::plug`], with another MTU or more queues.
    pub fn plug_with(
        &self,
        options: LinkOptions,
        switch: &Switch,
        host: &Host,
        interface: &str,
    ) -> Result<String> {
        let port = format!("port{}", switch.ports.fetch_add(1, Ordering::Relaxed));
        self.link_with(options, &switch.host, &port, host, interface)?;
        switch.host.ip(&format!("link set {port} master br0"))?;
        Ok(port)
    }

    fn next_mac(&self) -> String {
        let number = self.macs.fetch_add(1, Ordering::Relaxed);
        let [_, _, high, low] = number.to_be_bytes();
        format!("02:00:00:00:{high:02x}:{low:02x}")
    }
}

impl Switch {
    /// The namespace that the bridge is in.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Captures a port: [`Direction::In`](crate::Direction) is what the plugged host has sent,
    /// [`Direction::Out`](crate::Direction) what goes to it. `outer` are the addresses between which ICMP is
    /// not clear text (see [`Class::IcmpOuter`](crate::Class)).
    pub fn capture(&self, port: &str, outer: &[std::net::IpAddr]) -> Result<Capture> {
        Capture::start(&self.host, port, outer)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let hosts = std::mem::take(&mut *self.hosts.lock().unwrap_or_else(PoisonError::into_inner));
        for host in hosts.values() {
            remove_netns(host.netns());
            remove_tree(host.pin_dir());
        }
        if std::env::var_os("PORTCULLIS_LAB_KEEP").is_some() {
            eprintln!("logs are kept in {}", self.dir.display());
        } else {
            remove_tree(&self.dir);
        }
    }
}

/// The kernel makes a link usable in a work item of its own, a little after the second end has come up; a bridge
/// port enabled before that stays disabled. Asking for the one link runs that work item first (since Linux 6.7;
/// before, it takes some asking).
fn await_carrier(host: &Host, interface: &str) -> Result<()> {
    let deadline = Instant::now() + CARRIER_TIME;
    loop {
        let link = host.ip(&format!("-o link show dev {interface}"))?.stdout;
        if link.contains(" state UP ") {
            return Ok(());
        }
        if Instant::now() > deadline {
            let what = format!("the carrier of {interface} on {}", host.name());
            return Err(LabError::Timeout { what, waited: CARRIER_TIME, seen: link });
        }
    }
}

/// Removes namespaces, processes in them, pins and directories of labs whose owner no longer lives. What cannot
/// be removed (another sweep was faster) is left.
pub fn sweep() {
    remove_labs_of(|pid| !Path::new("/proc").join(pid.to_string()).exists());
}

/// From now on SIGINT, SIGTERM and SIGHUP end this process only after its labs have been removed, as dropping them would
/// have done. For programs that make labs; processes started by them have these signals as always.
pub fn clean_up_when_told_to_end() -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(LabError::io("have signals handled"))?;
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            remove_labs_of(|pid| pid == std::process::id());
            // As a shell tells of it.
            std::process::exit(128 + signal);
        }
    };
    let thread = std::thread::Builder::new().name("signals".into()).spawn(wait);
    thread.map(drop).map_err(LabError::io("start a thread"))
}

fn remove_labs_of(theirs: impl Fn(u32) -> bool) {
    for netns in names_of(Path::new(NETNS_DIR), &theirs) {
        remove_netns(&netns);
    }
    for parent in [Path::new(BPF_DIR), &std::env::temp_dir()] {
        for name in names_of(parent, &theirs) {
            remove_tree(&parent.join(name));
        }
    }
}

fn names_of(parent: &Path, theirs: impl Fn(u32) -> bool) -> Vec<String> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| owner(name).is_some_and(&theirs)).collect()
}

/// The pid in a name that a lab has given.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Kills what runs in a namespace and removes it.
fn remove_netns(netns: &str) {
    let here = std::process::id().cast_signed();
    if let Ok(listing) = run_here(&command_of(["ip", "netns", "pids", netns]), netns) {
        let pids = listing.split_whitespace().filter_map(|word| word.parse::<i32>().ok());
        for pid in pids.filter(|pid| *pid != here) {
            // It may just have ended by itself.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    // Nothing more can be done in a drop; the next sweep tries again.
    let _left_to_the_sweep = run_here(&command_of(["ip", "netns", "del", netns]), netns);
}

fn remove_tree(path: &Path) {
    // It need not exist: not every host pins anything.
    let _absent = fs::remove_dir_all(path);
}

fn mount_bpf_file_system() -> Result<()> {
    static MOUNTING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    let found = statfs(BPF_DIR).map_err(LabError::errno(format!("look at {BPF_DIR}")))?;
    if found.filesystem_type() != BPF_FS_MAGIC {
        run_here(&command_of(["mount", "-t", "bpf", "bpf", BPF_DIR]), "this machine")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_read_from_names_of_labs_only() {
        assert_eq!(owner("plab-4711-0-demo-gwA"), Some(4711));
        assert_eq!(owner("plab-x-0"), None);
        assert_eq!(owner("other-4711-0"), None);
    }
}
