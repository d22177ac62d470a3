//! `trainguard events`: prints past events, and follows new ones.

mod missing;

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, SystemTime},
};

use crate::{
    api::{
        client::{Client, ClientError, Pause},
        events::{self, Event, EventKind, Lost, Page, filter::Filter},
    },
    cli::EventsArgs,
    exit::Exit,
    host,
    output::{self, Colour},
    report::events::{EventsFormat, Output},
    text::{counted, time},
};

/// Interval between requests to the daemon with `--follow`.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Maximum number of events per request.
const PAGE: usize = 1000;
/// Number of past events printed first with `--follow`, unless the command line gives another.
const LAST: usize = 10;

/// Runs `trainguard events`.
pub fn run(args: &EventsArgs) -> Exit {
    if args.missing_members {
        return missing::run(args);
    }
    // Before anything is printed, because an interrupt is not a failure.
    let pause = match args.follow.then(Pause::new).transpose() {
        Ok(pause) => pause,
        Err(error) => {
            output::error(format_args!("installing the signal handlers: {error}"));
            return Exit::NoAnswer;
        }
    };
    let mut reader = Reader::new(args.daemon.client());
    let past = match reader.past() {
        Ok(past) => past,
        Err(error) => return refuse(&error),
    };
    let filter = filter(args);
    let mut output = output(args);
    note_beginning(args, &past, reader.oldest);
    let wanted: Vec<&Event> = past
        .iter()
        .filter(|event| {
            filter.selects(event) && args.since.is_none_or(|since| is_since(event, since))
        })
        .collect();
    let default = if args.follow && args.since.is_none() { LAST } else { usize::MAX };
    let skip = wanted.len().saturating_sub(args.last.unwrap_or(default));
    let written = wanted.into_iter().skip(skip).all(|event| output.add(event)) && output.flush();
    match pause {
        Some(pause) if written => follow(reader, pause, &filter, &mut output),
        _ => Exit::Yes,
    }
}

fn filter(args: &EventsArgs) -> Filter {
    Filter {
        sources: args.sources.clone(),
        services: args.services.clone(),
        reasons: args.reasons.clone(),
        verdicts: args.verdicts.clone(),
        interfaces: args.interfaces.clone(),
        ports: args.ports.clone(),
        kinds: args.kinds.clone(),
    }
}

fn output(args: &EventsArgs) -> Output {
    let terminal = io::stdout().is_terminal();
    let default = if terminal { EventsFormat::Compact } else { EventsFormat::Ndjson };
    let colour = match args.color {
        Colour::Always => true,
        Colour::Auto => terminal && output::allows_colour(),
        Colour::Never => false,
    };
    Output::new(args.format.unwrap_or(default), colour)
}

/// Prints why the daemon gave no answer, and returns the exit code.
pub(super) fn refuse(error: &ClientError) -> Exit {
    output::error(error);
    let exit = error.exit();
    if exit == Exit::Unreachable {
        output::hint(
            "check that the daemon runs with the same --run-dir, and that you may read its socket",
        );
    }
    exit
}

/// Reports whether an event happened at `since` or later. An event without a readable time counts
/// as later.
pub(super) fn is_since(event: &Event, since: SystemTime) -> bool {
    let at = event.time.as_deref().and_then(|time| humantime::parse_rfc3339(time).ok());
    at.is_none_or(|at| at >= since)
}

/// Prints a note if the daemon no longer keeps all requested events.
fn note_beginning(args: &EventsArgs, past: &[Event], oldest: u64) {
    let reaches = |event: &Event| args.since.is_some_and(|since| !is_since(event, since));
    if args.since.is_none() || oldest <= 1 || past.first().is_some_and(reaches) {
        return;
    }
    output::message(format_args!(
        "note: the daemon no longer keeps the {} before these",
        counted(oldest - 1, "record")
    ));
}

/// Prints new events until the user interrupts, or the reader of standard output is gone.
fn follow(mut reader: Reader, mut pause: Pause, filter: &Filter, output: &mut Output) -> Exit {
    let mut waiting = false;
    while pause.wait(POLL_INTERVAL) && !host::is_stdout_closed() {
        let events = match reader.new_events() {
            Ok(events) => events,
            Err(error) => {
                if !std::mem::replace(&mut waiting, true) {
                    output::message(format_args!("note: {error}; retrying"));
                }
                continue;
            }
        };
        waiting = false;
        let mut wanted = events.iter().filter(|event| filter.selects(event));
        if !wanted.all(|event| output.add(event)) || !output.flush() {
            break;
        }
    }
    Exit::Yes
}

/// Reads the events of a daemon in order, each once.
pub(super) struct Reader {
    client: Client,
    /// Instance identifier of the daemon; empty before the first response.
    instance: String,
    /// Sequence number of the last event that was read.
    after: u64,
    /// Sequence number of the oldest event that was kept when reading began.
    oldest: u64,
}

impl Reader {
    pub(super) fn new(client: Client) -> Self {
        Self { client, instance: String::new(), after: 0, oldest: 0 }
    }

    /// Returns all events that the daemon keeps.
    pub(super) fn past(&mut self) -> Result<Vec<Event>, ClientError> {
        let now = self.client.events(u64::MAX, 1)?;
        self.after = now.first.saturating_sub(1);
        self.oldest = now.first;
        self.instance = now.instance;
        self.new_events()
    }

    /// Returns the events since the last call, at most as many as a daemon keeps.
    fn new_events(&mut self) -> Result<Vec<Event>, ClientError> {
        let mut events = Vec::new();
        let mut until = None;
        loop {
            let page = self.client.events(self.after, PAGE)?;
            if page.instance != self.instance {
                output::message(
                    "note: the daemon was restarted; unread records of the previous process are lost",
                );
                self.after = 0;
                self.instance = page.instance;
                until = None;
                continue;
            }
            events.extend(self.gap(&page));
            // Events that arrive meanwhile are left for the next call; otherwise a flood of events
            // would keep this call from returning.
            let until = *until.get_or_insert(page.next);
            let is_last = page.events.is_empty();
            if let Some(last) = page.events.last().and_then(|event| event.seq) {
                self.after = self.after.max(last);
            }
            events.extend(page.events);
            if is_last || self.after.saturating_add(1) >= until {
                return Ok(events);
            }
        }
    }

    /// Returns an event that counts the records discarded before they could be read.
    fn gap(&mut self, page: &Page) -> Option<Event> {
        let gone = page.first.checked_sub(self.after.saturating_add(1)).filter(|gone| *gone > 0)?;
        self.after = page.first - 1;
        Some(Event {
            schema: events::SCHEMA.to_owned(),
            time: Some(time(SystemTime::now())),
            seq: None,
            node: None,
            what: EventKind::Lost(Lost {
                records: gone,
                text: format!(
                    "{} discarded by the daemon before being read",
                    counted(gone, "record")
                ),
                ..Lost::default()
            }),
        })
    }
}
