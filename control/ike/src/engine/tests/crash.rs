//! Ends that lose their state (RFC 6290).

use std::time::Duration;

use portcullis_ipsec::{Encapsulation, TunnelEndpoints};

use super::node::Node;
use super::world::*;
use crate::config::*;
use crate::engine::*;
use crate::message::{Payload, notify};

/// A keeps its tunnel up.
fn kept_up(end: usize) -> EngineConfig {
    let mut config = config(end);
    if end == A {
        config.connections[0].children[0].start_action = StartAction::Start;
    }
    config
}

fn world() -> World {
    World::new(1, kept_up(A), kept_up(B)).established()
}

/// ESP of A's that B gets and has no SA for.
fn stray_esp(world: &mut World) -> CommandId {
    let spi = world.ends[A].engine.status()[0].children[0].spi_out;
    let seen = TunnelEndpoints { local: address(B), remote: address(A), encapsulation: Encapsulation::None };
    world.command(B, Command::UnknownSpi { spi, seen })
}

fn ike(datagram: &Datagram) -> &[u8] {
    match &datagram.payload {
        DatagramPayload::Ike(octets) | DatagramPayload::Stream(octets) => octets,
        DatagramPayload::NatKeepalive => &[],
    }
}

/// What is in clear in the messages that an end has sent since.
pub(super) fn in_clear<N: Node>(world: &WorldOf<N>, end: usize, since: usize) -> Vec<Vec<u16>> {
    let parsed = world.messages(end).into_iter().skip(since).map(|octets| Message::parse(&octets).unwrap());
    let clear = parsed.filter(|found| {
        found.encrypted.is_none() && found.message.header.exchange != ExchangeType::IkeSaInit
    });
    clear
        .map(|found| {
            let kinds = found.message.payloads.iter().filter_map(|payload| match payload {
                Payload::Notify(found) => Some(found.notify_type),
                _ => None,
            });
            kinds.collect()
        })
        .collect()
}

#[test]
fn a_peer_that_was_restarted_proves_it_and_the_tunnel_is_up_again_at_once() {
    let mut world = world();
    let old = world.ends[A].engine.status()[0].initiator_spi;
    let sent = world.messages(B).len();
    world.run(10);
    world.forget(B, kept_up(B));
    stray_esp(&mut world);
    let began = world.now;
    world.run_until(2, "the tunnel comes up again", |world| {
        world.up() && world.ends[A].engine.status()[0].initiator_spi != old
    });
    assert!(world.now - began < Duration::from_millis(500), "{}", world.report());
    assert_eq!(world.failures(A), ["PEER_RESTARTED"]);
    let clear = in_clear(&world, B, sent);
    assert_eq!(clear, [vec![notify::INVALID_SPI], vec![notify::INVALID_IKE_SPI, notify::QCD_TOKEN]]);
    world.run(5);
    world.assert_agreement();
    // Nobody was sent a Delete: one request, whether B lives, and two to begin anew.
    let begun = world.ends[A].engine.status();
    assert_eq!(begun.len(), 1);
}

#[test]
fn tokens_are_given_by_both_ends_whoever_rekeys() {
    for (rekeys, crashes) in [(A, A), (A, B), (B, A), (B, B)] {
        let mut world = World::new(1, config(A), config(B)).established();
        for _ in 0..2 {
            world.command(rekeys, Command::Rekey { connection: "net".to_owned(), child: None });
            world.run(5);
        }
        world.forget(crashes, config(crashes));
        let taker = 1 - crashes;
        world.command(taker, Command::Rekey { connection: "net".to_owned(), child: None });
        world.run(2);
        world.assert_empty(taker);
        assert_eq!(world.failures(taker), ["PEER_RESTARTED"], "{rekeys} {crashes}");
    }
}

