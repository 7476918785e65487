//! Whole negotiations of strongSwan with itself, taken apart: from its shared secret and nonces we derive its keys, open
//! its messages, compute its AUTH and its ESP keys. `data/README.md` says how they were made.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use portcullis_ike::crypto::{
    IkeAead, IkeKeys, KdfInput, Prf, SharedSecret, derive_child_keymat, derive_ike_keys, psk_auth,
};
use portcullis_ike::message::{IdPayload, Message, Payload, Received, open};
use portcullis_ike::proposal::{
    EspProposal, IkeProposal, IkeSuite, accepted_esp, accepted_ike, select_esp, select_ike,
};
use serde_json::Value;

const ANSWERS: [&str; 5] = [
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
        let keys = derive_ike_keys(suite.prf, suite.encr, &shared, input);
        Self { answer, octets, received, suite, keys, nonces }
    }

    fn secret(&self, name: &str, index: usize) -> Vec<u8> {
        hex(&self.answer["secrets"][name][index])
    }

    fn ike_auth(&self, index: usize, key: &[u8]) -> Vec<Payload> {
        open(self.received[index].encrypted.as_ref().unwrap(), self.suite.encr, key).unwrap()
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
            ("Sk_pi secret", &keys.sk_pi),
            ("Sk_pr secret", &keys.sk_pr),
        ] {
            assert_eq!(*key, negotiation.secret(name, 0), "{name} of {}", negotiation.suite);
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
            (2, &keys.sk_ei, &keys.sk_pi, &negotiation.octets[0], &nonces[1]),
            (3, &keys.sk_er, &keys.sk_pr, &negotiation.octets[1], &nonces[0]),
        ];
        for (side, (index, sk_e, sk_p, init_message, peer_nonce)) in sides.into_iter().enumerate() {
            let payloads = negotiation.ike_auth(index, sk_e);
            let id: Option<&IdPayload> = payloads.iter().find_map(|payload| match (payload, side) {
                (Payload::IdI(id), 0) | (Payload::IdR(id), 1) => Some(id),
                _ => None,
            });
            let auth = payloads.iter().find_map(|payload| match payload {
                Payload::Auth { method: 2, data } => Some(data.clone()),
                _ => None,
            });
            let prf: Prf = negotiation.suite.prf;
            let computed = psk_auth(prf, psk, init_message, peer_nonce, sk_p, &id.unwrap().body());
            assert_eq!(Some(computed.clone()), auth, "AUTH of side {side} with {}", negotiation.suite);
            assert_eq!(computed, negotiation.secret("AUTH", side));
        }
    }
}

#[test]
fn the_keys_of_the_child_sa_are_strongswans() {
    for text in ANSWERS {
        let negotiation = Negotiation::load(text);
        let payloads = negotiation.ike_auth(3, &negotiation.keys.sk_er);
        let ours: EspProposal = negotiation.answer["proposals"]["esp"].as_str().unwrap().parse().unwrap();
        let chosen = payloads.iter().find_map(|payload| match payload {
            Payload::Sa(proposals) => Some(proposals),
            _ => None,
        });
        let (suite, _) = accepted_esp(&[ours], chosen.unwrap(), false).unwrap();
        let len = suite.encr.key_len() + suite.encr.salt_len();
        let (prf, nonces) = (negotiation.suite.prf, &negotiation.nonces);
        let keymat = derive_child_keymat(prf, &negotiation.keys.sk_d, None, &nonces[0], &nonces[1], 2 * len);
        assert_eq!(keymat[..len], negotiation.secret("encryption initiator key", 0)[..]);
        assert_eq!(keymat[len..], negotiation.secret("encryption responder key", 0)[..]);
    }
}

#[test]
fn a_sealed_message_changed_anywhere_does_not_open() {
    let negotiation = Negotiation::load(ANSWERS[0]);
    let original = &negotiation.octets[2];
    for index in 0..original.len() {
        let mut changed = original.clone();
        changed[index] ^= 1;
        let Ok(received) = Message::parse(&changed) else { continue };
        let Some(encrypted) = received.encrypted else { continue };
        assert!(open(&encrypted, negotiation.suite.encr, &negotiation.keys.sk_ei).is_err(), "octet {index}");
    }
}

#[test]
fn a_message_that_we_seal_opens_to_what_was_sealed() {
    let negotiation = Negotiation::load(ANSWERS[0]);
    let key = &negotiation.keys.sk_ei;
    let payloads = negotiation.ike_auth(2, key);
    let message = Message { header: negotiation.received[2].message.header, payloads: payloads.clone() };
    let sealed = message.emit_sealed(negotiation.suite.encr, key, 7_u64.to_be_bytes());
    let received = Message::parse(&sealed).unwrap();
    assert_eq!(open(received.encrypted.as_ref().unwrap(), negotiation.suite.encr, key).unwrap(), payloads);
    // And octet for octet: strongSwan pads no more than we do, and its IV is all that differs.
    let iv: [u8; 8] = negotiation.received[2].encrypted.as_ref().unwrap().body[..8].try_into().unwrap();
    assert_eq!(message.emit_sealed(negotiation.suite.encr, key, iv), negotiation.octets[2]);
    let other = IkeAead::Aes256Gcm16;
    assert!(open(received.encrypted.as_ref().unwrap(), other, key).is_err());
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
    let payloads = open(&auth, IkeAead::Aes256Gcm16, &hex(&offers["sk_ei"])).unwrap();
    let (suite, ..) = select_esp(&EspProposal::defaults(), &proposals(&payloads), false).unwrap();
    assert_eq!(suite.to_string(), "aes256gcm16");
}
