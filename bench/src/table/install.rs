//! Nanoseconds per SA installed and removed on one core; a pair is two SAs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use portcullis_aead::{Algorithm, Engine};
use portcullis_gateway::coarse::Coarse;
use portcullis_gateway::events::EventBoard;
use portcullis_gateway::installer::Installer;
use portcullis_gateway::policy::PolicyTable;
use portcullis_gateway::sa::{OutboundRef, SaTable};
use portcullis_ipsec::{
    InboundSa, InstallError, OutboundSa, Policy, PolicyAction, PolicyId, PolicyOrigin, SaInstaller, Spi,
    TenantId,
};

use super::{preemptions, world};
use crate::report::{Report, Samples};

const UNIT: &str = "ns_per_sa";
/// Pairs in a sample.
const SAMPLE: usize = 512;

/// Who installs.
trait Subject {
    fn name(&self) -> &'static str;

    fn install(&mut self, inbound: InboundSa, outbound: OutboundSa) -> Result<(), InstallError>;

    /// Removes the oldest.
    fn remove(&mut self) -> Result<(), InstallError>;
}

/// Measures it.
pub(crate) fn run(report: &mut Report, quick: bool) -> anyhow::Result<()> {
    expansion(report)?;
    let large = if quick { 50_000 } else { 500_000 };
    for (what, pairs) in [("small", SAMPLE), ("large", large)] {
        let (mut fresh, mut install, mut remove) = (Vec::new(), Vec::new(), Vec::new());
        // One after another: together they would not fit.
        for through_installer in [false, true] {
            let mut subject: Box<dyn Subject> = if through_installer {
                Box::new(ThroughInstaller::new(pairs)?)
            } else {
                Box::new(ThroughTable { sas: world::table(pairs)?, live: VecDeque::new() })
            };
            let rates = rates(subject.as_mut(), pairs, if quick { 40 } else { 400 }.max(pairs / SAMPLE))?;
            let [a, b, c] = rates;
            fresh.push((subject.name(), a));
            install.push((subject.name(), b));
            remove.push((subject.name(), c));
        }
        // A handful of samples would say nothing about slots never used.
        let fresh = if pairs > SAMPLE { fresh } else { Vec::new() };
        for (case, rows) in [("fresh", fresh), ("recycled", install), ("remove", remove)] {
            for (name, samples) in rows {
                report.row(&format!("install/{what}/{case}"), name, UNIT, &samples);
            }
        }
    }
    Ok(())
}

/// Of slots never used, of used ones, and of removal.
fn rates(subject: &mut dyn Subject, pairs: usize, turns: usize) -> anyhow::Result<[Samples; 3]> {
    let mut samples = [Samples::new(), Samples::new(), Samples::new()];
    let [fresh, recycled, removed] = &mut samples;
    let mut number = 0;
    let mut batch = || {
        number += SAMPLE;
        (number - SAMPLE..number).map(|n| (world::inbound(n), world::outbound(n))).collect::<Vec<_>>()
    };
    let mut installed = 0;
    while installed + SAMPLE <= pairs {
        installed += SAMPLE;
        let batch = batch();
        timed(fresh, || batch.into_iter().try_for_each(|(i, o)| subject.install(i, o)))?;
    }
    for _ in 0..turns {
        let batch = batch();
        timed(removed, || (0..SAMPLE).try_for_each(|_| subject.remove()))?;
        timed(recycled, || batch.into_iter().try_for_each(|(i, o)| subject.install(i, o)))?;
    }
    Ok(samples)
}

fn timed(samples: &mut Samples, work: impl FnOnce() -> Result<(), InstallError>) -> anyhow::Result<()> {
    let before = preemptions();
    let start = Instant::now();
    work()?;
    let elapsed = start.elapsed();
    if preemptions() == before {
        samples.record(elapsed.as_nanos() as f64 / (2 * SAMPLE) as f64);
    } else {
        samples.throw_away();
    }
    Ok(())
}

/// The part that is the engine's.
fn expansion(report: &mut Report) -> anyhow::Result<()> {
    let engine = Engine::select(None)?;
    let key = std::hint::black_box([7; 32]);
    let mut samples = Samples::new();
    for _ in 0..200 {
        timed(&mut samples, || {
            for _ in 0..2 * SAMPLE {
                std::hint::black_box(engine.key(Algorithm::Aes256Gcm, &key));
            }
            Ok(())
        })?;
    }
    report.row("install/key_expansion", "portcullis", UNIT, &samples);
    Ok(())
}

struct ThroughTable {
    sas: SaTable,
    live: VecDeque<(Spi, OutboundRef)>,
}

impl Subject for ThroughTable {
    fn name(&self) -> &'static str {
        "portcullis"
    }

    fn install(&mut self, inbound: InboundSa, outbound: OutboundSa) -> Result<(), InstallError> {
        let mut control = self.sas.control();
        control.collect(|_| {}, |_| {});
        let spi = control.reserve_spi()?;
        control.publish_inbound(spi, &inbound)?;
        let reference = control.publish_outbound(spi, &outbound)?;
        self.live.push_back((spi, reference));
        Ok(())
    }

    fn remove(&mut self) -> Result<(), InstallError> {
        let mut control = self.sas.control();
        if let Some((spi, reference)) = self.live.pop_front() {
            control.withdraw_outbound(reference);
            control.withdraw_inbound(spi);
        }
        control.collect(|_| {}, |_| {});
        Ok(())
    }
}

struct ThroughInstaller {
    installer: Installer,
    policies: Vec<PolicyId>,
    live: VecDeque<Spi>,
    next: usize,
}

impl ThroughInstaller {
    fn new(pairs: usize) -> anyhow::Result<Self> {
        const POLICIES: usize = 256;
        let sas = Arc::new(world::table(pairs)?);
        let policies = Arc::new(PolicyTable::new(POLICIES)?);
        let events = Arc::new(EventBoard::new(pairs, POLICIES, Box::new(|| {})));
        let installer = Installer::new(sas, policies, events, Box::new(()), Box::new(|| Coarse(1)));
        let policies = (0..POLICIES)
            .map(|number| {
                let InboundSa { local_ts, remote_ts, .. } = world::inbound(number);
                let origin = PolicyOrigin::Configured { acquire: false };
                let name = format!("peer{number}/net");
                installer.install_policy(Policy {
                    name,
                    tenant: TenantId(0),
                    local_ts,
                    remote_ts,
                    origin,
                    action: PolicyAction::Protect,
                    priority: None,
                    per_worker: false,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { installer, policies, live: VecDeque::new(), next: 0 })
    }
}

impl Subject for ThroughInstaller {
    fn name(&self) -> &'static str {
        "portcullis-installer"
    }

    fn install(&mut self, inbound: InboundSa, outbound: OutboundSa) -> Result<(), InstallError> {
        let spi = self.installer.allocate_spi()?;
        self.installer.install_inbound(spi, inbound)?;
        self.next += 1;
        if let Some(&policy) = self.policies.get(self.next % self.policies.len()) {
            self.installer.activate_outbound(policy, spi, outbound)?;
        }
        self.live.push_back(spi);
        Ok(())
    }

    fn remove(&mut self) -> Result<(), InstallError> {
        let Some(spi) = self.live.pop_front() else { return Ok(()) };
        self.installer.remove(spi)
    }
}
