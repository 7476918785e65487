//! TCP streams that we open (RFC 9329): how an IKE SA of ours begins by one, and what becomes of it when its stream ends.
//!
//! Whoever has begun an IKE SA opens its streams (§6.1). When one ends, another is opened at once, then after the intervals of
//! retransmission and as often ([`Reopening`]); the peer goes on by it with the first authentic message, which we send then.
//! Where nobody answers in a stream, and nothing says that it has ended, because a NAT or a firewall has forgotten it, another one
//! is tried as well. With MOBIKE, streams also take over from UDP where that is allowed (`tcp = "fallback"`, §7.1).

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::Engine;
use super::actions::Loss;
use super::api::{JobId, JobResult, StreamFailure};
use super::channel::interval;
use super::commands::local_towards;
use super::context::Context;
use super::established::Established;
use super::ike_sa_init::initiator::generate;
use super::path::Path;
use super::sa::{Base, Closed, Done, Next};
use super::state::State;
use crate::config::{ConnectionConfig, Tcp};
use crate::crypto::KeMethod;

/// The way that a connection is begun to an address; `port` is that of UDP.
pub(super) fn first_path(connection: &ConnectionConfig, remote: IpAddr, port: u16) -> Path {
    match connection.tcp {
        Tcp::Only => by_tcp(connection, remote),
        Tcp::No | Tcp::Fallback => {
            let local = SocketAddr::new(local_towards(connection, remote), port);
            Path::udp(local, SocketAddr::new(remote, port))
        }
    }
}

fn by_tcp(connection: &ConnectionConfig, remote: IpAddr) -> Path {
    Path::to_be_opened(local_towards(connection, remote), SocketAddr::new(remote, connection.tcp_port))
}

/// UDP has not led to an answer: whether TCP is to be tried, by which it goes on then. Our first message was sent so often.
pub(super) fn fall_back(cx: &Context, base: &mut Base, sent: u32) -> bool {
    let Some(path) = base.by_tcp(cx) else { return false };
    base.set_path(path);
    base.tried_udp = sent;
    true
}

/// The way that an IKE SA takes which moves to `path`: UDP comes first where that is allowed (RFC 9329 §7.1).
pub(super) fn next_path(cx: &Context, base: &Base, path: Path) -> Path {
    let falls_back = cx.connection(base.connection).is_some_and(|connection| connection.tcp == Tcp::Fallback);
    let at = |addr: SocketAddr, port| SocketAddr::new(addr.ip(), port);
    match path.is_stream() {
        true if falls_back => {
            Path::udp(at(path.local, cx.config.nat_port), at(path.remote, cx.config.nat_port))
        }
        true => Path::to_be_opened(path.local.ip(), path.remote),
        false => path,
    }
}

/// Awaits the stream that the first message is to go by.
#[derive(Debug)]
pub(super) struct OpeningStream {
    job: JobId,
    method: KeMethod,
}

impl OpeningStream {
    pub(super) fn begin(cx: &mut Context, base: &Base, method: KeMethod) -> Self {
        Self { job: cx.open_stream(base.id, base.local.ip(), base.remote), method }
    }

    pub(super) fn handle_job(self, cx: &mut Context, base: &mut Base, now: Instant, done: Done) -> Next {
        match done.result {
            JobResult::StreamOpened(Ok(local)) if done.id == self.job => {
                base.set_path(Path::tcp(local, base.remote));
                Ok(generate(cx, base, now, self.method))
            }
            JobResult::StreamOpened(Err(why)) if done.id == self.job => {
                Err(base.without_stream(cx, base.remote, &why))
            }
            _ => {
                done.discard(cx, base.id);
                Ok(State::OpeningStream(self))
            }
        }
    }
}

/// Another stream that is to take over. It is forgotten when an authentic message has come by it.
#[derive(Debug)]
pub(super) struct Reopening {
    why: Why,
    to: Path,
    stage: Stage,
    /// Attempts that have failed.
    failed: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The one before has ended: there is nothing else.
    Ended,
    /// The peer does not answer.
    Silent,
    /// We are elsewhere.
    Moving,
}

#[derive(Debug)]
enum Stage {
    Opening(JobId),
    /// To try again.
    Waiting(Instant),
    /// It is there; nothing has come by it yet.
    Open,
}

impl Engine {
    /// The TCP stream between our address and the peer's has ended, or is not there.
    pub fn handle_stream_closed(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr) {
        for id in self.cx.index.of_stream(local, remote).to_vec() {
            self.step(now, id, |state, cx, base| match state {
                // The peer opens another.
                state if !base.original_initiator => Ok(state),
                State::Established(established) => {
                    base.stream_closed(cx, now)?;
                    Ok(State::Established(established))
                }
                State::Deleting(deleting) => deleting.stream_closed(cx, base, now),
                _ => Err(base.without_stream(cx, remote, &StreamFailure::Ended)),
            });
        }
        self.settle(now);
    }
}

impl Base {
    /// The way by TCP that is left where UDP leads to no answer.
    fn by_tcp(&self, cx: &Context) -> Option<Path> {
        let connection =
            cx.connection(self.connection).filter(|connection| connection.tcp == Tcp::Fallback)?;
        (!self.path().is_stream()).then(|| by_tcp(connection, self.remote.ip()))
    }

    /// The end of an IKE SA that has no stream, and no other way.
    fn without_stream(&self, cx: &Context, remote: SocketAddr, why: &StreamFailure) -> Box<Closed> {
        Closed::failed(self.about(cx).no_stream(cx.connection(self.connection), self, remote, why))
    }

    /// We are elsewhere, and a stream has its addresses for good: another one takes over.
    pub(super) fn move_stream(&mut self, cx: &mut Context, to: Path) {
        self.reopen(cx, Why::Moving, to);
    }

