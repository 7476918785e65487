//! Messages from nobody and from peers gone mad: nothing panics, nothing that is not authentic changes anything.

use super::world::*;
use crate::engine::*;
use crate::message::{ExchangeType, Payload};

/// Octets with a few of them changed, cut off or added.
fn mutate(world: &mut World, octets: &[u8]) -> Vec<u8> {
    use rand_core::Rng as _;
    let mut octets = octets.to_vec();
    for _ in 0..1 + world.rng.next_u32() % 4 {
        let at = world.rng.next_u32() as usize % octets.len().max(1);
        match world.rng.next_u32() % 8 {
            0 => octets.truncate(at),
            1 => octets.insert(at, world.rng.next_u32() as u8),
            2 if at + 4 <= octets.len() => octets[at..at + 4].fill(0xff),
            3 if at + 2 <= octets.len() => octets[at..at + 2].fill(0),
            _ if at < octets.len() => octets[at] ^= 1 << (world.rng.next_u32() % 8),
            _ => {}
        }
    }
    // Half of the time the length field is right, so that the mutation is looked at.
    if world.rng.next_u32().is_multiple_of(2) && octets.len() >= 28 {
        let len = octets.len() as u32;
        octets[24..28].copy_from_slice(&len.to_be_bytes());
    }
    octets
}

/// The state of an end's engine, as far as it can be seen.
fn picture(world: &World, end: usize) -> String {
    format!("{:?}", world.ends[end].engine.status())
}

#[test]
pub(super) fn mutated_messages_are_survived_in_every_state() {
    for seed in 0..150 {
        let mut world = World::new(seed, config(A), config(B));
        world.initiate(A);
        for _ in 0..30 {
            let until = world.now + std::time::Duration::from_millis(200);
            world.tick(until);
            let Some((from, datagram)) = world.sent.last().cloned() else { continue };
            let DatagramPayload::Ike(octets) = &datagram.payload else { continue };
            let octets = mutate(&mut world, octets);
            let payload = DatagramPayload::Ike(octets);
            world.deliver(1 - from, Datagram { local: datagram.remote, remote: datagram.local, payload });
        }
        world.run(400);
    }
}

#[test]
fn what_is_not_authentic_does_not_change_an_established_tunnel() {
    let mut world = World::plain().established();
    let before = [picture(&world, A), picture(&world, B)];
    let sent = world.sent.clone();
    for round in 0..2000 {
        let (from, datagram) = &sent[round % sent.len()];
        let DatagramPayload::Ike(octets) = &datagram.payload else { continue };
        let mutated = mutate(&mut world, octets);
        if &mutated == octets {
            continue;
        }
        let payload = DatagramPayload::Ike(mutated);
        world.deliver(1 - *from, Datagram { local: datagram.remote, remote: datagram.local, payload });
        world.wire.clear();
    }
    world.run(40);
    assert_eq!(before[A], picture(&world, A));
    world.assert_agreement();
}

#[test]
fn a_forgery_too_short_to_be_sealed_does_not_end_an_established_tunnel() {
    let mut world = World::plain().established();
    let before = picture(&world, A);
    for len in 0..40 {
        // Seeing the wire is enough to know the SPIs and the message ID that is awaited.
        let Datagram { local, remote, payload } = seal(&mut world, B, |header| header, 0, &[]);
        let DatagramPayload::Ike(mut octets) = payload else { unreachable!() };
        octets.resize(28 + 4 + len, 0);
        octets[24..28].copy_from_slice(&(32 + len as u32).to_be_bytes());
        octets[30..32].copy_from_slice(&(4 + len as u16).to_be_bytes());
        octets.iter_mut().skip(32).for_each(|octet| *octet = 0xaa);
        world.deliver(A, Datagram { local, remote, payload: DatagramPayload::Ike(octets) });
        assert_eq!(before, picture(&world, A), "{len} octets");
    }
    world.run(40);
    world.assert_agreement();
}

/// Seals any octets as the inside of a message of `end`'s established IKE SA.
fn seal(
    world: &mut World,
    end: usize,
    header: impl Fn(Header) -> Header,
    first_payload: u8,
    inside: &[u8],
) -> Datagram {
    use rand_core::Rng as _;
    let number = world.rng.next_u64() | 1 << 63;
    let sa = world.ends[end].engine.sas.values().next().unwrap();
    let State::Established(established) = &sa.state else { panic!("not established") };
    let channel = &established.channel;
    let keys = if end == A { channel.keys.of_initiator() } else { channel.keys.of_responder() };
    let header = header(channel::header(&sa.base, ExchangeType::Informational, false, 0));
    let mut octets = Vec::new();
    octets.extend_from_slice(&header.spi_i);
    octets.extend_from_slice(&header.spi_r);
    let exchange = header.exchange.number();
    let flags = u8::from(header.initiator) << 3 | u8::from(header.response) << 5;
    octets.extend_from_slice(&[46, 0x20, exchange, flags]);
    octets.extend_from_slice(&header.message_id.to_be_bytes());
    let sealed_len = 4 + channel.suite.protection.sealed_len(inside.len());
    octets.extend_from_slice(&(28 + sealed_len as u32).to_be_bytes());
    octets.extend_from_slice(&[first_payload, 0]);
    octets.extend_from_slice(&(sealed_len as u16).to_be_bytes());
    let body = channel.suite.protection.seal(keys, number, &octets, inside).unwrap();
    octets.extend_from_slice(&body);
    let (local, remote) = (sa.base.local, sa.base.remote);
    Datagram { local: remote, remote: local, payload: DatagramPayload::Ike(octets) }
}

