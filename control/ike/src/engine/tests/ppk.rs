//! Post-quantum pre-shared keys (RFC 8784).

use super::world::*;
use crate::config::*;
use crate::engine::*;
use crate::message::Payload;

pub(super) fn with(end: usize, id: Option<&str>, required: bool, secret: Option<&str>) -> EngineConfig {
    let mut config = config(end);
    config.connections[0].ppk = Ppk { id: id.map(|name| name.parse().unwrap()), required };
    config.ppks.extend(secret.map(|secret| SharedKey {
        name: "ppk-one".to_owned(),
        ids: vec!["one".parse().unwrap()],
        secret: Secret(secret.as_bytes().to_vec()),
    }));
    config
}

pub(super) const SECRET: &str = "thirty-two octets of no value ..";

/// `SK_d` of both ends.
fn sk_d(world: &World) -> [Vec<u8>; 2] {
    [A, B].map(|end| match &world.ends[end].engine.sas.values().next().unwrap().state {
        State::Established(established) => established.channel.keys.sk_d.clone(),
        state => panic!("{state:?}"),
    })
}

#[test]
fn a_key_that_both_ends_have_is_mixed_into_the_keys_required_or_not() {
    for (a, b) in [(true, true), (true, false), (false, true), (false, false)] {
        let (ours, theirs) = (with(A, Some("one"), a, Some(SECRET)), with(B, None, b, Some(SECRET)));
        let world = World::new(1, ours, theirs).established();
        let plain = World::new(1, with(A, None, false, None), with(B, None, false, None)).established();
        let [ours, theirs] = sk_d(&world);
        assert_eq!(ours, theirs);
        assert_ne!(ours, sk_d(&plain)[A], "the same key exchange without it");
        world.assert_agreement();
    }
}

#[test]
fn a_peer_without_the_key_is_met_without_it_where_it_is_not_required() {
    for theirs in [with(B, None, false, None), {
        // One that has another.
        let mut config = with(B, None, false, Some(SECRET));
        config.ppks[0].ids = vec!["two".parse().unwrap()];
        config
    }] {
        let world = World::new(1, with(A, Some("one"), false, Some(SECRET)), theirs).established();
        let [ours, theirs] = sk_d(&world);
        assert_eq!(ours, theirs);
        world.assert_agreement();
    }
    let world = World::new(1, with(A, None, false, None), with(B, None, false, Some(SECRET))).established();
    world.assert_agreement();
}

#[test]
fn without_a_required_key_there_is_no_ike_sa_and_either_end_says_why() {
    // A requires it, and B has none, or not this one.
    for theirs in [with(B, None, false, None), {
        let mut config = with(B, None, false, Some(SECRET));
        config.ppks[0].ids = vec!["two".parse().unwrap()];
        config
    }] {
        let mut world = World::new(1, with(A, Some("one"), true, Some(SECRET)), theirs);
        let command = world.initiate(A);
        world.run(120);
        let failed = world.ends[A].done[&command].as_ref().unwrap_err();
        assert!(["PPK_REQUIRED", "AUTHENTICATION_FAILED"].contains(&failed.code()), "{failed:?}");
        [A, B].into_iter().for_each(|end| world.assert_empty(end));
    }
    // B requires it, and A uses none.
    let mut world = World::new(1, with(A, None, false, None), with(B, None, true, Some(SECRET)));
    world.initiate(A);
    world.run(120);
    assert!(world.failures(B).contains(&"PPK_REQUIRED"), "{}", world.report());
    [A, B].into_iter().for_each(|end| world.assert_empty(end));
}

#[test]
fn two_keys_of_one_name_are_told_apart() {
    let other = "thirty-two octets of other value";
    let mut world =
        World::new(1, with(A, Some("one"), false, Some(SECRET)), with(B, None, false, Some(other)));
    world.initiate(A);
    world.run(120);
    assert!(world.failures(B).contains(&"PPK_MISMATCH"), "{}", world.report());
    [A, B].into_iter().for_each(|end| world.assert_empty(end));
}

#[test]
fn nothing_is_said_of_such_keys_by_ends_that_have_none() {
    let world = World::plain().established();
    let init = Message::parse(&world.messages(A)[0]).unwrap().message;
    let said = |payload: &Payload| matches!(payload, Payload::Notify(n) if n.notify_type == notify::USE_PPK);
    assert!(!init.payloads.iter().any(said));
}

/// A user whom EAP authenticates, and his gateway.
fn with_eap(ours: (Option<&str>, bool, Option<&str>), theirs: (bool, Option<&str>)) -> World {
    let [mut a, mut b] = super::eap::configs(crate::auth::eap::ServerMethod::MsChapV2, true);
    for (config, (id, required, secret)) in [(&mut a, ours), (&mut b, (None, theirs.0, theirs.1))] {
        let with = with(A, id, required, secret);
        config.connections[0].ppk = with.connections[0].ppk.clone();
        config.ppks = with.ppks;
    }
    World::new(1, a, b)
}

#[test]
fn a_user_of_eap_names_it_with_his_last_request_and_both_mix_it_in() {
    let plain = sk_d(&with_eap((None, false, None), (false, None)).established());
    for (a, b) in [(true, true), (true, false), (false, true), (false, false)] {
        let world = with_eap((Some("one"), a, Some(SECRET)), (b, Some(SECRET))).established();
        let [ours, theirs] = sk_d(&world);
        assert_eq!(ours, theirs);
        assert_ne!(ours, plain[A], "the same key exchange without it");
        world.assert_agreement();
    }
    // A gateway without it is met without it.
    let world = with_eap((Some("one"), false, Some(SECRET)), (false, None)).established();
    world.assert_agreement();
}

#[test]
fn a_user_of_eap_is_refused_without_a_required_key_and_with_another() {
    let code = |world: &mut World| {
        let command = world.initiate(A);
        world.run(120);
        [A, B].into_iter().for_each(|end| world.assert_empty(end));
        world.ends[A].done[&command].as_ref().unwrap_err().code()
    };
    let mut world = with_eap((None, false, None), (true, Some(SECRET)));
    code(&mut world);
    assert_eq!(world.failures(B), ["PPK_REQUIRED"], "{}", world.report());
    let mut world = with_eap((Some("one"), true, Some(SECRET)), (false, None));
    assert_eq!(code(&mut world), "PPK_REQUIRED");
    let mut world =
        with_eap((Some("one"), true, Some("another secret of thirty-two ...")), (false, Some(SECRET)));
    code(&mut world);
    assert_eq!(world.failures(B), ["PPK_MISMATCH"], "{}", world.report());
}
