//! A node and its peer in two network namespaces, with a real daemon in the node's.
//!
//! The peer has addresses of a member and of an unlisted host, IPv4 and IPv6. Namespaces, pins and
//! processes belong to one test and are removed when it ends, also when it fails.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::{
    Pod,
    maps::{Array, Map, MapData},
    programs::loaded_programs,
};
use guard_common::{
    layout::LAYOUT_VERSION, layout::counters::MAX_INTERFACES, verdict::MAX_SERVICES,
};
pub use guard_test_support::binary::path as binary;
use guard_user::{
    api::client::{AnswerTimeouts, Client},
    sys,
};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;

use crate::skip;

/// The addresses of the node.
pub const NODE: [IpAddr; 2] = pair(10);
/// The addresses of a member, configured at the peer.
pub const MEMBER: [IpAddr; 2] = pair(20);
/// The addresses of another member, configured at the peer.
pub const MEMBER_TOO: [IpAddr; 2] = pair(21);
/// Addresses of an unlisted host, configured at the peer.
pub const UNLISTED: [IpAddr; 2] = pair(99);

/// The port that [`POLICY`] guards.
pub const PORT: u16 = 9091;
/// A port that is not guarded.
pub const FREE_PORT: u16 = 8080;

/// The manifest of the node's cluster.
pub const MANIFEST: &str = "\
apiVersion: trainguard/v1
kind: Cluster
name: test
interfaces: [eth0]
nodes:
  - name: node
    addresses: [10.77.0.10, \"fd77::10\"]
    roles: [scheduler]
  - name: member-[0-1]
    addresses: [\"10.77.0.[20-21]\", \"fd77::[20-21]\"]
    roles: [worker]
policies: [policy.yaml]
";

/// A policy by which members may reach [`PORT`] over TCP and UDP.
pub const POLICY: &str = "\
apiVersion: trainguard/v1
kind: Policy
name: test
services:
  - name: scheduler
    roles: [scheduler]
    ports: [tcp/9091, udp/9091]
    match: all
    allow:
      roles: [worker]
    mode: enforce
";

/// Returns [`POLICY`] with another service before it, which gets the first slot.
pub fn policy_with_a_first_service() -> String {
    let first = "services:\n  - name: first\n    roles: [scheduler]\n    ports: [tcp/9093]\n    match: all\n    \
                 allow:\n      roles: [worker]\n    mode: enforce\n";
    POLICY.replace("services:\n", first)
}

/// Returns a policy with the maximum number of services, each of which refuses members.
pub fn many_services(prefix: &str) -> String {
    let service = |number: u8| {
        format!(
            "  - name: {prefix}-{number}\n    roles: [scheduler]\n    ports: [tcp/{}]\n    \
             match: all\n    allow:\n      roles: [scheduler]\n    mode: enforce\n",
            PORT + u16::from(number)
        )
    };
    let (head, _) = POLICY.split_once("  - name").expect("services");
    (0..MAX_SERVICES).fold(head.to_owned(), |text, number| text + &service(number))
}

/// Timeout for steps that take milliseconds on an idle machine. Only a step that hangs takes longer.
pub const WAIT_TIMEOUT: Duration = Duration::from_mins(1);
/// `--timing` of daemons for which a test gives no other: files are checked often, because most tests
/// wait for a changed policy.
const TIMING: [&str; 2] = ["--timing", "files=50ms"];
/// Added to each `--timing`: on a busy machine, listing the devices may exceed the daemon's usual time
/// limit, which the status would report as a problem.
const NETLINK: &str = "netlink=1m";
/// Time without a response after which a port counts as silent.
const SILENCE: Duration = Duration::from_millis(400);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Returns the addresses of the test network that end in this number, of at most two digits.
pub const fn pair(number: u8) -> [IpAddr; 2] {
    // The same digits as in the IPv4 address: fd77::10.
    let spelled = (number / 10 * 16 + number % 10) as u16;
    [
        IpAddr::V4(Ipv4Addr::new(10, 77, 0, number)),
        IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, spelled)),
    ]
}

/// Returns the names of a directory's entries, sorted.
pub fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Opens a pinned array map.
pub fn pinned_array<V: Pod>(pin: &Path) -> Array<MapData, V> {
    let map = MapData::from_pin(pin).and_then(Map::from_map_data);
    map.and_then(Array::try_from).expect("an array")
}

