//! What every IKE SA shares: the configuration, randomness, the queues that lead out of the engine, the jobs that
//! are under way and the commands that wait. An exchange gets it as `cx`, beside its own SA.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use portcullis_ipsec::{PolicyId, Spi, TunnelEndpoints};
use rand_core::CryptoRng;

use super::actions::Loss;
use super::api::*;
use super::connections;
use super::index::{Identities, Index};
use super::own_keys::OwnMap;
use super::reconfigure::Roster;
use super::redirect::Redirect;
use super::resumption::Session;
use super::resumption::tickets::Tickets;
use super::sa::{Base, Estate, Goal};
use super::shard::{Answer, Note, Question, Shard};
use super::state::State;
use crate::auth::eap::{Conversation, Seed, Turn};
use crate::auth::{SignRequest, VerifyRequest};
use crate::config::{ChildConfig, ConnectionConfig, EngineConfig, Secret};
use crate::crypto::{KeMethod, KeSecret, Puzzle};
use crate::pools::{AddressRequest, Attributes, Lease};

pub(super) struct Context {
    /// Connections and children by number; [`Context::live_connections`] says which are in force.
    pub(super) config: Arc<EngineConfig>,
    pub(super) roster: Roster,
    /// Which of several engines this is.
    pub(super) shard: Shard,
    /// Peers of ours that have IKE SAs in others as well.
    pub(super) elsewhere: HashSet<Arc<Identities>>,
    rng: Box<dyn CryptoRng + Send>,
    pub(super) transmit: VecDeque<Datagram>,
    pub(super) events: VecDeque<Event>,
    pub(super) effects: VecDeque<Effect>,
    jobs: VecDeque<(JobId, Job)>,
    awaited: OwnMap<JobId, Awaited>,
    /// Jobs under way for peers that are not authenticated.
    admissions: usize,
    next_job: u64,
    next_sa: u64,
    commands: HashMap<CommandId, Pending>,
    /// Established IKE SAs of each connection.
    established: HashMap<usize, usize>,
    pub(super) index: Index,
    /// Addresses of the outside interfaces that are up; `None` until the shell has said.
    pub(super) outside_addresses: Option<Vec<IpAddr>>,
    /// Inner addresses of ours: of which connection, and how many IKE SAs have them.
    own_addresses: HashMap<IpAddr, (usize, usize)>,
    /// What seals the tickets of our clients.
    pub(super) tickets: Tickets,
    /// What we may resume, by connection.
    pub(super) sessions: HashMap<usize, Box<Session>>,
    /// What our tokens are made of (RFC 6290 §5).
    pub(super) token_secret: Option<Secret>,
}

/// Something that an exchange of one IKE SA means for the rest of the engine; carried out once the SA is back in
/// its place.
#[derive(Debug)]
pub(super) enum Effect {
    /// INITIAL_CONTACT (RFC 7296 §2.4): whatever the peer had before `before` it has no longer.
    InitialContact { kept: IkeSaId, identities: Identities, before: Instant },
    /// The peer of an IKE SA is to be given inner addresses, once those that it had are free.
    AssignAddresses { id: IkeSaId },
    /// A client has resumed an IKE SA that is still here.
    Resumed { old: IkeSaId },
    /// Both ends of an IKE SA have proved who they are.
    Authenticated { id: IkeSaId },
    /// A rekeying has made another IKE SA, in place of `replaced` if that is certain.
    Born { base: Box<Base>, state: Box<State>, replaced: Option<IkeSaId> },
    /// What one IKE SA had is another's now.
    Inherit { from: IkeSaId, heir: IkeSaId, estate: Box<Estate> },
    /// It is not sure that the peer knows of an IKE SA.
    Probe { id: IkeSaId },
    /// A CHILD SA takes packets that are under way for a while, and then goes.
    Retired { owner: IkeSaId, pair: Spi },
    /// An IKE SA is due to be authenticated anew.
    Reauthenticate { old: IkeSaId },
    /// A gateway sends us away from an IKE SA.
    Redirected { old: IkeSaId, redirect: Redirect },
    /// It did so before there was any child: these are still wanted.
    Follow { connection: usize, goals: Vec<Goal>, redirect: Redirect },
    /// An IKE SA has brought up everything that it was to.
    Complete { id: IkeSaId },
    /// A peer has lost an IKE SA with these children: those that are wanted are brought up at once.
    BeginAgain { connection: usize, children: Vec<usize> },
    /// A CHILD SA came up.
    ChildUp { connection: usize, child: usize, remote: IpAddr },
    /// A CHILD SA is gone, or an attempt to bring it up has failed.
    ChildDown { connection: usize, child: usize, refused: bool, loss: Option<Loss> },
}

