//! The end that began the IKE SA: it looks for a way to the peer, moves, and says so.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::{allows, detects_nats};
use crate::config::AddressMatch;
use crate::engine::api::{Event, JobId, JobResult};
use crate::engine::context::Context;
use crate::engine::established::Established;
use crate::engine::ike_sa_init::{data_of, error_notification, nat};
use crate::engine::path::Path;
use crate::engine::sa::{Base, Done, Inbound};
use crate::engine::streams;
use crate::message::{Payload, notify};

/// The kernel is asked how it would send to one address of the peer's after another.
#[derive(Debug, Clone)]
pub(super) struct Search {
    job: JobId,
    towards: IpAddr,
    /// To be tried after that.
    left: VecDeque<IpAddr>,
    /// Something has changed since it began.
    again: bool,
}

impl Search {
    pub(super) fn awaits(&self, id: JobId) -> bool {
        self.job == id
    }
}

/// Looks for the best way: to where the peer is, else to a further address of its own.
pub(super) fn look(cx: &mut Context, base: &mut Base) {
    if let Some(search) = &mut base.mobility.search {
        search.again = true;
        return;
    }
    let current = base.remote.ip();
    let further = base.mobility.peer.iter().copied().filter(|addr| *addr != current);
    let left: VecDeque<IpAddr> = std::iter::once(current).chain(further).collect();
    ask(cx, base, left);
}

/// Asks about the next address; whether there is one.
fn ask(cx: &mut Context, base: &mut Base, mut left: VecDeque<IpAddr>) -> bool {
    let next = left.pop_front();
    base.mobility.search = next.map(|towards| {
        let job = cx.source_address(base.id, towards);
        Box::new(Search { job, towards, left, again: false })
    });
    next.is_some()
}

/// The kernel has answered.
pub(super) fn found(
    established: &mut Established,
    cx: &mut Context,
    base: &mut Base,
    now: Instant,
    done: Done,
) {
    let Some(search) = base.mobility.search.take() else { return done.discard(cx, base.id) };
    let JobResult::SourceAddress(source) = done.result else { return };
    if search.again {
        return look(cx, base);
    }
    match source.and_then(|source| choose(cx, base, source)) {
        Some(local) => {
            established.go(cx, base, now, local, search.towards);
        }
        None => {
            if !ask(cx, base, search.left) {
                // Perhaps an address comes back: that is another change. Until then the peer's answers decide.
                cx.event(Event::Failed(base.about(cx).no_source_address()));
            }
        }
    }
}

fn at(addr: SocketAddr, ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, addr.port())
}

/// Our address of a way that the kernel would begin at `source`. Where the configuration leaves it to the kernel, that one;
/// where it names some, the one that we are at as long as it is there, else the kernel's if it is among them, else the first
/// of them that is there.
fn choose(cx: &Context, base: &Base, source: IpAddr) -> Option<IpAddr> {
    let allowed = cx.connection(base.connection)?.local_addrs.as_slice();
    let named = |addr: &IpAddr| allowed.contains(&AddressMatch::Address(*addr));
    let current = base.local.ip();
    let mut own = cx.outside_addresses.iter().flatten().copied();
    if named(&current) && current.is_ipv4() == source.is_ipv4() && own.clone().any(|addr| addr == current) {
        return Some(current);
    }
    if allows(allowed, source) {
        return Some(source);
    }
    own.find(|addr| addr.is_ipv4() == source.is_ipv4() && allows(allowed, *addr))
}

impl Established {
    /// There is a way between these addresses.
    fn go(&mut self, cx: &mut Context, base: &mut Base, now: Instant, local: IpAddr, remote: IpAddr) {
        let stays = (local, remote) == (base.local.ip(), base.remote.ip());
        if stays && base.path().is_stream() {
            return base.hurry_stream(now);
        }
        let path = Path { local: at(base.local, local), remote: at(base.remote, remote), ..base.path() };
        match streams::next_path(cx, base, path) {
            // A stream has its addresses for good: it takes another one.
            next if next.is_to_be_opened() => base.move_stream(cx, next),
            next if next != base.path() => self.move_to(cx, base, now, next),
            _ => {}
        }
    }

    /// RFC 4555 §3.5: everything goes on between these addresses, what is under way as well, and the peer is told as soon
    /// as the window lets us.
    pub(in crate::engine) fn move_to(&mut self, cx: &mut Context, base: &mut Base, now: Instant, path: Path) {
        base.moves(cx, path);
        base.move_children(cx);
        base.mobility.update = true;
        base.mobility.seen_as = None;
        self.channel.hurry(now);
    }

    /// The peer has answered an UPDATE_SA_ADDRESSES that went between these addresses.
    pub(super) fn updated(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        inbound: &Inbound<'_>,
        asked_by: Path,
        payloads: &[Payload],
    ) {
        if asked_by != base.path() {
            // We have moved on: the next one counts.
            return;
        }
        base.mobility.update = false;
        if let Some(error) = error_notification(payloads) {
            cx.event(Event::Failed(base.about(cx).move_refused(base.local.ip(), error.notify_type)));
            return;
        }
        if detects_nats(payloads) {
            base.nat = nat::detect(
                payloads,
                (base.spi_i, base.spi_r),
                inbound.path.between(),
                nat::is_forced(cx, base),
            );
        }
        base.mobility.seen_as = data_of(payloads, notify::NAT_DETECTION_DESTINATION_IP).map(<[u8]>::to_vec);
        base.move_children(cx);
        self.schedule_keepalive(cx, base, now);
    }

    /// The peer has answered a question whether it lives, which said how we see the way. If its NAT, or ours, has another
    /// mapping since it was told last, it is told again (RFC 4555 §3.8).
    pub(in crate::engine) fn compare_mapping(base: &mut Base, payloads: &[Payload]) {
        let seen = data_of(payloads, notify::NAT_DETECTION_DESTINATION_IP);
        if base.mobility.agreed && base.original_initiator && seen.is_some() {
            base.mobility.update |= base.mobility.seen_as.as_deref() != seen;
        }
    }

    /// What goes into a question whether the peer lives: behind a NAT, how we see the way.
    pub(in crate::engine) fn probe(cx: &Context, base: &Base) -> Vec<Payload> {
        let mapped = base.mobility.agreed && base.original_initiator && base.nat.local;
        if mapped { base.detection(cx, base.path()).to_vec() } else { Vec::new() }
    }
}
