//! Routes of what can be reached through CHILD SAs, for a routing daemon (`gateway.export_routes`). What ought to be there
//! is kept here; a thread of its own brings the kernel's table to it, and looks every now and then whether it still is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use portcullis_gateway::netlink::NetlinkError;
use portcullis_gateway::netlink::exported::ExportedRoutes;

use super::Happening;
use super::sessions::{Child, Session};

/// How often the table is looked at: routes go with a device that somebody has put down.
const LOOK: Duration = Duration::from_secs(30);
/// How long to wait after the kernel has refused something.
const REST: Duration = Duration::from_secs(1);

/// What is exported of a CHILD SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Export {
    /// The inner addresses that its peer has of us.
    Addresses,
    /// What the peer's side of it is (`remote_ts`), as negotiated.
    RemoteTs,
}

/// `gateway.export_routes` and what goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportConfig {
    /// What.
    pub what: Export,
    /// Into which table.
    pub table: u32,
    /// Under which protocol number.
    pub protocol: u8,
}

/// Where happenings go in.
#[derive(Debug)]
pub(crate) struct Routes {
    what: Export,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What each CHILD SA leads to, by its number.
    children: HashMap<u64, BTreeSet<IpNet>>,
    /// How many lead there.
    wanted: BTreeMap<IpNet, usize>,
    /// Networks of which the kernel may have to be told.
    dirty: BTreeSet<IpNet>,
    /// The daemon stops: `Some(true)` once everything is taken back.
    stopping: Option<bool>,
}

impl State {
    /// A CHILD SA leads to these from now on, and to nothing else.
    fn lead(&mut self, child: u64, nets: BTreeSet<IpNet>) {
        let before = self.children.remove(&child).unwrap_or_default();
        for net in nets.difference(&before) {
            *self.wanted.entry(*net).or_default() += 1;
            self.dirty.insert(*net);
        }
        for net in before.difference(&nets) {
            if let Some(count) = self.wanted.get_mut(net) {
                *count -= 1;
                if *count == 0 {
                    self.wanted.remove(net);
                }
            }
            self.dirty.insert(*net);
        }
        if !nets.is_empty() {
            self.children.insert(child, nets);
        }
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Routes {
    /// Starts the thread. What an earlier daemon has left is gone when this returns.
    pub(crate) fn start(config: &ExportConfig, tun: u32) -> anyhow::Result<Self> {
        let routes = ExportedRoutes::open(config.table, config.protocol, tun)?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("export-routes".to_owned())
            .spawn(move || follow(routes, &theirs))?;
        Ok(Self { what: config.what, shared })
    }

    /// Notes where CHILD SAs lead. Does not wait.
    pub(super) fn hear(&self, happening: &Happening<'_>) {
        let (child, nets) = match *happening {
            Happening::ChildUp { session, child } | Happening::ChildRekeyed { session, child, .. } => {
                (child.id, self.nets(session, child))
            }
            Happening::ChildDown { child, .. } => (child.id, BTreeSet::new()),
            _ => return,
        };
        lock(&self.shared).lead(child, nets);
        self.shared.changed.notify_all();
    }

    fn nets(&self, session: &Session, child: &Child) -> BTreeSet<IpNet> {
        if session.ike.tenant.is_routed() {
            // What leads into a device of its own, others say; and two tenants may lead to the same.
            return BTreeSet::new();
        }
        match self.what {
            Export::Addresses => session.ike.remote_vips.iter().map(|addr| IpNet::from(*addr)).collect(),
            Export::RemoteTs => child.status.remote_ts.iter().flat_map(|ts| ts.addrs.prefixes()).collect(),
        }
    }

    /// Takes everything back, and waits until that is done, but not for longer than `patience`. Blocks.
    pub(crate) fn finish(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = lock(&self.shared);
        state.stopping = Some(false);
        self.shared.changed.notify_all();
        while state.stopping == Some(false) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return tracing::error!("exported routes are left in the kernel");
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn follow(mut routes: ExportedRoutes, shared: &Shared) {
    let (mut look, mut failing) = (Instant::now() + LOOK, false);
    loop {
        let mut state = lock(shared);
        while state.dirty.is_empty() && state.stopping.is_none() {
            let left = look.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.stopping.is_some() {
            drop(state);
            if let Err(error) = routes.clear() {
                tracing::error!(%error, "exported routes are left in the kernel");
            }
            lock(shared).stopping = Some(true);
            shared.changed.notify_all();
            return;
        }
        let dirty = std::mem::take(&mut state.dirty);
        let wanted: Vec<(IpNet, bool)> =
            dirty.into_iter().map(|net| (net, state.wanted.contains_key(&net))).collect();
        drop(state);
        let mut result = bring(&mut routes, &wanted, shared);
        if look <= Instant::now() {
            look = Instant::now() + LOOK;
            result = result.and_then(|()| compare(&mut routes, shared));
        }
        match result {
            Ok(()) => failing = false,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::error!(%error, "routes are not exported as they ought to be, which is tried again");
                }
                std::thread::sleep(REST);
            }
        }
    }
}

/// Tells the kernel; what it does not take is told again.
fn bring(routes: &mut ExportedRoutes, wanted: &[(IpNet, bool)], shared: &Shared) -> Result<(), NetlinkError> {
    let mut result = Ok(());
    for (net, wanted) in wanted {
        let told = if *wanted { routes.add(*net) } else { routes.remove(*net) };
        if let Err(error) = told {
            lock(shared).dirty.insert(*net);
            result = Err(error);
        }
    }
    result
}

/// Finds out what is missing, or is there for no reason.
fn compare(routes: &mut ExportedRoutes, shared: &Shared) -> Result<(), NetlinkError> {
    let there = routes.read()?;
    let mut state = lock(shared);
    let wanted: BTreeSet<IpNet> = state.wanted.keys().copied().collect();
    state.dirty.extend(there.symmetric_difference(&wanted));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> BTreeSet<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_route_stays_until_the_last_child_that_leads_there_is_gone() {
        let mut state = State::default();
        state.lead(1, nets(&["10.1.0.0/24", "10.2.0.0/24"]));
        state.lead(2, nets(&["10.2.0.0/24"]));
        state.lead(1, nets(&["10.3.0.0/24"]));
        let wanted = |state: &State| state.wanted.keys().copied().collect::<BTreeSet<_>>();
        assert_eq!(wanted(&state), nets(&["10.2.0.0/24", "10.3.0.0/24"]));
        state.lead(2, BTreeSet::new());
        state.lead(1, BTreeSet::new());
        assert!(state.wanted.is_empty() && state.children.is_empty());
        assert_eq!(state.dirty, nets(&["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"]));
    }
}
