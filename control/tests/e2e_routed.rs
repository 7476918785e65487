//! A device for each of two customers who have the very same inner addresses on both sides: routes into it (of BIRD, or
//! static) choose what goes into the tunnels to strongSwan, and nobody gets what is another's.

#![expect(clippy::unwrap_used, reason = "where a test cannot go on it fails")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use portcullis_lab::{
    Capture, Gateway, GatewayConfig, Host, Lab, LabError, Process, Result, SiteConfig, StrongSwan, Switch,
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);
/// What makes a wrong way show as silence, where nothing is to arrive.
const SILENCE: Duration = Duration::from_millis(300);
const PORT: u16 = 7777;

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// Of every customer: a machine behind our gateway, and one behind the peer.
const NEAR: IpAddr = v4(10, 1, 0, 10);
const FAR: IpAddr = v4(10, 2, 0, 10);

/// One customer: his machines, and the peer of his tunnel.
struct Customer {
    name: &'static str,
    table: u32,
    near: Host,
    far: Host,
    swan: StrongSwan,
    connection: String,
}

impl Customer {
    fn new(lab: &Lab, wire: &Switch, gateway: &Host, name: &'static str, number: u8) -> Result<Self> {
        let (near, peer, far) = (
            lab.host(&format!("{name}-near"))?,
            lab.host(&format!("{name}-peer"))?,
            lab.host(&format!("{name}-far"))?,
        );
        lab.plug(wire, &peer, "outside0")?;
        lab.link(&peer, "inside0", &far, "eth0")?;
        let lan = format!("lan-{name}");
        lab.link(gateway, &lan, &near, "eth0")?;
        peer.address("outside0", &format!("192.0.2.{number}/24"))?;
        peer.address("inside0", "10.2.0.1/24")?;
        peer.forward()?;
        far.address("eth0", &format!("{FAR}/24"))?;
        far.route("default", "10.2.0.1")?;
        near.address("eth0", &format!("{NEAR}/24"))?;
        near.route("default", "10.1.0.1")?;
        gateway.address(&lan, "10.1.0.1/32")?;
        let everything = || vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()];
        let ours = SiteConfig {
            remote: format!("192.0.2.{number}"),
            remote_id: format!("{name}.example"),
            esp_proposals: "aes256gcm16".into(),
            local_ts: everything(),
            remote_ts: everything(),
            ..SiteConfig::a()
        };
        let theirs = SiteConfig {
            local_ts: vec!["10.2.0.0/24".into()],
            remote_ts: vec!["10.1.0.0/24".into()],
            ..ours.mirrored()
        };
        let swan = StrongSwan::start(&peer, &theirs.swanctl())?;
        let table = 100 + u32::from(number);
        for interface in [name, &lan] {
            gateway.ip(&format!("rule add iif {interface} lookup {table}"))?;
        }
        gateway.ip(&format!("route add 10.1.0.0/24 dev {lan} table {table}"))?;
        // In clear it would get there too.
        gateway.ip(&format!("route add default via 192.0.2.{number} table {table}"))?;
        Ok(Self { name, table, near, far, swan, connection: ours.toml_named(name) })
    }

    /// The connection, with its device.
    fn toml(&self, device: &str) -> String {
        let head = format!("[connections.{}]\n", self.name);
        self.connection.replacen(&head, &format!("{head}interface = \"{device}\"\n"), 1)
    }

    fn ends(&self) -> Result<[End; 2]> {
        Ok([End::new(&self.near, NEAR, self.name)?, End::new(&self.far, FAR, self.name)?])
    }
}

/// A socket on one of a customer's machines.
struct End {
    socket: UdpSocket,
    addr: IpAddr,
    customer: &'static str,
}

impl End {
    fn new(host: &Host, addr: IpAddr, customer: &'static str) -> Result<Self> {
        let socket = host.enter(|| UdpSocket::bind((addr, PORT)).unwrap())?;
        socket.set_read_timeout(Some(SOON)).unwrap();
        // A burst that nobody reads yet.
        setsockopt(&socket, sockopt::RcvBufForce, &(1 << 20)).unwrap();
        Ok(Self { socket, addr, customer })
    }

    /// Sends whose it is to the other end.
    fn send(&self, to: &Self) {
        self.socket.send_to(self.customer.as_bytes(), (to.addr, PORT)).unwrap();
    }

    /// Whose packet arrives, and from where.
    fn receive(&self) -> (String, SocketAddr) {
        let mut buffer = [0; 64];
        let (len, from) = self.socket.recv_from(&mut buffer).unwrap();
        (String::from_utf8_lossy(buffer.get(..len).unwrap()).into_owned(), from)
    }

