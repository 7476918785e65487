//! What keeps protected traffic from passing beside the workers: the XDP program and egress guard, and the routes of the
//! host's own traffic, kept in step with the policies and with the host's addresses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use portcullis_ipsec::{InstallError, PolicyAction, TrafficSelector};

use super::cover::Cover;
use super::{DataplaneConfig, Firewall, StartError, XdpMode, addresses_of, lock};
use crate::installer::ProtectionSink;
use crate::io::QueueSocket;
use crate::netlink::protected::{ProtectedRoutes, Wanted};
use crate::policy::ProtectedPrefixes;
use crate::route::{PortInfo, Role, RouteTable};
use crate::xdp::{self, AddressUse, Mode, ModeRequest, Protection, UpdateError, XdpManager};
use std::os::fd::AsFd;

/// The guards of one gateway.
pub(super) struct Guards {
    state: Mutex<State>,
}

struct State {
    xdp: XdpManager,
    routes: ProtectedRoutes,
    /// The policies' remote prefixes; `wanted` has the widest of them.
    remote: Cover,
    wanted: Wanted,
    /// By interface index.
    attached: HashMap<u32, Attachment>,
    /// As configured, for interfaces that come back.
    requests: Vec<(String, Role, ModeRequest)>,
    /// The configuration that was followed last, see [`RouteTable::configuration`].
    followed: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Attachment {
    mode: Mode,
}

impl Guards {
    /// Loads the programs with the configured prefixes; nothing is attached yet.
    pub(super) fn load(config: &DataplaneConfig, routes: ProtectedRoutes) -> Result<Self, StartError> {
        // The pin directory lies in a directory of a BPF file system, which is mounted where it is usual.
        if let Some(parent) = config.pin_dir.parent() {
            xdp::ensure_bpffs(parent)?;
        }
        let (mut wanted, mut remote) = (Wanted::default(), Cover::default());
        let (mut pass_local, mut pass_remote) = (BTreeSet::new(), BTreeSet::new());
        for policy in &config.policies {
            let bypasses = policy.action == PolicyAction::Bypass;
            let side = if bypasses { &mut pass_local } else { &mut wanted.local };
            side.extend(prefixes(&policy.local_ts));
            if bypasses {
                pass_remote.extend(prefixes(&policy.remote_ts));
            }
        }
        for policy in config.policies.iter().filter(|policy| policy.action != PolicyAction::Bypass) {
            let nets: Vec<IpNet> = prefixes(&policy.remote_ts).collect();
            remote.add(&nets, &wanted.local);
        }
        wanted.remote = remote.widest().clone();
        let protection = Protection {
            local: wanted.local.clone(),
            remote: wanted.remote.clone(),
            pass_local,
            pass_remote,
            addresses: own_addresses(),
            ike_port: config.ike_port,
            nat_t_port: config.nat_port,
            firewall: config.firewall == Firewall::Kernel,
        };
        let xdp = XdpManager::load(&config.pin_dir, &protection)?;
        let requests = config.interfaces.iter().map(|interface| {
            let request = match interface.mode {
                XdpMode::Auto => ModeRequest::Auto,
                XdpMode::Native => ModeRequest::Native,
                XdpMode::Skb => ModeRequest::Skb,
            };
            (interface.name.clone(), interface.role, request)
        });
        let state = State {
            xdp,
            routes,
            remote,
            wanted,
            attached: HashMap::new(),
            requests: requests.collect(),
            followed: None,
        };
        Ok(Self { state: Mutex::new(state) })
    }

    /// Attaches the programs, and makes routes and addresses what they should be.
    pub(super) fn attach(&self, config: &DataplaneConfig, table: &RouteTable) -> Result<(), StartError> {
        let mut state = lock(&self.state);
        state.follow_addresses(table)?;
        for (interface, port) in config.interfaces.iter().zip(table.ports()) {
            state
                .attach(port)
                .map_err(|source| StartError::Attach { interface: interface.name.clone(), source })?;
        }
        // Interfaces that an earlier configuration had and this one has not.
        let ours: Vec<u32> = table.ports().iter().map(|port| port.ifindex).collect();
        for ifindex in state.xdp.interfaces()?.into_keys().filter(|ifindex| !ours.contains(ifindex)) {
            let gone = |source| StartError::Attach { interface: format!("interface {ifindex}"), source };
            state.xdp.detach(ifindex).map_err(gone)?;
        }
        Ok(())
    }

