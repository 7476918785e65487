//! Gateways that send their clients elsewhere (RFC 5685).

use std::net::IpAddr;

use super::world::*;
use crate::config::*;
use crate::engine::*;
use crate::message::{Message, Payload, notify};

/// B's second address: another gateway, as far as A knows.
const OTHER: &str = "192.0.2.3";

fn other() -> IpAddr {
    OTHER.parse().unwrap()
}

/// B answers at both addresses, and sends away whoever comes to the first.
fn gateways(redirect_to: Option<IpAddr>) -> [EngineConfig; 2] {
    let (a, mut b) = (config(A), config(B));
    b.connections[0].local_addrs = vec![AddressMatch::Any];
    b.connections[0].redirect_to = redirect_to;
    [a, b]
}

fn world([a, b]: [EngineConfig; 2]) -> World {
    World::new(1, a, b)
}

/// The only IKE SA of A's goes there, and has a child.
fn at(world: &World, addr: IpAddr) -> bool {
    let sas = world.ends[A].engine.status();
    matches!(&sas[..], [sa] if sa.remote.ip() == addr && sa.children.len() == 1)
}

fn redirect(world: &mut World, to: IpAddr) -> CommandId {
    world.command(B, Command::Redirect { connection: "net".to_owned(), to })
}

/// Before IKE_SA_INIT is answered, somebody answers it so.
fn answered_with(world: &mut World, data: impl Fn(&[u8]) -> Vec<u8>) {
    world.initiate(A);
    while world.wire.is_empty() {
        assert!(world.work_one());
    }
    let request = world.wire[0].datagram.clone();
    let DatagramPayload::Ike(octets) = &request.payload else { panic!() };
    let found = Message::parse(octets).unwrap().message;
    let nonce = found.payloads.iter().find_map(|payload| match payload {
        Payload::Nonce(nonce) => Some(nonce.clone()),
        _ => None,
    });
    let answer = init_answer(&found.header, notify::REDIRECT, data(&nonce.unwrap()));
    let (local, remote) = (request.remote, request.local);
    world.deliver(A, Datagram { local, remote, payload: DatagramPayload::Ike(answer) });
}

#[test]
fn a_client_that_is_sent_away_in_place_of_a_child_gets_its_child_elsewhere() {
    let mut world = world(gateways(Some(other())));
    world.initiate(A);
    world.run_until(60, "A is served by the other gateway", |world| at(world, other()));
    world.run(60);
    world.assert_agreement();
    assert_eq!(world.failures(A), [""; 0]);
}

#[test]
fn a_client_that_is_up_keeps_its_tunnel_until_it_has_another_elsewhere() {
    let mut world = world(gateways(None)).established();
    world.begin_traffic(std::time::Duration::from_millis(10));
    let command = redirect(&mut world, other());
    world.run_until(60, "A is served by the other gateway", |world| at(world, other()));
    assert_eq!(world.ends[B].done[&command], Ok(()));
    world.run(60);
    world.end_traffic();
    world.run(60);
    assert_eq!(world.lost, [""; 0]);
    world.assert_agreement();
    assert!(at(&world, other()));
}

#[test]
fn a_client_that_knows_nothing_of_it_is_served_and_cannot_be_sent_away() {
    let [mut a, b] = gateways(Some(other()));
    a.connections[0].follow_redirects = false;
    let mut world = world([a, b]).established();
    assert!(at(&world, address(B)));
    let command = redirect(&mut world, other());
    let failed = world.ends[B].done[&command].as_ref().unwrap_err();
    assert_eq!(failed.code(), "NOTHING_TO_REDIRECT");
    world.run(60);
    assert!(at(&world, address(B)));
}

#[test]
fn a_client_that_does_not_go_is_put_out() {
    let mut world = world(gateways(None)).established();
    // Nobody is there.
    world.meddle = Some(Box::new(|_, sent| (sent.remote.ip() != other()).then_some(sent)));
    redirect(&mut world, other());
    world.run(20);
    assert!(world.ends[B].engine.status().iter().any(|sa| !sa.children.is_empty()), "it has time");
    world.run(300);
    world.assert_empty(B);
}

#[test]
fn who_has_seen_our_nonce_can_send_us_on_before_anything_is_authenticated() {
    let mut world = world(gateways(None));
    answered_with(&mut world, |nonce| [&[1, 4, 192, 0, 2, 3][..], nonce].concat());
    world.run_until(60, "A is served by the other gateway", |world| at(world, other()));
    world.run(60);
    world.assert_agreement();
}

