//! What was seen. Bounded whatever a peer sends: lists that a peer makes are cut.

use std::net::{IpAddr, SocketAddr};

use portcullis_ipsec::TrafficSelector;
use serde::{Deserialize, Serialize};

use super::proposals::ProposalTable;

/// Entries of one list that are kept of what a peer sent.
pub(super) const MOST: usize = 64;

/// Something that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Evidence {
    /// A name and a value.
    Fact {
        /// What it is, in a few words.
        name: String,
        /// What it was.
        value: String,
    },
    /// Proposals of both ends.
    Proposals(ProposalTable),
    /// The connections that the peer may have meant, and why each of them lost.
    Candidates {
        /// In the order in which they were looked at.
        candidates: Vec<Candidate>,
    },
    /// Traffic selectors of both ends.
    Selectors(SelectorTable),
    /// A request that nobody answered.
    Silence(Silence),
}

/// A connection that the peer may have meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its name.
    pub connection: String,
    /// What was compared, in order.
    pub checks: Vec<Check>,
}

impl Candidate {
    /// What it lost by: the first check that it did not pass.
    pub fn lost_by(&self) -> Option<&Check> {
        self.checks.iter().find(|check| !check.passed)
    }
}

/// One thing that was compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The option of the configuration that says what is wanted, below the connection: `remote.id`.
    pub option: String,
    /// What came.
    pub found: String,
    /// What the configuration wants.
    pub wanted: String,
    /// Whether they go together.
    pub passed: bool,
}

/// Traffic selectors as data: people get them drawn on a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectorTable {
    /// Who asked.
    pub asked_by_peer: bool,
    /// What was asked for on our side.
    pub asked_local: Vec<Selector>,
    /// What was asked for on the peer's side.
    pub asked_remote: Vec<Selector>,
    /// What each child has; empty where only the peer knows what it was compared with.
    pub children: Vec<ChildSelectors>,
}

/// What a child has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildSelectors {
    /// Its name.
    pub child: String,
    /// Our side.
    pub local: Vec<Selector>,
    /// The peer's side.
    pub remote: Vec<Selector>,
    /// What is left of our side of what was asked for.
    pub common_local: Vec<Selector>,
    /// What is left of the peer's side.
    pub common_remote: Vec<Selector>,
}

/// A traffic selector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// As the configuration writes it.
    pub text: String,
    /// Its first address.
    pub first: IpAddr,
    /// Its last address.
    pub last: IpAddr,
}

impl From<TrafficSelector> for Selector {
    fn from(selector: TrafficSelector) -> Self {
        Self { text: selector.to_string(), first: selector.addrs.start(), last: selector.addrs.end() }
    }
}

impl Selector {
    /// A list of them, cut if it is long.
    pub fn list(selectors: &[TrafficSelector]) -> Vec<Self> {
        selectors.iter().take(MOST).copied().map(Self::from).collect()
    }
}

/// A request that nobody answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// The exchange.
    pub exchange: String,
    /// How often the request was sent.
    pub sent: u32,
    /// Octets of it, without UDP and IP.
    pub octets: usize,
    /// From where.
    pub from: SocketAddr,
    /// To where.
    pub to: SocketAddr,
    /// What came back, and when not: in words, in order.
    pub heard: Vec<String>,
}

impl From<ProposalTable> for Evidence {
    fn from(table: ProposalTable) -> Self {
        Self::Proposals(table)
    }
}

impl From<SelectorTable> for Evidence {
    fn from(table: SelectorTable) -> Self {
        Self::Selectors(table)
    }
}

impl From<Silence> for Evidence {
    fn from(silence: Silence) -> Self {
        Self::Silence(silence)
    }
}

impl From<Vec<Candidate>> for Evidence {
    fn from(mut candidates: Vec<Candidate>) -> Self {
        candidates.truncate(MOST);
        Self::Candidates { candidates }
    }
}
