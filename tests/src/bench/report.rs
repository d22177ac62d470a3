//! Output of a benchmark: a table for the terminal and a JSON file for `cargo xtask bench`.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde_json::{Value, json};

/// The figures of one benchmark.
#[derive(Debug)]
pub struct Report {
    bench: &'static str,
    notes: Vec<String>,
    rows: Vec<Value>,
}

impl Report {
    /// Creates an empty report of the benchmark with this name.
    pub fn new(bench: &'static str) -> Self {
        Self { bench, notes: Vec::new(), rows: Vec::new() }
    }

    /// Adds a note that readers of the figures need.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Adds a row.
    pub fn row(&mut self, row: Value) {
        self.rows.push(row);
    }

    /// Returns the notes.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Writes the report as JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        let all = json!({ "bench": self.bench, "notes": self.notes, "rows": self.rows });
        let text = serde_json::to_string_pretty(&all)?;
        fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
    }
}

/// Formats a table: the first `words` columns are text, the others are figures.
pub fn table(words: usize, header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.to_vec());
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(words) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
