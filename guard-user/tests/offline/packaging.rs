//! Files that are installed besides the binary: systemd units, which must be valid and confined, and the
//! example for Kubernetes.
#![expect(clippy::print_stdout, reason = "a skipped check is printed")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::binary::{self, trainguard};

const PACKAGING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging");
const UNITS: [&str; 2] = ["trainguard.service", "trainguard-pins.service"];

fn packaging(name: &str) -> String {
    fs::read_to_string(Path::new(PACKAGING).join(name)).expect("a file of the packages")
}

/// Writes the units as they would be installed, with the path of the built binary.
fn units() -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for unit in UNITS {
        let text = packaging(&format!("systemd/{unit}"));
        let text = text.replace("/usr/bin/trainguard", binary::PATH);
        fs::write(directory.path().join(unit), text).expect("writing");
    }
    directory
}

/// Runs `systemd-analyze` on a unit. Returns `None`, and prints a note, where the tool is missing.
fn analyze(test: &str, args: &[&str], directory: &TempDir, unit: &str) -> Option<Output> {
    let mut command = Command::new("systemd-analyze");
    let output = command.args(args).arg(directory.path().join(unit)).output();
    if output.is_err() {
        println!("skipped: packaging/{test}: systemd-analyze is not installed");
    }
    output.ok()
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let directory = units();
    for unit in UNITS {
        let Some(output) = analyze("verify", &["verify", "--man=no"], &directory, unit) else {
            return;
        };
        let printed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{printed}");
        // `verify` goes on after unknown directives, and also reports problems of units that are not
        // ours.
        let ours: Vec<_> = printed.lines().filter(|line| line.contains("trainguard")).collect();
        assert!(ours.is_empty(), "{ours:?}");
    }
}

/// Returns the values of a key in the service's unit, from all of its lines.
fn values(key: &str) -> Vec<String> {
    let unit = packaging("systemd/trainguard.service");
    let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.flat_map(str::split_ascii_whitespace).map(str::to_owned).collect()
}

/// The guard is ready before any unit configures a network and before services with the default
/// dependencies start. `multi-user.target`, which wants the guard, would not wait for a unit without
/// these dependencies.
#[test]
fn network_and_services_wait_for_the_guard() {
    assert_eq!(values("DefaultDependencies"), ["no"]);
    assert_eq!(values("Before"), ["network-pre.target", "sysinit.target", "shutdown.target"]);
    assert_eq!(
        values("After"),
        [
            "local-fs.target",
            "systemd-sysctl.service",
            "systemd-modules-load.service",
            "trainguard-pins.service"
        ]
    );
    assert_eq!(values("Type"), ["notify"], "systemd waits until the guard is ready");
}

