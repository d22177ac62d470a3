//! The diagnosis as text: a line for each check, then the fixes.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal as _},
};

use clap::builder::styling::{AnsiColor, Style};

use crate::{
    doctor::{Check, Diagnosis, State, Summary},
    output,
    text::shown_text,
};

/// Width in columns of the longest state.
const STATE: usize = 8;
/// Minimum width in columns of the name and subject of a check.
const NAME: usize = 24;

/// Prints the diagnosis.
pub fn print(diagnosis: &Diagnosis) {
    let colour = io::stdout().is_terminal() && output::allows_colour();
    output::answer(text(diagnosis, colour));
}

fn text(diagnosis: &Diagnosis, colour: bool) -> String {
    let mut text = String::new();
    for check in &diagnosis.checks {
        let state = state(check.state, colour);
        let _ = writeln!(text, "{state} {:<NAME$} {}", name(check), clean(&check.found));
    }
    for check in &diagnosis.checks {
        if check.why.is_none() && check.fix.is_none() {
            continue;
        }
        let _ = writeln!(
            text,
            "\n{} {}: {}",
            state(check.state, colour).trim_end(),
            name(check),
            clean(&check.found)
        );
        if let Some(why) = &check.why {
            let _ = writeln!(text, "  why: {}", clean(why));
        }
        if let Some(fix) = &check.fix {
            let _ = writeln!(text, "  fix: {}", clean(fix));
        }
    }
    let Summary { ok, note, warning, failed, unknown } = diagnosis.summary;
    let counts = [
        (failed, "failed".to_owned()),
        (unknown, "could not be checked".to_owned()),
        (warning, if warning == 1 { "warning".to_owned() } else { "warnings".to_owned() }),
        (note, if note == 1 { "note".to_owned() } else { "notes".to_owned() }),
    ];
    let _ = write!(text, "\n{ok} ok");
    for (count, what) in counts.iter().filter(|(count, _)| *count > 0) {
        let _ = write!(text, ", {count} {what}");
    }
    text
}

/// Escapes a text, because names of interfaces, processes and files can contain anything.
fn clean(text: &str) -> String {
    shown_text(&text.replace('\n', " "))
}

fn name(check: &Check) -> String {
    match &check.subject {
        Some(subject) => format!("{} {}", check.id, clean(subject)),
        None => check.id.to_owned(),
    }
}

/// Colours the state. Colour only repeats the word.
fn state(state: State, colour: bool) -> String {
    let style = match state {
        _ if !colour => Style::new(),
        State::Ok => AnsiColor::Green.on_default(),
        State::Note => AnsiColor::Cyan.on_default(),
        State::Warning => AnsiColor::Yellow.on_default(),
        State::Unknown => AnsiColor::Magenta.on_default(),
        State::Failed => AnsiColor::Red.on_default().bold(),
    };
    let word = if state == State::Failed { "FAILED" } else { state.name() };
    let pad = STATE.saturating_sub(word.len());
    format!("{style}{word}{style:#}{:pad$}", "")
}
