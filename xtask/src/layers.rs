//! Checks the order of modules: which module may import which.
//!
//! A layer imports from the layers below it. Modules of one layer do not import each other. Every other
//! import is an exception with a reason. Inside the modules that are listed here, only import cycles are
//! forbidden.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::sh;

/// Modules in layers, from the lowest to the highest.
struct Order {
    /// The directory of the sources.
    sources: &'static str,
    /// Path of the module whose children are ordered; empty for the crate.
    parent: &'static str,
    layers: &'static [Layer],
    exceptions: &'static [Exception],
}

/// Modules that import only from lower layers.
struct Layer {
    modules: &'static [&'static str],
    /// What the modules have in common, and so why higher layers may build on them.
    why: &'static str,
}

/// An allowed import within a layer or from a higher one.
struct Exception {
    from: &'static str,
    to: &'static str,
    why: &'static str,
}

const ORDERS: [Order; 2] = [
    Order {
        sources: "guard-user/src",
        parent: "",
        layers: &[
            Layer {
                modules: &["vocabulary"],
                why: "macros that declare the vocabulary of documents",
            },
            Layer {
                modules: &[
                    "attach_mode",
                    "embedded_object",
                    "exit",
                    "file_permissions",
                    "system_error",
                    "text",
                ],
                why: "types and rules without state",
            },
            Layer { modules: &["sys"], why: "system calls and all unsafe code" },
            Layer {
                modules: &["bpf", "host", "netlink"],
                why: "queries and changes of the kernel and the host",
            },
            Layer { modules: &["findings", "output"], why: "formats of findings and output" },
            Layer {
                modules: &["api", "explain", "logs"],
                why: "documents of the API, explain pages and the log",
            },
            Layer { modules: &["capture"], why: "frames of captures and of events" },
            Layer { modules: &["init", "learn"], why: "drafts of manifests and policies" },
            Layer { modules: &["daemon"], why: "the daemon and its rules for devices" },
            Layer { modules: &["doctor"], why: "checks of a node by the daemon's rules" },
            Layer { modules: &["report"], why: "results of the lower layers as text" },
            Layer {
                modules: &["cli"],
                why: "command-line arguments, with types of the lower layers",
            },
            Layer { modules: &["commands"], why: "the subcommands" },
        ],
        exceptions: &[],
    },
    Order {
        sources: "guard-user/src",
        parent: "daemon",
        layers: &[
            Layer {
                modules: &["deadline", "install_error", "timing", "trusted_files"],
                why: "deadlines, errors and files that all components use",
            },
            Layer {
                modules: &["node_state"],
                why: "the state of the node in the kernel, which the interfaces start to follow",
            },
            Layer {
                modules: &["interfaces", "telemetry"],
                why: "components that use neither policies nor clients",
            },
            Layer { modules: &["offline_status", "options", "signals"], why: "start-up" },
            Layer {
                modules: &["policy", "serve"],
                why: "components that use types of lower layers, not their state",
            },
            Layer { modules: &["switch"], why: "effects of a policy on the other components" },
            Layer { modules: &["main_loop"], why: "the loop that connects the components" },
            Layer {
                modules: &["requests", "status"],
                why: "answers from the state of all components",
            },
        ],
        exceptions: &[],
    },
];

/// Sources without import cycles: no module may import itself, directly or through others.
const ACYCLIC: [&str; 3] = ["guard-common/src", "guard-user/policy/src", "guard-user/src/daemon"];

/// The path of a module, or of an item in it, from the root of its crate.
type ModulePath = Vec<String>;

/// An import: module `from` uses the module or item `to`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    from: ModulePath,
    to: ModulePath,
}

/// The modules of a crate, or of a part of it, with their imports.
#[derive(Debug, Default)]
struct Modules {
    paths: BTreeSet<ModulePath>,
    imports: BTreeSet<Import>,
}

