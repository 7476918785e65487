//! When SAs are replaced and when they end: by time, and by what they have carried.

use std::time::Duration;

use portcullis_ipsec::UsageLimits;

use super::world::*;
use crate::config::*;
use crate::engine::*;

const MINUTE: Duration = Duration::from_secs(60);

/// A rekeys its child after 9 to 10 minutes; it ends after 11.
fn short_child() -> (EngineConfig, EngineConfig) {
    let mut a = config(A);
    let time = Limit { rekey: 10 * MINUTE, life: 11 * MINUTE, rand: MINUTE };
    a.connections[0].children[0].lifetime = ChildLifetime { time, ..ChildLifetime::default() };
    (a, config(B))
}

fn times(world: &World, end: usize, what: impl Fn(&Event) -> bool) -> usize {
    world.ends[end].events.iter().filter(|event| what(event)).count()
}

fn child_rekeyed(event: &Event) -> bool {
    matches!(event, Event::ChildRekeyed { .. })
}

fn ike_rekeyed(event: &Event) -> bool {
    matches!(event, Event::IkeRekeyed { .. })
}

#[test]
fn a_child_is_rekeyed_by_its_age_at_a_random_time() {
    let mut ages = Vec::new();
    for seed in 0..10 {
        let (a, b) = short_child();
        let mut world = World::new(seed, a, b).established();
        let since = world.now;
        world.run_until(660, "it is rekeyed", |world| times(world, A, child_rekeyed) == 1);
        let age = world.now - since;
        assert!(9 * MINUTE <= age && age <= 10 * MINUTE + Duration::from_secs(1), "{age:?}");
        ages.push(age);
        world.run(3600);
        let count = times(&world, A, child_rekeyed);
        assert!((6..=7).contains(&count), "{count}");
        world.run(10);
        world.assert_agreement();
        assert_eq!(times(&world, B, child_rekeyed), count);
    }
    ages.dedup();
    assert!(ages.len() > 5, "no jitter: {ages:?}");
}

#[test]
fn a_child_that_cannot_be_rekeyed_ends_with_its_lifetime() {
    let (a, b) = short_child();
    let mut world = World::new(1, a, b).established();
    let since = world.now;
    world.ends[B].gateway.full = true;
    world.run_until(700, "it ends", |world| world.ends[A].engine.status()[0].children.is_empty());
    assert!(world.now - since >= 11 * MINUTE - Duration::from_secs(1));
    world.run(10);
    world.assert_agreement();
    assert!(world.ends[B].engine.status()[0].children.is_empty());
}

#[test]
fn what_a_child_may_carry_is_told_to_the_data_plane_with_jitter_and_rekeys_it_when_reached() {
    let mut softs = Vec::new();
    for seed in 0..10 {
        let mut a = config(A);
        a.connections[0].children[0].lifetime = ChildLifetime {
            bytes: Limit { rekey: 1000, life: 1500, rand: 500 },
            packets: Limit { rekey: 10, life: 0, rand: 0 },
            ..ChildLifetime::default()
        };
        let mut world = World::new(seed, a, config(B)).established();
        let (pair, installed) = world.ends[A].gateway.installed.first_key_value().unwrap();
        let UsageLimits { soft_bytes, hard_bytes, soft_packets, hard_packets } = installed.limits;
        assert!((501..=1000).contains(&soft_bytes.unwrap()));
        assert_eq!((hard_bytes, soft_packets, hard_packets), (Some(1500), Some(10), None));
        softs.push(soft_bytes);
        let pair = *pair;
        let installed = world.ends[B].gateway.installed.first_key_value().unwrap().1;
        assert_eq!(installed.limits, UsageLimits::default());
        world.command(A, Command::SoftLimit { pair });
        world.command(A, Command::SoftLimit { pair });
        world.run(30);
        assert_eq!(times(&world, A, child_rekeyed), 1);
        world.assert_agreement();
        // A limit of an SA that is gone means nothing.
        world.command(A, Command::SoftLimit { pair });
        world.command(A, Command::HardLimit { pair });
        world.run(30);
        assert_eq!(times(&world, A, child_rekeyed), 1);
        world.assert_agreement();
    }
    softs.dedup();
    assert!(softs.len() > 5, "no jitter: {softs:?}");
}

#[test]
fn a_child_that_has_carried_all_that_it_may_ends_and_comes_back_if_it_is_kept_up() {
    let mut a = config(A);
    a.connections[0].children[0].start_action = StartAction::Start;
    let mut world = World::new(1, a, config(B)).established();
    let pair = *world.ends[A].gateway.installed.keys().next().unwrap();
    world.command(A, Command::HardLimit { pair });
    assert!(world.ends[A].engine.status()[0].children.is_empty());
    world.run(20);
    assert!(world.up());
    world.assert_agreement();
}

fn short_ike(rekey: Duration, reauth: Duration) -> EngineConfig {
    let mut a = config(A);
    a.connections[0].lifetime =
        IkeLifetime { rekey_time: rekey, reauth_time: reauth, over_time: MINUTE, rand_time: MINUTE };
    a
}

#[test]
fn an_ike_sa_is_rekeyed_by_its_age_and_ends_if_that_fails() {
    let mut world = World::new(1, short_ike(10 * MINUTE, Duration::ZERO), config(B)).established();
    world.run(3600);
    assert!((6..=7).contains(&times(&world, A, ike_rekeyed)));
    world.run(10);
    world.assert_agreement();
    assert_eq!(world.ends[A].engine.status().len(), 1);
    // B takes no key exchange any more.
    world.ends[B].dead = true;
    world.run(1200);
    world.assert_empty(A);
}

#[test]
fn both_ends_may_rekey_by_the_same_clock() {
    for seed in 0..5 {
        let (mut a, mut b) = short_child();
        a.connections[0].lifetime = short_ike(7 * MINUTE, Duration::ZERO).connections[0].lifetime;
        b.connections[0].lifetime = a.connections[0].lifetime;
        b.connections[0].children[0].lifetime = a.connections[0].children[0].lifetime;
        let mut world = World::new(seed, a, b).established();
        world.weather.delay = 2000;
        world.job_delay = 500;
        world.begin_traffic(Duration::from_millis(500));
        world.run(2 * 3600);
        world.end_traffic();
        world.run(300);
        world.assert_agreement();
        assert_eq!(world.lost, [""; 0], "seed {seed}");
        assert_eq!(world.ends[A].engine.status().len(), 1, "seed {seed}");
        assert!(times(&world, A, child_rekeyed) >= 12);
    }
}
