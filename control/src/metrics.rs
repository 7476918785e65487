//! Prometheus metrics: what the daemon knows at the moment of the scrape.
//!
//! Names follow the book: base units, `_total` on counters (added by the encoder), times as timestamps, parts that add
//! up to a whole under one name. Labels are names of the configuration and fixed words, so that no peer can make a
//! series. `docs/monitoring.md` lists them.

mod ipsec_exporter;
mod text;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use portcullis_gateway::dataplane::{DataplaneStats, WorkerStats};
use portcullis_ike::config::{LocalMethod, StartAction};
use portcullis_ike::pools::PoolUsage;
use portcullis_ipsec::PolicyCounters;

use crate::api::types::IkeSa;
use crate::config::{Config, MetricsCompatibility};
use crate::daemon::{Carried, Daemon, Histogram, Snapshot, report};
use crate::events::audit::Audit;

use crate::hooks::Hooks;
use text::{Family, Format, Value};

/// Answers `GET /metrics`.
pub(crate) fn router(daemon: Arc<Daemon>) -> Router {
    Router::new().route("/metrics", get(scrape)).with_state(daemon)
}

async fn scrape(State(daemon): State<Arc<Daemon>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::wanted(accept);
    match daemon.measure().await {
        Ok(measured) => {
            let page = text::page(&measured.families(), format);
            ([(header::CONTENT_TYPE, format.content_type())], page).into_response()
        }
        Err(stopping) => (StatusCode::SERVICE_UNAVAILABLE, stopping.to_string()).into_response(),
    }
}

/// One count of a worker.
type Pick = fn(&WorkerStats) -> u64;

/// Everything that a page tells.
pub(crate) struct Measured {
    /// The configuration in force.
    pub(crate) config: Arc<Config>,
    /// When the daemon was ready.
    pub(crate) started: SystemTime,
    /// IKE.
    pub(crate) snapshot: Snapshot,
    /// SAs, as the admin API lists them.
    pub(crate) sas: Vec<IkeSa>,
    /// The data plane.
    pub(crate) stats: DataplaneStats,
    /// Rounds of each worker.
    pub(crate) rounds: Vec<u64>,
    /// Processor time of each worker.
    pub(crate) cpu: Vec<std::time::Duration>,
    /// Address pools.
    pub(crate) pools: Vec<PoolUsage>,
    /// Traffic by connection.
    pub(crate) carried: std::collections::BTreeMap<String, Carried>,
    /// The audit trail.
    pub(crate) audit: Option<Arc<Audit>>,
    /// What runs hooks.
    pub(crate) hooks: Option<Arc<Hooks>>,
    /// Who reads the stream of events.
    pub(crate) event_readers: usize,
    /// Events that they were too slow for.
    pub(crate) events_lost: u64,
    /// What policies have done, by name.
    pub(crate) policies: std::collections::BTreeMap<String, PolicyCounters>,
}

impl Measured {
    fn families(&self) -> Vec<Family> {
        let mut families = vec![
            Family::gauge("build_info", "The version that runs, and the AEAD engine chosen at start")
                .with(&[("engine", self.stats.engine), ("version", env!("CARGO_PKG_VERSION"))], 1_u64),
            Family::gauge("start_time_seconds", "When the daemon was ready, since the epoch")
                .with(&[], timestamp(self.started)),
        ];
        families.extend(self.ike());
        families.extend(self.streams());
        families.extend(self.connections());
        families.push(self.pools());
        families.extend(self.policies());
        families.extend(self.packets());
        families.extend(self.devices());
        families.extend(self.resources());
        families.extend(self.listeners());
        if self.config.gateway.metrics_compatibility == Some(MetricsCompatibility::IpsecExporter) {
            families.extend(ipsec_exporter::families(&self.config, &self.sas, &self.carried));
        }
        families
    }

