//! The text of a manifest.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    members::Member,
    runs::{self, Row, Run},
    schema_modeline,
};
use crate::policy::{
    resolve::validate,
    syntax::{document::API_VERSION, text},
};

/// The contents of a manifest.
#[derive(Debug)]
pub(super) struct Manifest<'m> {
    /// The command that generates the manifest, for the comment at its top.
    pub(super) command: &'m [String],
    /// Name of the cluster.
    pub(super) name: &'m str,
    /// Interface patterns; if empty, a guess is written.
    pub(super) interfaces: &'m [String],
    pub(super) members: &'m [Member],
    pub(super) networks: &'m BTreeMap<String, Vec<String>>,
    /// Names of the networks that have only documentation prefixes so far.
    pub(super) placeholders: &'m [String],
    /// Path of the policy.
    pub(super) policy: &'m str,
}

/// Interface that is written if none is given.
pub(super) const GUESSED_INTERFACE: &str = "eth0";
/// Documentation prefixes (RFC 5737, RFC 3849), which no host uses.
pub(super) const DOCUMENTATION_PREFIXES: [&str; 2] = ["192.0.2.0/24", "2001:db8::/32"];

/// Quotes a text for YAML if necessary.
fn quoted(text: &str) -> String {
    if validate::is_plain(text) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Quotes a name or a host list if necessary; brackets inside a word do not start a YAML list.
fn quoted_name(text: &str) -> String {
    let without: String = text.chars().filter(|c| !matches!(c, '[' | ']' | ',')).collect();
    let is_list = without.len() < text.len();
    if is_list && validate::is_plain(&without) { text.to_owned() } else { quoted(text) }
}

fn quoted_address(text: &str) -> String {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if plain { text.to_owned() } else { format!("\"{text}\"") }
}

fn list<'t>(texts: impl IntoIterator<Item = &'t str>, quoted: fn(&str) -> String) -> String {
    let texts: Vec<String> = texts.into_iter().map(quoted).collect();
    format!("[{}]", texts.join(", "))
}

/// Quotes a word of a command for a shell, and escapes characters that a comment may not contain.
fn word(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:,=@%+".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        return text::shown(word);
    }
    format!("'{}'", text::shown(word).replace('\'', "'\\''"))
}

impl Manifest<'_> {
    pub(super) fn text(&self) -> String {
        let command: Vec<String> = self.command.iter().map(|part| word(part)).collect();
        let mut lines = vec![
            schema_modeline("cluster"),
            format!("# Written by: {}", command.join(" ")),
            "#".to_owned(),
            "# A draft. Check before anything is enforced:".to_owned(),
            "# - addresses: every address from which a node may send, IPv4 and IPv6, on every"
                .to_owned(),
            "#   network. If one is missing, the job stalls without a message in its logs."
                .to_owned(),
        ];
        let four = self.members.iter().flat_map(|m| &m.addresses).any(IpAddr::is_ipv4);
        let six = self.members.iter().flat_map(|m| &m.addresses).any(IpAddr::is_ipv6);
        if four != six {
            let (known, other) = if four { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
            lines.push(format!(
                "#   Only {known} addresses are listed: add {other} addresses if the nodes have any."
            ));
        }
        lines.extend(
            [
                "# - roles: what each node does. List the hosts that start jobs, too.",
                "# - interfaces: all that carry training traffic; a node may have its own list.",
            ]
            .map(str::to_owned),
        );
        lines.push(format!("apiVersion: {API_VERSION}"));
        lines.push("kind: Cluster".to_owned());
        lines.push(format!("name: {}", quoted(self.name)));
        if self.interfaces.is_empty() {
            lines.push("# A guess: no --interface was given.".to_owned());
            lines.push(format!("interfaces: [{GUESSED_INTERFACE}]"));
        } else {
            let interfaces = self.interfaces.iter().map(String::as_str);
            lines.push(format!("interfaces: {}", list(interfaces, quoted)));
        }
        lines.push("nodes:".to_owned());
        self.nodes(&mut lines);
        if !self.networks.is_empty() {
            lines.push("networks:".to_owned());
        }
        for (name, prefixes) in self.networks {
            if self.placeholders.contains(name) {
                lines.push(
                    "  # Placeholders (documentation prefixes). Replace with the prefixes to admit."
                        .to_owned(),
                );
            }
            let prefixes = list(prefixes.iter().map(String::as_str), |p| format!("\"{p}\""));
            lines.push(format!("  {}: {prefixes}", quoted(name)));
        }
        lines.push(format!("policies: [{}]", quoted(self.policy)));
        lines.join("\n") + "\n"
    }

    fn nodes(&self, lines: &mut Vec<String>) {
        let row = |member: &Member| -> Row {
            let addresses = member.addresses.iter().map(IpAddr::to_string);
            std::iter::once(member.name.clone()).chain(addresses).collect()
        };
        let rows: Vec<Row> = self.members.iter().map(row).collect();
        let roles = |at: usize| self.members.get(at).map(|member| &member.roles);
        for run in runs::runs(&rows, |first, next| roles(first) == roles(next)) {
            self.node(&run, lines);
        }
    }

    fn node(&self, run: &Run, lines: &mut Vec<String>) {
        let mut texts = run.texts();
        let name = texts.next().unwrap_or_default();
        let addresses: Vec<String> = texts.collect();
        let roles = self.members.get(run.rows.start).map(|member| member.roles.as_slice());
        lines.push(format!("  - name: {}", quoted_name(&name)));
        let addresses = list(addresses.iter().map(String::as_str), quoted_address);
        lines.push(format!("    addresses: {addresses}"));
        let roles = roles.unwrap_or_default().iter().copied();
        lines.push(format!("    roles: {}", list(roles, quoted)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_yaml_reads_as_other_types_are_quoted() {
        for plain in ["worker-0", "gpu01.rack2", "mxnet.yaml"] {
            assert_eq!(quoted(plain), plain);
        }
        for odd in ["0x10", "1e5", "12", "no", "null", "Y", "true", "rail*", "0-1"] {
            assert_eq!(quoted(odd), format!("\"{odd}\""));
        }
        assert_eq!(quoted("a\"b\\"), r#""a\"b\\""#);
        assert_eq!(quoted_name("worker-[0-3,7]"), "worker-[0-3,7]");
        assert_eq!(quoted_name("[0-3]"), "\"[0-3]\"");
        assert_eq!(quoted_address("10.0.0.1"), "10.0.0.1");
        assert_eq!(quoted_address("10.0.0.[1-2]"), "\"10.0.0.[1-2]\"");
        assert_eq!(quoted_address("fd77::1"), "\"fd77::1\"");
    }

    #[test]
    fn a_command_cannot_end_its_comment() {
        assert_eq!(word("--hosts"), "--hosts");
        assert_eq!(word("a b"), "'a b'");
        assert_eq!(word("a\nkind: Policy"), "'a\\u{a}kind: Policy'");
        assert_eq!(word("it's"), "'it'\\''s'");
        assert_eq!(word(""), "''");
    }
}