    fn reopen(&mut self, cx: &mut Context, why: Why, to: Path) {
        let ended = |before: &Reopening| before.why == Why::Ended && !matches!(before.stage, Stage::Open);
        let why = if self.reopening.as_deref().is_some_and(ended) { Why::Ended } else { why };
        let job = cx.open_stream(self.id, to.local.ip(), to.remote);
        self.reopening = Some(Box::new(Reopening { why, to, stage: Stage::Opening(job), failed: 0 }));
    }

    /// The stream has ended that it goes by.
    pub(super) fn stream_closed(&mut self, cx: &mut Context, now: Instant) -> Result<(), Box<Closed>> {
        match &mut self.reopening {
            None => {
                self.reopen_anywhere(cx, Why::Ended);
                Ok(())
            }
            Some(reopening) => {
                reopening.why = Why::Ended;
                match reopening.stage {
                    Stage::Open => self.stream_failed(cx, now, &StreamFailure::Ended),
                    // Another one is on its way.
                    Stage::Opening(_) | Stage::Waiting(_) => Ok(()),
                }
            }
        }
    }

    /// Opens another stream in place of the one that it goes by; from which address of ours, the kernel may say.
    fn reopen_anywhere(&mut self, cx: &mut Context, why: Why) {
        let Some(connection) = cx.connection(self.connection) else { return };
        let local = local_towards(connection, self.remote.ip());
        self.reopen(cx, why, Path::to_be_opened(local, self.remote));
    }

    /// An attempt to have another stream has failed: there may be more.
    fn stream_failed(
        &mut self,
        cx: &mut Context,
        now: Instant,
        failure: &StreamFailure,
    ) -> Result<(), Box<Closed>> {
        let retransmission = &cx.config.retransmission;
        let Some(reopening) = &mut self.reopening else { return Ok(()) };
        if reopening.failed < retransmission.tries {
            reopening.stage = Stage::Waiting(now + interval(retransmission, reopening.failed));
            reopening.failed += 1;
            return Ok(());
        }
        let (why, remote) = (reopening.why, reopening.to.remote);
        self.reopening = None;
        if why == Why::Ended {
            self.loss = Some(Loss::Silent);
            return Err(self.without_stream(cx, remote, failure));
        }
        // What it goes by may still be good: the peer's answers decide.
        Ok(())
    }

    /// The peer does not answer: a stream, or another one, may be the way to it.
    pub(super) fn seek_stream(&mut self, cx: &mut Context) {
        if !self.original_initiator || self.reopening.is_some() {
            return;
        }
        if self.path().is_stream() {
            self.reopen_anywhere(cx, Why::Silent);
        } else if self.mobility.agreed
            && let Some(path) = self.by_tcp(cx)
        {
            self.reopen(cx, Why::Silent, path);
        }
    }

    /// There may be a way now where there was none: whatever waits is tried at once.
    pub(super) fn hurry_stream(&mut self, now: Instant) {
        if let Some(reopening) = &mut self.reopening
            && let Stage::Waiting(until) = &mut reopening.stage
        {
            *until = now;
        }
    }

    /// When [`Base::reopen_if_due`] has something to do.
    pub(super) fn reopening_due(&self) -> Option<Instant> {
        match self.reopening.as_deref()?.stage {
            Stage::Waiting(until) => Some(until),
            Stage::Opening(_) | Stage::Open => None,
        }
    }

    /// Tries again to have a stream, if its time has come.
    pub(super) fn reopen_if_due(&mut self, cx: &mut Context, now: Instant) {
        let id = self.id;
        if let Some(reopening) = &mut self.reopening
            && matches!(reopening.stage, Stage::Waiting(until) if until <= now)
        {
            let job = cx.open_stream(id, reopening.to.local.ip(), reopening.to.remote);
            reopening.stage = Stage::Opening(job);
        }
    }

    /// Whether a job is that of a stream which is to take over.
    pub(super) fn awaits_stream(&self, job: JobId) -> bool {
        let stage = self.reopening.as_ref().map(|reopening| &reopening.stage);
        matches!(stage, Some(Stage::Opening(opening)) if *opening == job)
    }

    /// Whether it goes by a stream that nothing has come by yet.
    pub(super) fn has_new_stream(&self) -> bool {
        matches!(self.reopening.as_deref(), Some(Reopening { stage: Stage::Open, .. }))
    }

    /// An authentic message came that way: where it is the one in use, no other is needed.
    pub(super) fn way_is_good(&mut self, path: Path) {
        if path == self.path() {
            self.reopening
                .take_if(|reopening| reopening.why == Why::Silent || matches!(reopening.stage, Stage::Open));
        }
    }
}

impl Base {
    /// There is another stream: the way by it; or none, perhaps not yet.
    pub(super) fn stream_opened(
        &mut self,
        cx: &mut Context,
        now: Instant,
        done: Done,
    ) -> Result<Option<Path>, Box<Closed>> {
        match (done.result, &mut self.reopening) {
            (JobResult::StreamOpened(Ok(local)), Some(reopening)) => {
                reopening.stage = Stage::Open;
                Ok(Some(Path::tcp(local, reopening.to.remote)))
            }
            (JobResult::StreamOpened(Err(why)), _) => self.stream_failed(cx, now, &why).map(|()| None),
            _ => Ok(None),
        }
    }
}

impl Established {
    /// Everything goes on by another stream, and the peer is told (RFC 9329 §6.1), with MOBIKE by UPDATE_SA_ADDRESSES (§7.1).
    pub(super) fn go_on_by(&mut self, cx: &mut Context, base: &mut Base, now: Instant, stream: Path) {
        self.move_to(cx, base, now, stream);
        if !base.mobility.agreed || base.superseded.is_some() {
            self.suspect();
        }
    }
}
