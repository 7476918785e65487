//! CREATE_CHILD_SA about the IKE SA itself (RFC 7296 §1.3.2, §2.18): another IKE SA takes its place, with new keys and
//! message IDs and with all its children; the old one is then deleted by whoever asked for the new one.
//!
//! Both ends may ask at once (§2.8.2). Then there are two new IKE SAs, and the children stay with the old one until an
//! end knows which prevails: the one without the lowest of the four nonces. Its initiator deletes the old IKE SA, the
//! other's initiator his own, redundant one. An end learns it
//!
//! - from the answer to its own request: from the nonces if it is a success; the peer's prevails if not;
//! - from the peer's Delete of the old IKE SA: the peer did not know of our request, or has prevailed.
//!
//! What an end waits for the other to delete, it deletes itself after [`patience`].
//!
//! Additional key exchanges follow in IKE_FOLLOWUP_KE ([`super::ike_followup_ke`]); only after the last is there a new IKE SA. While one end is at that, the other's request to
//! the same end is answered TEMPORARY_FAILURE: neither can wait for the other.

pub(super) mod initiator;
pub(super) mod responder;

use std::time::{Duration, Instant};

use super::api::{Event, IkeSaId, IkeState};
use super::channel::Channel;
use super::context::{Context, Effect};
use super::established::Established;
use super::sa::{Base, Estate, Role};
use super::state::State;
use crate::config::{Retransmission, Secret};
use crate::crypto::{KdfInput, SharedSecret, derive_rekeyed_ike_keys};
use crate::message::{Payload, Protocol, WireProposal};
use crate::proposal::IkeSuite;

/// Whether a CREATE_CHILD_SA request is about the IKE SA.
pub(super) fn is_about_ike(payloads: &[Payload]) -> bool {
    payloads.iter().any(|payload| match payload {
        Payload::Sa(proposals) => proposals.iter().any(|proposal| proposal.protocol == Protocol::Ike),
        _ => false,
    })
}

/// As long as a peer with our settings might still repeat a request: what answers it must not go before.
pub(super) fn patience(retransmission: &Retransmission) -> Duration {
    let tries = i32::try_from(retransmission.tries).unwrap_or(i32::MAX);
    let sum: f64 = (0..=tries.min(100)).map(|n| retransmission.base.powi(n)).sum();
    Duration::try_from_secs_f64(retransmission.timeout.as_secs_f64() * sum)
        .map_or(Duration::from_secs(3600), |time| time.min(Duration::from_secs(3600)))
}

/// What both ends have agreed on.
#[derive(Debug)]
struct Agreed {
    role: Role,
    suite: IkeSuite,
    spi_i: [u8; 8],
    spi_r: [u8; 8],
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
    /// Of the peer, in its answer to us (RFC 6290 §4.3).
    tokens: Vec<Secret>,
}

/// The new IKE SA, with nothing in it.
fn successor(
    cx: &mut Context,
    old: &Base,
    channel: &Channel,
    now: Instant,
    agreed: &Agreed,
    shared: &[SharedSecret],
) -> (Base, Box<Channel>) {
    let Agreed { role, suite, spi_i, spi_r, .. } = *agreed;
    let id = cx.fresh_id();
    let mut base = Base::new(id, role, (spi_i, spi_r), old.path(), old.connection, now);
    base.nat = old.nat;
    base.fragmentation = old.fragmentation;
    base.synchronises = old.synchronises;
    base.mobility = old.mobility.succeeded();
    base.redirect = old.redirect.clone();
    base.takes_redirects = old.takes_redirects;
    base.suite = Some(suite);
    base.local_id = old.local_id.clone();
    base.remote_id = old.remote_id.clone();
    base.proven = old.proven.clone();
    base.authorization = old.authorization.clone();
    base.established = Some(now);
    base.authentication = old.authentication;
    base.session_end = old.session_end;
    base.original_initiator = old.original_initiator;
    base.tokens.clone_from(&agreed.tokens);
    base.owes_token = role == Role::Initiator;
    base.wants_ticket = old.ticket.is_some();
    base.replaced_by = old.replaced_by;
    cx.sa_established(base.connection);
    let input = KdfInput { nonce_i: &agreed.nonce_i, nonce_r: &agreed.nonce_r, spi_i, spi_r };
    let keys = derive_rekeyed_ike_keys(
        channel.suite.prf,
        &channel.keys.sk_d,
        suite.prf,
        suite.protection,
        shared,
        input,
    );
    (base, Channel::after_rekeying(suite, keys))
}

/// Puts a new IKE SA in its place.
fn born(cx: &mut Context, base: Base, state: State, replaced: Option<IkeSaId>) {
    cx.effects.push_back(Effect::Born { base: Box::new(base), state: Box::new(state), replaced });
}

/// The new IKE SA takes what the old one had.
fn succeed(
    cx: &mut Context,
    old: &mut Base,
    mut base: Base,
    channel: Box<Channel>,
    now: Instant,
    estate: Estate,
) {
    old.heir = Some(base.id);
    // It may have moved since the new one was begun.
    base.set_path(old.path());
    base.nat = old.nat;
    base.mobility = old.mobility.succeeded();
    base.redirecting = old.redirecting.take();
    base.owes_reauthentication = std::mem::take(&mut old.owes_reauthentication);
    base.inherit(cx, estate);
    let established = Established::succeeding(cx, &base, now, channel);
    cx.event(Event::IkeRekeyed { ike: base.status(cx, IkeState::Established), replaced: old.id });
    born(cx, base, State::Established(Box::new(established)), Some(old.id));
}

/// One IKE SA's SPI in an offer or answer (RFC 7296 §3.3.1).
fn with_spi(mut proposals: Vec<WireProposal>, spi: [u8; 8]) -> Vec<WireProposal> {
    for proposal in &mut proposals {
        proposal.spi = spi.to_vec();
    }
    proposals
}

/// The SPI of the proposal with that number.
fn spi_of(proposals: &[WireProposal], number: u8) -> Option<[u8; 8]> {
    let proposal = proposals.iter().find(|proposal| proposal.number == number)?;
    proposal.spi.as_slice().try_into().ok().filter(|spi| *spi != [0; 8])
}

impl Established {
    /// The IKE SA has a successor, and everything that it had; the peer, who asked for it, is to delete this one.
    fn superseded(&mut self, cx: &Context, base: &mut Base, now: Instant) {
        base.superseded = Some(now + patience(&cx.config.retransmission));
    }
}
