//! What a policy bypasses may come in clear by an outside interface; a worker has the last word.

use std::os::fd::AsFd;

use portcullis_gateway::xdp::{Outcome, Protection};

use crate::frames::{Family, TCP, families, frame, packet};
use crate::host::{egress, ingress, net, on_a_host, protection, protection_of_everything, xsk};

/// Half of the remote prefix bypasses.
fn passing(mut protection: Protection) -> Protection {
    for family in families() {
        protection.pass_local.insert(net(family.local_prefix));
        protection.pass_remote.insert(net(family.remote_prefix));
    }
    protection
}

fn clear(from: std::net::IpAddr, to: std::net::IpAddr) -> Vec<u8> {
    frame(&packet(from, to, TCP, &[0; 20]))
}

#[test]
fn clear_text_between_bypassed_prefixes_goes_to_a_worker() {
    on_a_host(|host| {
        for protected in [protection(), protection_of_everything()] {
            let mut manager = host.protect(&protected);
            let socket = xsk();
            manager.set_xsk(host.outside, 0, socket.as_fd()).unwrap();
            for Family { local, remote, .. } in families() {
                assert_eq!(ingress(&manager, host.outside, &clear(remote, local)), Outcome::ClearInbound);
            }
            manager.update(&passing(protected.clone())).unwrap();
            for Family { local, remote, stranger, inside, .. } in families() {
                assert_eq!(ingress(&manager, host.outside, &clear(remote, local)), Outcome::Bypassed);
                // The host's own address within the local prefix, too.
                assert_eq!(ingress(&manager, host.outside, &clear(remote, inside)), Outcome::Bypassed);
                // Both ends count.
                assert_eq!(ingress(&manager, host.outside, &clear(remote, stranger)), Outcome::ClearInbound);
                // What goes out is the workers' affair, and the kernel's nowhere.
                assert_eq!(egress(&manager, host.outside, &clear(local, remote)), Outcome::ClearOutbound);
            }
            manager.unset_xsk(host.outside, 0).unwrap();
            for Family { local, remote, .. } in families() {
                assert_eq!(ingress(&manager, host.outside, &clear(remote, local)), Outcome::NoSocket);
            }
            manager.update(&protected).unwrap();
            for Family { local, remote, .. } in families() {
                assert_eq!(ingress(&manager, host.outside, &clear(remote, local)), Outcome::ClearInbound);
            }
        }
    });
}

#[test]
fn where_nothing_is_protected_a_bypass_policy_changes_nothing() {
    on_a_host(|host| {
        let mut bare = passing(protection());
        bare.local.clear();
        bare.remote.clear();
        let manager = host.protect(&bare);
        for Family { local, remote, .. } in families() {
            assert_eq!(ingress(&manager, host.outside, &clear(remote, local)), Outcome::Transit);
            assert_eq!(ingress(&manager, host.inside, &clear(local, remote)), Outcome::Transit);
            assert_eq!(egress(&manager, host.outside, &clear(local, remote)), Outcome::OutClear);
        }
    });
}
