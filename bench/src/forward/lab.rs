//! Where the gateway under test stands: between a generator and a sink that are two interfaces of one namespace.
//!
//! ```text
//!   ends                       gateway                      ends
//!   near --------- inside0 --------------- outside0 -------- far
//!   10.1.0.2       10.1.0.1                192.0.2.1         192.0.2.2, and 10.128.0.0/9 behind it
//! ```
//!
//! What is encrypted or forwarded plainly enters by `near` and leaves by `far`; what is decrypted goes the other way. Both
//! ends are AF_XDP sockets, so that their namespace needs no addresses; the gateway knows their MAC addresses for good.
//!
//! What is sent into a link is received, on veth, by the processor that sends it. Left alone the kernel does that packet by
//! packet, within the system call that sends them. Here threads do it ("threaded NAPI"), of the same processor and before anything
//! else on it, as soon as the system call is done: as many packets at a time as it has sent. What has no real-time priority these threads would keep
//! out: for the kernel's own forwarding and for strongSwan there are none.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::Context;
use portcullis_gateway::wire::Mac;
use portcullis_lab::{Host, Lab};

use super::{GATEWAY_CORE, TRAFFIC_CORE, cpu};

pub(crate) const NEAR_HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
pub(crate) const NEAR_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub(crate) const FAR_HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(crate) const FAR_GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// What lies behind the peer.
pub(crate) const REMOTE: &str = "10.128.0.0/9";
/// What lies behind the gateway.
pub(crate) const LOCAL: &str = "10.1.0.0/16";

/// The hosts and links.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) ends: Host,
    pub(crate) gateway: Host,
    /// MAC addresses, by interface.
    pub(crate) macs: Macs,
    _lab: Lab,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Macs {
    pub(crate) near: Mac,
    pub(crate) inside: Mac,
    pub(crate) outside: Mac,
    pub(crate) far: Mac,
}

impl Place {
    /// Makes them; they go when this is dropped.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let lab = Lab::new("forward").context("the lab needs root and network namespaces")?;
        let (ends, gateway) = (lab.host("ends")?, lab.host("gateway")?);
        lab.link(&ends, "near", &gateway, "inside0")?;
        lab.link(&ends, "far", &gateway, "outside0")?;
        let macs = Macs {
            near: ends.mac("near")?,
            inside: gateway.mac("inside0")?,
            outside: gateway.mac("outside0")?,
            far: ends.mac("far")?,
        };
        gateway.address("inside0", &format!("{NEAR_GATEWAY}/16"))?;
        gateway.address("outside0", &format!("{FAR_GATEWAY}/24"))?;
        gateway.forward()?;
        gateway.route(REMOTE, &FAR_HOST.to_string())?;
        for (host, mac, interface) in [(NEAR_HOST, macs.near, "inside0"), (FAR_HOST, macs.far, "outside0")] {
            let mac = mac.map(|octet| format!("{octet:02x}")).join(":");
            gateway.ip(&format!("neigh replace {host} lladdr {mac} dev {interface} nud permanent"))?;
        }
        Ok(Self { ends, gateway, macs, _lab: lab })
    }
}

/// Has threads receive on the links, and puts them where they belong: with whoever sends into that link. An interface has
/// something to receive in a thread only while it has an XDP program, so this is to be done whenever a gateway has begun.
pub(crate) fn receive_in_threads(ends: &Host, gateway: &Host) -> anyhow::Result<()> {
    for (host, interfaces, core) in
        [(ends, ["near", "far"], GATEWAY_CORE), (gateway, ["inside0", "outside0"], TRAFFIC_CORE)]
    {
        // A /sys of that namespace is mounted by ip. What has no program refuses.
        let write = interfaces.map(|name| format!("echo 1 > /sys/class/net/{name}/threaded")).join("; ");
        host.run(["ip", "netns", "exec", host.netns(), "sh", "-c", &format!("{write}; true")])?;
        interfaces.iter().for_each(|name| cpu::place_kernel_threads(&format!("napi/{name}-"), core));
    }
    Ok(())
}

/// Packets that the queues of the links had no room for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Overflows {
    /// Between the generator and the gateway.
    pub(crate) before: u64,
    /// Between the gateway and the sink.
    pub(crate) behind: u64,
}

impl Overflows {
    /// So far, where the generator sends by this end.
    pub(crate) fn read(ends: &Host, gateway: &Host, sends: &str) -> Self {
        let leaves = if sends == "near" { "outside0" } else { "inside0" };
        Self { before: dropped(ends, sends), behind: dropped(gateway, leaves) }
    }

    /// Since then.
    pub(crate) fn since(self, then: Self) -> Self {
        Self { before: self.before - then.before, behind: self.behind - then.behind }
    }
}

/// Packets that an interface could not send.
fn dropped(host: &Host, interface: &str) -> u64 {
    let table = host.enter(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default());
    send_drops(&table.unwrap_or_default(), interface).unwrap_or_default()
}

fn send_drops(table: &str, interface: &str) -> Option<u64> {
    let numbers = table.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'))?;
    // Behind eight of what was received: octets, packets, errors, drops.
    numbers.split_whitespace().nth(8 + 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interface_could_not_send_is_read_off_the_kernels_table() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes packets\n  near1: 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\n   \
                     near: 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25\n";
        assert_eq!(send_drops(table, "near"), Some(21));
        assert_eq!(send_drops(table, "far"), None);
    }
}
