//! The mirror of the kernel's tables and the protected routes, on hosts of their own: what is changed with `ip` is seen
//! when the mirror says that something has changed. Needs root.

#![expect(clippy::unwrap_used, reason = "where a test cannot go on it fails")]

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use portcullis_gateway::netlink::Connection;
use portcullis_gateway::netlink::mirror::{Mirror, MirrorConfig, resolve};
use portcullis_gateway::netlink::protected::{ProtectedRoutes, Wanted};
use portcullis_gateway::route::{NextHop, PortIndex, Role, RouteTable};
use portcullis_gateway::tun::Tun;
use portcullis_lab::{Host, Lab, Stream};

const OUTSIDE: PortIndex = PortIndex(0);
const SOON: Duration = Duration::from_secs(30);

/// A gateway with an outside and an inside interface, a neighbour on the outside one, and a mirror.
struct Mirrored {
    gateway: Host,
    neighbour: Host,
    routes: Arc<ArcSwap<RouteTable>>,
    changes: Receiver<()>,
    _mirror: Mirror,
    _lab: Lab,
}

impl Mirrored {
    fn new(name: &str) -> Self {
        let lab = Lab::new(name).unwrap();
        let (gateway, neighbour, inside) =
            (lab.host("gateway").unwrap(), lab.host("neighbour").unwrap(), lab.host("inside").unwrap());
        lab.link(&gateway, "outside0", &neighbour, "eth0").unwrap();
        lab.link(&gateway, "inside0", &inside, "eth0").unwrap();
        gateway.address("outside0", "192.0.2.1/24").unwrap();
        gateway.address("outside0", "2001:db8:f::1/64").unwrap();
        gateway.address("inside0", "10.1.0.1/24").unwrap();
        neighbour.address("eth0", "192.0.2.2/24").unwrap();
        neighbour.address("eth0", "2001:db8:f::2/64").unwrap();
        let routes = Arc::new(ArcSwap::from_pointee(RouteTable::default()));
        let (sender, changes) = channel();
        let config = MirrorConfig {
            ports: vec![("outside0".to_owned(), Role::Outside), ("inside0".to_owned(), Role::Inside)],
            tunnel_addresses: Vec::new(),
        };
        let published = Arc::clone(&routes);
        let on_change = Box::new(move |_: &RouteTable| {
            // Nobody waits any more at the end of the test.
            let _ = sender.send(());
        });
        let mirror = gateway.enter(|| Mirror::start(config, published, on_change)).unwrap().unwrap();
        Self { gateway, neighbour, routes, changes, _mirror: mirror, _lab: lab }
    }

    fn ip(&self, arguments: &str) {
        self.gateway.ip(arguments).unwrap();
    }

