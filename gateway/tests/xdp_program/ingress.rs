//! The rules for what comes in.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use portcullis_gateway::xdp::{Disposition, MAX_QUEUES, Outcome, Protection};

use crate::frames::{
    ESP, ICMPV6, TCP, UDP, esp, extension, families, fragment, fragment_of, frame, ipv4, ipv6, packet,
    tagged, udp,
};
use crate::host::{addr, ingress, on_a_host, protection, protection_of_everything, xsk};

const TAGS: [usize; 3] = [0, 1, 2];

#[test]
fn esp_to_a_tunnel_address_goes_to_the_socket_of_its_queue() {
    on_a_host(|host| {
        let mut manager = host.protect(&protection());
        let sockets = [xsk(), xsk()];
        for (interface, socket) in [host.outside, host.inside].into_iter().zip(&sockets) {
            for family in families() {
                for tags in TAGS {
                    let sealed = tagged(tags, &packet(family.peer, family.tunnel, ESP, &esp()));
                    assert_eq!(ingress(&manager, interface, &sealed), Outcome::NoSocket);
                    manager.set_xsk(interface, 0, socket.as_fd()).unwrap();
                    assert_eq!(ingress(&manager, interface, &sealed), Outcome::Esp);
                    manager.unset_xsk(interface, 0).unwrap();
                }
            }
        }
    });
}

#[test]
fn each_queue_of_each_interface_has_its_own_socket() {
    on_a_host(|host| {
        let mut manager = host.protect(&protection());
        let [v4, _] = families();
        let sealed = frame(&packet(v4.peer, v4.tunnel, ESP, &esp()));
        let socket = xsk();
        manager.set_xsk(host.outside, 1, socket.as_fd()).unwrap();
        let action = |ifindex, queue| manager.try_ingress(ifindex, queue, &sealed).unwrap();
        assert_eq!(action(host.outside, 1), Disposition::Redirect);
        assert_eq!(action(host.outside, 0), Disposition::Drop);
        assert_eq!(action(host.inside, 1), Disposition::Drop);
    });
}

#[test]
fn a_queue_beyond_the_map_is_refused() {
    on_a_host(|host| {
        let mut manager = host.protect(&protection());
        let socket = xsk();
        let error = manager.set_xsk(host.outside, MAX_QUEUES, socket.as_fd()).unwrap_err();
        assert!(error.to_string().contains("queue 128"), "{error}");
    });
}

#[test]
fn a_closed_socket_drops_what_was_for_it() {
    on_a_host(|host| {
        let mut manager = host.protect(&protection());
        let [v4, _] = families();
        let socket = xsk();
        manager.set_xsk(host.inside, 0, socket.as_fd()).unwrap();
        let clear = frame(&packet(v4.local, v4.remote, TCP, &[0; 20]));
        assert_eq!(ingress(&manager, host.inside, &clear), Outcome::Protected);
        drop(socket);
        // Children of other tests may hold a copy until they execute something.
        let deadline = Instant::now() + Duration::from_secs(10);
        while ingress(&manager, host.inside, &clear) != Outcome::NoSocket {
            assert!(Instant::now() < deadline, "still there");
            std::thread::yield_now();
        }
    });
}

#[test]
fn fragments_of_esp_go_to_the_socket_too() {
    on_a_host(|host| {
        let mut manager = host.protect(&protection());
        let socket = xsk();
        manager.set_xsk(host.outside, 0, socket.as_fd()).unwrap();
        for family in families() {
            for (offset, more) in [(0, true), (6, true), (12, false)] {
                let part = frame(&fragment_of(family.peer, family.tunnel, ESP, offset, more, &esp()));
                assert_eq!(ingress(&manager, host.outside, &part), Outcome::Esp);
            }
        }
    });
}

