//! The rules of the egress guard, in the order of the crate's documentation.

use aya_ebpf::programs::TcContext;
use portcullis_ebpf_common::address::{OUTSIDE, TUNNEL};
use portcullis_ebpf_common::{Outcome, Role};

use crate::address::Address;
use crate::ingress::Protection;
use crate::maps;
use crate::packet::{self, Malformed, Network, Packet, protocol};

/// What becomes of the frame.
#[inline(always)]
pub fn decide(ctx: &TcContext) -> Outcome {
    // SAFETY: the context that the kernel passed.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let Some(interface) = maps::interface(ifindex) else { return Outcome::OutUnguarded };
    let both = interface.role == Role::Both as u32;
    if interface.role != Role::Outside as u32 && !both {
        return Outcome::OutUnguarded;
    }
    match packet::network(ctx) {
        Network::Ipv4(start) => ip(ctx, both, packet::ipv4(ctx, start)),
        Network::Ipv6(start) => ip(ctx, both, packet::ipv6(ctx, start)),
        Network::Other => Outcome::OutUnguarded,
        Network::TooDeep => Outcome::OutMalformed,
    }
}

#[inline(always)]
fn ip<A: Address>(ctx: &TcContext, both: bool, packet: Result<Packet<A>, Malformed>) -> Outcome {
    let Ok(packet) = packet else { return Outcome::OutMalformed };
    let config = maps::config();
    let flags = packet.src.flags();
    if packet.protocol == protocol::ESP && flags & TUNNEL != 0 {
        return Outcome::OutEsp;
    }
    if flags != 0
        && let Some(udp) = packet.udp(ctx)
        && (udp.src_port == config.ike_port || udp.src_port == config.nat_t_port)
    {
        return Outcome::OutIke;
    }
    if packet.is_link_scope(ctx) {
        return Outcome::OutLinkScope;
    }
    let protection = Protection { whole: config.whole != 0 };
    if both && protection.is_inside(&packet.dst) {
        return Outcome::OutClear;
    }
    let to_remote = protection.remote(&packet.dst);
    let exempt_length = if flags & (TUNNEL | OUTSIDE) != 0 { Some(0) } else { None };
    if to_remote.is_some() && to_remote != exempt_length && protection.local(&packet.src).is_some() {
        Outcome::ClearOutbound
    } else {
        Outcome::OutClear
    }
}
