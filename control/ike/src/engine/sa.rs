//! One IKE SA: what it has in every state ([`Base`]), what it leaves, and its end. Its states are in [`super::state`].

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use portcullis_ipsec::{Encapsulation, Flow, PolicyId, Spi, TunnelEndpoints};

use super::actions::Loss;
use super::addresses::Addresses;
use super::api::*;
use super::channel::Linger;
use super::children::{Child, Doomed};
use super::context::{Context, Effect, Leaves};
use super::failure::{About, is_refusal};
use super::index::Identities;
use super::lifetime::Schedule;
use super::mobike::Mobility;
use super::path::{Path, Transport};
use super::redirect::Redirect;
use super::resources::Beside;
use super::resumption::Session;
use super::shard::Peer;
use super::state::State;
use crate::auth::{Authorization, Proven};
use crate::config::{Identity, Secret};
use crate::message::{Header, Received};
use crate::proposal::IkeSuite;
use crate::verdict::Reason;

/// Which end of the IKE SA we are: whether we sent its first IKE_SA_INIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Initiator,
    Responder,
}

impl Role {
    /// The peer's.
    pub(super) fn other(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }
}

/// What NAT detection found (RFC 7296 §2.23).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Nat {
    /// Before us.
    pub(super) local: bool,
    /// Before the peer.
    pub(super) remote: bool,
    /// We made the peer believe in one before us, because the configuration asks for encapsulation.
    pub(super) forced: bool,
}

/// A child that somebody wants up.
#[derive(Debug, Clone)]
pub(super) struct Goal {
    /// Index in the connection's children.
    pub(super) child: usize,
    /// The packet that asked for it.
    pub(super) flow: Option<Flow>,
    /// Who waits for it.
    pub(super) commands: Vec<CommandId>,
    /// It was terminated meanwhile: to be deleted as soon as it is up.
    pub(super) unwanted: bool,
    /// It is to be one more, for one worker.
    pub(super) beside: Option<Beside>,
}

impl Goal {
    /// For whoever waits for it to be up.
    pub(super) fn new(child: usize) -> Self {
        Self { child, flow: None, commands: Vec::new(), unwanted: false, beside: None }
    }
}

/// What an IKE SA leaves to the one that replaces it (RFC 7296 §2.8).
#[derive(Debug, Default)]
pub(super) struct Estate {
    connection: usize,
    children: Vec<Child>,
    goals: VecDeque<Goal>,
    deletes: Vec<Doomed>,
    deleters: Vec<CommandId>,
    terminators: Vec<CommandId>,
    addresses: Addresses,
    /// It was to be deleted: so is the heir.
    doomed: bool,
}

impl Estate {
    /// Nobody is there to take it.
    pub(super) fn dissolve(self, cx: &mut Context, owner: IkeSaId) {
        self.addresses.give_back(cx, owner, self.connection);
        for child in self.children {
            let pair = child.status.spi_in;
            cx.index.forget_pair(pair);
            cx.child_closed(self.connection, &child.status.name, pair, "its IKE SA is gone");
            cx.remove_child(owner, pair, child.policy());
        }
        let goals = self.goals.into_iter().flat_map(|goal| goal.commands);
        for command in goals.chain(self.deleters).chain(self.terminators) {
            cx.end_goal(command, Ok(()));
        }
    }
}

