//! One AF_XDP socket: the four rings of a queue of an interface.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue};

use super::ledger::Ledger;
use super::memory::{FrameMemory, MemoryError, RING, source};
use super::pool::FramePool;
use super::traffic::QueueTraffic;
use crate::busy::until_free;
use crate::frame::{Frame, LARGE_FRAME};
use crate::pipeline::FrameSource;

/// Descriptors that cross a ring in one step.
const STEP: usize = 64;
/// Of all frames of a packet but the last (linux/if_xdp.h).
const XDP_PKT_CONTD: u32 = 1;
/// Where a packet that came in several frames starts in a large one: leaves room for any encapsulation.
const LARGE_START: usize = 256;
/// Likewise behind it.
const TAIL: usize = 64;
/// Packets that the kernel takes out of the TX ring at a time where it copies them: 32, but since Linux 6.17 as many as
/// it is told.
const TX_BUDGET: u32 = 256;

/// Why a queue has no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel does not bind it.
    #[error("cannot bind an AF_XDP socket to queue {queue} of {interface}: {source}{}", hint(.source))]
    Bind {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// Why.
        source: io::Error,
    },
    /// Its name holds a zero octet, or its rings have an impossible size.
    #[error("{0}")]
    Invalid(String),
    /// Another socket of ours has this queue.
    #[error("queue {queue} of {interface} has a socket already")]
    Duplicate {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u32,
    },
    /// The kernel does not poll on our behalf.
    #[error("the kernel does not busy-poll: {0} (Linux 5.11 and CAP_NET_ADMIN, or no `gateway.busy_poll`)")]
    BusyPoll(io::Error),
    /// Packet memory is wanting.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => " (another process has an AF_XDP socket on this queue)",
        Some(libc::EINVAL) => {
            " (does the interface have so many queues? An MTU that frames do not take in one piece needs Linux 6.6)"
        }
        Some(libc::EPERM | libc::EACCES) => " (run as root, or with CAP_NET_RAW and CAP_BPF)",
        Some(libc::ENODEV) => " (is it a real interface, and up?)",
        _ => "",
    }
}

/// Whether packets are copied between the driver's memory and ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyMode {
    /// The driver works on our memory.
    ZeroCopy,
    /// The kernel copies.
    Copy,
}

impl fmt::Display for CopyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy",
        })
    }
}

/// What the kernel counts of a socket (`XDP_STATISTICS`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketStatistics {
    /// Received packets dropped for other reasons than a full ring.
    pub rx_dropped: u64,
    /// Received packets dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Received packets dropped because the fill ring was empty.
    pub rx_fill_ring_empty: u64,
    /// Descriptors of ours that the kernel refused.
    pub tx_invalid: u64,
}

impl SocketStatistics {
    /// Of both sockets together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            rx_dropped: self.rx_dropped + other.rx_dropped,
            rx_ring_full: self.rx_ring_full + other.rx_ring_full,
            rx_fill_ring_empty: self.rx_fill_ring_empty + other.rx_fill_ring_empty,
            tx_invalid: self.tx_invalid + other.tx_invalid,
        }
    }
}

/// A bound socket. The kernel owns the frames in its rings; dropping it gives them up, so it goes only together with
/// its [`FrameMemory`].
#[derive(Debug)]
pub struct QueueSocket {
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    memory: Arc<FrameMemory>,
    mode: CopyMode,
    /// The frames that the kernel has.
    lent: Ledger,
    /// The same socket, for probes.
    probed: Arc<OwnedFd>,
    traffic: Arc<QueueTraffic>,
    /// Whether the driver works when we ask for packets, see [`QueueSocket::busy_poll`].
    busy_polls: bool,
    /// Frames in the fill ring, with the driver, or in the RX ring.
    filled: usize,
    /// Frames in the TX ring, with the driver, or in the completion ring.
    sent: usize,
    scratch: Vec<FrameDesc>,
    /// The longest packet that leaves room behind it in its frame; where packets come in several frames, a longer one does as
    /// they do.
    roomy: usize,
    /// What has come of a packet whose other frames are still to come.
    chain: Option<Chain>,
    /// Packets of several frames that there was no room for.
    lost: usize,
}

