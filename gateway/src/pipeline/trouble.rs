//! What becomes of a packet that cannot go on as it is: too big, or its TTL ends here.

use std::net::IpAddr;

use super::fragment::{Pieces, fragment};
use super::{Clear, Context, egress, icmp};
use crate::drop::{DropReason, WorkerCounters};
use crate::route::NextHop;
use crate::wire::{self, IPV6_MIN_MTU, IcmpError, decrement_ttl};

/// Drops a packet whose TTL or hop limit ends here, and tells its sender.
pub(super) fn expired(context: &mut Context<'_>, packet: Clear) {
    icmp::report(context, &packet, IcmpError::TimeExceeded);
    context.drop(packet.frame, DropReason::TtlExpired);
}

/// Cuts a packet for which the tunnel is too narrow into pieces that pass, if its sender allows it, and sends them
/// back to be sealed by the same policy. Drops it otherwise, and tells the sender what would pass.
pub(super) fn too_big_for_tunnel(context: &mut Context<'_>, packet: Clear, limit: usize) {
    let (origin, tenant) = (packet.origin, packet.tenant);
    // The pieces may lack what the policy looks at.
    let known = context.flows.lookup(context.policies, tenant, &packet.flow).cloned();
    let policy = packet.policy.clone().or(known);
    for frame in pieces(context, packet, limit) {
        match wire::flow(frame.packet()) {
            Ok((flow, info)) => {
                context.again.clear.push(Clear { frame, origin, tenant, flow, info, policy: policy.clone() });
            }
            Err(reason) => context.drop(frame, reason),
        }
    }
}

/// The same for a link, to which the pieces go at once.
pub(super) fn too_big_for_link(context: &mut Context<'_>, packet: Clear, mtu: usize, hop: NextHop) {
    for frame in pieces(context, packet, mtu) {
        egress::send(context, frame, hop);
    }
}

/// The pieces, their TTL counted down; none if the packet had to be dropped.
fn pieces(context: &mut Context<'_>, mut packet: Clear, limit: usize) -> Pieces {
    if packet.info.dont_fragment {
        let mtu = match packet.flow.src {
            IpAddr::V4(_) => limit,
            // A smaller one would be ignored (RFC 8201 §4).
            IpAddr::V6(_) => limit.max(IPV6_MIN_MTU),
        };
        if packet.info.total_len > mtu {
            icmp::report(context, &packet, IcmpError::PacketTooBig { mtu });
        }
        context.drop(packet.frame, DropReason::TooBig);
        return Pieces::new();
    }
    if packet.counts_down() {
        decrement_ttl(packet.frame.packet_mut());
    }
    let mut pieces = Pieces::new();
    pieces.push(packet.frame);
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
