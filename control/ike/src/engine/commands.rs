//! What operators and the data plane ask for: which IKE SA a command falls to, or that a new one is begun.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use portcullis_ipsec::{Encapsulation, Flow, Spi, TunnelEndpoints};

use super::api::*;
use super::context::Context;
use super::established::Established;
use super::failure::{self, About};
use super::ike_sa_init;
use super::path::Path;
use super::redirect::Redirect;
use super::resumption::{self, Session};
use super::sa::{Base, Closed, Goal, Role};
use super::state::State;
use super::{Engine, IkeSa};
use crate::config::{AddressMatch, ConnectionConfig, StartAction};

impl Engine {
    pub(super) fn run_command(&mut self, now: Instant, id: CommandId, command: Command) {
        let result = match command {
            Command::Initiate { connection, child } => {
                self.initiate(now, id, &connection, child.as_deref(), None)
            }
            Command::Acquire { connection, child, flow } => self.acquire(now, id, &connection, &child, flow),
            Command::Terminate { connection, child } => {
                self.terminate(now, id, &connection, child.as_deref())
            }
            Command::TerminateSa { ike } => {
                let found = self.cx.index.has(ike);
                self.cx.begin_command(id, usize::from(found));
                if found {
                    self.terminate_sa(now, ike, Some(id));
                }
                Ok(())
            }
            Command::LimitSession { ike, timeout } => {
                self.step(now, ike, |state, _, base| {
                    base.session_end = now.checked_add(timeout);
                    Ok(state)
                });
                self.cx.begin_command(id, 0);
                Ok(())
            }
            Command::TerminateAll => {
                self.terminate_all(now, id);
                Ok(())
            }
            Command::PeerMoved { pair, seen } => {
                self.of_pair(now, id, pair, |_, cx, base| base.peer_moved(cx, seen));
                Ok(())
            }
            Command::UnknownSpi { spi, seen } => {
                self.unknown_spi(now, spi, seen);
                self.cx.begin_command(id, 0);
                Ok(())
            }
            Command::PathsChanged { addresses } => {
                self.paths_changed(now, id, addresses);
                Ok(())
            }
            Command::FirstPacket { pair } => {
                self.of_pair(now, id, pair, |_, cx, base| base.activate(cx, pair));
                Ok(())
            }
            Command::WorkerAsks { pair, worker } => {
                self.of_pair(now, id, pair, |_, cx, base| base.worker_asks(cx, now, pair, worker));
                Ok(())
            }
            Command::SoftLimit { pair } => {
                self.of_pair(now, id, pair, |established, _, base| established.rekey_child(base, now, pair));
                Ok(())
            }
            Command::HardLimit { pair } => {
                self.of_pair(now, id, pair, |established, cx, base| {
                    established.expire_child(cx, base, pair);
                });
                Ok(())
            }
            Command::Rekey { connection, child } => self.rekey(now, id, &connection, child.as_deref()),
            Command::Reauthenticate { connection } => self.reauthenticate_all(now, id, &connection),
            Command::Redirect { connection, to } => self.redirect_clients(now, id, &connection, to),
        };
        if let Err(failure) = result {
            self.cx.event(Event::CommandDone { command: id, result: Err(failure) });
        }
    }

    /// Lets those IKE SAs that can move know.
    fn paths_changed(&mut self, now: Instant, id: CommandId, addresses: Vec<IpAddr>) {
        self.cx.outside_addresses = Some(addresses);
        let mobile = self.sas.values().filter(|sa| sa.base.mobility.agreed).map(|sa| sa.base.id);
        for sa in mobile.collect::<Vec<_>>() {
            self.step(now, sa, |mut state, cx, base| {
                if let State::Established(established) = &mut state {
                    established.paths_changed(cx, base, now);
                }
                Ok(state)
            });
            self.nudge(now, sa);
        }
        self.cx.begin_command(id, 0);
    }

    /// Indices of a connection and of the children meant.
    pub(super) fn find(&self, connection: &str, child: Option<&str>) -> Result<(usize, Vec<usize>), Failure> {
        let about = About { connection: Some(connection.to_owned()), remote: None };
        let found = self.cx.live_connections().find(|(_, config)| config.name == connection);
        let (index, _) = found.ok_or_else(|| about.unknown_connection(connection))?;
        let mut children = self.cx.live_children(index);
        let Some(name) = child else { return Ok((index, children.map(|(child, _)| child).collect())) };
        match children.find(|(_, child)| child.name == name) {
            Some((child, _)) => Ok((index, vec![child])),
            None => {
                let children = self.cx.live_children(index);
                let names = failure::join(children.map(|(_, child)| format!("`{}`", child.name)));
                Err(about.unknown_child(name, &names))
            }
        }
    }

