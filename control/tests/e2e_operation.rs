//! What an operator does and relies on: tunnels on demand, forced encapsulation, a peer that dies and returns, an orderly
//! stop, metrics, and errors that say what is wrong.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use portcullis_lab::{
    Capture, Chatter, Class, Direction, Frame, Gateway, GatewayConfig, Host, LabError, Result, SiteConfig,
    Sites,
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
    assert!(sites.client.ping(Sites::SERVER, 1)?.complete(), "the packet that asked is not lost");
    assert!(sites.client.ping(Sites::SERVER, 5)?.complete());
    assert_eq!(b.children()?.len(), 1);
    assert_eq!(clear_text(&wire)?, 0, "{:?}", wire.clear_text());
    let drops = a.drops()?;
    assert_eq!((drops["no_sa"], drops["trap_queue_full"], drops["trap_timeout"]), (0, 0, 0));
    Ok(())
}

#[test]
fn what_asks_for_a_peer_that_is_silent_is_held_for_a_while_and_dropped_by_name() -> Result<()> {
    let sites = Sites::new("silent")?;
    let wire = sites.capture()?;
    let trap = SiteConfig { start_action: "trap", ..ours() }.toml();
    let config = GatewayConfig {
        gateway_lines: "trap_packets = 2\ntrap_time = \"1s\"".to_owned(),
        ..GatewayConfig::new(trap)
    };
    let a = Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)?;
    let chatter = Chatter::start(&sites.client, Sites::CLIENT, Sites::SERVER, 1)?;
    let deadline = Instant::now() + SOON;
    loop {
        chatter.wait_more(10, SOON)?;
        let drops = a.drops()?;
        if drops["trap_queue_full"] > 0 && drops["trap_timeout"] > 2 {
            break;
        }
        assert!(Instant::now() < deadline, "{drops:?}");
    }
    assert_eq!(clear_text(&wire)?, 0, "{:?}", wire.clear_text());
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
    let wire = sites.capture()?;
    b.kill9();
    a.wait_log(from, "PEER_SILENT", SOON)?;
    a.wait_log(from, "CHILD SA closed", SOON)?;
    assert!(a.children()?.is_empty());
    assert_eq!(sites.client.ping(Sites::SERVER, 3)?.received, 0);
    assert_eq!(clear_text(&wire)?, 0, "{:?}", wire.clear_text());

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
        "portcullis_connection_packets_total{connection=\"site\",direction=\"out\"} 5",
        "portcullis_drops_total{reason=\"no_sa\"} 1",
        "portcullis_packets_total{path=\"sealed\",worker=\"0\"} 5",
        "portcullis_ike_handshake_duration_seconds_count{role=\"initiator\"} 1",
        "# TYPE portcullis_packets_total counter",
    ] {
        assert!(page.contains(line), "`{line}` is missing in\n{page}");
    }
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
        Err(LabError::Failed { output, status, .. }) => {
            assert!(output.contains(expected), "{arguments:?}: {output}");
            assert_eq!(status.code(), Some(1), "{arguments:?}: {output}");
        }
        other => assert!(other.is_err(), "{arguments:?} should have failed: {other:?}"),
    };
    says(&["initiate", "nope"], "no connection `nope` is configured (there are: site)");
    says(&["initiate", "site/nope"], "connection `site` has no child `nope` (there are: net)");
    // Nobody answers there yet.
    says(&["initiate", "site/net", "--timeout", "1"], "TIMEOUT");
    let file = sites.a.dir().join("broken.toml");
    let broken = ours().toml().replace("remote_ts", "remote_st");
    let line = broken.lines().take_while(|line| !line.starts_with("remote_st")).count() + 1;
    std::fs::write(&file, broken).map_err(LabError::io("write broken.toml"))?;
    let file = file.display().to_string();
    says(&["check", &file], "did you mean `remote_ts`?");
    says(&["check", &file], &format!("\n{line}:1: error: "));
    says(&["check", &file], "`gateway` is missing");
    says(&["run", "--config", &file], "broken.toml` has 2 errors");
    Ok(())
}

#[test]
fn a_packet_too_large_for_the_tunnel_is_answered_with_the_size_that_fits() -> Result<()> {
    // 1500, less the outer header (20), SPI and sequence number (8), IV (8) and ICV (16); of what is left, a multiple of
    // four, two octets are the trailer (RFC 4303 §2, RFC 4106 §3).
    const FITS: u32 = 1446;
    let sites = Sites::new("pmtu")?;
    let a = start(&sites.a, ours().toml())?;
    let _b = start(&sites.b, theirs().toml())?;
    a.initiate("site/net", SOON)?;
    let wire = sites.capture()?;
    for (to, headers) in [(Sites::SERVER, 28), (Sites::SERVER_V6, 48)] {
        let whole = |size: u32| sites.client.ping_with(to, 3, size - headers, &["-M", "do"]);
        assert!(whole(FITS)?.complete(), "{to}: what fits must pass");
        for too_large in [FITS + 1, 1500] {
            let told = Capture::start(&sites.client, "eth0", &[])?;
            assert_eq!(whole(too_large)?.received, 0, "{to} {too_large}");
            let error = told.wait_frame("the error", SOON, |frame| too_big(frame).is_some())?;
            assert_eq!(too_big(&error), Some((FITS, to)), "{too_large}");
            // The sender forgets what it was told.
            sites.client.ip("-4 route flush cache")?;
            sites.client.ip("-6 route flush cache")?;
        }
    }
    assert_eq!(clear_text(&wire)?, 0, "{:?}", wire.clear_text());
    Ok(())
}

