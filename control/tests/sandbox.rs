//! The sandbox: what it leaves the daemon suffices for a whole life with a peer, and everything else is refused.

#![expect(clippy::unwrap_used, reason = "where a test cannot go on it fails")]

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType};
use portcullis_control::config::Config;
use portcullis_control::sandbox::Sandbox;
use portcullis_lab::{Gateway, GatewayConfig, LabError, LinkOptions, Result, SiteConfig, Sites, StrongSwan};

const SOON: Duration = Duration::from_secs(30);

/// A configuration in a directory of its own, and what lies outside.
struct Place {
    inside: tempfile::TempDir,
    outside: tempfile::TempDir,
    pins: PathBuf,
    config: Config,
}

impl Place {
    fn new(name: &str) -> Self {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let pins = PathBuf::from(format!("/sys/fs/bpf/plab-{}-{name}", std::process::id()));
        let at = |name: &str| inside.path().join(name).display().to_string();
        let text = format!(
            "[gateway]\npin_dir = \"{}\"\nstate_dir = \"{}\"\nadmin_socket = \"{}\"\n\
             [[gateway.interfaces]]\nname = \"outside0\"\nrole = \"both\"\n",
            pins.display(),
            at("state"),
            at("run/admin.sock")
        );
        fs::write(inside.path().join("portcullis.toml"), &text).unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let (config, _) = Config::parse(&text, inside.path()).unwrap();
        Self { inside, outside, pins, config }
    }

    fn source(&self) -> PathBuf {
        self.inside.path().join("portcullis.toml")
    }

    /// What `attempt` comes to in a thread that has entered the sandbox.
    fn within<T: Send>(&self, attempt: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let entered = Sandbox::enter(&self.config, &self.source()).to_string();
                assert_eq!(entered, "files restricted, system calls restricted");
                attempt()
            });
            thread.join().unwrap()
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.pins);
    }
}

