//! The protected side of an IKE SA: Encrypted payloads both ways, message IDs, a window of one, retransmission of
//! our request, and the answer to the peer's last one, kept for its retransmissions (RFC 7296 §2.1 to §2.3).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::api::{Datagram, DatagramPayload};
use super::context::Context;
use super::sa::{Base, Inbound, Role};
use crate::config::Retransmission;
use crate::crypto::IkeKeys;
use crate::message::{ExchangeType, Header, Message, MessageError, Payload, open};
use crate::proposal::IkeSuite;

/// SHA-256 of a request: tells a retransmission, which is the same octet by octet, from another message.
pub(super) type RequestDigest = [u8; 32];

pub(super) fn digest(octets: &[u8]) -> RequestDigest {
    Sha256::digest(octets).into()
}

/// A request of ours that is repeated until it is answered.
#[derive(Debug)]
pub(super) struct Outstanding {
    octets: Vec<u8>,
    /// Retransmissions so far.
    tries: u32,
    due: Instant,
}

/// What became of a request whose time was up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Retransmitted {
    /// It was not due.
    NotDue,
    /// It was sent again.
    Sent,
    /// It has been sent as often as it may.
    GivenUp(Unanswered),
}

/// A request that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unanswered {
    /// How often it was sent.
    pub(super) sent: u32,
    /// Its octets.
    pub(super) octets: usize,
}

impl Outstanding {
    /// Sends a request for the first time.
    pub(super) fn send(cx: &mut Context, base: &Base, now: Instant, octets: Vec<u8>) -> Self {
        send(cx, base.local, base.remote, octets.clone());
        Self { octets, tries: 0, due: now + interval(&cx.config.retransmission, 0) }
    }

    /// Its octets.
    pub(super) fn octets(&self) -> &[u8] {
        &self.octets
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Sends it again if its time has come.
    pub(super) fn retransmit(&mut self, cx: &mut Context, base: &Base, now: Instant) -> Retransmitted {
        if now < self.due {
            return Retransmitted::NotDue;
        }
        if self.tries >= cx.config.retransmission.tries {
            let unanswered = Unanswered { sent: self.tries + 1, octets: self.octets.len() };
            return Retransmitted::GivenUp(unanswered);
        }
        self.tries += 1;
        self.due = now + interval(&cx.config.retransmission, self.tries);
        send(cx, base.local, base.remote, self.octets.clone());
        Retransmitted::Sent
    }
}

/// `timeout * base^tries`, at most an hour.
fn interval(retransmission: &Retransmission, tries: u32) -> Duration {
    const LONGEST: Duration = Duration::from_secs(3600);
    let seconds = retransmission.timeout.as_secs_f64() * retransmission.base.powf(f64::from(tries));
    Duration::try_from_secs_f64(seconds).map_or(LONGEST, |interval| interval.min(LONGEST))
}

/// Puts an IKE message on its way.
pub(super) fn send(cx: &mut Context, local: SocketAddr, remote: SocketAddr, octets: Vec<u8>) {
    cx.transmit.push_back(Datagram { local, remote, payload: DatagramPayload::Ike(octets) });
}

/// A peer's request that is being worked on: it is answered to where it came from (RFC 7296 §2.11).
#[derive(Debug)]
struct Working {
    id: u32,
    exchange: ExchangeType,
    digest: RequestDigest,
    local: SocketAddr,
    remote: SocketAddr,
}

/// The answer to the peer's last request. What outlives an IKE SA, so that a peer whose last answer was lost
/// gets it again.
#[derive(Debug, Clone)]
pub(super) struct Linger {
    pub(super) digest: RequestDigest,
    pub(super) octets: Vec<u8>,
}

/// What a protected message is to us.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A new request. It is the channel's to answer with [`Channel::respond`], now or later.
    Request(ExchangeType, Vec<Payload>),
    /// The answer to our request.
    Response(Vec<Payload>),
    /// A new request, authentic but malformed.
    BadRequest(ExchangeType, MessageError),
    /// The answer to our request, authentic but malformed.
    BadResponse(MessageError),
    /// Not authentic, a retransmission (answered if it was before), or out of the window.
    Nothing,
}

