//! Against strongSwan: modes of a CHILD SA that both ends must agree on, padding that it takes off again, and outer headers
//! that it does not mind. Its user-space ESP has no transport mode.

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{
    Class, Direction, Gateway, GatewayConfig, LabError, Result, SiteConfig, Sites, StrongSwan,
};

const SOON: Duration = Duration::from_secs(30);

/// Our end, on gateway `a`, with these options of its child.
fn gateway(sites: &Sites, site: &SiteConfig, options: &str) -> Result<Gateway> {
    let toml = site.toml().replace("start_action = ", &format!("{options}\nstart_action = "));
    Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &GatewayConfig::new(toml))
}

fn ours() -> SiteConfig {
    SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() }
}

/// Between two addresses: strongSwan's user-space ESP takes no policy between the ends of the IKE SA.
fn between_hosts() -> SiteConfig {
    let (local_ts, remote_ts) = (vec![Sites::A_INSIDE.to_string()], vec![Sites::B_INSIDE.to_string()]);
    SiteConfig { local_ts, remote_ts, ..ours() }
}

#[test]
fn a_peer_that_agrees_to_a_tunnel_alone_is_refused_and_keeps_none() -> Result<()> {
    let sites = Sites::new("mode-i")?;
    let swan = StrongSwan::start(&sites.b, &between_hosts().mirrored().swanctl())?;
    let gateway = gateway(&sites, &between_hosts(), "mode = \"transport\"")?;
    let before = swan.mark();
    let refused = gateway.initiate("site/net", SOON);
    assert!(
        matches!(&refused, Err(LabError::Failed { output, .. }) if output.contains("CHILD_MODE_MISMATCH")),
        "{refused:?}"
    );
    // It had installed its end before we could decline.
    swan.wait_log(before, "received DELETE for ESP CHILD_SA", SOON)?;
    assert!(gateway.sas()?.iter().all(|sa| sa.children.is_empty()));
    Ok(())
}

#[test]
fn a_peer_that_asks_for_a_tunnel_gets_none_of_a_child_for_transport_mode() -> Result<()> {
    let sites = Sites::new("mode-r")?;
    let gateway = gateway(&sites, &between_hosts(), "mode = \"transport\"")?;
    let swan = StrongSwan::start(&sites.b, &between_hosts().mirrored().swanctl())?;
    let refused = swan.initiate("net", SOON);
    assert!(
        matches!(&refused, Err(LabError::Failed { output, .. }) if output.contains("NO_PROPOSAL_CHOSEN")),
        "{refused:?}"
    );
    let verdicts = gateway.status()?.verdicts;
    assert!(verdicts.iter().any(|verdict| verdict.reason == "CHILD_MODE_MISMATCH"), "{verdicts:?}");
    Ok(())
}

#[test]
fn strongswan_takes_padding_off_and_minds_no_outer_header() -> Result<()> {
    let sites = Sites::new("padding")?;
    let wire = sites.capture()?;
    let _swan = StrongSwan::start(&sites.b, &ours().mirrored().swanctl())?;
    let options =
        "tfc_padding = \"mtu\"\ncopy_dscp = \"no\"\nouter_dscp = 46\ncopy_ecn = false\ncopy_df = \"no\"";
    let gateway = gateway(&sites, &ours(), options)?;
    gateway.initiate("site/net", SOON)?;
    assert!(sites.client.ping(Sites::SERVER, 10)?.complete());
    assert!(sites.server.ping(Sites::CLIENT_V6, 10)?.complete());
    let counts = wire.settle()?;
    let sealed = counts.of(Class::UdpEsp, Direction::In);
    assert!(sealed.packets >= 20, "{counts}");
    // Pings of less than 200 octets fill the link one way, and are themselves on the way back.
    assert!(sealed.bytes / sealed.packets > 1400, "{counts}");
    let back = counts.of(Class::UdpEsp, Direction::Out);
    assert!(back.bytes / back.packets < 300, "{counts}");
    Ok(())
}

#[test]
fn esp_in_udp_that_arrives_in_fragments_is_put_together_and_opened() -> Result<()> {
    for outer_v6 in [false, true] {
        let sites = Sites::new("pieces")?;
        let outer = |v4: &str, v6: &str| if outer_v6 { v6.to_owned() } else { v4.to_owned() };
        let site = SiteConfig {
            local: outer("192.0.2.1", "2001:db8:f::1"),
            remote: outer("192.0.2.2", "2001:db8:f::2"),
            ..ours()
        };
        let _swan = StrongSwan::start(&sites.b, &site.mirrored().swanctl())?;
        // strongSwan sends its ESP as any program sends a datagram: the kernel cuts it to what the route takes.
        let to_a = format!("{} dev outside0 mtu 1280", site.local);
        sites.b.ip(&format!("route add {to_a}"))?;
        let gateway = gateway(&sites, &site, "")?;
        gateway.initiate("site/net", SOON)?;
        assert_eq!(gateway.status()?.packets.from_kernel, 0);
        for (from, to) in [(&sites.client, Sites::SERVER), (&sites.client, Sites::SERVER_V6)] {
            assert!(from.ping_with(to, 10, 1250, &[])?.complete(), "{:?}", gateway.drops()?);
        }
        // Each answer came by the socket, in two pieces.
        assert_eq!(gateway.status()?.packets.from_kernel, 20);
        assert!(sites.client.ping(Sites::SERVER, 5)?.complete());
        assert_eq!(gateway.status()?.packets.from_kernel, 20);
    }
    Ok(())
}
