//! EAP with users of a RADIUS server: strongSwan's client, our gateway, FreeRADIUS behind it.

#![expect(clippy::unwrap_used, reason = "without its certificates there is nothing to try")]

mod authority;

use std::path::Path;
use std::time::{Duration, Instant};

use authority::Authority;
use portcullis_lab::{FreeRadius, Gateway, GatewayConfig, Host, LabError, Result, Sites, StrongSwan};

const SOON: Duration = Duration::from_secs(40);
const SECRET: &str = "a secret of gateway and server";
const USERS: &str = "carol Cleartext-Password := \"violets\"
 User-Name = \"Carol of Accounting\",
 Framed-IP-Address = 10.9.0.7,
 Filter-Id = \"staff\",
 Class = \"opaque\",
 Acct-Interim-Interval = 1
";

/// Our gateway, and strongSwan's client, with a RADIUS server on a network of its own.
struct Trial {
    sites: Sites,
    aaa: Host,
}

impl Trial {
    fn new(name: &str) -> Result<Self> {
        let (sites, root) = (Sites::new(name)?, Authority::root());
        root.enroll(&sites.a, &rcgen::PKCS_ECDSA_P256_SHA256, "a.example", 1);
        root.enroll(&sites.b, &rcgen::PKCS_ECDSA_P256_SHA256, "b.example", 2);
        let aaa = sites.lab.host("aaa")?;
        sites.lab.link(&aaa, "eth0", &sites.a, "aaa0")?;
        aaa.address("eth0", "10.77.0.2/24")?;
        sites.a.address("aaa0", "10.77.0.1/24")?;
        Ok(Self { sites, aaa })
    }

    fn gateway(&self, secret: &str, more: &str) -> Result<Gateway> {
        Gateway::start(&self.sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config(secret, more))
    }

    fn client(&self, password: &str) -> Result<StrongSwan> {
        StrongSwan::start(&self.sites.b, &client(password))
    }

    fn carries_traffic(&self) -> Result<()> {
        let ping = self.sites.client.ping(Sites::SERVER, 5)?;
        assert!(ping.complete(), "{ping:?}");
        Ok(())
    }
}

/// Whoever shares `secret` with the servers.
fn config(secret: &str, more: &str) -> GatewayConfig {
    // The first server is one that is not there.
    let text = format!(
        "[radius]\nnas_identifier = \"vpn1\"\naccounting = true\nretransmit_timeout = \"200ms\"\n\
             retransmit_tries = 3\n{more}\n\
             [[radius.servers]]\nname = \"gone\"\naddress = \"10.77.0.9\"\nsecret = \"{secret}\"\n\
             [[radius.servers]]\nname = \"main\"\naddress = \"10.77.0.2\"\nsecret = \"{secret}\"\n\
             [radius.dae]\nlisten = \"10.77.0.1\"\nsecret = \"{SECRET}\"\n\n\
             [connections.site]\nlocal_addrs = \"192.0.2.1\"\nremote_addrs = \"192.0.2.2\"\n\
             local = {{ auth = \"pubkey\", certs = \"own.pem\", id = \"a.example\" }}\n\
             remote = {{ auth = \"eap-radius\", eap_id = \"%any\" }}\n\n\
             [connections.site.children.net]\nlocal_ts = \"10.1.0.0/16\"\nremote_ts = \"10.2.0.0/16\"\n"
    );
    GatewayConfig::new(text)
}

fn client(password: &str) -> String {
    format!(
        "connections {{\n site {{\n local_addrs = 192.0.2.2\n remote_addrs = 192.0.2.1\n \
         local {{\n auth = eap\n eap_id = carol\n id = b.example\n }}\n \
         remote {{\n auth = pubkey\n id = a.example\n cacerts = root.pem\n }}\n \
         children {{\n net {{\n local_ts = 10.2.0.0/16\n remote_ts = 10.1.0.0/16\n esp_proposals = aes256gcm16\n }}\n }}\n \
         }}\n}}\nsecrets {{\n eap-carol {{\n id = carol\n secret = \"{password}\"\n }}\n}}\n"
    )
}

