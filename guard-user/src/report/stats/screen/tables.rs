//! The four tables of the live screen as rows of text, sorted and filtered.

use std::cmp::Ordering;

use super::view::{Sort, Unit, View};
use crate::{
    api::{
        stats::{InterfaceStats, ServiceStats, TopSource},
        status::ServiceMode,
    },
    attach_mode::DeviceMode,
    report::stats::{
        model::Model,
        number_format,
        rates::{BYTES, Change, DROPPED, PASSED, WOULD_DROP, real},
    },
    text::short,
};

/// A table of the live screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// The interfaces.
    Interfaces,
    /// The services.
    Services,
    /// The reasons.
    Reasons,
    /// The most refused sources.
    Sources,
}

impl Table {
    /// All tables, in the order of the keys 1 to 4.
    pub const ALL: [Self; 4] = [Self::Interfaces, Self::Services, Self::Reasons, Self::Sources];

    /// Returns the position in [`Self::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Returns the columns, most important first; a narrow screen omits the last ones.
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Interfaces => &INTERFACES,
            Self::Services => &SERVICES,
            Self::Reasons => &REASONS,
            Self::Sources => &SOURCES,
        }
    }

    /// Returns the sorted rows, and the number of rows that the filter hides.
    pub fn rows(self, model: &Model, view: &View, ascii: bool) -> (Vec<Row>, usize) {
        let cells = Cells { model, view, ascii };
        let stats = &model.stats;
        let mut rows: Vec<Row> = match self {
            Self::Interfaces => stats.interfaces.iter().map(|row| cells.interface(row)).collect(),
            Self::Services => stats.services.iter().map(|row| cells.service(row)).collect(),
            Self::Reasons => {
                let seen = stats.reasons.iter().filter(|(_, row)| row.packets > 0);
                seen.map(|(name, _)| cells.reason(name)).collect()
            }
            Self::Sources => stats.top_sources.iter().map(|row| cells.source(row)).collect(),
        };
        let all = rows.len();
        rows.retain(|row| view.filter.admits(&row.searched()));
        sort(&mut rows, view.sorts[self.index()]);
        let hidden = all - rows.len();
        (rows, hidden)
    }
}

/// Sorts rows; the sort is stable.
pub fn sort(rows: &mut [Row], sort: Sort) {
    rows.sort_by(|a, b| {
        let [a, b] = [a, b].map(|row| row.cells.get(sort.column).map(|cell| &cell.order));
        let order = match (a, b) {
            (Some(a), Some(b)) => a.compare(b),
            _ => Ordering::Equal,
        };
        if sort.descending { order.reverse() } else { order }
    });
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Heading; `#` is replaced by the time unit of rates or by nothing, `$` by the unit of
    /// traffic.
    pub title: &'static str,
    /// Minimum width on the screen.
    pub min_width: u16,
    /// Width up to which a longer text has priority over further columns to the right.
    pub preferred_width: u16,
    /// Maximum width on the screen.
    pub max_width: u16,
    /// Whether it is aligned to the right.
    pub right: bool,
}

const fn text(title: &'static str, min_width: u16, max_width: u16) -> Column {
    Column { title, min_width, preferred_width: min_width, max_width, right: false }
}

const fn number(title: &'static str, width: u16) -> Column {
    Column { title, min_width: width, preferred_width: width, max_width: width, right: true }
}

/// Index of the sparkline among the columns of [`Table::Interfaces`].
pub const SPARKLINE: usize = 6;

const INTERFACES: [Column; 9] = [
    text("INTERFACE", 11, 24),
    text("MODE", 7, 8),
    number("PASS#", 9),
    number("DROP#", 9),
    number("WOULD#", 9),
    number("DROP %", 7),
    text("LAST 60 s", 10, 60),
    number("PASS $", 10),
    number("DROP $", 10),
];
const SERVICES: [Column; 7] = [
    text("SERVICE", 11, 32),
    text("MODE", 7, 8),
    number("PASSED#", 9),
    number("DROPPED#", 9),
    number("WOULD#", 9),
    number("DROP %", 7),
    text("POLICY", 6, 24),
];
const REASONS: [Column; 6] = [
    text("REASON", 11, 24),
    number("RATE", 6),
    number("TOTAL", 9),
    number("DROPPED#", 9),
    number("WOULD#", 9),
    number("$", 9),
];
const SOURCES: [Column; 9] = [
    text("SOURCE", 15, 39),
    number("RATE", 6),
    // `not in the manifest` has 19 characters.
    Column { title: "NODE", min_width: 12, preferred_width: 19, max_width: 32, right: false },
    text("REASON", 11, 16),
    text("SERVICE", 9, 24),
    text("PORT", 8, 10),
    number("LAST", 6),
    number("TOTAL", 9),
    number("FIRST", 6),
];

