//! `bench ike`: tunnels and rekeys a second, how long one takes, and what it costs in memory and processor time, beside
//! strongSwan.
//!
//! - [`place`]: the namespaces; [`responder`]: our whole daemon and strongSwan, each with a core to itself, and how they are
//!   configured; [`contest`]: one of each, growing in turns.
//! - [`client`]: an engine that begins, with credentials of [`credentials`]; [`load`]: many of them in one thread on the other
//!   core, by [`sockets`]; [`esp`]: the packet that shows that a tunnel is there.
//!
//! `tunnel`: an IKE SA with its CHILD SA, which counts when the first packet of ESP has come out inside; `ike-sa`: IKE alone, an
//! IKE SA without a CHILD SA (RFC 6023), which counts when the client has verified IKE_AUTH's answer. With tunnels strongSwan's
//! ESP is in user space (kernel-libipsec), whose lists of SAs and policies grow long; without it has no data plane to wait for.

mod client;
mod contest;
mod credentials;
mod esp;
mod load;
mod place;
mod responder;
mod sockets;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use client::{Carries, Task};
use contest::{Binaries, Contest, Milestone};
use credentials::{Authority, Credentials};
use load::Load;
use place::Place;
use responder::{CLIENTS_CORE, Kind, RESPONDER_CORE, Responder};

use crate::forward::cpu;
use crate::report::{Output, Report, Scope};

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    scope: Scope,
    /// Our daemon, in place of the one that was built beside this bench
    #[arg(long)]
    gateway: Option<PathBuf>,
    /// One more daemon of ours, measured beside it in the same turns: what a change is worth
    #[arg(long)]
    beside: Option<PathBuf>,
    /// Clients that are served at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    at_once: u16,
    /// Numbers of tunnels at which is measured, in place of 1,000, 10,000 and 100,000
    #[arg(long, value_delimiter = ',')]
    tunnels: Vec<u32>,
}

impl Options {
    /// Where is measured, and where without strongSwan.
    fn milestones(&self, carries: Carries, certificates: bool) -> Vec<Milestone> {
        let numbers = match (self.tunnels.as_slice(), self.scope.quick) {
            ([], true) => vec![if certificates { 500 } else { 1_000 }],
            ([], false) if certificates => vec![1_000],
            ([], false) => vec![1_000, 10_000, 100_000],
            (chosen, _) => chosen.to_vec(),
        };
        let alone = |tunnels| carries == Carries::Child && tunnels > STRONGSWANS_MOST;
        let of = |tunnels| Milestone { tunnels, alone: alone(tunnels) };
        numbers.into_iter().map(of).collect()
    }

    /// How long one responder may take to the next milestone.
    fn patience(&self) -> Duration {
        Duration::from_secs(if self.scope.quick { 10 } else { 240 })
    }
}

/// Tunnels beyond which strongSwan with ESP in user space is not measured: each takes longer than the one before, so that it
/// would be hours.
const STRONGSWANS_MOST: u32 = 10_000;

/// Runs and prints it.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let binary = match &options.gateway {
        Some(binary) => binary.clone(),
        None => responder::built()?,
    };
    // Whatever a container may not is measured without.
    let _ = core_affinity::set_for_current(core_affinity::CoreId { id: CLIENTS_CORE });
    cpu::prefer(std::process::id());
    let mut report = Report::new("ike", options.output).with_baseline("strongswan");
    report.note(&notes(options));
    for (carries, certificates) in
        [(Carries::Child, false), (Carries::Child, true), (Carries::Nothing, false), (Carries::Nothing, true)]
    {
        let credentials = Rc::new(if certificates {
            Credentials::Certificates(Box::new(Authority::new()?))
        } else {
            Credentials::Secret
        });
        let name = format!("{}/{}", carries.name(), credentials.name());
        if !options.scope.wants(&name) {
            continue;
        }
        let milestones = options.milestones(carries, certificates);
        let binaries = Binaries { ours: binary.clone(), beside: options.beside.clone() };
        let mut contest = Contest::begin(&name, carries, &credentials, binaries, options.at_once.into())?;
        for milestone in milestones {
            contest.reach(&mut report, milestone, options.patience())?;
        }
    }
    Ok(())
}

/// Brings so many tunnels of strongSwan's up and rekeys each once: how many of either were seen to carry a packet.
///
/// # Errors
/// What strongSwan or a client says.
pub fn trial(tunnels: u32) -> anyhow::Result<[u32; 2]> {
    let credentials = Rc::new(Credentials::Secret);
    let place = Place::new("ike-trial")?;
    let _charon = Responder::start(Kind::StrongSwan, &place.gateway, &credentials, "".as_ref())?;
    let mut load = Load::new(&place, Carries::Child, credentials)?;
    let until = Instant::now() + Duration::from_secs(60);
    let up = load.establish(tunnels, 4, until)?.done;
    Ok([up, load.rekey(Task::RekeyChild, tunnels, 4, until)?.done])
}

fn notes(options: &Options) -> String {
    format!(
        "Responders on core {RESPONDER_CORE}, data plane included; clients on core {CLIENTS_CORE}, in one thread, all with \
         real-time priority where that is allowed; {} are served at once, each with an address and an identity of its own, so that no limit of half-open SAs by address applies; cookies \
         are off at both responders. Clients compute the public value that they begin with before their time begins, and do not verify the \
         responder's certificate. Responders take turns, a block of tunnels each. processor is what the responder's process took \
         in user and system mode; what the kernel does with a packet on arrival is done on the clients' core, for both. \
         octets_per_tunnel is what the whole process has grown by since its start.",
        options.at_once
    )
}
