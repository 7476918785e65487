//! The shell around the IKE engine: one task owns the engine and connects it to sockets, clock, jobs, the data
//! plane's events and the admin API. It holds no protocol state of its own.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use portcullis_gateway::netlink::addresses::TunAddresses;
use portcullis_ike::config::{EngineConfig, Secret, StartAction};
use portcullis_ike::engine::{
    Command, CommandId, Datagram, DatagramPayload, Engine, Event, Failure, IkeSaStatus, IkeState, Job, JobId,
    JobResult,
};
use portcullis_ike::pools::PoolConfig;
use portcullis_ike::verdict::Reason;
use portcullis_ipsec::{DataplaneEvent, SaInstaller};
use rand_core::CryptoRng;
use tokio::sync::{mpsc, oneshot, watch};

use super::Children;
use super::crls::CrlStore;
use super::handshake::{Handshakes, Histogram};
use super::jobs::threads::JobThreads;
use super::jobs::{self, Place};
use super::leases::Leases;
use super::sockets::Sockets;
use super::streams::{self, StreamCounts, Streams};
use super::traffic::Traffic;
use super::verdicts::{Entry, Verdicts};
use crate::events::{Listeners, sessions};
use crate::radius::Radius;
use crate::radius::sessions::{Order, Sessions, Told};

/// Verdicts that `portcullis status` shows.
const SHOWN: usize = 32;
/// Requests that wait for the engine's task.
const REQUESTS: usize = 64;
/// Datagrams that are taken one after the other.
const AT_ONCE: usize = 32;

/// What the engine's task is asked.
enum Request {
    Command { command: Command, reply: oneshot::Sender<Result<(), Failure>> },
    Snapshot { reply: oneshot::Sender<Snapshot> },
    Reconfigure(Box<Reconfiguration>, oneshot::Sender<()>),
    Ping { reply: oneshot::Sender<()> },
    Stop { reply: oneshot::Sender<()> },
    Verdicts { peer: Option<String>, reply: oneshot::Sender<Vec<Entry>> },
}

/// Another configuration, as far as it concerns the engine and what stands beside it.
pub(super) struct Reconfiguration {
    /// Connections and secrets.
    pub(super) engine: EngineConfig,
    /// Which child each configured policy belongs to.
    pub(super) children: Children,
    /// Pools of addresses; `None`: the same as before.
    pub(super) pools: Option<Vec<PoolConfig>>,
}

/// The engine as seen at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Every IKE SA with its children.
    pub ike_sas: Vec<IkeSaStatus>,
    /// IKE SAs not yet authenticated that we answer for.
    pub half_open: usize,
    /// Newest first.
    pub verdicts: Vec<Entry>,
    /// What happened since start.
    pub totals: Totals,
    /// TCP streams.
    pub streams: StreamCounts,
}

/// Monotonic counts for metrics.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// IKE SAs established.
    pub ike_established: u64,
    /// CHILD SAs installed.
    pub child_established: u64,
    /// IKE SAs replaced by rekeying.
    pub ike_rekeyed: u64,
    /// CHILD SAs replaced by rekeying.
    pub child_rekeyed: u64,
    /// Failed exchanges by connection (empty where unknown) and reason.
    pub failures: HashMap<(String, Reason), u64>,
    /// When an exchange last failed, by connection.
    pub last_failures: HashMap<String, SystemTime>,
    /// How long our own handshakes took.
    pub initiated: Histogram,
    /// How long handshakes of peers took.
    pub answered: Histogram,
    /// Datagrams dropped by label.
    pub rejected: HashMap<&'static str, u64>,
}

/// Asks the engine's task. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct IkeHandle {
    requests: mpsc::Sender<Request>,
}

/// The engine's task has ended: the daemon is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is stopping")]
pub struct Stopping;

impl IkeHandle {
    /// Gives a command and waits until it is done.
    pub(super) async fn command(&self, command: Command) -> Result<Result<(), Failure>, Stopping> {
        self.ask(|reply| Request::Command { command, reply }).await
    }

    /// What there is now.
    pub(super) async fn snapshot(&self) -> Result<Snapshot, Stopping> {
        self.ask(|reply| Request::Snapshot { reply }).await
    }

    /// Gives another configuration.
    pub(super) async fn reconfigure(&self, new: Reconfiguration) -> Result<(), Stopping> {
        self.ask(|reply| Request::Reconfigure(Box::new(new), reply)).await
    }