#[test]
fn whoever_has_not_seen_our_nonce_cannot() {
    for wrong in [&[][..], &[7; 32]] {
        let mut world = world(gateways(None));
        answered_with(&mut world, |_| [&[1, 4, 192, 0, 2, 3][..], wrong].concat());
        world.run_until(60, "A is served by the first gateway", |world| at(world, address(B)));
    }
}

#[test]
fn a_name_and_nowhere_are_not_followed_and_an_honest_answer_still_wins() {
    for identity in [&b"\x03\x04gw.x"[..], &[1, 4, 0, 0, 0, 0], &[2, 4, 1, 2, 3, 4]] {
        let mut world = world(gateways(None));
        answered_with(&mut world, |nonce| [identity, nonce].concat());
        world.run_until(60, "A is served by the first gateway", |world| at(world, address(B)));
    }
}

#[test]
fn gateways_that_send_us_in_circles_are_given_up() {
    let mut world = world(gateways(None));
    for hop in 0..6_u8 {
        if hop == 0 {
            answered_with(&mut world, |nonce| [&[1, 4, 198, 51, 100, 10][..], nonce].concat());
            continue;
        }
        while world.work_one() {}
        let request = world.wire.last().unwrap().datagram.clone();
        let DatagramPayload::Ike(octets) = &request.payload else { panic!() };
        let found = Message::parse(octets).unwrap().message;
        assert!(found.payloads.iter().any(|payload| matches!(
            payload,
            Payload::Notify(found) if found.notify_type == notify::REDIRECTED_FROM
        )));
        let nonce = found.payloads.iter().find_map(|payload| match payload {
            Payload::Nonce(nonce) => Some(nonce.clone()),
            _ => None,
        });
        let data = [&[1, 4, 198, 51, 100, 10 + hop][..], &nonce.unwrap()].concat();
        let answer = init_answer(&found.header, notify::REDIRECT, data);
        let (local, remote) = (request.remote, request.local);
        world.deliver(A, Datagram { local, remote, payload: DatagramPayload::Ike(answer) });
    }
    world.wire.clear();
    world.meddle = Some(Box::new(|_, _| None));
    world.run(300);
    assert_eq!(world.failures(A), ["REDIRECT_REFUSED"]);
}

/// B sends its clients away at their first message.
fn at_once(when: RedirectWhen) -> [EngineConfig; 2] {
    let [a, mut b] = gateways(Some(other()));
    b.connections[0].redirect_when = when;
    [a, b]
}

#[test]
fn a_client_is_sent_away_at_its_first_message_and_nothing_is_kept_of_it() {
    let mut world = world(at_once(RedirectWhen::AtOnce));
    world.initiate(A);
    world.run_until(60, "A is served by the other gateway", |world| at(world, other()));
    world.run(60);
    world.assert_agreement();
    assert_eq!(world.failures(A), [""; 0]);
    // Its first answer was REDIRECT with A's nonce behind the address (RFC 5685 §3).
    let first = Message::parse(&world.messages(B)[0]).unwrap().message;
    let [Payload::Notify(redirect)] = &first.payloads[..] else { panic!("{first:?}") };
    assert_eq!((redirect.notify_type, redirect.data.len()), (notify::REDIRECT, 2 + 4 + 32));
    assert_eq!(first.header.spi_r, [0; 8]);
}

#[test]
fn only_while_there_is_too_much_to_do_if_that_is_what_is_wanted() {
    let mut world = world(at_once(RedirectWhen::Overloaded)).established();
    assert!(at(&world, address(B)));
    let [a, mut b] = at_once(RedirectWhen::Overloaded);
    b.cookie_threshold = 0;
    world = self::world([a, b]);
    world.initiate(A);
    world.run_until(60, "A is served by the other gateway", |world| at(world, other()));
}

#[test]
fn nobody_is_sent_back_to_where_he_was_sent_from_nor_who_would_not_go() {
    let [a, mut b] = at_once(RedirectWhen::AtOnce);
    // Either gateway sends to the other.
    let mut second = b.connections[0].clone();
    second.name = "second".to_owned();
    second.local_addrs = vec![AddressMatch::Address(other())];
    second.redirect_to = Some(address(B));
    b.connections.push(second);
    let mut world = world([a, b]);
    world.initiate(A);
    world.run_until(60, "A is served by the other gateway", |world| at(world, other()));
    let [mut a, b] = at_once(RedirectWhen::AtOnce);
    a.connections[0].follow_redirects = false;
    assert!(at(&self::world([a, b]).established(), address(B)));
}
