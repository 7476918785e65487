//! EAP against strongSwan: its clients at our gateway, and we as a client at its. The gateway proves itself with a
//! certificate.

#![expect(clippy::unwrap_used, reason = "without its certificates there is nothing to try")]

mod authority;

use std::path::Path;
use std::time::Duration;

use authority::Authority;
use portcullis_lab::{Gateway, GatewayConfig, Host, LabError, Result, Sites, StrongSwan};

const SOON: Duration = Duration::from_secs(40);

/// Both sites under one CA, with a certificate for each.
fn enrolled(name: &str) -> Result<Sites> {
    let (sites, root) = (Sites::new(name)?, Authority::root());
    root.enroll(&sites.a, &rcgen::PKCS_ECDSA_P256_SHA256, "a.example", 1);
    root.enroll(&sites.b, &rcgen::PKCS_ECDSA_P256_SHA256, "b.example", 2);
    Ok(sites)
}

fn gateway(host: &Host, connections: String) -> Result<Gateway> {
    Gateway::start(host, Path::new(env!("CARGO_BIN_EXE_portcullis")), &GatewayConfig::new(connections))
}

/// Our side of the connection, with what `local` and `remote` say and passwords.
fn ours(local: &str, remote: &str, secrets: &str) -> String {
    format!(
        "[connections.site]\nlocal_addrs = \"192.0.2.1\"\nremote_addrs = \"192.0.2.2\"\n\
         local = {{ {local} }}\nremote = {{ {remote} }}\n\n\
         [connections.site.children.net]\nlocal_ts = \"10.1.0.0/16\"\nremote_ts = \"10.2.0.0/16\"\n\n{secrets}\n"
    )
}

/// strongSwan's side.
fn theirs(local: &str, remote: &str, secrets: &str) -> String {
    format!(
        "connections {{\n site {{\n local_addrs = 192.0.2.2\n remote_addrs = 192.0.2.1\n local {{\n {local}\n }}\n \
         remote {{\n {remote}\n }}\n children {{\n net {{\n local_ts = 10.2.0.0/16\n remote_ts = 10.1.0.0/16\n \
         esp_proposals = aes256gcm16\n }}\n }}\n }}\n}}\nsecrets {{\n {secrets}\n}}\n"
    )
}

const OWN: &str = "auth = \"pubkey\", certs = \"own.pem\", id = \"a.example\"";
const USERS: &str = "[secrets.eap-carol]\nid = \"carol\"\nsecret = \"Zürich violets\"\n";

fn client(password: &str) -> String {
    let secret = format!("eap-carol {{\n id = carol\n secret = \"{password}\"\n }}");
    theirs(
        "auth = eap\n eap_id = carol\n id = b.example",
        "auth = pubkey\n id = a.example\n cacerts = root.pem",
        &secret,
    )
}

fn carries_traffic(sites: &Sites) -> Result<()> {
    let ping = sites.client.ping(Sites::SERVER, 5)?;
    assert!(ping.complete(), "{ping:?}");
    Ok(())
}

/// The gateway's only failure.
fn failure(gateway: &Gateway) -> Result<String> {
    let verdict = gateway.status()?.verdicts.into_iter().next().unwrap();
    Ok(format!("{}: {}", verdict.reason, verdict.sentence))
}

#[test]
fn a_user_of_strongswans_is_let_in_by_his_password() -> Result<()> {
    let sites = enrolled("eapgw")?;
    let gateway = gateway(&sites.a, ours(OWN, "auth = \"eap-mschapv2\", eap_id = \"%any\"", USERS))?;
    let swan = StrongSwan::start(&sites.b, &client("Zürich violets"))?;
    swan.initiate("net", SOON)?;
    carries_traffic(&sites)?;
    let sas = gateway.sas()?;
    assert_eq!((sas.len(), sas[0].eap_id.as_deref()), (1, Some("carol")));
    assert_eq!(sas[0].remote_id.as_deref(), Some("b.example"));
    swan.terminate("site")?;

    swan.reload(&client("roses"))?;
    let refused = swan.initiate("net", SOON);
    assert!(matches!(&refused, Err(LabError::Failed { .. })), "{refused:?}");
    let said = failure(&gateway)?;
    assert!(said.starts_with("EAP_WRONG_PASSWORD") && said.contains("`carol`"), "{said}");
    assert_eq!(sites.client.ping(Sites::SERVER, 1)?.received, 0);

    // A client that wants another method says which.
    swan.reload(&client("Zürich violets").replace("auth = eap\n", "auth = eap-tls\n certs = own.pem\n"))?;
    let refused = swan.initiate("net", SOON);
    assert!(matches!(&refused, Err(LabError::Failed { .. })), "{refused:?}");
    let said = failure(&gateway)?;
    assert!(said.starts_with("EAP_METHOD_MISMATCH") && said.contains("but EAP-TLS"), "{said}");
    Ok(())
}

