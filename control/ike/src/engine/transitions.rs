//! What may become of an IKE SA: its states, what moves it on, and where to.
//!
//! [`IKE_SA`] is about the IKE SA itself, [`OURS`] and [`THEIRS`] about the exchanges of one that is established, ours and the
//! peer's, each of which goes on by itself. What no row names leaves things as they are: a state ignores what is not for
//! it. An exchange that ends lets the next begin in the same step, as what has just been established may have to be
//! deleted at once: such a step is two rows.
//!
//! The tests of this crate hold every step of every engine against these tables; `tests::transitions` sees each row happen,
//! and keeps `docs/ike-states.md` as they are.

use super::channel::exchange_name;
use super::established::{Established, Ours, Theirs};
use super::state::State;
use crate::message::{ExchangeType, Header};
use Cause::*;

/// What moves an IKE SA on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Cause {
    /// The peer's request.
    Request(ExchangeType),
    /// The peer's response.
    Response(ExchangeType),
    /// A job of ours is done.
    Job,
    /// Its time has come.
    Timeout,
    /// A command, or what became of another IKE SA.
    Decision,
    /// Whatever lets it look at what is to be done next.
    Any,
}

impl Cause {
    pub(super) fn of(header: &Header) -> Self {
        if header.response { Response(header.exchange) } else { Request(header.exchange) }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Request(exchange) => write!(f, "{} request", exchange_name(*exchange)),
            Response(exchange) => write!(f, "{} response", exchange_name(*exchange)),
            Job => f.write_str("job done"),
            Timeout => f.write_str("time"),
            Decision => f.write_str("decision"),
            Any => f.write_str("any"),
        }
    }
}

