//! The shell around the IKE engine: it connects the engine to sockets, clock, jobs, the data plane's events and the admin
//! API, and holds no protocol state of its own.
//!
//! [`front`] is where everything comes to, [`shard`] an engine with its commands, [`desk`] where its jobs are done, [`chronicle`]
//! what becomes of its events. One engine (`gateway.ike_shards = 1`) is in the front's own task; several have a task each
//! ([`spread`]).

mod chronicle;
mod desk;
mod front;
mod shard;
mod spread;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use portcullis_gateway::netlink::addresses::TunAddresses;
use portcullis_ike::config::{EngineConfig, Secret, StartAction};
use portcullis_ike::engine::{Command, Common, Engine, Failure, IkeSaStatus, IkeState, Routes};
use portcullis_ike::pools::PoolConfig;
use portcullis_ike::verdict::Reason;
use portcullis_ipsec::SaInstaller;
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, SeedableRng};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout_at;
use zeroize::Zeroizing;

pub(super) use chronicle::LogLimit;

use super::Children;
use super::crls::CrlStore;
use super::handshake::Histogram;
use super::jobs::threads::JobThreads;
use super::leases::Leases;
use super::sockets::Sockets;
use super::streams::{StreamCounts, StreamSender, Streams};
use super::traffic::Traffic;
use super::verdicts::Entry;
use crate::events::Listeners;
use crate::radius::Radius;
use crate::radius::sessions::{Order, Sessions, Told};
use chronicle::{Chronicle, InnerAddresses};
use desk::{Desk, Finished, Tools};
use front::{Alone, Changes, Outside, Question};
use shard::Shard;
use spread::{Spread, ToRegistry};

/// Verdicts that `portcullis status` shows.
const SHOWN: usize = 32;
/// Requests that wait for the engine's task.
const REQUESTS: usize = 64;

/// Who is asked whether he lives, and his answer.
type Pong = (String, oneshot::Receiver<()>);

