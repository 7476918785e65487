//! Whole negotiations of strongSwan with itself, taken apart: from its shared secret and nonces we derive its keys, open
//! its messages, compute its AUTH and its ESP keys. `data/README.md` says how they were made.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use portcullis_ike::crypto::{
    AesKey, DirectionKeys, IkeEncr, IkeKeys, KdfInput, Prf, Protection, SharedSecret, derive_child_keymat,
    derive_ike_keys, psk_auth,
};
use portcullis_ike::message::{IdPayload, Message, Payload, Received, Sealing, open};
use portcullis_ike::proposal::{
    EspProposal, IkeProposal, IkeSuite, accepted_esp, accepted_ike, select_esp, select_ike,
};
use serde_json::Value;

const ANSWERS: [&str; 14] = [
    include_str!("data/strongswan-aes128-aesxcbc-ecp256.json"),
    include_str!("data/strongswan-aes128ctr-sha384-ecp521.json"),
    include_str!("data/strongswan-aes192-aescmac-modp4096.json"),
    include_str!("data/strongswan-aes192-sha512-modp8192.json"),
    include_str!("data/strongswan-aes192gcm8-prfaesxcbc-x25519.json"),
    include_str!("data/strongswan-aes256-sha1-modp1024.json"),
    include_str!("data/strongswan-aes256-sha256-modp2048.json"),
    include_str!("data/strongswan-aes256gcm12-prfsha256-modp1536.json"),
    include_str!("data/strongswan-chacha20poly1305-prfaescmac-modp6144.json"),
    include_str!("data/strongswan-aes128gcm16-prfsha256-ecp256.json"),
    include_str!("data/strongswan-aes128gcm16-prfsha256-x25519.json"),
    include_str!("data/strongswan-aes256gcm16-prfsha256-modp3072.json"),
    include_str!("data/strongswan-aes256gcm16-prfsha384-ecp384.json"),
    include_str!("data/strongswan-aes256gcm16-prfsha512-modp2048.json"),
];

/// A negotiation: IKE_SA_INIT and IKE_AUTH, each way.
struct Negotiation {
    answer: Value,
    octets: [Vec<u8>; 4],
    received: [Received; 4],
    suite: IkeSuite,
    keys: IkeKeys,
    nonces: [Vec<u8>; 2],
}

impl Negotiation {
    fn load(text: &str) -> Self {
        let answer: Value = serde_json::from_str(text).unwrap();
        let octets: Vec<Vec<u8>> =
            answer["messages"].as_array().unwrap().iter().map(|message| hex(&message["octets"])).collect();
        let octets: [Vec<u8>; 4] = octets.try_into().unwrap();
        let received = [0, 1, 2, 3].map(|index: usize| Message::parse(&octets[index]).unwrap());
        let ours: IkeProposal = answer["proposals"]["ike"].as_str().unwrap().parse().unwrap();
        let Payload::Sa(chosen) = &received[1].message.payloads[0] else { panic!("no SA payload first") };
        let suite = accepted_ike(&[ours], chosen).unwrap();
        let nonces = [0, 1].map(|index: usize| nonce(&received[index]));
        let shared = SharedSecret(hex(&answer["secrets"]["shared Diffie Hellman secret"][0]));
        let header = received[1].message.header;
        let input =
            KdfInput { nonce_i: &nonces[0], nonce_r: &nonces[1], spi_i: header.spi_i, spi_r: header.spi_r };
        let keys = derive_ike_keys(suite.prf, suite.protection, &shared, input);
        Self { answer, octets, received, suite, keys, nonces }
    }

    fn secret(&self, name: &str, index: usize) -> Vec<u8> {
        hex(&self.answer["secrets"][name][index])
    }

    /// What a message of that index is sealed with.
    fn sealing(&self, index: usize) -> Sealing<'_> {
        let keys = if index == 2 { self.keys.of_initiator() } else { self.keys.of_responder() };
        Sealing { protection: self.suite.protection, keys }
    }

    fn ike_auth(&self, index: usize) -> Vec<Payload> {
        open(self.received[index].encrypted.as_ref().unwrap(), self.sealing(index)).unwrap()
    }
}

fn hex(value: &Value) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn nonce(received: &Received) -> Vec<u8> {
    let nonce = received.message.payloads.iter().find_map(|payload| match payload {
        Payload::Nonce(nonce) => Some(nonce.clone()),
        _ => None,
    });
    nonce.unwrap()
}

#[test]
fn the_keys_of_the_ike_sa_are_strongswans() {
    for text in ANSWERS {
        let negotiation = Negotiation::load(text);
        let keys = &negotiation.keys;
        for (name, key) in [
            ("Sk_d secret", &keys.sk_d),
            ("Sk_ei secret", &keys.sk_ei),
            ("Sk_er secret", &keys.sk_er),
            ("Sk_ai secret", &keys.sk_ai),
            ("Sk_ar secret", &keys.sk_ar),
            ("Sk_pi secret", &keys.sk_pi),
            ("Sk_pr secret", &keys.sk_pr),
        ] {
            if !key.is_empty() {
                assert_eq!(*key, negotiation.secret(name, 0), "{name} of {}", negotiation.suite);
            }
        }
    }
}

