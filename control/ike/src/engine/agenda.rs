//! What an authenticated IKE SA does next of its own accord. The window is one: one exchange at a time, and what is
//! more urgent first: the end of the IKE SA, where it is, deletes, its rekeying, children that are wanted, children to be rekeyed,
//! a peer to be asked whether it lives.

use std::time::Instant;

use portcullis_ipsec::Spi;

use super::children::Child;
use super::context::{Context, Effect};
use super::create_child_sa::initiator::{Creating, Purpose};
use super::established::{Established, Ours, Theirs};
use super::informational::{self, Deleting};
use super::liveness::Liveness;
use super::rekey_ike::initiator::Rekeying;
use super::sa::{Base, Next};
use super::state::State;
use crate::message::ExchangeType;

impl Established {
    /// When the next exchange of ours is to begin; `None` while it could not.
    pub(super) fn next_of_ours(&self, base: &Base) -> Option<Instant> {
        if !self.may_begin() || base.doomed || base.superseded.is_some() {
            return None;
        }
        let children = base.children.iter().filter(|child| self.may_rekey(base, child));
        let children = children.filter_map(Child::rekeying_due);
        let held = self.hold_until.filter(|_| !base.goals.is_empty() && self.theirs.is_none());
        let own = [self.rekeying_due(base), reauthentication_due(base), held];
        own.into_iter().flatten().chain(children).min()
    }

    /// Whether an exchange of ours may begin.
    fn may_begin(&self) -> bool {
        // Before IKE_AUTH is answered the peer could not read a request; and what the peer's rekeying makes of the
        // children is not known before that is answered.
        let waits = match &self.theirs {
            Some(Theirs::Child(theirs)) => theirs.is_first(),
            Some(Theirs::Ike(_) | Theirs::Addresses(_)) => true,
            None => false,
        };
        matches!(self.ours, Ours::Idle) && self.channel.idle() && !waits
    }

    /// When the IKE SA is to be rekeyed; `None` if it is about to be replaced anyway, or while the peer's request for a
    /// child is under way (RFC 7296 §2.25.2).
    fn rekeying_due(&self, base: &Base) -> Option<Instant> {
        self.schedule.due.filter(|_| base.replaced_by.is_none() && self.theirs.is_none())
    }

    /// Starts the next exchange of ours if none is under way.
    pub(super) fn pump(mut self: Box<Self>, cx: &mut Context, base: &mut Base, now: Instant) -> Next {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        base.close_orphans(cx);
        if !self.may_begin() {
            return Ok(State::Established(self));
        }
        if base.doomed {
            return Ok(Deleting::begin(cx, base, now, self.channel, "deleted by us"));
        }
        if base.superseded.is_some() {
            // The peer's Delete may wait for a stream that is there.
            if base.has_new_stream() && matches!(self.liveness, Liveness::Suspect) {
                self.ask(cx, base, now);
            }
            return Ok(State::Established(self));
        }
        if is_due(reauthentication_due(base)) {
            base.authentication.due = None;
            cx.effects.push_back(Effect::Reauthenticate { old: base.id });
        }
        let held = self.hold_until.is_some_and(|until| until > now);
        // First: what follows should arrive.
        if self.begin_mobike(cx, base, now)
            || self.begin_redirect(cx, base, now)
            || self.begin_notice(cx, base, now)
        {
            return Ok(State::Established(self));
        }
        if !base.deletes.is_empty() {
            let doomed = std::mem::take(&mut base.deletes);
            let spis: Vec<Spi> = doomed.iter().map(|doomed| doomed.pair).collect();
            let delete = informational::delete_children(&spis);
            self.channel.request(cx, base, now, ExchangeType::Informational, vec![delete]);
            self.ours = Ours::Deleting(doomed);
        } else if is_due(self.rekeying_due(base)) {
            self.schedule.due = None;
            if let Some(rekeying) = Rekeying::begin(cx, base) {
                self.ours = Ours::RekeyingIke(Box::new(rekeying));
            }
        } else if !held && self.next_goal(cx, base) {
            self.hold_until = None;
            self.ours = Ours::Creating(Box::new(Creating::begin(cx, base, Purpose::Goal)));
        } else if let Some(old) = self.child_due(base, now) {
            self.ours = Ours::Creating(Box::new(Creating::begin(cx, base, Purpose::rekey(old))));
        } else if matches!(self.liveness, Liveness::Suspect) {
            self.ask(cx, base, now);
        } else if base.replacing && base.goals.is_empty() && self.theirs.is_none() {
            base.replacing = false;
            cx.effects.push_back(Effect::Complete { id: base.id });
        }
        Ok(State::Established(self))
    }

    /// Asks the peer whether it lives.
    fn ask(&mut self, cx: &mut Context, base: &Base, now: Instant) {
        let probe = Self::probe(cx, base);
        self.channel.request(cx, base, now, ExchangeType::Informational, probe);
        self.ours = Ours::Probing;
    }

    /// Takes the next goal in hand that the peer has not met, and does not meet just now.
    fn next_goal(&self, cx: &mut Context, base: &mut Base) -> bool {
        let theirs = match &self.theirs {
            Some(Theirs::Child(theirs)) => Some(theirs.child()),
            _ => None,
        };
        while base.goals.front().is_some_and(|goal| Some(goal.child) != theirs) {
            base.goal = base.goals.pop_front();
            if !base.goal_is_met() {
                return true;
            }
            base.finish_goal(cx, Ok(()));
        }
        false
    }

    /// A CHILD SA that is to be rekeyed now.
    fn child_due(&self, base: &Base, now: Instant) -> Option<Spi> {
        let mut children = base.children.iter();
        let is_due = |child: &&Child| child.rekeying_due().is_some_and(|due| due <= now);
        let due = children.find(|child| is_due(child) && self.may_rekey(base, child));
        due.map(|child| child.status.spi_in)
    }
}

/// When the IKE SA is to be authenticated anew: by the end that began it, unless that is under way.
fn reauthentication_due(base: &Base) -> Option<Instant> {
    base.authentication.due.filter(|_| base.original_initiator && base.replaced_by.is_none())
}
