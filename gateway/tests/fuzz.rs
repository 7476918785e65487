//! Fuzz targets of the data plane (`fuzz/src/lib.rs` says how they run): the parsers of the wire, and a whole pipeline, of
//! which the rig asserts after every batch that no frame is lost or doubled and that packets balance.

mod common;

use common::{Child, INSIDE, OUTSIDE, Packet, Pair, ethernet, pair, port_mac};
use portcullis_fuzz::{Script, Target};
use portcullis_gateway::pipeline::Ingress;
use portcullis_gateway::{pmtu, wire};

/// Packets of both families as they come from hosts and as they go between gateways.
fn packets() -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for v6 in [false, true] {
        for udp in [false, true] {
            let Pair { mut a, .. } = pair(&Child { outer_v6: v6, udp, ..Child::between(1, 2) });
            let inner = Packet::between(1, 2, v6, 100).octets();
            packets.extend(a.inside(std::slice::from_ref(&inner)).only_sent(OUTSIDE));
            packets.push(inner);
        }
    }
    packets
}

#[test]
fn fuzz_wire() {
    let seeds = packets().into_iter().flat_map(|packet| [ethernet([2; 6], &packet), packet]);
    Target::new("wire").seeds(seeds).run(|octets| {
        if let Ok(ethernet) = wire::Ethernet::parse(octets) {
            assert!(ethernet.header_len <= octets.len());
        }
        let _ = (wire::Ipv4::parse(octets), wire::Ipv6::parse(octets), wire::Udp::parse(octets));
        let _ = (wire::chain(octets).count(), wire::end_to_end(octets));
        let _ = (pmtu::read(octets, false), pmtu::read(octets, true));
        let general = wire::read_any(octets);
        // The short way is the same way.
        if let Some(plain) = wire::read_plain(octets) {
            assert_eq!(Ok(plain), general);
        }
        if let Ok((flow, info)) = wire::flow(octets) {
            let _ = wire::IcmpError::may_answer(&flow, &info);
            let mut changed = octets.to_vec();
            wire::set_ecn(&mut changed, 3);
            if octets.get(8).is_some_and(|ttl| *ttl > 1) {
                wire::decrement_ttl(&mut changed);
            }
            assert_eq!(
                wire::flow(&changed).map(|(flow, _)| flow),
                Ok(flow),
                "still a packet of the same flow"
            );
        }
        let mut segment = octets.to_vec();
        wire::clamp_mss(&mut segment, 1200);
        assert_eq!(segment.len(), octets.len());
    });
}

/// How ESP goes (1: over IPv6, 2: in UDP), then for each frame: by which port (the highest bit: the batch ends), what it
/// is, its length, and what becomes of it.
#[test]
fn fuzz_pipeline() {
    let one = |by: u8, what: u8| vec![0, by, what, 0, 100, 0];
    let seeds = (0..4).flat_map(|way| {
        (0..4).flat_map(move |by| {
            (0..5).map(move |what| {
                let mut script = one(by, what);
                script[0] = way;
                script.extend([by | 0x80, what, 2, 0, 1, 0, 34, 1]);
                script
            })
        })
    });
    Target::new("pipeline").seeds(seeds).run(|input| {
        let mut script = Script::new(input);
        let way = script.octet();
        let mut pair = pair(&Child { outer_v6: way & 1 != 0, udp: way & 2 != 0, ..Child::between(1, 2) });
        let mut batch = Vec::new();
        for _ in 0..64 {
            if script.is_over() {
                break;
            }
            let (by, what, len) = (script.octet(), script.octet(), usize::from(script.word() % 3600).max(60));
            let ingress = [Ingress::Port(OUTSIDE), Ingress::Port(INSIDE), Ingress::Kernel, Ingress::Socket]
                [usize::from(by & 0x7f) % 4];
            let v6 = what & 0x40 != 0;
            let packet = match what % 5 {
                0 => pair
                    .a
                    .inside(&[Packet::between(1, 2, v6, len.min(1400)).octets()])
                    .only_sent(OUTSIDE)
                    .remove(0),
                1 => Packet::between(2, 1, v6, len).octets(),
                2 => {
                    Packet { ttl: what >> 6, dont_fragment: true, ..Packet::between(2, 1, v6, len) }.octets()
                }
                3 => script.octets(len % 256),
                // Sealed twice: ESP within ESP.
                _ => {
                    let inner = Packet::between(1, 2, v6, len.min(1300)).octets();
                    let mut sealed = pair.a.inside(&[inner]).only_sent(OUTSIDE).remove(0);
                    sealed.truncate(len);
                    sealed
                }
            };
            let mut frame = match ingress {
                Ingress::Port(port) => ethernet(port_mac(2, port), &packet),
                Ingress::Kernel | Ingress::Device(_) | Ingress::Socket => packet,
            };
            script.spoil(&mut frame);
            batch.push(frame);
            if by & 0x80 != 0 {
                pair.b.now.0 += 1;
                pair.b.feed_frames(ingress, &std::mem::take(&mut batch));
            }
        }
        pair.b.feed_frames(Ingress::Port(OUTSIDE), &batch);
    });
}
