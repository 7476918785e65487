use portcullis_ipsec::TrafficSelector;

use super::*;
use crate::crypto::{AesKey, DirectionKeys, IkeEncr, IntegrityError, Protection};

mod random;
pub(crate) use random::is_lossy;

fn sealing() -> Sealing<'static> {
    let protection = Protection::new(IkeEncr::AesGcm16(AesKey::Aes128), None).unwrap();
    Sealing { protection, keys: DirectionKeys { sk_e: &[7; 20], sk_a: &[] } }
}

fn header() -> Header {
    Header {
        spi_i: [1; 8],
        spi_r: [2; 8],
        major: 2,
        minor: 0,
        exchange: ExchangeType::IkeAuth,
        initiator: true,
        response: false,
        message_id: 1,
    }
}

/// A message whose first payload has that type, behind the header those octets.
fn message(first: u8, payloads: &[u8]) -> Vec<u8> {
    let mut octets = vec![1; 8];
    octets.extend([2; 8]);
    octets.extend([first, 0x20, 35, 0x08, 0, 0, 0, 1]);
    octets.extend((28 + payloads.len() as u32).to_be_bytes());
    octets.extend(payloads);
    octets
}

/// One payload with its generic header.
fn part(next: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut octets = vec![next, flags];
    octets.extend((4 + body.len() as u16).to_be_bytes());
    octets.extend(body);
    octets
}

/// The only payload of a message, or why it is none.
fn only(payload_type: u8, body: &[u8]) -> Result<Payload, MessageError> {
    Message::parse(&message(payload_type, &part(0, 0, body))).map(|received| {
        let [payload] = received.message.payloads.try_into().unwrap();
        payload
    })
}

/// Seals octets as they are, which need not be payloads.
fn sealed(first: u8, content: &[u8]) -> Encrypted {
    let aad = vec![9; 32];
    let Sealing { protection, keys } = sealing();
    let body = protection.seal_text(keys, 3, &aad, content).unwrap();
    Encrypted { first_payload: first, fragment: None, aad, body }
}

#[test]
fn a_header_of_another_version_can_be_read_to_answer_it() {
    let mut octets = message(33, &[]);
    for (version, major, minor) in [(0x10, 1, 0), (0x31, 3, 1)] {
        octets[17] = version;
        assert_eq!(Message::parse(&octets), Err(MessageError::Version { major, minor }));
        let (read, first, length) = Header::parse(&octets).unwrap();
        assert_eq!((read, first, length), (Header { major, minor, ..header() }, 33, 28));
    }
}

#[test]
fn the_minor_version_and_reserved_bits_are_ignored() {
    let mut octets = message(40, &part(0, 0x7f, &[5; 16]));
    octets[17] = 0x2f;
    octets[19] = 0xff;
    let received = Message::parse(&octets).unwrap().message;
    assert_eq!(received.payloads, [Payload::Nonce(vec![5; 16])]);
    assert_eq!(
        (received.header.minor, received.header.initiator, received.header.response),
        (15, true, true)
    );
}

#[test]
fn the_length_of_the_header_is_that_of_the_datagram() {
    let octets = message(40, &part(0, 0, &[5; 16]));
    for length in [0, 27, 28, 47, 49, u32::MAX] {
        let mut wrong = octets.clone();
        wrong[24..28].copy_from_slice(&length.to_be_bytes());
        let error = Message::parse(&wrong).unwrap_err();
        assert!(matches!(error, MessageError::Length { what: "the message", .. }), "{length}: {error}");
    }
}

#[test]
fn a_payload_that_does_not_fit_is_refused() {
    for (what, octets) in [
        ("a length below the header's own", message(40, &[0, 0, 0, 3])),
        ("a length of zero", message(40, &[0, 0, 0, 0])),
        ("a length beyond the end", message(40, &[0, 0, 0, 9, 1, 2, 3, 4])),
        ("a header cut short", message(40, &[0, 0, 0])),
        ("a next payload that is not there", message(43, &part(43, 0, &[1]))),
        ("octets behind the last", message(43, &[part(0, 0, &[1]), vec![0]].concat())),
        ("octets and no payload", message(0, &[0])),
    ] {
        assert!(Message::parse(&octets).is_err(), "{what}");
    }
}

