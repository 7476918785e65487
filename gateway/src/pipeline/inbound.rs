//! From ESP to the packets in it (RFC 4303 §3.4, RFC 4301 §5.2).
//!
//! Frames stay where they are until the last step: every packet's SA is found and its replay window asked; all go through
//! the engine together; the authentic ones of a run of one SA enter its window together; then each is unpacked and goes
//! on, or ends.

use std::ptr;

use arrayvec::ArrayVec;
use portcullis_aead as aead;

use super::{BATCH, Clear, Context, MAX_TUNNELS, Origin, Packets, Tally, ingress, look_up, special, take};
use crate::drop::{DropReason, WorkerCounters};
use crate::esp::{self, EspPacket};
use crate::frame::Frame;
use crate::sa::Inbound;
use crate::sa::table::Handle;
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

/// An arrival on its way.
struct Opening<'a> {
    /// Its SA, and the sequence number that the SA takes it to have; none if it ended before.
    sa: Option<&'a Inbound>,
    sequence: u64,
    verdict: Verdict,
}

/// How far an arrival has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Worth opening; then opened; then new to the replay window; then unpacked.
    Good,
    /// Unpacked, and ESP for us once more.
    Again,
    Dropped(DropReason),
}

type Openings<'a> = ArrayVec<Opening<'a>, BATCH>;

/// Opens up to a batch of `arrivals` and puts what is in them into `clear`.
pub(super) fn open<'a>(
    context: &mut Context<'a>,
    arrivals: &mut Packets<Arrival>,
    clear: &mut Packets<Clear>,
) {
    let batch = arrivals.frames.len().min(BATCH);
    let mut openings = authenticate(context, arrivals);
    accept(context, arrivals, &mut openings);
    unpack(context, arrivals, &mut openings, clear);
    if openings.iter().all(|opening| opening.verdict == Verdict::Good) {
        take(&mut arrivals.frames, batch, &mut clear.frames);
    } else {
        for ((frame, arrival), opening) in arrivals.frames.drain(..batch).zip(&arrivals.about).zip(&openings)
        {
            match opening.verdict {
                Verdict::Good => clear.frames.push(frame),
                Verdict::Again => again(context, frame, arrival.depth + 1),
                Verdict::Dropped(reason) => context.drop(frame, reason),
            }
        }
    }
    arrivals.about.drain(..batch);
}

/// Finds the SAs and opens all in one call. Of each packet says whether its ICV was right.
fn authenticate<'a>(context: &mut Context<'a>, arrivals: &mut Packets<Arrival>) -> Openings<'a> {
    let mut openings = Openings::new();
    let mut batch = ArrayVec::<aead::Packet<'_>, BATCH>::new();
    let places = arrivals.about.iter().take(BATCH).map(|arrival| arrival.place);
    let sas = look_up(places, |place| {
        let sa = context.shared.sas.inbound_at(&context.guard, place);
        sa.inspect(|sa| sa.prefetch())
    });
    for ((frame, arrival), sa) in arrivals.frames.iter_mut().zip(&arrivals.about).zip(&sas) {
        openings.push(match find(*sa, frame, &arrival.outer) {
            Ok((sa, sequence)) => {
                let parameters = arrival.outer.parameters(sa.algorithm(), sa.salt(), sequence, sa.esn);
                batch.push(parameters.packet(sa.key(), frame));
                Opening { sa: Some(sa), sequence, verdict: Verdict::Good }
            }
            Err(reason) => Opening { sa: None, sequence: 0, verdict: Verdict::Dropped(reason) },
        });
    }
    if !batch.is_empty() {
        context.shared.sas.engine().open(&mut batch);
    }
    let mut packets = batch.iter();
    for opening in &mut openings {
        if let Some(sa) = opening.sa
            && packets.next().is_none_or(|packet| !packet.authentic)
        {
            opening.verdict = Verdict::Dropped(forged(sa, opening.sequence));
        }
    }
    openings
}

/// The SA, and the sequence number that it takes the packet to have. Nothing has been proved yet, and nothing
/// changes.
#[inline(always)]
fn find<'a>(
    sa: Option<&'a Inbound>,
    frame: &mut Frame,
    outer: &EspPacket,
) -> Result<(&'a Inbound, u64), DropReason> {
    let sa = sa.ok_or(DropReason::UnknownSpi)?;
    if !sa.endpoints.admit(&outer.flow, outer.is_udp()) {
        return Err(DropReason::EncapsulationMismatch);
    }
    if !outer.suits(sa.algorithm()) || !frame.truncate(outer.end()) {
        return Err(DropReason::EspTruncated);
    }
    let sequence = sa.replay().infer(outer.sequence_low, sa.esn);
    sa.replay().check(sequence)?;
    Ok((sa, sequence))
}

