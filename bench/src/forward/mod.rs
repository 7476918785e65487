//! `bench forward`: the whole gateway between a generator and a sink, over veth in a lab of its own.
//!
//! - [`lab`]: the namespaces and links; [`gateway`]: the data plane between them; [`peers`]: what else is measured there, of
//!   which VPP is set up by [`vpp`].
//! - [`packets`]: what is sent and how it is recognised; [`traffic`]: generator and sink in one loop on one core.
//! - [`elsewhere`]: the same with a gateway that is not ours to start, between real interfaces.
//! - [`search`]: the highest rate without loss; [`cpu`]: what the cores' time went into; [`report`]: the tables.
//!
//! A case is measured in three steps: a flood says how much comes through at most; halving the interval below it finds
//! the highest rate at which nothing is lost (a trial that loses is repeated once, since this machine has other work
//! too); half of that rate gives the latencies. The core of generator and sink is one, the worker's the other.

pub(crate) mod cpu;
mod elsewhere;
mod gateway;
mod lab;
mod measure;
pub(crate) mod packets;
mod peers;
mod program;
mod report;
mod search;
mod traffic;
mod vpp;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use gateway::Mode;

use gateway::Gateway;
use lab::Place;
use measure::Rig;
use report::Report;
use traffic::Plan;

use crate::mixture::Mixture;
use crate::report::{Output, Scope};

/// Cores of generator and sink, and of the worker.
pub(crate) const TRAFFIC_CORE: usize = 0;
pub(crate) const GATEWAY_CORE: usize = 1;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    scope: Scope,
    /// Length of a trial in milliseconds [default: 500, with --quick 200]
    #[arg(long)]
    trial: Option<u64>,
    /// Share of packets, in percent, that a trial may lose
    #[arg(long, default_value_t = 0.0)]
    loss_tolerance: f64,
    /// How often everything is measured [default: 3, with --quick 1]
    #[arg(long)]
    rounds: Option<u32>,
    /// Rekeys per second in the cases with rekeys
    #[arg(long, default_value_t = 1000)]
    rekeys: u32,
    /// VPP's program, where it is not in PATH as `vpp`
    #[arg(long, default_value = "vpp")]
    vpp: PathBuf,
    /// Send by this interface, to a gateway elsewhere
    #[arg(long, requires_all = ["rx_if", "gateway_mac"])]
    tx_if: Option<String>,
    /// Receive by this interface what the gateway has forwarded
    #[arg(long, requires = "tx_if")]
    rx_if: Option<String>,
    /// The gateway's MAC address on the generator's side
    #[arg(long, requires = "tx_if")]
    gateway_mac: Option<String>,
}

impl Options {
    fn trial(&self) -> Duration {
        Duration::from_millis(self.trial.unwrap_or(if self.scope.quick { 200 } else { 500 }))
    }

    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.scope.quick { 1 } else { 3 })
    }
}

/// The sizes that IP packets are sent in.
fn mixtures(quick: bool) -> Vec<Mixture> {
    let mut mixtures = vec![Mixture::single(64), Mixture::single(1424)];
    if !quick {
        mixtures.insert(1, Mixture::single(512));
        mixtures.push(Mixture::imix());
    }
    mixtures
}

/// A gateway and what it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) mode: Mode,
    pub(crate) mixture: Mixture,
    /// SA pairs, or with plain forwarding policies.
    pub(crate) sas: u32,
    /// SAs replaced in a second.
    pub(crate) rekeys: u32,
}

impl Case {
    pub(crate) fn name(&self) -> String {
        let rekeys = if self.rekeys == 0 { "" } else { "/rekeys" };
        format!("{}/{}/{}sa{rekeys}", self.mode.name(), self.mixture.name, self.sas)
    }
}