    /// Negotiations.
    fn ike(&self) -> Vec<Family> {
        let totals = &self.snapshot.totals;
        let mut failures = Family::counter("failures", "Failed exchanges by connection and reason");
        for ((connection, reason), count) in &totals.failures {
            failures = failures.with(&[("connection", connection), ("reason", reason.code())], *count);
        }
        let mut last =
            Family::gauge("last_failure_timestamp_seconds", "When an exchange last failed, since the epoch");
        for (connection, when) in &totals.last_failures {
            last = last.with(&[("connection", connection)], timestamp(*when));
        }
        let mut rejected = Family::counter("ike_datagrams_rejected", "IKE datagrams dropped, by reason");
        for (label, count) in &totals.rejected {
            rejected = rejected.with(&[("reason", label)], *count);
        }
        let histogram = |histogram: &Histogram| {
            let (sum, count, buckets) = histogram.parts();
            Value::Histogram(sum, count, buckets)
        };
        vec![
            Family::gauge("ike_sas", "IKE SAs by state")
                .with(&[("state", "established")], self.snapshot.established())
                .with(&[("state", "half_open")], self.snapshot.half_open),
            Family::counter("ike_sas_established", "IKE SAs established").with(&[], totals.ike_established),
            Family::counter("child_sas_established", "CHILD SAs installed")
                .with(&[], totals.child_established),
            Family::counter("ike_sas_rekeyed", "IKE SAs replaced by rekeying").with(&[], totals.ike_rekeyed),
            Family::counter("child_sas_rekeyed", "CHILD SAs replaced by rekeying")
                .with(&[], totals.child_rekeyed),
            Family::histogram(
                "ike_handshake_duration_seconds",
                "From the first IKE_SA_INIT message to the established IKE SA",
            )
            .with(&[("role", "initiator")], histogram(&totals.initiated))
            .with(&[("role", "responder")], histogram(&totals.answered)),
            failures,
            last,
            rejected,
        ]
    }

    /// TCP streams of peers.
    fn streams(&self) -> Vec<Family> {
        let streams = self.snapshot.streams;
        vec![
            Family::gauge(
                "tcp_streams",
                "TCP streams of IKE and ESP by whether an authenticated IKE SA goes by them",
            )
            .with(&[("state", "established")], streams.established)
            .with(&[("state", "connecting")], streams.connecting),
            Family::counter("tcp_streams_opened", "TCP streams that began").with(&[], streams.opened),
            Family::counter(
                "tcp_streams_refused",
                "TCP streams that were not taken because there were too many",
            )
            .with(&[], streams.refused),
            Family::counter("tcp_streams_closed", "TCP streams that we have closed, by reason")
                .with(&[("reason", "malformed")], streams.malformed)
                .with(&[("reason", "unused")], streams.unused),
            Family::gauge("tcp_streams_limit", "TCP streams taken at once (gateway.tcp_connections)")
                .with(&[], self.config.gateway.tcp.connections),
        ]
    }

    /// What each connection of the configuration has; one without an SA has zeros.
    fn connections(&self) -> Vec<Family> {
        let mut configured =
            Family::gauge("children_configured", "Children of the configuration by start_action");
        let mut sas = Family::gauge("child_sas", "CHILD SAs by connection");
        let mut bytes =
            Family::counter("connection_bytes", "Octets of inner packets, over all SAs of a connection");
        let mut packets =
            Family::counter("connection_packets", "Inner packets, over all SAs of a connection");
        for connection in &self.config.engine.connections {
            let name = connection.name.as_str();
            for (action, label) in
                [(StartAction::None, "none"), (StartAction::Trap, "trap"), (StartAction::Start, "start")]
            {
                let children =
                    connection.children.iter().filter(|child| child.start_action == action).count();
                if children > 0 {
                    configured = configured.with(&[("connection", name), ("start_action", label)], children);
                }
            }
            let ours = self.sas.iter().filter(|ike| ike.connection.as_deref() == Some(name));
            sas = sas.with(&[("connection", name)], ours.map(|ike| ike.children.len()).sum::<usize>());
            let carried = self.carried.get(name).copied().unwrap_or_default();
            for (direction, octets, count) in [
                ("in", carried.bytes_in, carried.packets_in),
                ("out", carried.bytes_out, carried.packets_out),
            ] {
                let labels = [("connection", name), ("direction", direction)];
                bytes = bytes.with(&labels, octets);
                packets = packets.with(&labels, count);
            }
        }
        vec![configured, sas, bytes, packets, self.certificates()]
    }

    /// Addresses of each pool; the states add up to its size.
    fn pools(&self) -> Family {
        let mut addresses = Family::gauge("pool_addresses", "Addresses of each pool by state");
        for pool in &self.pools {
            let taken = (pool.online + pool.offline) as u128;
            let free = u64::try_from(pool.size.saturating_sub(taken)).unwrap_or(u64::MAX);
            let name = pool.name.as_str();
            addresses = addresses
                .with(&[("pool", name), ("state", "online")], pool.online)
                .with(&[("pool", name), ("state", "offline")], pool.offline)
                .with(&[("pool", name), ("state", "free")], free);
        }
        addresses
    }

    /// When the first of our own certificates ends, by connection.
    fn certificates(&self) -> Family {
        let mut ends = Family::gauge(
            "certificate_expiry_timestamp_seconds",
            "When the first of our own certificates of a connection ends, since the epoch",
        );
        for connection in &self.config.engine.connections {
            let methods = connection.local.iter().map(|round| &round.auth);
            let credentials = methods.flat_map(LocalMethod::credentials);
            let first =
                credentials.filter_map(|credential| Some(credential.certificate()?.not_after().0)).min();
            if let Some(end) = first {
                ends = ends.with(&[("connection", connection.name.as_str())], end);
            }
        }
        ends
    }

