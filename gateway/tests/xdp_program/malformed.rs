//! Frames that end too early, lie about their lengths, or nest too deep.

use std::os::fd::AsFd;

use portcullis_gateway::xdp::{Disposition, Outcome, XdpManager};

use crate::frames::{
    ESP, TCP, UDP, esp, extension, families, fragment, frame, ipv4, ipv6, packet, tagged, udp,
};
use crate::host::{Host, egress, ingress, on_a_host, protection, xsk};

/// The kernel tries no frame shorter than this.
const ETHERNET: usize = 14;

#[test]
fn a_valid_packet_cut_anywhere_is_malformed() {
    on_a_host(|host| {
        let mut manager = host.protect(&protection());
        let socket = xsk();
        for interface in [host.outside, host.inside] {
            manager.set_xsk(interface, 0, socket.as_fd()).unwrap();
        }
        for family in families() {
            for tags in 0..=2 {
                let start = ETHERNET + 4 * tags;
                let valid = [
                    (host.outside, packet(family.peer, family.tunnel, ESP, &esp()), Outcome::Esp),
                    (
                        host.outside,
                        packet(family.peer, family.tunnel, UDP, &udp(9, 4500, &esp())),
                        Outcome::UdpEsp,
                    ),
                    (host.inside, packet(family.local, family.remote, TCP, &[0; 20]), Outcome::Protected),
                    (host.outside, packet(family.remote, family.local, TCP, &[0; 20]), Outcome::ClearInbound),
                ];
                for (interface, packet, whole) in valid {
                    let valid = tagged(tags, &packet);
                    assert_eq!(ingress(&manager, interface, &valid), whole);
                    for length in start..valid.len() {
                        assert_eq!(
                            ingress(&manager, interface, &valid[..length]),
                            Outcome::Malformed,
                            "{length}"
                        );
                    }
                    // Cut in the tags, it is not yet IP, and nothing that any host would take.
                    for length in ETHERNET..start {
                        assert_eq!(
                            ingress(&manager, interface, &valid[..length]),
                            Outcome::NonIp,
                            "{length}"
                        );
                    }
                }
            }
        }
    });
}

#[test]
fn extension_headers_cut_anywhere_are_malformed() {
    on_a_host(|host| {
        let manager = host.protect(&protection());
        let [_, v6] = families();
        let chain = extension(44, 2, &fragment(60, 0, true, &extension(ESP, 3, &esp())));
        // Cut by the frame's end, and by what the header says while the frame goes on.
        for length in 0..chain.len() {
            let mut cut = ipv6(v6.peer, v6.tunnel, 0, 64, &chain);
            cut.truncate(40 + length);
            assert_eq!(ingress(&manager, host.outside, &frame(&cut)), Outcome::Malformed, "{length}");
        }
        let headers = chain.len() - esp().len();
        for length in 0..headers {
            let mut lying = ipv6(v6.peer, v6.tunnel, 0, 64, &chain);
            lying[4..6].copy_from_slice(&(length as u16).to_be_bytes());
            assert_eq!(ingress(&manager, host.outside, &frame(&lying)), Outcome::Malformed, "{length}");
        }
    });
}

#[test]
fn impossible_ip_headers_are_dropped_whoever_they_are_for() {
    on_a_host(|host| {
        let manager = host.protect(&protection());
        let [v4, v6] = families();
        for (src, dst) in [(v4.peer, v4.tunnel), (v4.stranger, v4.stranger), (v4.local, v4.remote)] {
            let good = ipv4(src, dst, UDP, &[], 0, &udp(500, 500, &[1; 28]));
            let with = |index: usize, value: u8| {
                let mut bad = frame(&good);
                bad[ETHERNET + index] = value;
                bad
            };
            for interface in [host.outside, host.inside] {
                for version in [0x05, 0x55, 0x65, 0xf5] {
                    assert_eq!(ingress(&manager, interface, &with(0, version)), Outcome::Malformed);
                }
                for header_length in 0x40..0x45 {
                    assert_eq!(ingress(&manager, interface, &with(0, header_length)), Outcome::Malformed);
                }
                // Totals shorter than the header and longer than the frame.
                assert_eq!(ingress(&manager, interface, &with(3, 19)), Outcome::Malformed);
                assert_eq!(ingress(&manager, interface, &with(3, good.len() as u8 + 1)), Outcome::Malformed);
                assert_eq!(ingress(&manager, interface, &with(2, 0xff)), Outcome::Malformed);
            }
        }
        let mut short = frame(&ipv4(v4.peer, v4.tunnel, ESP, &[], 0, &[0; 8]));
        short[ETHERNET] = 0x4f;
        assert_eq!(ingress(&manager, host.outside, &short), Outcome::Malformed);
        for version in [0x40, 0x00, 0x70] {
            let mut bad = frame(&ipv6(v6.peer, v6.tunnel, ESP, 64, &esp()));
            bad[ETHERNET] = version;
            assert_eq!(ingress(&manager, host.outside, &bad), Outcome::Malformed);
        }
    });
}

