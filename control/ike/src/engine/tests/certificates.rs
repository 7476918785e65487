//! Authentication by signatures: what comes up, what is refused and how both ends put it, and that jobs which take
//! their time leave nothing behind.

use std::sync::Arc;

use super::world::*;
use crate::auth::tests::{Authority, Entity, trust, unchanged};
use crate::auth::{Constraint, Credential, StatusSource, Trust};
use crate::config::*;
use crate::engine::*;
use crate::message::{Message, Payload, notify};

const NAMES: [&str; 2] = ["a.example", "b.example"];

/// One CA, and an entity for each end.
pub(super) struct Pki {
    ca: Authority,
    ends: [Entity; 2],
}

impl Pki {
    pub(super) fn new() -> Self {
        Self::with(&rcgen::PKCS_ECDSA_P256_SHA256)
    }

    fn with(algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        let ca = Authority::root("Root", unchanged);
        let ends = NAMES.map(|name| ca.issue_for(algorithm, name, unchanged));
        Self { ca, ends }
    }

    pub(super) fn local(&self, end: usize) -> LocalMethod {
        local(self.ends[end].credential(&[&self.ca]))
    }

    /// A certificate of another name.
    pub(super) fn issue(&self, name: &str) -> LocalMethod {
        local(self.ca.issue(name, unchanged).credential(&[&self.ca]))
    }

    pub(super) fn remote(&self) -> RemoteMethod {
        remote(trust(&self.ca))
    }

    /// The configuration of one end, with certificates both ways.
    pub(super) fn config(&self, end: usize) -> EngineConfig {
        let mut config = config(end);
        config.connections[0].local[0].auth = self.local(end);
        config.connections[0].remote[0].auth = self.remote();
        config.shared_keys.clear();
        config
    }

    fn world(&self) -> World {
        World::new(1, self.config(A), self.config(B))
    }
}

fn local(credential: Arc<Credential>) -> LocalMethod {
    LocalMethod::Pubkey { credentials: vec![credential], constraint: Constraint::default() }
}

fn remote(trust: Trust) -> RemoteMethod {
    RemoteMethod::Pubkey(Arc::new(trust))
}

/// Runs to the end of A's command and gives its failure.
fn fails(world: &mut World) -> Failure {
    let command = world.initiate(A);
    world.run_until(300, "the command ends", |world| world.ends[A].done.contains_key(&command));
    world.run(100);
    world.assert_empty(A);
    world.assert_empty(B);
    world.ends[A].done[&command].clone().unwrap_err()
}

/// What an end said when it failed.
fn said(world: &World, end: usize) -> String {
    let failed = |event: &Event| match event {
        Event::Failed(failure) => Some(failure.to_string()),
        _ => None,
    };
    world.ends[end].events.iter().find_map(failed).unwrap()
}

#[test]
fn certificates_of_every_kind_authenticate_both_ends() {
    for algorithm in [
        &rcgen::PKCS_RSA_SHA256,
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &rcgen::PKCS_ECDSA_P521_SHA512,
        &rcgen::PKCS_ED25519,
    ] {
        let world = Pki::with(algorithm).world().established();
        world.assert_agreement();
        for (end, peer) in [(A, B), (B, A)] {
            let status = world.ends[end].engine.status();
            assert_eq!(status[0].remote_id, Some(id(NAMES[peer])));
            assert_eq!(status[0].local_id, Some(id(NAMES[end])));
        }
    }
}

#[test]
pub(super) fn each_end_may_authenticate_in_its_own_way() {
    let pki = Pki::new();
    for signer in [A, B] {
        let mut configs = [config(A), config(B)];
        configs[signer].connections[0].local[0].auth = pki.local(signer);
        configs[1 - signer].connections[0].remote[0].auth = pki.remote();
        let [a, b] = configs;
        World::new(1, a, b).established().assert_agreement();
    }
}

