//! IKE SAs that take the place of others: reauthentication, initiations that cross, INITIAL_CONTACT and `unique`.

use std::time::Duration;

use super::world::*;
use crate::config::*;
use crate::engine::*;

fn two_children(mut a: EngineConfig, mut b: EngineConfig) -> (EngineConfig, EngineConfig) {
    a.connections[0].children.push(child("dmz", "10.1.0.0/16", "10.22.0.0/16"));
    b.connections[0].children.push(child("dmz", "10.22.0.0/16", "10.1.0.0/16"));
    (a, b)
}

fn reauthenticate(world: &mut World, end: usize) -> Result<(), Failure> {
    let command = world.command(end, Command::Reauthenticate { connection: "net".to_owned() });
    world.ends[end].done[&command].clone()
}

fn names(world: &World, end: usize) -> Vec<String> {
    let mut names: Vec<_> = world.ends[end]
        .engine
        .status()
        .into_iter()
        .flat_map(|sa| sa.children)
        .map(|child| child.name)
        .collect();
    names.sort();
    names
}

fn established(world: &World, end: usize) -> usize {
    let established = |event: &&Event| matches!(event, Event::IkeEstablished { .. });
    world.ends[end].events.iter().filter(established).count()
}

#[test]
fn reauthentication_makes_everything_anew_before_it_breaks() {
    let (a, b) = two_children(config(A), config(B));
    let mut world = World::new(1, a, b).established();
    world.begin_traffic(Duration::from_millis(5));
    let old = world.ends[A].engine.status()[0].clone();
    assert_eq!(reauthenticate(&mut world, A), Ok(()));
    world.run(20);
    world.end_traffic();
    world.run(20);
    world.assert_agreement();
    assert_eq!(world.lost, [""; 0]);
    for end in [A, B] {
        let [new] = world.ends[end].engine.status().try_into().unwrap();
        assert_ne!(new.initiator_spi, old.initiator_spi);
        assert_eq!(names(&world, end), ["dmz", "lan"]);
        assert_eq!(established(&world, end), 2);
    }
}

#[test]
fn only_the_end_that_began_the_ike_sa_reauthenticates_however_often_it_was_rekeyed() {
    let mut world = World::plain().established();
    world.command(B, Command::Rekey { connection: "net".to_owned(), child: None });
    world.run(10);
    assert!(!world.ends[A].engine.status()[0].initiator);
    assert_eq!(reauthenticate(&mut world, A), Ok(()));
    world.run(20);
    assert!(world.ends[A].engine.status()[0].initiator);
    world.assert_agreement();
}

#[test]
fn reauthentication_comes_by_the_clock_and_the_ike_sa_ends_if_it_fails() {
    let mut a = config(A);
    let minute = Duration::from_secs(60);
    a.connections[0].lifetime = IkeLifetime {
        rekey_time: 4 * minute,
        reauth_time: 10 * minute,
        over_time: minute,
        rand_time: minute,
    };
    let mut world = World::new(1, a, config(B)).established();
    world.run(3600);
    assert!((6..=8).contains(&established(&world, A)), "{}", established(&world, A));
    world.run(20);
    world.assert_agreement();
    assert_eq!(world.ends[A].engine.status().len(), 1);
    // B takes the old key no longer.
    let other = EngineConfig { shared_keys: Vec::new(), ..config(B) };
    let mut engine = &mut world.ends[B].engine;
    engine.cx.config = std::sync::Arc::new(other);
    engine = &mut world.ends[B].engine;
    assert_eq!(engine.status().len(), 1);
    world.run(1200);
    world.assert_empty(A);
    world.assert_empty(B);
    assert!(world.failures(A).contains(&"AUTHENTICATION_FAILED"));
}

