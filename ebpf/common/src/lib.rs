//! What the XDP program and the egress guard share with user space: the names, sizes and layouts of their maps,
//! and the outcomes that they count.
//!
//! Maps are pinned and outlive the daemon, so a layout that has shipped never changes under the same
//! [`LAYOUT_VERSION`]: raise it with any change to a map's type, key, value or meaning.

#![no_std]

mod outcome;
pub mod sink;

pub use outcome::{Disposition, Outcome};

/// Version of all layouts here. Pins of another version are not reused.
pub const LAYOUT_VERSION: u32 = 3;

/// Names of the maps, as in the object and as pinned.
pub mod map {
    /// Array of one [`Config`](super::Config).
    pub const CONFIG: &str = "CONFIG";
    /// Hash: interface index to [`Interface`](super::Interface).
    pub const INTERFACES: &str = "INTERFACES";
    /// XSKMAP: [`xsk_index`](super::xsk_index) to socket.
    pub const SOCKETS: &str = "SOCKETS";
    /// Per-CPU array of `u64`, indexed by [`Outcome`](super::Outcome).
    pub const COUNTERS: &str = "COUNTERS";
    /// Hash: IPv4 address of the host, in network byte order, to its flags.
    pub const ADDRESSES_V4: &str = "ADDRESSES_V4";
    /// Hash: IPv6 address of the host to its flags.
    pub const ADDRESSES_V6: &str = "ADDRESSES_V6";
    /// LPM trie: IPv4 prefixes of the `local_ts` of all policies that do not bypass; the value is the prefix length.
    pub const LOCAL_V4: &str = "LOCAL_V4";
    /// LPM trie: IPv6 prefixes likewise; the value is the prefix length.
    pub const LOCAL_V6: &str = "LOCAL_V6";
    /// LPM trie: IPv4 prefixes of the `remote_ts` of all policies that do not bypass; the value is the prefix length.
    pub const REMOTE_V4: &str = "REMOTE_V4";
    /// LPM trie: IPv6 prefixes likewise; the value is the prefix length.
    pub const REMOTE_V6: &str = "REMOTE_V6";
    /// LPM trie: IPv4 prefixes of the `local_ts` of policies that bypass; the value is the prefix length.
    pub const PASS_LOCAL_V4: &str = "PASS_LOCAL_V4";
    /// LPM trie: IPv6 prefixes likewise; the value is the prefix length.
    pub const PASS_LOCAL_V6: &str = "PASS_LOCAL_V6";
    /// LPM trie: IPv4 prefixes of the `remote_ts` of policies that bypass; the value is the prefix length.
    pub const PASS_REMOTE_V4: &str = "PASS_REMOTE_V4";
    /// LPM trie: IPv6 prefixes likewise; the value is the prefix length.
    pub const PASS_REMOTE_V6: &str = "PASS_REMOTE_V6";

    /// All of them.
    pub const ALL: [&str; 14] = [
        CONFIG,
        INTERFACES,
        SOCKETS,
        COUNTERS,
        ADDRESSES_V4,
        ADDRESSES_V6,
        LOCAL_V4,
        LOCAL_V6,
        REMOTE_V4,
        REMOTE_V6,
        PASS_LOCAL_V4,
        PASS_LOCAL_V6,
        PASS_REMOTE_V4,
        PASS_REMOTE_V6,
    ];
}

/// Names of the programs in the object.
pub mod program {
    /// The XDP program.
    pub const INGRESS: &str = "portcullis_in";
    /// The XDP program that takes chains of buffers.
    pub const INGRESS_CHAINS: &str = "portcullis_in_chains";
    /// The egress guard (TCX or clsact).
    pub const EGRESS: &str = "portcullis_out";
}

/// Interfaces that can be attached at a time.
pub const MAX_INTERFACES: u32 = 32;
/// Receive queues of an interface that can have a socket.
pub const MAX_QUEUES: u32 = 128;
/// Addresses of the host, of each family.
pub const MAX_ADDRESSES: u32 = 4096;
/// Prefixes in each trie. Memory is only taken for those that are there.
pub const MAX_PREFIXES: u32 = 1 << 20;