#[test]
fn an_unknown_payload_is_kept_unless_it_is_critical() {
    let unread = Payload::Unread { payload_type: 200, body: vec![1, 2] };
    assert_eq!(only(200, &[1, 2]), Ok(unread));
    let critical = Message::parse(&message(200, &part(0, 0x80, &[1, 2])));
    assert_eq!(critical, Err(MessageError::UnsupportedCritical { payload_type: 200 }));
}

#[test]
fn the_critical_bit_of_a_known_payload_is_ignored() {
    for payload_type in [37, 38, 43, 48] {
        assert!(Message::parse(&message(payload_type, &part(0, 0x80, &[1, 2]))).is_ok(), "{payload_type}");
    }
}

#[test]
fn a_nonce_has_16_to_256_octets() {
    for (len, fits) in [(0, false), (15, false), (16, true), (256, true), (257, false)] {
        assert_eq!(only(40, &vec![5; len]).is_ok(), fits, "{len}");
    }
}

#[test]
fn nothing_follows_an_encrypted_payload() {
    for payload_type in [46, 53] {
        let last = part(43, 0, &[1; 30]);
        assert!(Message::parse(&message(payload_type, &last)).is_ok());
        let error = Message::parse(&message(payload_type, &[last, part(0, 0, &[])].concat())).unwrap_err();
        assert!(error.to_string().contains("to close the message"), "{error}");
    }
}

#[test]
fn a_fragment_says_which_it_is() {
    let octets = message(53, &part(35, 0, &[0, 1, 0, 2, 9]));
    let received = Message::parse(&octets).unwrap();
    assert_eq!(received.message.payloads, []);
    let fragment = Some(Fragment { number: 1, total: 2 });
    let aad = octets[..octets.len() - 1].to_vec();
    assert_eq!(received.encrypted, Some(Encrypted { first_payload: 35, fragment, aad, body: vec![9] }));
    for [number, total] in [[0, 0], [0, 1], [2, 1]] {
        let error = Message::parse(&message(53, &part(0, 0, &[0, number, 0, total, 9]))).unwrap_err();
        assert!(error.to_string().contains("fragment number"), "{error}");
    }
    assert!(Message::parse(&message(53, &part(0, 0, &[0, 1, 0]))).is_err());
}

#[test]
fn fragments_are_no_longer_than_they_may_be_and_hold_the_whole() {
    use crate::crypto::IkeInteg;
    let payloads = vec![Payload::VendorId((0..=255).cycle().take(5000).collect())];
    let message = Message { header: header(), payloads: payloads.clone() };
    let cbc = Protection::new(IkeEncr::AesCbc(AesKey::Aes128), Some(IkeInteg::HmacSha256)).unwrap();
    let cbc = Sealing { protection: cbc, keys: DirectionKeys { sk_e: &[7; 16], sk_a: &[8; 32] } };
    for sealing in [sealing(), cbc] {
        for size in [200, 576, 1280, 1281, 1290] {
            let fragments = message.emit_within(&[], sealing, 0, size);
            assert!(fragments.len() > 1 && fragments.len() <= 5000 / (size - 120) + 1, "{}", fragments.len());
            let mut content = Vec::new();
            let mut first = 0;
            for (index, octets) in fragments.iter().enumerate() {
                assert!(octets.len() <= size, "{} of {size}", octets.len());
                let encrypted = Message::parse(octets).unwrap().encrypted.unwrap();
                let (number, total) = (index as u16 + 1, fragments.len() as u16);
                assert_eq!(encrypted.fragment, Some(Fragment { number, total }));
                first = if index == 0 { encrypted.first_payload } else { first };
                assert_eq!(encrypted.first_payload, if index == 0 { 43 } else { 0 });
                content.extend(decrypt(&encrypted, sealing).unwrap());
            }
            assert_eq!(super::payloads(first, &content).unwrap(), payloads);
        }
        let whole = message.emit_sealed(sealing, 0);
        assert_eq!(message.emit_within(&[], sealing, 0, whole.len()), [whole]);
        assert_eq!(message.emit_within(&[], sealing, 0, 60), [[0; 0]; 0], "no octet fits");
    }
}

