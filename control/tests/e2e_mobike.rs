//! MOBIKE (RFC 4555) against strongSwan: either end moves, whichever began the IKE SA, and what is under way goes on.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use portcullis_lab::{
    Capture, Class, Gateway, GatewayConfig, Host, Mark, Result, SiteConfig, Sites, StrongSwan,
};

const SOON: Duration = Duration::from_secs(30);

/// Who has another address all of a sudden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mover {
    We,
    StrongSwan,
}

/// The wire, on which ICMP between any two outer addresses is not clear text.
fn capture(sites: &Sites) -> Result<Capture> {
    let outer = ["192.0.2.1", "192.0.2.11", "192.0.2.2", "192.0.2.12"].map(|addr| addr.parse());
    sites.wire.capture(&sites.port_a, &outer.into_iter().flatten().collect::<Vec<IpAddr>>())
}

/// An end gets a second address, and loses the first.
fn move_host(host: &Host, from: &str, to: &str) -> Result<()> {
    host.sysctl("net.ipv4.conf.outside0.promote_secondaries", "1")?;
    host.address("outside0", &format!("{to}/24"))?;
    host.ip(&format!("address del {from}/24 dev outside0")).map(drop)
}

/// The tunnel comes up from one end, then an end moves while a host of ours pings one of theirs.
fn goes_on(name: &str, we_initiate: bool, mover: Mover) -> Result<()> {
    let sites = Sites::new(name)?;
    let wire = capture(&sites)?;
    let ours = SiteConfig {
        local: "192.0.2.1\", \"192.0.2.11".into(),
        remote: "192.0.2.2\", \"192.0.2.12".into(),
        esp_proposals: "aes256gcm16".into(),
        ..SiteConfig::a()
    };
    let theirs = SiteConfig {
        local: "192.0.2.2, 192.0.2.12".into(),
        remote: "192.0.2.1, 192.0.2.11".into(),
        ..ours.mirrored()
    };
    let swan = StrongSwan::start(&sites.b, &theirs.swanctl())?;
    let binary = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let gateway = Gateway::start(&sites.a, binary, &GatewayConfig::new(ours.toml()))?;
    match we_initiate {
        true => gateway.initiate("site/net", SOON)?,
        false => swan.initiate("net", SOON)?,
    };
    let before = gateway.sas()?.remove(0);
    let pings = sites.client.begin_pings(Sites::SERVER, Duration::from_millis(100))?;
    pings.wait_answer(SOON)?;

    let (local, remote) = match mover {
        Mover::We => ("192.0.2.11", "192.0.2.2"),
        Mover::StrongSwan => ("192.0.2.1", "192.0.2.12"),
    };
    let events = gateway.events(&[])?;
    match mover {
        Mover::We => move_host(&sites.a, "192.0.2.1", "192.0.2.11")?,
        Mover::StrongSwan => move_host(&sites.b, "192.0.2.2", "192.0.2.12")?,
    }
    let what = format!("an IKE SA between {local} and {remote}");
    let mut sas = gateway.wait_sas(&what, SOON, |sas| match sas {
        [sa] => sa.local.starts_with(&format!("{local}:")) && sa.remote.starts_with(&format!("{remote}:")),
        _ => false,
    })?;
    let (from_local, from_remote) = ("\"from_local\":\"192.0.2.1:", "\"from_remote\":\"192.0.2.2:");
    events.wait_for(Mark::default(), "the move is told", SOON, |_, line| {
        ["\"event\":\"ike_moved\"", from_local, from_remote].iter().all(|part| line.contains(part))
    })?;
    pings.wait_answer(SOON)?;
    pings.stop()?;
    assert!(sites.client.ping(Sites::SERVER, 5)?.complete());
    assert!(sites.server.ping(Sites::CLIENT, 5)?.complete());

    // The same IKE SA as before, at both ends. Its child may be another: strongSwan's ESP in user space cannot move one, and
    // so strongSwan rekeys it.
    assert_eq!(sas.remove(0).initiator_spi, before.initiator_spi);
    let theirs = swan.list_sas()?;
    assert!(theirs.contains(local) && theirs.contains(remote), "{theirs}");
    assert_eq!(wire.settle()?.packets(Class::Clear), 0, "{:?}", wire.clear_text());
    Ok(())
}

#[test]
fn we_have_begun_and_we_move() -> Result<()> {
    goes_on("mobike1", true, Mover::We)
}

#[test]
fn we_have_begun_and_strongswan_moves() -> Result<()> {
    goes_on("mobike2", true, Mover::StrongSwan)
}

#[test]
fn strongswan_has_begun_and_moves() -> Result<()> {
    goes_on("mobike3", false, Mover::StrongSwan)
}

#[test]
fn strongswan_has_begun_and_we_move() -> Result<()> {
    goes_on("mobike4", false, Mover::We)
}

/// Between two of ours, the very CHILD SA goes on, in bare ESP, from either end's new address.
#[test]
fn a_child_sa_of_ours_goes_on_as_it_is_whichever_end_moves() -> Result<()> {
    let sites = Sites::new("mobike5")?;
    let wire = capture(&sites)?;
    let binary = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let ours = SiteConfig {
        local: "192.0.2.1\", \"192.0.2.11".into(),
        remote: "192.0.2.2\", \"192.0.2.12".into(),
        ..SiteConfig::a()
    };
    let a = Gateway::start(&sites.a, binary, &GatewayConfig::new(ours.toml()))?;
    let b = Gateway::start(&sites.b, binary, &GatewayConfig::new(ours.mirrored().toml()))?;
    a.initiate("site/net", SOON)?;
    let before = a.sas()?.remove(0);
    let pings = sites.client.begin_pings(Sites::SERVER, Duration::from_millis(100))?;
    pings.wait_answer(SOON)?;
    let between = |local: &'static str, remote: &'static str| {
        let what = format!("an IKE SA between {local} and {remote}");
        let is_at = |addr: &str, ip: &str| addr.starts_with(&format!("{ip}:"));
        let there = |gateway: &Gateway, local: &str, remote: &str| {
            gateway.wait_sas(&what, SOON, |sas| match sas {
                [sa] => is_at(&sa.local, local) && is_at(&sa.remote, remote),
                _ => false,
            })
        };
        there(&a, local, remote)?;
        there(&b, remote, local)
    };
    move_host(&sites.a, "192.0.2.1", "192.0.2.11")?;
    between("192.0.2.11", "192.0.2.2")?;
    pings.wait_answer(SOON)?;
    move_host(&sites.b, "192.0.2.2", "192.0.2.12")?;
    between("192.0.2.11", "192.0.2.12")?;
    pings.wait_answer(SOON)?;
    pings.stop()?;
    assert!(sites.client.ping(Sites::SERVER, 5)?.complete());
    let after = a.sas()?.remove(0);
    assert_eq!(after.initiator_spi, before.initiator_spi);
    assert_eq!(after.children[0].spi_in, before.children[0].spi_in);
    let counts = wire.settle()?;
    assert_eq!(counts.packets(Class::Clear), 0, "{:?}", wire.clear_text());
    assert_eq!(counts.packets(Class::UdpEsp), 0, "{counts}");
    Ok(())
}