#[test]
fn esp_is_found_behind_options_and_extension_headers() {
    on_a_host(|host| {
        let mut manager = host.protect(&protection());
        let socket = xsk();
        manager.set_xsk(host.outside, 0, socket.as_fd()).unwrap();
        let [v4, v6] = families();
        for options in [4, 20, 40] {
            let sealed = frame(&ipv4(v4.peer, v4.tunnel, ESP, &vec![1; options], 0, &esp()));
            assert_eq!(ingress(&manager, host.outside, &sealed), Outcome::Esp);
        }
        // Hop-by-hop, routing, destination options, fragment (of one piece), destination options.
        let chain = extension(ESP, 1, &esp());
        let chain = fragment(60, 0, false, &chain);
        let chain = extension(44, 3, &chain);
        let chain = extension(60, 2, &chain);
        let chain = extension(43, 1, &chain);
        let sealed = frame(&ipv6(v6.peer, v6.tunnel, 0, 64, &chain));
        assert_eq!(ingress(&manager, host.outside, &sealed), Outcome::Esp);
        // The longest that a header can be.
        let chain = extension(ESP, 128, &esp());
        let sealed = frame(&ipv6(v6.peer, v6.tunnel, 60, 64, &chain));
        assert_eq!(ingress(&manager, host.outside, &sealed), Outcome::Esp);
    });
}

#[test]
fn esp_to_another_address_is_a_packet_like_any_other() {
    on_a_host(|host| {
        let manager = host.protect(&protection());
        for family in families() {
            let to = |dst| frame(&packet(family.peer, dst, ESP, &esp()));
            assert_eq!(ingress(&manager, host.outside, &to(family.stranger)), Outcome::Transit);
            assert_eq!(ingress(&manager, host.outside, &to(family.remote)), Outcome::ClearInbound);
            assert_eq!(ingress(&manager, host.outside, &to(family.outside)), Outcome::Own);
            assert_eq!(ingress(&manager, host.inside, &to(family.inside)), Outcome::Own);
            let protected = frame(&packet(family.local, family.remote, ESP, &esp()));
            assert_eq!(ingress(&manager, host.inside, &protected), Outcome::NoSocket);
        }
    });
}

#[test]
fn udp_4500_is_told_apart_by_its_first_octets() {
    on_a_host(|host| {
        let mut manager = host.protect(&protection());
        let socket = xsk();
        manager.set_xsk(host.outside, 0, socket.as_fd()).unwrap();
        for family in families() {
            for tags in TAGS {
                let decide = |payload: &[u8]| {
                    let datagram = udp(40000, 4500, payload);
                    let sent = tagged(tags, &packet(family.peer, family.tunnel, UDP, &datagram));
                    ingress(&manager, host.outside, &sent)
                };
                assert_eq!(decide(&[0xff]), Outcome::Keepalive);
                assert_eq!(decide(&[]), Outcome::Keepalive);
                assert_eq!(decide(&[0, 0, 0]), Outcome::Keepalive);
                assert_eq!(decide(&[0, 0, 0, 0]), Outcome::Ike);
                assert_eq!(decide(&[[0; 4].as_slice(), &[7; 28]].concat()), Outcome::Ike);
                assert_eq!(decide(&[0, 0, 0, 1]), Outcome::UdpEsp);
                assert_eq!(decide(&[1, 0, 0, 0]), Outcome::UdpEsp);
                assert_eq!(decide(&[0, 0, 1, 0]), Outcome::UdpEsp);
                assert_eq!(decide(&esp()), Outcome::UdpEsp);
            }
        }
    });
}

#[test]
fn a_keepalive_padded_by_ethernet_is_still_one() {
    on_a_host(|host| {
        let manager = host.protect(&protection());
        let [v4, _] = families();
        let mut sent = frame(&packet(v4.peer, v4.tunnel, UDP, &udp(4500, 4500, &[0xff])));
        sent.resize(60, 0);
        assert_eq!(ingress(&manager, host.outside, &sent), Outcome::Keepalive);
    });
}

#[test]
fn udp_encapsulated_esp_without_a_socket_is_dropped() {
    on_a_host(|host| {
        let manager = host.protect(&protection());
        for family in families() {
            let sent = frame(&packet(family.peer, family.tunnel, UDP, &udp(4500, 4500, &esp())));
            assert_eq!(ingress(&manager, host.outside, &sent), Outcome::NoSocket);
            assert_eq!(ingress(&manager, host.inside, &sent), Outcome::NoSocket);
        }
    });
}