#[test]
fn what_is_authenticated_later_is_the_message_without_its_encryption() {
    // RFC 9242 §3.3.2: the lengths are those of what is inside alone.
    let message = Message { header: header(), payloads: vec![Payload::VendorId(vec![5, 6])] };
    let octets = message.emit_for_authentication();
    let mut clear = super::tests::message(46, &part(43, 0, &part(0, 0, &[5, 6])));
    clear[28] = 43;
    assert_eq!(octets, clear);
    // The same at the other end, however it came.
    for datagrams in [vec![message.emit_sealed(sealing(), 0)], message.emit_within(&[], sealing(), 0, 66)] {
        let fragmented = datagrams.len() > 1;
        let parts = datagrams.iter().map(|octets| Message::parse(octets).unwrap().encrypted.unwrap());
        let parts: Vec<Encrypted> = parts.collect();
        let content: Vec<u8> = parts.iter().flat_map(|part| decrypt(part, sealing()).unwrap()).collect();
        assert_eq!(authenticated_later(&parts[0].aad, fragmented, &content), octets);
    }
}

#[test]
fn payloads_before_an_encrypted_one_are_part_of_what_its_icv_covers() {
    let octets = message(43, &[part(46, 0, &[1, 2]), part(35, 0, &[0; 30])].concat());
    let received = Message::parse(&octets).unwrap();
    assert_eq!(received.message.payloads, [Payload::VendorId(vec![1, 2])]);
    let encrypted = received.encrypted.unwrap();
    assert_eq!((encrypted.first_payload, encrypted.aad.as_slice()), (35, &octets[..28 + 6 + 4]));
}

#[test]
fn what_is_shown_stands_before_what_is_encrypted_and_in_the_first_fragment_alone() {
    let header = Message::parse(&message(46, &part(0, 0, &[0; 30]))).unwrap().message.header;
    let payloads = vec![Payload::VendorId(vec![7; 100])];
    let (message, shown) =
        (Message { header, payloads: payloads.clone() }, [Payload::PuzzleSolution(vec![9; 32])]);
    for (size, count) in [(1000, 1), (140, 3)] {
        let datagrams = message.emit_within(&shown, sealing(), 0, size);
        assert_eq!(datagrams.len(), count);
        let mut content = Vec::new();
        for (index, octets) in datagrams.iter().enumerate() {
            assert!(octets.len() <= size);
            let received = Message::parse(octets).unwrap();
            let expected = if index == 0 { &shown[..] } else { &[] };
            assert_eq!(received.message.payloads, expected);
            content.extend(decrypt(&received.encrypted.unwrap(), sealing()).unwrap());
        }
        assert_eq!(super::payloads(43, &content), Ok(payloads.clone()));
        // It is authenticated with the rest.
        let mut changed = datagrams[0].clone();
        changed[40] ^= 1;
        let changed = Message::parse(&changed).unwrap().encrypted.unwrap();
        assert!(matches!(decrypt(&changed, sealing()), Err(MessageError::Integrity(_))));
    }
}

#[test]
fn what_is_too_short_to_be_sealed_is_not_authentic_rather_than_malformed() {
    // The difference matters: only what the peer itself sent malformed may end an SA.
    for len in 0..8 + 16 + 1 {
        let encrypted = Encrypted { first_payload: 43, fragment: None, aad: vec![9; 32], body: vec![3; len] };
        assert_eq!(open(&encrypted, sealing()), Err(MessageError::Integrity(IntegrityError)), "{len}");
    }
}

#[test]
fn padding_of_any_length_is_taken_off() {
    let vendor = part(0, 0, &[1, 2]);
    for padding in [0_u8, 1, 15, 255] {
        let content = [vendor.clone(), vec![0xaa; padding.into()], vec![padding]].concat();
        assert_eq!(open(&sealed(43, &content), sealing()), Ok(vec![Payload::VendorId(vec![1, 2])]));
    }
}

#[test]
fn padding_that_does_not_fit_is_refused() {
    for content in [vec![], vec![1], vec![0xaa, 2], [part(0, 0, &[1, 2]), vec![7]].concat()] {
        let error = open(&sealed(43, &content), sealing()).unwrap_err();
        assert!(error.to_string().contains("pad"), "{error}");
    }
    assert_eq!(open(&sealed(0, &[0]), sealing()), Ok(vec![]), "an empty message is well-formed");
    assert!(open(&sealed(0, &[0, 0]), sealing()).is_err(), "content of no type is not");
}

#[test]
fn nothing_is_encrypted_twice() {
    for payload_type in [46, 53] {
        let content = [part(0, 0, &[0; 30]), vec![0]].concat();
        let error = open(&sealed(payload_type, &content), sealing()).unwrap_err();
        let found = payload_type.into();
        assert_eq!(error, MessageError::Invalid { what: "the type of an encrypted payload", found });
    }
}