/// Which error.
fn refused<T>(result: std::io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[test]
fn files_are_read_where_the_configuration_lies_and_written_where_the_daemon_keeps_things() {
    let place = Place::new("files");
    let at = |name: &str| place.inside.path().join(name);
    place.within(|| {
        assert!(fs::read_to_string(place.source()).unwrap().contains("pin_dir"));
        assert!(fs::read_to_string("/etc/passwd").is_ok() && fs::read_dir("/proc/self/task").is_ok());
        let denied = Some(ErrorKind::PermissionDenied);
        assert_eq!(refused(fs::read(place.outside.path().join("secret"))), denied);
        assert_eq!(refused(fs::read_dir("/root")), denied);
        assert_eq!(refused(File::create(at("new"))), denied);
        assert_eq!(refused(File::options().write(true).open(place.source())), denied);
        assert_eq!(refused(fs::remove_file(place.source())), denied);
        assert_eq!(refused(File::options().write(true).open("/proc/sys/kernel/core_pattern")), denied);
        assert_eq!(refused(fs::create_dir(place.outside.path().join("new"))), denied);

        fs::write(at("state/new"), "text").unwrap();
        fs::rename(at("state/new"), at("state/leases")).unwrap();
        let mut journal = File::options().append(true).open(at("state/leases")).unwrap();
        std::io::Write::write_all(&mut journal, b"more").unwrap();
        assert_eq!(fs::read_to_string(at("state/leases")).unwrap(), "textmore");
        let _listener = UnixListener::bind(at("run/admin.sock")).unwrap();
        fs::remove_file(at("run/admin.sock")).unwrap();
        fs::create_dir(place.pins.join("links")).unwrap();
    });
}

#[test]
fn a_renewed_certificate_behind_a_link_is_read_and_named_files_may_be_replaced() {
    let mut place = Place::new("links");
    // As certbot keeps them: what the gateway names is a link to the newest of an archive.
    let (live, archive) = (place.inside.path().join("x509"), place.outside.path().join("archive"));
    fs::create_dir(&live).unwrap();
    fs::create_dir(&archive).unwrap();
    fs::write(archive.join("gw1.pem"), "old").unwrap();
    std::os::unix::fs::symlink(archive.join("gw1.pem"), live.join("gw.pem")).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    place.config.files.push(elsewhere.path().join("key.pem"));
    fs::write(archive.join("gw2.pem"), "renewed").unwrap();
    fs::write(elsewhere.path().join("key.pem"), "key").unwrap();
    let (linked, named) = (live.join("gw.pem"), elsewhere.path().join("key.pem"));
    let renew = || {
        fs::remove_file(&linked).unwrap();
        std::os::unix::fs::symlink(archive.join("gw2.pem"), &linked).unwrap();
        fs::write(elsewhere.path().join("new"), "new key").unwrap();
        fs::rename(elsewhere.path().join("new"), &named).unwrap();
    };
    let step = Barrier::new(2);
    std::thread::scope(|scope| {
        let read = scope.spawn(|| {
            place.within(|| {
                step.wait();
                step.wait();
                (fs::read_to_string(&linked), fs::read_to_string(&named))
            })
        });
        step.wait();
        renew();
        step.wait();
        let (certificate, key) = read.join().unwrap();
        assert_eq!((certificate.unwrap().as_str(), key.unwrap().as_str()), ("renewed", "new key"));
    });
    assert_eq!(fs::read_to_string(place.outside.path().join("secret")).unwrap(), "secret");
}

#[test]
fn nothing_is_run_and_no_other_process_nor_the_system_is_touched() {
    let place = Place::new("calls");
    place.within(|| {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.contains("\nSeccomp:\t2\n") && status.contains("\nNoNewPrivs:\t1\n"), "{status}");
        // Threads may be started, and are inside.
        let inherited = std::thread::spawn(|| fs::read_to_string("/proc/thread-self/status").unwrap());
        assert!(inherited.join().unwrap().contains("\nSeccomp:\t2\n"));

        assert_eq!(refused(Command::new("/bin/true").status()), Some(ErrorKind::PermissionDenied));
        assert_eq!(nix::unistd::execve(c"/bin/true", &[c"true"], &[c""]), Err(Errno::EPERM));
        assert_eq!(nix::sys::signal::kill(nix::unistd::Pid::parent(), None), Err(Errno::EPERM));
        assert_eq!(nix::sched::unshare(CloneFlags::CLONE_NEWNET), Err(Errno::EPERM));
        assert_eq!(
            nix::sched::setns(File::open("/proc/self/ns/net").unwrap(), CloneFlags::empty()),
            Err(Errno::EPERM)
        );
        assert_eq!(nix::unistd::chroot("/"), Err(Errno::EPERM));
        let mounted = nix::mount::mount(
            Some("none"),
            "/mnt",
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            None::<&str>,
        );
        assert_eq!(mounted, Err(Errno::EPERM));
        let socket =
            |family| nix::sys::socket::socket(family, SockType::Raw, SockFlag::empty(), None).map(drop);
        assert_eq!(socket(AddressFamily::Packet), Err(Errno::EPERM));
        assert_eq!(socket(AddressFamily::Netlink), Ok(()));
        let device = nix::sys::stat::mknodat(
            AT_FDCWD,
            &place.inside.path().join("state/device"),
            nix::sys::stat::SFlag::S_IFIFO,
            nix::sys::stat::Mode::S_IRUSR,
            0,
        );
        assert_eq!(device, Err(Errno::EPERM));
    });
}

/// Every thread of a process, by name, with the line of its status.
fn threads(pid: u32, line: &str) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let read = |path: PathBuf, name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
    let threads = tasks.map(|task| {
        let status = read(task.path(), "status");
        let found = status.lines().find_map(|found| found.strip_prefix(line)).unwrap_or("gone");
        (read(task.path(), "comm").trim().to_owned(), found.trim().to_owned())
    });
    threads.collect()
}

fn until(what: &str, reached: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !reached() {
        assert!(Instant::now() < deadline, "not in time: {what}");
    }
}

