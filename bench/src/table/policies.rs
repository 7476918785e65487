//! What finding a packet's policy costs at 1 to 1,000,000 selectors in random order, what adding, changing and removing one
//! policy costs meanwhile, and how much memory a selector takes.
//!
//! Ten selectors make a policy: at 1,000,000 there are 100,000 connections. They lie as they do with gateways of sites (prefixes
//! of 28 bits all over IPv4, `sites`; of 56 bits all over the global unicast addresses of IPv6, `sites6`), or with
//! remote-access clients (hosts side by side, `clients`). A lookup is one of a batch of 32, as a worker makes it for flows
//! that it does not remember; it ends with the policy's handle, which names the SA. `portcullis-unprefetched` looks
//! one after another up; `/churn` is beside a writer on another core that changes one policy after another as fast as it
//! can, and adds and removes one more; `change`, `add` and `remove` are what its calls took.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arrayvec::ArrayVec;
use core_affinity::CoreId;
use ipnet::IpNet;
use portcullis_gateway::coarse::Coarse;
use portcullis_gateway::events::EventBoard;
use portcullis_gateway::installer::Installer;
use portcullis_gateway::policy::{PolicyTable, Snapshot, Verdict};
use portcullis_ipsec::{
    Flow, InstallError, Policy, PolicyAction, PolicyId, PolicyOrigin, SaInstaller, TenantId, TrafficSelector,
};

use super::memory::resident;
use super::{BATCH, Random, preemptions, world};
use crate::report::{Report, Samples};

/// Selectors of one policy.
const SELECTORS: usize = 10;
/// Lookups in a sample: so few that the machine's other work leaves enough of them alone.
const SAMPLE: usize = 512;
/// Flows that are looked up, at least.
const FLOWS: usize = 1 << 16;

/// How selectors lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Clients,
    Sites,
    Sites6,
}

impl Layout {
    const ALL: [Self; 3] = [Self::Clients, Self::Sites, Self::Sites6];

    fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Sites => "sites",
            Self::Sites6 => "sites6",
        }
    }

    /// The networks behind the peers, numbered.
    fn remote(self, number: usize) -> IpNet {
        // Odd, so that no two numbers meet.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let spread = (number as u64).wrapping_mul(SPREAD);
        match self {
            Self::Clients => IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + number as u32)).into(),
            Self::Sites => {
                let addr = Ipv4Addr::from_bits((spread as u32 & 0x0fff_ffff) << 4);
                IpNet::new_assert(addr.into(), 28)
            }
            Self::Sites6 => {
                let addr = Ipv6Addr::from_bits(1 << 125 | u128::from(spread & ((1 << 53) - 1)) << 72);
                IpNet::new_assert(addr.into(), 56)
            }
        }
    }

    fn local(self) -> IpNet {
        match self {
            Self::Clients => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
            Self::Sites => IpNet::new_assert(Ipv4Addr::new(10, 1, 0, 0).into(), 16),
            Self::Sites6 => IpNet::new_assert(Ipv6Addr::from_bits(0x2001_0db8 << 96).into(), 32),
        }
    }
}

/// A table with so many selectors in it.
struct World {
    layout: Layout,
    selectors: usize,
    table: Arc<PolicyTable>,
    installer: Installer,
    ids: Vec<PolicyId>,
}

impl World {
    fn new(layout: Layout, selectors: usize) -> anyhow::Result<Self> {
        let policies = selectors.div_ceil(SELECTORS);
        let table = Arc::new(PolicyTable::new(policies + 16)?);
        let sas = Arc::new(world::table(16)?);
        let events = Arc::new(EventBoard::new(16, policies + 16, Box::new(|| {})));
        let installer = Installer::new(sas, Arc::clone(&table), events, Box::new(()), Box::new(|| Coarse(1)));
        Ok(Self { layout, selectors, table, installer, ids: Vec::with_capacity(policies) })
    }

    fn fill(&mut self) -> Result<(), InstallError> {
        for number in 0..self.selectors.div_ceil(SELECTORS) {
            self.ids.push(self.installer.install_policy(self.policy(number))?);
        }
        Ok(())
    }

    fn policy(&self, number: usize) -> Policy {
        let selector = |net: IpNet| TrafficSelector::any(net);
        let first = number * SELECTORS;
        // Of one selector there is no policy of ten; one more than all is whole.
        let end = if first < self.selectors { self.selectors } else { usize::MAX };
        let remote = first..end.min(first + SELECTORS);
        Policy {
            name: format!("site{number}/net"),
            tenant: TenantId(0),
            local_ts: vec![selector(self.layout.local())],
            remote_ts: remote.map(|number| selector(self.layout.remote(number))).collect(),
            origin: PolicyOrigin::Configured { acquire: false },
            action: PolicyAction::Protect,
            priority: None,
            per_worker: false,
        }
    }

    /// Packets to every network, or to a few of them many times, in an order without meaning.
    fn flows(&self) -> Vec<Flow> {
        let mut random = Random(self.selectors as u64);
        let mut order: Vec<usize> =
            (0..self.selectors.max(FLOWS)).map(|index| index % self.selectors).collect();
        random.shuffle(&mut order);
        let flow = |number| Flow {
            src: self.layout.local().addr(),
            dst: self.layout.remote(number).addr(),
            protocol: 17,
            src_port: Some(1024),
            dst_port: Some(53),
        };
        order.into_iter().map(flow).collect()
    }
}

