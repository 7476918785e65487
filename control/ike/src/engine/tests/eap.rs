//! EAP inside IKE_AUTH: A is a client of the gateway B, which proves itself with the pre-shared key.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::certificates::Pki;
use super::world::*;
use crate::auth::Authorization;
use crate::auth::eap::{ClientMethod, ServerMethod, UserSecret};
use crate::config::*;
use crate::engine::*;
use crate::message::Message;

pub(super) fn user(id: &str, password: &str) -> Arc<[UserSecret]> {
    let secret = Secret(password.as_bytes().to_vec());
    [UserSecret { name: format!("eap-{id}"), ids: vec![id.to_owned()], secret }].into()
}

/// A authenticates as the user `carol`; the gateway asks for her name if `asks`.
pub(super) fn configs(method: ServerMethod, asks: bool) -> [EngineConfig; 2] {
    let [mut a, mut b] = [config(A), config(B)];
    let eap_id = Some("carol".to_owned());
    a.connections[0].local[0].auth =
        LocalMethod::Eap { method: ClientMethod::MsChapV2, eap_id, aaa_id: None, credentials: Vec::new() };
    b.connections[0].remote[0].auth =
        RemoteMethod::Eap { method, eap_id: asks.then_some(IdentityMatch::Any), trust: Arc::default() };
    let known = if asks { "carol" } else { "a.example" };
    (a.users, b.users) = (user("carol", "violets"), user(known, "violets"));
    [a, b]
}

fn local() -> World {
    let [a, b] = configs(ServerMethod::MsChapV2, true);
    World::new(1, a, b)
}

/// The gateway proves itself with a certificate, as it should, or by EAP-TLS alone (RFC 5998).
#[test]
pub(super) fn a_gateway_with_a_certificate_lets_users_in() {
    let pki = Pki::new();
    let [mut a, mut b] = configs(ServerMethod::MsChapV2, true);
    a.connections[0].remote[0].auth = pki.remote();
    b.connections[0].local[0].auth = pki.local(B);
    World::new(1, a, b).established().assert_agreement();
    let [mut a, mut b] = [config(A), config(B)];
    for (end, config) in [(A, &mut a), (B, &mut b)] {
        let (credentials, trust) =
            (pki.local(end).credentials().to_vec(), pki.remote().trust().cloned().unwrap());
        let (eap_id, aaa_id) = (None, None);
        let method = ClientMethod::Tls;
        config.connections[0].local[0].auth = LocalMethod::Eap { method, eap_id, aaa_id, credentials };
        config.connections[0].remote[0].auth =
            RemoteMethod::Eap { method: ServerMethod::Tls, eap_id: None, trust };
    }
    let world = World::new(1, a, b).established();
    world.assert_agreement();
    let status = world.ends[B].engine.status().remove(0);
    assert_eq!(status.authorization.eap_id.as_deref(), Some("a.example"));
}

/// A world whose gateway asks an AAA server.
fn aaa(password: &str) -> World {
    let [a, b] = configs(ServerMethod::Aaa, true);
    let mut world = World::new(1, a, b);
    world.ends[B].gateway.aaa.users = user("carol", password);
    world
}

/// Runs to the end of A's command and gives its failure.
fn fails(world: &mut World) -> Failure {
    let command = world.initiate(A);
    world.run_until(300, "the command ends", |world| world.ends[A].done.contains_key(&command));
    world.run(200);
    world.assert_empty(A);
    world.assert_empty(B);
    world.ends[A].done[&command].clone().unwrap_err()
}

#[test]
fn a_user_with_a_password_gets_a_tunnel() {
    for asks in [true, false] {
        let [a, b] = configs(ServerMethod::MsChapV2, asks);
        let world = World::new(1, a, b).established();
        world.assert_agreement();
        let status = world.ends[B].engine.status().remove(0);
        assert_eq!(status.remote_id, Some(id("a.example")));
        let user = if asks { "carol" } else { "a.example" };
        assert_eq!(status.authorization.eap_id.as_deref(), Some(user));
    }
}