fn failure(gateway: &Gateway) -> Result<String> {
    let verdict = gateway.status()?.verdicts.into_iter().next().unwrap();
    Ok(format!("{}: {}", verdict.reason, verdict.sentence))
}

/// Waits for a report of the server's that has all of these lines.
fn reported(server: &FreeRadius, lines: &[&str]) -> Result<String> {
    let deadline = Instant::now() + SOON;
    loop {
        let reports = server.reports()?;
        let found = reports.split("\n\n").find(|report| lines.iter().all(|line| report.contains(line)));
        if let Some(report) = found {
            return Ok(report.to_owned());
        }
        assert!(Instant::now() < deadline, "no report has {lines:?}:\n{reports}");
    }
}

#[test]
fn a_user_of_freeradius_is_let_in_accounted_for_and_put_out() -> Result<()> {
    let trial = Trial::new("radius")?;
    let server = FreeRadius::start(&trial.aaa, USERS, SECRET)?;
    let gateway = trial.gateway(SECRET, "")?;
    let swan = trial.client("violets")?;
    let events = gateway.events(&[])?;
    swan.initiate("net", SOON)?;
    trial.carries_traffic()?;
    let up = events.wait_line("\"event\":\"ike_up\"", SOON)?;
    assert!(up.contains("\"auth\":\"eap-radius\"") && up.contains("Carol of Accounting"), "{up}");
    let sas = gateway.sas()?;
    assert_eq!(sas[0].eap_id.as_deref(), Some("Carol of Accounting"));
    assert_eq!(sas[0].groups, ["staff"]);

    let common =
        ["User-Name = \"Carol of Accounting\"", "Class = 0x6f7061717565", "NAS-Identifier = \"vpn1\""];
    let start = reported(&server, &[&common[..], &["Acct-Status-Type = Start"]].concat())?;
    for line in ["Calling-Station-Id = \"192.0.2.2\"", "Framed-IP-Address = 10.9.0.7"] {
        assert!(start.contains(line), "{start}");
    }
    // Five packets of 84 octets each way.
    let carried = ["Acct-Input-Octets = 420", "Acct-Output-Octets = 420", "Acct-Input-Packets = 5"];
    reported(&server, &[&carried[..], &["Acct-Status-Type = Interim-Update"]].concat())?;

    // The server ends the session.
    let session = start.lines().find_map(|line| line.trim().strip_prefix("Acct-Session-Id = ")).unwrap();
    let ask = |attributes: &str| {
        let command = format!("echo '{attributes}' | radclient -x 10.77.0.1:3799 disconnect '{SECRET}'");
        trial.aaa.run(["sh", "-c", &command])
    };
    let unknown = ask("Acct-Session-Id = \"nobody\"");
    assert!(
        matches!(&unknown, Err(LabError::Failed { output, .. }) if output.contains("Session-Context-Not-Found")),
        "{unknown:?}"
    );
    assert!(ask(&format!("Acct-Session-Id = {session}"))?.stdout.contains("Disconnect-ACK"));
    gateway.wait_sas("the session ends", SOON, <[_]>::is_empty)?;
    let told = events.wait_line("\"action\":\"disconnect\"", SOON)?;
    assert!(told.contains("\"event\":\"aaa\"") && told.contains(session.trim_matches('"')), "{told}");
    reported(&server, &[&common[..], &carried[..], &["Acct-Status-Type = Stop"]].concat())?;
    assert_eq!(trial.sites.client.ping(Sites::SERVER, 1)?.received, 0);

    swan.reload(&client("roses"))?;
    let refused = swan.initiate("net", SOON);
    assert!(matches!(&refused, Err(LabError::Failed { .. })), "{refused:?}");
    let said = failure(&gateway)?;
    assert!(said.starts_with("AAA_REFUSED") && said.contains("`carol`"), "{said}");
    Ok(())
}

