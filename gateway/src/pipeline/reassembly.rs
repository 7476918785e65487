//! Fragments of raw ESP for us, put together before they are opened (RFC 4303 §3.4.1). All of a peer's ESP arrives on one
//! queue, fragments or not, so each worker has its own.
//!
//! Fragments wait in their frames: so many, and so long, at most; the oldest packet goes when there is no room for another.
//! What overlaps ends its whole packet (RFC 5722, and over IPv4 for the same reason), and so does what contradicts itself.
//! Fragments of UDP are the kernel's, since IKE's are among them.

use std::net::IpAddr;

use super::{Context, Output, inbound::Arrival};
use crate::coarse::Coarse;
use crate::drop::{DropReason, WorkerCounters};
use crate::esp;
use crate::frame::Frame;
use crate::wire::{self, IPV4_HEADER_LEN, IPV6_HEADER_LEN, Ipv4, protocol, set_ecn};

/// Fragments that wait at once.
const MOST_PIECES: usize = 128;
/// Of one packet.
const MOST_OF_ONE: usize = 16;
/// Until the last piece must have come. Hosts wait a minute (RFC 8200 §4.5); between gateways, a path is shorter than that.
const SECONDS: u64 = 10;

/// Octets of IPv6's fragment header.
const FRAGMENT_HEADER_LEN: usize = 8;

/// A worker's incomplete packets, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    packets: Vec<Incomplete>,
}

#[derive(Debug)]
struct Incomplete {
    key: Key,
    since: Coarse,
    /// In order of their place, none overlapping another.
    pieces: Vec<(Piece, Frame)>,
}

/// What the fragments of one packet share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
}

/// Where a fragment belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    /// Octets in front of what it carries, IPv6's fragment header included.
    header_len: usize,
    from: usize,
    to: usize,
    more: bool,
    ecn: u8,
}

impl Reassembly {
    /// Fragments that wait.
    pub(super) fn len(&self) -> usize {
        self.packets.iter().map(|packet| packet.pieces.len()).sum()
    }

    /// Gives up what has waited too long.
    pub(super) fn expire(&mut self, now: Coarse, counters: &WorkerCounters, out: &mut Output) {
        while let Some(oldest) = self.packets.first()
            && now.since(oldest.since).as_secs() >= SECONDS
        {
            let expired = self.packets.remove(0);
            expired.give_up(DropReason::FragmentTimeout, counters, out);
        }
    }

    /// Everything, complete or not.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = Frame> + use<> {
        std::mem::take(&mut self.packets).into_iter().flat_map(|packet| packet.pieces).map(|(_, frame)| frame)
    }

    /// Takes a fragment, and gives back the packet that it has completed.
    fn add(&mut self, piece: (Key, Piece), frame: Frame, context: &mut Rest<'_>) -> Option<Frame> {
        let (key, piece) = piece;
        let at = match self.packets.iter().position(|packet| packet.key == key) {
            Some(at) => at,
            None => {
                self.packets.push(Incomplete { key, since: context.now, pieces: Vec::new() });
                self.packets.len() - 1
            }
        };
        let packet = self.packets.get_mut(at)?;
        match packet.insert(piece, frame) {
            Ok(()) => {}
            Err((Refused::Duplicate, frame)) => {
                context.drop(frame, DropReason::OuterFragment);
                return None;
            }
            Err((Refused::Wrong, frame)) => {
                context.drop(frame, DropReason::FragmentOverlap);
                let packet = self.packets.remove(at);
                packet.give_up(DropReason::FragmentOverlap, context.counters, context.out);
                return None;
            }
        }
        if packet.is_complete() {
            return self.packets.remove(at).join(context);
        }
        if self.len() > MOST_PIECES {
            let oldest = self.packets.remove(0);
            oldest.give_up(DropReason::FragmentTimeout, context.counters, context.out);
        }
        None
    }
}

/// What of a pass is needed here beside the packets themselves.
struct Rest<'a> {
    now: Coarse,
    counters: &'a WorkerCounters,
    out: &'a mut Output,
}

impl Rest<'_> {
    fn drop(&mut self, frame: Frame, reason: DropReason) {
        self.counters.count_drop(reason);
        self.out.recycled.push(frame);
    }
}

/// Why a fragment does not go with the others.
enum Refused {
    /// It is there already.
    Duplicate,
    Wrong,
}

impl Incomplete {
    fn insert(&mut self, piece: Piece, frame: Frame) -> Result<(), (Refused, Frame)> {
        let place = |other: &Piece| (other.from, other.to, other.more);
        if self.pieces.iter().any(|(other, _)| place(other) == place(&piece)) {
            return Err((Refused::Duplicate, frame));
        }
        let overlaps = self.pieces.iter().any(|(other, _)| piece.from < other.to && other.from < piece.to);
        let ends = |end: &Piece, other: &Piece| !end.more && other.to > end.to;
        let beyond = self
            .pieces
            .iter()
            .any(|(other, _)| ends(other, &piece) || ends(&piece, other) || (!other.more && !piece.more));
        if overlaps || beyond || self.pieces.len() >= MOST_OF_ONE {
            return Err((Refused::Wrong, frame));
        }
        let at = self.pieces.partition_point(|(other, _)| other.from < piece.from);
        self.pieces.insert(at, (piece, frame));
        Ok(())
    }

    fn is_complete(&self) -> bool {
        let mut reached = 0;
        let gapless =
            self.pieces.iter().all(|(piece, _)| std::mem::replace(&mut reached, piece.to) == piece.from);
        gapless && self.pieces.last().is_some_and(|(last, _)| !last.more)
    }