#[test]
pub(super) fn a_gateway_that_proves_itself_by_a_certificate_lets_a_user_in() {
    let ([mut a, mut b], pki) = (configs(ServerMethod::MsChapV2, true), Pki::new());
    b.connections[0].local[0].auth = pki.local(B);
    a.connections[0].remote[0].auth = pki.remote();
    let world = World::new(1, a, b).established();
    world.assert_agreement();
    assert_eq!(world.ends[B].engine.status()[0].authorization.eap_id.as_deref(), Some("carol"));
}

#[test]
pub(super) fn a_user_of_an_aaa_server_gets_a_tunnel_and_what_it_says_he_may_have() {
    let mut world = aaa("violets");
    let authorization = Authorization {
        addresses: vec![IpAddr::from([10, 9, 0, 7])],
        groups: vec!["staff".to_owned()],
        session_timeout: Some(Duration::from_secs(3600)),
        ..Authorization::default()
    };
    world.ends[B].gateway.aaa.authorization = authorization.clone();
    let world = world.established();
    world.assert_agreement();
    let status = world.ends[B].engine.status().remove(0);
    let expected = Authorization { eap_id: Some("carol".to_owned()), ..authorization };
    assert_eq!(status.authorization, expected);
    let asked = &world.ends[B].gateway.aaa.asked;
    assert!(asked.iter().all(|asked| asked.request.user == "carol" && asked.ike == status.id));
    assert!(asked.iter().all(|asked| (asked.local.ip(), asked.remote.ip()) == (address(B), address(A))));
}

#[test]
fn what_the_aaa_server_said_stays_when_the_ike_sa_is_rekeyed() {
    let mut world = aaa("violets");
    world.ends[B].gateway.aaa.authorization.groups = vec!["staff".to_owned()];
    let mut world = world.established();
    let before = world.ends[B].engine.status().remove(0);
    world.command(A, Command::Rekey { connection: "net".to_owned(), child: None });
    world.run(100);
    let after = world.ends[B].engine.status().remove(0);
    assert_ne!(before.id, after.id);
    assert_eq!(before.authorization, after.authorization);
}

#[test]
fn a_session_ends_when_the_aaa_server_said_also_if_its_ike_sa_is_rekeyed_meanwhile() {
    for rekeyed in [false, true] {
        let mut world = aaa("violets");
        world.ends[B].gateway.aaa.authorization.session_timeout = Some(Duration::from_secs(3600));
        let mut world = world.established();
        if rekeyed {
            world.run(60);
            world.command(A, Command::Rekey { connection: "net".to_owned(), child: None });
        }
        world.run(3500);
        assert!(world.up());
        world.run(200);
        world.assert_empty(A);
        world.assert_empty(B);
    }
}

#[test]
fn one_ike_sa_is_ended_or_given_another_time() {
    let mut world = aaa("violets").established();
    let ike = world.ends[B].engine.status()[0].id;
    world.command(B, Command::LimitSession { ike, timeout: Duration::from_secs(100) });
    world.run(90);
    assert!(world.up());
    world.run(60);
    world.assert_empty(B);
    let mut world = aaa("violets").established();
    let ike = world.ends[B].engine.status()[0].id;
    let command = world.command(B, Command::TerminateSa { ike });
    world.run(10);
    assert_eq!(world.ends[B].done[&command], Ok(()));
    world.assert_empty(A);
    world.assert_empty(B);
    let again = world.command(B, Command::TerminateSa { ike });
    assert_eq!(world.ends[B].done[&again], Ok(()));
}

