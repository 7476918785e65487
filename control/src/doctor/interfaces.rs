//! Checks about one configured interface.

use portcullis_gateway::dataplane::{InterfaceConfig, Role, XdpMode};

use super::drivers::{self, XdpSupport};
use super::host::{Ethtool, Host, LinkState, Offload};
use super::{Findings, Severity};
use crate::config::Config;

/// linux/ethtool.h: the queue depends on addresses, and on the first four octets behind the IP header, which of ESP are
/// the SPI.
const HASH_ADDRESSES: u64 = 1 << 4 | 1 << 5;
const HASH_SPI: u64 = 1 << 6 | 1 << 7;
/// As `gateway.frame_size` loses them: XDP headroom, Ethernet and two VLAN tags.
const FRAME_OVERHEAD: u32 = 256 + 14 + 8;

pub(super) fn check(host: &Host, config: &Config, interface: &InterfaceConfig, found: &mut Findings) {
    let name = &interface.name;
    let Some(link) = host.kernel().link(name) else {
        let expected = "every interface of the configuration: the daemon does not start without";
        let fix = "ip -brief link   # and then gateway.interfaces.name";
        return found.add("interface", Severity::Error, name, "does not exist", expected, fix);
    };
    state(name, link, found);
    let ethtool = host.kernel().ethtool(name);
    driver(interface, &ethtool, found);
    queues(config, interface, link, found);
    rss(name, link, &ethtool, found);
    interrupts(host, config, name, found);
    offloads(name, &ethtool, found);
    vlan_tags(host, name, &ethtool, found);
    frame_size(config, name, link, found);
}

fn state(name: &str, link: LinkState, found: &mut Findings) {
    let expected = "up: nothing is received otherwise";
    match (link.up, link.carrier) {
        (true, true) => found.ok("interface", name, "up, with carrier"),
        (true, false) => found.add(
            "interface",
            Severity::Warning,
            name,
            "up, but without carrier",
            expected,
            format!("ethtool {name}   # cable, switch port, or the other end of a veth pair"),
        ),
        (false, _) => {
            found.add("interface", Severity::Error, name, "down", expected, format!("ip link set {name} up"));
        }
    }
}

fn driver(interface: &InterfaceConfig, ethtool: &Ethtool, found: &mut Findings) {
    let name = &interface.name;
    let Some(driver) = &ethtool.driver else {
        let seen = "the driver does not say what it is";
        let expected = "a driver with native XDP; this one probably gets the generic mode";
        return found.add("driver", Severity::Info, name, seen, expected, "");
    };
    let support = drivers::support(driver);
    let seen = format!("{driver}: {} can be expected", support.name());
    let generic = "a driver with native XDP (`ethtool -i`): the generic mode is several times slower";
    match (support, interface.mode) {
        (XdpSupport::Generic, XdpMode::Native) => {
            let expected = "native XDP, as gateway.interfaces.mode asks for";
            found.add(
                "driver",
                Severity::Error,
                name,
                seen,
                expected,
                "mode = \"auto\"   # gateway.interfaces",
            );
        }
        (XdpSupport::Generic, _) => found.add("driver", Severity::Warning, name, seen, generic, ""),
        (_, XdpMode::Skb) => {
            let seen = format!("{seen}, but mode = \"skb\" asks for the generic mode");
            let fix = "mode = \"auto\"   # gateway.interfaces";
            found.add("driver", Severity::Warning, name, seen, "the driver's own XDP", fix);
        }
        _ => found.ok("driver", name, seen),
    }
}

fn queues(config: &Config, interface: &InterfaceConfig, link: LinkState, found: &mut Findings) {
    let (name, workers) = (&interface.name, config.gateway.workers.len());
    let served = interface.queues.map_or(link.queues, |wanted| wanted.min(link.queues));
    let seen = format!("{} receive queues, {served} of them served, {workers} workers", link.queues);
    if served < link.queues {
        let expected = "every queue served: protected packets on the others are dropped";
        let fix = format!("ethtool -L {name} combined {served}   # or leave `queues` out");
        found.add("queues", Severity::Error, name, seen, expected, fix);
    } else if (served as usize) < workers {
        let expected = "a queue for every worker at least";
        let fix = format!("ethtool -L {name} combined {workers}   # or fewer gateway.workers");
        found.add("queues", Severity::Error, name, seen, expected, fix);
    } else if link.queues as usize > workers {
        let expected = "as many queues as workers: more only make a worker look in more places";
        let fix = format!("ethtool -L {name} combined {workers}");
        found.add("queues", Severity::Info, name, seen, expected, fix);
    } else {
        found.ok("queues", name, seen);
    }
}

