//! What a service manager sees of the daemon, and what the systemd unit asks of it and takes from it.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use portcullis_lab::{Gateway, GatewayConfig, Host, LabError, Process, Result, SiteConfig, Sites};

const SOON: Duration = Duration::from_secs(60);
const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

fn unit() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/portcullis.service");
    std::fs::read_to_string(path).map_err(LabError::io("read the unit"))
}

/// The words of all lines with that key.
fn words<'u>(unit: &'u str, key: &'u str) -> impl Iterator<Item = &'u str> {
    let lines = unit.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='));
    lines.flat_map(str::split_whitespace)
}

/// A configuration of site `a`, in a directory that the daemon's user may use.
struct Place {
    dir: PathBuf,
    config: PathBuf,
}

impl Place {
    fn new(host: &Host, pin_dir: &Path) -> Result<Self> {
        let dir = host.dir().join("place");
        std::fs::create_dir_all(&dir).map_err(LabError::io("make a directory"))?;
        let mut text = format!(
            "[gateway]\nframes = 8192\nmax_sas = 64\npin_dir = \"{}\"\nadmin_socket = \"{}\"\n",
            pin_dir.display(),
            dir.join("admin.sock").display()
        );
        for (name, role) in [("outside0", "outside"), ("inside0", "inside")] {
            text += &format!("[[gateway.interfaces]]\nname = \"{name}\"\nrole = \"{role}\"\n");
        }
        text += &SiteConfig::a().toml();
        let config = dir.join("portcullis.toml");
        std::fs::write(&config, text).map_err(LabError::io("write the configuration"))?;
        Ok(Self { dir, config })
    }

    fn run(&self) -> Command {
        let mut command = Command::new(BINARY);
        command.arg("run").arg("--config").arg(&self.config);
        command
    }
}

/// What a service manager is told.
struct Manager(UnixDatagram);

impl Manager {
    fn new(place: &Place, command: &mut Command) -> Result<Self> {
        let path = place.dir.join("notify");
        let socket = UnixDatagram::bind(&path).map_err(LabError::io("bind the notify socket"))?;
        socket.set_read_timeout(Some(SOON)).map_err(LabError::io("limit the wait"))?;
        command.env("NOTIFY_SOCKET", path);
        Ok(Self(socket))
    }

    /// The next message.
    fn hear(&self) -> Result<String> {
        let mut octets = [0; 4096];
        let len = loop {
            match self.0.recv(&mut octets) {
                // A wait with a limit is not taken up again by the kernel.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result.map_err(LabError::io("hear from the daemon"))?,
            }
        };
        Ok(String::from_utf8_lossy(octets.get(..len).unwrap_or_default()).into_owned())
    }

    /// Messages until one has the line; that one.
    fn hear_of(&self, line: &str) -> Result<String> {
        let deadline = Instant::now() + SOON;
        loop {
            let message = self.hear()?;
            if message.lines().any(|found| found == line) {
                return Ok(message);
            }
            assert!(Instant::now() < deadline, "nothing of {line}, last: {message}");
        }
    }
}

fn signal(process: &Process, name: &str) -> Result<()> {
    let pid = process.pid().to_string();
    let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status();
    let sent = sent.map_err(LabError::io("send a signal"))?;
    assert!(sent.success(), "kill -{name} {pid}");
    Ok(())
}

#[test]
fn the_service_manager_hears_of_start_reload_and_stop() -> Result<()> {
    let sites = Sites::new("notify")?;
    let place = Place::new(&sites.a, sites.a.pin_dir())?;
    let mut command = place.run();
    let manager = Manager::new(&place, &mut command)?;
    let mut daemon = sites.a.spawn(command)?;
    assert!(manager.hear()?.starts_with("READY=1\nSTATUS=protecting"), "the first word is READY");

    for (append, expected) in [
        ("", "the configuration is unchanged"),
        ("\n# a comment\n", "the configuration is unchanged"),
        ("\n[ike]\nkeep_alive = 7\n", "the configuration was reloaded"),
        ("\nnonsense = 1\n", "was refused, and the one before is in force"),
    ] {
        let text = std::fs::read_to_string(&place.config).map_err(LabError::io("read it"))?;
        std::fs::write(&place.config, text + append).map_err(LabError::io("change it"))?;
        signal(&daemon, "HUP")?;
        let reloading = manager.hear_of("RELOADING=1")?;
        assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
        let ready = manager.hear_of("READY=1")?;
        assert!(ready.contains(expected), "{append}: {ready}");
    }
    signal(&daemon, "TERM")?;
    manager.hear_of("STOPPING=1")?;
    assert!(daemon.wait_exit(SOON)?.success());
    Ok(())
}

