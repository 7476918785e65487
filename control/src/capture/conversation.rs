//! The messages of one negotiation, by the initiator's SPI.

use std::net::SocketAddr;

use portcullis_ike::message::{
    ExchangeType, Header, Message, MessageError, Notify, Payload, Received, WireProposal,
};

use super::keys::Keys;
use super::read::{Reading, Seen};

/// Negotiations that are looked at.
const MOST: usize = 200;

/// A message of a negotiation.
#[derive(Debug)]
pub struct Line {
    /// Microseconds since the file's first packet.
    pub micros: u64,
    /// From the initiator.
    pub from_initiator: bool,
    /// As it was seen.
    pub seen: Seen,
    /// What it says, as far as it can be read.
    pub received: Result<Received, MessageError>,
    /// What it says inside, with keys.
    pub inside: Option<Vec<Payload>>,
    /// Octet by octet as an earlier one.
    pub repeated: bool,
}

impl Line {
    /// Its header.
    pub fn header(&self) -> Option<&Header> {
        self.received.as_ref().ok().map(|received| &received.message.header)
    }

    /// Whether it is that exchange's request or response.
    pub fn is(&self, exchange: ExchangeType, response: bool) -> bool {
        self.header().is_some_and(|header| header.exchange == exchange && header.response == response)
    }

    /// Its payloads, those inside too if there are keys.
    pub fn payloads(&self) -> impl Iterator<Item = &Payload> {
        let outside = self.received.iter().flat_map(|received| &received.message.payloads);
        outside.chain(self.inside.iter().flatten())
    }

    /// The first error notification (RFC 7296 §3.10.1).
    pub fn error(&self) -> Option<&Notify> {
        self.notifications().find(|notify| notify.notify_type < 16384)
    }

    /// Its notifications.
    pub fn notifications(&self) -> impl Iterator<Item = &Notify> {
        self.payloads().filter_map(|payload| match payload {
            Payload::Notify(notify) => Some(notify),
            _ => None,
        })
    }

    /// The proposals of its SA payload.
    pub fn proposals(&self) -> Option<&[WireProposal]> {
        self.payloads().find_map(|payload| match payload {
            Payload::Sa(proposals) => Some(proposals.as_slice()),
            _ => None,
        })
    }

    /// Whether it is a fragment of a message (RFC 7383).
    pub fn is_fragment(&self) -> bool {
        let encrypted = self.received.as_ref().ok().and_then(|received| received.encrypted.as_ref());
        encrypted.is_some_and(|encrypted| encrypted.fragment.is_some())
    }

    /// Octets of what is encrypted, with IV and ICV.
    pub fn encrypted(&self) -> Option<usize> {
        self.received.as_ref().ok()?.encrypted.as_ref().map(|encrypted| encrypted.body.len())
    }
}

/// A negotiation.
#[derive(Debug)]
pub struct Conversation {
    /// The initiator's SPI.
    pub spi_i: [u8; 8],
    /// Where the initiator's first message came from.
    pub initiator: SocketAddr,
    /// Where it went to.
    pub responder: SocketAddr,
    /// Of IKEv1 if 1.
    pub major: u8,
    /// Its messages in order.
    pub lines: Vec<Line>,
}

impl Conversation {
    /// The messages of an exchange, in one direction.
    pub fn of(&self, exchange: ExchangeType, response: bool) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.is(exchange, response))
    }
}

/// Puts messages together.
pub fn conversations(reading: &Reading, keys: &Keys) -> Vec<Conversation> {
    let mut found: Vec<Conversation> = Vec::new();
    for seen in &reading.messages {
        let Some((spi_i, major, flags)) = outline(&seen.octets) else { continue };
        let existing = found.iter_mut().position(|known| known.spi_i == spi_i);
        let (initiator_sent, known) = match existing {
            Some(index) => (None, index),
            None if found.len() >= MOST => continue,
            None => {
                // In IKEv1 there is no flag; whoever is seen first has begun.
                let began = major < 2 || flags & 0x08 != 0;
                let (initiator, responder) = if began { (seen.src, seen.dst) } else { (seen.dst, seen.src) };
                found.push(Conversation { spi_i, initiator, responder, major, lines: Vec::new() });
                (Some(began), found.len() - 1)
            }
        };
        let Some(conversation) = found.get_mut(known) else { continue };
        let from_initiator = initiator_sent.unwrap_or(seen.src.ip() == conversation.initiator.ip());
        let received = Message::parse(&seen.octets);
        let repeated = conversation.lines.iter().any(|line| line.seen.octets == seen.octets);
        let line = Line {
            micros: seen.micros,
            from_initiator,
            seen: seen.clone(),
            received,
            inside: None,
            repeated,
        };
        conversation.lines.push(line);
    }
    for conversation in &mut found {
        keys.open(conversation);
    }
    found
}

/// Initiator's SPI, major version and flags of what may be an IKE message.
fn outline(octets: &[u8]) -> Option<([u8; 8], u8, u8)> {
    let head: &[u8; 28] = octets.first_chunk()?;
    let spi_i = *head.first_chunk::<8>()?;
    (spi_i != [0; 8]).then_some((spi_i, head[17] >> 4, head[19]))
}
