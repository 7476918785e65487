//! The configuration file: TOML, with the names of swanctl.conf.
//!
//! [`Config::parse`] reads the whole file and reports every error at once, each with line, column and what was
//! expected. What comes out is ready to use: no later stage finds a value that it cannot take. `docs/configuration.md`
//! is the guide, and [`reference`] writes the list of every table and key.

mod audit;
mod connection;
mod credentials;
mod devices;
mod diagnostic;
mod differences;
mod eap;
pub(crate) mod files;
mod gateway;
mod lifetime;
mod lints;
mod null;
mod options;
mod per_cpu;
mod pools;
mod radius;
mod rates;
mod reader;
pub mod reference;
mod secrets;
mod shunt;
mod updown;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use portcullis_ike::config::{
    ChildConfig, ConnectionConfig, EngineConfig, LossAction, StartAction, any_or_exactly,
};
use portcullis_ike::pools::PoolConfig;
use portcullis_ipsec::{Policy, PolicyAction, PolicyOrigin, RateLimits, TenantId, TrafficSelector};
use toml_edit::Document;
use zeroize::Zeroizing;

pub use credentials::Directories;
pub use devices::Devices;
pub use diagnostic::{Diagnostic, Severity};
pub use differences::differences;
pub use gateway::{DEFAULT_ADMIN_SOCKET, GatewayConfig, MetricsCompatibility, UpdownConfig};
pub(crate) use reader::nearest;

use crate::events::audit::AuditConfig;
use crate::hooks::HookConfigs;
use crate::radius::RadiusConfig;
use credentials::Store;
use reader::{Findings, Section};
use secrets::Secrets;

/// A whole configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[gateway]`: interfaces, cores, the data plane.
    pub gateway: GatewayConfig,
    /// `[ike]`, `[connections]` and `[secrets]`.
    pub engine: EngineConfig,
    /// `[radius]`: AAA servers.
    pub radius: Option<RadiusConfig>,
    /// Policies that pass or drop (`mode` of a child), in the order of the file.
    pub shunts: Vec<Policy>,
    /// What is run when a child comes up and goes down (`updown`).
    pub hooks: HookConfigs,
    /// `[audit]`: where it is written who was there.
    pub audit: Option<AuditConfig>,
    /// How much the tunnels of children may carry in time, by `CONNECTION/CHILD`; of those that have a limit.
    pub rates: BTreeMap<String, RateLimits>,
    /// TUN devices of connections (`interface`, `[devices]`).
    pub devices: Devices,
    /// `[pools]`.
    pub pools: Vec<PoolConfig>,
    /// Files that it names, certificates and keys.
    pub files: Vec<PathBuf>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration `{path}`: {}", unreadable(error))]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// Its content is wrong.
    #[error("the configuration `{path}` has {errors} error{}", if *.errors == 1 { "" } else { "s" })]
    Invalid {
        /// The file.
        path: String,
        /// How many errors are among the findings.
        errors: usize,
        /// Errors and warnings in the order of the file.
        findings: Vec<Diagnostic>,
    },
}