    /// That nothing more is there.
    fn hears_nothing(&self) {
        self.socket.set_read_timeout(Some(SILENCE)).unwrap();
        assert!(self.socket.recv(&mut [0; 64]).is_err(), "{} got what is not his", self.customer);
        self.socket.set_read_timeout(Some(SOON)).unwrap();
    }
}

struct World {
    gateway: Host,
    red: Customer,
    blue: Customer,
    wire: Capture,
    lab: Lab,
}

impl World {
    fn new(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (switch, gateway) = (lab.switch("wire")?, lab.host("gateway")?);
        let port = lab.plug(&switch, &gateway, "outside0")?;
        gateway.address("outside0", "192.0.2.1/24")?;
        gateway.forward()?;
        let red = Customer::new(&lab, &switch, &gateway, "red", 11)?;
        let blue = Customer::new(&lab, &switch, &gateway, "blue", 12)?;
        let wire = switch.capture(&port, &[1, 11, 12].map(|last| v4(192, 0, 2, last)))?;
        Ok(Self { gateway, red, blue, wire, lab })
    }

    fn config(&self, further: &str) -> GatewayConfig {
        let connections = format!("{}{}{further}", self.red.toml("red"), self.blue.toml("blue"));
        GatewayConfig { inside: Vec::new(), ..GatewayConfig::new(connections) }
    }

    fn start(&self, config: &GatewayConfig) -> Result<Gateway> {
        let gateway = Gateway::start(&self.gateway, Path::new(env!("CARGO_BIN_EXE_portcullis")), config)?;
        gateway.initiate("red/net", SOON)?;
        self.blue.swan.initiate("net", SOON)?;
        Ok(gateway)
    }

    /// Static routes into both devices.
    fn route(&self) -> Result<()> {
        for Customer { name, table, .. } in [&self.red, &self.blue] {
            self.gateway.ip(&format!("route add 10.2.0.0/24 dev {name} table {table}"))?;
        }
        Ok(())
    }

    fn nothing_in_clear(&self) -> Result<()> {
        let counts = self.wire.settle()?;
        let clear = self.wire.clear_text();
        assert!(clear.is_empty(), "{counts} {clear:?}");
        Ok(())
    }
}

/// BIRD with a route of its own into a device, in a table of the kernel.
fn bird(host: &Host, table: u32, device: &str) -> Result<Process> {
    let file = |name: &str| host.dir().join(name).display().to_string();
    let (settings, socket) = (file("bird.conf"), file("bird.ctl"));
    let text = format!(
        "router id 192.0.2.1;\nlog stderr all;\nprotocol device {{ }}\n\
         protocol kernel {{ kernel table {table}; ipv4 {{ import none; export all; }}; }}\n\
         protocol static {{ ipv4; route 10.2.0.0/24 via \"{device}\"; }}\n"
    );
    std::fs::write(&settings, text).map_err(LabError::io("write bird.conf"))?;
    host.spawn_words(["bird", "-f", "-c", &settings, "-s", &socket])
}

/// Asks until the host says so.
fn wait_ip(host: &Host, arguments: &str, wanted: &str) -> Result<()> {
    let since = Instant::now();
    loop {
        let said = host.ip(arguments)?.stdout;
        if said.contains(wanted) {
            return Ok(());
        }
        assert!(since.elapsed() < SOON, "{arguments}: {said}");
    }
}

fn json(gateway: &Gateway, arguments: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&gateway.portcullis(arguments)?.stdout).unwrap())
}

