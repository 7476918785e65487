//! Interfaces that change while they carry traffic. Nothing is restarted.

use std::time::Duration;

use portcullis_gateway::dataplane::DataplaneConfig;
use portcullis_ipsec::Encapsulation;
use portcullis_lab::{Chatter, LinkOptions, Sites};

use crate::forwarding::{nothing_in_clear, queues};
use crate::gateway::{A, B, Gateway, config, in_flight, until};

const SOON: Duration = Duration::from_secs(30);

/// Traffic both ways, whatever becomes of it.
fn chatter(sites: &Sites) -> [Chatter; 2] {
    [(&sites.client, Sites::CLIENT, Sites::SERVER), (&sites.server, Sites::SERVER, Sites::CLIENT)]
        .map(|(host, from, to)| Chatter::start(host, from, to, 4).unwrap())
}

/// Waits until packets pass.
pub(crate) fn carries(sites: &Sites, a: &Gateway) {
    for to in [Sites::SERVER, Sites::SERVER_V6] {
        until(&format!("packets pass to {to}: {:?}", a.stats()), || {
            sites.client.ping(to, 1).is_ok_and(portcullis_lab::Ping::complete)
        });
    }
}

/// Makes gateway `a`'s outside interface anew, after it was removed.
pub(crate) fn plug_outside(sites: &Sites, options: LinkOptions) {
    sites.lab.plug_with(options, &sites.wire, &sites.a, "outside0").unwrap();
    sites.a.address("outside0", "192.0.2.1/24").unwrap();
    sites.a.address("outside0", "2001:db8:f::1/64").unwrap();
    sites.a.route("default", "192.0.2.2").unwrap();
    sites.a.route("default", "2001:db8:f::2").unwrap();
}

/// The same for its inside interface, and the client's, which goes with it.
pub(crate) fn plug_inside(sites: &Sites, options: LinkOptions) {
    sites.lab.link_with(options, &sites.client, "eth0", &sites.a, "inside0").unwrap();
    for (host, interface, number) in [(&sites.a, "inside0", "1"), (&sites.client, "eth0", "10")] {
        host.address(interface, &format!("10.1.0.{number}/24")).unwrap();
        host.address(interface, &format!("2001:db8:1::{number}/64")).unwrap();
    }
    sites.client.route("default", "10.1.0.1").unwrap();
    sites.client.route("default", "2001:db8:1::1").unwrap();
}

fn mode(gateway: &Gateway, port: usize) -> String {
    gateway.stats().interfaces[port].mode.clone()
}

#[test]
fn interfaces_that_are_removed_and_made_anew_are_guarded_and_served_again() {
    let sites = Sites::new("anew").unwrap();
    let (a, b) = Gateway::pair(&sites);
    a.connect(&b, Encapsulation::None);
    let wire = sites.wire.capture(&sites.port_b, &[Sites::A_OUTSIDE, Sites::B_OUTSIDE]).unwrap();
    carries(&sites, &a);
    let flows = chatter(&sites);
    for round in 0..3 {
        sites.a.ip("link del outside0").unwrap();
        until("the outside interface is missed", || mode(&a, 0) == "gone");
        flows[0].wait_more(20, SOON).unwrap();
        plug_outside(&sites, LinkOptions::default());
        until("the outside interface is served", || mode(&a, 0) == "native, copy");
        carries(&sites, &a);

        sites.a.ip("link del inside0").unwrap();
        until("the inside interface is missed", || mode(&a, 1) == "gone");
        flows[1].wait_more(20, SOON).unwrap();
        plug_inside(&sites, LinkOptions::default());
        until("the inside interface is served", || mode(&a, 1) == "native, copy");
        carries(&sites, &a);
        assert_eq!(b.drops("replayed") + b.drops("integrity_failed"), 0, "round {round}");
    }
    drop(flows);
    nothing_in_clear(&wire);
    a.every_frame_has_an_owner();
    assert_eq!(in_flight(&a.stats()), 0);
    a.dataplane.stop().unwrap();
}

