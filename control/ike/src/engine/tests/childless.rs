//! IKE SAs that begin without a child (RFC 6023).

use super::world::*;
use crate::config::*;
use crate::engine::*;
use crate::message::Payload;

fn with(end: usize, childless: Childless) -> EngineConfig {
    let mut config = config(end);
    config.connections[0].childless = childless;
    config
}

fn world(a: Childless, b: Childless) -> World {
    World::new(1, with(A, a), with(B, b))
}

/// Exchanges that an end took part in, each once.
fn exchanges(world: &World, end: usize) -> Vec<ExchangeType> {
    let messages = world.messages(end).into_iter();
    let mut all: Vec<_> =
        messages.map(|octets| Message::parse(&octets).unwrap().message.header.exchange).collect();
    all.dedup();
    all
}

#[test]
fn the_child_follows_in_an_exchange_of_its_own_where_both_take_that() {
    use ExchangeType::{CreateChildSa, IkeAuth, IkeSaInit};
    for (a, b, without) in [
        (Childless::Allow, Childless::Allow, false),
        (Childless::Prefer, Childless::Allow, true),
        (Childless::Prefer, Childless::Never, false),
        (Childless::Force, Childless::Allow, true),
        (Childless::Force, Childless::Force, true),
    ] {
        let world = world(a, b).established();
        let expected =
            if without { vec![IkeSaInit, IkeAuth, CreateChildSa] } else { vec![IkeSaInit, IkeAuth] };
        assert_eq!(exchanges(&world, A), expected, "{a:?} {b:?}");
        world.assert_agreement();
    }
}

#[test]
fn that_one_is_taken_is_said_in_the_answer_to_ike_sa_init() {
    for (mode, says) in [(Childless::Allow, true), (Childless::Force, true), (Childless::Never, false)] {
        let mut world = world(Childless::Never, mode);
        world.initiate(A);
        world.run(20);
        let init = Message::parse(&world.messages(B)[0]).unwrap().message;
        // IANA: 16418 is CHILDLESS_IKEV2_SUPPORTED.
        let said = init
            .payloads
            .iter()
            .any(|payload| matches!(payload, Payload::Notify(found) if found.notify_type == 16418));
        assert_eq!(said, says, "{mode:?}");
    }
}

#[test]
pub(super) fn a_key_exchange_of_its_own_protects_the_first_child_too() {
    let of = |end| {
        let mut config = with(end, Childless::Force);
        config.connections[0].children[0].esp_proposals =
            vec!["aes256gcm16-x25519-ke1_mlkem768-esn".parse().unwrap()];
        config
    };
    let world = World::new(1, of(A), of(B)).established();
    let children = world.ends[A].engine.status().remove(0).children;
    assert_eq!(children[0].proposal, "aes256gcm16-x25519-ke1_mlkem768-esn");
    world.assert_agreement();
}

#[test]
fn ends_that_insist_on_the_opposite_say_so() {
    // The peer does not take it: nothing comes up.
    let mut never = world(Childless::Force, Childless::Never);
    let up = never.initiate(A);
    never.run(60);
    assert_eq!(never.ends[A].done[&up].as_ref().unwrap_err().code(), "CHILDLESS_MISMATCH");
    // The peer asks for a child in IKE_AUTH: it gets the IKE SA alone.
    let mut force = world(Childless::Never, Childless::Force);
    let up = force.initiate(A);
    force.run(20);
    assert!(force.ends[A].done[&up].is_err());
    assert!(force.failures(B).contains(&"CHILDLESS_MISMATCH"));
    assert!(force.ends[B].engine.status().iter().all(|sa| sa.children.is_empty()));
}

#[test]
fn one_that_was_not_agreed_to_is_deleted() {
    let mut world = world(Childless::Force, Childless::Allow);
    let up = world.initiate(A);
    // B has announced it, and thinks better of it before IKE_AUTH.
    world.run_until(5, "B has answered", |world| !world.messages(B).is_empty());
    world.ends[B].engine.cx.config = with(B, Childless::Never).into();
    world.run(60);
    assert!(world.failures(B).contains(&"CHILDLESS_MISMATCH"), "{}", world.report());
    assert!(world.ends[A].done[&up].is_err());
    world.assert_agreement();
}

#[test]
fn they_come_up_whatever_the_network_does() {
    for seed in 0..20 {
        let configs = [with(A, Childless::Force), with(B, Childless::Allow)];
        let mut world = World::up_in_a_storm(seed, configs);
        world.run(120);
        world.assert_agreement();
        world.terminate(A);
        world.run(300);
        for end in [A, B] {
            world.assert_empty(end);
            assert_eq!(world.ends[end].engine.poll_timeout(), None, "seed {seed}");
        }
    }
}
