//! Octets to messages (RFC 7296 §3).

use std::net::{Ipv4Addr, Ipv6Addr};

use portcullis_ipsec::{AddressRange, PortRange, TrafficSelector};

use super::configuration;
use super::reader::Reader;
use super::{
    Encrypted, ExchangeType, Fragment, Header, IdPayload, Message, MessageError, Notify, Payload, Protocol,
    Received, Sealing, Transform, WireProposal, payload_type as types,
};
use crate::config::Identity;

pub(super) const HEADER_LEN: usize = 28;
pub(super) const PAYLOAD_HEADER_LEN: usize = 4;
pub(super) const FRAGMENT_HEADER_LEN: usize = 4;
pub(super) const FLAG_INITIATOR: u8 = 0x08;
pub(super) const FLAG_RESPONSE: u8 = 0x20;
const CRITICAL: u8 = 0x80;

impl Header {
    /// The header alone, of whatever version, with the type of the first payload and the length it claims. Serves
    /// to answer a message that cannot be parsed further.
    pub fn parse(octets: &[u8]) -> Result<(Self, u8, usize), MessageError> {
        let mut reader = Reader::new(octets);
        let spi_i = reader.array("the initiator's SPI")?;
        let spi_r = reader.array("the responder's SPI")?;
        let first = reader.u8("the header")?;
        let version = reader.u8("the header")?;
        let exchange = ExchangeType::from_number(reader.u8("the header")?);
        let flags = reader.u8("the header")?;
        let message_id = reader.u32("the message ID")?;
        let length = reader.u32("the length")? as usize;
        let header = Self {
            spi_i,
            spi_r,
            major: version >> 4,
            minor: version & 0x0f,
            exchange,
            initiator: flags & FLAG_INITIATOR != 0,
            response: flags & FLAG_RESPONSE != 0,
            message_id,
        };
        Ok((header, first, length))
    }
}

impl Message {
    /// Parses a whole datagram's octets.
    pub fn parse(octets: &[u8]) -> Result<Received, MessageError> {
        let (header, first, length) = Header::parse(octets)?;
        if header.major != 2 {
            return Err(MessageError::Version { major: header.major, minor: header.minor });
        }
        if length != octets.len() {
            let expected = "the datagram's own length";
            return Err(MessageError::Length { what: "the message", found: length, expected });
        }
        let mut reader = Reader::new(octets);
        reader.take(HEADER_LEN, "the header")?;
        let mut chain = Chain { next: first, reader };
        let mut payloads = Vec::new();
        let mut encrypted = None;
        while let Some(raw) = chain.next()? {
            if raw.payload_type != types::SK && raw.payload_type != types::SKF {
                payloads.push(payload(raw)?);
                continue;
            }
            // Next Payload names what is inside, so nothing can follow (RFC 7296 §3.14, RFC 7383 §2.5).
            if !chain.reader.is_empty() {
                let (what, found) = ("the Encrypted payload", raw.body.len());
                return Err(MessageError::Length { what, found, expected: "to close the message" });
            }
            let (fragment, body) = match raw.payload_type {
                types::SKF => fragment(raw.body)?,
                _ => (None, raw.body),
            };
            let aad = octets.get(..octets.len() - body.len()).unwrap_or_default().to_vec();
            encrypted = Some(Encrypted { first_payload: chain.next, fragment, aad, body: body.to_vec() });
            break;
        }
        Ok(Received { message: Self { header, payloads }, encrypted })
    }
}

/// The header of an Encrypted Fragment payload, and what is behind it.
fn fragment(body: &[u8]) -> Result<(Option<Fragment>, &[u8]), MessageError> {
    let mut reader = Reader::new(body);
    let number = reader.u16("the fragment number")?;
    let total = reader.u16("the fragment total")?;
    if number == 0 || number > total {
        return Err(MessageError::Invalid { what: "the fragment number", found: number.into() });
    }
    Ok((Some(Fragment { number, total }), reader.rest()))
}