    /// By name: a child's configured policy and those of its CHILD SAs together.
    fn policies(&self) -> Vec<Family> {
        let mut bytes = Family::counter("policy_bytes", "Octets of inner packets by policy");
        let mut packets = Family::counter("policy_packets", "Inner packets by policy");
        let mut drops = Family::counter("policy_drops", "Packets that ended at the policy that covers them");
        let mut rates =
            Family::gauge("policy_rate_bits", "Bits per second that each tunnel of a policy may carry");
        let mut beyond =
            Family::counter("policy_rate_drops", "Inner packets beyond the rates of a policy's tunnels");
        for (name, counts) in &self.policies {
            for (direction, octets, count) in
                [("in", counts.bytes_in, counts.packets_in), ("out", counts.bytes_out, counts.packets_out)]
            {
                let labels = [("policy", name.as_str()), ("direction", direction)];
                bytes = bytes.with(&labels, octets);
                packets = packets.with(&labels, count);
            }
            drops = drops.with(&[("policy", name)], counts.dropped);
            for (direction, count, limit) in [
                ("in", counts.limited_in, self.config.rates.get(name).and_then(|rates| rates.inbound)),
                ("out", counts.limited_out, self.config.rates.get(name).and_then(|rates| rates.outbound)),
            ] {
                let labels = [("policy", name.as_str()), ("direction", direction)];
                if count > 0 || limit.is_some() {
                    beyond = beyond.with(&labels, count);
                }
                if let Some(limit) = limit {
                    rates = rates.with(&labels, limit.bits_per_second.get());
                }
            }
        }
        vec![bytes, packets, drops, rates, beyond]
    }

    /// Packets by their way and end.
    fn packets(&self) -> Vec<Family> {
        let mut packets = Family::counter(
            "packets",
            "Packets through the workers; received + from_kernel + generated = transmitted + to_kernel + dropped + held, for all workers together: between them, packets go from handed_over to taken_over",
        );
        let mut held = Family::gauge("packets_held", "Packets that wait for a neighbour");
        let mut unaccounted = Family::gauge(
            "packets_unaccounted",
            "Packets that came to a worker and are neither held nor counted where they went (less than 0: more went than came); 0 while its packet balance holds",
        );
        let ways: [(&str, Pick); 10] = [
            ("received", |worker| worker.received),
            ("from_kernel", |worker| worker.from_kernel),
            ("generated", |worker| worker.generated),
            ("transmitted", |worker| worker.transmitted),
            ("to_kernel", |worker| worker.to_kernel),
            ("dropped", |worker| worker.dropped),
            ("handed_over", |worker| worker.handed_over),
            ("taken_over", |worker| worker.taken_over),
            ("opened", |worker| worker.opened),
            ("sealed", |worker| worker.sealed),
        ];
        for (index, worker) in self.stats.workers.iter().enumerate() {
            let index = index.to_string();
            for (path, pick) in ways {
                packets = packets.with(&[("path", path), ("worker", &index)], pick(worker));
            }
            held = held.with(&[("worker", &index)], worker.held);
            unaccounted = unaccounted.with(&[("worker", &index)], worker.unaccounted as f64);
        }
        let mut frames =
            Family::counter("interface_packets", "Packets of the workers by interface and queue");
        let mut octets =
            Family::counter("interface_bytes", "Octets of their Ethernet frames by interface and queue");
        for interface in &self.stats.interfaces {
            for (queue, counts) in interface.traffic.iter().enumerate() {
                let queue = queue.to_string();
                let labels = |direction| {
                    [("interface", interface.name.as_str()), ("queue", &queue), ("direction", direction)]
                };
                frames = frames.with(&labels("in"), counts.packets_in);
                frames = frames.with(&labels("out"), counts.packets_out);
                octets = octets.with(&labels("in"), counts.octets_in);
                octets = octets.with(&labels("out"), counts.octets_out);
            }
        }
        let mut drops = Family::counter("drops", "Dropped packets by reason");
        for (reason, count) in report::drops(&self.stats) {
            drops = drops.with(&[("reason", &reason)], count);
        }
        vec![packets, held, unaccounted, frames, octets, drops]
    }

