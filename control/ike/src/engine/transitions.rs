//! What may become of an IKE SA: its states, what moves it on, and where to.
//!
//! [`IKE_SA`] is about the IKE SA itself, [`OURS`] and [`THEIRS`] about the exchanges of an established one, ours and the
//! peer's, of which each goes on by itself. What no row names leaves things as they are: a state ignores what is not for
//! it. An exchange that ends lets the next begin in the same step, so that a step may be two rows.
//!
//! Builds with debug assertions hold every step of every engine against these tables; a test sees each row happen, and
//! keeps `STATES.md`, which is made of them, as they are.

use super::channel::exchange_name;
use super::established::Established;
use super::sa::State;
use crate::message::{ExchangeType, Header};

/// What moves an IKE SA on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// The peer's request, of the exchange that is named.
    Request(&'static str),
    /// The peer's response.
    Response(&'static str),
    /// A job of ours is done.
    Job,
    /// Its time has come.
    Timeout,
    /// A command, or what became of another IKE SA.
    Decision,
}

impl Cause {
    pub(super) fn of(header: &Header) -> Self {
        let exchange = exchange_name(header.exchange);
        if header.response { Self::Response(exchange) } else { Self::Request(exchange) }
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Request(exchange) => write!(f, "{exchange} request"),
            Self::Response(exchange) => write!(f, "{exchange} response"),
            Self::Job => f.write_str("job"),
            Self::Timeout => f.write_str("time"),
            Self::Decision => f.write_str("decision"),
        }
    }
}

/// Where an IKE SA stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    state: &'static str,
    /// Of an established one.
    exchanges: Option<(&'static str, &'static str)>,
}

/// Before it begins.
pub(super) const UNBORN: Position = Position { state: "-", exchanges: None };
/// After its end.
pub(super) const CLOSED: Position = Position { state: "Closed", exchanges: None };
/// No exchange.
const IDLE: &str = "-";

impl Position {
    pub(super) fn of(state: &State) -> Self {
        let exchanges = match state {
            State::Established(established) => Some(exchanges(established)),
            _ => None,
        };
        Self { state: state.name(), exchanges }
    }
}

fn exchanges(established: &Established) -> (&'static str, &'static str) {
    use super::established::{Ours, Theirs};
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

#[cfg(test)]
pub(super) fn record(from: Position, cause: Cause, to: Position) {
    use std::io::Write;
    let mut lines = Vec::new();
    if from.state != to.state { lines.push(("IKE", from.state, to.state)); }
    if let (Some(a), Some(b)) = (from.exchanges, to.exchanges) {
        if a.0 != b.0 { lines.push(("OURS", a.0, b.0)); }
        if a.1 != b.1 { lines.push(("THEIRS", a.1, b.1)); }
    }
    thread_local! { static SEEN: std::cell::RefCell<std::collections::BTreeSet<String>> = Default::default(); }
    for (t, a, b) in lines {
        let line = format!("{t}|{a}|{cause}|{b}|{}\n", std::thread::current().name().unwrap_or("?"));
        if SEEN.with(|s| s.borrow_mut().insert(line.clone())) {
            let mut f = std::fs::OpenOptions::new().create(true).append(true).open("/tmp/states.log").unwrap();
            f.write_all(line.as_bytes()).unwrap();
        }
    }
}
