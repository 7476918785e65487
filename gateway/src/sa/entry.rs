//! What the table holds: one direction of an SA each, laid out for the worker that reads it.
//!
//! No pointers inside, so that an entry may lie anywhere. What tells what a packet's SA is, is the entry itself: one cache
//! line, the head, and the table has them side by side. The body lies elsewhere: outer addresses, then the key; what
//! workers write (the replay window, the sequence counter, the counts) has cache lines of its own, apart from what they
//! only read. The table wipes an entry's octets when it frees it.
//!
//! Octets of an SA: 64 and 3,584 inbound, 64 and 1,536 outbound. The lines of them that a packet touches: one of the head, one
//! of addresses, two of selectors where the flow is not remembered, two of counts and window (outbound, of counts and
//! numbers, one), and of the key ([`Key::needed`]):
//!
//! | octets of text | lines of the key |
//! |---|---|
//! | up to 32 | 5: four powers of H, and the round keys |
//! | up to 96 | 6 |
//! | up to 160 | 7 |
//! | more | 8: all |

use std::fmt;
use std::ops::{Deref, Range};

use portcullis_aead::{Engine, Key};
use portcullis_ipsec::{
    Encapsulation, EspAlgorithm, EspKey, InboundSa, InstallError, Mode, MssClamp, OutboundSa, SaOptions, Spi,
    TenantId, TrafficSelector, TunnelEndpoints, UsageLimits,
};

use super::endpoints::MovableEndpoints;
use super::place::{Anchor, Slotted, Whole};
use super::replay::ReplayWindow;
use super::selectors::{Selectors, Side};
use super::sequence::SequenceCounter;
use crate::coarse::Coarse;
use crate::drop::DropReason;
use crate::events::EventBoard;
use crate::limiter::LimiterIndex;
use crate::pmtu::PathMtu;
use crate::prefetch;
use crate::sync::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use crate::wire::FlowKey;

pub use super::selectors::MAX_SELECTORS;

/// An SA that we receive on. Leads to its [body](InboundBody).
#[repr(C, align(64))]
pub struct Inbound {
    anchor: Anchor,
    /// The SA's own SPI, chosen here.
    pub spi: Spi,
    /// Whose address space the inner packets belong to.
    pub tenant: TenantId,
    /// Its slot, by which the event board knows the pair.
    pub(crate) slot: u32,
    salt: [u8; 4],
    algorithm: EspAlgorithm,
    /// 64-bit sequence numbers.
    pub esn: bool,
    /// Whether there is anything to do but to take the tunnel off: any of the following.
    pub special: bool,
    /// Transport mode.
    pub transport: bool,
    /// The outer DSCP becomes the inner one.
    pub copy_dscp: bool,
    /// A selector names ports that cannot be seen ([`PortRange::OPAQUE`](portcullis_ipsec::PortRange::OPAQUE)).
    pub opaque: bool,
    /// What limits its rate, as a word; 0 is nothing.
    limiter: AtomicU32,
}

/// What of an [`Inbound`] SA is not needed to tell which it is.
#[repr(C, align(64))]
pub struct InboundBody {
    /// Where it is expected from.
    pub endpoints: MovableEndpoints,
    key: Key,
    selectors: Selectors,
    limits: Limits,
    /// Limit of the TCP segment size that comes out of the tunnel.
    pub mss_clamp: MssClamp,
    received: Received,
}

/// What changes with every run of packets: what has been delivered, and what has been received. What a window of 64
/// needs of it is two lines.
#[repr(C, align(64))]
struct Received {
    traffic: Traffic,
    replay: ReplayWindow,
}

/// An SA that we send on. Leads to its [body](OutboundBody).
#[repr(C, align(64))]
pub struct Outbound {
    anchor: Anchor,
    /// The peer's SPI.
    pub spi: Spi,
    /// The inbound SPI that names the pair.
    pub pair: Spi,
    /// The pair's slot in the inbound table, by which the event board knows it.
    pub(crate) slot: u32,
    salt: [u8; 4],
    algorithm: EspAlgorithm,
    /// 64-bit sequence numbers.
    pub esn: bool,
    /// The worker that seals and sends, plus one; 0 is none yet. Written once.
    owner: AtomicU16,
    /// Whether its options are not the default ones.
    pub special: bool,
    /// What limits its rate, as a word; 0 is nothing.
    limiter: AtomicU32,
    /// What is known of the way to the peer.
    pub path_mtu: PathMtu,
}

