//! Generated messages: what is emitted parses to itself, and nothing that arrives makes the parser panic.

use std::net::IpAddr;

use portcullis_ipsec::{AddressRange, PortRange};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

fn octets(len: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), len)
}

fn protocol() -> impl Strategy<Value = Protocol> {
    let other = any::<u8>().prop_filter("named", |number| !(1..=3).contains(number));
    prop_oneof![Just(Protocol::Ike), Just(Protocol::Ah), Just(Protocol::Esp), other.prop_map(Protocol::Other)]
}

fn proposal() -> impl Strategy<Value = WireProposal> {
    let transform =
        (any::<u8>(), any::<u16>(), option::of(any::<u16>())).prop_map(|(transform_type, id, key_length)| {
            Transform { transform_type, id, key_length, unknown_attribute: false }
        });
    (any::<u8>(), protocol(), octets(0..=8), vec(transform, 0..=6))
        .prop_map(|(number, protocol, spi, transforms)| WireProposal { number, protocol, spi, transforms })
}

fn identity() -> impl Strategy<Value = IdPayload> {
    (any::<u8>(), any::<[u8; 3]>(), octets(0..=20)).prop_map(|(id_type, reserved, data)| IdPayload {
        identity: Identity::from_wire(id_type, &data),
        reserved,
    })
}

fn selector() -> impl Strategy<Value = Option<TrafficSelector>> {
    fn range<A: Copy + Ord + Into<IpAddr>>((a, b): (A, A)) -> AddressRange {
        AddressRange::new(a.min(b).into(), a.max(b).into()).unwrap()
    }
    let v4 = any::<(std::net::Ipv4Addr, std::net::Ipv4Addr)>().prop_map(range);
    let v6 = any::<(std::net::Ipv6Addr, std::net::Ipv6Addr)>().prop_map(range);
    let ports = any::<(u16, u16)>().prop_map(|(a, b)| PortRange { start: a.min(b), end: a.max(b) });
    (prop_oneof![v4, v6], any::<u8>(), prop_oneof![ports, Just(PortRange::OPAQUE)])
        .prop_map(|(addrs, protocol, ports)| Some(TrafficSelector { addrs, protocol, ports }))
}

fn payload() -> impl Strategy<Value = Payload> {
    let notify = (protocol(), octets(0..=8), any::<u16>(), octets(0..=40)).prop_map(
        |(protocol, spi, notify_type, data)| Payload::Notify(Notify { protocol, spi, notify_type, data }),
    );
    prop_oneof![
        vec(proposal(), 1..=4).prop_map(Payload::Sa),
        (any::<u16>(), octets(0..=96)).prop_map(|(method, data)| Payload::Ke { method, data }),
        identity().prop_map(Payload::IdI),
        identity().prop_map(Payload::IdR),
        (any::<u8>(), octets(0..=64)).prop_map(|(encoding, data)| Payload::Cert { encoding, data }),
        (any::<u8>(), octets(0..=64))
            .prop_map(|(encoding, authorities)| Payload::CertReq { encoding, authorities }),
        (any::<u8>(), octets(0..=64)).prop_map(|(method, data)| Payload::Auth { method, data }),
        octets(16..=256).prop_map(Payload::Nonce),
        notify,
        (protocol(), vec(octets(4..=4), 0..=5))
            .prop_map(|(protocol, spis)| Payload::Delete { protocol, spis }),
        octets(0..=40).prop_map(Payload::VendorId),
        octets(0..=128).prop_map(Payload::PuzzleSolution),
        vec(selector(), 0..=4).prop_map(Payload::TsI),
        vec(selector(), 0..=4).prop_map(Payload::TsR),
        octets(0..=40).prop_map(Payload::Eap),
        (1..=5_u8, vec((0..0x8000_u16, octets(0..=20)), 0..=5)).prop_map(|(kind, attributes)| {
            let attributes = attributes
                .into_iter()
                .map(|(attribute_type, value)| Attribute { attribute_type, value })
                .collect();
            let kind = match kind {
                1 => ConfigurationType::Request,
                2 => ConfigurationType::Reply,
                3 => ConfigurationType::Set,
                4 => ConfigurationType::Ack,
                other => ConfigurationType::Other(other),
            };
            Payload::Cp(Configuration { kind, attributes })
        }),
        (55..=255_u8, octets(0..=40)).prop_map(|(payload_type, body)| Payload::Unread { payload_type, body }),
    ]
}