/// The first frames of a packet.
#[derive(Debug)]
enum Chain {
    /// Their octets, in a large frame.
    Into(Frame),
    /// There was no large frame, or not room enough: nothing is kept of it.
    Lost,
}

impl QueueSocket {
    /// Binds to a queue. The XDP program is someone else's matter. The first socket on a memory decides the mode of all:
    /// one whose driver cannot do without copies then fails with an error that [`SocketError::wants_copies`].
    pub fn bind(
        memory: Arc<FrameMemory>,
        interface: &str,
        queue: u32,
        mode: CopyMode,
    ) -> Result<Self, SocketError> {
        let flag = match mode {
            CopyMode::ZeroCopy => BindFlags::XDP_ZEROCOPY,
            CopyMode::Copy => BindFlags::XDP_COPY,
        };
        let bind = || Self::try_bind(&memory, interface, queue, flag);
        let (tx, rx, rings) = until_free(bind, |error| match error {
            SocketError::Bind { source, .. } => Some(source),
            _ => None,
        })?;
        let duplicate = || SocketError::Duplicate { interface: interface.to_owned(), queue };
        let (fill, completion) = rings.ok_or_else(duplicate)?;
        let mode = actual_mode(rx.fd().as_raw_fd()).unwrap_or(mode);
        allow_tx_budget(rx.fd().as_raw_fd());
        let lent = memory.ledger();
        let scratch = vec![FrameDesc::default(); STEP];
        let roomy = match memory.takes_chains() {
            true => memory.piece().saturating_sub(TAIL),
            false => usize::MAX,
        };
        // SAFETY: the socket's own descriptor, open as long as its rings live.
        let fd = unsafe { BorrowedFd::borrow_raw(rx.fd().as_raw_fd()) };
        let probed = Arc::new(fd.try_clone_to_owned().map_err(|source| SocketError::Bind {
            interface: interface.to_owned(),
            queue,
            source,
        })?);
        Ok(Self {
            tx,
            rx,
            fill,
            completion,
            memory,
            mode,
            lent,
            probed,
            traffic: Arc::default(),
            busy_polls: false,
            filled: 0,
            sent: 0,
            scratch,
            roomy,
            chain: None,
            lost: 0,
        })
    }

