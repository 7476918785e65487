//! Which packets must be protected, and by which SA.
//!
//! - [`snapshot`]: all policies at one moment, looked up by longest prefix; a new one for every change.
//! - [`entry`]: one policy with the handle of its current outbound SA; a rekey is one store into it.
//! - [`lanes`]: the SAs of it that belong to one worker each.
//! - [`cache`]: what each worker remembers.
//!
//! Start at [`PolicyTable`]. Workers take [`PolicyTable::snapshot`] once per batch and look flows up in it through
//! their [`FlowCache`]. Installing and removing is the installer's affair.

pub mod cache;
pub mod entry;
pub(crate) mod lanes;
pub mod snapshot;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use portcullis_ipsec::{InstallError, Policy, PolicyAction, PolicyCounters, PolicyId};

pub use self::cache::FlowCache;
pub use self::entry::PolicyEntry;
use self::snapshot::{MAX_PREFIX_PAIRS, prefix_pairs};
pub use self::snapshot::{Snapshot, Verdict};
use crate::limiter::{Limiters, Ticks};
use crate::sa::entry::invalid;
use crate::sync::{Mutex, MutexGuard, lock};

/// Most policies that a table can have room for.
pub const MAX_POLICIES: usize = 1 << 20;

/// Most tenants that have devices of their own. Each is a TUN device that one thread reads.
pub const MAX_DEVICES: usize = 256;

/// The prefixes of policies. What goes from a local to a remote one of those that do not bypass is the workers' affair,
/// and travels in clear only where they find a policy that bypasses it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProtectedPrefixes {
    /// Sources of what we seal.
    pub local: Vec<IpNet>,
    /// Destinations of what we seal.
    pub remote: Vec<IpNet>,
    /// Sources of what bypasses.
    pub pass_local: Vec<IpNet>,
    /// Destinations of what bypasses.
    pub pass_remote: Vec<IpNet>,
}

impl ProtectedPrefixes {
    /// Those of a policy, on the sides that its action chooses.
    fn of(policy: &Policy, local: Vec<IpNet>, remote: Vec<IpNet>) -> Self {
        if bypasses(policy) {
            Self { pass_local: local, pass_remote: remote, ..Self::default() }
        } else {
            Self { local, remote, ..Self::default() }
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        let Self { local, remote, pass_local, pass_remote } = self;
        [local, remote, pass_local, pass_remote].into_iter().all(Vec::is_empty)
    }
}

/// All policies.
#[derive(Debug)]
pub struct PolicyTable {
    current: ArcSwap<Snapshot>,
    writer: Mutex<WriterState>,
    capacity: usize,
    workers: u16,
    limiters: Arc<Limiters>,
}

#[derive(Debug)]
struct WriterState {
    /// By index. A policy's number is its generation and index, so that a number comes again late.
    places: Vec<Place>,
    free: VecDeque<u32>,
    installed: u64,
    /// Of the policies that do not bypass.
    protected: CountedSides,
    /// Of those that bypass.
    passed: CountedSides,
    /// What policies did that were removed, by name.
    gone: BTreeMap<String, PolicyCounters>,
}

#[derive(Debug, Default)]
struct CountedSides {
    local: Counted,
    remote: Counted,
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    entry: Option<Arc<PolicyEntry>>,
}

impl PolicyTable {
    /// Room for `capacity` policies.
    pub fn new(capacity: usize) -> Result<Self, InstallError> {
        if !(1..=MAX_POLICIES).contains(&capacity) {
            return Err(invalid("gateway.max_policies", capacity, "1 to 1048576"));
        }
        let writer = WriterState {
            places: (0..capacity).map(|_| Place::default()).collect(),
            free: (0..capacity as u32).collect(),
            installed: 0,
            protected: CountedSides::default(),
            passed: CountedSides::default(),
            gone: BTreeMap::new(),
        };
        let limiters = Arc::new(Limiters::new(capacity + MAX_DEVICES));
        let (current, writer) = (ArcSwap::default(), Mutex::new(writer));
        Ok(Self { current, writer, capacity, workers: 0, limiters })
    }

    /// The same, before it is shared, for policies of which each worker has its own SA.
    #[must_use]
    pub fn with_workers(self, workers: usize) -> Self {
        // A worker's number has as many bits.
        Self { workers: u16::try_from(workers).unwrap_or(u16::MAX), ..self }
    }

