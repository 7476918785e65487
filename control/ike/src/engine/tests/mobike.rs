//! Ends that move (RFC 4555): everything follows, and nothing that is not authentic, allowed and reachable is followed.

use std::net::IpAddr;
use std::time::Duration;

use portcullis_ipsec::Encapsulation;

use super::world::*;
use crate::config::*;
use crate::engine::*;
use crate::message::{Notify, Payload, notify};

const ELSEWHERE: &str = "198.51.100.7";

fn elsewhere() -> IpAddr {
    ELSEWHERE.parse().unwrap()
}

fn mobile(end: usize) -> EngineConfig {
    let mut config = config(end);
    config.connections[0].mobike = true;
    config
}

/// A may be anywhere, and B takes it from anywhere.
fn roaming() -> [EngineConfig; 2] {
    let (mut a, mut b) = (mobile(A), mobile(B));
    a.connections[0].local_addrs = vec![AddressMatch::Any];
    b.connections[0].remote_addrs = vec![AddressMatch::Any];
    [a, b]
}

fn world([a, b]: [EngineConfig; 2]) -> World {
    World::new(1, a, b).established()
}

/// The host of an end has these addresses now, and sends from the first.
fn paths(world: &mut World, end: usize, addresses: &[IpAddr]) {
    world.ends[end].gateway.source = addresses.first().copied();
    world.command(end, Command::PathsChanged { addresses: addresses.to_vec() });
}

fn ike(world: &World, end: usize) -> IkeSaStatus {
    world.ends[end].engine.status().remove(0)
}

/// Where ESP of an end goes, as its data plane was told last.
fn esp_peer(world: &World, end: usize) -> IpAddr {
    let gateway = &world.ends[end].gateway;
    let began = gateway.installed.values().next().unwrap().inbound.endpoints;
    gateway.moved.last().map_or(began, |(_, endpoints)| *endpoints).remote
}

fn settled(world: &World) -> bool {
    let arrived = |end: usize| {
        let mobility = &world.ends[end].engine.sas.values().next().unwrap().base.mobility;
        !mobility.update && world.wire.is_empty()
    };
    arrived(A) && arrived(B) && ike(world, B).remote.ip() == elsewhere() && esp_peer(world, B) == elsewhere()
}

/// One end changes what it says to the other before it is sealed.
fn exchange_of(world: &mut World, end: usize, payloads: Vec<Payload>) {
    let now = world.now;
    let engine = &mut world.ends[end].engine;
    let id = *engine.sas.keys().next().unwrap();
    engine.step(now, id, |mut state, cx, base| {
        let State::Established(established) = &mut state else { panic!() };
        established.channel.request(cx, base, now, ExchangeType::Informational, payloads);
        Ok(state)
    });
    world.collect(end);
}

fn notification(notify_type: u16, data: &[u8]) -> Payload {
    crate::engine::ike_sa_init::notification(notify_type, data.to_vec())
}

#[test]
fn an_end_that_moves_takes_its_tunnel_along_whatever_is_lost_on_the_way() {
    for seed in 0..20 {
        let [a, b] = roaming();
        let mut world = World::new(seed, a, b).established();
        world.assert_agreement();
        world.weather = Weather { loss: 20, duplication: 10, delay: 300 };
        paths(&mut world, A, &[elsewhere()]);
        world.run_until(120, "both ends are where A is", settled);
        world.weather = Weather { delay: 5, ..Weather::default() };
        world.run(120);
        assert_eq!(ike(&world, A).local.ip(), elsewhere());
        assert_eq!(world.ends[A].gateway.moved.last().unwrap().1.local, elsewhere());
        world.assert_agreement();
        // What comes next goes on from there.
        world.command(B, Command::Rekey { connection: "net".to_owned(), child: Some("lan".to_owned()) });
        world.run(60);
        world.command(A, Command::Rekey { connection: "net".to_owned(), child: None });
        world.run(60);
        world.assert_agreement();
        assert_eq!((world.failures(A).len(), world.failures(B).len()), (0, 0), "{}", world.report());
        assert_eq!(ike(&world, B).remote.ip(), elsewhere());
        assert_eq!(ike(&world, B).children[0].endpoints.remote, elsewhere());
    }
}

#[test]
fn without_a_nat_ike_goes_on_from_the_nat_port_and_esp_stays_bare() {
    let world = world(roaming());
    for end in [A, B] {
        let sa = ike(&world, end);
        assert_eq!((sa.local.port(), sa.remote.port()), (4500, 4500));
        assert_eq!(sa.children[0].endpoints.encapsulation, Encapsulation::None);
    }
}

