//! One policy: what it protects, and the outbound SA that it points to now.

use std::fmt;

use portcullis_ipsec::{Policy, PolicyAction, PolicyId, PolicyOrigin};

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
    /// The current outbound SA as a word, or 0.
    handle: Line<AtomicU64>,
}

impl PolicyEntry {
    pub(super) fn new(id: PolicyId, index: u32, policy: Policy) -> Self {
        Self { id, index, policy, handle: Line(AtomicU64::new(0)) }
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

    /// The SA that seals its packets now. To be asked anew for every run of packets: a rekey changes it.
    #[inline]
    pub fn outbound(&self) -> Option<OutboundRef> {
        // Acquire: the SA was published before the handle was set.
        OutboundRef::from_word(self.handle.0.load(Ordering::Acquire))
    }

    /// Asks the processor for what [`PolicyEntry::outbound`] and [`PolicyEntry::action`] read.
    pub(super) fn prefetch(&self) {
        prefetch::start(&self.handle);
        prefetch::start(&self.policy.action);
    }

    /// Points to another SA.
    pub(crate) fn activate(&self, outbound: OutboundRef) {
        self.handle.0.store(outbound.to_word(), Ordering::Release);
    }

    /// Points to none, if it points to this one.
    pub(crate) fn deactivate(&self, outbound: OutboundRef) {
        // Whether it did does not matter: either way it does not afterwards.
        let _ = self.handle.0.compare_exchange(outbound.to_word(), 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Points to none, for good: the policy is being removed.
    pub(crate) fn disarm(&self) {
        self.handle.0.store(0, Ordering::Release);
    }
}

impl fmt::Display for PolicyEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.policy.name)
    }
}
