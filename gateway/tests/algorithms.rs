//! SAs of every algorithm side by side in one batch: each packet is sealed and opened with its own, and a forged one
//! fails alone.

mod common;

use common::{Child, INSIDE, OUTSIDE, Packet, Pair, Rig, connect, ip, pair, ts};
use portcullis_gateway::drop::DropReason;
use portcullis_gateway::pipeline::BATCH;
use portcullis_ipsec::EspAlgorithm;

/// Rigs 1 and 2 with a child of every algorithm, told apart by the last but one octet of 2's addresses.
fn rigs() -> (Rig, Rig) {
    let (a, b) = (Rig::new(1), Rig::new(2));
    for (number, algorithm) in EspAlgorithm::ALL.iter().copied().enumerate() {
        let remote_ts = vec![ts(&format!("10.2.{number}.0/24"))];
        connect(&Child { algorithm, esn: number % 2 == 0, remote_ts, ..Child::between(1, 2) }, &a, &b);
    }
    (a, b)
}

/// As many packets as go into a batch: one for every child, then, the other way round, a second one of another size.
fn packets() -> Vec<Packet> {
    let numbers = 0..EspAlgorithm::ALL.len();
    let second = BATCH - numbers.len();
    let to = |number: usize, len| Packet {
        dst: ip(&format!("10.2.{number}.9")),
        ..Packet::between(1, 2, false, len)
    };
    let first = numbers.clone().map(|number| to(number, 40 + 37 * number));
    first.chain(numbers.rev().take(second).map(|number| to(number, 1300 - number))).collect()
}

#[test]
fn a_batch_of_all_algorithms_is_sealed_and_opened_each_with_its_own() {
    let (mut a, mut b) = rigs();
    let packets = packets();
    let sealed = a.inside(&packets.iter().map(Packet::octets).collect::<Vec<_>>()).only_sent(OUTSIDE);
    let opened = b.outside(&sealed).only_sent(INSIDE);
    let expected: Vec<_> =
        packets.iter().map(|packet| Packet { ttl: 63, ..packet.clone() }.forwarded()).collect();
    assert_eq!(opened, expected);
}

#[test]
fn a_forged_packet_fails_alone_whatever_its_algorithm() {
    let (mut a, mut b) = rigs();
    let packets = packets();
    let mut sealed = a.inside(&packets.iter().map(Packet::octets).collect::<Vec<_>>()).only_sent(OUTSIDE);
    let all = EspAlgorithm::ALL.len();
    for packet in sealed.iter_mut().take(all) {
        *packet.last_mut().unwrap() ^= 1;
    }
    let outcome = b.outside(&sealed);
    let expected: Vec<_> =
        packets.iter().skip(all).map(|packet| Packet { ttl: 63, ..packet.clone() }.forwarded()).collect();
    assert_eq!(outcome.sent(INSIDE), expected);
    assert_eq!(outcome.drops, [(DropReason::IntegrityFailed.label(), all as u64)].into());
}

#[test]
fn a_packet_that_is_no_whole_number_of_its_sas_blocks_is_truncated() {
    let algorithm = EspAlgorithm::Aes256CbcSha256;
    let Pair { mut a, mut b, .. } = pair(&Child { algorithm, udp: true, ..Child::between(1, 2) });
    let sealed = a.inside(&[Packet::between(1, 2, false, 200).octets()]).only_sent(OUTSIDE).remove(0);
    // Four octets of ciphertext less, in a UDP datagram that says so.
    let mut cut = sealed.clone();
    cut.drain(60..64);
    let header = portcullis_gateway::wire::Ipv4 {
        total_len: cut.len(),
        ..portcullis_gateway::wire::Ipv4::parse(&sealed).unwrap()
    };
    cut.splice(..20, header.write(&[]));
    let udp_len = (cut.len() - 20) as u16;
    cut.splice(24..26, udp_len.to_be_bytes());
    b.outside(&[cut]).only_dropped(DropReason::EspTruncated, 1);
    assert_eq!(b.outside(&[sealed]).only_sent(INSIDE).len(), 1, "nothing of it was believed");
}

#[test]
fn cbc_ivs_differ_from_packet_to_packet_and_from_their_counter() {
    let algorithm = EspAlgorithm::Aes128CbcSha256;
    let Pair { mut a, .. } = pair(&Child { algorithm, ..Child::between(1, 2) });
    let packets = vec![Packet::between(1, 2, false, 60).octets(); 64];
    let sealed = a.inside(&packets).only_sent(OUTSIDE);
    let mut ivs: Vec<_> = sealed.iter().map(|packet| packet.get(28..44).unwrap().to_vec()).collect();
    assert!(ivs.iter().all(|iv| iv.iter().filter(|octet| **octet == 0).count() < 6), "as good as random");
    ivs.sort_unstable();
    ivs.dedup();
    assert_eq!(ivs.len(), packets.len());
}
