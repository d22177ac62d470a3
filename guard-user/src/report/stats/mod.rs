//! The statistics: as totals, rows, JSON documents, and a live screen.
//!
//! [`model`] combines readings into a model, which [`screen`] draws; [`stream`] writes to pipes,
//! [`document`] is the JSON format.

pub mod document;
pub mod model;
pub mod number_format;
pub mod rates;
pub mod screen;
mod signals;
pub mod stream;
pub mod terminal;
mod text;

use std::{
    env,
    io::{self, IsTerminal as _},
};

use crate::output::{self, Colour};

pub use text::print;

/// Reports whether standard output is a terminal with cursor control.
pub fn suits_a_screen() -> bool {
    let able = |term: &str| !term.is_empty() && term != "dumb";
    io::stdout().is_terminal() && env::var("TERM").is_ok_and(|term| able(&term))
}

impl screen::TerminalFeatures {
    /// Detects the features of the terminal from the environment.
    pub fn of_terminal(color: Colour) -> Self {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let color = match color {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => output::allows_colour(),
        };
        // The first variable that is set counts, as in the C library.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default();
        let locale = locale.to_ascii_lowercase();
        Self { color, ascii: !locale.contains("utf-8") && !locale.contains("utf8") }
    }
}
