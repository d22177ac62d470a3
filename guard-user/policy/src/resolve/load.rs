//! Loads a manifest with everything that it names, and returns a cluster or a report of all errors.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    rc::Rc,
};

use super::{
    cluster::{Cluster, Node},
    files::{Bundle, Files},
    loaded::Loaded,
    resolver,
    source_reader::{SourceReader, normal, start_of},
};
use crate::{
    compile::{self, CapacityError, slots::Placement},
    lint::check::{self, cluster_view::ClusterView},
    syntax::{
        diagnostic::{At, Diagnostic, FileId, Location, Report, Severity},
        document::{
            self, ClusterDoc, Document, PolicyDoc,
            test::{TestCluster, TestDoc},
        },
        rules::{self, Code},
        yaml,
    },
    test_suite::{self, Suite},
};

/// The report and the sources of a load that failed.
#[derive(Debug)]
pub struct LoadError {
    /// All findings, with at least one error.
    pub report: Report,
    /// Every path and glob pattern that was requested, sorted. A caller watches these for changes.
    pub sources: Vec<PathBuf>,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.report.fmt(f)
    }
}

impl std::error::Error for LoadError {}

/// Loads a manifest and everything that it names.
///
/// # Errors
/// A file cannot be read or has an error. The report lists the errors of all files.
///
/// # Examples
///
/// ```
/// use guard_policy::{Bundle, load};
/// use std::path::Path;
///
/// let manifest = "apiVersion: trainguard/v1\nkind: Cluster\nname: demo\n";
/// let bundle = Bundle::new("cluster.yaml", [("cluster.yaml", manifest)]);
/// let error = load(Path::new("cluster.yaml"), &bundle).expect_err("the manifest has no nodes");
/// assert!(error.report.has_errors());
/// assert!(error.to_string().contains("nodes"), "{error}");
/// ```
pub fn load(manifest: &Path, files: &dyn Files) -> Result<Loaded, Box<LoadError>> {
    let mut loader = Loader::new(files);
    let cluster = loader.manifest(manifest);
    let (report, bundle, sources) = loader.finish(manifest);
    match cluster {
        Some(cluster) if !report.has_errors() => Ok(Loaded { cluster, report, sources, bundle }),
        _ => Err(Box::new(LoadError { report, sources })),
    }
}

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A cluster manifest.
    Cluster,
    /// A policy.
    Policy,
    /// Unit tests of policies.
    Test,
    /// YAML that does not declare itself a trainguard document.
    Foreign,
    /// Unreadable, or a trainguard document with errors that hide its kind.
    Broken,
}

/// Loads any number of files into one report.
///
/// # Examples
///
/// ```
/// use guard_policy::{Bundle, resolve::load::Loader};
///
/// let bundle = Bundle::new("p.yaml", [("p.yaml", "kind: Policy\n")]);
/// let mut loader = Loader::new(&bundle);
/// loader.policy("p.yaml".as_ref());
/// let (report, ..) = loader.finish("p.yaml".as_ref());
/// assert!(report.has_errors(), "the policy has no `apiVersion`");
/// ```
pub struct Loader<'f> {
    pub(crate) sources: SourceReader<'f>,
    policies: BTreeMap<PathBuf, Option<Rc<PolicyDoc>>>,
    parsed: BTreeMap<PathBuf, Parsed>,
    /// Files that were checked together with a manifest.
    together: BTreeSet<FileId>,
}

/// A manifest and everything that it names.
struct Parts {
    file: FileId,
    doc: ClusterDoc,
    policies: Vec<(FileId, Rc<PolicyDoc>)>,
    cluster: Cluster,
}

/// A parsed file that has not been used yet.
struct Parsed {
    kind: FileKind,
    document: Option<Document>,
    /// Findings about the file; reported when the file is used.
    findings: Report,
}

impl fmt::Debug for Loader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader").field("report", &self.sources.report).finish_non_exhaustive()
    }
}

