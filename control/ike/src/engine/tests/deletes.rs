//! INFORMATIONAL: IKE and CHILD SAs deleted by either end, by both at once, and before they are up.

use super::world::*;
use crate::config::*;
use crate::engine::*;

fn closed(world: &World, end: usize) -> usize {
    world.ends[end].events.iter().filter(|event| matches!(event, Event::IkeClosed { .. })).count()
}

#[test]
fn an_ike_sa_deleted_by_one_end_is_gone_at_both() {
    for end in [A, B] {
        let mut world = World::plain().established();
        let command = world.terminate(end);
        world.run_until(60, "the command ends", |world| world.ends[end].done.contains_key(&command));
        assert_eq!(world.ends[end].done[&command], Ok(()));
        world.run(5);
        for end in [A, B] {
            world.assert_empty(end);
            assert_eq!(closed(&world, end), 1);
            assert_eq!(world.failures(end), [""; 0]);
        }
    }
}

#[test]
fn both_ends_may_delete_the_ike_sa_at_once() {
    for seed in 0..20 {
        let mut world = World::new(seed, config(A), config(B)).established();
        world.weather.delay = 30;
        world.terminate(A);
        world.terminate(B);
        world.run(300);
        for end in [A, B] {
            world.assert_empty(end);
            assert_eq!(world.ends[end].done.values().filter(|result| result.is_err()).count(), 0);
        }
    }
}

#[test]
fn a_child_deleted_by_one_end_is_gone_at_both_and_the_ike_sa_stays() {
    for end in [A, B] {
        let mut world = World::plain().established();
        let command = world
            .command(end, Command::Terminate { connection: "net".to_owned(), child: Some("lan".to_owned()) });
        world.run_until(60, "the command ends", |world| world.ends[end].done.contains_key(&command));
        assert_eq!(world.ends[end].done[&command], Ok(()));
        for end in [A, B] {
            let status = world.ends[end].engine.status();
            assert_eq!(status[0].state, IkeState::Established);
            assert_eq!(status[0].children, []);
        }
        world.assert_agreement();
        // And it can come up again on the same IKE SA.
        world.initiate(B);
        world.run_until(60, "the child comes up again", World::up);
        assert_eq!(world.ends[A].engine.status().len(), 1);
        world.assert_agreement();
    }
}

#[test]
fn both_ends_may_delete_a_child_at_once() {
    for seed in 0..20 {
        let mut world = World::new(seed, config(A), config(B)).established();
        world.weather.delay = 30;
        for end in [A, B] {
            world.command(
                end,
                Command::Terminate { connection: "net".to_owned(), child: Some("lan".to_owned()) },
            );
        }
        world.run(60);
        world.assert_agreement();
        for end in [A, B] {
            assert_eq!(world.ends[end].engine.status()[0].children, [], "seed {seed}");
            assert_eq!(world.ends[end].done.values().filter(|result| result.is_err()).count(), 0);
        }
    }
}

#[test]
fn an_orderly_stop_deletes_everything() {
    let mut world = World::plain().established();
    let command = world.command(B, Command::TerminateAll);
    world.run_until(60, "the command ends", |world| world.ends[B].done.contains_key(&command));
    world.run(5);
    world.assert_empty(A);
    world.assert_empty(B);
    let command = world.command(B, Command::TerminateAll);
    assert_eq!(world.ends[B].done[&command], Ok(()));
}

#[test]
fn a_tunnel_terminated_at_any_moment_of_its_making_leaves_nothing() {
    for ticks in 0..25 {
        for end in [A, B] {
            let mut world = World::plain();
            let initiated = world.initiate(A);
            for _ in 0..ticks {
                let until = world.now + std::time::Duration::from_secs(1);
                world.tick(until);
            }
            let command = world.terminate(end);
            world.run(400);
            assert!(world.ends[end].done.contains_key(&command), "{ticks} {end}");
            assert!(world.ends[A].done.contains_key(&initiated), "{ticks} {end}");
            world.assert_agreement();
            if end == A {
                world.assert_empty(A);
                world.assert_empty(B);
            }
        }
    }
}

#[test]
fn a_child_terminated_at_any_moment_of_its_making_leaves_nothing() {
    for ticks in 0..25 {
        let mut world = World::plain();
        let initiated = world.initiate(A);
        for _ in 0..ticks {
            let until = world.now + std::time::Duration::from_secs(1);
            world.tick(until);
        }
        let child = Some("lan".to_owned());
        let command = world.command(A, Command::Terminate { connection: "net".to_owned(), child });
        world.run(400);
        assert!(world.ends[A].done.contains_key(&command) && world.ends[A].done.contains_key(&initiated));
        world.assert_agreement();
        for end in [A, B] {
            assert!(world.ends[end].gateway.installed.is_empty(), "after {ticks}\n{}", world.report());
        }
    }
}

#[test]
fn what_is_not_there_cannot_be_terminated() {
    let mut world = World::plain();
    let command = world.terminate(A);
    assert_eq!(world.ends[A].done[&command].clone().unwrap_err().code(), "NOTHING_TO_TERMINATE");
}

#[test]
fn a_tunnel_that_is_kept_up_comes_back_after_the_peer_deletes_it_but_not_after_we_do() {
    let mut a = config(A);
    a.connections[0].children[0].start_action = StartAction::Start;
    let mut world = World::new(1, a, config(B)).established();
    world.terminate(B);
    world.run_until(5, "it goes", |world| !world.up());
    world.run_until(10, "it comes back", World::up);
    world.run(5);
    world.assert_agreement();
    world.terminate(A);
    world.run(300);
    world.assert_empty(A);
    world.assert_empty(B);
}

#[test]
fn an_answer_to_a_delete_that_was_lost_is_sent_again() {
    let mut world = World::plain().established();
    world.terminate(A);
    world.run_until(5, "B answers", |world| world.messages(B).len() == 3);
    world.wire.clear();
    world.run(1);
    world.assert_empty(B);
    world.run_until(10, "A's retransmission is answered", |world| world.ends[A].engine.status().is_empty());
    let answers = world.messages(B);
    assert_eq!(answers[2], answers[3]);
}
