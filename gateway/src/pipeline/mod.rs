//! Everything between RX and TX, without sockets: frames in, frames out.
//!
//! [`Pipeline::process`] takes a batch as a ring gave it and sorts every frame into exactly one list of [`Output`].
//! One packet's way: [`ingress`] reads its headers and tells ESP for us from packets to protect; [`inbound`] opens
//! ESP, and what comes out goes on like any other packet; [`outbound`] looks up the policy and seals; [`egress`]
//! finds the next hop and puts an Ethernet header in front. These go phase by phase over the batch: parse all, look
//! up all, reserve per run of one SA, write all headers, one call to the engine, send all. What policy and packets
//! rarely demand hangs off it: [`special`] (options of SAs), [`police`] (rates), [`trouble`] (too big, TTL expired), [`icmp`],
//! [`fragment`] and, of what is sealed, [`cut`], of what arrives so, [`reassembly`].
//!
//! Nothing here waits, allocates in steady state, or knows a socket. Time, frames and tables are passed in.

mod cut;
mod egress;
mod fragment;
mod icmp;
mod inbound;
mod ingress;
mod isa;
mod outbound;
mod police;
mod reassembly;
mod special;
mod traced;
mod trapped;
mod trouble;

use std::cell::Cell;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ptr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use portcullis_ipsec::{PolicyCounters, TenantId};

use crate::coarse::Coarse;
use crate::drop::{DropReason, WorkerCounters};
use crate::events::EventBoard;
use crate::frame::Frame;
use crate::limiter::Ticks;
use crate::policy::{FlowCache, PolicyEntry, PolicyTable, Snapshot};
use crate::route::{HopCache, PortIndex, RouteTable};
use crate::sa::{Guard, Limits, Reader, SaTable, Traffic};
use crate::trace::Hub;
use crate::wire::{FlowKey, L3Info};
use inbound::Arrival;
use isa::Isa;
use reassembly::Reassembly;
use trapped::Trapped;

pub use egress::release;
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
    pub transmit: Outgoing,
    /// Bare IP packets for the host.
    pub to_kernel: Vec<Frame>,
    /// Bare IP packets for the host by the devices of tenants.
    pub to_device: Vec<(TenantId, Frame)>,
    /// Whole Ethernet frames whose ESP goes out in a TCP stream ([`crate::outlet`]).
    pub to_streams: Vec<Frame>,
    /// Whole Ethernet frames but for the destination's MAC address; see [`release`].
    pub held: Vec<(Waiting, Frame)>,
    /// Packets whose SA another worker owns, by that worker, in order. It takes them to [`Pipeline::resume`].
    pub handed: HandedOver,
    /// Frames to be used again: their packets were dropped and counted, or they never held one.
    pub recycled: Vec<Frame>,
}

/// A packet on its way to another worker's pipeline, and what this one knows of it.
#[derive(Debug)]
pub struct Handed {
    frame: Frame,
    about: Clear,
}

impl Handed {
    /// The frame that holds the packet.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// The frame alone, of a packet that is given up.
    pub fn into_frame(self) -> Frame {
        self.frame
    }
}

/// Packets for other workers, by worker, in order.
#[derive(Debug, Default)]
pub struct HandedOver(Vec<Vec<Handed>>);

impl HandedOver {
    fn push(&mut self, worker: u16, packet: Handed) {
        let at = usize::from(worker);
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || Vec::with_capacity(BATCH));
        }
        if let Some(packets) = self.0.get_mut(at) {
            packets.push(packet);
        }
    }

    /// How many there are.
    fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// The packets of each worker that has any, to be taken.
    pub fn each(&mut self) -> impl Iterator<Item = (u16, &mut Vec<Handed>)> {
        let workers = (0_u16..).zip(&mut self.0);
        workers.filter(|(_, packets)| !packets.is_empty())
    }
}

/// Frames to send, by port, in order.
#[derive(Debug, Default)]
pub struct Outgoing(Vec<Vec<Frame>>);

impl Outgoing {
    /// Adds one.
    #[inline]
    pub fn push(&mut self, port: PortIndex, frame: Frame) {
        self.of(port).push(frame);
    }

    /// The frames of a port, to be taken.
    #[inline]
    pub fn of(&mut self, port: PortIndex) -> &mut Vec<Frame> {
        let at = usize::from(port.0);
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || Vec::with_capacity(BATCH));
        }
        // There is one now.
        #[expect(clippy::indexing_slicing, reason = "made on the line above")]
        &mut self.0[at]
    }

    /// The ports that may have frames.
    pub fn ports(&self) -> impl Iterator<Item = PortIndex> + use<> {
        (0..self.0.len()).map(|at| PortIndex(at as u16))
    }

    /// Takes all, port by port.
    pub fn drain(&mut self) -> impl Iterator<Item = (PortIndex, Frame)> {
        let ports = self.0.iter_mut().enumerate();
        ports.flat_map(|(at, frames)| frames.drain(..).map(move |frame| (PortIndex(at as u16), frame)))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Vec::is_empty)
    }
}

