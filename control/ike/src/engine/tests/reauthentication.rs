//! Whose authentication ends, and who says so (RFC 4478).

use std::time::Duration;

use super::world::*;
use crate::config::*;
use crate::engine::*;

const MINUTE: Duration = Duration::from_secs(60);

/// B's policy: ten minutes, or a minute less.
fn world() -> World {
    let mut b = config(B);
    b.connections[0].lifetime = IkeLifetime {
        rekey_time: Duration::ZERO,
        reauth_time: 10 * MINUTE,
        over_time: MINUTE,
        rand_time: MINUTE,
    };
    World::new(1, config(A), b).established()
}

fn authenticated(world: &World, end: usize) -> usize {
    let events = world.ends[end].events.iter();
    events.filter(|event| matches!(event, Event::IkeEstablished { .. })).count()
}

#[test]
fn an_initiator_begins_anew_before_its_time_is_over() {
    let mut world = world();
    world.begin_traffic(Duration::from_secs(1));
    world.run(3600);
    world.end_traffic();
    world.run(60);
    // A hundred and a few seconds to nine minutes each time.
    let count = authenticated(&world, A);
    assert!((7..=16).contains(&count), "{count}");
    assert_eq!(authenticated(&world, B), count);
    assert_eq!(world.lost, [""; 0]);
    for end in [A, B] {
        assert_eq!(world.failures(end), [""; 0]);
        assert_eq!(world.ends[end].engine.status().len(), 1);
    }
    world.assert_agreement();
}

#[test]
fn an_initiator_that_does_not_is_put_out_when_its_time_is_over() {
    let mut world = world();
    // As one that does not know RFC 4478: it is told, and forgets.
    let id = world.ends[A].engine.status()[0].id;
    world.ends[A].engine.sas.get_mut(&id).unwrap().base.authentication.due = None;
    world.run(11 * 60 + 60);
    world.assert_empty(A);
    world.assert_empty(B);
}

#[test]
fn nobody_is_told_where_there_is_no_such_policy() {
    let mut world = World::plain().established();
    world.run(24 * 3600);
    assert_eq!((authenticated(&world, A), authenticated(&world, B)), (1, 1));
}

#[test]
fn a_responder_asks_the_initiator_to_begin_anew_also_after_either_has_rekeyed() {
    for rekeys in [None, Some(A), Some(B)] {
        let mut world = World::plain().established();
        if let Some(end) = rekeys {
            world.command(end, Command::Rekey { connection: "net".to_owned(), child: None });
            world.run(5);
        }
        let asked = world.command(B, Command::Reauthenticate { connection: "net".to_owned() });
        world.run(60);
        assert_eq!(world.ends[B].done[&asked], Ok(()));
        assert_eq!((authenticated(&world, A), authenticated(&world, B)), (2, 2), "{rekeys:?}");
        assert_eq!(world.ends[A].engine.status().len(), 1);
        world.assert_agreement();
        // The new one's time is not over.
        world.run(24 * 3600);
        assert_eq!(authenticated(&world, A), 2);
    }
}
