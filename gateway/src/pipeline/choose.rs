//! Asks policy where packets in clear go (RFC 4301 §5.1): what [`outbound`](super::outbound) does first.

use arrayvec::ArrayVec;
use portcullis_ipsec::PolicyAction;

use super::egress::{self, Reach};
use super::outbound::{Fate, Wanted};
use super::tally::PolicyTally;
use super::{BATCH, Clear, Context, Train, train};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::policy::{Verdict, lanes};
use crate::sa::OutboundRef;

/// More flows than these that were not remembered in one batch, and in the next they are asked for ahead.
const FEW_MISSES: u32 = 3;

/// Asks policy about every train.
#[inline(always)]
pub(super) fn choose(
    context: &mut Context<'_>,
    trains: &[Train<Clear>],
    frames: &mut [Frame],
    wanted: &mut Wanted,
    fates: &mut [Fate],
) {
    if context.flows.take_misses() > FEW_MISSES {
        look_ahead(context, trains);
    }
    if let ([first, ..], [.., last]) = (trains, trains)
        && first.about.place != last.about.place
    {
        // A batch of several flows: whose policies' handles are anywhere.
        trains.iter().for_each(|train| context.flows.prefetch_policy(train.about.place as usize));
    }
    let mut tally = PolicyTally::default();
    let firewall = context.shared.firewall;
    for (packet, frames, fates) in train::each(trains, frames, fates) {
        let mut way = decide(context, packet, frames, &mut tally);
        if firewall {
            way = through_firewall(context, packet, way);
        }
        fates.fill(match way {
            Ok(Way::Sealed { reference, permitted }) => {
                let count = frames.len() as u32;
                match wanted.last_mut() {
                    Some((last, packets, _)) if *last == reference => *packets += count,
                    _ => {
                        // On its way into the cache while the rest of the batch is decided about.
                        context.shared.sas.prefetch_outbound(reference);
                        wanted.push((reference, count, packet.info.total_len()));
                    }
                }
                Fate::Seal { run: wanted.len().wrapping_sub(1) as u8, permitted }
            }
            Ok(Way::Clear(reach)) => Fate::Clear(reach),
            Ok(Way::Kernel) => Fate::Kernel,
            Ok(Way::Trapped) => Fate::Trapped,
            Err(reason) => Fate::Dropped(reason),
        });
    }
    tally.flush();
}

/// Asks the processor for the policies of the packets whose flows are not remembered.
#[inline(never)]
fn look_ahead(context: &Context<'_>, trains: &[Train<Clear>]) {
    let packets = trains.iter().map(|train| &train.about);
    let unknown = packets.filter(|Clear { flow, place, tenant, .. }| {
        !context.flows.remembers(context.policies, *tenant, flow, *place as usize)
    });
    let wanted: ArrayVec<_, BATCH> = unknown.map(|packet| (packet.tenant, packet.flow.dst())).collect();
    context.policies.prefetch(&wanted);
}

/// Where a packet goes that was let in, and that no policy takes further.
const INSIDE: Reach = Reach::Inside(DropReason::ClearToOutside);

/// What policy says of a packet that may go on.
enum Way {
    /// Through this SA, if its selectors permit it, as may be known.
    Sealed {
        reference: OutboundRef,
        permitted: bool,
    },
    Clear(Reach),
    /// To the host.
    Kernel,
    /// None yet: an SA was asked for.
    Trapped,
}

/// Asks policy about the packets of a train.
#[inline(always)]
fn decide(
    context: &mut Context<'_>,
    packet: &Clear,
    frames: &[Frame],
    tally: &mut PolicyTally,
) -> Result<Way, DropReason> {
    let Clear { flow, place, tenant, .. } = packet;
    let admitted = packet.is_admitted();
    if admitted && context.policies.discards_first() && is_discarded_back(context, packet) {
        return Err(DropReason::Discarded);
    }
    if admitted && tenant.is_routed() {
        // What is behind this tunnel, and who else its packets may go to, the routes of its device say.
        return Ok(Way::Kernel);
    }
    let recalled = match packet.pinned {
        None => context.flows.recall(context.policies, *tenant, flow, *place as usize),
        Some(pinned) => context.again.pinned(pinned).map(|policy| (Some(policy), 0)),
    };
    let Some((Some(policy), permitted)) = recalled else {
        return if admitted { Ok(Way::Clear(INSIDE)) } else { Err(DropReason::NoPolicy) };
    };
    // What is for us is not sent on, even by a policy that covers everything.
    if admitted && context.hops.is_local(flow.dst_bits(), flow.is_ipv6()) {
        return Ok(Way::Clear(INSIDE));
    }
    // Only a policy that protects is ever given an SA.
    let outbound = match policy.lanes() {
        None => policy.outbound(),
        Some(lanes) => {
            let (who, shared) = ((context.worker, context.now), context.shared);
            lanes::of_worker(policy, lanes, who, &shared.events, |sa| {
                // The first worker that looks has it from then on, so that of two which begin together one asks.
                shared
                    .sas
                    .outbound(&context.guard, sa)
                    .is_some_and(|sa| sa.owner(context.worker) != context.worker)
            })
        }
    };
    if let Some(reference) = outbound {
        return Ok(Way::Sealed { reference, permitted: permitted == reference.to_word() });
    }
    match policy.action() {
        PolicyAction::Protect => {
            context.shared.events.acquire(policy, flow);
            // A pinned policy is known for this batch alone.
            let may_wait = policy.wants_sa() && packet.pinned.is_none();
            if may_wait { Ok(Way::Trapped) } else { Err(DropReason::NoSa) }
        }
        PolicyAction::Bypass => {
            tally.passed(policy, frames);
            Ok(Way::Clear(Reach::Anywhere))
        }
        PolicyAction::Discard if admitted => Ok(Way::Clear(Reach::Inside(DropReason::Discarded))),
        PolicyAction::Discard => Err(DropReason::Discarded),
    }
}

/// What policy lets on that came in by an outside interface goes to the kernel, and comes back from the TUN device if it is
/// for another tunnel. Where it may not go in clear stays what it was.
#[cold]
fn through_firewall(
    context: &mut Context<'_>,
    packet: &Clear,
    way: Result<Way, DropReason>,
) -> Result<Way, DropReason> {
    if !packet.is_admitted() {
        return way;
    }
    if let Ok(Way::Clear(Reach::Inside(reason))) = way
        && egress::leads_outside(context, &packet.flow)
    {
        return Err(reason);
    }
    way.map(|_| Way::Kernel)
}

/// Whether a policy that goes before those that protect drops the way back of a packet that came in.
#[cold]
fn is_discarded_back(context: &Context<'_>, packet: &Clear) -> bool {
    match context.policies.lookup(packet.tenant, &packet.flow.flow().reversed()) {
        Verdict::Covered(policy) => policy.action() == PolicyAction::Discard,
        Verdict::NoMatch => false,
    }
}
