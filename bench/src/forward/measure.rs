//! One case from flood to latencies.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use portcullis_gateway::wire::Mac;
use portcullis_lab::Host;

use super::gateway::{Gateway, Mode};
use super::lab::{Macs, Overflows, Place};
use super::packets::{Expected, Keys, PeerSa, Source};
use super::traffic::{Chore, Ends, Plan, Receiver, Trial};
use super::{Case, GATEWAY_CORE, TRAFFIC_CORE, cpu, lab, search};

/// Between trials, for what the real-time threads have kept waiting.
const REST: Duration = Duration::from_millis(50);

/// How long the last packets of a trial are waited for.
const PATIENCE: Duration = Duration::from_millis(30);

/// Generator and sink in their place.
pub(crate) struct Rig {
    macs: Macs,
    ends: Ends,
    /// In a lab.
    links: Option<Links>,
    /// The gateway's thread that forwards, where it has one.
    pub(crate) worker: Option<i32>,
    trial: Duration,
    tolerance: f64,
}

/// The hosts of a lab.
#[derive(Debug)]
struct Links {
    ends: Host,
    gateway: Host,
    /// The interface that the generator sends by.
    sends: &'static str,
    /// Whether threads may receive on them, ahead of those that work all the time.
    in_threads: bool,
}

/// What gives way first when the rate goes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// It loses packets.
    Gateway,
    /// Nothing was lost, but fewer packets were sent than should have been; or they were lost before the gateway's interface.
    Generator,
    /// Packets were lost, most of them behind the gateway.
    Sink,
}

impl Limit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Generator => "generator",
            Self::Sink => "sink",
        }
    }
}

/// What came of a case.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    /// Packets per second at which nothing was lost (or not more than tolerated).
    pub(crate) rate: f64,
    /// What came through of a flood.
    pub(crate) flood: f64,
    /// Why the next higher rate did not pass.
    pub(crate) limit: Limit,
    /// Of the generator's and sink's core, in the trial at that rate: in which they had nothing to do.
    pub(crate) ends_idle: f64,
    pub(crate) ends_core: cpu::Shares,
    pub(crate) gateway_core: cpu::Shares,
    /// The worker's share of its core.
    pub(crate) worker: f64,
    /// Nanoseconds, at half the rate.
    pub(crate) latency: Histogram<u64>,
    /// Packets that came late, in all trials.
    pub(crate) reordered: u64,
}

/// One trial, with what the cores did meanwhile.
struct Observed {
    trial: Trial,
    /// What the queues of the links had no room for, in the trial.
    overflown: Overflows,
    ends_core: cpu::Shares,
    gateway_core: cpu::Shares,
    worker: f64,
}

impl Rig {
    /// The links receive as the kernel does it unless told otherwise: for what has ordinary priority, which real-time threads would
    /// keep out.
    pub(crate) fn without_threads(mut self) -> Self {
        self.links.iter_mut().for_each(|links| links.in_threads = false);
        self
    }

    /// In a lab, with trials of that length, which pass if no larger share of the packets is lost than `tolerance`.
    pub(crate) fn new(place: &Place, trial: Duration, tolerance: f64, urgent: bool) -> anyhow::Result<Self> {
        let ends = place.ends.enter(|| Ends::bind("near", "far", TRAFFIC_CORE, urgent))??;
        anyhow::ensure!(ends.are_native() == [true; 2], "veth runs XDP programs natively");
        let links = Links {
            ends: place.ends.clone(),
            gateway: place.gateway.clone(),
            sends: "near",
            in_threads: urgent && cpu::may_be_urgent(),
        };
        Ok(Self { macs: place.macs, ends, links: Some(links), worker: None, trial, tolerance })
    }