/// Returns the modes that this kernel supports: TCX needs 6.6 (`CONFIG_NET_XGRESS`).
pub fn modes() -> &'static [&'static str] {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let has_tcx = (numbers.next(), numbers.next()) >= (Some(6), Some(6));
    if has_tcx { &["native", "tcx", "generic"] } else { &["native", "generic"] }
}

/// Opens a TCP connection from an address of this thread's namespace. Reads of it end after half a
/// second.
pub fn connect(from: SocketAddr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP));
    let socket = socket.expect("a socket");
    socket.set_reuse_address(true).expect("an option");
    socket.bind(&from.into()).expect("an address");
    socket.connect_timeout(&to.into(), Duration::from_secs(5)).expect("a connection");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_millis(500))).expect("an option");
    stream
}

/// Reports whether a status says that the node is guarded.
pub fn enforcing(status: &Value) -> bool {
    status["enforcing"] == true
}

/// Returns the reasons whose counts differ between two statistics, with the differences.
///
/// `not_ip` and `unguarded` are left out, because neighbour discovery and similar traffic comes at any
/// time.
pub fn moved(before: &Value, after: &Value) -> Vec<(String, u64)> {
    let reasons = after["reasons"].as_object().expect("reasons");
    let count = |entry: &Value| entry["packets"].as_u64().expect("a count");
    reasons
        .iter()
        .filter(|(name, _)| *name != "not_ip" && *name != "unguarded")
        .map(|(name, entry)| (name.clone(), count(entry) - count(&before["reasons"][name])))
        .filter(|(_, difference)| *difference > 0)
        .collect()
}

/// The two namespaces, and the daemon.
#[derive(Debug)]
pub struct Node {
    directory: TempDir,
    namespaces: [String; 2],
    daemon: Option<Child>,
    /// The binary to run at this node.
    binary: PathBuf,
}

impl Node {
    /// Sets up both namespaces. Returns `None`, and records the skip, if this machine cannot.
    pub fn new(test: &str) -> Option<Self> {
        let node = Self::bare(test)?;
        node.add_link("eth0");
        node.add_addresses();
        Some(node)
    }

    /// As [`Self::new`], with two network cards on one cable, given by their Ethernet addresses. For
    /// virtual machines, where nothing else needs the cards.
    pub fn on_cards(test: &str, cards: [&str; 2]) -> Option<Self> {
        let node = Self::bare(test)?;
        for (namespace, card) in node.namespaces.iter().zip(cards) {
            let Some(device) = card_with(card) else {
                skip::skip(test, &format!("no network card {card}, see `cargo xtask vm`"));
                return None;
            };
            ip(&["link", "set", &device, "netns", namespace]);
            ip(&["-n", namespace, "link", "set", &device, "name", "eth0"]);
            ip(&["-n", namespace, "link", "set", "eth0", "up"]);
        }
        node.add_addresses();
        Some(node)
    }

