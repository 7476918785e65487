//! NAT traversal: who finds a NAT, what floats, how ESP is carried, who keeps mappings open.

use std::net::SocketAddr;

use portcullis_ipsec::{Encapsulation, TunnelEndpoints};

use super::world::*;
use crate::config::*;
use crate::engine::*;

const PUBLIC: &str = "198.51.100.1";

/// A's addresses are mapped; B takes anyone.
pub(super) fn natted(mut a: EngineConfig, mut b: EngineConfig) -> World {
    a.connections[0].local_addrs = vec![];
    b.connections[0].remote_addrs = vec![];
    let mut world = World::new(1, a, b);
    world.nat = Some(NatBox { public: PUBLIC.parse().unwrap(), port_shift: 20000 });
    world
}

fn keepalives(world: &World, end: usize) -> usize {
    let keepalive = |(from, datagram): &&(usize, Datagram)| {
        *from == end && datagram.payload == DatagramPayload::NatKeepalive
    };
    world.sent.iter().filter(keepalive).count()
}

fn encapsulation(world: &World, end: usize) -> Encapsulation {
    world.ends[end].gateway.installed.values().next().unwrap().inbound.endpoints.encapsulation
}

#[test]
fn behind_a_nat_everything_floats_and_esp_goes_in_udp() {
    let mut world = natted(config(A), config(B)).established();
    world.assert_agreement();
    let sas = [A, B].map(|end| world.ends[end].engine.status().remove(0));
    assert_eq!((sas[A].nat_local, sas[A].nat_remote), (true, false));
    assert_eq!((sas[B].nat_local, sas[B].nat_remote), (false, true));
    assert_eq!((sas[A].local.port(), sas[A].remote.port()), (4500, 4500));
    assert_eq!(sas[B].remote, SocketAddr::new(PUBLIC.parse().unwrap(), 24500));
    assert_eq!(encapsulation(&world, A), Encapsulation::Udp { local_port: 4500, remote_port: 4500 });
    assert_eq!(encapsulation(&world, B), Encapsulation::Udp { local_port: 4500, remote_port: 24500 });
    world.run(65);
    assert_eq!((keepalives(&world, A), keepalives(&world, B)), (3, 0));
    // The mapping changes: the next authentic message shows it, and ESP follows.
    world.nat.as_mut().unwrap().port_shift = 30000;
    let now = world.now;
    let engine = &mut world.ends[A].engine;
    let id = *engine.sas.keys().next().unwrap();
    engine.step(now, id, |mut state, cx, base| {
        let State::Established(established) = &mut state else { panic!() };
        established.channel.request(cx, base, now, ExchangeType::Informational, Vec::new());
        Ok(state)
    });
    world.collect(A);
    world.run(5);
    assert_eq!(world.ends[B].engine.status()[0].remote.port(), 34500);
    let (_, moved) = world.ends[B].gateway.moved[0];
    assert_eq!(moved.encapsulation, Encapsulation::Udp { local_port: 4500, remote_port: 34500 });
    assert!(world.ends[A].gateway.moved.is_empty());
    let public = |port| SocketAddr::new(PUBLIC.parse().unwrap(), port);
    assert_eq!((moves(&world, A), moves(&world, B)), (vec![], vec![(public(24500), public(34500))]));
}

/// Where an end has told that its peer has moved from, and to.
fn moves(world: &World, end: usize) -> Vec<(SocketAddr, SocketAddr)> {
    let moved = |event: &Event| match event {
        Event::IkeMoved { from, to, .. } => Some((from.1, to.1)),
        _ => None,
    };
    world.ends[end].events.iter().filter_map(moved).collect()
}

#[test]
fn ike_follows_a_mapping_that_esp_has_seen_change() {
    let mut world = natted(config(A), config(B)).established();
    let pair = *world.ends[B].gateway.installed.keys().next().unwrap();
    let seen = TunnelEndpoints {
        local: address(B),
        remote: "198.51.100.9".parse().unwrap(),
        encapsulation: Encapsulation::Udp { local_port: 4500, remote_port: 5555 },
    };
    let command = world.command(B, Command::PeerMoved { pair, seen });
    assert_eq!(world.ends[B].done[&command], Ok(()));
    assert_eq!(world.ends[B].engine.status()[0].remote, "198.51.100.9:5555".parse().unwrap());
    world.run(1);
    assert_eq!(world.ends[B].gateway.moved, [(pair, seen)]);
    let told = moves(&world, B);
    assert_eq!(told.iter().map(|(_, to)| *to).collect::<Vec<_>>(), ["198.51.100.9:5555".parse().unwrap()]);
}

