//! Traffic of machines behind the gateways.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use portcullis_gateway::dataplane::DataplaneConfig;
use portcullis_gateway::io::QueueCounts;
use portcullis_ipsec::{DataplaneEvent, Encapsulation};
use portcullis_lab::{Capture, Chatter, Class, Direction, LinkOptions, Sites};

use crate::gateway::{A, B, Gateway, config, in_flight};

const SOON: Duration = Duration::from_secs(30);

/// Demands that nothing in clear has crossed the wire, ever.
pub(crate) fn nothing_in_clear(wire: &Capture) {
    let counts = wire.settle().unwrap();
    assert_eq!(counts.packets(Class::Clear), 0, "{:?}", wire.clear_text());
    assert_eq!(counts.lost, 0, "{counts}");
}

/// What went through an interface's queues.
pub(crate) fn queues(gateway: &Gateway, interface: &str) -> Vec<QueueCounts> {
    let interfaces = gateway.stats().interfaces;
    interfaces.into_iter().find(|stats| stats.name == interface).unwrap().traffic
}

#[test]
fn traffic_between_the_sites_crosses_the_wire_as_esp_alone() {
    for encapsulation in [Encapsulation::None, Encapsulation::Udp { local_port: 4500, remote_port: 4500 }] {
        let sites = Sites::new("esp").unwrap();
        let (a, b) = Gateway::pair(&sites);
        a.connect(&b, encapsulation);
        let wire = sites.capture().unwrap();
        for (to, size) in [(Sites::SERVER, 56), (Sites::SERVER_V6, 56), (Sites::SERVER, 1200)] {
            let ping = sites.client.ping_with(to, 20, size, &[]).unwrap();
            assert!(ping.complete(), "{to} {ping:?} {:?} {:?}", a.stats(), b.stats());
        }
        nothing_in_clear(&wire);
        let counts = wire.counts();
        assert_eq!(
            [Direction::In, Direction::Out].map(|direction| counts.esp(direction)),
            [60, 60],
            "{counts}"
        );
        // What the interfaces' queues have counted: on the wire what a capture has, inside what ping says that it sends.
        let inside = 20 * ((14 + 20 + 8 + 56) + (14 + 40 + 8 + 56) + (14 + 20 + 8 + 1200));
        let of_class = |class, direction| counts.of(class, direction).bytes;
        let on_the_wire = |direction| of_class(Class::Esp, direction) + of_class(Class::UdpEsp, direction);
        let (of_a, of_b) = (on_the_wire(Direction::In), on_the_wire(Direction::Out));
        for (gateway, octets_in, octets_out) in [(&a, of_b, of_a), (&b, of_a, of_b)] {
            let outside = QueueCounts { packets_in: 60, octets_in, packets_out: 60, octets_out };
            assert_eq!(queues(gateway, "outside0"), [outside]);
            let inside = QueueCounts { octets_in: inside, octets_out: inside, ..outside };
            assert_eq!(queues(gateway, "inside0"), [inside]);
        }
        for gateway in [a, b] {
            let stats = gateway.stats();
            assert_eq!(
                stats.workers.iter().map(|worker| (worker.sealed, worker.opened)).next(),
                Some((60, 60))
            );
            assert_eq!(in_flight(&stats), 0, "{stats:?}");
            gateway.every_frame_has_an_owner();
            gateway.dataplane.stop().unwrap();
        }
    }
}

#[test]
fn without_an_sa_nothing_leaves_in_clear_and_one_is_asked_for() {
    let sites = Sites::new("nosa").unwrap();
    let (a, b) = Gateway::pair(&sites);
    let wire = sites.capture().unwrap();
    assert_eq!(sites.client.ping(Sites::SERVER, 5).unwrap().received, 0);
    assert_eq!(a.drops("no_sa"), 5);
    let events = a.installer().take_events();
    let asked = |event: &DataplaneEvent| {
        matches!(event, DataplaneEvent::Acquire { policy, flow }
        if *policy == a.policy && flow.src == Sites::CLIENT && flow.dst == Sites::SERVER)
    };
    assert!(events.iter().any(asked), "{events:?}");

    let (pair, _) = a.connect(&b, Encapsulation::None);
    let flow = Chatter::start(&sites.client, Sites::CLIENT, Sites::SERVER, 1).unwrap();
    wire.wait_until("ESP from a", SOON, |counts| counts.esp(Direction::In) > 100).unwrap();
    a.installer().remove(pair).unwrap();
    let before = a.drops("no_sa");
    flow.wait_more(200, SOON).unwrap();
    nothing_in_clear(&wire);
    assert!(a.drops("no_sa") > before);
}

