//! A gateway in memory: tables, routes and one pipeline, fed with octets. After every batch it asserts that each
//! frame came out in exactly one place and that the packet balance holds.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "where a test cannot go on it fails"
)]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use portcullis_aead::Engine;
use portcullis_gateway::coarse::Coarse;
use portcullis_gateway::drop::{DropReason, WorkerCounters};
use portcullis_gateway::events::EventBoard;
use portcullis_gateway::frame::Frame;
use portcullis_gateway::installer::Installer;
use portcullis_gateway::limiter::Ticks;
use portcullis_gateway::pipeline::{
    FrameSource, Ingress, Output, Pipeline, Shared, TrapLimits, TrapSignal, Waiting,
};
use portcullis_gateway::policy::PolicyTable;
use portcullis_gateway::route::{NextHop, PortIndex, PortInfo, Role, Route, RouteTable};
use portcullis_gateway::sa::{Reclaimer, SaTable};
use portcullis_gateway::trace::Hub;
use portcullis_gateway::wire::{EtherType, Ethernet, Ipv4, Ipv6, Mac, Udp};
use portcullis_ipsec::{
    Encapsulation, EspAlgorithm, EspKey, InboundSa, Mode, OutboundSa, Policy, PolicyAction, PolicyId,
    PolicyOrigin, SaInstaller, SaOptions, Spi, TenantId, TrafficSelector, TunnelEndpoints,
};

pub const OUTSIDE: PortIndex = PortIndex(0);
pub const INSIDE: PortIndex = PortIndex(1);
/// Every next hop on the outside wire, and every host on the inside one.
pub const NEIGHBOUR: Mac = [2, 0, 0, 0, 0, 0xee];
pub const MTU: u32 = 1500;

pub struct Rig {
    pub number: u8,
    pub installer: Installer,
    pub pipeline: Pipeline,
    pub counters: Arc<WorkerCounters>,
    pub shared: Arc<Shared>,
    reclaimer: Reclaimer,
    pub routes: Arc<ArcSwap<RouteTable>>,
    pub now: Coarse,
    /// What rates go by, nanoseconds.
    pub nanos: Arc<AtomicU64>,
    pub pool: Pool,
    pub out: Output,
    pub trace: Arc<Hub>,
}

/// Free frames.
pub struct Pool {
    pub free: Vec<Frame>,
    taken: HashSet<u64>,
}

thread_local! {
    /// Frames of rigs that are gone: their memory is never given back.
    static SPARE: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

impl Pool {
    fn of(frames: usize) -> Self {
        let mut free = SPARE.take();
        free.resize_with(free.len().max(frames), || Frame::leaked(4096, 256));
        SPARE.set(free.split_off(frames));
        Self { free, taken: HashSet::new() }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = SPARE.try_with(|spare| spare.borrow_mut().append(&mut self.free));
    }
}

impl FrameSource for Pool {
    fn take(&mut self) -> Option<Frame> {
        let frame = self.free.pop()?;
        assert!(self.taken.insert(frame.address()));
        Some(frame)
    }
}

/// What became of a batch.
#[derive(Default)]
pub struct Outcome {
    /// Whole frames by port.
    pub transmit: Vec<(PortIndex, Vec<u8>)>,
    pub to_kernel: Vec<Vec<u8>>,
    pub to_device: Vec<(TenantId, Vec<u8>)>,
    pub to_streams: Vec<Vec<u8>>,
    pub held: Vec<(Waiting, Vec<u8>)>,
    pub drops: BTreeMap<&'static str, u64>,
}

impl Outcome {
    /// The IP packets sent by a port, which must be all that happened.
    pub fn only_sent(&self, port: PortIndex) -> Vec<Vec<u8>> {
        assert!(self.drops.is_empty() && self.held.is_empty(), "{self:?}");
        assert!(self.to_kernel.is_empty() && self.to_device.is_empty(), "{self:?}");
        assert!(self.transmit.iter().all(|(by, _)| *by == port), "{self:?}");
        self.sent(port)
    }

    /// The IP packets sent by a port.
    pub fn sent(&self, port: PortIndex) -> Vec<Vec<u8>> {
        let by_port = self.transmit.iter().filter(|(by, _)| *by == port);
        by_port.map(|(_, frame)| frame[14..].to_vec()).collect()
    }

    /// Asserts that this was the fate of every packet.
    pub fn only_dropped(&self, reason: DropReason, packets: u64) {
        assert!(self.transmit.is_empty() && self.held.is_empty(), "{self:?}");
        assert!(self.to_kernel.is_empty() && self.to_device.is_empty(), "{self:?}");
        assert_eq!(self.drops, BTreeMap::from([(reason.label(), packets)]));
    }
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lengths: Vec<_> = self.transmit.iter().map(|(port, frame)| (port, frame.len())).collect();
        let to_kernel: Vec<_> = self.to_kernel.iter().map(Vec::len).collect();
        let to_device: Vec<_> =
            self.to_device.iter().map(|(TenantId(id), packet)| (id, packet.len())).collect();
        let (held, drops) = (self.held.len(), &self.drops);
        write!(
            f,
            "sent {lengths:?}, to the kernel {to_kernel:?}, to devices {to_device:?}, held {held}, dropped {drops:?}"
        )
    }
}

