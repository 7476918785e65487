//! The rules for what goes out.

use portcullis_gateway::xdp::Outcome;

use crate::frames::{
    ESP, ICMPV6, TCP, UDP, esp, families, fragment_of, frame, ipv4, ipv6, packet, tagged, udp,
};
use crate::host::{egress, on_a_host, protection, protection_of_everything};

const TAGS: [usize; 3] = [0, 1, 2];

#[test]
fn clear_text_between_protected_prefixes_is_dropped() {
    on_a_host(|host| {
        let manager = host.protect(&protection());
        for family in families() {
            for tags in TAGS {
                let decide = |src, dst| {
                    egress(&manager, host.outside, &tagged(tags, &packet(src, dst, TCP, &[0; 20])))
                };
                assert_eq!(decide(family.local, family.remote), Outcome::ClearOutbound);
                assert_eq!(decide(family.inside, family.remote), Outcome::ClearOutbound);
                assert_eq!(decide(family.local, family.stranger), Outcome::OutClear);
                assert_eq!(decide(family.stranger, family.remote), Outcome::OutClear);
                assert_eq!(decide(family.tunnel, family.remote), Outcome::OutClear);
                assert_eq!(decide(family.tunnel, family.stranger), Outcome::OutClear);
            }
            for (offset, more) in [(0, true), (9, false)] {
                let part = frame(&fragment_of(family.local, family.remote, UDP, offset, more, &[0; 48]));
                assert_eq!(egress(&manager, host.outside, &part), Outcome::ClearOutbound);
            }
        }
    });
}

#[test]
fn esp_passes_from_tunnel_addresses_only() {
    on_a_host(|host| {
        let mut protection = protection();
        for family in families() {
            protection.local.insert(family.tunnel.into());
            protection.local.insert(family.outside.into());
            protection.remote.insert(family.peer.into());
        }
        let manager = host.protect(&protection);
        for family in families() {
            let from = |src, protocol| frame(&packet(src, family.peer, protocol, &esp()));
            assert_eq!(egress(&manager, host.outside, &from(family.tunnel, ESP)), Outcome::OutEsp);
            assert_eq!(egress(&manager, host.outside, &from(family.outside, ESP)), Outcome::ClearOutbound);
            assert_eq!(egress(&manager, host.outside, &from(family.tunnel, TCP)), Outcome::ClearOutbound);
        }
    });
}

#[test]
fn ike_passes_from_own_addresses_only() {
    on_a_host(|host| {
        let mut protection = protection();
        for family in families() {
            protection.local.insert(family.tunnel.into());
            protection.remote.insert(family.peer.into());
        }
        let manager = host.protect(&protection);
        for family in families() {
            let decide = |src, dst, from, to| {
                let datagram = udp(from, to, &[1; 32]);
                egress(&manager, host.outside, &frame(&packet(src, dst, UDP, &datagram)))
            };
            assert_eq!(decide(family.tunnel, family.peer, 500, 500), Outcome::OutIke);
            assert_eq!(decide(family.tunnel, family.peer, 4500, 61234), Outcome::OutIke);
            assert_eq!(decide(family.tunnel, family.peer, 53, 500), Outcome::ClearOutbound);
            assert_eq!(decide(family.local, family.remote, 500, 500), Outcome::ClearOutbound);
            // What cannot be seen to be IKE is not.
            let later = frame(&fragment_of(family.tunnel, family.peer, UDP, 6, false, &[7; 40]));
            assert_eq!(egress(&manager, host.outside, &later), Outcome::ClearOutbound);
        }
    });
}

#[test]
fn protecting_everything_leaves_the_hosts_own_management_traffic() {
    on_a_host(|host| {
        let mut protection = protection_of_everything();
        protection.local = families().iter().map(|family| family.everything.parse().unwrap()).collect();
        let manager = host.protect(&protection);
        for family in families() {
            let decide = |src, dst| egress(&manager, host.outside, &frame(&packet(src, dst, TCP, &[0; 20])));
            assert_eq!(decide(family.tunnel, family.stranger), Outcome::OutClear);
            assert_eq!(decide(family.outside, family.stranger), Outcome::OutClear);
            assert_eq!(decide(family.inside, family.stranger), Outcome::ClearOutbound);
            assert_eq!(decide(family.local, family.stranger), Outcome::ClearOutbound);
        }
    });
}

#[test]
fn what_never_leaves_the_link_passes() {
    on_a_host(|host| {
        let mut protection = protection_of_everything();
        protection.local = families().iter().map(|family| family.everything.parse().unwrap()).collect();
        let manager = host.protect(&protection);
        for family in families() {
            let sent = frame(&packet(family.local, family.multicast, UDP, &udp(5353, 5353, &[0; 12])));
            assert_eq!(egress(&manager, host.outside, &sent), Outcome::OutLinkScope);
        }
        let [_, v6] = families();
        let mut message = vec![135, 0, 0, 0];
        message.resize(24, 0);
        let whole = |hop_limit| frame(&ipv6(v6.inside, v6.remote, ICMPV6, hop_limit, &message));
        assert_eq!(egress(&manager, host.outside, &whole(255)), Outcome::OutLinkScope);
        assert_eq!(egress(&manager, host.outside, &whole(254)), Outcome::ClearOutbound);
    });
}

#[test]
fn only_outside_interfaces_are_guarded() {
    on_a_host(|host| {
        let manager = host.protect(&protection());
        let [v4, _] = families();
        let clear = frame(&packet(v4.local, v4.remote, TCP, &[0; 20]));
        assert_eq!(egress(&manager, host.inside, &clear), Outcome::OutUnguarded);
        let mut arp = vec![0xff; 12];
        arp.extend([0x08, 0x06]);
        arp.extend([0; 28]);
        assert_eq!(egress(&manager, host.outside, &arp), Outcome::OutUnguarded);
    });
}

#[test]
fn a_giant_whose_length_field_says_nothing_is_judged_by_its_addresses() {
    on_a_host(|host| {
        let manager = host.protect(&protection());
        let [v4, v6] = families();
        let mut giant = ipv4(v4.local, v4.remote, TCP, &[], 0, &[0; 20]);
        giant[2..4].copy_from_slice(&[0, 0]);
        assert_eq!(egress(&manager, host.outside, &frame(&giant)), Outcome::ClearOutbound);
        // A jumbogram (RFC 2675): length 0, and a hop-by-hop header that holds the true one.
        let mut giant = ipv6(v6.local, v6.remote, 0, 64, &crate::frames::extension(TCP, 1, &[0; 20]));
        giant[4..6].copy_from_slice(&[0, 0]);
        assert_eq!(egress(&manager, host.outside, &frame(&giant)), Outcome::ClearOutbound);
    });
}
