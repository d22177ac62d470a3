//! Prints the pages of `explain`, and their list.

use serde::Serialize;

use crate::{
    explain,
    output::{self, Format},
};

/// `schema` of the JSON forms.
const SCHEMA: &str = "trainguard/explain/v1";

#[derive(Serialize)]
struct Page {
    schema: &'static str,
    name: &'static str,
    title: &'static str,
    text: String,
}

#[derive(Serialize)]
struct List {
    schema: &'static str,
    pages: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    name: &'static str,
    title: &'static str,
}

/// Prints the page with a name.
pub fn page(name: &'static str, format: Format) {
    let text = without_remarks(explain::page(name).unwrap_or_default());
    match format {
        Format::Text => {
            output::answer(text);
        }
        Format::Json => {
            let title = explain::title(name).unwrap_or_default();
            output::answer_json(&Page { schema: SCHEMA, name, title, text });
        }
    }
}

/// Prints all names with their titles.
pub fn list(format: Format) {
    let pages: Vec<Entry> = explain::names()
        .map(|name| Entry { name, title: explain::title(name).unwrap_or_default() })
        .collect();
    match format {
        Format::Text => {
            let width = pages.iter().map(|page| page.name.len()).max().unwrap_or(0);
            let line = |page: &Entry| format!("{:width$}  {}", page.name, page.title);
            output::answer(pages.iter().map(line).collect::<Vec<_>>().join("\n"));
        }
        Format::Json => output::answer_json(&List { schema: SCHEMA, pages }),
    }
}

/// Removes the remarks that only the tests of the pages use.
fn without_remarks(page: &str) -> String {
    let lines: Vec<&str> = page.lines().filter(|line| !line.starts_with("<!--")).collect();
    lines.join("\n")
}
