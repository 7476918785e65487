//! From ESP to the packets in it (RFC 4303 §3.4, RFC 4301 §5.2).
//!
//! Frames stay where they are until the last step: every packet's SA is found and its replay window asked; all go through
//! the engine together; the authentic ones of a run of one SA enter its window together; then each is unpacked and goes
//! on, or ends. One of a flow that the worker remembers, permitted by this SA and covered by no policy, goes straight to
//! its next hop.

use std::ptr;

use arrayvec::ArrayVec;
use portcullis_aead as aead;

use super::egress::{self, Link, Reach};
use super::{
    BATCH, Clear, Context, MAX_TUNNELS, Origin, Packets, Straight, Tally, ingress, police, special, take,
};
use crate::drop::{DropReason, WorkerCounters};
use crate::esp::{self, EspPacket};
use crate::frame::Frame;
use crate::route::PortIndex;
use crate::sa::endpoints::Way;
use crate::sa::table::Handle;
use crate::sa::{Inbound, SaTable};
use crate::wire::{self, FlowKey, L3Info};

/// An ESP packet for us, whose frame holds it from its outer IP header on.
#[derive(Debug)]
pub(super) struct Arrival {
    /// Its outer headers.
    outer: EspPacket,
    /// Where its SA would be.
    place: Handle,
    /// How many tunnels of ours it has come out of.
    depth: u8,
}

impl Arrival {
    #[inline(always)]
    pub(super) fn new(context: &Context<'_>, outer: EspPacket, depth: u8, before: Option<&Self>) -> Self {
        let place = match before {
            Some(before) if before.outer.spi == outer.spi => before.place,
            _ => {
                let place = context.shared.sas.locate(outer.spi);
                // On its way into the cache while the rest of the batch is read.
                context.shared.sas.prefetch_inbound(place);
                place
            }
        };
        Self { outer, place, depth }
    }
}

/// How far an arrival has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Worth opening; then opened; then new to the replay window, and within the rate; then unpacked, and to be asked policy about.
    Good,
    /// Unpacked, and ready to be sent by this port.
    Send(PortIndex),
    /// Unpacked, and ESP for us once more.
    Again,
    Dropped(DropReason),
}

/// What is known of the arrivals of a batch, list by list: their SAs, the sequence numbers that these take them to have,
/// and how far they have come.
#[derive(Default)]
struct Openings<'a> {
    sas: ArrayVec<Option<&'a Inbound>, BATCH>,
    sequences: ArrayVec<u64, BATCH>,
    verdicts: ArrayVec<Verdict, BATCH>,
}

/// Opens up to a batch of `arrivals` and sends what is in them on, or puts it into `clear`.
#[inline(always)]
pub(super) fn open<'a>(
    context: &mut Context<'a>,
    arrivals: &mut Packets<Arrival>,
    clear: &mut Packets<Clear>,
) {
    if arrivals.is_empty() {
        return;
    }
    let batch = arrivals.frames.len().min(BATCH);
    let mut openings = Openings::default();
    find(context, arrivals, &mut openings);
    authenticate(context, arrivals, &mut openings);
    accept(context, arrivals, &mut openings);
    let straight = unpack(context, arrivals, &mut openings, clear);
    if let Some(port) = straight.whole(batch) {
        take(&mut arrivals.frames, batch, context.out.transmit.of(port));
    } else {
        let arrived = arrivals.frames.drain(..batch).zip(&arrivals.about);
        for ((frame, arrival), verdict) in arrived.zip(&openings.verdicts) {
            match *verdict {
                Verdict::Good => clear.frames.push(frame),
                Verdict::Send(port) => context.out.transmit.push(port, frame),
                Verdict::Again => again(context, frame, arrival.depth + 1),
                Verdict::Dropped(reason) => context.drop(frame, reason),
            }
        }
    }
    arrivals.about.drain(..batch);
}

/// Finds the SAs.
#[inline(always)]
fn find<'a>(context: &Context<'a>, arrivals: &Packets<Arrival>, openings: &mut Openings<'a>) {
    let mut last = None;
    for Arrival { place, outer, .. } in arrivals.about.iter().take(BATCH) {
        let sa = match last {
            Some((before, sa)) if before == *place => sa,
            _ => {
                let sa = context.shared.sas.inbound_at(&context.guard, *place);
                sa.inspect(|sa| sa.prefetch(outer.payload()))
            }
        };
        openings.sas.push(sa);
        last = Some((*place, sa));
    }
}

