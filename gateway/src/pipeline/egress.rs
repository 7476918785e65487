//! The last step: next hop and Ethernet header, or the host.

use super::{Clear, Context, Output, trouble};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::route::{NextHop, PortIndex, Role};
pub(super) use super::Waiting;
use crate::wire::{ETHERNET_HEADER_LEN, EtherType, Ethernet, Mac, decrement_ttl};

/// The destination of a frame whose neighbour has not answered yet.
pub(super) const UNKNOWN_MAC: Mac = [0; 6];

/// The MTU of the link that the next hop is on, octets, if a worker can send there; else why not.
pub(super) fn mtu(hop: &NextHop) -> Result<usize, DropReason> {
    match *hop {
        NextHop::Port { mtu, .. } | NextHop::Unresolved { mtu, .. } => Ok(mtu as usize),
        NextHop::Local | NextHop::Kernel => Err(DropReason::NoEgress),
        NextHop::LinkDown => Err(DropReason::LinkDown),
        NextHop::None => Err(DropReason::NoRoute),
    }
}

/// A port's own MAC address.
pub(super) fn mac(context: &Context<'_>, port: PortIndex) -> Mac {
    context.routes.port(port).map_or(UNKNOWN_MAC, |port| port.mac)
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
            let src_mac = mac(context, port);
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

/// Sends a packet that came out of a tunnel to the host or to an inside network, never to an outside one.
pub(super) fn send_clear(context: &mut Context<'_>, mut frame: Frame, about: &Clear, hop: NextHop) {
    let (port, mtu) = match hop {
        NextHop::Local | NextHop::Kernel => return context.out.to_kernel.push(frame),
        NextHop::Port { port, mtu, .. } | NextHop::Unresolved { port, mtu, .. } => (port, mtu as usize),
        NextHop::LinkDown => return context.drop(frame, DropReason::LinkDown),
        NextHop::None => return context.drop(frame, DropReason::NoRoute),
    };
    if !is_inside(context, port) {
        return context.drop(frame, DropReason::ClearToOutside);
    }
    if about.expires() {
        return trouble::expired(context, frame, about);
    }
    if about.info.total_len > mtu {
        return trouble::too_big_for_link(context, frame, about, mtu, hop);
    }
    decrement_ttl(frame.packet_mut());
    send(context, frame, hop);
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
