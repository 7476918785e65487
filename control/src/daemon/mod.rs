//! The daemon: data plane, IKE engine, admin API and metrics, started in that order and stopped in reverse.
//!
//! Protection comes first: when IKE sends its first octet, every configured policy already blocks clear text.

mod crls;
mod dataplane;
mod handshake;
mod ike;
mod jobs;
mod leases;
mod liveness;
mod reload;
pub(crate) mod report;
mod secret_file;
mod service;
mod sockets;
mod threads;
mod trace;
mod traffic;
mod verdicts;

use std::collections::HashMap;
use std::future::IntoFuture;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use portcullis_gateway::dataplane::Dataplane;
use portcullis_ike::config::Secret;
use portcullis_ike::engine::{Command, Failure};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

pub use dataplane::detach_open;
pub use handshake::Histogram;
pub use ike::{Snapshot, Stopping};
pub use reload::ReloadError;
pub use traffic::Carried;
pub(crate) use traffic::Traffic;

use reload::InForce;

use crate::api::server::{self, Refusal};
use crate::api::types::{Drops, IkeSa, PolicyStatus, PoolStatus, Status, Target, VerdictReport};
use crate::config::Config;
use crate::events::Listeners;
use crate::events::audit::Audit;
use crate::events::hub::Hub;
use crate::explain::flow::FlowReport;
use crate::metrics::{self, Measured};
use crate::radius::{Radius, dynamic};
use crate::sandbox::Sandbox;

/// How long an orderly stop waits for the peers to acknowledge their Deletes.
const GOODBYE: Duration = Duration::from_secs(2);

/// A running daemon, as the admin API and metrics see it.
pub struct Daemon {
    config: Mutex<Arc<Config>>,
    in_force: tokio::sync::Mutex<InForce>,
    dataplane: Arc<Dataplane>,
    ike: ike::IkeHandle,
    leases: leases::Leases,
    traffic: Arc<traffic::Traffic>,
    traces: Arc<trace::Traces>,
    listeners: Listeners,
    sandbox: Sandbox,
    /// What did not answer when it was last looked.
    stuck: Mutex<Vec<String>>,
    since: Instant,
    started: SystemTime,
}

/// Runs the gateway until SIGTERM or SIGINT. `source` is the file that the configuration came from, and `text` what stood
/// in it; SIGHUP puts in force what stands there then.
pub fn run(config: Config, source: &Path, text: Zeroizing<String>) -> anyhow::Result<()> {
    service::harden().context("cannot keep secrets out of core dumps")?;
    // No thread has been started yet: all of them will be inside.
    let sandbox = Sandbox::enter(&config, source);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(config, source, text, sandbox))
}

