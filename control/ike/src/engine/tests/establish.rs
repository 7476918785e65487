//! Tunnels that come up, and what the two IKE_SA_INIT detours (cookie, other group) do on the way.

use std::time::Duration;

use portcullis_ipsec::{Encapsulation, EspAlgorithm, Flow};

use super::world::*;
use crate::config::*;
use crate::crypto::{KeMethod, derive_child_keymat};
use crate::engine::channel::Channel;
use crate::engine::*;
use crate::message::{Payload, notify};

fn notifies(octets: &[u8]) -> Vec<u16> {
    let received = Message::parse(octets).unwrap();
    let notify = |payload: &Payload| match payload {
        Payload::Notify(notify) => Some(notify.notify_type),
        _ => None,
    };
    received.message.payloads.iter().filter_map(notify).collect()
}

fn ke_method(octets: &[u8]) -> Option<u16> {
    Message::parse(octets).unwrap().message.payloads.iter().find_map(|payload| match payload {
        Payload::Ke { method, .. } => Some(*method),
        _ => None,
    })
}

#[test]
fn a_tunnel_comes_up_and_both_ends_hold_the_same_keys() {
    let world = World::plain().established();
    world.assert_agreement();
    for end in [A, B] {
        let status = world.ends[end].engine.status();
        let [sa] = status.as_slice() else { panic!("one IKE SA, not {status:?}") };
        assert_eq!(sa.state, IkeState::Established);
        assert_eq!(sa.initiator, end == A);
        assert_eq!(sa.connection.as_deref(), Some("net"));
        assert_eq!(sa.local_id, Some(id(["a.example", "b.example"][end])));
        assert_eq!(sa.remote_id, Some(id(["b.example", "a.example"][end])));
        assert_eq!(sa.proposal.as_deref(), Some("aes256gcm16-prfsha384-x25519"));
        assert_eq!((sa.nat_local, sa.nat_remote), (false, false));
        let [child] = sa.children.as_slice() else { panic!("one child, not {:?}", sa.children) };
        assert_eq!(child.algorithm, EspAlgorithm::Aes256Gcm16);
        assert!(child.esn);
        assert_eq!(child.endpoints.encapsulation, Encapsulation::None);
        assert_eq!(world.ends[end].engine.half_open(), 0);
        assert_eq!(world.failures(end), [""; 0]);
        let policy: Vec<_> = world.ends[end].gateway.policies.values().collect();
        assert_eq!(policy, ["net/lan"]);
    }
    assert_eq!(world.messages(A).len(), 2);
    assert_eq!(world.messages(B).len(), 2);
}

/// RFC 7296 §2.17: keys are taken from KEYMAT in the order initiator to responder, responder to initiator.
#[test]
fn the_initiator_sends_with_the_first_key_of_keymat() {
    let world = World::plain().established();
    let nonce = |end: usize| {
        let message = Message::parse(&world.messages(end)[0]).unwrap().message;
        let nonce = |payload: &Payload| match payload {
            Payload::Nonce(nonce) => Some(nonce.clone()),
            _ => None,
        };
        message.payloads.iter().find_map(nonce).unwrap()
    };
    let State::Established(sa) = &world.ends[A].engine.sas.values().next().unwrap().state else { panic!() };
    let Channel { suite, keys, .. } = sa.channel.as_ref();
    let keymat = derive_child_keymat(suite.prf, &keys.sk_d, &[], &nonce(A), &nonce(B), 72);
    let child = world.ends[A].gateway.installed.values().next().unwrap();
    let outbound = child.outbound.as_ref().unwrap();
    assert_eq!(outbound.key.key(), &keymat[..32]);
    assert_eq!(outbound.key.salt(), keymat[32..36]);
    assert_eq!(child.inbound.key.key(), &keymat[36..68]);
    assert_eq!(child.inbound.key.salt(), keymat[68..]);
}

#[test]
fn the_inbound_sa_is_installed_before_the_answer_leaves() {
    let mut world = World::plain();
    world.initiate(A);
    world.run_until(60, "the responder answers IKE_AUTH", |world| world.messages(B).len() == 2);
    assert_eq!(world.ends[B].gateway.installed.len(), 1);
}

#[test]
fn every_group_and_prf_comes_up() {
    for proposal in [
        "aes128gcm16-prfsha256-modp2048",
        "aes256gcm16-prfsha512-modp3072",
        "aes128gcm16-prfsha256-ecp256",
        "aes256gcm16-prfsha384-ecp384",
    ] {
        let (mut a, mut b) = (config(A), config(B));
        a.connections[0].proposals = vec![proposal.parse().unwrap()];
        b.connections[0].proposals = a.connections[0].proposals.clone();
        let world = World::new(1, a, b).established();
        world.assert_agreement();
        assert_eq!(world.ends[B].engine.status()[0].proposal.as_deref(), Some(proposal));
    }
}