#[test]
fn the_ports_are_those_of_the_configuration() {
    on_a_host(|host| {
        let manager = host.protect(&Protection { ike_port: 5500, nat_t_port: 14500, ..protection() });
        let [v4, _] = families();
        let to = |port| frame(&packet(v4.peer, v4.tunnel, UDP, &udp(500, port, &esp())));
        assert_eq!(ingress(&manager, host.outside, &to(5500)), Outcome::Ike);
        assert_eq!(ingress(&manager, host.outside, &to(14500)), Outcome::NoSocket);
        assert_eq!(ingress(&manager, host.outside, &to(500)), Outcome::Own);
        assert_eq!(ingress(&manager, host.outside, &to(4500)), Outcome::Own);
    });
}

#[test]
fn ike_passes_also_where_the_policy_is_between_the_gateways_themselves() {
    on_a_host(|host| {
        let mut protection = protection();
        for family in families() {
            protection.local.insert(family.tunnel.into());
            protection.remote.insert(family.peer.into());
        }
        let manager = host.protect(&protection);
        for family in families() {
            let (src, dst) = (family.peer, family.tunnel);
            let decide = |packet: &[u8]| ingress(&manager, host.outside, &frame(packet));
            assert_eq!(decide(&packet(src, dst, UDP, &udp(500, 500, &[7; 28]))), Outcome::Ike);
            assert_eq!(decide(&packet(src, dst, UDP, &udp(4500, 4500, &[0; 28]))), Outcome::Ike);
            assert_eq!(decide(&packet(src, dst, ESP, &esp())), Outcome::NoSocket);
            // All that is not IKE or ESP belongs in the tunnel.
            assert_eq!(decide(&packet(src, dst, UDP, &udp(500, 53, &[7; 28]))), Outcome::ClearInbound);
            assert_eq!(decide(&packet(src, dst, TCP, &[0; 20])), Outcome::ClearInbound);
            // IKE in fragments: the first says what it is, and without it the others are nothing.
            let first = udp(500, 500, &[7; 40]);
            assert_eq!(decide(&fragment_of(src, dst, UDP, 0, true, &first)), Outcome::Ike);
            assert_eq!(decide(&fragment_of(src, dst, UDP, 6, false, &[7; 40])), Outcome::Ike);
            let first = udp(500, 53, &[7; 40]);
            assert_eq!(decide(&fragment_of(src, dst, UDP, 0, true, &first)), Outcome::ClearInbound);
            assert_eq!(decide(&fragment_of(src, dst, TCP, 6, false, &[7; 40])), Outcome::ClearInbound);
        }
    });
}

#[test]
fn inside_what_is_between_protected_prefixes_goes_to_the_socket() {
    on_a_host(|host| {
        let mut manager = host.protect(&protection());
        let socket = xsk();
        for family in families() {
            for tags in TAGS {
                let decide = |manager: &_, src, dst| {
                    ingress(manager, host.inside, &tagged(tags, &packet(src, dst, TCP, &[0; 20])))
                };
                assert_eq!(decide(&manager, family.local, family.remote), Outcome::NoSocket);
                manager.set_xsk(host.inside, 0, socket.as_fd()).unwrap();
                assert_eq!(decide(&manager, family.local, family.remote), Outcome::Protected);
                manager.unset_xsk(host.inside, 0).unwrap();
                assert_eq!(decide(&manager, family.local, family.stranger), Outcome::Transit);
                assert_eq!(decide(&manager, family.stranger, family.remote), Outcome::Transit);
                assert_eq!(decide(&manager, family.local, family.inside), Outcome::Own);
                assert_eq!(decide(&manager, family.local, family.tunnel), Outcome::Own);
            }
        }
    });
}