#[test]
fn nothing_is_left_whatever_the_network_and_slow_jobs_do() {
    let pki = Pki::new();
    for seed in 0..20 {
        let mut configs = [pki.config(A), pki.config(B)];
        for config in &mut configs {
            config.retransmission.tries = 12;
            config.retransmission.base = 1.1;
            config.half_open_timeout = std::time::Duration::from_secs(120);
        }
        let [a, b] = configs;
        let mut world = World::new(seed, a, b);
        world.weather = Weather { loss: 30, duplication: 30, delay: 400 };
        world.job_delay = 3000;
        let command = world.initiate(A);
        world.run_until(600, &format!("seed {seed}: up"), |world| world.ends[A].done.contains_key(&command));
        assert_eq!(world.ends[A].done[&command], Ok(()), "seed {seed}\n{}", world.report());
        world.run(130);
        world.assert_agreement();
        let command = world.terminate(if seed % 2 == 0 { A } else { B });
        let end = if seed % 2 == 0 { A } else { B };
        world.run_until(600, &format!("seed {seed}: down"), |world| {
            world.ends[end].done.contains_key(&command)
        });
        world.run(130);
        world.assert_empty(A);
        world.assert_empty(B);
    }
}

#[test]
fn terminated_at_any_moment_of_the_negotiation_nothing_is_left() {
    let pki = Pki::new();
    for steps in 0..40 {
        let mut world = pki.world();
        world.job_delay = 0;
        world.initiate(A);
        let until = world.now + std::time::Duration::from_secs(20);
        for _ in 0..steps {
            world.tick(until);
        }
        world.terminate(A);
        world.run(200);
        world.assert_empty(A);
        world.assert_empty(B);
    }
}

#[test]
pub(super) fn a_ca_that_only_one_end_trusts_is_named_there_and_nowhere_else() {
    let (ours, theirs) = (Pki::new(), Pki::new());
    // B takes A's certificate, A does not take B's.
    let mut a = ours.config(A);
    let mut b = theirs.config(B);
    b.connections[0].remote[0].auth = ours.remote();
    let mut world = World::new(1, a.clone(), b.clone());
    let failure = fails(&mut world);
    assert_eq!(failure.code(), "CERT_NO_ISSUER", "{failure}");
    assert_eq!(world.failures(B), ["AUTHENTICATION_FAILED"]);
    // A takes B's certificate, B does not take A's.
    a.connections[0].remote[0].auth = theirs.remote();
    b.connections[0].remote[0].auth = theirs.remote();
    let mut world = World::new(1, a, b);
    let failure = fails(&mut world);
    assert_eq!(failure.code(), "AUTHENTICATION_FAILED");
    assert!(failure.to_string().contains("does not trust our certificate"), "{failure}");
    assert_eq!(world.failures(B), ["CERT_NO_ISSUER"]);
}

#[test]
fn an_identity_that_the_certificate_lacks_is_refused() {
    let pki = Pki::new();
    let mut a = pki.config(A);
    a.connections[0].local[0].auth = local(pki.ca.issue("c.example", unchanged).credential(&[]));
    let mut world = World::new(1, a, pki.config(B));
    assert_eq!(fails(&mut world).code(), "AUTHENTICATION_FAILED");
    assert_eq!(world.failures(B), ["ID_NOT_IN_CERTIFICATE"]);
    let text = said(&world, B);
    for word in ["192.0.2.1", "`a.example`", "`c.example`", "id = \"c.example\""] {
        assert!(text.contains(word), "{text}");
    }
}

#[test]
fn a_revoked_certificate_is_refused_as_initiator_and_as_responder() {
    let pki = Pki::new();
    for (revoked, judge) in [(A, B), (B, A)] {
        let mut world = pki.world();
        world.ends[judge].gateway.crls = vec![pki.ca.crl(&[&pki.ends[revoked].certificate], |_| {})];
        fails(&mut world);
        assert_eq!(world.failures(judge), ["CERT_REVOKED"]);
        assert_eq!(world.failures(revoked), ["AUTHENTICATION_FAILED"]);
        assert!(said(&world, judge).contains("2029-06-01"));
    }
}

