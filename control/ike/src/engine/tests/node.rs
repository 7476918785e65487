//! What may be at an end of the simulated world: an engine, or several that share the work with a registry beside them, between
//! which messages take their time.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};
use zeroize::Zeroizing;

use super::world::token_secret;
use crate::config::EngineConfig;
use crate::engine::*;

/// It does what an engine does.
pub(super) trait Node {
    /// That of an end.
    fn make(end: usize, config: EngineConfig, seed: u64) -> Self;
    fn handle_datagram(&mut self, now: Instant, datagram: Datagram);
    fn handle_command(&mut self, now: Instant, id: CommandId, command: Command);
    fn handle_job(&mut self, now: Instant, id: JobId, result: JobResult);
    fn handle_timeout(&mut self, now: Instant);
    fn handle_config(&mut self, now: Instant, config: EngineConfig);
    fn poll_transmit(&mut self) -> Option<Datagram>;
    fn poll_timeout(&self) -> Option<Instant>;
    fn poll_job(&mut self) -> Option<(JobId, Job)>;
    fn poll_event(&mut self) -> Option<Event>;
    fn sas(&self) -> Vec<&IkeSa>;
    fn status(&self) -> Vec<IkeSaStatus>;
    fn half_open(&self) -> usize;
    fn assert_consistent(&self);
}

impl Node for Engine {
    fn make(end: usize, config: EngineConfig, seed: u64) -> Self {
        let mut engine = Self::new(config, Box::new(ChaCha20Rng::seed_from_u64(seed)));
        engine.keep_tokens(token_secret(end));
        engine
    }
    fn handle_datagram(&mut self, now: Instant, datagram: Datagram) {
        self.handle_datagram(now, datagram);
    }
    fn handle_command(&mut self, now: Instant, id: CommandId, command: Command) {
        self.handle_command(now, id, command);
    }
    fn handle_job(&mut self, now: Instant, id: JobId, result: JobResult) {
        self.handle_job(now, id, result);
    }
    fn handle_timeout(&mut self, now: Instant) {
        self.handle_timeout(now);
    }
    fn handle_config(&mut self, now: Instant, config: EngineConfig) {
        self.handle_config(now, config);
    }
    fn poll_transmit(&mut self) -> Option<Datagram> {
        self.poll_transmit()
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.poll_timeout()
    }
    fn poll_job(&mut self) -> Option<(JobId, Job)> {
        self.poll_job()
    }
    fn poll_event(&mut self) -> Option<Event> {
        self.poll_event()
    }
    fn sas(&self) -> Vec<&IkeSa> {
        self.sas.values().map(AsRef::as_ref).collect()
    }
    fn status(&self) -> Vec<IkeSaStatus> {
        self.status()
    }
    fn half_open(&self) -> usize {
        self.half_open()
    }
    fn assert_consistent(&self) {
        self.assert_consistent();
    }
}

/// So many shards has an end.
pub(super) const SHARDS: u8 = 3;

/// The longest that a message between a shard and the registry takes.
const LONGEST: Duration = Duration::from_millis(40);

/// A message between a shard and the registry.
enum Line {
    Question(JobId, Question),
    Note(Note),
    Word(Word),
}

/// Several engines and their registry. What they tell one another takes random time, and keeps its order between the same two
/// alone.
pub(super) struct Cluster {
    pub(super) shards: Vec<Engine>,
    pub(super) registry: Registry,
    pub(super) routes: Routes,
    /// When, which shard's, and whether to the registry.
    under_way: VecDeque<(Instant, usize, bool, Line)>,
    events: VecDeque<Event>,
    jobs: VecDeque<(JobId, Job)>,
    /// Commands of which some shards have not told yet how they ended.
    commands: HashMap<CommandId, (usize, Vec<Result<(), Failure>>)>,
    rng: ChaCha20Rng,
}

impl Cluster {
    /// What every shard has to say is taken.
    fn collect(&mut self, now: Instant) {
        let of = self.shards.len() as u64;
        for shard in 0..self.shards.len() {
            while let Some((id, job)) = self.shards[shard].poll_job() {
                match job {
                    Job::Ask(question) => self.send(now, shard, true, Line::Question(id, *question)),
                    Job::Tell(note) => self.send(now, shard, true, Line::Note(*note)),
                    job => self.jobs.push_back((JobId(id.0 * of + shard as u64), job)),
                }
            }
            while let Some(event) = self.shards[shard].poll_event() {
                match event {
                    Event::CommandDone { command, result } => self.command_ended(command, result),
                    event => self.events.push_back(event),
                }
            }
        }
        while let Some((shard, word)) = self.registry.poll() {
            self.send(now, shard, false, Line::Word(word));
        }
    }

    fn command_ended(&mut self, command: CommandId, result: Result<(), Failure>) {
        let Some((left, ends)) = self.commands.get_mut(&command) else { panic!("a command ended twice") };
        ends.push(result);
        *left -= 1;
        if *left == 0 {
            let (_, ends) = self.commands.remove(&command).unwrap();
            self.events.push_back(Event::CommandDone { command, result: Routes::merge(ends) });
        }
    }

    fn send(&mut self, now: Instant, shard: usize, up: bool, line: Line) {
        let delay = LONGEST.mul_f64(f64::from(self.rng.next_u32()) / f64::from(u32::MAX));
        let same = self.under_way.iter().rev().find(|(_, other, way, _)| (*other, *way) == (shard, up));
        let at = same.map_or(now + delay, |(earlier, ..)| (*earlier).max(now + delay));
        self.under_way.push_back((at, shard, up, line));
    }

