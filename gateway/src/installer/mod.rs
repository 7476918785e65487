//! The data plane's side of [`SaInstaller`]: what the control plane asks becomes changes of the SA and policy
//! tables, in an order in which nothing leaves in clear.
//!
//! One lock orders the callers among themselves; workers take none. What is protected is told to the
//! [`ProtectionSink`] (the XDP program's prefixes, the host's routes) before a policy goes in and after it went out.

mod activation;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use portcullis_ipsec::{
    DataplaneEvent, EspAlgorithm, InboundSa, InstallError, OutboundSa, Policy, PolicyCounters, PolicyId,
    RateLimits, SaCounters, SaInstaller, Spi, TenantId, TrafficSelector, TunnelEndpoints, UsageLimits,
};

use self::activation::Seals;
use crate::coarse::Coarse;
use crate::events::{EventBoard, Raised};
use crate::limiter::{LimiterIndex, PolicyLimiter};
use crate::pmtu::TooBig;
use crate::policy::{PolicyEntry, PolicyTable, ProtectedPrefixes};
use crate::sa::entry::{check_endpoints, invalid};
use crate::sa::{Outbound, OutboundRef, SaControl, SaTable, TrafficCounts};
use crate::sync::{AtomicBool, Mutex, MutexGuard, Ordering, lock};

/// Whoever keeps protected traffic from passing beside the workers. Called with the installer's lock held: it must
/// not call the installer or the policy table back.
pub trait ProtectionSink: Send + Sync {
    /// From the return of this call on, nothing to or from these prefixes passes in clear. Called before the
    /// policy that protects them goes in; each prefix is new to its side.
    fn protect(&self, added: &ProtectedPrefixes) -> Result<(), InstallError>;

    /// No policy has these prefixes any more. Called after the last one that had went out.
    fn unprotect(&self, removed: &ProtectedPrefixes);
}

/// Nobody is told: there is nothing beside the workers.
impl ProtectionSink for () {
    fn protect(&self, _: &ProtectedPrefixes) -> Result<(), InstallError> {
        Ok(())
    }

    fn unprotect(&self, _: &ProtectedPrefixes) {}
}

/// Installs SAs and policies. Shared by the control plane, the dataplane's housekeeping and its status.
pub struct Installer {
    sas: Arc<SaTable>,
    policies: Arc<PolicyTable>,
    events: Arc<EventBoard>,
    sink: Box<dyn ProtectionSink>,
    clock: Box<dyn Fn() -> Coarse + Send + Sync>,
    activated: Box<dyn Fn() + Send + Sync>,
    stopped: AtomicBool,
    /// By the names of policies. Taken after `pairs`, and nothing after it.
    rates: Mutex<BTreeMap<String, RateLimits>>,
    /// The rates of tenants' devices, and what holds them to these. Likewise.
    devices: Mutex<BTreeMap<TenantId, (RateLimits, PolicyLimiter)>>,
    pairs: Mutex<Pairs>,
    /// Outbound SAs by their SPI, which peers choose: several may have the same. Taken after `pairs`, and nothing after it.
    outbound: Mutex<HashMap<Spi, Vec<OutboundRef>, SpiHasher>>,
    /// Removed pairs that workers may still count on, by inbound SPI. Taken after `pairs`.
    ending: Mutex<HashMap<Spi, Ending, SpiHasher>>,
}

/// A removed pair whose counts are still to be added to those of its policy.
#[derive(Debug)]
struct Ending {
    policy: Arc<PolicyEntry>,
    outbound: Option<OutboundRef>,
}

/// The pairs by inbound SPI. Taken before the tables' own locks. Each lies by itself: the map, which is as large as it will ever be,
/// would otherwise touch a page of its own for each of the first.
type Pairs = HashMap<Spi, Box<Pair>, SpiHasher>;

/// SPIs are spread evenly by the secret permutation that makes them: a multiplication brings that to all the bits that
/// a map looks at.
#[derive(Debug, Clone, Copy, Default)]
struct SpiHasher;

impl BuildHasher for SpiHasher {
    type Hasher = SpiHash;

    fn build_hasher(&self) -> SpiHash {
        SpiHash(0)
    }
}

#[derive(Debug)]
struct SpiHash(u64);

