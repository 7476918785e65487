//! Two engines, a network between them and a data plane behind each, all in virtual time and from one seed. Jobs
//! take random time and finish in any order; datagrams may be lost, doubled, late and out of order, and may pass a
//! NAT.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_ipsec::{InstallError, PolicyId, SaCounters, Spi, TrafficSelector, TunnelEndpoints};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

use crate::auth;
use crate::config::*;
use crate::crypto;
use crate::engine::*;

pub(super) const A: usize = 0;
pub(super) const B: usize = 1;

/// What the network does to datagrams.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weather {
    /// Percent lost.
    pub(super) loss: u32,
    /// Percent doubled.
    pub(super) duplication: u32,
    /// Milliseconds of delay, at most; one at least.
    pub(super) delay: u32,
}

/// A NAT before end A.
#[derive(Debug, Clone)]
pub(super) struct NatBox {
    pub(super) public: IpAddr,
    /// Added to A's ports.
    pub(super) port_shift: u16,
}

/// A data plane that only remembers.
#[derive(Debug, Default)]
pub(super) struct Gateway {
    next_spi: u32,
    next_policy: u32,
    pub(super) reserved: Vec<Spi>,
    pub(super) installed: BTreeMap<Spi, ChildInstall>,
    pub(super) policies: BTreeMap<PolicyId, String>,
    pub(super) moved: Vec<(Spi, TunnelEndpoints)>,
    pub(super) counters: HashMap<Spi, SaCounters>,
    pub(super) full: bool,
    pub(super) refuses: bool,
    pub(super) crls: Vec<Arc<auth::Crl>>,
}

pub(super) struct End {
    pub(super) engine: Engine,
    pub(super) gateway: Gateway,
    pub(super) events: Vec<Event>,
    pub(super) done: HashMap<CommandId, Result<(), Failure>>,
    pub(super) jobs: Vec<(Instant, JobId, Job)>,
    /// Takes nothing and says nothing.
    pub(super) dead: bool,
    next_command: u64,
}

/// A datagram under way, as the receiver will see it.
#[derive(Debug, Clone)]
pub(super) struct InFlight {
    pub(super) at: Instant,
    pub(super) to: usize,
    pub(super) datagram: Datagram,
}

pub(super) struct World {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) ends: [End; 2],
    pub(super) wire: Vec<InFlight>,
    /// Everything that was ever sent, by whom.
    pub(super) sent: Vec<(usize, Datagram)>,
    /// Milliseconds that a job takes, at most.
    pub(super) job_delay: u32,
    pub(super) weather: Weather,
    pub(super) nat: Option<NatBox>,
    pub(super) rng: ChaCha20Rng,
    /// Lets a test change or drop (`None`) what one end sends.
    #[expect(clippy::type_complexity, reason = "used once")]
    pub(super) meddle: Option<Box<dyn FnMut(usize, Datagram) -> Option<Datagram>>>,
}

pub(super) fn ts(text: &str) -> Option<TrafficSelector> {
    Some(text.parse().unwrap())
}

pub(super) fn id(name: &str) -> Identity {
    Identity::Fqdn(name.to_owned())
}

pub(super) fn child(name: &str, local: &str, remote: &str) -> ChildConfig {
    ChildConfig {
        name: name.to_owned(),
        local_ts: vec![ts(local)],
        remote_ts: vec![ts(remote)],
        esp_proposals: vec!["aes256gcm16-esn".parse().unwrap()],
        start_action: StartAction::None,
        replay_window: 64,
    }
}

pub(super) fn address(end: usize) -> IpAddr {
    if end == A { "192.0.2.1".parse().unwrap() } else { "192.0.2.2".parse().unwrap() }
}