    /// Waits for a change after which it holds.
    fn until(&self, what: &str, holds: impl Fn(&RouteTable) -> bool) {
        let deadline = Instant::now() + SOON;
        while !holds(&self.routes.load()) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(self.changes.recv_timeout(left).is_ok(), "{what}: {:#?}", self.routes.load());
        }
    }

    fn until_hop(&self, dst: &str, wanted: impl Fn(NextHop) -> bool) {
        let dst = ip(dst);
        self.until(&format!("the way to {dst}"), |table| wanted(table.resolve(dst)));
    }

    /// Has the kernel look for it, as the slow path does.
    fn resolve(&self, addr: &str) {
        let ifindex = self.routes.load().port(OUTSIDE).unwrap().ifindex;
        let ask = || resolve(&mut Connection::open().unwrap(), ifindex, ip(addr));
        self.gateway.enter(ask).unwrap().unwrap();
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn unresolved(gateway: &str) -> impl Fn(NextHop) -> bool {
    let wanted = ip(gateway);
    move |hop| matches!(hop, NextHop::Unresolved { port: OUTSIDE, gateway, .. } if gateway == wanted)
}

#[test]
fn interfaces_and_addresses_are_there_from_the_start_and_followed() {
    let mirrored = Mirrored::new("links");
    let table = mirrored.routes.load_full();
    let port = table.port(OUTSIDE).unwrap();
    assert_eq!((port.mtu, port.up, port.mac), (1500, true, mirrored.gateway.mac("outside0").unwrap()));
    assert!(table.is_local(ip("10.1.0.1")) && table.is_tunnel_address(ip("192.0.2.1")));
    assert!(!table.is_tunnel_address(ip("10.1.0.1")));
    assert_eq!(
        table.resolve(ip("10.1.0.255")),
        NextHop::Local,
        "a broadcast to the network is not forwarded"
    );
    assert!(!table.local_addresses().any(|addr| addr == ip("10.1.0.255")));

    mirrored.ip("link set outside0 mtu 1400");
    mirrored.until("the MTU", |table| table.port(OUTSIDE).unwrap().mtu == 1400);
    mirrored.ip("addr add 192.0.2.9/24 dev outside0");
    mirrored.until("the address", |table| {
        table.is_local(ip("192.0.2.9")) && table.is_tunnel_address(ip("192.0.2.9"))
    });
    mirrored.ip("addr del 192.0.2.9/24 dev outside0");
    mirrored.until("the lack of it", |table| !table.is_local(ip("192.0.2.9")));
    mirrored.neighbour.ip("link set eth0 down").unwrap();
    mirrored.until("the lost carrier", |table| !table.port(OUTSIDE).unwrap().up);
    mirrored.neighbour.ip("link set eth0 up").unwrap();
    mirrored.until("the carrier", |table| table.port(OUTSIDE).unwrap().up);
}

#[test]
fn an_interface_that_is_made_anew_is_found_again() {
    let mirrored = Mirrored::new("anew");
    let before = mirrored.routes.load().port(OUTSIDE).unwrap().ifindex;
    mirrored.ip("link del outside0");
    mirrored.until("its absence", |table| table.port(OUTSIDE).unwrap().ifindex == 0);
    assert!(!mirrored.routes.load().is_tunnel_address(ip("192.0.2.1")));
    mirrored.ip("link add outside0 type veth peer name other");
    mirrored.until("its return", |table| ![0, before].contains(&table.port(OUTSIDE).unwrap().ifindex));
}

#[test]
fn routes_of_the_main_and_default_tables_are_followed_and_others_are_not() {
    let mirrored = Mirrored::new("routes");
    mirrored.until_hop("203.0.113.1", |hop| hop == NextHop::None);
    mirrored.ip("route add default via 192.0.2.2");
    mirrored.until_hop("203.0.113.1", unresolved("192.0.2.2"));
    mirrored.ip("route add 198.51.100.0/24 via 192.0.2.3 mtu 1300 metric 20");
    mirrored.until_hop("198.51.100.1", |hop| matches!(hop, NextHop::Unresolved { mtu: 1300, .. }));
    mirrored.ip("route add 198.51.100.0/24 via 192.0.2.4 metric 10");
    mirrored.until_hop("198.51.100.1", unresolved("192.0.2.4"));
    mirrored.ip("route replace 198.51.100.0/24 via 192.0.2.5 metric 10");
    mirrored.until_hop("198.51.100.1", unresolved("192.0.2.5"));
    mirrored.ip("route del 198.51.100.0/24 metric 10");
    mirrored.until_hop("198.51.100.1", unresolved("192.0.2.3"));
    for refusal in ["blackhole", "unreachable", "prohibit"] {
        mirrored.ip(&format!("route add {refusal} 10.66.0.0/16"));
        mirrored.until_hop("10.66.0.1", |hop| hop == NextHop::None);
        mirrored.ip(&format!("route del {refusal} 10.66.0.0/16"));
        mirrored.until_hop("10.66.0.1", unresolved("192.0.2.2"));
    }
    mirrored.ip("route add 10.77.0.0/16 dev lo");
    mirrored.until_hop("10.77.0.1", |hop| hop == NextHop::Kernel);

    // The default table, behind a route that leaves it to it; and a table that does not count.
    mirrored.ip("route add 10.88.0.0/16 via 192.0.2.8 table default");
    mirrored.ip("route add throw 10.88.0.0/16");
    mirrored.until_hop("10.88.0.1", unresolved("192.0.2.8"));
    mirrored.ip("route add blackhole 203.0.113.0/24 table 220");
    mirrored.ip("route add 10.99.0.0/16 via 192.0.2.9");
    mirrored.until_hop("10.99.0.1", unresolved("192.0.2.9"));
    assert!(unresolved("192.0.2.2")(mirrored.routes.load().resolve(ip("203.0.113.1"))));
}

#[test]
fn of_several_hops_the_first_that_lives_is_used_and_gateways_may_be_of_the_other_family() {
    let mirrored = Mirrored::new("hops");
    mirrored
        .ip("route add 198.51.100.0/24 nexthop via 10.1.0.9 dev inside0 nexthop via 192.0.2.2 dev outside0");
    let inside = |hop| matches!(hop, NextHop::Unresolved { port: PortIndex(1), .. });
    mirrored.until_hop("198.51.100.1", inside);
    mirrored.ip("link set inside0 down");
    mirrored.until_hop("198.51.100.1", unresolved("192.0.2.2"));
    mirrored.ip("route add 203.0.113.0/24 via inet6 fe80::2 dev outside0");
    mirrored.until_hop("203.0.113.1", unresolved("fe80::2"));
    mirrored.ip("-6 route add default via fe80::2 dev outside0");
    mirrored.until_hop("2001:db8:99::1", unresolved("fe80::2"));
}

#[test]
fn a_neighbour_is_found_by_asking_the_kernel_and_forgotten_with_it() {
    let mirrored = Mirrored::new("neighbours");
    let mac = mirrored.neighbour.mac("eth0").unwrap();
    for addr in ["192.0.2.2", "2001:db8:f::2"] {
        mirrored.until_hop(addr, unresolved(addr));
        mirrored.resolve(addr);
        mirrored.until_hop(addr, |hop| matches!(hop, NextHop::Port { dst_mac, .. } if dst_mac == mac));
        mirrored.ip(&format!("neigh del {addr} dev outside0"));
        mirrored.until_hop(addr, unresolved(addr));
    }
    // Static and stale ones will do, failed ones will not.
    mirrored.ip("neigh add 192.0.2.50 lladdr 02:00:00:00:00:50 dev outside0 nud permanent");
    mirrored.until_hop("192.0.2.50", |hop| matches!(hop, NextHop::Port { .. }));
    mirrored.ip("neigh replace 192.0.2.51 lladdr 02:00:00:00:00:51 dev outside0 nud stale");
    mirrored.until_hop("192.0.2.51", |hop| matches!(hop, NextHop::Port { .. }));
    mirrored.ip("neigh change 192.0.2.51 dev outside0 nud failed");
    mirrored.until_hop("192.0.2.51", unresolved("192.0.2.51"));
}

#[test]
fn a_neighbour_that_workers_use_is_checked_by_the_kernel() {
    let mirrored = Mirrored::new("check");
    // Where it was, a machine once answered; by now another has the address.
    mirrored.gateway.sysctl("net.ipv4.neigh.outside0.delay_first_probe_time", "1").unwrap();
    mirrored.ip("neigh add 192.0.2.50 lladdr 02:00:00:00:00:50 dev outside0 nud permanent");
    mirrored.until_hop("192.0.2.50", |hop| matches!(hop, NextHop::Port { .. }));
    mirrored.ip("neigh replace 192.0.2.2 lladdr 02:00:00:00:00:66 dev outside0 nud stale");
    mirrored.until_hop("192.0.2.2", |hop| matches!(hop, NextHop::Port { .. }));
    let mac = mirrored.neighbour.mac("eth0").unwrap();
    // The look-ups here are those of a worker that keeps sending, and that asks once it holds a packet.
    mirrored.until_hop("192.0.2.2", unresolved("192.0.2.2"));
    mirrored.resolve("192.0.2.2");
    mirrored.until_hop("192.0.2.2", |hop| matches!(hop, NextHop::Port { dst_mac, .. } if dst_mac == mac));
    // What the administrator has set is not questioned.
    let set = mirrored.gateway.ip("neigh show 192.0.2.50").unwrap().stdout;
    assert!(set.contains("02:00:00:00:00:50 PERMANENT"), "{set}");
}

#[test]
fn a_storm_of_changes_ends_in_the_kernels_own_state() {
    let mirrored = Mirrored::new("storm");
    let script = mirrored.gateway.dir().join("storm");
    let lines: Vec<String> = (0..4000_u32)
        .flat_map(|number| {
            let net = format!("10.{}.{}.0/24", 100 + number / 256, number % 256);
            let keep = number % 100 == 0;
            let add = format!("route add {net} via 192.0.2.2");
            std::iter::once(add).chain((!keep).then(|| format!("route del {net}")))
        })
        .collect();
    std::fs::write(&script, lines.join("\n")).unwrap();
    mirrored.gateway.run(["ip", "-batch", script.to_str().unwrap()]).unwrap();
    // The last one of all.
    mirrored.ip("route add 10.200.0.0/16 via 192.0.2.2");
    mirrored.until_hop("10.200.0.1", unresolved("192.0.2.2"));
    for number in 0..4000_u32 {
        let dst = format!("10.{}.{}.7", 100 + number / 256, number % 256);
        let known = mirrored.routes.load().resolve(ip(&dst)) != NextHop::None;
        assert_eq!(known, number % 100 == 0, "{dst}");
    }
}

#[test]
fn protected_routes_lead_into_the_device_and_can_be_taken_away() {
    let mirrored = Mirrored::new("protected");
    mirrored.ip("route add default via 192.0.2.2");
    mirrored.ip("-6 route add default via 2001:db8:f::2");
    let gateway = &mirrored.gateway;
    let route =
        |to: &str| gateway.ip(&format!("route get {to}")).map_or_else(|e| e.to_string(), |o| o.stdout);
    let wanted = |local: &[&str], remote: &[&str]| Wanted {
        local: local.iter().map(|net| net.parse().unwrap()).collect(),
        remote: remote.iter().map(|net| net.parse().unwrap()).collect(),
        addresses: ["192.0.2.1", "10.1.0.1"].map(ip).into_iter().collect(),
    };
    let tun = gateway.enter(|| Tun::open("portcullis0", 1400)).unwrap().unwrap();
    let open = || gateway.enter(|| ProtectedRoutes::open(220, 0x5043, tun.ifindex())).unwrap().unwrap();
    let mut routes = open();
    let all = wanted(&["10.1.0.0/24"], &["10.2.0.0/24", "10.0.0.0/8", "2001:db8:2::/64"]);
    routes.apply(&all).unwrap();
    assert!(route("10.2.0.9").contains("dev portcullis0 table 220 src 10.1.0.1"), "{}", route("10.2.0.9"));
    assert!(route("2001:db8:2::9").contains("dev portcullis0"), "{}", route("2001:db8:2::9"));
    assert!(route("10.2.0.9 mark 0x5043").contains("dev outside0"));
    assert!(route("203.0.113.9").contains("dev outside0"));
    assert!(route("10.1.0.9").contains("dev inside0"), "our own network lies in a protected one");

    // The successor of a daemon that was killed takes over what it finds, and takes away what is no longer wanted.
    let mut routes = {
        drop(routes);
        open()
    };
    routes.apply(&wanted(&["10.1.0.0/24"], &["0.0.0.0/0"])).unwrap();
    assert!(route("10.2.0.9").contains("dev outside0"), "not from a protected address");
    assert!(route("10.2.0.9 from 10.1.0.1").contains("dev portcullis0"));
    assert!(route("10.1.0.9 from 10.1.0.1").contains("dev inside0"));
    assert!(route("2001:db8:2::9").contains("dev outside0"));

    // Without the device nothing leaves by another way.
    mirrored.ip("link del portcullis0");
    assert!(
        route("10.2.0.9 from 10.1.0.1").contains("No route to host"),
        "{}",
        route("10.2.0.9 from 10.1.0.1")
    );
    routes.clear().unwrap();
    for family in ["-4", "-6"] {
        let left = gateway.ip(&format!("{family} route show table 220")).map_or(String::new(), |o| o.stdout);
        assert_eq!(left, "");
        let rules = gateway.ip(&format!("{family} rule")).unwrap().stdout;
        assert!(!rules.contains("220") && !rules.contains("0x5043"), "{rules}");
    }
}

#[test]
fn prefixes_that_come_and_go_one_by_one_leave_the_routes_that_all_together_have() {
    let mirrored = Mirrored::new("onebyone");
    let gateway = &mirrored.gateway;
    let tun = gateway.enter(|| Tun::open("portcullis0", 1400)).unwrap().unwrap();
    let mut routes = gateway.enter(|| ProtectedRoutes::open(220, 0x5043, tun.ifindex())).unwrap().unwrap();
    let state = || {
        ["-4 rule", "-6 rule", "-4 route show table 220", "-6 route show table 220"]
            .map(|command| gateway.ip(command).map_or_else(|_| String::new(), |output| output.stdout))
    };
    // Some have our own network within, or are for everything.
    let nets = ["10.2.0.0/24", "10.0.0.0/8", "2001:db8:2::/64", "0.0.0.0/0", "10.3.0.0/24", "::/0"];
    let nets = nets.map(|net| net.parse().unwrap());
    let mut wanted = Wanted {
        local: ["10.1.0.0/24".parse().unwrap()].into(),
        remote: [].into(),
        addresses: [ip("10.1.0.1")].into(),
    };
    let mut whole = vec![state()];
    for net in nets {
        wanted.remote.insert(net);
        routes.add(&wanted, &[net]).unwrap();
        let added = state();
        routes.apply(&wanted).unwrap();
        assert_eq!(added, state(), "{net} was added");
        whole.push(added);
    }
    for net in nets.into_iter().rev() {
        assert_eq!(whole.pop().unwrap(), state());
        wanted.remote.remove(&net);
        routes.remove(&wanted, &[net]).unwrap();
        let removed = state();
        assert_eq!(whole.last(), Some(&removed), "{net} was removed");
    }
}

#[test]
fn what_others_have_put_into_the_table_is_not_taken_for_a_protected_route() {
    let mirrored = Mirrored::new("foreign");
    let gateway = &mirrored.gateway;
    // Another IPsec daemon's route, say: 220 is a popular number.
    mirrored.ip("route add 10.2.0.0/24 via 192.0.2.2 src 10.1.0.1 metric 500 table 220");
    let wanted = Wanted {
        local: ["10.1.0.0/24".parse().unwrap()].into(),
        remote: ["10.2.0.0/24".parse().unwrap()].into(),
        addresses: [ip("10.1.0.1")].into(),
    };
    let tun = gateway.enter(|| Tun::open("portcullis0", 1400)).unwrap().unwrap();
    let open = || gateway.enter(|| ProtectedRoutes::open(220, 0x5043, tun.ifindex())).unwrap().unwrap();
    let mut routes = open();
    routes.apply(&wanted).unwrap();
    let way = gateway.ip("route get 10.2.0.9").unwrap().stdout;
    assert!(way.contains("dev portcullis0 table 220 src 10.1.0.1"), "{way}");

    routes.clear().unwrap();
    let left = gateway.ip("route show table 220").unwrap().stdout;
    assert!(left.contains("via 192.0.2.2 dev outside0") && !left.contains("portcullis0"), "{left}");
}

#[test]
fn applying_what_is_there_already_changes_nothing() {
    let mirrored = Mirrored::new("again");
    let gateway = &mirrored.gateway;
    let wanted = Wanted {
        local: ["10.1.0.0/24", "2001:db8:1::/64"].map(|net| net.parse().unwrap()).into(),
        remote: ["10.2.0.0/24", "0.0.0.0/0", "2001:db8:2::/64"].map(|net| net.parse().unwrap()).into(),
        addresses: [ip("10.1.0.1")].into(),
    };
    let state = || {
        ["-4 rule", "-6 rule", "-4 route show table 220", "-6 route show table 220"]
            .map(|command| gateway.ip(command).unwrap().stdout)
    };
    let tun = gateway.enter(|| Tun::open("portcullis0", 1400)).unwrap().unwrap();
    let open = || gateway.enter(|| ProtectedRoutes::open(220, 0x5043, tun.ifindex())).unwrap().unwrap();
    let mut first = open();
    first.apply(&wanted).unwrap();
    let made = state();
    // As the documentation lists them.
    for rule in
        ["219:\tfrom all fwmark 0x5043 lookup main", "220:\tfrom all lookup 220 suppress_prefixlength 0"]
    {
        assert!(made[0].contains(rule) && made[1].contains(rule), "{made:?}");
    }
    assert!(made[0].contains("221:\tfrom 10.1.0.0/24 lookup 220") && !made[1].contains("221:"), "{made:?}");

    let log = gateway.spawn_words(["ip", "monitor", "route", "rule"]).unwrap();
    // It listens once it has told of a change; one made earlier it would have missed.
    let deadline = Instant::now() + SOON;
    while !log.output(Stream::Stdout).contains("198.51.100.0/24") {
        assert!(Instant::now() < deadline, "nothing is announced");
        mirrored.ip("route add 198.51.100.0/24 via 192.0.2.2");
        mirrored.ip("route del 198.51.100.0/24");
    }
    first.apply(&wanted).unwrap();
    open().apply(&wanted).unwrap();
    assert_eq!(state(), made);
    // A change that is announced after any that should not have been made.
    mirrored.ip("route add 203.0.113.0/24 via 192.0.2.2");
    log.wait_line("203.0.113.0/24", SOON).unwrap();
    let changes = log.output(Stream::Stdout);
    assert!(!["10.2.0.0", "2001:db8:2::", "220"].iter().any(|ours| changes.contains(ours)), "{changes}");
}

#[test]
fn a_tun_device_carries_packets_both_ways_and_stays_when_it_is_closed() {
    let mirrored = Mirrored::new("tun");
    let gateway = &mirrored.gateway;
    let tun = gateway.enter(|| Tun::open("portcullis0", 1400)).unwrap().unwrap();
    mirrored.ip("route add 198.51.100.0/24 dev portcullis0 src 10.1.0.1");
    let socket = gateway.enter(|| UdpSocket::bind((Ipv4Addr::new(10, 1, 0, 1), 7))).unwrap().unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket.send_to(b"to the tunnel", "198.51.100.7:9").unwrap();

    let mut buffer = [0; 2048];
    let mut fds = [PollFd::new(tun.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::try_from(SOON).unwrap()).unwrap(), 1, "no packet came");
    let length = tun.read(&mut buffer).unwrap().unwrap();
    let mut packet = buffer[..length].to_vec();
    assert_eq!((&packet[12..16], &packet[16..20]), (&[10, 1, 0, 1][..], &[198, 51, 100, 7][..]));
    assert!(packet.ends_with(b"to the tunnel"));
    assert_eq!(tun.read(&mut buffer).unwrap(), None, "and no other");

    // Sent back: exchanged addresses and ports leave the checksums as they are.
    for (one, other, octets) in [(12, 16, 4), (20, 22, 2)] {
        (0..octets).for_each(|octet| packet.swap(one + octet, other + octet));
    }
    tun.write(&packet).unwrap();
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from), (&b"to the tunnel"[..], "198.51.100.7:9".parse().unwrap()));

    let ifindex = tun.ifindex();
    drop(tun);
    assert!(gateway.ip("link show portcullis0").is_ok(), "it outlives whoever had it open");
    let tun = gateway.enter(|| Tun::open("portcullis0", 1300)).unwrap().unwrap();
    assert_eq!(tun.ifindex(), ifindex, "the successor takes it over");
    assert!(gateway.ip("link show portcullis0").unwrap().stdout.contains("mtu 1300"));
    tun.make_transient().unwrap();
    drop(tun);
    assert!(gateway.ip("link show portcullis0").is_err());
}
