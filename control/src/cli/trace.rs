//! `portcullis trace` and `portcullis capture`: what the workers see of packets, while it is asked for.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use portcullis_gateway::wire::protocol;

use crate::api::client::Client;
use crate::api::trace::{TraceOpened, TracePage, TraceRequest, TracedFlow, TracedPacket, WantedOctets};
use crate::pcapng::{Packet, Writer};

/// How long to wait between two questions.
const PAUSE: Duration = Duration::from_millis(100);

/// `portcullis trace`.
#[derive(Debug, Args)]
pub(super) struct TraceArgs {
    /// Which packets: host, src, dst, net, proto, tcp, udp, icmp, port, spi, policy CONNECTION[/CHILD], dropped; all of them
    /// must fit, none means every packet. Inner and outer addresses count.
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// End after so many packets.
    #[arg(long, value_name = "PACKETS")]
    count: Option<u64>,
    /// Show at most so many packets a second.
    #[arg(long, default_value_t = 100, value_name = "PACKETS")]
    rate: u32,
    /// Print a JSON object for each packet.
    #[arg(long)]
    json: bool,
}

/// `portcullis capture`.
#[derive(Debug, Args)]
pub(super) struct CaptureArgs {
    /// Which packets, as for `portcullis trace`.
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// The file, in pcapng.
    #[arg(long, short, value_name = "FILE")]
    write: PathBuf,
    /// End after so many packets.
    #[arg(long, value_name = "PACKETS")]
    count: Option<u64>,
    /// Keep at most so many packets a second.
    #[arg(long, default_value_t = 1000, value_name = "PACKETS")]
    rate: u32,
    /// What ESP protects too: the inner packet beside its outer one. Needs `gateway.allow_decrypted_capture`.
    #[arg(long)]
    decrypted: bool,
}

pub(super) fn trace(client: &Client, args: &TraceArgs) -> anyhow::Result<()> {
    let request = TraceRequest { filter: args.filter.join(" "), rate: args.rate, octets: WantedOctets::None };
    let show = |packet: &TracedPacket| -> anyhow::Result<()> {
        let text = if args.json { serde_json::to_string(packet)? } else { line(packet) };
        Ok(super::print(&(text + "\n"))?)
    };
    follow(client, &request, args.count, show)
}

pub(super) fn capture(client: &Client, args: &CaptureArgs) -> anyhow::Result<()> {
    let octets = if args.decrypted { WantedOctets::Decrypted } else { WantedOctets::Outer };
    let request = TraceRequest { filter: args.filter.join(" "), rate: args.rate, octets };
    // Nobody else's to read, whatever is in it.
    let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&args.write);
    let file = file.with_context(|| format!("cannot write {}", args.write.display()))?;
    let mut writer = Writer::new(BufWriter::new(file))?;
    follow(client, &request, args.count, |packet| {
        keep(&mut writer, packet)?;
        Ok(writer.flush()?)
    })
}

/// Shows packets until there were enough, or the operator has.
fn follow(
    client: &Client,
    request: &TraceRequest,
    count: Option<u64>,
    mut show: impl FnMut(&TracedPacket) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let TraceOpened { id } = client.post("/v1/trace", request).await?;
        let path = format!("/v1/trace/{id}");
        let (mut shown, mut missed) = (0, 0);
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        let result = loop {
            let page: TracePage = match client.get(&path).await {
                Ok(page) => page,
                Err(error) => break Err(error.into()),
            };
            let left = count.map_or(usize::MAX, |count| usize::try_from(count - shown).unwrap_or(usize::MAX));
            let packets = page.packets.get(..left.min(page.packets.len())).unwrap_or_default();
            if let Err(error) = packets.iter().try_for_each(&mut show) {
                break Err(error);
            }
            shown += packets.len() as u64;
            missed = page.missed;
            if count.is_some_and(|count| shown >= count) {
                break Ok(());
            }
            tokio::select! {
                _ = &mut interrupted => break Ok(()),
                () = tokio::time::sleep(PAUSE) => {}
            }
        };
        // The daemon closes it by itself if it cannot be told.
        let _ = client.delete(&path).await;
        if missed > 0 {
            eprintln!(
                "{missed} more packets were seen and not shown (a narrower filter, or a higher --rate)"
            );
        }
        result
    })
}

fn keep(writer: &mut Writer<impl Write>, packet: &TracedPacket) -> anyhow::Result<()> {
    let comment = line(packet);
    for piece in &packet.octets {
        let octets = data_encoding::HEXLOWER.decode(piece.octets.as_bytes())?;
        let interface = match (piece.place.as_str(), &piece.interface) {
            (_, Some(interface)) => interface.as_str(),
            ("decrypted", None) => "decrypted",
            (_, None) => "host",
        };
        let at = (packet.at * 1e9) as u64;
        let (number, comment) = (packet.number, comment.as_str());
        let ethernet = piece.ethernet;
        writer.packet(&Packet { interface, ethernet, at, number, comment, octets: &octets })?;
    }
    Ok(())
}

