//! Everything between RX and TX, without sockets: frames in, frames out.
//!
//! [`Pipeline::process`] takes a batch as a ring gave it and sorts every frame into exactly one list of [`Output`].
//! One packet's way: [`ingress`] reads its headers and tells ESP for us from packets to protect; [`inbound`] opens
//! ESP, and what comes out ([`deliver`]) goes on like any other packet; [`outbound`] asks policy ([`choose`]) and seals;
//! [`egress`] finds the next hop and puts an Ethernet header in front. These go phase by phase over the batch: parse all,
//! look up all, reserve per run of one SA, write all headers, one call to the engine, send all. Packets that follow each
//! other and are alike are decided about together, as a [`train`]. What policy and packets rarely demand hangs off it:
//! [`special`] (options of SAs), [`police`] (rates), [`trouble`] (too big, TTL expired), [`icmp`], [`fragment`] and, of what
//! is sealed, [`cut`], of what arrives so, [`reassembly`].
//!
//! Nothing here waits, allocates in steady state, or knows a socket. Time, frames and tables are passed in.

mod choose;
mod cut;
mod deliver;
mod egress;
mod fragment;
mod icmp;
mod inbound;
mod ingress;
mod isa;
mod outbound;
mod output;
mod police;
mod reassembly;
mod special;
mod tally;
mod traced;
mod train;
mod trapped;
mod trouble;

use std::cell::Cell;
use std::num::NonZeroU32;
use std::sync::Arc;

use arc_swap::ArcSwap;
use portcullis_ipsec::TenantId;

use crate::coarse::Coarse;
use crate::drop::{DropReason, WorkerCounters};
use crate::events::EventBoard;
use crate::frame::Frame;
use crate::limiter::Ticks;
use crate::policy::{FlowCache, PolicyEntry, PolicyTable, Snapshot};
use crate::route::{HopCache, PortIndex, RouteTable};
use crate::sa::{Guard, Reader, SaTable};
use crate::trace::Hub;
use crate::wire::{FlowKey, L3Info};
use inbound::Arrival;
use isa::Isa;
use reassembly::Reassembly;
use train::{Packets, Train};
use trapped::Trapped;

pub use egress::release;
pub use output::{FrameSource, Handed, HandedOver, Outgoing, Output, Waiting};
pub use trapped::{TrapLimits, TrapSignal};

/// Frames that go through the phases together.
pub const BATCH: usize = 64;

/// Flows whose policy a worker remembers: twice as many as there are policies, but not fewer, and not more, than these.
/// A flow that is not remembered costs a walk through both tries, a dozen lines that are not in the cache either.
const FLOWS: usize = 4096;
const MOST_FLOWS: usize = 1 << 18;

/// Where the packet starts in a frame taken for an ICMP error or a fragment: leaves room for any encapsulation.
const SPARE_START: usize = crate::esp::MAX_HEADROOM.next_multiple_of(64);
/// Octets that it leaves free behind it, for trailers.
const SPARE_TAIL: usize = 64;

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
    /// Whether what comes out of tunnels goes to the kernel, whose firewall has a say in it, and not straight on.
    pub firewall: bool,
    /// How many packets may wait for SAs that they have asked for.
    pub trap: TrapLimits,
    /// Rung when an SA has come up.
    pub trap_signal: Arc<TrapSignal>,
    /// Who looks on.
    pub trace: Arc<Hub>,
}

/// Where a batch comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingress {
    /// Ethernet frames from this port.
    Port(PortIndex),
    /// Bare IP packets from the TUN device.
    Kernel,
    /// Bare IP packets from the device of a tenant, to which the kernel's routes have led them.
    Device(TenantId),
    /// ESP, as bare IP packets, that came to a socket of the host: in UDP because it came in fragments, or in a TCP stream
    /// ([`crate::inlet`]).
    Socket,
}

impl Ingress {
    fn port(self) -> Option<PortIndex> {
        match self {
            Self::Port(index) => Some(index),
            Self::Kernel | Self::Device(_) | Self::Socket => None,
        }
    }

    /// Whose inner addresses its packets have.
    fn tenant(self) -> TenantId {
        match self {
            Self::Device(tenant) => tenant,
            Self::Port(_) | Self::Kernel | Self::Socket => TenantId::default(),
        }
    }
}

/// How a packet came to be here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// By an inside port; `l2_len` octets of link-layer header lie in front of the packet.
    Port { port: PortIndex, l2_len: u8 },
    /// In clear by an outside port, and a policy bypasses it; likewise.
    Outside { port: PortIndex, l2_len: u8 },
    /// From the host, which has done a router's work on it already; of a tenant, by its device.
    Kernel,
    /// Out of a tunnel, and so many around it.
    Tunnel { depth: u8 },
    /// Made here.
    Generated,
}

