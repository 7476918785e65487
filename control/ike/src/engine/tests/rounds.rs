//! Several rounds of authentication (RFC 4739). That strongSwan agrees is shown in `e2e_rounds`.

use std::sync::Arc;

use super::certificates::Pki;
use super::eap::user;
use super::gateway::Mishap;
use super::world::*;
use crate::auth::eap::{ClientMethod, ServerMethod};
use crate::config::*;
use crate::engine::*;

fn key(name: &str, ids: [&str; 2]) -> SharedKey {
    let secret = Secret(name.as_bytes().to_vec());
    SharedKey { name: name.to_owned(), ids: ids.map(id).to_vec(), secret }
}

/// What a round is proven with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    Key,
    Certificate,
    User,
}

use Proof::{Certificate, Key, User};

const NAMES: [[&str; 2]; 2] = [["a.example", "a2.example"], ["b.example", "b2.example"]];

/// Both ends with these rounds.
pub(super) fn configs(a: &[Proof], b: &[Proof]) -> [EngineConfig; 2] {
    let pki = Pki::new();
    let local = |end: usize, (round, proof): (usize, &Proof)| {
        let name = NAMES[end][round];
        let auth = match proof {
            Key => LocalMethod::Psk,
            Certificate => pki.issue(name),
            User => LocalMethod::Eap {
                method: ClientMethod::MsChapV2,
                eap_id: Some("carol".to_owned()),
                aaa_id: None,
                credentials: Vec::new(),
            },
        };
        LocalAuth { auth, id: Some(id(name)) }
    };
    let remote = |end: usize, (round, proof): (usize, &Proof)| {
        let auth = match proof {
            Key => RemoteMethod::Psk,
            Certificate => pki.remote(),
            User => RemoteMethod::Eap {
                method: ServerMethod::MsChapV2,
                eap_id: Some(IdentityMatch::Any),
                trust: Arc::default(),
            },
        };
        RemoteAuth { auth, id: IdentityMatch::Exactly(id(NAMES[end][round])) }
    };
    [(A, a, b), (B, b, a)].map(|(end, ours, theirs)| {
        let mut config = config(end);
        let connection = &mut config.connections[0];
        connection.local = ours.iter().enumerate().map(|round| local(end, round)).collect();
        connection.remote = theirs.iter().enumerate().map(|round| remote(1 - end, round)).collect();
        config.shared_keys = vec![
            key("of both", ["a.example", "b.example"]),
            key("of a's second", ["a2.example", "b.example"]),
            key("of b's second", ["a.example", "b2.example"]),
        ];
        config.users = user("carol", "violets");
        config
    })
}

/// One round, or two, of these.
fn rounds(of: &[Proof]) -> Vec<Vec<Proof>> {
    let two = of.iter().flat_map(|first| of.iter().map(|second| vec![*first, *second]));
    of.iter().map(|one| vec![*one]).chain(two).collect()
}

#[test]
pub(super) fn any_rounds_of_either_end_go_together() {
    for a in rounds(&[Key, Certificate, User]) {
        for b in rounds(&[Key, Certificate]) {
            // Where EAP is among one end's rounds, the other has one.
            if a.contains(&User) && b.len() > 1 {
                continue;
            }
            let [ours, theirs] = configs(&a, &b);
            let world = World::new(1, ours, theirs).established();
            world.assert_agreement();
            let status = world.ends[B].engine.status().remove(0);
            let ids = (status.local_id, status.remote_id);
            assert_eq!(ids, (Some(id("b.example")), Some(id("a.example"))), "{a:?} {b:?}");
            let carol = a.contains(&User).then(|| "carol".to_owned());
            assert_eq!(status.authorization.eap_id, carol, "{a:?} {b:?}");
        }
    }
}

fn fails([a, b]: [EngineConfig; 2]) -> (Failure, Vec<&'static str>) {
    let mut world = World::new(1, a, b);
    let command = world.initiate(A);
    world.run_until(300, "the command ends", |world| world.ends[A].done.contains_key(&command));
    world.run(200);
    world.assert_empty(A);
    world.assert_empty(B);
    (world.ends[A].done[&command].clone().unwrap_err(), world.failures(B))
}

