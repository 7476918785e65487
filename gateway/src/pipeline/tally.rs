//! Counts that are kept for a run of packets before they are added to what others see.

use std::ptr;
use std::sync::Arc;

use portcullis_ipsec::PolicyCounters;

use crate::coarse::Coarse;
use crate::events::EventBoard;
use crate::frame::Frame;
use crate::policy::PolicyEntry;
use crate::sa::{Limits, Traffic};

/// Adds up what runs of packets of one policy have come to where no SA counts them.
#[derive(Default)]
pub(super) struct PolicyTally(Option<(Arc<PolicyEntry>, PolicyCounters)>);

impl PolicyTally {
    /// Packets that go on in clear.
    #[cold]
    pub(super) fn passed(&mut self, policy: &Arc<PolicyEntry>, frames: &[Frame]) {
        let packets_out = frames.len() as u64;
        let bytes_out = frames.iter().map(|frame| frame.len() as u64).sum();
        self.add(policy, PolicyCounters { packets_out, bytes_out, ..PolicyCounters::default() });
    }

    /// One that ends here.
    #[cold]
    pub(super) fn dropped(&mut self, policy: &Arc<PolicyEntry>) {
        self.add(policy, PolicyCounters { dropped: 1, ..PolicyCounters::default() });
    }

    fn add(&mut self, policy: &Arc<PolicyEntry>, counts: PolicyCounters) {
        match &mut self.0 {
            Some((last, sum)) if Arc::ptr_eq(last, policy) => *sum = sum.plus(counts),
            _ => {
                self.flush();
                self.0 = Some((Arc::clone(policy), counts));
            }
        }
    }

    #[inline(always)]
    pub(super) fn flush(&mut self) {
        if let Some((policy, counts)) = self.0.take() {
            policy.count(&counts);
        }
    }
}

/// Adds up what runs of packets of one SA have carried, so that its counters are touched once per run.
pub(super) struct Tally<'a> {
    events: &'a EventBoard,
    run: Option<(&'a Traffic, &'a Limits, u64, u64)>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(events: &'a EventBoard) -> Self {
        Self { events, run: None }
    }

    /// So many packets, which have so many octets together.
    #[inline(always)]
    pub(super) fn count(
        &mut self,
        (traffic, limits): (&'a Traffic, &'a Limits),
        packets: u64,
        octets: usize,
        now: Coarse,
    ) {
        match &mut self.run {
            Some((current, _, before, bytes)) if ptr::eq(*current, traffic) => {
                *before += packets;
                *bytes += octets as u64;
            }
            _ => {
                self.flush(now);
                self.run = Some((traffic, limits, packets, octets as u64));
            }
        }
    }

    #[inline(never)]
    pub(super) fn flush(&mut self, now: Coarse) {
        if let Some((traffic, limits, packets, bytes)) = self.run.take() {
            self.events.milestones(traffic.count(limits, packets, bytes, now));
        }
    }
}