/// The sort key of a cell.
#[derive(Debug, Clone, PartialEq)]
pub enum Order {
    /// An empty cell, before all others.
    Nothing,
    /// Sorted by value.
    Number(f64),
    /// Sorted alphabetically.
    Text(String),
}

impl Order {
    /// Compares two keys; a total order.
    pub fn compare(&self, other: &Self) -> Ordering {
        let rank = |order: &Self| match order {
            Self::Nothing => 0,
            Self::Number(_) => 1,
            Self::Text(_) => 2,
        };
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

/// The meaning of a cell's colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// No meaning.
    Plain,
    /// No problem.
    Good,
    /// Needs attention.
    Warn,
    /// Packets were refused.
    Bad,
}

/// A cell of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// The text on the screen.
    pub text: String,
    /// The sort key.
    pub order: Order,
    /// The meaning of its colour.
    pub tone: Tone,
}

/// A row of a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Identifies the row across readings.
    pub key: String,
    /// Its cells, one per column.
    pub cells: Vec<Cell>,
}

impl Row {
    /// Returns the text that the filter searches: words, not numbers.
    fn searched(&self) -> String {
        let words = self.cells.iter().filter(|cell| matches!(cell.order, Order::Text(_)));
        words.map(|cell| cell.text.as_str()).collect::<Vec<_>>().join(" ")
    }
}

struct Cells<'a> {
    model: &'a Model,
    view: &'a View,
    ascii: bool,
}