impl Hasher for SpiHash {
    fn write_u32(&mut self, spi: u32) {
        self.0 = (self.0 ^ u64::from(spi)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write(&mut self, octets: &[u8]) {
        for &octet in octets {
            self.write_u32(u32::from(octet));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Debug, Default)]
struct Pair {
    inbound: bool,
    limits: UsageLimits,
    outbound: OutboundState,
    /// That of the outbound SA, also when it has ended.
    policy: Option<Arc<PolicyEntry>>,
}

#[derive(Debug, Default)]
enum OutboundState {
    /// Never activated.
    #[default]
    None,
    Active {
        reference: OutboundRef,
        policy: Arc<PolicyEntry>,
    },
    /// No longer used, perhaps still looked at by workers.
    Retired {
        reference: OutboundRef,
    },
    /// Gone; this is what it carried.
    Ended(TrafficCounts),
}

impl OutboundState {
    fn reference(&self) -> Option<OutboundRef> {
        match *self {
            Self::Active { reference, .. } | Self::Retired { reference } => Some(reference),
            Self::None | Self::Ended(_) => None,
        }
    }
}

/// One pair, for people.
#[derive(Debug, Clone)]
pub struct SaInfo {
    /// The inbound SPI.
    pub pair: Spi,
    /// The pair's tenant.
    pub tenant: TenantId,
    /// Of the inbound SA.
    pub algorithm: EspAlgorithm,
    /// 64-bit sequence numbers, inbound.
    pub esn: bool,
    /// Outer addresses.
    pub endpoints: TunnelEndpoints,
    /// Our side's selectors.
    pub local_ts: Vec<TrafficSelector>,
    /// The peer's side's.
    pub remote_ts: Vec<TrafficSelector>,
    /// Packets in the replay window; 0 is off.
    pub replay_window: u32,
    /// The highest sequence number received.
    pub highest_received: u64,
    /// The outbound SA, while it is in use.
    pub outbound: Option<OutboundInfo>,
    /// What both have carried.
    pub counters: SaCounters,
}

/// One policy and what it has done, for people.
#[derive(Debug, Clone)]
pub struct PolicyInfo {
    /// The policy.
    pub entry: Arc<PolicyEntry>,
    /// What it has done since it was installed, over all SAs that it had.
    pub counters: PolicyCounters,
    /// How much its SAs may carry in time.
    pub rates: RateLimits,
}

/// The outbound SA of a pair, for people.
#[derive(Debug, Clone)]
pub struct OutboundInfo {
    /// The peer's SPI.
    pub spi: Spi,
    /// Its algorithm.
    pub algorithm: EspAlgorithm,
    /// 64-bit sequence numbers.
    pub esn: bool,
    /// The next sequence number.
    pub next_sequence: u64,
    /// The policy that it was activated for.
    pub policy: PolicyId,
    /// Whether that policy's packets go through it now, and not through a successor.
    pub current: bool,
    /// The worker that alone seals with it (RFC 9611); `None`: all that have no SA of their own.
    pub worker: Option<u16>,
}

impl Installer {
    /// Over tables that are shared with the workers. `clock` is the one that workers count with.
    pub fn new(
        sas: Arc<SaTable>,
        policies: Arc<PolicyTable>,
        events: Arc<EventBoard>,
        sink: Box<dyn ProtectionSink>,
        clock: Box<dyn Fn() -> Coarse + Send + Sync>,
    ) -> Self {
        // All that will ever be needed, so that no install pays for growth.
        let pairs = Mutex::new(HashMap::with_capacity_and_hasher(sas.capacity(), SpiHasher));
        let outbound = Mutex::new(HashMap::with_capacity_and_hasher(sas.capacity(), SpiHasher));
        let activated = Box::new(|| {});
        let stopped = AtomicBool::new(false);
        let ending = Mutex::new(HashMap::with_hasher(SpiHasher));
        let (rates, devices) = (Mutex::default(), Mutex::default());
        Self {
            sas,
            policies,
            events,
            sink,
            clock,
            activated,
            stopped,
            rates,
            devices,
            pairs,
            outbound,
            ending,
        }
    }

    /// The same, and calls `activated` whenever a policy has got another outbound SA, from the thread that gave it.
    #[must_use]
    pub fn telling(self, activated: Box<dyn Fn() + Send + Sync>) -> Self {
        Self { activated, ..self }
    }

    /// Frees, and wipes, what was removed and no worker can see any more. Every call that changes something does
    /// it too; the dataplane's housekeeping calls it every second or so, that keys may not linger when nothing
    /// changes. Never waits for workers.
    pub fn collect(&self) {
        let mut pairs = self.lock();
        self.collect_locked(&mut pairs, &mut self.sas.control());
    }

    /// A router has said of a packet that it is too big for the way to a peer. Believed if we have sent that packet lately;
    /// whether that is news. The SA's MTU falls for ten minutes (RFC 4301 §8.2.1).
    pub fn path_too_big(&self, said: &TooBig) -> bool {
        /// Packets that may be under way, and a router's answer about them, at the highest rates.
        const UNDER_WAY: u32 = 1 << 24;
        let Some(spi) = Spi::new(said.spi) else { return false };
        let candidates = lock(&self.outbound).get(&spi).cloned().unwrap_or_default();
        let control = self.sas.control();
        let sent = |sa: &&Outbound| {
            let TunnelEndpoints { local, remote, encapsulation } = sa.endpoints.get();
            let behind = (sa.next_sequence() as u32).wrapping_sub(said.sequence_low);
            (local, remote, encapsulation) == (said.local, said.remote, said.encapsulation)
                && (1..=UNDER_WAY).contains(&behind)
        };
        let mut candidates = candidates.iter().filter_map(|reference| control.outbound(*reference));
        candidates
            .find(sent)
            .is_some_and(|sa| sa.path_mtu.tell(said.mtu, said.remote.is_ipv6(), (self.clock)()))
    }

    /// From now on nothing is installed any more ([`InstallError::Stopped`]); removing still works.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// The rates of policies, by name, and of all tunnels of tenants together, from now on: of those that have SAs already,
    /// and of all that come. One that stays the same goes on as it is; one that changes begins with a full bucket.
    pub fn set_rates(
        &self,
        rates: BTreeMap<String, RateLimits>,
        mut of_devices: BTreeMap<TenantId, RateLimits>,
    ) -> Result<(), InstallError> {
        let pairs = self.lock();
        *lock(&self.rates) = rates;
        {
            let mut devices = lock(&self.devices);
            for tenant in devices.keys() {
                of_devices.entry(*tenant).or_default();
            }
            for (tenant, limits) in of_devices {
                let (known, limiter) = devices.entry(tenant).or_default();
                limiter.set(self.policies.limiters(), limits, None)?;
                *known = limits;
            }
        }
        let control = self.sas.control();
        for (&spi, pair) in pairs.iter() {
            if let Some(policy) = &pair.policy {
                self.apply_rates(&control, policy, spi, pair.outbound.reference())?;
            }
        }
        Ok(())
    }

    /// The rates of a policy's SAs.
    pub fn rates_of(&self, policy: &PolicyEntry) -> RateLimits {
        lock(&self.rates).get(&policy.policy().name).copied().unwrap_or_default()
    }

    /// Has a pair of SAs limited by its policy's rates.
    fn apply_rates(
        &self,
        control: &SaControl<'_>,
        policy: &PolicyEntry,
        pair: Spi,
        outbound: Option<OutboundRef>,
    ) -> Result<(), InstallError> {
        let rates = self.rates_of(policy);
        let (of_device, above) = self.above(policy)?;
        let limiter = policy.limit(self.policies.limiters(), rates, above)?;
        if let Some(sa) = control.inbound(pair) {
            sa.set_limiter(limiter.filter(|_| rates.inbound.or(of_device.inbound).is_some()));
        }
        if let Some(sa) = outbound.and_then(|outbound| control.outbound(outbound)) {
            sa.set_limiter(limiter.filter(|_| rates.outbound.or(of_device.outbound).is_some()));
        }
        Ok(())
    }

    /// What limits all tunnels of a policy's tenant together.
    fn above(&self, policy: &PolicyEntry) -> Result<(RateLimits, Option<LimiterIndex>), InstallError> {
        match lock(&self.devices).get(&policy.policy().tenant) {
            Some((limits, limiter)) if *limits != RateLimits::default() => {
                Ok((*limits, limiter.set(self.policies.limiters(), *limits, None)?))
            }
            _ => Ok((RateLimits::default(), None)),
        }
    }

    /// The rates of tenants' devices, and how many packets were beyond them, inbound and outbound.
    pub fn rates_of_devices(&self) -> BTreeMap<TenantId, (RateLimits, (u64, u64))> {
        let devices = lock(&self.devices);
        let told = devices.iter().map(|(tenant, (limits, limiter))| (*tenant, (*limits, limiter.refused())));
        told.collect()
    }

    /// Every pair that has an inbound SA, by SPI.
    pub fn list(&self) -> Vec<SaInfo> {
        let pairs = self.lock();
        let control = self.sas.control();
        let mut list: Vec<_> =
            pairs.iter().filter_map(|(&spi, pair)| self.info(&control, spi, pair)).collect();
        list.sort_unstable_by_key(|info| info.pair);
        list
    }

    /// Every policy with its counts.
    pub fn policies(&self) -> Vec<PolicyInfo> {
        let pairs = self.lock();
        let mut of_sas: HashMap<PolicyId, PolicyCounters> = HashMap::new();
        self.show_carried(&pairs, |policy, counts| {
            let sum = of_sas.entry(policy.id()).or_default();
            *sum = sum.plus(counts);
        });
        let info = |entry: Arc<PolicyEntry>| {
            let of_sas = of_sas.get(&entry.id()).copied().unwrap_or_default();
            PolicyInfo { counters: entry.counted().plus(of_sas), rates: self.rates_of(&entry), entry }
        };
        self.policies.list().into_iter().map(info).collect()
    }

    /// What all policies of each name have done, also those that are gone: never less than before.
    pub fn policy_totals(&self) -> BTreeMap<String, PolicyCounters> {
        let pairs = self.lock();
        let mut totals = self.policies.gone();
        let mut add = |policy: &PolicyEntry, counts: PolicyCounters| {
            let total = totals.entry(policy.policy().name.clone()).or_default();
            *total = total.plus(counts);
        };
        self.policies.list().iter().for_each(|entry| add(entry, entry.counted()));
        self.show_carried(&pairs, add);
        totals
    }

    /// What SAs have carried that their policies have not counted yet.
    fn show_carried(&self, pairs: &Pairs, mut show: impl FnMut(&PolicyEntry, PolicyCounters)) {
        let control = self.sas.control();
        let ending = lock(&self.ending);
        let there = pairs
            .iter()
            .filter_map(|(spi, pair)| Some((spi, pair.policy.as_ref()?, pair.outbound.reference())));
        let leaving = ending.iter().map(|(spi, ending)| (spi, &ending.policy, ending.outbound));
        for (&spi, policy, outbound) in there.chain(leaving) {
            let inbound = control.inbound(spi).map(|sa| sa.traffic().read()).unwrap_or_default();
            let outbound = outbound.and_then(|reference| control.outbound(reference));
            let outbound = outbound.map(|sa| sa.traffic().read()).unwrap_or_default();
            show(policy, carried_in(inbound).plus(carried_out(outbound)));
        }
    }

    fn info(&self, control: &SaControl<'_>, spi: Spi, pair: &Pair) -> Option<SaInfo> {
        let inbound = control.inbound(spi)?;
        let outbound = match &pair.outbound {
            OutboundState::Active { reference, policy } => {
                control.outbound(*reference).map(|sa| OutboundInfo {
                    spi: sa.spi,
                    algorithm: sa.algorithm(),
                    esn: sa.esn,
                    next_sequence: sa.next_sequence(),
                    policy: policy.id(),
                    current: policy.leads_to(*reference),
                    worker: policy.worker_of(*reference),
                })
            }
            _ => None,
        };
        Some(SaInfo {
            pair: spi,
            tenant: inbound.tenant,
            algorithm: inbound.algorithm(),
            esn: inbound.esn,
            endpoints: inbound.endpoints.get(),
            local_ts: inbound.local_ts(),
            remote_ts: inbound.remote_ts(),
            replay_window: inbound.replay().window(),
            highest_received: inbound.replay().highest(),
            outbound,
            counters: self.read(control, spi, pair),
        })
    }

    fn read(&self, control: &SaControl<'_>, spi: Spi, pair: &Pair) -> SaCounters {
        let inbound = control.inbound(spi).map(|sa| sa.traffic().read()).unwrap_or_default();
        let outbound = match &pair.outbound {
            OutboundState::Ended(counts) => *counts,
            state => {
                let sa = state.reference().and_then(|reference| control.outbound(reference));
                sa.map(|sa| sa.traffic().read()).unwrap_or_default()
            }
        };
        let now = (self.clock)();
        SaCounters {
            packets_in: inbound.packets,
            bytes_in: inbound.bytes,
            packets_out: outbound.packets,
            bytes_out: outbound.bytes,
            idle_in: inbound.last.map(|last| now.since(last)),
            idle_out: outbound.last.map(|last| now.since(last)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pairs> {
        lock(&self.pairs)
    }

    fn running(&self) -> Result<(), InstallError> {
        if self.stopped.load(Ordering::Acquire) { Err(InstallError::Stopped) } else { Ok(()) }
    }

    fn collect_locked(&self, pairs: &mut Pairs, control: &mut SaControl<'_>) {
        // Nobody counts any more, so these are the last counts.
        control.collect(
            |inbound| {
                self.events.forget_pair(inbound.slot);
                let ending = lock(&self.ending).remove(&inbound.spi);
                if let Some(Ending { policy, .. }) = ending {
                    self.policies.count(&policy, &carried_in(inbound.traffic().read()));
                }
            },
            |outbound| {
                let counts = outbound.traffic().read();
                let policy = match pairs.get_mut(&outbound.pair) {
                    // A retired SA whose pair lives on.
                    Some(pair) if matches!(pair.outbound, OutboundState::Retired { .. }) => {
                        pair.outbound = OutboundState::Ended(counts);
                        pair.policy.clone()
                    }
                    Some(_) => None,
                    None => lock(&self.ending).get_mut(&outbound.pair).map(|ending| {
                        ending.outbound = None;
                        Arc::clone(&ending.policy)
                    }),
                };
                if let Some(policy) = policy {
                    self.policies.count(&policy, &carried_out(counts));
                }
            },
        );
    }

    fn forget_outbound(&self, spi: Option<Spi>, reference: OutboundRef) {
        let mut outbound = lock(&self.outbound);
        if let Some(Entry::Occupied(mut same)) = spi.map(|spi| outbound.entry(spi)) {
            same.get_mut().retain(|other| *other != reference);
            if same.get().is_empty() {
                same.remove();
            }
        }
    }

    /// Stops sealing with the pair's outbound SA, if it does.
    fn retire_outbound(&self, control: &mut SaControl<'_>, pair: &mut Pair) {
        if let OutboundState::Active { reference, policy } = &pair.outbound {
            policy.deactivate(*reference);
            let spi = control.outbound(*reference).map(|sa| sa.spi);
            self.forget_outbound(spi, *reference);
            control.withdraw_outbound(*reference);
            pair.outbound = OutboundState::Retired { reference: *reference };
        }
    }
}

fn carried_in(TrafficCounts { packets, bytes, .. }: TrafficCounts) -> PolicyCounters {
    PolicyCounters { packets_in: packets, bytes_in: bytes, ..PolicyCounters::default() }
}

fn carried_out(TrafficCounts { packets, bytes, .. }: TrafficCounts) -> PolicyCounters {
    PolicyCounters { packets_out: packets, bytes_out: bytes, ..PolicyCounters::default() }
}

impl SaInstaller for Installer {
    fn allocate_spi(&self) -> Result<Spi, InstallError> {
        self.running()?;
        let mut pairs = self.lock();
        let mut control = self.sas.control();
        self.collect_locked(&mut pairs, &mut control);
        let spi = control.reserve_spi()?;
        pairs.insert(spi, Box::default());
        Ok(spi)
    }

    fn install_inbound(&self, spi: Spi, sa: InboundSa) -> Result<(), InstallError> {
        self.running()?;
        let mut pairs = self.lock();
        let pair = pairs.get_mut(&spi).ok_or(InstallError::UnknownSpi { spi })?;
        self.sas.control().publish_inbound(spi, &sa)?;
        pair.inbound = true;
        Ok(())
    }

    fn install_policy(&self, policy: Policy) -> Result<PolicyId, InstallError> {
        self.running()?;
        // The order of locks is pairs, then policies; and nothing is activated meanwhile.
        let _pairs = self.lock();
        let mut control = self.policies.control();
        control.check(&policy)?;
        let added = control.would_protect(&policy);
        if !added.is_empty() {
            self.sink.protect(&added)?;
        }
        control.install(policy)
    }

    fn activate_outbound(&self, policy: PolicyId, pair: Spi, sa: OutboundSa) -> Result<(), InstallError> {
        self.activate(policy, pair, sa, Seals::All)
    }

    fn activate_for_worker(
        &self,
        policy: PolicyId,
        pair: Spi,
        sa: OutboundSa,
        worker: Option<u16>,
    ) -> Result<(), InstallError> {
        self.activate(policy, pair, sa, worker.map_or(Seals::Nobody, Seals::Worker))
    }

    fn limit(&self, pair: Spi, limits: UsageLimits) -> Result<(), InstallError> {
        let mut pairs = self.lock();
        let state = pairs.get_mut(&pair).ok_or(InstallError::UnknownSpi { spi: pair })?;
        if !state.inbound {
            return Err(invalid("pair", pair, "an SPI whose inbound SA is installed"));
        }
        state.limits = limits;
        if let Some(sa) = self.sas.control().inbound(pair) {
            sa.limit(&limits);
        }
        Ok(())
    }

    fn retire(&self, pair: Spi) -> Result<(), InstallError> {
        let mut pairs = self.lock();
        let mut control = self.sas.control();
        let state = pairs.get_mut(&pair).ok_or(InstallError::UnknownSpi { spi: pair })?;
        self.retire_outbound(&mut control, state);
        self.collect_locked(&mut pairs, &mut control);
        Ok(())
    }

    fn move_pair(&self, pair: Spi, endpoints: TunnelEndpoints) -> Result<(), InstallError> {
        check_endpoints(endpoints)?;
        let pairs = self.lock();
        let control = self.sas.control();
        let state = pairs.get(&pair).ok_or(InstallError::UnknownSpi { spi: pair })?;
        // The addresses alone: the sequence counter and the replay window stay what and where they are.
        if let Some(inbound) = control.inbound(pair) {
            inbound.endpoints.set(endpoints);
        }
        if let Some(outbound) = state.outbound.reference().and_then(|reference| control.outbound(reference)) {
            outbound.endpoints.set(endpoints);
        }
        Ok(())
    }

    fn remove(&self, pair: Spi) -> Result<(), InstallError> {
        let mut pairs = self.lock();
        let mut state = pairs.remove(&pair).ok_or(InstallError::UnknownSpi { spi: pair })?;
        let mut control = self.sas.control();
        self.retire_outbound(&mut control, &mut state);
        if control.withdraw_inbound(pair)
            && let Some(policy) = state.policy
        {
            let outbound = state.outbound.reference();
            lock(&self.ending).insert(pair, Ending { policy, outbound });
        }
        self.collect_locked(&mut pairs, &mut control);
        Ok(())
    }

    fn remove_policy(&self, policy: PolicyId) -> Result<(), InstallError> {
        let _pairs = self.lock();
        let removed = self.policies.control().remove(policy)?;
        if !removed.is_empty() {
            self.sink.unprotect(&removed);
        }
        Ok(())
    }

    fn counters(&self, pair: Spi) -> Result<SaCounters, InstallError> {
        let pairs = self.lock();
        let state = pairs.get(&pair).ok_or(InstallError::UnknownSpi { spi: pair })?;
        Ok(self.read(&self.sas.control(), pair, state))
    }

    fn take_events(&self) -> Vec<DataplaneEvent> {
        let mut pairs = self.lock();
        let mut control = self.sas.control();
        self.collect_locked(&mut pairs, &mut control);
        // Causes that are gone by now raise nothing: a removed policy or pair, an SA that has moved already.
        let pair_of = |slot| control.spi_of_slot(slot).filter(|spi| pairs.contains_key(spi));
        let mut asking = Vec::new();
        let event = |raised| match raised {
            Raised::Acquire { policy, flow } => {
                let policy = self.policies.get(policy).filter(|entry| entry.outbound().is_none())?;
                Some(DataplaneEvent::Acquire { policy: policy.id(), flow })
            }
            Raised::WorkersAsk { policy } => {
                asking.extend(self.asking(&control, policy));
                None
            }
            // No news of a pair that we seal with anyway.
            Raised::FirstPacket { slot } => {
                let waits = |pair: &Spi| {
                    pairs.get(pair).is_some_and(|state| matches!(state.outbound, OutboundState::None))
                };
                pair_of(slot).filter(waits).map(|pair| DataplaneEvent::FirstPacket { pair })
            }
            Raised::SoftLimit { slot } => pair_of(slot).map(|pair| DataplaneEvent::SoftLimit { pair }),
            Raised::HardLimit { slot } => pair_of(slot).map(|pair| DataplaneEvent::HardLimit { pair }),
            Raised::Moved { pair, seen } => {
                let pair = pair.filter(|pair| pairs.contains_key(pair))?;
                let moved = control.inbound(pair)?.endpoints.get() != seen;
                moved.then_some(DataplaneEvent::PeerMoved { pair, seen })
            }
            Raised::UnknownSpi { spi, seen } => {
                let spi = spi.filter(|spi| !pairs.contains_key(spi))?;
                Some(DataplaneEvent::UnknownSpi { spi, seen })
            }
        };
        let mut events: Vec<_> = self.events.take().into_iter().filter_map(event).collect();
        events.append(&mut asking);
        events
    }
}

impl fmt::Debug for Installer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installer")
            .field("sas", &self.sas)
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
