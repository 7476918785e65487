//! What every engine owes its callers, whichever it is.

use portcullis_aead::{Algorithm, Engine, EngineKind, Packet, TAG_LEN};

fn engines() -> impl Iterator<Item = Engine> {
    EngineKind::ALL.iter().filter_map(|kind| Engine::select(Some(*kind)).ok())
}

#[test]
fn a_key_of_the_wrong_length_is_refused() {
    for engine in engines() {
        assert!(engine.key(Algorithm::Aes128Gcm, &[0; 32]).is_none());
        assert!(engine.key(Algorithm::Aes256Gcm, &[0; 16]).is_none());
        assert!(engine.key(Algorithm::Aes256Gcm, &[]).is_none());
    }
}

#[test]
fn a_buffer_without_room_for_a_tag_is_left_alone_and_not_authentic() {
    for engine in engines() {
        let key = engine.key(Algorithm::Aes256Gcm, &[7; 32]).unwrap();
        for len in 0..TAG_LEN {
            let mut buffer = vec![0x5a; len];
            let mut batch = [packet(&key, &mut buffer)];
            engine.seal(&mut batch);
            engine.open(&mut batch);
            assert!(!batch[0].authentic);
            assert!(buffer.iter().all(|octet| *octet == 0x5a));
        }
    }
}

#[test]
fn a_stale_verdict_does_not_survive_a_failed_open() {
    for engine in engines() {
        let key = engine.key(Algorithm::Aes128Gcm, &[7; 16]).unwrap();
        let mut buffer = [0xee; 64];
        let mut batch = [Packet { authentic: true, ..packet(&key, &mut buffer) }];
        engine.open(&mut batch);
        assert!(!batch[0].authentic);
        assert_eq!(buffer, [0; 64]);
    }
}

fn packet<'a>(key: &'a portcullis_aead::Key, buffer: &'a mut [u8]) -> Packet<'a> {
    Packet { key, nonce: [1; 12], aad: [2; 12], aad_len: 8, buffer, authentic: false }
}
