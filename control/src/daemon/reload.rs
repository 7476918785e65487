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

use super::ike::Reconfiguration;
use super::ike::Stopping;
use super::services::Services;
use super::{Children, Daemon, dataplane};
use crate::api::events::Happened;
use crate::api::types::Reloaded;
use crate::config::{Config, ConfigError, Diagnostic, GatewayConfig, differences};
use crate::hooks::HookConfigs;

/// What was put in force last. Whoever holds it may put something else in force.
pub(super) struct InForce {
    /// The file.
    source: PathBuf,
    /// What stood in it.
    text: Zeroizing<String>,
    /// The configured policies, by name.
    policies: HashMap<String, (PolicyId, Policy)>,
    /// What listens where it says.
    pub(super) services: Services,
}

impl InForce {
    /// At the start.
    pub(super) fn new(source: &Path, text: Zeroizing<String>, policies: Vec<(PolicyId, Policy)>) -> Self {
        let policies = policies.into_iter().map(|(id, policy)| (policy.name.clone(), (id, policy)));
        let services = Services::default();
        Self { source: source.to_owned(), text, policies: policies.collect(), services }
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
    /// What it has listen cannot.
    #[error("nothing was changed: {0:#}")]
    Listen(anyhow::Error),
    /// Its pools would be forgotten by a restart.
    #[error("nothing was changed: leases cannot be kept in {} (gateway.state_dir): {error}", .directory.display())]
    Leases {
        /// Where.
        directory: PathBuf,
        /// Why.
        error: std::io::Error,
    },
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
    pub async fn reload(self: &Arc<Self>, dry_run: bool) -> Result<Reloaded, ReloadError> {
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

    async fn put_in_force(self: &Arc<Self>, dry_run: bool) -> Result<Reloaded, ReloadError> {
        let mut in_force = self.in_force.lock().await;
        let (config, _, text) = Config::load_text(&in_force.source).map_err(|error| {
            let hint = denied(&error).then(|| self.sandbox.hint()).flatten();
            ReloadError::Config { error, hint }
        })?;
        let running = self.config();
        let settings = differences(&in_force.text, &text);
        let config = config.with_devices_of(&running).map_err(|new| {
            let there = match running.devices.names() {
                [] => "none".to_owned(),
                names => names.join(", "),
            };
            ReloadError::NeedsRestart(format!(
                "new devices of connections (`interface`, `[devices]`): {} (there are: {there})",
                new.join(", ")
            ))
        })?;
        check_restart(&running, &config, &settings)?;
        if self.listeners.hooks.is_none() && !config.hooks.is_empty() {
            let what =
                "`updown`: hooks are run by a process that is started with the daemon, if there is one then";
            return Err(ReloadError::NeedsRestart(what.to_owned()));
        }
        let effects = engine::changes(&running.engine.connections, &config.engine.connections);
        let mut report = Reloaded {
            applied: !dry_run,
            settings,
            effects: effects.iter().map(ToString::to_string).collect(),
        };
        report.effects.extend(shunts(&running.shunts, &config.shunts));
        report.effects.extend(hooks(&running.hooks, &config.hooks));
        report.effects.extend(rates(&running.rates, &config.rates));
        report.effects.extend(device_rates(&running, &config));
        report.effects.extend(self.leases.changes(&config.pools).iter().map(ToString::to_string));
        if running.radius != config.radius {
            report
                .effects
                .push("radius: changed; it counts from the next question and the next session".to_owned());
        }
        if running.gateway != config.gateway {
            report.effects.push("gateway: changed; it counts at once".to_owned());
        }
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
        if !config.pools.is_empty()
            && let Err(error) = self.leases.prepare().await
        {
            return Err(ReloadError::Leases { directory: config.gateway.state_dir.clone(), error });
        }
        let moved = self.bind_moved(&config).await.map_err(ReloadError::Listen)?;
        let added = match install(installer.as_ref(), policies) {
            Ok(added) => added,
            Err(error) => {
                moved.give_up();
                return Err(error);
            }
        };
        for (name, _) in &outdated {
            in_force.policies.remove(name);
        }
        in_force.policies.extend(added);
        // Tunnels that come up from here on have the new rates as well.
        if let Err(error) = self.dataplane.set_rates(config.rates.clone(), config.devices.rates().clone()) {
            tracing::error!(%error, "rates of tunnels stay as they were");
        }
        if running.radius != config.radius {
            self.radius.reconfigure(config.radius.clone());
        }
        let new = Reconfiguration {
            engine: config.engine.clone(),
            children: in_force.children(&config),
            pools: (running.pools != config.pools).then(|| config.pools.clone()),
        };
        self.ike.reconfigure(new).await?;
        for (name, policy) in outdated {
            if let Err(error) = installer.remove_policy(policy) {
                tracing::error!(policy = name, %error, "an outdated policy stays in force");
            }
        }
        if running.gateway.credentials.x509crl != config.gateway.credentials.x509crl {
            self.crls.set_directory(config.gateway.credentials.x509crl.clone());
        }
        in_force.services.follow(moved, self).await;
        if let Some(hooks) = &self.listeners.hooks {
            hooks.reconfigure(config.hooks.clone());
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

/// Which hooks differ, a line each.
fn hooks(old: &HookConfigs, new: &HookConfigs) -> Vec<String> {
    let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let differ = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    let line = |(connection, child): &(String, String)| {
        format!("{connection}/{child}: its updown hook is another for what comes up from now on")
    };
    differ.map(line).collect()
}

/// Whose rates are others, a line each. Their SAs stay.
fn rates(old: &BTreeMap<String, RateLimits>, new: &BTreeMap<String, RateLimits>) -> Vec<String> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changed = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    changed.map(|name| format!("{name}: another rate; its SAs stay")).collect()
}

/// Which devices have other rates, a line each.
fn device_rates(running: &Config, new: &Config) -> Vec<String> {
    let (old, new) = (&running.devices, &new.devices);
    let tenants: BTreeSet<_> = old.rates().keys().chain(new.rates().keys()).copied().collect();
    let changed = tenants.into_iter().filter(|tenant| old.rates().get(tenant) != new.rates().get(tenant));
    let named = changed.filter_map(|tenant| new.name_of(tenant));
    named.map(|name| format!("device {name}: another rate; all SAs stay")).collect()
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

/// Keys of `[gateway]` that a running daemon takes.
const ALIVE: [&str; 9] = [
    "allow_decrypted_capture",
    "metrics",
    "metrics_compatibility",
    "on_stop",
    "private",
    "pubkey",
    "x509",
    "x509ca",
    "x509crl",
];

/// `new`, as far as a running daemon cannot take it.
fn settled(running: &GatewayConfig, new: &GatewayConfig) -> GatewayConfig {
    GatewayConfig {
        allow_decrypted_capture: running.allow_decrypted_capture,
        metrics: running.metrics,
        metrics_compatibility: running.metrics_compatibility,
        on_stop: running.on_stop,
        credentials: running.credentials.clone(),
        ..new.clone()
    }
}

/// Refuses what is settled when the data plane starts.
fn check_restart(running: &Config, new: &Config, settings: &[String]) -> Result<(), ReloadError> {
    if settled(&running.gateway, &new.gateway) != running.gateway {
        let needs_it = |line: &&String| {
            let key = line.strip_prefix("gateway.").and_then(|rest| rest.split(['.', ':', '[']).next());
            key.is_some_and(|key| !ALIVE.contains(&key))
        };
        let keys: Vec<String> = settings.iter().filter(needs_it).cloned().collect();
        return Err(ReloadError::NeedsRestart(keys.join("; ")));
    }
    if running.audit != new.audit {
        let keys: Vec<String> = settings.iter().filter(|line| line.starts_with("audit.")).cloned().collect();
        return Err(ReloadError::NeedsRestart(keys.join("; ")));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(gateway: &str) -> (Config, String) {
        let text = format!(
            "[gateway]\n{gateway}\n[[gateway.interfaces]]\nname = \"outside0\"\nrole = \"both\"\n\
             [connections.site]\nremote_addrs = \"192.0.2.2\"\nlocal = {{ auth = \"psk\" }}\n\
             remote = {{ auth = \"psk\" }}\n[connections.site.children.net]\n\
             local_ts = \"10.1.0.0/24\"\nremote_ts = \"10.2.0.0/24\"\n[secrets.ike]\nsecret = \"0x00112233445566778899\"\n"
        );
        (Config::parse(&text, Path::new("")).unwrap().0, text)
    }

    /// What a reload to these lines of `[gateway]` is refused with.
    fn refused(lines: &str) -> Option<String> {
        let ((running, old), (new, text)) = (parsed(""), parsed(lines));
        check_restart(&running, &new, &differences(&old, &text)).err().map(|error| error.to_string())
    }

    #[test]
    fn only_what_is_settled_at_the_start_needs_a_restart_and_only_that_is_named() {
        assert_eq!(refused(""), None);
        let alive = "metrics = \"off\"\nmetrics_compatibility = \"ipsec_exporter\"\nallow_decrypted_capture = true\n\
                     on_stop = \"open\"\n";
        assert_eq!(refused(alive), None);
        // Said, but nothing else than before.
        assert_eq!(refused("mark = 0x5043\nsandbox = true\n"), None);
        let shards = refused("ike_shards = 64\n").unwrap();
        assert!(shards.ends_with("only a restart can apply gateway.ike_shards: (new) 64"), "{shards}");
        assert_eq!(
            refused(&format!("{alive}mark = 7\nsandbox = false\n")).as_deref(),
            Some(
                "nothing was changed: only a restart can apply gateway.mark: (new) 7; gateway.sandbox: (new) false"
            )
        );
    }

    #[test]
    fn every_key_that_a_running_daemon_takes_is_one_of_the_gateways() {
        let keys = crate::config::reference::page(Some("gateway."));
        for key in ALIVE {
            assert!(keys.contains(&format!("| `{key}` |")), "{key}");
        }
    }
}
