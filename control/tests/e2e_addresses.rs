//! Inner addresses between Portcullis and strongSwan: from our pools to it, and from its pools to us.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::{Duration, Instant};

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

#[test]
fn another_range_leaves_who_is_connected_his_address_and_gives_one_of_it_to_whoever_comes() -> Result<()> {
    let sites = Sites::new("repool")?;
    let wire = sites.capture()?;
    let text = |pools: &str| format!("{}\n{pools}", ours("pools = [\"ra\"]"));
    let gateway = gateway(&sites.a, &text("[pools.ra]\naddrs = \"10.3.0.0/28\"\n"))?;
    let reload = |pools: &str, arguments: &[&str]| {
        gateway.reload(&GatewayConfig::new(text(pools)), arguments).map(|output| output.stdout)
    };
    let swan = StrongSwan::start(&sites.b, &roadwarrior("vips = 0.0.0.0"))?;
    swan.initiate("net", SOON)?;
    let before = gateway.sas()?.remove(0);
    assert_eq!(before.remote_vips, ["10.3.0.1"]);
    pings(&sites.client, LEASED)?;

    const MOVED: &str = "[pools.ra]\naddrs = \"10.3.1.0/28\"\ndns = [\"10.1.0.53\"]\n";
    const SAID: &str = "pool ra: 10.3.0.1-10.3.0.14 → 10.3.1.1-10.3.1.14; 1 address in use stays its peer's until its IKE \
                        SA ends\n";
    let said = reload(MOVED, &["--dry-run"])?;
    assert!(said.contains(SAID) && said.ends_with("not applied (--dry-run)\n"), "{said}");
    let listed =
        |arguments: &[&str]| Ok::<_, LabError>(gateway.portcullis(&[&["pools"], arguments].concat())?.stdout);
    assert!(listed(&[])?.starts_with("ra: 10.3.0.1-10.3.0.14, 1 of 14 in use"), "{}", listed(&[])?);
    let said = reload(MOVED, &[])?;
    assert!(said.contains(SAID) && said.ends_with("in force\n"), "{said}");
    assert_eq!(
        listed(&["--leases"])?,
        "ra: 10.3.1.1-10.3.1.14, 0 of 14 in use, 0 kept, 1 outside in use\n  \
         10.3.0.1                                 outside  'b.example'\n"
    );
    // Nothing has happened to the tunnel, and a rekeying takes the address along.
    let after = gateway.sas()?.remove(0);
    assert_eq!((&after.initiator_spi, &after.remote_vips), (&before.initiator_spi, &before.remote_vips));
    pings(&sites.client, LEASED)?;
    swan.rekey_ike("site")?;
    gateway.wait_sas("a rekeyed IKE SA with the address", SOON, |sas| {
        matches!(sas, [sa] if sa.initiator_spi != before.initiator_spi && sa.remote_vips == ["10.3.0.1"])
    })?;
    pings(&sites.client, LEASED)?;
    // What the new range protects is blocked from the first moment on.
    let moved: IpAddr = Ipv4Addr::new(10, 3, 1, 1).into();
    assert_eq!(sites.client.ping(moved, 1)?.received, 0);

    swan.terminate("site")?;
    gateway.wait_sas("the client has gone", SOON, <[_]>::is_empty)?;
    swan.initiate("net", SOON)?;
    assert_eq!(gateway.sas()?[0].remote_vips, ["10.3.1.1"]);
    pings(&sites.client, moved)?;
    assert_eq!(listed(&[])?, "ra: 10.3.1.1-10.3.1.14, 1 of 14 in use, 0 kept\n");

    // A pool that shrinks to what is in use keeps it, and has nothing for others.
    let said = reload("[pools.ra]\naddrs = \"10.3.1.1\"\ndns = [\"10.1.0.53\"]\n", &[])?;
    assert!(said.contains("pool ra: 10.3.1.1-10.3.1.14 → 10.3.1.1/32\n"), "{said}");
    assert_eq!(listed(&[])?, "ra: 10.3.1.1/32, 1 of 1 in use, 0 kept\n");
    pings(&sites.client, moved)?;
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

/// Asks BIRD, or the kernel, until its answer has these, or none of them.
fn routes_are(host: &Host, words: &[&str], nets: &[&str], there: bool) -> Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        let answer = host.run(words)?.stdout;
        if nets.iter().all(|net| answer.contains(net) == there) {
            return Ok(());
        }
        assert!(Instant::now() < deadline, "{words:?}, {nets:?} {there}: {answer}");
    }
}

