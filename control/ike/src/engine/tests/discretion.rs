//! What a peer learns from us before it is authenticated: what the RFC asks, and nothing of why. The verdict stays here.

use std::collections::BTreeSet;

use super::world::*;
use crate::config::*;
use crate::engine::*;
use crate::message::{Message, Notify, Payload, Protocol, notify};

/// What B sends when A initiates.
fn answers(a: EngineConfig, b: EngineConfig) -> (Vec<Vec<u8>>, Vec<&'static str>) {
    let mut world = World::new(1, a, b);
    let command = world.initiate(A);
    world.run_until(300, "the command ends", |world| world.ends[A].done.contains_key(&command));
    let sent = world.sent.iter().filter_map(|(from, datagram)| match &datagram.payload {
        DatagramPayload::Ike(octets) if *from == B => Some(octets.clone()),
        _ => None,
    });
    (sent.collect(), world.failures(B))
}

#[test]
fn a_refused_first_message_is_answered_with_one_bare_notification_whatever_the_reason() {
    let change = |change: fn(&mut ConnectionConfig)| {
        let mut b = config(B);
        change(&mut b.connections[0]);
        answers(config(A), b)
    };
    let mut reasons = BTreeSet::new();
    for (sent, failures) in [
        change(|c| c.remote_addrs = vec![AddressMatch::Address("198.51.100.1".parse().unwrap())]),
        change(|c| c.proposals = vec!["aes256gcm16-prfsha384-ecp384".parse().unwrap()]),
        change(|c| c.proposals = vec!["aes128gcm16-prfsha256-modp2048".parse().unwrap()]),
    ] {
        reasons.extend(failures);
        for octets in sent {
            let bare = Notify {
                protocol: Protocol::Other(0),
                spi: Vec::new(),
                notify_type: notify::NO_PROPOSAL_CHOSEN,
                data: Vec::new(),
            };
            assert_eq!(Message::parse(&octets).unwrap().message.payloads, [Payload::Notify(bare)]);
        }
    }
    assert_eq!(
        reasons.into_iter().collect::<Vec<_>>(),
        ["NO_CONFIG_FOR_ADDRESS", "PROPOSAL_KE_MISMATCH", "PROPOSAL_MISMATCH"]
    );
}

#[test]
fn a_refused_authentication_looks_the_same_whatever_the_reason() {
    let change = |change: fn(&mut EngineConfig)| {
        let mut b = config(B);
        change(&mut b);
        answers(config(A), b)
    };
    let mut reasons = BTreeSet::new();
    let mut lengths = BTreeSet::new();
    for (sent, failures) in [
        change(|b| b.shared_keys[0].secret = Secret(b"another".to_vec())),
        change(|b| b.shared_keys[0].ids = vec![id("c.example")]),
        change(|b| b.connections[0].remote[0].id = IdentityMatch::Exactly(id("c.example"))),
        change(|b| b.connections[0].local[0].id = Some(id("d.example"))),
    ] {
        reasons.extend(failures);
        let last = sent.last().unwrap();
        let received = Message::parse(last).unwrap();
        assert_eq!(received.message.payloads, []);
        // It is encrypted, so its length is all that could differ: one notification without data.
        lengths.insert((received.encrypted.unwrap().body.len(), last.len()));
    }
    assert_eq!(reasons.into_iter().collect::<Vec<_>>(), ["ID_UNEXPECTED", "NO_SHARED_KEY", "PSK_MISMATCH"]);
    assert_eq!(lengths.len(), 1, "{lengths:?}");
}
