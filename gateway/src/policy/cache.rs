//! A worker's own memory of which policy covers which flow.
//!
//! It remembers policies, never SAs: the policy's handle is asked for each run of packets, so that a rekey, a
//! removed SA or a removed policy takes effect with the next one. What it remembers holds for one snapshot.

use std::net::IpAddr;
use std::sync::Arc;

use portcullis_ipsec::{Flow, TenantId};

use super::{PolicyEntry, Snapshot, Verdict};

/// Direct-mapped: a flow has one place, and the last one there stays.
#[derive(Debug)]
pub struct FlowCache {
    places: Box<[Option<Place>]>,
    seed: u64,
}

#[derive(Debug)]
struct Place {
    generation: u64,
    tenant: TenantId,
    flow: Flow,
    /// `None` remembers that no policy covers the flow.
    entry: Option<Arc<PolicyEntry>>,
}

impl FlowCache {
    /// With room for `flows`, rounded up to a power of two. `seed` is random, so that nobody outside can choose
    /// flows that share a place.
    pub fn new(flows: usize, seed: u64) -> Self {
        Self { places: (0..flows.next_power_of_two()).map(|_| None).collect(), seed }
    }

    /// What [`Snapshot::lookup`] says, remembered. One cache goes with the snapshots of one table.
    #[inline]
    pub fn lookup<'c>(
        &'c mut self,
        snapshot: &Snapshot,
        tenant: TenantId,
        flow: &Flow,
    ) -> Option<&'c Arc<PolicyEntry>> {
        let index = hash(self.seed, tenant, flow) as usize & (self.places.len() - 1);
        let place = self.places.get_mut(index)?;
        let fresh = place.as_ref().is_some_and(|place| {
            place.generation == snapshot.generation() && place.flow == *flow && place.tenant == tenant
        });
        if !fresh {
            let entry = match snapshot.lookup(tenant, flow) {
                Verdict::Covered(entry) => Some(Arc::clone(entry)),
                Verdict::NoMatch => None,
            };
            *place = Some(Place { generation: snapshot.generation(), tenant, flow: *flow, entry });
        }
        place.as_ref()?.entry.as_ref()
    }
}

fn hash(seed: u64, tenant: TenantId, flow: &Flow) -> u64 {
    let bits = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => u64::from(addr.to_bits()),
        IpAddr::V6(addr) => (addr.to_bits() >> 64) as u64 ^ (addr.to_bits() as u64).rotate_left(29),
    };
    let ports = u64::from(flow.src_port.unwrap_or(0)) << 16 | u64::from(flow.dst_port.unwrap_or(0));
    let rest = u64::from(tenant.0) << 40 ^ u64::from(flow.protocol) << 32 ^ ports;
    [bits(flow.src), bits(flow.dst), rest].into_iter().fold(seed, |hash, word| {
        let product = u128::from(hash ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        (product >> 64) as u64 ^ product as u64
    })
}