/// Opens all in one call. Of each packet says whether its ICV was right.
#[inline(always)]
fn authenticate<'a>(context: &Context<'a>, arrivals: &mut Packets<Arrival>, openings: &mut Openings<'a>) {
    let Openings { sas, sequences, verdicts } = openings;
    let mut batch = ArrayVec::<aead::Packet<'_>, BATCH>::new();
    let mut run: Option<(&Inbound, Way)> = None;
    for ((frame, Arrival { outer, .. }), sa) in arrivals.frames.iter_mut().zip(&arrivals.about).zip(&*sas) {
        let way = match (run, *sa) {
            (Some((before, way)), Some(sa)) if ptr::eq(before, sa) => Some(way),
            (_, Some(sa)) => Some(sa.endpoints.way()),
            (_, None) => {
                context.shared.events.unknown_spi(context.now, outer.spi, outer.endpoints());
                None
            }
        };
        run = sa.zip(way);
        let sequence = run.ok_or(DropReason::UnknownSpi).and_then(|(sa, way)| number(sa, &way, outer, frame));
        match (sequence, *sa) {
            (Ok(sequence), Some(sa)) => {
                let parameters = outer.parameters(sa.algorithm(), sa.salt(), sequence, sa.esn);
                batch.push(parameters.packet(sa.key(), frame));
                sequences.push(sequence);
                verdicts.push(Verdict::Good);
            }
            (sequence, _) => {
                sequences.push(0);
                verdicts.push(Verdict::Dropped(sequence.err().unwrap_or(DropReason::UnknownSpi)));
            }
        }
    }
    if batch.is_empty() {
        return;
    }
    context.shared.sas.engine().open(&mut batch);
    let opened = verdicts
        .iter_mut()
        .zip(&*sas)
        .zip(&*sequences)
        .filter(|((verdict, _), _)| **verdict == Verdict::Good);
    for (packet, ((verdict, sa), sequence)) in batch.iter().zip(opened) {
        if !packet.authentic {
            *verdict = Verdict::Dropped(sa.map_or(DropReason::UnknownSpi, |sa| forged(sa, *sequence)));
        }
    }
}

/// The sequence number that the SA takes a packet to have that is worth opening. Nothing has been proved yet, and nothing
/// changes.
#[inline(always)]
fn number(sa: &Inbound, way: &Way, outer: &EspPacket, frame: &mut Frame) -> Result<u64, DropReason> {
    if !way.admits(&outer.flow, outer.is_udp()) {
        return Err(DropReason::EncapsulationMismatch);
    }
    if !outer.suits(sa.algorithm()) || !frame.truncate(outer.end()) {
        return Err(DropReason::EspTruncated);
    }
    let sequence = sa.replay().infer(outer.sequence_low, sa.esn);
    sa.replay().check(sequence)?;
    Ok(sequence)
}

/// Why the ICV was wrong, as far as can be known.
#[cold]
fn forged(sa: &Inbound, sequence: u64) -> DropReason {
    // With ESN, a number left of the window was taken for one of the next epoch (RFC 4303 Appendix A2.2).
    let implausible = sequence.saturating_sub(sa.replay().highest()) > 1 << 31;
    if implausible { DropReason::ReplayTooOld } else { DropReason::IntegrityFailed }
}

