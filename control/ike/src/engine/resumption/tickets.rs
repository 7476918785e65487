//! Tickets by value (RFC 5723 §5.2, Appendix A): what is in one is a message of IKE itself, sealed under a key that nobody else
//! has. Nothing is kept of those that are given out, and of those that were used a hash until they would have expired.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::{Session, is_used};
use crate::config::Secret;
use crate::crypto::{AesKey, DirectionKeys, IkeEncr, Protection};
use crate::engine::channel::{Channel, RequestDigest, digest};
use crate::engine::context::Context;
use crate::engine::ike_sa_init::{data_of, notification};
use crate::engine::lifetime::Schedule;
use crate::engine::negotiation;
use crate::engine::sa::Base;
use crate::message::{ExchangeType, Header, Message, Payload, notify};

/// The longest that a ticket is good, and a key seals new ones.
pub(super) const LIFETIME: Duration = Duration::from_secs(4 * 3600);

/// A key, and the tickets under it that were used.
struct Key {
    /// It names the shard, to which whoever shows a ticket comes.
    number: u32,
    key: Zeroizing<[u8; 36]>,
    since: Instant,
    sealed: u64,
    used: HashSet<RequestDigest>,
}

/// What seals and opens tickets.
#[derive(Default)]
pub(in crate::engine) struct Tickets {
    /// Times in tickets count from here.
    epoch: Option<Instant>,
    /// The newest first; a ticket outlives no more than one change.
    keys: Vec<Key>,
}

impl Tickets {
    fn key(&self, number: u32) -> Option<&Key> {
        self.keys.iter().find(|key| key.number == number)
    }

    /// Whether it was used. From now on it was.
    pub(in crate::engine) fn use_up(&mut self, ticket: &[u8]) -> bool {
        let number = ticket.first_chunk().map_or(0, |number| u32::from_be_bytes(*number));
        let key = self.keys.iter_mut().find(|key| key.number == number);
        key.is_none_or(|key| !key.used.insert(digest(ticket)))
    }

    fn was_used(&self, number: u32, ticket: &[u8]) -> bool {
        self.key(number).is_none_or(|key| key.used.contains(&digest(ticket)))
    }
}

/// AES-256-GCM, as for an IKE SA: the keys are a key and a salt, the numbers of messages never repeat.
fn protection() -> Option<Protection> {
    Protection::new(IkeEncr::AesGcm16(AesKey::Aes256), None)
}

/// A ticket for the peer of an IKE SA, and how long it is good; `None` if it is to have none.
pub(super) fn issue(
    cx: &mut Context,
    base: &Base,
    now: Instant,
    channel: &Channel,
) -> Option<(Vec<u8>, Duration)> {
    cx.connection(base.connection).filter(|connection| is_used(connection))?;
    let (id_r, id_i) = (base.local_id.clone()?, base.remote_id.clone()?);
    let ends = [base.authentication.end, base.session_end].into_iter().flatten();
    let lifetime = ends.map(|end| end.saturating_duration_since(now)).fold(LIFETIME, Duration::min);
    rotate(cx, now);
    let epoch = *cx.tickets.epoch.get_or_insert(now);
    let millis = |at: Option<Instant>| {
        at.map_or(u64::MAX, |at| at.saturating_duration_since(epoch).as_millis() as u64).to_be_bytes()
    };
    let data = [
        &u32::try_from(base.connection).ok()?.to_be_bytes()[..],
        &channel.suite.ke.id().to_be_bytes(),
        &millis(Some(now + lifetime)),
        &millis(base.authentication.due),
        &millis(base.authentication.end),
        &millis(base.session_end),
    ];
    let header = Header {
        spi_i: [0; 8],
        spi_r: base.own_spi(),
        major: 2,
        minor: 0,
        exchange: ExchangeType::IkeSessionResume,
        initiator: false,
        response: false,
        message_id: 0,
    };
    let payloads = vec![
        Payload::Sa(vec![channel.suite.answer(1)]),
        Payload::IdI(id_i.into()),
        Payload::IdR(id_r.into()),
        Payload::Nonce(channel.keys.sk_d.clone()),
        notification(notify::TICKET_OPAQUE, data.concat()),
    ];
    let content = Zeroizing::new(Message { header, payloads }.emit());
    let key = cx.tickets.keys.first_mut()?;
    let head = key.number.to_be_bytes();
    let keys = DirectionKeys { sk_e: key.key.as_slice(), sk_a: &[] };
    let sealed = protection()?.seal(keys, key.sealed, &head, &content)?;
    key.sealed = key.sealed.checked_add(1)?;
    Some(([&head[..], &sealed].concat(), lifetime))
}