/// A job under way: whose it is, and what a result that nobody waits for any more leaves to be cleaned up.
#[derive(Debug)]
struct Awaited {
    owner: IkeSaId,
    leaves: Leaves,
    /// It counts among [`Context::admissions`].
    admission: bool,
}

/// What a job leaves behind in the data plane.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Leaves {
    /// The pair of a [`Job::InstallChild`] or [`Job::ActivateChild`].
    pub(super) pair: Option<Spi>,
    /// It may install a policy.
    new_policy: bool,
}

/// A command that waits for several ends.
#[derive(Debug)]
struct Pending {
    left: usize,
    failure: Option<Failure>,
}

impl Context {
    pub(super) fn new(config: EngineConfig, rng: Box<dyn CryptoRng + Send>, shard: Shard) -> Self {
        Self {
            config: Arc::new(config),
            roster: Roster::default(),
            shard,
            elsewhere: HashSet::new(),
            rng,
            transmit: VecDeque::new(),
            events: VecDeque::new(),
            effects: VecDeque::new(),
            jobs: VecDeque::new(),
            awaited: OwnMap::default(),
            admissions: 0,
            next_job: 0,
            next_sa: 0,
            commands: HashMap::new(),
            established: HashMap::new(),
            index: Index::default(),
            outside_addresses: None,
            own_addresses: HashMap::new(),
            tickets: Tickets::default(),
            sessions: HashMap::new(),
            token_secret: None,
        }
    }

    pub(super) fn fresh_id(&mut self) -> IkeSaId {
        self.next_sa += 1;
        self.youngest()
    }

    /// The IKE SA that began last.
    pub(super) fn youngest(&self) -> IkeSaId {
        self.shard.ike(self.next_sa)
    }

    /// An SPI of ours for an IKE SA, in use nowhere. One that has just ended may linger: it differs, as 64 random bits
    /// do.
    pub(super) fn fresh_spi(&mut self) -> [u8; 8] {
        loop {
            let spi = self.shard.sign(self.random());
            if spi != [0; 8] && !self.index.has_spi(&spi) {
                return spi;
            }
        }
    }

    /// Whether an IKE SA is about to be put in its place.
    pub(super) fn is_being_born(&self, id: IkeSaId) -> bool {
        self.effects.iter().any(|effect| matches!(effect, Effect::Born { base, .. } if base.id == id))
    }

    pub(super) fn random<const N: usize>(&mut self) -> [u8; N] {
        let mut octets = [0; N];
        self.rng.fill_bytes(&mut octets);
        octets
    }

    pub(super) fn connection(&self, index: usize) -> Option<&ConnectionConfig> {
        self.config.connections.get(index)
    }

    pub(super) fn child(&self, connection: usize, child: usize) -> Option<&ChildConfig> {
        self.connection(connection)?.children.get(child)
    }

    pub(super) fn connection_name(&self, index: usize) -> String {
        self.connection(index).map(|c| c.name.clone()).unwrap_or_default()
    }

    pub(super) fn child_name(&self, connection: usize, child: usize) -> String {
        self.child(connection, child).map(|c| c.name.clone()).unwrap_or_default()
    }

    /// Whether a connection has an established IKE SA.
    pub(super) fn has_established(&self, connection: usize) -> bool {
        self.established.get(&connection).is_some_and(|count| *count > 0)
    }