/// What an IKE SA has in every state.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) id: IkeSaId,
    pub(super) role: Role,
    pub(super) spi_i: [u8; 8],
    pub(super) spi_r: [u8; 8],
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) transport: Transport,
    pub(super) nat: Nat,
    pub(super) mobility: Mobility,
    /// A gateway has sent us here.
    pub(super) redirect: Option<Redirect>,
    /// The peer is a client that goes where it is sent.
    pub(super) takes_redirects: bool,
    /// Where it is to be sent.
    pub(super) redirecting: Option<IpAddr>,
    /// What the peer would show if it had lost the IKE SA (RFC 6290).
    pub(super) tokens: Vec<Secret>,
    /// The peer is to be given ours.
    pub(super) owes_token: bool,
    /// What this one goes on from, until it is established.
    pub(super) resumed: Option<Box<Session>>,
    /// As client: what may go on from this one.
    pub(super) ticket: Option<Box<Session>>,
    /// We are to ask for a ticket.
    pub(super) wants_ticket: bool,
    /// It is to be asked to prove itself anew (RFC 4478).
    pub(super) owes_reauthentication: bool,
    /// An SPI that the peer sends on, and that is no CHILD SA's.
    pub(super) unknown_spi: Option<Spi>,
    /// Both ends have said that they take fragments (RFC 7383 §2.3).
    pub(super) fragmentation: bool,
    /// Both ends have said that the peer may set message IDs anew (RFC 6311 §4).
    pub(super) synchronises: bool,
    /// Of an initiator: IKE_AUTH makes no child (RFC 6023).
    pub(super) childless: bool,
    /// Index in the configuration; a responder's first guess until IKE_AUTH has decided.
    pub(super) connection: usize,
    pub(super) created: Instant,
    /// When an authentic message last brought a responder further that waits for IKE_AUTH.
    pub(super) progress: Instant,
    pub(super) suite: Option<IkeSuite>,
    pub(super) local_id: Option<Identity>,
    pub(super) remote_id: Option<Identity>,
    /// What the peer has proved its identity with.
    pub(super) proven: Option<Proven>,
    /// Until it is established: the peer that the registry counts on its behalf.
    pub(super) claim: Option<Peer>,
    /// What the peer may have, from whoever authenticated it.
    pub(super) authorization: Authorization,
    /// When both ends were authenticated.
    pub(super) established: Option<Instant>,
    /// When both ends proved who they are: not anew when the IKE SA is rekeyed.
    pub(super) authentication: Schedule,
    /// When it ends, because whoever authenticated the peer says so.
    pub(super) session_end: Option<Instant>,
    pub(super) addresses: Addresses,
    pub(super) children: Vec<Child>,
    /// CHILD SAs that the peer may still send on until it has answered our Delete of the IKE SA.
    pub(super) leaving: Vec<Spi>,
    /// Policies that CHILD SAs which are being installed will have, by our SPI.
    pub(super) claims: Vec<(Spi, PolicyId)>,
    /// Our halves of CHILD SAs that are gone here, or replaced, and to be deleted at the peer.
    pub(super) deletes: Vec<Doomed>,
    /// Inbound SPIs allocated for children that are not installed yet.
    pub(super) reserved: Vec<Spi>,
    /// Children still to be brought up.
    pub(super) goals: VecDeque<Goal>,
    /// The child that is being brought up.
    pub(super) goal: Option<Goal>,
    /// Commands that wait for the deletion of children.
    pub(super) deleters: Vec<CommandId>,
    /// Commands that wait for this IKE SA's end.
    pub(super) terminators: Vec<CommandId>,
    /// Why its children go, if the configuration may say what follows.
    pub(super) loss: Option<Loss>,
    /// To be deleted as soon as the protocol lets us.
    pub(super) doomed: bool,
    /// It was rekeyed, and another IKE SA has what it had; or it lost a collision and never had anything. Somebody is
    /// about to delete it; at this time we do.
    pub(super) superseded: Option<Instant>,
    /// It is to have what another one has, unless our own rekeying of that prevails over the peer's, which made this one.
    pub(super) expectant: bool,
    /// The IKE SA that has what this one had.
    pub(super) heir: Option<IkeSaId>,
    /// The IKE SA that is to replace this one as soon as it has the same children (reauthentication, and initiations
    /// that cross).
    pub(super) replaced_by: Option<IkeSaId>,
    /// It is to replace others, once it has everything in [`Base::goals`].
    pub(super) replacing: bool,
    /// It was asked for the children of those that it is to replace.
    pub(super) asked: bool,
    /// It is there for nothing else than to replace another.
    pub(super) reauthenticates: bool,
    /// The lowest nonce of its IKE_SA_INIT exchange, once known, to choose between two that cross.
    pub(super) lowest_nonce: Vec<u8>,
    /// Whether we sent the first IKE_SA_INIT, however often it was rekeyed since.
    pub(super) original_initiator: bool,
}

