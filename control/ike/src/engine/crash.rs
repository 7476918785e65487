//! Quick crash detection (RFC 6290), and what is said of SPIs that nobody has (RFC 7296 §1.5, §2.21.4).
//!
//! Within an IKE SA either end gives the other a token. Whoever has lost its state answers a request for an IKE SA that it
//! does not know with that token in clear: it is made of nothing but the SPIs and a secret that outlives the process
//! ([`Engine::keep_tokens`]). The other end compares it with what it was given, and begins anew at once, in place of
//! repeating its request for minutes.
//!
//! A token ends an IKE SA, so that none is ever shown of one that is there (RFC 6290 §9.2): not for SPIs of which either is
//! ours, whatever the header says of who began, nor for one that a rekeying of ours has offered. ESP for no SA makes the
//! peer ask whether we live, and so come to its token.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use portcullis_ipsec::{Encapsulation, Spi, TunnelEndpoints};
use subtle::ConstantTimeEq as _;

use super::Engine;
use super::api::Event;
use super::channel::send;
use super::connections;
use super::context::{Context, Effect};
use super::established::{Established, Ours};
use super::ike_sa_init::{data_of, notification, notifications};
use super::liveness::Liveness;
use super::path::{Path, Transport};
use super::resumption;
use super::sa::{Base, Closed, Inbound};
use super::shard::{Note, Shard};
use super::state::State;
use crate::config::Secret;
use crate::crypto::Prf;
use crate::message::{ExchangeType, Header, Message, Notify, Payload, Protocol, notify};

/// Tokens of a peer's that are kept, and that are looked at in one message (RFC 6290 §4.5).
const KEPT: usize = 4;

/// A peer that was heard of so short a time ago is not asked whether it lives because somebody doubts it.
const BELIEVED: Duration = Duration::from_secs(5);

/// Messages a second that are answered, or acted on, though nothing about them is authentic: in all, and from one address.
const PER_SECOND: usize = 100;
const PER_SOURCE: u32 = 4;

/// Counts within a second what anybody can cause.
#[derive(Debug)]
pub(super) struct Throttle {
    /// In all.
    most: usize,
    since: Option<Instant>,
    all: usize,
    sources: HashMap<IpAddr, u32>,
}

impl Throttle {
    fn of(shard: Shard) -> Self {
        Self { most: shard.share(PER_SECOND), since: None, all: 0, sources: HashMap::new() }
    }

    fn lets(&mut self, now: Instant, source: IpAddr) -> bool {
        let over = |since| now.saturating_duration_since(since) >= Duration::from_secs(1);
        if self.since.is_none_or(over) {
            *self = Self { most: self.most, since: Some(now), all: 0, sources: HashMap::new() };
        }
        if self.all >= self.most {
            return false;
        }
        let of_source = self.sources.entry(source).or_default();
        if *of_source >= PER_SOURCE {
            return false;
        }
        *of_source += 1;
        self.all += 1;
        true
    }
}

/// What strays in, and what is said to it.
#[derive(Debug)]
pub(super) struct Strays {
    /// Requests for IKE SAs that are not there.
    answers: Throttle,
    /// ESP for SAs that are not there.
    esp: Throttle,
    /// What peers say of our ESP, in clear.
    hints: Throttle,
}

impl Strays {
    pub(super) fn of(shard: Shard) -> Self {
        Self { answers: Throttle::of(shard), esp: Throttle::of(shard), hints: Throttle::of(shard) }
    }
}

/// TOKEN_SECRET_DATA, from the SPIs alone (RFC 6290 §5.1), by a keyed hash.
fn token(secret: &Secret, (spi_i, spi_r): ([u8; 8], [u8; 8])) -> Vec<u8> {
    Prf::HmacSha256.compute(&secret.0, &[&spi_i, &spi_r])
}

fn is_used(cx: &Context, connection: usize) -> bool {
    cx.connection(connection).is_some_and(|connection| connection.quick_crash_detection)
}

/// Our token of an IKE SA of a connection. It stands behind AUTH (RFC 6290 §4.2).
pub(super) fn announce(cx: &Context, connection: usize, spis: ([u8; 8], [u8; 8])) -> Option<Payload> {
    let secret = cx.token_secret.as_ref().filter(|_| is_used(cx, connection))?;
    Some(shown(secret, spis))
}

