//! Messages of other people's captures: well-formed ones parse to what tshark shows, malformed ones, which once crashed
//! a parser, are rejected for the right reason.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::fmt::Write;

use portcullis_ike::message::{Message, Payload, Received};

/// `(capture, frame, octets)`.
fn captured() -> impl Iterator<Item = (&'static str, u32, Vec<u8>)> {
    let lines = include_str!("data/captures.txt").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, frame, hex] = words[..] else { panic!("a line with other than three words: {line}") };
        (name, frame.parse().unwrap(), data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap())
    })
}

/// Exchange, then payload types in order; an Encrypted payload with the type of the first payload inside.
fn outline(received: &Received) -> String {
    let header = received.message.header;
    let mut text = format!("{:?} {}", header.exchange, header.message_id);
    for payload in &received.message.payloads {
        let number = match payload {
            Payload::Sa(_) => 33,
            Payload::Ke { .. } => 34,
            Payload::IdI(_) => 35,
            Payload::IdR(_) => 36,
            Payload::Cert { .. } => 37,
            Payload::CertReq { .. } => 38,
            Payload::Auth { .. } => 39,
            Payload::Nonce(_) => 40,
            Payload::Notify(_) => 41,
            Payload::Delete { .. } => 42,
            Payload::VendorId(_) => 43,
            Payload::TsI(_) => 44,
            Payload::TsR(_) => 45,
            Payload::Eap(_) => 48,
            Payload::Cp(_) => 47,
            Payload::PuzzleSolution(_) => 54,
            Payload::Unread { payload_type, .. } => *payload_type,
        };
        write!(text, " {number}").unwrap();
    }
    if let Some(encrypted) = &received.encrypted {
        write!(text, " 46({})", encrypted.first_payload).unwrap();
    }
    text
}

/// As `tshark -T fields -e isakmp.exchangetype -e isakmp.messageid -e isakmp.typepayload` lists them.
const WELL_FORMED: &[(&str, &[&str])] = &[
    (
        "ikev2_nat_t.pcapng",
        &[
            "IkeSaInit 0 33 34 40 43 43 43 43 41 41 41",
            "IkeSaInit 0 33 34 40 38 43 43 43 43 41 41 41",
            "IkeAuth 1 46(35)",
            "IkeAuth 1 46(36)",
            "Informational 2 46(42)",
            "Informational 2 46(0)",
            "Informational 0 46(42)",
            "Informational 0 46(0)",
            "Informational 3 46(42)",
            "Informational 3 46(0)",
            "IkeSaInit 0 33 34 40 43 43 43 43 41 41 41",
            "IkeSaInit 0 33 34 40 38 43 43 43 43 41 41 41",
            "IkeAuth 1 46(35)",
            "IkeAuth 1 46(36)",
            "Informational 2 46(42)",
            "Informational 2 46(0)",
            "Informational 0 46(42)",
            "Informational 0 46(0)",
            "Informational 3 46(42)",
            "Informational 3 46(0)",
            "IkeSaInit 0 33 34 40 43 43 43 43 41 41 41",
            "IkeSaInit 0 33 34 40 38 43 43 43 43 41 41 41",
            "IkeAuth 1 46(35)",
            "IkeAuth 1 46(36)",
            "Informational 2 46(42)",
            "Informational 2 46(0)",
            "Informational 0 46(42)",
            "Informational 0 46(0)",
            "Informational 3 46(42)",
            "Informational 3 46(0)",
        ],
    ),
    (
        "ikev2_notify_redirect.pcap",
        &[
            "IkeSaInit 0 33 34 40 41 41 41 41 41",
            "IkeSaInit 0 41",
            "IkeSaInit 0 33 34 40 41 41 41 41 41",
            "IkeSaInit 0 41",
        ],
    ),
    (
        "ikev2four.pcap",
        &[
            "IkeSaInit 0 33 34 40 41 41",
            "IkeSaInit 0 41",
            "IkeSaInit 0 41 33 34 40 41 41",
            "IkeSaInit 0 33 34 40 41 41",
            "IkeAuth 1 46(35)",
            "IkeAuth 1 46(36)",
            "CreateChildSa 2 46(33)",
            "CreateChildSa 3 46(33)",
            "CreateChildSa 2 46(41)",
            "CreateChildSa 3 46(41)",
            "CreateChildSa 4 46(33)",
            "CreateChildSa 5 46(33)",
            "CreateChildSa 4 46(33)",
            "CreateChildSa 5 46(33)",
            "CreateChildSa 6 46(33)",
            "CreateChildSa 7 46(33)",
            "CreateChildSa 6 46(33)",
            "CreateChildSa 7 46(33)",
            "CreateChildSa 8 46(33)",
            "CreateChildSa 8 46(33)",
            "Informational 0 46(42)",
        ],
    ),
    (
        "ikev2-decrypt-aes192ctr.pcap",
        &[
            "IkeSaInit 0 33 34 40 41 41",
            "IkeSaInit 0 33 34 40 41 41 41",
            "IkeAuth 1 46(35)",
            "IkeAuth 1 46(36)",
            "Informational 2 46(42)",
            "Informational 2 46(0)",
        ],
    ),
    (
        "ikev2-decrypt-aes256cbc.pcapng",
        &[
            "IkeSaInit 0 33 34 40 41 41 41",
            "IkeSaInit 0 33 34 40 41 41 41",
            "IkeAuth 1 46(35)",
            "IkeAuth 1 46(36)",
        ],
    ),
    (
        "ikev2-decrypt-aes256gcm16.pcap",
        &[
            "IkeSaInit 0 33 34 40 41 41 41",
            "IkeSaInit 0 33 34 40 41 41 41",
            "IkeAuth 1 46(35)",
            "IkeAuth 1 46(36)",
            "Informational 0 46(42)",
            "Informational 0 46(0)",
        ],
    ),
    (
        "ikev2-decrypt-aes256gcm8.pcap",
        &[
            "IkeSaInit 0 33 34 40 41 41",
            "IkeSaInit 0 33 34 40 41 41 41",
            "IkeAuth 1 46(35)",
            "IkeAuth 1 46(36)",
            "Informational 0 46(42)",
            "Informational 0 46(0)",
        ],
    ),
    ("ikev2pI2.pcap", &["IkeSaInit 0 33 34 40 43", "IkeAuth 0 46(35)"]),
];

