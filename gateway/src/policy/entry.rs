//! One policy: what it protects, and the outbound SA that it points to now.

use std::fmt;

use std::sync::Arc;

use portcullis_ipsec::{
    InstallError, Policy, PolicyAction, PolicyCounters, PolicyId, PolicyOrigin, RateLimits,
};

use super::lanes::Lanes;
use crate::limiter::{LimiterIndex, Limiters, PolicyLimiter};
use crate::prefetch;
use crate::sa::OutboundRef;
use crate::sync::{AtomicU64, Line, Ordering};

/// A policy that was installed. Stays the same over every rekey; its handle alone changes, by one store.
#[derive(Debug)]
pub struct PolicyEntry {
    id: PolicyId,
    /// Below the table's capacity, and nobody else's while the policy is installed.
    pub(crate) index: u32,
    policy: Policy,
    limiter: PolicyLimiter,
    changing: Line<Changing>,
}

/// What changes of a policy, on a line of its own. Workers write the counts where there is no SA that has some of its own;
/// those of SAs are added when they end.
#[derive(Debug)]
struct Changing {
    /// The current outbound SA as a word, or 0.
    handle: AtomicU64,
    packets_in: AtomicU64,
    bytes_in: AtomicU64,
    packets_out: AtomicU64,
    bytes_out: AtomicU64,
    dropped: AtomicU64,
    /// SAs that belong to one worker each, where the policy has such.
    lanes: Option<Lanes>,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Line<Changing>>() == 64);

impl PolicyEntry {
    pub(super) fn new(id: PolicyId, index: u32, policy: Policy, workers: u16) -> Self {
        let zero = || AtomicU64::new(0);
        let changing = Changing {
            handle: zero(),
            packets_in: zero(),
            bytes_in: zero(),
            packets_out: zero(),
            bytes_out: zero(),
            dropped: zero(),
            lanes: policy.per_worker.then(|| Lanes::new(workers)),
        };
        Self { id, index, policy, limiter: PolicyLimiter::default(), changing: Line(changing) }
    }

    /// Its name to the control plane.
    pub fn id(&self) -> PolicyId {
        self.id
    }

    /// As it was installed.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What is done with its packets.
    #[inline]
    pub fn action(&self) -> PolicyAction {
        self.policy.action
    }

    /// Whether a packet that finds no SA asks for one.
    pub fn wants_sa(&self) -> bool {
        self.policy.origin == PolicyOrigin::Configured { acquire: true }
    }

    /// The SA that seals its packets now, but for those of workers that have [their own](PolicyEntry::lanes). To be asked anew
    /// for every run of packets: a rekey changes it.
    #[inline]
    pub fn outbound(&self) -> Option<OutboundRef> {
        // Acquire: the SA was published before the handle was set.
        OutboundRef::from_word(self.changing.0.handle.load(Ordering::Acquire))
    }

    /// The SAs of one worker each, where it has such.
    #[inline]
    pub(crate) fn lanes(&self) -> Option<&Lanes> {
        self.changing.0.lanes.as_ref()
    }

    /// Whether packets go through this SA: whoever's, or one worker's.
    pub(crate) fn leads_to(&self, outbound: OutboundRef) -> bool {
        self.outbound() == Some(outbound) || self.worker_of(outbound).is_some()
    }

    /// The worker that alone seals with this SA.
    pub(crate) fn worker_of(&self, outbound: OutboundRef) -> Option<u16> {
        self.lanes()?.worker_of(outbound)
    }

    /// Counts what was done beside SAs, or on ones that have ended.
    pub(crate) fn count(&self, counts: &PolicyCounters) {
        let Changing { packets_in, bytes_in, packets_out, bytes_out, dropped, .. } = &self.changing.0;
        for (counter, count) in [
            (packets_in, counts.packets_in),
            (bytes_in, counts.bytes_in),
            (packets_out, counts.packets_out),
            (bytes_out, counts.bytes_out),
            (dropped, counts.dropped),
        ] {
            if count > 0 {
                counter.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    /// Puts its rates in force, below those of its tenant's device, and says what SAs of it call its limiter; it has one if it ever had a rate.
    pub(crate) fn limit(
        &self,
        limiters: &Arc<Limiters>,
        limits: RateLimits,
        above: Option<LimiterIndex>,
    ) -> Result<Option<LimiterIndex>, InstallError> {
        self.limiter.set(limiters, limits, above)
    }

    /// An inbound SA of it has carried octets before it was known to be one.
    pub(crate) fn charge_inbound(&self, octets: u64) {
        self.limiter.charge_inbound(octets);
    }

    /// What [`PolicyEntry::count`] has counted, and what was beyond its rates.
    pub fn counted(&self) -> PolicyCounters {
        let Changing { packets_in, bytes_in, packets_out, bytes_out, dropped, .. } = &self.changing.0;
        let (limited_in, limited_out) = self.limiter.refused();
        PolicyCounters {
            packets_in: packets_in.load(Ordering::Relaxed),
            bytes_in: bytes_in.load(Ordering::Relaxed),
            packets_out: packets_out.load(Ordering::Relaxed),
            bytes_out: bytes_out.load(Ordering::Relaxed),
            // What would have gone out was counted as an end like others.
            dropped: dropped.load(Ordering::Relaxed) + limited_in,
            limited_in,
            limited_out,
        }
    }

    /// Asks the processor for what [`PolicyEntry::outbound`] and [`PolicyEntry::action`] read.
    pub(super) fn prefetch(&self) {
        self.prefetch_handle();
        prefetch::start(&self.policy.action);
    }

    /// Asks for what [`PolicyEntry::outbound`] reads.
    #[inline(always)]
    pub(super) fn prefetch_handle(&self) {
        prefetch::start(&self.changing);
    }

    /// Points to another SA.
    pub(crate) fn activate(&self, outbound: OutboundRef) {
        self.changing.0.handle.store(outbound.to_word(), Ordering::Release);
    }

    /// Whether this worker may have an SA of its own.
    pub(crate) fn has_lane(&self, worker: u16) -> bool {
        self.lanes().is_some_and(|lanes| lanes.has(worker))
    }

    /// Has one worker seal with this SA; false if workers have no SAs of their own here, or there is no such worker.
    pub(crate) fn activate_for(&self, worker: u16, outbound: OutboundRef) -> bool {
        self.lanes().is_some_and(|lanes| lanes.put(worker, outbound))
    }

    /// Points to none, if it points to this one.
    pub(crate) fn deactivate(&self, outbound: OutboundRef) {
        // Whether it did does not matter: either way it does not afterwards.
        let handle = &self.changing.0.handle;
        let _ = handle.compare_exchange(outbound.to_word(), 0, Ordering::AcqRel, Ordering::Relaxed);
        self.lanes().inspect(|lanes| lanes.take(outbound));
    }

    /// Points to none, for good: the policy is being removed.
    pub(crate) fn disarm(&self) {
        self.changing.0.handle.store(0, Ordering::Release);
        self.lanes().inspect(|lanes| lanes.clear());
    }
}

impl fmt::Display for PolicyEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.policy.name)
    }
}
