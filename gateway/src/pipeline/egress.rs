//! The last step: next hop and Ethernet header, or the host.

use super::{Clear, Context, Origin, Output, Waiting, trouble};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::route::{NextHop, PortIndex};
use crate::wire::{
    ETHERNET_HEADER_LEN, EtherType, Ethernet, FlowKey, L3Info, Mac, decrement_ttl, decrement_ttl_v4,
};

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

/// The addresses of an Ethernet header to that next hop, as far as they are known: destination, source.
pub(super) fn addresses(context: &Context<'_>, hop: &NextHop) -> (Mac, Mac) {
    match *hop {
        NextHop::Port { src_mac, dst_mac, .. } => (dst_mac, src_mac),
        NextHop::Unresolved { port, .. } => {
            (UNKNOWN_MAC, context.routes.port(port).map_or(UNKNOWN_MAC, |port| port.mac))
        }
        NextHop::Local | NextHop::Kernel | NextHop::LinkDown | NextHop::None => (UNKNOWN_MAC, UNKNOWN_MAC),
    }
}

/// Sends a whole IP packet to its next hop.
pub(super) fn send(context: &mut Context<'_>, mut frame: Frame, hop: NextHop) {
    let (dst, src) = addresses(context, &hop);
    if prepend_header(&mut frame, dst, src) {
        transmit(context, frame, &hop);
    } else {
        context.drop(frame, DropReason::NoHeadroom);
    }
}

/// Sends a whole Ethernet frame to its next hop.
pub(super) fn transmit(context: &mut Context<'_>, frame: Frame, hop: &NextHop) {
    match *hop {
        NextHop::Port { port, .. } => context.out.transmit.push(port, frame),
        NextHop::Unresolved { port, ifindex, gateway, .. } => {
            context.out.held.push((Waiting { port, ifindex, gateway }, frame));
        }
        NextHop::Local | NextHop::Kernel => context.drop(frame, DropReason::NoEgress),
        NextHop::LinkDown => context.drop(frame, DropReason::LinkDown),
        NextHop::None => context.drop(frame, DropReason::NoRoute),
    }
}

/// Where a packet may go in clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// To the host or to an inside network, which is not across the IPsec boundary (RFC 4301 §3.1); else it is dropped
    /// for this reason. It came out of a tunnel, or was bypassed on its way in, and no policy takes it further.
    Inside(DropReason),
    /// By any interface: policy bypasses it.
    Anywhere,
}

/// A known neighbour, and all that sending to it takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    port: PortIndex,
    src: Mac,
    dst: Mac,
    /// Octets of the largest IP packet.
    mtu: usize,
}

/// The neighbour to which packets of a flow may go on in clear; `None` if there is more to it than that: see
/// [`send_clear`].
#[inline(always)]
pub(super) fn find_link(context: &mut Context<'_>, flow: &FlowKey, reach: Reach) -> Option<Link> {
    let hop = context.hops.resolve(flow.dst_bits(), flow.is_ipv6());
    let NextHop::Port { port, src_mac, dst_mac, mtu } = *hop else { return None };
    let may = reach == Reach::Anywhere || is_inside(context, port);
    may.then_some(Link { port, src: src_mac, dst: dst_mac, mtu: mtu as usize })
}

/// Makes a packet that a router sends on ready for a neighbour, and says by which port it leaves; `None`, and nothing
/// done, if there is more to it than that. `counts_down` where it is for us to count its TTL down.
#[inline(always)]
pub(super) fn prepare(frame: &mut Frame, info: L3Info, counts_down: bool, link: &Link) -> Option<PortIndex> {
    let expires = counts_down && info.ttl() <= 1;
    if expires || info.total_len() > link.mtu || frame.headroom() < ETHERNET_HEADER_LEN {
        return None;
    }
    if counts_down {
        decrement_ttl(frame.packet_mut());
    }
    prepend_header(frame, link.dst, link.src).then_some(link.port)
}

/// The same for IPv4 packets that have a TTL, and are not too big.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlainLink {
    port: PortIndex,
    mtu: usize,
    header: [u8; ETHERNET_HEADER_LEN],
}

impl PlainLink {
    pub(super) fn new(&Link { port, src, dst, mtu }: &Link) -> Self {
        Self { port, mtu, header: Ethernet::write(dst, src, EtherType::Ipv4) }
    }

    /// Octets of the largest IP packet.
    #[inline(always)]
    pub(super) fn mtu(&self) -> usize {
        self.mtu
    }

    /// The port by which packets leave.
    pub(super) fn port(&self) -> PortIndex {
        self.port
    }

    /// Makes a packet ready, its TTL counted down; false, and nothing done, if there is no room for a header.
    #[inline(always)]
    pub(super) fn prepare(&self, frame: &mut Frame) -> bool {
        let Some((header, packet)) = frame.wrap(ETHERNET_HEADER_LEN, 0) else { return false };
        *header = self.header;
        packet.first_chunk_mut().is_some_and(|header| {
            decrement_ttl_v4(header);
            true
        })
    }
}

/// Sends a packet in clear, as far as it may go.
#[cold]
pub(super) fn send_clear(context: &mut Context<'_>, mut frame: Frame, about: &Clear, reach: Reach) {
    let hop = *context.hops.resolve(about.flow.dst_bits(), about.flow.is_ipv6());
    let (port, mtu) = match hop {
        // The host gave it to us: it would only come back.
        NextHop::Local | NextHop::Kernel if about.origin == Origin::Kernel => {
            return context.drop(frame, DropReason::NoEgress);
        }
        NextHop::Local | NextHop::Kernel => return context.out.to_kernel.push(frame),
        NextHop::Port { port, mtu, .. } | NextHop::Unresolved { port, mtu, .. } => (port, mtu as usize),
        NextHop::LinkDown => return context.drop(frame, DropReason::LinkDown),
        NextHop::None => return context.drop(frame, DropReason::NoRoute),
    };
    if let Reach::Inside(reason) = reach
        && !is_inside(context, port)
    {
        return context.drop(frame, reason);
    }
    if about.expires() {
        return trouble::expired(context, frame, about);
    }
    if about.info.total_len() > mtu {
        return trouble::too_big_for_link(context, frame, about, mtu, hop);
    }
    if about.counts_down() {
        decrement_ttl(frame.packet_mut());
    }
    send(context, frame, hop);
}

/// Whether packets of a flow would leave by an interface that is outside alone.
pub(super) fn leads_outside(context: &mut Context<'_>, flow: &FlowKey) -> bool {
    match *context.hops.resolve(flow.dst_bits(), flow.is_ipv6()) {
        NextHop::Port { port, .. } | NextHop::Unresolved { port, .. } => !is_inside(context, port),
        NextHop::Local | NextHop::Kernel | NextHop::LinkDown | NextHop::None => false,
    }
}

/// Completes a held frame now that its neighbour has answered, and puts it out to be sent.
pub fn release(waiting: &Waiting, mac: Mac, mut frame: Frame, out: &mut Output) {
    if let Some(dst) = frame.packet_mut().first_chunk_mut() {
        *dst = mac;
    }
    out.transmit.push(waiting.port, frame);
}

#[inline]
fn is_inside(context: &Context<'_>, port: PortIndex) -> bool {
    context.routes.port(port).is_some_and(|port| port.role.is_inside())
}

/// Puts an Ethernet header in front of an IP packet, or says that there is no room.
#[inline(always)]
pub(super) fn prepend_header(frame: &mut Frame, dst: Mac, src: Mac) -> bool {
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
