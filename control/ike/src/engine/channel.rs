//! The protected side of an IKE SA: Encrypted payloads both ways, message IDs, a window of one, retransmission of
//! our request, and the answer to the peer's last one, kept for its retransmissions (RFC 7296 §2.1 to §2.3). Messages
//! that are too long for the path go and come in fragments (RFC 7383).

pub(super) mod synchronisation;

use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::context::Context;
use super::ike_sa_init::InitRecord;
use super::path::Path;
use super::reassembly::{Reassembly, Whole};
use super::sa::{Base, Inbound, Role};
use crate::config::{IkeFragmentation, Retransmission, Secret};
use crate::crypto::{IkeKeys, KdfInput, SharedSecret, derive_rekeyed_ike_keys};
use crate::message::{
    ExchangeType, Header, Message, MessageError, Payload, Sealing, authenticated_later, decrypt, payloads,
};
use crate::proposal::IkeSuite;
use synchronisation::Synchronised;

/// SHA-256 of a request: tells a retransmission, which is the same octet by octet, from another message.
pub(super) type RequestDigest = [u8; 32];

pub(super) fn digest(octets: &[u8]) -> RequestDigest {
    Sha256::digest(octets).into()
}

/// A request of ours that is repeated until it is answered.
#[derive(Debug)]
pub(super) struct Outstanding {
    /// The request, or its fragments.
    datagrams: Vec<Vec<u8>>,
    /// Retransmissions so far.
    tries: u32,
    due: Instant,
    /// Which way it went last.
    path: Path,
}

/// What became of a request whose time was up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Retransmitted {
    /// It was not due.
    NotDue,
    /// It was sent again, or is left to the TCP stream that has it.
    Sent,
    /// It has been sent as often as it may.
    GivenUp(Unanswered),
}

/// A request that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unanswered {
    /// How often it was sent.
    pub(super) sent: u32,
    /// Octets of its largest datagram.
    pub(super) octets: usize,
}

impl Outstanding {
    /// Sends a request for the first time.
    pub(super) fn send(cx: &mut Context, base: &Base, now: Instant, datagrams: Vec<Vec<u8>>) -> Self {
        let path = base.path();
        send(cx, path, &datagrams);
        Self { datagrams, tries: 0, due: now + interval(&cx.config.retransmission, 0), path }
    }

    /// Its octets, if it is no fragments.
    pub(super) fn octets(&self) -> &[u8] {
        self.datagrams.first().map(Vec::as_slice).unwrap_or_default()
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
            let octets = self.datagrams.iter().map(Vec::len).max().unwrap_or_default();
            let unanswered = Unanswered { sent: self.tries + 1, octets };
            return Retransmitted::GivenUp(unanswered);
        }
        self.tries += 1;
        self.due = now + interval(&cx.config.retransmission, self.tries);
        // RFC 9329 §6.2: TCP itself repeats what is lost, and another stream gets it at once.
        if !base.path().is_stream() {
            self.send_again(cx, base);
        } else {
            self.follow(cx, base);
        }
        Retransmitted::Sent
    }

    /// Sends it again if messages go by another TCP stream than it went by (RFC 9329 §6.2).
    fn follow(&mut self, cx: &mut Context, base: &Base) {
        if base.path().is_stream() && base.path() != self.path {
            self.send_again(cx, base);
        }
    }

    fn send_again(&mut self, cx: &mut Context, base: &Base) {
        self.path = base.path();
        send(cx, self.path, &self.datagrams);
    }
}

/// `timeout * base^tries`, at most an hour.
fn interval(retransmission: &Retransmission, tries: u32) -> Duration {
    const LONGEST: Duration = Duration::from_secs(3600);
    let seconds = retransmission.timeout.as_secs_f64() * retransmission.base.powf(f64::from(tries));
    Duration::try_from_secs_f64(seconds).map_or(LONGEST, |interval| interval.min(LONGEST))
}

/// Puts an IKE message, or its fragments, on their way.
pub(super) fn send(cx: &mut Context, path: Path, datagrams: &[Vec<u8>]) {
    cx.transmit.extend(datagrams.iter().map(|octets| path.carry(octets.clone())));
}

/// What is kept for long takes no more than it needs.
fn kept(mut datagrams: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    datagrams.iter_mut().for_each(Vec::shrink_to_fit);
    datagrams.shrink_to_fit();
    datagrams
}

/// Octets of an IKE message that fit into one IP packet of the size that is configured, between these addresses.
fn largest_message(cx: &Context, Path { local, remote, .. }: Path) -> usize {
    const UDP_HEADER: usize = 8;
    const NON_ESP_MARKER: usize = 4;
    let (ip_header, smallest) = if remote.is_ipv4() { (20, SMALLEST_V4) } else { (40, SMALLEST_V6) };
    let marker = if local.port() == cx.config.port { 0 } else { NON_ESP_MARKER };
    let packet = match cx.config.fragment_size {
        0 => smallest,
        size => size,
    };
    packet.saturating_sub(ip_header + UDP_HEADER + marker)
}

