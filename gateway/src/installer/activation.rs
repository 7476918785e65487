//! Whose packets go through an outbound SA: those of all workers of a policy, or one worker's (RFC 9611).

use std::sync::Arc;

use portcullis_ipsec::{DataplaneEvent, InstallError, OutboundSa, PolicyAction, PolicyId, Spi};

use super::{Installer, OutboundState};
use crate::sa::SaControl;
use crate::sa::entry::invalid;
use crate::sync::lock;

/// Whose packets go through an outbound SA.
#[derive(Debug, Clone, Copy)]
pub(super) enum Seals {
    /// Those of all workers that have no SA of their own.
    All,
    Worker(u16),
    Nobody,
}

impl Installer {
    /// The workers that have asked for SAs of their own of the policy with that index.
    pub(super) fn asking(&self, control: &SaControl<'_>, policy: u32) -> Vec<DataplaneEvent> {
        let Some(entry) = self.policies.at(policy) else { return Vec::new() };
        let shared = entry.outbound().and_then(|reference| control.outbound(reference)).map(|sa| sa.pair);
        let (Some(lanes), Some(pair)) = (entry.lanes(), shared) else { return Vec::new() };
        lanes.asking((self.clock)()).map(|worker| DataplaneEvent::WorkerAsks { pair, worker }).collect()
    }

    /// Points a policy, or one worker of it, to the outbound SA of a pair.
    pub(super) fn activate(
        &self,
        policy: PolicyId,
        pair: Spi,
        sa: OutboundSa,
        seals: Seals,
    ) -> Result<(), InstallError> {
        self.running()?;
        let mut pairs = self.lock();
        let entry = self.policies.get(policy).ok_or(InstallError::UnknownPolicy(policy))?;
        if entry.action() != PolicyAction::Protect {
            return Err(invalid("policy", entry, "one that protects"));
        }
        let (lane, found) = match seals {
            Seals::All => (true, None),
            Seals::Worker(worker) => (entry.has_lane(worker), Some(worker)),
            Seals::Nobody => (entry.lanes().is_some(), None),
        };
        if !lane {
            let found = found.map_or_else(|| "none".to_owned(), |worker| worker.to_string());
            return Err(invalid("worker", found, "one of a policy whose workers may have SAs of their own"));
        }
        let state = pairs.get(&pair).ok_or(InstallError::UnknownSpi { spi: pair })?;
        // The order of the contract; and a pair that holds both slots gives them back together.
        if !state.inbound {
            return Err(invalid("pair", pair, "an SPI whose inbound SA is installed"));
        }
        // Also after it was retired: a second SA of the same key would count its nonces from 1 again.
        if !matches!(state.outbound, OutboundState::None) {
            return Err(InstallError::AlreadyInstalled { spi: pair });
        }
        let mut control = self.sas.control();
        self.collect_locked(&mut pairs, &mut control);
        let reference = control.publish_outbound(pair, &sa)?;
        if let Err(error) = self.apply_rates(&control, &entry, pair, Some(reference)) {
            control.withdraw_outbound(reference);
            return Err(error);
        }
        // Of a rekeyed CHILD SA, which the peer may use before we do.
        entry.charge_inbound(control.inbound(pair).map_or(0, |sa| sa.traffic().read().bytes));
        lock(&self.outbound).entry(sa.spi).or_default().push(reference);
        if let Some(state) = pairs.get_mut(&pair) {
            if let Some(sa) = control.outbound(reference) {
                sa.limit(&state.limits);
            }
            state.outbound = OutboundState::Active { reference, policy: Arc::clone(&entry) };
            state.policy = Some(Arc::clone(&entry));
        }
        match seals {
            Seals::All => entry.activate(reference),
            // Checked above.
            Seals::Worker(worker) => _ = entry.activate_for(worker, reference),
            Seals::Nobody => {}
        }
        (self.activated)();
        Ok(())
    }
}
