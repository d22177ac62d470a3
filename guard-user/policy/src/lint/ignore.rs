//! What is not to be told: comments that silence a rule where it is broken, and rules that the
//! caller allows.
//!
//! `# trainguard: ignore[TG204] moved by TICKET-12` silences the finding on its own line, or on the
//! next line if it stands alone; `ignore-file[...]` among the first comments of a file silences the
//! whole file. An error is never silenced: lint must tell what the daemon refuses.

use crate::syntax::{
    diagnostic::{Diagnostic, FileId, Ignore, Location, Report, Span},
    rules::{self, Code},
    text, yaml,
};

/// What a comment begins with.
const COMMENT_PREFIX: &str = "trainguard:";
/// Comments of a file that are heeded. A file with more of them is no reviewed file.
const MAX_COMMENTS: usize = 1000;
/// Lines of comments that may stand between a comment and the line that it is about.
const MAX_LINES_BETWEEN: usize = 32;

impl Report {
    /// Takes the comments of a file in. Says what is wrong with them.
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
                let message = format!("more than {MAX_COMMENTS} comments for trainguard");
                self.push(Diagnostic::warning(rules::NOT_IGNORABLE, place, message).help(
                    "this one and those that follow are not heeded; `--allow` a rule instead",
                ));
                break;
            }
            match Comment::parse(rest.trim()) {
                Ok(comment) => self.read_ignore(source, place, &comment),
                Err(problem) => {
                    let message =
                        format!("a comment for trainguard that is not understood: {problem}");
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
            let message = "`ignore-file` below the first lines of the file, where it is overlooked";
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
                    .help("say why behind the bracket: the next reader will ask"),
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
                Ok(_) => format!("`{shown}` is not silenced by a comment"),
                Err(()) => format!("`{shown}` is no rule"),
            };
            let finding = Diagnostic::warning(rules::NOT_IGNORABLE, place, problem);
            self.push(finding.help(
                "`trainguard explain` lists the rules; dialect and lock-out rules can only be \
                 allowed where lint is called: `--allow TG301`",
            ));
        }
    }

    /// Reports comments that silence nothing. `alone`: files that no manifest of this run uses, of
    /// which not all is known.
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
            let message = format!("nothing here breaks {}", ignore.code);
            let mut finding = Diagnostic::warning(rules::UNUSED_IGNORE, ignore.place, message)
                .help("remove the comment");
            if let Some(span) = ignore.removal {
                finding = finding.fix(Location { span, ..ignore.place }, "");
            }
            self.push(finding);
        }
    }
}

/// What a comment says.
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

/// Bytes of the line of a comment, with the next line that holds more than a comment if the comment
/// stands alone.
fn line(source: &str, comment: Span) -> Option<Span> {
    let at = comment.start as usize;
    let start = source.get(..at)?.rfind('\n').map_or(0, |at| at + 1);
    let own = source.get(start..at)?;
    let mut end = comment.end as usize;
    let mut rest = source.get(end..)?.split_inclusive('\n');
    // What is left of its own line.
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

/// All bytes, if only comments and blank lines stand before the comment.
fn whole_file(source: &str, comment: Span) -> Option<Span> {
    let before = source.get(..comment.start as usize)?;
    let plain = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    before.lines().all(plain).then(|| Span::new(0, source.len() + 1))
}

/// A comment with the blanks before it, and with its line break if nothing else is on its line.
fn with_blanks(source: &str, comment: Span) -> Span {
    let before = source.get(..comment.start as usize).unwrap_or_default();
    let start = before.trim_end_matches([' ', '\t']).len();
    let alone = start == 0 || before.get(..start).is_some_and(|text| text.ends_with('\n'));
    let end = comment.end as usize;
    let rest = source.get(end..).unwrap_or_default();
    let line_break = if rest.starts_with("\r\n") { 2 } else { usize::from(rest.starts_with('\n')) };
    Span::new(start, if alone { end + line_break } else { end })
}
