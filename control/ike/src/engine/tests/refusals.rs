//! Negotiations that fail: both ends end clean, and each says why.

use super::world::*;
use crate::config::*;
use crate::engine::*;
use crate::message::{Payload, notify};

/// Runs to the end of A's command and gives its failure.
fn fails(world: &mut World) -> Failure {
    let command = world.initiate(A);
    world.run_until(300, "the command ends", |world| world.ends[A].done.contains_key(&command));
    world.run(100);
    world.ends[A].done[&command].clone().unwrap_err()
}

#[test]
fn a_wrong_key_ends_clean_and_is_named_on_both_sides() {
    let mut b = config(B);
    b.shared_keys[0].secret = Secret(b"another".to_vec());
    let mut world = World::new(1, config(A), b);
    let failure = fails(&mut world);
    assert_eq!(failure.code(), "AUTHENTICATION_FAILED");
    assert!(failure.to_string().contains("[secrets.ike-net]"), "{failure}");
    assert_eq!(world.failures(A), ["AUTHENTICATION_FAILED"]);
    assert_eq!(world.failures(B), ["PSK_MISMATCH"]);
    world.assert_empty(A);
    world.assert_empty(B);
}

#[test]
fn a_responder_that_does_not_prove_itself_is_told_and_dropped() {
    let (mut a, mut b) = (config(A), config(B));
    a.connections[0].remote[0].id = IdentityMatch::Any;
    let key = |name: &str, ids: &[&str], secret: &str| SharedKey {
        name: name.to_owned(),
        ids: ids.iter().map(|name| id(name)).collect(),
        secret: Secret(secret.as_bytes().to_vec()),
    };
    a.shared_keys =
        vec![key("first", &["a.example"], "one"), key("second", &["a.example", "b.example"], "two")];
    b.shared_keys = vec![key("all", &[], "one")];
    let mut world = World::new(1, a, b);
    let failure = fails(&mut world);
    assert_eq!(failure.code(), "PSK_MISMATCH");
    assert!(failure.to_string().contains("[secrets.second]"), "{failure}");
    assert_eq!(world.failures(B), ["AUTHENTICATION_FAILED"]);
    world.assert_empty(A);
    world.assert_empty(B);
}

#[test]
fn an_unexpected_identity_is_refused_and_said() {
    let mut b = config(B);
    b.connections[0].remote[0].id = IdentityMatch::Exactly(id("c.example"));
    let mut world = World::new(1, config(A), b);
    assert_eq!(fails(&mut world).code(), "AUTHENTICATION_FAILED");
    assert_eq!(world.failures(B), ["ID_UNEXPECTED"]);
    let said = world.ends[B].events.iter().find_map(|event| match event {
        Event::Failed(failure) => Some(failure.to_string()),
        _ => None,
    });
    let said = said.unwrap();
    assert!(said.contains("`a.example`") && said.contains("`c.example`"), "{said}");
    world.assert_empty(A);
    world.assert_empty(B);
}

#[test]
fn an_identity_without_a_key_is_refused_and_said() {
    let mut b = config(B);
    b.shared_keys[0].ids = vec![id("c.example")];
    let mut world = World::new(1, config(A), b);
    assert_eq!(fails(&mut world).code(), "AUTHENTICATION_FAILED");
    assert_eq!(world.failures(B), ["NO_SHARED_KEY"]);
    world.assert_empty(B);
}

#[test]
fn no_common_ike_proposal_is_named_on_both_sides() {
    let mut b = config(B);
    b.connections[0].proposals = vec!["aes256gcm16-prfsha256-ecp384".parse().unwrap()];
    let mut world = World::new(1, config(A), b);
    let failure = fails(&mut world);
    assert_eq!(failure.code(), "PROPOSAL_REFUSED");
    assert!(failure.to_string().contains("aes256gcm16-prfsha384-x25519"), "{failure}");
    assert!(world.failures(B).iter().all(|code| *code == "PROPOSAL_MISMATCH"));
    assert!(!world.failures(B).is_empty());
    world.assert_empty(A);
    world.assert_empty(B);
}

#[test]
fn a_group_that_we_never_offered_is_not_used() {
    let mut world = World::plain();
    world.meddle = Some(Box::new(|from, mut datagram| {
        if let (B, DatagramPayload::Ike(octets)) = (from, &mut datagram.payload) {
            let header = Header::parse(octets).unwrap().0;
            *octets = ike_sa_init::responder::answer(
                &Header { initiator: true, response: false, spi_r: [0; 8], ..header },
                notify::INVALID_KE_PAYLOAD,
                vec![0, 19],
            );
        }
        Some(datagram)
    }));
    let failure = fails(&mut world);
    assert_eq!(failure.code(), "PROPOSAL_KE_MISMATCH");
    world.assert_empty(A);
}

