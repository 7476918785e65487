//! What listens besides IKE and the admin API, and moves when a reload says so: metrics, and dynamic authorisation of AAA
//! servers.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Daemon;
use crate::config::Config;
use crate::metrics;
use crate::radius::sessions::Told;
use crate::radius::{Radius, dynamic};

/// A task that listens.
type Listening = JoinHandle<()>;

/// Those that there are.
#[derive(Debug, Default)]
pub(super) struct Services {
    pub(super) metrics: Option<Listening>,
    pub(super) dae: Option<Listening>,
}

/// What another configuration moves, with its new sockets already bound.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// `Some(None)`: it ends.
    metrics: Option<Option<TcpListener>>,
    dae: Option<Option<Listening>>,
}

/// To serve metrics.
pub(super) async fn listen_for_scrapes(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot serve metrics at {address} (gateway.metrics)"))
}

/// Answers scrapes.
pub(super) fn answer_scrapes(listener: TcpListener, daemon: &Arc<Daemon>) -> Listening {
    super::spawn(axum::serve(listener, metrics::router(Arc::clone(daemon))))
}

/// Takes dynamic authorisation.
pub(super) async fn take_demands(
    address: SocketAddr,
    radius: &Arc<Radius>,
    sessions: &mpsc::UnboundedSender<Told>,
) -> anyhow::Result<Listening> {
    let task = dynamic::listen(address, Arc::clone(radius), sessions.clone()).await;
    task.with_context(|| format!("cannot take dynamic authorisation at {address} (radius.dae)"))
}

impl Daemon {
    /// Binds what `new` has listen elsewhere than before. Nothing has moved yet.
    pub(super) async fn bind_moved(&self, new: &Config) -> anyhow::Result<Moved> {
        let running = self.config();
        let dae = |config: &Config| Some(config.radius.as_ref()?.dae.as_ref()?.listen);
        let mut moved = Moved::default();
        if running.gateway.metrics != new.gateway.metrics {
            moved.metrics = Some(match new.gateway.metrics {
                Some(address) => Some(listen_for_scrapes(address).await?),
                None => None,
            });
        }
        if dae(&running) != dae(new) {
            moved.dae = Some(match dae(new) {
                Some(address) => Some(take_demands(address, &self.radius, &self.sessions).await?),
                None => None,
            });
        }
        Ok(moved)
    }
}

impl Moved {
    /// Lets go of what was bound.
    pub(super) fn give_up(self) {
        if let Some(Some(task)) = self.dae {
            task.abort();
        }
    }
}

impl Services {
    /// Has what moved listen where it was bound, and nowhere else.
    pub(super) async fn follow(&mut self, moved: Moved, daemon: &Arc<Daemon>) {
        if let Some(listener) = moved.metrics {
            stop(self.metrics.take()).await;
            self.metrics = listener.map(|listener| answer_scrapes(listener, daemon));
        }
        if let Some(dae) = moved.dae {
            stop(self.dae.take()).await;
            self.dae = dae;
        }
    }

    /// Stops all of them.
    pub(super) async fn stop(self) {
        stop(self.metrics).await;
        stop(self.dae).await;
    }
}

async fn stop(listening: Option<Listening>) {
    if let Some(task) = listening {
        task.abort();
        let _ = task.await;
    }
}