/// A new key in time; one that has nothing any more that is still good is forgotten, with what was used under it.
fn rotate(cx: &mut Context, now: Instant) {
    let age = |key: &Key| now.saturating_duration_since(key.since);
    if cx.tickets.keys.first().is_some_and(|key| age(key) < LIFETIME) {
        return;
    }
    cx.tickets.keys.retain(|key| age(key) < 2 * LIFETIME);
    let number = u32::from_be_bytes(cx.shard.sign(cx.random()));
    let key = Zeroizing::new(cx.random());
    let key = Key { number, key, since: now, sealed: 0, used: HashSet::new() };
    cx.tickets.keys.insert(0, key);
}

/// What a ticket says, if it is ours, still good and was not used.
pub(super) fn open(cx: &Context, now: Instant, ticket: &[u8]) -> Option<Session> {
    let (head, sealed) = ticket.split_at_checked(4)?;
    let number = u32::from_be_bytes(head.try_into().ok()?);
    let key = cx.tickets.key(number).filter(|_| !cx.tickets.was_used(number, ticket))?;
    let keys = DirectionKeys { sk_e: key.key.as_slice(), sk_a: &[] };
    let content = Zeroizing::new(protection()?.open(keys, head, sealed).ok()?);
    // What follows the message is padding.
    let length = content.get(24..28)?.try_into().map(u32::from_be_bytes).ok()?;
    let Message { header, payloads } = Message::parse(content.get(..length as usize)?).ok()?.message;
    let (mut proposals, mut ids, mut sk_d) = (None, (None, None), None);
    for payload in &payloads {
        match payload {
            Payload::Sa(found) => proposals = Some(found.as_slice()),
            Payload::IdI(id) => ids.0 = Some(id.identity.clone()),
            Payload::IdR(id) => ids.1 = Some(id.identity.clone()),
            Payload::Nonce(octets) => sk_d = Some(Secret(octets.clone())),
            _ => {}
        }
    }
    let data = data_of(&payloads, notify::TICKET_OPAQUE)?;
    let (connection, rest) = data.split_first_chunk()?;
    let (ke, times) = rest.split_first_chunk()?;
    let [expires, due, end, session_end] = *times.as_chunks::<8>().0 else { return None };
    let epoch = cx.tickets.epoch?;
    let at = |millis: [u8; 8]| match u64::from_be_bytes(millis) {
        u64::MAX => None,
        millis => epoch.checked_add(Duration::from_millis(millis)),
    };
    let connection = u32::from_be_bytes(*connection) as usize;
    let config = cx.connection(connection).filter(|config| cx.is_live(connection) && is_used(config))?;
    let (suite, _) = negotiation::choose_ike(&config.proposals, proposals?, u16::from_be_bytes(*ke)).ok()?;
    let expires = at(expires).filter(|expires| now < *expires)?;
    Some(Session {
        ticket: ticket.to_vec(),
        own_spi: header.spi_r,
        connection,
        suite,
        sk_d: sk_d?,
        id_i: ids.0?,
        id_r: ids.1?,
        expires,
        authentication: Schedule::new(at(due), at(end)),
        session_end: at(session_end),
    })
}
