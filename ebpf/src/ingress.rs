//! The rules of the XDP program, in the order of the crate's documentation.

use aya_ebpf::programs::XdpContext;
use portcullis_ebpf_common::address::{OUTSIDE, TUNNEL};
use portcullis_ebpf_common::{Config, Interface, Outcome, Role, xsk_index};

use crate::address::Address;
use crate::maps;
use crate::packet::{self, Fragment, Frame, Malformed, Network, Packet, UDP_LEN, Udp, protocol};

/// What becomes of the frame. A redirect has been asked for when it returns.
#[inline(always)]
pub fn decide<F: Frame>(ctx: &XdpContext, frame: &F) -> Outcome {
    let Some(interface) = maps::interface(ctx.ingress_ifindex() as u32) else {
        return Outcome::UnknownInterface;
    };
    let Some(role) = Role::from_raw(interface.role) else { return Outcome::UnknownInterface };
    match packet::network(frame) {
        Network::Ipv4(start) => ip(ctx, frame, interface, role, packet::ipv4(frame, start)),
        Network::Ipv6(start) => ip(ctx, frame, interface, role, packet::ipv6(frame, start)),
        Network::Other => Outcome::NonIp,
        Network::TooDeep => Outcome::Malformed,
    }
}

#[inline(always)]
fn ip<F: Frame, A: Address>(
    ctx: &XdpContext,
    frame: &F,
    interface: Interface,
    role: Role,
    packet: Result<Packet<A>, Malformed>,
) -> Outcome {
    let Ok(packet) = packet else { return Outcome::Malformed };
    let config = maps::config();
    let flags = packet.dst.flags();
    if flags != 0
        && let Some(outcome) = ipsec(frame, &config, flags, &packet)
    {
        return to_worker(ctx, interface, outcome);
    }
    if packet.is_link_scope(frame) {
        return Outcome::LinkScope;
    }
    let protection = Protection { whole: config.whole != 0 };
    match role {
        Role::Inside => to_worker(ctx, interface, inside(protection, &config, flags, &packet)),
        Role::Outside => {
            to_worker(ctx, interface, unless_bypassed(outside(protection, flags, &packet), &packet))
        }
        Role::Both if protection.is_inside(&packet.src) => {
            to_worker(ctx, interface, inside(protection, &config, flags, &packet))
        }
        Role::Both => {
            to_worker(ctx, interface, unless_bypassed(outside(protection, flags, &packet), &packet))
        }
    }
}

/// Redirects what a worker shall have; other outcomes stay as they are.
#[inline(always)]
fn to_worker(ctx: &XdpContext, interface: Interface, outcome: Outcome) -> Outcome {
    if !matches!(outcome, Outcome::Esp | Outcome::UdpEsp | Outcome::Protected | Outcome::Bypassed) {
        return outcome;
    }
    match xsk_index(interface.slot, ctx.rx_queue_index()) {
        Some(index) if maps::redirect(index) => outcome,
        _ => Outcome::NoSocket,
    }
}

/// ESP and IKE to an own address.
#[inline(always)]
fn ipsec<F: Frame, A: Address>(
    frame: &F,
    config: &Config,
    flags: u32,
    packet: &Packet<A>,
) -> Option<Outcome> {
    let tunnel = flags & TUNNEL != 0;
    if packet.protocol == protocol::ESP && tunnel {
        return Some(Outcome::Esp);
    }
    if packet.protocol != protocol::UDP {
        return None;
    }
    if packet.fragment == Fragment::Later {
        return if tunnel { Some(Outcome::Ike) } else { None };
    }
    let udp = packet.udp(frame)?;
    if packet.fragment == Fragment::First {
        let ours = udp.dst_port == config.ike_port || udp.dst_port == config.nat_t_port;
        return if ours && tunnel { Some(Outcome::Ike) } else { None };
    }
    if udp.dst_port == config.nat_t_port {
        return match nat_t(frame, packet, udp) {
            Outcome::Ike => Some(Outcome::Ike),
            other if tunnel => Some(other),
            _ => None,
        };
    }
    if udp.dst_port == config.ike_port { Some(Outcome::Ike) } else { None }
}

/// RFC 3948 §2: what shares the NAT-T port.
#[inline(always)]
fn nat_t<F: Frame, A: Address>(frame: &F, packet: &Packet<A>, udp: Udp) -> Outcome {
    if udp.length < UDP_LEN || packet.upper + udp.length > packet.end {
        return Outcome::Malformed;
    }
    if udp.length < UDP_LEN + 4 {
        return Outcome::Keepalive;
    }
    match frame.load::<[u16; 2]>(packet.upper + UDP_LEN) {
        Some([0, 0]) => Outcome::Ike,
        Some(_) => Outcome::UdpEsp,
        None => Outcome::Malformed,
    }
}

/// What the tries say; everything, at length 0, while they are not whole.
#[derive(Clone, Copy)]
pub struct Protection {
    pub whole: bool,
}

impl Protection {
    /// Length of the longest prefix of a `local_ts` that holds the address.
    #[inline(always)]
    pub fn local<A: Address>(self, addr: &A) -> Option<u32> {
        addr.local().or(self.otherwise())
    }

    /// Length of the longest prefix of a `remote_ts` that holds the address.
    #[inline(always)]
    pub fn remote<A: Address>(self, addr: &A) -> Option<u32> {
        addr.remote().or(self.otherwise())
    }

    /// On which side of an interface for both sides an address is.
    #[inline(always)]
    pub fn is_inside<A: Address>(self, addr: &A) -> bool {
        match (self.local(addr), self.remote(addr)) {
            (Some(local), Some(remote)) => remote <= local,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    #[inline(always)]
    fn otherwise(self) -> Option<u32> {
        if self.whole { None } else { Some(0) }
    }
}

#[inline(always)]
fn inside<A: Address>(protection: Protection, config: &Config, flags: u32, packet: &Packet<A>) -> Outcome {
    if flags != 0 {
        Outcome::Own
    } else if protection.remote(&packet.dst).is_some() && protection.local(&packet.src).is_some() {
        if config.firewall != 0 { Outcome::Firewalled } else { Outcome::Protected }
    } else {
        Outcome::Transit
    }
}

/// A worker looks closer at what would be dropped where a policy bypasses something between these addresses.
#[inline(always)]
fn unless_bypassed<A: Address>(outcome: Outcome, packet: &Packet<A>) -> Outcome {
    if outcome == Outcome::ClearInbound && packet.src.passes_remotely() && packet.dst.passes_locally() {
        Outcome::Bypassed
    } else {
        outcome
    }
}

#[inline(always)]
fn outside<A: Address>(protection: Protection, flags: u32, packet: &Packet<A>) -> Outcome {
    let from_remote = protection.remote(&packet.src);
    if flags != 0 {
        let exempt_length = if flags & (TUNNEL | OUTSIDE) != 0 { Some(0) } else { None };
        return if from_remote.is_some()
            && from_remote != exempt_length
            && protection.local(&packet.dst).is_some()
        {
            Outcome::ClearInbound
        } else {
            Outcome::Own
        };
    }
    if from_remote.is_some() || protection.remote(&packet.dst).is_some() {
        Outcome::ClearInbound
    } else {
        Outcome::Transit
    }
}