#[test]
fn a_peer_that_is_never_content_with_a_cookie_is_given_up() {
    let mut world = World::plain();
    let mut asked = 0_u8;
    world.meddle = Some(Box::new(move |from, mut datagram| {
        if let (B, DatagramPayload::Ike(octets)) = (from, &mut datagram.payload) {
            asked += 1;
            let header = Header { spi_r: [0; 8], ..Header::parse(octets).unwrap().0 };
            *octets = answer(&header, notify::COOKIE, vec![asked; 8]);
        }
        Some(datagram)
    }));
    assert_eq!(fails(&mut world).code(), "PEER_MISBEHAVED");
    let mut requests = world.messages(A);
    requests.dedup();
    assert_eq!(requests.len(), 1 + 5);
    world.assert_empty(A);
}

#[test]
fn an_unauthenticated_refusal_loses_against_an_honest_answer() {
    let mut world = World::plain();
    world.initiate(A);
    world.run_until(10, "the request leaves", |world| !world.messages(A).is_empty());
    let request = world.sent[0].1.clone();
    let DatagramPayload::Ike(octets) = &request.payload else { panic!() };
    let refusal = answer(&Header::parse(octets).unwrap().0, notify::NO_PROPOSAL_CHOSEN, Vec::new());
    let forged =
        Datagram { local: request.local, remote: request.remote, payload: DatagramPayload::Ike(refusal) };
    world.deliver(A, forged);
    world.run_until(10, "the tunnel comes up all the same", World::up);
    world.assert_agreement();
}

#[test]
fn a_child_that_the_peer_has_no_selectors_for_leaves_the_ike_sa_up() {
    let mut b = config(B);
    b.connections[0].children[0] = child("lan", "10.3.0.0/16", "10.1.0.0/16");
    let mut world = World::new(1, config(A), b);
    let failure = fails(&mut world);
    assert_eq!(failure.code(), "TS_NO_OVERLAP");
    assert!(failure.to_string().contains("10.2.0.0/16"), "{failure}");
    assert_eq!(world.failures(B), ["TS_NO_OVERLAP"]);
    for end in [A, B] {
        let status = world.ends[end].engine.status();
        assert_eq!(status.len(), 1);
        assert_eq!(status[0].state, IkeState::Established);
    }
    world.assert_agreement();
}

#[test]
fn a_child_without_a_common_proposal_leaves_the_ike_sa_up() {
    let mut b = config(B);
    b.connections[0].children[0].esp_proposals = vec!["aes128gcm16".parse().unwrap()];
    let mut world = World::new(1, config(A), b);
    assert_eq!(fails(&mut world).code(), "CHILD_PROPOSAL_REFUSED");
    assert_eq!(world.failures(B), ["CHILD_PROPOSAL_MISMATCH"]);
    assert_eq!(world.ends[B].engine.status()[0].state, IkeState::Established);
    world.assert_agreement();
}

#[test]
fn a_child_that_the_data_plane_refuses_is_gone_at_both_ends() {
    for end in [A, B] {
        let mut world = World::plain();
        world.ends[end].gateway.refuses = true;
        fails(&mut world);
        assert_eq!(world.failures(end), ["INSTALL_FAILED"]);
        for end in [A, B] {
            assert_eq!(world.ends[end].engine.status()[0].children, []);
        }
        world.assert_agreement();
        let mut world = World::plain();
        world.ends[end].gateway.full = true;
        fails(&mut world);
        assert_eq!(world.failures(end), ["INSTALL_FAILED"]);
        world.assert_agreement();
    }
}

#[test]
fn a_peer_without_a_connection_for_the_address_says_so() {
    let mut b = config(B);
    b.connections[0].remote_addrs = vec![AddressMatch::Address("198.51.100.1".parse().unwrap())];
    let mut world = World::new(1, config(A), b);
    assert_eq!(fails(&mut world).code(), "PROPOSAL_REFUSED");
    assert!(world.failures(B).contains(&"NO_CONFIG_FOR_ADDRESS"));
    world.assert_empty(A);
    world.assert_empty(B);
}

#[test]
fn a_connection_without_a_single_remote_address_is_not_initiated() {
    let mut a = config(A);
    a.connections[0].remote_addrs = vec![AddressMatch::Any];
    let mut world = World::new(1, a, config(B));
    assert_eq!(fails(&mut world).code(), "NO_REMOTE_ADDRESS");
    assert_eq!(world.messages(A).len(), 0);
}