impl Cells<'_> {
    fn interface(&self, row: &InterfaceStats) -> Row {
        let change = self.model.rates.interface(row);
        let counts = crate::report::stats::rates::interface(row);
        let mode = match row.mode {
            // The daemon reports the mode, so without one the interface is not guarded.
            None if self.model.stats.enforcing.is_some() => {
                Cell { tone: Tone::Bad, ..self.word(Some("none")) }
            }
            Some(DeviceMode::Native) | None => self.word(row.mode.map(DeviceMode::name)),
            Some(mode) => Cell { tone: Tone::Warn, ..self.word(Some(mode.name())) },
        };
        let cells = vec![
            self.word(Some(&row.name)),
            mode,
            self.frames(&change, &counts, PASSED, Tone::Plain),
            self.frames(&change, &counts, DROPPED, Tone::Bad),
            self.frames(&change, &counts, WOULD_DROP, Tone::Warn),
            self.share(&change, &counts),
            // Drawn from the history, and sorted by the current drops.
            Cell { text: String::new(), ..self.frames(&change, &counts, DROPPED, Tone::Bad) },
            self.traffic(&change, &counts, BYTES + PASSED),
            self.traffic(&change, &counts, BYTES + DROPPED),
        ];
        Row { key: row.name.clone(), cells }
    }

    fn service(&self, row: &ServiceStats) -> Row {
        let change = self.model.rates.service(row);
        let counts = crate::report::stats::rates::service(row);
        let mode = match row.mode {
            Some(ServiceMode::Enforce) | None => Tone::Plain,
            Some(_) => Tone::Warn,
        };
        let cells = vec![
            self.word(Some(&row.name)),
            Cell { tone: mode, ..self.word(row.mode.map(ServiceMode::name)) },
            self.frames(&change, &counts, PASSED, Tone::Plain),
            self.frames(&change, &counts, DROPPED, Tone::Bad),
            self.frames(&change, &counts, WOULD_DROP, Tone::Warn),
            self.share(&change, &counts),
            self.word(Some(&row.policy)),
        ];
        Row { key: format!("{}/{}", row.policy, row.name), cells }
    }

    fn reason(&self, name: &str) -> Row {
        let row = self.model.stats.reasons.get(name).copied().unwrap_or_default();
        let change = self.model.rates.reason(name);
        let counts = crate::report::stats::rates::reason(&row);
        let cells = vec![
            self.word(Some(name)),
            rate(&change, 0),
            total(counts[0]),
            self.frames(&change, &counts, 1, Tone::Bad),
            self.frames(&change, &counts, 2, Tone::Warn),
            self.traffic(&change, &counts, 3),
        ];
        Row { key: name.to_owned(), cells }
    }

    fn source(&self, row: &TopSource) -> Row {
        let change = self.model.rates.source(row);
        let node = match row.node.as_deref() {
            // A refused node of the manifest is worse than an unknown source.
            Some(node) => Cell { tone: Tone::Bad, ..self.word(Some(node)) },
            None => self.word(Some("not in the manifest")),
        };
        let cells = vec![
            self.word(Some(&row.address)),
            rate(&change, 0),
            node,
            self.word(Some(&row.reason)),
            self.word(row.service.as_deref()),
            self.word(row.port.as_deref()),
            self.since(&row.last_seen),
            total(row.packets),
            self.since(&row.first_seen),
        ];
        Row { key: row.address.clone(), cells }
    }

    fn word(&self, word: Option<&str>) -> Cell {
        let text = match word {
            None => "-".to_owned(),
            // A blank cell would look like an error of the screen.
            Some("") => "''".to_owned(),
            Some(word) => number_format::name(word, self.ascii),
        };
        let order = word.map_or(Order::Nothing, |_| Order::Text(natural(&text)));
        Cell { text, order, tone: Tone::Plain }
    }

    /// Formats frames: per second, or in total.
    fn frames<const N: usize>(
        &self,
        change: &Change<N>,
        counts: &[u64; N],
        index: usize,
        tone: Tone,
    ) -> Cell {
        let count = counts.get(index).copied().unwrap_or_default();
        let cell = if self.view.totals { total(count) } else { rate(change, index) };
        let some = matches!(cell.order, Order::Number(number) if number > 0.0);
        Cell { tone: if some { tone } else { Tone::Plain }, ..cell }
    }

    /// Formats traffic in bytes or bits: per second, or in total.
    fn traffic<const N: usize>(&self, change: &Change<N>, counts: &[u64; N], index: usize) -> Cell {
        let factor = match self.view.unit {
            Unit::Bits => 8.0,
            Unit::Bytes => 1.0,
        };
        let value = if self.view.totals {
            counts.get(index).map(|count| real(*count))
        } else {
            change.rate(index)
        };
        match value {
            Some(value) => figure(short(value * factor), value),
            None => rate(change, index),
        }
    }

    /// Formats the share of dropped frames.
    fn share<const N: usize>(&self, change: &Change<N>, counts: &[u64; N]) -> Cell {
        let value = |index| {
            if self.view.totals {
                counts.get(index).map(|count| real(*count))
            } else {
                change.rate(index)
            }
        };
        match [PASSED, DROPPED, WOULD_DROP].map(value) {
            [Some(passed), Some(dropped), Some(would)] => {
                let whole = passed + dropped + would;
                let share = if whole > 0.0 { dropped / whole } else { 0.0 };
                figure(number_format::percent(dropped, whole), share)
            }
            _ => rate(change, DROPPED),
        }
    }

    /// Formats the age of a timestamp.
    fn since(&self, then: &str) -> Cell {
        match number_format::between(then, &self.model.stats.time) {
            Some(age) => figure(number_format::age(age), age.as_secs_f64()),
            None => Cell { text: "-".to_owned(), order: Order::Nothing, tone: Tone::Plain },
        }
    }
}

/// Returns a key for natural sorting: `eth2` before `eth10`.
fn natural(text: &str) -> String {
    const DIGITS: usize = 20;
    let mut key = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let word = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (before, after) = rest.split_at(word);
        let number = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let (digits, after) = after.split_at(number);
        key.push_str(&before.to_lowercase());
        if !digits.is_empty() {
            key.extend(std::iter::repeat_n('0', DIGITS.saturating_sub(digits.len())));
            key.push_str(digits);
        }
        rest = after;
    }
    key
}

fn rate<const N: usize>(change: &Change<N>, index: usize) -> Cell {
    if let Some(rate) = change.rate(index) {
        return figure(short(rate), rate);
    }
    let text = if change.restarted() { "reset" } else { "-" };
    Cell { text: text.to_owned(), order: Order::Nothing, tone: Tone::Plain }
}

fn total(count: u64) -> Cell {
    figure(number_format::count(count), real(count))
}

fn figure(text: String, value: f64) -> Cell {
    Cell { text, order: Order::Number(value), tone: Tone::Plain }
}
