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
mod services;
mod sockets;
mod streams;
mod threads;
mod trace;
mod traffic;
mod verdicts;

use std::collections::HashMap;
use std::future::IntoFuture;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use portcullis_gateway::dataplane::Dataplane;
use portcullis_ike::config::Secret;
use portcullis_ike::engine::{Command, Failure};
use portcullis_ipsec::{Flow, TenantId};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

pub use dataplane::detach_open;
pub use handshake::Histogram;
pub use ike::{Snapshot, Stopping};
pub use reload::ReloadError;
pub use streams::StreamCounts;
pub use traffic::Carried;
pub(crate) use traffic::Traffic;

use reload::InForce;

use crate::api::server::{self, Refusal};
use crate::api::types::{Drops, IkeSa, PolicyStatus, PoolStatus, Status, Target, VerdictReport};
use crate::config::{Config, nearest};
use crate::events::Listeners;
use crate::events::audit::Audit;
use crate::events::hub::Hub;
use crate::events::routes::Routes;
use crate::explain::flow::{FlowQuestion, FlowReport};
use crate::hooks::{Hooks, Runner};
use crate::metrics::Measured;
use crate::radius::Radius;
use crate::radius::sessions::Told;
use crate::sandbox::Sandbox;

/// How long an orderly stop waits for the peers to acknowledge their Deletes.
const GOODBYE: Duration = Duration::from_secs(2);

/// How long an orderly stop waits for the hooks that it has caused.
const LAST_HOOKS: Duration = Duration::from_secs(5);

/// A running daemon, as the admin API and metrics see it.
pub struct Daemon {
    config: Mutex<Arc<Config>>,
    in_force: tokio::sync::Mutex<InForce>,
    dataplane: Arc<Dataplane>,
    ike: ike::IkeHandle,
    leases: leases::Leases,
    traffic: Arc<traffic::Traffic>,
    radius: Arc<Radius>,
    sessions: mpsc::UnboundedSender<Told>,
    crls: Arc<crls::CrlStore>,
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
    let hooks = &config.gateway.updown;
    let runner = (!config.hooks.is_empty()).then(|| Runner::start(hooks.at_once));
    let runner = runner.transpose().context("cannot start the process that runs updown hooks")?;
    service::harden().context("cannot keep secrets out of core dumps")?;
    // No thread has been started yet: all of them will be inside.
    let sandbox = Sandbox::enter(&config, source);
    // The front and all others, and a thread for each shard that has a task of its own.
    let threads = usize::from(config.gateway.ike_shards.max(1)) + 1;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(serve(config, source, text, sandbox, runner))
}