/// Keys and message IDs of an IKE SA.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) suite: IkeSuite,
    pub(super) keys: IkeKeys,
    /// The next explicit IV of our direction's key. Counts, so that it never repeats (RFC 5282 §3.1).
    iv: u64,
    next_request: u32,
    outstanding: Option<(u32, ExchangeType, Outstanding)>,
    expected_request: u32,
    working: Option<Working>,
    answered: Option<Linger>,
}

impl Channel {
    /// The channel after IKE_SA_INIT, whose message ID was 0.
    pub(super) fn new(suite: IkeSuite, keys: IkeKeys, role: Role) -> Self {
        let (next_request, expected_request) = match role {
            Role::Initiator => (1, 0),
            Role::Responder => (0, 1),
        };
        Self {
            suite,
            keys,
            iv: 0,
            next_request,
            outstanding: None,
            expected_request,
            working: None,
            answered: None,
        }
    }

    /// The channel of a rekeyed IKE SA, whose message IDs begin again (RFC 7296 §2.18).
    pub(super) fn after_rekeying(suite: IkeSuite, keys: IkeKeys) -> Self {
        Self { next_request: 0, expected_request: 0, ..Self::new(suite, keys, Role::Initiator) }
    }

    /// Whether we may send a request: the window is one.
    pub(super) fn idle(&self) -> bool {
        self.outstanding.is_none()
    }

    /// Sends a request, and again until it is answered. There must be none under way: see [`Channel::idle`].
    pub(super) fn request(
        &mut self,
        cx: &mut Context,
        base: &Base,
        now: Instant,
        exchange: ExchangeType,
        payloads: Vec<Payload>,
    ) {
        let id = self.next_request;
        self.next_request = self.next_request.wrapping_add(1);
        if let Some(octets) = self.seal(base, exchange, false, id, payloads) {
            self.outstanding = Some((id, exchange, Outstanding::send(cx, base, now, octets)));
        }
    }

    /// Answers the request that is being worked on.
    pub(super) fn respond(&mut self, cx: &mut Context, base: &Base, payloads: Vec<Payload>) {
        let Some(working) = self.working.take() else { return };
        if let Some(octets) = self.seal(base, working.exchange, true, working.id, payloads) {
            self.answered = Some(Linger { digest: working.digest, octets: octets.clone() });
            send(cx, working.local, working.remote, octets);
        }
    }

    /// Takes the request that is being worked on for one that never came: its repetition is a new one.
    pub(super) fn put_off_request(&mut self) {
        if self.working.take().is_some() {
            self.expected_request = self.expected_request.wrapping_sub(1);
        }
    }

    /// The last answer, for after the end of the SA.
    pub(super) fn linger(&mut self) -> Option<Linger> {
        self.answered.take()
    }