#[test]
fn another_group_is_tried_when_the_peer_asks_for_it() {
    let (mut a, mut b) = (config(A), config(B));
    a.connections[0].proposals = vec!["aes256gcm16-prfsha384-x25519-ecp256".parse().unwrap()];
    b.connections[0].proposals = vec!["aes256gcm16-prfsha384-ecp256".parse().unwrap()];
    let world = World::new(1, a, b).established();
    world.assert_agreement();
    let groups: Vec<_> = world.messages(A).iter().filter_map(|octets| ke_method(octets)).collect();
    assert_eq!(groups, [KeMethod::X25519.id(), KeMethod::Ecp256.id()]);
    assert_eq!(notifies(&world.messages(B)[0]), [notify::INVALID_KE_PAYLOAD]);
}

#[test]
fn the_group_that_the_initiator_sent_is_taken_if_it_will_do() {
    let (mut a, mut b) = (config(A), config(B));
    a.connections[0].proposals = vec!["aes256gcm16-prfsha384-ecp256-x25519".parse().unwrap()];
    b.connections[0].proposals = vec!["aes256gcm16-prfsha384-x25519-ecp256".parse().unwrap()];
    let world = World::new(1, a, b).established();
    assert_eq!(world.messages(A).len(), 2);
    assert_eq!(world.ends[A].engine.status()[0].proposal.as_deref(), Some("aes256gcm16-prfsha384-ecp256"));
}

#[test]
fn under_load_a_cookie_is_asked_for_and_shown_before_anything_is_computed() {
    let mut b = config(B);
    b.cookie_threshold = 0;
    let mut world = World::new(1, config(A), b);
    world.initiate(A);
    world.run_until(60, "the cookie is asked for", |world| !world.messages(B).is_empty());
    assert_eq!(notifies(&world.messages(B)[0]), [notify::COOKIE]);
    assert_eq!(world.ends[B].engine.half_open(), 0);
    assert!(world.ends[B].jobs.is_empty());
    world.run_until(60, "the tunnel comes up", World::up);
    let requests = world.messages(A);
    assert_eq!(requests.len(), 3);
    assert_eq!(notifies(&requests[1])[0], notify::COOKIE);
    // The same but for the cookie: SPI, nonce and public value stay (RFC 7296 §2.6).
    let without_cookie = Message::parse(&requests[1]).unwrap().message.payloads.split_off(1);
    assert_eq!(Message::parse(&requests[0]).unwrap().message.payloads, without_cookie);
}

#[test]
fn a_cookie_and_another_group_can_be_asked_for_in_turn() {
    let (mut a, mut b) = (config(A), config(B));
    a.connections[0].proposals = vec!["aes256gcm16-prfsha384-x25519-ecp256".parse().unwrap()];
    b.connections[0].proposals = vec!["aes256gcm16-prfsha384-ecp256".parse().unwrap()];
    b.cookie_threshold = 0;
    World::new(1, a, b).established().assert_agreement();
}

#[test]
fn an_old_or_foreign_cookie_is_not_taken() {
    let fresh = || {
        let mut b = config(B);
        b.cookie_threshold = 0;
        let mut world = World::new(1, config(A), b);
        world.initiate(A);
        world.run_until(60, "a request with a cookie leaves", |world| world.messages(A).len() == 2);
        world
    };
    let mut world = fresh();
    let request = world.wire.pop().unwrap().datagram;
    let asked = |world: &mut World, datagram: &Datagram| {
        world.deliver(B, datagram.clone());
        world.ends[B].engine.half_open() == 0
    };
    let mut foreign = request.clone();
    foreign.remote.set_ip("192.0.2.77".parse().unwrap());
    assert!(asked(&mut world, &foreign), "a cookie is bound to the address it was sent to");
    world.now += Duration::from_secs(130);
    assert!(asked(&mut world, &request), "a cookie does not last");
    let mut world = fresh();
    let request = world.wire.pop().unwrap().datagram;
    assert!(!asked(&mut world, &request), "a cookie is good for whom it was made");
}

#[test]
fn the_kernel_is_asked_for_the_source_address_where_none_is_configured() {
    let mut a = config(A);
    a.connections[0].local_addrs = vec![];
    let world = World::new(1, a, config(B)).established();
    let sa = &world.ends[A].engine.status()[0];
    assert_eq!(sa.local.ip(), address(A));
    assert!(!sa.nat_local && !sa.nat_remote);
}

