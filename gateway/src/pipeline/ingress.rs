//! Reads what arrives, and tells ESP for us from packets to protect.

use arrayvec::ArrayVec;
use portcullis_ipsec::{PolicyAction, TenantId};

use super::train::{AHEAD, Head, take};
use super::{BATCH, Clear, Context, Ingress, Origin, Packets, inbound::Arrival, reassembly};
use crate::drop::DropReason;
use crate::esp;
use crate::frame::Frame;
use crate::policy::Verdict;
use crate::route::{PortIndex, PortInfo, Role};
use crate::wire::{self, ETHERNET_HEADER_LEN, EtherType, Ethernet, FlowKey, L3Info, Mac, protocol};

/// What frames that follow each other hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Esp,
    Clear,
    /// A piece of an ESP packet.
    Fragment,
    Dropped(DropReason),
}

/// Takes up to a batch of `frames` and puts each into `esp` or `clear`, or drops it. All are read before any is moved:
/// what was just written into a frame would have to be waited for.
#[inline(always)]
pub(super) fn sort(
    context: &mut Context<'_>,
    ingress: Ingress,
    frames: &mut Vec<Frame>,
    esp: &mut Packets<Arrival>,
    clear: &mut Packets<Clear>,
) {
    let batch = frames.len().min(BATCH);
    let mut kinds = ArrayVec::<(Kind, usize), BATCH>::new();
    match (ingress, ingress.port().and_then(|index| context.routes.port(index))) {
        (Ingress::Port(_), Some(port)) => {
            let gate = Gate::of(port);
            let mut at = 0;
            while at < batch {
                if let Some(later) = frames.get(at + AHEAD) {
                    later.prefetch();
                }
                let Some(frame) = frames.get_mut(at) else { break };
                let (kind, head) = from_port(context, &gate, frame, esp, clear);
                let like_it =
                    head.zip(frames.get_mut(at + 1..batch)).map_or(0, |(head, frames)| match kind {
                        Kind::Clear => {
                            let packets = head.follow(frames, 0);
                            clear.lengthen(packets);
                            packets
                        }
                        Kind::Esp => match esp.last().and_then(Arrival::least_of_train) {
                            Some(least) => {
                                let packets = head.follow(frames, least);
                                esp.lengthen(packets);
                                packets
                            }
                            None => 0,
                        },
                        Kind::Fragment | Kind::Dropped(_) => 0,
                    });
                kinds.push((kind, 1 + like_it));
                at += 1 + like_it;
            }
        }
        (Ingress::Port(_), None) => kinds.push((Kind::Dropped(DropReason::Unexpected), batch)),
        (Ingress::Kernel | Ingress::Device(_), _) => {
            let tenant = ingress.tenant();
            let read = |frame| (from_kernel(context, tenant, frame, clear), 1);
            kinds.extend(frames.iter_mut().take(batch).map(read));
        }
        (Ingress::Socket, _) => {
            kinds.extend(frames.iter_mut().take(batch).map(|frame| (from_socket(context, frame, esp), 1)));
        }
    }
    let of =
        |wanted| kinds.iter().filter(|(kind, _)| *kind == wanted).map(|(_, packets)| packets).sum::<usize>();
    match batch {
        0 => {}
        all if of(Kind::Clear) == all => take(frames, batch, &mut clear.frames),
        all if of(Kind::Esp) == all => take(frames, batch, &mut esp.frames),
        _ => {
            let mut frames = frames.drain(..batch);
            for (kind, packets) in &kinds {
                for frame in frames.by_ref().take(*packets) {
                    match *kind {
                        Kind::Clear => clear.frames.push(frame),
                        Kind::Esp => esp.frames.push(frame),
                        Kind::Fragment => reassembly::take(context, frame),
                        Kind::Dropped(reason) => context.drop(frame, reason),
                    }
                }
            }
            // What fragments have completed.
            esp.append(&mut context.again.esp);
        }
    }
}

/// Reads a bare IP packet.
fn from_kernel(
    context: &Context<'_>,
    tenant: TenantId,
    frame: &mut Frame,
    clear: &mut Packets<Clear>,
) -> Kind {
    match wire::read(frame.packet()) {
        Ok((flow, info)) if frame.truncate(info.total_len()) => {
            clear.begin(Clear::new(context, Origin::Kernel, tenant, flow, info));
            Kind::Clear
        }
        Ok(_) => Kind::Dropped(DropReason::Malformed),
        Err(reason) => Kind::Dropped(reason),
    }
}

/// Reads a bare IP packet that can be nothing but ESP, in UDP or in a TCP stream. Whom a stream came to is for its SA to say: a
/// host may have sockets where no packet goes to a worker.
fn from_socket(context: &Context<'_>, frame: &mut Frame, esp: &mut Packets<Arrival>) -> Kind {
    let outer = wire::read(frame.packet()).and_then(|(flow, info)| {
        match flow.protocol() == protocol::TCP || is_esp_for_us(context, &flow) {
            true => esp::parse_from_socket(frame.packet(), &flow, &info, context.shared.nat_port),
            false => Err(DropReason::Unexpected),
        }
    });
    match outer {
        Ok(outer) => {
            let arrival = Arrival::new(context, outer, 0, esp.last());
            esp.begin(arrival);
            Kind::Esp
        }
        Err(reason) => Kind::Dropped(reason),
    }
}

/// A port as the frames of a batch are compared with it.
struct Gate {
    index: PortIndex,
    mac: Mac,
    /// Its MAC address as a number.
    address: u64,
    role: Role,
}

