//! Checks about the host's forwarding, and about who else wants IKE's ports.

use std::fs;

use portcullis_ike::config::AddressMatch;

use super::host::Host;
use super::{Findings, Severity};
use crate::config::Config;

pub(super) fn check(host: &Host, config: Option<&Config>, found: &mut Findings) {
    forwarding(host, config, found);
    reverse_path(host, config, found);
    devices(host, config, found);
    ports(host, config, found);
}

fn forwarding(host: &Host, config: Option<&Config>, found: &mut Findings) {
    let mut families = vec![("IPv4", "net.ipv4.ip_forward")];
    if config.is_some_and(speaks_ipv6) {
        families.push(("IPv6", "net.ipv6.conf.all.forwarding"));
    }
    for (family, variable) in families {
        match host.sysctl(variable) {
            Some(0) => {
                let seen = format!("the host does not forward {family}");
                let expected = "forwarding: packets that leave by interfaces without workers, and answers of the host \
                                to them, go through the kernel";
                let fix = format!("sysctl -w {variable}=1");
                found.add("forwarding", Severity::Warning, "", seen, expected, fix);
            }
            Some(_) => found.ok("forwarding", "", format!("the host forwards {family}")),
            None => {}
        }
    }
}

/// Whether an address or a selector of the configuration is of IPv6.
fn speaks_ipv6(config: &Config) -> bool {
    config.engine.connections.iter().any(|connection| {
        let addresses = connection.local_addrs.iter().chain(&connection.remote_addrs);
        let mut addresses = addresses.map(|address| match address {
            AddressMatch::Any => false,
            AddressMatch::Address(address) => address.is_ipv6(),
            AddressMatch::Network(network) => network.network().is_ipv6(),
        });
        let selectors =
            connection.children.iter().flat_map(|child| child.local_ts.iter().chain(&child.remote_ts));
        addresses.any(|v6| v6) || selectors.flatten().any(|ts| ts.addrs.start().is_ipv6())
    })
}

fn reverse_path(host: &Host, config: Option<&Config>, found: &mut Findings) {
    let all = host.sysctl("net.ipv4.conf.all.rp_filter");
    let mut names = vec![config.map_or("portcullis0", |config| config.gateway.tun.as_str())];
    if let Some(config) = config {
        names.extend(config.gateway.interfaces.iter().map(|interface| interface.name.as_str()));
        names.extend(config.devices.names().iter().map(String::as_str));
    }
    let mut clean = true;
    for name in names {
        // A TUN device that is not made yet gets the default.
        let own = host.sysctl(&format!("net.ipv4.conf.{name}.rp_filter"));
        let own = own.or_else(|| host.sysctl("net.ipv4.conf.default.rp_filter"));
        // The larger one counts: 2 is loose, and so more lenient than 1, which is strict.
        if own.max(all) == Some(1) {
            clean = false;
            let seen = "strict reverse-path filtering";
            let expected =
                "loose or none: a decrypted packet comes in by another way than its answer goes out";
            let fix = format!("sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{name}.rp_filter=2");
            found.add("rp_filter", Severity::Warning, name, seen, expected, fix);
        }
    }
    if clean {
        found.ok("rp_filter", "", "reverse-path filtering is loose or off");
    }
}

/// Whether routes into the devices of connections stay in force while nobody reads these, and nobody else has their names.
fn devices(host: &Host, config: Option<&Config>, found: &mut Findings) {
    for name in config.into_iter().flat_map(|config| config.devices.names()) {
        let variable =
            |scope: &str, family: &str| format!("net.{family}.conf.{scope}.ignore_routes_with_linkdown");
        let forgets = |family: &&&str| {
            [name.as_str(), "all"].iter().any(|scope| host.sysctl(&variable(scope, family)) == Some(1))
        };
        let driver = host.kernel().link(name).and_then(|_| host.kernel().ethtool(name).driver);
        if driver.is_some_and(|driver| driver != "tun") {
            let (seen, expected) = ("an interface of another kind", "no such interface, or a TUN device");
            let fix = format!("ip link delete {name}   # or another `interface` in the configuration");
            found.add("devices", Severity::Error, name, seen, expected, fix);
        } else if let Some(family) = ["ipv4", "ipv6"].iter().find(forgets) {
            let seen = "routes into it are ignored while the daemon does not read it";
            let expected = "that they stay in force: with wider routes beside them, what is meant for tunnels leaves in clear";
            let fix = format!("sysctl -w {}=0 {}=0", variable("all", family), variable(name, family));
            found.add("devices", Severity::Warning, name, seen, expected, fix);
        } else {
            found.ok("devices", name, "a name for a TUN device");
        }
    }
}

/// Daemons that speak IKE, and how each is stopped for good.
const RIVALS: &[(&str, &str)] = &[
    ("charon-systemd", "systemctl disable --now strongswan.service"),
    ("charon", "systemctl disable --now strongswan-starter.service"),
    ("pluto", "systemctl disable --now ipsec.service"),
    ("iked", "systemctl disable --now iked.service"),
    ("racoon", "systemctl disable --now racoon.service"),
];

fn ports(host: &Host, config: Option<&Config>, found: &mut Findings) {
    let ports = config.map_or([500, 4500], |config| [config.engine.port, config.engine.nat_port]);
    let tables = ["proc/net/udp", "proc/net/udp6"].map(|path| host.read(path).unwrap_or_default());
    let bound: Vec<(u16, u64)> = tables.iter().flat_map(|table| table.lines()).filter_map(bound).collect();
    for port in ports {
        let subject = format!("UDP {port}");
        let inode = bound.iter().find(|(known, _)| *known == port).map(|(_, inode)| *inode);
        let Some(inode) = inode else {
            found.ok("ports", &subject, "free");
            continue;
        };
        let expected = "free: one daemon alone can speak IKE on an address";
        match owner(host, inode) {
            Some((_, name)) if name == "portcullis" => {
                found.ok("ports", &subject, "held by portcullis itself")
            }
            Some((pid, name)) => {
                let known = RIVALS.iter().find(|(rival, _)| *rival == name).map(|(_, fix)| (*fix).to_owned());
                let fix =
                    known.unwrap_or_else(|| format!("kill {pid}   # and keep {name} from starting again"));
                let seen = format!("taken by {name} (process {pid})");
                found.add("ports", Severity::Error, &subject, seen, expected, fix);
            }
            None => {
                let fix = format!("ss -ulpn 'sport = :{port}'   # as root, says who it is");
                found.add("ports", Severity::Error, &subject, "taken by another process", expected, fix);
            }
        }
    }
}

/// Port and inode of a line of `/proc/net/udp`.
fn bound(line: &str) -> Option<(u16, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, port) = fields.get(1)?.rsplit_once(':')?;
    Some((u16::from_str_radix(port, 16).ok()?, fields.get(9)?.parse().ok()?))
}

/// Process and its name that has the socket open.
fn owner(host: &Host, inode: u64) -> Option<(u32, String)> {
    let link = format!("socket:[{inode}]");
    let pids = host.names(&host.path("proc")).into_iter().filter_map(|name| name.parse::<u32>().ok());
    for pid in pids {
        let directory = host.path(&format!("proc/{pid}/fd"));
        let holds = |name: &String| {
            fs::read_link(directory.join(name)).is_ok_and(|to| to.as_os_str() == link.as_str())
        };
        if host.names(&directory).iter().any(holds) {
            return Some((pid, host.read(&format!("proc/{pid}/comm"))?));
        }
    }
    None
}
