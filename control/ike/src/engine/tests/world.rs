//! Two engines, or what stands for one ([`Node`]), a network between them and a data plane behind each, all in virtual time and from one seed. Jobs
//! take random time and finish in any order; datagrams may be lost, doubled, late and out of order, and may pass a
//! NAT.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use portcullis_ipsec::{SaOptions, Spi, TenantId, TrafficSelector};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

use super::gateway::{Gateway, Mishap, Sealed};
use super::node::Node;
use crate::config::*;
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

pub(super) struct End<N> {
    pub(super) engine: N,
    pub(super) gateway: Gateway,
    pub(super) events: Vec<Event>,
    pub(super) done: HashMap<CommandId, Result<(), Failure>>,
    pub(super) jobs: Vec<(Instant, JobId, Job)>,
    failing: HashSet<JobId>,
    /// Takes nothing and says nothing.
    pub(super) dead: bool,
    next_command: u64,
}

impl<N> End<N> {
    fn work(&mut self, id: JobId, job: Job) -> JobResult {
        if self.failing.remove(&id) { self.gateway.fail(job) } else { self.gateway.run(job) }
    }
}

/// How long a job takes that nobody waits for.
const LONG: Duration = Duration::from_secs(600);

/// A datagram under way, as the receiver will see it.
#[derive(Debug, Clone)]
pub(super) struct InFlight {
    pub(super) at: Instant,
    pub(super) to: usize,
    pub(super) datagram: Datagram,
}

/// A packet under way.
#[derive(Debug, Clone)]
struct EspInFlight {
    at: Instant,
    to: usize,
    sealed: Sealed,
}

/// Packets that both ends send one another.
#[derive(Debug, Clone, Copy)]
struct Traffic {
    every: Duration,
    next: Instant,
}

/// An IKE SA's two SPIs, and those of its children.
type SharedSa = ([u8; 8], [u8; 8], BTreeSet<(Spi, Spi)>);

/// The world of two engines.
pub(super) type World = WorldOf<Engine>;

/// The same of anything that does what an engine does.
pub(super) struct WorldOf<N> {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) ends: [End<N>; 2],
    pub(super) wire: Vec<InFlight>,
    esp: Vec<EspInFlight>,
    traffic: Option<Traffic>,
    /// What became of packets that somebody did not have the SA for.
    pub(super) lost: Vec<String>,
    /// What happened, for people.
    log: Vec<String>,
    /// Everything that was ever sent, by whom.
    pub(super) sent: Vec<(usize, Datagram)>,
    /// Milliseconds that a job takes, at most.
    pub(super) job_delay: u32,
    pub(super) weather: Weather,
    /// What A sends comes to B in a TCP stream between the same addresses, of which A knows nothing.
    pub(super) stream_to_b: bool,
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
        actions: ChildActions::default(),
        replay_window: 64,
        lifetime: ChildLifetime::default(),
        priority: None,
        options: SaOptions::default(),
        per_worker: None,
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
            tenant: TenantId::default(),
            local_addrs: vec![AddressMatch::Address(address(end))],
            remote_addrs: vec![AddressMatch::Address(address(peer))],
            proposals: vec!["aes256gcm16-prfsha384-x25519".parse().unwrap()],
            local: vec![LocalAuth { auth: LocalMethod::Psk, id: Some(id(names[end])) }],
            remote: vec![RemoteAuth { auth: RemoteMethod::Psk, id: IdentityMatch::Exactly(id(names[peer])) }],
            encap: false,
            mobike: false,
            quick_crash_detection: true,
            session_resumption: false,
            follow_redirects: true,
            redirect_to: None,
            redirect_when: RedirectWhen::default(),
            dpd_delay: Duration::ZERO,
            lifetime: IkeLifetime::default(),
            unique: Unique::No,
            fragmentation: IkeFragmentation::Yes,
            childless: Childless::Allow,
            ocsp_reply: true,
            ppk: Ppk::default(),
            pools: Vec::new(),
            vips: Vec::new(),
            children: vec![child("lan", nets[end], nets[peer])],
        }],
        shared_keys: vec![SharedKey {
            name: "ike-net".to_owned(),
            ids: vec![id("a.example"), id("b.example")],
            secret: Secret(b"correct horse battery staple".to_vec()),
        }],
        users: [].into(),
        ppks: Vec::new(),
        retransmission: Retransmission::default(),
        cookie_threshold: 100,
        puzzle_threshold: 1000,
        puzzle_difficulty: 12,
        puzzle_auth_difficulty: 0,
        puzzle_solved: 12,
        half_open_limit: 1000,
        block_threshold: 1000,
        unauthenticated_limit: 100,
        half_open_timeout: Duration::from_secs(30),
        nat_keepalive: Duration::from_secs(20),
        fragment_size: 1280,
        port: 500,
        nat_port: 4500,
    }
}

