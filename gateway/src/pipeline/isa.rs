//! The hot path, compiled once for any processor of the architecture and once for what most of today have, so that a
//! plain build has both. Which it is, is settled when the pipeline is made.

#![expect(unsafe_code, reason = "calls a function compiled for instruction sets that were detected first")]

use super::{FrameSource, Ingress, Output, Pipeline};
use crate::coarse::Coarse;
use crate::frame::Frame;

/// What the hot path is compiled for. What hangs off it is compiled for any processor.
#[derive(Debug, Clone, Copy)]
pub(super) enum Isa {
    /// Of x86-64, what its third level has: AVX2, BMI, MOVBE.
    #[cfg(target_arch = "x86_64")]
    V3,
    Any,
}

impl Isa {
    /// The best that this processor runs.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2")
                && has!("bmi1")
                && has!("bmi2")
                && has!("lzcnt")
                && has!("movbe")
                && has!("popcnt")
            {
                return Self::V3;
            }
        }
        Self::Any
    }
}

/// [`Pipeline::process`].
#[inline]
pub(super) fn process(
    pipeline: &mut Pipeline,
    now: Coarse,
    ingress: Ingress,
    batch: &mut Vec<Frame>,
    spare: &mut dyn FrameSource,
    out: &mut Output,
) {
    match pipeline.isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Isa::detect` has found what it is compiled for.
        Isa::V3 => unsafe { process_v3(pipeline, now, ingress, batch, spare, out) },
        Isa::Any => pipeline.process_batch(now, ingress, batch, spare, out),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,movbe,popcnt")]
fn process_v3(
    pipeline: &mut Pipeline,
    now: Coarse,
    ingress: Ingress,
    batch: &mut Vec<Frame>,
    spare: &mut dyn FrameSource,
    out: &mut Output,
) {
    pipeline.process_batch(now, ingress, batch, spare, out);
}
