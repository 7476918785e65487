//! Every engine against published vectors: each sealed on its own and five times in one batch, and all of them opened
//! in one batch.
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking"
)]

use portcullis_aead::{Algorithm, Engine, EngineKind, Key, MAX_AAD, Packet, TAG_LEN};
use serde_json::Value;

struct Vector {
    id: u64,
    algorithm: Algorithm,
    key: Vec<u8>,
    nonce: [u8; 12],
    aad: Vec<u8>,
    plain: Vec<u8>,
    sealed: Vec<u8>,
    valid: bool,
}

impl Vector {
    fn packet<'a>(&self, key: &'a Key, buffer: &'a mut [u8]) -> Packet<'a> {
        // What lies beyond the AAD must not matter.
        let mut aad = [0xa5; MAX_AAD];
        aad[..self.aad.len()].copy_from_slice(&self.aad);
        Packet { key, nonce: self.nonce, aad, aad_len: self.aad.len(), buffer, authentic: false }
    }
}

fn octets(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn vectors() -> Vec<Vector> {
    let files = [include_str!("data/aes_gcm.json"), include_str!("data/nist_cavp_gcm.json")];
    let files = files.map(|file| serde_json::from_str::<Value>(file).unwrap());
    let vectors: Vec<Vector> = files
        .iter()
        .flat_map(|file| file["tests"].as_array().unwrap())
        .map(|test| {
            let key = octets(&test["key"]);
            Vector {
                id: test["tcId"].as_u64().unwrap(),
                algorithm: if key.len() == 16 { Algorithm::Aes128Gcm } else { Algorithm::Aes256Gcm },
                key,
                nonce: octets(&test["iv"]).try_into().unwrap(),
                aad: octets(&test["aad"]),
                plain: octets(&test["msg"]),
                sealed: [octets(&test["ct"]), octets(&test["tag"])].concat(),
                valid: test["result"] == "valid",
            }
        })
        .collect();
    assert!(vectors.len() > 250 && vectors.iter().any(|vector| !vector.valid));
    vectors
}

fn engines() -> Vec<Engine> {
    let engines: Vec<Engine> = EngineKind::ALL
        .iter()
        .filter_map(|kind| match Engine::select(Some(*kind)) {
            Ok(engine) => Some(engine),
            Err(portcullis_aead::EngineError::Unsupported { .. }) => None,
            Err(error) => panic!("{error}"),
        })
        .collect();
    assert!(!engines.is_empty());
    engines
}

#[test]
fn published_vectors_seal_to_the_published_octets() {
    for engine in engines() {
        for vector in vectors().iter().filter(|vector| vector.valid) {
            let key = engine.key(vector.algorithm, &vector.key).unwrap();
            let mut buffer = [vector.plain.as_slice(), &[0; TAG_LEN]].concat();
            engine.seal(&mut [vector.packet(&key, &mut buffer)]);
            assert_eq!(buffer, vector.sealed, "{}, tcId {}", engine.kind(), vector.id);

            // Engines may work on four of a kind together.
            let mut buffers = [(); 5].map(|()| [vector.plain.as_slice(), &[0; TAG_LEN]].concat());
            engine.seal(&mut buffers.each_mut().map(|buffer| vector.packet(&key, buffer)));
            for buffer in buffers {
                assert_eq!(buffer, vector.sealed, "{}, tcId {}", engine.kind(), vector.id);
            }
        }
    }
}

#[test]
fn published_vectors_open_to_the_plaintext_or_to_zeros() {
    for engine in engines() {
        let vectors = vectors();
        let keys: Vec<Key> =
            vectors.iter().map(|vector| engine.key(vector.algorithm, &vector.key).unwrap()).collect();
        let mut buffers: Vec<Vec<u8>> = vectors.iter().map(|vector| vector.sealed.clone()).collect();
        let mut batch: Vec<Packet<'_>> = vectors
            .iter()
            .zip(&keys)
            .zip(&mut buffers)
            .map(|((vector, key), buffer)| vector.packet(key, buffer))
            .collect();
        engine.open(&mut batch);
        let verdicts: Vec<bool> = batch.iter().map(|packet| packet.authentic).collect();
        for ((vector, buffer), authentic) in vectors.iter().zip(&buffers).zip(verdicts) {
            assert_eq!(authentic, vector.valid, "{}, tcId {}", engine.kind(), vector.id);
            let (text, _) = buffer.split_at(vector.plain.len());
            if authentic {
                assert_eq!(text, vector.plain, "{}, tcId {}", engine.kind(), vector.id);
            } else {
                assert!(buffer.iter().all(|octet| *octet == 0), "{}, tcId {}", engine.kind(), vector.id);
            }
        }
    }
}
