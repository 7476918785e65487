//! IKE in TCP streams (RFC 9329), as the end that they come to.

use std::net::SocketAddr;
use std::time::Duration;

use portcullis_ipsec::{Encapsulation, TunnelEndpoints};

use super::world::*;
use crate::config::*;
use crate::engine::ike_sa_init::notification;
use crate::engine::*;
use crate::message::{Payload, notify};

fn world(a: EngineConfig, b: EngineConfig) -> World {
    let mut world = World::new(1, a, b);
    world.stream_to_b = true;
    world
}

/// What B has sent in streams, and otherwise.
fn sent(world: &World) -> (usize, usize) {
    let of_b = world.sent.iter().filter(|(from, _)| *from == B);
    let streamed = |datagram: &Datagram| matches!(datagram.payload, DatagramPayload::Stream(_));
    let (streamed, other): (Vec<_>, Vec<_>) = of_b.partition(|(_, datagram)| streamed(datagram));
    (streamed.len(), other.len())
}

/// An end of B's stream: its own, or the peer's.
fn ends(world: &World) -> (SocketAddr, SocketAddr) {
    let status = &world.ends[B].engine.status()[0];
    (status.local, status.remote)
}

/// What A would send next: an INFORMATIONAL request.
fn request(world: &mut World, payloads: Vec<Payload>) -> Datagram {
    let (now, engine) = (world.now, &mut world.ends[A].engine);
    let id = *engine.sas.keys().next().unwrap();
    engine.step(now, id, |mut state, cx, base| {
        let State::Established(established) = &mut state else { panic!() };
        established.channel.request(cx, base, now, ExchangeType::Informational, payloads);
        Ok(state)
    });
    engine.poll_transmit().unwrap()
}

#[test]
fn what_comes_in_a_stream_is_answered_in_it_and_esp_goes_there_too() {
    let mut world = world(config(A), config(B)).established();
    assert_eq!(sent(&world).1, 0, "nothing goes in UDP");
    let (local, remote) = ends(&world);
    let (local_port, remote_port) = (local.port(), remote.port());
    let installed = world.ends[B].gateway.installed.values().next().unwrap().inbound.endpoints;
    assert_eq!(installed.encapsulation, Encapsulation::Tcp { local_port, remote_port });
    assert_eq!(world.ends[B].engine.status()[0].transport, Transport::Tcp);
    assert_eq!(world.ends[B].engine.stream_use(local, remote), StreamUse::Established);
    assert_eq!(world.ends[B].engine.stream_use(local, (remote.ip(), 1).into()), StreamUse::Unused);
    // What succeeds it goes by the same stream.
    world.command(B, Command::Rekey { connection: "net".to_owned(), child: None });
    world.run(60);
    assert_eq!(world.ends[B].engine.status()[0].transport, Transport::Tcp);
    assert_eq!(sent(&world).1, 0);
    world.terminate(A);
    world.run(60);
    assert_eq!(world.ends[B].engine.stream_use(local, remote), StreamUse::Unused);
}

#[test]
fn no_cookie_is_asked_for_in_a_stream() {
    let mut b = config(B);
    b.cookie_threshold = 0;
    let world = world(config(A), b).established();
    assert_eq!(world.messages(A).len(), 2);
}

#[test]
fn no_keepalives_are_sent_in_a_stream_whatever_nat_there_is() {
    let (mut a, mut b) = (config(A), config(B));
    // B makes A believe in a NAT, which it would have to keep open in UDP.
    (a.connections[0].encap, b.connections[0].encap) = (true, true);
    let mut world = world(a, b).established();
    let before = sent(&world);
    world.run(100);
    assert_eq!(sent(&world), before);
}

#[test]
fn messages_are_not_cut_for_a_stream() {
    let (mut a, mut b) = (config(A), config(B));
    (a.fragment_size, b.fragment_size) = (256, 256);
    let world = world(a, b).established();
    assert!(world.messages(A).len() > 2, "A, in UDP, sends fragments");
    assert_eq!(sent(&world), (2, 0));
}

