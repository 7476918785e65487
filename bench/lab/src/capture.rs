//! A capture of one interface: a thread reads a packet socket, says what each frame is, counts all and keeps the
//! first of each class. A frame that XDP takes away or that an AF_XDP socket sends is not seen on that same
//! interface; it is seen on the other end of the veth pair, so captures belong on a [`Switch`](crate::Switch)
//! or on hosts without XDP.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use crate::error::{LabError, Result};
use crate::frame::{Class, Direction, ETHERTYPE_MARKER, Frame, classify};
use crate::host::Host;
use crate::packet_socket::{PacketSocket, Seen};

/// Bytes kept of each frame.
const SNAP: usize = 2048;
/// Frames kept of each class; all are counted.
const KEPT_PER_CLASS: usize = 2_000;
/// How long a marker frame may take to come back through the packet socket.
const SETTLE_TIME: Duration = Duration::from_secs(10);

/// How many frames, and how many bytes from the Ethernet header on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Frames.
    pub packets: u64,
    /// Bytes of these frames.
    pub bytes: u64,
}

/// All frames seen, by class and direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    by_class: BTreeMap<(Class, Direction), Count>,
    /// Frames that the kernel threw away before they could be counted, because we read too slowly. While it is
    /// not zero, "none was seen" proves nothing.
    pub lost: u64,
}

impl Counts {
    /// Frames of a class in one direction.
    pub fn of(&self, class: Class, direction: Direction) -> Count {
        self.by_class.get(&(class, direction)).copied().unwrap_or_default()
    }

    /// Packets of a class, both directions together.
    pub fn packets(&self, class: Class) -> u64 {
        self.of(class, Direction::In).packets + self.of(class, Direction::Out).packets
    }

    /// Every class that was seen, with both directions together.
    pub fn all(&self) -> impl Iterator<Item = (Class, u64)> {
        let classes: std::collections::BTreeSet<Class> =
            self.by_class.keys().map(|(class, _)| *class).collect();
        classes.into_iter().map(|class| (class, self.packets(class)))
    }

    /// ESP packets in one direction, raw and in UDP together.
    pub fn esp(&self, direction: Direction) -> u64 {
        self.of(Class::Esp, direction).packets + self.of(Class::UdpEsp, direction).packets
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((class, direction), count) in &self.by_class {
            write!(f, "{class:?} {direction:?} {} packets {} bytes; ", count.packets, count.bytes)?;
        }
        write!(f, "lost {}", self.lost)
    }
}

/// A running capture; ends when dropped.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    host: Host,
    interface: String,
    stop: Arc<EventFd>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    frames: Vec<Frame>,
    kept: BTreeMap<Class, usize>,
    markers: Vec<u64>,
    failure: Option<String>,
}

impl Capture {
    /// Starts to capture an interface of a host; frames count from when this returns. ICMP between two
    /// addresses of `outer` is [`Class::IcmpOuter`], any other is [`Class::Clear`].
    pub fn start(host: &Host, interface: &str, outer: &[IpAddr]) -> Result<Self> {
        let socket = host.enter(|| PacketSocket::open(interface, SNAP))?;
        let socket = socket.map_err(LabError::io(format!("capture {interface} on {}", host.name())))?;
        let stop = Arc::new(EventFd::new().map_err(LabError::errno("make an eventfd"))?);
        let shared = Arc::new(Shared::default());
        let reader = {
            let (shared, stop, outer) = (Arc::clone(&shared), Arc::clone(&stop), outer.to_vec());
            std::thread::spawn(move || {
                if let Err(error) = read(socket, &stop, &outer, &shared) {
                    shared.lock().failure = Some(error.to_string());
                    shared.changed.notify_all();
                }
            })
        };
        Ok(Self { shared, host: host.clone(), interface: interface.into(), stop, reader: Some(reader) })
    }

    /// The counters now. After [`Capture::settle`] they hold all that was on the wire before it.
    pub fn counts(&self) -> Counts {
        self.shared.lock().counts.clone()
    }

    /// Waits until `reached` accepts the counters.
    ///
    /// # Errors
    /// [`LabError::Timeout`] after `within`, with the counters; [`LabError::Io`] when the interface is gone.
    pub fn wait_until(
        &self,
        what: &str,
        within: Duration,
        reached: impl Fn(&Counts) -> bool,
    ) -> Result<Counts> {
        let state = self.wait(what, within, |state| reached(&state.counts))?;
        Ok(state.counts.clone())
    }

    /// Waits for a kept frame that `wanted` accepts.
    pub fn wait_frame(&self, what: &str, within: Duration, wanted: impl Fn(&Frame) -> bool) -> Result<Frame> {
        let state = self.wait(what, within, |state| state.frames.iter().any(&wanted))?;
        let found = state.frames.iter().find(|frame| wanted(frame)).cloned();
        found.ok_or_else(|| LabError::Timeout {
            what: what.into(),
            waited: within,
            seen: state.counts.to_string(),
        })
    }

