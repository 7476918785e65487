//! `firewall = "kernel"`: nftables rules in the gateway's host apply to what a tunnel to strongSwan carries, both ways, and
//! nothing of it leaves in clear, whatever becomes of the daemon.

#![expect(clippy::unwrap_used, reason = "where a test cannot go on it fails")]

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use portcullis_lab::{
    Capture, Chatter, Class, Gateway, GatewayConfig, Host, Result, SiteConfig, Sites, StrongSwan,
};

const SOON: Duration = Duration::from_secs(30);
/// Dropped on the way into the tunnel, on the way out of it, and let out under the gateway's own address.
const INTO: u16 = 7001;
const OUT_OF: u16 = 7002;
const HIDDEN: u16 = 7003;
/// Nothing is said of this one.
const FREE: u16 = 7004;

fn rules() -> String {
    format!(
        "table inet test {{\n\
         counter into {{ }}\ncounter out_of {{ }}\n\
         chain forward {{\n type filter hook forward priority filter; policy accept;\n\
         ct state invalid drop\n\
         iifname \"inside0\" oifname \"portcullis0\" udp dport {INTO} drop\n\
         iifname \"portcullis0\" oifname \"inside0\" udp dport {OUT_OF} drop\n\
         iifname \"inside0\" oifname \"portcullis0\" meta l4proto {{ icmp, icmpv6 }} counter name \"into\"\n\
         iifname \"portcullis0\" oifname \"inside0\" meta l4proto {{ icmp, icmpv6 }} counter name \"out_of\"\n\
         }}\n\
         chain postrouting {{\n type nat hook postrouting priority srcnat;\n\
         oifname \"inside0\" udp dport {HIDDEN} masquerade\n}}\n}}\n"
    )
}

/// Packets that a named counter has seen.
fn counted(host: &Host, counter: &str) -> Result<u64> {
    let said = host.run(["nft", "list", "counter", "inet", "test", counter])?.stdout;
    let packets = said.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    Ok(packets.unwrap().parse().unwrap())
}

fn socket(host: &Host, port: u16) -> Result<UdpSocket> {
    let socket = host.enter(|| UdpSocket::bind(("0.0.0.0", port)).unwrap())?;
    socket.set_read_timeout(Some(SOON)).unwrap();
    Ok(socket)
}

/// Sends to a port that is closed and to one that is open, and says whom the second one came from. Packets keep their order.
fn only_the_second(from: &Host, to: &Host, address: IpAddr, closed: u16, open: u16) -> Result<SocketAddr> {
    let (sender, refused, taken) = (socket(from, 0)?, socket(to, closed)?, socket(to, open)?);
    for port in [closed, open] {
        sender.send_to(b"knock", (address, port)).unwrap();
    }
    let (_, whom) = taken.recv_from(&mut [0; 16]).unwrap();
    refused.set_nonblocking(true).unwrap();
    assert_eq!(refused.recv(&mut [0; 16]).unwrap_err().kind(), ErrorKind::WouldBlock);
    taken.send_to(b"who is there", whom).unwrap();
    let (_, answering) = sender.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(answering, SocketAddr::new(address, open));
    Ok(whom)
}

fn nothing_leaks(wire: &Capture, flows: &[Chatter]) -> Result<()> {
    flows.iter().try_for_each(|flow| flow.wait_more(100, SOON))?;
    let counts = wire.settle()?;
    assert_eq!(counts.packets(Class::Clear), 0, "{:?}", wire.clear_text());
    Ok(())
}

#[test]
fn the_hosts_firewall_sees_both_directions_and_nothing_leaves_in_clear_without_the_daemon() -> Result<()> {
    let sites = Sites::new("firewall")?;
    let ours = SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() };
    let swan = StrongSwan::start(&sites.b, &ours.mirrored().swanctl())?;
    let config =
        GatewayConfig { gateway_lines: "firewall = \"kernel\"".into(), ..GatewayConfig::new(ours.toml()) };
    let mut a = Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)?;
    let file = sites.lab.dir().join("rules.nft");
    std::fs::write(&file, rules()).unwrap();
    sites.a.run(["nft", "-f", &file.display().to_string()])?;
    let wire = sites.capture()?;
    a.initiate("site/net", SOON)?;

    assert!(sites.client.ping(Sites::SERVER, 3)?.complete(), "{:?}", a.drops()?);
    assert!(sites.server.ping(Sites::CLIENT_V6, 4)?.complete(), "{:?}", a.drops()?);
    assert_eq!((counted(&sites.a, "into")?, counted(&sites.a, "out_of")?), (7, 7));
    let whom = only_the_second(&sites.client, &sites.server, Sites::SERVER, INTO, FREE)?;
    assert_eq!(whom.ip(), Sites::CLIENT);
    let whom = only_the_second(&sites.server, &sites.client, Sites::CLIENT, OUT_OF, FREE)?;
    assert_eq!(whom.ip(), Sites::SERVER);
    let whom = only_the_second(&sites.server, &sites.client, Sites::CLIENT, OUT_OF, HIDDEN)?;
    assert_eq!(whom.ip(), Sites::A_INSIDE, "it is hidden behind the gateway");
    let (src, dst) = (Sites::CLIENT.to_string(), Sites::SERVER.to_string());
    for (from, to, way) in [(&src, &dst, "from an inside interface into"), (&dst, &src, "out of")] {
        let said = a.portcullis(&["explain", "flow", from, to])?.stdout;
        assert!(said.contains(&format!("the host's firewall sees it in clear, {way} portcullis0")), "{said}");
    }
    // The gateway itself, too, which was never anybody else's affair.
    assert!(sites.a.ping(Sites::SERVER, 2)?.complete());

    let flow = |host: &Host, from: IpAddr, to: IpAddr| Chatter::start(host, from, to, 1);
    let flows = [
        flow(&sites.client, Sites::CLIENT, Sites::SERVER)?,
        flow(&sites.client, Sites::CLIENT_V6, Sites::SERVER_V6)?,
    ];
    nothing_leaks(&wire, &flows)?;
    a.kill9();
    nothing_leaks(&wire, &flows)?;
    a.restart()?;
    nothing_leaks(&wire, &flows)?;
    drop(swan);
    Ok(())
}