    fn try_bind(
        memory: &FrameMemory,
        interface: &str,
        queue: u32,
        mode: BindFlags,
    ) -> Result<Parts, SocketError> {
        let invalid = |error: &dyn fmt::Display| SocketError::Invalid(format!("{interface}: {error}"));
        let ring = QueueSize::new(RING).map_err(|error| invalid(&error))?;
        let chains = if memory.takes_chains() { BindFlags::XDP_USE_SG } else { BindFlags::empty() };
        let config = SocketConfig::builder()
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(mode | BindFlags::XDP_USE_NEED_WAKEUP | chains)
            .build();
        let name: Interface = interface.parse().map_err(|error| invalid(&error))?;
        let failed = |source| SocketError::Bind { interface: interface.to_owned(), queue, source };
        // SAFETY: libxdp loads no program, as the flag says.
        let parts = unsafe { Socket::new(config, memory.umem(), &name, queue) };
        let parts = parts.map_err(|error| failed(source(&error)))?;
        // libxdp leaves it open to every program that this process starts, and the queue taken until that ends.
        // SAFETY: the socket's own descriptor, open as long as its rings live.
        let fd = unsafe { BorrowedFd::borrow_raw(parts.1.fd().as_raw_fd()) };
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|error| failed(error.into()))?;
        Ok(parts)
    }

    /// The same, and goes on with what earlier sockets of its queue have counted, which are no longer in use.
    #[must_use]
    pub fn counting(self, traffic: Arc<QueueTraffic>) -> Self {
        Self { traffic, ..self }
    }

    /// Whether packets are copied.
    pub fn mode(&self) -> CopyMode {
        self.mode
    }

    /// For the XSKMAP and for `poll`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket's own descriptor, open as long as `self` lives.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }

    /// Frames that the kernel has, and one that holds the beginning of a packet.
    pub fn in_kernel(&self) -> usize {
        self.filled + self.sent + usize::from(matches!(self.chain, Some(Chain::Into(_))))
    }

    /// Packets of several frames that were lost since it was last asked, for want of a large frame or of room in it.
    pub fn take_lost(&mut self) -> usize {
        std::mem::take(&mut self.lost)
    }

    /// The large frame that holds the beginning of a packet, which is lost with it.
    pub fn take_begun(&mut self) -> Option<Frame> {
        match self.chain.replace(Chain::Lost) {
            Some(Chain::Into(frame)) => Some(frame),
            Some(Chain::Lost) => None,
            None => {
                self.chain = None;
                None
            }
        }
    }

    /// Frames given to the kernel to send and not yet back.
    pub fn in_flight(&self) -> usize {
        self.sent
    }

    /// Which frames the kernel has.
    pub fn lent(&self) -> &Ledger {
        &self.lent
    }

    /// Closes it, and gives back the frames that the kernel had, and the packets in them up. Only for a socket whose
    /// interface is gone: what a driver has still to send must not change meanwhile.
    pub fn close(mut self) -> Vec<Frame> {
        let begun = self.take_begun();
        let Self { tx, rx, fill, completion, memory, lent, mut probed, .. } = self;
        // A probe that is being asked has the socket open for a moment.
        while let Err(shared) = Arc::try_unwrap(probed) {
            probed = shared;
            std::thread::yield_now();
        }
        drop((tx, rx, fill, completion));
        // SAFETY: the kernel's last hold on them has gone with the socket, and nobody else had them since they were lent.
        let frames = lent.addresses().filter_map(|address| unsafe { memory.frame(address, 0) });
        frames.chain(begun).collect()
    }

    /// Takes received frames, at most `max`, and says how many. What came in several of them is put together in a large one of
    /// the pool.
    pub fn receive(&mut self, max: usize, into: &mut Vec<Frame>, pool: &mut FramePool) -> usize {
        let wanted = self.scratch.get_mut(..max.min(STEP)).unwrap_or_default();
        // SAFETY: descriptors of the same UMEM as the ring's are written, none is read.
        let count = unsafe { self.rx.consume(wanted) };
        self.filled = self.filled.saturating_sub(count);
        let (mut packets, mut octets) = (0, 0);
        for descriptor in self.scratch.iter().take(count) {
            packets += usize::from(!descriptor.has_more_frames());
            octets += descriptor.lengths().data();
            if !self.lent.take(descriptor.addr()) {
                continue;
            }
            // SAFETY: the kernel has let go of this frame by putting it into the RX ring, and nobody else had it since
            // it was lent.
            let frame = unsafe { self.memory.frame(descriptor.addr(), descriptor.lengths().data()) };
            let in_several = descriptor.has_more_frames() || self.chain.is_some();
            if in_several || descriptor.lengths().data() > self.roomy {
                let Some(piece) = frame else { continue };
                let begun = self.chain.take().unwrap_or_else(|| Chain::begin(pool));
                let chain = begun.with(&piece, pool);
                pool.put(piece);
                if descriptor.has_more_frames() {
                    self.chain = Some(chain);
                } else if let Chain::Into(whole) = chain {
                    into.push(whole);
                } else {
                    self.lost += 1;
                }
                continue;
            }
            into.extend(frame);
        }
        if count > 0 {
            self.traffic.received(packets, octets);
        }
        count
    }

    /// Sends the frames, as far as the ring has room; those that it takes leave `frames`, in order. Call
    /// [`QueueSocket::kick`] after. What lies in a large one goes in frames of the pool.
    pub fn transmit(&mut self, frames: &mut Vec<Frame>, pool: &mut FramePool) -> usize {
        let (mut taken, mut in_pieces, mut octets) = (0, 0, 0);
        while taken < frames.len() {
            let room = (self.tx.nb_free(STEP as u32) as usize).min(STEP);
            let batch = frames.iter().skip(taken).take(room);
            let mut count = 0;
            for (slot, descriptor) in
                self.scratch.iter_mut().zip(batch.map_while(|frame| self.memory.descriptor(frame)))
            {
                *slot = descriptor;
                count += 1;
            }
            if count == 0 {
                let Some(frame) = frames.get_mut(taken).filter(|_| room > 0) else { break };
                if !self.transmit_in_pieces(frame.packet(), pool) {
                    break;
                }
                octets += frame.len();
                // Empty: it stays ours.
                let _shorter = frame.truncate(0);
                (taken, in_pieces) = (taken + 1, in_pieces + 1);
                continue;
            }
            // SAFETY: the frames are consumed below, so that nobody touches them until they come back by the
            // completion ring.
            let produced = unsafe { self.tx.produce(self.scratch.get(..count).unwrap_or_default()) };
            octets += self.scratch.iter().take(produced).map(|sent| sent.lengths().data()).sum::<usize>();
            taken += produced;
        }
        self.sent += taken - in_pieces;
        if taken > 0 {
            self.traffic.sent(taken, octets);
        }
        // A frame has no drop of its own: the kernel owns these.
        frames.drain(..taken).for_each(|frame| match frame.is_empty() {
            false => self.lent.enter(&frame),
            true => pool.put(frame),
        });
        taken
    }

    /// Sends a packet in as many frames as it takes, or none of it if the ring has no room, or the pool no frames.
    #[cold]
    fn transmit_in_pieces(&mut self, packet: &[u8], pool: &mut FramePool) -> bool {
        let octets = packet.chunks(self.memory.piece());
        let pieces = octets.len();
        let room = self.tx.nb_free(pieces as u32) as usize;
        if room < pieces || !self.takes(packet.len()) {
            return false;
        }
        let mut frames = Vec::with_capacity(pieces);
        for (number, octets) in octets.enumerate() {
            let Some(mut frame) = pool.take() else { break };
            let fits = frame.set_range(0, octets.len());
            if fits {
                frame.packet_mut().copy_from_slice(octets);
            }
            let descriptor = self.memory.descriptor(&frame).filter(|_| fits);
            frames.push(frame);
            let (Some(mut descriptor), Some(slot)) = (descriptor, self.scratch.get_mut(number)) else {
                break;
            };
            // All but the last say that there is more.
            descriptor.set_options(if number + 1 < pieces { XDP_PKT_CONTD } else { 0 });
            *slot = descriptor;
        }
        if frames.len() < pieces {
            pool.put_all(&mut frames);
            return false;
        }
        // SAFETY: the frames were taken out of the pool and are given up here. There is room for all.
        self.sent += unsafe { self.tx.produce(self.scratch.get(..pieces).unwrap_or_default()) };
        frames.iter().for_each(|frame| self.lent.enter(frame));
        true
    }

    /// Whether a packet of such a length can be sent, in several frames or in one.
    fn takes(&self, len: usize) -> bool {
        len <= self.memory.piece() || self.memory.takes_chains() && len <= LARGE_FRAME
    }

    /// Whether the ring takes such a packet at all.
    pub fn fits(&self, frame: &Frame) -> bool {
        self.takes(frame.len())
    }

    /// Makes the kernel send what is in the TX ring. With copies it takes some packets at a time, so it is told until it
    /// has taken all, or takes no more.
    pub fn kick(&mut self) {
        let mut free = self.tx.nb_free_exact();
        while free < RING && self.tx.needs_wakeup() {
            // What it may say (busy, out of buffers, link down) ends in no progress.
            let _ = self.tx.wakeup();
            let now = self.tx.nb_free_exact();
            if now == free {
                break;
            }
            free = now;
        }
    }

    /// Whether packets wait in the TX ring.
    pub fn unsent(&mut self) -> bool {
        self.tx.nb_free_exact() < RING
    }

    /// Takes back frames that were sent.
    pub fn complete(&mut self, pool: &mut FramePool) {
        loop {
            // SAFETY: descriptors of the same UMEM as the ring's are written, none is read.
            let count = unsafe { self.completion.consume(&mut self.scratch) };
            self.sent = self.sent.saturating_sub(count);
            for descriptor in self.scratch.iter().take(count) {
                if !self.lent.take(descriptor.addr()) {
                    continue;
                }
                // SAFETY: the kernel has sent this frame and let go of it, and nobody else had it since it was lent.
                if let Some(frame) = unsafe { self.memory.frame(descriptor.addr(), 0) } {
                    pool.put(frame);
                }
            }
            if count < STEP {
                return;
            }
        }
    }

    /// Gives the kernel frames to receive into, up to `target` in all.
    pub fn refill(&mut self, target: usize, pool: &mut FramePool) {
        while self.filled < target.min(RING as usize) {
            let wanted = (target.min(RING as usize) - self.filled).min(STEP);
            let room = (self.fill.nb_free(wanted as u32) as usize).min(wanted);
            let mut count = 0;
            for slot in self.scratch.iter_mut().take(room) {
                let Some(frame) = pool.take() else { break };
                let Some(descriptor) = self.memory.empty_descriptor(&frame) else { continue };
                self.lent.enter(&frame);
                *slot = descriptor;
                count += 1;
            }
            if count == 0 {
                break;
            }
            // SAFETY: the frames were taken out of the pool and are given up here. There is room for all.
            self.filled += unsafe { self.fill.produce(self.scratch.get(..count).unwrap_or_default()) };
        }
    }

    /// Has the driver work on this core when we ask for packets, and not by interrupts, as long as we ask often enough
    /// (preferred busy polling, Linux 5.11): `for_long` at a time, [`STEP`] packets at most.
    pub fn busy_poll(&mut self, for_long: Duration) -> Result<(), SocketError> {
        let micros = libc::c_int::try_from(for_long.as_micros()).unwrap_or(libc::c_int::MAX);
        for (option, value) in [
            (libc::SO_PREFER_BUSY_POLL, 1),
            (libc::SO_BUSY_POLL, micros),
            (libc::SO_BUSY_POLL_BUDGET, STEP as libc::c_int),
        ] {
            let len = size_of::<libc::c_int>() as libc::socklen_t;
            // SAFETY: the kernel reads `len` octets, all of `value`.
            let failed = unsafe {
                libc::setsockopt(
                    self.rx.fd().as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    (&raw const value).cast(),
                    len,
                )
            } != 0;
            if failed {
                return Err(SocketError::BusyPoll(io::Error::last_os_error()));
            }
        }
        self.busy_polls = true;
        Ok(())
    }

    /// Wakes a driver that sleeps until it is told that the fill ring has frames again, or has it work.
    pub fn wake_receiver(&mut self) {
        if self.busy_polls {
            // What it may say (nothing is there, link down) changes nothing.
            let _ = nix::sys::socket::recv(
                self.rx.fd().as_raw_fd(),
                &mut [],
                nix::sys::socket::MsgFlags::MSG_DONTWAIT,
            );
            return;
        }
        if self.fill.needs_wakeup() {
            // What it may say (interrupted, link down) changes nothing: the next round tells it again.
            let _ = self.rx.poll(0);
        }
    }

    /// A way to ask what the kernel counts, from any thread and at any time.
    pub fn probe(&self) -> SocketProbe {
        SocketProbe(Arc::downgrade(&self.probed))
    }
}

