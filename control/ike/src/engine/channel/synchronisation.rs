//! Message ID synchronisation (RFC 6311), as the peer of a cluster: the member of it that takes an IKE SA over knows how far the
//! member before it had come at some earlier moment, and asks us from where on message IDs go on. We are no cluster, ask nobody,
//! and do not have sequence numbers of ESP moved (IPSEC_REPLAY_COUNTER_SYNC, which is not announced).

use super::{Channel, Linger, Outstanding, digest, fragment_size, send};
use crate::engine::context::Context;
use crate::engine::ike_sa_init::{data_of, notification};
use crate::engine::sa::{Base, Inbound};
use crate::message::{ExchangeType, Message, Payload, decrypt, notify, payloads};

/// What its messages have, whatever went before (RFC 6311 §5.1).
pub(super) const MESSAGE_ID: u32 = 0;

/// The last synchronisation.
#[derive(Debug)]
pub(super) struct Synchronised {
    /// What the cluster said that it would send next.
    to: u32,
    /// Our answer, for the same request again.
    answer: Linger,
}

/// IKEV2_MESSAGE_ID_SYNC (RFC 6311 §5.1). What is sent and expected is the sender's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sync {
    nonce: [u8; 4],
    send: u32,
    expected: u32,
}

impl Sync {
    fn parse(data: &[u8]) -> Option<Self> {
        let (nonce, rest) = data.split_first_chunk()?;
        let (send, rest) = rest.split_first_chunk()?;
        let expected = rest.try_into().ok()?;
        Some(Self { nonce: *nonce, send: u32::from_be_bytes(*send), expected: u32::from_be_bytes(expected) })
    }

    fn payload(self) -> Payload {
        let data = [self.nonce, self.send.to_be_bytes(), self.expected.to_be_bytes()].concat();
        notification(notify::IKEV2_MESSAGE_ID_SYNC, data)
    }
}

/// What is said in IKE_AUTH (RFC 6311 §4).
pub(in crate::engine) fn announce() -> Payload {
    notification(notify::IKEV2_MESSAGE_ID_SYNC_SUPPORTED, Vec::new())
}

/// Takes what the peer says in IKE_AUTH.
pub(in crate::engine) fn agree(base: &mut Base, payloads: &[Payload]) {
    base.synchronises = data_of(payloads, notify::IKEV2_MESSAGE_ID_SYNC_SUPPORTED).is_some();
}

/// The same as the responder, and what we say to it.
pub(in crate::engine) fn answer(base: &mut Base, payloads: &[Payload]) -> Option<Payload> {
    agree(base, payloads);
    base.synchronises.then(announce)
}

impl Channel {
    /// Takes a request to set message IDs anew; says whether it is one. One that is older than what we have seen is dropped (RFC
    /// 6311 §5.1): whoever repeats old messages moves nothing back.
    pub(super) fn synchronise(&mut self, cx: &mut Context, base: &mut Base, inbound: &Inbound<'_>) -> bool {
        if !base.synchronises || inbound.header().message_id != MESSAGE_ID {
            return false;
        }
        let digest = digest(inbound.octets);
        if let Some(last) = self.synchronised.as_ref().filter(|last| last.answer.digest == digest) {
            send(cx, inbound.path, &last.answer.datagrams);
            return true;
        }
        let Some(asked) = self.asked_to_synchronise(base, inbound) else { return false };
        let seen = self.synchronised.as_ref().map(|last| last.to);
        if asked.send < self.expected_request || seen.is_some_and(|seen| asked.send <= seen) {
            return true;
        }
        base.heard_from(cx, inbound);
        // RFC 6311 §5.1: each goes on behind whatever was used before.
        (self.expected_request, self.answered) = (asked.send, None);
        self.next_request = self.next_request.max(asked.expected);
        let ours = Sync { nonce: asked.nonce, send: self.next_request, expected: self.expected_request };
        let size = fragment_size(cx, base, inbound.path);
        let sealed =
            self.seal(base, ExchangeType::Informational, true, MESSAGE_ID, vec![ours.payload()], size);
        let Some(datagrams) = sealed else { return true };
        send(cx, inbound.path, &datagrams);
        let answer = Linger { digest, datagrams };
        self.synchronised = Some(Box::new(Synchronised { to: asked.send, answer }));
        self.renumber(cx, base);
        true
    }

    fn asked_to_synchronise(&mut self, base: &Base, inbound: &Inbound<'_>) -> Option<Sync> {
        let encrypted = inbound.received.encrypted.as_ref()?;
        if inbound.header().exchange != ExchangeType::Informational || encrypted.fragment.is_some() {
            return None;
        }
        let payloads = self.open(base, inbound).ok()??.payloads().ok()?;
        Sync::parse(data_of(&payloads, notify::IKEV2_MESSAGE_ID_SYNC)?)
    }

    /// The new member has not heard of our request under way, or will not remember it: it goes out again, as the next.
    fn renumber(&mut self, cx: &mut Context, base: &Base) {
        let Some((_, exchange, mut outstanding)) = self.outstanding.take() else { return };
        let Some(content) = self.own(base, &outstanding) else { return };
        let id = self.next_request;
        self.next_request = id.wrapping_add(1);
        let size = fragment_size(cx, base, base.path());
        if let Some(datagrams) = self.seal(base, exchange, false, id, content, size) {
            outstanding.datagrams = datagrams;
            outstanding.send_again(cx, base);
            self.outstanding = Some((id, exchange, outstanding));
        }
    }

    /// What a request of ours says.
    fn own(&self, base: &Base, outstanding: &Outstanding) -> Option<Vec<Payload>> {
        let (mut first_payload, mut content) = (0, Vec::new());
        for datagram in &outstanding.datagrams {
            let encrypted = Message::parse(datagram).ok()?.encrypted?;
            if content.is_empty() {
                first_payload = encrypted.first_payload;
            }
            content.extend(decrypt(&encrypted, self.sealing(base.role)).ok()?);
        }
        payloads(first_payload, &content).ok()
    }
}

/// The cluster's side, which we do not have: for tests.
#[cfg(test)]
impl Channel {
    /// What the member sends that takes over: nonce, what it sends next, what it expects.
    pub(in crate::engine) fn ask_to_synchronise(&mut self, base: &Base, asked: [u32; 3]) -> Vec<Vec<u8>> {
        let [nonce, send, expected] = asked;
        let sync = Sync { nonce: nonce.to_be_bytes(), send, expected };
        let (exchange, all) = (ExchangeType::Informational, usize::MAX);
        self.seal(base, exchange, false, MESSAGE_ID, vec![sync.payload()], all).unwrap()
    }

    /// What the answer says, likewise.
    pub(in crate::engine) fn read_synchronisation(&self, base: &Base, octets: &[u8]) -> [u32; 3] {
        let encrypted = Message::parse(octets).unwrap().encrypted.unwrap();
        let content = decrypt(&encrypted, self.sealing(base.role.other())).unwrap();
        let payloads = payloads(encrypted.first_payload, &content).unwrap();
        let sync = Sync::parse(data_of(&payloads, notify::IKEV2_MESSAGE_ID_SYNC).unwrap()).unwrap();
        [u32::from_be_bytes(sync.nonce), sync.send, sync.expected]
    }

    /// The member goes on.
    pub(in crate::engine) fn go_on_from(&mut self, send: u32, expected: u32) {
        (self.next_request, self.expected_request) = (send, expected);
    }
}
