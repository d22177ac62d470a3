//! Worlds: a policy, the node that enforces it, and the tunnel devices of that node. The data is in
//! `tests/worlds/`, with one manifest for all.

use std::{
    fmt::Display,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};

use guard_user::policy::{
    self, Bundle, Loaded, Placement,
    compiled::{CompiledPolicy, Tunnels},
};

/// An entry of `worlds.yaml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// Name of the world.
    pub name: String,
    /// File name of the policy.
    pub policy: String,
    /// Name of the node.
    pub node: String,
    /// Tunnel devices of the node: a kind of `ip link`, with a port after a colon if it needs one.
    #[serde(default)]
    pub tunnels: Vec<String>,
}

/// Returns all worlds.
pub fn all() -> Vec<World> {
    yaml(&data("worlds/worlds.yaml"))
}

/// Returns the world with this name.
pub fn named(name: &str) -> World {
    let found = all().into_iter().find(|world| world.name == name);
    found.unwrap_or_else(|| panic!("no world `{name}` in worlds.yaml"))
}

impl World {
    /// Compiles the policy for the node.
    pub fn compile(&self) -> CompiledPolicy {
        self.compile_edited(str::to_owned)
    }

    /// Compiles an edited policy for the node.
    pub fn compile_edited(&self, edit: impl Fn(&str) -> String) -> CompiledPolicy {
        let read = |file: &str| {
            let text = fs::read_to_string(data("worlds").join(file));
            text.unwrap_or_else(|error| panic!("{file}: {error}"))
        };
        let texts =
            [("cluster.yaml", read("cluster.yaml")), ("policy.yaml", edit(&read(&self.policy)))];
        let mut compiled = compile(&load(&Bundle::new("cluster.yaml", texts)), &self.node);
        let tunnels: Vec<Tunnels> =
            self.tunnels.iter().map(|tunnel| tunnel.parse().expect("a kind of tunnel")).collect();
        compiled.set_tunnels(&Tunnels::all(&tunnels));
        compiled
    }
}

/// Loads a manifest and its policies, which must be valid.
pub fn load(bundle: &Bundle) -> Loaded {
    policy::load(&bundle.manifest, bundle).unwrap_or_else(|error| panic!("{error}"))
}

/// Compiles the policies for a node.
pub fn compile(loaded: &Loaded, node: &str) -> CompiledPolicy {
    let node = loaded.cluster.node(node).expect("the node is in the manifest");
    policy::compile(loaded, node, &Placement::default()).expect("the policy fits")
}

/// Returns the path of a file of test data.
pub fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Reads and parses a YAML file.
pub fn yaml<T: DeserializeOwned>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|error| refuse(path, &error));
    serde_yaml::from_str(&text).unwrap_or_else(|error| refuse(path, &error))
}

fn refuse(path: &Path, error: &dyn Display) -> ! {
    panic!("{}: {error}", path.display())
}
