//! Policies that pass or drop, beside a tunnel that protects the same networks.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use portcullis_lab::{
    Capture, Chatter, Class, Frame, Gateway, GatewayConfig, Host, Result, SiteConfig, Sites,
};

const SOON: Duration = Duration::from_secs(30);
const PINGS: u32 = 5;

fn start(host: &Host, connections: String) -> Result<Gateway> {
    Gateway::start(host, Path::new(env!("CARGO_BIN_EXE_portcullis")), &GatewayConfig::new(connections))
}

/// A child of its own connection; `local` and `remote` are selectors.
fn shunt(mode: &str, local: &str, remote: &str, further: &str) -> String {
    format!(
        "[connections.shunts.children.{mode}]\nmode = \"{mode}\"\nlocal_ts = \"{local}\"\nremote_ts = \"{remote}\"\n\
         {further}\n"
    )
}

/// Frames in clear on the wire since the capture was begun: ICMP over IPv4, and all others.
fn clear(wire: &Capture) -> Result<(usize, usize)> {
    let counts = wire.settle()?;
    assert_eq!(counts.lost, 0, "{counts}");
    let is_icmp = |frame: &Frame| frame.headers().is_some_and(|headers| headers.protocol == 1);
    let clear = wire.matching(|frame| frame.class == Class::Clear);
    let icmp = clear.iter().filter(|frame| is_icmp(frame)).count();
    Ok((icmp, clear.len() - icmp))
}

fn answered(host: &Host, to: IpAddr, from: Option<&str>) -> Result<u32> {
    let from: Vec<&str> = from.map_or_else(Vec::new, |from| vec!["-I", from]);
    Ok(host.ping_with(to, PINGS, 56, &from)?.received)
}

#[test]
fn what_passes_inside_a_protected_prefix_goes_both_ways_in_clear_and_the_rest_stays_sealed() -> Result<()> {
    let sites = Sites::new("pass")?;
    let (ours, theirs) = (SiteConfig::a(), SiteConfig::a().mirrored());
    let (near, far) = ("10.1.0.0/24[icmp]", "10.2.0.0/24[icmp]");
    let a = start(&sites.a, ours.toml() + &shunt("pass", near, far, ""))?;
    // The other side is a router that knows nothing of IPsec yet, and would have everything in clear.
    let refused = a.drops()?["clear_inbound"];
    let intruder = Chatter::start(&sites.server, Sites::SERVER, Sites::CLIENT, 1)?;
    assert_eq!(answered(&sites.client, Sites::SERVER, None)?, PINGS);
    assert_eq!(answered(&sites.server, Sites::CLIENT, None)?, PINGS);
    intruder.wait_more(20, SOON)?;
    assert!(a.drops()?["clear_inbound"] > refused, "between the same addresses, but no ICMP");
    drop(intruder);

    let _b = start(&sites.b, theirs.toml() + &shunt("pass", far, near, "start_action = \"trap\""))?;
    let wire = sites.capture()?;
    // No tunnel is needed for it.
    assert_eq!(answered(&sites.client, Sites::SERVER, None)?, PINGS);
    assert_eq!(answered(&sites.client, Sites::SERVER_V6, None)?, 0, "nothing passes that");
    assert_eq!(clear(&wire)?, (2 * PINGS as usize, 0));

    // The gateway itself, from and to its protected address.
    assert_eq!(answered(&sites.a, Sites::SERVER, Some("10.1.0.1"))?, PINGS);
    assert_eq!(answered(&sites.client, Sites::B_INSIDE, None)?, PINGS);
    assert_eq!(clear(&wire)?.0, 6 * PINGS as usize);

    a.initiate("site/net", SOON)?;
    assert_eq!(answered(&sites.client, Sites::SERVER_V6, None)?, PINGS);
    assert_eq!(answered(&sites.client, Sites::SERVER, None)?, PINGS, "an SA does not take it over");
    assert_eq!(clear(&wire)?, (8 * PINGS as usize, 0));
    assert_eq!(wire.counts().packets(Class::Esp), 2 * u64::from(PINGS));
    Ok(())
}

#[test]
fn what_is_dropped_by_priority_goes_nowhere_though_a_tunnel_is_up() -> Result<()> {
    let sites = Sites::new("drop")?;
    let (ours, theirs) = (SiteConfig::a(), SiteConfig::a().mirrored());
    let a =
        start(&sites.a, ours.toml() + &shunt("drop", "0.0.0.0/0", "10.2.0.10/32[icmp/8]", "priority = 1"))?;
    let _b = start(&sites.b, theirs.toml())?;
    let wire = sites.capture()?;
    a.initiate("site/net", SOON)?;
    assert_eq!(answered(&sites.client, Sites::SERVER, None)?, 0);
    assert_eq!(a.drops()?["discarded"], u64::from(PINGS));
    assert_eq!(answered(&sites.client, Sites::B_INSIDE, None)?, PINGS, "its neighbour is reached");
    assert_eq!(answered(&sites.server, Sites::CLIENT, None)?, 0, "nor do they come out of the tunnel");
    assert_eq!(a.drops()?["discarded"], 2 * u64::from(PINGS));
    assert_eq!(clear(&wire)?, (0, 0));
    Ok(())
}

#[test]
fn what_is_dropped_without_a_priority_leaves_the_tunnel_alone_and_closes_the_rest() -> Result<()> {
    let sites = Sites::new("closed")?;
    let (ours, theirs) = (SiteConfig::a(), SiteConfig::a().mirrored());
    let a = start(&sites.a, ours.toml() + &shunt("drop", "10.0.0.0/8", "0.0.0.0/0", ""))?;
    let _b = start(&sites.b, theirs.toml())?;
    a.initiate("site/net", SOON)?;
    assert_eq!(answered(&sites.client, Sites::SERVER, None)?, PINGS);
    assert_eq!(answered(&sites.client, Sites::B_OUTSIDE, None)?, 0, "everything else is dropped");
    assert!(a.drops()?["discarded"] >= u64::from(PINGS));
    Ok(())
}
