//! Every engine against the portable one: random keys, lengths, alignments, batch shapes, both algorithms and many
//! SAs in a batch, forged packets among them.
#![cfg(not(miri))]
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking"
)]

use portcullis_aead::{Algorithm, Engine, EngineError, EngineKind, Key, MAX_AAD, Packet, TAG_LEN};
use proptest::prelude::*;

fn portable() -> Engine {
    Engine::select(Some(EngineKind::Portable)).unwrap()
}

/// All but the portable one that this processor runs.
fn engines() -> Vec<Engine> {
    EngineKind::ALL
        .iter()
        .filter(|kind| **kind != EngineKind::Portable)
        .filter_map(|kind| match Engine::select(Some(*kind)) {
            Ok(engine) => Some(engine),
            Err(EngineError::Unsupported { .. }) => None,
            Err(error) => panic!("{error}"),
        })
        .collect()
}

#[derive(Debug, Clone)]
struct Secret {
    long: bool,
    octets: [u8; 32],
}

impl Secret {
    fn key(&self, engine: Engine) -> Key {
        let (algorithm, len) =
            if self.long { (Algorithm::Aes256Gcm, 32) } else { (Algorithm::Aes128Gcm, 16) };
        engine.key(algorithm, &self.octets[..len]).unwrap()
    }
}

#[derive(Debug, Clone)]
struct Plain {
    sa: usize,
    nonce: [u8; 12],
    aad: [u8; MAX_AAD],
    aad_len: usize,
    /// Octets in front of the text, so that it lies anywhere in a cache line.
    headroom: usize,
    len: usize,
    seed: u8,
    /// Which bit to turn after sealing, counted over text and tag; `None` for a good packet.
    forged: Option<usize>,
}

const GUARD: u8 = 0xd7;

impl Plain {
    /// Guard octets, text, room for the tag, guard octets.
    fn frame(&self) -> Vec<u8> {
        let text =
            (0..self.len).map(|at| (at as u8).wrapping_mul(self.seed | 1).wrapping_add((at >> 8) as u8));
        let guard = std::iter::repeat_n(GUARD, self.headroom);
        guard.chain(text).chain([0; TAG_LEN]).chain([GUARD; 96]).collect()
    }

    fn packet<'a>(&self, keys: &'a [Key], frame: &'a mut [u8]) -> Packet<'a> {
        let buffer = &mut frame[self.headroom..self.headroom + self.len + TAG_LEN];
        let key = &keys[self.sa % keys.len()];
        Packet { key, nonce: self.nonce, aad: self.aad, aad_len: self.aad_len, buffer, authentic: false }
    }
}

fn secrets() -> impl Strategy<Value = Vec<Secret>> {
    prop::collection::vec(any::<(bool, [u8; 32])>().prop_map(|(long, octets)| Secret { long, octets }), 1..5)
}

fn plain() -> impl Strategy<Value = Plain> {
    let len = prop_oneof![4 => 0..300_usize, 2 => 300..2_100_usize, 1 => 2_100..16_385_usize];
    let aad_len = prop_oneof![4 => Just(8_usize), 4 => Just(12_usize), 1 => 0..=MAX_AAD];
    (any::<usize>(), any::<[u8; 12]>(), any::<[u8; 12]>(), aad_len, 0..128_usize, len, any::<u8>())
        .prop_flat_map(|(sa, nonce, aad, aad_len, headroom, len, seed)| {
            prop::option::weighted(0.2, 0..8 * (len + TAG_LEN)).prop_map(move |forged| Plain {
                sa,
                nonce,
                aad,
                aad_len,
                headroom,
                len,
                seed,
                forged,
            })
        })
}

/// Runs of packets of one shape, as traffic has them, and single ones.
fn batch() -> impl Strategy<Value = Vec<Plain>> {
    prop::collection::vec(
        (plain(), prop_oneof![12 => Just(1_usize), 4 => 2..9_usize, 1 => 16..40_usize]),
        1..20,
    )
    .prop_map(|runs| {
        runs.into_iter()
            .flat_map(|(plain, count)| {
                (0..count).map(move |at| {
                    let mut plain = plain.clone();
                    plain.seed = plain.seed.wrapping_add(at as u8);
                    plain.nonce[11] = plain.nonce[11].wrapping_add(at as u8);
                    plain.forged = plain.forged.filter(|_| at % 3 == 0);
                    plain
                })
            })
            .collect()
    })
}

