//! `portcullis probe`: what a live responder accepts, and a configuration that would match it.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use portcullis_ike::probe::{Finding, MOST_QUESTIONS, Outcome, Probe};
use portcullis_ike::verdict::TransformKind;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::explain::drawn;
use crate::explain::{Page, Style};

/// Times that a question is sent.
const TRIES: usize = 2;
/// Between two questions, so that nobody takes it for a flood.
const PACE: Duration = Duration::from_millis(20);

/// `portcullis probe`.
#[derive(Debug, Args)]
pub(super) struct ProbeArgs {
    /// The responder.
    #[arg(value_name = "ADDRESS", value_parser = super::address)]
    address: IpAddr,
    /// Its port.
    #[arg(long, default_value_t = 500, value_name = "PORT")]
    port: u16,
    /// The address to ask from: it may know one of ours only.
    #[arg(long, value_name = "ADDRESS", value_parser = super::address)]
    from: Option<IpAddr>,
    /// Wait so long for each answer, in milliseconds.
    #[arg(long, default_value_t = 1000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    timeout: u64,
}

pub(super) fn run(args: &ProbeArgs) -> anyhow::Result<()> {
    let remote = SocketAddr::new(args.address, args.port);
    let any: IpAddr = if remote.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let local = SocketAddr::new(args.from.unwrap_or(any), 0);
    let socket = UdpSocket::bind(local).with_context(|| format!("cannot send from {}", local.ip()))?;
    socket.connect(remote).with_context(|| format!("cannot send to {remote}"))?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("the system gives no random numbers")?;
    let mut rng = ChaCha20Rng::from_seed(seed);
    let (mut probe, mut packets) = (Probe::default(), 0);
    while let Some(question) = probe.question(&mut rng) {
        let mut answered = false;
        for _ in 0..TRIES {
            packets += 1;
            // An ICMP error of the one before is told here; the next try shows whether it stays so.
            let _ = socket.send(&question);
            answered = await_answer(&socket, &mut probe, Duration::from_millis(args.timeout))?;
            if answered {
                break;
            }
        }
        if !answered {
            probe.handle_silence();
        }
        std::thread::sleep(PACE);
    }
    super::print(&drawn(|page| draw(page, &probe, remote, packets)))?;
    anyhow::ensure!(!matches!(probe.outcome(), Outcome::Silent), "no answer from {remote}");
    Ok(())
}

/// Whether an answer to the question came in time.
fn await_answer(socket: &UdpSocket, probe: &mut Probe, timeout: Duration) -> anyhow::Result<bool> {
    let deadline = Instant::now() + timeout;
    let mut buffer = vec![0; 65_535];
    while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut buffer) {
            Ok(length) if probe.handle_answer(buffer.get(..length).unwrap_or_default()) => return Ok(true),
            Ok(_) => {}
            // Nobody listens (ICMP), or the time is up.
            Err(_) => return Ok(false),
        }
    }
    Ok(false)
}

fn draw(page: &mut Page, probe: &Probe, remote: SocketAddr, packets: usize) {
    let asked =
        format!("{} questions of at most {MOST_QUESTIONS}, {packets} packets sent", probe.questions());
    match probe.outcome() {
        Outcome::Silent => {
            page.line(&[
                (Style::Bad, &format!("{remote} does not answer")),
                (Style::Faint, &format!("  ({asked})")),
            ]);
            page.indented(2, |page| page.paragraph(Style::Plain, "No IKE there, UDP blocked on the way, or it answers only addresses that it knows (--from chooses ours)."));
        }
        Outcome::Odd(error) => page.line(&[
            (Style::Bad, &format!("{remote} answers with {error}")),
            (Style::Faint, &format!("  ({asked})")),
        ]),
        Outcome::RefusesAll => {
            page.line(&[
                (Style::Bad, &format!("{remote} refuses everything")),
                (Style::Faint, &format!("  ({asked})")),
            ]);
            page.indented(2, |page| page.paragraph(Style::Plain, "It speaks IKEv2 and takes none of all the proposals that are known here: most likely it has no connection for our address, or only for another than the one that was asked."));
        }
        Outcome::Answers => answers(page, probe, remote, &asked),
    }
}

fn answers(page: &mut Page, probe: &Probe, remote: SocketAddr, asked: &str) {
    page.line(&[(Style::Good, &format!("{remote} answers")), (Style::Faint, &format!("  ({asked})"))]);
    if let Some((name, by)) = probe.seems() {
        page.indented(2, |page| page.line(&[(Style::Plain, &format!("it seems to be {name}, by {by}"))]));
    }
    let findings = probe.findings();
    for kind in [1, 3, 2, 4] {
        if !findings.iter().any(|finding| finding.transform_type == kind) {
            continue;
        }
        page.gap();
        page.indented(2, |page| {
            page.line(&[(Style::Strong, TransformKind::of(kind).name())]);
            for finding in findings.iter().filter(|finding| finding.transform_type == kind) {
                transform(page, finding);
            }
        });
    }
    page.gap();
    page.indented(2, |page| match probe.proposal() {
        Some(proposal) => {
            page.line(&[(
                Style::Strong,
                "A configuration that would match (identities and secret have to be agreed on):",
            )]);
            let address = remote.ip();
            for line in [
                "[connections.NAME]".to_owned(),
                format!("remote_addrs = [\"{address}\"]"),
                format!("proposals = [\"{proposal}\"]"),
                "local = { auth = \"psk\", id = \"<ours>\" }".to_owned(),
                "remote = { auth = \"psk\", id = \"<its>\" }".to_owned(),
            ] {
                page.indented(4, |page| page.line(&[(Style::Good, &line)]));
            }
        }
        None => page
            .line(&[(Style::Bad, "Nothing of what it accepts is strong enough and known to this version.")]),
    });
}

fn transform(page: &mut Page, finding: &Finding) {
    let (style, mark) = match (finding.accepted, finding.weak) {
        (Some(true), None) => (Style::Good, page.pick("✓", "yes")),
        (Some(true), Some(_)) => (Style::Doubtful, page.pick("✓", "yes")),
        (Some(false), _) => (Style::Faint, page.pick("·", "no")),
        (None, _) => (Style::Faint, "?"),
    };
    let weak = match (finding.accepted, finding.weak) {
        (Some(true), Some(why)) => format!("  weak: {why}"),
        _ => String::new(),
    };
    page.indented(2, |page| {
        page.line(&[(style, &format!("{mark:<3} {}", finding.transform)), (Style::Doubtful, &weak)]);
    });
}
