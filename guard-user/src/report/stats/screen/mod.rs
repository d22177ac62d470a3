//! The live screen: [`live`] reads keys and counters; this module draws the model and the view into
//! a buffer, without a terminal.

mod layout;
pub mod live;
mod overlay;
pub mod tables;
pub mod view;

#[cfg(test)]
mod key_tests;
#[cfg(test)]
mod snapshots;

use ratatui::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
};

use self::{
    layout::{GAP, Part},
    tables::{Row, SPARKLINE, Table, Tone},
    view::{Overlay, Unit, View},
};
use crate::{
    report::stats::{
        model::{Model, State},
        number_format,
        rates::{DROPPED, PASSED, WOULD_DROP, real},
    },
    text::short,
};

/// Columns to the left of a table, for the marks of the focus and the cursor.
const GUTTER: u16 = 1;
/// Maximum width in columns of the node's name.
const NODE: usize = 32;

/// Features of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalFeatures {
    /// Whether colours are used.
    pub color: bool,
    /// Whether only ASCII is used.
    pub ascii: bool,
}

impl TerminalFeatures {
    /// Returns the style for a tone.
    pub fn tone(self, tone: Tone) -> Style {
        let color = match tone {
            Tone::Plain => return Style::new(),
            Tone::Good => Color::Green,
            Tone::Warn => Color::Yellow,
            Tone::Bad => Color::Red,
        };
        if self.color { Style::new().fg(color) } else { Style::new() }
    }
}

/// A line that is written from left to right.
struct Line<'a> {
    buffer: &'a mut Buffer,
    x: u16,
    y: u16,
    end: u16,
}

impl Line<'_> {
    fn put(&mut self, text: &str, style: Style) {
        let room = self.end.saturating_sub(self.x);
        let (x, _) = self.buffer.set_stringn(self.x, self.y, text, usize::from(room), style);
        self.x = x;
    }
}

/// Draws the whole screen.
pub fn draw(model: &Model, view: &View, look: TerminalFeatures, buffer: &mut Buffer) {
    let area = buffer.area;
    if area.is_empty() {
        return;
    }
    let shown = view.shown(model);
    let mut top = 0;
    let mut next = |buffer: &mut Buffer, put: &dyn Fn(&mut Line)| {
        if top < area.height {
            let (x, y) = (area.x, area.y + top);
            put(&mut Line { buffer, x, y, end: area.right() });
            top += 1;
        }
    };
    next(buffer, &|line| headline(shown, look, line));
    next(buffer, &|line| sums(shown, view, look, line));
    // Shown even while the screen is paused.
    if model.trouble.is_some() {
        next(buffer, &|line| trouble(model, look, line));
    }
    let bottom = u16::from(area.height > top + 2);
    let body = Rect { y: area.y + top, height: area.height.saturating_sub(top + bottom), ..area };
    tables(shown, view, look, body, buffer);
    if bottom > 0 {
        let (x, y) = (area.x, area.bottom() - 1);
        footer(view, look, &mut Line { buffer, x, y, end: area.right() });
    }
    match &view.overlay {
        Overlay::Nothing => {}
        Overlay::Help => overlay::help(look, buffer),
        Overlay::Details(address) => overlay::details(shown, address, look, buffer),
    }
}

/// Draws the first line: the state of the guard, the policy, and since when it is in force.
fn headline(model: &Model, look: TerminalFeatures, line: &mut Line) {
    let stats = &model.stats;
    let (word, tone) = match model.state() {
        State::Enforcing => ("ENFORCING", Tone::Good),
        State::Observing => ("OBSERVING", Tone::Warn),
        State::Open => ("NOT ENFORCING", Tone::Bad),
        State::Unknown => ("STATE UNKNOWN", Tone::Warn),
    };
    line.put(" ", Style::new());
    line.put(word, look.tone(tone).add_modifier(Modifier::BOLD));
    let mut node = number_format::name(&stats.node, look.ascii);
    if node.is_empty() {
        "this node".clone_into(&mut node);
    }
    let short: String = node.chars().take(NODE).collect();
    line.put(&format!("  {short}"), Style::new().add_modifier(Modifier::BOLD));
    line.put(&format!("  generation {}", stats.generation), Style::new());
    if let Some(hash) = stats.policy_hash.get(..12) {
        line.put(&format!("  policy {}", number_format::name(hash, true)), Style::new());
    }
    let since = stats.in_force_since.as_deref();
    if let Some(age) = since.and_then(|since| number_format::between(since, &stats.time)) {
        line.put(&format!("  in force {}", number_format::age(age)), Style::new());
    }
}

