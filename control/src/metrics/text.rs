//! Families of metrics as text: OpenMetrics 1.0, or the older format of Prometheus (version 0.0.4), which differs in how
//! a counter's family is called.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// In front of our names.
const PREFIX: &str = "portcullis";

/// How a page is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus 0.0.4.
    Prometheus,
}

impl Format {
    /// What a caller who accepts this gets.
    pub(super) fn wanted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// A number of a sample.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Int(u64),
    Float(f64),
    /// Sum, count, and buckets with their upper bounds.
    Histogram(f64, u64, Vec<(f64, u64)>),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Int(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Int(value as u64)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}

/// One metric with all its label sets.
#[derive(Debug, Clone)]
pub(super) struct Family {
    prefix: &'static str,
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    samples: Vec<(Vec<(String, String)>, Value)>,
}

impl Family {
    /// `name`: without the prefix, and without the `_total` that every counter gets.
    pub(super) fn counter(name: &'static str, help: &'static str) -> Self {
        Self::new(PREFIX, name, help, MetricType::Counter)
    }

    pub(super) fn gauge(name: &'static str, help: &'static str) -> Self {
        Self::new(PREFIX, name, help, MetricType::Gauge)
    }

    pub(super) fn histogram(name: &'static str, help: &'static str) -> Self {
        Self::new(PREFIX, name, help, MetricType::Histogram)
    }

    /// With a name that somebody else has made.
    pub(super) fn foreign_gauge(prefix: &'static str, name: &'static str, help: &'static str) -> Self {
        Self::new(prefix, name, help, MetricType::Gauge)
    }

    /// With a name that somebody else has made, without the `_total` that OpenMetrics demands of a counter: there it is of
    /// unknown type. The older format has it as a counter.
    pub(super) fn foreign_counter(prefix: &'static str, name: &'static str, help: &'static str) -> Self {
        Self::new(prefix, name, help, MetricType::Unknown)
    }

    fn new(prefix: &'static str, name: &'static str, help: &'static str, kind: MetricType) -> Self {
        Self { prefix, name, help, kind, samples: Vec::new() }
    }

    pub(super) fn with(mut self, labels: &[(&str, &str)], value: impl Into<Value>) -> Self {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.samples.push((labels.collect(), value.into()));
        self
    }
}

/// The whole page.
pub(super) fn page(families: &[Family], format: Format) -> String {
    let mut text = String::new();
    for families in families.chunk_by(|one, next| one.prefix == next.prefix) {
        let Some(Family { prefix, .. }) = families.first() else { continue };
        let mut registry = Registry::with_prefix(*prefix);
        registry.register_collector(Box::new(Page(families.to_vec())));
        // Writing to a `String` cannot fail.
        let _ = encode_registry(&mut text, &registry);
    }
    let _ = encode_eof(&mut text);
    match format {
        Format::OpenMetrics => text,
        Format::Prometheus => older(&text),
    }
}

/// There, a counter's family is called as its samples are, and nothing but a counter is of unknown type here; and no line
/// says that the page is whole.
fn older(text: &str) -> String {
    let counter = |name: &str| text.contains(&format!("# TYPE {name} counter\n"));
    let mut older = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what), Some(name), Some(rest)) if counter(name) => {
                older.push_str(&format!("# {what} {name}_total {rest}"));
            }
            (Some("#"), Some("TYPE"), Some(name), Some("unknown")) => {
                older.push_str(&format!("# TYPE {name} counter"));
            }
            _ => older.push_str(line),
        }
        older.push('\n');
    }
    older
}

#[derive(Debug)]
struct Page(Vec<Family>);

/// No labels beyond those of the family.
type NoLabels = [(String, String); 0];

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.0 {
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, family.kind)?;
            for (labels, value) in &family.samples {
                match labels.as_slice() {
                    [] => encode(&mut metric, family.kind, value)?,
                    labels => encode(&mut metric.encode_family(&labels)?, family.kind, value)?,
                }
            }
        }
        Ok(())
    }
}

fn encode(metric: &mut MetricEncoder<'_>, kind: MetricType, value: &Value) -> Result<(), fmt::Error> {
    match (kind, value) {
        (_, Value::Histogram(sum, count, buckets)) => {
            metric.encode_histogram::<NoLabels>(*sum, *count, buckets, None)
        }
        (MetricType::Counter, Value::Int(value)) => metric.encode_counter::<NoLabels, _, u64>(value, None),
        (MetricType::Counter, Value::Float(value)) => metric.encode_counter::<NoLabels, _, u64>(value, None),
        (_, Value::Int(value)) => metric.encode_gauge(value),
        (_, Value::Float(value)) => metric.encode_gauge(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> Vec<Family> {
        vec![
            Family::counter("drops", "Dropped packets").with(&[("reason", "a \"b\"\n\\c")], 7_u64),
            Family::gauge("drops_now", "Now").with(&[], 0.5),
            Family::histogram("wait_seconds", "Waited")
                .with(&[], Value::Histogram(1.5, 2, vec![(1.0, 1), (f64::INFINITY, 1)])),
            Family::foreign_counter("ipsec", "in_bytes", "Received").with(&[("tunnel", "site")], 8_u64),
        ]
    }

    #[test]
    fn openmetrics_names_the_family_and_the_older_format_its_samples() {
        let new = page(&families(), Format::OpenMetrics);
        assert!(new.contains("# TYPE portcullis_drops counter\n"), "{new}");
        assert!(new.ends_with("# EOF\n"), "{new}");
        let old = page(&families(), Format::Prometheus);
        assert!(old.contains("# HELP portcullis_drops_total Dropped packets"), "{old}");
        assert!(old.contains("# TYPE portcullis_drops_total counter\n"), "{old}");
        assert!(old.contains("# TYPE portcullis_drops_now gauge\n"), "{old}");
        assert!(!old.contains("EOF"), "{old}");
        assert!(new.contains("# TYPE ipsec_in_bytes unknown\n"), "{new}");
        assert!(old.contains("# TYPE ipsec_in_bytes counter\n"), "{old}");
        for text in [new, old] {
            assert!(text.contains(r#"portcullis_drops_total{reason="a \"b\"\n\\c"} 7"#), "{text}");
            assert!(text.contains("portcullis_wait_seconds_bucket{le=\"1.0\"} 1\n"), "{text}");
            assert!(text.contains("portcullis_wait_seconds_bucket{le=\"+Inf\"} 2\n"), "{text}");
            assert!(text.contains("portcullis_wait_seconds_count 2\n"), "{text}");
            assert!(text.contains("\nipsec_in_bytes{tunnel=\"site\"} 8\n"), "{text}");
            assert!(!text.contains("unknown") || text.ends_with("# EOF\n"), "{text}");
        }
    }

    #[test]
    fn a_scraper_gets_the_format_that_it_accepts() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Format::wanted(prometheus), Format::OpenMetrics);
        assert_eq!(Format::wanted("*/*"), Format::Prometheus);
    }
}
