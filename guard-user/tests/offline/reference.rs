//! The reference pages in `docs/reference`, generated from the declarations in the code. `cargo xtask
//! docs` writes them; this test fails if they differ.

use std::{env, fmt::Write as _, fs, path::Path};

use clap::CommandFactory as _;
use guard_common::verdict::Reason;
use guard_user::{cli::Cli, explain, init::profiles::PROFILES, policy::syntax::rules};
use serde_json::Value;

/// If this variable is set, the pages are written instead of compared.
const BLESS: &str = "TRAINGUARD_BLESS";

/// File name and text of a page.
type Page = (&'static str, String);

fn head(title: &str, what: &str) -> String {
    format!("# {title}\n\n{what} Written by `cargo xtask docs`.\n\n")
}

/// Escapes a text for a cell of a Markdown table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn rules_page() -> Page {
    let mut text = head(
        "Rules",
        "The findings of `trainguard lint`. `trainguard explain TG103` prints the page of a rule, with an \
         example.",
    );
    text.push_str("| rule | meaning | may be silenced |\n| --- | --- | --- |\n");
    for rule in rules::ALL {
        let name = rule.to_string();
        let title = explain::title(&name).expect("a page for each rule");
        let silenced = if rule.is_ignorable() { "by a comment" } else { "no" };
        writeln!(text, "| {name} | {} | {silenced} |", cell(title)).expect("a string");
    }
    ("rules.md", text)
}

fn reasons_page() -> Page {
    let mut text = head(
        "Reasons",
        "Why a frame passes or is refused, as `stats`, `events`, metrics and tests name it. `trainguard \
         explain not_allowed` prints the page of a reason.",
    );
    text.push_str("| reason | meaning | an enforcing service |\n| --- | --- | --- |\n");
    for reason in Reason::ALL {
        let name = reason.name();
        let title = explain::title(name).expect("a page for each reason");
        let effect = if reason.is_refusal() { "drops" } else { "passes" };
        writeln!(text, "| `{name}` | {} | {effect} |", cell(title)).expect("a string");
    }
    ("reasons.md", text)
}

fn metrics_page() -> Page {
    let mut text = head(
        "Metrics",
        "What the daemon exports at `/metrics`. Names and labels are a contract; a source address is \
         never a label.",
    );
    text.push_str("| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n");
    for metric in guard_user::daemon::metrics::ALL {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, help) = (metric.name, metric.kind.name(), cell(metric.help));
        writeln!(text, "| `{name}` | {kind} | {} | {help} |", labels.join(", ")).expect("a string");
    }
    ("metrics.md", text)
}

fn command_line_page() -> Page {
    let mut text = head("Command line", "The output of `trainguard SUBCOMMAND --help`.");
    let mut command = Cli::command().term_width(100);
    command.build();
    let subcommands: Vec<_> =
        command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()).collect();
    for subcommand in subcommands {
        let mut subcommand = subcommand.clone();
        if subcommand.get_name() == "help" {
            continue;
        }
        let help = subcommand.render_long_help().to_string();
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        let (name, help) = (subcommand.get_name(), help.join("\n"));
        writeln!(text, "## {name}\n\n```text\n{}\n```\n", help.trim_end()).expect("a string");
    }
    ("command-line.md", format!("{}\n", text.trim_end()))
}

/// Returns the page about a document's fields, generated from its schema.
fn fields_page(name: &'static str, title: &str, schema: &str) -> Page {
    let schema: Value = serde_json::from_str(schema).expect("JSON");
    let what = schema["description"].as_str().expect("a description");
    let mut text = head(title, what);
    text.push_str("| field | required | meaning |\n| --- | --- | --- |\n");
    fields(&schema, &schema, "", &mut Vec::new(), &mut text);
    (name, text)
}

/// Follows a reference in a schema. Returns the schema that it refers to, and the definition's name.
fn resolve<'s>(root: &'s Value, schema: &'s Value) -> (&'s Value, Option<&'s str>) {
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    let Some(name) = reference.and_then(|it| it.strip_prefix("#/definitions/")) else {
        return (schema, None);
    };
    (&root["definitions"][name], Some(name))
}

