//! Session resumption (RFC 5723): a gateway gives its client a ticket, which holds what the gateway would have to remember of
//! the IKE SA; a client that has lost the IKE SA, because the gateway fell silent or lost its state, shows it in
//! IKE_SESSION_RESUME and has another one without a key exchange and without signatures. The new keys come of the old
//! SK_d: whoever learns that can read what follows, so that `session_resumption` is off unless asked for.
//!
//! A ticket is good once, for as long as the authentication that it stands for, and no longer than [`tickets::LIFETIME`]; an
//! IKE SA that was deleted or rekeyed takes its ticket along. Tickets are by value, under keys that die with the process: after
//! a restart a gateway could not tell those that were used already. Peers of EAP get none: what an AAA server has said of
//! them is not in it.

pub(super) mod initiator;
pub(super) mod responder;
pub(super) mod tickets;

use std::time::{Duration, Instant};

use super::channel::Channel;
use super::context::Context;
use super::ike_auth::signed_octets;
use super::ike_sa_init::{InitRecord, data_of, notification, notifications};
use super::lifetime::Schedule;
use super::sa::{Base, Role};
use crate::config::{ConnectionConfig, Identity, LocalMethod, RemoteMethod, Secret};
use crate::engine::connections;
use crate::message::{IdPayload, Payload, notify};
use crate::proposal::IkeSuite;

/// A longer ticket would not go into one datagram on most paths, and IKE_SESSION_RESUME goes in no more.
const LONGEST_TICKET: usize = 1024;

/// What is known of an IKE SA that may be resumed, or is.
#[derive(Debug, Clone)]
pub(super) struct Session {
    /// As the client shows it.
    pub(super) ticket: Vec<u8>,
    /// Its SPI at the end that keeps this.
    own_spi: [u8; 8],
    pub(super) connection: usize,
    pub(super) suite: IkeSuite,
    sk_d: Secret,
    pub(super) id_i: Identity,
    pub(super) id_r: Identity,
    /// Until when the ticket is good.
    expires: Instant,
    /// How long the authentication is good, which is not repeated.
    authentication: Schedule,
    session_end: Option<Instant>,
}

impl Session {
    /// What is left of the authentication counts for the IKE SA that goes on.
    fn bound(&self, base: &mut Base) {
        let earlier = |a: Option<Instant>, b: Option<Instant>| a.into_iter().chain(b).min();
        let (own, old) = (&mut base.authentication, self.authentication);
        (own.due, own.end) = (earlier(own.due, old.due), earlier(own.end, old.end));
        base.session_end = earlier(base.session_end, self.session_end);
    }
}

/// Whether IKE SAs of a connection may be resumed.
fn is_used(connection: &ConnectionConfig) -> bool {
    connection.session_resumption
        && !matches!(
            connections::local_method(connection),
            LocalMethod::Eap { .. } | LocalMethod::Aaa | LocalMethod::Null
        )
        && !matches!(connections::remote_method(connection), RemoteMethod::Eap { .. } | RemoteMethod::Null)
}

/// AUTH of an end of an IKE SA that is resumed: it has the old SK_d, nothing else (RFC 5723 §4.3.3).
pub(super) fn auth(channel: &Channel, record: &InitRecord, signer: Role, id: &IdPayload) -> Vec<u8> {
    let sk_p = match signer {
        Role::Initiator => &channel.keys.sk_pi,
        Role::Responder => &channel.keys.sk_pr,
    };
    channel.suite.prf.compute(sk_p, &[&signed_octets(channel, record, signer, id)])
}

/// As client, that we want a ticket.
pub(super) fn ask(cx: &Context, base: &Base) -> Option<Payload> {
    let wanted = base.original_initiator && cx.connection(base.connection).is_some_and(is_used);
    wanted.then(|| notification(notify::TICKET_REQUEST, Vec::new()))
}

/// As gateway, the ticket for a client that asks for one, or that it gets none.
pub(super) fn answer(
    cx: &mut Context,
    base: &Base,
    now: Instant,
    channel: &Channel,
    payloads: &[Payload],
) -> Option<Payload> {
    let asked = notifications(payloads).any(|found| found.notify_type == notify::TICKET_REQUEST);
    if !asked || base.original_initiator {
        return None;
    }
    let given = tickets::issue(cx, base, now, channel);
    Some(match given {
        Some((ticket, lifetime)) => {
            // RFC 5723 §7.2: seconds, then the ticket.
            let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
            notification(notify::TICKET_LT_OPAQUE, [&seconds.to_be_bytes()[..], &ticket].concat())
        }
        None => notification(notify::TICKET_NACK, Vec::new()),
    })
}

impl Base {
    /// Keeps the ticket that an authentic message of the gateway has.
    pub(super) fn keep_ticket(
        &mut self,
        cx: &Context,
        now: Instant,
        channel: &Channel,
        payloads: &[Payload],
    ) {
        let found = data_of(payloads, notify::TICKET_LT_OPAQUE).and_then(|data| data.split_at_checked(4));
        let fits = |(_, ticket): &(&[u8], &[u8])| (1..=LONGEST_TICKET).contains(&ticket.len());
        let Some((seconds, ticket)) = found.filter(fits).filter(|_| ask(cx, self).is_some()) else { return };
        let seconds = seconds.try_into().map_or(0, u32::from_be_bytes);
        let (Some(id_i), Some(id_r)) = (self.local_id.clone(), self.remote_id.clone()) else { return };
        let Some(expires) = now.checked_add(Duration::from_secs(seconds.into())) else { return };
        self.ticket = Some(Box::new(Session {
            ticket: ticket.to_vec(),
            own_spi: self.own_spi(),
            connection: self.connection,
            suite: channel.suite,
            sk_d: Secret(channel.keys.sk_d.clone()),
            id_i,
            id_r,
            expires,
            authentication: self.authentication,
            session_end: self.session_end,
        }));
    }
}
