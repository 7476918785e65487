//! EAP-TLS, EAP-TTLS, and EAP that alone proves both ends (RFC 5998), against strongSwan, as its gateway and as its client; and
//! against FreeRADIUS with TLS 1.3, which strongSwan 5.9.8 does in EAP only before it was standardised. What EAP-TTLS may carry
//! besides EAP, FreeRADIUS takes from us, and we from wpa_supplicant.

#![expect(clippy::unwrap_used, reason = "without its certificates there is nothing to try")]

mod authority;

use std::path::Path;
use std::time::Duration;

use authority::Authority;
use portcullis_lab::{FreeRadius, Gateway, GatewayConfig, Host, LabError, Result, Scapy, Sites, StrongSwan};
use serde_json::json;

const SOON: Duration = Duration::from_secs(40);

/// Both sites under one CA, with a certificate for each.
fn enrolled(name: &str) -> Result<(Sites, Authority)> {
    let (sites, root) = (Sites::new(name)?, Authority::root());
    root.enroll(&sites.a, &rcgen::PKCS_ECDSA_P256_SHA256, "a.example", 1);
    root.enroll(&sites.b, &rcgen::PKCS_RSA_SHA256, "b.example", 2);
    Ok((sites, root))
}

fn gateway(host: &Host, text: impl Into<String>) -> Result<Gateway> {
    Gateway::start(host, Path::new(env!("CARGO_BIN_EXE_portcullis")), &GatewayConfig::new(text))
}

/// Our side of the connection.
fn ours(local: &str, remote: &str) -> String {
    between([1, 2], local, remote)
}

/// One of ours between these sites.
fn between([here, there]: [u8; 2], local: &str, remote: &str) -> String {
    format!(
        "[connections.site]\nlocal_addrs = \"192.0.2.{here}\"\nremote_addrs = \"192.0.2.{there}\"\n\
         local = {{ {local} }}\nremote = {{ {remote} }}\n\n\
         [connections.site.children.net]\nlocal_ts = \"10.{here}.0.0/16\"\nremote_ts = \"10.{there}.0.0/16\"\n"
    )
}

/// strongSwan's side.
fn theirs(local: &str, remote: &str) -> String {
    format!(
        "connections {{\n site {{\n local_addrs = 192.0.2.2\n remote_addrs = 192.0.2.1\n local {{\n {local}\n }}\n \
         remote {{\n {remote}\n }}\n children {{\n net {{\n local_ts = 10.2.0.0/16\n remote_ts = 10.1.0.0/16\n \
         esp_proposals = aes256gcm16\n }}\n }}\n }}\n}}\n"
    )
}

const OWN: &str = "certs = \"own.pem\", id = \"a.example\"";
const THEIR_OWN: &str = "certs = own.pem\n id = b.example";

fn carries_traffic(sites: &Sites) -> Result<()> {
    let ping = sites.client.ping(Sites::SERVER, 5)?;
    assert!(ping.complete(), "{ping:?}");
    Ok(())
}

/// The last failure of ours.
fn failure(gateway: &Gateway) -> Result<String> {
    let verdict = gateway.status()?.verdicts.into_iter().next().unwrap();
    Ok(format!("{}: {}", verdict.reason, verdict.sentence))
}

#[test]
fn a_certificate_lets_strongswan_in_by_eap_tls() -> Result<()> {
    let (sites, _root) = enrolled("eaptlsgw")?;
    let remote = "auth = \"eap-tls\", cacerts = \"root.pem\"";
    let gateway = gateway(&sites.a, ours(&format!("auth = \"pubkey\", {OWN}"), remote))?;
    let client = theirs(
        &format!("auth = eap-tls\n {THEIR_OWN}"),
        "auth = pubkey\n id = a.example\n cacerts = root.pem",
    );
    let swan = StrongSwan::start(&sites.b, &client)?;
    swan.initiate("net", SOON)?;
    carries_traffic(&sites)?;
    assert_eq!(gateway.sas()?[0].eap_id.as_deref(), Some("b.example"));
    swan.terminate("site")?;

    // It has no certificate for that name.
    swan.reload(&client.replace("id = b.example", "id = c.example"))?;
    let refused = swan.initiate("net", SOON);
    assert!(matches!(&refused, Err(LabError::Failed { .. })), "{refused:?}");
    let said = failure(&gateway)?;
    assert!(said.starts_with("CERT_MISSING"), "{said}");
    assert_eq!(sites.client.ping(Sites::SERVER, 1)?.received, 0);
    Ok(())
}

