//! What outlives whom.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use portcullis_ebpf_common::MAX_INTERFACES;
use portcullis_gateway::xdp::{
    AttachError, Attached, Guard, LoadError, Mode, ModeRequest, Outcome, Protection, Role, Side, XdpManager,
    detach_all,
};

use crate::frames::{ESP, TCP, UDP, esp, families, frame, packet, udp};
use crate::host::{
    Wire, count, drop_capabilities, egress, ingress, ip, is_pinned, net, on_a_host, protection,
    protection_of_everything, tc,
};

#[test]
fn protection_outlives_the_process_that_set_it_up() {
    on_a_host(|host| {
        let [v4, _] = families();
        drop(host.protect(&protection()));

        let (far, near) = (Wire::open("out1"), Wire::open("out0"));
        let clear = frame(&packet(v4.remote, v4.local, TCP, &[0; 46]));
        let innocent = innocent_frame();
        far.send(&clear);
        far.send(&innocent);
        assert!(!near.receive_until(&innocent).contains(&clear));

        ip(&["addr", "add", "10.1.0.1/24", "dev", "out0"]);
        ip(&["route", "add", "10.2.0.0/16", "dev", "out0"]);
        ip(&["neigh", "add", "10.2.0.5", "lladdr", "02:00:00:00:00:01", "dev", "out0"]);
        ip(&["neigh", "add", "10.1.0.77", "lladdr", "02:00:00:00:00:01", "dev", "out0"]);
        let socket = UdpSocket::bind("10.1.0.1:7777").unwrap();
        // Refused or swallowed: both will do.
        let _ = socket.send_to(b"clear text", "10.2.0.5:7777");
        near.send(&innocent);
        assert!(far.receive_until(&innocent).iter().all(|seen| !seen.ends_with(b"clear text")));

        let manager = XdpManager::load(&host.pin_dir, &protection()).unwrap();
        assert_eq!(count(&manager, Outcome::ClearInbound), 1);
        assert_eq!(count(&manager, Outcome::ClearOutbound), 1);
    });
}

#[test]
fn the_next_process_replaces_the_programs_in_place() {
    on_a_host(|host| {
        let [v4, _] = families();
        let clear = frame(&packet(v4.remote, v4.local, TCP, &[0; 46]));
        drop(host.protect(&protection()));
        let before = programs();
        let (far, near) = (Wire::open("out1"), Wire::open("out0"));
        let done = Arc::new(AtomicBool::new(false));
        let flood = std::thread::spawn({
            let (done, clear) = (Arc::clone(&done), clear.clone());
            move || {
                let mut sent = 0;
                while !done.load(Ordering::Relaxed) {
                    far.send(&clear);
                    sent += 1;
                }
                far.send(&innocent_frame());
                sent
            }
        });

        let mut second = XdpManager::load(&host.pin_dir, &protection()).unwrap();
        assert_eq!(programs(), before, "nothing is replaced by loading");
        let attached = second.attach(host.outside, Role::Outside, ModeRequest::Auto).unwrap();
        assert_eq!(attached, Attached { mode: Mode::Native, guard: Some(Guard::Tcx) });
        second.attach(host.inside, Role::Inside, ModeRequest::Auto).unwrap();
        let after = programs();
        assert_eq!(after.len(), before.len());
        assert!(before.iter().all(|id| !after.contains(id)), "{before:?} {after:?}");

        done.store(true, Ordering::Relaxed);
        let sent = flood.join().unwrap();
        assert!(!near.receive_until(&innocent_frame()).contains(&clear));
        assert_eq!(count(&second, Outcome::ClearInbound), sent, "before, while and after");
    });
}

/// A frame that passes in clear.
fn innocent_frame() -> Vec<u8> {
    let [v4, _] = families();
    frame(&packet(v4.stranger, v4.tunnel, TCP, &[0; 46]))
}

/// Ids of the programs on `out0` and `in0`: XDP and TCX.
fn programs() -> Vec<u64> {
    let mut ids = Vec::new();
    for name in ["out0", "in0"] {
        let shown =
            std::process::Command::new("ip").args(["-j", "-d", "link", "show", name]).output().unwrap();
        let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
        ids.extend(shown[0]["xdp"]["prog"]["id"].as_u64());
        let (_, guards) =
            aya::programs::SchedClassifier::query_tcx(name, aya::programs::TcAttachType::Egress).unwrap();
        ids.extend(guards.iter().map(|guard| u64::from(guard.id())));
    }
    ids
}