/// What selectors take in memory. The tables stay until all are measured: what one gives back another would take.
pub(crate) fn memory(report: &mut Report, selectors: usize) -> anyhow::Result<()> {
    let mut worlds = Vec::new();
    for layout in Layout::ALL {
        let mut world = World::new(layout, selectors)?;
        let before = resident()?;
        world.fill()?;
        let octets = resident()?.saturating_sub(before) as f64 / selectors as f64;
        let case = format!("policies/memory/{}/{selectors}", layout.name());
        report.row(&case, "portcullis", "octets_per_selector", &Samples::single(octets));
        worlds.push(world);
    }
    Ok(())
}

/// What lookups and changes take.
pub(crate) fn run(
    report: &mut Report,
    selectors: usize,
    core: Option<CoreId>,
    turns: usize,
) -> anyhow::Result<()> {
    for layout in Layout::ALL {
        let mut world = World::new(layout, selectors)?;
        world.fill()?;
        let flows = world.flows();
        // Alone and beside the writer, with prefetching and without.
        let mut samples: [[Samples; 2]; 2] = Default::default();
        let mut changes = Changes::default();
        for busy in [false, true] {
            let of = samples.get_mut(usize::from(busy));
            let Some(of) = of else { break };
            let table = Arc::clone(&world.table);
            let mut read = || read(&table, &flows, turns, of);
            if busy {
                beside(&mut world, core, &mut changes, read)?;
            } else {
                read()?;
            }
        }
        let name = layout.name();
        for (of, suffix) in samples.iter().zip(["", "/churn"]) {
            let case = format!("policies/lookup/{name}/{selectors}{suffix}");
            for (samples, who) in of.iter().zip(["portcullis", "portcullis-unprefetched"]) {
                report.row(&case, who, "ns_per_lookup", samples);
            }
        }
        let Changes { add, remove, change } = changes;
        for (what, samples) in [("add", add), ("remove", remove), ("change", change)] {
            let case = format!("policies/{what}/{name}/{selectors}");
            report.row(&case, "portcullis", "ns_per_policy", &samples);
        }
    }
    Ok(())
}

/// Takes samples of both ways of looking up, in turns.
fn read(table: &PolicyTable, flows: &[Flow], turns: usize, samples: &mut [Samples; 2]) -> anyhow::Result<()> {
    let mut parts = flows.chunks_exact(SAMPLE).cycle();
    for _ in 0..turns {
        for (samples, prefetch) in samples.iter_mut().zip([true, false]) {
            let Some(flows) = parts.next() else { break };
            let before = preemptions();
            let start = Instant::now();
            let found: usize = flows.chunks(BATCH).map(|batch| batch_of(table, batch, prefetch)).sum();
            let elapsed = start.elapsed();
            anyhow::ensure!(found == flows.len(), "{} flows are found by no policy", flows.len() - found);
            if preemptions() == before {
                samples.record(elapsed.as_nanos() as f64 / SAMPLE as f64);
            } else {
                samples.throw_away();
            }
        }
    }
    Ok(())
}

/// Looks a batch up in the snapshot of the moment; how many were found.
fn batch_of(table: &PolicyTable, flows: &[Flow], prefetch: bool) -> usize {
    let snapshot = table.snapshot();
    let snapshot: &Snapshot = &snapshot;
    if prefetch {
        let wanted: ArrayVec<_, BATCH> = flows.iter().map(|flow| (TenantId(0), flow.dst)).collect();
        snapshot.prefetch(&wanted);
    }
    let found = flows.iter().filter(|flow| match snapshot.lookup(TenantId(0), flow) {
        Verdict::Covered(entry) => {
            std::hint::black_box(entry.outbound());
            true
        }
        Verdict::NoMatch => false,
    });
    found.count()
}

/// What the writer's calls took.
#[derive(Default)]
struct Changes {
    add: Samples,
    remove: Samples,
    /// What a reload does with a child that was changed: the new policy comes before the old one goes.
    change: Samples,
}

/// Runs `read` while one policy after another is changed on another core.
fn beside(
    world: &mut World,
    core: Option<CoreId>,
    changes: &mut Changes,
    read: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            if let Some(core) = core {
                core_affinity::set_for_current(core);
            }
            let mut random = Random(1);
            while !end.load(Ordering::Relaxed) {
                changes.turn(world, random.below(world.ids.len()))?;
            }
            Ok::<_, InstallError>(())
        });
        let done = read();
        end.store(true, Ordering::Relaxed);
        match writer.join() {
            Ok(result) => done.and(result.map_err(Into::into)),
            Err(_) => Err(anyhow::anyhow!("the writer panicked")),
        }
    })
}

impl Changes {
    /// Changes one of the policies that are looked up, and lets one more come and go.
    fn turn(&mut self, world: &mut World, number: usize) -> Result<(), InstallError> {
        let (changed, more) = (world.policy(number), world.policy(world.ids.len()));
        let World { installer, ids, .. } = world;
        let Some(id) = ids.get_mut(number) else { return Ok(()) };
        *id = timed(&mut self.change, || {
            let new = installer.install_policy(changed)?;
            installer.remove_policy(*id)?;
            Ok(new)
        })?;
        let more = timed(&mut self.add, || installer.install_policy(more))?;
        timed(&mut self.remove, || installer.remove_policy(more))
    }
}

fn timed<T>(
    samples: &mut Samples,
    work: impl FnOnce() -> Result<T, InstallError>,
) -> Result<T, InstallError> {
    let before = preemptions();
    let start = Instant::now();
    let done = work()?;
    let elapsed = start.elapsed();
    if preemptions() == before {
        samples.record(elapsed.as_nanos() as f64);
    } else {
        samples.throw_away();
    }
    Ok(done)
}