/// One CHILD SA as one end sees it.
#[derive(Debug, Clone)]
pub struct Child {
    pub algorithm: EspAlgorithm,
    pub esn: bool,
    pub udp: bool,
    pub outer_v6: bool,
    pub options: SaOptions,
    pub tenant: TenantId,
    pub local_ts: Vec<TrafficSelector>,
    pub remote_ts: Vec<TrafficSelector>,
}

impl Child {
    /// IPv4 and IPv6 between the networks of rig `a` and those of rig `b`, over raw ESP on IPv4.
    pub fn between(a: u8, b: u8) -> Self {
        Self {
            algorithm: EspAlgorithm::Aes128Gcm16,
            esn: true,
            udp: false,
            outer_v6: false,
            options: SaOptions::default(),
            tenant: TenantId::default(),
            local_ts: networks(a),
            remote_ts: networks(b),
        }
    }

    /// As the other end sees it.
    pub fn mirrored(&self) -> Self {
        Self { local_ts: self.remote_ts.clone(), remote_ts: self.local_ts.clone(), ..self.clone() }
    }

    /// Keying material; each direction has another.
    pub fn keymat(&self, direction: u8) -> Vec<u8> {
        (0..self.algorithm.keymat_len() as u8).map(|i| i.wrapping_mul(7) ^ direction).collect()
    }

    fn key(&self, direction: u8) -> EspKey {
        EspKey::from_keymat(self.algorithm, &self.keymat(direction)).unwrap()
    }

    /// What is sealed from one rig to another, which receives it on this SPI.
    pub fn outbound(&self, (local, remote): (u8, u8), spi: Spi, direction: u8) -> OutboundSa {
        OutboundSa {
            spi,
            key: self.key(direction),
            esn: self.esn,
            endpoints: self.endpoints(local, remote),
            local_ts: self.local_ts.clone(),
            remote_ts: self.remote_ts.clone(),
            options: self.options,
        }
    }

    pub fn endpoints(&self, local: u8, remote: u8) -> TunnelEndpoints {
        let encapsulation = match self.udp {
            true => Encapsulation::Udp { local_port: 4500, remote_port: 4500 },
            false => Encapsulation::None,
        };
        let address = |rig| outside_address(rig, self.outer_v6);
        TunnelEndpoints { local: address(local), remote: address(remote), encapsulation }
    }
}

pub fn networks(rig: u8) -> Vec<TrafficSelector> {
    vec![ts(&format!("10.{rig}.0.0/16")), ts(&format!("2001:db8:{rig}::/48"))]
}

pub fn ts(text: &str) -> TrafficSelector {
    text.parse().unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn outside_address(rig: u8, v6: bool) -> IpAddr {
    match v6 {
        false => Ipv4Addr::new(192, 0, 2, rig).into(),
        true => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, rig.into()).into(),
    }
}

/// A host in the network of a rig.
pub fn host(rig: u8, v6: bool) -> IpAddr {
    match v6 {
        false => Ipv4Addr::new(10, rig, 0, 9).into(),
        true => Ipv6Addr::new(0x2001, 0xdb8, rig.into(), 0, 0, 0, 0, 9).into(),
    }
}

/// The inside address of a rig.
pub fn inside_address(rig: u8, v6: bool) -> IpAddr {
    match v6 {
        false => Ipv4Addr::new(10, rig, 0, 1).into(),
        true => Ipv6Addr::new(0x2001, 0xdb8, rig.into(), 0, 0, 0, 0, 1).into(),
    }
}