    /// Whether one more peer that proves nothing may come in: there are as many as they like to be (RFC 7619 §3.2).
    pub(super) fn has_room_for_unauthenticated(&self) -> bool {
        let open = self.live_connections().filter(|(_, connection)| !connections::wants_proof(connection));
        let there: usize = open.filter_map(|(index, _)| self.established.get(&index)).sum();
        there < self.config.unauthenticated_limit
    }

    pub(super) fn sa_established(&mut self, connection: usize) {
        *self.established.entry(connection).or_default() += 1;
    }

    pub(super) fn sa_gone(&mut self, connection: usize) {
        if let Some(count) = self.established.get_mut(&connection) {
            *count = count.saturating_sub(1);
        }
    }

    fn start(&mut self, owner: IkeSaId, job: Job) -> JobId {
        self.start_leaving(owner, Leaves::default(), job)
    }

    fn start_leaving(&mut self, owner: IkeSaId, leaves: Leaves, job: Job) -> JobId {
        let id = self.give_out(job);
        self.awaited.insert(id, Awaited { owner, leaves, admission: false });
        id
    }

    fn give_out(&mut self, job: Job) -> JobId {
        let id = JobId(self.next_job);
        self.next_job = self.next_job.wrapping_add(1);
        self.jobs.push_back((id, job));
        id
    }

    pub(super) fn source_address(&mut self, owner: IkeSaId, remote: IpAddr) -> JobId {
        self.start(owner, Job::SourceAddress { remote })
    }

    /// Counts a key exchange as one for a peer that is not authenticated.
    pub(super) fn is_admission(&mut self, job: JobId) {
        if let Some(awaited) = self.awaited.get_mut(&job)
            && !std::mem::replace(&mut awaited.admission, true)
        {
            self.admissions += 1;
        }
    }

    /// How many of those are under way, in all shards if the others have as many.
    pub(super) fn admissions(&self) -> usize {
        self.shard.in_all(self.admissions)
    }

    /// Asks the registry, on behalf of an IKE SA or of none.
    pub(super) fn ask(&mut self, owner: Option<IkeSaId>, question: Question) -> JobId {
        let job = Job::Ask(Box::new(question));
        match owner {
            Some(owner) => self.start(owner, job),
            None => self.give_out(job),
        }
    }

    /// Tells the registry, if there is one.
    pub(super) fn tell(&mut self, note: Note) {
        if !self.shard.is_alone() {
            self.give_out(Job::Tell(Box::new(note)));
        }
    }

    /// Our half of a key exchange that we begin.
    pub(super) fn generate_ke(&mut self, owner: IkeSaId, method: KeMethod) -> JobId {
        let seed = self.random();
        self.start(owner, Job::GenerateKe { method, peer_public: None, seed })
    }

    /// Our half of a key exchange that the peer has begun with this public value.
    pub(super) fn answer_ke(&mut self, owner: IkeSaId, method: KeMethod, peer_public: Vec<u8>) -> JobId {
        let seed = self.random();
        self.start(owner, Job::GenerateKe { method, peer_public: Some(peer_public), seed })
    }

    pub(super) fn derive_ke(&mut self, owner: IkeSaId, secret: KeSecret, peer_public: Vec<u8>) -> JobId {
        self.start(owner, Job::DeriveKe { secret, peer_public })
    }

    pub(super) fn solve_puzzle(&mut self, owner: IkeSaId, puzzle: Puzzle, cookie: Vec<u8>) -> JobId {
        let start = u64::from_be_bytes(self.random());
        self.start(owner, Job::SolvePuzzle { puzzle, cookie, start })
    }

    pub(super) fn sign(&mut self, owner: IkeSaId, request: SignRequest) -> JobId {
        self.start(owner, Job::Sign(Box::new(request)))
    }

    pub(super) fn verify_peer(&mut self, owner: IkeSaId, request: VerifyRequest) -> JobId {
        self.start(owner, Job::VerifyPeer(Box::new(request)))
    }