    /// The same, before it is shared, with another clock for rates; one that does not go back.
    #[must_use]
    pub fn with_clock(self, clock: impl Fn() -> Ticks + Send + Sync + 'static) -> Self {
        let limiters = Limiters::new(self.capacity + MAX_DEVICES).with_clock(clock);
        Self { limiters: Arc::new(limiters), ..self }
    }

    /// The rates of policies.
    pub fn limiters(&self) -> &Arc<Limiters> {
        &self.limiters
    }

    /// How many policies fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The policies now. To be taken once per batch and let go with it.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.current.load()
    }

    /// The policy of that number.
    pub fn get(&self, id: PolicyId) -> Option<Arc<PolicyEntry>> {
        let writer = lock(&self.writer);
        writer.places.get(self.index(id))?.entry.as_ref().filter(|entry| entry.id() == id).cloned()
    }

    /// The policy that has this index now.
    pub(crate) fn at(&self, index: u32) -> Option<Arc<PolicyEntry>> {
        lock(&self.writer).places.get(index as usize)?.entry.clone()
    }

    /// Every policy, by index.
    pub fn list(&self) -> Vec<Arc<PolicyEntry>> {
        lock(&self.writer).places.iter().filter_map(|place| place.entry.clone()).collect()
    }

    /// Counts what an SA of a policy has carried that has ended, also if the policy was removed meanwhile.
    pub(crate) fn count(&self, entry: &Arc<PolicyEntry>, counts: &PolicyCounters) {
        let mut writer = lock(&self.writer);
        let place = writer.places.get(entry.index as usize);
        if place.and_then(|place| place.entry.as_ref()).is_some_and(|there| Arc::ptr_eq(there, entry)) {
            entry.count(counts);
        } else {
            writer.count_gone(&entry.policy().name, *counts);
        }
    }

    /// What policies did that were removed, by name.
    pub fn gone(&self) -> BTreeMap<String, PolicyCounters> {
        lock(&self.writer).gone.clone()
    }

    /// What is protected now.
    pub fn protected(&self) -> ProtectedPrefixes {
        let writer = lock(&self.writer);
        ProtectedPrefixes {
            local: writer.protected.local.all(),
            remote: writer.protected.remote.all(),
            pass_local: writer.passed.local.all(),
            pass_remote: writer.passed.remote.all(),
        }
    }

    /// The right to change the table; waits for another thread that has it. Workers are not affected.
    pub(crate) fn control(&self) -> PolicyControl<'_> {
        PolicyControl { table: self, state: lock(&self.writer) }
    }

    fn index(&self, id: PolicyId) -> usize {
        id.0 as usize & (self.capacity.next_power_of_two() - 1)
    }
}

/// The exclusive right to change the policy table.
pub(crate) struct PolicyControl<'t> {
    table: &'t PolicyTable,
    state: MutexGuard<'t, WriterState>,
}

