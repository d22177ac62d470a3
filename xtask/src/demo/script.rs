//! The steps of the demo in order, each with its expected result.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Error, Result, bail};
use serde_json::Value;

use super::{
    Interrupt,
    cluster::{Cluster, Host},
    picture,
    traffic::Outcome,
};
use crate::sh;

/// The hosts. The numbers are the last parts of their addresses.
const HOSTS: [Host; 7] = [
    Host { name: "scheduler", number: 10, member: true },
    Host { name: "server-0", number: 20, member: true },
    Host { name: "server-1", number: 21, member: true },
    Host { name: "worker-0", number: 30, member: true },
    Host { name: "worker-1", number: 31, member: true },
    Host { name: "outsider", number: 99, member: false },
    Host { name: "flooder", number: 66, member: false },
];
const MANIFEST: &str = include_str!("cluster.yaml");
/// The demo uses the policy that is shipped.
const POLICY: &str = "policies/mxnet.yaml";

const SCHEDULER_PORT: u16 = 9091;
/// Pinned port of servers and workers.
const PS_PORT: u16 = 9200;
/// Port of a process whose pinned port was taken.
const RANDOM_PORT: u16 = 34567;
/// A port that the policy does not guard.
const SSH_PORT: u16 = 22;

/// How many times longer the flood is for a picture.
const PICTURE_FACTOR: u32 = 8;
/// Number of SYN segments in the flood.
const FLOOD: u32 = 50_000;
/// Number of connections that the hoarding worker tries to open.
const HOARD: u64 = 1500;
/// New connections that the policy allows the worker at once, and per second; see `POLICY`.
const BURST: u64 = 1000;
const RATE: u64 = 200;

/// Deadline for the daemons to enforce the policy.
const START: Duration = Duration::from_secs(15);
/// Deadline for each step.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there are no results.
pub(super) enum Failure {
    /// This machine cannot run the demo.
    Impossible(Error),
    /// A step failed that should have worked.
    Failed(Error),
}

/// One line of the table of results.
struct Line {
    what: &'static str,
    expected: String,
    seen: String,
    agrees: bool,
}

/// Runs the demo. Returns whether all results were as expected.
pub(super) fn run(
    binary: &Path,
    picture: Option<&Path>,
    interrupt: &Interrupt,
) -> Result<bool, Failure> {
    let start = Instant::now();
    say(
        "building a cluster in network namespaces: scheduler, two servers, two workers, an outsider, a flooder (IPv4, IPv6, MTU 9000)",
    );
    let cluster = Cluster::build(&HOSTS).map_err(Failure::Impossible)?;
    let mut demo = Demo { cluster, binary, picture, interrupt, lines: Vec::new() };
    demo.guard().map_err(|error| demo.classify(error))?;
    demo.play().map_err(Failure::Failed)?;
    let Demo { lines, cluster, .. } = demo;
    drop(cluster);
    let agrees = print(&lines);
    println!(
        "\n{} after {:.0} s",
        if agrees { "all as expected" } else { "NOT as expected" },
        start.elapsed().as_secs_f32()
    );
    Ok(agrees)
}

struct Demo<'a> {
    cluster: Cluster,
    binary: &'a Path,
    /// File for a picture of the statistics during the flood.
    picture: Option<&'a Path>,
    interrupt: &'a Interrupt,
    lines: Vec<Line>,
}

