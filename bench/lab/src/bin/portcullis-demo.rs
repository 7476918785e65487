//! `./dev demo`: two Portcullis gateways between a client and a server, all in network namespaces of this machine.
//! Shows that nothing protected crosses the wire between the gateways in clear, before and while the tunnel is up,
//! that real streams pass, and that the counters of both gateways agree with what the wire shows. Prints a
//! report; exits 0 only if all of it held.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use portcullis_lab::{
    Capture, ChildSa, Class, Counts, Direction, Gateway, GatewayConfig, GatewayStatus, IkeSa, Iperf,
    IperfReport, IperfServer, SiteConfig, Sites, sweep,
};

const USAGE: &str = "usage: portcullis-demo --gateway PATH [--seconds N]\n       portcullis-demo --sweep";
const TUNNEL_TIME: Duration = Duration::from_secs(30);
/// Datagrams that may be lost, in thousandths: the demo's hosts share two cores, and a queue may run over.
const UDP_LOSS_ALLOWED: u64 = 10;
const UDP_MEGABITS: u32 = 40;
const UDP_LENGTH: u32 = 1200;

struct Options {
    gateway: PathBuf,
    seconds: u32,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["--sweep"] {
        sweep();
        return ExitCode::SUCCESS;
    }
    let Some(options) = parse(&arguments) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: &[String]) -> Option<Options> {
    let mut options = Options { gateway: PathBuf::new(), seconds: 5 };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--gateway" => options.gateway = words.next()?.into(),
            "--seconds" => options.seconds = words.next()?.parse().ok().filter(|seconds| *seconds > 0)?,
            _ => return None,
        }
    }
    (!options.gateway.as_os_str().is_empty()).then_some(options)
}

fn run(options: &Options) -> Result<()> {
    let binary = options.gateway.canonicalize().with_context(|| options.gateway.display().to_string())?;
    let progress = Progress(Instant::now());
    progress.say("making the hosts: client - gateway a - wire - gateway b - server");
    let sites = Sites::new("demo")?;
    let wire = sites.capture()?;
    progress.say("starting a gateway on each side");
    let a = start(&sites.a, &binary, &SiteConfig::a())?;
    let b = start(&sites.b, &binary, &SiteConfig::a().mirrored())?;
    let held = try_it(options, &progress, &sites, &wire, &a, &b);
    if held.is_err() {
        for gateway in [&a, &b] {
            eprintln!(
                "\n--- end of the log of gateway {} ---\n{}",
                gateway.host().name(),
                gateway.process().tail()
            );
        }
    }
    held
}

fn start(host: &portcullis_lab::Host, binary: &Path, site: &SiteConfig) -> Result<Gateway> {
    Ok(Gateway::start(host, binary, &GatewayConfig::new(site.toml()))?)
}

fn try_it(
    options: &Options,
    progress: &Progress,
    sites: &Sites,
    wire: &Capture,
    a: &Gateway,
    b: &Gateway,
) -> Result<()> {
    progress.say("no tunnel yet: the client's packets must be dropped, not leak");
    let early = sites.client.ping(Sites::SERVER, 3)?;
    let before = wire.settle()?;
    if early.received > 0 || before.packets(Class::Clear) > 0 {
        bail!("{early:?} without a tunnel, on the wire: {before}");
    }

    progress.say("gateway a initiates the tunnel");
    a.initiate("site/net", TUNNEL_TIME)?;
    progress.say("the tunnel is up; ping over IPv4 and IPv6");
    for to in [Sites::SERVER, Sites::SERVER_V6] {
        let ping = sites.client.ping(to, 5)?;
        if !ping.complete() {
            bail!("ping to {to}: {ping:?}");
        }
    }

    let server = IperfServer::start(&sites.server, Sites::SERVER)?;
    let mut streams = Vec::new();
    let (tcp, udp) = (Iperf::tcp(options.seconds), Iperf::udp(options.seconds, UDP_MEGABITS, UDP_LENGTH));
    for (name, stream) in [
        ("TCP client to server", tcp.clone()),
        ("TCP server to client", tcp.reversed()),
        ("UDP client to server", udp.clone()),
        ("UDP server to client", udp.reversed()),
    ] {
        progress.say(&format!("{name}, {} s", options.seconds));
        streams.push((name, stream.run(&sites.client, &server).with_context(|| name.to_owned())?));
    }

    progress.say("reading the counters");
    let counts = wire.settle()?;
    let outcome = Outcome {
        wire: counts,
        a: one_sa(a)?,
        b: one_sa(b)?,
        streams,
        drops: [("a", a.drops()?), ("b", b.drops()?)],
        status: [("a", a.status()?), ("b", b.status()?)],
    };
    outcome.print();
    outcome.check(wire)
}

/// The one IKE SA with one child that a gateway must have.
fn one_sa(gateway: &Gateway) -> Result<(IkeSa, ChildSa)> {
    let sas = gateway.sas()?;
    match sas.as_slice() {
        [sa] => match sa.children.as_slice() {
            [child] => Ok((sa.clone(), child.clone())),
            children => bail!("gateway {} has {} children", gateway.host().name(), children.len()),
        },
        _ => bail!("gateway {} has {} IKE SAs", gateway.host().name(), sas.len()),
    }
}