    /// Gives commands without waiting for them.
    fn orders(&self) -> Order {
        let requests = self.requests.downgrade();
        Box::new(move |command| {
            let Some(requests) = requests.upgrade() else { return };
            tokio::spawn(async move {
                let (reply, _) = oneshot::channel();
                // The daemon may be stopping.
                let _ = requests.send(Request::Command { command, reply }).await;
            });
        })
    }

    /// Verdicts about a connection or an address, or all of them; newest first.
    pub(super) async fn verdicts(&self, peer: Option<String>) -> Result<Vec<Entry>, Stopping> {
        self.ask(|reply| Request::Verdicts { peer, reply }).await
    }

    /// Says of every peer that is still there that it is gone.
    pub(super) async fn stop(&self) -> Result<(), Stopping> {
        self.ask(|reply| Request::Stop { reply }).await
    }

    /// Returns when the engine's task has come to it.
    pub(super) async fn ping(&self) -> Result<(), Stopping> {
        self.ask(|reply| Request::Ping { reply }).await
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Stopping> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| Stopping)?;
        answer.await.map_err(|_| Stopping)
    }
}

/// What the engine's task stands on.
pub(super) struct Shell {
    /// Connections and secrets.
    pub(super) config: EngineConfig,
    /// Its only randomness.
    pub(super) rng: Box<dyn CryptoRng + Send>,
    /// What tokens for peers are made of (RFC 6290).
    pub(super) token_secret: Option<Secret>,
    /// UDP.
    pub(super) sockets: Sockets,
    /// TCP.
    pub(super) streams: Streams,
    /// The data plane.
    pub(super) installer: Arc<dyn SaInstaller>,
    /// CRLs that peers' certificates are looked up in.
    pub(super) crls: Arc<CrlStore>,
    /// Which child each configured policy belongs to, for acquires.
    pub(super) children: Children,
    /// Changes whenever the data plane has events.
    pub(super) events: watch::Receiver<u64>,
    /// Where peers may find us; changes with the host's routes as well.
    pub(super) paths: watch::Receiver<Vec<IpAddr>>,
    /// Traffic by connection.
    pub(super) traffic: Arc<Traffic>,
    /// AAA servers.
    pub(super) radius: Arc<Radius>,
    /// Who is told what happens.
    pub(super) listeners: Listeners,
    /// Pools of addresses and where they are kept.
    pub(super) pools: (Vec<PoolConfig>, PathBuf),
    /// Addresses that peers give us.
    pub(super) tun_addresses: TunAddresses,
}

/// The engine's task, and what goes with it.
pub(super) struct Started {
    /// Who asks it.
    pub(super) handle: IkeHandle,
    /// Addresses that were given away.
    pub(super) leases: Leases,
    /// It.
    pub(super) task: tokio::task::JoinHandle<()>,
    /// Who hears of the sessions of AAA servers.
    pub(super) sessions: (mpsc::UnboundedSender<Told>, tokio::task::JoinHandle<()>),
}

impl Shell {
    /// The task, and who asks it. The task ends when every handle is gone and nothing is left to send.
    pub(super) fn start(self) -> anyhow::Result<Started> {
        let (requests, inbox) = mpsc::channel(REQUESTS);
        let (finished, results) = mpsc::unbounded_channel();
        let (pools, state_dir) = self.pools;
        let leases = Leases::start(pools, &state_dir, finished.clone())?;
        let started = self.config.connections.iter().flat_map(|connection| {
            let started = connection.children.iter().filter(|child| child.start_action == StartAction::Start);
            started.map(|child| (connection.name.clone(), child.name.clone()))
        });
        let started: Vec<_> = started.collect();
        let handle = IkeHandle { requests };
        let mut engine = Engine::new(self.config, self.rng);
        if let Some(secret) = self.token_secret {
            engine.keep_tokens(secret);
        }
        let order = handle.orders();
        let (traffic, installer) = (Arc::clone(&self.traffic), Arc::clone(&self.installer));
        let hub = Arc::clone(&self.listeners.hub);
        let sessions = Sessions::start(Arc::clone(&self.radius), traffic, installer, order, hub);
        let (traffic, installer) = (Arc::clone(&self.traffic), Arc::clone(&self.installer));
        let present = sessions::Sessions::new(traffic, installer, self.listeners.audit.is_some());
        let task = Task {
            radius: self.radius,
            sessions: sessions.0.clone(),
            present,
            listeners: self.listeners,
            engine,
            sockets: self.sockets,
            streams: self.streams,
            installer: self.installer,
            crls: self.crls,
            children: self.children,
            traffic: self.traffic,
            handshakes: Handshakes::default(),
            leases: leases.clone(),
            threads: JobThreads::start()?,
            tun_addresses: self.tun_addresses,
            finished,
            waiting: HashMap::new(),
            next_command: 0,
            verdicts: Verdicts::default(),
            totals: Totals::default(),
            log_limit: LogLimit::default(),
        };
        let task = tokio::spawn(task.run(inbox, results, (self.events, self.paths), started));
        Ok(Started { handle, leases, task, sessions })
    }
}

