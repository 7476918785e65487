//! Message ID synchronisation (RFC 6311): B is a cluster, of which another member takes over.

use super::world::*;
use crate::engine::channel::Channel;
use crate::engine::*;

/// The only IKE SA of an end, which is up.
fn up(world: &mut World, end: usize) -> (&mut context::Context, &mut sa::Base, &mut Channel) {
    let Engine { sas, cx, .. } = &mut world.ends[end].engine;
    let IkeSa { base, state, .. } = sas.values_mut().next().unwrap().as_mut();
    let State::Established(established) = state else { panic!("{state:?}") };
    (cx, base, &mut established.channel)
}

/// What the member of B sends that takes over, as A gets it: nonce, what it sends next, what it expects.
fn synchronise(world: &mut World, asked: [u32; 3]) -> Datagram {
    let (cx, base, channel) = up(world, B);
    let datagrams = channel.ask_to_synchronise(base, asked);
    send(cx, base.path(), &datagrams);
    let Datagram { local, remote, payload } = cx.transmit.pop_back().unwrap();
    Datagram { local: remote, remote: local, payload }
}

/// What an answer of A's says, likewise.
fn said(world: &mut World, octets: &[u8]) -> [u32; 3] {
    let (_, base, channel) = up(world, B);
    channel.read_synchronisation(base, octets)
}

fn take_over(world: &mut World, send: u32, expected: u32) {
    up(world, B).2.go_on_from(send, expected);
}

fn id_of(octets: &[u8]) -> u32 {
    Message::parse(octets).unwrap().message.header.message_id
}

fn ids_since(world: &World, since: usize) -> Vec<u32> {
    world.messages(A).iter().skip(since).map(|octets| id_of(octets)).collect()
}

fn rekey(world: &mut World, end: usize) {
    world.command(end, Command::Rekey { connection: "net".to_owned(), child: Some("lan".to_owned()) });
}

fn all_is_well(world: &World) {
    assert_eq!((world.failures(A), world.failures(B)), (vec![], vec![]));
    world.assert_agreement();
}

#[test]
fn a_cluster_sets_message_ids_anew() {
    let mut world = World::plain().established();
    let since = world.messages(A).len();
    // The new member may have had 39 requests of A, and sent 1000.
    let request = synchronise(&mut world, [7, 1000, 40]);
    world.deliver(A, request.clone());
    let answer = world.messages(A)[since].to_vec();
    assert_eq!((id_of(&answer), said(&mut world, &answer)), (0, [7, 40, 1000]));
    // The same again gets the same again.
    world.deliver(A, request);
    assert_eq!(world.messages(A)[since + 1], answer);
    // What is not newer moves nothing.
    for (send, expected) in [(1000, 50), (999, 50), (3, 3)] {
        let stale = synchronise(&mut world, [8, send, expected]);
        world.deliver(A, stale);
    }
    assert_eq!(world.messages(A).len(), since + 2);
    take_over(&mut world, 1000, 40);
    for end in [A, B] {
        rekey(&mut world, end);
        world.run(5);
    }
    let ids = ids_since(&world, since + 2);
    assert!(ids.contains(&40) && ids.contains(&1000) && ids.iter().all(|id| *id >= 40), "{ids:?}");
    all_is_well(&world);
}

#[test]
fn a_request_under_way_goes_to_the_new_member() {
    let mut world = World::plain().established();
    world.ends[B].dead = true;
    rekey(&mut world, A);
    world.run(1);
    let under_way = id_of(world.messages(A).last().unwrap());
    let request = synchronise(&mut world, [9, 5, under_way]);
    let since = world.messages(A).len();
    world.deliver(A, request);
    let sent = world.messages(A).iter().skip(since).map(|octets| octets.to_vec()).collect::<Vec<_>>();
    assert_eq!(said(&mut world, &sent[0]), [9, under_way + 1, 5]);
    assert_eq!(id_of(&sent[1]), under_way + 1);
    world.ends[B].dead = false;
    take_over(&mut world, 5, under_way + 1);
    world.run(30);
    all_is_well(&world);
    let rekeyed = |event: &Event| matches!(event, Event::ChildRekeyed { .. });
    assert!(world.ends[A].events.iter().any(rekeyed), "{:?}", world.ends[A].events);
}

/// Where it was not agreed on, message IDs are what they are (RFC 6311 §4).
#[test]
fn nobody_sets_message_ids_anew_where_that_was_not_agreed_on() {
    let mut world = World::plain().established();
    up(&mut world, A).1.synchronises = false;
    let request = synchronise(&mut world, [7, 1000, 1000]);
    let since = world.messages(A).len();
    world.deliver(A, request);
    world.run(1);
    assert_eq!(world.messages(A).len(), since + 1, "answered as any request that says nothing");
    rekey(&mut world, A);
    world.run(5);
    let ids = ids_since(&world, since);
    assert!(ids.iter().all(|id| *id < 10), "{ids:?}");
    all_is_well(&world);
}
