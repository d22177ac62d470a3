//! Reads YAML: converts a text to a tree whose keys and values have their locations.
//!
//! This is the only file that uses the crate `serde_yaml` (an alias of serde-saphyr). It uses the event
//! parser of that crate instead of its derive: a derived type stops at the first error, but all errors
//! of a manifest are to be reported; and events keep the form of a scalar: quoted or plain, tagged,
//! anchored. Everything that YAML readers interpret differently is an error, so that a reviewer, this
//! program and any other tool read the same document.

use std::borrow::Cow;

use serde_yaml::granit_parser::{self as parser, ErrorKind, Event, Parser, ScalarStyle};

use super::{
    diagnostic::{Diagnostic, FileId, Location, Report, Severity, Span},
    rules::{self, Code},
    text,
};

/// Maximum nesting depth of collections. The documents need 7.
const MAX_DEPTH: usize = 32;
/// Maximum number of values and keys in a document: a million prefixes, and as many again for the rest.
const MAX_NODES: usize = 2_000_000;

/// A value in the tree.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    /// Where the value is written.
    pub span: Span,
    /// The kind of the value, and its contents.
    pub kind: Kind<'a>,
}

/// The kind of a value.
#[derive(Debug, Clone)]
pub enum Kind<'a> {
    /// An empty value, `~` or `null`.
    Null,
    /// A scalar.
    Scalar {
        /// The text, unescaped.
        text: Cow<'a, str>,
        /// Whether the text is written without quotes.
        plain: bool,
    },
    /// A list.
    Sequence(Vec<Node<'a>>),
    /// Keys and values, in the order in which they are written. [`read`] returns no mapping with
    /// duplicate keys.
    Mapping(Vec<(Key<'a>, Node<'a>)>),
}

impl Kind<'_> {
    /// Returns the name of the kind in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Null => "nothing (null)",
            Self::Scalar { .. } => "a single value",
            Self::Sequence(_) => "a list",
            Self::Mapping(_) => "a mapping",
        }
    }
}

/// A key of a mapping.
#[derive(Debug, Clone)]
pub struct Key<'a> {
    /// Where the key is written.
    pub span: Span,
    /// The text of the key, unescaped.
    pub text: Cow<'a, str>,
}

/// Reads the only document of a text. Returns the tree only if there is no error.
pub fn read<'a>(file: FileId, source: &'a str, out: &mut Report) -> Option<Node<'a>> {
    let before = out.count(Severity::Error);
    text::check(file, source, out);
    if out.count(Severity::Error) > before {
        return None;
    }
    let mut builder = Builder { file, out, open: Vec::new(), root: None, nodes: 0, documents: 0 };
    let tree = builder.run(source);
    if out.count(Severity::Error) > before { None } else { tree }
}

/// Returns the options for parsing documents.
fn options() -> parser::Options {
    let mut options = parser::Options::default();
    options.set_emit_comments(false);
    options.strict_indentation = false;
    options.disallow_directives = true;
    options.emit_unresolved_aliases = true;
    options.emit_anchor_events = true;
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    options
}

/// Returns the comments of a text up to the first syntax error: the location, and the text after `#`.
pub(crate) fn comments(source: &str) -> Vec<(Span, Cow<'_, str>)> {
    let mut options = options();
    options.set_emit_comments(true);
    // Directives are reported elsewhere; the comments after one are read all the same.
    options.disallow_directives = false;
    let events = Parser::new_from_str_with_options(source, options);
    events
        .map_while(Result::ok)
        .filter_map(|(event, span)| match event {
            Event::Comment(text, _) => {
                let range = span.byte_range().unwrap_or_default();
                Some((Span::new(range.start, range.end), text))
            }
            _ => None,
        })
        .collect()
}

