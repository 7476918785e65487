//! What shards have in common, sans-IO: it is asked and told, and has something to say in [`Registry::poll`]. It decides nothing:
//! what follows from its numbers, each shard knows from its own configuration.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Answer, Claim, Claimed, Load, Note, Order, Peer, Question, source};
use crate::config::Unique;
use crate::engine::api::JobId;
use crate::engine::index::Identities;

/// The registry. One thread owns it.
#[derive(Debug, Default)]
pub struct Registry {
    shards: usize,
    half_open: usize,
    by_source: HashMap<IpAddr, usize>,
    /// How many IKE SAs of each pair of identities there are, by shard: mostly in one.
    peers: HashMap<Arc<Identities>, Vec<(usize, usize)>>,
    unproven: usize,
    /// Claims that wait for other shards to let go of what their peer had before.
    waiting: HashMap<u64, Waiting>,
    next: u64,
    words: VecDeque<(usize, Word)>,
}

/// Something for a shard.
#[derive(Debug)]
pub enum Word {
    /// The answer to one of its questions.
    Answer(JobId, Answer),
    /// What it is to do, or to know.
    Order(Order),
}

#[derive(Debug)]
struct Waiting {
    shard: usize,
    job: JobId,
    claim: Claim,
    /// Shards that have not settled it.
    left: usize,
}

impl Registry {
    /// Of so many shards, none of which has anything yet.
    pub fn new(shards: usize) -> Self {
        Self { shards, ..Self::default() }
    }

    /// A shard asks; `job` will be named in the answer.
    pub fn handle_question(&mut self, shard: usize, job: JobId, question: Question) {
        match question {
            Question::Room { source, below, of_source_below } => {
                let (load, taken) = self.take_place(source, below, of_source_below);
                self.say(shard, Word::Answer(job, Answer::Room(load, taken)));
            }
            Question::Claim(claim) => self.claim(shard, job, claim),
        }
    }

    /// A shard tells.
    pub fn handle_note(&mut self, shard: usize, note: Note) {
        match note {
            Note::Left { source } => self.leave_place(source),
            Note::Here(peer) => self.add(shard, &peer),
            Note::Gone(peer) => self.remove(shard, &peer),
            Note::Supersede { peer, connection, by } => {
                for other in self.others(shard, &peer) {
                    let (peer, connection) = (peer.clone(), connection.clone());
                    self.say(other, Word::Order(Order::Superseded { peer, connection, by }));
                }
            }
            Note::Settled(number) => {
                let Some(waiting) = self.waiting.get_mut(&number) else { return };
                waiting.left = waiting.left.saturating_sub(1);
                if waiting.left == 0
                    && let Some(Waiting { shard, job, claim, .. }) = self.waiting.remove(&number)
                {
                    self.grant(shard, job, claim);
                }
            }
            Note::Hint { from, spi } => {
                for other in (0..self.shards).filter(|other| *other != shard) {
                    self.say(other, Word::Order(Order::Hint { from, spi }));
                }
            }
            Note::Stray { to, datagram } => self.say(to, Word::Order(Order::Stray(datagram))),
        }
    }

    /// Something for the shard of that number.
    pub fn poll(&mut self) -> Option<(usize, Word)> {
        self.words.pop_front()
    }

    fn say(&mut self, shard: usize, word: Word) {
        self.words.push_back((shard, word));
    }

    fn take_place(&mut self, addr: IpAddr, below: usize, of_source_below: usize) -> (Load, bool) {
        let of_source = self.by_source.get(&source(addr)).copied().unwrap_or_default();
        let load = Load { half_open: self.half_open, of_source };
        let taken = load.half_open < below && of_source < of_source_below;
        if taken {
            *self.by_source.entry(source(addr)).or_default() += 1;
            self.half_open += 1;
        }
        (load, taken)
    }

    fn leave_place(&mut self, addr: IpAddr) {
        let source = source(addr);
        let Some(count) = self.by_source.get_mut(&source) else { return };
        *count -= 1;
        if *count == 0 {
            self.by_source.remove(&source);
        }
        self.half_open = self.half_open.saturating_sub(1);
    }

    /// What the peer had before goes first, and with it what it leaves to the new one: addresses.
    fn claim(&mut self, shard: usize, job: JobId, claim: Claim) {
        self.add(shard, &claim.peer);
        let others = self.others(shard, &claim.peer);
        let Some(before) = claim.before.filter(|_| claim.unique != Unique::Never && !others.is_empty())
        else {
            return self.grant(shard, job, claim);
        };
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let (peer, left) = (claim.peer.clone(), others.len());
        self.waiting.insert(number, Waiting { shard, job, claim, left });
        for other in others {
            let peer = peer.clone();
            self.say(other, Word::Order(Order::InitialContact { number, peer, before }));
        }
    }

