//! The TCP streams of IKE and ESP (RFC 9329): who may have one, and the way of packets into them and out of them.
//!
//! Each stream has a task ([`carry`]), which takes it apart and puts it together; what it means is for others: IKE messages
//! go to the engine's task, as those of UDP do, and ESP to the data plane ([`portcullis_gateway::inlet`]). ESP that the data
//! plane has sealed for a stream comes from [`portcullis_gateway::outlet`]. Every queue is bounded.
//!
//! Of streams that no authenticated IKE SA goes by there are few in all and of each source, and not for long: what is used the
//! engine knows ([`Streams::sweep`]).

mod carry;
mod listen;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use portcullis_gateway::inlet::EspInlet;
use portcullis_gateway::outlet::{EspOutlet, NotCarried, StreamPacket};
use portcullis_ike::engine::{Datagram, StreamUse};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

pub(super) use listen::ListenError;

use super::ike::LogLimit;

/// IKE messages of all streams that wait for the engine's task.
const MESSAGES: usize = 256;
/// IKE messages that wait for one stream. A peer does not read that lets more of them wait.
const IKE_WAITING: usize = 64;
/// ESP packets that wait for one stream. More would only grow old.
const ESP_WAITING: usize = 256;
/// How often it is looked which streams are used.
const SWEEP: Duration = Duration::from_secs(2);

/// Our end of a stream, and the peer's.
type Between = (SocketAddr, SocketAddr);

/// What the streams of a gateway are bounded by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Streams at once; half of them may be used by no authenticated IKE SA.
    pub(super) all: usize,
    /// Those of one source that are used by none.
    pub(super) of_source: usize,
    /// How long a stream may be used by no IKE SA at all.
    pub(super) unused: Duration,
}

/// What streams there are, and were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamCounts {
    /// Streams that an authenticated IKE SA goes by.
    pub established: usize,
    /// All others.
    pub connecting: usize,
    /// Streams that began.
    pub opened: u64,
    /// Streams that were refused because there were too many.
    pub refused: u64,
    /// Streams that were closed because of what they carried.
    pub malformed: u64,
    /// Streams that were closed because no IKE SA went by them.
    pub unused: u64,
}

#[derive(Debug, Default)]
struct Totals {
    opened: AtomicU64,
    refused: AtomicU64,
    malformed: AtomicU64,
    unused: AtomicU64,
}

/// A stream as others see it.
#[derive(Debug)]
struct Entry {
    /// Tells it from an earlier one between the same addresses.
    number: u64,
    ike: mpsc::Sender<Vec<u8>>,
    esp: mpsc::Sender<StreamPacket>,
    task: Option<AbortHandle>,
    /// Since when no IKE SA goes by it.
    unused: Option<Instant>,
    established: bool,
}

#[derive(Debug, Default)]
struct Table {
    streams: HashMap<Between, Entry>,
    /// How many of each source are not established.
    connecting: HashMap<IpAddr, usize>,
    next: u64,
}

impl Table {
    fn connecting(&self) -> usize {
        self.connecting.values().sum()
    }

    fn count(&mut self, source: IpAddr) {
        *self.connecting.entry(source).or_default() += 1;
    }

    fn discount(&mut self, source: IpAddr) {
        if let Some(count) = self.connecting.get_mut(&source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.connecting.remove(&source);
            }
        }
    }

    fn remove(&mut self, between: &Between) {
        if let Some(entry) = self.streams.remove(between)
            && !entry.established
        {
            self.discount(between.1.ip());
        }
    }
}

/// What the tasks of streams share.
#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    limits: Limits,
    totals: Totals,
    messages: mpsc::Sender<Datagram>,
    inlet: EspInlet,
    log_limit: Mutex<LogLimit>,
}

/// What the engine's task is told.
pub(super) enum Told {
    /// An IKE message came.
    Message(Datagram),
    /// It is time to look which streams are used: see [`Streams::sweep`].
    Sweep,
}

