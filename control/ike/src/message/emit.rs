//! Messages to octets (RFC 7296 §3).

use std::net::IpAddr;

use portcullis_ipsec::TrafficSelector;

use super::configuration;
use super::parse::{FLAG_INITIATOR, FLAG_RESPONSE, FRAGMENT_HEADER_LEN, HEADER_LEN, PAYLOAD_HEADER_LEN};
use super::{
    Fragment, Header, IdPayload, Message, Payload, Protocol, Transform, WireProposal, payload_type as types,
};
use crate::crypto::{DirectionKeys, Protection};

const VERSION: u8 = 0x20;
/// Octets that most payloads, and most messages, do not exceed.
const MOST_PAYLOADS: usize = 64;
const MOST_MESSAGES: usize = 512;

/// What protects messages of one direction.
#[derive(Clone, Copy)]
pub struct Sealing<'a> {
    /// How.
    pub protection: Protection,
    /// With what.
    pub keys: DirectionKeys<'a>,
}

impl Message {
    /// Octets of a message without an Encrypted payload.
    pub fn emit(&self) -> Vec<u8> {
        let chain = chain(&self.payloads);
        let mut octets = header(&self.header, self.first_payload(), HEADER_LEN + chain.len());
        octets.extend(chain);
        octets
    }

    /// Octets of a message with all its payloads inside an Encrypted payload. `number` must never repeat for a key.
    pub fn emit_sealed(&self, sealing: Sealing<'_>, number: u64) -> Vec<u8> {
        seal((&self.header, &[]), sealing, number, self.first_payload(), None, &chain(&self.payloads))
    }

    /// The same, or, if that is longer than `size`, as fragments that are not (RFC 7383 §2.5). Their numbers count up
    /// from `number`. Empty if no number of fragments would do. What is to be `shown` stands before what is encrypted, in the
    /// first fragment alone (RFC 7383 §2.5.3).
    pub fn emit_within(
        &self,
        shown: &[Payload],
        sealing: Sealing<'_>,
        number: u64,
        size: usize,
    ) -> Vec<Vec<u8>> {
        let content = chain(&self.payloads);
        let overhead = HEADER_LEN + chain(shown).len() + PAYLOAD_HEADER_LEN;
        if overhead + sealing.protection.sealed_len(content.len()) <= size {
            return vec![seal((&self.header, shown), sealing, number, self.first_payload(), None, &content)];
        }
        let room = sealing.protection.content_len(size.saturating_sub(overhead + FRAGMENT_HEADER_LEN));
        let pieces = content.chunks(room.max(1));
        let Some(total) = u16::try_from(pieces.len()).ok().filter(|_| room > 0) else { return Vec::new() };
        let fragments = pieces.zip(1..).zip(number..).map(|((piece, index), number)| {
            // RFC 7383 §2.5.1: only the first names what is inside.
            let (first, shown) =
                if index == 1 { (self.first_payload(), shown) } else { (types::NONE, &[][..]) };
            let fragment = Some(Fragment { number: index, total });
            seal((&self.header, shown), sealing, number, first, fragment, piece)
        });
        fragments.collect()
    }

    /// What of a message is authenticated later, if it is of IKE_INTERMEDIATE: header, generic header of the Encrypted
    /// payload, with the lengths that they would have without encryption, and what is inside (RFC 9242 §3.3.2).
    pub fn emit_for_authentication(&self) -> Vec<u8> {
        let content = chain(&self.payloads);
        let sealed = PAYLOAD_HEADER_LEN + content.len();
        let mut octets = header(&self.header, types::SK, HEADER_LEN + sealed);
        octets.extend([self.first_payload(), 0]);
        octets.extend(u16_len(sealed));
        octets.extend(content);
        octets
    }

    fn first_payload(&self) -> u8 {
        self.payloads.first().map_or(types::NONE, Payload::payload_type)
    }
}

/// The same of a message that has come: `head` is what stood before the encrypted part ([`super::Encrypted::aad`]), of the
/// first fragment if it came in fragments, and `content` what was inside.
pub fn authenticated_later(head: &[u8], fragmented: bool, content: &[u8]) -> Vec<u8> {
    const NEXT_PAYLOAD: usize = 16;
    let mut octets = head.to_vec();
    if fragmented {
        // As if it had come whole (RFC 9242 §3.3.2). Nothing stands before the payload then.
        octets.truncate(head.len().saturating_sub(FRAGMENT_HEADER_LEN));
        octets.get_mut(NEXT_PAYLOAD).into_iter().for_each(|next| *next = types::SK);
    }
    let length = u32::try_from(octets.len() + content.len()).unwrap_or(u32::MAX);
    if let Some(field) = octets.get_mut(HEADER_LEN - 4..HEADER_LEN) {
        field.copy_from_slice(&length.to_be_bytes());
    }
    if let Some(field) = octets.last_chunk_mut::<2>() {
        *field = u16_len(PAYLOAD_HEADER_LEN + content.len());
    }
    octets.extend(content);
    octets
}

