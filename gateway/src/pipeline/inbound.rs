//! From ESP to the packets in it (RFC 4303 §3.4, RFC 4301 §5.2).
//!
//! Frames stay where they are until the last step: the SA of every [train](super::train) is found, and its replay window
//! asked about every packet; all go through the engine together; the authentic ones of a run of one SA enter its window
//! together; then each is unpacked and goes on, or ends. One of a flow that the worker remembers, permitted by this SA and
//! covered by no policy, goes straight to its next hop; and so do those behind it in its train whose inner headers are like
//! its own.

use std::iter;
use std::ptr;

use arrayvec::ArrayVec;
use portcullis_aead as aead;

use super::train::{self, Train, take};
use super::{BATCH, Clear, Context, MAX_TUNNELS, Packets, deliver, police};
use crate::drop::{DropReason, WorkerCounters};
use crate::esp::{self, EspPacket, Opening, Own};
use crate::frame::Frame;
use crate::route::PortIndex;
use crate::sa::endpoints::Way;
use crate::sa::table::Handle;
use crate::sa::{Inbound, SaTable};
use crate::wire::{self, FlowKey, L3Info};

/// An ESP packet for us, whose frame holds it from its outer IP header on.
#[derive(Debug)]
pub(super) struct Arrival {
    /// Its outer headers; of a train, the first packet's.
    pub(super) outer: EspPacket,
    /// Where its SA would be.
    pub(super) place: Handle,
    /// How many tunnels of ours it has come out of.
    pub(super) depth: u8,
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

    /// The least octets of the packets in a train that begins with it, if that can have several.
    #[inline(always)]
    pub(super) fn least_of_train(&self) -> Option<usize> {
        self.outer.least_of_train()
    }