/// All streams, as the engine's task has them.
pub(super) struct Streams {
    shared: Arc<Shared>,
    messages: mpsc::Receiver<Datagram>,
    sweep: tokio::time::Interval,
}

impl Streams {
    /// None yet; what is sealed for streams is taken from `outlet` from now on.
    pub(super) fn new(limits: Limits, inlet: EspInlet, outlet: EspOutlet) -> io::Result<Self> {
        let (sender, messages) = mpsc::channel(MESSAGES);
        let shared = Arc::new(Shared {
            table: Mutex::default(),
            limits,
            totals: Totals::default(),
            messages: sender,
            inlet,
            log_limit: Mutex::default(),
        });
        let taking = Arc::clone(&shared);
        let take = move || take_sealed(&taking, &outlet);
        std::thread::Builder::new().name("esp-streams".to_owned()).spawn(take)?;
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { shared, messages, sweep })
    }

    /// Takes the streams that peers open to that port, for as long as the process lives.
    pub(super) fn listen(&self, port: u16, mark: u32) -> Result<(), ListenError> {
        for listener in listen::open(port, mark)? {
            tokio::spawn(listen::accept(listener, Arc::clone(&self.shared)));
        }
        Ok(())
    }

    /// What happens next.
    pub(super) async fn next(&mut self) -> Told {
        tokio::select! {
            Some(message) = self.messages.recv() => Told::Message(message),
            _ = self.sweep.tick() => Told::Sweep,
        }
    }

    /// Our end and the peer's of each.
    pub(super) fn between(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.shared.table().streams.keys().copied().collect()
    }

    /// What sends into them.
    pub(super) fn sender(&self) -> StreamSender {
        StreamSender(Arc::clone(&self.shared))
    }

    /// Closes the streams that no IKE SA has gone by for too long, and learns which are established. `use_of` says of each
    /// which it is.
    pub(super) fn sweep(&self, now: Instant, use_of: impl Fn(SocketAddr, SocketAddr) -> StreamUse) {
        let mut table = self.shared.table();
        let mut ended = Vec::new();
        let mut established = Vec::new();
        for (between, entry) in &mut table.streams {
            let used = use_of(between.0, between.1);
            entry.unused = (used == StreamUse::Unused).then(|| entry.unused.unwrap_or(now));
            if entry.unused.is_some_and(|since| now.duration_since(since) >= self.shared.limits.unused) {
                ended.push(*between);
            } else if used == StreamUse::Established && !entry.established {
                entry.established = true;
                established.push(between.1.ip());
            }
        }
        established.into_iter().for_each(|source| table.discount(source));
        for between in ended {
            self.shared.totals.unused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(local = %between.0, remote = %between.1, "closing a TCP stream that no IKE SA goes by");
            self.shared.close(&mut table, &between);
        }
    }

    /// How many there are, and were.
    pub(super) fn counts(&self) -> StreamCounts {
        let table = self.shared.table();
        let connecting = table.connecting();
        let Totals { opened, refused, malformed, unused } = &self.shared.totals;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StreamCounts {
            established: table.streams.len().saturating_sub(connecting),
            connecting,
            opened: load(opened),
            refused: load(refused),
            malformed: load(malformed),
            unused: load(unused),
        }
    }
}

/// Sends IKE messages into streams.
#[derive(Clone)]
pub(super) struct StreamSender(Arc<Shared>);