/// A packet's path in one line.
fn line(packet: &TracedPacket) -> String {
    let at = packet.at.max(0.0);
    let day = at as u64 % 86_400;
    let micros = (at.fract() * 1e6) as u64;
    let (hour, minute, second) = (day / 3600, day / 60 % 60, day % 60);
    let mut parts = vec![format!(
        "{} {hour:02}:{minute:02}:{second:02}.{micros:06} {}",
        packet.number,
        packet.received_on.as_deref().unwrap_or("host")
    )];
    let spi = packet.spi_in.as_deref().unwrap_or("?");
    parts.push(match (&packet.flow, packet.class.as_str()) {
        (Some(outer), "esp") => format!("ESP {} > {} spi {spi}", outer.src, outer.dst),
        (Some(flow), "clear_outside") => format!("in clear {}", flow_text(flow)),
        (Some(flow), _) => flow_text(flow),
        (None, _) => "not readable".to_owned(),
    });
    if let Some(inner) = &packet.inner {
        parts.push(format!("in it {}", flow_text(inner)));
    }
    parts.push(match (&packet.policy, packet.action.as_deref()) {
        (Some(policy), Some("protect")) => format!("policy {policy}"),
        (Some(policy), Some(action)) => format!("policy {policy} ({action})"),
        _ => "no policy".to_owned(),
    });
    if let Some(spi) = packet.spi_out.as_deref().filter(|_| packet.sealed) {
        parts.push(format!("sealed, spi {spi}"));
    }
    parts.push(match (packet.verdict.as_str(), &packet.sent_on, &packet.reason) {
        ("sent", Some(interface), _) => format!("sent on {interface}"),
        ("to_host", Some(device), _) => format!("given to the host by {device}"),
        ("to_host", ..) => "given to the host".to_owned(),
        ("awaits_neighbour", ..) => "waits for its next hop to answer".to_owned(),
        ("awaits_sa", ..) => "waits for the SA that it has asked for".to_owned(),
        ("handed_over", ..) => "handed to the worker that owns its SA, where it is not followed".to_owned(),
        (_, _, Some(reason)) if packet.answered => format!("dropped: {reason} (its sender was told)"),
        (_, _, Some(reason)) => format!("dropped: {reason}"),
        _ => "cut into fragments, or counted elsewhere".to_owned(),
    });
    parts.join(" | ")
}

fn flow_text(flow: &TracedFlow) -> String {
    let TracedFlow { src, dst, protocol: number, src_port, dst_port } = flow;
    let name = match *number {
        protocol::ICMP => "icmp".to_owned(),
        protocol::ICMPV6 => "icmpv6".to_owned(),
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::ESP => "esp".to_owned(),
        other => format!("protocol {other}"),
    };
    if let (protocol::ICMP | protocol::ICMPV6, Some(both)) = (*number, src_port) {
        let [kind, code] = both.to_be_bytes();
        return format!("{src} > {dst} {name} type {kind} code {code}");
    }
    let port = |port: &Option<u16>| port.map_or_else(String::new, |port| format!("[{port}]"));
    format!("{src}{} > {dst}{} {name}", port(src_port), port(dst_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> TracedPacket {
        let flow = |src: &str, dst: &str, protocol| TracedFlow {
            src: src.to_owned(),
            dst: dst.to_owned(),
            protocol,
            src_port: Some(0x0800),
            dst_port: Some(0x0800),
        };
        TracedPacket {
            number: 17,
            at: 86_400.0 + 3661.5,
            received_on: Some("outside0".to_owned()),
            class: "esp".to_owned(),
            flow: Some(TracedFlow { src_port: None, dst_port: None, ..flow("192.0.2.2", "192.0.2.1", 50) }),
            spi_in: Some("c0ffee01".to_owned()),
            inner: Some(flow("10.2.0.9", "10.1.0.9", 1)),
            policy: Some("site/net".to_owned()),
            action: Some("protect".to_owned()),
            spi_out: Some("c0ffee02".to_owned()),
            verdict: "dropped".to_owned(),
            sent_on: None,
            sealed: false,
            reason: Some("no_route".to_owned()),
            answered: false,
            octets: Vec::new(),
        }
    }

    #[test]
    fn a_path_reads_from_left_to_right() {
        assert_eq!(
            line(&packet()),
            "17 01:01:01.500000 outside0 | ESP 192.0.2.2 > 192.0.2.1 spi c0ffee01 | in it 10.2.0.9 > 10.1.0.9 icmp type 8 \
             code 0 | policy site/net | dropped: no_route"
        );
    }
}
