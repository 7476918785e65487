//! libreswan: one pluto per host, its files and control socket in the host's directory. Its package excludes strongSwan's, so
//! `./dev setup test` unpacks it beside them. Its ESP is the kernel's: on a kernel without any, what it has negotiated
//! cannot be installed, and it says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{LabError, Result};
use crate::host::Host;
use crate::process::Process;

/// Where it is unpacked.
const ROOT: &str = "/usr/local/lib/portcullis-lab/libreswan";
/// Its programs know each other by these names, whatever is there otherwise. $1 is the root, and the rest pluto's command.
const START: &str = "mount -t tmpfs tmpfs /usr/libexec && mkdir /usr/libexec/ipsec && \
                     mount --bind \"$1/usr/libexec/ipsec\" /usr/libexec/ipsec && shift && exec \"$@\"";
const START_TIME: Duration = Duration::from_secs(30);

/// A running pluto.
#[derive(Debug)]
pub struct Libreswan {
    host: Host,
    process: Process,
    socket: PathBuf,
}

impl Libreswan {
    /// What this machine lacks to run one, in words for an operator; `None` if nothing.
    pub fn missing() -> Option<String> {
        let pluto = program("pluto").arg("--version").output();
        match pluto {
            Ok(output) if output.status.success() => None,
            _ => Some(format!("there is no libreswan at {ROOT} (./dev setup test unpacks one)")),
        }
    }

    /// Starts pluto on a host with connections as in `ipsec.conf`, of which one at least is to be added, and `ipsec.secrets`.
    ///
    /// # Errors
    /// With pluto's output: it does not start, or refuses the configuration.
    pub fn start(host: &Host, ipsec_conf: &str, secrets: &str) -> Result<Self> {
        let at = |name: &str| host.dir().join("libreswan").join(name);
        for dir in ["nss", "run", "d"] {
            fs::create_dir_all(at(dir)).map_err(LabError::io(format!("make {}", at(dir).display())))?;
        }
        for (name, text) in [("ipsec.conf", ipsec_conf), ("ipsec.secrets", secrets)] {
            fs::write(at(name), text).map_err(LabError::io(format!("write {}", at(name).display())))?;
        }
        // The database of keys, which has none but has to be there.
        let mut certutil = Command::new(Path::new(ROOT).join("usr/bin/certutil"));
        certutil.env("LD_LIBRARY_PATH", libraries()).args(["-N", "--empty-password", "-d"]);
        certutil.arg(format!("sql:{}", at("nss").display()));
        host.spawn(certutil)?.wait_exit(START_TIME)?;

        let mut pluto = Command::new("unshare");
        pluto.env("LD_LIBRARY_PATH", libraries()).args(["--mount", "sh", "-c", START, "sh", ROOT]);
        pluto.arg("/usr/libexec/ipsec/pluto").args(["--nofork", "--stderrlog", "--use-xfrm"]);
        for (option, name) in [
            ("--config", "ipsec.conf"),
            ("--secretsfile", "ipsec.secrets"),
            ("--nssdir", "nss"),
            ("--rundir", "run"),
            ("--ipsecdir", "d"),
        ] {
            pluto.arg(option).arg(at(name));
        }
        let process = host.spawn(pluto)?;
        process.wait_line("added IKEv2 connection", START_TIME)?;
        process.wait_line("listening for IKE messages", START_TIME)?;
        Ok(Self { host: host.clone(), process, socket: at("run/pluto.ctl") })
    }

    /// Asks for a connection. What becomes of it, the log says.
    ///
    /// # Errors
    /// With whack's output: pluto knows no such connection.
    pub fn initiate(&self, connection: &str) -> Result<()> {
        let mut whack = program("whack");
        whack.arg("--ctlsocket").arg(&self.socket);
        whack.args(["--name", connection, "--initiate", "--asynchronous"]);
        let mut process = self.host.spawn(whack)?;
        process.close_stdin();
        process.wait_exit(START_TIME).map(drop)
    }

    /// Waits until pluto has logged a line with `pattern`, and returns it.
    pub fn wait_log(&self, pattern: &str, within: Duration) -> Result<String> {
        self.process.wait_line(pattern, within)
    }
}

fn libraries() -> PathBuf {
    Path::new(ROOT).join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH))
}

fn program(name: &str) -> Command {
    let mut command = Command::new(Path::new(ROOT).join("usr/libexec/ipsec").join(name));
    command.env("LD_LIBRARY_PATH", libraries());
    command
}
