//! What a service manager is told (sd_notify(3)), and what keeps the daemon's secrets in its memory. Without a
//! service manager (`NOTIFY_SOCKET` unset) nobody is told.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use sd_notify::NotifyState;

use super::Daemon;
use super::reload::ReloadError;
use crate::config::ConfigError;

/// No core dump, and no look into the memory by processes without CAP_SYS_PTRACE: keys are in it.
pub(super) fn harden() -> nix::Result<()> {
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
}

/// The daemon protects and negotiates.
pub(super) fn ready() {
    notify(&[NotifyState::Ready, NotifyState::Status("protecting")]);
}

/// The daemon says goodbye to its peers.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping, NotifyState::Status("taking leave of the peers")]);
}

/// Every thread that matters lives; `again`: for the first time after one did not answer.
pub(super) fn alive(again: bool) {
    match again {
        true => notify(&[NotifyState::Watchdog, NotifyState::Status("protecting")]),
        false => notify(&[NotifyState::Watchdog]),
    }
}

/// These threads do not answer.
pub(super) fn stuck(threads: &str) {
    notify(&[NotifyState::Status(&format!("no answer from {threads}"))]);
}

/// How long the service manager waits for [`alive`] before it ends the daemon; `None`: it does not watch.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// SIGHUP: puts in force what is on disk, if it can be used, and says what became of it.
pub(super) async fn reload(daemon: &Arc<Daemon>) {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    notify(&states);
    let status = match daemon.reload(false).await {
        Ok(done) if done.settings.is_empty() && done.effects.is_empty() => {
            tracing::info!("the configuration is unchanged");
            "protecting; the configuration is unchanged"
        }
        Ok(done) => {
            for setting in &done.settings {
                tracing::info!(%setting, "changed");
            }
            for effect in &done.effects {
                tracing::info!(%effect, "reloaded");
            }
            "protecting; the configuration was reloaded"
        }
        Err(error) => {
            if let ReloadError::Config { error: ConfigError::Invalid { findings, .. }, .. } = &error {
                for finding in findings {
                    // Not as it is printed, which shows the line of the file: an event is one line.
                    let (line, column) = (finding.line, finding.column);
                    tracing::error!(line, column, key = finding.key, "{}", finding.message);
                }
            }
            tracing::error!("{}", error.summary());
            "protecting; the configuration on disk was refused, and the one before is in force"
        }
    };
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told how the daemon is");
    }
}
