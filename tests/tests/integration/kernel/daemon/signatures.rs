//! Signed policies with a real daemon, signed with the tools of an operator: `sha256sum` and `minisign`.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use guard_tests::{
    node::{MANIFEST, MEMBER, Node, POLICY, PORT, enforcing},
    skip,
};
use serde_json::Value;

/// Finds minisign, from the Debian package: unpacked by `cargo xtask setup`, or in `PATH`.
fn minisign(test: &str) -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/minisign/usr/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = std::iter::once(unpacked).chain(env::split_paths(&path));
    let found = places.find_map(|place| {
        let program = place.join("minisign");
        program.is_file().then_some(program)
    });
    if found.is_none() {
        skip::skip(test, "there is no `minisign`, see `cargo xtask setup`");
    }
    found
}

struct Signer {
    program: PathBuf,
    directory: PathBuf,
}

impl Signer {
    fn new(program: PathBuf, node: &Node, name: &str) -> Self {
        let signer = Self { program, directory: node.path(name) };
        fs::create_dir(&signer.directory).expect("a directory");
        signer.run(node, &["-G", "-W", "-p", &signer.public(), "-s", &signer.secret()]);
        signer
    }

    fn public(&self) -> String {
        self.directory.join("key.pub").display().to_string()
    }

    fn secret(&self) -> String {
        self.directory.join("key").display().to_string()
    }

