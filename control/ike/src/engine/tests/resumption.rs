//! IKE SAs that are resumed with a ticket (RFC 5723).

use std::time::Duration;

use super::node::Node;
use super::world::*;
use crate::config::*;
use crate::engine::*;
use crate::message::{Payload, notify};

const MINUTE: Duration = Duration::from_secs(60);

/// A is the client, keeps its tunnel up and asks after ten seconds whether B lives.
pub(super) fn with_tickets(end: usize) -> EngineConfig {
    let mut config = config(end);
    config.retransmission.tries = 2;
    let connection = &mut config.connections[0];
    connection.session_resumption = true;
    if end == A {
        connection.dpd_delay = Duration::from_secs(10);
        connection.children[0].start_action = StartAction::Start;
    }
    config
}

fn world_of([a, b]: [EngineConfig; 2]) -> World {
    World::new(1, a, b).established()
}

fn world() -> World {
    world_of([A, B].map(with_tickets))
}

/// A believes B to be gone, and comes back.
pub(super) fn loses_and_returns<N: Node>(world: &mut WorldOf<N>) {
    world.ends[B].dead = true;
    world.run_until(200, "A has given up", |world| world.ends[A].gateway.installed.is_empty());
    world.ends[B].dead = false;
    world.run_until(120, "up again", |world| world.up() && world.ends[A].engine.status().len() == 1);
    world.run(1);
}

/// A has come back with its ticket, while B still hears nothing.
fn shows_its_ticket() -> World {
    let mut world = world();
    world.ends[B].dead = true;
    world.run_until(200, "A shows its ticket", |world| {
        world.messages(A).iter().any(|octets| octets[18] == 38)
    });
    world
}

/// How often A has begun each exchange that is answered in clear, and the types of the notifications of B's answers to
/// IKE_SESSION_RESUME.
fn begun(world: &World) -> (usize, usize, Vec<u16>) {
    let heads = |end| world.messages(end).into_iter().map(|octets| Message::parse(&octets).unwrap().message);
    let of = |exchange| {
        let mut spis: Vec<_> = heads(A)
            .filter(|found| found.header.exchange == exchange)
            .map(|found| found.header.spi_i)
            .collect();
        spis.sort_unstable();
        spis.dedup();
        spis.len()
    };
    let answers = heads(B).filter(|found| found.header.exchange == ExchangeType::IkeSessionResume);
    let notes = answers.flat_map(|found| found.payloads).filter_map(|payload| match payload {
        Payload::Notify(found) => Some(found.notify_type),
        _ => None,
    });
    (of(ExchangeType::IkeSaInit), of(ExchangeType::IkeSessionResume), notes.collect())
}

fn first_request(world: &World, exchange: ExchangeType) -> Datagram {
    let is = |datagram: &&(usize, Datagram)| match &datagram.1.payload {
        DatagramPayload::Ike(octets) => {
            datagram.0 == A && Message::parse(octets).unwrap().message.header.exchange == exchange
        }
        DatagramPayload::Stream(_) | DatagramPayload::NatKeepalive => false,
    };
    let sent = world.sent.iter().find(is).expect("such a request").1.clone();
    Datagram { local: sent.remote, remote: sent.local, payload: sent.payload }
}

#[test]
fn a_client_that_lost_its_gateway_goes_on_without_a_key_exchange() {
    let mut world = world();
    let old = world.ends[B].engine.status()[0].initiator_spi;
    for count in 1..4 {
        loses_and_returns(&mut world);
        assert_eq!((begun(&world).0, begun(&world).1), (1, count), "{}", world.report());
        // The gateway has let the old one go, and the new one has a ticket of its own.
        assert_eq!(world.ends[B].engine.status().len(), 1);
        assert_ne!(world.ends[B].engine.status()[0].initiator_spi, old);
        world.assert_agreement();
    }
    let [a, b] = [A, B].map(|end| world.ends[end].engine.status()[0].clone());
    assert_eq!((a.proposal, a.remote_id, b.remote_id), (b.proposal, b.local_id, a.local_id));
    // It is like any other.
    for end in [A, B] {
        for child in [None, Some("lan".to_owned())] {
            world.command(end, Command::Rekey { connection: "net".to_owned(), child });
            world.run(5);
        }
    }
    world.assert_agreement();
}

#[test]
pub(super) fn a_client_whose_address_the_kernel_chooses_resumes_as_well() {
    let mut configs = [A, B].map(with_tickets);
    configs[A].connections[0].local_addrs.clear();
    let mut world = world_of(configs);
    loses_and_returns(&mut world);
    assert_eq!((begun(&world).0, begun(&world).1), (1, 1));
}

