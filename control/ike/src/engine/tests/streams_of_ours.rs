//! IKE in TCP streams that we open (RFC 9329): A opens them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use portcullis_ipsec::Encapsulation;
use rand_core::Rng as _;

use super::world::*;
use crate::config::*;
use crate::engine::*;

fn a(tcp: Tcp) -> EngineConfig {
    let mut a = config(A);
    (a.connections[0].tcp, a.connections[0].tcp_port) = (tcp, 4433);
    a
}

/// Nothing passes by UDP.
fn without_udp(a: EngineConfig, b: EngineConfig) -> World {
    let mut world = World::new(1, a, b);
    block_udp(&mut world);
    world
}

fn block_udp(world: &mut World) {
    let is_udp = |datagram: &Datagram| !matches!(datagram.payload, DatagramPayload::Stream(_));
    world.meddle = Some(Box::new(move |_, datagram| (!is_udp(&datagram)).then_some(datagram)));
}

/// The initiator's SPI and the exchange type of an IKE message.
type Sent = ([u8; 8], ExchangeType);

/// What an end has sent by UDP, and by streams.
fn sent(world: &World, end: usize) -> (Vec<Sent>, Vec<Sent>) {
    let (mut udp, mut tcp) = (Vec::new(), Vec::new());
    for (_, datagram) in world.sent.iter().filter(|(from, _)| *from == end) {
        let (into, octets) = match &datagram.payload {
            DatagramPayload::Ike(octets) => (&mut udp, octets),
            DatagramPayload::Stream(octets) => (&mut tcp, octets),
            DatagramPayload::NatKeepalive => continue,
        };
        let (header, ..) = Header::parse(octets).unwrap();
        into.push((header.spi_i, header.exchange));
    }
    (udp, tcp)
}

/// Where A's IKE SA goes from, and its children.
fn way(world: &World) -> (Transport, SocketAddr) {
    let status = world.ends[A].engine.status();
    let [ike] = status.as_slice() else { panic!("{status:?}\n{}", world.report()) };
    for child in &ike.children {
        let in_tcp = matches!(child.endpoints.encapsulation, Encapsulation::Tcp { local_port, .. } if local_port == ike.local.port());
        assert_eq!(in_tcp, ike.transport == Transport::Tcp, "{child:?}");
    }
    (ike.transport, ike.local)
}

/// Both ends are at the same stream, IKE and ESP.
fn assert_joined(world: &World) {
    let (ours, theirs) = (&world.ends[A].engine.status()[0], &world.ends[B].engine.status()[0]);
    assert_eq!((ours.local, ours.remote), (theirs.remote, theirs.local), "{}", world.report());
    assert_eq!(theirs.transport, ours.transport);
    let of = |child: &ChildSaStatus| child.endpoints.encapsulation;
    let (
        Encapsulation::Tcp { local_port, remote_port },
        Encapsulation::Tcp { local_port: theirs, remote_port: ours },
    ) = (of(&ours.children[0]), of(&theirs.children[0]))
    else {
        panic!("{}", world.report())
    };
    assert_eq!((local_port, remote_port), (ours, theirs));
    world.assert_agreement();
}

#[test]
fn an_ike_sa_begins_by_tcp_where_it_is_to_and_nothing_goes_by_udp() {
    let mut a = a(Tcp::Only);
    (a.connections[0].encap, a.fragment_size) = (true, 256);
    let mut world = World::new(1, a, config(B)).established();
    assert_joined(&world);
    assert_eq!(world.ends[A].engine.status()[0].remote, SocketAddr::new(address(B), 4433));
    // Neither NAT traversal's other port nor keepalives, nor fragments, nor repetitions.
    world.run(600);
    assert_eq!((sent(&world, A).0.len(), sent(&world, A).1.len()), (0, 2));
    assert_eq!(world.sent.len(), 4);
    for child in [None, Some("lan".to_owned())] {
        world.command(A, Command::Rekey { connection: "net".to_owned(), child });
        world.run(60);
        assert_joined(&world);
    }
    assert_eq!(world.ends[A].gateway.dialled, 1);
    let (local, remote) = world.ends[A].gateway.streams[0];
    assert_eq!(world.ends[A].engine.stream_use(local, remote), StreamUse::Established);
    world.terminate(A);
    world.run(60);
    world.assert_empty(A);
    assert_eq!(world.ends[A].engine.stream_use(local, remote), StreamUse::Unused);
}