#[test]
fn several_workers_share_the_queues_and_each_sa_leaves_in_order() {
    let options = LinkOptions { queues: 2, ..LinkOptions::default() };
    let sites = Sites::with("workers", options).unwrap();
    let two = |host, networks| DataplaneConfig { workers: vec![0, 1], ..config(host, networks) };
    let a = Gateway::start(&sites.a, Sites::A_OUTSIDE, two(&sites.a, A));
    let b = Gateway::start(&sites.b, Sites::B_OUTSIDE, two(&sites.b, B));
    a.connect(&b, Encapsulation::None);
    let wire = sites.capture().unwrap();
    let at_server = Capture::start(&sites.server, "eth0", &[]).unwrap();
    let flows = [
        Chatter::start(&sites.client, Sites::CLIENT, Sites::SERVER, 32).unwrap(),
        Chatter::start(&sites.client, Sites::CLIENT_V6, Sites::SERVER_V6, 32).unwrap(),
        Chatter::start(&sites.server, Sites::SERVER, Sites::CLIENT, 32).unwrap(),
    ];
    at_server
        .wait_until("datagrams", SOON, |counts| counts.of(Class::Clear, Direction::In).packets > 3000)
        .unwrap();
    drop(flows);
    nothing_in_clear(&wire);
    let stats = a.stats();
    assert!(stats.workers.iter().all(|worker| worker.received > 0), "one had nothing to do: {stats:?}");
    assert!(stats.workers.iter().any(|worker| worker.handed_over > 0), "nothing was handed over: {stats:?}");
    // Of each worker's two queues, one of either interface, all is counted, and by no other.
    for (number, worker) in stats.workers.iter().enumerate() {
        let of_interface = |interface| queues(&a, interface)[number];
        let (outside, inside) = (of_interface("outside0"), of_interface("inside0"));
        assert!(outside.packets_in + inside.packets_in >= worker.received, "{number}: {stats:?}");
        assert!(outside.packets_out + inside.packets_out >= worker.transmitted, "{number}: {stats:?}");
        assert!(outside.octets_in >= 60 * outside.packets_in, "{number}: {outside:?}");
    }
    for gateway in [&a, &b] {
        for reason in ["replayed", "replay_too_old", "integrity_failed", "handover_full"] {
            assert_eq!(gateway.drops(reason), 0, "{reason}");
        }
    }
    // What the wire has seen, in its order: no number comes after a higher one.
    let sent = wire.matching(|frame| frame.class == Class::Esp && frame.direction == Direction::In);
    let numbers: Vec<u32> = sent.iter().filter_map(|frame| Some(frame.headers()?.esp()?.1)).collect();
    assert!(numbers.len() > 1000 && numbers.is_sorted_by(|a, b| a < b), "out of order: {numbers:?}");
    for gateway in [a, b] {
        gateway.every_frame_has_an_owner();
        assert_eq!(in_flight(&gateway.stats()), 0);
        gateway.dataplane.stop().unwrap();
    }
}

#[test]
fn a_packet_waits_for_its_neighbour_and_goes_when_it_has_answered() {
    let sites = Sites::new("neighbour").unwrap();
    let (a, b) = Gateway::pair(&sites);
    a.connect(&b, Encapsulation::None);
    for _ in 0..3 {
        for host in [&sites.a, &sites.b] {
            host.ip("neigh flush dev outside0").unwrap();
            host.ip("neigh flush dev inside0").unwrap();
        }
        for to in [Sites::SERVER, Sites::SERVER_V6] {
            let ping = sites.client.ping(to, 3).unwrap();
            assert!(ping.complete(), "{ping:?} {:?} {:?}", a.stats(), b.stats());
        }
    }
}

#[test]
fn a_packet_whose_neighbour_never_answers_is_dropped_for_that_reason() {
    let sites = Sites::new("silent").unwrap();
    let (a, b) = Gateway::pair(&sites);
    a.connect(&b, Encapsulation::None);
    // Nobody has this address.
    assert_eq!(sites.client.ping("10.2.0.99".parse().unwrap(), 2).unwrap().received, 0);
    // An event that comes after: the worker gives up in its own time.
    let flow = Chatter::start(&sites.client, Sites::CLIENT, Sites::SERVER, 1).unwrap();
    while b.drops("neighbour_unresolved") == 0 {
        flow.wait_more(20, SOON).unwrap();
    }
    drop(flow);
    b.dataplane.stop().unwrap();
}

