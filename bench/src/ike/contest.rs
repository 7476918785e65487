//! Responders that grow side by side, block by block in turns, and are measured at milestones.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::client::{Carries, Task};
use super::credentials::Credentials;
use super::load::{Load, Round};
use super::place::Place;
use super::responder::{Kind, Responder};
use crate::report::{Report, Samples};

/// Turns at a milestone, and tunnels of each turn, unless that are more than there are to be.
const TURNS: u32 = 8;
const BLOCK: u32 = 250;
/// Tunnels of each turn on the way to a milestone.
const STRIDE: u32 = 1_000;
/// Other daemons of ours: one that was named, and one that has just begun.
const BESIDE: &str = "portcullis-beside";
const FRESH: &str = "portcullis-fresh";
/// Tunnels that are begun one after the other, at a milestone.
const SINGLES: u32 = 100;

/// Where is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Milestone {
    pub(crate) tunnels: u32,
    /// strongSwan does not come along; a second daemon of ours that has just begun does.
    pub(crate) alone: bool,
}

/// Our daemons.
#[derive(Debug)]
pub(crate) struct Binaries {
    /// The one that the contest is about.
    pub(crate) ours: PathBuf,
    /// Another.
    pub(crate) beside: Option<PathBuf>,
}

/// A responder and its clients.
#[derive(Debug)]
struct Side {
    name: &'static str,
    kind: Kind,
    load: Load,
    responder: Responder,
    /// Octets of it when it had no tunnels.
    empty: u64,
    /// Why it is no longer measured.
    out: Option<String>,
    /// Last, for the others are in it.
    _place: Place,
}

/// What a side did in some turns.
#[derive(Debug, Default)]
struct Score {
    rates: Samples,
    processor: Samples,
    latencies: Vec<Duration>,
    idle: Samples,
    repeated: u64,
}

/// Both.
#[derive(Debug)]
pub(crate) struct Contest {
    name: String,
    carries: Carries,
    credentials: Rc<Credentials>,
    binaries: Binaries,
    at_once: usize,
    sides: Vec<Side>,
    absent: Vec<(&'static str, String)>,
}

impl Contest {
    /// Starts a responder of each kind.
    pub(crate) fn begin(
        name: &str,
        carries: Carries,
        credentials: &Rc<Credentials>,
        binaries: Binaries,
        at_once: usize,
    ) -> anyhow::Result<Self> {
        let mut contest = Self {
            name: name.to_owned(),
            carries,
            credentials: Rc::clone(credentials),
            binaries,
            at_once,
            sides: Vec::new(),
            absent: Vec::new(),
        };
        let Binaries { ours, beside } = &contest.binaries;
        let mut sides = vec![contest.side(Kind::Portcullis, Kind::Portcullis.name(), ours)?];
        if let Some(beside) = beside {
            sides.push(contest.side(Kind::Portcullis, BESIDE, beside)?);
        }
        contest.sides = sides;
        match contest.side(Kind::StrongSwan, Kind::StrongSwan.name(), "".as_ref()) {
            Ok(theirs) => contest.sides.push(theirs),
            Err(error) => contest.absent.push((Kind::StrongSwan.name(), format!("{error:#}"))),
        }
        Ok(contest)
    }

    /// `binary` is of ours.
    fn side(&self, kind: Kind, name: &'static str, binary: &Path) -> anyhow::Result<Side> {
        let place = Place::new(&format!("ike-{name}"))?;
        let mut responder = Responder::start(kind, &place.gateway, &self.credentials, binary)?;
        let load = Load::new(&place, self.carries, Rc::clone(&self.credentials))?;
        let empty = responder.resident()?;
        Ok(Side { name, kind, load, responder, empty, out: None, _place: place })
    }

