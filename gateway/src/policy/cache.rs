//! A worker's own memory of which policy covers which flow.
//!
//! It remembers policies; which SA is a policy's, the policy's handle is asked for each packet, so that a rekey, a
//! removed SA or a removed policy takes effect with the next one. What it remembers holds for one snapshot.

use std::sync::Arc;

use portcullis_ipsec::TenantId;

use super::{PolicyEntry, Snapshot, Verdict};
use crate::prefetch;
use crate::sa::slab;
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
    /// Lookups since [`FlowCache::take_misses`] of what was not remembered.
    misses: u32,
}

/// One cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Place {
    flow: FlowKey,
    /// `None` remembers that no policy covers the flow.
    entry: Option<Arc<PolicyEntry>>,
    /// The SA whose selectors the flow is known to lie within, as a word, or 0: an outbound one where there is a policy, an
    /// inbound one where there is none.
    permitted: u64,
    tenant: TenantId,
    /// Never 0 in use.
    epoch: u32,
}

const _: () = assert!(size_of::<Place>() == 64);

impl Place {
    #[cold]
    fn fill(&mut self, snapshot: &Snapshot, tenant: TenantId, flow: &FlowKey, epoch: u32) {
        let entry = match snapshot.lookup(tenant, &flow.flow()) {
            Verdict::Covered(entry) => Some(Arc::clone(entry)),
            Verdict::NoMatch => None,
        };
        *self = Self { flow: *flow, entry, permitted: 0, tenant, epoch };
    }
}

impl FlowCache {
    /// With room for `flows`, rounded up to a power of two. `seed` is random, so that nobody outside can choose
    /// flows that share a place.
    pub fn new(flows: usize, seed: u64) -> Self {
        let empty = || Place {
            flow: FlowKey::from_words([0; 5]),
            entry: None,
            permitted: 0,
            tenant: TenantId::default(),
            epoch: 0,
        };
        // A flow may be anywhere: without huge pages the processor would look for its page as long as for its line.
        let mut places = slab::room_for(flows.next_power_of_two());
        places.extend((0..flows.next_power_of_two()).map(|_| empty()));
        Self { places: places.into_boxed_slice(), seed, generation: 0, epoch: 1, misses: 0 }
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

    /// Asks the processor for the handle of the policy that is in a place, whatever flow it belongs to.
    #[inline(always)]
    pub(crate) fn prefetch_policy(&self, place: usize) {
        if let Some(entry) = self.places.get(place).and_then(|place| place.entry.as_ref()) {
            entry.prefetch_handle();
        }
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
        self.recall(snapshot, tenant, flow, place)?.0
    }

    /// The same, and the SA that [`FlowCache::permit`] has noted since.
    #[inline(always)]
    pub(crate) fn recall(
        &mut self,
        snapshot: &Snapshot,
        tenant: TenantId,
        flow: &FlowKey,
        place: usize,
    ) -> Option<(Option<&Arc<PolicyEntry>>, u64)> {
        if snapshot.generation() != self.generation {
            self.forget(snapshot);
        }
        let place = self.places.get_mut(place)?;
        if place.epoch != self.epoch || place.flow != *flow || place.tenant != tenant {
            place.fill(snapshot, tenant, flow, self.epoch);
            self.misses += 1;
        }
        Some((place.entry.as_ref(), place.permitted))
    }

    /// Whether a flow is remembered.
    #[inline(always)]
    pub(crate) fn remembers(
        &self,
        snapshot: &Snapshot,
        tenant: TenantId,
        flow: &FlowKey,
        place: usize,
    ) -> bool {
        self.places.get(place).is_some_and(|place| {
            snapshot.generation() == self.generation
                && place.epoch == self.epoch
                && place.flow == *flow
                && place.tenant == tenant
        })
    }

    /// How many lookups were of what was not remembered, since the last call.
    #[inline]
    pub(crate) fn take_misses(&mut self) -> u32 {
        std::mem::take(&mut self.misses)
    }

    /// Whether it is remembered that no policy covers a flow, and [`FlowCache::permit`] has noted that it lies within the
    /// selectors of this SA.
    #[inline(always)]
    pub(crate) fn is_permitted(
        &self,
        snapshot: &Snapshot,
        tenant: TenantId,
        flow: &FlowKey,
        place: usize,
        sa: u64,
    ) -> bool {
        self.remembers(snapshot, tenant, flow, place)
            && self.places.get(place).is_some_and(|place| place.permitted == sa && place.entry.is_none())
    }

    /// Notes that a flow lies within the selectors, which never change, of the SA that this word names: of an outbound one
    /// if the flow is remembered as `covered` by a policy, of an inbound one if it is as covered by none.
    pub(crate) fn permit(&mut self, covered: bool, tenant: TenantId, flow: &FlowKey, place: usize, sa: u64) {
        if let Some(place) = self.places.get_mut(place)
            && place.flow == *flow
            && place.tenant == tenant
            && place.entry.is_some() == covered
        {
            place.permitted = sa;
        }
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
