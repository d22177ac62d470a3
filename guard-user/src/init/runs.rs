//! Generates host lists: texts that differ in only one number become `worker-[0-3]`.

use std::ops::Range as Span;

/// Maximum number of ranges in one bracket, for readability.
const MAX_RANGES: usize = 8;
/// Maximum number of digits of a varying number; this many fit 64 bits in both radices.
const MAX_DIGITS: usize = 15;

/// A row of texts: a name, or a name and its addresses.
pub(super) type Row = Vec<String>;

/// Consecutive rows that are written as one.
#[derive(Debug)]
pub(super) struct Run {
    columns: Vec<Column>,
    /// Indices of the rows.
    pub(super) rows: Span<usize>,
}

/// One column of a run, with the text of every row.
#[derive(Debug)]
struct Column {
    first: String,
    /// Position of the varying number in the first text, and its ranges; none if there is only one
    /// row.
    varies: Option<(Span<usize>, Vec<Numbers>)>,
}

/// A range of consecutive numbers, as written.
#[derive(Debug, Clone)]
struct Numbers {
    first: String,
    last: String,
}

/// Returns the radix of numbers in a text: 16 for addresses with colons, as in all host lists,
/// otherwise 10.
fn radix(text: &str) -> u32 {
    if text.contains(':') { 16 } else { 10 }
}

/// Returns the positions of the numbers in a text.
fn numbers(text: &str) -> Vec<Span<usize>> {
    let radix = radix(text);
    let mut found: Vec<Span<usize>> = Vec::new();
    for (at, _) in text.char_indices().filter(|(_, c)| c.is_digit(radix)) {
        match found.last_mut() {
            Some(span) if span.end == at => span.end += 1,
            _ => found.push(at..at + 1),
        }
    }
    found
}

fn value(text: &str, radix: u32) -> Option<u64> {
    if text.len() > MAX_DIGITS { None } else { u64::from_str_radix(text, radix).ok() }
}

fn is_padded(text: &str) -> bool {
    text.len() > 1 && text.starts_with('0')
}

impl Numbers {
    fn one(text: &str) -> Self {
        Self { first: text.to_owned(), last: text.to_owned() }
    }

    /// Reports whether a number follows the last one, with the same padding.
    fn is_next(&self, text: &str, radix: u32) -> bool {
        let (Some(last), Some(next)) = (value(&self.last, radix), value(text, radix)) else {
            return false;
        };
        let alike =
            if is_padded(&self.first) { text.len() == self.first.len() } else { !is_padded(text) };
        last.checked_add(1) == Some(next) && alike
    }

    fn is_below(&self, text: &str, radix: u32) -> bool {
        matches!((value(&self.last, radix), value(text, radix)), (Some(a), Some(b)) if a < b)
    }
}

/// Returns the positions, in both texts, of the only number in which they differ.
fn difference(first: &str, second: &str) -> Option<(Span<usize>, Span<usize>)> {
    if radix(first) != radix(second) {
        return None;
    }
    let (ours, theirs) = (numbers(first), numbers(second));
    if ours.len() != theirs.len() {
        return None;
    }
    let differs =
        |(a, b): &(&Span<usize>, &Span<usize>)| first.get((*a).clone()) != second.get((*b).clone());
    let (a, b) = ours.iter().zip(&theirs).find(differs)?;
    let same =
        first.get(..a.start) == second.get(..b.start) && first.get(a.end..) == second.get(b.end..);
    same.then(|| (a.clone(), b.clone()))
}

impl Column {
    fn new(text: &str) -> Self {
        Self { first: text.to_owned(), varies: None }
    }

    /// Returns the varying number with one more text; none if no host list can express it.
    fn with(&self, text: &str) -> Option<(Span<usize>, Vec<Numbers>)> {
        let (span, other) = difference(&self.first, text)?;
        let radix = radix(text);
        let number = text.get(other)?;
        let mut ranges = match &self.varies {
            Some((known, _)) if *known != span => return None,
            Some((_, ranges)) => ranges.clone(),
            None => vec![Numbers::one(self.first.get(span.clone())?)],
        };
        let many = ranges.len();
        let range = ranges.last_mut()?;
        value(&range.last, radix)?;
        if range.is_next(number, radix) {
            number.clone_into(&mut range.last);
        } else if range.first != range.last && range.is_below(number, radix) && many < MAX_RANGES {
            // A gap is allowed only after a range, because lists of single numbers are hard to
            // read.
            ranges.push(Numbers::one(number));
        } else {
            return None;
        }
        Some((span, ranges))
    }