#[test]
fn the_next_process_finds_what_was_protected() {
    on_a_host(|host| {
        drop(host.protect(&protection()));
        let mut second = XdpManager::load(&host.pin_dir, &protection_of_everything()).unwrap();
        assert_eq!(second.protection(), Some(&protection_of_everything()));
        assert_eq!(second.interfaces().unwrap().len(), 2);
        // Brought up to date: prefixes that are no longer protected are gone.
        second.attach(host.outside, Role::Outside, ModeRequest::Auto).unwrap();
        second.update(&Protection { remote: [net("192.168.0.0/16")].into(), ..protection() }).unwrap();
        for family in families() {
            let clear = frame(&packet(family.remote, family.local, TCP, &[0; 20]));
            assert_eq!(ingress(&second, host.outside, &clear), Outcome::Transit);
        }
    });
}

#[test]
fn single_changes_take_effect_at_once() {
    on_a_host(|host| {
        let mut manager = host.protect(&protection());
        for family in families() {
            let clear = frame(&packet(family.stranger, family.local, TCP, &[0; 20]));
            assert_eq!(ingress(&manager, host.outside, &clear), Outcome::Transit);
            manager.add_prefix(Side::Remote, family.stranger.into()).unwrap();
            assert_eq!(ingress(&manager, host.outside, &clear), Outcome::ClearInbound);
            manager.remove_prefix(Side::Remote, family.stranger.into()).unwrap();
            assert_eq!(ingress(&manager, host.outside, &clear), Outcome::Transit);

            let sealed = frame(&packet(family.peer, family.outside, ESP, &esp()));
            assert_eq!(ingress(&manager, host.outside, &sealed), Outcome::Own);
            let used = protection().addresses[&family.tunnel];
            manager.set_address(family.outside, used).unwrap();
            assert_eq!(ingress(&manager, host.outside, &sealed), Outcome::NoSocket);
            manager.remove_address(family.outside).unwrap();
            assert_eq!(ingress(&manager, host.outside, &sealed), Outcome::Transit);
        }
        manager.update(&protection()).unwrap();
        assert_eq!(manager.protection(), Some(&protection()));
    });
}

#[test]
fn an_update_that_does_not_fit_protects_everything_until_one_does() {
    on_a_host(|host| {
        let mut manager = host.protect(&protection());
        let mut too_much = protection();
        for host in 0..=u16::MAX {
            let [high, low] = host.to_be_bytes();
            too_much.addresses.insert([172, 16, high, low].into(), Default::default());
        }
        let error = manager.update(&too_much).unwrap_err();
        assert!(error.to_string().contains("ADDRESSES_V4 is full"), "{error}");
        assert_eq!(manager.protection(), None);
        for family in families() {
            let decide =
                |src, dst, interface| ingress(&manager, interface, &frame(&packet(src, dst, TCP, &[0; 20])));
            assert_eq!(decide(family.stranger, family.peer, host.outside), Outcome::ClearInbound);
            assert_eq!(decide(family.stranger, family.peer, host.inside), Outcome::NoSocket);
            assert_eq!(decide(family.stranger, family.tunnel, host.outside), Outcome::Own);
            let ike = frame(&packet(family.peer, family.tunnel, UDP, &udp(500, 500, &[1; 28])));
            assert_eq!(ingress(&manager, host.outside, &ike), Outcome::Ike);
            let out = |src| egress(&manager, host.outside, &frame(&packet(src, family.peer, TCP, &[0; 20])));
            assert_eq!(out(family.stranger), Outcome::ClearOutbound);
            assert_eq!(out(family.tunnel), Outcome::OutClear);
        }
        manager.update(&protection()).unwrap();
        for family in families() {
            let transit = frame(&packet(family.stranger, family.peer, TCP, &[0; 20]));
            assert_eq!(ingress(&manager, host.outside, &transit), Outcome::Transit);
        }
    });
}

#[test]
fn an_interface_that_comes_back_under_its_index_is_attached_afresh() {
    on_a_host(|host| {
        let mut manager = host.protect(&protection());
        ip(&["link", "del", "out0"]);
        let gone = manager.attach(host.outside, Role::Outside, ModeRequest::Auto).unwrap_err();
        assert!(matches!(gone, AttachError::InterfaceGone { .. }), "{gone}");
        let index = host.outside.to_string();
        ip(&["link", "add", "out0", "index", &index, "type", "veth", "peer", "name", "out1"]);
        ip(&["link", "set", "out1", "up"]);
        ip(&["link", "set", "out0", "up"]);
        let attached = manager.attach(host.outside, Role::Outside, ModeRequest::Native).unwrap();
        assert_eq!(attached, Attached { mode: Mode::Native, guard: Some(Guard::Tcx) });
        assert_eq!(programs().len(), 3);
    });
}

