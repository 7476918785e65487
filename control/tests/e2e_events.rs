//! What `portcullis events` tells of a strongSwan that comes, is rekeyed, goes, and is refused.

#![expect(clippy::unwrap_used, reason = "an event without its fields is what the test looks for")]

mod authority;

use std::path::Path;
use std::time::Duration;

use authority::Authority;
use portcullis_lab::{Gateway, GatewayConfig, LabError, Mark, Process, Result, Sites, StrongSwan};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

fn ours(host: &portcullis_lab::Host, remote: &str) -> GatewayConfig {
    let text = format!(
        "[connections.site]\nlocal_addrs = \"192.0.2.1\"\nremote_addrs = \"192.0.2.2\"\npools = [\"ra\"]\n\
         local = {{ auth = \"pubkey\", certs = \"own.pem\", id = \"a.example\" }}\n\
         remote = {{ auth = \"pubkey\", id = \"{remote}\" }}\n\n\
         [connections.site.children.net]\nlocal_ts = \"10.1.0.0/24\"\nesp_proposals = \"aes256gcm16\"\n\n\
         [pools.ra]\naddrs = \"10.3.0.0/28\"\n"
    );
    let gateway_lines = format!("state_dir = \"{}/state\"\n", host.dir().display());
    GatewayConfig { gateway_lines, ..GatewayConfig::new(text) }
}

const THEIRS: &str = "connections {
 site {
  local_addrs = 192.0.2.2
  remote_addrs = 192.0.2.1
  vips = 0.0.0.0
  local {
   auth = pubkey
   certs = own.pem
   id = b.example
  }
  remote {
   auth = pubkey
   id = a.example
   cacerts = root.pem
  }
  children {
   net {
    remote_ts = 10.1.0.0/24
    esp_proposals = aes256gcm16
   }
  }
 }
}
";

/// Everything that was told up to an event with that name.
fn until(events: &Process, from: &mut Mark, name: &str) -> Result<Vec<Value>> {
    let mut told = Vec::new();
    loop {
        let (line, mark) = events.wait_line_from(*from, "\"event\":", SOON)?;
        *from = mark;
        told.push(serde_json::from_str::<Value>(&line).unwrap());
        if told.last().unwrap()["event"] == name {
            return Ok(told);
        }
    }
}

fn names(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

#[test]
fn strongswan_comes_is_rekeyed_goes_and_is_refused_and_every_step_is_told_once() -> Result<()> {
    let (sites, root) = (Sites::new("events")?, Authority::root());
    root.enroll(&sites.a, &rcgen::PKCS_ECDSA_P256_SHA256, "a.example", 1);
    root.enroll(&sites.b, &rcgen::PKCS_ECDSA_P256_SHA256, "b.example", 2);
    let config = ours(&sites.a, "b.example");
    let gateway = Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)?;
    let swan = StrongSwan::start(&sites.b, THEIRS)?;
    let (events, mut from) = (gateway.events(&["--connection", "site"])?, Mark::default());

    swan.initiate("net", SOON)?;
    let told = until(&events, &mut from, "child_up")?;
    assert_eq!(names(&told), ["subscribed", "ike_up", "addresses_assigned", "child_up"], "{told:?}");
    let (up, child) = (&told[1], &told[3]);
    assert_eq!(up["certificate"]["serial"], "02");
    assert_eq!(up["certificate"]["issuer"], "CN=Lab Root");
    assert_eq!((&up["auth"], &up["remote_id"]), (&"pubkey".into(), &"b.example".into()));
    assert!(up["remote"].as_str().unwrap().starts_with("192.0.2.2:"), "{up}");
    assert_eq!(told[2]["addresses"], serde_json::json!(["10.3.0.1"]));
    assert_eq!(child["remote_ts"], serde_json::json!(["10.3.0.1/32"]));
    assert_eq!(child["session"], up["session"]);
    let vip = "10.3.0.1".parse().unwrap();
    assert!(sites.client.ping(vip, 5)?.complete());

    swan.rekey_child("net")?;
    let told = until(&events, &mut from, "child_rekeyed")?;
    assert_eq!(names(&told), ["child_rekeyed"], "{told:?}");
    assert_eq!(told[0]["replaced"], child["spi_in"]);
    swan.rekey_ike("site")?;
    let told = until(&events, &mut from, "ike_rekeyed")?;
    assert_eq!(names(&told), ["ike_rekeyed"], "{told:?}");
    assert_eq!((&told[0]["replaced"], &told[0]["session"]), (&up["ike"], &up["session"]));
    assert!(sites.client.ping(vip, 5)?.complete());

    swan.terminate("site")?;
    let told = until(&events, &mut from, "ike_down")?;
    assert_eq!(names(&told), ["child_down", "addresses_released", "ike_down"], "{told:?}");
    for down in [&told[0], &told[2]] {
        assert_eq!(down["session"], up["session"]);
        // Ten packets of 84 octets each way, over both CHILD SAs.
        assert_eq!((&down["bytes_in"], &down["bytes_out"]), (&840.into(), &840.into()), "{down}");
        assert!(down["reason"].as_str().unwrap().contains("peer"), "{down}");
    }

    let all = gateway.events(&[])?;
    let broken = GatewayConfig { connections: "[connections.site]".to_owned(), ..config };
    assert!(matches!(gateway.reload(&broken, &[]), Err(LabError::Failed { .. })));
    all.wait_line("\"event\":\"reload_refused\"", SOON)?;
    gateway.reload(&ours(&sites.a, "c.example"), &[])?;
    let reloaded = all.wait_line("\"event\":\"reloaded\"", SOON)?;
    assert!(reloaded.contains("connections.site.remote.id"), "{reloaded}");
    assert!(matches!(swan.initiate("net", SOON), Err(LabError::Failed { .. })));
    all.wait_line("\"reason\":\"ID_UNEXPECTED\"", SOON)?;

    let nobody = gateway.portcullis(&["events", "--connection", "nope"]);
    let says = |output: &str| output.contains("no connection `nope` is configured (there are: site)");
    assert!(matches!(&nobody, Err(LabError::Failed { output, .. }) if says(output)), "{nobody:?}");
    Ok(())
}
