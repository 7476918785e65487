//! The CHILD SAs of one IKE SA, from the install to the end: when packets are sealed with one (RFC 7296 §2.8: at the
//! end that did not ask for it, not before the other shows that it is ready), what follows a rekeying, and what
//! becomes of policies that several of them share.

use std::time::Instant;

use portcullis_ipsec::{InstallError, PolicyId, Spi, TunnelEndpoints};

use super::api::{Activation, ChildSaStatus, JobId, JobResult, PolicyRef};
use super::context::{Context, Effect};
use super::lifetime::Schedule;
use super::sa::Base;

/// A CHILD SA that is installed.
#[derive(Debug)]
pub(super) struct Child {
    /// Index in the connection's children.
    pub(super) config: usize,
    pub(super) status: ChildSaStatus,
    pub(super) sealing: Sealing,
    /// Our SPI of the CHILD SA that it has replaced or is to replace.
    pub(super) replaces: Option<Spi>,
    /// Our SPI of the one that has replaced it.
    pub(super) successor: Option<Spi>,
    pub(super) schedule: Schedule,
    /// The peer has asked for it and may not have our answer yet: until it shows that it has, or this time, it is not
    /// rekeyed from here, because the peer would know nothing of it.
    pub(super) unconfirmed: Option<Instant>,
    /// When it may next have been idle for so long that it is closed.
    pub(super) idle_check: Option<Instant>,
    /// The peer wants no more CHILD SAs of single workers beside it, until then.
    pub(super) no_more_until: Option<Instant>,
}

/// Whether packets are sealed with a CHILD SA.
#[derive(Debug)]
pub(super) enum Sealing {
    /// Those of this policy.
    Active(PolicyId),
    /// Not before the peer has shown that it is ready.
    Waiting(Box<Activation>),
    /// The data plane has been told to; then these, which it replaces, are retired.
    Activating { job: JobId, policy: Option<PolicyId>, endpoints: TunnelEndpoints, replaced: Vec<Spi> },
    /// Never: it has lost a collision and is about to be deleted.
    Never,
}

/// A CHILD SA whose Delete is to be sent, or was sent and not answered yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doomed {
    /// Our SPI, which the Delete names.
    pub(super) pair: Spi,
    /// The peer's, if we ever knew it.
    pub(super) peer: Option<Spi>,
}

impl Child {
    /// The policy that leads to it, or will.
    pub(super) fn policy(&self) -> Option<PolicyId> {
        match &self.sealing {
            Sealing::Active(policy) => Some(*policy),
            Sealing::Waiting(activation) => match activation.policy {
                PolicyRef::Installed(policy) => Some(policy),
                PolicyRef::New(_) => None,
            },
            Sealing::Activating { policy, .. } => *policy,
            Sealing::Never => None,
        }
    }

    /// When it is to be rekeyed, if ever.
    pub(super) fn rekeying_due(&self) -> Option<Instant> {
        let due = self.schedule.due?;
        Some(self.unconfirmed.map_or(due, |until| due.max(until)))
    }

    /// The job under way for it.
    pub(super) fn job(&self) -> Option<JobId> {
        match self.sealing {
            Sealing::Activating { job, .. } => Some(job),
            _ => None,
        }
    }
}

impl Base {
    pub(super) fn child(&self, pair: Spi) -> Option<&Child> {
        self.children.iter().find(|child| child.status.spi_in == pair)
    }

    pub(super) fn child_mut(&mut self, pair: Spi) -> Option<&mut Child> {
        self.children.iter_mut().find(|child| child.status.spi_in == pair)
    }

    /// The CHILD SA that the peer receives on `spi`.
    pub(super) fn child_of_peer(&self, spi: Spi) -> Option<&Child> {
        self.children.iter().find(|child| child.status.spi_out == spi)
    }

    /// The policy of a CHILD SA that is replaced by one with these selectors: it is kept if they are the same.
    pub(super) fn policy_of(&self, pair: Spi) -> Option<PolicyId> {
        self.child(pair)?.policy()
    }