    /// Waits until everything that was on the interface before this call has been counted: a marker frame of
    /// our own (EtherType 88b5, which every host drops) is sent and awaited.
    pub fn settle(&self) -> Result<Counts> {
        static TOKENS: AtomicU64 = AtomicU64::new(1);
        let token = TOKENS.fetch_add(1, Ordering::Relaxed);
        let mut frame = vec![0xff; 6];
        frame.extend([0x02, 0, 0, 0, 0, 0]);
        frame.extend(ETHERTYPE_MARKER.to_be_bytes());
        frame.extend(token.to_be_bytes());
        frame.resize(60, 0);
        self.host.send_frame(&self.interface, &frame)?;
        let state = self.wait("the marker frame", SETTLE_TIME, |state| state.markers.contains(&token))?;
        Ok(state.counts.clone())
    }

    /// The kept frames that `wanted` accepts, oldest first. Of each class the first 2000 are kept.
    pub fn matching(&self, wanted: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        self.shared.lock().frames.iter().filter(|frame| wanted(frame)).cloned().collect()
    }

    /// Everything that is no ESP, IKE, keepalive, neighbour or outer ICMP traffic, one line per packet.
    pub fn clear_text(&self) -> Vec<String> {
        let clear = self.matching(|frame| frame.class == Class::Clear);
        clear.iter().map(|frame| format!("{:?} {:?}", frame.direction, frame.headers())).collect()
    }

    /// Writes the kept frames as a pcap file (nanoseconds, Ethernet).
    pub fn write_pcap(&self, path: &Path) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let mut file = BufWriter::new(File::create(path)?);
            for word in [0xa1b2_3c4d, 0x0004_0002, 0, 0, SNAP as u32, 1] {
                file.write_all(&u32::to_le_bytes(word))?;
            }
            for frame in &self.shared.lock().frames {
                let at = frame.at.duration_since(UNIX_EPOCH).unwrap_or_default();
                let (kept, length) = (frame.bytes.len() as u32, frame.length as u32);
                for word in [at.as_secs() as u32, at.subsec_nanos(), kept, length] {
                    file.write_all(&word.to_le_bytes())?;
                }
                file.write_all(&frame.bytes)?;
            }
            file.flush()
        };
        write().map_err(LabError::io(format!("write {}", path.display())))
    }

    fn wait(
        &self,
        what: &str,
        within: Duration,
        reached: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'_, State>> {
        let deadline = Instant::now() + within;
        let mut state = self.shared.lock();
        while !reached(&state) {
            if let Some(failure) = &state.failure {
                let source = std::io::Error::other(failure.clone());
                let what = format!("capture {} of {}", self.interface, self.host.name());
                return Err(LabError::Io { what, source });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let what = format!("{what} on {} of {}", self.interface, self.host.name());
                return Err(LabError::Timeout { what, waited: within, seen: state.counts.to_string() });
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state);
        }
        Ok(state)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // An eventfd refuses a write only at its maximum, when the reader has long been told.
        let _told = self.stop.write(1);
        if let Some(reader) = self.reader.take() {
            // A reader that panicked has already printed why.
            let _ended = reader.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn record(&mut self, at: SystemTime, class: Class, seen: Seen<'_>) {
        if class == Class::Marker {
            let token = seen.bytes.get(14..22).and_then(|bytes| bytes.try_into().ok());
            self.markers.extend(token.map(u64::from_be_bytes));
            return;
        }
        let direction = if seen.outgoing { Direction::Out } else { Direction::In };
        let count = self.counts.by_class.entry((class, direction)).or_default();
        count.packets += 1;
        count.bytes += seen.length as u64;
        let kept = self.kept.entry(class).or_default();
        if *kept < KEPT_PER_CLASS {
            *kept += 1;
            self.frames.push(Frame { at, direction, class, length: seen.length, bytes: seen.bytes.to_vec() });
        }
    }
}

fn read(mut socket: PacketSocket, stop: &EventFd, outer: &[IpAddr], shared: &Shared) -> std::io::Result<()> {
    loop {
        let mut ready =
            [PollFd::new(socket.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if ready.last().is_some_and(|stop| stop.any().unwrap_or(false)) {
            return Ok(());
        }
        let at = SystemTime::now();
        let mut state = shared.lock();
        socket.read_batch(|seen| state.record(at, classify(seen.bytes, outer), seen))?;
        state.counts.lost = socket.lost()?;
        drop(state);
        shared.changed.notify_all();
    }
}
