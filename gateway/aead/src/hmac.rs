//! HMAC (RFC 2104) from states that have absorbed the key already, so that a packet costs two blocks of hashing less.

use sha1::Sha1;
use sha2::digest::block_api::CoreProxy;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest, Sha256, Sha384, Sha512};
use zeroize::{Zeroize, Zeroizing};

use crate::Hmac;
use crate::key::POWERS;

/// Octets of the longest tag.
pub(crate) const MAX_TAG: usize = 32;

/// Octets of the largest block, that of SHA-512.
const MAX_BLOCK: usize = 128;

/// Words that one state has, SHA-512's being the largest.
const STATE: usize = 5;

/// Writes the inner and the outer hash's state for `key`, which is no longer than a block.
pub(crate) fn prepare(kind: Hmac, key: &[u8], words: &mut [u128; POWERS]) {
    match kind {
        Hmac::Sha1 => absorb::<Sha1>(64, key, words),
        Hmac::Sha256 => absorb::<Sha256>(64, key, words),
        Hmac::Sha384 => absorb::<Sha384>(128, key, words),
        Hmac::Sha512 => absorb::<Sha512>(128, key, words),
    }
}

/// The HMAC of all parts together, which is to be cut to the tag's length. `None` if the words are not those of
/// [`prepare`].
pub(crate) fn compute(kind: Hmac, words: &[u128; POWERS], parts: &[&[u8]]) -> Option<[u8; MAX_TAG]> {
    match kind {
        Hmac::Sha1 => hash::<Sha1>(words, parts),
        Hmac::Sha256 => hash::<Sha256>(words, parts),
        Hmac::Sha384 => hash::<Sha384>(words, parts),
        Hmac::Sha512 => hash::<Sha512>(words, parts),
    }
}

/// A hash whose state between blocks can be kept.
trait Resumable: Digest + CoreProxy<Core: SerializableState> {}

impl<H: Digest + CoreProxy<Core: SerializableState>> Resumable for H {}

fn absorb<H: Resumable>(block_len: usize, key: &[u8], words: &mut [u128; POWERS]) {
    for (state, pad) in words.chunks_exact_mut(STATE).zip([0x36, 0x5c]) {
        let mut block = Zeroizing::new([pad; MAX_BLOCK]);
        block.iter_mut().zip(key).for_each(|(to, from)| *to ^= *from);
        let (core, _) = H::new_with_prefix(block.split_at(block_len).0).decompose();
        let mut octets = core.serialize();
        for (word, octets) in state.iter_mut().zip(octets.chunks(16)) {
            let mut padded = Zeroizing::new([0; 16]);
            padded.iter_mut().zip(octets).for_each(|(to, from)| *to = *from);
            *word = u128::from_ne_bytes(*padded);
        }
        octets.as_mut_slice().zeroize();
    }
}

fn hash<H: Resumable>(words: &[u128; POWERS], parts: &[&[u8]]) -> Option<[u8; MAX_TAG]> {
    let mut states = words.chunks_exact(STATE).map(resume::<H>);
    let (mut inner, mut outer) = (states.next()??, states.next()??);
    parts.iter().for_each(|part| inner.update(part));
    outer.update(inner.finalize());
    let mut tag = [0; MAX_TAG];
    tag.iter_mut().zip(outer.finalize()).for_each(|(to, from)| *to = from);
    Some(tag)
}

fn resume<H: Resumable>(state: &[u128]) -> Option<H> {
    let mut octets = SerializedState::<H::Core>::default();
    for (octets, word) in octets.chunks_mut(16).zip(state) {
        octets.iter_mut().zip(word.to_ne_bytes()).for_each(|(to, from)| *to = from);
    }
    let core = H::Core::deserialize(&octets).ok();
    octets.as_mut_slice().zeroize();
    Some(H::compose(core?, Default::default()))
}
