//! Readers of the stream of events. Each has two queues: what strangers can cause, verdicts, has one of its own, so that a
//! flood of them pushes nothing else out. A reader that is too slow loses the oldest, and is told how many.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::body::{Body, Frame};

use crate::api::events::{EventLine, Happened};

/// Verdicts that wait for one reader.
const VERDICTS: usize = 512;
/// Everything else that waits for one reader.
const OTHERS: usize = 8192;
/// Readers at once.
const READERS: usize = 32;
/// Events in one piece of an answer.
const PIECE: usize = 128;

/// Where events go in, and who reads them.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    state: Mutex<State>,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Of the next event.
    number: u64,
    closed: bool,
    readers: Vec<Arc<Reader>>,
}

#[derive(Debug)]
struct Reader {
    connection: Option<String>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    verdicts: Queue,
    others: Queue,
    closed: bool,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Arc<EventLine>>,
    /// How many had to make way for those that are there.
    lost: u64,
}

impl Queue {
    /// Whether something had to make way.
    fn push(&mut self, line: Arc<EventLine>, room: usize) -> bool {
        self.lines.push_back(line);
        let full = self.lines.len() > room;
        if full {
            self.lines.pop_front();
            self.lost += 1;
        }
        full
    }

    fn next(&self) -> Option<u64> {
        self.lines.front().map(|line| line.number)
    }
}

/// The events of one reader, as the body of an answer: a JSON object a line. Nobody is left who reads when it is dropped.
#[derive(Debug)]
pub(crate) struct Lines {
    hub: Arc<Hub>,
    reader: Arc<Reader>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn line(number: u64, what: Happened) -> EventLine {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    EventLine { number, timestamp_seconds: at.as_secs_f64(), what }
}

impl Hub {
    /// Tells every reader. `what` is made only if there is one.
    pub(crate) fn publish(&self, what: impl FnOnce() -> Happened) {
        let mut state = lock(&self.state);
        state.number += 1;
        if state.readers.is_empty() {
            return;
        }
        let line = Arc::new(line(state.number, what()));
        let connection = line.what.connection();
        for reader in &state.readers {
            if reader.connection.as_deref().is_some_and(|wanted| connection != Some(wanted)) {
                continue;
            }
            let mut waiting = lock(&reader.waiting);
            let lost = match line.what {
                Happened::Verdict { .. } => waiting.verdicts.push(Arc::clone(&line), VERDICTS),
                _ => waiting.others.push(Arc::clone(&line), OTHERS),
            };
            self.lost.fetch_add(lost.into(), Ordering::Relaxed);
            if let Some(waker) = waiting.waker.take() {
                waker.wake();
            }
        }
    }

    /// What happens from now on, or only what is about one connection; `None` if there are too many readers.
    pub(crate) fn subscribe(self: &Arc<Self>, connection: Option<String>) -> Option<Lines> {
        let mut state = lock(&self.state);
        if state.closed || state.readers.len() >= READERS {
            return None;
        }
        let mut waiting = Waiting::default();
        let first = Happened::Subscribed { version: env!("CARGO_PKG_VERSION").to_owned() };
        waiting.others.push(Arc::new(line(state.number, first)), OTHERS);
        let reader = Arc::new(Reader { connection, waiting: Mutex::new(waiting) });
        state.readers.push(Arc::clone(&reader));
        Some(Lines { hub: Arc::clone(self), reader })
    }

    /// Ends every stream, after what waits for its reader.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        for reader in &state.readers {
            let mut waiting = lock(&reader.waiting);
            waiting.closed = true;
            if let Some(waker) = waiting.waker.take() {
                waker.wake();
            }
        }
    }

    /// How many read.
    pub(crate) fn readers(&self) -> usize {
        lock(&self.state).readers.len()
    }

    /// Events that readers were too slow for.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Waiting {
    /// The next event in order.
    fn take(&mut self) -> Option<EventLine> {
        let verdict = match (self.verdicts.next(), self.others.next()) {
            (Some(verdict), Some(other)) => verdict < other,
            (verdict, _) => verdict.is_some(),
        };
        let (queue, of) = match verdict {
            true => (&mut self.verdicts, "verdicts"),
            false => (&mut self.others, "others"),
        };
        if queue.lost > 0 {
            let lost = std::mem::take(&mut queue.lost);
            let number = queue.next().unwrap_or_default().saturating_sub(1);
            return Some(line(number, Happened::Lost { lost, of: of.to_owned() }));
        }
        queue.lines.pop_front().map(Arc::unwrap_or_clone)
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let (events, closed) = {
            let mut waiting = lock(&self.reader.waiting);
            let events: Vec<EventLine> = std::iter::from_fn(|| waiting.take()).take(PIECE).collect();
            if events.is_empty() && !waiting.closed {
                waiting.waker = Some(cx.waker().clone());
            }
            (events, waiting.closed)
        };
        match events.as_slice() {
            [] if closed => Poll::Ready(None),
            [] => Poll::Pending,
            events => Poll::Ready(Some(Ok(Frame::data(text(events).into())))),
        }
    }
}