    /// The outer headers of the packet in that frame, one of a train that has so many.
    #[inline(always)]
    pub(super) fn outer_of(&self, frame: &Frame, packets: usize) -> EspPacket {
        self.outer.with(self.outer.own_of(frame, packets))
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

/// What is known of the arrivals of a batch, list by list.
struct Openings<'a> {
    /// By train: its SA.
    sas: ArrayVec<Option<&'a Inbound>, BATCH>,
    /// By packet: the sequence number that its SA takes it to have, and how far it has come.
    sequences: [u64; BATCH],
    verdicts: [Verdict; BATCH],
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
    let (trains, batch) = arrivals.batch();
    let Packets { frames, trains: all } = arrivals;
    let of_batch = all.get(..trains).unwrap_or_default();
    let mut openings =
        Openings { sas: ArrayVec::new(), sequences: [0; BATCH], verdicts: [Verdict::Good; BATCH] };
    find(context, of_batch, &mut openings);
    authenticate(context, of_batch, frames, &mut openings);
    accept(context, of_batch, frames, &mut openings);
    let straight = deliver::unpack(context, of_batch, frames, (&openings.sas, &mut openings.verdicts), clear);
    if let Some(port) = straight.whole(batch) {
        take(frames, batch, context.out.transmit.of(port));
    } else {
        let mut packets = frames.drain(..batch).zip(&openings.verdicts);
        for train in of_batch {
            for (frame, verdict) in packets.by_ref().take(train.packets) {
                match *verdict {
                    Verdict::Good => clear.frames.push(frame),
                    Verdict::Send(port) => context.out.transmit.push(port, frame),
                    Verdict::Again => again(context, frame, train.about.depth + 1),
                    Verdict::Dropped(reason) => context.drop(frame, reason),
                }
            }
        }
    }
    all.drain(..trains);
}

/// Finds the SAs.
#[inline(always)]
fn find<'a>(context: &Context<'a>, trains: &[Train<Arrival>], openings: &mut Openings<'a>) {
    let mut last = None;
    for Train { about: Arrival { place, outer, .. }, .. } in trains {
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
fn authenticate<'a>(
    context: &Context<'a>,
    trains: &[Train<Arrival>],
    frames: &mut [Frame],
    openings: &mut Openings<'a>,
) {
    let Openings { sas, sequences, verdicts } = openings;
    let mut batch = ArrayVec::<aead::Packet<'_>, BATCH>::new();
    let mut run: Option<(&Inbound, Way)> = None;
    let mut left = sequences.as_mut_slice();
    for ((arrival, frames, verdicts), sa) in train::each(trains, frames, &mut *verdicts).zip(&*sas) {
        let packets = frames.len();
        let sequences = left.split_off_mut(..packets).unwrap_or_default();
        let Some(sa) = *sa else {
            let outer = &arrival.outer;
            for verdict in verdicts {
                context.shared.events.unknown_spi(context.now, outer.spi, outer.endpoints());
                *verdict = Verdict::Dropped(DropReason::UnknownSpi);
            }
            continue;
        };
        let way = match run {
            Some((before, way)) if ptr::eq(before, sa) => way,
            _ => sa.endpoints.way(),
        };
        run = Some((sa, way));
        if !way.admits(&arrival.outer.flow, arrival.outer.is_udp()) {
            verdicts.fill(Verdict::Dropped(DropReason::EncapsulationMismatch));
            continue;
        }
        let opening = Opening::new(&arrival.outer, sa.algorithm(), sa.salt(), sa.esn);
        for ((frame, sequence), verdict) in frames.iter_mut().zip(sequences).zip(verdicts) {
            let own = arrival.outer.own_of(frame, packets);
            match number(sa, &opening, own, frame) {
                Ok(number) => {
                    batch.push(opening.parameters(own, number).packet(sa.key(), frame));
                    *sequence = number;
                }
                Err(reason) => *verdict = Verdict::Dropped(reason),
            }
        }
    }
    if batch.is_empty() {
        return;
    }
    context.shared.sas.engine().open(&mut batch);
    if !batch.iter().all(|packet| packet.authentic) {
        let packets = trains.iter().zip(&*sas).flat_map(|(train, sa)| iter::repeat_n(*sa, train.packets));
        let opened = verdicts.iter_mut().zip(packets).zip(&*sequences);
        let opened = opened.filter(|((verdict, _), _)| **verdict == Verdict::Good);
        for (packet, ((verdict, sa), sequence)) in batch.iter().zip(opened) {
            if !packet.authentic {
                *verdict = Verdict::Dropped(sa.map_or(DropReason::UnknownSpi, |sa| forged(sa, *sequence)));
            }
        }
    }
}

/// The sequence number that the SA takes a packet to have that is worth opening. Nothing has been proved yet, and nothing
/// changes.
#[inline(always)]
fn number(sa: &Inbound, opening: &Opening, own: Own, frame: &mut Frame) -> Result<u64, DropReason> {
    if !opening.suits(own) || !frame.truncate(own.end.into()) {
        return Err(DropReason::EspTruncated);
    }
    let sequence = sa.replay().infer(own.sequence_low, sa.esn);
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
fn accept(
    context: &Context<'_>,
    trains: &[Train<Arrival>],
    frames: &mut [Frame],
    openings: &mut Openings<'_>,
) {
    let Openings { sas, sequences, verdicts } = openings;
    let (mut trains, mut frames) = (trains, frames);
    let (mut sequences, mut verdicts) = (sequences.as_slice(), verdicts.as_mut_slice());
    let mut opened = 0;
    let same = |a: &Option<&Inbound>, b: &Option<&Inbound>| match (a, b) {
        (Some(a), Some(b)) => ptr::eq::<Inbound>(*a, *b),
        _ => false,
    };
    for run in sas.chunk_by(same) {
        let Some(trains) = trains.split_off(..run.len()) else { break };
        let packets = trains.iter().map(|train| train.packets).sum::<usize>();
        let (Some(&sa), Some(sequences), Some(verdicts), Some(frames)) = (
            run.first(),
            sequences.split_off(..packets),
            verdicts.split_off_mut(..packets),
            frames.split_off_mut(..packets),
        ) else {
            break;
        };
        let Some(sa) = sa else { continue };
        opened += if verdicts.iter().all(|verdict| *verdict == Verdict::Good) {
            accept_run(sa, sequences, verdicts)
        } else {
            accept_some(sa, sequences, verdicts)
        };
        report_move(context, sa, sequences, verdicts, trains);
        if let Some(limiter) = sa.limiter() {
            let packets = train::each(trains, frames, verdicts).flat_map(|(arrival, frames, verdicts)| {
                let packets = frames.len();
                let outer = move |frame| arrival.outer_of(frame, packets);
                frames.iter().zip(verdicts).map(move |(frame, verdict)| (frame, outer(frame), verdict))
            });
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
    trains: &[Train<Arrival>],
) {
    let highest = sa.replay().highest();
    let mut packets = sequences.iter().zip(verdicts);
    let is_newest = |(sequence, verdict): (&u64, &Verdict)| *sequence == highest && *verdict == Verdict::Good;
    let Some(newest) = packets.rposition(is_newest) else { return };
    let mut behind = 0;
    let newest = trains.iter().find(|train| {
        behind += train.packets;
        newest < behind
    });
    if let Some(Train { about: Arrival { outer, .. }, .. }) = newest
        && outer.moved_from(&sa.endpoints.get())
    {
        context.shared.events.peer_moved(sa, outer.endpoints());
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
    let sequence = sa.replay().infer(outer.sequence_low(), sa.esn);
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