/// From where, by what, and where it may lead.
pub(super) type Row = (&'static str, Cause, &'static [&'static str]);

const fn row(from: &'static str, cause: Cause, to: &'static [&'static str]) -> Row {
    (from, cause, to)
}

/// The end of an IKE SA.
const CLOSED: &str = "Closed";
/// No exchange is under way.
const IDLE: &str = "-";
/// Any state at all.
const ANYWHERE: &str = "any";

/// The IKE SA.
#[rustfmt::skip]
pub(super) const IKE_SA: &[Row] = &[
    row("FindingSource", Job, &["GeneratingKe", "AwaitingResumption", CLOSED]),
    row("GeneratingKe", Job, &["AwaitingInitResponse", CLOSED]),
    row("AwaitingInitResponse", Response(ExchangeType::IkeSaInit), &["GeneratingKe", "SolvingPuzzle", "DerivingKeys"]),
    row("SolvingPuzzle", Job, &["AwaitingInitResponse"]),
    row("AwaitingInitResponse", Decision, &["GeneratingKe"]),
    row("AwaitingInitResponse", Timeout, &[CLOSED]),
    row("AwaitingResumption", Response(ExchangeType::IkeSessionResume), &["AllocatingFirstSpi", "GeneratingKe"]),
    row("AwaitingResumption", Decision, &["GeneratingKe"]),
    row("AwaitingResumption", Timeout, &["GeneratingKe"]),
    row("DerivingKeys", Job, &["SolvingAuthPuzzle", "Exchanging: generating our public value", "AllocatingFirstSpi", "AwaitingAuthResponse", CLOSED]),
    row("SolvingAuthPuzzle", Job, &["AllocatingFirstSpi"]),
    row("Exchanging: generating our public value", Job, &["Exchanging: awaiting the response", CLOSED]),
    row("Exchanging: awaiting the response", Response(ExchangeType::IkeIntermediate), &["Exchanging: deriving the shared secret", CLOSED]),
    row("Exchanging: awaiting the response", Timeout, &[CLOSED]),
    row("Exchanging: deriving the shared secret", Job, &["Exchanging: generating our public value", "AllocatingFirstSpi", CLOSED]),
    row("AllocatingFirstSpi", Job, &["SigningRequest", "AwaitingAuthResponse", CLOSED]),
    row("SigningRequest", Job, &["AwaitingAuthResponse", CLOSED]),
    row("AwaitingAuthResponse", Response(ExchangeType::IkeAuth), &["VerifyingResponder", "AnsweringEap", "SigningRound", "Established", CLOSED]),
    row("AwaitingAuthResponse", Timeout, &[CLOSED]),
    row("VerifyingResponder", Job, &["AnsweringEap", "SigningRound", "AwaitingAuthResponse", "Established"]),
    row("SigningRound", Job, &["AwaitingAuthResponse", "Deleting"]),
    row("AnsweringEap", Job, &["AwaitingEapRequest", "AwaitingLastAuthResponse", "Deleting"]),
    row("AwaitingEapRequest", Response(ExchangeType::IkeAuth), &["AnsweringEap", "Deleting", CLOSED]),
    row("AwaitingEapRequest", Timeout, &[CLOSED]),
    row("AwaitingLastAuthResponse", Response(ExchangeType::IkeAuth), &["SigningRound", "AwaitingAuthResponse", "Established", CLOSED]),
    row("AwaitingLastAuthResponse", Timeout, &[CLOSED]),
    row("Answering", Job, &["AwaitingFirstAuth", CLOSED]),
    row("Answering", Timeout, &[CLOSED]),
    row("AwaitingFirstAuth", Request(ExchangeType::IkeAuth), &["DerivingForAuth"]),
    row("AwaitingFirstAuth", Request(ExchangeType::IkeIntermediate), &["DerivingForAuth"]),
    row("AwaitingFirstAuth", Timeout, &[CLOSED]),
    row("DerivingForAuth", Job, &["AwaitingAuthRequest", "AnsweringIntermediate: generating our public value", "VerifyingInitiator", "SigningResponse", "TurningEap", "AwaitingNextRound", "Claiming", "Established", CLOSED]),
    row("DerivingForAuth", Timeout, &[CLOSED]),
    row("AwaitingAuthRequest", Request(ExchangeType::IkeAuth), &["VerifyingInitiator", "Claiming", "Established", CLOSED]),
    row("AwaitingAuthRequest", Request(ExchangeType::IkeIntermediate), &["AnsweringIntermediate: generating our public value", CLOSED]),
    row("AwaitingAuthRequest", Timeout, &[CLOSED]),
    row("AnsweringIntermediate: generating our public value", Job, &["AnsweringIntermediate: deriving the shared secret", CLOSED]),
    row("AnsweringIntermediate: generating our public value", Timeout, &[CLOSED]),
    row("AnsweringIntermediate: deriving the shared secret", Job, &["AwaitingAuthRequest", CLOSED]),
    row("AnsweringIntermediate: deriving the shared secret", Timeout, &[CLOSED]),
    row("VerifyingInitiator", Job, &["SigningResponse", "AwaitingNextRound", "Claiming", "Established", CLOSED]),
    row("VerifyingInitiator", Timeout, &[CLOSED]),
    row("SigningResponse", Job, &["TurningEap", "AwaitingNextRound", "Claiming", "Established", CLOSED]),
    row("SigningResponse", Timeout, &[CLOSED]),
    row("TurningEap", Job, &["AskingAaa", "AwaitingEapResponse", "AwaitingLastAuthRequest", CLOSED]),
    row("TurningEap", Timeout, &[CLOSED]),
    row("AskingAaa", Job, &["AwaitingEapResponse", "AwaitingLastAuthRequest", CLOSED]),
    row("AskingAaa", Timeout, &[CLOSED]),
    row("AwaitingEapResponse", Request(ExchangeType::IkeAuth), &["TurningEap", CLOSED]),
    row("AwaitingEapResponse", Request(ExchangeType::Informational), &[CLOSED]),
    row("AwaitingEapResponse", Timeout, &[CLOSED]),
    row("AwaitingLastAuthRequest", Request(ExchangeType::IkeAuth), &["AwaitingNextRound", "Claiming", "Established", CLOSED]),
    row("AwaitingLastAuthRequest", Request(ExchangeType::Informational), &[CLOSED]),
    row("AwaitingLastAuthRequest", Timeout, &[CLOSED]),
    row("AwaitingNextRound", Request(ExchangeType::IkeAuth), &["VerifyingInitiator", "SigningResponse", "TurningEap", "Claiming", "Established", CLOSED]),
    row("AwaitingNextRound", Request(ExchangeType::Informational), &[CLOSED]),
    row("AwaitingNextRound", Timeout, &[CLOSED]),
    row("Claiming", Job, &["Established", CLOSED]),
    row("Claiming", Timeout, &[CLOSED]),
    row("Established", Request(ExchangeType::CreateChildSa), &[CLOSED]),
    row("Established", Response(ExchangeType::CreateChildSa), &[CLOSED]),
    row("Established", Request(ExchangeType::Informational), &[CLOSED]),
    row("Established", Response(ExchangeType::Informational), &[CLOSED]),
    row("Established", Timeout, &[CLOSED]),
    row("Deleting", Request(ExchangeType::Informational), &[CLOSED]),
    row("Deleting", Response(ExchangeType::Informational), &[CLOSED]),
    row("Deleting", Timeout, &[CLOSED]),
    row("Established", Any, &["Deleting"]),
    row(ANYWHERE, Decision, &[CLOSED]),
];

/// Our exchanges in an established IKE SA.
#[rustfmt::skip]
pub(super) const OURS: &[Row] = &[
    row(IDLE, Any, &["Creating: allocating the SPI", "RekeyingIke: generating our public value", "Deleting", "Probing", "Mobike"]),
    row("Creating: allocating the SPI", Job, &[IDLE, "Creating: generating our public value", "Creating: awaiting the response"]),
    row("Creating: generating our public value", Job, &[IDLE, "Creating: awaiting the response"]),
    row("Creating: awaiting the response", Response(ExchangeType::CreateChildSa), &[IDLE, "Creating: generating our public value", "Creating: deriving the shared secret", "Installing"]),
    row("Creating: deriving the shared secret", Job, &[IDLE, "Creating: generating a further public value", "Installing"]),
    row("Creating: generating a further public value", Job, &["Creating: awaiting the follow-up response"]),
    row("Creating: awaiting the follow-up response", Response(ExchangeType::IkeFollowupKe), &[IDLE, "Creating: deriving the shared secret"]),
    row("Installing", Job, &[IDLE]),
    row("RekeyingIke: generating our public value", Request(ExchangeType::CreateChildSa), &[IDLE]),
    row("RekeyingIke: generating our public value", Job, &[IDLE, "RekeyingIke: awaiting the response"]),
    row("RekeyingIke: awaiting the response", Response(ExchangeType::CreateChildSa), &[IDLE, "RekeyingIke: deriving the shared secret"]),
    row("RekeyingIke: awaiting the response", Job, &[IDLE, "RekeyingIke: deriving the shared secret"]),
    row("RekeyingIke: deriving the shared secret", Job, &[IDLE, "RekeyingIke: generating a further public value"]),
    row("RekeyingIke: generating a further public value", Job, &[IDLE, "RekeyingIke: awaiting the follow-up response"]),
    row("RekeyingIke: awaiting the follow-up response", Response(ExchangeType::IkeFollowupKe), &[IDLE, "RekeyingIke: deriving the shared secret"]),
    row("Deleting", Response(ExchangeType::Informational), &[IDLE]),
    row("Probing", Response(ExchangeType::Informational), &[IDLE]),
    row("Mobike", Response(ExchangeType::Informational), &[IDLE]),
];

/// The peer's, while they wait for something: most are answered at once.
#[rustfmt::skip]
pub(super) const THEIRS: &[Row] = &[
    row(IDLE, Request(ExchangeType::CreateChildSa), &["Child: generating our public value", "Child: allocating the SPI", "Ike: generating our public value"]),
    row("Addresses", Job, &[IDLE, "Child: allocating the SPI"]),
    row("Child: generating our public value", Job, &[IDLE, "Child: deriving the shared secret"]),
    row("Child: deriving the shared secret", Job, &[IDLE, "Child: allocating the SPI", "Child: installing", "Child: awaiting a follow-up request"]),
    row("Child: allocating the SPI", Job, &[IDLE, "Child: installing", "Child: awaiting a follow-up request"]),
    row("Child: installing", Job, &[IDLE]),
    row("Child: awaiting a follow-up request", Request(ExchangeType::IkeFollowupKe), &["Child: generating our public value"]),
    row("Child: awaiting a follow-up request", Decision, &[IDLE]),
    row("Child: awaiting a follow-up request", Timeout, &[IDLE]),
    row("Ike: generating our public value", Job, &[IDLE, "Ike: deriving the shared secret"]),
    row("Ike: deriving the shared secret", Job, &[IDLE, "Ike: awaiting a follow-up request"]),
    row("Ike: awaiting a follow-up request", Request(ExchangeType::IkeFollowupKe), &["Ike: generating our public value"]),
    row("Ike: awaiting a follow-up request", Timeout, &[IDLE]),
    row("Ike: awaiting a follow-up request", Request(ExchangeType::CreateChildSa), &["Ike: generating our public value"]),
];

/// Where an IKE SA stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    state: &'static str,
    /// Ours and the peer's, of an established one.
    exchanges: Option<(&'static str, &'static str)>,
}

impl Position {
    pub(super) const CLOSED: Self = Self { state: CLOSED, exchanges: None };

    pub(super) fn of(state: &State) -> Self {
        let exchanges = match state {
            State::Established(established) => Some(exchanges(established)),
            _ => None,
        };
        Self { state: state.name(), exchanges }
    }

    /// A step was taken. No daemon ends because a row was forgotten.
    pub(super) fn took(self, cause: Cause, to: Self) {
        if cfg!(test) {
            let changes = self.step(cause, to);
            debug_assert!(changes.is_ok(), "{changes:?}");
            #[cfg(test)]
            SEEN.with_borrow_mut(|seen| seen.extend(changes.into_iter().flatten()));
        }
    }

    /// What a step from here to there is in the tables: nothing, if nothing has changed.
    ///
    /// # Errors
    /// What no row allows.
    pub(super) fn step(self, cause: Cause, to: Self) -> Result<Vec<Change>, String> {
        let mut changes = find("IKE SA", IKE_SA, self.state, "Established", cause, to.state)?;
        if let (Some((ours, theirs)), Some((ours_to, theirs_to))) = (self.exchanges, to.exchanges) {
            changes.extend(find("ours", OURS, ours, IDLE, cause, ours_to)?);
            changes.extend(find("theirs", THEIRS, theirs, IDLE, cause, theirs_to)?);
        }
        Ok(changes)
    }
}

#[cfg(test)]
thread_local! {
    /// What has happened in this thread's engines.
    pub(super) static SEEN: std::cell::RefCell<std::collections::HashSet<Change>> = std::cell::RefCell::default();
}

/// Each thing that the tables allow.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = Change> {
    let tables = [("IKE SA", IKE_SA), ("ours", OURS), ("theirs", THEIRS)];
    tables.into_iter().flat_map(|(name, table)| {
        table.iter().flat_map(move |(from, cause, to)| to.iter().map(move |to| (name, *from, *cause, *to)))
    })
}

/// One thing that a table allows: its name, the row, and which of the row's ends.
pub(super) type Change = (&'static str, &'static str, Cause, &'static str);

/// The change from here to there, or the two by way of `middle`.
fn find(
    name: &'static str,
    table: &'static [Row],
    from: &'static str,
    middle: &'static str,
    cause: Cause,
    to: &'static str,
) -> Result<Vec<Change>, String> {
    let change = |from: &str, to: &str| {
        table.iter().find_map(|(row, by, ends)| {
            let fits = (*row == from || *row == ANYWHERE) && (*by == cause || *by == Any);
            (fits && ends.contains(&to)).then_some((name, *row, *by))
        })
    };
    let whole = |(name, row, by), to| (name, row, by, to);
    if from == to {
        return Ok(Vec::new());
    }
    if let Some(change) = change(from, to) {
        return Ok(vec![whole(change, to)]);
    }
    match (change(from, middle), change(middle, to)) {
        (Some(first), Some(second)) => Ok(vec![whole(first, middle), whole(second, to)]),
        _ => Err(format!("{name}: no row leads from {from:?} by {cause:?} to {to:?}")),
    }
}

fn exchanges(established: &Established) -> (&'static str, &'static str) {
    let ours = match &established.ours {
        Ours::Idle => IDLE,
        Ours::Creating(creating) => creating.name(),
        Ours::Installing(..) => "Installing",
        Ours::RekeyingIke(rekeying) => rekeying.name(),
        Ours::Deleting(_) => "Deleting",
        Ours::Probing => "Probing",
        Ours::Mobike(_) => "Mobike",
    };
    let theirs = match &established.theirs {
        None => IDLE,
        Some(Theirs::Addresses(_)) => "Addresses",
        Some(Theirs::Child(theirs)) => theirs.name(),
        Some(Theirs::Ike(theirs)) => theirs.name(),
    };
    (ours, theirs)
}
