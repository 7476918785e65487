//! What goes into the engine and what comes out of it: datagrams, jobs, commands, events, status.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use portcullis_ipsec::{
    EspAlgorithm, Flow, InboundSa, InstallError, Mode, OutboundSa, Policy, PolicyId, SaCounters, Spi,
    TenantId, TrafficSelector, TunnelEndpoints, UsageLimits,
};

use super::path::Transport;
use super::shard::{Answer, Note, Question};
use crate::auth::eap;
use crate::auth::{Authorization, Proven, Rejection, SignRequest, Signature, VerifyRequest};
use crate::config::Identity;
use crate::crypto::{KeMethod, KeSecret, KeyExchangeError, Puzzle, SharedSecret};
use crate::pools::{AddressRequest, Assignment, Attributes, Lease};

/// A UDP datagram, or a message of a TCP stream. On the NAT port the payload is without the non-ESP marker (RFC 3948 §2.2): the shell adds and
/// strips it. An empty IKE payload never occurs; a NAT keepalive is its own variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// What is carried.
    pub payload: DatagramPayload,
}

/// What a datagram carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatagramPayload {
    /// An IKE message, without a non-ESP marker.
    Ike(Vec<u8>),
    /// An IKE message of the TCP stream between these addresses (RFC 9329), without length and non-ESP marker. One for a stream
    /// that is gone is lost.
    Stream(Vec<u8>),
    /// A NAT keepalive: the single octet 0xff, on the NAT port (RFC 3948 §2.3).
    NatKeepalive,
}

/// Who goes by a TCP stream; of several engines, what says most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamUse {
    /// No IKE SA.
    Unused,
    /// One whose peer is not authenticated.
    Connecting,
    /// One that is, or was until it was replaced.
    Established,
}

/// Names an IKE SA inside this engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IkeSaId(pub u64);

/// Names a job inside this engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// Work that takes long or lives elsewhere.
pub enum Job {
    /// The address that packets to `remote` leave from, as the kernel's routes say. Asked for before an
    /// IKE_SA_INIT from a connection without a single local address, because NAT detection hashes it.
    SourceAddress {
        /// The peer.
        remote: IpAddr,
    },
    /// Make our half of a key exchange: [`crate::crypto::generate`], or [`crate::crypto::answer`].
    GenerateKe {
        /// The method.
        method: KeMethod,
        /// The initiator's public value, if that is the peer.
        peer_public: Option<Vec<u8>>,
        /// Seeds the job's own generator, so that the engine stays deterministic.
        seed: [u8; 32],
    },
    /// Make the shared secret: [`crate::crypto::derive`].
    DeriveKe {
        /// Our half.
        secret: KeSecret,
        /// The peer's public value, as received.
        peer_public: Vec<u8>,
    },
    /// Solve the responder's puzzle about its cookie: [`Puzzle::solve`]. Takes seconds if it is a hard one.
    SolvePuzzle {
        /// The puzzle.
        puzzle: Puzzle,
        /// The cookie.
        cookie: Vec<u8>,
        /// Where to begin: at random.
        start: u64,
    },
    /// Sign our AUTH: [`SignRequest::perform`].
    Sign(Box<SignRequest>),
    /// Judge the peer's certificate and AUTH: [`crate::auth::verify`], with the time of day and the CRLs of the moment.
    VerifyPeer(Box<VerifyRequest>),
    /// Take a step of an EAP conversation: [`eap::Turn::take`].
    EapTurn(Box<eap::Turn>),
    /// Ask an AAA server about a client of EAP.
    AskAaa(Box<AaaQuestion>),
    /// [`portcullis_ipsec::SaInstaller::allocate_spi`].
    AllocateSpi,
    /// Installs a CHILD SA: `install_inbound`, `limit`, then, if it is to be sealed with at once, what
    /// [`Job::ActivateChild`] does; undone whole if a step fails.
    InstallChild(Box<ChildInstall>),
    /// Begins to seal with a CHILD SA that is installed: `install_policy` for a new policy, then `activate_outbound`;
    /// undone if a step fails, but for the inbound SA.
    ActivateChild {
        /// The pair.
        pair: Spi,
        /// What to seal, and with what.
        activation: Box<Activation>,
    },
    /// `remove_policy` if one is given, then [`portcullis_ipsec::SaInstaller::retire`] of a pair that has a successor.
    /// Packets that are under way are still accepted, until [`Job::RemoveChild`].
    RetireChild {
        /// The pair.
        pair: Spi,
        /// Its policy, if the successor has another.
        policy: Option<PolicyId>,
    },
    /// [`portcullis_ipsec::SaInstaller::move_pair`]: the peer's NAT has given it another address or port.
    MoveChild {
        /// The pair.
        pair: Spi,
        /// Where it is now.
        endpoints: TunnelEndpoints,
    },
    /// [`portcullis_ipsec::SaInstaller::remove`] of the pair, after `remove_policy` if one is given.
    RemoveChild {
        /// The pair.
        pair: Spi,
        /// The negotiated policy, if its last child goes.
        policy: Option<PolicyId>,
    },
    /// Lease inner addresses to a peer: [`crate::pools::Pools::assign`]. Leases are to be made and given back in the order of
    /// the jobs, so that a peer that comes back finds what it had.
    AssignAddresses(Box<AddressRequest>),
    /// Give them back: [`crate::pools::Pools::release`].
    ReleaseAddresses {
        /// What one IKE SA had.
        leases: Vec<Lease>,
    },
    /// Ask the [registry](super::Registry) of all shards. What one shard asks and tells it arrives in the order of the jobs, behind
    /// the lease jobs that came before.
    Ask(Box<Question>),
    /// Tell it something. There is no result.
    Tell(Box<Note>),
    /// [`portcullis_ipsec::SaInstaller::counters`] of some pairs, for DPD and status.
    QueryCounters {
        /// The pairs.
        pairs: Vec<Spi>,
    },
}

