//! `lint --policy-key` reports in CI, without privileges, what a daemon with that key would refuse.
//! Files are listed and signed as the documentation describes, with minisign's library.

use std::{fs, path::Path};

use guard_test_support::bundle::{MANIFEST, POLICY};
use minisign::KeyPair;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::binary::trainguard;

/// Returns the small cluster, with all policies of a directory.
fn manifest() -> String {
    MANIFEST.replace("[p.yaml]", "[\"policies/*.yaml\"]")
}

struct Repository {
    directory: TempDir,
    pair: KeyPair,
}

impl Repository {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let pair = KeyPair::generate_unencrypted_keypair().expect("a key");
        let repository = Self { directory, pair };
        fs::create_dir(repository.path().join("policies")).expect("a directory");
        repository.write("cluster.yaml", &manifest());
        repository.write("policies/a.yaml", POLICY);
        repository.write_key("policy.pub", &repository.pair);
        repository
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("writing");
    }

    fn write_key(&self, name: &str, pair: &KeyPair) {
        self.write(name, &pair.pk.to_box().expect("a key").to_string());
    }

    /// Writes a list of files in the format of sha256sum, and signs it.
    fn sign(&self, files: &[&str], comment: &str) {
        let line = |name: &&str| {
            let bytes = fs::read(self.path().join(name)).expect("a file");
            let sum = Sha256::digest(bytes);
            let sum: Vec<String> = sum.iter().map(|byte| format!("{byte:02x}")).collect();
            let sum = sum.concat();
            format!("{sum}  {name}\n")
        };
        let sums: String = files.iter().map(line).collect();
        let signature = minisign::sign(None, &self.pair.sk, sums.as_bytes(), Some(comment), None);
        self.write("cluster.yaml.sums.minisig", &signature.expect("a signature").to_string());
        self.write("cluster.yaml.sums", &sums);
    }

    /// Returns the exit code and the output.
    fn lint(&self, args: &[&str]) -> (Option<i32>, String) {
        let words = [&["lint", "--format", "concise"], args].concat();
        let output = trainguard(self.path(), &words, "");
        let printed = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&printed).into_owned())
    }

    fn refused(&self, part: &str) {
        let (code, printed) = self.lint(&["--policy-key", "policy.pub"]);
        assert_eq!(code, Some(1), "{printed}");
        assert!(printed.contains("cluster.yaml:1:1: error[TG415] not signed: "), "{printed}");
        assert!(printed.contains(part), "`{part}` is not in: {printed}");
    }
}

const BOTH: [&str; 2] = ["cluster.yaml", "policies/a.yaml"];
const KEY: [&str; 2] = ["--policy-key", "policy.pub"];

/// Case 129, before a policy reaches a node.
#[test]
fn policies_that_the_daemon_refuses_are_lint_errors() {
    let repository = Repository::new();
    assert_eq!(repository.lint(&[]).0, Some(0), "no signature is required");
    repository.refused("`cluster.yaml.sums` and `cluster.yaml.sums.minisig` must both exist");

    repository.sign(&BOTH, "trainguard serial=42");
    for paths in [&[][..], &["cluster.yaml"], &["."], &["./cluster.yaml"]] {
        let (code, printed) = repository.lint(&[&KEY, paths].concat());
        assert_eq!(code, Some(0), "{paths:?}: {printed}");
    }
    repository.write("policies/a.yaml", &POLICY.replace("9091", "9092"));
    repository.refused("`policies/a.yaml`: differs from the file that was signed");
    repository.write("policies/a.yaml", POLICY);
    // A file that the pattern matches but the list lacks is unsigned; a listed file that no longer
    // matches is missing.
    repository
        .write("policies/b.yaml", &POLICY.replace("9091", "9092").replace("name: p", "name: more"));
    repository.refused("`policies/b.yaml`: is not in the signed list");
    repository.sign(&[BOTH[0], BOTH[1], "policies/b.yaml"], "trainguard serial=43");
    fs::remove_file(repository.path().join("policies/b.yaml")).expect("removing");
    repository
        .refused("`policies/b.yaml`: is in the signed list, but the manifest does not lead to it");

    repository.sign(&BOTH, "serial=44");
    repository.refused("expected `trainguard serial=NUMBER`");
    repository.sign(&BOTH, "trainguard serial=44");
    repository.write("cluster.yaml.sums.minisig", "nonsense\n");
    repository.refused("is not a minisign signature");
    repository.sign(&BOTH, "trainguard serial=44");
    repository.write_key("policy.pub", &KeyPair::generate_unencrypted_keypair().expect("a key"));
    repository.refused("another key than the policy key");
}

#[test]
fn an_expired_signature_is_a_warning() {
    let repository = Repository::new();
    repository.sign(&BOTH, "trainguard serial=1 expires=2020-01-31");
    let (code, printed) = repository.lint(&KEY);
    assert_eq!(code, Some(1), "{printed}");
    assert!(
        printed.contains("cluster.yaml:1:1: warning[TG415] its signature has expired (2020-01-31)")
    );
    assert_eq!(repository.lint(&[&KEY[..], &["--fail-on", "error"]].concat()).0, Some(0));
    assert_eq!(repository.lint(&[&KEY[..], &["--allow", "TG415"]].concat()).0, Some(0));
}

#[test]
fn a_missing_key_or_manifest_exits_with_2() {
    let repository = Repository::new();
    repository.sign(&BOTH, "trainguard serial=1");
    repository.write("bad.pub", "nonsense\n");
    for (args, part) in [
        (&["--policy-key", "no.pub"][..], "cannot read `no.pub`"),
        (&["--policy-key", "bad.pub"], "is not a minisign public key"),
        (&["--policy-key", "policy.pub", "policies"], "--policy-key needs a manifest"),
        (&["--policy-key", "policy.pub", "--fix"], "cannot be used with"),
    ] {
        let (code, printed) = repository.lint(args);
        assert_eq!(code, Some(2), "{args:?}: {printed}");
        assert!(printed.contains(part), "{args:?}: {printed}");
    }
    // `--allow` does not silence an error, and a manifest that does not load is refused for that reason.
    repository.write("cluster.yaml", &manifest().replace("eth0]", "eth0]\nbogus: 1"));
    let (code, printed) = repository.lint(&[&KEY[..], &["--allow", "TG415"]].concat());
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("TG101") && !printed.contains("TG415"), "{printed}");
}