async fn serve(
    config: Config,
    source: &Path,
    text: Zeroizing<String>,
    sandbox: Sandbox,
    runner: Option<Runner>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut rotated = signal(SignalKind::user_defined1())?;
    // Before anything is touched: a second daemon by mistake must not disturb the first.
    let admin = server::listen(&config.gateway.admin_socket)?;
    let metrics = match config.gateway.metrics {
        Some(addr) => Some(services::listen_for_scrapes(addr).await?),
        None => None,
    };
    let (started, policies) = dataplane::start(&config)?;
    let mut in_force = InForce::new(source, text, policies);
    let children = in_force.children(&config);
    let dataplane = Arc::new(started);
    let (port, nat_port) = (config.engine.port, config.engine.nat_port);
    let mut sockets = sockets::Sockets::open(port, nat_port, config.gateway.mark)?;
    sockets::esp::serve(sockets.take_esp(), nat_port, dataplane.esp_inlet())?;
    let streams = streams::Streams::new(
        streams::Limits {
            all: config.gateway.tcp.connections,
            of_source: config.engine.block_threshold,
            unused: config.engine.half_open_timeout,
        },
        dataplane.esp_inlet(),
        dataplane.esp_outlet(),
    );
    let streams = streams.context("cannot take ESP for TCP streams")?;
    if let Some(port) = config.gateway.tcp.port {
        streams.listen(port, config.gateway.mark)?;
    }
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).context("the system gives no random numbers")?;
    let traffic = Arc::new(traffic::Traffic::default());
    let audit = config.audit.as_ref().map(|audit| {
        let file = audit.file.display();
        Audit::start(audit).with_context(|| format!("cannot write the audit trail to {file} (audit.file)"))
    });
    let audit = audit.transpose()?.map(Arc::new);
    let hooks = runner.map(|runner| {
        let (configured, gateway) = (config.hooks.clone(), &config.gateway);
        let devices = (gateway.tun.clone(), config.devices.clone());
        Hooks::start(runner, configured, gateway.updown.timeout, devices)
    });
    let hooks = hooks.transpose().context("cannot talk to the process that runs updown hooks")?.map(Arc::new);
    let routes = config.gateway.export_routes.as_ref().map(|export| {
        let what = "cannot export routes (gateway.export_routes)";
        Routes::start(export, dataplane.tun_index()).context(what)
    });
    let routes = routes.transpose()?.map(Arc::new);
    let listeners = Listeners { hub: Arc::new(Hub::default()), audit, hooks, routes };
    let radius = Arc::new(Radius::new(config.radius.clone()));
    let x509crl = config.gateway.credentials.x509crl.clone();
    let crls = Arc::new(crls::CrlStore::new(x509crl, Arc::clone(&listeners.hub)));
    let shell = ike::Shell {
        radius: Arc::clone(&radius),
        listeners: listeners.clone(),
        config: config.engine.clone(),
        shards: config.gateway.ike_shards,
        rng: Box::new(ChaCha20Rng::from_seed(*seed)),
        token_secret: token_secret(&config),
        sockets,
        streams,
        installer: dataplane.installer(),
        crls: Arc::clone(&crls),
        children,
        events: dataplane::watch_events(&dataplane)?,
        paths: dataplane::watch_paths(&dataplane),
        traffic: Arc::clone(&traffic),
        pools: (config.pools.clone(), config.gateway.state_dir.clone()),
        tun_addresses: dataplane.tun_addresses().context("cannot use the TUN device's addresses")?,
    };
    let ike::Started { handle: ike, leases, tasks: engine_tasks, sessions } = shell.start()?;
    let (told, sessions_task) = sessions;
    if let Some(dae) = config.radius.as_ref().and_then(|radius| radius.dae.as_ref()) {
        in_force.services.dae = Some(services::take_demands(dae.listen, &radius, &told).await?);
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
        radius,
        sessions: told,
        crls,
        listeners,
        sandbox,
        stuck: Mutex::default(),
        since: Instant::now(),
        started: SystemTime::now(),
    });
    let admin = spawn(axum::serve(admin, server::router(Arc::clone(&daemon))));
    if let Some(listener) = metrics {
        daemon.in_force.lock().await.services.metrics = Some(services::answer_scrapes(listener, &daemon));
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
    admin.abort();
    let _ = admin.await;
    let services = std::mem::take(&mut daemon.in_force.lock().await.services);
    services.stop().await;
    // The socket's file goes with the daemon; that it may be gone already is no trouble.
    let _ = std::fs::remove_file(&admin_socket);
    for task in engine_tasks {
        task.abort();
        let _ = task.await;
    }
    sessions_task.abort();
    let _ = sessions_task.await;
    if let Some(routes) = daemon.listeners.routes.clone() {
        let _ = tokio::task::spawn_blocking(move || routes.finish(GOODBYE)).await;
    }
    if let Some(hooks) = daemon.listeners.hooks.clone() {
        let _ = tokio::task::spawn_blocking(move || hooks.finish(LAST_HOOKS)).await;
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

/// Names that are listed where one was mistaken; there may be thousands.
const NAMES_LISTED: usize = 8;

fn unknown_connection(config: &Config, name: &str) -> Refusal {
    let known = config.engine.connections.iter().map(|connection| connection.name.as_str()).collect();
    Refusal::UnknownTarget(format!("no connection `{name}` is configured ({})", alternatives(name, known)))
}

/// What may have been meant, or what there is.
fn alternatives(name: &str, mut known: Vec<&str>) -> String {
    if let Some(meant) = nearest(name, &known) {
        return format!("did you mean `{meant}`?");
    }
    let more = match known.len().saturating_sub(NAMES_LISTED) {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    known.truncate(NAMES_LISTED);
    match known.is_empty() {
        true => "there are none".to_owned(),
        false => format!("there are: {}{more}", known.join(", ")),
    }
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
    ///
    /// # Errors
    /// There is neither a verdict about the name nor a connection called so.
    pub async fn verdicts(&self, peer: Option<String>) -> Result<Vec<VerdictReport>, Refusal> {
        let entries = self.ike.verdicts(peer.clone()).await?;
        let nothing_about = peer.filter(|name| entries.is_empty() && name.parse::<IpAddr>().is_err());
        nothing_about.map_or(Ok(()), |name| self.check_connection(&name))?;
        Ok(entries.iter().map(report::verdict).collect())
    }

    /// Whether a connection of that name is configured.
    pub(crate) fn check_connection(&self, name: &str) -> Result<(), Refusal> {
        let config = self.config();
        match config.connection(name) {
            Some(_) => Ok(()),
            None => Err(unknown_connection(&config, name)),
        }
    }

    /// Whether a connection and child of that name are configured.
    pub fn check_target(&self, target: &Target) -> Result<(), Refusal> {
        self.check_connection(&target.connection)?;
        let config = self.config();
        let Some(connection) = config.connection(&target.connection) else { return Ok(()) };
        match &target.child {
            Some(child) if !connection.children.iter().any(|known| known.name == *child) => {
                let known = connection.children.iter().map(|child| child.name.as_str()).collect();
                Err(Refusal::UnknownTarget(format!(
                    "connection `{}` has no child `{child}` ({})",
                    target.connection,
                    alternatives(child, known)
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
    ///
    /// # Errors
    /// There is no such device.
    pub(crate) fn explain(&self, question: &FlowQuestion) -> Result<FlowReport, Refusal> {
        let (config, flow) = (self.config(), Flow::from(question));
        let device = question.interface.as_deref();
        let tenant = device.map_or(Ok(TenantId::default()), |name| {
            let known = config.devices.names().iter().map(String::as_str).collect();
            let unknown = || {
                let there = alternatives(name, known);
                Refusal::UnknownTarget(format!("no connection has `{name}` as its interface ({there})"))
            };
            config.devices.find(name).ok_or_else(unknown)
        })?;
        let walk = self.dataplane.walk(tenant, &flow);
        Ok(crate::explain::flow::report(&walk, &flow, &config, device))
    }

    /// For `portcullis status`.
    pub async fn status(&self) -> Result<Status, Stopping> {
        let (snapshot, stats) = (self.ike.snapshot().await?, self.dataplane.stats());
        let times = threads::worker_cpu_times(stats.workers.len());
        let workers = report::workers(&self.config().gateway.workers, &stats, &times);
        let mut status = report::status(&snapshot, &stats, workers, &self.sandbox, self.since);
        status.down = report::down(&snapshot, &self.config().engine.connections);
        Ok(status)
    }

    /// For `portcullis sas`.
    pub async fn sas(&self) -> Result<Vec<IkeSa>, Stopping> {
        let installer = self.dataplane.installer();
        Ok(report::sas(&self.ike.snapshot().await?, installer.as_ref(), &self.config().devices))
    }

    /// For `portcullis pools`.
    pub fn pools(&self) -> Vec<PoolStatus> {
        report::pools(&self.leases.usage(), &self.leases.leases())
    }

    /// Every policy, with what it has done.
    pub fn policies(&self) -> Vec<PolicyStatus> {
        report::policies(&self.dataplane.policies(), &self.config().devices)
    }

    /// For `portcullis drops`.
    pub fn drops(&self) -> Drops {
        report::drops(&self.dataplane.stats())
    }

    /// For `/metrics`.
    pub(crate) async fn measure(&self) -> Result<Measured, Stopping> {
        let (snapshot, installer) = (self.ike.snapshot().await?, self.dataplane.installer());
        let (config, stats) = (self.config(), self.dataplane.stats());
        Ok(Measured {
            started: self.started,
            sas: report::sas(&snapshot, installer.as_ref(), &config.devices),
            config,
            pools: self.leases.usage(),
            carried: self.traffic.totals(installer.as_ref()),
            policies: self.dataplane.policy_totals(),
            rounds: self.dataplane.heartbeat(),
            cpu: threads::worker_cpu_times(stats.workers.len()),
            audit: self.listeners.audit.clone(),
            hooks: self.listeners.hooks.clone(),
            event_readers: self.listeners.hub.readers(),
            events_lost: self.listeners.hub.lost(),
            snapshot,
            stats,
        })
    }
}

type Children = HashMap<portcullis_ipsec::PolicyId, (String, String)>;
