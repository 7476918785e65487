//! Portcullis against strongSwan, whose IKE and ESP share nothing with ours: as initiator and as responder, with
//! traffic both ways, and the negotiations that must fail, on both sides alike. strongSwan's user-space ESP
//! always encapsulates in UDP and knows no extended sequence numbers.

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{
    Capture, Class, Direction, Gateway, GatewayConfig, Host, Iperf, IperfServer, LabError, Result,
    SiteConfig, Sites, StrongSwan,
};

const SOON: Duration = Duration::from_secs(30);

fn gateway(host: &Host, site: &SiteConfig) -> Result<Gateway> {
    Gateway::start(host, Path::new(env!("CARGO_BIN_EXE_portcullis")), &GatewayConfig::new(site.toml()))
}

/// Our end, on gateway `a`.
fn ours() -> SiteConfig {
    SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() }
}

/// strongSwan's end, on gateway `b`.
fn theirs() -> SiteConfig {
    ours().mirrored()
}

/// Pings and streams both ways through an established tunnel, and what the wire and the counters say of them.
fn traffic_passes_both_ways(sites: &Sites, wire: &Capture, gateway: &Gateway) -> Result<()> {
    for (host, to) in [
        (&sites.client, Sites::SERVER),
        (&sites.client, Sites::SERVER_V6),
        (&sites.server, Sites::CLIENT),
        (&sites.server, Sites::CLIENT_V6),
    ] {
        let ping = host.ping(to, 10)?;
        assert!(ping.complete(), "from {} to {to}: {ping:?}", host.name());
    }
    let server = IperfServer::start(&sites.server, Sites::SERVER)?;
    for stream in
        [Iperf::tcp(2), Iperf::tcp(2).reversed(), Iperf::udp(2, 5, 1000), Iperf::udp(2, 5, 1000).reversed()]
    {
        let report = stream.run(&sites.client, &server)?;
        assert!(report.received_bytes > 500_000, "{stream:?}: {report:?}");
    }

    let counts = wire.settle()?;
    assert_eq!(counts.packets(Class::Clear), 0, "{:?}", wire.clear_text());
    assert_eq!(counts.packets(Class::Esp), 0, "{counts}");
    assert_eq!(counts.lost, 0, "{counts}");
    let (sent, received) =
        (counts.of(Class::UdpEsp, Direction::In).packets, counts.of(Class::UdpEsp, Direction::Out).packets);
    let what = format!("one CHILD SA that has carried {sent} packets out and {received} in");
    gateway.wait_children(&what, SOON, |children| match children {
        [child] => (child.packets_out, child.packets_in) == (sent, received),
        _ => false,
    })?;
    Ok(())
}

#[test]
fn as_initiator_a_tunnel_to_strongswan_carries_traffic_both_ways() -> Result<()> {
    let sites = Sites::new("initiator")?;
    let wire = sites.capture()?;
    let swan = StrongSwan::start(&sites.b, &theirs().swanctl())?;
    let gateway = gateway(&sites.a, &ours())?;
    gateway.initiate("site/net", SOON)?;
    let sas = swan.list_sas()?;
    assert!(sas.contains("ESTABLISHED") && sas.contains("INSTALLED"), "{sas}");
    traffic_passes_both_ways(&sites, &wire, &gateway)
}

#[test]
fn as_responder_a_tunnel_from_strongswan_carries_traffic_both_ways() -> Result<()> {
    let sites = Sites::new("responder")?;
    let wire = sites.capture()?;
    let gateway = gateway(&sites.a, &ours())?;
    let swan = StrongSwan::start(&sites.b, &theirs().swanctl())?;
    let mark = swan.mark();
    swan.initiate("net", SOON)?;
    // Both say that message IDs may be set anew (RFC 6311 §4); as responder strongSwan does not.
    for message in ["generating IKE_AUTH request", "parsed IKE_AUTH response"] {
        let line = swan.wait_log(mark, message, SOON)?;
        assert!(line.contains("N(MSG_ID_SYN_SUP)"), "{line}");
    }
    traffic_passes_both_ways(&sites, &wire, &gateway)
}

