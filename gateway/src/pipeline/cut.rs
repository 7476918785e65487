//! Fragmentation of sealed packets (RFC 4303 §3.3.4): the sender of the outer packet is us, so both families may be cut.

use super::fragment::{MAX_PIECES, Pieces, fragment};
use super::{Context, FrameSource, SPARE_START, SPARE_TAIL, egress};
use crate::drop::{DropReason, WorkerCounters};
use crate::frame::Frame;
use crate::route::NextHop;
use crate::wire::{self, ETHERNET_HEADER_LEN, Fragment, IPV6_HEADER_LEN, Ipv4, protocol};

/// Octets of IPv6's fragment header (RFC 8200 §4.5).
const FRAGMENT_HEADER_LEN: usize = 8;

/// Sends a sealed packet, whose frame has an Ethernet header, in pieces that the way to the peer takes. `limit` is its MTU.
#[cold]
pub(super) fn send_in_pieces(context: &mut Context<'_>, mut frame: Frame, limit: usize, hop: &NextHop) {
    if !frame.pull_front(ETHERNET_HEADER_LEN) {
        return context.drop(frame, DropReason::Malformed);
    }
    let mut pieces = Pieces::new();
    pieces.push(frame);
    match cut(&mut pieces, limit, context.spare) {
        Ok(()) => {
            WorkerCounters::add(&context.counters.generated, pieces.len().saturating_sub(1) as u64);
            for piece in pieces {
                egress::send(context, piece, *hop);
            }
        }
        Err(reason) => {
            context.counters.count_drop(reason);
            context.out.recycled.extend(pieces.drain(..));
        }
    }
}

/// Cuts the packet in the first and only frame of `pieces`, as [`fragment`] does, whatever its version and its DF.
fn cut(pieces: &mut Pieces, limit: usize, spare: &mut dyn FrameSource) -> Result<(), DropReason> {
    let Some(packet) = pieces.first_mut().map(Frame::packet_mut) else { return Ok(()) };
    if packet.first().is_some_and(|first| first >> 4 == 6) {
        return fragment_v6(pieces, limit, spare);
    }
    // It may be cut again on the way.
    let header = Ipv4::parse(packet)?;
    let may_be_cut = Ipv4 { dont_fragment: false, ..header };
    let options = packet.get(wire::IPV4_HEADER_LEN..header.header_len).unwrap_or_default();
    let octets = may_be_cut.write(options);
    *packet.first_chunk_mut().ok_or(DropReason::Malformed)? = octets;
    fragment(pieces, limit, spare)
}

/// RFC 8200 §4.5: the headers in front of ESP go into every piece, with a fragment header behind them.
fn fragment_v6(pieces: &mut Pieces, limit: usize, spare: &mut dyn FrameSource) -> Result<(), DropReason> {
    let Some(original) = pieces.first() else { return Ok(()) };
    let packet = original.packet();
    let (_, info) = wire::read(packet)?;
    let (header_len, total) = (info.header_len(), info.total_len());
    let upper = wire::chain(packet).find(|link| link.at == header_len).ok_or(DropReason::Malformed)?;
    // A fragment header of its sender's is there already (RFC 6946), and there may be but one.
    let has_one = wire::chain(packet).any(|link| link.protocol == protocol::FRAGMENT);
    let room = limit.saturating_sub(header_len + FRAGMENT_HEADER_LEN) & !7;
    let payload_len = total.saturating_sub(header_len);
    if has_one || info.fragment() != Fragment::Whole || room == 0 || payload_len.div_ceil(room) > MAX_PIECES {
        return Err(DropReason::TooBig);
    }
    let id = identification(packet.get(header_len..).unwrap_or_default(), upper.protocol);
    for from in (room..payload_len).step_by(room) {
        let mut piece = spare.take_for(SPARE_START + limit + SPARE_TAIL).ok_or(DropReason::NoFrame)?;
        let to = (from + room).min(payload_len);
        let written = pieces.first().and_then(|original| {
            let payload = original.packet().get(header_len + from..header_len + to)?;
            let at = SPARE_START + header_len + FRAGMENT_HEADER_LEN;
            if !piece.set_range(SPARE_START, at + payload.len()) {
                return None;
            }
            piece.packet_mut().get_mut(..header_len)?.copy_from_slice(original.packet().get(..header_len)?);
            let place = piece.packet_mut().get_mut(header_len + FRAGMENT_HEADER_LEN..)?;
            place.copy_from_slice(payload);
            Some(())
        });
        let more = to < payload_len;
        write_headers(piece.packet_mut(), upper, from, more, id);
        pieces.push(piece);
        written.ok_or(DropReason::NoFrame)?;
    }
    let Some(first) = pieces.first_mut() else { return Ok(()) };
    let end = header_len + room.min(payload_len);
    if !(first.truncate(end) && first.push_front(FRAGMENT_HEADER_LEN)) {
        return Err(DropReason::NoHeadroom);
    }
    first.packet_mut().copy_within(FRAGMENT_HEADER_LEN..FRAGMENT_HEADER_LEN + header_len, 0);
    write_headers(first.packet_mut(), upper, 0, payload_len > room, id);
    Ok(())
}

