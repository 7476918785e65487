//! Holds SAs to their rates. The phases come here once for a run of packets of one SA, if it has a rate; nothing of this is
//! there for any other.

use super::outbound::{Fate, Run};
use super::special::{self, Narrow};
use super::{Clear, Context, Train, inbound, train};
use crate::drop::DropReason;
use crate::esp::EspPacket;
use crate::frame::Frame;
use crate::limiter::LimiterIndex;
use crate::sa::Inbound;

/// Ends the packets of the run of that number that are beyond its rate, before they get sequence numbers, and says how many
/// it has left. The trains are those of the batch, `count` packets of them the run's.
#[cold]
pub(super) fn outbound(
    context: &Context<'_>,
    limiter: LimiterIndex,
    (run, number): (&Run<'_>, u8),
    (trains, frames): (&[Train<Clear>], &mut [Frame]),
    fates: &mut [Fate],
    count: u32,
) -> u32 {
    let Some(buckets) = context.shared.policies.limiters().outbound(limiter) else { return count };
    let now = context.ticks();
    let mut left = count;
    let packets = train::each(trains, frames, fates).flat_map(|(about, frames, fates)| {
        frames.iter().zip(fates).map(|(frame, fate)| (about.of(frame), fate))
    });
    for (packet, fate) in packets {
        let Fate::Seal { run: own, permitted } = *fate else { continue };
        if own == number
            && (permitted || run.sa.permits(&packet.flow))
            && !packet.expires()
            && goes_whole(run, &packet)
            && !buckets.take(packet.info.total_len(), now)
        {
            *fate = Fate::Dropped(DropReason::RateOut);
            left -= 1;
        }
    }
    left
}

/// Whether it is sealed as it is: the pieces of one that is cut before come here again, each of its own.
fn goes_whole(run: &Run<'_>, packet: &Clear) -> bool {
    packet.info.total_len() <= run.limit
        || special::narrow(&run.sa.options, run.limit, packet) == Narrow::After
}

/// Ends accepted packets of a run that are beyond its rate. Their numbers are used up: they are not taken a second time.
#[cold]
pub(super) fn inbound<'p>(
    context: &Context<'_>,
    limiter: LimiterIndex,
    sa: &Inbound,
    packets: impl Iterator<Item = (&'p Frame, EspPacket, &'p mut inbound::Verdict)>,
) {
    let Some(buckets) = context.shared.policies.limiters().inbound(limiter) else { return };
    let now = context.ticks();
    for (frame, outer, verdict) in packets.filter(|(.., verdict)| **verdict == inbound::Verdict::Good) {
        // What is wrong with it is for whoever unpacks it to say.
        let octets = outer.inner_len(frame, sa.algorithm(), sa.transport);
        if octets.is_some_and(|octets| !buckets.take(octets, now)) {
            *verdict = inbound::Verdict::Dropped(DropReason::RateIn);
        }
    }
}