#[test]
fn neighbours_that_never_answer_leave_frames_for_those_who_do() {
    let sites = Sites::new("scan").unwrap();
    let a = Gateway::start(&sites.a, Sites::A_OUTSIDE, config(&sites.a, A));
    let few = DataplaneConfig { frames: 512, ..config(&sites.b, B) };
    let b = Gateway::start(&sites.b, Sites::B_OUTSIDE, few);
    a.connect(&b, Encapsulation::None);
    assert!(sites.client.ping(Sites::SERVER, 3).unwrap().complete());
    // As a scan does, but with more for each than there are frames; and no faster than they are looked at, so that rings
    // do not overflow for that reason.
    let socket = sites.client.enter(|| UdpSocket::bind((Sites::CLIENT, 0))).unwrap().unwrap();
    let looked_at = || {
        let stats = b.stats();
        stats.workers[0].received + stats.interfaces[0].sockets.rx_dropped
    };
    let deadline = Instant::now() + SOON;
    for _ in 0..16 {
        let before = looked_at();
        for host in 100..164 {
            socket.send_to(b"anybody?", (Ipv4Addr::new(10, 2, 0, host), 9)).unwrap();
        }
        while looked_at() < before + 64 {
            assert!(Instant::now() < deadline, "{:?} {:?}", a.stats(), b.stats());
        }
    }
    let ping = sites.client.ping(Sites::SERVER, 5).unwrap();
    assert!(ping.complete(), "{ping:?} {:?}", b.stats());
    assert!(b.drops("neighbour_unresolved") > 0);
    b.dataplane.stop().unwrap();
}

#[test]
fn the_wires_own_mtu_is_followed_and_told_to_senders() {
    let sites = Sites::new("mtu").unwrap();
    let (a, b) = Gateway::pair(&sites);
    a.connect(&b, Encapsulation::None);
    let whole = |size: u32| sites.client.ping_with(Sites::SERVER, 2, size, &["-M", "do"]).unwrap().complete();
    assert!(whole(1400));
    // The outside header, the trailer and the ICV do not fit any more.
    assert!(!whole(1440));
    assert!(a.drops("too_big") > 0);
    sites.a.ip("link set outside0 mtu 1300").unwrap();
    let told = Capture::start(&sites.client, "eth0", &[]).unwrap();
    let ping =
        sites.client.spawn_words(["ping", "-M", "do", "-i", "0.1", "-s", "1250", "10.2.0.10"]).unwrap();
    let needed = |frame: &portcullis_lab::Frame| {
        // ICMP, "fragmentation needed" (type 3, code 4), and the MTU that would do: less than the wire's.
        let icmp = frame.headers().filter(|ip| ip.source == Sites::A_INSIDE && ip.protocol == 1);
        let mtu = |octets: &[u8]| u16::from_be_bytes([octets[6], octets[7]]);
        icmp.is_some_and(|ip| ip.payload.starts_with(&[3, 4]) && (1200..1300).contains(&mtu(ip.payload)))
    };
    told.wait_frame("the new MTU", SOON, needed).unwrap();
    drop(ping);
}

#[test]
fn a_link_that_goes_down_and_comes_back_carries_again() {
    let sites = Sites::new("flap").unwrap();
    let (a, b) = Gateway::pair(&sites);
    a.connect(&b, Encapsulation::None);
    let wire = sites.capture().unwrap();
    assert!(sites.client.ping(Sites::SERVER, 3).unwrap().complete());
    let flow = Chatter::start(&sites.client, Sites::CLIENT, Sites::SERVER, 1).unwrap();
    sites.a.ip("link set outside0 down").unwrap();
    let before = a.drops("link_down") + a.drops("no_route");
    while a.drops("link_down") + a.drops("no_route") == before {
        flow.wait_more(20, SOON).unwrap();
    }
    sites.a.ip("link set outside0 up").unwrap();
    // What the kernel forgot with the link.
    sites.a.route("default", "192.0.2.2").unwrap();
    let counts = wire.counts();
    wire.wait_until("ESP again", SOON, |now| now.esp(Direction::In) > counts.esp(Direction::In) + 50)
        .unwrap();
    nothing_in_clear(&wire);
}
