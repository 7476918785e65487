//! Quick crash detection (RFC 6290): strongSwan does not have it, so that its octets are checked by a small IKEv2 in Python;
//! and INVALID_SPI (RFC 7296 §1.5) leads to it.

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{Gateway, GatewayConfig, Host, Result, Scapy, SiteConfig, Sites};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const PYTHON: &str = include_str!("peers/ikev2.py");

// As IANA's registry has them.
const CREATE_CHILD_SA: u8 = 36;
const INVALID_IKE_SPI: u16 = 4;
const QCD_TOKEN: u16 = 16419;

fn start(host: &Host, site: &SiteConfig) -> Result<Gateway> {
    let config = GatewayConfig::new(site.toml());
    Gateway::start(host, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)
}

/// Our end, on gateway `a`.
fn ours() -> SiteConfig {
    SiteConfig { proposals: "aes256gcm16-prfsha256-x25519".into(), ..SiteConfig::a() }
}

/// The Python peer at the other gateway begins an IKE SA, and says this in IKE_AUTH.
fn begin(peer: &mut Scapy, more: &Value) -> Result<Value> {
    let site = ours();
    let with = json!({
        "local": site.remote, "remote": site.local, "us": site.remote_id, "them": site.local_id,
        "secret": site.secret, "more": more,
    });
    peer.call("begin", &with)
}

fn token_in(found: &Value) -> Option<Value> {
    let all = found["notifies"].as_array()?;
    all.iter().find(|notify| notify[0] == QCD_TOKEN).cloned()
}

#[test]
fn a_daemon_that_was_killed_shows_each_peer_the_token_that_it_gave_it() -> Result<()> {
    let sites = Sites::new("token")?;
    let mut gateway = start(&sites.a, &ours())?;
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    let up = begin(&mut peer, &json!([]))?;
    let token = token_in(&up).expect("a token in IKE_AUTH");
    // RFC 6290 §4.1, §5: of the protocol IKE, and of 16 to 128 octets.
    assert_eq!(token[2], 1);
    assert!((32..=256).contains(&token[1].as_str().map_or(0, str::len)), "{token}");
    let alive = peer.call("ask", &json!({ "more": [] }))?;
    assert_eq!((&alive["protected"], token_in(&alive)), (&json!(true), None));

    gateway.kill9();
    gateway.restart()?;
    let lost = peer.call("ask", &json!({ "more": [] }))?;
    // A response, and not of the end that began the IKE SA.
    assert_eq!((&lost["protected"], &lost["flags"]), (&json!(false), &json!(0x20)));
    assert_eq!(lost["notifies"], json!([[INVALID_IKE_SPI, "", 0], token]));
    Ok(())
}

#[test]
fn a_peer_that_shows_its_token_has_lost_its_state() -> Result<()> {
    let sites = Sites::new("shows")?;
    let gateway = start(&sites.a, &ours())?;
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    let token = json!([QCD_TOKEN, "00112233445566778899aabbccddeeff", 1]);
    begin(&mut peer, &json!([token]))?;
    let from = gateway.process().mark();
    gateway.rekey("site")?;
    // Another's token first: any of up to four may be the right one.
    let shown = json!([[INVALID_IKE_SPI, "", 0], [QCD_TOKEN, "ff".repeat(16), 1], token]);
    peer.call("answer_in_clear", &json!({ "exchange": CREATE_CHILD_SA, "more": shown }))?;
    gateway.wait_log(from, "PEER_RESTARTED", SOON)?;
    gateway.wait_sas("none is left", SOON, <[_]>::is_empty)?;
    Ok(())
}

#[test]
fn a_tunnel_is_up_again_at_once_when_the_gateway_at_its_other_end_was_killed() -> Result<()> {
    let sites = Sites::new("reborn")?;
    let mut b = start(&sites.b, &ours().mirrored())?;
    let a = start(&sites.a, &SiteConfig { start_action: "start", ..ours() })?;
    a.wait_children("up", SOON, |children| children.len() == 1)?;
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
    // No dead-peer detection: without a token nobody would notice before the next rekeying, hours from now. The peer is
    // believed to live for a few seconds after its last word.
    let from = a.process().mark();
    b.kill9();
    b.restart()?;
    let pings = sites.client.begin_pings(Sites::SERVER, Duration::from_millis(200))?;
    a.wait_log(from, "PEER_RESTARTED", SOON)?;
    a.wait_log(from, "CHILD SA established", SOON)?;
    pings.stop()?;
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
    Ok(())
}
