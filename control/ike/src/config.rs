//! Connections and children, as the engine takes them. Names are those of swanctl.conf.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use portcullis_ipsec::{SaOptions, TenantId, TrafficSelector};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::auth::eap::{ClientMethod, ServerMethod, UserSecret};
use crate::auth::{Constraint, Credential, Trust};
use crate::proposal::{EspProposal, IkeProposal};

pub use crate::engine::any_or_exactly;
pub use crate::identity::{Identity, IdentityError, IdentityMatch};

/// Octets of a pre-shared key. Zeroized on drop, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How we prove who we are, in one round of authentication (RFC 4739).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalMethod {
    /// Shared Key Message Integrity Code (RFC 7296 §2.15).
    Psk,
    /// A signature.
    Pubkey {
        /// Keys with their certificates, never empty: the first that one of the peer's CAs vouches for is used.
        credentials: Vec<Arc<Credential>>,
        /// Keys and signatures that may be used.
        constraint: Constraint,
    },
    /// EAP, as its client (RFC 7296 §2.16). Only an initiator can; a responder is proven by EAP where that proves both ends
    /// (RFC 5998).
    Eap {
        /// The method.
        method: ClientMethod,
        /// Who we are in EAP; `None`: who we are in IKE.
        eap_id: Option<String>,
        /// Whom the certificate of EAP's server has to be for; `None`: the gateway.
        aaa_id: Option<IdentityMatch>,
        /// What methods over TLS prove us with. As responder: with what we prove ourselves if EAP has to do so alone.
        credentials: Vec<Arc<Credential>>,
    },
    /// By the EAP method that an AAA server runs with the peer, whose key proves us too (RFC 5998). Only a responder can.
    Aaa,
    /// Not at all (RFC 7619).
    Null,
}

impl LocalMethod {
    /// Keys of ours that it may sign with.
    pub fn credentials(&self) -> &[Arc<Credential>] {
        match self {
            Self::Psk | Self::Aaa | Self::Null => &[],
            Self::Pubkey { credentials, .. } | Self::Eap { credentials, .. } => credentials,
        }
    }
}

/// How the peer must prove who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteMethod {
    /// Shared Key Message Integrity Code.
    Psk,
    /// A signature of a key that we trust.
    Pubkey(Arc<Trust>),
    /// EAP, as its server. Only an initiator can be authenticated so.
    Eap {
        /// The method.
        method: ServerMethod,
        /// Whom the peer's answer to EAP-Identity must name; `None`: it is not asked, and is who it is in IKE.
        eap_id: Option<IdentityMatch>,
        /// Of methods over TLS: whose certificates are accepted.
        trust: Arc<Trust>,
    },
    /// It need not (RFC 7619): whoever it is, it is nobody whom we know.
    Null,
}

impl RemoteMethod {
    /// Whose certificates it accepts.
    pub fn trust(&self) -> Option<&Arc<Trust>> {
        match self {
            Self::Psk | Self::Null => None,
            Self::Pubkey(trust) | Self::Eap { trust, .. } => Some(trust),
        }
    }
}

/// How we authenticate ourselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalAuth {
    /// The method.
    pub auth: LocalMethod,
    /// IDi or IDr that we send; `None`: the subject of our certificate, else our address of the IKE SA.
    pub id: Option<Identity>,
}

/// How the peer must authenticate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteAuth {
    /// The method.
    pub auth: RemoteMethod,
    /// What its identity must be.
    pub id: IdentityMatch,
}

/// A pre-shared key and whom it is for (swanctl's `secrets.ike-NAME`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedKey {
    /// Its name in the configuration.
    pub name: String,
    /// Identities of the ends that share it; empty: any. The key with most identities matching (ours and the
    /// peer's) is used.
    pub ids: Vec<Identity>,
    /// The key.
    pub secret: Secret,
}

/// A peer address that a connection accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressMatch {
    /// `%any`.
    Any,
    /// One address.
    Address(IpAddr),
    /// A prefix; can be matched, not initiated to.
    Network(ipnet::IpNet),
}

impl AddressMatch {
    /// Whether it accepts an address.
    pub fn contains(&self, addr: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Address(own) => *own == addr,
            Self::Network(net) => net.contains(&addr),
        }
    }
}

impl fmt::Display for AddressMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("%any"),
            Self::Address(addr) => addr.fmt(f),
            Self::Network(net) => net.fmt(f),
        }
    }
}

/// When a child is brought up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StartAction {
    /// Only by the peer or by `initiate`.
    None,
    /// By the first packet that matches.
    Trap,
    /// At once.
    Start,
}

/// What follows when a child is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LossAction {
    /// Nothing.
    Clear,
    /// The next packet that matches brings it up again.
    Trap,
    /// It is brought up again at once, and tried until it is up.
    Restart,
}