    /// The XDP mode that the port got.
    pub(super) fn mode(&self, port: &PortInfo) -> &'static str {
        match lock(&self.state).attached.get(&port.ifindex) {
            Some(Attachment { mode: Mode::Native }) => "native",
            Some(Attachment { mode: Mode::Skb }) => "skb",
            None => "not attached",
        }
    }

    pub(super) fn set_socket(
        &self,
        port: &PortInfo,
        queue: u32,
        socket: &QueueSocket,
    ) -> Result<(), StartError> {
        Ok(lock(&self.state).xdp.set_xsk(port.ifindex, queue, socket.fd().as_fd())?)
    }

    /// Follows the host's addresses and interfaces.
    pub(super) fn addresses_changed(&self, table: &RouteTable) {
        let mut state = lock(&self.state);
        if state.followed == Some(table.configuration()) {
            return;
        }
        match state.follow_addresses(table) {
            Ok(()) => state.followed = Some(table.configuration()),
            Err(error) => tracing::error!(%error, "the guards do not know the host's new addresses"),
        }
        for port in table.ports().iter().filter(|port| port.ifindex != 0) {
            let known = state.attached.contains_key(&port.ifindex);
            if !known && !state.attached.is_empty() {
                match state.attach(port) {
                    Ok(()) => {
                        tracing::warn!(interface = %port.name, "the interface was made anew, and is guarded")
                    }
                    Err(error) => {
                        tracing::error!(interface = %port.name, %error, "cannot guard the interface")
                    }
                }
            }
        }
    }

    /// Puts the guards on an interface that has none yet.
    pub(super) fn cover(&self, port: &PortInfo) -> Result<(), StartError> {
        let mut state = lock(&self.state);
        if state.attached.contains_key(&port.ifindex) {
            return Ok(());
        }
        state.attach(port).map_err(|source| StartError::Attach { interface: port.name.clone(), source })
    }

    /// Lets go of what was attached to an interface that is gone. Another one may get its number.
    pub(super) fn forget(&self, ifindex: u32) {
        let mut state = lock(&self.state);
        state.attached.remove(&ifindex);
        if let Err(error) = state.xdp.detach(ifindex) {
            tracing::warn!(ifindex, %error, "the pins of an interface that is gone stay");
        }
    }

    /// What the XDP program and the guard have counted, by outcome.
    pub(super) fn counters(&self) -> BTreeMap<xdp::Outcome, u64> {
        lock(&self.state).xdp.counters().unwrap_or_else(|error| {
            tracing::error!(%error, "the XDP program's counters cannot be read");
            BTreeMap::new()
        })
    }

    /// Takes everything away.
    pub(super) fn open(&self, pin_dir: &Path) -> Result<(), StartError> {
        lock(&self.state).routes.clear()?;
        let detach = |source| StartError::Attach { interface: "the gateway's interfaces".to_owned(), source };
        xdp::detach_all(pin_dir).map(drop).map_err(detach)
    }
}

impl State {
    fn attach(&mut self, port: &PortInfo) -> Result<(), xdp::AttachError> {
        let request = self.requests.iter().find(|(name, ..)| *name == port.name);
        let request = request.map_or(ModeRequest::Auto, |(.., request)| *request);
        let role = match port.role {
            Role::Outside => xdp::Role::Outside,
            Role::Inside => xdp::Role::Inside,
            Role::Both => xdp::Role::Both,
        };
        let attached = self.xdp.attach(port.ifindex, role, request)?;
        self.attached.insert(port.ifindex, Attachment { mode: attached.mode });
        Ok(())
    }

    fn follow_addresses(&mut self, table: &RouteTable) -> Result<(), StartError> {
        let outside: BTreeSet<IpAddr> =
            table.devices().filter(|port| port.role.is_outside()).flat_map(addresses_of).collect();
        let used = |addr: IpAddr| AddressUse {
            tunnel: table.is_tunnel_address(addr),
            outside: outside.contains(&addr),
        };
        let addresses: BTreeMap<IpAddr, AddressUse> =
            table.local_addresses().map(|addr| (addr, used(addr))).collect();
        let known = self.xdp.protection().map(|protection| &protection.addresses);
        if known != Some(&addresses) {
            let mut protection = self.protection();
            protection.addresses = addresses;
            self.xdp.update(&protection)?;
        }
        self.wanted.addresses = table.local_addresses().collect();
        // A link that was down has lost its routes, the device's among them.
        self.routes.refresh()?;
        self.routes.apply(&self.wanted)?;
        Ok(())
    }