/// The configuration of one end: `a.example` with 10.1.0.0/16 behind it, `b.example` with 10.2.0.0/16.
pub(super) fn config(end: usize) -> EngineConfig {
    let names = ["a.example", "b.example"];
    let nets = ["10.1.0.0/16", "10.2.0.0/16"];
    let peer = 1 - end;
    EngineConfig {
        connections: vec![ConnectionConfig {
            name: "net".to_owned(),
            local_addrs: vec![AddressMatch::Address(address(end))],
            remote_addrs: vec![AddressMatch::Address(address(peer))],
            proposals: vec!["aes256gcm16-prfsha384-x25519".parse().unwrap()],
            local: vec![LocalAuth { auth: LocalMethod::Psk, id: Some(id(names[end])) }],
            remote: vec![RemoteAuth { auth: RemoteMethod::Psk, id: IdentityMatch::Exactly(id(names[peer])) }],
            encap: false,
            dpd_delay: Duration::ZERO,
            children: vec![child("lan", nets[end], nets[peer])],
        }],
        shared_keys: vec![SharedKey {
            name: "ike-net".to_owned(),
            ids: vec![id("a.example"), id("b.example")],
            secret: Secret(b"correct horse battery staple".to_vec()),
        }],
        retransmission: Retransmission::default(),
        cookie_threshold: 100,
        half_open_limit: 1000,
        half_open_timeout: Duration::from_secs(30),
        nat_keepalive: Duration::from_secs(20),
        port: 500,
        nat_port: 4500,
    }
}

impl World {
    pub(super) fn new(seed: u64, a: EngineConfig, b: EngineConfig) -> Self {
        let start = Instant::now();
        let end = |number: u64, config| End {
            engine: Engine::new(config, Box::new(ChaCha20Rng::seed_from_u64(seed * 2 + number))),
            gateway: Gateway { next_spi: 0x1000 * (number as u32 + 1), ..Gateway::default() },
            events: Vec::new(),
            done: HashMap::new(),
            jobs: Vec::new(),
            dead: false,
            next_command: 0,
        };
        Self {
            start,
            now: start,
            ends: [end(0, a), end(1, b)],
            wire: Vec::new(),
            sent: Vec::new(),
            job_delay: 5,
            weather: Weather { delay: 5, ..Weather::default() },
            nat: None,
            rng: ChaCha20Rng::seed_from_u64(seed.wrapping_add(99)),
            meddle: None,
        }
    }

    /// Two ends that fit each other.
    pub(super) fn plain() -> Self {
        Self::new(1, config(A), config(B))
    }

    fn dice(&mut self, sides: u32) -> u32 {
        if sides == 0 { 0 } else { self.rng.next_u32() % sides }
    }

    pub(super) fn command(&mut self, end: usize, command: Command) -> CommandId {
        let now = self.now;
        let at = &mut self.ends[end];
        let id = CommandId(at.next_command);
        at.next_command += 1;
        at.engine.handle_command(now, id, command);
        self.collect(end);
        id
    }

    pub(super) fn initiate(&mut self, end: usize) -> CommandId {
        self.command(end, Command::Initiate { connection: "net".to_owned(), child: None })
    }

    pub(super) fn terminate(&mut self, end: usize) -> CommandId {
        self.command(end, Command::Terminate { connection: "net".to_owned(), child: None })
    }

    /// Gives an end a datagram now.
    pub(super) fn deliver(&mut self, end: usize, datagram: Datagram) {
        self.ends[end].engine.handle_datagram(self.now, datagram);
        self.collect(end);
    }

    /// Takes everything out of an engine.
    pub(super) fn collect(&mut self, end: usize) {
        while let Some((id, job)) = self.ends[end].engine.poll_job() {
            let at = self.now + Duration::from_millis(self.dice(self.job_delay + 1).into());
            self.ends[end].jobs.push((at, id, job));
        }
        while let Some(event) = self.ends[end].engine.poll_event() {
            if let Event::CommandDone { command, result } = &event {
                let before = self.ends[end].done.insert(*command, result.clone());
                assert!(before.is_none(), "a command ended twice");
            }
            self.ends[end].events.push(event);
        }
        while let Some(datagram) = self.ends[end].engine.poll_transmit() {
            if self.ends[end].dead {
                continue;
            }
            self.sent.push((end, datagram.clone()));
            let datagram = match &mut self.meddle {
                Some(meddle) => meddle(end, datagram),
                None => Some(datagram),
            };
            let Some(datagram) = datagram else { continue };
            let copies = if self.dice(100) < self.weather.duplication { 2 } else { 1 };
            for _ in 0..copies {
                if self.dice(100) < self.weather.loss {
                    continue;
                }
                let at = self.now + Duration::from_millis(1 + u64::from(self.dice(self.weather.delay)));
                if let Some(datagram) = self.cross(end, datagram.clone()) {
                    self.wire.push(InFlight { at, to: 1 - end, datagram });
                }
            }
        }
    }