#[test]
fn an_interface_that_is_gone_can_be_let_go() {
    on_a_host(|host| {
        let mut manager = host.protect(&protection());
        ip(&["link", "del", "out0"]);
        assert!(manager.interfaces().unwrap().contains_key(&host.outside));
        manager.detach(host.outside).unwrap();
        assert!(!manager.interfaces().unwrap().contains_key(&host.outside));
        assert!(!is_pinned(&host.links(), "xdp_native_", host.outside));
        ip(&["link", "del", "in0"]);
        assert_eq!(detach_all(&host.pin_dir).unwrap(), [host.inside]);
    });
}

#[test]
fn places_of_interfaces_that_are_gone_are_given_to_others() {
    on_a_host(|host| {
        let mut manager = host.protect(&protection());
        let mut add = |number: u32| {
            let name = format!("bridge{number}");
            ip(&["link", "add", &name, "type", "bridge"]);
            let ifindex = nix::net::if_::if_nametoindex(name.as_str()).unwrap();
            manager.attach(ifindex, Role::Inside, ModeRequest::Auto)
        };
        for number in 2..MAX_INTERFACES {
            assert_eq!(add(number).unwrap(), Attached { mode: Mode::Skb, guard: None });
        }
        let error = add(100).unwrap_err();
        assert!(matches!(error, AttachError::TooManyInterfaces { max: MAX_INTERFACES }), "{error:?}");
        ip(&["link", "del", "bridge2"]);
        add(101).unwrap();
        assert_eq!(manager.interfaces().unwrap().len(), MAX_INTERFACES as usize);
    });
}

#[test]
fn native_mode_is_refused_where_the_driver_has_none() {
    on_a_host(|host| {
        let mut manager = XdpManager::load(&host.pin_dir, &protection()).unwrap();
        ip(&["link", "add", "bridge0", "type", "bridge"]);
        let ifindex = nix::net::if_::if_nametoindex("bridge0").unwrap();
        let error = manager.attach(ifindex, Role::Inside, ModeRequest::Native).unwrap_err();
        assert!(matches!(error, AttachError::NativeUnsupported { .. }), "{error:?}");
        assert!(error.to_string().contains("xdp_mode"), "{error}");
    });
}

#[test]
fn an_interface_without_ethernet_headers_is_refused() {
    on_a_host(|host| {
        let mut manager = XdpManager::load(&host.pin_dir, &protection()).unwrap();
        ip(&["tuntap", "add", "tun0", "mode", "tun"]);
        let ifindex = nix::net::if_::if_nametoindex("tun0").unwrap();
        let error = manager.attach(ifindex, Role::Outside, ModeRequest::Auto).unwrap_err();
        assert!(matches!(error, AttachError::NotEthernet { .. }), "{error:?}");
    });
}

#[test]
fn a_process_without_privilege_is_told_which_it_needs() {
    on_a_host(|host| {
        // aya asks the kernel once what it can, which it must not do without privilege.
        drop(XdpManager::load(&host.pin_dir, &protection()).unwrap());
        let elsewhere = host.pin_dir.with_file_name("other");
        std::fs::create_dir(&elsewhere).unwrap();
        drop_capabilities();
        for pin_dir in [&host.pin_dir, &elsewhere] {
            let Err(error) = XdpManager::load(pin_dir, &protection()) else { panic!("loaded") };
            assert!(matches!(error, LoadError::MissingCapability(_)), "{error:?}");
        }
    });
}

#[test]
fn a_foreign_xdp_program_is_named_as_the_obstacle() {
    on_a_host(|host| {
        let elsewhere = host.pin_dir.with_file_name("other");
        let mut other = XdpManager::load(&elsewhere, &protection()).unwrap();
        other.attach(host.outside, Role::Inside, ModeRequest::Native).unwrap();
        let mut manager = XdpManager::load(&host.pin_dir, &protection()).unwrap();
        for request in [ModeRequest::Native, ModeRequest::Skb, ModeRequest::Auto] {
            let error = manager.attach(host.outside, Role::Inside, request).unwrap_err();
            assert!(matches!(error, AttachError::Occupied { .. }), "{error:?}");
        }
    });
}

#[test]
fn skb_mode_protects_as_well() {
    on_a_host(|host| {
        let [v4, _] = families();
        let mut manager = XdpManager::load(&host.pin_dir, &protection()).unwrap();
        let attached = manager.attach(host.outside, Role::Outside, ModeRequest::Skb).unwrap();
        assert_eq!(attached.mode, Mode::Skb);
        let again = manager.attach(host.outside, Role::Outside, ModeRequest::Auto).unwrap();
        assert_eq!(again.mode, Mode::Skb, "an attached interface keeps its mode");
        let (far, near) = (Wire::open("out1"), Wire::open("out0"));
        let clear = frame(&packet(v4.remote, v4.local, TCP, &[0; 46]));
        let innocent = innocent_frame();
        far.send(&clear);
        far.send(&innocent);
        assert!(!near.receive_until(&innocent).contains(&clear));
        assert_eq!(count(&manager, Outcome::ClearInbound), 1);
    });
}

