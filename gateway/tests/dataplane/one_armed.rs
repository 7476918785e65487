//! A gateway with one interface, to which its hosts and its peer are both attached.

use std::net::IpAddr;

use portcullis_gateway::dataplane::{InterfaceConfig, Role, XdpMode};
use portcullis_ipsec::Encapsulation;
use portcullis_lab::{Class, Direction, Lab};

use crate::gateway::{A, B, Gateway, config, in_flight, until};

#[test]
fn one_interface_serves_both_sides_and_lets_nothing_through_in_clear() {
    let lab = Lab::new("arm").unwrap();
    let host = |name| lab.host(name).unwrap();
    let (a, b, client, server) = (host("a"), host("b"), host("client"), host("server"));
    let wire = lab.switch("wire").unwrap();
    lab.plug(&wire, &a, "arm0").unwrap();
    lab.plug(&wire, &client, "eth0").unwrap();
    let to_b = lab.plug(&wire, &b, "outside0").unwrap();
    lab.link(&server, "eth0", &b, "inside0").unwrap();
    let addresses = [
        (&a, "arm0", ["192.0.2.1/24", "2001:db8:f::1/64"]),
        (&a, "arm0", ["10.1.0.1/24", "2001:db8:1::1/64"]),
        (&client, "eth0", ["10.1.0.10/24", "2001:db8:1::10/64"]),
        (&b, "outside0", ["192.0.2.2/24", "2001:db8:f::2/64"]),
        (&b, "inside0", ["10.2.0.1/24", "2001:db8:2::1/64"]),
        (&server, "eth0", ["10.2.0.10/24", "2001:db8:2::10/64"]),
    ];
    for (host, interface, prefixes) in addresses {
        prefixes.iter().for_each(|prefix| host.address(interface, prefix).unwrap());
    }
    for (host, via) in [
        (&a, ["192.0.2.2", "2001:db8:f::2"]),
        (&b, ["192.0.2.1", "2001:db8:f::1"]),
        (&client, ["10.1.0.1", "2001:db8:1::1"]),
        (&server, ["10.2.0.1", "2001:db8:2::1"]),
    ] {
        via.iter().for_each(|via| host.route("default", via).unwrap());
    }
    a.forward().unwrap();
    b.forward().unwrap();
    let address = |text: &str| -> IpAddr { text.parse().unwrap() };
    let (servers, clients) = (["10.2.0.10", "2001:db8:2::10"], ["10.1.0.10", "2001:db8:1::10"]);

    let mut one_armed = config(&a, A);
    let arm =
        InterfaceConfig { name: "arm0".to_owned(), role: Role::Both, queues: None, mode: XdpMode::Auto };
    one_armed.interfaces = vec![arm];
    let a = Gateway::start(&a, address("192.0.2.1"), one_armed);
    let b = Gateway::start(&b, address("192.0.2.2"), config(&b, B));
    let sent = wire.capture(&to_b, &[]).unwrap();
    assert_eq!(client.ping(address(servers[0]), 2).unwrap().received, 0);
    // The gateway itself is reached.
    assert!(client.ping(address("10.1.0.1"), 3).unwrap().complete());
    until("dropped for want of an SA", || a.drops("no_sa") > 0);
    a.connect(&b, Encapsulation::None);
    for (to, from) in servers.into_iter().zip(clients) {
        assert!(client.ping(address(to), 10).unwrap().complete(), "{:?}", a.stats());
        assert!(server.ping(address(from), 10).unwrap().complete(), "{:?}", a.stats());
        assert!(a.host.ping(address(to), 3).unwrap().complete(), "{:?}", a.stats());
    }
    let counts = sent.settle().unwrap();
    assert!(counts.of(Class::Esp, Direction::Out).packets >= 46, "{counts}");
    assert_eq!(counts.packets(Class::Clear), 0, "{:?}", sent.clear_text());
    until("all packets have gone somewhere", || in_flight(&a.stats()) == 0);
    for gateway in [a, b] {
        gateway.every_frame_has_an_owner();
        gateway.dataplane.stop().unwrap();
    }
}
