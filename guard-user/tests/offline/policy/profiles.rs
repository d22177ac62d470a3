//! The policies that ship with the project load without any finding, on every node.

use std::path::Path;

use guard_user::policy::{self, Disk, Placement};

#[test]
fn shipped_policies_are_clean() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/cluster.yaml");
    let loaded = policy::load(&manifest, &Disk).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.report.to_string(), "");
    assert_eq!(loaded.cluster.nodes.len(), 7);
    for node in &loaded.cluster.nodes {
        let compiled = policy::compile(&loaded, node, &Placement::default()).unwrap();
        assert!(
            compiled.settings.get(guard_common::tables::Setting::Guarded) != 0,
            "{} guards nothing",
            node.name
        );
        assert_eq!(compiled.names.len(), 14);
    }
}
