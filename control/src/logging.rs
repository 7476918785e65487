//! Logs: one event a line on standard error, as text or as JSON, or an entry of the journal, each with the connection and the
//! SA that it is about where there is one. What a peer says cannot break a line, and no flood of one kind of event drowns the rest: of each
//! place that logs, so many lines a second are written, and the next line tells how many were left out.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::stat::fstat;
use tracing::callsite::Identifier;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// Lines a second of one place in the code.
const PER_SECOND: u32 = 100;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people: time, level, message, `field=value`.
    Text,
    /// One JSON object, fields beside `timestamp`, `level`, `target` and `message`.
    Json,
    /// An entry of systemd's journal, with a field of its own for each field: `PORTCULLIS_CONNECTION=site`.
    Journal,
}

impl LogFormat {
    /// Where standard error is the journal, as systemd says by `$JOURNAL_STREAM` (systemd.exec(5)), entries of it; else text.
    fn of_stderr() -> Self {
        let told = std::env::var("JOURNAL_STREAM").ok();
        let is_it = fstat(io::stderr()).is_ok_and(|it| told == Some(format!("{}:{}", it.st_dev, it.st_ino)));
        if is_it { Self::Journal } else { Self::Text }
    }
}

/// Logs from now on, to standard error or the journal. `RUST_LOG` chooses what; without it, `info` and worse.
pub fn init(format: Option<LogFormat>) {
    let format = format.unwrap_or_else(LogFormat::of_stderr);
    if format == LogFormat::Journal {
        match tracing_journald::layer() {
            Ok(journal) => {
                let journal = journal.with_field_prefix(Some("PORTCULLIS".to_owned()));
                let journal = Journal(journal.with_syslog_identifier("portcullis".to_owned()));
                tracing_subscriber::registry()
                    .with(journal.with_filter(RateLimit::new(PER_SECOND)))
                    .with(wanted())
                    .init();
                return;
            }
            Err(error) => eprintln!("portcullis: no journal to log to ({error}): text on standard error"),
        }
    }
    subscriber(format, io::stderr, PER_SECOND).init();
}

fn wanted() -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"))
}

fn subscriber<W>(format: LogFormat, writer: W, per_second: u32) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines =
        tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Lines { inner: writer, format });
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match format {
        LogFormat::Text | LogFormat::Journal => lines.boxed(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    Box::new(
        tracing_subscriber::registry().with(layer.with_filter(RateLimit::new(per_second))).with(wanted()),
    )
}

/// Entries of the journal, which may have any octets in them.
struct Journal(tracing_journald::Layer);

impl<S: Subscriber + for<'span> LookupSpan<'span>> Layer<S> for Journal {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.0.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.0.on_record(id, values, context);
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let left_out = LEFT_OUT.take();
        self.0.on_event(event, context);
        if left_out > 0 {
            let like = event.metadata().target();
            tracing::warn!(left_out, like, "entries like the one before were left out");
        }
    }
}

thread_local! {
    /// How many events like the one that is being written were left out before it.
    static LEFT_OUT: Cell<u64> = const { Cell::new(0) };
}

/// Lets so many events a second of each place pass.
struct RateLimit {
    per_second: u32,
    seen: Arc<Mutex<HashMap<Identifier, Window>>>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    start: Instant,
    passed: u32,
    left_out: u64,
}

impl RateLimit {
    fn new(per_second: u32) -> Self {
        Self { per_second, seen: Arc::default() }
    }

    /// Whether to write it, and how many were left out before.
    fn pass(&self, place: Identifier, now: Instant) -> Option<u64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // As many as there are places in the code that log.
        let window = seen.entry(place).or_insert(Window { start: now, passed: 0, left_out: 0 });
        if now.duration_since(window.start) >= Duration::from_secs(1) {
            (window.start, window.passed) = (now, 0);
        }
        if window.passed >= self.per_second {
            window.left_out += 1;
            return None;
        }
        window.passed += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

impl<S> Filter<S> for RateLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn callsite_enabled(&self, _: &'static Metadata<'static>) -> Interest {
        // Asked anew at every event.
        Interest::sometimes()
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        match self.pass(event.metadata().callsite(), Instant::now()) {
            Some(left_out) => {
                // The same thread formats the event next.
                LEFT_OUT.set(left_out);
                true
            }
            None => false,
        }
    }
}

