//! Everything at once, from one seed: rekeyings and reauthentications of both ends that cross one another and deletes,
//! while the network loses, doubles, delays and reorders, jobs finish in any order and clocks skip. After each run what
//! both ends must agree on is checked, and that nothing goes on for ever.
//!
//! A failing seed is printed; `PORTCULLIS_SIM_SEED=N cargo test -p portcullis-ike storm` replays it alone.
//! `PORTCULLIS_SIM_SEEDS=N` runs so many.

use std::time::Duration;

use rand_core::Rng as _;

use super::node::Node;
use super::world::*;
use crate::config::*;
use crate::engine::*;

/// Seeds of each kind that are tried where nothing else is asked for.
const SEEDS: u64 = 500;

pub(super) fn seeds() -> Box<dyn Iterator<Item = u64>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("PORTCULLIS_SIM_SEED") {
        Some(seed) => Box::new(std::iter::once(seed)),
        None => Box::new(0..number("PORTCULLIS_SIM_SEEDS").unwrap_or(SEEDS)),
    }
}

/// Says which seed it was if a run panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with PORTCULLIS_SIM_SEED={}", self.0);
        }
    }
}

/// What an end may be made to do.
#[derive(Debug, Clone, Copy)]
enum Deed {
    RekeyChild,
    RekeyIke,
    Reauthenticate,
    SoftLimit,
    HardLimit,
    TerminateChild,
    TerminateIke,
    Initiate,
    /// All clocks go on by up to ten minutes at once.
    Skip,
}

const HARMLESS: &[Deed] = &[Deed::RekeyChild, Deed::RekeyIke, Deed::Reauthenticate, Deed::SoftLimit];
const HARMFUL: &[Deed] = &[
    Deed::RekeyChild,
    Deed::RekeyIke,
    Deed::Reauthenticate,
    Deed::SoftLimit,
    Deed::HardLimit,
    Deed::TerminateChild,
    Deed::TerminateIke,
    Deed::Initiate,
    Deed::Initiate,
    Deed::Skip,
];

pub(super) struct Storm<N> {
    pub(super) world: WorldOf<N>,
}

impl<N: Node> Storm<N> {
    /// `change` makes other ends of them.
    fn new(seed: u64, change: impl Fn(&mut EngineConfig, &mut EngineConfig)) -> Self {
        let (mut a, mut b) = (config(A), config(B));
        for config in [&mut a, &mut b] {
            config.retransmission.tries = 12;
            config.retransmission.base = 1.1;
            config.half_open_timeout = Duration::from_secs(120);
            config.connections[0].session_resumption = true;
            if seed.is_multiple_of(3) {
                let proposals = &mut config.connections[0].children[0].esp_proposals;
                *proposals = vec!["aes256gcm16-x25519-esn".parse().unwrap()];
            }
        }
        a.connections[0].children[0].start_action = StartAction::Start;
        if seed.is_multiple_of(2) {
            b.connections[0].children[0].start_action = StartAction::Start;
        }
        change(&mut a, &mut b);
        let mut world = WorldOf::new(seed, a, b).established();
        world.weather = Weather { loss: (seed % 4) as u32 * 8, duplication: 20, delay: 400 };
        world.job_delay = if seed.is_multiple_of(5) { 0 } else { 300 };
        Self { world }
    }

    fn dice(&mut self, sides: usize) -> usize {
        self.world.rng.next_u32() as usize % sides
    }

    fn act(&mut self, deeds: &[Deed]) {
        let (deed, end) = (deeds[self.dice(deeds.len())], self.dice(2));
        let (connection, child) = ("net".to_owned(), Some("lan".to_owned()));
        let status = self.world.ends[end].engine.status();
        let pair = status.into_iter().flat_map(|sa| sa.children).map(|child| child.spi_in).next();
        let command = match (deed, pair) {
            (Deed::RekeyChild, _) => Command::Rekey { connection, child },
            (Deed::RekeyIke, _) => Command::Rekey { connection, child: None },
            (Deed::Reauthenticate, _) => Command::Reauthenticate { connection },
            (Deed::SoftLimit, Some(pair)) => Command::SoftLimit { pair },
            (Deed::HardLimit, Some(pair)) => Command::HardLimit { pair },
            (Deed::TerminateChild, _) => Command::Terminate { connection, child },
            (Deed::TerminateIke, _) => Command::Terminate { connection, child: None },
            (Deed::Initiate, _) => Command::Initiate { connection, child },
            (Deed::Skip, _) => {
                let skip = Duration::from_secs(self.dice(600) as u64);
                self.world.now += skip;
                return;
            }
            (Deed::SoftLimit | Deed::HardLimit, None) => return,
        };
        self.world.command(end, command);
    }

    /// Lets both ends do a number of deeds, each after at most so many milliseconds.
    fn rage(&mut self, deeds: &[Deed], count: usize, apart: usize) {
        for _ in 0..count {
            self.act(deeds);
            let until = self.world.now + Duration::from_millis(self.dice(apart) as u64);
            while self.world.tick(until) {}
        }
    }

    /// The weather clears. Both ends come to rest, and agree.
    fn calm(&mut self) {
        self.world.weather = Weather { loss: 0, duplication: 0, delay: 5 };
        self.world.run(60);
        self.world.end_traffic();
        self.world.run(900);
        self.world.assert_agreement();
        let sent = self.world.sent.len();
        self.world.run(300);
        assert_eq!(self.world.sent.len(), sent, "something goes on for ever\n{}", self.world.report());
        for end in [A, B] {
            assert_eq!(self.world.ends[end].engine.poll_timeout(), None, "a timer without a purpose");
        }
    }

    /// There is one tunnel, which can be used and rekeyed like any other. Wishes of both ends that cross while messages are
    /// lost may have brought its child up twice, which does no harm.
    fn one_tunnel(&mut self) {
        self.world.initiate(A);
        self.world.run(60);
        for end in [A, B] {
            let status = self.world.ends[end].engine.status();
            let [sa] = status.as_slice() else { panic!("end {end}\n{}", self.world.report()) };
            let whole = sa.state == IkeState::Established && (1..=2).contains(&sa.children.len());
            assert!(whole, "end {end}\n{}", self.world.report());
        }
        for child in [None, Some("lan".to_owned())] {
            self.world.command(B, Command::Rekey { connection: "net".to_owned(), child });
            self.world.run(10);
        }
        self.world.run(10);
        self.world.assert_agreement();
    }
}

#[test]
fn no_packet_is_lost_however_rekeyings_cross() {
    for seed in seeds() {
        let named = Named(seed);
        let mut storm = Storm::<Engine>::new(seed, |_, _| {});
        storm.world.begin_traffic(Duration::from_millis(97));
        let apart = [50, 500, 3000][storm.dice(3)];
        storm.rage(HARMLESS, 8, apart);
        storm.calm();
        assert_eq!(storm.world.lost, [""; 0], "{}", storm.world.report());
        storm.one_tunnel();
        drop(named);
    }
}

#[test]
fn both_ends_agree_whatever_happened() {
    seeds().for_each(both_ends_agree);
}

pub(super) fn both_ends_agree(seed: u64) {
    ends_agree::<Engine>(seed, |_, _| {});
}

/// The same of others.
pub(super) fn ends_agree<N: Node>(seed: u64, change: impl Fn(&mut EngineConfig, &mut EngineConfig)) {
    let _named = Named(seed);
    let mut storm = Storm::<N>::new(seed, change);
    let apart = [50, 500, 3000, 20_000][storm.dice(4)];
    storm.rage(HARMFUL, 12, apart);
    storm.calm();
    storm.one_tunnel();
}
