//! Puts what the engine and the data plane know into the admin API's words.

use std::collections::HashSet;
use std::time::{Duration, Instant, UNIX_EPOCH};

use portcullis_gateway::dataplane::{
    DataplaneStats, DeviceStats, InterfaceStats, PolicyInfo, Role, WorkerStats,
};
use portcullis_gateway::io::QueueCounts;
use portcullis_ike::config::{ConnectionConfig, StartAction};
use portcullis_ike::engine::{ChildSaStatus, IkeSaStatus, IkeState, Resource, Transport};
use portcullis_ike::pools::{LeaseStatus, PoolUsage};
use portcullis_ipsec::{
    Encapsulation, Mode, PolicyAction, PolicyOrigin, RateLimit, SaInstaller, TrafficSelector,
};

use super::ike::Snapshot;
use super::verdicts::Entry;
use crate::api::types::{
    ChildSa, DeviceStatus, Drops, FrameUsage, IkeSa, InterfaceStatus, LeaseReport, PacketBalance,
    PolicyStatus, PoolStatus, QueueTraffic, RateStatus, Status, VerdictReport, WorkerStatus,
};
use crate::config::Devices;
use crate::sandbox::Sandbox;

/// For `portcullis status`.
pub(super) fn status(
    snapshot: &Snapshot,
    stats: &DataplaneStats,
    workers: Vec<WorkerStatus>,
    sandbox: &Sandbox,
    since: Instant,
) -> Status {
    let interface = |interface: &InterfaceStats| InterfaceStatus {
        name: interface.name.clone(),
        role: role(interface.role).to_owned(),
        mode: interface.mode.clone(),
        queues: interface.queues,
        traffic: (0..).zip(&interface.traffic).map(|(queue, counts)| queue_traffic(queue, counts)).collect(),
    };
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: since.elapsed().as_secs(),
        aead_engine: stats.engine.to_owned(),
        workers: stats.workers.len(),
        worker_threads: workers,
        frames: frames(stats),
        sandbox: sandbox.to_string(),
        interfaces: stats.interfaces.iter().map(interface).collect(),
        devices: stats.devices.iter().map(device).collect(),
        ike_sas: snapshot.established(),
        half_open_ike_sas: snapshot.half_open,
        child_sas: snapshot.child_sas(),
        packets: balance(stats),
        down: Vec::new(),
        verdicts: snapshot.verdicts.iter().map(verdict).collect(),
    }
}

fn queue_traffic(queue: u32, counts: &QueueCounts) -> QueueTraffic {
    QueueTraffic {
        queue,
        packets_in: counts.packets_in,
        bytes_in: counts.octets_in,
        packets_out: counts.packets_out,
        bytes_out: counts.octets_out,
    }
}

/// Children that are to be kept up and have no SA, as CONNECTION/CHILD.
pub(super) fn down(snapshot: &Snapshot, connections: &[ConnectionConfig]) -> Vec<String> {
    let up: HashSet<(&str, &str)> = snapshot
        .ike_sas
        .iter()
        .filter_map(|ike| Some((ike.connection.as_deref()?, &ike.children)))
        .flat_map(|(connection, children)| {
            children.iter().map(move |child| (connection, child.name.as_str()))
        })
        .collect();
    let kept = connections.iter().flat_map(|connection| {
        let kept = connection.children.iter().filter(|child| child.start_action == StartAction::Start);
        kept.map(|child| (connection.name.as_str(), child.name.as_str()))
    });
    kept.filter(|child| !up.contains(child))
        .map(|(connection, child)| format!("{connection}/{child}"))
        .collect()
}

/// By worker: its core, its time and its packets.
pub(super) fn workers(cores: &[usize], stats: &DataplaneStats, times: &[Duration]) -> Vec<WorkerStatus> {
    let workers = stats.workers.iter().zip(cores).zip(times);
    let status = |((worker, core), time): ((&WorkerStats, &usize), &Duration)| WorkerStatus {
        core: *core,
        cpu_seconds: time.as_secs_f64(),
        received: worker.received,
        transmitted: worker.transmitted,
        dropped: worker.dropped,
    };
    workers.map(status).collect()
}

/// For `portcullis explain`.
pub(super) fn verdict(entry: &Entry) -> VerdictReport {
    let at = entry.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    VerdictReport {
        kind: entry.verdict.reason.kind(),
        page: entry.verdict.reason.page(),
        verdict: entry.verdict.clone(),
        times: entry.times,
        timestamp_seconds: at,
        seconds_ago: entry.last.elapsed().as_secs(),
    }
}