/// What an end's tokens are made of, which outlives it.
pub(super) fn token_secret(end: usize) -> Secret {
    Secret(vec![end as u8; 32])
}

impl<N: Node> WorldOf<N> {
    pub(super) fn new(seed: u64, a: EngineConfig, b: EngineConfig) -> Self {
        let start = Instant::now();
        let end = |number: u64, config| End {
            engine: N::make(number as usize, config, seed * 2 + number),
            gateway: Gateway::new(number as u32),
            events: Vec::new(),
            done: HashMap::new(),
            jobs: Vec::new(),
            failing: HashSet::new(),
            dead: false,
            next_command: 0,
        };
        Self {
            start,
            now: start,
            ends: [end(0, a), end(1, b)],
            wire: Vec::new(),
            esp: Vec::new(),
            traffic: None,
            lost: Vec::new(),
            log: Vec::new(),
            sent: Vec::new(),
            job_delay: 5,
            weather: Weather { delay: 5, ..Weather::default() },
            nat: None,
            stream_to_b: false,
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
        if !matches!(command, Command::FirstPacket { .. }) {
            self.note(end, format!("command {}: {command:?}", id.0));
        }
        let at = &mut self.ends[end];
        at.engine.handle_command(now, id, command);
        self.collect(end);
        id
    }

    /// Gives an end another configuration.
    pub(super) fn reconfigure(&mut self, end: usize, config: EngineConfig) {
        self.note(end, "another configuration".to_owned());
        self.ends[end].engine.handle_config(self.now, config);
        self.collect(end);
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
            let mut at = self.now + Duration::from_millis(self.dice(self.job_delay + 1).into());
            match self.ends[end].gateway.befalls() {
                Some(Mishap::Drags) => at += LONG,
                Some(Mishap::Fails) => _ = self.ends[end].failing.insert(id),
                None => {}
            }
            self.ends[end].jobs.push((at, id, job));
        }
        while let Some(event) = self.ends[end].engine.poll_event() {
            if let Event::CommandDone { command, result } = &event {
                let before = self.ends[end].done.insert(*command, result.clone());
                assert!(before.is_none(), "a command ended twice");
            }
            self.note_event(end, &event);
            self.ends[end].events.push(event);
        }
        while let Some(datagram) = self.ends[end].engine.poll_transmit() {
            if self.ends[end].dead {
                continue;
            }
            self.note_sent(end, &datagram);
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
        let payload = match payload {
            DatagramPayload::Ike(octets) if self.stream_to_b && from == A => DatagramPayload::Stream(octets),
            DatagramPayload::Stream(octets) if self.stream_to_b && from == B => DatagramPayload::Ike(octets),
            payload => payload,
        };
        Some(Datagram { local: remote, remote: local, payload })
    }

    /// Does the next thing that is due; false if nothing ever will be before `until`.
    pub(super) fn tick(&mut self, until: Instant) -> bool {
        let wire = self.wire.iter().map(|flight| flight.at).min();
        let jobs = self.ends.iter().flat_map(|end| end.jobs.iter().map(|(at, ..)| *at)).min();
        let timers =
            self.ends.iter().filter(|end| !end.dead).filter_map(|end| end.engine.poll_timeout()).min();
        let esp = self.esp.iter().map(|packet| packet.at).min();
        let traffic = self.traffic.map(|traffic| traffic.next);
        let next = [wire, jobs, timers, esp, traffic].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next <= until) else {
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
                    self.note_job(end, &job);
                    let result = self.ends[end].work(id, job);
                    self.ends[end].engine.handle_job(self.now, id, result);
                    self.collect(end);
                    break;
                }
            }
        } else if esp == Some(next) {
            let at = self.esp.iter().position(|packet| packet.at == next).unwrap();
            let EspInFlight { to, sealed, .. } = self.esp.swap_remove(at);
            self.open(to, &sealed);
        } else if traffic == Some(next) {
            self.exchange_packets();
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

    /// From now on both ends send a packet in every tunnel at this interval.
    pub(super) fn begin_traffic(&mut self, every: Duration) {
        self.traffic = Some(Traffic { every, next: self.now });
    }

    /// No more packets; those under way still arrive.
    pub(super) fn end_traffic(&mut self) {
        self.traffic = None;
    }

    /// Does the next job of either end; false if there is none.
    pub(super) fn work_one(&mut self) -> bool {
        for end in [A, B] {
            if !self.ends[end].jobs.is_empty() {
                let (_, id, job) = self.ends[end].jobs.remove(0);
                let result = self.ends[end].work(id, job);
                self.ends[end].engine.handle_job(self.now, id, result);
                self.collect(end);
                return true;
            }
        }
        false
    }

    fn exchange_packets(&mut self) {
        let Some(traffic) = &mut self.traffic else { return };
        traffic.next += traffic.every;
        for end in [A, B] {
            for sealed in self.ends[end].gateway.seal() {
                match sealed {
                    Ok(sealed) => {
                        let at =
                            self.now + Duration::from_millis(1 + u64::from(self.dice(self.weather.delay)));
                        self.esp.push(EspInFlight { at, to: 1 - end, sealed });
                    }
                    Err(policy) => self.lost.push(format!("{end} has no SA for {policy}")),
                }
            }
        }
    }

    fn open(&mut self, end: usize, sealed: &Sealed) {
        match self.ends[end].gateway.open(sealed) {
            Ok(true) => _ = self.command(end, Command::FirstPacket { pair: sealed.spi }),
            Ok(false) => {}
            Err(why) => self.lost.push(format!("{:?}: {end}: {why}", self.now - self.start)),
        }
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, seconds: u64) {
        let until = self.now + Duration::from_secs(seconds);
        while self.tick(until) {}
    }

    /// Lets time pass until something holds; panics if it does not within the time.
    pub(super) fn run_until(&mut self, seconds: u64, what: &str, holds: impl Fn(&Self) -> bool) {
        let until = self.now + Duration::from_secs(seconds);
        while !holds(self) {
            assert!(self.tick(until), "{what}: not within {seconds} s\n{}", self.report());
        }
    }

    /// An end starts over with an engine and a data plane that know nothing.
    pub(super) fn forget(&mut self, end: usize, config: EngineConfig) {
        let seed = u64::from(self.dice(u32::MAX));
        let at = &mut self.ends[end];
        at.engine = N::make(end, config, seed);
        at.gateway = Gateway::new(end as u32 + 7);
        at.jobs.clear();
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

    /// Two ends that are patient enough for a network that loses, doubles and delays what it carries, and for slow jobs;
    /// the tunnel is up in spite of them.
    pub(super) fn up_in_a_storm(seed: u64, mut configs: [EngineConfig; 2]) -> Self {
        for config in &mut configs {
            config.retransmission.tries = 20;
            config.retransmission.base = 1.05;
            config.half_open_timeout = Duration::from_secs(240);
        }
        let [a, b] = configs;
        let mut world = Self::new(seed, a, b);
        world.weather = Weather { loss: 15, duplication: 30, delay: 400 };
        world.job_delay = 300;
        let up = world.initiate(A);
        world.run_until(900, &format!("seed {seed}: up"), |world| world.ends[A].done.contains_key(&up));
        assert_eq!(world.ends[A].done[&up], Ok(()), "seed {seed}\n{}", world.report());
        world
    }

    /// What happened, and what there is now.
    pub(super) fn report(&self) -> String {
        let mut report = self.log.join("\n");
        for (end, name) in self.ends.iter().zip(["A", "B"]) {
            for sa in end.engine.sas() {
                let IkeSa { base, state, .. } = sa;
                let children: Vec<_> = base
                    .children
                    .iter()
                    .map(|child| (child.status.spi_in, child.status.spi_out, child.successor, &child.sealing))
                    .collect();
                report += &format!(
                    "\n{name} {:?} {:?} superseded {:?} doomed {} deletes {:?} {children:?}",
                    base.id,
                    state.public(),
                    base.superseded.map(|at| at - self.start),
                    base.doomed,
                    base.deletes,
                );
            }
            let gateway = &end.gateway;
            report += &format!("\n{name} installed {:?} {:?}", gateway.in_use(), gateway.current);
        }
        report
    }

    fn note(&mut self, end: usize, what: String) {
        let at = self.now - self.start;
        self.log.push(format!("{:>9.3} {} {what}", at.as_secs_f64(), ["A", "B"][end]));
    }

    fn note_event(&mut self, end: usize, event: &Event) {
        let what = match event {
            Event::CommandDone { command, result } => {
                format!(
                    "command {} ended: {:?}",
                    command.0,
                    result.as_ref().map_err(|failure| failure.code())
                )
            }
            Event::IkeEstablished { ike } => format!("IKE SA {} established", ike.id.0),
            Event::IkeRekeyed { ike, replaced } => format!("IKE SA {} in place of {}", ike.id.0, replaced.0),
            Event::IkeClosed { ike, reason, .. } => format!("IKE SA {} closed: {reason}", ike.0),
            Event::ChildEstablished { child, .. } => {
                format!("{} {} established", child.spi_in, child.spi_out)
            }
            Event::ChildRekeyed { child, replaced, .. } => {
                format!("{} {} in place of {replaced}", child.spi_in, child.spi_out)
            }
            Event::ChildClosed { pair, reason, .. } => format!("{pair} closed: {reason}"),
            Event::Failed(failure) => format!("{}: {}", failure.code(), failure.in_one_line()),
            Event::IkeMoved { from, to, .. } => format!("moves from {from:?} to {to:?}"),
            Event::AddressesAssigned { identity, addresses, .. } => {
                format!("gives {addresses:?} to {identity}")
            }
            Event::AddressesReleased { addresses, .. } => format!("takes {addresses:?} back"),
            Event::AddressesAcquired { addresses, .. } => format!("has {addresses:?}"),
            Event::AddressesLost { addresses, .. } => format!("has {addresses:?} no more"),
            Event::Redirected { to, by_us, .. } => format!("redirected to {to} (by us: {by_us})"),
            Event::Rejected { label, .. } => format!("rejected: {label}"),
        };
        self.note(end, what);
    }

    fn note_job(&mut self, end: usize, job: &Job) {
        let what = match job {
            Job::InstallChild(install) => match &install.activation {
                Some(activation) => {
                    format!("installs {} for {}", install.pair, policy_name(&activation.policy))
                }
                None => format!("installs {}", install.pair),
            },
            Job::ActivateChild { pair, activation } => {
                format!("activates {pair} for {}", policy_name(&activation.policy))
            }
            Job::RetireChild { pair, policy } => format!("retires {pair} with {policy:?}"),
            Job::RemoveChild { pair, policy } => format!("removes {pair} with {policy:?}"),
            _ => return,
        };
        self.note(end, what);
    }

    fn note_sent(&mut self, end: usize, datagram: &Datagram) {
        let DatagramPayload::Ike(octets) = &datagram.payload else { return };
        let Ok((header, ..)) = Header::parse(octets) else { return };
        let kind = if header.response { "answers" } else { "asks" };
        let [first, second, ..] = header.spi_i;
        self.note(
            end,
            format!("{kind} {:?} {} of {first:02x}{second:02x}", header.exchange, header.message_id),
        );
    }

    /// What both ends must agree on: the same IKE SAs with the same children, with the same keys; and in each data plane
    /// what the engine knows of, and no more.
    pub(super) fn assert_agreement(&self) {
        for end in [A, B] {
            let (own, peer) = (&self.ends[end], &self.ends[1 - end]);
            own.engine.assert_consistent();
            let known: Vec<_> = own.engine.status().into_iter().flat_map(|sa| sa.children).collect();
            let mut named: Vec<Spi> = known.iter().map(|child| child.spi_in).collect();
            named.sort();
            let report = || format!("end {end}\n{}", self.report());
            assert_eq!(named, own.gateway.in_use(), "an SA without an owner, or the reverse; {}", report());
            assert_eq!(own.gateway.reserved, [], "a reserved SPI was forgotten; {}", report());
            for (policy, name) in &own.gateway.policies {
                let pair = own.gateway.current.get(policy);
                let sealed = pair.is_some_and(|pair| named.contains(pair));
                assert!(sealed, "policy {name} leads nowhere; {}", report());
            }
            for child in known {
                let ours = &own.gateway.installed[&child.spi_in];
                let theirs = peer.gateway.installed.get(&child.spi_out);
                let theirs = theirs.unwrap_or_else(|| panic!("the peer lacks {child:?}; {}", report()));
                assert!(theirs.agrees_with(ours), "{}", report());
            }
        }
        assert_eq!(self.ike_sas(A), self.ike_sas(B), "{}", self.report());
        for end in [A, B] {
            assert_eq!(
                self.inner_addresses(end, true),
                self.inner_addresses(1 - end, false),
                "{}",
                self.report()
            );
            let leased = self.inner_addresses(end, false);
            let leased: BTreeSet<IpAddr> = leased.into_iter().flat_map(|(_, addresses)| addresses).collect();
            let online: usize = self.ends[end].gateway.pools.usage().iter().map(|pool| pool.online).sum();
            assert_eq!(online, leased.len(), "a lease without an owner, or the reverse; {}", self.report());
        }
    }

    /// The IKE SAs of an end, each with its children as A sees them.
    fn ike_sas(&self, end: usize) -> BTreeSet<SharedSa> {
        let status = self.ends[end].engine.status().into_iter();
        let child = |child: ChildSaStatus| match end {
            A => (child.spi_in, child.spi_out),
            _ => (child.spi_out, child.spi_in),
        };
        status
            .map(|sa| (sa.initiator_spi, sa.responder_spi, sa.children.into_iter().map(child).collect()))
            .collect()
    }

    /// The inner addresses of each IKE SA, those of `end` itself or those that it has given its peer.
    fn inner_addresses(&self, end: usize, own: bool) -> BTreeSet<([u8; 8], Vec<IpAddr>)> {
        let status = self.ends[end].engine.status().into_iter();
        status.map(|sa| (sa.initiator_spi, if own { sa.local_vips } else { sa.remote_vips })).collect()
    }

    /// Nothing is left anywhere.
    pub(super) fn assert_empty(&self, end: usize) {
        let end = &self.ends[end];
        assert_eq!(end.engine.status(), []);
        assert_eq!(end.engine.half_open(), 0);
        assert!(end.gateway.installed.is_empty() && end.gateway.policies.is_empty());
        end.engine.assert_consistent();
        assert_eq!(end.gateway.reserved, []);
        assert!(end.gateway.pools.usage().iter().all(|pool| pool.online == 0));
    }

    pub(super) fn failures(&self, end: usize) -> Vec<&'static str> {
        let failed = |event: &Event| match event {
            Event::Failed(failure) => Some(failure.code()),
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

fn policy_name(policy: &PolicyRef) -> String {
    match policy {
        PolicyRef::New(_) => "a new policy".to_owned(),
        PolicyRef::Installed(id) => format!("{id:?}"),
    }
}
