//! Samples that can be trusted: each is framed by a fixed number of multiplications, and thrown away where those took
//! longer or shorter than usual (another clock, a neighbour on the core).

use std::time::{Duration, Instant};

use crate::report::Samples;

/// How far a sample's frame may be from the median, in percent.
const DRIFT: f64 = 4.0;

/// What ran before and after a sample, nanoseconds each.
pub(crate) type Frame = (u128, u128);

/// What something took, again and again, in nanoseconds per packet.
#[derive(Debug, Default)]
pub(crate) struct Times {
    samples: Vec<f64>,
    frames: Vec<Frame>,
}

impl Times {
    /// Adds one: what `packets` took between two calls of [`frame`].
    pub(crate) fn add(&mut self, time: Duration, packets: usize, frame: Frame) {
        self.samples.push(time.as_nanos() as f64 / packets.max(1) as f64);
        self.frames.push(frame);
    }

    /// The frames of its samples.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter()
    }

    /// Those whose frame was as `usual`; the others are thrown away.
    pub(crate) fn steady(&self, usual: u128) -> Samples {
        let mut samples = Samples::new();
        for (time, frame) in self.samples.iter().zip(&self.frames) {
            if is_steady(*frame, usual) {
                samples.record(*time);
            } else {
                samples.throw_away();
            }
        }
        samples
    }
}

/// Keeps this thread on the first processor: what it measures stays in one core's caches.
pub(crate) fn stay_on_one_core() -> anyhow::Result<()> {
    let first = core_affinity::get_core_ids().and_then(|cores| cores.first().copied());
    let stays = first.is_some_and(core_affinity::set_for_current);
    anyhow::ensure!(stays, "cannot stay on one processor");
    Ok(())
}

/// What a pair of clock readings costs.
pub(crate) fn clock_overhead() -> Duration {
    (0..1000).map(|_| Instant::now().elapsed()).min().unwrap_or_default()
}

/// Nanoseconds of a fixed number of multiplications, in eight chains: as many as the processor can issue.
pub(crate) fn frame() -> u128 {
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
pub(crate) fn usual<'a>(frames: impl Iterator<Item = &'a Frame>) -> u128 {
    let mut sorted: Vec<u128> = frames.flat_map(|(before, after)| [*before, *after]).collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn is_steady((before, after): Frame, usual: u128) -> bool {
    [before, after].into_iter().all(|frame| frame.abs_diff(usual) as f64 <= usual as f64 * DRIFT / 100.0)
}
