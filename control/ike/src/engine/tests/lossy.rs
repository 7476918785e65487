//! Bad networks: retransmission, duplicates, message IDs.

use super::world::*;
use crate::config::*;
use crate::engine::*;

fn storm() -> Weather {
    Weather { loss: 30, duplication: 30, delay: 400 }
}

#[test]
fn tunnels_come_up_and_go_down_whatever_the_network_loses_doubles_and_reorders() {
    for seed in 0..60 {
        let (mut a, mut b) = (config(A), config(B));
        for config in [&mut a, &mut b] {
            config.retransmission.tries = 12;
            config.retransmission.base = 1.1;
            config.half_open_timeout = std::time::Duration::from_secs(120);
        }
        if seed % 3 == 0 {
            b.cookie_threshold = 0;
        }
        if seed % 4 == 0 {
            a.connections[0].proposals = vec!["aes256gcm16-prfsha384-ecp256-x25519".parse().unwrap()];
        }
        let mut world = World::new(seed, a, b);
        world.weather = storm();
        world.job_delay = 300;
        let command = world.initiate(A);
        world.run_until(600, &format!("seed {seed}: up"), |world| world.ends[A].done.contains_key(&command));
        assert_eq!(world.ends[A].done[&command], Ok(()), "seed {seed}\n{}", world.report());
        world.run(130);
        world.assert_agreement();
        assert_eq!(world.ends[B].engine.half_open(), 0, "seed {seed}");
        let end = if seed % 2 == 0 { A } else { B };
        let command = world.terminate(end);
        world.run_until(600, &format!("seed {seed}: down"), |world| {
            world.ends[end].done.contains_key(&command)
        });
        world.run(130);
        world.assert_empty(A);
        world.assert_empty(B);
        for end in [A, B] {
            assert_eq!(
                world.ends[end].engine.poll_timeout(),
                None,
                "seed {seed}: something goes on for ever"
            );
        }
    }
}

#[test]
fn crossing_initiations_leave_both_ends_with_the_same_sas() {
    for seed in 0..40 {
        let (mut a, mut b) = (config(A), config(B));
        for config in [&mut a, &mut b] {
            config.connections[0].children[0].start_action = StartAction::Start;
        }
        let mut world = World::new(seed, a, b);
        world.weather = Weather { delay: 60, duplication: 20, loss: 0 };
        world.initiate(A);
        world.run((seed % 2) / 2);
        world.initiate(B);
        world.run(300);
        assert!(world.up(), "seed {seed}");
        world.assert_agreement();
    }
}

#[test]
fn a_repeated_request_is_answered_with_the_same_octets_and_nothing_else() {
    let mut world = World::plain();
    world.initiate(A);
    world.run_until(10, "A asks", |world| world.messages(A).len() == 1);
    let init = world.sent[0].1.clone();
    world.run_until(60, "the responder has answered IKE_SA_INIT", |world| world.messages(B).len() == 1);
    let to_b =
        |datagram: &Datagram| Datagram { local: datagram.remote, remote: datagram.local, ..datagram.clone() };
    world.deliver(B, to_b(&init));
    assert_eq!(world.messages(B)[0], world.messages(B)[1]);
    assert_eq!(world.ends[B].engine.half_open(), 1);
    world.run_until(60, "the tunnel comes up", World::up);
    world.run(2);
    let auth = world.sent.iter().filter(|(from, _)| *from == A).nth(1).unwrap().1.clone();
    let before = (world.ends[B].events.len(), world.messages(B));
    for times in 1..=3 {
        world.deliver(B, to_b(&auth));
        let after = world.messages(B);
        assert_eq!(after.len(), before.1.len() + times);
        assert_eq!(after.last(), before.1.last());
    }
    assert_eq!(world.ends[B].events.len(), before.0);
    assert!(world.ends[B].jobs.is_empty());
    world.assert_agreement();
}

#[test]
fn an_answered_request_is_not_answered_again_once_the_next_has_come() {
    let mut world = World::plain().established();
    let auth = world.sent.iter().filter(|(from, _)| *from == A).nth(1).unwrap().1.clone();
    let command =
        world.command(A, Command::Terminate { connection: "net".to_owned(), child: Some("lan".to_owned()) });
    world.run_until(60, "the child goes", |world| world.ends[A].done.contains_key(&command));
    let before = world.messages(B).len();
    world.deliver(B, Datagram { local: auth.remote, remote: auth.local, ..auth });
    assert_eq!(world.messages(B).len(), before);
}

#[test]
fn a_lost_message_of_either_side_is_made_good_by_retransmission() {
    for lost in 0..4 {
        let mut world = World::plain();
        let mut count = 0;
        world.meddle = Some(Box::new(move |_, datagram| {
            count += 1;
            (count != lost + 1).then_some(datagram)
        }));
        let world = world.established();
        assert!(world.now - world.start >= std::time::Duration::from_secs(4));
        world.assert_agreement();
    }
}

#[test]
fn no_iv_is_used_twice_with_a_key() {
    let mut world = World::plain();
    world.weather = Weather { loss: 20, duplication: 20, delay: 100 };
    let mut world = world.established();
    for _ in 0..20 {
        let child = Some("lan".to_owned());
        world.command(A, Command::Terminate { connection: "net".to_owned(), child });
        world.run(60);
        world.initiate(B);
        world.run(60);
    }
    for end in [A, B] {
        let mut sealed: std::collections::HashMap<Vec<u8>, Vec<u8>> = std::collections::HashMap::new();
        for octets in world.messages(end) {
            let Some(encrypted) = Message::parse(&octets).unwrap().encrypted else { continue };
            let (iv, _) = encrypted.body.split_at(8);
            // A retransmission is the same message.
            let first = sealed.entry(iv.to_vec()).or_insert_with(|| octets.clone());
            assert_eq!(first, &octets);
        }
        assert!(sealed.len() > 20);
    }
}