/// A configuration without any line that names proposals.
fn without_proposals(text: &str) -> String {
    let kept = text.lines().filter(|line| !line.contains("proposals ="));
    kept.map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_defaults_of_both_ends_come_up_whoever_initiates() -> Result<()> {
    for we_initiate in [true, false] {
        let sites = Sites::new("defaults")?;
        let config = GatewayConfig::new(without_proposals(&ours().toml()));
        let gateway = Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)?;
        let swan = StrongSwan::start(&sites.b, &without_proposals(&theirs().swanctl()))?;
        if we_initiate {
            gateway.initiate("site/net", SOON)?;
        } else {
            swan.initiate("net", SOON)?;
        }
        assert!(sites.client.ping(Sites::SERVER, 5)?.complete());
        // The responder's order of preference decides.
        let (ike, esp) = match we_initiate {
            true => ("aes128-sha256-prfsha256-x25519", "aes128gcm16"),
            false => ("aes256gcm16-prfsha384-x25519", "aes256gcm16"),
        };
        assert_eq!(gateway.sas()?[0].proposal.as_deref(), Some(ike));
        assert_eq!(gateway.children()?[0].proposal, esp);
    }
    Ok(())
}

#[test]
fn a_tunnel_over_ipv6_carries_both_families() -> Result<()> {
    let sites = Sites::new("outer6")?;
    let wire = sites.capture()?;
    let over_v6 = SiteConfig {
        local: Sites::A_OUTSIDE_V6.to_string(),
        remote: Sites::B_OUTSIDE_V6.to_string(),
        ..ours()
    };
    let _swan = StrongSwan::start(&sites.b, &over_v6.mirrored().swanctl())?;
    let gateway = gateway(&sites.a, &over_v6)?;
    gateway.initiate("site/net", SOON)?;
    traffic_passes_both_ways(&sites, &wire, &gateway)
}

#[test]
fn terminated_by_either_side_the_tunnel_is_gone_on_both() -> Result<()> {
    let sites = Sites::new("terminate")?;
    let swan = StrongSwan::start(&sites.b, &theirs().swanctl())?;
    let gateway = gateway(&sites.a, &ours())?;
    gateway.initiate("site/net", SOON)?;
    let mark = swan.mark();
    gateway.terminate("site")?;
    swan.wait_log(mark, "IKE_SA deleted", SOON)?;
    assert_eq!(swan.list_sas()?, "");
    assert!(gateway.sas()?.is_empty());

    gateway.initiate("site/net", SOON)?;
    swan.terminate("site")?;
    assert!(gateway.sas()?.is_empty());
    gateway.initiate("site/net", SOON)?;
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
    Ok(())
}

/// Neither side may be left with a child, nor, unless the IKE SA itself was agreed on, with an IKE SA.
fn nothing_is_left(gateway: &Gateway, swan: &StrongSwan, ike_sa_may_live: bool) -> Result<()> {
    let (ours, theirs) = (gateway.sas()?, swan.list_sas()?);
    assert!(
        ours.iter().all(|sa| sa.children.is_empty()) && !theirs.contains("INSTALLED"),
        "{ours:?}\n{theirs}"
    );
    if !ike_sa_may_live {
        assert!(ours.iter().all(|sa| sa.state != "ESTABLISHED") && theirs.is_empty(), "{ours:?}\n{theirs}");
    }
    Ok(())
}

/// We initiate to a strongSwan that is configured as `wrong`; then it is put right, and the tunnel comes up.
fn initiating_fails(name: &str, wrong: &SiteConfig, code: &str, ike_sa_may_live: bool) -> Result<()> {
    let sites = Sites::new(name)?;
    let swan = StrongSwan::start(&sites.b, &wrong.swanctl())?;
    let gateway = gateway(&sites.a, &ours())?;
    let refused = gateway.initiate("site/net", SOON);
    assert!(matches!(&refused, Err(LabError::Failed { output, .. }) if output.contains(code)), "{refused:?}");
    nothing_is_left(&gateway, &swan, ike_sa_may_live)?;
    assert_eq!(sites.client.ping(Sites::SERVER, 1)?.received, 0);

    swan.reload(&theirs().swanctl())?;
    close_ike_sas(&swan)?;
    gateway.initiate("site/net", SOON)?;
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
    Ok(())
}