#[test]
fn where_the_hosts_firewall_is_asked_what_is_protected_goes_to_the_kernel_and_nothing_else_changes() {
    on_a_host(|host| {
        let mut manager = host.protect(&Protection { firewall: true, ..protection() });
        let socket = xsk();
        for interface in [host.inside, host.outside] {
            manager.set_xsk(interface, 0, socket.as_fd()).unwrap();
        }
        for family in families() {
            let decide =
                |interface, src, dst| ingress(&manager, interface, &frame(&packet(src, dst, TCP, &[0; 20])));
            assert_eq!(decide(host.inside, family.local, family.remote), Outcome::Firewalled);
            assert_eq!(decide(host.inside, family.local, family.stranger), Outcome::Transit);
            assert_eq!(decide(host.outside, family.remote, family.local), Outcome::ClearInbound);
            let sealed = frame(&packet(family.peer, family.tunnel, ESP, &esp()));
            assert_eq!(ingress(&manager, host.outside, &sealed), Outcome::Esp);
        }
    });
}

#[test]
fn inside_fragments_without_ports_are_protected_too() {
    on_a_host(|host| {
        let manager = host.protect(&protection());
        for family in families() {
            for (offset, more) in [(0, true), (9, true), (9, false)] {
                let part = frame(&fragment_of(family.local, family.remote, UDP, offset, more, &[0; 48]));
                assert_eq!(ingress(&manager, host.inside, &part), Outcome::NoSocket);
            }
        }
    });
}

#[test]
fn outside_clear_text_from_or_to_a_protected_prefix_is_dropped() {
    on_a_host(|host| {
        let manager = host.protect(&protection());
        for family in families() {
            for tags in TAGS {
                let decide = |src, dst| {
                    ingress(&manager, host.outside, &tagged(tags, &packet(src, dst, TCP, &[0; 20])))
                };
                assert_eq!(decide(family.remote, family.local), Outcome::ClearInbound);
                assert_eq!(decide(family.remote, family.stranger), Outcome::ClearInbound);
                assert_eq!(decide(family.stranger, family.remote), Outcome::ClearInbound);
                assert_eq!(decide(family.remote, family.inside), Outcome::ClearInbound);
                assert_eq!(decide(family.stranger, family.local), Outcome::Transit);
                assert_eq!(decide(family.stranger, family.tunnel), Outcome::Own);
                assert_eq!(decide(family.stranger, family.inside), Outcome::Own);
                // The outside address is in no policy.
                assert_eq!(decide(family.remote, family.tunnel), Outcome::Own);
            }
        }
    });
}

#[test]
fn protecting_everything_does_not_cut_off_the_outside_address() {
    on_a_host(|host| {
        let mut protection = protection_of_everything();
        protection.local = families().iter().map(|family| family.everything.parse().unwrap()).collect();
        let manager = host.protect(&protection);
        for family in families() {
            let decide = |src, dst| ingress(&manager, host.outside, &frame(&packet(src, dst, TCP, &[0; 20])));
            assert_eq!(decide(family.stranger, family.tunnel), Outcome::Own);
            assert_eq!(decide(family.stranger, family.outside), Outcome::Own);
            // But an address behind the tunnel is reached through the tunnel.
            assert_eq!(decide(family.stranger, family.inside), Outcome::ClearInbound);
            assert_eq!(decide(family.stranger, family.local), Outcome::ClearInbound);
        }
    });
}

#[test]
fn a_longer_prefix_beside_everything_still_counts() {
    on_a_host(|host| {
        let mut protection = protection_of_everything();
        for family in families() {
            protection.local.insert(family.tunnel.into());
            protection.remote.insert(family.remote_prefix.parse().unwrap());
        }
        let manager = host.protect(&protection);
        for family in families() {
            let decide =
                |src| ingress(&manager, host.outside, &frame(&packet(src, family.tunnel, TCP, &[0; 20])));
            assert_eq!(decide(family.stranger), Outcome::Own);
            assert_eq!(decide(family.remote), Outcome::ClearInbound);
        }
    });
}