#[test]
fn the_sealed_messages_open_and_hold_strongswans_auth() {
    for text in ANSWERS {
        let negotiation = Negotiation::load(text);
        let keys = &negotiation.keys;
        let psk = negotiation.answer["psk"].as_str().unwrap().as_bytes();
        let nonces = &negotiation.nonces;
        let sides = [
            (2, &keys.sk_pi, &negotiation.octets[0], &nonces[1]),
            (3, &keys.sk_pr, &negotiation.octets[1], &nonces[0]),
        ];
        for (side, (index, sk_p, init_message, peer_nonce)) in sides.into_iter().enumerate() {
            let payloads = negotiation.ike_auth(index);
            let id: Option<&IdPayload> = payloads.iter().find_map(|payload| match (payload, side) {
                (Payload::IdI(id), 0) | (Payload::IdR(id), 1) => Some(id),
                _ => None,
            });
            let auth = payloads.iter().find_map(|payload| match payload {
                Payload::Auth { method: 2, data } => Some(data.clone()),
                _ => None,
            });
            let prf: Prf = negotiation.suite.prf;
            let computed = psk_auth(prf, psk, init_message, peer_nonce, sk_p, &id.unwrap().body(), &[]);
            assert_eq!(Some(computed.clone()), auth, "AUTH of side {side} with {}", negotiation.suite);
            assert_eq!(computed, negotiation.secret("AUTH", side));
        }
    }
}

#[test]
fn the_keys_of_the_child_sa_are_strongswans() {
    for text in ANSWERS {
        let negotiation = Negotiation::load(text);
        let payloads = negotiation.ike_auth(3);
        let ours: EspProposal = negotiation.answer["proposals"]["esp"].as_str().unwrap().parse().unwrap();
        let chosen = payloads.iter().find_map(|payload| match payload {
            Payload::Sa(proposals) => Some(proposals),
            _ => None,
        });
        let (suite, _) = accepted_esp(&[ours], chosen.unwrap(), false).unwrap();
        let len = suite.encr.key_len() + suite.encr.salt_len();
        let (prf, nonces) = (negotiation.suite.prf, &negotiation.nonces);
        let one = suite.encr.keymat_len();
        let keymat = derive_child_keymat(prf, &negotiation.keys.sk_d, &[], &nonces[0], &nonces[1], 2 * one);
        assert_eq!(keymat[..len], negotiation.secret("encryption initiator key", 0)[..]);
        assert_eq!(keymat[one..one + len], negotiation.secret("encryption responder key", 0)[..]);
    }
}

#[test]
fn a_sealed_message_changed_anywhere_does_not_open() {
    for text in ANSWERS {
        let negotiation = Negotiation::load(text);
        let original = &negotiation.octets[2];
        for index in 0..original.len() {
            let mut changed = original.clone();
            changed[index] ^= 1;
            let Ok(received) = Message::parse(&changed) else { continue };
            let Some(encrypted) = received.encrypted else { continue };
            assert!(
                open(&encrypted, negotiation.sealing(2)).is_err(),
                "{}, octet {index}",
                negotiation.suite
            );
        }
    }
}

#[test]
fn a_message_that_we_seal_opens_to_what_was_sealed() {
    for text in ANSWERS {
        let negotiation = Negotiation::load(text);
        let sealing = negotiation.sealing(2);
        let payloads = negotiation.ike_auth(2);
        let message = Message { header: negotiation.received[2].message.header, payloads: payloads.clone() };
        let sealed = message.emit_sealed(sealing, 7);
        let received = Message::parse(&sealed).unwrap();
        assert_eq!(open(received.encrypted.as_ref().unwrap(), sealing).unwrap(), payloads);
        let protection = Protection::new(IkeEncr::AesGcm16(AesKey::Aes256), None).unwrap();
        let keys = DirectionKeys { sk_e: &[7; 36], sk_a: &[] };
        assert!(open(received.encrypted.as_ref().unwrap(), Sealing { protection, keys }).is_err());
        // And octet for octet: strongSwan pads no more than we do, and its IV is all that differs. CBC's cannot be
        // chosen, and strongSwan's padding is random.
        if matches!(negotiation.suite.protection.encr(), IkeEncr::AesCbc(_)) {
            assert_eq!(sealed.len(), negotiation.octets[2].len(), "{}", negotiation.suite);
            continue;
        }
        let iv = negotiation.received[2].encrypted.as_ref().unwrap().body[..8].try_into().unwrap();
        let ours = message.emit_sealed(sealing, u64::from_be_bytes(iv));
        assert_eq!(ours, negotiation.octets[2], "{}", negotiation.suite);
    }
}

#[test]
fn what_strongswan_offers_by_default_goes_together_with_our_defaults() {
    let offers: Value = serde_json::from_str(include_str!("data/strongswan-defaults.json")).unwrap();
    let proposals = |payloads: &[Payload]| {
        let found = payloads.iter().find_map(|payload| match payload {
            Payload::Sa(proposals) => Some(proposals.clone()),
            _ => None,
        });
        found.unwrap()
    };
    let init = Message::parse(&hex(&offers["ike_sa_init"])).unwrap().message;
    let (suite, number) = select_ike(&IkeProposal::defaults(), &proposals(&init.payloads)).unwrap();
    assert_eq!((suite.to_string().as_str(), number), ("aes256gcm16-prfsha384-x25519", 2));
    let auth = Message::parse(&hex(&offers["ike_auth"])).unwrap().encrypted.unwrap();
    let protection = Protection::new(IkeEncr::AesGcm16(AesKey::Aes256), None).unwrap();
    let keys = DirectionKeys { sk_e: &hex(&offers["sk_ei"]), sk_a: &[] };
    let payloads = open(&auth, Sealing { protection, keys }).unwrap();
    let (suite, ..) = select_esp(&EspProposal::defaults(), &proposals(&payloads), false).unwrap();
    assert_eq!(suite.to_string(), "aes256gcm16");
}