#[test]
pub(super) fn udp_that_is_not_answered_gives_way_to_tcp_with_another_exchange() {
    let mut world = without_udp(a(Tcp::Fallback), config(B)).established();
    assert_joined(&world);
    let (udp, tcp) = sent(&world, A);
    assert_eq!(udp.len(), 3);
    assert!(udp.iter().all(|(spi, _)| *spi == udp[0].0 && *spi != tcp[0].0), "RFC 9329 §5.1");
    assert_eq!(
        tcp.iter().map(|(_, exchange)| *exchange).collect::<Vec<_>>(),
        [ExchangeType::IkeSaInit, ExchangeType::IkeAuth]
    );
    world.run(600);
    assert!(world.failures(A).is_empty());
}

#[test]
fn where_udp_is_answered_no_stream_is_opened() {
    let mut world = World::new(1, a(Tcp::Fallback), config(B)).established();
    world.run(60);
    assert_eq!((way(&world).0, world.ends[A].gateway.dialled), (Transport::Udp, 0));
}

#[test]
pub(super) fn a_tcp_connection_that_cannot_be_had_is_a_verdict_that_says_what_to_change() {
    for (failure, says, fix) in [
        (StreamFailure::Refused, "refuses it", "ss -ltnp"),
        (StreamFailure::NoAnswer, "does not answer", "let TCP pass to port 4433 of 192.0.2.2"),
        (
            StreamFailure::Impossible("Network is unreachable".to_owned()),
            "Network is unreachable",
            "ip route get",
        ),
    ] {
        for (tcp, before) in [(Tcp::Only, ""), (Tcp::Fallback, "sent 3 times by UDP")] {
            let mut world = without_udp(a(tcp), config(B));
            world.ends[A].gateway.no_streams = Some(failure.clone());
            let command = world.initiate(A);
            world.run(60);
            let verdict = world.ends[A].done[&command].clone().unwrap_err();
            assert_eq!(verdict.code(), "TCP_FAILED");
            assert!(
                verdict.sentence.contains(says) && verdict.sentence.contains(before),
                "{}",
                verdict.sentence
            );
            assert!(format!("{:?}", verdict.fixes).contains(fix), "{:?}", verdict.fixes);
            world.assert_empty(A);
        }
    }
}

#[test]
fn a_stream_that_ends_or_is_silent_before_the_ike_sa_is_up_is_a_verdict() {
    let mut world = World::new(1, a(Tcp::Only), config(B));
    world.ends[B].dead = true;
    let command = world.initiate(A);
    world.run(1);
    world.break_streams();
    assert!(
        world.ends[A].done[&command]
            .clone()
            .unwrap_err()
            .sentence
            .contains("ended it before the IKE SA was up")
    );
    let command = world.initiate(A);
    world.run(300);
    let verdict = world.ends[A].done[&command].clone().unwrap_err();
    assert_eq!(verdict.code(), "PEER_SILENT");
    assert!(verdict.sentence.contains("by TCP and does not answer"), "{}", verdict.sentence);
    assert_eq!(sent(&world, A).1.len(), 2, "each of them sent once");
    world.assert_empty(A);
}

#[test]
fn an_error_in_a_stream_is_believed_at_once() {
    let mut b = config(B);
    b.connections[0].proposals = vec!["aes128gcm16-prfsha256-modp2048".parse().unwrap()];
    let mut world = World::new(1, a(Tcp::Only), b);
    let command = world.initiate(A);
    world.run(1);
    assert_eq!(world.ends[A].done[&command].clone().unwrap_err().code(), "PROPOSAL_REFUSED");
}

/// The peer is told by whatever is said first, with MOBIKE and without.
#[test]
fn a_stream_that_breaks_is_opened_again_and_everything_goes_on_there() {
    for mobike in [true, false] {
        let (mut a, mut b) = (a(Tcp::Only), config(B));
        (a.connections[0].mobike, b.connections[0].mobike) = (mobike, mobike);
        let mut world = World::new(1, a, b).established();
        let before = way(&world).1;
        for _ in 0..20 {
            world.break_streams();
            world.run(5);
            assert_joined(&world);
        }
        assert_ne!(way(&world).1, before);
        assert_eq!(world.ends[A].gateway.dialled, 21);
        assert!(world.failures(A).is_empty() && world.failures(B).is_empty());
    }
}