/// Stops the one thread of a process that has the name, until it is told to go on by a line.
const STOP_THREAD: &str = r#"
import ctypes, os, sys
pid, name = sys.argv[1:]
tasks = f"/proc/{pid}/task"
tid = next(int(t) for t in os.listdir(tasks) if open(f"{tasks}/{t}/comm").read().strip() == name)
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH, PTRACE_DETACH, WALL = 16, 17, 0x40000000
assert libc.ptrace(PTRACE_ATTACH, tid, 0, 0) == 0, os.strerror(ctypes.get_errno())
os.waitpid(tid, WALL)
print("stopped", flush=True)
sys.stdin.readline()
libc.ptrace(PTRACE_DETACH, tid, 0, 0)
"#;

#[test]
fn the_watchdog_hears_nothing_while_a_worker_is_stuck() -> Result<()> {
    let sites = Sites::new("watchdog")?;
    let place = Place::new(&sites.a, sites.a.pin_dir())?;
    let mut command = place.run();
    let manager = Manager::new(&place, &mut command)?;
    command.env("WATCHDOG_USEC", "800000");
    let daemon = sites.a.spawn(command)?;
    manager.hear_of("READY=1")?;
    // Nothing moves, so the worker sleeps: that alone is no reason to think it dead.
    for _ in 0..3 {
        manager.hear_of("WATCHDOG=1")?;
    }
    let pid = daemon.pid().to_string();
    let mut stopper = sites.a.spawn_words(["/usr/bin/python3", "-c", STOP_THREAD, &pid, "worker-0"])?;
    stopper.wait_line("stopped", SOON)?;
    manager.hear_of("STATUS=no answer from worker 0")?;
    for _ in 0..3 {
        assert_eq!(manager.hear()?.trim(), "STATUS=no answer from worker 0", "a look that tells of no life");
    }
    let socket = place.dir.join("admin.sock");
    let probe = [BINARY, "--socket", socket.to_str().unwrap_or_default(), "health"];
    match sites.a.run(probe) {
        Err(LabError::Failed { output, .. }) => {
            assert!(output.contains("STUCK: no answer from worker 0"), "{output}")
        }
        other => assert!(other.is_err(), "a probe finds it well: {other:?}"),
    }
    stopper.write_line("go on")?;
    assert!(manager.hear_of("WATCHDOG=1")?.contains("STATUS=protecting"));
    daemon.wait_line("everything answers again", SOON)?;
    manager.hear_of("WATCHDOG=1")?;
    sites.a.run(probe)?;
    Ok(())
}

#[test]
fn the_daemon_leaves_no_core_dump_and_shows_its_memory_to_nobody() -> Result<()> {
    let sites = Sites::new("dump")?;
    let a = Gateway::start(&sites.a, Path::new(BINARY), &GatewayConfig::new(SiteConfig::a().toml()))?;
    let pid = a.process().pid();
    let limits =
        std::fs::read_to_string(format!("/proc/{pid}/limits")).map_err(LabError::io("read limits"))?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap_or_default();
    assert!(core.split_whitespace().skip(4).take(2).eq(["0", "0"]), "{core}");
    let script = format!("cat /proc/{pid}/maps; exit 0");
    let looked = sites.a.run(["setpriv", "--reuid=65534", "--clear-groups", "sh", "-c", &script])?;
    assert!(looked.stdout.is_empty() && looked.stderr.contains("denied"), "{looked:?}");
    Ok(())
}

