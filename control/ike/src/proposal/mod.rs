//! Proposals and their transforms (RFC 7296 §3.3): what we propose or accept, strongSwan's notation for it
//! (`notation`), its form on the wire, and the choice (`selection`).

mod esp;
mod ike;
mod notation;
mod selection;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vendors;

use portcullis_ipsec::{Cipher, EspAlgorithm, Integrity, Spi};

use crate::crypto::{AesKey, IkeEncr, IkeInteg, KeMethod, Prf, Protection};
use crate::message::{Protocol, Transform, WireProposal};

pub use notation::ProposalError;
pub(crate) use notation::transform_name;
pub use selection::{Mismatch, accepted_esp, accepted_ike, select_esp, select_ike};

/// What we propose or accept for an IKE SA: any combination of one of each list. Lists are in order of
/// preference and, but for integrity algorithms, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IkeProposal {
    /// Encryption: AEADs alone, or none.
    pub encr: Vec<IkeEncr>,
    /// Integrity algorithms; empty with AEADs, and only then.
    pub integ: Vec<IkeInteg>,
    /// Pseudorandom functions.
    pub prf: Vec<Prf>,
    /// Key exchange methods.
    pub ke: Vec<KeMethod>,
    /// Additional key exchanges (RFC 9370).
    pub additional: Additional<Vec<Option<KeMethod>>>,
}

/// Something of each of the seven additional key exchanges (RFC 9370 §2.2.1), ADDKE1 first. For what is proposed: the
/// methods in order of preference, `None` if it may be left out; empty if it is not proposed.
pub type Additional<T> = [T; 7];

/// What we propose or accept for a CHILD SA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EspProposal {
    /// Encryption, never empty.
    pub encr: Vec<EspAlgorithm>,
    /// Key exchange for CREATE_CHILD_SA; empty: none. Not offered in IKE_AUTH (RFC 7296 §1.2).
    pub ke: Vec<KeMethod>,
    /// Additional key exchanges (RFC 9370) beside it.
    pub additional: Additional<Vec<Option<KeMethod>>>,
    /// Extended sequence numbers, in order of preference: `[true]`, `[false]` or both. Never empty.
    pub esn: Vec<bool>,
    /// It is taken of a peer that proposes it, and not proposed. Such ones come last.
    pub accepted_only: bool,
}

/// The one combination that was chosen for an IKE SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IkeSuite {
    /// Encryption and integrity.
    pub protection: Protection,
    /// Pseudorandom function.
    pub prf: Prf,
    /// Key exchange.
    pub ke: KeMethod,
    /// Additional key exchanges.
    pub additional: Additional<Option<KeMethod>>,
}

/// The one combination that was chosen for a CHILD SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EspSuite {
    /// Encryption.
    pub encr: EspAlgorithm,
    /// Key exchange in CREATE_CHILD_SA.
    pub ke: Option<KeMethod>,
    /// Additional key exchanges beside it.
    pub additional: Additional<Option<KeMethod>>,
    /// Extended sequence numbers.
    pub esn: bool,
}

impl IkeProposal {
    /// What is proposed when nothing is configured: AEADs first, and what comes up against the untouched defaults of
    /// peers that have none.
    pub fn defaults() -> Vec<Self> {
        use AesKey::{Aes128, Aes192, Aes256};
        let ke = vec![
            KeMethod::X25519,
            KeMethod::Ecp384,
            KeMethod::Ecp256,
            KeMethod::Ecp521,
            KeMethod::Modp3072,
            KeMethod::Modp4096,
            KeMethod::Modp2048,
        ];
        let prf = vec![Prf::HmacSha384, Prf::HmacSha256, Prf::HmacSha512];
        let aeads = Self {
            encr: vec![
                IkeEncr::AesGcm16(Aes256),
                IkeEncr::AesGcm16(Aes128),
                IkeEncr::ChaCha20Poly1305,
                IkeEncr::AesGcm16(Aes192),
            ],
            integ: Vec::new(),
            prf: prf.clone(),
            ke: ke.clone(),
            additional: Additional::default(),
        };
        let others = Self {
            encr: vec![IkeEncr::AesCbc(Aes256), IkeEncr::AesCbc(Aes128), IkeEncr::AesCbc(Aes192)],
            integ: vec![IkeInteg::HmacSha384, IkeInteg::HmacSha256, IkeInteg::HmacSha512],
            prf,
            ke,
            additional: Additional::default(),
        };
        vec![aeads, others]
    }

    /// Keywords of what is too weak to be proposed unless somebody names it.
    pub fn weak(&self) -> Vec<String> {
        let integ = self.integ.iter().filter(|integ| **integ == IkeInteg::HmacSha1);
        let prf = self.prf.iter().filter(|prf| **prf == Prf::HmacSha1);
        let names =
            integ.map(|integ| notation::integ_name(*integ)).chain(prf.map(|prf| notation::prf_name(*prf)));
        names.chain(weak_groups(&self.ke)).map(str::to_owned).collect()
    }

    /// As an SA payload offers it; `number` counts from 1.
    pub fn offer(&self, number: u8) -> WireProposal {
        let encr = self.encr.iter().map(|encr| ike_encr(*encr));
        let prf = self.prf.iter().map(|prf| transform(transform_type::PRF, prf.id()));
        let integ = self.integ.iter().map(|integ| transform(transform_type::INTEG, integ.id()));
        let ke = self.ke.iter().map(|ke| transform(transform_type::KE, ke.id()));
        let additional = offer_additional(&self.additional);
        let transforms = encr.chain(prf).chain(integ).chain(ke).chain(additional).collect();
        WireProposal { number, protocol: Protocol::Ike, spi: Vec::new(), transforms }
    }
}