impl<'f> Loader<'f> {
    /// Makes a loader that has read nothing.
    pub fn new(files: &'f dyn Files) -> Self {
        Self {
            sources: SourceReader::new(files),
            policies: BTreeMap::new(),
            parsed: BTreeMap::new(),
            together: BTreeSet::new(),
        }
    }

    /// Silences these rules in all files. Errors are reported all the same.
    pub fn allow(&mut self, codes: impl IntoIterator<Item = Code>) {
        self.sources.report.ignores.allow(codes);
    }

    /// Ignores comments that silence rules.
    pub fn without_ignores(&mut self) {
        self.sources.heeds_ignores = false;
    }

    /// Reports comments that silence nothing. Must be called after all files are checked.
    pub fn check_ignores(&mut self) {
        let together = &self.together;
        self.sources.report.check_ignores(|file| !together.contains(&file));
    }

    /// Returns the report, the files that were read, and every path and pattern that was requested.
    pub fn finish(self, manifest: &Path) -> (Report, Bundle, Vec<PathBuf>) {
        self.sources.finish(manifest)
    }

    /// Reports whether a policy was read.
    pub fn has_policy(&self, path: &Path) -> bool {
        self.policies.contains_key(&normal(path))
    }

    /// Loads a manifest and everything that it names. Returns none after an error, which is in the
    /// report.
    pub fn manifest(&mut self, path: &Path) -> Option<Cluster> {
        Some(self.parts(path)?.cluster)
    }

    /// Loads a manifest as [`Loader::manifest`] does, and runs the checks that the daemon does not
    /// need: whether the policy of every node fits, and what is probably a mistake.
    pub fn check_manifest(&mut self, path: &Path) {
        let Some(Parts { file, doc, policies, cluster }) = self.parts(path) else { return };
        self.check_capacity(file, &cluster);
        let view = ClusterView { doc: &doc, policies: &policies, cluster: &cluster };
        check::cluster::check(&mut self.sources.report, &view);
    }

    fn parts(&mut self, path: &Path) -> Option<Parts> {
        self.parts_named(path, None)
    }

    /// Does the same as [`Loader::parts`]. `named` is where another file names the manifest.
    fn parts_named(&mut self, path: &Path, named: Option<Location>) -> Option<Parts> {
        let (file, text) = self.sources.open(path, named)?;
        let before = self.sources.report.count(Severity::Error);
        let doc = match self.document(file, path, &text)? {
            Document::Cluster(doc) => doc,
            Document::Policy(_) | Document::Test(_) => {
                let place = named.unwrap_or(start_of(file));
                let message = "this is a policy or a test, expected a manifest";
                self.sources.report.push(
                    Diagnostic::error(rules::API_VERSION, place, message)
                        .help("name a file with `kind: Cluster`, which lists its policies"),
                );
                return None;
            }
        };
        self.parts_of(file, path, doc, before, true)
    }

    /// Loads what a cluster document names. `before` is the number of errors before the document was
    /// read. `all` is set if unused names are to be reported.
    fn parts_of(
        &mut self,
        file: FileId,
        path: &Path,
        doc: ClusterDoc,
        before: usize,
        all: bool,
    ) -> Option<Parts> {
        let base = path.parent().unwrap_or(Path::new("")).to_owned();
        let policies = self.policies_of(&doc.policies, &base);
        let complete = policies
            .iter()
            .all(|(file, policy)| policy.is_some() && !self.sources.report.is_broken(*file));
        // The names that a broken policy uses are not known, so no name can be reported as unused.
        let without_errors = complete && self.sources.report.count(Severity::Error) == before;
        let whole = all && doc.policies_known && without_errors;
        let policies: Vec<(FileId, Rc<PolicyDoc>)> =
            policies.into_iter().filter_map(|(file, policy)| Some((file, policy?))).collect();
        let cluster = resolver::cluster(&mut self.sources, file, &base, &doc, &policies);
        check::documents(&mut self.sources.report, &doc, &policies, whole);
        self.together.insert(file);
        self.together.extend(policies.iter().map(|(file, _)| *file));
        // Errors of other files do not prevent the checks of this one.
        if !complete || self.sources.report.count(Severity::Error) > before {
            return None;
        }
        Some(Parts { file, doc, policies, cluster: cluster? })
    }

