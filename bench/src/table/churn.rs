//! The writer beside the readers: it replaces one SA after another as fast as it can, in the table that is being read.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use core_affinity::CoreId;

use super::world::World;

/// What the writer works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Target {
    /// Nothing: it waits.
    Nothing,
    Ours,
    Locked,
    Sharded,
}

const TARGETS: [Target; 4] = [Target::Nothing, Target::Ours, Target::Locked, Target::Sharded];

/// The writer's controls.
#[derive(Default)]
pub(crate) struct Churn {
    wanted: AtomicUsize,
    doing: AtomicUsize,
    replaced: [AtomicU64; 4],
    end: AtomicBool,
}

impl Churn {
    /// Runs `body` with a writer on that processor; it waits at first.
    pub(crate) fn beside<T>(
        world: &World,
        core: Option<CoreId>,
        body: impl FnOnce(&Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let churn = Self::default();
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                if let Some(core) = core {
                    core_affinity::set_for_current(core);
                }
                churn.work(world)
            });
            // Also when the body panics, or the writer would go on for ever.
            let stop = Stop(&churn.end);
            let done = body(&churn);
            drop(stop);
            match writer.join() {
                Ok(result) => result.and(done),
                Err(_) => Err(anyhow::anyhow!("the writer panicked")),
            }
        })
    }

    /// Sends the writer to another table and waits until it is there.
    pub(crate) fn turn_to(&self, target: Target) {
        self.wanted.store(target as usize, Ordering::Release);
        while self.doing.load(Ordering::Acquire) != target as usize && !self.end.load(Ordering::Relaxed) {
            thread::yield_now();
        }
    }

    /// How many SAs it has replaced there so far (a pair of ours is two).
    pub(crate) fn replaced(&self, target: Target) -> u64 {
        self.replaced.get(target as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn work(&self, world: &World) -> anyhow::Result<()> {
        // If it fails, nobody waits for it.
        let _stop = Stop(&self.end);
        let (mut ours, mut locked, mut sharded) =
            (world.churn_ours(), world.churn_locked(), world.churn_sharded());
        while !self.end.load(Ordering::Relaxed) {
            let wanted = self.wanted.load(Ordering::Acquire);
            self.doing.store(wanted, Ordering::Release);
            let target = TARGETS.get(wanted).copied().unwrap_or(Target::Nothing);
            let sas = match target {
                Target::Nothing => {
                    thread::yield_now();
                    0
                }
                Target::Ours => ours().map(|()| 2)?,
                Target::Locked => locked().map(|()| 1)?,
                Target::Sharded => sharded().map(|()| 1)?,
            };
            if let Some(count) = self.replaced.get(wanted) {
                count.fetch_add(sas, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