/// What of an [`Outbound`] SA is not needed to tell which it is.
#[repr(C, align(64))]
pub struct OutboundBody {
    /// The outer addresses to write.
    pub endpoints: MovableEndpoints,
    key: Key,
    selectors: Selectors,
    limits: Limits,
    /// How its packets are treated.
    pub options: SaOptions,
    sent: Sent,
}

/// What changes with every run of packets, together: one worker at a time sends on an SA.
#[repr(C, align(64))]
struct Sent {
    sequence: SequenceCounter,
    traffic: Traffic,
}

impl Inbound {
    pub(crate) fn new(
        engine: &Engine,
        spi: Spi,
        slot: u32,
        sa: &InboundSa,
    ) -> Result<Whole<Self>, InstallError> {
        let replay = ReplayWindow::new(sa.replay_window)
            .ok_or_else(|| invalid("replay_window", sa.replay_window, "0, or 64 to 8192 packets"))?;
        check_endpoints(sa.endpoints)?;
        let options = sa.options;
        let (transport, copy_dscp) = (options.mode == Mode::Transport, options.copy_dscp.inwards());
        let selectors = Selectors::new(&sa.local_ts, &sa.remote_ts)?;
        let opaque = selectors.any_opaque();
        let head = Self {
            anchor: Anchor::adrift(),
            spi,
            tenant: sa.tenant,
            slot,
            salt: sa.key.salt(),
            algorithm: sa.key.algorithm(),
            esn: sa.esn,
            special: transport | copy_dscp | opaque | (options.mss_clamp != MssClamp::Off),
            transport,
            copy_dscp,
            opaque,
            limiter: AtomicU32::new(0),
        };
        let body = InboundBody {
            endpoints: MovableEndpoints::new(sa.endpoints),
            key: expand(engine, &sa.key)?,
            selectors,
            limits: Limits::none(),
            mss_clamp: options.mss_clamp,
            received: Received { traffic: Traffic::new(slot, true), replay },
        };
        Ok(Whole::new(head, body))
    }

    /// Asks for what a packet with so many octets of text needs of the body ([`prefetch`] says when).
    #[inline]
    pub fn prefetch(&self, octets: usize) {
        let body = self.body();
        prefetch::start(&body.endpoints);
        prefetch::part(&body.key, Key::needed(octets));
        prefetch::part(&body.selectors, Selectors::FIRST);
        prefetch::start(&body.received);
    }

    /// The expanded cipher key.
    #[inline]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The first four octets of every nonce.
    #[inline]
    pub fn salt(&self) -> [u8; 4] {
        self.salt
    }

    /// The algorithm.
    pub fn algorithm(&self) -> EspAlgorithm {
        self.algorithm
    }

    /// What has been received.
    #[inline]
    pub fn replay(&self) -> &ReplayWindow {
        &self.received.replay
    }

    /// What has been delivered.
    #[inline]
    pub fn traffic(&self) -> &Traffic {
        &self.received.traffic
    }

    /// How much it may carry.
    #[inline]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Limits what is counted from now on.
    pub(crate) fn limit(&self, limits: &UsageLimits) {
        self.limits.set(limits);
        self.received.traffic.limited.store(*limits != UsageLimits::default(), Ordering::Release);
    }

    /// What limits its rate.
    #[inline]
    pub(crate) fn limiter(&self) -> Option<LimiterIndex> {
        // Relaxed: what it names was there before, and a batch more or less at the old rate is none the worse.
        LimiterIndex::from_word(self.limiter.load(Ordering::Relaxed))
    }

    /// Has its rate limited by this, or by nothing.
    pub(crate) fn set_limiter(&self, limiter: Option<LimiterIndex>) {
        self.limiter.store(limiter.map_or(0, LimiterIndex::word), Ordering::Relaxed);
    }

    /// Whether a decrypted packet may have come through this SA (RFC 4301 §5.2).
    #[inline]
    pub fn permits(&self, inner: &FlowKey) -> bool {
        self.selectors.permit(Side::Remote, inner)
    }