impl Base {
    pub(super) fn new(
        id: IkeSaId,
        role: Role,
        (spi_i, spi_r): ([u8; 8], [u8; 8]),
        Path { local, remote, transport }: Path,
        connection: usize,
        now: Instant,
    ) -> Self {
        Self {
            id,
            role,
            spi_i,
            spi_r,
            local,
            remote,
            transport,
            nat: Nat::default(),
            mobility: Mobility::default(),
            redirect: None,
            takes_redirects: false,
            redirecting: None,
            tokens: Vec::new(),
            owes_token: false,
            resumed: None,
            ticket: None,
            wants_ticket: false,
            owes_reauthentication: false,
            unknown_spi: None,
            fragmentation: false,
            synchronises: false,
            childless: false,
            connection,
            created: now,
            progress: now,
            suite: None,
            local_id: None,
            remote_id: None,
            proven: None,
            claim: None,
            authorization: Authorization::default(),
            established: None,
            authentication: Schedule::default(),
            session_end: None,
            addresses: Addresses::default(),
            children: Vec::new(),
            leaving: Vec::new(),
            claims: Vec::new(),
            deletes: Vec::new(),
            reserved: Vec::new(),
            goals: VecDeque::new(),
            goal: None,
            deleters: Vec::new(),
            terminators: Vec::new(),
            loss: None,
            doomed: false,
            superseded: None,
            expectant: false,
            heir: None,
            replaced_by: None,
            replacing: false,
            asked: false,
            reauthenticates: false,
            lowest_nonce: Vec::new(),
            original_initiator: role == Role::Initiator,
        }
    }

    pub(super) fn own_spi(&self) -> [u8; 8] {
        match self.role {
            Role::Initiator => self.spi_i,
            Role::Responder => self.spi_r,
        }
    }

    /// Whose IKE SA it is, once both are known: who the peer is within EAP where that is what was authenticated, and not
    /// what it says in IKE, which several may say.
    pub(super) fn identities(&self) -> Option<Identities> {
        let user = self.authorization.eap_id.as_ref();
        // No peer is of ID type 0, so that a user is nobody whom IKE knows.
        let user = user.map(|user| Identity::Other { id_type: 0, data: user.to_lowercase().into_bytes() });
        // Two peers that have proved nothing are not the same one, whatever either says (RFC 7619 §2.3).
        let nobody = self.is_unauthenticated().then(|| [self.spi_i, self.spi_r].concat());
        let nobody = nobody.map(|data| Identity::Other { id_type: 0, data });
        let peer = user.or(nobody).or_else(|| self.remote_id.clone())?;
        Some((self.local_id.clone()?, peer))
    }

    /// Whether the peer has proved nothing (RFC 7619).
    pub(super) fn is_unauthenticated(&self) -> bool {
        self.remote_id == Some(Identity::Null)
    }

    pub(super) fn about(&self, cx: &Context) -> About {
        About { connection: Some(cx.connection_name(self.connection)), remote: Some(self.remote) }
    }

    /// Which way messages go.
    pub(super) fn path(&self) -> Path {
        Path { local: self.local, remote: self.remote, transport: self.transport }
    }

    /// Messages go another way from now on.
    pub(super) fn set_path(&mut self, path: Path) {
        (self.local, self.remote, self.transport) = (path.local, path.remote, path.transport);
    }

    /// Whether ESP goes in UDP, where it does not go in TCP: behind a NAT, or where the configuration asks for it.
    pub(super) fn encapsulated(&self) -> bool {
        self.nat.local || self.nat.remote || self.nat.forced
    }

    /// The outer addresses of this SA's children.
    pub(super) fn endpoints(&self, cx: &Context) -> TunnelEndpoints {
        let esp_port = |port| if port == cx.config.port { cx.config.nat_port } else { port };
        let encapsulation = if self.transport == Transport::Tcp {
            Encapsulation::Tcp { local_port: self.local.port(), remote_port: self.remote.port() }
        } else if self.encapsulated() {
            Encapsulation::Udp {
                local_port: esp_port(self.local.port()),
                remote_port: esp_port(self.remote.port()),
            }
        } else {
            Encapsulation::None
        };
        TunnelEndpoints { local: self.local.ip(), remote: self.remote.ip(), encapsulation }
    }

    /// An authentic message came from there. A responder answers and asks where IKE_AUTH came from; later only a
    /// peer behind a NAT is followed, and only by an end that is behind none (RFC 7296 §2.23); with MOBIKE nobody is, but
    /// by UPDATE_SA_ADDRESSES (RFC 4555 §3.8). Of several TCP streams that one is used which the last message came by that
    /// nobody could repeat (RFC 9329 §6.1).
    pub(super) fn heard_from(&mut self, cx: &mut Context, inbound: &Inbound<'_>) {
        let connecting = self.established.is_none() && self.role == Role::Responder;
        let mapped = self.nat.remote && !self.nat.local && !self.mobility.agreed && !self.path().is_stream();
        let follows = connecting || mapped || self.takes_stream(inbound.path);
        if follows && self.path() != inbound.path {
            self.set_path(inbound.path);
            self.move_children(cx);
        }
    }