    fn grant(&mut self, shard: usize, job: JobId, claim: Claim) {
        let Claim { peer, ike, connection, unique, .. } = claim;
        let there = self.peers.get(&peer.identities).into_iter().flatten();
        let count: usize = there.map(|(_, count)| count).sum();
        let unproven = self.unproven - usize::from(peer.unproven).min(self.unproven);
        if unique == Unique::Replace {
            self.handle_note(shard, Note::Supersede { peer: peer.clone(), connection, by: ike });
        }
        let claimed = Claimed { peer, others: count > 1, unproven };
        self.say(shard, Word::Answer(job, Answer::Claimed(claimed)));
    }

    /// Other shards that have IKE SAs of a peer.
    fn others(&self, shard: usize, peer: &Peer) -> Vec<usize> {
        let there = self.peers.get(&peer.identities).into_iter().flatten();
        there.map(|(other, _)| *other).filter(|other| *other != shard).collect()
    }

    fn add(&mut self, shard: usize, peer: &Peer) {
        self.unproven += usize::from(peer.unproven);
        let there = self.peers.entry(Arc::clone(&peer.identities)).or_default();
        if let Some((_, count)) = there.iter_mut().find(|(known, _)| *known == shard) {
            *count += 1;
            return;
        }
        let first = there.first().map(|(first, _)| *first).filter(|_| there.len() == 1);
        there.reserve_exact(1);
        there.push((shard, 1));
        if there.len() > 1 {
            self.elsewhere(shard, peer, true);
        }
        if let Some(first) = first {
            self.elsewhere(first, peer, true);
        }
    }

    fn remove(&mut self, shard: usize, peer: &Peer) {
        self.unproven = self.unproven.saturating_sub(peer.unproven.into());
        let Some(there) = self.peers.get_mut(&peer.identities) else { return };
        let Some((_, count)) = there.iter_mut().find(|(known, _)| *known == shard) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        there.retain(|(known, _)| *known != shard);
        let last = there.first().map(|(last, _)| *last).filter(|_| there.len() == 1);
        let others = !there.is_empty();
        if !others {
            self.peers.remove(&peer.identities);
        }
        if others {
            self.elsewhere(shard, peer, false);
        }
        if let Some(last) = last {
            self.elsewhere(last, peer, false);
        }
    }

    fn elsewhere(&mut self, shard: usize, peer: &Peer, elsewhere: bool) {
        self.say(shard, Word::Order(Order::Elsewhere { peer: peer.clone(), elsewhere }));
    }
}

#[cfg(test)]
impl Registry {
    /// Nothing is counted, and nobody waits.
    pub(in crate::engine) fn assert_empty(&self) {
        assert_eq!((self.half_open, self.by_source.len()), (0, 0));
        assert_eq!((self.peers.len(), self.unproven, self.waiting.len()), (0, 0, 0), "{self:?}");
    }

    /// How many IKE SAs are half-open.
    pub(in crate::engine) fn half_open(&self) -> usize {
        self.half_open
    }

