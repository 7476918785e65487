//! Answers as people read them.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::api::types::{
    ChildSa, DeviceStatus, Drops, IkeSa, PolicyStatus, PoolStatus, QueueTraffic, RateStatus, Reloaded, Status,
};
use crate::explain::duration;

/// Writing to a `String` cannot fail.
macro_rules! line {
    ($out:expr, $($args:tt)*) => {
        let _ = writeln!($out, $($args)*);
    };
}

pub(super) fn reloaded(done: &Reloaded) -> String {
    let mut out = String::new();
    done.settings.iter().for_each(|setting| {
        line!(out, "  {setting}");
    });
    done.effects.iter().for_each(|effect| {
        line!(out, "{effect}");
    });
    let end = match (done.settings.is_empty() && done.effects.is_empty(), done.applied) {
        (true, _) => "nothing has changed",
        (false, true) => "in force",
        (false, false) => "not applied (--dry-run)",
    };
    line!(out, "{end}");
    out
}

fn traffic(of: &QueueTraffic) -> String {
    let QueueTraffic { packets_in, bytes_in, packets_out, bytes_out, .. } = of;
    format!("{packets_in} packets in ({bytes_in} octets), {packets_out} out ({bytes_out} octets)")
}

pub(super) fn status(status: &Status) -> String {
    let mut out = String::new();
    line!(out, "portcullis {}, ready for {}", status.version, duration(status.uptime_seconds));
    line!(out, "  {}, AEAD engine {}", counted(status.workers as u64, "worker"), status.aead_engine);
    line!(out, "  {} of {} frames free", status.frames.free, status.frames.total);
    line!(out, "  sandbox: {}", status.sandbox);
    for interface in &status.interfaces {
        let queues = counted(interface.queues.into(), "queue");
        line!(out, "  {} ({}): {}, {queues}", interface.name, interface.role, interface.mode);
        let all = interface.traffic.iter().copied().fold(QueueTraffic::default(), QueueTraffic::plus);
        line!(out, "    {}", traffic(&all));
        for of_queue in interface.traffic.iter().filter(|_| interface.traffic.len() > 1) {
            line!(out, "    queue {}: {}", of_queue.queue, traffic(of_queue));
        }
    }
    for device in &status.devices {
        let DeviceStatus { name, works, to_kernel, from_kernel, rate_in, rate_out } = device;
        let state = if *works { "" } else { ", removed: restart the daemon" };
        line!(
            out,
            "  {name} (device): {from_kernel} packets into its tunnels, {to_kernel} out of them{state}"
        );
        for (key, rate) in [("rate_in", rate_in), ("rate_out", rate_out)] {
            rate_line(&mut out, key, rate.as_ref());
        }
    }
    line!(
        out,
        "{} ({} half-open), {}",
        counted(status.ike_sas as u64, "IKE SA"),
        status.half_open_ike_sas,
        counted(status.child_sas as u64, "CHILD SA")
    );
    if !status.down.is_empty() {
        line!(out, "not up, though start_action is \"start\": {}", some_of(&status.down));
    }
    let packets = &status.packets;
    line!(out, "packets:");
    line!(
        out,
        "  in   {} received, {} from the host, {} generated",
        packets.received,
        packets.from_kernel,
        packets.generated
    );
    line!(
        out,
        "  out  {} transmitted, {} to the host, {} dropped, {} held",
        packets.transmitted,
        packets.to_kernel,
        packets.dropped,
        packets.held
    );
    line!(out, "  ESP  {} opened, {} sealed", packets.opened, packets.sealed);
    if status.workers > 1 {
        line!(out, "  {} handed from worker to worker", packets.handed_over);
    }
    if !status.verdicts.is_empty() {
        line!(out, "recent failures (`portcullis explain peer NAME` says more):");
    }
    for report in &status.verdicts {
        let verdict = &report.verdict;
        let connection = verdict.connection.as_deref().unwrap_or("-");
        let peer = verdict.peer.map_or_else(|| "-".to_owned(), |peer| peer.to_string());
        let ago = duration(report.seconds_ago);
        let times = if report.times > 1 { format!(", {} times", report.times) } else { String::new() };
        line!(out, "  {ago} ago  {}  connection {connection}, peer {peer}{times}", verdict.reason);
        line!(out, "    {}", verdict.sentence);
    }
    out
}

