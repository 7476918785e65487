//! What an initiator has to show before an IKE_SA_INIT request of its costs us anything: under load a cookie
//! ([`super::cookie`]), and where that does not stop those who attack, that it has spent time of its own (puzzles, RFC 8019).
//!
//! Whoever does not know puzzles is served for as long as there is room to spare, which those who have solved theirs do not
//! need (§7.1.4). Who does is asked for another one in IKE_AUTH (§7.2, [`crate::engine::ike_auth::puzzle`]).

use std::time::Instant;

use super::cookie::Cookies;
use super::responder::{Admission, respond};
use super::{InitPayloads, data_of, notification};
use crate::config::EngineConfig;
use crate::crypto::{Prf, Puzzle};
use crate::engine::admission::MAX_ADMISSIONS;
use crate::engine::context::Context;
use crate::engine::path::Path;
use crate::engine::sa::Inbound;
use crate::message::{Payload, WireProposal, notify};
use crate::proposal::IkeSuite;

/// What the easiest puzzle asks: a few milliseconds.
const EASIEST: u8 = 10;

/// The transform type of PRFs (RFC 7296 §3.3.2).
const PRF: u8 = 2;

/// What is asked of initiators at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) struct Demand {
    /// A puzzle of this difficulty, besides the cookie.
    difficulty: Option<u8>,
    /// There is room for those that do not solve it.
    spare: bool,
}

impl Demand {
    /// Nothing, or as much as there are half-open IKE SAs and key exchanges for new peers under way: the difficulty rises
    /// with the former (RFC 8019 §7.1.1.1).
    pub(in crate::engine) fn of(config: &EngineConfig, half_open: usize, admissions: usize) -> Option<Self> {
        let EngineConfig { puzzle_threshold, puzzle_difficulty, half_open_limit, .. } = *config;
        let over = half_open.checked_sub(puzzle_threshold);
        if over.is_none() && half_open < config.cookie_threshold {
            return None;
        }
        let room = half_open_limit.saturating_sub(puzzle_threshold).max(1);
        let difficulty = over.map(|over| {
            let (easiest, hardest) = (EASIEST.min(puzzle_difficulty), puzzle_difficulty);
            let harder = usize::from(hardest - easiest) * over.min(room) / room;
            easiest.saturating_add(u8::try_from(harder).unwrap_or(u8::MAX))
        });
        let spare = over.is_none_or(|over| over < room.div_ceil(2) && admissions < MAX_ADMISSIONS / 2);
        Some(Self { difficulty, spare })
    }

    /// Whether it is for who comes that way: the source of a TCP stream has proved that it is there, and is asked for no mere
    /// cookie (RFC 9329 §6.3).
    pub(super) fn concerns(&self, path: Path) -> bool {
        self.difficulty.is_some() || !path.is_stream()
    }

    /// What becomes of a request that does not show it; `None` if it does.
    pub(super) fn unmet(
        self,
        cx: &mut Context,
        cookies: &mut Cookies,
        now: Instant,
        inbound: &Inbound<'_>,
        init: &InitPayloads<'_>,
    ) -> Option<Admission> {
        let (found, remote) = (inbound.header(), inbound.path.remote);
        let payloads = &inbound.received.message.payloads;
        let puzzle = self.difficulty.and_then(|difficulty| for_offer(init.proposals, difficulty));
        let shown = data_of(payloads, notify::COOKIE);
        let good = shown
            .and_then(|shown| Some((shown, cookies.check(cx, now, shown, init.nonce, remote, found.spi_i)?)));
        let dropped = |why: &str| Some(Admission::Dropped("puzzle", why.to_owned()));
        match (good, solution(payloads)) {
            (Some((cookie, Some(asked))), Some(solution)) => match asked.is_solved_by(cookie, solution) {
                true => None,
                false => dropped("an IKE_SA_INIT request with a wrong solution of its puzzle"),
            },
            (Some(_), _) if self.spare || puzzle.is_none() => None,
            (Some((_, Some(_))), None) => dropped(
                "an IKE_SA_INIT request without the solution of its puzzle, and there is no room to spare",
            ),
            // It knows of no puzzle yet, or its cookie is an old one.
            _ => {
                let cookie = cookies.make(cx, now, init.nonce, remote, found.spi_i, puzzle);
                let mut said = vec![notification(notify::COOKIE, cookie)];
                said.extend(puzzle.map(ask));
                Some(Admission::Answered(respond(found, said)))
            }
        }
    }
}

impl Demand {
    /// The puzzle of IKE_AUTH, for an initiator that has shown that it knows puzzles (RFC 8019 §7.2.1). Where IKE_INTERMEDIATE comes
    /// first, which knows none, there is none.
    pub(super) fn in_auth(
        self,
        config: &EngineConfig,
        suite: IkeSuite,
        payloads: &[Payload],
    ) -> Option<Puzzle> {
        let knows = self.difficulty.is_some() && solution(payloads).is_some();
        let puzzle = Puzzle { prf: suite.prf, difficulty: config.puzzle_auth_difficulty };
        (knows && puzzle.difficulty > 0 && suite.additional().next().is_none()).then_some(puzzle)
    }
}

/// A puzzle with a PRF that the initiator offers for the IKE SA (RFC 8019 §7.1.1.2).
fn for_offer(proposals: &[WireProposal], difficulty: u8) -> Option<Puzzle> {
    let offered = |prf: &Prf| {
        let mut transforms = proposals.iter().flat_map(|proposal| &proposal.transforms);
        transforms.any(|found| found.transform_type == PRF && found.id == prf.id())
    };
    Prf::ALL.into_iter().find(offered).map(|prf| Puzzle { prf, difficulty })
}

/// As initiator: the puzzle that the responder asks to be solved, if it is no harder than we are to solve, and about a PRF that we
/// have offered. Otherwise a cookie that comes with it is shown alone (RFC 8019 §7.1.2).
pub(super) fn asked(payloads: &[Payload], offered: impl Fn(Prf) -> bool, hardest: u8) -> Option<Puzzle> {
    let puzzle = Puzzle::from_wire(data_of(payloads, notify::PUZZLE)?)?;
    (hardest > 0 && puzzle.difficulty <= hardest && offered(puzzle.prf)).then_some(puzzle)
}

/// PUZZLE.
pub(super) fn ask(puzzle: Puzzle) -> Payload {
    notification(notify::PUZZLE, puzzle.to_wire().to_vec())
}

/// The solution that a request has.
pub(in crate::engine) fn solution(payloads: &[Payload]) -> Option<&[u8]> {
    payloads.iter().find_map(|payload| match payload {
        Payload::PuzzleSolution(solution) => Some(solution.as_slice()),
        _ => None,
    })
}