/// What tells a socket's [`SocketStatistics`].
#[derive(Debug)]
pub struct SocketProbe(Weak<OwnedFd>);

impl SocketProbe {
    /// Whether the kernel still has it bound: not after its interface has gone.
    pub fn is_bound(&self) -> bool {
        let Some(fd) = self.0.upgrade() else { return false };
        // It stays pending until it is asked for, and then the socket is closed.
        nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::SocketError)
            .is_ok_and(|error| error == 0)
    }

    /// What the kernel has counted.
    pub fn statistics(&self) -> io::Result<SocketStatistics> {
        let fd = self.0.upgrade().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        let mut counts = libc::xdp_statistics {
            rx_dropped: 0,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: 0,
            rx_fill_ring_empty_descs: 0,
            tx_ring_empty_descs: 0,
        };
        let mut len = size_of_val(&counts) as libc::socklen_t;
        let (fd, to) = (fd.as_raw_fd(), (&raw mut counts).cast());
        // SAFETY: the kernel writes at most `len` octets to `counts`, all of whose values are numbers.
        let failed =
            unsafe { libc::getsockopt(fd, libc::SOL_XDP, libc::XDP_STATISTICS, to, &raw mut len) } != 0;
        if failed {
            return Err(io::Error::last_os_error());
        }
        Ok(SocketStatistics {
            rx_dropped: counts.rx_dropped,
            rx_ring_full: counts.rx_ring_full,
            rx_fill_ring_empty: counts.rx_fill_ring_empty_descs,
            tx_invalid: counts.tx_invalid_descs,
        })
    }
}

