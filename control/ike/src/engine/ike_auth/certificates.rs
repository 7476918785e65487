//! CERT and CERTREQ payloads and SIGNATURE_HASH_ALGORITHMS (RFC 7296 §3.6 and §3.7, RFC 7427 §4): what we ask of a
//! peer's certificates, what it asks of ours, and which of ours it gets.

use std::sync::Arc;

use crate::auth::peer::encoding;
use crate::auth::{AuthScheme, CertPayload, Constraint, Credential, HashAlgorithm};
use crate::config::{ConnectionConfig, LocalMethod, RemoteMethod};
use crate::engine::ike_sa_init::{notification, notifications};
use crate::message::{Payload, notify};

/// CAs named in one CERTREQ, so that a long list does not make long messages.
const MAX_AUTHORITIES: usize = 32;

/// What a peer said about signatures and certificates: in its IKE_SA_INIT message, or in its IKE_AUTH request.
#[derive(Debug, Clone, Default)]
pub(in crate::engine) struct SignatureSupport {
    /// Hash algorithms that it verifies; empty: it does not know RFC 7427.
    pub(super) hashes: Vec<HashAlgorithm>,
    /// Hashes of the keys of the CAs that it trusts.
    pub(super) authorities: Vec<[u8; 20]>,
    /// It takes raw public keys in CERT payloads (RFC 7670).
    pub(super) raw_keys: bool,
    /// It asks for OCSP responses about ours (RFC 4806).
    wants_status: bool,
}

impl SignatureSupport {
    pub(in crate::engine) fn parse(payloads: &[Payload]) -> Self {
        let mut support = Self::default();
        support.add(payloads);
        support
    }

    /// Whether OCSP responses about our certificates are to go with them.
    pub(super) fn wants_status_of(&self, connection: &ConnectionConfig) -> bool {
        self.wants_status && connection.ocsp_reply
    }

    /// What a later message adds.
    pub(super) fn add(&mut self, payloads: &[Payload]) {
        let announced =
            notifications(payloads).filter(|found| found.notify_type == notify::SIGNATURE_HASH_ALGORITHMS);
        for announcement in announced {
            let ids = announcement.data.as_chunks::<2>().0.iter().copied().map(u16::from_be_bytes);
            self.hashes.extend(ids.filter_map(HashAlgorithm::from_id));
        }
        for payload in payloads {
            match payload {
                Payload::CertReq { encoding: encoding::X509_SIGNATURE, authorities } => {
                    self.authorities.extend(authorities.as_chunks::<20>().0);
                }
                Payload::CertReq { encoding: encoding::RAW_PUBLIC_KEY, .. } => self.raw_keys = true,
                // Responders that it names are not compared: whom it does not believe it has to ask itself.
                Payload::CertReq { encoding: encoding::OCSP, .. } => self.wants_status = true,
                _ => {}
            }
        }
    }
}

/// SIGNATURE_HASH_ALGORITHMS, where one of the connections has to do with signatures.
pub(in crate::engine) fn announce_hashes<'c>(
    connections: impl IntoIterator<Item = &'c ConnectionConfig>,
) -> Option<Payload> {
    let signs = |connection: &ConnectionConfig| {
        connection.local.iter().any(|round| matches!(round.auth, LocalMethod::Pubkey { .. }))
            || connection.remote.iter().any(|round| matches!(round.auth, RemoteMethod::Pubkey(_)))
    };
    connections.into_iter().any(signs).then(|| {
        let ids = HashAlgorithm::ANNOUNCED.iter().flat_map(|hash| hash.id().to_be_bytes());
        notification(notify::SIGNATURE_HASH_ALGORITHMS, ids.collect())
    })
}

/// CERTREQ payloads that name the CAs of these connections, and one for raw public keys where those are trusted, and one for
/// OCSP responses.
pub(in crate::engine) fn requests<'c>(
    connections: impl IntoIterator<Item = &'c ConnectionConfig>,
) -> Vec<Payload> {
    let (mut authorities, mut certificates, mut raw_keys, mut statuses) = (Vec::new(), false, false, false);
    for round in connections.into_iter().flat_map(|connection| &connection.remote) {
        let RemoteMethod::Pubkey(trust) = &round.auth else { continue };
        certificates |= !trust.authorities.is_empty();
        raw_keys |= !trust.public_keys.is_empty();
        statuses |= trust.asks_peer;
        for hash in trust.authority_hashes() {
            if authorities.len() < MAX_AUTHORITIES && !authorities.contains(&hash) {
                authorities.push(hash);
            }
        }
    }
    let mut payloads = Vec::new();
    if certificates {
        payloads
            .push(Payload::CertReq { encoding: encoding::X509_SIGNATURE, authorities: authorities.concat() });
    }
    if raw_keys {
        payloads.push(Payload::CertReq { encoding: encoding::RAW_PUBLIC_KEY, authorities: Vec::new() });
    }
    if statuses {
        // RFC 4806 §3.1: of any responder.
        payloads.push(Payload::CertReq { encoding: encoding::OCSP, authorities: Vec::new() });
    }
    payloads
}

/// OCSP responses that go with our certificates.
pub(super) fn statuses(responses: Vec<Vec<u8>>) -> impl Iterator<Item = Payload> {
    responses.into_iter().map(|data| Payload::Cert { encoding: encoding::OCSP, data })
}

/// The CERT payloads of a message, in order.
pub(super) fn received(payloads: &[Payload]) -> Vec<CertPayload> {
    let certificates = payloads.iter().filter_map(|payload| match payload {
        Payload::Cert { encoding, data } => Some(CertPayload { encoding: *encoding, data: data.clone() }),
        _ => None,
    });
    certificates.collect()
}

/// The credential for a peer and how to sign with it: one that a CA of the peer's vouches for before the others,
/// among equals the first that the peer can verify. `Err` names what we could sign with.
pub(super) fn choose(
    credentials: &[Arc<Credential>],
    constraint: &Constraint,
    peer: &SignatureSupport,
) -> Result<(Arc<Credential>, AuthScheme), String> {
    let (vouched, others): (Vec<_>, Vec<_>) =
        credentials.iter().partition(|credential| credential.is_vouched_for_by(&peer.authorities));
    let mut wanted = Vec::new();
    for credential in vouched.into_iter().chain(others) {
        match credential.choose(constraint, &peer.hashes) {
            Ok(scheme) => return Ok((Arc::clone(credential), scheme)),
            Err(ours) => wanted.push(ours),
        }
    }
    Err(wanted.join(" or "))
}

/// The CERT payloads that go with a credential.
pub(super) fn sent(credential: &Credential, peer: &SignatureSupport) -> Vec<Payload> {
    let x509 = |der: &[u8]| Payload::Cert { encoding: encoding::X509_SIGNATURE, data: der.to_vec() };
    match credential.certificate() {
        Some(certificate) => {
            let chain = credential.intermediates().map(|intermediate| x509(intermediate.der()));
            std::iter::once(x509(certificate.der())).chain(chain).collect()
        }
        None if peer.raw_keys => {
            let data = credential.key().public().spki().to_vec();
            vec![Payload::Cert { encoding: encoding::RAW_PUBLIC_KEY, data }]
        }
        // The peer knows the key.
        None => Vec::new(),
    }
}
