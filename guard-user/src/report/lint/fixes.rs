//! Fixes as a unified diff, for review: what would not be seen in it is written as an escape.

use std::path::Path;

use similar::TextDiff;

use crate::{
    output,
    text::{shown_path, shown_text},
};

/// Lines that are shown around a change.
const CONTEXT: usize = 3;

/// What becomes of a file, as `patch` takes it.
pub fn unified(path: &Path, before: &str, after: &str) -> String {
    let path = shown_path(path);
    let path = path.trim_start_matches('/');
    let diff = TextDiff::from_lines(before, after);
    let mut unified = diff.unified_diff();
    unified.context_radius(CONTEXT).header(&format!("a/{path}"), &format!("b/{path}")).to_string()
}

/// Prints what becomes of a file.
pub fn print(path: &Path, before: &str, after: &str) {
    for line in unified(path, before, after).lines() {
        let pieces: Vec<String> = line.split('\t').map(shown_text).collect();
        if !output::answer(pieces.join("\t")) {
            return;
        }
    }
}
