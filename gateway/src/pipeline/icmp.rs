//! Sends the ICMP errors that a router owes (RFC 1812 §4.3, RFC 4443 §2.4), back where the packet came from.

use std::net::IpAddr;

use portcullis_ipsec::Flow;

use super::{Clear, Context, Origin, SPARE_START, egress};
use crate::coarse::Coarse;
use crate::drop::WorkerCounters;
use crate::frame::Frame;
use crate::wire::{self, IcmpError, MAX_ICMPV6_ERROR};

/// Errors per second and worker (RFC 1812 §4.3.2.8, RFC 4443 §2.4 (f)).
const PER_SECOND: u32 = 200;

/// How many errors may still be sent in the current second.
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    second: Coarse,
    sent: u32,
}

impl RateLimit {
    fn allows(&mut self, now: Coarse) -> bool {
        if now != self.second {
            *self = Self { second: now, sent: 0 };
        }
        self.sent = self.sent.saturating_add(1);
        self.sent <= PER_SECOND
    }
}

/// Tells the packet's sender, if it may be told, there is an address to tell it from, and a frame to do it with.
pub(super) fn report(context: &mut Context<'_>, offender: &Frame, about: &Clear, error: IcmpError) {
    let flow = about.flow.flow();
    if !IcmpError::may_answer(&flow, &about.info) || about.origin == Origin::Generated {
        return;
    }
    let Some(source) = source(context, about, &flow) else { return };
    if !context.errors.allows(context.now) {
        return;
    }
    let Some(mut frame) = context.spare.take() else { return };
    if !write(&mut frame, offender, about, &flow, error, source) {
        return context.out.recycled.push(frame);
    }
    WorkerCounters::add(&context.counters.generated, 1);
    match about.origin {
        Origin::Port { port, .. } | Origin::Outside { port, .. } => context.out.transmit.push(port, frame),
        Origin::Kernel => context.out.to_kernel.push(frame),
        Origin::Tunnel { .. } | Origin::Generated => back_into_tunnel(context, about, frame),
    }
}

/// Our address, as the sender knows us.
fn source(context: &Context<'_>, about: &Clear, flow: &Flow) -> Option<IpAddr> {
    let wants_ipv6 = flow.src.is_ipv6();
    match about.origin {
        Origin::Port { port, .. } | Origin::Outside { port, .. } => {
            context.routes.address_for(port, wants_ipv6)
        }
        // The host takes no packet from the TUN device that claims to be from the host itself, but one from where
        // it sends through that device.
        Origin::Kernel => Some(flow.dst),
        Origin::Tunnel { .. } | Origin::Generated => {
            let inside = context.routes.devices().filter(|port| port.role.is_inside());
            inside.map(|port| port.index).find_map(|port| context.routes.address_for(port, wants_ipv6))
        }
    }
}

/// Writes the error, and for a port the link-layer header in front of it: the packet's own, turned round, without its tags,
/// which the VLAN device that it leaves by stands for.
fn write(
    frame: &mut Frame,
    offender: &Frame,
    about: &Clear,
    flow: &Flow,
    error: IcmpError,
    source: IpAddr,
) -> bool {
    let end = (SPARE_START + MAX_ICMPV6_ERROR).min(frame.chunk().len());
    if !frame.set_range(SPARE_START.min(end), end) {
        return false;
    }
    let Some(len) = error.write(offender.packet(), flow, source, frame.packet_mut()) else {
        return false;
    };
    let (Origin::Port { l2_len, .. } | Origin::Outside { l2_len, .. }) = about.origin else {
        return frame.truncate(len);
    };
    let l2_len = usize::from(l2_len);
    let start = offender.start();
    let Some(header) = offender.chunk().get(start.saturating_sub(l2_len)..start) else { return false };
    let Some(dst_and_src) = header.first_chunk() else { return false };
    let &[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = dst_and_src;
    let (to, from) = ([s0, s1, s2, s3, s4, s5], [d0, d1, d2, d3, d4, d5]);
    frame.truncate(len) && egress::prepend_header(frame, to, from)
}

/// The sender is behind a tunnel, into which policy must send the error like any other packet.
fn back_into_tunnel(context: &mut Context<'_>, about: &Clear, frame: Frame) {
    match wire::read(frame.packet()) {
        Ok((flow, info)) => {
            let answer = Clear::new(context, Origin::Generated, about.tenant, flow, info);
            context.again.clear.push(frame, answer);
        }
        Err(reason) => context.drop(frame, reason),
    }
}
