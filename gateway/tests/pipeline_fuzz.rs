//! Whatever arrives: nothing panics, no frame is lost or doubled, the packet balance holds (the rig asserts both
//! after every batch), and nothing that was tampered with is delivered.

#![expect(clippy::indexing_slicing, reason = "where a test cannot go on it fails")]

mod common;

use common::{Child, INSIDE, OUTSIDE, Packet, Pair, pair, port_mac};
use portcullis_gateway::pipeline::Ingress;
use portcullis_ipsec::TenantId;
use proptest::prelude::*;

/// How to spoil a frame.
#[derive(Debug, Clone)]
enum Change {
    Flip(usize, u8),
    Cut(usize),
    Append(Vec<u8>),
    /// Overwrites 16 bits, as a wrong length or port would.
    Word(usize, u16),
    Repeat,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<usize>(), 1..=u8::MAX).prop_map(|(at, bits)| Change::Flip(at, bits)),
        2 => any::<usize>().prop_map(Change::Cut),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Change::Append),
        // Mostly in the headers.
        4 => (0usize..80, any::<u16>()).prop_map(|(at, word)| Change::Word(at, word)),
        1 => Just(Change::Repeat),
    ]
}

fn apply(frame: &mut Vec<u8>, changes: &[Change]) -> usize {
    let mut copies = 1;
    for change in changes {
        let len = frame.len().max(1);
        match change {
            Change::Flip(at, bits) => {
                frame.iter_mut().skip(at % len).take(1).for_each(|octet| *octet ^= bits)
            }
            Change::Cut(at) => frame.truncate(at % len),
            Change::Append(more) => frame.extend(more),
            Change::Word(at, word) => {
                frame.iter_mut().skip(*at).zip(word.to_be_bytes()).for_each(|(to, from)| *to = from);
            }
            Change::Repeat => copies += 1,
        }
    }
    copies
}

#[derive(Debug, Clone)]
enum Input {
    Random(Vec<u8>),
    /// An IP packet of random content behind a right header's first octets.
    Headed(bool, Vec<u8>),
    Inner(bool, usize, u8, bool, Vec<Change>),
    Sealed(bool, usize, Vec<Change>),
}

fn input() -> impl Strategy<Value = Input> {
    let changes = || prop::collection::vec(change(), 0..4);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200).prop_map(Input::Random),
        (any::<bool>(), prop::collection::vec(any::<u8>(), 60..200)).prop_map(|(v6, o)| Input::Headed(v6, o)),
        (any::<bool>(), 60usize..3600, 0u8..4, any::<bool>(), changes())
            .prop_map(|(v6, len, ttl, df, changes)| Input::Inner(v6, len, ttl, df, changes)),
        (any::<bool>(), 60usize..1400, changes())
            .prop_map(|(v6, len, changes)| Input::Sealed(v6, len, changes)),
    ]
}

fn build(pair: &mut Pair, by: Ingress, input: &Input) -> Vec<Vec<u8>> {
    let mac = match by {
        Ingress::Port(port) => port_mac(2, port),
        Ingress::Kernel | Ingress::Device(_) | Ingress::Socket => [0; 6],
    };
    let framed = |packet: &[u8]| match by {
        Ingress::Kernel | Ingress::Device(_) | Ingress::Socket => packet.to_vec(),
        Ingress::Port(_) => common::ethernet(mac, packet),
    };
    let (mut frame, changes) = match input {
        Input::Random(octets) => (octets.clone(), [].as_slice()),
        Input::Headed(v6, octets) => {
            let mut octets = octets.clone();
            octets[0] = if *v6 { 0x60 } else { 0x45 };
            let len = octets.len() as u16 - if *v6 { 40 } else { 0 };
            let at = if *v6 { 4 } else { 2 };
            octets[at..at + 2].copy_from_slice(&len.to_be_bytes());
            if !v6 {
                octets[10..12].fill(0);
                let sum = portcullis_gateway::wire::Checksum::default().octets(&octets[..20]).finish();
                octets[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            (framed(&octets), [].as_slice())
        }
        Input::Inner(v6, len, ttl, dont_fragment, changes) => {
            let packet =
                Packet { ttl: *ttl, dont_fragment: *dont_fragment, ..Packet::between(2, 1, *v6, *len) };
            (framed(&packet.octets()), changes.as_slice())
        }
        Input::Sealed(v6, len, changes) => {
            let sealed = pair.a.inside(&[Packet::between(1, 2, *v6, *len).octets()]).only_sent(OUTSIDE);
            (framed(&sealed[0]), changes.as_slice())
        }
    };
    let copies = apply(&mut frame, changes);
    vec![frame; copies]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn every_frame_comes_out_once_whatever_it_holds(
        outer_v6: bool,
        udp: bool,
        batches in prop::collection::vec((0usize..5, prop::collection::vec(input(), 1..40)), 1..4),
        spares in prop_oneof![Just(0usize), 1usize..8, Just(512)],
    ) {
        let mut pair = pair(&Child { outer_v6, udp, ..Child::between(1, 2) });
        for (by, inputs) in &batches {
            let device = Ingress::Device(TenantId(1));
            let ways =
                [Ingress::Port(OUTSIDE), Ingress::Port(INSIDE), Ingress::Kernel, Ingress::Socket, device];
            let by = ways[*by];
            let frames: Vec<_> = inputs.iter().flat_map(|input| build(&mut pair, by, input)).collect();
            pair.b.now.0 += 1;
            let enough = pair.b.pool.free.split_off((frames.len() + spares).min(pair.b.pool.free.len()));
            let outcome = pair.b.feed_frames(by, &frames);
            pair.b.pool.free.extend(enough);
            for (port, frame) in &outcome.transmit {
                prop_assert!(frame.len() <= 1514, "{} octets on port {port:?}", frame.len());
            }
        }
    }

    #[test]
    fn a_changed_packet_is_delivered_only_if_what_was_sealed_is_not_what_changed(
        len in 60usize..1400,
        changes in prop::collection::vec(change(), 1..3),
    ) {
        let mut pair = pair(&Child::between(1, 2));
        let packet = Packet::between(1, 2, false, len);
        let sealed = pair.a.inside(&[packet.octets()]).only_sent(OUTSIDE).remove(0);
        let mut spoilt = common::ethernet(port_mac(2, OUTSIDE), &sealed);
        apply(&mut spoilt, &changes);
        let outcome = pair.b.feed_frames(Ingress::Port(OUTSIDE), &[spoilt]);
        let expected = Packet { ttl: 62, ..packet }.octets();
        prop_assert!(outcome.sent(INSIDE).iter().all(|delivered| *delivered == expected));
        prop_assert!(outcome.to_kernel.is_empty() && outcome.sent(OUTSIDE).is_empty());
    }
}
