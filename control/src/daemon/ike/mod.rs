//! The shell around the IKE engine: one task owns the engine and connects it to sockets, clock, jobs, the data
//! plane's events and the admin API. It holds no protocol state of its own.
//!
//! [`front`] is where everything comes to, [`shard`] an engine with its commands, [`desk`] where its jobs are done, [`chronicle`]
//! what becomes of its events.

mod chronicle;
mod desk;
mod front;
mod shard;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis_gateway::netlink::addresses::TunAddresses;
use portcullis_ike::config::{EngineConfig, Secret, StartAction};
use portcullis_ike::engine::{Command, Engine, Failure, IkeSaStatus, IkeState};
use portcullis_ike::pools::PoolConfig;
use portcullis_ike::verdict::Reason;
use portcullis_ipsec::SaInstaller;
use rand_core::CryptoRng;
use tokio::sync::{mpsc, oneshot, watch};

pub(super) use chronicle::LogLimit;

use super::Children;
use super::crls::CrlStore;
use super::handshake::Histogram;
use super::jobs::threads::JobThreads;
use super::leases::Leases;
use super::sockets::Sockets;
use super::streams::{StreamCounts, Streams};
use super::traffic::Traffic;
use super::verdicts::Entry;
use crate::events::Listeners;
use crate::radius::Radius;
use crate::radius::sessions::{Order, Sessions, Told};
use chronicle::Chronicle;
use desk::{Desk, Tools};
use front::{Changes, Front};
use shard::Shard;

/// Verdicts that `portcullis status` shows.
const SHOWN: usize = 32;
/// Requests that wait for the engine's task.
const REQUESTS: usize = 64;

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
        let leases = Leases::start(pools, &state_dir)?;
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
        let sockets = Arc::new(self.sockets);
        let tools = Tools {
            installer: Arc::clone(&self.installer),
            crls: self.crls,
            radius: self.radius,
            leases: leases.clone(),
            traffic: Arc::clone(&self.traffic),
            threads: Arc::new(JobThreads::start()?),
            mark: sockets.mark(),
        };
        let counted = (Arc::clone(&self.traffic), Arc::clone(&self.installer));
        let chronicle = Chronicle::new(counted, sessions.0.clone(), self.listeners, self.tun_addresses);
        let ways = (Arc::clone(&sockets), self.streams.sender());
        let front = Front {
            shard: Shard::new(engine, chronicle, Desk::new(tools, finished), ways),
            sockets,
            streams: self.streams,
            installer: self.installer,
            children: self.children,
            traffic: self.traffic,
            leases: leases.clone(),
        };
        let changes = Changes { events: self.events, paths: self.paths };
        let task = tokio::spawn(front.run(inbox, results, changes, started));
        Ok(Started { handle, leases, task, sessions })
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