pub(super) fn sas(sas: &[IkeSa]) -> String {
    let mut out = String::new();
    for ike in sas {
        let connection = ike.connection.as_deref().unwrap_or("(unknown)");
        let (i, r) = if ike.initiator { ("*", "") } else { ("", "*") };
        let (spi_i, spi_r) = (&ike.initiator_spi, &ike.responder_spi);
        let tcp = if ike.tcp { " in TCP" } else { "" };
        line!(out, "{connection}: #{}, {}, IKEv2{tcp}, {spi_i}_i{i} {spi_r}_r{r}", ike.id, ike.state);
        if let Some(device) = &ike.interface {
            line!(out, "  by {device}, where routes lead into it");
        }
        let nat = |nat| if nat { ", behind NAT" } else { "" };
        let id = |id: &Option<String>| id.as_deref().unwrap_or("%any").to_owned();
        let vips = |vips: &[String]| match vips {
            [] => String::new(),
            vips => format!(" [{}]", vips.join(" ")),
        };
        let (local, remote) = (vips(&ike.local_vips), vips(&ike.remote_vips));
        line!(out, "  local  '{}' @ {}{local}{}", id(&ike.local_id), ike.local, nat(ike.nat_local));
        let eap = ike.eap_id.as_ref().map(|user| format!(" EAP: '{user}'")).unwrap_or_default();
        line!(out, "  remote '{}' @ {}{remote}{}{eap}", id(&ike.remote_id), ike.remote, nat(ike.nat_remote));
        if !ike.groups.is_empty() {
            line!(out, "  groups {}", ike.groups.join(", "));
        }
        if let Some(proposal) = &ike.proposal {
            line!(out, "  {proposal}");
        }
        if let Some(seconds) = ike.established_seconds {
            line!(out, "  established {} ago", duration(seconds));
        }
        for child in &ike.children {
            child_sa(&mut out, child);
        }
    }
    if sas.is_empty() {
        line!(out, "no IKE SAs");
    }
    out
}

/// A line for each CHILD SA, and for each IKE SA without one.
pub(super) fn sas_in_brief(sas: &[IkeSa]) -> String {
    let mut rows = vec![["TUNNEL", "STATE", "PEER", "UP", "IN", "OUT"].map(str::to_owned)];
    for ike in sas {
        let connection = ike.connection.as_deref().unwrap_or("(unknown)");
        let peer = ike
            .remote
            .parse::<SocketAddr>()
            .map_or_else(|_| ike.remote.clone(), |peer| peer.ip().to_string());
        for child in &ike.children {
            rows.push([
                format!("{connection}/{}", child.name),
                "UP".to_owned(),
                peer.clone(),
                duration(child.installed_seconds),
                octets(child.bytes_in),
                octets(child.bytes_out),
            ]);
        }
        if ike.children.is_empty() {
            let none = || "-".to_owned();
            rows.push([connection.to_owned(), ike.state.clone(), peer, none(), none(), none()]);
        }
    }
    if sas.is_empty() {
        return "no IKE SAs\n".to_owned();
    }
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let cell = |(index, (cell, width)): (usize, (&String, &usize))| match index {
            0..=2 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        };
        let cells: Vec<String> = row.iter().zip(&widths).enumerate().map(cell).collect();
        line!(out, "{}", cells.join("  "));
    }
    out
}

/// Octets in the largest unit that leaves a number before the point.
fn octets(number: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB", "EB"];
    let mut shown = (number as f64, "B");
    for unit in units {
        if shown.0 < 1000.0 {
            break;
        }
        shown = (shown.0 / 1000.0, unit);
    }
    match shown {
        (_, "B") => format!("{number} B"),
        (value, unit) => format!("{value:.1} {unit}"),
    }
}

