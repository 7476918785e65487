//! IKE_SA_INIT as the initiator.
//!
//! What an answer asks for at once is done at once, within bounds: a cookie is sent back (five times), with the solution of a
//! puzzle if that is not too hard (RFC 8019), another key
//! exchange group is tried (each once, and only one that we offered). Any other error notification is remembered
//! but not believed (RFC 7296 §2.21.1): we go on retransmitting for one more [`Retransmission::timeout`], so that
//! an honest answer can still win over a forged one, and fail with what was remembered after that.
//!
//! [`Retransmission::timeout`]: crate::config::Retransmission

use std::net::SocketAddr;
use std::time::Instant;

use super::{
    InitPayloads, InitRecord, NONCE_LEN, announce_fragmentation, answers, error_notification, learn_way, nat,
    notification, notifications, puzzle,
};
use crate::crypto::{KdfInput, KeMethod, KeSecret, Puzzle, derive_ike_keys};
use crate::engine::api::{Failure, JobId, JobResult};
use crate::engine::channel::{Channel, Outstanding, Retransmitted, header};
use crate::engine::childless;
use crate::engine::commands::local_towards;
use crate::engine::context::Context;
use crate::engine::ike_auth::puzzle::SolvingAuthPuzzle;
use crate::engine::ike_auth::{SignatureSupport, certificates, ppk, rounds};
use crate::engine::ike_intermediate;
use crate::engine::mobike;
use crate::engine::negotiation;
use crate::engine::redirect;
use crate::engine::resumption;
use crate::engine::sa::{Base, Closed, Done, Inbound, Next, Role};
use crate::engine::state::State;
use crate::message::{ExchangeType, Message, Notify, Payload, notify};
use crate::proposal::{IkeSuite, accepted_ike};

/// Cookies that we send back before we give up.
pub(in crate::engine) const MAX_COOKIES: u32 = 5;

/// Awaits the address that our packets leave from.
#[derive(Debug)]
pub(in crate::engine) struct FindingSource {
    job: JobId,
    method: KeMethod,
}

/// Begins an IKE SA. `Base::local` is unspecified if the kernel is to choose the address.
pub(in crate::engine) fn begin(cx: &mut Context, base: &mut Base, now: Instant, method: KeMethod) -> State {
    if base.local.ip().is_unspecified() {
        let job = cx.source_address(base.id, base.remote.ip());
        State::FindingSource(FindingSource { job, method })
    } else {
        generate(cx, base, now, method)
    }
}

fn generate(cx: &mut Context, base: &mut Base, now: Instant, method: KeMethod) -> State {
    if base.resumed.is_some() {
        return resumption::initiator::begin(cx, base, now, method);
    }
    let attempt =
        Attempt { nonce: cx.random(), method, tried: vec![method], cookie: None, solution: None, cookies: 0 };
    let job = cx.generate_ke(base.id, method);
    State::GeneratingKe(GeneratingKe { job, attempt })
}

impl FindingSource {
    pub(in crate::engine) fn handle_job(
        self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        done: Done,
    ) -> Next {
        match done.result {
            JobResult::SourceAddress(Some(addr)) if done.id == self.job => {
                base.local = SocketAddr::new(addr, base.local.port());
                Ok(generate(cx, base, now, self.method))
            }
            JobResult::SourceAddress(None) if done.id == self.job => {
                Err(Closed::failed(base.about(cx).no_source_address()))
            }
            _ => {
                done.discard(cx, base.id);
                Ok(State::FindingSource(self))
            }
        }
    }
}

/// What stays the same while we are sent back for a cookie or another group.
#[derive(Debug)]
struct Attempt {
    nonce: [u8; NONCE_LEN],
    method: KeMethod,
    tried: Vec<KeMethod>,
    cookie: Option<Vec<u8>>,
    /// Of the puzzle that came with the cookie.
    solution: Option<Vec<u8>>,
    cookies: u32,
}

/// Awaits our public value.
#[derive(Debug)]
pub(in crate::engine) struct GeneratingKe {
    job: JobId,
    attempt: Attempt,
}

impl GeneratingKe {
    pub(in crate::engine) fn handle_job(
        self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        done: Done,
    ) -> Next {
        match done.result {
            JobResult::KeGenerated(Ok((secret, public))) if done.id == self.job => {
                let octets = request(cx, base, &self.attempt, &public);
                let outstanding = Outstanding::send(cx, base, now, vec![octets]);
                let state =
                    AwaitingInitResponse { attempt: self.attempt, secret, public, outstanding, doubt: None };
                Ok(State::AwaitingInitResponse(Box::new(state)))
            }
            JobResult::KeGenerated(Err(error)) if done.id == self.job => {
                Err(Closed::failed(base.about(cx).key_exchange(&error)))
            }
            _ => {
                done.discard(cx, base.id);
                Ok(State::GeneratingKe(self))
            }
        }
    }
}