impl StreamSender {
    /// Puts an IKE message into its stream. One for a stream that is gone is lost: its peer opens another (RFC 9329 §6.1).
    pub(super) fn send(&self, between: Between, message: Vec<u8>) {
        let mut table = self.0.table();
        let Some(entry) = table.streams.get(&between) else {
            return tracing::debug!(local = %between.0, remote = %between.1, "an IKE message for a TCP stream that is gone");
        };
        if entry.ike.try_send(message).is_err() {
            // Nothing is sent again in a stream, so that a gap in it would never be filled.
            tracing::info!(local = %between.0, remote = %between.1, "closing a TCP stream that its peer does not read");
            self.0.close(&mut table, &between);
        }
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether to log what anybody can cause, and how much of it was not logged since.
    fn may_log(&self) -> Option<u64> {
        self.log_limit.lock().unwrap_or_else(PoisonError::into_inner).pass(Instant::now())
    }

    /// Takes a stream that a peer has opened, if there is room for it.
    fn welcome(self: &Arc<Self>, socket: TcpStream) -> io::Result<()> {
        let between = listen::ends(&socket)?;
        let mut table = self.table();
        let of_source = table.connecting.get(&between.1.ip()).copied().unwrap_or_default();
        let full = table.streams.len() >= self.limits.all
            || table.connecting() >= self.limits.all.div_ceil(2)
            || of_source >= self.limits.of_source;
        if full {
            self.totals.refused.fetch_add(1, Ordering::Relaxed);
            return Err(io::Error::other(
                "there are too many TCP streams (gateway.tcp_connections, ike.block_threshold)",
            ));
        }
        socket.set_nodelay(true)?;
        self.begin(&mut table, between, socket);
        Ok(())
    }

    /// Starts a stream's task.
    fn begin(self: &Arc<Self>, table: &mut Table, between: Between, socket: TcpStream) {
        let (ike, ike_waiting) = mpsc::channel(IKE_WAITING);
        let (esp, esp_waiting) = mpsc::channel(ESP_WAITING);
        let number = table.next;
        table.next += 1;
        // The kernel lets go of addresses before the task of the stream that had them has noticed.
        table.remove(&between);
        let entry = Entry { number, ike, esp, task: None, unused: Some(Instant::now()), established: false };
        table.streams.insert(between, entry);
        table.count(between.1.ip());
        self.totals.opened.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::clone(self);
        let task = tokio::spawn(async move {
            let end = carry::carry(&shared, between, socket, ike_waiting, esp_waiting).await;
            shared.ended(between, number, &end);
        });
        if let Some(entry) = table.streams.get_mut(&between) {
            entry.task = Some(task.abort_handle());
        }
    }

    fn close(&self, table: &mut Table, between: &Between) {
        if let Some(task) = table.streams.get(between).and_then(|entry| entry.task.as_ref()) {
            task.abort();
        }
        table.remove(between);
    }

    /// A stream has ended by itself.
    fn ended(&self, (local, remote): Between, number: u64, end: &carry::End) {
        let mut table = self.table();
        if table.streams.get(&(local, remote)).is_some_and(|entry| entry.number == number) {
            table.remove(&(local, remote));
        }
        drop(table);
        match end {
            carry::End::Closed => tracing::debug!(%local, %remote, "a TCP stream was closed by its peer"),
            carry::End::Failed(error) => tracing::debug!(%local, %remote, %error, "a TCP stream failed"),
            carry::End::Malformed(error) => {
                self.totals.malformed.fetch_add(1, Ordering::Relaxed);
                if let Some(unlogged) = self.may_log() {
                    tracing::warn!(%local, %remote, %error, unlogged, "closed a TCP stream that carries neither IKE nor ESP");
                }
            }
        }
    }

    /// Puts an ESP packet into its stream.
    fn carry_sealed(&self, packet: StreamPacket) -> Result<(), NotCarried> {
        let table = self.table();
        let entry = table.streams.get(&(packet.local, packet.remote)).ok_or(NotCarried::Gone)?;
        entry.esp.try_send(packet).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NotCarried::Full,
            mpsc::error::TrySendError::Closed(_) => NotCarried::Gone,
        })
    }
}

/// Takes what is sealed for streams, for as long as the process lives. A thread of its own: workers do not wait for what else
/// there is to do.
fn take_sealed(shared: &Shared, outlet: &EspOutlet) {
    loop {
        let mut fds = [PollFd::new(outlet.as_fd(), PollFlags::POLLIN)];
        // Interrupted: what is there is looked at all the same.
        let _ = poll(&mut fds, PollTimeout::NONE);
        outlet.take(|packet| shared.carry_sealed(packet));
    }
}
