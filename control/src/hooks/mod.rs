//! Hooks: commands that run when a CHILD SA comes up and when it goes down (swanctl's `updown`), with the environment of
//! strongSwan's updown plugin ([`environment`]).
//!
//! The daemon cannot run anything: its sandbox lets it start no process. So a process of its own ([`runner`]) is started
//! before the sandbox, if any child has a hook, and is told by a pipe what to run; it answers by another what came of it.
//! Nobody in the daemon waits for it.

mod environment;
pub(crate) mod runner;

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::Devices;
use crate::events::Happening;

/// Hooks that wait to be told to the runner.
const QUEUE: usize = 16_384;

/// The commands of children, by connection and child: a program and its arguments, never empty.
pub(crate) type HookConfigs = BTreeMap<(String, String), Vec<String>>;

/// What the runner is told, a line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Whom it is for: the hooks of one CHILD SA run one after the other.
    pub(crate) child: u64,
    /// `CONNECTION/CHILD`.
    pub(crate) name: String,
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    /// Its whole environment, but for `PATH`.
    pub(crate) environment: Vec<(String, String)>,
    /// How long it may take, in milliseconds.
    pub(crate) timeout_ms: u64,
}

/// What came of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// `CONNECTION/CHILD`.
    pub(crate) name: String,
    /// `PLUTO_VERB`.
    pub(crate) verb: String,
    /// How it ended.
    pub(crate) end: End,
    /// What it wrote to its standard output and error, as far as that is short.
    pub(crate) output: String,
}

/// How a hook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    /// With this exit status.
    Status(i32),
    /// By this signal.
    Signal(i32),
    /// It took too long, and was killed.
    Timeout,
    /// It could not be started.
    NotStarted,
}

/// How many hooks ended how.
#[derive(Debug, Default)]
pub(crate) struct HookTotals {
    /// With exit status 0.
    pub(crate) done: AtomicU64,
    /// With another, or by a signal.
    pub(crate) failed: AtomicU64,
    /// Too late.
    pub(crate) timeout: AtomicU64,
    /// They could not be started.
    pub(crate) not_started: AtomicU64,
    /// They were not run: too many waited, or the runner is gone.
    pub(crate) lost: AtomicU64,
}

/// The process that runs hooks, not told anything yet.
#[derive(Debug)]
pub(crate) struct Runner(Child);

impl Runner {
    /// Starts it. To be called before the sandbox is entered.
    ///
    /// # Errors
    /// That this program cannot be run again.
    pub(crate) fn start(at_once: usize) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.args(["hook-runner", "--at-once", &at_once.to_string()]);
        // What ends the daemon (an interrupt at the terminal) is not meant for the hooks of its end.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env_clear().env("PATH", runner::PATH);
        command.spawn().map(Self)
    }
}

/// Where happenings go in.
#[derive(Debug)]
pub(crate) struct Hooks {
    orders: Mutex<Option<SyncSender<Order>>>,
    state: Mutex<State>,
    totals: Arc<HookTotals>,
    timeout: Duration,
    /// The TUN device, and those of connections.
    interface: String,
    devices: Devices,
    runner: Mutex<Child>,
}

