//! The process that runs hooks: `portcullis hook-runner`. It has no secrets and takes no packets; it reads orders from its
//! standard input, runs so many at once, those of one CHILD SA one after the other, kills what takes too long, and
//! writes what came of each to its standard output. It ends when its input has and everything is done.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::{End, Order, Outcome};

/// Where hooks look for programs.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What is kept of a hook's output.
const OUTPUT: usize = 4096;
/// How long output is waited for when a hook has ended: something that it has left behind may still hold it.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs until the daemon has gone.
///
/// # Errors
/// That standard input or output cannot be used.
pub(crate) fn run(at_once: usize) -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(at_once))
}

async fn serve(at_once: usize) -> io::Result<()> {
    // Whoever ends the daemon may mean all of its processes: this one ends when its input does. Hooks do not inherit that.
    let _ignored = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let orders = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
    let mut output = pipe::Sender::from_owned_fd(io::stdout().as_fd().try_clone_to_owned()?)?;
    let mut lines = BufReader::new(orders).lines();
    let (mut schedule, mut running) = (Schedule::new(at_once.max(1)), JoinSet::new());
    let mut open = true;
    while open || !running.is_empty() {
        tokio::select! {
            line = lines.next_line(), if open => match line? {
                Some(line) => {
                    if let Ok(order) = serde_json::from_str(&line) {
                        schedule.push(order);
                    }
                }
                None => open = false,
            },
            Some(done) = running.join_next(), if !running.is_empty() => {
                let Ok((child, outcome)) = done else { continue };
                schedule.ended(child);
                let mut line = serde_json::to_vec(&outcome)?;
                line.push(b'\n');
                // The daemon may be gone; what is ordered is done all the same.
                let _ = output.write_all(&line).await;
            }
        }
        while let Some(order) = schedule.next() {
            running.spawn(async move { (order.child, perform(&order).await) });
        }
    }
    Ok(())
}

/// What runs now and what waits.
struct Schedule {
    at_once: usize,
    running: usize,
    /// By CHILD SA, what waits; there is an entry while one of its hooks runs or waits.
    waiting: HashMap<u64, VecDeque<Order>>,
    /// CHILD SAs of which something may begin, in order.
    ready: VecDeque<u64>,
}

impl Schedule {
    fn new(at_once: usize) -> Self {
        Self { at_once, running: 0, waiting: HashMap::new(), ready: VecDeque::new() }
    }

    fn push(&mut self, order: Order) {
        let child = order.child;
        match self.waiting.get_mut(&child) {
            Some(waiting) => waiting.push_back(order),
            None => {
                self.waiting.insert(child, VecDeque::from([order]));
                self.ready.push_back(child);
            }
        }
    }

    /// What is to be run now.
    fn next(&mut self) -> Option<Order> {
        if self.running >= self.at_once {
            return None;
        }
        let child = self.ready.pop_front()?;
        let order = self.waiting.get_mut(&child)?.pop_front()?;
        self.running += 1;
        Some(order)
    }

    fn ended(&mut self, child: u64) {
        self.running -= 1;
        match self.waiting.get(&child) {
            Some(waiting) if waiting.is_empty() => _ = self.waiting.remove(&child),
            Some(_) => self.ready.push_back(child),
            None => {}
        }
    }
}

async fn perform(order: &Order) -> Outcome {
    let (end, output) = match execute(order).await {
        Ok(done) => done,
        Err(error) => (End::NotStarted, error.to_string()),
    };
    let verb = order.environment.iter().find(|(name, _)| name == "PLUTO_VERB");
    Outcome {
        name: order.name.clone(),
        verb: verb.map(|(_, verb)| verb.clone()).unwrap_or_default(),
        end,
        output,
    }
}

