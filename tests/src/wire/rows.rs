//! Figures, as a table and as JSON.

use std::{fmt, path::Path};

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::bench::{
    report::{self, Report},
    stats::median,
};

/// Minimum, median and maximum over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The minimum.
    pub min: f64,
    /// The median.
    pub median: f64,
    /// The maximum.
    pub max: f64,
}

impl Spread {
    /// Returns the spread of some values; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        Some(Self { min, median: median(values), max })
    }

    /// Returns the spread of the ratios, computed within each round.
    pub fn of_ratios(values: &[f64], bases: &[f64]) -> Option<Self> {
        Self::of(values.iter().zip(bases).map(|(value, base)| value / base))
    }
}

/// The target for a median.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// At most this value.
    AtMost(f64),
    /// At least this value.
    AtLeast(f64),
}

impl Target {
    fn is_met(self, median: f64) -> bool {
        match self {
            Self::AtMost(bound) => median <= bound,
            Self::AtLeast(bound) => median >= bound,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "<= {bound}"),
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One figure of one case.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Name of the benchmark.
    pub section: &'static str,
    /// Name of the case.
    pub case: String,
    /// Name of the figure.
    pub figure: &'static str,
    /// Unit: `ns` and so on, or `x` for a ratio.
    pub unit: &'static str,
    /// The result of the rounds; `None` if nothing was measured, for the reason in the note.
    #[serde(flatten)]
    pub spread: Option<Spread>,
    /// The case to which the ratio refers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to: Option<String>,
    /// The target for the median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// Whether the median meets the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
    /// A note for the reader.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Row {
    /// Creates a row with a figure.
    pub fn new(
        section: &'static str,
        case: &str,
        figure: &'static str,
        unit: &'static str,
        spread: Option<Spread>,
    ) -> Self {
        let case = case.to_owned();
        let (ratio_to, target, met, note) = (None, None, None, None);
        Self { section, case, figure, unit, spread, ratio_to, target, met, note }
    }

    /// Sets the case to which the ratio refers.
    #[must_use]
    pub fn to(self, base: &str) -> Self {
        Self { ratio_to: Some(base.to_owned()), ..self }
    }

    /// Sets a target and compares the median with it.
    #[must_use]
    pub fn target(self, target: Option<Target>) -> Self {
        let met = target.zip(self.spread).map(|(target, spread)| target.is_met(spread.median));
        Self { target, met, ..self }
    }

    /// Adds a note.
    #[must_use]
    pub fn note(self, note: &str) -> Self {
        Self { note: Some(note.to_owned()), ..self }
    }

    /// Returns two cells: the figures (or the note), and the target.
    pub fn cells(&self) -> [String; 2] {
        let figures = self.spread.map_or_else(
            || self.note.clone().unwrap_or_default(),
            |Spread { min, median, max }| {
                let digits = digits(median);
                format!("{min:.digits$} / {median:.digits$} / {max:.digits$}")
            },
        );
        let target = self.target.map(|target| match self.met {
            Some(true) => format!("{target} ok"),
            Some(false) => format!("{target} MISSED"),
            None => target.to_string(),
        });
        [figures, target.unwrap_or_default()]
    }
}

/// Returns the number of significant decimal places for a value.
fn digits(value: f64) -> usize {
    match value {
        0.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    }
}

/// Writes the rows as JSON.
pub fn write(bench: &'static str, rows: &[Row], path: &Path) -> Result<()> {
    let mut report = Report::new(bench);
    for row in rows {
        report.row(serde_json::to_value(row)?);
    }
    report.write(path)
}

/// Formats a table: the first column is a name, the others are figures.
pub fn table(header: &[&str], lines: Vec<Vec<String>>) -> Table {
    let mut table = report::table(1, header, lines);
    table.load_style(presets::ASCII_MARKDOWN);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_sorts_its_values() {
        let spread = Spread { min: 1.0, median: 2.0, max: 9.0 };
        assert_eq!(Spread::of([2.0, 9.0, 1.0]), Some(spread));
        assert_eq!(Spread::of([9.0, 1.0, 3.0, 1.0]), Some(spread));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_compare_values_of_the_same_round() {
        let ratios = Spread::of_ratios(&[2.0, 30.0], &[1.0, 10.0]).unwrap();
        assert_eq!((ratios.min, ratios.max), (2.0, 3.0));
    }

    #[test]
    fn a_target_applies_to_the_median() {
        let row = Row::new("s", "c", "f", "x", Spread::of([1.0, 2.0, 9.0]));
        assert_eq!(row.clone().target(Some(Target::AtMost(2.0))).met, Some(true));
        assert_eq!(row.target(Some(Target::AtLeast(2.5))).met, Some(false));
    }
}
