//! The task that everything for the engines comes to: datagrams, messages of streams, requests, events of the data plane, the
//! host's addresses. What stands behind it is one engine, in the same task ([`Alone`]), or several ([`Spread`]).
//!
//! [`Spread`]: super::spread::Spread

use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use portcullis_ike::engine::{Command, Datagram};
use portcullis_ipsec::{DataplaneEvent, SaInstaller};
use tokio::sync::{mpsc, oneshot, watch};

use super::desk::Finished;
use super::shard::{AT_ONCE, Outcome, ROW, Shard, sleep_until};
use super::{Pong, Reconfiguration, Request, Snapshot};
use crate::daemon::Children;
use crate::daemon::leases::Leases;
use crate::daemon::sockets::{Inbox, Sockets};
use crate::daemon::streams::{Streams, Told};
use crate::daemon::traffic::Traffic;
use crate::daemon::verdicts::Entry;

/// What stands behind the front.
pub(super) trait Back: Send + 'static {
    /// A message came.
    fn received(&mut self, datagram: Datagram);

    /// A datagram was none.
    fn reject(&mut self, label: &'static str);

    /// A command; `reply` is told how it ended.
    fn command(&mut self, command: Command, reply: Option<oneshot::Sender<Outcome>>);

    /// Another configuration.
    fn reconfigure(&mut self, new: Reconfiguration, leases: &Leases, reply: oneshot::Sender<()>);

    /// Whatever else is asked.
    fn request(&mut self, request: Question, streams: &Streams);

    /// It is to be looked which streams are used.
    fn sweep(&mut self, streams: &Streams);

    /// What has come is worked on.
    fn work(&mut self);

    /// What waits to be sent is sent.
    fn send(&mut self);

    /// The same, and whatever has been computed meanwhile goes on: before anything new begins.
    fn catch_up(&mut self);

    /// Waits for what goes on by itself, and lets it go on.
    fn progress(&mut self) -> impl Future<Output = ()> + Send;

    /// What it has come to that concerns the streams.
    fn progressed(&mut self, streams: &Streams);
}

/// What is asked of all engines, and changes nothing.
pub(super) enum Question {
    Snapshot(oneshot::Sender<Snapshot>),
    Ping(oneshot::Sender<Vec<Pong>>),
    Stop(oneshot::Sender<()>),
    Verdicts(Option<String>, oneshot::Sender<Vec<Entry>>),
}

/// What the front stands on.
pub(super) struct Outside {
    pub(super) sockets: Arc<Sockets>,
    pub(super) streams: Streams,
    pub(super) installer: Arc<dyn SaInstaller>,
    pub(super) children: Children,
    pub(super) traffic: Arc<Traffic>,
    pub(super) leases: Leases,
}

impl Outside {
    /// A front with that behind it.
    pub(super) fn before<B: Back>(self, back: B) -> Front<B> {
        Front { outside: self, back }
    }
}

/// The front.
pub(super) struct Front<B> {
    outside: Outside,
    back: B,
}

/// What changes around the engines.
pub(super) struct Changes {
    pub(super) events: watch::Receiver<u64>,
    pub(super) paths: watch::Receiver<Vec<IpAddr>>,
}

