//! Which engines there are, and the choice between them.

use crate::key::Schedule;
use crate::{Algorithm, Key, Packet, self_test};

/// Which implementation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// AVX-512 with VAES and VPCLMULQDQ.
    Vaes512,
    /// AVX2 with VAES and VPCLMULQDQ.
    Vaes256,
    /// AES-NI with PCLMULQDQ.
    AesNi,
    /// The aes-gcm and ghash crates: the reference that the others are tested against.
    Portable,
}

impl EngineKind {
    /// Every kind, the fastest first.
    pub const ALL: &[Self] = &[Self::Vaes512, Self::Vaes256, Self::AesNi, Self::Portable];

    /// As configuration, `status` and `/metrics` write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vaes512 => "vaes512",
            Self::Vaes256 => "vaes256",
            Self::AesNi => "aesni",
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
        /// The first CPU feature that is missing, as in `/proc/cpuinfo` or the architecture itself.
        missing: &'static str,
    },
}

/// An engine's functions.
pub(crate) struct Table {
    /// Fills in what [`Key::raw`] leaves out.
    pub(crate) expand: fn(&mut Key),
    pub(crate) seal: fn(&mut [Packet<'_>]),
    pub(crate) open: fn(&mut [Packet<'_>]),
}

/// The functions of an engine, or what the processor lacks.
#[cfg(target_arch = "x86_64")]
use crate::x86::table;

#[cfg(not(target_arch = "x86_64"))]
fn table(kind: EngineKind) -> Result<&'static Table, &'static str> {
    match kind {
        EngineKind::Portable => Ok(&crate::portable::TABLE),
        EngineKind::Vaes512 | EngineKind::Vaes256 | EngineKind::AesNi => Err("x86-64"),
    }
}

/// The chosen implementation. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Engine {
    kind: EngineKind,
    table: &'static Table,
}

impl Engine {
    /// The engine of that kind, or the fastest that this processor runs.
    ///
    /// Whatever could be chosen is put to the self-test first: a processor that fails it in one engine is not
    /// trusted with another.
    pub fn select(wanted: Option<EngineKind>) -> Result<Self, EngineError> {
        if let Some(kind) = wanted {
            let table = table(kind).map_err(|missing| EngineError::Unsupported { kind, missing })?;
            return Self { kind, table }.tested();
        }
        let mut fastest = None;
        for kind in EngineKind::ALL.iter().copied() {
            if let Ok(table) = table(kind) {
                let engine = Self { kind, table }.tested()?;
                fastest = fastest.or(Some(engine));
            }
        }
        // The portable engine is never unsupported.
        fastest.ok_or(EngineError::SelfTest(EngineKind::Portable))
    }

    fn tested(self) -> Result<Self, EngineError> {
        if self_test::passes(self) { Ok(self) } else { Err(EngineError::SelfTest(self.kind)) }
    }

    /// Which it is.
    pub fn kind(&self) -> EngineKind {
        self.kind
    }

    /// Expands a key of [`Algorithm::key_len`] octets; `None` if the length does not fit the algorithm. Every engine
    /// takes keys that another has expanded, though it may be slower with them.
    pub fn key(&self, algorithm: Algorithm, key: &[u8]) -> Option<Key> {
        let mut key = Key::raw(algorithm, key)?;
        if key.schedule != Schedule::Interop {
            (self.table.expand)(&mut key);
        }
        Some(key)
    }

    /// Encrypts every buffer in place and writes its tag.
    pub fn seal(&self, packets: &mut [Packet<'_>]) {
        (self.table.seal)(packets);
    }

    /// Checks every tag, decrypts those packets whose tag is right, and says which in [`Packet::authentic`].
    pub fn open(&self, packets: &mut [Packet<'_>]) {
        (self.table.open)(packets);
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({})", self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_kinds() {
        for kind in EngineKind::ALL {
            assert_eq!(EngineKind::from_name(kind.name()), Some(*kind));
        }
        assert_eq!(EngineKind::from_name("fastest"), None);
    }

    #[test]
    fn the_fastest_that_the_processor_runs_is_chosen() {
        let fastest = EngineKind::ALL.iter().find(|kind| table(**kind).is_ok());
        assert_eq!(Some(Engine::select(None).unwrap().kind()), fastest.copied());
    }

    #[test]
    fn an_engine_that_gives_a_wrong_answer_is_refused() {
        fn seal_wrongly(packets: &mut [Packet<'_>]) {
            crate::portable::seal(packets);
            if let Some(octet) = packets.last_mut().and_then(|packet| packet.buffer.last_mut()) {
                *octet ^= 1;
            }
        }
        fn believe_all(packets: &mut [Packet<'_>]) {
            crate::portable::open(packets);
            packets.iter_mut().for_each(|packet| packet.authentic = true);
        }
        let portable = &crate::portable::TABLE;
        static SEALS_WRONGLY: Table =
            Table { seal: seal_wrongly, expand: |_| (), open: crate::portable::open };
        static BELIEVES_ALL: Table = Table { open: believe_all, expand: |_| (), seal: crate::portable::seal };
        for (table, trusted) in [(portable, true), (&SEALS_WRONGLY, false), (&BELIEVES_ALL, false)] {
            let verdict = Engine { kind: EngineKind::Portable, table }.tested();
            assert_eq!(verdict.is_ok(), trusted);
        }
    }
}
