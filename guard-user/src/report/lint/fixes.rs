//! Fixes as a unified diff, for review. Invisible characters are escaped.

use std::path::Path;

use similar::TextDiff;

use crate::{
    output,
    text::{shown_path, shown_text},
};

/// Number of context lines around a change.
const CONTEXT: usize = 3;

/// Returns the changes of a file as a unified diff for `patch`.
pub fn unified(path: &Path, before: &str, after: &str) -> String {
    let path = shown_path(path);
    let path = path.trim_start_matches('/');
    let diff = TextDiff::from_lines(before, after);
    let mut unified = diff.unified_diff();
    unified.context_radius(CONTEXT).header(&format!("a/{path}"), &format!("b/{path}")).to_string()
}

/// Prints the changes of a file.
pub fn print(path: &Path, before: &str, after: &str) {
    for line in unified(path, before, after).lines() {
        let pieces: Vec<String> = line.split('\t').map(shown_text).collect();
        if !output::answer(pieces.join("\t")) {
            return;
        }
    }
}
