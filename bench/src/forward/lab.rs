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

use std::net::Ipv4Addr;

use anyhow::Context;
use portcullis_gateway::wire::Mac;
use portcullis_lab::{Host, Lab};

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