    /// `policy`, unless something that is left still has it.
    fn unless_shared(&self, policy: Option<PolicyId>) -> Option<PolicyId> {
        policy.filter(|policy| {
            let claimed = self.claims.iter().any(|(_, claimed)| claimed == policy);
            !claimed && !self.children.iter().any(|child| child.policy() == Some(*policy))
        })
    }

    /// What is being installed will not have this policy after all.
    pub(super) fn unclaim(&mut self, pair: Spi) -> Option<PolicyId> {
        let at = self.claims.iter().position(|(claimer, _)| *claimer == pair)?;
        let (_, policy) = self.claims.swap_remove(at);
        self.unless_shared(Some(policy))
    }

    /// Removes a child from the data plane, with its policy unless another child has it.
    pub(super) fn remove_child(&mut self, cx: &mut Context, pair: Spi, reason: &str) -> Option<Child> {
        let child = self.take_child(cx, pair, reason)?;
        let policy = self.unless_shared(child.policy());
        cx.remove_child(self.id, pair, policy);
        self.retire_replaced(cx, &child);
        self.close_orphans(cx);
        Some(child)
    }

    /// Removes every child from the data plane. If the same two ends have another IKE SA, which may have the same
    /// children, what is under way is still accepted until a while after the end of this one.
    pub(super) fn remove_children(&mut self, cx: &mut Context, reason: &str) {
        let identities = self.identities();
        let replaced = identities.is_some_and(|identities| {
            let others = cx.index.of_identities(&identities);
            others.iter().any(|id| *id != self.id) || cx.elsewhere.contains(&identities)
        });
        // What is being installed is undone when its job comes back.
        self.claims.clear();
        while let Some(pair) = self.children.first().map(|child| child.status.spi_in) {
            if !replaced {
                self.remove_child(cx, pair, reason);
            } else if let Some(child) = self.take_child(cx, pair, reason) {
                // Whichever of them goes first takes the policy along, so that it never leads nowhere.
                cx.stop_sealing(self.id, pair, child.policy());
                self.leaving.push(pair);
            }
        }
    }

    /// Ends a child that has been replaced. What the peer has sent with it is still accepted for a while; nothing is
    /// sealed with it any more, but by its successor, which it waits for.
    pub(super) fn retire_child(&mut self, cx: &mut Context, pair: Spi, reason: &str) {
        let Some(child) = self.child_mut(pair) else { return };
        if let Sealing::Activating { replaced, .. } = &mut child.sealing {
            // First the one, then the other: the data plane takes them in any order.
            replaced.push(pair);
            return;
        }
        if let Some(successor) = child.successor {
            self.activate(cx, successor);
            if let Some(Child { sealing: Sealing::Activating { replaced, .. }, .. }) =
                self.child_mut(successor)
            {
                if !replaced.contains(&pair) {
                    replaced.push(pair);
                }
                return;
            }
        }
        self.retire(cx, pair, reason);
    }

    fn retire(&mut self, cx: &mut Context, pair: Spi, reason: &str) {
        if let Some(child) = self.take_child(cx, pair, reason) {
            let policy = self.unless_shared(child.policy());
            cx.retire_child(self.id, pair, policy);
            self.retire_replaced(cx, &child);
            self.close_orphans(cx);
        }
    }

    /// What waited for a child that is gone to be activated waits no longer.
    fn retire_replaced(&mut self, cx: &mut Context, gone: &Child) {
        if let Sealing::Activating { replaced, .. } = &gone.sealing {
            replaced.iter().for_each(|pair| self.retire(cx, *pair, "rekeyed"));
        }
    }

