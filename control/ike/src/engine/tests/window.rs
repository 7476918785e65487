//! Our window is one, whatever the peer's is (RFC 7296 §2.3).

use super::world::*;
use crate::engine::ike_sa_init::notification;
use crate::engine::*;
use crate::message::{Payload, notify};

/// An INFORMATIONAL request of B's, sent though others are under way: as A gets it.
fn ask(world: &mut World, payloads: Vec<Payload>) -> Datagram {
    let now = world.now;
    let Engine { sas, cx, .. } = &mut world.ends[B].engine;
    let IkeSa { base, state, .. } = sas.values_mut().next().unwrap().as_mut();
    let State::Established(established) = state else { panic!() };
    established.channel.request(cx, base, now, ExchangeType::Informational, payloads);
    let Datagram { local, remote, payload } = cx.transmit.pop_back().unwrap();
    Datagram { local: remote, remote: local, payload }
}

fn id_of(octets: &[u8]) -> u32 {
    Message::parse(octets).unwrap().message.header.message_id
}

#[test]
fn requests_are_taken_one_after_another_and_what_is_beyond_the_window_when_it_comes_again() {
    let mut world = World::plain().established();
    let requests: Vec<_> = (0..3).map(|_| ask(&mut world, Vec::new())).collect();
    let answers = |world: &World, since: usize| -> Vec<u32> {
        world.messages(A).iter().skip(since).map(|octets| id_of(octets)).collect()
    };
    let since = world.messages(A).len();
    // The last first: neither answered nor kept.
    for at in [2, 1, 0, 2, 1, 2] {
        world.deliver(A, requests[at].clone());
    }
    assert_eq!(answers(&world, since), [0, 1, 2]);
    // The last is answered again, with the same octets; those before it are not: the peer has had their answers.
    for at in [2, 1, 0] {
        world.deliver(A, requests[at].clone());
    }
    assert_eq!(answers(&world, since), [0, 1, 2, 2]);
    let sent = world.messages(A);
    assert_eq!(sent[since + 2], sent[since + 3]);
}

/// A peer that would take more at once gets one at a time all the same: what our exchanges mean for one another depends on
/// their order.
#[test]
fn we_ask_one_thing_at_a_time_however_large_the_peers_window_is() {
    let mut world = World::plain().established();
    let larger = ask(&mut world, vec![notification(notify::SET_WINDOW_SIZE, 8_u32.to_be_bytes().to_vec())]);
    world.deliver(A, larger);
    world.ends[B].dead = true;
    let since = world.messages(A).len();
    for child in [None, Some("lan".to_owned())] {
        world.command(A, Command::Rekey { connection: "net".to_owned(), child });
    }
    world.run(20);
    let mut ids: Vec<u32> = world.messages(A).iter().skip(since).map(|octets| id_of(octets)).collect();
    assert!(ids.len() > 1, "it is repeated");
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
}
