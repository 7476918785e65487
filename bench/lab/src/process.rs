//! A process on a host: its output is kept in a log file and in memory, its lines and its end are awaited as
//! events, and it is killed when its handle is dropped. Only processes started here are ever signalled, by pid
//! (their own process group), and only before they have been reaped, so a reused pid cannot be hit.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::error::{LabError, Result};

/// Lines kept in memory per process; older ones are only in the log file.
const LINES_KEPT: usize = 20_000;
/// Lines of output quoted in an error.
const LINES_QUOTED: usize = 40;

/// Which of a process's two outputs a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A running (or ended) process on a host.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    command: String,
    host: String,
    log_path: PathBuf,
    log: Arc<Log>,
    status: Option<ExitStatus>,
}

/// A place in a process's output: [`Process::wait_line_from`] looks at what comes after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(usize);

impl Process {
    /// Starts `command` from the calling thread, whose network namespace it inherits.
    pub(crate) fn start(mut command: Command, host: &str, log_path: &Path) -> Result<Self> {
        let line = command_line(&command);
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let file = File::create(log_path).map_err(LabError::io(format!("create {}", log_path.display())))?;
        let file = Arc::new(Mutex::new(file));
        let mut child = command.spawn().map_err(LabError::io(format!("start `{line}` on {host}")))?;
        let log = Arc::new(Log::default());
        if let Some(out) = child.stdout.take() {
            follow(out, Stream::Stdout, &log, &file);
        }
        if let Some(err) = child.stderr.take() {
            follow(err, Stream::Stderr, &log, &file);
        }
        let pid = Pid::from_raw(child.id().cast_signed());
        let waiter = Arc::clone(&log);
        std::thread::spawn(move || {
            // WNOWAIT leaves the process a zombie, so that its pid stays ours until the handle reaps it.
            while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(nix::Error::EINTR)
            {
            }
            waiter.lock().exited = true;
            waiter.changed.notify_all();
        });
        let stdin = child.stdin.take();
        Ok(Self {
            child,
            stdin,
            command: line,
            host: host.into(),
            log_path: log_path.into(),
            log,
            status: None,
        })
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file with everything the process has written so far, both streams.
    pub fn log_path(&self) -> &Path {
        &self.log_path
    }

    /// The end of the output so far.
    pub fn mark(&self) -> Mark {
        Mark(self.log.lock().end())
    }

    /// Waits until a line containing `pattern` has been written, by either stream, since the start.
    ///
    /// # Errors
    /// [`LabError::Timeout`] after `within`, [`LabError::Ended`] when the process ends without it; both quote
    /// the last lines.
    pub fn wait_line(&self, pattern: &str, within: Duration) -> Result<String> {
        self.wait_line_from(Mark::default(), pattern, within).map(|(line, _)| line)
    }

    /// As [`Process::wait_line`], but looks only at what was written after `from`; also says where the line
    /// ends, to look further from there.
    pub fn wait_line_from(&self, from: Mark, pattern: &str, within: Duration) -> Result<(String, Mark)> {
        self.wait_for(from, &format!("a line with {pattern:?}"), within, |_, line| line.contains(pattern))
    }

    /// Waits for the first line after `from` that `wanted` accepts; `what` names it in the error.
    pub fn wait_for(
        &self,
        from: Mark,
        what: &str,
        within: Duration,
        wanted: impl Fn(Stream, &str) -> bool,
    ) -> Result<(String, Mark)> {
        let deadline = Instant::now() + within;
        let mut next = from.0;
        let mut state = self.log.lock();
        loop {
            for (position, stream, line) in state.since(next) {
                if wanted(stream, line) {
                    return Ok((line.to_owned(), Mark(position + 1)));
                }
            }
            next = state.end();
            if state.is_over() {
                return Err(LabError::Ended {
                    command: self.command.clone(),
                    host: self.host.clone(),
                    what: what.into(),
                    output: state.tail(),
                });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LabError::Timeout {
                    what: format!("{what} from `{}` on {}", self.command, self.host),
                    waited: within,
                    seen: state.tail(),
                });
            }
            state = self.log.wait(state, left);
        }
    }