    /// As [`Self::new`], without a device in either namespace, for tests that create others.
    pub fn bare(test: &str) -> Option<Self> {
        skip::kernel(test)?;
        if !nix::unistd::geteuid().is_root() {
            skip::skip(test, "network namespaces need root");
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("tgtest{}-{number}", std::process::id());
        let node = Self {
            directory: tempfile::Builder::new()
                .prefix(&format!("trainguard-test-{}-", std::process::id()))
                .tempdir()
                .expect("a directory"),
            namespaces: [format!("{prefix}-node"), format!("{prefix}-peer")],
            daemon: None,
            binary: binary(),
        };
        node.write("cluster.yaml", MANIFEST);
        node.write("policy.yaml", POLICY);
        let bpf = node.path("bpf");
        fs::create_dir(&bpf).expect("a mount point");
        run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(bpf));
        for namespace in &node.namespaces {
            ip(&["netns", "add", namespace]);
            inside(namespace, || {
                for which in ["all", "default"] {
                    // Disable duplicate address detection, which takes a second for each address.
                    let file = format!("/proc/sys/net/ipv6/conf/{which}/accept_dad");
                    fs::write(file, "0").expect("a setting of the namespace");
                    // Keep IPv6 addresses when the device goes down, as with IPv4.
                    let file = format!("/proc/sys/net/ipv6/conf/{which}/keep_addr_on_down");
                    fs::write(file, "1").expect("a setting of the namespace");
                }
            });
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        Some(node)
    }

    /// Adds a veth pair with this name at both ends, with an MTU of 9000, and sets it up.
    pub fn add_link(&self, name: &str) {
        let [node, peer] = &self.namespaces;
        ip(&[
            "-n", node, "link", "add", name, "mtu", "9000", "type", "veth", "peer", "name", name,
            "netns", peer, "mtu", "9000",
        ]);
        for namespace in [node, peer] {
            ip(&["-n", namespace, "link", "set", name, "up"]);
        }
    }

    /// Adds more interfaces than the counters have rows, and a policy with the maximum number of
    /// services.
    pub fn fill_tables(&self) {
        for number in 0..MAX_INTERFACES + 4 {
            self.add_link(&format!("x{number}"));
        }
        self.write("cluster.yaml", &MANIFEST.replace("[eth0]", "[eth0, \"x*\"]"));
        self.write("policy.yaml", &many_services("service"));
    }

    /// Adds the addresses of both sides to `eth0`.
    pub fn add_addresses(&self) {
        let [node, peer] = &self.namespaces;
        for (namespace, addresses) in
            [(node, &[NODE][..]), (peer, &[MEMBER, MEMBER_TOO, UNLISTED][..])]
        {
            for address in addresses.iter().flatten() {
                let length = if address.is_ipv4() { 24 } else { 64 };
                let address = format!("{address}/{length}");
                ip(&["-n", namespace, "addr", "add", &address, "dev", "eth0"]);
            }
        }
    }

    /// Runs `ip` in the node's namespace.
    pub fn ip(&self, args: &[&str]) {
        ip(&[&["-n", &self.namespaces[0]], args].concat());
    }

    /// Attaches the program with this id to an interface of the node, by netlink instead of a link, as
    /// other software does.
    pub fn attach_foreign(&self, interface: &str, id: u64) {
        let pin = self.path("bpf").join("foreign");
        let program = loaded_programs().flatten().find(|program| u64::from(program.id()) == id);
        let fd = program.expect("a loaded program").fd().expect("its descriptor");
        sys::pin(fd.as_fd(), &pin).expect("pinning");
        let text = pin.to_str().expect("UTF-8");
        self.ip(&["link", "set", "dev", interface, "xdp", "pinned", text]);
        fs::remove_file(pin).expect("removing the pin");
    }

    /// Renames a device of the node. Before 6.2 the kernel renames only devices that are down
    /// (`dev_change_name`, `net/core/dev.c`).
    pub fn rename(&self, from: &str, to: &str) {
        let live = ["-n", &self.namespaces[0], "link", "set", from, "name", to];
        let live = Command::new("ip").args(live).output().expect("ip");
        if !live.status.success() {
            self.ip(&["link", "set", from, "down"]);
            self.ip(&["link", "set", from, "name", to]);
            self.ip(&["link", "set", to, "up"]);
        }
    }

    /// Flushes the peer's neighbour table, because the node's device may have another Ethernet address.
    pub fn forget_neighbours(&self) {
        ip(&["-n", self.peer(), "neigh", "flush", "dev", "eth0"]);
    }

    /// Returns the name of the peer's namespace.
    pub fn peer(&self) -> &str {
        &self.namespaces[1]
    }

    /// Returns a path in the test's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file in the test's directory atomically, by renaming.
    pub fn write(&self, name: &str, text: &str) {
        let next = self.path(&format!("{name}.next"));
        fs::write(&next, text).expect("writing");
        fs::rename(next, self.path(name)).expect("renaming");
    }

    /// Returns a command that runs the binary in the node's namespace, for this node's daemon.
    pub fn trainguard(&self, arguments: &[&str]) -> Command {
        let mut command = self.binary(arguments);
        command.arg("--run-dir").arg(self.path("run"));
        command
    }

    /// Returns the name of the node's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespaces[0]
    }