    fn take_child(&mut self, cx: &mut Context, pair: Spi, reason: &str) -> Option<Child> {
        let at = self.children.iter().position(|child| child.status.spi_in == pair)?;
        let child = self.children.remove(at);
        self.children.shrink_to_fit();
        cx.index.forget_pair(pair);
        for other in self.children.iter_mut().filter(|other| other.successor == Some(pair)) {
            // Its own, if it had one.
            other.successor = child.successor;
        }
        cx.child_closed(self.connection, &child.status.name, pair, reason);
        if !self.children.iter().any(|other| other.config == child.config) {
            cx.effects.push_back(Effect::ChildDown {
                connection: self.connection,
                child: child.config,
                refused: false,
                loss: self.loss,
            });
        }
        Some(child)
    }

    /// The peer is ready for what we seal with this child.
    pub(super) fn activate(&mut self, cx: &mut Context, pair: Spi) {
        let id = self.id;
        let Some(child) = self.child_mut(pair) else { return };
        child.unconfirmed = None;
        let predecessor = child.replaces;
        if !matches!(child.sealing, Sealing::Waiting(_)) {
            return;
        }
        let busy = |child: &Child| matches!(child.sealing, Sealing::Activating { .. });
        if predecessor.and_then(|pair| self.child(pair)).is_some_and(busy) {
            // It comes into use when that one is deleted.
            return;
        }
        let Some(child) = self.child_mut(pair) else { return };
        let Sealing::Waiting(activation) = std::mem::replace(&mut child.sealing, Sealing::Never) else {
            return;
        };
        let policy = match activation.policy {
            PolicyRef::Installed(policy) => Some(policy),
            PolicyRef::New(_) => None,
        };
        let endpoints = activation.outbound.endpoints;
        let job = cx.activate_child(id, pair, activation);
        if let Some(child) = self.child_mut(pair) {
            child.sealing = Sealing::Activating { job, policy, endpoints, replaced: Vec::new() };
        }
    }

    /// Tells the data plane of children that are not where this SA is.
    pub(super) fn move_children(&mut self, cx: &mut Context) {
        let endpoints = self.endpoints(cx);
        self.move_children_to(cx, endpoints);
    }

    /// Tells the data plane of children that are elsewhere.
    pub(super) fn move_children_to(&mut self, cx: &mut Context, endpoints: TunnelEndpoints) {
        for child in self.children.iter_mut().filter(|child| child.status.endpoints != endpoints) {
            child.status.endpoints = endpoints;
            if let Sealing::Waiting(activation) = &mut child.sealing {
                activation.outbound.endpoints = endpoints;
            }
            cx.move_child(self.id, child.status.spi_in, endpoints);
        }
    }

    /// Whether a job is that of a child which is being activated.
    pub(super) fn activates(&self, job: JobId) -> Option<Spi> {
        self.children.iter().find(|child| child.job() == Some(job)).map(|child| child.status.spi_in)
    }

    /// The data plane has tried to activate a child. `Err` is a child that is of no use.
    pub(super) fn activated(
        &mut self,
        cx: &mut Context,
        pair: Spi,
        result: JobResult,
    ) -> Result<(), InstallError> {
        let Some(child) = self.child_mut(pair) else { return Ok(()) };
        let Sealing::Activating { policy, endpoints, replaced, .. } = &mut child.sealing else {
            return Ok(());
        };
        let (known, replaced) = (*policy, std::mem::take(replaced));
        let moved = (*endpoints != child.status.endpoints).then_some(child.status.endpoints);
        let result = match result {
            JobResult::ChildActivated(Ok(policy)) => {
                child.sealing = Sealing::Active(policy);
                Ok(())
            }
            JobResult::ChildActivated(Err(error)) => {
                // What it was to have is removed with the last child that has it.
                child.sealing = known.map_or(Sealing::Never, Sealing::Active);
                Err(error)
            }
            _ => Ok(()),
        };
        // What moved while the data plane was busy is moved again.
        if let Some(endpoints) = moved {
            cx.move_child(self.id, pair, endpoints);
        }
        for pair in replaced {
            self.retire_child(cx, pair, "rekeyed");
        }
        result
    }
}
