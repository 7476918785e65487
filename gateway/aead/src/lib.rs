//! Batch AEAD engines for ESP (RFC 4106).
//!
//! A worker hands over a slice of packets, each with its key, nonce, AAD and buffer; packets of one batch may
//! belong to different SAs. The engine is chosen once at start ([`Engine::select`]), after a known-answer
//! self-test of every engine that it could choose, and never per packet.

/// A cipher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// AES-128-GCM with a 16-octet tag.
    Aes128Gcm,
    /// AES-256-GCM with a 16-octet tag.
    Aes256Gcm,
}

/// Octets of the tag that closes each buffer.
pub const TAG_LEN: usize = 16;

/// Longest AAD: SPI and a 64-bit sequence number (RFC 4106 §5).
pub const MAX_AAD: usize = 12;

/// Which implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// The aes-gcm and ghash crates: the reference that the others are tested against.
    Portable,
}

/// Why no engine could be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// A known answer came out wrong: the processor or the build cannot be trusted.
    #[error("the {0:?} engine failed its known-answer self-test")]
    SelfTest(EngineKind),
    /// Asked for by name, but the processor lacks an instruction set.
    #[error("this processor cannot run the {kind:?} engine: it lacks {missing}")]
    Unsupported {
        /// The engine.
        kind: EngineKind,
        /// CPU features.
        missing: &'static str,
    },
}

/// The chosen implementation. Cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Engine {}

/// A key, expanded once per SA. Pointer-free; zeroized on drop.
pub struct Key {}

/// One packet of a batch.
pub struct Packet<'a> {
    /// Its SA's key.
    pub key: &'a Key,
    /// Salt and explicit IV.
    pub nonce: [u8; 12],
    /// Additional data, `aad_len` octets of it.
    pub aad: [u8; MAX_AAD],
    /// 8 or 12.
    pub aad_len: usize,
    /// What is sealed or opened in place, then [`TAG_LEN`] octets for the tag.
    pub buffer: &'a mut [u8],
    /// After [`Engine::open`]: whether the tag was right. A packet whose tag was wrong holds no plaintext.
    pub authentic: bool,
}

impl Engine {
    /// The engine of that kind, or the fastest that this processor runs.
    pub fn select(_wanted: Option<EngineKind>) -> Result<Self, EngineError> {
        todo!()
    }

    /// Which it is.
    pub fn kind(&self) -> EngineKind {
        todo!()
    }

    /// Expands a key of 16 or 32 octets; `None` if the length is another.
    pub fn key(&self, _algorithm: Algorithm, _key: &[u8]) -> Option<Key> {
        todo!()
    }

    /// Encrypts every buffer in place and writes its tag.
    pub fn seal(&self, _packets: &mut [Packet<'_>]) {
        todo!()
    }

    /// Checks every tag, decrypts those that are right, and says which in [`Packet::authentic`].
    pub fn open(&self, _packets: &mut [Packet<'_>]) {
        todo!()
    }
}
