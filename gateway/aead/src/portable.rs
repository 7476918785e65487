//! The portable engine: the aes-gcm and ghash crates, on any processor, and the reference for all the others.
//!
//! It keeps no schedule per SA ([`Key`] would double for every engine's sake): the cipher key is expanded anew for
//! each run of packets that share it. Packets of other algorithms than AES-GCM with a whole tag go to `interop`.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes128Gcm, Aes256Gcm, KeyInit};

use crate::engine::Table;
use crate::key::Schedule;
use crate::{Algorithm, Key, MAX_AAD, MAX_BUFFER, Packet, TAG_LEN, interop};

/// Its functions. A key as it came is all it needs.
pub(crate) static TABLE: Table = Table { expand: |_| (), seal, open };

/// The key of the current run of packets.
enum Cipher {
    Aes128(Aes128Gcm),
    Aes256(Aes256Gcm),
}

impl Cipher {
    /// `None` for the key of another algorithm.
    fn new(key: &Key) -> Option<Self> {
        let octets = key.cipher_key();
        match key.algorithm() {
            Algorithm::Aes128Gcm => {
                octets.first_chunk::<16>().map(|key| Self::Aes128(Aes128Gcm::new(key.into())))
            }
            Algorithm::Aes256Gcm => Some(Self::Aes256(Aes256Gcm::new((&*octets).into()))),
            _ => None,
        }
    }

    fn seal(&self, nonce: &[u8; 12], aad: &[u8], text: &mut [u8]) -> Option<[u8; TAG_LEN]> {
        let text = InOutBuf::from(text);
        let tag = match self {
            Self::Aes128(cipher) => cipher.encrypt_inout_detached(nonce.into(), aad, text),
            Self::Aes256(cipher) => cipher.encrypt_inout_detached(nonce.into(), aad, text),
        };
        tag.ok().map(Into::into)
    }

    /// Decrypts only what is authentic.
    fn open(&self, nonce: &[u8; 12], aad: &[u8], text: &mut [u8], tag: &[u8; TAG_LEN]) -> bool {
        let text = InOutBuf::from(text);
        match self {
            Self::Aes128(cipher) => cipher.decrypt_inout_detached(nonce.into(), aad, text, tag.into()),
            Self::Aes256(cipher) => cipher.decrypt_inout_detached(nonce.into(), aad, text, tag.into()),
        }
        .is_ok()
    }
}

pub(crate) fn seal(packets: &mut [Packet<'_>]) {
    for_each_text(packets, interop::seal, |cipher, packet, aad, text, tag| {
        if let Some(computed) = cipher.seal(&packet.nonce, aad, text) {
            *tag = computed;
        }
    });
}

pub(crate) fn open(packets: &mut [Packet<'_>]) {
    for_each_text(packets, interop::open, |cipher, packet, aad, text, tag| {
        *packet.authentic = cipher.open(&packet.nonce, aad, text, tag);
        if !*packet.authentic {
            text.fill(0);
            tag.fill(0);
        }
    });
}

/// The parts of a packet besides its buffer and AAD.
struct Head<'a> {
    nonce: [u8; 12],
    authentic: &'a mut bool,
}

/// Calls `work` with the cipher, the AAD, the text and the tag of every packet that has room for a tag, or `other`
/// with the packet if its algorithm is another.
fn for_each_text(
    packets: &mut [Packet<'_>],
    other: impl Fn(&mut Packet<'_>),
    work: impl Fn(&Cipher, Head<'_>, &[u8], &mut [u8], &mut [u8; TAG_LEN]),
) {
    let mut current: Option<(*const Key, Cipher)> = None;
    for packet in packets {
        packet.authentic = false;
        if packet.buffer.len() > MAX_BUFFER {
            continue;
        }
        if packet.key.schedule == Schedule::Interop {
            other(packet);
            continue;
        }
        let Some((text, tag)) = packet.buffer.split_last_chunk_mut() else { continue };
        if !current.as_ref().is_some_and(|(key, _)| std::ptr::eq(*key, packet.key)) {
            current = Cipher::new(packet.key).map(|cipher| (std::ptr::from_ref(packet.key), cipher));
        }
        let Some((_, cipher)) = &current else { continue };
        let aad = packet.aad.get(..packet.aad_len.min(MAX_AAD)).unwrap_or_default();
        work(cipher, Head { nonce: packet.nonce, authentic: &mut packet.authentic }, aad, text, tag);
    }
}