fn text(events: &[EventLine]) -> Vec<u8> {
    let mut text = Vec::new();
    for event in events {
        // Nothing in it that JSON cannot say.
        if serde_json::to_writer(&mut text, event).is_ok() {
            text.push(b'\n');
        }
    }
    text
}

impl Drop for Lines {
    fn drop(&mut self) {
        lock(&self.hub.state).readers.retain(|reader| !Arc::ptr_eq(reader, &self.reader));
    }
}

#[cfg(test)]
mod tests {
    use portcullis_ike::verdict::{Reason, Verdict};

    use super::*;

    fn verdict(connection: &str) -> Happened {
        let verdict = Verdict {
            connection: Some(connection.to_owned()),
            ..Verdict::new(Reason::PskMismatch, "the keys differ")
        };
        Happened::Verdict { kind: Reason::PskMismatch.kind(), page: Reason::PskMismatch.page(), verdict }
    }

    fn other(connection: &str) -> Happened {
        Happened::AddressesLost { connection: connection.to_owned(), addresses: Vec::new() }
    }

    fn read(lines: &Lines) -> Vec<EventLine> {
        std::iter::from_fn(|| lock(&lines.reader.waiting).take()).collect()
    }

    fn names(events: &[EventLine]) -> Vec<String> {
        let name = |event: &EventLine| match &event.what {
            Happened::Subscribed { .. } => "subscribed".to_owned(),
            Happened::Lost { lost, of } => format!("lost {lost} {of}"),
            Happened::Verdict { .. } => "verdict".to_owned(),
            _ => "other".to_owned(),
        };
        events.iter().map(name).collect()
    }

    #[test]
    fn a_flood_of_verdicts_pushes_nothing_else_out_and_what_was_lost_is_told() {
        let hub = Arc::new(Hub::default());
        let lines = hub.subscribe(None).unwrap();
        hub.publish(|| other("site"));
        for _ in 0..VERDICTS + 100 {
            hub.publish(|| verdict("site"));
        }
        hub.publish(|| other("site"));
        let events = read(&lines);
        let names = names(&events);
        assert_eq!(names[..4], ["subscribed", "other", "lost 100 verdicts", "verdict"]);
        assert_eq!(names.len(), 3 + VERDICTS + 1);
        assert_eq!(names.last().unwrap(), "other");
        assert!(events.is_sorted_by_key(|event| event.number));
        assert_eq!(hub.lost(), 100);
    }

    #[test]
    fn a_reader_of_one_connection_gets_that_alone() {
        let hub = Arc::new(Hub::default());
        let lines = hub.subscribe(Some("site".to_owned())).unwrap();
        hub.publish(|| verdict("elsewhere"));
        hub.publish(|| Happened::ReloadRefused { reason: String::new() });
        hub.publish(|| verdict("site"));
        assert_eq!(names(&read(&lines)), ["subscribed", "verdict"]);
    }

    #[test]
    fn whoever_has_gone_makes_room_for_another() {
        let hub = Arc::new(Hub::default());
        let mut readers: Vec<Lines> = (0..READERS).filter_map(|_| hub.subscribe(None)).collect();
        assert!(hub.subscribe(None).is_none());
        readers.pop();
        assert_eq!(hub.readers(), READERS - 1);
        assert!(hub.subscribe(None).is_some());
    }

    #[tokio::test]
    async fn an_event_wakes_its_reader_and_the_end_ends_the_stream() {
        use http_body_util::BodyExt as _;

        let hub = Arc::new(Hub::default());
        let lines = hub.subscribe(None).unwrap();
        let reads = tokio::spawn(lines.collect());
        tokio::task::yield_now().await;
        hub.publish(|| other("site"));
        tokio::task::yield_now().await;
        hub.close();
        let text = reads.await.unwrap().unwrap().to_bytes();
        let lines: Vec<EventLine> = text
            .split(|octet| *octet == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(names(&lines), ["subscribed", "other"]);
    }
}
