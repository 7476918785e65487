//! The daemon: data plane, IKE engine, admin API and metrics, started in that order and stopped in reverse.
//!
//! Protection comes first: when IKE sends its first octet, every configured policy already blocks clear text.

mod crls;
mod dataplane;
mod ike;
mod jobs;
pub(crate) mod report;
mod sockets;

use std::collections::HashMap;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use portcullis_gateway::dataplane::Dataplane;
use portcullis_ike::engine::{Command, Failure};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

pub use dataplane::detach_open;
pub use ike::{Snapshot, Stopping};

use crate::api::server::{self, Refusal};
use crate::api::types::{Drops, IkeSa, Status, Target};
use crate::config::Config;
use crate::metrics;

/// How long an orderly stop waits for the peers to acknowledge their Deletes.
const GOODBYE: Duration = Duration::from_secs(2);

/// A running daemon, as the admin API and metrics see it.
pub struct Daemon {
    config: Config,
    dataplane: Arc<Dataplane>,
    ike: ike::IkeHandle,
    since: Instant,
}

/// Runs the gateway until SIGTERM or SIGINT.
pub fn run(config: Config) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
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
    let (started, children) = dataplane::start(&config)?;
    let dataplane = Arc::new(started);
    let sockets = sockets::Sockets::open(config.engine.port, config.engine.nat_port, config.gateway.mark)?;
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).context("the system gives no random numbers")?;
    let shell = ike::Shell {
        config: config.engine.clone(),
        rng: Box::new(ChaCha20Rng::from_seed(*seed)),
        sockets,
        installer: dataplane.installer(),
        crls: Arc::new(crls::CrlStore::new(config.gateway.credentials.x509crl.clone())),
        children,
        events: dataplane::watch_events(&dataplane)?,
    };
    let (ike, engine_task) = shell.start();
    let daemon = Arc::new(Daemon { config, dataplane, ike, since: Instant::now() });
    let mut servers = vec![spawn(axum::serve(admin, server::router(Arc::clone(&daemon))))];
    if let Some(listener) = metrics {
        servers.push(spawn(axum::serve(listener, metrics::router(Arc::clone(&daemon)))));
    }
    tracing::info!("portcullis is ready");

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    if tokio::time::timeout(GOODBYE, daemon.command(Command::TerminateAll)).await.is_err() {
        tracing::warn!("some peers did not acknowledge the end of their SAs");
    }
    for server in servers {
        server.abort();
        let _ = server.await;
    }
    // The socket's file goes with the daemon; that it may be gone already is no trouble.
    let _ = std::fs::remove_file(&daemon.config.gateway.admin_socket);
    engine_task.abort();
    let _ = engine_task.await;
    dataplane::stop(daemon)
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
    /// Gives the IKE engine a command and waits until it is done.
    pub async fn command(&self, command: Command) -> Result<Result<(), Failure>, Stopping> {
        self.ike.command(command).await
    }

    /// Whether a connection and child of that name are configured.
    pub fn check_target(&self, target: &Target) -> Result<(), Refusal> {
        let names = |names: Vec<&str>| names.join(", ");
        let Some(connection) = self.config.connection(&target.connection) else {
            let known = self.config.engine.connections.iter().map(|connection| connection.name.as_str());
            return Err(Refusal::UnknownTarget(format!(
                "no connection `{}` is configured (there are: {})",
                target.connection,
                names(known.collect())
            )));
        };
        match &target.child {
            Some(child) if !connection.children.iter().any(|known| known.name == *child) => {
                let known = connection.children.iter().map(|child| child.name.as_str());
                Err(Refusal::UnknownTarget(format!(
                    "connection `{}` has no child `{child}` (it has: {})",
                    target.connection,
                    names(known.collect())
                )))
            }
            _ => Ok(()),
        }
    }

    /// For `portcullis status`.
    pub async fn status(&self) -> Result<Status, Stopping> {
        Ok(report::status(&self.ike.snapshot().await?, &self.dataplane.stats(), self.since))
    }

    /// For `portcullis sas`.
    pub async fn sas(&self) -> Result<Vec<IkeSa>, Stopping> {
        let installer = self.dataplane.installer();
        Ok(report::sas(&self.ike.snapshot().await?, installer.as_ref()))
    }

    /// For `portcullis drops`.
    pub fn drops(&self) -> Drops {
        report::drops(&self.dataplane.stats())
    }

    /// For `/metrics`.
    pub(crate) async fn metrics(&self) -> Result<String, Stopping> {
        let snapshot = self.ike.snapshot().await?;
        let sas = report::sas(&snapshot, self.dataplane.installer().as_ref());
        Ok(metrics::render(&snapshot, &sas, &self.dataplane.stats(), self.since))
    }
}

type Children = HashMap<portcullis_ipsec::PolicyId, (String, String)>;