    /// Between two interfaces of this network namespace, with the gateway elsewhere; `gateway` is its MAC address on the
    /// generator's side.
    pub(crate) fn elsewhere(
        [tx, rx]: [&str; 2],
        gateway: Mac,
        trial: Duration,
        tolerance: f64,
    ) -> anyhow::Result<Self> {
        let ours = mac_of(tx)?;
        let macs = Macs { near: ours, inside: gateway, outside: gateway, far: ours };
        let ends = Ends::bind(tx, rx, TRAFFIC_CORE, true)?;
        if let [_, false] = ends.are_native() {
            eprintln!("the driver of {rx} runs no XDP programs: the sink is slower than it could be");
        }
        Ok(Self { macs, ends, links: None, worker: None, trial, tolerance })
    }

    /// Makes the generator send from where the mode's packets come.
    pub(crate) fn face(&mut self, mode: Mode) {
        let sends = if mode == Mode::Decrypt { "far" } else { "near" };
        if let Some(links) = &mut self.links
            && std::mem::replace(&mut links.sends, sends) != sends
        {
            self.ends.turn_round();
        }
    }

    /// Packets of a case; what is sealed is for these SAs of the gateway.
    pub(crate) fn source(&self, case: &Case, peers: Vec<PeerSa>) -> anyhow::Result<Source> {
        let Macs { near, inside, outside, far } = self.macs;
        let (link, peers) = match case.mode {
            Mode::Decrypt => ((far, outside), Some((Keys::new()?, peers))),
            Mode::Plain | Mode::Encrypt => ((near, inside), None),
        };
        Ok(Source::new(link, &case.mixture.sizes, case.sas, peers))
    }

    /// One trial alone, of the gateway as it runs.
    pub(crate) fn once(
        &mut self,
        gateway: &mut Gateway,
        case: &Case,
        plan: Plan,
        spoilt: Option<u64>,
        closely: bool,
    ) -> anyhow::Result<Trial> {
        let mut source = self.source(case, std::mem::take(&mut gateway.peers))?;
        source.spoilt = spoilt;
        let mut expected = expected(case)?;
        self.ends.run(plan, &mut source, expected.receiver(closely, case.sas), None)
    }

    /// Everything about one case of the gateway, which runs already and is faced.
    pub(crate) fn measure(&mut self, gateway: &mut Gateway, case: &Case) -> anyhow::Result<Measured> {
        let mut source = self.source(case, std::mem::take(&mut gateway.peers))?;
        let gateway = Mutex::new(gateway);
        let mut rekey = |source: &mut Source| -> anyhow::Result<()> {
            let mut gateway = gateway.lock().map_err(|_| anyhow::anyhow!("a trial has panicked"))?;
            if let Some((flow, peer)) = gateway.rekey()?
                && let Some((_, peers)) = &mut source.peers
                && let Some(place) = peers.get_mut(flow as usize)
            {
                *place = peer;
            }
            Ok(())
        };
        let every = (case.rekeys > 0).then(|| Duration::from_secs_f64(1.0 / f64::from(case.rekeys)));
        let measured = self.climb(case, &mut source, || expected(case), every, &mut rekey)?;
        if let Ok(gateway) = gateway.into_inner() {
            gateway.peers = source.into_peers();
        }
        Ok(measured)
    }

