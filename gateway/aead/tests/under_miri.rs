//! What Miri can run of the engines' own unsafe code: that on AES-NI, whose instructions it knows (`./dev miri`).
#![cfg(all(miri, target_arch = "x86_64"))]

use portcullis_aead::{Algorithm, Engine, EngineKind, Packet, TAG_LEN};

#[test]
fn the_aesni_engine_keeps_to_its_memory() {
    // Its self-test runs here, too: all the lengths of loops and tails.
    let engine = Engine::select(Some(EngineKind::AesNi)).unwrap();
    for algorithm in [Algorithm::Aes128Gcm, Algorithm::Aes256Gcm] {
        let key = engine.key(algorithm, &[7; 32][..algorithm.key_len()]).unwrap();
        for len in [0, 5, 16, 140] {
            let mut memory = vec![0x5a; len + TAG_LEN];
            let mut batch = [Packet {
                key: &key,
                nonce: [1; 12],
                aad: [2; 12],
                aad_len: 12,
                buffer: &mut memory,
                authentic: false,
            }];
            engine.seal(&mut batch);
            batch[0].buffer[len] ^= 1;
            engine.open(&mut batch);
            assert!(!batch[0].authentic);
            assert!(memory.iter().all(|octet| *octet == 0));
        }
    }
}
