//! `portcullis events`: what happens, a line each.

use std::io::{ErrorKind, Write as _};

use clap::Args;

use crate::api::client::Client;
use crate::api::events::{CarriedReport, ChildReport, EventLine, Happened, Who};
use crate::explain::duration;

/// `portcullis events`.
#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Only what is about this connection.
    #[arg(long, value_name = "NAME")]
    connection: Option<String>,
    /// End after so many events.
    #[arg(long, value_name = "EVENTS")]
    count: Option<u64>,
    /// Print a JSON object for each event; the first is `subscribed`: nothing is missed from there on.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(client: &Client, args: &EventsArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let path = match &args.connection {
        Some(name) => format!("/v1/events?connection={}", query(name)),
        None => "/v1/events".to_owned(),
    };
    runtime.block_on(async {
        let mut lines = client.follow(&path).await?;
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        let mut left = args.count;
        while left != Some(0) {
            let text = tokio::select! {
                _ = &mut interrupted => return Ok(()),
                text = lines.next() => text?,
            };
            let Some(text) = text else { anyhow::bail!("the daemon has ended the stream: it is stopping") };
            let event: EventLine = serde_json::from_str(&text)?;
            if !matches!(event.what, Happened::Subscribed { .. } | Happened::Lost { .. }) {
                left = left.map(|left| left.saturating_sub(1));
            }
            let text = if args.json { text } else { line(&event) };
            match std::io::stdout().write_all((text + "\n").as_bytes()) {
                // Whoever read has gone.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                written => written?,
            }
        }
        Ok(())
    })
}

/// A value in the query of a URI (RFC 3986 §2.1).
fn query(value: &str) -> String {
    let octet = |octet: u8| match octet {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(octet).to_string(),
        other => format!("%{other:02X}"),
    };
    value.bytes().map(octet).collect()
}

/// An event in one line.
fn line(event: &EventLine) -> String {
    let at = event.timestamp_seconds.max(0.0);
    let day = at as u64 % 86_400;
    let millis = (at.fract() * 1e3) as u64;
    let (hour, minute, second) = (day / 3600, day / 60 % 60, day % 60);
    format!("{hour:02}:{minute:02}:{second:02}.{millis:03} {}", what(&event.what))
}

fn what(what: &Happened) -> String {
    match what {
        Happened::Subscribed { version } => format!("portcullis {version} tells what happens from now on"),
        Happened::Lost { lost, of } => format!("LOST {lost} {of}: they came faster than they were read"),
        Happened::IkeUp { who } => format!("IKE up       {}{}", peer(who), proof(who)),
        Happened::IkeRekeyed { who, replaced } => {
            format!("IKE rekeyed  {}, number {} in place of {replaced}", peer(who), who.ike)
        }
        Happened::IkeMoved { who, from_local, from_remote } => {
            format!("IKE moved    {}, to {} from {from_remote} to {from_local}", peer(who), who.local)
        }
        Happened::IkeDown { who, reason, seconds, carried } => {
            format!("IKE down     {}: {reason}{}", peer(who), account(*seconds, carried))
        }
        Happened::ChildUp { child } => {
            let ChildReport { mode, proposal, local_ts, remote_ts, .. } = child;
            let (local, remote) = (local_ts.join(" "), remote_ts.join(" "));
            format!("CHILD up     {}: {local} === {remote}, {mode}, {proposal}", name(child))
        }
        Happened::ChildRekeyed { child, replaced } => {
            format!("CHILD rekeyed {}: {} in place of {replaced}", name(child), child.spi_in)
        }
        Happened::ChildDown { child, reason, seconds, carried } => {
            format!("CHILD down   {}: {reason}{}", name(child), account(*seconds, carried))
        }
        Happened::AddressesAssigned { connection, identity, addresses, .. } => {
            format!("addresses    {connection}: {identity} has {}", addresses.join(", "))
        }
        Happened::AddressesReleased { connection, addresses, .. } => {
            format!("addresses    {connection}: {} free again", addresses.join(", "))
        }
        Happened::AddressesAcquired { connection, addresses } => {
            format!("addresses    {connection}: we have {}", addresses.join(", "))
        }
        Happened::AddressesLost { connection, addresses } => {
            format!("addresses    {connection}: we have no more {}", addresses.join(", "))
        }
        Happened::Redirected { connection, remote, to, by_us: true, .. } => {
            format!("redirect     {connection}: {remote} is sent to {to}")
        }
        Happened::Redirected { connection, remote, to, by_us: false, .. } => {
            format!("redirect     {connection}: {remote} sends us to {to}")
        }
        Happened::Verdict { verdict, .. } => {
            let connection = verdict.connection.as_deref().unwrap_or("no connection");
            let peer = verdict.peer.map_or_else(String::new, |peer| format!(", {peer}"));
            format!("failure      {connection}{peer}: {verdict}")
        }
        Happened::Reloaded { effects, .. } => {
            let effects =
                if effects.is_empty() { "nothing has changed".to_owned() } else { effects.join("; ") };
            format!("reload       {effects}")
        }
        Happened::ReloadRefused { reason } => format!("reload       refused: {reason}"),
        Happened::Revocation { source, uri, answered: true, detail } => {
            format!("revocation   {source} of {uri}: {detail}")
        }
        Happened::Revocation { source, uri, answered: false, detail } => {
            format!("revocation   no {source} of {uri}: {detail}")
        }
        Happened::Aaa { session, user, action, detail, .. } => {
            format!("AAA          {}, session {session}: {action}, {detail}", user.as_deref().unwrap_or("?"))
        }
    }
}

