//! IPv4 fragmentation of packets whose sender allows it (RFC 791 §3.2), before encryption, so that the peer's
//! gateway need not reassemble.

use arrayvec::ArrayVec;

use super::{FrameSource, SPARE_START, SPARE_TAIL};
use crate::drop::DropReason;
use crate::frame::Frame;
use crate::wire::{IPV4_HEADER_LEN, Ipv4};

/// Most pieces of one packet: a packet that fills its frame, through the smallest MTU that makes sense.
pub(super) const MAX_PIECES: usize = 16;

const MAX_OPTIONS: usize = 40;

/// The pieces, in order.
pub(super) type Pieces = ArrayVec<Frame, MAX_PIECES>;

/// Cuts the IPv4 packet in the first and only frame of `pieces` into pieces of at most `limit` octets. The first stays
/// in its frame, the others go into spare ones behind it. On failure the first frame's packet is whole, and any spare
/// frames taken are behind it all the same.
pub(super) fn fragment(
    pieces: &mut Pieces,
    limit: usize,
    spare: &mut dyn FrameSource,
) -> Result<(), DropReason> {
    let Some(original) = pieces.first() else { return Ok(()) };
    let header = Ipv4::parse(original.packet())?;
    let payload_len = header.total_len - header.header_len;
    let first_options = Options::all(original.packet(), &header);
    let later_options = first_options.copied();
    let room = |options: &Options| limit.saturating_sub(IPV4_HEADER_LEN + options.octets.len()) & !7;
    let (first_room, later_room) = (room(&first_options), room(&later_options));
    let later = payload_len.saturating_sub(first_room).div_ceil(later_room.max(1));
    if first_room == 0 || later_room == 0 || 1 + later > MAX_PIECES {
        return Err(DropReason::TooBig);
    }
    for number in 0..later {
        let mut piece = spare.take_for(SPARE_START + limit + SPARE_TAIL).ok_or(DropReason::NoFrame)?;
        let from = first_room + number * later_room;
        let to = (from + later_room).min(payload_len);
        let written = pieces.first().and_then(|original| {
            let payload = original.packet().get(header.header_len + from..header.header_len + to)?;
            let more = to < payload_len;
            write_piece(&mut piece, &header, &later_options, from, more, payload)
        });
        pieces.push(piece);
        written.ok_or(DropReason::NoFrame)?;
    }
    let first = Ipv4 {
        total_len: header.header_len + first_room.min(payload_len),
        more_fragments: header.more_fragments || later > 0,
        ..header
    };
    let octets = first.write(&first_options.octets);
    let original = pieces.first_mut().filter(|_| later > 0);
    let Some(original) = original else { return Ok(()) };
    *original.packet_mut().first_chunk_mut().ok_or(DropReason::Malformed)? = octets;
    if original.truncate(first.total_len) { Ok(()) } else { Err(DropReason::Malformed) }
}

/// Writes a later piece; `from` is where its payload lies in the original's. `None` if the frame is too small.
fn write_piece(
    piece: &mut Frame,
    original: &Ipv4,
    options: &Options,
    from: usize,
    more: bool,
    payload: &[u8],
) -> Option<()> {
    let header_len = IPV4_HEADER_LEN + options.octets.len();
    let header = Ipv4 {
        total_len: header_len + payload.len(),
        fragment_offset: original.fragment_offset + from,
        more_fragments: original.more_fragments || more,
        ..*original
    };
    let fits = piece.set_range(SPARE_START, SPARE_START + header.total_len);
    let written = header.write(&options.octets);
    let octets = written.iter().chain(&options.octets).chain(payload);
    piece.packet_mut().iter_mut().zip(octets).for_each(|(to, from)| *to = *from);
    fits.then_some(())
}

/// A header's options: whole multiples of four octets.
struct Options {
    octets: ArrayVec<u8, MAX_OPTIONS>,
}

impl Options {
    fn all(packet: &[u8], header: &Ipv4) -> Self {
        let octets = packet.get(IPV4_HEADER_LEN..header.header_len).unwrap_or_default();
        Self { octets: octets.iter().copied().take(MAX_OPTIONS).collect() }
    }