/// Decrypts an Encrypted payload that is no fragment and parses the payloads in it. Any error but
/// [`MessageError::Integrity`] is about content that the peer has authenticated.
pub fn open(encrypted: &Encrypted, sealing: Sealing<'_>) -> Result<Vec<Payload>, MessageError> {
    payloads(encrypted.first_payload, &decrypt(encrypted, sealing)?)
}

/// Decrypts an Encrypted payload or a fragment: what is in it, without padding. Errors as of [`open`].
pub fn decrypt(encrypted: &Encrypted, sealing: Sealing<'_>) -> Result<Vec<u8>, MessageError> {
    let Sealing { protection, keys } = sealing;
    let mut content = protection.open(keys, &encrypted.aad, &encrypted.body)?;
    let Some(pad_length) = content.pop() else {
        return Err(MessageError::Truncated { what: "the pad length", needed: 1, found: 0 });
    };
    let pad_length = usize::from(pad_length);
    let length = MessageError::Length { what: "the padding", found: pad_length, expected: "to fit" };
    content.truncate(content.len().checked_sub(pad_length).ok_or(length)?);
    Ok(content)
}

/// Parses the payloads that were in an Encrypted payload.
pub fn payloads(first_payload: u8, content: &[u8]) -> Result<Vec<Payload>, MessageError> {
    let mut chain = Chain { next: first_payload, reader: Reader::new(content) };
    let mut payloads = Vec::new();
    while let Some(raw) = chain.next()? {
        payloads.push(payload(raw)?);
    }
    Ok(payloads)
}

/// Payloads one behind another, each naming the type of the next.
struct Chain<'a> {
    next: u8,
    reader: Reader<'a>,
}

struct RawPayload<'a> {
    payload_type: u8,
    critical: bool,
    body: &'a [u8],
}

impl<'a> Chain<'a> {
    fn next(&mut self) -> Result<Option<RawPayload<'a>>, MessageError> {
        if self.next == types::NONE {
            if !self.reader.is_empty() {
                let found = self.reader.len();
                return Err(MessageError::Length {
                    what: "the last payload",
                    found,
                    expected: "nothing behind it",
                });
            }
            return Ok(None);
        }
        let payload_type = self.next;
        self.next = self.reader.u8("a payload header")?;
        let flags = self.reader.u8("a payload header")?;
        let length = usize::from(self.reader.u16("a payload header")?);
        let expected = "at least 4 and at most what is left";
        let mut body = self.reader.part(length, PAYLOAD_HEADER_LEN, "a payload", expected)?;
        Ok(Some(RawPayload { payload_type, critical: flags & CRITICAL != 0, body: body.rest() }))
    }
}

fn payload(raw: RawPayload<'_>) -> Result<Payload, MessageError> {
    let mut reader = Reader::new(raw.body);
    let payload = match raw.payload_type {
        types::SA => Payload::Sa(proposals(&mut reader)?),
        types::KE => {
            let method = reader.u16("the KE payload")?;
            reader.u16("the KE payload")?;
            Payload::Ke { method, data: reader.rest().to_vec() }
        }
        types::ID_I => Payload::IdI(identification(&mut reader)?),
        types::ID_R => Payload::IdR(identification(&mut reader)?),
        types::CERT => {
            let encoding = reader.u8("the CERT payload")?;
            Payload::Cert { encoding, data: reader.rest().to_vec() }
        }
        types::CERTREQ => {
            let encoding = reader.u8("the CERTREQ payload")?;
            Payload::CertReq { encoding, authorities: reader.rest().to_vec() }
        }
        types::AUTH => {
            let method = reader.u8("the AUTH payload")?;
            reader.array::<3>("the AUTH payload")?;
            Payload::Auth { method, data: reader.rest().to_vec() }
        }
        types::NONCE => {
            let nonce = reader.rest();
            if !(16..=256).contains(&nonce.len()) {
                let expected = "16 to 256";
                return Err(MessageError::Length { what: "the nonce", found: nonce.len(), expected });
            }
            Payload::Nonce(nonce.to_vec())
        }
        types::NOTIFY => Payload::Notify(notify(&mut reader)?),
        types::DELETE => delete(&mut reader)?,
        types::VENDOR_ID => Payload::VendorId(reader.rest().to_vec()),
        types::TS_I => Payload::TsI(selectors(&mut reader)?),
        types::TS_R => Payload::TsR(selectors(&mut reader)?),
        types::CP => Payload::Cp(configuration::parse(&mut reader)?),
        types::EAP => return Ok(Payload::Eap(raw.body.to_vec())),
        types::PUZZLE_SOLUTION => return Ok(Payload::PuzzleSolution(raw.body.to_vec())),
        // Only a message as a whole is encrypted; never a part of what was.
        types::SK | types::SKF => {
            let found = u64::from(raw.payload_type);
            return Err(MessageError::Invalid { what: "the type of an encrypted payload", found });
        }
        payload_type if raw.critical => return Err(MessageError::UnsupportedCritical { payload_type }),
        _ => return Ok(unread(raw)),
    };
    if !reader.is_empty() {
        let found = reader.len();
        return Err(MessageError::Length {
            what: "a payload's content",
            found,
            expected: "nothing behind it",
        });
    }
    Ok(payload)
}