#[test]
pub(super) fn a_wrong_password_is_named_at_the_gateway_and_hinted_at_to_the_client() {
    let mut world = local();
    world.ends[B].engine.set_users(user("carol", "roses"));
    let failure = fails(&mut world);
    assert_eq!(failure.code(), "EAP_REFUSED");
    for word in ["wrong name or password", "secrets.eap-", "carol"] {
        assert!(failure.to_string().contains(word), "{failure}");
    }
    assert_eq!(world.failures(B), ["EAP_WRONG_PASSWORD"]);
}

/// The AAA server is to prove the gateway as well (RFC 5998), and runs EAP-MSCHAPv2. What it does with better methods is shown
/// in `e2e_eap_tls`.
#[test]
fn an_aaa_server_that_runs_a_method_which_does_not_prove_us_is_not_followed() {
    let [mut a, mut b] = configs(ServerMethod::Aaa, true);
    b.connections[0].local[0].auth = LocalMethod::Aaa;
    let proven = RemoteMethod::Eap { method: ServerMethod::MsChapV2, eap_id: None, trust: Arc::default() };
    a.connections[0].remote[0].auth = proven;
    let mut world = World::new(1, a, b);
    world.ends[B].gateway.aaa.users = user("carol", "violets");
    let command = world.initiate(A);
    world.run_until(300, "the command ends", |world| world.ends[A].done.contains_key(&command));
    assert_eq!(world.failures(B), ["EAP_METHOD_MISMATCH"]);
    world.run(200);
    world.assert_empty(B);
    // Nor do we begin where somebody else is to prove us.
    let command = world.initiate(B);
    world.run(10);
    assert_eq!(world.ends[B].done[&command].as_ref().unwrap_err().code(), "AUTH_METHOD_MISMATCH");
}

#[test]
pub(super) fn a_refusal_of_the_aaa_server_is_passed_on() {
    let mut world = aaa("roses");
    assert_eq!(fails(&mut world).code(), "EAP_REFUSED");
    assert_eq!(world.failures(B), ["AAA_REFUSED"]);
    let said = world.ends[B].events.iter().find_map(|event| match event {
        Event::Failed(failure) => Some(failure.to_string()),
        _ => None,
    });
    assert!(said.as_ref().unwrap().contains("says `go away`"), "{said:?}");
}

#[test]
fn a_client_without_a_password_says_so_before_it_tries() {
    let [mut a, b] = configs(ServerMethod::MsChapV2, true);
    a.users = [].into();
    let failure = fails(&mut World::new(1, a, b));
    assert_eq!(failure.code(), "EAP_NO_PASSWORD");
    assert!(failure.to_string().contains("`carol`"), "{failure}");
}

#[test]
fn an_end_that_does_not_do_eap_is_named_at_both() {
    let [a, _] = configs(ServerMethod::MsChapV2, true);
    let mut world = World::new(1, a, config(B));
    assert_eq!(fails(&mut world).code(), "AUTHENTICATION_FAILED");
    assert_eq!(world.failures(B), ["AUTH_METHOD_MISMATCH"]);
    let [_, b] = configs(ServerMethod::MsChapV2, true);
    let mut world = World::new(1, config(A), b);
    assert_eq!(fails(&mut world).code(), "AUTHENTICATION_FAILED");
    assert_eq!(world.failures(B), ["AUTH_METHOD_MISMATCH"]);
}

/// Whoever relays EAP between a client and a server that it is not meant for does not get the key, and so no AUTH.
#[test]
pub(super) fn success_without_the_key_is_worth_nothing() {
    let mut world = local();
    let command = world.initiate(A);
    let proven = |world: &World| {
        world.ends[B]
            .engine
            .sas
            .values()
            .any(|sa| matches!(sa.state, state::State::AwaitingLastAuthRequest(_)))
    };
    world.run_until(100, "EAP succeeds", proven);
    for sa in world.ends[B].engine.sas.values_mut() {
        if let state::State::AwaitingLastAuthRequest(state) = &mut sa.state {
            state.forget_key();
        }
    }
    world.run_until(100, "the command ends", |world| world.ends[A].done.contains_key(&command));
    assert_eq!(world.failures(B), ["EAP_KEY_MISMATCH"]);
    assert!(world.ends[A].done[&command].is_err());
    world.run(200);
    world.assert_empty(A);
    world.assert_empty(B);
}