    /// Those that every fragment carries: their first bit is set. An option of nonsensical length ends the list.
    fn copied(&self) -> Self {
        const END: u8 = 0;
        const NO_OPERATION: u8 = 1;
        let mut octets = ArrayVec::new();
        let mut rest = self.octets.as_slice();
        while let [kind, after @ ..] = rest {
            if *kind == END {
                break;
            }
            if *kind == NO_OPERATION {
                rest = after;
                continue;
            }
            let len = after.first().map_or(0, |&len| usize::from(len));
            let Some((option, after)) = rest.split_at_checked(len).filter(|_| len >= 2) else { break };
            if kind & 0x80 != 0 {
                octets.extend(option.iter().copied());
            }
            rest = after;
        }
        while octets.len() % 4 != 0 {
            octets.push(END);
        }
        Self { octets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Spares(usize, usize);

    impl FrameSource for Spares {
        fn take(&mut self) -> Option<Frame> {
            self.0 = self.0.checked_sub(1)?;
            Some(Frame::leaked(self.1, 0))
        }
    }

    fn packet(options: &[u8], offset: usize, more: bool, payload_len: usize) -> Vec<u8> {
        let header = Ipv4 {
            header_len: 20 + options.len(),
            total_len: 20 + options.len() + payload_len,
            tos: 4,
            id: 0xbeef,
            dont_fragment: false,
            more_fragments: more,
            fragment_offset: offset,
            ttl: 9,
            protocol: 17,
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
        };
        let payload = (0..payload_len).map(|i| (i * 7 % 251) as u8);
        header.write(options).into_iter().chain(options.iter().copied()).chain(payload).collect()
    }

    fn frame_of(packet: &[u8]) -> Frame {
        let mut frame = Frame::leaked(8192, 100);
        assert!(frame.push_back(packet.len()));
        frame.packet_mut().copy_from_slice(packet);
        frame
    }

    /// Puts pieces together as a receiver would.
    fn reassemble(pieces: &[Frame]) -> Vec<u8> {
        let mut payload = Vec::new();
        let base = Ipv4::parse(pieces[0].packet()).unwrap().fragment_offset;
        for piece in pieces {
            let header = Ipv4::parse(piece.packet()).unwrap();
            assert_eq!(header.total_len, piece.len());
            assert_eq!(header.fragment_offset, base + payload.len());
            payload.extend(&piece.packet()[header.header_len..]);
        }
        payload
    }

    fn cut(packet: &[u8], limit: usize, mut spares: Spares) -> (Result<(), DropReason>, Pieces) {
        let mut pieces = Pieces::new();
        pieces.push(frame_of(packet));
        (fragment(&mut pieces, limit, &mut spares), pieces)
    }

    proptest! {
        #[test]
        fn pieces_fit_and_make_the_whole_again(
            payload_len in 1usize..4000,
            limit in 68usize..2000,
            units in 0usize..100,
            more: bool,
            option_words in 0usize..4,
        ) {
            // A whole packet's payload may have any length, that of a fragment before others not.
            let payload_len = if more { payload_len.next_multiple_of(8) } else { payload_len };
            let options = [[0x94, 4, 0, 0], [7, 4, 4, 0], [1, 1, 1, 1], [0x94, 4, 9, 9]];
            let options = options[..option_words].concat();
            let original = packet(&options, units * 8, more, payload_len);
            let (result, pieces) = cut(&original, limit, Spares(20, 4096));
            match result {
                Ok(()) => {
                    prop_assert!(pieces.iter().all(|piece| piece.len() <= limit || pieces.len() == 1));
                    prop_assert_eq!(reassemble(&pieces), &original[20 + options.len()..]);
                    for (i, piece) in pieces.iter().enumerate() {
                        let header = Ipv4::parse(piece.packet()).unwrap();
                        let last = i + 1 == pieces.len();
                        prop_assert_eq!(header.more_fragments, more || !last);
                        prop_assert_eq!((header.id, header.ttl, header.tos, header.protocol), (0xbeef, 9, 4, 17));
                    }
                }
                Err(reason) => {
                    prop_assert_eq!(reason, DropReason::TooBig);
                    prop_assert_eq!(pieces.len(), 1);
                }
            }
        }
    }

    #[test]
    fn only_options_with_the_copied_flag_go_into_later_pieces() {
        let record_route = [7, 7, 4, 0, 0, 0, 0];
        let router_alert = [0x94, 4, 0, 0];
        let options = [record_route.as_slice(), &router_alert, &[0]].concat();
        let (result, pieces) = cut(&packet(&options, 0, false, 200), 128, Spares(9, 4096));
        assert_eq!(result, Ok(()));
        assert_eq!(pieces[0].packet()[20..32], options);
        assert_eq!(pieces[0].len(), 32 + 96);
        assert_eq!(pieces[1].packet()[20..24], router_alert);
        assert_eq!(pieces[1].packet()[0], 0x46);
        assert_eq!(pieces[1].len(), 24 + 104);
        assert_eq!(pieces.len(), 2);
    }

    #[test]
    fn without_spare_frames_every_frame_comes_back() {
        let (result, pieces) = cut(&packet(&[], 0, false, 1000), 200, Spares(2, 4096));
        assert_eq!((result, pieces.len()), (Err(DropReason::NoFrame), 3));
        let (result, pieces) = cut(&packet(&[], 0, false, 1000), 600, Spares(2, 300));
        assert_eq!((result, pieces.len()), (Err(DropReason::NoFrame), 2));
    }

    #[test]
    fn an_mtu_without_room_for_payload_is_too_small() {
        for limit in 0..28 {
            let (result, _) = cut(&packet(&[], 0, false, 100), limit, Spares(99, 4096));
            assert_eq!(result, Err(DropReason::TooBig));
        }
    }
}