/// An SA payload of one proposal with those transforms, each with its header.
fn sa(count: u8, transforms: &[u8]) -> Result<Transform, MessageError> {
    let length = 8 + transforms.len() as u16;
    let mut body = vec![0, 0];
    body.extend(length.to_be_bytes());
    body.extend([1, 3, 0, count]);
    body.extend(transforms);
    only(33, &body).map(|payload| {
        let Payload::Sa(proposals) = payload else { panic!("no SA payload") };
        proposals[0].transforms[0]
    })
}

#[test]
fn the_key_length_of_a_transform_is_read() {
    let read = sa(1, &[0, 0, 0, 12, 1, 0, 0, 20, 0x80, 14, 1, 0]).unwrap();
    let wanted = Transform { transform_type: 1, id: 20, key_length: Some(256), unknown_attribute: false };
    assert_eq!(read, wanted);
}

#[test]
fn attributes_that_are_unknown_or_come_twice_are_marked() {
    for (what, attributes) in [
        ("a fixed one", &[0x80, 99, 0, 1][..]),
        ("a variable one", &[0, 99, 0, 3, 1, 2, 3]),
        ("a key length in variable form", &[0, 14, 0, 2, 1, 0]),
        ("a second key length", &[0x80, 14, 0, 128, 0x80, 14, 1, 0]),
    ] {
        let mut transform = vec![0, 0];
        transform.extend((8 + attributes.len() as u16).to_be_bytes());
        transform.extend([1, 0, 0, 20]);
        transform.extend(attributes);
        assert!(sa(1, &transform).unwrap().unknown_attribute, "{what}");
    }
}

#[test]
fn proposals_whose_lengths_and_counts_disagree_are_refused() {
    let transform = [0, 0, 0, 8, 5, 0, 0, 0];
    let more = [3, 0, 0, 8, 5, 0, 0, 0];
    assert!(sa(1, &transform).is_ok());
    for (what, count, transforms) in [
        ("fewer transforms than counted", 2, transform.to_vec()),
        ("more transforms than counted", 1, [more, transform].concat()),
        ("transforms behind the last", 1, [transform, transform].concat()),
        ("transforms and a count of none", 0, transform.to_vec()),
        ("no transform behind one that says so", 1, more.to_vec()),
        ("a transform too short for its type", 1, vec![0, 0, 0, 6, 5, 0]),
        ("a transform that leaves the proposal", 1, vec![0, 0, 0, 12, 5, 0, 0, 0]),
        ("a marker that is none", 1, vec![7, 0, 0, 8, 5, 0, 0, 0]),
        ("an attribute that leaves the transform", 1, vec![0, 0, 0, 12, 1, 0, 0, 20, 0, 99, 0, 1]),
        ("half an attribute", 1, vec![0, 0, 0, 10, 1, 0, 0, 20, 0x80, 14]),
    ] {
        assert!(sa(count, &transforms).is_err(), "{what}");
    }
    for (what, body) in [
        ("no proposal", &[][..]),
        ("a proposal shorter than its header", &[0, 0, 0, 7, 1, 3, 0, 0]),
        ("another proposal that is not there", &[2, 0, 0, 8, 1, 3, 0, 0]),
        ("a proposal behind the last", &[0, 0, 0, 8, 1, 3, 0, 0, 0, 0, 0, 8, 2, 3, 0, 0]),
        ("an SPI that leaves the proposal", &[0, 0, 0, 8, 1, 3, 4, 0]),
    ] {
        assert!(only(33, body).is_err(), "{what}");
    }
}

#[test]
fn selectors_of_both_families_are_read_and_others_kept_as_none() {
    let ipv4 = [7, 6, 0, 16, 0, 80, 0, 80, 10, 1, 0, 0, 10, 1, 255, 255];
    let unknown = [9, 0, 0, 6, 1, 2];
    let mut ipv6 = vec![8, 0, 0, 40, 0, 0, 255, 255];
    ipv6.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    ipv6.extend([0x20, 1, 0xd, 0xb8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]);
    let body = [&[3, 0, 0, 0][..], &ipv4, &unknown, &ipv6].concat();
    let ts = |text: &str| Some(text.parse::<TrafficSelector>().unwrap());
    let read = vec![ts("10.1.0.0/16[tcp/80]"), None, ts("2001:db8::/32")];
    assert_eq!(only(44, &body), Ok(Payload::TsI(read.clone())));
    assert_eq!(only(45, &body), Ok(Payload::TsR(read)));
}

