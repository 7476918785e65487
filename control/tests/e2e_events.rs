//! What `portcullis events` tells, and the audit trail keeps, of a strongSwan that comes, is rekeyed, goes, and is refused.

#![expect(clippy::unwrap_used, reason = "an event without its fields is what the test looks for")]

mod authority;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use authority::Authority;
use portcullis_lab::{Gateway, GatewayConfig, LabError, Mark, Process, Result, Sites, StrongSwan};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

fn ours(remote: &str) -> GatewayConfig {
    let text = format!(
        "[connections.site]\nlocal_addrs = \"192.0.2.1\"\nremote_addrs = \"192.0.2.2\"\npools = [\"ra\"]\n\
         local = {{ auth = \"pubkey\", certs = \"own.pem\", id = \"a.example\" }}\n\
         remote = {{ auth = \"pubkey\", id = \"{remote}\" }}\n\n\
         [connections.site.children.net]\nlocal_ts = \"10.1.0.0/24\"\nesp_proposals = \"aes256gcm16\"\n\n\
         [pools.ra]\naddrs = \"10.3.0.0/28\"\n"
    );
    GatewayConfig::new(text)
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
    let config = ours("b.example");
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
    gateway.reload(&ours("c.example"), &[])?;
    let reloaded = all.wait_line("\"event\":\"reloaded\"", SOON)?;
    assert!(reloaded.contains("connections.site.remote.id"), "{reloaded}");
    assert!(matches!(swan.initiate("net", SOON), Err(LabError::Failed { .. })));
    all.wait_line("\"reason\":\"ID_UNEXPECTED\"", SOON)?;

    let nobody = gateway.portcullis(&["events", "--connection", "nope"]);
    let says = |output: &str| output.contains("no connection `nope` is configured (there are: site)");
    assert!(matches!(&nobody, Err(LabError::Failed { output, .. }) if says(output)), "{nobody:?}");
    Ok(())
}

/// The lines of an audit trail.
fn trail(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn kinds(trail: &[Value]) -> Vec<&str> {
    trail.iter().map(|line| line["audit"].as_str().unwrap()).collect()
}

/// Waits until a trail has so many lines.
fn written(path: &Path, lines: usize) -> Vec<Value> {
    let deadline = Instant::now() + SOON;
    loop {
        // What is being written has no end yet.
        let whole = fs::read_to_string(path).unwrap_or_default().ends_with('\n') || lines == 0;
        let trail = if whole && path.exists() { trail(path) } else { Vec::new() };
        if whole && path.exists() && trail.len() >= lines {
            return trail;
        }
        assert!(Instant::now() < deadline, "{trail:?}");
    }
}

#[test]
fn who_was_there_is_written_to_a_file_that_logrotate_moves_away() -> Result<()> {
    let (sites, root) = (Sites::new("audit")?, Authority::root());
    root.enroll(&sites.a, &rcgen::PKCS_ECDSA_P256_SHA256, "a.example", 1);
    root.enroll(&sites.b, &rcgen::PKCS_ECDSA_P256_SHA256, "b.example", 2);
    let directory = sites.a.dir().join("log");
    fs::create_dir(&directory).unwrap();
    let (file, rotated) = (directory.join("audit.jsonl"), directory.join("audit.jsonl.1"));
    let config = |remote: &str| {
        let mut config = ours(remote);
        config.connections += &format!("\n[audit]\nfile = \"{}\"\n", file.display());
        config
    };
    let binary = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let mut gateway = Gateway::start(&sites.a, binary, &config("b.example"))?;
    let swan = StrongSwan::start(&sites.b, THEIRS)?;
    swan.initiate("net", SOON)?;
    assert!(sites.client.ping("10.3.0.1".parse().unwrap(), 5)?.complete());
    let began = written(&file, 3);
    assert_eq!(kinds(&began), ["daemon_start", "session_start", "session_addresses"]);
    assert_eq!(began[1]["certificate"]["serial"], "02");
    assert_eq!(began[2]["addresses"], serde_json::json!(["10.3.0.1"]));

    // What the package installs, but for the place and the service.
    let pid = gateway.process().pid();
    let rules =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/debian/logrotate")).unwrap();
    let rules = rules
        .replace("/var/log/portcullis", &directory.display().to_string())
        .replace("su portcullis portcullis", "su root root")
        .replace(
            "systemctl kill --kill-who=main --signal=USR1 portcullis.service",
            &format!("kill -USR1 {pid}"),
        );
    let (settings, state) = (sites.a.dir().join("logrotate.conf"), sites.a.dir().join("logrotate.state"));
    fs::write(&settings, rules).unwrap();
    fs::set_permissions(&settings, fs::Permissions::from_mode(0o644)).unwrap();
    let words = ["logrotate", "--force", "--state"].map(std::ffi::OsStr::new);
    sites.a.run(words.into_iter().chain([state.as_os_str(), settings.as_os_str()]))?;
    written(&file, 0);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);

    swan.rekey_child("net")?;
    gateway.wait_children(
        "a rekeyed child",
        SOON,
        |children| matches!(children, [child] if child.packets_in == 0),
    )?;
    assert!(sites.client.ping("10.3.0.1".parse().unwrap(), 5)?.complete());
    swan.terminate("site")?;
    let end = written(&file, 1).remove(0);
    assert_eq!((&end["audit"], &end["session"]), (&"session_end".into(), &began[1]["session"]));
    assert_eq!((&end["bytes_in"], &end["bytes_out"]), (&840.into(), &840.into()), "{end}");
    assert_eq!(end["remote_vips"], serde_json::json!(["10.3.0.1"]));
    assert_eq!(end["children"][0]["proposal"], "aes256gcm16");
    assert!(end["remote"].as_str().unwrap().starts_with("192.0.2.2:"), "{end}");
    assert!(end["duration_seconds"].as_f64().unwrap() > 0.0, "{end}");

    // Moved away by hand, and a reload that is refused opens it anew all the same.
    fs::rename(&file, directory.join("audit.jsonl.2")).unwrap();
    let broken = GatewayConfig { connections: "[connections.site]".to_owned(), ..config("b.example") };
    assert!(matches!(gateway.reload(&broken, &[]), Err(LabError::Failed { .. })));
    written(&file, 0);
    swan.reload(&THEIRS.replace("id = b.example", "id = c.example"))?;
    assert!(matches!(swan.initiate("net", SOON), Err(LabError::Failed { .. })));
    let failed = written(&file, 1).remove(0);
    assert_eq!(
        (&failed["audit"], &failed["reason"]),
        (&"authentication_failed".into(), &"ID_UNEXPECTED".into())
    );
    assert!(failed["remote"].as_str().unwrap().starts_with("192.0.2.2:"), "{failed}");

    // An orderly stop leaves nobody without an end.
    swan.reload(THEIRS)?;
    swan.initiate("net", SOON)?;
    gateway.stop()?;
    let all = trail(&file);
    let ends = ["authentication_failed", "session_start", "session_addresses", "session_end", "daemon_stop"];
    assert_eq!(kinds(&all), ends);
    assert_eq!(kinds(&trail(&rotated)), ["daemon_start", "session_start", "session_addresses"]);
    Ok(())
}