#[test]
fn udp_4500_with_an_impossible_length_is_dropped() {
    on_a_host(|host| {
        let manager = host.protect(&protection());
        for family in families() {
            let datagram = udp(4500, 4500, &esp());
            for length in [0, 7, datagram.len() as u16 + 1, u16::MAX] {
                let mut bad = datagram.clone();
                bad[4..6].copy_from_slice(&length.to_be_bytes());
                let sent = frame(&packet(family.peer, family.tunnel, UDP, &bad));
                assert_eq!(ingress(&manager, host.outside, &sent), Outcome::Malformed);
            }
        }
    });
}

#[test]
fn octets_behind_the_packets_end_are_not_looked_at() {
    on_a_host(|host| {
        let manager = host.protect(&protection());
        for family in families() {
            // UDP to the IKE port, but only half of its header is in the packet.
            let mut sent = frame(&packet(family.remote, family.inside, UDP, &udp(500, 500, &[])[..4]));
            sent.extend([0; 40]);
            assert_eq!(ingress(&manager, host.outside, &sent), Outcome::ClearInbound);
        }
    });
}

#[test]
fn what_hides_behind_many_extension_headers_is_judged_by_its_addresses() {
    on_a_host(|host| {
        let manager = host.protect(&protection());
        let [_, v6] = families();
        let deep = |src, dst| {
            let mut chain = esp();
            let mut next = ESP;
            for _ in 0..12 {
                chain = extension(next, 1, &chain);
                next = 60;
            }
            frame(&ipv6(src, dst, next, 64, &chain))
        };
        assert_eq!(ingress(&manager, host.outside, &deep(v6.peer, v6.tunnel)), Outcome::Own);
        assert_eq!(ingress(&manager, host.outside, &deep(v6.remote, v6.local)), Outcome::ClearInbound);
        assert_eq!(ingress(&manager, host.inside, &deep(v6.local, v6.remote)), Outcome::NoSocket);
        assert_eq!(egress(&manager, host.outside, &deep(v6.local, v6.remote)), Outcome::ClearOutbound);
    });
}

#[test]
fn more_than_two_tags_are_not_looked_behind_but_dropped() {
    on_a_host(|host| {
        let manager = host.protect(&protection());
        for family in families() {
            let deep = tagged(3, &packet(family.stranger, family.local, TCP, &[0; 20]));
            for interface in [host.outside, host.inside] {
                assert_eq!(ingress(&manager, interface, &deep), Outcome::Malformed);
            }
            assert_eq!(egress(&manager, host.outside, &deep), Outcome::OutMalformed);
        }
    });
}

#[test]
fn the_egress_guard_never_passes_part_of_a_protected_packet() {
    on_a_host(|host| {
        let manager = host.protect(&protection());
        for family in families() {
            let header = if family.local.is_ipv4() { 20 } else { 40 };
            let clear = frame(&packet(family.local, family.remote, TCP, &[0; 20]));
            for length in ETHERNET + 1..=clear.len() {
                let Ok(done) = manager.try_egress(host.outside, &clear[..length]) else { continue };
                assert_eq!(done, Disposition::Drop, "{length} of {}", clear.len());
                if length >= ETHERNET + header {
                    assert_eq!(egress(&manager, host.outside, &clear[..length]), Outcome::ClearOutbound);
                }
            }
        }
    });
}

/// Octets that no one would send, from a generator with a fixed seed.
#[test]
fn random_octets_are_never_redirected_without_a_socket() {
    on_a_host(|host: &Host| {
        let manager: XdpManager = host.protect(&protection());
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..4000 {
            let length = ETHERNET + 1 + (random() % 120) as usize;
            let mut octets: Vec<u8> = (0..length).map(|_| random() as u8).collect();
            let ethertype: u16 = if random() % 2 == 0 { 0x0800 } else { 0x86dd };
            octets[12..14].copy_from_slice(&ethertype.to_be_bytes());
            octets[14] = if ethertype == 0x0800 { 0x40 | octets[14] & 0xf } else { 0x60 };
            for interface in [host.outside, host.inside] {
                let done = manager.try_ingress(interface, 0, &octets).unwrap();
                assert_ne!(done, Disposition::Redirect);
            }
        }
    });
}
