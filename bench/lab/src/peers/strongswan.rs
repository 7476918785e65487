//! strongSwan: one charon per host, its files and control socket in the host's directory. ESP runs in user space
//! (plugin kernel-libipsec), because this has to work on kernels without ESP; that plugin always encapsulates
//! in UDP port 4500 and shows the tunnel as the interface `ipsec0`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::error::{LabError, Result};
use crate::host::{Host, Output};
use crate::process::{Mark, Process};

/// charon's pid file is `/run/charon.pid`, whatever its settings say, and it starts only once per pid file. So each
/// gets a `/run` of its own ($1), in a mount namespace of its own.
const START: &str = "mount --bind \"$1\" /run && exec /usr/lib/ipsec/charon";
const START_TIME: Duration = Duration::from_secs(30);

/// The order matters: kernel-libipsec must register its ESP before kernel-netlink would.
const PLUGINS: &str = "random nonce aes sha1 sha2 pem pkcs1 pkcs8 x509 revocation constraints pubkey hmac xcbc cmac \
                       kdf gcm ctr chapoly curve25519 openssl eap-identity eap-mschapv2 eap-tls eap-ttls kernel-libipsec \
                       kernel-netlink socket-default vici updown";

/// A running charon.
#[derive(Debug)]
pub struct StrongSwan {
    host: Host,
    process: Process,
    connections: PathBuf,
    socket: String,
}

impl StrongSwan {
    /// Starts charon on a host and loads connections and secrets, written as in `swanctl.conf`.
    ///
    /// # Errors
    /// With charon's or swanctl's output: the packages are missing, or the configuration is refused.
    pub fn start(host: &Host, swanctl_conf: &str) -> Result<Self> {
        Self::start_with(host, swanctl_conf, "")
    }

    /// As [`StrongSwan::start`], with further settings for the `charon` section of `strongswan.conf`, such as
    /// `retransmit_tries = 1`.
    pub fn start_with(host: &Host, swanctl_conf: &str, charon_settings: &str) -> Result<Self> {
        let dir = host.dir();
        let (settings, connections) = (dir.join("strongswan.conf"), dir.join("swanctl.conf"));
        let socket = format!("unix://{}/charon.vici", dir.display());
        write(&settings, &Self::settings(&socket, charon_settings))?;
        write(&connections, swanctl_conf)?;
        let run = dir.join("run");
        fs::create_dir_all(&run).map_err(LabError::io(format!("make {}", run.display())))?;
        let mut charon = Command::new("unshare");
        charon.args(["--mount", "sh", "-c", START, "sh"]).arg(&run).env("STRONGSWAN_CONF", &settings);
        let process = host.spawn(charon)?;
        // Its last line before it serves: all plugins are loaded then, the control socket listens.
        process.wait_line("spawning", START_TIME)?;
        let running = Self { host: host.clone(), process, connections, socket };
        running.load()?;
        Ok(running)
    }

    /// What `strongswan.conf` has to say for charon to work in a lab, with its control socket and further settings for
    /// the `charon` section. [`StrongSwan::start`] writes it; it is for those who start charon themselves.
    pub fn settings(socket: &str, charon_settings: &str) -> String {
        format!(
            "charon {{\n  load = {PLUGINS}\n  plugins {{ vici {{ socket = {socket} }} }}\n  \
             filelog {{ stderr {{ default = 1\n ike = 2\n flush_line = yes }} }}\n  {charon_settings}\n}}\n"
        )
    }

    /// Replaces the connections and loads them.
    pub fn reload(&self, swanctl_conf: &str) -> Result<()> {
        write(&self.connections, swanctl_conf)?;
        self.load()
    }

    /// Initiates a child and waits until it is up.
    ///
    /// # Errors
    /// [`LabError::Failed`] with swanctl's account of the exchange when the peer refuses or does not answer in
    /// `within` (whole seconds).
    pub fn initiate(&self, child: &str, within: Duration) -> Result<Output> {
        let seconds = within.as_secs().to_string();
        self.swanctl(&["--initiate", "--child", child, "--timeout", &seconds])
    }

    /// Deletes an IKE SA and its children, and waits until the peer has confirmed.
    pub fn terminate(&self, connection: &str) -> Result<Output> {
        self.swanctl(&["--terminate", "--ike", connection, "--timeout", "10"])
    }

    /// Rekeys the CHILD SA of a child; does not wait.
    pub fn rekey_child(&self, child: &str) -> Result<Output> {
        self.swanctl(&["--rekey", "--child", child])
    }

    /// Rekeys an IKE SA; does not wait.
    pub fn rekey_ike(&self, connection: &str) -> Result<Output> {
        self.swanctl(&["--rekey", "--ike", connection])
    }

    /// Sends the clients of a connection to another gateway; does not wait.
    pub fn redirect(&self, connection: &str, to: &str) -> Result<Output> {
        self.swanctl(&["--redirect", "--ike", connection, "--gateway", to])
    }

    /// The SAs as `swanctl --list-sas` prints them; empty if there are none.
    pub fn list_sas(&self) -> Result<String> {
        self.swanctl(&["--list-sas"]).map(|output| output.stdout)
    }

    /// Waits until charon has logged a line with `pattern` after `from`.
    pub fn wait_log(&self, from: Mark, pattern: &str, within: Duration) -> Result<String> {
        self.process.wait_line_from(from, pattern, within).map(|(line, _)| line)
    }

    /// The end of charon's log so far.
    pub fn mark(&self) -> Mark {
        self.process.mark()
    }

    /// The process, for its log and its end.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    fn load(&self) -> Result<()> {
        let file = self.connections.display().to_string();
        self.swanctl(&["--load-all", "--noprompt", "--file", &file]).map(drop)
    }

    fn swanctl(&self, arguments: &[&str]) -> Result<Output> {
        let settings = self.host.dir().join("strongswan.conf").display().to_string();
        let directory = self.host.dir().display().to_string();
        let environment = [format!("STRONGSWAN_CONF={settings}"), format!("SWANCTL_DIR={directory}")];
        let words = ["env", &environment[0], &environment[1], "swanctl"];
        self.host.run(words.iter().chain(arguments).chain(&["--uri", &self.socket]))
    }
}

fn write(path: &PathBuf, text: &str) -> Result<()> {
    fs::write(path, text).map_err(LabError::io(format!("write {}", path.display())))
}
