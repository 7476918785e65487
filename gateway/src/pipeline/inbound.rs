//! From ESP to the packets in it (RFC 4303 §3.4, RFC 4301 §5.2).
//!
//! Frames stay where they are until the last step: every packet's SA is found and its replay window asked; all go through
//! the engine together; the authentic ones of a run of one SA enter its window together; then each is unpacked and goes
//! on, or ends.

use std::ptr;

use arrayvec::ArrayVec;
use portcullis_aead as aead;

use super::{BATCH, Clear, Context, MAX_TUNNELS, Origin, Packets, Tally, ingress};
use crate::drop::{DropReason, WorkerCounters};
use crate::esp::{self, AeadParameters, EspPacket};
use crate::frame::Frame;
use crate::sa::Inbound;
use crate::wire::{FlowKey, L3Info};

/// An ESP packet for us, whose frame holds it from its outer IP header on.
#[derive(Debug)]
pub(super) struct Arrival {
    /// Its outer headers.
    pub(super) outer: EspPacket,
    /// How many tunnels of ours it has come out of.
    pub(super) depth: u8,
}

/// An arrival whose SA was found.
struct Opening<'a> {
    sa: &'a Inbound,
    /// The sequence number that the SA takes it to have.
    sequence: u64,
    /// Whether it may go on; first by its ICV, then by the replay window as well.
    verdict: Result<(), DropReason>,
}

type Openings<'a> = ArrayVec<Result<Opening<'a>, DropReason>, BATCH>;

/// Opens up to a batch of `arrivals` and puts what is in them into `clear`.
pub(super) fn open<'a>(
    context: &mut Context<'a>,
    arrivals: &mut Packets<Arrival>,
    clear: &mut Packets<Clear>,
) {
    let batch = arrivals.frames.len().min(BATCH);
    let mut openings = authenticate(context, arrivals);
    accept(context, arrivals, &mut openings);
    let mut tally = Tally::default();
    let about = arrivals.about.drain(..batch);
    for ((mut frame, Arrival { outer, depth }), opening) in
        arrivals.frames.drain(..batch).zip(about).zip(openings)
    {
        let opened = opening.and_then(|opening| {
            opening.verdict?;
            deliver(opening.sa, &outer, &mut frame).map(|inner| (opening.sa, inner))
        });
        match opened {
            Ok((sa, (flow, info))) => {
                tally.count(sa.traffic(), info.total_len, context.now);
                sort(context, frame, sa, depth + 1, flow, info, clear);
            }
            Err(reason) => context.drop(frame, reason),
        }
    }
    tally.flush(context.now);
}

/// Finds the SAs and opens all in one call. Of each packet says whether its ICV was right.
fn authenticate<'a>(context: &mut Context<'a>, arrivals: &mut Packets<Arrival>) -> Openings<'a> {
    let mut openings = Openings::new();
    let mut batch = ArrayVec::<aead::Packet<'_>, BATCH>::new();
    for (frame, arrival) in arrivals.frames.iter_mut().zip(&arrivals.about).take(BATCH) {
        openings.push(find(context, frame, &arrival.outer).map(|(sa, sequence, parameters)| {
            batch.push(parameters.packet(sa.key(), frame));
            Opening { sa, sequence, verdict: Ok(()) }
        }));
    }
    if !batch.is_empty() {
        context.shared.sas.engine().open(&mut batch);
    }
    let found = openings.iter_mut().filter_map(|opening| opening.as_mut().ok());
    for (opening, packet) in found.zip(&batch) {
        if !packet.authentic {
            opening.verdict = Err(forged(opening));
        }
    }
    openings
}

/// The SA, and the sequence number that it takes the packet to have. Nothing has been proved yet, and nothing
/// changes.
#[inline]
fn find<'a>(
    context: &Context<'a>,
    frame: &mut Frame,
    outer: &EspPacket,
) -> Result<(&'a Inbound, u64, AeadParameters), DropReason> {
    let sa = context.shared.sas.inbound(&context.guard, outer.spi).ok_or(DropReason::UnknownSpi)?;
    if !sa.endpoints.admit(&outer.flow, outer.is_udp()) {
        return Err(DropReason::EncapsulationMismatch);
    }
    let sequence = sa.replay().infer(outer.sequence_low, sa.esn);
    sa.replay().check(sequence)?;
    if !frame.truncate(outer.end()) {
        return Err(DropReason::EspTruncated);
    }
    Ok((sa, sequence, outer.parameters(sa.salt(), sequence, sa.esn)))
}