#[derive(Debug)]
struct State {
    configured: HookConfigs,
    /// What is to be run when a CHILD SA goes down, by its number: what was run when it came up, whatever the
    /// configuration says by then.
    up: HashMap<u64, Vec<Order>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hooks {
    /// Starts the threads that talk to the runner.
    pub(crate) fn start(
        Runner(mut runner): Runner,
        configured: HookConfigs,
        timeout: Duration,
        (interface, devices): (String, Devices),
    ) -> io::Result<Self> {
        let pipes = (runner.stdin.take(), runner.stdout.take());
        let (Some(stdin), Some(stdout)) = pipes else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let (orders, queue) = sync_channel(QUEUE);
        let totals = Arc::new(HookTotals::default());
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let lost = Arc::clone(&totals);
        named("hook-orders").spawn(move || tell(&queue, stdin, &lost))?;
        let ends = Arc::clone(&totals);
        named("hook-ends").spawn(move || hear(stdout, &ends))?;
        let state = Mutex::new(State { configured, up: HashMap::new() });
        let (orders, runner) = (Mutex::new(Some(orders)), Mutex::new(runner));
        Ok(Self { orders, state, totals, timeout, interface, devices, runner })
    }

    /// Another configuration is in force: for CHILD SAs that come up from now on.
    pub(crate) fn reconfigure(&self, configured: HookConfigs) {
        lock(&self.state).configured = configured;
    }

    /// Has run what is to be run. Does not wait.
    pub(crate) fn hear(&self, happening: &Happening<'_>) {
        let orders = match *happening {
            // What is beside another changes nothing for hosts and routes.
            Happening::ChildUp { child, .. } if child.status.resource.is_additional() => return,
            Happening::ChildUp { session, child } => {
                let mut state = lock(&self.state);
                let name = (session.connection().to_owned(), child.status.name.clone());
                let Some(command) = state.configured.get(&name) else { return };
                let order = |environment| Order {
                    child: child.id,
                    name: format!("{}/{}", name.0, name.1),
                    command: command.clone(),
                    environment,
                    timeout_ms: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
                };
                let interface = self.devices.name_of(session.ike.tenant).unwrap_or(&self.interface);
                let orders: Vec<Order> =
                    environment::of(session, &child.status, interface).into_iter().map(order).collect();
                state.up.insert(child.id, orders.clone());
                orders
            }
            Happening::ChildDown { child, .. } => {
                let Some(mut orders) = lock(&self.state).up.remove(&child.id) else { return };
                orders.iter_mut().for_each(|order| environment::turn_down(&mut order.environment));
                orders
            }
            _ => return,
        };
        let sender = lock(&self.orders);
        for order in orders {
            let name = order.name.clone();
            if sender.as_ref().is_none_or(|sender| sender.try_send(order).is_err()) {
                self.totals.lost.fetch_add(1, Ordering::Relaxed);
                tracing::error!(child = name, "an updown hook is not run: too many wait");
            }
        }
    }

    /// How many ended how.
    pub(crate) fn totals(&self) -> &HookTotals {
        &self.totals
    }

    /// Waits until everything that was ordered has ended, but not for longer than `patience`. Blocks.
    pub(crate) fn finish(&self, patience: Duration) {
        // The runner ends when there is nobody any more who could tell it something.
        lock(&self.orders).take();
        let deadline = Instant::now() + patience;
        let mut runner = lock(&self.runner);
        while matches!(runner.try_wait(), Ok(None)) {
            if Instant::now() >= deadline {
                tracing::error!("updown hooks still run: they are left to themselves");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn tell(queue: &Receiver<Order>, mut stdin: impl Write, totals: &HookTotals) {
    for order in queue {
        // Nothing in it that JSON cannot say.
        let mut line = serde_json::to_vec(&order).unwrap_or_default();
        line.push(b'\n');
        if let Err(error) = stdin.write_all(&line) {
            totals.lost.fetch_add(1, Ordering::Relaxed);
            tracing::error!(child = order.name, %error, "an updown hook is not run: the process that runs them is gone, which only a restart mends");
        }
    }
}

fn hear(stdout: impl io::Read, totals: &HookTotals) {
    for line in BufReader::new(stdout).lines() {
        let Ok(line) = line else { break };
        let Ok(Outcome { name, verb, end, output }) = serde_json::from_str(&line) else { continue };
        let count = match end {
            End::Status(0) => &totals.done,
            End::Status(_) | End::Signal(_) => &totals.failed,
            End::Timeout => &totals.timeout,
            End::NotStarted => &totals.not_started,
        };
        count.fetch_add(1, Ordering::Relaxed);
        match end {
            End::Status(0) => tracing::info!(child = name, verb, output, "an updown hook is done"),
            end => tracing::warn!(child = name, verb, ?end, output, "an updown hook has failed"),
        }
    }
}
