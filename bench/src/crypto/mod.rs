//! `bench crypto`: nanoseconds per packet of every AEAD engine and its peers, in batches of 32 packets of one SA that
//! lie in one worker's cache, sealed and opened in place.
//!
//! What is timed: for our engines, putting the batch together and working it off; for peers, whose interface takes a
//! packet at a time, a loop of calls with nonces and AAD laid out before (`ipsec-mb-fresh-nonce` says what it costs to
//! write them just before each call, as a gateway must). A sample is some twenty microseconds; the
//! implementations take turns sample by sample. Each sample is framed by a fixed number of multiplications: where those
//! took longer or shorter than usual (another clock, a neighbour on the core), the sample is thrown away.

mod batch;
pub(crate) mod ipsec_mb;
mod limit;
mod peers;
mod restricted;

use std::time::{Duration, Instant};

use anyhow::Context;
use portcullis_aead::{Algorithm, Engine, EngineKind};

use crate::mixture::Mixture;
use crate::report::{Output, Report, Scope};
use crate::steady::{Times, clock_overhead, frame, usual};
pub(crate) use batch::Batch;
pub(crate) use peers::{Absent, Peer};
use restricted::Restriction;

/// Packets per batch.
pub(crate) const BATCH: usize = 32;

const UNIT: &str = "ns_per_packet";

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    scope: Scope,
    /// Measure the engine of these instructions beside aws-lc-rs, which the environment restricts
    #[arg(long, hide = true)]
    restricted: Option<Restriction>,
}

/// The sizes that texts are measured in.
pub(crate) fn mixtures() -> impl Iterator<Item = Mixture> {
    [64, 128, 256, 512, 1024, 1424, 8960].into_iter().map(Mixture::single).chain([Mixture::imix()])
}

/// Runs and prints it.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if let Some(restriction) = options.restricted {
        let mut report = Report::continued("crypto", options.output).with_baseline(restriction.peer());
        return measure_all(options, restriction.prefix(), &mut report, |algorithm| {
            peers::restricted(restriction, algorithm)
        });
    }
    let engines =
        EngineKind::ALL.iter().filter_map(|kind| Engine::select(Some(*kind)).ok()).collect::<Vec<_>>();
    let mut report = Report::new("crypto", options.output).with_baseline("ipsec-mb");
    limit::report(&mut report);
    measure_all(options, "", &mut report, |algorithm| peers::all(&engines, algorithm))?;
    drop(report);
    Restriction::ALL.into_iter().try_for_each(|restriction| restriction.run(options))
}

/// Every algorithm and mixture that was asked for.
fn measure_all(
    options: &Options,
    prefix: &str,
    report: &mut Report,
    peers: impl Fn(Algorithm) -> anyhow::Result<Vec<Result<Box<dyn Peer>, peers::Absent>>>,
) -> anyhow::Result<()> {
    let turns = if options.scope.quick { 1_500 } else { 10_000 };
    for (algorithm, name) in [(Algorithm::Aes256Gcm, "aes256gcm"), (Algorithm::Aes128Gcm, "aes128gcm")] {
        for mixture in mixtures() {
            let cases = ["seal", "open"].map(|way| format!("{prefix}{way}/{name}/{}", mixture.name));
            if !cases.iter().any(|case| options.scope.wants(case)) {
                continue;
            }
            let peers = peers(algorithm).context("setting the peers up")?;
            measure(peers, algorithm, &mixture, &cases, turns, report)?;
        }
    }
    Ok(())
}

/// What one implementation took.
#[derive(Default)]
struct Both {
    seal: Times,
    open: Times,
}

fn measure(
    peers: Vec<Result<Box<dyn Peer>, Absent>>,
    algorithm: Algorithm,
    mixture: &Mixture,
    cases: &[String; 2],
    turns: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (mut present, mut missing) = (Vec::new(), Vec::new());
    for peer in peers {
        match peer {
            Ok(peer) => present.push((peer, Both::default())),
            Err(absent) => missing.push(absent),
        }
    }
    let mut batches = Batch::several(&mixture.sizes);
    let packets = BATCH * batches.len();
    let clock = clock_overhead();
    // About twenty microseconds at 5 GB/s and 20 ns per packet.
    let octets: usize = batches.iter().map(Batch::octets).sum();
    let rounds = (20_000 / (octets / 5 + 20 * BATCH * batches.len())).clamp(1, 64);

    for _ in 0..turns {
        for (peer, times) in &mut present {
            let before = frame();
            let (mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO);
            // Untimed: the previous implementation left its code in the caches and its habits in the predictors.
            for batch in &mut batches {
                peer.seal(batch);
                peer.open(batch);
            }
            for _ in 0..rounds {
                let start = Instant::now();
                for batch in &mut batches {
                    peer.seal(batch);
                }
                sealing += start.elapsed().saturating_sub(clock);
                let start = Instant::now();
                let mut right = true;
                for batch in &mut batches {
                    right &= peer.open(batch);
                }
                opening += start.elapsed().saturating_sub(clock);
                anyhow::ensure!(right, "{} does not open what it sealed", peer.name());
            }
            let frame = (before, frame());
            times.seal.add(sealing, packets * rounds, frame);
            times.open.add(opening, packets * rounds, frame);
        }
    }

    let usual = usual(present.iter().flat_map(|(_, times)| times.seal.frames()));
    let bound = limit::nanoseconds(algorithm, &mixture.sizes);
    let directions: [fn(&Both) -> &Times; 2] = [|times| &times.seal, |times| &times.open];
    for (case, direction) in cases.iter().zip(directions) {
        for (peer, times) in &present {
            let samples = direction(times).steady(usual);
            report.row_with_limit(case, &peer.name(), UNIT, &samples, bound);
        }
        for absent in &missing {
            report.absent(case, absent.name, UNIT, &absent.why);
        }
    }
    Ok(())
}
