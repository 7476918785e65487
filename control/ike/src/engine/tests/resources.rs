//! CHILD SAs of single workers (RFC 9611).

use std::time::Duration;

use portcullis_ipsec::{SaCounters, Spi};

use super::hands::Hands;
use super::world::*;
use crate::config::{EngineConfig, PerWorker};
use crate::engine::ike_sa_init::notifications;
use crate::engine::*;
use crate::message::{Protocol, notify};

fn config_for(end: usize, workers: u16, most: u16) -> EngineConfig {
    let mut config = config(end);
    config.connections[0].children[0].per_worker = Some(PerWorker { workers, most });
    config
}

fn world(a: (u16, u16), b: (u16, u16)) -> World {
    World::new(1, config_for(A, a.0, a.1), config_for(B, b.0, b.1)).established()
}

fn children(world: &World, end: usize) -> Vec<ChildSaStatus> {
    world.ends[end].engine.status().into_iter().flat_map(|sa| sa.children).collect()
}

/// What an end's CHILD SAs are, the shared one first.
fn resources(world: &World, end: usize) -> Vec<Resource> {
    let rank = |resource: &Resource| match resource {
        Resource::None | Resource::Fallback => 0,
        Resource::Worker(worker) => 1 + u32::from(*worker),
        Resource::Spare => u32::MAX,
    };
    let mut found: Vec<_> = children(world, end).into_iter().map(|child| child.resource).collect();
    found.sort_by_key(rank);
    found
}

fn pair_of(world: &World, end: usize, resource: Resource) -> Spi {
    let mut children = children(world, end).into_iter();
    children.find(|child| child.resource == resource).unwrap_or_else(|| panic!("{}", world.report())).spi_in
}

fn asks(world: &mut World, end: usize, worker: u16) {
    let pair = pair_of(world, end, Resource::Fallback);
    world.command(end, Command::WorkerAsks { pair, worker });
    world.run(3);
}

/// All that an end has was idle for so long.
fn idle(world: &mut World, end: usize, seconds: u64) {
    let counters = SaCounters { idle_out: Some(Duration::from_secs(seconds)), ..SaCounters::default() };
    for child in children(world, end) {
        world.ends[end].gateway.counters.insert(child.spi_in, counters);
    }
}

const LAN: &str = "lan";

fn rekey(world: &mut World, end: usize) {
    let (connection, child) = ("net".to_owned(), Some(LAN.to_owned()));
    world.command(end, Command::Rekey { connection, child });
    world.begin_traffic(Duration::from_millis(50));
    world.run(20);
    world.end_traffic();
    world.run(20);
}

#[test]
fn a_worker_that_asks_gets_a_child_sa_beside_the_shared_one() {
    let mut world = world((2, 4), (2, 4));
    assert_eq!(resources(&world, A), [Resource::Fallback]);
    let shared = pair_of(&world, A, Resource::Fallback);
    asks(&mut world, A, 1);
    assert_eq!(resources(&world, A), [Resource::Fallback, Resource::Worker(1)]);
    assert_eq!(resources(&world, B), [Resource::Fallback, Resource::Worker(0)]);
    let gateway = &world.ends[A].gateway;
    assert_eq!(gateway.policies.len(), 1, "both have one policy");
    let (&policy, &current) = gateway.current.iter().next().unwrap();
    assert_eq!(current, shared, "the others go on with the shared one");
    assert_eq!(gateway.of_workers[&(policy, 1)], pair_of(&world, A, Resource::Worker(1)));
    let all = children(&world, A);
    assert_eq!(all[0].local_ts, all[1].local_ts);
    assert_eq!(all[0].proposal, all[1].proposal);
    world.assert_agreement();
    asks(&mut world, A, 1);
    assert_eq!(resources(&world, A).len(), 2, "one is enough");
    asks(&mut world, B, 1);
    assert_eq!(resources(&world, B), [Resource::Fallback, Resource::Worker(0), Resource::Worker(1)]);
    assert_eq!(resources(&world, A), [Resource::Fallback, Resource::Worker(0), Resource::Worker(1)]);
    world.assert_agreement();
}

#[test]
fn what_is_sent_says_that_it_is_one_of_several() {
    let mut hands = Hands::new(3, config_for(A, 2, 4), config_for(B, 2, 4));
    let pair = pair_of(&hands.world, A, Resource::Fallback);
    hands.command(A, Command::WorkerAsks { pair, worker: 1 });
    let (request, response) = hands.exchange(A);
    for letter in [&request, &response] {
        let info = notifications(&letter.payloads)
            .find(|notify| notify.notify_type == notify::SA_RESOURCE_INFO)
            .unwrap_or_else(|| panic!("{letter:?}"));
        // RFC 9611 §5.1, §7: of no protocol and no SPI, and nothing is told of processors.
        assert_eq!((info.protocol, info.spi.len(), info.data.len()), (Protocol::Other(0), 0, 0));
    }
    hands.rekey_child(A);
    let request = hands.pass(B);
    assert_eq!(request.notes(), [notify::REKEY_SA], "a rekeying changes nothing of it");
    hands.finish();
}

