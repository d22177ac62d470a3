//! The cluster file of Ray, of which only the hosts are read.

use std::rc::Rc;

use super::{
    findings::{Findings, Location},
    listing::{self, Listing},
};
use crate::policy::syntax::{
    diagnostic::{FileId, Report, Span},
    text,
    yaml::{self, Kind, Node},
};

/// Reads `provider: {type: local, head_ip: ..., worker_ips: [...]}`, and ignores all other fields.
pub(super) fn read(text: &str, source: &str, out: &mut Findings) -> Listing {
    let mut report = Report::default();
    let file = report.sources.add(source.as_ref(), text.into());
    let tree = yaml::read(file, text, &mut report);
    report.finish();
    let mut reader = Reader { source: source.into(), file, report, out };
    if let Some(tree) = tree {
        reader.cluster(&tree)
    } else {
        reader.refused();
        Listing::default()
    }
}

struct Reader<'o> {
    source: Rc<str>,
    file: FileId,
    report: Report,
    out: &'o mut Findings,
}

fn field<'n, 'a>(node: &'n Node<'a>, name: &str) -> Option<&'n Node<'a>> {
    let Kind::Mapping(entries) = &node.kind else {
        return None;
    };
    entries.iter().find(|(key, _)| key.text == name).map(|(_, value)| value)
}

impl Reader<'_> {
    fn place(&self, span: Span) -> Location {
        let place = crate::policy::syntax::diagnostic::Location { file: self.file, span };
        let line = self.report.sources.position(place).line;
        Location { source: Rc::clone(&self.source), line: Some(line) }
    }

    /// Reports the findings of the manifest parser, which accepts less than YAML.
    fn refused(&mut self) {
        for finding in self.report.diagnostics.clone() {
            let place = self.place(finding.place.span);
            self.out.problem(&place, finding.on_one_line());
        }
        let source = &self.source;
        self.out.push(
            format!("`{source}` cannot be read"),
            Some(
                "trainguard reads a strict dialect of YAML (no anchors, aliases, merge keys, tags \
                 or second documents), so it refuses some files that Ray accepts; write the \
                 addresses into a file, one host per line, the head first, and use \
                 --hosts-format addresses"
                    .to_owned(),
            ),
        );
    }

    fn cluster(&mut self, tree: &Node<'_>) -> Listing {
        let start = self.place(tree.span);
        let Some(provider) = field(tree, "provider") else {
            self.out.problem(&start, "Ray's cluster file has no `provider`");
            return Listing::default();
        };
        let at = self.place(provider.span);
        if let Some(Node { kind: Kind::Scalar { text: kind, .. }, span }) = field(provider, "type")
            && kind != "local"
        {
            let place = self.place(*span);
            let message = format!(
                "a provider of type `{}` assigns addresses at run time, so this file does not \
                 contain them; list the addresses of the running cluster with --hosts-format \
                 addresses, the head first",
                text::shown(kind)
            );
            self.out.problem(&place, message);
            return Listing::default();
        }
        let mut listing = Listing::default();
        match field(provider, "head_ip") {
            Some(node) => {
                self.host(node, "`head_ip`", &mut listing);
                listing.head = listing.entries.len().checked_sub(1);
            }
            None => self.out.problem(&at, "`provider` has no `head_ip`: `type: local` needs it"),
        }
        match field(provider, "worker_ips") {
            None | Some(Node { kind: Kind::Null, .. }) => {}
            Some(Node { kind: Kind::Sequence(workers), .. }) => {
                for worker in workers {
                    self.host(worker, "an entry of `worker_ips`", &mut listing);
                }
            }
            Some(other) => {
                let place = self.place(other.span);
                let found = other.kind.name();
                self.out.problem(&place, format_args!("`worker_ips` is {found}, expected a list"));
            }
        }
        listing
    }

    fn host(&mut self, node: &Node<'_>, what: &str, listing: &mut Listing) {
        let place = self.place(node.span);
        let Kind::Scalar { text, .. } = &node.kind else {
            let found = node.kind.name();
            self.out.problem(&place, format_args!("{what} is {found}, expected an address"));
            return;
        };
        match listing::host(place.clone(), text) {
            Ok(entry) => listing.entries.push(entry),
            Err(problem) => self.out.problem(&place, format_args!("{what}: {problem}")),
        }
    }
}
