//! Whether everything lives that must: the reactor (this is one of its tasks), the tasks of the IKE engine, and every
//! worker. Only then is the service manager told so; when it has not been told for its watchdog's time, it ends the
//! process and starts the next, and until then what is protected stays blocked.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use portcullis_gateway::dataplane::Dataplane;

use super::{Daemon, service};

/// How often to look when no service manager says.
const INTERVAL: Duration = Duration::from_secs(10);
/// Looks within the watchdog's time: one that fails may be made good by the next.
const LOOKS: u32 = 4;

/// Looks until it is aborted.
pub(super) async fn watch(daemon: Arc<Daemon>) {
    let interval = service::watchdog().map_or(INTERVAL, |watchdog| watchdog / LOOKS);
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut was_alive = true;
    loop {
        ticks.tick().await;
        let stuck = stuck(&daemon, interval / 2).await;
        match stuck.is_empty() {
            true => {
                service::alive(!was_alive);
                if !was_alive {
                    tracing::info!("everything answers again");
                }
            }
            false => {
                let names = stuck.join(", ");
                service::stuck(&names);
                // Once, not at every look.
                if was_alive {
                    tracing::error!(stuck = %names, "does not answer");
                }
            }
        }
        was_alive = stuck.is_empty();
        *daemon.stuck.lock().unwrap_or_else(PoisonError::into_inner) = stuck;
    }
}

/// What has not answered after `patience`.
async fn stuck(daemon: &Daemon, patience: Duration) -> Vec<String> {
    let mut stuck = daemon.ike.stuck(patience).await;
    stuck.extend(stuck_workers(&daemon.dataplane, patience).await);
    stuck
}

async fn stuck_workers(dataplane: &Dataplane, patience: Duration) -> Vec<String> {
    /// A worker that was asleep needs a moment to come round.
    const STEP: Duration = Duration::from_millis(2);
    let before = dataplane.heartbeat();
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        let now = dataplane.heartbeat();
        let still = now.iter().zip(&before).enumerate().filter(|(_, (now, before))| now == before);
        let still: Vec<String> = still.map(|(index, _)| format!("worker {index}")).collect();
        if still.is_empty() || tokio::time::Instant::now() >= deadline {
            return still;
        }
        tokio::time::sleep(STEP.min(patience)).await;
    }
}
