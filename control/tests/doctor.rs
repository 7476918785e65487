//! `portcullis doctor` on hosts made of network namespaces.

use std::path::Path;
use std::time::Duration;

use portcullis_lab::{Gateway, GatewayConfig, Host, LabError, Result, SiteConfig, Sites};

const SOON: Duration = Duration::from_secs(30);
const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

fn config(host: &Host) -> Result<std::path::PathBuf> {
    let mut text = String::from("[gateway]\n");
    text += &format!("pin_dir = \"{}\"\n", host.pin_dir().display());
    for (name, role) in [("outside0", "outside"), ("inside0", "inside")] {
        text += &format!("[[gateway.interfaces]]\nname = \"{name}\"\nrole = \"{role}\"\n");
    }
    text += &SiteConfig::a().toml();
    let file = host.dir().join("doctor.toml");
    std::fs::write(&file, text).map_err(LabError::io("write doctor.toml"))?;
    Ok(file)
}

/// All findings, whatever the exit code.
fn findings(host: &Host) -> Result<Vec<serde_json::Value>> {
    let file = config(host)?;
    let script = format!("{BINARY} doctor --json --config {} || true", file.display());
    let text = host.run(["sh", "-c", &script])?.stdout;
    let report: serde_json::Value = serde_json::from_str(&text).map_err(|error| LabError::Answer {
        tool: "doctor",
        reason: error.to_string(),
        answer: text.clone(),
    })?;
    Ok(report.get("findings").and_then(|found| found.as_array()).cloned().unwrap_or_default())
}

fn severity(findings: &[serde_json::Value], check: &str, subject: &str) -> Option<String> {
    let found = findings.iter().find(|found| found["check"] == check && found["subject"] == subject);
    found.and_then(|found| found["severity"].as_str().map(str::to_owned))
}

#[test]
fn a_gateway_of_the_lab_is_seen_as_it_is() -> Result<()> {
    let sites = Sites::new("doctor")?;
    let found = findings(&sites.a)?;
    let is = |check: &str, subject: &str| severity(&found, check, subject).unwrap_or_default();
    for name in ["outside0", "inside0"] {
        assert_eq!(is("interface", name), "ok", "{found:#?}");
        assert_eq!(is("driver", name), "ok", "veth has native XDP: {found:#?}");
        assert_eq!(is("queues", name), "ok", "{found:#?}");
        assert_eq!(is("offloads", name), "ok", "the lab switches them off: {found:#?}");
    }
    assert_eq!(is("forwarding", ""), "ok");
    assert_eq!(is("rp_filter", ""), "ok");
    assert_eq!(is("mtu", "outside0"), "info");
    assert_eq!(is("ports", "UDP 500"), "ok");
    assert_eq!(is("bpffs", ""), "ok");
    Ok(())
}

#[test]
fn what_is_broken_on_a_host_is_found_and_its_fix_works() -> Result<()> {
    let sites = Sites::new("doctor-fix")?;
    let host = &sites.a;
    host.ip("link set inside0 down")?;
    host.run(["ethtool", "-K", "outside0", "tx", "on"])?;
    host.sysctl("net.ipv4.ip_forward", "0")?;
    host.sysctl("net.ipv4.conf.outside0.rp_filter", "1")?;
    let broken = [
        ("interface", "inside0", "error"),
        ("offloads", "outside0", "warning"),
        ("forwarding", "", "warning"),
        ("rp_filter", "outside0", "warning"),
    ];
    let found = findings(host)?;
    for (check, subject, expected) in broken {
        assert_eq!(severity(&found, check, subject).as_deref(), Some(expected), "{check}: {found:#?}");
        let fix = found.iter().find(|found| found["check"] == check && found["subject"] == subject);
        let fix = fix.and_then(|found| found["fix"].as_str()).unwrap_or_default();
        // As printed, run by a shell.
        host.run(["sh", "-c", fix])?;
    }
    let found = findings(host)?;
    for (check, subject, _) in broken.into_iter().filter(|(check, ..)| *check != "rp_filter") {
        assert_eq!(severity(&found, check, subject).as_deref(), Some("ok"), "{check}: {found:#?}");
    }
    assert_eq!(severity(&found, "rp_filter", "").as_deref(), Some("ok"), "{found:#?}");
    Ok(())
}

#[test]
fn our_own_daemon_may_hold_the_ports_and_another_may_not() -> Result<()> {
    let sites = Sites::new("doctor-port")?;
    let gateway = Gateway::start(&sites.a, Path::new(BINARY), &GatewayConfig::new(SiteConfig::a().toml()))?;
    let found = findings(&sites.a)?;
    assert_eq!(severity(&found, "ports", "UDP 4500").as_deref(), Some("ok"), "{found:#?}");
    drop(gateway);
    let python = "import signal, socket; s = socket.socket(2, 2); s.bind(('', 500)); print('bound', flush=True); \
                  signal.pause()";
    let squatter = sites.b.spawn_words(["python3", "-c", python])?;
    squatter.wait_line("bound", SOON)?;
    let found = findings(&sites.b)?;
    let squatted = found.iter().find(|found| found["subject"] == "UDP 500");
    let seen = squatted.and_then(|found| found["seen"].as_str()).unwrap_or_default();
    assert!(seen.contains("taken by python3"), "{found:#?}");
    Ok(())
}

#[test]
fn the_exit_code_says_whether_there_are_errors() -> Result<()> {
    let sites = Sites::new("doctor-exit")?;
    let host = &sites.a;
    let file = config(host)?.display().to_string();
    host.run([BINARY, "doctor", "--config", &file])?;
    host.ip("link set inside0 down")?;
    match host.run([BINARY, "doctor", "--config", &file]) {
        Err(LabError::Failed { status, .. }) => assert_eq!(status.code(), Some(1)),
        other => assert!(other.is_err(), "an interface that is down is an error: {other:?}"),
    }
    match host.run([BINARY, "doctor", "--config", "/nonexistent/portcullis.toml"]) {
        Err(LabError::Failed { status, .. }) => assert_eq!(status.code(), Some(1)),
        other => assert!(other.is_err(), "no configuration is an error: {other:?}"),
    }
    Ok(())
}