fn shown(secret: &Secret, spis: ([u8; 8], [u8; 8])) -> Payload {
    let data = token(secret, spis);
    // RFC 6290 §4.1: it is about an IKE SA, whose SPIs stand in the header.
    Payload::Notify(Notify { protocol: Protocol::Ike, spi: Vec::new(), notify_type: notify::QCD_TOKEN, data })
}

/// The tokens of a message that are of a length which tokens have (RFC 6290 §5).
pub(super) fn found(payloads: &[Payload]) -> impl Iterator<Item = Secret> {
    let tokens = notifications(payloads).filter(|found| found.notify_type == notify::QCD_TOKEN);
    let tokens = tokens.filter(|found| (16..=128).contains(&found.data.len()));
    tokens.take(KEPT).map(|found| Secret(found.data.clone()))
}

/// The SPI that an INVALID_SPI notification is about.
fn unknown_spi(payloads: &[Payload]) -> Option<Spi> {
    let data = data_of(payloads, notify::INVALID_SPI)?;
    Spi::new(u32::from_be_bytes(data.try_into().ok()?))
}

fn invalid_spi(spi: Spi) -> Payload {
    notification(notify::INVALID_SPI, spi.get().to_be_bytes().to_vec())
}

impl Base {
    /// Keeps what an authentic message has of tokens; older ones stay good (RFC 6290 §5).
    pub(super) fn keep_tokens(&mut self, payloads: &[Payload]) {
        for token in found(payloads) {
            if !self.tokens.contains(&token) {
                self.tokens.push(token);
            }
        }
        self.tokens.drain(..self.tokens.len().saturating_sub(KEPT));
    }

    /// Whether a message in clear proves that the peer has lost the IKE SA.
    fn is_lost_by(&self, cx: &Context, inbound: &Inbound<'_>) -> bool {
        let (header, payloads) = (inbound.header(), &inbound.received.message.payloads);
        let says_so =
            |found: &Notify| matches!(found.notify_type, notify::INVALID_IKE_SPI | notify::INVALID_SPI);
        if inbound.received.encrypted.is_some()
            || (header.spi_i, header.spi_r) != (self.spi_i, self.spi_r)
            || !is_used(cx, self.connection)
            || !notifications(payloads).any(says_so)
        {
            return false;
        }
        let own = |token: &Secret| self.tokens.iter().any(|own| own.0.ct_eq(&token.0).into());
        found(payloads).any(|token| own(&token))
    }
}

impl Established {
    /// The end of an IKE SA that the peer has lost: without a word to it (RFC 6290 §4.5).
    pub(super) fn lost_by_peer(cx: &mut Context, base: &Base, inbound: &Inbound<'_>) -> Option<Box<Closed>> {
        if !base.is_lost_by(cx, inbound) {
            return None;
        }
        let (connection, children) = (base.connection, base.wanted());
        cx.effects.push_back(Effect::BeginAgain { connection, children });
        Some(Closed::failed(base.about(cx).peer_restarted()))
    }

    /// Gives the peer our token of an IKE SA that a rekeying of ours has made (RFC 6290 §4.3), tells it of an SPI that it
    /// uses and that we do not have, or asks it to prove itself anew, or for a ticket.
    pub(super) fn begin_notice(&mut self, cx: &mut Context, base: &mut Base, now: Instant) -> bool {
        let mut notice: Vec<Payload> = base.unknown_spi.take().map(invalid_spi).into_iter().collect();
        if std::mem::take(&mut base.owes_token) {
            notice.extend(announce(cx, base.connection, (base.spi_i, base.spi_r)));
        }
        notice.extend(Self::asks_to_reauthenticate(base));
        if std::mem::take(&mut base.wants_ticket) {
            notice.extend(resumption::ask(cx, base));
        }
        if notice.is_empty() {
            return false;
        }
        self.channel.request(cx, base, now, ExchangeType::Informational, notice);
        self.ours = Ours::Probing;
        true
    }

