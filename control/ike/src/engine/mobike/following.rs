//! The end that did not begin the IKE SA: it follows the other, and answers.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::{acceptable, allows, detects_nats, told};
use crate::engine::api::Event;
use crate::engine::context::Context;
use crate::engine::established::Established;
use crate::engine::ike_sa_init::{data_of, nat, notification};
use crate::engine::path::Path;
use crate::engine::sa::Base;
use crate::message::{Payload, notify};

impl Established {
    /// The part of an answer to an INFORMATIONAL request that MOBIKE asks for.
    pub(in crate::engine) fn answer_mobike(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        payloads: &[Payload],
    ) -> Vec<Payload> {
        let Some(path) = self.channel.asked_by().filter(|_| base.mobility.agreed) else {
            return Vec::new();
        };
        let mut answer = Vec::new();
        if let Some(peer) = told(payloads) {
            self.peer_is_at(cx, base, now, peer, path);
        }
        let refused = match data_of(payloads, notify::UPDATE_SA_ADDRESSES) {
            // The end that began the IKE SA decides where it goes.
            Some(_) if !base.original_initiator => self.follow(cx, base, now, payloads, path).err(),
            _ => None,
        };
        match refused {
            Some(error) => answer.push(notification(error, Vec::new())),
            None if detects_nats(payloads) => answer.extend(base.detection(cx, path)),
            None => {}
        }
        // Of its length is nothing asked here: it goes back to who made it (RFC 4555 §4.2.5).
        answer.extend(
            data_of(payloads, notify::COOKIE2).map(|cookie| notification(notify::COOKIE2, cookie.to_vec())),
        );
        answer
    }

    /// The peer has moved to where its request came from (RFC 4555 §3.5). `Err` is the notification that refuses it.
    fn follow(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        payloads: &[Payload],
        path: Path,
    ) -> Result<(), u16> {
        let (local, remote) = path.between();
        // What a NAT does to a stream's addresses, and whether somebody is there, TCP has settled (RFC 9329 §7.1).
        let streamed = path.is_stream();
        let sent_as = data_of(payloads, notify::NO_NATS_ALLOWED).filter(|_| !streamed);
        if sent_as.is_some_and(|sent_as| sent_as != addresses_and_ports(remote, local)) {
            cx.event(Event::Failed(base.about(cx).peer_allows_no_nat(remote.ip())));
            return Err(notify::UNEXPECTED_NAT_DETECTED);
        }
        let connection = cx.connection(base.connection);
        if !connection.is_some_and(|connection| acceptable(connection, local.ip(), remote.ip())) {
            cx.event(Event::Failed(base.about(cx).peer_moved_too_far(local.ip(), remote.ip())));
            return Err(notify::UNACCEPTABLE_ADDRESSES);
        }
        let elsewhere = remote.ip() != base.remote.ip();
        base.moves(cx, path);
        if detects_nats(payloads) {
            base.nat =
                nat::detect(payloads, (base.spi_i, base.spi_r), (local, remote), nat::is_forced(cx, base));
        }
        // A peer could have all that we send it delivered to somebody else: where it is new, it shows that it is there.
        base.mobility.check = !streamed && (base.mobility.check || elsewhere);
        if !base.mobility.check {
            base.move_children(cx);
        }
        self.schedule_keepalive(cx, base, now);
        self.channel.hurry(now);
        Ok(())
    }

    /// The peer says where else it can be reached, from a place where it can be. If that is not where we send to, and it
    /// names that no longer, we go there: it is for us to decide.
    fn peer_is_at(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        further: Vec<IpAddr>,
        path: Path,
    ) {
        let (local, remote) = path.between();
        let current = base.remote.ip();
        let gone = current != remote.ip() && !further.contains(&current);
        base.mobility.peer = further;
        if base.original_initiator && gone {
            let allowed = cx.connection(base.connection).is_some_and(|c| allows(&c.local_addrs, local.ip()));
            if allowed {
                self.move_to(cx, base, now, path);
            }
        }
    }

    /// Our address is gone: what we say, that we have others above all, comes from one that is left (RFC 4555 §3.6).
    pub(super) fn leave_lost_address(&mut self, cx: &mut Context, base: &mut Base, now: Instant) {
        let current = base.local.ip();
        let Some(own) = &cx.outside_addresses else { return };
        // A TCP stream ends with the address: the peer opens the next one (RFC 9329 §6.1).
        if own.contains(&current) || base.path().is_stream() {
            return;
        }
        let further = super::further(cx, base);
        if let Some(other) = further.into_iter().find(|addr| addr.is_ipv4() == current.is_ipv4()) {
            let local = SocketAddr::new(other, base.local.port());
            base.moves(cx, Path { local, ..base.path() });
            base.move_children(cx);
            self.channel.hurry(now);
        }
    }
}

/// The data of NO_NATS_ALLOWED (RFC 4555 §4.2.6): addresses and ports as the sender has written them.
fn addresses_and_ports(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let mut octets = Vec::new();
    for addr in [source, destination] {
        match addr.ip() {
            IpAddr::V4(addr) => octets.extend(addr.octets()),
            IpAddr::V6(addr) => octets.extend(addr.octets()),
        }
    }
    octets.extend(source.port().to_be_bytes());
    octets.extend(destination.port().to_be_bytes());
    octets
}
