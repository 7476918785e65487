//! Every reason for which a worker lets a packet go no further, and the counters that keep the packet balance:
//! received + generated = transmitted + dropped + handed to the kernel + held + in flight.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $label:literal,)*) => {
        /// Why a packet was dropped. The label is stable: `/metrics`, `portcullis drops` and alerts use it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $variant,)* }

        impl DropReason {
            /// Every reason, in order of discriminant.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable label.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

drop_reasons! {
    /// Not IPv4 or IPv6, or a header that contradicts itself.
    Malformed = "malformed",
    /// The IPv4 header's checksum is wrong.
    HeaderChecksum = "header_checksum",
    /// Sent to another host's MAC address, and seen only because the interface is promiscuous.
    OtherHost = "other_host",
    /// Tagged for a VLAN that no device of the host is for.
    UnknownVlan = "unknown_vlan",
    /// An outer fragment of ESP or of UDP-encapsulated ESP that cannot be put together with others, or came twice.
    OuterFragment = "outer_fragment",
    /// An outer fragment of ESP whose others did not come in time, or that had to make room.
    FragmentTimeout = "fragment_timeout",
    /// Outer fragments that overlap (RFC 5722), are too many, or reach beyond their packet's end.
    FragmentOverlap = "fragment_overlap",
    /// An outer fragment that has gone on as a part of the whole packet: nothing is lost.
    Reassembled = "reassembled",
    /// ESP too short for header, IV, trailer and ICV, or its text no multiple of four octets or of the SA's cipher
    /// blocks.
    EspTruncated = "esp_truncated",
    /// No inbound SA has this SPI.
    UnknownSpi = "unknown_spi",
    /// The SA expects the other encapsulation or another of our addresses.
    EncapsulationMismatch = "encapsulation_mismatch",
    /// Seen before.
    Replayed = "replayed",
    /// Older than the replay window.
    ReplayTooOld = "replay_too_old",
    /// The ICV is wrong: tampered with, or another key.
    IntegrityFailed = "integrity_failed",
    /// The padding is not 1, 2, 3, … or longer than the packet.
    BadPadding = "bad_padding",
    /// A next header that tunnel mode does not carry.
    BadNextHeader = "bad_next_header",
    /// A dummy packet (RFC 4303 §2.6).
    Dummy = "dummy",
    /// The decrypted packet is not a whole IP packet.
    InnerMalformed = "inner_malformed",
    /// The decrypted packet lies outside the SA's selectors (RFC 4301 §5.2).
    SelectorMismatch = "selector_mismatch",
    /// Congestion was signalled outside, and the inner packet cannot carry the signal (RFC 6040 §4.2).
    EcnNotCapable = "ecn_not_capable",
    /// Protected traffic, but no SA to seal it with.
    NoSa = "no_sa",
    /// Protected traffic that has asked for an SA (`start_action = "trap"`), while enough packets wait for it already.
    TrapQueueFull = "trap_queue_full",
    /// Protected traffic that has asked for an SA, which did not come up in time.
    TrapTimeout = "trap_timeout",
    /// Handed to a worker, but no policy covers it.
    NoPolicy = "no_policy",
    /// Its policy discards it (RFC 4301 §4.4.1).
    Discarded = "discarded",
    /// The policy's SA was negotiated for narrower selectors.
    OutsideSa = "outside_sa",
    /// A fragment, which transport mode does not protect (RFC 4303 §3.1.1).
    TransportFragment = "transport_fragment",
    /// More than the tunnel may carry in time (`rate_out`).
    RateOut = "rate_out",
    /// More than may come out of the tunnel in time (`rate_in`).
    RateIn = "rate_in",
    /// The outbound SA's sequence numbers are used up.
    SequenceExhausted = "sequence_exhausted",
    /// Too big for the tunnel, and not to be fragmented; the sender was told by ICMP, if that could be.
    TooBig = "too_big",
    /// TTL or hop limit ended here.
    TtlExpired = "ttl_expired",
    /// No route to the destination.
    NoRoute = "no_route",
    /// The route leads out of an interface that no worker sends on.
    NoEgress = "no_egress",
    /// The egress interface is down.
    LinkDown = "link_down",
    /// A decrypted packet that no policy covers would leave in clear by an outside interface.
    ClearToOutside = "clear_to_outside",
    /// Clear text by an outside interface that no policy bypasses, between addresses where one bypasses something else.
    ClearInbound = "clear_inbound",
    /// The neighbour did not answer, or too many packets wait for it.
    NeighbourUnresolved = "neighbour_unresolved",
    /// The ring to the slow path is full.
    KernelQueueFull = "kernel_queue_full",
    /// The ring to the worker that owns the SA is full.
    HandoverFull = "handover_full",
    /// In the hands of a worker when it panicked.
    WorkerPanic = "worker_panic",
    /// The TX ring stayed full.
    TxFull = "tx_full",
    /// Received where nothing of the kind is expected.
    Unexpected = "unexpected",
    /// A frame lacks room for the outer headers.
    NoHeadroom = "no_headroom",
    /// No free frame for a packet that the host sends or a fragment.
    NoFrame = "no_frame",
    /// A decrypted packet went through too many tunnels of ours in a row.
    Loop = "loop",
}

/// Counts of one worker. It alone writes; anyone reads.
#[derive(Debug)]
pub struct WorkerCounters {
    /// Frames taken from RX rings.
    pub received: AtomicU64,
    /// Packets that came from the host through the slow path, and ESP that came to its sockets.
    pub from_kernel: AtomicU64,
    /// Packets made here: ICMP errors, extra fragments.
    pub generated: AtomicU64,
    /// Frames put into TX rings.
    pub transmitted: AtomicU64,
    /// Packets given to the host through the slow path.
    pub to_kernel: AtomicU64,
    /// Packets handed to the worker that owns their SA.
    pub handed_over: AtomicU64,
    /// Packets taken over from others, because this worker owns their SA.
    pub taken_over: AtomicU64,
    /// Packets waiting for a neighbour or an SA now.
    pub held: AtomicU64,
    /// Packets opened.
    pub opened: AtomicU64,
    /// Packets sealed.
    pub sealed: AtomicU64,
    drops: [AtomicU64; DropReason::ALL.len()],
}

impl Default for WorkerCounters {
    fn default() -> Self {
        Self {
            received: AtomicU64::new(0),
            from_kernel: AtomicU64::new(0),
            generated: AtomicU64::new(0),
            transmitted: AtomicU64::new(0),
            to_kernel: AtomicU64::new(0),
            handed_over: AtomicU64::new(0),
            taken_over: AtomicU64::new(0),
            held: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            sealed: AtomicU64::new(0),
            drops: [const { AtomicU64::new(0) }; DropReason::ALL.len()],
        }
    }
}

impl WorkerCounters {
    /// Adds to a counter that only the calling worker writes: a load and a store, no locked instruction.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Counts a drop.
    pub fn count_drop(&self, reason: DropReason) {
        self.count_drops(reason, 1);
    }

    /// Counts several.
    pub fn count_drops(&self, reason: DropReason, packets: u64) {
        if let Some(counter) = self.drops.get(reason as usize) {
            Self::add(counter, packets);
        }
    }

    /// Packets that came and have gone nowhere: those that the worker has in its hands, the held ones included. Less than
    /// none if more went than came, which is a mistake in what counts.
    pub fn in_hands(&self) -> i64 {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let came = [&self.received, &self.from_kernel, &self.generated, &self.taken_over].map(load);
        let gone = [&self.transmitted, &self.to_kernel, &self.handed_over].map(load);
        let gone = gone.iter().sum::<u64>() + self.total_drops();
        came.iter().sum::<u64>().wrapping_sub(gone).cast_signed()
    }

    /// How many packets were dropped for this reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops.get(reason as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// Dropped packets, all reasons together.
    pub fn total_drops(&self) -> u64 {
        DropReason::ALL.iter().map(|&reason| self.drops(reason)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_balance_says_what_is_missing_and_what_is_too_much() {
        let counters = WorkerCounters::default();
        for (counter, packets) in [
            (&counters.received, 9),
            (&counters.generated, 1),
            (&counters.transmitted, 6),
            (&counters.to_kernel, 1),
        ] {
            WorkerCounters::add(counter, packets);
        }
        counters.count_drops(DropReason::NoSa, 2);
        assert_eq!(counters.in_hands(), 1);
        WorkerCounters::add(&counters.transmitted, 3);
        assert_eq!(counters.in_hands(), -2);
    }
}