fn wants_ppk(cx: &Context, base: &Base) -> bool {
    cx.connection(base.connection).is_some_and(|connection| connection.ppk.id.is_some())
}

fn request(cx: &Context, base: &Base, attempt: &Attempt, public: &[u8]) -> Vec<u8> {
    let connection = cx.connection(base.connection);
    let mut payloads = Vec::new();
    if let Some(cookie) = &attempt.cookie {
        payloads.push(notification(notify::COOKIE, cookie.clone()));
    }
    payloads.extend(attempt.solution.clone().map(Payload::PuzzleSolution));
    payloads.push(Payload::Sa(connection.map(|c| negotiation::offer_ike(&c.proposals)).unwrap_or_default()));
    payloads.push(Payload::Ke { method: attempt.method.id(), data: public.to_vec() });
    payloads.push(Payload::Nonce(attempt.nonce.to_vec()));
    let spis = (base.spi_i, [0; 8]);
    payloads.extend(nat::announce(spis, base.local, base.remote, nat::is_forced(cx, base)));
    payloads.extend(connection.and_then(|connection| certificates::announce_hashes([connection])));
    payloads.extend(connection.and_then(announce_fragmentation));
    payloads.extend(redirect::announce(cx, base));
    payloads.extend(wants_ppk(cx, base).then(ppk::announce));
    payloads.extend(connection.and_then(|connection| ike_intermediate::announce(&connection.proposals)));
    Message { header: header(base, ExchangeType::IkeSaInit, false, 0), payloads }.emit()
}

/// Awaits the IKE_SA_INIT response.
#[derive(Debug)]
pub(in crate::engine) struct AwaitingInitResponse {
    attempt: Attempt,
    secret: KeSecret,
    public: Vec<u8>,
    outstanding: Outstanding,
    /// What an answer that we do not believe yet would have us fail with, and when we do.
    doubt: Option<(Failure, Instant)>,
}

impl AwaitingInitResponse {
    pub(in crate::engine) fn handle_message(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        inbound: &Inbound<'_>,
    ) -> Next {
        let found = inbound.header();
        if !answers(base, inbound, ExchangeType::IkeSaInit) {
            return Ok(State::AwaitingInitResponse(self));
        }
        let payloads = &inbound.received.message.payloads;
        if let Some(cookie) = notifications(payloads).find(|notify| notify.notify_type == notify::COOKIE) {
            return self.handle_cookie(cx, base, now, cookie, payloads);
        }
        if let Some(target) = redirect::in_init(payloads, &self.attempt.nonce) {
            return self.handle_redirect(cx, base, now, &target);
        }
        if let Some(error) = error_notification(payloads) {
            return self.handle_error(cx, base, now, error);
        }
        match self.accept(cx, base, inbound) {
            Ok(accepted) => {
                base.spi_r = found.spi_r;
                base.suite = Some(accepted.suite);
                learn_way(cx, base, inbound, found.spi_r);
                base.mobility.detects_nats = mobike::detects_nats(payloads);
                base.childless = accepted.childless;
                let record = InitRecord {
                    request: self.outstanding.octets().to_vec(),
                    response: inbound.octets.to_vec(),
                    nonce_i: self.attempt.nonce.to_vec(),
                    nonce_r: accepted.nonce_r,
                    peer: SignatureSupport::parse(payloads),
                    ppk: wants_ppk(cx, base) && ppk::is_announced(payloads),
                };
                base.lowest_nonce = record.lowest_nonce();
                let job = cx.derive_ke(base.id, self.secret, accepted.ke_public);
                let suite = accepted.suite;
                let puzzle = puzzle::asked(payloads, |prf| prf == suite.prf, cx.config.puzzle_solved);
                Ok(State::DerivingKeys(DerivingKeys { job, record, suite, puzzle }))
            }
            Err(failure) => {
                self.doubt(cx, now, failure);
                Ok(State::AwaitingInitResponse(self))
            }
        }
    }