#[test]
fn a_responder_finds_the_connection_by_identity_among_those_of_one_address() {
    let mut b = config(B);
    let mut other = b.connections[0].clone();
    other.name = "other".to_owned();
    other.remote[0].id = IdentityMatch::Exactly(id("c.example"));
    other.children[0] = child("elsewhere", "10.9.0.0/16", "10.8.0.0/16");
    b.connections.insert(0, other);
    let mut anyone = b.connections[1].clone();
    anyone.name = "anyone".to_owned();
    anyone.remote[0].id = IdentityMatch::Any;
    b.connections.insert(0, anyone);
    let world = World::new(1, config(A), b).established();
    assert_eq!(world.ends[B].engine.status()[0].connection.as_deref(), Some("net"));
}

#[test]
fn an_acquired_flow_comes_up_narrowed_to_what_the_peer_allows() {
    let mut b = config(B);
    b.connections[0].children[0] = child("lan", "10.2.7.0/24", "10.1.0.0/16");
    let mut a = config(A);
    a.connections[0].children[0].start_action = StartAction::Trap;
    let mut world = World::new(1, a, b);
    let flow = Flow {
        src: "10.1.0.9".parse().unwrap(),
        dst: "10.2.7.7".parse().unwrap(),
        protocol: 6,
        src_port: Some(40000),
        dst_port: Some(443),
    };
    world.command(A, Command::Acquire { connection: "net".to_owned(), child: "lan".to_owned(), flow });
    world.run_until(60, "the tunnel comes up", World::up);
    let child = &world.ends[A].engine.status()[0].children[0];
    assert_eq!(child.local_ts, [ts("10.1.0.0/16").unwrap()]);
    assert_eq!(child.remote_ts, [ts("10.2.7.0/24").unwrap()]);
    world.assert_agreement();
}

#[test]
fn a_peer_that_starts_over_replaces_its_old_ike_sa() {
    let mut world = World::plain().established();
    let old = world.ends[B].engine.status()[0].id;
    let mut reborn = World::new(2, config(A), config(B));
    std::mem::swap(&mut world.ends[A], &mut reborn.ends[A]);
    world.run(10);
    world.initiate(A);
    world.run_until(60, "the new tunnel comes up", |world| {
        world.up() && world.ends[B].engine.status()[0].id != old
    });
    world.run(10);
    assert_eq!(world.ends[B].engine.status().len(), 1);
    world.assert_agreement();
}

#[test]
fn a_command_for_what_is_up_ends_at_once_and_one_for_what_is_under_way_joins_it() {
    let mut world = World::plain();
    let first = world.initiate(A);
    let second = world.initiate(A);
    world.run_until(60, "both end", |world| world.ends[A].done.len() == 2);
    assert_eq!(world.ends[A].done[&first], Ok(()));
    assert_eq!(world.ends[A].done[&second], Ok(()));
    let third = world.initiate(A);
    assert_eq!(world.ends[A].done[&third], Ok(()));
    assert_eq!(world.ends[A].engine.status().len(), 1);
    world.assert_agreement();
}

#[test]
fn an_unknown_name_is_told_with_the_known_ones() {
    let mut world = World::plain();
    let command =
        world.command(A, Command::Initiate { connection: "net".to_owned(), child: Some("wan".to_owned()) });
    let failure = world.ends[A].done[&command].clone().unwrap_err();
    assert_eq!(failure.code(), "UNKNOWN_CHILD");
    assert!(failure.to_string().contains("`lan`"), "{failure}");
    let command = world.command(A, Command::Initiate { connection: "nett".to_owned(), child: None });
    assert_eq!(world.ends[A].done[&command].clone().unwrap_err().code(), "UNKNOWN_CONNECTION");
}

/// Two ends that both start the tunnel, one of them before the other listens.
#[test]
fn an_attempt_that_was_not_answered_gives_way_to_the_peers() {
    let mut world = World::plain();
    let ours = world.initiate(B);
    world.run_until(5, "the first request of B", |world| !world.messages(B).is_empty());
    world.wire.clear();
    let theirs = world.initiate(A);
    world.run(60);
    world.assert_agreement();
    assert_eq!(world.ends[A].done[&theirs], Ok(()));
    assert_eq!(world.ends[B].done[&ours], Ok(()));
    for end in [A, B] {
        assert_eq!(world.ends[end].engine.status().len(), 1, "{}", world.report());
        assert_eq!(world.failures(end), [""; 0]);
    }
}