#[test]
fn a_certificate_lets_us_in_at_strongswan_by_eap_tls() -> Result<()> {
    let (sites, root) = enrolled("eaptlsclient")?;
    let remote = "auth = \"pubkey\", id = \"b.example\"";
    let gateway = gateway(&sites.a, ours(&format!("auth = \"eap-tls\", {OWN}"), remote))?;
    let server = theirs(&format!("auth = pubkey\n {THEIR_OWN}"), "auth = eap-tls\n cacerts = root.pem");
    let swan = StrongSwan::start(&sites.b, &server)?;
    gateway.initiate("site/net", SOON)?;
    carries_traffic(&sites)?;
    gateway.terminate("site")?;

    // It trusts another CA.
    let other = root.below("Another");
    authority::put(&sites.b, "x509ca/root.pem", &other.pem);
    drop(swan);
    let _swan = StrongSwan::start(&sites.b, &server)?;
    let refused = gateway.initiate("site/net", SOON);
    let Err(LabError::Failed { output, .. }) = &refused else { panic!("{refused:?}") };
    assert!(output.contains("EAP_TLS_ALERT"), "{output}");
    Ok(())
}

#[test]
fn eap_tls_alone_proves_both_ends_whoever_begins() -> Result<()> {
    let (sites, _root) = enrolled("eaponly")?;
    let remote = "auth = \"eap-tls\", id = \"b.example\", cacerts = \"root.pem\"";
    let gateway = gateway(&sites.a, ours(&format!("auth = \"eap-tls\", {OWN}"), remote))?;
    // It checks `cacerts` of those alone who sign.
    let remote = "auth = eap-tls\n id = a.example";
    let swan = StrongSwan::start(&sites.b, &theirs(&format!("auth = eap-tls\n {THEIR_OWN}"), remote))?;
    swan.initiate("net", SOON)?;
    carries_traffic(&sites)?;
    swan.terminate("site")?;
    gateway.initiate("site/net", SOON)?;
    carries_traffic(&sites)?;
    gateway.terminate("site")?;

    // A peer that proves itself with a signature is not what was agreed on, and neither is one that wants us to.
    swan.reload(&theirs(&format!("auth = pubkey\n {THEIR_OWN}"), remote))?;
    let refused = gateway.initiate("site/net", SOON);
    let Err(LabError::Failed { output, .. }) = &refused else { panic!("{refused:?}") };
    assert!(output.contains("AUTH_METHOD_MISMATCH"), "{output}");
    Ok(())
}

const ASKS_RADIUS: &str =
    "[radius]\n[[radius.servers]]\naddress = \"10.77.0.2\"\nsecret = \"a secret of gateway and server\"\n\n";

/// FreeRADIUS behind gateway `a`, with a certificate for `aaa.example`, and a user.
fn radius(sites: &Sites, root: &Authority) -> Result<FreeRadius> {
    let aaa = sites.lab.host("aaa")?;
    sites.lab.link(&aaa, "eth0", &sites.a, "aaa0")?;
    aaa.address("eth0", "10.77.0.2/24")?;
    sites.a.address("aaa0", "10.77.0.1/24")?;
    root.enroll(&aaa, &rcgen::PKCS_ECDSA_P256_SHA256, "aaa.example", 3);
    FreeRadius::start(&aaa, "carol Cleartext-Password := \"violets\"\n", "a secret of gateway and server")
}