/// Few shapes that take turns in any order, as the packets of some SAs do: an engine may work on alike ones together.
fn mixed_batch() -> impl Strategy<Value = Vec<Plain>> {
    let turns = prop::collection::vec((0..8_usize, any::<u8>(), prop::bool::weighted(0.1)), 1..150);
    (prop::collection::vec(plain(), 1..6), turns).prop_map(|(shapes, turns)| {
        let packet = |(at, (shape, seed, forged)): (usize, (usize, u8, bool))| {
            let mut plain = shapes[shape % shapes.len()].clone();
            plain.seed = seed;
            plain.headroom = (plain.headroom + at) % 128;
            plain.nonce[0] = at as u8;
            plain.forged = forged.then_some((8 * at + seed as usize) % (8 * (plain.len + TAG_LEN)));
            plain
        };
        turns.into_iter().enumerate().map(packet).collect()
    })
}

fn seal(engine: Engine, keys: &[Key], batch: &[Plain], frames: &mut [Vec<u8>]) {
    let mut packets: Vec<Packet<'_>> =
        batch.iter().zip(frames).map(|(plain, frame)| plain.packet(keys, frame)).collect();
    engine.seal(&mut packets);
}

fn check(engine: Engine, secrets: &[Secret], batch: &[Plain]) {
    let keys: Vec<Key> = secrets.iter().map(|secret| secret.key(engine)).collect();
    let reference: Vec<Key> = secrets.iter().map(|secret| secret.key(portable())).collect();
    let plain: Vec<Vec<u8>> = batch.iter().map(Plain::frame).collect();

    let mut expected = plain.clone();
    seal(portable(), &reference, batch, &mut expected);
    let mut frames = plain.clone();
    seal(engine, &keys, batch, &mut frames);
    assert!(frames == expected, "{} seals otherwise", engine.kind());

    for (plain, frame) in batch.iter().zip(&mut frames) {
        if let Some(bit) = plain.forged {
            frame[plain.headroom + bit / 8] ^= 1 << (bit % 8);
        }
    }
    let mut packets: Vec<Packet<'_>> =
        batch.iter().zip(&mut frames).map(|(plain, frame)| plain.packet(&keys, frame)).collect();
    engine.open(&mut packets);
    let verdicts: Vec<bool> = packets.iter().map(|packet| packet.authentic).collect();
    for (((of, frame), original), authentic) in batch.iter().zip(&frames).zip(&plain).zip(verdicts) {
        assert_eq!(authentic, of.forged.is_none(), "{}, {} octets", engine.kind(), of.len);
        let (before, rest) = frame.split_at(of.headroom);
        let (buffer, after) = rest.split_at(of.len + TAG_LEN);
        assert!(before.iter().chain(after).all(|octet| *octet == GUARD), "{} left the buffer", engine.kind());
        if authentic {
            assert_eq!(buffer[..of.len], original[of.headroom..of.headroom + of.len]);
        } else {
            assert!(buffer.iter().all(|octet| *octet == 0), "{} left something of a forgery", engine.kind());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_engine_agrees_with_the_portable_one(secrets in secrets(), batch in batch()) {
        for engine in engines() {
            check(engine, &secrets, &batch);
        }
    }

    #[test]
    fn alike_packets_among_others_agree_with_the_portable_engine(secrets in secrets(), batch in mixed_batch()) {
        for engine in engines() {
            check(engine, &secrets, &batch);
        }
    }

    #[test]
    fn engines_take_each_others_keys(secret in any::<(bool, [u8; 32])>(), plain in plain()) {
        let secrets = [Secret { long: secret.0, octets: secret.1 }];
        let batch = [Plain { forged: None, ..plain }];
        let mut expected = vec![batch[0].frame()];
        seal(portable(), &[secrets[0].key(portable())], &batch, &mut expected);
        for engine in engines() {
            let mut frames = vec![batch[0].frame()];
            seal(engine, &[secrets[0].key(portable())], &batch, &mut frames);
            assert!(frames == expected);
            let mut frames = vec![batch[0].frame()];
            seal(portable(), &[secrets[0].key(engine)], &batch, &mut frames);
            assert!(frames == expected);
        }
    }
}

/// All lengths, alone and five in a row, so that no combination of vectors, passes and tails is left to chance.
#[test]
fn every_engine_agrees_with_the_portable_one_at_every_length() {
    let secrets = [Secret { long: true, octets: [0x3c; 32] }, Secret { long: false, octets: [0xc3; 32] }];
    let lengths: Vec<usize> = (0..2_300).chain(4_000..4_200).chain(16_300..16_385).collect();
    let alone = batch_of(lengths.iter().copied());
    let in_rows = batch_of(lengths.iter().flat_map(|len| [*len; 5]));
    for engine in engines() {
        check(engine, &secrets, &alone);
        check(engine, &secrets, &in_rows);
    }
}

fn batch_of(lengths: impl Iterator<Item = usize>) -> Vec<Plain> {
    lengths
        .enumerate()
        .map(|(at, len)| Plain {
            sa: len / 3,
            nonce: [at as u8; 12],
            aad: [0x11; MAX_AAD],
            aad_len: if len % 2 == 0 { 8 } else { 12 },
            headroom: at % 67,
            len,
            seed: at as u8,
            forged: (at % 7 == 0).then_some(8 * len + len % 128),
        })
        .collect()
}

/// One, two and three packets of as many lengths are left over when four at a time have gone, and come in any order: at every
/// boundary between lengths that are worked on differently, of two SAs, and with forgeries among what is left.
#[test]
fn what_is_left_over_of_several_kinds_agrees_with_the_portable_engine() {
    let secrets = [Secret { long: true, octets: [0x3c; 32] }, Secret { long: false, octets: [0xc3; 32] }];
    let lengths = (0..160).chain((160..1_100).step_by(11)).chain([1_424, 4_080, 8_960]);
    for len in lengths {
        let kinds = [(len, 5), (len + 16, 6), (len + 64, 7)];
        let packet = |kind: usize, turn: usize| Plain {
            sa: len,
            nonce: [kind as u8, 2, 3, 4, 5, 6, 7, 8, 9, 10, turn as u8, turn as u8],
            aad: [turn as u8; MAX_AAD],
            aad_len: 8,
            headroom: (5 * turn + kind) % 67,
            len: kinds[kind].0,
            seed: turn as u8,
            // One of the last, which are what is left over, and one before.
            forged: (turn == kind + 4 || turn == 1).then_some(8 * kinds[kind].0 + turn),
        };
        // Side by side, each for as long as there are any.
        let batch: Vec<Plain> = (0..7)
            .flat_map(|turn| (0..kinds.len()).map(move |kind| (kind, turn)))
            .filter(|&(kind, turn)| turn < kinds[kind].1)
            .map(|(kind, turn)| packet(kind, turn))
            .collect();
        for engine in engines() {
            check(engine, &secrets, &batch);
        }
    }
}

/// Where the last octet of the counter comes round inside a packet, or just behind it: once in 4,096 octets.
#[test]
fn counters_that_come_round_agree_with_the_portable_engine() {
    let secret = Secret { long: true, octets: [3; 32] };
    let around = |turn: usize| (turn - 112..turn + 48).step_by(37);
    for (case, len) in (1..3).flat_map(|turns| around(4096 * turns)).enumerate() {
        let packet = |at: u8| Plain {
            sa: 0,
            // Every other time with nonces that differ in the octets that a counter leaves alone.
            nonce: if case % 2 == 0 { [at; 12] } else { [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, at] },
            aad: [at; MAX_AAD],
            aad_len: 8,
            headroom: 50,
            len,
            seed: at,
            forged: (at == 3).then_some(len),
        };
        let batch: Vec<Plain> = (0..9).map(packet).collect();
        for engine in engines() {
            check(engine, std::slice::from_ref(&secret), &batch);
        }
    }
}