async fn serve(
    config: Config,
    source: &Path,
    text: Zeroizing<String>,
    sandbox: Sandbox,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut rotated = signal(SignalKind::user_defined1())?;
    // Before anything is touched: a second daemon by mistake must not disturb the first.
    let admin = server::listen(&config.gateway.admin_socket)?;
    let metrics = match config.gateway.metrics {
        Some(addr) => Some(
            TcpListener::bind(addr)
                .await
                .with_context(|| format!("cannot serve metrics at {addr} (gateway.metrics)"))?,
        ),
        None => None,
    };
    let (started, policies) = dataplane::start(&config)?;
    let in_force = InForce::new(source, text, policies);
    let children = in_force.children(&config);
    let dataplane = Arc::new(started);
    let (port, nat_port) = (config.engine.port, config.engine.nat_port);
    let mut sockets = sockets::Sockets::open(port, nat_port, config.gateway.mark)?;
    sockets::esp::serve(sockets.take_esp(), nat_port, dataplane.esp_inlet())?;
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).context("the system gives no random numbers")?;
    let traffic = Arc::new(traffic::Traffic::default());
    let audit = config.audit.as_ref().map(|audit| {
        let file = audit.file.display();
        Audit::start(audit).with_context(|| format!("cannot write the audit trail to {file} (audit.file)"))
    });
    let audit = audit.transpose()?.map(Arc::new);
    let listeners = Listeners { hub: Arc::new(Hub::default()), audit };
    let radius = config.radius.clone().map(|radius| Arc::new(Radius::new(radius)));
    let shell = ike::Shell {
        radius,
        listeners: listeners.clone(),
        config: config.engine.clone(),
        rng: Box::new(ChaCha20Rng::from_seed(*seed)),
        token_secret: token_secret(&config),
        sockets,
        installer: dataplane.installer(),
        crls: Arc::new(crls::CrlStore::new(
            config.gateway.credentials.x509crl.clone(),
            Arc::clone(&listeners.hub),
        )),
        children,
        events: dataplane::watch_events(&dataplane)?,
        paths: dataplane::watch_paths(&dataplane),
        traffic: Arc::clone(&traffic),
        pools: (config.pools.clone(), config.gateway.state_dir.clone()),
        tun_addresses: dataplane.tun_addresses().context("cannot use the TUN device's addresses")?,
    };
    let ike::Started { handle: ike, leases, task: engine_task, sessions } = shell.start()?;
    let mut sessions_tasks = Vec::new();
    if let Some((told, task)) = sessions {
        sessions_tasks.push(task);
        if let Some(dae) = config.radius.as_ref().and_then(|radius| radius.dae.clone()) {
            let listen = dae.listen;
            let task = dynamic::listen(dae, told)
                .await
                .with_context(|| format!("cannot take dynamic authorisation at {listen} (radius.dae)"))?;
            sessions_tasks.push(task);
        }
    }
    let admin_socket = config.gateway.admin_socket.clone();
    let daemon = Arc::new(Daemon {
        config: Mutex::new(Arc::new(config)),
        in_force: tokio::sync::Mutex::new(in_force),
        traces: Arc::new(trace::Traces::new(Arc::clone(dataplane.trace()))),
        dataplane,
        ike,
        leases,
        traffic,
        listeners,
        sandbox,
        stuck: Mutex::default(),
        since: Instant::now(),
        started: SystemTime::now(),
    });
    let mut servers = vec![spawn(axum::serve(admin, server::router(Arc::clone(&daemon))))];
    if let Some(listener) = metrics {
        servers.push(spawn(axum::serve(listener, metrics::router(Arc::clone(&daemon)))));
    }
    let liveness = tokio::spawn(liveness::watch(Arc::clone(&daemon)));
    tracing::info!("portcullis is ready");
    service::ready();

    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => service::reload(&daemon).await,
            _ = rotated.recv() => daemon.reopen_files(),
        }
    }
    tracing::info!("stopping");
    service::stopping();
    liveness.abort();
    let _ = liveness.await;
    if tokio::time::timeout(GOODBYE, daemon.command(Command::TerminateAll)).await.is_err() {
        tracing::warn!("some peers did not acknowledge the end of their SAs");
    }
    // What they have carried is known while the data plane is there.
    let _ = tokio::time::timeout(GOODBYE, daemon.ike.stop()).await;
    daemon.listeners.hub.close();
    for server in servers {
        server.abort();
        let _ = server.await;
    }
    // The socket's file goes with the daemon; that it may be gone already is no trouble.
    let _ = std::fs::remove_file(&admin_socket);
    engine_task.abort();
    let _ = engine_task.await;
    for task in sessions_tasks {
        task.abort();
        let _ = task.await;
    }
    if let Some(audit) = daemon.listeners.audit.clone() {
        // It may block for a while.
        let _ = tokio::task::spawn_blocking(move || audit.finish()).await;
    }
    dataplane::stop(daemon)
}

/// The secret of quick crash detection, where a connection has it.
fn token_secret(config: &Config) -> Option<Secret> {
    let wanted = config.engine.connections.iter().any(|connection| connection.quick_crash_detection);
    let path = config.gateway.state_dir.join("qcd.secret");
    let found = wanted.then(|| secret_file::load_or_make(&path))?;
    found
        .inspect_err(|error| {
            tracing::warn!(
                path = %path.display(), %error,
                "there is no secret that outlives us (gateway.state_dir): peers get no tokens, and will not notice at once when we are restarted"
            );
        })
        .ok()
}

fn spawn<S>(server: S) -> JoinHandle<()>
where
    S: IntoFuture<Output = std::io::Result<()>>,
    S::IntoFuture: Send + 'static,
{
    let server = server.into_future();
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "an HTTP server ended");
        }
    })
}

impl Daemon {
    /// The configuration in force.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_config(&self, config: Arc<Config>) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Gives the IKE engine a command and waits until it is done.
    pub async fn command(&self, command: Command) -> Result<Result<(), Failure>, Stopping> {
        self.ike.command(command).await
    }

