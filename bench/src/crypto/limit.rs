//! What the processor's AES units allow at best: VAESENC on 512-bit vectors, issued as fast as they go.
//!
//! The limit of a case is every round of every block. Our engine on AVX-512 shares the first round among the packets of
//! a key, so that it can come to 108 % of that.
#![expect(unsafe_code, reason = "an instruction set that is detected first")]

use std::sync::OnceLock;
use std::time::Instant;

use portcullis_aead::Algorithm;

use crate::report::{Report, Samples};

/// A row for it, and what it means in octets.
pub(crate) fn report(report: &mut Report) {
    const UNIT: &str = "ns_per_instruction";
    let case = "limit/vaesenc";
    let Some(each) = vaesenc() else {
        return report.absent(case, "processor", UNIT, "no VAES on AVX-512");
    };
    report.row(case, "processor", UNIT, &Samples::single(each));
    report.note(&format!(
        "VAESENC on 512 bits: {:.2} G/s; so AES-256 at most {:.1} GB/s, AES-128 {:.1}",
        1.0 / each,
        64.0 / 14.0 / each,
        64.0 / 10.0 / each
    ));
}

/// Nanoseconds per VAESENC of four blocks; `None` where there is none.
pub(crate) fn vaesenc() -> Option<f64> {
    static MEASURED: OnceLock<Option<f64>> = OnceLock::new();
    *MEASURED.get_or_init(measure)
}

/// Nanoseconds per packet that AES alone takes, if every vector is full: one block for the tag, and the text.
pub(crate) fn nanoseconds(algorithm: Algorithm, sizes: &[usize]) -> Option<f64> {
    let rounds = match algorithm {
        Algorithm::Aes128Gcm => 10.0,
        Algorithm::Aes256Gcm => 14.0,
        _ => return None,
    };
    let blocks: usize = sizes.iter().map(|size| 1 + size.div_ceil(16)).sum();
    vaesenc().map(|each| each * rounds * blocks as f64 / 4.0 / sizes.len() as f64)
}

#[cfg(target_arch = "x86_64")]
fn measure() -> Option<f64> {
    if !(std::arch::is_x86_feature_detected!("vaes") && std::arch::is_x86_feature_detected!("avx512f")) {
        return None;
    }
    const TIMES: u32 = 500;
    // SAFETY: detected just now.
    let once = || unsafe { eight_chains(TIMES) };
    // Some tens of milliseconds: it takes a while until the wide units are awake and the clock has settled.
    let best = (0..40_000).map(|_| once()).min_by(f64::total_cmp)?;
    Some(best / f64::from(8 * TIMES))
}

#[cfg(not(target_arch = "x86_64"))]
fn measure() -> Option<f64> {
    None
}

/// Nanoseconds that eight chains of so many instructions take. Latency is three cycles: eight hide it.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,vaes")]
fn eight_chains(times: u32) -> f64 {
    use std::arch::x86_64::{_mm512_aesenc_epi128, _mm512_set1_epi64};
    let key = _mm512_set1_epi64(std::hint::black_box(3));
    let mut chains = [key; 8];
    let start = Instant::now();
    for _ in 0..times {
        for chain in &mut chains {
            *chain = _mm512_aesenc_epi128(*chain, key);
        }
    }
    let elapsed = start.elapsed();
    std::hint::black_box(chains);
    elapsed.as_nanos() as f64
}
