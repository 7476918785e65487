//! `bench pipeline`: nanoseconds per packet of a worker's own code between RX and TX: parse, policy, SA, sequence
//! numbers, headers and seal at one end; parse, SA, replay check, open, selectors and next hop at the other.
//!
//! Packets go from the hub's inside port to its outside port, and from there, as the same frames, through the other
//! end. Sizes are those of the inner IP packet. A batch is what one look at a ring gives, 32 packets; a sample is
//! several batches. With more than one SA, every packet belongs to another one, in random order. Of very many SAs most
//! have their first packet then, whose flow nobody remembers; `known` is the same again when all have had one.
//!
//! The yardstick is ipsec-mb's bare seal of a text of that size, in the same run, sample by sample, once with nonces
//! laid out beforehand and once with each written just before its call, as a gateway must.

mod end;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Context;
use portcullis_aead::{Algorithm, Engine, EngineKind};
use portcullis_gateway::frame::Frame;
use portcullis_gateway::route::PortIndex;
use portcullis_gateway::wire::{EtherType, Ethernet, Ipv4};

use crate::crypto::{BATCH, Batch, ipsec_mb, mixtures};
use crate::mixture::Mixture;
use crate::report::{Output, Report, Scope};
use crate::steady::{self, Times};
use end::{End, INSIDE, OUTSIDE, SOURCE, Side, destination};

const UNIT: &str = "ns_per_packet";

/// Where a packet starts in its frame: room for any encapsulation.
const START: usize = 256;
/// Octets of a frame: a UMEM's, or what the largest packet takes.
fn frame_size(sizes: &[usize]) -> usize {
    let largest = sizes.iter().max().copied().unwrap_or_default();
    (START + largest + 256).next_power_of_two()
}

/// Batches in a sample.
const BATCHES: usize = 4;

/// SAs that have all had a packet before the first hundredth of the samples is done.
const SOON_KNOWN: u32 = 1_000;

/// What to run.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    scope: Scope,
    /// Only with so many SAs
    #[arg(long)]
    sas: Option<u32>,
    /// The AEAD engine; the fastest by default
    #[arg(long)]
    engine: Option<String>,
}

/// Runs and prints it.
pub fn run(options: &Options) -> anyhow::Result<()> {
    steady::stay_on_one_core()?;
    let wanted = options.engine.as_deref();
    let kind =
        wanted.map(|name| EngineKind::from_name(name).with_context(|| format!("no engine is called {name}")));
    let engine = Engine::select(kind.transpose()?)?;
    let counts: &[u32] =
        if options.scope.quick { &[1, 1_000, 100_000] } else { &[1, 1_000, 100_000, 1_000_000] };
    let turns = if options.scope.quick { 1_000 } else { 5_000 };
    let mut report = Report::new("pipeline", options.output).with_baseline("ipsec-mb");
    for &sas in options.sas.as_ref().map_or(counts, std::slice::from_ref) {
        let mut ends = None;
        for mixture in mixtures() {
            let cases = ["encrypt", "decrypt"].map(|way| format!("{way}/{}/{sas}", mixture.name));
            if !cases.iter().any(|case| options.scope.wants(case)) {
                continue;
            }
            let ends = match &mut ends {
                Some(ends) => ends,
                none => none.insert(Ends::new(engine, sas)?),
            };
            ends.frames = Frame::leaked_side_by_side(BATCH * BATCHES, frame_size(&mixture.sizes), START);
            measure(ends, &mixture, &cases, turns, &mut report)?;
            if sas > SOON_KNOWN {
                ends.visit_all()?;
                measure(ends, &mixture, &cases.map(|case| format!("{case}/known")), turns, &mut report)?;
            }
        }
    }
    Ok(())
}

/// Both ends of all tunnels.
struct Ends {
    hub: End,
    spokes: End,
    frames: Vec<Frame>,
    /// Whose packet is next.
    order: Vec<u32>,
    next: usize,
}

impl Ends {
    fn new(engine: Engine, sas: u32) -> anyhow::Result<Self> {
        let (hub, spokes) = (End::new(Side::Hub, engine, sas)?, End::new(Side::Spokes, engine, sas)?);
        for n in 0..sas {
            hub.install_pair(n, spokes.install_spoke(n)?)?;
        }
        Ok(Self { hub, spokes, frames: Vec::new(), order: shuffled(sas), next: 0 })
    }

    /// Takes a packet through every SA.
    fn visit_all(&mut self) -> anyhow::Result<()> {
        for _ in 0..self.order.len().div_ceil(BATCH * BATCHES) {
            let mut packets = self.packets(&mut std::iter::repeat(64));
            Self::run(&mut self.hub, INSIDE, &mut packets);
            let mut packets = self.over_the_wire();
            Self::run(&mut self.spokes, OUTSIDE, &mut packets);
            self.take_back()?;
        }
        Ok(())
    }