pub(super) fn pools(pools: &[PoolStatus], leases: bool) -> String {
    let mut out = String::new();
    for pool in pools {
        let PoolStatus { name, addrs, size, online, offline, outside, .. } = pool;
        let outside = if *outside > 0 { format!(", {outside} outside in use") } else { String::new() };
        line!(out, "{name}: {addrs}, {online} of {size} in use, {offline} kept{outside}");
        for lease in pool.leases.iter().filter(|_| leases) {
            let state = match (lease.online, lease.outside) {
                (_, true) => "outside",
                (true, false) => "online",
                (false, false) => "offline",
            };
            line!(out, "  {:<39}  {state:<7}  '{}'", lease.address, lease.identity);
        }
    }
    if pools.is_empty() {
        line!(out, "no pools");
    }
    out
}

pub(super) fn policies(policies: &[PolicyStatus]) -> String {
    let mut out = String::new();
    for policy in policies {
        let PolicyStatus { name, origin, action, priority, .. } = policy;
        // What is negotiated is looked up before what is configured, and stands beside it.
        let carried = policy.has_sa || policies.iter().any(|other| other.name == *name && other.has_sa);
        let sa = if action == "protect" && !carried { ", no SA" } else { "" };
        let by = policy.interface.as_ref().map(|device| format!(", by {device}")).unwrap_or_default();
        line!(out, "{name}: {action}, {origin}, priority {priority}{by}{sa}");
        line!(out, "    local  {}", policy.local_ts.join(" "));
        line!(out, "    remote {}", policy.remote_ts.join(" "));
        line!(out, "    in  {:>10} bytes, {:>8} packets", policy.bytes_in, policy.packets_in);
        line!(out, "    out {:>10} bytes, {:>8} packets", policy.bytes_out, policy.packets_out);
        if policy.dropped > 0 {
            line!(out, "    dropped {} packets", policy.dropped);
        }
        for (key, rate) in [("rate_in", &policy.rate_in), ("rate_out", &policy.rate_out)] {
            rate_line(&mut out, key, rate.as_ref());
        }
    }
    if policies.is_empty() {
        line!(out, "no policies");
    }
    out
}

fn rate_line(out: &mut String, key: &str, rate: Option<&RateStatus>) {
    if let Some(RateStatus { bits_per_second, burst, dropped }) = rate {
        line!(out, "    {key} {bits_per_second} bit/s, {burst} bytes at once: {dropped} packets beyond it");
    }
}

fn child_sa(out: &mut String, child: &ChildSa) {
    let whose = child.resource.as_deref().map(|whose| format!(", {whose}")).unwrap_or_default();
    line!(out, "  {}: INSTALLED, {}, ESP:{}{whose}", child.name, child.mode, child.proposal);
    line!(out, "    installed {} ago", duration(child.installed_seconds));
    let idle = |seconds: Option<u64>| seconds.map(|s| format!(", {} ago", duration(s))).unwrap_or_default();
    let (spi, bytes, packets) = (&child.spi_in, child.bytes_in, child.packets_in);
    line!(out, "    in  {spi}, {bytes:>10} bytes, {packets:>8} packets{}", idle(child.idle_in_seconds));
    let (spi, bytes, packets) = (&child.spi_out, child.bytes_out, child.packets_out);
    line!(out, "    out {spi}, {bytes:>10} bytes, {packets:>8} packets{}", idle(child.idle_out_seconds));
    line!(out, "    local  {}", child.local_ts.join(" "));
    line!(out, "    remote {}", child.remote_ts.join(" "));
}

pub(super) fn drops(drops: &Drops) -> String {
    let mut out = String::new();
    for (reason, count) in drops.iter().filter(|(_, count)| **count > 0) {
        line!(out, "{count:>12}  {reason}");
        if let Some(meaning) = meaning_of_drop(reason) {
            line!(out, "{:>12}  {meaning}", "");
        }
    }
    if out.is_empty() {
        line!(out, "nothing was dropped");
    }
    out
}

/// What docs/drops.md says of a name.
fn meaning_of_drop(name: &str) -> Option<&'static str> {
    let page = include_str!("../../../docs/drops.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    rows.filter(|(of, _)| *of == name).find_map(|(_, rest)| Some(rest.split_once(" |")?.0))
}