fn peer(who: &Who) -> String {
    let id = who.eap_id.as_ref().or(who.remote_id.as_ref()).map_or("?", String::as_str);
    format!("{}: {id} at {}", who.connection, who.remote)
}

fn proof(who: &Who) -> String {
    let mut proof = who.auth.as_ref().map_or_else(String::new, |auth| format!(" by {auth}"));
    if let Some(certificate) = &who.certificate {
        proof += &format!(" (certificate {} of {})", certificate.serial, certificate.issuer);
    }
    proof + &who.proposal.as_ref().map_or_else(String::new, |proposal| format!(", {proposal}"))
}

fn name(child: &ChildReport) -> String {
    format!("{}/{} at {}", child.connection, child.child, child.remote)
}

fn account(seconds: f64, carried: &CarriedReport) -> String {
    let CarriedReport { bytes_in, bytes_out, .. } = carried;
    format!(" (after {}, {bytes_in} octets in, {bytes_out} out)", duration(seconds as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_as_one_line() {
        let event = EventLine {
            number: 7,
            timestamp_seconds: 86_400.0 + 3661.25,
            what: Happened::ChildRekeyed {
                child: ChildReport {
                    connection: "site".to_owned(),
                    child: "net".to_owned(),
                    ike: 1,
                    session: "a-b".to_owned(),
                    remote_id: None,
                    mode: "TUNNEL".to_owned(),
                    local: "192.0.2.1".to_owned(),
                    remote: "192.0.2.2".to_owned(),
                    spi_in: "c0ffee02".to_owned(),
                    spi_out: "c0ffee03".to_owned(),
                    proposal: "aes256gcm16-esn".to_owned(),
                    resource: None,
                    local_ts: Vec::new(),
                    remote_ts: Vec::new(),
                },
                replaced: "c0ffee01".to_owned(),
            },
        };
        let text = "01:01:01.250 CHILD rekeyed site/net at 192.0.2.2: c0ffee02 in place of c0ffee01";
        assert_eq!(line(&event), text);
        let json = serde_json::to_string(&event).unwrap();
        assert!(
            json.starts_with("{\"number\":7,\"timestamp_seconds\":90061.25,\"event\":\"child_rekeyed\""),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<EventLine>(&json).unwrap(), event);
    }

    #[test]
    fn a_name_survives_the_query() {
        assert_eq!(query("office-2.a b&c/ü"), "office-2.a%20b%26c%2F%C3%BC");
    }
}