/// For `portcullis sas`.
pub(crate) fn sas(snapshot: &Snapshot, installer: &dyn SaInstaller, devices: &Devices) -> Vec<IkeSa> {
    snapshot.ike_sas.iter().map(|ike| ike_sa(ike, installer, devices)).collect()
}

fn ike_sa(ike: &IkeSaStatus, installer: &dyn SaInstaller, devices: &Devices) -> IkeSa {
    let state = match ike.state {
        IkeState::Connecting => "CONNECTING",
        IkeState::Established => "ESTABLISHED",
        IkeState::Deleting => "DELETING",
    };
    IkeSa {
        id: ike.id.0,
        connection: ike.connection.clone(),
        interface: devices.name_of(ike.tenant).map(str::to_owned),
        state: state.to_owned(),
        initiator: ike.initiator,
        initiator_spi: data_encoding::HEXLOWER.encode(&ike.initiator_spi),
        responder_spi: data_encoding::HEXLOWER.encode(&ike.responder_spi),
        local: ike.local.to_string(),
        remote: ike.remote.to_string(),
        local_id: ike.local_id.as_ref().map(ToString::to_string),
        remote_id: ike.remote_id.as_ref().map(ToString::to_string),
        eap_id: ike.authorization.eap_id.clone(),
        groups: ike.authorization.groups.clone(),
        proposal: ike.proposal.clone(),
        tcp: ike.transport == Transport::Tcp,
        nat_local: ike.nat_local,
        nat_remote: ike.nat_remote,
        local_vips: ike.local_vips.iter().map(ToString::to_string).collect(),
        remote_vips: ike.remote_vips.iter().map(ToString::to_string).collect(),
        established_seconds: ike.established.map(|when| when.elapsed().as_secs()),
        children: ike.children.iter().map(|child| child_sa(child, installer)).collect(),
    }
}

/// A CHILD SA's mode, as swanctl prints it.
pub(crate) fn mode(child: &ChildSaStatus) -> &'static str {
    match (child.mode, child.endpoints.encapsulation) {
        (Mode::Tunnel, Encapsulation::None) => "TUNNEL",
        (Mode::Tunnel, Encapsulation::Udp { .. }) => "TUNNEL-in-UDP",
        (Mode::Tunnel, Encapsulation::Tcp { .. }) => "TUNNEL-in-TCP",
        (Mode::Transport, Encapsulation::Tcp { .. }) => "TRANSPORT-in-TCP",
        (Mode::Transport, Encapsulation::None) => "TRANSPORT",
        (Mode::Transport, Encapsulation::Udp { .. }) => "TRANSPORT-in-UDP",
    }
}

/// Who seals with a CHILD SA that is one of several.
pub(crate) fn resource(resource: Resource) -> Option<String> {
    match resource {
        Resource::None => None,
        Resource::Fallback => Some("shared".to_owned()),
        Resource::Worker(worker) => Some(format!("worker {worker}")),
        Resource::Spare => Some("receive".to_owned()),
    }
}

fn child_sa(child: &ChildSaStatus, installer: &dyn SaInstaller) -> ChildSa {
    // A pair that goes away while it is being listed has carried nothing that still counts.
    let counters = installer.counters(child.spi_in).unwrap_or_default();
    ChildSa {
        name: child.name.clone(),
        mode: mode(child).to_owned(),
        spi_in: child.spi_in.to_string(),
        spi_out: child.spi_out.to_string(),
        proposal: child.proposal.clone(),
        resource: resource(child.resource),
        local_ts: child.local_ts.iter().map(ToString::to_string).collect(),
        remote_ts: child.remote_ts.iter().map(ToString::to_string).collect(),
        installed_seconds: child.established.elapsed().as_secs(),
        packets_in: counters.packets_in,
        bytes_in: counters.bytes_in,
        packets_out: counters.packets_out,
        bytes_out: counters.bytes_out,
        idle_in_seconds: counters.idle_in.map(|idle| idle.as_secs()),
        idle_out_seconds: counters.idle_out.map(|idle| idle.as_secs()),
    }
}

