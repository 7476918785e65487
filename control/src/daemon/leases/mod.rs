//! The owner of the address pools: a thread that carries out the engines' lease jobs one after another, and keeps the
//! bindings in a journal. Everybody else reads a picture of them.

mod journal;

use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use portcullis_ike::engine::{Job, JobId, JobResult};
use portcullis_ike::pools::{Binding, LeaseStatus, PoolConfig, PoolUsage, Pools};
use tokio::sync::mpsc::UnboundedSender;

use journal::Journal;

/// The journal's name in `gateway.state_dir`.
const FILE: &str = "leases.jsonl";

/// Asks the owner. Cheap to clone; the thread ends with the last of them.
#[derive(Debug, Clone)]
pub(super) struct Leases {
    jobs: mpsc::Sender<(JobId, Job)>,
    pools: Arc<Mutex<Pools>>,
}

impl Leases {
    /// Starts the owner with what its journal remembers. Results go to `finished`. Without pools nothing is read or
    /// written.
    pub(super) fn start(
        configs: Vec<PoolConfig>,
        state_dir: &Path,
        finished: UnboundedSender<(JobId, JobResult)>,
    ) -> anyhow::Result<Self> {
        let (pools, journal) = match configs.is_empty() {
            true => (Pools::default(), None),
            false => {
                let path = state_dir.join(FILE);
                let (pools, journal) = remember(configs, &path).with_context(|| {
                    format!("cannot keep leases in {} (gateway.state_dir)", path.display())
                })?;
                (pools, Some(journal))
            }
        };
        let pools = Arc::new(Mutex::new(pools));
        let (jobs, inbox) = mpsc::channel::<(JobId, Job)>();
        let mut owner = Owner { pools: Arc::clone(&pools), journal };
        let work = move || {
            while let Ok((id, job)) = inbox.recv() {
                // The engine's task may have ended.
                let _ = finished.send((id, owner.perform(job)));
            }
        };
        std::thread::Builder::new().name("leases".to_owned()).spawn(work)?;
        Ok(Self { jobs, pools })
    }

    /// Puts a lease job at the end of the queue; gives back any other.
    pub(super) fn submit(&self, id: JobId, job: Job) -> Option<Job> {
        match job {
            Job::AssignAddresses(_) | Job::ReleaseAddresses { .. } => {
                // It ends only with the daemon.
                let _ = self.jobs.send((id, job));
                None
            }
            other => Some(other),
        }
    }

    /// How full the pools are.
    pub(super) fn usage(&self) -> Vec<PoolUsage> {
        lock(&self.pools).usage()
    }

    /// Every lease.
    pub(super) fn leases(&self) -> Vec<LeaseStatus> {
        lock(&self.pools).leases()
    }
}

fn remember(configs: Vec<PoolConfig>, path: &Path) -> std::io::Result<(Pools, Journal)> {
    let mut pools = Pools::new(configs);
    let (bindings, broken) = Journal::read(path)?;
    let all = bindings.len();
    let known = bindings.into_iter().filter(|binding| pools.restore(binding.clone())).count();
    if broken > 0 || known < all {
        let (path, foreign) = (path.display(), all - known);
        tracing::warn!(%path, broken, foreign, "some remembered leases cannot be read, or are of no pool any more");
    }
    let journal = Journal::write(path, &current(&pools))?;
    Ok((pools, journal))
}

fn current(pools: &Pools) -> Vec<Binding> {
    pools.leases().into_iter().map(|lease| lease.binding).collect()
}

struct Owner {
    pools: Arc<Mutex<Pools>>,
    journal: Option<Journal>,
}

impl Owner {
    fn perform(&mut self, job: Job) -> JobResult {
        let mut pools = lock(&self.pools);
        match job {
            Job::AssignAddresses(request) => {
                let assignment = pools.assign(&request);
                let fresh: Vec<Binding> = std::iter::from_fn(|| pools.poll_binding()).collect();
                drop(pools);
                self.keep(&fresh);
                JobResult::AddressesAssigned(Box::new(assignment))
            }
            Job::ReleaseAddresses { leases } => {
                pools.release(&leases);
                JobResult::AddressesReleased
            }
            // `Leases::submit` lets nothing else pass.
            _ => JobResult::AddressesReleased,
        }
    }

    /// A lease that cannot be written down is still a lease.
    fn keep(&mut self, fresh: &[Binding]) {
        let Some(journal) = &mut self.journal else { return };
        for binding in fresh {
            if let Err(error) = journal.append(binding) {
                let path = journal.path().display();
                tracing::error!(%path, %error, "a lease cannot be written down, and will not survive a restart");
            }
        }
        if fresh.is_empty() {
            return;
        }
        let bindings = {
            let pools = lock(&self.pools);
            let count: usize = pools.usage().iter().map(|pool| pool.online + pool.offline).sum();
            journal.is_mostly_outdated(count).then(|| current(&pools))
        };
        if let Some(bindings) = bindings {
            match Journal::write(journal.path(), &bindings) {
                Ok(new) => *journal = new,
                Err(error) => tracing::error!(%error, "the journal of leases cannot be written anew"),
            }
        }
    }
}

fn lock(pools: &Mutex<Pools>) -> MutexGuard<'_, Pools> {
    pools.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use portcullis_ike::pools::{AddressRequest, Attributes, Grant};
    use portcullis_ipsec::AddressRange;

    use super::*;

    fn config() -> Vec<PoolConfig> {
        let addrs = AddressRange::new([10, 3, 0, 1].into(), [10, 3, 0, 9].into()).unwrap();
        vec![PoolConfig { name: "ra".to_owned(), addrs, attributes: Attributes::default() }]
    }

    fn assign(owner: &mut Owner, identity: &str) -> String {
        let request = AddressRequest {
            identity: identity.to_owned(),
            pools: vec!["ra".to_owned()],
            wanted: vec![[0, 0, 0, 0].into()],
            grant: Grant::default(),
        };
        let JobResult::AddressesAssigned(assignment) = owner.perform(Job::AssignAddresses(Box::new(request)))
        else {
            panic!("another result");
        };
        let lease = assignment.leases[0].clone();
        owner.perform(Job::ReleaseAddresses { leases: vec![lease.clone()] });
        lease.address.to_string()
    }

    fn owner(path: &Path) -> Owner {
        let (pools, journal) = remember(config(), path).unwrap();
        Owner { pools: Arc::new(Mutex::new(pools)), journal: Some(journal) }
    }

    #[test]
    fn an_identity_finds_its_address_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut before = owner(&path);
        assert_eq!(assign(&mut before, "a"), "10.3.0.1");
        assert_eq!(assign(&mut before, "b"), "10.3.0.2");
        // No orderly stop.
        drop(before);
        let mut after = owner(&path);
        assert_eq!(assign(&mut after, "b"), "10.3.0.2");
        assert_eq!(assign(&mut after, "c"), "10.3.0.3");
        assert_eq!(assign(&mut after, "a"), "10.3.0.1");
    }

    #[test]
    fn the_journal_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut owner = owner(&path);
        for number in 0..5000 {
            assign(&mut owner, &format!("client{number}"));
        }
        let (bindings, broken) = Journal::read(&path).unwrap();
        assert!(bindings.len() < 1100, "{}", bindings.len());
        assert_eq!(broken, 0);
        let expected = current(&lock(&owner.pools));
        let (pools, _) = remember(config(), &path).unwrap();
        assert_eq!(current(&pools), expected);
    }
}