#[test]
fn well_formed_messages_have_the_payloads_that_tshark_shows() {
    for (name, outlines) in WELL_FORMED {
        let messages = captured().filter(|(capture, ..)| capture == name);
        let found: Vec<String> =
            messages.map(|(.., octets)| outline(&Message::parse(&octets).unwrap())).collect();
        assert_eq!(found, *outlines, "{name}");
    }
}

const REJECTED: &[(&str, &str)] = &[
    ("ISAKMP_sa_setup.pcap", "IKE version 1.0"),
    ("ikev1_id_ipv6_addr_subnet-oobr.pcap", "IKE version 1.0"),
    // Both have octets that no payload accounts for; in one the ID payload is itself too short.
    ("ikev2-id-normal.pcap", "the last payload has length 39, expected nothing behind it"),
    ("ikev2-id-short.pcap", "the ID payload is cut short"),
    ("ikev2pI2-segfault.pcapng", "a transform has the invalid value 46"),
    ("isakmp-3948-oobr-2.pcap", ""),
    ("isakmp-delete-segfault.pcap", "IKE version 11.14"),
    ("isakmp-identification-segfault.pcap", "IKE version 1.0"),
    ("isakmp-no-none-np.pcapng", "IKE version 1.0"),
    ("isakmp-pointer-loop.pcap", "IKE version 1.0"),
    ("isakmp-rfc3948-oobr.pcap", ""),
];

#[test]
fn malformed_messages_and_other_versions_are_rejected() {
    for (name, reason) in REJECTED {
        let mut seen = 0;
        for (.., octets) in captured().filter(|(capture, ..)| capture == name) {
            let error = Message::parse(&octets).unwrap_err().to_string();
            assert!(error.contains(reason), "{name}: {error}");
            seen += 1;
        }
        assert_ne!(seen, 0, "{name}");
    }
}

#[test]
fn a_message_cut_or_changed_anywhere_does_not_panic() {
    for (.., octets) in captured() {
        for len in 0..octets.len() {
            let _ = Message::parse(&octets[..len]);
            let mut changed = octets.clone();
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                changed[len] = value;
                let _ = Message::parse(&changed);
            }
        }
    }
}

#[test]
fn what_was_parsed_is_emitted_octet_for_octet() {
    // Others put the same payloads the same way wherever they follow the RFC to the letter.
    let mut compared = 0;
    for (name, frame, octets) in captured() {
        let Ok(received) = Message::parse(&octets) else { continue };
        // Sets the critical bit of payloads that every implementation knows, which RFC 7296 §3.2 forbids.
        if name == "ikev2pI2.pcap" {
            continue;
        }
        if received.encrypted.is_none() {
            assert_eq!(received.message.emit(), octets, "{name} frame {frame}");
            compared += 1;
        }
    }
    assert_ne!(compared, 0);
}