    fn accept(&self, cx: &Context, base: &Base, inbound: &Inbound<'_>) -> Result<Accepted, Failure> {
        let about = base.about(cx);
        let payloads = InitPayloads::parse(&inbound.received.message.payloads)
            .map_err(|missing| about.missing("IKE_SA_INIT", missing))?;
        if inbound.header().spi_r == [0; 8] {
            return Err(about.missing("IKE_SA_INIT", "a responder's SPI"));
        }
        let ours = cx.connection(base.connection).map(|c| c.proposals.as_slice()).unwrap_or_default();
        let suite =
            accepted_ike(ours, payloads.proposals).map_err(|why| about.ike_proposal_not_ours(&why))?;
        if suite.ke != self.attempt.method || payloads.ke_method != suite.ke.id() {
            let why = format!(
                "it chose {:?} but the public values are of groups {} and {}",
                suite.ke,
                self.attempt.method.id(),
                payloads.ke_method
            );
            return Err(about.ike_proposal_not_ours(&why));
        }
        let announced = ike_intermediate::is_announced(notifications(&inbound.received.message.payloads));
        if suite.additional().next().is_some() && !announced {
            let why =
                "it chose additional key exchanges, but does not know IKE_INTERMEDIATE, which carries them";
            return Err(about.ike_proposal_not_ours(&why));
        }
        rounds::check_announced(cx, base, &inbound.received.message.payloads)?;
        let childless = childless::is_begun(cx, base, &inbound.received.message.payloads)?;
        let (nonce_r, ke_public) = (payloads.nonce.to_vec(), payloads.ke_public.to_vec());
        Ok(Accepted { suite, nonce_r, ke_public, childless })
    }

    fn handle_cookie(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        cookie: &Notify,
        payloads: &[Payload],
    ) -> Next {
        if self.attempt.cookie.as_ref() == Some(&cookie.data) {
            return Ok(State::AwaitingInitResponse(self));
        }
        self.attempt.cookies += 1;
        if self.attempt.cookies > MAX_COOKIES {
            let failure = base.about(cx).cookie_loop(MAX_COOKIES);
            self.doubt(cx, now, failure);
            return Ok(State::AwaitingInitResponse(self));
        }
        self.attempt.cookie = Some(cookie.data.clone());
        self.attempt.solution = None;
        let ours = cx.connection(base.connection).map(|c| c.proposals.as_slice()).unwrap_or_default();
        let offered = |prf| ours.iter().any(|proposal| proposal.prf.contains(&prf));
        match puzzle::asked(payloads, offered, cx.config.puzzle_solved) {
            Some(puzzle) => {
                let job = cx.solve_puzzle(base.id, puzzle, cookie.data.clone());
                Ok(State::SolvingPuzzle(SolvingPuzzle { job, awaiting: self }))
            }
            None => Ok(self.ask_again(cx, base, now)),
        }
    }

    /// With the cookie that was asked for.
    fn ask_again(mut self: Box<Self>, cx: &mut Context, base: &mut Base, now: Instant) -> State {
        let octets = request(cx, base, &self.attempt, &self.public);
        self.outstanding = Outstanding::send(cx, base, now, vec![octets]);
        State::AwaitingInitResponse(self)
    }

    /// We begin again, elsewhere. Who is there has to prove to be the same as if we had not been sent.
    fn handle_redirect(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        target: &redirect::Target,
    ) -> Next {
        match (base.redirected(cx, now, target), cx.connection(base.connection)) {
            (Ok(redirect), Some(connection)) => {
                let port = cx.config.port;
                let local = local_towards(connection, redirect.to, port);
                cx.redirected(base, redirect.to, false);
                base.local = local;
                base.remote = SocketAddr::new(redirect.to, port);
                base.redirect = Some(redirect);
                base.spi_i = cx.fresh_spi();
                return Ok(begin(cx, base, now, self.attempt.method));
            }
            (Err(failure), _) => self.doubt(cx, now, failure),
            (Ok(_), None) => {}
        }
        Ok(State::AwaitingInitResponse(self))
    }

    fn handle_error(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        error: &Notify,
    ) -> Next {
        let about = base.about(cx);
        let ours = cx.connection(base.connection).map(|c| c.proposals.clone()).unwrap_or_default();
        let failure = match error.notify_type {
            notify::INVALID_KE_PAYLOAD => {
                let wanted = error.data.as_slice().try_into().map_or(0, u16::from_be_bytes);
                let offered = || ours.iter().flat_map(|proposal| proposal.ke.iter().copied());
                let method = offered().find(|method| method.id() == wanted);
                if let Some(method) = method.filter(|method| !self.attempt.tried.contains(method)) {
                    self.attempt.tried.push(method);
                    self.attempt.method = method;
                    let job = cx.generate_ke(base.id, method);
                    return Ok(State::GeneratingKe(GeneratingKe { job, attempt: self.attempt }));
                }
                about.group_refused(wanted, &ours)
            }
            notify::NO_PROPOSAL_CHOSEN => about.ike_proposal_refused(&ours),
            notify::INVALID_MAJOR_VERSION => about.version(),
            other => about.refused("IKE_SA_INIT", other),
        };
        self.doubt(cx, now, failure);
        Ok(State::AwaitingInitResponse(self))
    }

