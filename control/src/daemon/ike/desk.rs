//! Where an engine's jobs are done: by whom, and where the results go.

use std::sync::Arc;

use portcullis_ike::engine::{Job, JobId, JobResult};
use portcullis_ipsec::SaInstaller;
use tokio::sync::mpsc;

use super::spread::ToRegistry;
use crate::daemon::crls::CrlStore;
use crate::daemon::jobs::threads::JobThreads;
use crate::daemon::jobs::{self, Place};
use crate::daemon::leases::Leases;
use crate::daemon::traffic::Traffic;
use crate::radius::Radius;

/// What comes back of a job.
pub(super) type Finished = (JobId, JobResult);

/// What all engines' jobs are done with.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) installer: Arc<dyn SaInstaller>,
    pub(super) crls: Arc<CrlStore>,
    pub(super) radius: Arc<Radius>,
    pub(super) leases: Leases,
    pub(super) traffic: Arc<Traffic>,
    pub(super) threads: Arc<JobThreads>,
    /// The firewall mark of our own packets.
    pub(super) mark: u32,
}

/// One engine's.
pub(super) struct Desk {
    tools: Tools,
    finished: mpsc::UnboundedSender<Finished>,
    /// What all shards have in common, where there are several, and which of them this one is.
    registry: Option<(usize, mpsc::UnboundedSender<ToRegistry>)>,
}

impl Desk {
    /// Results go to `finished`.
    pub(super) fn new(
        tools: Tools,
        finished: mpsc::UnboundedSender<Finished>,
        registry: Option<(usize, mpsc::UnboundedSender<ToRegistry>)>,
    ) -> Self {
        Self { tools, finished, registry }
    }

    /// Does a job, or has it done; `Some` is the result of one that was done at once.
    pub(super) fn give(&self, id: JobId, job: Job) -> Option<JobResult> {
        let Tools { installer, crls, radius, leases, traffic, threads, mark } = &self.tools;
        let job = leases.submit(id, job, &self.finished)?;
        let finished = self.finished.clone();
        let job = match (job, &self.registry) {
            (Job::Ask(question), Some((shard, registry))) => {
                // It ends only with the daemon, here and below.
                let _ = registry.send(ToRegistry::Ask(*shard, id, *question));
                return None;
            }
            (Job::Tell(note), Some((shard, registry))) => {
                let _ = registry.send(ToRegistry::Tell(*shard, *note));
                return None;
            }
            (Job::AskAaa(question), _) => {
                let radius = Arc::clone(radius);
                tokio::spawn(async move {
                    let answer = radius.authenticate(*question).await;
                    // The task may have ended.
                    let _ = finished.send((id, JobResult::AaaAnswered(Box::new(answer))));
                });
                return None;
            }
            (job, _) => job,
        };
        if let Job::RemoveChild { pair, .. } = &job {
            traffic.closing(*pair, installer.as_ref());
        }
        let (mark, place) = (*mark, jobs::place(&job, threads.alone()));
        if place == Place::Here {
            return Some(jobs::perform(job, installer, mark, crls));
        }
        let (installer, crls) = (Arc::clone(installer), Arc::clone(crls));
        let work = move || {
            // The task may have ended.
            let _ = finished.send((id, jobs::perform(job, &installer, mark, &crls)));
        };
        match place {
            Place::Threads => threads.give(work),
            Place::Blocking | Place::Here => _ = tokio::task::spawn_blocking(work),
        }
        None
    }
}
