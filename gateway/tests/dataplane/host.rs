//! The gateways' own traffic, which takes the way through the kernel and the TUN device.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use portcullis_ipsec::{Encapsulation, Mode, SaOptions};
use portcullis_lab::{Class, Host, Sites};

use crate::gateway::{Gateway, config};

const SOON: Duration = Duration::from_secs(30);

/// A conversation over TCP: half a megabyte there, one line back.
fn talk(from: &Host, to: &Host, address: IpAddr) -> std::io::Result<()> {
    const OCTETS: usize = 1 << 19;
    let listener = to.enter(|| TcpListener::bind((address, 0))).unwrap()?;
    let server = listener.local_addr()?;
    let mut client = from.enter(|| TcpStream::connect_timeout(&server, SOON)).unwrap()?;
    let (mut accepted, _) = listener.accept()?;
    accepted.set_read_timeout(Some(SOON))?;
    client.set_read_timeout(Some(SOON))?;
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| client.write_all(&vec![0x5a; OCTETS]));
        let mut received = vec![0; OCTETS];
        accepted.read_exact(&mut received)?;
        sent.join().unwrap()
    })?;
    accepted.write_all(b"thanks")?;
    client.read_exact(&mut [0; 6])
}

#[test]
fn the_gateways_own_traffic_to_protected_networks_is_sealed() {
    let sites = Sites::new("own").unwrap();
    let (a, b) = Gateway::pair(&sites);
    let wire = sites.capture().unwrap();
    assert_eq!(a.host.ping(Sites::SERVER, 2).unwrap().received, 0);
    assert!(a.drops("no_sa") > 0, "it came to the worker, from an address that policy knows");
    a.connect(&b, Encapsulation::None);
    // To a machine behind the peer, to the peer itself, and from a machine behind it.
    assert!(a.host.ping(Sites::SERVER, 5).unwrap().complete(), "{:?}", a.stats());
    assert!(a.host.ping(Sites::B_INSIDE, 5).unwrap().complete(), "{:?}", b.stats());
    assert!(a.host.ping(Sites::SERVER_V6, 5).unwrap().complete(), "{:?}", a.stats());
    assert!(sites.server.ping(Sites::A_INSIDE, 5).unwrap().complete());
    talk(&sites.a, &sites.server, Sites::SERVER).unwrap();
    talk(&sites.a, &sites.b, Sites::B_INSIDE).unwrap();
    talk(&sites.client, &sites.b, Sites::B_INSIDE).unwrap();
    let counts = wire.settle().unwrap();
    assert_eq!(counts.packets(Class::Clear), 0, "{:?}", wire.clear_text());
    assert!(a.stats().workers[0].from_kernel > 0 && b.stats().workers[0].to_kernel > 0);
    for gateway in [a, b] {
        gateway.every_frame_has_an_owner();
        gateway.dataplane.stop().unwrap();
    }
}

#[test]
fn in_transport_mode_two_gateways_talk_to_each_other_as_hosts() {
    for encapsulation in [Encapsulation::None, Encapsulation::Udp { local_port: 4500, remote_port: 4500 }] {
        let sites = Sites::new("hosts").unwrap();
        let (at_a, at_b) = (Sites::A_OUTSIDE.to_string(), Sites::B_OUTSIDE.to_string());
        let policy_a = (&[at_a.as_str()][..], &[at_b.as_str()][..]);
        let mut a = Gateway::start(&sites.a, Sites::A_OUTSIDE, config(&sites.a, policy_a));
        let mut b = Gateway::start(&sites.b, Sites::B_OUTSIDE, config(&sites.b, (policy_a.1, policy_a.0)));
        let wire = sites.capture().unwrap();
        assert_eq!(a.host.ping(Sites::B_OUTSIDE, 2).unwrap().received, 0);
        let transport = SaOptions { mode: Mode::Transport, ..SaOptions::default() };
        (a.options, b.options) = (transport, transport);
        a.connect(&b, encapsulation);
        assert!(a.host.ping(Sites::B_OUTSIDE, 5).unwrap().complete(), "{:?}\n{:?}", a.stats(), b.stats());
        assert!(b.host.ping(Sites::A_OUTSIDE, 5).unwrap().complete(), "{:?}", b.stats());
        talk(&sites.a, &sites.b, Sites::B_OUTSIDE).unwrap();
        talk(&sites.b, &sites.a, Sites::A_OUTSIDE).unwrap();
        let counts = wire.settle().unwrap();
        assert_eq!(counts.packets(Class::Clear), 0, "{:?}", wire.clear_text());
        assert!(b.stats().workers[0].to_kernel > 0);
        for gateway in [a, b] {
            gateway.every_frame_has_an_owner();
            gateway.dataplane.stop().unwrap();
        }
    }
}

#[test]
fn what_policy_does_not_know_stays_the_kernels() {
    let sites = Sites::new("rest").unwrap();
    let (a, _b) = Gateway::pair(&sites);
    talk(&sites.a, &sites.b, Sites::B_OUTSIDE).unwrap();
    talk(&sites.client, &sites.a, Sites::A_INSIDE).unwrap();
    talk(&sites.a, &sites.client, Sites::CLIENT).unwrap();
    assert!(sites.a.ping(Sites::B_OUTSIDE_V6, 3).unwrap().complete());
    let worker = a.stats().workers[0];
    assert_eq!((worker.received, worker.from_kernel), (0, 0), "no worker has seen any of it");
}

#[test]
fn a_tunnel_for_everything_leaves_management_alone_and_takes_the_rest() {
    let sites = Sites::new("all").unwrap();
    let elsewhere: IpAddr = "198.51.100.7".parse().unwrap();
    sites.server.address("lo", "198.51.100.7/32").unwrap();
    sites.b.route("198.51.100.7/32", "10.2.0.10").unwrap();
    let admin = sites.lab.host("admin").unwrap();
    sites.lab.plug(&sites.wire, &admin, "eth0").unwrap();
    admin.address("eth0", "192.0.2.100/24").unwrap();

    let (ours, everything): (&[&str], &[&str]) = (&["10.1.0.0/24"], &["0.0.0.0/0"]);
    let a = Gateway::start(&sites.a, Sites::A_OUTSIDE, config(&sites.a, (ours, everything)));
    let b = Gateway::start(&sites.b, Sites::B_OUTSIDE, config(&sites.b, (everything, ours)));
    for tunnel in [false, true] {
        if tunnel {
            a.connect(&b, Encapsulation::None);
        }
        talk(&admin, &sites.a, Sites::A_OUTSIDE).unwrap();
        talk(&sites.a, &admin, "192.0.2.100".parse().unwrap()).unwrap();
        talk(&sites.a, &sites.client, Sites::CLIENT).unwrap();
        talk(&sites.client, &sites.a, Sites::A_INSIDE).unwrap();
    }
    let wire = sites.capture().unwrap();
    assert!(sites.client.ping(elsewhere, 3).unwrap().complete(), "{:?} {:?}", a.stats(), b.stats());
    let from_inside = sites.a.ping_with(elsewhere, 3, 56, &["-I", "10.1.0.1"]).unwrap();
    assert!(from_inside.complete(), "{:?}", a.stats());
    let counts = wire.settle().unwrap();
    assert_eq!(counts.packets(Class::Clear), 0, "{:?}", wire.clear_text());
}