#[test]
fn two_users_who_say_the_same_of_themselves_in_ike_do_not_end_each_other() {
    let mut world = local().established();
    let first = world.ends[B].engine.status().remove(0);
    // Another device of the same IKE identity, which says that it has no other IKE SA.
    let [mut a, _] = configs(ServerMethod::MsChapV2, true);
    a.users = user("dave", "pansies");
    let LocalMethod::Eap { eap_id, .. } = &mut a.connections[0].local[0].auth else { unreachable!() };
    *eap_id = Some("dave".to_owned());
    let [mut other, _] = World::new(5, a, config(B)).ends;
    std::mem::swap(&mut world.ends[A], &mut other);
    let both = [user("carol", "violets"), user("dave", "pansies")].concat();
    world.ends[B].engine.set_users(both.into());
    let mut world = world.established();
    world.run(60);
    let ids: Vec<_> = world.ends[B].engine.status().into_iter().map(|sa| sa.authorization.eap_id).collect();
    assert_eq!(ids, [Some("carol".to_owned()), Some("dave".to_owned())]);
    assert_eq!(world.ends[B].engine.status()[0].id, first.id);
}

#[test]
fn nothing_is_left_whatever_the_network_and_slow_jobs_do() {
    for seed in 0..20 {
        let mut configs =
            configs(if seed % 2 == 0 { ServerMethod::Aaa } else { ServerMethod::MsChapV2 }, true);
        for config in &mut configs {
            config.retransmission.tries = 12;
            config.retransmission.base = 1.1;
            config.half_open_timeout = Duration::from_secs(120);
        }
        let [a, b] = configs;
        let mut world = World::new(seed, a, b);
        world.ends[B].gateway.aaa.users = user("carol", "violets");
        world.weather = Weather { loss: 30, duplication: 30, delay: 400 };
        world.job_delay = 2000;
        let command = world.initiate(A);
        world.run_until(600, &format!("seed {seed}: up"), |world| world.ends[A].done.contains_key(&command));
        assert_eq!(world.ends[A].done[&command], Ok(()), "seed {seed}\n{}", world.report());
        world.run(130);
        world.assert_agreement();
        let end = if seed % 3 == 0 { A } else { B };
        let command = world.terminate(end);
        world.run_until(600, &format!("seed {seed}: down"), |world| {
            world.ends[end].done.contains_key(&command)
        });
        world.run(200);
        world.assert_empty(A);
        world.assert_empty(B);
    }
}

#[test]
fn terminated_at_any_moment_of_the_negotiation_nothing_is_left() {
    for steps in 0..60 {
        let mut world = if steps % 2 == 0 { local() } else { aaa("violets") };
        world.job_delay = 0;
        world.initiate(A);
        let until = world.now + Duration::from_secs(20);
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
fn a_client_that_falls_silent_in_the_middle_is_forgotten() {
    for sent in 2..5 {
        let mut world = local();
        world.initiate(A);
        world.run_until(100, "the middle", |world| world.messages(A).len() > sent);
        world.ends[A].dead = true;
        world.run(29);
        assert_eq!(world.ends[B].engine.half_open(), 1);
        world.run(5);
        assert_eq!(world.ends[B].engine.half_open(), 0);
        assert_eq!(world.failures(B), ["AUTH_NEVER_CAME"]);
    }
}

#[test]
fn the_first_request_has_no_proof_and_the_last_answer_has_the_child() {
    let world = local().established();
    let sealed = |end: usize| {
        world.messages(end).iter().filter(|m| Message::parse(m).unwrap().encrypted.is_some()).count()
    };
    // IDi, EAP-Identity, challenge, success, AUTH.
    assert_eq!((sealed(A), sealed(B)), (5, 5));
}