impl Chain {
    fn begin(pool: &mut FramePool) -> Self {
        let Some(mut frame) = pool.take_large() else { return Self::Lost };
        if frame.set_range(LARGE_START, LARGE_START) {
            return Self::Into(frame);
        }
        pool.put(frame);
        Self::Lost
    }

    /// With the octets of the next frame behind it.
    fn with(self, piece: &Frame, pool: &mut FramePool) -> Self {
        let Self::Into(mut whole) = self else { return Self::Lost };
        let from = whole.len();
        if !whole.push_back(piece.len()) {
            pool.put(whole);
            return Self::Lost;
        }
        if let Some(room) = whole.packet_mut().get_mut(from..) {
            room.copy_from_slice(piece.packet());
        }
        Self::Into(whole)
    }
}

type Parts = (TxQueue, RxQueue, Option<(FillQueue, CompQueue)>);

impl SocketError {
    /// Whether another try with [`CopyMode::Copy`], on a memory of its own, may do.
    pub fn wants_copies(&self) -> bool {
        let Self::Bind { source, .. } = self else { return false };
        matches!(source.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::EPROTONOSUPPORT))
    }
}

/// Fewer system calls per packet. A kernel that does not know of it keeps to its 32.
fn allow_tx_budget(fd: i32) {
    const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
    let (budget, len) = (TX_BUDGET, size_of::<u32>() as libc::socklen_t);
    // SAFETY: the kernel reads `len` octets, all of `budget`.
    let _ = unsafe {
        libc::setsockopt(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, (&raw const budget).cast(), len)
    };
}

/// What the kernel says of a bound socket (`XDP_OPTIONS`): one that shares another's memory has that one's mode, whatever
/// it asked for.
fn actual_mode(fd: i32) -> Option<CopyMode> {
    const XDP_OPTIONS: libc::c_int = 8;
    const XDP_OPTIONS_ZEROCOPY: u32 = 1;
    let mut options = 0_u32;
    let mut len = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` octets, all of `options`.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_XDP,
            XDP_OPTIONS,
            (&raw mut options).cast::<libc::c_void>(),
            &raw mut len,
        )
    };
    let mode = if options & XDP_OPTIONS_ZEROCOPY == 0 { CopyMode::Copy } else { CopyMode::ZeroCopy };
    (result == 0).then_some(mode)
}