/// What becomes of a child that is lost, or that nobody uses. Where it is not said, a child with [`StartAction::Start`] is
/// kept up and every other one stays down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChildActions {
    /// Its peer has fallen silent (swanctl's `dpd_action`).
    pub dpd: Option<LossAction>,
    /// Its peer has closed it (`close_action`).
    pub close: Option<LossAction>,
    /// It is closed after so long without traffic (`inactivity`); zero: never.
    pub inactivity: Duration,
}

impl ChildActions {
    /// Whether one of them is this.
    pub fn name(&self, action: LossAction) -> bool {
        self.dpd == Some(action) || self.close == Some(action)
    }
}

/// When a CHILD SA is rekeyed, and when it ends if that has not succeeded. Zero is never. The end of its sequence
/// numbers is a limit besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChildLifetime {
    /// Its age.
    pub time: Limit<Duration>,
    /// Octets of inner packets, either way.
    pub bytes: Limit<u64>,
    /// Packets, either way.
    pub packets: Limit<u64>,
}

/// One measure of a lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limit<T> {
    /// It is rekeyed here at the latest (swanctl's `rekey_*`).
    pub rekey: T,
    /// It ends here (`life_*`).
    pub life: T,
    /// It is rekeyed earlier by a random part of this, so that not all are at once (`rand_*`).
    pub rand: T,
}

/// When an IKE SA is replaced. Zero is never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IkeLifetime {
    /// Age at which it is rekeyed.
    pub rekey_time: Duration,
    /// Age of its authentication at which its initiator makes a new one.
    pub reauth_time: Duration,
    /// How long after that it ends if neither has succeeded.
    pub over_time: Duration,
    /// Both come earlier by a random part of this.
    pub rand_time: Duration,
}

/// What becomes of other IKE SAs of the same two identities when one is authenticated (swanctl's `unique`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Unique {
    /// They go if the peer says that it has no other (INITIAL_CONTACT).
    #[default]
    No,
    /// They go.
    Replace,
    /// The new one is refused.
    Keep,
    /// They stay whatever the peer says.
    Never,
}

/// Whether IKE messages that are too long for the path go in fragments (RFC 7383; swanctl's `fragmentation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum IkeFragmentation {
    /// Both ways.
    #[default]
    Yes,
    /// They are taken, not sent.
    Accept,
    /// Neither.
    No,
}

/// Whether IKE SAs begin without a child (RFC 6023; swanctl's `childless`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Childless {
    /// The peer may; we do not.
    #[default]
    Allow,
    /// We do too where the peer takes it.
    Prefer,
    /// Always, whoever begins.
    Force,
    /// Never.
    Never,
}

/// When a gateway sends its clients to another one (RFC 5685).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RedirectWhen {
    /// Once they have proved who they are, in place of their first child (§6).
    #[default]
    Authenticated,
    /// At their first message, before anything is computed for them (§3).
    AtOnce,
    /// At their first message too, but only while so many IKE SAs are half-open that a cookie is asked for.
    Overloaded,
}

/// A post-quantum pre-shared key (RFC 8784; swanctl's `ppk_id` and `ppk_required`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ppk {
    /// Its name, where we begin; a responder takes whichever it has.
    pub id: Option<Identity>,
    /// Without one there is no IKE SA.
    pub required: bool,
}

/// A CHILD SA to be (swanctl's `connections.NAME.children.CHILD`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildConfig {
    /// Its name, unique within the connection.
    pub name: String,
    /// Our side; `None`: `dynamic`, our address of the IKE SA.
    pub local_ts: Vec<Option<TrafficSelector>>,
    /// The peer's side; `None`: `dynamic`, the peer's address.
    pub remote_ts: Vec<Option<TrafficSelector>>,
    /// In order of preference, never empty.
    pub esp_proposals: Vec<EspProposal>,
    /// When it is brought up.
    pub start_action: StartAction,
    /// What becomes of it when it is lost or idle.
    pub actions: ChildActions,
    /// 0 (off) or 64 to 8192.
    pub replay_window: u32,
    /// When it is rekeyed, when it ends.
    pub lifetime: ChildLifetime,
    /// Precedence of its policies: lower goes first; `None`: by their selectors.
    pub priority: Option<NonZeroU32>,
    /// Its mode, and how its packets are treated.
    pub options: SaOptions,
    /// Workers may have CHILD SAs of their own beside the first (RFC 9611; swanctl's `per_cpu_sas`).
    pub per_worker: Option<PerWorker>,
}

/// CHILD SAs of single workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerWorker {
    /// Workers of the data plane: they have numbers below this.
    pub workers: u16,
    /// How many there may be beside each one that all share, whoever asks for them.
    pub most: u16,
}