/// A strongSwan that is configured as `wrong` initiates to us; then it is put right, and the tunnel comes up.
fn responding_fails(
    name: &str,
    wrong: &SiteConfig,
    notify: &str,
    code: &str,
    ike_sa_may_live: bool,
) -> Result<()> {
    let sites = Sites::new(name)?;
    let gateway = gateway(&sites.a, &ours())?;
    let swan = StrongSwan::start(&sites.b, &wrong.swanctl())?;
    let refused = swan.initiate("net", SOON);
    assert!(
        matches!(&refused, Err(LabError::Failed { output, .. }) if output.contains(notify)),
        "{refused:?}"
    );
    nothing_is_left(&gateway, &swan, ike_sa_may_live)?;
    let verdicts = gateway.status()?.verdicts;
    assert!(verdicts.iter().any(|verdict| verdict.reason == code), "{verdicts:?}");
    assert_eq!(sites.client.ping(Sites::SERVER, 1)?.received, 0);

    swan.reload(&theirs().swanctl())?;
    close_ike_sas(&swan)?;
    swan.initiate("net", SOON)?;
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
    Ok(())
}

/// An IKE SA without children would be used for the next attempt, with the configuration that it began with.
fn close_ike_sas(swan: &StrongSwan) -> Result<()> {
    if swan.list_sas()?.contains("ESTABLISHED") {
        swan.terminate("site")?;
    }
    Ok(())
}

fn wrong_secret() -> SiteConfig {
    SiteConfig { secret: "another one altogether".into(), ..theirs() }
}

fn wrong_proposal() -> SiteConfig {
    SiteConfig { proposals: "aes128gcm16-prfsha256-ecp256".into(), ..theirs() }
}

fn wrong_esp_proposal() -> SiteConfig {
    SiteConfig { esp_proposals: "aes128gcm16".into(), ..theirs() }
}

fn other_selectors() -> SiteConfig {
    SiteConfig { local_ts: vec!["172.16.2.0/24".into()], remote_ts: vec!["172.16.1.0/24".into()], ..theirs() }
}

#[test]
fn a_wrong_secret_fails_cleanly_as_initiator() -> Result<()> {
    initiating_fails("pski", &wrong_secret(), "AUTHENTICATION_FAILED", false)
}

#[test]
fn a_wrong_secret_fails_cleanly_as_responder() -> Result<()> {
    responding_fails("pskr", &wrong_secret(), "AUTHENTICATION_FAILED", "PSK_MISMATCH", false)
}

#[test]
fn a_wrong_ike_proposal_fails_cleanly_as_initiator() -> Result<()> {
    initiating_fails("ikei", &wrong_proposal(), "PROPOSAL_REFUSED", false)
}

#[test]
fn a_wrong_ike_proposal_fails_cleanly_as_responder() -> Result<()> {
    responding_fails("iker", &wrong_proposal(), "NO_PROPOSAL_CHOSEN", "PROPOSAL_MISMATCH", false)
}

#[test]
fn a_wrong_esp_proposal_fails_cleanly_as_initiator() -> Result<()> {
    initiating_fails("espi", &wrong_esp_proposal(), "CHILD_PROPOSAL_REFUSED", true)
}

#[test]
fn a_wrong_esp_proposal_fails_cleanly_as_responder() -> Result<()> {
    let code = "CHILD_PROPOSAL_ENCR_MISMATCH";
    responding_fails("espr", &wrong_esp_proposal(), "NO_PROPOSAL_CHOSEN", code, true)
}

#[test]
fn selectors_that_do_not_overlap_fail_cleanly_as_initiator() -> Result<()> {
    initiating_fails("tsi", &other_selectors(), "TS_NO_OVERLAP", true)
}