/// Free frames, for what is made here: ICMP errors and fragments.
pub trait FrameSource {
    /// A frame, if there is one. What it holds does not matter.
    fn take(&mut self) -> Option<Frame>;

    /// One whose chunk has so many octets, if there is one; a lesser one if none has.
    fn take_for(&mut self, octets: usize) -> Option<Frame> {
        let _all_alike = octets;
        self.take()
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

/// Frames, and what is known of the packet in each: two lists that go in step, so that frames change hands and the
/// rest stays where it is.
#[derive(Debug)]
struct Packets<T> {
    frames: Vec<Frame>,
    about: Vec<T>,
}

impl<T> Default for Packets<T> {
    fn default() -> Self {
        Self { frames: Vec::with_capacity(BATCH), about: Vec::with_capacity(BATCH) }
    }
}

impl<T> Packets<T> {
    #[inline(always)]
    fn push(&mut self, frame: Frame, about: T) {
        self.frames.push(frame);
        self.about.push(about);
    }

    fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Without room for a batch: for what is rare.
    fn empty() -> Self {
        Self { frames: Vec::new(), about: Vec::new() }
    }

    fn append(&mut self, other: &mut Self) {
        self.frames.append(&mut other.frames);
        self.about.append(&mut other.about);
    }
}

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

/// Moves the first `count` frames to the end of another list.
#[inline]
fn take(from: &mut Vec<Frame>, count: usize, to: &mut Vec<Frame>) {
    if count == from.len() {
        to.append(from);
    } else {
        to.extend(from.drain(..count.min(from.len())));
    }
}

/// Those of a batch that leave by the port that the first of them leaves by: nearly always all.
#[derive(Default)]
struct Straight {
    port: PortIndex,
    packets: usize,
}

impl Straight {
    #[inline(always)]
    fn add(&mut self, port: PortIndex) {
        if self.packets == 0 {
            self.port = port;
        }
        self.packets += usize::from(self.port == port);
    }

    /// The port, if all of a batch of so many leave by it.
    fn whole(&self, batch: usize) -> Option<PortIndex> {
        (self.packets == batch).then_some(self.port)
    }
}

/// Adds up what runs of packets of one policy have come to where no SA counts them.
#[derive(Default)]
struct PolicyTally(Option<(Arc<PolicyEntry>, PolicyCounters)>);

impl PolicyTally {
    /// One that goes on in clear.
    #[cold]
    fn passed(&mut self, policy: &Arc<PolicyEntry>, octets: usize) {
        let bytes_out = octets as u64;
        self.add(policy, PolicyCounters { packets_out: 1, bytes_out, ..PolicyCounters::default() });
    }

    /// One that ends here.
    #[cold]
    fn dropped(&mut self, policy: &Arc<PolicyEntry>) {
        self.add(policy, PolicyCounters { dropped: 1, ..PolicyCounters::default() });
    }

    fn add(&mut self, policy: &Arc<PolicyEntry>, counts: PolicyCounters) {
        match &mut self.0 {
            Some((last, sum)) if Arc::ptr_eq(last, policy) => *sum = sum.plus(counts),
            _ => {
                self.flush();
                self.0 = Some((Arc::clone(policy), counts));
            }
        }
    }

    #[inline(always)]
    fn flush(&mut self) {
        if let Some((policy, counts)) = self.0.take() {
            policy.count(&counts);
        }
    }
}

/// Adds up what runs of packets of one SA have carried, so that its counters are touched once per run.
struct Tally<'a> {
    events: &'a EventBoard,
    run: Option<(&'a Traffic, &'a Limits, u64, u64)>,
}

impl<'a> Tally<'a> {
    fn new(events: &'a EventBoard) -> Self {
        Self { events, run: None }
    }

    #[inline(always)]
    fn count(&mut self, traffic: &'a Traffic, limits: &'a Limits, octets: usize, now: Coarse) {
        match &mut self.run {
            Some((current, _, packets, bytes)) if ptr::eq(*current, traffic) => {
                *packets += 1;
                *bytes += octets as u64;
            }
            _ => {
                self.flush(now);
                self.run = Some((traffic, limits, 1, octets as u64));
            }
        }
    }

    #[inline(never)]
    fn flush(&mut self, now: Coarse) {
        if let Some((traffic, limits, packets, bytes)) = self.run.take() {
            self.events.milestones(traffic.count(limits, packets, bytes, now));
        }
    }
}
