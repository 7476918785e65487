//! Nothing protected leaves in clear, whatever becomes of the daemon. The gateways route to each other, so that
//! without protection all of this traffic would cross the wire; the flows never pause, so that a gap of
//! milliseconds would show.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use portcullis_lab::{
    Capture, Chatter, Class, Direction, Gateway, GatewayConfig, Host, LabError, LinkOptions, Result,
    SiteConfig, Sites,
};

const SOON: Duration = Duration::from_secs(30);

fn start(host: &Host, config: &GatewayConfig) -> Result<Gateway> {
    Gateway::start(host, Path::new(env!("CARGO_BIN_EXE_portcullis")), config)
}

/// A gateway on each side, no tunnel yet.
fn gateways(sites: &Sites) -> Result<(Gateway, Gateway)> {
    let a = start(&sites.a, &GatewayConfig::new(SiteConfig::a().toml()))?;
    let b = start(&sites.b, &GatewayConfig::new(SiteConfig::a().mirrored().toml()))?;
    Ok((a, b))
}

/// The protected flows between the sites, both ways and both families.
fn chatter(sites: &Sites) -> Result<Vec<Chatter>> {
    let flow = |host: &Host, from: IpAddr, to: IpAddr| Chatter::start(host, from, to, 1);
    Ok(vec![
        flow(&sites.client, Sites::CLIENT, Sites::SERVER)?,
        flow(&sites.server, Sites::SERVER, Sites::CLIENT)?,
        flow(&sites.client, Sites::CLIENT_V6, Sites::SERVER_V6)?,
        flow(&sites.server, Sites::SERVER_V6, Sites::CLIENT_V6)?,
    ])
}

/// Lets every flow send 100 more datagrams and demands that none has crossed the wire in clear, ever.
fn nothing_leaks(wire: &Capture, flows: &[Chatter]) -> Result<()> {
    for flow in flows {
        flow.wait_more(100, SOON)?;
    }
    let counts = wire.settle()?;
    assert_eq!(counts.packets(Class::Clear), 0, "{:?}", wire.clear_text());
    assert_eq!(counts.lost, 0, "{counts}");
    Ok(())
}

/// Waits until ESP has gone on in both directions.
fn esp_flows(wire: &Capture) -> Result<()> {
    let before = wire.counts();
    let more =
        |direction| move |now: &portcullis_lab::Counts| now.esp(direction) >= before.esp(direction) + 50;
    wire.wait_until("ESP from a", SOON, more.clone()(Direction::In))?;
    wire.wait_until("ESP to a", SOON, more(Direction::Out))?;
    Ok(())
}

#[test]
fn before_the_first_negotiation_nothing_leaves_in_clear() -> Result<()> {
    let sites = Sites::new("never")?;
    let (a, _b) = gateways(&sites)?;
    let wire = sites.capture()?;
    let flows = chatter(&sites)?;
    nothing_leaks(&wire, &flows)?;
    assert!(a.drops()?.get("no_sa").is_some_and(|count| *count > 0), "{:?}", a.drops()?);
    Ok(())
}

#[test]
fn a_killed_daemon_leaves_nothing_in_clear_and_its_successor_takes_over() -> Result<()> {
    let sites = Sites::new("kill")?;
    let (mut a, _b) = gateways(&sites)?;
    let wire = sites.capture()?;
    a.initiate("site/net", SOON)?;
    let flows = chatter(&sites)?;
    esp_flows(&wire)?;

    a.kill9();
    nothing_leaks(&wire, &flows)?;
    a.restart()?;
    nothing_leaks(&wire, &flows)?;
    a.initiate("site/net", SOON)?;
    esp_flows(&wire)?;
    nothing_leaks(&wire, &flows)
}

#[test]
fn a_removed_sa_leaves_nothing_in_clear_on_either_side() -> Result<()> {
    let sites = Sites::new("removed")?;
    let (a, b) = gateways(&sites)?;
    let wire = sites.capture()?;
    a.initiate("site/net", SOON)?;
    let flows = chatter(&sites)?;
    esp_flows(&wire)?;

    a.terminate("site")?;
    nothing_leaks(&wire, &flows)?;
    for gateway in [&a, &b] {
        let drops = gateway.drops()?;
        assert!(drops.get("no_sa").is_some_and(|count| *count > 0), "{}: {drops:?}", gateway.host().name());
    }
    a.initiate("site/net", SOON)?;
    esp_flows(&wire)?;
    nothing_leaks(&wire, &flows)
}