impl fmt::Debug for Job {
    /// Without the seed, which is as good as the private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SourceAddress { remote } => {
                f.debug_struct("SourceAddress").field("remote", remote).finish()
            }
            Self::GenerateKe { method, .. } => {
                f.debug_struct("GenerateKe").field("method", method).finish_non_exhaustive()
            }
            Self::DeriveKe { secret, .. } => {
                f.debug_struct("DeriveKe").field("secret", secret).finish_non_exhaustive()
            }
            Self::SolvePuzzle { puzzle, .. } => {
                f.debug_struct("SolvePuzzle").field("puzzle", puzzle).finish_non_exhaustive()
            }
            Self::Sign(request) => {
                f.debug_struct("Sign").field("scheme", &request.scheme).finish_non_exhaustive()
            }
            Self::VerifyPeer(request) => {
                f.debug_struct("VerifyPeer").field("id", &request.id).finish_non_exhaustive()
            }
            Self::EapTurn(turn) => f.debug_tuple("EapTurn").field(&turn.conversation).finish(),
            Self::AskAaa(question) => f.debug_tuple("AskAaa").field(question).finish(),
            Self::AllocateSpi => f.write_str("AllocateSpi"),
            Self::InstallChild(install) => f.debug_tuple("InstallChild").field(install).finish(),
            Self::ActivateChild { pair, activation } => {
                f.debug_struct("ActivateChild").field("pair", pair).field("activation", activation).finish()
            }
            Self::RetireChild { pair, policy } => {
                f.debug_struct("RetireChild").field("pair", pair).field("policy", policy).finish()
            }
            Self::MoveChild { pair, endpoints } => {
                f.debug_struct("MoveChild").field("pair", pair).field("endpoints", endpoints).finish()
            }
            Self::RemoveChild { pair, policy } => {
                f.debug_struct("RemoveChild").field("pair", pair).field("policy", policy).finish()
            }
            Self::AssignAddresses(request) => f.debug_tuple("AssignAddresses").field(request).finish(),
            Self::ReleaseAddresses { leases } => {
                f.debug_struct("ReleaseAddresses").field("leases", leases).finish()
            }
            Self::Ask(question) => f.debug_tuple("Ask").field(question).finish(),
            Self::Tell(note) => f.debug_tuple("Tell").field(note).finish(),
            Self::QueryCounters { pairs } => f.debug_struct("QueryCounters").field("pairs", pairs).finish(),
        }
    }
}

/// A question to an AAA server, with what it wants to know of the connection.
#[derive(Debug, Clone)]
pub struct AaaQuestion {
    /// The question.
    pub request: eap::AaaRequest,
    /// The IKE SA that the client is to have.
    pub ike: IkeSaId,
    /// Its connection.
    pub connection: String,
    /// Our address.
    pub local: SocketAddr,
    /// The client's address.
    pub remote: SocketAddr,
}

/// A CHILD SA to install.
#[derive(Debug, Clone)]
pub struct ChildInstall {
    /// Our SPI, the pair's name.
    pub pair: Spi,
    /// What we receive on.
    pub inbound: InboundSa,
    /// What it may carry.
    pub limits: UsageLimits,
    /// What is sealed with it at once; `None` where the peer is not ready for it yet (RFC 7296 §2.8).
    pub activation: Option<Activation>,
}

