//! IKE SAs that take the place of others: what a rekeyed one leaves to its successor, reauthentication, initiations
//! that cross, INITIAL_CONTACT and `unique`.
//!
//! Reauthentication makes before it breaks: the new IKE SA is brought up with every child that the old one has, and
//! only then the old one is deleted. If that fails it is tried again until the old one's time is over.
//!
//! Two ends may initiate at once. When both IKE SAs come up, the one with the lowest of the four IKE_SA_INIT nonces is
//! given up by its initiator, as RFC 7296 §2.8.2 has it for rekeyings, once the other has its children.

use std::time::{Duration, Instant};

use super::Engine;
use super::api::*;
use super::context::Context;
use super::index::Identities;
use super::redirect::Redirect;
use super::rekey_ike::patience;
use super::sa::{Base, Closed, Estate, Goal};
use crate::config::Unique;

/// How long the children of an IKE SA that a peer's new one replaces may still be used: it may be reauthenticating, with
/// children to follow.
pub(super) const HANDOVER: Duration = Duration::from_secs(10);

impl Engine {
    /// `heir` takes over what `from` has left.
    pub(super) fn inherit(&mut self, now: Instant, from: IkeSaId, heir: IkeSaId, estate: Estate) {
        self.rename(from, heir);
        let Some(sa) = self.sas.get_mut(&heir) else { return estate.dissolve(&mut self.cx, from) };
        sa.base.inherit(&mut self.cx, estate);
        let ike = sa.base.status(&self.cx, sa.state.public());
        self.cx.event(Event::IkeRekeyed { ike, replaced: from });
        self.nudge(now, heir);
    }

    /// What `old` was to replace is `new`'s to replace.
    pub(super) fn rename(&mut self, old: IkeSaId, new: IkeSaId) {
        let Some(sa) = self.sas.get_mut(&old).filter(|sa| sa.base.replacing) else { return };
        sa.base.replacing = false;
        if let Some(heir) = self.sas.get_mut(&new) {
            heir.base.replacing = true;
        }
        for id in self.replaced_by(old) {
            if let Some(sa) = self.sas.get_mut(&id) {
                sa.base.replaced_by = Some(new);
            }
        }
    }

    /// Two ends are authenticated to each other. What else they have between them may go.
    pub(super) fn authenticated(&mut self, now: Instant, new: IkeSaId) {
        let Some(sa) = self.sas.get(&new) else { return };
        let (connection, remote) = (sa.base.connection, sa.base.remote.ip());
        let unique = self.cx.connection(connection).map(|config| config.unique).unwrap_or_default();
        let Some(identities) = sa.base.identities() else { return };
        self.supersede_elsewhere(new);
        for other in self.cx.index.of_identities(&identities) {
            let (Some(sa), Some(old)) = (self.sas.get(&new), self.sas.get(&other)) else { continue };
            let in_use = old.serves(connection) && other != new;
            if !in_use {
                continue;
            }
            if old.base.remote.ip() == remote && cross(&self.cx, &sa.base, &old.base) {
                let (stays, goes) = match sa.base.lowest_nonce > old.base.lowest_nonce {
                    true => (new, other),
                    false => (other, new),
                };
                self.give_up(now, goes, stays);
            } else if unique == Unique::Replace
                && let Some(old) = self.sas.get_mut(&other)
            {
                old.base.replaced_by = Some(new);
                old.base.authentication.end = Some(now + HANDOVER);
                self.nudge(now, other);
            }
        }
    }

    /// Of two IKE SAs whose initiations have crossed, `goes` is given up by its initiator.
    fn give_up(&mut self, now: Instant, goes: IkeSaId, stays: IkeSaId) {
        let Some(sa) = self.sas.get_mut(&goes).filter(|sa| sa.base.original_initiator) else { return };
        sa.base.replaced_by = Some(stays);
        if let Some(sa) = self.sas.get_mut(&stays) {
            sa.base.replacing = true;
        }
        self.nudge(now, stays);
    }

    /// INITIAL_CONTACT (RFC 7296 §2.4), which came with `kept`, or to another shard.
    pub(super) fn initial_contact(
        &mut self,
        now: Instant,
        kept: Option<IkeSaId>,
        identities: &Identities,
        before: Instant,
    ) {
        for id in self.cx.index.of_identities(identities) {
            let outdated = self.sas.get(&id).and_then(|sa| sa.base.established).is_some_and(|at| at < before);
            if Some(id) != kept && outdated {
                self.step(now, id, |_, _, _| {
                    Err(Closed::because("the peer has started over (INITIAL_CONTACT)"))
                });
            }
        }
    }