/// A message whose last payload is encrypted; those before it are shown. With keys of another length than we derive nothing leaves unsealed: the
/// payload is empty then.
fn seal(
    (of, shown): (&Header, &[Payload]),
    sealing: Sealing<'_>,
    number: u64,
    first: u8,
    fragment: Option<Fragment>,
    content: &[u8],
) -> Vec<u8> {
    #[cfg(test)]
    let (first, content) = &spoilt::spoil(of, first, content);
    #[cfg(test)]
    let (first, content) = (*first, content.as_slice());
    let Sealing { protection, keys } = sealing;
    let (kind, fragment_header) = match fragment {
        None => (types::SK, Vec::new()),
        Some(Fragment { number, total }) => {
            (types::SKF, [number.to_be_bytes(), total.to_be_bytes()].concat())
        }
    };
    let len = PAYLOAD_HEADER_LEN + fragment_header.len() + protection.sealed_len(content.len());
    let before = chain_to(shown, kind);
    let outermost = shown.first().map_or(kind, Payload::payload_type);
    let mut octets = header(of, outermost, HEADER_LEN + before.len() + len);
    octets.extend(before);
    octets.extend([first, 0]);
    octets.extend(u16_len(len));
    octets.extend(fragment_header);
    let body = protection.seal(keys, number, &octets, content).unwrap_or_default();
    octets.extend(body);
    octets
}

fn header(header: &Header, first: u8, length: usize) -> Vec<u8> {
    let initiator = if header.initiator { FLAG_INITIATOR } else { 0 };
    let response = if header.response { FLAG_RESPONSE } else { 0 };
    let mut octets = Vec::with_capacity(length);
    octets.extend(header.spi_i);
    octets.extend(header.spi_r);
    octets.extend([first, VERSION, header.exchange.number(), initiator | response]);
    octets.extend(header.message_id.to_be_bytes());
    octets.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    octets
}

/// A length field. No message of ours comes near its limit.
pub(super) fn u16_len(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes()
}

fn u8_len(len: usize) -> u8 {
    u8::try_from(len).unwrap_or(u8::MAX)
}

fn chain(payloads: &[Payload]) -> Vec<u8> {
    chain_to(payloads, types::NONE)
}

/// Payloads before one of that type.
fn chain_to(payloads: &[Payload], last: u8) -> Vec<u8> {
    let mut octets = Vec::with_capacity(MOST_MESSAGES);
    for (index, payload) in payloads.iter().enumerate() {
        let next = payloads.get(index + 1).map_or(last, Payload::payload_type);
        let body = body(payload);
        octets.extend([next, 0]);
        octets.extend(u16_len(PAYLOAD_HEADER_LEN + body.len()));
        octets.extend(body);
    }
    octets
}

fn body(payload: &Payload) -> Vec<u8> {
    let mut octets = Vec::with_capacity(MOST_PAYLOADS);
    match payload {
        Payload::Sa(proposals) => {
            for (index, proposal) in proposals.iter().enumerate() {
                emit_proposal(proposal, index + 1 == proposals.len(), &mut octets);
            }
        }
        Payload::Ke { method, data } => {
            octets.extend(method.to_be_bytes());
            octets.extend([0, 0]);
            octets.extend(data);
        }
        Payload::IdI(id) | Payload::IdR(id) => octets = id.body(),
        Payload::Cert { encoding, data } | Payload::CertReq { encoding, authorities: data } => {
            octets.push(*encoding);
            octets.extend(data);
        }
        Payload::Auth { method, data } => {
            octets.extend([*method, 0, 0, 0]);
            octets.extend(data);
        }
        Payload::Nonce(data)
        | Payload::VendorId(data)
        | Payload::Eap(data)
        | Payload::PuzzleSolution(data)
        | Payload::Unread { body: data, .. } => octets.extend(data),
        Payload::Notify(notify) => {
            octets.extend([protocol(notify.protocol), u8_len(notify.spi.len())]);
            octets.extend(notify.notify_type.to_be_bytes());
            octets.extend(&notify.spi);
            octets.extend(&notify.data);
        }
        Payload::Delete { protocol: which, spis } => {
            octets.extend([protocol(*which), u8_len(spis.first().map_or(0, Vec::len))]);
            octets.extend(u16_len(spis.len()));
            spis.iter().for_each(|spi| octets.extend(spi));
        }
        Payload::TsI(selectors) | Payload::TsR(selectors) => {
            let selectors: Vec<&TrafficSelector> = selectors.iter().flatten().collect();
            octets.extend([u8_len(selectors.len()), 0, 0, 0]);
            selectors.into_iter().for_each(|selector| emit_selector(selector, &mut octets));
        }
        Payload::Cp(configuration) => configuration::emit(configuration, &mut octets),
    }
    octets
}