#[test]
pub(super) fn a_nat_on_the_new_way_is_found_and_esp_goes_in_udp_and_back() {
    let mut world = world(roaming());
    world.nat = Some(super::world::NatBox { public: "203.0.113.5".parse().unwrap(), port_shift: 20000 });
    paths(&mut world, A, &[elsewhere()]);
    let public: IpAddr = "203.0.113.5".parse().unwrap();
    world.run_until(60, "the NAT is found", |world| {
        ike(world, A).nat_local && ike(world, B).nat_remote && esp_peer(world, B) == public
    });
    let udp = |local_port, remote_port| Encapsulation::Udp { local_port, remote_port };
    assert_eq!(ike(&world, A).children[0].endpoints.encapsulation, udp(4500, 4500));
    assert_eq!(ike(&world, B).children[0].endpoints.encapsulation, udp(4500, 24500));
    world.run(30);
    assert!(
        world.sent.iter().any(|(from, sent)| *from == A && sent.payload == DatagramPayload::NatKeepalive)
    );

    world.nat = None;
    paths(&mut world, A, &[address(A)]);
    world.run_until(60, "the NAT is gone", |world| {
        [A, B].iter().all(|end| ike(world, *end).children[0].endpoints.encapsulation == Encapsulation::None)
    });
}

#[test]
fn esp_goes_to_a_new_address_only_after_it_has_answered() {
    let mut world = world(roaming());
    paths(&mut world, A, &[elsewhere()]);
    // Whatever B asks is lost.
    world.meddle = Some(Box::new(|from, datagram| {
        let DatagramPayload::Ike(octets) = &datagram.payload else { return Some(datagram) };
        let response = octets[19] & 0x20 != 0;
        (from == A || response).then_some(datagram)
    }));
    world.run_until(60, "B follows", |world| ike(world, B).remote.ip() == elsewhere());
    world.run(3);
    assert!(world.ends[B].gateway.moved.is_empty(), "{}", world.report());
    assert_eq!(esp_peer(&world, B), address(A));
    world.meddle = None;
    world.run_until(60, "A answers", |world| esp_peer(world, B) == elsewhere());
}

#[test]
fn a_cookie_that_comes_back_changed_ends_the_ike_sa() {
    let mut world = world(roaming());
    let now = world.now;
    let engine = &mut world.ends[A].engine;
    let id = *engine.sas.keys().next().unwrap();
    engine.step(now, id, |mut state, cx, base| {
        let State::Established(established) = &mut state else { panic!() };
        base.mobility.update = true;
        assert!(established.begin_mobike(cx, base, now));
        let established::Ours::Mobike(exchange) = &mut established.ours else { panic!() };
        exchange.expect_another_cookie();
        Ok(state)
    });
    world.collect(A);
    world.run(20);
    assert_eq!(world.failures(A), ["PEER_MISBEHAVED"]);
    world.assert_empty(A);
    world.assert_empty(B);
}

#[test]
fn an_address_that_the_connection_does_not_allow_is_refused_and_both_say_so() {
    let [a, mut b] = roaming();
    b.connections[0].remote_addrs = vec![AddressMatch::Address(address(A))];
    let mut world = world([a, b]);
    paths(&mut world, A, &[elsewhere()]);
    world.run(5);
    assert_eq!(world.failures(A), ["MOVE_REFUSED"]);
    assert_eq!(world.failures(B), ["MOVE_REFUSED"]);
    assert_eq!(ike(&world, B).remote.ip(), address(A));
    assert!(world.ends[B].gateway.moved.is_empty());
}

#[test]
fn no_nat_is_found_where_none_may_be() {
    let mut world = world(roaming());
    let lie = [&[192, 0, 2, 1][..], &[192, 0, 2, 99], &4500_u16.to_be_bytes(), &4500_u16.to_be_bytes()];
    let asked = vec![
        notification(notify::UPDATE_SA_ADDRESSES, &[]),
        notification(notify::NO_NATS_ALLOWED, &lie.concat()),
        notification(notify::COOKIE2, &[7; 8]),
    ];
    exchange_of(&mut world, A, asked);
    let mut request = world.wire.pop().unwrap().datagram;
    request.remote.set_ip(elsewhere());
    world.deliver(B, request);
    world.run(5);
    assert_eq!(ike(&world, B).remote.ip(), address(A));
    assert!(world.ends[B].gateway.moved.is_empty());
    assert_eq!(world.failures(B), ["MOVE_REFUSED"]);
}

#[test]
fn only_the_end_that_began_the_ike_sa_moves_it() {
    let [mut a, b] = roaming();
    a.connections[0].remote_addrs.push(AddressMatch::Any);
    let mut world = world([a, b]);
    exchange_of(&mut world, B, vec![notification(notify::UPDATE_SA_ADDRESSES, &[])]);
    let mut request = world.wire.pop().unwrap().datagram;
    request.remote.set_ip(elsewhere());
    world.deliver(A, request);
    world.run(5);
    assert_eq!(ike(&world, A).remote.ip(), address(B));
    assert!(world.ends[A].gateway.moved.is_empty());
}

#[test]
fn a_message_from_elsewhere_moves_nothing_unless_it_says_so() {
    let mut world = world(roaming());
    exchange_of(&mut world, A, Vec::new());
    let mut request = world.wire.pop().unwrap().datagram;
    request.remote.set_ip(elsewhere());
    world.deliver(B, request.clone());
    assert_eq!(world.sent.last().unwrap().1.remote, request.remote, "answered to where it came from");
    assert_eq!(ike(&world, B).remote.ip(), address(A));
    assert!(world.ends[B].gateway.moved.is_empty());
}

