//! A real Prometheus beside a node's daemon, and promtool; both from the Debian package.

use std::{
    env,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    node::{Node, WAIT_TIMEOUT, inside},
    skip,
};

/// The daemon's address for metrics, which Prometheus scrapes.
pub const METRICS: &str = "127.0.0.1:9477";
/// The address of Prometheus' API, in the node's namespace.
const LISTEN: &str = "127.0.0.1:9090";

/// Returns the directory with the shipped alerts and dashboard.
pub fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../guard-user/packaging")
}

/// Finds a program of the package. Returns `None`, and records the skip, if it is not installed.
pub fn program(test: &str, name: &str) -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/prometheus/usr/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let found = [unpacked]
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file());
    if found.is_none() {
        skip::skip(test, &format!("`{name}` is not installed, see `cargo xtask setup`"));
    }
    found
}

/// A running Prometheus; killed on drop.
#[derive(Debug)]
pub struct Prometheus {
    namespace: String,
    log: PathBuf,
    child: Child,
}

impl Prometheus {
    /// Starts Prometheus in the node's namespace with the shipped alerts. It scrapes every second and
    /// stores its data in the test's own directory.
    pub fn start(node: &Node, program: &Path) -> Self {
        let rules = packaging().join("alerts.yaml").canonicalize().expect("the alerts");
        let config = serde_json::json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": [rules],
            "scrape_configs": [
                { "job_name": "trainguard", "static_configs": [{ "targets": [METRICS] }] },
            ],
        });
        // JSON is valid YAML.
        node.write("prometheus.yaml", &config.to_string());
        let mut command = node.command_at_node(program);
        let log = node.path("prometheus.log");
        command
            .arg(format!("--config.file={}", node.path("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", node.path("prometheus").display()))
            .arg(format!("--web.listen-address={LISTEN}"))
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log"));
        let child = command.spawn().expect("Prometheus starts");
        let prometheus = Self { namespace: node.namespace().to_owned(), log, child };
        prometheus.wait("up{job=\"trainguard\"} == 1");
        prometheus
    }

    /// Sends an API request that must succeed, and returns the field `data` of the response.
    pub fn get(&self, path: &str, query: &[(&str, &str)]) -> Value {
        let said = self.try_get(path, query);
        let said = said.unwrap_or_else(|| panic!("no answer: {}", self.log()));
        assert_eq!(said["status"], "success", "{path} {query:?}: {said}");
        said["data"].clone()
    }

    fn try_get(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let query: Vec<String> =
            query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let query = query.join("&");
        inside(&self.namespace, || {
            let mut stream = TcpStream::connect(LISTEN).ok()?;
            stream.set_read_timeout(Some(WAIT_TIMEOUT)).ok()?;
            // HTTP/1.0, so that the response is not chunked.
            write!(stream, "GET {path}?{query} HTTP/1.0\r\n\r\n").ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            let (_, body) = answer.split_once("\r\n\r\n")?;
            serde_json::from_str(body).ok()
        })
    }

    /// Evaluates an expression now. Returns the samples: labels and value.
    pub fn query(&self, expression: &str) -> Vec<(Value, f64)> {
        let data = self.get("/api/v1/query", &[("query", expression)]);
        samples(&data, expression)
    }

    /// Waits until an expression returns samples, and returns them.
    pub fn wait(&self, expression: &str) -> Vec<(Value, f64)> {
        let deadline = Instant::now() + 2 * WAIT_TIMEOUT;
        loop {
            let said = self.try_get("/api/v1/query", &[("query", expression)]);
            if let Some(said) = said.filter(|said| said["status"] == "success") {
                let samples = samples(&said["data"], expression);
                if !samples.is_empty() {
                    return samples;
                }
            }
            assert!(
                Instant::now() < deadline,
                "no sample for {expression} before the timeout: {}",
                self.log()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn samples(data: &Value, expression: &str) -> Vec<(Value, f64)> {
    assert_eq!(data["resultType"], "vector", "{expression}: {data}");
    let samples = data["result"].as_array().expect("samples").iter().map(|sample| {
        let value = sample["value"][1].as_str().expect("a value");
        (sample["metric"].clone(), value.parse().expect("a number"))
    });
    samples.collect()
}

fn encoded(text: &str) -> String {
    let encode = |byte: u8| {
        if byte.is_ascii_alphanumeric() {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    };
    text.bytes().map(encode).collect()
}

/// Runs promtool on shipped files or on `input`; it must succeed.
pub fn promtool(program: &Path, args: &[&str], input: &str) {
    let mut command = Command::new(program);
    command.args(args).current_dir(packaging());
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("promtool starts");
    let mut stdin = child.stdin.take().expect("its input");
    thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input.as_bytes()).expect("it reads"));
        let output = child.wait_with_output().expect("it ends");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&said));
    });
}
