//! What a data plane is started with.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use portcullis_aead::EngineKind;
use portcullis_ipsec::Policy;

use crate::pipeline::TrapLimits;
use crate::route::Role;

/// How the XDP program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// The driver's own, else generic.
    Auto,
    /// The driver's own or not at all.
    Native,
    /// Generic.
    Skb,
}

/// What [`Dataplane::stop`](super::Dataplane::stop) leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStop {
    /// Everything that blocks protected traffic.
    Closed,
    /// Nothing: protected traffic leaves in clear.
    Open,
}

/// Whether packets that are protected on one side of the gateway pass the host's firewall on the other, in clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Firewall {
    /// They pass the workers alone.
    #[default]
    None,
    /// The kernel forwards them between the inside interfaces and the TUN device, through its firewall and its NAT.
    Kernel,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// Its name.
    pub name: String,
    /// Its side.
    pub role: Role,
    /// Receive queues to serve; `None`: all. Protected packets on others are dropped.
    pub queues: Option<u32>,
    /// XDP mode.
    pub mode: XdpMode,
}

/// A data plane.
#[derive(Debug, Clone)]
pub struct DataplaneConfig {
    /// Interfaces. Their order is that of the port indices.
    pub interfaces: Vec<InterfaceConfig>,
    /// Cores, one worker on each; worker i has queue i, i + n, … of every interface.
    pub workers: Vec<usize>,
    /// Frames of packet memory.
    pub frames: u32,
    /// Octets of a frame: 2048 or 4096.
    pub frame_size: u32,
    /// SA pairs.
    pub max_sas: usize,
    /// Policies, configured and negotiated.
    pub max_policies: usize,
    /// Name of the TUN device.
    pub tun: String,
    /// Names of the TUN devices of tenants, in the order of [`TenantId::of_device`](portcullis_ipsec::TenantId::of_device).
    pub devices: Vec<String>,
    /// Where programs and maps are pinned: a directory of a BPF file system, of this gateway's own.
    pub pin_dir: PathBuf,
    /// AEAD engine; `None`: the fastest.
    pub engine: Option<EngineKind>,
    /// UDP port of IKE.
    pub ike_port: u16,
    /// UDP port of IKE and ESP behind a NAT.
    pub nat_port: u16,
    /// Routing table of the protected routes.
    pub route_table: u32,
    /// Firewall mark of what does not follow them: the daemon's own packets.
    pub mark: u32,
    /// Addresses that ESP comes to; empty: all of the outside interfaces.
    pub tunnel_addresses: Vec<IpAddr>,
    /// For how long a worker looks for more packets before it sleeps, at most; it adapts to the traffic. Zero: not at all.
    pub spin: Duration,
    /// Have drivers work when workers ask for packets, for so long at a time (preferred busy polling).
    pub busy_poll: Option<Duration>,
    /// How long a worker may make no round before the process is aborted, for its supervisor to start the next.
    pub stall: Duration,
    /// Policies that are in force from the start.
    pub policies: Vec<Policy>,
    /// How many packets of a worker may wait for SAs that they have asked for, and how long.
    pub trap: TrapLimits,
    /// What stays when it stops.
    pub on_stop: OnStop,
    /// Who forwards what is in clear.
    pub firewall: Firewall,
}