/// Why the ICV was wrong, as far as can be known.
#[cold]
fn forged(sa: &Inbound, sequence: u64) -> DropReason {
    // With ESN, a number left of the window was taken for one of the next epoch (RFC 4303 Appendix A2.2).
    let implausible = sequence.saturating_sub(sa.replay().highest()) > 1 << 31;
    if implausible { DropReason::ReplayTooOld } else { DropReason::IntegrityFailed }
}

/// Enters the authentic packets into their replay windows, run by run, and reports a peer that has moved.
fn accept(context: &Context<'_>, arrivals: &Packets<Arrival>, openings: &mut Openings<'_>) {
    let mut opened = 0;
    let same = |a: &Opening<'_>, b: &Opening<'_>| match (a.sa, b.sa) {
        (Some(a), Some(b)) => ptr::eq(a, b),
        _ => false,
    };
    let mut first = 0;
    for run in openings.chunk_by_mut(same) {
        let arrivals = arrivals.about.get(first..).unwrap_or_default();
        first += run.len();
        let Some(sa) = run.first().and_then(|opening| opening.sa) else { continue };
        let authentic = |opening: &&mut Opening<'_>| opening.verdict == Verdict::Good;
        let mut numbers = ArrayVec::<u64, BATCH>::new();
        numbers.extend(run.iter_mut().filter(authentic).map(|opening| opening.sequence));
        opened += numbers.len() as u64;
        // From the last to the first, so that those before keep their places.
        let mut refused = ArrayVec::<(usize, DropReason), BATCH>::new();
        sa.replay().accept_run(&numbers, |at, reason| refused.push((at, reason)));
        for (at, reason) in refused.into_iter().rev() {
            opened -= 1;
            if let Some(opening) = run.iter_mut().filter(authentic).nth(at) {
                opening.verdict = Verdict::Dropped(reason);
            }
        }
        report_move(context, sa, run, arrivals);
    }
    WorkerCounters::add(&context.counters.opened, opened);
}

/// Only the newest packet tells where the peer is now (RFC 7296 §2.23).
fn report_move(context: &Context<'_>, sa: &Inbound, run: &[Opening<'_>], arrivals: &[Arrival]) {
    let highest = sa.replay().highest();
    let newest = run
        .iter()
        .zip(arrivals)
        .rev()
        .find(|(opening, _)| opening.verdict == Verdict::Good && opening.sequence == highest);
    if let Some((_, Arrival { outer, .. })) = newest
        && outer.moved_from(&sa.endpoints.get())
    {
        context.shared.events.peer_moved(sa, outer.endpoints());
    }
}

/// Takes the tunnels off the accepted packets.
fn unpack(
    context: &mut Context<'_>,
    arrivals: &mut Packets<Arrival>,
    openings: &mut Openings<'_>,
    clear: &mut Packets<Clear>,
) {
    let shared = context.shared;
    let mut tally = Tally::new(&shared.events);
    for ((frame, Arrival { outer, depth, .. }), opening) in
        arrivals.frames.iter_mut().zip(&arrivals.about).zip(openings)
    {
        let (Some(sa), Verdict::Good) = (opening.sa, opening.verdict) else { continue };
        match deliver(context, sa, outer, frame) {
            Ok((flow, info)) => {
                tally.count(sa.traffic(), sa.limits(), info.total_len(), context.now);
                if ingress::is_esp_for_us(context, &flow) {
                    opening.verdict = Verdict::Again;
                } else {
                    let origin = Origin::Tunnel { depth: depth + 1 };
                    clear.about.push(Clear::new(context, origin, sa.tenant, flow, info));
                }
            }
            Err(reason) => opening.verdict = Verdict::Dropped(reason),
        }
    }
    tally.flush(context.now);
}

/// Takes the tunnel off an accepted packet, if what is in it is what the SA is for.
#[inline(always)]
fn deliver(
    context: &mut Context<'_>,
    sa: &Inbound,
    outer: &EspPacket,
    frame: &mut Frame,
) -> Result<(FlowKey, L3Info), DropReason> {
    let (flow, info) = match sa.special {
        false => esp::decapsulate(frame, outer, sa.algorithm())?,
        true => special::deliver(context, sa, outer, frame)?,
    };
    if !sa.permits(&flow) {
        return Err(DropReason::SelectorMismatch);
    }
    Ok((flow, info))
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