fn unread(raw: RawPayload<'_>) -> Payload {
    Payload::Unread { payload_type: raw.payload_type, body: raw.body.to_vec() }
}

fn protocol(value: u8) -> Protocol {
    match value {
        1 => Protocol::Ike,
        2 => Protocol::Ah,
        3 => Protocol::Esp,
        other => Protocol::Other(other),
    }
}

/// RFC 7296 §3.3.1.
fn proposals(reader: &mut Reader<'_>) -> Result<Vec<WireProposal>, MessageError> {
    let mut proposals = Vec::new();
    loop {
        let last = substructure(reader, 2, "a proposal")?;
        let length = usize::from(reader.u16("a proposal")?);
        let mut body = reader.part(length, 4, "a proposal", "8 or more, and at most what is left")?;
        let number = body.u8("a proposal")?;
        let protocol = protocol(body.u8("a proposal")?);
        let spi_len = usize::from(body.u8("a proposal")?);
        let count = body.u8("a proposal")?;
        let spi = body.take(spi_len, "a proposal's SPI")?.to_vec();
        let transforms = transforms(&mut body, count)?;
        proposals.push(WireProposal { number, protocol, spi, transforms });
        if last {
            return Ok(proposals);
        }
    }
}

/// The octet that says whether another substructure follows, and the reserved one behind it.
fn substructure(reader: &mut Reader<'_>, more: u8, what: &'static str) -> Result<bool, MessageError> {
    let marker = reader.u8(what)?;
    reader.u8(what)?;
    match marker {
        0 => Ok(true),
        marker if marker == more => Ok(false),
        other => Err(MessageError::Invalid { what, found: u64::from(other) }),
    }
}

/// RFC 7296 §3.3.2.
fn transforms(reader: &mut Reader<'_>, count: u8) -> Result<Vec<Transform>, MessageError> {
    let mut transforms = Vec::new();
    let mut last = count == 0;
    while !last {
        last = substructure(reader, 3, "a transform")?;
        let length = usize::from(reader.u16("a transform")?);
        let mut body = reader.part(length, 4, "a transform", "8 or more, and at most what is left")?;
        let transform_type = body.u8("a transform")?;
        body.u8("a transform")?;
        let id = body.u16("a transform")?;
        let mut transform = Transform { transform_type, id, key_length: None, unknown_attribute: false };
        while !body.is_empty() {
            attribute(&mut body, &mut transform)?;
        }
        transforms.push(transform);
    }
    if transforms.len() != usize::from(count) || !reader.is_empty() {
        let expected = "as many as the proposal says";
        return Err(MessageError::Length {
            what: "the list of transforms",
            found: transforms.len(),
            expected,
        });
    }
    Ok(transforms)
}