#[test]
fn a_secret_where_a_certificate_is_wanted_is_named_and_the_reverse() {
    let pki = Pki::new();
    let mut world = World::new(1, config(A), pki.config(B));
    assert_eq!(fails(&mut world).code(), "AUTHENTICATION_FAILED");
    assert_eq!(world.failures(B), ["AUTH_METHOD_MISMATCH"]);
    let text = said(&world, B);
    assert!(text.contains("a pre-shared key") && text.contains("remote.auth is \"pubkey\""), "{text}");
    let mut world = World::new(1, pki.config(A), config(B));
    assert_eq!(fails(&mut world).code(), "AUTHENTICATION_FAILED");
    let text = said(&world, B);
    assert!(text.contains("ECDSA") && text.contains("remote.auth is \"psk\""), "{text}");
}

#[test]
fn of_two_connections_for_one_identity_the_one_that_trusts_the_ca_is_taken() {
    let (pki, other) = (Pki::new(), Pki::new());
    for swapped in [false, true] {
        let mut b = pki.config(B);
        let mut second = b.connections[0].clone();
        second.name = "second".to_owned();
        let wrong = if swapped { &mut second } else { &mut b.connections[0] };
        wrong.remote[0].auth = other.remote();
        b.connections.push(second);
        let world = World::new(1, pki.config(A), b).established();
        let name = world.ends[B].engine.status()[0].connection.clone();
        assert_eq!(name.as_deref(), Some(if swapped { "net" } else { "second" }));
        assert_eq!(world.failures(B), [""; 0]);
    }
    // If none does, what the first said is reported.
    let mut b = other.config(B);
    b.connections.push(ConnectionConfig { name: "second".to_owned(), ..b.connections[0].clone() });
    let mut world = World::new(1, pki.config(A), b);
    fails(&mut world);
    assert_eq!(world.failures(B), ["CERT_NO_ISSUER"]);
    assert!(world.ends[B].events.iter().any(
        |event| matches!(event, Event::Failed(failure) if failure.connection.as_deref() == Some("net"))
    ));
}

#[test]
fn a_connection_for_signatures_does_not_stand_in_the_way_of_one_for_secrets() {
    let pki = Pki::new();
    let mut b = config(B);
    let mut certified = pki.config(B).connections.remove(0);
    certified.name = "certified".to_owned();
    b.connections.insert(0, certified);
    let world = World::new(1, config(A), b).established();
    assert_eq!(world.ends[B].engine.status()[0].connection.as_deref(), Some("net"));
}

#[test]
fn patterns_choose_a_connection_after_names() {
    let pki = Pki::new();
    let mut b = pki.config(B);
    let with = |name: &str, id: &str| {
        let mut connection = pki.config(B).connections.remove(0);
        connection.name = name.to_owned();
        connection.remote[0].id = id.parse().unwrap();
        connection
    };
    b.connections = vec![with("anyone", "%any"), with("pattern", "*.example"), with("other", "c.example")];
    let world = World::new(1, pki.config(A), b.clone()).established();
    assert_eq!(world.ends[B].engine.status()[0].connection.as_deref(), Some("pattern"));
    b.connections.push(with("named", "a.example"));
    let world = World::new(1, pki.config(A), b).established();
    assert_eq!(world.ends[B].engine.status()[0].connection.as_deref(), Some("named"));
}

#[test]
fn without_a_configured_identity_the_subject_is_ours() {
    let pki = Pki::new();
    let (mut a, mut b) = (pki.config(A), pki.config(B));
    a.connections[0].local[0].id = None;
    b.connections[0].remote[0].id = "C=CH, O=acme, CN=*".parse().unwrap();
    let world = World::new(1, a, b).established();
    let status = world.ends[B].engine.status();
    assert_eq!(status[0].remote_id.as_ref().unwrap().to_string(), "C=CH, O=Acme, CN=a.example");
}

#[test]
fn raw_public_keys_are_sent_where_they_are_asked_for() {
    let pki = Pki::with(&rcgen::PKCS_ED25519);
    let configure = |end: usize| {
        let mut config = pki.config(end);
        config.connections[0].local[0].auth = local(Arc::new(Credential::raw(pki.ends[end].private_key())));
        let public_keys = vec![pki.ends[1 - end].certificate.key().clone()];
        config.connections[0].remote[0].auth = remote(Trust { public_keys, ..Trust::default() });
        config
    };
    World::new(1, configure(A), configure(B)).established().assert_agreement();
    let mut thief = configure(A);
    thief.connections[0].local[0].auth =
        local(Arc::new(Credential::raw(pki.ca.issue("thief", unchanged).private_key())));
    let mut world = World::new(1, thief, configure(B));
    fails(&mut world);
    assert_eq!(world.failures(B), ["CERT_NOT_ACCEPTED"]);
}

