//! Another configuration for engines that run: what is the same keeps its SAs, the rest follows.

use std::time::Duration;

use rand_core::Rng as _;

use super::certificates::Pki;
use super::world::*;
use crate::config::*;
use crate::engine::*;

/// A's configuration and B's, with these children, all kept up by A.
fn with_children(children: &[(&str, u8)]) -> [EngineConfig; 2] {
    [A, B].map(|end| {
        let mut config = config(end);
        config.connections[0].children = children.iter().map(|(name, net)| lan(end, name, *net)).collect();
        config
    })
}

fn lan(end: usize, name: &str, net: u8) -> ChildConfig {
    let (a, b) = (format!("10.1.{net}.0/24"), format!("10.2.{net}.0/24"));
    let mut child = if end == A { child(name, &a, &b) } else { child(name, &b, &a) };
    if end == A {
        child.start_action = StartAction::Start;
    }
    child
}

fn world(seed: u64, [a, b]: [EngineConfig; 2]) -> World {
    World::new(seed, a, b).established()
}

fn reconfigure(world: &mut World, [a, b]: [EngineConfig; 2]) {
    world.reconfigure(B, b);
    world.reconfigure(A, a);
}

/// The CHILD SAs of A: names and SPIs.
fn children(world: &World) -> Vec<(String, u32)> {
    let sas = world.ends[A].engine.status().into_iter().flat_map(|sa| sa.children);
    let mut children: Vec<_> = sas.map(|child| (child.name, child.spi_in.get())).collect();
    children.sort();
    children
}

fn names(world: &World) -> Vec<String> {
    children(world).into_iter().map(|(name, _)| name).collect()
}

fn fates(old: &EngineConfig, new: &EngineConfig) -> Vec<(Option<String>, Fate)> {
    let changes = changes(&old.connections, &new.connections);
    changes.into_iter().map(|change| (change.child, change.fate)).collect()
}

#[test]
fn the_same_configuration_again_changes_nothing() {
    let configs = with_children(&[("one", 1), ("two", 2)]);
    let mut world = world(1, configs.clone());
    let (before, sent) = (children(&world), world.sent.len());
    assert_eq!(fates(&configs[A], &configs[A]), []);
    reconfigure(&mut world, configs);
    world.run(30);
    assert_eq!((children(&world), world.sent.len()), (before, sent));
}

#[test]
fn another_pool_leaves_its_peers_alone_but_not_one_that_is_the_first_or_the_last() {
    let [a, _] = with_children(&[("one", 1)]);
    let with = |pools: &[&str]| {
        let mut config = a.clone();
        config.connections[0].pools = pools.iter().map(|name| (*name).to_owned()).collect();
        config
    };
    assert_eq!(fates(&with(&["ra"]), &with(&["clients", "ra6"])), [(None, Fate::Adjusted)]);
    assert_eq!(fates(&with(&[]), &with(&["ra"])), [(None, Fate::Replaced)]);
    assert_eq!(fates(&with(&["ra"]), &with(&[])), [(None, Fate::Replaced)]);
}

#[test]
fn a_child_that_is_added_comes_up_and_one_that_is_removed_goes_while_another_stays_as_it_is() {
    let (old, new) = (with_children(&[("one", 1), ("two", 2)]), with_children(&[("three", 3), ("two", 2)]));
    let expected = [(Some("three".to_owned()), Fate::Added), (Some("one".to_owned()), Fate::Removed)];
    assert_eq!(fates(&old[A], &new[A]), expected);
    let mut world = world(1, old);
    let two = children(&world)[1].clone();
    reconfigure(&mut world, new);
    world.run_until(30, "three is up", |world| names(world).contains(&"three".to_owned()));
    world.run(30);
    assert_eq!(names(&world), ["three", "two"]);
    assert_eq!(children(&world)[1], two);
    world.assert_agreement();
}