    /// Devices of connections.
    fn devices(&self) -> Vec<Family> {
        let mut up =
            Family::gauge("device_up", "Whether a device of connections can be read; 0: it was removed");
        let mut packets = Family::counter(
            "device_packets",
            "Packets by device of connections: out of its tunnels, and into them",
        );
        let mut rates = Family::gauge(
            "device_rate_bits",
            "Bits per second that all tunnels of a device may carry together",
        );
        let mut beyond = Family::counter("device_rate_drops", "Inner packets beyond the rates of a device");
        for device in &self.stats.devices {
            let name = device.name.as_str();
            up = up.with(&[("device", name)], u64::from(device.works));
            for (direction, count, limit, dropped) in [
                ("in", device.to_kernel, device.rates.inbound, device.limited_in),
                ("out", device.from_kernel, device.rates.outbound, device.limited_out),
            ] {
                let labels = [("device", name), ("direction", direction)];
                packets = packets.with(&labels, count);
                if dropped > 0 || limit.is_some() {
                    beyond = beyond.with(&labels, dropped);
                }
                if let Some(limit) = limit {
                    rates = rates.with(&labels, limit.bits_per_second.get());
                }
            }
        }
        vec![up, packets, rates, beyond]
    }

    /// Who is told what happens.
    fn listeners(&self) -> Vec<Family> {
        let mut lines = Family::counter("audit_lines", "Lines of the audit trail by what became of them");
        if let Some(audit) = &self.audit {
            let totals = audit.totals();
            for (result, count) in [
                ("written", &totals.written),
                ("lost", &totals.lost),
                ("failed", &totals.failed),
                ("suppressed", &totals.suppressed),
            ] {
                lines = lines.with(&[("result", result)], count.load(Ordering::Relaxed));
            }
        }
        let mut hooks = Family::counter("updown_hooks", "Runs of updown hooks by how they ended");
        if let Some(told) = &self.hooks {
            let totals = told.totals();
            for (result, count) in [
                ("done", &totals.done),
                ("failed", &totals.failed),
                ("timeout", &totals.timeout),
                ("not_started", &totals.not_started),
                ("lost", &totals.lost),
            ] {
                hooks = hooks.with(&[("result", result)], count.load(Ordering::Relaxed));
            }
        }
        vec![
            lines,
            hooks,
            Family::gauge("event_readers", "Readers of the stream of events").with(&[], self.event_readers),
            Family::counter("events_lost", "Events that a reader of the stream was too slow for")
                .with(&[], self.events_lost),
        ]
    }

    /// What can run out.
    fn resources(&self) -> Vec<Family> {
        let mut cpu = Family::counter("worker_cpu_seconds", "Processor time of the workers");
        let mut rounds =
            Family::counter("worker_rounds", "Rounds of the workers: one that makes none is stuck");
        for (index, (time, made)) in self.cpu.iter().zip(&self.rounds).enumerate() {
            let index = index.to_string();
            cpu = cpu.with(&[("worker", &index)], time.as_secs_f64());
            rounds = rounds.with(&[("worker", &index)], *made);
        }
        let mut restarts =
            Family::counter("worker_restarts", "How often a worker has panicked and was started anew");
        for (index, worker) in self.stats.workers.iter().enumerate() {
            restarts = restarts.with(&[("worker", &index.to_string())], worker.restarts);
        }
        let mut interfaces =
            Family::gauge("interface_queues", "Receive queues served, and the mode that the driver gave");
        for interface in &self.stats.interfaces {
            let role = report::role(interface.role);
            let labels = [("interface", interface.name.as_str()), ("mode", &interface.mode), ("role", role)];
            interfaces = interfaces.with(&labels, u64::from(interface.queues));
        }
        let stats = &self.stats;
        let elsewhere = stats.frames_free + stats.frames_in_kernel + stats.frames_handed;
        let used = stats.frames_total.saturating_sub(elsewhere);
        vec![
            cpu,
            rounds,
            restarts,
            interfaces,
            Family::gauge("frames", "Frames of packet memory by where they are")
                .with(&[("state", "free")], stats.frames_free)
                .with(&[("state", "kernel")], stats.frames_in_kernel)
                .with(&[("state", "handed_over")], stats.frames_handed)
                .with(&[("state", "worker")], used),
            Family::gauge("sa_pairs", "Pairs of SAs in the table").with(&[], self.snapshot.child_sas()),
            Family::gauge("sa_pairs_limit", "Pairs of SAs that the table holds (gateway.max_sas)")
                .with(&[], self.config.gateway.max_sas),
            Family::gauge("half_open_limit", "Half-open IKE SAs that are kept (ike.half_open_limit)")
                .with(&[], self.config.engine.half_open_limit),
        ]
    }
}

/// Seconds since the epoch.
fn timestamp(when: SystemTime) -> f64 {
    when.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
