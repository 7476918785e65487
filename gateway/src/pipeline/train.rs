//! Trains: packets that follow each other in a batch and of which everything is known to be the same but their lengths.
//!
//! Packets come in trains: a sender's window, a file, a stream of video. So what one packet has been found to be is not
//! found out again for the next if that is its like, and the phases decide once per train. A train of one packet is what
//! every packet is that nothing more is known of, and takes the same way.
//!
//! Why that is right:
//!
//! - A packet joins a train only in [`Head::follow`], in the batch in which its first packet was read, behind no other: so
//!   trains overtake nothing, and what they were found to be is never older than the batch.
//! - It joins if its Ethernet header is the same, octet by octet, and its IP header [alike](PlainHeader): whatever
//!   [`ingress`](super::ingress) asks of the first one (port, destination, tunnel addresses, policies that bypass; of ESP
//!   the SPI) has the same answer for it. That the ESP is whole depends on its length, and is asked of each.
//! - What later phases know of a packet is a [`Clear`](super::Clear) or an [`Arrival`](super::inbound::Arrival). Of a
//!   train's, the total length is the first packet's; that of each is its frame's own ([`Clear::of`](super::Clear::of)).
//!   Of ESP, sequence number and IV are read from each frame.
//! - Whatever depends on a packet's length or number, or changes from packet to packet (MTU, rates, sequence numbers, the
//!   replay window, ICVs, what is inside), is asked of each.
//!
//! `gateway/tests/pipeline_trains.rs` takes the same packets through with and without trains.

use super::BATCH;
use crate::frame::Frame;
use crate::route::PortIndex;
use crate::wire::{ETHERNET_HEADER_LEN, PlainHeader};

/// How many frames ahead of the one that is read the processor is asked for.
pub(super) const AHEAD: usize = 8;

/// So many packets, and what is known of each of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Train<T> {
    pub(super) about: T,
    pub(super) packets: usize,
}

/// Frames, and what is known of the packets in them: two lists that go in step, so that frames change hands and the
/// rest stays where it is.
#[derive(Debug)]
pub(super) struct Packets<T> {
    pub(super) frames: Vec<Frame>,
    pub(super) trains: Vec<Train<T>>,
}

impl<T> Default for Packets<T> {
    fn default() -> Self {
        Self { frames: Vec::with_capacity(BATCH), trains: Vec::with_capacity(BATCH) }
    }
}

impl<T> Packets<T> {
    /// Adds one packet.
    #[inline(always)]
    pub(super) fn push(&mut self, frame: Frame, about: T) {
        self.frames.push(frame);
        self.begin(about);
    }

    /// Begins a train whose one packet is, or will be, the last frame.
    #[inline(always)]
    pub(super) fn begin(&mut self, about: T) {
        self.trains.push(Train { about, packets: 1 });
    }

    /// What is known of the last train's packets.
    #[inline(always)]
    pub(super) fn last(&self) -> Option<&T> {
        self.trains.last().map(|train| &train.about)
    }

    /// Adds packets to the last train.
    #[inline(always)]
    pub(super) fn lengthen(&mut self, packets: usize) {
        if let Some(train) = self.trains.last_mut() {
            train.packets += packets;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn append(&mut self, other: &mut Self) {
        self.frames.append(&mut other.frames);
        self.trains.append(&mut other.trains);
    }

    /// How many trains go through the phases together, and how many packets they are: a batch at most, and at least one
    /// train, since none is longer.
    #[inline(always)]
    pub(super) fn batch(&self) -> (usize, usize) {
        let mut packets = 0;
        let mut within = |train: &Train<T>| {
            packets += train.packets;
            packets <= BATCH
        };
        let trains = self.trains.iter().take_while(|train| within(train)).count();
        let packets = self.trains.iter().take(trains).map(|train| train.packets).sum();
        (trains, packets)
    }
}

/// Train by train: what is known of it, its frames, and what is noted of each of these.
#[inline(always)]
pub(super) fn each<'t, 'f, 'm, T, M>(
    trains: &'t [Train<T>],
    mut frames: &'f mut [Frame],
    mut marks: &'m mut [M],
) -> impl Iterator<Item = (&'t T, &'f mut [Frame], &'m mut [M])> {
    trains.iter().map_while(move |train| {
        let of_train = frames.split_off_mut(..train.packets)?;
        Some((&train.about, of_train, marks.split_off_mut(..train.packets)?))
    })
}

/// The headers of a train's first packet, as they came.
pub(super) struct Head {
    ethernet: [u64; 2],
    ip: PlainHeader,
}

impl Head {
    /// Of a frame that begins with an Ethernet header without tags, behind which [`read_plain`](crate::wire::read_plain)
    /// has read a packet.
    #[inline(always)]
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        let (header, packet) = frame.split_first_chunk()?;
        Some(Self { ethernet: ethernet(header), ip: PlainHeader::of(packet)? })
    }

    /// How many of the frames follow this one in its train, each with a packet of `least` octets or more. The frames of
    /// these hold no more than the packet then.
    #[inline(always)]
    pub(super) fn follow(&self, frames: &mut [Frame], least: usize) -> usize {
        for at in 0..frames.len() {
            if let Some(later) = frames.get(at + AHEAD) {
                later.prefetch();
            }
            let Some(frame) = frames.get_mut(at) else { return at };
            let Some((header, packet)) = frame.packet().split_first_chunk() else { return at };
            let [e0, e1] = ethernet(header);
            let [s0, s1] = self.ethernet;
            let total_len = self.ip.alike(packet).filter(|total_len| *total_len >= least);
            let Some(total_len) = total_len.filter(|_| (e0 ^ s0) | (e1 ^ s1) == 0) else { return at };
            if !frame.narrow(ETHERNET_HEADER_LEN, total_len) {
                return at;
            }
        }
        frames.len()
    }
}

/// An Ethernet header in two words that overlap.
#[inline(always)]
fn ethernet(header: &[u8; ETHERNET_HEADER_LEN]) -> [u64; 2] {
    let word = |octets: Option<&[u8; 8]>| octets.copied().map_or(0, u64::from_ne_bytes);
    [word(header.first_chunk()), word(header.last_chunk())]
}

/// Moves the first `count` frames to the end of another list.
#[inline]
pub(super) fn take(from: &mut Vec<Frame>, count: usize, to: &mut Vec<Frame>) {
    if count == from.len() {
        to.append(from);
    } else {
        to.extend(from.drain(..count.min(from.len())));
    }
}

/// Those of a batch that leave by the port that the first of them leaves by: nearly always all.
#[derive(Default)]
pub(super) struct Straight {
    port: PortIndex,
    packets: usize,
}

impl Straight {
    #[inline(always)]
    pub(super) fn add(&mut self, port: PortIndex, packets: usize) {
        if self.packets == 0 {
            self.port = port;
        }
        self.packets += if self.port == port { packets } else { 0 };
    }

    /// The port, if all of a batch of so many leave by it.
    pub(super) fn whole(&self, batch: usize) -> Option<PortIndex> {
        (self.packets == batch).then_some(self.port)
    }
}