/// What every path carries (RFC 7383 §2.5.1).
const SMALLEST_V4: usize = 576;
const SMALLEST_V6: usize = 1280;

/// A peer's request that is being worked on: it is answered to where it came from (RFC 7296 §2.11).
#[derive(Debug)]
struct Working {
    id: u32,
    exchange: ExchangeType,
    digest: RequestDigest,
    path: Path,
}

/// The answer to the peer's last request. What outlives an IKE SA, so that a peer whose last answer was lost
/// gets it again.
#[derive(Debug, Clone)]
pub(super) struct Linger {
    pub(super) digest: RequestDigest,
    pub(super) datagrams: Vec<Vec<u8>>,
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
    /// Messages sealed with our direction's keys so far: from it come IVs that never repeat (RFC 5282 §3.1).
    sealed: u64,
    next_request: u32,
    outstanding: Option<(u32, ExchangeType, Outstanding)>,
    expected_request: u32,
    working: Option<Working>,
    answered: Option<Linger>,
    /// The last time that the peer had message IDs set anew (RFC 6311).
    synchronised: Option<Box<Synchronised>>,
    /// A message of the peer's that is still coming: a request, and a response.
    coming: [Option<Box<Reassembly>>; 2],
    /// The keys without the PPK that was mixed in, until both ends are known to have it.
    unmixed: Option<Box<IkeKeys>>,
    /// What our IKE_AUTH request shows outside of what is encrypted.
    shown: Option<Payload>,
    /// IKE_INTERMEDIATE exchanges so far.
    intermediate: u32,
    /// What AUTH covers of the messages that both ends sent in them; empty before the first.
    int_auth_i: Vec<u8>,
    int_auth_r: Vec<u8>,
}

impl Channel {
    /// The channel after IKE_SA_INIT, whose message ID was 0. Boxed, because it goes from state to state, and no other state is
    /// to be as large.
    pub(super) fn new(suite: IkeSuite, keys: IkeKeys, role: Role) -> Box<Self> {
        let (next_request, expected_request) = match role {
            Role::Initiator => (1, 0),
            Role::Responder => (0, 1),
        };
        Box::new(Self {
            suite,
            keys,
            sealed: 0,
            next_request,
            outstanding: None,
            expected_request,
            working: None,
            answered: None,
            synchronised: None,
            coming: [None, None],
            unmixed: None,
            shown: None,
            intermediate: 0,
            int_auth_i: Vec::new(),
            int_auth_r: Vec::new(),
        })
    }

    /// The channel of a rekeyed IKE SA, whose message IDs begin again (RFC 7296 §2.18).
    pub(super) fn after_rekeying(suite: IkeSuite, keys: IkeKeys) -> Box<Self> {
        let mut channel = Self::new(suite, keys, Role::Initiator);
        (channel.next_request, channel.expected_request) = (0, 0);
        channel
    }

    /// An additional key exchange has made this secret: from the next message on there are other keys (RFC 9370 §2.2.2).
    pub(super) fn renew_keys(&mut self, base: &Base, record: &InitRecord, shared: SharedSecret) {
        let IkeSuite { prf, protection, .. } = self.suite;
        let (nonce_i, nonce_r) = (&record.nonce_i, &record.nonce_r);
        let input = KdfInput { nonce_i, nonce_r, spi_i: base.spi_i, spi_r: base.spi_r };
        self.keys = derive_rekeyed_ike_keys(prf, &self.keys.sk_d, prf, protection, &[shared], input);
        self.intermediate += 1;
    }

    /// Our first IKE_AUTH request has this outside of what is encrypted.
    pub(super) fn show(&mut self, payload: Option<Payload>) {
        self.shown = payload;
    }

    /// Mixes a post-quantum pre-shared key into the keys (RFC 8784 §3).
    pub(super) fn mix(&mut self, ppk: &Secret) {
        let mixed = self.keys.with_ppk(self.suite.prf, &ppk.0);
        self.unmixed = Some(Box::new(std::mem::replace(&mut self.keys, mixed)));
    }

    /// Takes it out again.
    pub(super) fn unmix(&mut self) {
        if let Some(keys) = self.unmixed.take() {
            self.keys = *keys;
        }
    }

    /// It stays in.
    pub(super) fn settle(&mut self) {
        self.unmixed = None;
    }

    pub(super) fn is_mixed(&self) -> bool {
        self.unmixed.is_some()
    }