    pub(super) fn turn_eap(
        &mut self,
        owner: IkeSaId,
        conversation: Conversation,
        received: Vec<u8>,
    ) -> JobId {
        let seed = Seed(self.random());
        self.start(owner, Job::EapTurn(Box::new(Turn { conversation, received, seed })))
    }

    pub(super) fn ask_aaa(&mut self, question: AaaQuestion) -> JobId {
        self.start(question.ike, Job::AskAaa(Box::new(question)))
    }

    pub(super) fn allocate_spi(&mut self, owner: IkeSaId) -> JobId {
        self.start(owner, Job::AllocateSpi)
    }

    pub(super) fn install_child(&mut self, owner: IkeSaId, install: ChildInstall) -> JobId {
        let new_policy = install.activation.as_ref().is_some_and(Activation::installs_policy);
        let leaves = Leaves { pair: Some(install.pair), new_policy };
        self.start_leaving(owner, leaves, Job::InstallChild(Box::new(install)))
    }

    pub(super) fn activate_child(&mut self, owner: IkeSaId, pair: Spi, activation: Box<Activation>) -> JobId {
        let leaves = Leaves { pair: Some(pair), new_policy: activation.installs_policy() };
        self.start_leaving(owner, leaves, Job::ActivateChild { pair, activation })
    }

    /// Stops sealing with a CHILD SA; it is removed after a while.
    pub(super) fn retire_child(&mut self, owner: IkeSaId, pair: Spi, policy: Option<PolicyId>) {
        self.stop_sealing(owner, pair, policy);
        self.bury(owner, pair);
    }

    /// Stops sealing with a CHILD SA.
    pub(super) fn stop_sealing(&mut self, owner: IkeSaId, pair: Spi, policy: Option<PolicyId>) {
        self.start(owner, Job::RetireChild { pair, policy });
    }

    /// Removes a CHILD SA that is retired, after a while.
    pub(super) fn bury(&mut self, owner: IkeSaId, pair: Spi) {
        self.effects.push_back(Effect::Retired { owner, pair });
    }

    /// A CHILD SA has gone to another IKE SA, and with it what is being done to it.
    pub(super) fn hand_over(&mut self, job: JobId, heir: IkeSaId) {
        if let Some(awaited) = self.awaited.get_mut(&job) {
            awaited.owner = heir;
        }
    }

    pub(super) fn move_child(&mut self, owner: IkeSaId, pair: Spi, endpoints: TunnelEndpoints) {
        self.start(owner, Job::MoveChild { pair, endpoints });
    }

    pub(super) fn remove_child(&mut self, owner: IkeSaId, pair: Spi, policy: Option<PolicyId>) {
        self.start(owner, Job::RemoveChild { pair, policy });
    }

    pub(super) fn assign_addresses(&mut self, owner: IkeSaId, request: AddressRequest) -> JobId {
        self.start(owner, Job::AssignAddresses(Box::new(request)))
    }

    pub(super) fn release_addresses(&mut self, owner: IkeSaId, leases: Vec<Lease>) {
        self.start(owner, Job::ReleaseAddresses { leases });
    }

    /// One more IKE SA of ours has these inner addresses.
    pub(super) fn acquire_addresses(
        &mut self,
        connection: usize,
        addresses: Vec<IpAddr>,
        attributes: Attributes,
    ) {
        let mut new = Vec::new();
        for addr in addresses {
            let (_, users) = self.own_addresses.entry(addr).or_insert((connection, 0));
            *users += 1;
            if *users == 1 {
                new.push(addr);
            }
        }
        if !new.is_empty() {
            let connection = self.connection_name(connection);
            self.event(Event::AddressesAcquired { connection, addresses: new, attributes });
        }
    }

