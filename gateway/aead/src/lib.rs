//! Batch AEAD engines for ESP (RFC 4106): AES-GCM with AVX-512, AVX2, AES-NI, or portable code; and, for
//! interoperability, the other algorithms that peers ask for, by way of the RustCrypto crates.
//!
//! A worker hands over a slice of packets, each with its key, nonce, AAD and buffer; packets of one batch may
//! belong to different SAs. The engine is chosen once at start ([`Engine::select`]), after a known-answer
//! self-test of every engine that it could choose, and never per packet. Start at [`Engine`]; what an SA keeps in
//! memory is in `key`, the engines of x86-64 are in `x86`, and `portable` is the reference that each of them is
//! tested against. All engines hand packets of other algorithms to `interop`.

mod engine;
mod hmac;
mod interop;
mod key;
mod portable;
mod self_test;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use engine::{Engine, EngineError, EngineKind};
pub use key::{Aes, Algorithm, Hmac, Key};

/// Octets of the tag that closes each buffer, of AES-GCM; for others see [`Algorithm::tag_len`].
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
    /// Salt and explicit IV; never the same twice under one key. AES-CBC when sealing: what the IV is made of, just
    /// as unique. Not looked at by AES-CBC when opening, nor where nothing but an HMAC is computed.
    pub nonce: [u8; 12],
    /// SPI and sequence number, all 64 bits of it with ESN: the additional data of an AEAD (RFC 4106 §5), `aad_len`
    /// octets of it; the rest is ignored. An HMAC covers the upper half of the sequence number last of all
    /// (RFC 4303 §2.2.1).
    pub aad: [u8; MAX_AAD],
    /// 8 or 12 in ESP. Anything above [`MAX_AAD`] counts as [`MAX_AAD`].
    pub aad_len: usize,
    /// What is sealed or opened in place, then [`Algorithm::tag_len`] octets for the tag. In front of the text are
    /// [`Algorithm::iv_len`] octets of IV: that of AES-CBC is written when sealing, that of others by the caller. A
    /// buffer without room for IV and tag, one of AES-CBC whose text is no whole number of blocks, or one longer than
    /// [`MAX_BUFFER`], is left alone and never authentic.
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