    /// Flood, search, latencies.
    pub(crate) fn climb(
        &mut self,
        case: &Case,
        source: &mut Source,
        expected: impl Fn() -> anyhow::Result<Expected>,
        every: Option<Duration>,
        work: &mut (dyn FnMut(&mut Source) -> anyhow::Result<()> + Send),
    ) -> anyhow::Result<Measured> {
        if let Some(links) = self.links.as_ref().filter(|links| links.in_threads) {
            lab::receive_in_threads(&links.ends, &links.gateway)?;
        }
        let tolerance = self.tolerance;
        let mut reordered = 0;
        let mut observe = |rate: Option<f64>, closely: bool| -> anyhow::Result<Observed> {
            source.restart();
            let plan = Plan { rate, time: self.trial, packets: u64::MAX, patience: PATIENCE };
            let chore = every.map(|every| Chore { every, work: &mut *work });
            let mut expected = expected()?;
            let observed = self.observe(plan, source, expected.receiver(closely, case.sas), chore)?;
            let Trial { broken, other, .. } = observed.trial;
            anyhow::ensure!(broken == 0, "{broken} packets do not open");
            tell_of(other);
            reordered += observed.trial.reordered;
            Ok(observed)
        };
        let flood = observe(None, false)?.trial.throughput();
        anyhow::ensure!(flood > 0.0, "nothing comes through");
        let (mut best, mut limit) = (None, Limit::Gateway);
        // What comes through of a flood may be less than of a rate that just fits.
        let rate = search::highest(flood * 1.25, |rate| {
            for _ in 0..2 {
                let observed = observe(Some(rate), false)?;
                let (lossless, offered) = (observed.trial.loss() <= tolerance, observed.trial.offered);
                if lossless && offered {
                    best = Some(observed);
                    return Ok(true);
                }
                let most = observed.trial.lost() / 2;
                limit = match lossless {
                    true => Limit::Generator,
                    false if observed.overflown.before > most => Limit::Generator,
                    false if observed.overflown.behind + observed.trial.overrun > most => Limit::Sink,
                    false => Limit::Gateway,
                };
            }
            Ok(false)
        })?;
        let half = observe(Some((rate / 2.0).max(1000.0)), true)?;
        let best = best.as_ref().unwrap_or(&half);
        Ok(Measured {
            rate,
            flood,
            limit,
            ends_idle: best.trial.idle,
            ends_core: best.ends_core,
            gateway_core: best.gateway_core,
            worker: best.worker,
            latency: half.trial.latency,
            reordered,
        })
    }

    fn observe(
        &mut self,
        plan: Plan,
        source: &mut Source,
        receiver: Receiver<'_>,
        chore: Option<Chore<'_>>,
    ) -> anyhow::Result<Observed> {
        std::thread::sleep(REST);
        let Self { ends, links, worker, .. } = self;
        let ticks = || worker.map_or((0, 0), cpu::thread);
        let overflows = || {
            let links = links.as_ref();
            links.map_or_else(Overflows::default, |links| {
                Overflows::read(&links.ends, &links.gateway, links.sends)
            })
        };
        let overflown = overflows();
        let before = (cpu::core(TRAFFIC_CORE), cpu::core(GATEWAY_CORE), ticks());
        let start = std::time::Instant::now();
        let trial = ends.run(plan, source, receiver, chore)?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Observed {
            trial,
            overflown: overflows().since(overflown),
            ends_core: cpu::core(TRAFFIC_CORE).since(before.0),
            gateway_core: cpu::core(GATEWAY_CORE).since(before.1),
            worker: cpu::share(before.2, ticks(), seconds),
        })
    }
}

fn mac_of(name: &str) -> anyhow::Result<Mac> {
    let mut listed = nix::ifaddrs::getifaddrs()?.filter(|interface| interface.interface_name == name);
    let mac = listed.find_map(|interface| interface.address?.as_link_addr()?.addr());
    mac.with_context(|| format!("{name} has no MAC address"))
}

/// What the sink sees of a case.
pub(crate) fn expected(case: &Case) -> anyhow::Result<Expected> {
    Ok(match case.mode {
        Mode::Encrypt => Expected::Sealed(Box::new(Keys::new()?), vec![0; case.sas as usize]),
        Mode::Decrypt | Mode::Plain => Expected::Clear,
    })
}

impl Expected {
    /// Every packet by itself, or all of them counted.
    fn receiver(&mut self, closely: bool, flows: u32) -> Receiver<'_> {
        match closely {
            true => Receiver::Socket(self),
            false => Receiver::Program { look: self.look(), flows },
        }
    }
}

/// Packets of nobody's are no reason to stop, but to be told of.
fn tell_of(other: u64) {
    if other > 0 {
        eprintln!("{other} packets that are not of this bench came to the sink");
    }
}
