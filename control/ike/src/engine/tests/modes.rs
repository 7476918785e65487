//! Tunnel and transport mode, and padding against traffic analysis: who asks, who agrees, and what the data plane is told.

use portcullis_ipsec::{Mode, SaOptions, TfcPadding, TrafficSelector};

use super::nat::natted;
use super::world::*;
use crate::config::*;
use crate::engine::child::{ChildPayloads, agreed_options};
use crate::engine::ike_sa_init::notification;
use crate::engine::*;
use crate::message::{Payload, notify};

/// Both ends' own addresses, in this mode.
fn between_hosts(end: usize, mode: Mode) -> EngineConfig {
    let mut config = config(end);
    let child = &mut config.connections[0].children[0];
    (child.local_ts, child.remote_ts) = (vec![None], vec![None]);
    child.options.mode = mode;
    config
}

fn modes(world: &World) -> [Mode; 2] {
    [A, B].map(|end| world.ends[end].engine.status()[0].children[0].mode)
}

/// What the data plane of an end was told, of both directions.
fn installed(world: &World, end: usize) -> SaOptions {
    let pair = world.ends[end].gateway.installed.values().next_back().unwrap();
    let outbound = pair.outbound.as_ref().unwrap();
    assert_eq!(pair.inbound.options, outbound.options);
    outbound.options
}

#[test]
fn both_ends_agree_on_transport_mode_and_keep_it_when_they_rekey() {
    let [a, b] = [A, B].map(|end| between_hosts(end, Mode::Transport));
    let mut world = World::new(1, a, b).established();
    world.assert_agreement();
    assert_eq!(modes(&world), [Mode::Transport; 2]);
    assert_eq!([A, B].map(|end| installed(&world, end).mode), [Mode::Transport; 2]);
    let before = world.ends[A].gateway.in_use();
    let rekey = Command::Rekey { connection: "net".to_owned(), child: Some("lan".to_owned()) };
    world.command(A, rekey);
    world.run(30);
    world.assert_agreement();
    assert_ne!(world.ends[A].gateway.in_use(), before);
    assert_eq!(modes(&world), [Mode::Transport; 2]);
    assert_eq!([A, B].map(|end| installed(&world, end).mode), [Mode::Transport; 2]);
}

#[test]
fn who_asks_for_transport_mode_and_gets_a_tunnel_deletes_it_and_says_so() {
    let mut world = World::new(1, between_hosts(A, Mode::Transport), between_hosts(B, Mode::Tunnel));
    let command = world.initiate(A);
    world.run(60);
    assert_eq!(world.ends[A].done[&command].as_ref().unwrap_err().code(), "CHILD_MODE_MISMATCH");
    assert!([A, B].iter().all(|end| world.ends[*end].gateway.in_use().is_empty()), "{}", world.report());
}

#[test]
fn a_child_for_transport_mode_is_not_brought_up_as_a_tunnel() {
    let mut world = World::new(1, between_hosts(A, Mode::Tunnel), between_hosts(B, Mode::Transport));
    let command = world.initiate(A);
    world.run(60);
    assert!(world.ends[A].done[&command].is_err());
    assert_eq!(world.failures(B), ["CHILD_MODE_MISMATCH"]);
    assert!([A, B].iter().all(|end| world.ends[*end].gateway.in_use().is_empty()));
}

#[test]
fn behind_a_nat_each_end_has_the_addresses_that_it_sees_itself() {
    let [a, b] = [A, B].map(|end| between_hosts(end, Mode::Transport));
    let world = natted(a, b).established();
    assert_eq!(modes(&world), [Mode::Transport; 2]);
    for end in [A, B] {
        let pair = world.ends[end].gateway.installed.values().next().unwrap();
        let endpoints = pair.inbound.endpoints;
        assert_eq!(pair.inbound.local_ts, [TrafficSelector::any(endpoints.local)]);
        assert_eq!(pair.inbound.remote_ts, [TrafficSelector::any(endpoints.remote)]);
    }
}

#[test]
fn padding_is_sent_only_to_who_takes_it() {
    let configured = SaOptions { tfc_padding: TfcPadding::Mtu, ..SaOptions::default() };
    for (said, expected) in [
        (None, TfcPadding::Mtu),
        (Some(notify::USE_TRANSPORT_MODE), TfcPadding::Mtu),
        (Some(notify::ESP_TFC_PADDING_NOT_SUPPORTED), TfcPadding::Off),
    ] {
        let mut payloads = vec![Payload::Sa(Vec::new()), Payload::TsI(Vec::new()), Payload::TsR(Vec::new())];
        payloads.extend(said.map(|notify_type| notification(notify_type, Vec::new())));
        let found = ChildPayloads::parse(&payloads).unwrap().unwrap();
        assert_eq!(agreed_options(configured, Mode::Tunnel, &found).tfc_padding, expected);
    }
}