#[test]
fn an_end_that_does_not_take_part_gives_no_token_and_takes_none() {
    for (a, b) in [(true, false), (false, true)] {
        let of = |end, used| {
            let mut config = kept_up(end);
            config.connections[0].quick_crash_detection = used;
            config
        };
        let mut world = World::new(1, of(A, a), of(B, b)).established();
        world.run(10);
        let sent = world.messages(B).len();
        world.forget(B, of(B, b));
        stray_esp(&mut world);
        world.command(A, Command::Rekey { connection: "net".to_owned(), child: None });
        world.run(20);
        assert_eq!(world.failures(A), [""; 0]);
        assert_eq!(in_clear(&world, B, sent).is_empty(), !b);
    }
}

/// RFC 6290 §9.2: whoever could have a token of an IKE SA that is there could end it.
#[test]
fn no_token_is_shown_of_an_ike_sa_that_is_there() {
    let mut world = world();
    let sent = world.messages(B).len();
    let request = {
        world.command(A, Command::Rekey { connection: "net".to_owned(), child: Some("lan".to_owned()) });
        world.run(1);
        let is_request = |octets: &Vec<u8>| Message::parse(octets).unwrap().message.header.message_id == 2;
        world.messages(A).into_iter().rev().find(is_request).unwrap()
    };
    for end in [A, B] {
        for octets in in_disguise(&request) {
            let (local, remote) = ((address(end), 500).into(), (address(1 - end), 500).into());
            world.deliver(end, Datagram { local, remote, payload: DatagramPayload::Ike(octets) });
        }
    }
    world.run(5);
    assert_eq!(in_clear(&world, B, sent), Vec::<Vec<u16>>::new());
    assert!(world.up());
}

/// A request that does not decrypt, whoever the header says began its IKE SA, and in whichever order the SPIs stand.
pub(super) fn in_disguise(request: &[u8]) -> Vec<Vec<u8>> {
    let mut garbled = request.to_vec();
    *garbled.last_mut().unwrap() ^= 1;
    let mut variants = Vec::new();
    for flags in [0x08, 0x00] {
        for swapped in [false, true] {
            let mut variant = garbled.clone();
            variant[19] = flags;
            if swapped {
                let (first, second) = (garbled[..8].to_vec(), garbled[8..16].to_vec());
                variant[..8].copy_from_slice(&second);
                variant[8..16].copy_from_slice(&first);
            }
            variants.push(variant);
        }
    }
    variants
}

/// While its own rekeying is under way, an end does not know yet that there is an IKE SA which the other uses already.
#[test]
fn no_token_is_shown_of_an_ike_sa_that_is_about_to_be() {
    let mut world = world();
    world.job_delay = 0;
    world.command(A, Command::Rekey { connection: "net".to_owned(), child: None });
    world.run_until(5, "B has made it", |world| world.ends[B].engine.status().len() == 2);
    let new = world.ends[B].engine.status().pop().unwrap();
    assert_eq!(world.ends[A].engine.status().len(), 1, "A does not have it yet");
    let mut octets = world.messages(A).pop().unwrap();
    octets[..8].copy_from_slice(&new.initiator_spi);
    octets[8..16].copy_from_slice(&new.responder_spi);
    octets[19] = 0;
    let sent = world.messages(A).len();
    let (local, remote) = ((address(A), 500).into(), (address(B), 500).into());
    world.deliver(A, Datagram { local, remote, payload: DatagramPayload::Ike(octets) });
    assert_eq!(in_clear(&world, A, sent), Vec::<Vec<u16>>::new());
    world.run(5);
    world.assert_agreement();
}

#[test]
fn a_wrong_token_and_no_token_change_nothing() {
    for wrong in [true, false] {
        let mut world = world();
        world.forget(B, kept_up(B));
        if wrong {
            world.ends[B].engine.keep_tokens(Secret(vec![7; 32]));
        } else {
            world.meddle = Some(Box::new(|from, datagram| {
                let token = [&[0, 0, 0, 40, 1, 0][..], &notify::QCD_TOKEN.to_be_bytes()].concat();
                let shows = ike(&datagram).windows(8).any(|octets| octets == token);
                (from == A || !shows).then_some(datagram)
            }));
        }
        world.command(A, Command::Rekey { connection: "net".to_owned(), child: None });
        world.run(20);
        assert_eq!(world.failures(A), [""; 0]);
        assert_eq!(world.ends[A].engine.status().len(), 1);
    }
}

