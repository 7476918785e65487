//! Draws [`Top`] into a frame of any size.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table};

use super::Top;
use crate::explain::duration;

/// Load from which a worker is shown as busy, and as too busy.
const BUSY: f64 = 0.7;
const TOO_BUSY: f64 = 0.9;

/// The whole screen.
pub fn draw(frame: &mut Frame<'_>, top: &Top) {
    let workers = top.workers.len().clamp(1, 8) as u16 + 3;
    let [head, middle, tunnels, bottom] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(workers.max(7)),
        Constraint::Min(6),
        Constraint::Length(10),
    ])
    .areas(frame.area());
    let [graph, load] = Layout::horizontal([Constraint::Percentage(50); 2]).areas(middle);
    let [drops, failures] =
        Layout::horizontal([Constraint::Percentage(40), Constraint::Percentage(60)]).areas(bottom);
    draw_head(frame, head, top);
    draw_throughput(frame, graph, top);
    draw_workers(frame, load, top);
    draw_tunnels(frame, tunnels, top);
    draw_drops(frame, drops, top);
    draw_failures(frame, failures, top);
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, top: &Top) {
    let mut lines = Vec::new();
    if let Some(sample) = top.last() {
        let status = &sample.status;
        lines.push(Line::from(vec![
            Span::styled(format!("portcullis {}", status.version), Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(format!(
                "  up {}  engine {}  frames free {}/{}",
                duration(status.uptime_seconds),
                status.aead_engine,
                status.frames.free,
                status.frames.total
            )),
        ]));
        let interfaces =
            status.interfaces.iter().map(|interface| format!("{} ({})", interface.name, interface.mode));
        lines.push(Line::raw(format!(
            "IKE SAs {} ({} half-open)  CHILD SAs {}  {}",
            status.ike_sas,
            status.half_open_ike_sas,
            status.child_sas,
            interfaces.collect::<Vec<_>>().join("  ")
        )));
    }
    if let Some(trouble) = &top.trouble {
        lines.push(Line::styled(trouble.clone(), Style::new().fg(Color::Red)));
    } else {
        lines.push(Line::styled("q: quit", Style::new().fg(Color::DarkGray)));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_throughput(frame: &mut Frame<'_>, area: Rect, top: &Top) {
    let (bits_in, bits_out, packets) = top.tunnels.iter().fold((0.0, 0.0, 0.0), |(i, o, p), tunnel| {
        (i + tunnel.bits_in, o + tunnel.bits_out, p + tunnel.packets)
    });
    let title = format!(" in {}bit/s  out {}bit/s  {}packet/s ", si(bits_in), si(bits_out), si(packets));
    let block = Block::bordered().title(title);
    // As many as there is room for, the newest at the right.
    let room = usize::from(area.width.saturating_sub(2));
    let shown: Vec<u64> = top.history.iter().skip(top.history.len().saturating_sub(room)).copied().collect();
    frame.render_widget(
        Sparkline::default().block(block).data(&shown).style(Style::new().fg(Color::Green)),
        area,
    );
}

fn draw_workers(frame: &mut Frame<'_>, area: Rect, top: &Top) {
    let rows = top.workers.iter().enumerate().map(|(index, worker)| {
        let colour = match worker.load {
            load if load >= TOO_BUSY => Color::Red,
            load if load >= BUSY => Color::Yellow,
            _ => Color::Green,
        };
        let load = format!("{:>3.0}% {}", worker.load * 100.0, bar(worker.load));
        Row::new([
            Line::raw(index.to_string()),
            Line::raw(worker.core.to_string()),
            Line::styled(load, Style::new().fg(colour)),
            Line::raw(si(worker.received)).right_aligned(),
            Line::raw(si(worker.transmitted)).right_aligned(),
            Line::raw(si(worker.dropped)).right_aligned(),
        ])
    });
    let widths = [3, 4, 16, 7, 7, 7].map(Constraint::Length);
    let head = Row::new(["#", "core", "load", "rx/s", "tx/s", "drop/s"]).style(head_style());
    frame.render_widget(
        Table::new(rows, widths).header(head).block(Block::bordered().title(" workers ")),
        area,
    );
}

fn draw_tunnels(frame: &mut Frame<'_>, area: Rect, top: &Top) {
    let rows = top.tunnels.iter().map(|tunnel| {
        Row::new([
            Line::raw(tunnel.name.clone()),
            Line::raw(tunnel.remote.clone()),
            Line::raw(si(tunnel.bits_in)).right_aligned(),
            Line::raw(si(tunnel.bits_out)).right_aligned(),
            Line::raw(si(tunnel.packets)).right_aligned(),
            Line::raw(duration(tunnel.age)).right_aligned(),
        ])
    });
    let widths = [
        Constraint::Min(16),
        Constraint::Min(18),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(6),
    ];
    let head = Row::new(["tunnel", "peer", "in bit/s", "out bit/s", "packet/s", "age"]).style(head_style());
    let title = format!(" tunnels ({}) ", top.tunnels.len());
    frame.render_widget(Table::new(rows, widths).header(head).block(Block::bordered().title(title)), area);
}

fn draw_drops(frame: &mut Frame<'_>, area: Rect, top: &Top) {
    let rows = top.reasons.iter().map(|reason| {
        let style = if reason.rate > 0.0 { Style::new().fg(Color::Yellow) } else { Style::new() };
        Row::new([
            Line::raw(reason.name.clone()),
            Line::raw(si(reason.rate)).right_aligned(),
            Line::raw(reason.total.to_string()).right_aligned(),
        ])
        .style(style)
    });
    let widths = [Constraint::Min(16), Constraint::Length(7), Constraint::Length(11)];
    let head = Row::new(["drops", "/s", "total"]).style(head_style());
    frame.render_widget(Table::new(rows, widths).header(head).block(Block::bordered()), area);
}

fn draw_failures(frame: &mut Frame<'_>, area: Rect, top: &Top) {
    let failures = top.last().into_iter().flat_map(|sample| &sample.status.verdicts);
    let lines = failures.flat_map(|failure| {
        let verdict = &failure.verdict;
        let connection = verdict.connection.as_deref().unwrap_or("-");
        let peer = verdict.peer.map(|peer| peer.to_string()).unwrap_or_default();
        [
            Line::from(vec![
                Span::raw(format!("{:>5} ago ", duration(failure.seconds_ago))),
                Span::styled(verdict.reason.code(), Style::new().fg(Color::Red)),
                Span::raw(format!(" {connection} {peer}")),
            ]),
            Line::styled(format!("  {}", verdict.sentence), Style::new().fg(Color::DarkGray)),
        ]
    });
    let text = Paragraph::new(lines.collect::<Vec<_>>());
    frame.render_widget(text.block(Block::bordered().title(" recent failures ")), area);
}

fn head_style() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

/// Ten places.
fn bar(share: f64) -> String {
    let full = (share * 10.0).round() as usize;
    "█".repeat(full.min(10)) + &"·".repeat(10_usize.saturating_sub(full))
}

/// Three digits and a prefix: `12.3k`.
fn si(value: f64) -> String {
    let prefixes = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match prefixes.into_iter().find(|(unit, _)| value >= *unit) {
        Some((unit, prefix)) if value / unit >= 100.0 => format!("{:.0}{prefix}", value / unit),
        Some((unit, prefix)) => format!("{:.1}{prefix}", value / unit),
        None => format!("{value:.0}"),
    }
}