/// Checks orders and cycles. Returns whether there are no findings.
pub(crate) fn run() -> Result<bool> {
    let mut findings = Vec::new();
    for order in &ORDERS {
        findings.extend(order.check(&read(&sh::root().join(order.sources))?));
    }
    for sources in ACYCLIC {
        let modules = read(&sh::root().join(sources))?;
        findings.extend(modules.cycles().into_iter().map(|cycle| {
            format!("{sources}: these modules import each other: {}", cycle.join(", "))
        }));
    }
    for finding in &findings {
        println!("{finding}");
    }
    Ok(findings.is_empty())
}

impl Order {
    /// Returns imports against the order, modules missing from it, and exceptions that are no longer
    /// needed.
    fn check(&self, modules: &Modules) -> Vec<String> {
        let parent: Vec<&str> = self.parent.split("::").filter(|part| !part.is_empty()).collect();
        let child = |path: &[String]| {
            let below = path.len() > parent.len() && path.iter().zip(&parent).all(|(a, b)| a == b);
            below.then(|| path.get(parent.len()).cloned()).flatten()
        };
        let place = |name: &str| self.layers.iter().position(|layer| layer.modules.contains(&name));
        let mut findings = BTreeSet::new();
        let mut needed = BTreeSet::new();
        for import in &modules.imports {
            let (Some(from), Some(to)) = (child(&import.from), child(&import.to)) else { continue };
            if from == to {
                continue;
            }
            match (place(&from), place(&to)) {
                (Some(upper), Some(lower)) if upper > lower => {}
                (Some(_), Some(lower)) => {
                    let known = |it: &&Exception| it.from == from && it.to == to;
                    if let Some(exception) = self.exceptions.iter().find(known) {
                        needed.insert((exception.from, exception.to));
                        continue;
                    }
                    let why = self.layers.get(lower).map_or("", |layer| layer.why);
                    findings.insert(format!(
                        "{}: `{from}` imports `{to}`, which is not in a lower layer ({why}): {} -> {}",
                        self.sources,
                        import.from.join("::"),
                        import.to.join("::"),
                    ));
                }
                // A name that is not a listed module is an item of the parent.
                (Some(_), None) => {}
                (None, _) => {
                    findings.insert(format!(
                        "{}: `{from}` is in no layer of xtask/src/layers.rs",
                        self.sources
                    ));
                }
            }
        }
        for Exception { from, to, why } in self.exceptions {
            if !needed.contains(&(*from, *to)) {
                findings.insert(format!(
                    "{from} -> {to} is no longer imported; delete the exception ({why})"
                ));
            }
        }
        findings.into_iter().collect()
    }
}

/// Reads the source files of a crate, or of a part of it.
fn read(sources: &Path) -> Result<Modules> {
    // Paths of modules begin at the root of the crate, also if `sources` is only a part of it.
    let crate_root = sources.ancestors().find(|path| path.join("lib.rs").is_file());
    let crate_root = crate_root.with_context(|| format!("{}: no crate", sources.display()))?;
    let mut modules = Modules::default();
    let mut directories = vec![sources.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let is_source = path.extension().is_some_and(|extension| extension == "rs");
            // Tests may import anything.
            if !is_source || path.file_stem().is_some_and(|stem| stem == "tests") {
                continue;
            }
            let module = module_of(path.strip_prefix(crate_root)?);
            let text = fs::read_to_string(&path)?;
            let imports = imports_of(&module, &text);
            modules.imports.extend(imports.with_context(|| path.display().to_string())?);
            modules.paths.insert(module);
        }
    }
    Ok(modules)
}