#[test]
fn nobody_asks_where_the_peer_knows_nothing_of_it() {
    for configs in [[config_for(A, 2, 4), config(B)], [config(A), config_for(B, 2, 4)]] {
        let [a, b] = configs;
        let mut world = World::new(1, a, b).established();
        for end in [A, B] {
            assert_eq!(resources(&world, end), [Resource::None]);
            let pair = pair_of(&world, end, Resource::None);
            world.command(end, Command::WorkerAsks { pair, worker: 0 });
        }
        world.run(5);
        assert_eq!(resources(&world, A), [Resource::None]);
        world.assert_agreement();
    }
}

#[test]
fn a_peer_that_takes_no_more_is_left_alone_for_a_while() {
    let mut world = world((4, 8), (4, 1));
    asks(&mut world, A, 0);
    asks(&mut world, A, 1);
    assert_eq!(resources(&world, A), [Resource::Fallback, Resource::Worker(0)]);
    assert_eq!((world.failures(A), world.failures(B)), (vec!["TS_MAX_QUEUE"], vec!["TS_MAX_QUEUE"]));
    idle(&mut world, A, 1);
    idle(&mut world, B, 1);
    let before = world.messages(A).len();
    asks(&mut world, A, 2);
    assert_eq!(world.messages(A).len(), before, "it is not asked");
    world.run(200);
    asks(&mut world, A, 2);
    assert_eq!(world.failures(A).len(), 1);
    world.run(100);
    asks(&mut world, A, 2);
    assert_eq!(world.failures(A).len(), 2, "after five minutes it is");
    world.assert_agreement();
}

#[test]
fn no_more_are_asked_for_than_the_configuration_allows() {
    let mut world = world((4, 2), (4, 8));
    for worker in [3, 2, 1, 0] {
        asks(&mut world, A, worker);
    }
    asks(&mut world, A, 4);
    assert_eq!(resources(&world, A), [Resource::Fallback, Resource::Worker(2), Resource::Worker(3)]);
    assert_eq!((world.failures(A), world.failures(B)), (vec![], vec![]));
    world.assert_agreement();
}

#[test]
fn an_end_with_fewer_workers_takes_what_the_other_needs_and_seals_with_none_of_it() {
    let mut world = world((3, 6), (1, 6));
    for worker in 0..3 {
        asks(&mut world, A, worker);
    }
    let spare = Resource::Spare;
    assert_eq!(resources(&world, B), [Resource::Fallback, Resource::Worker(0), spare, spare]);
    assert_eq!(world.ends[B].gateway.of_workers.len(), 1);
    world.assert_agreement();
    rekey(&mut world, B);
    assert_eq!(resources(&world, B), [Resource::Fallback, Resource::Worker(0), spare, spare]);
    rekey(&mut world, A);
    let workers = [0, 1, 2].map(Resource::Worker);
    assert_eq!(resources(&world, A), [[Resource::Fallback].as_slice(), &workers].concat());
    assert_eq!(world.lost, [""; 0], "{}", world.report());
    world.assert_agreement();
}

#[test]
fn a_rekeyed_child_sa_stays_its_workers() {
    for end in [A, B] {
        let mut world = world((2, 4), (2, 4));
        asks(&mut world, A, 1);
        let policy = world.ends[A].gateway.policies.clone();
        let before: Vec<Spi> = children(&world, A).into_iter().map(|child| child.spi_in).collect();
        rekey(&mut world, end);
        assert_eq!(resources(&world, A), [Resource::Fallback, Resource::Worker(1)], "{}", world.report());
        assert_eq!(resources(&world, B), [Resource::Fallback, Resource::Worker(0)]);
        assert!(children(&world, A).iter().all(|child| !before.contains(&child.spi_in)));
        let gateway = &world.ends[A].gateway;
        assert_eq!(gateway.policies, policy);
        assert_eq!(gateway.of_workers.len(), 1);
        assert_eq!(world.lost, [""; 0], "{}", world.report());
        world.assert_agreement();
        // Asked for by the name that the shared one had.
        asks(&mut world, A, 0);
        assert_eq!(resources(&world, A).len(), 3);
    }
}

#[test]
fn a_rekeyed_ike_sa_has_all_of_them() {
    let mut world = world((2, 4), (2, 4));
    asks(&mut world, A, 1);
    world.command(B, Command::Rekey { connection: "net".to_owned(), child: None });
    world.run(10);
    assert_eq!(resources(&world, A), [Resource::Fallback, Resource::Worker(1)]);
    asks(&mut world, A, 0);
    assert_eq!(resources(&world, A).len(), 3);
    world.assert_agreement();
}

