//! A host: one network namespace. Commands, sockets and closures are put in it with `setns` on a thread of
//! their own, whose children inherit the namespace. `ip netns exec` is not used, because it also makes a new
//! mount namespace and remounts `/sys` there, which hides the BPF file system.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::error::{LabError, Result};
use crate::packet_socket::PacketSocket;
use crate::process::{Process, Stream, command_line, command_of};

/// How long a command run to its end may take.
const COMMAND_TIME: Duration = Duration::from_secs(60);

/// One network namespace of a [`Lab`](crate::Lab). A clone is another handle to the same host.
#[derive(Clone, Debug)]
pub struct Host(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    netns: String,
    dir: PathBuf,
    pin_dir: PathBuf,
    logs: AtomicU32,
}

/// What a command that succeeded has written.
#[derive(Clone, Debug)]
pub struct Output {
    /// Standard output, whole.
    pub stdout: String,
    /// Standard error, whole.
    pub stderr: String,
}

impl Host {
    /// Makes the namespace `netns` with loopback up and IPv6 quiet: no duplicate address detection (an address
    /// can be used at once), no router solicitations.
    pub(crate) fn create(name: &str, netns: &str, dir: &Path, pin_dir: &Path) -> Result<Self> {
        let host = Self(Arc::new(Inner {
            name: name.into(),
            netns: netns.into(),
            dir: dir.into(),
            pin_dir: pin_dir.into(),
            logs: AtomicU32::new(0),
        }));
        run_here(&command_of(["ip", "netns", "add", netns]), name)?;
        for scope in ["all", "default"] {
            for (key, value) in [
                ("accept_dad", "0"),
                ("dad_transmits", "0"),
                ("router_solicitations", "0"),
                ("accept_ra", "0"),
                ("autoconf", "0"),
            ] {
                host.sysctl(&format!("net.ipv6.conf.{scope}.{key}"), value)?;
            }
        }
        host.ip("link set lo up")?;
        Ok(host)
    }

    /// The short name given to [`Lab::host`](crate::Lab::host).
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The name under which `ip netns` knows this host.
    pub fn netns(&self) -> &str {
        &self.0.netns
    }

    /// A directory for this host's files and sockets, removed with the lab.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// A directory in the BPF file system (not yet made) that is removed with the lab.
    pub fn pin_dir(&self) -> &Path {
        &self.0.pin_dir
    }

    /// Runs `f` on a thread inside this host's namespace. A socket that `f` returns stays in the namespace. A
    /// panic in `f` goes on in the caller.
    ///
    /// # Errors
    /// [`LabError::Io`] when the namespace cannot be entered.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let path = Path::new("/run/netns").join(&self.0.netns);
        let joined = std::thread::scope(|scope| {
            scope
                .spawn(|| -> io::Result<T> {
                    setns(File::open(&path)?, CloneFlags::CLONE_NEWNET)?;
                    Ok(f())
                })
                .join()
        });
        match joined {
            Ok(entered) => entered.map_err(LabError::io(format!("enter {}", path.display()))),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// [`LabError::Failed`] with its output when it does not exit 0, [`LabError::Timeout`] after a minute.
    pub fn run<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Output> {
        let command = command_of(words);
        let line = command_line(&command);
        let mut process = self.spawn(command)?;
        process.close_stdin();
        let status = process.wait_exit(COMMAND_TIME)?;
        if !status.success() {
            let (host, output) = (self.name().to_owned(), process.tail());
            return Err(LabError::Failed { command: line, host, status, output });
        }
        Ok(Output { stdout: process.output(Stream::Stdout), stderr: process.output(Stream::Stderr) })
    }

    /// Runs `ip` with the words of `arguments`.
    pub fn ip(&self, arguments: &str) -> Result<Output> {
        self.run(std::iter::once("ip").chain(arguments.split_whitespace()))
    }

    /// Starts a command that goes on running; its output goes to a log in [`Host::dir`].
    pub fn spawn(&self, command: Command) -> Result<Process> {
        let program =
            Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = self.0.logs.fetch_add(1, Ordering::Relaxed);
        let log = self.0.dir.join(format!("{number:03}-{program}.log"));
        self.enter(|| Process::start(command, self.name(), &log))?
    }

    /// Starts a command given as its words.
    pub fn spawn_words<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Process> {
        self.spawn(command_of(words))
    }

    /// Adds an address such as `10.1.0.1/24` or `2001:db8::1/64`, usable when this returns.
    pub fn address(&self, interface: &str, prefix: &str) -> Result<()> {
        let nodad = if prefix.contains(':') { " nodad" } else { "" };
        self.ip(&format!("addr add {prefix} dev {interface}{nodad}")).map(drop)
    }

    /// Adds a route; `default` works for both families, told apart by `via`.
    pub fn route(&self, destination: &str, via: &str) -> Result<()> {
        let family = if via.contains(':') { "-6" } else { "-4" };
        self.ip(&format!("{family} route add {destination} via {via}")).map(drop)
    }

    /// Sets a kernel variable of this namespace, named as `sysctl` names it.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        self.enter(|| std::fs::write(&path, value))?
            .map_err(LabError::io(format!("set {name} on {}", self.name())))
    }

