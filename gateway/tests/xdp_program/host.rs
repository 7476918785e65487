//! A host of the test's own: namespaces with an outside and an inside interface (`out0`, `in0`, whose other ends
//! are `out1` and `in1`), a BPF file system, and the loader.
#![expect(unsafe_code, reason = "AF_XDP and packet sockets are made by system calls that nix does not wrap")]

use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use ipnet::IpNet;
use nix::mount::{MsFlags, mount};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::TimeVal;
use portcullis_gateway::xdp::{
    AddressUse, Buffers, ModeRequest, Outcome, Protection, Role, XdpManager, ensure_bpffs,
};

use crate::frames::families;

pub(crate) struct Host {
    pub(crate) pin_dir: PathBuf,
    pub(crate) outside: u32,
    pub(crate) inside: u32,
    /// Which of the two XDP programs it gets: their rules are the same.
    pub(crate) buffers: Buffers,
}

/// Runs `test` on a host of its own for each of the XDP programs, which is gone when this returns.
pub(crate) fn on_a_host(test: impl Fn(&Host) + Send + Sync) {
    [Buffers::Single, Buffers::Chains].into_iter().for_each(|buffers| on_a_host_with(buffers, &test));
}

fn on_a_host_with(buffers: Buffers, test: impl Fn(&Host) + Send) {
    assert!(nix::unistd::geteuid().is_root(), "this test loads BPF programs: run it as root");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bpf");
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
        ensure_bpffs(&path).unwrap();
        // Nothing may be sent but by the tests.
        fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        for (name, peer) in [("out0", "out1"), ("in0", "in1")] {
            // Two queues to receive on, of which what the peer sends reaches the first.
            let add = format!("link add {name} numrxqueues 2 type veth peer name {peer} numtxqueues 1");
            ip(&add.split(' ').collect::<Vec<_>>());
            ip(&["link", "set", peer, "up"]);
            ip(&["link", "set", name, "up"]);
        }
        let index = |name| if_nametoindex(name).unwrap();
        let pin_dir = path.join("gateway");
        test(&Host { pin_dir, outside: index("out0"), inside: index("in0"), buffers });
    };
    if let Err(panic) = std::thread::scope(|scope| scope.spawn(run).join()) {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) fn ip(args: &[&str]) {
    run("ip", args);
}

pub(crate) fn tc(args: &[&str]) {
    run("tc", args);
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Host {
    /// Loads the programs and attaches them to both interfaces.
    pub(crate) fn protect(&self, protection: &Protection) -> XdpManager {
        let mut manager = XdpManager::load_for(self.buffers, &self.pin_dir, protection).unwrap();
        manager.attach(self.outside, Role::Outside, ModeRequest::Native).unwrap();
        manager.attach(self.inside, Role::Inside, ModeRequest::Native).unwrap();
        manager
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.pin_dir.join("links")
    }
}

/// The prefixes and addresses of both families.
pub(crate) fn protection() -> Protection {
    let mut protection = Protection { ike_port: 500, nat_t_port: 4500, ..Protection::default() };
    for family in families() {
        protection.local.insert(net(family.local_prefix));
        protection.remote.insert(net(family.remote_prefix));
        protection.addresses.insert(family.tunnel, AddressUse { tunnel: true, outside: true });
        protection.addresses.insert(family.outside, AddressUse { tunnel: false, outside: true });
        protection.addresses.insert(family.inside, AddressUse::default());
    }
    protection
}

/// The same, with remote prefixes of length 0 instead.
pub(crate) fn protection_of_everything() -> Protection {
    let mut protection = protection();
    protection.remote = families().iter().map(|family| net(family.everything)).collect();
    protection
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(crate) fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What the XDP program decides about a frame received on queue 0.
pub(crate) fn ingress(manager: &XdpManager, ifindex: u32, frame: &[u8]) -> Outcome {
    decided(manager, || manager.try_ingress(ifindex, 0, frame).unwrap())
}

/// What the egress guard decides about a frame.
pub(crate) fn egress(manager: &XdpManager, ifindex: u32, frame: &[u8]) -> Outcome {
    decided(manager, || manager.try_egress(ifindex, frame).unwrap())
}

/// The one counter that went up, which must be one of what was done.
fn decided(manager: &XdpManager, run: impl FnOnce() -> portcullis_gateway::xdp::Disposition) -> Outcome {
    let before = manager.counters().unwrap();
    let done = run();
    let after = manager.counters().unwrap();
    let counted: Vec<_> = after.iter().filter(|(outcome, count)| before[outcome] != **count).collect();
    let [(outcome, count)] = counted[..] else { panic!("counted {counted:?}") };
    assert_eq!(*count, before[outcome] + 1);
    assert_eq!(outcome.disposition(), done, "{outcome:?}");
    *outcome
}

pub(crate) fn count(manager: &XdpManager, outcome: Outcome) -> u64 {
    manager.counters().unwrap()[&outcome]
}

/// An AF_XDP socket, not bound to anything: enough to be in the map.
pub(crate) fn xsk() -> OwnedFd {
    // SAFETY: no pointers are passed; the result is checked, and owned by nobody else.
    unsafe {
        let fd = libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    }
}

/// Sends and receives whole frames on one interface.
pub(crate) struct Wire(OwnedFd);

impl Wire {
    pub(crate) fn open(interface: &str) -> Self {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no pointers are passed; the result is checked, and owned by nobody else.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: all zero is a value of `sockaddr_ll`.
        let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        addr.sll_family = libc::AF_PACKET as u16;
        addr.sll_protocol = protocol;
        addr.sll_ifindex = if_nametoindex(interface).unwrap() as i32;
        // SAFETY: the address is a `sockaddr_ll` of the length given.
        let bound = unsafe {
            libc::bind(socket.as_raw_fd(), (&raw const addr).cast(), size_of::<libc::sockaddr_ll>() as u32)
        };
        assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
        setsockopt(&socket.as_fd(), ReceiveTimeout, &TimeVal::new(10, 0)).unwrap();
        Self(socket)
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        assert_eq!(nix::unistd::write(&self.0, frame).unwrap(), frame.len());
    }

    /// Sends a frame that the egress guard may refuse.
    pub(crate) fn send_or_refuse(&self, frame: &[u8]) {
        match nix::unistd::write(&self.0, frame) {
            Ok(_) | Err(nix::errno::Errno::ENOBUFS) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits for `frame`, and returns what came before it.
    pub(crate) fn receive_until(&self, frame: &[u8]) -> Vec<Vec<u8>> {
        let mut before = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            let length = nix::unistd::read(&self.0, &mut buffer).expect("the frame has not come");
            if &buffer[..length] == frame {
                return before;
            }
            before.push(buffer[..length].to_vec());
        }
    }
}

/// Takes all capabilities from this thread.
pub(crate) fn drop_capabilities() {
    const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;
    let header = [LINUX_CAPABILITY_VERSION_3, 0];
    let none = [0_u32; 6];
    // SAFETY: a `cap_user_header_t`, and two `cap_user_data_t` as this version has, both read only.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// Whether a pin is there.
pub(crate) fn is_pinned(directory: &Path, prefix: &str, ifindex: u32) -> bool {
    directory.join(format!("{prefix}{ifindex}")).exists()
}
