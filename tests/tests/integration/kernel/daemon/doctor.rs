//! `doctor` on real nodes: its findings agree with what the kernel does, and it changes nothing.

use std::{
    fs,
    net::TcpListener,
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    path::Path,
    process::{Command, Output},
};

use guard_tests::{
    node::{MANIFEST, NODE, Node, PORT, binary, enforcing},
    skip,
};
use guard_user::sys;
use serde_json::Value;

/// Runs `doctor` on a node. Returns its JSON and its exit code.
fn doctor(node: &Node, more: &[&str]) -> (Value, Option<i32>) {
    let output = run(node, &[&["--format", "json"], more].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    let answer = serde_json::from_slice(&output.stdout);
    (answer.unwrap_or_else(|error| panic!("{error}: {stderr}")), output.status.code())
}

fn run(node: &Node, more: &[&str]) -> Output {
    let mut command = node.trainguard(&["doctor", "--node", "node"]);
    command.arg("--manifest").arg(node.path("cluster.yaml"));
    command.arg("--state-dir").arg(node.path("state"));
    if !more.contains(&"--bpf-dir") {
        command.arg("--bpf-dir").arg(node.pins());
    }
    command.args(more).output().expect("the doctor")
}

/// Returns a check by its id and its subject.
fn check(answer: &Value, id: &str, subject: Option<&str>) -> Value {
    let checks = answer["checks"].as_array().expect("checks");
    let found =
        checks.iter().find(|check| check["id"] == id && check["subject"].as_str() == subject);
    found.unwrap_or_else(|| panic!("no {id} in {answer:#}")).clone()
}

fn state(answer: &Value, id: &str, subject: Option<&str>) -> String {
    check(answer, id, subject)["state"].as_str().expect("a state").to_owned()
}

/// Returns the state that `doctor` must not change: the node's devices, and the files in its directory.
fn observable_state(node: &Node) -> (String, Vec<String>) {
    let devices = node.at_node(|| Command::new("ip").args(["-o", "link"]).output()).expect("ip");
    let entries = |path: &Path| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().display().to_string()).collect::<Vec<_>>()
    };
    let mut files = [entries(&node.path("")), entries(&node.path("bpf"))].concat();
    files.sort();
    (String::from_utf8_lossy(&devices.stdout).into_owned(), files)
}

#[test]
fn a_healthy_node_passes_before_and_after_the_daemon_starts() {
    let Some(mut node) = Node::new("doctor/well") else { return };
    let before = observable_state(&node);
    let (answer, code) = doctor(&node, &[]);
    assert_eq!(code, Some(0), "{answer:#}");
    assert_eq!(observable_state(&node), before, "doctor changes nothing");
    assert_eq!(answer["schema"], "trainguard/doctor/v1");
    assert_eq!(answer["node"], "node");
    for id in ["bpf-maps", "xdp", "xdp-frags", "bpf-link", "guard-program", "jit", "bpffs"] {
        assert_eq!(state(&answer, id, None), "ok", "{answer:#}");
    }
    let driver = check(&answer, "xdp-driver", Some("eth0"));
    assert_eq!(driver["found"], "native XDP, also for frames in several buffers");
    assert_eq!(state(&answer, "policy-files", None), "ok", "{answer:#}");
    assert_eq!(state(&answer, "daemon", None), "note");

    node.start(&[]);
    let status = node.wait("enforcing", enforcing);
    let (answer, code) = doctor(&node, &[]);
    assert_eq!(code, Some(0), "{answer:#}");
    assert_eq!(check(&answer, "daemon", None)["found"], "enforcing on eth0");
    let program = check(&answer, "xdp-foreign", Some("eth0"));
    assert_eq!(program["state"], "ok");
    let id = status["program"]["id"].to_string();
    assert!(program["found"].to_string().contains(&format!("trainguard's program {id} ")));

    // Without a daemon, the pins give the same result.
    node.signal("KILL");
    let (answer, code) = doctor(&node, &[]);
    assert_eq!((state(&answer, "xdp-foreign", Some("eth0")).as_str(), code), ("ok", Some(0)));
    node.assert_guarded();
}