    /// What the programs should know, from what they were told last.
    fn protection(&self) -> Protection {
        let mut protection = self.xdp.protection().cloned().unwrap_or_default();
        protection.local = self.wanted.local.clone();
        protection.remote = self.wanted.remote.clone();
        protection
    }

    /// Tells the XDP program what bypasses: a worker looks closer at such clear text from outside.
    fn change_pass(&mut self, change: impl FnOnce(&mut Protection)) -> Result<(), UpdateError> {
        let mut protection = self.protection();
        change(&mut protection);
        self.xdp.update(&protection)
    }

    fn change(&mut self, wanted: Wanted) -> Result<(), String> {
        let before = std::mem::replace(&mut self.wanted, wanted);
        let protection = self.protection();
        let changed = self.xdp.update(&protection).map_err(|error| error.to_string());
        let changed =
            changed.and_then(|()| self.routes.apply(&self.wanted).map_err(|error| error.to_string()));
        if changed.is_err() {
            self.wanted = before;
        }
        changed
    }
}

impl ProtectionSink for Arc<Guards> {
    fn protect(&self, added: &ProtectedPrefixes) -> Result<(), InstallError> {
        let mut state = lock(&self.state);
        if !(added.pass_local.is_empty() && added.pass_remote.is_empty()) {
            let changed = state.change_pass(|protection| {
                protection.pass_local.extend(added.pass_local.iter().map(IpNet::trunc));
                protection.pass_remote.extend(added.pass_remote.iter().map(IpNet::trunc));
            });
            changed.map_err(|error| refused(error.to_string()))?;
        }
        let State { remote, wanted, .. } = &mut *state;
        let local: Vec<IpNet> =
            added.local.iter().map(IpNet::trunc).filter(|net| !wanted.local.contains(net)).collect();
        // Most policies lie within what is protected anyway.
        if !remote.add(&added.remote, &wanted.local) && local.is_empty() {
            return Ok(());
        }
        let mut wanted = wanted.clone();
        wanted.local.extend(local);
        remote.settle(&wanted.local);
        wanted.remote = remote.widest().clone();
        state.change(wanted).map_err(|found| {
            let State { remote, wanted, .. } = &mut *state;
            remote.remove(&added.remote, &wanted.local);
            refused(found)
        })
    }

    fn unprotect(&self, removed: &ProtectedPrefixes) {
        let mut state = lock(&self.state);
        if !(removed.pass_local.is_empty() && removed.pass_remote.is_empty()) {
            let changed = state.change_pass(|protection| {
                protection.pass_local.retain(|net| !removed.pass_local.contains(net));
                protection.pass_remote.retain(|net| !removed.pass_remote.contains(net));
            });
            if let Err(error) = changed {
                tracing::error!(%error, "workers still look at clear text that no policy bypasses any more, and drop it");
            }
        }
        let State { remote, wanted, .. } = &mut *state;
        let local = removed.local.iter().any(|net| wanted.local.contains(net));
        if !remote.remove(&removed.remote, &wanted.local) && !local {
            return;
        }
        let mut wanted = wanted.clone();
        wanted.local.retain(|net| !removed.local.contains(net));
        wanted.remote = remote.widest().clone();
        if let Err(error) = state.change(wanted) {
            tracing::error!(%error, "prefixes that no policy has any more stay blocked");
        }
    }
}

fn refused(found: String) -> InstallError {
    InstallError::InvalidParameter {
        field: "traffic selectors",
        found,
        expected: "prefixes that the XDP program and the kernel's routes take",
    }
}

fn prefixes(selectors: &[TrafficSelector]) -> impl Iterator<Item = IpNet> {
    selectors.iter().flat_map(|selector| selector.addrs.prefixes())
}

/// All of the host's addresses, before the mirror runs: nothing of the host's own may be cut off meanwhile.
fn own_addresses() -> BTreeMap<IpAddr, AddressUse> {
    let listed = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = listed.filter_map(|interface| {
        let addr = interface.address?;
        let v4 = addr.as_sockaddr_in().map(|addr| IpAddr::V4(addr.ip()));
        v4.or_else(|| addr.as_sockaddr_in6().map(|addr| IpAddr::V6(addr.ip())))
    });
    // Until it is known which are which, IKE and ESP may come to any, and management to all.
    addresses.map(|addr| (addr, AddressUse { tunnel: true, outside: true })).collect()
}