fn rss(name: &str, link: LinkState, ethtool: &Ethtool, found: &mut Findings) {
    if link.queues < 2 {
        return found.ok("rss", name, "one queue: nothing to spread");
    }
    let fix = format!("ethtool -N {name} rx-flow-hash esp4 sdfn && ethtool -N {name} rx-flow-hash esp6 sdfn");
    match ethtool.esp_hash {
        Some(fields) if fields & HASH_SPI == HASH_SPI => {
            found.ok("rss", name, "ESP is spread over the queues by addresses and SPI");
        }
        Some(fields) if fields & HASH_ADDRESSES != 0 => {
            let seen = "ESP is spread by addresses alone: all tunnels of one peer share a queue";
            found.add("rss", Severity::Info, name, seen, "by SPI too, where one peer sends most", fix);
        }
        Some(_) => {
            let seen = "ESP is not spread: all of it arrives on one queue";
            found.add("rss", Severity::Warning, name, seen, "spread by addresses and SPI", fix);
        }
        None => {
            let seen = "the driver does not say how ESP is spread";
            let expected = "by addresses and SPI; otherwise all ESP may arrive on one queue";
            found.add("rss", Severity::Info, name, seen, expected, "");
        }
    }
}

/// Interrupts of the interface on a worker's core: the worker is interrupted by what it should be reading.
fn interrupts(host: &Host, config: &Config, name: &str, found: &mut Findings) {
    let Some(table) = host.read("proc/interrupts") else { return };
    let device = std::fs::read_link(host.path(&format!("sys/class/net/{name}/device")));
    let device = device.ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    let ours = |label: &str| {
        let mut parts = label.split(['-', '@', ',', ':']);
        parts.any(|part| part == name || device.as_deref().is_some_and(|device| part == device))
    };
    let workers: Vec<u64> = config.gateway.workers.iter().map(|core| *core as u64).collect();
    let online = host.list("sys/devices/system/cpu/online").unwrap_or_default();
    let free = online.iter().find(|core| !workers.contains(core));
    let mut seen = 0;
    let mut clean = true;
    for line in table.lines() {
        let Some((number, rest)) = line.split_once(':') else { continue };
        let (number, label) = (number.trim(), rest.split_whitespace().last().unwrap_or_default());
        if number.parse::<u32>().is_err() || !ours(label) {
            continue;
        }
        seen += 1;
        let affinity = ["effective_affinity_list", "smp_affinity_list"];
        let mut lists = affinity.iter().filter_map(|file| host.list(&format!("proc/irq/{number}/{file}")));
        let cores = lists.find(|cores| !cores.is_empty()).unwrap_or_default();
        let Some(core) = cores.iter().find(|core| workers.contains(core)) else { continue };
        clean = false;
        let seen =
            format!("interrupt {number} ({label}) is handled by core {core}, where a worker is pinned");
        let expected =
            "interrupts on other cores: shared, worker and interrupts take turns, at a tenth of the speed";
        match free {
            Some(free) => {
                let fix = format!("echo {free} > /proc/irq/{number}/smp_affinity_list");
                found.add("irq", Severity::Warning, name, seen, expected, fix);
            }
            None => found.add("irq", Severity::Info, name, seen, "a machine with a core to spare", ""),
        }
    }
    if clean && seen > 0 {
        found.ok("irq", name, format!("{seen} interrupts, none on a worker's core"));
    } else if seen == 0 {
        found.ok("irq", name, "no interrupts of its own");
    }
}

fn offloads(name: &str, ethtool: &Ethtool, found: &mut Findings) {
    let on = |offload: Offload| ethtool.on.contains(&offload);
    let veth = ethtool.driver.as_deref() == Some("veth");
    if on(Offload::Lro) {
        let expected = "off: merged packets are larger than a frame, and most drivers refuse XDP with it";
        let fix = format!("ethtool -K {name} lro off");
        found.add("offloads", Severity::Error, name, "large receive offload is on", expected, fix);
    }
    if veth && (on(Offload::TxChecksum) || on(Offload::Tso) || on(Offload::Gso)) {
        let seen = "a veth pair with checksum or segmentation offload: its ends pass on packets without checksums and \
                    larger than the MTU";
        let expected = "off at both ends: what a worker seals must be whole";
        let fix = format!("ethtool -K {name} tx off tso off gso off gro off   # and at the other end");
        found.add("offloads", Severity::Warning, name, seen, expected, fix);
    } else if !on(Offload::Lro) {
        let merged =
            if on(Offload::Gro) { "GRO is on, which XDP comes before" } else { "nothing merges packets" };
        found.ok("offloads", name, merged);
    }
}

