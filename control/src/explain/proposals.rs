//! Two sides' proposals as a table, transform by transform.

use portcullis_ike::verdict::{ProposalRow, ProposalTable, Protocol};

use super::{Page, Style};

pub(super) fn draw(page: &mut Page, table: &ProposalTable) {
    let what = match table.protocol {
        Protocol::Ike => "IKE proposals",
        Protocol::Esp => "ESP proposals",
    };
    page.gap();
    page.indented(2, |page| {
        if table.peer_known {
            page.line(&[(Style::Strong, &format!("{what}, transform by transform:"))]);
        } else {
            page.line(&[(
                Style::Strong,
                &format!("{what} of ours (what the peer has, only the peer knows):"),
            )]);
        }
        page.indented(2, |page| rows(page, table));
        if let Some((peer, here)) = table.nearest {
            page.gap();
            let side = |list: &[String], index: usize| {
                let text = list.get(index).cloned().unwrap_or_default();
                match list.len() {
                    1 => text,
                    many => format!("{text}  (number {} of {many})", index + 1),
                }
            };
            page.indented(2, |page| {
                page.line(&[
                    (Style::Faint, "nearest pair  peer  "),
                    (Style::Plain, &side(&table.peer, peer)),
                ]);
                page.line(&[
                    (Style::Faint, "              here  "),
                    (Style::Plain, &side(&table.here, here)),
                ]);
                if let Some(text) = &table.would_match {
                    page.line(&[(Style::Faint, "would match         "), (Style::Good, text)]);
                }
            });
        }
    });
}

fn rows(page: &mut Page, table: &ProposalTable) {
    let width = |text: fn(&ProposalRow) -> usize| table.rows.iter().map(text).max().unwrap_or(0);
    let (kinds, names) =
        (width(|row| row.kind.name().len()), width(|row| row.transform.chars().count()).max(9));
    let head = match table.peer_known {
        true => format!("{:<kinds$}  {:<names$}  peer  here", "", "transform"),
        false => format!("{:<kinds$}  {:<names$}  here", "", "transform"),
    };
    page.line(&[(Style::Faint, &head)]);
    let mut before = None;
    for row in &table.rows {
        let kind = if before == Some(row.kind) { "" } else { row.kind.name() };
        let first = before != Some(row.kind);
        before = Some(row.kind);
        let both = row.peer && row.here;
        let style = match (both, &row.weak) {
            (_, Some(_)) => Style::Doubtful,
            (true, None) => Style::Good,
            (false, None) => Style::Plain,
        };
        let mark = |has: bool| if has { page.pick("✓", "x") } else { page.pick("·", "-") };
        let columns = match table.peer_known {
            true => format!("  {:<4}  {:<4}", mark(row.peer), mark(row.here)),
            false => format!("  {:<4}", mark(row.here)),
        };
        let weak = row.weak.as_ref().map(|why| format!("  weak: {why}")).unwrap_or_default();
        let apart = if first && table.apart.contains(&row.kind) {
            format!("  {} nothing in common", page.pick("←", "<-"))
        } else {
            String::new()
        };
        page.line(&[
            (Style::Faint, &format!("{kind:<kinds$}  ")),
            (style, &format!("{:<names$}", row.transform)),
            (style, &columns),
            (Style::Doubtful, &weak),
            (Style::Bad, &apart),
        ]);
    }
}