/// While its ticket is not answered, a client gets other proposals: it makes them, and shows the ticket no more.
#[test]
pub(super) fn what_is_offered_anew_is_offered_in_full() {
    let mut world = shows_its_ticket();
    let mut other = with_tickets(A);
    other.connections[0].proposals.push("aes256gcm16-prfsha384-ecp384".parse().unwrap());
    world.reconfigure(A, other);
    world.ends[B].dead = false;
    world.run_until(60, "up again", World::up);
    assert_eq!((begun(&world).0, begun(&world).1), (2, 1));
}

#[test]
fn nobody_has_a_ticket_where_an_end_is_not_for_it() {
    for (a, b) in [(true, false), (false, true)] {
        let mut configs = [A, B].map(with_tickets);
        configs[A].connections[0].session_resumption = a;
        configs[B].connections[0].session_resumption = b;
        let mut world = world_of(configs);
        loses_and_returns(&mut world);
        assert_eq!((begun(&world).0, begun(&world).1), (2, 0));
    }
}

#[test]
fn what_was_deleted_is_not_resumed() {
    for end in [A, B] {
        let mut world = world();
        world.terminate(end);
        world.run(30);
        world.initiate(A);
        world.run(30);
        assert!(world.up());
        assert_eq!((begun(&world).0, begun(&world).1), (2, 0));
    }
}

#[test]
pub(super) fn a_gateway_that_was_restarted_takes_no_old_ticket_and_the_client_begins_in_full() {
    let mut world = world();
    world.forget(B, with_tickets(B));
    world.command(A, Command::Rekey { connection: "net".to_owned(), child: None });
    world.run(20);
    assert!(world.up());
    assert_eq!(begun(&world), (2, 1, vec![notify::TICKET_NACK]));
    world.assert_agreement();
}

#[test]
pub(super) fn a_gateway_that_does_not_know_the_exchange_is_met_in_full() {
    let mut world = world();
    world.meddle = Some(Box::new(|from, datagram| {
        let DatagramPayload::Ike(octets) = &datagram.payload else { return Some(datagram) };
        (from == A || octets[18] != 38).then_some(datagram)
    }));
    loses_and_returns(&mut world);
    assert_eq!((begun(&world).0, begun(&world).1), (2, 1));
}

/// The order in which they arrive decides; the other client is told so.
#[test]
fn a_ticket_is_good_once() {
    let mut world = world();
    loses_and_returns(&mut world);
    let request = first_request(&world, ExchangeType::IkeSessionResume);
    let other = Datagram { remote: (address(A), 4711).into(), ..request };
    world.deliver(B, other);
    assert_eq!(begun(&world).2.last(), Some(&notify::TICKET_NACK));
    assert_eq!(world.ends[B].engine.half_open(), 0);
    assert!(world.up());
}

/// Whoever has seen a ticket go by can show it, and keeps nobody out.
#[test]
fn a_ticket_alone_is_worth_nothing_and_who_has_seen_it_does_not_use_it_up() {
    let mut world = shows_its_ticket();
    world.wire.clear();
    world.ends[B].dead = false;
    let stolen = first_request(&world, ExchangeType::IkeSessionResume);
    let other = Datagram { remote: (address(A), 4711).into(), ..stolen };
    world.deliver(B, other);
    assert_eq!(world.ends[B].engine.half_open(), 1);
    world.run_until(60, "A is back", |world| world.up() && world.ends[A].engine.status().len() == 1);
    world.run(1);
    assert_eq!((begun(&world).0, begun(&world).1), (1, 1), "{}", world.report());
    world.run(300);
    assert_eq!(world.ends[B].engine.half_open(), 0);
}

/// Of two who show it at once, the first that proves itself has it; the other is told no, and begins in full.
#[test]
fn a_client_whose_ticket_was_used_meanwhile_begins_in_full() {
    let mut world = shows_its_ticket();
    world.ends[B].dead = false;
    world.run_until(60, "A goes on to IKE_AUTH", |world| {
        world.messages(A).last().is_some_and(|octets| octets[18] == 35 && octets[23] == 1)
            && begun(world).1 == 1
    });
    let ticket =
        world.ends[B].engine.sas.values().find_map(|sa| Some(sa.base.resumed.as_ref()?.ticket.clone()));
    assert!(!world.ends[B].engine.cx.tickets.use_up(&ticket.unwrap()));
    world.run(30);
    assert!(world.up(), "{}", world.report());
    assert_eq!((begun(&world).0, begun(&world).1), (2, 1));
    assert_eq!(world.failures(B), ["NOT_RESUMED"]);
    assert_eq!(world.failures(A), ["PEER_SILENT", "NOT_RESUMED"]);
}