#[test]
fn a_request_under_way_is_repeated_in_the_next_stream() {
    let mut world = World::new(1, a(Tcp::Only), config(B)).established();
    world.command(A, Command::Rekey { connection: "net".to_owned(), child: Some("lan".to_owned()) });
    // It is on the wire.
    world.run_until(1, "asked", |world| sent(world, A).1.len() == 3);
    world.break_streams();
    world.run(10);
    assert_joined(&world);
    let rekeyed =
        |end: usize| world.ends[end].events.iter().any(|event| matches!(event, Event::ChildRekeyed { .. }));
    assert!(rekeyed(A) && rekeyed(B), "{}", world.report());
}

#[test]
pub(super) fn a_stream_is_tried_again_as_often_as_a_request_and_then_its_end_is_a_verdict() {
    let mut world = World::new(1, a(Tcp::Only), config(B)).established();
    world.ends[A].gateway.no_streams = Some(StreamFailure::Refused);
    world.break_streams();
    world.run(10);
    assert_eq!(world.ends[A].gateway.dialled, 3, "at once, and after 4 seconds");
    world.ends[A].gateway.no_streams = None;
    world.run(10);
    assert_joined(&world);
    world.ends[A].gateway.no_streams = Some(StreamFailure::Refused);
    world.break_streams();
    world.run(200);
    assert_eq!(world.failures(A), ["TCP_FAILED"]);
    assert_eq!(world.ends[A].gateway.dialled, 4 + 6);
    world.assert_empty(A);
}

#[test]
pub(super) fn a_delete_goes_by_another_stream_as_well() {
    for comes_back in [true, false] {
        let mut world = World::new(1, a(Tcp::Only), config(B)).established();
        world.break_streams();
        if !comes_back {
            world.ends[A].gateway.no_streams = Some(StreamFailure::NoAnswer);
            world.break_streams();
        }
        let ended = world.terminate(A);
        world.run(if comes_back { 1 } else { 200 });
        world.assert_empty(A);
        assert_eq!(world.ends[A].done[&ended], Ok(()));
        assert_eq!(world.ends[B].engine.status().is_empty(), comes_back);
    }
}

#[test]
fn a_peer_that_takes_streams_and_ends_them_is_given_up() {
    let mut world = World::new(1, a(Tcp::Only), config(B)).established();
    world.ends[B].dead = true;
    for _ in 0..200 {
        world.break_streams();
        world.run(1);
    }
    assert_eq!(world.failures(A), ["TCP_FAILED"]);
    assert_eq!(world.ends[A].gateway.dialled, 1 + 6);
    world.assert_empty(A);
}

#[test]
fn a_stream_that_falls_silent_without_an_end_is_replaced() {
    let mut a = a(Tcp::Only);
    a.connections[0].dpd_delay = Duration::from_secs(30);
    let mut world = World::new(1, a, config(B)).established();
    let first = way(&world).1;
    // Something on the way has forgotten it.
    world.meddle = Some(Box::new(move |_, datagram| {
        (datagram.local != first && datagram.remote != first).then_some(datagram)
    }));
    world.run(120);
    assert_joined(&world);
    assert_ne!(way(&world).1, first);
    assert_eq!(world.ends[A].gateway.dialled, 2);
    // A peer that is gone is given up all the same.
    world.ends[B].dead = true;
    world.run(600);
    assert_eq!((world.failures(A), world.ends[A].gateway.dialled), (vec!["PEER_SILENT"], 3));
}

fn mobile(tcp: Tcp) -> (EngineConfig, EngineConfig) {
    let (mut a, mut b) = (a(tcp), config(B));
    for config in [&mut a, &mut b] {
        config.connections[0].mobike = true;
    }
    a.connections[0].local_addrs.clear();
    b.connections[0].remote_addrs.clear();
    (a, b)
}

fn elsewhere() -> IpAddr {
    "192.0.2.77".parse().unwrap()
}

fn move_a(world: &mut World) {
    world.ends[A].gateway.source = Some(elsewhere());
    world.command(A, Command::PathsChanged { addresses: vec![elsewhere()] });
}

#[test]
fn an_end_that_moves_takes_another_stream() {
    let (a, b) = mobile(Tcp::Only);
    let mut world = World::new(1, a, b).established();
    move_a(&mut world);
    world.run(10);
    assert_joined(&world);
    assert_eq!(way(&world).1.ip(), elsewhere());
    assert_eq!(sent(&world, A).0, []);
    let moved =
        |event: &Event| matches!(event, Event::IkeMoved { to: (to, _), .. } if to.ip() == elsewhere());
    assert!(world.ends[A].events.iter().any(moved));
}