    fn text(&self) -> String {
        let Some((span, ranges)) = &self.varies else {
            return self.first.clone();
        };
        let written: Vec<String> = ranges
            .iter()
            .map(|range| {
                let Numbers { first, last } = range;
                if first == last { first.clone() } else { format!("{first}-{last}") }
            })
            .collect();
        let before = self.first.get(..span.start).unwrap_or_default();
        let after = self.first.get(span.end..).unwrap_or_default();
        format!("{before}[{}]{after}", written.join(","))
    }
}

impl Run {
    fn new(row: &Row, at: usize) -> Self {
        Self { columns: row.iter().map(|text| Column::new(text)).collect(), rows: at..at + 1 }
    }

    /// Adds a row; returns false if no host list can express it.
    fn take(&mut self, row: &Row) -> bool {
        if row.len() != self.columns.len() {
            return false;
        }
        let grown: Option<Vec<_>> =
            self.columns.iter().zip(row).map(|(column, text)| column.with(text)).collect();
        let Some(grown) = grown else {
            return false;
        };
        for (column, varies) in self.columns.iter_mut().zip(grown) {
            column.varies = Some(varies);
        }
        self.rows.end += 1;
        true
    }

    /// Returns each column as a host list.
    pub(super) fn texts(&self) -> impl Iterator<Item = String> + '_ {
        self.columns.iter().map(Column::text)
    }
}

/// Groups rows into runs, in order. `joins` decides whether two rows may be in one run.
pub(super) fn runs(rows: &[Row], joins: impl Fn(usize, usize) -> bool) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (at, row) in rows.iter().enumerate() {
        let taken = match runs.last_mut() {
            Some(run) => joins(run.rows.start, at) && run.take(row),
            None => false,
        };
        if !taken {
            runs.push(Run::new(row, at));
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::resolve::validate;

    fn lists(texts: &[&str]) -> Vec<String> {
        let rows: Vec<Row> = texts.iter().map(|text| vec![(*text).to_owned()]).collect();
        runs(&rows, |_, _| true).iter().flat_map(|run| run.texts().collect::<Vec<_>>()).collect()
    }

    #[test]
    fn consecutive_numbers_become_ranges() {
        assert_eq!(lists(&["w0", "w1", "w2"]), ["w[0-2]"]);
        assert_eq!(lists(&["w8", "w9", "w10"]), ["w[8-10]"]);
        assert_eq!(lists(&["w08", "w09", "w10"]), ["w[08-10]"]);
        assert_eq!(lists(&["w98", "w99", "w100"]), ["w[98-100]"]);
        assert_eq!(lists(&["w01", "w02", "w03", "w04", "w07"]), ["w[01-04,07]"]);
        assert_eq!(lists(&["10.0.0.9", "10.0.0.10"]), ["10.0.0.[9-10]"]);
        assert_eq!(lists(&["fd77::9", "fd77::a"]), ["fd77::[9-a]"]);
        assert_eq!(lists(&["r1n1", "r1n2", "r2n1"]), ["r1n[1-2]", "r2n1"]);
    }

    #[test]
    fn rows_that_no_host_list_expresses_are_not_merged() {
        // Padding that ends within a range cannot be expressed.
        assert_eq!(lists(&["w08", "w9"]), ["w08", "w9"]);
        assert_eq!(lists(&["w2", "w1"]), ["w2", "w1"]);
        assert_eq!(lists(&["a", "b"]), ["a", "b"]);
        assert_eq!(lists(&["w1", "w5"]), ["w1", "w5"]);
        assert_eq!(lists(&["10.0.0.255", "10.0.1.0"]), ["10.0.0.255", "10.0.1.0"]);
        assert_eq!(lists(&["fd77::1", "10.0.0.2"]), ["fd77::1", "10.0.0.2"]);
        let long = "9".repeat(30);
        assert_eq!(lists(&[&long, &long]), [long.clone(), long]);
    }

    #[test]
    fn padding_is_kept_beyond_its_width() {
        let names = ["w098", "w099", "w100", "w101"];
        assert_eq!(lists(&names), ["w[098-101]"]);
        assert_eq!(validate::host_list("w[098-101]", 10).unwrap(), names);
        assert_eq!(lists(&["w08", "w09", "w10", "w99", "w100"]), ["w[08-10,99-100]"]);
    }
}