/// The sending half of a CHILD SA, and what is sealed with it.
#[derive(Debug, Clone)]
pub struct Activation {
    /// The policy to install, or the one that a predecessor (rekey) has.
    pub policy: PolicyRef,
    /// What we send on.
    pub outbound: OutboundSa,
    /// Whose packets go through it.
    pub resource: Resource,
}

/// A policy to install, or one that is there.
#[derive(Debug, Clone)]
pub enum PolicyRef {
    /// Install it.
    New(Policy),
    /// Installed by an earlier job.
    Installed(PolicyId),
}

/// What became of a job.
#[derive(Debug)]
pub enum JobResult {
    /// Of [`Job::SourceAddress`]; `None` if there is no route.
    SourceAddress(Option<IpAddr>),
    /// Of [`Job::GenerateKe`]: our secret half and the public value to send.
    KeGenerated(Result<(KeSecret, Vec<u8>), KeyExchangeError>),
    /// Of [`Job::DeriveKe`].
    KeDerived(Result<SharedSecret, KeyExchangeError>),
    /// Of [`Job::SolvePuzzle`]: the keys; `None` if luck was out.
    PuzzleSolved(Option<Vec<u8>>),
    /// Of [`Job::Sign`]; `None` if the key refuses.
    Signed(Option<Signature>),
    /// Of [`Job::VerifyPeer`].
    PeerVerified(Result<Proven, Box<Rejection>>),
    /// Of [`Job::EapTurn`].
    EapTurned(Box<(eap::Conversation, eap::Step)>),
    /// Of [`Job::AskAaa`].
    AaaAnswered(Box<eap::AaaAnswer>),
    /// Of [`Job::AllocateSpi`].
    SpiAllocated(Result<Spi, InstallError>),
    /// Of [`Job::InstallChild`]: the policy that now leads to it, if any does.
    ChildInstalled(Result<Option<PolicyId>, InstallError>),
    /// Of [`Job::ActivateChild`]: the policy that now leads to it.
    ChildActivated(Result<PolicyId, InstallError>),
    /// Of [`Job::RetireChild`].
    ChildRetired(Result<(), InstallError>),
    /// Of [`Job::MoveChild`].
    ChildMoved(Result<(), InstallError>),
    /// Of [`Job::RemoveChild`].
    ChildRemoved(Result<(), InstallError>),
    /// Of [`Job::AssignAddresses`].
    AddressesAssigned(Box<Assignment>),
    /// Of [`Job::ReleaseAddresses`].
    AddressesReleased,
    /// Of [`Job::Ask`].
    Registry(Box<Answer>),
    /// Of [`Job::QueryCounters`], in the order asked; `None` for a pair that is gone.
    Counters(Vec<(Spi, Option<SaCounters>)>),
}