#[test]
fn a_server_that_does_not_share_our_secret_is_named() -> Result<()> {
    let trial = Trial::new("radiussecret")?;
    let _server = FreeRadius::start(&trial.aaa, USERS, "another secret")?;
    let gateway = trial.gateway(SECRET, "")?;
    let swan = trial.client("violets")?;
    let refused = swan.initiate("net", SOON);
    assert!(matches!(&refused, Err(LabError::Failed { .. })), "{refused:?}");
    let said = failure(&gateway)?;
    assert!(said.starts_with("AAA_UNREACHABLE"), "{said}");
    for word in ["`gone` at 10.77.0.9:1812", "`main` at 10.77.0.2:1812 did not answer"] {
        assert!(said.contains(word), "{said}");
    }
    Ok(())
}

#[test]
fn another_secret_counts_from_the_next_question_on_ours_and_theirs() -> Result<()> {
    let trial = Trial::new("radiusreload")?;
    let server = FreeRadius::start(&trial.aaa, USERS, SECRET)?;
    let gateway = trial.gateway("mistyped", "")?;
    let swan = trial.client("violets")?;
    let refused = swan.initiate("net", SOON);
    assert!(matches!(&refused, Err(LabError::Failed { .. })), "{refused:?}");
    assert!(failure(&gateway)?.starts_with("AAA_UNREACHABLE"));

    let said = gateway.reload(&config(SECRET, "accounting_interval = 60"), &["--dry-run"])?.stdout;
    let expected = "radius: changed; it counts from the next question and the next session\n";
    assert!(said.contains(expected) && said.contains("radius.servers[1].secret: … → …"), "{said}");
    assert!(!said.contains(SECRET), "{said}");
    gateway.reload(&config(SECRET, "accounting_interval = 60"), &[])?;
    swan.initiate("net", SOON)?;
    trial.carries_traffic()?;
    reported(&server, &["Acct-Status-Type = Start"])?;

    // The session outlives another change; its server puts it out with the secret, at the address, of the newest one.
    let moved = config(SECRET, "").connections.replace(
        &format!("listen = \"10.77.0.1\"\nsecret = \"{SECRET}\""),
        "listen = \"10.77.0.1\"\nport = 3800\nsecret = \"newest secret of them all\"",
    );
    let said = gateway.reload(&GatewayConfig::new(moved), &[])?.stdout;
    assert!(said.contains("radius.dae.port: (new) 3800"), "{said}");
    trial.carries_traffic()?;
    let ask = |port: u16, secret: &str| {
        let command = format!(
            "echo 'User-Name = \"Carol of Accounting\"' | radclient -r 1 -t 1 10.77.0.1:{port} disconnect '{secret}'"
        );
        trial.aaa.run(["sh", "-c", &command])
    };
    assert!(ask(3799, SECRET).is_err() && ask(3800, SECRET).is_err());
    assert_eq!(gateway.sas()?.len(), 1);
    ask(3800, "newest secret of them all")?;
    gateway.wait_sas("the session ends", SOON, <[_]>::is_empty)?;
    reported(&server, &["Acct-Status-Type = Stop"])?;
    Ok(())
}

#[test]
fn a_session_ends_when_it_is_over_or_idle_for_too_long() -> Result<()> {
    let trial = Trial::new("radiusend")?;
    let gateway = trial.gateway(SECRET, "")?;
    let swan = trial.client("violets")?;
    for (attribute, seconds) in [("Session-Timeout", 3), ("Idle-Timeout", 2)] {
        let users = format!("carol Cleartext-Password := \"violets\"\n {attribute} = {seconds}\n");
        let _server = FreeRadius::start(&trial.aaa, &users, SECRET)?;
        swan.initiate("net", SOON)?;
        gateway.wait_sas("the session ends", SOON, <[_]>::is_empty)?;
    }
    Ok(())
}
