//! `portcullis reload`: another configuration for the running daemon, whole or not at all.
//!
//! Everything that can fail comes before anything is changed, but for the policies that are new: they go in first, so that
//! nothing is ever less protected than one of the two configurations says, and are taken out again if one of them does
//! not fit. Then the engine gets its part, which cannot fail ([`Engine::handle_config`]), and last the policies go that
//! are there no longer.
//!
//! [`Engine::handle_config`]: portcullis_ike::engine::Engine::handle_config

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis_ike::engine;
use portcullis_ipsec::{InstallError, Policy, PolicyId, RateLimits, SaInstaller};
use zeroize::Zeroizing;

use super::ike::Stopping;
use super::{Children, Daemon, dataplane};
use crate::api::events::Happened;
use crate::api::types::Reloaded;
use crate::config::{Config, ConfigError, Diagnostic, differences};

/// What was put in force last. Whoever holds it may put something else in force.
pub(super) struct InForce {
    /// The file.
    source: PathBuf,
    /// What stood in it.
    text: Zeroizing<String>,
    /// The configured policies, by name.
    policies: HashMap<String, (PolicyId, Policy)>,
}

impl InForce {
    /// At the start.
    pub(super) fn new(source: &Path, text: Zeroizing<String>, policies: Vec<(PolicyId, Policy)>) -> Self {
        let policies = policies.into_iter().map(|(id, policy)| (policy.name.clone(), (id, policy)));
        Self { source: source.to_owned(), text, policies: policies.collect() }
    }

    /// Which policies are which children's.
    pub(super) fn children(&self, config: &Config) -> Children {
        let policies = config.policies().into_iter();
        policies.filter_map(|(name, policy)| Some((self.policies.get(&policy.name)?.0, name))).collect()
    }
}

/// Why a configuration was not put in force. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It cannot be used.
    #[error("{}", config_error(.error, .hint.as_deref()))]
    Config {
        /// Why.
        error: ConfigError,
        /// What else may be the matter.
        hint: Option<String>,
    },
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

