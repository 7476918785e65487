//! The seam between IKE and the data plane.

use std::time::Duration;

use crate::{Flow, InboundSa, OutboundSa, Policy, Spi, TunnelEndpoints};

/// A policy that the data plane holds. Stays the same over every rekey of the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId(pub u32);

/// Why the data plane refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    /// Every slot is taken.
    #[error("the SA table is full: it holds {capacity} SAs (raise `gateway.max_sas`)")]
    TableFull {
        /// Its fixed size.
        capacity: usize,
    },
    /// Not an SPI that [`SaInstaller::allocate_spi`] gave out, or one already removed.
    #[error("SPI {spi} was not allocated here or has been removed")]
    UnknownSpi {
        /// The SPI given.
        spi: Spi,
    },
    /// The SPI already carries an SA.
    #[error("SPI {spi} already carries an SA")]
    AlreadyInstalled {
        /// The SPI given.
        spi: Spi,
    },
    /// No policy of that number.
    #[error("no policy {0:?} is installed")]
    UnknownPolicy(PolicyId),
    /// A field of the SA or policy holds a value that cannot be used.
    #[error("{field}: {found} (expected {expected})")]
    InvalidParameter {
        /// Which field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What would do.
        expected: &'static str,
    },
    /// The data plane has stopped.
    #[error("the data plane is not running")]
    Stopped,
}

/// What an SA pair has carried. Octets are those of the inner packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SaCounters {
    /// Packets opened and delivered.
    pub packets_in: u64,
    /// Octets opened and delivered.
    pub bytes_in: u64,
    /// Packets sealed.
    pub packets_out: u64,
    /// Octets sealed.
    pub bytes_out: u64,
    /// Time since a packet was last opened; `None` if none was.
    pub idle_in: Option<Duration>,
    /// Time since a packet was last sealed; `None` if none was.
    pub idle_out: Option<Duration>,
}

/// What a policy has done. Octets are those of the inner packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PolicyCounters {
    /// Packets opened on its inbound SAs.
    pub packets_in: u64,
    /// Octets opened on them.
    pub bytes_in: u64,
    /// Packets sealed on its outbound SAs, or sent in clear by a policy that bypasses.
    pub packets_out: u64,
    /// Octets of these.
    pub bytes_out: u64,
    /// Packets that it covered and that ended at it: discarded, beyond its rates, or no SA that takes them.
    pub dropped: u64,
    /// Those of them that came out of its tunnel beyond the rate.
    pub limited_in: u64,
    /// Those of them that would have gone into it beyond the rate.
    pub limited_out: u64,
}

impl PolicyCounters {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            packets_in: self.packets_in + other.packets_in,
            bytes_in: self.bytes_in + other.bytes_in,
            packets_out: self.packets_out + other.packets_out,
            bytes_out: self.bytes_out + other.bytes_out,
            dropped: self.dropped + other.dropped,
            limited_in: self.limited_in + other.limited_in,
            limited_out: self.limited_out + other.limited_out,
        }
    }
}

/// How much each SA of a pair may carry before [`DataplaneEvent::SoftLimit`] and [`DataplaneEvent::HardLimit`] are
/// raised for the pair, whichever SA comes there first. `None` is no limit. Octets are those of the inner packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageLimits {
    /// Octets until it should be rekeyed.
    pub soft_bytes: Option<u64>,
    /// Octets until it must end.
    pub hard_bytes: Option<u64>,
    /// Packets until it should be rekeyed.
    pub soft_packets: Option<u64>,
    /// Packets until it must end.
    pub hard_packets: Option<u64>,
}