/// Case 88: the owner of a foreign program and the remedy are reported before anything is attached.
#[test]
fn case_88_a_foreign_program_is_named_and_stays_attached() {
    let Some(node) = Node::new("doctor/foreign") else { return };
    let pass = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let program = sys::xdp_load(&pass, true).expect("a foreign program");
    let pin = node.path("bpf").join("foreign");
    sys::pin(program.as_fd(), &pin).expect("pinning");
    node.ip(&["link", "set", "dev", "eth0", "xdp", "pinned", pin.to_str().expect("UTF-8")]);
    let before = observable_state(&node);
    let (answer, code) = doctor(&node, &[]);
    let foreign = check(&answer, "xdp-foreign", Some("eth0"));
    assert_eq!((foreign["state"].as_str(), code), (Some("failed"), Some(1)), "{answer:#}");
    assert!(before.0.contains("prog/xdp id "), "{}", before.0);
    let id = before.0.split("prog/xdp id ").nth(1).and_then(|rest| rest.split(' ').next());
    let id = id.expect("an id as `ip` shows it").trim();
    assert!(foreign["found"].to_string().contains(&format!("id {id}")), "{foreign}");
    assert!(foreign["fix"].to_string().contains("ip link set dev eth0 xdp off"), "{foreign}");
    assert_eq!(observable_state(&node), before, "the program is still attached");
}

