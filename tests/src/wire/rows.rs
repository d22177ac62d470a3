//! Figures, for people and for programs.

use std::{fmt, path::Path};

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::bench::{
    report::{self, Report},
    stats::median,
};

/// The least, the middle and the greatest of what the rounds gave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of some values; none without a value.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        Some(Self { min, median: median(values), max })
    }

    /// Of the ratios that the rounds gave, each in itself.
    pub fn of_ratios(values: &[f64], bases: &[f64]) -> Option<Self> {
        Self::of(values.iter().zip(bases).map(|(value, base)| value / base))
    }
}

/// What a median should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
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
    /// The benchmark.
    pub section: &'static str,
    /// What was measured.
    pub case: String,
    /// Which of its figures.
    pub figure: &'static str,
    /// `ns`, `x` for a ratio.
    pub unit: &'static str,
    /// The rounds; none if there is no figure, and the note says why.
    #[serde(flatten)]
    pub spread: Option<Spread>,
    /// The case that a ratio is to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio_to: Option<String>,
    /// What the median should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// Whether it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
    /// What else is to know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl Row {
    /// A figure.
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

    /// Says what the ratio is to.
    #[must_use]
    pub fn to(self, base: &str) -> Self {
        Self { ratio_to: Some(base.to_owned()), ..self }
    }

    /// Holds the median to a target.
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

    /// Its figures, then its target, as cells.
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

/// Digits behind the point that say something.
fn digits(value: f64) -> usize {
    match value {
        0.0..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    }
}

/// Writes rows for programs.
pub fn write(bench: &'static str, rows: &[Row], path: &Path) -> Result<()> {
    let mut report = Report::new(bench);
    for row in rows {
        report.row(serde_json::to_value(row)?);
    }
    report.write(path)
}

/// A table for people: the first column is a name, the others are figures.
pub fn table(header: &[&str], lines: Vec<Vec<String>>) -> Table {
    let mut table = report::table(1, header, lines);
    table.load_style(presets::ASCII_MARKDOWN);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_sorted_values() {
        let spread = Spread { min: 1.0, median: 2.0, max: 9.0 };
        assert_eq!(Spread::of([2.0, 9.0, 1.0]), Some(spread));
        assert_eq!(Spread::of([9.0, 1.0, 3.0, 1.0]), Some(spread));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let ratios = Spread::of_ratios(&[2.0, 30.0], &[1.0, 10.0]).unwrap();
        assert_eq!((ratios.min, ratios.max), (2.0, 3.0));
    }

    #[test]
    fn a_target_is_for_the_median() {
        let row = Row::new("s", "c", "f", "x", Spread::of([1.0, 2.0, 9.0]));
        assert_eq!(row.clone().target(Some(Target::AtMost(2.0))).met, Some(true));
        assert_eq!(row.target(Some(Target::AtLeast(2.5))).met, Some(false));
    }
}