/// What is known of an IP packet in clear on its way to policy. One cache line.
#[derive(Debug, Clone, Copy)]
struct Clear {
    flow: FlowKey,
    info: L3Info,
    /// Where the worker remembers the flow's policy.
    place: u32,
    tenant: TenantId,
    origin: Origin,
    /// For a fragment made here: the policy of the whole packet, and its TTL is counted down already.
    pinned: Option<Pinned>,
}

const _: () = assert!(size_of::<Clear>() == 64);

/// A place in [`Again::policies`], plus one.
#[derive(Debug, Clone, Copy)]
struct Pinned(NonZeroU32);

/// One worker's pipeline.
#[derive(Debug)]
pub struct Pipeline {
    shared: Arc<Shared>,
    counters: Arc<WorkerCounters>,
    reader: Reader,
    flows: FlowCache,
    hops: HopCache,
    errors: icmp::RateLimit,
    esp: Packets<Arrival>,
    clear: Packets<Clear>,
    again: Again,
    isa: Isa,
    worker: u16,
    trapped: Trapped,
    reassembly: Reassembly,
    looked: traced::Looked,
}

/// Packets that a pass has made and that need another.
#[derive(Debug, Default)]
struct Again {
    /// ESP that came out of ESP, or was put together.
    esp: Packets<Arrival>,
    /// Fragments, and ICMP errors into a tunnel.
    clear: Packets<Clear>,
    /// Of packets that were cut up: their fragments may lack what a policy looks at.
    policies: Vec<Arc<PolicyEntry>>,
}

impl Again {
    /// Keeps a policy for the fragments of a packet, for as long as this batch takes.
    fn pin(&mut self, policy: Option<Arc<PolicyEntry>>) -> Option<Pinned> {
        self.policies.push(policy?);
        u32::try_from(self.policies.len()).ok().and_then(NonZeroU32::new).map(Pinned)
    }

    fn pinned(&self, pinned: Pinned) -> Option<&Arc<PolicyEntry>> {
        self.policies.get(pinned.0.get() as usize - 1)
    }
}

/// What one pass over a batch works with.
struct Context<'a> {
    shared: &'a Shared,
    guard: Guard<'a>,
    policies: &'a Snapshot,
    routes: &'a RouteTable,
    counters: &'a WorkerCounters,
    now: Coarse,
    /// A finer time, the same for the whole batch, once somebody has asked for it.
    ticks: Cell<Option<Ticks>>,
    flows: &'a mut FlowCache,
    hops: &'a mut HopCache,
    errors: &'a mut icmp::RateLimit,
    spare: &'a mut dyn FrameSource,
    again: &'a mut Again,
    trapped: &'a mut Trapped,
    reassembly: &'a mut Reassembly,
    out: &'a mut Output,
    /// Which worker this is.
    worker: u16,
}

impl Pipeline {
    /// For one worker. Looks at `shared` under `reader`; `seed` is random, so that nobody outside can choose flows
    /// that push each other out of the worker's memory.
    pub fn new(shared: Arc<Shared>, counters: Arc<WorkerCounters>, reader: Reader, seed: u64) -> Self {
        let flows = (2 * shared.policies.capacity()).clamp(FLOWS, MOST_FLOWS);
        Self {
            shared,
            counters,
            reader,
            flows: FlowCache::new(flows, seed),
            hops: HopCache::new(seed),
            errors: icmp::RateLimit::default(),
            esp: Packets::default(),
            clear: Packets::default(),
            again: Again::default(),
            isa: Isa::detect(),
            worker: 0,
            trapped: Trapped::default(),
            reassembly: Reassembly::default(),
            looked: traced::Looked::default(),
        }
    }

    /// The same for the worker of that number, where there are several.
    #[must_use]
    pub fn of_worker(self, worker: u16) -> Self {
        Self { worker, ..self }
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
        if self.shared.trace.is_on() {
            self.process_traced(now, ingress, batch, spare, out);
        } else {
            isa::process(self, now, ingress, batch, spare, out);
        }
    }

    #[inline(always)]
    fn process_batch(
        &mut self,
        now: Coarse,
        ingress: Ingress,
        batch: &mut Vec<Frame>,
        spare: &mut dyn FrameSource,
        out: &mut Output,
    ) {
        self.pass(now, spare, out, |context, esp, clear| {
            while !batch.is_empty() {
                ingress::sort(context, ingress, batch, esp, clear);
                context.run(esp, clear);
            }
        });
    }

    /// Goes on with packets that another worker has handed over, in order.
    pub fn resume(
        &mut self,
        now: Coarse,
        handed: &mut Vec<Handed>,
        spare: &mut dyn FrameSource,
        out: &mut Output,
    ) {
        self.pass(now, spare, out, |context, esp, clear| {
            for Handed { frame, mut about } in handed.drain(..) {
                about.place = context.flows.locate(about.tenant, &about.flow) as u32;
                clear.push(frame, about);
            }
            context.run(esp, clear);
        });
    }