/// RFC 7296 §3.3.5.
fn attribute(reader: &mut Reader<'_>, transform: &mut Transform) -> Result<(), MessageError> {
    const FIXED_LENGTH: u16 = 0x8000;
    const KEY_LENGTH: u16 = FIXED_LENGTH | 14;
    let kind = reader.u16("a transform attribute")?;
    let value = reader.u16("a transform attribute")?;
    if kind == KEY_LENGTH && transform.key_length.is_none() {
        transform.key_length = Some(value);
        return Ok(());
    }
    // A second key length is as little to be understood as an attribute that we do not know.
    transform.unknown_attribute = true;
    if kind & FIXED_LENGTH == 0 {
        reader.take(usize::from(value), "a transform attribute")?;
    }
    Ok(())
}

/// RFC 7296 §3.5.
fn identification(reader: &mut Reader<'_>) -> Result<IdPayload, MessageError> {
    let id_type = reader.u8("the ID payload")?;
    let reserved = reader.array("the ID payload")?;
    Ok(IdPayload { identity: Identity::from_wire(id_type, reader.rest()), reserved })
}

/// RFC 7296 §3.10.
fn notify(reader: &mut Reader<'_>) -> Result<Notify, MessageError> {
    let protocol = protocol(reader.u8("the Notify payload")?);
    let spi_len = usize::from(reader.u8("the Notify payload")?);
    let notify_type = reader.u16("the Notify payload")?;
    let spi = reader.take(spi_len, "the Notify payload's SPI")?.to_vec();
    Ok(Notify { protocol, spi, notify_type, data: reader.rest().to_vec() })
}

/// RFC 7296 §3.11.
fn delete(reader: &mut Reader<'_>) -> Result<Payload, MessageError> {
    let protocol = protocol(reader.u8("the Delete payload")?);
    let spi_len = usize::from(reader.u8("the Delete payload")?);
    let count = usize::from(reader.u16("the Delete payload")?);
    let octets = reader.rest();
    let wrong = MessageError::Length {
        what: "the Delete payload",
        found: octets.len(),
        expected: "SPIs times SPI size",
    };
    if spi_len.checked_mul(count) != Some(octets.len()) || (spi_len == 0 && count > 0) {
        return Err(wrong);
    }
    let spis =
        if spi_len == 0 { Vec::new() } else { octets.chunks_exact(spi_len).map(<[u8]>::to_vec).collect() };
    Ok(Payload::Delete { protocol, spis })
}

/// RFC 7296 §3.13.
fn selectors(reader: &mut Reader<'_>) -> Result<Vec<Option<TrafficSelector>>, MessageError> {
    let count = reader.u8("the TS payload")?;
    reader.array::<3>("the TS payload")?;
    (0..count).map(|_| selector(reader)).collect()
}

/// RFC 7296 §3.13.1. `None`: of a type that we do not know, or an empty range.
fn selector(reader: &mut Reader<'_>) -> Result<Option<TrafficSelector>, MessageError> {
    const IPV4_ADDR_RANGE: u8 = 7;
    const IPV6_ADDR_RANGE: u8 = 8;
    let kind = reader.u8("a traffic selector")?;
    let protocol = reader.u8("a traffic selector")?;
    let length = usize::from(reader.u16("a traffic selector")?);
    let mut body = reader.part(length, 4, "a traffic selector", "16 or 40")?;
    if kind != IPV4_ADDR_RANGE && kind != IPV6_ADDR_RANGE {
        return Ok(None);
    }
    let ports = PortRange { start: body.u16("a traffic selector")?, end: body.u16("a traffic selector")? };
    let (start, end) = if kind == IPV4_ADDR_RANGE {
        let (start, end) = (body.array::<4>("a traffic selector")?, body.array::<4>("a traffic selector")?);
        (Ipv4Addr::from(start).into(), Ipv4Addr::from(end).into())
    } else {
        let (start, end) = (body.array::<16>("a traffic selector")?, body.array::<16>("a traffic selector")?);
        (Ipv6Addr::from(start).into(), Ipv6Addr::from(end).into())
    };
    if !body.is_empty() {
        return Err(MessageError::Length { what: "a traffic selector", found: length, expected: "16 or 40" });
    }
    if ports.start > ports.end && ports != PortRange::OPAQUE {
        return Ok(None);
    }
    Ok(AddressRange::new(start, end).map(|addrs| TrafficSelector { addrs, protocol, ports }))
}