async fn execute(order: &Order) -> io::Result<(End, String)> {
    let Some((program, arguments)) = order.command.split_first() else {
        return Err(io::Error::other("no command"));
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).envs(order.environment.iter().cloned());
    // A group of its own, so that what it has started goes with it.
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let mut readers = JoinSet::new();
    readers.spawn(gather(child.stdout.take(), Arc::clone(&heard)));
    readers.spawn(gather(child.stderr.take(), Arc::clone(&heard)));
    let end = match tokio::time::timeout(Duration::from_millis(order.timeout_ms), child.wait()).await {
        Ok(status) => end(status?),
        Err(_) => {
            if let Some(group) = group {
                // It may have ended this very moment.
                let _ = killpg(group, Signal::SIGKILL);
            }
            child.wait().await?;
            End::Timeout
        }
    };
    let _ = tokio::time::timeout(LAST_WORDS, async { while readers.join_next().await.is_some() {} }).await;
    let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((end, String::from_utf8_lossy(&heard).trim_end().to_owned()))
}

fn end(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Status(code),
        (None, signal) => End::Signal(signal.unwrap_or_default()),
    }
}

/// Reads to the end, so that no hook is held up, and keeps what is short.
async fn gather(stream: Option<impl AsyncRead + Unpin>, heard: Arc<Mutex<Vec<u8>>>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        let room = OUTPUT.saturating_sub(heard.len());
        heard.extend(buffer.iter().take(length.min(room)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn order(child: u64, script: &str) -> Order {
        Order {
            child,
            name: "site/net".to_owned(),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            environment: vec![("PLUTO_VERB".to_owned(), "up-client".to_owned())],
            timeout_ms: 10_000,
        }
    }

    #[tokio::test]
    async fn a_hook_has_its_environment_and_nothing_else_and_its_end_and_words_are_told() {
        let done = perform(&order(1, "echo $PLUTO_VERB; echo \"[$HOME]\" >&2; exit 3")).await;
        assert_eq!((done.end, done.verb.as_str()), (End::Status(3), "up-client"));
        assert!(done.output.contains("up-client") && done.output.contains("[]"), "{done:?}");
        let killed = perform(&order(1, "kill -9 $$")).await;
        assert_eq!(killed.end, End::Signal(9));
        let missing = Order { command: vec!["/nonexistent".to_owned()], ..order(1, "") };
        assert_eq!(perform(&missing).await.end, End::NotStarted);
    }

    #[tokio::test]
    async fn a_hook_that_takes_too_long_is_killed_with_what_it_has_started() {
        let began = Instant::now();
        let late = perform(&Order { timeout_ms: 100, ..order(1, "sleep 600 & echo begun; wait") }).await;
        assert_eq!((late.end, late.output.as_str()), (End::Timeout, "begun"));
        // Its child, which holds the same output, is gone as well.
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    #[tokio::test]
    async fn many_words_hold_nothing_up() {
        let done = perform(&order(1, "yes | head -c 1000000")).await;
        assert_eq!((done.end, done.output.len()), (End::Status(0), OUTPUT - 1));
    }

    #[test]
    fn hooks_of_one_child_run_one_after_the_other_and_others_beside_them() {
        let mut schedule = Schedule::new(2);
        for (child, name) in [(1, "a up"), (1, "a down"), (2, "b up"), (3, "c up")] {
            schedule.push(order(child, name));
        }
        let mut next = || schedule.next().map(|order| order.command[2].clone());
        assert_eq!([next(), next(), next()].map(Option::unwrap_or_default), ["a up", "b up", ""]);
        schedule.ended(1);
        let mut next = || schedule.next().map(|order| order.command[2].clone());
        assert_eq!([next(), next()].map(Option::unwrap_or_default), ["c up", ""]);
        schedule.ended(3);
        assert_eq!(schedule.next().map(|order| order.command[2].clone()).as_deref(), Some("a down"));
        schedule.ended(1);
        schedule.ended(2);
        assert!(schedule.next().is_none() && schedule.waiting.is_empty());
    }
}