/// Draws the sums over all interfaces.
fn sums(model: &Model, view: &View, look: TerminalFeatures, line: &mut Line) {
    line.put(" ", Style::new());
    if view.paused.is_some() {
        line.put("PAUSED", look.tone(Tone::Warn).add_modifier(Modifier::BOLD | Modifier::REVERSED));
        line.put("  ", Style::new());
    }
    for (name, index, tone) in [
        ("pass", PASSED, Tone::Plain),
        ("drop", DROPPED, Tone::Bad),
        ("would drop", WOULD_DROP, Tone::Warn),
    ] {
        let (value, text) = if view.totals {
            let counts = model.stats.interfaces.iter().map(crate::report::stats::rates::interface);
            let sum = counts.fold(0_u64, |sum, counts| sum.saturating_add(counts[index]));
            (real(sum), number_format::count(sum))
        } else {
            match model.rates.total(index) {
                Some(rate) => (rate, format!("{}/s", short(rate))),
                None => (0.0, "-".to_owned()),
            }
        };
        line.put(&format!("{name} "), Style::new());
        line.put(&text, look.tone(if value > 0.0 { tone } else { Tone::Plain }));
        line.put("  ", Style::new());
    }
    if model.stats.events.lost > 0 {
        let lost = number_format::count(model.stats.events.lost);
        line.put(&format!("samples lost {lost}  "), look.tone(Tone::Warn));
    }
    if let Some(time) = model.restarted() {
        let time = number_format::time_of_day(time);
        line.put(&format!("counters reset {time}"), look.tone(Tone::Warn));
    }
    // The changing time shows that the screen is updated.
    let time = number_format::time_of_day(&model.stats.time);
    let start = line.end.saturating_sub(u16::try_from(time.len()).unwrap_or(u16::MAX));
    if start > line.x {
        line.x = start;
        line.put(&time, Style::new());
    }
}

fn trouble(model: &Model, look: TerminalFeatures, line: &mut Line) {
    let Some(trouble) = &model.trouble else { return };
    let since = if trouble.since.is_empty() {
        String::new()
    } else {
        format!(" since {}", number_format::time_of_day(&trouble.since))
    };
    let what = if trouble.pinned {
        "counters of the pinned maps, other values are old"
    } else {
        "all values are old"
    };
    let style = look.tone(Tone::Bad).add_modifier(Modifier::BOLD);
    line.put(&format!(" ! NO DAEMON{since}: {what}"), style);
    line.put(
        &format!(" ({})", number_format::name(&trouble.why, look.ascii)),
        look.tone(Tone::Bad),
    );
}

fn footer(view: &View, look: TerminalFeatures, line: &mut Line) {
    let text = number_format::name(view.filter.text(), look.ascii);
    if view.typing.is_some() {
        line.put(" /", Style::new().add_modifier(Modifier::BOLD));
        line.put(&text, Style::new());
        line.put(" ", Style::new().add_modifier(Modifier::REVERSED));
        line.put("  Enter applies it, Esc cancels it, !TEXT inverts", Style::new());
        return;
    }
    if view.filter.is_some() {
        line.put(" filter: ", Style::new().add_modifier(Modifier::BOLD));
        line.put(&text, look.tone(Tone::Warn));
        line.put(" ", Style::new());
    }
    let other = if view.totals { "rates" } else { "totals" };
    let unit = if view.unit == Unit::Bits { "bytes" } else { "bits" };
    for (key, what) in [
        ("q", "quit"),
        ("?", "help"),
        ("/", "filter"),
        ("s", "sort"),
        ("p", "pause"),
        ("r", other),
        ("b", unit),
        ("Tab", "table"),
        ("Enter", "details"),
    ] {
        line.put(" ", Style::new());
        line.put(key, Style::new().add_modifier(Modifier::BOLD));
        line.put(&format!(" {what}"), Style::new());
    }
}

fn tables(model: &Model, view: &View, look: TerminalFeatures, body: Rect, buffer: &mut Buffer) {
    if body.is_empty() {
        return;
    }
    let all = Table::ALL.map(|table| table.rows(model, view, look.ascii));
    let counts = [0, 1, 2, 3].map(|index: usize| all[index].0.len());
    for part in layout::parts(counts, view.focus, body.width, body.height) {
        let (rows, hidden) = &all[part.table.index()];
        let part = Part { x: body.x + part.x, y: body.y + part.y, ..part };
        Drawn { model, view, look, part, rows, hidden: *hidden }.draw(buffer);
    }
}

/// A table with everything that is needed to draw it.
struct Drawn<'a> {
    model: &'a Model,
    view: &'a View,
    look: TerminalFeatures,
    part: Part,
    rows: &'a [Row],
    hidden: usize,
}

