//! Starts and stops the data plane as the configuration says.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use portcullis_gateway::dataplane::{Dataplane, DataplaneConfig};
use portcullis_ike::config::AddressMatch;
use portcullis_ipsec::{Policy, PolicyId};
use tokio::sync::watch;

use super::Daemon;
use crate::api::server;
use crate::config::Config;

/// Policies beside the configured ones: one for each CHILD SA.
const NEGOTIATED_POLICIES_PER_SA: usize = 1;
/// Room for children that a reload adds.
const POLICIES_ADDED_LATER: usize = 4096;

/// Starts it, with every configured policy in force, and says which numbers they have.
pub(super) fn start(config: &Config) -> anyhow::Result<(Dataplane, Vec<(PolicyId, Policy)>)> {
    let policies: Vec<Policy> = config.policies().into_iter().map(|(_, policy)| policy).collect();
    let wanted = DataplaneConfig { policies: policies.clone(), ..translate(config) };
    let (dataplane, ids) = Dataplane::start(wanted).context("cannot start the data plane")?;
    let of_devices = config.devices.rates().clone();
    dataplane.set_rates(config.rates.clone(), of_devices).context("cannot limit rates")?;
    Ok((dataplane, ids.into_iter().zip(policies).collect()))
}

fn translate(config: &Config) -> DataplaneConfig {
    let gateway = &config.gateway;
    let children: usize = config.engine.connections.iter().map(|connection| connection.children.len()).sum();
    DataplaneConfig {
        interfaces: gateway.interfaces.clone(),
        workers: gateway.workers.clone(),
        frames: gateway.frames,
        frame_size: gateway.frame_size,
        max_sas: gateway.max_sas,
        max_policies: children
            + config.shunts.len()
            + POLICIES_ADDED_LATER
            + gateway.max_sas * NEGOTIATED_POLICIES_PER_SA,
        tun: gateway.tun.clone(),
        devices: config.devices.names().to_vec(),
        pin_dir: gateway.pin_dir.clone(),
        engine: gateway.aead_engine,
        ike_port: config.engine.port,
        nat_port: config.engine.nat_port,
        route_table: gateway.route_table,
        mark: gateway.mark,
        tunnel_addresses: tunnel_addresses(config),
        spin: gateway.spin,
        busy_poll: gateway.busy_poll,
        stall: gateway.watchdog,
        policies: Vec::new(),
        trap: gateway.trap,
        on_stop: gateway.on_stop,
        firewall: gateway.firewall,
    }
}

/// The addresses that ESP comes to; none: every address of the outside interfaces, because some connection accepts
/// any of ours.
pub(super) fn tunnel_addresses(config: &Config) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for connection in &config.engine.connections {
        let fixed = connection.local_addrs.iter().filter_map(|addr| match addr {
            AddressMatch::Address(addr) => Some(*addr),
            AddressMatch::Any | AddressMatch::Network(_) => None,
        });
        let fixed: Vec<IpAddr> = fixed.collect();
        if fixed.len() != connection.local_addrs.len() || fixed.is_empty() {
            return Vec::new();
        }
        addresses.extend(fixed);
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// A value that changes whenever the data plane has events. A thread of its own waits for them, for as long as the
/// process lives.
pub(super) fn watch_events(dataplane: &Dataplane) -> std::io::Result<watch::Receiver<u64>> {
    let fd: OwnedFd = dataplane.events_fd().try_clone_to_owned()?;
    let (sender, receiver) = watch::channel(0_u64);
    let wait = move || {
        let mut count = [0; 8];
        while !sender.is_closed() {
            let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
            // Interrupted, or lowered by another reader: the events themselves stay raised in the data plane.
            let _ = poll(&mut fds, PollTimeout::NONE);
            let _ = nix::unistd::read(&fd, &mut count);
            sender.send_modify(|seen| *seen = seen.wrapping_add(1));
        }
    };
    std::thread::Builder::new().name("dataplane-events".to_owned()).spawn(wait)?;
    Ok(receiver)
}

/// The outside addresses: a new value whenever they, or routes, have changed.
pub(super) fn watch_paths(dataplane: &Dataplane) -> watch::Receiver<Vec<IpAddr>> {
    let (sender, receiver) = watch::channel(Vec::new());
    let first = sender.clone();
    dataplane.watch_paths(Box::new(move |addresses| _ = sender.send_replace(addresses)));
    // Whatever has changed meanwhile is looked at only now.
    first.send_replace(dataplane.outside_addresses());
    receiver
}

/// Stops it, leaving behind what `on_stop` says.
pub(super) fn stop(daemon: Arc<Daemon>) -> anyhow::Result<()> {
    let Some(daemon) = Arc::into_inner(daemon) else {
        anyhow::bail!("something still uses the daemon; protected traffic stays blocked");
    };
    let on_stop = daemon.config().gateway.on_stop;
    let Some(mut dataplane) = Arc::into_inner(daemon.dataplane) else {
        anyhow::bail!("something still uses the data plane; protected traffic stays blocked");
    };
    dataplane.set_on_stop(on_stop);
    dataplane.stop().context("the data plane did not stop cleanly; protected traffic stays blocked")
}

/// Takes away what outlives the daemon. While one runs that is refused: it would go on, and say that its tunnels are up,
/// with nothing that keeps clear text in.
pub fn detach_open(config: &Config) -> anyhow::Result<()> {
    let socket = &config.gateway.admin_socket;
    anyhow::ensure!(
        !server::is_served(socket),
        "the daemon is running (it listens on {}), and nothing was detached: stop it first, with `systemctl stop portcullis`",
        socket.display()
    );
    Dataplane::detach_open(&translate(config)).context("cannot detach")
}
