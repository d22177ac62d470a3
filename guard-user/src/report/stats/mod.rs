//! The statistics: as totals, as rows, as documents, and as a screen that lives.
//!
//! [`model`] makes a picture of readings, [`screen`] draws it; [`stream`] is
//! for pipes, [`document`] for programs.

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

/// Whether standard output is a terminal on which a cursor can be moved.
pub fn suits_a_screen() -> bool {
    let able = |term: &str| !term.is_empty() && term != "dumb";
    io::stdout().is_terminal() && env::var("TERM").is_ok_and(|term| able(&term))
}

impl screen::TerminalFeatures {
    /// What the terminal of standard output can show, as the environment tells it.
    pub fn of_terminal(color: Colour) -> Self {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let color = match color {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => output::allows_colour(),
        };
        // The first that is set counts, as for the C library.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default();
        let locale = locale.to_ascii_lowercase();
        Self { color, ascii: !locale.contains("utf-8") && !locale.contains("utf8") }
    }
}
