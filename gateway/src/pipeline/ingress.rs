//! Reads what arrives, and tells ESP for us from packets to protect.

use portcullis_ipsec::TenantId;

use super::{Clear, Context, Ingress, Origin, Packets, inbound::Arrival};
use crate::drop::DropReason;
use crate::esp;
use crate::frame::Frame;
use crate::route::{PortInfo, Role};
use crate::wire::{self, EtherType, Ethernet, FlowKey, L3Info, protocol};

/// How many frames ahead of the one that is read the processor is asked for.
const AHEAD: usize = 4;

/// Puts every frame into `esp` or `clear`, or drops it.
pub(super) fn sort(
    context: &mut Context<'_>,
    ingress: Ingress,
    mut frames: std::vec::Drain<'_, Frame>,
    esp: &mut Packets<Arrival>,
    clear: &mut Packets<Clear>,
) {
    frames.as_slice().iter().take(AHEAD).for_each(Frame::prefetch);
    match ingress {
        Ingress::Port(index) => {
            let port = context.routes.port(index);
            while let Some(frame) = frames.next() {
                if let Some(later) = frames.as_slice().get(AHEAD - 1) {
                    later.prefetch();
                }
                let Some(port) = port else {
                    context.drop(frame, DropReason::Unexpected);
                    continue;
                };
                from_port(context, port, frame, esp, clear);
            }
        }
        Ingress::Kernel => {
            for mut frame in frames {
                match wire::read(frame.packet()) {
                    Ok((flow, info)) if frame.truncate(info.total_len) => {
                        let about = Clear::new(context, Origin::Kernel, TenantId::default(), flow, info);
                        clear.push(frame, about);
                    }
                    Ok(_) => context.drop(frame, DropReason::Malformed),
                    Err(reason) => context.drop(frame, reason),
                }
            }
        }
    }
}

fn from_port(
    context: &mut Context<'_>,
    port: &PortInfo,
    mut frame: Frame,
    esp: &mut Packets<Arrival>,
    clear: &mut Packets<Clear>,
) {
    match read(context, port, &mut frame) {
        Ok(Read::Esp(outer)) => {
            // On its way into the cache while the rest of the batch is read.
            context.shared.sas.prefetch_inbound(outer.spi);
            esp.push(frame, Arrival { outer, depth: 0 });
        }
        Ok(Read::Clear { l2_len, flow, info }) => {
            let origin = Origin::Port { port: port.index, l2_len: l2_len as u8 };
            let about = Clear::new(context, origin, TenantId::default(), flow, info);
            clear.push(frame, about);
        }
        Err(reason) => context.drop(frame, reason),
    }
}

enum Read {
    Esp(esp::EspPacket),
    Clear { l2_len: usize, flow: FlowKey, info: L3Info },
}

/// Reads an Ethernet frame, and leaves the IP packet in it.
fn read(context: &Context<'_>, port: &PortInfo, frame: &mut Frame) -> Result<Read, DropReason> {
    let ethernet = Ethernet::parse(frame.packet())?;
    if ethernet.dst != port.mac {
        return Err(DropReason::OtherHost);
    }
    if !frame.pull_front(ethernet.header_len) {
        return Err(DropReason::Malformed);
    }
    let (flow, info) = match ethernet.ether_type {
        EtherType::Ipv4 | EtherType::Ipv6 => wire::read(frame.packet())?,
        EtherType::Other(_) => return Err(DropReason::Unexpected),
    };
    if ethernet.ether_type != EtherType::of_packet(frame.packet()) || !frame.truncate(info.total_len) {
        return Err(DropReason::Malformed);
    }
    if port.role == Role::Outside || is_esp_for_us(context, &flow) {
        let outer = esp::parse(frame.packet(), &flow, &info, context.shared.nat_port)?;
        return Ok(Read::Esp(outer));
    }
    Ok(Read::Clear { l2_len: ethernet.header_len, flow, info })
}

/// Whether the packet is ESP, raw or in UDP, to one of our tunnel addresses, and not somebody else's on its way.
#[inline]
pub(super) fn is_esp_for_us(context: &Context<'_>, flow: &FlowKey) -> bool {
    let is_esp = match flow.protocol() {
        protocol::ESP => true,
        protocol::UDP => flow.dst_port() == Some(context.shared.nat_port),
        _ => false,
    };
    is_esp && context.routes.is_tunnel_address(flow.dst())
}
