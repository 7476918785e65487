//! What is generated from the command line's own definition, judged by the shells and by groff; and logs as a collector
//! of logs reads them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "where a test cannot go on it fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use portcullis_lab::{Gateway, GatewayConfig, LabError, Result, SiteConfig, Sites, Stream};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

fn portcullis(arguments: &[&str]) -> String {
    let output = Command::new(BINARY).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a shell on a script; what it printed.
fn shell(shell: &str, arguments: &[&str]) -> String {
    let output = Command::new(shell).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{shell}: {error} (./dev setup test installs it)"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{shell} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_shell_accepts_its_completions() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["bash", "zsh", "fish"] {
        let file = dir.path().join(name);
        let script = portcullis(&["completions", name]);
        assert!(script.contains("doctor"), "{name}");
        fs::write(&file, script).unwrap();
        shell(name, &["-n", file.to_str().unwrap()]);
    }
}

#[test]
fn bash_completes_commands_and_options() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("portcullis");
    fs::write(&file, portcullis(&["completions", "bash"])).unwrap();
    // As bash calls it: the command, the word to be completed, and the one before.
    let complete = |words: &[&str]| {
        let [.., before, current] = words else { panic!("{words:?}") };
        let script = format!(
            "source {}; COMP_WORDS=({}); COMP_CWORD={}; _portcullis portcullis '{current}' '{before}'; \
             echo \"${{COMPREPLY[@]}}\"",
            file.display(),
            words.join(" "),
            words.len() - 1
        );
        shell("bash", &["-c", &script]).trim().to_owned()
    };
    assert_eq!(complete(&["portcullis", "doc"]), "doctor");
    assert_eq!(complete(&["portcullis", "doctor", "--str"]), "--strict");
    assert_eq!(complete(&["portcullis", "pki", "rev"]), "revoke");
    assert_eq!(complete(&["portcullis", "run", "--log-format", "js"]), "json");
}

#[test]
fn fish_completes_commands() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("portcullis.fish");
    fs::write(&file, portcullis(&["completions", "fish"])).unwrap();
    let script = format!("source {}; complete -C'portcullis doc'", file.display());
    assert!(shell("fish", &["--no-config", "-c", &script]).starts_with("doctor"));
}

/// What is said on standard error when a command fails.
fn refused(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn common_mistakes_are_answered_with_what_to_do() {
    let said = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(arguments);
        refused(command)
    };
    for (arguments, expected) in [
        (
            &["--socket", "/nonexistent/admin.sock", "status"][..],
            "it is not running (`systemctl start portcullis`",
        ),
        (&["check", "/nonexistent.toml"], "there is no such file (the package has an example:"),
        (&["run", "--config", "/nonexistent.toml"], "there is no such file (the package has an example:"),
        (&["explain", "reason", "FOO"], "`portcullis explain reason` lists them"),
        (&["probe", "gw.example"], "it is no IP address, and names are not resolved here"),
        (&["initate"], "a similar subcommand exists: 'initiate'"),
    ] {
        let text = said(arguments);
        assert!(text.contains(expected), "{arguments:?}: {text}");
        assert!(!text.contains("os error"), "{arguments:?}: {text}");
    }
}

#[test]
fn who_may_not_use_the_socket_is_told_who_may() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, binary) = (dir.path().join("admin.sock"), dir.path().join("portcullis"));
    let _daemon = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
    // Where it was built, that user may not look.
    fs::copy(BINARY, &binary).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(binary)
        .arg("--socket")
        .arg(socket)
        .arg("sas");
    let text = refused(command);
    assert!(text.contains("only root and the daemon's own user may use this socket"), "{text}");
}