/// What the data plane tells the control plane. Level-triggered: a flag stays raised until read, and is raised
/// again only by a new cause, so that nothing is lost and nothing overflows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataplaneEvent {
    /// A packet matched a policy that has no SA and asks for one.
    Acquire {
        /// The policy.
        policy: PolicyId,
        /// The packet's own selectors.
        flow: Flow,
    },
    /// A worker hands its packets of a policy to the one that owns the policy's SA, and would rather seal them with an SA of its
    /// own ([`Policy::per_worker`], RFC 9611 §6).
    WorkerAsks {
        /// The inbound SPI that names the pair whose outbound SA all workers share.
        pair: Spi,
        /// The worker's number.
        worker: u16,
    },
    /// The first packet was opened on the inbound SA of a pair that has no outbound SA yet: the peer uses it.
    FirstPacket {
        /// The inbound SPI that names the pair.
        pair: Spi,
    },
    /// An outbound SA nears the end of its sequence numbers or of its key's usage limit, or an SA of the pair has
    /// carried what [`UsageLimits`] says: rekey it.
    SoftLimit {
        /// The inbound SPI that names the pair.
        pair: Spi,
    },
    /// An outbound SA has reached the end of its sequence numbers, and nothing more is sealed with it; or an SA of
    /// the pair has carried all that [`UsageLimits`] allows, and is to be removed.
    HardLimit {
        /// The inbound SPI that names the pair.
        pair: Spi,
    },
    /// An authenticated packet came from another address or port than the SA's.
    PeerMoved {
        /// The inbound SPI that names the pair.
        pair: Spi,
        /// Where it came from.
        seen: TunnelEndpoints,
    },
    /// ESP came on an SPI that is no SA's (RFC 7296 §1.5). Nothing about it is authentic.
    UnknownSpi {
        /// The SPI.
        spi: Spi,
        /// Where it came from.
        seen: TunnelEndpoints,
    },
}

/// Where SAs and policies go. An SA pair is named by its inbound SPI, which is ours and unique.
///
/// Order of a CHILD SA's life: `allocate_spi`, `install_inbound` (complete when it returns: the IKE message that
/// lets the peer send leaves only then), `activate_outbound`, at a rekey `activate_outbound` of the successor on
/// the same policy, `remove`. Calls are cheap (no waiting for workers) and may come from any thread.
pub trait SaInstaller: Send + Sync {
    /// Reserves an inbound SPI; released by [`SaInstaller::remove`].
    fn allocate_spi(&self) -> Result<Spi, InstallError>;

    /// Starts accepting packets on `spi`.
    fn install_inbound(&self, spi: Spi, sa: InboundSa) -> Result<(), InstallError>;

    /// Holds packets that match `policy` to it from now on: they are dropped while it has no outbound SA.
    fn install_policy(&self, policy: Policy) -> Result<PolicyId, InstallError>;

    /// Seals packets of `policy` with `sa` from now on, in place of any earlier SA, which is no longer used.
    /// `pair` is the inbound SPI of the same CHILD SA.
    fn activate_outbound(&self, policy: PolicyId, pair: Spi, sa: OutboundSa) -> Result<(), InstallError>;

    /// Has one worker seal packets of `policy` with `sa` from now on, in place of any earlier SA of its own, while the others go
    /// on with what [`SaInstaller::activate_outbound`] gave them. For a policy with [`Policy::per_worker`]. `None`: no worker
    /// does; the pair is there for what the peer sends (RFC 9611 §4).
    fn activate_for_worker(
        &self,
        policy: PolicyId,
        pair: Spi,
        sa: OutboundSa,
        worker: Option<u16>,
    ) -> Result<(), InstallError>;

    /// Limits what both SAs of `pair` may carry; called between [`SaInstaller::install_inbound`] and
    /// [`SaInstaller::activate_outbound`], if at all.
    fn limit(&self, pair: Spi, limits: UsageLimits) -> Result<(), InstallError>;

    /// Stops sealing with the outbound SA of `pair`, while inbound packets are still accepted. The policy keeps
    /// protecting, with what was activated after it or with nothing.
    fn retire(&self, pair: Spi) -> Result<(), InstallError>;

    /// Changes the outer addresses of both SAs of `pair` (a NAT's new mapping, MOBIKE).
    fn move_pair(&self, pair: Spi, endpoints: TunnelEndpoints) -> Result<(), InstallError>;

    /// Removes both SAs of `pair` (or the bare reservation) and zeroizes their keys once no worker can see them.
    fn remove(&self, pair: Spi) -> Result<(), InstallError>;

    /// Removes a policy. Packets that only it matched are no longer protected.
    fn remove_policy(&self, policy: PolicyId) -> Result<(), InstallError>;

    /// What the pair has carried.
    fn counters(&self, pair: Spi) -> Result<SaCounters, InstallError>;

    /// Raised events, lowering their flags.
    fn take_events(&self) -> Vec<DataplaneEvent>;
}