/// Why the ICV was wrong, as far as can be known.
#[cold]
fn forged(opening: &Opening<'_>) -> DropReason {
    // With ESN, a number left of the window was taken for one of the next epoch (RFC 4303 Appendix A2.2).
    let implausible = opening.sequence.saturating_sub(opening.sa.replay().highest()) > 1 << 31;
    if implausible { DropReason::ReplayTooOld } else { DropReason::IntegrityFailed }
}

/// Enters the authentic packets into their replay windows, run by run, and reports a peer that has moved.
fn accept(context: &mut Context<'_>, arrivals: &Packets<Arrival>, openings: &mut Openings<'_>) {
    let mut opened = 0;
    let mut rest = openings.as_mut_slice();
    let mut first = 0;
    while let Some(sa) = rest.iter().find_map(|opening| opening.as_ref().ok()).map(|opening| opening.sa) {
        // Those that failed before do not part a run.
        let len = rest.iter().take_while(|opening| match opening {
            Ok(opening) => ptr::eq(opening.sa, sa),
            Err(_) => true,
        });
        let len = len.count();
        let Some((run, others)) = rest.split_at_mut_checked(len) else { return };
        let authentic = |opening: &&mut Opening<'_>| opening.verdict.is_ok();
        let numbers: ArrayVec<u64, BATCH> =
            run.iter_mut().flatten().filter(authentic).map(|opening| opening.sequence).collect();
        let mut entered = run.iter_mut().flatten().filter(authentic);
        sa.replay().accept_run(&numbers, |_, verdict| {
            opened += u64::from(verdict.is_ok());
            if let Some(opening) = entered.next() {
                opening.verdict = verdict;
            }
        });
        report_move(context, sa, run, arrivals.about.get(first..).unwrap_or_default());
        (rest, first) = (others, first + len);
    }
    WorkerCounters::add(&context.counters.opened, opened);
}

/// Only the newest packet tells where the peer is now (RFC 7296 §2.23).
fn report_move(
    context: &Context<'_>,
    sa: &Inbound,
    run: &[Result<Opening<'_>, DropReason>],
    arrivals: &[Arrival],
) {
    let highest = sa.replay().highest();
    let newest = run.iter().zip(arrivals).rev().find(|(opening, _)| {
        opening.as_ref().is_ok_and(|opening| opening.verdict.is_ok() && opening.sequence == highest)
    });
    if let Some((_, Arrival { outer, .. })) = newest
        && outer.moved_from(&sa.endpoints.get())
    {
        context.shared.events.peer_moved(sa, outer.endpoints());
    }
}

/// Takes the tunnel off an accepted packet, if what is in it is what the SA is for.
#[inline]
fn deliver(sa: &Inbound, outer: &EspPacket, frame: &mut Frame) -> Result<(FlowKey, L3Info), DropReason> {
    let (flow, info) = esp::decapsulate(frame, outer)?;
    if !sa.permits(&flow) {
        return Err(DropReason::SelectorMismatch);
    }
    Ok((flow, info))
}

/// Sends the packet on to policy, or back to the start if it is ESP for us once more.
#[inline]
fn sort(
    context: &mut Context<'_>,
    frame: Frame,
    sa: &Inbound,
    depth: u8,
    flow: FlowKey,
    info: L3Info,
    clear: &mut Packets<Clear>,
) {
    if ingress::is_esp_for_us(context, &flow) {
        return again(context, frame, depth, &flow, &info);
    }
    let about = Clear::new(context, Origin::Tunnel { depth }, sa.tenant, flow, info);
    clear.push(frame, about);
}

#[cold]
fn again(context: &mut Context<'_>, frame: Frame, depth: u8, flow: &FlowKey, info: &L3Info) {
    if depth >= MAX_TUNNELS {
        return context.drop(frame, DropReason::Loop);
    }
    match esp::parse(frame.packet(), flow, info, context.shared.nat_port) {
        Ok(outer) => context.again.esp.push(frame, Arrival { outer, depth }),
        Err(reason) => context.drop(frame, reason),
    }
}
