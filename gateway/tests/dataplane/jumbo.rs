//! Packets larger than a frame: they come and go in several.

use std::net::IpAddr;
use std::time::Duration;

use portcullis_gateway::dataplane::DataplaneConfig;
use portcullis_gateway::worker::Fault;
use portcullis_ipsec::Encapsulation;
use portcullis_lab::{Capture, Chatter, Class, LinkOptions, Sites};

use crate::gateway::{A, B, Gateway, config, in_flight, until};

const SOON: Duration = Duration::from_secs(30);
/// Octets of data in an echo request that fills 9000 octets, and of one whose packet, sealed, does.
const FULL: u32 = 9000 - 28;
const SEALED: u32 = 8946 - 28;

fn sites(name: &str, mtu: u32) -> Sites {
    Sites::with(name, LinkOptions { mtu, ..LinkOptions::default() }).unwrap()
}

/// Demands that all that came has gone somewhere, and that every frame is somewhere.
fn all_is_accounted_for(gateways: [Gateway; 2]) {
    for gateway in gateways {
        until("all packets have gone somewhere", || in_flight(&gateway.stats()) == 0);
        gateway.every_frame_has_an_owner();
        gateway.dataplane.stop().unwrap();
    }
}

#[test]
fn packets_of_9000_octets_and_small_ones_pass_a_tunnel_whole() {
    let sites = sites("jumbo", 9000);
    let (a, b) = Gateway::pair(&sites);
    let wire = sites.capture().unwrap();
    for encapsulation in [Encapsulation::None, Encapsulation::Udp { local_port: 4500, remote_port: 4500 }] {
        a.connect(&b, encapsulation);
        // Around the sizes of one frame and of two, and as large as it gets.
        for size in [56, 3700, 3812, 3840, 4000, 7600, 7700, 8900 - 28, SEALED - 16] {
            for (host, to) in [(&sites.client, Sites::SERVER), (&sites.server, Sites::CLIENT)] {
                let answers = host.ping_with(to, 5, size, &["-M", "do"]).unwrap();
                assert!(answers.complete(), "{size}: {answers:?} {:?} {:?}", a.stats(), b.stats());
            }
        }
        let answers = sites.client.ping_with(Sites::SERVER_V6, 5, SEALED - 40, &["-M", "do"]).unwrap();
        assert!(answers.complete(), "{answers:?} {:?} {:?}", a.stats(), b.stats());
        // The host's own packets go through the TUN device.
        let answers = sites.a.ping_with(Sites::SERVER, 3, 8000, &["-M", "do", "-I", "10.1.0.1"]).unwrap();
        assert!(answers.complete(), "{answers:?} {:?} {:?}", a.stats(), b.stats());
    }
    // Large and small at once.
    let one_by_one = ["-l", "1", "-i", "0.005"];
    std::thread::scope(|scope| {
        let small = scope.spawn(|| sites.client.ping_with(Sites::SERVER, 200, 56, &one_by_one).unwrap());
        while !small.is_finished() {
            let large = sites.client.ping_with(Sites::SERVER, 40, SEALED - 16, &["-M", "do"]).unwrap();
            assert!(large.complete(), "{large:?} {:?} {:?}", a.stats(), b.stats());
        }
        let small = small.join().unwrap();
        assert!(small.complete(), "{small:?} {:?} {:?}", a.stats(), b.stats());
    });
    assert_eq!(wire.settle().unwrap().packets(Class::Clear), 0, "{:?}", wire.clear_text());
    all_is_accounted_for([a, b]);
}