/// Enters the authentic packets into their replay windows, run by run, and reports a peer that has moved.
#[inline(always)]
fn accept(context: &Context<'_>, arrivals: &Packets<Arrival>, openings: &mut Openings<'_>) {
    let Openings { sas, sequences, verdicts } = openings;
    let mut opened = 0;
    let same = |a: &Option<&Inbound>, b: &Option<&Inbound>| match (a, b) {
        (Some(a), Some(b)) => ptr::eq::<Inbound>(*a, *b),
        _ => false,
    };
    let mut first = 0;
    for run in sas.chunk_by(same) {
        let range = first..first + run.len();
        first = range.end;
        let (Some(Some(sa)), Some(sequences), Some(verdicts), Some(frames), Some(arrivals)) = (
            run.first(),
            sequences.get(range.clone()),
            verdicts.get_mut(range.clone()),
            arrivals.frames.get(range.clone()),
            arrivals.about.get(range),
        ) else {
            continue;
        };
        opened += if verdicts.iter().all(|verdict| *verdict == Verdict::Good) {
            accept_run(sa, sequences, verdicts)
        } else {
            accept_some(sa, sequences, verdicts)
        };
        report_move(context, sa, sequences, verdicts, arrivals);
        if let Some(limiter) = sa.limiter() {
            let outer = arrivals.iter().map(|Arrival { outer, .. }| outer);
            let packets = frames.iter().zip(outer).zip(verdicts);
            let packets = packets.map(|((frame, outer), verdict)| (frame, outer, verdict));
            police::inbound(context, limiter, sa, packets);
        }
    }
    WorkerCounters::add(&context.counters.opened, opened);
}

/// Enters a run's packets into its SA's window, all of them authentic, and says how many are new to it.
#[inline]
fn accept_run(sa: &Inbound, sequences: &[u64], verdicts: &mut [Verdict]) -> u64 {
    let mut new = sequences.len() as u64;
    sa.replay().accept_run(sequences, |at, reason| {
        new -= 1;
        if let Some(verdict) = verdicts.get_mut(at) {
            *verdict = Verdict::Dropped(reason);
        }
    });
    new
}

/// The same where only some are authentic.
#[cold]
fn accept_some(sa: &Inbound, sequences: &[u64], verdicts: &mut [Verdict]) -> u64 {
    let (mut good, mut numbers) = (ArrayVec::<&mut Verdict, BATCH>::new(), ArrayVec::<u64, BATCH>::new());
    for (verdict, sequence) in
        verdicts.iter_mut().zip(sequences).filter(|(verdict, _)| **verdict == Verdict::Good)
    {
        good.push(verdict);
        numbers.push(*sequence);
    }
    let mut new = numbers.len() as u64;
    sa.replay().accept_run(&numbers, |at, reason| {
        new -= 1;
        if let Some(verdict) = good.get_mut(at) {
            **verdict = Verdict::Dropped(reason);
        }
    });
    new
}

/// Only the newest packet tells where the peer is now (RFC 7296 §2.23).
#[inline]
fn report_move(
    context: &Context<'_>,
    sa: &Inbound,
    sequences: &[u64],
    verdicts: &[Verdict],
    arrivals: &[Arrival],
) {
    let highest = sa.replay().highest();
    let mut newest_first = sequences.iter().zip(verdicts).zip(arrivals).rev();
    let newest =
        newest_first.find(|((sequence, verdict), _)| **sequence == highest && **verdict == Verdict::Good);
    if let Some((_, Arrival { outer, .. })) = newest
        && outer.moved_from(&sa.endpoints.get())
    {
        context.shared.events.peer_moved(sa, outer.endpoints());
    }
}

/// Takes the tunnels off the accepted packets.
#[inline(always)]
fn unpack(
    context: &mut Context<'_>,
    arrivals: &mut Packets<Arrival>,
    openings: &mut Openings<'_>,
    clear: &mut Packets<Clear>,
) -> Straight {
    let mut straight = Straight::default();
    let Openings { sas, verdicts, .. } = openings;
    let shared = context.shared;
    // Nothing overtakes what waits to be asked policy about; a policy that drops the way back is asked every time; and a
    // firewall sees everything.
    let direct = clear.is_empty() && !context.policies.discards_first() && !shared.firewall;
    if direct && is_mixed(sas) {
        look_ahead(context, arrivals, sas, verdicts);
    }
    let tally = Tally::new(&shared.events);
    let mut deliveries = Deliveries { tally, last: None, direct, learned: ArrayVec::new(), clear };
    for (((frame, arrival), sa), verdict) in
        arrivals.frames.iter_mut().zip(&arrivals.about).zip(&*sas).zip(verdicts)
    {
        let (Some(sa), Verdict::Good) = (sa, *verdict) else { continue };
        let plain = match sa.special {
            false => esp::decapsulate_plain(frame, &arrival.outer, sa.algorithm()),
            true => None,
        };
        *verdict = match plain {
            Some((flow, info)) => deliveries.deliver(context, sa, arrival, frame, flow, info),
            None => deliveries.deliver_any(context, sa, arrival, frame),
        };
        if let Verdict::Send(port) = *verdict {
            straight.add(port);
        }
    }
    deliveries.tally.flush(context.now);
    for (about, place) in &deliveries.learned {
        context.flows.permit(false, about.tenant, &about.flow, about.place as usize, place.to_word());
    }
    straight
}

