//! Verdicts: what a failed exchange leaves, so that nobody has to repeat it with a louder log. A stable reason, one sentence,
//! the evidence, and what to change on either side.
//!
//! - [`Reason`]: the list of codes.
//! - [`Evidence`]: what was seen, as data; people get it drawn by `portcullis explain`.
//! - [`ProposalTable`]: two sides' proposals transform by transform, and their nearest miss.
//! - [`Fix`]: the line to change, in our configuration, in swanctl.conf or in ipsec.conf.
//!
//! What each failure of the engine says is in `engine/failure.rs`, one function a cause. Secrets never come here.

mod evidence;
mod fix;
mod proposals;
mod reason;

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use evidence::{Candidate, Check, ChildSelectors, Evidence, Selector, SelectorTable, Silence};
pub use fix::{Fix, Place, libreswan_esp, libreswan_ike, quoted, toml_list};
pub(crate) use proposals::weakness;
pub use proposals::{ProposalRow, ProposalTable, Protocol, TransformKind};
pub use reason::{Kind, Reason, UnknownReason};

/// A failed or degraded exchange, explained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What kind of failure.
    pub reason: Reason,
    /// The connection, where known.
    pub connection: Option<String>,
    /// The peer, where known.
    pub peer: Option<SocketAddr>,
    /// One sentence that a newcomer understands: what happened, and the one difference that decided.
    pub sentence: String,
    /// What was seen.
    pub evidence: Vec<Evidence>,
    /// What to do about it. It is enough to change one place; all lines for that place belong together.
    pub fixes: Vec<Fix>,
}

impl Verdict {
    /// A verdict without evidence and fixes.
    pub fn new(reason: Reason, sentence: impl Into<String>) -> Self {
        Self {
            reason,
            connection: None,
            peer: None,
            sentence: sentence.into(),
            evidence: Vec::new(),
            fixes: Vec::new(),
        }
    }

    /// Adds what was seen.
    #[must_use]
    pub fn seen(mut self, evidence: impl Into<Evidence>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    /// Adds one thing that was seen, by name.
    #[must_use]
    pub fn fact(self, name: &str, value: impl fmt::Display) -> Self {
        self.seen(Evidence::Fact { name: name.to_owned(), value: value.to_string() })
    }

    /// Adds something to do.
    #[must_use]
    pub fn fix(mut self, fix: Fix) -> Self {
        self.fixes.push(fix);
        self
    }

    /// Adds things to do.
    #[must_use]
    pub fn fixes(mut self, fixes: impl IntoIterator<Item = Fix>) -> Self {
        self.fixes.extend(fixes);
        self
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.reason.code()
    }

    /// On one line: what happened and what to do first.
    pub fn in_one_line(&self) -> String {
        match self.fixes.first() {
            Some(fix) => format!("{}. {fix}", self.sentence),
            None => self.sentence.clone(),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.in_one_line())
    }
}
