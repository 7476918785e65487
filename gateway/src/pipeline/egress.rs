//! The last step: next hop and Ethernet header, or the host.

use super::{Clear, Context, Origin, Output, Waiting, trouble};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::route::{NextHop, PortIndex, Role};
use crate::wire::{ETHERNET_HEADER_LEN, EtherType, Ethernet, Mac, decrement_ttl};

/// The destination of a frame whose neighbour has not answered yet.
const UNKNOWN_MAC: Mac = [0; 6];

/// The MTU of the link that the next hop is on, octets, if a worker can send there; else why not.
pub(super) fn mtu(hop: &NextHop) -> Result<usize, DropReason> {
    match *hop {
        NextHop::Port { mtu, .. } | NextHop::Unresolved { mtu, .. } => Ok(mtu as usize),
        NextHop::Local | NextHop::Kernel => Err(DropReason::NoEgress),
        NextHop::LinkDown => Err(DropReason::LinkDown),
        NextHop::None => Err(DropReason::NoRoute),
    }
}

/// Sends a whole IP packet to its next hop.
pub(super) fn send(context: &mut Context<'_>, mut frame: Frame, hop: NextHop) {
    match hop {
        NextHop::Port { port, src_mac, dst_mac, .. } => {
            if prepend_header(&mut frame, dst_mac, src_mac) {
                context.out.transmit.push((port, frame));
            } else {
                context.drop(frame, DropReason::NoHeadroom);
            }
        }
        NextHop::Unresolved { port, ifindex, gateway, .. } => {
            let src_mac = context.routes.port(port).map_or(UNKNOWN_MAC, |port| port.mac);
            if prepend_header(&mut frame, UNKNOWN_MAC, src_mac) {
                context.out.held.push((Waiting { port, ifindex, gateway }, frame));
            } else {
                context.drop(frame, DropReason::NoHeadroom);
            }
        }
        NextHop::Local | NextHop::Kernel => context.drop(frame, DropReason::NoEgress),
        NextHop::LinkDown => context.drop(frame, DropReason::LinkDown),
        NextHop::None => context.drop(frame, DropReason::NoRoute),
    }
}

/// Where a packet may go in clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// To the host or to an inside network: it came out of a tunnel, and no policy says more.
    Inside,
    /// By any interface: policy bypasses it.
    Anywhere,
}

/// Sends a packet in clear, as far as it may go.
pub(super) fn send_clear(context: &mut Context<'_>, mut packet: Clear, reach: Reach) {
    let hop = context.routes.resolve(packet.flow.dst);
    let (port, mtu) = match hop {
        // The host gave it to us: it would only come back.
        NextHop::Local | NextHop::Kernel if packet.origin == Origin::Kernel => {
            return context.drop(packet.frame, DropReason::NoEgress);
        }
        NextHop::Local | NextHop::Kernel => return context.out.to_kernel.push(packet.frame),
        NextHop::Port { port, mtu, .. } | NextHop::Unresolved { port, mtu, .. } => (port, mtu as usize),
        NextHop::LinkDown => return context.drop(packet.frame, DropReason::LinkDown),
        NextHop::None => return context.drop(packet.frame, DropReason::NoRoute),
    };
    if reach == Reach::Inside && !is_inside(context, port) {
        return context.drop(packet.frame, DropReason::ClearToOutside);
    }
    if packet.expires() {
        return trouble::expired(context, packet);
    }
    if packet.info.total_len > mtu {
        return trouble::too_big_for_link(context, packet, mtu, hop);
    }
    if packet.counts_down() {
        decrement_ttl(packet.frame.packet_mut());
    }
    send(context, packet.frame, hop);
}

/// Completes a held frame now that its neighbour has answered, and puts it out to be sent.
pub fn release(waiting: &Waiting, mac: Mac, mut frame: Frame, out: &mut Output) {
    if let Some(dst) = frame.packet_mut().first_chunk_mut() {
        *dst = mac;
    }
    out.transmit.push((waiting.port, frame));
}

fn is_inside(context: &Context<'_>, port: PortIndex) -> bool {
    context.routes.port(port).is_some_and(|port| port.role == Role::Inside)
}

fn prepend_header(frame: &mut Frame, dst: Mac, src: Mac) -> bool {
    let header = Ethernet::write(dst, src, EtherType::of_packet(frame.packet()));
    let room = frame.push_front(ETHERNET_HEADER_LEN);
    match frame.packet_mut().first_chunk_mut() {
        Some(start) if room => {
            *start = header;
            true
        }
        _ => false,
    }
}
