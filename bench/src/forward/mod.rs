//! `bench forward`: the whole gateway between a generator and a sink, over veth in a lab of its own.
//!
//! - [`lab`]: the namespaces and links; [`gateway`]: the data plane between them; [`peers`]: what else is measured there.
//! - [`packets`]: what is sent and how it is recognised; [`traffic`]: generator and sink in one loop on one core.
//! - [`search`]: the highest rate without loss; [`cpu`]: what the cores' time went into; [`report`]: the tables.
//!
//! A case is measured in three steps: a flood says how much comes through at most; halving the interval below it finds
//! the highest rate at which nothing is lost (a trial that loses is repeated once, since this machine has other work
//! too); half of that rate gives the latencies. The core of generator and sink is one, the worker's the other.

mod cpu;
mod gateway;
mod lab;
mod measure;
mod packets;
mod peers;
mod program;
mod report;
mod search;
#[cfg(test)]
mod tests;
mod traffic;

use std::time::Duration;

use gateway::{Gateway, Mode};
use lab::Place;
use measure::Rig;
use report::Report;

use crate::report::Output;

/// Cores of generator and sink, and of the worker.
pub(crate) const TRAFFIC_CORE: usize = 0;
pub(crate) const GATEWAY_CORE: usize = 1;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    output: Output,
    /// Fewer cases and shorter trials: under a minute
    #[arg(long)]
    quick: bool,
    /// Only cases that contain this, such as `encrypt/64/1sa`
    #[arg(long)]
    only: Option<String>,
    /// Length of a trial in milliseconds [default: 500, with --quick 200]
    #[arg(long)]
    trial: Option<u64>,
    /// Share of packets, in percent, that a trial may lose
    #[arg(long, default_value_t = 0.0)]
    loss_tolerance: f64,
    /// How often everything is measured [default: 3, with --quick 1]
    #[arg(long)]
    rounds: Option<u32>,
    /// Rekeys per second in the cases with rekeys
    #[arg(long, default_value_t = 1000)]
    rekeys: u32,
}

impl Options {
    fn trial(&self) -> Duration {
        Duration::from_millis(self.trial.unwrap_or(if self.quick { 200 } else { 500 }))
    }

    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    fn wants(&self, case: &str) -> bool {
        self.only.as_ref().is_none_or(|only| case.contains(only))
    }
}

/// A mixture of packet sizes: octets of the IP packet in clear, in the order in which they come.
#[derive(Debug, Clone)]
pub(crate) struct Mixture {
    pub(crate) name: &'static str,
    pub(crate) sizes: Vec<usize>,
}

fn mixtures(quick: bool) -> Vec<Mixture> {
    let mixture = |name, sizes: &[usize]| Mixture { name, sizes: sizes.to_vec() };
    let mut mixtures = vec![mixture("64", &[64]), mixture("1424", &[1424])];
    if !quick {
        mixtures.insert(1, mixture("512", &[512]));
        mixtures.push(mixture("imix", &[64, 576, 64, 64, 576, 64, 1424, 64, 576, 64, 64, 576]));
    }
    mixtures
}

/// A gateway and what it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) mode: Mode,
    pub(crate) mixture: Mixture,
    /// SA pairs, or with plain forwarding policies.
    pub(crate) sas: u32,
    /// SAs replaced in a second.
    pub(crate) rekeys: u32,
}

impl Case {
    pub(crate) fn name(&self) -> String {
        let rekeys = if self.rekeys == 0 { "" } else { "/rekeys" };
        format!("{}/{}/{}sa{rekeys}", self.mode.name(), self.mixture.name, self.sas)
    }
}

/// Runs and prints it.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let place = Place::new()?;
    let mut rig = Rig::new(&place, options)?;
    let mut report = Report::new(options.output);
    for _ in 0..options.rounds() {
        for sas in [1, 1_000, 100_000] {
            for mode in Mode::ALL {
                let cases = cases(options, mode, sas);
                if cases.is_empty() {
                    continue;
                }
                rig.face(mode);
                let mut gateway = Gateway::start(&place, mode, sas, GATEWAY_CORE)?;
                for case in &cases {
                    let measured = rig.measure(&mut gateway, case)?;
                    report.add(&case.name(), "portcullis", &case.mixture.sizes, measured);
                }
                gateway.stop()?;
            }
        }
        peers::measure(options, &mut rig, &mut report)?;
    }
    report.print(&notes(options));
    Ok(())
}

fn cases(options: &Options, mode: Mode, sas: u32) -> Vec<Case> {
    let mut cases = Vec::new();
    for mixture in mixtures(options.quick) {
        for rekeys in [0, options.rekeys] {
            let case = Case { mode, mixture: mixture.clone(), sas, rekeys };
            // There is nothing to rekey; and in a hurry the many SAs and the rekeys are shown once.
            let pointless = rekeys > 0 && mode == Mode::Plain;
            let dear = (sas > 1 && !(sas == 1_000 && mode == Mode::Encrypt && mixture.name == "64"))
                || (rekeys > 0 && sas == 1);
            if !pointless && !(options.quick && dear) && options.wants(&case.name()) {
                cases.push(case);
            }
        }
    }
    cases
}

fn notes(options: &Options) -> String {
    format!(
        "Highest rate at which at most {} % of the packets are lost, halving the interval to 2 % (RFC 2544), trials of {} ms, {} \
         round(s), a trial that loses repeated once; latency at half of that rate. Sizes are of the IP packet in clear. Generator \
         and sink on core {TRAFFIC_CORE}, worker on core {GATEWAY_CORE}, both with real-time priority where that is allowed; idle \
         is the share of the time in which generator and sink had nothing to do. What is decrypted is sealed by the generator as \
         it sends.",
        options.loss_tolerance,
        options.trial().as_millis(),
        options.rounds()
    )
}
