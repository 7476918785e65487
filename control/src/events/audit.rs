//! The audit trail: who was there, from where, when and with what, a JSON object a line in a file. What is to be written
//! goes to a thread of its own by a queue that nobody waits for; what finds no room there, or no space on the disk, is
//! counted, and the file itself says so.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::sessions::Session;
use super::{Happening, report};
use crate::api::events::{CarriedReport, Who};
use crate::daemon::Carried;

/// Lines that wait to be written.
const QUEUE: usize = 8192;
/// How long the end of the daemon waits for them.
const PATIENCE: Duration = Duration::from_secs(3);

/// `[audit]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditConfig {
    /// Where the lines go.
    pub file: PathBuf,
    /// Failed authentications that are written, a second; 0: none.
    pub failures_per_second: u32,
}

/// What is written of something that happened.
#[derive(Debug, Serialize)]
struct Line {
    timestamp_seconds: f64,
    #[serde(flatten)]
    entry: Entry,
}

#[derive(Debug, Serialize)]
#[serde(tag = "audit", rename_all = "snake_case")]
enum Entry {
    /// The daemon has opened the file for the first time.
    DaemonStart { version: &'static str },
    /// The daemon ends in order: every session before this has its end.
    DaemonStop,
    /// Both ends are authenticated.
    SessionStart {
        #[serde(flatten)]
        who: Who,
        groups: Vec<String>,
    },
    /// The peer has inner addresses, a moment after its session has begun.
    SessionAddresses { session: String, connection: String, identity: String, addresses: Vec<String> },
    /// The session is over.
    SessionEnd {
        #[serde(flatten)]
        who: Who,
        groups: Vec<String>,
        /// When it began.
        began_seconds: f64,
        duration_seconds: f64,
        #[serde(flatten)]
        carried: CarriedReport,
        /// The CHILD SAs that it had.
        children: Vec<ChildEntry>,
        reason: String,
    },
    /// Somebody could not prove who it is, or we could not.
    AuthenticationFailed {
        reason: &'static str,
        connection: Option<String>,
        remote: Option<String>,
        detail: String,
        /// How many before this were not written, because there were too many.
        unwritten: u64,
    },
    /// Lines are missing here: they came faster than they could be written.
    Lost { lost: u64 },
}

/// A CHILD SA of a session, whether or not it is still there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ChildEntry {
    /// Its name.
    pub(crate) child: String,
    /// Its algorithms.
    pub(crate) proposal: String,
    /// Our side.
    pub(crate) local_ts: Vec<String>,
    /// The peer's side.
    pub(crate) remote_ts: Vec<String>,
}

enum Message {
    Line(Vec<u8>),
    /// There is something else to do than to write.
    Wake,
    Stop(Vec<u8>, SyncSender<()>),
}

/// What has become of the lines.
#[derive(Debug, Default)]
pub(crate) struct AuditTotals {
    /// They are in the file.
    pub(crate) written: AtomicU64,
    /// They found no room in the queue.
    pub(crate) lost: AtomicU64,
    /// The file system did not take them.
    pub(crate) failed: AtomicU64,
    /// Failed authentications beyond those that are written.
    pub(crate) suppressed: AtomicU64,
}

/// Where lines go in.
#[derive(Debug)]
pub(crate) struct Audit {
    lines: SyncSender<Message>,
    reopen: Arc<AtomicBool>,
    totals: Arc<AuditTotals>,
    limit: Mutex<Limit>,
}

/// Failed authentications of one second.
#[derive(Debug)]
struct Limit {
    per_second: u32,
    second: Option<Instant>,
    written: u32,
    unwritten: u64,
}