#[test]
fn without_a_nat_nothing_floats() {
    let mut world = World::plain().established();
    world.run(100);
    assert!(
        world.sent.iter().all(|(_, datagram)| datagram.local.port() == 500 && datagram.remote.port() == 500)
    );
    assert_eq!(keepalives(&world, A) + keepalives(&world, B), 0);
    let seen = TunnelEndpoints {
        local: address(B),
        remote: "198.51.100.9".parse().unwrap(),
        encapsulation: Encapsulation::Udp { local_port: 4500, remote_port: 5555 },
    };
    let pair = *world.ends[B].gateway.installed.keys().next().unwrap();
    world.command(B, Command::PeerMoved { pair, seen });
    assert_eq!(
        world.ends[B].engine.status()[0].remote.ip(),
        address(A),
        "a peer behind no NAT does not move"
    );
}

#[test]
fn encapsulation_can_be_forced_from_either_end() {
    for forcing in [&[A][..], &[B], &[A, B]] {
        let (mut a, mut b) = (config(A), config(B));
        a.connections[0].encap = forcing.contains(&A);
        b.connections[0].encap = forcing.contains(&B);
        let world = World::new(1, a, b).established();
        world.assert_agreement();
        for end in [A, B] {
            let udp = Encapsulation::Udp { local_port: 4500, remote_port: 4500 };
            assert_eq!(encapsulation(&world, end), udp, "forced by {forcing:?}");
        }
    }
}

#[test]
fn ike_may_run_between_other_ports_from_the_start() {
    let (mut a, mut b) = (config(A), config(B));
    (a.port, a.nat_port) = (4500, 4500);
    (b.port, b.nat_port) = (4500, 4500);
    a.connections[0].encap = true;
    let world = World::new(1, a, b).established();
    world.assert_agreement();
    assert!(world.sent.iter().all(|(_, datagram)| datagram.local.port() == 4500));
    assert_eq!(encapsulation(&world, B), Encapsulation::Udp { local_port: 4500, remote_port: 4500 });
}

#[test]
fn ipv6_ends_find_no_nat_either() {
    let (mut a, mut b) = (config(A), config(B));
    let (v6_a, v6_b) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    a.connections[0].local_addrs = vec![AddressMatch::Address(v6_a)];
    a.connections[0].remote_addrs = vec![AddressMatch::Address(v6_b)];
    b.connections[0].local_addrs = vec![AddressMatch::Address(v6_b)];
    b.connections[0].remote_addrs = vec![AddressMatch::Address(v6_a)];
    let world = World::new(1, a, b).established();
    world.assert_agreement();
    let sa = &world.ends[B].engine.status()[0];
    assert_eq!(sa.remote.ip(), v6_a);
    assert!(!sa.nat_local && !sa.nat_remote);
}

#[test]
fn a_peer_behind_no_nat_is_answered_where_it_asks_from_and_not_followed() {
    let mut world = World::plain().established();
    let now = world.now;
    let engine = &mut world.ends[A].engine;
    let id = *engine.sas.keys().next().unwrap();
    engine.step(now, id, |mut state, cx, base| {
        let State::Established(established) = &mut state else { panic!() };
        established.channel.request(cx, base, now, ExchangeType::Informational, Vec::new());
        Ok(state)
    });
    world.collect(A);
    let mut request = world.wire.pop().unwrap().datagram;
    request.remote = "198.51.100.9:500".parse().unwrap();
    world.deliver(B, request.clone());
    assert_eq!(world.sent.last().unwrap().1.remote, request.remote);
    assert_eq!(world.ends[B].engine.status()[0].remote.ip(), address(A));
    assert!(world.ends[B].gateway.moved.is_empty());
}
