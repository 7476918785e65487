//! One direction of a CHILD SA as it is handed to the data plane, and the policy that leads packets to it.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;

use crate::{EspKey, SaOptions, TrafficSelector};

/// A Security Parameters Index (RFC 4303 §2.1), in host byte order. Never 0 to 255, which are reserved.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spi(u32);

impl Spi {
    /// The SPI of that value, or `None` if the value is reserved (0 to 255).
    pub const fn new(value: u32) -> Option<Self> {
        if value > 255 { Some(Self(value)) } else { None }
    }

    /// The lowest that is not reserved.
    pub const MIN: Self = Self(256);

    /// The value in host byte order.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Spi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spi({:08x})", self.0)
    }
}

/// How ESP is carried between the tunnel's ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encapsulation {
    /// IP protocol 50.
    None,
    /// UDP (RFC 3948). Ports in host byte order.
    Udp {
        /// Our port, normally 4500.
        local_port: u16,
        /// The peer's port as we see it, behind a NAT not 4500.
        remote_port: u16,
    },
    /// A TCP stream (RFC 9329), which the control plane has. Ports in host byte order; they tell it from others.
    Tcp {
        /// Our end's port: 4500 of a responder.
        local_port: u16,
        /// The peer's end's.
        remote_port: u16,
    },
}

/// The outer addresses of a tunnel; both of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TunnelEndpoints {
    /// Our address.
    pub local: IpAddr,
    /// The peer's address.
    pub remote: IpAddr,
    /// Raw ESP, UDP or TCP.
    pub encapsulation: Encapsulation,
}

/// Distinguishes overlapping inner address spaces. 0 is the host's own, whose traffic policies alone choose; every other one
/// has a TUN device of its own, by which the kernel's routes choose what goes into its tunnels, and by which everything that
/// comes out of them goes to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct TenantId(pub u32);

impl TenantId {
    /// Whether it has a device of its own.
    #[inline]
    pub fn is_routed(self) -> bool {
        self.0 != 0
    }

    /// The tenant of the device of that number, among those of connections.
    pub fn of_device(index: usize) -> Option<Self> {
        u32::try_from(index).ok()?.checked_add(1).map(Self)
    }

    /// The number of its device, if it has one of its own.
    pub fn device(self) -> Option<usize> {
        self.0.checked_sub(1).map(|index| index as usize)
    }
}

/// The SA that we receive on. Its SPI was chosen by us with [`crate::SaInstaller::allocate_spi`].
#[derive(Debug, Clone)]
pub struct InboundSa {
    /// Key of this direction.
    pub key: EspKey,
    /// 64-bit sequence numbers (RFC 4303 §2.2.1).
    pub esn: bool,
    /// Packets the replay window covers: 0 (off) or 64 to 8192.
    pub replay_window: u32,
    /// Where it is expected from.
    pub endpoints: TunnelEndpoints,
    /// What a decrypted packet's destination must match.
    pub local_ts: Vec<TrafficSelector>,
    /// What a decrypted packet's source must match.
    pub remote_ts: Vec<TrafficSelector>,
    /// The tenant that its packets belong to.
    pub tenant: TenantId,
    /// How its packets are treated.
    pub options: SaOptions,
}

/// The SA that we send on. Its SPI was chosen by the peer.
#[derive(Debug, Clone)]
pub struct OutboundSa {
    /// The peer's SPI.
    pub spi: Spi,
    /// Key of this direction.
    pub key: EspKey,
    /// 64-bit sequence numbers (RFC 4303 §2.2.1).
    pub esn: bool,
    /// The outer addresses to write.
    pub endpoints: TunnelEndpoints,
    /// What an inner packet's source must match (the negotiated selectors, perhaps narrower than the policy).
    pub local_ts: Vec<TrafficSelector>,
    /// What an inner packet's destination must match.
    pub remote_ts: Vec<TrafficSelector>,
    /// How its packets are treated.
    pub options: SaOptions,
}

/// Where a policy comes from, which decides its precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyOrigin {
    /// From the configuration: protects whether or not there is an SA.
    Configured {
        /// A packet that finds no SA raises [`crate::DataplaneEvent::Acquire`] (`start_action = "trap"`).
        acquire: bool,
    },
    /// From a negotiated CHILD SA: looked up before every configured one.
    Negotiated,
}

/// What becomes of the packets that a policy covers (RFC 4301 §4.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PolicyAction {
    /// They leave sealed or not at all.
    #[default]
    Protect,
    /// They leave in clear, by any interface.
    Bypass,
    /// They do not leave.
    Discard,
}

impl PolicyAction {
    /// The precedence of policies with this action that name no `priority`: as strongSwan has it, what passes goes
    /// before what is protected, and what is dropped comes last.
    pub const fn priority(self) -> u32 {
        match self {
            Self::Bypass => 200_000,
            Self::Protect => 400_000,
            Self::Discard => 600_000,
        }
    }
}

/// What is done with a packet from one of `local_ts` to one of `remote_ts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `connection/child`, for people.
    pub name: String,
    /// Whose address space the selectors speak of.
    pub tenant: TenantId,
    /// Sources.
    pub local_ts: Vec<TrafficSelector>,
    /// Destinations.
    pub remote_ts: Vec<TrafficSelector>,
    /// Precedence, and what happens without an SA.
    pub origin: PolicyOrigin,
    /// What is done with them.
    pub action: PolicyAction,
    /// Lower goes first, whatever the selectors say; `None`: that of the action.
    pub priority: Option<NonZeroU32>,
    /// Workers may have SAs of their own beside the one that all share (RFC 9611).
    pub per_worker: bool,
}

impl Policy {
    /// The precedence in numbers: lower goes first.
    pub fn precedence(&self) -> u32 {
        self.priority.map_or(self.action.priority(), NonZeroU32::get)
    }
}
