//! One engine, and what goes with it: its commands, its jobs, what it sends and what happens in it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use portcullis_ike::config::EngineConfig;
use portcullis_ike::engine::{Command, CommandId, Datagram, DatagramPayload, Engine, Event, Failure};
use tokio::sync::oneshot;

use super::chronicle::Chronicle;
use super::desk::{Desk, Finished};
use super::{SHOWN, Snapshot};
use crate::daemon::sockets::Sockets;
use crate::daemon::streams::StreamSender;
use crate::daemon::verdicts::Entry;

/// How a command has ended.
pub(super) type Outcome = Result<(), Failure>;

/// An engine in its shell.
pub(super) struct Shard {
    pub(super) engine: Engine,
    pub(super) chronicle: Chronicle,
    pub(super) desk: Desk,
    pub(super) sockets: Arc<Sockets>,
    pub(super) streams: StreamSender,
    waiting: HashMap<CommandId, oneshot::Sender<Outcome>>,
    next_command: u64,
}

impl Shard {
    pub(super) fn new(
        engine: Engine,
        chronicle: Chronicle,
        desk: Desk,
        (sockets, streams): (Arc<Sockets>, StreamSender),
    ) -> Self {
        Self { engine, chronicle, desk, sockets, streams, waiting: HashMap::new(), next_command: 0 }
    }

    /// Takes a message.
    pub(super) fn received(&mut self, datagram: Datagram) {
        self.chronicle.saw(&datagram.payload);
        self.engine.handle_datagram(Instant::now(), datagram);
    }

    /// Takes the result of a job.
    pub(super) fn finished(&mut self, (id, result): Finished) {
        self.engine.handle_job(Instant::now(), id, result);
    }

    /// Lets due timers fire.
    pub(super) fn timeout(&mut self) {
        self.engine.handle_timeout(Instant::now());
    }

    /// Gives a command; `reply` is told how it ended.
    pub(super) fn command(&mut self, command: Command, reply: Option<oneshot::Sender<Outcome>>) {
        let id = CommandId(self.next_command);
        self.next_command += 1;
        if let Some(reply) = reply {
            self.waiting.insert(id, reply);
        }
        self.engine.handle_command(Instant::now(), id, command);
    }

    /// Gives the engine its part of another configuration. Everything that it has asked for before was given away.
    pub(super) fn reconfigure(&mut self, config: EngineConfig) {
        self.engine.handle_config(Instant::now(), config);
    }

    /// What there is now.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            ike_sas: self.engine.status(),
            half_open: self.engine.half_open(),
            verdicts: self.chronicle.verdicts.iter().take(SHOWN).cloned().collect(),
            totals: self.chronicle.totals.clone(),
            streams: Default::default(),
        }
    }

    /// Verdicts about a connection or an address, or all of them; newest first.
    pub(super) fn verdicts(&self, peer: Option<&str>) -> Vec<Entry> {
        match peer {
            Some(peer) => self.chronicle.verdicts.about(peer),
            None => self.chronicle.verdicts.iter().cloned().collect(),
        }
    }

    /// Takes everything that the engine has to say.
    pub(super) fn drain(&mut self) {
        loop {
            while let Some(datagram) = self.engine.poll_transmit() {
                self.send(datagram);
            }
            while let Some(event) = self.engine.poll_event() {
                self.event(event);
            }
            let Some((id, job)) = self.engine.poll_job() else { break };
            if let Some(result) = self.desk.give(id, job) {
                self.finished((id, result));
            }
        }
    }

    fn send(&mut self, datagram: Datagram) {
        self.chronicle.saw(&datagram.payload);
        let between = (datagram.local, datagram.remote);
        if let DatagramPayload::Stream(message) = datagram.payload {
            self.streams.send(between, message);
        } else if let Err(error) = self.sockets.send(&datagram) {
            tracing::warn!(local = %datagram.local, remote = %datagram.remote, %error, "sending IKE failed");
        }
    }

    fn event(&mut self, event: Event) {
        if let Event::CommandDone { command, result } = event {
            if let Some(reply) = self.waiting.remove(&command) {
                // Whoever asked may have gone.
                let _ = reply.send(result);
            }
            return;
        }
        self.chronicle.event(event);
    }
}

/// Waits until then, or for ever.
pub(super) async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}
