//! The task that everything for the engine comes to: datagrams, messages of streams, requests, events of the data plane, the
//! host's addresses.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use portcullis_ike::engine::{Command, Datagram};
use portcullis_ipsec::{DataplaneEvent, SaInstaller};
use tokio::sync::{mpsc, watch};

use super::Request;
use super::desk::Finished;
use super::shard::Shard;
use crate::daemon::Children;
use crate::daemon::leases::Leases;
use crate::daemon::sockets::Sockets;
use crate::daemon::streams::{Streams, Told};
use crate::daemon::traffic::Traffic;

/// Datagrams that are taken one after the other.
const AT_ONCE: usize = 32;

/// What the front stands on.
pub(super) struct Front {
    pub(super) shard: Shard,
    pub(super) sockets: Arc<Sockets>,
    pub(super) streams: Streams,
    pub(super) installer: Arc<dyn SaInstaller>,
    pub(super) children: Children,
    pub(super) traffic: Arc<Traffic>,
    pub(super) leases: Leases,
}

/// What changes around the engine.
pub(super) struct Changes {
    pub(super) events: watch::Receiver<u64>,
    pub(super) paths: watch::Receiver<Vec<IpAddr>>,
}

impl Front {
    /// Serves until nobody can ask any more. The children of `started` are brought up first.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut results: mpsc::UnboundedReceiver<Finished>,
        Changes { mut events, mut paths }: Changes,
        started: Vec<(String, String)>,
    ) {
        let mut buffer = Vec::new();
        self.paths_changed(&mut paths);
        for (connection, child) in started {
            self.order(Command::Initiate { connection, child: Some(child) });
        }
        loop {
            self.shard.drain();
            // What has been computed goes on before anything new begins.
            while let Ok(finished) = results.try_recv() {
                self.shard.finished(finished);
                self.shard.drain();
            }
            let timeout = self.shard.engine.poll_timeout();
            tokio::select! {
                datagram = self.sockets.receive(&mut buffer) => {
                    self.received(datagram);
                    self.receive_more(&mut buffer);
                }
                told = self.streams.next() => self.streamed(told),
                Some(finished) = results.recv() => self.shard.finished(finished),
                request = requests.recv() => match request {
                    Some(request) => self.request(request),
                    None => break,
                },
                Ok(()) = events.changed() => self.dataplane_events(),
                Ok(()) = paths.changed() => self.paths_changed(&mut paths),
                () = sleep_until(timeout) => self.shard.timeout(),
            }
        }
    }

    /// Some of what else has come, without asking what else there is to do.
    fn receive_more(&mut self, buffer: &mut Vec<u8>) {
        for _ in 0..AT_ONCE {
            self.shard.drain();
            match self.sockets.receive_now(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                datagram => self.received(datagram),
            }
        }
    }

    fn received(&mut self, datagram: std::io::Result<Option<Datagram>>) {
        match datagram {
            Ok(Some(datagram)) => self.shard.received(datagram),
            Ok(None) => self.shard.chronicle.reject("not_ike"),
            Err(error) => tracing::warn!(%error, "receiving IKE failed"),
        }
    }

    fn streamed(&mut self, told: Told) {
        match told {
            Told::Message(message) => self.shard.received(message),
            Told::Sweep => {
                let shard = &self.shard;
                self.streams.sweep(Instant::now(), |local, remote| shard.stream_use(local, remote));
            }
        }
    }

    fn request(&mut self, request: Request) {
        match request {
            Request::Command { command, reply } => self.shard.command(command, Some(reply)),
            // Whoever asked may have gone, here and below.
            Request::Ping { reply } => drop(reply.send(())),
            Request::Stop { reply } => {
                self.shard.chronicle.stop();
                let _ = reply.send(());
            }
            Request::Reconfigure(mut new, reply) => {
                self.children = std::mem::take(&mut new.children);
                // What the engine has asked for is answered from the pools before, what it asks for next from the new ones.
                self.shard.drain();
                if let Some(pools) = new.pools.take() {
                    self.leases.reconfigure(pools);
                }
                self.shard.reconfigure(*new);
                let _ = reply.send(());
            }
            Request::Verdicts { peer, reply } => {
                drop(reply.send(self.shard.verdicts(peer.as_deref())));
            }
            Request::Snapshot { reply } => {
                let mut snapshot = self.shard.snapshot();
                snapshot.streams = self.streams.counts();
                let _ = reply.send(snapshot);
            }
        }
    }

    /// Gives a command of which nobody is told how it ends.
    fn order(&mut self, command: Command) {
        self.shard.command(command, None);
    }

    fn paths_changed(&mut self, paths: &mut watch::Receiver<Vec<IpAddr>>) {
        let addresses = paths.borrow_and_update().clone();
        self.order(Command::PathsChanged { addresses });
    }

    fn dataplane_events(&mut self) {
        for event in self.installer.take_events() {
            match event {
                DataplaneEvent::Acquire { policy, flow } => match self.children.get(&policy).cloned() {
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
                    let connection = self.traffic.connection_of(pair);
                    tracing::info!(%connection, spi_in = %pair, "the SA has carried what it should, and is rekeyed");
                    self.order(Command::SoftLimit { pair });
                }
                DataplaneEvent::HardLimit { pair } => {
                    let connection = self.traffic.connection_of(pair);
                    tracing::warn!(%connection, spi_in = %pair, "the SA has carried all that it may, and ends");
                    self.order(Command::HardLimit { pair });
                }
                DataplaneEvent::UnknownSpi { spi, seen } => {
                    self.order(Command::UnknownSpi { spi, seen });
                }
                DataplaneEvent::PeerMoved { pair, seen } => {
                    let connection = self.traffic.connection_of(pair);
                    tracing::info!(%connection, spi_in = %pair, address = %seen.remote, "authenticated ESP comes from another address");
                    self.order(Command::PeerMoved { pair, seen });
                }
            }
        }
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}