impl Gate {
    fn of(port: &PortInfo) -> Self {
        let [m0, m1, m2, m3, m4, m5] = port.mac;
        let address = u64::from_be_bytes([0, 0, m0, m1, m2, m3, m4, m5]);
        Self { index: port.index, mac: port.mac, address, role: port.role }
    }

    /// Whether it is the header, without a VLAN tag, of an IPv4 packet to us.
    #[inline(always)]
    fn is_plain(&self, header: &[u8; ETHERNET_HEADER_LEN]) -> bool {
        let &[d0, d1, d2, d3, d4, d5, s0, s1, _, _, _, _, high, low] = header;
        let dst = u64::from_be_bytes([d0, d1, d2, d3, d4, d5, s0, s1]) >> 16;
        (dst == self.address) & (u16::from_be_bytes([high, low]) == EtherType::Ipv4.number())
    }
}

/// Reads an Ethernet frame, and leaves the IP packet in it. Also says what those that follow are compared with, if there
/// is nothing more to it than plain headers.
#[inline(always)]
fn from_port(
    context: &Context<'_>,
    gate: &Gate,
    frame: &mut Frame,
    esp: &mut Packets<Arrival>,
    clear: &mut Packets<Clear>,
) -> (Kind, Option<Head>) {
    if let Some((header, packet)) = frame.packet().split_first_chunk()
        && gate.is_plain(header)
        && let Some((flow, info)) = wire::read_plain(packet)
    {
        let head = Head::of(frame.packet());
        return (admit(context, gate, frame, ETHERNET_HEADER_LEN, flow, info, esp, clear), head);
    }
    (from_port_at_length(context, gate, frame, esp, clear), None)
}

/// The same for whatever there is.
#[inline(never)]
fn from_port_at_length(
    context: &Context<'_>,
    gate: &Gate,
    frame: &mut Frame,
    esp: &mut Packets<Arrival>,
    clear: &mut Packets<Clear>,
) -> Kind {
    let ethernet = match Ethernet::parse(frame.packet()) {
        Ok(ethernet) => ethernet,
        Err(reason) => return Kind::Dropped(reason),
    };
    let vlan;
    let gate = match ethernet.header_len {
        ETHERNET_HEADER_LEN => gate,
        _ => match on_vlan(context, gate, &ethernet, frame) {
            Ok(on_vlan) => {
                vlan = on_vlan;
                &vlan
            }
            Err(reason) => return Kind::Dropped(reason),
        },
    };
    if ethernet.dst != gate.mac {
        return Kind::Dropped(DropReason::OtherHost);
    }
    if matches!(ethernet.ether_type, EtherType::Other(_)) {
        return Kind::Dropped(DropReason::Unexpected);
    }
    match wire::read_any(frame.packet().get(ethernet.header_len..).unwrap_or_default()) {
        Ok((flow, _)) if flow.is_ipv6() != (ethernet.ether_type == EtherType::Ipv6) => {
            Kind::Dropped(DropReason::Malformed)
        }
        Ok((flow, info)) => admit(context, gate, frame, ethernet.header_len, flow, info, esp, clear),
        Err(reason) => Kind::Dropped(reason),
    }
}

/// Whose a tagged frame is that came in by a port: as in the kernel, that VLAN device's or nobody's.
fn on_vlan(
    context: &Context<'_>,
    gate: &Gate,
    ethernet: &Ethernet,
    frame: &Frame,
) -> Result<Gate, DropReason> {
    match context.routes.receiver(gate.index, ethernet.vlan(frame.packet())) {
        Some(device) if device.up => Ok(Gate::of(device)),
        Some(_) => Err(DropReason::LinkDown),
        None => Err(DropReason::UnknownVlan),
    }
}

/// Takes note of a packet that was read behind `l2_len` octets of the frame.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one step of a loop, in two places")]
fn admit(
    context: &Context<'_>,
    gate: &Gate,
    frame: &mut Frame,
    l2_len: usize,
    flow: FlowKey,
    info: L3Info,
    esp: &mut Packets<Arrival>,
    clear: &mut Packets<Clear>,
) -> Kind {
    if !frame.narrow(l2_len, info.total_len()) {
        return Kind::Dropped(DropReason::Malformed);
    }
    let outside = gate.role == Role::Outside;
    if gate.role.is_outside() && context.policies.bypasses() && is_bypassed(context, &flow) {
        let origin = Origin::Outside { port: gate.index, l2_len: l2_len as u8 };
        clear.begin(Clear::new(context, origin, TenantId::default(), flow, info));
        Kind::Clear
    } else if outside || is_esp_for_us(context, &flow) {
        match esp::parse(frame.packet(), &flow, &info, context.shared.nat_port) {
            Ok(outer) => {
                let arrival = Arrival::new(context, outer, 0, esp.last());
                esp.begin(arrival);
                Kind::Esp
            }
            // Not ESP: the XDP program lets clear text come here where a policy bypasses something between its addresses.
            Err(DropReason::Unexpected) if outside && !is_esp_for_us(context, &flow) => {
                Kind::Dropped(DropReason::ClearInbound)
            }
            Err(DropReason::OuterFragment) => Kind::Fragment,
            Err(reason) => Kind::Dropped(reason),
        }
    } else {
        let origin = Origin::Port { port: gate.index, l2_len: l2_len as u8 };
        clear.begin(Clear::new(context, origin, TenantId::default(), flow, info));
        Kind::Clear
    }
}

/// Whether clear text from outside is what a policy bypasses, seen from the other end (RFC 4301 §5.2). The XDP program
/// lets such packets come here by their addresses alone.
#[inline(never)]
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
