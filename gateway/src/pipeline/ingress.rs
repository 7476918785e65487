//! Reads what arrives, and tells ESP for us from packets to protect.

use portcullis_ipsec::{Flow, TenantId};

use super::{Clear, Context, Ingress, Origin, inbound::Arrival};
use crate::drop::DropReason;
use crate::esp;
use crate::frame::Frame;
use crate::route::{PortInfo, Role};
use crate::wire::{self, EtherType, Ethernet, L3Info, protocol};

/// Puts every frame into `esp` or `clear`, or drops it.
pub(super) fn sort(
    context: &mut Context<'_>,
    ingress: Ingress,
    frames: impl Iterator<Item = Frame>,
    esp: &mut Vec<Arrival>,
    clear: &mut Vec<Clear>,
) {
    match ingress {
        Ingress::Port(index) => {
            let port = context.routes.port(index);
            for frame in frames {
                let Some(port) = port else {
                    context.drop(frame, DropReason::Unexpected);
                    continue;
                };
                from_port(context, port, frame, esp, clear);
            }
        }
        Ingress::Kernel => {
            for frame in frames {
                match wire::flow(frame.packet()) {
                    Ok((flow, info)) => clear.push(packet(frame, Origin::Kernel, flow, info)),
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
    esp: &mut Vec<Arrival>,
    clear: &mut Vec<Clear>,
) {
    match read(context, port, &mut frame) {
        Ok(Read::Esp(outer)) => {
            // On its way into the cache while the rest of the batch is read.
            let sas = &context.shared.sas;
            sas.prefetch_inbound(sas.locate(outer.spi));
            esp.push(Arrival { frame, outer, depth: 0 });
        }
        Ok(Read::Clear { l2_len, flow, info }) => {
            clear.push(packet(frame, Origin::Port { port: port.index, l2_len }, flow, info));
        }
        Err(reason) => context.drop(frame, reason),
    }
}

enum Read {
    Esp(esp::EspPacket),
    Clear { l2_len: usize, flow: Flow, info: L3Info },
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
        EtherType::Ipv4 | EtherType::Ipv6 => wire::flow(frame.packet())?,
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
pub(super) fn is_esp_for_us(context: &Context<'_>, flow: &Flow) -> bool {
    let is_esp = match flow.protocol {
        protocol::ESP => true,
        protocol::UDP => flow.dst_port == Some(context.shared.nat_port),
        _ => false,
    };
    is_esp && context.routes.is_tunnel_address(flow.dst)
}

fn packet(mut frame: Frame, origin: Origin, flow: Flow, info: L3Info) -> Clear {
    // The header was read from this frame, so that it is not shorter.
    let _ = frame.truncate(info.total_len);
    Clear { frame, origin, tenant: TenantId::default(), flow, info, policy: None }
}