    /// Somebody says that the peer has lost a CHILD SA: it is asked whether it lives, unless that is known.
    fn doubt(&mut self, now: Instant) {
        if matches!(self.liveness, Liveness::Quiet) && self.heard + BELIEVED <= now {
            self.suspect();
        }
    }

    /// The peer itself says that it does not have a CHILD SA that we send on.
    pub(super) fn peer_lacks(&mut self, cx: &mut Context, base: &mut Base, payloads: &[Payload]) {
        let child = unknown_spi(payloads).and_then(|spi| base.child_of_peer(spi));
        let Some((pair, None)) = child.map(|child| (child.status.spi_in, child.successor)) else { return };
        self.close(cx, base, pair, "the peer does not have it (INVALID_SPI)");
    }
}

impl Engine {
    /// The secret that tokens of ours are made of: random, of 32 octets, the same for as long as peers may remember IKE SAs
    /// of ours, known to nobody else, and to no other gateway at the same addresses (RFC 6290 §9). Without one there are
    /// none.
    pub fn keep_tokens(&mut self, secret: Secret) {
        self.cx.token_secret = Some(secret);
    }

    /// A message that is for no IKE SA of ours.
    pub(super) fn handle_stray(&mut self, now: Instant, inbound: &Inbound<'_>) {
        let (header, payloads) = (inbound.header(), &inbound.received.message.payloads);
        let is_clear = inbound.received.encrypted.is_none();
        let hint = (header.exchange == ExchangeType::Informational && !header.response && is_clear)
            .then(|| unknown_spi(payloads))
            .flatten();
        if let Some(spi) = hint {
            return self.handle_hint(now, inbound.path.remote, spi);
        }
        self.cx.event(Event::Rejected {
            remote: inbound.path.remote,
            label: "unknown_spi",
            detail: "a message for no IKE SA of ours".to_owned(),
        });
        // Either SPI may be ours: of another shard's IKE SA that one knows.
        let other = [header.spi_i, header.spi_r].iter().find_map(|spi| self.cx.shard.other(spi));
        match other {
            Some(to) if self.may_be_lost(inbound) => {
                let datagram = inbound.path.carry(inbound.octets.to_vec());
                self.cx.tell(Note::Stray { to, datagram });
            }
            Some(_) => {}
            None => self.answer_stray(now, inbound),
        }
    }

    /// No shard knows of it.
    pub(super) fn answer_stray(&mut self, now: Instant, inbound: &Inbound<'_>) {
        if let Some(answer) = self.token_for(now, inbound) {
            send(&mut self.cx, inbound.path, &[answer]);
        }
    }

    /// Whether it is a request for an IKE SA that is not there, and that may have been before.
    fn may_be_lost(&self, inbound: &Inbound<'_>) -> bool {
        let header = inbound.header();
        // Before the end of IKE_AUTH nobody was given a token.
        !header.response
            && inbound.received.encrypted.is_some()
            && !matches!(header.exchange, ExchangeType::IkeSaInit | ExchangeType::IkeAuth)
            && [header.spi_i, header.spi_r].iter().all(|spi| *spi != [0; 8] && !self.cx.index.has_spi(spi))
            && self.cx.token_secret.is_some()
    }

    /// The answer to a request for an IKE SA that is not there, if the peer may have had one with us. Without a token nobody
    /// may act on it, so that there is none.
    fn token_for(&mut self, now: Instant, inbound: &Inbound<'_>) -> Option<Vec<u8>> {
        let header = inbound.header();
        let spis = (header.spi_i, header.spi_r);
        let secret = self.cx.token_secret.as_ref().filter(|_| self.may_be_lost(inbound))?;
        if !self.may_be_peer(inbound.path.local, inbound.path.remote)
            || !self.strays.answers.lets(now, inbound.path.remote.ip())
        {
            return None;
        }
        let header = Header { initiator: !header.initiator, response: true, major: 2, minor: 0, ..*header };
        let payloads = vec![notification(notify::INVALID_IKE_SPI, Vec::new()), shown(secret, spis)];
        Some(Message { header, payloads }.emit())
    }

    /// Whether a connection that has to do with this allows both addresses.
    fn may_be_peer(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        let allowed = connections::candidates(&self.cx, local.ip(), remote.ip());
        allowed.into_iter().any(|connection| is_used(&self.cx, connection))
    }

