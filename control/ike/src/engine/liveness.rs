//! Whether the peer of an established IKE SA lives (RFC 7296 §2.4), and that its NAT remembers us (§2.23).

use std::time::Instant;

use super::api::{JobId, JobResult};
use super::context::Context;
use super::established::Established;
use super::sa::Base;

/// Dead-peer detection (RFC 7296 §2.4).
#[derive(Debug)]
pub(super) enum Liveness {
    /// The peer was heard of not long ago.
    Quiet,
    /// Nothing came by IKE; the data plane is asked whether ESP did.
    Counting(JobId),
    /// Nothing came at all: an empty request is due.
    Suspect,
}

impl Established {
    /// When the peer's silence becomes suspicious. While a request of ours is under way, its retransmission finds
    /// a dead peer soon enough.
    pub(super) fn dpd_due(&self, cx: &Context, base: &Base) -> Option<Instant> {
        let delay = cx.connection(base.connection)?.dpd_delay;
        let watching = matches!(self.liveness, Liveness::Quiet)
            && self.channel.idle()
            && base.superseded.is_none()
            && !delay.is_zero();
        watching.then(|| self.heard + delay)
    }

    pub(super) fn alive(&mut self, now: Instant) {
        self.heard = now;
        self.liveness = Liveness::Quiet;
    }

    /// The peer is asked whether it lives as soon as that is possible.
    pub(super) fn suspect(&mut self) {
        self.liveness = Liveness::Suspect;
    }

    /// ESP that was opened counts as life like an IKE message does.
    pub(super) fn counted(&mut self, cx: &Context, base: &Base, now: Instant, result: &JobResult) {
        let idle = match result {
            JobResult::Counters(counters) => {
                counters.iter().filter_map(|(_, counters)| counters.as_ref()?.idle_in).min()
            }
            _ => None,
        };
        let opened = idle.and_then(|idle| now.checked_sub(idle)).filter(|at| *at > self.heard);
        let delay = cx.connection(base.connection).map(|c| c.dpd_delay).unwrap_or_default();
        self.heard = opened.unwrap_or(self.heard);
        self.liveness = if self.heard + delay > now { Liveness::Quiet } else { Liveness::Suspect };
    }

    /// RFC 7296 §2.23: whoever is behind a NAT keeps its mapping open. That of a TCP stream is kept long enough
    /// (RFC 9329 §6.6).
    pub(super) fn schedule_keepalive(&mut self, cx: &Context, base: &Base, now: Instant) {
        let wanted = (base.nat.local || base.nat.forced)
            && !cx.config.nat_keepalive.is_zero()
            && base.local.port() != cx.config.port
            && !base.path().is_stream();
        self.next_keepalive = wanted.then(|| now + cx.config.nat_keepalive);
    }
}
