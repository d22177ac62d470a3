//! `trainguard test --record`: turns recorded events into tests.

use std::{
    fmt::Write as _,
    fs,
    io::{self, BufRead as _},
    path::{Path, PathBuf},
};

use guard_common::verdict::Reason;

use crate::{
    api::events::{self, EventKind, Line, MAX_LINE},
    cli::TestArgs,
    commands::shared::{inputs::Overlay, load},
    exit::Exit,
    output,
    policy::{Disk, lint::fix, resolve::load::Loader},
    text::shown_path,
};

/// Maximum number of events of one run.
const MAX_EVENTS: usize = 10_000;

pub(super) fn run(args: &TestArgs) -> Exit {
    let file = match args.paths.as_slice() {
        [] => None,
        [file] => Some(file.as_path()),
        _ => {
            output::error("--record adds to one file, but several were given");
            return Exit::NoAnswer;
        }
    };
    let mut known: Vec<String> = match file.filter(|file| file.exists()).map(names) {
        Some(None) => return Exit::NoAnswer,
        Some(Some(names)) => names,
        None => Vec::new(),
    };
    let mut cases = String::new();
    let mut whole = true;
    let mut count = 0_usize;
    let mut input = io::stdin().lock();
    for number in 1.. {
        let mut line = Vec::new();
        let read = io::Read::take(&mut input, MAX_LINE as u64).read_until(b'\n', &mut line);
        match read {
            Ok(0) => break,
            Ok(_) if line.iter().all(u8::is_ascii_whitespace) => continue,
            Ok(_) if count < MAX_EVENTS => {}
            Ok(_) => {
                output::error(format_args!("more than {MAX_EVENTS} events"));
                whole = false;
                break;
            }
            Err(error) => {
                output::error(format_args!("cannot read the events: {error}"));
                return Exit::NoAnswer;
            }
        }
        match case(&line, args.node.as_deref(), &mut known) {
            Ok(Some(case)) => {
                count += 1;
                cases.push_str(&case);
            }
            // A repeated event, a passed frame, or an event that is not about a packet.
            Ok(None) => {}
            Err(problem) => {
                output::error(format_args!("line {number}: {problem}"));
                whole = false;
            }
        }
    }
    if count == 0 {
        output::message("no new tests");
        return if whole { Exit::Yes } else { Exit::NoAnswer };
    }
    match file {
        None => {
            output::answer(cases.trim_end_matches('\n'));
        }
        Some(file) => {
            if let Err(problem) = add(args, file, &cases) {
                output::error(problem);
                output::message("add these tests to the file yourself:");
                output::answer(cases.trim_end_matches('\n'));
                return Exit::NoAnswer;
            }
            let shown = shown_path(file);
            output::message(format_args!("added {count} new tests to `{shown}`"));
        }
    }
    if whole { Exit::Yes } else { Exit::NoAnswer }
}

/// Returns the names of the tests in a file. Prints the findings and returns none if the file
/// cannot be used.
fn names(file: &Path) -> Option<Vec<String>> {
    let (suite, _) = load::load_tests(file, &Disk)?;
    Some(suite.cases.into_iter().map(|case| case.name).collect())
}

/// Returns an event as the text of a test; none if this test exists already, or nothing was
/// refused.
fn case(
    line: &[u8],
    node: Option<&str>,
    known: &mut Vec<String>,
) -> Result<Option<String>, String> {
    let Line::Event(event) = events::read(line)? else { return Ok(None) };
    let EventKind::Packet(packet) = event.what else { return Ok(None) };
    let node = event.node.as_deref().or(node);
    let node = node.ok_or("the event names no node; give --node NAME")?;
    let (Some(source), Some(transport), Some(port)) =
        (packet.source, &packet.transport, packet.port)
    else {
        return Err(format!(
            "a packet without source and port ({}) cannot be written as a test; test its capture \
             instead",
            crate::policy::syntax::text::shown(&packet.reason)
        ));
    };
    if Reason::from_name(&packet.reason).is_some_and(Reason::is_limit) {
        return Err(format!(
            "{} depends on earlier packets, which an event does not contain; write a test with \
             `times` or `after`",
            crate::policy::syntax::text::shown(&packet.reason)
        ));
    }
    let to = format!("{transport}/{port}");
    let name = format!("{source} to {to} on {node}: {}", packet.reason);
    if known.contains(&name) {
        return Ok(None);
    }
    let service = packet.service.map(|name| format!(", service: {}", quoted(&name)));
    let mut text = String::new();
    // Writing to a `String` cannot fail.
    let _ = write!(
        text,
        "  - name: {}\n    node: {}\n    packet: {{ from: {}, to: {} }}\n    expect: {{ verdict: {}, \
         reason: {}{} }}\n",
        quoted(&name),
        quoted(node),
        quoted(&source.to_string()),
        quoted(&to),
        quoted(&packet.verdict),
        quoted(&packet.reason),
        service.unwrap_or_default()
    );
    known.push(name);
    Ok(Some(text))
}

/// Quotes a text so that every YAML reader takes it as a string. JSON escapes are also valid in
/// YAML double quotes.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// Adds tests to a file, or creates it. On an error the file is unchanged.
fn add(args: &TestArgs, file: &Path, cases: &str) -> Result<(), String> {
    let shown = shown_path(file);
    let made = !file.exists();
    let before = if made {
        let manifest = args.manifest.as_deref().ok_or_else(|| {
            format!("`{shown}` does not exist; give --manifest FILE to create it")
        })?;
        // Paths in the file are relative to the file.
        let base = file.parent().unwrap_or(Path::new(""));
        let manifest = manifest.strip_prefix(base).map(PathBuf::from).or_else(|_| {
            std::path::absolute(manifest)
                .map_err(|error| format!("{}: {error}", manifest.display()))
        })?;
        format!(
            "apiVersion: trainguard/v1\nkind: Test\nmanifest: {}\ntests:\n",
            quoted(&manifest.to_string_lossy())
        )
    } else {
        fs::read_to_string(file).map_err(|error| format!("cannot read `{shown}`: {error}"))?
    };
    let line_break = if before.ends_with('\n') { "" } else { "\n" };
    let after = format!("{before}{line_break}{cases}");
    // The file with the additions must still load.
    let files = Overlay::default();
    files.put(file.to_owned(), Ok(after.clone().into_bytes()));
    let mut loader = Loader::new(&files);
    let suite = loader.test(file);
    let (findings, ..) = loader.finish(file);
    if suite.is_none() {
        return Err(format!(
            "the tests cannot be appended to `{shown}`; `tests` must be its last field, and its \
             entries indented by two spaces:\n{findings}"
        ));
    }
    let written = if made { fs::write(file, &after) } else { fix::write(file, after.as_bytes()) };
    written.map_err(|error| format!("cannot write `{shown}`: {error}"))
}