    /// The whole packet, in the first one's frame.
    fn join(self, context: &mut Rest<'_>) -> Option<Frame> {
        const CE: u8 = 3;
        let marks = || self.pieces.iter().map(|(piece, _)| piece.ecn);
        // RFC 3168 §5.3: one mark marks the whole, but not where a piece's sender knows of no marks.
        let congested = marks().any(|ecn| ecn == CE);
        let nonsense = congested && marks().any(|ecn| ecn == 0);
        let mut pieces = self.pieces.into_iter();
        let (first, mut whole) = pieces.next()?;
        let mut fits = !nonsense;
        for (piece, frame) in pieces {
            let len = whole.len();
            fits = fits && whole.push_back(piece.to - piece.from);
            if let (true, Some(payload)) = (fits, frame.packet().get(piece.header_len..))
                && let Some(place) = whole.packet_mut().get_mut(len..len + payload.len())
            {
                place.copy_from_slice(payload);
            }
            // Its octets have gone on, so it is not lost; but it is a packet less.
            context.drop(frame, DropReason::Reassembled);
        }
        if !fits || unfragment(&mut whole, first.header_len).is_none() {
            let reason = if nonsense { DropReason::EcnNotCapable } else { DropReason::TooBig };
            context.drop(whole, reason);
            return None;
        }
        if congested {
            set_ecn(whole.packet_mut(), CE);
        }
        Some(whole)
    }

    fn give_up(self, reason: DropReason, counters: &WorkerCounters, out: &mut Output) {
        for (_, frame) in self.pieces {
            counters.count_drop(reason);
            out.recycled.push(frame);
        }
    }
}

/// Takes a fragment for us. What it completes is opened with the batch that it came with.
#[cold]
pub(super) fn take(context: &mut Context<'_>, frame: Frame) {
    let Some(piece) = read(frame.packet()).filter(|_| is_ours(context, &frame)) else {
        return context.drop(frame, DropReason::OuterFragment);
    };
    let mut rest = Rest { now: context.now, counters: context.counters, out: &mut *context.out };
    let Some(whole) = context.reassembly.add(piece, frame, &mut rest) else { return };
    let outer = wire::read(whole.packet())
        .and_then(|(flow, info)| esp::parse(whole.packet(), &flow, &info, context.shared.nat_port));
    match outer {
        Ok(outer) => {
            let arrival = Arrival::new(context, outer, 0, None);
            context.again.esp.push(whole, arrival);
        }
        Err(reason) => context.drop(whole, reason),
    }
}

/// Whether it is to one of our tunnel addresses: nobody else's fragments wait here.
fn is_ours(context: &Context<'_>, frame: &Frame) -> bool {
    wire::read(frame.packet()).is_ok_and(|(flow, _)| context.routes.is_tunnel_address(flow.dst()))
}

/// What a fragment of ESP says of its place; `None` if that is not possible.
fn read(packet: &[u8]) -> Option<(Key, Piece)> {
    let (flow, info) = wire::read(packet).ok()?;
    let (id, header_len, from, more) = if flow.is_ipv6() {
        let link = wire::chain(packet).find(|link| link.protocol == protocol::FRAGMENT)?;
        let &[_, _, f0, f1, i0, i1, i2, i3] = packet.get(link.at..)?.first_chunk()?;
        let field = u16::from_be_bytes([f0, f1]);
        let id = u32::from_be_bytes([i0, i1, i2, i3]);
        (id, link.at + FRAGMENT_HEADER_LEN, usize::from(field & !7), field & 1 == 1)
    } else {
        let header = Ipv4::parse(packet).ok()?;
        (header.id.into(), header.header_len, header.fragment_offset, header.more_fragments)
    };
    let len = info.total_len().checked_sub(header_len).filter(|len| *len > 0)?;
    let to = from + len;
    let whole_words = !more || len % 8 == 0;
    let possible = flow.protocol() == protocol::ESP && whole_words && to <= usize::from(u16::MAX);
    let key = Key { src: flow.src(), dst: flow.dst(), id };
    possible.then_some((key, Piece { header_len, from, to, more, ecn: info.tos() & 3 }))
}

/// Makes the first fragment's header that of a whole packet, whose payload follows it already.
fn unfragment(whole: &mut Frame, header_len: usize) -> Option<()> {
    let packet = whole.packet_mut();
    let total = packet.len();
    if packet.first()? >> 4 == 4 {
        // The packet is longer than the first fragment's header says: only that header is looked at.
        let options: Vec<u8> = packet.get(IPV4_HEADER_LEN..header_len)?.to_vec();
        let header = Ipv4::parse(packet).ok()?;
        let header = Ipv4 { total_len: total, more_fragments: false, ..header }.write(&options);
        packet.first_chunk_mut().map(|place| *place = header)
    } else {
        let link = wire::chain(packet).find(|link| link.protocol == protocol::FRAGMENT)?;
        let next = *packet.get(link.at)?;
        *packet.get_mut(link.named_at)? = next;
        let payload_len = (total - IPV6_HEADER_LEN - FRAGMENT_HEADER_LEN) as u16;
        packet.get_mut(4..6)?.copy_from_slice(&payload_len.to_be_bytes());
        packet.copy_within(..link.at, FRAGMENT_HEADER_LEN);
        whole.pull_front(FRAGMENT_HEADER_LEN).then_some(())
    }
}