pub fn port_mac(rig: u8, port: PortIndex) -> Mac {
    [2, 0, 0, 0, rig, if port == OUTSIDE { 0 } else { 1 }]
}

fn port(rig: u8, index: PortIndex) -> PortInfo {
    let (role, name) = if index == OUTSIDE { (Role::Outside, "outside") } else { (Role::Inside, "inside") };
    let address = |v6| if index == OUTSIDE { outside_address(rig, v6) } else { inside_address(rig, v6) };
    let net = |v6, bits| ipnet::IpNet::new(address(v6), bits).unwrap();
    PortInfo {
        index,
        ifindex: if index == OUTSIDE { 10 } else { 11 },
        name: name.to_owned(),
        role,
        mac: port_mac(rig, index),
        mtu: MTU,
        up: true,
        addresses: vec![net(false, 24), net(true, 64)],
    }
}

/// A next hop that answers.
pub fn hop(rig: u8, port: PortIndex) -> NextHop {
    NextHop::Port { port, src_mac: port_mac(rig, port), dst_mac: NEIGHBOUR, mtu: MTU }
}

/// The usual routes, and before them such ones that lead to these next hops.
pub fn route_table(rig: u8, hops: &[(ipnet::IpNet, NextHop)]) -> RouteTable {
    const NO_PORT: u32 = 99;
    let net = |text: String| text.parse::<ipnet::IpNet>().unwrap();
    let (outside, inside) = (port(rig, OUTSIDE), port(rig, INSIDE));
    let down = PortInfo { index: PortIndex(2), ifindex: 12, up: false, ..inside.clone() };
    let mut local = vec![inside_address(rig, false), inside_address(rig, true)];
    local.push(net(format!("2001:db8:{rig}::1/128")).addr());
    local.push(net(format!("10.{rig}.0.1/32")).addr());
    // Neighbours of routes: what lies behind each port, and what never answers.
    let neighbour = |ifindex: u32| IpAddr::from([198, 51, 100, ifindex as u8]);
    let via = |ifindex| Route::Via { ifindex, gateway: Some(neighbour(ifindex)), mtu: None };
    let mut routes = vec![
        (net(format!("10.{rig}.0.0/16")), via(inside.ifindex)),
        (net(format!("2001:db8:{rig}::/48")), via(inside.ifindex)),
        (net("0.0.0.0/0".into()), via(outside.ifindex)),
        (net("::/0".into()), via(outside.ifindex)),
    ];
    for (net, hop) in hops {
        let route = match *hop {
            NextHop::Local => {
                local.extend(net.hosts());
                continue;
            }
            NextHop::Port { port: index, mtu, .. } => {
                let ifindex = port(rig, index).ifindex;
                Route::Via { ifindex, gateway: Some(neighbour(ifindex)), mtu: Some(mtu) }
            }
            NextHop::Unresolved { ifindex, gateway, .. } => {
                Route::Via { ifindex, gateway: Some(gateway), mtu: None }
            }
            NextHop::Kernel => via(NO_PORT),
            NextHop::LinkDown => via(down.ifindex),
            NextHop::None => Route::Refused,
        };
        routes.push((*net, route));
    }
    let answering =
        [outside.ifindex, inside.ifindex].map(|ifindex| ((ifindex, neighbour(ifindex)), NEIGHBOUR));
    let mut table = RouteTable::new(vec![outside, inside, down]);
    table.set_tunnel_addresses([outside_address(rig, false), outside_address(rig, true)]);
    table.set_local_addresses(local);
    table.set_routes(routes);
    table.set_neighbours(answering.into());
    table
}

impl Rig {
    /// Nothing waits for an SA.
    pub fn new(number: u8) -> Self {
        Self::with_trap(number, TrapLimits::OFF)
    }

    pub fn with_trap(number: u8, trap: TrapLimits) -> Self {
        Self::with(number, trap, false)
    }

    /// What comes out of tunnels goes to the host.
    pub fn with_firewall(number: u8) -> Self {
        Self::with(number, TrapLimits::OFF, true)
    }