pub(super) fn established(connection: &str, children: &[ChildSa]) -> String {
    let mut out = String::new();
    for child in children {
        let ChildSa { name, proposal, spi_in, spi_out, .. } = child;
        line!(out, "{connection}/{name}: {proposal} in {spi_in}, out {spi_out}");
    }
    out
}

/// The first few of many names.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ") + &more
}

pub(super) fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(name: &str, bytes: u64) -> ChildSa {
        ChildSa {
            name: name.to_owned(),
            mode: "TUNNEL".to_owned(),
            spi_in: "c0000001".to_owned(),
            spi_out: "c0000002".to_owned(),
            proposal: "aes256gcm16".to_owned(),
            resource: None,
            local_ts: vec!["10.1.0.0/24".to_owned()],
            remote_ts: vec!["10.2.0.0/24".to_owned()],
            installed_seconds: 250,
            packets_in: 1,
            bytes_in: bytes,
            packets_out: 0,
            bytes_out: 0,
            idle_in_seconds: None,
            idle_out_seconds: None,
        }
    }

    fn ike(number: u64, children: Vec<ChildSa>) -> IkeSa {
        IkeSa {
            id: number,
            connection: Some(format!("branch-{number}")),
            interface: None,
            state: "ESTABLISHED".to_owned(),
            initiator: true,
            initiator_spi: "0".repeat(16),
            responder_spi: "1".repeat(16),
            local: "192.0.2.1:500".to_owned(),
            remote: format!("198.51.100.{number}:500"),
            local_id: None,
            remote_id: None,
            eap_id: None,
            groups: Vec::new(),
            proposal: None,
            tcp: false,
            nat_local: false,
            nat_remote: false,
            local_vips: Vec::new(),
            remote_vips: Vec::new(),
            established_seconds: Some(250),
            children,
        }
    }

    #[test]
    fn in_brief_a_tunnel_is_a_line_and_columns_stand_below_each_other() {
        assert_eq!(sas_in_brief(&[]), "no IKE SAs\n");
        let all: Vec<IkeSa> =
            (0..50).map(|number| ike(number, vec![child("net", 1_234_567 * number)])).collect();
        let text = sas_in_brief(&all);
        assert_eq!(text.lines().count(), 51);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("TUNNEL         STATE  PEER           UP       IN  OUT"));
        assert_eq!(lines.next(), Some("branch-0/net   UP     198.51.100.0   4m      0 B  0 B"));
        assert_eq!(lines.last(), Some("branch-49/net  UP     198.51.100.49  4m  60.5 MB  0 B"));
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        let alone = sas_in_brief(&[ike(7, Vec::new())]);
        assert_eq!(alone.lines().last(), Some("branch-7  ESTABLISHED  198.51.100.7   -   -    -"));
    }

    #[test]
    fn octets_are_shown_in_a_unit_that_people_read() {
        let shown = [0, 999, 1000, 1_500_000, u64::MAX].map(octets);
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "1.5 MB", "18.4 EB"]);
    }

    #[test]
    fn drops_are_told_with_what_they_mean() {
        let text = drops(&Drops::from([("no_sa".to_owned(), 3), ("replayed".to_owned(), 0)]));
        assert_eq!(text, "           3  no_sa\n              protected, and no SA is up\n");
    }

    #[test]
    fn of_many_tunnels_that_are_down_some_are_named() {
        let names: Vec<String> = (0..50).map(|number| format!("b{number}/net")).collect();
        assert!(some_of(&names).ends_with("b7/net and 42 more"));
        assert_eq!(some_of(&names[..1]), "b0/net");
    }

    #[test]
    fn a_configured_policy_beside_its_negotiated_one_is_not_said_to_have_no_sa() {
        let policy = |origin: &str, has_sa| PolicyStatus {
            name: "site/net".to_owned(),
            origin: origin.to_owned(),
            action: "protect".to_owned(),
            priority: 400_000,
            has_sa,
            ..PolicyStatus::default()
        };
        assert!(policies(&[policy("configured", false)]).contains("no SA"));
        assert!(!policies(&[policy("configured", false), policy("negotiated", true)]).contains("no SA"));
    }
}
