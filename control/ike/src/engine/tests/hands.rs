//! Two engines whose messages a test delivers by hand, one by one, and reads.

use std::collections::HashMap;
use std::time::Duration;

use portcullis_ipsec::Spi;

use super::world::*;
use crate::crypto::{IkeKeys, Protection};
use crate::engine::ike_sa_init::notifications;
use crate::engine::*;
use crate::message::{Payload, Sealing, open};

/// A message under way, and what is in it.
#[derive(Debug)]
pub(super) struct Letter {
    flight: InFlight,
    pub(super) exchange: ExchangeType,
    pub(super) response: bool,
    /// The message ID.
    pub(super) id: u32,
    pub(super) payloads: Vec<Payload>,
}

impl Letter {
    /// The types of its notifications.
    pub(super) fn notes(&self) -> Vec<u16> {
        notifications(&self.payloads).map(|notify| notify.notify_type).collect()
    }

    /// How many SPIs it deletes.
    pub(super) fn deletes(&self) -> usize {
        let count = |payload: &Payload| match payload {
            Payload::Delete { spis, .. } => spis.len().max(1),
            _ => 0,
        };
        self.payloads.iter().map(count).sum()
    }

    pub(super) fn copy(&self) -> Self {
        Self { flight: self.flight.clone(), payloads: self.payloads.clone(), ..*self }
    }

    /// Its nonce.
    pub(super) fn nonce(&self) -> Vec<u8> {
        let nonce = |payload: &Payload| match payload {
            Payload::Nonce(nonce) => Some(nonce.clone()),
            _ => None,
        };
        self.payloads.iter().find_map(nonce).expect("a nonce")
    }

    /// Whether it is a CREATE_CHILD_SA request.
    pub(super) fn asks(&self) -> bool {
        self.exchange == ExchangeType::CreateChildSa && !self.response
    }
}

/// Who prevails when both have asked: not the one in whose exchange the lowest nonce is.
pub(super) fn prevailing(from_a: [&Letter; 2], from_b: [&Letter; 2]) -> usize {
    let lowest = |exchange: [&Letter; 2]| exchange.map(Letter::nonce).into_iter().min();
    if lowest(from_a) > lowest(from_b) { A } else { B }
}

/// The world, by hand.
pub(super) struct Hands {
    pub(super) world: World,
    keys: HashMap<([u8; 8], [u8; 8]), (Protection, IkeKeys)>,
}

impl Hands {
    /// With an established tunnel and nothing under way, and packets both ways in it. No tokens follow a rekeying.
    pub(super) fn new(seed: u64, mut a: EngineConfig, mut b: EngineConfig) -> Self {
        for connection in a.connections.iter_mut().chain(&mut b.connections) {
            connection.quick_crash_detection = false;
        }
        let mut world = World::new(seed, a, b).established();
        world.run(2);
        world.job_delay = 0;
        world.weather.delay = 1;
        let mut hands = Self { world, keys: HashMap::new() };
        hands.work();
        hands
    }

    pub(super) fn plain(seed: u64) -> Self {
        Self::new(seed, config(A), config(B))
    }

    /// Does all jobs that there are, and learns new keys.
    pub(super) fn work(&mut self) {
        while self.world.work_one() {}
        for end in [A, B] {
            for sa in self.world.ends[end].engine.sas.values() {
                if let State::Established(established) = &sa.state {
                    let channel = &established.channel;
                    let keys = (channel.suite.protection, channel.keys.clone());
                    self.keys.insert((sa.base.spi_i, sa.base.spi_r), keys);
                }
            }
        }
    }

    pub(super) fn command(&mut self, end: usize, command: Command) -> CommandId {
        let id = self.world.command(end, command);
        self.work();
        id
    }

    pub(super) fn rekey_child(&mut self, end: usize) {
        self.command(end, Command::Rekey { connection: "net".to_owned(), child: Some("lan".to_owned()) });
    }

    pub(super) fn rekey_ike(&mut self, end: usize) {
        self.command(end, Command::Rekey { connection: "net".to_owned(), child: None });
    }

    pub(super) fn delete_child(&mut self, end: usize) -> CommandId {
        self.command(end, Command::Terminate { connection: "net".to_owned(), child: Some("lan".to_owned()) })
    }

    pub(super) fn delete_ike(&mut self, end: usize) -> CommandId {
        self.command(end, Command::Terminate { connection: "net".to_owned(), child: None })
    }