    pub(super) fn initiate(
        &mut self,
        now: Instant,
        id: CommandId,
        connection: &str,
        child: Option<&str>,
        flow: Option<Flow>,
    ) -> Result<(), Failure> {
        let (connection, children) = self.find(connection, child)?;
        self.cx.begin_command(id, children.len());
        for child in children {
            let starts = self.cx.child(connection, child).map(|config| config.start_action);
            if starts == Some(StartAction::Start) {
                self.upkeep.want(connection, child);
            }
            self.bring_up(now, connection, Goal { flow, commands: vec![id], ..Goal::new(child) });
        }
        Ok(())
    }

    /// Sees to it that a child comes up: it is up, it is under way, an IKE SA can have one more, or a new IKE SA
    /// is begun.
    pub(super) fn bring_up(&mut self, now: Instant, connection: usize, goal: Goal) {
        let mut usable: Option<IkeSaId> = None;
        let mut up = false;
        for id in self.cx.index.of_connection(connection) {
            let Some(sa) = self.sas.get_mut(&id).filter(|sa| sa.serves(connection)) else { continue };
            let covers = |status: &ChildSaStatus| {
                goal.flow.is_none_or(|flow| flow.matches(&status.local_ts, &status.remote_ts))
            };
            up |= sa.base.children.iter().any(|child| child.config == goal.child && covers(&child.status));
            let pending = sa.base.goal.iter_mut().chain(&mut sa.base.goals);
            if let Some(pending) = pending
                .into_iter()
                .find(|pending| pending.child == goal.child && !pending.unwanted && pending.beside.is_none())
            {
                pending.commands.extend(goal.commands);
                return;
            }
            usable = usable.max(Some(sa.base.id));
        }
        if up {
            goal.commands.into_iter().for_each(|command| self.cx.end_goal(command, Ok(())));
            return;
        }
        match usable {
            Some(id) => {
                if let Some(sa) = self.sas.get_mut(&id) {
                    sa.base.goals.push_back(goal);
                }
                self.nudge(now, id);
            }
            None => {
                let session = resumption::initiator::session_for(&mut self.cx, connection, now);
                _ = self.begin_ike_sa(now, connection, goal, None, session);
            }
        }
    }

    /// Both ends may begin at once. An attempt of ours that the peer has not answered yet is given up when the peer's own
    /// has brought the same child up, and its commands have what they wanted.
    pub(super) fn give_way(&mut self, now: Instant, connection: usize, child: usize, remote: IpAddr) {
        let unanswered = |id: &IkeSaId| {
            self.sas.get(id).map(|sa| &sa.base).is_some_and(|base| {
                let wants = base.goal.as_ref().is_some_and(|goal| goal.child == child && goal.flow.is_none());
                wants && base.goals.is_empty() && base.remote.ip() == remote && !base.replacing
            })
        };
        let mut given_up = self.cx.index.unanswered(connection);
        given_up.retain(unanswered);
        for id in given_up {
            self.step(now, id, |_, cx, base| {
                let commands = base.goal.take().map(|goal| goal.commands).unwrap_or_default();
                commands.into_iter().for_each(|command| cx.end_goal(command, Ok(())));
                Err(Closed::because("the peer has brought the tunnel up first"))
            });
        }
    }

    /// Begins an IKE SA, where the configuration or a gateway says, perhaps from where another one ended; `None` if there is
    /// nowhere to begin it to.
    pub(super) fn begin_ike_sa(
        &mut self,
        now: Instant,
        connection: usize,
        goal: Goal,
        redirect: Option<&Redirect>,
        resumed: Option<Box<Session>>,
    ) -> Option<IkeSaId> {
        let config = self.cx.connection(connection)?;
        let about = About { connection: Some(config.name.clone()), remote: None };
        let method = config.proposals.first().and_then(|proposal| proposal.ke.first()).copied();
        let (Some((local, remote)), Some(method)) =
            (addresses(config, redirect.map(|redirect| redirect.to), self.cx.config.port), method)
        else {
            // Not retried: only another configuration could change it.
            self.upkeep.unwant(connection, goal.child);
            let failure = about.no_remote_address();
            self.cx.event(Event::Failed(failure.clone()));
            goal.commands.into_iter().for_each(|command| self.cx.end_goal(command, Err(failure.clone())));
            return None;
        };
        let (id, spi) = (self.cx.fresh_id(), self.cx.fresh_spi());
        let mut base =
            Base::new(id, Role::Initiator, (spi, [0; 8]), Path::udp(local, remote), connection, now);
        base.goal = Some(goal);
        base.redirect = redirect.cloned();
        base.resumed = resumed;
        let state = ike_sa_init::initiator::begin(&mut self.cx, &mut base, now, method);
        self.insert(now, IkeSa::boxed(base, state, None));
        Some(id)
    }