#[test]
fn an_interface_made_anew_under_its_old_number_is_told_from_the_old_one() {
    let sites = Sites::new("number").unwrap();
    let (a, b) = Gateway::pair(&sites);
    a.connect(&b, Encapsulation::None);
    carries(&sites, &a);
    let index = index_of(&sites, "inside0");
    let before = queues(&a, "inside0")[0];
    // In one go: what the mirror reads may never have been without.
    let words = format!(
        "ip link del inside0; ip link add inside0 index {index} type veth peer name eth0 netns {}; \
         ip link set inside0 up; ip addr add 10.1.0.1/24 dev inside0; ip addr add 2001:db8:1::1/64 dev inside0 nodad",
        sites.client.netns()
    );
    sites.a.run(["sh", "-c", &words]).unwrap();
    sites.client.run(["ethtool", "-K", "eth0", "tx", "off", "gso", "off", "tso", "off"]).unwrap();
    sites.client.ip("link set eth0 up").unwrap();
    sites.client.address("eth0", "10.1.0.10/24").unwrap();
    sites.client.address("eth0", "2001:db8:1::10/64").unwrap();
    sites.client.route("default", "10.1.0.1").unwrap();
    sites.client.route("default", "2001:db8:1::1").unwrap();
    assert_eq!(index_of(&sites, "inside0"), index);
    carries(&sites, &a);
    let after = queues(&a, "inside0")[0];
    assert!(before.packets_in > 0 && after.packets_in > before.packets_in, "{before:?} {after:?}");
    a.dataplane.stop().unwrap();
}

/// The number of an interface of gateway `a`.
fn index_of(sites: &Sites, interface: &str) -> String {
    let shown = sites.a.ip(&format!("-o link show {interface}")).unwrap().stdout;
    shown.split(':').next().unwrap().to_owned()
}

#[test]
fn new_addresses_of_both_layers_are_followed() {
    let sites = Sites::new("addresses").unwrap();
    let (a, b) = Gateway::pair(&sites);
    let wire = sites.capture().unwrap();
    a.connect(&b, Encapsulation::None);
    carries(&sites, &a);

    sites.a.ip("link set outside0 address 02:00:00:00:aa:01").unwrap();
    sites.a.ip("link set inside0 address 02:00:00:00:aa:02").unwrap();
    for (host, interface) in [(&sites.b, "outside0"), (&sites.client, "eth0")] {
        host.ip(&format!("neigh flush dev {interface}")).unwrap();
    }
    carries(&sites, &a);

    // ESP from and to an address that was not there at start.
    sites.a.ip("addr del 192.0.2.1/24 dev outside0").unwrap();
    sites.a.address("outside0", "192.0.2.11/24").unwrap();
    sites.a.route("default", "192.0.2.2").unwrap();
    let a = a.at("192.0.2.11".parse().unwrap());
    a.connect(&b, Encapsulation::None);
    carries(&sites, &a);
    nothing_in_clear(&wire);
}

#[test]
fn the_tun_device_follows_the_outside_mtu() {
    let sites = Sites::new("tun").unwrap();
    let a = Gateway::start(&sites.a, Sites::A_OUTSIDE, config(&sites.a, A));
    let has = |mtu: &str| sites.a.ip("link show portcullis0").unwrap().stdout.contains(mtu);
    assert!(has("mtu 1400"));
    sites.a.ip("link set outside0 mtu 1450").unwrap();
    until("the TUN device's MTU is lower", || has("mtu 1350"));
    sites.a.ip("link set outside0 mtu 1500").unwrap();
    until("the TUN device's MTU is back", || has("mtu 1400"));
    a.dataplane.stop().unwrap();
}

#[test]
fn an_idle_worker_sleeps_and_a_busy_one_does_not() {
    let sites = Sites::new("spin").unwrap();
    let long = Duration::from_secs(1);
    let a = Gateway::start(&sites.a, Sites::A_OUTSIDE, DataplaneConfig { spin: long, ..config(&sites.a, A) });
    let b = Gateway::start(&sites.b, Sites::B_OUTSIDE, config(&sites.b, B));
    a.connect(&b, Encapsulation::None);
    carries(&sites, &a);
    let flow = Chatter::start(&sites.client, Sites::CLIENT, Sites::SERVER, 1).unwrap();
    until("it is awake while a hundred packets pass", || {
        let before = a.stats().workers[0];
        until("packets", || a.stats().workers[0].received >= before.received + 100);
        a.stats().workers[0].sleeps == before.sleeps
    });
    drop(flow);
    // Traffic that passes `a` alone: a measure of time, in which nothing comes to `b`.
    until("it sleeps when nothing comes", || {
        let before = b.dataplane.heartbeat();
        let elsewhere = Chatter::start(&sites.client, Sites::CLIENT, Sites::A_INSIDE, 1).unwrap();
        elsewhere.wait_more(200, SOON).unwrap();
        b.dataplane.heartbeat()[0] < before[0] + 100
    });
}