/// Whether a batch has packets of several SAs, as far as its ends tell.
#[inline(always)]
fn is_mixed(sas: &[Option<&Inbound>]) -> bool {
    match (sas.first(), sas.last()) {
        (Some(Some(first)), Some(Some(last))) => !ptr::eq::<Inbound>(*first, *last),
        _ => false,
    }
}

/// Asks the processor for what the worker remembers of the flows that have come out of tunnels.
#[inline(never)]
fn look_ahead(
    context: &Context<'_>,
    arrivals: &Packets<Arrival>,
    sas: &[Option<&Inbound>],
    verdicts: &[Verdict],
) {
    let packets = arrivals.frames.iter().zip(&arrivals.about).zip(sas).zip(verdicts);
    for (((frame, arrival), sa), verdict) in packets {
        if let (Some(sa), Verdict::Good) = (sa, verdict)
            && let Some(flow) = arrival.outer.peek(frame, sa.algorithm())
        {
            context.flows.locate(sa.tenant, &flow);
        }
    }
}

/// What is in a copy of a packet, if it is authentic and what its SA is for. Nothing but the copy changes.
#[cold]
pub(super) fn look_into(
    sas: &SaTable,
    sa: &Inbound,
    frame: &mut Frame,
    outer: &EspPacket,
) -> Option<(FlowKey, L3Info)> {
    if !outer.suits(sa.algorithm()) || !frame.truncate(outer.end()) {
        return None;
    }
    // Of a replayed packet, too, it is worth knowing what it was.
    let sequence = sa.replay().infer(outer.sequence_low, sa.esn);
    let parameters = outer.parameters(sa.algorithm(), sa.salt(), sequence, sa.esn);
    let mut batch = [parameters.packet(sa.key(), frame)];
    sas.engine().open(&mut batch);
    let [packet] = &batch;
    if !packet.authentic {
        return None;
    }
    let unpacked = match sa.transport {
        true => esp::extract(frame, outer, sa.algorithm()),
        false => esp::decapsulate(frame, outer, sa.algorithm()),
    };
    unpacked.ok().filter(|(flow, _)| sa.permits(flow))
}

/// What a batch of packets that came out of tunnels have in common.
struct Deliveries<'a, 'c> {
    tally: Tally<'a>,
    /// The flow that the packet before belonged to, the place of its SA, and where it went. Packets of a flow often follow
    /// each other.
    last: Option<(FlowKey, Handle, Link)>,
    /// Whether flows that are known may go straight to their next hops.
    direct: bool,
    /// Packets of flows that were found to be what their SAs are for, and the places of these. They are remembered when
    /// the batch is done, so that packets of one flow all take the same way and keep their order.
    learned: ArrayVec<(Clear, Handle), BATCH>,
    clear: &'c mut Packets<Clear>,
}

