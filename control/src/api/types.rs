//! What the admin API says, as JSON. Names are those of swanctl and of RFC 7296; SPIs are hexadecimal, times are
//! seconds, octets are those of inner packets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use portcullis_ike::verdict::{Kind, Verdict};
use serde::{Deserialize, Serialize};

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the daemon.
    pub version: String,
    /// Since the daemon is ready.
    pub uptime_seconds: u64,
    /// AEAD engine that was chosen at start.
    pub aead_engine: String,
    /// Worker threads.
    pub workers: usize,
    /// What each worker does.
    #[serde(default)]
    pub worker_threads: Vec<WorkerStatus>,
    /// UMEM frames, and how many are free.
    pub frames: FrameUsage,
    /// What the daemon has taken from itself: files, system calls.
    #[serde(default)]
    pub sandbox: String,
    /// Interfaces and what their driver gave.
    pub interfaces: Vec<InterfaceStatus>,
    /// Devices of connections.
    #[serde(default)]
    pub devices: Vec<DeviceStatus>,
    /// Established IKE SAs.
    pub ike_sas: usize,
    /// IKE SAs that we answer for and that are not authenticated yet.
    pub half_open_ike_sas: usize,
    /// CHILD SAs.
    pub child_sas: usize,
    /// Children with `start_action = "start"` that have no SA, as CONNECTION/CHILD.
    #[serde(default)]
    pub down: Vec<String>,
    /// Packets in, out and dropped, over all workers.
    pub packets: PacketBalance,
    /// Verdicts of failed exchanges, newest first.
    pub verdicts: Vec<VerdictReport>,
}

/// `POST /v1/reload`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reload {
    /// Only say what it would mean.
    pub dry_run: bool,
}

/// What a reload did, or would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Whether it was done.
    pub applied: bool,
    /// Settings that differ, a line each.
    pub settings: Vec<String>,
    /// What that means for connections and children, a line each.
    pub effects: Vec<String>,
}

/// A worker thread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// The core that it is pinned to.
    pub core: usize,
    /// Processor time that it has used.
    pub cpu_seconds: f64,
    /// Frames taken from RX rings.
    pub received: u64,
    /// Frames put into TX rings.
    pub transmitted: u64,
    /// Packets dropped, for any reason.
    pub dropped: u64,
}

/// UMEM frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameUsage {
    /// All.
    pub total: u64,
    /// On the workers' free lists.
    pub free: u64,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Name.
    pub name: String,
    /// `outside` or `inside`.
    pub role: String,
    /// What was got, e.g. `native, copy`.
    pub mode: String,
    /// Queues served.
    pub queues: u32,
    /// What went through each queue, since the daemon was started.
    pub traffic: Vec<QueueTraffic>,
}

/// What the workers received and sent by one queue of an interface. Octets are those of Ethernet frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueueTraffic {
    /// Its number.
    pub queue: u32,
    /// Packets received.
    pub packets_in: u64,
    /// Their octets.
    pub bytes_in: u64,
    /// Packets sent.
    pub packets_out: u64,
    /// Their octets.
    pub bytes_out: u64,
}

impl QueueTraffic {
    /// Of both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            queue: self.queue,
            packets_in: self.packets_in + other.packets_in,
            bytes_in: self.bytes_in + other.bytes_in,
            packets_out: self.packets_out + other.packets_out,
            bytes_out: self.bytes_out + other.bytes_out,
        }
    }
}

/// received + from_kernel + generated = transmitted + to_kernel + dropped + held + in_flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PacketBalance {
    /// From RX rings.
    pub received: u64,
    /// From the host, through the TUN device.
    pub from_kernel: u64,
    /// Made here: ICMP errors, fragments.
    pub generated: u64,
    /// Into TX rings.
    pub transmitted: u64,
    /// To the host, through the TUN device.
    pub to_kernel: u64,
    /// For any reason.
    pub dropped: u64,
    /// Waiting for a neighbour.
    pub held: u64,
    /// From one worker to the one that owns their SA, on their way.
    pub handed_over: u64,
    /// ESP packets opened.
    pub opened: u64,
    /// ESP packets sealed.
    pub sealed: u64,
}

/// A verdict of `GET /v1/verdicts`, newest first; `?peer=` asks for those of a connection or an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictReport {
    /// Reason, sentence, evidence, fixes.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// On whose account.
    pub kind: Kind,
    /// Where the reason is explained, below the documentation's root.
    pub page: String,
    /// How often it was the same in a row.
    pub times: u64,
    /// When it last happened, in seconds since the epoch.
    pub timestamp_seconds: u64,
    /// The same, before the answer was given.
    pub seconds_ago: u64,
}

/// An IKE SA of `GET /v1/sas`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IkeSa {
    /// Number within this run of the daemon.
    pub id: u64,
    /// `null` while the peer has not said who it is.
    pub connection: Option<String>,
    /// The device of its connection, if it has one of its own.
    #[serde(default)]
    pub interface: Option<String>,
    /// `CONNECTING`, `ESTABLISHED` or `DELETING`.
    pub state: String,
    /// Whether we sent the first message.
    pub initiator: bool,
    /// 16 hexadecimal digits.
    pub initiator_spi: String,
    /// 16 hexadecimal digits.
    pub responder_spi: String,
    /// Address and port.
    pub local: String,
    /// Address and port.
    pub remote: String,
    /// Our identity.
    pub local_id: Option<String>,
    /// The peer's identity.
    pub remote_id: Option<String>,
    /// Who the peer is in EAP, if that is how it was authenticated.
    #[serde(default)]
    pub eap_id: Option<String>,
    /// Groups that an AAA server says it belongs to.
    #[serde(default)]
    pub groups: Vec<String>,
    /// In strongSwan's notation.
    pub proposal: Option<String>,
    /// Its messages go in a TCP stream (RFC 9329).
    #[serde(default)]
    pub tcp: bool,
    /// A NAT is before us.
    pub nat_local: bool,
    /// A NAT is before the peer.
    pub nat_remote: bool,
    /// Our inner addresses, from the peer.
    #[serde(default)]
    pub local_vips: Vec<String>,
    /// The peer's inner addresses, from our pools.
    #[serde(default)]
    pub remote_vips: Vec<String>,
    /// Seconds since it was established.
    pub established_seconds: Option<u64>,
    /// CHILD SAs.
    pub children: Vec<ChildSa>,
}