    /// Makes this host a router: forwards both families, believes any source address, sends no redirects.
    pub fn forward(&self) -> Result<()> {
        for (name, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
            ("net.ipv4.conf.all.send_redirects", "0"),
            ("net.ipv4.conf.default.send_redirects", "0"),
        ] {
            self.sysctl(name, value)?;
        }
        Ok(())
    }

    /// The hardware address of an interface, as six bytes.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let listing = self.ip(&format!("-o link show {interface}"))?.stdout;
        let mut words = listing.split_whitespace().skip_while(|word| *word != "link/ether").skip(1);
        words.next().and_then(parse_mac).ok_or_else(|| LabError::Answer {
            tool: "ip",
            reason: "no link/ether address".into(),
            answer: listing.clone(),
        })
    }

    /// Sends a whole Ethernet frame out of an interface, as it is: forged, broken or seen before.
    pub fn send_frame(&self, interface: &str, frame: &[u8]) -> Result<()> {
        let send = || PacketSocket::open(interface, frame.len().max(1))?.send(frame);
        self.enter(send)?.map_err(LabError::io(format!("send a frame on {interface} of {}", self.name())))
    }

    /// Sends `count` echo requests at once and counts the answers; none is a result, not an error. It ends with the last
    /// answer. One that is late is waited for: for twice the longest round trip or one interval, whichever is longer, which
    /// is why the interval is that of an idle line.
    pub fn ping(&self, to: IpAddr, count: u32) -> Result<Ping> {
        self.ping_with(to, count, 56, &[])
    }

    /// Begins to send an echo request every `interval`, until [`Pings::stop`].
    pub fn begin_pings(&self, to: IpAddr, interval: Duration) -> Result<Pings> {
        let (interval, to) = (interval.as_secs_f64().to_string(), to.to_string());
        let process = self.spawn_words(["ping", "-n", "-i", &interval, &to])?;
        Ok(Pings { process })
    }

    /// As [`Host::ping`], with `size` bytes of data and further arguments (`-M do`, `-I address`).
    pub fn ping_with(&self, to: IpAddr, count: u32, size: u32, further: &[&str]) -> Result<Ping> {
        let (count, size, to) = (count.to_string(), size.to_string(), to.to_string());
        let words = ["ping", "-n", "-q", "-l", &count, "-i", "2", "-W", "2", "-c", &count, "-s", &size];
        let mut process = self.spawn_words(words.iter().chain(further).chain([&to.as_str()]))?;
        process.wait_exit(COMMAND_TIME)?;
        let text = process.output(Stream::Stdout);
        Ping::parse(&text).ok_or_else(|| LabError::Answer {
            tool: "ping",
            reason: "no statistics".into(),
            answer: process.tail(),
        })
    }
}

/// A running `ping`.
#[derive(Debug)]
pub struct Pings {
    process: Process,
}

impl Pings {
    /// Waits until one more has been answered than by now.
    pub fn wait_answer(&self, within: Duration) -> Result<()> {
        self.process.wait_line_from(self.process.mark(), "bytes from", within).map(drop)
    }

    /// Stops it and counts. The request under way when it is stopped may be counted as lost, so the last answer is
    /// waited for first.
    pub fn stop(mut self) -> Result<Ping> {
        self.wait_answer(COMMAND_TIME)?;
        self.process.interrupt(COMMAND_TIME)?;
        let text = self.process.output(Stream::Stdout);
        Ping::parse(&text).ok_or_else(|| LabError::Answer {
            tool: "ping",
            reason: "no statistics".into(),
            answer: self.process.tail(),
        })
    }
}

/// The count of a run of `ping`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Echo requests sent.
    pub sent: u32,
    /// Answers received.
    pub received: u32,
}

impl Ping {
    /// Whether every request was answered.
    pub fn complete(self) -> bool {
        self.sent == self.received
    }

    /// Reads the line `3 packets transmitted, 3 received, 0% packet loss, time 2ms`.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find(|line| line.contains("packets transmitted"))?;
        let mut parts = line.split(", ");
        let mut number = || parts.next()?.split_whitespace().next()?.parse().ok();
        Some(Self { sent: number()?, received: number()? })
    }
}

/// Runs a command in the namespace of the caller, for what makes and removes namespaces.
pub(crate) fn run_here(command: &Command, on: &str) -> Result<String> {
    let mut again = Command::new(command.get_program());
    again.args(command.get_args());
    let line = command_line(command);
    let output = again.output().map_err(LabError::io(format!("start `{line}`")))?;
    if !output.status.success() {
        return Err(LabError::Failed {
            command: line,
            host: on.into(),
            status: output.status,
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statistics_of_ping_are_read_also_when_errors_came_back() {
        let clean = "3 packets transmitted, 3 received, 0% packet loss, time 41ms";
        assert_eq!(Ping::parse(clean), Some(Ping { sent: 3, received: 3 }));
        let errors = "--- x ---\n3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 2ms\n";
        assert_eq!(Ping::parse(errors), Some(Ping { sent: 3, received: 0 }));
        assert_eq!(Ping::parse("ping: connect: Network is unreachable"), None);
    }

    #[test]
    fn a_hardware_address_has_six_bytes() {
        assert_eq!(parse_mac("02:00:00:00:00:1f"), Some([2, 0, 0, 0, 0, 0x1f]));
        assert_eq!(parse_mac("02:00:00:00:00"), None);
        assert_eq!(parse_mac("02:00:00:00:00:1f:00"), None);
    }
}