    fn with(number: u8, trap: TrapLimits, firewall: bool) -> Self {
        let (trap_signal, trace) = (Arc::new(TrapSignal::default()), Arc::new(Hub::default()));
        let reclaimer = Reclaimer::new(2);
        let engine = Engine::select(None).unwrap();
        let sas = Arc::new(SaTable::new(64, engine, [number; 16], reclaimer.clone()).unwrap());
        let nanos = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&nanos);
        let policies = PolicyTable::new(64).unwrap().with_workers(2);
        let policies =
            Arc::new(policies.with_clock(move || Ticks::from_nanos(clock.load(Ordering::Relaxed))));
        let events = Arc::new(EventBoard::new(64, 64, Box::new(|| {})));
        let routes = Arc::new(ArcSwap::from_pointee(route_table(number, &[])));
        let shared = Arc::new(Shared {
            sas: Arc::clone(&sas),
            policies: Arc::clone(&policies),
            routes: Arc::clone(&routes),
            events: Arc::clone(&events),
            nat_port: 4500,
            firewall,
            trap,
            trap_signal: Arc::clone(&trap_signal),
            trace: Arc::clone(&trace),
        });
        let counters = Arc::new(WorkerCounters::default());
        let reader = reclaimer.register().unwrap();
        let pipeline = Pipeline::new(Arc::clone(&shared), Arc::clone(&counters), reader, 42);
        let installer = Installer::new(sas, policies, events, Box::new(()), Box::new(|| Coarse(0)));
        let installer = installer.telling(Box::new(move || {
            trap_signal.activated();
        }));
        let pool = Pool::of(512);
        let (now, out) = (Coarse(100), Output::default());
        Self {
            number,
            installer,
            pipeline,
            counters,
            shared,
            reclaimer,
            routes,
            now,
            nanos,
            pool,
            out,
            trace,
        }
    }

    /// A second worker's pipeline on the same tables.
    pub fn second_pipeline(&self) -> Pipeline {
        let reader = self.reclaimer.register().unwrap();
        Pipeline::new(Arc::clone(&self.shared), Arc::default(), reader, 43).of_worker(1)
    }

    /// Routes that come before the usual ones.
    pub fn set_routes(&self, hops: &[(&str, NextHop)]) {
        let hops: Vec<_> = hops.iter().map(|(net, hop)| (net.parse().unwrap(), *hop)).collect();
        self.routes.store(Arc::new(route_table(self.number, &hops)));
    }

    pub fn policy(&self, local_ts: &[TrafficSelector], remote_ts: &[TrafficSelector]) -> PolicyId {
        self.policy_to(PolicyAction::Protect, local_ts, remote_ts)
    }

    pub fn policy_to(
        &self,
        action: PolicyAction,
        local_ts: &[TrafficSelector],
        remote_ts: &[TrafficSelector],
    ) -> PolicyId {
        self.policy_with(action, 0, local_ts, remote_ts)
    }

    /// With a priority; 0: that of the action.
    pub fn policy_with(
        &self,
        action: PolicyAction,
        priority: u32,
        local_ts: &[TrafficSelector],
        remote_ts: &[TrafficSelector],
    ) -> PolicyId {
        let policy = Policy {
            name: "connection/child".to_owned(),
            tenant: TenantId::default(),
            local_ts: local_ts.to_vec(),
            remote_ts: remote_ts.to_vec(),
            origin: PolicyOrigin::Configured { acquire: true },
            action,
            priority: NonZeroU32::new(priority),
            per_worker: false,
        };
        self.install(policy)
    }

    /// A policy in which each worker may have an SA of its own.
    pub fn policy_of_workers(&self, child: &Child) -> PolicyId {
        self.install(Policy {
            name: "connection/child".to_owned(),
            tenant: TenantId::default(),
            local_ts: child.local_ts.clone(),
            remote_ts: child.remote_ts.clone(),
            origin: PolicyOrigin::Negotiated,
            action: PolicyAction::Protect,
            priority: None,
            per_worker: true,
        })
    }

    pub fn install(&self, policy: Policy) -> PolicyId {
        self.installer.install_policy(policy).unwrap()
    }

    pub fn install_inbound(&self, child: &Child, peer: u8, direction: u8) -> Spi {
        let spi = self.installer.allocate_spi().unwrap();
        let sa = InboundSa {
            key: child.key(direction),
            esn: child.esn,
            replay_window: 64,
            endpoints: child.endpoints(self.number, peer),
            local_ts: child.local_ts.clone(),
            remote_ts: child.remote_ts.clone(),
            tenant: child.tenant,
            options: child.options,
        };
        self.installer.install_inbound(spi, sa).unwrap();
        spi
    }

    pub fn activate(&self, child: &Child, peer: u8, policy: PolicyId, pair: Spi, spi: Spi, direction: u8) {
        let sa = child.outbound((self.number, peer), spi, direction);
        self.installer.activate_outbound(policy, pair, sa).unwrap();
    }

    /// Feeds IP packets, with Ethernet headers if they come by a port.
    pub fn feed(&mut self, ingress: Ingress, packets: &[Vec<u8>]) -> Outcome {
        let frame = |packet: &Vec<u8>| match ingress {
            Ingress::Kernel | Ingress::Device(_) | Ingress::Socket => packet.clone(),
            Ingress::Port(port) => ethernet(port_mac(self.number, port), packet),
        };
        let frames: Vec<_> = packets.iter().map(frame).collect();
        self.feed_frames(ingress, &frames)
    }

    /// Feeds IP packets by the inside port.
    pub fn inside(&mut self, packets: &[Vec<u8>]) -> Outcome {
        self.feed(Ingress::Port(INSIDE), packets)
    }

    /// Feeds IP packets by the outside port.
    pub fn outside(&mut self, packets: &[Vec<u8>]) -> Outcome {
        self.feed(Ingress::Port(OUTSIDE), packets)
    }

    /// Feeds frames as they are, and checks that none is lost.
    pub fn feed_frames(&mut self, ingress: Ingress, frames: &[Vec<u8>]) -> Outcome {
        let mut batch: Vec<_> = frames.iter().map(|octets| self.frame(octets)).collect();
        self.run(frames.len(), |rig| {
            let Self { pipeline, pool, out, .. } = rig;
            pipeline.process(rig.now, ingress, &mut batch, pool, out);
            assert!(batch.is_empty());
        })
    }

    /// Lets go what waited for an SA.
    pub fn release_trapped(&mut self) -> Outcome {
        self.run(0, |rig| {
            let Self { pipeline, pool, out, .. } = rig;
            pipeline.release_trapped(rig.now, pool, out);
        })
    }

    /// Does it, and checks that no frame is lost and that the packet balance holds.
    fn run(&mut self, frames: usize, work: impl FnOnce(&mut Self)) -> Outcome {
        let (drops_before, generated_before) = (self.drops(), self.generated());
        let trapped_before = self.pipeline.trapped();
        work(self);
        let mut outcome = Outcome::default();
        let mut back = Vec::new();
        for (port, frame) in self.out.transmit.drain() {
            outcome.transmit.push((port, frame.packet().to_vec()));
            back.push(frame);
        }
        for frame in self.out.to_kernel.drain(..) {
            outcome.to_kernel.push(frame.packet().to_vec());
            back.push(frame);
        }
        for (tenant, frame) in self.out.to_device.drain(..) {
            outcome.to_device.push((tenant, frame.packet().to_vec()));
            back.push(frame);
        }
        for frame in self.out.to_streams.drain(..) {
            outcome.to_streams.push(frame.packet().to_vec());
            back.push(frame);
        }
        for (waiting, frame) in self.out.held.drain(..) {
            outcome.held.push((waiting, frame.packet().to_vec()));
            back.push(frame);
        }
        back.append(&mut self.out.recycled);
        for frame in back {
            assert!(self.pool.taken.remove(&frame.address()), "a frame came out twice");
            self.pool.free.push(frame);
        }
        assert_eq!(self.pool.taken.len(), self.pipeline.trapped(), "frames were lost");

        outcome.drops = self.drops();
        outcome.drops.retain(|label, count| {
            *count -= drops_before[label];
            *count > 0
        });
        let came = (frames + trapped_before) as u64 + self.generated() - generated_before;
        let waiting = outcome.held.len() + self.pipeline.trapped();
        let given = outcome.to_kernel.len() + outcome.to_device.len() + outcome.to_streams.len();
        let listed = outcome.transmit.len() + given + waiting;
        let went = listed as u64 + outcome.drops.values().sum::<u64>();
        assert_eq!(came, went, "the packet balance is off: {outcome:?}");
        outcome
    }

    fn drops(&self) -> BTreeMap<&'static str, u64> {
        DropReason::ALL.iter().map(|&reason| (reason.label(), self.counters.drops(reason))).collect()
    }

    fn generated(&self) -> u64 {
        self.counters.generated.load(Ordering::Relaxed)
    }

    fn frame(&mut self, octets: &[u8]) -> Frame {
        let mut frame = self.pool.take().expect("the pool is empty");
        assert!(frame.set_range(256, 256 + octets.len()));
        frame.packet_mut().copy_from_slice(octets);
        frame
    }
}

