//! Jobs that finish late, after the IKE SA that wanted them has ended: nothing is left behind in the data plane.

use std::time::Duration;

use super::world::*;
use crate::engine::*;

/// Runs until an end has a job of some kind, and takes the job away.
fn hold(world: &mut World, end: usize, kind: impl Fn(&Job) -> bool) -> (JobId, Job) {
    let until = world.now + Duration::from_secs(60);
    loop {
        if let Some(at) = world.ends[end].jobs.iter().position(|(.., job)| kind(job)) {
            let (_, id, job) = world.ends[end].jobs.remove(at);
            return (id, job);
        }
        assert!(world.tick(until), "there is no such job");
    }
}

fn finish(world: &mut World, end: usize, (id, job): (JobId, Job)) {
    let result = world.ends[end].gateway.run(job);
    world.ends[end].engine.handle_job(world.now, id, result);
    world.collect(end);
    world.run(400);
}

#[test]
fn an_spi_that_comes_too_late_is_given_back() {
    for end in [A, B] {
        let mut world = World::plain();
        world.initiate(A);
        let late = hold(&mut world, end, |job| matches!(job, Job::AllocateSpi));
        world.terminate(end);
        world.run(400);
        finish(&mut world, end, late);
        world.assert_empty(end);
    }
}

#[test]
fn a_child_that_is_installed_too_late_is_removed_with_its_policy() {
    for end in [A, B] {
        let mut world = World::plain();
        world.initiate(A);
        let late = hold(&mut world, end, |job| matches!(job, Job::InstallChild(_)));
        // The IKE SA goes because the other end deletes it, or, where that end waits for our answer, gives up.
        world.terminate(1 - end);
        world.ends[1 - end].dead = end == B;
        world.terminate(end);
        world.run(400);
        finish(&mut world, end, late);
        world.assert_empty(end);
    }
}

#[test]
fn a_child_that_the_peer_deletes_while_it_is_installed_does_not_stay() {
    let mut world = World::plain();
    world.initiate(A);
    let late = hold(&mut world, A, |job| matches!(job, Job::InstallChild(_)));
    let child = Some("lan".to_owned());
    let command = world.command(B, Command::Terminate { connection: "net".to_owned(), child });
    world.run_until(60, "B's delete is answered", |world| world.ends[B].done.contains_key(&command));
    assert_eq!(world.ends[B].done[&command], Ok(()));
    finish(&mut world, A, late);
    world.assert_agreement();
    assert_eq!(world.ends[A].engine.status()[0].children, []);
}

#[test]
fn key_exchange_jobs_of_an_ike_sa_that_is_gone_are_forgotten() {
    for kind in
        [|job: &Job| matches!(job, Job::GenerateKe { .. }), |job: &Job| matches!(job, Job::DeriveKe { .. })]
    {
        let mut world = World::plain();
        world.initiate(A);
        let late = hold(&mut world, A, kind);
        world.terminate(A);
        finish(&mut world, A, late);
        world.assert_empty(A);
        world.assert_empty(B);
    }
}

#[test]
fn a_responder_whose_jobs_take_longer_than_the_peer_waits_ends_clean() {
    let mut world = World::plain();
    world.initiate(A);
    let late = hold(&mut world, B, |job| matches!(job, Job::DeriveKe { .. }));
    world.run(400);
    finish(&mut world, B, late);
    world.assert_empty(A);
    world.assert_empty(B);
}

#[test]
fn results_that_nobody_asked_for_change_nothing() {
    let mut world = World::plain().established();
    let spi = portcullis_ipsec::Spi::new(0x9999).unwrap();
    for id in 0..50 {
        world.ends[A].engine.handle_job(world.now, JobId(id), JobResult::SpiAllocated(Ok(spi)));
        world.collect(A);
    }
    world.run(10);
    world.assert_agreement();
}