#[test]
fn a_queue_without_a_socket_drops_what_is_protected() -> Result<()> {
    let sites = Sites::with("queues", LinkOptions { queues: 2, ..LinkOptions::default() })?;
    let one_queue = GatewayConfig { queues: Some(1), ..GatewayConfig::new(SiteConfig::a().toml()) };
    let a = start(&sites.a, &one_queue)?;
    let wire = sites.capture()?;
    // Enough source ports that both queues get some.
    let flows = [Chatter::start(&sites.client, Sites::CLIENT, Sites::SERVER, 64)?];
    nothing_leaks(&wire, &flows)?;
    let drops = a.drops()?;
    assert!(drops.get("xdp_no_socket").is_some_and(|count| *count > 0), "{drops:?}");
    Ok(())
}

#[test]
fn what_the_gateway_itself_sends_to_a_protected_network_is_sealed_or_dropped() -> Result<()> {
    let sites = Sites::new("host")?;
    let (a, _b) = gateways(&sites)?;
    let wire = sites.capture()?;
    // From an address that policy covers, and from one that it does not.
    let flows = [
        Chatter::start(&sites.a, Sites::A_INSIDE, Sites::SERVER, 1)?,
        Chatter::start(&sites.a, Sites::A_OUTSIDE, Sites::SERVER, 1)?,
    ];
    nothing_leaks(&wire, &flows)?;

    a.initiate("site/net", SOON)?;
    let ping = sites.a.ping_with(Sites::SERVER, 5, 56, &["-I", &Sites::A_INSIDE.to_string()])?;
    assert!(ping.complete(), "{ping:?}");
    nothing_leaks(&wire, &flows)
}

#[test]
fn an_orderly_stop_leaves_nothing_in_clear_until_the_emergency_exit_is_taken() -> Result<()> {
    let sites = Sites::new("stop")?;
    let (mut a, mut b) = gateways(&sites)?;
    let wire = sites.capture()?;
    a.initiate("site/net", SOON)?;
    let flows = chatter(&sites)?;
    esp_flows(&wire)?;
    let too_early = a.detach_open();
    let told = |output: &str| output.contains("the daemon is running") && output.contains("systemctl stop");
    assert!(matches!(&too_early, Err(LabError::Failed { output, .. }) if told(output)), "{too_early:?}");
    a.stop()?;
    b.stop()?;
    nothing_leaks(&wire, &flows)?;

    a.detach_open()?;
    b.detach_open()?;
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete(), "everything passes in clear now, as asked for");
    assert!(wire.settle()?.packets(Class::Clear) > 0);
    Ok(())
}

#[test]
fn an_orderly_stop_that_is_configured_open_lets_everything_through() -> Result<()> {
    let sites = Sites::new("open")?;
    let open = |site: &SiteConfig| GatewayConfig { on_stop: "open", ..GatewayConfig::new(site.toml()) };
    let mut a = start(&sites.a, &open(&SiteConfig::a()))?;
    let mut b = start(&sites.b, &open(&SiteConfig::a().mirrored()))?;
    assert_eq!(sites.client.ping(Sites::SERVER, 1)?.received, 0);
    a.stop()?;
    b.stop()?;
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
    Ok(())
}

#[test]
fn clear_text_that_should_have_come_through_the_tunnel_is_dropped() -> Result<()> {
    let sites = Sites::new("inbound")?;
    let a = start(&sites.a, &GatewayConfig::new(SiteConfig::a().toml()))?;
    // Nothing protects b's site: its gateway forwards in clear.
    let inside = Capture::start(&sites.client, "eth0", &[])?;
    let flow = Chatter::start(&sites.server, Sites::SERVER, Sites::CLIENT, 1)?;
    flow.wait_more(100, SOON)?;
    let counts = inside.settle()?;
    assert_eq!(counts.of(Class::Clear, Direction::In).packets, 0, "{:?}", inside.clear_text());
    let drops = a.drops()?;
    assert!(drops.get("xdp_clear_inbound").is_some_and(|count| *count > 0), "{drops:?}");
    Ok(())
}
