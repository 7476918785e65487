//! Everything between RX and TX, without sockets: frames in, frames out.
//!
//! [`Pipeline::process`] takes a batch as a ring gave it and sorts every frame into exactly one list of [`Output`].
//! One packet's way: [`ingress`] reads its headers and tells ESP for us from packets to protect; [`inbound`] opens
//! ESP, and what comes out goes on like any other packet; [`outbound`] looks up the policy and seals; [`egress`]
//! finds the next hop and puts an Ethernet header in front. These go phase by phase over the batch: parse all, look
//! up all, reserve per run of one SA, write all headers, one call to the engine, send all. What policy and packets
//! rarely demand hangs off it: [`trouble`] (too big, TTL expired), [`icmp`], [`fragment`].
//!
//! Nothing here waits, allocates in steady state, or knows a socket. Time, frames and tables are passed in.

mod egress;
mod fragment;
mod icmp;
mod inbound;
mod ingress;
mod outbound;
mod trouble;

use std::net::IpAddr;
use std::ptr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use portcullis_ipsec::{Flow, TenantId};

use crate::coarse::Coarse;
use crate::drop::{DropReason, WorkerCounters};
use crate::events::EventBoard;
use crate::frame::Frame;
use crate::policy::{FlowCache, PolicyEntry, PolicyTable, Snapshot};
use crate::route::{PortIndex, RouteTable};
use crate::sa::{Guard, Reader, SaTable, Traffic};
use crate::wire::L3Info;

pub use egress::release;

/// Frames that go through the phases together.
pub const BATCH: usize = 64;

/// Flows whose policy a worker remembers.
const FLOWS: usize = 4096;

/// Where the packet starts in a frame taken for an ICMP error or a fragment: leaves room for any encapsulation.
const SPARE_START: usize = crate::esp::MAX_HEADROOM.next_multiple_of(64);

/// Most tunnels of ours that one packet may come out of, one inside the other.
const MAX_TUNNELS: u8 = 2;

/// What the pipelines of all workers look at.
#[derive(Debug)]
pub struct Shared {
    /// The SAs, and the engine that their keys are expanded for.
    pub sas: Arc<SaTable>,
    /// What must be protected.
    pub policies: Arc<PolicyTable>,
    /// Next hops.
    pub routes: Arc<ArcSwap<RouteTable>>,
    /// What the control plane is told.
    pub events: Arc<EventBoard>,
    /// The UDP port on which ESP arrives, normally 4500.
    pub nat_port: u16,
}

/// Where a batch comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingress {
    /// Ethernet frames from this port.
    Port(PortIndex),
    /// Bare IP packets from the TUN device.
    Kernel,
}

/// The neighbour whose MAC address a frame lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Waiting {
    /// The port that the frame will leave by.
    pub port: PortIndex,
    /// The port's interface, for the kernel.
    pub ifindex: u32,
    /// The neighbour.
    pub gateway: IpAddr,
}

/// Where frames have gone. Drained by the worker, which counts what it takes: [`WorkerCounters::transmitted`],
/// `to_kernel` and `held`. Drops are counted already.
#[derive(Debug, Default)]
pub struct Output {
    /// Whole Ethernet frames to send.
    pub transmit: Vec<(PortIndex, Frame)>,
    /// Bare IP packets for the host.
    pub to_kernel: Vec<Frame>,
    /// Whole Ethernet frames but for the destination's MAC address; see [`release`].
    pub held: Vec<(Waiting, Frame)>,
    /// Frames to be used again: their packets were dropped and counted, or they never held one.
    pub recycled: Vec<Frame>,
}

/// Free frames, for what is made here: ICMP errors and fragments.
pub trait FrameSource {
    /// A frame, if there is one. What it holds does not matter.
    fn take(&mut self) -> Option<Frame>;
}

/// How a packet came to be here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// By an inside port; `l2_len` octets of link-layer header lie in front of the packet.
    Port { port: PortIndex, l2_len: usize },
    /// From the host, which has done a router's work on it already.
    Kernel,
    /// Out of a tunnel, and so many around it.
    Tunnel { depth: u8 },
    /// Made here.
    Generated,
}

/// An IP packet in clear on its way to policy.
#[derive(Debug)]
struct Clear {
    /// Holds exactly the packet.
    frame: Frame,
    origin: Origin,
    tenant: TenantId,
    flow: Flow,
    info: L3Info,
    /// For a fragment made here: the policy of the whole packet, and its TTL is counted down already.
    policy: Option<Arc<PolicyEntry>>,
}

/// One worker's pipeline.
#[derive(Debug)]
pub struct Pipeline {
    shared: Arc<Shared>,
    counters: Arc<WorkerCounters>,
    reader: Reader,
    flows: FlowCache,
    errors: icmp::RateLimit,
    esp: Vec<inbound::Arrival>,
    clear: Vec<Clear>,
    again: Again,
}