#[test]
fn further_addresses_are_told_at_first_and_when_they_change_and_the_peer_goes_to_one_that_is_left() {
    let (second, third): (IpAddr, IpAddr) = ("192.0.2.22".parse().unwrap(), "192.0.2.23".parse().unwrap());
    let (a, mut b) = (mobile(A), mobile(B));
    b.connections[0].local_addrs = vec![AddressMatch::Network("192.0.2.0/24".parse().unwrap())];
    let mut world = World::new(1, a, b);
    paths(&mut world, A, &[address(A)]);
    paths(&mut world, B, &[address(B), second, "203.0.113.1".parse().unwrap()]);
    let mut world = world.established();
    let known =
        |world: &World| world.ends[A].engine.sas.values().next().unwrap().base.mobility.peer_addresses();
    assert_eq!(known(&world), [second], "and not the one that the connection does not allow");
    paths(&mut world, B, &[address(B), second, third]);
    world.run_until(10, "A knows both", |world| known(world) == [second, third]);
    paths(&mut world, B, &[address(B)]);
    world.run_until(10, "A knows none", |world| known(world).is_empty());
    paths(&mut world, B, &[address(B), second]);
    world.run_until(10, "A knows one", |world| known(world) == [second]);

    // B's own goes: it speaks from the other, and A comes there.
    paths(&mut world, B, &[second]);
    world.run_until(30, "A has gone to the other", |world| ike(world, A).remote.ip() == second);
    world.run(10);
    assert_eq!(ike(&world, B).local.ip(), second);
    assert_eq!(world.ends[A].gateway.moved.last().unwrap().1.remote, second);
    assert_eq!(world.ends[B].gateway.moved.last().unwrap().1.local, second);
}

#[test]
fn an_end_that_does_not_move_is_asked_for_nothing() {
    for (a, b) in [(true, false), (false, true)] {
        let [mut config_a, mut config_b] = roaming();
        config_a.connections[0].mobike = a;
        config_b.connections[0].mobike = b;
        let mut world = world([config_a, config_b]);
        let before = world.sent.len();
        paths(&mut world, A, &[elsewhere()]);
        paths(&mut world, B, &[address(B), elsewhere()]);
        world.run(10);
        assert_eq!(world.sent.len(), before);
        assert_eq!(ike(&world, A).local.ip(), address(A));
    }
}

#[test]
fn a_nat_that_maps_anew_is_noticed_by_asking_whether_the_peer_lives() {
    let [mut a, b] = roaming();
    a.connections[0].dpd_delay = Duration::from_secs(10);
    let mut world = World::new(1, a, b);
    world.nat = Some(super::world::NatBox { public: "203.0.113.5".parse().unwrap(), port_shift: 20000 });
    let mut world = world.established();
    world.run(60);
    assert_eq!(ike(&world, B).remote.port(), 24500);
    world.nat.as_mut().unwrap().port_shift = 30000;
    world.run_until(60, "B knows the new mapping", |world| ike(world, B).remote.port() == 34500);
    assert_eq!(
        ike(&world, B).children[0].endpoints.encapsulation,
        Encapsulation::Udp { local_port: 4500, remote_port: 34500 }
    );
}

#[test]
fn a_way_that_is_lost_while_there_is_no_other_is_taken_again_when_it_is_back() {
    let mut world = world(roaming());
    world.ends[A].gateway.unreachable = true;
    paths(&mut world, A, &[]);
    world.run(5);
    assert_eq!(world.failures(A), ["NO_ROUTE"]);
    world.ends[A].gateway.unreachable = false;
    paths(&mut world, A, &[elsewhere()]);
    world.run_until(60, "A is elsewhere", settled);
}

#[test]
fn addresses_of_the_wrong_length_are_none() {
    let payloads = [
        notification(notify::ADDITIONAL_IP4_ADDRESS, &[1, 2, 3]),
        notification(notify::ADDITIONAL_IP6_ADDRESS, &[1; 4]),
        notification(notify::ADDITIONAL_IP4_ADDRESS, &[0; 4]),
        notification(notify::ADDITIONAL_IP4_ADDRESS, &[203, 0, 113, 9]),
    ];
    let expected: IpAddr = "203.0.113.9".parse().unwrap();
    assert_eq!(crate::engine::mobike::told(&payloads), Some(vec![expected]));
    let none = [Payload::Notify(Notify { data: vec![1], ..nothing_more() })];
    assert_eq!(crate::engine::mobike::told(&none), Some(Vec::new()));
    assert_eq!(crate::engine::mobike::told(&[]), None);
}

fn nothing_more() -> Notify {
    let Payload::Notify(found) = notification(notify::NO_ADDITIONAL_ADDRESSES, &[]) else { panic!() };
    found
}
