//! What follows when strongSwan falls silent, closes a child, or nobody uses it: `dpd_action`, `close_action`, `inactivity`.

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{Gateway, GatewayConfig, Result, SiteConfig, Sites, StrongSwan};

const SOON: Duration = Duration::from_secs(60);

fn ours() -> SiteConfig {
    SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() }
}

/// A gateway that begins nothing by itself, whose child has a line more.
fn start(sites: &Sites, line: &str) -> Result<Gateway> {
    let impatient = "[ike]\nretransmit_timeout = \"200ms\"\nretransmit_tries = 2\n\n";
    let child = format!("[connections.site.children.net]\n{line}\n");
    let text = ours().toml().replacen("[connections.site.children.net]\n", &child, 1);
    let text = text.replacen("proposals = [", "dpd_delay = \"1s\"\nproposals = [", 1);
    let config = GatewayConfig::new(format!("{impatient}{text}"));
    Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)
}

fn strongswan(sites: &Sites) -> Result<StrongSwan> {
    StrongSwan::start(&sites.b, &ours().mirrored().swanctl())
}

#[test]
fn when_strongswan_falls_silent_its_child_is_restarted_or_waits_for_a_packet() -> Result<()> {
    for action in ["restart", "trap"] {
        let sites = Sites::new(&format!("dpd{action}"))?;
        let gateway = start(&sites, &format!("dpd_action = \"{action}\""))?;
        let mut swan = strongswan(&sites)?;
        swan.initiate("net", SOON)?;
        let from = gateway.process().mark();
        swan.process().kill();
        gateway.wait_log(from, "PEER_SILENT", SOON)?;
        drop(swan);
        let swan = strongswan(&sites)?;
        if action == "trap" {
            assert!(gateway.children()?.is_empty());
            assert!(sites.client.ping(Sites::SERVER, 1)?.complete(), "the packet that asks is not lost");
        }
        gateway.wait_children("the child is up again", SOON, |children| children.len() == 1)?;
        assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
        assert!(swan.list_sas()?.contains("INSTALLED"));
    }
    Ok(())
}

#[test]
fn when_strongswan_closes_a_child_it_is_started_again() -> Result<()> {
    let sites = Sites::new("close")?;
    let gateway = start(&sites, "close_action = \"start\"")?;
    let swan = strongswan(&sites)?;
    swan.initiate("net", SOON)?;
    let before = gateway.sas()?.remove(0).initiator_spi;
    swan.terminate("site")?;
    gateway.wait_sas(
        "another IKE SA with a child",
        SOON,
        |sas| matches!(sas, [sa] if sa.initiator_spi != before && sa.children.len() == 1),
    )?;
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
    Ok(())
}

#[test]
fn a_child_that_nobody_uses_is_closed_at_strongswan_too() -> Result<()> {
    let sites = Sites::new("inactive")?;
    let gateway = start(&sites, "inactivity = \"2s\"")?;
    let swan = strongswan(&sites)?;
    swan.initiate("net", SOON)?;
    let from = gateway.process().mark();
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
    gateway.wait_log(from, "nobody has used it", SOON)?;
    let sas = gateway.wait_sas(
        "an IKE SA without a child",
        SOON,
        |sas| matches!(sas, [sa] if sa.children.is_empty()),
    )?;
    assert_eq!(sas[0].state, "ESTABLISHED");
    let theirs = swan.list_sas()?;
    assert!(theirs.contains("ESTABLISHED") && !theirs.contains("INSTALLED"), "{theirs}");
    Ok(())
}