    /// Loads unit tests and the cluster that they test. Returns none after an error, which is in the
    /// report.
    pub fn test(&mut self, path: &Path) -> Option<Suite> {
        let (file, text) = self.sources.open(path, None)?;
        let before = self.sources.report.count(Severity::Error);
        let doc = match self.document(file, path, &text)? {
            Document::Test(doc) => doc,
            Document::Cluster(_) | Document::Policy(_) => {
                let message = "this is a manifest or a policy, expected tests";
                self.sources.report.push(
                    Diagnostic::error(rules::API_VERSION, start_of(file), message)
                        .help("name a file with `kind: Test`"),
                );
                return None;
            }
        };
        let base = path.parent().unwrap_or(Path::new("")).to_owned();
        let TestDoc { cluster, cases } = doc;
        let parts = match cluster {
            TestCluster::Manifest(manifest) => {
                self.parts_named(&base.join(&manifest.value), Some(manifest.place))
            }
            TestCluster::InPlace(doc) => self.parts_of(file, path, *doc, before, false),
            TestCluster::Unknown => None,
        };
        let cluster = parts?.cluster;
        let suite = test_suite::resolve(&mut self.sources.report, &base, cluster, cases);
        (self.sources.report.count(Severity::Error) == before).then_some(suite)
    }

    /// Checks that the policy of every set of roles fits. Policies that do not certainly fit are
    /// compiled.
    fn check_capacity(&mut self, file: FileId, cluster: &Cluster) {
        let addresses = cluster.nodes.iter().map(|node| node.addresses.len()).sum();
        let mut kinds: BTreeMap<&[String], &Node> = BTreeMap::new();
        for node in &cluster.nodes {
            kinds.entry(&node.roles).or_insert(node);
        }
        for node in kinds.into_values() {
            if compile::certainly_fits(cluster, &node.roles, addresses) {
                continue;
            }
            let failed = compile::for_node(cluster, node, &Placement::default()).err();
            if let Some(error) = failed {
                let code = match error {
                    CapacityError::Services { .. } => rules::SERVICES,
                    CapacityError::Prefixes { .. } => rules::PREFIXES,
                    CapacityError::MemberBuckets { .. } => rules::MEMBER_BUCKETS,
                    CapacityError::Classes { .. } => rules::CLASSES,
                };
                let finding = Diagnostic::error(code, start_of(file), error.to_string());
                self.sources.report.push(finding);
            }
        }
    }

    /// Loads a policy and checks it by itself.
    pub fn policy(&mut self, path: &Path) {
        if let Some((file, _)) = self.sources.open(path, None) {
            self.policy_doc(file, path);
        }
    }

    /// Determines the kind of a file. Reports only that a file is unreadable, not what is wrong in it.
    pub fn kind(&mut self, path: &Path) -> FileKind {
        let Some((file, text)) = self.sources.open(path, None) else {
            return FileKind::Broken;
        };
        let parsed = parse(file, &text);
        let kind = parsed.kind;
        self.parsed.insert(normal(path), parsed);
        kind
    }

    /// Returns the name of a policy whose kind was determined with [`Loader::kind`].
    pub fn policy_name(&self, path: &Path) -> Option<String> {
        match &self.parsed.get(&normal(path))?.document {
            Some(Document::Policy(doc)) => Some(doc.name.value.clone()),
            _ => None,
        }
    }

    /// Reports the errors of a file that [`Loader::kind`] found broken.
    pub fn broken(&mut self, path: &Path) {
        if let Some((file, text)) = self.sources.open(path, None) {
            let _ = self.document(file, path, &text);
        }
    }

