//! Adds networks and policies to the text of a manifest. Existing text stays as it is.

use std::path::Path;

use crate::syntax::{
    diagnostic::Report,
    yaml::{self, Key, Kind, Node},
};

/// A network to add to a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    /// The name of the network.
    pub name: String,
    /// The prefixes of the network, in CIDR notation.
    pub prefixes: Vec<String>,
    /// Comments above the entry, without `#`; omitted if the networks are written in braces.
    pub comments: Vec<String>,
}

/// Returns the manifest with further networks, and with a policy inserted before the others. Returns
/// none if the way the manifest is written leaves no clear place.
pub fn manifest(text: &str, networks: &[Addition], policy: Option<&str>) -> Option<String> {
    let mut text = text.to_owned();
    for network in networks.iter().rev() {
        text = with_network(&text, network)?;
    }
    match policy {
        Some(policy) => with_policy(&text, policy),
        None => Some(text),
    }
}

fn with_network(text: &str, network: &Addition) -> Option<String> {
    let entry = format!("{}: [{}]", network.name, quoted(&network.prefixes).join(", "));
    let lines = |indent: &str| {
        let comments = network.comments.iter().map(|comment| format!("{indent}# {comment}\n"));
        format!("{}{indent}{entry}\n", comments.collect::<String>())
    };
    let tree = read(text)?;
    let fields = fields(&tree)?;
    let Some((_, networks)) = fields.iter().find(|(key, _)| key.text == "networks") else {
        let (policies, _) = fields.iter().find(|(key, _)| key.text == "policies")?;
        let at = line_start(text, policies.span.start as usize)?;
        return put(text, at, &format!("networks:\n{}", lines("  ")));
    };
    let (first, _) = self::fields(networks)?.first()?;
    let at = first.span.start as usize;
    match line_start(text, at) {
        Some(start) => put(text, start, &lines(text.get(start..at)?)),
        None => put(text, at, &format!("{entry}, ")),
    }
}

fn with_policy(text: &str, policy: &str) -> Option<String> {
    let tree = read(text)?;
    let (_, policies) = fields(&tree)?.iter().find(|(key, _)| key.text == "policies")?;
    let Kind::Sequence(items) = &policies.kind else { return None };
    let at = items.first()?.span.start as usize;
    let start = text.get(..at)?.rfind('\n').map_or(0, |line_break| line_break + 1);
    let before = text.get(start..at)?;
    match before.trim() {
        "-" => put(text, start, &format!("{before}{policy}\n")),
        _ => put(text, at, &format!("{policy}, ")),
    }
}

fn read(text: &str) -> Option<Node<'_>> {
    let mut report = Report::default();
    let file = report.sources.add(Path::new("manifest"), text.into());
    yaml::read(file, text, &mut report)
}

fn fields<'t, 'a>(node: &'t Node<'a>) -> Option<&'t Vec<(Key<'a>, Node<'a>)>> {
    match &node.kind {
        Kind::Mapping(fields) => Some(fields),
        _ => None,
    }
}

/// Returns the start of the line of a byte; none if anything but spaces stands before the byte.
fn line_start(text: &str, at: usize) -> Option<usize> {
    let start = text.get(..at)?.rfind('\n').map_or(0, |line_break| line_break + 1);
    text.get(start..at)?.chars().all(|c| c == ' ').then_some(start)
}

fn put(text: &str, at: usize, more: &str) -> Option<String> {
    let (before, after) = text.split_at_checked(at)?;
    Some(format!("{before}{more}{after}"))
}

/// Formats prefixes so that YAML reads them as text.
fn quoted(prefixes: &[String]) -> Vec<String> {
    let quote = |prefix: &String| {
        if prefix.contains(':') { format!("\"{prefix}\"") } else { prefix.clone() }
    };
    prefixes.iter().map(quote).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(networks: &str, policies: &str) -> String {
        let text = format!("kind: Cluster\n{networks}policies: {policies}# the end\n");
        let addition = Addition {
            name: "new".to_owned(),
            prefixes: vec!["10.0.0.1/32".to_owned(), "fd00::1/128".to_owned()],
            comments: vec!["seen".to_owned()],
        };
        manifest(&text, &[addition], Some("learned.yaml")).expect("a place")
    }

    #[test]
    fn lines_are_inserted_beside_existing_ones() {
        let entry = "new: [10.0.0.1/32, \"fd00::1/128\"]";
        assert_eq!(
            patched("", "[a.yaml]\n"),
            format!(
                "kind: Cluster\nnetworks:\n  # seen\n  {entry}\npolicies: [learned.yaml, \
                 a.yaml]\n# the end\n"
            )
        );
        assert_eq!(
            patched("networks:\n    old: [10.9.0.0/24]\n", "\n- a.yaml\n"),
            format!(
                "kind: Cluster\nnetworks:\n    # seen\n    {entry}\n    old: [10.9.0.0/24]\n\
                 policies: \n- learned.yaml\n- a.yaml\n# the end\n"
            )
        );
        assert_eq!(
            patched("networks: { old: [10.9.0.0/24] }\n", "\n  - a.yaml\n"),
            format!(
                "kind: Cluster\nnetworks: {{ {entry}, old: [10.9.0.0/24] }}\npolicies: \n  - \
                 learned.yaml\n  - a.yaml\n# the end\n"
            )
        );
    }

    #[test]
    fn a_manifest_without_a_place_for_the_lines_is_not_changed() {
        assert_eq!(manifest("kind: Cluster\npolicies: none\n", &[], Some("x")), None);
        assert_eq!(manifest("[", &[], Some("x")), None);
        assert_eq!(manifest("anything", &[], None).as_deref(), Some("anything"));
    }
}
