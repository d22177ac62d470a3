//! Silences findings: comments in the files, and rules that the caller allows.
//!
//! `# trainguard: ignore[TG204] moved by TICKET-12` silences the finding on its own line, or on the
//! next line if the comment stands alone. `ignore-file[...]` among the first comments of a file
//! silences the whole file. Errors are never silenced, so that lint reports everything that the daemon
//! rejects.

use crate::syntax::{
    diagnostic::{Diagnostic, FileId, Ignore, Location, Report, Span},
    rules::{self, Code},
    text, yaml,
};

/// Prefix of the comments that are read.
const COMMENT_PREFIX: &str = "trainguard:";
/// Maximum number of such comments in a file; later ones are ignored. No reviewed file has that many.
const MAX_COMMENTS: usize = 1000;
/// Maximum number of comment lines between a comment and the line that it silences.
const MAX_LINES_BETWEEN: usize = 32;

impl Report {
    /// Reads the comments of a file that silence findings, and reports those that are invalid.
    pub(crate) fn read_ignores(&mut self, file: FileId, source: &str) {
        if !source.contains(COMMENT_PREFIX) {
            return;
        }
        let mut count = 0_usize;
        for (span, comment) in yaml::comments(source) {
            let Some(rest) = comment.trim_start().strip_prefix(COMMENT_PREFIX) else { continue };
            let place = Location { file, span };
            count += 1;
            if count > MAX_COMMENTS {
                let message = format!("the file has more than {MAX_COMMENTS} trainguard comments");
                self.push(Diagnostic::warning(rules::NOT_IGNORABLE, place, message).help(
                    "this comment and all later ones have no effect; use `--allow CODE` instead",
                ));
                break;
            }
            match Comment::parse(rest.trim()) {
                Ok(comment) => self.read_ignore(source, place, &comment),
                Err(problem) => {
                    let message = format!("invalid trainguard comment: {problem}");
                    self.push(
                        Diagnostic::warning(rules::NOT_IGNORABLE, place, message)
                            .help("write `# trainguard: ignore[TG204] reason`"),
                    );
                }
            }
        }
    }

    fn read_ignore(&mut self, source: &str, place: Location, comment: &Comment<'_>) {
        let Location { file, span } = place;
        let within = if comment.whole_file { whole_file(source, span) } else { line(source, span) };
        let Some(within) = within else {
            let message =
                "`ignore-file` is below the first lines of the file, so readers overlook it";
            self.push(
                Diagnostic::warning(rules::NOT_IGNORABLE, place, message)
                    .help("write it among the comments at the top, or `ignore` at the line"),
            );
            return;
        };
        if comment.reason.is_empty() {
            let message = "a rule is silenced without a reason";
            self.push(
                Diagnostic::warning(rules::NO_REASON, place, message)
                    .help("write the reason after the bracket, for the next reader"),
            );
        }
        let only_one = comment.codes.len() == 1;
        for written in &comment.codes {
            let shown = text::shown(written);
            let problem = match written.parse::<Code>() {
                Ok(code) if code.is_ignorable() => {
                    let removal = only_one.then(|| with_blanks(source, span));
                    self.ignores.files.entry(file).or_default().push(Ignore {
                        code,
                        place,
                        within,
                        used: false,
                        removal,
                    });
                    continue;
                }
                Ok(_) => format!("`{shown}` cannot be silenced by a comment"),
                Err(()) => format!("`{shown}` is not a rule"),
            };
            let finding = Diagnostic::warning(rules::NOT_IGNORABLE, place, problem);
            self.push(finding.help(
                "`trainguard explain` lists the rules; dialect and lock-out rules can only be \
                 silenced on the command line: `--allow TG301`",
            ));
        }
    }

    /// Reports comments that silence nothing. `alone` returns true for files that no manifest of this
    /// run uses: rules that need the cluster are not checked in those.
    pub(crate) fn check_ignores(&mut self, alone: impl Fn(FileId) -> bool) {
        let unused: Vec<Ignore> = self
            .ignores
            .files
            .values()
            .flatten()
            .filter(|ignore| !ignore.used)
            .filter(|ignore| !(ignore.code.needs_cluster() && alone(ignore.place.file)))
            .cloned()
            .collect();
        for ignore in unused {
            let message =
                format!("this comment silences nothing: no finding of {} is here", ignore.code);
            let mut finding = Diagnostic::warning(rules::UNUSED_IGNORE, ignore.place, message)
                .help("remove the comment");
            if let Some(span) = ignore.removal {
                finding = finding.fix(Location { span, ..ignore.place }, "");
            }
            self.push(finding);
        }
    }
}

/// A parsed comment.
struct Comment<'c> {
    whole_file: bool,
    codes: Vec<&'c str>,
    reason: &'c str,
}

impl<'c> Comment<'c> {
    fn parse(text: &'c str) -> Result<Self, String> {
        let (whole_file, rest) = match text.strip_prefix("ignore-file") {
            Some(rest) => (true, rest),
            None => (
                false,
                text.strip_prefix("ignore").ok_or_else(|| {
                    format!("`{}`, expected `ignore[...]` or `ignore-file[...]`", text::shown(text))
                })?,
            ),
        };
        let inside = rest.strip_prefix('[').ok_or("expected `[` and the rules")?;
        let (codes, reason) = inside.split_once(']').ok_or("the `]` is missing")?;
        let codes: Vec<&str> = codes.split(',').map(str::trim).collect();
        Ok(Self { whole_file, codes, reason: reason.trim() })
    }
}

/// Returns the span of the comment's line. If the comment stands alone, the span includes the next line
/// that is not a comment.
fn line(source: &str, comment: Span) -> Option<Span> {
    let at = comment.start as usize;
    let start = source.get(..at)?.rfind('\n').map_or(0, |at| at + 1);
    let own = source.get(start..at)?;
    let mut end = comment.end as usize;
    let mut rest = source.get(end..)?.split_inclusive('\n');
    // The rest of the comment's own line.
    end += rest.next().map_or(0, str::len);
    if own.trim().is_empty() {
        for line in rest.take(MAX_LINES_BETWEEN) {
            end += line.len();
            let content = line.trim_start();
            if !content.trim().is_empty() && !content.starts_with('#') {
                break;
            }
        }
    }
    Some(Span::new(start, end))
}

/// Returns the span of the whole file, if only comments and blank lines precede the comment.
fn whole_file(source: &str, comment: Span) -> Option<Span> {
    let before = source.get(..comment.start as usize)?;
    let plain = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    before.lines().all(plain).then(|| Span::new(0, source.len() + 1))
}

/// Returns the span of a comment with the blanks before it, and with its line break if it stands alone.
fn with_blanks(source: &str, comment: Span) -> Span {
    let before = source.get(..comment.start as usize).unwrap_or_default();
    let start = before.trim_end_matches([' ', '\t']).len();
    let alone = start == 0 || before.get(..start).is_some_and(|text| text.ends_with('\n'));
    let end = comment.end as usize;
    let rest = source.get(end..).unwrap_or_default();
    let line_break = if rest.starts_with("\r\n") { 2 } else { usize::from(rest.starts_with('\n')) };
    Span::new(start, if alone { end + line_break } else { end })
}
