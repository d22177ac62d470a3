//! What `replay` and `trace` share: the policy of a node, from the files alone.

use guard_common::Addr;

use crate::{
    cli::NodeArgs,
    machine,
    policy::{
        self, Disk, Loaded, Placement,
        compiled::{CompiledPolicy, Tunnels},
    },
    report,
};

/// A node's policy.
#[derive(Debug)]
pub(super) struct Offline {
    /// What was loaded: where everything was written.
    pub(super) loaded: Loaded,
    /// The policy, with the tunnel devices that were named.
    pub(super) policy: CompiledPolicy,
    /// The addresses of the node.
    pub(super) addresses: Vec<Addr>,
}

/// Loads and compiles. None if that is impossible; why was said.
pub(super) fn prepare(args: &NodeArgs) -> Option<Offline> {
    let loaded = match policy::load(&args.manifest, &Disk) {
        Ok(loaded) => loaded,
        Err(error) => {
            report::lint::explain(&error.report);
            report::error(format_args!(
                "`{}` cannot be used",
                report::lint::shown_path(&args.manifest)
            ));
            return None;
        }
    };
    let compiled = loaded
        .find_node(&machine::node_choice(args.node.as_deref()))
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
            report::error(error);
            None
        }
    }
}