/// Runs and prints it.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if let (Some(tx), Some(rx)) = (&options.tx_if, &options.rx_if) {
        return elsewhere::run(options, tx, rx);
    }
    let place = Place::new()?;
    let mut rig = Rig::new(&place, options.trial(), options.loss_tolerance / 100.0, true)?;
    let mut report = Report::new(options.output);
    for _ in 0..options.rounds() {
        for sas in [1, 1_000, 100_000] {
            for mode in Mode::ALL {
                let cases = cases(options, mode, sas);
                if cases.is_empty() {
                    continue;
                }
                rig.face(mode);
                let mut gateway = Gateway::start(&place, mode, sas, GATEWAY_CORE)?;
                rig.worker = cpu::thread_of(std::process::id(), "worker-0");
                // As far as the machine allows: whatever else it does would be measured too.
                let _ = rig.worker.is_some_and(cpu::make_real_time);
                for case in &cases {
                    let measured = rig.measure(&mut gateway, case)?;
                    if measured.rate == 0.0 {
                        eprintln!(
                            "{}: every trial has lost packets; dropped so far: {:?}",
                            case.name(),
                            gateway.drops()
                        );
                    }
                    report.add(&case.name(), report::OURS, &case.mixture.sizes, measured);
                }
                gateway.stop()?;
                rig.worker = None;
                if sas == 1 {
                    peers::measure(options, mode, &mut report);
                }
            }
        }
    }
    report.print(&notes(options));
    Ok(())
}

/// How the sink looks at packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Each by itself, at its socket.
    Closely,
    /// Its program counts them.
    Counting,
}

/// What became of packets sent at a fixed rate.
#[derive(Debug)]
pub struct Counts {
    /// By the generator.
    pub sent: u64,
    /// By the sink.
    pub received: u64,
    /// Packets behind one that was sent later.
    pub reordered: u64,
    /// Sealed packets that do not open.
    pub broken: u64,
    /// What the gateway has dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// Sends `packets` packets of 64 to 1424 octets through a gateway with three SAs, so many in a second, in a lab of its
/// own. Every one is looked at. The packet numbered `spoilt` is one that the gateway must drop.
pub fn send(mode: Mode, packets: u64, rate: f64, spoilt: Option<u64>, look: Look) -> anyhow::Result<Counts> {
    let place = Place::new()?;
    let mut rig = Rig::new(&place, Duration::ZERO, 0.0, false)?;
    rig.face(mode);
    let mut gateway = Gateway::start(&place, mode, 3, GATEWAY_CORE)?;
    let mixture = Mixture { name: "any".into(), sizes: vec![64, 65, 66, 67, 512, 1424] };
    let case = Case { mode, mixture, sas: 3, rekeys: 0 };
    // The time is only a limit; the last packet is waited for no longer than one that cannot come.
    let patience = Duration::from_secs(if spoilt.is_some() { 1 } else { 20 });
    let plan = Plan { rate: Some(rate), time: Duration::from_secs(60), packets, patience };
    let trial = rig.once(&mut gateway, &case, plan, spoilt, look == Look::Closely)?;
    let drops = gateway.drops();
    gateway.stop()?;
    let traffic::Trial { sent, received, reordered, broken, .. } = trial;
    Ok(Counts { sent, received, reordered, broken, drops })
}

fn cases(options: &Options, mode: Mode, sas: u32) -> Vec<Case> {
    let mut cases = Vec::new();
    for mixture in mixtures(options.scope.quick) {
        for rekeys in [0, options.rekeys] {
            let case = Case { mode, mixture: mixture.clone(), sas, rekeys };
            // There is nothing to rekey; and in a hurry the many SAs and the rekeys are shown once.
            let pointless = rekeys > 0 && mode == Mode::Plain;
            let dear = (sas > 1 && !(sas == 1_000 && mode == Mode::Encrypt && mixture.name == "64"))
                || (rekeys > 0 && sas == 1);
            if !(pointless || options.scope.quick && dear) && options.scope.wants(&case.name()) {
                cases.push(case);
            }
        }
    }
    cases
}

fn notes(options: &Options) -> String {
    format!(
        "Highest rate at which at most {} % of the packets are lost, halving the interval to 2 % (RFC 2544), trials of {} ms, {} \
         round(s), a trial that loses repeated once; latency at half of that rate. Sizes are of the IP packet in clear. Generator \
         and sink are AF_XDP sockets on core {TRAFFIC_CORE}, the worker is on core {GATEWAY_CORE}, both with real-time priority \
         where that is allowed; each core also receives, in a thread of the kernel's (of linux-forward and strongswan: as it sends), what it has sent. For latencies every packet \
         comes to the sink's socket; for rates the sink's XDP program counts packets by their numbers and drops them. Idle is the \
         share of the time in which generator and sink had nothing to do. What is decrypted is sealed by the generator as it \
         sends.",
        options.loss_tolerance,
        options.trial().as_millis(),
        options.rounds()
    )
}
