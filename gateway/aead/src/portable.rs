//! The portable engine: the aes-gcm and ghash crates, on any processor, and the reference for all the others.
//!
//! It keeps no schedule per SA ([`Key`] would double for every engine's sake): the cipher key is expanded anew for
//! each run of packets that share it.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes128Gcm, Aes256Gcm, KeyInit};
use zeroize::Zeroizing;

use crate::engine::Table;
use crate::{Algorithm, Key, MAX_AAD, MAX_BUFFER, Packet, TAG_LEN};

/// Its functions. A key as it came is all it needs.
pub(crate) static TABLE: Table = Table { expand: |_| (), seal, open };

/// The key of the current run of packets.
enum Cipher {
    Aes128(Aes128Gcm),
    Aes256(Aes256Gcm),
}

impl Cipher {
    fn new(key: &Key) -> Self {
        let [first, second, ..] = key.rounds;
        let first = Zeroizing::new(first.to_ne_bytes());
        match key.algorithm() {
            Algorithm::Aes128Gcm => Self::Aes128(Aes128Gcm::new((&*first).into())),
            Algorithm::Aes256Gcm => {
                let second = Zeroizing::new(second.to_ne_bytes());
                let mut whole = Zeroizing::new([0; 32]);
                whole.iter_mut().zip(first.iter().chain(second.iter())).for_each(|(to, from)| *to = *from);
                Self::Aes256(Aes256Gcm::new((&*whole).into()))
            }
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
    for_each_text(packets, |cipher, packet, aad, text, tag| {
        if let Some(computed) = cipher.seal(&packet.nonce, aad, text) {
            *tag = computed;
        }
    });
}

pub(crate) fn open(packets: &mut [Packet<'_>]) {
    for_each_text(packets, |cipher, packet, aad, text, tag| {
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

/// Calls `work` with the cipher, the AAD, the text and the tag of every packet that has room for a tag.
fn for_each_text(
    packets: &mut [Packet<'_>],
    work: impl Fn(&Cipher, Head<'_>, &[u8], &mut [u8], &mut [u8; TAG_LEN]),
) {
    let mut current: Option<(*const Key, Cipher)> = None;
    for packet in packets {
        packet.authentic = false;
        if packet.buffer.len() > MAX_BUFFER {
            continue;
        }
        let Some((text, tag)) = packet.buffer.split_last_chunk_mut() else { continue };
        let (_, cipher) = match current.take() {
            Some(same) if std::ptr::eq(same.0, packet.key) => current.insert(same),
            _ => current.insert((packet.key, Cipher::new(packet.key))),
        };
        let aad = packet.aad.get(..packet.aad_len.min(MAX_AAD)).unwrap_or_default();
        work(cipher, Head { nonce: packet.nonce, authentic: &mut packet.authentic }, aad, text, tag);
    }
}