pub fn ethernet(dst: Mac, packet: &[u8]) -> Vec<u8> {
    let header = Ethernet::write(dst, NEIGHBOUR, EtherType::of_packet(packet));
    [header.as_slice(), packet].concat()
}

/// Rigs 1 and 2 with one child between them, and the SPIs that each receives on.
pub struct Pair {
    pub a: Rig,
    pub b: Rig,
    pub a_spi: Spi,
    pub b_spi: Spi,
    pub a_policy: PolicyId,
}

pub fn pair(child: &Child) -> Pair {
    let (a, b) = (Rig::new(1), Rig::new(2));
    let (a_spi, b_spi, a_policy) = connect(child, &a, &b);
    Pair { a, b, a_spi, b_spi, a_policy }
}

/// Brings `child`, as `a` sees it, up between two rigs.
pub fn connect(child: &Child, a: &Rig, b: &Rig) -> (Spi, Spi, PolicyId) {
    let mirrored = child.mirrored();
    let a_spi = a.install_inbound(child, b.number, 0);
    let b_spi = b.install_inbound(&mirrored, a.number, 1);
    let a_policy = a.policy(&child.local_ts, &child.remote_ts);
    let b_policy = b.policy(&mirrored.local_ts, &mirrored.remote_ts);
    a.activate(child, b.number, a_policy, a_spi, b_spi, 1);
    b.activate(&mirrored, a.number, b_policy, b_spi, a_spi, 0);
    (a_spi, b_spi, a_policy)
}

