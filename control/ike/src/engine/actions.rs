//! What follows when a child is lost or idle (swanctl's `dpd_action`, `close_action` and `inactivity`): it stays down, or the
//! next packet brings it up, or we do.
//!
//! Idleness is the data plane's to know: it is asked when a CHILD SA may have been idle for long enough, and tells when that
//! will next be the case.

use std::time::{Duration, Instant};

use portcullis_ipsec::{Flow, SaCounters, Spi};

use super::Engine;
use super::api::{CommandId, Failure, JobResult, Resource};
use super::context::Context;
use super::established::Established;
use super::resources;
use super::sa::Base;
use crate::config::{LossAction, StartAction};

/// Why a child is gone, where the configuration may say what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// The peer does not answer any more.
    Silent,
    /// The peer has deleted it, or its IKE SA.
    Closed,
    /// Nobody has used it.
    Idle,
}

impl Engine {
    /// A child was lost.
    pub(super) fn lost(&mut self, connection: usize, child: usize, loss: Loss) {
        let Some(actions) = self.cx.child(connection, child).map(|config| config.actions) else { return };
        let action = match loss {
            Loss::Silent => actions.dpd,
            Loss::Closed => actions.close,
            Loss::Idle => Some(LossAction::Clear),
        };
        match action {
            None => {}
            Some(LossAction::Clear) => _ = self.upkeep.unwant(connection, child),
            Some(LossAction::Trap) => {
                self.upkeep.unwant(connection, child);
                self.trapped.insert((connection, child));
            }
            Some(LossAction::Restart) => self.upkeep.want_once(connection, child),
        }
    }

    /// A packet asks for a child. The data plane tells of those of every child that packets may come to ask for.
    pub(super) fn acquire(
        &mut self,
        now: Instant,
        id: CommandId,
        connection: &str,
        child: &str,
        flow: Flow,
    ) -> Result<(), Failure> {
        let (index, children) = self.find(connection, Some(child))?;
        if children.iter().any(|child| self.is_trapped(index, *child)) {
            return self.initiate(now, id, connection, Some(child), Some(flow));
        }
        self.cx.begin_command(id, 0);
        Ok(())
    }

    fn is_trapped(&self, connection: usize, child: usize) -> bool {
        let starts = self.cx.child(connection, child).map(|config| config.start_action);
        starts == Some(StartAction::Trap) || self.trapped.contains(&(connection, child))
    }
}

impl Base {
    /// After how long without traffic a CHILD SA is closed; zero: never.
    pub(super) fn inactivity(&self, cx: &Context, child: usize, resource: Resource) -> Duration {
        let configured = cx.child(self.connection, child).map(|config| config.actions.inactivity);
        match configured.unwrap_or_default() {
            Duration::ZERO if resource.is_additional() => resources::IDLE,
            configured => configured,
        }
    }
}

impl Established {
    /// Asks the data plane of those that may have been idle for long enough.
    pub(super) fn look_for_idle(&mut self, cx: &mut Context, base: &mut Base, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let mut pairs = Vec::new();
        for index in 0..base.children.len() {
            let Some(((config, resource), pair)) = base
                .children
                .get(index)
                .filter(|child| due(child.idle_check))
                .map(|child| ((child.config, child.status.resource), child.status.spi_in))
            else {
                continue;
            };
            let inactivity = base.inactivity(cx, config, resource);
            if let Some(child) = base.children.get_mut(index) {
                // Should the answer go astray.
                child.idle_check = (!inactivity.is_zero()).then(|| now + inactivity);
            }
            pairs.push(pair);
        }
        if !pairs.is_empty() {
            self.idling = Some(cx.query_counters(base.id, pairs));
        }
    }

    /// Closes those that were, and asks again of the others when they may be.
    pub(super) fn counted_idle(
        &mut self,
        cx: &mut Context,
        base: &mut Base,
        now: Instant,
        result: &JobResult,
    ) {
        let JobResult::Counters(counters) = result else { return };
        for (pair, counters) in counters {
            let Some(child) = base.child(*pair) else { continue };
            let (config, age) = (child.config, now.saturating_duration_since(child.status.established));
            let inactivity = base.inactivity(cx, config, child.status.resource);
            let used = base.has_beside(child);
            let idle = counters.as_ref().map_or(age, |counters| idle_for(counters, age));
            if inactivity.is_zero() {
                continue;
            }
            if idle < inactivity || used {
                // What is beside it is in use, or closed before.
                let again = if used { inactivity } else { inactivity - idle };
                if let Some(child) = base.child_mut(*pair) {
                    child.idle_check = Some(now + again);
                }
            } else if base.child(*pair).is_some_and(|child| child.successor.is_none()) {
                self.close_idle(cx, base, *pair);
            }
        }
    }

    fn close_idle(&mut self, cx: &mut Context, base: &mut Base, pair: Spi) {
        let before = base.loss.replace(Loss::Idle);
        self.close(cx, base, pair, "nobody has used it");
        base.loss = before;
    }
}

/// For how long no packet has gone either way.
fn idle_for(counters: &SaCounters, age: Duration) -> Duration {
    [counters.idle_in, counters.idle_out].into_iter().flatten().min().unwrap_or(age)
}
