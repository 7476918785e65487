//! `bench crypto`: nanoseconds per packet of every AEAD engine and its peers, in batches of 32 packets of one SA that
//! lie in one worker's cache, sealed and opened in place.
//!
//! What is timed: for our engines, putting the batch together and working it off; for peers, whose interface takes a
//! packet at a time, a loop of calls with nonces and AAD laid out before (writing them just before each call costs
//! ipsec-mb another 10 ns, which is left out in its favour). A sample is some twenty microseconds; the
//! implementations take turns sample by sample. Each sample is framed by a fixed number of multiplications: where those
//! took longer or shorter than usual (another clock, a neighbour on the core), the sample is thrown away.

mod batch;
mod ipsec_mb;
mod limit;
mod peers;

use std::time::{Duration, Instant};

use anyhow::Context;
use portcullis_aead::{Algorithm, Engine, EngineKind};

use crate::report::{Output, Report, Samples};
use batch::Batch;
use peers::Peer;

/// Packets per batch.
pub(crate) const BATCH: usize = 32;

const UNIT: &str = "ns_per_packet";

/// How far a sample's frame may be from the median, in percent.
const DRIFT: f64 = 4.0;

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    output: Output,
    /// Fewer samples: under a minute
    #[arg(long)]
    quick: bool,
    /// Only cases that contain this, such as `seal/aes256gcm/64`
    #[arg(long)]
    only: Option<String>,
}

/// A mixture of packet sizes: octets of text, in the order in which they come.
struct Mixture {
    name: String,
    sizes: Vec<usize>,
}

fn mixtures() -> Vec<Mixture> {
    let single = |size: usize| Mixture { name: size.to_string(), sizes: vec![size] };
    let mut mixtures: Vec<Mixture> = [64, 128, 256, 512, 1024, 1424, 8960].into_iter().map(single).collect();
    let imix = vec![64, 576, 64, 64, 576, 64, 1424, 64, 576, 64, 64, 576];
    mixtures.push(Mixture { name: "imix".into(), sizes: imix });
    mixtures
}

/// Runs and prints it.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let turns = if options.quick { 1_500 } else { 10_000 };
    let engines =
        EngineKind::ALL.iter().filter_map(|kind| Engine::select(Some(*kind)).ok()).collect::<Vec<_>>();
    let mut report = Report::new("crypto", options.output).with_baseline("ipsec-mb");
    limit::report(&mut report);
    for (algorithm, name) in [(Algorithm::Aes256Gcm, "aes256gcm"), (Algorithm::Aes128Gcm, "aes128gcm")] {
        for mixture in mixtures() {
            let cases = [format!("seal/{name}/{}", mixture.name), format!("open/{name}/{}", mixture.name)];
            if options.only.as_ref().is_some_and(|only| !cases.iter().any(|case| case.contains(only))) {
                continue;
            }
            let peers = peers::all(&engines, algorithm).context("setting the peers up")?;
            measure(peers, algorithm, &mixture, &cases, turns, &mut report)?;
        }
    }
    Ok(())
}

/// What one implementation took, in nanoseconds per packet.
#[derive(Default)]
struct Times {
    seal: Vec<f64>,
    open: Vec<f64>,
    /// What ran before and after each.
    frames: Vec<(u128, u128)>,
}

fn measure(
    peers: Vec<Result<Box<dyn Peer>, peers::Absent>>,
    algorithm: Algorithm,
    mixture: &Mixture,
    cases: &[String; 2],
    turns: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (mut present, mut missing) = (Vec::new(), Vec::new());
    for peer in peers {
        match peer {
            Ok(peer) => present.push((peer, Times::default())),
            Err(absent) => missing.push(absent),
        }
    }
    let mut batches = Batch::several(&mixture.sizes);
    let packets = (BATCH * batches.len()) as u128;
    let clock = clock_overhead();
    // About twenty microseconds at 5 GB/s and 20 ns per packet.
    let octets: usize = batches.iter().map(Batch::octets).sum();
    let rounds = (20_000 / (octets / 5 + 20 * BATCH * batches.len())).clamp(1, 64) as u128;

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
            let per_packet = |time: Duration| time.as_nanos() as f64 / (packets * rounds) as f64;
            times.seal.push(per_packet(sealing));
            times.open.push(per_packet(opening));
            times.frames.push((before, frame()));
        }
    }

    let usual = usual(present.iter().flat_map(|(_, times)| &times.frames));
    let bound = limit::nanoseconds(algorithm, &mixture.sizes);
    let directions: [fn(&Times) -> &[f64]; 2] = [|times| &times.seal, |times| &times.open];
    for (case, direction) in cases.iter().zip(directions) {
        for (peer, times) in &present {
            let mut samples = Samples::new();
            for (time, frames) in direction(times).iter().zip(&times.frames) {
                if is_steady(*frames, usual) {
                    samples.record(*time);
                } else {
                    samples.throw_away();
                }
            }
            report.row_with_limit(case, &peer.name(), UNIT, &samples, bound);
        }
        for absent in &missing {
            report.absent(case, absent.name, UNIT, &absent.why);
        }
    }
    Ok(())
}

/// What a pair of clock readings costs.
fn clock_overhead() -> Duration {
    (0..1000).map(|_| Instant::now().elapsed()).min().unwrap_or_default()
}

/// Nanoseconds of a fixed number of multiplications, in eight chains: as many as the processor can issue.
fn frame() -> u128 {
    let mut chains = std::hint::black_box([3_u64, 5, 7, 11, 13, 17, 19, 23]);
    let start = Instant::now();
    for _ in 0..400 {
        for chain in &mut chains {
            *chain = chain.wrapping_mul(0xd134_2543_de82_ef95);
        }
    }
    let elapsed = start.elapsed();
    std::hint::black_box(chains);
    elapsed.as_nanos()
}

/// The median frame.
fn usual<'a>(frames: impl Iterator<Item = &'a (u128, u128)>) -> u128 {
    let mut sorted: Vec<u128> = frames.flat_map(|(before, after)| [*before, *after]).collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn is_steady((before, after): (u128, u128), usual: u128) -> bool {
    [before, after].into_iter().all(|frame| frame.abs_diff(usual) as f64 <= usual as f64 * DRIFT / 100.0)
}