/// Why it cannot be read, and what to do about it.
fn unreadable(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            "there is no such file (the package has an example: /usr/share/doc/portcullis/examples/portcullis.toml)"
                .to_owned()
        }
        std::io::ErrorKind::PermissionDenied => {
            "only root and the group of the daemon may (try it with sudo; in the daemon's own case: `chgrp portcullis` and \
             `chmod 640`)"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

/// Makes a configuration of a document in a directory.
type Build = fn(Section<'_>, &Path) -> Option<Config>;

impl Config {
    /// Reads and parses a file. On success the findings are warnings only.
    pub fn load(path: &Path) -> Result<(Self, Vec<Diagnostic>), ConfigError> {
        Self::load_text(path).map(|(config, warnings, _)| (config, warnings))
    }

    /// As [`Config::load`], with the text of the file.
    pub fn load_text(path: &Path) -> Result<(Self, Vec<Diagnostic>, Zeroizing<String>), ConfigError> {
        Self::load_as(path, Self::from_root)
    }

    /// As [`Config::load`], with what only `portcullis check` looks for among the warnings.
    pub fn lint(path: &Path) -> Result<(Self, Vec<Diagnostic>), ConfigError> {
        Self::load_as(path, Self::linted_from_root).map(|(config, warnings, _)| (config, warnings))
    }

    /// As [`Config::load`], but of `[gateway]` and the names of devices alone, for the emergency exit: no mistake in a
    /// connection and no missing certificate stands in its way. There are no connections in what comes out.
    pub fn load_gateway(path: &Path) -> Result<(Self, Vec<Diagnostic>), ConfigError> {
        Self::load_as(path, Self::gateway_from_root).map(|(config, warnings, _)| (config, warnings))
    }

    fn load_as(path: &Path, build: Build) -> Result<(Self, Vec<Diagnostic>, Zeroizing<String>), ConfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map(Zeroizing::new)
            .map_err(|error| ConfigError::Unreadable { path: name.clone(), error })?;
        let base = path.parent().unwrap_or(Path::new(""));
        match Self::parse_as(&text, base, build) {
            Ok((config, warnings)) => Ok((config, warnings, text)),
            Err(findings) => Err(ConfigError::Invalid {
                path: name,
                errors: findings.iter().filter(|finding| finding.severity == Severity::Error).count(),
                findings,
            }),
        }
    }

    /// Parses the text of a configuration. `Err` holds every finding, `Ok` the warnings. Certificates and keys are looked
    /// for from `base`, where the file lies.
    pub fn parse(text: &str, base: &Path) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        Self::parse_as(text, base, Self::from_root)
    }

    fn parse_as(text: &str, base: &Path, build: Build) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let findings = Findings::new(text);
        let document = match Document::parse(text) {
            Ok(document) => document,
            Err(error) => {
                let message = format!("this is not TOML: {}", error.message());
                findings.error(error.span().unwrap_or(0..0), "", message);
                return Err(findings.into_sorted());
            }
        };
        let root = Section::root(&findings, document.as_table());
        let config = build(root, base);
        match config {
            Some(config) if findings.errors() == 0 => Ok((config, findings.into_sorted())),
            _ => Err(findings.into_sorted()),
        }
    }

    fn from_root(root: Section<'_>, base: &Path) -> Option<Self> {
        Self::read(&root, base)
    }

    fn linted_from_root(root: Section<'_>, base: &Path) -> Option<Self> {
        let config = Self::read(&root, base)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        lints::run(&root, &config, &lints::Machine { now, mtu: &lints::mtu_of });
        Some(config)
    }

    fn read(root: &Section<'_>, base: &Path) -> Option<Self> {
        let gateway = gateway(root, base);
        let secrets = secrets::from_root(root);
        let directories = gateway.as_ref().map(|gateway| gateway.credentials.clone());
        let directories = directories.unwrap_or_else(|| Directories::beside(base));
        let store = Store::new(root, base, directories);
        let pools = pools::from_root(root);
        // Also where no connection asks for them: what is wrong with them is said.
        store.status_sources();
        let connections = connection::from_root(root, secrets.as_ref(), &store, &pools, gateway.as_ref());
        let connection::Connections { mut negotiated, shunts, hooks, rates, devices } = connections;
        per_cpu::give_workers(&mut negotiated, gateway.as_ref().map_or(1, |gateway| gateway.workers.len()));
        let engine = gateway::engine_from_root(root, negotiated, secrets.unwrap_or_default());
        let radius = radius::from_root(root);
        let audit = audit::from_root(root);
        root.finish(&["include"]);
        let files = store.into_named();
        Some(Self { gateway: gateway?, engine, shunts, rates, devices, pools, radius, audit, hooks, files })
    }

    fn gateway_from_root(root: Section<'_>, base: &Path) -> Option<Self> {
        let gateway = gateway(&root, base);
        let engine = gateway::engine_from_root(&root, Vec::new(), Secrets::default());
        let (shunts, pools, files) = (Vec::new(), Vec::new(), Vec::new());
        let (rates, hooks) = (BTreeMap::new(), HookConfigs::new());
        Some(Self {
            gateway: gateway?,
            engine,
            shunts,
            rates,
            devices: Devices::named(&root),
            pools,
            radius: None,
            audit: None,
            hooks,
            files,
        })
    }

    /// The policies that are in force from the first moment on, whatever IKE does: one for each child that passes or
    /// drops, and one for each other child whose selectors are known without a peer. `(connection, child)` goes with
    /// each.
    pub fn policies(&self) -> Vec<((String, String), Policy)> {
        let children = self
            .engine
            .connections
            .iter()
            .flat_map(|connection| connection.children.iter().map(move |child| (connection, child)));
        let policies = children.filter_map(|(connection, child)| {
            let policy = Policy {
                name: format!("{}/{}", connection.name, child.name),
                tenant: connection.tenant,
                local_ts: self.known_local(connection, child)?,
                remote_ts: self.known_remote(connection, child)?,
                origin: PolicyOrigin::Configured { acquire: asks(child) },
                action: PolicyAction::Protect,
                priority: child.priority,
                per_worker: false,
            };
            Some(((connection.name.clone(), child.name.clone()), policy))
        });
        let shunts = self.shunts.iter().filter_map(|policy| {
            let (connection, child) = policy.name.split_once('/')?;
            Some(((connection.to_owned(), child.to_owned()), policy.clone()))
        });
        policies.chain(shunts).collect()
    }

    /// What a child may send from, as far as that is known without a peer. An address that a peer will give us may be
    /// any; but nothing is kept from everywhere just because it has not come yet.
    fn known_local(
        &self,
        connection: &ConnectionConfig,
        child: &ChildConfig,
    ) -> Option<Vec<TrafficSelector>> {
        if connection.vips.is_empty() {
            return connection::known_selectors(&child.local_ts, &connection.local_addrs);
        }
        let inner: Vec<TrafficSelector> = connection.vips.iter().map(|vip| any_or_exactly(*vip)).collect();
        let everywhere = |ts: &Option<TrafficSelector>| {
            ts.is_some_and(|ts| ts.addrs.prefixes().iter().any(|net| net.prefix_len() == 0))
        };
        let known = !child.remote_ts.iter().any(everywhere);
        known.then(|| connection::filled(&child.local_ts, &inner)).flatten()
    }

    /// What a child may send to: peers' addresses out of pools are protected before anybody has them.
    fn known_remote(
        &self,
        connection: &ConnectionConfig,
        child: &ChildConfig,
    ) -> Option<Vec<TrafficSelector>> {
        if connection.pools.is_empty() {
            return connection::known_selectors(&child.remote_ts, &connection.remote_addrs);
        }
        let pools = self.pools.iter().filter(|pool| connection.pools.contains(&pool.name));
        let inner: Vec<TrafficSelector> = pools.map(|pool| TrafficSelector::any(pool.addrs)).collect();
        connection::filled(&child.remote_ts, &inner)
    }

    /// The same, with the tenants that a running daemon has given to devices: it cannot have others than it began with.
    ///
    /// # Errors
    /// Devices that it does not have.
    pub(crate) fn with_devices_of(mut self, running: &Self) -> Result<Self, Vec<String>> {
        let (devices, numbers) = self.devices.renumbered(&running.devices)?;
        let renumber = |tenant: &mut TenantId| *tenant = numbers.get(tenant).copied().unwrap_or_default();
        self.engine.connections.iter_mut().for_each(|connection| renumber(&mut connection.tenant));
        self.shunts.iter_mut().for_each(|policy| renumber(&mut policy.tenant));
        Ok(Self { devices, ..self })
    }

    /// The connection of that name.
    pub fn connection(&self, name: &str) -> Option<&ConnectionConfig> {
        self.engine.connections.iter().find(|connection| connection.name == name)
    }
}

/// Whether packets without an SA may come to ask for one: the engine knows whether they do.
fn asks(child: &ChildConfig) -> bool {
    child.start_action == StartAction::Trap || child.actions.name(LossAction::Trap)
}

fn gateway(root: &Section<'_>, base: &Path) -> Option<GatewayConfig> {
    match root.section("gateway") {
        Some(section) => {
            let routed = !root.texts_below("connections", "interface").is_empty();
            GatewayConfig::from_section(section, base, routed)
        }
        None => {
            root.missing("gateway", "a table `[gateway]` with `interfaces`");
            None
        }
    }
}

#[cfg(test)]
mod tests;