/// Where the socket of a queue is in [`map::SOCKETS`]: a queue number alone is ambiguous between interfaces.
/// `None` if there is no such place.
#[inline]
pub const fn xsk_index(slot: u32, queue: u32) -> Option<u32> {
    if slot < MAX_INTERFACES && queue < MAX_QUEUES { Some(slot * MAX_QUEUES + queue) } else { None }
}

/// Which side of the gateway an interface is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Role {
    /// Towards the peers: carries ESP and IKE, and nothing protected in clear.
    Outside = 1,
    /// Towards the protected hosts.
    Inside = 2,
    /// Towards both: an address is on the inside if no longer prefix of the peers' holds it than of our own.
    Both = 3,
}

impl Role {
    /// The role that [`Interface::role`] stands for; `None` for anything else.
    #[inline]
    pub const fn from_raw(role: u32) -> Option<Self> {
        match role {
            1 => Some(Self::Outside),
            2 => Some(Self::Inside),
            3 => Some(Self::Both),
            _ => None,
        }
    }
}

/// Value of [`map::INTERFACES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Interface {
    /// A [`Role`].
    pub role: u32,
    /// Its part of [`map::SOCKETS`], below [`MAX_INTERFACES`].
    pub slot: u32,
}

/// Value of [`map::CONFIG`]. All zero until user space has written it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Config {
    /// Not 0 once the tries hold all that is protected. While 0, every address counts as matched by a protected
    /// prefix of length 0: nothing is forwarded in clear, and the host itself stays reachable.
    pub whole: u32,
    /// UDP port of IKE, in host byte order.
    pub ike_port: u16,
    /// UDP port of IKE and ESP behind a NAT, in host byte order.
    pub nat_t_port: u16,
    /// Not 0 where clear text between protected prefixes, from inside, goes to the kernel, whose routes lead it back into the
    /// TUN device, and not to a worker.
    pub firewall: u32,
}

/// Flags of an address of the host, values of [`map::ADDRESSES_V4`] and [`map::ADDRESSES_V6`].
pub mod address {
    /// The host has it. Always set.
    pub const OWN: u32 = 1;
    /// ESP and IKE are accepted on it.
    pub const TUNNEL: u32 = 2;
    /// It is on an outside interface.
    pub const OUTSIDE: u32 = 4;
}

#[cfg(feature = "user")]
mod pod {
    #![expect(unsafe_code, reason = "aya asks for a promise about layouts")]

    // SAFETY: `repr(C)`, four `u64`: no padding, every bit pattern is a value.
    unsafe impl aya::Pod for super::sink::Tally {}

    // SAFETY: `repr(C)`, two `u32`: no padding, every bit pattern is a value.
    unsafe impl aya::Pod for super::Interface {}

    // SAFETY: `repr(C)`, two `u16` between two `u32`: no padding, every bit pattern is a value.
    unsafe impl aya::Pod for super::Config {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_of_every_interface_has_a_place_of_its_own() {
        assert_eq!(xsk_index(0, 0), Some(0));
        assert_eq!(xsk_index(0, MAX_QUEUES - 1), Some(MAX_QUEUES - 1));
        assert_eq!(xsk_index(1, 0), Some(MAX_QUEUES));
        assert_eq!(xsk_index(MAX_INTERFACES - 1, MAX_QUEUES - 1), Some(MAX_INTERFACES * MAX_QUEUES - 1));
        assert_eq!(xsk_index(0, MAX_QUEUES), None);
        assert_eq!(xsk_index(MAX_INTERFACES, 0), None);
    }

    #[test]
    fn outcomes_are_numbered_as_listed_and_named_apart() {
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
            for other in &Outcome::ALL[index + 1..] {
                assert_ne!(outcome.name(), other.name());
            }
        }
    }
}