#[test]
fn without_the_shared_one_there_is_none() {
    for end in [A, B] {
        let mut world = world((2, 4), (2, 4));
        asks(&mut world, A, 1);
        asks(&mut world, B, 1);
        // Not its own end, so that nothing but the shared one is deleted in the first place.
        let pair = pair_of(&world, end, Resource::Fallback);
        world.command(end, Command::HardLimit { pair });
        world.run(5);
        for end in [A, B] {
            assert_eq!(resources(&world, end), [], "{}", world.report());
            assert!(world.ends[end].gateway.policies.is_empty(), "{}", world.report());
        }
        world.assert_agreement();
    }
}

#[test]
fn a_child_is_terminated_with_all_that_is_beside_it() {
    let mut world = world((2, 4), (2, 4));
    asks(&mut world, A, 1);
    let (connection, child) = ("net".to_owned(), Some(LAN.to_owned()));
    let command = world.command(B, Command::Terminate { connection, child });
    world.run(5);
    assert_eq!(world.ends[B].done[&command], Ok(()));
    assert_eq!((resources(&world, A), resources(&world, B)), (vec![], vec![]));
    world.assert_agreement();
    world.terminate(A);
    world.run(5);
    world.assert_empty(A);
    world.assert_empty(B);
}

#[test]
fn one_that_nobody_uses_is_closed_and_the_shared_one_stays() {
    let mut world = world((2, 4), (2, 4));
    asks(&mut world, A, 1);
    let pair = pair_of(&world, A, Resource::Worker(1));
    idle(&mut world, A, 1);
    idle(&mut world, B, 1);
    world.run(400);
    assert_eq!(resources(&world, A).len(), 2);
    let counters = SaCounters { idle_out: Some(Duration::from_secs(1000)), ..SaCounters::default() };
    world.ends[A].gateway.counters.insert(pair, counters);
    let closed = |world: &World| [A, B].iter().all(|end| resources(world, *end) == [Resource::Fallback]);
    world.run_until(310, "it is closed", closed);
    // B had it deleted: it does not ask for the same at once, and A may.
    asks(&mut world, B, 0);
    assert_eq!(resources(&world, B), [Resource::Fallback]);
    asks(&mut world, A, 1);
    assert_eq!(resources(&world, A), [Resource::Fallback, Resource::Worker(1)]);
    world.assert_agreement();
}

#[test]
fn a_shared_one_is_not_idle_while_others_work_beside_it() {
    let (mut a, b) = (config_for(A, 2, 4), config_for(B, 2, 4));
    a.connections[0].children[0].actions.inactivity = Duration::from_secs(60);
    let mut world = World::new(1, a, b).established();
    asks(&mut world, A, 1);
    let own = pair_of(&world, A, Resource::Worker(1));
    idle(&mut world, A, 1000);
    idle(&mut world, B, 1);
    let busy = SaCounters { idle_in: Some(Duration::from_secs(1)), ..SaCounters::default() };
    world.ends[A].gateway.counters.insert(own, busy);
    world.run(300);
    assert_eq!(resources(&world, A), [Resource::Fallback, Resource::Worker(1)]);
    idle(&mut world, A, 1000);
    world.run(150);
    assert_eq!(resources(&world, A), [], "then both are");
    world.assert_agreement();
}

#[test]
fn both_ends_may_ask_at_once() {
    let mut hands = Hands::new(5, config_for(A, 2, 4), config_for(B, 2, 4));
    for end in [A, B] {
        let pair = pair_of(&hands.world, end, Resource::Fallback);
        hands.command(end, Command::WorkerAsks { pair, worker: 0 });
    }
    hands.finish();
    for end in [A, B] {
        let expected = [Resource::Fallback, Resource::Worker(0), Resource::Worker(1)];
        assert_eq!(resources(&hands.world, end), expected, "{}", hands.world.report());
    }
}

#[test]
fn they_come_up_and_are_rekeyed_in_a_storm() {
    for seed in 0..20 {
        let mut world = World::up_in_a_storm(seed, [config_for(A, 3, 9), config_for(B, 3, 9)]);
        for round in 0..4 {
            for end in [A, B] {
                let shared =
                    children(&world, end).into_iter().find(|child| child.resource == Resource::Fallback);
                if let Some(shared) = shared {
                    let worker = (round + end as u16) % 3;
                    world.command(end, Command::WorkerAsks { pair: shared.spi_in, worker });
                }
            }
            if round % 2 == 1 {
                let (connection, child) = ("net".to_owned(), Some(LAN.to_owned()));
                world.command(usize::from(round) / 2, Command::Rekey { connection, child });
            }
            world.run(20);
        }
        world.weather = Weather { delay: 5, ..Weather::default() };
        world.run(900);
        world.assert_agreement();
        let has_shared = resources(&world, A).contains(&Resource::Fallback);
        assert!(has_shared, "seed {seed}\n{}", world.report());
    }
}
