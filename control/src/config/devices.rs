//! `interface` of connections, and `[devices]`: TUN devices of their own, into which the kernel's routes lead what goes into
//! their tunnels. Each is a tenant, whose inner addresses may be those of others too.

use std::collections::BTreeMap;

use portcullis_gateway::dataplane::MAX_DEVICES;
use portcullis_ike::config::ConnectionConfig;
use portcullis_ipsec::{Mode, RateLimits, TenantId};

use super::gateway::{GatewayConfig, is_interface_name};
use super::rates;
use super::reader::Section;

/// What the kernel keeps settings for under `/proc/sys/net`, as if they were interfaces; and one that is there always.
const NO_DEVICES: [&str; 3] = ["all", "default", "lo"];

/// The devices of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Devices {
    /// In the order of their tenants.
    names: Vec<String>,
    /// How much all tunnels of a device may carry in time, together; of those that have a limit.
    rates: BTreeMap<TenantId, RateLimits>,
}

impl Devices {
    /// `[devices]`; those that only connections name come later.
    pub(super) fn from_root(root: &Section<'_>, gateway: Option<&GatewayConfig>) -> Self {
        let mut devices = Self::default();
        for (name, section) in root.named_sections("devices") {
            let limits = rates::of_section(&section);
            section.finish(&[]);
            match devices.tenant(&name, gateway) {
                Ok(tenant) if limits != RateLimits::default() => _ = devices.rates.insert(tenant, limits),
                Ok(_) => {}
                Err(message) => section.error(section.span(), "", message),
            }
        }
        devices
    }

    /// The names alone, whatever else is wrong with the file: for the emergency exit.
    pub(super) fn named(root: &Section<'_>) -> Self {
        let mut names: Vec<String> = root.names_below("devices");
        names.extend(root.texts_below("connections", "interface").into_iter().map(str::to_owned));
        names.retain(|name| is_interface_name(name) && !NO_DEVICES.contains(&name.as_str()));
        names.sort_unstable();
        names.dedup();
        Self { names, rates: BTreeMap::new() }
    }

    /// The tenant of a connection.
    pub(super) fn of_connection(
        &mut self,
        section: &Section<'_>,
        gateway: Option<&GatewayConfig>,
    ) -> TenantId {
        let Some(name) = section.string("interface", "a name for a TUN device") else {
            return TenantId::default();
        };
        self.tenant(name.value, gateway).unwrap_or_else(|message| {
            section.error(name.span, "interface", message);
            TenantId::default()
        })
    }

    fn tenant(&mut self, name: &str, gateway: Option<&GatewayConfig>) -> Result<TenantId, String> {
        if let Some(tenant) = self.find(name) {
            return Ok(tenant);
        }
        if !is_interface_name(name) || NO_DEVICES.contains(&name) {
            return Err(format!(
                "`{name}` cannot be a device's name (expected 1 to 15 characters, no `/`, and none of {})",
                NO_DEVICES.join(", ")
            ));
        }
        if gateway.is_some_and(|gateway| gateway.tun == name) {
            return Err(format!(
                "`{name}` is `gateway.tun`, the device of connections without an `interface`"
            ));
        }
        if gateway.is_some_and(|gateway| gateway.interfaces.iter().any(|other| other.name == name)) {
            return Err(format!(
                "`{name}` is one of `gateway.interfaces` (expected a name for a device that Portcullis makes)"
            ));
        }
        let tenant = TenantId::of_device(self.names.len()).filter(|_| self.names.len() < MAX_DEVICES);
        let tenant = tenant.ok_or_else(|| format!("is one device more than {MAX_DEVICES}"))?;
        self.names.push(name.to_owned());
        Ok(tenant)
    }

    /// In the order of their tenants.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The device of a tenant, if it has one of its own.
    pub fn name_of(&self, tenant: TenantId) -> Option<&str> {
        self.names.get(tenant.device()?).map(String::as_str)
    }

    /// The tenant of a device.
    pub fn find(&self, name: &str) -> Option<TenantId> {
        TenantId::of_device(self.names.iter().position(|known| known == name)?)
    }

    /// How much all tunnels of a device may carry in time, together; of those that have a limit.
    pub fn rates(&self) -> &BTreeMap<TenantId, RateLimits> {
        &self.rates
    }

    /// The same with the tenants that a running daemon has given the devices, and the way from these to those.
    ///
    /// # Errors
    /// Devices that it does not have.
    pub(super) fn renumbered(
        &self,
        running: &Self,
    ) -> Result<(Self, BTreeMap<TenantId, TenantId>), Vec<String>> {
        let new: Vec<String> =
            self.names.iter().filter(|name| running.find(name).is_none()).cloned().collect();
        if !new.is_empty() {
            return Err(new);
        }
        let pairs = self.names.iter().filter_map(|name| Some((self.find(name)?, running.find(name)?)));
        let numbers: BTreeMap<TenantId, TenantId> = pairs.collect();
        let rates = self.rates.iter().filter_map(|(tenant, limits)| Some((*numbers.get(tenant)?, *limits)));
        Ok((Self { names: running.names.clone(), rates: rates.collect() }, numbers))
    }
}

/// What does not go together with a device of its own.
pub(super) fn check(section: &Section<'_>, connection: &ConnectionConfig) {
    if !connection.tenant.is_routed() {
        return;
    }
    if !connection.vips.is_empty() {
        let message = "are put on `gateway.tun`, which a connection with an `interface` does not use (not supported by \
                       this version; expected addresses that you give the device yourself)";
        section.error(section.span(), "vips", message);
    }
    if let Some(child) = connection.children.iter().find(|child| child.options.mode == Mode::Transport) {
        let message = format!(
            "makes what routes lead into it the tunnels' affair, but child `{}` has mode = \"transport\", whose packets are \
             between the very addresses that IKE uses (expected mode = \"tunnel\")",
            child.name
        );
        section.error(section.span(), "interface", message);
    }
}
