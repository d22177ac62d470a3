//! Worlds: a policy, the node that is judged by it, the tunnel devices of that node. Data in
//! `tests/worlds/`, all with the one manifest there.

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

/// A line of `worlds.yaml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// Its name.
    pub name: String,
    /// File of the policy.
    pub policy: String,
    /// The node.
    pub node: String,
    /// Its tunnel devices: a kind of `ip link`, and a port after a colon.
    #[serde(default)]
    pub tunnels: Vec<String>,
}

/// All of them.
pub fn all() -> Vec<World> {
    yaml(&data("worlds/worlds.yaml"))
}

/// The one with this name.
pub fn named(name: &str) -> World {
    let found = all().into_iter().find(|world| world.name == name);
    found.unwrap_or_else(|| panic!("no world `{name}` in worlds.yaml"))
}

impl World {
    /// The tables that the node is judged by.
    pub fn compile(&self) -> CompiledPolicy {
        self.compile_edited(str::to_owned)
    }

    /// The same with an edited policy.
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

/// Loads what a bundle holds.
pub fn load(bundle: &Bundle) -> Loaded {
    policy::load(&bundle.manifest, bundle).unwrap_or_else(|error| panic!("{error}"))
}

/// The tables of a node.
pub fn compile(loaded: &Loaded, node: &str) -> CompiledPolicy {
    let node = loaded.cluster.node(node).expect("the node is in the manifest");
    policy::compile(loaded, node, &Placement::default()).expect("the policy fits")
}

/// A file of test data.
pub fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A data file, read.
pub fn yaml<T: DeserializeOwned>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|error| refuse(path, &error));
    serde_yaml::from_str(&text).unwrap_or_else(|error| refuse(path, &error))
}

fn refuse(path: &Path, error: &dyn Display) -> ! {
    panic!("{}: {error}", path.display())
}