#[test]
fn a_silent_peer_is_given_up_after_the_configured_tries() {
    let mut world = World::plain();
    world.ends[B].dead = true;
    let start = world.now;
    let command = world.initiate(A);
    world.run_until(300, "the command ends", |world| world.ends[A].done.contains_key(&command));
    // 4 * (1 + 1.8 + 1.8^2 + 1.8^3 + 1.8^4 + 1.8^5) seconds, as strongSwan's documentation has it.
    let waited = world.now - start;
    assert!((waited.as_secs_f64() - 165.06).abs() < 0.1, "{waited:?}");
    assert_eq!(world.messages(A).len(), 6);
    assert!(world.messages(A).windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(world.ends[A].done[&command].clone().unwrap_err().code(), "PEER_SILENT");
    world.assert_empty(A);
}

#[test]
fn an_initiator_that_never_authenticates_is_forgotten() {
    let mut world = World::plain();
    world.initiate(A);
    world.run_until(10, "the responder answers", |world| !world.messages(B).is_empty());
    assert_eq!(world.ends[B].engine.half_open(), 1);
    world.ends[A].dead = true;
    world.run(31);
    assert_eq!(world.failures(B), ["AUTH_NEVER_CAME"]);
    world.assert_empty(B);
}

#[test]
fn half_open_ike_sas_are_bounded() {
    let mut b = config(B);
    b.half_open_limit = 3;
    let mut world = World::new(1, config(A), b);
    world.initiate(A);
    world.run_until(10, "a request leaves", |world| !world.messages(A).is_empty());
    let request = world.sent[0].1.clone();
    for host in 1..=9 {
        let from = format!("192.0.2.1:{}", 1000 + host).parse().unwrap();
        world.deliver(B, Datagram { local: request.remote, remote: from, payload: request.payload.clone() });
    }
    assert_eq!(world.ends[B].engine.half_open(), 3);
    let limited = |event: &&Event| matches!(event, Event::Rejected { label: "half_open_limit", .. });
    assert_eq!(world.ends[B].events.iter().filter(limited).count(), 6);
}

#[test]
fn a_refused_tunnel_that_is_kept_up_is_tried_again_at_a_bounded_rate() {
    let (mut a, mut b) = (config(A), config(B));
    a.connections[0].children[0].start_action = StartAction::Start;
    b.shared_keys[0].secret = Secret(b"another".to_vec());
    let mut world = World::new(1, a, b);
    let failure = fails(&mut world);
    assert_eq!(failure.code(), "AUTHENTICATION_FAILED");
    world.run(600);
    let tries = world.failures(A).len();
    assert!((8..=24).contains(&tries), "{tries}");
}

#[test]
fn a_higher_version_is_answered_and_a_lower_one_is_not() {
    let mut world = World::plain();
    world.initiate(A);
    world.run_until(10, "a request leaves", |world| !world.messages(A).is_empty());
    let mut request = world.wire.pop().unwrap().datagram;
    for (version, answers) in [(0x30, 1), (0x10, 0)] {
        let DatagramPayload::Ike(octets) = &mut request.payload else { panic!() };
        octets[17] = version;
        world.sent.clear();
        world.deliver(B, request.clone());
        assert_eq!(world.messages(B).len(), answers);
        for answer in world.messages(B) {
            let received = Message::parse(&answer).unwrap().message;
            assert_eq!(received.header.major, 2);
            let is_version = |payload: &Payload| matches!(payload, Payload::Notify(n) if n.notify_type == notify::INVALID_MAJOR_VERSION);
            assert!(received.payloads.iter().any(is_version));
        }
    }
    assert_eq!(world.ends[B].engine.half_open(), 0);
}

#[test]
fn an_answer_beyond_our_offer_is_refused_and_deleted_at_the_peer() {
    let mut world = World::plain();
    let command = world.initiate(A);
    world.run_until(10, "B has answered", |world| world.messages(B).len() == 2);
    // As if we had asked for less than the peer now grants.
    let sa = world.ends[A].engine.sas.values_mut().next().unwrap();
    let State::AwaitingAuthResponse(state) = &mut sa.state else { panic!("{:?}", sa.state) };
    state.offer.as_mut().unwrap().selectors.remote = vec![ts("10.2.9.0/24").unwrap()];
    world.run(60);
    assert_eq!(world.ends[A].done[&command].clone().unwrap_err().code(), "PEER_MISBEHAVED");
    for end in [A, B] {
        assert_eq!(world.ends[end].engine.status()[0].children, []);
        assert!(world.ends[end].gateway.installed.is_empty());
    }
    world.assert_agreement();
}