/// Our client at our gateway, which passes EAP to FreeRADIUS: that makes the client's key in its own way, by RFC 9190, and the
/// gateway has it from there.
#[test]
fn tls_1_3_makes_the_keys_that_freeradius_makes() -> Result<()> {
    let (sites, root) = enrolled("eaptls13")?;
    let server = radius(&sites, &root)?;
    let from = server.mark();
    let text = format!(
        "{ASKS_RADIUS}{}",
        ours(&format!("auth = \"pubkey\", {OWN}"), "auth = \"eap-radius\", eap_id = \"%any\"")
    );
    let _gateway = gateway(&sites.a, text)?;
    let remote = "auth = \"pubkey\", id = \"a.example\"";
    let local = "auth = \"eap-tls\", certs = \"own.pem\", id = \"b.example\", aaa_id = \"aaa.example\"";
    let client = self::gateway(&sites.b, between([2, 1], local, remote))?;
    client.initiate("site/net", SOON)?;
    server.wait_log(from, "recv TLS 1.3 Handshake, Finished", SOON)?;
    carries_traffic(&sites)?;
    client.terminate("site")?;

    // EAP-TTLS has another key and another end, and challenges come from TLS.
    for inner in ["eap-mschapv2", "mschapv2", "mschap", "chap", "pap"] {
        let local = format!(
            "auth = \"eap-ttls\", eap_inner = \"{inner}\", eap_id = \"carol\", id = \"b.example\", aaa_id = \"aaa.example\""
        );
        let text = |password| between([2, 1], &local, remote) + &USERS.replace("violets", password);
        client.reload(&GatewayConfig::new(text("violets")), &[])?;
        client.initiate("site/net", SOON)?;
        client.terminate("site")?;
        client.reload(&GatewayConfig::new(text("roses")), &[])?;
        let refused = client.initiate("site/net", SOON);
        let Err(LabError::Failed { output, .. }) = &refused else { panic!("{inner}: {refused:?}") };
        assert!(output.contains("EAP_REFUSED"), "{inner}: {output}");
    }
    Ok(())
}

const PYTHON: &str = concat!(include_str!("peers/ikev2.py"), "\n", include_str!("peers/eapol.py"));

#[test]
fn whatever_wpa_supplicant_carries_inside_tls_lets_it_in() -> Result<()> {
    let (sites, _root) = enrolled("ttlseapol")?;
    let local = format!("auth = \"eap-ttls\", eap_id = \"carol\", {OWN}");
    let text = ours(&local, "auth = \"eap-ttls\", eap_id = \"%any\"");
    let gateway = gateway(&sites.a, text + USERS)?;
    let begin = |inner: &str, disabled: u8, password: &str| {
        let with = json!({
            "local": "192.0.2.2", "remote": "192.0.2.1", "us": "b.example", "them": "a.example", "user": "carol",
            "password": password, "phase1": format!("tls_disable_tlsv1_3={disabled}"), "phase2": inner,
        });
        Scapy::start(&sites.b, PYTHON)?.call("begin_by_eapol", &with)
    };
    let inner = ["auth=PAP", "auth=CHAP", "auth=MSCHAP", "auth=MSCHAPV2", "autheap=MSCHAPV2"];
    for inner in inner {
        let refused = begin(inner, 0, "roses")?;
        assert_eq!(refused["up"], false, "{inner}");
        let said = failure(&gateway)?;
        assert!(said.starts_with("EAP_WRONG_PASSWORD"), "{inner}: {said}");
        for (disabled, version) in [(1, "TLSv1.2"), (0, "TLSv1.3")] {
            assert_eq!(begin(inner, disabled, "violets")?, json!({ "up": true, "tls": version }), "{inner}");
        }
    }
    assert!(gateway.sas()?.iter().all(|sa| sa.eap_id.as_deref() == Some("carol")));
    Ok(())
}

