//! Several rounds of authentication (RFC 4739) against strongSwan: a device's certificate and then its user, and two
//! identities of both ends, whoever begins.

mod authority;

use std::path::Path;
use std::time::Duration;

use authority::Authority;
use portcullis_lab::{Gateway, GatewayConfig, Host, LabError, Result, Sites, StrongSwan};

const SOON: Duration = Duration::from_secs(40);

fn enrolled(name: &str) -> Result<Sites> {
    let (sites, root) = (Sites::new(name)?, Authority::root());
    root.enroll(&sites.a, &rcgen::PKCS_ECDSA_P256_SHA256, "a.example", 1);
    root.enroll(&sites.b, &rcgen::PKCS_ECDSA_P256_SHA256, "b.example", 2);
    Ok(sites)
}

fn gateway(host: &Host, local: &str, remote: &str, secrets: &str) -> Result<Gateway> {
    let text = format!(
        "[connections.site]\nlocal_addrs = \"192.0.2.1\"\nremote_addrs = \"192.0.2.2\"\n\
         local = [{local}]\nremote = [{remote}]\n\n\
         [connections.site.children.net]\nlocal_ts = \"10.1.0.0/16\"\nremote_ts = \"10.2.0.0/16\"\n\n{secrets}"
    );
    Gateway::start(host, Path::new(env!("CARGO_BIN_EXE_portcullis")), &GatewayConfig::new(text))
}

/// strongSwan's side; each of `rounds` is a section.
fn theirs(rounds: &str, secrets: &str) -> String {
    format!(
        "connections {{\n site {{\n local_addrs = 192.0.2.2\n remote_addrs = 192.0.2.1\n {rounds}\n children {{\n \
         net {{\n local_ts = 10.2.0.0/16\n remote_ts = 10.1.0.0/16\n esp_proposals = aes256gcm16\n }}\n }}\n }}\n}}\n\
         secrets {{\n {secrets}\n}}\n"
    )
}

const OWN: &str = "{ auth = \"pubkey\", certs = \"own.pem\", id = \"a.example\" }";
const PEER: &str = "{ auth = \"pubkey\", id = \"b.example\", cacerts = \"root.pem\" }";
const USERS: &str = "[secrets.eap-carol]\nid = \"carol\"\nsecret = \"violets\"\n";

fn carries_traffic(sites: &Sites) -> Result<()> {
    let ping = sites.client.ping(Sites::SERVER, 5)?;
    assert!(ping.complete(), "{ping:?}");
    Ok(())
}

fn carol(password: &str) -> String {
    format!("eap-carol {{\n id = carol\n secret = \"{password}\"\n }}")
}

#[test]
fn a_device_of_strongswans_proves_itself_and_then_its_user_does() -> Result<()> {
    let sites = enrolled("roundsgw")?;
    let user = "{ auth = \"eap-mschapv2\", eap_id = \"%any\" }";
    let gateway = gateway(&sites.a, OWN, &format!("{PEER}, {user}"), USERS)?;
    let rounds = "local-1 {\n auth = pubkey\n certs = own.pem\n id = b.example\n }\n \
                  local-2 {\n auth = eap\n id = carol\n eap_id = carol\n }\n \
                  remote {\n auth = pubkey\n id = a.example\n }";
    let swan = StrongSwan::start(&sites.b, &theirs(rounds, &carol("violets")))?;
    swan.initiate("net", SOON)?;
    carries_traffic(&sites)?;
    let sas = gateway.sas()?;
    assert_eq!((sas[0].remote_id.as_deref(), sas[0].eap_id.as_deref()), (Some("b.example"), Some("carol")));
    swan.terminate("site")?;

    swan.reload(&theirs(rounds, &carol("roses")))?;
    let refused = swan.initiate("net", SOON);
    assert!(matches!(&refused, Err(LabError::Failed { .. })), "{refused:?}");
    assert_eq!(gateway.status()?.verdicts.into_iter().next().unwrap().reason, "EAP_WRONG_PASSWORD");
    // The certificate alone is not enough.
    let alone = rounds.replace("local-2 {\n auth = eap\n id = carol\n eap_id = carol\n }\n ", "");
    swan.reload(&theirs(&alone, &carol("violets")))?;
    let refused = swan.initiate("net", SOON);
    assert!(matches!(&refused, Err(LabError::Failed { .. })), "{refused:?}");
    assert_eq!(gateway.status()?.verdicts.into_iter().next().unwrap().reason, "AUTH_METHOD_MISMATCH");
    Ok(())
}

#[test]
fn our_device_proves_itself_at_strongswan_and_then_its_user_does() -> Result<()> {
    let sites = enrolled("roundsclient")?;
    let user = "{ auth = \"eap-mschapv2\", eap_id = \"carol\", id = \"carol\" }";
    let gateway = gateway(&sites.a, &format!("{OWN}, {user}"), PEER, USERS)?;
    let rounds = "local {\n auth = pubkey\n certs = own.pem\n id = b.example\n }\n \
                  remote-1 {\n auth = pubkey\n id = a.example\n }\n \
                  remote-2 {\n auth = eap-mschapv2\n eap_id = %any\n }";
    let _swan = StrongSwan::start(&sites.b, &theirs(rounds, &carol("violets")))?;
    gateway.initiate("site/net", SOON)?;
    carries_traffic(&sites)
}

#[test]
fn both_ends_have_two_identities_whoever_begins() -> Result<()> {
    let sites = enrolled("roundsboth")?;
    let ours = "{ auth = \"psk\", id = \"a2.example\" }";
    let peers = "{ auth = \"psk\", id = \"b2.example\" }";
    let key = "a key of both ends, long enough";
    let secrets = format!("[secrets.ike]\nsecret = \"{key}\"\n");
    let gateway = gateway(&sites.a, &format!("{OWN}, {ours}"), &format!("{PEER}, {peers}"), &secrets)?;
    let rounds = "local-1 {\n auth = pubkey\n certs = own.pem\n id = b.example\n }\n \
                  local-2 {\n auth = psk\n id = b2.example\n }\n \
                  remote-1 {\n auth = pubkey\n id = a.example\n }\n \
                  remote-2 {\n auth = psk\n id = a2.example\n }";
    let swan =
        StrongSwan::start(&sites.b, &theirs(rounds, &format!("ike-both {{\n secret = \"{key}\"\n }}")))?;
    swan.initiate("net", SOON)?;
    carries_traffic(&sites)?;
    swan.terminate("site")?;
    gateway.initiate("site/net", SOON)?;
    carries_traffic(&sites)?;
    gateway.terminate("site")?;

    swan.reload(&theirs(rounds, "ike-both {\n secret = \"another key of one end\"\n }"))?;
    let refused = gateway.initiate("site/net", SOON);
    let Err(LabError::Failed { output, .. }) = &refused else { panic!("{refused:?}") };
    assert!(output.contains("AUTHENTICATION_FAILED"), "{output}");
    Ok(())
}