    /// Has the IKE SAs of a connection rekeyed, or the CHILD SAs of one child.
    fn rekey(&mut self, now: Instant, id: CommandId, name: &str, child: Option<&str>) -> Result<(), Failure> {
        let (connection, children) = self.find(name, child)?;
        let mut found = false;
        for sa in self.cx.index.of_connection(connection) {
            self.step(now, sa, |mut state, _, base| {
                if let State::Established(established) = &mut state
                    && base.superseded.is_none()
                {
                    if child.is_none() {
                        established.schedule.bring_forward(now);
                        found = true;
                    } else {
                        let theirs =
                            base.children.iter_mut().filter(|child| children.contains(&child.config));
                        for child in theirs.filter(|child| child.successor.is_none()) {
                            child.schedule.bring_forward(now);
                            found = true;
                        }
                    }
                }
                Ok(state)
            });
            self.nudge(now, sa);
        }
        self.done(id, name, found)
    }

    /// Has the IKE SAs of a connection made anew: those that the peer has begun, by the peer.
    fn reauthenticate_all(&mut self, now: Instant, id: CommandId, name: &str) -> Result<(), Failure> {
        let (connection, _) = self.find(name, None)?;
        let mut found = false;
        for sa in self.cx.index.of_connection(connection) {
            self.step(now, sa, |state, _, base| {
                if matches!(state, State::Established(_)) && base.superseded.is_none() {
                    if base.original_initiator {
                        base.authentication.bring_forward(now);
                    } else {
                        base.owes_reauthentication = true;
                    }
                    found = true;
                }
                Ok(state)
            });
            self.nudge(now, sa);
        }
        self.done(id, name, found)
    }

    fn done(&mut self, id: CommandId, name: &str, found: bool) -> Result<(), Failure> {
        if !found {
            let about = About { connection: Some(name.to_owned()), remote: None };
            return Err(about.nothing_to_rekey());
        }
        self.cx.begin_command(id, 0);
        Ok(())
    }

    /// Lets the IKE SA that has a CHILD SA know something of it. It may have gone meanwhile.
    fn of_pair(
        &mut self,
        now: Instant,
        command: CommandId,
        pair: Spi,
        tell: impl FnOnce(&mut Established, &mut Context, &mut Base),
    ) {
        if let Some(id) = self.cx.index.of_pair(pair) {
            self.step(now, id, |mut state, cx, base| {
                if let State::Established(established) = &mut state {
                    tell(established, cx, base);
                }
                Ok(state)
            });
            self.nudge(now, id);
        }
        self.cx.begin_command(command, 0);
    }

    fn terminate(
        &mut self,
        now: Instant,
        id: CommandId,
        name: &str,
        child: Option<&str>,
    ) -> Result<(), Failure> {
        let (connection, children) = self.find(name, child)?;
        let mut found = false;
        for child in &children {
            found |= self.upkeep.unwant(connection, *child);
        }
        let sas = self.cx.index.of_connection(connection);
        // One goal more than there are SAs, so that the command cannot end before all of them know of it.
        self.cx.begin_command(id, sas.len() + 1);
        for sa in &sas {
            found |= match (child.is_some(), children.first()) {
                (true, Some(child)) => self.terminate_child(now, *sa, *child, Some(id)),
                _ => self.terminate_sa(now, *sa, Some(id)),
            };
        }
        let about = About { connection: Some(name.to_owned()), remote: None };
        self.cx.end_goal(id, if found { Ok(()) } else { Err(about.nothing_to_terminate()) });
        Ok(())
    }

    fn terminate_all(&mut self, now: Instant, id: CommandId) {
        self.upkeep = super::upkeep::Upkeep::default();
        let (half_open, sas): (Vec<_>, Vec<_>) = self.sas.values().partition(|sa| sa.state.half_open());
        let ids = |sas: Vec<&Box<IkeSa>>| sas.into_iter().map(|sa| sa.base.id).collect::<Vec<_>>();
        let (half_open, sas) = (ids(half_open), ids(sas));
        for sa in half_open {
            self.step(now, sa, |_, _, _| Err(Closed::because("terminated")));
        }
        self.cx.begin_command(id, sas.len());
        for sa in sas {
            self.terminate_sa(now, sa, Some(id));
        }
    }