/// A collection whose end has not been read yet.
enum Open<'a> {
    Sequence(Span, Vec<Node<'a>>),
    Mapping(Span, Vec<(Key<'a>, Node<'a>)>, Option<Key<'a>>),
}

struct Builder<'a, 'o> {
    file: FileId,
    out: &'o mut Report,
    open: Vec<Open<'a>>,
    root: Option<Node<'a>>,
    nodes: usize,
    documents: usize,
}

impl<'a> Builder<'a, '_> {
    fn run(&mut self, source: &'a str) -> Option<Node<'a>> {
        for event in Parser::new_from_str_with_options(source, options()) {
            let (event, span) = match event {
                Ok(found) => found,
                Err(error) => {
                    self.syntax_error(&error, source);
                    return None;
                }
            };
            self.check_tag(&event, &span);
            let range = span.byte_range().unwrap_or_default();
            let span = Span::new(range.start, range.end);
            if !self.take(event, span) {
                return None;
            }
        }
        if self.root.is_none() {
            let whole = Span::new(0, 0);
            self.report(
                rules::NULL,
                whole,
                "the document is empty",
                "write `apiVersion: trainguard/v1` and a `kind`",
            );
        }
        self.root.take()
    }

    /// Processes one event. Returns false if reading cannot continue.
    fn take(&mut self, event: Event<'a>, span: Span) -> bool {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.report(
                        rules::DOCUMENTS,
                        span,
                        "a second document in one file",
                        "put each document into its own file",
                    );
                    return false;
                }
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.report(
                    rules::ANCHOR,
                    span,
                    "an alias (`*name`)",
                    "write the value out; aliases are not part of this format",
                );
                return self.place(span, Kind::Null);
            }
            Event::Scalar(text, style, ..) => return self.scalar(text, style, span),
            Event::SequenceStart(..) => {
                return self.start(Open::Sequence(span, Vec::new()));
            }
            Event::Anchor(..) => self.report(
                rules::ANCHOR,
                span,
                "an anchor (`&name`)",
                "anchors are not part of this format; remove it",
            ),
            Event::MappingStart(..) => {
                return self.start(Open::Mapping(span, Vec::new(), None));
            }
            Event::SequenceEnd | Event::MappingEnd => return self.end(span),
            _ => {}
        }
        true
    }

    fn scalar(&mut self, text: Cow<'a, str>, style: ScalarStyle, span: Span) -> bool {
        let plain = style == ScalarStyle::Plain;
        // An escape can produce a forbidden character.
        if let Cow::Owned(text) = &text
            && let Some(character) = text.chars().find(|c| text::is_forbidden(*c))
        {
            let what = text::describe(character);
            self.error(rules::CHARACTER, span, format!("an escape for {what}"));
        }
        let null = matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
        let kind = if plain && null { Kind::Null } else { Kind::Scalar { text, plain } };
        self.place(span, kind)
    }

    fn start(&mut self, collection: Open<'a>) -> bool {
        let (Open::Sequence(span, _) | Open::Mapping(span, ..)) = &collection;
        let span = *span;
        if self.open.len() >= MAX_DEPTH {
            self.too_deep(span);
            return false;
        }
        self.open.push(collection);
        true
    }

    fn end(&mut self, end: Span) -> bool {
        let (span, kind) = match self.open.pop() {
            Some(Open::Sequence(span, items)) => (span, Kind::Sequence(items)),
            Some(Open::Mapping(span, entries, _)) => {
                self.check_duplicates(&entries);
                (span, Kind::Mapping(entries))
            }
            None => return false,
        };
        let end = if end.end > span.end { end.end } else { span.end };
        self.place(Span { end, ..span }, kind)
    }

    /// Adds a value to the innermost open collection.
    fn place(&mut self, span: Span, kind: Kind<'a>) -> bool {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = format!("the document has more than {MAX_NODES} values");
            self.report(rules::BUDGET, span, message, "put long lists of prefixes into list files");
            return false;
        }
        match self.open.last_mut() {
            None => self.root = Some(Node { span, kind }),
            Some(Open::Sequence(_, items)) => items.push(Node { span, kind }),
            Some(Open::Mapping(_, entries, key)) => {
                if let Some(key) = key.take() {
                    entries.push((key, Node { span, kind }));
                    return true;
                }
                // The following value needs a key, so an invalid key is kept, too.
                let (text, fault) = match kind {
                    Kind::Scalar { text, plain: true } if text == "<<" => {
                        (text, Some((rules::ANCHOR, "a merge key (`<<`)".to_owned())))
                    }
                    Kind::Scalar { text, .. } => (text, None),
                    other => {
                        let message = format!("{} as the key of a mapping", other.name());
                        (Cow::Borrowed(""), Some((rules::SYNTAX, message)))
                    }
                };
                *key = Some(Key { span, text });
                if let Some((code, message)) = fault {
                    self.report(code, span, message, "write the fields out, each with its name");
                }
            }
        }
        true
    }

    fn check_tag(&mut self, event: &Event<'a>, span: &parser::Span) {
        let (Event::Scalar(_, _, _, Some(tag))
        | Event::SequenceStart(_, _, Some(tag))
        | Event::MappingStart(_, _, Some(tag))) = event
        else {
            return;
        };
        let range = span.tag_span().unwrap_or(*span).byte_range();
        let range = range.unwrap_or_default();
        let message = format!("a tag (`{}`)", text::shown(&tag.original()));
        self.report(
            rules::TAG,
            Span::new(range.start, range.end),
            message,
            "tags are not part of this format; remove it",
        );
    }

    fn check_duplicates(&mut self, entries: &[(Key<'a>, Node<'a>)]) {
        let mut keys: Vec<&Key<'a>> = entries.iter().map(|(key, _)| key).collect();
        keys.sort_by(|a, b| (&a.text, a.span).cmp(&(&b.text, b.span)));
        let mut repeated = Vec::new();
        for pair in keys.windows(2) {
            if let [first, second] = pair
                && first.text == second.text
                && !first.text.is_empty()
            {
                repeated.push((first.span, second.span, text::shown(&first.text)));
            }
        }
        for (first, second, key) in repeated {
            let first = Location { file: self.file, span: first };
            let place = Location { file: self.file, span: second };
            let message = format!("the key `{key}` is used twice");
            self.out.push(
                Diagnostic::error(rules::DUPLICATE_KEY, place, message)
                    .related(first, "first written here")
                    .help("merge the two entries; neither one is chosen silently"),
            );
        }
    }

    fn syntax_error(&mut self, error: &parser::ScanError, source: &str) {
        let at = error.marker().byte_offset().unwrap_or(0);
        let next = source.get(at..).and_then(|rest| rest.chars().next());
        let span = Span::new(at, at + next.map_or(0, char::len_utf8));
        match error.kind() {
            ErrorKind::RecursionLimitExceeded => self.too_deep(span),
            ErrorKind::DirectiveDisallowed => {
                self.report(
                    rules::DOCUMENTS,
                    span,
                    "a directive (`%`)",
                    "directives are not part of this format; remove it",
                );
            }
            _ => {
                let message = format!("not YAML: {}", text::shown(&error.info()));
                if is_in_plain_host_list(source, at) {
                    let help = "put a host list in quotes: \"10.20.0.[10-13]\"";
                    self.report(rules::SYNTAX, span, message, help);
                } else {
                    self.error(rules::SYNTAX, span, message);
                }
            }
        }
    }

    fn too_deep(&mut self, span: Span) {
        let message = format!("nested deeper than {MAX_DEPTH} levels");
        self.error(rules::BUDGET, span, message);
    }

    fn error(&mut self, code: Code, span: Span, message: impl Into<String>) {
        let place = Location { file: self.file, span };
        self.out.push(Diagnostic::error(code, place, message));
    }

    fn report(&mut self, code: Code, span: Span, message: impl Into<String>, help: &str) {
        let place = Location { file: self.file, span };
        self.out.push(Diagnostic::error(code, place, message).help(help));
    }
}

/// Reports whether a position is at, or just behind, a bracket within a word, as in
/// `[10.20.0.[10-13]]`: YAML takes the bracket for the start of another list.
fn is_in_plain_host_list(source: &str, at: usize) -> bool {
    let Some(before) = source.get(..at) else { return false };
    let word = before.rsplit([' ', ',', '\n', '\t']).next().unwrap_or_default();
    let word = word.trim_start_matches('[');
    let rest = source.get(at..).unwrap_or_default();
    let has_bracket = word.contains('[') || rest.starts_with('[');
    has_bracket && word.starts_with(|first: char| first.is_ascii_alphanumeric())
}
