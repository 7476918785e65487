//! The sessions of `portcullis trace` and `portcullis capture`. Whoever opened one may be gone: one that nobody reads is
//! closed, so that nothing is looked at for nobody.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portcullis_gateway::trace::{Filter, Hub, Octets, Record, Session};

/// How long a session lives that nobody reads.
const PATIENCE: Duration = Duration::from_secs(10);

/// Open sessions by number.
#[derive(Debug)]
pub(crate) struct Traces {
    hub: Arc<Hub>,
    open: Mutex<Opened>,
}

#[derive(Debug, Default)]
struct Opened {
    last: u64,
    sessions: HashMap<u64, (Arc<Session>, Instant)>,
}

impl Traces {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self { hub, open: Mutex::default() }
    }

    /// Opens one; `None` if there are too many.
    pub(crate) fn open(self: &Arc<Self>, filter: Filter, per_second: u32, octets: Octets) -> Option<u64> {
        let session = self.hub.open(filter, per_second, octets)?;
        let mut open = self.lock();
        open.last += 1;
        let id = open.last;
        open.sessions.insert(id, (session, Instant::now()));
        tokio::spawn(Arc::clone(self).watch(id));
        Some(id)
    }

    /// What it has seen since it was last read, and how many packets it has missed in all.
    pub(crate) fn read(&self, id: u64) -> Option<(Vec<Arc<Record>>, Octets, u64)> {
        let mut open = self.lock();
        let (session, read) = open.sessions.get_mut(&id)?;
        *read = Instant::now();
        let records = std::iter::from_fn(|| session.next()).collect();
        Some((records, session.octets(), session.missed()))
    }

    /// Closes one.
    pub(crate) fn close(&self, id: u64) {
        if let Some((session, _)) = self.lock().sessions.remove(&id) {
            self.hub.close(&session);
        }
    }

    async fn watch(self: Arc<Self>, id: u64) {
        loop {
            let Some(read) = self.lock().sessions.get(&id).map(|(_, read)| *read) else { return };
            if read.elapsed() >= PATIENCE {
                return self.close(id);
            }
            tokio::time::sleep(PATIENCE.saturating_sub(read.elapsed())).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Opened> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_session_that_is_closed_or_unknown_has_nothing_to_tell() {
        let hub = Arc::new(Hub::default());
        let traces = Arc::new(Traces::new(Arc::clone(&hub)));
        let id = traces.open(Filter::default(), 1, Octets::None).unwrap();
        assert!(hub.is_on() && traces.read(id).is_some() && traces.read(id + 1).is_none());
        traces.close(id);
        assert!(!hub.is_on() && traces.read(id).is_none());
    }
}