impl PolicyControl<'_> {
    /// Whether the policy could be installed now.
    pub(crate) fn check(&self, policy: &Policy) -> Result<(), InstallError> {
        if policy.tenant.is_routed() && bypasses(policy) {
            let found = "a policy that passes in clear";
            return Err(invalid("policy", found, "one that protects or drops, where there is a device"));
        }
        for (field, selectors) in [("local_ts", &policy.local_ts), ("remote_ts", &policy.remote_ts)] {
            if selectors.is_empty() {
                return Err(invalid(field, "no selectors", "at least one"));
            }
        }
        let pairs = prefix_pairs(&policy.local_ts, &policy.remote_ts);
        if pairs > MAX_PREFIX_PAIRS {
            let found = format_args!("selectors that come to {pairs} pairs of prefixes");
            return Err(invalid(
                "local_ts and remote_ts",
                found,
                "at most 4096 pairs: use prefixes, not ranges",
            ));
        }
        let families = |v4: bool| {
            let has = |selectors: &[portcullis_ipsec::TrafficSelector]| {
                selectors.iter().any(|selector| selector.addrs.start().is_ipv4() == v4)
            };
            has(&policy.local_ts) && has(&policy.remote_ts)
        };
        if !families(true) && !families(false) {
            let found = "local and remote selectors without a common address family";
            return Err(invalid("local_ts and remote_ts", found, "selectors of one family on both sides"));
        }
        if self.state.free.is_empty() {
            let found = format_args!("{} policies are installed already", self.table.capacity);
            return Err(invalid("gateway.max_policies", found, "a higher limit"));
        }
        Ok(())
    }

    /// The prefixes that the policy would be the first to protect.
    pub(crate) fn would_protect(&self, policy: &Policy) -> ProtectedPrefixes {
        let (local, remote) = prefixes(policy);
        let WriterState { protected, passed, .. } = &*self.state;
        let sides = if bypasses(policy) { passed } else { protected };
        ProtectedPrefixes::of(policy, sides.local.missing(local), sides.remote.missing(remote))
    }

    /// Installs a policy that [`PolicyControl::check`] allows.
    pub(crate) fn install(&mut self, policy: Policy) -> Result<PolicyId, InstallError> {
        self.check(&policy)?;
        let state = &mut *self.state;
        let Some(index) = state.free.pop_front() else { return Err(InstallError::Stopped) };
        let Some(place) = state.places.get_mut(index as usize) else { return Err(InstallError::Stopped) };
        place.generation = place.generation.wrapping_add(1);
        let bits = self.table.capacity.next_power_of_two().trailing_zeros();
        let id = PolicyId(place.generation.checked_shl(bits).unwrap_or(0) | index);
        let ((local, remote), bypassing) = (prefixes(&policy), bypasses(&policy));
        let entry = Arc::new(PolicyEntry::new(id, index, policy, self.table.workers));
        place.entry = Some(Arc::clone(&entry));
        let sides = state.sides(bypassing);
        sides.local.add(local);
        sides.remote.add(remote);
        state.installed += 1;
        let next = self.table.current.load().with(&entry, state.installed);
        self.table.current.store(Arc::new(next));
        Ok(id)
    }

    /// Removes a policy, and says which prefixes nothing protects any more.
    pub(crate) fn remove(&mut self, id: PolicyId) -> Result<ProtectedPrefixes, InstallError> {
        let state = &mut *self.state;
        let place = state.places.get_mut(self.table.index(id));
        let entry = place.and_then(|place| place.entry.take_if(|entry| entry.id() == id));
        let entry = entry.ok_or(InstallError::UnknownPolicy(id))?;
        // First the SA, then the policy: who still has the old snapshot drops, and never sends in clear.
        entry.disarm();
        let next = self.table.current.load().without(&entry);
        self.table.current.store(Arc::new(next));
        state.free.push_back(entry.index);
        state.count_gone(&entry.policy().name, entry.counted());
        let (local, remote) = prefixes(entry.policy());
        let sides = state.sides(bypasses(entry.policy()));
        let (local, remote) = (sides.local.subtract(local), sides.remote.subtract(remote));
        Ok(ProtectedPrefixes::of(entry.policy(), local, remote))
    }
}

impl WriterState {
    fn count_gone(&mut self, name: &str, counts: PolicyCounters) {
        match self.gone.get_mut(name) {
            Some(gone) => *gone = gone.plus(counts),
            None => drop(self.gone.insert(name.to_owned(), counts)),
        }
    }

    fn sides(&mut self, bypassing: bool) -> &mut CountedSides {
        if bypassing { &mut self.passed } else { &mut self.protected }
    }
}

fn bypasses(policy: &Policy) -> bool {
    policy.action == PolicyAction::Bypass
}

/// The distinct prefixes of either side, as far as they concern anybody but the workers: what goes into a tunnel that has a
/// device of its own, the kernel's routes say.
fn prefixes(policy: &Policy) -> (Vec<IpNet>, Vec<IpNet>) {
    if policy.tenant.is_routed() {
        return (Vec::new(), Vec::new());
    }
    let side = |selectors: &[portcullis_ipsec::TrafficSelector]| {
        let mut nets: Vec<_> = selectors.iter().flat_map(|selector| selector.addrs.prefixes()).collect();
        nets.sort_unstable();
        nets.dedup();
        nets
    };
    (side(&policy.local_ts), side(&policy.remote_ts))
}

/// Prefixes, each with the number of policies that have it.
#[derive(Debug, Default)]
struct Counted(BTreeMap<IpNet, usize>);

impl Counted {
    fn all(&self) -> Vec<IpNet> {
        self.0.keys().copied().collect()
    }

    fn missing(&self, mut nets: Vec<IpNet>) -> Vec<IpNet> {
        nets.retain(|net| !self.0.contains_key(net));
        nets
    }

    fn add(&mut self, nets: Vec<IpNet>) {
        for net in nets {
            *self.0.entry(net).or_insert(0) += 1;
        }
    }

    /// Those that were the last.
    fn subtract(&mut self, mut nets: Vec<IpNet>) -> Vec<IpNet> {
        nets.retain(|net| match self.0.get_mut(net) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            _ => self.0.remove(net).is_some(),
        });
        nets
    }
}