fn fields<'s>(
    root: &'s Value,
    schema: &'s Value,
    prefix: &str,
    above: &mut Vec<&'s str>,
    text: &mut String,
) {
    let Some(properties) = schema["properties"].as_object() else { return };
    let required: Vec<&str> = schema["required"]
        .as_array()
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    for (name, field) in properties {
        let (target, definition) = resolve(root, field);
        let described = field["description"].as_str().or(target["description"].as_str());
        let path = format!("{prefix}{name}");
        let must = if required.contains(&name.as_str()) { "yes" } else { "no" };
        let meaning = cell(described.unwrap_or_default());
        writeln!(text, "| `{path}` | {must} | {meaning} |").expect("a string");
        // Stop at a definition that contains itself.
        if definition.is_some_and(|definition| above.contains(&definition)) {
            continue;
        }
        above.extend(definition);
        fields(root, target, &format!("{path}."), above, text);
        for (items, name) in [(&target["items"], "[]"), (&target["additionalProperties"], ".NAME")]
        {
            let (item, of_items) = resolve(root, items);
            if of_items.is_some_and(|definition| above.contains(&definition)) {
                continue;
            }
            above.extend(of_items);
            let path = format!("{path}{name}");
            // A `.NAME` entry is a field with a description of its own; the items of a list are
            // described by the list.
            if let Some(described) = item["description"].as_str().filter(|_| name == ".NAME") {
                writeln!(text, "| `{path}` | no | {} |", cell(described)).expect("a string");
            }
            let alternatives = item["oneOf"].as_array().or(item["anyOf"].as_array());
            let alternatives = alternatives.map_or(&[][..], Vec::as_slice);
            let conditional = [&item["then"], &item["else"]];
            for one in std::iter::once(item).chain(alternatives).chain(conditional) {
                fields(root, resolve(root, one).0, &format!("{path}."), above, text);
            }
            if of_items.is_some() {
                above.pop();
            }
        }
        if definition.is_some() {
            above.pop();
        }
    }
}

/// Returns the value of a line in a profile's front matter; empty if there is no such line.
fn front_matter<'t>(text: &'t str, name: &str) -> &'t str {
    let prefix = format!("#   {name}: ");
    text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default()
}

/// Returns `policies/README.md` with its tables of profiles generated from the profiles.
fn profiles_page(readme: &str) -> String {
    let mut text = String::new();
    let mut rest = readme;
    while let Some((before, after)) = rest.split_once("<!-- profiles: ") {
        let (group, after) = after.split_once(" -->\n").expect("the end of the comment");
        let (_, after) = after.split_once("<!-- end -->").expect("the end of the table");
        writeln!(text, "{before}<!-- profiles: {group} -->").expect("a string");
        text.push_str(
            "| file | guards | roles | networks | how to pin |\n| --- | --- | --- | --- | --- |\n",
        );
        for profile in PROFILES.iter().filter(|it| front_matter(it.policy, "group") == group) {
            let roles: Vec<String> =
                profile.roles.iter().map(|(role, _)| format!("`{role}`")).collect();
            let [guards, networks, pin] =
                ["guards", "networks", "pin"].map(|name| front_matter(profile.policy, name));
            let networks =
                if networks.is_empty() { String::new() } else { format!("`{networks}` ") };
            let (name, roles) = (profile.name, roles.join(", "));
            writeln!(text, "| `{name}.yaml` | {guards} | {roles} | {networks}| {pin} |")
                .expect("a string");
        }
        text.push_str("<!-- end -->");
        rest = after;
    }
    text + rest
}

#[test]
fn profiles_are_listed_from_their_front_matter() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/README.md");
    let readme = fs::read_to_string(&path).expect("a list of profiles");
    let text = profiles_page(&readme);
    for profile in PROFILES {
        assert!(text.contains(&format!("| `{}.yaml` |", profile.name)), "{}: group", profile.name);
    }
    if env::var_os(BLESS).is_some() {
        fs::write(&path, text).expect("a list of profiles");
    } else {
        assert_eq!(text, readme, "policies/README.md: run `cargo xtask docs`");
    }
}

#[test]
fn reference_pages_are_up_to_date() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference");
    let pages = [
        rules_page(),
        reasons_page(),
        metrics_page(),
        command_line_page(),
        fields_page("manifest.md", "Manifest", include_str!("../../schema/cluster.schema.json")),
        fields_page("policy.md", "Policy", include_str!("../../schema/policy.schema.json")),
        fields_page("test.md", "Tests of a policy", include_str!("../../schema/test.schema.json")),
    ];
    let mut stale = Vec::new();
    for (name, text) in pages {
        let path = directory.join(name);
        if env::var_os(BLESS).is_some() {
            fs::create_dir_all(&directory).expect("a directory");
            fs::write(&path, text).expect("a page");
        } else if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            stale.push(name);
        }
    }
    assert!(stale.is_empty(), "docs/reference: {stale:?} are stale: run `cargo xtask docs`");
}