#[test]
fn an_empty_range_selects_nothing_and_opaque_ports_are_no_empty_range() {
    let selector = |start, end: u8, ports: [u8; 4]| {
        let mut body = vec![1, 0, 0, 0, 7, 6, 0, 16];
        body.extend(ports);
        body.extend([10, 0, 0, start, 10, 0, 0, end]);
        let Ok(Payload::TsI(selectors)) = only(44, &body) else { panic!("no TSi payload") };
        selectors[0].map(|selector| selector.to_string())
    };
    assert_eq!(selector(2, 1, [0, 0, 255, 255]), None);
    assert_eq!(selector(1, 1, [0, 80, 0, 79]), None);
    assert_eq!(selector(1, 1, [255, 255, 0, 0]).as_deref(), Some("10.0.0.1/32[tcp/opaque]"));
}

#[test]
fn selectors_whose_lengths_and_counts_disagree_are_refused() {
    let ipv4 = [7, 6, 0, 16, 0, 80, 0, 80, 10, 1, 0, 0, 10, 1, 255, 255];
    let counted = |count: u8, rest: &[u8]| only(44, &[&[count, 0, 0, 0][..], rest].concat());
    assert!(counted(1, &ipv4).is_ok());
    assert!(counted(2, &ipv4).is_err(), "fewer than counted");
    assert!(counted(0, &ipv4).is_err(), "more than counted");
    assert!(counted(1, &[7, 6, 0, 15, 0, 80, 0, 80, 10, 1, 0, 0, 10, 1, 255]).is_err(), "short");
    assert!(counted(1, &[7, 6, 0, 17, 0, 80, 0, 80, 10, 1, 0, 0, 10, 1, 255, 255, 0]).is_err(), "long");
    assert!(counted(1, &[9, 0, 0, 3]).is_err(), "shorter than its header");
    assert!(counted(1, &[8, 6, 0, 16, 0, 80, 0, 80, 10, 1, 0, 0, 10, 1, 255, 255]).is_err(), "IPv6, short");
}

#[test]
fn a_delete_holds_as_many_spis_as_it_counts() {
    let spis = vec![vec![1, 2, 3, 4], vec![5, 6, 7, 8]];
    let read = only(42, &[3, 4, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(read, Ok(Payload::Delete { protocol: Protocol::Esp, spis }));
    assert_eq!(only(42, &[1, 0, 0, 0]), Ok(Payload::Delete { protocol: Protocol::Ike, spis: vec![] }));
    for (what, body) in [
        ("fewer than counted", &[3, 4, 0, 2, 1, 2, 3, 4][..]),
        ("more than counted", &[3, 4, 0, 1, 1, 2, 3, 4, 5]),
        ("counted, but without octets", &[3, 0, 255, 255]),
        ("with octets, but not counted", &[3, 4, 0, 0, 1, 2, 3, 4]),
        ("cut short", &[3, 4, 0]),
    ] {
        assert!(only(42, body).is_err(), "{what}");
    }
}

#[test]
fn a_notify_holds_its_spi_and_its_data() {
    let read = only(41, &[3, 4, 0x40, 9, 1, 2, 3, 4, 5]);
    let notify =
        Notify { protocol: Protocol::Esp, spi: vec![1, 2, 3, 4], notify_type: 0x4009, data: vec![5] };
    assert_eq!(read, Ok(Payload::Notify(notify)));
    assert!(only(41, &[3, 4, 0x40, 9, 1, 2, 3]).is_err(), "an SPI cut short");
    assert!(only(41, &[3, 4, 0x40]).is_err(), "a type cut short");
}

#[test]
fn auth_covers_the_octets_of_an_identity_as_they_came() {
    let body = [2, 0xaa, 0xbb, 0xcc, b'g', b'w'];
    let Ok(Payload::IdI(id)) = only(35, &body) else { panic!("no IDi payload") };
    assert_eq!(id.identity, Identity::Fqdn("gw".to_owned()));
    assert_eq!(id.body(), body);
}

#[test]
fn payloads_too_short_for_their_fields_are_refused() {
    for payload_type in [34, 35, 36, 39, 41, 42, 44, 45] {
        for len in 0..4 {
            assert!(only(payload_type, &vec![0; len]).is_err(), "type {payload_type}, {len} octets");
        }
    }
}