#[test]
fn settings_and_links_of_this_namespace_are_reported() {
    let Some(node) = Node::new("doctor/settings") else { return };
    node.at_node(|| {
        for (setting, value) in [
            ("ip_local_port_range", "1024 65535"),
            ("tcp_syncookies", "0"),
            ("conf/all/rp_filter", "0"),
            ("conf/eth0/rp_filter", "0"),
            ("conf/eth0/route_localnet", "1"),
        ] {
            fs::write(format!("/proc/sys/net/ipv4/{setting}"), value).expect("a setting");
        }
    });
    node.add_link("eth1");
    node.ip(&["link", "set", "eth0", "mtu", "1400"]);
    let (answer, code) = doctor(&node, &[]);
    for id in ["port-range", "syncookies", "rp-filter", "route-localnet", "unguarded"] {
        assert_eq!(state(&answer, id, None), "warning", "{answer:#}");
    }
    assert_eq!(code, Some(0), "warnings do not fail");
    let range = check(&answer, "port-range", None);
    assert_eq!(range["fix"], "sysctl -w net.ipv4.ip_local_reserved_ports=9091");
    assert!(check(&answer, "unguarded", None)["found"].to_string().contains("eth1"));
    let interface = check(&answer, "interface", Some("eth0"));
    assert!(interface["found"].to_string().contains("MTU 1400, veth"), "{interface}");

    // The suggested command is the remedy.
    node.at_node(|| fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", PORT.to_string()))
        .expect("a setting");
    node.write("cluster.yaml", &MANIFEST.replace("[eth0]", "[eth0, eth1, \"ib*\"]"));
    let (answer, _) = doctor(&node, &[]);
    assert_eq!(state(&answer, "port-range", None), "ok", "{answer:#}");
    assert_eq!(state(&answer, "unguarded", None), "ok");
    assert_eq!(state(&answer, "interface", Some("ib*")), "warning");
}

/// Case 103: a plain directory instead of a bpf file system.
#[test]
fn case_103_a_plain_directory_in_the_place_of_a_bpf_file_system_fails() {
    let Some(node) = Node::new("doctor/bpffs") else { return };
    let plain = node.path("plain");
    fs::create_dir(&plain).expect("a directory");
    let (answer, code) = doctor(&node, &["--bpf-dir", plain.to_str().expect("UTF-8")]);
    let bpffs = check(&answer, "bpffs", None);
    assert_eq!((bpffs["state"].as_str(), code), (Some("failed"), Some(1)), "{bpffs}");
    assert!(bpffs["fix"].to_string().contains("mount -t bpf bpf"), "{bpffs}");

    // A pin directory with a mode that lets other users in.
    fs::create_dir(node.pins()).expect("a directory");
    fs::set_permissions(node.pins(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let (answer, code) = doctor(&node, &[]);
    assert_eq!((state(&answer, "bpffs", None).as_str(), code), ("failed", Some(1)));
}

#[test]
fn invalid_files_are_distinguished_from_missing_files() {
    let Some(node) = Node::new("doctor/files") else { return };
    fs::set_permissions(node.path("policy.yaml"), fs::Permissions::from_mode(0o666))
        .expect("a mode");
    let (answer, code) = doctor(&node, &[]);
    let files = check(&answer, "policy-files", None);
    assert_eq!((files["state"].as_str(), code), (Some("failed"), Some(1)), "{files}");
    let fix = format!("chmod go-w {}", node.path("policy.yaml").display());
    assert_eq!(files["fix"], fix.as_str());

    node.write("policy.yaml", "not: ours\n");
    let (answer, code) = doctor(&node, &[]);
    assert_eq!((state(&answer, "manifest", None).as_str(), code), ("failed", Some(1)));
    let missing = node.trainguard(&["doctor", "--manifest", "/no/such.yaml"]).output();
    let missing = missing.expect("the doctor");
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("cannot read `/no/such.yaml`"));
}

#[test]
fn a_training_process_that_listens_as_root_is_reported_by_its_name() {
    let Some(node) = Node::new("doctor/root") else { return };
    // This process listens, under the name that most training processes have.
    let comm = Path::new("/proc/self/comm");
    let before = fs::read_to_string(comm).expect("a name");
    let socket = node.at_node(|| TcpListener::bind((NODE[0], PORT))).expect("a socket");
    fs::write(comm, "python3").expect("another name");
    let (answer, _) = doctor(&node, &[]);
    fs::write(comm, before.trim_end()).expect("the original name");
    drop(socket);
    let root = check(&answer, "root-services", None);
    assert_eq!(root["state"], "warning", "{answer:#}");
    assert!(root["found"].to_string().contains("tcp/9091 (python3"), "{root}");
    let (answer, _) = doctor(&node, &[]);
    assert_eq!(state(&answer, "root-services", None), "ok");
}

#[test]
fn without_privileges_doctor_reports_unknown_checks() {
    let name = "doctor/rights";
    let Some(node) = Node::new(name) else { return };
    let mut command = node.command_at_node(Path::new("setpriv"));
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.arg(binary()).args(["doctor", "--format", "json", "--run-dir", "/nonexistent"]);
    let output = command.output().expect("a command");
    let Ok(answer) = serde_json::from_slice::<Value>(&output.stdout) else {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        skip::skip(name, &format!("an ordinary user cannot run the binary: {stderr}"));
        return;
    };
    // If this machine has no bpf file system, that check fails for any user.
    let expected = if state(&answer, "bpffs", None) == "failed" { 1 } else { 2 };
    assert_eq!(output.status.code(), Some(expected), "{answer:#}");
    for id in ["rights", "xdp", "bpf-link", "guard-program", "jit"] {
        assert_eq!(state(&answer, id, None), "unknown", "{answer:#}");
    }
    assert_eq!(state(&answer, "xdp-driver", Some("eth0")), "ok", "any user can see the driver");
}

/// Case 149: names that move the cursor, or that a shell would execute.
#[test]
fn case_149_hostile_names_of_interfaces_are_escaped() {
    let Some(node) = Node::new("doctor/names") else { return };
    let hostile = "a\u{1b}[2J;$(x)";
    node.ip(&["link", "add", hostile, "type", "veth", "peer", "name", "peer0"]);
    node.ip(&["link", "set", hostile, "up"]);
    let output = run(&node, &["--interface", "*"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("a\\u{1b}[2J;$(x)"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn a_report_is_private_and_contains_no_addresses_and_names() {
    let Some(mut node) = Node::new("doctor/report") else { return };
    node.start(&[]);
    node.wait("enforcing", enforcing);
    assert!(!node.answers(guard_tests::node::UNLISTED[0], PORT), "an unlisted source gets in");
    let file = node.path("report.json");
    let path = file.to_str().expect("UTF-8").to_owned();
    let output = run(&node, &["--report", &path]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let mode = fs::metadata(&file).expect("the report").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = fs::read_to_string(&file).expect("the report");
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let events = report["events"].as_array().expect("events");
    assert!(events.iter().any(|event| event["reason"] == "not_allowed"), "{events:?}");
    let hostname = nix::unistd::gethostname().expect("a name");
    let hostname = hostname.to_string_lossy();
    for secret in ["10.77.", "fd77:", &*hostname, "cluster: test"] {
        assert!(!text.contains(secret), "`{secret}` is in {text}");
    }
    let again = run(&node, &["--report", &path]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("already exists"));
    assert_eq!(fs::read_to_string(&file).expect("the report"), text);
}
