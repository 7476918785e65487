//! Messages to octets (RFC 7296 §3).

use std::net::IpAddr;

use portcullis_ipsec::TrafficSelector;

use super::configuration;
use super::parse::{FLAG_INITIATOR, FLAG_RESPONSE, HEADER_LEN, PAYLOAD_HEADER_LEN};
use super::{
    ExchangeType, Header, IdPayload, Message, Payload, Protocol, Transform, WireProposal,
    payload_type as types,
};
use crate::crypto::IkeAead;

const VERSION: u8 = 0x20;
const ICV_LEN: usize = 16;
const IV_LEN: usize = 8;

impl Message {
    /// Octets of a message without an Encrypted payload.
    pub fn emit(&self) -> Vec<u8> {
        let chain = chain(&self.payloads);
        let first = self.payloads.first().map_or(types::NONE, Payload::payload_type);
        let mut octets = header(&self.header, first, HEADER_LEN + chain.len());
        octets.extend(chain);
        octets
    }

    /// Octets of a message with all its payloads inside an Encrypted payload. `iv` must never repeat for a key.
    pub fn emit_sealed(&self, encr: IkeAead, sk_e: &[u8], iv: [u8; IV_LEN]) -> Vec<u8> {
        let mut content = chain(&self.payloads);
        // No padding is needed (RFC 5282 §3): the pad length alone.
        content.push(0);
        let sealed = PAYLOAD_HEADER_LEN + IV_LEN + content.len() + ICV_LEN;
        let mut octets = header(&self.header, types::SK, HEADER_LEN + sealed);
        let first = self.payloads.first().map_or(types::NONE, Payload::payload_type);
        octets.extend([first, 0]);
        octets.extend(u16_len(sealed));
        if encr.seal(sk_e, iv, &octets, &mut content).is_err() {
            // A key of another length than we derive: whatever happens, nothing leaves unsealed.
            content.clear();
        }
        octets.extend(iv);
        octets.extend(content);
        octets
    }
}

fn header(header: &Header, first: u8, length: usize) -> Vec<u8> {
    let exchange = match header.exchange {
        ExchangeType::IkeSaInit => 34,
        ExchangeType::IkeAuth => 35,
        ExchangeType::CreateChildSa => 36,
        ExchangeType::Informational => 37,
        ExchangeType::Other(other) => other,
    };
    let initiator = if header.initiator { FLAG_INITIATOR } else { 0 };
    let response = if header.response { FLAG_RESPONSE } else { 0 };
    let mut octets = Vec::with_capacity(length);
    octets.extend(header.spi_i);
    octets.extend(header.spi_r);
    octets.extend([first, VERSION, exchange, initiator | response]);
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
    let mut octets = Vec::new();
    for (index, payload) in payloads.iter().enumerate() {
        let next = payloads.get(index + 1).map_or(types::NONE, Payload::payload_type);
        let body = body(payload);
        octets.extend([next, 0]);
        octets.extend(u16_len(PAYLOAD_HEADER_LEN + body.len()));
        octets.extend(body);
    }
    octets
}

fn body(payload: &Payload) -> Vec<u8> {
    let mut octets = Vec::new();
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
        Payload::Nonce(data) | Payload::VendorId(data) | Payload::Unread { body: data, .. } => {
            octets.extend(data)
        }
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
