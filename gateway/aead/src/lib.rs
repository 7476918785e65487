//! Batch AEAD engines for ESP (RFC 4106): AES-GCM with AVX-512, AVX2, AES-NI, or portable code.
//!
//! A worker hands over a slice of packets, each with its key, nonce, AAD and buffer; packets of one batch may
//! belong to different SAs. The engine is chosen once at start ([`Engine::select`]), after a known-answer
//! self-test of every engine that it could choose, and never per packet. Start at [`Engine`]; what an SA keeps in
//! memory is in `key`, the engines of x86-64 are in `x86`, and `portable` is the reference that each of them is
//! tested against.

mod engine;
mod key;
mod portable;
mod self_test;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use engine::{Engine, EngineError, EngineKind};
pub use key::{Algorithm, Key};

/// Octets of the tag that closes each buffer.
pub const TAG_LEN: usize = 16;

/// Longest AAD: SPI and a 64-bit sequence number (RFC 4106 §5).
pub const MAX_AAD: usize = 12;

/// Longest buffer, tag included. GCM's own limit (2^36 octets) is far beyond any packet.
pub const MAX_BUFFER: usize = 1 << 28;

/// One packet of a batch.
#[repr(C, align(64))]
pub struct Packet<'a> {
    /// Its SA's key.
    pub key: &'a Key,
    /// Salt and explicit IV.
    pub nonce: [u8; 12],
    /// Additional data, `aad_len` octets of it; the rest is ignored.
    pub aad: [u8; MAX_AAD],
    /// 8 or 12 in ESP. Anything above [`MAX_AAD`] counts as [`MAX_AAD`].
    pub aad_len: usize,
    /// What is sealed or opened in place, then [`TAG_LEN`] octets for the tag. A buffer without room for a tag, or
    /// longer than [`MAX_BUFFER`], is left alone and never authentic.
    pub buffer: &'a mut [u8],
    /// After [`Engine::open`]: whether the tag was right. A packet whose tag was wrong holds zeros.
    pub authentic: bool,
}

/// Neither text nor key.
impl std::fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let octets = self.buffer.len();
        f.debug_struct("Packet")
            .field("octets", &octets)
            .field("authentic", &self.authentic)
            .finish_non_exhaustive()
    }
}
