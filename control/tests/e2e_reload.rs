//! `portcullis reload` against strongSwan with packets passing: what did not change loses none, the rest follows, and what
//! is refused changes nothing.

#![expect(clippy::unwrap_used, reason = "where a test cannot go on it fails")]

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{Class, Gateway, GatewayConfig, LabError, Result, SiteConfig, Sites, StrongSwan};

const SOON: Duration = Duration::from_secs(30);
const OFTEN: Duration = Duration::from_millis(5);
const RELOADS: usize = 100;

fn ours() -> SiteConfig {
    SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() }
}

/// The tunnel that stays, with further lines.
fn with(further: &str) -> GatewayConfig {
    GatewayConfig::new(format!("{}\n{further}", ours().toml()))
}

/// A connection to nobody, whose child protects a net of its own.
fn other(number: usize, third: usize) -> String {
    format!(
        "[connections.other{number}]\nremote_addrs = [\"192.0.2.{}\"]\nlocal_addrs = [\"192.0.2.1\"]\n\
         local = {{ auth = \"psk\", id = \"a.example\" }}\nremote = {{ auth = \"psk\", id = \"o.example\" }}\n\
         [connections.other{number}.children.x]\nlocal_ts = [\"10.1.0.0/24\"]\n\
         remote_ts = [\"10.9.{third}.0/24\"]\n",
        number + 10
    )
}

const SECRET: &str =
    "[secrets.ike-other]\nids = [\"o.example\"]\nsecret = \"another secret of some length\"\n";

/// What a call of the command line was refused with.
fn refused<T: std::fmt::Debug>(result: Result<T>) -> String {
    let error: LabError = result.unwrap_err();
    error.to_string()
}

#[test]
fn a_hundred_reloads_cost_a_tunnel_that_does_not_change_no_packet() -> Result<()> {
    let sites = Sites::new("reload")?;
    let wire = sites.capture()?;
    let swan = StrongSwan::start(&sites.b, &ours().mirrored().swanctl())?;
    let gateway = Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &with(""))?;
    gateway.initiate("site/net", SOON)?;
    let before = gateway.sas()?[0].clone();
    let pings =
        [sites.client.begin_pings(Sites::SERVER, OFTEN)?, sites.server.begin_pings(Sites::CLIENT, OFTEN)?];
    pings.iter().try_for_each(|pings| pings.wait_answer(SOON))?;
    for round in 0..RELOADS {
        // Four connections come, change and go, each at its own pace.
        let there = (0..4).filter(|number| (round / (number + 1)) % 2 == 0);
        let others: String = there.map(|number| other(number, number + 4 * (round % 3))).collect();
        let said = gateway.reload(&with(&format!("{others}{SECRET}")), &[])?.stdout;
        assert!(said.ends_with("in force\n") && !said.contains("site"), "{round}: {said}");
    }
    pings.iter().try_for_each(|pings| pings.wait_answer(SOON))?;
    for pings in pings {
        let ping = pings.stop()?;
        assert!(ping.received > 0 && ping.sent - ping.received <= 1, "{ping:?} {:?}", gateway.drops()?);
    }
    let after = gateway.sas()?;
    assert_eq!(after.len(), 1);
    assert_eq!(
        (&after[0].initiator_spi, &after[0].children[0].spi_in),
        (&before.initiator_spi, &before.children[0].spi_in)
    );
    assert_eq!(wire.settle()?.packets(Class::Clear), 0, "{:?}", wire.clear_text());

    // What the last one protects is blocked, and what went is not.
    let said = gateway.reload(&with(&format!("{}{SECRET}", other(0, 7))), &["--dry-run"])?.stdout;
    assert!(said.contains("other0") && said.ends_with("not applied (--dry-run)\n"), "{said}");
    gateway.reload(&with(&format!("{}{SECRET}", other(0, 7))), &[])?;
    let no_sa = |gateway: &Gateway| Ok::<_, LabError>(gateway.drops()?.get("no_sa").copied().unwrap_or(0));
    let dropped = no_sa(&gateway)?;
    assert_eq!(sites.client.ping("10.9.7.1".parse().unwrap(), 1)?.received, 0);
    assert_eq!(no_sa(&gateway)?, dropped + 1);
    gateway.reload(&with(""), &[])?;
    assert_eq!(sites.client.ping("10.9.7.1".parse().unwrap(), 1)?.received, 0);
    assert_eq!(no_sa(&gateway)?, dropped + 1, "it is still protected: {:?}", gateway.drops()?);
    drop(swan);
    Ok(())
}