/// The octets of payloads, and the type of the first.
fn inside(payloads: Vec<Payload>) -> (u8, Vec<u8>) {
    let header = Header {
        spi_i: [1; 8],
        spi_r: [2; 8],
        major: 2,
        minor: 0,
        exchange: ExchangeType::Informational,
        initiator: true,
        response: false,
        message_id: 0,
    };
    let octets = Message { header, payloads }.emit();
    (octets[16], octets[28..].to_vec())
}

/// Requests of every kind, as the peer of an established IKE SA may send them.
fn requests() -> Vec<(ExchangeType, Vec<Payload>)> {
    let offer = negotiation::offer_esp(
        &config(A).connections[0].children[0].esp_proposals,
        portcullis_ipsec::Spi::new(0x7777).unwrap(),
        true,
    );
    let child = vec![
        Payload::Sa(offer),
        Payload::Nonce(vec![7; 32]),
        Payload::TsI(vec![ts("10.1.0.0/16"), ts("10.1.2.3[tcp/80]")]),
        Payload::TsR(vec![ts("10.2.0.0/16")]),
    ];
    let delete = informational::delete_children(&[portcullis_ipsec::Spi::new(0x1001).unwrap()]);
    let notify = ike_sa_init::notification(16390, vec![1, 2, 3]);
    vec![(ExchangeType::CreateChildSa, child), (ExchangeType::Informational, vec![delete, notify])]
}

#[test]
fn authentic_but_malformed_requests_are_survived() {
    for seed in 0..300 {
        let mut world = World::new(seed, config(A), config(B)).established();
        for (exchange, payloads) in requests() {
            let (first, octets) = inside(payloads);
            let octets = mutate(&mut world, &octets);
            let message_id = if exchange == ExchangeType::CreateChildSa { 2 } else { 3 };
            if world.ends[B].engine.status().is_empty() {
                break;
            }
            let datagram =
                seal(&mut world, A, |header| Header { exchange, message_id, ..header }, first, &octets);
            world.deliver(B, datagram);
            world.run(1);
        }
        world.run(5);
        let answers = world.messages(B).len();
        assert!(answers > 2, "seed {seed}: an authentic request is answered");
    }
}

#[test]
fn an_authentic_malformed_request_is_answered_invalid_syntax_and_ends_the_ike_sa() {
    let mut world = World::plain().established();
    let datagram = seal(&mut world, A, |header| Header { message_id: 2, ..header }, 41, &[0, 0, 0, 2]);
    world.deliver(B, datagram);
    assert_eq!(world.messages(B).len(), 3);
    world.run(1);
    world.assert_empty(B);
    assert_eq!(world.failures(B), ["PEER_MISBEHAVED"]);
}

#[test]
fn an_unknown_critical_payload_costs_the_request_only() {
    let mut world = World::plain().established();
    let datagram = seal(&mut world, A, |header| Header { message_id: 2, ..header }, 200, &[0, 0x80, 0, 4]);
    world.deliver(B, datagram);
    assert_eq!(world.messages(B).len(), 3);
    assert!(world.up());
    // The next request is taken: the refused one has used its message ID.
    let datagram = seal(&mut world, A, |header| Header { message_id: 3, ..header }, 200, &[0, 0, 0, 4]);
    world.deliver(B, datagram);
    assert_eq!(world.messages(B).len(), 4, "one that is not critical is skipped");
    world.wire.clear();
    assert!(world.up());
}

#[test]
fn message_ids_beyond_the_window_are_ignored() {
    let mut world = World::plain().established();
    for message_id in [0, 1, 3, 4, u32::MAX] {
        let datagram = seal(&mut world, A, |header| Header { message_id, ..header }, 0, &[]);
        world.deliver(B, datagram);
    }
    let datagram = seal(&mut world, A, |header| Header { message_id: 2, response: true, ..header }, 0, &[]);
    world.deliver(B, datagram);
    assert_eq!(world.messages(B).len(), 2);
    assert!(world.up());
}