    /// What a decrypted packet's destination must match.
    pub fn local_ts(&self) -> Vec<TrafficSelector> {
        self.selectors.list(Side::Local)
    }

    /// What a decrypted packet's source must match.
    pub fn remote_ts(&self) -> Vec<TrafficSelector> {
        self.selectors.list(Side::Remote)
    }
}

impl Outbound {
    pub(crate) fn new(
        engine: &Engine,
        pair: Spi,
        slot: u32,
        sequence: SequenceCounter,
        sa: &OutboundSa,
    ) -> Result<Whole<Self>, InstallError> {
        check_endpoints(sa.endpoints)?;
        let head = Self {
            anchor: Anchor::adrift(),
            spi: sa.spi,
            pair,
            slot,
            salt: sa.key.salt(),
            algorithm: sa.key.algorithm(),
            esn: sa.esn,
            owner: AtomicU16::new(0),
            special: sa.options != SaOptions::default(),
            limiter: AtomicU32::new(0),
            path_mtu: PathMtu::unknown(),
        };
        let body = OutboundBody {
            endpoints: MovableEndpoints::new(sa.endpoints),
            key: expand(engine, &sa.key)?,
            selectors: Selectors::new(&sa.local_ts, &sa.remote_ts)?,
            limits: Limits::none(),
            options: sa.options,
            sent: Sent { sequence, traffic: Traffic::new(slot, false) },
        };
        Ok(Whole::new(head, body))
    }

    /// The worker that alone seals and sends on this SA, so that its packets leave in the order of their numbers: the first
    /// that asks, for as long as the SA lives.
    #[inline]
    pub fn owner(&self, worker: u16) -> u16 {
        // Relaxed: nothing else is communicated, and a single location has one order of changes.
        match self.owner.load(Ordering::Relaxed) {
            0 => self.claim(worker),
            owner => owner - 1,
        }
    }

    #[cold]
    fn claim(&self, worker: u16) -> u16 {
        let claimed =
            self.owner.compare_exchange(0, worker.saturating_add(1), Ordering::Relaxed, Ordering::Relaxed);
        claimed.map_or_else(|owner| owner - 1, |_| worker)
    }

    /// Takes `n` sequence numbers, once for a run of packets, and raises the pair's soft or hard limit when they
    /// come to it. A number that is not used is lost, never used later.
    #[inline]
    pub fn reserve(&self, n: u32, events: &EventBoard) -> Result<Range<u64>, DropReason> {
        match self.sent.sequence.reserve(n) {
            Ok(reservation) => {
                if reservation.crossed_soft_limit {
                    events.soft_limit(self);
                }
                Ok(reservation.numbers)
            }
            Err(exhausted) => {
                if exhausted.first {
                    events.hard_limit(self);
                }
                Err(DropReason::SequenceExhausted)
            }
        }
    }

    /// Asks for what a packet with so many octets of text needs of the body ([`prefetch`] says when).
    #[inline]
    pub fn prefetch(&self, octets: usize) {
        let body = self.body();
        prefetch::start(&body.endpoints);
        prefetch::part(&body.key, Key::needed(octets));
        prefetch::part(&body.selectors, Selectors::FIRST);
        prefetch::start(&body.sent);
    }

    /// The expanded cipher key.
    #[inline]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The first four octets of every nonce.
    #[inline]
    pub fn salt(&self) -> [u8; 4] {
        self.salt
    }

    /// The algorithm.
    pub fn algorithm(&self) -> EspAlgorithm {
        self.algorithm
    }

    /// What has been sealed.
    #[inline]
    pub fn traffic(&self) -> &Traffic {
        &self.sent.traffic
    }

    /// How much it may carry.
    #[inline]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Limits what is counted from now on.
    pub(crate) fn limit(&self, limits: &UsageLimits) {
        self.limits.set(limits);
        self.sent.traffic.limited.store(*limits != UsageLimits::default(), Ordering::Release);
    }

    /// What limits its rate.
    #[inline]
    pub(crate) fn limiter(&self) -> Option<LimiterIndex> {
        // Relaxed: what it names was there before, and a batch more or less at the old rate is none the worse.
        LimiterIndex::from_word(self.limiter.load(Ordering::Relaxed))
    }