    /// One IKE SA fewer has them.
    pub(super) fn lose_addresses(&mut self, connection: usize, addresses: Vec<IpAddr>) {
        let mut gone = Vec::new();
        for addr in addresses {
            let Some((_, users)) = self.own_addresses.get_mut(&addr) else { continue };
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.own_addresses.remove(&addr);
                gone.push(addr);
            }
        }
        if !gone.is_empty() {
            let connection = self.connection_name(connection);
            self.event(Event::AddressesLost { connection, addresses: gone });
        }
    }

    /// The inner address that a connection has, of the family of `wanted`; else that one.
    pub(super) fn current_address(&self, connection: usize, wanted: IpAddr) -> IpAddr {
        let mut own = self.own_addresses.iter().filter(|(_, (of, _))| *of == connection);
        let current = own.find(|(addr, _)| addr.is_ipv4() == wanted.is_ipv4());
        current.map_or(wanted, |(addr, _)| *addr)
    }

    pub(super) fn query_counters(&mut self, owner: IkeSaId, pairs: Vec<Spi>) -> JobId {
        self.start(owner, Job::QueryCounters { pairs })
    }

    pub(super) fn poll_job(&mut self) -> Option<(JobId, Job)> {
        self.jobs.pop_front()
    }

    /// The IKE SA that a result is for, and what the job leaves behind; `None` for a job never given out or already
    /// answered.
    pub(super) fn job_done(&mut self, id: JobId) -> Option<(IkeSaId, Leaves)> {
        let awaited = self.awaited.remove(&id)?;
        self.admissions = self.admissions.saturating_sub(usize::from(awaited.admission));
        Some((awaited.owner, awaited.leaves))
    }

    /// Undoes what a job did for an IKE SA or an exchange that is no longer there.
    pub(super) fn discard(&mut self, owner: IkeSaId, leaves: Leaves, result: JobResult) {
        match (result, leaves.pair) {
            (JobResult::AddressesAssigned(assignment), _) => {
                self.release_addresses(owner, assignment.leases);
            }
            (JobResult::Registry(answer), _) => {
                if let Answer::Claimed(claimed) = *answer {
                    self.tell(Note::Gone(claimed.peer));
                }
            }
            (JobResult::SpiAllocated(Ok(spi)), _) => self.remove_child(owner, spi, None),
            // The IKE SA has ended, and with it everything that could share the policy.
            (JobResult::ChildInstalled(Ok(policy)), Some(pair)) => self.remove_child(owner, pair, policy),
            (JobResult::ChildInstalled(Err(_)), Some(pair)) => self.remove_child(owner, pair, None),
            // The pair has gone, or goes, with the CHILD SA; a policy of its own is known only now.
            (JobResult::ChildActivated(Ok(policy)), Some(pair)) if leaves.new_policy => {
                self.retire_child(owner, pair, Some(policy));
            }
            _ => {}
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// Says that a CHILD SA is gone.
    pub(super) fn child_closed(&mut self, connection: usize, child: &str, pair: Spi, reason: &str) {
        self.event(Event::ChildClosed {
            connection: self.connection_name(connection),
            child: child.to_owned(),
            pair,
            reason: reason.to_owned(),
        });
    }

    /// Says that one end sends the other elsewhere.
    pub(super) fn redirected(&mut self, base: &Base, to: IpAddr, by_us: bool) {
        let connection = self.connection_name(base.connection);
        self.event(Event::Redirected { ike: base.id, connection, remote: base.remote, to, by_us });
    }

    /// Registers a command that ends when `ends` goals have ended.
    pub(super) fn begin_command(&mut self, id: CommandId, ends: usize) {
        if ends == 0 {
            self.event(Event::CommandDone { command: id, result: Ok(()) });
        } else {
            self.commands.insert(id, Pending { left: ends, failure: None });
        }
    }

    /// One of a command's goals has ended.
    pub(super) fn end_goal(&mut self, id: CommandId, result: Result<(), Failure>) {
        let Some(pending) = self.commands.get_mut(&id) else { return };
        pending.left = pending.left.saturating_sub(1);
        if let Err(failure) = result {
            pending.failure.get_or_insert(failure);
        }
        if pending.left == 0 {
            let failure = self.commands.remove(&id).and_then(|pending| pending.failure);
            self.event(Event::CommandDone { command: id, result: failure.map_or(Ok(()), Err) });
        }
    }
}

impl Activation {
    fn installs_policy(&self) -> bool {
        matches!(self.policy, PolicyRef::New(_))
    }
}
