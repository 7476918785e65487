//! The TUN device: a persistent interface through which the kernel gives us the host's protected traffic and we give
//! it packets for the host. Without a reader it has no carrier; then the `unreachable` routes behind it answer.

#![expect(unsafe_code, reason = "TUN devices are made with ioctls")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicU32, Ordering};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use nix::libc;

use crate::busy::until_free;
use crate::netlink::{Connection, NetlinkError};

mod ioctl {
    use nix::libc::c_int;

    // The request code says int, the argument is a `struct ifreq` (linux/if_tun.h).
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<c_int>()),
        nix::libc::ifreq
    );
    nix::ioctl_write_int_bad!(set_persistent, nix::request_code_write!(b'T', 203, size_of::<c_int>()));
}

/// Why there is no TUN device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The kernel gives none.
    #[error("cannot make the TUN device {name}: {source}{}", hint(.source))]
    Make {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// It cannot be brought up.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Sets a variable of the device.
fn set(family: &str, name: &str, variable: &str, value: &str) {
    // Not to be had on hosts without IPv6 or with a read-only /proc: nothing leaks without it.
    let _ = std::fs::write(format!("/proc/sys/net/{family}/conf/{name}/{variable}"), value);
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            " (another process has it open: give each gateway devices of its own, `gateway.tun` and `interface`)"
        }
        Some(libc::EPERM | libc::EACCES) => " (run as root, or with CAP_NET_ADMIN)",
        Some(libc::ENOENT | libc::ENODEV) => " (is the kernel's tun module there? `modprobe tun`)",
        Some(libc::EINVAL) => " (an interface of that name and another kind exists)",
        _ => "",
    }
}

/// An open TUN device; packets are bare IP packets. The interface stays when it is closed.
#[derive(Debug)]
pub struct Tun {
    name: String,
    file: File,
    ifindex: u32,
    /// As it was last set.
    mtu: AtomicU32,
}

impl Tun {
    /// Makes it, or takes over the one that an earlier daemon has left, and brings it up. While nobody reads, who sends
    /// towards it is told so at once.
    pub fn open(name: &str, mtu: u32) -> Result<Self, TunError> {
        let tun = Self::open_routed(name, mtu)?;
        for family in ["ipv4", "ipv6"] {
            set(family, name, "ignore_routes_with_linkdown", "1");
        }
        Ok(tun)
    }

    /// As [`Tun::open`], of a device that others' routes lead to: they stay in force while nobody reads, and what follows
    /// them is lost. With wider routes by other interfaces beside them, it would leave in clear otherwise.
    pub fn open_routed(name: &str, mtu: u32) -> Result<Self, TunError> {
        let made = |source: io::Error| TunError::Make { name: name.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(made)?;
        if name.len() >= libc::IFNAMSIZ {
            return Err(made(io::Error::from_raw_os_error(libc::ENAMETOOLONG)));
        }
        let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        let mut request = libc::ifreq {
            ifr_name: [0; libc::IFNAMSIZ],
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
        };
        request.ifr_name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from as libc::c_char);
        // SAFETY: TUNSETIFF reads (and names in it the device that it made) one `ifreq`, which lives beyond the call.
        let make =
            || unsafe { ioctl::set_interface(file.as_raw_fd(), &raw const request) }.map_err(io::Error::from);
        until_free(make, |error| Some(error)).map_err(made)?;
        // SAFETY: TUNSETPERSIST takes an integer.
        unsafe { ioctl::set_persistent(file.as_raw_fd(), 1) }.map_err(|error| made(error.into()))?;
        let ifindex = nix::net::if_::if_nametoindex(name).map_err(|error| made(error.into()))?;
        // The kernel would send multicast of its own through it otherwise.
        set("ipv6", name, "addr_gen_mode", "1");
        let mut link = LinkMessage::default();
        link.header.index = ifindex;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes = vec![LinkAttribute::Mtu(mtu)];
        Connection::open()?.change(&format!("bring up {name}"), RouteNetlinkMessage::SetLink(link))?;
        Ok(Self { name: name.to_owned(), file, ifindex, mtu: AtomicU32::new(mtu) })
    }

    /// Sets its MTU, octets, if it has another.
    pub fn set_mtu(&self, mtu: u32) -> Result<(), NetlinkError> {
        if self.mtu.swap(mtu, Ordering::Relaxed) == mtu {
            return Ok(());
        }
        let mut link = LinkMessage::default();
        link.header.index = self.ifindex;
        link.attributes = vec![LinkAttribute::Mtu(mtu)];
        Connection::open()?.change("set the TUN device's MTU", RouteNetlinkMessage::SetLink(link))
    }

    /// Its name when it was opened.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its interface index.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The next packet, if there is one: its length.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.file).read(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives the kernel a packet.
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write_all(packet)
    }

    /// Lets the interface go when it is closed.
    pub fn make_transient(&self) -> io::Result<()> {
        // SAFETY: TUNSETPERSIST takes an integer.
        unsafe { ioctl::set_persistent(self.file.as_raw_fd(), 0) }.map(drop).map_err(io::Error::from)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
