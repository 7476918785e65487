//! Inner addresses: asked for, given, kept over rekeying and reauthentication, given back.

use std::net::IpAddr;
use std::time::Duration;

use portcullis_ipsec::AddressRange;

use super::hands::Hands;
use super::world::*;
use crate::config::*;
use crate::engine::*;
use crate::message::{Attribute, Configuration, ConfigurationType, Payload, attribute};
use crate::pools::{Attributes, PoolConfig, Pools};

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pool(name: &str, start: &str, end: &str) -> PoolConfig {
    PoolConfig {
        name: name.to_owned(),
        addrs: AddressRange::new(addr(start), addr(end)).unwrap(),
        attributes: Attributes {
            dns: vec![addr("10.2.0.53")],
            subnets: vec!["10.2.0.0/16".parse().unwrap()],
            domains: vec!["b.example".to_owned()],
            ..Attributes::default()
        },
    }
}

/// A is a roadwarrior that asks for an address of each family; B has two of each.
pub(super) fn ends() -> (EngineConfig, EngineConfig) {
    let (mut a, mut b) = (config(A), config(B));
    a.connections[0].vips = vec![addr("0.0.0.0"), addr("::")];
    a.connections[0].children[0].local_ts = vec![None];
    a.connections[0].children[0].remote_ts = vec![ts("10.2.0.0/16"), ts("2001:db8:2::/64")];
    b.connections[0].pools = vec!["ra".to_owned(), "ra6".to_owned()];
    b.connections[0].children[0].remote_ts = vec![None];
    b.connections[0].children[0].local_ts = vec![ts("10.2.0.0/16"), ts("2001:db8:2::/64")];
    (a, b)
}

pub(super) fn with_pools<N>(mut world: WorldOf<N>) -> WorldOf<N> {
    world.ends[B].gateway.pools =
        Pools::new(vec![pool("ra", "10.3.0.1", "10.3.0.2"), pool("ra6", "2001:db8:3::1", "2001:db8:3::2")]);
    world
}

fn world(seed: u64) -> World {
    let (a, b) = ends();
    with_pools(World::new(seed, a, b))
}

fn online(world: &World) -> Vec<usize> {
    world.ends[B].gateway.pools.usage().iter().map(|pool| pool.online).collect()
}

#[test]
fn a_peer_gets_an_address_of_each_family_and_the_child_is_narrowed_to_them() {
    let world = world(1).established();
    world.assert_agreement();
    let given = [addr("10.3.0.1"), addr("2001:db8:3::1")];
    let (ours, theirs) = (&world.ends[B].engine.status()[0], &world.ends[A].engine.status()[0]);
    assert_eq!((ours.remote_vips.as_slice(), theirs.local_vips.as_slice()), (&given[..], &given[..]));
    let selectors: Vec<String> = theirs.children[0].local_ts.iter().map(ToString::to_string).collect();
    assert_eq!(selectors, ["10.3.0.1/32", "2001:db8:3::1/128"]);
    assert_eq!(ours.children[0].remote_ts, theirs.children[0].local_ts);
    let told = world.ends[A].events.iter().find_map(|event| match event {
        Event::AddressesAcquired { addresses, attributes, .. } => {
            Some((addresses.clone(), attributes.clone()))
        }
        _ => None,
    });
    let attributes = pool("", "10.3.0.1", "10.3.0.1").attributes;
    assert_eq!(told, Some((given.to_vec(), attributes)));
}

#[test]
fn an_address_goes_along_when_the_ike_sa_is_rekeyed_and_is_given_back_when_it_ends() {
    for end in [A, B] {
        let mut world = world(2).established();
        for _ in 0..3 {
            world.command(end, Command::Rekey { connection: "net".to_owned(), child: None });
            world.run(20);
            world
                .command(end, Command::Rekey { connection: "net".to_owned(), child: Some("lan".to_owned()) });
            world.run(20);
            world.assert_agreement();
            assert_eq!(online(&world), [1, 1]);
        }
        let lost = |world: &World| {
            world.ends[A].events.iter().filter(|event| matches!(event, Event::AddressesLost { .. })).count()
        };
        assert_eq!(lost(&world), 0);
        world.terminate(1 - end);
        world.run(60);
        world.assert_empty(A);
        world.assert_empty(B);
        assert_eq!((lost(&world), online(&world)), (1, vec![0, 0]));
    }
}

#[test]
fn reauthentication_keeps_the_address() {
    let mut world = world(3).established();
    world.begin_traffic(Duration::from_millis(5));
    let before = world.ends[A].engine.status()[0].clone();
    world.command(A, Command::Reauthenticate { connection: "net".to_owned() });
    world.run(20);
    world.end_traffic();
    world.run(20);
    world.assert_agreement();
    let after = &world.ends[A].engine.status()[0];
    assert_ne!(before.initiator_spi, after.initiator_spi);
    assert_eq!(before.local_vips, after.local_vips);
    assert_eq!((online(&world), &world.lost), (vec![1, 1], &Vec::new()));
    let acquired =
        |event: &&Event| matches!(event, Event::AddressesAcquired { .. } | Event::AddressesLost { .. });
    assert_eq!(world.ends[A].events.iter().filter(acquired).count(), 1, "nothing changes on A's interface");
}