/// Refuses to make memory executable from now on, as `MemoryDenyWriteExecute=` does, and goes on as another program.
const DENY_WRITE_EXECUTE: &str = r#"
import ctypes, os, sys
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
assert ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn an_unprivileged_user_with_the_capabilities_of_the_unit_carries_a_tunnel() -> Result<()> {
    let unit = unit()?;
    let names: Vec<String> = words(&unit, "AmbientCapabilities")
        .map(|name| format!("+{}", name.trim_start_matches("CAP_").to_lowercase()))
        .collect();
    assert!(!names.is_empty());
    let granted = names.join(",");
    let sites = Sites::new("unpriv")?;
    let place = Place::new(&sites.a, Path::new("/sys/fs/bpf/portcullis"))?;
    // Where it was built, that user may not look.
    let binary = place.dir.join("portcullis");
    std::fs::copy(BINARY, &binary).map_err(LabError::io("copy the binary"))?;
    sites.a.run(["chown".as_ref(), "-R".as_ref(), "nobody".as_ref(), place.dir.as_os_str()])?;
    sites.a.run([
        "chmod".as_ref(),
        "a+x".as_ref(),
        sites.a.dir().as_os_str(),
        sites.lab.dir().as_os_str(),
    ])?;
    // A BPF file system of its own, so that the machine's is left alone.
    let script = format!(
        "mount -t bpf -o mode=0711 bpf /sys/fs/bpf && install -d -m 0700 -o nobody /sys/fs/bpf/portcullis && \
         exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --bounding-set=-all,{granted} \
         --inh-caps=-all,{granted} --ambient-caps=-all,{granted} \
         /usr/bin/python3 -c '{DENY_WRITE_EXECUTE}' {} run --config {}",
        binary.display(),
        place.config.display()
    );
    let daemon = sites.a.spawn_words(["unshare", "--mount", "sh", "-c", &script])?;
    daemon.wait_line("portcullis is ready", SOON)?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()));
    let status = status.map_err(LabError::io("read its status"))?;
    assert!(status.contains("\nUid:\t65534\t65534\t65534\t65534\n"), "{status}");
    let _b =
        Gateway::start(&sites.b, Path::new(BINARY), &GatewayConfig::new(SiteConfig::a().mirrored().toml()))?;
    let socket = place.dir.join("admin.sock");
    let socket = socket.to_str().unwrap_or_default();
    sites.a.run([BINARY, "--socket", socket, "initiate", "site/net", "--timeout", "30"])?;
    assert!(sites.client.ping(Sites::SERVER, 5)?.complete());
    Ok(())
}

#[test]
fn every_system_call_of_a_whole_life_passes_the_units_filter() -> Result<()> {
    let unit = unit()?;
    let mut allowed: BTreeSet<String> = BTreeSet::new();
    for word in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (forbid, list) = word.strip_prefix('~').map_or((false, word), |list| (true, list));
        for name in list.split_whitespace() {
            for call in expand(name)? {
                if forbid {
                    allowed.remove(&call);
                } else {
                    allowed.insert(call);
                }
            }
        }
    }
    // What every filter of systemd lets through.
    allowed.extend(expand("@default")?);
    let sites = Sites::new("filter")?;
    let place = Place::new(&sites.a, sites.a.pin_dir())?;
    let log = place.dir.join("calls");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(&log).arg(BINARY).arg("run").arg("--config").arg(&place.config);
    let mut daemon = sites.a.spawn(command)?;
    daemon.wait_line("portcullis is ready", SOON)?;
    let _b =
        Gateway::start(&sites.b, Path::new(BINARY), &GatewayConfig::new(SiteConfig::a().mirrored().toml()))?;
    let socket = place.dir.join("admin.sock");
    let socket = socket.to_str().unwrap_or_default();
    sites.a.run([BINARY, "--socket", socket, "initiate", "site/net", "--timeout", "30"])?;
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
    sites.a.run([BINARY, "--socket", socket, "status"])?;
    let child = children(daemon.pid())?;
    sites.a.run(["kill".to_owned(), "-TERM".to_owned(), child.to_string()])?;
    daemon.wait_exit(SOON)?;

    let text = std::fs::read_to_string(&log).map_err(LabError::io("read the calls"))?;
    let used: BTreeSet<String> = text.lines().filter_map(call).map(str::to_owned).collect();
    assert!(used.contains("bpf") && used.contains("sendmsg") && used.len() > 30, "{used:?}");
    let refused: Vec<&String> = used.difference(&allowed).collect();
    assert!(refused.is_empty(), "the unit's SystemCallFilter refuses {refused:?}");
    let families: BTreeSet<&str> = words(&unit, "RestrictAddressFamilies").collect();
    for (line, rest) in text.lines().filter_map(|line| Some((line, line.split_once(" socket(")?.1))) {
        let family = rest.split(',').next().unwrap_or_default();
        assert!(families.contains(family), "the unit's RestrictAddressFamilies refuses {line}");
    }
    Ok(())
}