    /// Grows to a milestone and measures there.
    pub(crate) fn reach(
        &mut self,
        report: &mut Report,
        milestone: Milestone,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let Milestone { tunnels, alone } = milestone;
        if alone {
            self.sides.retain(|side| side.kind == Kind::Portcullis);
        }
        let block = BLOCK.min(tunnels / TURNS).max(1);
        let before = tunnels.saturating_sub(block * TURNS);
        let at_once = self.at_once;
        let mut patience: Vec<Duration> = self.sides.iter().map(|_| patience).collect();
        while self.sides.iter().any(|side| side.out.is_none() && side.load.up() < before) {
            for (side, patience) in self.sides.iter_mut().zip(&mut patience) {
                let more = before.saturating_sub(side.load.up()).min(STRIDE);
                let begun = Instant::now();
                side.turn(more, |load| load.establish(more, at_once, begun + *patience));
                *patience = patience.saturating_sub(begun.elapsed());
            }
        }
        if alone {
            let fresh = self.side(Kind::Portcullis, FRESH, &self.binaries.ours)?;
            self.sides.push(fresh);
        }
        let limit = Duration::from_secs(30);
        let establish = |load: &mut Load, count| load.establish(count, at_once, Instant::now() + limit);
        let scores = self.turns(block, establish);
        self.print(report, &format!("{}/{tunnels}", self.name), &scores)?;
        self.memory(report, tunnels)?;
        let single = |load: &mut Load, count| load.establish(count, 1, Instant::now() + limit);
        let scores = self.turns(SINGLES.min(block) / TURNS + 1, single);
        self.latencies(report, &format!("{}/{tunnels}/one-by-one", self.name), &scores);
        let (task, name) = match self.carries {
            Carries::Child => (Task::RekeyChild, "rekey-child"),
            Carries::Nothing => (Task::RekeyIke, "rekey-ike"),
        };
        let rekey = |load: &mut Load, count| load.rekey(task, count, at_once, Instant::now() + limit);
        let scores = self.turns(block, rekey);
        self.print(report, &format!("{name}/{}/{tunnels}", self.name), &scores)?;
        self.sides.retain(|side| side.name != FRESH);
        Ok(())
    }

    /// Each side does the same in turns.
    fn turns(&mut self, block: u32, act: impl Fn(&mut Load, u32) -> anyhow::Result<Round>) -> Vec<Score> {
        let mut scores: Vec<Score> = self.sides.iter().map(|_| Score::default()).collect();
        for _ in 0..TURNS {
            for (side, score) in self.sides.iter_mut().zip(&mut scores) {
                let before = side.responder.processor();
                let Some(round) = side.turn(block, |load| act(load, block)) else { continue };
                let spent = side.responder.processor().saturating_sub(before);
                score.rates.record(round.rate());
                score.processor.record(spent.as_secs_f64() * 1e6 / f64::from(round.done.max(1)));
                score.idle.record(100.0 * round.idle.as_secs_f64() / round.took.as_secs_f64().max(1e-9));
                score.latencies.extend(round.latencies);
                score.repeated += round.repeated;
            }
        }
        scores
    }

    fn print(&self, report: &mut Report, case: &str, scores: &[Score]) -> anyhow::Result<()> {
        for (unit, samples) in [
            ("per_s", Score::rates as fn(&Score) -> &Samples),
            ("us_processor", Score::processor),
            ("clients_idle_%", Score::idle),
        ] {
            for (side, score) in self.sides.iter().zip(scores) {
                match &side.out {
                    Some(why) => report.absent(case, side.name, unit, why),
                    None => report.row(case, side.name, unit, samples(score)),
                }
            }
            for (name, why) in &self.absent {
                report.absent(case, name, unit, why);
            }
        }
        self.latencies(report, case, scores);
        for (side, score) in self.sides.iter().zip(scores) {
            if score.repeated > 0 {
                let repeated = Samples::single(score.repeated as f64);
                report.row(case, side.name, "sent_again", &repeated);
            }
        }
        Ok(())
    }

    fn latencies(&self, report: &mut Report, case: &str, scores: &[Score]) {
        for (unit, part) in [("ms_p50", 0.5), ("ms_p99", 0.99)] {
            for (side, score) in self.sides.iter().zip(scores).filter(|(side, _)| side.out.is_none()) {
                let mut all = Samples::new();
                score.latencies.iter().for_each(|latency| all.record(latency.as_secs_f64() * 1e3));
                report.row(case, side.name, unit, &Samples::single(all.quantile(part)));
            }
        }
    }

    fn memory(&mut self, report: &mut Report, tunnels: u32) -> anyhow::Result<()> {
        let case = format!("{}/{tunnels}", self.name);
        for side in self.sides.iter_mut().filter(|side| side.out.is_none() && side.load.up() >= tunnels) {
            let grown = side.responder.resident()?.saturating_sub(side.empty);
            let each = Samples::single(grown as f64 / f64::from(side.load.up()));
            report.row(&case, side.name, "octets_per_tunnel", &each);
        }
        Ok(())
    }
}

impl Side {
    /// Lets it do something; a side that cannot is out from then on.
    fn turn(&mut self, count: u32, act: impl FnOnce(&mut Load) -> anyhow::Result<Round>) -> Option<Round> {
        if self.out.is_some() || count == 0 {
            return None;
        }
        let with = self.load.up();
        let round = act(&mut self.load).with_context(|| format!("with {with} up"));
        match round {
            Ok(round) => Some(round),
            Err(error) => {
                self.out = Some(format!("{error:#}"));
                None
            }
        }
    }
}

impl Score {
    fn rates(&self) -> &Samples {
        &self.rates
    }

    fn processor(&self) -> &Samples {
        &self.processor
    }

    fn idle(&self) -> &Samples {
        &self.idle
    }
}