fn offer_additional(additional: &Additional<Vec<Option<KeMethod>>>) -> impl Iterator<Item = Transform> {
    let kinds = additional.iter().zip(transform_type::ADDITIONAL_KE);
    kinds.flat_map(|(methods, kind)| methods.iter().map(move |method| additional_ke(kind, *method)))
}

fn additional_ke(kind: u8, method: Option<KeMethod>) -> Transform {
    const NONE: u16 = 0;
    transform(kind, method.map_or(NONE, KeMethod::id))
}

/// Groups that can be broken with effort.
fn weak_groups(ke: &[KeMethod]) -> impl Iterator<Item = &'static str> {
    let weak = ke.iter().filter(|ke| matches!(ke, KeMethod::Modp1024 | KeMethod::Modp1536));
    weak.map(|ke| notation::ke_name(*ke))
}

impl IkeSuite {
    /// The additional key exchanges, in their order.
    pub fn additional(self) -> impl Iterator<Item = KeMethod> {
        self.additional.into_iter().flatten()
    }

    /// As the responder's answer names it.
    pub fn answer(self, number: u8) -> WireProposal {
        IkeProposal {
            encr: vec![self.protection.encr()],
            integ: self.protection.integ().into_iter().collect(),
            prf: vec![self.prf],
            ke: vec![self.ke],
            additional: self.additional.map(|method| method.into_iter().map(Some).collect()),
        }
        .offer(number)
    }
}

impl EspProposal {
    /// What is proposed when nothing is configured, and what is taken besides: AES-CBC is slow here, but all that some
    /// peers propose (iOS and macOS). Peers without ESN find theirs as well.
    pub fn defaults() -> Vec<Self> {
        let of = |encr, accepted_only| Self {
            encr,
            ke: Vec::new(),
            additional: Additional::default(),
            esn: vec![true, false],
            accepted_only,
        };
        vec![
            of(vec![EspAlgorithm::Aes256Gcm16, EspAlgorithm::Aes128Gcm16], false),
            of(
                vec![
                    EspAlgorithm::Aes256CbcSha256,
                    EspAlgorithm::Aes256CbcSha384,
                    EspAlgorithm::Aes256CbcSha512,
                    EspAlgorithm::Aes128CbcSha256,
                    EspAlgorithm::Aes128CbcSha384,
                    EspAlgorithm::Aes128CbcSha512,
                ],
                true,
            ),
        ]
    }

    /// Keywords of what is too weak to be proposed unless somebody names it.
    pub fn weak(&self) -> Vec<String> {
        let legible = self.encr.iter().any(|algorithm| algorithm.cipher() == Cipher::Null);
        let sha1 = self.encr.iter().any(|algorithm| algorithm.integrity() == Some(Integrity::HmacSha1));
        let names = legible.then_some("null").into_iter().chain(sha1.then_some("sha1"));
        names.chain(weak_groups(&self.ke)).map(str::to_owned).collect()
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
        if with_ke {
            transforms.extend(self.ke.iter().map(|ke| transform(transform_type::KE, ke.id())));
            transforms.extend(offer_additional(&self.additional));
        }
        transforms.extend(self.esn.iter().map(|esn| transform(transform_type::ESN, u16::from(*esn))));
        WireProposal { number, protocol: Protocol::Esp, spi: spi.get().to_be_bytes().to_vec(), transforms }
    }
}

impl EspSuite {
    /// The additional key exchanges, in their order.
    pub fn additional(self) -> impl Iterator<Item = KeMethod> {
        self.additional.into_iter().flatten()
    }

    /// As the responder's answer names it, with the responder's SPI.
    pub fn answer(self, number: u8, spi: Spi) -> WireProposal {
        EspProposal {
            encr: vec![self.encr],
            ke: self.ke.into_iter().collect(),
            additional: self.additional.map(|method| method.into_iter().map(Some).collect()),
            esn: vec![self.esn],
            accepted_only: false,
        }
        .offer(number, spi, true)
    }
}

/// Transform types (RFC 7296 §3.3.2).
pub(crate) mod transform_type {
    pub(crate) const ENCR: u8 = 1;
    pub(crate) const PRF: u8 = 2;
    pub(crate) const INTEG: u8 = 3;
    pub(crate) const KE: u8 = 4;
    pub(crate) const ESN: u8 = 5;
    /// ADDKE1 to ADDKE7 (RFC 9370).
    pub(crate) const ADDITIONAL_KE: std::ops::RangeInclusive<u8> = 6..=12;
}

fn transform(transform_type: u8, id: u16) -> Transform {
    Transform { transform_type, id, key_length: None, unknown_attribute: false }
}

fn ike_encr(encr: IkeEncr) -> Transform {
    Transform { key_length: encr.key_bits(), ..transform(transform_type::ENCR, encr.id()) }
}

fn esp_encr(encr: EspAlgorithm) -> Transform {
    let key_length = encr.cipher().has_key_length().then_some((encr.key_len() * 8) as u16);
    Transform { key_length, ..transform(transform_type::ENCR, encr.cipher().transform_id()) }
}

/// The integrity transform beside it; none for an AEAD.
fn esp_integ(encr: EspAlgorithm) -> Option<Transform> {
    encr.integrity().map(|integrity| transform(transform_type::INTEG, integrity.transform_id()))
}
