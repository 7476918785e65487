//! IKE messages in fragments (RFC 7383). Here all that is protected and has more in it than a Delete is cut.

use std::time::Duration;

use super::hands::Hands;
use super::world::*;
use crate::config::*;
use crate::engine::*;
use crate::message::Fragment;

/// Octets of the packets, and of the IKE messages in them: without IP and UDP header.
const SIZE: usize = 200;
const LARGEST: usize = SIZE - 28;

fn cut(end: usize, mode: IkeFragmentation) -> EngineConfig {
    let mut config = config(end);
    config.fragment_size = SIZE;
    config.connections[0].fragmentation = mode;
    config
}

fn both() -> (EngineConfig, EngineConfig) {
    (cut(A, IkeFragmentation::Yes), cut(B, IkeFragmentation::Yes))
}

fn fragment(octets: &[u8]) -> Option<Fragment> {
    Message::parse(octets).unwrap().encrypted?.fragment
}

/// The protected messages that an end has sent, and which of them are fragments.
fn protected(world: &World, end: usize) -> Vec<(usize, Option<Fragment>)> {
    let messages = world.messages(end).into_iter();
    let protected = messages.filter(|octets| Message::parse(octets).unwrap().encrypted.is_some());
    protected.map(|octets| (octets.len(), fragment(&octets))).collect()
}

#[test]
fn what_is_too_long_goes_in_fragments_both_ways_and_no_packet_is_longer_than_it_may_be() {
    let (a, b) = both();
    let world = World::new(1, a, b).established();
    for end in [A, B] {
        let sent = protected(&world, end);
        assert!(sent.iter().any(|(_, fragment)| fragment.is_some()), "{sent:?}");
        assert!(sent.iter().all(|(len, _)| *len <= LARGEST), "{sent:?}");
    }
    world.assert_agreement();
}

#[test]
fn an_end_that_does_not_take_fragments_gets_none() {
    for (a, b) in
        [(IkeFragmentation::No, IkeFragmentation::Yes), (IkeFragmentation::Yes, IkeFragmentation::No)]
    {
        let world = World::new(1, cut(A, a), cut(B, b)).established();
        for end in [A, B] {
            assert!(protected(&world, end).iter().all(|(_, fragment)| fragment.is_none()));
        }
    }
}

#[test]
fn an_end_that_only_accepts_fragments_sends_none() {
    let world = World::new(1, cut(A, IkeFragmentation::Accept), cut(B, IkeFragmentation::Yes)).established();
    assert!(protected(&world, A).iter().all(|(_, fragment)| fragment.is_none()));
    assert!(protected(&world, B).iter().any(|(_, fragment)| fragment.is_some()));
}

#[test]
fn fragments_that_come_before_there_are_keys_are_not_asked_for_again() {
    let (a, b) = both();
    let mut world = World::new(1, a, b);
    world.job_delay = 900;
    let world = world.established();
    let whole = protected(&world, A).iter().filter(|(_, fragment)| fragment.is_none()).count();
    let (mut sent, mut total) = (0, 0);
    for (_, fragment) in protected(&world, A) {
        sent += usize::from(fragment.is_some());
        total = fragment.map_or(total, |fragment| usize::from(fragment.total));
    }
    assert_eq!((sent, whole), (total, 0), "IKE_AUTH in so many fragments, each of them once");
}