    /// When the request under way is due again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.outstanding.as_ref().map(|(_, _, outstanding)| outstanding.due())
    }

    /// Repeats the request under way if its time has come. On [`Retransmitted::GivenUp`] the exchange is named.
    pub(super) fn retransmit(
        &mut self,
        cx: &mut Context,
        base: &Base,
        now: Instant,
    ) -> (Retransmitted, &'static str) {
        match &mut self.outstanding {
            None => (Retransmitted::NotDue, ""),
            Some((_, exchange, outstanding)) => {
                (outstanding.retransmit(cx, base, now), exchange_name(*exchange))
            }
        }
    }

    /// Takes a message: authenticates it and places it in the window.
    pub(super) fn receive(&mut self, cx: &mut Context, base: &mut Base, inbound: &Inbound<'_>) -> Incoming {
        let header = inbound.header();
        let from_initiator = base.role == Role::Responder;
        if header.initiator != from_initiator || header.spi_i != base.spi_i || header.spi_r != base.spi_r {
            return Incoming::Nothing;
        }
        if header.response {
            self.receive_response(cx, base, inbound)
        } else {
            self.receive_request(cx, base, inbound)
        }
    }

    fn receive_response(&mut self, cx: &mut Context, base: &mut Base, inbound: &Inbound<'_>) -> Incoming {
        let header = inbound.header();
        if !matches!(&self.outstanding, Some((id, exchange, _)) if *id == header.message_id && *exchange == header.exchange)
        {
            return Incoming::Nothing;
        }
        match self.open(base, inbound) {
            Err(MessageError::Integrity(_)) | Ok(None) => Incoming::Nothing,
            opened => {
                self.outstanding = None;
                base.heard_from(cx, inbound);
                match opened {
                    Ok(payloads) => Incoming::Response(payloads.unwrap_or_default()),
                    Err(error) => Incoming::BadResponse(error),
                }
            }
        }
    }

    fn receive_request(&mut self, cx: &mut Context, base: &mut Base, inbound: &Inbound<'_>) -> Incoming {
        let header = inbound.header();
        if header.message_id != self.expected_request {
            // RFC 7296 §2.1: an answered request is answered again with the same octets; anything else is old,
            // or beyond the window of one that we never widened.
            let last = self.expected_request.checked_sub(1);
            if last == Some(header.message_id)
                && let Some(answered) = &self.answered
                && answered.digest == digest(inbound.octets)
            {
                send(cx, inbound.local, inbound.remote, answered.octets.clone());
            }
            return Incoming::Nothing;
        }
        if self.working.is_some() {
            return Incoming::Nothing;
        }
        match self.open(base, inbound) {
            Err(MessageError::Integrity(_)) | Ok(None) => Incoming::Nothing,
            opened => {
                self.expected_request = self.expected_request.wrapping_add(1);
                self.answered = None;
                self.working = Some(Working {
                    id: header.message_id,
                    exchange: header.exchange,
                    digest: digest(inbound.octets),
                    local: inbound.local,
                    remote: inbound.remote,
                });
                base.heard_from(cx, inbound);
                match opened {
                    Ok(payloads) => Incoming::Request(header.exchange, payloads.unwrap_or_default()),
                    Err(error) => Incoming::BadRequest(header.exchange, error),
                }
            }
        }
    }

    /// Decrypts; `Ok(None)` if the message is not protected, which is nothing to an SA that has keys.
    fn open(&self, base: &Base, inbound: &Inbound<'_>) -> Result<Option<Vec<Payload>>, MessageError> {
        let Some(encrypted) = &inbound.received.encrypted else { return Ok(None) };
        let key = match base.role {
            Role::Initiator => &self.keys.sk_er,
            Role::Responder => &self.keys.sk_ei,
        };
        open(encrypted, self.suite.encr, key).map(Some)
    }

    fn seal(
        &mut self,
        base: &Base,
        exchange: ExchangeType,
        response: bool,
        id: u32,
        payloads: Vec<Payload>,
    ) -> Option<Vec<u8>> {
        let key = match base.role {
            Role::Initiator => &self.keys.sk_ei,
            Role::Responder => &self.keys.sk_er,
        };
        let iv = self.iv;
        // 2^64 messages do not happen; were they to, silence is better than a nonce used twice.
        self.iv = self.iv.checked_add(1)?;
        let message = Message { header: header(base, exchange, response, id), payloads };
        Some(message.emit_sealed(self.suite.encr, key, iv.to_be_bytes()))
    }
}

/// The header of a message that we send.
pub(super) fn header(base: &Base, exchange: ExchangeType, response: bool, message_id: u32) -> Header {
    Header {
        spi_i: base.spi_i,
        spi_r: base.spi_r,
        major: 2,
        minor: 0,
        exchange,
        initiator: base.role == Role::Initiator,
        response,
        message_id,
    }
}

pub(super) fn exchange_name(exchange: ExchangeType) -> &'static str {
    match exchange {
        ExchangeType::IkeSaInit => "IKE_SA_INIT",
        ExchangeType::IkeAuth => "IKE_AUTH",
        ExchangeType::CreateChildSa => "CREATE_CHILD_SA",
        ExchangeType::Informational => "INFORMATIONAL",
        ExchangeType::Other(_) => "unknown",
    }
}