#[test]
fn bird_learns_the_addresses_of_peers_for_as_long_as_they_have_them() -> Result<()> {
    let sites = Sites::new("bird")?;
    let kernel = |family: &str| {
        format!(
            "protocol kernel {{ kernel table 222; learn; scan time 1; {family} {{ import all; export none; }}; }}\n"
        )
    };
    let file = |name: &str| sites.a.dir().join(name).display().to_string();
    let (settings, socket) = (file("bird.conf"), file("bird.ctl"));
    let text = format!(
        "router id 192.0.2.1;\nprotocol device {{ scan time 1; }}\n{}{}",
        kernel("ipv4"),
        kernel("ipv6")
    );
    std::fs::write(&settings, text).map_err(LabError::io("write bird.conf"))?;
    let _bird = sites.a.spawn_words(["bird", "-f", "-c", &settings, "-s", &socket])?;

    let connections = format!("{}{POOLS}", ours("pools = [\"ra\", \"ra6\"]"));
    let config = |what: &str| GatewayConfig {
        gateway_lines: format!("export_routes = \"{what}\"\n"),
        ..GatewayConfig::new(connections.clone())
    };
    let binary = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let mut gateway = Gateway::start(&sites.a, binary, &config("addresses"))?;
    let swan = StrongSwan::start(&sites.b, &roadwarrior("vips = 0.0.0.0,::"))?;
    let nets = ["10.3.0.1", "2001:db8:3::1"];
    let learned = ["birdc", "-s", &socket, "show", "route"];
    let (v4, v6) = ("ip -4 route show table 222 proto 112", "ip -6 route show table 222 proto 112");
    let kernel = |command: &str, net: &str, there| {
        routes_are(&sites.a, &command.split(' ').collect::<Vec<_>>(), &[net], there)
    };
    swan.initiate("net", SOON)?;
    routes_are(&sites.a, &learned, &["10.3.0.1/32", "2001:db8:3::1/128", "dev portcullis0"], true)?;
    pings(&sites.client, LEASED)?;
    // What a rekeying leaves as it was stays; the end of the tunnel takes it back.
    swan.rekey_child("net")?;
    gateway.wait_children(
        "a rekeyed child",
        SOON,
        |children| matches!(children, [child] if child.packets_in == 0),
    )?;
    kernel(v4, nets[0], true)?;
    swan.terminate("site")?;
    routes_are(&sites.a, &learned, &nets, false)?;

    // A crash leaves them; the next daemon takes them back before it is ready.
    swan.initiate("net", SOON)?;
    kernel(v6, nets[1], true)?;
    gateway.kill9();
    kernel(v6, nets[1], true)?;
    gateway.restart()?;
    for (command, net) in [(v4, nets[0]), (v6, nets[1])] {
        let answer = sites.a.run(command.split(' '))?.stdout;
        assert!(!answer.contains(net), "{answer}");
    }
    // So does an orderly stop.
    drop(swan);
    let swan = StrongSwan::start(&sites.b, &roadwarrior("vips = 0.0.0.0,::"))?;
    swan.initiate("net", SOON)?;
    kernel(v4, nets[0], true)?;
    gateway.stop()?;
    assert!(!sites.a.run(v4.split(' '))?.stdout.contains(nets[0]));
    Ok(())
}