impl Audit {
    /// Opens the file, and starts the thread that writes to it.
    ///
    /// # Errors
    /// That it cannot be opened: whoever wants a trail wants no daemon without.
    pub(crate) fn start(config: &AuditConfig) -> io::Result<Self> {
        let file = open(&config.file)?;
        let (lines, queue) = sync_channel(QUEUE);
        let (reopen, totals) = (Arc::new(AtomicBool::new(false)), Arc::new(AuditTotals::default()));
        let writer = Writer {
            path: config.file.clone(),
            file,
            torn: false,
            failing: false,
            told_lost: 0,
            reopen: Arc::clone(&reopen),
            totals: Arc::clone(&totals),
        };
        std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run(&queue))?;
        let limit = Limit { per_second: config.failures_per_second, second: None, written: 0, unwritten: 0 };
        let audit = Self { lines, reopen, totals, limit: Mutex::new(limit) };
        audit.write(Entry::DaemonStart { version: env!("CARGO_PKG_VERSION") });
        Ok(audit)
    }

    /// Writes what is worth it. Does not wait.
    pub(super) fn hear(&self, happening: &Happening<'_>) {
        match *happening {
            Happening::IkeUp { session } => {
                self.write(Entry::SessionStart { who: report::who(session), groups: groups(session) });
            }
            Happening::AddressesAssigned {
                session: Some(session), connection, identity, addresses, ..
            } => {
                self.write(Entry::SessionAddresses {
                    session: session.name.clone(),
                    connection: connection.to_owned(),
                    identity: identity.to_owned(),
                    addresses: report::list(addresses),
                });
            }
            Happening::IkeDown { session, reason, carried } => self.end(session, reason, carried),
            Happening::Failed(verdict) if verdict.reason.is_about_authentication() => {
                let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(unwritten) = limit.pass(Instant::now()) else {
                    self.totals.suppressed.fetch_add(1, Ordering::Relaxed);
                    return;
                };
                drop(limit);
                self.write(Entry::AuthenticationFailed {
                    reason: verdict.code(),
                    connection: verdict.connection.clone(),
                    remote: verdict.peer.map(|peer| peer.to_string()),
                    detail: verdict.sentence.clone(),
                    unwritten,
                });
            }
            _ => {}
        }
    }

    fn end(&self, session: &Session, reason: &str, carried: Carried) {
        self.write(Entry::SessionEnd {
            who: report::who(session),
            groups: groups(session),
            began_seconds: seconds(session.began),
            duration_seconds: session.age().as_secs_f64(),
            carried: carried.into(),
            children: session.had.clone(),
            reason: reason.to_owned(),
        });
    }

    fn write(&self, entry: Entry) {
        if self.lines.try_send(Message::Line(text(entry))).is_err() {
            self.totals.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Opens the file anew: it may have been moved away. If that fails, the old one is kept.
    pub(crate) fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
        // With a full queue the thread is awake.
        let _ = self.lines.try_send(Message::Wake);
    }

    /// What has become of the lines.
    pub(crate) fn totals(&self) -> &AuditTotals {
        &self.totals
    }

    /// Writes what waits, and a last line. Blocks for a while at most.
    pub(crate) fn finish(&self) {
        let (done, written) = sync_channel(1);
        let deadline = Instant::now() + PATIENCE;
        let mut stop = Message::Stop(text(Entry::DaemonStop), done);
        loop {
            match self.lines.try_send(stop) {
                Ok(()) => break,
                Err(std::sync::mpsc::TrySendError::Full(again)) if Instant::now() < deadline => {
                    stop = again;
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(_) => return tracing::error!("the audit trail is not written to its end"),
            }
        }
        if written.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_err() {
            tracing::error!("the audit trail is not written to its end: the file system does not answer");
        }
    }
}

fn groups(session: &Session) -> Vec<String> {
    session.ike.authorization.groups.clone()
}

fn seconds(when: SystemTime) -> f64 {
    when.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn text(entry: Entry) -> Vec<u8> {
    let line = Line { timestamp_seconds: seconds(SystemTime::now()), entry };
    // Nothing in it that JSON cannot say.
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    text
}

impl Limit {
    /// Whether to write now, and how many were not since the last that was.
    fn pass(&mut self, now: Instant) -> Option<u64> {
        let same = self.second.is_some_and(|second| now.duration_since(second) < Duration::from_secs(1));
        if !same {
            (self.second, self.written) = (Some(now), 0);
        }
        if self.written >= self.per_second {
            self.unwritten += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.unwritten))
    }
}

/// Opens the file for what is to come. One that it makes is for its owner and its group, whatever the process's umask; one
/// that is there keeps what the administrator has given it.
fn open(path: &Path) -> io::Result<File> {
    const MODE: u32 = 0o640;
    let mut options = OpenOptions::new();
    options.append(true).mode(MODE);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            file.set_permissions(Permissions::from_mode(MODE))?;
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
        Err(error) => Err(error),
    }
}

