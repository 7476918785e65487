//! Messages of other implementations whose keys are published: they are authentic, and hold what other tools find in
//! them. Where the octets come from, `data/README.md` says.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use portcullis_ike::crypto::{AesKey, DirectionKeys, IkeEncr, IkeInteg, Protection};
use portcullis_ike::message::{
    Encrypted, ExchangeType, Header, Message, MessageError, Notify, Payload, Protocol, Sealing, notify, open,
};

/// An IKE SA's keys, as Wireshark's `ikev2_decryption_table` has them.
struct Published {
    capture: &'static str,
    encr: IkeEncr,
    integ: Option<IkeInteg>,
    /// `SK_ei`, `SK_er`.
    sk_e: [&'static str; 2],
    /// `SK_ai`, `SK_ar`; empty with an AEAD.
    sk_a: [&'static str; 2],
    /// How many messages are encrypted.
    encrypted: usize,
    /// The AUTH payload that Wireshark's `suite_decryption.py` expects in it.
    auth: &'static str,
}

const PUBLISHED: [Published; 4] = [
    Published {
        capture: "ikev2-decrypt-aes192ctr.pcap",
        encr: IkeEncr::AesCtr(AesKey::Aes192),
        integ: Some(IkeInteg::HmacSha512),
        sk_e: [
            "aaa06839eaf0959d486eeecda7a48b23080963b5fd7217928e8fbf58",
            "92dc96ec87076caa84e26b3621c7c469427e2e4bcc1b962362a3dde3",
        ],
        sk_a: [
            "65777be31ee2137f31cf23fa0ee834dfede11cc0adc9a84541026642c09df2bf96056a2036e97a67ce7d3c5b6f37e17e\
             8fe64f4ef23e14f5997fb7671df3adaf",
            "42abd4709f1b94fd8c2270c74aae3fbe61c0b9c109c55f3e3b9ed7e480bc75c3985c15234caa623c8ca0606c303921d7\
             cfd44861df1e798370b2ee95fe712e52",
        ],
        encrypted: 4,
        auth: "3ec23dcf9348485638407c754547aeb3085290082c49f583fdbae59263a20b4a",
    },
    Published {
        capture: "ikev2-decrypt-aes256cbc.pcapng",
        encr: IkeEncr::AesCbc(AesKey::Aes256),
        integ: Some(IkeInteg::HmacSha256),
        sk_e: [
            "9096ddd2933620e8f48122c53a3f562cb0222c1cf97ce41fcc874ea2582a89ac",
            "6718c6b2bbef2f234eac4c13832f885d87b574afd2af0111161e99b5dc61b4d4",
        ],
        sk_a: [
            "12d532c3e83c757906af548dfe1ccf223ca5507af77898454e2d55c8ace57a17",
            "30c4ead18c93024b58a86c1e3db60f550221801026853170b4cb0248d3a95329",
        ],
        encrypted: 2,
        auth: "e1a8d550064201a7ec024a85758d0673c61c5c510ac13bcd225d6327f50da3d3",
    },
    Published {
        capture: "ikev2-decrypt-aes256gcm16.pcap",
        encr: IkeEncr::AesGcm16(AesKey::Aes256),
        integ: None,
        sk_e: [
            "647075bf167447a1c8683e8dbe4794b4cfe73799cc6bec34905441159ce13705c8dfb3a9",
            "15c9eae6f94631d63068bf44bb69999abc07b3d15e915fd8f0ed99ad481efd75deb02a5e",
        ],
        sk_a: ["", ""],
        encrypted: 4,
        auth: "9ab71f14ab553cad873a1aa70b99df155dee77cdcf3694b3b7527acbb9712ded",
    },
    Published {
        capture: "ikev2-decrypt-aes256gcm8.pcap",
        encr: IkeEncr::AesGcm8(AesKey::Aes256),
        integ: None,
        sk_e: [
            "91b817d036d97db3ace64475cd8d1cbeab186295020211a9cf0c16cec10b92b453ecd24e",
            "d04516586721974d970627d85f7d031433b6558c0ec6faecf9217e5445e17e7eeee6bc68",
        ],
        sk_a: ["", ""],
        encrypted: 4,
        auth: "4a66d822d0afbc22ad9a92a2cf4287c920ad8ac3b069a4a7e75fe0a5d499f914",
    },
];

fn hex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

/// The encrypted messages of a capture.
fn encrypted(capture: &str) -> Vec<(Header, Encrypted)> {
    let lines = include_str!("data/captures.txt").lines();
    let of_it = lines.filter(|line| line.split(' ').next() == Some(capture));
    of_it
        .map(|line| Message::parse(&hex(line.rsplit(' ').next().unwrap())).unwrap())
        .filter_map(|received| Some((received.message.header, received.encrypted?)))
        .collect()
}

#[test]
fn messages_of_others_open_with_the_keys_that_are_published_with_them() {
    for published in &PUBLISHED {
        let Published { capture, encr, integ, .. } = published;
        let protection = Protection::new(*encr, *integ).unwrap();
        let (sk_e, sk_a) = (published.sk_e.map(hex), published.sk_a.map(hex));
        let messages = encrypted(capture);
        assert_eq!(messages.len(), published.encrypted, "{capture}");
        let mut auths = Vec::new();
        for (header, encrypted) in messages {
            let of = |side: usize| DirectionKeys { sk_e: &sk_e[side], sk_a: &sk_a[side] };
            let from = usize::from(!header.initiator);
            let sealing = Sealing { protection, keys: of(from) };
            let payloads = open(&encrypted, sealing).unwrap_or_else(|error| panic!("{capture}: {error}"));
            auths.extend(payloads.into_iter().filter_map(|payload| match payload {
                Payload::Auth { method: 2, data } => Some(data),
                _ => None,
            }));
            let wrong = Sealing { protection, keys: of(1 - from) };
            assert!(matches!(open(&encrypted, wrong), Err(MessageError::Integrity(_))), "{capture}");
            let mut forged = encrypted;
            *forged.body.last_mut().unwrap() ^= 1;
            assert!(matches!(open(&forged, sealing), Err(MessageError::Integrity(_))), "{capture}");
        }
        assert!(auths.contains(&hex(published.auth)), "{capture}: {auths:02x?}");
    }
}

/// tcpdump's `ikev2pI2.pcap`: its keys decipher an identity and an AUTH payload, but the ICV is not that of any key that is
/// published with it. tcpdump shows the text; for us it is nobody's.
#[test]
fn what_the_keys_decipher_counts_for_nothing_where_the_icv_is_wrong() {
    let protection = Protection::new(IkeEncr::AesCbc(AesKey::Aes128), Some(IkeInteg::HmacSha1)).unwrap();
    let messages = encrypted("ikev2pI2.pcap");
    assert_eq!(messages.len(), 1);
    for (sk_e, sk_a) in [
        ("3f44bf47cafd8150591deb088199fcbf", "4ea8e662b07cdd430f6944c6723e4b82d5722418"),
        ("bedb67ec7dc3d00cccac42e70cd63bde", "515b0bd22e6d76b34fdb760aa7bfad80b109b75d"),
    ] {
        let (sk_e, sk_a) = (hex(sk_e), hex(sk_a));
        let sealing = Sealing { protection, keys: DirectionKeys { sk_e: &sk_e, sk_a: &sk_a } };
        assert!(matches!(open(&messages[0].1, sealing), Err(MessageError::Integrity(_))));
    }
}

/// RFC 7634 Appendix B: a Notify payload, SET_WINDOW_SIZE, in an INFORMATIONAL request.
#[test]
fn the_message_of_rfc_7634_is_sealed_and_opened() {
    let octets = hex("c0c1c2c3c4c5c6c7d0d1d2d3d4d5d6d72e202500000000090000004529000029101112131415161761\
         0394701f8d017f7c129248896b71bfe25236efd7cdc67066906315b2");
    let sk_e: Vec<u8> = (0x80..0xa4).collect();
    let protection = Protection::new(IkeEncr::ChaCha20Poly1305, None).unwrap();
    let sealing = Sealing { protection, keys: DirectionKeys { sk_e: &sk_e, sk_a: &[] } };
    let window = Notify {
        protocol: Protocol::Other(0),
        spi: Vec::new(),
        notify_type: notify::SET_WINDOW_SIZE,
        data: vec![0, 0, 0, 10],
    };
    let received = Message::parse(&octets).unwrap();
    assert_eq!(received.message.header.exchange, ExchangeType::Informational);
    let payloads = open(received.encrypted.as_ref().unwrap(), sealing).unwrap();
    assert_eq!(payloads, [Payload::Notify(window)]);
    let message = Message { header: received.message.header, payloads };
    assert_eq!(message.emit_sealed(sealing, 0x1011_1213_1415_1617), octets, "with the IV of the RFC");
}
