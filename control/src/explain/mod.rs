//! Verdicts for people: `portcullis explain`. What is known is laid out so that the first line names the cause, the evidence
//! is aligned below it, and the lines to change stand at the end, ready to be copied.
//!
//! [`Page`] is the paper: indented, aligned, coloured only on a terminal. [`verdict`] writes one verdict on it;
//! `proposals` and `selectors` draw what has a picture. Nothing here asks the daemon or opens files.

mod page;
mod proposals;
mod selectors;
#[cfg(test)]
mod tests;

use portcullis_ike::verdict::{Candidate, Evidence, Fix, Place, Silence};

use crate::api::types::VerdictReport;

pub use page::{Page, Style};

/// Writes one verdict.
pub fn verdict(page: &mut Page, report: &VerdictReport) {
    let verdict = &report.verdict;
    let connection = verdict.connection.as_deref().unwrap_or("no connection");
    let peer = verdict.peer.map(|peer| format!(", peer {}", peer.ip())).unwrap_or_default();
    page.line(&[
        (Style::Bad, verdict.reason.code()),
        (Style::Plain, "  "),
        (Style::Plain, &format!("{connection}{peer}  ")),
        (Style::Faint, &format!("({}; {})", report.kind, when(report))),
    ]);
    page.indented(2, |page| page.paragraph(Style::Strong, &verdict.sentence));
    evidence(page, &verdict.evidence);
    fixes(page, &verdict.fixes);
    page.gap();
    page.indented(2, |page| {
        page.line(&[
            (Style::Faint, "more: portcullis explain reason "),
            (Style::Faint, verdict.reason.code()),
            (Style::Faint, &format!(" ({})", report.page)),
        ]);
    });
}

fn when(report: &VerdictReport) -> String {
    let ago = duration(report.seconds_ago);
    match report.times {
        0 | 1 => format!("{ago} ago"),
        times => format!("{times} times, last {ago} ago"),
    }
}

/// Writes what was seen.
pub fn evidence(page: &mut Page, evidence: &[Evidence]) {
    let facts: Vec<(&str, &str)> = evidence
        .iter()
        .filter_map(|seen| match seen {
            Evidence::Fact { name, value } => Some((name.as_str(), value.as_str())),
            _ => None,
        })
        .collect();
    if !facts.is_empty() {
        page.gap();
        let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        page.indented(4, |page| {
            for (name, value) in facts {
                page.line(&[(Style::Faint, &format!("{name:<width$}  ")), (Style::Plain, value)]);
            }
        });
    }
    for seen in evidence {
        match seen {
            Evidence::Fact { .. } => {}
            Evidence::Proposals(table) => proposals::draw(page, table),
            Evidence::Candidates { candidates: list } => candidates(page, list),
            Evidence::Selectors(table) => selectors::draw(page, table),
            Evidence::Silence(silence) => unanswered(page, silence),
        }
    }
}

fn candidates(page: &mut Page, candidates: &[Candidate]) {
    page.gap();
    page.indented(2, |page| {
        page.line(&[(Style::Strong, "Connections that could have been meant, and why each of them lost:")]);
        for candidate in candidates {
            let lost = candidate.lost_by().map_or("", |check| check.option.as_str());
            page.indented(2, |page| page.line(&[(Style::Plain, &candidate.connection)]));
            let width = |of: fn(&portcullis_ike::verdict::Check) -> usize| {
                candidate.checks.iter().map(of).max().unwrap_or(0).min(40)
            };
            let (options, found) =
                (width(|check| check.option.chars().count()), width(|check| check.found.chars().count()));
            page.indented(4, |page| {
                for check in &candidate.checks {
                    let (style, mark) = match check.passed {
                        true => (Style::Good, page.pick("✓", "ok")),
                        false => (Style::Bad, page.pick("✗", "NO")),
                    };
                    let decided = if !check.passed && check.option == lost {
                        format!("   {} decided", page.pick("←", "<-"))
                    } else {
                        String::new()
                    };
                    page.line(&[
                        (style, &format!("{mark:<2} ")),
                        (Style::Plain, &format!("{:<options$}  ", check.option)),
                        (Style::Faint, "came "),
                        (Style::Plain, &format!("{:<found$}  ", check.found)),
                        (Style::Faint, "wanted "),
                        (Style::Plain, &check.wanted),
                        (Style::Faint, &decided),
                    ]);
                }
            });
        }
    });
}

fn unanswered(page: &mut Page, silence: &Silence) {
    page.gap();
    page.indented(2, |page| {
        page.line(&[(Style::Strong, "What was sent, and what came back:")]);
        page.indented(2, |page| {
            for heard in &silence.heard {
                page.line(&[(Style::Good, page.pick("✓ ", "ok ")), (Style::Plain, heard)]);
            }
            let (exchange, octets) = (&silence.exchange, silence.octets);
            let what = format!(
                "{exchange} of {octets} octets, sent {} time{} from {} to {}: no answer",
                silence.sent,
                if silence.sent == 1 { "" } else { "s" },
                silence.from,
                silence.to
            );
            page.line(&[(Style::Bad, page.pick("✗ ", "NO ")), (Style::Plain, &what)]);
        });
    });
}

/// Writes what to do: by place, ours first.
pub fn fixes(page: &mut Page, fixes: &[Fix]) {
    let places = [Place::Here, Place::Network, Place::Peer, Place::Strongswan, Place::Libreswan];
    for place in places {
        let mut here = fixes.iter().filter(|fix| fix.place() == place).peekable();
        if here.peek().is_none() {
            continue;
        }
        page.gap();
        page.indented(2, |page| {
            page.line(&[(Style::Strong, &format!("To fix it {place}:"))]);
            let mut open = None;
            for fix in here {
                match fix {
                    Fix::Line { section, .. } => {
                        if open != Some(section) {
                            let heading = match place {
                                Place::Libreswan => section.clone(),
                                _ => format!("[{section}]"),
                            };
                            page.indented(2, |page| page.line(&[(Style::Faint, &heading)]));
                        }
                        open = Some(section);
                        page.indented(4, |page| page.line(&[(Style::Good, &fix.text())]));
                    }
                    Fix::Step { text, .. } => page.indented(2, |page| page.paragraph(Style::Plain, text)),
                }
            }
        });
    }
}

/// A time in few letters.
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
