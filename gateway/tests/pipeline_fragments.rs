//! ESP that arrives in fragments: put together in any order, within bounds, and only if the pieces fit.

#![expect(clippy::indexing_slicing, reason = "where a test cannot go on it fails")]

mod common;

use common::{Child, INSIDE, OUTSIDE, Packet, Pair, Rig, pair};
use portcullis_gateway::coarse::Coarse;
use portcullis_gateway::drop::DropReason;
use portcullis_gateway::pipeline::Ingress;
use portcullis_gateway::route::NextHop;
use portcullis_gateway::wire::{Checksum, set_ecn};
use portcullis_ipsec::{CopyDf, SaOptions};

const FAMILIES: [bool; 2] = [false, true];

/// A packet's ESP in pieces of at most so many octets, and who opens it.
fn pieces(outer_v6: bool, mtu: u32, packet: &Packet) -> (Vec<Vec<u8>>, Rig) {
    let options = SaOptions { copy_df: CopyDf::No, ..SaOptions::default() };
    let Pair { mut a, b, .. } = pair(&Child { outer_v6, options, ..Child::between(1, 2) });
    let narrow = NextHop::Port { port: OUTSIDE, src_mac: [0; 6], dst_mac: [0; 6], mtu };
    a.set_routes(&[("192.0.2.2/32", narrow), ("2001:db8:ffff::2/128", narrow)]);
    (a.inside(&[packet.octets()]).only_sent(OUTSIDE), b)
}

fn packet() -> Packet {
    Packet { dont_fragment: true, ..Packet::between(1, 2, false, 1400) }
}

fn arrived() -> Vec<u8> {
    Packet { ttl: 62, ..packet() }.octets()
}

/// All orders of three.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn pieces_make_the_packet_in_any_order_together_or_one_by_one() {
    for outer_v6 in FAMILIES {
        for order in ORDERS {
            for together in [true, false] {
                let (pieces, mut b) = pieces(outer_v6, 600, &packet());
                assert_eq!(pieces.len(), 3);
                let ordered = order.map(|at| pieces[at].clone());
                let chunks: Vec<&[Vec<u8>]> =
                    if together { vec![&ordered] } else { ordered.chunks(1).collect() };
                let last = chunks.len() - 1;
                for (at, chunk) in chunks.into_iter().enumerate() {
                    let outcome = b.outside(chunk);
                    if at < last {
                        assert!(outcome.transmit.is_empty() && outcome.drops.is_empty(), "{outcome:?}");
                        assert_eq!(b.pipeline.trapped(), at + 1);
                        continue;
                    }
                    assert_eq!(outcome.sent(INSIDE), [arrived()]);
                    assert_eq!(outcome.drops, [(DropReason::Reassembled.label(), 2)].into());
                    assert_eq!(b.pipeline.trapped(), 0);
                }
            }
        }
    }
}

#[test]
fn whole_packets_pass_between_fragments() {
    for outer_v6 in FAMILIES {
        let (pieces, mut b) = pieces(outer_v6, 1280, &packet());
        let Pair { mut a, b: other, .. } = pair(&Child { outer_v6, ..Child::between(1, 2) });
        let whole = a.inside(&[packet().octets()]).only_sent(OUTSIDE);
        drop(other);
        // Of another SA of the same number, so that only its place in the batch matters: its key is the same.
        let outcome = b.outside(&[pieces[0].clone(), whole[0].clone(), pieces[1].clone()]);
        assert_eq!(outcome.sent(INSIDE), [arrived()], "one is the other's replay");
        assert_eq!(outcome.drops.keys().copied().collect::<Vec<_>>(), ["reassembled", "replayed"]);
    }
}

