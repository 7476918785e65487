//! What was measured: a line per case and implementation for people, rows of [`crate::report`] with `--json`.

use crate::report::{self, Output, Samples};

use super::measure::{Limit, Measured};

/// Of the rows.
pub(crate) const OURS: &str = "portcullis";
pub(crate) const VPP: &str = "vpp";

/// Collects the rounds, and prints them at the end.
pub(crate) struct Report {
    output: Output,
    entries: Vec<Entry>,
}

struct Entry {
    case: String,
    implementation: &'static str,
    /// Octets of an average packet in clear.
    octets: f64,
    rounds: Vec<Measured>,
    absent: Option<String>,
}

impl Report {
    pub(crate) fn new(output: Output) -> Self {
        Self { output, entries: Vec::new() }
    }

    /// Adds a round. It is also told at once: a whole run takes a while.
    pub(crate) fn add(
        &mut self,
        case: &str,
        implementation: &'static str,
        sizes: &[usize],
        measured: Measured,
    ) {
        eprintln!("{case} {implementation}: {:.3} Mpps", measured.rate / 1e6);
        let octets = sizes.iter().sum::<usize>() as f64 / sizes.len().max(1) as f64;
        self.entry(case, implementation, octets).rounds.push(measured);
    }

    /// Adds what came of a round: a measure, or why there is none.
    pub(crate) fn found(
        &mut self,
        case: &str,
        implementation: &'static str,
        sizes: &[usize],
        measured: anyhow::Result<Measured>,
    ) {
        match measured {
            Ok(measured) => self.add(case, implementation, sizes, measured),
            Err(error) => self.absent(case, implementation, &format!("{error:#}")),
        }
    }

    /// What could not be measured, and why.
    pub(crate) fn absent(&mut self, case: &str, implementation: &'static str, why: &str) {
        // What a peer's tools have to say may be long.
        let why = why.lines().next().unwrap_or_default().replace('|', "/");
        self.entry(case, implementation, 0.0).absent = Some(why);
    }

    fn entry(&mut self, case: &str, implementation: &'static str, octets: f64) -> &mut Entry {
        let same = |entry: &Entry| entry.case == case && entry.implementation == implementation;
        let index = match self.entries.iter().position(same) {
            Some(index) => index,
            None => {
                let case = case.to_owned();
                self.entries.push(Entry { case, implementation, octets, rounds: Vec::new(), absent: None });
                self.entries.len() - 1
            }
        };
        #[expect(clippy::indexing_slicing, reason = "found, or just pushed")]
        &mut self.entries[index]
    }

    /// Prints everything; `notes` are what people should know of how it was measured.
    pub(crate) fn print(mut self, notes: &str) {
        // Those of one case together, in the order of the cases.
        let order: Vec<String> = self.entries.iter().map(|entry| entry.case.clone()).collect();
        self.entries.sort_by_key(|entry| order.iter().position(|case| *case == entry.case));
        if self.output.json {
            return self.rows();
        }
        // Prints the machine, where that is wanted.
        let mut report = report::Report::new("forward", self.output);
        report.note(notes);
        let (open, bar, close) = if self.output.markdown { ("| ", " | ", " |") } else { ("", "  ", "") };
        let line = |cells: [String; 12]| {
            let [case, name, rest @ ..] = cells;
            let rest = rest.map(|cell| format!("{cell:>9}")).join(bar);
            println!("{open}{case:<24}{bar}{name:<13}{bar}{rest}{close}");
        };
        let heads = [
            "case", "impl", "Mpps", "least", "most", "Gbit/s", "limit", "p50 us", "p99", "p99.9", "worker %",
            "idle %",
        ];
        line(heads.map(Into::into));
        if self.output.markdown {
            line(["---"; 12].map(Into::into));
        }
        for entry in &self.entries {
            if let Some(why) = &entry.absent {
                println!(
                    "{open}{:<24}{bar}{:<13}{bar}absent: {why}{close}",
                    entry.case, entry.implementation
                );
                continue;
            }
            let rates = entry.samples(|round| round.rate);
            let of = |get: fn(&Measured) -> f64| format!("{:.0}", entry.samples(get).median());
            let quantile = |quantile: f64| {
                let samples = entry.samples(|round| round.latency.value_at_quantile(quantile) as f64);
                format!("{:.1}", samples.median() / 1000.0)
            };
            let mpps = |rate: f64| format!("{:.3}", rate / 1e6);
            let limit = entry.rounds.last().map_or("-", |round| round.limit.name());
            line([
                entry.case.clone(),
                entry.implementation.to_owned(),
                mpps(rates.median()),
                mpps(rates.min()),
                mpps(rates.max()),
                format!("{:.2}", rates.median() * entry.octets * 8.0 / 1e9),
                limit.to_owned(),
                quantile(0.5),
                quantile(0.99),
                quantile(0.999),
                of(|round| 100.0 * round.worker),
                of(|round| 100.0 * round.ends_idle),
            ]);
        }
        println!();
        for (case, plain, added) in self.added() {
            let (plain, added) = (plain.median(), added.median());
            println!("{case}: sealing adds {added:.0} ns a packet to the {plain:.0} of plain forwarding");
        }
        for (case, ratio) in self.beside(VPP) {
            println!("{case}: {:.2} times {VPP}'s rate", ratio.median());
        }
    }