#[test]
fn strangers_get_no_token_and_peers_a_few_a_second() {
    let mut world = world();
    world.command(A, Command::Rekey { connection: "net".to_owned(), child: None });
    world.run_until(5, "A has asked", |world| !world.wire.is_empty());
    let request = world.wire[0].datagram.clone();
    world.forget(B, kept_up(B));
    let sent = world.messages(B).len();
    let stranger = Datagram { remote: "198.51.100.1:500".parse().unwrap(), ..request.clone() };
    world.deliver(B, stranger);
    assert_eq!(world.messages(B).len(), sent);
    for _ in 0..100 {
        world.deliver(B, request.clone());
    }
    assert_eq!(world.messages(B).len(), sent + 4);
    world.run(1);
    world.deliver(B, request);
    assert!(world.messages(B).len() > sent + 4);
}

#[test]
fn a_peer_whose_esp_finds_no_sa_is_told_so_within_the_ike_sa_and_makes_another() {
    let mut world = world();
    let lost = world.ends[B].engine.status()[0].children[0].clone();
    // B alone loses it.
    let name = Some("lan".to_owned());
    world.meddle = Some(Box::new(|from, datagram| (from == A).then_some(datagram)));
    world.command(B, Command::Terminate { connection: "net".to_owned(), child: name });
    world.run(1);
    world.ends[B].dead = true;
    world.meddle = None;
    world.ends[B].dead = false;
    stray_esp(&mut world);
    world.run(30);
    assert!(world.up(), "{}", world.report());
    assert_ne!(world.ends[B].engine.status()[0].children[0].spi_in, lost.spi_in);
    world.assert_agreement();
}

#[test]
fn a_hint_in_clear_makes_us_ask_and_nothing_else() {
    let mut world = world();
    world.run(10);
    let spi = world.ends[A].engine.status()[0].children[0].spi_out;
    let hint = |spi: u32| {
        let mut octets = vec![0; 16];
        octets.extend([41, 0x20, 37, 0x08, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 12, 0, 0, 0, 11]);
        octets.extend(spi.to_be_bytes());
        let (local, remote) = ((address(A), 500).into(), (address(B), 500).into());
        Datagram { local, remote, payload: DatagramPayload::Ike(octets) }
    };
    let sent = world.messages(A).len();
    world.deliver(A, hint(spi.get() ^ 1));
    world.run(1);
    assert_eq!(world.messages(A).len(), sent, "of no SA of ours");
    for _ in 0..50 {
        world.deliver(A, hint(spi.get()));
        world.run(1);
    }
    let asked = world.messages(A).len() - sent;
    assert!((1..=11).contains(&asked), "asked {asked} times");
    assert!(world.up());
    world.assert_agreement();
}

#[test]
fn they_come_up_again_whatever_the_network_does() {
    for seed in 0..20 {
        let mut world = World::up_in_a_storm(seed, [kept_up(A), kept_up(B)]);
        for _ in 0..3 {
            let old = world.ends[A].engine.status()[0].initiator_spi;
            world.forget(B, kept_up(B));
            world.command(A, Command::Rekey { connection: "net".to_owned(), child: None });
            world.run_until(120, &format!("seed {seed}: up again"), |world| {
                world.up() && world.ends[A].engine.status().iter().all(|sa| sa.initiator_spi != old)
            });
            world.run(60);
        }
        assert!(!world.failures(A).contains(&"PEER_SILENT"), "seed {seed}\n{}", world.report());
        world.assert_agreement();
        world.terminate(A);
        world.run(300);
        for end in [A, B] {
            world.assert_empty(end);
            assert_eq!(world.ends[end].engine.poll_timeout(), None, "seed {seed}");
        }
    }
}