struct Writer {
    path: PathBuf,
    file: File,
    /// The last line may lack its end.
    torn: bool,
    /// That it cannot be written was said.
    failing: bool,
    /// Lost lines that the file knows of.
    told_lost: u64,
    reopen: Arc<AtomicBool>,
    totals: Arc<AuditTotals>,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Message>) {
        while let Ok(message) = queue.recv() {
            if self.reopen.swap(false, Ordering::AcqRel) {
                self.open_anew();
            }
            let lost = self.totals.lost.load(Ordering::Relaxed);
            if lost > self.told_lost && self.put(&text(Entry::Lost { lost: lost - self.told_lost })) {
                self.told_lost = lost;
            }
            match message {
                Message::Line(line) => self.line(&line),
                Message::Wake => {}
                Message::Stop(line, done) => {
                    self.line(&line);
                    if let Err(error) = self.file.sync_data() {
                        tracing::error!(path = %self.path.display(), %error, "the audit trail may not be on the disk");
                    }
                    // Nobody may wait any more.
                    let _ = done.send(());
                    return;
                }
            }
        }
    }

    fn open_anew(&mut self) {
        match open(&self.path) {
            Ok(file) => (self.file, self.torn) = (file, false),
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "the audit trail goes on in the old file");
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        let count = match self.put(line) {
            true => &self.totals.written,
            false => &self.totals.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn put(&mut self, line: &[u8]) -> bool {
        let end: &[u8] = if self.torn { b"\n" } else { b"" };
        match self.file.write_all(&[end, line].concat()) {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!(path = %self.path.display(), "the audit trail is written again");
                }
                self.torn = false;
                true
            }
            Err(error) => {
                self.torn = true;
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(path = %self.path.display(), %error, "the audit trail cannot be written");
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_ike::verdict::{Reason, Verdict};

    use super::*;

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn names(path: &Path) -> Vec<String> {
        lines(path).iter().map(|line| line["audit"].as_str().unwrap().to_owned()).collect()
    }

    fn config(directory: &tempfile::TempDir) -> AuditConfig {
        AuditConfig { file: directory.path().join("audit.jsonl"), failures_per_second: 3 }
    }

    #[test]
    fn a_flood_of_failures_is_written_a_few_times_a_second_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(&directory);
        let audit = Audit::start(&config).unwrap();
        let verdict = Verdict::new(Reason::PskMismatch, "the keys differ");
        for _ in 0..100 {
            audit.hear(&Happening::Failed(&verdict));
        }
        audit.hear(&Happening::Failed(&Verdict::new(Reason::PeerSilent, "not about who is who")));
        audit.finish();
        let failed = names(&config.file).iter().filter(|name| *name == "authentication_failed").count();
        // A second may have gone by.
        assert!((3..50).contains(&failed), "{failed}");
        assert_eq!(failed as u64 + audit.totals().suppressed.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn the_file_is_for_its_owner_and_group_and_is_opened_anew() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(&directory);
        let audit = Audit::start(&config).unwrap();
        while audit.totals().written.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        let rotated = directory.path().join("audit.jsonl.1");
        std::fs::rename(&config.file, &rotated).unwrap();
        audit.reopen();
        audit.hear(&Happening::Failed(&Verdict::new(Reason::PskMismatch, "the keys differ")));
        audit.finish();
        assert_eq!(names(&config.file), ["authentication_failed", "daemon_stop"]);
        assert_eq!(names(&rotated), ["daemon_start"]);
        let mode = std::fs::metadata(&config.file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn lines_that_find_no_room_are_counted_and_the_file_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let config = config(&directory);
        let audit = Audit::start(&config).unwrap();
        audit.totals.lost.fetch_add(7, Ordering::Relaxed);
        audit.finish();
        let lost = lines(&config.file).into_iter().find(|line| line["audit"] == "lost").unwrap();
        assert_eq!(lost["lost"], 7);
    }

    /// A full disk is what /dev/full is always.
    #[test]
    fn what_the_file_system_does_not_take_is_counted_and_ends_nothing() {
        let full = AuditConfig { file: "/dev/full".into(), failures_per_second: 1 };
        let audit = Audit::start(&full).unwrap();
        audit.finish();
        assert_eq!(audit.totals().failed.load(Ordering::Relaxed), 2);
        assert_eq!(audit.totals().written.load(Ordering::Relaxed), 0);
    }
}