#[test]
fn what_never_leaves_the_link_passes() {
    on_a_host(|host| {
        let manager = host.protect(&protection_of_everything());
        let cases = [
            (addr("0.0.0.0"), addr("255.255.255.255")),
            (addr("203.0.113.7"), addr("169.254.1.1")),
            (addr("203.0.113.7"), addr("224.0.0.5")),
            (addr("203.0.113.7"), addr("239.255.255.250")),
            (addr("::"), addr("ff02::1:ff00:1")),
            (addr("2001:db8::7"), addr("fe80::1")),
            (addr("fe80::2"), addr("2001:db8:1::5")),
            (addr("febf::2"), addr("2001:db8:1::5")),
        ];
        for interface in [host.outside, host.inside] {
            for (src, dst) in cases {
                for tags in TAGS {
                    let sent = tagged(tags, &packet(src, dst, UDP, &udp(68, 67, &[0; 8])));
                    assert_eq!(ingress(&manager, interface, &sent), Outcome::LinkScope, "{src} {dst}");
                }
            }
        }
        let beyond = [
            (addr("203.0.113.7"), addr("240.0.0.1")),
            (addr("203.0.113.7"), addr("223.255.255.255")),
            (addr("203.0.113.7"), addr("255.255.255.254")),
            (addr("169.254.1.1"), addr("10.1.0.5")),
            (addr("fec0::1"), addr("2001:db8:1::5")),
            (addr("fe7f::1"), addr("2001:db8:1::5")),
        ];
        for (src, dst) in beyond {
            let sent = frame(&packet(src, dst, UDP, &udp(68, 67, &[0; 8])));
            assert_eq!(ingress(&manager, host.outside, &sent), Outcome::ClearInbound, "{src} {dst}");
        }
    });
}

#[test]
fn neighbour_discovery_passes_only_if_no_router_has_touched_it() {
    on_a_host(|host| {
        let [_, v6] = families();
        let mut protection = protection();
        protection.local.insert(v6.tunnel.into());
        protection.remote.insert(v6.peer.into());
        let manager = host.protect(&protection);
        let decide = |kind: u8, code: u8, hop_limit| {
            let mut message = vec![kind, code, 0, 0];
            message.resize(32, 0);
            ingress(&manager, host.outside, &frame(&ipv6(v6.peer, v6.tunnel, ICMPV6, hop_limit, &message)))
        };
        for kind in 133..=137 {
            assert_eq!(decide(kind, 0, 255), Outcome::LinkScope);
            assert_eq!(decide(kind, 0, 254), Outcome::ClearInbound);
            assert_eq!(decide(kind, 1, 255), Outcome::ClearInbound);
        }
        for kind in [128, 129, 132, 138] {
            assert_eq!(decide(kind, 0, 255), Outcome::ClearInbound);
        }
        let message = fragment(ICMPV6, 0, true, &[136, 0, 0, 0, 0, 0, 0, 0]);
        let part = frame(&ipv6(v6.peer, v6.tunnel, 44, 255, &message));
        assert_eq!(ingress(&manager, host.outside, &part), Outcome::ClearInbound);
    });
}

#[test]
fn what_is_not_ip_passes() {
    on_a_host(|host| {
        let manager = host.protect(&protection_of_everything());
        for ethertype in [0x0806_u16, 0x88cc, 0x8847, 0x0042] {
            let mut sent = vec![0xff; 12];
            sent.extend(ethertype.to_be_bytes());
            sent.extend([0; 46]);
            for interface in [host.outside, host.inside] {
                assert_eq!(ingress(&manager, interface, &sent), Outcome::NonIp);
            }
        }
    });
}

#[test]
fn an_interface_without_a_role_is_left_alone() {
    on_a_host(|host| {
        let mut manager = host.protect(&protection());
        let [v4, _] = families();
        let clear = frame(&packet(v4.remote, v4.local, TCP, &[0; 20]));
        assert_eq!(ingress(&manager, host.outside, &clear), Outcome::ClearInbound);
        // The loopback interface has no XDP program, and a trial without an interface is one on it.
        assert_eq!(ingress(&manager, 1, &clear), Outcome::UnknownInterface);
        manager.detach(host.outside).unwrap();
        assert!(!manager.interfaces().unwrap().contains_key(&host.outside));
    });
}
