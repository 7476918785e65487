//! Prometheus metrics: what the daemon knows at the moment of the scrape, as OpenMetrics text.
//!
//! Names follow the book: base units, `_total` on counters (added by the encoder), labels of bounded cardinality.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use portcullis_gateway::dataplane::DataplaneStats;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::api::types::IkeSa;
use crate::daemon::{Daemon, Snapshot, report};

/// Answers `GET /metrics`.
pub(crate) fn router(daemon: Arc<Daemon>) -> Router {
    Router::new().route("/metrics", get(scrape)).with_state(daemon)
}

async fn scrape(State(daemon): State<Arc<Daemon>>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match daemon.metrics().await {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(stopping) => (StatusCode::SERVICE_UNAVAILABLE, stopping.to_string()).into_response(),
    }
}

/// The whole page.
pub(crate) fn render(snapshot: &Snapshot, sas: &[IkeSa], stats: &DataplaneStats, since: Instant) -> String {
    let families = vec![
        Family::gauge("uptime_seconds", "Since the daemon is ready").with(&[], since.elapsed().as_secs()),
        Family::gauge("aead_engine_info", "The AEAD engine that was chosen at start")
            .with(&[("engine", stats.engine)], 1),
        ike(snapshot),
        Family::counter("ike_sas_established", "IKE SAs established")
            .with(&[], snapshot.totals.ike_established),
        Family::counter("child_sas_established", "CHILD SAs installed")
            .with(&[], snapshot.totals.child_established),
        Family::counter("ike_sas_rekeyed", "IKE SAs replaced by rekeying")
            .with(&[], snapshot.totals.ike_rekeyed),
        Family::counter("child_sas_rekeyed", "CHILD SAs replaced by rekeying")
            .with(&[], snapshot.totals.child_rekeyed),
        failures(snapshot),
        rejected(snapshot),
        child_sas(sas),
        child_traffic("child_sa_bytes", "Octets of inner packets", sas, |child| {
            (child.bytes_in, child.bytes_out)
        }),
        child_traffic("child_sa_packets", "Inner packets", sas, |child| {
            (child.packets_in, child.packets_out)
        }),
        packets(stats),
        drops(stats),
        frames(stats),
    ];
    let mut registry = Registry::with_prefix("portcullis");
    registry.register_collector(Box::new(Page(families)));
    let mut text = String::new();
    // Writing to a `String` cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

fn ike(snapshot: &Snapshot) -> Family {
    Family::gauge("ike_sas", "IKE SAs by state")
        .with(&[("state", "established")], snapshot.established() as u64)
        .with(&[("state", "half_open")], snapshot.half_open as u64)
}

fn failures(snapshot: &Snapshot) -> Family {
    let mut family = Family::counter("failures", "Failed exchanges by connection and reason code");
    for ((connection, code), count) in &snapshot.totals.failures {
        family = family.with(&[("connection", connection), ("code", code)], *count);
    }
    family
}

fn rejected(snapshot: &Snapshot) -> Family {
    let mut family = Family::counter("ike_datagrams_rejected", "IKE datagrams dropped, by reason");
    for (label, count) in &snapshot.totals.rejected {
        family = family.with(&[("reason", label)], *count);
    }
    family
}

fn child_sas(sas: &[IkeSa]) -> Family {
    let mut family = Family::gauge("child_sas", "CHILD SAs by connection");
    for (connection, count) in per_connection(sas, |ike| ike.children.len() as u64) {
        family = family.with(&[("connection", &connection)], count);
    }
    family
}

/// Inner traffic of the SAs that exist now, by connection: it starts anew with them.
fn child_traffic(
    name: &'static str,
    help: &'static str,
    sas: &[IkeSa],
    count: impl Fn(&crate::api::types::ChildSa) -> (u64, u64),
) -> Family {
    let mut family = Family::gauge(name, help);
    for (direction, pick) in [("in", 0), ("out", 1)] {
        let sum = |ike: &IkeSa| -> u64 {
            let counts = ike.children.iter().map(&count);
            counts.map(|(inward, outward)| if pick == 0 { inward } else { outward }).sum()
        };
        for (connection, sum) in per_connection(sas, sum) {
            family = family.with(&[("connection", &connection), ("direction", direction)], sum);
        }
    }
    family
}

fn per_connection(sas: &[IkeSa], count: impl Fn(&IkeSa) -> u64) -> Vec<(String, u64)> {
    let mut sums = std::collections::BTreeMap::new();
    for ike in sas {
        if let Some(connection) = &ike.connection {
            *sums.entry(connection.clone()).or_insert(0) += count(ike);
        }
    }
    sums.into_iter().collect()
}

fn packets(stats: &DataplaneStats) -> Family {
    let balance = report::balance(stats);
    Family::counter("packets", "Packets through the workers; received + from_kernel + generated = the rest")
        .with(&[("path", "received")], balance.received)
        .with(&[("path", "from_kernel")], balance.from_kernel)
        .with(&[("path", "generated")], balance.generated)
        .with(&[("path", "transmitted")], balance.transmitted)
        .with(&[("path", "to_kernel")], balance.to_kernel)
        .with(&[("path", "dropped")], balance.dropped)
        .with(&[("path", "opened")], balance.opened)
        .with(&[("path", "sealed")], balance.sealed)
}

fn drops(stats: &DataplaneStats) -> Family {
    let mut family = Family::counter("drops", "Dropped packets by reason");
    for (reason, count) in report::drops(stats) {
        family = family.with(&[("reason", &reason)], count);
    }
    family
}

fn frames(stats: &DataplaneStats) -> Family {
    let usage = report::frames(stats);
    Family::gauge("frames", "Frames of packet memory")
        .with(&[("state", "total")], usage.total)
        .with(&[("state", "free")], usage.free)
}

/// One metric with all its label sets.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: Vec<(Vec<(String, String)>, u64)>,
}

impl Family {
    fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricType::Counter, samples: Vec::new() }
    }

    fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: MetricType::Gauge, samples: Vec::new() }
    }

    fn with(mut self, labels: &[(&str, &str)], value: u64) -> Self {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.samples.push((labels.collect(), value));
        self
    }
}

#[derive(Debug)]
struct Page(Vec<Family>);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.0 {
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, family.kind)?;
            for (labels, value) in &family.samples {
                let mut metric = metric.encode_family(labels)?;
                match family.kind {
                    MetricType::Counter => {
                        metric.encode_counter::<[(String, String); 0], _, u64>(value, None)?
                    }
                    _ => metric.encode_gauge(&(*value as i64))?,
                }
            }
        }
        Ok(())
    }
}
