//! A Portcullis daemon on a host, driven as an operator would: a configuration file, the command line, the log.
//! The binary is passed in, so that this crate depends on none of ours.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{LabError, Result};
use crate::host::{Host, Output};
use crate::process::{Mark, Process};

/// Loading the XDP program and binding sockets takes a moment on a busy machine.
const START_TIME: Duration = Duration::from_secs(60);
const STOP_TIME: Duration = Duration::from_secs(20);

/// The configuration of a daemon: the `[gateway]` section from its fields, the rest as TOML text.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Interfaces with the role "outside".
    pub outside: Vec<String>,
    /// Interfaces with the role "inside".
    pub inside: Vec<String>,
    /// Receive queues of each interface that get a socket; `None`: all.
    pub queues: Option<u32>,
    /// What an orderly stop does: "closed" or "open".
    pub on_stop: &'static str,
    /// Cores that workers are pinned to.
    pub workers: Vec<u32>,
    /// SA pairs that it holds.
    pub max_sas: u32,
    /// Further lines for `[gateway]`.
    pub gateway_lines: String,
    /// `[connections.…]` and `[secrets.…]`.
    pub connections: String,
}

impl GatewayConfig {
    /// `outside0` outside, `inside0` inside, one worker on core 0, closed when stopped.
    pub fn new(connections: impl Into<String>) -> Self {
        Self {
            outside: vec!["outside0".into()],
            inside: vec!["inside0".into()],
            queues: None,
            on_stop: "closed",
            workers: vec![0],
            max_sas: 1024,
            gateway_lines: String::new(),
            connections: connections.into(),
        }
    }

    fn toml(&self, host: &Host) -> String {
        let mut text = format!(
            "[gateway]\nadmin_socket = \"{}\"\nstate_dir = \"{}\"\npin_dir = \"{}\"\ntun = \"portcullis0\"\non_stop = \"{}\"\n\
             workers = {:?}\nframes = 8192\nmax_sas = {}\n{}\n",
            admin_socket(host).display(),
            host.dir().join("state").display(),
            host.pin_dir().display(),
            self.on_stop,
            self.workers,
            self.max_sas,
            self.gateway_lines
        );
        let roles = [("outside", &self.outside), ("inside", &self.inside)];
        for (role, name) in roles.iter().flat_map(|(role, names)| names.iter().map(move |name| (role, name)))
        {
            let queues = self.queues.map_or_else(String::new, |queues| format!("queues = {queues}\n"));
            text += &format!("\n[[gateway.interfaces]]\nname = \"{name}\"\nrole = \"{role}\"\n{queues}");
        }
        text.push('\n');
        text.push_str(&self.connections);
        text
    }
}

fn admin_socket(host: &Host) -> PathBuf {
    host.dir().join("admin.sock")
}

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Gateway {
    host: Host,
    binary: PathBuf,
    config: PathBuf,
    socket: PathBuf,
    process: Process,
}

/// An IKE SA as `portcullis sas --json` shows it.
#[derive(Clone, Debug, Deserialize)]
pub struct IkeSa {
    /// The connection's name in the configuration, once the peer has said who it is.
    pub connection: Option<String>,
    /// `CONNECTING`, `ESTABLISHED` or `DELETING`.
    pub state: String,
    /// The initiator's SPI, as printed.
    pub initiator_spi: String,
    /// The responder's SPI, as printed.
    pub responder_spi: String,
    /// Our address.
    pub local: String,
    /// The peer's address.
    pub remote: String,
    /// Our identity, once known.
    pub local_id: Option<String>,
    /// The peer's identity, once known.
    pub remote_id: Option<String>,
    /// Who it is in EAP, if that is how it was authenticated.
    pub eap_id: Option<String>,
    /// Groups that an AAA server says it belongs to.
    pub groups: Vec<String>,
    /// The negotiated algorithms, once known.
    pub proposal: Option<String>,
    /// Our inner addresses, from the peer.
    #[serde(default)]
    pub local_vips: Vec<String>,
    /// The peer's inner addresses, from our pools.
    #[serde(default)]
    pub remote_vips: Vec<String>,
    /// Its child SAs.
    pub children: Vec<ChildSa>,
}

/// A pair of ESP SAs.
#[derive(Clone, Debug, Deserialize)]
pub struct ChildSa {
    /// The child's name in the configuration.
    pub name: String,
    /// The SPI we receive on, as printed.
    pub spi_in: String,
    /// The SPI we send with, as printed.
    pub spi_out: String,
    /// The negotiated algorithms.
    pub proposal: String,
    /// Whose it is, if it is one of several.
    #[serde(default)]
    pub resource: Option<String>,
    /// `TUNNEL` or `TUNNEL-in-UDP`.
    pub mode: String,
    /// Our traffic selectors.
    pub local_ts: Vec<String>,
    /// The peer's traffic selectors.
    pub remote_ts: Vec<String>,
    /// Packets opened.
    pub packets_in: u64,
    /// Bytes of the packets opened.
    pub bytes_in: u64,
    /// Packets sealed.
    pub packets_out: u64,
    /// Bytes of the packets sealed.
    pub bytes_out: u64,
}

