//! The packets that every implementation works on.

use portcullis_aead::TAG_LEN;

use super::BATCH;

/// Octets in front of each text, as ESP in a frame has them: headers, SPI, sequence number, explicit IV.
const HEADROOM: usize = 50;

/// Every octet of the salt with which nonces begin; behind it an IV that counts (RFC 4106 §4), as every gateway makes them.
const SALT: u8 = 0x5a;

/// Octets of AAD: SPI and sequence number.
pub(crate) const AAD_LEN: usize = 8;

/// Memory that all the batches of a case take together: half of the first-level cache.
const MEMORY: usize = 24 * 1024;

/// A packet in memory.
pub(crate) struct Frame {
    pub(crate) nonce: [u8; 12],
    /// The first [`AAD_LEN`] octets count.
    pub(crate) aad: [u8; 12],
    memory: Vec<u8>,
}

impl Frame {
    /// Text and tag.
    pub(crate) fn buffer(&mut self) -> &mut [u8] {
        self.memory.get_mut(HEADROOM..).unwrap_or_default()
    }
}

/// Packets of sizes that take turns.
pub(crate) struct Batch {
    pub(crate) frames: [Frame; BATCH],
}

impl Batch {
    /// As many as fit the cache, and one at least: the more, the fewer readings of the clock.
    pub(crate) fn several(sizes: &[usize]) -> Vec<Self> {
        let first = Self::new(sizes, 0);
        let count = (MEMORY / first.octets()).clamp(1, 16);
        let rest = (1..count).map(|at| Self::new(sizes, at * BATCH));
        std::iter::once(first).chain(rest).collect()
    }

    fn new(sizes: &[usize], offset: usize) -> Self {
        let mut sizes = sizes.iter().copied().cycle().skip(offset % sizes.len().max(1));
        let frames = std::array::from_fn(|at| {
            let len = HEADROOM + sizes.next().unwrap_or_default() + TAG_LEN;
            let iv = (offset + at) as u64 + 1;
            let mut nonce = [SALT; 12];
            nonce[4..].copy_from_slice(&iv.to_be_bytes());
            Frame { nonce, aad: [at as u8; 12], memory: vec![at as u8; len] }
        });
        Self { frames }
    }

    /// Octets of text and tags.
    pub(crate) fn octets(&self) -> usize {
        self.frames.iter().map(|frame| frame.memory.len() - HEADROOM).sum()
    }
}
