//! Traffic selectors drawn on a line: what was asked for, what is configured, what is left of both.

use std::net::IpAddr;

use portcullis_ike::verdict::{ChildSelectors, Selector, SelectorTable};

use super::{Page, Style};

/// Columns of the line.
const LINE: usize = 40;

pub(super) fn draw(page: &mut Page, table: &SelectorTable) {
    page.gap();
    let who = if table.asked_by_peer { "the peer asked for" } else { "we asked for" };
    page.indented(2, |page| {
        page.line(&[(Style::Strong, "Traffic selectors:")]);
        if table.children.is_empty() {
            for (side, asked) in [("our side", &table.asked_local), ("its side", &table.asked_remote)] {
                let texts: Vec<&str> = asked.iter().map(|selector| selector.text.as_str()).collect();
                page.indented(2, |page| {
                    page.line(&[
                        (Style::Faint, &format!("{side}, {who}  ")),
                        (Style::Plain, &texts.join(", ")),
                    ]);
                });
            }
        }
        for child in &table.children {
            page.indented(2, |page| draw_child(page, table, child, who));
        }
    });
}

fn draw_child(page: &mut Page, table: &SelectorTable, child: &ChildSelectors, who: &str) {
    page.line(&[(Style::Plain, &format!("child {}", child.child))]);
    let sides = [
        ("our side", &table.asked_local, &child.local, &child.common_local),
        ("its side", &table.asked_remote, &child.remote, &child.common_remote),
    ];
    for (side, asked, here, common) in sides {
        let rows = [
            (who, asked, Style::Plain),
            ("configured", here, Style::Plain),
            ("in common", common, Style::Good),
        ];
        let span = Span::of(asked.iter().chain(here));
        let names = rows.iter().flat_map(|(_, list, _)| list.iter()).map(|s| s.text.chars().count()).max();
        let names = names.unwrap_or(0).clamp(7, 44);
        page.indented(2, |page| {
            page.line(&[(Style::Faint, side)]);
            for (what, list, style) in rows {
                let mut what = what;
                for selector in list {
                    let bar = span.bar(selector, page);
                    page.indented(2, |page| {
                        page.line(&[
                            (Style::Faint, &format!("{what:<18}  ")),
                            (style, &format!("{:<names$}  ", selector.text)),
                            (style, &bar),
                        ]);
                    });
                    what = "";
                }
                if list.is_empty() {
                    page.indented(2, |page| {
                        page.line(&[(Style::Faint, &format!("{what:<18}  ")), (Style::Bad, "nothing")]);
                    });
                }
            }
        });
    }
}

/// The addresses that a line stands for: every end of a range, in order. Ranges differ by many powers of two, so the line is
/// cut at their ends, not to scale.
struct Span {
    ends: Vec<u128>,
}

impl Span {
    fn of<'s>(selectors: impl Iterator<Item = &'s Selector>) -> Self {
        let mut ends: Vec<u128> = selectors
            .flat_map(|selector| [number(selector.first), number(selector.last).saturating_add(1)])
            .collect();
        ends.sort_unstable();
        ends.dedup();
        Self { ends }
    }

    /// A range as a bar on the line.
    fn bar(&self, selector: &Selector, page: &Page) -> String {
        let parts = self.ends.len().saturating_sub(1).max(1);
        let at = |addr: u128| self.ends.partition_point(|end| *end < addr).min(parts) * LINE / parts;
        let (from, to) = (at(number(selector.first)), at(number(selector.last).saturating_add(1)));
        let (rest, bar) = (page.pick("·", "."), page.pick("█", "#"));
        let to = to.max(from + 1).min(LINE);
        [rest.repeat(from), bar.repeat(to.saturating_sub(from)), rest.repeat(LINE.saturating_sub(to))]
            .concat()
    }
}

/// An address on the line; IPv4 before IPv6.
fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(addr) => u32::from(addr).into(),
        // No address of interest is that low: ::/96 is of no use.
        IpAddr::V6(addr) => u128::from(addr).max(1 << 33),
    }
}
