//! Proposals and their transforms (RFC 7296 §3.3), and strongSwan's notation for them.

use std::fmt;
use std::str::FromStr;

use portcullis_ipsec::EspAlgorithm;

use crate::crypto::{IkeAead, KeMethod, Prf};

/// A text that is no proposal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}`: {problem}")]
pub struct ProposalError {
    /// The keyword or the whole text.
    pub found: String,
    /// What is wrong, and what was expected, with the nearest known keyword.
    pub problem: String,
}

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

impl FromStr for IkeProposal {
    type Err = ProposalError;
    fn from_str(_text: &str) -> Result<Self, ProposalError> {
        todo!()
    }
}

impl FromStr for EspProposal {
    type Err = ProposalError;
    fn from_str(_text: &str) -> Result<Self, ProposalError> {
        todo!()
    }
}

impl fmt::Display for IkeProposal {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}

impl fmt::Display for EspProposal {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}

impl IkeProposal {
    /// What is proposed when nothing is configured: comes up against untouched strongSwan.
    pub fn defaults() -> Vec<Self> {
        todo!()
    }
}

impl EspProposal {
    /// What is proposed when nothing is configured.
    pub fn defaults() -> Vec<Self> {
        todo!()
    }
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
impl fmt::Display for IkeSuite { fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result { todo!() } }
impl fmt::Display for EspSuite { fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result { todo!() } }