#[test]
fn a_reauthentication_that_fails_is_tried_again_and_the_old_ike_sa_serves_meanwhile() {
    let mut world = World::plain().established();
    let old = world.ends[A].engine.status()[0].clone();
    world.ends[B].gateway.full = true;
    assert_eq!(reauthenticate(&mut world, A), Ok(()));
    world.run(5);
    world.ends[B].gateway.full = false;
    assert!(world.ends[A].engine.status().iter().any(|sa| sa.initiator_spi == old.initiator_spi));
    world.run(300);
    let [new] = world.ends[A].engine.status().try_into().unwrap();
    assert_ne!(new.initiator_spi, old.initiator_spi);
    world.assert_agreement();
}

#[test]
fn of_two_initiations_that_cross_one_is_left() {
    let mut survivors = Vec::new();
    for seed in 0..40 {
        let (mut a, mut b) = two_children(config(A), config(B));
        for config in [&mut a, &mut b] {
            config.connections[0].children[0].start_action = StartAction::Start;
        }
        let mut world = World::new(seed, a, b);
        world.weather = Weather { delay: 60, duplication: 20, loss: 0 };
        // Both want one, or each its own.
        let wanted = |end: usize| match seed % 2 {
            0 => "lan",
            _ => ["lan", "dmz"][end],
        };
        for end in [A, B] {
            let child = Some(wanted(end).to_owned());
            world.command(end, Command::Initiate { connection: "net".to_owned(), child });
        }
        world.run(60);
        world.assert_agreement();
        let [sa] =
            world.ends[A].engine.status().try_into().unwrap_or_else(|sas: Vec<_>| {
                panic!("seed {seed}: {} IKE SAs\n{}", sas.len(), world.report())
            });
        survivors.push(sa.initiator);
        assert_eq!(names(&world, A), if seed % 2 == 0 { vec!["lan"] } else { vec!["dmz", "lan"] });
        assert!(world.ends.iter().all(|end| end.done.values().all(Result::is_ok)));
        // It stays as it is.
        let before = world.sent.len();
        world.run(300);
        assert_eq!(world.sent.len(), before);
    }
    assert!(survivors.contains(&true) && survivors.contains(&false));
}

/// A comes again without a word of the first time.
fn comes_again(unique: Unique, forgetful: bool) -> World {
    let mut b = config(B);
    b.connections[0].unique = unique;
    let mut a = config(A);
    if !forgetful {
        // Without INITIAL_CONTACT.
        a.connections[0].unique = Unique::Never;
    }
    let mut world = World::new(1, a.clone(), b).established();
    world.run(10);
    let mut reborn = World::new(2, a, config(B));
    std::mem::swap(&mut world.ends[A].engine, &mut reborn.ends[A].engine);
    world.ends[A].gateway = super::gateway::Gateway::new(7);
    world.run(1);
    world.initiate(A);
    world.run(30);
    world
}

#[test]
fn unique_no_replaces_only_on_initial_contact() {
    assert_eq!(comes_again(Unique::No, true).ends[B].engine.status().len(), 1);
    assert_eq!(comes_again(Unique::No, false).ends[B].engine.status().len(), 2);
}

#[test]
fn unique_never_does_not_even_then() {
    assert_eq!(comes_again(Unique::Never, true).ends[B].engine.status().len(), 2);
}

#[test]
fn unique_replace_needs_no_word() {
    let world = comes_again(Unique::Replace, false);
    // The old one goes after a while, in case it was a reauthentication; its Delete reaches nobody.
    let live = |sa: &IkeSaStatus| sa.state == IkeState::Established;
    assert_eq!(world.ends[B].engine.status().iter().filter(|sa| live(sa)).count(), 1);
    let mut world = world;
    world.run(300);
    assert_eq!(world.ends[B].engine.status().len(), 1);
    world.assert_agreement();
}

#[test]
fn unique_keep_refuses_the_second() {
    let world = comes_again(Unique::Keep, false);
    assert_eq!(world.ends[B].engine.status().len(), 1);
    assert!(world.failures(B).contains(&"NOT_UNIQUE"));
    assert_eq!(world.failures(A), ["AUTHENTICATION_FAILED"]);
    assert_eq!(comes_again(Unique::Keep, true).ends[B].engine.status().len(), 1);
    assert!(comes_again(Unique::Keep, true).failures(B).is_empty());
}
