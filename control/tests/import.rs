//! A host that ran strongSwan runs Portcullis: its swanctl.conf, and the ipsec.conf of a still older setup, are imported,
//! and the tunnel to its strongSwan peer, where nothing was changed, comes up again.

#![expect(clippy::unwrap_used, reason = "where a test cannot go on it fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use portcullis_lab::{Gateway, GatewayConfig, Result, SiteConfig, Sites, StrongSwan};

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
const SOON: Duration = Duration::from_secs(30);

fn import(arguments: &[&str]) -> Output {
    Command::new(BINARY).arg("import").args(arguments).output().unwrap()
}

/// Imports a file into a new one; what was written.
fn imported(from: &str, file: &Path, output: &Path) -> String {
    let names = ["--outside", "outside0", "--inside", "inside0"];
    let paths = [from, file.to_str().unwrap(), "--output", output.to_str().unwrap()];
    let run = import(&[&paths[..], &names[..]].concat());
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("connections: 1, children: 1; left out: 0"), "{said}");
    fs::read_to_string(output).unwrap()
}

/// The same tunnel in the notation of ipsec.conf, and its secret.
fn ipsec_conf(site: &SiteConfig) -> (String, String) {
    let conf = format!(
        "conn %default\n\tkeyexchange=ikev2\n\nconn site\n\tleft={}\n\tright={}\n\tleftid={}\n\trightid={}\n\t\
         authby=secret\n\tleftsubnet={}\n\trightsubnet={}\n\tesp=aes256gcm16!\n\tike={}!\n\tauto=add\n",
        site.local,
        site.remote,
        site.local_id,
        site.remote_id,
        site.local_ts.join(","),
        site.remote_ts.join(","),
        site.proposals
    );
    (conf, format!("{} {} : PSK \"{}\"\n", site.local_id, site.remote_id, site.secret))
}

#[test]
fn what_ran_on_strongswan_runs_here_and_its_peer_notices_nothing() -> Result<()> {
    let sites = Sites::new("import")?;
    let ours = SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() };
    let swan = StrongSwan::start(&sites.b, &ours.mirrored().swanctl())?;
    let dir = tempfile::tempdir().unwrap();
    let (conf, secrets) = ipsec_conf(&ours);
    for (name, text) in
        [("swanctl.conf", &ours.swanctl()), ("ipsec.conf", &conf), ("ipsec.secrets", &secrets)]
    {
        fs::write(dir.path().join(name), text).unwrap();
    }
    for (from, file, child) in [("swanctl", "swanctl.conf", "net"), ("ipsec.conf", "ipsec.conf", "site")] {
        let output = dir.path().join(format!("{from}.toml"));
        let text = imported(from, &dir.path().join(file), &output);
        assert_eq!(fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o600);
        let connections = text.get(text.find("[connections").unwrap()..).unwrap();
        let gateway = Gateway::start(&sites.a, Path::new(BINARY), &GatewayConfig::new(connections))?;
        gateway.initiate(&format!("site/{child}"), SOON)?;
        assert!(sites.client.ping(Sites::SERVER, 5)?.complete(), "{from}");
        assert!(sites.server.ping(Sites::CLIENT_V6, 5)?.complete(), "{from}");
        swan.terminate("site")?;
    }
    Ok(())
}

#[test]
fn a_configuration_that_is_there_is_not_overwritten_and_nothing_secret_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let (file, output) = (dir.path().join("swanctl.conf"), dir.path().join("portcullis.toml"));
    let site = SiteConfig::a();
    fs::write(&file, site.swanctl()).unwrap();
    fs::write(&output, "precious").unwrap();
    let refused = import(&["swanctl", file.to_str().unwrap(), "--output", output.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("portcullis.toml"), "{said}");
    assert_eq!(fs::read_to_string(&output).unwrap(), "precious");

    let printed = import(&["swanctl", file.to_str().unwrap()]);
    let (text, said) = (String::from_utf8_lossy(&printed.stdout), String::from_utf8_lossy(&printed.stderr));
    assert!(
        text.contains("[connections.site]") && said.contains("to do: gateway.interfaces"),
        "{text}{said}"
    );
    assert!(!text.contains(&site.secret) && !said.contains(&site.secret), "{text}{said}");
}
