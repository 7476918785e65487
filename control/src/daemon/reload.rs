//! `portcullis reload`: another configuration for the running daemon, whole or not at all.
//!
//! Everything that can fail comes before anything is changed, but for the policies that are new: they go in first, so that
//! nothing is ever less protected than one of the two configurations says, and are taken out again if one of them does
//! not fit. Then the engine gets its part, which cannot fail ([`Engine::handle_config`]), and last the policies go that
//! are there no longer.
//!
//! [`Engine::handle_config`]: portcullis_ike::engine::Engine::handle_config

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis_ike::engine;
use portcullis_ipsec::{InstallError, Policy, PolicyId, SaInstaller};
use zeroize::Zeroizing;

use super::ike::Stopping;
use super::{Children, Daemon, dataplane};
use crate::api::types::Reloaded;
use crate::config::{Config, ConfigError, Diagnostic, differences};

/// A child, by its connection's name and its own.
type Name = (String, String);

/// What was put in force last. Whoever holds it may put something else in force.
pub(super) struct InForce {
    /// The file.
    source: PathBuf,
    /// What stood in it.
    text: Zeroizing<String>,
    /// The configured policies, by child.
    policies: HashMap<Name, (PolicyId, Policy)>,
}

impl InForce {
    /// At the start: `children` says which policy is which child's.
    pub(super) fn new(source: &Path, text: Zeroizing<String>, config: &Config, children: &Children) -> Self {
        let ids: HashMap<&Name, PolicyId> = children.iter().map(|(id, name)| (name, *id)).collect();
        let policies = config.policies().into_iter().filter_map(|(name, policy)| {
            let id = *ids.get(&name)?;
            Some((name, (id, policy)))
        });
        Self { source: source.to_owned(), text, policies: policies.collect() }
    }
}

/// Why a configuration was not put in force. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It cannot be used.
    #[error("{}", config_error(.0))]
    Config(#[from] ConfigError),
    /// It changes what only a restart can.
    #[error("nothing was changed: only a restart can apply {0}")]
    NeedsRestart(String),
    /// The data plane has no room for a policy, or does not take it.
    #[error("nothing was changed: the policy of {name} cannot be installed: {error}")]
    Install {
        /// The child, as `connection/child`.
        name: String,
        /// Why.
        error: InstallError,
    },
    /// The daemon is stopping.
    #[error(transparent)]
    Stopping(#[from] Stopping),
}

fn config_error(error: &ConfigError) -> String {
    let findings = match error {
        ConfigError::Invalid { findings, .. } => findings.as_slice(),
        ConfigError::Unreadable { .. } => &[],
    };
    let lines = findings.iter().map(Diagnostic::to_string).chain([format!("nothing was changed: {error}")]);
    lines.collect::<Vec<_>>().join("\n")
}

impl ReloadError {
    /// Without the findings.
    pub(super) fn summary(&self) -> String {
        match self {
            Self::Config(error) => format!("nothing was changed: {error}"),
            other => other.to_string(),
        }
    }
}

impl Daemon {
    /// Puts what is on disk in force, or, with `dry_run`, only says what that would mean.
    pub async fn reload(&self, dry_run: bool) -> Result<Reloaded, ReloadError> {
        let mut in_force = self.in_force.lock().await;
        let (config, _, text) = Config::load_text(&in_force.source)?;
        let running = self.config();
        let settings = differences(&in_force.text, &text);
        check_restart(&running, &config, &settings)?;
        let effects = engine::changes(&running.engine.connections, &config.engine.connections);
        let mut report = Reloaded {
            applied: !dry_run,
            settings,
            effects: effects.iter().map(ToString::to_string).collect(),
        };
        if report.effects.is_empty() && !report.settings.is_empty() {
            report.effects.push("no connection is affected".to_owned());
        }
        if dry_run {
            return Ok(report);
        }
        let installer = self.dataplane.installer();
        let mut policies: HashMap<Name, Policy> = config.policies().into_iter().collect();
        let outdated = |(name, (id, policy)): (&Name, &(PolicyId, Policy))| {
            (policies.get(name) != Some(policy)).then(|| (name.clone(), *id))
        };
        let outdated: Vec<(Name, PolicyId)> = in_force.policies.iter().filter_map(outdated).collect();
        policies.retain(|name, policy| in_force.policies.get(name).map(|(_, known)| known) != Some(&*policy));
        let added = install(installer.as_ref(), policies)?;
        for (name, _) in &outdated {
            in_force.policies.remove(name);
        }
        in_force.policies.extend(added);
        let children = in_force.policies.iter().map(|(name, (id, _))| (*id, name.clone())).collect();
        self.ike.reconfigure(config.engine.clone(), children).await?;
        for ((connection, child), policy) in outdated {
            if let Err(error) = installer.remove_policy(policy) {
                tracing::error!(%connection, %child, %error, "an outdated policy stays in force");
            }
        }
        in_force.text = text;
        self.set_config(Arc::new(config));
        Ok(report)
    }
}

/// Installs all, or none.
fn install(
    installer: &dyn SaInstaller,
    policies: HashMap<Name, Policy>,
) -> Result<HashMap<Name, (PolicyId, Policy)>, ReloadError> {
    let mut installed = HashMap::new();
    for (name, policy) in policies {
        match installer.install_policy(policy.clone()) {
            Ok(id) => _ = installed.insert(name, (id, policy)),
            Err(error) => {
                for (id, _) in installed.into_values() {
                    if let Err(error) = installer.remove_policy(id) {
                        tracing::error!(%error, "a policy of a refused configuration stays in force");
                    }
                }
                return Err(ReloadError::Install { name: format!("{}/{}", name.0, name.1), error });
            }
        }
    }
    Ok(installed)
}

/// Refuses what is settled when the data plane starts.
fn check_restart(running: &Config, new: &Config, settings: &[String]) -> Result<(), ReloadError> {
    if running.gateway != new.gateway {
        let keys = settings.iter().filter(|line| line.starts_with("gateway"));
        return Err(ReloadError::NeedsRestart(keys.cloned().collect::<Vec<_>>().join("; ")));
    }
    let (before, after) = (dataplane::tunnel_addresses(running), dataplane::tunnel_addresses(new));
    if before != after {
        let list = |addresses: Vec<std::net::IpAddr>| match addresses.as_slice() {
            [] => "all of the outside interfaces".to_owned(),
            some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        return Err(ReloadError::NeedsRestart(format!(
            "other addresses that ESP comes to, which follow from `local_addrs` of all connections: {} → {}",
            list(before),
            list(after)
        )));
    }
    Ok(())
}
