//! What becomes of a packet that cannot go on as it is: too big, or its TTL ends here.

use super::fragment::{Pieces, fragment};
use super::{Clear, Context, egress, icmp};
use crate::drop::{DropReason, WorkerCounters};
use crate::frame::Frame;
use crate::route::NextHop;
use crate::wire::{self, IPV6_MIN_MTU, IcmpError, decrement_ttl};

/// Drops a packet whose TTL or hop limit ends here, and tells its sender.
pub(super) fn expired(context: &mut Context<'_>, frame: Frame, about: &Clear) {
    icmp::report(context, &frame, about, IcmpError::TimeExceeded);
    context.drop(frame, DropReason::TtlExpired);
}

/// Cuts a packet for which the tunnel is too narrow into pieces that pass, if its sender allows it, and sends them
/// back to be sealed by the same policy. Drops it otherwise, and tells the sender what would pass.
pub(super) fn too_big_for_tunnel(context: &mut Context<'_>, frame: Frame, about: &Clear, limit: usize) {
    let Clear { origin, tenant, .. } = *about;
    // The pieces may lack what the policy looks at.
    let pinned = match about.pinned {
        Some(_) => about.pinned,
        None => {
            let policy = about.policy(context).cloned();
            context.again.pin(policy)
        }
    };
    for frame in pieces(context, frame, about, limit) {
        match wire::read(frame.packet()) {
            Ok((flow, info)) => {
                let piece = Clear::new(context, origin, tenant, flow, info);
                context.again.clear.push(frame, Clear { pinned, ..piece });
            }
            Err(reason) => context.drop(frame, reason),
        }
    }
}

/// The same for a link, to which the pieces go at once.
pub(super) fn too_big_for_link(
    context: &mut Context<'_>,
    frame: Frame,
    about: &Clear,
    mtu: usize,
    hop: NextHop,
) {
    for frame in pieces(context, frame, about, mtu) {
        egress::send(context, frame, hop);
    }
}

/// The pieces, their TTL counted down; none if the packet had to be dropped.
fn pieces(context: &mut Context<'_>, mut frame: Frame, about: &Clear, limit: usize) -> Pieces {
    if about.info.dont_fragment() {
        // Of IPv6, a smaller one would be ignored (RFC 8201 §4).
        let mtu = if about.flow.is_ipv6() { limit.max(IPV6_MIN_MTU) } else { limit };
        if about.info.total_len() > mtu {
            icmp::report(context, &frame, about, IcmpError::PacketTooBig { mtu });
        }
        context.drop(frame, DropReason::TooBig);
        return Pieces::new();
    }
    if about.counts_down() {
        decrement_ttl(frame.packet_mut());
    }
    let mut pieces = Pieces::new();
    pieces.push(frame);
    match fragment(&mut pieces, limit, context.spare) {
        Ok(()) => WorkerCounters::add(&context.counters.generated, pieces.len().saturating_sub(1) as u64),
        Err(reason) => {
            // One packet was dropped, whatever number of frames was to carry it.
            context.counters.count_drop(reason);
            context.out.recycled.extend(pieces.drain(..));
        }
    }
    pieces
}
