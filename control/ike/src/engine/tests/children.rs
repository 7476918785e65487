//! CREATE_CHILD_SA: further children, with and without a key exchange, from both ends.

use super::world::*;
use crate::config::*;
use crate::engine::established::Established;
use crate::engine::ike_sa_init::notification;
use crate::engine::*;
use crate::message::{Notify, Payload, Protocol, notify};

fn two_children() -> (EngineConfig, EngineConfig) {
    let (mut a, mut b) = (config(A), config(B));
    a.connections[0].children.push(child("dmz", "10.1.0.0/16", "10.22.0.0/16"));
    b.connections[0].children.push(child("dmz", "10.22.0.0/16", "10.1.0.0/16"));
    (a, b)
}

fn children(world: &World, end: usize) -> Vec<String> {
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

fn initiate_child(world: &mut World, end: usize, child: &str) -> Result<(), Failure> {
    let command =
        world.command(end, Command::Initiate { connection: "net".to_owned(), child: Some(child.to_owned()) });
    world.run_until(300, "the command ends", |world| world.ends[end].done.contains_key(&command));
    world.run(5);
    world.ends[end].done[&command].clone()
}

#[test]
fn every_child_of_a_connection_comes_up_on_one_ike_sa() {
    let (a, b) = two_children();
    let world = World::new(1, a, b).established();
    assert_eq!(children(&world, A), ["dmz", "lan"]);
    assert_eq!(children(&world, B), ["dmz", "lan"]);
    assert_eq!(world.ends[A].engine.status().len(), 1);
    world.assert_agreement();
}

#[test]
fn the_responder_of_the_ike_sa_can_ask_for_a_child_too() {
    let (a, b) = two_children();
    let mut world = World::new(1, a, b);
    assert_eq!(initiate_child(&mut world, A, "lan"), Ok(()));
    assert_eq!(initiate_child(&mut world, B, "dmz"), Ok(()));
    assert_eq!(children(&world, A), ["dmz", "lan"]);
    assert_eq!(world.ends[A].engine.status().len(), 1);
    world.assert_agreement();
}

#[test]
fn a_child_with_its_own_key_exchange_comes_up_even_after_another_group_was_asked_for() {
    let (mut a, mut b) = two_children();
    a.connections[0].children[1].esp_proposals = vec!["aes256gcm16-x25519-ecp256".parse().unwrap()];
    b.connections[0].children[1].esp_proposals = vec!["aes256gcm16-ecp256".parse().unwrap()];
    let mut world = World::new(1, a, b);
    assert_eq!(initiate_child(&mut world, A, "lan"), Ok(()));
    assert_eq!(initiate_child(&mut world, A, "dmz"), Ok(()));
    let status = world.ends[B].engine.status();
    let dmz = status[0].children.iter().find(|child| child.name == "dmz").unwrap();
    assert_eq!(dmz.proposal, "aes256gcm16-ecp256");
    assert!(!dmz.esn);
    world.assert_agreement();
}

#[test]
fn a_packet_brings_up_a_further_child_within_the_ike_sa_that_there_is() {
    let (mut a, b) = two_children();
    a.connections[0].children[1].start_action = StartAction::Trap;
    let mut world = World::new(1, a, b);
    assert_eq!(initiate_child(&mut world, A, "lan"), Ok(()));
    let flow = portcullis_ipsec::Flow {
        src: "10.1.0.9".parse().unwrap(),
        dst: "10.22.0.9".parse().unwrap(),
        protocol: 17,
        src_port: Some(7),
        dst_port: Some(7),
    };
    let (connection, child) = ("net".to_owned(), "dmz".to_owned());
    world.command(A, Command::Acquire { connection, child, flow });
    world.run(5);
    assert_eq!(children(&world, A), ["dmz", "lan"]);
    assert_eq!(world.ends[A].engine.status().len(), 1);
    world.assert_agreement();
}

#[test]
fn a_refused_further_child_leaves_the_first_alone() {
    let (mut a, b) = two_children();
    a.connections[0].children[1].remote_ts = vec![ts("172.16.0.0/12")];
    let mut world = World::new(1, a, b);
    assert_eq!(initiate_child(&mut world, A, "lan"), Ok(()));
    assert_eq!(initiate_child(&mut world, A, "dmz").unwrap_err().code(), "TS_NO_OVERLAP");
    assert_eq!(children(&world, A), ["lan"]);
    world.assert_agreement();
}

#[test]
fn both_ends_can_ask_for_children_at_the_same_time() {
    for seed in 0..20 {
        let (mut a, mut b) = two_children();
        for config in [&mut a, &mut b] {
            let mut third = config.connections[0].children[1].clone();
            third.name = "third".to_owned();
            let swap = |ts: &mut Vec<_>| {
                if ts == &[super::world::ts("10.22.0.0/16")] {
                    *ts = vec![super::world::ts("10.33.0.0/16")];
                }
            };
            swap(&mut third.local_ts);
            swap(&mut third.remote_ts);
            config.connections[0].children.push(third);
        }
        let mut world = World::new(seed, a, b);
        world.weather.delay = 40;
        assert_eq!(initiate_child(&mut world, A, "lan"), Ok(()));
        for (end, child) in [(A, "dmz"), (B, "third")] {
            let child = Some(child.to_owned());
            world.command(end, Command::Initiate { connection: "net".to_owned(), child });
        }
        world.run(60);
        assert_eq!(children(&world, A), ["dmz", "lan", "third"], "seed {seed}");
        world.assert_agreement();
    }
}

/// Lets an end send a request of the test's own making.
fn request(world: &mut World, end: usize, make: impl FnOnce(&mut Context, &mut Base, &mut Established)) {
    let now = world.now;
    let at = &mut world.ends[end].engine;
    let id = *at.sas.keys().next().unwrap();
    at.step(now, id, |mut state, cx, base| {
        let State::Established(established) = &mut state else { panic!("not established") };
        make(cx, base, established);
        Ok(state)
    });
    world.collect(end);
}

/// The notification in the last answer of B, as A reads it.
fn refusal_of(world: &mut World, exchange: ExchangeType, payloads: Vec<Payload>) -> Vec<u16> {
    let now = world.now;
    request(world, A, |cx, base, established| {
        established.channel.request(cx, base, now, exchange, payloads);
    });
    let answer = loop {
        assert!(world.tick(now + std::time::Duration::from_secs(5)), "no answer");
        if let Some(flight) = world.wire.iter().find(|flight| flight.to == A) {
            break flight.datagram.clone();
        }
    };
    let DatagramPayload::Ike(octets) = answer.payload else { panic!() };
    let received = Message::parse(&octets).unwrap();
    let State::Established(established) = &world.ends[A].engine.sas.values().next().unwrap().state else {
        panic!()
    };
    let channel = &established.channel;
    let sealing =
        crate::message::Sealing { protection: channel.suite.protection, keys: channel.keys.of_responder() };
    let payloads = crate::message::open(&received.encrypted.unwrap(), sealing).unwrap();
    world.run(1);
    ike_sa_init::notifications(&payloads).map(|notify| notify.notify_type).collect()
}

#[test]
fn requests_that_cannot_be_met_are_refused_as_the_rfc_says() {
    let mut world = World::plain().established();
    let rekey_ike = vec![
        Payload::Sa(negotiation::offer_ike(&config(A).connections[0].proposals)),
        Payload::Nonce(vec![7; 32]),
    ];
    // Without a KE payload.
    assert_eq!(refusal_of(&mut world, ExchangeType::CreateChildSa, rekey_ike), [notify::INVALID_SYNTAX]);
    assert_eq!(refusal_of(&mut world, ExchangeType::CreateChildSa, Vec::new()), [notify::INVALID_SYNTAX]);
    let esp = Payload::Sa(negotiation::offer_esp(
        &config(A).connections[0].children[0].esp_proposals,
        portcullis_ipsec::Spi::new(0x7777).unwrap(),
        true,
    ));
    let selectors = [
        Payload::TsI(vec![ts("10.1.0.0/16")]),
        Payload::TsR(vec![ts("10.2.0.0/16")]),
        Payload::Nonce(vec![7; 32]),
    ];
    let unknown = Payload::Notify(Notify {
        protocol: Protocol::Esp,
        spi: vec![9, 9, 9, 9],
        notify_type: notify::REKEY_SA,
        data: Vec::new(),
    });
    let mut rekey = vec![unknown, esp];
    rekey.extend(selectors);
    assert_eq!(refusal_of(&mut world, ExchangeType::CreateChildSa, rekey), [notify::CHILD_SA_NOT_FOUND]);
    // A status notification that we do not know is no reason for anything.
    let unknown = vec![notification(40000, vec![1, 2, 3])];
    assert_eq!(refusal_of(&mut world, ExchangeType::Informational, unknown), [0_u16; 0]);
    assert!(world.up());
    world.assert_agreement();
}