#[test]
fn selectors_that_do_not_overlap_fail_cleanly_as_responder() -> Result<()> {
    responding_fails("tsr", &other_selectors(), "TS_UNACCEPTABLE", "TS_NO_OVERLAP", true)
}

#[test]
fn esp_of_other_algorithms_passes_both_ways() -> Result<()> {
    for (algorithm, we_initiate) in [
        ("chacha20poly1305", true),
        ("aes256-sha256", false),
        ("aes128ctr-sha512", true),
        ("aes256gcm12", false),
        ("aes256-sha1", false),
    ] {
        let sites = Sites::new("algo")?;
        let wire = sites.capture()?;
        let site = SiteConfig { esp_proposals: algorithm.into(), ..SiteConfig::a() };
        let swan = StrongSwan::start(&sites.b, &site.mirrored().swanctl())?;
        let gateway = gateway(&sites.a, &site)?;
        if we_initiate {
            gateway.initiate("site/net", SOON)?;
        } else {
            swan.initiate("net", SOON)?;
        }
        traffic_passes_both_ways(&sites, &wire, &gateway)?;
    }
    Ok(())
}

/// What protects IKE itself, and what its keys and those of ESP are made of: each is negotiated, carries an IKE and a
/// CHILD rekeying with a key exchange of its own, and packets.
#[test]
fn ike_of_other_algorithms_is_established_and_rekeyed() -> Result<()> {
    let cases = [
        ("aes256-sha256-modp2048", "aes256gcm16-modp3072", true),
        ("aes128ctr-sha512-prfaescmac-ecp521", "aes256gcm16-ecp521", false),
        ("aes192-sha384-prfaesxcbc-modp4096", "aes256gcm16-modp4096", true),
        ("chacha20poly1305-prfsha512-ecp256", "aes256gcm16-ecp256", false),
        ("aes256gcm12-prfsha384-modp6144", "aes256gcm16-x25519", true),
        ("aes128gcm8-prfsha256-modp8192", "aes256gcm16-modp8192", false),
        ("aes128-aesxcbc-x25519", "aes256gcm16-ecp384", false),
        ("aes256-sha1-modp1024", "aes256gcm16-modp1536", true),
        ("aes256gcm16-prfsha384-x448", "aes256gcm16-x448", true),
    ];
    let sites = Sites::new("ikealgo")?;
    let swan = StrongSwan::start(&sites.b, &theirs().swanctl())?;
    let listed = |index: fn(&(&'static str, &'static str, bool)) -> &'static str| {
        cases.iter().map(index).collect::<Vec<_>>().join("\", \"")
    };
    let all =
        SiteConfig { proposals: listed(|(ike, ..)| ike), esp_proposals: listed(|(_, esp, _)| esp), ..ours() };
    let gateway = gateway(&sites.a, &all)?;
    for (ike, esp, we_initiate) in cases {
        let one = SiteConfig { proposals: ike.into(), esp_proposals: esp.into(), ..ours() };
        swan.reload(&one.mirrored().swanctl())?;
        match we_initiate {
            true => gateway.initiate("site/net", SOON)?,
            false => swan.initiate("net", SOON)?,
        };
        assert!(sites.client.ping(Sites::SERVER, 2)?.complete(), "{ike}");
        let before = gateway.sas()?.remove(0);
        match we_initiate {
            true => gateway.rekey("site/net")?,
            false => swan.rekey_child("net")?,
        };
        let child = before.children[0].spi_in.clone();
        let children = gateway.wait_children("another CHILD SA", SOON, |children| match children {
            [child_now] => child_now.spi_in != child,
            _ => false,
        })?;
        assert_eq!(children[0].proposal, esp, "{ike}");
        match we_initiate {
            true => gateway.rekey("site")?,
            false => swan.rekey_ike("site")?,
        };
        let sas = gateway.wait_sas("another IKE SA", SOON, |sas| match sas {
            [sa] => sa.initiator_spi != before.initiator_spi && sa.children.len() == 1,
            _ => false,
        })?;
        let chosen = sas[0].proposal.clone().unwrap_or_default();
        assert!(ike.split('-').all(|word| chosen.split('-').any(|found| found == word)), "{ike}: {chosen}");
        assert!(sites.client.ping(Sites::SERVER, 2)?.complete(), "{ike}");
        gateway.terminate("site")?;
    }
    Ok(())
}