struct Task {
    engine: Engine,
    sockets: Sockets,
    streams: Streams,
    installer: Arc<dyn SaInstaller>,
    crls: Arc<CrlStore>,
    children: Children,
    traffic: Arc<Traffic>,
    radius: Arc<Radius>,
    sessions: mpsc::UnboundedSender<Told>,
    present: sessions::Sessions,
    listeners: Listeners,
    handshakes: Handshakes,
    leases: Leases,
    threads: JobThreads,
    tun_addresses: TunAddresses,
    finished: mpsc::UnboundedSender<(JobId, JobResult)>,
    waiting: HashMap<CommandId, oneshot::Sender<Result<(), Failure>>>,
    next_command: u64,
    verdicts: Verdicts,
    totals: Totals,
    log_limit: LogLimit,
}

/// Anybody can make exchanges fail; the log takes a few of them a second.
#[derive(Debug, Default)]
pub(super) struct LogLimit {
    second: Option<Instant>,
    logged: u32,
    suppressed: u64,
}

impl LogLimit {
    const PER_SECOND: u32 = 10;

    /// Whether to log now, and how many were not logged since the last that was.
    pub(super) fn pass(&mut self, now: Instant) -> Option<u64> {
        let same = self.second.is_some_and(|second| now.duration_since(second) < Duration::from_secs(1));
        if !same {
            (self.second, self.logged) = (Some(now), 0);
        }
        if self.logged >= Self::PER_SECOND {
            self.suppressed += 1;
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

impl Task {
    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut results: mpsc::UnboundedReceiver<(JobId, JobResult)>,
        (mut events, mut paths): (watch::Receiver<u64>, watch::Receiver<Vec<IpAddr>>),
        started: Vec<(String, String)>,
    ) {
        let mut buffer = Vec::new();
        self.paths_changed(&mut paths);
        for (connection, child) in started {
            self.command(Command::Initiate { connection, child: Some(child) }, None);
        }
        loop {
            self.drain();
            // What has been computed goes on before anything new begins.
            while let Ok((id, result)) = results.try_recv() {
                self.engine.handle_job(Instant::now(), id, result);
                self.drain();
            }
            let timeout = self.engine.poll_timeout();
            tokio::select! {
                datagram = self.sockets.receive(&mut buffer) => {
                    self.received(datagram);
                    self.receive_more(&mut buffer);
                }
                told = self.streams.next() => self.streamed(told),
                Some((id, result)) = results.recv() => self.engine.handle_job(Instant::now(), id, result),
                request = requests.recv() => match request {
                    Some(request) => self.request(request),
                    None => break,
                },
                Ok(()) = events.changed() => self.dataplane_events(),
                Ok(()) = paths.changed() => self.paths_changed(&mut paths),
                () = sleep_until(timeout) => self.engine.handle_timeout(Instant::now()),
            }
        }
    }

    /// Some of what else has come, without asking what else there is to do.
    fn receive_more(&mut self, buffer: &mut Vec<u8>) {
        for _ in 0..AT_ONCE {
            self.drain();
            match self.sockets.receive_now(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                datagram => self.received(datagram),
            }
        }
    }

    fn received(&mut self, datagram: std::io::Result<Option<Datagram>>) {
        match datagram {
            Ok(Some(datagram)) => {
                self.observe(&datagram);
                self.engine.handle_datagram(Instant::now(), datagram);
            }
            Ok(None) => *self.totals.rejected.entry("not_ike").or_default() += 1,
            Err(error) => tracing::warn!(%error, "receiving IKE failed"),
        }
    }

    fn streamed(&mut self, told: streams::Told) {
        match told {
            streams::Told::Message(message) => self.received(Ok(Some(message))),
            streams::Told::Ended(local, remote) => {
                self.engine.handle_stream_closed(Instant::now(), local, remote);
            }
            streams::Told::Sweep => {
                let engine = &self.engine;
                self.streams.sweep(Instant::now(), |local, remote| engine.stream_use(local, remote));
            }
        }
    }

    fn observe(&mut self, datagram: &Datagram) {
        if let DatagramPayload::Ike(message) | DatagramPayload::Stream(message) = &datagram.payload {
            self.handshakes.saw(Instant::now(), message);
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Command { command, reply } => self.command(command, Some(reply)),
            // Whoever asked may have gone.
            Request::Ping { reply } => drop(reply.send(())),
            Request::Stop { reply } => {
                self.present.stop(&|happening| self.listeners.hear(happening));
                // Whoever asked may have gone.
                let _ = reply.send(());
            }
            Request::Reconfigure(new, reply) => {
                self.children = new.children;
                // What the engine has asked for is answered from the pools before, what it asks for next from the new ones.
                self.drain();
                if let Some(pools) = new.pools {
                    self.leases.reconfigure(pools);
                }
                self.engine.handle_config(Instant::now(), new.engine);
                // Whoever asked may have gone.
                let _ = reply.send(());
            }
            Request::Verdicts { peer, reply } => {
                let found = match peer {
                    Some(peer) => self.verdicts.about(&peer),
                    None => self.verdicts.iter().cloned().collect(),
                };
                drop(reply.send(found));
            }
            Request::Snapshot { reply } => {
                let snapshot = Snapshot {
                    ike_sas: self.engine.status(),
                    half_open: self.engine.half_open(),
                    verdicts: self.verdicts.iter().take(SHOWN).cloned().collect(),
                    totals: self.totals.clone(),
                    streams: self.streams.counts(),
                };
                // Whoever asked may have gone.
                let _ = reply.send(snapshot);
            }
        }
    }

    fn command(&mut self, command: Command, reply: Option<oneshot::Sender<Result<(), Failure>>>) {
        let id = CommandId(self.next_command);
        self.next_command += 1;
        if let Some(reply) = reply {
            self.waiting.insert(id, reply);
        }
        self.engine.handle_command(Instant::now(), id, command);
    }

    fn paths_changed(&mut self, paths: &mut watch::Receiver<Vec<IpAddr>>) {
        let addresses = paths.borrow_and_update().clone();
        self.command(Command::PathsChanged { addresses }, None);
    }

    fn dataplane_events(&mut self) {
        for event in self.installer.take_events() {
            match event {
                DataplaneEvent::Acquire { policy, flow } => match self.children.get(&policy).cloned() {
                    Some((connection, child)) => {
                        tracing::info!(%connection, %child, %flow, "traffic asks for an SA");
                        self.command(Command::Acquire { connection, child, flow }, None);
                    }
                    None => tracing::debug!(?policy, %flow, "traffic without an SA, of no configured child"),
                },
                DataplaneEvent::FirstPacket { pair } => self.command(Command::FirstPacket { pair }, None),
                DataplaneEvent::WorkerAsks { pair, worker } => {
                    tracing::debug!(spi_in = %pair, worker, "a worker asks for an SA of its own");
                    self.command(Command::WorkerAsks { pair, worker }, None);
                }
                DataplaneEvent::SoftLimit { pair } => {
                    let connection = self.traffic.connection_of(pair);
                    tracing::info!(%connection, spi_in = %pair, "the SA has carried what it should, and is rekeyed");
                    self.command(Command::SoftLimit { pair }, None);
                }
                DataplaneEvent::HardLimit { pair } => {
                    let connection = self.traffic.connection_of(pair);
                    tracing::warn!(%connection, spi_in = %pair, "the SA has carried all that it may, and ends");
                    self.command(Command::HardLimit { pair }, None);
                }
                DataplaneEvent::UnknownSpi { spi, seen } => {
                    self.command(Command::UnknownSpi { spi, seen }, None);
                }
                DataplaneEvent::PeerMoved { pair, seen } => {
                    let connection = self.traffic.connection_of(pair);
                    tracing::info!(%connection, spi_in = %pair, address = %seen.remote, "authenticated ESP comes from another address");
                    self.command(Command::PeerMoved { pair, seen }, None);
                }
            }
        }
    }

    /// Takes everything that the engine has to say.
    fn drain(&mut self) {
        loop {
            while let Some(datagram) = self.engine.poll_transmit() {
                self.observe(&datagram);
                let between = (datagram.local, datagram.remote);
                if let DatagramPayload::Stream(message) = datagram.payload {
                    if !self.streams.send(between, message) {
                        self.engine.handle_stream_closed(Instant::now(), between.0, between.1);
                    }
                } else if let Err(error) = self.sockets.send(&datagram) {
                    tracing::warn!(local = %datagram.local, remote = %datagram.remote, %error, "sending IKE failed");
                }
            }
            while let Some(event) = self.engine.poll_event() {
                self.event(event);
            }
            let Some((id, job)) = self.engine.poll_job() else { break };
            self.job(id, job);
        }
    }

    /// Does a job, or has it done.
    fn job(&mut self, id: JobId, job: Job) {
        let Some(job) = self.leases.submit(id, job) else { return };
        let finished = self.finished.clone();
        let job = match job {
            Job::AskAaa(question) => {
                let radius = Arc::clone(&self.radius);
                tokio::spawn(async move {
                    let answer = radius.authenticate(*question).await;
                    // The task may have ended.
                    let _ = finished.send((id, JobResult::AaaAnswered(Box::new(answer))));
                });
                return;
            }
            Job::OpenStream { local, remote } => {
                let opened = self.streams.dialer(self.sockets.mark()).open(local, remote);
                tokio::spawn(async move {
                    // The task may have ended.
                    let _ = finished.send((id, JobResult::StreamOpened(opened.await)));
                });
                return;
            }
            job => job,
        };
        if let Job::RemoveChild { pair, .. } = &job {
            self.traffic.closing(*pair, self.installer.as_ref());
        }
        let (mark, place) = (self.sockets.mark(), jobs::place(&job));
        if place == Place::Here {
            let result = jobs::perform(job, &self.installer, mark, &self.crls);
            return self.engine.handle_job(Instant::now(), id, result);
        }
        let (installer, crls) = (Arc::clone(&self.installer), Arc::clone(&self.crls));
        let work = move || {
            // The task may have ended.
            let _ = finished.send((id, jobs::perform(job, &installer, mark, &crls)));
        };
        match place {
            Place::Threads => self.threads.give(work),
            Place::Blocking | Place::Here => _ = tokio::task::spawn_blocking(work),
        }
    }

    fn tell(&self, told: Told) {
        // The sessions' task may have ended.
        let _ = self.sessions.send(told);
    }

    fn event(&mut self, event: Event) {
        if let Event::ChildEstablished { connection, child, .. }
        | Event::ChildRekeyed { connection, child, .. } = &event
        {
            self.traffic.opened(child.spi_in, connection);
        }
        self.present.hear(&event, &|happening| self.listeners.hear(happening));
        match event {
            Event::CommandDone { command, result } => {
                if let Some(reply) = self.waiting.remove(&command) {
                    let _ = reply.send(result);
                }
            }
            Event::IkeEstablished { ike } => {
                self.totals.ike_established += 1;
                if let Some(took) = self.handshakes.established(Instant::now(), ike.initiator_spi) {
                    let histogram =
                        if ike.initiator { &mut self.totals.initiated } else { &mut self.totals.answered };
                    histogram.observe(took);
                }
                // No AAA server knows the others.
                if ike.authorization.accounted {
                    self.tell(Told::Began(Box::new(ike.clone())));
                }
                let connection = ike.connection.unwrap_or_default();
                let remote_id = ike.remote_id.map(|id| id.to_string()).unwrap_or_default();
                let proposal = ike.proposal.unwrap_or_default();
                let hex = |spi: &[u8]| data_encoding::HEXLOWER.encode(spi);
                tracing::info!(
                    %connection, ike = ike.id.0, spi_i = %hex(&ike.initiator_spi), spi_r = %hex(&ike.responder_spi),
                    remote = %ike.remote, %remote_id, %proposal, "IKE SA established"
                );
            }
            Event::ChildEstablished { ike, connection, child } => {
                self.tell(Told::Child { ike, pair: child.spi_in });
                self.totals.child_established += 1;
                tracing::info!(
                    %connection, child = %child.name, spi_in = %child.spi_in, spi_out = %child.spi_out,
                    proposal = %child.proposal, local_ts = ?child.local_ts, remote_ts = ?child.remote_ts,
                    "CHILD SA established"
                );
            }
            Event::ChildRekeyed { ike, connection, child, replaced } => {
                self.tell(Told::Child { ike, pair: child.spi_in });
                self.totals.child_rekeyed += 1;
                tracing::info!(
                    %connection, child = %child.name, spi_in = %child.spi_in, spi_out = %child.spi_out, %replaced,
                    "CHILD SA rekeyed"
                );
            }
            Event::IkeRekeyed { ike, replaced } => {
                self.totals.ike_rekeyed += 1;
                self.tell(Told::Rekeyed { ike: ike.id, replaced });
                let connection = ike.connection.unwrap_or_default();
                tracing::info!(%connection, ike = ike.id.0, replaced = replaced.0, "IKE SA rekeyed");
            }
            Event::ChildClosed { connection, child, pair, reason } => {
                tracing::info!(%connection, %child, spi_in = %pair, %reason, "CHILD SA closed");
            }
            Event::IkeClosed { ike, connection, reason } => {
                self.tell(Told::Ended(ike));
                tracing::info!(%connection, ike = ike.0, %reason, "IKE SA closed");
            }
            Event::IkeMoved { ike, connection, from, to } => {
                tracing::info!(
                    %connection, ike = ike.0, local = %to.0, remote = %to.1, from_local = %from.0, from_remote = %from.1,
                    "IKE SA moved"
                );
            }
            Event::AddressesAssigned { ike, connection, identity, addresses } => {
                tracing::info!(%connection, ike = ike.0, %identity, ?addresses, "the peer has inner addresses");
            }
            Event::AddressesReleased { ike, connection, addresses } => {
                tracing::info!(%connection, ike = ike.0, ?addresses, "the peer's inner addresses are free");
            }
            Event::AddressesAcquired { connection, addresses, attributes } => {
                tracing::info!(%connection, ?addresses, ?attributes, "the peer gives us inner addresses");
                for addr in addresses {
                    if let Err(error) = self.tun_addresses.add(addr) {
                        tracing::error!(%connection, %addr, %error, "the host cannot use its inner address");
                    }
                }
            }
            Event::AddressesLost { connection, addresses } => {
                tracing::info!(%connection, ?addresses, "our inner addresses are gone");
                for addr in addresses {
                    if let Err(error) = self.tun_addresses.remove(addr) {
                        tracing::error!(%connection, %addr, %error, "an inner address stays on the host");
                    }
                }
            }
            Event::Failed(failure) => {
                let connection = failure.connection.clone().unwrap_or_default();
                if let Some(unlogged) = self.log_limit.pass(Instant::now()) {
                    let (remote, reason) = (failure.peer, failure.reason);
                    tracing::warn!(%connection, ?remote, %reason, kind = %reason.kind(), unlogged, "{}", failure.in_one_line());
                }
                let at = SystemTime::now();
                self.totals.last_failures.insert(connection.clone(), at);
                *self.totals.failures.entry((connection, failure.reason)).or_default() += 1;
                self.verdicts.push(failure, Instant::now(), at);
            }
            Event::Redirected { ike, connection, remote, to, by_us } => {
                tracing::info!(%connection, ike = ike.0, %remote, %to, by_us, "redirected to another gateway");
            }
            Event::Rejected { remote, label, detail } => {
                *self.totals.rejected.entry(label).or_default() += 1;
                tracing::debug!(%remote, label, "{detail}");
            }
        }
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

impl Snapshot {
    /// Established IKE SAs.
    pub fn established(&self) -> usize {
        self.ike_sas.iter().filter(|ike| ike.state == IkeState::Established).count()
    }

    /// CHILD SAs.
    pub fn child_sas(&self) -> usize {
        self.ike_sas.iter().map(|ike| ike.children.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_failures_is_logged_a_few_times_a_second_and_counted() {
        let (mut limit, now) = (LogLimit::default(), Instant::now());
        let passed = (0..1000).filter(|_| limit.pass(now).is_some()).count();
        assert_eq!(passed, LogLimit::PER_SECOND as usize);
        assert_eq!(limit.pass(now + Duration::from_secs(1)), Some(990));
        assert_eq!(limit.pass(now + Duration::from_secs(1)), Some(0));
    }
}