    /// Verdicts about a connection or an address, or all of them; newest first.
    pub async fn verdicts(&self, peer: Option<String>) -> Result<Vec<VerdictReport>, Stopping> {
        Ok(self.ike.verdicts(peer).await?.iter().map(report::verdict).collect())
    }

    /// Whether a connection of that name is configured.
    pub(crate) fn check_connection(&self, name: &str) -> Result<(), Refusal> {
        let config = self.config();
        if config.connection(name).is_some() {
            return Ok(());
        }
        let known = config.engine.connections.iter().map(|connection| connection.name.as_str());
        Err(Refusal::UnknownTarget(format!(
            "no connection `{name}` is configured (there are: {})",
            known.collect::<Vec<_>>().join(", ")
        )))
    }

    /// Whether a connection and child of that name are configured.
    pub fn check_target(&self, target: &Target) -> Result<(), Refusal> {
        self.check_connection(&target.connection)?;
        let config = self.config();
        let Some(connection) = config.connection(&target.connection) else { return Ok(()) };
        match &target.child {
            Some(child) if !connection.children.iter().any(|known| known.name == *child) => {
                let known = connection.children.iter().map(|child| child.name.as_str());
                Err(Refusal::UnknownTarget(format!(
                    "connection `{}` has no child `{child}` (it has: {})",
                    target.connection,
                    known.collect::<Vec<_>>().join(", ")
                )))
            }
            _ => Ok(()),
        }
    }

    /// What did not answer when it was last looked; nothing: all is well. For probes.
    pub(crate) fn stuck(&self) -> Vec<String> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Files that are only ever added to may have been moved away: they are begun anew.
    fn reopen_files(&self) {
        if let Some(audit) = &self.listeners.audit {
            audit.reopen();
        }
    }

    /// Who reads what happens.
    pub(crate) fn events(&self) -> &Arc<Hub> {
        &self.listeners.hub
    }

    /// Who looks at packets.
    pub(crate) fn traces(&self) -> &Arc<trace::Traces> {
        &self.traces
    }

    /// For `portcullis explain flow`.
    pub(crate) fn explain(&self, flow: portcullis_ipsec::Flow) -> FlowReport {
        crate::explain::flow::report(&self.dataplane.walk(&flow), &flow, &self.config())
    }

    /// For `portcullis status`.
    pub async fn status(&self) -> Result<Status, Stopping> {
        let (snapshot, stats) = (self.ike.snapshot().await?, self.dataplane.stats());
        let times = threads::worker_cpu_times(stats.workers.len());
        let workers = report::workers(&self.config().gateway.workers, &stats, &times);
        Ok(report::status(&snapshot, &stats, workers, &self.sandbox, self.since))
    }

    /// For `portcullis sas`.
    pub async fn sas(&self) -> Result<Vec<IkeSa>, Stopping> {
        let installer = self.dataplane.installer();
        Ok(report::sas(&self.ike.snapshot().await?, installer.as_ref()))
    }

    /// For `portcullis pools`.
    pub fn pools(&self) -> Vec<PoolStatus> {
        report::pools(&self.leases.usage(), &self.leases.leases())
    }

    /// Every policy, with what it has done.
    pub fn policies(&self) -> Vec<PolicyStatus> {
        report::policies(&self.dataplane.policies())
    }

    /// For `portcullis drops`.
    pub fn drops(&self) -> Drops {
        report::drops(&self.dataplane.stats())
    }

    /// For `/metrics`.
    pub(crate) async fn measure(&self) -> Result<Measured, Stopping> {
        let (snapshot, installer) = (self.ike.snapshot().await?, self.dataplane.installer());
        let stats = self.dataplane.stats();
        Ok(Measured {
            config: self.config(),
            started: self.started,
            sas: report::sas(&snapshot, installer.as_ref()),
            pools: self.leases.usage(),
            carried: self.traffic.totals(installer.as_ref()),
            policies: self.dataplane.policy_totals(),
            rounds: self.dataplane.heartbeat(),
            cpu: threads::worker_cpu_times(stats.workers.len()),
            audit: self.listeners.audit.clone(),
            event_readers: self.listeners.hub.readers(),
            events_lost: self.listeners.hub.lost(),
            snapshot,
            stats,
        })
    }
}

type Children = HashMap<portcullis_ipsec::PolicyId, (String, String)>;