#[test]
fn tunnels_come_up_are_rekeyed_and_go_down_in_fragments_whatever_the_network_does() {
    for seed in 0..40 {
        let (mut a, mut b) = both();
        for config in [&mut a, &mut b] {
            config.retransmission.tries = 20;
            config.retransmission.base = 1.05;
            config.half_open_timeout = Duration::from_secs(180);
            config.connections[0].children[0].esp_proposals =
                vec!["aes256gcm16-modp2048-esn".parse().unwrap()];
        }
        let mut world = World::new(seed, a, b);
        world.weather = Weather { loss: 15, duplication: 30, delay: 400 };
        world.job_delay = 300;
        let up = world.initiate(A);
        world.run_until(900, &format!("seed {seed}: up"), |world| world.ends[A].done.contains_key(&up));
        assert_eq!(world.ends[A].done[&up], Ok(()), "seed {seed}\n{}", world.report());
        world.command(A, Command::Rekey { connection: "net".to_owned(), child: Some("lan".to_owned()) });
        world.command(B, Command::Rekey { connection: "net".to_owned(), child: None });
        world.run(900);
        world.assert_agreement();
        let down = world.terminate(if seed % 2 == 0 { A } else { B });
        let end = if seed % 2 == 0 { A } else { B };
        world.run_until(900, &format!("seed {seed}: down"), |world| world.ends[end].done.contains_key(&down));
        world.run(300);
        for end in [A, B] {
            world.assert_empty(end);
            assert_eq!(world.ends[end].engine.poll_timeout(), None, "seed {seed}");
        }
    }
}

/// The fragments of the IKE_AUTH request of an established world, as B sees them.
fn request(world: &World) -> Vec<Datagram> {
    let of_a = world.sent.iter().filter(|(from, _)| *from == A).map(|(_, datagram)| datagram);
    let fragments = of_a.filter(|datagram| match &datagram.payload {
        DatagramPayload::Ike(octets) => fragment(octets).is_some(),
        DatagramPayload::Stream(_) | DatagramPayload::NatKeepalive => false,
    });
    let turned = fragments.map(|d| Datagram { local: d.remote, remote: d.local, payload: d.payload.clone() });
    turned.collect()
}

#[test]
fn a_repeated_request_is_answered_again_once_for_all_its_fragments() {
    let (a, b) = both();
    let mut world = World::new(1, a, b).established();
    let fragments = request(&world);
    assert!(fragments.len() > 1);
    let before = world.messages(B);
    for datagram in fragments {
        world.deliver(B, datagram);
    }
    let after = world.messages(B);
    let again = &after[before.len()..];
    assert!(!again.is_empty() && before.ends_with(again), "the fragments of the answer, once");
}

#[test]
fn forged_fragments_are_not_kept() {
    let (a, b) = both();
    let mut world = World::new(1, a, b).established();
    let sa = world.ends[B].engine.sas.values().next().unwrap();
    let header = channel::header(&sa.base, ExchangeType::Informational, false, 2);
    let header = Header { initiator: true, ..header };
    let (local, remote) = (sa.base.local, sa.base.remote);
    for number in 1..=3_u16 {
        // An empty message to take the header from, with a fragment of rubbish behind it.
        let mut octets = Message { header, payloads: Vec::new() }.emit();
        octets[16] = 53;
        let body = [&number.to_be_bytes()[..], &3_u16.to_be_bytes(), &[number as u8; 60]].concat();
        octets.extend([0, 0]);
        octets.extend((4 + body.len() as u16).to_be_bytes());
        octets.extend(body);
        let len = octets.len() as u32;
        octets[24..28].copy_from_slice(&len.to_be_bytes());
        assert_eq!(fragment(&octets), Some(Fragment { number, total: 3 }));
        world.deliver(B, Datagram { local, remote, payload: DatagramPayload::Ike(octets) });
    }
    let State::Established(established) = &world.ends[B].engine.sas.values().next().unwrap().state else {
        panic!()
    };
    assert!(!established.channel.has_fragments());
    // The message ID is still free for an honest request.
    world.terminate(A);
    world.run(30);
    world.assert_empty(B);
}

#[test]
fn a_rekeyed_ike_sa_goes_on_in_fragments() {
    let (a, b) = both();
    let mut hands = Hands::new(1, a, b);
    hands.rekey_ike(A);
    hands.finish();
    hands.world.sent.clear();
    hands.rekey_ike(B);
    hands.world.run(30);
    assert!(protected(&hands.world, B).iter().any(|(_, fragment)| fragment.is_some()));
    hands.world.assert_agreement();
}
