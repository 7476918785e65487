//! MOBIKE (RFC 4555): an IKE SA and its CHILD SAs outlive the addresses that they began with.
//!
//! The end that began the IKE SA decides which addresses are used ([`moving`]): it looks for a way whenever the host's
//! addresses or routes change, moves there, and tells the peer (UPDATE_SA_ADDRESSES). The other end follows an authentic
//! UPDATE_SA_ADDRESSES and nothing else ([`following`]): IKE at once, ESP after the new address has answered (COOKIE2). What
//! further addresses an end has, both tell each other (ADDITIONAL_IP4_ADDRESS, ADDITIONAL_IP6_ADDRESS).
//!
//! CHILD SAs in transport mode, whose selectors are those addresses, are out of the RFC's scope (§1.2): theirs move too, and
//! what they carried does not.

mod following;
mod moving;

use std::net::IpAddr;
use std::time::Instant;

use super::api::{Event, JobId};
use super::connections;
use super::context::Context;
use super::established::{Established, Ours};
use super::ike_sa_init::{data_of, nat, notification, notifications};
use super::path::Path;
use super::sa::{Base, Done, Inbound};
use crate::config::{AddressMatch, ConnectionConfig};
use crate::message::{ExchangeType, Payload, notify};

/// Octets of our COOKIE2: 8 to 64 (RFC 4555 §4.2.5).
const COOKIE2_LEN: usize = 16;
/// Further addresses that are told, and that are believed of a peer. More are of no use, and cost.
const MAX_FURTHER: usize = 16;

/// What an IKE SA knows of where both ends may be.
#[derive(Debug, Clone, Default)]
pub(super) struct Mobility {
    /// Both ends have said that they support it.
    pub(super) agreed: bool,
    /// The peer takes part in NAT detection.
    pub(super) detects_nats: bool,
    /// Further addresses of the peer.
    peer: Vec<IpAddr>,
    /// Further addresses of ours, as the peer knows them.
    told: Vec<IpAddr>,
    /// A way to the peer is looked for.
    search: Option<Box<moving::Search>>,
    /// The peer is to be told where we are.
    pub(super) update: bool,
    /// The peer is to show that it is where it says, before ESP goes there.
    check: bool,
    /// What the peer sees us as, hashed (NAT_DETECTION_DESTINATION_IP).
    seen_as: Option<Vec<u8>>,
}

/// An exchange of ours.
#[derive(Debug)]
pub(super) struct Exchange {
    kind: Kind,
    cookie: [u8; COOKIE2_LEN],
    /// Which way it was begun.
    path: Path,
}

#[cfg(test)]
impl Exchange {
    pub(super) fn expect_another_cookie(&mut self) {
        self.cookie[0] ^= 1;
    }
}

#[derive(Debug)]
enum Kind {
    /// UPDATE_SA_ADDRESSES.
    Update,
    /// Further addresses of ours.
    Tell(Vec<IpAddr>),
    /// Whether the peer is where it says.
    Check,
}

/// Whether a connection takes part.
fn wanted(cx: &Context, base: &Base) -> bool {
    // `dynamic` selectors of a peer that has proved nothing are where it is: it must not take them along.
    let moves = |connection: &ConnectionConfig| connection.mobike && connections::wants_proof(connection);
    cx.connection(base.connection).is_some_and(moves)
}

/// RFC 4555 §3.3: whoever may want to move goes on from the NAT port, also where there is no NAT yet.
pub(super) fn floats(cx: &Context, base: &Base) -> bool {
    base.mobility.detects_nats && wanted(cx, base)
}

/// What is said in IKE_AUTH, beside the SA payload (RFC 4555 §3.2, §3.4); nothing where the connection does without.
pub(super) fn announce(cx: &Context, base: &mut Base) -> Vec<Payload> {
    if !wanted(cx, base) {
        return Vec::new();
    }
    base.mobility.told = further(cx, base);
    let supported = notification(notify::MOBIKE_SUPPORTED, Vec::new());
    std::iter::once(supported).chain(base.mobility.told.iter().map(additional)).collect()
}