#[test]
fn we_are_let_in_by_strongswan_with_a_password() -> Result<()> {
    let sites = enrolled("eapclient")?;
    let remote = "auth = \"pubkey\", id = \"b.example\"";
    let gateway = gateway(
        &sites.a,
        ours("auth = \"eap-mschapv2\", eap_id = \"carol\", id = \"a.example\"", remote, USERS),
    )?;
    let server = |password: &str| {
        let secret = format!("eap-carol {{\n id = carol\n secret = \"{password}\"\n }}");
        theirs(
            "auth = pubkey\n certs = own.pem\n id = b.example",
            "auth = eap-mschapv2\n eap_id = %any",
            &secret,
        )
    };
    let swan = StrongSwan::start(&sites.b, &server("roses"))?;
    let refused = gateway.initiate("site/net", SOON);
    assert!(
        matches!(&refused, Err(LabError::Failed { output, .. }) if output.contains("EAP_REFUSED")),
        "{refused:?}"
    );
    swan.reload(&server("Zürich violets"))?;
    gateway.initiate("site/net", SOON)?;
    carries_traffic(&sites)
}

const PPK: &str = "0x00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A post-quantum pre-shared key (RFC 8784) beside EAP, at strongSwan's gateway and for its client: required by both ends.
#[test]
fn a_post_quantum_pre_shared_key_is_mixed_in_beside_eap_whoever_is_the_user() -> Result<()> {
    let sites = enrolled("eapppk")?;
    let required = "[connections.site]\nppk_id = \"lab\"\nppk_required = true";
    let with = |text: String, secret: &str| {
        let key = format!("[secrets.ppk-lab]\nids = [\"lab\"]\nsecret = \"{secret}\"\n");
        text.replacen("[connections.site]", required, 1) + &key
    };
    let swans = |text: String| {
        let text = text.replacen("site {\n", "site {\n ppk_id = lab\n ppk_required = yes\n", 1);
        text.replacen(
            "secrets {\n",
            &format!("secrets {{\n ppk-lab {{\n id = lab\n secret = {PPK}\n }}\n"),
            1,
        )
    };
    let asks = || ours(OWN, "auth = \"eap-mschapv2\", eap_id = \"%any\"", USERS);
    let ours_as_gateway = gateway(&sites.a, with(asks(), PPK))?;
    let swan = StrongSwan::start(&sites.b, &swans(client("Zürich violets")))?;
    let mark = swan.mark();
    swan.initiate("net", SOON)?;
    swan.wait_log(mark, "using PPK for PPK_ID 'lab'", SOON)?;
    carries_traffic(&sites)?;
    swan.terminate("site")?;
    ours_as_gateway.reload(&GatewayConfig::new(with(asks(), &PPK.replace("ff", "fe"))), &[])?;
    let refused = swan.initiate("net", SOON);
    assert!(matches!(&refused, Err(LabError::Failed { .. })), "{refused:?}");
    let said = failure(&ours_as_gateway)?;
    assert!(said.starts_with("PPK_MISMATCH") && said.contains("`carol`"), "{said}");
    drop((swan, ours_as_gateway));

    let secret = "eap-carol {\n id = carol\n secret = \"Zürich violets\"\n }";
    let server = theirs(
        "auth = pubkey\n certs = own.pem\n id = b.example",
        "auth = eap-mschapv2\n eap_id = %any",
        secret,
    );
    let swan = StrongSwan::start(&sites.b, &swans(server))?;
    let remote = "auth = \"pubkey\", id = \"b.example\"";
    let user = ours("auth = \"eap-mschapv2\", eap_id = \"carol\", id = \"a.example\"", remote, USERS);
    let ours_as_user = gateway(&sites.a, with(user, PPK))?;
    let mark = swan.mark();
    ours_as_user.initiate("site/net", SOON)?;
    swan.wait_log(mark, "using PPK for PPK_ID 'lab'", SOON)?;
    carries_traffic(&sites)
}
