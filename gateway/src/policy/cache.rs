//! A worker's own memory of which policy covers which flow.
//!
//! It remembers policies, never SAs: the policy's handle is asked for each packet, so that a rekey, a removed SA or a
//! removed policy takes effect with the next one. What it remembers holds for one snapshot.

use std::sync::Arc;

use portcullis_ipsec::TenantId;

use super::{PolicyEntry, Snapshot, Verdict};
use crate::prefetch;
use crate::wire::FlowKey;

/// Direct-mapped: a flow has one place, and the last one there stays.
#[derive(Debug)]
pub struct FlowCache {
    places: Box<[Place]>,
    seed: u64,
    /// Of the snapshot that what is remembered now holds for.
    generation: u64,
    /// Counts snapshots; places of earlier ones are as good as empty.
    epoch: u32,
}

/// One cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Place {
    flow: FlowKey,
    /// `None` remembers that no policy covers the flow.
    entry: Option<Arc<PolicyEntry>>,
    tenant: TenantId,
    /// Never 0 in use.
    epoch: u32,
}

const _: () = assert!(size_of::<Place>() == 64);

impl Place {
    #[cold]
    fn fill(&mut self, snapshot: &Snapshot, tenant: TenantId, flow: &FlowKey, epoch: u32) {
        let entry = match snapshot.lookup(tenant, &flow.flow()) {
            Verdict::Protect(entry) => Some(Arc::clone(entry)),
            Verdict::NoMatch => None,
        };
        *self = Self { flow: *flow, entry, tenant, epoch };
    }
}

impl FlowCache {
    /// With room for `flows`, rounded up to a power of two. `seed` is random, so that nobody outside can choose
    /// flows that share a place.
    pub fn new(flows: usize, seed: u64) -> Self {
        let empty = || Place {
            flow: FlowKey::from_words([0; 5]),
            entry: None,
            tenant: TenantId::default(),
            epoch: 0,
        };
        let places = (0..flows.next_power_of_two()).map(|_| empty()).collect();
        Self { places, seed, generation: 0, epoch: 1 }
    }

    /// Which place the flow has, and asks the processor for it.
    #[inline(always)]
    pub fn locate(&self, tenant: TenantId, flow: &FlowKey) -> usize {
        let index = flow.hash(self.seed, tenant) as usize & (self.places.len() - 1);
        if let Some(place) = self.places.get(index) {
            prefetch::start(place);
        }
        index
    }

    /// What [`Snapshot::lookup`] says, remembered, for a flow in its place. One cache goes with the snapshots of one
    /// table.
    #[inline(always)]
    pub fn lookup(
        &mut self,
        snapshot: &Snapshot,
        tenant: TenantId,
        flow: &FlowKey,
        place: usize,
    ) -> Option<&Arc<PolicyEntry>> {
        if snapshot.generation() != self.generation {
            self.forget(snapshot);
        }
        let place = self.places.get_mut(place)?;
        if place.epoch != self.epoch || place.flow != *flow || place.tenant != tenant {
            place.fill(snapshot, tenant, flow, self.epoch);
        }
        place.entry.as_ref()
    }

    #[cold]
    fn forget(&mut self, snapshot: &Snapshot) {
        self.generation = snapshot.generation();
        self.epoch = self.epoch.wrapping_add(1);
        if self.epoch == 0 {
            self.places.iter_mut().for_each(|place| place.epoch = 0);
            self.epoch = 1;
        }
    }
}