/// Takes what the peer says in IKE_AUTH.
pub(super) fn agree(cx: &Context, base: &mut Base, payloads: &[Payload]) {
    let supported = data_of(payloads, notify::MOBIKE_SUPPORTED).is_some();
    base.mobility.agreed = supported && wanted(cx, base);
    if let Some(peer) = told(payloads) {
        base.mobility.peer = peer;
    }
}

/// The same as the responder, and what we say to it.
pub(super) fn answer(cx: &Context, base: &mut Base, payloads: &[Payload]) -> Vec<Payload> {
    agree(cx, base, payloads);
    if base.mobility.agreed { announce(cx, base) } else { Vec::new() }
}

/// Further addresses of ours that a connection allows.
fn further(cx: &Context, base: &Base) -> Vec<IpAddr> {
    let Some(connection) = cx.connection(base.connection) else { return Vec::new() };
    let own = cx.outside_addresses.iter().flatten().copied();
    let further = own.filter(|addr| *addr != base.local.ip() && allows(&connection.local_addrs, *addr));
    further.take(MAX_FURTHER).collect()
}

fn allows(allowed: &[AddressMatch], addr: IpAddr) -> bool {
    allowed.is_empty() || allowed.iter().any(|allowed| allowed.contains(addr))
}

fn additional(addr: &IpAddr) -> Payload {
    match addr {
        IpAddr::V4(addr) => notification(notify::ADDITIONAL_IP4_ADDRESS, addr.octets().to_vec()),
        IpAddr::V6(addr) => notification(notify::ADDITIONAL_IP6_ADDRESS, addr.octets().to_vec()),
    }
}

/// The further addresses that payloads speak of; `None` if they do not say that they list them. One of another length than
/// its family's is none.
pub(super) fn told(payloads: &[Payload]) -> Option<Vec<IpAddr>> {
    let mut said = false;
    let mut addresses = Vec::new();
    for found in notifications(payloads) {
        let addr = match found.notify_type {
            notify::ADDITIONAL_IP4_ADDRESS => {
                found.data.as_slice().try_into().ok().map(|octets: [u8; 4]| IpAddr::from(octets))
            }
            notify::ADDITIONAL_IP6_ADDRESS => {
                found.data.as_slice().try_into().ok().map(|octets: [u8; 16]| IpAddr::from(octets))
            }
            notify::NO_ADDITIONAL_ADDRESSES => None,
            _ => continue,
        };
        said = true;
        addresses.extend(addr.filter(|addr| !addr.is_unspecified() && !addr.is_multicast()));
    }
    addresses.truncate(MAX_FURTHER);
    said.then_some(addresses)
}

/// Whether payloads say how their sender sees the way.
pub(super) fn detects_nats(payloads: &[Payload]) -> bool {
    data_of(payloads, notify::NAT_DETECTION_SOURCE_IP).is_some()
}

impl Mobility {
    /// That of the IKE SA which takes the place of one with this. What it is seen as was hashed with the old one's SPIs, and
    /// exchanges under way end with it.
    pub(super) fn succeeded(&self) -> Self {
        Self { search: None, seen_as: None, ..self.clone() }
    }
}

impl Base {
    /// NAT detection's notifications for a message of ours.
    fn detection(&self, cx: &Context, Path { local, remote, .. }: Path) -> [Payload; 2] {
        nat::announce((self.spi_i, self.spi_r), local, remote, nat::is_forced(cx, self))
    }

    /// IKE goes on another way, with MOBIKE or without.
    pub(super) fn moves(&mut self, cx: &mut Context, to: Path) {
        let from = self.path();
        if from == to {
            return;
        }
        self.set_path(to);
        // Before it is up, nobody has been told where it is.
        if self.established.is_none() {
            return;
        }
        cx.event(Event::IkeMoved {
            ike: self.id,
            connection: cx.connection_name(self.connection),
            from: from.between(),
            to: to.between(),
        });
    }
}