/// The units form no ordering cycle, also with the ordering of cloud-init on Debian.
#[test]
fn the_order_has_no_cycle() {
    let directory = units();
    let write = |name: &str, order: &str| {
        let text = format!(
            "[Unit]\nDescription={name}\nDefaultDependencies=no\n{order}\n[Service]\nExecStart=/bin/true\n"
        );
        fs::write(directory.path().join(name), text).expect("writing");
    };
    write(
        "local.service",
        "After=systemd-remount-fs.service\nBefore=network-pre.target sysinit.target",
    );
    write("net.service", "After=network-pre.target local-fs.target\nBefore=network.target");
    write(
        "init.service",
        "After=local.service net.service\nBefore=network-online.target sysinit.target",
    );
    let verify = |target: &str| {
        let text = format!(
            "[Unit]\nDescription=All\nRequires=basic.target {target}\nAfter=basic.target\n\
             Wants=trainguard.service local.service net.service init.service network-online.target\n"
        );
        fs::write(directory.path().join("all.target"), text).expect("writing");
        let output = analyze("order", &["verify", "--man=no"], &directory, "all.target")?;
        Some(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let Some(printed) = verify("") else { return };
    assert!(!printed.contains("cycle"), "{printed}");
    // Check that `systemd-analyze` reports a cycle if there is one.
    write("turn.service", "After=sysinit.target\nBefore=trainguard.service");
    let printed = verify("turn.service").expect("systemd-analyze");
    assert!(printed.contains("cycle"), "{printed}");
}

/// The exposure level is at most 2.0 on systemd's scale of 0 to 10.
#[test]
fn the_service_is_not_exposed() {
    let directory = units();
    let args = ["security", "--offline=true", "--no-pager", "--threshold=20"];
    let Some(output) = analyze("security", &args, &directory, "trainguard.service") else { return };
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("Overall exposure level for trainguard.service: "), "{printed}");
}

#[test]
fn commands_in_the_unit_are_valid() {
    let unit = packaging("systemd/trainguard.service");
    for (key, wanted) in [("ExecStart=", 2), ("ExecReload=", 3)] {
        let line = unit.lines().find_map(|line| line.strip_prefix(key)).expect("a command");
        let mut words: Vec<_> = line.split(' ').skip(1).collect();
        // The arguments are accepted; the command then fails because there is no manifest or no daemon.
        let missing = ["--run-dir", "/nonexistent/run"];
        words.extend(missing);
        let output = trainguard(Path::new("/"), &words, "");
        let printed = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(wanted), "{words:?}: {printed}");
        assert!(!printed.contains("Usage:"), "{printed}");
    }
}

fn documents() -> Vec<Value> {
    let text = packaging("container/daemonset.yaml");
    let parse = |text| serde_yaml::from_str(text).expect("YAML");
    text.split("\n---\n").map(parse).collect()
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    documents.iter().find(|document| document["kind"] == kind).expect("a document")
}

#[test]
fn the_container_has_three_capabilities_and_is_not_privileged() {
    let documents = documents();
    let spec = &of_kind(&documents, "DaemonSet")["spec"]["template"]["spec"];
    assert_eq!(spec["hostNetwork"], true);
    let container = &spec["containers"][0];
    let security = &container["securityContext"];
    assert_eq!(
        security["capabilities"],
        json!({ "drop": ["ALL"], "add": ["BPF", "NET_ADMIN", "PERFMON"] })
    );
    let unit = ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"];
    assert_eq!(values("CapabilityBoundingSet"), unit, "equal in unit and container");
    assert_eq!(values("AmbientCapabilities"), unit, "equal in unit and container");
    assert_eq!(security["privileged"], false);
    assert_eq!(security["allowPrivilegeEscalation"], false);
    let volumes = spec["volumes"].as_array().expect("volumes");
    for mount in container["volumeMounts"].as_array().expect("mounts") {
        assert!(volumes.iter().any(|volume| volume["name"] == mount["name"]), "{mount}");
    }
    let bpf = volumes.iter().find(|volume| volume["name"] == "bpf").expect("the bpf file system");
    assert_eq!(bpf["hostPath"]["path"], "/sys/fs/bpf");
    // The probe is an existing subcommand; here it fails because no daemon runs.
    let words = container["readinessProbe"]["exec"]["command"].as_array().expect("a command");
    let mut words: Vec<_> = words.iter().skip(1).filter_map(Value::as_str).collect();
    words.extend(["--run-dir", "/nonexistent", "--bpf-dir", "/nonexistent"]);
    let output = trainguard(Path::new("/"), &words, "");
    assert_eq!(output.status.code(), Some(3), "{words:?}: {output:?}");
}

#[test]
fn the_policy_of_the_kubernetes_example_has_no_finding() {
    let documents = documents();
    let files = of_kind(&documents, "ConfigMap")["data"].as_object().expect("files").clone();
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        fs::write(directory.path().join(name), text.as_str().expect("a text")).expect("writing");
    }
    let output =
        trainguard(directory.path(), &["lint", "--fail-on", "warning", "cluster.yaml"], "");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{printed}");
}