#[test]
fn a_request_is_sent_once_until_the_peer_comes_by_another_stream() {
    let mut b = config(B);
    b.connections[0].dpd_delay = Duration::from_secs(10);
    let mut world = world(config(A), b).established();
    let before = sent(&world).0;
    // The stream is gone, and nobody has told.
    world.ends[A].dead = true;
    world.run(60);
    assert_eq!(sent(&world).0, before + 1, "one DPD request");
    world.ends[A].dead = false;
    let Datagram { local, payload: DatagramPayload::Ike(octets), .. } = request(&mut world, Vec::new())
    else {
        panic!()
    };
    let (ours, before_it) = (ends(&world).0, ends(&world).1);
    let remote = SocketAddr::new(local.ip(), 40_000);
    let arrived = Datagram { local: ours, remote, payload: DatagramPayload::Stream(octets) };
    world.deliver(B, arrived.clone());
    assert_eq!(ends(&world), (ours, remote));
    assert_eq!(sent(&world).0, before + 3, "the request again, and the answer");
    let moved = world.ends[B].gateway.moved.last().map(|(_, endpoints)| endpoints.encapsulation);
    world.run(1);
    let moved = moved.or_else(|| world.ends[B].gateway.moved.last().map(|(_, to)| to.encapsulation));
    assert_eq!(moved, Some(Encapsulation::Tcp { local_port: ours.port(), remote_port: 40_000 }));
    // Whoever repeats it elsewhere gets the answer, and nothing more.
    world.deliver(B, Datagram { remote: before_it, ..arrived });
    assert_eq!(ends(&world), (ours, remote));
}

#[test]
fn a_peer_without_a_stream_is_not_led_into_one_by_what_is_merely_authentic() {
    let mut world = World::plain().established();
    let Datagram { local, payload: DatagramPayload::Ike(octets), .. } = request(&mut world, Vec::new())
    else {
        panic!()
    };
    let (ours, before) = ends(&world);
    world.deliver(B, Datagram { local: ours, remote: local, payload: DatagramPayload::Stream(octets) });
    assert_eq!((ends(&world), world.ends[B].engine.status()[0].transport), ((ours, before), Transport::Udp));
}

#[test]
fn esp_of_another_stream_leads_there_and_esp_in_udp_does_not() {
    let mut world = world(config(A), config(B)).established();
    let pair = *world.ends[B].gateway.installed.keys().next().unwrap();
    let (ours, before) = ends(&world);
    let seen = |encapsulation| TunnelEndpoints { local: address(B), remote: address(A), encapsulation };
    let (local_port, remote_port) = (ours.port(), 40_001);
    world.command(B, Command::PeerMoved { pair, seen: seen(Encapsulation::Udp { local_port, remote_port }) });
    assert_eq!(ends(&world), (ours, before));
    let stream = seen(Encapsulation::Tcp { local_port, remote_port });
    world.command(B, Command::PeerMoved { pair, seen: stream });
    assert_eq!(ends(&world).1.port(), 40_001);
    world.run(1);
    assert_eq!(world.ends[B].gateway.moved, [(pair, stream)]);
}

/// RFC 9329 §7.1: TCP itself has shown that somebody is at the new address, and NATs are no matter to it.
#[test]
fn a_peer_of_mobike_that_comes_by_another_stream_is_asked_for_no_cookie_and_for_no_nat() {
    let (mut a, mut b) = (config(A), config(B));
    (a.connections[0].mobike, b.connections[0].mobike) = (true, true);
    b.connections[0].remote_addrs = vec![AddressMatch::Any];
    let mut world = world(a, b).established();
    let lie = [&[192, 0, 2, 1][..], &[192, 0, 2, 99], &[0x11, 0x94], &[0x11, 0x94]].concat();
    let update = vec![
        notification(notify::UPDATE_SA_ADDRESSES, Vec::new()),
        notification(notify::NO_NATS_ALLOWED, lie),
    ];
    let Datagram { payload: DatagramPayload::Ike(octets), .. } = request(&mut world, update) else {
        panic!()
    };
    let (ours, remote) = (ends(&world).0, SocketAddr::from(([198, 51, 100, 7], 40_002)));
    let before = sent(&world).0;
    world.deliver(B, Datagram { local: ours, remote, payload: DatagramPayload::Stream(octets) });
    world.run(5);
    assert_eq!(ends(&world), (ours, remote));
    assert_eq!(sent(&world).0, before + 1, "the answer, and no request with COOKIE2");
    assert_eq!(world.failures(B), [""; 0]);
    let moved = world.ends[B].gateway.moved.last().unwrap().1;
    assert_eq!(moved.remote, remote.ip(), "ESP goes there at once");
}

#[test]
fn a_peer_of_mobike_may_go_on_by_udp() {
    let (mut a, mut b) = (config(A), config(B));
    (a.connections[0].mobike, b.connections[0].mobike) = (true, true);
    let mut world = world(a, b).established();
    let update = vec![notification(notify::UPDATE_SA_ADDRESSES, Vec::new())];
    let Datagram { local, payload, .. } = request(&mut world, update);
    let ours = ends(&world).0;
    world.deliver(B, Datagram { local: ours, remote: local, payload });
    world.run(1);
    assert_eq!(world.ends[B].engine.status()[0].transport, Transport::Udp);
    let moved = world.ends[B].gateway.moved.last().unwrap().1.encapsulation;
    assert!(!matches!(moved, Encapsulation::Tcp { .. }), "{moved:?}");
}