    /// What AUTH covers of IKE_INTERMEDIATE exchanges, if there were any: `IntAuth_i | IntAuth_r | message ID of IKE_AUTH`
    /// (RFC 9242 §3.3.2).
    pub(super) fn int_auth(&self) -> Vec<u8> {
        match self.intermediate {
            0 => Vec::new(),
            // IKE_SA_INIT had the message ID 0.
            count => [&self.int_auth_i[..], &self.int_auth_r, &(count + 1).to_be_bytes()].concat(),
        }
    }

    /// AUTH will cover a message of that end: `IntAuth = prf(SK_p, IntAuth before | message)`.
    pub(super) fn authenticate_later(&mut self, of: Role, octets: &[u8]) {
        let (sk_p, int_auth) = match of {
            Role::Initiator => (&self.keys.sk_pi, &mut self.int_auth_i),
            Role::Responder => (&self.keys.sk_pr, &mut self.int_auth_r),
        };
        *int_auth = self.suite.prf.compute(sk_p, &[int_auth, octets]);
    }

    /// The same, if it is a message of an exchange whose messages AUTH covers.
    fn received(&mut self, base: &Base, inbound: &Inbound<'_>, whole: Option<&Whole>) {
        if let (ExchangeType::IkeIntermediate, Some(whole)) = (inbound.header().exchange, whole) {
            let octets = authenticated_later(&whole.head, whole.fragmented, &whole.content);
            self.authenticate_later(base.role.other(), &octets);
        }
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
        let size = fragment_size(cx, base, base.path());
        if let Some(datagrams) = self.seal(base, exchange, false, id, payloads, size) {
            self.outstanding = Some((id, exchange, Outstanding::send(cx, base, now, datagrams)));
        }
    }

    /// Answers the request that is being worked on.
    pub(super) fn respond(&mut self, cx: &mut Context, base: &Base, payloads: Vec<Payload>) {
        let Some(working) = self.working.take() else { return };
        let size = fragment_size(cx, base, working.path);
        if let Some(datagrams) = self.seal(base, working.exchange, true, working.id, payloads, size) {
            send(cx, working.path, &datagrams);
            self.answered = Some(Linger { digest: working.digest, datagrams: kept(datagrams) });
        }
    }

    /// Takes the request that is being worked on for one that never came: its repetition is a new one.
    pub(super) fn put_off_request(&mut self) {
        let working = self.working.take();
        // Unless message IDs have been set anew since.
        if let Some(working) = working.filter(|working| working.id.wrapping_add(1) == self.expected_request) {
            self.expected_request = working.id;
        }
    }

    /// Which way the request came that is being worked on.
    pub(super) fn asked_by(&self) -> Option<Path> {
        self.working.as_ref().map(|working| working.path)
    }

