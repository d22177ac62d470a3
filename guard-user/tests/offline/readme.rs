//! The binary accepts the commands and documents that the README shows.

use std::{fs, path::Path};

use super::binary::trainguard;

#[test]
fn the_manifest_in_the_readme_has_no_finding() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = fs::read_to_string(root.join("README.md")).expect("the README");
    let (_, block) = readme.split_once("```yaml\n").expect("a manifest");
    let (manifest, _) = block.split_once("```").expect("the end of the manifest");
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("cluster.yaml"), manifest).expect("writing");
    let policy = root.join("policies/mxnet.yaml");
    fs::copy(policy, directory.path().join("mxnet.yaml")).expect("copying the policy");
    let linted = trainguard(directory.path(), &["lint", "cluster.yaml"], "");
    assert_eq!(linted.status.code(), Some(0), "{linted:?}");
    let (manifest, packet) = (["--manifest", "cluster.yaml"], ["--to", "10.77.0.10:9091"]);
    let unlisted = ["--node", "sched-0", "--from", "10.9.9.9"];
    let traced =
        trainguard(directory.path(), &[&["trace"][..], &manifest, &unlisted, &packet].concat(), "");
    assert!(String::from_utf8_lossy(&traced.stdout).contains("not_allowed"), "{traced:?}");
}