    /// How many IKE SAs each shard has of each pair of identities.
    pub(in crate::engine) fn peers(&self) -> &HashMap<Arc<Identities>, Vec<(usize, usize)>> {
        &self.peers
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::config::Identity;
    use crate::engine::api::IkeSaId;

    fn peer(name: &str) -> Peer {
        let id = |name: &str| Identity::Fqdn(name.to_owned());
        Peer { identities: Arc::new((id("us"), id(name))), unproven: false }
    }

    fn claim(name: &str, unique: Unique, before: Option<Instant>) -> Question {
        let (ike, connection) = (IkeSaId(7), "net".to_owned());
        Question::Claim(Claim { peer: peer(name), ike, connection, unique, before })
    }

    /// What it says to whom, in short.
    fn words(registry: &mut Registry) -> Vec<(usize, String)> {
        let words = std::iter::from_fn(|| registry.poll());
        let short = |(shard, word)| match word {
            Word::Answer(job, Answer::Claimed(Claimed { others, unproven, .. })) => {
                (shard, format!("{}: others {others} unproven {unproven}", job.0))
            }
            Word::Answer(job, Answer::Room(Load { half_open, of_source }, taken)) => {
                (shard, format!("{}: {half_open} {of_source} {taken}", job.0))
            }
            Word::Order(Order::InitialContact { number, .. }) => (shard, format!("contact {number}")),
            Word::Order(Order::Superseded { by, .. }) => (shard, format!("superseded by {}", by.0)),
            Word::Order(Order::Elsewhere { elsewhere, .. }) => (shard, format!("elsewhere {elsewhere}")),
            Word::Order(Order::Hint { from, .. }) => (shard, format!("hint {from}")),
            Word::Order(Order::Stray(_)) => (shard, "stray".to_owned()),
        };
        words.map(short).collect()
    }

    fn said(words: &[(usize, &str)]) -> Vec<(usize, String)> {
        words.iter().map(|(shard, word)| (*shard, (*word).to_owned())).collect()
    }

    #[test]
    fn places_are_counted_over_all_shards_and_each_source() {
        let mut registry = Registry::new(2);
        let (one, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let asked = [(0, one), (1, one), (0, one), (1, other), (0, other)];
        for (job, (shard, source)) in asked.into_iter().enumerate() {
            let question = Question::Room { source, below: 3, of_source_below: 2 };
            registry.handle_question(shard, JobId(job as u64), question);
        }
        let answers = [
            (0, "0: 0 0 true"),
            (1, "1: 1 1 true"),
            (0, "2: 2 2 false"),
            (1, "3: 2 0 true"),
            (0, "4: 3 1 false"),
        ];
        assert_eq!(words(&mut registry), said(&answers));
        for (shard, source) in [(0, one), (1, one), (1, other), (1, other)] {
            registry.handle_note(shard, Note::Left { source });
        }
        registry.assert_empty();
    }

    #[test]
    fn a_peer_that_starts_over_is_let_in_once_every_other_shard_has_let_go_of_it() {
        let mut registry = Registry::new(3);
        for shard in [0, 2, 2] {
            registry.handle_note(shard, Note::Here(peer("a")));
        }
        assert_eq!(words(&mut registry), said(&[(2, "elsewhere true"), (0, "elsewhere true")]));
        let before = Some(Instant::now());
        registry.handle_question(1, JobId(5), claim("a", Unique::Replace, before));
        let asked = [(1, "elsewhere true"), (0, "contact 0"), (2, "contact 0")];
        assert_eq!(words(&mut registry), said(&asked));
        registry.handle_note(0, Note::Gone(peer("a")));
        registry.handle_note(0, Note::Settled(0));
        assert_eq!(words(&mut registry), said(&[(0, "elsewhere false")]));
        // One of the two was established since.
        registry.handle_note(2, Note::Gone(peer("a")));
        registry.handle_note(2, Note::Settled(0));
        assert_eq!(words(&mut registry), said(&[(2, "superseded by 7"), (1, "5: others true unproven 0")]));
        registry.handle_note(2, Note::Gone(peer("a")));
        assert_eq!(words(&mut registry), said(&[(2, "elsewhere false"), (1, "elsewhere false")]));
        registry.handle_note(1, Note::Gone(peer("a")));
        registry.assert_empty();
    }

    #[test]
    fn of_two_shards_that_claim_the_same_peer_the_second_hears_of_the_first() {
        let mut registry = Registry::new(2);
        registry.handle_question(0, JobId(1), claim("a", Unique::Keep, None));
        registry.handle_question(1, JobId(1), claim("a", Unique::Keep, None));
        registry.handle_question(1, JobId(2), claim("b", Unique::Keep, None));
        let answers = [
            (0, "1: others false unproven 0"),
            (1, "elsewhere true"),
            (0, "elsewhere true"),
            (1, "1: others true unproven 0"),
            (1, "2: others false unproven 0"),
        ];
        assert_eq!(words(&mut registry), said(&answers));
    }

    #[test]
    fn who_never_replaces_anybody_makes_nobody_go() {
        let mut registry = Registry::new(2);
        registry.handle_note(0, Note::Here(peer("a")));
        registry.handle_question(1, JobId(1), claim("a", Unique::Never, Some(Instant::now())));
        assert_eq!(words(&mut registry).pop(), said(&[(1, "1: others true unproven 0")]).pop());
    }

    #[test]
    fn those_that_prove_nothing_are_counted_without_the_one_that_asks() {
        let mut registry = Registry::new(2);
        for (shard, name) in [(0, "a"), (1, "b"), (0, "c")] {
            let peer = Peer { unproven: true, ..peer(name) };
            let question =
                Claim { peer, ike: IkeSaId(1), connection: String::new(), unique: Unique::No, before: None };
            registry.handle_question(shard, JobId(0), Question::Claim(question));
        }
        let answers = [0, 1, 2].map(|unproven| format!("0: others false unproven {unproven}"));
        assert_eq!(words(&mut registry), [0, 1, 0].into_iter().zip(answers).collect::<Vec<_>>());
    }

    #[test]
    fn what_one_shard_hears_of_is_passed_on_to_whom_it_concerns() {
        let mut registry = Registry::new(3);
        let (from, spi) = ("192.0.2.1".parse().unwrap(), portcullis_ipsec::Spi::new(4711).unwrap());
        registry.handle_note(1, Note::Hint { from, spi });
        assert_eq!(words(&mut registry), said(&[(0, "hint 192.0.2.1"), (2, "hint 192.0.2.1")]));
    }
}