    /// Whether the peer may go on by that TCP stream instead of the one before: it opens them.
    pub(super) fn takes_stream(&self, path: Path) -> bool {
        path.is_stream() && self.path().is_stream() && !self.original_initiator
    }

    /// Whether the peer has brought up the child that is the goal in hand.
    pub(super) fn goal_is_met(&self) -> bool {
        self.goal.as_ref().is_some_and(|goal| match goal.beside {
            Some(beside) => !self.is_wanted(beside),
            None => goal.flow.is_none() && self.children.iter().any(|child| child.config == goal.child),
        })
    }

    /// Ends the goal in hand, successfully or not.
    pub(super) fn finish_goal(&mut self, cx: &mut Context, result: Result<(), Failure>) {
        let Some(goal) = self.goal.take() else { return };
        self.end(cx, goal, result);
    }

    fn end(&self, cx: &mut Context, goal: Goal, result: Result<(), Failure>) {
        // Another one is up, whatever became of what was to be beside it.
        if let (Err(failure), None) = (&result, goal.beside) {
            let refused = is_refusal(failure);
            cx.effects.push_back(Effect::ChildDown {
                connection: self.connection,
                child: goal.child,
                refused,
                loss: None,
            });
        }
        for command in goal.commands {
            cx.end_goal(command, result.clone());
        }
    }

    /// Reports a failure that leaves the IKE SA up, and ends the goal in hand with it.
    pub(super) fn fail_goal(&mut self, cx: &mut Context, failure: Failure) {
        cx.event(Event::Failed(failure.clone()));
        self.finish_goal(cx, Err(failure));
    }

    /// Gives an allocated SPI back.
    pub(super) fn release(&mut self, cx: &mut Context, spi: Spi) {
        self.reserved.retain(|reserved| *reserved != spi);
        cx.remove_child(self.id, spi, None);
    }

    /// Removes everything that this SA has in the data plane and answers everybody who waits for it.
    pub(super) fn close(&mut self, cx: &mut Context, closed: &Closed) {
        self.remove_children(cx, &closed.reason);
        for pair in std::mem::take(&mut self.leaving) {
            cx.bury(self.id, pair);
        }
        for spi in std::mem::take(&mut self.reserved) {
            cx.remove_child(self.id, spi, None);
        }
        if let Some(failure) = &closed.failure {
            cx.event(Event::Failed(failure.clone()));
        }
        // What was lost can be resumed, not what was ended (RFC 5723 §4.3.1).
        let lost = closed
            .failure
            .as_ref()
            .is_some_and(|failure| matches!(failure.reason, Reason::PeerSilent | Reason::PeerRestarted));
        if let Some(session) = self.ticket.take().filter(|_| lost) {
            cx.sessions.insert(self.connection, session);
        }
        std::mem::take(&mut self.addresses).give_back(cx, self.id, self.connection);
        let failure = closed.failure.clone().unwrap_or_else(|| self.about(cx).closed_early(&closed.reason));
        self.abandon_goals(cx, &failure);
        if self.established.is_some() {
            cx.sa_gone(self.connection);
            cx.event(Event::IkeClosed {
                ike: self.id,
                connection: cx.connection_name(self.connection),
                reason: closed.reason.clone(),
            });
        }
        self.children_deleted(cx);
        for command in std::mem::take(&mut self.terminators) {
            cx.end_goal(command, Ok(()));
        }
    }

    /// A half of ours is to be deleted at the peer.
    pub(super) fn doom(&mut self, half: Doomed) {
        if !self.deletes.contains(&half) {
            self.deletes.push(half);
        }
    }

    /// Brings up a child that was lost and that nobody waits for.
    pub(super) fn want(&mut self, child: usize) {
        self.goals.push_back(Goal::new(child));
    }

    /// The peer has deleted what we asked it to delete, or is gone.
    pub(super) fn children_deleted(&mut self, cx: &mut Context) {
        for command in std::mem::take(&mut self.deleters) {
            cx.end_goal(command, Ok(()));
        }
    }

    /// Takes everything that a rekeyed IKE SA leaves to its successor.
    pub(super) fn leave(&mut self) -> Estate {
        Estate {
            connection: self.connection,
            children: std::mem::take(&mut self.children),
            goals: std::mem::take(&mut self.goals),
            deletes: std::mem::take(&mut self.deletes),
            deleters: std::mem::take(&mut self.deleters),
            terminators: std::mem::take(&mut self.terminators),
            addresses: std::mem::take(&mut self.addresses),
            doomed: self.doomed,
        }
    }