    fn run(&self, node: &Node, arguments: &[&str]) {
        let libraries = self.program.with_file_name("../lib/x86_64-linux-gnu");
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(node.path(".")).env("LD_LIBRARY_PATH", libraries);
        let output = command.output().expect("minisign");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Lists files and signs the list, as the documentation describes.
    fn sign(&self, node: &Node, manifest: &str, files: &[&str], comment: &str) {
        let sums = Command::new("sha256sum").args(files).current_dir(node.path(".")).output();
        let sums = sums.expect("sha256sum");
        assert!(sums.status.success(), "{}", String::from_utf8_lossy(&sums.stderr));
        let list = format!("{manifest}.sums");
        fs::write(node.path(&list), sums.stdout).expect("writing");
        self.run(node, &["-S", "-W", "-s", &self.secret(), "-m", &list, "-t", comment]);
    }
}

fn run(node: &Node, args: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = node.trainguard(args).output().expect("running trainguard");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

fn metric(node: &Node, reason: &str) -> u64 {
    let path = node.path("run/stats.sock");
    let mut stream = std::os::unix::net::UnixStream::connect(path).expect("a socket");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").expect("sending the request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let name = format!("trainguard_policy_signature_refusals_total{{reason=\"{reason}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name));
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

const FILES: [&str; 2] = ["cluster.yaml", "policy.yaml"];

/// Case 129: files that the daemon follows.
#[test]
fn unsigned_and_older_policies_are_refused() {
    let Some(mut node) = Node::new("signatures/files") else { return };
    let Some(program) = minisign("signatures/files") else { return };
    let signer = Signer::new(program.clone(), &node, "signer");
    let other_signer = Signer::new(program, &node, "other");
    let key = signer.public();
    let more = ["--policy-key", key.as_str()];
    // Unsigned, on a node without a policy: the daemon does not start.
    let output = node.start_expecting_exit(&more);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("accepts only signed policies"), "{stderr}");

    signer.sign(&node, "cluster.yaml", &FILES, "trainguard serial=5");
    node.start(&more);
    let before = node.wait("enforcing", enforcing);
    assert_eq!(before["source"]["serial"], 5);
    let replayed = metric(&node, "replay");
    let refused = |part: &str| {
        let has = |status: &Value| status["problems"].to_string().contains(part);
        let status = node.wait(part, has);
        assert_eq!(status["policy_hash"], before["policy_hash"], "{part}");
        assert_eq!(status["source"]["serial"], before["source"]["serial"], "{part}");
        assert!(enforcing(&status), "{part}");
    };
    // An attacker changes a file.
    let opened = POLICY.replace("roles: [worker]", "any: true");
    node.write("policy.yaml", &opened);
    refused("`policy.yaml`: differs from the file that was signed");
    // The attacker signs the list with another key.
    other_signer.sign(&node, "cluster.yaml", &FILES, "trainguard serial=6");
    refused("another key");
    // An old policy with a valid signature, and another policy with a serial number that was used.
    signer.sign(&node, "cluster.yaml", &FILES, "trainguard serial=4");
    refused("its serial number is 4, and 5 was accepted before");
    assert!(metric(&node, "replay") > replayed, "the refusal is counted");
    signer.sign(&node, "cluster.yaml", &FILES, "trainguard serial=5");
    refused("with which another policy was accepted");
    signer.sign(&node, "cluster.yaml", &FILES, "number=6");
    refused("expected `trainguard serial=NUMBER`");
    signer.sign(&node, "cluster.yaml", &FILES[..1], "trainguard serial=6");
    refused("`policy.yaml`: is not in the signed list");
    assert!(metric(&node, "bad") > 0);
    // A pattern that matches fewer files than were signed does not give a smaller policy.
    node.write("policy.yaml", POLICY);
    node.write("beside.yaml", POLICY);
    signer.sign(&node, "cluster.yaml", &[FILES[0], FILES[1], "beside.yaml"], "trainguard serial=6");
    refused("`beside.yaml`: is in the signed list, but the manifest does not lead to it");
    // The key file itself is missing.
    fs::rename(signer.public(), node.path("key away")).expect("renaming");
    signer.sign(&node, "cluster.yaml", &FILES, "trainguard serial=7");
    refused("key.pub` cannot be read");
    fs::rename(node.path("key away"), signer.public()).expect("renaming");
    node.signal("HUP");
    node.wait("accepted", |status| status["up_to_date"] == true);

    // After a restart, older serial numbers are still refused. With such a signature at a boot without
    // pins, the last known good policy is in force. A valid signature that has expired is accepted.
    node.signal("TERM");
    let mut detach = node.trainguard(&["detach"]);
    assert!(detach.arg("--bpf-dir").arg(node.pins()).status().expect("detach").success());
    signer.sign(&node, "cluster.yaml", &FILES, "trainguard serial=6");
    node.start(&more);
    let status = node.wait("the last good one", enforcing);
    assert_eq!(status["source"]["kind"], "last_good", "{status}");
    assert_eq!(status["policy_hash"], before["policy_hash"]);
    signer.sign(&node, "cluster.yaml", &FILES, "trainguard serial=8 expires=2020-01-01");
    let status = node.wait("accepted", |status| status["up_to_date"] == true);
    assert_eq!(status["source"]["serial"], 8);
    let shown = node.trainguard(&["status"]).output().expect("status");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let words: Vec<&str> = shown.split_whitespace().collect();
    assert!(words.join(" ").contains("signed with serial number 8"), "{shown}");
    assert!(node.log().contains("policy signature expired"), "{}", node.log());
}

/// Case 129: policies that `apply` sends.
#[test]
fn applied_policies_need_a_signature() {
    let Some(mut node) = Node::new("signatures/apply") else { return };
    let Some(program) = minisign("signatures/apply") else { return };
    let signer = Signer::new(program, &node, "signer");
    signer.sign(&node, "cluster.yaml", &FILES, "trainguard serial=1");
    node.start(&["--policy-key", &signer.public()]);
    node.wait("enforcing", enforcing);
    node.write("next.yaml", &MANIFEST.replace("policy.yaml", "next-policy.yaml"));
    node.write("next-policy.yaml", &POLICY.replace("roles: [worker]", "roles: [scheduler]"));
    let path = node.path("next.yaml");
    let path = path.to_str().expect("a path");
    let files = ["next.yaml", "next-policy.yaml"];
    for more in [&[][..], &["--confirm-within", "1h"], &["--dry-run"]] {
        let (code, stderr) = run(&node, &[&["apply", path], more].concat());
        assert_eq!(code, Some(1), "{more:?}: {stderr}");
        assert!(stderr.contains("next.yaml.sums.minisig"), "{more:?}: {stderr}");
    }
    assert!(node.answers(MEMBER[0], PORT));
    // A trial: its serial number counts only once it is confirmed.
    signer.sign(&node, "next.yaml", &files, "trainguard serial=3");
    let trial = ["apply", path, "--confirm-within", "1h"];
    let (code, stderr) = run(&node, &trial);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!node.answers(MEMBER[0], PORT));
    let serial = || node.status().expect("a status")["source"]["serial"].clone();
    assert_eq!(serial(), 3);
    assert_eq!(run(&node, &["rollback"]).0, Some(0));
    assert_eq!(serial(), 1);
    signer.sign(&node, "next.yaml", &files, "trainguard serial=2");
    assert_eq!(run(&node, &trial).0, Some(0));
    assert_eq!(run(&node, &["confirm"]).0, Some(0));
    assert_eq!(serial(), 2);
    signer.sign(&node, "next.yaml", &files, "trainguard serial=1");
    let (code, stderr) = run(&node, &["apply", path]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("2 was accepted before"), "{stderr}");
    assert!(!node.answers(MEMBER[0], PORT));
}