/// `123 openat(AT_FDCWD, …`: the name of the call.
fn call(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(' ')?;
    let rest = rest.trim_start().strip_prefix("<... ").unwrap_or_else(|| rest.trim_start());
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    rest.get(..end).filter(|name| !name.is_empty() && name.chars().all(|c| !c.is_ascii_uppercase()))
}

/// The first child of a process.
fn children(pid: u32) -> Result<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(&path).map_err(LabError::io("look for the daemon"))?;
    let first = text.split_whitespace().next().and_then(|pid| pid.parse().ok());
    first.ok_or_else(|| LabError::io("look for the daemon")(io::Error::other("it has ended")))
}

/// A system call, or all of systemd's group of that name.
fn expand(name: &str) -> Result<Vec<String>> {
    if !name.starts_with('@') {
        return Ok(vec![name.to_owned()]);
    }
    let output = Command::new("systemd-analyze").args(["syscall-filter", name]).output();
    let output = output.map_err(LabError::io("run systemd-analyze"))?;
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut calls = Vec::new();
    for line in text.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        calls.extend(expand(line)?);
    }
    Ok(calls)
}

#[test]
fn the_units_exposure_is_what_the_documentation_says() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=yes", "deploy/portcullis.service"])
        .current_dir(&path)
        .output()
        .map_err(LabError::io("run systemd-analyze"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let level =
        text.lines().find_map(|line| line.split_once("Overall exposure level for portcullis.service: "));
    let level = level.and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or_default();
    let docs = std::fs::read_to_string(path.join("docs/service.md"))
        .map_err(LabError::io("read docs/service.md"))?;
    assert!(docs.contains(&format!("exposure level of **{level}**")), "systemd-analyze says {level}");
    Ok(())
}

#[test]
fn containers_get_the_capabilities_of_the_unit_and_run_commands_that_there_are() -> Result<()> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/portcullis.yaml");
    let manifest = std::fs::read_to_string(manifest).map_err(LabError::io("read the manifest"))?;
    let listed = |key: &str| -> Vec<String> {
        let line = manifest.lines().find_map(|line| line.trim().strip_prefix(key));
        let words =
            line.unwrap_or_default().split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-');
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let unit = unit()?;
    let ours: BTreeSet<&str> =
        words(&unit, "CapabilityBoundingSet").map(|name| name.trim_start_matches("CAP_")).collect();
    let theirs = listed("add: ");
    assert_eq!(theirs.iter().map(String::as_str).collect::<BTreeSet<_>>(), ours);
    assert_eq!(listed("drop: "), ["ALL"]);
    let probes = manifest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("exec: { command: [")?.strip_suffix("] }"));
    let probes: Vec<&str> = probes.collect();
    assert_eq!(probes.len(), 3, "{probes:?}");
    for probe in probes {
        let arguments: Vec<&str> = probe.split(", ").skip(1).map(|word| word.trim_matches('"')).collect();
        let output =
            Command::new(BINARY).args(&arguments).arg("--help").output().map_err(LabError::io("run it"))?;
        assert!(output.status.success(), "{probe}");
    }
    Ok(())
}
