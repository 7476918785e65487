//! The engines of x86-64. Start at [`table`]; `vaes512` is the one that matters, `aesni` and `vaes256` are two widths
//! of `narrow`. Keys are expanded by `expand` for all of them; `job` and `block` are what they share.
#![expect(unsafe_code, reason = "calls functions compiled for instruction sets that were detected first")]

mod aesni;
mod block;
mod expand;
mod job;
mod narrow;
mod vaes256;
mod vaes512;

use crate::engine::Table;
use crate::{EngineKind, Packet, portable};

/// The functions of an engine, or what the processor lacks.
pub(crate) fn table(kind: EngineKind) -> Result<&'static Table, &'static str> {
    macro_rules! need {
        ($($feature:tt)*) => {{
            $(if !std::arch::is_x86_feature_detected!($feature) {
                return Err($feature);
            })*
        }};
    }
    // For the key schedule, the powers of H and what every engine does with single blocks.
    if kind != EngineKind::Portable {
        need!("aes" "pclmulqdq" "ssse3" "sse4.1");
    }
    match kind {
        EngineKind::Portable => return Ok(&portable::TABLE),
        EngineKind::AesNi => {}
        EngineKind::Vaes256 => need!("avx2" "vaes" "vpclmulqdq"),
        EngineKind::Vaes512 => need!("avx512f" "avx512bw" "avx512vl" "vaes" "vpclmulqdq" "bmi2"),
    }
    macro_rules! table_of {
        ($engine:ident) => {
            &Table {
                // SAFETY: the instruction sets were found just now, and the table is to be had only here.
                expand: |key| unsafe { expand::expand(key) },
                // SAFETY: as above.
                seal: |packets| unsafe { $engine::run::<true>(packets) },
                // SAFETY: as above.
                open: |packets| unsafe { $engine::run::<false>(packets) },
            }
        };
    }
    Ok(match kind {
        EngineKind::Portable => &portable::TABLE,
        EngineKind::AesNi => table_of!(aesni),
        EngineKind::Vaes256 => table_of!(vaes256),
        EngineKind::Vaes512 => table_of!(vaes512),
    })
}

/// A packet that no kernel takes: one without room for a tag, or with a key of the portable engine.
#[cold]
fn other<const SEAL: bool>(packet: &mut Packet<'_>) {
    let packet = std::slice::from_mut(packet);
    if SEAL { portable::seal(packet) } else { portable::open(packet) }
}