/// A post-quantum pre-shared key (RFC 8784), mixed into the keys by both, whoever begins; strongSwan requires it.
#[test]
fn a_post_quantum_pre_shared_key_is_mixed_in_whoever_initiates() -> Result<()> {
    const SECRET: &str = "0x00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let sites = Sites::new("ppk")?;
    let key = format!("secrets {{\n ppk-lab {{\n id = lab\n secret = {SECRET}\n }}\n");
    let text = theirs().swanctl();
    let text = text.replacen("site {\n", "site {\n ppk_id = lab\n ppk_required = yes\n", 1);
    let swan = StrongSwan::start(&sites.b, &text.replacen("secrets {\n", &key, 1))?;
    let ours = ours().toml();
    let at = ours.find("[secrets").unwrap_or(ours.len());
    let with = |lines: &str, id: &str| {
        let connection =
            ours[..at].replacen("[connections.site]\n", &format!("[connections.site]\n{lines}"), 1);
        format!("{connection}[secrets.ppk-lab]\nids = [\"{id}\"]\nsecret = \"{SECRET}\"\n\n{}", &ours[at..])
    };
    let start = |text: String| {
        Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &GatewayConfig::new(text))
    };
    {
        let gateway = start(with("ppk_id = \"lab\"\nppk_required = true\n", "lab"))?;
        let mark = swan.mark();
        gateway.initiate("site/net", SOON)?;
        swan.wait_log(mark, "using PPK for PPK_ID 'lab'", SOON)?;
        assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
        gateway.terminate("site")?;
        let mark = swan.mark();
        swan.initiate("net", SOON)?;
        swan.wait_log(mark, "using PPK for PPK_ID 'lab'", SOON)?;
        assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
        gateway.terminate("site")?;
    }
    // Without it strongSwan will have nothing to do with us.
    let gateway = start(with("", "another"))?;
    let refused = gateway.initiate("site/net", SOON);
    assert!(
        matches!(&refused, Err(LabError::Failed { output, .. }) if output.contains("AUTHENTICATION_FAILED")),
        "{refused:?}"
    );
    Ok(())
}

/// IKE SAs that begin without a child (RFC 6023), whoever begins; the child has a key exchange of its own then.
#[test]
fn an_ike_sa_begins_without_a_child_whoever_initiates() -> Result<()> {
    let sites = Sites::new("childless")?;
    let site = SiteConfig { esp_proposals: "aes256gcm16-x25519".into(), ..ours() };
    let text = site.mirrored().swanctl().replacen("site {\n", "site {\n childless = force\n", 1);
    let swan = StrongSwan::start(&sites.b, &text)?;
    let start = |childless: &str| {
        let line = format!("[connections.site]\nchildless = \"{childless}\"\n");
        let toml = site.toml().replacen("[connections.site]\n", &line, 1);
        Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &GatewayConfig::new(toml))
    };
    {
        let gateway = start("prefer")?;
        let mark = swan.mark();
        gateway.initiate("site/net", SOON)?;
        swan.wait_log(mark, "parsed CREATE_CHILD_SA request", SOON)?;
        assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
        gateway.terminate("site")?;
        let mark = swan.mark();
        swan.initiate("net", SOON)?;
        swan.wait_log(mark, "parsed CREATE_CHILD_SA response", SOON)?;
        assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
        gateway.terminate("site")?;
    }
    // strongSwan will not begin otherwise.
    let _gateway = start("never")?;
    let refused = swan.initiate("net", SOON);
    assert!(refused.is_err(), "{refused:?}");
    Ok(())
}
