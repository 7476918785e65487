//! `updown` hooks: the same script as a hook of strongSwan's and of ours, and what it is told of the tunnel between them.

#![expect(clippy::unwrap_used, reason = "where a test cannot go on it fails")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use portcullis_lab::{Gateway, GatewayConfig, Host, LabError, Result, SiteConfig, Sites, StrongSwan};

const SOON: Duration = Duration::from_secs(30);

fn ours() -> SiteConfig {
    SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() }
}

fn with_hook(hook: &str) -> GatewayConfig {
    let hook = format!("[connections.site.children.net]\nupdown = {hook}\n");
    GatewayConfig::new(ours().toml().replacen("[connections.site.children.net]\n", &hook, 1))
}

/// A script that writes what it is told to a file for each verb and prefix of ours, and its name.
fn script(host: &Host) -> (String, PathBuf) {
    let directory = host.dir().join("told");
    fs::create_dir_all(&directory).unwrap();
    let (path, to) = (host.dir().join("updown"), directory.display());
    let text = format!(
        "#!/bin/sh\nfile={to}/$PLUTO_VERB\nenv | grep ^PLUTO_ | sort >$file.new && mv $file.new $file\n"
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (path.display().to_string(), directory)
}

/// What a hook was told, once it has run.
fn told(directory: &Path, verb: &str) -> BTreeMap<String, String> {
    let deadline = Instant::now() + SOON;
    let file = directory.join(verb);
    loop {
        if let Ok(text) = fs::read_to_string(&file) {
            let pairs = text.lines().filter_map(|line| line.split_once('='));
            return pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        }
        assert!(Instant::now() < deadline, "{} was not written", file.display());
    }
}

/// The other end's name for a variable.
fn mirrored(name: &str) -> String {
    match (name.strip_prefix("PLUTO_MY_"), name.strip_prefix("PLUTO_PEER_")) {
        (Some(what), _) => format!("PLUTO_PEER_{what}"),
        (_, Some(what)) => format!("PLUTO_MY_{what}"),
        _ if name == "PLUTO_ME" => "PLUTO_PEER".to_owned(),
        _ if name == "PLUTO_PEER" => "PLUTO_ME".to_owned(),
        _ => name.to_owned(),
    }
}

#[test]
fn a_hook_is_told_what_strongswans_is_told_of_the_same_tunnel() -> Result<()> {
    let sites = Sites::new("updown")?;
    let ((our_script, ours_told), (their_script, theirs_told)) = (script(&sites.a), script(&sites.b));
    let hook = format!("children {{\n net {{\nupdown = {their_script}\n");
    let theirs = ours().mirrored().swanctl().replacen("children {\n net {\n", &hook, 1);
    let swan = StrongSwan::start(&sites.b, &theirs)?;
    let binary = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let gateway = Gateway::start(&sites.a, binary, &with_hook(&format!("\"{our_script}\"")))?;
    swan.initiate("net", SOON)?;
    for verb in ["up-client", "up-client-v6", "down-client", "down-client-v6"] {
        if verb == "down-client" {
            swan.terminate("site")?;
        }
        let (ours, theirs) = (told(&ours_told, verb), told(&theirs_told, verb));
        for (name, value) in &theirs {
            match name.as_str() {
                // Numbers of strongSwan's own, and the interface that the outer address is on, where we name the one that
                // inner packets are on.
                "PLUTO_REQID" | "PLUTO_UNIQUEID" | "PLUTO_INTERFACE" => {}
                _ => {
                    assert_eq!(ours.get(&mirrored(name)), Some(value), "{verb}: {name}\n{ours:?}\n{theirs:?}")
                }
            }
        }
        assert_eq!(ours["PLUTO_INTERFACE"], "portcullis0");
    }
    drop(gateway);
    Ok(())
}

#[test]
fn a_hook_outlives_reloads_and_the_daemon_and_its_failure_is_logged() -> Result<()> {
    let sites = Sites::new("hooks")?;
    let (script, directory) = script(&sites.a);
    let swan = StrongSwan::start(&sites.b, &ours().mirrored().swanctl())?;
    let binary = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let mut gateway = Gateway::start(&sites.a, binary, &GatewayConfig::new(ours().toml()))?;

    // Who runs hooks is started with the daemon or never.
    let first = with_hook("[\"/bin/sh\", \"-c\", \"echo complaint >&2; exit 7\"]");
    let refused = gateway.reload(&first, &[]);
    let says = |output: &str| output.contains("NEEDS_RESTART") && output.contains("`updown`");
    assert!(matches!(&refused, Err(LabError::Failed { output, .. }) if says(output)), "{refused:?}");
    gateway.stop()?;
    gateway.restart()?;

    let from = gateway.process().mark();
    swan.initiate("net", SOON)?;
    let failed = gateway.wait_log(from, "an updown hook has failed", SOON)?;
    for part in ["complaint", "Status(7)", "up-client", "site/net"] {
        assert!(failed.contains(part), "{failed}");
    }
    swan.terminate("site")?;

    let done = gateway.reload(&with_hook(&format!("\"{script} with an argument\"")), &[])?;
    assert!(done.stdout.contains("site/net: its updown hook is another"), "{}", done.stdout);
    swan.initiate("net", SOON)?;
    told(&directory, "up-client");
    told(&directory, "up-client-v6");
    // Neither a rekeying nor a configuration without it is an end.
    let from = gateway.process().mark();
    swan.rekey_child("net")?;
    gateway.wait_log(from, "CHILD SA rekeyed", SOON)?;
    gateway.reload(&GatewayConfig::new(ours().toml()), &[])?;
    assert!(!directory.join("down-client").exists());
    gateway.stop()?;
    assert!(directory.join("down-client").exists() && directory.join("down-client-v6").exists());
    Ok(())
}