fn protocol(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Ike => 1,
        Protocol::Ah => 2,
        Protocol::Esp => 3,
        Protocol::Other(other) => other,
    }
}

fn emit_proposal(proposal: &WireProposal, last: bool, octets: &mut Vec<u8>) {
    let mut transforms = Vec::new();
    for (index, transform) in proposal.transforms.iter().enumerate() {
        emit_transform(transform, index + 1 == proposal.transforms.len(), &mut transforms);
    }
    octets.extend([if last { 0 } else { 2 }, 0]);
    octets.extend(u16_len(8 + proposal.spi.len() + transforms.len()));
    octets.extend([proposal.number, protocol(proposal.protocol), u8_len(proposal.spi.len())]);
    octets.push(u8_len(proposal.transforms.len()));
    octets.extend(&proposal.spi);
    octets.extend(transforms);
}

fn emit_transform(transform: &Transform, last: bool, octets: &mut Vec<u8>) {
    const KEY_LENGTH: u16 = 0x8000 | 14;
    let attributes = if transform.key_length.is_some() { 4 } else { 0 };
    octets.extend([if last { 0 } else { 3 }, 0]);
    octets.extend(u16_len(8 + attributes));
    octets.extend([transform.transform_type, 0]);
    octets.extend(transform.id.to_be_bytes());
    if let Some(bits) = transform.key_length {
        octets.extend(KEY_LENGTH.to_be_bytes());
        octets.extend(bits.to_be_bytes());
    }
}

fn emit_selector(selector: &TrafficSelector, octets: &mut Vec<u8>) {
    let (kind, length) = if selector.addrs.start().is_ipv4() { (7, 16) } else { (8, 40) };
    octets.extend([kind, selector.protocol]);
    octets.extend(u16_len(length));
    octets.extend(selector.ports.start.to_be_bytes());
    octets.extend(selector.ports.end.to_be_bytes());
    for addr in [selector.addrs.start(), selector.addrs.end()] {
        match addr {
            IpAddr::V4(addr) => octets.extend(addr.octets()),
            IpAddr::V6(addr) => octets.extend(addr.octets()),
        }
    }
}

impl IdPayload {
    /// The payload without its generic header: ID type, three reserved octets, data. AUTH covers it.
    pub fn body(&self) -> Vec<u8> {
        let (id_type, data) = self.identity.to_wire();
        let mut octets = vec![id_type];
        octets.extend(self.reserved);
        octets.extend(data);
        octets
    }
}

/// Lets a test change what a peer with the right keys seals: the type of the first payload, and the octets of all.
#[cfg(test)]
pub(crate) mod spoilt {
    use std::cell::RefCell;

    use super::Header;

    type Spoil = Box<dyn FnMut(&Header, &mut u8, &mut Vec<u8>)>;

    thread_local! {
        static SPOIL: RefCell<Option<Spoil>> = const { RefCell::new(None) };
    }

    /// While it lives, whatever this thread seals is changed first.
    pub(crate) struct Spoiling(());

    impl Spoiling {
        pub(crate) fn by(spoil: impl FnMut(&Header, &mut u8, &mut Vec<u8>) + 'static) -> Self {
            SPOIL.set(Some(Box::new(spoil)));
            Self(())
        }
    }

    impl Drop for Spoiling {
        fn drop(&mut self) {
            SPOIL.set(None);
        }
    }

    pub(super) fn spoil(of: &Header, mut first: u8, content: &[u8]) -> (u8, Vec<u8>) {
        let mut content = content.to_vec();
        if let Some(spoil) = SPOIL.with_borrow_mut(Option::take) {
            let mut spoil = spoil;
            spoil(of, &mut first, &mut content);
            SPOIL.set(Some(spoil));
        }
        (first, content)
    }
}
