//! This machine's kernel, asked by `ioctl`, `adjtimex` and `landlock_create_ruleset`.
#![expect(unsafe_code, reason = "ethtool's ioctls, adjtimex and Landlock's version have no safe wrapper")]

use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use portcullis_gateway::io::receive_queues;
use portcullis_gateway::netlink::{self, Connection};

use super::host::{Ethtool, Kernel, LinkState, Offload};

/// This machine.
#[derive(Debug, Clone, Copy)]
pub struct Live;

/// Larger than any structure that is asked for here; the kernel writes no more than the command's structure.
type Buffer = [u64; 64];

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const SIOCGIFFLAGS: libc::Ioctl = 0x8913;

// linux/ethtool.h
const GDRVINFO: u32 = 0x03;
const GTXCSUM: u32 = 0x16;
const GTSO: u32 = 0x1e;
const GGSO: u32 = 0x23;
const GFLAGS: u32 = 0x25;
const GRXFH: u32 = 0x29;
const GGRO: u32 = 0x2b;
const FLAG_RXVLAN: u32 = 1 << 8;
const FLAG_LRO: u32 = 1 << 15;
const ESP_V4_FLOW: u32 = 0x0a;

impl Kernel for Live {
    fn link(&self, interface: &str) -> Option<LinkState> {
        let link = netlink::link(&mut Connection::open().ok()?, interface).ok()?;
        let flags = i32::from(flags(interface)?);
        Some(LinkState {
            mtu: link.mtu,
            up: flags & libc::IFF_UP != 0,
            carrier: flags & libc::IFF_RUNNING != 0,
            queues: receive_queues(interface).ok().flatten().unwrap_or(link.rx_queues),
        })
    }

    fn ethtool(&self, interface: &str) -> Ethtool {
        let on = |command: u32| value(interface, command).is_some_and(|value| value != 0);
        let mut offloads: Vec<Offload> = [
            (Offload::TxChecksum, GTXCSUM),
            (Offload::Tso, GTSO),
            (Offload::Gso, GGSO),
            (Offload::Gro, GGRO),
        ]
        .into_iter()
        .filter_map(|(offload, command)| on(command).then_some(offload))
        .collect();
        let flags = value(interface, GFLAGS).unwrap_or(0);
        let by_flag = [(Offload::Lro, FLAG_LRO), (Offload::RxVlan, FLAG_RXVLAN)];
        offloads
            .extend(by_flag.into_iter().filter_map(|(offload, flag)| (flags & flag != 0).then_some(offload)));
        Ethtool { driver: driver(interface), on: offloads, esp_hash: esp_hash(interface) }
    }

    fn clock_synchronised(&self) -> Option<bool> {
        // SAFETY: `timex` is plain numbers, of which zero is one; the kernel reads and writes it within the call, and
        // with no mode set it changes nothing.
        let (state, timex) = unsafe {
            let mut timex: libc::timex = std::mem::zeroed();
            (libc::adjtimex(&raw mut timex), timex)
        };
        (state >= 0).then_some(timex.status & libc::STA_UNSYNC == 0)
    }

    fn landlock(&self) -> Option<u32> {
        const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
        // SAFETY: with this flag the kernel takes no memory, makes nothing, and answers with a number.
        let version = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                std::ptr::null::<u8>(),
                0_usize,
                LANDLOCK_CREATE_RULESET_VERSION,
            )
        };
        u32::try_from(version).ok().filter(|version| *version > 0)
    }
}

/// `struct ethtool_value`: a command and its number.
fn value(interface: &str, command: u32) -> Option<u32> {
    let answer = ethtool(interface, [command, 0])?;
    octets(&answer, 4)
}

/// `struct ethtool_drvinfo`: behind the command, 32 octets of name.
fn driver(interface: &str) -> Option<String> {
    let answer = ethtool(interface, [GDRVINFO, 0])?;
    let octets: Vec<u8> = answer.iter().flat_map(|word| word.to_ne_bytes()).skip(4).take(32).collect();
    let name = octets.split(|octet| *octet == 0).next()?;
    (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}

/// `struct ethtool_rxnfc`: command, flow type, then 64 bits of fields.
fn esp_hash(interface: &str) -> Option<u64> {
    ethtool(interface, [GRXFH, ESP_V4_FLOW])?.get(1).copied()
}

fn octets(answer: &Buffer, at: usize) -> Option<u32> {
    let mut octets = answer.iter().flat_map(|word| word.to_ne_bytes()).skip(at);
    Some(u32::from_ne_bytes([octets.next()?, octets.next()?, octets.next()?, octets.next()?]))
}

fn request(interface: &str) -> Option<libc::ifreq> {
    if interface.len() >= libc::IFNAMSIZ {
        return None;
    }
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
    };
    request.ifr_name.iter_mut().zip(interface.bytes()).for_each(|(to, from)| *to = from as libc::c_char);
    Some(request)
}

fn any_socket() -> Option<OwnedFd> {
    socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()
}

fn ethtool(interface: &str, [command, argument]: [u32; 2]) -> Option<Buffer> {
    let mut buffer: Buffer = [0; 64];
    let [c0, c1, c2, c3] = command.to_ne_bytes();
    let [a0, a1, a2, a3] = argument.to_ne_bytes();
    *buffer.first_mut()? = u64::from_ne_bytes([c0, c1, c2, c3, a0, a1, a2, a3]);
    let (socket, mut request) = (any_socket()?, request(interface)?);
    request.ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut buffer).cast() };
    // SAFETY: the kernel reads `request`, and reads and writes the structure that it points to. Both live beyond the
    // call, and no structure of these commands is larger than the buffer's 512 octets.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    (result == 0).then_some(buffer)
}

fn flags(interface: &str) -> Option<i16> {
    let (socket, mut request) = (any_socket()?, request(interface)?);
    // SAFETY: the kernel reads and writes `request`, which lives beyond the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGIFFLAGS, &raw mut request) };
    if result != 0 {
        return None;
    }
    // SAFETY: the kernel has written the flags; any bits are a number.
    Some(unsafe { request.ifr_ifru.ifru_flags })
}
