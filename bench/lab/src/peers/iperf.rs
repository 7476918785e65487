//! iperf3: a stream of TCP or UDP between two hosts, and what of it arrived.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::error::{LabError, Result};
use crate::host::Host;
use crate::process::{Mark, Process, Stream};

/// What a server prints when it waits for a client.
const LISTENING: &str = "Server listening";
const START_TIME: Duration = Duration::from_secs(15);
/// The longest a client may take, connecting included.
const RUN_TIME: Duration = Duration::from_secs(120);

/// A server; serves one client after another until dropped.
#[derive(Debug)]
pub struct IperfServer {
    address: IpAddr,
    process: Process,
    /// The end of its output when the last client began: it says so when it is ready for the next.
    seen: Mutex<Mark>,
}

impl IperfServer {
    /// Starts a server bound to an address of the host; it listens when this returns.
    pub fn start(host: &Host, address: IpAddr) -> Result<Self> {
        let process = host.spawn_words(["iperf3", "-s", "--forceflush", "-B", &address.to_string()])?;
        process.wait_line(LISTENING, START_TIME)?;
        Ok(Self { address, process, seen: Mutex::default() })
    }

    /// Waits until it has done with the last client, whose successor it would turn away.
    fn ready(&self) -> Result<()> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        (_, *seen) = self.process.wait_line_from(*seen, LISTENING, START_TIME)?;
        Ok(())
    }

    /// What the server has printed, for error messages.
    pub fn tail(&self) -> String {
        self.process.tail()
    }
}

/// A stream to be sent.
#[derive(Clone, Debug)]
pub struct Iperf {
    udp: bool,
    reverse: bool,
    seconds: u32,
    arguments: Vec<String>,
}

/// What became of a stream. Bytes are of the transported data, without headers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IperfReport {
    /// Bytes that the sender handed to its kernel.
    pub sent_bytes: u64,
    /// Bytes that the receiver got.
    pub received_bytes: u64,
    /// The receiver's rate, bits per second.
    pub bits_per_second: f64,
    /// TCP segments sent again; 0 for UDP.
    pub retransmits: u64,
    /// UDP datagrams that did not arrive; 0 for TCP.
    pub lost_packets: u64,
    /// UDP datagrams sent; 0 for TCP.
    pub packets: u64,
}

impl Iperf {
    /// A TCP stream at full speed for some seconds.
    pub fn tcp(seconds: u32) -> Self {
        Self { udp: false, reverse: false, seconds, arguments: Vec::new() }
    }

    /// A UDP stream at a fixed rate, in datagrams with `length` bytes of data.
    pub fn udp(seconds: u32, megabits_per_second: u32, length: u32) -> Self {
        let arguments = format!("-u -b {megabits_per_second}M -l {length}");
        Self {
            udp: true,
            reverse: false,
            seconds,
            arguments: arguments.split(' ').map(str::to_owned).collect(),
        }
    }

    /// The server sends and the client receives.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// Binds the client to an address of its host.
    #[must_use]
    pub fn from(mut self, address: IpAddr) -> Self {
        self.arguments.extend(["-B".to_owned(), address.to_string()]);
        self
    }

    /// Runs the stream to its end.
    ///
    /// # Errors
    /// When the client cannot connect, the connection breaks, or the report cannot be read.
    pub fn run(&self, client: &Host, server: &IperfServer) -> Result<IperfReport> {
        let mut process = self.start(client, server)?;
        let status = process.wait_exit(RUN_TIME)?;
        let text = process.output(Stream::Stdout);
        if !status.success() {
            let (command, host) = (process.command().to_owned(), client.name().to_owned());
            return Err(LabError::Failed { command, host, status, output: text });
        }
        // With --json a client that could not connect exits 0 and tells in its report.
        parse(&text, self.udp).map_err(|reason| LabError::Answer { tool: "iperf3", reason, answer: text })
    }

    /// Starts the stream and leaves it running, to do something to the gateways meanwhile.
    pub fn start(&self, client: &Host, server: &IperfServer) -> Result<Process> {
        server.ready()?;
        let (address, seconds) = (server.address.to_string(), self.seconds.to_string());
        let words = ["iperf3", "-c", &address, "-t", &seconds, "--json", "--connect-timeout", "10000"]
            .map(str::to_owned);
        let reverse = self.reverse.then(|| "-R".to_owned());
        client.spawn_words(words.into_iter().chain(self.arguments.iter().cloned()).chain(reverse))
    }
}

fn parse(text: &str, udp: bool) -> Result<IperfReport, String> {
    let report: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if let Some(error) = report.get("error").and_then(Value::as_str) {
        return Err(error.to_owned());
    }
    let number = |path: &str| {
        report.pointer(path).and_then(Value::as_f64).ok_or_else(|| format!("{path} is not there"))
    };
    // Counts are far below 2^53, where a float still holds every integer.
    let count = |path: &str| number(path).map(|value| value as u64);
    let sent_bytes = count("/end/sum_sent/bytes")?;
    let received_bytes = count("/end/sum_received/bytes")?;
    let bits_per_second = number("/end/sum_received/bits_per_second")?;
    Ok(IperfReport {
        sent_bytes,
        received_bytes,
        bits_per_second,
        // A client that only receives does not learn them.
        retransmits: if udp { 0 } else { count("/end/sum_sent/retransmits").unwrap_or(0) },
        lost_packets: if udp { count("/end/sum/lost_packets")? } else { 0 },
        packets: if udp { count("/end/sum/packets")? } else { 0 },
    })
}
