//! More than two sites: traffic between two spokes is sealed on both legs, and never leaves in clear when the
//! second leg is down. And a tunnel for everything (0.0.0.0/0) does not take the gateway's own management
//! traffic with it.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use portcullis_lab::{
    Capture, Chatter, Class, Direction, Gateway, GatewayConfig, Host, Lab, LabError, Result, SiteConfig,
    Sites, StrongSwan,
};

const SOON: Duration = Duration::from_secs(30);

fn start(host: &Host, config: &GatewayConfig) -> Result<Gateway> {
    Gateway::start(host, Path::new(env!("CARGO_BIN_EXE_portcullis")), config)
}

/// A hub with Portcullis and two spokes with strongSwan, each spoke with a network of its own on a machine behind
/// it; the hub has routes to both in clear.
struct Star {
    hub: Gateway,
    spokes: [StrongSwan; 2],
    machines: [Host; 2],
    wire: Capture,
    _lab: Lab,
}

const MACHINES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 11, 0, 10)), IpAddr::V4(Ipv4Addr::new(10, 12, 0, 10))];

fn star(name: &str) -> Result<Star> {
    let lab = Lab::new(name)?;
    let switch = lab.switch("wire")?;
    let (hub, behind) = (lab.host("hub")?, lab.host("behind")?);
    let port = lab.plug(&switch, &hub, "outside0")?;
    lab.link(&hub, "inside0", &behind, "eth0")?;
    hub.address("outside0", "192.0.2.1/24")?;
    hub.address("inside0", "10.1.0.1/24")?;
    hub.forward()?;
    let mut connections = String::new();
    let mut spoke = |site: u8, other: u8| -> Result<(StrongSwan, Host)> {
        let (gateway, machine) = (lab.host(&format!("spoke{site}"))?, lab.host(&format!("machine{site}"))?);
        lab.plug(&switch, &gateway, "outside0")?;
        lab.link(&gateway, "inside0", &machine, "eth0")?;
        gateway.address("outside0", &format!("192.0.2.{site}/24"))?;
        gateway.address("inside0", &format!("10.{site}.0.1/24"))?;
        gateway.forward()?;
        gateway.route("default", "192.0.2.1")?;
        machine.address("eth0", &format!("10.{site}.0.10/24"))?;
        machine.route("default", &format!("10.{site}.0.1"))?;
        hub.route(&format!("10.{site}.0.0/24"), &format!("192.0.2.{site}"))?;
        let ours = SiteConfig {
            remote: format!("192.0.2.{site}"),
            remote_id: format!("spoke{site}.example"),
            esp_proposals: "aes256gcm16".into(),
            local_ts: vec!["10.1.0.0/24".into(), format!("10.{other}.0.0/24")],
            remote_ts: vec![format!("10.{site}.0.0/24")],
            ..SiteConfig::a()
        };
        connections += &ours.toml_named(&format!("spoke{site}"));
        Ok((StrongSwan::start(&gateway, &ours.mirrored().swanctl())?, machine))
    };
    let ((swan_1, machine_1), (swan_2, machine_2)) = (spoke(11, 12)?, spoke(12, 11)?);
    let hub = start(&hub, &GatewayConfig::new(connections))?;
    let outer = [1, 11, 12].map(|last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)));
    let wire = switch.capture(&port, &outer)?;
    Ok(Star { hub, spokes: [swan_1, swan_2], machines: [machine_1, machine_2], wire, _lab: lab })
}

#[test]
fn spoke_to_spoke_traffic_is_sealed_on_both_legs() -> Result<()> {
    let star = star("spokes")?;
    for spoke in &star.spokes {
        spoke.initiate("net", SOON)?;
    }
    let before = star.wire.settle()?;
    let ping = star.machines[0].ping(MACHINES[1], 10)?;
    assert!(ping.complete(), "{ping:?}");
    let counts = star.wire.settle()?;
    // Ten requests and ten answers, each once to the hub and once from it.
    for direction in [Direction::In, Direction::Out] {
        assert_eq!(counts.esp(direction) - before.esp(direction), 20, "{direction:?} {counts}");
    }
    assert_eq!(counts.packets(Class::Clear), 0, "{:?}", star.wire.clear_text());
    Ok(())
}