#[test]
fn a_daemon_with_every_thread_inside_carries_a_tunnel_reloads_and_serves_an_interface_made_anew() -> Result<()>
{
    let sites = Sites::new("sandbox")?;
    let ours = SiteConfig { esp_proposals: "aes256gcm16".into(), ..SiteConfig::a() };
    let _swan = StrongSwan::start(&sites.b, &ours.mirrored().swanctl())?;
    let config = GatewayConfig::new(ours.toml());
    let gateway = Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)?;
    gateway.initiate("site/net", SOON)?;
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());
    let said = gateway.portcullis(&["status"])?.stdout;
    assert!(said.contains("sandbox: files restricted, system calls restricted"), "{said}");

    // The TUN device's own variables, which lie where else nothing may be written.
    let quiet = sites.a.run(["cat", "/proc/sys/net/ipv6/conf/portcullis0/addr_gen_mode"])?.stdout;
    assert_eq!(quiet.trim(), "1", "the TUN device gives itself addresses");
    let inside = threads(gateway.process().pid(), "Seccomp:");
    for name in ["worker-0", "interfaces", "tokio-rt-worker", "watchdog", "slow-path"] {
        assert!(inside.iter().any(|(thread, _)| thread.starts_with(name)), "{name}: {inside:?}");
    }
    let outside: Vec<_> = inside.iter().filter(|(_, mode)| mode != "2" && mode != "gone").collect();
    assert!(outside.is_empty(), "{outside:?}");

    // A certificate beside the configuration is read, one elsewhere not, and the operator is told why.
    let with = |path: &str| {
        let other = format!(
            "[connections.other]\nremote_addrs = [\"192.0.2.9\"]\nlocal_addrs = [\"192.0.2.1\"]\n\
             local = {{ auth = \"psk\", id = \"a.example\" }}\n\
             remote = {{ auth = \"pubkey\", id = \"o.example\", pubkeys = [\"{path}\"] }}\n\
             [connections.other.children.x]\nlocal_ts = [\"10.1.0.0/24\"]\nremote_ts = [\"10.9.0.0/24\"]\n"
        );
        let secret =
            "[secrets.ike-other]\nids = [\"o.example\"]\nsecret = \"another secret of some length\"\n";
        GatewayConfig::new(format!("{}\n{other}{secret}", ours.toml()))
    };
    let key = public_key(&sites)?;
    let elsewhere = tempfile::tempdir().unwrap();
    fs::copy(&key, elsewhere.path().join("o.pub")).unwrap();
    let error = gateway.reload(&with(&elsewhere.path().join("o.pub").display().to_string()), &[]);
    let said = error.unwrap_err().to_string();
    assert!(said.contains("Permission denied") && said.contains("(`gateway.sandbox`)"), "{said}");
    let said = gateway.reload(&with(&key.display().to_string()), &[])?.stdout;
    assert!(said.ends_with("in force\n"), "{said}");
    assert!(sites.client.ping(Sites::SERVER, 3)?.complete());

    // XDP programs, pins and sockets for an interface that comes back.
    let mode = || {
        Ok::<_, LabError>(
            gateway.status()?.interfaces.iter().map(|served| served.mode.clone()).collect::<Vec<_>>(),
        )
    };
    sites.a.ip("link del inside0")?;
    until("the interface is missed", || mode().is_ok_and(|mode| mode.iter().any(|mode| mode == "gone")));
    sites.lab.link_with(LinkOptions::default(), &sites.client, "eth0", &sites.a, "inside0")?;
    for (host, interface, number) in [(&sites.a, "inside0", "1"), (&sites.client, "eth0", "10")] {
        host.address(interface, &format!("10.1.0.{number}/24"))?;
    }
    sites.client.route("default", "10.1.0.1")?;
    until("packets pass again", || sites.client.ping(Sites::SERVER, 1).is_ok_and(|ping| ping.complete()));
    Ok(())
}

/// A public key beside gateway `a`'s configuration.
fn public_key(sites: &Sites) -> Result<PathBuf> {
    let path = sites.a.dir().join("o.pub");
    let script = format!("openssl genpkey -algorithm ed25519 | openssl pkey -pubout -out {}", path.display());
    sites.a.run(["sh", "-c", &script])?;
    Ok(path)
}

#[test]
fn the_sandbox_can_be_left_out_and_says_so() -> Result<()> {
    let sites = Sites::new("nosandbox")?;
    let config = GatewayConfig {
        gateway_lines: "sandbox = false".into(),
        ..GatewayConfig::new(SiteConfig::a().toml())
    };
    let gateway = Gateway::start(&sites.a, Path::new(env!("CARGO_BIN_EXE_portcullis")), &config)?;
    let said = gateway.portcullis(&["status"])?.stdout;
    assert!(said.contains("sandbox: off (gateway.sandbox)"), "{said}");
    assert!(threads(gateway.process().pid(), "Seccomp:").iter().all(|(_, mode)| mode == "0"));
    Ok(())
}
