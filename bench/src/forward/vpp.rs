//! VPP in the gateway's place: one worker on the gateway's core, its af_xdp driver on both interfaces, and of its plugins
//! that one alone. ESP is a protected tunnel interface with one SA each way, with the keys that the bench uses anyway.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use portcullis_gateway::wire::Mac;
use portcullis_lab::Process;

use super::gateway::Mode;
use super::lab::{FAR_GATEWAY, FAR_HOST, NEAR_GATEWAY, NEAR_HOST, Place, REMOTE};
use super::packets::{KEYMAT, spi_of};
use super::{GATEWAY_CORE, TRAFFIC_CORE, cpu};

/// For starting, and for ending.
const PATIENCE: Duration = Duration::from_secs(30);
/// What VPP calls its first worker's thread.
const WORKER: &str = "vpp_wk_0";
/// Where it takes commands.
const SOCKET: &str = "vpp.cli";
/// The last command, and what its answer begins with.
const LAST: &str = "show version";
const READY: &str = "vpp v";

/// A running VPP.
#[derive(Debug)]
pub(crate) struct Vpp {
    process: Process,
    /// The worker's thread.
    pub(crate) worker: i32,
}

impl Vpp {
    /// Starts it for what a mode's packets are to become, and waits until it is ready.
    pub(crate) fn start(place: &Place, program: &Path, mode: Mode) -> anyhow::Result<Self> {
        let dir = place.gateway.dir();
        let settings = dir.join("vpp.conf");
        std::fs::write(&settings, self::settings(dir)).context("writing VPP's settings")?;
        let mut command = Command::new(program);
        // Room for other XDP programs would cost it a jump, and leave pins behind.
        command.arg("-c").arg(&settings).env("LIBXDP_SKIP_DISPATCHER", "1");
        let process = place
            .gateway
            .spawn(command)
            .with_context(|| format!("{} does not start (./dev setup vpp builds one)", program.display()))?;
        configure(&process, &dir.join(SOCKET), commands(place, mode))?;
        let worker = cpu::thread_of(process.pid(), WORKER).context("VPP has no worker")?;
        // As far as the machine allows.
        let _ = cpu::make_real_time(worker);
        Ok(Self { process, worker })
    }

    /// Stops it, and with it its hold on the interfaces.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.process.terminate(PATIENCE)?;
        Ok(())
    }
}

impl Drop for Vpp {
    fn drop(&mut self) {
        self.process.kill();
        // One that was killed has left them.
        for segment in ["global_vm", "vpe-api"] {
            let _ = std::fs::remove_file(format!("/dev/shm/{}-{segment}", std::process::id()));
        }
    }
}

/// Gives it commands by its socket, and waits until it has obeyed them.
fn configure(process: &Process, socket: &Path, commands: Vec<String>) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) => {
                let tail = process.tail();
                let last = tail.lines().last().unwrap_or_default();
                anyhow::ensure!(!process.has_ended(), "VPP has ended: {last}");
                anyhow::ensure!(start.elapsed() < PATIENCE, "VPP takes no commands: {error}: {last}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    for command in commands.iter().map(String::as_str).chain([LAST]) {
        writeln!(stream, "{command}")?;
    }
    let (mut said, mut piece) = (String::new(), [0; 4096]);
    while !said.contains(READY) {
        let count = stream.read(&mut piece).context("VPP does not answer")?;
        anyhow::ensure!(count > 0, "VPP has hung up");
        said.push_str(&String::from_utf8_lossy(piece.get(..count).unwrap_or_default()));
    }
    // Beside the commands, and names of what they have made, only what it refuses.
    let refusal = ["error", "unknown input", "failed"];
    let refused = said.lines().find(|line| refusal.iter().any(|word| line.contains(word)));
    anyhow::ensure!(refused.is_none(), "VPP refuses its configuration: {}", refused.unwrap_or_default());
    Ok(())
}

/// Everything in the host's directory.
fn settings(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "unix {{ nodaemon nobanner nosyslog runtime-dir {dir} cli-listen {dir}/{SOCKET} cli-no-pager }}\n\
         api-segment {{ prefix {} }}\n\
         statseg {{ size 16M socket-name {dir}/stats.sock }}\n\
         cpu {{ main-core {TRAFFIC_CORE} corelist-workers {GATEWAY_CORE} }}\n\
         memory {{ main-heap-size 512M main-heap-page-size default }}\n\
         buffers {{ buffers-per-numa 32768 page-size default }}\n\
         plugins {{ plugin default {{ disable }} plugin af_xdp_plugin.so {{ enable }} }}\n",
        std::process::id()
    )
}

/// Its configuration: what [`Place::new`] gives the kernel, and the tunnel.
fn commands(place: &Place, mode: Mode) -> Vec<String> {
    let macs = place.macs;
    let mut commands = Vec::new();
    for (kernels, name, mac, address, neighbour, its) in [
        ("inside0", "inside", macs.inside, format!("{NEAR_GATEWAY}/16"), NEAR_HOST, macs.near),
        ("outside0", "outside", macs.outside, format!("{FAR_GATEWAY}/24"), FAR_HOST, macs.far),
    ] {
        commands.extend([
            format!("create interface af_xdp host-if {kernels} name {name} num-rx-queues 1 no-zero-copy no-syscall-lock"),
            format!("set interface mac address {name} {}", written(mac)),
            format!("set interface ip address {name} {address}"),
            format!("set interface state {name} up"),
            format!("set ip neighbor {name} {neighbour} {} static", written(its)),
        ]);
    }
    if mode == Mode::Plain {
        commands.push(format!("ip route add {REMOTE} via {FAR_HOST} outside"));
        return commands;
    }
    let (key, salt) = KEYMAT.split_at(32);
    let hex = |octets: &[u8]| octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
    let sa = |id: u32, more: &str| {
        format!(
            "ipsec sa add {id} spi {} esp crypto-alg aes-gcm-256 crypto-key {} salt 0x{} use-esn {more}",
            spi_of(0, 0),
            hex(key),
            hex(salt)
        )
    };
    commands.extend([
        sa(1, &format!("tunnel src {FAR_GATEWAY} dst {FAR_HOST}")),
        sa(2, &format!("inbound anti-replay-size 1024 tunnel src {FAR_HOST} dst {FAR_GATEWAY}")),
        "ipsec itf create".to_owned(),
        "ipsec tunnel protect ipsec0 sa-in 2 sa-out 1".to_owned(),
        "set interface unnumbered ipsec0 use outside".to_owned(),
        "set interface state ipsec0 up".to_owned(),
        format!("ip route add {REMOTE} via ipsec0"),
    ]);
    commands
}

fn written(mac: Mac) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}
