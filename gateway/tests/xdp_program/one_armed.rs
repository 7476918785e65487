//! One interface for both sides: the longer of the prefixes that hold an address says on which side it is.

use std::os::fd::AsFd;

use portcullis_gateway::xdp::{ModeRequest, Outcome, Protection, Role, XdpManager};

use crate::frames::{ESP, Family, TCP, esp, families, frame, packet};
use crate::host::{Host, egress, ingress, net, on_a_host, protection, protection_of_everything, xsk};

fn clear(from: std::net::IpAddr, to: std::net::IpAddr) -> Vec<u8> {
    frame(&packet(from, to, TCP, &[0; 20]))
}

fn one_armed(host: &Host, protection: &Protection) -> XdpManager {
    let mut manager = host.protect(protection);
    manager.attach(host.outside, Role::Both, ModeRequest::Native).unwrap();
    manager
}

#[test]
fn clear_text_of_protected_hosts_goes_to_a_worker_and_what_claims_to_be_a_peers_nowhere() {
    on_a_host(|host| {
        for protected in [protection(), protection_of_everything()] {
            let mut manager = one_armed(host, &protected);
            let socket = xsk();
            manager.set_xsk(host.outside, 0, socket.as_fd()).unwrap();
            for Family { local, remote, peer, tunnel, inside, .. } in families() {
                let decide = |frame: &[u8]| ingress(&manager, host.outside, frame);
                assert_eq!(decide(&frame(&packet(peer, tunnel, ESP, &esp()))), Outcome::Esp);
                assert_eq!(decide(&clear(local, remote)), Outcome::Protected);
                assert_eq!(decide(&clear(remote, local)), Outcome::ClearInbound);
                assert_eq!(decide(&clear(remote, inside)), Outcome::ClearInbound);
                // The gateway's own addresses are reached by its hosts.
                assert_eq!(decide(&clear(local, inside)), Outcome::Own);
                // On the way out, the kernel's own: to peers' hosts never, to its own hosts always.
                assert_eq!(egress(&manager, host.outside, &clear(local, remote)), Outcome::ClearOutbound);
                assert_eq!(egress(&manager, host.outside, &clear(inside, local)), Outcome::OutClear);
            }
            manager.unset_xsk(host.outside, 0).unwrap();
            for Family { local, remote, .. } in families() {
                assert_eq!(ingress(&manager, host.outside, &clear(local, remote)), Outcome::NoSocket);
            }
        }
    });
}

#[test]
fn where_everything_is_ours_what_the_peers_have_is_still_theirs() {
    on_a_host(|host| {
        let mut protected = protection();
        protected.local = families().iter().map(|family| net(family.everything)).collect();
        let mut manager = one_armed(host, &protected);
        let socket = xsk();
        manager.set_xsk(host.outside, 0, socket.as_fd()).unwrap();
        for Family { local, remote, stranger, .. } in families() {
            for host_of_ours in [local, stranger] {
                assert_eq!(ingress(&manager, host.outside, &clear(host_of_ours, remote)), Outcome::Protected);
                assert_eq!(
                    ingress(&manager, host.outside, &clear(remote, host_of_ours)),
                    Outcome::ClearInbound
                );
            }
        }
    });
}