    /// The frames that have come out at the other end, to be used again.
    fn take_back(&mut self) -> anyhow::Result<()> {
        self.hub.check()?;
        self.spokes.check()?;
        self.frames.extend(self.spokes.out.transmit.drain().map(|(_, frame)| frame));
        anyhow::ensure!(self.frames.len() == BATCH * BATCHES, "packets were lost");
        Ok(())
    }

    /// The next packets of these sizes, in batches for the hub's inside port.
    fn packets(&mut self, sizes: &mut impl Iterator<Item = usize>) -> [Vec<Frame>; BATCHES] {
        std::array::from_fn(|_| {
            let mut batch = self.frames.split_off(self.frames.len() - BATCH);
            for frame in &mut batch {
                let spoke = self.order.get(self.next).copied().unwrap_or_default();
                self.next = (self.next + 1) % self.order.len();
                fill(frame, sizes.next().unwrap_or_default(), destination(spoke));
            }
            batch
        })
    }

    /// What the hub has sealed, in batches for the other end's outside port.
    fn over_the_wire(&mut self) -> [Vec<Frame>; BATCHES] {
        let mut sealed = self.hub.out.transmit.drain().map(|(_, frame)| frame);
        std::array::from_fn(|_| {
            let mut batch: Vec<Frame> = sealed.by_ref().take(BATCH).collect();
            batch.iter_mut().for_each(address_to_spokes);
            batch
        })
    }

    /// Takes the batches through one end, and says how long that took.
    fn run(end: &mut End, port: PortIndex, batches: &mut [Vec<Frame>; BATCHES]) -> Duration {
        let start = Instant::now();
        for batch in &mut *batches {
            end.process(port, batch);
        }
        start.elapsed()
    }
}

/// An IPv4 packet with UDP in it, in an Ethernet frame to the hub.
fn fill(frame: &mut Frame, size: usize, dst: Ipv4Addr) {
    let header = Ipv4 {
        header_len: 20,
        total_len: size,
        tos: 0,
        id: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: 17,
        src: SOURCE,
        dst,
    };
    let ethernet = Ethernet::write(Side::Hub.mac(INSIDE), [2; 6], EtherType::Ipv4);
    let udp = [0x10, 0, 0x20, 0, 0, 0, 0, 0];
    let fits = frame.set_range(START, START + ethernet.len() + size);
    assert!(fits, "a frame has room for {size}");
    let headers = [ethernet.as_slice(), &header.write(&[]), &udp].concat();
    frame.packet_mut().iter_mut().zip(headers).for_each(|(to, from)| *to = from);
}

fn measure(
    ends: &mut Ends,
    mixture: &Mixture,
    cases: &[String; 2],
    turns: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut yardsticks =
        [false, true].map(|fresh| (ipsec_mb::peer(Algorithm::Aes256Gcm, &[7; 32], fresh), Times::default()));
    let mut batches = Batch::several(&mixture.sizes);
    let mut sizes = mixture.sizes.clone().into_iter().cycle();
    let clock = steady::clock_overhead();
    let (mut sealing, mut opening) = (Times::default(), Times::default());
    for _ in 0..turns {
        let mut packets = ends.packets(&mut sizes);
        let before = steady::frame();
        let time = Ends::run(&mut ends.hub, INSIDE, &mut packets).saturating_sub(clock);
        sealing.add(time, BATCH * BATCHES, (before, steady::frame()));
        let mut packets = ends.over_the_wire();
        let before = steady::frame();
        let time = Ends::run(&mut ends.spokes, OUTSIDE, &mut packets).saturating_sub(clock);
        opening.add(time, BATCH * BATCHES, (before, steady::frame()));
        ends.take_back()?;
        for (yardstick, times) in &mut yardsticks {
            let Ok(yardstick) = yardstick else { continue };
            // Untimed: what ran before left its code in the caches.
            batches.iter_mut().for_each(|batch| yardstick.seal(batch));
            let before = steady::frame();
            let start = Instant::now();
            batches.iter_mut().for_each(|batch| yardstick.seal(batch));
            let time = start.elapsed().saturating_sub(clock);
            times.add(time, BATCH * batches.len(), (before, steady::frame()));
        }
    }
    let usual = steady::usual(sealing.frames().chain(opening.frames()));
    for (case, times) in cases.iter().zip([&sealing, &opening]) {
        report.row(case, "portcullis", UNIT, &times.steady(usual));
        for (yardstick, times) in &yardsticks {
            match yardstick {
                Ok(yardstick) => report.row(case, &yardstick.name(), UNIT, &times.steady(usual)),
                Err(absent) => report.absent(case, absent.name, UNIT, &absent.why),
            }
        }
    }
    Ok(())
}

/// What the routers between both ends do.
fn address_to_spokes(frame: &mut Frame) {
    if let Some(dst) = frame.packet_mut().first_chunk_mut() {
        *dst = Side::Spokes.mac(OUTSIDE);
    }
}

/// All spokes, each once, in random order: the same one in every run.
fn shuffled(sas: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..sas).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for at in (1..order.len()).rev() {
        state = state.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
        order.swap(at, (state >> 33) as usize % (at + 1));
    }
    order
}