/// Returns the path of the module in a file, which is relative to the crate's sources.
fn module_of(file: &Path) -> ModulePath {
    let mut parts: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// Returns the paths within the crate that a file uses, also in macros. Tests are left out.
fn imports_of(module: &[String], text: &str) -> Result<BTreeSet<Import>> {
    let tokens: TokenStream = text.parse().map_err(|error| anyhow::anyhow!("not Rust: {error}"))?;
    let mut paths = Vec::new();
    collect(tokens, &[], &mut paths);
    let imports = paths.into_iter().filter_map(|path| {
        let to = absolute(module, &path)?;
        (!to.is_empty()).then(|| Import { from: module.to_vec(), to })
    });
    Ok(imports.collect())
}

/// Collects paths that begin with `crate`, `super` or `self`. `prefix` is the path before a group of a
/// `use` declaration.
fn collect(tokens: TokenStream, prefix: &[String], paths: &mut Vec<Vec<String>>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        if is_test_attribute(&tokens, at) {
            // Skip the attribute, and the item after it up to its body or its semicolon.
            at += 2;
            while let Some(token) = tokens.get(at) {
                at += 1;
                let is_body = matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
                if is_body || is_punct(Some(token), ';') {
                    break;
                }
            }
            continue;
        }
        match token {
            TokenTree::Ident(ident) => {
                let first = ident.to_string();
                let starts = ["crate", "super", "self"].contains(&first.as_str());
                if !starts && prefix.is_empty() {
                    at += 1;
                    continue;
                }
                let mut path = prefix.to_vec();
                path.push(first);
                at += 1;
                while is_punct(tokens.get(at), ':') && is_punct(tokens.get(at + 1), ':') {
                    match tokens.get(at + 2) {
                        Some(TokenTree::Ident(next)) => {
                            path.push(next.to_string());
                            at += 3;
                        }
                        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                            collect(group.stream(), &path, paths);
                            path.clear();
                            at += 3;
                        }
                        _ => {
                            at += 2;
                            break;
                        }
                    }
                    if path.is_empty() {
                        break;
                    }
                }
                if path.len() > 1 {
                    paths.push(path);
                }
                // Skip an alias: it is not a path.
                if matches!(tokens.get(at), Some(TokenTree::Ident(ident)) if *ident == "as") {
                    at += 2;
                }
            }
            TokenTree::Group(group) => {
                collect(group.stream(), &[], paths);
                at += 1;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => at += 1,
        }
    }
}

/// Returns whether `#[cfg(test)]` begins at this token.
fn is_test_attribute(tokens: &[TokenTree], at: usize) -> bool {
    let (hash, group) = (tokens.get(at), tokens.get(at + 1));
    is_punct(hash, '#')
        && matches!(group, Some(TokenTree::Group(group)) if group.to_string().replace(' ', "") == "[cfg(test)]")
}

fn is_punct(token: Option<&TokenTree>, expected: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == expected)
}

/// Returns the path from the root of the crate, or `None` if the path leaves the crate.
fn absolute(module: &[String], path: &[String]) -> Option<Vec<String>> {
    let (first, mut rest) = path.split_first()?;
    let mut absolute = match first.as_str() {
        "crate" => Vec::new(),
        "self" => module.to_vec(),
        _ => module.split_last()?.1.to_vec(),
    };
    while let Some((next, further)) = rest.split_first().filter(|(next, _)| *next == "super") {
        debug_assert_eq!(next, "super");
        absolute.pop()?;
        rest = further;
    }
    absolute.extend(rest.iter().filter(|part| *part != "self").cloned());
    Some(absolute)
}

impl Modules {
    /// Returns the groups of modules that import each other, directly or through others. An import of an
    /// item counts as an import of the innermost module that contains it.
    fn cycles(&self) -> BTreeSet<Vec<String>> {
        let innermost = |path: &[String]| {
            let prefixes = (1..=path.len()).rev().filter_map(|length| path.get(..length));
            prefixes.map(<[String]>::to_vec).find(|prefix| self.paths.contains(prefix))
        };
        let mut edges: BTreeMap<&ModulePath, BTreeSet<ModulePath>> = BTreeMap::new();
        for Import { from, to } in &self.imports {
            if let Some(to) = innermost(to).filter(|to| to != from) {
                edges.entry(from).or_default().insert(to);
            }
        }
        let reached: BTreeMap<&ModulePath, BTreeSet<&ModulePath>> =
            edges.keys().map(|module| (*module, reached_from(module, &edges))).collect();
        let in_cycle = |(module, seen): (&&ModulePath, &BTreeSet<&ModulePath>)| {
            seen.contains(*module).then(|| {
                let back = |other: &&&ModulePath| {
                    reached.get(**other).is_some_and(|seen| seen.contains(*module))
                };
                seen.iter().filter(back).map(|path| path.join("::")).collect()
            })
        };
        reached.iter().filter_map(in_cycle).collect()
    }
}

