//! A small cluster in network namespaces: a switch, and hosts with one interface each.
//!
//! All names contain the id of this process. Everything is removed when the value is dropped, also after
//! an error.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// MTU of the cluster's interfaces, as in real training clusters.
const MTU: &str = "9000";

/// A host of the cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host {
    /// Name of the host; also its name in the manifest if it is a member.
    pub(crate) name: &'static str,
    /// Last part of its addresses, `10.77.0.N` and `fd77::N`.
    pub(crate) number: u8,
    /// Whether the manifest lists the host.
    pub(crate) member: bool,
}

impl Host {
    /// Returns the IPv4 address.
    pub(crate) fn ipv4(&self) -> String {
        format!("10.77.0.{}", self.number)
    }

    /// Returns the IPv6 address. The number is written in decimal digits as in IPv4, for readability.
    pub(crate) fn ipv6(&self) -> String {
        format!("fd77::{}", self.number)
    }
}

/// The cluster: its namespaces, directories and daemons.
#[derive(Debug)]
pub(crate) struct Cluster {
    prefix: String,
    directory: TempDir,
    namespaces: Vec<String>,
    bpf_mounted: bool,
    children: Vec<Child>,
}

impl Cluster {
    /// Builds a switch and these hosts, connected and with addresses.
    pub(crate) fn build(hosts: &[Host]) -> Result<Self> {
        let mut cluster = Self {
            prefix: format!("tgdemo{}", std::process::id()),
            directory: tempfile::Builder::new().prefix("trainguard-demo-").tempdir()?,
            namespaces: Vec::new(),
            bpf_mounted: false,
            children: Vec::new(),
        };
        cluster.mount_bpf()?;
        let switch = cluster.add_namespace("switch")?;
        ip(&["-n", &switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"])?;
        ip(&["-n", &switch, "link", "set", "br0", "mtu", MTU, "up"])?;
        for host in hosts {
            cluster.add_host(&switch, host)?;
        }
        Ok(cluster)
    }

    fn mount_bpf(&mut self) -> Result<()> {
        let at = self.path("bpf");
        fs::create_dir(&at)?;
        run(Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&at)).context(
            "mounting a bpf file system needs CAP_SYS_ADMIN, which a container may lack",
        )?;
        self.bpf_mounted = true;
        Ok(())
    }

    fn add_namespace(&mut self, name: &str) -> Result<String> {
        let namespace = self.namespace(name);
        ip(&["netns", "add", &namespace])?;
        self.namespaces.push(namespace.clone());
        // No duplicate address detection: the addresses are unique, and it takes a second for each.
        for which in ["all", "default"] {
            let set = format!("echo 0 > /proc/sys/net/ipv6/conf/{which}/accept_dad");
            run(Command::new("ip").args(["netns", "exec", &namespace, "sh", "-c", &set]))?;
        }
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    fn add_host(&mut self, switch: &str, host: &Host) -> Result<()> {
        let namespace = self.add_namespace(host.name)?;
        let port = format!("p{}", host.number);
        let peer = ["peer", "name", "eth0", "netns", &namespace, "mtu", MTU];
        let mut add = vec!["-n", switch, "link", "add", &port, "mtu", MTU, "type", "veth"];
        add.extend(peer);
        ip(&add)?;
        ip(&["-n", switch, "link", "set", &port, "master", "br0", "up"])?;
        for address in [format!("{}/24", host.ipv4()), format!("{}/64", host.ipv6())] {
            ip(&["-n", &namespace, "addr", "add", &address, "dev", "eth0"])?;
        }
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])
    }

    /// Returns the name of a host's namespace.
    pub(crate) fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Returns a path in the demo's own directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the directory of the sockets of a host's daemon.
    pub(crate) fn run_dir(&self, host: &str) -> PathBuf {
        self.path(&format!("run-{host}"))
    }

    /// Returns a command that runs in the namespace of a host.
    pub(crate) fn command(&self, host: &str, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(host)]).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Starts a process that runs until the cluster is dropped.
    pub(crate) fn start(&mut self, command: &mut Command) -> Result<()> {
        let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        self.children.push(child);
        Ok(())
    }

    /// Starts the daemon of a host.
    pub(crate) fn start_daemon(
        &mut self,
        host: &Host,
        binary: &Path,
        manifest: &Path,
    ) -> Result<()> {
        let log = fs::File::create(self.path(&format!("{}.log", host.name)))?;
        let mut command = self.command(host.name, binary);
        command.arg("daemon").arg("--manifest").arg(manifest).args(["--node", host.name]);
        command.arg("--run-dir").arg(self.run_dir(host.name));
        command.arg("--state-dir").arg(self.path(&format!("state-{}", host.name)));
        command.arg("--bpf-dir").arg(self.path("bpf").join(host.name));
        command.stdout(Stdio::null()).stderr(log);
        self.start(&mut command)
    }

    /// Returns the log of a host's daemon so far.
    pub(crate) fn log(&self, host: &str) -> String {
        fs::read_to_string(self.path(&format!("{host}.log"))).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in &mut self.children {
            // An error means that the process has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        for namespace in self.namespaces.iter().rev() {
            let _ = ip(&["netns", "del", namespace]);
        }
        if self.bpf_mounted {
            let _ = run(Command::new("umount").arg("-l").arg(self.path("bpf")));
        }
    }
}

fn ip(args: &[&str]) -> Result<()> {
    run(Command::new("ip").args(args))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed: {}", said.trim());
    }
    Ok(())
}
