//! Dead-peer detection, and tunnels that are kept up.

use std::time::Duration;

use portcullis_ipsec::SaCounters;

use super::world::*;
use crate::config::*;

fn watched() -> (EngineConfig, EngineConfig) {
    let (mut a, b) = (config(A), config(B));
    a.connections[0].dpd_delay = Duration::from_secs(30);
    a.connections[0].children[0].start_action = StartAction::Start;
    (a, b)
}

#[test]
fn a_quiet_peer_is_asked_whether_it_lives() {
    let (a, b) = watched();
    let mut world = World::new(1, a, b).established();
    assert_eq!(world.messages(A).len(), 2);
    world.run(29);
    assert_eq!(world.messages(A).len(), 2);
    world.run(100);
    assert_eq!(world.messages(A).len(), 2 + 4);
    assert_eq!(world.messages(B).len(), 2 + 4);
    assert!(world.up());
}

#[test]
fn a_peer_whose_esp_arrives_is_not_asked() {
    let (a, b) = watched();
    let mut world = World::new(1, a, b).established();
    let pair = *world.ends[A].gateway.installed.keys().next().unwrap();
    let idle = Some(Duration::from_secs(3));
    world.ends[A].gateway.counters.insert(pair, SaCounters { idle_in: idle, ..SaCounters::default() });
    world.run(300);
    assert_eq!(world.messages(A).len(), 2);
    let idle = Some(Duration::from_secs(3000));
    world.ends[A].gateway.counters.insert(pair, SaCounters { idle_in: idle, ..SaCounters::default() });
    world.run(28);
    assert_eq!(world.messages(A).len(), 3);
}

#[test]
fn a_dead_peer_is_given_up_and_its_tunnel_comes_up_again_when_it_returns() {
    let (a, b) = watched();
    let mut world = World::new(1, a, b).established();
    world.ends[B].dead = true;
    world.run_until(300, "the peer is given up", |world| !world.up());
    assert_eq!(world.failures(A), ["PEER_SILENT"]);
    world.run(1000);
    assert!(world.ends[A].gateway.installed.is_empty());
    assert!(world.failures(A).len() > 3, "it is tried again and again: {:?}", world.failures(A));
    let mut reborn = World::new(2, config(A), config(B));
    std::mem::swap(&mut world.ends[B], &mut reborn.ends[B]);
    world.run_until(200, "the tunnel comes up again", World::up);
    world.run(5);
    world.assert_agreement();
}

#[test]
fn a_tunnel_that_is_not_kept_up_stays_down() {
    let (mut a, b) = watched();
    a.connections[0].children[0].start_action = StartAction::Trap;
    let mut world = World::new(1, a, b).established();
    world.ends[B].dead = true;
    world.run(1000);
    world.assert_empty(A);
    assert_eq!(world.failures(A), ["PEER_SILENT"]);
    assert_eq!(world.ends[A].engine.poll_timeout(), None);
}

#[test]
fn commands_that_wait_when_the_peer_dies_are_answered() {
    let (a, b) = watched();
    let mut world = World::new(1, a, b).established();
    world.ends[B].dead = true;
    let command = world.terminate(A);
    world.run(300);
    assert!(world.ends[A].done.contains_key(&command));
    world.assert_empty(A);
}