    /// Takes over what a predecessor has left.
    pub(super) fn inherit(&mut self, cx: &mut Context, estate: Estate) {
        let Estate { children, goals, deletes, deleters, terminators, addresses, doomed, .. } = estate;
        for child in &children {
            cx.index.has_pair(child.status.spi_in, self.id);
            if let Some(job) = child.job() {
                cx.hand_over(job, self.id);
            }
        }
        self.children.reserve_exact(children.len());
        self.children.extend(children);
        self.goals.extend(goals);
        self.deletes.extend(deletes);
        self.deleters.extend(deleters);
        self.terminators.extend(terminators);
        self.addresses.add(addresses);
        self.doomed |= doomed;
        (self.superseded, self.expectant) = (None, false);
    }

    /// Ends every goal with `failure`.
    pub(super) fn abandon_goals(&mut self, cx: &mut Context, failure: &Failure) {
        self.finish_goal(cx, Err(failure.clone()));
        for goal in std::mem::take(&mut self.goals) {
            self.end(cx, goal, Err(failure.clone()));
        }
    }
}

/// However often a responder's peer says something in IKE_AUTH, it gets no more time than so many half-open timeouts:
/// it is not authenticated yet.
const MOST_TIMEOUTS: u32 = 6;

/// The end of an IKE SA.
#[derive(Debug)]
pub(super) struct Closed {
    /// What went wrong, if anything did.
    pub(super) failure: Option<Failure>,
    /// For people.
    pub(super) reason: String,
    /// The answer to the peer's last request, should it ask again.
    pub(super) linger: Option<Linger>,
}

impl Closed {
    pub(super) fn failed(failure: Failure) -> Box<Self> {
        Box::new(Self { reason: failure.sentence.clone(), failure: Some(failure), linger: None })
    }

    pub(super) fn because(reason: &str) -> Box<Self> {
        Box::new(Self { failure: None, reason: reason.to_owned(), linger: None })
    }

    pub(super) fn lingering(mut self: Box<Self>, linger: Option<Linger>) -> Box<Self> {
        self.linger = linger;
        self
    }
}

/// What a state becomes.
pub(super) type Next = Result<State, Box<Closed>>;

/// A datagram for an IKE SA, parsed as far as that goes without keys.
#[derive(Debug)]
pub(super) struct Inbound<'a> {
    pub(super) path: Path,
    pub(super) octets: &'a [u8],
    pub(super) received: Received,
}

impl Inbound<'_> {
    pub(super) fn header(&self) -> &Header {
        &self.received.message.header
    }
}

/// A finished job.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) id: JobId,
    pub(super) leaves: Leaves,
    pub(super) result: JobResult,
}

impl Done {
    /// Undoes it: nobody waits for it.
    pub(super) fn discard(self, cx: &mut Context, owner: IkeSaId) {
        cx.discard(owner, self.leaves, self.result);
    }
}

impl Base {
    pub(super) fn half_open_deadline(&self, cx: &Context) -> Instant {
        let timeout = cx.config.half_open_timeout;
        (self.progress + timeout).min(self.created + timeout * MOST_TIMEOUTS)
    }

    pub(super) fn status(&self, cx: &Context, state: IkeState) -> IkeSaStatus {
        let known = self.role == Role::Initiator || self.established.is_some();
        IkeSaStatus {
            id: self.id,
            connection: known.then(|| cx.connection_name(self.connection)),
            tenant: cx.connection(self.connection).map(|config| config.tenant).unwrap_or_default(),
            initiator: self.role == Role::Initiator,
            state,
            initiator_spi: self.spi_i,
            responder_spi: self.spi_r,
            local: self.local,
            remote: self.remote,
            transport: self.transport,
            local_id: self.local_id.clone(),
            remote_id: self.remote_id.clone(),
            proven: self.proven.clone(),
            authorization: self.authorization.clone(),
            proposal: self.suite.map(|suite| suite.to_string()),
            nat_local: self.nat.local,
            nat_remote: self.nat.remote,
            local_vips: self.addresses.own.clone(),
            remote_vips: self.addresses.of_peer(),
            established: self.established,
            children: self.children.iter().map(|child| child.status.clone()).collect(),
        }
    }
}