#[test]
fn without_tcx_the_guard_is_a_filter_that_stays_and_is_replaced_likewise() {
    on_a_host(|host| {
        let [v4, _] = families();
        let clear = frame(&packet(v4.local, v4.remote, TCP, &[0; 46]));
        let innocent = frame(&packet(v4.tunnel, v4.stranger, TCP, &[0; 46]));
        let (far, near) = (Wire::open("out1"), Wire::open("out0"));
        for _ in 0..2 {
            let mut manager = XdpManager::load(&host.pin_dir, &protection()).unwrap();
            manager.without_tcx();
            let attached = manager.attach(host.outside, Role::Outside, ModeRequest::Auto).unwrap();
            assert_eq!(attached.guard, Some(Guard::Clsact));
            drop(manager);
            near.send_or_refuse(&clear);
            near.send(&innocent);
            assert!(!far.receive_until(&innocent).contains(&clear));
        }
        assert!(is_pinned(&host.links(), "clsact_", host.outside));
        // Somebody has removed it behind our back.
        tc(&["qdisc", "del", "dev", "out0", "clsact"]);
        let mut manager = XdpManager::load(&host.pin_dir, &protection()).unwrap();
        manager.attach(host.outside, Role::Outside, ModeRequest::Auto).unwrap();
        near.send_or_refuse(&clear);
        near.send(&innocent);
        assert!(!far.receive_until(&innocent).contains(&clear));
        assert_eq!(detach_all(&host.pin_dir).unwrap(), [host.outside]);
        near.send(&clear);
        assert!(far.receive_until(&clear).is_empty());
    });
}

#[test]
fn detach_all_opens_also_while_the_owner_lives() {
    on_a_host(|host| {
        let [v4, _] = families();
        let manager = host.protect(&protection());
        assert!(is_pinned(&host.links(), "xdp_native_", host.outside));
        assert!(is_pinned(&host.links(), "tcx_", host.outside));
        assert!(!is_pinned(&host.links(), "tcx_", host.inside));
        assert_eq!(programs().len(), 3);
        let mut expected = vec![host.outside, host.inside];
        expected.sort_unstable();
        assert_eq!(detach_all(&host.pin_dir).unwrap(), expected);
        assert!(programs().is_empty());
        assert!(!host.pin_dir.exists());
        let (far, near) = (Wire::open("out1"), Wire::open("out0"));
        let clear = frame(&packet(v4.remote, v4.local, TCP, &[0; 46]));
        far.send(&clear);
        near.receive_until(&clear);
        drop(manager);
        assert!(detach_all(&host.pin_dir).unwrap().is_empty(), "once more is no error");
    });
}

#[test]
fn a_pin_directory_elsewhere_is_refused_with_the_remedy() {
    on_a_host(|_| {
        let directory = tempfile::tempdir().unwrap();
        let Err(error) = XdpManager::load(directory.path(), &protection()) else { panic!("loaded") };
        assert!(matches!(error, LoadError::NotBpffs { .. }), "{error:?}");
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
    });
}

#[test]
fn a_pinned_map_of_another_shape_is_refused() {
    on_a_host(|host| {
        drop(XdpManager::load(&host.pin_dir, &protection()).unwrap());
        let maps = host.pin_dir.join(format!("maps_v{}", portcullis_ebpf_common::LAYOUT_VERSION));
        std::fs::rename(maps.join("CONFIG"), maps.join("COUNTERS")).unwrap();
        let Err(error) = XdpManager::load(&host.pin_dir, &protection()) else { panic!("loaded") };
        assert!(matches!(error, LoadError::IncompatiblePin { .. }), "{error:?}");
    });
}

#[test]
fn maps_of_another_layout_are_unpinned() {
    on_a_host(|host| {
        drop(XdpManager::load(&host.pin_dir, &protection()).unwrap());
        let other = host.pin_dir.join("maps_v0");
        std::fs::create_dir(&other).unwrap();
        drop(XdpManager::load(&host.pin_dir, &protection()).unwrap());
        assert!(!other.exists());
    });
}

/// The daemon owns it, whichever of its threads that is.
#[test]
fn the_manager_can_change_threads() {
    fn is_send<T: Send>() {}
    is_send::<XdpManager>();
}