#[test]
fn what_is_no_ticket_of_ours_is_refused_without_a_trace() {
    let mut world = shows_its_ticket();
    world.wire.clear();
    world.ends[B].dead = false;
    let request = first_request(&world, ExchangeType::IkeSessionResume);
    let DatagramPayload::Ike(octets) = &request.payload else { panic!() };
    // Its nonce stands first, then the ticket in its notification; NAT detection comes behind it.
    let ticket = 28 + 36 + 8;
    for at in (ticket..ticket + 60).chain([ticket + 150]) {
        let mut octets = octets.clone();
        octets[at] ^= 1;
        world.deliver(B, Datagram { payload: DatagramPayload::Ike(octets), ..request.clone() });
        assert_eq!(
            (world.ends[B].engine.half_open(), begun(&world).2.last()),
            (0, Some(&notify::TICKET_NACK)),
            "{at}"
        );
    }
}

#[test]
fn a_resumed_ike_sa_ends_with_the_authentication_that_it_rests_on() {
    let mut configs = [A, B].map(with_tickets);
    configs[B].connections[0].lifetime =
        IkeLifetime { reauth_time: 30 * MINUTE, over_time: 5 * MINUTE, ..IkeLifetime::default() };
    let mut world = world_of(configs);
    let authenticated = world.now;
    for _ in 0..3 {
        loses_and_returns(&mut world);
        world.run(30);
    }
    assert_eq!(begun(&world).1, 3);
    // A is told, each time, how long it is still good, and begins in full before that.
    world.run_until(36 * 60, "A has proved itself again", |world| begun(world).0 == 2);
    assert!(world.now - authenticated <= 30 * MINUTE, "{:?}", world.now - authenticated);
}

#[test]
fn a_ticket_is_not_shown_when_its_time_is_over() {
    let mut configs = [A, B].map(with_tickets);
    configs[A].connections[0].children[0].start_action = StartAction::None;
    let mut world = world_of(configs);
    world.ends[B].dead = true;
    world.run(5 * 3600);
    world.ends[B].dead = false;
    world.initiate(A);
    world.run(10);
    assert!(world.up());
    assert_eq!((begun(&world).0, begun(&world).1), (2, 0));
}

#[test]
fn under_load_a_cookie_is_asked_for_first() {
    let mut configs = [A, B].map(with_tickets);
    configs[B].cookie_threshold = 0;
    let mut world = world_of(configs);
    loses_and_returns(&mut world);
    let (full, resumed, notes) = begun(&world);
    assert_eq!((full, resumed, notes.first()), (1, 1, Some(&notify::COOKIE)));
}

#[test]
fn after_a_rekeying_another_ticket_is_asked_for() {
    for end in [A, B] {
        let mut world = world();
        world.command(end, Command::Rekey { connection: "net".to_owned(), child: None });
        world.run(5);
        loses_and_returns(&mut world);
        assert_eq!((begun(&world).0, begun(&world).1), (1, 1), "{end}");
        world.assert_agreement();
    }
}

#[test]
fn another_configuration_makes_everybody_begin_in_full() {
    let mut world = world();
    let mut other = with_tickets(B);
    other.connections[0].dpd_delay = Duration::from_secs(600);
    world.reconfigure(B, other);
    loses_and_returns(&mut world);
    assert_eq!((begun(&world).0, begun(&world).1), (2, 1));
}

#[test]
fn they_are_resumed_whatever_the_network_does() {
    let mut resumed = 0;
    for seed in 0..20 {
        let mut world = World::up_in_a_storm(seed, [A, B].map(with_tickets));
        for _ in 0..3 {
            world.ends[B].dead = true;
            world.run_until(900, "A has given up", |world| world.ends[A].gateway.installed.is_empty());
            world.ends[B].dead = false;
            world.run_until(300, &format!("seed {seed}: up again"), World::up);
            world.run(30);
        }
        resumed += begun(&world).1;
        world.weather = Weather { loss: 0, duplication: 0, delay: 5 };
        world.run(300);
        world.assert_agreement();
        world.terminate(A);
        world.run(600);
        for end in [A, B] {
            world.assert_empty(end);
            assert_eq!(world.ends[end].engine.poll_timeout(), None, "seed {seed}");
        }
    }
    assert!(resumed >= 40, "{resumed}");
}