/// What an operator or the data plane asks for. Answered by [`Event::CommandDone`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Bring up a child, and its IKE SA if there is none.
    Initiate {
        /// The connection's name.
        connection: String,
        /// The child's name; `None`: every child of the connection.
        child: Option<String>,
    },
    /// A packet matched a trap policy of this child.
    Acquire {
        /// The connection's name.
        connection: String,
        /// The child's name.
        child: String,
        /// The packet's selectors, sent as the first TSi and TSr (RFC 7296 §2.9).
        flow: Flow,
    },
    /// Delete every IKE SA of a connection, or only one child.
    Terminate {
        /// The connection's name.
        connection: String,
        /// The child's name; `None`: the IKE SAs with all their children.
        child: Option<String>,
    },
    /// [`portcullis_ipsec::DataplaneEvent::PeerMoved`]: authenticated ESP came from elsewhere.
    PeerMoved {
        /// The pair that it came on.
        pair: Spi,
        /// Where it came from.
        seen: TunnelEndpoints,
    },
    /// [`portcullis_ipsec::DataplaneEvent::UnknownSpi`]: ESP came for no SA.
    UnknownSpi {
        /// What it is for.
        spi: Spi,
        /// Where it came from.
        seen: TunnelEndpoints,
    },
    /// [`portcullis_ipsec::DataplaneEvent::FirstPacket`]: the peer seals with a CHILD SA that it has asked for.
    FirstPacket {
        /// The pair.
        pair: Spi,
    },
    /// [`portcullis_ipsec::DataplaneEvent::WorkerAsks`]: a worker wants a CHILD SA of its own beside one that all share.
    WorkerAsks {
        /// The pair that all share.
        pair: Spi,
        /// The worker.
        worker: u16,
    },
    /// [`portcullis_ipsec::DataplaneEvent::SoftLimit`]: rekey it.
    SoftLimit {
        /// The pair.
        pair: Spi,
    },
    /// [`portcullis_ipsec::DataplaneEvent::HardLimit`]: it is used up.
    HardLimit {
        /// The pair.
        pair: Spi,
    },
    /// Rekey every IKE SA of a connection, or only the CHILD SAs of one child. Done as soon as that has been asked
    /// for; how it went, events tell.
    Rekey {
        /// The connection's name.
        connection: String,
        /// The child's name; `None`: the IKE SAs.
        child: Option<String>,
    },
    /// Make every IKE SA of a connection anew, with its children, then delete the old one; peers that have begun one are
    /// asked to (RFC 4478). Done as soon as that has begun.
    Reauthenticate {
        /// The connection's name.
        connection: String,
    },
    /// Send every peer of a connection that has begun an IKE SA to another gateway (RFC 5685). Done as soon as that has
    /// begun; those that do not go are put out after a while.
    Redirect {
        /// The connection's name.
        connection: String,
        /// The other gateway.
        to: IpAddr,
    },
    /// Delete one IKE SA, or what has taken its place meanwhile.
    TerminateSa {
        /// Which.
        ike: IkeSaId,
    },
    /// Give one IKE SA another time to live, from now on; when it is over the IKE SA is deleted.
    LimitSession {
        /// Which.
        ike: IkeSaId,
        /// How long.
        timeout: Duration,
    },
    /// The host's outside addresses or its routes have changed, or this is what they are at the start: IKE SAs that can
    /// move (RFC 4555) look for a way again.
    PathsChanged {
        /// Those of the outside interfaces that are up, in order of preference.
        addresses: Vec<IpAddr>,
    },
    /// Delete every IKE SA (an orderly stop).
    TerminateAll,
}

/// Names a command, chosen by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommandId(pub u64);

/// Something that happened, for logs, metrics, `status` and waiting commands.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A command ended. `Err` says in plain words what failed and what to change.
    CommandDone {
        /// Which.
        command: CommandId,
        /// How.
        result: Result<(), Failure>,
    },
    /// Both ends are authenticated.
    IkeEstablished {
        /// The SA.
        ike: IkeSaStatus,
    },
    /// A CHILD SA is installed in both directions.
    ChildEstablished {
        /// Its IKE SA.
        ike: IkeSaId,
        /// Its connection.
        connection: String,
        /// The SA.
        child: ChildSaStatus,
    },
    /// A CHILD SA has a successor, which is installed.
    ChildRekeyed {
        /// Its IKE SA.
        ike: IkeSaId,
        /// Its connection.
        connection: String,
        /// The successor.
        child: ChildSaStatus,
        /// Our SPI of its predecessor.
        replaced: Spi,
    },
    /// An IKE SA has a successor, which has its children.
    IkeRekeyed {
        /// The successor.
        ike: IkeSaStatus,
        /// Its predecessor.
        replaced: IkeSaId,
    },
    /// A CHILD SA is gone.
    ChildClosed {
        /// Its connection.
        connection: String,
        /// The child's name.
        child: String,
        /// Our SPI.
        pair: Spi,
        /// Why.
        reason: String,
    },
    /// An IKE SA is gone.
    IkeClosed {
        /// The SA.
        ike: IkeSaId,
        /// Its connection.
        connection: String,
        /// Why.
        reason: String,
    },
    /// An IKE SA goes on between other addresses; so do its children, once the peer has shown that it is there.
    IkeMoved {
        /// Which.
        ike: IkeSaId,
        /// Its connection.
        connection: String,
        /// Ours and the peer's before.
        from: (SocketAddr, SocketAddr),
        /// Ours and the peer's from now on.
        to: (SocketAddr, SocketAddr),
    },
    /// A peer was given inner addresses.
    AddressesAssigned {
        /// Its IKE SA.
        ike: IkeSaId,
        /// Its connection.
        connection: String,
        /// Who it is.
        identity: String,
        /// One of each family at most.
        addresses: Vec<IpAddr>,
    },
    /// A peer's IKE SA has ended, and with it the use of its inner addresses.
    AddressesReleased {
        /// The IKE SA.
        ike: IkeSaId,
        /// Its connection.
        connection: String,
        /// What it had.
        addresses: Vec<IpAddr>,
    },
    /// A peer has given us inner addresses: what we send through its tunnels comes from them.
    AddressesAcquired {
        /// The connection.
        connection: String,
        /// Those that no other IKE SA of ours has had already.
        addresses: Vec<IpAddr>,
        /// What it has told us besides.
        attributes: Attributes,
    },
    /// No IKE SA of ours has these any more.
    AddressesLost {
        /// The connection.
        connection: String,
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
    /// One end sends the other to another gateway (RFC 5685).
    Redirected {
        /// The IKE SA that it was said in.
        ike: IkeSaId,
        /// Its connection.
        connection: String,
        /// The other end.
        remote: SocketAddr,
        /// The other gateway.
        to: IpAddr,
        /// Whether we have said so, as a gateway.
        by_us: bool,
    },
    /// An exchange failed, on either end's account.
    Failed(Failure),
    /// A datagram was dropped before it could be tied to an SA, for the counters.
    Rejected {
        /// From where.
        remote: SocketAddr,
        /// A stable label for metrics, e.g. `malformed`, `unknown_spi`, `half_open_limit`, `half_open_of_source`,
        /// `busy`, `oversized`, `puzzle`, `version`.
        label: &'static str,
        /// For people.
        detail: String,
    },
}