    /// Waits until the process has ended by itself and all its output has been read.
    ///
    /// # Errors
    /// [`LabError::Timeout`] after `within`; the process then still runs.
    pub fn wait_exit(&mut self, within: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        let deadline = Instant::now() + within;
        let mut state = self.log.lock();
        while !state.is_over() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LabError::Timeout {
                    what: format!("the end of `{}` on {}", self.command, self.host),
                    waited: within,
                    seen: state.tail(),
                });
            }
            state = self.log.wait(state, left);
        }
        drop(state);
        self.reap()
    }

    /// Whether the process has ended.
    pub fn has_ended(&self) -> bool {
        self.log.lock().exited
    }

    /// Asks the process to end (SIGTERM) and waits for it; after `within` it is killed and the wait is an error.
    pub fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        let ended = self.wait_exit(within);
        if ended.is_err() {
            self.kill();
        }
        ended
    }

    /// Interrupts the process (SIGINT, as Ctrl-C does) and waits for its end; after `within` it is killed and the wait
    /// is an error.
    pub fn interrupt(&mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGINT);
        let ended = self.wait_exit(within);
        if ended.is_err() {
            self.kill();
        }
        ended
    }

    /// Kills the process (SIGKILL), with its process group, and reaps it.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        // SIGKILL cannot be refused, so this wait is short; its only failure is that somebody else reaped.
        let _already_reaped = self.reap();
    }

    /// Writes a line to the process's standard input.
    pub fn write_line(&mut self, line: &str) -> Result<()> {
        let gone = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let stdin = self.stdin.as_mut().ok_or_else(gone);
        stdin
            .and_then(|pipe| pipe.write_all(line.as_bytes()).and_then(|()| pipe.write_all(b"\n")))
            .map_err(LabError::io(format!("write to `{}` on {}", self.command, self.host)))
    }

    /// Closes the process's standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Everything one of the two streams has written so far (the oldest lines may have been given up).
    pub fn output(&self, stream: Stream) -> String {
        self.output_from(Mark::default(), stream)
    }

    /// As [`Process::output`], but only what was written after `mark`.
    pub fn output_from(&self, mark: Mark, stream: Stream) -> String {
        let state = self.log.lock();
        let mut text = String::new();
        for (_, from, line) in state.since(mark.0) {
            if from == stream {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }

    /// The last lines of both streams, for error messages.
    pub fn tail(&self) -> String {
        self.log.lock().tail()
    }

    /// The command line, for error messages.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// The host's short name, for error messages.
    pub fn host(&self) -> &str {
        &self.host
    }

    fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            // The group is gone if the process has ended and had no children: nothing to signal then.
            let _gone = killpg(Pid::from_raw(self.child.id().cast_signed()), signal);
        }
    }

    fn reap(&mut self) -> Result<ExitStatus> {
        let status = self.child.wait().map_err(LabError::io(format!("wait for `{}`", self.command)))?;
        self.status = Some(status);
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.kill();
        }
    }
}

/// A command line as one would type it, without the environment.
pub(crate) fn command_line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A command from its words; the first is the program.
pub(crate) fn command_of<S: AsRef<OsStr>>(words: impl IntoIterator<Item = S>) -> Command {
    let mut words = words.into_iter();
    let mut command = match words.next() {
        Some(program) => Command::new(program),
        None => Command::new(""),
    };
    command.args(words);
    command
}

#[derive(Debug, Default)]
struct Log {
    state: Mutex<LogState>,
    changed: Condvar,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, LogState>, left: Duration) -> MutexGuard<'a, LogState> {
        self.changed
            .wait_timeout(state, left)
            .map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state)
    }
}

#[derive(Debug, Default)]
struct LogState {
    lines: std::collections::VecDeque<(Stream, String)>,
    given_up: usize,
    open_streams: usize,
    exited: bool,
}

impl LogState {
    fn end(&self) -> usize {
        self.given_up + self.lines.len()
    }

    fn is_over(&self) -> bool {
        self.exited && self.open_streams == 0
    }

    fn push(&mut self, stream: Stream, line: String) {
        if self.lines.len() == LINES_KEPT {
            self.lines.pop_front();
            self.given_up += 1;
        }
        self.lines.push_back((stream, line));
    }

    fn since(&self, position: usize) -> impl Iterator<Item = (usize, Stream, &str)> {
        let skipped = position.saturating_sub(self.given_up);
        self.lines
            .iter()
            .enumerate()
            .skip(skipped)
            .map(|(offset, (stream, line))| (self.given_up + offset, *stream, line.as_str()))
    }

    fn tail(&self) -> String {
        let from = self.end().saturating_sub(LINES_QUOTED);
        self.since(from).map(|(_, _, line)| line).collect::<Vec<_>>().join("\n")
    }
}

/// Copies a stream line by line to the log and its file, until the stream closes.
fn follow(pipe: impl Read + Send + 'static, stream: Stream, log: &Arc<Log>, file: &Arc<Mutex<File>>) {
    log.lock().open_streams += 1;
    let (log, file) = (Arc::clone(log), Arc::clone(file));
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
            // A log file that cannot be written (disk full) must not stop the reader: the process would block.
            let _unwritten = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
            log.lock().push(stream, text);
            log.changed.notify_all();
            line.clear();
        }
        log.lock().open_streams -= 1;
        log.changed.notify_all();
    });
}