/// What of `portcullis status --json` trials look at.
#[derive(Clone, Debug, Deserialize)]
pub struct GatewayStatus {
    /// The AEAD engine that was chosen at start.
    pub aead_engine: String,
    /// What was got for each interface.
    pub interfaces: Vec<InterfaceStatus>,
    /// The packet balance of all workers.
    pub packets: PacketBalance,
    /// Verdicts of failed exchanges, newest first.
    pub verdicts: Vec<Verdict>,
}

/// An interface of a running gateway.
#[derive(Clone, Debug, Deserialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// How it is driven, such as `native, copy`.
    pub mode: String,
}

/// Where the workers' packets came from and went.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct PacketBalance {
    /// From RX rings.
    pub received: u64,
    /// From the host, through the TUN device.
    pub from_kernel: u64,
    /// Made by the gateway.
    pub generated: u64,
    /// Into TX rings.
    pub transmitted: u64,
    /// To the host, through the TUN device.
    pub to_kernel: u64,
    /// Dropped, for any reason.
    pub dropped: u64,
    /// Waiting for a neighbour.
    pub held: u64,
    /// From one worker to another, on their way.
    pub handed_over: u64,
}

impl PacketBalance {
    /// Packets that are neither gone nor accounted for: those in flight, so none when nothing moves. Negative if
    /// more went than came.
    pub fn in_flight(&self) -> i128 {
        let came = [self.received, self.from_kernel, self.generated];
        let gone = [self.transmitted, self.to_kernel, self.dropped, self.held];
        came.map(i128::from).iter().sum::<i128>() - gone.map(i128::from).iter().sum::<i128>()
    }
}

/// A failed exchange, as `portcullis explain --json` shows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Verdict {
    /// Its stable reason.
    pub reason: String,
    /// The connection, where known.
    pub connection: Option<String>,
    /// The peer's address and port, where known.
    pub peer: Option<String>,
    /// What happened.
    pub sentence: String,
}

impl Gateway {
    /// Writes the configuration, starts the daemon and waits until it says that it is ready.
    ///
    /// # Errors
    /// [`LabError::Ended`] with its log when it refuses the configuration or cannot start.
    pub fn start(host: &Host, binary: &Path, config: &GatewayConfig) -> Result<Self> {
        let (socket, file) = (admin_socket(host), host.dir().join("portcullis.toml"));
        fs::write(&file, config.toml(host)).map_err(LabError::io(format!("write {}", file.display())))?;
        let process = run_daemon(host, binary, &file)?;
        Ok(Self { host: host.clone(), binary: binary.into(), config: file, socket, process })
    }

    /// Writes another configuration and has the daemon put it in force, or say what that would mean (`--dry-run`).
    ///
    /// # Errors
    /// With what `portcullis reload` prints when it is refused.
    pub fn reload(&self, config: &GatewayConfig, arguments: &[&str]) -> Result<Output> {
        fs::write(&self.config, config.toml(&self.host))
            .map_err(LabError::io(format!("write {}", self.config.display())))?;
        self.portcullis(&[&["reload"], arguments].concat())
    }