/// A CHILD SA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChildSa {
    /// Name of the child.
    pub name: String,
    /// `TUNNEL` or `TRANSPORT`, with `-in-UDP` where it is.
    pub mode: String,
    /// Our SPI.
    pub spi_in: String,
    /// The peer's SPI.
    pub spi_out: String,
    /// In strongSwan's notation.
    pub proposal: String,
    /// Among those with the same selectors (`per_cpu_sas`): `shared`; `worker N`, which alone seals with it; or `receive`, which
    /// only the peer sends on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Our side, as negotiated.
    pub local_ts: Vec<String>,
    /// The peer's side, as negotiated.
    pub remote_ts: Vec<String>,
    /// Seconds since it was installed.
    pub installed_seconds: u64,
    /// Packets opened.
    pub packets_in: u64,
    /// Octets opened.
    pub bytes_in: u64,
    /// Packets sealed.
    pub packets_out: u64,
    /// Octets sealed.
    pub bytes_out: u64,
    /// Seconds since a packet was last opened.
    pub idle_in_seconds: Option<u64>,
    /// Seconds since a packet was last sealed.
    pub idle_out_seconds: Option<u64>,
}

/// A pool of `GET /v1/pools`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Name.
    pub name: String,
    /// Prefix or range.
    pub addrs: String,
    /// Addresses in it; 2^64 - 1 if there are more.
    pub size: u64,
    /// Addresses in use.
    pub online: usize,
    /// Addresses kept for identities that are not connected.
    pub offline: usize,
    /// Addresses in use that it has no longer.
    #[serde(default)]
    pub outside: usize,
    /// Every lease.
    pub leases: Vec<LeaseReport>,
}

/// Whose an address is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseReport {
    /// The address.
    pub address: String,
    /// Whose.
    pub identity: String,
    /// Whether it is in use.
    pub online: bool,
    /// Whether its pool has it no longer: it stays until it is given up.
    #[serde(default)]
    pub outside: bool,
}

/// A policy of `GET /v1/policies`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// `CONNECTION/CHILD`.
    pub name: String,
    /// `configured`, or `negotiated` with a CHILD SA.
    pub origin: String,
    /// `protect`, `pass` or `drop`.
    pub action: String,
    /// Lower goes first.
    pub priority: u32,
    /// Sources.
    pub local_ts: Vec<String>,
    /// Destinations.
    pub remote_ts: Vec<String>,
    /// The device of its connection, if it has one of its own: routes into it choose what the policy is asked about.
    #[serde(default)]
    pub interface: Option<String>,
    /// Whether there is an SA to seal with.
    pub has_sa: bool,
    /// Packets opened on its SAs.
    pub packets_in: u64,
    /// Octets opened.
    pub bytes_in: u64,
    /// Packets sealed on its SAs, or passed.
    pub packets_out: u64,
    /// Octets sealed, or passed.
    pub bytes_out: u64,
    /// Packets that ended at it.
    pub dropped: u64,
    /// What comes out of its tunnel, if that is limited.
    #[serde(default)]
    pub rate_in: Option<RateStatus>,
    /// What goes into its tunnel, if that is limited.
    #[serde(default)]
    pub rate_out: Option<RateStatus>,
}

/// The device of connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its name.
    pub name: String,
    /// Whether it can be read; it was removed otherwise.
    pub works: bool,
    /// Packets out of tunnels that the host took.
    pub to_kernel: u64,
    /// Packets that routes led into it.
    pub from_kernel: u64,
    /// What comes out of all its tunnels, if that is limited.
    pub rate_in: Option<RateStatus>,
    /// What goes into them, if that is limited.
    pub rate_out: Option<RateStatus>,
}

/// The rate of a policy's SAs, or of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateStatus {
    /// Bits of inner packets in a second.
    pub bits_per_second: u64,
    /// Octets that may pass at once.
    pub burst: u32,
    /// Packets that were beyond it; they are among `dropped`.
    pub dropped: u64,
}

/// `GET /v1/drops`: stable reason to count; those of the XDP program begin with `xdp_`.
pub type Drops = BTreeMap<String, u64>;

/// Body of `POST /v1/initiate`, `/v1/terminate`, `/v1/rekey` and `/v1/reauthenticate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Name of the connection.
    pub connection: String,
    /// Name of the child; `null` for all of them.
    pub child: Option<String>,
    /// Give up waiting after so many seconds (the attempt itself goes on).
    pub timeout_seconds: Option<u64>,
}

/// Body of `POST /v1/redirect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedirectRequest {
    /// Name of the connection.
    pub connection: String,
    /// The other gateway.
    pub to: IpAddr,
}

/// The body of every answer that is not 200.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// Stable code.
    pub code: String,
    /// What happened and what to change.
    pub explanation: String,
    /// The whole verdict, if an exchange has failed.
    #[serde(default)]
    pub verdict: Option<Box<Verdict>>,
}
