//! Inner addresses between Portcullis and strongSwan: from our pools to it, and from its pools to us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Duration;

use portcullis_lab::{Class, Gateway, GatewayConfig, Host, LabError, Result, SiteConfig, Sites, StrongSwan};

const SOON: Duration = Duration::from_secs(30);
/// The first addresses of our pools, and of strongSwan's.
const LEASED: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 3, 0, 1));
const LEASED_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 1));
const GIVEN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 4, 0, 1));

fn gateway(host: &Host, connections: &str) -> Result<Gateway> {
    Gateway::start(host, Path::new(env!("CARGO_BIN_EXE_portcullis")), &GatewayConfig::new(connections))
}

/// Our end, on gateway `a`; its peer is a roadwarrior.
fn ours(lines: &str) -> String {
    let site = SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() };
    let text = site.toml().replace(&format!("remote_ts = {:?}\n", site.remote_ts), "");
    text.replacen("local_addrs", &format!("{lines}\nlocal_addrs"), 1)
}

const POOLS: &str = "
[pools.ra]
addrs = \"10.3.0.0/28\"
dns = [\"10.1.0.53\"]
subnet = [\"10.1.0.0/24\"]

[pools.ra6]
addrs = \"2001:db8:3::/120\"
";

/// strongSwan's end, on gateway `b`, asking for these inner addresses.
fn roadwarrior(vips: &str) -> String {
    let site = SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() }.mirrored();
    let text = site.swanctl().replace(&format!("local_ts = {}\n", site.local_ts.join(",")), "");
    text.replacen("local_addrs", &format!("{vips}\nlocal_addrs"), 1)
}

fn pings(host: &Host, to: IpAddr) -> Result<()> {
    let ping = host.ping(to, 5)?;
    assert!(ping.complete(), "from {} to {to}: {ping:?}", host.name());
    Ok(())
}

#[test]
fn strongswan_gets_addresses_from_our_pools_and_the_same_ones_after_a_restart() -> Result<()> {
    let sites = Sites::new("pool")?;
    let wire = sites.capture()?;
    let config = format!("{}{POOLS}", ours("pools = [\"ra\", \"ra6\"]"));
    let mut gateway = gateway(&sites.a, &config)?;
    let swan = StrongSwan::start(&sites.b, &roadwarrior("vips = 0.0.0.0,::"))?;
    swan.initiate("net", SOON)?;

    let sas = gateway.sas()?;
    assert_eq!(sas[0].remote_vips, ["10.3.0.1", "2001:db8:3::1"]);
    assert_eq!(sas[0].children[0].remote_ts, ["10.3.0.1/32", "2001:db8:3::1/128"]);
    let theirs = swan.list_sas()?;
    assert!(theirs.contains("10.3.0.1") && theirs.contains("2001:db8:3::1"), "{theirs}");
    pings(&sites.client, LEASED)?;
    pings(&sites.client, LEASED_V6)?;
    let text = gateway.portcullis(&["pools", "--leases"])?.stdout;
    assert!(text.contains("ra: 10.3.0.1-10.3.0.14, 1 of 14 in use, 0 kept"), "{text}");
    assert!(text.contains("online   'b.example'"), "{text}");

    // Rekeying moves the addresses along, whoever asks for it.
    swan.rekey_ike("site")?;
    gateway.wait_sas("a rekeyed IKE SA with the address", SOON, |sas| {
        sas.len() == 1 && sas[0].initiator_spi != theirs_spi(&theirs) && !sas[0].remote_vips.is_empty()
    })?;
    pings(&sites.client, LEASED)?;

    // Killed, not stopped.
    gateway.kill9();
    gateway.restart()?;
    // What has no tunnel any more leaves sealed or not at all.
    assert_eq!(sites.client.ping(LEASED, 1)?.received, 0);
    let text = gateway.portcullis(&["pools", "--leases"])?.stdout;
    assert!(text.contains("ra: 10.3.0.1-10.3.0.14, 0 of 14 in use, 1 kept"), "{text}");
    // Somebody else comes first, and does not get it.
    let other = roadwarrior("vips = 0.0.0.0,::").replace("b.example", "c.example");
    swan.terminate("site").ok();
    drop(swan);
    let accept_anyone = config.replace("id = \"b.example\"", "id = \"*.example\"");
    let accept_anyone = accept_anyone.replace("ids = [\"a.example\", \"b.example\"]\n", "");
    drop(gateway);
    let gateway = self::gateway(&sites.a, &accept_anyone)?;
    let swan = StrongSwan::start(&sites.b, &other)?;
    swan.initiate("net", SOON)?;
    assert_eq!(gateway.sas()?[0].remote_vips, ["10.3.0.2", "2001:db8:3::2"]);
    swan.terminate("site")?;
    swan.reload(&roadwarrior("vips = 0.0.0.0,::"))?;
    swan.initiate("net", SOON)?;
    gateway.wait_sas(
        "the address that b.example had",
        SOON,
        |sas| matches!(sas, [sa] if sa.remote_vips == ["10.3.0.1", "2001:db8:3::1"]),
    )?;
    pings(&sites.client, LEASED)?;
    assert_eq!(wire.settle()?.packets(Class::Clear), 0, "{:?}", wire.clear_text());
    Ok(())
}

/// The initiator's SPI in what `swanctl --list-sas` prints.
fn theirs_spi(list: &str) -> String {
    let word = list.split_whitespace().find(|word| word.ends_with("_i*") || word.ends_with("_i"));
    word.unwrap_or_default().trim_end_matches('*').trim_end_matches("_i").to_owned()
}

#[test]
fn a_full_pool_and_a_peer_that_asks_for_nothing_are_named_on_both_sides() -> Result<()> {
    let sites = Sites::new("nopool")?;
    let config = format!("{}\n[pools.one]\naddrs = \"2001:db8:3::7\"\n", ours("pools = [\"one\"]"));
    let gateway = gateway(&sites.a, &config)?;
    let swan = StrongSwan::start(&sites.b, &roadwarrior("vips = 0.0.0.0"))?;
    for (vips, notify, code) in [
        ("vips = 0.0.0.0", "INTERNAL_ADDRESS_FAILURE", "POOL_FAMILY"),
        ("", "FAILED_CP_REQUIRED", "ADDRESS_NOT_ASKED_FOR"),
    ] {
        swan.reload(&roadwarrior(vips))?;
        let refused = swan.initiate("net", SOON);
        assert!(
            matches!(&refused, Err(LabError::Failed { output, .. }) if output.contains(notify)),
            "{refused:?}"
        );
        let verdicts = gateway.status()?.verdicts;
        assert!(verdicts.iter().any(|verdict| verdict.reason == code), "{code}: {verdicts:?}");
        if swan.list_sas()?.contains("ESTABLISHED") {
            swan.terminate("site")?;
        }
    }
    Ok(())
}

#[test]
fn strongswans_pool_gives_us_addresses_that_the_host_sends_from() -> Result<()> {
    let sites = Sites::new("vip")?;
    let wire = sites.capture()?;
    let site = SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() };
    let text = site.toml().replace(&format!("local_ts = {:?}\n", site.local_ts), "");
    let text = text.replacen("local_addrs", "vips = [\"0.0.0.0\", \"::\"]\nlocal_addrs", 1);
    let theirs = site.mirrored();
    let swanctl = theirs.swanctl().replace(&format!("remote_ts = {}\n", theirs.remote_ts.join(",")), "");
    let swanctl = swanctl.replacen("local_addrs", "pools = ra4,ra6\nlocal_addrs", 1)
        + "pools {\n ra4 {\n addrs = 10.4.0.0/24\n dns = 10.2.0.53\n }\n ra6 {\n addrs = 2001:db8:4::/120\n }\n}\n";
    let swan = StrongSwan::start(&sites.b, &swanctl)?;
    let gateway = gateway(&sites.a, &text)?;
    // Before it has an address, the host's packets to the protected networks go nowhere.
    assert_eq!(sites.a.ping(Sites::SERVER, 1)?.received, 0);
    gateway.initiate("site/net", SOON)?;
    let sas = gateway.sas()?;
    assert_eq!(sas[0].local_vips, ["10.4.0.1", "2001:db8:4::1"]);
    assert!(swan.list_sas()?.contains("10.4.0.1"));
    pings(&sites.a, Sites::SERVER)?;
    pings(&sites.a, Sites::SERVER_V6)?;
    // And the other way round.
    pings(&sites.server, GIVEN)?;

    gateway.reauthenticate("site")?;
    let old = sas[0].initiator_spi.clone();
    gateway.wait_sas("a new IKE SA with the same addresses", SOON, |sas| {
        matches!(sas, [sa] if sa.initiator_spi != old && sa.local_vips == ["10.4.0.1", "2001:db8:4::1"])
    })?;
    pings(&sites.a, Sites::SERVER)?;

    gateway.terminate("site")?;
    let addresses = sites.a.run(["ip", "-o", "address", "show", "dev", "portcullis0"])?.stdout;
    assert!(!addresses.contains("10.4.0.1"), "{addresses}");
    assert_eq!(wire.settle()?.packets(Class::Clear), 0, "{:?}", wire.clear_text());
    Ok(())
}
