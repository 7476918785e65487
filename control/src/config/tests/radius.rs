//! `[radius]`.

use std::time::Duration;

use portcullis_ike::auth::eap::ServerMethod;
use portcullis_ike::config::RemoteMethod;

use super::*;

const RADIUS: &str = r#"
[radius]
nas_identifier = "vpn1"
accounting = true
accounting_interval = "5m"
[[radius.servers]]
address = "10.0.0.5"
secret = "a secret that is long enough"
[[radius.servers]]
name = "second"
address = "2001:db8::5"
auth_port = 1645
acct_port = 1646
secret = "a secret that is long enough"
[radius.dae]
listen = "10.0.0.1"
secret = "a secret that is long enough"
"#;

/// The whole configuration, with `[radius]` and a connection that needs it.
fn text(radius: &str) -> String {
    let whole = with("remote = { auth = \"psk\", id = \"b.example\" }", "remote = { auth = \"eap-radius\" }");
    format!("{}{radius}", whole.replace("\"trap\"", "\"none\""))
}

#[test]
fn servers_and_what_they_may_ask_are_read() {
    let (config, _) = parse(&text(RADIUS)).unwrap();
    let expected =
        RemoteMethod::Eap { method: ServerMethod::Aaa, eap_id: None, trust: std::sync::Arc::default() };
    assert_eq!(config.engine.connections[0].remote[0].auth, expected);
    let radius = config.radius.unwrap();
    let ports: Vec<_> = radius.servers.iter().map(|server| (server.auth_port, server.acct_port)).collect();
    assert_eq!(ports, [(1812, 1813), (1645, 1646)]);
    let names: Vec<_> = radius.servers.iter().map(|server| server.name.as_str()).collect();
    assert_eq!(names, ["1", "second"]);
    assert_eq!((radius.accounting, radius.accounting_interval), (true, Duration::from_secs(300)));
    assert_eq!(radius.dae.unwrap().listen, "10.0.0.1:3799".parse().unwrap());
    assert!(!format!("{:?}", radius.servers).contains("long enough"));
}

#[test]
fn what_is_missing_or_wrong_is_said_with_its_place() {
    let without = |line: &str| {
        assert!(RADIUS.contains(line), "{line}");
        text(&RADIUS.replacen(line, "", 1))
    };
    let cases = [
        (text(""), "asks a RADIUS server, but there is none"),
        (text("[radius]\n"), "`servers` is missing"),
        (without("address = \"10.0.0.5\"\n"), "radius.servers: `address` is missing"),
        (without("secret = \"a secret that is long enough\"\n"), "radius.servers: `secret` is missing"),
        (text(&RADIUS.replace("\"5m\"", "\"5s\"")), "radius.accounting_interval: is shorter"),
        (text(&RADIUS.replace("auth_port = 1645", "auth_port = 0")), "radius.servers.auth_port: is 0"),
        (
            text(&RADIUS.replace("[radius.dae]", "[radius.dae]\nenable = true")),
            "is an option of swanctl.conf",
        ),
    ];
    for (text, said) in cases {
        let errors = errors(&text);
        assert!(errors.iter().any(|error| error.contains(said)), "{said}: {errors:#?}");
    }
}

#[test]
fn a_short_secret_is_a_warning_here_too() {
    let (_, findings) = parse(&text(&RADIUS.replacen("a secret that is long enough", "short", 1))).unwrap();
    assert!(findings.iter().any(|finding| finding.to_string().contains("has 5 octets")), "{findings:?}");
}