#[test]
fn two_customers_with_the_same_addresses_are_kept_apart() -> Result<()> {
    let world = World::new("routed")?;
    // One device is there before the daemon, with addresses of its own; the other one the daemon makes.
    world.gateway.ip("tuntap add dev red mode tun")?;
    let mut gateway = world.start(&world.config(""))?;
    let _bird = bird(&world.gateway, world.red.table, "red")?;
    wait_ip(&world.gateway, &format!("route show table {}", world.red.table), "10.2.0.0/24 dev red")?;
    let blue = world.blue.table;
    world.gateway.ip(&format!("route add 10.2.0.0/24 dev blue table {blue}"))?;

    let ends = [world.red.ends()?, world.blue.ends()?];
    let exchange = || {
        for [near, far] in &ends {
            for (from, to) in [(near, far), (far, near)] {
                from.send(to);
                assert_eq!(to.receive(), (from.customer.to_owned(), (from.addr, PORT).into()));
            }
        }
        ends.iter().flatten().for_each(End::hears_nothing);
    };
    exchange();
    // Also over rekeyings, of which each end begins one.
    let spis = |gateway: &Gateway| -> Result<Vec<String>> {
        Ok(gateway.children()?.into_iter().map(|child| child.spi_out).collect())
    };
    let before = spis(&gateway)?;
    gateway.rekey("red/net")?;
    world.blue.swan.rekey_child("net")?;
    gateway.wait_children("rekeyed", SOON, |children| {
        children.len() == 2 && children.iter().all(|child| !before.contains(&child.spi_out))
    })?;
    exchange();
    world.nothing_in_clear()?;

    // What operators are shown.
    let policies = json(&gateway, &["policies", "--json"])?;
    let devices: Vec<&str> =
        policies.as_array().unwrap().iter().filter_map(|policy| policy["interface"].as_str()).collect();
    assert_eq!(devices, ["blue", "blue", "red", "red"]);
    let status = json(&gateway, &["status", "--json"])?;
    for (device, name) in status["devices"].as_array().unwrap().iter().zip(["red", "blue"]) {
        assert_eq!((device["name"].as_str(), device["works"].as_bool()), (Some(name), Some(true)));
        assert_eq!((device["to_kernel"].as_u64(), device["from_kernel"].as_u64()), (Some(2), Some(2)));
    }
    let explain = |words: &[&str]| {
        let words = [&["explain", "flow", "10.1.0.10", "10.2.0.10", "udp", "7777"], words].concat();
        gateway.portcullis(&words)
    };
    let sealed = explain(&["--interface", "blue"])?.stdout;
    assert!(sealed.contains("blue/net protects it") && sealed.contains("to 192.0.2.12"), "{sealed}");
    let elsewhere = explain(&[])?.stdout;
    assert!(elsewhere.contains("its routes may lead it into red or blue"), "{elsewhere}");
    let unknown = explain(&["--interface", "green"]).unwrap_err().to_string();
    assert!(unknown.contains("no connection has `green` as its interface"), "{unknown}");
    let trace = |far: &End, near: &End| -> Result<String> {
        let process = gateway.host().spawn_words(
            [env!("CARGO_BIN_EXE_portcullis"), "--socket"]
                .into_iter()
                .map(str::to_owned)
                .chain([gateway.host().dir().join("admin.sock").display().to_string()])
                .chain(["trace", "--count", "2", "port", "7777"].map(str::to_owned)),
        )?;
        let since = Instant::now();
        loop {
            near.send(far);
            far.receive();
            far.send(near);
            near.receive();
            if let Ok((line, _)) = process.wait_line_from(Default::default(), "given to the host", SILENCE) {
                return Ok(line);
            }
            assert!(since.elapsed() < SOON, "{}", process.tail());
        }
    };
    let [near, far] = &ends[1];
    let line = trace(far, near)?;
    assert!(line.contains("policy blue/net") && line.ends_with("given to the host by blue"), "{line}");

    // What routes lead there and no policy covers, and what covers it, but not the SA that the peer has narrowed.
    world.gateway.ip(&format!("route add 198.51.100.0/24 dev blue table {blue}"))?;
    let outside: SocketAddr = "198.51.100.7:7777".parse().unwrap();
    near.socket.send_to(b"lost", outside).unwrap();
    let since = Instant::now();
    while gateway.drops()?["no_sa"] == 0 {
        assert!(since.elapsed() < SOON, "{:?}", gateway.drops()?);
    }
    assert!(gateway.drops()?.iter().all(|(reason, count)| *count == 0 || reason == "no_sa"));

    // Without the daemon nothing leaves by the wider route beside the one into the device.
    gateway.kill9();
    near.send(far);
    ends[0][0].send(&ends[0][1]);
    ends.iter().flatten().for_each(End::hears_nothing);
    world.nothing_in_clear()?;
    gateway.restart()?;
    gateway.initiate("red/net", SOON)?;
    gateway.initiate("blue/net", SOON)?;
    exchange();
    drop(world.lab);
    Ok(())
}

/// Packets of a burst, and octets of each: 40 are let through at once, and one in a second after that.
const PACKETS: u64 = 60;
const OCTETS: usize = 1000;
const AT_ONCE: u64 = 40;