struct Outcome {
    wire: Counts,
    a: (IkeSa, ChildSa),
    b: (IkeSa, ChildSa),
    streams: Vec<(&'static str, IperfReport)>,
    drops: [(&'static str, BTreeMap<String, u64>); 2],
    status: [(&'static str, GatewayStatus); 2],
}

impl Outcome {
    fn print(&self) {
        let (ike, child) = &self.a;
        println!("\n  Tunnel");
        let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
        println!("    IKE   {}  SPIs {} {}", known(&ike.proposal), ike.initiator_spi, ike.responder_spi);
        println!(
            "    ESP   {}  {}  SPIs {} (in) {} (out)",
            child.proposal, child.mode, child.spi_in, child.spi_out
        );
        println!(
            "    {} [{}] === {} [{}]",
            ike.local,
            known(&ike.local_id),
            ike.remote,
            known(&ike.remote_id)
        );
        println!("    {} === {}", child.local_ts.join(" "), child.remote_ts.join(" "));

        println!("\n  Gateways          packets        bytes");
        for (name, (_, child)) in [("a", &self.a), ("b", &self.b)] {
            println!("    {name} sealed   {:>12} {:>12}", child.packets_out, child.bytes_out);
            println!("    {name} opened   {:>12} {:>12}", child.packets_in, child.bytes_in);
        }

        for (name, status) in &self.status {
            let drivers: Vec<String> = status
                .interfaces
                .iter()
                .map(|interface| format!("{} {}", interface.name, interface.mode))
                .collect();
            println!("    {name} uses {}; {}", status.aead_engine, drivers.join("; "));
        }

        println!("\n  Wire between the gateways, packets");
        for (what, class) in [
            ("ESP", Class::Esp),
            ("ESP in UDP", Class::UdpEsp),
            ("IKE", Class::Ike),
            ("ARP and ND", Class::Neighbour),
            ("clear text", Class::Clear),
        ] {
            let (from_a, to_a) = (self.wire.of(class, Direction::In), self.wire.of(class, Direction::Out));
            println!("    {what:<10} a to b {:>9}   b to a {:>9}", from_a.packets, to_a.packets);
        }

        println!("\n  Streams through the tunnel");
        for (name, report) in &self.streams {
            let (megabits, megabytes) = (report.bits_per_second / 1e6, report.received_bytes as f64 / 1e6);
            print!("    {name}  {megabits:>8.1} Mbit/s  {megabytes:>8.1} MB");
            match report.packets {
                0 => println!(),
                packets => println!("  {} of {packets} datagrams lost", report.lost_packets),
            }
        }

        println!("\n  Drops by reason");
        for (name, drops) in &self.drops {
            let listed: Vec<String> = drops
                .iter()
                .filter(|(_, count)| **count > 0)
                .map(|(reason, count)| format!("{reason} {count}"))
                .collect();
            println!("    {name}  {}", if listed.is_empty() { "none".to_owned() } else { listed.join(", ") });
        }
        println!();
    }

    /// Everything that has to hold, all failures together.
    fn check(&self, capture: &Capture) -> Result<()> {
        let ((ike_a, child_a), (ike_b, child_b)) = (&self.a, &self.b);
        let (from_a, to_a) = (self.wire.esp(Direction::In), self.wire.esp(Direction::Out));
        let housekeeping = [Class::Esp, Class::UdpEsp, Class::Ike, Class::Keepalive, Class::Neighbour];
        let strangers = self.wire.all().filter(|(class, _)| !housekeeping.contains(class)).count();
        let mut checks = vec![
            ("the capture missed nothing", self.wire.lost == 0),
            ("only IKE, ESP, ARP and ND crossed the wire", strangers == 0),
            ("ESP crossed the wire both ways", from_a > 0 && to_a > 0),
            ("both gateways have the same IKE SA", ike_a.initiator_spi == ike_b.initiator_spi),
            ("a sends with the SPI that b receives on", child_a.spi_out == child_b.spi_in),
            ("b sends with the SPI that a receives on", child_b.spi_out == child_a.spi_in),
            ("a sealed what the wire carried from it", child_a.packets_out == from_a),
            ("b sealed what the wire carried from it", child_b.packets_out == to_a),
            ("a opened no more than that, and nearly all", nearly_all(child_a.packets_in, to_a)),
            ("b opened no more than that, and nearly all", nearly_all(child_b.packets_in, from_a)),
        ];
        for (name, status) in [
            ("a accounts for every packet", &self.status[0].1),
            ("b accounts for every packet", &self.status[1].1),
        ] {
            checks.push((name, status.packets.in_flight() == 0));
        }
        for (name, report) in &self.streams {
            let delivered = match report.packets {
                0 => report.received_bytes > 0,
                packets => report.lost_packets * 1000 <= packets * UDP_LOSS_ALLOWED,
            };
            checks.push((name, delivered));
        }
        for (what, held) in &checks {
            println!("  {}  {what}", if *held { "ok    " } else { "FAILED" });
        }
        let failed = checks.iter().filter(|(_, held)| !held).count();
        if failed > 0 {
            for line in capture.clear_text().iter().take(10) {
                eprintln!("  in clear on the wire: {line}");
            }
            bail!("{failed} of {} checks; wire: {}", checks.len(), self.wire);
        }
        println!();
        Ok(())
    }
}

/// Whether `part` is at most `whole`, and at least 99 % of it.
fn nearly_all(part: u64, whole: u64) -> bool {
    part <= whole && part * 100 >= whole * 99
}

struct Progress(Instant);

impl Progress {
    fn say(&self, what: &str) {
        println!("[{:>5.1} s] {what}", self.0.elapsed().as_secs_f64());
    }
}