/// The MTU that an ICMP error names, and where the packet that it quotes was going.
fn too_big(frame: &Frame) -> Option<(u32, IpAddr)> {
    let headers = frame.headers()?;
    let octets = |at: usize| headers.payload.get(at..at + 4)?.try_into().ok();
    match (headers.protocol, headers.payload.get(..2)?) {
        // RFC 1191 §4: the MTU is in the lower half; the quoted header's destination is at 16.
        (1, [3, 4]) => {
            let quoted: [u8; 4] = octets(8 + 16)?;
            Some((u32::from_be_bytes(octets(4)?), quoted.into()))
        }
        // RFC 4443 §3.2; the quoted header's destination is at 24.
        (58, [2, 0]) => {
            let quoted: [u8; 16] = headers.payload.get(8 + 24..8 + 40)?.try_into().ok()?;
            Some((u32::from_be_bytes(octets(4)?), quoted.into()))
        }
        _ => None,
    }
}

#[test]
fn a_second_daemon_by_mistake_does_not_disturb_the_first() -> Result<()> {
    let sites = Sites::new("second")?;
    let a = start(&sites.a, ours().toml())?;
    let _b = start(&sites.b, theirs().toml())?;
    a.initiate("site/net", SOON)?;
    let file = sites.a.dir().join("portcullis.toml");
    let binary = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let refused = sites.a.run([binary.as_os_str(), "run".as_ref(), "--config".as_ref(), file.as_os_str()]);
    match refused {
        Err(LabError::Failed { output, status, .. }) => {
            assert!(output.contains("another daemon listens on"), "{output}");
            assert_eq!(status.code(), Some(1), "{output}");
        }
        other => panic!("it should have been refused: {other:?}"),
    }
    assert_eq!(a.children()?.len(), 1, "the first still answers");
    assert!(sites.client.ping(Sites::SERVER, 5)?.complete());
    Ok(())
}

#[test]
fn an_idle_gateway_sleeps_with_every_packet_accounted_for() -> Result<()> {
    // Of a thread that spins, the kernel would count a hundred ticks a second.
    const TICKS: u64 = 20;
    let sites = Sites::new("idle")?;
    let a = start(&sites.a, ours().toml())?;
    let _b = start(&sites.b, theirs().toml())?;
    a.initiate("site/net", SOON)?;
    assert!(sites.client.ping(Sites::SERVER, 20)?.complete());
    let ours = ["worker-0", "slow-path", "netlink-mirror"];
    let used = || ours.iter().map(|name| thread(&a, name).map(|it| it.ticks)).sum::<Result<u64>>();
    // The housekeeper's turns are the clock: it wakes once a second.
    let turns = || thread(&a, "housekeeper").map(|it| it.sleeps);
    let (before, from) = (used()?, turns()?);
    let deadline = Instant::now() + SOON;
    while turns()? < from + 5 {
        assert!(Instant::now() < deadline, "the housekeeper does not wake");
        let packets = a.status()?.packets;
        assert_eq!(packets.in_flight(), 0, "{packets:?}");
        assert_eq!(packets.held, 0, "{packets:?}");
    }
    let idle = used()? - before;
    assert!(idle < TICKS, "{idle} ticks while nothing moved");
    Ok(())
}

/// What the kernel knows of a thread.
struct Thread {
    /// Processor time, user and system, in clock ticks.
    ticks: u64,
    /// How often it went to sleep.
    sleeps: u64,
}

fn thread(gateway: &Gateway, name: &str) -> Result<Thread> {
    let find = || -> std::io::Result<Thread> {
        for task in std::fs::read_dir(format!("/proc/{}/task", gateway.process().pid()))? {
            let task = task?.path();
            if std::fs::read_to_string(task.join("comm"))?.trim() != name {
                continue;
            }
            // Behind the name in brackets come fields 3 and on; utime and stime are 14 and 15 (proc(5)).
            let stat = std::fs::read_to_string(task.join("stat"))?;
            let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            let ticks = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
            let status = std::fs::read_to_string(task.join("status"))?;
            let sleeps = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            let sleeps = sleeps.and_then(|count| count.trim().parse().ok());
            return sleeps
                .map(|sleeps| Thread { ticks, sleeps })
                .ok_or_else(|| std::io::Error::other("no count of context switches"));
        }
        Err(std::io::Error::other("no such thread"))
    };
    find().map_err(LabError::io(format!("look at the thread {name}")))
}
