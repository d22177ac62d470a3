//! Reads trees by a schema: checks types, and reports unknown and missing fields with their locations.

use super::{
    diagnostic::{At, Diagnostic, FileId, Location, Report, Span},
    rules::{self, Code},
    text,
    yaml::{Kind, Node},
};

/// A pass over the tree of one file, with the report for its findings.
#[derive(Debug)]
pub(crate) struct Walk<'o> {
    pub(crate) file: FileId,
    pub(crate) out: &'o mut Report,
}

/// The fields of a mapping.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'n, 'a> {
    /// The first key; the whole mapping if it is empty. Location of findings about missing fields.
    pub(crate) head: Span,
    node: &'n Node<'a>,
    /// Name of the mapping in messages.
    what: &'n str,
}

/// The error of an invalid scalar, without its location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    /// A replacement for the whole value that keeps its meaning, if there is one.
    pub(crate) instead: Option<String>,
}

impl Fault {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: None, instead: None }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Sets a replacement that is safe to apply without asking.
    pub(crate) fn instead(mut self, text: impl Into<String>) -> Self {
        self.instead = Some(text.into());
        self
    }

    /// Returns the message and the help on one line.
    pub(crate) fn on_one_line(self) -> String {
        match self.help {
            Some(help) => format!("{}; {help}", self.message),
            None => self.message,
        }
    }

    pub(crate) fn at(self, place: Location) -> Diagnostic {
        let mut finding = Diagnostic::error(self.code, place, self.message);
        if let Some(text) = self.instead {
            finding = finding.fix(place, text);
        }
        match self.help {
            Some(help) => finding.help(help),
            None => finding,
        }
    }
}

/// Returns the known name most similar to `name`, for a hint; none if no name is close.
pub fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // Skip names far too long for a typing error: strsim takes time proportional to the product of the
    // lengths.
    if name.len() > 128 {
        return None;
    }
    let lower = name.to_lowercase();
    let distance = |known: &str| strsim::damerau_levenshtein(&lower, &known.to_lowercase());
    let best = known.into_iter().map(|k| (distance(k), k)).min()?;
    (best.0 <= name.len().div_ceil(3).max(1)).then_some(best.1)
}

/// Joins words for a sentence: `a`, `b` or `c`.
pub(crate) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

impl Walk<'_> {
    pub(crate) fn place(&self, span: Span) -> Location {
        Location { file: self.file, span }
    }

    pub(crate) fn error(&mut self, code: Code, span: Span, message: impl Into<String>) {
        let place = self.place(span);
        self.out.push(Diagnostic::error(code, place, message));
    }

    pub(crate) fn fault(&mut self, span: Span, fault: Fault) {
        let place = self.place(span);
        self.out.push(fault.at(place));
    }

    fn wrong_type(&mut self, node: &Node<'_>, what: &str, expected: &str) {
        let found = node.kind.name();
        let code = if matches!(node.kind, Kind::Null) { rules::NULL } else { rules::TYPE };
        let message = format!("{what} is {found}, expected {expected}");
        self.error(code, node.span, message);
    }

    /// Returns the fields of a mapping. Reports every field that is not in `known`.
    pub(crate) fn fields<'n, 'a>(
        &mut self,
        node: &'n Node<'a>,
        what: &'n str,
        known: &[&str],
    ) -> Option<Fields<'n, 'a>> {
        let Kind::Mapping(entries) = &node.kind else {
            let expected = format!("a mapping with {}", one_of(known).replace(" or ", " and "));
            self.wrong_type(node, what, &expected);
            return None;
        };
        for (key, _) in entries {
            if known.contains(&&*key.text) {
                continue;
            }
            let shown = text::shown(&key.text);
            let fault = Fault::new(rules::UNKNOWN_FIELD, format!("{what} has no field `{shown}`"));
            let fault = match nearest(&key.text, known.iter().copied()) {
                Some(near) => fault.help(format!("did you mean `{near}`?")),
                None => fault.help(format!("known fields: {}", known.join(", "))),
            };
            self.fault(key.span, fault);
        }
        let head = entries.first().map_or(node.span, |(key, _)| key.span);
        Some(Fields { head, node, what })
    }

    /// Returns the items of a list.
    pub(crate) fn list<'n, 'a>(
        &mut self,
        node: &'n Node<'a>,
        what: &str,
        expected: &str,
    ) -> Option<&'n [Node<'a>]> {
        if let Kind::Sequence(items) = &node.kind {
            return Some(items);
        }
        self.wrong_type(node, what, &format!("a list of {expected}"));
        None
    }

    /// Returns the items of a list, which must not be empty.
    pub(crate) fn some<'n, 'a>(
        &mut self,
        node: &'n Node<'a>,
        what: &str,
        expected: &str,
    ) -> Option<&'n [Node<'a>]> {
        let items = self.list(node, what, expected)?;
        if items.is_empty() {
            let message = format!("{what} is an empty list, expected at least one of {expected}");
            self.error(rules::NULL, node.span, message);
            return None;
        }
        Some(items)
    }

    /// Returns the text of a scalar, and whether it is plain, that is, without quotes.
    pub(crate) fn scalar<'n>(
        &mut self,
        node: &'n Node<'_>,
        what: &str,
        expected: &str,
    ) -> Option<(&'n str, bool)> {
        if let Kind::Scalar { text, plain } = &node.kind {
            return Some((text, *plain));
        }
        self.wrong_type(node, what, expected);
        None
    }

    /// Parses a scalar with `parse`, and adds its location to the value or to the error.
    pub(crate) fn parsed<T>(
        &mut self,
        node: &Node<'_>,
        what: &str,
        expected: &str,
        parse: impl FnOnce(&str, bool) -> Result<T, Fault>,
    ) -> Option<At<T>> {
        let (text, plain) = self.scalar(node, what, expected)?;
        match parse(text, plain) {
            Ok(value) => Some(At::new(value, self.place(node.span))),
            Err(fault) => {
                self.fault(node.span, fault);
                None
            }
        }
    }

    /// Parses each item of a list with `parse`. The flag is true if all items are valid.
    pub(crate) fn parsed_list<T>(
        &mut self,
        items: &[Node<'_>],
        what: &str,
        expected: &str,
        mut parse: impl FnMut(&str, bool) -> Result<T, Fault>,
    ) -> (Vec<At<T>>, bool) {
        let good: Vec<At<T>> =
            items.iter().filter_map(|item| self.parsed(item, what, expected, &mut parse)).collect();
        let whole = good.len() == items.len();
        (good, whole)
    }
}

impl<'n, 'a> Fields<'n, 'a> {
    /// Returns the fields of a mapping without checking for unknown ones.
    pub(crate) fn of(node: &'n Node<'a>, head: Span, what: &'n str) -> Self {
        Self { head, node, what }
    }

    /// Returns the value of an optional field.
    pub(crate) fn get(&self, name: &str) -> Option<&'n Node<'a>> {
        let Kind::Mapping(entries) = &self.node.kind else {
            return None;
        };
        entries.iter().find(|(key, _)| key.text == name).map(|(_, value)| value)
    }

    /// Returns the value of a required field, and reports it if it is missing.
    pub(crate) fn need(&self, walk: &mut Walk<'_>, name: &str, hint: &str) -> Option<&'n Node<'a>> {
        let found = self.get(name);
        if found.is_none() {
            let message = format!("{} lacks the field `{name}`", self.what);
            let fault = Fault::new(rules::MISSING_FIELD, message).help(format!("write {hint}"));
            walk.fault(self.head, fault);
        }
        found
    }
}