    /// Has its rate limited by this, or by nothing.
    pub(crate) fn set_limiter(&self, limiter: Option<LimiterIndex>) {
        self.limiter.store(limiter.map_or(0, LimiterIndex::word), Ordering::Relaxed);
    }

    /// The next sequence number.
    pub fn next_sequence(&self) -> u64 {
        self.sent.sequence.next()
    }

    /// Whether an inner packet may go through this SA: it was perhaps negotiated for less than the policy says.
    #[inline]
    pub fn permits(&self, inner: &FlowKey) -> bool {
        self.selectors.permit(Side::Local, inner)
    }

    /// What an inner packet's source must match.
    pub fn local_ts(&self) -> Vec<TrafficSelector> {
        self.selectors.list(Side::Local)
    }

    /// What an inner packet's destination must match.
    pub fn remote_ts(&self) -> Vec<TrafficSelector> {
        self.selectors.list(Side::Remote)
    }
}

impl Deref for Inbound {
    type Target = InboundBody;

    #[inline(always)]
    fn deref(&self) -> &InboundBody {
        self.body()
    }
}

impl Deref for Outbound {
    type Target = OutboundBody;

    #[inline(always)]
    fn deref(&self) -> &OutboundBody {
        self.body()
    }
}

#[expect(unsafe_code, reason = "promises about the layout above")]
mod slotted {
    use std::ops::Range;

    use super::{Inbound, InboundBody, Outbound, OutboundBody, ReplayWindow, Slotted};

    // SAFETY: `repr(C)`, the anchor first and never used, no `Drop`; made for `Whole` above. A new replay window is blank
    // behind its first line, and what is written of it is what it uses.
    unsafe impl Slotted for Inbound {
        type Body = InboundBody;

        #[cfg(not(loom))]
        const BLANK: Range<usize> = {
            let start =
                std::mem::offset_of!(InboundBody, received) + std::mem::offset_of!(super::Received, replay);
            start + ReplayWindow::HEAD..start + size_of::<ReplayWindow>()
        };
        #[cfg(loom)]
        const BLANK: Range<usize> = 0..0;

        fn written(&self) -> usize {
            self.replay().octets_in_use().saturating_sub(ReplayWindow::HEAD)
        }
    }

    // SAFETY: `repr(C)`, the anchor first and never used, no `Drop`; made for `Whole` above.
    unsafe impl Slotted for Outbound {
        type Body = OutboundBody;
    }
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inbound({}, {}, …)", self.spi, self.algorithm)
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outbound({}, {}, …)", self.spi, self.algorithm)
    }
}

fn expand(engine: &Engine, key: &EspKey) -> Result<Key, InstallError> {
    crate::esp::expand(engine, key)
        .ok_or_else(|| invalid("algorithm", key.algorithm(), "one that the engine has"))
}

/// Packets and octets, and when last. Counted by any number of workers, once per batch and SA.
#[derive(Debug)]
pub struct Traffic {
    packets: AtomicU64,
    bytes: AtomicU64,
    /// Seconds, plus one; 0 is never.
    last: AtomicU64,
    /// The pair's slot, by which the event board knows it.
    slot: u32,
    /// Of an inbound SA.
    inbound: bool,
    /// Whether it has any [`Limits`], which are on another line.
    limited: AtomicBool,
}

/// Counts at which an SA is to be rekeyed and must end; never is `u64::MAX`.
#[derive(Debug)]
pub struct Limits {
    soft_packets: AtomicU64,
    hard_packets: AtomicU64,
    soft_bytes: AtomicU64,
    hard_bytes: AtomicU64,
}

impl Limits {
    fn none() -> Self {
        let never = || AtomicU64::new(u64::MAX);
        Self { soft_packets: never(), hard_packets: never(), soft_bytes: never(), hard_bytes: never() }
    }

