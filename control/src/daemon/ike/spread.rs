//! Several engines behind the front, each in a task of its own ([`Member`]), and the registry that they have in common.
//!
//! The front takes what comes and gives it to whom it is for ([`Routes`]); it waits for nobody: whatever has to be put together
//! of what several say, a task of its own waits for. What engines and registry tell one another goes by channels, which keep
//! their order.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use portcullis_ike::config::EngineConfig;
use portcullis_ike::engine::{
    Command, Datagram, JobId, JobResult, Note, Question as Asked, Reach, Registry, Routes, StreamUse, Word,
};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::desk::Finished;
use super::front::{Back, Question};
use super::shard::{AT_ONCE, Outcome, ROW, Shard, sleep_until};
use super::{Reconfiguration, SHOWN, Snapshot};
use crate::daemon::leases::Leases;
use crate::daemon::streams::Streams;
use crate::daemon::verdicts::{self, Entry};

/// Messages that wait for one engine. More would be answered too late.
const MESSAGES: usize = 4096;
/// Requests that begin an IKE SA and wait for one engine. They are taken when nothing else is there.
const INITS: usize = 256;

/// Our end of a stream, and the peer's.
type Between = (SocketAddr, SocketAddr);
/// Who goes by each.
type Uses = HashMap<Between, StreamUse>;