#[test]
fn a_piece_that_comes_twice_changes_nothing_and_one_that_overlaps_ends_its_packet() {
    for outer_v6 in FAMILIES {
        let (pieces, mut b) = pieces(outer_v6, 600, &packet());
        let outcome = b.outside(&[pieces[1].clone(), pieces[1].clone()]);
        assert_eq!(outcome.drops, [(DropReason::OuterFragment.label(), 1)].into());
        let outcome = b.outside(&[pieces[0].clone(), pieces[2].clone()]);
        assert_eq!(outcome.sent(INSIDE), [arrived()]);

        let (pieces, mut b) = self::pieces(outer_v6, 600, &packet());
        let shifted = moved_back(&pieces[1]);
        let outcome = b.outside(&[pieces[0].clone(), shifted]);
        outcome.only_dropped(DropReason::FragmentOverlap, 2);
        assert_eq!(b.pipeline.trapped(), 0);
    }
}

/// The same piece, eight octets nearer to the beginning.
fn moved_back(piece: &[u8]) -> Vec<u8> {
    let mut piece = piece.to_vec();
    let v6 = piece[0] >> 4 == 6;
    let (at, unit) = if v6 { (42, 8) } else { (6, 1) };
    let field = u16::from_be_bytes([piece[at], piece[at + 1]]) - unit;
    piece[at..at + 2].copy_from_slice(&field.to_be_bytes());
    if !v6 {
        piece[10..12].fill(0);
        let sum = Checksum::default().octets(&piece[..20]).finish();
        piece[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    piece
}

#[test]
fn what_stays_incomplete_is_given_up_in_time_and_makes_room_before() {
    for outer_v6 in FAMILIES {
        let (pieces, mut b) = pieces(outer_v6, 600, &packet());
        b.outside(&pieces[..2]);
        b.now = Coarse(b.now.0 + 9);
        assert!(b.release_trapped().drops.is_empty());
        b.now = Coarse(b.now.0 + 1);
        b.release_trapped().only_dropped(DropReason::FragmentTimeout, 2);
        b.outside(&pieces[2..]);
        assert_eq!(b.pipeline.trapped(), 1, "too late for the others");
    }
    // First pieces of ever more packets.
    let (pieces, mut b) = pieces(false, 600, &packet());
    let mut drops = 0;
    for id in 0..300_u16 {
        let mut piece = pieces[0].clone();
        piece[4..6].copy_from_slice(&id.to_be_bytes());
        piece[10..12].fill(0);
        let sum = Checksum::default().octets(&piece[..20]).finish();
        piece[10..12].copy_from_slice(&sum.to_be_bytes());
        drops += b.outside(&[piece]).drops.values().sum::<u64>();
        assert!(b.pipeline.trapped() <= 128);
    }
    assert_eq!(drops, 300 - 128);
}

#[test]
fn congestion_that_one_piece_met_is_the_packets() {
    for outer_v6 in FAMILIES {
        let marked = Packet { tos: 2, ..packet() };
        let (mut pieces, mut b) = pieces(outer_v6, 600, &marked);
        set_ecn(&mut pieces[1], 3);
        let opened = b.outside(&pieces).sent(INSIDE);
        assert_eq!(opened[0][1] & 3, 3);
    }
}

#[test]
fn what_a_socket_has_received_is_opened_if_it_is_esp_for_us_and_goes_nowhere_else() {
    for outer_v6 in FAMILIES {
        let Pair { mut a, mut b, .. } = pair(&Child { outer_v6, udp: true, ..Child::between(1, 2) });
        let [sealed, again] =
            [packet(), packet()].map(|packet| a.inside(&[packet.octets()]).only_sent(OUTSIDE));
        assert_eq!(b.feed(Ingress::Socket, &sealed).only_sent(INSIDE), [arrived()]);
        b.feed(Ingress::Socket, &sealed).only_dropped(DropReason::Replayed, 1);
        // Clear text, which the policy would protect, and ESP for another.
        b.feed(Ingress::Socket, &[packet().octets()]).only_dropped(DropReason::Unexpected, 1);
        a.feed(Ingress::Socket, &again).only_dropped(DropReason::Unexpected, 1);
    }
}