/// Packets that a pass has made and that need another.
#[derive(Debug, Default)]
struct Again {
    /// ESP that came out of ESP.
    esp: Vec<inbound::Arrival>,
    /// Fragments, and ICMP errors into a tunnel.
    clear: Vec<Clear>,
}

/// What one pass over a batch works with.
struct Context<'a> {
    shared: &'a Shared,
    guard: Guard<'a>,
    policies: &'a Snapshot,
    routes: &'a RouteTable,
    counters: &'a WorkerCounters,
    now: Coarse,
    flows: &'a mut FlowCache,
    errors: &'a mut icmp::RateLimit,
    spare: &'a mut dyn FrameSource,
    again: &'a mut Again,
    out: &'a mut Output,
}

impl Pipeline {
    /// For one worker. Looks at `shared` under `reader`; `seed` is random, so that nobody outside can choose flows
    /// that push each other out of the worker's memory.
    pub fn new(shared: Arc<Shared>, counters: Arc<WorkerCounters>, reader: Reader, seed: u64) -> Self {
        Self {
            shared,
            counters,
            reader,
            flows: FlowCache::new(FLOWS, seed),
            errors: icmp::RateLimit::default(),
            esp: Vec::with_capacity(BATCH),
            clear: Vec::with_capacity(BATCH),
            again: Again::default(),
        }
    }

    /// Takes every frame of `batch` to one of `out`'s lists, in order as far as packets of one flow go. Ends at a
    /// quiescent point. What was received is counted by the worker; what is dropped, made, opened and sealed, here.
    pub fn process(
        &mut self,
        now: Coarse,
        ingress: Ingress,
        batch: &mut Vec<Frame>,
        spare: &mut dyn FrameSource,
        out: &mut Output,
    ) {
        let Self { shared, counters, reader, flows, errors, esp, clear, again } = self;
        let guard = reader.guard();
        let (policies, routes) = (shared.policies.snapshot(), shared.routes.load());
        let mut context = Context {
            shared: shared.as_ref(),
            guard,
            policies: &policies,
            routes: &routes,
            counters: counters.as_ref(),
            now,
            flows,
            errors,
            spare,
            again,
            out,
        };
        while !batch.is_empty() {
            let rest = batch.drain(..batch.len().min(BATCH));
            ingress::sort(&mut context, ingress, rest, esp, clear);
            context.run(esp, clear);
        }
        reader.quiescent();
    }

    /// Says that the worker is about to sleep: nothing that the pipeline has looked at is held on to.
    pub fn offline(&mut self) {
        self.reader.offline();
    }
}

impl<'a> Context<'a> {
    /// Opens, seals and sends until nothing is left to do. It ends: only ESP inside ESP goes round, at most
    /// [`MAX_TUNNELS`] times, and packets made here make no others.
    fn run(&mut self, esp: &mut Vec<inbound::Arrival>, clear: &mut Vec<Clear>) {
        while !(esp.is_empty() && clear.is_empty()) {
            inbound::open(self, esp, clear);
            outbound::protect(self, clear);
            esp.append(&mut self.again.esp);
            clear.append(&mut self.again.clear);
        }
    }

    fn drop(&mut self, frame: Frame, reason: DropReason) {
        self.counters.count_drop(reason);
        self.out.recycled.push(frame);
    }
}

impl Clear {
    /// Whether we forward it as a router: neither the host, who does so itself, nor a second time after
    /// fragmentation.
    fn counts_down(&self) -> bool {
        matches!(self.origin, Origin::Port { .. } | Origin::Tunnel { .. }) && self.policy.is_none()
    }

    /// Whether its TTL or hop limit ends here.
    fn expires(&self) -> bool {
        self.counts_down() && self.info.ttl <= 1
    }
}

/// Adds up what runs of packets of one SA have carried, so that its counters are touched once per run.
struct Tally<'a> {
    events: &'a EventBoard,
    run: Option<(&'a Traffic, u64, u64)>,
}

impl<'a> Tally<'a> {
    fn new(events: &'a EventBoard) -> Self {
        Self { events, run: None }
    }

    fn count(&mut self, traffic: &'a Traffic, octets: usize, now: Coarse) {
        match &mut self.run {
            Some((current, packets, bytes)) if ptr::eq(*current, traffic) => {
                *packets += 1;
                *bytes += octets as u64;
            }
            _ => {
                self.flush(now);
                self.run = Some((traffic, 1, octets as u64));
            }
        }
    }

    fn flush(&mut self, now: Coarse) {
        if let Some((traffic, packets, bytes)) = self.run.take() {
            self.events.milestones(traffic.count(packets, bytes, now));
        }
    }
}