#[test]
fn an_unprotected_informational_message_is_ignored() {
    let mut world = World::plain().established();
    let sa = world.ends[A].engine.sas.values().next().unwrap();
    let delete = Payload::Delete { protocol: crate::message::Protocol::Ike, spis: Vec::new() };
    let header = channel::header(&sa.base, ExchangeType::Informational, false, 2);
    let octets = Message { header, payloads: vec![delete] }.emit();
    let (local, remote) = (sa.base.local, sa.base.remote);
    world.deliver(B, Datagram { local: remote, remote: local, payload: DatagramPayload::Ike(octets) });
    assert_eq!(world.messages(B).len(), 2);
    assert!(world.up());
    world.assert_agreement();
}

#[test]
fn secrets_are_not_printed() {
    let world = World::plain().established();
    let sa = world.ends[A].engine.sas.values().next().unwrap();
    let job = Job::GenerateKe { method: crate::crypto::KeMethod::X25519, peer_public: None, seed: [77; 32] };
    assert!(!format!("{job:?}").contains("77"));
    let printed = format!("{sa:?}");
    assert!(printed.contains("IkeKeys(…)"));
    let State::Established(established) = &sa.state else { panic!() };
    let keys = &established.channel.keys;
    for secret in [&keys.sk_d, &keys.sk_ei, &keys.sk_er, &keys.sk_pi, &keys.sk_pr] {
        assert!(!printed.contains(&format!("{secret:?}")));
    }
}

/// The same message with other octets inside its Encrypted payload, properly sealed with the key of its sender.
fn reseal(world: &mut World, octets: &[u8], sealing: crate::message::Sealing<'_>) -> Vec<u8> {
    use rand_core::Rng as _;
    let crate::message::Sealing { protection, keys } = sealing;
    let encrypted = Message::parse(octets).unwrap().encrypted.unwrap();
    let inside = protection.open(keys, &encrypted.aad, &encrypted.body).unwrap();
    let inside = mutate(world, &inside);
    let mut aad = encrypted.aad.clone();
    // An AEAD, so that there is no padding: with the pad length, which is inside already.
    let sealed_len = 4 + protection.sealed_len(inside.len()) - 1;
    let len = aad.len() - 4 + sealed_len;
    aad[24..28].copy_from_slice(&(len as u32).to_be_bytes());
    let at = aad.len();
    aad[at - 2..].copy_from_slice(&(sealed_len as u16).to_be_bytes());
    let number = world.rng.next_u64() | 1 << 63;
    let body = protection.seal_text(keys, number, &aad, &inside).unwrap();
    [aad, body].concat()
}

/// The suite and keys of an end, once it has any.
fn keys(world: &World, end: usize) -> Option<(crate::proposal::IkeSuite, crate::crypto::IkeKeys)> {
    let sa = world.ends[end].engine.sas.values().next()?;
    let channel = match &sa.state {
        State::Established(established) => &established.channel,
        State::AwaitingAuthResponse(state) => &state.channel,
        _ => return None,
    };
    Some((channel.suite, channel.keys.clone()))
}

#[test]
fn exchanges_with_authentic_but_malformed_messages_leave_nothing_behind() {
    for seed in 0..400 {
        let (mut a, mut b) = (config(A), config(B));
        for config in [&mut a, &mut b] {
            config.connections[0].children[0].esp_proposals = vec!["aes256gcm16-x25519".parse().unwrap()];
        }
        let mut second = child("dmz", "10.1.0.0/16", "10.22.0.0/16");
        second.esp_proposals = vec!["aes256gcm16-x25519".parse().unwrap()];
        a.connections[0].children.push(second.clone());
        (second.local_ts, second.remote_ts) = (second.remote_ts, second.local_ts);
        b.connections[0].children.push(second);
        let mut world = World::new(seed, a, b);
        world.initiate(A);
        // The n-th protected message is changed on its way: both IKE_AUTH and both CREATE_CHILD_SA messages.
        let target = seed % 4;
        let mut protected = 0;
        for _ in 0..400 {
            let until = world.now + std::time::Duration::from_secs(400);
            let before = world.sent.len();
            if !world.tick(until) {
                break;
            }
            if world.sent.len() == before {
                continue;
            }
            let (from, sent) = world.sent.last().cloned().unwrap();
            let DatagramPayload::Ike(octets) = &sent.payload else { continue };
            let received = Message::parse(octets).unwrap();
            if received.encrypted.is_none() {
                continue;
            }
            protected += 1;
            if protected != target + 1 {
                continue;
            }
            let (suite, keys) = keys(&world, A).expect("A has keys");
            let keys = if from == A { keys.of_initiator() } else { keys.of_responder() };
            let sealing = crate::message::Sealing { protection: suite.protection, keys };
            let changed = reseal(&mut world, octets, sealing);
            let flight = world.wire.iter_mut().find(|flight| flight.to != from);
            if let Some(flight) = flight {
                flight.datagram.payload = DatagramPayload::Ike(changed);
            }
        }
        world.terminate(A);
        world.terminate(B);
        world.run(600);
        for end in [A, B] {
            world.assert_empty(end);
            assert_eq!(world.ends[end].engine.poll_timeout(), None, "seed {seed}");
        }
    }
}
