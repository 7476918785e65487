//! Puzzles in IKE_AUTH (RFC 8019 §7.2): what is sent under the name of an IKE_AUTH request may be anything, and costs whoever
//! answers a shared secret to find out. Where there are puzzles already, whoever has solved one in IKE_SA_INIT is asked for
//! another with the answer, and shows its solution outside of what is encrypted.
//!
//! It is about the responder's nonce and SPI (§7.2.3), and so for one IKE SA; both have to hand what they need.

use std::collections::VecDeque;
use std::time::Instant;

use crate::crypto::{KeMethod, Puzzle};
use crate::engine::api::{JobId, JobResult};
use crate::engine::channel::Channel;
use crate::engine::context::Context;
use crate::engine::ike_intermediate;
use crate::engine::ike_sa_init::InitRecord;
use crate::engine::ike_sa_init::puzzle::solution;
use crate::engine::sa::{Base, Done, Next};
use crate::engine::state::State;
use crate::message::Payload;

/// What is solved: `Nr | SPIr`.
fn subject(record: &InitRecord, base: &Base) -> Vec<u8> {
    [&record.nonce_r[..], &base.spi_r].concat()
}

/// As responder: whether a message shows the solution, beside what is encrypted. Costs a PRF for each of its keys.
pub(super) fn is_solved(puzzle: Puzzle, record: &InitRecord, base: &Base, payloads: &[Payload]) -> bool {
    solution(payloads).is_some_and(|solution| puzzle.is_solved_by(&subject(record, base), solution))
}

/// As initiator: awaits the solution.
#[derive(Debug)]
pub(in crate::engine) struct SolvingAuthPuzzle {
    job: JobId,
    channel: Box<Channel>,
    record: InitRecord,
    additional: VecDeque<KeMethod>,
}

impl SolvingAuthPuzzle {
    pub(in crate::engine) fn begin(
        cx: &mut Context,
        base: &Base,
        puzzle: Puzzle,
        channel: Box<Channel>,
        record: InitRecord,
        additional: VecDeque<KeMethod>,
    ) -> State {
        let job = cx.solve_puzzle(base.id, puzzle, subject(&record, base));
        State::SolvingAuthPuzzle(Box::new(Self { job, channel, record, additional }))
    }

    /// Where luck was out the responder is asked without, and says nothing: it will be asked again from the start.
    pub(in crate::engine) fn handle_job(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        done: Done,
    ) -> Next {
        match done.result {
            JobResult::PuzzleSolved(solution) if done.id == self.job => {
                self.channel.show(solution.map(Payload::PuzzleSolution));
                let Self { channel, record, additional, .. } = *self;
                ike_intermediate::initiator::proceed(cx, base, now, channel, record, additional)
            }
            _ => {
                done.discard(cx, base.id);
                Ok(State::SolvingAuthPuzzle(self))
            }
        }
    }
}