    /// Ends an IKE SA; `command` is told when it has ended.
    pub(super) fn terminate_sa(&mut self, now: Instant, id: IkeSaId, command: Option<CommandId>) -> bool {
        self.step(now, id, |state, _, base| {
            base.terminators.extend(command);
            base.doomed = true;
            match state {
                // The peer may believe the SA to be up already, or knows it is: it is told.
                state @ (State::AwaitingAuthResponse(_)
                | State::VerifyingResponder(_)
                | State::AwaitingLastAuthResponse(_)
                | State::Established(_)
                | State::Deleting(_)) => Ok(state),
                _ => Err(Closed::because("terminated")),
            }
        });
        self.nudge(now, id);
        true
    }

    /// Ends one child of an IKE SA; `command` is told when the peer knows.
    pub(super) fn terminate_child(
        &mut self,
        now: Instant,
        id: IkeSaId,
        child: usize,
        command: Option<CommandId>,
    ) -> bool {
        let mut found = false;
        let mut waits = false;
        self.step(now, id, |mut state, cx, base| {
            let ended = base.about(cx).closed_early("terminated");
            let (gone, kept): (Vec<_>, Vec<_>) = base.goals.drain(..).partition(|goal| goal.child == child);
            base.goals = kept.into();
            found |= !gone.is_empty();
            let mut commands: Vec<CommandId> = gone.into_iter().flat_map(|goal| goal.commands).collect();
            if let Some(goal) = base.goal.as_mut().filter(|goal| goal.child == child) {
                found = true;
                goal.unwanted = true;
                commands.append(&mut goal.commands);
            }
            commands.into_iter().for_each(|command| cx.end_goal(command, Err(ended.clone())));
            if let State::Established(established) = &mut state
                && established.close_child(cx, base, child, "terminated")
            {
                (found, waits) = (true, true);
                base.deleters.extend(command);
            }
            Ok(state)
        });
        if let Some(command) = command.filter(|_| !waits) {
            self.cx.end_goal(command, Ok(()));
        }
        self.nudge(now, id);
        found
    }
}

impl Base {
    /// An authenticated ESP packet came from another address: the peer's NAT has changed its mapping
    /// (RFC 7296 §2.23), or the peer its TCP stream (RFC 9329 §6.1). IKE follows, and so do the SA's other children.
    fn peer_moved(&mut self, cx: &mut Context, seen: TunnelEndpoints) {
        let remote_port = match seen.encapsulation {
            Encapsulation::None => return,
            Encapsulation::Tcp { local_port, remote_port } => {
                let local = SocketAddr::new(seen.local, local_port);
                let path = Path::tcp(local, SocketAddr::new(seen.remote, remote_port));
                if self.takes_stream(path) {
                    self.set_path(path);
                    self.move_children(cx);
                }
                return;
            }
            Encapsulation::Udp { .. } if self.path().is_stream() => return,
            Encapsulation::Udp { remote_port, .. } => remote_port,
        };
        if !self.nat.remote || self.nat.local {
            return;
        }
        if self.mobility.agreed {
            // IKE goes by UPDATE_SA_ADDRESSES alone; ESP may follow ESP (RFC 4555 §3.8).
            self.move_children_to(cx, seen);
        } else {
            self.remote = SocketAddr::new(seen.remote, remote_port);
            self.move_children(cx);
        }
    }
}

/// Where a connection is initiated from and to; an unspecified local address leaves the choice to the kernel.
/// `elsewhere` is another gateway than the configured one.
fn addresses(
    config: &ConnectionConfig,
    elsewhere: Option<IpAddr>,
    port: u16,
) -> Option<(SocketAddr, SocketAddr)> {
    let remote = elsewhere.or_else(|| config.remote_addrs.iter().find_map(single))?;
    Some((local_towards(config, remote, port), SocketAddr::new(remote, port)))
}

/// Our end of a connection to that address.
pub(super) fn local_towards(config: &ConnectionConfig, remote: IpAddr, port: u16) -> SocketAddr {
    let local = config.local_addrs.iter().filter_map(single).find(|addr| addr.is_ipv4() == remote.is_ipv4());
    let any: IpAddr = match remote {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(local.unwrap_or(any), port)
}

/// The address that is allowed, if it is a single one.
fn single(allowed: &AddressMatch) -> Option<IpAddr> {
    match allowed {
        AddressMatch::Address(addr) => Some(*addr),
        AddressMatch::Any | AddressMatch::Network(_) => None,
    }
}