    /// The next message that arrives; of those that arrive together the one sent first.
    fn next(&self) -> Option<usize> {
        let all = self.under_way.iter().enumerate();
        all.min_by_key(|(_, (at, ..))| *at).map(|(place, _)| place)
    }

    fn arrive(&mut self, now: Instant) {
        while let Some(place) = self.next().filter(|place| self.under_way[*place].0 <= now) {
            let (_, shard, _, line) = self.under_way.remove(place).unwrap();
            match line {
                Line::Question(id, question) => self.registry.handle_question(shard, id, question),
                Line::Note(note) => self.registry.handle_note(shard, note),
                Line::Word(Word::Answer(id, answer)) => {
                    self.shards[shard].handle_job(now, id, JobResult::Registry(Box::new(answer)));
                }
                Line::Word(Word::Order(order)) => self.shards[shard].handle_order(now, order),
            }
            self.collect(now);
        }
    }

    /// Nothing is under way between them.
    pub(super) fn is_quiet(&self) -> bool {
        self.under_way.is_empty()
    }
}

impl Node for Cluster {
    fn make(end: usize, config: EngineConfig, seed: u64) -> Self {
        let common = Common::new(Zeroizing::new([seed as u8; 32]), Instant::now());
        let engine = |shard: Shard| {
            let rng = Box::new(ChaCha20Rng::seed_from_u64(seed * 64 + shard.number() as u64));
            let mut engine = Engine::sharded(config.clone(), rng, shard, Some(common.clone()));
            engine.keep_tokens(token_secret(end));
            engine
        };
        Self {
            shards: Shard::all(SHARDS).map(engine).collect(),
            registry: Registry::new(SHARDS.into()),
            routes: Routes::new(&config.connections, SHARDS),
            under_way: VecDeque::new(),
            events: VecDeque::new(),
            jobs: VecDeque::new(),
            commands: HashMap::new(),
            rng: ChaCha20Rng::seed_from_u64(seed + 7),
        }
    }

    fn handle_datagram(&mut self, now: Instant, datagram: Datagram) {
        let shard = self.routes.of_datagram(&datagram);
        self.shards[shard].handle_datagram(now, datagram);
        self.collect(now);
    }

    fn handle_command(&mut self, now: Instant, id: CommandId, command: Command) {
        let for_whom = match self.routes.reach(&command) {
            Reach::All => 0..self.shards.len(),
            Reach::One(shard) => shard..shard + 1,
            Reach::Whoever(otherwise) => {
                let concerned = self.shards.iter().position(|shard| shard.is_concerned(&command));
                let shard = concerned.unwrap_or(otherwise);
                shard..shard + 1
            }
        };
        self.commands.insert(id, (for_whom.len(), Vec::new()));
        for shard in for_whom {
            self.shards[shard].handle_command(now, id, command.clone());
        }
        self.collect(now);
    }

    fn handle_job(&mut self, now: Instant, id: JobId, result: JobResult) {
        let of = self.shards.len() as u64;
        self.shards[(id.0 % of) as usize].handle_job(now, JobId(id.0 / of), result);
        self.collect(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.arrive(now);
        for shard in &mut self.shards {
            shard.handle_timeout(now);
        }
        self.collect(now);
    }

    fn handle_config(&mut self, now: Instant, config: EngineConfig) {
        self.routes = Routes::new(&config.connections, SHARDS);
        for shard in &mut self.shards {
            shard.handle_config(now, config.clone());
        }
        self.collect(now);
    }

    fn poll_transmit(&mut self) -> Option<Datagram> {
        self.shards.iter_mut().find_map(Engine::poll_transmit)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let line = self.next().map(|place| self.under_way[place].0);
        self.shards.iter().filter_map(Engine::poll_timeout).chain(line).min()
    }

    fn poll_job(&mut self) -> Option<(JobId, Job)> {
        self.jobs.pop_front()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn sas(&self) -> Vec<&IkeSa> {
        self.shards.iter().flat_map(Node::sas).collect()
    }

    fn status(&self) -> Vec<IkeSaStatus> {
        self.shards.iter().flat_map(Engine::status).collect()
    }

    fn half_open(&self) -> usize {
        self.shards.iter().map(Engine::half_open).sum()
    }

    /// Each shard by itself, and the registry counts what they have.
    fn assert_consistent(&self) {
        let mut there: HashMap<_, Vec<(usize, usize)>> = HashMap::new();
        for (number, shard) in self.shards.iter().enumerate() {
            shard.assert_consistent();
            for sa in shard.sas.values().filter(|sa| sa.base.established.is_some()) {
                assert_eq!(self.routes.of_ike(sa.base.id), number);
                let counts = there.entry(sa.base.identities().unwrap()).or_default();
                match counts.iter_mut().find(|(known, _)| *known == number) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((number, 1)),
                }
            }
        }
        if !self.is_quiet() {
            return;
        }
        assert_eq!(self.registry.half_open(), self.half_open());
        for (identities, counts) in self.registry.peers() {
            let mut counts = counts.clone();
            counts.sort_unstable();
            assert_eq!(there.remove(identities.as_ref()), Some(counts.clone()), "{identities:?}");
            let shared = counts.len() > 1;
            for (number, shard) in self.shards.iter().enumerate() {
                let has = counts.iter().any(|(known, _)| *known == number);
                assert_eq!(shard.cx.elsewhere.contains(identities), shared && has, "{number} {identities:?}");
            }
        }
        assert!(there.is_empty(), "the registry does not know of {there:?}");
    }
}
