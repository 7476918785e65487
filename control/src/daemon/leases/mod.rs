//! The owner of the address pools: a thread that carries out the engines' lease jobs one after another, and keeps the
//! bindings in a journal. Everybody else reads a picture of them.

mod journal;

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use portcullis_ike::engine::{Job, JobId, JobResult};
use portcullis_ike::pools::{Binding, LeaseStatus, PoolChange, PoolConfig, PoolUsage, Pools};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use journal::Journal;

/// The journal's name in `gateway.state_dir`.
const FILE: &str = "leases.jsonl";

/// Asks the owner. Cheap to clone; the thread ends with the last of them.
#[derive(Debug, Clone)]
pub(super) struct Leases {
    orders: mpsc::Sender<Order>,
    pools: Arc<Mutex<Pools>>,
}

/// What the owner is asked, one after another.
#[derive(Debug)]
enum Order {
    /// Its result goes to whoever gave it.
    Job(JobId, Job, UnboundedSender<(JobId, JobResult)>),
    /// To make sure that leases can be kept.
    Prepare(oneshot::Sender<std::io::Result<()>>),
    Reconfigure(Vec<PoolConfig>),
}

impl Leases {
    /// Starts the owner with what its journal remembers. Without pools nothing is read or written.
    pub(super) fn start(configs: Vec<PoolConfig>, state_dir: &Path) -> anyhow::Result<Self> {
        let mut owner = Owner::new(state_dir.join(FILE));
        if !configs.is_empty() {
            let path = owner.path.display().to_string();
            owner.prepare().with_context(|| format!("cannot keep leases in {path} (gateway.state_dir)"))?;
            owner.reconfigure(configs);
        }
        let pools = Arc::clone(&owner.pools);
        let (orders, inbox) = mpsc::channel();
        let work = move || {
            while let Ok(order) = inbox.recv() {
                // Whoever asked may have gone.
                match order {
                    Order::Job(id, job, finished) => drop(finished.send((id, owner.perform(job)))),
                    Order::Prepare(reply) => drop(reply.send(owner.prepare())),
                    Order::Reconfigure(configs) => owner.reconfigure(configs),
                }
            }
        };
        std::thread::Builder::new().name("leases".to_owned()).spawn(work)?;
        Ok(Self { orders, pools })
    }

    /// What other pools would mean for the leases that there are now.
    pub(super) fn changes(&self, configs: &[PoolConfig]) -> Vec<PoolChange> {
        lock(&self.pools).changes(configs)
    }

    /// Makes sure that leases can be kept, before there are pools.
    pub(super) async fn prepare(&self) -> std::io::Result<()> {
        let (reply, answer) = oneshot::channel();
        // The owner ends only with the daemon.
        let _ = self.orders.send(Order::Prepare(reply));
        answer.await.unwrap_or_else(|_| Err(std::io::ErrorKind::BrokenPipe.into()))
    }

    /// Puts other pools in force for every job that is submitted from now on.
    pub(super) fn reconfigure(&self, configs: Vec<PoolConfig>) {
        let _ = self.orders.send(Order::Reconfigure(configs));
    }

    /// Puts a lease job at the end of the queue, whose result goes to `finished`; gives back any other.
    pub(super) fn submit(
        &self,
        id: JobId,
        job: Job,
        finished: &UnboundedSender<(JobId, JobResult)>,
    ) -> Option<Job> {
        match job {
            Job::AssignAddresses(_) | Job::ReleaseAddresses { .. } => {
                // It ends only with the daemon.
                let _ = self.orders.send(Order::Job(id, job, finished.clone()));
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

fn current(pools: &Pools) -> Vec<Binding> {
    pools.leases().into_iter().filter(|lease| !lease.outside).map(|lease| lease.binding).collect()
}

struct Owner {
    path: PathBuf,
    pools: Arc<Mutex<Pools>>,
    /// From the first pools on.
    journal: Option<Journal>,
    /// What it held then, until there are pools to take it.
    remembered: Vec<Binding>,
}

impl Owner {
    /// Without pools. Nothing is read or written until there are some.
    fn new(path: PathBuf) -> Self {
        Self { path, pools: Arc::default(), journal: None, remembered: Vec::new() }
    }

    /// Reads the journal, and makes sure that it can be written.
    fn prepare(&mut self) -> std::io::Result<()> {
        if self.journal.is_some() {
            return Ok(());
        }
        let (bindings, broken) = Journal::read(&self.path)?;
        if broken > 0 {
            tracing::warn!(path = %self.path.display(), broken, "some remembered leases cannot be read");
        }
        self.journal = Some(Journal::write(&self.path, &bindings)?);
        self.remembered = bindings;
        Ok(())
    }

    /// Leases stay as far as the new pools have them, and those in use in any case.
    fn reconfigure(&mut self, configs: Vec<PoolConfig>) {
        let bindings = {
            let mut pools = lock(&self.pools);
            pools.reconfigure(configs);
            let all = self.remembered.len();
            let known =
                std::mem::take(&mut self.remembered).into_iter().filter(|lease| pools.restore(lease.clone()));
            let foreign = all - known.count();
            if foreign > 0 {
                tracing::warn!(path = %self.path.display(), foreign, "some remembered leases are of no pool any more");
            }
            current(&pools)
        };
        self.write_anew(&bindings);
    }

    fn write_anew(&mut self, bindings: &[Binding]) {
        let Some(journal) = &mut self.journal else { return };
        match Journal::write(journal.path(), bindings) {
            Ok(new) => *journal = new,
            Err(error) => tracing::error!(%error, "the journal of leases cannot be written anew"),
        }
    }

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
            self.write_anew(&bindings);
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
        let mut owner = Owner::new(path.to_owned());
        owner.prepare().unwrap();
        owner.reconfigure(config());
        owner
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
        let after = self::owner(&path);
        assert_eq!(current(&lock(&after.pools)), expected);
    }

    #[test]
    fn pools_that_come_later_find_what_was_remembered_and_a_renamed_one_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut before = owner(&path);
        assert_eq!(assign(&mut before, "a"), "10.3.0.1");
        assert_eq!(assign(&mut before, "b"), "10.3.0.2");
        drop(before);
        let mut without = Owner::new(path.clone());
        without.reconfigure(Vec::new());
        assert_eq!(Journal::read(&path).unwrap().0.len(), 2, "the journal is left alone");
        without.prepare().unwrap();
        without.reconfigure(config());
        assert_eq!(assign(&mut without, "b"), "10.3.0.2");
        let renamed = PoolConfig { name: "clients".to_owned(), ..config().remove(0) };
        without.reconfigure(vec![renamed]);
        let (bindings, _) = Journal::read(&path).unwrap();
        let kept: Vec<_> =
            bindings.iter().map(|lease| (lease.pool.as_str(), lease.identity.as_str())).collect();
        assert_eq!(kept, [("clients", "a"), ("clients", "b")]);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_known_before_there_are_pools() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let mut owner = Owner::new(dir.path().join("file").join(FILE));
        assert!(owner.prepare().is_err());
        assert!(owner.journal.is_none());
    }
}