/// A child in transport mode between the outside addresses of two rigs, which are then the hosts' own.
pub fn between_hosts(child: &Child, a: &Rig, b: &Rig) -> Child {
    let own = |rig: &Rig, v6| TrafficSelector::any(outside_address(rig.number, v6));
    for rig in [a, b] {
        let own = [false, true].map(|v6| own(rig, v6).to_string());
        rig.set_routes(&own.each_ref().map(|own| (own.as_str(), NextHop::Local)));
    }
    Child {
        local_ts: vec![own(a, child.outer_v6)],
        remote_ts: vec![own(b, child.outer_v6)],
        options: SaOptions { mode: Mode::Transport, ..child.options },
        ..child.clone()
    }
}

/// The fields of a test packet that tests care about.
#[derive(Debug, Clone)]
pub struct Packet {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub ports: (u16, u16),
    pub ttl: u8,
    pub tos: u8,
    pub dont_fragment: bool,
    /// Octets of the whole packet.
    pub len: usize,
}

impl Packet {
    /// UDP between the hosts of two rigs.
    pub fn between(a: u8, b: u8, v6: bool, len: usize) -> Self {
        let (src, dst) = (host(a, v6), host(b, v6));
        Self { src, dst, ports: (1000, 2000), ttl: 64, tos: 0, dont_fragment: true, len }
    }

    pub fn octets(&self) -> Vec<u8> {
        let udp_len = self.len - if self.src.is_ipv6() { 40 } else { 20 };
        let udp = Udp { src_port: self.ports.0, dst_port: self.ports.1, len: udp_len, checksum: 0 };
        let payload = udp.write().into_iter().chain((0..).map(|i: usize| (i % 253) as u8)).take(udp_len);
        self.header(17).into_iter().chain(payload).collect()
    }

    /// The packet as it is after a router.
    pub fn forwarded(&self) -> Vec<u8> {
        Self { ttl: self.ttl - 1, ..self.clone() }.octets()
    }

    /// An IP header for the packet's length.
    pub fn header(&self, protocol: u8) -> Vec<u8> {
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Ipv4 {
                header_len: 20,
                total_len: self.len,
                tos: self.tos,
                id: 0x1234,
                dont_fragment: self.dont_fragment,
                more_fragments: false,
                fragment_offset: 0,
                ttl: self.ttl,
                protocol,
                src,
                dst,
            }
            .write(&[])
            .to_vec(),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Ipv6 {
                traffic_class: self.tos,
                flow_label: 0x5_4321,
                payload_len: self.len - 40,
                next_header: protocol,
                hop_limit: self.ttl,
                src,
                dst,
            }
            .write()
            .to_vec(),
            _ => panic!("two families"),
        }
    }
}