#[test]
fn a_child_with_other_selectors_is_negotiated_anew_and_one_with_another_lifetime_stays() {
    let old = with_children(&[("one", 1), ("two", 2)]);
    let mut new = with_children(&[("one", 9), ("two", 2)]);
    new[A].connections[0].children[1].lifetime.time.rekey = Duration::from_secs(100);
    let expected = [(Some("one".to_owned()), Fate::Replaced), (Some("two".to_owned()), Fate::Adjusted)];
    assert_eq!(fates(&old[A], &new[A]), expected);
    let mut world = world(1, old);
    let before = children(&world);
    reconfigure(&mut world, new);
    world.run(30);
    let after = children(&world);
    assert_eq!(names(&world), ["one", "two"]);
    assert!(after[0] != before[0] && after[1] == before[1], "{before:?} {after:?}");
    world.assert_agreement();
    let sas = world.ends[A].engine.status();
    let one = sas[0].children.iter().find(|child| child.name == "one").unwrap();
    assert_eq!(one.remote_ts[0].to_string(), "10.2.9.0/24");
}

#[test]
fn a_connection_with_another_peer_identity_is_closed_and_another_connection_takes_its_place() {
    let old = with_children(&[("one", 1)]);
    let mut new = old.clone();
    for (end, config) in new.iter_mut().enumerate() {
        let other = IdentityMatch::Exactly(id("c.example"));
        config.shared_keys[0].ids.push(id("c.example"));
        match end {
            A => config.connections[0].remote[0].id = other,
            _ => config.connections[0].local[0].id = Some(id("c.example")),
        }
    }
    assert_eq!(fates(&old[A], &new[A]), [(None, Fate::Replaced)]);
    let mut world = world(1, old);
    let before = children(&world);
    reconfigure(&mut world, new);
    world.run(30);
    assert_ne!(children(&world), before);
    let sas = world.ends[A].engine.status();
    assert_eq!((sas.len(), sas[0].remote_id.clone()), (1, Some(id("c.example"))), "{}", world.report());
    world.assert_agreement();
}

#[test]
fn a_connection_that_is_removed_is_closed_and_refused_from_then_on() {
    let mut world = world(1, with_children(&[("one", 1)]));
    let empty = EngineConfig { connections: Vec::new(), ..config(B) };
    world.reconfigure(B, empty);
    world.run(5);
    world.assert_empty(B);
    world.run(60);
    world.assert_empty(B);
    assert!(world.failures(B).contains(&"NO_CONFIG_FOR_ADDRESS"), "{:?}", world.failures(B));
    // And back again: A, which keeps it up, has been trying.
    let [_, b] = with_children(&[("one", 1)]);
    world.reconfigure(B, b);
    world.run_until(200, "up again", World::up);
    world.run(5);
    world.assert_agreement();
}

#[test]
pub(super) fn an_attempt_that_was_refused_a_moment_ago_begins_again_with_a_proposal_that_was_added() {
    let mut a = config(A);
    a.connections[0].proposals = vec!["aes256gcm16-prfsha384-ecp384".parse().unwrap()];
    let mut world = World::new(1, a.clone(), config(B));
    let first = world.initiate(A);
    // The refusal has come, and is not believed for a while: nobody has signed it.
    world.run(1);
    assert!(!world.failures(B).is_empty() && world.failures(A).is_empty());
    a.connections[0].proposals.push("aes256gcm16-prfsha384-x25519".parse().unwrap());
    world.reconfigure(A, a);
    let second = world.initiate(A);
    world.run(5);
    for command in [first, second] {
        assert_eq!(world.ends[A].done.get(&command), Some(&Ok(())), "{}", world.report());
    }
    assert_eq!(world.failures(A), Vec::<&str>::new());
    assert_eq!(world.ends[A].engine.status().len(), 1);
    world.assert_agreement();
}