    /// Packets that wait for SAs, and fragments that wait for others.
    pub fn trapped(&self) -> usize {
        self.trapped.len() + self.reassembly.len()
    }

    /// Sends what waited for an SA that has come up, and gives up what has waited too long. Cheap while there is neither.
    pub fn release_trapped(&mut self, now: Coarse, spare: &mut dyn FrameSource, out: &mut Output) {
        self.reassembly.expire(now, &self.counters, out);
        if self.trapped.due(&self.shared.trap_signal, self.shared.trap, now) {
            self.pass(now, spare, out, |context, esp, clear| {
                trapped::release(context, clear);
                context.run(esp, clear);
            });
        }
    }

    /// Gives up what waits: the worker ends.
    pub fn give_up_trapped(&mut self) -> impl Iterator<Item = Frame> + use<> {
        self.trapped.take_all(&self.shared.trap_signal).chain(self.reassembly.take_all())
    }

    #[inline(always)]
    fn pass(
        &mut self,
        now: Coarse,
        spare: &mut dyn FrameSource,
        out: &mut Output,
        work: impl FnOnce(&mut Context<'_>, &mut Packets<Arrival>, &mut Packets<Clear>),
    ) {
        let Self {
            shared,
            counters,
            reader,
            flows,
            hops,
            errors,
            esp,
            clear,
            again,
            trapped,
            reassembly,
            worker,
            ..
        } = self;
        let guard = reader.guard();
        let (policies, routes) = (shared.policies.snapshot(), shared.routes.load());
        hops.begin(&routes, now);
        let mut context = Context {
            shared: shared.as_ref(),
            guard,
            policies: &policies,
            routes: &routes,
            counters: counters.as_ref(),
            now,
            ticks: Cell::new(None),
            flows,
            hops,
            errors,
            spare,
            again,
            trapped,
            reassembly,
            out,
            worker: *worker,
        };
        work(&mut context, esp, clear);
        context.again.policies.clear();
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
    #[inline(always)]
    fn run(&mut self, esp: &mut Packets<Arrival>, clear: &mut Packets<Clear>) {
        while !(esp.is_empty() && clear.is_empty()) {
            inbound::open(self, esp, clear);
            outbound::protect(self, clear);
            esp.append(&mut self.again.esp);
            clear.append(&mut self.again.clear);
        }
    }

    /// The time of this batch, for rates.
    fn ticks(&self) -> Ticks {
        let ticks = self.ticks.get().unwrap_or_else(|| self.shared.policies.limiters().now());
        self.ticks.set(Some(ticks));
        ticks
    }

    /// Gives the host a packet, by its tenant's device.
    fn give_host(&mut self, tenant: TenantId, frame: Frame) {
        match tenant.is_routed() {
            false => self.out.to_kernel.push(frame),
            true => self.out.to_device.push((tenant, frame)),
        }
    }

    #[cold]
    fn drop(&mut self, frame: Frame, reason: DropReason) {
        self.counters.count_drop(reason);
        self.out.recycled.push(frame);
    }
}

impl Clear {
    /// What [`wire::read`] says of a packet of that origin.
    #[inline(always)]
    fn new(context: &Context<'_>, origin: Origin, tenant: TenantId, flow: FlowKey, info: L3Info) -> Self {
        let place = context.flows.locate(tenant, &flow) as u32;
        Self { flow, info, place, tenant, origin, pinned: None }
    }

    /// The same of one packet of a train, whose frame holds it and nothing else.
    #[inline(always)]
    fn of(&self, frame: &Frame) -> Self {
        Self { info: self.info.with_total_len(frame.len()), ..*self }
    }

    /// The policy that covers it, as the worker remembers it.
    fn policy<'c>(&self, context: &'c mut Context<'_>) -> Option<&'c Arc<PolicyEntry>> {
        match self.pinned {
            Some(pinned) => context.again.pinned(pinned),
            None => context.flows.lookup(context.policies, self.tenant, &self.flow, self.place as usize),
        }
    }

    /// Whether it came in by an outside interface, and was checked against policy there: out of a tunnel, or bypassed.
    #[inline(always)]
    fn is_admitted(&self) -> bool {
        matches!(self.origin, Origin::Tunnel { .. } | Origin::Outside { .. })
    }

    /// Whether we forward it as a router: neither the host, who does so itself, nor a second time after
    /// fragmentation.
    #[inline]
    fn counts_down(&self) -> bool {
        let arrived =
            matches!(self.origin, Origin::Port { .. } | Origin::Outside { .. } | Origin::Tunnel { .. });
        arrived && self.pinned.is_none()
    }

    /// Whether its TTL or hop limit ends here.
    #[inline]
    fn expires(&self) -> bool {
        self.counts_down() && self.info.ttl() <= 1
    }
}