/// A failed exchange is what its verdict says of it.
pub type Failure = crate::verdict::Verdict;

/// Where an IKE SA stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IkeState {
    /// IKE_SA_INIT or IKE_AUTH under way.
    Connecting,
    /// Authenticated.
    Established,
    /// A Delete was sent.
    Deleting,
}

/// An IKE SA, as `portcullis sas` prints it.
#[derive(Debug, Clone, PartialEq)]
pub struct IkeSaStatus {
    /// Its id.
    pub id: IkeSaId,
    /// Its connection; `None` while a responder does not know the initiator.
    pub connection: Option<String>,
    /// Whose inner addresses are behind it.
    pub tenant: TenantId,
    /// Whether we sent the first IKE_SA_INIT.
    pub initiator: bool,
    /// State.
    pub state: IkeState,
    /// Initiator's SPI, octets in the order of the wire.
    pub initiator_spi: [u8; 8],
    /// Responder's SPI.
    pub responder_spi: [u8; 8],
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// What carries its messages, and the ESP of its children if that is TCP.
    pub transport: Transport,
    /// Our identity, once known.
    pub local_id: Option<Identity>,
    /// The peer's identity, once authenticated.
    pub remote_id: Option<Identity>,
    /// What the peer has proved that with.
    pub proven: Option<Proven>,
    /// What the peer may have, once it is authenticated.
    pub authorization: Authorization,
    /// The negotiated proposal in strongSwan's notation.
    pub proposal: Option<String>,
    /// A NAT was detected before us.
    pub nat_local: bool,
    /// A NAT was detected before the peer.
    pub nat_remote: bool,
    /// Our inner addresses, from the peer.
    pub local_vips: Vec<IpAddr>,
    /// The peer's inner addresses, from our pools.
    pub remote_vips: Vec<IpAddr>,
    /// When it was established.
    pub established: Option<Instant>,
    /// Its children.
    pub children: Vec<ChildSaStatus>,
}

/// A CHILD SA, as `portcullis sas` prints it.
#[derive(Debug, Clone, PartialEq)]
pub struct ChildSaStatus {
    /// Its name.
    pub name: String,
    /// Our SPI.
    pub spi_in: Spi,
    /// The peer's SPI.
    pub spi_out: Spi,
    /// ESP transform.
    pub algorithm: EspAlgorithm,
    /// The negotiated proposal in strongSwan's notation, e.g. `aes256gcm16-esn`.
    pub proposal: String,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Outer addresses and encapsulation.
    pub endpoints: TunnelEndpoints,
    /// Our side, as negotiated.
    pub local_ts: Vec<TrafficSelector>,
    /// The peer's side, as negotiated.
    pub remote_ts: Vec<TrafficSelector>,
    /// Tunnel or transport mode.
    pub mode: Mode,
    /// When it was installed.
    pub established: Instant,
    /// Whether we asked for it.
    pub initiator: bool,
    /// Which workers seal with it.
    pub resource: Resource,
}

/// What a CHILD SA is among those with the same selectors (RFC 9611).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Resource {
    /// There are no others, or none that the peer knows to belong together.
    #[default]
    None,
    /// The first one, with which workers seal that have none of their own.
    Fallback,
    /// That worker alone seals with it.
    Worker(u16),
    /// Nobody does: each worker has one, and the peer has asked for more, to send on.
    Spare,
}

impl Resource {
    /// Whether it is one beside a [`Resource::Fallback`].
    pub const fn is_additional(self) -> bool {
        matches!(self, Self::Worker(_) | Self::Spare)
    }
}
