//! Fixes as a unified diff, for review: what would not be seen in it is written as an escape.

use std::path::Path;

use similar::TextDiff;

use super::{shown_path, shown_text};
use crate::report;

/// Lines that are shown around a change.
const CONTEXT: usize = 3;

/// Prints what becomes of a file.
pub fn print(path: &Path, before: &str, after: &str) {
    let path = shown_path(path);
    let diff = TextDiff::from_lines(before, after);
    let unified = diff
        .unified_diff()
        .context_radius(CONTEXT)
        .header(&format!("a/{path}"), &format!("b/{path}"))
        .to_string();
    for line in unified.lines() {
        let pieces: Vec<String> = line.split('\t').map(shown_text).collect();
        if !report::answer(pieces.join("\t")) {
            return;
        }
    }
}