    fn rows(&self) {
        type Get = fn(&Measured) -> f64;
        let units: [(&'static str, Get); 16] = [
            ("packets_per_second", |round| round.rate),
            ("packets_per_second_of_flood", |round| round.flood),
            ("ns_latency_p50", |round| round.latency.value_at_quantile(0.5) as f64),
            ("ns_latency_p99", |round| round.latency.value_at_quantile(0.99) as f64),
            ("ns_latency_p999", |round| round.latency.value_at_quantile(0.999) as f64),
            ("ns_latency_max", |round| round.latency.max() as f64),
            ("packets_reordered", |round| round.reordered as f64),
            ("percent_limited_by_the_ends", |round| if round.limit == Limit::Gateway { 0.0 } else { 100.0 }),
            ("percent_worker", |round| 100.0 * round.worker),
            ("percent_gateway_core_user", |round| 100.0 * round.gateway_core.user),
            ("percent_gateway_core_system", |round| 100.0 * round.gateway_core.system),
            ("percent_gateway_core_softirq", |round| 100.0 * round.gateway_core.softirq),
            ("percent_gateway_core_idle", |round| 100.0 * round.gateway_core.idle),
            ("percent_ends_core_softirq", |round| 100.0 * round.ends_core.softirq),
            ("percent_ends_idle", |round| 100.0 * round.ends_idle),
            ("percent_steal", |round| 100.0 * round.ends_core.steal.max(round.gateway_core.steal)),
        ];
        let mut report = report::Report::new("forward", self.output);
        for entry in &self.entries {
            if let Some(why) = &entry.absent {
                report.absent(&entry.case, entry.implementation, "packets_per_second", why);
                continue;
            }
            for (unit, get) in units {
                report.row(&entry.case, entry.implementation, unit, &entry.samples(get));
            }
        }
        for (case, _, added) in self.added() {
            report.row(&case, "portcullis-sealing", "ns_per_packet", &added);
        }
    }
}

impl Report {
    /// By case: our rate over a peer's, round by round.
    fn beside(&self, peer: &str) -> Vec<(String, Samples)> {
        let ours = self.entries.iter().filter(|entry| entry.implementation == OURS);
        let pairs = ours.filter_map(|ours| {
            let same = |entry: &&Entry| entry.case == ours.case && entry.implementation == peer;
            let its = self.entries.iter().find(same)?;
            let mut ratios = Samples::new();
            for (ours, its) in ours.rounds.iter().zip(&its.rounds).filter(|(_, its)| its.rate > 0.0) {
                ratios.record(ours.rate / its.rate);
            }
            Some((ours.case.clone(), ratios))
        });
        pairs.filter(|(_, ratios)| !ratios.is_empty()).collect()
    }

    /// By case with encryption: nanoseconds per packet of plain forwarding, and what sealing adds to them, round by round.
    fn added(&self) -> Vec<(String, Samples, Samples)> {
        let each = |round: &Measured| 1e9 / round.rate.max(1.0);
        let ours = self.entries.iter().filter(|entry| entry.implementation == OURS);
        let pairs = ours.filter_map(|sealed| {
            let other = format!("plain/{}", sealed.case.strip_prefix("encrypt/")?);
            let same = |entry: &&Entry| entry.case == other && entry.implementation == sealed.implementation;
            let plain = self.entries.iter().find(same)?;
            let mut added = Samples::new();
            for (sealed, plain) in sealed.rounds.iter().zip(&plain.rounds) {
                added.record((each(sealed) - each(plain)).max(0.0));
            }
            Some((sealed.case.clone(), plain.samples(each), added))
        });
        pairs.filter(|(.., added)| !added.is_empty()).collect()
    }
}

impl Entry {
    fn samples(&self, get: impl Fn(&Measured) -> f64) -> Samples {
        let mut samples = Samples::new();
        self.rounds.iter().for_each(|round| samples.record(get(round)));
        samples
    }
}