    /// The datagram as its receiver sees it; `None` if the NAT has nowhere to send it.
    fn cross(&self, from: usize, datagram: Datagram) -> Option<Datagram> {
        let Datagram { mut local, mut remote, payload } = datagram;
        if let Some(nat) = &self.nat {
            if from == A {
                local = SocketAddr::new(nat.public, local.port() + nat.port_shift);
            } else {
                if remote.ip() != nat.public {
                    return None;
                }
                remote = SocketAddr::new(address(A), remote.port().checked_sub(nat.port_shift)?);
            }
        }
        Some(Datagram { local: remote, remote: local, payload })
    }

    /// Does the next thing that is due; false if nothing ever will be before `until`.
    pub(super) fn tick(&mut self, until: Instant) -> bool {
        let wire = self.wire.iter().map(|flight| flight.at).min();
        let jobs = self.ends.iter().flat_map(|end| end.jobs.iter().map(|(at, ..)| *at)).min();
        let timers =
            self.ends.iter().filter(|end| !end.dead).filter_map(|end| end.engine.poll_timeout()).min();
        let Some(next) = [wire, jobs, timers].into_iter().flatten().min().filter(|next| *next <= until)
        else {
            self.now = until;
            return false;
        };
        self.now = self.now.max(next);
        if wire == Some(next) {
            let at = self.wire.iter().position(|flight| flight.at == next).unwrap();
            let InFlight { to, datagram, .. } = self.wire.swap_remove(at);
            if !self.ends[to].dead {
                self.deliver(to, datagram);
            }
        } else if jobs == Some(next) {
            for end in [A, B] {
                if let Some(at) = self.ends[end].jobs.iter().position(|(at, ..)| *at == next) {
                    let (_, id, job) = self.ends[end].jobs.swap_remove(at);
                    let result = self.ends[end].gateway.run(job);
                    self.ends[end].engine.handle_job(self.now, id, result);
                    self.collect(end);
                    break;
                }
            }
        } else {
            for end in [A, B] {
                if !self.ends[end].dead {
                    self.ends[end].engine.handle_timeout(self.now);
                    self.collect(end);
                }
            }
        }
        true
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, seconds: u64) {
        let until = self.now + Duration::from_secs(seconds);
        while self.tick(until) {}
    }

    /// Lets time pass until something holds; panics if it does not within the time.
    pub(super) fn run_until(&mut self, seconds: u64, what: &str, holds: impl Fn(&World) -> bool) {
        let until = self.now + Duration::from_secs(seconds);
        while !holds(self) {
            assert!(self.tick(until), "{what}: not within {seconds} s\n{}", self.report());
        }
    }

    pub(super) fn up(&self) -> bool {
        self.ends.iter().all(|end| end.engine.status().iter().any(|sa| !sa.children.is_empty()))
    }

    /// Brings the tunnel up from A.
    pub(super) fn established(mut self) -> Self {
        let command = self.initiate(A);
        self.run_until(200, "the tunnel comes up", |world| {
            world.up() && world.ends[A].done.contains_key(&command)
        });
        assert_eq!(self.ends[A].done[&command], Ok(()));
        self
    }

    pub(super) fn report(&self) -> String {
        let events = |end: &End| end.events.iter().map(|event| format!("  {event:?}\n")).collect::<String>();
        format!("A:\n{}B:\n{}", events(&self.ends[A]), events(&self.ends[B]))
    }

    /// What an end's engine and data plane hold, with every CHILD SA matched at the other end.
    pub(super) fn assert_agreement(&self) {
        for end in [A, B] {
            let own = &self.ends[end];
            let peer = &self.ends[1 - end];
            let known: Vec<_> = own.engine.status().into_iter().flat_map(|sa| sa.children).collect();
            let installed: Vec<Spi> = own.gateway.installed.keys().copied().collect();
            let mut named: Vec<Spi> = known.iter().map(|child| child.spi_in).collect();
            named.sort();
            assert_eq!(named, installed, "an SA without an owner, or a child without an SA");
            assert_eq!(own.gateway.reserved, [], "a reserved SPI was forgotten");
            assert_eq!(own.gateway.policies.len(), installed.len(), "a policy without a child");
            for child in known {
                let ours = &own.gateway.installed[&child.spi_in];
                let theirs =
                    &peer.gateway.installed.get(&child.spi_out).expect("the peer has the other half");
                assert_eq!(theirs.outbound.spi, child.spi_in);
                assert_eq!(ours.inbound.key.key(), theirs.outbound.key.key());
                assert_eq!(ours.inbound.key.salt(), theirs.outbound.key.salt());
                assert_eq!(ours.outbound.key.key(), theirs.inbound.key.key());
                assert_ne!(ours.inbound.key.key(), ours.outbound.key.key());
                assert_eq!(ours.inbound.esn, theirs.outbound.esn);
                assert_eq!(ours.inbound.local_ts, theirs.inbound.remote_ts);
                assert_eq!(ours.inbound.remote_ts, theirs.inbound.local_ts);
            }
        }
    }