/// Returns the modules that a module imports, directly or through others.
fn reached_from<'e>(
    module: &'e ModulePath,
    edges: &'e BTreeMap<&ModulePath, BTreeSet<ModulePath>>,
) -> BTreeSet<&'e ModulePath> {
    let mut seen = BTreeSet::new();
    let mut left = vec![module];
    while let Some(module) = left.pop() {
        left.extend(edges.get(module).into_iter().flatten().filter(|next| seen.insert(*next)));
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split("::").map(str::to_owned).collect()
    }

    fn of(module: &str, text: &str) -> Vec<String> {
        let imports = imports_of(&path(module), text).expect("Rust");
        imports.into_iter().map(|import| import.to.join("::")).collect()
    }

    fn edges(edges: &[(&str, &str)]) -> Modules {
        let edge = |(from, to): &(&str, &str)| Import { from: path(from), to: path(to) };
        let imports: BTreeSet<Import> = edges.iter().map(edge).collect();
        let paths = imports.iter().map(|import| import.from.clone()).collect();
        Modules { paths, imports }
    }

    #[test]
    fn imports_are_found_in_declarations_code_and_macros() {
        let text = "use std::fmt;\nuse crate::{a::{self, B as C}, d};\nuse super::{super::e, f::*};\n\
                    fn g() { crate::h::i(); info!(\"{}\", self::j::K); let self_ = self.l; }";
        let expected = ["a", "a::B", "d", "e", "h::i", "m::f", "m::n::j::K"];
        assert_eq!(of("m::n", text), expected);
    }

    #[test]
    fn tests_strings_and_comments_import_nothing() {
        let text = "// crate::a\nconst B: &str = \"crate::c\";\n#[cfg(test)]\nmod tests {\n    use \
                    crate::d;\n}\n#[cfg(test)]\nuse crate::e;\nuse crate::f;\n";
        assert_eq!(of("m", text), ["f"]);
    }

    #[test]
    fn an_import_from_a_higher_layer_is_a_finding_and_an_unused_exception_too() {
        let order = Order {
            sources: "s",
            parent: "p",
            layers: &[
                Layer { modules: &["low", "other"], why: "ground" },
                Layer { modules: &["high"], why: "roof" },
            ],
            exceptions: &[Exception { from: "low", to: "other", why: "for now" }],
        };
        let good = edges(&[("p::high", "p::low::X"), ("p::low", "p::other"), ("q::a", "p::high")]);
        assert_eq!(order.check(&good), [""; 0]);
        let bad = edges(&[("p::low", "p::high::X"), ("p::new", "p::low")]);
        let findings = order.check(&bad);
        assert_eq!(findings.len(), 3, "{findings:?}");
        assert!(findings.iter().any(|it| it.contains("`low` imports `high`")), "{findings:?}");
        assert!(findings.iter().any(|it| it.contains("`new` is in no layer")), "{findings:?}");
        assert!(findings.iter().any(|it| it.contains("no longer imported")), "{findings:?}");
    }

    #[test]
    fn import_cycles_are_found_also_through_other_modules() {
        let imports = edges(&[("a", "b::X"), ("b", "c"), ("c", "a::Y"), ("d", "a")]);
        let cycles: Vec<Vec<String>> = imports.cycles().into_iter().collect();
        assert_eq!(cycles, [["a", "b", "c"]]);
        assert!(edges(&[("a", "b"), ("b", "c"), ("c", "d")]).cycles().is_empty());
    }
}