    /// Makes an IKE SA anew, with every child that it has; perhaps with another gateway.
    pub(super) fn reauthenticate(&mut self, now: Instant, old: IkeSaId, redirect: Option<&Redirect>) {
        let Some(sa) = self.sas.get(&old) else { return };
        let connection = sa.base.connection;
        let mut wanted: Vec<usize> = sa.base.children.iter().map(|child| child.config).collect();
        wanted.extend(sa.base.goals.iter().filter(|goal| goal.beside.is_none()).map(|goal| goal.child));
        wanted.sort_unstable();
        wanted.dedup();
        let mut goals = wanted.into_iter().map(Goal::new);
        let Some(first) = goals.next() else {
            // Nothing would be lost, and nothing is to be brought up.
            self.step(now, old, |state, _, base| {
                base.doomed = true;
                Ok(state)
            });
            return self.nudge(now, old);
        };
        let Some(new) = self.begin_ike_sa(now, connection, first, redirect, None) else { return };
        if let Some(sa) = self.sas.get_mut(&new) {
            sa.base.goals.extend(goals);
            sa.base.replacing = true;
            sa.base.reauthenticates = true;
        }
        if let Some(sa) = self.sas.get_mut(&old) {
            sa.base.replaced_by = Some(new);
        }
    }

    /// An IKE SA has all the children that it was asked to have: those that it replaces go, once it has theirs.
    pub(super) fn replace(&mut self, now: Instant, new: IkeSaId) {
        for id in self.replaced_by(new) {
            let missing = self.missing(new, id);
            if missing.is_empty() {
                self.step(now, id, |state, _, base| {
                    base.doomed = true;
                    Ok(state)
                });
                self.nudge(now, id);
            } else if let Some(sa) = self.sas.get_mut(&new)
                && !std::mem::replace(&mut sa.base.asked, true)
            {
                missing.into_iter().for_each(|child| sa.base.want(child));
                sa.base.replacing = true;
                self.nudge(now, new);
            } else {
                self.not_replaced(now, id);
                self.step(now, new, |state, _, base| {
                    base.doomed |= base.reauthenticates;
                    Ok(state)
                });
                self.nudge(now, new);
            }
        }
    }

    /// The children of `old` that `new` does not have.
    fn missing(&self, new: IkeSaId, old: IkeSaId) -> Vec<usize> {
        let (Some(new), Some(old)) = (self.sas.get(&new), self.sas.get(&old)) else { return Vec::new() };
        let mut missing = old.base.wanted();
        missing.retain(|config| !new.base.children.iter().any(|child| child.config == *config));
        missing
    }

    /// The IKE SAs that wait for `new` to replace them.
    fn replaced_by(&self, new: IkeSaId) -> Vec<IkeSaId> {
        let Some(connection) = self.sas.get(&new).map(|sa| sa.base.connection) else { return Vec::new() };
        // What the peer is about to delete is left to it: it may not have our answer to its rekeying yet.
        let waits = |id: &IkeSaId| {
            self.sas
                .get(id)
                .is_some_and(|sa| sa.base.replaced_by == Some(new) && sa.base.superseded.is_none())
        };
        self.cx.index.of_connection(connection).into_iter().filter(waits).collect()
    }

    /// An IKE SA has ended that may have been meant to replace others: they stay, and try again later.
    pub(super) fn replacement_ended(&mut self, now: Instant, ended: &Base) {
        if !ended.replacing {
            return;
        }
        for id in self.cx.index.of_connection(ended.connection) {
            if self.sas.get(&id).is_some_and(|sa| sa.base.replaced_by == Some(ended.id)) {
                self.not_replaced(now, id);
            }
        }
    }

    fn not_replaced(&mut self, now: Instant, id: IkeSaId) {
        if let Some(sa) = self.sas.get_mut(&id) {
            sa.base.replaced_by = None;
            sa.base.authentication.put_off(&mut self.cx, now);
        }
        self.nudge(now, id);
    }
}

impl Base {
    /// The children that it has or is to have.
    pub(super) fn wanted(&self) -> Vec<usize> {
        let has = self.children.iter().map(|child| child.config);
        let goals =
            self.goals.iter().chain(&self.goal).filter(|goal| !goal.unwanted && goal.beside.is_none());
        let goals = goals.map(|goal| goal.child);
        let mut wanted: Vec<usize> = has.chain(goals).collect();
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }
}

/// Whether two IKE SAs were initiated by either end before it knew of the other's: as seen from here, or because a
/// request may be under way for as long as it is repeated.
fn cross(cx: &Context, a: &Base, b: &Base) -> bool {
    let before = |a: &Base, b: &Base| {
        let known = b.established.map(|at| at + patience(&cx.config.retransmission));
        known.is_some_and(|known| a.created < known)
    };
    a.original_initiator != b.original_initiator && before(a, b) && before(b, a)
}
