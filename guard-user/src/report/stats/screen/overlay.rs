//! Windows over the tables: the list of keys, and the details of a source.

use std::net::IpAddr;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Modifier, Style},
    symbols::border,
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph, Widget as _, Wrap},
};

use super::TerminalFeatures;
use crate::{
    api::stats::TopSource,
    policy::syntax::text::shell_word,
    report::stats::{model::Model, number_format, rates::Change},
    text::{counted, short},
};

const KEYS: [(&str, &str); 12] = [
    ("q, Esc, ctrl-c", "quit"),
    ("?", "this list"),
    ("/", "filter all tables; !TEXT shows rows that do not match"),
    ("Tab, 1 to 4", "next table; interfaces, services, reasons, sources"),
    ("j, k, arrows", "next and previous row; PgDn, PgUp, Home, End"),
    ("Enter", "details of the source at the cursor"),
    ("s", "sort the table by its next column"),
    ("S", "reverse the order"),
    ("r", "rates or totals"),
    ("b", "bits or bytes"),
    ("p, space", "pause the display; counting continues"),
    ("ctrl-z, ctrl-l", "suspend; redraw"),
];

const NOTES: [&str; 4] = [
    "Counters are exact. Sources come from samples, so their numbers are",
    "estimates. WOULD: frames passed only because their service observes.",
    "DROP %: share of all frames. -: no rate yet. reset: a counter fell.",
    "Times of day are UTC.",
];

/// Draws the list of keys.
pub(super) fn help(look: TerminalFeatures, buffer: &mut Buffer) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut lines: Vec<Line> = KEYS
        .iter()
        .map(|(key, what)| {
            Line::from(vec![Span::styled(format!("{key:<15}"), bold), (*what).into()])
        })
        .collect();
    lines.push(Line::default());
    lines.extend(NOTES.map(Line::from));
    draw_window(" Keys (Esc closes) ", lines, 76, look, buffer);
}

/// Draws the details of a source.
pub(super) fn details(model: &Model, address: &str, look: TerminalFeatures, buffer: &mut Buffer) {
    let found = model.stats.top_sources.iter().find(|row| row.address == address);
    let lines = match found {
        Some(source) => facts(model, source, look),
        None => vec![
            format!(
                "{} is no longer in the list of sources.",
                number_format::name(address, look.ascii)
            )
            .into(),
        ],
    };
    draw_window(" Source (Esc closes) ", lines, 100, look, buffer);
}

fn facts(model: &Model, source: &TopSource, look: TerminalFeatures) -> Vec<Line<'static>> {
    let name = |text: &str| number_format::name(text, look.ascii);
    let node = source.node.as_deref().map_or_else(|| "not in the manifest".to_owned(), name);
    let rate = match model.rates.source(source) {
        Change::Rates([rate]) => format!("{} frames/s, estimated", short(rate)),
        Change::Restarted => "the counter was reset".to_owned(),
        Change::New => "not known yet".to_owned(),
    };
    let seen = |then: &str| match number_format::between(then, &model.stats.time) {
        Some(age) => format!("{} ({} ago)", name(then), number_format::age(age)),
        None => name(then),
    };
    let or_none = |text: Option<&str>| text.map_or_else(|| "none".to_owned(), name);
    let total = format!(
        "{} refused, estimated from {}",
        counted(source.packets, "frame"),
        counted(source.sampled, "sample")
    );
    let rows = [
        ("address", name(&source.address)),
        ("node", node),
        ("reason", name(&source.reason)),
        ("service", or_none(source.service.as_deref())),
        ("port", or_none(source.port.as_deref())),
        ("rate", rate),
        ("total", total),
        ("first seen", seen(&source.first_seen)),
        ("last seen", seen(&source.last_seen)),
    ];
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut lines: Vec<Line> = rows
        .into_iter()
        .map(|(what, is)| Line::from(vec![Span::styled(format!("{what:<12}"), bold), is.into()]))
        .collect();
    lines.push(Line::default());
    match trace(model, source) {
        Some(trace) => {
            lines.push("This command shows every step of the decision:".into());
            lines.push(number_format::line(&trace, look.ascii).into());
        }
        None => {
            lines.push("There is no `trainguard trace` command: the packet had no port.".into());
        }
    }
    let explain = format!("trainguard explain {}", name(&shell_word(&source.reason)));
    lines.push(explain.into());
    lines
}

/// Returns the command that explains why a frame of this source is refused.
fn trace(model: &Model, source: &TopSource) -> Option<String> {
    let from: IpAddr = source.address.parse().ok()?;
    let (protocol, port) = source.port.as_deref()?.split_once('/')?;
    let port: u16 = port.parse().ok()?;
    // The verdict does not depend on the node's destination address.
    let to = match from {
        IpAddr::V4(_) => format!("192.0.2.1:{port}"),
        IpAddr::V6(_) => format!("[2001:db8::1]:{port}"),
    };
    let node = if model.stats.node.is_empty() {
        String::new()
    } else {
        format!(" --node {}", shell_word(&model.stats.node))
    };
    let manifest = shell_word(model.manifest.as_deref().unwrap_or("cluster.yaml"));
    let protocol = shell_word(protocol);
    Some(format!(
        "trainguard trace --manifest {manifest}{node} --from {from} --to {to} --proto {protocol}"
    ))
}

fn draw_window(
    title: &str,
    lines: Vec<Line>,
    width: u16,
    look: TerminalFeatures,
    buffer: &mut Buffer,
) {
    let area = buffer.area;
    let width = width.min(area.width);
    let inner = usize::from(width.saturating_sub(4)).max(1);
    // Wrapping at words may take one line more.
    let lines_of = |width: usize| width.max(1).div_ceil(inner) + usize::from(width > inner);
    let wrapped: usize = lines.iter().map(|line| lines_of(line.width())).sum();
    let height = u16::try_from(wrapped + 2).unwrap_or(u16::MAX).min(area.height);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    Clear.render(place, buffer);
    let set = if look.ascii { ASCII } else { border::PLAIN };
    let block = Block::bordered().border_set(set).title(title.to_owned());
    let text = block.inner(place);
    block.render(place, buffer);
    let text = Rect { x: text.x + 1, width: text.width.saturating_sub(2), ..text };
    Paragraph::new(lines).wrap(Wrap { trim: false }).render(text.intersection(area), buffer);
}

const ASCII: border::Set = border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};