    /// Takes the oldest message to `end` off the wire.
    pub(super) fn take(&mut self, end: usize) -> Letter {
        let at = self.world.wire.iter().position(|flight| flight.to == end);
        let at = at.unwrap_or_else(|| panic!("nothing is under way to {end}\n{}", self.world.report()));
        let flight = self.world.wire.remove(at);
        let DatagramPayload::Ike(octets) = &flight.datagram.payload else { panic!("not IKE") };
        let received = Message::parse(octets).unwrap();
        let header = received.message.header;
        let (protection, keys) = &self.keys[&(header.spi_i, header.spi_r)];
        let keys = if header.initiator { keys.of_initiator() } else { keys.of_responder() };
        let sealing = Sealing { protection: *protection, keys };
        let payloads = open(&received.encrypted.unwrap(), sealing).unwrap();
        Letter {
            flight,
            exchange: header.exchange,
            response: header.response,
            id: header.message_id,
            payloads,
        }
    }

    /// Delivers it, and lets the receiver do what it does at once.
    pub(super) fn give(&mut self, letter: Letter) {
        let InFlight { to, datagram, .. } = letter.flight;
        self.world.deliver(to, datagram);
        self.work();
    }

    /// Reads the oldest message to `end` and leaves it on the wire.
    pub(super) fn take_back(&mut self, end: usize) -> Letter {
        let letter = self.take(end);
        self.world.wire.insert(0, letter.flight.clone());
        letter
    }

    /// Delivers it, and leaves the jobs that it makes.
    pub(super) fn deliver_without_work(&mut self, letter: Letter) {
        let InFlight { to, datagram, .. } = letter.flight;
        self.world.deliver(to, datagram);
    }

    /// Takes the oldest message to `end` and delivers it; says what was in it.
    pub(super) fn pass(&mut self, end: usize) -> Letter {
        let letter = self.take(end);
        let copy = letter.copy();
        self.give(letter);
        copy
    }

    /// Has an end ask this in an INFORMATIONAL request; gives the answer.
    pub(super) fn ask(&mut self, end: usize, payloads: Vec<Payload>) -> Vec<Payload> {
        let now = self.world.now;
        let engine = &mut self.world.ends[end].engine;
        let sa = engine.sas.values_mut().next().unwrap();
        let State::Established(established) = &mut sa.state else { panic!("not established") };
        established.channel.request(&mut engine.cx, &sa.base, now, ExchangeType::Informational, payloads);
        established.ours = super::super::established::Ours::Probing;
        self.world.collect(end);
        let (_, response) = self.exchange(end);
        response.payloads
    }

    /// What an end asks for answered: its request and the response pass.
    pub(super) fn exchange(&mut self, end: usize) -> (Letter, Letter) {
        (self.pass(1 - end), self.pass(end))
    }

    pub(super) fn nothing_to(&self, end: usize) -> bool {
        !self.world.wire.iter().any(|flight| flight.to == end)
    }

    /// Our SPIs of the CHILD SAs of an end.
    pub(super) fn pairs(&self, end: usize) -> Vec<Spi> {
        let sas = self.world.ends[end].engine.status().into_iter();
        sas.flat_map(|sa| sa.children).map(|child| child.spi_in).collect()
    }

    /// The SPI of the peer that packets of an end go to.
    pub(super) fn seals_with(&self, end: usize) -> Vec<Spi> {
        self.world.ends[end].gateway.seal().into_iter().map(|sealed| sealed.unwrap().spi).collect()
    }

    /// Lets everything that is under way come to its end, with packets both ways. Both ends agree then, and no packet
    /// was lost.
    pub(super) fn finish(&mut self) {
        self.finish_losing();
        assert_eq!(self.world.lost, [""; 0], "{}", self.world.report());
    }

    /// As [`Hands::finish`], where packets are lost because an end deletes what it should not, or means to.
    pub(super) fn finish_losing(&mut self) {
        self.world.begin_traffic(Duration::from_millis(20));
        self.world.run(30);
        self.world.end_traffic();
        self.world.run(30);
        self.world.assert_agreement();
    }

    /// As [`Hands::finish`]; both ends have one IKE SA with one CHILD SA, of which none is `old`.
    pub(super) fn finish_with_one_child(&mut self, old: &[Spi]) {
        self.finish();
        self.assert_one_child(old);
    }

    pub(super) fn assert_one_child(&self, old: &[Spi]) {
        for end in [A, B] {
            let pairs = self.pairs(end);
            assert_eq!(pairs.len(), 1, "{pairs:?}\n{}", self.world.report());
            assert!(!old.contains(&pairs[0]), "it was not rekeyed\n{}", self.world.report());
            assert_eq!(self.world.ends[end].engine.status().len(), 1, "{}", self.world.report());
        }
    }
}
