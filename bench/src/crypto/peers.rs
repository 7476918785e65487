//! Our engines and their peers behind one interface.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes128Gcm, Aes256Gcm, KeyInit};
use anyhow::Context;
use portcullis_aead::{Algorithm, Engine, Key, Packet, TAG_LEN};

use super::BATCH;
use super::batch::{AAD_LEN, Batch};
use super::ipsec_mb;
use super::restricted::Restriction;

/// An implementation with its key.
pub(crate) trait Peer {
    fn name(&self) -> String;
    fn seal(&mut self, batch: &mut Batch);
    /// Whether all were authentic.
    fn open(&mut self, batch: &mut Batch) -> bool;
}

/// A peer that cannot run here.
pub(crate) struct Absent {
    pub(crate) name: &'static str,
    pub(crate) why: String,
}

const KEY: [u8; 32] = [7; 32];

pub(crate) fn all(
    engines: &[Engine],
    algorithm: Algorithm,
) -> anyhow::Result<Vec<Result<Box<dyn Peer>, Absent>>> {
    let key = KEY.get(..algorithm.key_len()).unwrap_or_default();
    let mut peers: Vec<Result<Box<dyn Peer>, Absent>> = Vec::new();
    for engine in engines {
        let key = engine.key(algorithm, key).context("a key of the algorithm's length")?;
        peers.push(Ok(Box::new(Ours { engine: *engine, key })));
    }
    for fresh in [false, true] {
        peers.push(ipsec_mb::peer(algorithm, key, fresh));
    }
    peers.push(Ok(aws_lc(algorithm, key, "aws-lc-rs")?));
    let ring = match algorithm {
        Algorithm::Aes128Gcm => &ring::aead::AES_128_GCM,
        Algorithm::Aes256Gcm => &ring::aead::AES_256_GCM,
        other => anyhow::bail!("no peers for {other:?}"),
    };
    let key_of_ring = ring::aead::UnboundKey::new(ring, key).ok().context("a key for ring")?;
    peers.push(Ok(Box::new(Ring(ring::aead::LessSafeKey::new(key_of_ring), "ring"))));
    peers.push(Ok(match algorithm {
        Algorithm::Aes128Gcm => Box::new(RustCrypto(Aes128Gcm::new_from_slice(key)?)),
        _ => Box::new(RustCrypto(Aes256Gcm::new_from_slice(key)?)),
    }));
    Ok(peers)
}

/// The engine of that restriction and aws-lc-rs, which the caller's environment restricts.
pub(crate) fn restricted(
    restriction: Restriction,
    algorithm: Algorithm,
) -> anyhow::Result<Vec<Result<Box<dyn Peer>, Absent>>> {
    let key = KEY.get(..algorithm.key_len()).unwrap_or_default();
    let mut peers: Vec<Result<Box<dyn Peer>, Absent>> = Vec::new();
    if let Ok(engine) = Engine::select(Some(restriction.kind())) {
        let key = engine.key(algorithm, key).context("a key of the algorithm's length")?;
        peers.push(Ok(Box::new(Ours { engine, key })));
    }
    peers.push(Ok(aws_lc(algorithm, key, restriction.peer())?));
    Ok(peers)
}

fn aws_lc(algorithm: Algorithm, key: &[u8], name: &'static str) -> anyhow::Result<Box<dyn Peer>> {
    let algorithm = match algorithm {
        Algorithm::Aes128Gcm => &aws_lc_rs::aead::AES_128_GCM,
        Algorithm::Aes256Gcm => &aws_lc_rs::aead::AES_256_GCM,
        other => anyhow::bail!("no peers for {other:?}"),
    };
    let key = aws_lc_rs::aead::UnboundKey::new(algorithm, key).ok().context("a key for aws-lc-rs")?;
    Ok(Box::new(AwsLc(aws_lc_rs::aead::LessSafeKey::new(key), name)))
}

struct Ours {
    engine: Engine,
    key: Key,
}

impl Ours {
    fn packets<'a>(&'a self, batch: &'a mut Batch) -> [Packet<'a>; BATCH] {
        batch.frames.each_mut().map(|frame| Packet {
            key: &self.key,
            nonce: frame.nonce,
            aad: frame.aad,
            aad_len: AAD_LEN,
            buffer: frame.buffer(),
            authentic: false,
        })
    }
}

impl Peer for Ours {
    fn name(&self) -> String {
        format!("portcullis-{}", self.engine.kind())
    }

    fn seal(&mut self, batch: &mut Batch) {
        self.engine.seal(&mut self.packets(batch));
    }

    fn open(&mut self, batch: &mut Batch) -> bool {
        let mut packets = self.packets(batch);
        self.engine.open(&mut packets);
        packets.iter().all(|packet| packet.authentic)
    }
}

struct RustCrypto<C>(C);

impl<C: AeadInOut<NonceSize = aes_gcm::aes::cipher::consts::U12, TagSize = aes_gcm::aes::cipher::consts::U16>>
    Peer for RustCrypto<C>
{
    fn name(&self) -> String {
        "aes-gcm".into()
    }

    fn seal(&mut self, batch: &mut Batch) {
        for frame in &mut batch.frames {
            let (nonce, aad) = (frame.nonce, frame.aad);
            let (aad, _) = aad.split_at(AAD_LEN);
            if let Some((text, tag)) = frame.buffer().split_last_chunk_mut::<TAG_LEN>()
                && let Ok(sealed) = self.0.encrypt_inout_detached((&nonce).into(), aad, InOutBuf::from(text))
            {
                *tag = sealed.into();
            }
        }
    }

    fn open(&mut self, batch: &mut Batch) -> bool {
        let mut right = true;
        for frame in &mut batch.frames {
            let (nonce, aad) = (frame.nonce, frame.aad);
            let (aad, _) = aad.split_at(AAD_LEN);
            right &= frame.buffer().split_last_chunk_mut::<TAG_LEN>().is_some_and(|(text, tag)| {
                self.0
                    .decrypt_inout_detached((&nonce).into(), aad, InOutBuf::from(text), (&*tag).into())
                    .is_ok()
            });
        }
        right
    }
}

macro_rules! like_ring {
    ($type:ident, $library:ident) => {
        struct $type($library::aead::LessSafeKey, &'static str);

        impl Peer for $type {
            fn name(&self) -> String {
                self.1.into()
            }

            fn seal(&mut self, batch: &mut Batch) {
                for frame in &mut batch.frames {
                    let (nonce, aad) = (frame.nonce, frame.aad);
                    let (aad, _) = aad.split_at(AAD_LEN);
                    let nonce = $library::aead::Nonce::assume_unique_for_key(nonce);
                    if let Some((text, tag)) = frame.buffer().split_last_chunk_mut::<TAG_LEN>()
                        && let Ok(sealed) =
                            self.0.seal_in_place_separate_tag(nonce, $library::aead::Aad::from(aad), text)
                    {
                        tag.copy_from_slice(sealed.as_ref());
                    }
                }
            }

            fn open(&mut self, batch: &mut Batch) -> bool {
                let mut right = true;
                for frame in &mut batch.frames {
                    let (nonce, aad) = (frame.nonce, frame.aad);
                    let (aad, _) = aad.split_at(AAD_LEN);
                    let nonce = $library::aead::Nonce::assume_unique_for_key(nonce);
                    right &=
                        self.0.open_in_place(nonce, $library::aead::Aad::from(aad), frame.buffer()).is_ok();
                }
                right
            }
        }
    };
}

like_ring!(AwsLc, aws_lc_rs);
like_ring!(Ring, ring);