#[test]
fn a_device_has_a_rate_and_a_reload_knows_the_devices() -> Result<()> {
    let world = World::new("devices")?;
    let rates = |burst: &str| {
        format!(
            "[devices.red]\nrate_out = \"8k\"\nburst_out = {burst}\nrate_in = \"8k\"\nburst_in = {burst}\n"
        )
    };
    let gateway = world.start(&world.config(&rates("40_000")))?;
    world.route()?;
    let [[red_near, red_far], [blue_near, blue_far]] = [world.red.ends()?, world.blue.ends()?];
    let burst = |from: &End, to: &End| {
        // Less the headers of IP and UDP.
        (0..PACKETS).for_each(|_| _ = from.socket.send_to(&[7; OCTETS - 28], (to.addr, PORT)).unwrap());
    };
    let receive = |end: &End, packets: u64| {
        (0..packets).for_each(|_| _ = end.socket.recv(&mut [0; OCTETS]).unwrap());
    };
    let device = |pointer: &str| -> Result<u64> {
        let status = json(&gateway, &["status", "--json"])?;
        Ok(status.pointer(&format!("/devices/0/{pointer}")).and_then(Value::as_u64).unwrap_or_default())
    };
    let sealed = || json(&gateway, &["status", "--json"]).map(|status| status["packets"]["sealed"].as_u64());
    for (direction, [from, to]) in [("out", [&red_near, &red_far]), ("in", [&red_far, &red_near])] {
        burst(from, to);
        let since = Instant::now();
        loop {
            let dropped = device(&format!("rate_{direction}/dropped"))?;
            let passed = match direction {
                "out" => sealed()?.unwrap_or_default(),
                _ => device("to_kernel")?,
            };
            if passed + dropped == PACKETS {
                assert!((AT_ONCE..PACKETS).contains(&passed), "{passed}");
                assert_eq!(gateway.drops()?[&format!("rate_{direction}")], dropped);
                receive(to, passed);
                break;
            }
            assert!(since.elapsed() < SOON, "{passed} {dropped} {:?}", gateway.drops()?);
        }
    }
    // The other one's tunnel is free.
    for [from, to] in [[&blue_near, &blue_far], [&blue_far, &blue_near]] {
        burst(from, to);
        receive(to, PACKETS);
    }

    // Another rate, and a connection more on a device that there is: the SAs stay.
    let before = gateway.children()?;
    let third =
        SiteConfig { remote: "192.0.2.13".into(), remote_id: "third.example".into(), ..SiteConfig::a() };
    let third = third.toml_named("third");
    let on = |device: &str| third.replacen("]\n", &format!("]\ninterface = \"{device}\"\n"), 1);
    let said = gateway.reload(&world.config(&format!("{}{}", rates("50_000"), on("red"))), &[])?.stdout;
    assert!(
        said.contains("device red: another rate; all SAs stay") && said.contains("third: added"),
        "{said}"
    );
    let refused = gateway.reload(&world.config(&on("green")), &[]).unwrap_err().to_string();
    let expected = "only a restart can apply new devices of connections (`interface`, `[devices]`): green (there are: red, blue)";
    assert!(refused.contains(expected), "{refused}");
    assert_eq!(gateway.children()?.len(), before.len());
    blue_near.send(&blue_far);
    assert_eq!(blue_far.receive().0, "blue");

    // Without its connections a device drops what comes.
    let alone = GatewayConfig { connections: world.blue.toml("blue"), ..world.config("") };
    let said = gateway.reload(&alone, &[])?.stdout;
    assert!(said.contains("red: removed; its SAs are closed"), "{said}");
    red_near.send(&red_far);
    let since = Instant::now();
    while gateway.drops()?["no_policy"] == 0 {
        assert!(since.elapsed() < SOON, "{:?}", gateway.drops()?);
    }
    blue_near.send(&blue_far);
    assert_eq!(blue_far.receive().0, "blue");
    red_far.hears_nothing();

    // Back again, in another order: a device stays whose it is.
    let turned = format!("{}{}", world.blue.toml("blue"), world.red.toml("red"));
    gateway.reload(&GatewayConfig { connections: turned, ..world.config("") }, &[])?;
    gateway.initiate("red/net", SOON)?;
    for ends in [[&red_near, &red_far], [&blue_near, &blue_far]] {
        for [from, to] in [[ends[0], ends[1]], [ends[1], ends[0]]] {
            from.send(to);
            assert_eq!(to.receive().0, from.customer);
        }
    }
    [&red_near, &red_far, &blue_near, &blue_far].into_iter().for_each(End::hears_nothing);

    // Another device is another tenant: nothing of the old one's SAs is left.
    let moved = format!("{}{}", world.blue.toml("blue"), world.red.toml("blue"));
    let said = gateway.reload(&GatewayConfig { connections: moved, ..world.config("") }, &[])?.stdout;
    assert!(said.contains("red: changed; its SAs are closed and negotiated anew"), "{said}");
    red_near.send(&red_far);
    red_far.hears_nothing();
    world.nothing_in_clear()?;

    // The emergency exit leaves no device that the configuration names.
    let mut gateway = gateway;
    gateway.kill9();
    gateway.detach_open()?;
    let links = world.gateway.ip("-brief link")?.stdout;
    let device = |line: &str| ["blue ", "portcullis0 "].iter().any(|name| line.starts_with(name));
    assert!(!links.lines().any(device), "{links}");
    Ok(())
}
