//! Loading for the offline subcommands, which use only files.

use std::path::Path;

use guard_common::Addr;

use crate::{
    cli::NodeArgs,
    host, output,
    policy::{
        self, Disk, Files, Loaded, Placement,
        compiled::{CompiledPolicy, Tunnels},
        resolve::load::Loader,
        syntax::diagnostic::Report,
        test_suite::Suite,
    },
    report,
};

/// The compiled policy of a node, with its sources.
#[derive(Debug)]
pub(crate) struct Offline {
    /// The manifest and its policies, with the source positions.
    pub(crate) loaded: Loaded,
    /// The policy, with the tunnel devices of the command line.
    pub(crate) policy: CompiledPolicy,
    /// The addresses of the node.
    pub(crate) addresses: Vec<Addr>,
}

/// Loads a manifest and all files that it names. Prints the findings and returns none on failure.
pub(crate) fn load(manifest: &Path, files: &dyn Files) -> Option<Loaded> {
    match policy::load(manifest, files) {
        Ok(loaded) => Some(loaded),
        Err(error) => {
            report::lint::refuse(&error.report, manifest);
            None
        }
    }
}

/// Loads unit tests, and the report with their source positions. Prints the findings and returns
/// none on failure.
pub(crate) fn load_tests(path: &Path, files: &dyn Files) -> Option<(Suite, Report)> {
    let mut loader = Loader::new(files);
    let suite = loader.test(path);
    let (findings, ..) = loader.finish(path);
    if suite.is_none() {
        report::lint::refuse(&findings, path);
    }
    Some((suite?, findings))
}

/// Loads a manifest and compiles its policy for a node. Prints the error and returns none on
/// failure.
pub(crate) fn prepare(args: &NodeArgs) -> Option<Offline> {
    let loaded = load(&args.manifest, &Disk)?;
    let compiled = loaded
        .find_node(&host::node_choice(args.node.as_deref()))
        .map_err(|error| error.to_string())
        .and_then(|node| {
            let policy = policy::compile(&loaded, node, &Placement::default());
            Ok((policy.map_err(|error| error.to_string())?, node.addresses.clone()))
        });
    match compiled {
        Ok((mut policy, addresses)) => {
            policy.set_tunnels(&Tunnels::all(&args.tunnels));
            Some(Offline { loaded, policy, addresses })
        }
        Err(error) => {
            output::error(error);
            None
        }
    }
}