/// Whoever takes the announcement of hash algorithms away, to bring both ends to older methods, is found out: AUTH
/// covers the message (RFC 7427 §4).
#[test]
fn an_announcement_that_was_taken_away_is_noticed() {
    let pki = Pki::new();
    let mut world = pki.world();
    world.meddle = Some(Box::new(|from, mut datagram| {
        if let (A, DatagramPayload::Ike(octets)) = (from, &mut datagram.payload)
            && let Ok(received) = Message::parse(octets)
            && received.encrypted.is_none()
        {
            let mut message = received.message;
            let before = message.payloads.len();
            message.payloads.retain(|payload| {
                !matches!(payload, Payload::Notify(found) if found.notify_type == notify::SIGNATURE_HASH_ALGORITHMS)
            });
            assert_eq!(message.payloads.len() + 1, before);
            *octets = message.emit();
        }
        Some(datagram)
    }));
    assert_eq!(fails(&mut world).code(), "AUTHENTICATION_FAILED");
    assert_eq!(world.failures(B), ["SIGNATURE_INVALID"]);
}

#[test]
fn a_key_that_the_peer_cannot_verify_is_named_before_anything_is_signed() {
    // B does nothing with public keys, so it announces no hash algorithms.
    let pki = Pki::with(&rcgen::PKCS_ED25519);
    let mut world = World::new(1, pki.config(A), config(B));
    let failure = fails(&mut world);
    assert_eq!(failure.code(), "HASH_NOT_SUPPORTED");
    for word in ["Ed25519", "RFC 7427", "[connections.net.local]: auth ="] {
        assert!(failure.to_string().contains(word), "{failure}");
    }
}

#[test]
fn a_secret_alone_says_nothing_of_hashes_or_cas() {
    let world = World::plain().established();
    for end in [A, B] {
        let init = Message::parse(&world.messages(end)[0]).unwrap().message;
        assert!(!init.payloads.iter().any(|payload| match payload {
            Payload::Notify(found) => found.notify_type == notify::SIGNATURE_HASH_ALGORITHMS,
            Payload::CertReq { .. } => true,
            _ => false,
        }));
    }
}

#[test]
fn a_peer_that_asks_for_the_status_of_certificates_gets_it_and_no_other_does() {
    let pki = Pki::new();
    // Whom `end` asks itself, and who answers that.
    let brought = |asks: [bool; 2], replies: [bool; 2]| {
        let configs = [A, B].map(|end| {
            let mut config = pki.config(end);
            let authority = Arc::clone(&pki.ca.certificate);
            let source = StatusSource {
                authority: Arc::clone(&authority),
                ocsp_uris: vec!["x".to_owned()],
                crl_uris: vec![],
            };
            let entity = &pki.ends[end];
            let own =
                Credential::certified(entity.private_key(), Arc::clone(&entity.certificate), &[authority]);
            let connection = &mut config.connections[0];
            connection.local[0].auth = local(Arc::new(own.unwrap().with_status_sources([source].into())));
            connection.remote[0].auth = remote(Trust { asks_peer: asks[end], ..trust(&pki.ca) });
            connection.ocsp_reply = replies[end];
            config
        });
        let [a, b] = configs;
        let mut world = World::new(1, a, b);
        world.ends[A].gateway.status = Some(b"of a".to_vec());
        world.ends[B].gateway.status = Some(b"of b".to_vec());
        let world = world.established();
        [A, B].map(|end| world.ends[end].gateway.brought.concat())
    };
    let (a, b, none) = (b"of a".to_vec(), b"of b".to_vec(), Vec::new());
    assert_eq!(brought([true, true], [true, true]), [b.clone(), a.clone()]);
    assert_eq!(brought([true, false], [true, true]), [b, none.clone()]);
    assert_eq!(brought([false, true], [true, false]), [none.clone(), a]);
    assert_eq!(brought([true, true], [false, false]), [none.clone(), none]);
}
