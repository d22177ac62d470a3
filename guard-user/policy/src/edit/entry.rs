//! Adds a node to the text of a manifest. The rest of the text is the operator's and stays as it is.

use std::{net::IpAddr, path::Path};

use crate::{
    resolve::{loaded::Loaded, validate},
    syntax::{
        diagnostic::{FileId, Location, Report, Span},
        yaml::{self, Kind},
    },
};

/// A node to add to a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name of the node.
    pub name: String,
    /// The only address of the node.
    pub address: IpAddr,
    /// Its roles.
    pub roles: Vec<String>,
    /// Interface patterns of the node; empty to use those of the manifest.
    pub interfaces: Vec<String>,
}

/// The position of the list of nodes in the text of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeList {
    /// Byte offset at which to insert an entry: the start of a line, or of an item in braces.
    pub at: usize,
    /// Number of spaces before an entry; none if the entries are in braces.
    pub indent: Option<usize>,
    /// Line of the key `nodes`, counted from 1.
    pub line: usize,
}

impl NodeList {
    /// Finds the list in a manifest that was loaded from this path. Returns none if the way the nodes
    /// are written leaves no clear place for another one.
    pub fn of(loaded: &Loaded, manifest: &Path) -> Option<Self> {
        let sources = &loaded.report.sources;
        let (file, source) = sources.iter().find(|(_, source)| source.path == manifest)?;
        let text = &*source.text;
        let (key, at) = first_node(file, text)?;
        let line = sources.position(Location { file, span: key }).line;
        let start = text.get(..at)?.rfind('\n').map_or(0, |line_break| line_break + 1);
        let before = text.get(start..at)?;
        if text.get(at..)?.starts_with('{') {
            return Some(Self { at, indent: None, line });
        }
        let indent = before.len() - before.trim_start_matches(' ').len();
        (before.trim() == "-").then_some(Self { at: start, indent: Some(indent), line })
    }

    /// Formats an entry for this place, without a line break at the end.
    pub fn lines(&self, entry: &Entry) -> String {
        let Entry { name, address, roles, interfaces } = entry;
        let (name, address) = (quoted(name), address.to_string());
        let address = if address.contains(':') { format!("\"{address}\"") } else { address };
        let roles = list(roles);
        let patterns = (!interfaces.is_empty()).then(|| list(interfaces));
        let Some(indent) = self.indent else {
            let patterns = patterns.map(|patterns| format!(", interfaces: {patterns}"));
            return format!(
                "{{ name: {name}, addresses: [{address}], roles: {roles}{} }}",
                patterns.unwrap_or_default()
            );
        };
        let blanks = " ".repeat(indent);
        let patterns = patterns.map(|patterns| format!("\n{blanks}  interfaces: {patterns}"));
        format!(
            "{blanks}- name: {name}\n{blanks}  addresses: [{address}]\n{blanks}  roles: {roles}{}",
            patterns.unwrap_or_default()
        )
    }

    /// Returns the manifest `text` with the entry inserted.
    pub fn put(&self, text: &str, entry: &Entry) -> Option<String> {
        let (before, after) = text.split_at_checked(self.at)?;
        let end = if self.indent.is_some() { "\n" } else { ", " };
        Some(format!("{before}{}{end}{after}", self.lines(entry)))
    }
}

/// Returns the span of the key `nodes`, and the byte offset of the first node.
fn first_node(file: FileId, text: &str) -> Option<(Span, usize)> {
    let tree = yaml::read(file, text, &mut Report::default())?;
    let Kind::Mapping(fields) = &tree.kind else { return None };
    let (key, nodes) = fields.iter().find(|(key, _)| key.text == "nodes")?;
    let Kind::Sequence(items) = &nodes.kind else { return None };
    Some((key.span, items.first()?.span.start as usize))
}

fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}

/// Quotes a text if it needs quotes. JSON escapes are valid in YAML.
fn quoted(text: &str) -> String {
    if validate::is_plain(text) {
        return text.to_owned();
    }
    serde_json::to_string(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use guard_test_support::bundle;

    use super::*;
    use crate::resolve::files::Bundle;

    fn policy() -> String {
        bundle::policy("p", [bundle::service("s", "server", "tcp/9091", "roles: [worker]")])
    }

    fn with_an_entry(manifest: &str) -> Option<String> {
        let bundle = |manifest: &str| {
            Bundle::new("m.yaml", [("m.yaml", manifest.to_owned()), ("p.yaml", policy())])
        };
        let loaded =
            crate::resolve::load::load(Path::new("m.yaml"), &bundle(manifest)).expect("a manifest");
        let entry = Entry {
            name: "new".to_owned(),
            address: "fd00::9".parse().expect("an address"),
            roles: vec!["worker".to_owned(), "no".to_owned()],
            interfaces: vec!["eth*".to_owned()],
        };
        let after = NodeList::of(&loaded, Path::new("m.yaml"))?.put(manifest, &entry)?;
        let again = crate::resolve::load::load(Path::new("m.yaml"), &bundle(&after));
        let again = again.unwrap_or_else(|error| panic!("{error}\n{after}"));
        let node = again.cluster.node("new").expect("the new node");
        assert_eq!(*node.roles, ["no", "worker"].map(str::to_owned));
        assert_eq!(again.cluster.nodes.len(), loaded.cluster.nodes.len() + 1);
        Some(after)
    }

    #[test]
    fn an_entry_is_added_to_the_node_list() {
        const HEAD: &str =
            "apiVersion: trainguard/v1\nkind: Cluster\nname: c\ninterfaces: [eth0]\n";
        for nodes in [
            "nodes:\n  - name: a\n    addresses: [10.0.0.1]\n    roles: [server, worker]\n",
            "nodes:\n# all\n- roles: [server, worker]\n  name: a\n  addresses: [10.0.0.1]\n",
            "nodes: [{ name: a, addresses: [10.0.0.1], roles: [server, worker] }]\n",
            "nodes:\n  [\n    { name: a, addresses: [10.0.0.1], roles: [server, worker] }]\n",
        ] {
            assert!(
                with_an_entry(&format!("{HEAD}{nodes}policies: [p.yaml]\n")).is_some(),
                "{nodes}"
            );
        }
    }
}
