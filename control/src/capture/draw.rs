//! Negotiations of a capture for people: what each side sent, and where it broke.

use portcullis_ike::engine::notify_name;
use portcullis_ike::message::{Payload, notify};

use super::conversation::{Conversation, Line};
use super::judge::{Judgement, exchange_name};
use crate::explain::{self, Page, Style};

/// Messages of one negotiation that are listed.
const LISTED: usize = 40;

/// Writes one negotiation.
pub fn draw(page: &mut Page, conversation: &Conversation, judgement: &Judgement) {
    let spi = data_encoding::HEXLOWER.encode(&conversation.spi_i);
    let (initiator, responder) = (conversation.initiator.to_string(), conversation.responder.to_string());
    match judgement {
        Judgement::Up(what) => page.line(&[(Style::Good, "ok"), (Style::Plain, &format!("  {what}"))]),
        Judgement::Broken(verdict) => {
            page.line(&[
                (Style::Bad, verdict.code()),
                (Style::Faint, &format!("  ({})", verdict.reason.kind())),
            ]);
            page.indented(2, |page| page.paragraph(Style::Strong, &verdict.sentence));
        }
    }
    page.gap();
    page.indented(2, |page| {
        let head = format!("IKE SA {spi}: {initiator} {} {responder}", page.pick("→", "->"));
        page.line(&[(Style::Strong, &head)]);
        for line in conversation.lines.iter().take(LISTED) {
            message(page, line);
        }
        if conversation.lines.len() > LISTED {
            let more = format!("… and {} more messages", conversation.lines.len() - LISTED);
            page.indented(2, |page| page.line(&[(Style::Faint, &more)]));
        }
    });
    if let Judgement::Broken(verdict) = judgement {
        explain::evidence(page, &verdict.evidence);
        explain::fixes(page, &verdict.fixes);
        page.gap();
        page.indented(2, |page| {
            page.line(&[(Style::Faint, &format!("more: portcullis explain reason {}", verdict.reason))]);
        });
    }
}

fn message(page: &mut Page, line: &Line) {
    let arrow = match (line.from_initiator, page.pick("t", "p")) {
        (true, "t") => "→",
        (true, _) => "->",
        (false, "t") => "←",
        (false, _) => "<-",
    };
    let time = format!("{:>10.3}s {arrow} ", line.micros as f64 / 1e6);
    let port = if line.seen.dst.port() == 4500 { " on 4500" } else { "" };
    let what = match (&line.received, line.header()) {
        (Ok(_), Some(header)) => {
            let kind = if header.response { "response" } else { "request " };
            format!("{:<15} {kind} {:>5} octets{port}  ", exchange_name(line), line.seen.octets.len())
        }
        _ => format!("not readable,   {:>14} octets{port}  ", line.seen.octets.len()),
    };
    let (style, contents) = match &line.received {
        _ if line.repeated => (Style::Faint, "the same again".to_owned()),
        Ok(_) => {
            let style = if line.error().is_some() { Style::Bad } else { Style::Plain };
            (style, contents(line))
        }
        Err(error) => (Style::Bad, error.to_string()),
    };
    page.indented(2, |page| page.line(&[(Style::Faint, &time), (Style::Plain, &what), (style, &contents)]));
}

/// The payloads in few words.
fn contents(line: &Line) -> String {
    let mut words: Vec<String> = line.payloads().filter_map(word).collect();
    words.dedup();
    if let (Some(_), None) = (line.encrypted(), &line.inside) {
        words.push(if line.is_fragment() { "encrypted, a fragment" } else { "encrypted" }.to_owned());
    }
    words.join(", ")
}

fn word(payload: &Payload) -> Option<String> {
    Some(match payload {
        Payload::Sa(proposals) => match proposals.len() {
            1 => "1 proposal".to_owned(),
            many => format!("{many} proposals"),
        },
        Payload::Ke { method, .. } => format!("key exchange group {method}"),
        Payload::IdI(id) => format!("IDi `{}`", id.identity),
        Payload::IdR(id) => format!("IDr `{}`", id.identity),
        Payload::Cert { .. } => "certificate".to_owned(),
        Payload::CertReq { .. } => "certificate request".to_owned(),
        Payload::Cp(_) => "inner addresses".to_owned(),
        Payload::Auth { method, .. } => format!("AUTH method {method}"),
        Payload::Delete { .. } => "delete".to_owned(),
        Payload::TsI(selectors) | Payload::TsR(selectors) => {
            let texts: Vec<String> = selectors.iter().flatten().map(ToString::to_string).collect();
            texts.join(" ")
        }
        Payload::Notify(found) => match found.notify_type {
            notify::COOKIE => "cookie".to_owned(),
            notify::INVALID_KE_PAYLOAD => {
                let group = found.data.as_slice().try_into().map_or(0, u16::from_be_bytes);
                format!("INVALID_KE_PAYLOAD, wants group {group}")
            }
            error if error < 16384 => notify_name(error),
            _ => return None,
        },
        // In every message, or of interest to nobody.
        _ => return None,
    })
}