/// A connection (swanctl's `connections.NAME`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionConfig {
    /// Its name, unique.
    pub name: String,
    /// Whose inner addresses are behind it; other than 0, its tunnels have a device of their own.
    pub tenant: TenantId,
    /// Our addresses; empty: any.
    pub local_addrs: Vec<AddressMatch>,
    /// The peer's addresses; empty: any. The first [`AddressMatch::Address`] is the one initiated to.
    pub remote_addrs: Vec<AddressMatch>,
    /// In order of preference, never empty.
    pub proposals: Vec<IkeProposal>,
    /// Rounds of our own authentication, never empty.
    pub local: Vec<LocalAuth>,
    /// Rounds of the peer's authentication, never empty.
    pub remote: Vec<RemoteAuth>,
    /// UDP encapsulation even where no NAT was detected (swanctl's `encap`).
    pub encap: bool,
    /// The IKE SA outlives the addresses that it began with, if the peer is for it (RFC 4555; swanctl's `mobike`).
    pub mobike: bool,
    /// Either end shows the other that it has lost its state (RFC 6290).
    pub quick_crash_detection: bool,
    /// Its IKE SAs may be resumed with a ticket (RFC 5723).
    pub session_resumption: bool,
    /// As a client we go where the gateway sends us (RFC 5685).
    pub follow_redirects: bool,
    /// As a gateway we send clients there in place of serving them, if they would go.
    pub redirect_to: Option<IpAddr>,
    /// Which of them, and when.
    pub redirect_when: RedirectWhen,
    /// Time without any authenticated packet after which the peer is asked whether it lives; zero: never.
    pub dpd_delay: Duration,
    /// When its IKE SAs are replaced.
    pub lifetime: IkeLifetime,
    /// What becomes of other IKE SAs of the same two identities.
    pub unique: Unique,
    /// Whether long IKE messages go in fragments.
    pub fragmentation: IkeFragmentation,
    /// Whether its IKE SAs begin without a child.
    pub childless: Childless,
    /// A peer that asks for OCSP responses about our certificates gets them (RFC 4806).
    pub ocsp_reply: bool,
    /// A secret that is mixed into the keys.
    pub ppk: Ppk,
    /// Names of the pools that the peer gets its inner addresses from, in order of preference.
    pub pools: Vec<String>,
    /// Inner addresses that we ask of the peer as initiator, one of each family at most; unspecified: any.
    pub vips: Vec<IpAddr>,
    /// Its children, never empty.
    pub children: Vec<ChildConfig>,
}

/// Retransmission of requests, as strongSwan has it: the n-th comes `timeout * base^n` after the one before.
#[derive(Debug, Clone, PartialEq)]
pub struct Retransmission {
    /// First interval.
    pub timeout: Duration,
    /// Growth per try.
    pub base: f64,
    /// Retransmissions after the first sending, before the peer is given up.
    pub tries: u32,
}

impl Default for Retransmission {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(4), base: 1.8, tries: 5 }
    }
}

/// Everything the engine is told at start.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineConfig {
    /// Connections, in the order of the file.
    pub connections: Vec<ConnectionConfig>,
    /// Pre-shared keys.
    pub shared_keys: Vec<SharedKey>,
    /// Passwords of EAP's users.
    pub users: Arc<[UserSecret]>,
    /// Post-quantum pre-shared keys, with the names that peers may call them by.
    pub ppks: Vec<SharedKey>,
    /// Retransmission of requests.
    pub retransmission: Retransmission,
    /// Half-open IKE SAs from which a cookie is asked of every initiator (RFC 7296 §2.6).
    pub cookie_threshold: usize,
    /// Half-open IKE SAs from which they have to solve a puzzle besides (RFC 8019).
    pub puzzle_threshold: usize,
    /// The difficulty of the hardest puzzle that is asked, in bits.
    pub puzzle_difficulty: u8,
    /// The difficulty of the puzzle that whoever has solved one is asked in IKE_AUTH; 0: none.
    pub puzzle_auth_difficulty: u8,
    /// The difficulty of the hardest puzzle that we solve as initiator; 0: none.
    pub puzzle_solved: u8,
    /// Half-open IKE SAs kept at once; an IKE_SA_INIT above it is dropped.
    pub half_open_limit: usize,
    /// Half-open IKE SAs kept at once of one IPv4 address or IPv6 /64 (strongSwan's `block_threshold`).
    pub block_threshold: usize,
    /// Established IKE SAs kept at once with peers that have proved nothing (RFC 7619 §3.2).
    pub unauthenticated_limit: usize,
    /// How long a responder waits for IKE_AUTH.
    pub half_open_timeout: Duration,
    /// Interval of NAT keepalives (RFC 3948 §2.3) that the engine sends while behind a NAT; zero: never.
    pub nat_keepalive: Duration,
    /// Octets of the IP packets that fragments of IKE messages go in; zero: what every path of the family carries.
    pub fragment_size: usize,
    /// UDP ports: 500 and 4500 unless tests choose others.
    pub port: u16,
    /// The port of UDP-encapsulated ESP and of IKE behind a NAT.
    pub nat_port: u16,
}