/// What an engine's task is told by the front.
enum ToMember {
    Command(Command, Option<oneshot::Sender<Outcome>>),
    /// Whether an IKE SA of its is what a command is about.
    Concerned(Command, oneshot::Sender<bool>),
    /// Another configuration: to be put in force once all are ready, and have asked for nothing more.
    Reconfigure(Box<EngineConfig>, Stages),
    Snapshot(oneshot::Sender<Snapshot>),
    Verdicts(Option<String>, oneshot::Sender<Vec<Entry>>),
    StreamUses(Vec<Between>, oneshot::Sender<Vec<StreamUse>>),
    Ping(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

/// How a configuration is put in force everywhere at once.
struct Stages {
    ready: oneshot::Sender<()>,
    go: oneshot::Receiver<()>,
    done: oneshot::Sender<()>,
}

/// What the registry is told, and by whom.
pub(super) enum ToRegistry {
    Ask(usize, JobId, Asked),
    Tell(usize, Note),
    Ping(oneshot::Sender<()>),
}

/// The ways to one engine.
struct Ways {
    messages: mpsc::Sender<Datagram>,
    inits: mpsc::Sender<Datagram>,
    told: mpsc::UnboundedSender<ToMember>,
}

/// What comes to one engine.
struct Inbox {
    messages: mpsc::Receiver<Datagram>,
    inits: mpsc::Receiver<Datagram>,
    told: mpsc::UnboundedReceiver<ToMember>,
    words: mpsc::UnboundedReceiver<Word>,
    results: mpsc::UnboundedReceiver<Finished>,
}

/// The engines, as the front has them.
pub(super) struct Spread {
    routes: Routes,
    members: Vec<Ways>,
    registry: mpsc::UnboundedSender<ToRegistry>,
    /// Datagrams that no engine was given.
    rejected: HashMap<&'static str, u64>,
    /// What engines say of streams, put together.
    swept: (mpsc::Sender<Uses>, mpsc::Receiver<Uses>),
    uses: Option<Uses>,
}

/// An engine in a task of its own.
struct Member {
    shard: Shard,
    inbox: Inbox,
}

impl Spread {
    /// Starts a task for each engine and one for the registry. `make` puts an engine into its shell, told where its results
    /// go and who takes what it tells the registry.
    pub(super) fn start<E>(
        routes: Routes,
        engines: impl Iterator<Item = E>,
        make: impl Fn(E, mpsc::UnboundedSender<Finished>, mpsc::UnboundedSender<ToRegistry>) -> Shard,
    ) -> (Self, Vec<JoinHandle<()>>) {
        let (registry, asked) = mpsc::unbounded_channel();
        let (mut members, mut tasks, mut words) = (Vec::new(), Vec::new(), Vec::new());
        for engine in engines {
            let (finished, results) = mpsc::unbounded_channel();
            let (messages, inits) = (mpsc::channel(MESSAGES), mpsc::channel(INITS));
            let (told, word) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
            let shard = make(engine, finished, registry.clone());
            let inbox = Inbox { messages: messages.1, inits: inits.1, told: told.1, words: word.1, results };
            tasks.push(tokio::spawn(Member { shard, inbox }.run()));
            words.push(word.0);
            members.push(Ways { messages: messages.0, inits: inits.0, told: told.0 });
        }
        tasks.push(tokio::spawn(keep(Registry::new(members.len()), asked, words)));
        let spread =
            Self { routes, members, registry, rejected: HashMap::new(), swept: mpsc::channel(1), uses: None };
        (spread, tasks)
    }

    /// Asks every engine something; [`gather`] waits for what they answer.
    fn ask_all<T>(&self, question: impl Fn(oneshot::Sender<T>) -> ToMember) -> Vec<oneshot::Receiver<T>> {
        let ask = |member: &Ways| {
            let (reply, answer) = oneshot::channel();
            // It ends only with the daemon.
            let _ = member.told.send(question(reply));
            answer
        };
        self.members.iter().map(ask).collect()
    }

    fn tell(&self, shard: usize, what: ToMember) {
        if let Some(member) = self.members.get(shard) {
            // It ends only with the daemon.
            let _ = member.told.send(what);
        }
    }
}

/// What all have answered that have not ended.
async fn gather<T>(answers: Vec<oneshot::Receiver<T>>) -> Vec<T> {
    let mut all = Vec::with_capacity(answers.len());
    for answer in answers {
        all.extend(answer.await);
    }
    all
}

/// The registry's task.
async fn keep(
    mut registry: Registry,
    mut asked: mpsc::UnboundedReceiver<ToRegistry>,
    words: Vec<mpsc::UnboundedSender<Word>>,
) {
    while let Some(told) = asked.recv().await {
        match told {
            ToRegistry::Ask(shard, job, question) => registry.handle_question(shard, job, question),
            ToRegistry::Tell(shard, note) => registry.handle_note(shard, note),
            // Whoever asked may have gone.
            ToRegistry::Ping(reply) => drop(reply.send(())),
        }
        while let Some((shard, word)) = registry.poll() {
            if let Some(member) = words.get(shard) {
                // It may have ended.
                let _ = member.send(word);
            }
        }
    }
}

impl Back for Spread {
    fn received(&mut self, datagram: Datagram) {
        let Some(member) = self.members.get(self.routes.of_datagram(&datagram)) else { return };
        let way = if Routes::begins(&datagram) { &member.inits } else { &member.messages };
        // As a full socket would lose it: whoever sent it sends it again.
        if let Err(TrySendError::Full(_)) = way.try_send(datagram) {
            self.reject("busy");
        }
    }

    fn reject(&mut self, label: &'static str) {
        *self.rejected.entry(label).or_default() += 1;
    }

    fn command(&mut self, command: Command, reply: Option<oneshot::Sender<Outcome>>) {
        match self.routes.reach(&command) {
            Reach::One(shard) => self.tell(shard, ToMember::Command(command, reply)),
            Reach::All => {
                let ends = self.ask_all(|end| ToMember::Command(command.clone(), Some(end)));
                if let Some(reply) = reply {
                    // Whoever asked may have gone, here and below.
                    tokio::spawn(async move { reply.send(Routes::merge(gather(ends).await)) });
                }
            }
            Reach::Whoever(otherwise) => {
                let concerned = self.ask_all(|reply| ToMember::Concerned(command.clone(), reply));
                let ways: Vec<_> = self.members.iter().map(|member| member.told.clone()).collect();
                tokio::spawn(async move {
                    let found = gather(concerned).await.iter().position(|concerned| *concerned);
                    if let Some(member) = ways.get(found.unwrap_or(otherwise)) {
                        let _ = member.send(ToMember::Command(command, reply));
                    }
                });
            }
        }
    }

    fn reconfigure(&mut self, new: Reconfiguration, leases: &Leases, reply: oneshot::Sender<()>) {
        self.routes = self.routes.renewed(&new.engine.connections);
        let (mut ready, mut go, mut done) = (Vec::new(), Vec::new(), Vec::new());
        for member in &self.members {
            let (is_ready, begins, ended) = (oneshot::channel(), oneshot::channel(), oneshot::channel());
            let stages = Stages { ready: is_ready.0, go: begins.1, done: ended.0 };
            let _ = member.told.send(ToMember::Reconfigure(Box::new(new.engine.clone()), stages));
            ready.push(is_ready.1);
            go.push(begins.0);
            done.push(ended.1);
        }
        let leases = leases.clone();
        tokio::spawn(async move {
            // What all engines have asked for is answered from the pools before, what they ask for next from the new ones.
            gather(ready).await;
            if let Some(pools) = new.pools {
                leases.reconfigure(pools);
            }
            for begins in go {
                let _ = begins.send(());
            }
            gather(done).await;
            let _ = reply.send(());
        });
    }

    fn request(&mut self, request: Question, streams: &Streams) {
        match request {
            Question::Snapshot(reply) => {
                let mut all = Snapshot { streams: streams.counts(), ..Snapshot::default() };
                all.totals.rejected.clone_from(&self.rejected);
                let snapshots = self.ask_all(ToMember::Snapshot);
                tokio::spawn(async move {
                    let mut recent = Vec::new();
                    for mut snapshot in gather(snapshots).await {
                        recent.push(std::mem::take(&mut snapshot.verdicts));
                        all.add(snapshot);
                    }
                    all.ike_sas.sort_by_key(|ike| ike.id);
                    all.verdicts = verdicts::merge(recent);
                    all.verdicts.truncate(SHOWN);
                    reply.send(all)
                });
            }
            Question::Verdicts(peer, reply) => {
                let found = self.ask_all(|reply| ToMember::Verdicts(peer.clone(), reply));
                tokio::spawn(async move { reply.send(verdicts::merge(gather(found).await)) });
            }
            Question::Ping(reply) => {
                let pong = |number: usize, member: &Ways| {
                    let (reply, answer) = oneshot::channel();
                    let _ = member.told.send(ToMember::Ping(reply));
                    (format!("shard {number} of the IKE engine"), answer)
                };
                let mut pongs: Vec<_> =
                    self.members.iter().enumerate().map(|(number, member)| pong(number, member)).collect();
                let (registry, answer) = oneshot::channel();
                let _ = self.registry.send(ToRegistry::Ping(registry));
                pongs.push(("what the shards of the IKE engine share".to_owned(), answer));
                let _ = reply.send(pongs);
            }
            Question::Stop(reply) => {
                let stopped = self.ask_all(ToMember::Stop);
                tokio::spawn(async move {
                    gather(stopped).await;
                    reply.send(())
                });
            }
        }
    }

    fn sweep(&mut self, streams: &Streams) {
        let between = streams.between();
        if between.is_empty() {
            return;
        }
        let uses = self.ask_all(|reply| ToMember::StreamUses(between.clone(), reply));
        let swept = self.swept.0.clone();
        tokio::spawn(async move {
            let mut all = Uses::new();
            for uses in gather(uses).await {
                for (stream, used) in between.iter().zip(uses) {
                    let known = all.entry(*stream).or_insert(used);
                    *known = (*known).max(used);
                }
            }
            // The last one may not have been looked at yet: that is as good.
            let _ = swept.try_send(all);
        });
    }

    fn work(&mut self) {}

    fn send(&mut self) {}

    fn catch_up(&mut self) {}

    async fn progress(&mut self) {
        self.uses = self.swept.1.recv().await;
    }

    fn progressed(&mut self, streams: &Streams) {
        let Some(uses) = self.uses.take() else { return };
        // One that is newer than that is looked at the next time.
        let used = |local, remote| uses.get(&(local, remote)).copied().unwrap_or(StreamUse::Connecting);
        streams.sweep(Instant::now(), used);
    }
}

impl Member {
    /// Serves until the front is gone.
    async fn run(mut self) {
        loop {
            self.shard.catch_up(&mut self.inbox.results);
            let timeout = self.shard.engine.poll_timeout();
            // What is under way goes before what begins, as at the sockets.
            tokio::select! {
                biased;
                Some(word) = self.inbox.words.recv() => self.word(word),
                Some(finished) = self.inbox.results.recv() => self.shard.finished(finished),
                told = self.inbox.told.recv() => match told {
                    Some(told) => self.told(told).await,
                    None => break,
                },
                () = sleep_until(timeout) => self.shard.timeout(),
                Some(message) = self.inbox.messages.recv() => self.received(message),
                Some(message) = self.inbox.inits.recv() => self.shard.received(message),
            }
        }
    }

    /// A message, and some of what else has come.
    fn received(&mut self, message: Datagram) {
        self.shard.received(message);
        for row in (1..=ROW).cycle().take(AT_ONCE) {
            self.shard.work();
            if row == ROW {
                self.shard.send();
            }
            match self.inbox.messages.try_recv() {
                Ok(message) => self.shard.received(message),
                Err(_) => break,
            }
        }
    }

    fn word(&mut self, word: Word) {
        match word {
            Word::Answer(job, answer) => self.shard.finished((job, JobResult::Registry(Box::new(answer)))),
            Word::Order(order) => self.shard.engine.handle_order(Instant::now(), order),
        }
    }

    async fn told(&mut self, told: ToMember) {
        // Whoever asked may have gone.
        match told {
            ToMember::Command(command, reply) => self.shard.command(command, reply),
            ToMember::Concerned(command, reply) => {
                let _ = reply.send(self.shard.engine.is_concerned(&command));
            }
            ToMember::Reconfigure(config, Stages { ready, go, done }) => {
                let _ = ready.send(());
                if go.await.is_ok() {
                    self.shard.reconfigure(*config);
                }
                let _ = done.send(());
            }
            ToMember::Snapshot(reply) => drop(reply.send(self.shard.snapshot())),
            ToMember::Verdicts(peer, reply) => drop(reply.send(self.shard.verdicts(peer.as_deref()))),
            ToMember::StreamUses(between, reply) => {
                let used = |(local, remote)| self.shard.engine.stream_use(local, remote);
                let _ = reply.send(between.into_iter().map(used).collect());
            }
            ToMember::Ping(reply) => drop(reply.send(())),
            ToMember::Stop(reply) => {
                self.shard.chronicle.stop();
                let _ = reply.send(());
            }
        }
    }
}
