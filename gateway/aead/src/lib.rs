//! Batch AEAD engines for ESP (RFC 4106).
//!
//! A worker hands over a slice of packets, each with its key, nonce, AAD and buffer; packets of one batch may
//! belong to different SAs. The engine is chosen once at start ([`Engine::select`]), after a known-answer
//! self-test of every engine that it could choose, and never per packet. Start at [`Engine`]; what an SA keeps in
//! memory is in `key`, and `portable` is the reference that every other engine is tested against.

mod key;
mod portable;
mod self_test;

pub use key::{Algorithm, Key};

/// Octets of the tag that closes each buffer.
pub const TAG_LEN: usize = 16;

/// Longest AAD: SPI and a 64-bit sequence number (RFC 4106 §5).
pub const MAX_AAD: usize = 12;

/// Longest buffer, tag included. GCM's own limit (2^36 octets) is far beyond any packet.
pub const MAX_BUFFER: usize = 1 << 30;

/// Which implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// The aes-gcm and ghash crates: the reference that the others are tested against.
    Portable,
}

impl EngineKind {
    /// Every kind, the fastest first.
    pub const ALL: &[Self] = &[Self::Portable];

    /// As configuration, `status` and `/metrics` write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
        }
    }

    /// The kind of that [`EngineKind::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

impl std::fmt::Display for EngineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why no engine could be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// A known answer came out wrong: the processor or the build cannot be trusted.
    #[error("the {0} engine failed its known-answer self-test")]
    SelfTest(EngineKind),
    /// Asked for by name, but the processor lacks an instruction set.
    #[error("this processor cannot run the {kind} engine: it lacks {missing}")]
    Unsupported {
        /// The engine.
        kind: EngineKind,
        /// CPU features.
        missing: &'static str,
    },
}

/// One packet of a batch.
#[derive(Debug)]
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

/// The chosen implementation. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Engine {
    kind: EngineKind,
}

impl Engine {
    /// The engine of that kind, or the fastest that this processor runs.
    pub fn select(wanted: Option<EngineKind>) -> Result<Self, EngineError> {
        let engine = Self { kind: wanted.unwrap_or(EngineKind::Portable) };
        if self_test::passes(engine) { Ok(engine) } else { Err(EngineError::SelfTest(engine.kind)) }
    }

    /// Which it is.
    pub fn kind(&self) -> EngineKind {
        self.kind
    }

    /// Expands a key of 16 or 32 octets; `None` if the length does not fit the algorithm. Every engine takes keys
    /// that another has expanded.
    pub fn key(&self, algorithm: Algorithm, key: &[u8]) -> Option<Key> {
        match self.kind {
            EngineKind::Portable => Key::raw(algorithm, key),
        }
    }

    /// Encrypts every buffer in place and writes its tag.
    pub fn seal(&self, packets: &mut [Packet<'_>]) {
        match self.kind {
            EngineKind::Portable => portable::seal(packets),
        }
    }

    /// Checks every tag, decrypts those that are right, and says which in [`Packet::authentic`].
    pub fn open(&self, packets: &mut [Packet<'_>]) {
        match self.kind {
            EngineKind::Portable => portable::open(packets),
        }
    }
}
