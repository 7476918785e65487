//! What a reader notices of a writer: the time of each batch of 32 lookups with their keys, as a distribution, alone and
//! beside a writer that replaces SAs as fast as it can (`portcullis-churned`).

use std::time::Instant;

use core_affinity::CoreId;
use hdrhistogram::Histogram;

use super::churn::{Churn, Target};
use super::lookup::{Touch, inbound_batch};
use super::world::World;
use super::{BATCH, preemptions};
use crate::report::{Report, Samples};

const UNIT: &str = "ns_per_batch";
/// Batches between two looks at the writer.
const RUN: usize = 512;

/// Measures so many runs alone and as many beside the writer, in turns.
pub(crate) fn run(
    report: &mut Report,
    world: &World,
    core: Option<CoreId>,
    turns: usize,
) -> anyhow::Result<()> {
    let mut reader =
        world.sas.reclaimer().register().ok_or_else(|| anyhow::anyhow!("no place for a reader"))?;
    let mut batches = world.spis.chunks(BATCH).cycle();
    let mut distributions = [Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?];
    Churn::beside(world, core, |churn| {
        for _ in 0..turns {
            for (target, distribution) in [Target::Nothing, Target::Ours].into_iter().zip(&mut distributions)
            {
                churn.turn_to(target);
                for _ in 0..RUN {
                    let Some(batch) = batches.next() else { break };
                    let before = preemptions();
                    let start = Instant::now();
                    std::hint::black_box(inbound_batch(world, &mut reader, batch, Touch::Key));
                    let elapsed = start.elapsed();
                    if preemptions() == before {
                        distribution.record(elapsed.as_nanos() as u64)?;
                    }
                }
                reader.offline();
            }
        }
        churn.turn_to(Target::Nothing);
        Ok(())
    })?;
    for (name, part) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)] {
        for (who, distribution) in ["portcullis", "portcullis-churned"].into_iter().zip(&distributions) {
            let value = Samples::single(distribution.value_at_quantile(part) as f64);
            report.row(&format!("latency/{name}/{}", world.pairs), who, UNIT, &value);
        }
    }
    Ok(())
}