impl<B: Back> Front<B> {
    /// Serves until nobody can ask any more. The children of `started` are brought up first.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        Changes { mut events, mut paths }: Changes,
        started: Vec<(String, String)>,
    ) {
        let mut inbox = Inbox::new();
        self.paths_changed(&mut paths);
        for (connection, child) in started {
            self.order(Command::Initiate { connection, child: Some(child) });
        }
        loop {
            self.back.catch_up();
            tokio::select! {
                datagram = self.outside.sockets.receive(&mut inbox) => {
                    self.received(datagram);
                    self.receive_more(&mut inbox);
                }
                told = self.outside.streams.next() => self.streamed(told),
                () = self.back.progress() => self.back.progressed(&self.outside.streams),
                request = requests.recv() => match request {
                    Some(request) => self.request(request),
                    None => break,
                },
                Ok(()) = events.changed() => self.dataplane_events(),
                Ok(()) = paths.changed() => self.paths_changed(&mut paths),
            }
        }
    }

    /// Some of what else has come, without asking what else there is to do.
    fn receive_more(&mut self, inbox: &mut Inbox) {
        for row in (1..=ROW).cycle().take(AT_ONCE) {
            self.back.work();
            if row == ROW {
                self.back.send();
            }
            match self.outside.sockets.receive_now(inbox) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                datagram => self.received(datagram),
            }
        }
    }

    fn received(&mut self, datagram: std::io::Result<Option<Datagram>>) {
        match datagram {
            Ok(Some(datagram)) => self.back.received(datagram),
            Ok(None) => self.back.reject("not_ike"),
            Err(error) => tracing::warn!(%error, "receiving IKE failed"),
        }
    }

    fn streamed(&mut self, told: Told) {
        match told {
            Told::Message(message) => self.back.received(message),
            Told::Sweep => self.back.sweep(&self.outside.streams),
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Command { command, reply } => self.back.command(command, Some(reply)),
            Request::Reconfigure(mut new, reply) => {
                self.outside.children = std::mem::take(&mut new.children);
                self.back.reconfigure(*new, &self.outside.leases, reply);
            }
            Request::Ask(question) => self.back.request(question, &self.outside.streams),
        }
    }

    /// Gives a command of which nobody is told how it ends.
    fn order(&mut self, command: Command) {
        self.back.command(command, None);
    }

    fn paths_changed(&mut self, paths: &mut watch::Receiver<Vec<IpAddr>>) {
        let addresses = paths.borrow_and_update().clone();
        self.order(Command::PathsChanged { addresses });
    }

    fn dataplane_events(&mut self) {
        for event in self.outside.installer.take_events() {
            match event {
                DataplaneEvent::Acquire { policy, flow } => match self.outside.children.get(&policy).cloned()
                {
                    Some((connection, child)) => {
                        tracing::info!(%connection, %child, %flow, "traffic asks for an SA");
                        self.order(Command::Acquire { connection, child, flow });
                    }
                    None => tracing::debug!(?policy, %flow, "traffic without an SA, of no configured child"),
                },
                DataplaneEvent::FirstPacket { pair } => self.order(Command::FirstPacket { pair }),
                DataplaneEvent::WorkerAsks { pair, worker } => {
                    tracing::debug!(spi_in = %pair, worker, "a worker asks for an SA of its own");
                    self.order(Command::WorkerAsks { pair, worker });
                }
                DataplaneEvent::SoftLimit { pair } => {
                    let connection = self.outside.traffic.connection_of(pair);
                    tracing::info!(%connection, spi_in = %pair, "the SA has carried what it should, and is rekeyed");
                    self.order(Command::SoftLimit { pair });
                }
                DataplaneEvent::HardLimit { pair } => {
                    let connection = self.outside.traffic.connection_of(pair);
                    tracing::warn!(%connection, spi_in = %pair, "the SA has carried all that it may, and ends");
                    self.order(Command::HardLimit { pair });
                }
                DataplaneEvent::UnknownSpi { spi, seen } => {
                    self.order(Command::UnknownSpi { spi, seen });
                }
                DataplaneEvent::PeerMoved { pair, seen } => {
                    let connection = self.outside.traffic.connection_of(pair);
                    tracing::info!(%connection, spi_in = %pair, address = %seen.remote, "authenticated ESP comes from another address");
                    self.order(Command::PeerMoved { pair, seen });
                }
            }
        }
    }
}

/// One engine, in the front's own task.
pub(super) struct Alone {
    pub(super) shard: Shard,
    pub(super) results: mpsc::UnboundedReceiver<Finished>,
}

impl Back for Alone {
    fn received(&mut self, datagram: Datagram) {
        self.shard.received(datagram);
    }

    fn reject(&mut self, label: &'static str) {
        self.shard.chronicle.reject(label);
    }

    fn command(&mut self, command: Command, reply: Option<oneshot::Sender<Outcome>>) {
        self.shard.command(command, reply);
    }

    fn reconfigure(&mut self, mut new: Reconfiguration, leases: &Leases, reply: oneshot::Sender<()>) {
        // What the engine has asked for is answered from the pools before, what it asks for next from the new ones.
        self.shard.drain();
        if let Some(pools) = new.pools.take() {
            leases.reconfigure(pools);
        }
        self.shard.reconfigure(new.engine);
        // Whoever asked may have gone, here and below.
        let _ = reply.send(());
    }

    fn request(&mut self, request: Question, streams: &Streams) {
        match request {
            Question::Snapshot(reply) => {
                let mut snapshot = self.shard.snapshot();
                snapshot.streams = streams.counts();
                let _ = reply.send(snapshot);
            }
            // It has come to it.
            Question::Ping(reply) => drop(reply.send(Vec::new())),
            Question::Stop(reply) => {
                self.shard.chronicle.stop();
                let _ = reply.send(());
            }
            Question::Verdicts(peer, reply) => drop(reply.send(self.shard.verdicts(peer.as_deref()))),
        }
    }

    fn sweep(&mut self, streams: &Streams) {
        streams.sweep(Instant::now(), |local, remote| self.shard.engine.stream_use(local, remote));
    }

    fn work(&mut self) {
        self.shard.work();
    }

    fn send(&mut self) {
        self.shard.send();
    }

    fn catch_up(&mut self) {
        self.shard.catch_up(&mut self.results);
    }

    async fn progress(&mut self) {
        let timeout = self.shard.engine.poll_timeout();
        tokio::select! {
            Some(finished) = self.results.recv() => self.shard.finished(finished),
            () = sleep_until(timeout) => self.shard.timeout(),
        }
    }

    fn progressed(&mut self, _: &Streams) {}
}