    fn document(&mut self, file: FileId, path: &Path, text: &str) -> Option<Document> {
        let parsed = self.parsed.remove(&normal(path));
        let parsed = parsed.unwrap_or_else(|| parse(file, text));
        self.sources.report.absorb(parsed.findings);
        parsed.document
    }

    /// Returns the policies that a manifest names, in its order; none in place of a broken one.
    fn policies_of(
        &mut self,
        entries: &[At<String>],
        base: &Path,
    ) -> Vec<(FileId, Option<Rc<PolicyDoc>>)> {
        let mut seen: BTreeMap<PathBuf, Location> = BTreeMap::new();
        let mut found = Vec::new();
        for entry in entries {
            for path in self.paths_of(entry, base) {
                let normal = normal(&path);
                if let Some(first) = seen.get(&normal) {
                    let message = format!("the policy file `{}` is listed twice", path.display());
                    self.sources.report.push(
                        Diagnostic::error(rules::DUPLICATE_FILE, entry.place, message)
                            .related(*first, "first listed here"),
                    );
                    continue;
                }
                seen.insert(normal, entry.place);
                if let Some((file, _)) = self.sources.open(&path, Some(entry.place)) {
                    let policy = self.policy_doc(file, &path);
                    found.push((file, policy));
                } else {
                    found.push((entry.place.file, None));
                }
            }
        }
        found
    }

    /// Returns the paths of an entry of `policies`: the path, or the files that match the pattern.
    fn paths_of(&mut self, entry: &At<String>, base: &Path) -> Vec<PathBuf> {
        if !entry.value.contains(['*', '?', '[']) {
            return vec![base.join(&entry.value)];
        }
        let base = glob::Pattern::escape(&base.to_string_lossy());
        let pattern = Path::new(&base).join(&entry.value);
        let problem = match self.sources.files.glob(&pattern) {
            Ok(paths) => {
                let paths: Vec<PathBuf> =
                    paths.into_iter().filter(|path| !test_suite::is_test_file(path)).collect();
                if !paths.is_empty() {
                    return paths;
                }
                "matches no policy file".to_owned()
            }
            Err(error) => format!("cannot be used: {error}"),
        };
        let message = format!("the pattern `{}` {problem}", entry.value);
        self.sources.report.push(Diagnostic::error(rules::MISSING_FILE, entry.place, message));
        Vec::new()
    }

    fn policy_doc(&mut self, file: FileId, path: &Path) -> Option<Rc<PolicyDoc>> {
        let normal = normal(path);
        if let Some(known) = self.policies.get(&normal) {
            return known.clone();
        }
        let (_, text) = self.sources.open(path, None)?;
        let doc = match self.document(file, path, &text) {
            Some(Document::Policy(doc)) => Some(doc),
            Some(Document::Cluster(_) | Document::Test(_)) => {
                let message = "this is a manifest or a test, expected a policy";
                self.sources.report.push(Diagnostic::error(
                    rules::API_VERSION,
                    start_of(file),
                    message,
                ));
                None
            }
            None => None,
        };
        if let Some(doc) = &doc {
            check::policy(&mut self.sources.report, doc);
        }
        let doc = doc.map(Rc::new);
        self.policies.insert(normal, doc.clone());
        doc
    }
}

fn parse(file: FileId, text: &str) -> Parsed {
    let mut findings = Report::default();
    let tree = yaml::read(file, text, &mut findings);
    let ours = match &tree {
        Some(tree) => document::is_ours(tree),
        // The kind cannot be determined; a text that mentions trainguard is taken for a trainguard
        // document.
        None => text.contains("trainguard/"),
    };
    let document = tree.and_then(|tree| document::read(file, &tree, &mut findings));
    let kind = match &document {
        Some(Document::Cluster(_)) => FileKind::Cluster,
        Some(Document::Policy(_)) => FileKind::Policy,
        Some(Document::Test(_)) => FileKind::Test,
        None if ours => FileKind::Broken,
        None => FileKind::Foreign,
    };
    Parsed { kind, document, findings }
}
