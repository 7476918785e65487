//! Answers as people read them.

use std::fmt::Write;

use crate::api::types::{ChildSa, Drops, IkeSa, PolicyStatus, PoolStatus, RateStatus, Reloaded, Status};
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

pub(super) fn status(status: &Status) -> String {
    let mut out = String::new();
    line!(out, "portcullis {}, ready for {}", status.version, duration(status.uptime_seconds));
    line!(out, "  {}, AEAD engine {}", counted(status.workers as u64, "worker"), status.aead_engine);
    line!(out, "  {} of {} frames free", status.frames.free, status.frames.total);
    line!(out, "  sandbox: {}", status.sandbox);
    for interface in &status.interfaces {
        let queues = counted(interface.queues.into(), "queue");
        line!(out, "  {} ({}): {}, {queues}", interface.name, interface.role, interface.mode);
    }
    line!(
        out,
        "{} IKE SAs ({} half-open), {} CHILD SAs",
        status.ike_sas,
        status.half_open_ike_sas,
        status.child_sas
    );
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
        line!(out, "{connection}: #{}, {}, IKEv2, {spi_i}_i{i} {spi_r}_r{r}", ike.id, ike.state);
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

pub(super) fn pools(pools: &[PoolStatus], leases: bool) -> String {
    let mut out = String::new();
    for pool in pools {
        let PoolStatus { name, addrs, size, online, offline, .. } = pool;
        line!(out, "{name}: {addrs}, {online} of {size} in use, {offline} kept");
        for lease in pool.leases.iter().filter(|_| leases) {
            let state = if lease.online { "online" } else { "offline" };
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
        let sa = if action == "protect" && !policy.has_sa { ", no SA" } else { "" };
        line!(out, "{name}: {action}, {origin}, priority {priority}{sa}");
        line!(out, "    local  {}", policy.local_ts.join(" "));
        line!(out, "    remote {}", policy.remote_ts.join(" "));
        line!(out, "    in  {:>10} bytes, {:>8} packets", policy.bytes_in, policy.packets_in);
        line!(out, "    out {:>10} bytes, {:>8} packets", policy.bytes_out, policy.packets_out);
        if policy.dropped > 0 {
            line!(out, "    dropped {} packets", policy.dropped);
        }
        for (key, rate) in [("rate_in", &policy.rate_in), ("rate_out", &policy.rate_out)] {
            if let Some(RateStatus { bits_per_second, burst, dropped }) = rate {
                line!(
                    out,
                    "    {key} {bits_per_second} bit/s, {burst} bytes at once: {dropped} packets beyond it"
                );
            }
        }
    }
    if policies.is_empty() {
        line!(out, "no policies");
    }
    out
}

fn child_sa(out: &mut String, child: &ChildSa) {
    line!(out, "  {}: INSTALLED, {}, ESP:{}", child.name, child.mode, child.proposal);
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
    }
    if out.is_empty() {
        line!(out, "nothing was dropped");
    }
    out
}

pub(super) fn established(children: &[ChildSa]) -> String {
    let mut out = String::new();
    for child in children {
        line!(out, "{}: {} in {}, out {}", child.name, child.proposal, child.spi_in, child.spi_out);
    }
    out
}

fn counted(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