/// What the front is asked.
enum Request {
    Command { command: Command, reply: oneshot::Sender<Result<(), Failure>> },
    Reconfigure(Box<Reconfiguration>, oneshot::Sender<()>),
    Ask(Question),
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
        self.ask(|reply| Request::Ask(Question::Snapshot(reply))).await
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
        self.ask(|reply| Request::Ask(Question::Verdicts(peer, reply))).await
    }

    /// Says of every peer that is still there that it is gone.
    pub(super) async fn stop(&self) -> Result<(), Stopping> {
        self.ask(|reply| Request::Ask(Question::Stop(reply))).await
    }

    /// What has not answered after `patience`.
    pub(super) async fn stuck(&self, patience: Duration) -> Vec<String> {
        let deadline = tokio::time::Instant::now() + patience;
        let asked = timeout_at(deadline, self.ask(|reply| Request::Ask(Question::Ping(reply))));
        let Ok(Ok(pongs)) = asked.await else { return vec!["the IKE engine".to_owned()] };
        let mut stuck = Vec::new();
        for (name, pong) in pongs {
            if !matches!(timeout_at(deadline, pong).await, Ok(Ok(()))) {
                stuck.push(name);
            }
        }
        stuck
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
    /// How many engines share the work.
    pub(super) shards: u8,
    /// Their only randomness.
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

/// The tasks of the engine, and what goes with them.
pub(super) struct Started {
    /// Who asks it.
    pub(super) handle: IkeHandle,
    /// Addresses that were given away.
    pub(super) leases: Leases,
    /// They.
    pub(super) tasks: Vec<JoinHandle<()>>,
    /// Who hears of the sessions of AAA servers.
    pub(super) sessions: (mpsc::UnboundedSender<Told>, JoinHandle<()>),
}

impl Shell {
    /// The tasks, and who asks them. They end when every handle is gone.
    pub(super) fn start(mut self) -> anyhow::Result<Started> {
        let (requests, inbox) = mpsc::channel(REQUESTS);
        let (pools, state_dir) = self.pools;
        let leases = Leases::start(pools, &state_dir)?;
        let started = self.config.connections.iter().flat_map(|connection| {
            let started = connection.children.iter().filter(|child| child.start_action == StartAction::Start);
            started.map(|child| (connection.name.clone(), child.name.clone()))
        });
        let started: Vec<_> = started.collect();
        let handle = IkeHandle { requests };
        let (traffic, installer) = (Arc::clone(&self.traffic), Arc::clone(&self.installer));
        let hub = Arc::clone(&self.listeners.hub);
        let sessions = Sessions::start(Arc::clone(&self.radius), traffic, installer, handle.orders(), hub);
        let sockets = Arc::new(self.sockets);
        let parts = Parts {
            tools: Tools {
                installer: Arc::clone(&self.installer),
                crls: self.crls,
                radius: self.radius,
                leases: leases.clone(),
                traffic: Arc::clone(&self.traffic),
                threads: Arc::new(JobThreads::start()?),
                mark: sockets.mark(),
            },
            sockets: Arc::clone(&sockets),
            streams: self.streams.sender(),
            sessions: sessions.0.clone(),
            listeners: self.listeners,
            inner: InnerAddresses::of(self.tun_addresses),
            token_secret: self.token_secret,
        };
        let changes = Changes { events: self.events, paths: self.paths };
        let outside = Outside {
            sockets,
            streams: self.streams,
            installer: self.installer,
            children: self.children,
            traffic: self.traffic,
            leases: leases.clone(),
        };
        let routes = Routes::new(&self.config.connections, self.shards);
        let tasks = if routes.shards() == 1 {
            let (finished, results) = mpsc::unbounded_channel();
            let engine = Engine::new(self.config, self.rng);
            let back = Alone { shard: parts.shard(engine, finished, None), results };
            vec![tokio::spawn(outside.before(back).run(inbox, changes, started))]
        } else {
            let engines = engines(self.config, self.shards, self.rng.as_mut());
            let make = |(number, engine), finished, registry| {
                parts.shard(engine, finished, Some((number, registry)))
            };
            let (back, mut tasks) = Spread::start(routes, engines.into_iter().enumerate(), make);
            tasks.insert(0, tokio::spawn(outside.before(back).run(inbox, changes, started)));
            tasks
        };
        Ok(Started { handle, leases, tasks, sessions })
    }
}

/// Engines that share the work, each with randomness of its own.
fn engines(config: EngineConfig, shards: u8, rng: &mut dyn CryptoRng) -> Vec<Engine> {
    let mut random = || {
        let mut octets = Zeroizing::new([0; 32]);
        rng.fill_bytes(octets.as_mut());
        octets
    };
    let common = Common::new(random(), Instant::now());
    let engine = |shard| {
        let rng = Box::new(ChaCha20Rng::from_seed(*random()));
        Engine::sharded(config.clone(), rng, shard, Some(common.clone()))
    };
    portcullis_ike::engine::Shard::all(shards).map(engine).collect()
}

/// What all engines are given.
struct Parts {
    tools: Tools,
    sockets: Arc<Sockets>,
    streams: StreamSender,
    sessions: mpsc::UnboundedSender<Told>,
    listeners: Listeners,
    inner: InnerAddresses,
    token_secret: Option<Secret>,
}

impl Parts {
    /// An engine in its shell.
    fn shard(
        &self,
        mut engine: Engine,
        finished: mpsc::UnboundedSender<Finished>,
        registry: Option<(usize, mpsc::UnboundedSender<ToRegistry>)>,
    ) -> Shard {
        if let Some(secret) = &self.token_secret {
            engine.keep_tokens(secret.clone());
        }
        let counted = (Arc::clone(&self.tools.traffic), Arc::clone(&self.tools.installer));
        let (sessions, listeners) = (self.sessions.clone(), self.listeners.clone());
        let chronicle = Chronicle::new(counted, sessions, listeners, self.inner.clone());
        let desk = Desk::new(self.tools.clone(), finished, registry);
        Shard::new(engine, chronicle, desk, (Arc::clone(&self.sockets), self.streams.clone()))
    }
}

impl Totals {
    fn add(&mut self, other: Self) {
        self.ike_established += other.ike_established;
        self.child_established += other.child_established;
        self.ike_rekeyed += other.ike_rekeyed;
        self.child_rekeyed += other.child_rekeyed;
        for (what, count) in other.failures {
            *self.failures.entry(what).or_default() += count;
        }
        for (connection, at) in other.last_failures {
            let last = self.last_failures.entry(connection).or_insert(at);
            *last = at.max(*last);
        }
        self.initiated.add(&other.initiated);
        self.answered.add(&other.answered);
        for (label, count) in other.rejected {
            *self.rejected.entry(label).or_default() += count;
        }
    }
}

impl Snapshot {
    /// Adds what another engine has, but for streams and verdicts.
    fn add(&mut self, other: Self) {
        self.ike_sas.extend(other.ike_sas);
        self.half_open += other.half_open;
        self.totals.add(other.totals);
    }

    /// Established IKE SAs.
    pub fn established(&self) -> usize {
        self.ike_sas.iter().filter(|ike| ike.state == IkeState::Established).count()
    }

    /// CHILD SAs.
    pub fn child_sas(&self) -> usize {
        self.ike_sas.iter().map(|ike| ike.children.len()).sum()
    }
}