#[test]
fn a_changed_child_is_negotiated_anew_and_a_removed_connection_is_closed_at_the_peer() -> Result<()> {
    let sites = Sites::new("reload2")?;
    let started = SiteConfig { start_action: "start", ..ours() };
    let narrower = |site: &SiteConfig| SiteConfig { remote_ts: vec!["10.2.0.0/24".into()], ..site.clone() };
    let swan = StrongSwan::start(&sites.b, &ours().mirrored().swanctl())?;
    let binary = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let gateway = Gateway::start(&sites.a, binary, &GatewayConfig::new(started.toml()))?;
    gateway.wait_children("the child is up", SOON, |children| children.len() == 1)?;
    let said = gateway.reload(&GatewayConfig::new(narrower(&started).toml()), &[])?.stdout;
    assert!(said.contains("site/net: changed; its SAs are closed and negotiated anew"), "{said}");
    assert!(said.contains("connections.site.children.net.remote_ts:"), "{said}");
    gateway.wait_children("the child is up anew", SOON, |children| {
        children.len() == 1 && children[0].remote_ts == ["10.2.0.0/24"]
    })?;
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());

    let mark = swan.mark();
    gateway.reload(&GatewayConfig::new(other(0, 7) + SECRET), &[])?;
    swan.wait_log(mark, "deleting IKE_SA site", SOON)?;
    gateway.wait_sas("nothing is left", SOON, <[_]>::is_empty)?;
    assert_eq!(swan.list_sas()?, "");
    Ok(())
}

#[test]
fn what_cannot_be_put_in_force_changes_nothing_and_says_why() -> Result<()> {
    let sites = Sites::new("reload3")?;
    let swan = StrongSwan::start(&sites.b, &ours().mirrored().swanctl())?;
    let gateway = Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &with(""))?;
    gateway.initiate("site/net", SOON)?;

    let wrong = GatewayConfig::new(ours().toml().replace("remote_addrs", "remote_adrs"));
    let said = refused(gateway.reload(&wrong, &[]));
    assert!(said.contains("did you mean `remote_addrs`?") && said.contains("nothing was changed"), "{said}");

    let restart = GatewayConfig { gateway_lines: "mark = 7".into(), ..with("") };
    let said = refused(gateway.reload(&restart, &[]));
    assert!(said.contains("only a restart can apply gateway.mark: (new) 7"), "{said}");

    let elsewhere = other(0, 7).replace("[\"192.0.2.1\"]", "[\"192.0.2.77\"]") + SECRET;
    let said = refused(gateway.reload(&with(&elsewhere), &[]));
    assert!(said.contains("192.0.2.1 → 192.0.2.1, 192.0.2.77"), "{said}");

    let said = gateway.reload(&with(""), &[])?.stdout;
    assert_eq!(said, "nothing has changed\n");
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
    drop(swan);
    Ok(())
}

#[test]
fn what_of_the_gateway_needs_no_restart_is_in_force_at_once() -> Result<()> {
    let sites = Sites::new("reload4")?;
    let mut gateway = Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &with(""))?;
    let with = |lines: &str| GatewayConfig { gateway_lines: lines.into(), ..with("") };
    let scrape = |port: u16| {
        let url = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
        );
        sites.a.run(["bash", "-c", &url]).map(|page| page.stdout)
    };
    assert!(scrape(9464)?.contains("portcullis_build_info"));
    // Somebody else has the port: nothing has changed.
    let taken =
        sites.a.enter(|| std::net::TcpListener::bind("127.0.0.1:9470"))?.map_err(LabError::io("listen"))?;
    let said = refused(gateway.reload(&with("metrics = \"127.0.0.1:9470\""), &[]));
    assert!(
        said.contains("nothing was changed: cannot serve metrics at 127.0.0.1:9470 (gateway.metrics)"),
        "{said}"
    );
    assert!(scrape(9464)?.contains("portcullis_build_info"));
    drop(taken);

    let lines = "metrics = \"127.0.0.1:9470\"\nmetrics_compatibility = \"ipsec_exporter\"";
    let opened = GatewayConfig { on_stop: "open", ..with(lines) };
    let said = gateway.reload(&opened, &[])?.stdout;
    assert!(said.contains("gateway: changed; it counts at once\n") && said.ends_with("in force\n"), "{said}");
    assert!(scrape(9464).is_err());
    assert!(scrape(9470)?.contains("ipsec_status{tunnel=\"site\"} 2\n"));

    let said = refused(gateway.reload(&with("metrics = \"off\"\nspin = 0"), &[]));
    assert!(said.contains("only a restart can apply gateway.spin: (new) 0"), "{said}");
    assert!(!said.contains("gateway.metrics"), "{said}");

    assert!(sites.a.pin_dir().join("links").exists());
    gateway.stop()?;
    assert!(
        !sites.a.pin_dir().join("links").exists(),
        "an orderly stop opens, as the last configuration says"
    );
    Ok(())
}