#[test]
fn a_name_that_there_is_not_is_answered_with_the_one_that_was_meant_and_a_tunnel_that_is_down_is_named()
-> Result<()> {
    let sites = Sites::new("mistakes")?;
    let site = SiteConfig { start_action: "start", ..SiteConfig::a() };
    let gateway = Gateway::start(&sites.a, Path::new(BINARY), &GatewayConfig::new(site.toml()))?;
    let refused = |arguments: &[&str]| match gateway.portcullis(arguments) {
        Err(LabError::Failed { output, .. }) => output,
        other => panic!("{arguments:?}: {other:?}"),
    };
    for arguments in [["initiate", "sitee"], ["terminate", "sit"], ["sas", "sited"]] {
        let text = refused(&arguments);
        assert!(text.contains("did you mean `site`?"), "{text}");
    }
    let text = refused(&["explain", "peer", "headquarters"]);
    assert!(text.contains("no connection `headquarters` is configured (there are: site)"), "{text}");
    let text = refused(&["initiate", "site/nett"]);
    assert!(text.contains("did you mean `net`?"), "{text}");
    let text = gateway.portcullis(&["explain", "peer", "192.0.2.77"])?.stdout;
    assert!(text.contains("nothing has failed with 192.0.2.77"), "{text}");

    let status = || gateway.portcullis(&["status"]).map(|output| output.stdout);
    let down = "not up, though start_action is \"start\": site/net\n";
    assert!(status()?.contains(down));
    let other = site.mirrored().toml();
    let _b = Gateway::start(&sites.b, Path::new(BINARY), &GatewayConfig::new(other))?;
    let up = gateway.portcullis(&["initiate", "site/net", "--json"])?.stdout;
    let up: Value = serde_json::from_str(&up).unwrap();
    assert_eq!(up[0]["name"], "net", "{up}");
    assert!(!status()?.contains("not up") && status()?.contains("1 IKE SA (0 half-open), 1 CHILD SA\n"));
    let brief = gateway.portcullis(&["sas", "site", "--brief"])?.stdout;
    assert!(brief.contains("site/net  UP     192.0.2.2"), "{brief}");
    let reloaded = gateway.portcullis(&["reload", "--dry-run", "--json"])?.stdout;
    let reloaded: Value = serde_json::from_str(&reloaded).unwrap();
    assert_eq!(reloaded["applied"], false, "{reloaded}");
    let flow = gateway.portcullis(&["explain", "flow", "10.1.0.10", "10.2.0.10"])?.stdout;
    assert!(flow.starts_with("10.1.0.10 > 10.2.0.10, icmp type 8 code 0\n"), "{flow}");
    Ok(())
}

#[test]
fn every_command_has_a_manual_page_that_groff_formats_without_a_complaint() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("man1");
    portcullis(&["man", to.to_str().unwrap()]);
    let mut names: Vec<_> =
        fs::read_dir(&to).unwrap().map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    for expected in [
        "portcullis.1",
        "portcullis-run.1",
        "portcullis-doctor.1",
        "portcullis-pki-revoke.1",
        "portcullis-top.1",
    ] {
        assert!(names.iter().any(|name| name == expected), "{expected} is missing: {names:?}");
    }
    for name in names {
        let page = to.join(&name);
        let text = shell("groff", &["-man", "-Tutf8", "-ww", "-P-cbou", page.to_str().unwrap()]);
        assert!(text.contains("NAME") && text.contains("SYNOPSIS"), "{name}: {text}");
    }
}

