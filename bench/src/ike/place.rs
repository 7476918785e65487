//! Where a responder stands: between clients of many addresses and a host that their packets are for.
//!
//! ```text
//!   clients                          gateway                     inside
//!   eth0 ------------------- outside0      inside0 ------------- eth0
//!   192.0.2.2                192.0.2.1     10.1.0.1              10.1.0.2
//!   100.64.0.0/10 behind it
//! ```
//!
//! Client `n` is the outer address `100.64.0.0 + n` (the host has the whole prefix for its own), and `10.128.0.0 + n` inside
//! its tunnel. So each tunnel is of another address, as those of remote clients are, and what is limited by address is not
//! in the way.

use std::net::Ipv4Addr;

use anyhow::Context;
use portcullis_lab::{Host, Lab, LinkOptions};

pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// What lies behind the gateway.
pub(crate) const LOCAL: &str = "10.1.0.0/16";
/// What lies behind the clients.
pub(crate) const REMOTE: &str = "10.128.0.0/9";
const FIRST_OUTER: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
const FIRST_INNER: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
const OUTER: &str = "100.64.0.0/10";

/// A client's outer address.
pub(crate) fn outer(client: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_OUTER.to_bits() + client)
}

/// A client's inner address.
pub(crate) fn inner(client: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(FIRST_INNER.to_bits() + client)
}

/// The client of an outer address.
pub(crate) fn client_of(outer: Ipv4Addr) -> Option<u32> {
    outer.to_bits().checked_sub(FIRST_OUTER.to_bits())
}

/// The hosts and links.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) clients: Host,
    pub(crate) gateway: Host,
    pub(crate) inside: Host,
    _lab: Lab,
}

impl Place {
    /// Makes them; they go when this is dropped.
    pub(crate) fn new(name: &str) -> anyhow::Result<Self> {
        let lab = Lab::new(name).context("the lab needs root and network namespaces")?;
        let (clients, gateway, inside) = (lab.host("clients")?, lab.host("gateway")?, lab.host("inside")?);
        let options = LinkOptions::default();
        lab.link_with(options, &clients, "eth0", &gateway, "outside0")?;
        lab.link_with(options, &inside, "eth0", &gateway, "inside0")?;
        clients.address("eth0", "192.0.2.2/24")?;
        gateway.address("outside0", &format!("{GATEWAY}/24"))?;
        gateway.address("inside0", "10.1.0.1/16")?;
        inside.address("eth0", &format!("{INSIDE}/16"))?;
        for host in [&clients, &gateway, &inside] {
            host.forward()?;
        }
        clients.ip(&format!("route add local {OUTER} dev lo"))?;
        gateway.route(OUTER, "192.0.2.2")?;
        inside.route("default", "10.1.0.1")?;
        Ok(Self { clients, gateway, inside, _lab: lab })
    }
}