/// For `portcullis pools`: each pool with its leases.
pub(super) fn pools(usage: &[PoolUsage], leases: &[LeaseStatus]) -> Vec<PoolStatus> {
    let of_pool = |name: &str| -> Vec<LeaseReport> {
        let leases = leases.iter().filter(|lease| lease.binding.pool == name);
        leases
            .map(|lease| LeaseReport {
                address: lease.binding.address.to_string(),
                identity: lease.binding.identity.clone(),
                online: lease.online,
                outside: lease.outside,
            })
            .collect()
    };
    let pool = |pool: &PoolUsage| PoolStatus {
        name: pool.name.clone(),
        addrs: pool.addrs.to_string(),
        size: u64::try_from(pool.size).unwrap_or(u64::MAX),
        online: pool.online,
        offline: pool.offline,
        outside: pool.outside,
        leases: of_pool(&pool.name),
    };
    let mut pools: Vec<PoolStatus> = usage.iter().map(pool).collect();
    // What a reload has removed, as long as somebody uses its addresses.
    for lease in leases {
        let name = &lease.binding.pool;
        if !pools.iter().any(|pool| pool.name == *name) {
            let leases = of_pool(name);
            let (addrs, outside) = ("(removed)".to_owned(), leases.len());
            pools.push(PoolStatus {
                name: name.clone(),
                addrs,
                size: 0,
                online: 0,
                offline: 0,
                outside,
                leases,
            });
        }
    }
    pools
}

fn rate(limit: Option<RateLimit>, dropped: u64) -> Option<RateStatus> {
    let RateLimit { bits_per_second, burst } = limit?;
    Some(RateStatus { bits_per_second: bits_per_second.get(), burst: burst.get(), dropped })
}

fn device(device: &DeviceStats) -> DeviceStatus {
    DeviceStatus {
        name: device.name.clone(),
        works: device.works,
        to_kernel: device.to_kernel,
        from_kernel: device.from_kernel,
        rate_in: rate(device.rates.inbound, device.limited_in),
        rate_out: rate(device.rates.outbound, device.limited_out),
    }
}

/// For `portcullis policies`, by name.
pub(super) fn policies(policies: &[PolicyInfo], devices: &Devices) -> Vec<PolicyStatus> {
    let list = |ts: &[TrafficSelector]| ts.iter().map(ToString::to_string).collect();
    let status = |PolicyInfo { entry, counters, rates }: &PolicyInfo| {
        let policy = entry.policy();
        let origin = match policy.origin {
            PolicyOrigin::Configured { .. } => "configured",
            PolicyOrigin::Negotiated => "negotiated",
        };
        let action = match policy.action {
            PolicyAction::Protect => "protect",
            PolicyAction::Bypass => "pass",
            PolicyAction::Discard => "drop",
        };
        PolicyStatus {
            name: policy.name.clone(),
            origin: origin.to_owned(),
            action: action.to_owned(),
            priority: policy.precedence(),
            local_ts: list(&policy.local_ts),
            remote_ts: list(&policy.remote_ts),
            interface: devices.name_of(policy.tenant).map(str::to_owned),
            has_sa: entry.outbound().is_some(),
            packets_in: counters.packets_in,
            bytes_in: counters.bytes_in,
            packets_out: counters.packets_out,
            bytes_out: counters.bytes_out,
            dropped: counters.dropped,
            rate_in: rate(rates.inbound, counters.limited_in),
            rate_out: rate(rates.outbound, counters.limited_out),
        }
    };
    let mut policies: Vec<PolicyStatus> = policies.iter().map(status).collect();
    policies.sort_by(|a, b| (&a.name, &a.origin, &a.remote_ts).cmp(&(&b.name, &b.origin, &b.remote_ts)));
    policies
}

/// As the configuration writes it.
pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Outside => "outside",
        Role::Inside => "inside",
        Role::Both => "both",
    }
}

/// UMEM frames.
pub(crate) fn frames(stats: &DataplaneStats) -> FrameUsage {
    FrameUsage { total: stats.frames_total, free: stats.frames_free }
}

/// Over all workers.
pub(crate) fn balance(stats: &DataplaneStats) -> PacketBalance {
    let sum = |pick: fn(&WorkerStats) -> u64| stats.workers.iter().map(pick).sum();
    PacketBalance {
        received: sum(|worker| worker.received),
        from_kernel: sum(|worker| worker.from_kernel),
        generated: sum(|worker| worker.generated),
        transmitted: sum(|worker| worker.transmitted),
        to_kernel: sum(|worker| worker.to_kernel),
        dropped: sum(|worker| worker.dropped),
        held: sum(|worker| worker.held),
        handed_over: sum(|worker| worker.handed_over),
        opened: sum(|worker| worker.opened),
        sealed: sum(|worker| worker.sealed),
    }
}

/// For `portcullis drops`: of the workers, the slow path and the XDP program.
pub(crate) fn drops(stats: &DataplaneStats) -> Drops {
    stats.drops.clone()
}