#[test]
fn an_attempt_under_way_does_not_end_in_a_connection_that_is_there_no_longer() {
    // With signatures, whose jobs leave room between the peer's proof and ours.
    let pki = Pki::new();
    for milliseconds in 0..60 {
        let mut world = World::new(milliseconds, pki.config(A), pki.config(B));
        world.job_delay = 20;
        world.weather.delay = 5;
        world.initiate(A);
        let until = world.now + Duration::from_millis(milliseconds);
        while world.tick(until) {}
        let mut other = pki.config(B);
        match milliseconds % 2 {
            0 => other.connections.clear(),
            _ => other.connections[0].children = vec![child("dmz", "10.22.0.0/16", "10.1.0.0/16")],
        }
        world.reconfigure(B, other);
        world.run(300);
        assert_eq!(names(&world), [] as [String; 0], "{milliseconds} ms");
        if milliseconds % 2 == 0 {
            world.assert_empty(B);
        }
        world.assert_agreement();
    }
}

#[test]
fn what_only_widens_trust_or_choice_leaves_sas_alone() {
    let old = config(A);
    let mut wider = old.clone();
    wider.connections[0].proposals.insert(0, "aes128gcm16-prfsha256-x25519".parse().unwrap());
    wider.connections[0].dpd_delay = Duration::from_secs(10);
    assert_eq!(fates(&old, &wider), [(None, Fate::Adjusted)]);
    assert_eq!(fates(&wider, &old), [(None, Fate::Replaced)]);
    let mut child = old.clone();
    child.connections[0].children[0].esp_proposals.push("aes128gcm16".parse().unwrap());
    assert_eq!(fates(&old, &child), [(Some("lan".to_owned()), Fate::Adjusted)]);
    assert_eq!(fates(&child, &old), [(Some("lan".to_owned()), Fate::Replaced)]);
}

/// Children come, go and change while the network is bad; at the end both engines have what both configurations say, and
/// the numbers of what went are used again.
#[test]
fn whatever_the_order_of_changes_both_ends_follow() {
    for seed in 0..20 {
        let [mut a, mut b] = with_children(&[("c0", 0)]);
        for config in [&mut a, &mut b] {
            config.retransmission.tries = 12;
            config.retransmission.base = 1.1;
        }
        let mut world = World::new(seed, a.clone(), b.clone()).established();
        world.weather = Weather { loss: 15, duplication: 15, delay: 300 };
        world.job_delay = 200;
        for _ in 0..30 {
            let mut chosen: Vec<(String, u8)> = Vec::new();
            for number in 0..6 {
                let roll = world.rng.next_u32() % 4;
                if roll > 0 {
                    // Of two nets, so that some are changed rather than removed.
                    chosen.push((format!("c{number}"), number * 2 + (roll == 1) as u8));
                }
            }
            let chosen: Vec<(&str, u8)> = chosen.iter().map(|(name, net)| (name.as_str(), *net)).collect();
            for (end, config) in [(A, &mut a), (B, &mut b)] {
                config.connections[0].children =
                    chosen.iter().map(|(name, net)| lan(end, name, *net)).collect();
                config.connections[0].children.extend(chosen.is_empty().then(|| lan(end, "c0", 0)));
            }
            let pause = u64::from(world.rng.next_u32() % 4);
            world.reconfigure(B, b.clone());
            world.run(pause);
            world.reconfigure(A, a.clone());
            world.run(pause);
        }
        world.weather = Weather::default();
        let wanted: Vec<String> = {
            let mut names: Vec<_> =
                a.connections[0].children.iter().map(|child| child.name.clone()).collect();
            names.sort();
            names
        };
        world.run_until(600, &format!("seed {seed}: {wanted:?}"), |world| {
            let mut names = names(world);
            names.dedup();
            names == wanted
        });
        world.run(60);
        world.assert_agreement();
        let slots = &world.ends[A].engine.cx.config.connections;
        assert!(
            slots.len() <= 2 && slots[0].children.len() <= 24,
            "seed {seed}: {}",
            slots[0].children.len()
        );
    }
}