#[test]
pub(super) fn every_round_has_to_be_right() {
    // The second key of either end.
    for (at, codes) in
        [(1, ["AUTHENTICATION_FAILED", "PSK_MISMATCH"]), (2, ["PSK_MISMATCH", "AUTHENTICATION_FAILED"])]
    {
        let [a, mut b] = configs(&[Certificate, Key], &[Certificate, Key]);
        b.shared_keys[at].secret = Secret(b"another".to_vec());
        let (failure, there) = fails([a, b]);
        assert_eq!((failure.code(), there.as_slice()), (codes[0], &codes[1..]), "{at}");
    }
    // Its identity.
    let [a, mut b] = configs(&[Certificate, Key], &[Certificate, Key]);
    b.connections[0].remote[1].id = IdentityMatch::Exactly(id("c.example"));
    assert_eq!(fails([a, b]).1, ["ID_UNEXPECTED"]);
    // The user's password.
    let [a, mut b] = configs(&[Certificate, User], &[Certificate]);
    b.users = user("carol", "roses");
    assert_eq!(fails([a, b]).1, ["EAP_WRONG_PASSWORD"]);
}

#[test]
pub(super) fn a_round_too_few_or_too_many_is_named() {
    let [mut a, b] = configs(&[Certificate, Key], &[Certificate, Key]);
    a.connections[0].local.truncate(1);
    let (failure, there) = fails([a, b]);
    assert_eq!((failure.code(), there.as_slice()), ("AUTHENTICATION_FAILED", &["AUTH_METHOD_MISMATCH"][..]));
    let [a, mut b] = configs(&[Certificate, Key], &[Certificate, Key]);
    b.connections[0].remote.truncate(1);
    assert_eq!(fails([a, b]).1, ["AUTH_METHOD_MISMATCH"]);
    let [mut a, b] = configs(&[Certificate, Key], &[Certificate, Key]);
    a.connections[0].remote.truncate(1);
    assert_eq!(fails([a, b]).0.code(), "AUTH_METHOD_MISMATCH");
    // A peer that knows nothing of rounds.
    let [a, mut b] = configs(&[Certificate, Key], &[Certificate, Key]);
    b.connections[0].local.truncate(1);
    b.connections[0].remote.truncate(1);
    assert_eq!(fails([a, b]).0.code(), "AUTH_METHOD_MISMATCH");
}

#[test]
fn terminated_at_any_moment_of_the_rounds_nothing_is_left() {
    for steps in 0..60 {
        let second = if steps % 2 == 0 { User } else { Certificate };
        let [a, b] = configs(&[Certificate, second], &[Certificate]);
        let mut world = World::new(1, a, b);
        world.initiate(A);
        let until = world.now + std::time::Duration::from_secs(20);
        for _ in 0..steps {
            world.tick(until);
        }
        world.terminate(A);
        world.run(300);
        world.assert_empty(A);
        world.assert_empty(B);
    }
}

#[test]
pub(super) fn whoever_does_not_go_on_to_its_next_round_is_forgotten() {
    let [a, b] = configs(&[Key, Key], &[Key]);
    let mut world = World::new(1, a, b);
    world.initiate(A);
    let waits = |world: &World| {
        world.ends[B].engine.sas.values().any(|sa| matches!(sa.state, state::State::AwaitingNextRound(_)))
    };
    world.run_until(100, "the second round", waits);
    world.ends[A].dead = true;
    world.run(40);
    assert_eq!(world.ends[B].engine.half_open(), 0);
    assert_eq!(world.failures(B), ["AUTH_NEVER_CAME"]);
}

#[test]
pub(super) fn whatever_job_of_a_round_fails_nothing_is_left() {
    for (end, job) in [A, B].into_iter().flat_map(|end| (0..9).map(move |job| (end, job))) {
        let [a, b] = configs(&[Key, Certificate], &[Key, Certificate]);
        let mut world = World::new(1, a, b);
        world.ends[end].gateway.mishap = Some((job, Mishap::Fails));
        world.initiate(A);
        world.run(300);
        world.terminate(A);
        world.terminate(B);
        world.run(1500);
        world.assert_empty(A);
        world.assert_empty(B);
    }
}