fn config_error(error: &ConfigError, hint: Option<&str>) -> String {
    let findings = match error {
        ConfigError::Invalid { findings, .. } => findings.as_slice(),
        ConfigError::Unreadable { .. } => &[],
    };
    let lines = findings.iter().map(Diagnostic::to_string).chain([format!("nothing was changed: {error}")]);
    let lines = lines.chain(hint.map(str::to_owned));
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether it is about a file that the daemon was not allowed to read.
fn denied(error: &ConfigError) -> bool {
    let denied = std::io::Error::from_raw_os_error(libc::EACCES).to_string();
    match error {
        ConfigError::Unreadable { error, .. } => error.kind() == std::io::ErrorKind::PermissionDenied,
        ConfigError::Invalid { findings, .. } => {
            findings.iter().any(|finding| finding.message.contains(&denied))
        }
    }
}

impl ReloadError {
    /// Without the findings.
    pub(super) fn summary(&self) -> String {
        match self {
            Self::Config { error, hint: None } => format!("nothing was changed: {error}"),
            Self::Config { error, hint: Some(hint) } => format!("nothing was changed: {error}; {hint}"),
            other => other.to_string(),
        }
    }
}

impl Daemon {
    /// Puts what is on disk in force, or, with `dry_run`, only says what that would mean.
    pub async fn reload(&self, dry_run: bool) -> Result<Reloaded, ReloadError> {
        if !dry_run {
            // Also if nothing else comes of it.
            self.reopen_files();
        }
        let result = self.put_in_force(dry_run).await;
        match &result {
            _ if dry_run => {}
            Ok(Reloaded { settings, effects, .. }) => self
                .events()
                .publish(|| Happened::Reloaded { settings: settings.clone(), effects: effects.clone() }),
            Err(error) => self.events().publish(|| Happened::ReloadRefused { reason: error.summary() }),
        }
        result
    }

    async fn put_in_force(&self, dry_run: bool) -> Result<Reloaded, ReloadError> {
        let mut in_force = self.in_force.lock().await;
        let (config, _, text) = Config::load_text(&in_force.source).map_err(|error| {
            let hint = denied(&error).then(|| self.sandbox.hint()).flatten();
            ReloadError::Config { error, hint }
        })?;
        let running = self.config();
        let settings = differences(&in_force.text, &text);
        check_restart(&running, &config, &settings)?;
        let effects = engine::changes(&running.engine.connections, &config.engine.connections);
        let mut report = Reloaded {
            applied: !dry_run,
            settings,
            effects: effects.iter().map(ToString::to_string).collect(),
        };
        report.effects.extend(shunts(&running.shunts, &config.shunts));
        report.effects.extend(rates(&running.rates, &config.rates));
        if report.effects.is_empty() && !report.settings.is_empty() {
            report.effects.push("no connection is affected".to_owned());
        }
        if dry_run {
            return Ok(report);
        }
        let installer = self.dataplane.installer();
        let mut policies: HashMap<String, Policy> =
            config.policies().into_iter().map(|(_, policy)| (policy.name.clone(), policy)).collect();
        let outdated = |(name, (id, policy)): (&String, &(PolicyId, Policy))| {
            (policies.get(name) != Some(policy)).then(|| (name.clone(), *id))
        };
        let outdated: Vec<(String, PolicyId)> = in_force.policies.iter().filter_map(outdated).collect();
        policies.retain(|name, policy| in_force.policies.get(name).map(|(_, known)| known) != Some(&*policy));
        let added = install(installer.as_ref(), policies)?;
        for (name, _) in &outdated {
            in_force.policies.remove(name);
        }
        in_force.policies.extend(added);
        // Tunnels that come up from here on have the new rates as well.
        if let Err(error) = self.dataplane.set_rates(config.rates.clone()) {
            tracing::error!(%error, "rates of tunnels stay as they were");
        }
        self.ike.reconfigure(config.engine.clone(), in_force.children(&config)).await?;
        for (name, policy) in outdated {
            if let Err(error) = installer.remove_policy(policy) {
                tracing::error!(policy = name, %error, "an outdated policy stays in force");
            }
        }
        in_force.text = text;
        self.set_config(Arc::new(config));
        Ok(report)
    }
}

/// What becomes of the policies that need no SA, a line each.
fn shunts(old: &[Policy], new: &[Policy]) -> Vec<String> {
    let find = |policies: &[Policy], name: &str| policies.iter().find(|policy| policy.name == name).cloned();
    let changed = new.iter().filter_map(|policy| match find(old, &policy.name) {
        None => Some(format!("{}: added", policy.name)),
        Some(before) => (before != *policy).then(|| format!("{}: changed", policy.name)),
    });
    let removed = old.iter().filter(|policy| find(new, &policy.name).is_none());
    changed.chain(removed.map(|policy| format!("{}: removed", policy.name))).collect()
}

/// Whose rates are others, a line each. Their SAs stay.
fn rates(old: &BTreeMap<String, RateLimits>, new: &BTreeMap<String, RateLimits>) -> Vec<String> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changed = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    changed.map(|name| format!("{name}: another rate; its SAs stay")).collect()
}

/// Installs all, or none.
fn install(
    installer: &dyn SaInstaller,
    policies: HashMap<String, Policy>,
) -> Result<HashMap<String, (PolicyId, Policy)>, ReloadError> {
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
                return Err(ReloadError::Install { name, error });
            }
        }
    }
    Ok(installed)
}

/// Refuses what is settled when the data plane starts.
fn check_restart(running: &Config, new: &Config, settings: &[String]) -> Result<(), ReloadError> {
    for (section, differs) in [
        ("gateway", running.gateway != new.gateway),
        ("radius", running.radius != new.radius),
        ("pools", running.pools != new.pools),
        ("audit", running.audit != new.audit),
    ] {
        if differs {
            let keys = settings.iter().filter(|line| line.starts_with(section));
            return Err(ReloadError::NeedsRestart(keys.cloned().collect::<Vec<_>>().join("; ")));
        }
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