    /// Remembers the first failure that an unauthenticated answer spoke of.
    fn doubt(&mut self, cx: &Context, now: Instant, failure: Failure) {
        self.doubt.get_or_insert((failure, now + cx.config.retransmission.timeout));
    }

    pub(in crate::engine) fn handle_timeout(
        mut self: Box<Self>,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
    ) -> Next {
        if let Some((failure, _)) = self.doubt.take_if(|(_, until)| *until <= now) {
            return Err(Closed::failed(failure));
        }
        match self.outstanding.retransmit(cx, base, now) {
            Retransmitted::GivenUp(unanswered) => Err(Closed::failed(match self.doubt {
                Some((failure, _)) => failure,
                None => base.about(cx).silent("IKE_SA_INIT", unanswered, base),
            })),
            Retransmitted::Sent | Retransmitted::NotDue => Ok(State::AwaitingInitResponse(self)),
        }
    }

    pub(in crate::engine) fn deadline(&self) -> Instant {
        let due = self.outstanding.due();
        self.doubt.as_ref().map_or(due, |(_, until)| due.min(*until))
    }
}

/// Awaits the solution of a puzzle; what comes meanwhile comes again.
#[derive(Debug)]
pub(in crate::engine) struct SolvingPuzzle {
    job: JobId,
    awaiting: Box<AwaitingInitResponse>,
}

impl SolvingPuzzle {
    /// Without a solution the responder may still take the cookie (RFC 8019 §7.1.2).
    pub(in crate::engine) fn handle_job(
        mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        done: Done,
    ) -> Next {
        match done.result {
            JobResult::PuzzleSolved(solution) if done.id == self.job => {
                self.awaiting.attempt.solution = solution;
                Ok(self.awaiting.ask_again(cx, base, now))
            }
            _ => {
                done.discard(cx, base.id);
                Ok(State::SolvingPuzzle(self))
            }
        }
    }
}

/// What a good response says.
struct Accepted {
    suite: IkeSuite,
    nonce_r: Vec<u8>,
    ke_public: Vec<u8>,
    childless: bool,
}

/// Awaits the shared secret.
#[derive(Debug)]
pub(in crate::engine) struct DerivingKeys {
    job: JobId,
    record: InitRecord,
    suite: IkeSuite,
    /// What is to be solved before IKE_AUTH.
    puzzle: Option<Puzzle>,
}

impl DerivingKeys {
    pub(in crate::engine) fn handle_job(
        self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        done: Done,
    ) -> Next {
        match done.result {
            JobResult::KeDerived(Ok(shared)) if done.id == self.job => {
                let input = KdfInput {
                    nonce_i: &self.record.nonce_i,
                    nonce_r: &self.record.nonce_r,
                    spi_i: base.spi_i,
                    spi_r: base.spi_r,
                };
                let keys = derive_ike_keys(self.suite.prf, self.suite.protection, &shared, input);
                float(cx, base);
                let channel = Channel::new(self.suite, keys, Role::Initiator);
                let additional = self.suite.additional().collect();
                if let Some(puzzle) = self.puzzle {
                    return Ok(SolvingAuthPuzzle::begin(cx, base, puzzle, channel, self.record, additional));
                }
                ike_intermediate::initiator::proceed(cx, base, now, channel, self.record, additional)
            }
            JobResult::KeDerived(Err(error)) if done.id == self.job => {
                Err(Closed::failed(base.about(cx).key_exchange(&error)))
            }
            _ => {
                done.discard(cx, base.id);
                Ok(State::DerivingKeys(self))
            }
        }
    }
}

/// RFC 7296 §2.23: with a NAT between us, or where one may come between us, everything after IKE_SA_INIT goes from and to
/// the NAT port.
pub(in crate::engine) fn float(cx: &Context, base: &mut Base) {
    if !base.encapsulated() && !mobike::floats(cx, base) {
        return;
    }
    for addr in [&mut base.local, &mut base.remote] {
        if addr.port() == cx.config.port {
            addr.set_port(cx.config.nat_port);
        }
    }
}