impl Drawn<'_> {
    fn draw(&self, buffer: &mut Buffer) {
        let Part { table, x, y, width, height } = self.part;
        let focused = self.view.focus == table;
        let widths = layout::widths(table, self.rows, width.saturating_sub(GUTTER));
        let room = usize::from(height.saturating_sub(1));
        let cursor = self.view.cursors[table.index()].place(self.rows);
        let first = (cursor + 1).saturating_sub(room.max(1));
        self.heading(&widths, first, room, buffer);
        if self.rows.is_empty() && room > 0 {
            let why = match (self.hidden, table) {
                (0, Table::Sources) => "no source has been refused".to_owned(),
                (0, _) => "nothing yet".to_owned(),
                (hidden, _) => format!("the filter hides all {hidden}"),
            };
            let room = usize::from(width.saturating_sub(GUTTER));
            buffer.set_stringn(x + GUTTER.min(width), y + 1, why, room, Style::new());
        }
        // All sparklines have the same scale, so that they can be compared.
        let highest = self.model.highest();
        let lines = self.rows.iter().enumerate().skip(first).take(room);
        for (line, (index, row)) in lines.enumerate() {
            let y = y + 1 + u16::try_from(line).unwrap_or(u16::MAX);
            if focused && index == cursor {
                buffer.set_stringn(x, y, ">", usize::from(width), Style::new());
            }
            self.row(row, &widths, y, highest, buffer);
        }
    }

    fn heading(&self, widths: &[u16], first: usize, room: usize, buffer: &mut Buffer) {
        let Part { table, x, y, width, .. } = self.part;
        let focused = self.view.focus == table;
        let style = Style::new().add_modifier(if focused {
            Modifier::BOLD | Modifier::REVERSED
        } else {
            Modifier::REVERSED
        });
        buffer.set_style(Rect { x, y, width, height: 1 }, style);
        buffer.set_stringn(x, y, if focused { ">" } else { " " }, usize::from(width), style);
        let sort = self.view.sorts[table.index()];
        let mut at = x + GUTTER;
        for (index, (column, columns)) in table.columns().iter().zip(widths).enumerate() {
            let (per, unit) = match (self.view.totals, self.view.unit) {
                (false, Unit::Bits) => ("/s", "bit/s"),
                (false, Unit::Bytes) => ("/s", "B/s"),
                (true, Unit::Bits) => ("", "bits"),
                (true, Unit::Bytes) => ("", "bytes"),
            };
            let title = column.title.replace('#', per).replace('$', unit);
            let end = put(&title, at, y, *columns, column.right, style, self.look, buffer);
            if sort.column == index && end < x + width {
                let mark = match (sort.descending, self.look.ascii) {
                    (true, false) => "▾",
                    (false, false) => "▴",
                    (true, true) => "v",
                    (false, true) => "^",
                };
                buffer.set_stringn(end, y, mark, 1, style);
            }
            at += columns + GAP;
        }
        if self.rows.len() > room && room > 0 {
            let last = (first + room).min(self.rows.len());
            let text = format!(" {}-{last} of {} ", first + 1, self.rows.len());
            let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
            // Overwrites the last heading if necessary; omitted on a very narrow table.
            if length + GUTTER + 12 <= width {
                buffer.set_string(x + width - length, y, text, style);
            }
        }
    }

    fn row(&self, row: &Row, widths: &[u16], y: u16, highest: f64, buffer: &mut Buffer) {
        let table = self.part.table;
        let mut at = self.part.x + GUTTER;
        let columns = table.columns().iter().zip(widths).zip(&row.cells);
        for (index, ((column, width), cell)) in columns.enumerate() {
            let style = self.look.tone(cell.tone);
            if table == Table::Interfaces && index == SPARKLINE {
                let history = self.model.history(&row.key, usize::from(*width));
                let line = sparkline(&history, highest, self.look.ascii);
                buffer.set_stringn(at, y, line, usize::from(*width), style);
            } else {
                put(&cell.text, at, y, *width, column.right, style, self.look, buffer);
            }
            at += width + GAP;
        }
    }
}

/// Writes a text into a column, shortened if it is too long. Returns the column after it.
#[expect(clippy::too_many_arguments, reason = "a place, a style and a text; used only here")]
fn put(
    text: &str,
    x: u16,
    y: u16,
    width: u16,
    right: bool,
    style: Style,
    look: TerminalFeatures,
    buffer: &mut Buffer,
) -> u16 {
    let wanted = unicode_width::UnicodeWidthStr::width(text);
    let room = usize::from(width);
    if wanted > room {
        let (end, _) = buffer.set_stringn(x, y, text, room.saturating_sub(1), style);
        let cut = if look.ascii { "~" } else { "…" };
        return buffer.set_stringn(end, y, cut, room.min(1), style).0;
    }
    let shift = if right { u16::try_from(room - wanted).unwrap_or(0) } else { 0 };
    buffer.set_stringn(x + shift, y, text, room, style).0
}

/// Draws rates as bars; the highest rate has the full height.
fn sparkline(history: &[Option<f64>], highest: f64, ascii: bool) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const LETTERS: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];
    let bars = if ascii { LETTERS } else { BARS };
    let bar = |rate: &Option<f64>| match rate {
        None => ' ',
        Some(rate) if *rate <= 0.0 => bars[0],
        Some(rate) => {
            // The lowest bar means zero, so that every drop is visible.
            let above = bars.iter().skip(1).zip(1_u8..);
            let reaches = |step: u8| *rate > highest * f64::from(step - 1) / 7.0;
            above.filter(|(_, step)| reaches(*step)).last().map_or(bars[1], |(bar, _)| *bar)
        }
    };
    history.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_shows_the_smallest_drop_and_no_reading() {
        let history = [None, Some(0.0), Some(1.0), Some(500.0), Some(1000.0)];
        assert_eq!(sparkline(&history, 1000.0, false), " ▁▂▅█");
        assert_eq!(sparkline(&history, 1000.0, true), " _.=#");
        assert_eq!(sparkline(&[Some(0.0)], 0.0, true), "_");
    }
}