/// FreeRADIUS proves our gateway to strongSwan, which takes no signature of ours (RFC 5998), and knows that the two belong
/// together by EAP's key alone.
#[test]
fn a_radius_server_that_runs_eap_tls_proves_our_gateway_as_well() -> Result<()> {
    let (sites, root) = enrolled("eaponlyaaa")?;
    let _server = radius(&sites, &root)?;
    let text = format!(
        "{ASKS_RADIUS}{}",
        ours("auth = \"eap-radius\", id = \"a.example\"", "auth = \"eap-radius\", eap_id = \"%any\"")
    );
    let gateway = gateway(&sites.a, text)?;
    let local = format!("auth = eap-tls\n aaa_id = aaa.example\n {THEIR_OWN}");
    let swan = StrongSwan::start(&sites.b, &theirs(&local, "auth = eap-tls\n id = a.example"))?;
    swan.initiate("net", SOON)?;
    carries_traffic(&sites)?;
    assert_eq!(gateway.sas()?[0].eap_id.as_deref(), Some("b.example"));
    Ok(())
}

const USERS: &str = "\n[secrets.eap-carol]\nid = \"carol\"\nsecret = \"violets\"\n";

fn their_user(password: &str) -> String {
    format!("secrets {{\n eap-carol {{\n id = carol\n secret = \"{password}\"\n }}\n}}\n")
}

/// strongSwan asks for EAP-MD5 inside unless it is told otherwise.
const INSIDE: &str = "plugins {\n eap-ttls {\n phase2_method = mschapv2\n }\n }";

#[test]
fn a_password_inside_tls_lets_strongswan_in() -> Result<()> {
    let (sites, _root) = enrolled("ttlsgw")?;
    let remote = "auth = \"eap-ttls\", eap_id = \"%any\"";
    let gateway = gateway(&sites.a, ours(&format!("auth = \"pubkey\", {OWN}"), remote) + USERS)?;
    let client = theirs(
        "auth = eap-ttls\n eap_id = carol\n id = b.example",
        "auth = pubkey\n id = a.example\n cacerts = root.pem",
    );
    let swan = StrongSwan::start(&sites.b, &format!("{client}{}", their_user("violets")))?;
    swan.initiate("net", SOON)?;
    carries_traffic(&sites)?;
    assert_eq!(gateway.sas()?[0].eap_id.as_deref(), Some("carol"));
    swan.terminate("site")?;
    swan.reload(&format!("{client}{}", their_user("roses")))?;
    let refused = swan.initiate("net", SOON);
    assert!(matches!(&refused, Err(LabError::Failed { .. })), "{refused:?}");
    let said = failure(&gateway)?;
    assert!(said.starts_with("EAP_WRONG_PASSWORD"), "{said}");
    Ok(())
}

#[test]
fn a_password_inside_tls_lets_us_in_at_strongswan() -> Result<()> {
    let (sites, _root) = enrolled("ttlsclient")?;
    let local = "auth = \"eap-ttls\", eap_id = \"carol\", id = \"a.example\"";
    let remote = "auth = \"pubkey\", id = \"b.example\"";
    let gateway = gateway(&sites.a, ours(local, remote) + USERS)?;
    let server = theirs(&format!("auth = pubkey\n {THEIR_OWN}"), "auth = eap-ttls\n eap_id = %any");
    let swan = StrongSwan::start_with(&sites.b, &format!("{server}{}", their_user("violets")), INSIDE)?;
    gateway.initiate("site/net", SOON)?;
    carries_traffic(&sites)?;
    gateway.terminate("site")?;
    swan.reload(&format!("{server}{}", their_user("roses")))?;
    let refused = gateway.initiate("site/net", SOON);
    let Err(LabError::Failed { output, .. }) = &refused else { panic!("{refused:?}") };
    assert!(output.contains("EAP_REFUSED"), "{output}");
    Ok(())
}
