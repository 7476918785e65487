//! From ESP to the packets in it (RFC 4303 §3.4, RFC 4301 §5.2).

use arrayvec::ArrayVec;
use portcullis_aead as aead;
use portcullis_ipsec::Flow;

use super::{BATCH, Clear, Context, MAX_TUNNELS, Origin, Tally, ingress};
use crate::drop::{DropReason, WorkerCounters};
use crate::esp::{self, AeadParameters, EspPacket};
use crate::frame::Frame;
use crate::sa::Inbound;
use crate::wire::L3Info;

/// An ESP packet for us.
#[derive(Debug)]
pub(super) struct Arrival {
    /// Holds the packet from its outer IP header on.
    pub(super) frame: Frame,
    /// Its outer headers.
    pub(super) outer: EspPacket,
    /// How many tunnels of ours it has come out of.
    pub(super) depth: u8,
}

/// An arrival whose SA was found.
struct Opening<'a> {
    arrival: Arrival,
    sa: &'a Inbound,
    sequence: u64,
    parameters: AeadParameters,
}

/// Opens up to a batch of `arrivals` and puts what is in them into `clear`.
pub(super) fn open<'a>(context: &mut Context<'a>, arrivals: &mut Vec<Arrival>, clear: &mut Vec<Clear>) {
    let mut openings = ArrayVec::<Opening<'a>, BATCH>::new();
    for mut arrival in arrivals.drain(..arrivals.len().min(BATCH)) {
        match find(context, &mut arrival) {
            Ok((sa, sequence, parameters)) => openings.push(Opening { arrival, sa, sequence, parameters }),
            Err(reason) => context.drop(arrival.frame, reason),
        }
    }

    let authentic = authenticate(context, &mut openings);
    let mut tally = Tally::new(&context.shared.events);
    for (opening, authentic) in openings.drain(..).zip(authentic) {
        let Opening { arrival: Arrival { mut frame, outer, depth }, sa, sequence, .. } = opening;
        match deliver(context, sa, sequence, authentic, &outer, &mut frame) {
            Ok((flow, info)) => {
                tally.count(&sa.traffic, info.total_len, context.now);
                let origin = Origin::Tunnel { depth: depth + 1 };
                sort(context, Clear { frame, origin, tenant: sa.tenant, flow, info, policy: None }, clear);
            }
            Err(reason) => context.drop(frame, reason),
        }
    }
    tally.flush(context.now);
}

/// The SA, and the sequence number that it takes the packet to have. Nothing has been proved yet, and nothing
/// changes.
fn find<'a>(
    context: &Context<'a>,
    arrival: &mut Arrival,
) -> Result<(&'a Inbound, u64, AeadParameters), DropReason> {
    let outer = &arrival.outer;
    let sa = context.shared.sas.inbound(&context.guard, outer.spi).ok_or(DropReason::UnknownSpi)?;
    if !outer.fits(&sa.endpoints.get()) {
        return Err(DropReason::EncapsulationMismatch);
    }
    let sequence = sa.replay.infer(outer.sequence_low, sa.esn);
    sa.replay.check(sequence)?;
    if !arrival.frame.truncate(outer.end()) {
        return Err(DropReason::EspTruncated);
    }
    Ok((sa, sequence, outer.parameters(sa.salt(), sequence, sa.esn)))
}

/// Opens all in one call, and says whose ICV was right.
fn authenticate(context: &Context<'_>, openings: &mut [Opening<'_>]) -> ArrayVec<bool, BATCH> {
    let mut batch = ArrayVec::<aead::Packet<'_>, BATCH>::new();
    batch.extend(
        openings
            .iter_mut()
            .map(|Opening { arrival, sa, parameters, .. }| parameters.packet(sa.key(), &mut arrival.frame)),
    );
    context.shared.sas.engine().open(&mut batch);
    batch.iter().map(|packet| packet.authentic).collect()
}

/// Takes the tunnel off a packet that the engine has opened, if that is whom it is from, what it has not seen, and
/// what the SA is for.
fn deliver(
    context: &Context<'_>,
    sa: &Inbound,
    sequence: u64,
    authentic: bool,
    outer: &EspPacket,
    frame: &mut Frame,
) -> Result<(Flow, L3Info), DropReason> {
    if !authentic {
        // With ESN, a number left of the window was taken for one of the next epoch (RFC 4303 Appendix A2.2).
        let implausible = sequence.saturating_sub(sa.replay.highest()) > 1 << 31;
        let reason = if implausible { DropReason::ReplayTooOld } else { DropReason::IntegrityFailed };
        return Err(reason);
    }
    sa.replay.accept(sequence)?;
    WorkerCounters::add(&context.counters.opened, 1);
    // Only the newest packet tells where the peer is now (RFC 7296 §2.23).
    if sequence == sa.replay.highest() && outer.moved_from(&sa.endpoints.get()) {
        context.shared.events.peer_moved(sa, outer.endpoints);
    }
    let (flow, info) = esp::decapsulate(frame, outer)?;
    if !sa.permits(&flow) {
        return Err(DropReason::SelectorMismatch);
    }
    Ok((flow, info))
}

/// Sends the packet on to policy, or back to the start if it is ESP for us once more.
fn sort(context: &mut Context<'_>, packet: Clear, clear: &mut Vec<Clear>) {
    let Origin::Tunnel { depth } = packet.origin else { return clear.push(packet) };
    if !ingress::is_esp_for_us(context, &packet.flow) {
        return clear.push(packet);
    }
    if depth >= MAX_TUNNELS {
        return context.drop(packet.frame, DropReason::Loop);
    }
    match esp::parse(packet.frame.packet(), &packet.flow, &packet.info, context.shared.nat_port) {
        Ok(outer) => context.again.esp.push(Arrival { frame: packet.frame, outer, depth }),
        Err(reason) => context.drop(packet.frame, reason),
    }
}