/// Writes a piece's payload length, and the fragment header that comes where the upper layer's was.
fn write_headers(piece: &mut [u8], upper: wire::Link, from: usize, more: bool, id: u32) {
    let payload_len = piece.len().saturating_sub(IPV6_HEADER_LEN) as u16;
    if let [_, _, _, _, l0, l1, ..] = piece {
        [*l0, *l1] = payload_len.to_be_bytes();
    }
    if let Some(name) = piece.get_mut(upper.named_at) {
        *name = protocol::FRAGMENT;
    }
    let [o0, o1] = ((from as u16) & !7 | u16::from(more)).to_be_bytes();
    let [i0, i1, i2, i3] = id.to_be_bytes();
    if let Some(header) = piece.get_mut(upper.at..upper.at + FRAGMENT_HEADER_LEN) {
        header.copy_from_slice(&[upper.protocol, 0, o0, o1, i0, i1, i2, i3]);
    }
}

/// No other packet between these addresses has it, as far as 32 bits go: SPI and sequence number together.
fn identification(payload: &[u8], upper: u8) -> u32 {
    let esp = if upper == protocol::UDP { payload.get(wire::UDP_HEADER_LEN..) } else { Some(payload) };
    match esp {
        Some(&[s0, s1, s2, s3, q0, q1, q2, q3, ..]) => {
            u32::from_be_bytes([s0, s1, s2, s3]).rotate_left(16) ^ u32::from_be_bytes([q0, q1, q2, q3])
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::Ipv6;

    struct Spares(usize);

    impl FrameSource for Spares {
        fn take(&mut self) -> Option<Frame> {
            self.0 = self.0.checked_sub(1)?;
            Some(Frame::leaked(4096, 0))
        }
    }

    fn packet(extension: bool, payload_len: usize) -> Vec<u8> {
        let options: &[u8] = if extension { &[50, 0, 1, 4, 0, 0, 0, 0] } else { &[] };
        let header = Ipv6 {
            traffic_class: 7,
            flow_label: 99,
            payload_len: options.len() + payload_len,
            next_header: if extension { 0 } else { 50 },
            hop_limit: 3,
            src: "2001:db8::1".parse().unwrap(),
            dst: "2001:db8::2".parse().unwrap(),
        };
        let payload = (0..payload_len).map(|i| (i * 7 % 251) as u8);
        header.write().into_iter().chain(options.iter().copied()).chain(payload).collect()
    }

    fn frame_of(packet: &[u8]) -> Frame {
        let mut frame = Frame::leaked(8192, 128);
        assert!(frame.push_back(packet.len()));
        frame.packet_mut().copy_from_slice(packet);
        frame
    }

    proptest! {
        #[test]
        fn pieces_fit_and_make_the_whole_again(
            payload_len in 16usize..4000, limit in 1280usize..1500, extension: bool,
        ) {
            let original = packet(extension, payload_len);
            let header_len = original.len() - payload_len;
            let mut pieces = Pieces::new();
            pieces.push(frame_of(&original));
            cut(&mut pieces, limit, &mut Spares(20)).unwrap();
            let mut payload = Vec::<u8>::new();
            for (at, piece) in pieces.iter().enumerate() {
                let octets = piece.packet();
                prop_assert!(octets.len() <= limit);
                let header = Ipv6::parse(octets).unwrap();
                prop_assert_eq!(header.total_len(), octets.len());
                let fragment = &octets[header_len..header_len + 8];
                let [offset, more] = [fragment[2..4].to_vec(), vec![u8::from(at + 1 < pieces.len())]];
                prop_assert_eq!(fragment[0], 50);
                let field = u16::from_be_bytes([offset[0], offset[1]]);
                prop_assert_eq!(usize::from(field & !7), payload.len());
                prop_assert_eq!(vec![(field & 1) as u8], more);
                prop_assert_eq!(&fragment[4..], &pieces[0].packet()[header_len + 4..header_len + 8]);
                payload.extend(&octets[header_len + 8..]);
            }
            prop_assert_eq!(payload, &original[header_len..]);
        }
    }

    #[test]
    fn without_spare_frames_every_frame_comes_back() {
        let mut pieces = Pieces::new();
        pieces.push(frame_of(&packet(false, 3000)));
        assert_eq!(cut(&mut pieces, 1280, &mut Spares(1)), Err(DropReason::NoFrame));
        assert_eq!(pieces.len(), 2);
    }
}
