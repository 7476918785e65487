//! NULL authentication (RFC 7619) against a small IKEv2 in Python: strongSwan 5.9.8 does not have it.

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{Gateway, GatewayConfig, Result, Scapy, SiteConfig, Sites};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(30);
const PYTHON: &str = include_str!("peers/ikev2.py");

// As IANA's registry has them.
const AUTHENTICATION_FAILED: u16 = 24;
const INITIAL_CONTACT: u16 = 16384;
/// An ID payload's body of type 13.
const ID_NULL: &str = "0d000000";

/// Gateway `a`, where `local` and `remote` say how either end proves itself.
fn start(sites: &Sites, local: &str, remote: &str, start_action: &'static str) -> Result<Gateway> {
    let site = SiteConfig {
        proposals: "aes256gcm16-prfsha256-x25519".into(),
        remote_ts: vec!["dynamic".into()],
        start_action,
        ..SiteConfig::a()
    };
    let text = site
        .toml()
        .replace("local = { auth = \"psk\", id = \"a.example\" }", &format!("local = {local}"))
        .replace(
            "remote = { auth = \"psk\", id = \"b.example\" }",
            &format!("remote = {remote}\nchildless = \"prefer\""),
        )
        .replace("ids = [\"a.example\", \"b.example\"]\n", "");
    let config = GatewayConfig::new(format!("[ike]\nunauthenticated_limit = 2\n\n{text}"));
    Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)
}

/// A peer that proves nothing comes to gateway `a`.
fn come(peer: &mut Scapy, says: &Value, them: &Value, secret: Option<&str>, more: &Value) -> Result<Value> {
    let with = json!({
        "local": "192.0.2.2", "remote": "192.0.2.1", "says": says, "them": them, "secret": secret, "more": more,
    });
    peer.call("begin_as_nobody", &with)
}

const KEY: &str = "{ auth = \"psk\", id = \"a.example\" }";
const NULL: &str = "{ auth = \"null\" }";

#[test]
fn anybody_comes_in_who_is_told_who_we_are_and_nobody_takes_another_one_s_place() -> Result<()> {
    let sites = Sites::new("anybody")?;
    let gateway = start(&sites, KEY, NULL, "none")?;
    let secret = SiteConfig::a().secret;
    let mut here = Vec::new();
    // The second says that it is somebody, and that it has no other IKE SA: neither counts for anything.
    let initial = json!([[INITIAL_CONTACT, "", 0]]);
    for (says, more) in [(Value::Null, json!([])), (json!("b.example"), initial)] {
        let mut peer = Scapy::start(&sites.b, PYTHON)?;
        let up = come(&mut peer, &says, &json!("a.example"), Some(&secret), &more)?;
        // ID_FQDN, our name; its AUTH was right, or Python would have said so.
        assert_eq!(up["identity"], format!("02000000{}", data_encoding::HEXLOWER.encode(b"a.example")));
        here = gateway.wait_sas("one more", SOON, |sas| sas.len() == here.len() + 1)?;
    }
    assert!(here.iter().all(|sa| sa.remote_id.as_deref() == Some("%null")), "{here:?}");
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    let from = gateway.process().mark();
    let third = come(&mut peer, &Value::Null, &json!("a.example"), Some(&secret), &json!([]))?;
    assert_eq!(third["notifies"], json!([[AUTHENTICATION_FAILED, "", 0]]));
    gateway.wait_log(from, "UNAUTHENTICATED_REFUSED", SOON)?;
    Ok(())
}

#[test]
fn neither_end_has_to_prove_anything_where_both_are_for_it() -> Result<()> {
    let sites = Sites::new("neither")?;
    let gateway = start(&sites, NULL, NULL, "none")?;
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    let up = come(&mut peer, &Value::Null, &Value::Null, None, &json!([]))?;
    assert_eq!(up["identity"], ID_NULL);
    let alive = peer.call("ask", &json!({ "more": [] }))?;
    assert_eq!(alive["protected"], true);
    gateway.wait_sas("up", SOON, |sas| sas.len() == 1)?;
    Ok(())
}

#[test]
fn we_come_as_nobody_to_a_gateway_that_is_nobody() -> Result<()> {
    let sites = Sites::new("nobody")?;
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    let gateway = start(&sites, NULL, NULL, "start")?;
    let came = peer.call("answer_as_nobody", &json!({ "local": "192.0.2.2", "remote": "192.0.2.1" }))?;
    assert_eq!(came["identity"], ID_NULL);
    let says = came["notifies"].as_array().cloned().unwrap_or_default();
    assert!(says.iter().all(|notify| notify[0] != INITIAL_CONTACT), "{came}");
    gateway.wait_sas("up", SOON, |sas| sas.iter().any(|sa| sa.state == "ESTABLISHED"))?;
    Ok(())
}

#[test]
fn who_has_to_prove_himself_does_not_come_in_as_nobody() -> Result<()> {
    let sites = Sites::new("refused")?;
    let gateway = start(&sites, KEY, "{ auth = \"psk\" }", "none")?;
    let mut peer = Scapy::start(&sites.b, PYTHON)?;
    let from = gateway.process().mark();
    let secret = SiteConfig::a().secret;
    let refused = come(&mut peer, &json!("b.example"), &json!("a.example"), Some(&secret), &json!([]))?;
    assert_eq!(refused["notifies"], json!([[AUTHENTICATION_FAILED, "", 0]]));
    gateway.wait_log(from, "AUTH_METHOD_MISMATCH", SOON)?;
    Ok(())
}
