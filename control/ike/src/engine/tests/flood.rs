//! Floods of IKE_SA_INIT: from forged addresses, from one source, and from everybody at once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::world::*;
use crate::config::*;
use crate::engine::admission::{MAX_ADMISSIONS, MAX_INIT_LEN};
use crate::engine::*;

/// A's first message.
pub(super) fn init() -> Vec<u8> {
    let mut world = World::plain();
    world.initiate(A);
    world.run_until(10, "A asks", |world| !world.messages(A).is_empty());
    world.messages(A)[0].clone()
}

/// The message as from the `number`th initiator.
pub(super) fn from(init: &[u8], number: u32, remote: IpAddr) -> Datagram {
    let mut octets = init.to_vec();
    octets[..4].copy_from_slice(&number.to_be_bytes());
    let (local, remote) = (SocketAddr::new(address(B), 500), SocketAddr::new(remote, 500));
    Datagram { local, remote, payload: DatagramPayload::Ike(octets) }
}

pub(super) fn forged(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

/// B takes anyone, and asks its peers whether they live.
pub(super) fn concentrator() -> EngineConfig {
    let mut b = config(B);
    b.connections[0].remote_addrs.clear();
    b.connections[0].dpd_delay = Duration::from_secs(2);
    EngineConfig { cookie_threshold: 30, block_threshold: 50, ..b }
}

pub(super) fn rejected<N>(world: &WorldOf<N>, wanted: &str) -> usize {
    let label = |event: &&Event| matches!(event, Event::Rejected { label, .. } if *label == wanted);
    world.ends[B].events.iter().filter(label).count()
}

#[test]
fn a_flood_from_forged_addresses_costs_a_bounded_number_of_ike_sas_and_no_tunnel() {
    let init = init();
    let mut world = World::new(1, config(A), concentrator()).established();
    let tunnel = world.ends[B].engine.status()[0].initiator_spi;
    let mut most = 0;
    for number in 0..20_000 {
        world.ends[B].engine.handle_datagram(world.now, from(&init, number, forged(number)));
        while world.ends[B].engine.poll_transmit().is_some() {}
        most = most.max(world.ends[B].engine.half_open());
        if number % 1000 == 0 {
            world.collect(B);
            // DPD asks and is answered, and half-open IKE SAs expire and are made anew.
            world.run(3);
        }
        if number == 10_000 {
            let child = Some("lan".to_owned());
            world.command(A, Command::Rekey { connection: "net".to_owned(), child });
        }
    }
    world.run(40);
    assert!(most <= 30, "{most}");
    assert!(world.ends[B].engine.sas.len() == 1 && world.ends[B].engine.lingering.len() <= 30);
    assert_eq!(world.ends[B].engine.status()[0].initiator_spi, tunnel);
    assert!(!world.failures(B).contains(&"PEER_SILENT"));
    world.assert_agreement();
    assert!(world.ends[A].events.iter().any(|event| matches!(event, Event::ChildRekeyed { .. })));
}

#[test]
fn an_honest_peer_gets_in_during_a_flood() {
    let init = init();
    let mut world = World::new(2, config(A), concentrator());
    let up = world.initiate(A);
    for number in 0..5000 {
        world.ends[B].engine.handle_datagram(world.now, from(&init, number, forged(number)));
        while world.ends[B].engine.poll_transmit().is_some_and(|sent| {
            let honest = sent.remote.ip() == address(A);
            if honest {
                let datagram = Datagram { local: sent.remote, remote: sent.local, payload: sent.payload };
                world.wire.push(InFlight { at: world.now, to: A, datagram });
            }
            true
        }) {}
        let until = world.now + Duration::from_millis(1);
        while world.tick(until) {}
    }
    world.run(20);
    assert_eq!(world.ends[A].done[&up], Ok(()));
}

#[test]
fn one_source_has_only_its_share() {
    let init = init();
    let b = EngineConfig { cookie_threshold: 1000, ..concentrator() };
    let mut world = World::new(3, config(A), b);
    let source = "198.51.100.1".parse().unwrap();
    for number in 0..200 {
        world.deliver(B, from(&init, number, source));
        world.run(0);
    }
    assert_eq!(world.ends[B].engine.half_open(), 50);
    assert_eq!(rejected(&world, "half_open_of_source"), 150);
    // Others get in, and so does that source once its share is free again.
    let up = world.initiate(A);
    world.run(5);
    assert_eq!(world.ends[A].done[&up], Ok(()));
    world.run(40);
    world.deliver(B, from(&init, 999, source));
    assert_eq!(world.ends[B].engine.half_open(), 1);
}

#[test]
fn when_everybody_comes_at_once_no_more_key_exchanges_are_begun_than_can_be_served() {
    let init = init();
    let b = EngineConfig {
        cookie_threshold: 10_000,
        half_open_limit: 10_000,
        block_threshold: 10_000,
        ..concentrator()
    };
    let mut world = World::new(4, config(A), b);
    for number in 0..1000 {
        world.ends[B].engine.handle_datagram(world.now, from(&init, number, forged(number)));
    }
    world.collect(B);
    assert_eq!((world.ends[B].jobs.len(), rejected(&world, "busy")), (MAX_ADMISSIONS, 1000 - MAX_ADMISSIONS));
    // Once those are served, the others come in when they ask again.
    world.run(1);
    for number in 0..1000 {
        world.ends[B].engine.handle_datagram(world.now, from(&init, number, forged(number)));
    }
    world.collect(B);
    assert_eq!(world.ends[B].jobs.len(), MAX_ADMISSIONS);
    world.run(1);
    assert_eq!(world.ends[B].engine.half_open(), 2 * MAX_ADMISSIONS);
}

#[test]
fn a_request_of_absurd_size_is_not_kept() {
    let mut init = init();
    init.resize(MAX_INIT_LEN + 1, 0);
    let len = init.len() as u32;
    init[24..28].copy_from_slice(&len.to_be_bytes());
    // The last payload takes what was added.
    let mut at = 28;
    loop {
        let length = usize::from(u16::from_be_bytes([init[at + 2], init[at + 3]]));
        if init[at] == 0 {
            let length = (init.len() - at) as u16;
            init[at + 2..at + 4].copy_from_slice(&length.to_be_bytes());
            break;
        }
        at += length;
    }
    let mut world = World::new(5, config(A), concentrator());
    world.deliver(B, from(&init, 1, forged(1)));
    assert_eq!((rejected(&world, "oversized"), world.ends[B].engine.half_open()), (1, 0));
}