#[test]
fn what_is_too_big_for_the_tunnel_is_told_of_or_cut_into_pieces_that_are_larger_than_a_frame() {
    let sites = sites("jumbocut", 9000);
    let (a, b) = Gateway::pair(&sites);
    a.connect(&b, Encapsulation::None);
    let told = Capture::start(&sites.client, "eth0", &[]).unwrap();
    let pings = sites.client.ping_with(Sites::SERVER, 1, FULL, &["-M", "do"]).unwrap();
    assert_eq!(pings.received, 0);
    // ICMP, "fragmentation needed", and the MTU that would do.
    let needed = |frame: &portcullis_lab::Frame| {
        let icmp = frame.headers().filter(|ip| ip.source == Sites::A_INSIDE && ip.protocol == 1);
        let mtu = |octets: &[u8]| u16::from_be_bytes([octets[6], octets[7]]);
        icmp.is_some_and(|ip| ip.payload.starts_with(&[3, 4]) && (8900..9000).contains(&mtu(ip.payload)))
    };
    told.wait_frame("the tunnel's MTU", SOON, needed).unwrap();
    // Another host, which has not heard of it.
    sites.client.ip("route flush cache").unwrap();
    let answers = sites.client.ping_with(Sites::SERVER, 3, FULL, &["-M", "dont"]).unwrap();
    assert!(answers.complete(), "{answers:?} {:?} {:?}", a.stats(), b.stats());
    all_is_accounted_for([a, b]);
}

#[test]
fn what_is_not_protected_is_the_kernels_in_whatever_pieces_it_comes() {
    let sites = sites("jumbopass", 9000);
    let (a, b) = Gateway::pair(&sites);
    // Between the gateways, and through one of them to a network that no policy covers.
    let own = sites.a.ping_with(Sites::B_OUTSIDE, 5, FULL, &["-M", "do"]).unwrap();
    assert!(own.complete(), "{own:?}");
    let other: IpAddr = "10.9.0.1".parse().unwrap();
    sites.b.address("lo", "10.9.0.1/32").unwrap();
    sites.b.ip("route add 10.1.0.0/24 via 192.0.2.1 src 10.9.0.1").unwrap();
    sites.client.ip("addr add 10.8.0.10/32 dev eth0").unwrap();
    sites.a.ip("route add 10.8.0.10/32 dev inside0").unwrap();
    sites.b.ip("route add 10.8.0.10/32 via 192.0.2.1").unwrap();
    let through = sites.client.ping_with(other, 5, FULL, &["-M", "do", "-I", "10.8.0.10"]).unwrap();
    assert!(through.complete(), "{through:?}");
    assert_eq!(a.stats().workers[0].received, 0);
    all_is_accounted_for([a, b]);
}

/// What the SAs' one owner is handed by the other worker are large frames, and so are those that it gives back.
#[test]
fn workers_hand_large_packets_over_and_one_that_panics_loses_no_frame() {
    let options = LinkOptions { mtu: 9000, queues: 2 };
    let sites = Sites::with("jumbotwo", options).unwrap();
    let two = |host, networks| DataplaneConfig { workers: vec![0, 1], ..config(host, networks) };
    let a = Gateway::start(&sites.a, Sites::A_OUTSIDE, two(&sites.a, A));
    let b = Gateway::start(&sites.b, Sites::B_OUTSIDE, two(&sites.b, B));
    a.connect(&b, Encapsulation::None);
    let flows: Vec<_> = [(Sites::CLIENT, Sites::SERVER), (Sites::CLIENT_V6, Sites::SERVER_V6)]
        .map(|(from, to)| Chatter::start_with(&sites.client, from, to, 16, 8000).unwrap())
        .into();
    let handed = || a.stats().workers.iter().map(|worker| worker.handed_over).sum::<u64>();
    until("packets are handed over", || handed() > 1000);
    for (worker, fault) in [(0, Fault::PanicBefore), (1, Fault::PanicAfter), (0, Fault::PanicAfter)] {
        let restarts = a.stats().workers[worker].restarts;
        a.dataplane.inject(worker, fault);
        until("the worker is back", || a.stats().workers[worker].restarts == restarts + 1);
        let before = a.stats().workers[worker].received;
        until("and works", || a.stats().workers[worker].received > before + 20);
    }
    let opened = || b.stats().workers.iter().map(|worker| worker.opened).sum::<u64>();
    let before = opened();
    until("packets pass", || opened() > before + 1000);
    drop(flows);
    for gateway in [&a, &b] {
        assert_eq!(gateway.drops("replayed") + gateway.drops("integrity_failed"), 0);
    }
    all_is_accounted_for([a, b]);
}