impl Established {
    /// The host has other addresses or other routes than before.
    pub(super) fn paths_changed(&mut self, cx: &mut Context, base: &mut Base, now: Instant) {
        if !base.mobility.agreed || base.superseded.is_some() {
            return;
        }
        if base.original_initiator {
            moving::look(cx, base);
        } else {
            self.leave_lost_address(cx, base, now);
        }
    }

    /// Begins what is to be said next, if anything is.
    pub(super) fn begin_mobike(&mut self, cx: &mut Context, base: &Base, now: Instant) -> bool {
        let mobility = &base.mobility;
        if !mobility.agreed {
            return false;
        }
        let further = cx.outside_addresses.is_some().then(|| further(cx, base));
        let kind = if mobility.update {
            Kind::Update
        } else if mobility.check {
            Kind::Check
        } else if let Some(further) = further.filter(|further| *further != mobility.told) {
            Kind::Tell(further)
        } else {
            return false;
        };
        let exchange = Exchange { kind, cookie: cx.random(), path: base.path() };
        let cookie = || notification(notify::COOKIE2, exchange.cookie.to_vec());
        let payloads = match &exchange.kind {
            Kind::Update => {
                let mut payloads = vec![notification(notify::UPDATE_SA_ADDRESSES, Vec::new())];
                payloads.extend(base.detection(cx, base.path()));
                payloads.push(cookie());
                payloads
            }
            Kind::Check => vec![cookie()],
            Kind::Tell(further) if further.is_empty() => {
                vec![notification(notify::NO_ADDITIONAL_ADDRESSES, Vec::new())]
            }
            Kind::Tell(further) => further.iter().map(additional).collect(),
        };
        self.channel.request(cx, base, now, ExchangeType::Informational, payloads);
        self.ours = Ours::Mobike(exchange);
        true
    }

    /// The peer has answered one. `Err` is the notification that it made of a wrong answer.
    pub(super) fn mobike_answered(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        inbound: &Inbound<'_>,
        exchange: Exchange,
        payloads: &[Payload],
    ) -> Result<(), CookieDiffers> {
        let shown = data_of(payloads, notify::COOKIE2);
        let asked = !matches!(exchange.kind, Kind::Tell(_));
        if asked && shown.is_some_and(|shown| shown != exchange.cookie) {
            return Err(CookieDiffers);
        }
        match exchange.kind {
            Kind::Update => self.updated(cx, base, now, inbound, exchange.path, payloads),
            Kind::Tell(further) => base.mobility.told = further,
            // It has moved on meanwhile: the check begins anew, there.
            Kind::Check if exchange.path != base.path() => {}
            Kind::Check if shown.is_some() => {
                base.mobility.check = false;
                base.move_children(cx);
            }
            Kind::Check => return Err(CookieDiffers),
        }
        Ok(())
    }

    /// A job of this exchange is done.
    pub(super) fn mobike_job(&mut self, cx: &mut Context, base: &mut Base, now: Instant, done: Done) {
        moving::found(self, cx, base, now, done);
    }
}

/// The peer gave back another cookie than it got, or none: what answered is not where the request went (RFC 4555 §4.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CookieDiffers;

#[cfg(test)]
impl Mobility {
    pub(super) fn peer_addresses(&self) -> Vec<IpAddr> {
        self.peer.clone()
    }
}

impl Mobility {
    /// Whether a job is one of this exchange.
    pub(super) fn awaits(&self, id: JobId) -> bool {
        self.search.as_ref().is_some_and(|search| search.awaits(id))
    }
}

/// Whether a connection lets its peer be there, and us here.
fn acceptable(connection: &ConnectionConfig, local: IpAddr, remote: IpAddr) -> bool {
    allows(&connection.local_addrs, local) && allows(&connection.remote_addrs, remote)
}
