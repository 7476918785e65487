//! What a service manager is told (sd_notify(3)), and what keeps the daemon's secrets in its memory. Without a
//! service manager (`NOTIFY_SOCKET` unset) nobody is told.

use std::path::Path;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use sd_notify::NotifyState;

use crate::config::{Config, ConfigError};

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

/// SIGHUP: reads the configuration again and says what a restart would do. This version applies nothing without one.
pub(super) fn check_again(source: &Path, running: &Config) {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    notify(&states);
    let status = match Config::load(source) {
        Ok((config, _)) if config == *running => {
            tracing::info!(file = %source.display(), "the configuration is unchanged");
            "protecting; the configuration is unchanged"
        }
        Ok(_) => {
            tracing::warn!(file = %source.display(), "the configuration has changed and is valid: restart to apply it");
            "protecting; the configuration has changed: restart to apply it"
        }
        Err(error) => {
            if let ConfigError::Invalid { findings, .. } = &error {
                for finding in findings {
                    // Not as it is printed, which shows the line of the file: an event is one line.
                    let (line, column) = (finding.line, finding.column);
                    tracing::error!(file = %source.display(), line, column, key = finding.key, "{}", finding.message);
                }
            }
            tracing::error!(%error, "the configuration cannot be used: a restart would fail");
            "protecting; the configuration on disk cannot be used: a restart would fail"
        }
    };
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told how the daemon is");
    }
}
