//! What an operator does and relies on: tunnels on demand, forced encapsulation, a peer that dies and returns, an orderly
//! stop, metrics, and errors that say what is wrong.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::Duration;

use portcullis_lab::{
    Capture, Class, Direction, Gateway, GatewayConfig, Host, LabError, Result, SiteConfig, Sites,
};

const SOON: Duration = Duration::from_secs(30);

fn start(host: &Host, connections: String) -> Result<Gateway> {
    Gateway::start(host, Path::new(env!("CARGO_BIN_EXE_portcullis")), &GatewayConfig::new(connections))
}

fn ours() -> SiteConfig {
    SiteConfig::a()
}

fn theirs() -> SiteConfig {
    SiteConfig::a().mirrored()
}

fn clear_text(wire: &Capture) -> Result<u64> {
    let counts = wire.settle()?;
    assert_eq!(counts.lost, 0, "{counts}");
    Ok(counts.packets(Class::Clear))
}

#[test]
fn the_first_packet_of_a_trap_policy_brings_the_tunnel_up() -> Result<()> {
    let sites = Sites::new("trap")?;
    let wire = sites.capture()?;
    let a = start(&sites.a, SiteConfig { start_action: "trap", ..ours() }.toml())?;
    let b = start(&sites.b, theirs().toml())?;
    assert!(a.sas()?.is_empty(), "nothing has asked for the tunnel yet");
    let from = a.process().mark();
    sites.client.ping(Sites::SERVER, 1)?;
    a.wait_log(from, "CHILD SA established", SOON)?;
    assert!(sites.client.ping(Sites::SERVER, 5)?.complete());
    assert_eq!(b.children()?.len(), 1);
    assert_eq!(clear_text(&wire)?, 0, "{:?}", wire.clear_text());
    assert!(a.drops()?["no_sa"] >= 1, "the packet that asked was not let through");
    Ok(())
}

#[test]
fn forced_encapsulation_puts_esp_into_udp() -> Result<()> {
    let sites = Sites::new("encap")?;
    let wire = sites.capture()?;
    let encap =
        |config: SiteConfig| config.toml().replacen("proposals = [", "encap = true\nproposals = [", 1);
    let a = start(&sites.a, encap(ours()))?;
    let _b = start(&sites.b, encap(theirs()))?;
    a.initiate("site/net", SOON)?;
    assert!(sites.client.ping(Sites::SERVER, 5)?.complete());
    assert!(sites.client.ping(Sites::SERVER_V6, 5)?.complete());
    assert_eq!(a.children()?[0].mode, "TUNNEL-in-UDP");
    let counts = wire.settle()?;
    assert_eq!(counts.packets(Class::Esp), 0, "{counts}");
    assert_eq!(counts.of(Class::UdpEsp, Direction::In).packets, 10, "{counts}");
    assert_eq!(counts.packets(Class::Clear), 0, "{:?}", wire.clear_text());
    Ok(())
}

#[test]
fn a_peer_that_died_is_noticed_and_met_again_when_it_returns() -> Result<()> {
    let sites = Sites::new("dpd")?;
    let impatient = "[ike]\nretransmit_timeout = \"200ms\"\nretransmit_tries = 2\n\n";
    let ours = SiteConfig { start_action: "start", ..ours() }.toml();
    let ours = ours.replacen("proposals = [", "dpd_delay = \"1s\"\nproposals = [", 1);
    let mut b = start(&sites.b, theirs().toml())?;
    let a = start(&sites.a, format!("{impatient}{ours}"))?;
    a.initiate("site/net", SOON)?;
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());

    let from = a.process().mark();
    b.kill9();
    a.wait_log(from, "PEER_SILENT", SOON)?;
    a.wait_log(from, "CHILD SA closed", SOON)?;
    assert!(a.children()?.is_empty());

    let from = a.process().mark();
    b.restart()?;
    a.wait_log(from, "CHILD SA established", Duration::from_secs(90))?;
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
    Ok(())
}

#[test]
fn an_orderly_stop_takes_leave_of_the_peer() -> Result<()> {
    let sites = Sites::new("leave")?;
    let mut a = start(&sites.a, ours().toml())?;
    let b = start(&sites.b, theirs().toml())?;
    a.initiate("site/net", SOON)?;
    let from = b.process().mark();
    a.stop()?;
    b.wait_log(from, "IKE SA closed", SOON)?;
    assert!(b.sas()?.is_empty());
    Ok(())
}

#[test]
fn prometheus_finds_the_tunnel_and_the_drops() -> Result<()> {
    let sites = Sites::new("metrics")?;
    let a = start(&sites.a, ours().toml())?;
    let _b = start(&sites.b, theirs().toml())?;
    sites.client.ping(Sites::SERVER, 1)?;
    a.initiate("site/net", SOON)?;
    assert!(sites.client.ping(Sites::SERVER, 5)?.complete());
    let page = sites.a.enter(scrape)?.map_err(LabError::io("scrape the metrics"))?;
    for line in [
        "portcullis_ike_sas{state=\"established\"} 1",
        "portcullis_child_sas{connection=\"site\"} 1",
        "portcullis_child_sa_packets{connection=\"site\",direction=\"out\"} 5",
        "portcullis_drops_total{reason=\"no_sa\"} 1",
        "portcullis_packets_total{path=\"sealed\"} 5",
        "# TYPE portcullis_packets counter",
    ] {
        assert!(page.contains(line), "`{line}` is missing in\n{page}");
    }
    assert!(page.trim_end().ends_with("# EOF"), "the page is whole");
    Ok(())
}

fn scrape() -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, 9464))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

#[test]
fn what_the_operator_got_wrong_is_said() -> Result<()> {
    let sites = Sites::new("wrong")?;
    let a = start(&sites.a, ours().toml())?;
    let says = |arguments: &[&str], expected: &str| match a.portcullis(arguments) {
        Err(LabError::Failed { output, .. }) => assert!(output.contains(expected), "{arguments:?}: {output}"),
        other => assert!(other.is_err(), "{arguments:?} should have failed: {other:?}"),
    };
    says(&["initiate", "nope"], "no connection `nope` is configured (there are: site)");
    says(&["initiate", "site/nope"], "connection `site` has no child `nope` (it has: net)");
    // Nobody answers there yet.
    says(&["initiate", "site/net", "--timeout", "1"], "TIMEOUT");
    let file = sites.a.dir().join("broken.toml");
    let broken = ours().toml().replace("remote_ts", "remote_st");
    std::fs::write(&file, broken).map_err(LabError::io("write broken.toml"))?;
    let file = file.display().to_string();
    says(&["check", &file], "did you mean `remote_ts`?");
    says(&["check", &file], "`gateway` is missing");
    says(&["run", "--config", &file], "broken.toml` has 2 errors");
    Ok(())
}
