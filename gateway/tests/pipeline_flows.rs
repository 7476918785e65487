//! Flows that a worker remembers go a shorter way: it must lead nowhere that the long one would not.

mod common;

use common::{Child, INSIDE, OUTSIDE, Packet, Pair, Rig, ip, pair, ts};
use portcullis_gateway::drop::DropReason;
use portcullis_gateway::route::NextHop;
use portcullis_ipsec::{PolicyAction, SaInstaller, UsageLimits};

fn packet() -> Packet {
    Packet::between(1, 2, false, 100)
}

/// A pair whose receiver knows the packet's flow by heart.
fn known() -> Pair {
    let mut pair = pair(&Child::between(1, 2));
    for _ in 0..4 {
        assert_eq!(through(&mut pair, &[packet()]).only_sent(INSIDE), [packet_opened()]);
    }
    pair
}

fn packet_opened() -> Vec<u8> {
    Packet { ttl: 63, ..packet() }.forwarded()
}

fn through(pair: &mut Pair, packets: &[Packet]) -> common::Outcome {
    let octets: Vec<_> = packets.iter().map(Packet::octets).collect();
    let sealed = pair.a.inside(&octets).only_sent(OUTSIDE);
    pair.b.outside(&sealed)
}

#[test]
fn a_flow_known_by_one_sa_is_refused_by_another_that_is_not_for_it() {
    let mut pair = known();
    // The sender thinks that the SA is for everything, the receiver that it is for DNS.
    let wide = Child::between(1, 2);
    let narrow = Child { remote_ts: vec![ts("10.2.0.0/16[udp/53]")], ..wide.clone() };
    let mut sender = Rig::new(1);
    let spi = sender.install_inbound(&wide, 2, 0);
    let policy = sender.policy(&wide.local_ts, &wide.remote_ts);
    let narrow_spi = pair.b.install_inbound(&narrow.mirrored(), 1, 1);
    sender.activate(&wide, 2, policy, spi, narrow_spi, 1);
    for _ in 0..4 {
        let sealed = sender.inside(&[packet().octets()]).only_sent(OUTSIDE);
        pair.b.outside(&sealed).only_dropped(DropReason::SelectorMismatch, 1);
        assert_eq!(through(&mut pair, &[packet()]).only_sent(INSIDE).len(), 1);
    }
}

#[test]
fn a_known_flow_obeys_the_next_policy() {
    let mut pair = known();
    let (from, to) = ([ts("10.1.0.0/16")], [ts("10.2.0.0/16")]);
    // One that goes before those that protect drops the way back, and with it the way there.
    let discard = pair.b.policy_with(PolicyAction::Discard, 1, &to, &from);
    through(&mut pair, &[packet()]).only_dropped(DropReason::Discarded, 1);
    pair.b.installer.remove_policy(discard).unwrap();
    for _ in 0..3 {
        assert_eq!(through(&mut pair, &[packet()]).only_sent(INSIDE).len(), 1);
    }
    // Into another tunnel, and no longer in clear.
    pair.b.policy(&from, &to);
    through(&mut pair, &[packet()]).only_dropped(DropReason::NoSa, 1);
}

#[test]
fn a_known_flow_obeys_the_next_route() {
    let mut pair = known();
    pair.b.set_routes(&[("10.2.0.0/16", NextHop::LinkDown)]);
    through(&mut pair, &[packet()]).only_dropped(DropReason::LinkDown, 1);
    pair.b.set_routes(&[("10.2.0.0/16", NextHop::Kernel)]);
    assert_eq!(through(&mut pair, &[packet()]).to_kernel.len(), 1);
    pair.b.set_routes(&[("10.2.0.0/16", common::hop(2, OUTSIDE))]);
    through(&mut pair, &[packet()]).only_dropped(DropReason::ClearToOutside, 1);
}

#[test]
fn a_packet_of_a_known_flow_that_cannot_go_on_ends_as_it_would_in_any_other() {
    let mut pair = known();
    let ending = Packet { ttl: 2, ..packet() };
    assert_eq!(through(&mut pair, &[ending]).drops["ttl_expired"], 1);
    pair.b.installer.remove(pair.b_spi).unwrap();
    through(&mut pair, &[packet()]).only_dropped(DropReason::UnknownSpi, 1);
}

#[test]
fn packets_of_a_flow_keep_their_order_while_it_becomes_known() {
    let mut pair = pair(&Child::between(1, 2));
    let NextHop::Port { port, src_mac, dst_mac, .. } = common::hop(2, INSIDE) else { panic!("a port") };
    pair.b.set_routes(&[("10.2.0.0/16", NextHop::Port { port, src_mac, dst_mac, mtu: 200 })]);
    let lens: Vec<_> = (100..164).collect();
    let packets: Vec<_> = lens.iter().map(|&len| Packet { len, ..packet() }).collect();
    // The same with a packet in the middle that is cut in two, for which there is no short way.
    let mut with_one_cut = packets.clone();
    with_one_cut[20] = Packet { dont_fragment: false, len: 300, ..packet() };
    let mut cut_lens = lens.clone();
    cut_lens.splice(20..21, [196, 124]);
    for (packets, lens) in [(&packets, &lens), (&with_one_cut, &cut_lens)].repeat(3) {
        let sent = through(&mut pair, packets).only_sent(INSIDE);
        assert_eq!(&sent.iter().map(Vec::len).collect::<Vec<_>>(), lens);
    }
}

#[test]
fn what_takes_the_short_way_is_counted_and_limited_like_the_rest() {
    let mut pair = known();
    let before = pair.b.installer.counters(pair.b_spi).unwrap();
    assert_eq!((before.packets_in, before.bytes_in), (4, 400));
    let limits = UsageLimits { soft_packets: Some(6), ..UsageLimits::default() };
    pair.b.installer.limit(pair.b_spi, limits).unwrap();
    through(&mut pair, &[packet()]).only_sent(INSIDE);
    assert_eq!(pair.b.installer.take_events(), []);
    through(&mut pair, &[packet()]).only_sent(INSIDE);
    assert_eq!(pair.b.installer.take_events().len(), 1);
}

#[test]
fn a_flow_to_another_destination_of_the_same_tunnel_is_not_taken_for_the_one_before() {
    let mut pair = known();
    let other = Packet { dst: ip("10.2.0.77"), ..packet() };
    let outside = Packet { src: ip("10.1.9.9"), ports: (7, 7), ..packet() };
    let mix = [packet(), other.clone(), packet(), outside.clone(), other.clone()];
    for _ in 0..4 {
        let sent = through(&mut pair, &mix).only_sent(INSIDE);
        let opened = |packet: &Packet| Packet { ttl: 63, ..packet.clone() }.forwarded();
        // In order, too: what is known does not overtake what is not.
        assert_eq!(sent, mix.iter().map(opened).collect::<Vec<_>>());
    }
}
