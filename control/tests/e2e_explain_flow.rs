//! `portcullis explain flow` says what becomes of a packet, and the packet's fate agrees.

#![expect(clippy::indexing_slicing, reason = "where a test cannot go on it fails")]

use std::path::Path;
use std::time::{Duration, Instant};

use portcullis_lab::{Gateway, GatewayConfig, LabError, Result, SiteConfig, Sites};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

const SHUNTS: &str = r#"
[connections.shunts.children.monitoring]
mode = "pass"
local_ts = "10.1.0.0/24[tcp]"
remote_ts = "10.2.0.0/24[tcp/9100]"

[connections.shunts.children.never]
mode = "drop"
priority = 1
local_ts = "10.1.0.0/24"
remote_ts = "10.2.0.66"
"#;

/// As JSON, and as an operator reads it.
fn explain(gateway: &Gateway, flow: &[&str]) -> Result<(Value, String)> {
    let ask = |further: &[&str]| gateway.portcullis(&[&["explain", "flow"], flow, further].concat());
    let report = serde_json::from_str(&ask(&["--json"])?.stdout).unwrap_or_default();
    Ok((report, ask(&[])?.stdout))
}

fn expect(
    gateway: &Gateway,
    flow: &[&str],
    (verdict, reason): (&str, Option<&str>),
    says: &[&str],
) -> Result<()> {
    let (report, text) = explain(gateway, flow)?;
    assert_eq!(report["verdict"], verdict, "{flow:?}: {text}");
    assert_eq!(report["reason"].as_str(), reason, "{flow:?}: {text}");
    for words in says {
        assert!(text.contains(words), "{flow:?}: `{words}` is missing in\n{text}");
    }
    Ok(())
}

#[test]
fn a_packet_is_walked_to_where_it_stops_and_the_line_to_change_is_named() -> Result<()> {
    let sites = Sites::new("flow")?;
    // A net behind the client that no policy knows.
    sites.a.route("10.1.7.0/24", "10.1.0.10")?;
    let (ours, theirs) = (SiteConfig::a(), SiteConfig::a().mirrored());
    let binary = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let a = Gateway::start(&sites.a, binary, &GatewayConfig::new(ours.toml() + SHUNTS))?;
    let _b = Gateway::start(&sites.b, binary, &GatewayConfig::new(theirs.toml()))?;
    let (client, server) = ("10.1.0.10", "10.2.0.10");
    let dropped = |reason| ("dropped", Some(reason));

    let before = a.drops()?["no_sa"];
    let says = [
        "10.1.0.10 is behind inside0",
        "site/net protects it, as configured",
        "portcullis initiate site/net",
        "start_action = \"trap\" in [connections.site.children.net]",
    ];
    expect(&a, &[client, server], dropped("no_sa"), &says)?;
    assert_eq!(sites.client.ping(Sites::SERVER, 1)?.received, 0);
    assert_eq!(a.drops()?["no_sa"], before + 1, "the reason is the counter's");

    a.initiate("site/net", SOON)?;
    let child = a.children()?.remove(0);
    let sealed = format!("spi {} to 192.0.2.2", child.spi_out);
    let says = [
        "site/net protects it, as negotiated",
        &sealed,
        "reached by outside0, with an MTU of 1500",
        "packets of up to 1446 octets fit",
    ];
    expect(&a, &[client, server, "tcp", "443"], ("sealed", None), &says)?;
    let says = ["shunts/monitoring lets it pass in clear"];
    expect(&a, &[client, server, "tcp", "9100"], ("in_clear", None), &says)?;
    let says = ["shunts/never drops it", "lower `priority` than 1"];
    expect(&a, &[client, "10.2.0.66"], dropped("discarded"), &says)?;
    let says = ["left to the kernel", "site/net would, but for the source"];
    expect(&a, &["10.1.7.7", server], ("in_clear", None), &says)?;
    let says =
        ["in clear it does not come in", "widen local_ts of [connections.site.children.net], on both sides"];
    expect(&a, &["10.99.0.1", server], dropped("xdp_clear_inbound"), &says)?;
    expect(&a, &[client, "192.0.2.1"], ("to_host", None), &["is an address of this host"])?;
    let says = ["on the far side of site/net", "reached by inside0"];
    expect(&a, &[server, client], ("opened", None), &says)?;
    expect(&a, &["2001:db8:1::10", "2001:db8:2::10"], ("sealed", None), &[])?;

    sites.a.ip("route add unreachable 192.0.2.2/32")?;
    let deadline = Instant::now() + SOON;
    while explain(&a, &[client, server])?.0["verdict"] != "dropped" {
        assert!(Instant::now() < deadline, "the route is not seen");
    }
    expect(&a, &[client, server], dropped("no_route"), &["no route to the peer, 192.0.2.2"])?;

    let mixed: Option<LabError> = a.portcullis(&["explain", "flow", client, "2001:db8::1"]).err();
    assert!(mixed.is_some_and(|error| error.to_string().contains("two families")));
    Ok(())
}
