//! `portcullis explain`: why it does not work, and what to change.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use portcullis_ike::verdict::Reason;
use zeroize::Zeroizing;

use super::Format;
use crate::api::client::{Client, ClientError};
use crate::api::types::{IkeSa, VerdictReport};
use crate::capture::{self, Keys};
use crate::explain::{self, Page, Style};

/// `portcullis explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What went wrong with a peer: the newest verdict of each kind.
    Peer {
        /// The connection's name, or the peer's address.
        #[arg(value_name = "NAME|ADDRESS")]
        peer: String,
        #[command(flatten)]
        output: Format,
    },
    /// What went wrong last.
    Last(Format),
    /// What somebody else's negotiation in a capture came to.
    ///
    /// What each side wanted, and where it broke.
    Capture {
        /// A pcap or pcapng file with the packets of UDP 500 and 4500.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Keys of IKE SAs, as in Wireshark's `ikev2_decryption_table`.
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
    },
    /// What would become of one packet, and what to change.
    ///
    /// Its walk through policy, SA, route, neighbour and MTU: where it stops, and why.
    Flow(super::explain_flow::FlowArgs),
    /// What a reason code means.
    Reason {
        /// The code, such as PSK_MISMATCH; none: all of them.
        #[arg(value_name = "CODE")]
        code: Option<Reason>,
    },
}

/// Answers on standard output.
pub(super) fn run(client: &Client, args: ExplainArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match args.what {
        What::Peer { peer, output } => {
            let path = verdicts_about(&peer);
            let (verdicts, sas): (Vec<VerdictReport>, Vec<IkeSa>) =
                runtime.block_on(async { tokio::try_join!(client.get(&path), client.get("/v1/sas")) })?;
            write(&verdicts, output, |page| about_peer(page, &peer, &verdicts, &sas))
        }
        What::Last(output) => {
            let verdicts: Vec<VerdictReport> = runtime.block_on(client.get("/v1/verdicts"))?;
            let last = verdicts.into_iter().next();
            write(&last, output, |page| match &last {
                Some(last) => explain::verdict(page, last),
                None => page.line(&[(Style::Good, "no exchange has failed since the daemon was started")]),
            })
        }
        What::Flow(args) => {
            let text = runtime.block_on(super::explain_flow::run(client, &args))?;
            Ok(super::print(&text)?)
        }
        What::Capture { file, keys } => capture(&file, keys.as_deref()),
        What::Reason { code } => {
            super::print(&match code {
                Some(reason) => reason.text().to_owned(),
                None => reasons(),
            })?;
            Ok(())
        }
    }
}

fn capture(path: &Path, keys: Option<&Path>) -> anyhow::Result<()> {
    let keys = match keys {
        Some(keys) => {
            let text =
                std::fs::read_to_string(keys).with_context(|| format!("cannot read {}", keys.display()))?;
            Keys::parse(&Zeroizing::new(text)).with_context(|| format!("{} holds no keys", keys.display()))?
        }
        None => Keys::default(),
    };
    let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let reading = capture::read(file).with_context(|| path.display().to_string())?;
    let conversations = capture::conversations(&reading, &keys);
    anyhow::ensure!(!conversations.is_empty(), "{} has no IKE message that could be read", path.display());
    let text = drawn(|page| {
        for conversation in &conversations {
            page.gap();
            capture::draw(page, conversation, &capture::judge(conversation, &conversations, &reading));
        }
    });
    Ok(super::print(&text)?)
}

fn write<T: serde::Serialize>(
    answer: &T,
    output: Format,
    draw: impl FnOnce(&mut Page),
) -> anyhow::Result<()> {
    let text = if output.json { super::json(answer)? } else { drawn(draw) };
    Ok(super::print(&text)?)
}

/// A page for standard output.
pub(super) fn drawn(draw: impl FnOnce(&mut Page)) -> String {
    let mut page = Page::new(std::io::stdout().is_terminal());
    draw(&mut page);
    page.into_text()
}

/// The whole verdict of an error, for standard error.
pub(super) fn of_error(error: &ClientError) -> Option<String> {
    let ClientError::Refused(refused) = error else { return None };
    let verdict = refused.verdict.as_deref()?;
    let report = VerdictReport {
        kind: verdict.reason.kind(),
        page: verdict.reason.page(),
        verdict: verdict.clone(),
        times: 1,
        timestamp_seconds: 0,
        seconds_ago: 0,
    };
    let mut page = Page::new(std::io::stderr().is_terminal());
    explain::verdict(&mut page, &report);
    Some(page.into_text())
}

fn about_peer(page: &mut Page, peer: &str, verdicts: &[VerdictReport], sas: &[IkeSa]) {
    let of_peer = |sa: &&IkeSa| {
        let addr = sa.remote.parse::<std::net::SocketAddr>().map(|remote| remote.ip().to_string());
        sa.connection.as_deref() == Some(peer) || addr.is_ok_and(|addr| addr == peer)
    };
    for sa in sas.iter().filter(of_peer) {
        let connection = sa.connection.as_deref().unwrap_or("-");
        let since = sa.established_seconds.map(|s| format!(" for {}", explain::duration(s)));
        let children: Vec<&str> = sa.children.iter().map(|child| child.name.as_str()).collect();
        let children = if children.is_empty() { "no child".to_owned() } else { children.join(", ") };
        let text = format!(
            "{connection}: {}{} with {}, up: {children}",
            sa.state.to_lowercase(),
            since.unwrap_or_default(),
            sa.remote
        );
        page.line(&[(if sa.children.is_empty() { Style::Doubtful } else { Style::Good }, &text)]);
    }
    // An old verdict of the same reason says nothing that the new one does not.
    let mut told: Vec<Reason> = Vec::new();
    for report in verdicts {
        if told.contains(&report.verdict.reason) {
            continue;
        }
        told.push(report.verdict.reason);
        page.gap();
        explain::verdict(page, report);
    }
    if verdicts.is_empty() {
        let text = format!("nothing has failed with {peer} since the daemon was started");
        page.line(&[(Style::Plain, &text)]);
    }
}

fn reasons() -> String {
    drawn(|page| {
        let width = Reason::ALL.iter().map(|reason| reason.code().len()).max().unwrap_or(0);
        for reason in Reason::ALL {
            page.line(&[
                (Style::Strong, &format!("{reason:<width$}")),
                (Style::Faint, &format!("  {:<16}  ", reason.kind().to_string())),
                (Style::Plain, reason.summary()),
            ]);
        }
    })
}

/// Where the verdicts about a connection or an address are asked for.
pub(super) fn verdicts_about(peer: &str) -> String {
    format!("/v1/verdicts?peer={}", escaped(peer))
}

/// For a query: letters, digits and what addresses and names are made of stay, the rest is percent-encoded.
fn escaped(text: &str) -> String {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~:".contains(&octet);
    text.bytes()
        .map(|octet| if plain(octet) { char::from(octet).to_string() } else { format!("%{octet:02X}") })
        .collect()
}
