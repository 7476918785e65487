//! Reads what arrives, and tells ESP for us from packets to protect.

use arrayvec::ArrayVec;
use portcullis_ipsec::{PolicyAction, TenantId};

use super::{BATCH, Clear, Context, Ingress, Origin, Packets, inbound::Arrival, take, uniform};
use crate::drop::DropReason;
use crate::esp;
use crate::frame::Frame;
use crate::policy::Verdict;
use crate::route::{PortInfo, Role};
use crate::wire::{self, EtherType, Ethernet, FlowKey, protocol};

/// How many frames ahead of the one that is read the processor is asked for.
const AHEAD: usize = 8;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Esp,
    Clear,
    Dropped(DropReason),
}

/// Takes up to a batch of `frames` and puts each into `esp` or `clear`, or drops it. All are read before any is moved:
/// what was just written into a frame would have to be waited for.
pub(super) fn sort(
    context: &mut Context<'_>,
    ingress: Ingress,
    frames: &mut Vec<Frame>,
    esp: &mut Packets<Arrival>,
    clear: &mut Packets<Clear>,
) {
    let batch = frames.len().min(BATCH);
    let mut kinds = ArrayVec::<Kind, BATCH>::new();
    let port = match ingress {
        Ingress::Port(index) => context.routes.port(index),
        Ingress::Kernel => None,
    };
    for at in 0..batch {
        if let Some(later) = frames.get(at + AHEAD) {
            later.prefetch();
        }
        let Some(frame) = frames.get_mut(at) else { break };
        kinds.push(match (ingress, port) {
            (Ingress::Port(_), Some(port)) => from_port(context, port, frame, esp, clear),
            (Ingress::Port(_), None) => Kind::Dropped(DropReason::Unexpected),
            (Ingress::Kernel, _) => from_kernel(context, frame, clear),
        });
    }
    match uniform(&kinds) {
        Some(Kind::Clear) => take(frames, batch, &mut clear.frames),
        Some(Kind::Esp) => take(frames, batch, &mut esp.frames),
        _ => {
            for (frame, kind) in frames.drain(..batch).zip(&kinds) {
                match *kind {
                    Kind::Clear => clear.frames.push(frame),
                    Kind::Esp => esp.frames.push(frame),
                    Kind::Dropped(reason) => context.drop(frame, reason),
                }
            }
        }
    }
}

/// Reads a bare IP packet.
fn from_kernel(context: &Context<'_>, frame: &mut Frame, clear: &mut Packets<Clear>) -> Kind {
    match wire::read(frame.packet()) {
        Ok((flow, info)) if frame.truncate(info.total_len()) => {
            clear.about.push(Clear::new(context, Origin::Kernel, TenantId::default(), flow, info));
            Kind::Clear
        }
        Ok(_) => Kind::Dropped(DropReason::Malformed),
        Err(reason) => Kind::Dropped(reason),
    }
}

/// Reads an Ethernet frame, and leaves the IP packet in it.
#[inline(always)]
fn from_port(
    context: &Context<'_>,
    port: &PortInfo,
    frame: &mut Frame,
    esp: &mut Packets<Arrival>,
    clear: &mut Packets<Clear>,
) -> Kind {
    let ethernet = match Ethernet::parse(frame.packet()) {
        Ok(ethernet) => ethernet,
        Err(reason) => return Kind::Dropped(reason),
    };
    if ethernet.dst != port.mac {
        return Kind::Dropped(DropReason::OtherHost);
    }
    let l2_len = ethernet.header_len;
    let packet = frame.packet().get(l2_len..).unwrap_or_default();
    if matches!(ethernet.ether_type, EtherType::Other(_)) {
        return Kind::Dropped(DropReason::Unexpected);
    }
    let (flow, info) = match wire::read(packet) {
        Ok(read) => read,
        Err(reason) => return Kind::Dropped(reason),
    };
    if flow.is_ipv6() != (ethernet.ether_type == EtherType::Ipv6) {
        return Kind::Dropped(DropReason::Malformed);
    }
    let start = frame.start() + l2_len;
    let kind = if port.role == Role::Outside && context.policies.bypasses() && is_bypassed(context, &flow) {
        let origin = Origin::Outside { port: port.index, l2_len: l2_len as u8 };
        clear.about.push(Clear::new(context, origin, TenantId::default(), flow, info));
        Kind::Clear
    } else if port.role == Role::Outside || is_esp_for_us(context, &flow) {
        match esp::parse(packet, &flow, &info, context.shared.nat_port) {
            Ok(outer) => {
                let arrival = Arrival::new(context, outer, 0, esp.about.last());
                esp.about.push(arrival);
                Kind::Esp
            }
            // Not ESP: the XDP program lets clear text come here where a policy bypasses something between its addresses.
            Err(DropReason::Unexpected) if port.role == Role::Outside && !is_esp_for_us(context, &flow) => {
                return Kind::Dropped(DropReason::ClearInbound);
            }
            Err(reason) => return Kind::Dropped(reason),
        }
    } else {
        let origin = Origin::Port { port: port.index, l2_len: l2_len as u8 };
        clear.about.push(Clear::new(context, origin, TenantId::default(), flow, info));
        Kind::Clear
    };
    // It was read from within the frame.
    let _ = frame.set_range(start, start + info.total_len());
    kind
}

/// Whether clear text from outside is what a policy bypasses, seen from the other end (RFC 4301 §5.2). The XDP program
/// lets such packets come here by their addresses alone.
#[inline(always)]
fn is_bypassed(context: &Context<'_>, flow: &FlowKey) -> bool {
    !is_esp_for_us(context, flow) && bypasses_the_way_back(context, flow)
}

#[cold]
fn bypasses_the_way_back(context: &Context<'_>, flow: &FlowKey) -> bool {
    let back = flow.flow().reversed();
    match context.policies.lookup(TenantId::default(), &back) {
        Verdict::Covered(policy) => policy.action() == PolicyAction::Bypass,
        Verdict::NoMatch => false,
    }
}

/// Whether the packet is ESP, raw or in UDP, to one of our tunnel addresses, and not somebody else's on its way.
#[inline(always)]
pub(super) fn is_esp_for_us(context: &Context<'_>, flow: &FlowKey) -> bool {
    let is_esp = match flow.protocol() {
        protocol::ESP => true,
        protocol::UDP => flow.dst_port() == Some(context.shared.nat_port),
        _ => false,
    };
    is_esp && context.routes.is_tunnel_address(flow.dst())
}