/// The kernel is told of a tag that the card took off, an XDP program and its sockets are not.
fn vlan_tags(host: &Host, name: &str, ethtool: &Ethtool, found: &mut Findings) {
    let devices = host.read("proc/net/vlan/config").unwrap_or_default();
    let is_on_it = |line: &str| line.rsplit('|').next().is_some_and(|below| below.trim() == name);
    if ethtool.on.contains(&Offload::RxVlan) && devices.lines().any(is_on_it) {
        let seen = "VLAN devices are on it, and the card takes tags off before workers see them";
        let expected = "off: a worker takes what has lost its tag for the interface's own";
        let fix = match ethtool.driver.as_deref() {
            Some("veth") => "ethtool -K IF txvlan off   # at the other end of the veth pair".to_owned(),
            _ => format!("ethtool -K {name} rxvlan off"),
        };
        found.add("offloads", Severity::Warning, name, seen, expected, fix);
    }
}

fn frame_size(config: &Config, name: &str, link: LinkState, found: &mut Findings) {
    let size = config.gateway.frame_size;
    let most = size.saturating_sub(FRAME_OVERHEAD);
    if link.mtu > most {
        let seen = format!("MTU {}, but frames of {size} octets take packets of {most} at most", link.mtu);
        let fix = match size {
            2048 => "frame_size = 4096   # gateway".to_owned(),
            _ => format!("ip link set {name} mtu {most}"),
        };
        found.add(
            "frames",
            Severity::Error,
            name,
            seen,
            "frames that hold a packet: the daemon does not start",
            fix,
        );
    }
}

/// The largest inner packet in an outer one of `mtu` octets: outer IPv4 header, SPI and sequence number (8), IV (8), ICV
/// (16); what is left is a multiple of four, two octets of which are the trailer (RFC 4303 §2, RFC 4106 §3).
pub(crate) fn largest_inner(mtu: u32) -> u32 {
    (mtu.saturating_sub(20 + 8 + 8 + 16) & !3).saturating_sub(2)
}

/// The smallest MTU outside that takes packets of `mtu` octets from inside.
fn smallest_outer(mtu: u32) -> u32 {
    let mut outer = mtu + 20 + 8 + 8 + 16 + 2;
    while largest_inner(outer) < mtu {
        outer += 1;
    }
    outer
}

pub(super) fn check_mtus(host: &Host, config: &Config, found: &mut Findings) {
    let of = |is: fn(Role) -> bool| {
        let interfaces = config.gateway.interfaces.iter().filter(move |interface| is(interface.role));
        interfaces
            .filter_map(|interface| Some((interface.name.as_str(), host.kernel().link(&interface.name)?.mtu)))
    };
    let (Some((outside, outer)), Some((inside, inner))) =
        (of(Role::is_outside).min_by_key(|(_, mtu)| *mtu), of(Role::is_inside).max_by_key(|(_, mtu)| *mtu))
    else {
        return;
    };
    let fits = largest_inner(outer);
    let seen = format!(
        "{inside} has an MTU of {inner}; a tunnel through {outside} ({outer}) carries packets of {fits}"
    );
    if fits >= inner {
        return found.ok("mtu", outside, seen);
    }
    let wanted = smallest_outer(inner);
    let expected = "room for the encapsulation: larger packets are fragmented, or answered with the size that fits (8 \
                    octets less behind a NAT, 20 less over IPv6)";
    let fix = if wanted <= config.gateway.frame_size.saturating_sub(FRAME_OVERHEAD) {
        format!(
            "ip link set {outside} mtu {wanted}   # if the path carries it; else: ip link set {inside} mtu {fits}"
        )
    } else {
        format!("ip link set {inside} mtu {fits}")
    };
    found.add("mtu", Severity::Info, outside, seen, expected, fix);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_that_the_data_plane_answers_with() {
        assert_eq!(largest_inner(1500), 1446);
        assert_eq!(largest_inner(smallest_outer(1500)), 1502);
        assert!(largest_inner(smallest_outer(1500) - 1) < 1500);
    }
}
