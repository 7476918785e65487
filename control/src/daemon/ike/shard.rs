//! One engine, and what goes with it: its commands, its jobs, what it sends and what happens in it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use portcullis_ike::config::EngineConfig;
use portcullis_ike::engine::{Command, CommandId, Datagram, DatagramPayload, Engine, Event, Failure};
use tokio::sync::{mpsc, oneshot};

use super::chronicle::Chronicle;
use super::desk::{Desk, Finished};
use super::{SHOWN, Snapshot};
use crate::daemon::sockets::Sockets;
use crate::daemon::streams::{Between, StreamSender};
use crate::daemon::verdicts::Entry;

/// Datagrams that are taken one after the other.
pub(super) const AT_ONCE: usize = 32;
/// Datagrams or results after which what they have to send leaves together: a peer's host, or the thread that takes it from
/// there, is woken once for all of it. Few, so that the first does not wait for long.
pub(super) const ROW: usize = 8;

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

    /// The stream between our address and the peer's is there no longer.
    pub(super) fn stream_ended(&mut self, (local, remote): Between) {
        self.engine.handle_stream_closed(Instant::now(), local, remote);
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
        self.work();
        self.send();
    }

    /// What has happened, and what is to be done; what there is to send may wait.
    pub(super) fn work(&mut self) {
        loop {
            while let Some(event) = self.engine.poll_event() {
                self.event(event);
            }
            let Some((id, job)) = self.engine.poll_job() else { break };
            if let Some(result) = self.desk.give(id, job) {
                self.finished((id, result));
            }
        }
    }

    /// What waits to be sent.
    pub(super) fn send(&mut self) {
        while self.send_all() {
            // What to do about a stream that is gone: nothing else may come for long that would have it done.
            self.work();
        }
    }

    /// The same; true if a stream was gone.
    fn send_all(&mut self) -> bool {
        let mut gone = false;
        while let Some(datagram) = self.engine.poll_transmit() {
            self.chronicle.saw(&datagram.payload);
            let between = (datagram.local, datagram.remote);
            if let DatagramPayload::Stream(message) = datagram.payload {
                if !self.streams.send(between, message) {
                    gone = true;
                    self.stream_ended(between);
                }
            } else if let Err(error) = self.sockets.send(&datagram) {
                tracing::warn!(local = %datagram.local, remote = %datagram.remote, %error, "sending IKE failed");
            }
        }
        gone
    }

    /// Everything that there is to say is said, and whatever has been computed meanwhile goes on: before anything new begins.
    pub(super) fn catch_up(&mut self, results: &mut mpsc::UnboundedReceiver<Finished>) {
        self.drain();
        let mut row = (1..=ROW).cycle();
        while let Ok(finished) = results.try_recv() {
            self.finished(finished);
            self.work();
            if row.next() == Some(ROW) {
                self.send();
            }
        }
        self.send();
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