prop_compose! {
    fn any_message()(
        spi_i: [u8; 8],
        spi_r: [u8; 8],
        exchange in prop_oneof![
            Just(ExchangeType::IkeSaInit),
            Just(ExchangeType::IkeAuth),
            Just(ExchangeType::CreateChildSa),
            Just(ExchangeType::Informational),
            (38..=255_u8).prop_map(ExchangeType::from_number),
        ],
        initiator: bool,
        response: bool,
        message_id: u32,
        payloads in vec(payload(), 0..=8),
    ) -> Message {
        let header = Header { spi_i, spi_r, major: 2, minor: 0, exchange, initiator, response, message_id };
        Message { header, payloads }
    }
}

proptest! {
    #[test]
    fn what_is_emitted_parses_to_itself(message in any_message()) {
        let received = Message::parse(&message.emit()).unwrap();
        prop_assert_eq!(received.message, message);
        prop_assert_eq!(received.encrypted, None);
    }

    #[test]
    fn what_is_sealed_opens_to_itself(message in any_message(), number: u64) {
        let received = Message::parse(&message.emit_sealed(sealing(), number)).unwrap();
        prop_assert_eq!(received.message.header, message.header);
        prop_assert_eq!(received.message.payloads, vec![]);
        prop_assert_eq!(open(&received.encrypted.unwrap(), sealing()), Ok(message.payloads));
    }

    #[test]
    fn what_was_sealed_and_then_changed_never_opens(
        message in any_message(),
        index: prop::sample::Index,
        change in 1..=255_u8,
    ) {
        let mut octets = message.emit_sealed(sealing(), 3);
        *index.get_mut(&mut octets) ^= change;
        if let Ok(Received { encrypted: Some(encrypted), .. }) = Message::parse(&octets) {
            prop_assert_eq!(open(&encrypted, sealing()), Err(MessageError::Integrity(IntegrityError)));
        }
    }

    #[test]
    fn a_changed_or_cut_message_is_parsed_or_refused(
        message in any_message(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..=8),
        cut: prop::sample::Index,
    ) {
        let mut octets = message.emit();
        for (index, value) in changes {
            *index.get_mut(&mut octets) = value;
        }
        let _ = Message::parse(&octets);
        let _ = Message::parse(&octets[..cut.index(octets.len())]);
    }

    #[test]
    fn anything_at_all_is_parsed_or_refused(mut octets in octets(0..=400), first: u8) {
        let _ = Message::parse(&octets);
        // And with a header that leads into the payloads.
        let length = (octets.len() as u32).to_be_bytes();
        if let Some(header) = octets.get_mut(16..28) {
            header[..2].copy_from_slice(&[first, 0x20]);
            header[8..].copy_from_slice(&length);
        }
        let _ = Message::parse(&octets);
        let _ = open(&sealed(first, &octets), sealing());
    }

    #[test]
    fn what_parses_is_emitted_so_that_it_parses_to_the_same(mut octets in octets(28..=300), first in 33..=48_u8) {
        let length = (octets.len() as u32).to_be_bytes();
        octets[16..18].copy_from_slice(&[first, 0x20]);
        octets[24..28].copy_from_slice(&length);
        // One payload that fills the message, so that many parse.
        if octets.len() >= 32 {
            let length = (octets.len() as u16 - 28).to_be_bytes();
            octets[28] = 0;
            octets[30..32].copy_from_slice(&length);
        }
        if let Ok(Received { message, encrypted: None }) = Message::parse(&octets)
            && !message.payloads.iter().any(is_lossy)
        {
            prop_assert_eq!(Message::parse(&message.emit()).unwrap().message.payloads, message.payloads);
        }
    }
}

/// Payloads of which parsing keeps less than they hold: what we do not know is never emitted.
pub(crate) fn is_lossy(payload: &Payload) -> bool {
    match payload {
        Payload::TsI(selectors) | Payload::TsR(selectors) => selectors.contains(&None),
        Payload::Sa(proposals) => proposals
            .iter()
            .flat_map(|proposal| &proposal.transforms)
            .any(|transform| transform.unknown_attribute),
        _ => false,
    }
}