#[test]
fn json_logs_are_one_object_a_line_with_connection_and_sa() -> Result<()> {
    let sites = Sites::new("logs")?;
    let peer =
        Gateway::start(&sites.b, Path::new(BINARY), &GatewayConfig::new(SiteConfig::a().mirrored().toml()))?;
    let mut text = format!(
        "[gateway]\nframes = 8192\npin_dir = \"{}\"\nadmin_socket = \"{}\"\n",
        sites.a.pin_dir().display(),
        sites.a.dir().join("admin.sock").display()
    );
    for (name, role) in [("outside0", "outside"), ("inside0", "inside")] {
        text += &format!("[[gateway.interfaces]]\nname = \"{name}\"\nrole = \"{role}\"\n");
    }
    text += &SiteConfig { start_action: "start", ..SiteConfig::a() }.toml();
    let file = sites.a.dir().join("logs.toml");
    fs::write(&file, text).unwrap();
    let words = [BINARY, "run", "--log-format", "json", "--config", file.to_str().unwrap()];
    let mut daemon = sites.a.spawn_words(words)?;
    let soon = Duration::from_secs(60);
    daemon.wait_line("CHILD SA established", soon)?;
    drop(peer);
    daemon.terminate(soon)?;
    let log = daemon.output(Stream::Stderr);
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let find = |message: &str| lines.iter().find(|line| line["message"] == message).unwrap();
    let ike = find("IKE SA established");
    for field in
        ["connection", "ike", "spi_i", "spi_r", "remote", "remote_id", "proposal", "timestamp", "level"]
    {
        assert!(!ike[field].is_null(), "{field}: {ike}");
    }
    let child = find("CHILD SA established");
    for field in ["connection", "child", "spi_in", "spi_out"] {
        assert!(!child[field].is_null(), "{field}: {child}");
    }
    Ok(())
}

#[test]
fn top_without_a_terminal_says_what_to_use_instead() {
    let output = Command::new(BINARY).arg("top").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("portcullis status --json"));
}

#[test]
fn top_draws_the_tunnels_and_leaves_when_told_to() -> Result<()> {
    let sites = Sites::new("top")?;
    let start = |host, config: String| Gateway::start(host, Path::new(BINARY), &GatewayConfig::new(config));
    let a = start(&sites.a, SiteConfig::a().toml())?;
    let _b = start(&sites.b, SiteConfig::a().mirrored().toml())?;
    let soon = Duration::from_secs(60);
    a.initiate("site/net", soon)?;
    let socket = sites.a.dir().join("admin.sock");
    // A terminal, which a pipe is not.
    let inside = format!("stty rows 40 cols 120; exec {BINARY} --socket {} top", socket.display());
    let mut top = sites.a.spawn_words(["script", "-q", "-e", "-c", &inside, "/dev/null"])?;
    top.write_line("q")?;
    assert!(top.wait_exit(soon)?.success(), "{}", top.tail());
    let screen = top.output(Stream::Stdout);
    for expected in ["site/net", "192.0.2.2:4500", "workers", "recent", "q: quit"] {
        assert!(screen.contains(expected), "`{expected}` is missing in {screen:?}");
    }
    Ok(())
}

#[test]
fn warnings_fail_a_check_only_when_it_is_strict() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("portcullis.toml");
    let policy =
        |to: &str, mode: &str| format!("local_ts = '10.0.0.0/8'\nremote_ts = '{to}'\nmode = '{mode}'\n");
    let text = format!(
        "[gateway]\ninterfaces = [{{ name = 'nonesuch0', role = 'both' }}]\n[connections.c.children.all]\n{}\
         [connections.c.children.one]\n{}",
        policy("10.0.0.0/8", "pass"),
        policy("10.1.0.0/16", "drop"),
    );
    let check = |text: &str, options: &[&str]| {
        fs::write(&file, text).unwrap();
        let output = Command::new(BINARY).arg("check").args(options).arg(&file).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, warnings) = check(&text, &[]);
    assert_eq!(code, Some(0), "{warnings}");
    assert!(
        warnings.contains("portcullis.toml:9:13: warning: connections.c.children.one.remote_ts"),
        "{warnings}"
    );
    assert_eq!(check(&text, &["--strict"]).0, Some(3));
    assert_eq!(check(&text.replace("10.1.0.0/16", "11.0.0.0/8"), &["--strict"]).0, Some(0));
    assert_eq!(check(&text.replace("drop", "nonesuch"), &["--strict"]).0, Some(1));
}