    /// Nothing is left anywhere.
    pub(super) fn assert_empty(&self, end: usize) {
        let end = &self.ends[end];
        assert_eq!(end.engine.status(), []);
        assert_eq!(end.engine.half_open(), 0);
        assert!(end.gateway.installed.is_empty() && end.gateway.policies.is_empty());
        assert_eq!(end.gateway.reserved, []);
    }

    pub(super) fn failures(&self, end: usize) -> Vec<&'static str> {
        let failed = |event: &Event| match event {
            Event::Failed(failure) => Some(failure.code),
            _ => None,
        };
        self.ends[end].events.iter().filter_map(failed).collect()
    }

    /// The IKE messages that an end has sent.
    pub(super) fn messages(&self, end: usize) -> Vec<Vec<u8>> {
        let ike = |(from, datagram): &(usize, Datagram)| match &datagram.payload {
            DatagramPayload::Ike(octets) if *from == end => Some(octets.clone()),
            _ => None,
        };
        self.sent.iter().filter_map(ike).collect()
    }
}

impl Gateway {
    pub(super) fn run(&mut self, job: Job) -> JobResult {
        match job {
            Job::SourceAddress { remote } => {
                let local = if remote == address(B) { address(A) } else { address(B) };
                JobResult::SourceAddress(Some(local))
            }
            Job::GenerateKe { method, seed } => {
                JobResult::KeGenerated(crypto::generate(method, &mut ChaCha20Rng::from_seed(seed)))
            }
            Job::DeriveKe { secret, peer_public } => {
                JobResult::KeDerived(crypto::derive(&secret, &peer_public))
            }
            Job::Sign(request) => JobResult::Signed(auth::sign(&request)),
            Job::VerifyPeer(request) => {
                JobResult::PeerVerified(auth::verify(&request, auth::tests::NOW, &self.crls))
            }
            Job::AllocateSpi if self.full => {
                JobResult::SpiAllocated(Err(InstallError::TableFull { capacity: 0 }))
            }
            Job::AllocateSpi => {
                self.next_spi += 1;
                let spi = Spi::new(self.next_spi).unwrap();
                self.reserved.push(spi);
                JobResult::SpiAllocated(Ok(spi))
            }
            Job::InstallChild(install) => JobResult::ChildInstalled(self.install(*install)),
            Job::MoveChild { pair, endpoints } => {
                self.moved.push((pair, endpoints));
                JobResult::ChildMoved(Ok(()))
            }
            Job::RemoveChild { pair, policy } => JobResult::ChildRemoved(self.remove(pair, policy)),
            Job::QueryCounters { pairs } => {
                let counters = |pair| (pair, self.counters.get(&pair).copied());
                JobResult::Counters(pairs.into_iter().map(counters).collect())
            }
        }
    }

    fn install(&mut self, install: ChildInstall) -> Result<PolicyId, InstallError> {
        let spi = install.pair;
        let reserved = self.reserved.iter().position(|reserved| *reserved == spi);
        self.reserved.remove(reserved.ok_or(InstallError::UnknownSpi { spi })?);
        if self.refuses {
            return Err(InstallError::Stopped);
        }
        let policy = match &install.policy {
            PolicyRef::Installed(policy) => *policy,
            PolicyRef::New(policy) => {
                self.next_policy += 1;
                self.policies.insert(PolicyId(self.next_policy), policy.name.clone());
                PolicyId(self.next_policy)
            }
        };
        self.installed.insert(spi, install);
        Ok(policy)
    }

    fn remove(&mut self, spi: Spi, policy: Option<PolicyId>) -> Result<(), InstallError> {
        if let Some(policy) = policy {
            self.policies.remove(&policy).ok_or(InstallError::UnknownPolicy(policy))?;
        }
        let reserved = self.reserved.len();
        self.reserved.retain(|reserved| *reserved != spi);
        if self.installed.remove(&spi).is_none() && self.reserved.len() == reserved {
            return Err(InstallError::UnknownSpi { spi });
        }
        Ok(())
    }
}