impl<'a> Deliveries<'a, '_> {
    /// Of whatever packet it may be.
    #[inline(never)]
    fn deliver_any(
        &mut self,
        context: &mut Context<'_>,
        sa: &'a Inbound,
        arrival: &Arrival,
        frame: &mut Frame,
    ) -> Verdict {
        let unpacked = match sa.special {
            false => esp::decapsulate(frame, &arrival.outer, sa.algorithm()),
            true => special::deliver(context, sa, &arrival.outer, frame),
        };
        match unpacked {
            Ok((flow, info)) => self.deliver(context, sa, arrival, frame, flow, info),
            Err(reason) => Verdict::Dropped(reason),
        }
    }

    /// Sends on what came out of a tunnel, if it is what the SA is for. What no policy covers, as the worker may remember,
    /// goes straight to its next hop; everything else is asked policy about.
    #[inline(always)]
    fn deliver(
        &mut self,
        context: &mut Context<'_>,
        sa: &'a Inbound,
        arrival: &Arrival,
        frame: &mut Frame,
        flow: FlowKey,
        info: L3Info,
    ) -> Verdict {
        let link = match &self.last {
            Some((last, place, link)) if *last == flow && *place == arrival.place => Some(*link),
            _ => self.recall(context, sa, arrival, &flow),
        };
        if self.direct
            && let Some(link) = link
        {
            if let Some(port) = egress::prepare(frame, info, true, &link) {
                self.tally.count(sa.traffic(), sa.limits(), info.total_len(), context.now);
                return Verdict::Send(port);
            }
            self.direct = false;
        }
        self.deliver_slowly(context, sa, arrival, frame, flow, info)
    }

    /// Where a flow goes that is known to be what the SA is for, to be covered by no policy, and not to be ESP for us.
    #[inline(always)]
    fn recall(
        &mut self,
        context: &mut Context<'_>,
        sa: &Inbound,
        arrival: &Arrival,
        flow: &FlowKey,
    ) -> Option<Link> {
        let place = context.flows.locate(sa.tenant, flow);
        let name = arrival.place.to_word();
        if !context.flows.is_permitted(context.policies, sa.tenant, flow, place, name)
            || ingress::is_esp_for_us(context, flow)
        {
            return None;
        }
        let link = egress::find_link(context, flow, Reach::Inside(DropReason::ClearToOutside))?;
        self.last = Some((*flow, arrival.place, link));
        Some(link)
    }

    #[inline(never)]
    fn deliver_slowly(
        &mut self,
        context: &mut Context<'_>,
        sa: &'a Inbound,
        arrival: &Arrival,
        frame: &Frame,
        flow: FlowKey,
        info: L3Info,
    ) -> Verdict {
        let permitted = sa.permits(&flow);
        if !permitted && !is_about_what_we_sent(sa, frame, &flow, &info) {
            return Verdict::Dropped(DropReason::SelectorMismatch);
        }
        // What comes after it does not overtake it, of whatever flow it is: an SA's packets leave in their order.
        self.direct = false;
        self.tally.count(sa.traffic(), sa.limits(), info.total_len(), context.now);
        // Our own addresses are not those of a tenant's network.
        if !sa.tenant.is_routed() && ingress::is_esp_for_us(context, &flow) {
            return Verdict::Again;
        }
        let about = Clear::new(context, Origin::Tunnel { depth: arrival.depth + 1 }, sa.tenant, flow, info);
        // What another error of the same router says is another matter; and of a tenant everything goes to its device.
        if permitted && !sa.tenant.is_routed() {
            let _ = self.learned.try_push((about, arrival.place));
        }
        self.clear.about.push(about);
        Verdict::Good
    }
}

/// RFC 4301 §6.2: a router beyond the peer, whose address no selector names, may tell the sender of a packet what became of it,
/// if that packet's answer could have come through this SA.
#[cold]
fn is_about_what_we_sent(sa: &Inbound, frame: &Frame, flow: &FlowKey, info: &L3Info) -> bool {
    let Some(quoted) = wire::quoted(frame.packet(), flow, info) else { return false };
    quoted.src_bits() == flow.dst_bits() && sa.permits(&FlowKey::from(&quoted.flow().reversed()))
}

/// Sends what came out of a tunnel, and is ESP for us once more, back to the start.
#[cold]
fn again(context: &mut Context<'_>, frame: Frame, depth: u8) {
    if depth >= MAX_TUNNELS {
        return context.drop(frame, DropReason::Loop);
    }
    let nat_port = context.shared.nat_port;
    let outer = wire::read(frame.packet())
        .and_then(|(flow, info)| esp::parse(frame.packet(), &flow, &info, nat_port));
    match outer {
        Ok(outer) => {
            let arrival = Arrival::new(context, outer, depth, None);
            context.again.esp.push(frame, arrival);
        }
        Err(reason) => context.drop(frame, reason),
    }
}
