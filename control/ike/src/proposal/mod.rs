//! Proposals and their transforms (RFC 7296 §3.3): what we propose or accept, strongSwan's notation for it
//! (`notation`), its form on the wire, and the choice (`selection`).

mod esp;
mod notation;
mod selection;
#[cfg(test)]
mod tests;

use portcullis_ipsec::{EspAlgorithm, Spi};

use crate::crypto::{IkeAead, KeMethod, Prf};
use crate::message::{Protocol, Transform, WireProposal};

pub use notation::ProposalError;
pub(crate) use notation::transform_name;
pub use selection::{Mismatch, accepted_esp, accepted_ike, select_esp, select_ike};

/// What we propose or accept for an IKE SA: any combination of one of each list. Lists are in order of
/// preference and never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IkeProposal {
    /// Encryption.
    pub encr: Vec<IkeAead>,
    /// Pseudorandom functions.
    pub prf: Vec<Prf>,
    /// Key exchange methods.
    pub ke: Vec<KeMethod>,
}

/// What we propose or accept for a CHILD SA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EspProposal {
    /// Encryption, never empty.
    pub encr: Vec<EspAlgorithm>,
    /// Key exchange for CREATE_CHILD_SA; empty: none. Not offered in IKE_AUTH (RFC 7296 §1.2).
    pub ke: Vec<KeMethod>,
    /// Extended sequence numbers, in order of preference: `[true]`, `[false]` or both. Never empty.
    pub esn: Vec<bool>,
}

/// The one combination that was chosen for an IKE SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IkeSuite {
    /// Encryption.
    pub encr: IkeAead,
    /// Pseudorandom function.
    pub prf: Prf,
    /// Key exchange.
    pub ke: KeMethod,
}

/// The one combination that was chosen for a CHILD SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EspSuite {
    /// Encryption.
    pub encr: EspAlgorithm,
    /// Key exchange in CREATE_CHILD_SA.
    pub ke: Option<KeMethod>,
    /// Extended sequence numbers.
    pub esn: bool,
}

impl IkeProposal {
    /// What is proposed when nothing is configured: comes up against an untouched strongSwan.
    pub fn defaults() -> Vec<Self> {
        vec![Self {
            encr: vec![IkeAead::Aes256Gcm16, IkeAead::Aes128Gcm16],
            prf: vec![Prf::HmacSha384, Prf::HmacSha256, Prf::HmacSha512],
            ke: KeMethod::ALL.to_vec(),
        }]
    }

    /// As an SA payload offers it; `number` counts from 1.
    pub fn offer(&self, number: u8) -> WireProposal {
        let encr = self.encr.iter().map(|encr| ike_encr(*encr));
        let prf = self.prf.iter().map(|prf| transform(transform_type::PRF, prf.id()));
        let ke = self.ke.iter().map(|ke| transform(transform_type::KE, ke.id()));
        let transforms = encr.chain(prf).chain(ke).collect();
        WireProposal { number, protocol: Protocol::Ike, spi: Vec::new(), transforms }
    }
}

impl IkeSuite {
    /// As the responder's answer names it.
    pub fn answer(self, number: u8) -> WireProposal {
        IkeProposal { encr: vec![self.encr], prf: vec![self.prf], ke: vec![self.ke] }.offer(number)
    }
}

impl EspProposal {
    /// What is proposed when nothing is configured. Peers without ESN find theirs as well.
    pub fn defaults() -> Vec<Self> {
        vec![Self {
            encr: vec![EspAlgorithm::Aes256Gcm16, EspAlgorithm::Aes128Gcm16],
            ke: Vec::new(),
            esn: vec![true, false],
        }]
    }

    /// As an SA payload offers it; `number` counts from 1. Key exchange is offered only `with_ke`, which IKE_AUTH
    /// never is.
    pub fn offer(&self, number: u8, spi: Spi, with_ke: bool) -> WireProposal {
        let mut transforms = Vec::new();
        self.encr.iter().for_each(|encr| notation::once(&mut transforms, esp_encr(*encr)));
        self.encr
            .iter()
            .filter_map(|encr| esp_integ(*encr))
            .for_each(|integ| notation::once(&mut transforms, integ));
        transforms
            .extend(self.ke.iter().filter(|_| with_ke).map(|ke| transform(transform_type::KE, ke.id())));
        transforms.extend(self.esn.iter().map(|esn| transform(transform_type::ESN, u16::from(*esn))));
        WireProposal { number, protocol: Protocol::Esp, spi: spi.get().to_be_bytes().to_vec(), transforms }
    }
}

impl EspSuite {
    /// As the responder's answer names it, with the responder's SPI.
    pub fn answer(self, number: u8, spi: Spi) -> WireProposal {
        let ke: Vec<KeMethod> = self.ke.into_iter().collect();
        EspProposal { encr: vec![self.encr], ke, esn: vec![self.esn] }.offer(number, spi, true)
    }
}

/// Transform types (RFC 7296 §3.3.2).
pub(crate) mod transform_type {
    pub(crate) const ENCR: u8 = 1;
    pub(crate) const PRF: u8 = 2;
    pub(crate) const INTEG: u8 = 3;
    pub(crate) const KE: u8 = 4;
    pub(crate) const ESN: u8 = 5;
}

/// ENCR_AES_GCM_16 (RFC 4106, RFC 5282).
const AES_GCM_16: u16 = 20;

fn transform(transform_type: u8, id: u16) -> Transform {
    Transform { transform_type, id, key_length: None, unknown_attribute: false }
}

fn ike_encr(encr: IkeAead) -> Transform {
    Transform { key_length: Some(encr.key_bits()), ..transform(transform_type::ENCR, AES_GCM_16) }
}

fn esp_encr(encr: EspAlgorithm) -> Transform {
    let key_length = encr.cipher().has_key_length().then_some((encr.key_len() * 8) as u16);
    Transform { key_length, ..transform(transform_type::ENCR, encr.cipher().transform_id()) }
}

/// The integrity transform beside it; none for an AEAD.
fn esp_integ(encr: EspAlgorithm) -> Option<Transform> {
    encr.integrity().map(|integrity| transform(transform_type::INTEG, integrity.transform_id()))
}
