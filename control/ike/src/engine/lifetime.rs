//! When an SA is to be replaced and when it ends, with the jitter that keeps both ends, and all tunnels of one
//! gateway, from doing it at the same moment; and how long to wait after a refusal (RFC 7296 §2.25).

use std::time::{Duration, Instant};

use super::context::Context;
use crate::config::{ChildLifetime, IkeLifetime, Limit};
use portcullis_ipsec::UsageLimits;

/// The first wait after a peer could not do what we asked for.
const RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// A peer that is busy for longer than this is out of step with us (RFC 7296 §2.25).
pub(super) const PATIENCE_WITH_BUSY_PEERS: Duration = Duration::from_secs(300);

/// How long a replaced CHILD SA still takes packets that are under way.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// When something is to be replaced, and when it ends.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Schedule {
    /// To be replaced; `None`: not by its age.
    pub(super) due: Option<Instant>,
    /// It ends.
    pub(super) end: Option<Instant>,
    refusals: u32,
}

impl Schedule {
    pub(super) fn new(due: Option<Instant>, end: Option<Instant>) -> Self {
        Self { due, end, refusals: 0 }
    }

    /// For a CHILD SA installed now.
    pub(super) fn of_child(cx: &mut Context, now: Instant, lifetime: &ChildLifetime) -> Self {
        let Limit { rekey, life, rand } = lifetime.time;
        let due = after(now, rekey.saturating_sub(part(cx, rand)), !rekey.is_zero());
        Self { due, end: after(now, life, !life.is_zero()), refusals: 0 }
    }

    /// For a new or rekeyed IKE SA: rekeying.
    pub(super) fn of_ike(cx: &mut Context, now: Instant, lifetime: &IkeLifetime) -> Self {
        Self::with_over_time(cx, now, lifetime.rekey_time, lifetime)
    }

    /// For an IKE SA that was authenticated now.
    pub(super) fn of_authentication(cx: &mut Context, now: Instant, lifetime: &IkeLifetime) -> Self {
        Self::with_over_time(cx, now, lifetime.reauth_time, lifetime)
    }

    fn with_over_time(cx: &mut Context, now: Instant, time: Duration, lifetime: &IkeLifetime) -> Self {
        let used = !time.is_zero();
        let end = after(now, time.saturating_add(lifetime.over_time), used && !lifetime.over_time.is_zero());
        Self { due: after(now, time.saturating_sub(part(cx, lifetime.rand_time)), used), end, refusals: 0 }
    }

    pub(super) fn has_ended(&self, now: Instant) -> bool {
        self.end.is_some_and(|end| end <= now)
    }

    /// To be replaced at once.
    pub(super) fn bring_forward(&mut self, now: Instant) {
        self.due = Some(self.due.map_or(now, |due| due.min(now)));
    }

    /// It was tried in vain: tried again later, later each time.
    pub(super) fn put_off(&mut self, cx: &mut Context, now: Instant) {
        self.due = Some(now + pause(cx, self.refusals));
        self.refusals = self.refusals.saturating_add(1);
    }
}

/// How long to wait after so many refusals: a random part of up to a half is taken off, so that two ends that have
/// refused each other do not meet again.
pub(super) fn pause(cx: &mut Context, refusals: u32) -> Duration {
    let longest = RETRY.saturating_mul(1 << refusals.min(8)).min(LONGEST_RETRY);
    longest - part(cx, longest / 2)
}

/// How many octets and packets a CHILD SA may carry.
pub(super) fn usage_limits(cx: &mut Context, lifetime: &ChildLifetime) -> UsageLimits {
    let mut soft = |limit: Limit<u64>| {
        let dice = u32::from_be_bytes(cx.random());
        let off = (u128::from(limit.rand) * u128::from(dice)) >> 32;
        (limit.rekey > 0).then(|| limit.rekey.saturating_sub(off as u64).max(1))
    };
    let hard = |limit: Limit<u64>| (limit.life > 0).then_some(limit.life);
    UsageLimits {
        soft_bytes: soft(lifetime.bytes),
        hard_bytes: hard(lifetime.bytes),
        soft_packets: soft(lifetime.packets),
        hard_packets: hard(lifetime.packets),
    }
}

fn after(now: Instant, time: Duration, used: bool) -> Option<Instant> {
    if used { now.checked_add(time) } else { None }
}

/// A random part of a time.
pub(super) fn part(cx: &mut Context, of: Duration) -> Duration {
    let dice = u32::from_be_bytes(cx.random());
    of.mul_f64(f64::from(dice) / (f64::from(u32::MAX) + 1.0))
}
