//! IKE_SA_INIT (RFC 7296 §1.2): proposals, key exchange, nonces, NAT detection and cookies. Nothing in it is
//! authenticated, so nothing in it is believed further than the RFC asks.

pub(super) mod cookie;
pub(super) mod initiator;
pub(super) mod nat;
pub(super) mod puzzle;
pub(super) mod responder;

use super::context::Context;
use super::ike_auth::SignatureSupport;
use super::sa::{Base, Inbound};
use crate::config::{ConnectionConfig, IkeFragmentation};
use crate::crypto::KeMethod;
use crate::message::{ExchangeType, Notify, Payload, Protocol, WireProposal, notify};

/// Octets of our nonces: half of the longest PRF's key (RFC 7296 §2.10).
pub(super) const NONCE_LEN: usize = 32;

/// Both messages and nonces of the exchange: AUTH covers the former, keys come from the latter.
#[derive(Debug)]
pub(super) struct InitRecord {
    pub(super) request: Vec<u8>,
    pub(super) response: Vec<u8>,
    pub(super) nonce_i: Vec<u8>,
    pub(super) nonce_r: Vec<u8>,
    /// What the peer said beforehand about signatures and certificates.
    pub(super) peer: SignatureSupport,
    /// Both ends could use a post-quantum pre-shared key.
    pub(super) ppk: bool,
}

impl InitRecord {
    /// The lower of the two nonces, as RFC 7296 §2.8.1 compares them.
    pub(super) fn lowest_nonce(&self) -> Vec<u8> {
        (&self.nonce_i).min(&self.nonce_r).clone()
    }
}

/// Whether a message answers the first request of an IKE SA of ours, which was of that exchange.
pub(super) fn answers(base: &Base, inbound: &Inbound<'_>, exchange: ExchangeType) -> bool {
    let found = inbound.header();
    found.exchange == exchange
        && found.response
        && !found.initiator
        && found.message_id == 0
        && found.spi_i == base.spi_i
        && inbound.received.encrypted.is_none()
}

/// The payloads of a request or of a response that accepts it; also those of a rekeying of the IKE SA.
#[derive(Debug)]
pub(super) struct InitPayloads<'a> {
    pub(super) proposals: &'a [WireProposal],
    pub(super) ke_method: u16,
    pub(super) ke_public: &'a [u8],
    pub(super) nonce: &'a [u8],
}

impl<'a> InitPayloads<'a> {
    /// `Err` names the payload that is missing.
    pub(super) fn parse(payloads: &'a [Payload]) -> Result<Self, &'static str> {
        let (mut proposals, mut ke, mut nonce) = (None, None, None);
        for payload in payloads {
            match payload {
                Payload::Sa(sa) => proposals = proposals.or(Some(sa.as_slice())),
                Payload::Ke { method, data } => ke = ke.or(Some((*method, data.as_slice()))),
                Payload::Nonce(octets) => nonce = nonce.or(Some(octets.as_slice())),
                _ => {}
            }
        }
        let (ke_method, ke_public) = ke.ok_or("a KE payload")?;
        Ok(Self {
            proposals: proposals.ok_or("an SA payload")?,
            ke_method,
            ke_public,
            nonce: nonce.ok_or("a nonce")?,
        })
    }
}

/// That we take messages in fragments (RFC 7383 §2.3).
pub(super) fn announce_fragmentation(connection: &ConnectionConfig) -> Option<Payload> {
    let takes = connection.fragmentation != IkeFragmentation::No;
    takes.then(|| notification(notify::IKEV2_FRAGMENTATION_SUPPORTED, Vec::new()))
}

/// What the peer's first message says of the way to it: which NATs are on it, and whether messages go there in fragments.
/// `spi_r` is what the hashes of NAT detection were made with: zero in a request.
pub(super) fn learn_way(cx: &Context, base: &mut Base, inbound: &Inbound<'_>, spi_r: [u8; 8]) {
    let payloads = &inbound.received.message.payloads;
    let between = (inbound.local, inbound.remote);
    base.nat = nat::detect(payloads, (base.spi_i, spi_r), between, nat::is_forced(cx, base));
    base.fragmentation = agrees_on_fragmentation(cx, base.connection, payloads);
}

/// Whether both ends take messages in fragments, of which `payloads` says what the peer does.
fn agrees_on_fragmentation(cx: &Context, connection: usize, payloads: &[Payload]) -> bool {
    let ours = cx.connection(connection).and_then(announce_fragmentation);
    let found = |found: &Notify| found.notify_type == notify::IKEV2_FRAGMENTATION_SUPPORTED;
    ours.is_some() && notifications(payloads).any(found)
}

/// The public value of a key exchange of that method.
pub(super) fn public_of(payloads: &[Payload], method: KeMethod) -> Option<&[u8]> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Ke { method: found, data } if *found == method.id() => Some(data.as_slice()),
        _ => None,
    })
}

/// A notification that concerns no SA but the IKE SA itself.
pub(super) fn notification(notify_type: u16, data: Vec<u8>) -> Payload {
    Payload::Notify(Notify { protocol: Protocol::Other(0), spi: Vec::new(), notify_type, data })
}

/// All notifications among the payloads.
pub(super) fn notifications(payloads: &[Payload]) -> impl Iterator<Item = &Notify> {
    payloads.iter().filter_map(|payload| match payload {
        Payload::Notify(notify) => Some(notify),
        _ => None,
    })
}

/// The data of the first notification of a type.
pub(super) fn data_of(payloads: &[Payload], notify_type: u16) -> Option<&[u8]> {
    let found = notifications(payloads).find(|found| found.notify_type == notify_type)?;
    Some(&found.data)
}

/// The first notification of an error: types below 16384 (RFC 7296 §3.10.1).
pub(super) fn error_notification(payloads: &[Payload]) -> Option<&Notify> {
    notifications(payloads).find(|notify| notify.notify_type < 16384)
}