#[test]
fn a_peer_that_starts_over_finds_the_address_that_it_had() {
    let mut world = world(4).established();
    // A loses its memory; B hears INITIAL_CONTACT.
    let (a, _) = ends();
    world.forget(A, a);
    let up = world.initiate(A);
    world.run(30);
    assert_eq!(world.ends[A].done[&up], Ok(()));
    assert_eq!(world.ends[A].engine.status()[0].local_vips[0], addr("10.3.0.1"));
    assert_eq!(online(&world), [1, 1]);
}

#[test]
pub(super) fn a_full_pool_refuses_the_child_and_is_named() {
    let mut world = world(5);
    for identity in ["x", "y"] {
        let request = crate::pools::AddressRequest {
            identity: identity.to_owned(),
            pools: vec!["ra".to_owned(), "ra6".to_owned()],
            wanted: vec![addr("0.0.0.0"), addr("::")],
            grant: Default::default(),
        };
        world.ends[B].gateway.pools.assign(&request);
    }
    let command = world.initiate(A);
    world.run(60);
    assert_eq!(world.failures(B), ["POOL_EXHAUSTED"]);
    assert_eq!(world.ends[A].done[&command].as_ref().unwrap_err().code(), "NO_ADDRESS_ASSIGNED");
    assert_eq!((world.ends[A].engine.status(), world.ends[B].engine.status()), (vec![], vec![]));
}

#[test]
fn whoever_asks_for_no_address_where_one_is_needed_is_told_so() {
    let (mut a, b) = ends();
    a.connections[0].vips.clear();
    let mut world = with_pools(World::new(6, a, b));
    let command = world.initiate(A);
    world.run(60);
    assert_eq!(world.failures(B), ["ADDRESS_NOT_ASKED_FOR"]);
    assert!(world.ends[A].done[&command].is_err());
    assert_eq!(online(&world), [0, 0]);
}

#[test]
fn an_answer_without_an_address_ends_the_ike_sa() {
    let (a, mut b) = ends();
    b.connections[0].pools.clear();
    b.connections[0].children[0].remote_ts = vec![ts("0.0.0.0/0")];
    let mut world = World::new(7, a, b);
    let command = world.initiate(A);
    world.run(60);
    assert_eq!(world.ends[A].done[&command].as_ref().unwrap_err().code(), "NO_ADDRESS_ASSIGNED");
    world.assert_empty(A);
    world.assert_empty(B);
}

#[test]
fn what_a_peer_does_not_narrow_we_narrow_to_our_address() {
    let (a, mut b) = ends();
    b.connections[0].children[0].remote_ts = vec![None, ts("0.0.0.0/0")];
    let world = with_pools(World::new(8, a, b)).established();
    let selectors = &world.ends[A].engine.status()[0].children[0].local_ts;
    let selectors: Vec<String> = selectors.iter().map(ToString::to_string).collect();
    assert_eq!(selectors, ["10.3.0.1/32", "2001:db8:3::1/128"]);
}

#[test]
fn leases_are_neither_lost_nor_doubled_in_bad_weather() {
    for seed in 0..60 {
        let (mut a, mut b) = ends();
        for config in [&mut a, &mut b] {
            config.retransmission = Retransmission { tries: 12, base: 1.1, ..Retransmission::default() };
            config.half_open_timeout = Duration::from_secs(120);
            config.connections[0].lifetime = IkeLifetime {
                rekey_time: Duration::from_secs(200),
                reauth_time: if seed % 2 == 0 { Duration::from_secs(500) } else { Duration::ZERO },
                over_time: Duration::from_secs(200),
                rand_time: Duration::from_secs(50),
            };
        }
        let mut world = with_pools(World::new(seed, a, b));
        world.weather = Weather { loss: 20, duplication: 20, delay: 300 };
        world.job_delay = 300;
        let mut world = world.established();
        world.run(1500);
        world.weather = Weather::default();
        world.run(190);
        let end = if seed % 3 == 0 { A } else { B };
        world.terminate(end);
        world.run(400);
        world.assert_empty(A);
        world.assert_empty(B);
    }
}

#[test]
fn what_runs_here_stays_hidden_and_nothing_is_set_from_outside() {
    let mut hands = Hands::plain(1);
    for (kind, answer) in [
        (ConfigurationType::Request, (ConfigurationType::Reply, 1)),
        (ConfigurationType::Set, (ConfigurationType::Ack, 0)),
    ] {
        let attributes =
            vec![Attribute::asked(attribute::APPLICATION_VERSION), Attribute::address(addr("10.9.9.9"))];
        let response = hands.ask(A, vec![Payload::Cp(Configuration { kind, attributes })]);
        let [Payload::Cp(found)] = response.as_slice() else { panic!("{response:?}") };
        assert_eq!((found.kind, found.attributes.len()), answer);
        assert!(found.attributes.iter().all(|attribute| attribute.value.is_empty()));
    }
}

#[test]
fn more_addresses_than_were_asked_for_are_not_taken() {
    let (mut a, b) = ends();
    a.connections[0].vips = vec![addr("0.0.0.0")];
    let world = with_pools(World::new(9, a, b)).established();
    assert_eq!(world.ends[A].engine.status()[0].local_vips, [addr("10.3.0.1")]);
    assert_eq!(online(&world), [1, 0]);
}