    /// Returns a command that runs another program in the node's namespace.
    pub fn command_at_node(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.namespace()]).arg(program).stdin(Stdio::null());
        command
    }

    /// Selects the binary of the next layout, or the usual one.
    pub fn set_next_layout(&mut self, is_next: bool) {
        let usual = binary();
        self.binary = if is_next { usual.with_file_name("trainguard-next") } else { usual };
    }

    /// Selects the binary of another version.
    pub fn set_binary(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    fn binary(&self, arguments: &[&str]) -> Command {
        let mut command = self.command_at_node(&self.binary);
        command.args(arguments);
        command
    }

    /// Returns the daemon's command line for the manifest and further arguments.
    pub fn daemon_command(&self, more: &[&str]) -> Command {
        self.command_of_daemon("daemon", more)
    }

    /// Returns the command that takes over from a guard of a newer layout, with further arguments.
    pub fn downgrade_command(&self, more: &[&str]) -> Command {
        self.command_of_daemon("downgrade", more)
    }

    fn command_of_daemon(&self, subcommand: &str, more: &[&str]) -> Command {
        let mut command = self.binary(&[subcommand]);
        command.arg("--manifest").arg(self.path("cluster.yaml")).args(["--node", "node"]);
        for (flag, directory) in [
            ("--run-dir", self.path("run")),
            ("--state-dir", self.path("state")),
            ("--bpf-dir", self.pins()),
        ] {
            if !more.contains(&flag) {
                command.arg(flag).arg(directory);
            }
        }
        let given = if more.contains(&TIMING[0]) { &[] } else { &TIMING[..] };
        let mut is_timing = false;
        for word in given.iter().chain(more) {
            if is_timing {
                command.arg(format!("{word},{NETLINK}"));
            } else {
                command.arg(word);
            }
            is_timing = *word == TIMING[0];
        }
        command
    }

    /// Returns the pin directory.
    pub fn pins(&self) -> PathBuf {
        self.path("bpf").join("guard")
    }

    /// Returns the entries of the pin directory: `v` and the version, for each layout that has pins.
    pub fn layouts(&self) -> Vec<String> {
        names_in(&self.pins())
    }

    /// Returns the directory with the pins of this version's layout.
    pub fn own_pins(&self) -> PathBuf {
        self.pins().join(format!("v{LAYOUT_VERSION}"))
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&mut self, more: &[&str]) {
        self.launch(more);
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while self.status().is_none() {
            let ended = self.daemon.as_mut().map(Child::try_wait);
            assert!(matches!(ended, Some(Ok(None))), "the daemon ended: {}", self.log());
            assert!(Instant::now() < deadline, "the daemon does not answer: {}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts the daemon without waiting for it.
    pub fn launch(&mut self, more: &[&str]) {
        let log = File::options().create(true).append(true).open(self.path("log"));
        let mut command = self.daemon_command(more);
        command.stdout(Stdio::null()).stderr(log.expect("a log"));
        self.daemon = Some(command.spawn().expect("the daemon starts"));
    }

    /// Returns a client of the daemon, with a longer timeout than that of the command line.
    pub fn client(&self) -> Client {
        let timeouts = AnswerTimeouts { query: WAIT_TIMEOUT, ..AnswerTimeouts::default() };
        Client::new(&self.path("run"), timeouts)
    }

    /// Runs a daemon that is expected to exit by itself.
    pub fn start_expecting_exit(&self, more: &[&str]) -> Output {
        self.daemon_command(more).output().expect("the daemon starts")
    }

    /// Sends the daemon a signal, by name, and waits until it has exited unless the signal is `HUP`.
    pub fn signal(&mut self, signal: &str) {
        let child = self.daemon.as_mut().expect("a daemon runs");
        run(Command::new("kill").args(["-s", signal, &child.id().to_string()]));
        if signal != "HUP" {
            child.wait().expect("the daemon ends");
            self.daemon = None;
        }
    }

    /// Returns the process id of the daemon. `ip netns exec` replaces itself by the program that it
    /// runs.
    pub fn daemon_id(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon runs").id()
    }

    /// Returns the daemon's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Returns the status; `None` if no daemon answers.
    pub fn status(&self) -> Option<Value> {
        self.status_and_code().map(|(status, _)| status).filter(|status| status["daemon"] == true)
    }

    /// Returns the status and the exit code, also for a node without a daemon.
    pub fn status_and_code(&self) -> Option<(Value, Option<i32>)> {
        // On a busy machine a daemon may take longer than the default timeout.
        self.status_and_code_within(WAIT_TIMEOUT)
    }

    /// As [`Self::status_and_code`], with another timeout for the daemon's answer.
    pub fn status_and_code_within(&self, time: Duration) -> Option<(Value, Option<i32>)> {
        let mut command = self.trainguard(&["status", "--format", "json"]);
        command.arg("--answer-within").arg(format!("{}ms", time.as_millis()));
        let output = command.arg("--bpf-dir").arg(self.pins()).output().expect("status");
        Some((serde_json::from_slice(&output.stdout).ok()?, output.status.code()))
    }

    /// Waits until the status satisfies a condition, and returns it.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let status = self.status();
            if let Some(status) = status.as_ref().filter(|status| wanted(status)) {
                return status.clone();
            }
            assert!(Instant::now() < deadline, "not {what}: {status:?}\n{}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns the number of the generation in force.
    pub fn generation(&self) -> u64 {
        self.status().and_then(|status| status["generation"].as_u64()).expect("a generation")
    }

    /// Returns the statistics.
    pub fn stats(&self) -> Value {
        let mut command = self.trainguard(&["stats", "--once", "--format", "json"]);
        command.arg("--answer-within").arg(format!("{}ms", WAIT_TIMEOUT.as_millis()));
        let output = command.arg("--bpf-dir").arg(self.pins()).output().expect("stats");
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// Returns the number of frames counted for a reason.
    pub fn packets(&self, reason: &str) -> u64 {
        self.stats()["reasons"][reason]["packets"].as_u64().expect("a known reason")
    }

    /// Runs a closure on a thread inside the peer's namespace.
    pub fn at_peer<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.namespaces[1], work)
    }

    /// Runs a closure on a thread inside the node's namespace.
    pub fn at_node<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(&self.namespaces[0], work)
    }

    /// Asserts that members get in and unlisted hosts do not, in both families.
    pub fn assert_guarded(&self) {
        for family in 0..2 {
            assert!(
                !self.answers(UNLISTED[family], PORT),
                "an unlisted host gets in: {}",
                self.log()
            );
            assert!(self.answers(MEMBER[family], PORT), "a member does not: {}", self.log());
        }
    }

    /// Asserts that datagrams that fill the MTU of 9000, and so lie in several buffers, are decided and
    /// counted correctly, from a member and an unlisted host in both families. Returns the statistics
    /// afterwards.
    pub fn assert_evaluates_long_frames(&self) -> Value {
        let before = self.stats();
        self.at_peer(|| {
            for (from, family) in
                [(MEMBER[0], 0), (UNLISTED[0], 0), (MEMBER[1], 1), (UNLISTED[1], 1)]
            {
                let socket = UdpSocket::bind((from, 0)).expect("an address of the peer");
                socket.send_to(&[0; 8900], (NODE[family], PORT)).expect("sending");
            }
        });
        thread::sleep(Duration::from_millis(200));
        let after = self.stats();
        let expected = [("allowed".to_owned(), 2), ("not_allowed".to_owned(), 2)];
        assert_eq!(moved(&before, &after), expected);
        let bytes =
            |stats: &Value| stats["reasons"]["not_allowed"]["bytes"].as_u64().expect("bytes");
        // Headers: Ethernet 14, IPv4 20 or IPv6 40, UDP 8.
        assert_eq!(bytes(&after) - bytes(&before), 2 * (8900 + 8 + 14) + 20 + 40);
        after
    }

    /// Reports whether a TCP port of the node responds to the peer, from this source address. No service
    /// listens, so the response is a reset, which shows that the packet passed.
    pub fn answers(&self, from: IpAddr, port: u16) -> bool {
        let to = SocketAddr::new(if from.is_ipv4() { NODE[0] } else { NODE[1] }, port);
        self.at_peer(move || {
            let domain = Domain::for_address(to);
            let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
            socket.bind(&SocketAddr::new(from, 0).into()).expect("an address of the peer");
            match socket.connect_timeout(&to.into(), SILENCE) {
                Ok(()) => true,
                Err(error) => error.kind() == ErrorKind::ConnectionRefused,
            }
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        for namespace in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "del", namespace]).output();
        }
        let _ = Command::new("umount").arg("-l").arg(self.path("bpf")).output();
    }
}

/// Runs a closure on a thread inside a namespace.
pub fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    // The namespace is a property of the thread, so a thread is created for it.
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = File::open(Path::new("/run/netns").join(namespace)).expect("a namespace");
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).expect("entering the namespace");
            work()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Returns the device with this Ethernet address in the namespace of this thread. A card returns from a
/// deleted namespace with a delay.
fn card_with(address: &str) -> Option<String> {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while Instant::now() < deadline {
        for entry in fs::read_dir("/sys/class/net").expect("devices").filter_map(Result::ok) {
            let file = entry.path().join("address");
            if fs::read_to_string(file).is_ok_and(|text| text.trim() == address) {
                return entry.file_name().into_string().ok();
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
    None
}

/// Runs `ip`, which must succeed.
pub fn ip(args: &[&str]) {
    run(Command::new("ip").args(args));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error: io::Error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}
