//! Packets whose policy asks for an SA that is not there yet (`start_action = "trap"`): kept for a while, a few for each
//! policy, and sent when the SA has come up.
//!
//! They wait as what they are, frames with what is known of them, and go through policy once more in the end: what the SA
//! was negotiated for, and whether the policy is still there, is found out then.

use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_ipsec::{PolicyCounters, PolicyId};

use super::{Clear, Context, Packets};
use crate::coarse::Coarse;
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::policy::Verdict;

/// How many packets of a worker may wait for SAs, and how long. Each takes a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrapLimits {
    /// For one policy; 0: none wait, they are dropped at once.
    pub per_policy: usize,
    /// For all policies together.
    pub in_all: usize,
    /// Seconds from a policy's first packet that waits; then all of them are given up.
    pub seconds: u64,
}

impl TrapLimits {
    /// Nothing waits.
    pub const OFF: Self = Self { per_policy: 0, in_all: 0, seconds: 0 };
}

/// What tells workers that SAs have come up, and whoever brings them up that somebody waits.
#[derive(Debug, Default)]
pub struct TrapSignal {
    activations: AtomicU64,
    waiting: AtomicU64,
}

impl TrapSignal {
    /// An SA has come up; whether packets wait, so that workers must be woken.
    pub fn activated(&self) -> bool {
        // SeqCst, as below: either this sees that a packet waits, or who keeps that packet sees this.
        self.activations.fetch_add(1, Ordering::SeqCst);
        self.waiting.load(Ordering::SeqCst) > 0
    }

    fn activations(&self) -> u64 {
        self.activations.load(Ordering::SeqCst)
    }
}

/// One policy's packets, in order.
#[derive(Debug)]
struct Queue {
    policy: PolicyId,
    since: Coarse,
    packets: Vec<(Frame, Clear)>,
}

/// One worker's waiting packets.
#[derive(Debug, Default)]
pub(super) struct Trapped {
    queues: Vec<Queue>,
    len: usize,
    /// As of when all of them were last looked through.
    activations: u64,
}

impl Trapped {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether to look through them: an SA has come up, or some have waited too long. Whoever is told so does it with
    /// policies that are taken after this.
    pub(super) fn due(&mut self, signal: &TrapSignal, limits: TrapLimits, now: Coarse) -> bool {
        let old = |queue: &Queue| now.since(queue.since).as_secs() >= limits.seconds;
        let activations = std::mem::replace(&mut self.activations, signal.activations());
        self.len > 0 && (activations != self.activations || self.queues.iter().any(old))
    }

    /// Takes all of them, to be dropped.
    pub(super) fn take_all(&mut self, signal: &TrapSignal) -> impl Iterator<Item = Frame> + use<> {
        signal.waiting.fetch_sub(self.len as u64, Ordering::SeqCst);
        self.len = 0;
        std::mem::take(&mut self.queues).into_iter().flat_map(|queue| queue.packets).map(|(frame, _)| frame)
    }

    fn hold(
        &mut self,
        limits: TrapLimits,
        now: Coarse,
        policy: PolicyId,
        frame: Frame,
        about: Clear,
    ) -> Option<Frame> {
        if self.len >= limits.in_all {
            return Some(frame);
        }
        let place = self.queues.iter().position(|queue| queue.policy == policy).unwrap_or_else(|| {
            self.queues.push(Queue { policy, since: now, packets: Vec::new() });
            self.queues.len() - 1
        });
        match self.queues.get_mut(place) {
            Some(queue) if queue.packets.len() < limits.per_policy => {
                queue.packets.push((frame, about));
                self.len += 1;
                None
            }
            _ => Some(frame),
        }
    }
}

/// Keeps a packet that has asked for an SA, if it may wait.
#[cold]
pub(super) fn hold(context: &mut Context<'_>, frame: Frame, about: &Clear) {
    let limits = context.shared.trap;
    if limits.per_policy == 0 {
        return given_up(context, frame, about, DropReason::NoSa);
    }
    let Some(policy) = about.policy(context).map(|policy| policy.id()) else {
        return context.drop(frame, DropReason::NoPolicy);
    };
    match context.trapped.hold(limits, context.now, policy, frame, *about) {
        None => {
            context.shared.trap_signal.waiting.fetch_add(1, Ordering::SeqCst);
        }
        Some(frame) => given_up(context, frame, about, DropReason::TrapQueueFull),
    }
}

/// Takes out what need wait no longer: into `clear` what has an SA now (or no policy that asks for one), in order for each
/// policy; what has waited too long is dropped.
pub(super) fn release(context: &mut Context<'_>, clear: &mut Packets<Clear>) {
    let limits = context.shared.trap;
    let before = context.trapped.len;
    for mut queue in std::mem::take(&mut context.trapped.queues) {
        let old = context.now.since(queue.since).as_secs() >= limits.seconds;
        let mut waiting = Vec::new();
        for (frame, about) in queue.packets.drain(..) {
            if !waits(context, &about) {
                clear.push(frame, about);
            } else if old {
                given_up(context, frame, &about, DropReason::TrapTimeout);
            } else {
                waiting.push((frame, about));
            }
        }
        if !waiting.is_empty() {
            context.trapped.queues.push(Queue { packets: waiting, ..queue });
        }
    }
    context.trapped.len = context.trapped.queues.iter().map(|queue| queue.packets.len()).sum();
    let gone = before.saturating_sub(context.trapped.len) as u64;
    context.shared.trap_signal.waiting.fetch_sub(gone, Ordering::SeqCst);
}

fn given_up(context: &mut Context<'_>, frame: Frame, about: &Clear, reason: DropReason) {
    if let Some(policy) = about.policy(context) {
        policy.count(&PolicyCounters { dropped: 1, ..PolicyCounters::default() });
    }
    context.drop(frame, reason);
}

fn waits(context: &Context<'_>, about: &Clear) -> bool {
    match context.policies.lookup(about.tenant, &about.flow.flow()) {
        Verdict::Covered(policy) => policy.wants_sa() && policy.outbound().is_none(),
        Verdict::NoMatch => false,
    }
}