    fn set(&self, limits: &UsageLimits) {
        for (limit, value) in [
            (&self.soft_packets, limits.soft_packets),
            (&self.hard_packets, limits.hard_packets),
            (&self.soft_bytes, limits.soft_bytes),
            (&self.hard_bytes, limits.hard_bytes),
        ] {
            // Relaxed: a count that comes a moment earlier may miss it by as much.
            limit.store(value.unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// What a count has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Milestones {
    /// The pair's slot.
    pub(crate) slot: u32,
    /// The first packet of an inbound SA.
    pub(crate) first: bool,
    /// A soft limit.
    pub(crate) soft: bool,
    /// A hard limit.
    pub(crate) hard: bool,
}

impl Traffic {
    /// Of an SA of the pair whose inbound half has that slot.
    pub(crate) fn new(slot: u32, inbound: bool) -> Self {
        Self {
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            last: AtomicU64::new(0),
            slot,
            inbound,
            limited: AtomicBool::new(false),
        }
    }

    /// Counts a batch of the SA with these limits: inner packets and their octets. Each milestone is told once.
    #[inline]
    pub(crate) fn count(&self, limits: &Limits, packets: u64, bytes: u64, now: Coarse) -> Milestones {
        let packets_before = self.packets.fetch_add(packets, Ordering::Relaxed);
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let now = u64::from(now.0) + 1;
        if self.last.load(Ordering::Relaxed) < now {
            self.last.fetch_max(now, Ordering::Relaxed);
        }
        let first = self.inbound & (packets_before == 0);
        let mut reached = Milestones { slot: self.slot, first, soft: false, hard: false };
        if self.limited.load(Ordering::Relaxed) {
            let passes = |limit: &AtomicU64, before: u64, counted: u64| {
                let limit = limit.load(Ordering::Relaxed);
                before < limit && limit - before <= counted
            };
            reached.soft = passes(&limits.soft_packets, packets_before, packets)
                | passes(&limits.soft_bytes, bytes_before, bytes);
            reached.hard = passes(&limits.hard_packets, packets_before, packets)
                | passes(&limits.hard_bytes, bytes_before, bytes);
        }
        reached
    }

    /// The counts now.
    pub fn read(&self) -> TrafficCounts {
        let last = self.last.load(Ordering::Relaxed).checked_sub(1);
        TrafficCounts {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            last: last.map(|seconds| Coarse(seconds as u32)),
        }
    }
}

/// What one direction has carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrafficCounts {
    /// Inner packets.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
    /// When the last one was; `None` if none was.
    pub last: Option<Coarse>,
}

/// Refuses outer addresses that no packet could have.
pub(crate) fn check_endpoints(endpoints: TunnelEndpoints) -> Result<(), InstallError> {
    let TunnelEndpoints { local, remote, encapsulation } = endpoints;
    if local.is_ipv4() != remote.is_ipv4() {
        let found = format_args!("{local} and {remote}");
        return Err(invalid("endpoints", found, "two addresses of one family"));
    }
    for (field, addr) in [("endpoints.local", local), ("endpoints.remote", remote)] {
        if addr.is_unspecified() || addr.is_multicast() {
            return Err(invalid(field, addr, "a unicast address"));
        }
    }
    match encapsulation {
        Encapsulation::Udp { local_port: 0, .. } | Encapsulation::Tcp { local_port: 0, .. } => {
            Err(invalid("endpoints.local_port", 0, "1 to 65535"))
        }
        Encapsulation::Udp { remote_port: 0, .. } | Encapsulation::Tcp { remote_port: 0, .. } => {
            Err(invalid("endpoints.remote_port", 0, "1 to 65535"))
        }
        Encapsulation::Udp { .. } | Encapsulation::Tcp { .. } | Encapsulation::None => Ok(()),
    }
}

pub(crate) fn invalid(field: &'static str, found: impl fmt::Display, expected: &'static str) -> InstallError {
    InstallError::InvalidParameter { field, found: found.to_string(), expected }
}

// A head is a line, and what workers only read of a body ends before what they write begins, a cache line each.
#[cfg(not(loom))]
const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Inbound>() == 64 && size_of::<Outbound>() == 64);
    assert!(align_of::<InboundBody>() >= 64 && align_of::<OutboundBody>() >= 64);
    assert!(offset_of!(InboundBody, key) == 128 && offset_of!(OutboundBody, key) == 128);
    assert!(offset_of!(InboundBody, received) % 64 == 0 && offset_of!(OutboundBody, sent) % 64 == 0);
    assert!(size_of::<Sent>() == 64);
    assert!(size_of::<Received>() <= 2048 + 64);
    assert!(size_of::<InboundBody>() == 3584 && size_of::<OutboundBody>() == 1536);
};