/// RFC 9329 §7.1: UDP first, and TCP where it does not pass.
#[test]
fn an_end_that_moves_goes_by_udp_again_where_that_passes_and_by_tcp_where_not() {
    let (a, b) = mobile(Tcp::Fallback);
    let mut world = without_udp(a, b).established();
    assert_joined(&world);
    world.meddle = None;
    move_a(&mut world);
    world.run(10);
    assert_eq!(way(&world).0, Transport::Udp);
    assert_eq!(world.ends[B].engine.status()[0].remote, SocketAddr::new(elsewhere(), 4500));
    assert_eq!(world.ends[A].gateway.dialled, 1);
    // Back, where UDP does not pass.
    block_udp(&mut world);
    world.ends[A].gateway.source = Some(address(A));
    world.command(A, Command::PathsChanged { addresses: vec![address(A)] });
    world.run(60);
    assert_joined(&world);
    assert_eq!(world.ends[A].gateway.dialled, 2);
    assert!(world.failures(A).is_empty(), "{}", world.report());
}

/// A redirect leads to another gateway, and the way there is begun anew (RFC 9329 §7.2).
#[test]
pub(super) fn a_gateway_in_a_stream_sends_us_elsewhere() {
    let mut b = config(B);
    let other: IpAddr = "192.0.2.9".parse().unwrap();
    (b.connections[0].redirect_to, b.connections[0].redirect_when) = (Some(other), RedirectWhen::AtOnce);
    for tcp in [Tcp::Only, Tcp::Fallback] {
        let mut world = without_udp(a(tcp), b.clone());
        world.initiate(A);
        world.run(30);
        let mut there =
            world.sent.iter().filter(|(from, datagram)| *from == A && datagram.remote.ip() == other);
        let (_, first) = there.next().unwrap();
        let by_tcp = matches!(first.payload, DatagramPayload::Stream(_));
        assert_eq!((by_tcp, first.remote.port()), if tcp == Tcp::Only { (true, 4433) } else { (false, 500) });
    }
}

/// A ticket that UDP may have lost is shown by TCP.
#[test]
pub(super) fn an_ike_sa_is_resumed_by_tcp() {
    let (mut a, mut b) = (a(Tcp::Fallback), config(B));
    for config in [&mut a, &mut b] {
        config.connections[0].session_resumption = true;
    }
    a.connections[0].dpd_delay = Duration::from_secs(10);
    a.connections[0].children[0].start_action = StartAction::Start;
    let mut world = World::new(1, a, b).established();
    block_udp(&mut world);
    world.run_until(400, "the peer is given up", |world| world.failures(A) == ["PEER_SILENT"]);
    world.run_until(100, "it is up again", World::up);
    let resumed = ExchangeType::IkeSessionResume;
    let (udp, tcp) = sent(&world, A);
    assert_eq!(udp.iter().filter(|(_, exchange)| *exchange == resumed).count(), 3);
    assert_eq!(tcp[0].1, resumed);
    world.run(10);
    assert_eq!(way(&world).0, Transport::Tcp);
}

/// Streams break in the middle of everything.
#[test]
fn whatever_streams_do_both_ends_agree() {
    for seed in 0..40 {
        let (mut a, b) = mobile(if seed % 2 == 0 { Tcp::Only } else { Tcp::Fallback });
        a.connections[0].mobike = seed % 3 != 0;
        a.connections[0].dpd_delay = Duration::from_secs(20);
        let mut world = World::new(seed, a, b);
        world.job_delay = 300;
        block_udp(&mut world);
        world = world.established();
        for turn in 0..12 {
            let child = (turn % 3 == 0).then(|| "lan".to_owned());
            world.command(turn % 2, Command::Rekey { connection: "net".to_owned(), child });
            let until = world.now + Duration::from_millis(u64::from(world.rng.next_u32() % 900));
            while world.tick(until) {}
            world.break_streams();
            world.run(1);
        }
        world.run(120);
        world.assert_agreement();
        assert!(world.up(), "seed {seed}\n{}", world.report());
        assert!(world.failures(A).is_empty(), "seed {seed}: {:?}\n{}", world.failures(A), world.report());
    }
}
