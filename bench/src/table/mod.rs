//! `bench table`: what a lookup costs at 1 to 1,000,000 SAs in random order, what an install and a removal cost, what
//! readers notice of either, and how much memory a pair takes; and the same of policies and their selectors.
//!
//! A lookup is timed in batches of 32, as the pipeline makes them, with what it is made for: the SA's head (`line`), or the
//! eight lines of the key in its body as well (`key`). Beside it stands `bare-memory`: the same lines of the same
//! entries, prefetched in the same passes by address, with no table in between; no table can be faster than that. A sample
//! is 4096 lookups of names that lie in random order in an array of their own; implementations take turns sample by sample, with a writer beside them on another core
//! (`churn`) and without. A sample during which the thread was preempted is thrown away.
//!
//! - `world`: the SA table filled, and the two tables that a naive gateway would have; `lookup`: the timing of readers.
//! - `churn`: the writer beside them. `install`: rates. `latency`: the distribution per batch. `memory`: what it takes.
//! - `policies`: all of that for the policy table.

mod churn;
mod install;
mod latency;
mod lookup;
mod memory;
mod policies;
mod world;

use nix::sys::resource::{UsageWho, getrusage};

use crate::report::{Output, Report, Scope};
use crate::steady::stay_on_one_core;

/// Lookups between two quiescent points.
pub(crate) const BATCH: usize = 32;

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    scope: Scope,
    /// Numbers of SAs, and of selectors, in place of 1, 1,000, 100,000 and 1,000,000
    #[arg(long, value_delimiter = ',')]
    sas: Vec<usize>,
}

/// Runs and prints it.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    stay_on_one_core()?;
    let mut report = Report::new("table", options.output).with_baseline("portcullis");
    if options.scope.wants("memory") {
        memory::run(&mut report, if options.scope.quick { 20_000 } else { 100_000 })?;
    }
    if options.scope.wants("install") {
        install::run(&mut report, options.scope.quick)?;
    }
    let sizes = if options.sas.is_empty() { vec![1, 1_000, 100_000, 1_000_000] } else { options.sas.clone() };
    if options.scope.wants("policies") {
        if let Some(most) = sizes.iter().max() {
            policies::memory(&mut report, *most)?;
        }
        for selectors in &sizes {
            let turns = if options.scope.quick { 60 } else { 400 };
            policies::run(&mut report, *selectors, cores.get(1).copied(), turns)?;
        }
    }
    for sas in sizes {
        if !options.scope.wants("lookup") && !options.scope.wants("latency") {
            break;
        }
        let world = world::World::new(sas)?;
        if options.scope.wants("lookup") {
            lookup::run(
                &mut report,
                &world,
                cores.get(1).copied(),
                if options.scope.quick { 60 } else { 400 },
            )?;
        }
        if options.scope.wants("latency") {
            latency::run(
                &mut report,
                &world,
                cores.get(1).copied(),
                if options.scope.quick { 10 } else { 60 },
            )?;
        }
    }
    Ok(())
}

/// How often this thread was made to give up its processor so far.
fn preemptions() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.involuntary_context_switches())
}

/// The SplitMix64 generator: order without meaning, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            let other = self.below(last + 1);
            values.swap(last, other);
        }
    }
}