#[test]
fn spoke_to_spoke_traffic_is_dropped_while_the_second_tunnel_is_down() -> Result<()> {
    let star = star("halfstar")?;
    star.spokes[0].initiate("net", SOON)?;
    let flow = Chatter::start(&star.machines[0], MACHINES[0], MACHINES[1], 1)?;
    star.wire.wait_until("ESP to the hub", SOON, |counts| counts.esp(Direction::Out) >= 100)?;
    flow.wait_more(100, SOON)?;
    let counts = star.wire.settle()?;
    assert_eq!(counts.packets(Class::Clear), 0, "{:?}", star.wire.clear_text());
    let drops = star.hub.drops()?;
    assert!(drops.get("no_sa").is_some_and(|count| *count > 0), "{drops:?}");

    // The second tunnel comes up, and goes again.
    star.spokes[1].initiate("net", SOON)?;
    assert!(star.machines[0].ping(MACHINES[1], 3)?.complete());
    star.hub.terminate("spoke12")?;
    flow.wait_more(100, SOON)?;
    let counts = star.wire.settle()?;
    assert_eq!(counts.packets(Class::Clear), 0, "{:?}", star.wire.clear_text());
    Ok(())
}

/// A conversation over TCP, as an administrator would have with a gateway.
fn tcp_works(from: &Host, to: &Host, address: IpAddr) -> Result<()> {
    let converse = || -> std::io::Result<()> {
        let enter = |error: LabError| std::io::Error::other(error);
        let listener = to.enter(|| TcpListener::bind((address, 0))).map_err(enter)??;
        let server = listener.local_addr()?;
        let mut client = from.enter(|| TcpStream::connect_timeout(&server, SOON)).map_err(enter)??;
        let (mut accepted, _) = listener.accept()?;
        client.set_read_timeout(Some(SOON))?;
        accepted.set_read_timeout(Some(SOON))?;
        let mut line = *b"who are you?";
        client.write_all(&line)?;
        accepted.read_exact(&mut line)?;
        accepted.write_all(&line)?;
        client.read_exact(&mut line)
    };
    let what = format!("talk over TCP from {} to {address}", from.name());
    converse().map_err(|source| LabError::Io { what, source })
}

#[test]
fn a_tunnel_for_everything_leaves_the_gateways_own_management_alone() -> Result<()> {
    let sites = Sites::new("everything")?;
    let admin = sites.lab.host("admin")?;
    sites.lab.plug(&sites.wire, &admin, "eth0")?;
    admin.address("eth0", "192.0.2.100/24")?;
    let admin_address: IpAddr = "192.0.2.100".parse().unwrap();
    // Somewhere out there, behind b.
    let elsewhere: IpAddr = "198.51.100.7".parse().unwrap();
    sites.server.address("lo", "198.51.100.7/32")?;
    sites.b.route("198.51.100.7/32", "10.2.0.10")?;

    let everything = SiteConfig {
        local_ts: vec!["10.1.0.0/24".into()],
        remote_ts: vec!["0.0.0.0/0".into()],
        ..SiteConfig::a()
    };
    let a = start(&sites.a, &GatewayConfig::new(everything.toml()))?;
    let b = start(&sites.b, &GatewayConfig::new(everything.mirrored().toml()))?;
    let wire = sites.capture()?;

    for tunnel in ["down", "up"] {
        if tunnel == "up" {
            a.initiate("site/net", SOON)?;
        }
        tcp_works(&admin, &sites.a, Sites::A_OUTSIDE)?;
        tcp_works(&sites.a, &admin, admin_address)?;
        tcp_works(&sites.client, &sites.a, Sites::A_INSIDE)?;
        tcp_works(&sites.a, &sites.client, Sites::CLIENT)?;
    }

    assert!(sites.client.ping(elsewhere, 5)?.complete());
    wire.settle()?;
    let leaked = wire.matching(|frame| {
        let inner = |address| address == Sites::CLIENT || address == elsewhere;
        frame.class == Class::Clear
            && frame.headers().is_some_and(|ip| inner(ip.source) || inner(ip.destination))
    });
    assert!(leaked.is_empty(), "{leaked:?}");
    assert_eq!(b.children()?.len(), 1);
    Ok(())
}