    /// Starts the daemon again after [`Gateway::kill9`] or [`Gateway::stop`], with the same configuration.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = run_daemon(&self.host, &self.binary, &self.config)?;
        Ok(())
    }

    /// Brings a connection, or `connection/child`, up; returns when it is.
    ///
    /// # Errors
    /// [`LabError::Failed`] with the reason that the daemon prints.
    pub fn initiate(&self, what: &str, within: Duration) -> Result<Output> {
        self.portcullis(&["initiate", what, "--timeout", &within.as_secs().to_string()])
    }

    /// Takes a connection, or `connection/child`, down.
    pub fn terminate(&self, what: &str) -> Result<Output> {
        self.portcullis(&["terminate", what])
    }

    /// Has the IKE SAs of a connection, or the CHILD SAs of `connection/child`, rekeyed; does not wait.
    pub fn rekey(&self, what: &str) -> Result<Output> {
        self.portcullis(&["rekey", what])
    }

    /// Has the clients of a connection sent to another gateway; does not wait.
    pub fn redirect(&self, connection: &str, to: &str) -> Result<Output> {
        self.portcullis(&["redirect", connection, to])
    }

    /// Has the IKE SAs of a connection made anew; does not wait.
    pub fn reauthenticate(&self, connection: &str) -> Result<Output> {
        self.portcullis(&["reauthenticate", connection])
    }

    /// All IKE SAs with their children.
    pub fn sas(&self) -> Result<Vec<IkeSa>> {
        self.json("sas")
    }

    /// The child SAs of all IKE SAs.
    pub fn children(&self) -> Result<Vec<ChildSa>> {
        Ok(self.sas()?.into_iter().flat_map(|sa| sa.children).collect())
    }

    /// Asks for the IKE SAs until `reached` accepts them.
    ///
    /// # Errors
    /// [`LabError::Timeout`] after `within`, with the last answer.
    pub fn wait_sas(
        &self,
        what: &str,
        within: Duration,
        reached: impl Fn(&[IkeSa]) -> bool,
    ) -> Result<Vec<IkeSa>> {
        let deadline = Instant::now() + within;
        loop {
            let sas = self.sas()?;
            if reached(&sas) {
                return Ok(sas);
            }
            if Instant::now() >= deadline {
                let seen = format!("{sas:?}");
                return Err(LabError::Timeout { what: what.into(), waited: within, seen });
            }
        }
    }

    /// Asks for the CHILD SAs until `reached` accepts them: a worker may be a moment behind the wire.
    ///
    /// # Errors
    /// [`LabError::Timeout`] after `within`, with the last answer.
    pub fn wait_children(
        &self,
        what: &str,
        within: Duration,
        reached: impl Fn(&[ChildSa]) -> bool,
    ) -> Result<Vec<ChildSa>> {
        let deadline = Instant::now() + within;
        loop {
            let children = self.children()?;
            if reached(&children) {
                return Ok(children);
            }
            if Instant::now() >= deadline {
                let seen = format!("{children:?}");
                return Err(LabError::Timeout { what: what.into(), waited: within, seen });
            }
        }
    }

    /// Drops by reason, of all workers together; `xdp_…` are the XDP program's.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>> {
        self.json("drops")
    }

    /// The daemon's state.
    pub fn status(&self) -> Result<GatewayStatus> {
        self.json("status")
    }

    /// Runs `portcullis` with the daemon's admin socket.
    pub fn portcullis(&self, arguments: &[&str]) -> Result<Output> {
        let words = [self.binary.as_os_str(), "--socket".as_ref(), self.socket.as_os_str()];
        self.host.run(words.into_iter().chain(arguments.iter().map(|argument| argument.as_ref())))
    }

    /// Follows what happens, from now on, as `portcullis events --json` prints it: an object a line.
    ///
    /// # Errors
    /// [`LabError::Ended`] with what is wrong if the daemon does not tell.
    pub fn events(&self, arguments: &[&str]) -> Result<Process> {
        let words = [self.binary.as_os_str(), "--socket".as_ref(), self.socket.as_os_str()];
        let words = words.into_iter().chain(["events".as_ref(), "--json".as_ref()]);
        let process =
            self.host.spawn_words(words.chain(arguments.iter().map(|argument| argument.as_ref())))?;
        process.wait_line("\"event\":\"subscribed\"", START_TIME)?;
        Ok(process)
    }

    /// Runs the emergency exit, `portcullis detach --open`, which needs no daemon.
    pub fn detach_open(&self) -> Result<Output> {
        let words = [self.binary.as_os_str(), "detach".as_ref(), "--open".as_ref(), "--config".as_ref()];
        self.host.run(words.into_iter().chain([self.config.as_os_str()]))
    }

    /// Kills the daemon as a crash would: SIGKILL, nothing tidied.
    pub fn kill9(&mut self) {
        self.process.kill();
    }

    /// Stops the daemon in order (SIGTERM).
    pub fn stop(&mut self) -> Result<()> {
        self.process.terminate(STOP_TIME).map(drop)
    }

    /// Waits until the daemon has logged a line with `pattern` after `from`.
    pub fn wait_log(&self, from: Mark, pattern: &str, within: Duration) -> Result<String> {
        self.process.wait_line_from(from, pattern, within).map(|(line, _)| line)
    }

    /// The daemon's process: its log, its pid.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The host it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    fn json<T: DeserializeOwned>(&self, command: &str) -> Result<T> {
        let text = self.portcullis(&[command, "--json"])?.stdout;
        serde_json::from_str(&text).map_err(|error| LabError::Answer {
            tool: "portcullis",
            reason: error.to_string(),
            answer: text,
        })
    }
}

fn run_daemon(host: &Host, binary: &Path, config: &Path) -> Result<Process> {
    let words = [binary.as_os_str(), "run".as_ref(), "--config".as_ref(), config.as_os_str()];
    let process = host.spawn_words(words)?;
    process.wait_line("portcullis is ready", START_TIME)?;
    Ok(process)
}