    /// The way has changed: the request under way is sent again at once, as often as on the old one.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let Some((_, _, outstanding)) = &mut self.outstanding {
            (outstanding.tries, outstanding.due) = (0, now);
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
                self.received(base, inbound, opened.as_ref().ok().and_then(Option::as_ref));
                base.heard_from(cx, inbound);
                match opened.and_then(|whole| whole.map_or(Ok(Vec::new()), |whole| whole.payloads())) {
                    Ok(payloads) => Incoming::Response(payloads),
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
            if self.expected_request.checked_sub(1) == Some(header.message_id)
                && let Some(answered) = &self.answered
                && self.repeats(base, inbound, answered)
            {
                send(cx, inbound.path, &answered.datagrams);
                return Incoming::Nothing;
            }
        }
        let synchronised = self.synchronise(cx, base, inbound);
        if synchronised || header.message_id != self.expected_request {
            return Incoming::Nothing;
        }
        if self.working.is_some() {
            return Incoming::Nothing;
        }
        let opened = match self.open(base, inbound) {
            Err(MessageError::Integrity(_)) | Ok(None) => return Incoming::Nothing,
            Ok(Some(whole)) => Ok(whole),
            Err(error) => Err(error),
        };
        self.expected_request = self.expected_request.wrapping_add(1);
        self.answered = None;
        self.received(base, inbound, opened.as_ref().ok());
        self.working = Some(Working {
            id: header.message_id,
            exchange: header.exchange,
            digest: opened.as_ref().map_or_else(|_| digest(inbound.octets), |whole| whole.digest),
            path: inbound.path,
        });
        base.heard_from(cx, inbound);
        if let Some((_, _, outstanding)) = &mut self.outstanding {
            outstanding.follow(cx, base);
        }
        match opened.and_then(|whole| whole.payloads()) {
            Ok(payloads) => Incoming::Request(header.exchange, payloads),
            Err(error) => Incoming::BadRequest(header.exchange, error),
        }
    }

    /// Whether a message is the request that was answered last: octet by octet, or, cut into fragments of another size,
    /// by its first (RFC 7383 §2.6.1).
    fn repeats(&self, base: &Base, inbound: &Inbound<'_>, answered: &Linger) -> bool {
        if answered.digest == digest(inbound.octets) {
            return true;
        }
        let first = inbound.received.encrypted.as_ref().filter(|encrypted| {
            base.fragmentation && encrypted.fragment.is_some_and(|fragment| fragment.number == 1)
        });
        first.is_some_and(|first| decrypt(first, self.sealing(base.role.other())).is_ok())
    }

    /// Decrypts; `Ok(None)` if the message is not protected, which is nothing to an SA that has keys, or not whole yet.
    fn open(&mut self, base: &Base, inbound: &Inbound<'_>) -> Result<Option<Whole>, MessageError> {
        let Some(encrypted) = &inbound.received.encrypted else { return Ok(None) };
        let header = inbound.header();
        if let Some(fragment) = encrypted.fragment {
            let [requests, responses] = &self.coming;
            let coming = if header.response { responses } else { requests };
            let wanted = coming.as_ref().is_none_or(|coming| {
                coming.lacks(header.message_id, fragment)
                    || coming.is_outdated_by(header.message_id, fragment)
            });
            if !base.fragmentation || !wanted {
                return Ok(None);
            }
        }
        let whole = Whole {
            first_payload: encrypted.first_payload,
            content: decrypt(encrypted, self.sealing(base.role.other()))?,
            digest: digest(inbound.octets),
            head: encrypted.aad.clone(),
            fragmented: encrypted.fragment.is_some(),
        };
        let Some(fragment) = encrypted.fragment else { return Ok(Some(whole)) };
        let [requests, responses] = &mut self.coming;
        let coming = if header.response { responses } else { requests };
        if coming.as_ref().is_none_or(|coming| coming.is_outdated_by(header.message_id, fragment)) {
            *coming = Some(Box::new(Reassembly::new(header.message_id, fragment.total)));
        }
        let whole = coming.as_mut().and_then(|coming| coming.add(fragment.number, whole));
        if whole.is_some() {
            *coming = None;
        }
        Ok(whole)
    }

    /// The datagrams of a message, which are no longer than `size`.
    fn seal(
        &mut self,
        base: &Base,
        exchange: ExchangeType,
        response: bool,
        id: u32,
        payloads: Vec<Payload>,
        size: usize,
    ) -> Option<Vec<Vec<u8>>> {
        let message = Message { header: header(base, exchange, response, id), payloads };
        if exchange == ExchangeType::IkeIntermediate {
            self.authenticate_later(base.role, &message.emit_for_authentication());
        }
        let shown = if exchange == ExchangeType::IkeAuth { self.shown.take() } else { None };
        let datagrams = message.emit_within(shown.as_slice(), self.sealing(base.role), self.sealed, size);
        // 2^64 messages do not happen; were they to, silence is better than a nonce used twice.
        self.sealed = self.sealed.checked_add(datagrams.len() as u64)?;
        Some(datagrams)
    }

    /// Whether fragments of a message are kept.
    #[cfg(test)]
    pub(super) fn has_fragments(&self) -> bool {
        self.coming.iter().any(Option::is_some)
    }

    /// What the messages of an end are sealed with.
    fn sealing(&self, of: Role) -> Sealing<'_> {
        let keys = match of {
            Role::Initiator => self.keys.of_initiator(),
            Role::Responder => self.keys.of_responder(),
        };
        Sealing { protection: self.suite.protection, keys }
    }
}

impl Whole {
    fn payloads(&self) -> Result<Vec<Payload>, MessageError> {
        payloads(self.first_payload, &self.content)
    }
}

/// The longest datagram for a message; there is none that is too long where we do not send fragments.
fn fragment_size(cx: &Context, base: &Base, path: Path) -> usize {
    // RFC 9329 §7.5.
    if path.is_stream() {
        return usize::MAX;
    }
    let mode = cx.connection(base.connection).map(|connection| connection.fragmentation);
    match mode {
        Some(IkeFragmentation::Yes) if base.fragmentation => largest_message(cx, path),
        _ => usize::MAX,
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

/// What RFC 7296 §3.1 and its successors call an exchange.
pub fn exchange_name(exchange: ExchangeType) -> &'static str {
    match exchange {
        ExchangeType::IkeSaInit => "IKE_SA_INIT",
        ExchangeType::IkeAuth => "IKE_AUTH",
        ExchangeType::CreateChildSa => "CREATE_CHILD_SA",
        ExchangeType::Informational => "INFORMATIONAL",
        ExchangeType::IkeSessionResume => "IKE_SESSION_RESUME",
        ExchangeType::IkeIntermediate => "IKE_INTERMEDIATE",
        ExchangeType::IkeFollowupKe => "IKE_FOLLOWUP_KE",
        ExchangeType::Other(_) => "unknown",
    }
}