impl Demo<'_> {
    /// Classifies an error at start. If a daemon lacks a capability, this machine cannot run the demo.
    fn classify(&self, error: Error) -> Failure {
        let lacking = HOSTS.iter().any(|host| self.cluster.log(host.name).contains("CAP_BPF"));
        if lacking { Failure::Impossible(error) } else { Failure::Failed(error) }
    }

    /// Starts a daemon in every member's namespace, and waits until all of them enforce the policy.
    fn guard(&mut self) -> Result<()> {
        let manifest = self.cluster.path("cluster.yaml");
        fs::write(&manifest, MANIFEST)?;
        fs::copy(sh::root().join(POLICY), self.cluster.path("mxnet.yaml"))?;
        say("starting `trainguard daemon` on each of the five members, from one manifest");
        for host in HOSTS.iter().filter(|host| host.member) {
            self.cluster.start_daemon(host, self.binary, &manifest)?;
        }
        let deadline = Instant::now() + START;
        let mut native = 0_u64;
        for host in HOSTS.iter().filter(|host| host.member) {
            let status = self.wait_for(host.name, deadline)?;
            let modes = status.pointer("/interfaces/0/mode").and_then(Value::as_str);
            native += u64::from(modes == Some("native"));
        }
        self.expect("members guarded, in native mode at MTU 9000", 5, native);
        Ok(())
    }

    fn wait_for(&self, host: &str, deadline: Instant) -> Result<Value> {
        loop {
            self.interrupt.check()?;
            if let Ok(status) = self.ask(host, &["status"])
                && status.get("enforcing") == Some(&Value::Bool(true))
            {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "the daemon of {host} does not enforce the policy; its log:\n{}",
                    self.cluster.log(host)
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn play(&mut self) -> Result<()> {
        for host in &HOSTS {
            let ports = match host.name {
                "scheduler" => vec![SCHEDULER_PORT, RANDOM_PORT, SSH_PORT],
                _ => vec![PS_PORT, RANDOM_PORT, SSH_PORT],
            };
            let mut command = self.role(host.name, "listen")?;
            command.args(ports.iter().map(u16::to_string)).stdout(Stdio::null());
            self.cluster.start(&mut command)?;
        }
        self.wait_for_listeners()?;
        self.members_work()?;
        self.outsider_scans()?;
        self.flood()?;
        self.member_hoards()?;
        self.show("server-0", "")
    }

    /// Waits until each listener answers within its own namespace; packets over `lo` are not guarded.
    fn wait_for_listeners(&self) -> Result<()> {
        let deadline = Instant::now() + START;
        for host in &HOSTS {
            let port = if host.name == "scheduler" { SCHEDULER_PORT } else { PS_PORT };
            let to = SocketAddr::new(host.ipv4().parse()?, port);
            loop {
                let mut command = self.role(host.name, "echo")?;
                command.arg(to.to_string()).args(["--bytes", "1"]);
                if self.finish(self.begin(&mut command)?)?.failed == 0 {
                    break;
                }
                if Instant::now() > deadline {
                    bail!("the listener of {} does not answer", host.name);
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    fn members_work(&mut self) -> Result<()> {
        say(
            "the members work: clients connect to scheduler, servers and workers, and echo 100 kB each",
        );
        let members = || HOSTS.iter().filter(|host| host.member);
        let mut running = Vec::new();
        for from in members() {
            let targets = members().filter(|to| to.name != from.name).flat_map(|to| {
                let port = if to.name == "scheduler" { SCHEDULER_PORT } else { PS_PORT };
                [(to, port), (to, RANDOM_PORT)]
            });
            let mut command = self.role(from.name, "echo")?;
            command.args(targets.flat_map(|(to, port)| both(to, port)));
            running.push(self.begin(&mut command)?);
        }
        let mut seen = Outcome::default();
        for child in running {
            let outcome = self.finish(child)?;
            seen.succeeded += outcome.succeeded;
            seen.failed += outcome.failed;
        }
        // 5 members, each to 4 others, on 2 ports, over 2 address families.
        self.expect("successful connections between members", 80, seen.succeeded);

        let mut command = self.role("server-0", "echo")?;
        let outsider = host("outsider")?;
        command.args(both(outsider, RANDOM_PORT));
        let outcome = self.finish(self.begin(&mut command)?)?;
        self.expect("successful connections of a member to the outsider", 2, outcome.succeeded);
        Ok(())
    }

    fn outsider_scans(&mut self) -> Result<()> {
        say("the outsider scans the members: pinned ports, a random port, IPv4 and IPv6");
        let members = || HOSTS.iter().filter(|host| host.member);
        let ports = [SCHEDULER_PORT, PS_PORT, RANDOM_PORT];
        let targets =
            members().flat_map(|to| ports.into_iter().flat_map(move |port| both(to, port)));
        let mut command = self.role("outsider", "scan")?;
        command.args(targets);
        let outcome = self.finish(self.begin(&mut command)?)?;
        self.expect("guarded ports that answer the outsider, of 30", 0, outcome.succeeded);

        let mut command = self.role("outsider", "scan")?;
        command.args(members().flat_map(|to| both(to, SSH_PORT)));
        let outcome = self.finish(self.begin(&mut command)?)?;
        self.expect("ssh ports (not guarded) that answer the outsider", 10, outcome.succeeded);
        Ok(())
    }

    fn flood(&mut self) -> Result<()> {
        say(
            "the flooder sends SYN segments from forged addresses to the scheduler, while a worker keeps connecting",
        );
        let before = self.dropped("scheduler", "not_allowed")?;
        let scheduler = host("scheduler")?;
        let to = SocketAddr::new(scheduler.ipv4().parse()?, SCHEDULER_PORT);
        let mut command = self.role("flooder", "flood")?;
        let count = if self.picture.is_some() { FLOOD * PICTURE_FACTOR } else { FLOOD };
        command.arg(to.to_string()).args(["--count", &count.to_string()]);
        let flood = self.begin(&mut command)?;
        let mut command = self.role("worker-0", "echo")?;
        command.args(both(scheduler, SCHEDULER_PORT)).args(["--times", "20"]);
        let work = self.begin(&mut command)?;
        if let Some(file) = self.picture {
            let run_dir = self.cluster.run_dir("scheduler");
            let [binary, run_dir] = [self.binary, &run_dir].map(Path::to_string_lossy);
            picture::take(&[&binary, "stats", "--run-dir", &run_dir], file)?;
        }
        thread::sleep(Duration::from_secs(1));
        self.show("scheduler", ", during the flood")?;
        let sent = self.finish(flood)?.succeeded;
        let work = self.finish(work)?;
        // The last packets may still be in flight.
        thread::sleep(Duration::from_millis(300));
        let dropped = self.dropped("scheduler", "not_allowed")?.saturating_sub(before);
        self.expect("successful connections of the worker during the flood", 40, work.succeeded);
        // A flood may overrun the queue of the veth pair before the program sees the packets.
        self.lines.push(Line {
            what: "forged segments dropped by the scheduler's guard",
            expected: format!("{} to {sent}", sent / 10 * 9),
            seen: dropped.to_string(),
            agrees: sent > u64::from(FLOOD) / 2 && (sent / 10 * 9..=sent).contains(&dropped),
        });
        Ok(())
    }

    fn member_hoards(&mut self) -> Result<()> {
        say("worker-1, a member, opens as many connections to server-0 as it can");
        let before = self.dropped("server-0", "limit_new_connections")?;
        let server = host("server-0")?;
        let to = SocketAddr::new(server.ipv4().parse()?, PS_PORT);
        let mut command = self.role("worker-1", "hoard")?;
        command.arg(to.to_string()).args(["--count", &HOARD.to_string()]);
        let began = Instant::now();
        let hoard = self.finish(self.begin(&mut command)?)?;
        let seconds = began.elapsed().as_secs() + 1;
        let most = BURST + RATE * seconds;
        self.lines.push(Line {
            what: "successful connections of the hoarding member, of 1500",
            // The member has opened a few connections before.
            expected: format!("{} to {most}", BURST - 50),
            seen: hoard.succeeded.to_string(),
            agrees: (BURST - 50..=most).contains(&hoard.succeeded),
        });
        let refused = self.dropped("server-0", "limit_new_connections")?.saturating_sub(before);
        self.lines.push(Line {
            what: "its segments dropped by server-0's guard: over the limit",
            expected: format!("at least {}", hoard.failed.max(1)),
            seen: refused.to_string(),
            agrees: refused >= hoard.failed.max(1),
        });
        let mut command = self.role("worker-0", "echo")?;
        command.args(both(server, PS_PORT));
        let other = self.finish(self.begin(&mut command)?)?;
        self.expect("successful connections of the other worker meanwhile", 2, other.succeeded);
        Ok(())
    }

    /// Shows a node's statistics as its operator would see them.
    fn show(&self, host: &str, when: &str) -> Result<()> {
        println!("\n$ trainguard stats --once   (on {host}{when})");
        let mut command = Command::new(self.binary);
        command.args(["stats", "--once", "--run-dir"]).arg(self.cluster.run_dir(host));
        for line in sh::read(&mut command)?.lines() {
            println!("    {line}");
        }
        println!();
        Ok(())
    }

    /// Returns the number of packets that a node's guard has dropped for a reason.
    fn dropped(&self, host: &str, reason: &str) -> Result<u64> {
        let stats = self.ask(host, &["stats", "--once"])?;
        let count = stats.pointer(&format!("/reasons/{reason}/dropped")).and_then(Value::as_u64);
        count.with_context(|| format!("no `{reason}` in the statistics of {host}"))
    }

    /// Queries a daemon for JSON.
    fn ask(&self, host: &str, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(self.binary);
        command
            .args(arguments)
            .args(["--format", "json", "--run-dir"])
            .arg(self.cluster.run_dir(host));
        Ok(serde_json::from_str(&sh::read(&mut command)?)?)
    }

    /// Returns a command that plays a role in a host's namespace; this program is the player.
    fn role(&self, host: &str, role: &str) -> Result<Command> {
        let mut command = self.cluster.command(host, &std::env::current_exe()?);
        command.args(["play", role]);
        Ok(command)
    }

    fn begin(&self, command: &mut Command) -> Result<Child> {
        self.interrupt.check()?;
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("starting {command:?}"))
    }

    /// Waits until a role has ended.
    fn finish(&self, mut child: Child) -> Result<Outcome> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        while child.try_wait()?.is_none() {
            let stop = self.interrupt.check().and_then(|()| {
                if Instant::now() > deadline {
                    bail!("a process of the demo did not end within {} s", STEP_TIMEOUT.as_secs());
                }
                Ok(())
            });
            if let Err(error) = stop {
                // An error means that the process has ended already.
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
            thread::sleep(Duration::from_millis(10));
        }
        // Ctrl-C in a terminal also ends the child process. The interrupt is then the reason.
        self.interrupt.check()?;
        let output = child.wait_with_output()?;
        serde_json::from_slice(&output.stdout)
            .context("parsing the output of a process of the demo")
    }

    fn expect(&mut self, what: &'static str, expected: u64, seen: u64) {
        self.lines.push(Line {
            what,
            expected: expected.to_string(),
            seen: seen.to_string(),
            agrees: expected == seen,
        });
    }
}

fn host(name: &str) -> Result<&'static Host> {
    HOSTS.iter().find(|host| host.name == name).with_context(|| format!("no host `{name}`"))
}

/// Returns a port of a host, over IPv4 and IPv6.
fn both(to: &Host, port: u16) -> [String; 2] {
    [format!("{}:{port}", to.ipv4()), format!("[{}]:{port}", to.ipv6())]
}

fn say(what: &str) {
    println!("* {what}");
}

/// Prints the table of results. Returns whether all of them are as expected.
fn print(lines: &[Line]) -> bool {
    println!("{:<62} {:>16} {:>8}", "", "expected", "seen");
    for line in lines {
        let mark = if line.agrees { "ok" } else { "DIFFERS" };
        println!("{:<62} {:>16} {:>8}  {mark}", line.what, line.expected, line.seen);
    }
    !lines.is_empty() && lines.iter().all(|line| line.agrees)
}