/// Makes every event one line.
struct Lines<W> {
    inner: W,
    format: LogFormat,
}

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for Lines<W> {
    type Writer = Line<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        Line { inner: self.inner.make_writer(), format: self.format }
    }
}

/// Takes one whole event at a time.
struct Line<W> {
    inner: W,
    format: LogFormat,
}

impl<W: Write> Write for Line<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = one_line(&String::from_utf8_lossy(event), self.format, LEFT_OUT.take());
        self.inner.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Without control characters, and with the number of lines left out before it.
fn one_line(event: &str, format: LogFormat, left_out: u64) -> String {
    let event = event.trim_end_matches('\n');
    let mut line = String::with_capacity(event.len() + 24);
    for c in event.chars() {
        match c {
            c if c.is_control() => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    if left_out > 0 {
        match (format, line.strip_suffix('}')) {
            (LogFormat::Json, Some(open)) => line = format!("{open},\"left_out\":{left_out}}}"),
            _ => line.push_str(&format!(" left_out={left_out}")),
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that `log` writes.
    fn lines(format: LogFormat, per_second: u32, log: impl FnOnce()) -> Vec<String> {
        let memory = Memory::default();
        let writer = memory.clone();
        tracing::subscriber::with_default(subscriber(format, move || writer.clone(), per_second), log);
        let octets = memory.0.lock().unwrap().clone();
        String::from_utf8(octets).unwrap().lines().map(str::to_owned).collect()
    }

    const FORGED: &str = "gw\n2030-01-01T00:00:00Z  INFO portcullis is well\u{1b}[2J";

    #[test]
    fn what_a_peer_says_cannot_begin_a_line() {
        let text =
            lines(LogFormat::Text, 9, || tracing::warn!(connection = "site", remote_id = %FORGED, "no"));
        assert_eq!(text.len(), 1, "{text:?}");
        assert!(text[0].contains(r"remote_id=gw\n2030") && text[0].contains(r"\u{1b}[2J"), "{text:?}");
        assert!(text[0].contains("connection=\"site\""), "{text:?}");
    }

    #[test]
    fn json_is_one_object_a_line_with_the_fields_beside_the_message() {
        let text = lines(LogFormat::Json, 9, || {
            tracing::info!(connection = "site", spi_in = 7, remote_id = %FORGED, "CHILD SA established");
        });
        let [line] = text.as_slice() else { panic!("{text:?}") };
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["message"], "CHILD SA established");
        assert_eq!((&value["level"], &value["connection"]), (&"INFO".into(), &"site".into()));
        assert_eq!(value["spi_in"], 7);
        assert_eq!(value["remote_id"], FORGED);
    }

    #[test]
    fn a_flood_of_one_kind_leaves_room_for_the_others() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = lines(format, 3, || {
                for n in 0..1000 {
                    tracing::info!(n, "flood");
                }
                tracing::info!("something else");
            });
            assert_eq!(text.iter().filter(|line| line.contains("flood")).count(), 3, "{text:?}");
            assert!(text.last().unwrap().contains("something else"), "{text:?}");
        }
    }

    #[test]
    fn what_was_left_out_is_told_by_the_next_line() {
        let (limit, start) = (RateLimit::new(2), Instant::now());
        // Any place in the code will do.
        tracing::subscriber::with_default(Registry::default(), || {
            let place = tracing::info_span!("place").metadata().unwrap().callsite();
            let passed: Vec<_> = (0..5).map(|_| limit.pass(place.clone(), start)).collect();
            assert_eq!(passed, [Some(0), Some(0), None, None, None]);
            let later = start + Duration::from_secs(1);
            assert_eq!(limit.pass(place.clone(), later), Some(3));
            assert_eq!(limit.pass(place, later), Some(0));
        });
        assert_eq!(one_line("INFO flood\n", LogFormat::Text, 3), "INFO flood left_out=3\n");
        assert_eq!(one_line("{\"a\":1}\n", LogFormat::Json, 3), "{\"a\":1,\"left_out\":3}\n");
    }
}