    /// Somebody says that our ESP finds no SA (RFC 7296 §1.5): a hint, and not to be answered.
    fn handle_hint(&mut self, now: Instant, from: SocketAddr, spi: Spi) {
        if !self.strays.hints.lets(now, from.ip()) {
            return;
        }
        self.cx.tell(Note::Hint { from: from.ip(), spi });
        self.heed_hint(now, from.ip(), spi);
    }

    /// The same, heard of by whichever shard.
    pub(super) fn heed_hint(&mut self, now: Instant, from: IpAddr, spi: Spi) {
        for id in self.cx.index.of_address(from) {
            self.step(now, id, |mut state, _, base| {
                if let State::Established(established) = &mut state
                    && base.child_of_peer(spi).is_some()
                {
                    established.doubt(now);
                }
                Ok(state)
            });
            self.nudge(now, id);
        }
    }

    /// The peer sends on a CHILD SA that we do not have: it is told so, within an IKE SA if there is one.
    pub(super) fn unknown_spi(&mut self, now: Instant, spi: Spi, seen: TunnelEndpoints) {
        if !self.strays.esp.lets(now, seen.remote) {
            return;
        }
        let port = self.cx.config.port;
        let (local_port, remote_port) = match seen.encapsulation {
            Encapsulation::None => (port, port),
            Encapsulation::Udp { local_port, remote_port }
            | Encapsulation::Tcp { local_port, remote_port } => (local_port, remote_port),
        };
        let path = Path {
            local: SocketAddr::new(seen.local, local_port),
            remote: SocketAddr::new(seen.remote, remote_port),
            transport: match seen.encapsulation {
                Encapsulation::None | Encapsulation::Udp { .. } => Transport::Udp,
                Encapsulation::Tcp { .. } => Transport::Tcp,
            },
        };
        if let Some(id) = self.serving(&seen) {
            if let Some(sa) = self.sas.get_mut(&id) {
                sa.base.unknown_spi = Some(spi);
            }
            return self.nudge(now, id);
        }
        if !self.may_be_peer(path.local, path.remote) {
            return;
        }
        let header = Header {
            spi_i: [0; 8],
            spi_r: [0; 8],
            major: 2,
            minor: 0,
            exchange: ExchangeType::Informational,
            initiator: true,
            response: false,
            message_id: 0,
        };
        let hint = Message { header, payloads: vec![invalid_spi(spi)] }.emit();
        send(&mut self.cx, path, &[hint]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answer, made with Python: `hmac.new(bytes(range(32)), bytes(range(16)), hashlib.sha256)`.
    #[test]
    fn a_token_is_the_keyed_hash_of_both_spis_in_the_notification_of_rfc_6290() {
        let secret = Secret((0..32).collect());
        let spis = (std::array::from_fn(|i| i as u8), std::array::from_fn(|i| i as u8 + 8));
        let header = Header {
            spi_i: spis.0,
            spi_r: spis.1,
            major: 2,
            minor: 0,
            exchange: ExchangeType::Informational,
            initiator: false,
            response: true,
            message_id: 5,
        };
        let octets = Message { header, payloads: vec![shown(&secret, spis)] }.emit();
        let notify = data_encoding::HEXLOWER.encode(octets.get(28..).unwrap());
        assert_eq!(notify, format!("0000002801004023{KNOWN}"));
    }

    const KNOWN: &str = "d8b99f2709a3ca74172cbe93824c1f29b23a0c1e9c21bd851ff2d2c39dbef14e";

    #[test]
    fn what_anybody_can_cause_is_bounded_in_all_and_for_each_source() {
        let (mut throttle, now) = (Throttle::of(Shard::ALONE), Instant::now());
        let source = |n: u32| IpAddr::from(n.to_be_bytes());
        let passed = (0..10).filter(|_| throttle.lets(now, source(1))).count();
        assert_eq!(passed, PER_SOURCE as usize);
        let others = (2..1000).filter(|n| throttle.lets(now, source(*n))).count();
        assert_eq!(others, PER_SECOND - PER_SOURCE as usize);
        assert!(throttle.lets(now + Duration::from_secs(1), source(1)));
    }
}
