//! Dead-peer detection, and tunnels that are kept up.

use std::time::Duration;

use portcullis_ipsec::SaCounters;

use super::world::*;
use crate::config::*;
use crate::engine::Command;

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

/// B has not begun the tunnel and does not keep it up, but does this when its peer is gone.
fn acting(actions: ChildActions) -> World {
    let (a, mut b) = (config(A), config(B));
    b.connections[0].dpd_delay = Duration::from_secs(30);
    b.connections[0].children[0].actions = actions;
    World::new(1, a, b).established()
}

#[test]
fn whoever_is_to_restart_a_child_whose_peer_has_died_tries_until_it_is_up_and_no_longer() {
    let mut world = acting(ChildActions { dpd: Some(LossAction::Restart), ..ChildActions::default() });
    world.ends[A].dead = true;
    world.run(1000);
    assert!(world.failures(B).len() > 2, "it is tried again: {:?}", world.failures(B));
    let mut reborn = World::new(2, config(A), config(B));
    std::mem::swap(&mut world.ends[A], &mut reborn.ends[A]);
    world.run_until(200, "the tunnel comes up again", World::up);
    world.run(5);
    // The peer closes it, of which nothing is said.
    world.terminate(A);
    world.run(200);
    assert!(!world.up());
}

#[test]
fn a_child_that_is_to_be_cleared_stays_down_although_it_was_started() {
    let (mut a, b) = watched();
    a.connections[0].children[0].actions.dpd = Some(LossAction::Clear);
    let mut world = World::new(1, a, b).established();
    world.ends[B].dead = true;
    world.run(1000);
    world.assert_empty(A);
    assert_eq!(world.failures(A), ["PEER_SILENT"]);
}

#[test]
fn a_child_that_the_peer_closes_is_brought_up_again_where_that_is_wanted() {
    for (action, up) in [(None, false), (Some(LossAction::Clear), false), (Some(LossAction::Restart), true)] {
        let mut world = acting(ChildActions { close: action, ..ChildActions::default() });
        world.terminate(A);
        world.run(30);
        assert_eq!(world.up(), up, "{action:?}");
    }
}

#[test]
fn packets_ask_for_a_child_only_once_it_was_lost_where_a_loss_sets_a_trap() {
    let mut world = acting(ChildActions { close: Some(LossAction::Trap), ..ChildActions::default() });
    world.terminate(A);
    world.run(30);
    assert!(!world.up());
    let flow = portcullis_ipsec::Flow {
        src: "10.2.0.9".parse().unwrap(),
        dst: "10.1.0.9".parse().unwrap(),
        protocol: 17,
        src_port: Some(7),
        dst_port: Some(7),
    };
    let (connection, child) = ("net".to_owned(), "lan".to_owned());
    world.command(B, Command::Acquire { connection, child, flow });
    world.run(5);
    assert!(world.up());
}

#[test]
fn a_child_that_nobody_uses_is_closed_and_its_ike_sa_stays() {
    let mut world = acting(ChildActions { inactivity: Duration::from_secs(60), ..ChildActions::default() });
    let pair = *world.ends[B].gateway.installed.keys().next().unwrap();
    let used = |idle| SaCounters { idle_out: Some(Duration::from_secs(idle)), ..SaCounters::default() };
    world.ends[B].gateway.counters.insert(pair, used(10));
    world.run(300);
    assert!(world.up());
    world.ends[B].gateway.counters.insert(pair, used(600));
    world.run(65);
    assert!(world.ends[B].gateway.installed.is_empty());
    let sas = world.ends[A].engine.status();
    assert!(sas.len() == 1 && sas[0].children.is_empty(), "{sas:?}");
}
